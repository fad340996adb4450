//! More than the system tells: full queues, few watches, files that are written to all the time, and
//! roots that go away.

#![expect(clippy::disallowed_methods, reason = "a test, which works on a tree of its own")]

use std::fs::{OpenOptions, create_dir, create_dir_all, remove_dir_all, rename};
use std::io::Write;
use std::path::Path;

use baton_store::scan::dirty::Depth;

use super::super::{WatchError, WatchOptions};
use super::keeper::Keeper;
use super::operations::{append, fill, write};
use super::{ALL, Backend};

fn hundred(root: &Path) {
    for i in 0..10 {
        for j in 0..10 {
            create_dir_all(root.join(format!("{i}/{j}"))).unwrap();
            write(root.join(format!("{i}/{j}/file")), b"x");
        }
    }
}

fn few() -> WatchOptions {
    WatchOptions { max_watches: Some(10), ..WatchOptions::default() }
}

#[test]
fn with_few_watches_everything_is_covered() {
    for backend in ALL.iter().filter(|backend| **backend != Backend::Sweep) {
        let mut keeper = Keeper::new(*backend, &few(), hundred);
        let coverage = keeper.watch.coverage();
        assert_eq!((coverage.watched, coverage.swept), (10, 101), "{backend:?}");
        assert!(coverage.note.is_some());
        for i in [0, 5, 9] {
            for j in 0..10 {
                keeper.check("append", |root| append(root.join(format!("{i}/{j}/file")), b"more"));
                keeper.check("a new one", |root| {
                    create_dir_all(root.join(format!("{i}/{j}/new/er"))).unwrap();
                    write(root.join(format!("{i}/{j}/new/er/file")), b"x");
                });
            }
            keeper.check("rename", |root| {
                rename(root.join(format!("{i}")), root.join(format!("{i}-moved"))).unwrap();
            });
            keeper.check("in it", |root| append(root.join(format!("{i}-moved/7/file")), b"more"));
            keeper.check("replace", |root| {
                remove_dir_all(root.join(format!("{i}-moved/7"))).unwrap();
                create_dir_all(root.join(format!("{i}-moved/7/new/er"))).unwrap();
                write(root.join(format!("{i}-moved/7/new/er/file")), b"y");
            });
            assert!(keeper.watch.coverage().watched <= 10);
        }
        assert!(!keeper.seal().is_everything());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_watch_goes_where_something_happens() {
    let mut keeper = Keeper::new(Backend::Inotify, &few(), hundred);
    let swept = |keeper: &mut Keeper, path: &str| {
        keeper.seal().directories().get(path.as_bytes()).is_some_and(|marks| marks.list)
    };
    let all: Vec<_> = (0..10).flat_map(|i| (0..10).map(move |j| format!("{i}/{j}"))).collect();
    let path = all.iter().find(|path| swept(&mut keeper, path)).unwrap().clone();
    // Nobody gives a watch away that was needed a moment ago.
    keeper.watch.prefer(path.as_bytes()).unwrap();
    assert!(swept(&mut keeper, &path));
    for _ in 0..20 {
        keeper.seal();
    }
    keeper.watch.prefer(path.as_bytes()).unwrap();
    assert!(swept(&mut keeper, &path), "it is listed once more after it is watched");
    assert!(!swept(&mut keeper, &path));
    let coverage = keeper.watch.coverage();
    assert!(coverage.watched <= 10 && coverage.watched + coverage.swept == 111, "{coverage:?}");
    let root = keeper.root();
    let dirty = keeper.check("write", |_| write(root.join(&path).join("file"), b"more"));
    assert!(dirty.covers(format!("{path}/file").as_bytes(), Depth::Read));
    for path in &all {
        keeper.check("write everywhere", |root| append(root.join(path).join("file"), b"more"));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn files_that_are_written_all_the_time_cost_a_listing() {
    use super::super::Watch;
    use super::super::inotify::InotifyWatch;
    let top = tempfile::tempdir().unwrap();
    let open = |name| {
        let path = top.path().join(name);
        OpenOptions::new().append(true).create(true).open(path).unwrap()
    };
    let (mut one, mut two) = (open("one"), open("two"));
    let mut watch = InotifyWatch::open(top.path(), &WatchOptions::default()).unwrap();
    watch.add(&mut std::iter::once(b"".as_slice())).unwrap();
    for round in 0..100 {
        for _ in 0..1000 {
            one.write_all(b"x").unwrap();
            two.write_all(b"x").unwrap();
        }
        let dirty = watch.drain().unwrap();
        for path in [b"one", b"two"] {
            assert!(dirty.covers(path, Depth::Look), "round {round}");
        }
        assert!(!dirty.is_everything());
    }
    // Each time that it is given another chance it takes the 2,000 events of a round.
    assert!(watch.events_read() < 40_000, "{} events", watch.events_read());
    assert_eq!(watch.coverage().hot, 1);
    drop(one);
    let dirty = watch.drain().unwrap();
    assert!(dirty.covers(b"one", Depth::Read), "the close is told");
    for _ in 0..10 {
        watch.drain().unwrap();
    }
    assert_eq!(watch.coverage().hot, 0);
    assert!(watch.drain().unwrap().is_empty());
    two.write_all(b"x").unwrap();
    let dirty = watch.drain().unwrap();
    assert!(dirty.covers(b"two", Depth::Read) && !dirty.covers(b"one", Depth::Look));
}

#[test]
fn a_queue_that_is_cut_makes_everything_dirty_and_nothing_wrong() {
    let options = WatchOptions { cut_queue: Some(16), ..WatchOptions::default() };
    for backend in ALL.iter().filter(|backend| **backend != Backend::Sweep) {
        let mut keeper = Keeper::new(*backend, &options, |root| {
            fill(root);
            for name in ["e", "f", "g"] {
                create_dir(root.join(name)).unwrap();
                write(root.join(name).join("one"), b"x");
            }
        });
        let dirty = keeper.check("renames that nobody tells", |root| {
            for i in 0..20 {
                write(root.join(format!("file-{i}")), b"x");
            }
            rename(root.join("a"), root.join("z")).unwrap();
            rename(root.join("d"), root.join("a")).unwrap();
            rename(root.join("z/b"), root.join("d")).unwrap();
            for (from, to) in [("e", "w"), ("f", "e"), ("g", "f"), ("w", "g")] {
                rename(root.join(from), root.join(to)).unwrap();
            }
        });
        assert!(dirty.is_everything(), "{backend:?}");
        for path in ["a/one", "d/one", "d/c/one", "z/one", "e/one", "f/one", "g/one"] {
            let dirty = keeper.check("after it", |root| append(root.join(path), b"more"));
            assert!(!dirty.is_everything() && dirty.covers(path.as_bytes(), Depth::Read));
        }
    }
}

#[test]
fn a_root_that_is_another_is_noticed() {
    for backend in ALL {
        let keeper = Keeper::new(*backend, &WatchOptions::default(), fill);
        let (root, outside) = (keeper.root(), keeper.outside());
        keeper.watch.check_root().unwrap();
        let mut watch = keeper.watch;
        rename(&root, outside.join("old")).unwrap();
        create_dir(&root).unwrap();
        let changed = |result| matches!(result, Err(WatchError::RootChanged { .. }));
        assert!(changed(watch.check_root()), "{backend:?}");
        assert!(changed(watch.drain().map(drop)), "{backend:?}");
        assert!(changed(watch.drain().map(drop)), "{backend:?}");
    }
}

#[test]
fn a_root_that_is_gone_is_noticed() {
    for backend in ALL {
        let mut keeper = Keeper::new(*backend, &WatchOptions::default(), fill);
        remove_dir_all(keeper.root()).unwrap();
        let result = keeper.watch.drain();
        assert!(matches!(result, Err(WatchError::RootChanged { .. })), "{backend:?}: {result:?}");
    }
}

#[test]
fn the_best_way_is_chosen() {
    let top = tempfile::tempdir().unwrap();
    let watch = super::super::choose::open(top.path(), &WatchOptions::default()).unwrap();
    let coverage = watch.coverage();
    assert_ne!(coverage.backend, "sweep", "{coverage:?}");
    assert_eq!(top.path().read_dir().unwrap().count(), 0, "nothing is left behind");
    let missing = super::super::choose::open(&top.path().join("x"), &WatchOptions::default());
    assert!(matches!(missing, Err(WatchError::System { .. })));
}

#[cfg(target_os = "linux")]
#[test]
fn many_directories_are_watched_and_let_go() {
    use super::super::Watch;
    use super::super::inotify::InotifyWatch;
    let top = tempfile::tempdir().unwrap();
    let mut all = vec![Vec::new()];
    for i in 0..30 {
        all.push(format!("{i}").into_bytes());
        for j in 0..100 {
            let path = format!("{i}/{j}");
            create_dir_all(top.path().join(&path)).unwrap();
            all.push(path.into_bytes());
        }
    }
    let mut watch = InotifyWatch::open(top.path(), &WatchOptions::default()).unwrap();
    let added = watch.add(&mut all.iter().map(Vec::as_slice)).unwrap();
    assert_eq!((added.len(), watch.coverage().watched), (3031, 3031));
    assert!(watch.add(&mut all.iter().map(Vec::as_slice)).unwrap().is_empty());
    watch.remove(b"7");
    assert_eq!(watch.coverage().watched, 3031 - 101);
    write(top.path().join("7/7/x"), b"x");
    assert!(watch.drain().unwrap().is_empty());
    remove_dir_all(top.path().join("8")).unwrap();
    assert!(watch.drain().unwrap().covers(b"8", Depth::Look));
    assert_eq!(watch.coverage().watched, 3031 - 202);
    assert_eq!(watch.add(&mut all.iter().map(Vec::as_slice)).unwrap().len(), 101);
    // What cannot be is left out in silence.
    let odd: [&[u8]; 6] = [b"x", b"7/x/y", b"..", b"7/../8", b"7//7", b"/"];
    assert!(watch.add(&mut odd.into_iter()).unwrap().is_empty());
}
