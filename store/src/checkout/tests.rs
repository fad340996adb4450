//! Restores of awkward, hostile and interrupted trees.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use baton_protocol::id::{ChunkId, ManifestId, ObjectKind, VaultId};
use baton_protocol::object::{Blob, Content, Entry, EntryKind, Tree, TreeSums};
use rustix::fs::{CWD, FileType, OFlags};

use super::*;
use crate::objects::ObjectSink;
use crate::objects::memory::MemoryObjects;
use crate::scan::directory::{list, open_in};
use crate::scan::{ScanOptions, Scanned, scan};
use crate::stat_cache::StatCache;

fn scan_tree<S: ObjectSink + ObjectSource>(root: &Path, objects: &S) -> Scanned {
    let options = ScanOptions::default();
    scan(root, &StatCache::default(), objects, &options, &Progress::default()).unwrap()
}

fn restore_tree<S: ObjectSource>(objects: &S, scanned: &Scanned, into: &Path) -> Restored {
    let options = RestoreOptions::default();
    let progress = Progress::default();
    restore(objects, scanned.root, scanned.root_mode, into, &options, &progress).unwrap()
}

fn write(path: &Path, bytes: &[u8], mode: u32) {
    let mut file = crate::fs::create_new(path).unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    file.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
}

/// What stands in a directory, as another program sees it: by path, mode and content.
fn look(root: &Path) -> BTreeMap<Vec<u8>, (u32, Vec<u8>)> {
    let mut seen = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let content = if metadata.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else if metadata.is_symlink() {
            std::fs::read_link(&path).unwrap().into_os_string().into_vec()
        } else {
            crate::fs::read_if_exists(&path, u64::MAX - 1).unwrap().unwrap()
        };
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        seen.insert(name, (metadata.mode(), content));
    }
    seen
}

/// Takes away what the temporary folder cannot: directories that are closed, or too deep.
fn tidy(dir: &Path) {
    let fd: OwnedFd = crate::fs::open(dir).unwrap().into();
    remove::remove_contents(fd.as_fd()).unwrap();
}

/// Everything that trees have and copies tend to lose.
fn awkward(root: &Path) {
    let at = |name: &[u8]| root.join(OsStr::from_bytes(name));
    for size in [0, 1, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1] {
        let mut bytes = vec![0; size];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        write(&at(format!("size-{size}").as_bytes()), &bytes, 0o644);
    }
    // The same chunk over and over, and one that nobody may write to.
    write(&at(b"repeats"), &vec![b'a'; 3 << 20], 0o644);
    let mut large = vec![0; 3 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut large);
    large[1 << 20..2 << 20].fill(0);
    write(&at(b"large"), &large, 0o400);
    for name in [&b"\xff\xfe"[..], b"new\nline", &[b'n'; 255], b"-rf", b" ", b"\\", b"*"] {
        write(&at(name), name, 0o640);
    }
    // The last two only root may read.
    let readable = if rustix::process::geteuid().is_root() { 6 } else { 4 };
    for mode in [0o600, 0o444, 0o755, 0o777, 0o000, 0o001].into_iter().take(readable) {
        write(&at(format!("mode-{mode:o}").as_bytes()), b"x", mode);
    }
    for (name, mode) in [("open", 0o777), ("closed", 0o555), ("none", 0o700)] {
        let path = root.join(name);
        std::fs::create_dir(&path).unwrap();
        write(&path.join("in"), b"x", 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    std::fs::create_dir(root.join("empty")).unwrap();
    let links: [(&str, &[u8]); 5] = [
        ("dangling", b"nowhere"),
        ("absolute", b"/etc/passwd"),
        ("loop", b"loop"),
        ("up", b"../../.."),
        ("bytes", b"\xff\n"),
    ];
    for (name, target) in links {
        symlink(OsStr::from_bytes(target), root.join(name)).unwrap();
    }
    std::fs::hard_link(root.join("size-1"), root.join("hard")).unwrap();
    let wide = root.join("wide");
    std::fs::create_dir(&wide).unwrap();
    for i in 0..10_000 {
        write(&wide.join(format!("{i}")), format!("{}", i % 100).as_bytes(), 0o644);
    }
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o751)).unwrap();
}

