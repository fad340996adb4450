//! What nothing needs goes, and what somebody wants to be gone is in no file any more, here and on the node.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use std::path::{Path, PathBuf};

use crate::support::cloud::{Cloud, arg, list, refused, text};
use crate::support::home::TestHome;
use crate::support::walker::{differences, walk};

/// Bytes that no compression changes.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn tree(home: &TestHome) -> PathBuf {
    let tree = home.folder("work");
    std::fs::create_dir_all(tree.join("folder")).unwrap();
    for at in 0..30 {
        std::fs::write(tree.join(format!("folder/file-{at}")), noise(at, 20_000)).unwrap();
    }
    tree
}

/// Whether bytes stand in any file below a folder.
fn holds(folder: &Path, part: &[u8]) -> bool {
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file()
                && let Ok(bytes) = std::fs::read(entry.path())
                && bytes.windows(part.len()).any(|window| window == part)
            {
                return true;
            }
        }
    }
    false
}

fn store(home: &TestHome) -> PathBuf {
    home.baton_home().join("store")
}

#[test]
fn a_secret_that_was_sent_is_taken_back() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = tree(&home);
    let secret = noise(99, 700);
    let (part, of_the_rest) = (&secret[..400], noise(3, 20_000));
    let first = home.json(&["push", arg(&tree)]);
    let before = walk(&tree);
    std::fs::write(tree.join("secret"), &secret).unwrap();
    let second = home.json(&["push", arg(&tree)]);
    let id = text(&second, "snapshot");
    let said = refused(&home, &["forget", id], 4, "needed");
    assert!(said.contains("the latest"), "{said}");
    std::fs::remove_file(tree.join("secret")).unwrap();
    let third = home.json(&["push", arg(&tree)]);
    for home in [&home, &cloud.home] {
        home.json(&["gc"]);
        assert!(holds(&store(home), part), "what was pushed stays");
    }
    let forgotten = home.json(&["forget", &id[..12]]);
    assert_eq!(list(&forgotten, "forgotten"), &[id]);
    assert_eq!(list(&forgotten, "queued").len(), 0);
    let listed = home.json(&["log", arg(&tree)]);
    let listed: Vec<_> =
        list(&listed, "snapshots").iter().map(|one| text(one, "snapshot")).collect();
    assert_eq!(listed, [text(&third, "snapshot"), text(&first, "snapshot")]);
    for home in [&home, &cloud.home] {
        assert!(holds(&store(home), part), "it is real after gc");
        let done = home.json(&["gc"]);
        assert_eq!(list(&done, "problems").len(), 0);
        assert!(done["objects"].as_u64().unwrap() >= 3, "{done}");
        assert!(!holds(&store(home), part), "{done}");
        assert!(holds(&store(home), &of_the_rest[..400]), "what stays is found so");
        assert_eq!(list(&home.json(&["check", "--data"]), "problems").len(), 0);
    }
    // What came before it can be had here and there.
    for other in [home, cloud.device()] {
        let into = other.folder("again");
        other.json(&["restore", text(&first, "snapshot"), "--into", arg(&into)]);
        assert_eq!(differences(&before, &walk(&into), &[]), Vec::<String>::new());
    }
}

