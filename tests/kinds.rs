//! A node that is not root's: its runs have checkouts that share layers all the same, and lose nothing.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test has the file system itself, and says what it skips"
)]

use std::path::PathBuf;

use serde_json::Value;

use crate::support::cloud::{Cloud, arg, list, text};
use crate::support::git::git;
use crate::support::home::{TestHome, eventually};
use crate::support::walker::{differences, walk};

/// Neither root nor the user that stands for all who have no number in a namespace.
const USER: u32 = 61235;

fn check(home: &TestHome, name: &str) -> Value {
    let output = home.baton(&["doctor", "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = list(&answer, "checks").iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {answer}")).clone()
}

/// A node of a user whose runs share layers; nothing where there can be none.
fn cloud() -> Option<Cloud> {
    let why = match TestHome::of_user(USER).map(Cloud::in_home) {
        None => "the tests cannot become a user".to_owned(),
        Some(cloud) => {
            let detail = text(&check(&cloud.home, "checkouts"), "detail").to_owned();
            if detail.contains("in a namespace") {
                return Some(cloud);
            }
            detail
        }
    };
    eprintln!("!!! a node of a user is not tested: {why}");
    assert!(std::env::var_os("BATON_REQUIRE_USER_OVERLAYS").is_none(), "it has to be");
    None
}

