//! Snapshots of trees that others change at the same time, against what stands on the disk afterwards.
//!
//! `BATON_CHAOS_ROUNDS` and `BATON_CHAOS_SECONDS` say how much, `BATON_SEED` which; by default little.

#![expect(clippy::disallowed_methods, reason = "a test, which has the file system to itself")]

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use baton_store::checkout::{RestoreOptions, restore};

use super::*;
use crate::watch::choose;
use crate::watch::notify::NotifyWatch;
use crate::workspace::tests::workspaces;
use crate::workspace::{TakeOptions, Workspaces};

struct Place {
    folder: tempfile::TempDir,
    workspaces: Workspaces,
    changed: tokio::sync::broadcast::Receiver<WorkspaceId>,
}

fn by_notify(root: &Path, options: &WatchOptions) -> Result<Box<dyn Watch>, WatchError> {
    Ok(Box::new(NotifyWatch::open(root, options)?))
}

impl Place {
    fn new(open: OpenWatch, cut_queue: Option<usize>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tree")).unwrap();
        let (to, changed) = tokio::sync::broadcast::channel(64);
        let watching = Watching {
            tasks: Tasks::new(),
            changed: to,
            options: WatchOptions { cut_queue, ..WatchOptions::default() },
            open,
        };
        let workspaces = Workspaces {
            clock: Clock::system(),
            watching: Some(watching),
            ..workspaces(folder.path())
        };
        Self { folder, workspaces, changed }
    }

    fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    fn take(&self) -> crate::workspace::Taken {
        self.workspaces.take(&self.tree(), &TakeOptions::default(), &Progress::default()).unwrap()
    }

    /// Takes a snapshot and compares it with the tree.
    fn check(&self, what: &str) {
        let taken = self.take();
        let vault = &self.workspaces.vault;
        let copy = tempfile::tempdir_in(self.folder.path()).unwrap();
        let into = copy.path().join("copy");
        let options = RestoreOptions::default();
        let (root, mode) = (taken.snapshot.root, taken.snapshot.root_mode);
        restore(vault, root, mode, &into, &options, &Progress::default()).unwrap();
        let (wanted, found) = (listing(&self.tree()), listing(&into));
        for (path, entry) in &wanted {
            assert_eq!(found.get(path), Some(entry), "{what}: {path:?} as it is on the disk");
        }
        for path in found.keys() {
            assert!(wanted.contains_key(path), "{what}: {path:?} is not on the disk");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.workspaces.close();
    }
}

/// Kind, mode and content of everything in a folder, read without any of what is tested.
fn listing(root: &Path) -> BTreeMap<PathBuf, (char, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(root.join(&directory)).unwrap().map(Result::unwrap) {
            let path = directory.join(entry.file_name());
            let at = root.join(&path);
            let metadata = at.symlink_metadata().unwrap();
            let mode = metadata.mode() & 0o777;
            if path.file_name().unwrap() == ".git" {
                continue;
            }
            let value = if metadata.is_symlink() {
                let target = std::fs::read_link(&at).unwrap();
                ('l', 0, target.into_os_string().into_encoded_bytes())
            } else if metadata.is_dir() {
                open.push(path.clone());
                ('d', mode, Vec::new())
            } else if metadata.is_file() {
                ('f', mode, std::fs::read(&at).unwrap())
            } else {
                continue;
            };
            found.insert(path, value);
        }
    }
    found
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// A small generator of its own: the same numbers for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

#[test]
fn what_was_written_before_a_snapshot_is_in_it() {
    let place = Place::new(choose::open, None);
    let tree = place.tree();
    std::fs::create_dir_all(tree.join("a/b")).unwrap();
    std::fs::write(tree.join("a/b/file"), "0").unwrap();
    place.check("the first");
    for round in 0..20 {
        std::fs::write(tree.join("a/b/file"), format!("{round}")).unwrap();
        std::fs::write(tree.join(format!("a/new{round}")), "x").unwrap();
        place.check("edits");
        // Made and filled faster than anybody can watch it.
        let deep = tree.join(format!("deep{round}/er/still"));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), "x").unwrap();
        place.check("new folders");
        std::fs::write(deep.join("later"), "x").unwrap();
        place.check("in new folders");
        std::fs::rename(tree.join(format!("deep{round}")), tree.join(format!("a/moved{round}")))
            .unwrap();
        std::fs::write(tree.join(format!("a/moved{round}/er/still/after")), "x").unwrap();
        place.check("moved folders");
    }
    std::fs::remove_dir_all(tree.join("a")).unwrap();
    place.check("a removed folder");
}

