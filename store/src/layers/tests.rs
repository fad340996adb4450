//! Checkouts that share layers against plain ones: whatever a run does in one, both are the same tree.
//!
//! - [`collected`]: what goes, and what stays
//! - [`repositories`]: with git
//! - [`unprivileged`]: all of it without root

#![expect(
    clippy::disallowed_methods,
    reason = "what a run does, it does with the system's own calls"
)]

mod collected;
mod repositories;
mod unprivileged;

use std::cell::Cell;
use std::fs::{self as system, Permissions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use baton_protocol::id::{DeviceId, GitStateId, TreeId, WorkspaceId};
use baton_protocol::object::{Omission, OmitReason, Snapshot};
use baton_protocol::path::RelPath;
use proptest::prelude::*;

use super::overlay::{self, Marks, Overlay};
use super::{LayerError, LayerOptions, Layers, Stack, changed, left_out};
use crate::checkout::{RepositoryOptions, RestoreOptions};
use crate::git::{CaptureOptions, Commands, GitProgram, capture};
use crate::ignore::GitUser;
use crate::objects::memory::MemoryObjects;
use crate::scan::dirty::MAX_NAMES;
use crate::scan::{Made, Progress, ScanOptions, Scanned, scan, seal_made};
use crate::snapshot::{SnapshotParts, build_snapshot};
use crate::stat_cache::StatCache;

fn is_nightly() -> bool {
    std::env::var_os("BATON_NIGHTLY").is_some()
}

/// Something that a run does, with the numbers of paths.
#[derive(Clone, Debug)]
enum Step {
    Write(u8),
    Append(u8),
    Remove(u8),
    MakeDirectory(u8),
    RemoveAll(u8),
    Recreate(u8),
    Rename(u8, u8),
    Link(u8, u8),
    Symlink(u8),
    Mode(u8, u16),
    Ignore(u8),
    Many(u8),
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    prop_oneof![
        20 => any::<u8>().prop_map(Write),
        8 => any::<u8>().prop_map(Append),
        8 => any::<u8>().prop_map(Remove),
        12 => any::<u8>().prop_map(MakeDirectory),
        4 => any::<u8>().prop_map(RemoveAll),
        4 => any::<u8>().prop_map(Recreate),
        16 => any::<(u8, u8)>().prop_map(|(a, b)| Rename(a, b)),
        4 => any::<(u8, u8)>().prop_map(|(a, b)| Link(a, b)),
        4 => any::<u8>().prop_map(Symlink),
        8 => (any::<u8>(), 0u16..0o1000).prop_map(|(at, mode)| Mode(at, mode | 0o700)),
        4 => any::<u8>().prop_map(Ignore),
        1 => any::<u8>().prop_map(Many),
    ]
}

/// Every path below a folder but git's, the folder itself among them, in the order of their names.
fn paths(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_owned()];
    let mut at = 0;
    while let Some(path) = found.get(at).cloned() {
        at += 1;
        if !path.symlink_metadata().unwrap().is_dir() {
            continue;
        }
        let names = system::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<_> = names.filter(|path| !path.ends_with(".git")).collect();
        names.sort();
        found.extend(names);
    }
    found
}

fn any_path(root: &Path, number: u8) -> PathBuf {
    let all = paths(root);
    all[usize::from(number) % all.len()].clone()
}

fn any_folder(root: &Path, number: u8) -> PathBuf {
    let all: Vec<_> =
        paths(root).into_iter().filter(|it| it.symlink_metadata().unwrap().is_dir()).collect();
    all[usize::from(number) % all.len()].clone()
}

