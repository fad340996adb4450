//! What is pushed from one machine is restored on another, byte for byte, and what was left out is
//! named.

#![expect(
    clippy::disallowed_methods,
    reason = "a test has the file system and the environment itself"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::awkward::{self, AwkwardDir, Options};
use crate::support::cloud::{Cloud, arg, list, omitted, text};
use crate::support::home::TestHome;
use crate::support::nobody::{self, as_nobody, give_to_nobody};
use crate::support::rng::Rng;
use crate::support::walker::{differences, walk};

/// Most that an appended line may cost, all in all.
const SMALL: u64 = 4096;

fn git(folder: &Path, args: &[&str]) -> Vec<u8> {
    let output = Command::new("git")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .arg("-C")
        .arg(folder)
        .args(["-c", "safe.directory=*"])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Copies the tracked files of this repository, as they are now, into a git repository of their own.
fn this_repository(into: &Path) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut count = 0;
    for name in git(&root, &["ls-files", "-z"]).split(|&byte| byte == 0) {
        let name = str::from_utf8(name).unwrap();
        // Tracked, and deleted since: not part of the tree.
        if name.is_empty() || !root.join(name).is_file() {
            continue;
        }
        std::fs::create_dir_all(into.join(name).parent().unwrap()).unwrap();
        std::fs::copy(root.join(name), into.join(name)).unwrap();
        count += 1;
    }
    assert!(count > 100, "only {count} tracked files");
    git(into, &["init", "--quiet"]);
    git(into, &["add", "--all"]);
}

/// Restores a snapshot from the node and looks whether it is the tree at `original`, but for `ignored`.
fn restores_as(home: &TestHome, pushed: &Value, original: &Path, ignored: &[&[u8]]) -> Value {
    let target = AwkwardDir::new();
    // Itself, and not a folder in it: then the longest paths could not be removed.
    let into = target.path();
    let restored = home.json(&["restore", text(pushed, "snapshot"), "--into", arg(&into)]);
    let found = differences(&walk(original), &walk(&into), ignored);
    assert_eq!(found, [""; 0], "the first is the original");
    assert_eq!(restored["files"], pushed["files"]);
    assert_eq!(restored["bytes"], pushed["bytes"]);
    assert_eq!(restored["receipt"]["snapshot"], pushed["snapshot"]);
    assert_eq!(restored["receipt"]["verified"], true);
    assert_eq!(omitted(&restored["receipt"]), omitted(pushed));
    restored
}

#[test]
fn this_repository_arrives_whole_and_a_line_more_is_one_small_round_trip() {
    let cloud = Cloud::new();
    let (here, there) = (cloud.device(), cloud.device());
    let tree = here.folder("repository");
    this_repository(&tree);
    std::fs::write(tree.join("not tracked yet"), "untracked\n").unwrap();
    std::fs::create_dir_all(tree.join("empty/folder")).unwrap();
    std::fs::create_dir_all(tree.join("target/debug")).unwrap();
    std::fs::write(tree.join("target/debug/built"), "ignored\n").unwrap();
    let ignored: [&[u8]; 2] = [b".git", b"target"];

    // From below the root: the workspace is the worktree.
    let first = here.baton_in(&tree.join("empty"), &["push", "--json"]);
    let first: Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(first["state"], "acked");
    assert_eq!(omitted(&first), []);
    restores_as(&there, &first, &tree, &ignored);

    let file = tree.join("cli/src/main.rs");
    let text_before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text_before + "// One line more.\n").unwrap();
    let second = here.json(&["push", arg(&tree)]);
    assert_eq!((&second["state"], &second["round_trips"]), (&"acked".into(), &1.into()));
    assert_eq!(second["files_changed"], 1);
    assert!(second["bytes_sent"].as_u64().unwrap() < SMALL, "{second}");
    assert_eq!(second["sequence"].as_u64(), first["sequence"].as_u64().map(|number| number + 1));
    restores_as(&there, &second, &tree, &ignored);

    let third = here.json(&["push", arg(&tree)]);
    assert_eq!(third["snapshot"], second["snapshot"]);
    assert_eq!(third["files_changed"], 0);
    let log = here.json(&["log", arg(&tree)]);
    let known = list(&log, "snapshots");
    assert_eq!(known.len(), 2);
    assert!(known.iter().all(|one| one["acked"] == true), "{log}");
    assert_eq!(text(&known[0], "snapshot"), text(&second, "snapshot"));
    // The one before is whole as well, and was not changed by the one after.
    let old = tempfile::tempdir().unwrap();
    let into = old.path().join("old");
    there.json(&["restore", text(&first, "snapshot"), "--into", arg(&into)]);
    let found = differences(&walk(&tree), &walk(&into), &ignored);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("cli/src/main.rs: "), "{found:?}");
}

