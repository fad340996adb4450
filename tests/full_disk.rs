//! A full disk is called one, here and on the node; nothing that was acknowledged is lost by it, and when
//! there is room again work goes on.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test has the file system itself, and says what it skips"
)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::cloud::{Cloud, arg, comes_back, list, refused, text};
use crate::support::home::TestHome;
use crate::support::rng::Rng;
use crate::support::walker::{Listing, differences, walk};

/// What the small disk holds.
const SIZE: usize = 24 << 20;

/// A small disk at a folder; taken away when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Nothing where this user may not mount.
    fn at(folder: &Path) -> Option<Self> {
        Self::with(folder, &format!("size={SIZE},mode=0700"))
    }

    fn with(folder: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder);
        let mounted = rustix::process::geteuid().is_root()
            && mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("skipped: mounting a small disk takes root");
        }
        mounted.then(|| Self(folder.to_owned()))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Fills it, but for so many bytes.
    fn fill(&self, but: u64) {
        let free = rustix::fs::statvfs(&self.0).unwrap();
        let free = free.f_bavail * free.f_frsize;
        let mut file = File::create(self.ballast()).unwrap();
        if let Err(error) = file.write_all(&vec![1; free.saturating_sub(but) as usize]) {
            // What the daemon writes a moment after an answer takes its place, too: fuller is as good.
            assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
        }
    }

    /// Takes every inode.
    fn fill_inodes(&self) {
        let folder = self.0.join("many");
        std::fs::create_dir(&folder).unwrap();
        for at in 0.. {
            if File::create(folder.join(at.to_string())).is_err() {
                break;
            }
        }
        let left = rustix::fs::statvfs(&self.0).unwrap();
        let (inodes, blocks) = (left.f_favail, left.f_bavail);
        assert!(inodes == 0 && blocks > 1000, "{inodes} inodes, {blocks} blocks");
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a daemon may still have files on it.
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

/// A workspace in which nothing compresses.
fn grow(tree: &Path, name: &str, seed: u64, len: usize) {
    std::fs::write(tree.join(name), Rng::new(seed).bytes(len)).unwrap();
}

/// What was acknowledged, with how it looked.
#[derive(Default)]
struct Acked(Vec<(String, Listing)>);

impl Acked {
    fn push(&mut self, home: &TestHome, tree: &Path) {
        let pushed = home.json(&["push", arg(tree)]);
        assert_eq!(text(&pushed, "state"), "acked");
        self.0.push((text(&pushed, "snapshot").to_owned(), walk(tree)));
    }

    /// Small ones go on for as long as there is room that was made ahead; then the disk is called full.
    fn push_until_full(&mut self, home: &TestHome, tree: &Path, code: &str) {
        for round in 0..40 {
            grow(tree, "small", 30 + round, 100_000);
            let ran = home.baton(&["--json", "push", arg(tree)]);
            if !ran.status.success() {
                refused(home, &["push", arg(tree)], 1, code);
                return;
            }
            let pushed: Value = serde_json::from_slice(&ran.stdout).unwrap();
            assert_eq!(text(&pushed, "state"), "acked");
            self.0.push((text(&pushed, "snapshot").to_owned(), walk(tree)));
        }
        panic!("40 pushes of 100 kB fitted into a full disk");
    }

    /// All of it comes back from the node.
    fn are_kept(&self, cloud: &Cloud) {
        let fresh = cloud.device();
        for (at, snapshot) in self.0.iter().enumerate() {
            comes_back(&fresh, &format!("restored-{at}"), snapshot);
        }
        let checked = cloud.home.json(&["check", "--data"]);
        assert_eq!(list(&checked, "problems"), &[] as &[Value]);
    }
}

#[test]
fn a_full_disk_here_is_named_and_work_goes_on_when_there_is_room() {
    let cloud = Cloud::new();
    let home = TestHome::new();
    let Some(disk) = SmallDisk::at(&home.baton_home()) else { return };
    home.json(&["join", &cloud.ticket(&[])]);
    let tree = home.folder("work");
    let mut acked = Acked::default();
    grow(&tree, "first", 1, 500_000);
    acked.push(&home, &tree);

    // For large snapshots and small ones, whatever is written when the room ends.
    for (round, free) in [(0, 2_000_000), (1, 200_000), (2, 40_000), (3, 0)] {
        disk.fill(free);
        grow(&tree, "large", 10 + round, 5_000_000);
        refused(&home, &["push", arg(&tree)], 1, "disk-full");
        std::fs::remove_file(tree.join("large")).unwrap();
        // What only reads works.
        let log = home.json(&["log", arg(&tree)]);
        assert_eq!(list(&log, "snapshots").len(), acked.0.len(), "{log}");
        disk.free();
        grow(&tree, "small", 20 + round, 10_000);
        acked.push(&home, &tree);
    }
    disk.fill(0);
    acked.push_until_full(&home, &tree, "disk-full");
    home.kill();
    disk.free();
    acked.push(&home, &tree);
    acked.are_kept(&cloud);
    assert_eq!(list(&home.json(&["check", "--data"]), "problems"), &[] as &[Value]);
}

#[test]
fn a_full_disk_on_the_node_is_named_and_nothing_acknowledged_is_lost() {
    let home = TestHome::new();
    let Some(disk) = SmallDisk::at(&home.baton_home()) else { return };
    // The disk goes first, or its folder could not be removed.
    let (mut cloud, disk) = (Cloud::in_home(home), disk);
    let (home, other) = (cloud.device(), cloud.device());
    let tree = home.folder("work");
    let mut acked = Acked::default();
    grow(&tree, "first", 1, 500_000);
    acked.push(&home, &tree);
    for (round, free) in [(0, 2_000_000), (1, 200_000), (2, 40_000), (3, 0)] {
        disk.fill(free);
        grow(&tree, "large", 10 + round, 5_000_000);
        let said = refused(&home, &["push", arg(&tree)], 1, "remote-disk-full");
        assert!(said.contains("node"), "{said}");
        std::fs::remove_file(tree.join("large")).unwrap();
        // Reading goes on.
        comes_back(&other, &format!("full-{round}"), acked.0.last().unwrap());
        disk.free();
        grow(&tree, "small", 20 + round, 10_000);
        acked.push(&home, &tree);
    }
    disk.fill(0);
    acked.push_until_full(&home, &tree, "remote-disk-full");
    let address = cloud.kill();
    disk.free();
    cloud.start(address);
    acked.push(&home, &tree);
    acked.are_kept(&cloud);
}

#[test]
fn a_restore_into_a_full_disk_leaves_nothing() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let target = home.folder("target");
    let Some(disk) = SmallDisk::at(&target) else { return };
    let tree = home.folder("work");
    for at in 0..8 {
        grow(&tree, &format!("file-{at}"), at, 500_000);
    }
    let mut acked = Acked::default();
    acked.push(&home, &tree);
    let (snapshot, listing) = &acked.0[0];
    disk.fill(1_000_000);
    let into = target.join("restored");
    let before = walk(&target);
    refused(&home, &["restore", snapshot, "--into", arg(&into)], 1, "disk-full");
    assert_eq!(differences(&before, &walk(&target), &[]), [""; 0]);
    disk.free();
    home.json(&["restore", snapshot, "--into", arg(&into)]);
    assert_eq!(differences(listing, &walk(&into), &[]), [""; 0]);
}

