//! A tree with everything that a working tree can hold and a careless tool loses: names, depths,
//! widths, sizes, modes, links and things that are no files at all.
//!
//! The same seed makes the same tree. Nothing in it looks like a secret or like git's.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, chmodat, fchmod, linkat, mkdirat, mknodat, openat,
    statat, symlinkat, unlinkat,
};

use super::rng::Rng;

/// Longest relative path that a snapshot carries: `PATH_MAX` without its NUL.
const LONGEST_PATH: usize = 4095;

/// What to build.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Also files up to 64 MiB, and 1 GB instead of 8 MiB for the sparse one.
    pub(crate) big: bool,
    /// Files in the wide directory.
    pub(crate) wide: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { big: false, wide: 10_000 }
    }
}

/// A path that a snapshot leaves out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Omitted {
    pub(crate) path: Vec<u8>,
    /// The word of the report.
    pub(crate) reason: &'static str,
}

/// Builds the tree in the empty folder `root`; returns what a snapshot of it leaves out, by path.
pub(crate) fn build(root: &Path, seed: u64, options: Options) -> Vec<Omitted> {
    let mut builder = Builder { rng: Rng::new(seed), omitted: Vec::new() };
    let root = directory(CWD, root.as_os_str().as_encoded_bytes());
    builder.names(&sub(&root, b"names"));
    builder.deep(&sub(&root, b"deep"));
    builder.wide(&sub(&root, b"wide"), options);
    builder.sizes(&sub(&root, b"sizes"), options);
    builder.modes(&sub(&root, b"modes"));
    builder.links(&sub(&root, b"links"));
    builder.specials(&sub(&root, b"specials"));
    sub(&sub(&sub(&root, b"empty"), b"in"), b"empty");
    builder.omitted.sort();
    builder.omitted
}

struct Builder {
    rng: Rng,
    omitted: Vec<Omitted>,
}

/// Opens a folder that is there.
fn directory(at: BorrowedFd<'_>, name: &[u8]) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty()).unwrap()
}

/// Makes a folder and opens it.
fn sub(at: &OwnedFd, name: &[u8]) -> OwnedFd {
    mkdirat(at, name, Mode::from_raw_mode(0o755)).unwrap();
    let made = directory(at.as_fd(), name);
    fchmod(&made, Mode::from_raw_mode(0o755)).unwrap();
    made
}

/// Makes a file with exactly this mode, whatever the umask.
fn file(at: &OwnedFd, name: &[u8], mode: u32, bytes: &[u8]) -> File {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(openat(at, name, flags, Mode::from_raw_mode(0o600)).unwrap());
    file.write_all(bytes).unwrap();
    fchmod(&file, Mode::from_raw_mode(mode)).unwrap();
    file
}

impl Builder {
    fn omit(&mut self, path: &str, reason: &'static str) {
        self.omitted.push(Omitted { path: path.into(), reason });
    }

    /// A short text of its own.
    fn text(&mut self) -> Vec<u8> {
        format!("{:016x}\n", self.rng.next()).into_bytes()
    }

    fn names(&mut self, at: &OwnedFd) {
        let longest = [b'n'; 255];
        let longest_not_text = [0xfe; 255];
        let every_byte: Vec<u8> = (1..=255).filter(|&byte| byte != b'/').collect();
        let names: [&[u8]; 34] = [
            b"plain",
            b"\xff\xfe-not-utf8",
            b"cut\xc3",
            "é-composed".as_bytes(),
            "e\u{301}-decomposed".as_bytes(),
            "\u{202e}right-to-left".as_bytes(),
            "\u{200b}".as_bytes(),
            "🦀".as_bytes(),
            b"new\nline",
            b"\n",
            b"carriage\rreturn",
            b"tab\t",
            b"\x1b[31mred",
            b"-rf",
            b"--",
            b"-",
            b" leading and trailing ",
            b" ",
            b"...",
            b"..two-dots",
            b"trailing.",
            b".hidden",
            b"quote\"'`",
            b"$(echo)&;|<>*?[a]{b}!#~%",
            b"back\\slash",
            b"co:lon",
            b"case",
            b"CASE",
            b"CON",
            b"nul.txt",
            b"a,b=c",
            &longest,
            &longest_not_text,
            &every_byte,
        ];
        for name in names {
            let text = self.text();
            file(at, name, 0o644, &text);
        }
        // Folders with such names, too.
        for name in [&b"dir\xff"[..], b"-d", b"dir\nline"] {
            let text = self.text();
            file(&sub(at, name), name, 0o644, &text);
        }
    }

