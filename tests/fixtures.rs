//! Homes and nodes as earlier versions left them, opened by this one: everything is there, to the byte, and goes on.
//!
//! `tests/fixtures/make` makes them. What is to come out of them was listed by other programs than this one.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;

use crate::support::cloud::{Cloud, arg, list, text};
use crate::support::home::TestHome;

/// One of each format that a version had which somebody may have used, and today's.
const ALL: [&str; 2] = ["home-v1", "home-v2"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// What is to come out of a fixture.
struct Expected {
    /// Each with its listing, oldest first.
    snapshots: Vec<(String, String)>,
    /// Where the workspace was.
    workspace: String,
    run: String,
}

fn expected(name: &str) -> Expected {
    let file = std::fs::read_to_string(folder().join(format!("{name}.expected"))).unwrap();
    let mut expected =
        Expected { snapshots: Vec::new(), workspace: String::new(), run: String::new() };
    for line in file.lines() {
        match line.split_once(' ').unwrap() {
            ("", listed) => {
                let (_, listing) = expected.snapshots.last_mut().unwrap();
                listing.push_str(listed);
                listing.push('\n');
            }
            ("snapshot", id) => expected.snapshots.push((id.to_owned(), String::new())),
            ("workspace", path) => path.clone_into(&mut expected.workspace),
            ("run", id) => id.clone_into(&mut expected.run),
            _ => panic!("{line}"),
        }
    }
    expected
}

/// Lists a tree as those of the fixture were.
fn listing(tree: &Path) -> String {
    let output = Command::new("sh").arg(folder().join("list")).arg(tree).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Writes what a fixture has of a home (`home` or `node`) to where that of a test is.
pub(crate) fn extract(name: &str, what: &str, home: &TestHome) {
    let archive = std::fs::read(folder().join(format!("{name}.tar.zst"))).unwrap();
    assert!(archive.len() < 200_000, "{name} is {} bytes", archive.len());
    let tar = home.root().join("tar");
    std::fs::write(&tar, zstd::decode_all(&archive[..]).unwrap()).unwrap();
    let mut extract = Command::new("tar");
    std::fs::create_dir_all(home.baton_home()).unwrap();
    extract.arg("-xf").arg(&tar).args(["--strip-components=1", "-C"]).arg(home.baton_home());
    assert!(extract.arg(what).status().unwrap().success());
}

/// The home and the node of a fixture, not opened yet; the workspace is at another place.
fn unpack(name: &str, from: &str, to: &Path, home: &TestHome, node: &TestHome) {
    extract(name, "home", home);
    extract(name, "node", node);
    let catalog = Connection::open(home.baton_home().join("catalog.db")).unwrap();
    let moved = "UPDATE workspaces SET root = CAST(?1 AS BLOB) WHERE root = CAST(?2 AS BLOB)";
    assert_eq!(catalog.execute(moved, (arg(to), from)).unwrap(), 1);
}

fn opens(name: &str) {
    let (home, node) = (TestHome::new(), TestHome::new());
    let tree = home.user_home().join("work");
    let Expected { snapshots, workspace, run } = expected(name);
    assert!(snapshots.len() >= 4 && snapshots.iter().all(|(_, listing)| listing.len() > 500));
    unpack(name, &workspace, &tree, &home, &node);
    let cloud = Cloud::in_home(node);

    let (last, _) = snapshots.last().unwrap();
    home.json(&["restore", last, "--into", arg(&tree)]);
    for (id, listed) in &snapshots {
        let into = home.root().join(id);
        home.json(&["restore", id, "--into", arg(&into)]);
        assert_eq!(&listing(&into), listed, "{name}: {id}");
    }
    let log = home.json(&["log", arg(&tree)]);
    let logged: Vec<_> = list(&log, "snapshots").iter().map(|one| text(one, "snapshot")).collect();
    for (id, _) in &snapshots {
        assert!(logged.contains(&id.as_str()), "{name}: {id} is not in {log}");
    }
    assert_eq!(text(&list(&log, "runs")[0], "run"), run, "{name}");
    let [.., (third, _), (fourth, _)] = &snapshots[..] else { panic!("{name}") };
    let diff = home.json(&["diff", third, fourth]);
    assert_eq!(text(&list(&diff, "changes")[0], "path"), "last", "{name}: {diff}");
    for home in [&home, &cloud.home] {
        assert_eq!(list(&home.json(&["check", "--data"]), "problems").len(), 0, "{name}");
    }

    // Both go on: the node is at another address by now.
    home.json(&["join", &cloud.ticket(&[])]);
    let result = home.root().join("result");
    home.json(&["pull", &run, "--into", arg(&result)]);
    assert_eq!(std::fs::read(result.join("made")).unwrap(), b"made\n");
    std::fs::write(tree.join("numbers"), "none\n").unwrap();
    let push = home.json(&["push", arg(&tree)]);
    assert_eq!(text(&push, "state"), "acked", "{name}");
    let into = cloud.home.root().join("new");
    cloud.home.json(&["restore", text(&push, "snapshot"), "--into", arg(&into)]);
    assert_eq!(listing(&into), listing(&tree), "{name}");
    // What was pushed then is there, too.
    let into = cloud.home.root().join("third");
    cloud.home.json(&["restore", third, "--into", arg(&into)]);
    assert_eq!(listing(&into), snapshots[snapshots.len() - 2].1, "{name}");
    for home in [&home, &cloud.home] {
        home.json(&["gc"]);
        assert_eq!(list(&home.json(&["check", "--data"]), "problems").len(), 0, "{name}");
    }
}

#[test]
fn what_earlier_versions_left_is_all_there_and_goes_on() {
    ALL.into_iter().for_each(opens);
}

#[test]
fn there_is_no_fixture_that_nobody_opens() {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".tar.zst").map(ToOwned::to_owned))
        .collect();
    names.sort();
    assert_eq!(names, ALL);
}