#[test]
fn an_awkward_tree_comes_back_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    awkward(&from);
    let objects = MemoryObjects::default();
    let scanned = scan_tree(&from, &objects);
    let restored = restore_tree(&objects, &scanned, &to);
    assert_eq!(restored.not_carried, []);
    assert_eq!((restored.files, restored.bytes), (scanned.sums.files, scanned.sums.bytes));
    let again = scan_tree(&to, &objects);
    assert_eq!((again.root, again.root_mode), (scanned.root, scanned.root_mode));
    assert!(look(&from) == look(&to), "an independent walk finds a difference");
    // Nothing is left beside it.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    tidy(dir.path());
}

#[test]
fn an_awkward_tree_comes_back_out_of_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    awkward(&from);
    let store = crate::store::Store::open(&dir.path().join("store")).unwrap();
    let vault = store.vault(VaultId::from_bytes([1; 16])).unwrap();
    let intake = vault.intake();
    let scanned = scan_tree(&from, &intake);
    intake.keep(&[scanned.root.into()]).unwrap();
    store.fold().unwrap();
    let at = vault.locations(&[scanned.root.into()]).unwrap();
    assert!(matches!(at.as_slice(), [Some(_)]));
    restore_tree(&vault, &scanned, &to);
    assert!(look(&from) == look(&to), "an independent walk finds a difference");
    tidy(dir.path());
}

#[test]
fn deep_trees_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    let mut fd: OwnedFd = crate::fs::open(&from).unwrap().into();
    // 15 names of 255 bytes and one of 254: the absolute path is longer than any system call takes.
    let name = [b'd'; 255];
    for _ in 0..15 {
        rustix::fs::mkdirat(&fd, name.as_slice(), Mode::RWXU).unwrap();
        fd = open_in(fd.as_fd(), &name).unwrap();
    }
    let flags = OFlags::WRONLY | OFlags::CREATE;
    drop(rustix::fs::openat(&fd, [b'f'; 255].as_slice(), flags, Mode::RUSR).unwrap());
    rustix::fs::symlinkat("x", &fd, [b'l'; 255].as_slice()).unwrap();
    let objects = MemoryObjects::default();
    let scanned = scan_tree(&from, &objects);
    assert_eq!((scanned.sums.files, scanned.omitted.len()), (2, 0));
    restore_tree(&objects, &scanned, &to);
    assert_eq!(scan_tree(&to, &objects).root, scanned.root);
    tidy(dir.path());
}

#[test]
fn holes_stay_holes() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    let file = crate::fs::create_new(&from.join("disk")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 100 << 20).unwrap();
    file.set_len(300 << 20).unwrap();
    drop(crate::fs::create_new(&from.join("zeros")).unwrap().set_len(20_000));
    let objects = MemoryObjects::default();
    let scanned = scan_tree(&from, &objects);
    restore_tree(&objects, &scanned, &to);
    let metadata = to.join("disk").metadata().unwrap();
    assert_eq!(metadata.len(), 300 << 20);
    assert!(metadata.blocks() * 512 < 2 << 20, "{} blocks", metadata.blocks());
    assert_eq!(to.join("zeros").metadata().unwrap().len(), 20_000);
    assert_eq!(scan_tree(&to, &objects).root, scanned.root);
}

