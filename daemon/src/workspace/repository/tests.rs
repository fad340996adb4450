//! Trees and repositories that change meanwhile.

#![expect(clippy::disallowed_methods, reason = "a test has git and the file system itself")]

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use baton_protocol::object::GitOmitReason;
use baton_store::git::{load_git_omissions, summarize};
use baton_store::scan::Progress;
use baton_store::trees::find_entry;

use super::super::tests::{git_program, workspaces};
use super::super::{TakeOptions, Taken, Workspaces};
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
