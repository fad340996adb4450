//! States that a repository can be in, each made by git itself, and what git is asked about them.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use super::lab::{Dice, Kept, Lab};

/// One state.
pub(super) struct State {
    pub(super) name: &'static str,
    pub(super) make: fn(&mut Lab, &mut Dice),
    /// What is done with it on both sides.
    pub(super) goes_on: &'static [&'static [&'static str]],
    /// Whether it can have a sparse index.
    sparse: bool,
    /// Whether it can have a split one.
    split: bool,
}

impl State {
    const fn new(
        name: &'static str,
        make: fn(&mut Lab, &mut Dice),
        goes_on: &'static [&'static [&'static str]],
    ) -> Self {
        Self { name, make, goes_on, sparse: true, split: true }
    }

    const fn never_sparse(self) -> Self {
        Self { sparse: false, ..self }
    }

    /// The nearest way in which git can keep it.
    pub(super) fn fit(&self, kept: Kept) -> Kept {
        match kept.index {
            "sparse" if !self.sparse => Kept { index: "v2", ..kept },
            "split" if !self.split => Kept { index: "v4", ..kept },
            _ => kept,
        }
    }
}

const CONTINUE: &[&str] = &["-c", "core.editor=true", "rebase", "--continue"];
const COMMIT: &[&str] = &["commit", "-q", "-m", "goes on"];
const ADD: &[&str] = &["add", "-A"];
const POP: &[&str] = &["stash", "pop"];

/// What both sides are asked; the first ones again after each step.
pub(super) const QUESTIONS: [&[&str]; 17] = [
    &["status", "--porcelain=v2", "--branch", "-z", "--ignored=no"],
    &["status", "--short", "--ignored=no", "--show-stash"],
    &["diff"],
    &["ls-files", "--stage", "-v", "-t", "-z"],
    &["for-each-ref", "--format=%(refname) %(objectname) %(symref) %(upstream:track)"],
    &["log", "--all", "--format=raw"],
    &["stash", "list", "-p"],
    &["diff", "--cached"],
    &["stash", "list", "--format=%H %gd %gs %gn %ge"],
    &["ls-files", "--sparse", "--stage", "-v", "-t", "-z"],
    &["ls-files", "--resolve-undo", "-z"],
    &["ls-files", "--others", "--exclude-standard", "-z"],
    &["symbolic-ref", "-q", "HEAD"],
    &["rev-parse", "-q", "--verify", "HEAD"],
    &["log", "--all", "--format=%H %N", "--notes"],
    &["submodule", "status", "--recursive"],
    &["config", "--get-regexp", "^(branch|user)\\."],
];

pub(super) const STATES: &[State] = &[
    State::new("unborn", |_, _| {}, &[ADD]).never_sparse(),
    State::new("unborn with staged files", unborn_staged, &[COMMIT]).never_sparse(),
    State::new("clean", base, &[&["checkout", "-q", "side"]]),
    State::new("modified", modified, &[&["stash"], POP]),
    State::new("staged", staged, &[COMMIT]),
    State::new("staged and modified", staged_and_modified, &[COMMIT, ADD]),
    State::new("deleted", deleted, &[ADD, COMMIT]),
    State::new("deleted from the index", deleted_staged, &[COMMIT]),
    State::new("renamed", renamed, &[COMMIT]),
    State::new("untracked", untracked, &[&["stash", "-u"], POP]),
    State::new("intent to add", intent_to_add, &[ADD, COMMIT]),
    State::new(
        "assume unchanged",
        assume_unchanged,
        &[&["update-index", "--no-assume-unchanged", "a/1"]],
    ),
    State::new("skip worktree", skip_worktree, &[&["update-index", "--no-skip-worktree", "a/1"]]),
    State::new("modes", modes, &[COMMIT]),
    State::new("links", links, &[ADD, COMMIT]),
    State::new("types that changed", type_change, &[ADD, COMMIT]),
    State::new("merge in conflict", merge_conflict, &[&["merge", "--abort"]]),
    State::new("merge in conflict, solved", merge_solved, &[&["merge", "--continue"]]),
    State::new(
        "merge resolved and undone",
        merge_resolved,
        &[&["checkout", "-m", "--", "1"], &["merge", "--abort"]],
    ),
    State::new("merge without commit", merge_no_commit, &[&["merge", "--continue"]]),
    State::new("merge with autostash", merge_autostash, &[&["merge", "--abort"]]),
    State::new("squash", squash, &[&["commit", "-q", "--no-edit"]]),
    State::new(
        "deleted here, changed there",
        delete_conflict,
        &[&["rm", "-q", "1"], &["merge", "--continue"]],
    ),
    State::new("both added", both_added, &[ADD, &["merge", "--continue"]]),
    State::new("renamed on both sides", rename_conflict, &[ADD, &["merge", "--continue"]]),
    State::new("merge of three", octopus, &[&["merge", "--continue"]]),
    State::new("rebase in conflict", rebase_conflict, &[&["rebase", "--abort"]]),
    State::new("rebase in conflict, solved", rebase_solved, &[CONTINUE]),
    State::new("rebase with commands", rebase_interactive, &[CONTINUE, CONTINUE]),
    State::new("rebase with merges", rebase_merges, &[ADD, CONTINUE]),
    State::new("rebase by patches", rebase_apply, &[ADD, CONTINUE]),
    State::new("rebase with autostash", rebase_autostash, &[ADD, CONTINUE]),
    State::new("rebase that skips", rebase_conflict, &[&["rebase", "--skip"]]),
    State::new("cherry-pick in conflict", pick_conflict, &[&["cherry-pick", "--abort"]]),
    State::new("cherry-pick of many", pick_many, &[ADD, &["cherry-pick", "--continue"]]),
    State::new("revert in conflict", revert_conflict, &[ADD, &["revert", "--continue"]]),
    State::new("revert of many", revert_many, &[&["revert", "--abort"]]),
    State::new("am in conflict", am_conflict, &[&["am", "--skip"]]),
    State::new("am by three ways", am_three_way, &[ADD, &["am", "--continue"]]),
    State::new("bisect", bisect, &[&["bisect", "bad"], &["bisect", "reset"]]),
    State::new("stashes", stashes, &[POP, &["stash", "drop"], POP]),
    State::new("stash in conflict", stash_conflict, &[ADD, &["stash", "drop"]]),
    State::new("stash with untracked files", stash_untracked, &[POP]),
    State::new("detached", detached, &[&["checkout", "-q", "-"]]),
    State::new("detached with commits of its own", detached_commits, &[&["branch", "kept"]]),
    State::new("tags", tags, &[&["describe", "--tags"]]),
    State::new("notes and other refs", notes, &[&["notes", "add", "-f", "-m", "other"]]),
    State::new("replaced objects", replaced, &[&["replace", "-d", "main~1"]]),
    State::new("upstream", upstream, &[&["checkout", "-q", "-b", "new", "origin/side"]])
        .never_sparse(),
    State::new("packed refs and objects", packed, &[&["checkout", "-q", "side"]]),
    State::new("sparse by folders", sparse_cone, &[&["sparse-checkout", "disable"]]).never_sparse(),
    State::new("sparse by patterns", sparse_patterns, &[&["sparse-checkout", "disable"]])
        .never_sparse(),
    State::new("shallow", shallow, &[COMMIT]).never_sparse(),
    State::new("partial clone", partial, &[COMMIT]).never_sparse(),
    State::new("borrowed objects", borrowed, &[COMMIT]).never_sparse(),
    State::new("linked worktree", linked, &[ADD, COMMIT]).never_sparse(),
    State::new("linked worktree in a rebase", linked_rebase, &[ADD, CONTINUE]).never_sparse(),
    State::new("submodule", submodule, &[&["submodule", "update", "-q"], ADD]).never_sparse(),
    State::new("submodule in a submodule", deep_submodule, &[ADD]).never_sparse(),
    State::new("submodule that is not there", absent_submodule, &[ADD]).never_sparse(),
    State::new("line ends", line_ends, &[ADD, COMMIT]),
    State::new("filters", filters, &[]),
    State::new("names of any bytes", odd_names, &[ADD, COMMIT]),
    State::new("odd branches", odd_branches, &[&["checkout", "-q", "-b", "x"]]),
    State::new("patterns of its own", excluded, &[&["clean", "-n"]]),
    State::new("orphan", orphan, &[COMMIT]).never_sparse(),
    State::new("recorded resolutions", rerere, &[ADD, &["merge", "--continue"]]),
    State::new("index without checksum", skip_hash, &[COMMIT]),
    State::new("many files", many_files, &[ADD, COMMIT]),
    State::new("anything", anything, &[ADD, COMMIT]),
    State::new("anything again", anything, &[&["stash", "-u"], POP]),
];

/// Three commits on `main`, two on `side`, of which the last ones are in conflict.
fn base(lab: &mut Lab, dice: &mut Dice) {
    for folder in ["", "a/", "b/", "b/c/"] {
        for name in ["1", "2", "3"] {
            lab.write(&format!("{folder}{name}"), dice.text(12));
        }
    }
    lab.write(".gitignore", "*.o\n/ignored/\n");
    lab.commit("first");
    if lab.kept.index == "sparse" {
        lab.git(&["sparse-checkout", "set", "--cone", "--sparse-index", "a"]);
    }
    lab.git(&["branch", "side"]);
    lab.write("2", dice.text(9));
    lab.write("a/1", dice.text(9));
    lab.commit("second");
    change(lab, "1", "ours");
    lab.commit("third");
    lab.git(&["checkout", "-q", "side"]);
    change(lab, "3", "side");
    lab.commit("on the side");
    change(lab, "1", "theirs");
    lab.write("a/new", dice.text(3));
    lab.commit("against it");
    lab.git(&["checkout", "-q", "main"]);
    if lab.kept.index == "split" {
        lab.git(&["update-index", "--split-index"]);
    }
}

/// Changes the sixth line of a file.
fn change(lab: &Lab, path: &str, to: &str) {
    let text = crate::fs::read_if_exists(&lab.work().join(path), 1 << 20).unwrap().unwrap();
    let text = String::from_utf8(text).unwrap();
    let lines: Vec<_> =
        text.lines().enumerate().map(|(at, line)| if at == 5 { to } else { line }).collect();
    lab.write(path, lines.join("\n") + "\n");
}

fn unborn_staged(lab: &mut Lab, dice: &mut Dice) {
    lab.write("a/1", dice.text(5));
    lab.write("2", dice.text(5));
    lab.git(&["add", "-A"]);
    lab.write("2", dice.text(5));
}

fn modified(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.write("1", dice.text(12));
    change(lab, "a/2", "changed");
}

fn staged(lab: &mut Lab, dice: &mut Dice) {
    modified(lab, dice);
    lab.write("a/deep/er", dice.text(4));
    lab.git(&["add", "-A"]);
}

fn staged_and_modified(lab: &mut Lab, dice: &mut Dice) {
    staged(lab, dice);
    lab.write("1", dice.text(7));
    lab.remove("a/2");
}

fn deleted(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.remove("1");
    lab.remove("a/1");
}

fn deleted_staged(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["rm", "-q", "1"]);
    lab.git(&["rm", "-q", "--cached", "a/1"]);
}

fn renamed(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["mv", "1", "a/one"]);
    lab.git(&["mv", "a/2", "two"]);
    change(lab, "two", "changed");
}