/// Does it, as far as the system lets.
fn act(root: &Path, step: &Step, count: usize) {
    use Step::*;
    let name = |number: u8| ["a", "b.log", "c", "d", "e"][usize::from(number) % 5];
    let text = format!("{count}\n");
    match *step {
        Write(at) => drop(system::write(any_folder(root, at).join(name(at)), text)),
        Append(at) => {
            let path = any_path(root, at);
            if path.symlink_metadata().unwrap().is_file() {
                let old = system::read(&path).unwrap();
                system::write(&path, [&old, text.as_bytes()].concat()).unwrap();
            }
        }
        Remove(at) => drop(system::remove_file(any_path(root, at))),
        MakeDirectory(at) => drop(system::create_dir(any_folder(root, at).join(name(at / 7)))),
        RemoveAll(at) | Recreate(at) => {
            let path = any_folder(root, at);
            if path != root {
                system::remove_dir_all(&path).unwrap();
                if matches!(step, Recreate(_)) {
                    system::create_dir(&path).unwrap();
                    system::write(path.join("again"), text).unwrap();
                }
            }
        }
        Rename(from, to) => {
            let (from, to) = (any_path(root, from), any_folder(root, to).join(name(to)));
            drop(system::rename(from, to));
        }
        Link(from, to) => {
            let (from, to) = (any_path(root, from), any_folder(root, to).join(name(to)));
            drop(system::hard_link(from, to));
        }
        Symlink(at) => drop(symlink("a", any_folder(root, at).join(name(at / 3)))),
        Mode(at, mode) => {
            let path = any_path(root, at);
            if !path.symlink_metadata().unwrap().is_symlink() {
                system::set_permissions(path, Permissions::from_mode(mode.into())).unwrap();
            }
        }
        Ignore(at) => drop(system::write(any_folder(root, at).join(".gitignore"), "*.log\n")),
        Many(at) => {
            let folder = any_folder(root, at);
            for number in 0..1100 {
                system::write(folder.join(format!("many-{number}")), &text).unwrap();
            }
        }
    }
}

/// Where layers are, and checkouts over them.
struct Ground {
    folder: tempfile::TempDir,
    objects: MemoryObjects,
    layers: Layers,
    git: Option<GitProgram>,
    /// The state that was captured last: the next one builds on its packs.
    last: Cell<Option<GitStateId>>,
    /// What overlays are marked with here.
    marks: Marks,
}

impl Ground {
    /// Nothing where this machine, or this user, cannot mount overlays.
    fn new() -> Option<Self> {
        unprivileged::give_up_rights();
        let folder = tempfile::tempdir().unwrap();
        let marks = match overlay::try_in(folder.path(), folder.path()) {
            Ok(marks) => marks,
            Err(error) => {
                writeln!(
                    std::io::stderr(),
                    "!!! overlays are not tested: {error}: {:?}",
                    std::error::Error::source(&error)
                )
                .unwrap();
                assert!(std::env::var_os("BATON_REQUIRE_OVERLAYS").is_none(), "they have to be");
                return None;
            }
        };
        let layers = Layers::open(&folder.path().join("layers")).unwrap();
        let objects = MemoryObjects::default();
        Some(Self { folder, objects, layers, git: None, last: Cell::new(None), marks })
    }

    fn repository(&self) -> RepositoryOptions {
        let scratch = self.folder.path().join("scratch");
        RepositoryOptions { git: self.git.clone(), scratch, commands: Commands::All }
    }

    fn try_stack(&self, snapshot: &Snapshot, user: &str, boot: &str) -> Result<Stack, LayerError> {
        let how = (&self.repository(), self.marks);
        try_stack(&self.layers, &self.objects, how, snapshot, user, boot)
    }

    fn stack(&self, snapshot: &Snapshot, user: &str) -> Stack {
        self.try_stack(snapshot, user, "b").unwrap()
    }

