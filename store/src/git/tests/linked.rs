//! A state made a linked worktree of the repository that it came from.

use std::path::Path;

use baton_protocol::id::{GitStateId, ObjectKind};
use baton_protocol::object::{GitOid, GitRefs, GitTarget};

use super::lab::{Kept, Lab, copy_files};
use crate::chunk::store_bytes;
use crate::git::{CaptureOptions, LinkPlace, Linked, capture, link};
use crate::objects::ObjectSink;
use crate::snapshot::load_blob;

/// A repository with history, a stash and another branch; `away` is where a run has it.
fn lab(kept: Kept) -> Lab {
    let mut lab = Lab::new(kept);
    lab.write("file", "one\n");
    lab.commit("one");
    lab.git(&["branch", "other"]);
    lab.write("file", "stashed\n");
    lab.git(&["stash", "-q"]);
    let captured = lab.capture();
    lab.rebuild(&captured, "away");
    lab.configure(&lab.path("away"));
    lab.at = "away".into();
    lab
}

/// Captures what was done away, and links it into the repository at home.
fn bring_home(lab: &Lab) -> Linked {
    let captured = lab.capture();
    copy_files(&lab.path("away"), &lab.path("home-again"));
    let (checkout, files) = (lab.path("work"), lab.path("home-again"));
    let at = LinkPlace { checkout: &checkout, place: &files, name: "1a2b" };
    link(&lab.objects, captured.id, &files, at, &lab.rebuild_options()).unwrap()
}

fn says(lab: &Lab, at: &str, args: &[&str]) -> String {
    String::from_utf8(lab.git_in(&lab.path(at), args)).unwrap().trim_end().to_owned()
}

fn refs(lab: &Lab) -> String {
    says(lab, "work", &["for-each-ref"])
}

fn kinds() -> [Kept; 2] {
    [("files", "sha1"), ("reftable", "sha256")].map(|(refs, hash)| Kept { hash, refs, index: "v2" })
}

#[test]
fn what_was_done_elsewhere_is_a_worktree_of_its_own_and_nothing_moves() {
    for kept in kinds() {
        let lab = lab(kept);
        let before = refs(&lab);
        lab.write("file", "one\ntwo\n");
        lab.commit("two");
        lab.git(&["branch", "-f", "other"]);
        lab.git(&["tag", "done"]);
        lab.write("file", "stashed there\n");
        lab.git(&["stash", "-q"]);
        lab.write("staged", "staged\n");
        lab.git(&["add", "staged"]);
        lab.write("loose", "loose\n");
        let mut linked = bring_home(&lab);
        assert_eq!(linked.branch(), "handoff/1a2b");
        linked.keep();
        drop(linked);
        let at = |args: &[&str]| says(&lab, "home-again", args);
        assert_eq!(at(&["symbolic-ref", "HEAD"]), "refs/heads/handoff/1a2b");
        for question in
            [&["log", "--format=%H %s"][..], &["status", "--porcelain"], &["diff", "--cached"]]
        {
            assert_eq!(at(question), says(&lab, "away", question), "{question:?}");
        }
        // What was here is where it was, and what came has names of its own.
        let after = refs(&lab);
        assert!(before.lines().all(|line| after.contains(line)), "{before}\n{after}");
        let new = after.lines().filter(|line| !before.contains(line));
        let mut new: Vec<_> = new.map(|line| line.rsplit('\t').next().unwrap()).collect();
        new.sort_unstable();
        let wanted = [
            "heads/handoff/1a2b",
            "handoff/1a2b/heads/other",
            "handoff/1a2b/stash/0",
            "handoff/1a2b/tags/done",
        ];
        let mut wanted = wanted.map(|name| format!("refs/{name}"));
        wanted.sort();
        assert_eq!(new, wanted);
        assert_eq!(says(&lab, "work", &["stash", "list"]).lines().count(), 1);
        assert!(
            says(&lab, "work", &["stash", "show", "-p", "refs/handoff/1a2b/stash/0"])
                .contains("stashed there")
        );
        assert!(says(&lab, "work", &["worktree", "list"]).contains("home-again"));
        assert_eq!(says(&lab, "work", &["status", "--porcelain"]), "");
        assert_eq!(says(&lab, "work", &["log", "--format=%s"]), "one");
        lab.git_in(&lab.path("work"), &["fsck", "--full", "--strict"]);
        // It can be taken away as any other.
        lab.git_in(
            &lab.path("work"),
            &["worktree", "remove", "--force", arg(&lab.path("home-again"))],
        );
    }
}

fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_is_not_kept_goes_again() {
    for kept in kinds() {
        let lab = lab(kept);
        let before = (refs(&lab), says(&lab, "work", &["worktree", "list"]));
        lab.write("file", "two\n");
        lab.commit("two");
        lab.git(&["tag", "done"]);
        drop(bring_home(&lab));
        assert_eq!((refs(&lab), says(&lab, "work", &["worktree", "list"])), before);
        // And can be made again.
        crate::fs::remove_dir_all(&lab.path("home-again")).unwrap();
        bring_home(&lab).keep();
        // A second one has another name.
        crate::fs::remove_dir_all(&lab.path("home-again")).unwrap();
        let mut second = bring_home(&lab);
        assert_eq!(second.branch(), "handoff/1a2b-2");
        second.keep();
    }
}

