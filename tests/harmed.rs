//! A handoff arrives whole or not at all: where one object of it is damaged or lost on the way no run starts, it is
//! said why, and another try goes through.
//!
//! `BATON_NIGHTLY` makes it every kind of object in every way.

#![expect(
    clippy::disallowed_methods,
    reason = "a test has the file system and the environment itself"
)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use baton_daemon::identity::Identity;
use baton_protocol::id::{ObjectId, SnapshotId, VaultId};
use baton_protocol::object::{Content, EntryKind, Manifest};
use baton_store::catalog::Catalog;
use baton_store::objects::ObjectSource;
use baton_store::snapshot::{for_each_entry, load_git_state, load_snapshot};
use baton_store::store::Store;
use serde_json::Value;

use crate::support::cloud::{arg, list, text};
use crate::support::git::command;
use crate::support::home::{Serve, TestHome, eventually, run};
use crate::support::interloper::{Harm, Interloper};
use crate::support::rng::Rng;
use crate::support::walker::{differences, walk};

fn git(folder: &Path, args: &[&str]) -> String {
    git_with(folder, args, b"")
}

fn git_with(folder: &Path, args: &[&str], input: &[u8]) -> String {
    let mut stdin = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut stdin, input).unwrap();
    std::io::Seek::rewind(&mut stdin).unwrap();
    let output = command(folder).args(args).stdin(stdin).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A repository with history, something staged, something in progress, and a large file.
fn repository(home: &TestHome) -> PathBuf {
    let tree = home.folder("work");
    git(&tree, &["init", "-q", "-b", "main"]);
    git(&tree, &["config", "user.name", "A B"]);
    git(&tree, &["config", "user.email", "a@b.example"]);
    std::fs::create_dir(tree.join("folder")).unwrap();
    for (name, bytes) in [("one", "one\n"), ("folder/two", "two\n"), (".gitignore", "large\n")] {
        std::fs::write(tree.join(name), bytes).unwrap();
    }
    std::fs::write(tree.join("large.bin"), Rng::new(5).bytes(700_000)).unwrap();
    git(&tree, &["add", "one", "folder", ".gitignore"]);
    git(&tree, &["commit", "-q", "-m", "first"]);
    git(&tree, &["branch", "side"]);
    std::fs::write(tree.join("one"), "changed\n").unwrap();
    git(&tree, &["commit", "-q", "-a", "-m", "second"]);
    std::fs::write(tree.join("one"), "staged\n").unwrap();
    git(&tree, &["add", "one"]);
    std::fs::write(tree.join("one"), "half done\n").unwrap();
    std::fs::write(tree.join(".git/info/exclude"), "built\n").unwrap();
    tree
}

/// A node, and whoever stands before it.
struct Scene {
    home: TestHome,
    _serve: Serve,
    interloper: Interloper,
}

impl Scene {
    fn new() -> Self {
        let home = TestHome::new();
        let identity = Identity::load_or_create(&home.baton_home().join("keys")).unwrap();
        let place: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let interloper = Interloper::new(&identity, Arc::clone(&place));
        let address = interloper.address.to_string();
        let serve = home.serve_on("127.0.0.1:0", &["--advertise", &address]);
        *place.lock().unwrap() = Some(serve.listening);
        Self { home, _serve: serve, interloper }
    }

    /// A home of another user, for whom the node has nothing yet.
    fn user(&self, name: &str) -> TestHome {
        let home = TestHome::new();
        let keys = home.baton_home().join("keys");
        self.interloper.knows(Identity::load_or_create(&keys).unwrap());
        let ticket = self.home.json(&["ticket", "--user", name]);
        home.json(&["join", text(&ticket, "ticket")]);
        home
    }
}

/// The objects of a snapshot of [`repository`], one of each kind, and what each is.
fn objects(home: &TestHome, snapshot: &str) -> Vec<(&'static str, ObjectId)> {
    assert!(home.baton(&["daemon", "stop"]).status.success());
    let catalog = Catalog::open(&home.baton_home().join("catalog.db")).unwrap();
    let vault = catalog.meta("local-vault").unwrap().unwrap();
    let store = Store::open(&home.baton_home().join("store")).unwrap();
    let vault = store.vault(VaultId::from_bytes(vault.try_into().unwrap())).unwrap();
    let id: SnapshotId = snapshot.parse().unwrap();
    let snapshot = load_snapshot(&vault, id).unwrap();
    let state = load_git_state(&vault, snapshot.git.unwrap()).unwrap();
    let mut found = vec![
        ("snapshot", id.into()),
        ("root", snapshot.root.into()),
        ("git state", snapshot.git.unwrap().into()),
        ("refs", state.refs.content.id()),
        ("index", state.index.unwrap().content.id()),
        ("settings", state.settings.content.id()),
        ("files of git", state.files.unwrap().content.id()),
        ("pack", state.packs[0].blob.content.id()),
        ("tips of a pack", state.packs[0].tips.content.id()),
    ];
    for_each_entry(&vault, snapshot.root, |entry| {
        match (&entry.name[..], entry.kind) {
            (b"folder", EntryKind::Directory { tree, .. }) => found.push(("folder", tree.into())),
            (b"one", EntryKind::File { blob, .. }) => found.push(("file", blob.content.id())),
            (b"large.bin", EntryKind::File { blob, .. }) => {
                let Content::Manifest(manifest) = blob.content else { panic!("{blob:?}") };
                found.push(("manifest", manifest.into()));
                let bytes = vault.require(&manifest.into()).unwrap();
                let Manifest::Leaf(extents) = Manifest::decode(&bytes).unwrap() else { panic!() };
                found.push(("chunk", extents[1].chunk.into()));
            }
            _ => {}
        }
        Ok::<_, baton_store::error::StoreError>(())
    })
    .unwrap();
    assert_eq!(found.len(), 13);
    found
}

