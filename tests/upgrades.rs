//! Programs of two versions work together, and whoever asks for more than the other one knows is told so.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use baton_protocol::message::{OLDEST, VERSION};

use crate::support::cloud::{Cloud, arg, list, refused, text};
use crate::support::home::TestHome;
use crate::support::walker::{differences, walk};

/// A line for a feature that no program has.
fn add_feature(home: &TestHome, line: &str) {
    let path = home.baton_home().join("store/format");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}{line}\n")).unwrap();
}

/// All that a home keeps, byte by byte: not what is of a process, can be computed again, or is shared between processes
/// while a database is open.
fn kept(home: &TestHome) -> BTreeMap<PathBuf, Vec<u8>> {
    // What the hooks of agents have told is about the folders of users, and not about what is stored.
    let passing =
        ["cache", "scratch", "sessions", "daemon.log", "daemon.lock", "daemon.sock", "audit.log"];
    let (root, mut kept) = (home.baton_home(), BTreeMap::new());
    let mut open = vec![root.clone()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let is_passing = folder == root && passing.contains(&name.as_str());
            if is_passing || name.ends_with("-shm") {
                continue;
            }
            if path.is_dir() && !path.is_symlink() {
                open.push(path.clone());
                kept.insert(path, Vec::new());
            } else if let Ok(bytes) = std::fs::read(&path)
                && !(name.ends_with("-wal") && bytes.is_empty())
            {
                kept.insert(path, bytes);
            }
        }
    }
    kept
}

fn changed(before: &BTreeMap<PathBuf, Vec<u8>>, after: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<String> {
    let all: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differing = all.into_iter().filter(|path| before.get(*path) != after.get(*path));
    differing.map(|path| path.display().to_string()).collect()
}

/// A home whose programs speak no newer version than this one.
fn home_of(version: u16) -> TestHome {
    let mut home = TestHome::new();
    home.set("BATON_MESSAGES", &version.to_string());
    home
}

/// Everything that somebody does with a node, with programs of two versions.
fn work_together(here: u16, there: u16) {
    let cloud = Cloud::in_home(home_of(there));
    let home = home_of(here);
    home.json(&["join", &cloud.ticket(&[])]);
    let tree = home.folder("work");
    std::fs::write(tree.join("file"), "one\n").unwrap();
    let first = home.json(&["push", arg(&tree)]);
    assert_eq!(text(&first, "state"), "acked");
    let before = walk(&tree);
    std::fs::write(tree.join("file"), "two\n").unwrap();
    let script = "cat file; echo made > made";
    let handoff = home.json(&["handoff", arg(&tree), "--", "sh", "-c", script]);
    let run = text(&list(&handoff, "runs")[0], "run").to_owned();
    assert_eq!(text(&home.json(&["run", "wait", &run]), "state"), "succeeded");
    let said = home.baton(&["logs", &run]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("two"), "{said:?}");
    home.json(&["pull", &run, "--apply", arg(&tree)]);
    assert_eq!(std::fs::read(tree.join("made")).unwrap(), b"made\n");
    home.json(&["push", arg(&tree)]);

    // A device of the newest version beside it sees the same.
    let other = cloud.device();
    let into = other.folder("again");
    other.json(&["restore", text(&first, "snapshot"), "--into", arg(&into)]);
    assert_eq!(differences(&before, &walk(&into), &[]), [""; 0]);
    for home in [&home, &cloud.home] {
        assert_eq!(list(&home.json(&["check", "--data"]), "problems").len(), 0);
    }

    // What only the newer one knows.
    let is_known = here.min(there) == VERSION;
    let exit = if is_known { 0 } else { 3 };
    let forgotten = home.json_exit(&["forget", text(&first, "snapshot")], exit);
    assert_eq!(list(&forgotten, "queued").is_empty(), is_known, "{forgotten}");
    if !is_known {
        let said = refused(&home, &["forget", "--run", &run], 1, "node-version");
        assert!(said.contains(&format!("{OLDEST} to {there}")), "{said}");
    }
}

#[test]
fn an_older_home_and_a_newer_node_work_together() {
    work_together(VERSION - 1, VERSION);
}

#[test]
fn a_newer_home_and_an_older_node_work_together() {
    work_together(VERSION, VERSION - 1);
}

#[test]
fn what_an_older_node_could_not_forget_it_forgets_once_it_is_newer() {
    let mut cloud = Cloud::in_home(home_of(VERSION - 1));
    let home = cloud.device();
    let tree = home.folder("work");
    let push = |content: &str| {
        std::fs::write(tree.join("file"), content).unwrap();
        text(&home.json(&["push", arg(&tree)]), "snapshot").to_owned()
    };
    let (first, _) = (push("one"), push("two"));
    assert_eq!(list(&home.json_exit(&["forget", &first], 3), "queued").len(), 1);
    let into = cloud.home.folder("kept");
    cloud.home.json(&["restore", &first, "--into", arg(&into)]);

    let address = cloud.stop();
    cloud.home.set("BATON_MESSAGES", &VERSION.to_string());
    cloud.start(address);
    push("three");
    let into = cloud.home.folder("gone");
    crate::support::home::eventually("that the node has forgotten", || {
        cloud.home.json(&["gc"]);
        let restored = cloud.home.baton(&["restore", &first, "--into", arg(&into)]);
        if restored.status.success() {
            std::fs::remove_dir_all(&into).unwrap();
        }
        !restored.status.success()
    });
}

#[test]
fn a_version_that_nobody_speaks_is_refused_in_words() {
    let home = home_of(VERSION + 1);
    let said = home.baton(&["status"]);
    assert_eq!(said.status.code(), Some(2), "{said:?}");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("BATON_MESSAGES") && said.contains(&VERSION.to_string()), "{said}");
}