fn untracked(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.write("new", dice.text(2));
    lab.write("a/fresh/new", dice.text(2));
    lab.write("x.o", dice.text(2));
}

fn intent_to_add(lab: &mut Lab, dice: &mut Dice) {
    untracked(lab, dice);
    lab.git(&["add", "-N", "new", "a/fresh/new"]);
}

fn assume_unchanged(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["update-index", "--assume-unchanged", "a/1", "2"]);
    lab.write("a/1", dice.text(4));
}

fn skip_worktree(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["update-index", "--skip-worktree", "a/1", "2"]);
    lab.write("a/1", dice.text(4));
    lab.remove("2");
}

fn set_mode(lab: &Lab, path: &str, mode: u32) {
    std::fs::set_permissions(lab.work().join(path), PermissionsExt::from_mode(mode)).unwrap();
}

fn modes(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    set_mode(lab, "1", 0o755);
    lab.git(&["add", "1"]);
    set_mode(lab, "2", 0o700);
    set_mode(lab, "a/1", 0o600);
}

fn links(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    let link = |target: &str, at: &str| {
        std::os::unix::fs::symlink(target, lab.work().join(at)).unwrap();
    };
    link("1", "l1");
    link("nowhere/at/all", "a/l2");
    lab.commit("links");
    lab.remove("l1");
    link("2", "l1");
    lab.git(&["add", "l1"]);
    lab.remove("a/l2");
    link("/", "a/l2");
}

