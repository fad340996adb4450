//! Work that is handed off runs there as it was here, is seen while it runs, and comes home with
//! exactly what it changed, whatever happens to the node meanwhile.

#![expect(
    clippy::disallowed_methods,
    reason = "a test has the file system and the environment itself"
)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use baton_protocol::id::{SnapshotId, VaultId};
use baton_store::catalog::Catalog;
use baton_store::snapshot::load_snapshot;
use baton_store::store::Store;
use serde_json::Value;

use crate::support::cloud::{Background, Cloud, arg, list, refused, text};
use crate::support::home::{TestHome, eventually};
use crate::support::walker::{differences, walk};

/// A workspace with a few files.
fn workspace(home: &TestHome) -> PathBuf {
    let tree = home.folder("work");
    for (name, bytes) in [("keep", "kept\n"), ("change", "before\n"), ("remove", "gone\n")] {
        std::fs::write(tree.join(name), bytes).unwrap();
    }
    std::fs::create_dir_all(tree.join("folder/empty")).unwrap();
    std::fs::write(tree.join("folder/private"), "secret\n").unwrap();
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(tree.join("folder/private"), private).unwrap();
    tree
}

/// Starts a run of a shell script; returns the answer.
fn hand_off(home: &TestHome, tree: &Path, script: &str) -> Value {
    let answer = home.json(&["handoff", arg(tree), "--", "sh", "-c", script]);
    assert_eq!(list(&answer, "runs").len(), 1, "{answer}");
    answer
}

fn run_of(answer: &Value) -> &str {
    text(&answer["runs"][0], "run")
}

/// Waits until a run works on its checkout, and has made this file there.
fn has_made(home: &TestHome, run: &str, file: &str) -> PathBuf {
    let mut checkout = PathBuf::new();
    eventually("the file of a run", || {
        let shown = home.json(&["run", "show", run]);
        checkout = shown["checkout"].as_str().map(PathBuf::from).unwrap_or_default();
        let made = checkout.is_absolute() && checkout.join(file).exists();
        assert!(
            made || ["queued", "preparing", "running"].contains(&text(&shown, "state")),
            "{shown}"
        );
        made
    });
    checkout
}

/// All text of a stream, as `logs --json` gives it.
fn stream(lines: &[Value], name: &str) -> String {
    lines.iter().filter(|line| line["stream"] == name).map(|line| text(line, "text")).collect()
}

