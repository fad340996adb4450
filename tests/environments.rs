//! What a tree wants to find installed is installed once, is there for every run, and is no change by any of them.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::cloud::{Cloud, arg, list, text};
use crate::support::home::{TestHome, eventually};

fn write(folder: &Path, name: &str, what: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, what).unwrap();
}

/// A tree without git, in which nothing is ignored.
fn workspace(home: &TestHome, setup: &str, rest: &str) -> PathBuf {
    let tree = home.folder("work");
    write(&tree, "lock", "1\n");
    write(&tree, "src/kept", "kept\n");
    write(&tree, ".baton/environment.toml", &format!("setup = '''\n{setup}\n'''\n{rest}"));
    tree
}

fn start(home: &TestHome, tree: &Path, variants: u32, script: &str) -> Vec<String> {
    let variants = variants.to_string();
    let handed =
        home.json(&["handoff", arg(tree), "--variants", &variants, "--", "sh", "-c", script]);
    list(&handed, "runs").iter().map(|run| text(run, "run").to_owned()).collect()
}

/// How a run has ended, and what each stream of its log says.
struct Ended {
    info: Value,
    node: String,
    stdout: String,
}

fn ended(home: &TestHome, run: &str) -> Ended {
    home.baton(&["run", "wait", run]);
    let lines = home.json_lines(&["logs", run], 0);
    let of = |stream: &str| {
        lines
            .iter()
            .filter(|line| line["stream"] == stream)
            .map(|line| text(line, "text"))
            .collect()
    };
    Ended { info: home.json(&["run", "show", run]), node: of("node"), stdout: of("stdout") }
}

fn changes(home: &TestHome, run: &str) -> Vec<String> {
    let changed = home.json(&["run", "diff", run]);
    list(&changed, "changes").iter().map(|change| text(change, "path").to_owned()).collect()
}

const SETUP: &str = "
    echo SETUP IN $COLOUR
    mkdir -p deps/deep src/generated
    cat /proc/sys/kernel/random/uuid | tee deps/token src/generated/token
    echo rewritten > lock
    rm src/kept
    echo tool > \"$HOME/tool\"
    ln -s token deps/link";

const MORE: &str = "
    cache_key = ['lock']
    maintain = 'echo MAINTAIN $COLOUR; test -e deps/token'
    env = { COLOUR = 'blue' }";

/// Shows all that was installed, and leaves something of its own.
const PROGRAM: &str = "cat deps/token src/generated/token; cat lock deps/deep/* 2> /dev/null
    cat src/kept \"$HOME/tool\"; readlink deps/link; echo $COLOUR; echo x > mine";

fn setups(all: &[Ended]) -> usize {
    all.iter().filter(|run| run.node.contains("environment: setup of ")).count()
}

