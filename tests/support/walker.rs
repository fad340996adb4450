//! What is on the disk, seen without the code under test: every path below a folder with its kind,
//! mode, size, content and link target, and how two such listings differ.
//!
//! Goes by directory descriptor, so that paths longer than `PATH_MAX` are seen as well.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, readlinkat, statat};

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    /// Fifo, socket or device.
    Special,
}

/// One path. Fields that its kind does not have, or that mean nothing across machines, are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    /// Permission bits; zero for a symlink.
    pub(crate) mode: u32,
    /// Of a file.
    pub(crate) size: u64,
    /// Plain BLAKE3 of a file's bytes; nothing where it may not be read.
    pub(crate) hash: Option<[u8; 32]>,
    pub(crate) target: Option<Vec<u8>>,
}

/// Raw relative paths; the folder itself is the empty one.
pub(crate) type Listing = BTreeMap<Vec<u8>, Node>;

/// Lists everything below `root`.
pub(crate) fn walk(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let top = open_directory(CWD, root.as_os_str().as_encoded_bytes());
    let top = top.unwrap_or_else(|error| panic!("opening {}: {error}", root.display()));
    listing.insert(Vec::new(), Node { mode: mode_of(&top), ..bare(Kind::Directory) });
    let mut folders = vec![Vec::new()];
    while let Some(path) = folders.pop() {
        // From the top each time: a descriptor for each level would be more than a process has.
        let here = open_directory(top.as_fd(), if path.is_empty() { b"." } else { &path });
        // A folder that may not be read is there, and nothing is known below it.
        if let Ok(here) = here {
            list(here.as_fd(), &path, &mut listing, &mut folders);
        }
    }
    listing
}

fn bare(kind: Kind) -> Node {
    Node { kind, mode: 0, size: 0, hash: None, target: None }
}

fn mode_of(fd: &OwnedFd) -> u32 {
    rustix::fs::fstat(fd).unwrap().st_mode & 0o777
}

fn open_directory(at: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty())
}

fn list(
    directory: BorrowedFd<'_>,
    above: &[u8],
    listing: &mut Listing,
    folders: &mut Vec<Vec<u8>>,
) {
    for entry in Dir::read_from(directory).unwrap() {
        let name = entry.unwrap().file_name().to_bytes().to_vec();
        if name == b"." || name == b".." {
            continue;
        }
        let stat = statat(directory, &name[..], AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let mode = stat.st_mode & 0o777;
        let path = if above.is_empty() { name.clone() } else { [above, b"/", &name[..]].concat() };
        let node = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                folders.push(path.clone());
                Node { mode, ..bare(Kind::Directory) }
            }
            FileType::RegularFile => Node {
                mode,
                size: stat.st_size.cast_unsigned(),
                hash: hash_of(directory, &name),
                ..bare(Kind::File)
            },
            FileType::Symlink => {
                let target = readlinkat(directory, &name[..], Vec::new()).unwrap().into_bytes();
                Node { target: Some(target), ..bare(Kind::Symlink) }
            }
            _ => Node { mode, ..bare(Kind::Special) },
        };
        listing.insert(path, node);
    }
}

fn hash_of(directory: BorrowedFd<'_>, name: &[u8]) -> Option<[u8; 32]> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(directory, name, flags, Mode::empty()).ok()?);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return Some(*hasher.finalize().as_bytes()),
            len => drop(hasher.update(&buffer[..len])),
        }
    }
}

/// What differs, a line for each path, for people to read. Paths in `ignore`, and what is below them,
/// do not count.
pub(crate) fn differences(a: &Listing, b: &Listing, ignore: &[&[u8]]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut paths: Vec<_> =
        a.keys().chain(b.keys().filter(|path| !a.contains_key(*path))).collect();
    paths.sort_unstable();
    for path in paths {
        if ignore.iter().any(|ignored| is_below(path, ignored)) {
            continue;
        }
        let what = match (a.get(path), b.get(path)) {
            (Some(node), None) => format!("only in the first ({:?})", node.kind),
            (None, Some(node)) => format!("only in the second ({:?})", node.kind),
            (Some(a), Some(b)) if a != b => changes(a, b).join(", "),
            _ => continue,
        };
        lines.push(format!("{}: {what}", shown(path)));
    }
    lines
}