/// Pushes four versions of a large file, of which the first two are there to be forgotten.
fn four_versions(home: &TestHome, tree: &Path, acked: &mut Acked) -> Vec<String> {
    for seed in 60..64 {
        grow(tree, "large", seed, 1_200_000);
        acked.push(home, tree);
    }
    acked.0.drain(..2).map(|(snapshot, _)| snapshot).collect()
}

fn forget(home: &TestHome, snapshots: &[String]) {
    for snapshot in snapshots {
        home.json(&["forget", snapshot]);
    }
}

/// What deletes works on a full disk, and makes room.
fn room_is_made(home: &TestHome, disk: &SmallDisk) {
    let done = home.json(&["gc"]);
    assert_eq!(list(&done, "problems"), &[] as &[Value]);
    let free = rustix::fs::statvfs(&disk.0).unwrap();
    let free = free.f_bavail * free.f_frsize;
    assert!(free > 400_000 && done["freed_bytes"].as_u64() > Some(2_300_000), "{free} {done}");
}

#[test]
fn on_a_full_disk_here_things_are_read_and_forgotten_and_that_makes_room() {
    let cloud = Cloud::new();
    let home = TestHome::new();
    let Some(disk) = SmallDisk::at(&home.baton_home()) else { return };
    home.json(&["join", &cloud.ticket(&[])]);
    let tree = home.folder("work");
    let mut acked = Acked::default();
    let old = four_versions(&home, &tree, &mut acked);
    disk.fill(0);
    grow(&tree, "more", 64, 300_000);
    acked.push_until_full(&home, &tree, "disk-full");
    forget(&home, &old);
    room_is_made(&home, &disk);
    acked.push(&home, &tree);
    disk.free();
    acked.are_kept(&cloud);
}

