//! Seals against scans of everything: whatever happened in a tree, both find the same.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::dirty::{Depth, Dirty};
use super::*;
use crate::objects::memory::MemoryObjects;

/// Something that happens, with the numbers of names.
#[derive(Clone, Debug)]
enum Happening {
    Write(u8, u8),
    Remove(u8, u8),
    Mode(u8, u8, u16),
    MakeDirectory(u8, u8),
    RenameDirectory(u8, u8),
    RemoveDirectory(u8),
    Symlink(u8, u8),
    Link(u8, u8, u8, u8),
    Fifo(u8, u8),
    Ignore(u8, u8),
    Many(u8),
    /// A file of the index of the repository comes or goes.
    Track(u8, u8),
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        6 => (0u8..8, 0u8..6).prop_map(|(d, n)| Write(d, n)),
        2 => (0u8..8, 0u8..6).prop_map(|(d, n)| Remove(d, n)),
        1 => (0u8..8, 0u8..6, 0u16..0o1000).prop_map(|(d, n, m)| Mode(d, n, m | 0o400)),
        3 => (0u8..8, 0u8..6).prop_map(|(d, n)| MakeDirectory(d, n)),
        2 => (0u8..8, 0u8..8).prop_map(|(a, b)| RenameDirectory(a, b)),
        1 => (0u8..8).prop_map(RemoveDirectory),
        1 => (0u8..8, 0u8..6).prop_map(|(d, n)| Symlink(d, n)),
        2 => (0u8..8, 0u8..6, 0u8..8, 0u8..6).prop_map(|(a, b, c, d)| Link(a, b, c, d)),
        1 => (0u8..8, 0u8..6).prop_map(|(d, n)| Fifo(d, n)),
        2 => (0u8..8, 0u8..6).prop_map(|(d, n)| Ignore(d, n)),
        1 => (0u8..8).prop_map(Many),
        1 => (0u8..8, 0u8..6).prop_map(|(d, n)| Track(d, n)),
    ]
}

struct Place {
    folder: tempfile::TempDir,
    dirty: Dirty,
    count: u32,
    /// List directories instead of naming what happened.
    coarse: bool,
}

