//! History that is too long for a first time, and that is whole in the end.

use std::collections::BTreeSet;

use baton_protocol::object::GitOmitReason;

use super::lab::{Dice, HASHES, Kept, Lab, PLAIN, STORAGES, copy_files};
use crate::git::{
    CaptureOptions, Captured, LinkPlace, capture, deepen, is_cut, link, load_git_omissions,
    make_rest, rebuild, summarize,
};

/// Bytes that may travel at once in these tests.
const MOST: u64 = 300_000;

/// What git says of a repository that does not depend on how far its history goes.
const QUESTIONS: [&[&str]; 7] = [
    &["status", "--porcelain=v2", "--branch"],
    &["diff"],
    &["diff", "--cached"],
    &["stash", "list", "-p"],
    &["ls-files", "--stage", "-v", "-t"],
    &["rev-parse", "HEAD"],
    &["symbolic-ref", "-q", "HEAD"],
];

/// 120 commits of some 8 KB each that cannot be compressed, with merges of branches that were begun long before.
fn long(kept: Kept) -> Lab {
    let lab = Lab::new(kept);
    let mut dice = Dice::new(7);
    let mut blob = move || (0..8000).map(|_| dice.roll(256) as u8).collect::<Vec<u8>>();
    for at in 0..100 {
        lab.write(&format!("file{}", at % 7), blob());
        lab.commit(&format!("number {at}"));
        match at {
            25 => drop(lab.git(&["tag", "-a", "-m", "old", "v-old"])),
            45 => drop(lab.git(&["branch", "old-branch"])),
            10 => {
                lab.git(&["checkout", "-q", "-b", "begun-early"]);
                lab.write("early", blob());
                lab.commit("early");
                lab.git(&["checkout", "-q", "main"]);
            }
            96 => drop(lab.git(&["merge", "-q", "-m", "merged late", "begun-early"])),
            98 => drop(lab.git(&["tag", "v-new"])),
            _ => {}
        }
    }
    lab.git(&["update-ref", "refs/remotes/origin/main", "HEAD~2"]);
    lab.write("file0", "put aside\n");
    lab.git(&["stash", "-q"]);
    lab.write("file1", "staged\n");
    lab.git(&["add", "file1"]);
    lab.write("file2", "changed\n");
    lab
}

fn cutting(lab: &Lab) -> CaptureOptions {
    CaptureOptions { most_history: MOST, ..lab.options() }
}

fn from(lab: &Lab, base: &Captured) -> Captured {
    let options = CaptureOptions { base: Some(base.id), ..cutting(lab) };
    capture(&lab.work(), &lab.objects, &options).unwrap()
}

fn bytes(captured: &Captured) -> u64 {
    captured.state.packs.iter().map(|pack| pack.blob.size).sum()
}

