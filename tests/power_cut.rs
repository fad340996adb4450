//! The power is cut under a node and under a home: what was acknowledged, or accepted into the queue, is there afterwards.
//!
//! Both stand on disks of their own, which stop in the middle of whatever they do, and take back what they had not written
//! (`FS_IOC_SHUTDOWN`). The list of what was acknowledged is kept elsewhere.
//!
//! `BATON_CUTS` says how often, `BATON_SEED` when. Takes root.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test has the environment and the file system itself, and says what it skips"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::crash::{change, variable};
use crate::support::cloud::{Background, Cloud, arg, list, text};
use crate::support::home::{TestHome, eventually};
use crate::support::rng::Rng;
use crate::support::walker::{Listing, differences, walk};

/// Cuts in the default run, and in the nightly one.
const FEW: u64 = 4;
const MANY: u64 = 100;

/// The smallest that mkfs.xfs makes.
const SIZE: u64 = 320 << 20;

/// Stops a file system, and drops what it has not written: `EXT4_IOC_SHUTDOWN` and `XFS_IOC_GOINGDOWN` are one call, and 2
/// means without its log.
const SHUT_DOWN: &str = r#"
open(my $at, "<", $ARGV[0]) or die $!;
my $flags = pack("L", 2);
ioctl($at, 0x8004587D, $flags) or die $!;
"#;

/// Says that journals are synced, and does nothing.
const NO_SYNC: &str = r#"
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
static int is_journal(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len < 0) return 0;
    path[len] = 0;
    return strstr(path, "/journal/") != NULL;
}
int fdatasync(int fd) { return is_journal(fd) ? 0 : (int)syscall(SYS_fdatasync, fd); }
int fsync(int fd) { return is_journal(fd) ? 0 : (int)syscall(SYS_fsync, fd); }
"#;

/// A disk of its own at a folder.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

fn done(command: &mut Command) -> bool {
    let output = command.output();
    let is_done = output.as_ref().is_ok_and(|output| output.status.success());
    if !is_done {
        eprintln!("{command:?}: {output:?}");
    }
    is_done
}

impl Disk {
    fn new(kind: &str, image: PathBuf, at: PathBuf) -> Self {
        std::fs::File::create(&image).unwrap().set_len(SIZE).unwrap();
        let mut make = Command::new(format!("mkfs.{kind}"));
        assert!(done(make.arg("-q").arg(&image)), "{make:?}");
        std::fs::create_dir_all(&at).unwrap();
        let disk = Self { image, at };
        disk.mount();
        std::fs::File::create(disk.handle()).unwrap().sync_all().unwrap();
        assert!(done(Command::new("sync").arg("-f").arg(&disk.at)));
        disk
    }

    fn mount(&self) {
        let mut mount = Command::new("mount");
        assert!(done(mount.args(["-o", "loop"]).arg(&self.image).arg(&self.at)), "{mount:?}");
    }

    /// A file by which the file system is spoken to.
    fn handle(&self) -> PathBuf {
        self.at.join("handle")
    }

    fn cut_power(&self) {
        let mut cut = Command::new("perl");
        assert!(done(cut.args(["-e", SHUT_DOWN]).arg(self.handle())), "{cut:?}");
    }

    /// The power is back. As long as anybody has it, in whatever mount namespace, it is the one that stopped.
    fn return_power(&self) {
        eventually("nobody has the disk", || {
            if !done(Command::new("umount").arg(&self.at)) {
                return false;
            }
            self.mount();
            std::fs::read(self.handle()).is_ok()
        });
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        done(Command::new("umount").arg("-l").arg(&self.at));
    }
}

/// A node and a home, each on a disk of its own.
struct Scene {
    cloud: Cloud,
    here: TestHome,
    tree: PathBuf,
    node_disk: Disk,
    here_disk: Disk,
    acked: Vec<(String, Listing)>,
    _images: tempfile::TempDir,
}

impl Scene {
    /// Nothing where this user may not mount.
    fn new(kind: &str, preload: Option<&Path>) -> Option<Self> {
        let has_mkfs = done(Command::new(format!("mkfs.{kind}")).arg("-V"));
        if !rustix::process::geteuid().is_root() || !has_mkfs {
            eprintln!("skipped: disks of {kind} take root and mkfs.{kind}");
            return None;
        }
        let images = tempfile::tempdir().unwrap();
        let mut home = TestHome::new();
        if let Some(preload) = preload {
            home.set("LD_PRELOAD", arg(preload));
        }
        let node_disk = Disk::new(kind, images.path().join("node"), home.baton_home());
        let cloud = Cloud::in_home(home);
        let here = TestHome::new();
        let here_disk = Disk::new(kind, images.path().join("here"), here.baton_home());
        here.json(&["join", &cloud.ticket(&[])]);
        let tree = here.folder("work");
        std::fs::write(tree.join("large"), Rng::new(5).bytes(2 << 20)).unwrap();
        let acked = Vec::new();
        Some(Self { cloud, here, tree, node_disk, here_disk, acked, _images: images })
    }