    /// Down to paths of exactly [`LONGEST_PATH`] bytes, of a file and of a folder, and a thousand
    /// folders of one letter each.
    fn deep(&mut self, at: &OwnedFd) {
        let mut used = "deep".len();
        let mut inner = directory(at.as_fd(), b".");
        // What is left takes one more name.
        while LONGEST_PATH - used > 1 + 255 {
            let len = (LONGEST_PATH - used - 2 - 1).min(255);
            inner = sub(&inner, &vec![b'd'; len]);
            used += 1 + len;
        }
        let last = LONGEST_PATH - used - 1;
        let text = self.text();
        file(&inner, &vec![b'f'; last], 0o644, &text);
        sub(&inner, &vec![b'e'; last]);

        let mut inner = sub(at, b"x");
        for _ in 0..1000 {
            inner = sub(&inner, b"y");
        }
        let text = self.text();
        file(&inner, b"bottom", 0o644, &text);
    }

    fn wide(&mut self, at: &OwnedFd, options: Options) {
        for i in 0..options.wide {
            // Every tenth has the content of another one.
            let bytes = if i % 10 == 0 { b"the same\n".to_vec() } else { self.text() };
            file(at, format!("file-{i:05}.txt").as_bytes(), 0o644, &bytes);
        }
    }

    /// Around every size at which something changes.
    fn sizes(&mut self, at: &OwnedFd, options: Options) {
        const K: usize = 1024;
        let mut sizes = vec![0, 1, 2, 512 * K, K * K, K * K + 1, 4 * K * K - 1];
        for edge in [4 * K, 16 * K, 64 * K, 256 * K, 512 * K] {
            sizes.extend([edge - 1, edge, edge + 1]);
        }
        if options.big {
            sizes.extend([16 * K * K + 7, 64 * K * K]);
        }
        sizes.sort_unstable();
        sizes.dedup();
        for size in sizes {
            let bytes = self.rng.bytes(size);
            file(at, format!("noise-{size}").as_bytes(), 0o644, &bytes);
            if (1..=K * K).contains(&size) {
                file(at, format!("zeros-{size}").as_bytes(), 0o644, &vec![0; size]);
            }
        }
        let text = b"a line that comes again and again\n".repeat(40_000);
        file(at, b"repeated", 0o644, &text);

        // Data at the start and in the middle, a hole at the end.
        let len: u64 = if options.big { 1_000_000_000 } else { 8 << 20 };
        let mut sparse = file(at, b"sparse", 0o644, b"start");
        sparse.seek(SeekFrom::Start(len / 2)).unwrap();
        sparse.write_all(b"middle").unwrap();
        sparse.set_len(len).unwrap();
    }

