//! History that is too long for a first time, and that is whole in the end.

use std::collections::BTreeSet;

use baton_protocol::object::{GitOmitReason, GitPack};

use super::lab::{Dice, HASHES, Kept, Lab, PLAIN, STORAGES, copy_files};
use crate::git::capture::load_state;
use crate::git::{
    CaptureOptions, Captured, LinkPlace, Packed, capture, deepen, is_cut, is_longer, link,
    load_git_omissions, make_rest, rebuild, summarize,
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
        for name in ["refs/tags/v-old", "refs/heads/old-branch"] {
            let oid = says(&lab, "work", &["rev-parse", name]);
            assert!(named.contains(&&*format!("{name} {oid}")), "{named:?}");
        }
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
        let rest =
            make_rest(&lab.work(), cut.id, None, &lab.objects, &lab.options()).unwrap().unwrap();
        let id = deepen(second.id, rest, &lab.objects).unwrap();
        assert!(!is_cut(&lab.objects, id).unwrap());
        let deep = Captured { id, ..second.clone() };
        arrives(&lab, &deep, "deep");
        assert_eq!(says(&lab, "deep", &["rev-parse", "--is-shallow-repository"]), "false");
        assert_eq!(
            says(&lab, "deep", &["log", "--format=raw"]),
            says(&lab, "work", &["log", "--format=raw"])
        );
        let state = load_state(&lab.objects, id).unwrap();
        assert_eq!(state.packs[1..], second.state.packs[..]);
        // Twice there is what stands at the cut, once for each way.
        let sum = |packs: &[GitPack]| packs.iter().map(|pack| pack.blob.size).sum::<u64>();
        let (parts, whole) = (sum(&state.packs), sum(&lab.capture().state.packs));
        assert!(parts < whole * 5 / 4, "{parts} {whole}");
        // What has it all lacks nothing, and has it once more for nothing.
        assert_eq!(deepen(id, rest, &lab.objects).unwrap(), id);
        let third = from(&lab, &deep);
        assert!(later(&third).is_empty() && !is_cut(&lab.objects, third.id).unwrap());
        assert_eq!(third.state.packs, state.packs);
        arrives(&lab, &third, "third");
        for at in ["deep", "third"] {
            for question in [&["for-each-ref"][..], &["log", "--all", "--format=raw"]] {
                assert_eq!(says(&lab, "work", question), says(&lab, at, question), "{at}");
            }
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
    // One that was made before has enough for it, as has one that goes on from that.
    let early = make_rest(&lab.work(), first.id, None, &lab.objects, &lab.options());
    let early = early.unwrap().unwrap();
    let id = deepen(third.id, early, &lab.objects).unwrap();
    assert!(!is_cut(&lab.objects, id).unwrap());
    arrives(&lab, &Captured { id, ..third.clone() }, "whole-too");
    let rest =
        make_rest(&lab.work(), third.id, Some(Packed::Rest(early)), &lab.objects, &lab.options())
            .unwrap()
            .unwrap();
    let id = deepen(third.id, rest, &lab.objects).unwrap();
    arrives(&lab, &Captured { id, ..third.clone() }, "whole");
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
    let first = load_state(&lab.objects, cut.id).unwrap().packs[0];
    assert_eq!(first, cut.state.packs[0]);
    let captured = capture(&own, &lab.objects, &whole).unwrap();
    let rest = make_rest(&own, cut.id, None, &lab.objects, &lab.options()).unwrap().unwrap();
    let deep = deepen(cut.id, rest, &lab.objects).unwrap();
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

/// What a cut leaves out has names of all kinds, more of them than are told of, and comes back under each.
#[test]
fn what_was_left_out_comes_back_under_its_very_names() {
    use std::io::Write;

    let lab = long(PLAIN);
    let old = says(&lab, "work", &["rev-parse", "v-old^{commit}"]);
    let many = (0..10_050).map(|at| format!("many/{at:05}").into_bytes());
    let names = many.chain([b"caf\xe9".to_vec(), vec![&b"long"[..]; 120].join(&b'/')]);
    let mut git = lab.command(&lab.work(), &["update-ref", "--stdin"]);
    let mut git = git.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = git.stdin.take().unwrap();
    for name in names {
        let line = [b"create refs/tags/", &name[..], b" ", old.as_bytes(), b"\n"].concat();
        stdin.write_all(&line).unwrap();
    }
    drop(stdin);
    assert!(git.wait().unwrap().success());
    // Something ahead that no way leads to, with a name that points to it.
    lab.git(&["checkout", "-q", "-f", "-b", "ahead", "old-branch"]);
    let mut dice = Dice::new(9);
    for at in 0..60 {
        lab.write("ahead", (0..8000).map(|_| dice.roll(256) as u8).collect::<Vec<u8>>());
        lab.commit(&format!("ahead {at}"));
    }
    lab.git(&["update-ref", "refs/remotes/origin/other", "HEAD"]);
    lab.git(&["symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/other"]);
    lab.git(&["checkout", "-q", "main"]);
    lab.git(&["branch", "-q", "-D", "ahead"]);

    let cut = capture(&lab.work(), &lab.objects, &cutting(&lab)).unwrap();
    assert!(is_cut(&lab.objects, cut.id).unwrap());
    arrives(&lab, &cut, "cut");
    let refs = |at: &str| lab.git_in(&lab.path(at), &["for-each-ref"]);
    let near = String::from_utf8_lossy(&refs("cut")).into_owned();
    assert!(!near.contains("many/") && !near.contains("origin/HEAD"), "{near}");
    // What comes after a cut goes on from it, and leaves out the same.
    lab.write("file3", "after the cut\n");
    lab.git(&["commit", "-q", "-m", "after", "file3"]);
    let second = from(&lab, &cut);
    assert!(bytes(&second) - bytes(&cut) < 5000);
    assert_eq!(second.state.later, cut.state.later);
    arrives(&lab, &second, "second");

    let rest =
        make_rest(&lab.work(), second.id, None, &lab.objects, &lab.options()).unwrap().unwrap();
    let deep = deepen(second.id, rest, &lab.objects).unwrap();
    assert!(!is_cut(&lab.objects, deep).unwrap());
    let state = load_state(&lab.objects, deep).unwrap();
    assert_eq!(state.later, None);
    arrives(&lab, &Captured { id: deep, state, ..second }, "deep");
    assert_eq!(String::from_utf8_lossy(&refs("deep")), String::from_utf8_lossy(&refs("work")));
    assert_eq!(
        says(&lab, "deep", &["symbolic-ref", "refs/remotes/origin/HEAD"]),
        "refs/remotes/origin/other"
    );
}

/// Git appends to its list; ours is sorted.
#[test]
fn a_list_of_ends_in_another_order_is_the_same_list() {
    let lab = long(PLAIN);
    let url = format!("file://{}", lab.work().display());
    lab.git_in(&lab.path(""), &["clone", "-q", "--depth=8", &url, "own"]);
    let own = lab.path("own");
    lab.configure(&own);
    let path = own.join(".git/shallow");
    let ends = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<_> = ends.lines().collect();
    assert!(lines.len() > 1);
    lines.sort_by(|a, b| b.cmp(a));
    crate::fs::write_atomic(&path, (lines.join("\n") + "\n").as_bytes(), 0o644).unwrap();

    let cutting = CaptureOptions { most_history: 40_000, ..lab.options() };
    let cut = capture(&own, &lab.objects, &cutting).unwrap();
    assert!(is_cut(&lab.objects, cut.id).unwrap());
    let rest = make_rest(&own, cut.id, None, &lab.objects, &lab.options()).unwrap().unwrap();
    let deep = deepen(cut.id, rest, &lab.objects).unwrap();
    lab.git_in(&own, &["commit", "-q", "--allow-empty", "-m", "more"]);
    let options = CaptureOptions { base: Some(deep), ..cutting };
    let next = capture(&own, &lab.objects, &options).unwrap();
    assert!(!is_cut(&lab.objects, next.id).unwrap());
    let packs = load_state(&lab.objects, deep).unwrap().packs;
    assert!(bytes(&next) - packs.iter().map(|pack| pack.blob.size).sum::<u64>() < 5000);
}

/// Nothing is packed for which there is no room.
#[test]
fn what_was_packed_whole_is_the_rest_of_what_is_cut_after_it() {
    let lab = long(PLAIN);
    let whole = lab.capture();
    assert!(is_longer(&lab.objects, whole.id, MOST).unwrap());
    let cut = capture(&lab.work(), &lab.objects, &cutting(&lab)).unwrap();
    assert!(is_cut(&lab.objects, cut.id).unwrap());
    let rest = |of: &Captured| {
        let before = Some(Packed::Whole(whole.id));
        make_rest(&lab.work(), of.id, before, &lab.objects, &lab.options()).unwrap().unwrap()
    };
    let sum = |packs: &[GitPack]| packs.iter().map(|pack| pack.blob.size).sum::<u64>();
    let first = load_state(&lab.objects, rest(&cut)).unwrap();
    assert!(first.packs.starts_with(&whole.state.packs));
    assert!(sum(&first.packs) - bytes(&whole) < 1000, "nothing is packed twice");
    let id = deepen(cut.id, rest(&cut), &lab.objects).unwrap();
    assert_eq!(load_state(&lab.objects, id).unwrap().packs, first.packs);
    let deep = Captured { id, ..cut.clone() };
    arrives(&lab, &deep, "deep");

    // What was done after both is in neither, and stays.
    lab.write("file3", "after the cut\n");
    lab.git(&["commit", "-q", "-m", "after", "file3"]);
    lab.git(&["branch", "-f", "old-branch", "HEAD~3"]);
    let second = from(&lab, &cut);
    let id = deepen(second.id, rest(&second), &lab.objects).unwrap();
    assert!(!is_cut(&lab.objects, id).unwrap());
    let packs = load_state(&lab.objects, id).unwrap().packs;
    assert_eq!(packs.last(), second.state.packs.last());
    assert!(!packs.contains(&cut.state.packs[0]), "all of it is in the rest");
    arrives(&lab, &Captured { id, ..second }, "second");
    for question in [&["for-each-ref"][..], &["log", "--all", "--format=raw"]] {
        assert_eq!(says(&lab, "work", question), says(&lab, "second", question), "{question:?}");
    }
}

#[test]
fn a_rest_that_has_no_room_is_not_packed() {
    let lab = long(PLAIN);
    let cut = capture(&lab.work(), &lab.objects, &cutting(&lab)).unwrap();
    let options = CaptureOptions { room: 100_000, ..lab.options() };
    let refused = make_rest(&lab.work(), cut.id, None, &lab.objects, &options);
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("room for 0 MB"), "{said}");
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
    // One that has less is told so.
    let url = format!("file://{}", checkout.display());
    lab.git_in(&lab.path(""), &["clone", "-q", "--depth=2", &url, "near"]);
    let near = lab.path("near");
    let at = LinkPlace { checkout: &near, place: &files, name: "1a2c" };
    let refused = link(&lab.objects, result.id, &files, at, &lab.rebuild_options()).err();
    assert!(refused.unwrap().to_string().contains("git fetch --unshallow"));
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
    // What a receipt is made of says so of the outermost.
    let mut omitted = cut.omitted.clone();
    omitted.sort();
    let mut loaded = load_git_omissions(&lab.objects, cut.id).unwrap();
    loaded.sort();
    assert_eq!(loaded, omitted);
    assert!(loaded.iter().any(|it| it.what.starts_with("inner: history beyond ")), "{loaded:?}");
    assert!(summarize(&lab.objects, cut.id).unwrap().shallow);
    let rest = make_rest(&outer, cut.id, None, &lab.objects, &lab.options()).unwrap().unwrap();
    let deep = deepen(cut.id, rest, &lab.objects).unwrap();
    assert!(!summarize(&lab.objects, deep).unwrap().shallow);
    for (id, at, is_same) in [(cut.id, "cut", false), (deep, "deep", true)] {
        let there = lab.path(at);
        copy_files(&outer, &there);
        rebuild(&lab.objects, id, &there, &lab.rebuild_options()).unwrap();
        lab.git_in(&there.join("inner"), &["fsck", "--full", "--strict"]);
        let count = |at: &str| says(&lab, &format!("{at}/inner"), &["rev-list", "--count", "HEAD"]);
        assert_eq!(count("outer") == count(at), is_same);
    }
}

#[test]
fn a_run_on_a_cut_loses_nothing_of_what_it_did_whatever_the_names() {
    let mut lab = long(PLAIN);
    lab.git(&["stash", "-q"]);
    let cut = capture(&lab.work(), &lab.objects, &cutting(&lab)).unwrap();
    lab.rebuild(&cut, "away");
    lab.configure(&lab.path("away"));
    lab.at = "away".into();
    // Names that are to come later, which are free there.
    lab.git(&["checkout", "-q", "-b", "old-branch"]);
    lab.write("on-a-branch", "that is left again\n");
    lab.commit("on a branch");
    lab.git(&["tag", "v-old"]);
    lab.git(&["checkout", "-q", "main"]);
    lab.write("dropped", "of which only the memory of HEAD is left\n");
    lab.commit("dropped");
    lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    let options = CaptureOptions { base: Some(cut.id), ..lab.options() };
    let result = capture(&lab.work(), &lab.objects, &options).unwrap();
    assert_eq!(later(&result), Vec::<&str>::new());
    assert_eq!(result.state.packs[0], cut.state.packs[0]);
    lab.rebuild(&result, "result");
    for question in [&["for-each-ref"][..], &["reflog"], &["log", "--all", "--format=raw"]] {
        assert_eq!(says(&lab, "away", question), says(&lab, "result", question), "{question:?}");
    }
    lab.git_in(&lab.path("result"), &["fsck", "--full", "--strict"]);
    assert!(says(&lab, "result", &["reflog"]).contains("dropped"));
}

#[test]
fn what_is_new_on_a_name_that_was_left_out_is_no_part_of_what_was() {
    let lab = long(PLAIN);
    lab.git(&["stash", "-q"]);
    let first = capture(&lab.work(), &lab.objects, &cutting(&lab)).unwrap();
    let rest =
        make_rest(&lab.work(), first.id, None, &lab.objects, &lab.options()).unwrap().unwrap();
    // A name that was left out, for what is there; and one for what is not, which is too much now.
    lab.git(&["tag", "-f", "v-old", "HEAD~1"]);
    lab.git(&["checkout", "-q", "old-branch"]);
    lab.write("late", "on an old branch\n");
    lab.commit("late");
    lab.git(&["checkout", "-q", "main"]);
    lab.write("gone", "and dropped\n");
    lab.commit("gone");
    lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    let options = CaptureOptions { base: Some(first.id), most_history: 100_000, ..lab.options() };
    let second = capture(&lab.work(), &lab.objects, &options).unwrap();
    let tip = says(&lab, "work", &["rev-parse", "old-branch"]);
    assert!(later(&second).contains(&&*format!("refs/heads/old-branch {tip}")));
    arrives(&lab, &second, "second");
    // The first rest does not have it; what has it goes on from that.
    assert_eq!(deepen(second.id, rest, &lab.objects).unwrap(), second.id);
    let more =
        make_rest(&lab.work(), second.id, Some(Packed::Rest(rest)), &lab.objects, &lab.options())
            .unwrap()
            .unwrap();
    let id = deepen(second.id, more, &lab.objects).unwrap();
    assert!(!is_cut(&lab.objects, id).unwrap());
    arrives(&lab, &Captured { id, ..second }, "whole");
    for question in [&["for-each-ref"][..], &["log", "--all", "--format=raw"]] {
        assert_eq!(says(&lab, "work", question), says(&lab, "whole", question), "{question:?}");
    }
    let again =
        make_rest(&lab.work(), first.id, Some(Packed::Rest(rest)), &lab.objects, &lab.options());
    assert_eq!(again.unwrap(), Some(rest));
}

#[test]
fn where_what_was_cut_has_gone_no_rest_is_made_and_nothing_goes_on_from_it() {
    let lab = long(PLAIN);
    lab.git(&["stash", "-q"]);
    let cut = capture(&lab.work(), &lab.objects, &cutting(&lab)).unwrap();
    for name in says(&lab, "work", &["for-each-ref", "--format=%(refname)"]).lines() {
        if name != "refs/heads/main" {
            lab.git(&["update-ref", "-d", name]);
        }
    }
    lab.git(&["checkout", "-q", "--orphan", "other"]);
    lab.commit("all anew");
    lab.git(&["branch", "-q", "-M", "other", "main"]);
    lab.git(&["reflog", "expire", "--expire=now", "--all"]);
    lab.git(&["gc", "-q", "--prune=now"]);
    let rest = make_rest(&lab.work(), cut.id, None, &lab.objects, &lab.options());
    assert!(rest.unwrap_err().to_string().contains("have gone"));
    let next = from(&lab, &cut);
    assert!(!is_cut(&lab.objects, next.id).unwrap());
    assert!(next.state.packs.iter().all(|pack| !cut.state.packs.contains(pack)));
    arrives(&lab, &next, "next");
}

#[test]
fn what_only_other_branches_have_stays_out_until_its_rest_is_there() {
    let lab = long(PLAIN);
    lab.git(&["stash", "-q"]);
    lab.git(&["branch", "pages", "main"]);
    lab.git(&["stash", "clear"]);
    lab.git(&["update-ref", "-d", "ORIG_HEAD"]);
    lab.git(&["checkout", "-q", "--orphan", "small"]);
    lab.git(&["rm", "-rfq", "."]);
    lab.write("small", "all there is\n");
    lab.commit("small");
    // As many as the others have, so that those do not fit that deep.
    for _ in 0..60 {
        lab.git(&["commit", "-q", "--allow-empty", "-m", "more of it"]);
    }
    lab.git(&["reflog", "expire", "--expire=now", "--all"]);
    let first = capture(&lab.work(), &lab.objects, &cutting(&lab)).unwrap();
    assert!(is_cut(&lab.objects, first.id).unwrap(), "{:?}", first.omitted);
    assert!(bytes(&first) < 20_000, "{} {:?}", bytes(&first), first.omitted);
    assert!(!summarize(&lab.objects, first.id).unwrap().shallow);
    assert!(later(&first).iter().all(|it| it.starts_with("refs/")), "{:?}", later(&first));
    lab.write("small", "more\n");
    lab.commit("more");
    let second = from(&lab, &first);
    assert_eq!(later(&second), later(&first));
    assert!(bytes(&second) < 20_000);
    arrives(&lab, &second, "second");
    let rest =
        make_rest(&lab.work(), second.id, None, &lab.objects, &lab.options()).unwrap().unwrap();
    let id = deepen(second.id, rest, &lab.objects).unwrap();
    assert!(!is_cut(&lab.objects, id).unwrap());
    arrives(&lab, &Captured { id, ..second }, "whole");
    let refs = &["for-each-ref"];
    assert_eq!(says(&lab, "work", refs), says(&lab, "whole", refs));
}

#[test]
fn a_repository_inside_that_has_gone_leaves_no_rest_and_the_one_around_it_becomes_whole() {
    let lab = long(PLAIN);
    let url = format!("file://{}", lab.work().display());
    lab.git(&["stash", "-q"]);
    lab.git(&["submodule", "--quiet", "add", &url, "inner"]);
    lab.commit("outer");
    let cut = capture(&lab.work(), &lab.objects, &cutting(&lab)).unwrap();
    lab.git(&["submodule", "--quiet", "deinit", "-f", "inner"]);
    let rest = make_rest(&lab.work(), cut.id, None, &lab.objects, &lab.options()).unwrap().unwrap();
    let id = deepen(cut.id, rest, &lab.objects).unwrap();
    assert!(id != cut.id && is_cut(&lab.objects, id).unwrap());
    assert_eq!(
        make_rest(&lab.work(), id, Some(Packed::Rest(rest)), &lab.objects, &lab.options()).unwrap(),
        None
    );
    assert_eq!(deepen(id, rest, &lab.objects).unwrap(), id);
    let next = from(&lab, &Captured { id, ..cut });
    assert!(!is_cut(&lab.objects, next.id).unwrap());
}