#[test]
fn one_setup_serves_all_variants_follow_ups_and_the_next_node() {
    let mut cloud = Cloud::new();
    let home = cloud.device();
    let tree = workspace(&home, SETUP, MORE);
    let runs = start(&home, &tree, 8, PROGRAM);
    let all: Vec<_> = runs.iter().map(|run| ended(&home, run)).collect();
    assert_eq!(setups(&all), 1);
    let token = {
        let begun = all.iter().find(|run| run.node.contains("environment: setup of ")).unwrap();
        let said: Vec<_> = begun.stdout.lines().collect();
        assert_eq!(said[0], "SETUP IN blue");
        said[1].to_owned()
    };
    let found = format!("{token}\n{token}\n1\nkept\ntool\ntoken\nblue\n");
    let mut reused = 0;
    for (run, of) in runs.iter().zip(&all) {
        assert_eq!(of.info["state"], "succeeded", "{}\n{}", of.info, of.node);
        assert!(of.stdout.ends_with(&found), "{}", of.stdout);
        if of.node.contains("environment: reused") {
            assert_eq!(of.stdout, format!("MAINTAIN blue\n{found}"));
            reused += 1;
        }
        assert_eq!(changes(&home, run), ["mine"]);
    }
    assert_eq!(reused, 7);

    // Another daemon has it, and so has what goes on from a run.
    for kill in [false, true] {
        let address = if kill { cloud.kill() } else { cloud.stop() };
        cloud.start(address);
        let run = start(&home, &tree, 1, PROGRAM).remove(0);
        home.json_exit(&["run", "wait", &run], 0);
        let next =
            home.json(&["follow-up", &run, "--", "sh", "-c", &format!("cat mine; {PROGRAM}")]);
        for (run, before) in [(run.as_str(), ""), (text(&next, "run"), "x\n")] {
            let of = ended(&home, run);
            assert!(of.node.contains("environment: reused"), "{}", of.node);
            assert_eq!(of.stdout, format!("MAINTAIN blue\n{before}{found}"));
        }
    }

    // Another lockfile, another script, and other variables are another environment; other files are not.
    write(&tree, "src/other", "x\n");
    let of = ended(&home, &start(&home, &tree, 1, PROGRAM)[0]);
    assert!(of.node.contains("environment: reused"), "{}", of.node);
    write(&tree, "lock", "2\n");
    let of = ended(&home, &start(&home, &tree, 1, PROGRAM)[0]);
    assert!(of.node.contains("environment: setup of "), "{}", of.node);
    assert!(!of.stdout.contains(&token) && of.stdout.contains("\n2\nkept\n"), "{}", of.stdout);
    for (setup, more) in
        [(&format!("{SETUP}\ntrue"), MORE), (&SETUP.to_owned(), &MORE.replace("blue", "red"))]
    {
        workspace(&home, setup, more);
        let of = ended(&home, &start(&home, &tree, 1, PROGRAM)[0]);
        assert!(of.node.contains("environment: setup of "), "{}", of.node);
    }
}

#[test]
fn files_of_a_later_tree_are_seen_and_not_what_was_installed_at_their_place() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let setup =
        "mkdir -p out/a out/b; echo made > out/a/file; echo made > out/b/file; echo made > plain";
    let tree = workspace(&home, setup, "cache_key = ['lock']");
    let show =
        "cat out/a/file out/b/file plain; cat out/b/more 2> /dev/null; echo x > out/b/file; true";
    let of = ended(&home, &start(&home, &tree, 1, show)[0]);
    assert_eq!(of.stdout, "made\nmade\nmade\n", "{}", of.node);
    write(&tree, "out/a/file", "of the tree\n");
    write(&tree, "out/b/more", "of the tree\n");
    std::fs::remove_file(tree.join("lock")).unwrap();
    write(&tree, "lock", "1\n");
    let run = start(&home, &tree, 1, show).remove(0);
    let of = ended(&home, &run);
    assert!(of.node.contains("environment: reused"), "{}", of.node);
    assert_eq!(of.stdout, "of the tree\nmade\nmade\nof the tree\n");
    // What the run changed of what was installed is its own.
    assert_eq!(changes(&home, &run), ["out/b/file"]);
}

#[test]
fn what_was_installed_is_found_by_the_paths_that_it_knows() {
    let cloud = Cloud::new();
    let home = cloud.device();
    // As a script of a virtual environment does.
    let setup = r#"
        mkdir bin
        ln -s /bin/sh bin/interpreter
        printf '#!%s/bin/interpreter\necho by its path: "$(cat "%s/deps")"\n' "$PWD" "$PWD" > bin/tool
        echo "cat '$HOME/kept'" >> bin/tool
        chmod +x bin/tool
        echo installed > deps
        echo of the home > "$HOME/kept""#;
    let tree = workspace(&home, setup, "");
    for _ in 0..2 {
        let of = ended(&home, &start(&home, &tree, 1, "echo mine > deps; bin/tool")[0]);
        if of.info["isolated"] != true {
            eprintln!("not tested: runs are not isolated here");
            return;
        }
        assert_eq!(of.stdout, "by its path: mine\nof the home\n", "{}", of.node);
    }
}