#[test]
fn an_unchanged_tree_is_not_looked_at_again() {
    let place = Place::new(choose::open, None);
    let tree = place.tree();
    for i in 0..50 {
        std::fs::create_dir_all(tree.join(format!("d{i}"))).unwrap();
        std::fs::write(tree.join(format!("d{i}/file")), "x").unwrap();
    }
    // The second look lists what was watched only after the first had listed it.
    place.take();
    place.take();
    let progress = Progress::default();
    let taken = place.workspaces.take(&tree, &TakeOptions::default(), &progress).unwrap();
    assert_eq!((progress.files(), taken.is_new), (0, false));
    std::fs::write(tree.join("d3/file"), "y").unwrap();
    let progress = Progress::default();
    let taken = place.workspaces.take(&tree, &TakeOptions::default(), &progress).unwrap();
    assert_eq!((progress.files(), taken.is_new, taken.files_changed), (1, true, 1));
}

#[test]
fn a_change_is_told_of_and_a_look_at_it_is_the_end_of_that() {
    let mut place = Place::new(choose::open, None);
    let tree = place.tree();
    std::fs::write(tree.join("file"), "x").unwrap();
    let id = place.take().workspace;
    place.take();
    let watched = place.workspaces.watched(id).unwrap();
    assert!(!watched.is_dirty());
    while place.changed.try_recv().is_ok() {}
    std::fs::write(tree.join("file"), "y").unwrap();
    assert_eq!(place.changed.blocking_recv().unwrap(), id);
    assert!(watched.is_dirty());
    place.take();
    assert!(!watched.is_dirty());
}

#[test]
fn what_somebody_else_took_in_is_told_too() {
    let mut place = Place::new(choose::open, None);
    let tree = place.tree();
    std::fs::write(tree.join("file"), "x").unwrap();
    let id = place.take().workspace;
    place.take();
    let watched = place.workspaces.watched(id).unwrap();
    for round in 0..50 {
        while place.changed.try_recv().is_ok() {}
        std::fs::write(tree.join("file"), format!("{round}")).unwrap();
        // Who asks how it is leaves nothing in the queue of the system to wake who waits.
        assert_eq!(watched.seen().pending, Some(1));
        assert_eq!(place.changed.blocking_recv().unwrap(), id);
        place.take();
    }
}

#[test]
fn a_root_that_is_another_folder_now_is_looked_at_whole() {
    let place = Place::new(choose::open, None);
    let tree = place.tree();
    std::fs::write(tree.join("old"), "x").unwrap();
    place.check("before");
    std::fs::rename(&tree, place.folder.path().join("aside")).unwrap();
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("new"), "x").unwrap();
    place.check("another folder");
    std::fs::write(tree.join("newer"), "x").unwrap();
    place.check("and it is watched");
}

/// One thing that happens to a tree, by one of several at once: whatever fails, fails.
fn disturb(tree: &Path, numbers: &mut Numbers) {
    let directory = |numbers: &mut Numbers| {
        let depth = numbers.below(3);
        (0..=depth).fold(tree.to_owned(), |path, _| path.join(format!("d{}", numbers.below(5))))
    };
    let (at, other) = (directory(numbers), directory(numbers));
    let name = format!("f{}", numbers.below(8));
    let (file, second) = (at.join(&name), other.join(format!("f{}", numbers.below(8))));
    let length = numbers.below(5000) as usize;
    let bytes = vec![numbers.below(256) as u8; length];
    let open = |file: &Path| std::fs::OpenOptions::new().write(true).open(file);
    match numbers.below(16) {
        0 => drop(std::fs::create_dir_all(&at)),
        1..=4 => drop(std::fs::write(&file, &bytes)),
        5 => drop(
            std::fs::OpenOptions::new()
                .append(true)
                .open(&file)
                .and_then(|mut file| std::io::Write::write_all(&mut file, &bytes)),
        ),
        6 => drop(open(&file).and_then(|file| file.set_len(length as u64 / 2))),
        7 => {
            let mode = 0o600 | numbers.below(0o200) as u32;
            if !file.is_symlink() {
                drop(std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)));
            }
        }
        8 => drop(std::fs::rename(&at, other.join("moved"))),
        9 => drop(std::fs::rename(&at, &other)),
        10 => drop(std::fs::hard_link(&file, &second)),
        11 => drop(std::fs::rename(&file, &second)),
        12 => drop(std::fs::remove_file(&file).and_then(|()| std::fs::create_dir(&file))),
        13 => drop(std::os::unix::fs::symlink(format!("to {length}"), &file)),
        14 => drop(std::fs::remove_dir(&file).or_else(|_| std::fs::remove_file(&file))),
        _ if numbers.below(8) == 0 => drop(std::fs::remove_dir_all(&at)),
        // As editors save.
        _ => drop(
            std::fs::write(at.join(".save"), &bytes)
                .and_then(|()| std::fs::rename(at.join(".save"), &file)),
        ),
    }
}