fn is_below(path: &[u8], ignored: &[u8]) -> bool {
    path.strip_prefix(ignored).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn changes(a: &Node, b: &Node) -> Vec<String> {
    let mut changes = Vec::new();
    if a.kind != b.kind {
        changes.push(format!("{:?} and {:?}", a.kind, b.kind));
    }
    if a.mode != b.mode {
        changes.push(format!("mode {:o} and {:o}", a.mode, b.mode));
    }
    if a.size != b.size {
        changes.push(format!("{} and {} bytes", a.size, b.size));
    } else if a.hash != b.hash {
        changes.push("other content".into());
    }
    if a.target != b.target {
        changes.push("other target".into());
    }
    changes
}

/// A path for people: escaped, and cut in the middle where it is long.
fn shown(path: &[u8]) -> String {
    let text = path.escape_ascii().to_string();
    match (text.get(..60), text.get(text.len().saturating_sub(60)..)) {
        (Some(head), Some(tail)) if text.len() > 160 => {
            format!("{head}…{tail} ({} bytes)", path.len())
        }
        _ if text.is_empty() => "the folder itself".into(),
        _ => text,
    }
}

/// Every file below a folder that has this in it. What goes away meanwhile is passed over.
pub(crate) fn files_with(folder: &Path, what: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = match path.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            found => found.unwrap().file_type(),
        };
        if kind.is_dir() {
            found.extend(files_with(&path, what));
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.windows(what.len()).any(|window| window == what.as_bytes()) {
                found.push(path);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/f"), "hello").unwrap();
        std::fs::write(dir.path().join("e"), "").unwrap();
        symlink("nowhere", dir.path().join("l")).unwrap();
        dir
    }

    #[test]
    fn equal_trees_do_not_differ_and_content_is_hashed() {
        let (a, b) = (tree(), tree());
        let listing = walk(a.path());
        assert!(differences(&listing, &walk(b.path()), &[]).is_empty());
        let paths: Vec<_> = listing.keys().map(|path| String::from_utf8_lossy(path)).collect();
        assert_eq!(paths, ["", "d", "d/f", "e", "l"]);
        let file = &listing[&b"d/f"[..]];
        assert_eq!((file.kind, file.size), (Kind::File, 5));
        assert_eq!(file.hash, Some(*blake3::hash(b"hello").as_bytes()));
        assert_eq!(listing[&b"l"[..]].target.as_deref(), Some(&b"nowhere"[..]));
    }

    #[test]
    fn every_kind_of_difference_is_seen() {
        type Change = fn(&Path);
        let changes: [(Change, &str); 9] = [
            (|root| std::fs::write(root.join("d/f"), "hallo").unwrap(), "d/f: other content"),
            (|root| std::fs::write(root.join("e"), "x").unwrap(), "e: 0 and 1 bytes"),
            (
                |root| std::fs::write(root.join("new"), "").unwrap(),
                "new: only in the second (File)",
            ),
            (|root| std::fs::remove_file(root.join("e")).unwrap(), "e: only in the first (File)"),
            (
                |root| {
                    let mode = std::fs::Permissions::from_mode(0o600);
                    std::fs::set_permissions(root.join("d/f"), mode).unwrap();
                },
                "d/f: mode 644 and 600",
            ),
            (
                |root| {
                    let mode = std::fs::Permissions::from_mode(0o700);
                    std::fs::set_permissions(root, mode).unwrap();
                },
                "the folder itself: mode 755 and 700",
            ),
            (
                |root| {
                    std::fs::remove_file(root.join("l")).unwrap();
                    symlink("elsewhere", root.join("l")).unwrap();
                },
                "l: other target",
            ),
            (
                |root| {
                    std::fs::remove_file(root.join("l")).unwrap();
                    std::fs::create_dir(root.join("l")).unwrap();
                },
                "l: Symlink and Directory, mode 0 and 755, other target",
            ),
            (
                |root| {
                    let flags = (FileType::Fifo, Mode::from_raw_mode(0o644));
                    rustix::fs::mknodat(CWD, root.join("p"), flags.0, flags.1, 0).unwrap();
                },
                "p: only in the second (Special)",
            ),
        ];
        for (change, expected) in changes {
            let (a, b) = (tree(), tree());
            for dir in [&a, &b] {
                let mode = std::fs::Permissions::from_mode(0o755);
                std::fs::set_permissions(dir.path(), mode.clone()).unwrap();
                std::fs::set_permissions(dir.path().join("d"), mode).unwrap();
                let mode = std::fs::Permissions::from_mode(0o644);
                std::fs::set_permissions(dir.path().join("d/f"), mode).unwrap();
            }
            change(b.path());
            let found = differences(&walk(a.path()), &walk(b.path()), &[]);
            assert_eq!(found, [expected]);
        }
    }

    #[test]
    fn what_is_ignored_is_ignored_with_what_is_below() {
        let (a, b) = (tree(), tree());
        std::fs::write(b.path().join("d/f"), "other").unwrap();
        std::fs::write(b.path().join("dd"), "not below d").unwrap();
        let found = differences(&walk(a.path()), &walk(b.path()), &[b"d"]);
        assert_eq!(found, ["dd: only in the second (File)"]);
    }
}
