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

/// Keeps in step quickly, and cuts what has more history than this.
fn cutting(home: &TestHome, most: u64) {
    home.json(&["daemon", "stop"]);
    std::fs::create_dir_all(home.baton_home()).unwrap();
    let text = format!("[sync]\nsettle = \"50ms\"\nmost_history = {most}\n");
    std::fs::write(home.baton_home().join("config.toml"), text).unwrap();
}

/// A repository of 60 commits of 40 KB each that cannot be compressed, and an edit.
fn long(home: &TestHome) -> PathBuf {
    let tree = home.folder("work");
    git(&tree, &["init", "-q", "-b", "main"]);
    git(&tree, &["config", "user.name", "A B"]);
    git(&tree, &["config", "user.email", "a@b.example"]);
    let mut number = 7u64;
    for at in 0..60 {
        let bytes: Vec<u8> = (0..40_000)
            .map(|_| {
                number ^= number << 13;
                number ^= number >> 7;
                number ^= number << 17;
                (number >> 11) as u8
            })
            .collect();
        std::fs::write(tree.join(format!("file{}", at % 5)), bytes).unwrap();
        git(&tree, &["add", "."]);
        git(&tree, &["commit", "-q", "-m", &format!("number {at}")]);
        if at == 10 {
            git(&tree, &["tag", "old"]);
        }
    }
    std::fs::write(tree.join("edited"), "an edit\n").unwrap();
    tree
}

/// Waits until all of the history is in the snapshot that the node has.
fn whole(home: &TestHome, tree: &Path) -> String {
    let mut now = Value::Null;
    let mut wait = || {
        now = workspace(home, tree);
        let rests = now["state"] != "syncing" || now["pending_files"] != 0;
        now["history"].is_null() && now["acked"] == now["head"] && rests
    };
    let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("history is whole", &mut wait);
    }));
    assert!(seen.is_ok(), "history is not whole: {now}");
    text(&now, "acked").to_owned()
}

/// Restores a snapshot in a third home, where it must be the repository as it is.
fn restored_whole(cloud: &Cloud, snapshot: &str, tree: &Path) {
    let there = cloud.device();
    let into = there.folder("out").join("copy");
    let restored = there.json(&["restore", snapshot, "--into", arg(&into)]);
    assert_eq!(restored["receipt"]["git"]["shallow"], false, "{restored}");
    for question in [
        &["log", "--all", "--format=raw"][..],
        &["for-each-ref"],
        &["status", "--porcelain=v2", "--branch"],
        &["rev-parse", "--is-shallow-repository"],
    ] {
        assert_eq!(git(tree, question), git(&into, question), "{question:?}");
    }
    git(&into, &["fsck", "--full", "--strict"]);
}

fn run_ends(home: &TestHome, run: &str) {
    eventually("the end of a run", || {
        let shown = home.json(&["run", "show", run]);
        assert_ne!(text(&shown, "state"), "failed", "{shown}");
        text(&shown, "state") == "succeeded"
    });
}

