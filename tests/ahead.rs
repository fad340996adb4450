//! What git does in a watched tree goes out by itself, so that what is asked for later has little left to send.

#![expect(
    clippy::disallowed_methods,
    reason = "a test has the file system and the environment itself"
)]

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::cloud::{Cloud, arg, list, text};
use crate::support::git::git;
use crate::support::home::{TestHome, eventually};

/// A device that keeps in step quickly.
fn device(cloud: &Cloud) -> TestHome {
    let home = cloud.device();
    home.json(&["daemon", "stop"]);
    std::fs::create_dir_all(home.baton_home()).unwrap();
    std::fs::write(home.baton_home().join("config.toml"), "[sync]\nsettle = \"50ms\"\n").unwrap();
    home
}

/// A repository with 200 files in one commit.
fn repository(home: &TestHome) -> PathBuf {
    let tree = home.folder("work");
    git(&tree, &["init", "-q", "-b", "main"]);
    git(&tree, &["config", "user.name", "A B"]);
    git(&tree, &["config", "user.email", "a@b.example"]);
    for i in 0..200 {
        std::fs::write(tree.join(format!("file{i}")), format!("{i}\n").repeat(50)).unwrap();
    }
    git(&tree, &["add", "."]);
    git(&tree, &["commit", "-q", "-m", "first"]);
    tree
}

fn workspace(home: &TestHome, tree: &Path) -> Value {
    let status = home.json(&["status", arg(tree)]);
    list(&status, "workspaces")[0].clone()
}

/// Waits until the node has the tree as it is, in another snapshot than this one.
fn in_step(home: &TestHome, tree: &Path, before: &Value) -> Value {
    let mut now = Value::Null;
    eventually("the tree is in step", || {
        now = workspace(home, tree);
        now["state"] == "synced" && now["acked"] != *before
    });
    now["acked"].clone()
}

#[test]
fn what_git_did_is_there_before_it_is_asked_for() {
    let cloud = Cloud::new();
    let home = device(&cloud);
    let tree = repository(&home);
    home.json(&["watch", arg(&tree)]);
    let mut acked = in_step(&home, &tree, &Value::Null);
    // None of them changes a file of the tree.
    let steps: [&[&str]; 6] = [
        &["commit", "-q", "--allow-empty", "-m", "empty"],
        &["tag", "v1"],
        &["checkout", "-q", "-b", "feature/deep/er"],
        &["rm", "-q", "--cached", "file7"],
        &["commit", "-q", "-m", "without seven"],
        &["config", "user.name", "C D"],
    ];
    for step in steps {
        git(&tree, step);
        acked = in_step(&home, &tree, &acked);
        let pushed = home.json(&["push", arg(&tree)]);
        assert_eq!(pushed["snapshot"], acked, "{step:?}");
        assert_eq!((&pushed["state"], &pushed["objects_sent"]), (&"acked".into(), &0.into()));
        assert!(pushed["bytes_sent"].as_u64().unwrap() < 500, "{step:?}: {pushed}");
    }
    // Of an edit after a commit only the edit is left.
    std::fs::write(tree.join("big"), (0..60_000u32).map(|i| i.to_string()).collect::<String>())
        .unwrap();
    git(&tree, &["add", "big"]);
    git(&tree, &["commit", "-q", "-m", "big"]);
    in_step(&home, &tree, &acked);
    std::fs::write(tree.join("file1"), "edited\n").unwrap();
    let pushed = home.json(&["push", arg(&tree)]);
    assert!(pushed["bytes_sent"].as_u64().unwrap() < 10_000, "{pushed}");
}

#[test]
fn what_was_committed_before_a_command_is_in_what_it_sends() {
    let cloud = Cloud::new();
    let home = device(&cloud);
    let tree = repository(&home);
    home.json(&["watch", arg(&tree)]);
    for round in 0..12 {
        std::fs::write(tree.join("file0"), format!("round {round}\n")).unwrap();
        git(&tree, &["commit", "-q", "-a", "-m", "round"]);
        let handed = home.json(&["handoff", arg(&tree)]);
        let head = git(&tree, &["rev-parse", "HEAD"]);
        assert_eq!(text(&handed["receipt"]["git"], "head"), head.trim(), "{round}");
    }
    // And what is read meanwhile is whole at any moment.
    let acked = in_step(&home, &tree, &Value::Null);
    let there = cloud.device();
    let into = there.folder("out").join("copy");
    there.json(&["restore", acked.as_str().unwrap(), "--into", arg(&into)]);
    assert_eq!(git(&into, &["log", "--format=%H %T"]), git(&tree, &["log", "--format=%H %T"]));
    assert_eq!(git(&into, &["status", "--porcelain"]), "");
    git(&into, &["fsck", "--full", "--strict"]);
}

#[test]
fn collecting_while_it_is_sent_loses_nothing() {
    let cloud = Cloud::new();
    let home = device(&cloud);
    let tree = repository(&home);
    home.json(&["watch", arg(&tree)]);
    let mut acked = in_step(&home, &tree, &Value::Null);
    for round in 0..6 {
        for step in 0..4 {
            std::fs::write(tree.join("file0"), format!("{round} {step}\n")).unwrap();
            git(&tree, &["commit", "-q", "-a", "-m", "step"]);
        }
        git(&tree, &["gc", "-q", "--prune=now"]);
    }
    let head = git(&tree, &["rev-parse", "HEAD"]);
    let there = cloud.device();
    eventually("the last commit arrives", || {
        acked = in_step(&home, &tree, &Value::Null);
        home.json(&["push", arg(&tree)])["snapshot"] == acked
    });
    let into = there.folder("out").join("copy");
    let restored = there.json(&["restore", acked.as_str().unwrap(), "--into", arg(&into)]);
    assert_eq!(text(&restored["receipt"]["git"], "head"), head.trim());
    assert_eq!(
        git(&into, &["rev-list", "--count", "--all"]),
        git(&tree, &["rev-list", "--count", "--all"])
    );
    git(&into, &["fsck", "--full", "--strict"]);
}
