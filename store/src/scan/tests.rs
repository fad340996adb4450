//! Scans of awkward trees, and what they leave out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use baton_protocol::id::{ObjectId, ObjectKind};
use baton_protocol::object::{Entry, EntryKind, OmitReason, Tree};
use baton_protocol::path::RelPath;

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};

use super::*;
use crate::objects::memory::MemoryObjects;

/// A scan that began long after everything that is there.
const LATE: i64 = i64::MAX;

fn run(root: &Path, cache: &StatCache, objects: &MemoryObjects, started_at_ns: i64) -> Scanned {
    let options = ScanOptions { started_at_ns, ..ScanOptions::default() };
    let scanned = scan(root, cache, objects, &options, &Progress::default()).unwrap();
    cache.end_scan();
    scanned
}

fn write(path: &Path, bytes: &[u8]) {
    if let Some(parent) = path.parent() {
        crate::fs::create_dir_all(parent).unwrap();
    }
    std::io::Write::write_all(&mut crate::fs::create_new(path).unwrap(), bytes).unwrap();
}

fn leaf(objects: &MemoryObjects, id: TreeId) -> Vec<Entry> {
    let bytes = crate::objects::ObjectSource::require(objects, &ObjectId::from(id)).unwrap();
    let Tree::Leaf(entries) = Tree::decode(&bytes).unwrap() else { panic!("a leaf") };
    entries
}

fn named(scanned: &Scanned) -> Vec<(String, OmitReason)> {
    scanned.omitted.iter().map(|o| (o.path.display().into_owned(), o.reason)).collect()
}

#[test]
fn the_total_is_what_the_walk_then_finds() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for path in ["a", "d/b", "d/e/c", "d/e/skipped", "out/x", ".git/HEAD"] {
        let path = root.join(path);
        crate::fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop(crate::fs::create_new(&path).unwrap());
    }
    write(&root.join(".batonignore"), b"out/\nskipped\n");
    let progress = Progress::with_total();
    let objects = MemoryObjects::default();
    let cache = StatCache::default();
    let scanned = scan(root, &cache, &objects, &ScanOptions::default(), &progress).unwrap();
    assert_eq!((progress.total(), progress.files()), (Some(4), 4));
    assert_eq!(scanned.sums.files, 4);
    assert!(!progress.wants_total() && Progress::default().total().is_none());
}

#[test]
fn a_second_scan_reads_what_changed_and_finds_the_same_tree() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..20 {
        write(&dir.path().join(format!("d{}/f{i}", i % 3)), format!("{i}").as_bytes());
    }
    // Longer than what counts as just now.
    std::thread::sleep(std::time::Duration::from_millis(120));
    let objects = MemoryObjects::default();
    let cache = StatCache::default();
    let first = run(dir.path(), &cache, &objects, LATE);
    assert_eq!((first.hashed_files, first.sums.files), (20, 20));
    let second = run(dir.path(), &cache, &objects, LATE);
    assert_eq!((second.hashed_files, second.root), (0, first.root));
    crate::fs::remove_file(&dir.path().join("d0/f3")).unwrap();
    write(&dir.path().join("d0/f3"), b"new");
    let changed = dir.path().join("d0/f3").metadata().unwrap();
    let just_now = changed.ctime() * 1_000_000_000 + changed.ctime_nsec() + 1_000_000;
    let third = run(dir.path(), &cache, &objects, just_now);
    assert_eq!(third.hashed_files, 1);
    assert_ne!(third.root, first.root);
    // What changed just now may change again in the same tick.
    assert_eq!(cache.len(), 19);
    // What a cache says that does not belong to the sink is not believed.
    cache.begin_scan();
    let empty = MemoryObjects::default();
    let fourth = run(dir.path(), &cache, &empty, LATE);
    assert_eq!((fourth.hashed_files, fourth.root), (20, third.root));
}

#[test]
fn files_that_a_watch_makes_for_a_moment_belong_to_no_tree() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("plain"), b"x");
    write(&dir.path().join("sub").join(format!("{}7-1", crate::ignore::COOKIE)), b"");
    let objects = MemoryObjects::default();
    let scanned = run(dir.path(), &StatCache::default(), &objects, LATE);
    assert_eq!((scanned.sums.files, scanned.omitted.len()), (1, 0));
}