fn type_change(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.remove("1");
    std::os::unix::fs::symlink("2", lab.work().join("1")).unwrap();
    lab.git(&["add", "1"]);
    lab.remove("2");
    lab.write("2/inside", dice.text(2));
    lab.remove("a/1");
    std::os::unix::fs::symlink("../b", lab.work().join("a/1")).unwrap();
}

fn merge_conflict(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.stops(&["merge", "side"]);
}

fn merge_solved(lab: &mut Lab, dice: &mut Dice) {
    merge_conflict(lab, dice);
    lab.write("1", dice.text(6));
    lab.git(&["add", "1"]);
}

fn merge_resolved(lab: &mut Lab, dice: &mut Dice) {
    merge_solved(lab, dice);
    lab.write("a/2", dice.text(2));
    lab.git(&["add", "-A"]);
}

fn merge_no_commit(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["merge", "-q", "--no-commit", "--no-ff", "side~1"]);
    lab.write("a/3", dice.text(2));
}

fn merge_autostash(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.write("a/3", dice.text(3));
    lab.stops(&["merge", "--autostash", "side"]);
}

fn squash(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["merge", "-q", "--squash", "side~1"]);
}

fn delete_conflict(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["rm", "-q", "1"]);
    lab.commit("without");
    lab.stops(&["merge", "side"]);
}