#[test]
fn a_rebase_goes_on_in_it_and_moves_no_branch_but_its_own() {
    for kept in kinds() {
        let lab = lab(kept);
        lab.git(&["checkout", "-q", "-b", "topic"]);
        lab.write("file", "topic\n");
        lab.commit("topic");
        lab.git(&["checkout", "-q", "main"]);
        lab.write("file", "main\n");
        lab.commit("main");
        lab.git(&["checkout", "-q", "topic"]);
        lab.stops(&["rebase", "main"]);
        bring_home(&lab).keep();
        let before = says(&lab, "work", &["for-each-ref", "refs/heads/main", "refs/heads/other"]);
        let finish = |at: &str| {
            let path = lab.path(at);
            crate::fs::write_atomic(&path.join("file"), b"both\n", 0o644).unwrap();
            lab.git_in(&path, &["add", "file"]);
            lab.git_in(&path, &["-c", "core.editor=true", "rebase", "--continue"]);
            (says(&lab, at, &["log", "--format=%T %s"]), says(&lab, at, &["status", "--porcelain"]))
        };
        assert_eq!(finish("home-again"), finish("away"));
        assert_eq!(says(&lab, "home-again", &["symbolic-ref", "HEAD"]), "refs/heads/handoff/1a2b");
        let after = says(&lab, "work", &["for-each-ref", "refs/heads/main", "refs/heads/other"]);
        assert_eq!(before, after);
        assert!(
            lab.try_git_in(&lab.path("work"), &["rev-parse", "-q", "--verify", "topic"])
                .stdout
                .is_empty()
        );
    }
}

#[test]
fn a_branch_that_is_not_born_and_another_repository_are_told_apart() {
    let mut lab = lab(kinds()[0]);
    lab.git(&["checkout", "-q", "--orphan", "fresh"]);
    let mut linked = bring_home(&lab);
    linked.keep();
    let head = says(&lab, "home-again", &["symbolic-ref", "HEAD"]);
    assert_eq!(head, "refs/heads/handoff/1a2b");
    let status = |at: &str| says(&lab, at, &["status", "--porcelain"]);
    assert_eq!(status("home-again"), status("away"));

    // One that names objects in another way cannot take them.
    let other = Lab::new(Kept { hash: "sha256", refs: "files", index: "v2" });
    lab.at = "away".into();
    let captured = capture(&lab.work(), &lab.objects, &lab.options()).unwrap();
    let at = LinkPlace { checkout: &other.work(), place: &other.path("x"), name: "1a2b" };
    let error = link(&lab.objects, captured.id, &other.path("scratch"), at, &lab.rebuild_options())
        .unwrap_err();
    assert!(error.to_string().contains("in another way"), "{error}");
}

#[test]
fn packs_that_build_on_each_other_come_in_their_order() {
    let lab = Lab::new(kinds()[0]);
    // Nothing that packs well: the first pack stays the larger one.
    let line = |number: u32| blake3::hash(&number.to_le_bytes()).to_hex().to_string() + "\n";
    let text: String = (0..500).map(line).collect();
    lab.write("file", &text);
    lab.commit("one");
    let first = lab.capture();
    lab.write("file", text + "more\n");
    lab.commit("two");
    let options = CaptureOptions { base: Some(first.id), ..lab.options() };
    let second = capture(&lab.work(), &lab.objects, &options).unwrap();
    assert_eq!(second.state.packs.len(), 2);
    // A repository that has nothing of it.
    let other = Lab::new(kinds()[0]);
    copy_files(&lab.work(), &other.path("files"));
    let (checkout, files) = (other.work(), other.path("files"));
    let at = LinkPlace { checkout: &checkout, place: &files, name: "1a2b" };
    link(&lab.objects, second.id, &files, at, &other.rebuild_options()).unwrap().keep();
    assert_eq!(says(&other, "files", &["log", "--format=%s"]), "two\none");
    other.git_in(&other.path("files"), &["fsck", "--full", "--strict"]);
}

#[test]
fn one_that_is_refused_leaves_no_objects() {
    let lab = lab(kinds()[0]);
    lab.write("file", "two\n");
    lab.commit("two");
    let objects = lab.path("work").join(".git/objects");
    let names = |folder: &Path| crate::fs::list_dir(folder).unwrap();
    let before = (names(&objects), names(&objects.join("pack")));
    let captured = lab.capture();
    // All but what its refs name is there.
    let mut state = captured.state;
    let refs = GitRefs::decode(&load_blob(&lab.objects, state.refs, 1 << 20).unwrap());
    let mut refs = refs.unwrap();
    let missing = GitOid::from_hex(refs.hash, "7".repeat(40).as_bytes()).unwrap();
    refs.refs[0].target = GitTarget::Object(missing);
    state.refs = store_bytes(&refs.encode(), &lab.objects).unwrap();
    let id = lab.objects.put(ObjectKind::GitState, &state.encode()).unwrap();
    copy_files(&lab.path("away"), &lab.path("home-again"));
    let (checkout, files) = (lab.path("work"), lab.path("home-again"));
    let at = LinkPlace { checkout: &checkout, place: &files, name: "1a2b" };
    let id = GitStateId::from_bytes(id.hash);
    let error = link(&lab.objects, id, &files, at, &lab.rebuild_options()).unwrap_err();
    assert!(error.to_string().contains("objects are missing"), "{error}");
    assert_eq!((names(&objects), names(&objects.join("pack"))), before);
}