    fn modes(&mut self, at: &OwnedFd) {
        for mode in [0o600, 0o400, 0o444, 0o640, 0o644, 0o664, 0o666, 0o700, 0o755, 0o777, 0o111] {
            let text = self.text();
            file(at, format!("file-{mode:03o}").as_bytes(), mode, &text);
            // 0o111 cannot be read by its owner.
            if mode & 0o400 == 0 && !reads_everything(at, b"file-111") {
                self.omit("modes/file-111", "unreadable");
            }
        }
        file(at, b"file-000", 0o000, b"nobody reads this\n");
        if !reads_everything(at, b"file-000") {
            self.omit("modes/file-000", "unreadable");
        }
        for mode in [0o700, 0o755, 0o777, 0o555, 0o500] {
            let made = sub(at, format!("dir-{mode:03o}").as_bytes());
            let text = self.text();
            file(&made, b"inside", 0o444, &text);
            sub(&made, b"inner");
            fchmod(&made, Mode::from_raw_mode(mode)).unwrap();
        }
        let made = sub(at, b"dir-000");
        file(&made, b"inside", 0o644, b"behind a closed door\n");
        fchmod(&made, Mode::empty()).unwrap();
        if !reads_everything(at, b"dir-000") {
            self.omit("modes/dir-000", "unreadable");
        }
    }

    fn links(&mut self, at: &OwnedFd) {
        sub(at, b"folder");
        let text = self.text();
        file(at, b"target", 0o644, &text);
        let targets: [(&[u8], &[u8]); 13] = [
            (b"target", b"to-file"),
            (b"folder", b"to-folder"),
            (b"folder/", b"to-folder-with-slash"),
            (b"nowhere", b"dangling"),
            (b"/etc/hostname", b"absolute"),
            (b"/nowhere/at/all", b"absolute-dangling"),
            (b"../../../../../../../etc", b"out-of-the-tree"),
            (b".", b"to-itself"),
            (b"..", b"to-its-parent"),
            (b"cycle-b", b"cycle-a"),
            (b"cycle-a", b"cycle-b"),
            (b"loop", b"loop"),
            (b"not\xffutf8\n", b"to-not-utf8"),
        ];
        for (target, name) in targets {
            symlinkat(target, at, name).unwrap();
        }
        // The longest target; some file systems take 1,023 bytes at most.
        let long = vec![b't'; 4095];
        if symlinkat(&long[..], at, &b"to-far-away"[..]).is_err() {
            symlinkat(&long[..1000], at, &b"to-far-away"[..]).unwrap();
        }
        let text = self.text();
        file(at, b"hard-1", 0o644, &text);
        linkat(at, c"hard-1", at, c"hard-2", AtFlags::empty()).unwrap();
        linkat(at, c"hard-1", at, c"folder/hard-3", AtFlags::empty()).unwrap();
    }

    fn specials(&mut self, at: &OwnedFd) {
        let mode = Mode::from_raw_mode(0o644);
        // A socket by `mknod`: binding one would need a path of at most 107 bytes.
        mknodat(at, c"fifo", FileType::Fifo, mode, 0).unwrap();
        mknodat(at, c"socket", FileType::Socket, mode, 0).unwrap();
        self.omit("specials/fifo", "special");
        self.omit("specials/socket", "special");
        let text = self.text();
        file(at, b"beside", 0o644, &text);
    }
}

/// Whether this user reads what the mode forbids, as root does.
fn reads_everything(at: &OwnedFd, name: &[u8]) -> bool {
    openat(at, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).is_ok()
}

/// Empties a folder whatever the modes and depths in it, one descriptor at a time.
pub(crate) fn clear(root: &Path) {
    let root = directory(CWD, root.as_os_str().as_encoded_bytes());
    let mut folders = vec![Vec::new()];
    let mut at = 0;
    while let Some(path) = folders.get(at).cloned() {
        at += 1;
        let inner = directory(root.as_fd(), if path.is_empty() { b"." } else { &path });
        let names: Vec<_> = Dir::read_from(&inner)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_bytes().to_vec())
            .filter(|name| name != b"." && name != b"..")
            .collect();
        for name in names {
            let stat = statat(&inner, &name[..], AtFlags::SYMLINK_NOFOLLOW).unwrap();
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let all = Mode::from_raw_mode(0o700);
                chmodat(&inner, &name[..], all, AtFlags::empty()).unwrap();
                let above = if path.is_empty() { Vec::new() } else { [&path[..], b"/"].concat() };
                folders.push([above, name].concat());
            } else {
                unlinkat(&inner, &name[..], AtFlags::empty()).unwrap();
            }
        }
    }
    for path in folders.iter().skip(1).rev() {
        unlinkat(&root, &path[..], AtFlags::REMOVEDIR).unwrap();
    }
}