    fn mount(&self, snapshot: &Snapshot, name: &str) -> Mounted {
        let stack = self.stack(snapshot, name);
        let folder = self.folder.path().join(name);
        let marks = self.marks;
        let (upper, at) = (folder.join("upper"), folder.join("at"));
        let mounted = Mounted { upper, at, stack, marks };
        let work = folder.join("work");
        for folder in [&mounted.upper, &work, &mounted.at] {
            crate::fs::create_dir_all(folder).unwrap();
        }
        crate::fs::set_mode(&mounted.upper, snapshot.root_mode.into()).unwrap();
        let Mounted { upper, at, stack, .. } = &mounted;
        overlay::mount(&Overlay { lower: &stack.trees, upper, work: &work, at, marks }).unwrap();
        mounted
    }

    fn scan(&self, root: &Path) -> (TreeId, u16, Vec<Omission>) {
        let (options, progress) = (ScanOptions::default(), Progress::default());
        let scanned =
            scan(root, &StatCache::default(), &self.objects, &options, &progress).unwrap();
        (scanned.root, scanned.root_mode, scanned.omitted)
    }

    /// The snapshot of a plain folder, its repository among it.
    fn snapshot(&self, root: &Path) -> Snapshot {
        let (options, progress) = (ScanOptions::default(), Progress::default());
        let scanned =
            scan(root, &StatCache::default(), &self.objects, &options, &progress).unwrap();
        let is_git = |omission: &&Omission| omission.reason == OmitReason::GitMetadata;
        let inner = scanned.omitted.iter().filter(is_git);
        let nested = inner.filter_map(|it| it.path.as_bytes().strip_suffix(b"/.git"));
        let git = self.git.as_ref().filter(|_| root.join(".git").exists()).map(|git| {
            let options = CaptureOptions {
                git: git.clone(),
                scratch: self.folder.path().join("scratch"),
                within: None,
                base: self.last.get(),
                user: GitUser::default(),
                nested: nested.map(|path| RelPath::new(path).unwrap()).collect(),
                now: std::time::UNIX_EPOCH,
                most_history: u64::MAX,
                room: u64::MAX,
            };
            capture(root, &self.objects, &options).unwrap().id
        });
        self.last.set(git);
        // What the state has is not left out.
        let carried = git.map(|id| crate::git::worktrees(&self.objects, id).unwrap());
        let carried = carried.unwrap_or_default();
        let is_carried = |omission: &Omission| {
            let above = omission.path.as_bytes().strip_suffix(b".git").unwrap_or(b"-");
            omission.reason == OmitReason::GitMetadata
                && carried.contains(above.strip_suffix(b"/").unwrap_or(above))
        };
        let omitted: Vec<_> =
            scanned.omitted.iter().filter(|it| !is_carried(it)).cloned().collect();
        let parts = SnapshotParts {
            workspace: WorkspaceId::from_bytes([1; 16]),
            device: DeviceId::from_bytes([2; 32]),
            sequence: 1,
            parents: Vec::new(),
            git,
            conversations: Vec::new(),
            created_at: 0,
            message: String::new(),
        };
        build_snapshot(&scanned, &omitted, parts, &self.objects).unwrap()
    }
}

fn try_stack(
    layers: &Layers,
    objects: &MemoryObjects,
    (repository, marks): (&RepositoryOptions, Marks),
    snapshot: &Snapshot,
    user: &str,
    boot: &str,
) -> Result<Stack, LayerError> {
    let options = LayerOptions { restore: RestoreOptions::default(), repository, boot, marks };
    layers.stack(objects, snapshot, user, &options, &Progress::default())
}

/// A checkout over layers, taken away at the end.
struct Mounted {
    upper: PathBuf,
    at: PathBuf,
    stack: Stack,
    marks: Marks,
}

impl Mounted {
    fn seal(&self, snapshot: &Snapshot, objects: &MemoryObjects) -> Scanned {
        let made = Made {
            root: snapshot.root,
            omitted: left_out(objects, snapshot).unwrap(),
            repository: self.stack.repository(),
            dirty: changed(&self.upper, self.marks).unwrap(),
        };
        let (options, progress) = (ScanOptions::default(), Progress::default());
        seal_made(&self.at, made, objects, &options, &progress).unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        overlay::unmount(&self.at).unwrap();
    }
}

