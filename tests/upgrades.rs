//! Programs of two versions work together, and whoever asks for more than the other one knows is told so.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use baton_protocol::message::{OLDEST, VERSION};

use crate::support::cloud::{Cloud, arg, list, refused, text};
use crate::support::home::TestHome;
use crate::support::walker::{differences, walk};

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
