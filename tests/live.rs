//! Live runs are told things, show what they have done so far, and are checked when they have ended; runs can be taken
//! away.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use serde_json::Value;

use crate::support::cloud::{Cloud, arg, list, refused, text};
use crate::support::home::{TestHome, eventually};

fn handed(home: &TestHome, flags: &[&str], script: &str) -> String {
    let tree = home.folder("work");
    std::fs::write(tree.join("given"), "given\n").unwrap();
    let command = ["--", "sh", "-c", script];
    let handed = home.json(&[&["handoff", arg(&tree)], flags, &command].concat());
    text(&list(&handed, "runs")[0], "run").to_owned()
}

fn shown(home: &TestHome, run: &str) -> Value {
    home.json(&["run", "show", run])
}

fn until_it_waits(home: &TestHome, run: &str, id: &str) -> Value {
    eventually("the run waits", || shown(home, run)["waiting"]["id"] == id);
    shown(home, run)
}

/// Its words may come after it is seen that it waits.
fn until_it_asks(home: &TestHome, run: &str, id: &str, words: &str) -> Value {
    until_it_waits(home, run, id);
    eventually("its words are known", || shown(home, run)["waiting"]["text"] == words);
    shown(home, run)
}

#[test]
fn a_run_that_asks_is_answered_from_here() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let script = "printf 'name? '; read x; echo \"hi $x\"; read y; cat > rest";
    let run = handed(&home, &[], script);
    let waits = until_it_asks(&home, &run, "1", "name?");
    assert_eq!(text(&waits, "state"), "waiting");
    assert_eq!(
        (text(&waits["waiting"], "kind"), text(&waits["waiting"], "text")),
        ("input", "name?")
    );
    let listed = home.baton(&["runs"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    let short = &run[..8];
    assert!(listed.contains(&format!("baton run answer {short} TEXT")), "{listed}");
    assert!(listed.contains(&format!("baton run say --end {short}")), "{listed}");

    let wrong = refused(&home, &["run", "answer", &run, "9", "x"], 4, "conflict");
    assert!(wrong.contains("question 1"), "{wrong}");
    let said = home.json(&["run", "answer", &run, "1", "bob"]);
    assert_eq!(said["delivered"], true);
    until_it_asks(&home, &run, "2", "hi bob");
    home.json(&["say", &run, "go", "on"]);
    home.json(&["run", "say", &run, "the", "rest"]);
    home.json(&["run", "say", "--end", &run]);
    let ended = home.json_exit(&["run", "wait", &run], 0);
    assert!(ended["waiting"].is_null());
    let into = home.root().join("result");
    home.json(&["pull", &run, "--into", arg(&into)]);
    assert_eq!(std::fs::read_to_string(into.join("rest")).unwrap(), "the rest\n");
    refused(&home, &["run", "say", &run, "x"], 4, "run-ended");
    refused(&home, &["run", "answer", &run, "x"], 4, "run-ended");
}

#[test]
fn what_a_live_run_has_done_so_far_can_be_pulled_and_compared() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let run = handed(&home, &[], "echo half > made; read x; echo whole > made");
    until_it_waits(&home, &run, "1");
    let into = home.root().join("half");
    let pulled = home.json(&["pull", &run, "--into", arg(&into)]);
    assert_eq!(pulled["live"], true);
    assert_eq!(std::fs::read_to_string(into.join("made")).unwrap(), "half\n");
    assert_eq!(list(&home.json(&["run", "diff", &run]), "changes").len(), 1);
    home.json(&["say", &run, "go"]);
    home.json_exit(&["run", "wait", &run], 0);
    let into = home.root().join("whole");
    let pulled = home.json(&["pull", &run, "--into", arg(&into)]);
    assert_eq!(pulled["live"], false);
    assert_eq!(std::fs::read_to_string(into.join("made")).unwrap(), "whole\n");
}

#[test]
fn a_node_that_dies_while_a_run_waits_keeps_what_it_had_done() {
    let mut cloud = Cloud::new();
    let home = cloud.device();
    let run = handed(&home, &[], "echo half > made; echo x >> \"$HOME/count\"; read x");
    until_it_waits(&home, &run, "1");
    let address = cloud.kill();
    cloud.start(address);
    eventually("the run is interrupted", || {
        let shown = home.baton(&["run", "show", &run, "--json"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
        shown["state"] == "interrupted"
    });
    assert!(shown(&home, &run)["waiting"].is_null());
    let next = home.json(&["follow-up", &run, "--no-input", "--", "cat", "made"]);
    home.json_exit(&["run", "wait", text(&next, "run")], 0);
    let into = home.root().join("result");
    home.json(&["pull", &run, "--into", arg(&into)]);
    assert_eq!(std::fs::read_to_string(into.join("made")).unwrap(), "half\n");
}

#[test]
fn runs_are_checked_and_end_when_their_time_is_up() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let flags = ["--check", "grep -q whole made && echo x > report"];
    let run = handed(&home, &flags, "echo whole > made");
    let ended = home.json_exit(&["run", "wait", &run], 0);
    assert_eq!(
        (text(&ended["check"], "state"), &ended["check"]["exit_code"]),
        ("passed", &0.into())
    );
    let listed = String::from_utf8(home.baton(&["runs"]).stdout).unwrap();
    assert!(listed.contains("succeeded (exit 0), check passed"), "{listed}");
    let changes = home.json(&["run", "diff", &run]);
    assert_eq!(list(&changes, "changes").len(), 1, "{changes}");
    // A follow-up is checked in the same way.
    let next = home.json(&["follow-up", &run, "--", "sh", "-c", "echo half > made"]);
    let ended = home.json_exit(&["run", "wait", text(&next, "run")], 0);
    assert_eq!(text(&ended["check"], "state"), "failed");

    let run = handed(&home, &["--timeout", "700ms"], "sleep 300");
    let ended = home.json_exit(&["run", "wait", &run], 143);
    assert_eq!(
        (text(&ended, "state"), text(&ended, "reason")),
        ("failed", "it took longer than its 700ms")
    );
}

#[test]
fn a_run_is_taken_away_when_it_has_ended() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let run = handed(&home, &[], "echo x > made; read x");
    until_it_waits(&home, &run, "1");
    refused(&home, &["run", "delete", &run], 4, "run-live");
    home.json(&["run", "cancel", &run]);
    let next = home.json(&["follow-up", &run, "--no-input", "--", "cat", "made"]);
    let next = text(&next, "run");
    home.json_exit(&["run", "wait", next], 0);
    assert_eq!(text(&home.json(&["run", "delete", &run]), "state"), "deleted");
    let left = home.json(&["runs"]);
    let left: Vec<_> = list(&left, "runs").iter().map(|run| text(run, "run")).collect();
    assert_eq!(left, [next]);
    let more = home.json(&["follow-up", next, "--", "cat", "made"]);
    home.json_exit(&["run", "wait", text(&more, "run")], 0);
}