#[test]
fn a_target_with_content_is_refused_and_an_empty_one_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    for path in [&from, &to] {
        std::fs::create_dir(path).unwrap();
    }
    write(&from.join("a"), b"a", 0o644);
    let objects = MemoryObjects::default();
    let scanned = scan_tree(&from, &objects);
    let options = RestoreOptions { threads: 1 };
    let progress = Progress::default();
    restore(&objects, scanned.root, 0o755, &to, &options, &progress).unwrap();
    assert!(to.join("a").exists());
    let refused = |into: &Path| {
        let progress = Progress::default();
        restore(&objects, scanned.root, 0o755, into, &RestoreOptions::default(), &progress)
            .unwrap_err()
    };
    assert!(matches!(refused(&to), RestoreError::NotEmpty { .. }));
    assert!(matches!(refused(&to.join("a")), RestoreError::NotDirectory { .. }));
    symlink("nowhere", dir.path().join("link")).unwrap();
    assert!(matches!(refused(&dir.path().join("link")), RestoreError::NotDirectory { .. }));
    assert!(matches!(refused(&dir.path().join("no/where")), RestoreError::Fs(_)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn building_inside_the_target_ends_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    for path in [&from, &to] {
        std::fs::create_dir(path).unwrap();
    }
    write(&from.join("a"), b"a", 0o644);
    std::fs::create_dir(from.join("closed")).unwrap();
    for path in [from.join("closed"), from.clone()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o555)).unwrap();
    }
    let objects = MemoryObjects::default();
    let scanned = scan_tree(&from, &objects);
    let build = |others: bool| {
        let mut staging = staging::Staging::open(&to, true).unwrap();
        let progress = Progress::default();
        let trees = ahead::Ahead::new(&objects);
        let build = Build::new(&objects, &trees, staging.directory(), &to, 2, &progress);
        build.run(scanned.root, scanned.root_mode).unwrap();
        if others {
            write(&to.join("other"), b"theirs", 0o644);
        }
        staging.commit()
    };
    // What others put there meanwhile stays, and nothing of ours.
    assert!(matches!(build(true), Err(RestoreError::NotEmpty { .. })));
    assert_eq!(look(&to).into_keys().collect::<Vec<_>>(), [&b""[..], b"other"]);
    crate::fs::remove_file(&to.join("other")).unwrap();
    assert!(build(false).unwrap());
    assert_eq!(look(&from), look(&to));
    tidy(dir.path());
}

#[test]
fn a_failed_restore_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    std::fs::create_dir(from.join("closed")).unwrap();
    write(&from.join("closed/a"), b"a", 0o644);
    write(&from.join("b"), b"lost", 0o644);
    let objects = MemoryObjects::default();
    let scanned = scan_tree(&from, &objects);
    objects.0.lock().unwrap().remove(&ChunkId::of(b"lost").into());
    let options = RestoreOptions::default();
    let run = |progress: &Progress| {
        restore(&objects, scanned.root, 0o755, &to, &options, progress).unwrap_err()
    };
    assert!(matches!(run(&Progress::default()), RestoreError::Store(StoreError::Absent(_))));
    let progress = Progress::default();
    progress.cancel();
    assert!(matches!(run(&progress), RestoreError::Cancelled));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// A tree that no scan would make.
struct Hostile(MemoryObjects);

impl Hostile {
    fn leaf(&self, entries: Vec<(&[u8], EntryKind)>) -> TreeId {
        let entries = entries.into_iter().map(|(name, kind)| Entry { name: name.to_vec(), kind });
        let bytes = Tree::Leaf(entries.collect()).encode();
        TreeId::from_bytes(self.0.put(ObjectKind::Tree, &bytes).unwrap().hash)
    }

    fn blob(&self, bytes: &[u8]) -> Blob {
        crate::chunk::store_bytes(bytes, &self.0).unwrap()
    }

    fn file(&self) -> EntryKind {
        EntryKind::File { mode: 0o644, blob: self.blob(b"x") }
    }

    fn directory(tree: TreeId, files: u64) -> EntryKind {
        EntryKind::Directory { mode: 0o755, tree, below: TreeSums { files, bytes: files } }
    }

    fn restore(&self, root: TreeId, into: &Path) -> Result<Restored, RestoreError> {
        let progress = Progress::default();
        restore(&self.0, root, 0o755, into, &RestoreOptions::default(), &progress)
    }
}