fn objects(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Everything that a run may do to a tree.
const CHANGES: &str = "rm gate remove
    echo more >> change
    mkdir -p new/deep
    echo made > new/deep/file
    chmod 755 keep
    ln -s keep link
    rmdir folder/empty";

/// The changes of [`CHANGES`], as `diff` has them: folders only where nothing is in them.
const CHANGED: [(&str, &str); 6] = [
    ("change", "modified"),
    ("folder/empty", "removed"),
    ("keep", "mode"),
    ("link", "added"),
    ("new/deep/file", "added"),
    ("remove", "removed"),
];

/// The parents of a snapshot that a home has, read from its store.
fn parents(home: &TestHome, snapshot: &str) -> Vec<String> {
    assert!(home.baton(&["daemon", "stop"]).status.success());
    let catalog = Catalog::open(&home.baton_home().join("catalog.db")).unwrap();
    let vault = catalog.meta("local-vault").unwrap().unwrap();
    let store = Store::open(&home.baton_home().join("store")).unwrap();
    let vault = store.vault(VaultId::from_bytes(vault.try_into().unwrap())).unwrap();
    let snapshot: SnapshotId = snapshot.parse().unwrap();
    load_snapshot(&vault, snapshot).unwrap().parents.iter().map(ToString::to_string).collect()
}

#[test]
fn output_is_seen_as_it_comes_and_exactly_the_changes_come_home() {
    let cloud = Cloud::new();
    let here = cloud.device();
    let tree = workspace(&here);
    let before = walk(&tree);
    let script = format!(
        "echo first; echo warned >&2; printf 'no end of line'
        until [ -e gate ]; do sleep 0.05; done
        {CHANGES}
        echo; echo last; exit 7"
    );
    let mut command = here.command();
    command.args(["handoff", arg(&tree), "-f", "--json", "--", "sh", "-c", &script]);
    let mut follow = Background::start(command);
    // Without its line end: a question must be seen while it is asked.
    follow.says("no end of line");
    assert!(!follow.is_ended() && !follow.stdout().contains("last"));
    let answer = objects(&follow.stdout()).remove(0);
    let run = run_of(&answer).to_owned();
    let shown = here.json(&["run", "show", &run]);
    assert_eq!(shown["state"], "running", "{shown}");
    assert_eq!(shown["runs"][0]["run"], run.as_str());
    std::fs::write(Path::new(text(&shown, "checkout")).join("gate"), "").unwrap();
    assert!(follow.end().success());
    let lines = objects(&follow.stdout());
    assert_eq!(stream(&lines[1..], "stdout"), "first\nno end of line\nlast\n");
    assert_eq!(stream(&lines[1..], "stderr"), "warned\n");

    let waited = here.json_exit(&["run", "wait", &run], 7);
    let end = (&waited["state"], &waited["exit_code"]);
    assert_eq!(end, (&"failed".into(), &7.into()), "{waited}");
    assert!(waited["ended_at"].is_string());
    let later = here.json_lines(&["logs", &run], 0);
    assert_eq!(later, lines[1..]);
    let plain = here.baton(&["logs", &run[..8]]);
    assert_eq!(String::from_utf8(plain.stdout).unwrap(), "first\nno end of line\nlast\n");
    assert!(String::from_utf8(plain.stderr).unwrap().contains("warned\n"));

    // The same done here is what must come home.
    let expected = here.folder("expected");
    let copied = Command::new("cp").arg("-a").arg(tree.join(".")).arg(&expected).status();
    assert!(copied.unwrap().success());
    std::fs::write(expected.join("gate"), "").unwrap();
    let changed = Command::new("sh").args(["-ec", CHANGES]).current_dir(&expected).status();
    assert!(changed.unwrap().success());
    let into = here.root().join("pulled");
    let pulled = here.json(&["pull", &run, "--into", arg(&into)]);
    assert_eq!(differences(&walk(&expected), &walk(&into), &[]), [""; 0]);
    assert_eq!(pulled["snapshot"], waited["result"]);
    assert_eq!(differences(&before, &walk(&tree), &[]), [""; 0], "the tree here is left alone");
    let diff = here.json(&["diff", text(&answer, "snapshot"), text(&pulled, "snapshot")]);
    let change = |one: &Value| (text(one, "path").to_owned(), text(one, "kind").to_owned());
    let changes: Vec<_> = list(&diff, "changes").iter().map(change).collect();
    let wanted = CHANGED.map(|(path, kind)| (path.to_owned(), kind.to_owned()));
    assert_eq!(changes, wanted);
    assert_eq!(parents(&here, text(&pulled, "snapshot")), [text(&answer, "snapshot")]);
}

#[test]
fn a_run_has_the_environment_of_the_contract_and_nothing_else() {
    let mut home = TestHome::new();
    home.set("A_SECRET_OF_THE_NODE", "not for runs");
    let cloud = Cloud::in_home(home);
    let mut here = cloud.device();
    here.set("A_SECRET_OF_THE_USER", "not for runs");
    let tree = workspace(&here);
    let notes = here.folder("notes");
    let binary: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    std::fs::write(notes.join("binary \u{e9}"), &binary).unwrap();
    std::fs::write(notes.join("empty"), "").unwrap();
    let prompt = "say \"$(touch expanded)\"; `touch expanded`\n\u{e9} --help 'x' %s \\n";
    let script = "env -0 > env.out; pwd > pwd.out
        cp -r \"$BATON_ATTACHMENTS\" attached
        cp \"$BATON_RECEIPT\" receipt";
    let attach = [notes.join("binary \u{e9}"), notes.join("empty")];
    let answer = here.json(&[
        "handoff",
        arg(&tree),
        "--attach",
        arg(&attach[0]),
        "--attach",
        arg(&attach[1]),
        &format!("-p{prompt}"),
        "--",
        "sh",
        "-ec",
        script,
    ]);
    let run = run_of(&answer).to_owned();
    here.json_exit(&["run", "wait", &run], 0);
    let into = here.root().join("pulled");
    here.json(&["pull", &run, "--into", arg(&into)]);
    assert!(!into.join("expanded").exists(), "the prompt went through a shell");

    let written = String::from_utf8(std::fs::read(into.join("env.out")).unwrap()).unwrap();
    let mut found: BTreeMap<&str, &str> =
        written.split_terminator('\0').map(|line| line.split_once('=').unwrap()).collect();
    // What a shell adds.
    for name in ["PWD", "OLDPWD", "SHLVL", "_"] {
        found.remove(name);
    }
    let names: Vec<_> = found.keys().copied().collect();
    let wanted = [
        "BATON_ATTACHMENTS",
        "BATON_BRANCH",
        "BATON_PROMPT",
        "BATON_RECEIPT",
        "BATON_RUN",
        "BATON_SNAPSHOT",
        "BATON_THREAD",
        "GIT_ASKPASS",
        "GIT_SSH",
        "GIT_TERMINAL_PROMPT",
        "HOME",
        "LANG",
        "PATH",
        "TERM",
        "TZ",
    ];
    assert_eq!(names, wanted);
    assert_eq!(found["BATON_PROMPT"], prompt);
    assert_eq!(found["BATON_RUN"], run);
    assert_eq!(found["BATON_THREAD"], text(&answer["runs"][0], "thread"));
    assert_eq!(found["BATON_SNAPSHOT"], text(&answer, "snapshot"));
    assert_ne!(Path::new(found["HOME"]), cloud.home.user_home());

    let shown = here.json(&["run", "show", &run]);
    let folder = std::fs::read_to_string(into.join("pwd.out")).unwrap();
    assert_eq!(folder.trim_end_matches('\n'), text(&shown, "checkout"));
    assert_eq!(shown["prompt"], prompt);
    assert_eq!(differences(&walk(&notes), &walk(&into.join("attached")), &[]), [""; 0]);
    let inside: Value =
        serde_json::from_slice(&std::fs::read(into.join("receipt")).unwrap()).unwrap();
    assert_eq!(inside, answer["receipt"], "the same object on both ends");
    assert_eq!(inside["snapshot"], answer["snapshot"]);
    assert_eq!(inside["isolated"], shown["isolated"]);
    assert_eq!(inside["attachments"], serde_json::json!(["binary \u{e9}", "empty"]));
}

#[test]
fn a_cancelled_run_ends_with_all_it_started_and_leaves_what_it_did() {
    let cloud = Cloud::new();
    let here = cloud.device();
    let tree = workspace(&here);
    let script = "sleep 1000 & (setsid sleep 1001 > /dev/null 2>&1 &)
        echo half > done; wait";
    let answer = hand_off(&here, &tree, script);
    let run = run_of(&answer);
    has_made(&here, run, "done");
    assert!(cloud.home.processes().len() > 1);
    let cancelled = here.json(&["run", "cancel", run]);
    assert_eq!((text(&cancelled, "state"), text(&cancelled, "run")), ("cancelled", run));
    assert_eq!(cloud.home.processes(), [cloud.serve().pid()]);
    let waited = here.baton(&["run", "wait", run]);
    assert!(waited.status.code().is_some_and(|code| code > 0), "{waited:?}");
    refused(&here, &["run", "cancel", run], 4, "run-ended");

    let into = here.root().join("pulled");
    here.json(&["pull", run, "--into", arg(&into)]);
    assert_eq!(std::fs::read_to_string(into.join("done")).unwrap(), "half\n");
    let found = differences(&walk(&tree), &walk(&into), &[]);
    assert_eq!(found, ["done: only in the second (File)"]);
}

#[test]
fn without_a_command_only_the_tree_is_handed_off() {
    let cloud = Cloud::new();
    let (here, there) = (cloud.device(), cloud.device());
    let tree = workspace(&here);
    let answer = here.json(&["handoff", arg(&tree)]);
    assert_eq!((text(&answer, "state"), list(&answer, "runs").len()), ("acked", 0));
    assert!(answer["receipt"]["isolated"].is_null());
    let into = there.root().join("restored");
    there.json(&["restore", text(&answer, "snapshot"), "--into", arg(&into)]);
    assert_eq!(differences(&walk(&tree), &walk(&into), &[]), [""; 0]);
    assert_eq!(list(&here.json(&["runs"]), "runs").len(), 0);
}

#[test]
fn with_no_node_joined_the_run_is_here_and_says_so() {
    let here = TestHome::new();
    let tree = workspace(&here);
    let args = ["handoff", arg(&tree), "-f", "--", "sh", "-c", "echo here > made; echo said"];
    let output = here.baton(&args);
    let (out, err) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{err}");
    assert!(out.contains("said\n"), "{out}");
    for part in ["this machine", "sleep", "baton serve", "baton join"] {
        assert!(err.contains(part), "{part} is missing: {err}");
    }
    let runs = here.json(&["runs"]);
    let run = &list(&runs, "runs")[0];
    assert_eq!((text(run, "remote"), text(run, "state")), ("local", "succeeded"));
    let into = here.root().join("pulled");
    here.json(&["pull", text(run, "run"), "--into", arg(&into)]);
    assert_eq!(std::fs::read_to_string(into.join("made")).unwrap(), "here\n");

    // Only the tree, or with a node joined: nothing to warn of.
    assert_eq!(here.baton(&["handoff", arg(&tree)]).stderr, b"");
    let cloud = Cloud::new();
    here.json(&["join", &cloud.ticket(&[])]);
    let output = here.baton(&["handoff", arg(&tree), "--", "true"]);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn a_dry_run_changes_nothing_on_the_node() {
    let cloud = Cloud::new();
    let (here, there) = (cloud.device(), cloud.device());
    let tree = workspace(&here);
    let args = ["handoff", arg(&tree), "--dry-run", "--", "sh", "-c", "touch made"];
    let answer = here.json(&args);
    assert_eq!((text(&answer, "state"), list(&answer, "runs").len()), ("dry-run", 0));
    assert_eq!(answer["files"], 4);
    let into = there.root().join("restored");
    let args = ["restore", text(&answer, "snapshot"), "--into", arg(&into)];
    refused(&there, &args, 1, "not-found");
    assert!(!into.exists());
    assert_eq!(list(&here.json(&["runs"]), "runs").len(), 0);
    // The real one is the very snapshot that was shown.
    let real = here.json(&["handoff", arg(&tree)]);
    assert_eq!(real["snapshot"], answer["snapshot"]);
}

#[test]
fn a_node_that_was_killed_tells_the_truth_about_its_runs() {
    let home = TestHome::new();
    std::fs::create_dir_all(home.baton_home()).unwrap();
    std::fs::write(home.baton_home().join("config.toml"), "[serve]\nmax_runs = 1\n").unwrap();
    let mut cloud = Cloud::in_home(home);
    let here = cloud.device();
    let tree = workspace(&here);
    let ended = hand_off(&here, &tree, "echo one > made; exit 3");
    here.json_exit(&["run", "wait", run_of(&ended)], 3);
    let working =
        hand_off(&here, &tree, "echo begun; echo two >> made; sleep 1000; echo again >> made");
    let queued = hand_off(&here, &tree, "echo three > made; echo late");
    let run = run_of(&working);
    has_made(&here, run, "made");
    let mut command = here.command();
    command.args(["logs", run, "-f", "--json"]);
    let mut follow = Background::start(command);
    follow.says("begun");

    let address = cloud.kill();
    assert!(!follow.is_ended(), "{}{}", follow.stdout(), follow.stderr());
    cloud.start(address);
    let waited = here.json_exit(&["run", "wait", run], 1);
    assert_eq!(waited["state"], "interrupted", "{waited}");
    assert!(waited["exit_code"].is_null());
    assert!(text(&waited, "reason").contains("stopped"), "{waited}");
    assert!(follow.end().success(), "{}", follow.stderr());
    let lines = objects(&follow.stdout());
    assert_eq!(stream(&lines, "stdout"), "begun\n", "once, and all of it");
    assert!(stream(&lines, "node").contains("interrupted"), "{lines:?}");
    assert_eq!(lines, here.json_lines(&["logs", run], 0));

    here.json_exit(&["run", "wait", run_of(&queued)], 0);
    let all = [
        (&ended, "failed", "one\n"),
        (&working, "interrupted", "two\n"),
        (&queued, "succeeded", "three\n"),
    ];
    for (answer, state, made) in all {
        let shown = here.json(&["run", "show", run_of(answer)]);
        assert_eq!(text(&shown, "state"), state);
        let into = here.root().join(state);
        here.json(&["pull", run_of(answer), "--into", arg(&into)]);
        assert_eq!(std::fs::read_to_string(into.join("made")).unwrap(), made);
        let found = differences(&walk(&tree), &walk(&into), &[]);
        assert_eq!(found, ["made: only in the second (File)"]);
    }
    let listed = here.json(&["runs"]);
    let ids: Vec<_> = list(&listed, "runs").iter().map(|run| text(run, "run")).collect();
    assert_eq!(ids, [run_of(&queued), run, run_of(&ended)], "newest first");
    assert_eq!(cloud.home.processes(), [cloud.serve().pid()]);
}

#[test]
fn what_is_known_of_runs_is_shown_while_their_node_is_away() {
    let mut cloud = Cloud::new();
    let here = cloud.device();
    let tree = workspace(&here);
    let answer = hand_off(&here, &tree, "echo done > made");
    let run = run_of(&answer).to_owned();
    here.json_exit(&["run", "wait", &run], 0);
    let first = here.root().join("first");
    here.json(&["pull", &run, "--into", arg(&first)]);
    let online = here.json(&["runs"]);
    assert!(online["as_of"].is_null(), "{online}");

    let address = cloud.stop();
    let offline = here.json(&["runs"]);
    assert!(text(&offline, "as_of").ends_with('Z'), "{offline}");
    assert_eq!(offline["runs"], online["runs"]);
    assert_eq!(text(&here.json(&["run", "show", &run[..8]]), "state"), "succeeded");
    // What was fetched before is here.
    let second = here.root().join("second");
    here.json(&["pull", &run, "--into", arg(&second)]);
    assert_eq!(differences(&walk(&first), &walk(&second), &[]), [""; 0]);

    cloud.start(address);
    assert!(here.json(&["runs"])["as_of"].is_null());
}
