//! A watched tree is kept in step by itself: edits arrive without a command, also those of a time when
//! nobody was there; what looks like a secret does not; and a folder that is gone is no empty tree.

#![expect(
    clippy::disallowed_methods,
    reason = "a test has the file system itself, as an editor has"
)]

use std::path::Path;

use serde_json::Value;

use crate::support::cloud::{Cloud, arg, list, refused, text};
use crate::support::home::{TestHome, eventually};
use crate::support::walker::{differences, walk};

fn workspace(home: &TestHome, tree: &Path) -> Value {
    let status = home.json(&["status"]);
    let root = tree.canonicalize().unwrap_or_else(|_| tree.to_owned());
    let all = list(&status, "workspaces");
    all.iter().find(|one| text(one, "root") == arg(&root)).cloned().unwrap_or_default()
}

/// Waits until the node has the tree as it is.
fn in_step(home: &TestHome, tree: &Path) -> Value {
    let mut last = Value::Null;
    eventually("the tree is in step", || {
        last = workspace(home, tree);
        last["state"] == "synced"
    });
    last
}

/// Restores what the node has in a third home, and compares.
fn same_there(cloud: &Cloud, acked: &str, tree: &Path) {
    let third = cloud.device();
    let into = third.folder("out").join("copy");
    third.json(&["restore", acked, "--into", arg(&into)]);
    assert_eq!(differences(&walk(tree), &walk(&into), &[b".git"]), [""; 0]);
}

fn setting(home: &TestHome, text: &str) {
    std::fs::create_dir_all(home.baton_home()).unwrap();
    std::fs::write(home.baton_home().join("config.toml"), text).unwrap();
}

#[test]
fn edits_arrive_by_themselves_also_those_of_a_time_without_a_daemon() {
    let cloud = Cloud::new();
    let home = cloud.device();
    home.json(&["daemon", "stop"]);
    setting(&home, "[sync]\nsettle = \"50ms\"\n");
    let tree = home.folder("tree");
    std::fs::create_dir_all(tree.join("a/b")).unwrap();
    std::fs::write(tree.join("a/b/file"), "one").unwrap();
    let answer = home.json(&["watch", arg(&tree)]);
    assert_eq!(text(&answer, "root"), arg(&tree.canonicalize().unwrap()));
    let first = in_step(&home, &tree);
    same_there(&cloud, text(&first, "acked"), &tree);
    assert_eq!(first["watch"]["swept"], 0, "{first}");

    std::fs::write(tree.join("a/b/file"), "two").unwrap();
    std::fs::create_dir_all(tree.join("new/deep")).unwrap();
    std::fs::write(tree.join("new/deep/er"), "x").unwrap();
    std::fs::rename(tree.join("a"), tree.join("new/a")).unwrap();
    eventually("the edit arrives", || in_step(&home, &tree)["acked"] != first["acked"]);
    std::fs::write(tree.join("new/a/b/file"), "three").unwrap();
    eventually("the last edit arrives", || {
        let pushed = home.json(&["push", arg(&tree)]);
        text(&in_step(&home, &tree), "acked") == text(&pushed, "snapshot")
    });
    let second = in_step(&home, &tree);
    same_there(&cloud, text(&second, "acked"), &tree);

    // Nobody is there to see it.
    home.kill();
    std::fs::write(tree.join("new/a/b/file"), "four").unwrap();
    std::fs::remove_file(tree.join("new/deep/er")).unwrap();
    eventually("the edit arrives", || in_step(&home, &tree)["acked"] != second["acked"]);
    let third = in_step(&home, &tree);
    same_there(&cloud, text(&third, "acked"), &tree);

    home.json(&["unwatch", arg(&tree)]);
    std::fs::write(tree.join("after"), "x").unwrap();
    let after = workspace(&home, &tree);
    assert_eq!(after["acked"], third["acked"]);
    refused(&home, &["unwatch", arg(&tree)], 1, "not-watched");
}

#[test]
fn what_looks_like_a_secret_stays_until_it_is_allowed() {
    let cloud = Cloud::new();
    let home = cloud.device();
    home.json(&["daemon", "stop"]);
    setting(&home, "[sync]\nsettle = \"50ms\"\n");
    let tree = home.folder("tree");
    std::fs::write(tree.join("plain"), "x").unwrap();
    // In two parts, so that this file is not held back itself.
    let token = format!("gh{}_{}", "p", "Xq7LmZ2vKd9RtB4wYs6NcHf1GpJ8eUaT3oVi");
    std::fs::write(tree.join("notes.txt"), format!("token {token}\n")).unwrap();
    home.json(&["watch", arg(&tree)]);
    let held = in_step(&home, &tree);
    assert_eq!(text(&list(&held, "held")[0], "path"), "notes.txt");
    assert!(!held.to_string().contains(&token[8..]), "{held}");
    let third = cloud.device();
    let into = third.folder("out").join("copy");
    let restored = third.json(&["restore", text(&held, "acked"), "--into", arg(&into)]);
    assert!(!into.join("notes.txt").exists());
    let omitted = list(&restored["receipt"], "omitted");
    assert!(omitted.iter().any(|one| one["reason"] == "secret"), "{restored}");

    home.json(&["allow", arg(&tree.join("notes.txt"))]);
    eventually("what is allowed arrives", || in_step(&home, &tree)["acked"] != held["acked"]);
    let allowed = in_step(&home, &tree);
    assert_eq!(list(&allowed, "held").len(), 0);
    same_there(&cloud, text(&allowed, "acked"), &tree);
}

#[test]
fn a_folder_that_is_gone_is_no_empty_tree_and_one_that_moved_is_the_same() {
    let cloud = Cloud::new();
    let home = cloud.device();
    home.json(&["daemon", "stop"]);
    setting(&home, "[sync]\nsettle = \"50ms\"\n");
    let tree = home.folder("tree");
    std::fs::write(tree.join("file"), "x").unwrap();
    home.json(&["watch", arg(&tree)]);
    let before = in_step(&home, &tree);
    let root = text(&before, "root").to_owned();
    let moved = home.user_home().join("moved");
    std::fs::rename(&tree, &moved).unwrap();
    eventually("it is noticed", || {
        let status = home.json(&["status"]);
        let all = list(&status, "workspaces");
        let one = all.iter().find(|one| text(one, "root") == root).unwrap();
        assert_eq!(one["acked"], before["acked"]);
        one["state"] == "error" && text(one, "last_error").contains("gone")
    });
    let again = home.json(&["watch", arg(&moved)]);
    assert_eq!(again["workspace"], before["workspace"]);
    std::fs::write(moved.join("file"), "y").unwrap();
    eventually("it goes on there", || in_step(&home, &moved)["acked"] != before["acked"]);
}