impl Place {
    fn root(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    /// An existing directory, relative to the root; the same number may mean another one later.
    fn directory(&self, number: u8) -> PathBuf {
        let mut found = vec![PathBuf::new()];
        let mut at = 0;
        while let Some(directory) = found.get(at).cloned() {
            let mut names: Vec<_> = std::fs::read_dir(self.root().join(&directory))
                .unwrap()
                .map(Result::unwrap)
                .filter(|entry| entry.file_type().unwrap().is_dir() && entry.file_name() != ".git")
                .map(|entry| directory.join(entry.file_name()))
                .collect();
            names.sort();
            found.extend(names);
            at += 1;
        }
        found[usize::from(number) % found.len()].clone()
    }

    fn mark(&mut self, path: &Path, depth: Depth) {
        let directory = path.parent().unwrap().as_os_str().as_bytes().to_vec();
        let name = path.file_name().unwrap().as_bytes();
        if self.coarse && depth == Depth::Look {
            return self.dirty.list(&directory);
        }
        self.dirty.name(&directory, name, depth);
    }

    fn apply(&mut self, happening: &Happening) {
        use Happening::*;
        self.count += 1;
        let root = self.root();
        let name = |number: u8| {
            ["a", "b.log", "c", ".env", "d", "sub"][usize::from(number) % 6].to_owned()
        };
        match *happening {
            Write(d, n) => {
                let path = self.directory(d).join(name(n));
                let there = root.join(&path).symlink_metadata();
                if there.is_ok_and(|found| !found.is_file()) {
                    // What a link leads to has no mark, and a fifo never opens.
                    return;
                }
                let bytes = format!("{} {}", path.display(), self.count);
                #[expect(clippy::disallowed_methods, reason = "as an editor would")]
                let written = std::fs::write(root.join(&path), bytes);
                if written.is_ok() {
                    self.mark(&path, Depth::Read);
                }
            }
            Remove(d, n) => {
                let path = self.directory(d).join(name(n));
                if crate::fs::remove_file(&root.join(&path)).is_ok() {
                    self.mark(&path, Depth::Look);
                }
            }
            Mode(d, n, mode) => {
                let path = self.directory(d).join(name(n));
                let at = root.join(&path);
                // Not through a link, whose target has no mark.
                if at.symlink_metadata().is_ok_and(|found| found.is_file()) {
                    std::fs::set_permissions(at, std::fs::Permissions::from_mode(mode.into()))
                        .unwrap();
                    self.mark(&path, Depth::Look);
                }
            }
            MakeDirectory(d, n) => {
                let path = self.directory(d).join(format!("d{n}"));
                if std::fs::create_dir(root.join(&path)).is_ok() {
                    drop(std::fs::File::create_new(root.join(&path).join("inside")));
                    self.mark(&path, Depth::Walk);
                }
            }
            RenameDirectory(a, b) => {
                let from = self.directory(a);
                let to = self.directory(b).join(format!("r{}", self.count));
                if from.as_os_str().is_empty() || to.starts_with(&from) {
                    return;
                }
                crate::fs::rename(&root.join(&from), &root.join(&to)).unwrap();
                self.dirty.moved(from.as_os_str().as_bytes(), to.as_os_str().as_bytes());
                self.mark(&from, Depth::Look);
                self.mark(&to, Depth::Walk);
            }
            RemoveDirectory(d) => {
                let path = self.directory(d);
                if !path.as_os_str().is_empty() {
                    crate::fs::remove_dir_all(&root.join(&path)).unwrap();
                    self.mark(&path, Depth::Look);
                }
            }
            Symlink(d, n) => {
                let path = self.directory(d).join(name(n));
                let target = format!("to {}", self.count);
                if std::os::unix::fs::symlink(target, root.join(&path)).is_ok() {
                    self.mark(&path, Depth::Look);
                }
            }
            Link(a, b, c, d) => {
                let from = self.directory(a).join(name(b));
                let to = self.directory(c).join(name(d));
                if std::fs::hard_link(root.join(&from), root.join(&to)).is_ok() {
                    self.mark(&to, Depth::Look);
                }
            }
            Fifo(d, n) => {
                let path = self.directory(d).join(name(n));
                let at = root.join(&path);
                let made = rustix::fs::mknodat(
                    rustix::fs::CWD,
                    at,
                    rustix::fs::FileType::Fifo,
                    rustix::fs::Mode::RWXU,
                    0,
                );
                if made.is_ok() {
                    self.mark(&path, Depth::Look);
                }
            }
            Ignore(d, n) => {
                let path = self.directory(d).join(".gitignore");
                let lines = [".env\n", "*.log\n!b.log\n", "d1/\n", "", "sub\n/c\n", "r*/\n"];
                #[expect(clippy::disallowed_methods, reason = "as an editor would")]
                std::fs::write(root.join(&path), lines[usize::from(n) % lines.len()]).unwrap();
                self.mark(&path, Depth::Read);
            }
            Many(d) => {
                let directory = self.directory(d);
                for i in 0..400 {
                    let path = directory.join(format!("many{i}"));
                    drop(std::fs::File::create_new(root.join(&path)));
                    self.mark(&path, Depth::Look);
                }
            }
            Track(d, n) => {
                let path = self.directory(d).join(name(n));
                git(&root, &["add", "-f", "--", path.to_str().unwrap()]);
            }
        }
    }
}

fn git(root: &Path, args: &[&str]) {
    let done = std::process::Command::new("git")
        .args(["-c", "core.fsync=none", "-C"])
        .arg(root)
        .args(args)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .stderr(std::process::Stdio::null())
        .status();
    drop(done);
}

fn options() -> ScanOptions {
    // Nothing is ever at rest but what was there long before: as strict as a slow clock.
    ScanOptions { started_at_ns: 0, ..ScanOptions::default() }
}

fn check(happenings: &[Vec<Happening>], with_git: bool, coarse: bool) {
    let folder = tempfile::tempdir().unwrap();
    let mut place = Place { folder, dirty: Dirty::default(), count: 0, coarse };
    let root = place.root();
    for directory in ["one/two/three", "four"] {
        crate::fs::create_dir_all(&root.join(directory)).unwrap();
    }
    if with_git {
        git(&root, &["init", "-q"]);
    }
    let (objects, cache, progress) =
        (MemoryObjects::default(), StatCache::default(), Progress::default());
    let mut sealed = scan(&root, &cache, &objects, &options(), &progress).unwrap();
    cache.end_scan();
    for group in happenings {
        for happening in group {
            place.apply(happening);
        }
        let dirty = std::mem::take(&mut place.dirty);
        sealed = seal(&root, sealed, &dirty, &cache, &objects, &options(), &progress).unwrap();
        cache.end_scan();
        let fresh = MemoryObjects::default();
        let wanted = scan(&root, &StatCache::default(), &fresh, &options(), &progress).unwrap();
        assert_eq!(
            crate::diff::diff(&both(&objects, &fresh), wanted.root, sealed.root).unwrap(),
            [],
            "after {group:?}, marked as {dirty:?}"
        );
        assert_eq!((sealed.root, sealed.sums), (wanted.root, wanted.sums));
        assert_eq!(sealed.omitted, wanted.omitted, "after {group:?}");
    }
}

fn both(a: &MemoryObjects, b: &MemoryObjects) -> MemoryObjects {
    let mut all = a.0.lock().unwrap().clone();
    all.extend(b.0.lock().unwrap().clone());
    MemoryObjects(all.into())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10) })]

    #[test]
    fn a_seal_finds_what_a_scan_of_everything_finds(
        happenings in prop::collection::vec(prop::collection::vec(happening(), 1..6), 1..12),
        coarse in any::<bool>(),
    ) {
        check(&happenings, false, coarse);
    }

    #[test]
    fn a_seal_follows_the_rules_of_git_as_a_scan_does(
        happenings in prop::collection::vec(prop::collection::vec(happening(), 1..4), 1..8),
        coarse in any::<bool>(),
    ) {
        check(&happenings, true, coarse);
    }
}

