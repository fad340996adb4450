//! Trees and repositories that change meanwhile.

#![expect(clippy::disallowed_methods, reason = "a test has git and the file system itself")]

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use baton_protocol::object::{GitOmitReason, GitState, Snapshot};
use baton_store::git::{load_git_omissions, summarize};
use baton_store::objects::ObjectSource;
use baton_store::scan::Progress;
use baton_store::trees::find_entry;

use super::super::tests::{git_program, workspaces};
use super::super::{Receiver, TakeOptions, Taken, Workspaces};
use crate::clock::Clock;

fn git(folder: &Path, args: &[&str]) {
    let output = Command::new("git")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .args(["-c", "user.name=A B", "-c", "user.email=a@b.example"])
        .arg("-C")
        .arg(folder)
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn with_git(folder: &Path) -> Workspaces {
    Workspaces { git: git_program(), clock: Clock::system(), ..workspaces(folder) }
}

fn take(workspaces: &Workspaces, tree: &Path) -> Taken {
    workspaces.take(tree, &TakeOptions::default(), &Progress::default()).unwrap()
}

/// A repository whose branches `one` and `two` have a file each that names them.
fn repository(tree: &Path) {
    git(tree.parent().unwrap(), &["init", "-q", "-b", "one", tree.to_str().unwrap()]);
    std::fs::write(tree.join("one"), "").unwrap();
    git(tree, &["add", "."]);
    git(tree, &["commit", "-q", "-m", "one"]);
    git(tree, &["checkout", "-q", "-b", "two"]);
    git(tree, &["mv", "one", "two"]);
    git(tree, &["commit", "-q", "-m", "two"]);
}

#[test]
fn files_and_repository_are_of_one_moment_or_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    repository(&tree);
    let workspaces = with_git(folder.path());
    let done = AtomicBool::new(false);
    let (mut sure, mut said) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut pause = 0;
            while !done.load(Ordering::Relaxed) {
                for branch in ["one", "two"] {
                    git(&tree, &["checkout", "-q", branch]);
                    std::thread::sleep(Duration::from_millis(pause % 151));
                    pause += 37;
                }
            }
        });
        for _ in 0..60 {
            let taken = take(&workspaces, &tree);
            let vault = &workspaces.vault;
            let branch = summarize(vault, taken.snapshot.git.unwrap()).unwrap().branch.unwrap();
            if taken.notes.iter().any(|note| note.contains("git is at work")) {
                said += 1;
                continue;
            }
            sure += 1;
            for name in ["one", "two"] {
                let file = baton_protocol::path::RelPath::new(name.as_bytes()).unwrap();
                let is_there = find_entry(vault, taken.snapshot.root, &file).unwrap().is_some();
                assert_eq!(is_there, name == branch, "{name} on {branch}");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(sure > 0, "git was at work {said} times");
}

#[test]
fn a_repository_that_is_as_it_was_is_not_captured_again_and_without_git_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    repository(&tree);
    let mut workspaces = with_git(folder.path());
    let first = take(&workspaces, &tree);
    assert!(first.omitted.is_empty() && first.snapshot.git.is_some());
    // Settled, and remembered.
    std::thread::sleep(Duration::from_millis(2600));
    take(&workspaces, &tree);
    let program = workspaces.git.take();
    std::fs::write(tree.join("two"), "more\n").unwrap();
    let second = take(&workspaces, &tree);
    assert_eq!((second.snapshot.git, second.files_changed), (first.snapshot.git, 1));
    // So it is after a restart.
    workspaces.close();
    drop(workspaces);
    let workspaces = Workspaces { git: None, ..with_git(folder.path()) };
    std::fs::write(tree.join("two"), "still more\n").unwrap();
    let third = take(&workspaces, &tree);
    assert_eq!((third.snapshot.git, third.notes.len()), (first.snapshot.git, 0));
    // What has changed cannot be captured without git, and the files come all the same.
    git(&tree, &["tag", "new"]);
    let fourth = take(&workspaces, &tree);
    assert_eq!(fourth.snapshot.git, None);
    assert_eq!(fourth.omitted.len(), 1, "{:?}", fourth.omitted);
    assert!(fourth.notes[0].contains("git was not found"), "{:?}", fourth.notes);
    let workspaces = Workspaces { git: program, ..workspaces };
    let fifth = take(&workspaces, &tree);
    assert!(fifth.snapshot.git.is_some() && fifth.omitted.is_empty());
    // A repository inside belongs to it, and what is none is named.
    repository(&tree.join("inner"));
    std::fs::create_dir(tree.join("broken")).unwrap();
    std::fs::write(tree.join("broken/.git"), "gitdir: nowhere\n").unwrap();
    let sixth = take(&workspaces, &tree);
    let omitted: Vec<String> =
        sixth.omitted.iter().map(|it| it.path.display().into_owned()).collect();
    assert_eq!(omitted, ["broken/.git"]);
    let omissions = load_git_omissions(&workspaces.vault, sixth.snapshot.git.unwrap()).unwrap();
    let broken = omissions.iter().find(|it| it.reason == GitOmitReason::Broken);
    assert!(broken.is_some_and(|it| it.what.contains("broken")), "{omissions:?}");
}

