//! The checkouts of a node, with layers and without: what a run has left is in a snapshot, or is still there.

#![expect(
    clippy::disallowed_methods,
    reason = "what a run does, it does with the system's own calls"
)]

mod conformance;
mod conversing;
mod installed;
mod unprivileged;

use std::fs as system;
use std::io::Write;
use std::sync::atomic::AtomicBool;

use baton_protocol::id::{DeviceId, RunId, VaultId, WorkspaceId};

use baton_store::git;

use super::*;
use crate::environments::cache::CacheLimits;
use crate::secrets::Secrets;
use crate::workspace::repository::not_carried;

const VAULT: VaultId = VaultId::from_bytes([9; 16]);
const WORKSPACE: WorkspaceId = WorkspaceId::from_bytes([2; 16]);

/// The home of a node, and its daemons one after the other.
struct Lab {
    folder: tempfile::TempDir,
    store: Store,
    git: Option<GitProgram>,
    kind: Kind,
}

/// Kinds of checkouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Written from the store.
    Copies,
    /// That share bytes, where the file system can.
    Bytes,
    /// That share layers.
    Layers,
}

impl Lab {
    fn new() -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), Kind::Copies)
    }

    fn in_folder(folder: tempfile::TempDir, kind: Kind) -> Self {
        unprivileged::give_up_rights();
        for name in ["runs", "scratch", "plain"] {
            system::create_dir_all(folder.path().join(name)).unwrap();
        }
        let store = Store::open(&folder.path().join("store")).unwrap();
        Self { folder, store, git: None, kind }
    }

    /// Nothing where this machine, or this user, cannot mount overlays.
    fn with_overlays() -> Option<Self> {
        let lab = Self::in_folder(tempfile::tempdir().unwrap(), Kind::Layers);
        match lab.layers() {
            Ok(_) => Some(lab),
            Err(error) => {
                writeln!(std::io::stderr(), "!!! overlays are not tested: {error}").unwrap();
                assert!(std::env::var_os("BATON_REQUIRE_OVERLAYS").is_none(), "they have to be");
                None
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn layers(&self) -> Result<SharedLayers, baton_store::fs::FsError> {
        SharedLayers::choose(self.path("cache"), self.path("runs"))
    }

    /// The next daemon.
    fn node(&self) -> NodeCheckouts {
        let mut node = self.without_overlays();
        match self.kind {
            Kind::Copies => {}
            Kind::Bytes => node.cloned = Some(SharedBytes::with(self.path("copies")).unwrap()),
            Kind::Layers => node.shared = Some(self.layers().unwrap()),
        }
        node
    }

    /// Where the layers of the workspace are.
    fn stack_folder(&self) -> PathBuf {
        let below = match self.layers().unwrap().marks() {
            Marks::Trusted => "cache",
            Marks::User => "cache/users",
        };
        self.path(below).join(VAULT.to_string()).join(WORKSPACE.to_string())
    }

    /// The next one, after another start of the machine, which ends what was mounted.
    fn restarted(&self, places: &[&Place]) -> NodeCheckouts {
        for place in places {
            overlay::unmount(&place.checkout).unwrap();
        }
        let mut node = self.without_overlays();
        node.shared = Some(self.layers().unwrap().started_at("another start"));
        node
    }

    fn without_overlays(&self) -> NodeCheckouts {
        NodeCheckouts {
            store: self.store.clone(),
            clock: Clock::manual(1_000_000),
            git: self.git.clone(),
            scratch: self.path("scratch"),
            captures: Captures::default(),
            secrets: Secrets::new(self.path("secrets")),
            shared: None,
            cloned: None,
            note: None,
            aside: self.path("runs/aside"),
            environments: EnvironmentCache::open(self.path("environments"), CacheLimits::default()),
            setups: Setups::default(),
            system: "a test".to_owned(),
        }
    }

    fn vault(&self) -> Vault {
        self.store.vault(VAULT).unwrap()
    }

    /// A snapshot of `plain`.
    fn snapshot(&self) -> SnapshotId {
        let (intake, root) = (self.vault().intake(), self.path("plain"));
        let (options, progress) = (ScanOptions::default(), Progress::default());
        let scanned = scan(&root, &StatCache::default(), &intake, &options, &progress).unwrap();
        let git = self
            .git
            .as_ref()
            .map(|_| self.without_overlays().capture_here(&root, &scanned, None, &intake).unwrap());
        let parts = SnapshotParts {
            workspace: WORKSPACE,
            device: DeviceId::from_bytes([7; 32]),
            sequence: 1,
            parents: Vec::new(),
            git,
            conversations: Vec::new(),
            created_at: 0,
            message: String::new(),
        };
        let worktrees = git.map(|id| git::worktrees(&intake, id).unwrap()).unwrap_or_default();
        let omitted = not_carried(&scanned.omitted, &worktrees);
        let snapshot = build_snapshot(&scanned, &omitted, parts, &intake).unwrap();
        let id = store_snapshot(&snapshot, &intake).unwrap();
        intake.keep(&[id.into()]).unwrap();
        id
    }

    fn place(&self, number: u8) -> Place {
        let run = RunId::from_bytes([number; 16]);
        let folders = Folders::of(&self.path("runs"), run);
        let folder = folders.layer().parent().unwrap().to_owned();
        let attachments = folder.join("attachments");
        system::create_dir_all(&attachments).unwrap();
        Place {
            agent: "command".to_owned(),
            home: None,
            conversation: None,
            run,
            vault: VAULT,
            workspace: WORKSPACE,
            checkout: folder.join("checkout"),
            attachments,
            layer: folders.layer(),
        }
    }

    /// What stands in a folder, as a scan finds it.
    fn found(&self, folder: &Path) -> TreeId {
        let intake = self.vault().intake();
        let (options, progress) = (ScanOptions::default(), Progress::default());
        scan(folder, &StatCache::default(), &intake, &options, &progress).unwrap().root
    }

    /// The files of a snapshot.
    fn files(&self, snapshot: SnapshotId) -> TreeId {
        load_snapshot(&self.vault(), snapshot).unwrap().root
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for run in baton_store::fs::list_dir(&self.path("runs")).unwrap() {
            let checkout = self.path("runs").join(run).join("checkout");
            if checkout.is_dir() {
                overlay::unmount(&checkout).unwrap();
            }
        }
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    system::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
    system::write(folder.join(name), text).unwrap();
}

fn sweep_all(node: &NodeCheckouts) {
    node.sweep(&AtomicBool::new(false)).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let names = baton_store::fs::list_dir(folder).unwrap().into_iter();
    names.map(|name| name.into_string().unwrap()).collect()
}

/// A file in a checkout is another one, another one is gone, and one is new.
fn work(place: &Place) {
    write(&place.checkout, "edited", "by the run\n");
    write(&place.checkout, "folder/new", "new\n");
    system::remove_file(place.checkout.join("folder/gone")).unwrap();
}

/// A lab with overlays, a project in it, and a run that has worked on it under a daemon that is not there any more.
fn abandoned() -> Option<(Lab, Place, SnapshotId, TreeId)> {
    let lab = Lab::with_overlays()?;
    let place = lab.place(1);
    for name in ["edited", "folder/gone", "folder/stays", "other/stays"] {
        write(&lab.path("plain"), name, "before\n");
    }
    let snapshot = lab.snapshot();
    lab.node().prepare(&place, snapshot).unwrap();
    assert_eq!(lab.found(&place.checkout), lab.files(snapshot));
    work(&place);
    let left = lab.found(&place.checkout);
    assert_ne!(left, lab.files(snapshot));
    Some((lab, place, snapshot, left))
}

#[test]
fn what_was_mounted_when_a_daemon_was_killed_is_sealed_by_the_next_one() {
    let Some((lab, place, snapshot, left)) = abandoned() else { return };
    assert!(overlay::is_mounted(&place.checkout).unwrap());
    let result = lab.node().seal(&place, snapshot).unwrap();
    assert_eq!(lab.files(result), left);
}

#[test]
fn what_is_not_mounted_any_more_is_shown_again() {
    let Some((lab, place, snapshot, left)) = abandoned() else { return };
    // As when a container was started again: nothing is mounted, and the kernel is the same.
    overlay::unmount(&place.checkout).unwrap();
    system::remove_dir(&place.checkout).unwrap();
    let result = lab.node().seal(&place, snapshot).unwrap();
    assert_eq!(lab.files(result), left);
    assert_eq!(lab.found(&place.checkout), left);
}

#[test]
fn after_another_start_of_the_machine_what_was_below_is_made_again() {
    let Some((lab, place, snapshot, left)) = abandoned() else { return };
    let node = lab.restarted(&[&place]);
    // What was not synced is gone.
    let tree = lab.stack_folder().join("1/tree");
    write(&tree, "folder/stays", "");
    system::remove_dir_all(tree.join("other")).unwrap();
    // Meanwhile others work on it, and go.
    let other = lab.place(2);
    node.prepare(&other, snapshot).unwrap();
    assert_eq!(lab.found(&other.checkout), lab.files(snapshot));
    node.release(&other.checkout, &other.layer).unwrap();
    sweep_all(&node);
    let result = node.seal(&place, snapshot).unwrap();
    assert_eq!(lab.files(result), left);
}

#[test]
fn layers_that_somebody_took_away_are_not_taken_for_what_a_run_removed() {
    let Some((lab, place, snapshot, _)) = abandoned() else { return };
    let node = lab.node();
    // Because of these rules all of it is looked at.
    write(&place.checkout, ".batonignore", "nothing\n");
    let left = lab.found(&place.checkout);
    system::remove_dir_all(lab.path("cache")).unwrap();
    // Numbers are given again, for something else.
    write(&lab.path("plain"), "unlike", "x");
    let (other, unlike) = (lab.place(2), lab.snapshot());
    node.prepare(&other, unlike).unwrap();
    assert!(overlay::is_mounted(&place.checkout).unwrap());
    let result = node.seal(&place, snapshot).unwrap();
    assert_eq!(lab.files(result), left);
    assert_eq!(lab.found(&other.checkout), lab.files(unlike));
}

#[test]
fn a_daemon_without_overlays_seals_nothing_and_keeps_all() {
    let Some((lab, place, snapshot, left)) = abandoned() else { return };
    overlay::unmount(&place.checkout).unwrap();
    let node = lab.without_overlays();
    let error = node.seal(&place, snapshot).unwrap_err();
    let why = error.source.to_string();
    assert!(why.contains(place.layer.join("upper").to_str().unwrap()), "{why}");
    assert_eq!(lab.vault().head(WORKSPACE, place.run.device()), None);
    node.let_go(&place.checkout, &place.layer).unwrap();
    sweep_all(&node);
    assert!(node.is_there(&place.checkout, &place.layer));
    let result = lab.node().seal(&place, snapshot).unwrap();
    assert_eq!(lab.files(result), left);
}

#[test]
fn half_a_layer_is_never_sealed() {
    let Some(lab) = Lab::with_overlays() else { return };
    let (place, snapshot) = (lab.place(1), lab.snapshot());
    // A crash in the middle, or whoever takes away what is none of his.
    for folder in [&place.checkout, &place.layer] {
        system::create_dir_all(folder).unwrap();
    }
    lab.node().seal(&place, snapshot).unwrap_err();
    lab.without_overlays().seal(&place, snapshot).unwrap_err();
    assert_eq!(lab.vault().head(WORKSPACE, place.run.device()), None);
}

#[test]
fn a_layer_that_came_back_without_its_attributes_is_not_taken_for_what_a_run_left() {
    let Some((lab, place, snapshot, left)) = abandoned() else { return };
    overlay::unmount(&place.checkout).unwrap();
    let (upper, aside) = (place.layer.join("upper"), lab.path("aside"));
    system::rename(&upper, &aside).unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-r", "--preserve=mode,timestamps,ownership"])
        .args([&aside, &upper])
        .status();
    assert!(copied.unwrap().success());
    let node = lab.node();
    let refused = node.seal(&place, snapshot).unwrap_err();
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert!(why.contains("extended attributes"), "{why}");
    assert_eq!(lab.vault().head(WORKSPACE, place.run.device()), None);
    node.let_go(&place.checkout, &place.layer).unwrap();
    assert!(node.is_there(&place.checkout, &place.layer));
    system::remove_dir_all(&upper).unwrap();
    system::rename(&aside, &upper).unwrap();
    let result = lab.node().seal(&place, snapshot).unwrap();
    assert_eq!(lab.files(result), left);
}

#[test]
fn a_checkout_is_let_go_of_when_it_is_sealed_and_not_before() {
    let Some((lab, place, snapshot, left)) = abandoned() else { return };
    let node = lab.node();
    node.let_go(&place.checkout, &place.layer).unwrap();
    assert_eq!(lab.found(&place.checkout), left);
    let result = node.seal(&place, snapshot).unwrap();
    assert_eq!(lab.found(&place.checkout), left);
    node.let_go(&place.checkout, &place.layer).unwrap();
    assert!(!node.is_there(&place.checkout, &place.layer));
    assert!(!names(&node.aside).is_empty());
    // Twice, as by two that let go of all.
    node.let_go(&place.checkout, &place.layer).unwrap();
    // Its end may not have reached the catalog: the next daemon asks again.
    assert_eq!(lab.node().seal(&place, snapshot).unwrap(), result);
    sweep_all(&node);
    assert!(names(&node.aside).is_empty());
}

#[test]
fn cut_off_while_it_is_let_go_of_it_is_still_what_was_sealed() {
    let Some((lab, place, snapshot, _)) = abandoned() else { return };
    let node = lab.node();
    let result = node.seal(&place, snapshot).unwrap();
    overlay::unmount(&place.checkout).unwrap();
    assert_eq!(lab.node().seal(&place, snapshot).unwrap(), result);
    system::remove_dir(&place.checkout).unwrap();
    assert_eq!(lab.node().seal(&place, snapshot).unwrap(), result);
    node.let_go(&place.checkout, &place.layer).unwrap();
    assert_eq!(lab.node().seal(&place, snapshot).unwrap(), result);
}

#[test]
fn layers_go_with_the_last_run_that_has_them() {
    let Some((lab, place, snapshot, left)) = abandoned() else { return };
    let node = lab.node();
    let folder = lab.stack_folder();
    // Too unlike to share anything.
    for number in 0..1100 {
        write(&lab.path("plain"), &format!("many/{number}"), "x");
    }
    let (other, unlike) = (lab.place(2), lab.snapshot());
    node.prepare(&other, unlike).unwrap();
    // Others in the folder are no runs.
    write(&lab.path("runs"), "stray", "x");
    sweep_all(&node);
    assert_eq!(names(&folder), ["1", "2", "users"]);
    let result = node.seal(&place, snapshot).unwrap();
    assert_eq!(lab.files(result), left);
    node.let_go(&place.checkout, &place.layer).unwrap();
    // The next daemon, which nobody has asked for this workspace.
    sweep_all(&lab.node());
    assert_eq!(names(&folder), ["2", "users"]);
    assert_eq!(names(&folder.join("users")), [other.run.to_string()]);
    assert_eq!(lab.found(&other.checkout), lab.files(unlike));
    node.release(&other.checkout, &other.layer).unwrap();
    // After another start of the machine the last one goes, too.
    sweep_all(&lab.restarted(&[]));
    assert_eq!(names(&folder), ["users"]);
    assert!(names(&folder.join("users")).is_empty());
}

#[test]
fn nothing_is_taken_away_while_others_are_prepared() {
    let Some(lab) = Lab::with_overlays() else { return };
    let mut snapshots = Vec::new();
    for kind in 0..3 {
        // Each two are too unlike to share anything, but for every other one.
        for number in 0..1100 {
            write(&lab.path("plain"), &format!("many/{number}"), &(kind % 2).to_string());
        }
        write(&lab.path("plain"), "kind", &kind.to_string());
        snapshots.push(lab.snapshot());
    }
    let (node, stop) = (lab.node(), AtomicBool::new(false));
    let (node, lab, stop, snapshots) = (&node, &lab, &stop, &snapshots);
    std::thread::scope(|scope| {
        let sweeper = scope.spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                sweep_all(node);
            }
        });
        let at_work: Vec<_> = (0..4u8)
            .map(|worker| {
                scope.spawn(move || {
                    for round in 0..5 {
                        let place = lab.place(1 + worker * 10 + round);
                        let snapshot = snapshots[usize::from(worker + round) % 3];
                        node.prepare(&place, snapshot).unwrap();
                        assert_eq!(lab.found(&place.checkout), lab.files(snapshot));
                        write(&place.checkout, "made", &round.to_string());
                        let result = node.seal(&place, snapshot).unwrap();
                        assert_eq!(lab.found(&place.checkout), lab.files(result));
                        node.let_go(&place.checkout, &place.layer).unwrap();
                    }
                })
            })
            .collect();
        let ended: Vec<_> = at_work.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        sweeper.join().unwrap();
        for ended in ended {
            ended.unwrap();
        }
    });
}

