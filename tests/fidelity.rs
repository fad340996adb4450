//! Repositories in every state that git knows arrive on another machine as they were: pushed, and restored by another
//! home that has never seen where they came from.
//!
//! `store/src/git/tests/fidelity.rs` asks the same of what captures and rebuilds, alone. `BATON_NIGHTLY` makes it
//! every state in every way in which a repository can be kept.

#![expect(
    clippy::disallowed_methods,
    reason = "a test has the file system and the environment itself"
)]

#[path = "../store/src/git/tests/lab.rs"]
#[allow(dead_code, clippy::expect_used, reason = "what is captured here is captured by a daemon")]
mod lab;
#[path = "../store/src/git/tests/states.rs"]
mod states;
mod releases;

use std::io::{Seek, Write};
use std::path::Path;

use baton_protocol::id::{ObjectId, ObjectKind};
use baton_store::error::StoreError;
use baton_store::objects::{ObjectSink, ObjectSource};
use lab::{Dice, Kept, Lab, all_kept};
use states::{QUESTIONS, STATES, State};

use crate::support::cloud::{Cloud, arg, text};
use crate::support::home::TestHome;
use crate::support::walker::{differences, walk};

/// Where the labs of the store put what they capture; here it is a daemon that captures.
#[derive(Debug, Default)]
struct MemoryObjects {}

impl ObjectSource for MemoryObjects {
    fn read(&self, _: &ObjectId) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn contains(&self, _: &ObjectId) -> Result<bool, StoreError> {
        Ok(false)
    }
}

impl ObjectSink for MemoryObjects {
    fn put(&self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId, StoreError> {
        Ok(ObjectId::of(kind, bytes))
    }
}

/// States in which git would run something that another home has not had before: that is held there, and so they
/// are restored by the home that pushed them.
const RUNS_SOMETHING: [&str; 2] = ["rebase with commands", "filters"];

/// A node, a home that pushes and one that restores.
struct Scene {
    _cloud: Cloud,
    here: TestHome,
    there: TestHome,
}

impl Scene {
    fn new() -> Self {
        let cloud = Cloud::new();
        let (here, there) = (cloud.device(), cloud.device());
        Self { _cloud: cloud, here, there }
    }

    fn check(&self, state: &State, kept: Kept, seed: u64) {
        let what = format!("{} in {kept:?} by seed {seed}", state.name);
        let mut lab = Lab::new(kept);
        (state.make)(&mut lab, &mut Dice::new(seed));
        let (work, into) = (lab.work(), lab.path("restored"));
        let pushed = self.here.json(&["push", arg(&work)]);
        assert_eq!(text(&pushed, "state"), "acked", "{what}");
        // Where the origin was nobody may look any more.
        if lab.path("origin").exists() {
            std::fs::rename(lab.path("origin"), lab.path("gone")).unwrap();
        }
        let restores = if RUNS_SOMETHING.contains(&state.name) { &self.here } else { &self.there };
        let answer = restores.json(&["restore", text(&pushed, "snapshot"), "--into", arg(&into)]);
        same(&lab, &what, &work, &into);
        let [a, b] = [&work, &into].map(|at| lab.try_git_in(at, &["fsck", "--full", "--strict"]));
        let said = String::from_utf8_lossy(&b.stderr);
        assert!(b.status.success() || !a.status.success(), "{what}: fsck: {said} {answer}");
        for (at, step) in state.goes_on.iter().enumerate() {
            let [a, b] = [&work, &into].map(|at| lab.try_git_in(at, step));
            let said = [a.stderr, b.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
            assert_eq!(a.status.code(), b.status.code(), "{what}: git {step:?}: {said:?}");
            same(&lab, &format!("{what}, after step {at}"), &work, &into);
        }
    }
}

/// What git says, and every file.
fn same(lab: &Lab, what: &str, here: &Path, there: &Path) {
    for question in QUESTIONS {
        let [a, b] = [here, there].map(|at| {
            // Nothing may be refreshed by asking.
            let output = lab.command(at, question).env("GIT_OPTIONAL_LOCKS", "0").output().unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
        });
        assert!(a == b, "{what}: git {question:?} said here\n{a:?}\nand there\n{b:?}");
    }
    let mut listings = [walk(here), walk(there)];
    for (listing, at) in listings.iter_mut().zip([here, there]) {
        // What git ignores does not travel, nor does a folder that it ignores with all that is in it.
        let ignored = lab.git_in(at, &["ls-files", "-z", "-o", "-i", "--exclude-standard"]);
        for path in ignored.split(|&byte| byte == 0) {
            listing.remove(path);
        }
        for folder in ignored_folders(lab, at, &ignored) {
            let below = [&folder[..], b"/"].concat();
            let next = listing.range(below.clone()..).next();
            if next.is_none_or(|(other, _)| !other.starts_with(&below)) {
                listing.remove(&folder);
            }
        }
        // Of a repository git says all that is to say, also of one in a submodule.
        listing.retain(|path, _| !path.split(|&byte| byte == b'/').any(|name| name == b".git"));
    }
    assert_eq!(differences(&listings[0], &listings[1], &[]), [""; 0], "{what}");
}

/// The folders above these files that git ignores as such, the inner ones first.
fn ignored_folders(lab: &Lab, at: &Path, files: &[u8]) -> Vec<Vec<u8>> {
    let mut above = std::collections::BTreeSet::new();
    for path in files.split(|&byte| byte == 0) {
        let ends = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
        above.extend(ends.map(|(end, _)| path[..end].to_vec()));
    }
    let asked: Vec<_> = above.into_iter().rev().collect::<Vec<_>>().join(&0);
    let mut question = tempfile::tempfile().unwrap();
    question.write_all(&asked).unwrap();
    question.rewind().unwrap();
    let output =
        lab.command(at, &["check-ignore", "-z", "--stdin"]).stdin(question).output().unwrap();
    // It says 1 where none is.
    assert!(output.status.code().unwrap() <= 1, "{}", String::from_utf8_lossy(&output.stderr));
    let said = output.stdout.split(|&byte| byte == 0).map(<[u8]>::to_vec);
    said.filter(|path| !path.is_empty()).collect()
}

fn is_nightly() -> bool {
    std::env::var_os("BATON_NIGHTLY").is_some()
}

/// Half of the states, or of some of them each in one way. One run shows all that differ.
fn check_share(share: usize) {
    let ways = all_kept();
    let scene = Scene::new();
    let mut failed = Vec::new();
    let step = if is_nightly() { 2 } else { 12 };
    // All states in one way first: whoever ends it early has seen most.
    for (way, kept) in ways.iter().enumerate() {
        for (at, state) in STATES.iter().enumerate() {
            // The ways come in turn, so that each meets several states.
            let is_turn = is_nightly() || way == (at / 2 + at) % ways.len();
            if at % step != share * step / 2 || !is_turn {
                continue;
            }
            let (kept, seed) = (state.fit(*kept), (at * 100 + way) as u64 + 50_001);
            let check = std::panic::AssertUnwindSafe(|| scene.check(state, kept, seed));
            if std::panic::catch_unwind(check).is_err() {
                failed.push(format!("{} in {kept:?} by seed {seed}", state.name));
            }
        }
    }
    assert!(failed.is_empty(), "{} differ:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn repositories_arrive_elsewhere_as_they_are_0() {
    check_share(0);
}

#[test]
fn repositories_arrive_elsewhere_as_they_are_1() {
    check_share(1);
}