/// A folder for awkward trees that can be removed whatever their modes.
#[derive(Debug)]
pub(crate) struct AwkwardDir(Option<tempfile::TempDir>);

impl AwkwardDir {
    pub(crate) fn new() -> Self {
        Self(Some(tempfile::Builder::new().prefix("baton-").tempdir().unwrap()))
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.as_ref().map(|dir| dir.path().to_owned()).unwrap_or_default()
    }
}

impl Drop for AwkwardDir {
    fn drop(&mut self) {
        if let Some(dir) = self.0.take() {
            clear(dir.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::MetadataExt;

    use super::super::walker::{Kind, differences, walk};
    use super::*;

    #[test]
    fn the_seed_decides_and_everything_promised_is_there() {
        let (a, b, c) = (AwkwardDir::new(), AwkwardDir::new(), AwkwardDir::new());
        let options = Options { wide: 300, ..Options::default() };
        let omitted = build(&a.path(), 1, options);
        assert_eq!(build(&b.path(), 1, options), omitted);
        build(&c.path(), 2, options);
        let listing = walk(&a.path());
        assert_eq!(differences(&listing, &walk(&b.path()), &[]), [""; 0]);
        assert!(differences(&listing, &walk(&c.path()), &[]).len() > 250);

        for one in &omitted {
            assert!(listing.contains_key(&one.path), "{one:?}");
        }
        let special: BTreeSet<_> = listing
            .iter()
            .filter(|(_, node)| node.kind == Kind::Special)
            .map(|(path, _)| path.clone())
            .collect();
        let of = |reason| -> BTreeSet<_> {
            omitted.iter().filter(|one| one.reason == reason).map(|one| one.path.clone()).collect()
        };
        assert_eq!(special, of("special"));
        // What this user cannot read is what is expected to be left out as such.
        let unreadable: BTreeSet<_> = listing
            .iter()
            .filter(|(_, node)| node.kind == Kind::File && node.hash.is_none())
            .map(|(path, _)| path.clone())
            .collect();
        let files = |path: &Vec<u8>| listing[path].kind == Kind::File;
        assert_eq!(unreadable, of("unreadable").into_iter().filter(files).collect());

        let longest = listing.keys().map(Vec::len).max();
        assert_eq!(longest, Some(LONGEST_PATH));
        let at_the_end = listing
            .iter()
            .filter(|(path, _)| path.len() == LONGEST_PATH)
            .map(|(_, node)| node.kind);
        let both: Vec<_> = at_the_end.collect();
        assert!(both.contains(&Kind::File) && both.contains(&Kind::Directory), "{both:?}");
        let names = listing.keys().filter_map(|path| path.split(|&byte| byte == b'/').next_back());
        let names: BTreeSet<_> = names.collect();
        assert!(names.iter().any(|name| name.len() == 255));
        assert!(names.iter().any(|name| std::str::from_utf8(name).is_err()));
        assert!(names.iter().any(|name| name.contains(&b'\n')));
        assert!(names.iter().any(|name| name.starts_with(b"-")));
        let in_wide = listing.keys().filter(|path| path.starts_with(b"wide/")).count();
        assert_eq!(in_wide, options.wide);

        let link = std::fs::metadata(a.path().join("links/hard-1")).unwrap();
        assert_eq!(link.nlink(), 3);
        let sparse = std::fs::metadata(a.path().join("sizes/sparse")).unwrap();
        assert!(sparse.blocks() * 512 < sparse.len() / 2, "{} blocks", sparse.blocks());

        // It can be removed, whatever is locked in it.
        let path = a.path();
        drop(a);
        assert!(!path.exists());
    }
}