#[test]
fn however_deep_a_run_has_gone_its_layer_goes() {
    let Some((lab, place, snapshot, _)) = abandoned() else { return };
    // Deeper than what a path can name, and than a tree may be.
    let (mode, flags) = (rustix::fs::Mode::RWXU, rustix::fs::OFlags::DIRECTORY);
    let mut folder: std::os::fd::OwnedFd = baton_store::fs::open(&place.checkout).unwrap().into();
    for _ in 0..2 * baton_protocol::path::MAX_DEPTH + 100 {
        rustix::fs::mkdirat(&folder, "d", mode).unwrap();
        folder = rustix::fs::openat(&folder, "d", flags, mode).unwrap();
    }
    drop(folder);
    let node = lab.node();
    let result = node.seal(&place, snapshot).unwrap();
    assert_ne!(lab.files(result), lab.files(snapshot));
    node.let_go(&place.checkout, &place.layer).unwrap();
    sweep_all(&node);
    assert!(names(&node.aside).is_empty());
}

#[test]
fn a_sweep_that_is_told_to_stop_leaves_the_rest_to_the_next_one() {
    let Some((lab, place, snapshot, _)) = abandoned() else { return };
    let node = lab.node();
    node.seal(&place, snapshot).unwrap();
    node.let_go(&place.checkout, &place.layer).unwrap();
    node.sweep(&AtomicBool::new(true)).unwrap();
    assert!(!names(&node.aside).is_empty());
    sweep_all(&node);
    assert!(names(&node.aside).is_empty());
}

