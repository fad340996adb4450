//! A node keeps so much for a user and for a device, says when that is used up, and takes more once something is forgotten.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::cloud::{Cloud, arg, comes_back, list, refused, text};
use crate::support::home::TestHome;
use crate::support::rng::Rng;
use crate::support::walker::{Listing, walk};

/// A node with this in the table `serve` of its configuration.
fn node(setting: &str) -> Cloud {
    let home = TestHome::new();
    std::fs::create_dir_all(home.baton_home()).unwrap();
    std::fs::write(home.baton_home().join("config.toml"), format!("[serve]\n{setting}\n")).unwrap();
    Cloud::in_home(home)
}

fn tree(home: &TestHome) -> PathBuf {
    home.folder("work")
}

/// A megabyte that does not compress, in place of the one before.
fn change(tree: &Path, seed: u64) {
    std::fs::write(tree.join("large"), Rng::new(seed).bytes(1_000_000)).unwrap();
}

fn push(home: &TestHome, tree: &Path) -> (String, Listing) {
    let pushed = home.json(&["push", arg(tree)]);
    assert_eq!(text(&pushed, "state"), "acked");
    (text(&pushed, "snapshot").to_owned(), walk(tree))
}

/// Two versions fit, a third one does not, until the first one is forgotten and collected.
fn is_used_up_and_freed(cloud: &mut Cloud, home: &TestHome, limit: &str) {
    let tree = tree(home);
    let mut pushed = Vec::new();
    for seed in 1..3 {
        change(&tree, seed);
        pushed.push(push(home, &tree));
    }
    change(&tree, 3);
    let is_refused = || {
        let said = refused(home, &["push", arg(&tree)], 1, "limit");
        assert!(said.contains(limit) && said.contains("baton forget"), "{said}");
    };
    is_refused();
    is_refused();
    // What is there can be had, and a node that was started again counts the same.
    let address = cloud.stop();
    cloud.start(address);
    is_refused();
    for it in &pushed {
        comes_back(&cloud.device(), "restored", it);
    }

    home.json(&["forget", &pushed[0].0]);
    assert_eq!(list(&cloud.home.json(&["gc"]), "problems"), &[] as &[Value]);
    pushed.push(push(home, &tree));
    pushed[1..].iter().for_each(|it| comes_back(&cloud.device(), "restored", it));
    change(&tree, 4);
    is_refused();
    assert_eq!(list(&cloud.home.json(&["check", "--data"]), "problems"), &[] as &[Value]);
}

#[test]
fn what_a_user_may_have_is_named_when_it_is_used_up_and_freed_by_forgetting() {
    let mut cloud = node("quota_bytes = 2500000");
    let home = cloud.device();
    is_used_up_and_freed(&mut cloud, &home, "for this user, of 2500000");
    // Another user has as much for themselves.
    let other = cloud.device_with(&["--user", "other"]);
    let tree = tree(&other);
    change(&tree, 10);
    push(&other, &tree);
}

#[test]
fn what_a_device_may_have_is_its_own() {
    let mut cloud = node("device_quota_bytes = 2500000");
    let (home, other) = (cloud.device(), cloud.device());
    let others = tree(&other);
    change(&others, 11);
    let before = push(&other, &others);
    is_used_up_and_freed(&mut cloud, &home, "for this device, of 2500000");
    change(&others, 12);
    let after = push(&other, &others);
    for it in [before, after] {
        comes_back(&cloud.device(), "restored", &it);
    }
    change(&others, 13);
    refused(&other, &["push", arg(&others)], 1, "limit");
}