fn workspace(home: &TestHome) -> PathBuf {
    let tree = home.folder("work");
    git(&tree, &["init", "-q", "-b", "main"]);
    git(&tree, &["config", "user.name", "A B"]);
    git(&tree, &["config", "user.email", "a@b"]);
    for (name, content) in [("kept", "kept\n"), ("gone", "gone\n"), ("dir/sub/file", "deep\n")] {
        let path = tree.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    git(&tree, &["add", "."]);
    git(&tree, &["commit", "-q", "-m", "first"]);
    tree
}

fn runs(answer: &Value) -> Vec<String> {
    list(answer, "runs").iter().map(|run| text(run, "run").to_owned()).collect()
}

fn changes(home: &TestHome, run: &str) -> Vec<(String, String)> {
    let changed = home.json(&["run", "diff", run]);
    let of = |change: &Value| (text(change, "path").to_owned(), text(change, "kind").to_owned());
    list(&changed, "changes").iter().map(of).collect()
}

fn said(home: &TestHome, run: &str, stream: &str) -> String {
    let lines = home.json_lines(&["logs", run], 0);
    lines.iter().filter(|line| line["stream"] == stream).map(|line| text(line, "text")).collect()
}

fn pulled(home: &TestHome, run: &str, name: &str) -> PathBuf {
    let into = home.root().join(name);
    home.json(&["pull", run, "--into", arg(&into)]);
    into
}

const WORK: &str = r#"
    cat kept dir/sub/file
    git status --porcelain
    git log --format=%s
    grep -c overlay /proc/self/mounts > /dev/null && echo shared
    mv dir moved
    rm gone
    echo "$BATON_RUN" > made
    mkdir -p private && chmod 700 private && echo x > private/x
    git checkout -q -b of-the-run && git add -A && git commit -q -m second
    echo after >> made
    grep EXDEV "$BATON_RECEIPT" > /dev/null && echo told
    cat /proc/self/uid_map | tr -s ' '"#;

#[test]
fn a_node_of_a_user_has_layers_and_what_its_runs_do_arrives() {
    let Some(mut cloud) = cloud() else { return };
    let home = cloud.device();
    let tree = workspace(&home);
    let identity = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b";
    let script = format!("set -e; {identity}; {WORK}");
    let command = ["--variants", "2", "--", "sh", "-c", &script];
    let variants = runs(&home.json(&[&["handoff", arg(&tree)], &command[..]].concat()));
    assert_eq!(variants.len(), 2);
    for (number, run) in variants.iter().enumerate() {
        home.baton(&["run", "wait", run]);
        let shown = home.json(&["run", "show", run]);
        let (out, err) = (said(&home, run, "stdout"), said(&home, run, "stderr"));
        assert_eq!(text(&shown, "state"), "succeeded", "{shown} {out} {err}");
        assert!(out.starts_with("kept\ndeep\nfirst\nshared\ntold\n"), "{out}{err}");
        assert!(said(&home, run, "node").contains("EXDEV"), "{shown}");
        // Layers are no reason to do without walls.
        assert_eq!(shown["isolated"], true, "{shown}");
        let changed = changes(&home, run);
        let paths: Vec<_> = changed.iter().map(|(path, _)| path.as_str()).collect();
        for path in ["gone", "made", "moved/sub/file", "private/x"] {
            assert!(paths.contains(&path), "{path}: {changed:?}");
        }
        let into = pulled(&home, run, &format!("variant-{number}"));
        let found = differences(&walk(&tree), &walk(&into), &[b".git"]);
        let mut found: Vec<_> = found
            .iter()
            .filter(|line| !line.starts_with(".git"))
            .map(|line| line.split(':').next().unwrap())
            .collect();
        found.sort_unstable();
        found.dedup();
        let expected = [
            "dir",
            "dir/sub",
            "dir/sub/file",
            "gone",
            "made",
            "moved",
            "moved/sub",
            "moved/sub/file",
            "private",
            "private/x",
        ];
        assert_eq!(found, expected, "{found:?}");
        assert_eq!(std::fs::read_to_string(into.join("made")).unwrap(), format!("{run}\nafter\n"));
        assert_eq!(git(&into, &["log", "--format=%s", "of-the-run"]), "second\nfirst\n");
    }

    // Killed while one is at work: what that did is there, and work goes on.
    let script = "echo half > half; rm kept; mkdir -p dir/new; echo begun; sleep 1000";
    let working = runs(&home.json(&["handoff", arg(&tree), "--", "sh", "-c", script])).remove(0);
    eventually("it works", || said(&home, &working, "stdout").contains("begun"));
    let mut escaped = left_behind(&working);
    let address = cloud.kill();
    cloud.start(address);
    home.baton(&["run", "wait", &working]);
    let ended = escaped.try_wait().unwrap();
    if ended.is_none() {
        escaped.kill().unwrap();
    }
    assert!(ended.is_some(), "what it left is at work while its result is sealed");
    let shown = home.json(&["run", "show", &working]);
    assert_eq!(text(&shown, "state"), "interrupted", "{shown}");
    let names = |run: &str| -> Vec<String> {
        changes(&home, run).into_iter().map(|(path, _)| path).collect()
    };
    let changed = names(&working);
    for path in ["half", "kept"] {
        assert!(changed.iter().any(|it| it == path), "{changed:?}");
    }
    let next =
        ["follow-up", &working, "--", "sh", "-c", "cat half; test ! -e kept; echo more >> half"];
    let next = text(&home.json(&next), "run").to_owned();
    home.baton(&["run", "wait", &next]);
    assert_eq!(said(&home, &next, "stdout"), "half\n");
    let into = pulled(&home, &next, "next");
    assert_eq!(std::fs::read_to_string(into.join("half")).unwrap(), "half\nmore\n");
    let again = ["follow-up", &variants[0], "--", "sh", "-c", "cat made && git log --format=%s"];
    let again = text(&home.json(&again), "run").to_owned();
    home.baton(&["run", "wait", &again]);
    assert_eq!(said(&home, &again, "stdout"), format!("{}\nafter\nsecond\nfirst\n", variants[0]));
    stays_as_it_was(&cloud, &again);
}

/// A process of a run that is neither in its room nor in the namespace of its node, as those of a node without rooms are.
fn left_behind(run: &str) -> std::process::Child {
    let user = USER.to_string();
    let mut command = std::process::Command::new("env");
    if rustix::process::geteuid().is_root() {
        command.args(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"]);
    }
    command.args(["sleep", "1000"]).env("BATON_RUN", run).spawn().unwrap()
}

/// Outside of the namespace nothing is mounted, and the node has no right that it did not have.
fn stays_as_it_was(cloud: &Cloud, run: &str) {
    let node = cloud.serve().pid().as_raw_nonzero();
    let status = std::fs::read_to_string(format!("/proc/{node}/status")).unwrap();
    let capabilities = status.lines().find(|line| line.starts_with("CapEff"));
    assert_eq!(capabilities, Some("CapEff:\t0000000000000000"));
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let home = cloud.home.root().to_str().unwrap();
    assert!(!mounts.lines().any(|line| line.contains(home)), "{mounts}");
    let checkout = cloud.home.baton_home().join("runs").join(run).join("checkout");
    assert_eq!(std::fs::read_dir(checkout).unwrap().count(), 0);
}

#[test]
fn a_user_who_stands_for_others_keeps_out_of_namespaces_and_says_so() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: becoming another user takes root");
        return;
    }
    let Some(home) = TestHome::of_user(65534) else { return };
    let cloud = Cloud::in_home(home);
    let detail = check(&cloud.home, "checkouts");
    let detail = text(&detail, "detail");
    assert!(detail.contains("stands for all that have no number"), "{detail}");
    let home = cloud.device();
    let tree = workspace(&home);
    let run =
        runs(&home.json(&["handoff", arg(&tree), "--", "sh", "-c", "echo x > made"])).remove(0);
    home.baton(&["run", "wait", &run]);
    assert_eq!(changes(&home, &run), [("made".to_owned(), "added".to_owned())]);
    assert!(said(&home, &run, "node").contains("the checkout is a copy"));
}
