//! A conversation of a coding agent goes with the work, and goes on where the result is pulled.
//!
//! The agents themselves are not started here: what they wrote is there, and what they would read is looked at.

#![expect(clippy::disallowed_methods, reason = "a test, which writes what agents would")]

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::home::TestHome;

const ID: &str = "01a21b58-b33b-4981-9512-8b8a5be4cd61";
const OTHER: &str = "01a21b58-e336-4bb2-b72d-3193f4f9c6b0";

fn json(home: &TestHome, folder: &Path, args: &[&str]) -> Value {
    let output = home.baton_in(folder, args);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn slug(path: &Path) -> String {
    path.to_str().unwrap().replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

fn transcript(home: &TestHome, root: &Path, id: &str) -> PathBuf {
    home.user_home().join(".claude/projects").join(slug(root)).join(format!("{id}.jsonl"))
}

fn line(root: &Path, id: &str, kind: &str, text: &str) -> String {
    format!(
        "{{\"type\":\"{kind}\",\"cwd\":\"{}\",\"sessionId\":\"{id}\",\"version\":\"2.1.330\",\"message\":{{\"role\":\"{kind}\",\"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}]}}}}\n",
        root.display()
    )
}

/// A conversation about a workspace, of some length.
fn converse(home: &TestHome, root: &Path, id: &str) -> PathBuf {
    let path = transcript(home, root, id);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut text = line(root, id, "user", "look at the bug");
    for at in 0..3000 {
        text += &line(root, id, "assistant", &format!("step {at} {}", "word ".repeat(at % 31)));
    }
    std::fs::write(&path, text).unwrap();
    path
}

fn workspace(home: &TestHome) -> PathBuf {
    let root = home.folder("app").canonicalize().unwrap();
    std::fs::write(root.join("main.rs"), "fn main() {}\n").unwrap();
    root
}

#[test]
fn a_conversation_travels_with_a_handoff_and_goes_on_where_the_result_is_pulled() {
    let home = TestHome::new();
    let root = workspace(&home);
    let path = converse(&home, &root, ID);
    let before = std::fs::read(&path).unwrap();
    let args = ["handoff", "--json", "-f", "--", "sh", "-c", "echo more >> main.rs"];
    let output = home.baton_in(&root, &args);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let first = text.lines().next().unwrap();
    let handed: Value = serde_json::from_str(first).unwrap();
    let conversation = &handed["receipt"]["conversation"];
    assert_eq!((&conversation["agent"], &conversation["id"]), (&"claude".into(), &ID.into()));
    assert_eq!(conversation["messages"], 3001);
    let run = handed["runs"][0]["run"].as_str().unwrap();

    let into = home.user_home().join("result");
    let pulled = json(&home, &root, &["pull", run, "--json", "--into", into.to_str().unwrap()]);
    assert_eq!(pulled["receipt"]["conversation"], *conversation);
    let resume: Vec<_> = pulled["resume_command"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it.as_str().unwrap())
        .collect();
    let [program, flag, id] = resume[..] else { panic!("{resume:?}") };
    assert_eq!((program, flag), ("claude", "--resume"));
    // The one that was there is as it was; in the new folder goes on another one.
    assert_ne!(id, ID);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let into = into.canonicalize().unwrap();
    let new = std::fs::read_to_string(transcript(&home, &into, id)).unwrap();
    assert_eq!(new.lines().count(), 3001);
    assert!(new.contains(&format!("\"cwd\":\"{}\"", into.display())) && !new.contains(ID));
    assert!(!new.contains(&format!("\"cwd\":\"{}\"", root.display())));
}

#[test]
fn a_conversation_that_has_grown_by_a_line_costs_little_to_hand_over_again() {
    let home = TestHome::new();
    let root = workspace(&home);
    let path = converse(&home, &root, ID);
    let handoff = || json(&home, &root, &["handoff", "--json"]);
    let first = handoff();
    assert_eq!(first["receipt"]["conversation"]["id"], ID);
    // A snapshot in between has none.
    std::fs::write(root.join("main.rs"), "fn main() { }\n").unwrap();
    json(&home, &root, &["push", "--json"]);
    let mut text = std::fs::read_to_string(&path).unwrap();
    assert!(text.len() > 500_000);
    text += &line(&root, ID, "user", "and the docs");
    std::fs::write(&path, text).unwrap();
    let second = handoff();
    assert_eq!(second["receipt"]["conversation"]["messages"], 3002);
    let sent = second["bytes_sent"].as_u64().unwrap();
    assert!(sent < 8192, "{sent} bytes for a line");
}

#[test]
fn of_several_conversations_one_is_named() {
    let home = TestHome::new();
    let root = workspace(&home);
    for id in [ID, OTHER] {
        let path = transcript(&home, &root, id);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, line(&root, id, "user", "hello")).unwrap();
    }
    // Unsaid: the work goes, and that is said.
    let output = home.baton_in(&root, &["handoff", "--json"]);
    let handed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(handed["receipt"]["conversation"].is_null(), "{handed}");
    let noted = String::from_utf8(output.stderr).unwrap();
    assert!(noted.contains("2 conversations") && noted.contains("--conversation"), "{noted}");
    // Asked for: which one has to be said.
    let output = home.baton_in(&root, &["handoff", "--json", "--conversation", "auto"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains(ID) && told.contains(OTHER), "{told}");
    // Named, by its beginning; it was not there before.
    for (id, carried) in [(OTHER, true), ("01a21b58-e3", true), ("none", false)] {
        let handed = json(&home, &root, &["handoff", "--json", "--conversation", id]);
        assert_eq!(handed["receipt"]["conversation"]["id"] == OTHER, carried, "{handed}");
    }
    for unknown in ["99999999-b33b-4981-9512-8b8a5be4cd61", "99999999"] {
        let output = home.baton_in(&root, &["handoff", "--json", "--conversation", unknown]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
}

#[test]
fn a_conversation_with_what_looks_like_a_secret_travels_only_where_it_is_named() {
    let home = TestHome::new();
    let root = workspace(&home);
    let path = transcript(&home, &root, ID);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let secret = format!("gh{}_{}", 'p', "x9Kd7Qm2Wz4Rt8Yb1Nc6x9Kd7Qm2Wz4Rt8Yb");
    let text =
        line(&root, ID, "user", "hello") + &line(&root, ID, "user", &format!("A=1\\n{secret}"));
    std::fs::write(&path, text).unwrap();
    let output = home.baton_in(&root, &["handoff", "--json"]);
    let handed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(handed["receipt"]["conversation"].is_null(), "{handed}");
    let noted = String::from_utf8(output.stderr).unwrap();
    assert!(noted.contains("line 2 of session.jsonl") && !noted.contains(&secret), "{noted}");
    let handed = json(&home, &root, &["handoff", "--json", "--conversation", ID]);
    assert_eq!(handed["receipt"]["conversation"]["id"], ID);
}

#[test]
fn agents_are_listed_with_what_their_programs_say_and_their_conversations() {
    use std::os::unix::fs::PermissionsExt;
    let mut home = TestHome::new();
    let root = workspace(&home);
    let bin = home.folder("bin");
    home.set("PATH", &format!("{}:/usr/bin:/bin", bin.display()));
    let path = transcript(&home, &root, ID);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, line(&root, ID, "user", "look at the bug")).unwrap();
    let listed = json(&home, &root, &["agent", "list", "--json"]);
    let claude = &listed["agents"][0];
    assert_eq!((&claude["agent"], &claude["program"]), (&"claude".into(), &Value::Null));
    assert_eq!(claude["conversations"][0]["conversation"], ID);
    assert_eq!(claude["conversations"][0]["title"], "look at the bug");
    assert_eq!(listed["agents"][1]["agent"], "codex");
    let missing = home.baton_in(&root, &["agent", "check", "claude"]);
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");

    // A program that speaks as the agent's does.
    let program = bin.join("claude");
    let logged_in = |yes: bool| {
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = --version ]; then echo '9.9.9 (Claude Code)'; else echo '{{\"loggedIn\": {yes}, \"authMethod\": \"x\"}}'; {}; fi\n",
            if yes { "true" } else { "exit 1" }
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    };
    logged_in(true);
    let checked = json(&home, &root, &["agent", "check", "claude", "--json"]);
    assert_eq!(checked["agents"][0]["version"], "9.9.9");
    assert_eq!(checked["agents"][0]["logged_in"], true);
    logged_in(false);
    let checked = home.baton_in(&root, &["agent", "check", "claude"]);
    assert_eq!(checked.status.code(), Some(1), "{checked:?}");
    assert!(String::from_utf8(checked.stderr).unwrap().contains("nobody is logged in"));
    let listed = home.baton_in(&root, &["agent", "list"]);
    let text = String::from_utf8(listed.stdout).unwrap();
    assert!(text.contains("9.9.9, not logged in") && text.contains(ID), "{text}");
}
