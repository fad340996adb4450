//! The same repository on both sides, by everything that git says of it, before and after it goes on.
//!
//! `BATON_NIGHTLY` makes it every state in every way in which a repository can be kept.

use std::path::Path;

use super::lab::{Dice, Kept, Lab, all_kept};
use super::states::{QUESTIONS, STATES, State};

/// Questions after a step, where the night is not there for all of them.
const AFTER_A_STEP: usize = 7;

fn ask(lab: &Lab, at: &Path, question: &[&str]) -> (Option<i32>, Vec<u8>) {
    let mut command = lab.command(at, question);
    // Nothing may be refreshed by asking.
    let output = command.env("GIT_OPTIONAL_LOCKS", "0").output().unwrap();
    (output.status.code(), output.stdout)
}

fn assert_same(lab: &Lab, what: &str, here: &Path, there: &Path, questions: &[&[&str]]) {
    for question in questions {
        let [a, b] = [here, there].map(|at| ask(lab, at, question));
        assert!(
            a == b,
            "{what}: git {question:?} said {:?} here\n{}\nand {:?} there\n{}",
            a.0,
            String::from_utf8_lossy(&a.1),
            b.0,
            String::from_utf8_lossy(&b.1),
        );
    }
}

fn check(state: &State, kept: Kept, seed: u64) {
    let what = format!("{} in {kept:?} by seed {seed}", state.name);
    let mut lab = Lab::new(kept);
    let mut dice = Dice::new(seed);
    (state.make)(&mut lab, &mut dice);
    let captured = lab.try_capture().unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert!(!captured.state.busy, "{what}");
    let rebuilt = lab.rebuild(&captured, "there");
    // Where the origin was nobody may look any more.
    if lab.path("origin").exists() {
        crate::fs::rename(&lab.path("origin"), &lab.path("gone")).unwrap();
    }
    let (here, there) = (lab.work(), lab.path("there"));
    assert_same(&lab, &what, &here, &there, &QUESTIONS);
    let [a, b] = [&here, &there].map(|at| lab.try_git_in(at, &["fsck", "--strict"]));
    let said = String::from_utf8_lossy(&b.stderr);
    assert!(b.status.success() || !a.status.success(), "{what}: fsck: {said}");
    assert!(!said.contains("error") || !a.status.success(), "{what}: fsck: {said}");
    // What went there comes back the same.
    let again = crate::git::capture(&there, &lab.objects, &lab.options()).unwrap();
    assert_eq!(again.state.head, captured.state.head, "{what}");
    assert_eq!(again.state.refs, captured.state.refs, "{what}");
    for (at, step) in state.goes_on.iter().enumerate() {
        let [a, b] = [&here, &there].map(|at| lab.try_git_in(at, step));
        let said = String::from_utf8_lossy(&a.stderr);
        assert_eq!(a.status.code(), b.status.code(), "{what}: git {step:?}: {said}");
        let asked = if is_nightly() { QUESTIONS.len() } else { AFTER_A_STEP };
        let questions = &QUESTIONS[..asked];
        assert_same(&lab, &format!("{what}, after step {at}"), &here, &there, questions);
        assert_files_same(&here, &there, &what);
    }
    drop(rebuilt);
}

/// Every file that git may have written when it went on.
fn assert_files_same(here: &Path, there: &Path, what: &str) {
    let list = |at: &Path| {
        let mut names: Vec<_> =
            std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.retain(|name| name != ".git");
        names.sort();
        names
    };
    let names = list(here);
    assert_eq!(names, list(there), "{what}: {}", here.display());
    for name in names {
        let (a, b) = (here.join(&name), there.join(&name));
        let kind = a.symlink_metadata().unwrap().file_type();
        assert_eq!(kind, b.symlink_metadata().unwrap().file_type(), "{what}: {}", a.display());
        if kind.is_dir() {
            assert_files_same(&a, &b, what);
        } else if kind.is_file() {
            let read = |path| crate::fs::read_if_exists(path, 1 << 24).unwrap();
            assert_eq!(read(&a), read(&b), "{what}: {}", a.display());
        }
    }
}

fn is_nightly() -> bool {
    #[expect(clippy::disallowed_methods, reason = "a test, told how much to do")]
    std::env::var_os("BATON_NIGHTLY").is_some()
}

/// Every fourth state, each in one way, or in every way that it allows. One run shows all that differ.
fn check_share(share: usize) {
    let ways = all_kept();
    let mut failed = Vec::new();
    for (at, state) in STATES.iter().enumerate().filter(|(at, _)| at % 4 == share) {
        // The ways come in turn, so that each meets several states.
        let chosen = |(way, _): &(usize, &Kept)| is_nightly() || *way == (at / 4 + at) % ways.len();
        for (way, kept) in ways.iter().enumerate().filter(chosen) {
            let (kept, seed) = (state.fit(*kept), (at * 100 + way) as u64 + 1);
            if std::panic::catch_unwind(|| check(state, kept, seed)).is_err() {
                failed.push(format!("{} in {kept:?} by seed {seed}", state.name));
            }
        }
    }
    assert!(failed.is_empty(), "{} differ:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn repositories_arrive_as_they_are_0() {
    check_share(0);
}

#[test]
fn repositories_arrive_as_they_are_1() {
    check_share(1);
}

#[test]
fn repositories_arrive_as_they_are_2() {
    check_share(2);
}

#[test]
fn repositories_arrive_as_they_are_3() {
    check_share(3);
}