#[test]
fn a_large_first_push_sends_each_byte_once_though_it_begins_before_there_is_a_snapshot() {
    let cloud = Cloud::new();
    let (here, there) = (cloud.device(), cloud.device());
    let tree = here.folder("large");
    let mut rng = Rng::new(12);
    let mut total = 0;
    for at in 0..400 {
        let folder = tree.join(format!("d{}", at % 20));
        std::fs::create_dir_all(&folder).unwrap();
        let mut bytes = vec![0; 40_000 + at * 100];
        rng.fill(&mut bytes);
        total += bytes.len() as u64;
        std::fs::write(folder.join(format!("f{at}")), bytes).unwrap();
    }
    let pushed = here.json(&["push", arg(&tree)]);
    assert_eq!(pushed["state"], "acked");
    // Files, directories, the snapshot.
    assert_eq!(pushed["objects_sent"], 400 + 21 + 1);
    let sent = pushed["bytes_sent"].as_u64().unwrap();
    assert!((total..total + total / 100).contains(&sent), "{total} bytes: {pushed}");
    restores_as(&there, &pushed, &tree, &[]);
}

/// The whole tree takes minutes on a slow disk, most of them to take it away again.
fn options() -> Options {
    let nightly = std::env::var_os("BATON_NIGHTLY").is_some();
    if nightly { Options { big: true, ..Options::default() } } else { FEWER }
}

/// Still several nodes for the wide folder.
const FEWER: Options = Options { big: false, wide: 1500 };

fn expected(left_out: &[awkward::Omitted]) -> Vec<(String, String)> {
    let entry = |one: &awkward::Omitted| {
        (String::from_utf8(one.path.clone()).unwrap(), one.reason.to_owned())
    };
    left_out.iter().map(entry).collect()
}

fn paths(left_out: &[awkward::Omitted]) -> Vec<&[u8]> {
    left_out.iter().map(|one| one.path.as_slice()).collect()
}

#[test]
fn an_awkward_tree_arrives_whole_and_what_cannot_travel_is_named() {
    let cloud = Cloud::new();
    let (here, there) = (cloud.device(), cloud.device());
    let tree = AwkwardDir::new();
    let left_out = awkward::build(&tree.path(), 20, options());
    let pushed = here.json(&["push", arg(&tree.path())]);
    assert_eq!(omitted(&pushed), expected(&left_out));
    restores_as(&there, &pushed, &tree.path(), &paths(&left_out));
    let again = here.json(&["push", arg(&tree.path())]);
    assert_eq!(again["snapshot"], pushed["snapshot"]);
    for home in [&here, &there, &cloud.home] {
        let checked = home.json(&["check", "--data"]);
        assert_eq!(list(&checked, "problems"), &[] as &[Value]);
    }
}

/// What root can read, and `nobody` cannot although it is theirs.
fn unreadable_for_nobody() -> Vec<awkward::Omitted> {
    ["modes/dir-000", "modes/file-000", "modes/file-111"]
        .map(|path| awkward::Omitted { path: path.into(), reason: "unreadable" })
        .to_vec()
}

#[test]
fn what_the_user_may_not_read_is_named_and_the_rest_arrives() {
    if !nobody::is_possible() {
        // Then the test above has what this user cannot read.
        return;
    }
    let cloud = Cloud::new();
    let (here, there) = (TestHome::new(), cloud.device());
    // The folders above the build may be closed to others.
    let program = here.root().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_baton"), &program).unwrap();
    let tree = AwkwardDir::new();
    let mut left_out = awkward::build(&tree.path(), 21, FEWER);
    left_out.extend(unreadable_for_nobody());
    left_out.sort();
    left_out.dedup();
    give_to_nobody(here.root());
    give_to_nobody(&tree.path());

    as_nobody(&here, &program, &["join", &cloud.ticket(&[])], 0);
    let pushed = as_nobody(&here, &program, &["push", arg(&tree.path())], 0);
    assert_eq!(omitted(&pushed), expected(&left_out));
    // Looked at as root, who reads all of it.
    restores_as(&there, &pushed, &tree.path(), &paths(&left_out));
}