#[test]
fn what_an_apply_keeps_in_a_checkout_or_beside_one_belongs_to_no_tree() {
    let dir = tempfile::tempdir().unwrap();
    let objects = MemoryObjects::default();
    let id = "0123456789abcdef".repeat(2);
    for name in [format!(".baton-apply-{id}"), format!("sub/.app.baton-apply-{id}")] {
        write(&dir.path().join(name).join("out/0"), b"of before");
    }
    let others = [format!("x.baton-apply-{id}"), format!(".baton-apply-{}", &id[1..])];
    for name in others.iter().map(String::as_str).chain(["plain", "sub/plain"]) {
        write(&dir.path().join(name), b"x");
    }
    let files = || run(dir.path(), &StatCache::default(), &objects, LATE).sums.files;
    assert_eq!(files(), 4);
    // Git may even have been made to track it.
    let git = |args: &[&str]| {
        let mut git = std::process::Command::new("git");
        git.args(args).current_dir(dir.path()).env("HOME", dir.path());
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        assert!(git.status().unwrap().success());
    };
    git(&["init", "-q"]);
    assert_eq!(files(), 4);
    git(&["add", "-f", "."]);
    assert_eq!(files(), 4);
}

#[test]
fn special_files_are_named_and_never_opened() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    write(&at("plain"), b"");
    std::os::unix::fs::symlink("/nowhere", at("dangling")).unwrap();
    write(&at("sub/.git/config"), b"x");
    write(&at("GIT~1"), b"x");
    let objects = MemoryObjects::default();
    let scanned = run(dir.path(), &StatCache::default(), &objects, LATE);
    drop(socket);
    assert_eq!(
        named(&scanned),
        [
            ("GIT~1".to_owned(), OmitReason::GitMetadata),
            ("fifo".to_owned(), OmitReason::Special),
            ("socket".to_owned(), OmitReason::Special),
            ("sub/.git".to_owned(), OmitReason::GitMetadata),
        ]
    );
    let names: Vec<_> = leaf(&objects, scanned.root).into_iter().map(|e| e.name).collect();
    assert_eq!(names, [&b"dangling"[..], b"plain", b"sub"]);
}

#[test]
fn modes_are_exact_and_what_is_dropped_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for (name, mode) in [("a", 0o600), ("b", 0o444), ("c", 0o4755), ("d", 0o000)] {
        write(&dir.path().join(name), b"x");
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(dir.path().join(name), mode).unwrap();
    }
    let objects = MemoryObjects::default();
    let scanned = run(dir.path(), &StatCache::default(), &objects, LATE);
    let omitted = named(&scanned);
    assert!(omitted.contains(&("c".to_owned(), OmitReason::NotCarried)));
    for entry in leaf(&objects, scanned.root) {
        let EntryKind::File { mode, .. } = entry.kind else { panic!("a file") };
        match entry.name.as_slice() {
            b"a" => assert_eq!(mode, 0o600),
            b"b" => assert_eq!(mode, 0o444),
            b"c" => assert_eq!(mode, 0o755),
            // Only root may read it.
            _ => assert_eq!(mode, 0),
        }
    }
    let unreadable = ("d".to_owned(), OmitReason::Unreadable);
    assert_eq!(omitted.contains(&unreadable), !rustix::process::geteuid().is_root());
}

#[test]
fn a_tree_deeper_than_paths_can_say_is_walked_with_few_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let mut fd: OwnedFd = crate::fs::open(dir.path()).unwrap().into();
    // Now and then two directories, so that more of them wait than may be held open.
    for level in 0..2047 {
        for name in [&b"x"[..], b"y"].into_iter().take(if level % 16 == 0 { 2 } else { 1 }) {
            rustix::fs::mkdirat(&fd, name, Mode::RWXU).unwrap();
        }
        fd = directory::open_in(fd.as_fd(), b"x").unwrap();
    }
    let flags = OFlags::WRONLY | OFlags::CREATE;
    for name in [&b"f"[..], b"long"] {
        drop(rustix::fs::openat(&fd, name, flags, Mode::RUSR).unwrap());
    }
    let objects = MemoryObjects::default();
    let scanned = run(dir.path(), &StatCache::default(), &objects, LATE);
    assert_eq!(scanned.sums.files, 1);
    // 2,047 times `x/` and `long` is one byte more than a path may have.
    let deepest = RelPath::new(&b"x/".repeat(2047)[..4093]).unwrap();
    let omitted =
        [baton_protocol::object::Omission { path: deepest, reason: OmitReason::NotCarried }];
    assert_eq!(scanned.omitted, omitted);
}