/// `handoff … --json`, whatever comes of it.
fn hand_off(home: &TestHome, tree: &Path, script: &str) -> (i32, Value) {
    let mut command = home.command();
    command.args(["handoff", arg(tree), "--json", "--", "sh", "-ec", script]);
    let output = run(command, std::time::Duration::from_mins(1));
    let answer = serde_json::from_slice(&output.stdout);
    let answer = answer.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code().unwrap(), answer)
}

fn runs(home: &TestHome) -> Vec<Value> {
    list(&home.json(&["run", "list"]), "runs").clone()
}

/// Waits for a run that must go well, and compares what it worked on.
fn went_well(home: &TestHome, run: &str, tree: &Path, what: &str) {
    eventually("the end of a run", || {
        let shown = home.json(&["run", "show", run]);
        assert_ne!(text(&shown, "state"), "failed", "{what}: {shown}");
        text(&shown, "state") == "succeeded"
    });
    let into = home.root().join("pulled");
    home.json(&["pull", run, "--into", arg(&into)]);
    assert_eq!(differences(&walk(tree), &walk(&into), &[b".git"]), [""; 0], "{what}");
    for question in
        [&["status", "--porcelain=v2", "--branch"][..], &["log", "--all", "--format=raw"]]
    {
        assert_eq!(git(tree, question), git(&into, question), "{what}");
    }
    git(&into, &["fsck", "--strict"]);
}

fn is_nightly() -> bool {
    std::env::var_os("BATON_NIGHTLY").is_some()
}

#[test]
fn one_object_harmed_on_the_way_starts_no_run_and_the_next_try_heals() {
    let scene = Scene::new();
    let mut number = 0;
    for at in 0..13 {
        for harm in [Harm::Corrupted, Harm::Missing] {
            if !is_nightly() && (at % 2 == 0) != (harm == Harm::Corrupted) {
                continue;
            }
            number += 1;
            let home = scene.user(&format!("user-{number}"));
            let tree = repository(&home);
            let taken = home.json(&["snapshot", arg(&tree)]);
            let (name, object) = objects(&home, text(&taken, "snapshot"))[at];
            let what = format!("{name} {harm:?}");

            scene.interloper.harm(object, harm);
            let (code, answer) = hand_off(&home, &tree, "test -e one");
            let met = scene.interloper.stop();
            assert!(met > 0, "{what}: was not sent");
            // Both say why: here which object it was, or that what came was nonsense there.
            assert_eq!(code, 1, "{what}: {answer}");
            let error = &answer["error"];
            let said = text(error, "message");
            assert!(
                said.contains(&object.to_string()) || said.contains("malformed"),
                "{what}: {said}"
            );
            assert!(!text(error, "hint").is_empty(), "{what}: {error}");
            assert_eq!(runs(&home), [] as [Value; 0], "{what}: {answer}");

            let (code, answer) = hand_off(&home, &tree, "test -e one");
            assert_eq!(code, 0, "{what}: {answer}");
            assert_eq!(answer["snapshot"], taken["snapshot"], "{what}");
            went_well(&home, text(&answer["runs"][0], "run"), &tree, &what);
        }
    }
}

/// A tree that git makes for nobody: it has an entry that would be a repository's own folder.
fn hostile_tree(tree: &Path, name: &str) -> String {
    let empty = git_with(tree, &["hash-object", "-t", "tree", "-w", "--stdin"], b"");
    let id: Vec<u8> =
        (0..20).map(|at| u8::from_str_radix(&empty[at * 2..at * 2 + 2], 16).unwrap()).collect();
    let entry = [b"40000 ", name.as_bytes(), b"\0", &id].concat();
    git_with(tree, &["hash-object", "-t", "tree", "-w", "--literally", "--stdin"], &entry)
}

#[test]
fn objects_that_git_refuses_start_no_run_and_are_named() {
    let scene = Scene::new();
    let home = scene.user("user");
    let tree = repository(&home);
    let whole = home.user_home().join("whole");
    let copied = Command::new("cp").arg("-a").arg(&tree).arg(&whole).status();
    assert!(copied.unwrap().success());
    let started = home.root().join("started");
    let script = format!("touch {}", arg(&started));
    for name in [".git", "..", ".GIT"] {
        let hostile = hostile_tree(&tree, name);
        let commit = git(&tree, &["commit-tree", "-m", "hostile", &hostile]);
        git(&tree, &["update-ref", "refs/heads/hostile", &commit]);
        let (code, answer) = hand_off(&home, &tree, &script);
        // What is sent is what it says it is: only git can say that it is no good, and it does before anything runs.
        assert_eq!(code, 0, "{name}: {answer}");
        let run = text(&answer["runs"][0], "run");
        assert!(!home.baton(&["run", "wait", run]).status.success(), "{name}");
        let shown = home.json(&["run", "show", run]);
        let end = (text(&shown, "state"), &shown["exit_code"], &shown["started_at"]);
        assert_eq!(end, ("failed", &Value::Null, &Value::Null), "{name}: {shown}");
        let why = text(&shown, "reason");
        assert!(why.contains("fsck error") && why.contains("hasDot"), "{name}: {why}");
        assert!(!started.exists(), "{name}");
    }
    // The packs of a workspace are kept, also what is not reachable any more; those of another one are its own.
    let (code, answer) = hand_off(&home, &whole, "test -e one");
    assert_eq!(code, 0, "{answer}");
    went_well(&home, text(&answer["runs"][0], "run"), &whole, "without");
}