/// Stores through a mapping, which no call tells of: python, where there is one.
const MAPPED: &str = "
import mmap, os, sys, time
tree, seconds = sys.argv[1], float(sys.argv[2])
end, count = time.monotonic() + seconds, 0
while time.monotonic() < end:
    path = os.path.join(tree, 'mapped%d' % (count % 7))
    with open(path, 'a+b') as file:
        file.truncate(8192)
        with mmap.mmap(file.fileno(), 8192) as mapped:
            for at in (5, 5000, 5):
                mapped[at:at + 8] = b'%08d' % count
                time.sleep(0.001)
    count += 1
";

fn git(tree: &Path, args: &[&str]) -> bool {
    let mut command = std::process::Command::new("git");
    command.args(["-c", "user.name=b", "-c", "user.email=b@b", "-c", "core.fsync=none", "-C"]);
    command
        .arg(tree)
        .args(args)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A repository with two branches that share little, in `repo` below the tree.
fn make_repository(tree: &Path) {
    let repo = tree.join("repo");
    std::fs::create_dir(&repo).unwrap();
    assert!(git(&repo, &["init", "-q", "-b", "one"]));
    for branch in ["one", "two"] {
        for i in 0..120 {
            let directory = repo.join(format!("{branch}{}/sub{}", i % 7, i % 3));
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join(format!("file{i}")), format!("{branch} {i}")).unwrap();
            std::fs::write(repo.join(format!("both{i}")), format!("{branch} {i}")).unwrap();
        }
        assert!(git(&repo, &["add", "-A"]) && git(&repo, &["commit", "-qm", branch]));
        git(&repo, &["checkout", "-q", "-b", "two"]);
    }
}