#[test]
fn a_file_that_never_holds_still_is_kept_and_flagged() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("busy"), b"start");
    let path = dir.path().join("busy");
    let stop = AtomicBool::new(false);
    let objects = MemoryObjects::default();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut file = crate::fs::open_append(&path).unwrap();
            while !stop.load(Ordering::Relaxed) {
                std::io::Write::write_all(&mut file, &[b'x'; 4096]).unwrap();
                if file.metadata().unwrap().len() > 64 << 20 {
                    file.set_len(1 << 20).unwrap();
                }
            }
        });
        let mut torn = false;
        for _ in 0..200 {
            let scanned = run(dir.path(), &StatCache::default(), &objects, LATE);
            assert_eq!(scanned.sums.files, 1);
            objects.0.lock().unwrap().clear();
            if named(&scanned) == [("busy".to_owned(), OmitReason::Torn)] {
                torn = true;
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(torn);
    });
}

#[test]
fn a_cancelled_scan_stops() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a"), b"x");
    let progress = Progress::default();
    progress.cancel();
    let objects = MemoryObjects::default();
    let options = ScanOptions::default();
    let result = scan(dir.path(), &StatCache::default(), &objects, &options, &progress);
    assert!(matches!(result, Err(ScanError::Cancelled)));
    let gone = dir.path().join("gone");
    let result = scan(&gone, &StatCache::default(), &objects, &options, &Progress::default());
    assert!(matches!(result, Err(ScanError::Root { .. })));
}

#[test]
fn names_are_bytes_and_wide_directories_split() {
    let dir = tempfile::tempdir().unwrap();
    let strange = [&b"\xff\xfe"[..], b"new\nline", &[b'n'; 255], b"-rf", b" "];
    for name in strange {
        write(&dir.path().join(OsStr::from_bytes(name)), name);
    }
    let objects = MemoryObjects::default();
    let scanned = run(dir.path(), &StatCache::default(), &objects, LATE);
    let mut expected = strange.map(<[u8]>::to_vec);
    expected.sort();
    let names: Vec<_> = leaf(&objects, scanned.root).into_iter().map(|e| e.name).collect();
    assert_eq!(names, expected);
    for i in 0..3000 {
        write(&dir.path().join(format!("{i}")), b"same");
    }
    let one = ScanOptions { threads: 1, ..ScanOptions::default() };
    let many = ScanOptions { threads: 5, ..ScanOptions::default() };
    let by = |options| {
        scan(dir.path(), &StatCache::default(), &objects, options, &Progress::default()).unwrap()
    };
    assert_eq!(by(&one).root, by(&many).root);
    assert_eq!(by(&many).sums.files, 3005);
}

/// What is changed, and how many directories are built for it at most: those on the way to it.
type Change<'a> = (&'a str, usize, Box<dyn Fn() + 'a>);

/// What a scan finds that knows the tree, which must be what one finds that does not.
fn sweep(root: &Path, cache: &StatCache) -> (Scanned, MemoryObjects) {
    let objects = MemoryObjects::default();
    let swept = run(root, cache, &objects, LATE);
    let afresh = run(root, &StatCache::default(), &MemoryObjects::default(), LATE);
    assert_eq!((swept.root, swept.sums), (afresh.root, afresh.sums));
    assert_eq!(swept.omitted, afresh.omitted);
    assert_eq!(swept.directories, afresh.directories);
    assert_eq!(cache.directories(), afresh.directories);
    (swept, objects)
}