fn both_added(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.write("a/new", dice.text(5));
    lab.commit("new");
    lab.git(&["checkout", "-q", "-b", "other", "side~1"]);
    lab.write("a/new", dice.text(5));
    lab.commit("new, too");
    lab.stops(&["merge", "main"]);
}

fn rename_conflict(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["checkout", "-q", "-b", "here", "main"]);
    lab.git(&["mv", "2", "here"]);
    lab.commit("here");
    lab.git(&["checkout", "-q", "-b", "there", "main"]);
    lab.git(&["mv", "2", "there"]);
    lab.commit("there");
    lab.stops(&["merge", "here"]);
}

fn octopus(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    for name in ["x", "y"] {
        lab.git(&["checkout", "-q", "-b", name, "main"]);
        lab.write(&format!("a/{name}"), dice.text(2));
        lab.commit(name);
    }
    lab.git(&["checkout", "-q", "main"]);
    lab.git(&["merge", "-q", "--no-commit", "x", "y"]);
}

fn rebase_conflict(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["checkout", "-q", "side"]);
    lab.write("a/last", dice.text(2));
    lab.commit("last");
    lab.stops(&["rebase", "main"]);
}

fn rebase_solved(lab: &mut Lab, dice: &mut Dice) {
    rebase_conflict(lab, dice);
    lab.write("1", dice.text(6));
    lab.git(&["add", "1"]);
}