#[test]
fn where_a_setup_fails_nothing_starts_and_the_next_one_tries_again() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = workspace(&home, "echo trying; test -e fixed || exit 7; echo x > installed", "");
    let run = start(&home, &tree, 1, "echo started").remove(0);
    let of = ended(&home, &run);
    assert_eq!(of.info["state"], "failed");
    assert_eq!(of.info["reason"], "the environment's setup ended with code 7");
    assert_eq!(of.info["exit_code"], Value::Null);
    assert_eq!(of.stdout, "trying\n");
    assert_eq!(changes(&home, &run), Vec::<String>::new());
    let next = home.json(&["follow-up", &run, "--", "true"]);
    let of = ended(&home, text(&next, "run"));
    assert_eq!(of.info["reason"], "the environment's setup ended with code 7");
    write(&tree, "fixed", "");
    let of = ended(&home, &start(&home, &tree, 1, "cat installed")[0]);
    assert_eq!((of.info["state"].as_str(), of.stdout.as_str()), (Some("succeeded"), "trying\nx\n"));

    // Nor where the file says what cannot be.
    write(&tree, ".baton/environment.toml", "setup = 'x'\nimage = 'node'\n");
    let of = ended(&home, &start(&home, &tree, 1, "echo started")[0]);
    assert_eq!(of.info["state"], "failed");
    let reason = text(&of.info, "reason");
    assert!(reason.starts_with(".baton/environment.toml: image is not supported"), "{reason}");
    assert_eq!(of.stdout, "");
}

#[test]
fn who_waits_goes_on_where_the_one_that_sets_up_is_cancelled() {
    let mut cloud = Cloud::new();
    let home = cloud.device();
    let tree = workspace(&home, "echo BEGUN; sleep 300", "");
    let runs = start(&home, &tree, 3, "true");
    let node = |run: &str| ended_so_far(&home, run, "node");
    let begun = || runs.iter().position(|run| ended_so_far(&home, run, "stdout").contains("BEGUN"));
    eventually("a setup", || begun().is_some());
    let first = begun().unwrap();
    let others: Vec<_> = (0..3).filter(|&at| at != first).collect();
    eventually("the others wait", || {
        others
            .iter()
            .all(|&at| node(&runs[at]).contains(&format!("waiting for run {}", runs[first])))
    });
    // One that waits.
    home.json(&["run", "cancel", &runs[others[0]]]);
    assert_eq!(home.json(&["run", "show", &runs[others[0]]])["state"], "cancelled");
    // The one that is at it.
    home.json(&["run", "cancel", &runs[first]]);
    let of = ended(&home, &runs[first]);
    assert_eq!(of.info["state"], "cancelled");
    let last = &runs[others[1]];
    eventually("the last one sets up", || ended_so_far(&home, last, "stdout").contains("BEGUN"));
    // A node that dies in the middle leaves nothing that is used.
    let address = cloud.kill();
    cloud.start(address);
    home.baton(&["run", "wait", last]);
    assert_eq!(home.json(&["run", "show", last])["state"], "interrupted");
    let run = start(&home, &tree, 1, "true").remove(0);
    eventually("another setup", || ended_so_far(&home, &run, "stdout").contains("BEGUN"));
    home.json(&["run", "cancel", &run]);
}

fn ended_so_far(home: &TestHome, run: &str, stream: &str) -> String {
    let lines = home.json_lines(&["logs", run], 0);
    lines.iter().filter(|line| line["stream"] == stream).map(|line| text(line, "text")).collect()
}