#[test]
fn directories_that_are_as_they_were_are_not_built_again() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    let link = |to: &str, path: &str| std::os::unix::fs::symlink(to, at(path)).unwrap();
    let chmod = |path: &str, mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        rustix::fs::chmod(at(path), Mode::from_raw_mode(permissions.mode())).unwrap();
    };
    #[expect(clippy::disallowed_methods, reason = "a tree of a test")]
    let remove_all = |path: &str| std::fs::remove_dir_all(at(path)).unwrap();
    for path in ["f", "a/f", "a/b/f", "a/b/c/f", "a-b/f", "d/f", "d/e/f", "g/.gitignore"] {
        write(&at(path), path.as_bytes());
    }
    link("f", "a/link");
    crate::fs::create_dir_all(&at("empty")).unwrap();
    let cache = StatCache::default();
    sweep(dir.path(), &cache);
    let (_, objects) = sweep(dir.path(), &cache);
    assert!(objects.0.lock().unwrap().is_empty());

    let changes: Vec<Change<'_>> = vec![
        ("a new file", 3, Box::new(|| write(&at("a/b/new"), b"new"))),
        ("a file without it", 3, Box::new(|| crate::fs::remove_file(&at("a/b/f")).unwrap())),
        ("the mode of a file", 3, Box::new(|| chmod("d/e/f", 0o600))),
        ("the mode of a directory", 2, Box::new(|| chmod("d/e", 0o700))),
        (
            "a link elsewhere",
            2,
            Box::new(|| {
                crate::fs::remove_file(&at("a/link")).unwrap();
                link("elsewhere", "a/link");
            }),
        ),
        (
            "a link that is a file",
            2,
            Box::new(|| {
                crate::fs::remove_file(&at("a/link")).unwrap();
                write(&at("a/link"), b"elsewhere");
            }),
        ),
        (
            "a directory elsewhere",
            4,
            Box::new(|| {
                crate::fs::rename(&at("a/b"), &at("a/moved")).unwrap();
            }),
        ),
        ("a directory less", 1, Box::new(|| remove_all("d"))),
        (
            "a directory that is a file",
            1,
            Box::new(|| {
                remove_all("a-b");
                write(&at("a-b"), b"file");
            }),
        ),
        (
            "what is left out",
            2,
            Box::new(|| {
                write(&at("a/.git/HEAD"), b"no repository");
            }),
        ),
        ("what was left out", 2, Box::new(|| remove_all("a/.git"))),
        ("what leaves out", 2, Box::new(|| write(&at(".batonignore"), b"moved\n"))),
        (
            "a name more",
            2,
            Box::new(|| {
                std::fs::hard_link(at("f"), at("a/second")).unwrap();
            }),
        ),
    ];
    for (what, built, change) in changes {
        // No two changes within one tick of the clock.
        std::thread::sleep(std::time::Duration::from_millis(15));
        change();
        let (swept, objects) = sweep(dir.path(), &cache);
        let trees =
            objects.0.lock().unwrap().keys().filter(|id| id.kind == ObjectKind::Tree).count();
        assert!(trees <= built, "{what}: {trees}");
        let (again, objects) = sweep(dir.path(), &cache);
        assert_eq!(again.root, swept.root, "{what}");
        // Where something is left out the directory is looked at name by name.
        let built = objects.0.lock().unwrap().len();
        assert!(built <= usize::from(!swept.omitted.is_empty()), "{what}: {built}");
    }
}

#[test]
fn what_a_seal_changed_is_not_taken_for_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["f", "a/f", "a/b/f"] {
        write(&dir.path().join(path), path.as_bytes());
    }
    let (cache, objects) = (StatCache::default(), MemoryObjects::default());
    let options = ScanOptions { started_at_ns: LATE, ..ScanOptions::default() };
    let before = run(dir.path(), &cache, &objects, LATE);
    std::thread::sleep(std::time::Duration::from_millis(15));
    write(&dir.path().join("a/b/new"), b"new");
    write(&dir.path().join("a/c/new"), b"new");
    crate::fs::remove_file(&dir.path().join("a/f")).unwrap();
    let mut dirty = dirty::Dirty::default();
    dirty.name(b"a/b", b"new", dirty::Depth::Look);
    dirty.name(b"a", b"c", dirty::Depth::Look);
    dirty.name(b"a", b"f", dirty::Depth::Look);
    let progress = Progress::default();
    let sealed = seal(dir.path(), before, &dirty, &cache, &objects, &options, &progress).unwrap();
    cache.flush();
    let (swept, _) = sweep(dir.path(), &cache);
    assert_eq!((swept.root, swept.hashed_files), (sealed.root, 0));
}
