//! A node reads what it keeps by itself, though nobody writes to it or asks; what it finds damaged is named, is handed to nobody, and
//! is there again with the next push.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::cloud::{Cloud, arg, comes_back, list, refused, text};
use crate::support::home::{TestHome, eventually};
use crate::support::rng::Rng;
use crate::support::walker::walk;

/// Files of data of all vaults.
fn data(home: &TestHome) -> Vec<PathBuf> {
    let vaults = std::fs::read_dir(home.baton_home().join("store/vaults")).unwrap();
    let folders = vaults.map(|vault| vault.unwrap().path().join("data"));
    let files = folders.filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    files.map(|file| file.unwrap().path()).collect()
}

fn damage(home: &TestHome) -> Vec<Value> {
    list(&home.json(&["status"]), "damage").clone()
}

#[test]
fn a_node_finds_damage_by_itself_serves_none_of_it_and_is_whole_after_the_next_push() {
    let home = TestHome::new();
    std::fs::create_dir_all(home.baton_home()).unwrap();
    let often = "[store]\nscrub = \"1000GiB\"\nscrub_every = \"1s\"\n";
    std::fs::write(home.baton_home().join("config.toml"), often).unwrap();
    let cloud = Cloud::in_home(home);
    let here = cloud.device();
    let tree = here.folder("work");
    std::fs::write(tree.join("large"), Rng::new(3).bytes(3 << 20)).unwrap();
    let push = || {
        let pushed = here.json(&["push", arg(&tree)]);
        assert_eq!(text(&pushed, "state"), "acked");
        (text(&pushed, "snapshot").to_owned(), walk(&tree))
    };
    let first = push();
    let verified = cloud.home.baton_home().join("store/verified");
    eventually("a first scrub", || verified.exists());
    assert_eq!(damage(&cloud.home), Vec::<Value>::new());
    comes_back(&cloud.device(), "before", &first);

    let files = data(&cloud.home);
    assert!(!files.is_empty());
    for path in files {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let at = file.metadata().unwrap().len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    }
    // Nobody writes to it, and nobody reads it.
    eventually("the damage in status", || !damage(&cloud.home).is_empty());
    let fresh = cloud.device();
    let into = fresh.root().join("refused");
    refused(&fresh, &["restore", &first.0, "--into", arg(&into)], 1, "sync");
    assert!(!into.exists());

    std::fs::write(tree.join("more"), "more\n").unwrap();
    let second = push();
    comes_back(&fresh, "second", &second);
    comes_back(&fresh, "first", &first);
    cloud.home.json(&["repair"]);
    assert_eq!(damage(&cloud.home), Vec::<Value>::new());
    cloud.home.json(&["check", "--data"]);
}