#[test]
fn a_long_history_does_not_stop_a_first_handoff_and_follows() {
    let cloud = Cloud::new();
    let home = cloud.device();
    cutting(&home, 600_000);
    let tree = long(&home);
    let script = "git fsck --strict && git rev-parse --is-shallow-repository && \
                  echo done > done && git add done && git commit -q -m 'done there'";
    let output = home.baton(&["handoff", arg(&tree), "--json", "--", "sh", "-c", script]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("history beyond the last") && said.contains("follows in the background"),
        "{said}"
    );
    let handed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let receipt = &handed["receipt"]["git"];
    assert_eq!(receipt["shallow"], true, "{receipt}");
    assert!(receipt["commits_carried"].as_u64().unwrap() < 30, "{receipt}");
    let reasons = |what: &str| {
        let omitted = list(receipt, "omitted").iter();
        omitted
            .filter(|it| text(it, "what").contains(what))
            .map(|it| text(it, "reason").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(reasons("history beyond"), ["later"], "{receipt}");
    assert_eq!(reasons("refs/tags/old "), ["later"], "{receipt}");
    let run = text(&list(&handed, "runs")[0], "run").to_owned();

    // Of a workspace that is not watched, too, and after a power cut wherever it was.
    home.kill();
    let snapshot = whole(&home, &tree);
    assert_ne!(handed["snapshot"], snapshot);
    restored_whole(&cloud, &snapshot, &tree);
    // A run that begins now has all of it.
    let count = "git rev-parse --is-shallow-repository && git rev-list --count --all";
    let second = home.json(&["handoff", arg(&tree), "--", "sh", "-c", count]);
    assert_eq!(second["receipt"]["git"]["shallow"], false);
    let second = text(&list(&second, "runs")[0], "run").to_owned();
    run_ends(&home, &second);
    let logs = String::from_utf8_lossy(&home.baton(&["logs", &second]).stdout).into_owned();
    assert!(logs.contains("false") && logs.contains("60"), "{logs}");

    // What was done on the cut history comes home whole, and cuts nothing here.
    run_ends(&home, &run);
    let logs = String::from_utf8_lossy(&home.baton(&["logs", &run]).stdout).into_owned();
    assert!(logs.contains("true"), "{logs}");
    let pulled = home.json(&["pull", &run]);
    let root = PathBuf::from(text(&pulled, "root"));
    assert_eq!(git(&root, &["rev-list", "--count", "HEAD"]).trim(), "61");
    assert_eq!(git(&root, &["log", "-1", "--format=%s"]).trim(), "done there");
    for folder in [&root, &tree] {
        assert_eq!(git(folder, &["rev-parse", "--is-shallow-repository"]).trim(), "false");
        git(folder, &["fsck", "--full", "--strict"]);
    }
}

#[test]
fn a_long_history_that_is_handed_over_offline_follows_too_and_after_a_restart() {
    let mut cloud = Cloud::new();
    let home = cloud.device();
    cutting(&home, 600_000);
    let tree = long(&home);
    let address = cloud.kill();
    let handed = home.json_exit(&["handoff", arg(&tree), "--", "true"], 3);
    assert_eq!(handed["receipt"]["git"]["shallow"], true, "{handed}");
    assert_eq!(workspace(&home, &tree)["history"], "following");
    home.kill();
    assert_eq!(workspace(&home, &tree)["history"], "following");
    // Work goes on meanwhile.
    std::fs::write(tree.join("edited"), "once more\n").unwrap();
    git(&tree, &["commit", "-q", "-a", "--allow-empty", "-m", "meanwhile"]);
    home.json_exit(&["push", arg(&tree)], 3);
    cloud.start(address);
    home.json(&["push", arg(&tree), "--wait"]);
    let snapshot = whole(&home, &tree);
    restored_whole(&cloud, &snapshot, &tree);
    run_ends(&home, text(&list(&handed, "runs")[0], "run"));
}

#[test]
fn a_long_history_of_a_watched_tree_follows_and_is_sent_once() {
    let cloud = Cloud::new();
    let home = cloud.device();
    cutting(&home, 600_000);
    let tree = long(&home);
    home.json(&["watch", arg(&tree)]);
    in_step(&home, &tree, &Value::Null);
    let snapshot = whole(&home, &tree);
    let acked = in_step(&home, &tree, &Value::Null);
    restored_whole(&cloud, acked.as_str().unwrap(), &tree);
    // What comes after it goes on from it; the memory of HEAD is all again.
    assert_eq!(acked, snapshot);
    let pushed = home.json(&["push", arg(&tree)]);
    assert!(pushed["bytes_sent"].as_u64().unwrap() < 20_000, "{pushed}");
    let snapshot = whole(&home, &tree);
    restored_whole(&cloud, &snapshot, &tree);
    let pushed = home.json(&["push", arg(&tree)]);
    assert_eq!((&pushed["snapshot"], &pushed["objects_sent"]), (&snapshot.into(), &0.into()));
}

#[test]
fn a_long_history_is_whole_on_this_machine_alone_too() {
    // Kept here and sent nowhere; and by the node that is in the daemon.
    for first in ["snapshot", "push"] {
        let home = TestHome::new();
        cutting(&home, 600_000);
        let tree = long(&home);
        home.json(&[first, arg(&tree)]);
        eventually("history is whole", || workspace(&home, &tree)["history"].is_null());
        home.json(&["push", arg(&tree)]);
        let snapshot = whole(&home, &tree);
        let into = home.folder("out").join("copy");
        let restored = home.json(&["restore", &snapshot, "--into", arg(&into)]);
        assert_eq!(restored["receipt"]["git"]["shallow"], false, "{first}: {restored}");
        assert_eq!(git(&tree, &["for-each-ref"]), git(&into, &["for-each-ref"]));
        git(&into, &["fsck", "--full", "--strict"]);
    }
}

#[test]
fn what_was_not_sent_does_not_go_with_a_history_that_follows() {
    let cloud = Cloud::new();
    let home = cloud.device();
    cutting(&home, 600_000);
    let tree = long(&home);
    let pushed = home.json(&["push", arg(&tree)]);
    std::fs::write(tree.join("edited"), "not to be sent\n").unwrap();
    std::fs::write(tree.join("new"), "nor this\n").unwrap();
    git(&tree, &["tag", "later"]);
    let snapshot = whole(&home, &tree);
    assert_ne!(pushed["snapshot"], snapshot);
    let there = cloud.device();
    let into = there.folder("out").join("copy");
    there.json(&["restore", &snapshot, "--into", arg(&into)]);
    assert_eq!(std::fs::read_to_string(into.join("edited")).unwrap(), "an edit\n");
    assert!(!into.join("new").exists());
    assert_eq!(git(&into, &["tag"]), "old\n");
    assert_eq!(git(&into, &["rev-list", "--count", "HEAD"]).trim(), "60");
    git(&into, &["fsck", "--full", "--strict"]);
    // It is followed once, and no snapshot more is made for it, after a restart neither.
    home.json(&["daemon", "stop"]);
    assert_eq!(whole(&home, &tree), snapshot);
}

#[test]
fn a_history_that_cannot_follow_says_why_and_goes_on_later() {
    let mut cloud = Cloud::new();
    let home = cloud.device();
    cutting(&home, 600_000);
    let tree = long(&home);
    let address = cloud.kill();
    home.json_exit(&["handoff", arg(&tree), "--", "true"], 3);
    let elsewhere = tree.with_file_name("elsewhere");
    std::fs::rename(&tree, &elsewhere).unwrap();
    eventually("it says why", || {
        let status = home.json(&["status"]);
        list(&status, "workspaces")[0]["history_waits"].is_string()
    });
    std::fs::rename(&elsewhere, &tree).unwrap();
    cloud.start(address);
    let snapshot = whole(&home, &tree);
    restored_whole(&cloud, &snapshot, &tree);
}

/// A git that waits, before it packs for the background, as long as this file is there; it says so by the other.
fn waiting_git(home: &mut TestHome) -> (PathBuf, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let folder = home.folder("programs");
    let (gate, waits) = (folder.join("gate"), folder.join("waits"));
    let path = std::env::var("PATH").unwrap();
    // The background runs at a lower priority than what a command asks for.
    let nice = std::process::Command::new("nice").output().unwrap().stdout;
    let script = format!(
        "#!/bin/sh
PATH={path}
case \" $* \" in *' pack-objects '*)
    if [ \"$(nice)\" -gt {nice} ]; then
        while [ -e {gate} ]; do touch {waits}; sleep 0.02; done
    fi;;
esac
exec git \"$@\"
",
        gate = arg(&gate),
        waits = arg(&waits),
        nice = String::from_utf8(nice).unwrap().trim(),
    );
    let program = folder.join("git");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    home.set("PATH", &format!("{}:{path}", arg(&folder)));
    (gate, waits)
}

#[test]
fn a_node_that_comes_while_a_history_is_packed_gets_all_of_it() {
    let mut cloud = Cloud::new();
    let mut home = cloud.device();
    cutting(&home, 600_000);
    let (gate, waits) = waiting_git(&mut home);
    let tree = long(&home);
    let address = cloud.kill();
    std::fs::write(&gate, "").unwrap();
    home.json_exit(&["handoff", arg(&tree), "--", "true"], 3);
    eventually("packing", || waits.exists());
    cloud.start(address);
    eventually("the cut one is there", || workspace(&home, &tree)["acked"].is_string());
    std::fs::remove_file(&gate).unwrap();
    let snapshot = whole(&home, &tree);
    restored_whole(&cloud, &snapshot, &tree);
}

#[test]
fn a_node_that_is_away_keeps_a_history_from_no_other() {
    let (mut away, cloud) = (Cloud::new(), Cloud::new());
    let home = away.device();
    let names = || {
        let listed = home.json(&["remote", "list"]);
        let names = list(&listed, "remotes").iter().map(|it| text(it, "name").to_owned());
        names.collect::<Vec<_>>()
    };
    let first = names();
    home.json(&["join", &cloud.ticket(&[])]);
    let second = names().into_iter().find(|it| !first.contains(it)).unwrap();
    cutting(&home, 600_000);
    let tree = long(&home);
    home.json(&["push", arg(&tree), "--remote", &first[0]]);
    away.kill();
    let there = cloud.device();
    let mut tries = 0;
    eventually("history is whole where somebody is", || {
        let pushed = home.json(&["push", arg(&tree), "--remote", &second]);
        tries += 1;
        let into = there.folder("out").join(tries.to_string());
        let restored = there.json(&["restore", text(&pushed, "snapshot"), "--into", arg(&into)]);
        restored["receipt"]["git"]["shallow"] == false
    });
}

#[test]
fn a_long_history_that_was_kept_here_first_does_not_stop_a_first_handoff_to_any_node() {
    let home = TestHome::new();
    cutting(&home, 600_000);
    let tree = long(&home);
    home.json(&["snapshot", arg(&tree)]);
    eventually("history is whole", || workspace(&home, &tree)["history"].is_null());
    let clouds = [Cloud::new(), Cloud::new()];
    let mut names = Vec::new();
    for cloud in &clouds {
        let joined = home.json(&["join", &cloud.ticket(&[])]);
        names.push(text(&joined, "remote").to_owned());
        let handed = home.json(&["handoff", arg(&tree), "--", "git", "fsck", "--strict"]);
        let receipt = &handed["receipt"]["git"];
        assert_eq!(receipt["shallow"], true, "{receipt}");
        assert!(handed["bytes_sent"].as_u64().unwrap() < 1_000_000, "{handed}");
        run_ends(&home, text(&list(&handed, "runs")[0], "run"));
        let snapshot = whole(&home, &tree);
        restored_whole(cloud, &snapshot, &tree);
    }
    // Who has all of it is not sent it again because another one had nothing.
    let pushed = home.json(&["push", arg(&tree), "--remote", &names[0]]);
    assert!(pushed["bytes_sent"].as_u64().unwrap() < 20_000, "{pushed}");
    restored_whole(&clouds[0], text(&pushed, "snapshot"), &tree);
}