#[test]
fn a_seal_looks_at_what_is_dirty_and_at_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut place = Place { folder, dirty: Dirty::default(), count: 0, coarse: false };
    let root = place.root();
    for i in 0..40 {
        let directory = root.join(format!("d{i}"));
        crate::fs::create_dir_all(&directory).unwrap();
        for name in 0..20 {
            drop(crate::fs::create_new(&directory.join(format!("f{name}"))).unwrap());
        }
    }
    let (objects, cache, progress) =
        (MemoryObjects::default(), StatCache::default(), Progress::default());
    let sealed = scan(&root, &cache, &objects, &options(), &progress).unwrap();
    cache.end_scan();
    assert_eq!(sealed.hashed_files, 800);
    place.apply(&Happening::Write(3, 0));
    let before = progress.files();
    let dirty = std::mem::take(&mut place.dirty);
    let sealed = seal(&root, sealed, &dirty, &cache, &objects, &options(), &progress).unwrap();
    assert_eq!((sealed.hashed_files, progress.files() - before), (1, 1));
    assert!(sealed.directories.is_empty());
    // A change that nobody told of is not seen: nothing else is looked at.
    place.apply(&Happening::Write(4, 0));
    place.apply(&Happening::Write(5, 2));
    let mut dirty = Dirty::default();
    dirty.name(b"d3", b"c", Depth::Read);
    let sums = sealed.sums.files;
    let sealed = seal(&root, sealed, &dirty, &cache, &objects, &options(), &progress).unwrap();
    assert!(sealed.sums.files <= sums + 1);
}