fn rebase_interactive(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    let script = "sed -i -e '1s/^pick/edit/' -e '1a exec echo ran >> ran' -e '$a break'";
    let editor = format!("sequence.editor={script}");
    lab.git(&["-c", &editor, "rebase", "-q", "-i", "main~2"]);
    lab.write("a/3", dice.text(2));
    lab.git(&["add", "a/3"]);
}

fn rebase_merges(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["checkout", "-q", "-b", "topic", "side~1"]);
    lab.write("a/t", dice.text(2));
    lab.commit("topic");
    lab.git(&["checkout", "-q", "side"]);
    lab.git(&["merge", "-q", "--no-ff", "-m", "merged", "topic"]);
    lab.stops(&["rebase", "--rebase-merges", "main"]);
}

fn rebase_apply(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["checkout", "-q", "side"]);
    lab.write("a/last", dice.text(2));
    lab.commit("last");
    lab.stops(&["rebase", "--apply", "main"]);
}

fn rebase_autostash(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["checkout", "-q", "side"]);
    lab.write("a/3", dice.text(2));
    lab.stops(&["rebase", "--autostash", "main"]);
}

fn pick_conflict(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.stops(&["cherry-pick", "side"]);
}

fn pick_many(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["checkout", "-q", "side"]);
    lab.write("a/last", dice.text(2));
    lab.commit("last");
    lab.git(&["checkout", "-q", "main"]);
    lab.stops(&["cherry-pick", "side~3..side"]);
}

fn revert_conflict(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    change(lab, "1", "again");
    lab.commit("fourth");
    lab.stops(&["revert", "--no-edit", "HEAD~1"]);
}

fn revert_many(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    change(lab, "1", "again");
    lab.commit("fourth");
    lab.stops(&["revert", "--no-edit", "HEAD~2", "HEAD~1"]);
}

fn patches(lab: &Lab, range: &str) -> String {
    let patches = lab.path("patches");
    lab.git(&["format-patch", "-q", "-o", &patches.display().to_string(), range]);
    let mut paths: Vec<_> =
        std::fs::read_dir(&patches).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let texts = paths.iter().map(|path| crate::fs::read_if_exists(path, 1 << 20).unwrap().unwrap());
    let mailbox = lab.path("mailbox");
    crate::fs::write_atomic(&mailbox, &texts.collect::<Vec<_>>().concat(), 0o600).unwrap();
    mailbox.display().to_string()
}

fn am_conflict(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    let mailbox = patches(lab, "side~2..side");
    lab.stops(&["am", &mailbox]);
}

fn am_three_way(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    let mailbox = patches(lab, "side~2..side");
    lab.stops(&["am", "-3", &mailbox]);
}

fn bisect(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    for at in 0..6 {
        lab.write("a/2", dice.text(2 + at));
        lab.commit(&format!("number {at}"));
    }
    lab.git(&["bisect", "start", "--term-old", "good", "--term-new", "bad"]);
    lab.git(&["bisect", "bad", "main"]);
    lab.git(&["bisect", "good", "main~6"]);
    lab.git(&["bisect", "skip"]);
}

fn stashes(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    for at in 0..4 {
        lab.write("a/2", dice.text(3));
        lab.write("2", dice.text(3));
        lab.git(&["add", "2"]);
        lab.git(&["stash", "push", "-q", "-m", &format!("number {at} > with <odd> \"name\"")]);
    }
    lab.git(&["stash", "drop", "-q", "stash@{1}"]);
}

fn stash_conflict(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    change(lab, "1", "stashed");
    lab.git(&["stash", "-q"]);
    change(lab, "1", "meanwhile");
    lab.commit("meanwhile");
    lab.stops(&["stash", "pop"]);
}