fn chaos(open: OpenWatch, cut_queue: Option<usize>) {
    let rounds = variable("BATON_CHAOS_ROUNDS").unwrap_or(1);
    let seconds = variable("BATON_CHAOS_SECONDS").unwrap_or(1);
    let seed = variable("BATON_SEED").unwrap_or(7);
    let place = Place::new(open, cut_queue);
    let tree = place.tree();
    make_repository(&tree);
    place.check("before");
    for round in 0..rounds {
        let stop = AtomicBool::new(false);
        let mapped = std::process::Command::new("python3")
            .args(["-c", MAPPED, tree.to_str().unwrap(), &seconds.to_string()])
            .stderr(std::process::Stdio::null())
            .spawn();
        std::thread::scope(|threads| {
            for writer in 0..7u64 {
                let (tree, stop) = (&tree, &stop);
                threads.spawn(move || {
                    let mut numbers = Numbers(seed * 1_000_003 + round * 101 + writer + 1);
                    while !stop.load(Ordering::Relaxed) {
                        disturb(tree, &mut numbers);
                    }
                });
            }
            let (repo, flag) = (tree.join("repo"), &stop);
            threads.spawn(move || {
                while !flag.load(Ordering::Relaxed) {
                    git(&repo, &["checkout", "-q", "-f", "one"]);
                    git(&repo, &["checkout", "-q", "-f", "two"]);
                }
            });
            let end = Clock::system().instant() + Duration::from_secs(seconds);
            let mut taken = 0;
            while Clock::system().instant() < end {
                place.take();
                taken += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            stop.store(true, Ordering::Relaxed);
            println!("round {round}: {taken} snapshots meanwhile");
        });
        match mapped {
            Ok(mut child) => drop(child.wait().unwrap()),
            Err(_) => println!("!!! no python3: nothing was written through a mapping"),
        }
        place.check("after the chaos");
    }
}

#[test]
fn chaos_is_sealed_exactly() {
    chaos(choose::open, None);
}

#[test]
fn chaos_is_sealed_exactly_where_the_queue_overflows() {
    chaos(choose::open, Some(16));
}

#[test]
fn chaos_is_sealed_exactly_by_the_portable_watch() {
    chaos(by_notify, None);
}

#[test]
fn chaos_is_sealed_exactly_by_the_portable_watch_where_the_queue_overflows() {
    chaos(by_notify, Some(16));
}

/// Does to files what it is told on its standard input, in another process, and says when it is done.
const HAND: &str = "
import mmap, os, sys
os.chdir(sys.argv[1])
for line in sys.stdin:
    what, path, other = line.rstrip('\\n').split(' ')
    if what == 'append':
        with open(path, 'a') as file: file.write(other + '\\n')
    elif what == 'replace':
        with open('.save', 'w') as file: file.write(other + '\\n')
        os.rename('.save', path)
    elif what == 'truncate':
        with open(path, 'a+') as file: file.truncate(int(other) % 40)
    elif what == 'chmod':
        os.chmod(path, 0o600 | (int(other) & 0o77))
    elif what == 'map':
        with open(path, 'a+b') as file:
            file.truncate(64)
            with mmap.mmap(file.fileno(), 64) as mapped:
                mapped[8:16] = b'%08d' % (int(other) % 10**8)
    elif what == 'link':
        name = path + '.link'
        if os.path.exists(name): os.unlink(name)
        os.link(path, name)
        with open(name, 'a') as file: file.write(other + '\\n')
    print('done', flush=True)
";

/// `BATON_PAIRS` says how many; on the file system of `TMPDIR`.
#[test]
fn whatever_another_process_wrote_is_in_the_next_snapshot() {
    use std::io::{BufRead, Write};
    let pairs = variable("BATON_PAIRS").unwrap_or(200);
    let place = Place::new(choose::open, None);
    let tree = place.tree();
    for i in 0..40 {
        std::fs::create_dir_all(tree.join(format!("d{i}"))).unwrap();
        for j in 0..5 {
            std::fs::write(tree.join(format!("d{i}/f{j}")), "begin\n").unwrap();
        }
    }
    let hand = std::process::Command::new("python3")
        .args(["-c", HAND, tree.to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let Ok(mut hand) = hand else { return println!("!!! no python3: NOT TESTED") };
    let (mut to, from) = (hand.stdin.take().unwrap(), hand.stdout.take().unwrap());
    let mut said = std::io::BufReader::new(from).lines();
    place.take();
    place.take();
    let mut numbers = Numbers(variable("BATON_SEED").unwrap_or(11));
    let (mut barriers, mut seals) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let path = format!("d{}/f{}", numbers.below(40), numbers.below(5));
        let rare = ["replace", "truncate", "chmod", "map", "link"];
        let what = match numbers.below(10) {
            0 => rare[numbers.below(5) as usize],
            _ => "append",
        };
        writeln!(to, "{what} {path} {pair}").unwrap();
        to.flush().unwrap();
        assert_eq!(said.next().unwrap().unwrap(), "done");
        let taken = place.take();
        barriers.push(taken.barrier);
        seals.push(taken.barrier + taken.scan);
        for path in [path.clone(), path + ".link"] {
            let wanted = std::fs::read(tree.join(&path)).ok().map(|bytes| {
                let mode = tree.join(&path).metadata().unwrap().mode() & 0o777;
                (baton_protocol::id::ChunkId::of(&bytes).into(), mode)
            });
            let rel = baton_protocol::path::RelPath::new(path.as_bytes()).unwrap();
            let root = taken.snapshot.root;
            let found = baton_store::snapshot::find_entry(&place.workspaces.vault, root, &rel);
            let found = found.unwrap().map(|entry| match entry.kind {
                baton_protocol::object::EntryKind::File { mode, blob } => {
                    (blob.content.id(), u32::from(mode))
                }
                other => panic!("{path} is {other:?}"),
            });
            assert_eq!(found, wanted, "pair {pair}: {what} of {path}");
        }
    }
    drop(to);
    hand.wait().unwrap();
    place.check("at the end");
    for (name, times) in [("barrier", &mut barriers), ("barrier and scan", &mut seals)] {
        times.sort_unstable();
        let at = |thousandths: usize| times[(times.len() - 1) * thousandths / 1000];
        println!(
            "{pairs} pairs, 0 missed; {name}: p50 {:?} p99 {:?} p99.9 {:?} longest {:?}",
            at(500),
            at(990),
            at(999),
            at(1000)
        );
    }
}