#[test]
fn a_node_that_was_started_on_a_full_disk_reads_and_forgets_and_takes_nothing_until_there_is_room()
{
    let home = TestHome::new();
    let Some(disk) = SmallDisk::at(&home.baton_home()) else { return };
    let (mut cloud, disk) = (Cloud::in_home(home), disk);
    let (home, other) = (cloud.device(), cloud.device());
    let tree = home.folder("work");
    let mut acked = Acked::default();
    let old = four_versions(&home, &tree, &mut acked);
    disk.fill(0);
    grow(&tree, "more", 64, 300_000);
    acked.push_until_full(&home, &tree, "remote-disk-full");
    let address = cloud.kill();
    cloud.start(address);
    comes_back(&other, "full", acked.0.last().unwrap());
    refused(&home, &["push", arg(&tree)], 1, "remote-disk-full");
    forget(&home, &old);
    room_is_made(&cloud.home, &disk);
    acked.push(&home, &tree);
    disk.free();
    acked.are_kept(&cloud);
}

#[test]
fn a_disk_without_inodes_is_called_one_and_recovers() {
    let cloud = Cloud::new();
    let home = TestHome::new();
    let options = format!("size={SIZE},nr_inodes=300,mode=0700");
    let Some(disk) = SmallDisk::with(&home.baton_home(), &options) else { return };
    home.json(&["join", &cloud.ticket(&[])]);
    let tree = home.folder("work");
    let mut acked = Acked::default();
    let old = four_versions(&home, &tree, &mut acked);
    disk.fill_inodes();
    // A start needs some, and has those that were set aside.
    home.kill();
    grow(&tree, "more", 70, 3_000_000);
    let said = refused(&home, &["push", arg(&tree)], 1, "disk-full");
    assert!(said.contains("inodes"), "{said}");
    let log = home.json(&["log", arg(&tree)]);
    assert_eq!(list(&log, "snapshots").len(), 4, "{log}");
    forget(&home, &old);
    assert_eq!(list(&home.json(&["gc"]), "problems"), &[] as &[Value]);
    std::fs::remove_dir_all(disk.0.join("many")).unwrap();
    acked.push(&home, &tree);
    acked.are_kept(&cloud);
}

#[test]
fn an_upgrade_without_room_says_how_much_it_takes_and_leaves_the_home_as_it_was() {
    let home = TestHome::new();
    let Some(disk) = SmallDisk::at(&home.baton_home()) else { return };
    crate::fixtures::extract("home-v1", "home", &home);
    let catalog = home.baton_home().join("catalog.db");
    let before = std::fs::read(&catalog).unwrap();
    disk.fill(400 << 10);
    let said = refused(&home, &["check"], 1, "daemon-start");
    assert!(said.contains("catalog.db") && said.contains("bytes of room"), "{said}");
    assert!(std::fs::read(&catalog).unwrap() == before);
    std::fs::remove_file(disk.ballast()).unwrap();
    assert_eq!(list(&home.json(&["check", "--data"]), "problems").len(), 0);
    home.json(&["daemon", "stop"]);
    assert!(std::fs::read(&catalog).unwrap() != before);
}