fn stash_untracked(lab: &mut Lab, dice: &mut Dice) {
    untracked(lab, dice);
    lab.git(&["stash", "push", "-q", "-a"]);
}

fn detached(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["checkout", "-q", "main~1"]);
}

fn detached_commits(lab: &mut Lab, dice: &mut Dice) {
    detached(lab, dice);
    lab.write("a/2", dice.text(4));
    lab.commit("nowhere else");
    lab.write("2", dice.text(4));
}

fn tags(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["tag", "light"]);
    lab.git(&["tag", "-a", "-m", "heavy", "v1", "main~1"]);
    lab.git(&["tag", "-a", "-m", "of a tag", "nested", "v1"]);
    lab.git(&["tag", "tree", "main^{tree}"]);
    lab.git(&["tag", "blob", "main:2"]);
    lab.write("2", dice.text(3));
}

fn notes(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["notes", "add", "-m", "a note", "main"]);
    lab.git(&["notes", "--ref", "review", "add", "-m", "looks good", "side"]);
    lab.git(&["update-ref", "refs/custom/thing", "side~1"]);
    lab.git(&["update-ref", "refs/worktree/mine", "main~1"]);
    lab.git(&["symbolic-ref", "refs/heads/alias", "refs/heads/side"]);
}

fn replaced(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    let tree = lab.says(&["rev-parse", "main~1^{tree}"]);
    let other = lab.says(&["commit-tree", "-m", "another history", &tree]);
    lab.git(&["replace", "main~1", &other]);
}

/// A repository to clone from, with what `base` makes.
fn origin(lab: &mut Lab, dice: &mut Dice) {
    let at = std::mem::replace(&mut lab.at, "origin".into());
    lab.init("origin");
    base(lab, dice);
    lab.git(&["config", "uploadpack.allowFilter", "true"]);
    lab.git(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
    lab.at = at;
    crate::fs::remove_dir_all(&lab.work()).unwrap();
}

fn clone(lab: &mut Lab, dice: &mut Dice, args: &[&str]) {
    origin(lab, dice);
    let url = format!("file://{}", lab.path("origin").display());
    let storage = format!("--ref-format={}", lab.kept.refs);
    let args = [&["clone", "-q", &storage], args, &[url.as_str(), "work"]].concat();
    lab.git_in(&lab.path(""), &args);
    lab.configure(&lab.work());
}

fn upstream(lab: &mut Lab, dice: &mut Dice) {
    clone(lab, dice, &[]);
    lab.write("a/2", dice.text(3));
    lab.commit("ahead");
    lab.git(&["update-ref", "refs/remotes/origin/main", "refs/remotes/origin/side"]);
    lab.git(&["branch", "-q", "--track", "local", "origin/side"]);
}

fn packed(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["tag", "-a", "-m", "m", "v1"]);
    lab.git(&["gc", "-q"]);
    lab.git(&["pack-refs", "--all"]);
    lab.write("a/2", dice.text(4));
    lab.commit("after");
    lab.git(&["branch", "-D", "-q", "side"]);
    lab.git(&["branch", "side", "main~1"]);
}

fn sparse_cone(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["sparse-checkout", "set", "--cone", "b/c"]);
    lab.write("b/c/1", dice.text(3));
}

fn sparse_patterns(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["sparse-checkout", "set", "--no-cone", "/*", "!/b/*"]);
    lab.write("1", dice.text(3));
    lab.git(&["add", "1"]);
}

fn shallow(lab: &mut Lab, dice: &mut Dice) {
    clone(lab, dice, &["--depth=2", "--no-single-branch"]);
    lab.write("2", dice.text(3));
    lab.git(&["add", "2"]);
}

fn partial(lab: &mut Lab, dice: &mut Dice) {
    clone(lab, dice, &["--filter=blob:none"]);
    lab.write("2", dice.text(3));
    lab.git(&["add", "2"]);
    lab.write("a/1", dice.text(3));
}