/// What stands in a folder, as `find` says it, and every byte.
fn listing(root: &Path) -> Vec<u8> {
    let script = "cd \"$1\" && find . -printf '%p %y %m %l %T@\\n' | LC_ALL=C sort && \
                  find . -type f -print0 | LC_ALL=C sort -z | xargs -0r cat";
    let mut find = std::process::Command::new("sh");
    find.args(["-c", script, "sh"]).arg(root);
    find.output().unwrap().stdout
}

fn run_generations(generations: &[Vec<Step>]) {
    let Some(ground) = Ground::new() else { return };
    let plain = ground.folder.path().join("plain");
    for name in ["one/two/three", "four"] {
        system::create_dir_all(plain.join(name)).unwrap();
        system::write(plain.join(name).join("file"), name).unwrap();
    }
    let mut snapshot = ground.snapshot(&plain);
    let mut lower: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for (number, steps) in generations.iter().enumerate() {
        let mounted = ground.mount(&snapshot, &format!("run-{number}"));
        assert!(mounted.stack.trees.len() <= 16);
        let found = ground.scan(&mounted.at);
        assert_eq!((found.0, found.1), (snapshot.root, snapshot.root_mode), "{:?}", mounted.stack);
        for tree in &mounted.stack.trees {
            if lower.iter().all(|(known, _)| known != tree) {
                lower.push((tree.clone(), listing(tree)));
            }
        }
        for (at, step) in steps.iter().enumerate() {
            act(&mounted.at, step, number * 1000 + at);
        }
        let sealed = mounted.seal(&snapshot, &ground.objects);
        let found = ground.scan(&mounted.at);
        assert_eq!((sealed.root, sealed.root_mode, &sealed.omitted), (found.0, found.1, &found.2));
        snapshot = ground.snapshot(&mounted.at);
        assert_eq!(snapshot.root, found.0);
    }
    for (tree, before) in &lower {
        assert!(listing(tree) == *before, "{} changed", tree.display());
    }
}

