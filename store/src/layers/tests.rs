//! Checkouts that share layers against plain ones: whatever a run does in one, both are the same tree.

#![expect(
    clippy::disallowed_methods,
    reason = "what a run does, it does with the system's own calls"
)]

use std::fs::{self as system, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use baton_protocol::id::{DeviceId, TreeId, WorkspaceId};
use baton_protocol::object::{Omission, OmitReason, Snapshot};
use proptest::prelude::*;

use super::overlay::{self, Overlay};
use super::{LayerOptions, Layers, Stack, changed};
use crate::checkout::{RepositoryOptions, RestoreOptions};
use crate::git::{CaptureOptions, Commands, GitProgram, capture};
use crate::ignore::GitUser;
use crate::objects::memory::MemoryObjects;
use crate::scan::{Made, Progress, ScanOptions, scan, seal_made};
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
}

impl Ground {
    /// Nothing where this machine, or this user, cannot mount overlays.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        if let Err(error) = overlay::try_in(folder.path(), folder.path()) {
            eprintln!("not tested: {error}: {:?}", std::error::Error::source(&error));
            return None;
        }
        let layers = Layers::open(&folder.path().join("layers")).unwrap();
        Some(Self { folder, objects: MemoryObjects::default(), layers, git: None })
    }

    fn repository(&self) -> RepositoryOptions {
        let scratch = self.folder.path().join("scratch");
        RepositoryOptions { git: self.git.clone(), scratch, commands: Commands::All }
    }

    fn user(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn stack(&self, snapshot: &Snapshot, name: &str) -> Stack {
        let repository = self.repository();
        let options =
            LayerOptions { restore: RestoreOptions::default(), repository: &repository, boot: "b" };
        let progress = Progress::default();
        self.layers.stack(&self.objects, snapshot, &self.user(name), &options, &progress).unwrap()
    }

    fn mount(&self, snapshot: &Snapshot, name: &str) -> Mounted {
        let stack = self.stack(snapshot, &format!("{name}-user"));
        let folder = self.folder.path().join(name);
        let mounted = Mounted { upper: folder.join("upper"), at: folder.join("at"), stack };
        let work = folder.join("work");
        for folder in [&mounted.upper, &work, &mounted.at] {
            crate::fs::create_dir_all(folder).unwrap();
        }
        crate::fs::set_mode(&mounted.upper, snapshot.root_mode.into()).unwrap();
        let Mounted { upper, at, stack } = &mounted;
        overlay::mount(&Overlay { lower: &stack.trees, upper, work: &work, at }).unwrap();
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
        let git = self.git.as_ref().map(|git| {
            let options = CaptureOptions {
                git: git.clone(),
                scratch: self.folder.path().join("scratch"),
                within: None,
                base: None,
                user: GitUser::default(),
                nested: Vec::new(),
                now: std::time::UNIX_EPOCH,
            };
            capture(root, &self.objects, &options).unwrap().id
        });
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
        build_snapshot(&scanned, &scanned.omitted, parts, &self.objects).unwrap()
    }
}

/// A checkout over layers, taken away at the end.
struct Mounted {
    upper: PathBuf,
    at: PathBuf,
    stack: Stack,
}

