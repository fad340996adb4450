//! A repository arrives as the same repository in the same moment, where no origin can be reached, and comes
//! home with what a run did in it.

#![expect(
    clippy::disallowed_methods,
    reason = "a test has the file system and the environment itself"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::support::cloud::{Cloud, arg, list, omitted, text};
use crate::support::git::{git, try_git};
use crate::support::home::{TestHome, eventually};
use crate::support::walker::{differences, walk};

// Of the labs in which the tests of the store make repositories; see `fidelity`.
pub(crate) use baton_store::git::{
    CaptureOptions, Captured, Commands, GitError, GitProgram, RebuildOptions, Rebuilt, capture,
    rebuild,
};

/// What git says of a repository, and what must be the same on both ends.
const QUESTIONS: [&[&str]; 9] = [
    &["status", "--porcelain=v2", "--branch", "-z", "--ignored=no"],
    &["diff"],
    &["diff", "--cached"],
    &["stash", "list", "-p"],
    &["ls-files", "--stage", "-v", "-t"],
    &["for-each-ref"],
    &["log", "--all", "--format=raw"],
    &["symbolic-ref", "-q", "HEAD"],
    &["fsck", "--full", "--strict"],
];

/// After this a change of a repository shows in its times, on any file system.
const SETTLED: Duration = Duration::from_millis(2600);

/// A repository with two branches, in the middle of a merge that did not go through.
fn repository(home: &TestHome) -> PathBuf {
    let tree = home.folder("work");
    git(&tree, &["init", "-q", "-b", "main"]);
    git(&tree, &["config", "user.name", "A B"]);
    git(&tree, &["config", "user.email", "a@b.example"]);
    let commit = |files: &[(&str, &str)], message: &str| {
        for (name, text) in files {
            std::fs::write(tree.join(name), text).unwrap();
        }
        git(&tree, &["add", "."]);
        git(&tree, &["commit", "-q", "-m", message]);
    };
    commit(&[("both", "one\n"), ("kept", "kept\n"), (".gitignore", "built\n")], "first");
    git(&tree, &["checkout", "-q", "-b", "side"]);
    commit(&[("both", "side\n"), ("new", "new\n")], "side");
    git(&tree, &["checkout", "-q", "main"]);
    std::fs::write(tree.join("kept"), "put aside\n").unwrap();
    git(&tree, &["stash", "-q"]);
    commit(&[("both", "main\n")], "main");
    assert!(!try_git(&tree, &["merge", "-q", "side"]).status.success());
    std::fs::write(tree.join("staged"), "staged\n").unwrap();
    git(&tree, &["add", "staged"]);
    std::fs::write(tree.join("untracked"), "untracked\n").unwrap();
    std::fs::write(tree.join("built"), "ignored\n").unwrap();
    tree
}

/// Restores a snapshot elsewhere and compares what git says there.
fn arrives(home: &TestHome, pushed: &Value, original: &Path) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("work");
    let restored = home.json(&["restore", text(pushed, "snapshot"), "--into", arg(&into)]);
    assert_eq!(omitted(&restored["receipt"]), []);
    let receipt = &restored["receipt"]["git"];
    assert_eq!(text(receipt, "head"), git(original, &["rev-parse", "HEAD"]).trim(), "{receipt}");
    assert_eq!(differences(&walk(original), &walk(&into), &[b".git", b"built"]), [""; 0]);
    for question in QUESTIONS {
        let [here, there] = [original, &into].map(|folder| try_git(folder, question));
        assert_eq!(here.status, there.status, "{question:?}");
        let [here, there] =
            [here, there].map(|it| String::from_utf8_lossy(&it.stdout).into_owned());
        assert_eq!(here, there, "{question:?}");
    }
    (folder, into)
}

#[test]
fn a_repository_arrives_as_it_was_and_what_changes_then_too() {
    let cloud = Cloud::new();
    let (here, there) = (cloud.device(), cloud.device());
    let tree = repository(&here);
    let first = here.json(&["push", arg(&tree)]);
    let (_folder, copy) = arrives(&there, &first, &tree);
    // What was begun here is finished there, to the same end.
    let finish = |folder: &Path| {
        git(folder, &["config", "user.useConfigOnly", "true"]);
        std::fs::write(folder.join("both"), "solved\n").unwrap();
        git(folder, &["commit", "-q", "-a", "-m", "merged"]);
        git(folder, &["log", "-1", "--format=%T %P %an"])
    };
    let there_merged = finish(&copy);

    // So long ago that nothing of git has to be looked at again.
    std::thread::sleep(SETTLED);
    here.json(&["push", arg(&tree)]);
    // A file that git took for unchanged, now with other bytes of the same length: nothing of git has changed.
    std::fs::write(tree.join("kept"), "KEPT\n").unwrap();
    let second = here.json(&["push", arg(&tree)]);
    assert_eq!((&second["round_trips"], &second["files_changed"]), (&1.into(), &1.into()));
    arrives(&there, &second, &tree);
    assert!(git(&tree, &["status", "--short"]).contains(" M kept"));
    std::fs::write(tree.join("kept"), "kept\n").unwrap();

    // Only git has changed.
    git(&tree, &["add", "untracked"]);
    let third = here.json(&["push", arg(&tree)]);
    assert_ne!(third["snapshot"], second["snapshot"]);
    arrives(&there, &third, &tree);
    git(&tree, &["reset", "-q", "untracked"]);
    assert_eq!(finish(&tree), there_merged);
    let fourth = here.json(&["push", arg(&tree)]);
    arrives(&there, &fourth, &tree);
    // Nothing has changed.
    let fifth = here.json(&["push", arg(&tree)]);
    assert_eq!(fifth["snapshot"], fourth["snapshot"]);
    // Without what the daemon remembers, too.
    here.baton(&["daemon", "stop"]);
    let sixth = here.json(&["push", arg(&tree)]);
    assert_eq!(sixth["snapshot"], fourth["snapshot"]);
}