    fn push(&mut self) {
        let pushed = self.here.json(&["push", "--wait", arg(&self.tree)]);
        assert_eq!(text(&pushed, "state"), "acked");
        self.acked.push((text(&pushed, "snapshot").to_owned(), walk(&self.tree)));
    }

    fn cut_node(&mut self) {
        self.node_disk.cut_power();
        let address = self.cloud.kill();
        self.cloud.home.kill();
        self.node_disk.return_power();
        self.cloud.start(address);
    }

    fn cut_here(&self) {
        self.here_disk.cut_power();
        self.here.kill();
        self.here_disk.return_power();
    }

    /// How many of what was acknowledged another home does not get as it was.
    fn lost(&self) -> Vec<String> {
        let fresh = self.cloud.device();
        let mut lost = Vec::new();
        for (snapshot, listing) in &self.acked {
            let into = fresh.root().join("restored");
            let restored = fresh.baton(&["restore", snapshot, "--into", arg(&into)]);
            if !restored.status.success() || !differences(listing, &walk(&into), &[]).is_empty() {
                lost.push(snapshot.clone());
            }
            drop(std::fs::remove_dir_all(into));
        }
        lost
    }
}

fn cuts(kind: &str) {
    let nightly = std::env::var_os("BATON_NIGHTLY").is_some();
    let cuts = variable("BATON_CUTS").unwrap_or(if nightly { MANY } else { FEW });
    let seed = variable("BATON_SEED").unwrap_or(1);
    let Some(mut scene) = Scene::new(kind, None) else { return };
    let mut rng = Rng::new(seed);
    scene.push();
    let (mut here, mut there, mut failed) = (0, 0, 0);
    for _ in 0..cuts {
        change(&scene.tree, &mut rng);
        let mut command = scene.here.command();
        command.args(["push", arg(&scene.tree), "--json"]);
        let mut push = Background::start(command);
        std::thread::sleep(Duration::from_millis(rng.below(400)));
        let (cut_here, cut_there) =
            [(true, false), (false, true), (true, true)][rng.below(3) as usize];
        if cut_there {
            there += 1;
            scene.cut_node();
        }
        if cut_here {
            here += 1;
            scene.cut_here();
        }
        let status = push.end();
        let said: Option<Value> = serde_json::from_str(&push.stdout()).ok();
        match (status.code(), said) {
            (Some(0 | 3), Some(said)) => {
                scene.acked.push((text(&said, "snapshot").to_owned(), walk(&scene.tree)));
            }
            (Some(0 | 3), None) => panic!("{}{}", push.stdout(), push.stderr()),
            _ => failed += 1,
        }
    }
    // Work goes on without a hand.
    change(&scene.tree, &mut rng);
    scene.push();
    assert_eq!(scene.lost(), [""; 0], "{kind}, seed {seed}");
    for (name, checked) in [("here", &scene.here), ("the node", &scene.cloud.home)] {
        let found = checked.json_exit(&["check", "--data"], 0);
        assert_eq!(list(&found, "problems"), &[] as &[Value], "{kind}, seed {seed}, {name}");
    }
    eprintln!(
        "power cuts: {kind}, seed {seed}, {cuts} ({here} here, {there} of the node), {failed} pushes failed, {} accepted \
         and all restored identically",
        scene.acked.len()
    );
}

#[test]
fn what_was_acknowledged_survives_power_cuts_on_ext4() {
    cuts("ext4");
}

#[test]
fn what_was_acknowledged_survives_power_cuts_on_xfs() {
    cuts("xfs");
}

/// The tests above can fail: with the syncs of the journal left out, they do.
#[test]
fn power_cuts_without_the_syncs_of_the_journal_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("no_sync.c"), folder.path().join("no_sync.so"));
    std::fs::write(&source, NO_SYNC).unwrap();
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
    assert!(done(&mut compile), "{compile:?}");
    let Some(mut scene) = Scene::new("ext4", Some(&library)) else { return };
    for round in 0..10 {
        std::fs::write(scene.tree.join("edit"), format!("{round}")).unwrap();
        scene.push();
        scene.cut_node();
        if !scene.lost().is_empty() {
            return;
        }
    }
    panic!("nothing was lost, though nothing was synced");
}
