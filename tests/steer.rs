//! Runs are tried several at once, compared, and gone on with.

#![expect(
    clippy::disallowed_methods,
    reason = "a test has the file system and the environment itself"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::cloud::{Cloud, arg, list, refused, text};
use crate::support::home::{TestHome, eventually};

fn workspace(home: &TestHome) -> PathBuf {
    let tree = home.folder("work");
    std::fs::write(tree.join("kept"), "one\ntwo\nthree\n").unwrap();
    std::fs::write(tree.join("gone"), "a\nb\n").unwrap();
    tree
}

fn run_ids(answer: &Value) -> Vec<String> {
    list(answer, "runs").iter().map(|run| text(run, "run").to_owned()).collect()
}

fn said(home: &TestHome, run: &str) -> String {
    let lines = home.json_lines(&["logs", run], 0);
    let of_program = lines.iter().filter(|line| line["stream"] == "stdout");
    of_program.map(|line| text(line, "text")).collect()
}

fn change(answer: &Value, path: &str) -> (String, Option<u64>, Option<u64>) {
    let found = list(answer, "changes").iter().find(|it| it["path"] == path);
    let found = found.unwrap_or_else(|| panic!("{path} is not in {answer}"));
    (text(found, "kind").to_owned(), found["added"].as_u64(), found["removed"].as_u64())
}

#[test]
fn variants_are_runs_of_their_own_and_can_be_compared() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = workspace(&home);
    let script = "echo \"$BATON_RUN\" > who; rm gone; printf 'one\\nzwei\\nthree\\nfour\\n' > kept";
    let handed = home.json(&["handoff", arg(&tree), "--variants", "3", "--", "sh", "-c", script]);
    let runs = run_ids(&handed);
    assert_eq!(runs.iter().collect::<BTreeSet<_>>().len(), 3);
    let threads: BTreeSet<_> =
        list(&handed, "runs").iter().map(|run| text(run, "thread")).collect();
    assert_eq!(threads.len(), 3, "{handed}");
    for run in &runs {
        home.json_exit(&["run", "wait", run], 0);
        let changed = home.json(&["run", "diff", run]);
        assert_eq!(text(&changed, "run"), run);
        assert_eq!(change(&changed, "who"), ("added".into(), Some(1), Some(0)));
        assert_eq!(change(&changed, "gone"), ("removed".into(), Some(0), Some(2)));
        assert_eq!(change(&changed, "kept"), ("modified".into(), Some(2), Some(1)));
    }
    // They differ in what is their own, and in nothing else.
    let between = home.json(&["run", "diff", &runs[0], &runs[1], "--patch"]);
    assert_eq!(text(&between, "other"), runs[1]);
    assert_eq!(list(&between, "changes").len(), 1, "{between}");
    assert_eq!(change(&between, "who"), ("modified".into(), Some(1), Some(1)));
    let patch = text(&between, "patch");
    assert!(patch.contains(&format!("-{}", runs[0])) && patch.contains(&format!("+{}", runs[1])));
    assert!(tree.join("gone").exists(), "nothing is changed here");
}

#[test]
fn each_prompt_makes_a_run_of_its_own() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = workspace(&home);
    let command = ["--", "sh", "-c", "echo \"$BATON_PROMPT\""];
    let handed =
        home.json(&[&["handoff", arg(&tree), "-p", "fast", "-p", "small"][..], &command].concat());
    let runs = run_ids(&handed);
    for (run, prompt) in runs.iter().zip(["fast\n", "small\n"]) {
        home.json_exit(&["run", "wait", run], 0);
        assert_eq!(said(&home, run), prompt);
    }
    let odd = [&["handoff", "--variants", "3", "-p", "a", "-p", "b"][..], &command].concat();
    assert_eq!(home.baton_in(&tree, &odd).status.code(), Some(2));
}