/// Pulls a run into a worktree beside its checkout, in which the user has gone on.
fn beside_its_checkout(home: &TestHome, tree: &Path, run: &str) {
    std::fs::write(tree.join("mine"), "mine\n").unwrap();
    let before = git(tree, &["for-each-ref", "refs/heads"]);
    let listing = walk(tree);
    let pulled = home.json(&["pull", run]);
    let branch = format!("handoff/{}", &run[..8]);
    assert_eq!(text(&pulled, "branch"), branch, "{pulled}");
    assert_eq!(pulled["refs"], serde_json::json!([format!("refs/{branch}/heads/main")]));
    assert_eq!(text(&pulled["receipt"]["git"], "branch"), branch);
    let root = PathBuf::from(text(&pulled, "root"));
    assert_eq!(root.parent(), tree.parent());
    assert_eq!(git(&root, &["log", "--format=%s"]), "two\none\n");
    assert_eq!(git(&root, &["branch", "--show-current"]).trim(), branch);
    assert_eq!(git(&root, &["status", "--porcelain"]), " M file\n");
    assert!(git(tree, &["worktree", "list"]).contains(arg(&root)));
    // What was undone there can be found here.
    assert!(git(&root, &["reflog"]).contains("checkout: moving from main to other"));
    // The run committed on main, too: that is beside the main of here.
    let refs = git(tree, &["for-each-ref", "--format=%(refname)", "refs/handoff"]);
    assert_eq!(refs, format!("refs/{branch}/heads/main\n"));
    let after = git(tree, &["for-each-ref", "refs/heads"]);
    assert!(before.lines().all(|line| after.contains(line)) && after.contains(&branch), "{after}");
    assert_eq!(differences(&listing, &walk(tree), &[b".git"]), [""; 0]);
    git(tree, &["fsck", "--full", "--strict"]);
    // Once more is another folder and another branch.
    let again = home.json(&["pull", run]);
    assert_eq!(text(&again, "branch"), format!("{branch}-2"));
    // Another repository is no place for it.
    let other = home.folder("other");
    git(&other, &["init", "-q"]);
    std::fs::rename(tree, tree.with_file_name("moved")).unwrap();
    let refused = home.baton_in(&other, &["pull", run, "--json"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stdout).contains("no-checkout"), "{refused:?}");
    // The same one at another place is.
    let found = home.baton_in(&tree.with_file_name("moved"), &["pull", run, "--json"]);
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert!(text(&found, "root").contains("moved-handoff-"), "{found}");
}

#[test]
fn what_a_run_commits_comes_home_as_commits() {
    let cloud = Cloud::new();
    let here = cloud.device();
    let tree = here.folder("work");
    git(&tree, &["init", "-q", "-b", "main"]);
    git(&tree, &["config", "user.name", "A B"]);
    git(&tree, &["config", "user.email", "a@b.example"]);
    std::fs::write(tree.join("file"), "one\n").unwrap();
    git(&tree, &["add", "."]);
    git(&tree, &["commit", "-q", "-m", "one"]);
    std::fs::write(tree.join("file"), "one\nhalf done\n").unwrap();
    let script = "git status --porcelain && echo done >> file && git commit -q -a -m two \
                  && git checkout -q -b other && echo left >> file";
    let answer = here.json(&["handoff", arg(&tree), "--", "sh", "-c", script]);
    assert_eq!(answer["receipt"]["git"]["branch"], "main", "{answer}");
    let run = text(&list(&answer, "runs")[0], "run").to_owned();
    eventually("the end of a run", || {
        let shown = here.json(&["run", "show", &run]);
        assert_ne!(text(&shown, "state"), "failed", "{shown}");
        text(&shown, "state") == "succeeded"
    });
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("result");
    let pulled = here.json(&["pull", &run, "--into", arg(&into)]);
    assert_eq!(pulled["receipt"]["git"]["branch"], "other", "{pulled}");
    assert_eq!(git(&into, &["log", "--format=%s %an"]), "two A B\none A B\n");
    assert_eq!(git(&into, &["show", "HEAD:file"]), "one\nhalf done\ndone\n");
    assert_eq!(git(&into, &["status", "--porcelain=v2", "--branch"]).lines().count(), 3);
    assert_eq!(std::fs::read_to_string(into.join("file")).unwrap(), "one\nhalf done\ndone\nleft\n");
    git(&into, &["fsck", "--full", "--strict"]);
    let logs = here.baton(&["logs", &run]);
    beside_its_checkout(&here, &tree, &run);
    assert!(String::from_utf8_lossy(&logs.stdout).contains(" M file"), "{logs:?}");
}
