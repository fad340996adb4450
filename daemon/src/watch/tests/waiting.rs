//! Who waits is woken by news, by the end of the watch, and by nothing else.

use std::fs::{File, create_dir};
use std::time::Duration;

use super::super::{WatchOptions, Woken};
use super::keeper::Keeper;
use super::operations::{append, fill, write};
use super::{ALL, Backend};

const SOON: Option<Duration> = Some(Duration::from_millis(200));

#[test]
fn nobody_is_woken_while_nothing_changes() {
    for backend in ALL {
        let mut keeper = Keeper::new(*backend, &WatchOptions::default(), fill);
        let mut waiter = keeper.watch.waiter();
        assert_eq!(waiter.wait(SOON), Woken::Late, "{backend:?}");
        // Looking is no news, neither ours nor of others.
        keeper.learn_all();
        drop(File::options().read(true).open(keeper.root().join("a/one")).unwrap());
        assert_eq!(waiter.wait(SOON), Woken::Late, "{backend:?}");
        drop(keeper.seal());
        assert_eq!(waiter.wait(SOON), Woken::Late, "{backend:?}");
        write(keeper.root().join("ignored/below/new"), b"x");
        assert_eq!(waiter.wait(SOON), Woken::Late, "{backend:?}");
    }
}

#[test]
fn news_wakes_until_it_is_drained() {
    for backend in ALL.iter().filter(|backend| **backend != Backend::Sweep) {
        let mut keeper = Keeper::new(*backend, &WatchOptions::default(), fill);
        let mut waiter = keeper.watch.waiter();
        let root = keeper.root();
        let changes: [&dyn Fn(); 3] = [
            &|| append(root.join("a/b/c/one"), b"more"),
            &|| create_dir(root.join("new")).unwrap(),
            &|| write(root.join("new/x"), b"x"),
        ];
        for change in changes {
            let woken = std::thread::scope(|scope| {
                let waiting = scope.spawn(|| waiter.wait(None));
                change();
                waiting.join().unwrap()
            });
            assert_eq!(woken, Woken::Changed, "{backend:?}");
            assert_eq!(keeper.watch.waiter().wait(None), Woken::Changed, "{backend:?}");
            assert!(!keeper.seal().is_empty());
            // An event more of the same write may be under way to another thread.
            while waiter.wait(SOON) == Woken::Changed {
                drop(keeper.seal());
            }
        }
        keeper.compare("after all");
    }
}

#[test]
fn the_end_of_the_watch_ends_the_wait() {
    for backend in ALL {
        let keeper = Keeper::new(*backend, &WatchOptions::default(), fill);
        let mut waiter = keeper.watch.waiter();
        let mut other = keeper.watch.waiter();
        let (_top, watch) = keeper.apart();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || waiter.wait(None));
            drop(watch);
            assert_eq!(waiting.join().unwrap(), Woken::Closed, "{backend:?}");
        });
        assert_eq!(other.wait(None), Woken::Closed, "{backend:?}");
    }
}