/// What git says.
fn run_git(at: &Path, args: &[&str]) -> String {
    let mut git = std::process::Command::new("git");
    git.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", "/nonexistent");
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    git.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "gc.auto=0", "-C"]);
    git.arg(at).args(args);
    let output = git.output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_repository_and_those_in_it_come_back_from_every_kind_of_checkout() {
    for mut lab in conformance::labs() {
        lab.git = Some(git_program());
        come_back_with_repositories(&lab);
    }
}

fn git_program() -> GitProgram {
    let found = ["/usr/bin/git", "/usr/local/bin/git"].map(PathBuf::from);
    GitProgram::new(found.into_iter().find(|path| path.exists()).unwrap())
}

fn come_back_with_repositories(lab: &Lab) {
    let plain = lab.path("plain");
    for at in [plain.join("inner"), plain.clone()] {
        write(&at, "file", "x\n");
        run_git(&at, &["init", "-q", "-b", "main"]);
        run_git(&at, &["add", "file"]);
        run_git(&at, &["commit", "-q", "-m", "first"]);
    }
    let snapshot = lab.snapshot();
    for (number, node) in [lab.node(), lab.node()].iter().enumerate() {
        let place = lab.place(10 * number as u8);
        let prepared = node.prepare(&place, snapshot).unwrap();
        assert_eq!(prepared.receipt["omitted"].as_array().map_or(0, Vec::len), 0);
        let status = ["status", "--porcelain=v2", "--branch"];
        assert_eq!(run_git(&place.checkout, &status), run_git(&plain, &status));
        // Nothing of the inner one.
        write(&place.checkout, "file", "y\n");
        run_git(&place.checkout, &["commit", "-q", "-a", "-m", "of the run"]);
        let head = run_git(&place.checkout, &["rev-parse", "HEAD"]);
        let result = node.seal(&place, snapshot).unwrap();
        let loaded = load_snapshot(&lab.vault(), result).unwrap();
        assert_eq!(loaded.omitted, None);
        let worktrees = git::worktrees(&lab.vault(), loaded.git.unwrap()).unwrap();
        assert_eq!(worktrees, [&b""[..], b"inner"].map(<[u8]>::to_vec).into());
        // What comes after it has the commit, and both repositories.
        let next = lab.place(10 * number as u8 + 1);
        node.prepare(&next, result).unwrap();
        assert_eq!(run_git(&next.checkout, &["rev-parse", "HEAD"]), head);
        assert_eq!(run_git(&next.checkout, &status), run_git(&place.checkout, &status));
        let inner = ["log", "--format=%H"];
        let at = |folder: &Path| run_git(&folder.join("inner"), &inner);
        assert_eq!(at(&next.checkout), at(&plain));
        let last = load_snapshot(&lab.vault(), node.seal(&next, result).unwrap()).unwrap();
        assert_eq!(git::worktrees(&lab.vault(), last.git.unwrap()).unwrap(), worktrees);
    }
}
