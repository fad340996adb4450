//! Merged text beside what `git merge-file` makes of it.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use std::path::Path;
use std::process::Command;

use super::*;
use crate::apply::testing::Rng;

/// What git makes of three texts: the result, and whether it is clean.
fn git_merge_file(folder: &Path, base: &[u8], ours: &[u8], theirs: &[u8]) -> (Vec<u8>, bool) {
    for (name, bytes) in [("base", base), ("ours", ours), ("theirs", theirs)] {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    let output = Command::new("git")
        .args(["merge-file", "-p", "-L", "ours", "-L", "base", "-L", "theirs"])
        .args(["ours", "base", "theirs"])
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", folder)
        .current_dir(folder)
        .output()
        .unwrap();
    let code = output.status.code().unwrap();
    assert!(code < 128, "{}", String::from_utf8_lossy(&output.stderr));
    (output.stdout, code == 0)
}

/// A text of few different lines, so that lines are moved, repeated and found again elsewhere.
fn text(rng: &mut Rng) -> Vec<Vec<u8>> {
    let kinds = [3, 8, 60, 2000][rng.below(4)];
    let len = [0, 1, 4, 12, 40, 400][rng.below(6)];
    (0..len).map(|_| format!("line {}", rng.below(kinds)).into_bytes()).collect()
}

fn edited(rng: &mut Rng, lines: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut lines = lines.to_vec();
    let edits = if lines.len() > 100 { rng.below(40) } else { rng.below(4) };
    for _ in 0..edits {
        let at = rng.below(lines.len() + 1);
        let until = (at + rng.below(4)).min(lines.len());
        let new = (0..rng.below(3)).map(|_| format!("line {}", rng.below(60)).into_bytes());
        let new: Vec<_> = new.collect();
        lines.splice(at..until, new);
    }
    lines
}

fn join(rng: &mut Rng, lines: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = lines.join(&b'\n');
    if !bytes.is_empty() && rng.below(8) > 0 {
        bytes.push(b'\n');
    }
    bytes
}

/// Compares with git; says how many merges were clean here, and clean there only.
fn compare(seed: u64, rounds: usize) -> (usize, usize) {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(seed);
    let (mut clean, mut only_there) = (0, 0);
    for round in 0..rounds {
        let lines = text(&mut rng);
        let (ours, theirs) = (edited(&mut rng, &lines), edited(&mut rng, &lines));
        let base = join(&mut rng, &lines);
        let (ours, theirs) = (join(&mut rng, &ours), join(&mut rng, &theirs));
        let (there, is_clean) = git_merge_file(folder.path(), &base, &ours, &theirs);
        let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match merge_text(&base, (&ours, &theirs), ("ours", "theirs")).unwrap() {
            Merged::Clean(here) => {
                clean += 1;
                assert!(
                    is_clean && here == there,
                    "seed {seed} round {round}\nbase {:?}\nours {:?}\ntheirs {:?}\nhere {:?}\ngit {:?}",
                    show(&base),
                    show(&ours),
                    show(&theirs),
                    show(&here),
                    show(&there)
                );
            }
            Merged::Conflict(_) => only_there += usize::from(is_clean),
        }
    }
    (clean, only_there)
}

#[test]
fn what_is_merged_cleanly_is_what_git_makes_of_it() {
    let rounds = if crate::apply::testing::is_nightly() { 20_000 } else { 400 };
    let (clean, only_there) = compare(7, rounds);
    assert!(clean > rounds / 4, "{clean} of {rounds} were clean");
    assert!(only_there <= rounds / 20, "{only_there} of {rounds} are clean to git alone");
}

#[test]
fn what_is_no_text_is_not_merged() {
    let merge = |base: &[u8], ours: &[u8], theirs: &[u8]| {
        merge_text(base, (ours, theirs), ("ours", "theirs"))
    };
    let nul = b"a\0b\n";
    assert_eq!(merge(nul, b"a\n", b"b\n"), None);
    assert_eq!(merge(b"a\n", nul, b"b\n"), None);
    assert_eq!(merge(b"a\n", b"b\n", nul), None);
    let conflict = merge(b"a\n", b"b\n", b"c\n").unwrap();
    let marked = b"<<<<<<< ours\nb\n=======\nc\n>>>>>>> theirs\n";
    assert_eq!(conflict, Merged::Conflict(marked.to_vec()));
    // Bytes that are no UTF-8 are text all the same.
    let (base, ours, theirs) =
        (b"1\n2\n3\n4\n\xff\n", b"\xfe\n2\n3\n4\n\xff\n", b"1\n2\n3\n4\n\xfd\n");
    let both = Merged::Clean(b"\xfe\n2\n3\n4\n\xfd\n".to_vec());
    assert_eq!(merge(base, ours, theirs), Some(both));
}
