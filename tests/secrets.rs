//! What a user's runs are given, and nobody else is shown: not other users, not other agents, not a log, a result, a list of
//! processes, or what a node keeps beside its one file.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::support::cloud::{Cloud, arg, list, omitted, refused, text};
use crate::support::home::TestHome;
use crate::support::walker::files_with;

/// A value that stands nowhere else.
const TOKEN: &str = "tok-4b1c9e0d7a-of-the-owner";

fn workspace(home: &TestHome) -> PathBuf {
    let tree = home.folder("work");
    std::fs::write(tree.join("file"), "first\n").unwrap();
    tree
}

fn set(home: &TestHome, args: &[&str], value: &str) -> Value {
    let output =
        home.baton_with_input(&[&["secret", "set", "--json"], args].concat(), value.as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs a script to its end; returns how it ended and what it wrote to standard output.
fn run(home: &TestHome, tree: &Path, script: &str) -> (Value, String) {
    let answer = home.json(&["handoff", arg(tree), "--", "sh", "-c", script]);
    let run = text(&answer["runs"][0], "run").to_owned();
    home.baton(&["run", "wait", &run]);
    let lines = home.json_lines(&["logs", &run], 0);
    let stdout = lines.iter().filter(|line| line["stream"] == "stdout");
    (home.json(&["run", "show", &run]), stdout.map(|line| text(line, "text")).collect())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn secrets_are_given_to_their_users_runs_only_also_after_a_restart() {
    let mut cloud = Cloud::new();
    let (owner, bob) = (cloud.device(), cloud.device_with(&["--user", "bob"]));
    let trees = [&owner, &bob].map(workspace);
    assert_eq!(owner.json(&["secret", "list"])["secrets"], json!([]));

    // One line end belongs to the file and not to the value.
    let kept = set(&owner, &["TOKEN"], &format!("{TOKEN}\n"));
    assert_eq!(kept["secrets"], json!([{"name": "TOKEN", "agent": null, "push": null}]));
    set(&owner, &["TOKEN", "--agent", "claude"], "of another agent");
    set(&owner, &["PLAIN", "--agent", "command"], "two\nlines\n\n");
    set(&bob, &["TOKEN"], "bobs own value");
    let all = json!([
        {"name": "PLAIN", "agent": "command", "push": null},
        {"name": "TOKEN", "agent": null, "push": null},
        {"name": "TOKEN", "agent": "claude", "push": null},
    ]);
    let one = json!([{"name": "TOKEN", "agent": null, "push": null}]);
    let script = "echo ${#TOKEN} ${#PLAIN} $TOKEN";
    for _ in 0..2 {
        assert_eq!(owner.json(&["secret", "list"])["secrets"], all);
        assert_eq!(bob.json(&["secret", "list"])["secrets"], one);
        assert_eq!(run(&owner, &trees[0], script).1, format!("{} 10 ***\n", TOKEN.len()));
        assert_eq!(run(&bob, &trees[1], script).1, "14 0 ***\n");
        let address = cloud.stop();
        cloud.start(address);
    }

    // In its one file, for its owner only, and nowhere else of either side; the file has it in base64.
    for home in [&cloud.home, &owner, &bob] {
        assert_eq!(files_with(&home.baton_home(), TOKEN), Vec::<PathBuf>::new());
    }
    let folder = cloud.home.baton_home().join("secrets");
    let files: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    for (path, mode) in files.iter().map(|file| (file, 0o600)).chain([(&folder, 0o700)]) {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode, "{path:?}");
    }
    assert!(!owner.baton_home().join("secrets").exists());

    // The one for this agent, then whichever is left.
    let left = owner.json(&["secret", "rm", "TOKEN", "--agent", "claude"]);
    assert_eq!(list(&left, "secrets").len(), 2);
    assert_eq!(run(&owner, &trees[0], script).1, format!("{} 10 ***\n", TOKEN.len()));
    owner.json(&["secret", "rm", "PLAIN"]);
    owner.json(&["secret", "rm", "TOKEN"]);
    assert_eq!(run(&owner, &trees[0], script).1, "0 0\n");
    refused(&owner, &["secret", "rm", "TOKEN"], 1, "not-found");
    assert_eq!(bob.json(&["secret", "list"])["secrets"], one);
}

#[test]
fn no_command_line_shows_a_secret_and_what_a_run_wrote_of_it_is_held_back() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = workspace(&home);
    set(&home, &["TOKEN"], TOKEN);
    let script = format!(
        "printf %s $TOKEN > $HOME/value
        cat /proc/[0-9]*/cmdline | tr '\\000' '\\n' | grep -cF -f $HOME/value > seen
        echo TOKEN=$TOKEN > .env
        mkdir folder; (echo first; echo second; printf %s $TOKEN | base64) > folder/encoded
        echo {}... > start
        echo done",
        &TOKEN[..8]
    );
    let (shown, output) = run(&home, &tree, &script);
    assert_eq!((text(&shown, "state"), output.as_str()), ("succeeded", "done\n"));
    let into = home.root().join("result");
    let pulled = home.json(&["pull", text(&shown, "run"), "--into", arg(&into)]);
    let held = [(".env", "secret"), ("folder/encoded", "secret")];
    let held = held.map(|(path, reason)| (path.to_owned(), reason.to_owned()));
    assert_eq!(omitted(&pulled["receipt"]), held, "{pulled}");
    assert!(!into.join(".env").exists() && !into.join("folder/encoded").exists());
    assert_eq!(
        std::fs::read_to_string(into.join("start")).unwrap(),
        format!("{}...\n", &TOKEN[..8])
    );
    let seen = std::fs::read_to_string(into.join("seen")).unwrap();
    assert_eq!(seen, "0\n");
    for home in [&cloud.home, &home] {
        let found = files_with(&home.baton_home(), TOKEN);
        // The folders of a run stay where they were, for its user.
        let runs = home.baton_home().join("runs");
        assert!(found.iter().all(|path| path.starts_with(&runs)), "{found:?}");
    }
}

#[test]
fn what_cannot_be_a_secret_is_refused_and_its_value_is_not_said() {
    let cloud = Cloud::new();
    let (home, pusher) = (cloud.device(), cloud.device_with(&["--role", "push"]));
    for name in ["PATH", "HOME", "BATON_RUN", "LD_PRELOAD", "1A", "A-B", "A=swordfish", ""] {
        let output = home.baton_with_input(&["secret", "set", name], b"swordfish");
        assert_eq!(output.status.code(), Some(2), "{name}: {}", said(&output));
    }
    let output = home.baton(&["secret", "set", "A", "--agent", "A B"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    refused(&home, &["secret", "set", "A"], 1, "secret");
    let long = "swordfish".repeat(8 * 1024);
    for value in [&b"swordfish\0"[..], b"", b"\n", long.as_bytes()] {
        let output = home.baton_with_input(&["secret", "set", "A"], value);
        assert_eq!(output.status.code(), Some(1));
        assert!(!said(&output).contains("swordfish"), "{}", said(&output));
    }
    let output = pusher.baton_with_input(&["secret", "set", "A", "--json"], b"swordfish");
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("not-allowed") && !said(&output).contains("swordfish"));
    assert_eq!(home.json(&["secret", "list"])["secrets"], json!([]));

    // Too short to be masked, which is said.
    let output = home.baton_with_input(&["secret", "set", "PIN"], b"1234");
    assert!(output.status.success() && said(&output).contains("not masked"), "{}", said(&output));
    // What others may read is neither used nor replaced.
    let folder = cloud.home.baton_home().join("secrets");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o750)).unwrap();
    refused(&home, &["secret", "list"], 1, "remote-failed");
    let doctor = cloud.home.json(&["doctor"]);
    let checks = list(&doctor, "checks").iter();
    let failed: Vec<_> = checks.filter(|check| check["name"] == "secrets").collect();
    assert!(failed.len() == 1 && failed[0]["ok"] == false, "{doctor}");
    assert!(text(failed[0], "fix").contains("chmod"), "{doctor}");
    let (shown, _) = run(&home, &workspace(&home), "echo started > started");
    assert_eq!(text(&shown, "state"), "failed");
    let reason = shown["reason"].to_string();
    assert!(reason.contains("secrets") || shown["reason"].is_null(), "{shown}");
    assert!(
        !folder.with_file_name("runs").join(text(&shown, "run")).join("checkout/started").exists()
    );
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(list(&home.json(&["secret", "list"]), "secrets").len(), 1);
}

#[test]
fn a_node_that_is_away_is_said_and_nothing_is_kept_here() {
    let mut cloud = Cloud::new();
    let home = cloud.device();
    cloud.stop();
    let output = home.baton_with_input(&["secret", "set", "A", "--json"], b"swordfish");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("remote-unreachable"), "{}", said(&output));
    assert_eq!(list(&home.json(&["queue"]), "queue").len(), 0);
    assert_eq!(files_with(&home.baton_home(), "swordfish"), Vec::<PathBuf>::new());

    // The node in this daemon keeps its own.
    let alone = TestHome::new();
    assert_eq!(set(&alone, &["A"], "swordfish")["remote"], "local");
    assert_eq!(run(&alone, &workspace(&alone), "echo $A").1, "***\n");
}