#[test]
fn collecting_leaves_what_can_still_be_asked_for() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = tree(&home);
    let base = home.json(&["push", arg(&tree)]);
    let script = "head -c 300000 /dev/urandom > made; echo done";
    let handoff = home.json(&["handoff", arg(&tree), "--", "sh", "-c", script]);
    let run = text(&list(&handoff, "runs")[0], "run").to_owned();
    home.json(&["run", "wait", &run]);
    let early = home.folder("early");
    home.json(&["pull", &run, "--into", arg(&early)]);
    std::fs::write(tree.join("folder/file-1"), noise(500, 30_000)).unwrap();
    let applied = home.json(&["pull", &run, "--apply", arg(&tree)]);
    let dry = home.json(&["gc", "--dry-run"]);
    assert_eq!((&dry["dry_run"], list(&dry, "problems").len()), (&true.into(), 0), "{dry}");
    for home in [&home, &cloud.home] {
        let done = home.json(&["gc"]);
        assert_eq!((list(&done, "problems").len(), &done["in_use"]), (0, &0.into()), "{done}");
        assert_eq!(list(&home.json(&["check", "--data"]), "problems").len(), 0);
    }
    let late = home.folder("late");
    home.json(&["pull", &run, "--into", arg(&late)]);
    assert_eq!(differences(&walk(&early), &walk(&late), &[]), Vec::<String>::new());
    let undone = home.baton_in(&tree, &["undo", text(&applied, "undo")]);
    assert!(undone.status.success(), "{undone:?}");
    assert!(!tree.join("made").exists());
    let next = home.json(&["follow-up", &run, "--", "sh", "-c", "wc -c made"]);
    home.json(&["run", "wait", text(&next, "run")]);
    let other = cloud.device();
    let again = other.folder("again");
    other.json(&["restore", text(&base, "snapshot"), "--into", arg(&again)]);
    // A run that was followed up is forgotten by itself; what goes on from it stays.
    let gone = home.json(&["forget", "--run", &run]);
    assert_eq!(list(&gone, "forgotten"), &[run.as_str()]);
    for home in [&home, &cloud.home] {
        assert_eq!(list(&home.json(&["gc"]), "problems").len(), 0);
        assert_eq!(list(&home.json(&["check", "--data"]), "problems").len(), 0);
    }
    refused(&home, &["run", "show", &run], 1, "not-found");
    let result = home.folder("result");
    home.json(&["pull", text(&next, "run"), "--into", arg(&result)]);
    assert_eq!(std::fs::metadata(result.join("made")).unwrap().len(), 300_000);
}

#[test]
fn a_workspace_is_forgotten_not_while_something_goes_on_and_never_its_folder() {
    let mut cloud = Cloud::new();
    let home = cloud.device();
    let tree = tree(&home);
    home.json(&["push", arg(&tree)]);
    let handoff = home.json(&["handoff", arg(&tree), "--", "sleep", "600"]);
    let run = text(&list(&handoff, "runs")[0], "run").to_owned();
    let said = refused(&home, &["forget", "--workspace", arg(&tree)], 4, "conflict");
    assert!(said.contains("cancel"), "{said}");
    refused(&home, &["forget", "--run", &run], 4, "run-live");
    home.json(&["run", "cancel", &run]);
    drop(home.baton(&["run", "wait", &run]));
    // Offline the node is told later.
    cloud.stop();
    let gone = home.json_exit(&["forget", "--workspace", arg(&tree)], 3);
    assert_eq!((list(&gone, "forgotten").len(), list(&gone, "queued").len()), (1, 1));
    assert!(tree.join("folder/file-7").exists());
}

#[test]
fn a_workspace_that_was_forgotten_is_in_no_file_any_more_and_others_stay() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let (gone, stays) = (tree(&home), home.folder("stays"));
    let (of_one, of_both, of_other) = (noise(301, 700), noise(302, 700), noise(303, 700));
    std::fs::write(gone.join("one"), &of_one).unwrap();
    std::fs::write(gone.join("both"), &of_both).unwrap();
    std::fs::write(stays.join("both"), &of_both).unwrap();
    std::fs::write(stays.join("other"), &of_other).unwrap();
    home.json(&["push", arg(&stays)]);
    home.json(&["push", arg(&gone)]);
    let handoff = home.json(&["handoff", arg(&gone), "--", "sh", "-c", "cat one one > two"]);
    let run = text(&list(&handoff, "runs")[0], "run").to_owned();
    home.json(&["run", "wait", &run]);
    home.json(&["pull", &run, "--into", arg(&home.folder("result"))]);
    std::fs::write(gone.join("folder/file-1"), noise(304, 700)).unwrap();
    home.json(&["snapshot", arg(&gone)]);
    home.json(&["forget", "--workspace", arg(&gone)]);
    for home in [&home, &cloud.home] {
        assert!(holds(&store(home), &of_one[..400]), "it is real after gc");
        let done = home.json(&["gc"]);
        assert_eq!((list(&done, "problems").len(), &done["in_use"]), (0, &0.into()), "{done}");
        assert!(!holds(&store(home), &of_one[..400]), "{done}");
        assert!(holds(&store(home), &of_both[..400]) && holds(&store(home), &of_other[..400]));
        assert_eq!(list(&home.json(&["check", "--data"]), "problems").len(), 0);
    }
    assert!(gone.join("one").exists());
}