#[test]
fn what_a_run_changes_is_found_in_its_own_layer_and_the_next_one_sees_it() {
    let cases = if is_nightly() { 300 } else { 8 };
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let steps = prop::collection::vec(step(), 0..12);
    let generations = prop::collection::vec(steps, 1..20);
    let mut seed = [0; 32];
    if is_nightly() {
        // Another one each time; it is told where a case fails.
        getrandom::fill(&mut seed).unwrap();
    }
    eprintln!("seed {seed:?}");
    let algorithm = proptest::test_runner::RngAlgorithm::ChaCha;
    let random = proptest::test_runner::TestRng::from_seed(algorithm, &seed);
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(config, random);
    runner
        .run(&generations, |generations| {
            run_generations(&generations);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_folder_that_only_its_mode_names_is_not_read_again() {
    let Some(ground) = Ground::new() else { return };
    let plain = ground.folder.path().join("plain");
    for number in 0..50 {
        system::create_dir_all(plain.join("folder/below")).unwrap();
        system::write(plain.join(format!("folder/below/{number}")), number.to_string()).unwrap();
    }
    let snapshot = ground.snapshot(&plain);
    let mounted = ground.mount(&snapshot, "run");
    for name in ["folder", "folder/below"] {
        system::set_permissions(mounted.at.join(name), Permissions::from_mode(0o701)).unwrap();
    }
    // Copied up with nothing in it.
    system::create_dir(mounted.at.join("folder/below/new")).unwrap();
    system::remove_dir(mounted.at.join("folder/below/new")).unwrap();
    system::write(mounted.at.join("one"), "one").unwrap();
    let sealed = mounted.seal(&snapshot, &ground.objects);
    assert_eq!(sealed.root, ground.scan(&mounted.at).0);
    assert_eq!(sealed.hashed_files, 1);
}

#[test]
fn many_new_files_are_not_named_one_by_one() {
    let Some(ground) = Ground::new() else { return };
    let plain = ground.folder.path().join("plain");
    system::create_dir_all(plain.join("folder")).unwrap();
    for number in 0..20 {
        system::write(plain.join(format!("folder/old-{number}")), "").unwrap();
    }
    let snapshot = ground.snapshot(&plain);
    let mounted = ground.mount(&snapshot, "run");
    for number in 0..3 * MAX_NAMES {
        system::write(mounted.at.join(format!("folder/new-{number}")), "").unwrap();
    }
    for number in 0..20 {
        system::remove_file(mounted.at.join(format!("folder/old-{number}"))).unwrap();
    }
    let dirty = changed(&mounted.upper, ground.marks).unwrap();
    let marks = dirty.directories().get(&b"folder"[..]).unwrap();
    assert!(marks.list && marks.names.len() <= MAX_NAMES);
    assert_eq!(mounted.seal(&snapshot, &ground.objects).root, ground.scan(&mounted.at).0);
}

#[test]
fn what_goes_is_hidden_however_deep_it_is() {
    let Some(ground) = Ground::new() else { return };
    let plain = ground.folder.path().join("plain");
    // As deep as a tree may be: below the folder of a layer no path names it.
    let name = "n".repeat(203);
    system::create_dir_all(&plain).unwrap();
    let mut folder: std::os::fd::OwnedFd = crate::fs::open(&plain).unwrap().into();
    for _ in 0..20 {
        rustix::fs::mkdirat(&folder, &name, rustix::fs::Mode::RWXU).unwrap();
        folder = crate::scan::directory::open_in(folder.as_fd(), name.as_bytes()).unwrap();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    for file in ["goes", "stays"] {
        rustix::fs::openat(&folder, file, flags, rustix::fs::Mode::RUSR).unwrap();
    }
    ground.stack(&ground.snapshot(&plain), "before");
    rustix::fs::unlinkat(&folder, "goes", rustix::fs::AtFlags::empty()).unwrap();
    let snapshot = ground.snapshot(&plain);
    let mounted = ground.mount(&snapshot, "run");
    assert_eq!(mounted.stack.layers.len(), 2);
    assert_eq!(ground.scan(&mounted.at).0, snapshot.root);
}

#[test]
fn a_folder_that_cannot_be_renamed_is_moved_all_the_same() {
    let Some(ground) = Ground::new() else { return };
    let plain = ground.folder.path().join("plain");
    // The kernel notes where a folder came from in 256 bytes.
    let deep = PathBuf::from("n".repeat(150)).join("m".repeat(150));
    system::create_dir_all(plain.join(&deep).join("folder")).unwrap();
    for name in ["one", "two"] {
        system::write(plain.join(&deep).join("folder").join(name), name).unwrap();
    }
    let snapshot = ground.snapshot(&plain);
    let mounted = ground.mount(&snapshot, "run");
    let (from, to) = (mounted.at.join(&deep).join("folder"), mounted.at.join("moved"));
    let refused = system::rename(&from, &to).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::CrossesDevices);
    let mut mv = std::process::Command::new("mv");
    assert!(mv.arg(&from).arg(&to).status().unwrap().success());
    let sealed = mounted.seal(&snapshot, &ground.objects);
    assert_eq!(sealed.root, ground.scan(&mounted.at).0);
    assert_eq!(system::read(to.join("two")).unwrap(), b"two");
    if !ground.marks.rename() {
        return;
    }
    // Where it is not as deep it is.
    system::rename(mounted.at.join("n".repeat(150)), mounted.at.join("renamed")).unwrap();
    let sealed = mounted.seal(&snapshot, &ground.objects);
    assert_eq!(sealed.root, ground.scan(&mounted.at).0);
}