impl Mounted {
    fn made(&self, snapshot: &Snapshot) -> Made<'_> {
        let omitted = vec![Omission {
            path: baton_protocol::path::RelPath::new(b".git").unwrap(),
            reason: OmitReason::GitMetadata,
        }];
        Made {
            root: snapshot.root,
            omitted,
            repository: self.stack.repository(),
            dirty: changed(&self.upper).unwrap(),
        }
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
        let (options, progress) = (ScanOptions::default(), Progress::default());
        let made = mounted.made(&snapshot);
        let sealed = seal_made(&mounted.at, made, &ground.objects, &options, &progress).unwrap();
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
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    runner
        .run(&generations, |generations| {
            run_generations(&generations);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_stack_that_is_high_is_built_over_its_base_and_what_nobody_uses_goes() {
    let Some(ground) = Ground::new() else { return };
    let plain = ground.folder.path().join("plain");
    system::create_dir_all(&plain).unwrap();
    for number in 0..100 {
        system::write(plain.join(format!("file-{number}")), "before").unwrap();
    }
    let mut heights = Vec::new();
    for number in 0..20 {
        system::write(plain.join(format!("file-{number}")), "after").unwrap();
        let snapshot = ground.snapshot(&plain);
        let stack = ground.stack(&snapshot, &format!("user-{number}"));
        heights.push(stack.layers.len());
        assert_eq!(stack, ground.stack(&snapshot, "another"));
        let noted = ground.layers.noted(&ground.user("another"), &snapshot, "b").unwrap();
        assert_eq!(noted, Some(stack));
    }
    let snapshot = ground.snapshot(&plain);
    let expected: Vec<usize> = (1..=16).chain([2, 3, 4, 5]).collect();
    assert_eq!(heights, expected);
    let users = |numbers: &[usize]| -> Vec<PathBuf> {
        numbers.iter().map(|number| ground.user(&format!("user-{number}"))).collect()
    };
    let collect =
        |numbers: &[usize], boot| ground.layers.collect(|| Ok(users(numbers)), boot).unwrap();
    // An old snapshot is not what the note stands for.
    let other = Snapshot { root_mode: 0o700, ..snapshot.clone() };
    assert_eq!(ground.layers.noted(&ground.user("user-19"), &other, "b").unwrap(), None);
    // The newest stack is 17 to 20 over the base.
    assert_eq!(collect(&[3], "b"), (5..=16).collect::<Vec<_>>());
    assert_eq!(collect(&[], "b"), [2, 3, 4]);
    // After another start of the machine none of them can be relied on.
    assert_eq!(ground.layers.noted(&ground.user("user-19"), &snapshot, "c").unwrap(), None);
    let repository = ground.repository();
    let options =
        LayerOptions { restore: RestoreOptions::default(), repository: &repository, boot: "c" };
    let user = ground.user("user-19");
    let again =
        ground.layers.stack(&ground.objects, &snapshot, &user, &options, &Progress::default());
    assert_eq!(again.unwrap().layers, [21]);
    assert_eq!(collect(&[19], "c"), [1, 17, 18, 19, 20]);
}

#[test]
fn a_layer_that_was_not_finished_goes_when_the_folder_is_opened() {
    let Some(ground) = Ground::new() else { return };
    let folder = ground.folder.path().join("layers");
    for name in ["new-7/tree/below", "gone-3/tree"] {
        system::create_dir_all(folder.join(name)).unwrap();
    }
    system::create_dir_all(folder.join("5/tree")).unwrap();
    let layers = Layers::open(&folder).unwrap();
    assert_eq!(crate::fs::list_dir(&folder).unwrap(), ["5"]);
    // One without a record is none.
    assert_eq!(layers.collect(|| Ok(Vec::new()), "b").unwrap(), [5]);
}

fn run_git(folder: &Path, args: &[&str]) -> String {
    let mut git = std::process::Command::new("git");
    git.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", folder);
    git.env("GIT_CONFIG_NOSYSTEM", "1").args(["-c", "user.name=a", "-c", "user.email=a@b"]);
    let output = git.arg("-C").arg(folder).args(args).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What git says of a repository.
fn told_by_git(at: &Path) -> Vec<String> {
    let commands: [&[&str]; 7] = [
        &["status", "--porcelain=v2", "--branch", "-z"],
        &["diff"],
        &["diff", "--cached"],
        &["ls-files", "--stage", "-v", "-t"],
        &["for-each-ref"],
        &["log", "--all", "--format=raw"],
        &["fsck", "--no-dangling"],
    ];
    commands.iter().map(|args| run_git(at, args)).collect()
}

#[test]
fn a_repository_is_seen_as_it_is_whatever_changed_in_it() {
    let Some(mut ground) = Ground::new() else { return };
    let found = ["/usr/bin/git", "/usr/local/bin/git"].map(PathBuf::from);
    ground.git = Some(GitProgram::new(found.into_iter().find(|path| path.exists()).unwrap()));
    system::create_dir_all(ground.folder.path().join("scratch")).unwrap();
    let plain = ground.folder.path().join("plain");
    system::create_dir_all(plain.join("folder")).unwrap();
    run_git(&plain, &["init", "-q", "-b", "main"]);
    for number in 0..50 {
        system::write(plain.join(format!("folder/file-{number}")), format!("{number}\n")).unwrap();
    }
    run_git(&plain, &["add", "."]);
    run_git(&plain, &["commit", "-q", "-m", "first"]);
    run_git(&plain, &["status"]);
    type Change = Box<dyn Fn(&Path)>;
    let write = |at: &Path, name: &str, text: &str| system::write(at.join(name), text).unwrap();
    let changes: Vec<Change> = vec![
        Box::new(|_| {}),
        // An edit makes no other repository: nothing of git is in the layer.
        Box::new(move |at| write(at, "folder/file-1", "edited\n")),
        Box::new(|at| drop(run_git(at, &["add", "folder/file-1"]))),
        Box::new(|at| drop(run_git(at, &["commit", "-q", "-m", "second"]))),
        Box::new(|at| drop(run_git(at, &["switch", "-q", "-c", "side", "HEAD~1"]))),
        Box::new(move |at| {
            write(at, "folder/file-2", "other\n");
            run_git(at, &["commit", "-q", "-a", "-m", "third"]);
            write(at, "folder/file-3", "more\n");
            run_git(at, &["stash"]);
            run_git(at, &["gc", "-q", "--prune=now"]);
        }),
        Box::new(|at| drop(run_git(at, &["rm", "-q", "-r", "folder"]))),
        Box::new(|at| system::remove_dir_all(at.join(".git")).unwrap()),
    ];
    let mut snapshot: Option<Snapshot> = None;
    for (number, change) in changes.iter().enumerate() {
        change(&plain);
        if !plain.join(".git").exists() {
            ground.git = None;
        }
        let now = ground.snapshot(&plain);
        let mounted = ground.mount(&now, &format!("run-{number}"));
        assert_eq!(ground.scan(&mounted.at).0, now.root, "{number}");
        assert_eq!(mounted.at.join(".git").exists(), plain.join(".git").exists());
        if ground.git.is_some() {
            assert_eq!(told_by_git(&mounted.at), told_by_git(&plain), "{number}");
            let own = mounted.stack.trees[0].join(".git").exists();
            assert_eq!(
                own,
                number != 1 && !(number > 0 && snapshot.as_ref().unwrap().git == now.git),
                "{number}"
            );
            // What a run does there is found, by the rules of git.
            write(&mounted.at, "new.log", "x");
            write(&mounted.at, ".gitignore", "*.log\n");
            run_git(&mounted.at, &["switch", "-q", "-c", "run"]);
            run_git(&mounted.at, &["add", "-f", ".gitignore", "new.log"]);
            run_git(&mounted.at, &["commit", "-q", "-a", "-m", "of the run"]);
            let (options, progress) = (ScanOptions::default(), Progress::default());
            let sealed = || {
                let made = mounted.made(&now);
                seal_made(&mounted.at, made, &ground.objects, &options, &progress).unwrap().root
            };
            assert_eq!(sealed(), ground.scan(&mounted.at).0, "{number}");
            // Not tracked any more, and ignored.
            run_git(&mounted.at, &["rm", "-q", "--cached", "new.log"]);
            assert_eq!(sealed(), ground.scan(&mounted.at).0, "{number}");
            run_git(&mounted.at, &["fsck", "--no-dangling"]);
        }
        snapshot = Some(now);
    }
}