fn borrowed(lab: &mut Lab, dice: &mut Dice) {
    origin(lab, dice);
    let storage = format!("--ref-format={}", lab.kept.refs);
    lab.git_in(&lab.path(""), &["clone", "-q", "--shared", &storage, "origin", "work"]);
    lab.configure(&lab.work());
    lab.write("2", dice.text(3));
    lab.git(&["add", "2"]);
    // It has to be there for the source's own answers.
    crate::fs::rename(&lab.path("origin"), &lab.path("lender")).unwrap();
    let alternates = lab.work().join(".git/objects/info/alternates");
    let objects = lab.path("lender/.git/objects");
    crate::fs::write_atomic(&alternates, objects.as_os_str().as_bytes(), 0o600).unwrap();
}

fn linked(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["worktree", "add", "-q", "-b", "linked", "../linked", "side"]);
    lab.write("2", dice.text(2));
    lab.at = "linked".into();
    lab.write("1", dice.text(3));
    lab.git(&["add", "1"]);
    lab.git(&["update-ref", "refs/worktree/mine", "main"]);
    lab.write("3", dice.text(3));
}

fn linked_rebase(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["worktree", "add", "-q", "../linked", "side"]);
    lab.at = "linked".into();
    lab.stops(&["rebase", "main"]);
}

fn add_submodule(lab: &mut Lab, dice: &mut Dice, from: &str, at: &str) {
    let here = std::mem::replace(&mut lab.at, from.into());
    if !lab.work().exists() {
        lab.init(from);
        lab.write("s", dice.text(3));
        lab.commit("of the submodule");
    }
    lab.at = here;
    let url = format!("{}", lab.path(from).display());
    lab.git(&["submodule", "--quiet", "add", "--name", &format!("the {at}"), &url, at]);
    let inner = format!("{}/{at}", lab.at);
    let work = std::mem::replace(&mut lab.at, inner);
    lab.configure(&lab.work());
    lab.at = work;
}

fn submodule(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    add_submodule(lab, dice, "library", "libs/one");
    add_submodule(lab, dice, "library", "two");
    lab.commit("submodules");
    let outer = lab.at.clone();
    lab.at = format!("{outer}/libs/one");
    lab.write("s", dice.text(4));
    lab.commit("of its own");
    lab.write("untracked", dice.text(1));
    lab.write("s", dice.text(2));
    lab.at = format!("{outer}/two");
    lab.write("s", dice.text(2));
    lab.git(&["add", "s"]);
    lab.at = outer;
}

fn deep_submodule(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    let outer = std::mem::replace(&mut lab.at, "middle".into());
    lab.init("middle");
    lab.write("m", dice.text(2));
    lab.commit("of the middle");
    add_submodule(lab, dice, "library", "inner");
    lab.commit("with an inner one");
    lab.at = outer.clone();
    add_submodule(lab, dice, "middle", "mid");
    lab.git(&["submodule", "--quiet", "update", "--init", "--recursive"]);
    lab.commit("both");
    lab.at = format!("{outer}/mid/inner");
    lab.write("s", dice.text(2));
    lab.at = outer;
}

fn absent_submodule(lab: &mut Lab, dice: &mut Dice) {
    submodule(lab, dice);
    lab.git(&["submodule", "--quiet", "deinit", "-f", "two"]);
}

fn line_ends(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["config", "core.autocrlf", "true"]);
    lab.write(".gitattributes", "*.txt text eol=crlf\n*.bin -text\n");
    lab.write("a/x.txt", "one\r\ntwo\r\n");
    lab.write("a/x.bin", "one\r\ntwo\n");
    lab.commit("line ends");
    lab.write("a/x.txt", "one\r\ntwo\r\nthree\r\n");
    lab.remove("2");
    lab.git(&["checkout", "-q", "--", "2"]);
}