#[test]
fn a_long_history_is_cut_for_who_has_nothing_of_it_and_for_who_has_it_cut() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    repository(&tree);
    let mut number = 7u64;
    for at in 0..40 {
        let noise = std::iter::repeat_with(|| {
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            (number >> 11) as u8
        });
        std::fs::write(tree.join("noise"), noise.take(20_000).collect::<Vec<_>>()).unwrap();
        git(&tree, &["add", "."]);
        git(&tree, &["commit", "-q", "-m", &at.to_string()]);
    }
    let mut workspaces = with_git(folder.path());
    let take = |workspaces: &Workspaces, receiver| {
        let options = TakeOptions { receiver, ..TakeOptions::default() };
        workspaces.take(&tree, &options, &Progress::default()).unwrap()
    };
    let for_one = |acked| Some(Receiver { acked });
    let whole = take(&workspaces, None);
    workspaces.most_history = 300_000;
    assert!(!whole.is_cut && !take(&workspaces, None).is_new);
    // Who has it whole is sent it whole.
    assert!(!take(&workspaces, for_one(Some(whole.id))).is_new);

    let id = whole.workspace;
    let cut = take(&workspaces, for_one(None));
    assert!(cut.is_cut && workspaces.is_cut(id).unwrap());
    assert_eq!(
        (cut.snapshot.root, &cut.snapshot.parents[..]),
        (whole.snapshot.root, &[whole.id][..])
    );
    // It stays so until its rest is there, for everybody.
    assert!(!take(&workspaces, for_one(None)).is_new);
    let rest = workspaces.rest(id, &tree, &cut.snapshot).unwrap().unwrap();
    let (deep, snapshot) = workspaces.deepen(id, &tree, Some(&rest)).unwrap().unwrap();
    assert!(!workspaces.is_cut(id).unwrap());
    let packs = |snapshot: &Snapshot| {
        let state = workspaces.vault.require(&snapshot.git.unwrap().into()).unwrap();
        GitState::decode(&state).unwrap().packs
    };
    let (before, after) = (packs(&whole.snapshot), packs(&snapshot));
    assert!(after.starts_with(&before) && after.len() <= before.len() + 1, "{after:?} {before:?}");

    // Who has the cut one gets what is new on it, and not the rest.
    std::fs::write(tree.join("two"), "changed\n").unwrap();
    git(&tree, &["commit", "-q", "-a", "-m", "meanwhile"]);
    assert!(workspaces.is_cut_for(id, Receiver { acked: Some(cut.id) }).unwrap());
    assert!(!workspaces.is_cut_for(id, Receiver { acked: Some(deep) }).unwrap());
    let again = take(&workspaces, for_one(Some(cut.id)));
    assert!(again.is_cut && again.snapshot.parents == [deep]);
    let (had, has) = (packs(&cut.snapshot), packs(&again.snapshot));
    assert!(has.starts_with(&had) && has.len() == had.len() + 1, "{has:?} {had:?}");
    // Its rest is the one that is there.
    assert_eq!(workspaces.rest(id, &tree, &again.snapshot).unwrap().unwrap().id, rest.id);
}