fn says(lab: &Lab, at: &str, args: &[&str]) -> String {
    let output = lab.try_git_in(&lab.path(at), args);
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

fn later(captured: &Captured) -> Vec<&str> {
    let later = captured.omitted.iter().filter(|it| it.reason == GitOmitReason::Later);
    later.map(|it| it.what.as_str()).collect()
}

/// Rebuilds a state elsewhere, and compares what must be the same in any case.
fn arrives(lab: &Lab, captured: &Captured, at: &str) {
    lab.rebuild(captured, at);
    let fsck = lab.try_git_in(&lab.path(at), &["fsck", "--full", "--strict"]);
    let said = String::from_utf8_lossy(&fsck.stderr);
    assert!(fsck.status.success() && !said.contains("missing"), "{said}");
    for question in QUESTIONS {
        assert_eq!(says(lab, &lab.at, question), says(lab, at, question), "{question:?}");
    }
    lab.git_in(&lab.path(at), &["log", "--all", "-p", "--stat"]);
}

fn commits(lab: &Lab, at: &str) -> BTreeSet<String> {
    says(lab, at, &["rev-list", "--all"]).lines().map(str::to_owned).collect()
}

#[test]
fn history_that_is_too_long_is_cut_and_its_rest_makes_it_whole() {
    for (hash, refs) in HASHES.into_iter().zip(STORAGES) {
        let lab = long(Kept { hash, refs, index: "v2" });
        let cut = capture(&lab.work(), &lab.objects, &cutting(&lab)).unwrap();
        assert!(is_cut(&lab.objects, cut.id).unwrap());
        assert!(summarize(&lab.objects, cut.id).unwrap().shallow);
        let size = bytes(&cut);
        assert!((MOST / 3..=MOST * 11 / 10).contains(&size), "{size}");
        let named = later(&cut);
        assert!(named[0].starts_with("history beyond the last "), "{named:?}");
        assert!(named.contains(&"refs/tags/v-old") && named.contains(&"refs/heads/old-branch"));
        assert_eq!(load_git_omissions(&lab.objects, cut.id).unwrap(), cut.omitted);
        arrives(&lab, &cut, "cut");
        assert_eq!(says(&lab, "cut", &["rev-parse", "--is-shallow-repository"]), "true");
        let there = commits(&lab, "cut");
        // A merge near the top does not end it.
        assert!(there.len() > 8, "{}", there.len());
        assert!(there.is_subset(&commits(&lab, "work")));
        let refs = says(&lab, "cut", &["for-each-ref", "--format=%(refname)"]);
        assert!(refs.contains("refs/tags/v-new") && refs.contains("refs/remotes/origin/main"));
        assert!(!refs.contains("v-old"));

        // What comes after the cut goes on from it.
        lab.write("file3", "after the cut\n");
        lab.git(&["commit", "-q", "-m", "after", "file3"]);
        lab.git(&["branch", "new-branch"]);
        let second = from(&lab, &cut);
        assert_eq!(second.state.packs[0], cut.state.packs[0]);
        assert!(bytes(&second) - size < 5000);
        assert_eq!(later(&second), later(&cut));
        arrives(&lab, &second, "second");
        assert_eq!(
            says(&lab, "second", &["rev-parse", "new-branch"]),
            says(&lab, "work", &["rev-parse", "HEAD"])
        );

        // The rest of the first is that of the second.
        let rest = make_rest(&lab.work(), cut.id, &lab.objects, &lab.options()).unwrap().unwrap();
        let id = deepen(&lab.work(), second.id, rest, &lab.objects).unwrap().unwrap();
        assert!(!is_cut(&lab.objects, id).unwrap());
        let deep = Captured { id, ..second.clone() };
        arrives(&lab, &deep, "deep");
        assert_eq!(says(&lab, "deep", &["rev-parse", "--is-shallow-repository"]), "false");
        assert_eq!(
            says(&lab, "deep", &["log", "--format=raw"]),
            says(&lab, "work", &["log", "--format=raw"])
        );
        // And the next one has every ref again, for next to nothing.
        let third = from(&lab, &deep);
        assert!(later(&third).is_empty() && !is_cut(&lab.objects, third.id).unwrap());
        let more = third.state.packs.iter().filter(|pack| !second.state.packs.contains(pack));
        let more: Vec<_> = more.map(|pack| pack.blob.size).collect();
        assert!(more.len() <= 2 && more.iter().skip(1).all(|&size| size < 5000), "{more:?}");
        arrives(&lab, &third, "third");
        for question in [&["for-each-ref"][..], &["log", "--all", "--format=raw"]] {
            assert_eq!(says(&lab, "work", question), says(&lab, "third", question));
        }
    }
}

#[test]
fn what_is_not_too_long_is_never_cut() {
    let lab = long(PLAIN);
    let whole = lab.capture();
    let objects = says(
        &lab,
        "work",
        &["rev-list", "--objects", "--disk-usage", "--all", "--reflog", "--indexed-objects"],
    );
    let objects: u64 = objects.parse().unwrap();
    for (most, is_too_long) in [(objects + 1, false), (objects * 9 / 10, true)] {
        let options = CaptureOptions { most_history: most, ..lab.options() };
        let captured = capture(&lab.work(), &lab.objects, &options).unwrap();
        assert_eq!(is_cut(&lab.objects, captured.id).unwrap(), is_too_long, "{most}");
        assert!(is_too_long || captured.state.refs == whole.state.refs);
    }
    // Garbage does not count.
    let blob: Vec<u8> =
        (0..400_000u32).flat_map(|it| (it.wrapping_mul(2_654_435_761)).to_be_bytes()).collect();
    lab.write("garbage", blob);
    lab.git(&["hash-object", "-w", "garbage"]);
    lab.remove("garbage");
    let options = CaptureOptions { most_history: objects + 1, ..lab.options() };
    let captured = capture(&lab.work(), &lab.objects, &options).unwrap();
    assert!(!is_cut(&lab.objects, captured.id).unwrap());
    // Nor is one of which the other side has something.
    let options = CaptureOptions { base: Some(whole.id), most_history: 1000, ..lab.options() };
    assert!(
        !is_cut(&lab.objects, capture(&lab.work(), &lab.objects, &options).unwrap().id).unwrap()
    );
}

#[test]
fn where_git_stands_is_whole_also_far_behind_a_cut() {
    let lab = long(PLAIN);
    let first = capture(&lab.work(), &lab.objects, &cutting(&lab)).unwrap();
    lab.git(&["stash", "-q"]);
    lab.git(&["checkout", "-q", "v-old"]);
    let second = from(&lab, &first);
    assert!(is_cut(&lab.objects, second.id).unwrap());
    arrives(&lab, &second, "old");
    // Half of a rebase far behind.
    lab.git(&["checkout", "-q", "-b", "elsewhere", "old-branch"]);
    lab.write("file0", "here\n");
    lab.commit("here");
    lab.stops(&["rebase", "-q", "main"]);
    let third = from(&lab, &second);
    assert!(is_cut(&lab.objects, third.id).unwrap());
    arrives(&lab, &third, "rebasing");
    assert_eq!(summarize(&lab.objects, third.id).unwrap().operation, Some("rebase"));
    // A rest that was made before does not fit any more if history is cut elsewhere, too.
    let rest = make_rest(&lab.work(), third.id, &lab.objects, &lab.options()).unwrap().unwrap();
    let id = deepen(&lab.work(), third.id, rest, &lab.objects).unwrap().unwrap();
    arrives(&lab, &Captured { id, ..third.clone() }, "whole");
    let early = make_rest(&lab.work(), first.id, &lab.objects, &lab.options()).unwrap().unwrap();
    let made = deepen(&lab.work(), third.id, early, &lab.objects).unwrap();
    if let Some(id) = made {
        arrives(&lab, &Captured { id, ..third }, "whole-too");
    }
}

#[test]
fn a_shallow_clone_of_the_users_own_ends_where_it_ended() {
    let lab = long(PLAIN);
    let url = format!("file://{}", lab.work().display());
    lab.git_in(&lab.path(""), &["clone", "-q", "--depth=70", &url, "own"]);
    let own = lab.path("own");
    let whole = CaptureOptions { most_history: 10_000_000, ..lab.options() };
    let captured = capture(&own, &lab.objects, &whole).unwrap();
    assert!(!is_cut(&lab.objects, captured.id).unwrap());
    let ends = std::fs::read_to_string(own.join(".git/shallow")).unwrap();

    let cut = capture(&own, &lab.objects, &cutting(&lab)).unwrap();
    assert!(is_cut(&lab.objects, cut.id).unwrap());
    // Which goes on from there as well.
    lab.configure(&own);
    lab.git_in(&own, &["commit", "-q", "--allow-empty", "-m", "more"]);
    let options = CaptureOptions { base: Some(cut.id), ..cutting(&lab) };
    let cut = Captured { id: capture(&own, &lab.objects, &options).unwrap().id, ..cut };
    let first = crate::git::capture::load_state(&lab.objects, cut.id).unwrap().packs[0];
    assert_eq!(first, cut.state.packs[0]);
    let captured = capture(&own, &lab.objects, &whole).unwrap();
    let rest = make_rest(&own, cut.id, &lab.objects, &lab.options()).unwrap().unwrap();
    let deep = deepen(&own, cut.id, rest, &lab.objects).unwrap().unwrap();
    for (id, at, is_same) in
        [(captured.id, "as-it-was", true), (cut.id, "cut", false), (deep, "deep", true)]
    {
        let there = lab.path(at);
        copy_files(&own, &there);
        rebuild(&lab.objects, id, &there, &lab.rebuild_options()).unwrap();
        lab.git_in(&there, &["fsck", "--full", "--strict"]);
        let sorted = |text: String| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        let now = std::fs::read_to_string(there.join(".git/shallow")).unwrap();
        assert_eq!(sorted(now) == sorted(ends.clone()), is_same, "{at}");
        let [here, there] = ["own", at].map(|at| says(&lab, at, &["rev-list", "--count", "HEAD"]));
        assert_eq!(here == there, is_same, "{at}");
    }
}

#[test]
fn what_was_done_on_a_cut_comes_home_whole() {
    let mut lab = long(PLAIN);
    lab.git(&["stash", "-q"]);
    let cut = capture(&lab.work(), &lab.objects, &cutting(&lab)).unwrap();
    lab.rebuild(&cut, "away");
    lab.configure(&lab.path("away"));
    lab.at = "away".into();
    lab.write("done", "there\n");
    lab.commit("done there");
    let options = CaptureOptions { base: Some(cut.id), ..lab.options() };
    let result = capture(&lab.work(), &lab.objects, &options).unwrap();
    copy_files(&lab.path("away"), &lab.path("home-again"));
    let (checkout, files) = (lab.path("work"), lab.path("home-again"));
    let at = LinkPlace { checkout: &checkout, place: &files, name: "1a2b" };
    let mut linked = link(&lab.objects, result.id, &files, at, &lab.rebuild_options()).unwrap();
    linked.keep();
    for at in ["work", "home-again"] {
        assert_eq!(says(&lab, at, &["rev-parse", "--is-shallow-repository"]), "false");
        lab.git_in(&lab.path(at), &["fsck", "--full", "--strict"]);
    }
    let count = |at: &str| says(&lab, at, &["rev-list", "--count", "HEAD"]).parse::<u32>().unwrap();
    assert_eq!(count("home-again"), count("work") + 1);
    assert!(count("away") < count("work"));
    assert_eq!(says(&lab, "home-again", &["log", "-1", "--format=%s"]), "done there");
}

#[test]
fn a_repository_inside_is_cut_and_made_whole_by_itself() {
    let lab = long(PLAIN);
    let outer = lab.path("outer");
    lab.init("outer");
    let url = format!("file://{}", lab.work().display());
    lab.git_in(&outer, &["submodule", "--quiet", "add", &url, "inner"]);
    lab.git_in(&outer, &["commit", "-q", "-m", "outer"]);
    let cut = capture(&outer, &lab.objects, &cutting(&lab)).unwrap();
    assert!(is_cut(&lab.objects, cut.id).unwrap());
    let rest = make_rest(&outer, cut.id, &lab.objects, &lab.options()).unwrap().unwrap();
    let deep = deepen(&outer, cut.id, rest, &lab.objects).unwrap().unwrap();
    for (id, at, is_same) in [(cut.id, "cut", false), (deep, "deep", true)] {
        let there = lab.path(at);
        copy_files(&outer, &there);
        rebuild(&lab.objects, id, &there, &lab.rebuild_options()).unwrap();
        lab.git_in(&there.join("inner"), &["fsck", "--full", "--strict"]);
        let count = |at: &str| says(&lab, &format!("{at}/inner"), &["rev-list", "--count", "HEAD"]);
        assert_eq!(count("outer") == count(at), is_same);
    }
}