#[test]
fn what_a_live_run_has_done_so_far_is_told_from_what_it_found() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = workspace(&home, SETUP, MORE);
    let script = "echo half > mine; echo more >> src/generated/token; read x; echo whole > mine";
    // The first one sets it up, the second one finds it.
    for _ in 0..2 {
        let run = start(&home, &tree, 1, script).remove(0);
        eventually("it waits", || home.json(&["run", "show", &run])["state"] == "waiting");
        let live = changes(&home, &run);
        assert_eq!(live, ["mine", "src/generated/token"]);
        home.json(&["run", "answer", &run, "x"]);
        let of = ended(&home, &run);
        assert_eq!(of.info["state"], "succeeded", "{}\n{}", of.info, of.node);
        assert_eq!(changes(&home, &run), live);
    }
}

#[test]
fn without_the_file_nothing_runs_and_a_lockfile_brings_a_word() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = home.folder("work");
    write(&tree, "package-lock.json", "{}");
    let of = ended(&home, &start(&home, &tree, 1, "ls -A")[0]);
    assert_eq!(of.stdout, "package-lock.json\n");
    assert!(of.node.contains("environment: none; package-lock.json is there"), "{}", of.node);
    assert!(of.node.contains("npm ci"), "{}", of.node);
}

/// `npm` in a home of a test.
fn npm(home: &TestHome, folder: &Path, args: &[&str]) -> Option<String> {
    let mut command = Command::new("npm");
    command.args(args).current_dir(folder).env("HOME", home.user_home());
    command.env("npm_config_update_notifier", "false").env("npm_config_offline", "true");
    let output = command.output().ok()?;
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn dependencies_of_npm_are_installed_once_for_eight_variants() {
    let mut cloud = Cloud::new();
    let home = cloud.device();
    if npm(&home, &home.user_home(), &["--version"]).is_none() {
        eprintln!("not tested with npm: it is not installed");
        return;
    }
    let (tree, package) = (home.folder("work"), home.folder("package"));
    write(&package, "index.js", "module.exports = require('./package.json').version;\n");
    let release = |version: &str| {
        write(&package, "package.json", &format!(r#"{{"name": "dep", "version": "{version}"}}"#));
        std::fs::create_dir_all(tree.join("vendor")).unwrap();
        npm(&home, &package, &["pack", "--pack-destination", arg(&tree.join("vendor"))]);
        let wanted = format!(
            r#"{{"name": "app", "dependencies": {{"dep": "file:vendor/dep-{version}.tgz"}}}}"#
        );
        write(&tree, "package.json", &wanted);
        npm(&home, &tree, &["install", "--package-lock-only", "--no-audit", "--no-fund"]);
    };
    release("1.0.0");
    write(
        &tree,
        ".baton/environment.toml",
        "setup = 'npm ci --offline --no-audit --no-fund'\ncache_key = ['package-lock.json']\n",
    );
    let program = "node -e 'console.log(require(\"dep\"))' | tee found";
    let check = |runs: &[String], version: &str, installs: usize| {
        let all: Vec<_> = runs.iter().map(|run| ended(&home, run)).collect();
        for (run, of) in runs.iter().zip(&all) {
            assert_eq!(of.info["state"], "succeeded", "{}\n{}{}", of.info, of.node, of.stdout);
            assert!(of.stdout.ends_with(&format!("{version}\n")), "{}", of.stdout);
            assert_eq!(changes(&home, run), ["found"]);
        }
        let installed = all.iter().filter(|of| of.stdout.contains("added 1 package")).count();
        assert_eq!((setups(&all), installed), (installs, installs));
    };
    check(&start(&home, &tree, 8, program), "1.0.0", 1);
    let address = cloud.stop();
    cloud.start(address);
    check(&start(&home, &tree, 2, program), "1.0.0", 0);
    release("1.1.0");
    check(&start(&home, &tree, 2, program), "1.1.0", 1);
    let folders: BTreeSet<_> =
        std::fs::read_dir(&tree).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(!folders.contains(std::ffi::OsStr::new("node_modules")), "nothing is installed here");
}