#[test]
fn hostile_trees_end_in_an_error_or_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("in");
    let hostile = Hostile(MemoryObjects::default());
    for name in [&b".git"[..], b".GIT ", b"git~1"] {
        for kind in [hostile.file(), Hostile::directory(hostile.leaf(vec![]), 0)] {
            let root = hostile.leaf(vec![(name, kind)]);
            let refused = hostile.restore(root, &into);
            assert!(matches!(refused, Err(RestoreError::GitName { .. })));
        }
    }
    let inner = hostile.leaf(vec![(b"f", hostile.file())]);
    let lying = hostile.leaf(vec![(b"d", Hostile::directory(inner, 2))]);
    assert!(matches!(hostile.restore(lying, &into), Err(RestoreError::Store(_))));
    let short = Blob { size: 9, content: Content::Chunk(ChunkId::of(b"x")) };
    let short = hostile.leaf(vec![(b"f", EntryKind::File { mode: 0o644, blob: short })]);
    assert!(matches!(hostile.restore(short, &into), Err(RestoreError::Store(_))));
    // A link whose target has a NUL byte is no link that a system can make.
    let target = hostile.blob(b"a\0b");
    let link = hostile.leaf(vec![(b"l", EntryKind::Symlink { target })]);
    let restored = hostile.restore(link, &into).unwrap();
    assert_eq!(restored.not_carried[0].path, RelPath::new(b"l").unwrap());
    std::fs::remove_dir(&into).unwrap();
    // Deeper than any path: named where it ends.
    let mut tree = hostile.leaf(vec![(b"f", hostile.file())]);
    for _ in 0..3000 {
        tree = hostile.leaf(vec![(&[b'd'; 15], Hostile::directory(tree, 1))]);
    }
    let restored = hostile.restore(tree, &into).unwrap();
    assert_eq!((restored.files, restored.not_carried.len()), (0, 1));
    assert_eq!(restored.not_carried[0].path.as_bytes().len(), 4095);
    tidy(dir.path());
}

#[test]
fn a_tree_that_grows_without_end_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("in");
    let hostile = Hostile(MemoryObjects::default());
    let names: Vec<_> = (0..100).map(|at| format!("{at:02}")).collect();
    let copies = |kind| hostile.leaf(names.iter().map(|name| (name.as_bytes(), kind)).collect());
    // 100 directories in each of 100, nine times, without one file: the sums say nothing.
    let mut tree = hostile.leaf(vec![]);
    for _ in 0..9 {
        tree = copies(Hostile::directory(tree, 0));
    }
    let refused = hostile.restore(tree, &into);
    let Err(RestoreError::TooLarge { entries, bytes: 0 }) = refused else { panic!("{refused:?}") };
    assert_eq!(entries, (1..=9).map(|level| 100u64.pow(level)).sum::<u64>());
    // More than 64 bits can count.
    for _ in 0..20 {
        tree = copies(Hostile::directory(tree, 0));
    }
    let refused = hostile.restore(tree, &into);
    assert!(matches!(refused, Err(RestoreError::TooLarge { entries: u64::MAX, .. })));
    // A thousand files of 2 PiB, which would be one hole.
    let huge = Blob { size: 1 << 51, content: Content::Manifest(ManifestId::of(b"hole")) };
    let refused = hostile.restore(copies(EntryKind::File { mode: 0o644, blob: huge }), &into);
    assert!(matches!(refused, Err(RestoreError::TooLarge { entries: 100, .. })));
    assert!(!into.exists());
    // Copies that fit are made.
    let some = copies(Hostile::directory(copies(hostile.file()), 100));
    assert_eq!(hostile.restore(some, &into).unwrap().files, 10_000);
    tidy(dir.path());
}

#[test]
fn special_files_do_not_stop_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    write(&from.join("a"), b"a", 0o644);
    rustix::fs::mknodat(CWD, from.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    let objects = MemoryObjects::default();
    let scanned = scan_tree(&from, &objects);
    assert_eq!(scanned.omitted.len(), 2);
    restore_tree(&objects, &scanned, &to);
    let names: Vec<_> = list(crate::fs::open(&to).unwrap().as_fd()).unwrap();
    assert_eq!(names.len(), 1);
}