fn filters(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["config", "filter.upper.clean", "tr a-z A-Z"]);
    lab.git(&["config", "filter.upper.smudge", "tr A-Z a-z"]);
    lab.write(".gitattributes", "*.up filter=upper\n");
    lab.write("a/x.up", dice.text(1) + "text\n");
    lab.commit("filters");
    std::thread::sleep(std::time::Duration::from_millis(30));
    // Its file is not the bytes of its object: only what git remembers of it says that it is clean.
    lab.write("a/3", dice.text(2));
    lab.git(&["add", "a/3"]);
}

fn odd_names(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    for name in
        [&b"\xff\xfe"[..], b"new\nline", b"tab\t", b" ", b"-rf", b"\"quoted\"", "é".as_bytes()]
    {
        let path = lab.work().join("a").join(std::ffi::OsStr::from_bytes(name));
        crate::fs::write_atomic(&path, dice.text(2).as_bytes(), 0o644).unwrap();
    }
    lab.git(&["add", "-A"]);
    let path = lab.work().join("a").join(std::ffi::OsStr::from_bytes(b"\xffuntracked\n"));
    crate::fs::write_atomic(&path, b"x", 0o644).unwrap();
}

fn odd_branches(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    for name in
        ["a/b/c", "é", "x'y\"z$(true)", "HEAD-1", "refs/heads/twice", "{weird}", "a-b", "@x"]
    {
        lab.git(&["branch", name, "side"]);
    }
    lab.git(&["checkout", "-q", "x'y\"z$(true)"]);
    lab.git(&["branch", "-q", "--set-upstream-to=a/b/c"]);
    lab.write("2", dice.text(1));
}

fn excluded(lab: &mut Lab, dice: &mut Dice) {
    untracked(lab, dice);
    crate::fs::create_dir_all(&lab.work().join(".git/info")).unwrap();
    let info = lab.work().join(".git/info");
    crate::fs::write_atomic(&info.join("exclude"), b"new\n", 0o644).unwrap();
    crate::fs::write_atomic(&info.join("attributes"), b"a/* -diff\n", 0o644).unwrap();
    change(lab, "a/2", "binary now");
}

fn orphan(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["checkout", "-q", "--orphan", "fresh"]);
    lab.write("a/only", dice.text(2));
    lab.git(&["add", "-A"]);
}

fn rerere(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["config", "rerere.enabled", "true"]);
    lab.stops(&["merge", "side"]);
}

fn skip_hash(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    lab.git(&["config", "index.skipHash", "true"]);
    lab.write("a/2", dice.text(2));
    lab.git(&["add", "a/2"]);
}

fn many_files(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    for at in 0..300 {
        lab.write(&format!("a/d{}/{}/{at}", at % 7, at % 13), dice.text(1));
    }
    lab.commit("many");
    for _ in 0..20 {
        let at = dice.roll(300);
        lab.write(&format!("a/d{}/{}/{at}", at % 7, at % 13), dice.text(2));
    }
    lab.git(&["add", "a/3"]);
}

/// Whatever the dice say, one after the other.
fn anything(lab: &mut Lab, dice: &mut Dice) {
    base(lab, dice);
    for step in 0..12 {
        let path = ["1", "2", "3", "a/1", "a/2", "a/3", "a/n", "new"][dice.roll(8)];
        let is_there = lab.work().join(path).exists();
        match dice.roll(9) {
            0..=3 => lab.write(path, dice.text(3)),
            4 if is_there => lab.remove(path),
            5 => drop(lab.try_git_in(&lab.work(), &["add", "-A"])),
            6 if is_there => drop(lab.try_git_in(&lab.work(), &["add", path])),
            7 => {
                let message = format!("step {step}");
                drop(lab.try_git_in(&lab.work(), &["commit", "-q", "-m", &message]));
            }
            8 => drop(lab.try_git_in(&lab.work(), &["stash", "push", "-q"])),
            _ => {}
        }
    }
}
