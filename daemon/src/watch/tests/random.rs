//! Many changes at once, by a thread that does not wait for the drains.
//!
//! `BATON_FUZZ_SECONDS` lets them run that long; `BATON_FUZZ_SEED` starts them elsewhere.

#![expect(clippy::disallowed_methods, reason = "a test, which works on a tree of its own")]

use std::fs::{
    Permissions, create_dir, create_dir_all, remove_dir_all, remove_file, rename, set_permissions,
};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::super::WatchOptions;
use super::keeper::Keeper;
use super::operations::fill;
use super::{ALL, Backend, Seed};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "one", "ignored"];

fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

/// A path of a few names, mostly in the tree.
fn place(seed: &mut Seed, root: &Path) -> PathBuf {
    let mut path = match seed.below(12) {
        0 => root.with_file_name("outside"),
        _ => root.to_owned(),
    };
    for _ in 0..=seed.below(4) {
        path.push(NAMES[seed.below(NAMES.len())]);
    }
    path
}

/// One change; many of them fail, as they would for anybody else. No hard links: one that leaves the
/// tree before it was seen is not told.
fn change(seed: &mut Seed, root: &Path) {
    let (path, other) = (place(seed, root), place(seed, root));
    let size = seed.below(40);
    let done = match seed.below(15) {
        0..3 => std::fs::write(&path, vec![b'x'; size]),
        3 | 4 => {
            let file = std::fs::OpenOptions::new().append(true).open(&path);
            file.and_then(|mut file| file.write_all(b"more"))
        }
        5 => create_dir(&path),
        6 | 7 => create_dir_all(&path).and_then(|()| std::fs::write(path.join("one"), b"x")),
        8 | 9 => rename(&path, &other),
        10 => remove_file(&path),
        11 if seed.below(3) == 0 => remove_dir_all(&path),
        12 => symlink(&other, &path),
        13 => exchange(&path, &other),
        _ => {
            let mode = 0o700 + u32::try_from(seed.below(64)).unwrap();
            match path.symlink_metadata() {
                Ok(metadata) if !metadata.is_symlink() => {
                    set_permissions(&path, Permissions::from_mode(mode))
                }
                _ => Ok(()),
            }
        }
    };
    drop(done);
}

#[cfg(target_os = "linux")]
fn exchange(path: &Path, other: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, path, CWD, other, RenameFlags::EXCHANGE)?)
}

#[cfg(not(target_os = "linux"))]
fn exchange(path: &Path, other: &Path) -> std::io::Result<()> {
    rename(path, other)
}

/// Rounds of changes while seals go on; after each all that is known is compared.
fn rounds(backend: Backend, options: &WatchOptions, rounds: u64) {
    let mut number_of_seed = number("BATON_FUZZ_SEED", 1);
    let until = Instant::now() + Duration::from_secs(number("BATON_FUZZ_SECONDS", 0));
    let mut done = 0;
    while done < rounds || Instant::now() < until {
        let mut seed = Seed(number_of_seed);
        let mut keeper = Keeper::new(backend, options, fill);
        for round in 0..8 {
            let changes = seed.below(60);
            if seed.below(2) == 0 {
                (0..changes).for_each(|_| change(&mut seed, &keeper.root()));
            } else {
                let root = keeper.root();
                let over = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        (0..changes).for_each(|_| change(&mut seed, &root));
                        over.store(true, Ordering::Release);
                    });
                    while !over.load(Ordering::Acquire) {
                        keeper.seal();
                    }
                });
            }
            keeper.seal();
            keeper.compare(&format!("seed {number_of_seed}, round {round}"));
        }
        number_of_seed += 1;
        done += 1;
    }
}

#[test]
fn what_is_known_is_what_is_there() {
    for backend in ALL {
        rounds(*backend, &WatchOptions::default(), 15);
    }
}

#[test]
fn also_when_the_queue_is_short() {
    let options = WatchOptions { cut_queue: Some(16), ..WatchOptions::default() };
    for backend in ALL.iter().filter(|backend| **backend != Backend::Sweep) {
        rounds(*backend, &options, 10);
    }
}

#[test]
fn also_when_there_are_few_watches() {
    let options = WatchOptions { max_watches: Some(4), ..WatchOptions::default() };
    for backend in ALL.iter().filter(|backend| **backend != Backend::Sweep) {
        rounds(*backend, &options, 10);
    }
    let options = WatchOptions { cut_queue: Some(16), ..options };
    rounds(ALL[0], &options, 10);
}