#[test]
fn a_home_with_a_feature_that_has_to_be_known_to_write_is_read_and_not_a_byte_of_it_changes() {
    let home = TestHome::new();
    let tree = home.folder("work");
    std::fs::write(tree.join("file"), "one\n").unwrap();
    let first = home.json(&["snapshot", arg(&tree)]);
    let before = walk(&tree);
    std::fs::write(tree.join("file"), "two\n").unwrap();
    let script = "echo made > made";
    let handoff =
        home.json(&["handoff", arg(&tree), "--remote", "local", "--", "sh", "-c", script]);
    let run = text(&list(&handoff, "runs")[0], "run").to_owned();
    assert_eq!(text(&home.json(&["run", "wait", &run]), "state"), "succeeded");
    home.json(&["pull", &run, "--into", arg(&home.user_home().join("before"))]);
    let second = home.json(&["snapshot", arg(&tree)]);
    home.json(&["daemon", "stop"]);
    add_feature(&home, "write-required made-up");
    let bytes = kept(&home);

    let log = home.json(&["log", arg(&tree)]);
    let listed: Vec<_> = list(&log, "snapshots").iter().map(|one| text(one, "snapshot")).collect();
    for one in [&first, &second] {
        assert!(listed.contains(&text(one, "snapshot")), "{log}");
    }
    let (first, second) = (text(&first, "snapshot"), text(&second, "snapshot"));
    assert_eq!(list(&home.json(&["diff", first, second]), "changes").len(), 1);
    let into = home.folder("first");
    home.json(&["restore", first, "--into", arg(&into)]);
    assert_eq!(differences(&before, &walk(&into), &[]), [""; 0]);
    let into = home.user_home().join("result");
    home.json(&["pull", &run, "--into", arg(&into)]);
    assert_eq!(std::fs::read(into.join("made")).unwrap(), b"made\n");
    home.json(&["status", arg(&tree)]);
    assert_eq!(list(&home.json(&["check", "--data"]), "problems").len(), 0);

    std::fs::write(tree.join("file"), "three\n").unwrap();
    let changing: [&[&str]; 9] = [
        &["snapshot", arg(&tree)],
        &["push", arg(&tree), "--remote", "local"],
        &["handoff", arg(&tree), "--remote", "local", "--", "true"],
        &["pull", &run, "--apply", arg(&tree)],
        &["watch", arg(&tree)],
        &["forget", first],
        &["gc"],
        &["repair"],
        &["ticket"],
    ];
    for args in changing {
        let said = refused(&home, args, 1, "newer-format");
        assert!(said.contains("`made-up`") && said.contains("install"), "{args:?}: {said}");
    }
    assert_eq!(std::fs::read(tree.join("file")).unwrap(), b"three\n");
    home.json(&["daemon", "stop"]);
    let serving = home.baton(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(serving.status.code(), Some(1), "{serving:?}");
    assert!(String::from_utf8_lossy(&serving.stderr).contains("`made-up`"), "{serving:?}");
    assert_eq!(changed(&bytes, &kept(&home)), [""; 0]);

    // A program that knows it goes on where that left off.
    std::fs::write(home.baton_home().join("store/format"), "baton store 1\n").unwrap();
    home.json(&["push", arg(&tree), "--remote", "local"]);
    assert_eq!(list(&home.json(&["check", "--data"]), "problems").len(), 0);
}

#[test]
fn a_home_with_a_feature_that_has_to_be_known_to_read_is_refused_by_its_name() {
    let home = TestHome::new();
    let tree = home.folder("work");
    std::fs::write(tree.join("file"), "one\n").unwrap();
    home.json(&["snapshot", arg(&tree)]);
    home.json(&["daemon", "stop"]);
    add_feature(&home, "optional also");
    add_feature(&home, "read-required made-up");
    let bytes = kept(&home);
    for args in [&["log", arg(&tree)][..], &["snapshot", arg(&tree)], &["check"]] {
        let said = refused(&home, args, 1, "daemon-start");
        assert!(said.contains("`made-up`") && said.contains("install"), "{args:?}: {said}");
    }
    let said = refused(&home, &["serve", "--listen", "127.0.0.1:0"], 1, "newer-format");
    assert!(said.contains("`made-up`") && said.contains("install"), "{said}");
    assert_eq!(changed(&bytes, &kept(&home)), [""; 0]);

    // Who does not know an optional one does as if it was not there, and leaves it there.
    let format = "baton store 1\noptional also\n";
    std::fs::write(home.baton_home().join("store/format"), format).unwrap();
    home.json(&["snapshot", arg(&tree)]);
    home.json(&["gc"]);
    let after = std::fs::read_to_string(home.baton_home().join("store/format")).unwrap();
    assert_eq!(after, format);
}