#[test]
fn a_follow_up_takes_files_along_and_goes_on_at_another_node() {
    let (cloud, other) = (Cloud::new(), Cloud::new());
    let home = cloud.device();
    let joined = home.json(&["remote", "list"]);
    let near = text(&list(&joined, "remotes")[0], "name").to_owned();
    home.json(&["join", &other.ticket(&[]), "--name", "other"]);
    let tree = workspace(&home);
    std::fs::write(home.user_home().join("notes"), "first\n").unwrap();
    let notes = home.user_home().join("notes");
    let begun = "echo 1 > story; cat \"$BATON_ATTACHMENTS/notes\"";
    let handed = home.json(&[
        "--remote",
        &near,
        "handoff",
        arg(&tree),
        "--attach",
        arg(&notes),
        "--",
        "sh",
        "-c",
        begun,
    ]);
    let first = run_ids(&handed).remove(0);
    home.json_exit(&["run", "wait", &first], 0);
    assert_eq!(said(&home, &first), "first\n");

    // What is attached now is beside what was; one of the same name is in its place.
    std::fs::write(&notes, "second\n").unwrap();
    std::fs::write(home.user_home().join("more"), "more\n").unwrap();
    let more = home.user_home().join("more");
    let script = "cat story \"$BATON_ATTACHMENTS\"/*; echo 2 >> story";
    let second = home.json(&[
        "follow-up",
        &first,
        "--attach",
        arg(&notes),
        "--attach",
        arg(&more),
        "--",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(
        (&second["parent"], &second["remote"]),
        (&first.as_str().into(), &near.as_str().into())
    );
    assert_eq!(second["thread"], handed["runs"][0]["thread"]);
    let second = text(&second, "run").to_owned();
    home.json_exit(&["run", "wait", &second], 0);
    assert_eq!(said(&home, &second), "1\nmore\nsecond\n");
    refused(&home, &["follow-up", &first, "--attach", arg(&more), "--", "true"], 4, "conflict");
    refused(&home, &["follow-up", &first, "--remote", "other", "--", "true"], 4, "conflict");

    let third = home.json(&["--remote", "other", "follow-up", &second, "--", "sh", "-c", script]);
    assert_eq!(third["remote"], "other", "{third}");
    assert_eq!(third["thread"], handed["runs"][0]["thread"]);
    let third = text(&third, "run").to_owned();
    home.json_exit(&["run", "wait", &third], 0);
    assert_eq!(said(&home, &third), "1\n2\nmore\nsecond\n");
    // Whoever names one that was followed up is told, on whichever node that was.
    let shown = home.baton(&["run", "show", &second]);
    let noted = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert!(noted.contains(&format!("was followed up by run {}", &third[..8])), "{noted}");
    refused(&home, &["follow-up", &second, "--", "true"], 4, "conflict");
    // What comes home is what all of them did, and the tree's next push goes on from its own.
    std::fs::write(tree.join("kept"), "one\ntwo\nthree\nhere\n").unwrap();
    home.json(&["pull", &third, "--apply"]);
    assert_eq!(std::fs::read_to_string(tree.join("story")).unwrap(), "1\n2\n2\n");
    let pushed = home.baton(&["push", arg(&tree)]);
    assert_eq!(
        (pushed.status.code(), String::from_utf8_lossy(&pushed.stderr)),
        (Some(0), "".into())
    );
    // A fork begins beside it, and a node that is away is waited for.
    drop(other);
    let queued = ["--remote", "other", "follow-up", &second, "--fork", "--", "true"];
    let queued = home.json_exit(&queued, 3);
    assert_ne!(queued["thread"], handed["runs"][0]["thread"]);
    let queue = home.json(&["queue"]);
    assert_eq!(list(&queue, "queue")[0]["kind"], "handoff", "{queue}");
}

#[test]
fn a_follow_up_goes_on_where_a_run_ended_and_there_is_one() {
    let mut cloud = Cloud::new();
    let home = cloud.device();
    let tree = workspace(&home);
    let begun = "echo first >> story; exit 7";
    let handed = home.json(&["handoff", arg(&tree), "--", "sh", "-c", begun]);
    let first = run_ids(&handed).remove(0);
    home.json_exit(&["run", "wait", &first], 7);
    // A failed one can be gone on with, also after a restart of the node.
    let address = cloud.stop();
    cloud.start(address);
    let second =
        home.json(&["follow-up", &first, "--", "sh", "-c", "cat story; echo second >> story"]);
    assert_eq!(
        (&second["thread"], &second["parent"]),
        (&handed["runs"][0]["thread"], &first.clone().into())
    );
    let second = text(&second, "run").to_owned();
    home.json_exit(&["run", "wait", &second], 0);
    assert_eq!(said(&home, &second), "first\n");
    let shown = home.json(&["run", "show", &second]);
    assert_eq!(shown["parent"], first.as_str());

    // Its thread has one next run, unless another one is asked for beside it.
    let again = ["follow-up", &first, "--", "true"];
    let why = refused(&home, &again, 4, "conflict");
    assert!(why.contains(&second), "{why}");
    let fork = home.json(&["follow-up", &first, "--fork", "--", "cat", "story"]);
    assert_ne!(fork["thread"], handed["runs"][0]["thread"]);
    let fork = text(&fork, "run").to_owned();
    home.json_exit(&["run", "wait", &fork], 0);
    assert_eq!(said(&home, &fork), "first\n");

    // A thread means its newest run, and a program is run again with another prompt.
    let third = home.json(&[
        "follow-up",
        text(&handed["runs"][0], "thread"),
        "-p",
        "why",
        "--",
        "sh",
        "-c",
        "cat story; echo \"$BATON_PROMPT\" >> story",
    ]);
    let third = text(&third, "run").to_owned();
    home.json_exit(&["run", "wait", &third], 0);
    assert_eq!(said(&home, &third), "first\nsecond\n");
    let fourth = home.json(&["follow-up", &third, "-p", "because"]);
    let fourth = text(&fourth, "run").to_owned();
    home.json_exit(&["run", "wait", &fourth], 0);
    assert_eq!(said(&home, &fourth), "first\nsecond\nwhy\n");
    // What comes home is what all of them did.
    std::fs::write(tree.join("kept"), "one\ntwo\nthree\nhere\n").unwrap();
    let applied = home.json(&["pull", &fourth, "--apply"]);
    assert_eq!(applied["base"], handed["snapshot"], "{applied}");
    let story = std::fs::read_to_string(tree.join("story")).unwrap();
    assert_eq!(story, "first\nsecond\nwhy\nbecause\n");
    let into = home.folder("out").join("end");
    home.json(&["pull", &fourth, "--into", arg(&into)]);
    let story = std::fs::read_to_string(into.join("story")).unwrap();
    assert_eq!(story, "first\nsecond\nwhy\nbecause\n");
}

#[test]
fn a_live_run_is_not_gone_on_with_and_a_node_that_is_away_is_waited_for() {
    let mut cloud = Cloud::new();
    let home = cloud.device();
    let tree = workspace(&home);
    let handed = home.json(&["handoff", arg(&tree), "--", "sh", "-c", "echo x > made; sleep 300"]);
    let run = run_ids(&handed).remove(0);
    refused(&home, &["follow-up", &run, "--", "true"], 4, "run-live");
    eventually("it has done something", || {
        let compared = home.baton(&["run", "diff", &run, "--json"]).stdout;
        let compared: Value = serde_json::from_slice(&compared).unwrap_or_default();
        compared["changes"][0]["path"] == "made"
    });
    home.json(&["run", "cancel", &run]);

    let address = cloud.kill();
    let queued = home.json_exit(&["follow-up", &run, "--", "cat", "made"], 3);
    assert_eq!(queued["state"], "queued");
    let next = text(&queued, "run").to_owned();
    let waiting = home.json(&["queue"]);
    assert_eq!(list(&waiting, "queue")[0]["kind"], "follow-up", "{waiting}");
    assert_eq!(home.json(&["run", "show", &next])["state"], "queued");
    cloud.start(address);
    eventually("the run of the queue", || {
        home.json(&["run", "show", &next])["state"] == "succeeded"
    });
    assert_eq!(said(&home, &next), "x\n");
}

#[test]
fn nothing_to_do_is_said_before_anything_is_asked() {
    let home = TestHome::new();
    let folder: &Path = &home.folder("work");
    for line in [
        &["follow-up", "0123456789abcdef"][..],
        &["follow-up"],
        &["handoff", "--variants", "2"],
        &["handoff", "--variants", "65", "--", "true"],
        &["handoff", "-f", "--variants", "2", "--", "true"],
        &["run", "diff"],
    ] {
        let ran = home.baton_in(folder, line);
        assert_eq!(ran.status.code(), Some(2), "{line:?}: {ran:?}");
    }
    assert!(home.processes().is_empty());
}
