//! What a run did comes home into a checkout that has moved on: both sides' work is there, nothing is
//! overwritten, and it can be put back.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::cloud::{Background, Cloud, arg, list, refused, text};
use crate::support::home::{TestHome, run};
use crate::support::nobody::{self, as_nobody, give_to_nobody};
use crate::support::walker::{differences, walk};

const PATIENCE: Duration = Duration::from_mins(1);

/// A checkout with a few files in it, as it is handed off.
fn checkout(home: &TestHome) -> PathBuf {
    let tree = home.folder("app").canonicalize().unwrap();
    let lines = (1..=9).map(|line| format!("line {line}\n")).collect::<Vec<_>>().concat();
    for (name, content) in [
        ("both.txt", lines.as_str()),
        ("clash.txt", "as it was\n"),
        ("deleted-here.txt", "1\n"),
        ("deleted-there.txt", "1\n"),
        ("gone.txt", "gone\n"),
        ("mine.txt", "mine\n"),
        ("moved-here.txt", "a file that moves here\n"),
        ("script.sh", "true\n"),
        ("theirs.txt", "theirs\n"),
    ] {
        std::fs::write(tree.join(name), content).unwrap();
    }
    std::fs::create_dir_all(tree.join("old/deep")).unwrap();
    std::fs::write(tree.join("old/deep/file"), "x\n").unwrap();
    tree
}

/// What the run does.
const THERE: &str = "sed -i 's/line 9/line 9 there/' both.txt
    echo there > clash.txt
    echo 2 > deleted-here.txt
    rm deleted-there.txt gone.txt
    rm -r old
    echo more there >> moved-here.txt
    chmod 755 script.sh
    echo more >> theirs.txt
    mkdir -p new/deep && echo new > new/deep/file
    ln -s theirs.txt link";

/// What is done here meanwhile.
fn edit_here(tree: &Path) {
    let edit = "sed -i 's/line 1$/line 1 here/' both.txt
        echo here > clash.txt
        rm deleted-here.txt
        echo edited > deleted-there.txt
        echo more >> mine.txt
        mkdir here && mv moved-here.txt here/moved.txt
        echo untracked > here/new.txt";
    let done = Command::new("sh").args(["-ec", edit]).current_dir(tree).status();
    assert!(done.unwrap().success());
}

fn run_to_its_end(home: &TestHome, tree: &Path, script: &str) -> String {
    let answer = home.json(&["handoff", arg(tree), "--", "sh", "-ec", script]);
    let run = run_of(&answer).to_owned();
    home.json_exit(&["run", "wait", &run], 0);
    run
}

fn run_of(answer: &Value) -> &str {
    text(&answer["runs"][0], "run")
}

/// Puts back the last apply to the checkout around the command.
fn undo_in(home: &TestHome, tree: &Path) -> Value {
    let mut undo = home.command();
    undo.args(["undo", "--json"]).current_dir(tree);
    let output = run(undo, PATIENCE);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn paths(answer: &Value, list_name: &str) -> Vec<String> {
    list(answer, list_name).iter().map(|one| text(one, "path").to_owned()).collect()
}

fn read(tree: &Path, name: &str) -> String {
    std::fs::read_to_string(tree.join(name)).unwrap()
}

#[test]
fn what_both_sides_did_comes_together_and_can_be_put_back() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = checkout(&home);
    let run = run_to_its_end(&home, &tree, THERE);
    edit_here(&tree);
    let before = walk(&tree);

    // What would be done is said, and nothing is.
    let planned = home.json_exit(&["pull", &run, "--apply", "--dry-run"], 4);
    assert_eq!(planned["state"], "dry-run");
    assert!(planned["undo"].is_null());
    assert_eq!(differences(&before, &walk(&tree), &[]), [""; 0]);

    assert!(!home.baton_home().join("applies").exists(), "a dry run writes nothing");

    // Something is left, so it is no success, and all of it is told.
    let applied = home.json_exit(&["pull", &run, "--apply"], 1);
    assert_eq!(applied["error"]["code"], "not-all-applied");
    let hint = text(&applied["error"], "hint");
    assert!(hint.contains(&format!("baton undo {}", &text(&applied, "undo")[..8])), "{hint}");
    assert_eq!(applied["receipt"]["snapshot"], applied["snapshot"]);
    assert_eq!(applied["actions"], planned["actions"]);
    assert_eq!(text(&applied, "root"), arg(&tree));
    let taken = [
        "deleted-here.txt",
        "gone.txt",
        "here/moved.txt",
        "link",
        "new",
        "new/deep",
        "new/deep/file",
        "old",
        "old/deep",
        "old/deep/file",
        "script.sh",
        "theirs.txt",
    ];
    assert_eq!(paths(&applied, "applied"), taken);
    assert_eq!(paths(&applied, "merged"), ["both.txt"]);
    assert_eq!(paths(&applied, "conflicts"), ["clash.txt"]);
    assert_eq!(paths(&applied, "skipped"), ["deleted-there.txt"]);
    let clash = &list(&applied, "conflicts")[0];
    for version in ["base", "ours", "theirs"] {
        assert_eq!(clash[version]["kind"], "file", "{clash}");
    }
    let both = read(&tree, "both.txt");
    assert!(both.starts_with("line 1 here\n") && both.ends_with("line 9 there\n"), "{both}");
    assert_eq!(read(&tree, "clash.txt"), "here\n");
    assert_eq!(read(&tree, "deleted-here.txt"), "2\n");
    assert_eq!(read(&tree, "deleted-there.txt"), "edited\n");
    assert_eq!(read(&tree, "here/moved.txt"), "a file that moves here\nmore there\n");
    assert_eq!(read(&tree, "mine.txt"), "mine\nmore\n");
    assert_eq!(read(&tree, "here/new.txt"), "untracked\n");
    assert_eq!(read(&tree, "link"), "theirs\nmore\n");
    for gone in ["gone.txt", "old", "moved-here.txt"] {
        assert!(!tree.join(gone).exists(), "{gone}");
    }
    assert!(Path::new(text(&applied, "displaced")).is_dir());
    // The safety copy is the checkout as it was.
    let copy = home.root().join("copy");
    home.json(&["restore", text(&applied, "safety"), "--into", arg(&copy)]);
    assert_eq!(differences(&before, &walk(&copy), &[]), [""; 0]);
    // A push right after has what was applied.
    let after = walk(&tree);
    let pushed = home.json(&["push", arg(&tree)]);
    let third = cloud.device();
    let there = third.root().join("there");
    third.json(&["restore", text(&pushed, "snapshot"), "--into", arg(&there)]);
    assert_eq!(differences(&after, &walk(&there), &[]), [""; 0]);

    // The same once more changes nothing: what is a conflict stays one.
    let again = home.json_exit(&["pull", &run, "--apply"], 4);
    assert_eq!((text(&again, "state"), paths(&again, "conflicts").len()), ("unchanged", 1));
    assert_eq!(differences(&after, &walk(&tree), &[]), [""; 0]);

    let undone = undo_in(&home, &tree);
    assert_eq!(undone["undo"], applied["undo"]);
    assert_eq!(list(&undone, "kept").len(), 0, "{undone}");
    assert_eq!(differences(&before, &walk(&tree), &[]), [""; 0]);
    refused(&home, &["undo", text(&applied, "undo")], 1, "undone");
}

#[test]
fn what_was_edited_since_is_left_by_an_undo() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = checkout(&home);
    let run =
        run_to_its_end(&home, &tree, "echo more >> theirs.txt; echo x > made.txt; rm mine.txt");
    let before = walk(&tree);
    let applied = home.json(&["pull", &run[..8], "--apply", arg(&tree)]);
    std::fs::write(tree.join("made.txt"), "edited since\n").unwrap();
    let undone = home.json_exit(&["undo", &text(&applied, "undo")[..8]], 4);
    assert_eq!(paths(&undone, "kept"), ["made.txt"]);
    assert_eq!(paths(&undone, "restored"), ["mine.txt", "theirs.txt"]);
    assert_eq!(read(&tree, "made.txt"), "edited since\n");
    let found = differences(&before, &walk(&tree), &[]);
    assert_eq!(found, ["made.txt: only in the second (File)"]);
}

#[test]
fn a_part_is_applied_and_conflicts_are_marked_where_that_is_asked_for() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = checkout(&home);
    let run = run_to_its_end(&home, &tree, THERE);
    edit_here(&tree);
    let part = home.json(&["pull", &run, "--apply", "--only", "./new/deep/", "--only", "old"]);
    let taken = ["new", "new/deep", "new/deep/file", "old", "old/deep", "old/deep/file"];
    assert_eq!(paths(&part, "applied"), taken);
    assert!(list(&part, "skipped").iter().all(|one| one["reason"] == "not-asked"), "{part}");
    assert_eq!(read(&tree, "new/deep/file"), "new\n");
    assert_eq!(read(&tree, "theirs.txt"), "theirs\n");
    let args = ["pull", &run, "--apply", "--only", "clash.txt", "--conflicts", "markers"];
    let marked = home.json_exit(&args, 1);
    assert_eq!(paths(&marked, "conflicts"), ["clash.txt"]);
    let expected = format!("<<<<<<< here\nhere\n=======\nthere\n>>>>>>> run {}\n", &run[..8]);
    assert_eq!(read(&tree, "clash.txt"), expected);
    home.json(&["undo", text(&marked, "undo")]);
    assert_eq!(read(&tree, "clash.txt"), "here\n");
}

#[test]
fn what_is_not_done_is_no_success_and_nothing_done_is_no_change() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = home.folder("app").canonicalize().unwrap();
    for folder in ["some", "void"] {
        std::fs::create_dir(tree.join(folder)).unwrap();
    }
    std::fs::write(tree.join("some/file"), "x\n").unwrap();
    std::fs::write(tree.join(".batonignore"), "*.tmp\n").unwrap();
    let only_void = run_to_its_end(&home, &tree, "rmdir void");
    let both = run_to_its_end(&home, &tree, "rm -r void some");
    // Nobody has a copy of these.
    for file in ["some/x.tmp", "void/x.tmp"] {
        std::fs::write(tree.join(file), "mine\n").unwrap();
    }
    let before = walk(&tree);
    let nothing = home.json_exit(&["pull", &only_void, "--apply"], 4);
    assert_eq!(text(&nothing, "state"), "unchanged");
    assert_eq!(list(&nothing, "skipped")[0]["reason"], "not-empty");
    assert_eq!(differences(&before, &walk(&tree), &[]), [""; 0]);
    let part = home.json_exit(&["pull", &both, "--apply"], 1);
    assert_eq!(part["error"]["code"], "not-all-applied");
    assert_eq!(
        (paths(&part, "applied"), paths(&part, "skipped")),
        (vec!["some/file".to_owned()], vec!["some".to_owned(), "void".to_owned()],)
    );
    home.json(&["undo", text(&part, "undo")]);
    assert_eq!(differences(&before, &walk(&tree), &[]), [""; 0]);
}

#[test]
fn one_that_stops_on_its_way_says_by_what_it_is_put_back() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = home.folder("app").canonicalize().unwrap();
    for number in 0..200 {
        std::fs::write(tree.join(format!("file-{number:03}")), "before\n").unwrap();
    }
    let run = run_to_its_end(&home, &tree, "for file in file-*; do echo after > $file; done");
    let before = walk(&tree);
    let applies = home.baton_home().join("applies");
    let (answer, in_its_way) = loop {
        let known = names(&applies);
        let mut command = home.command();
        command.args(["pull", &run, "--apply", "--json"]);
        let mut pull = Background::start(command);
        // That it is done cannot be noted where something else has that name.
        let in_its_way = loop {
            let new = names(&applies).into_iter().find(|name| !known.contains(name));
            if let Some(new) = new.map(|new| applies.join(new)).filter(|new| new.is_dir()) {
                let path = new.join("applied");
                if std::fs::create_dir(&path).is_ok() {
                    break Some(path);
                }
            }
            if pull.is_ended() {
                break None;
            }
        };
        let code = pull.end().code();
        let answer: Value = serde_json::from_str(&pull.stdout()).unwrap();
        match in_its_way.filter(|_| code == Some(1)) {
            Some(path) => break (answer, path),
            // It was quicker.
            None => drop(home.json(&["undo", text(&answer, "undo")])),
        }
    };
    let undo = text(&answer, "undo");
    assert_eq!(text(&answer, "state"), "interrupted");
    assert_eq!(answer["error"]["code"], "apply-interrupted");
    assert_eq!(answer["receipt"]["snapshot"], answer["snapshot"]);
    let hint = text(&answer["error"], "hint");
    assert!(hint.contains(&format!("baton undo {}", &undo[..8])), "{hint}");
    std::fs::remove_dir(in_its_way).unwrap();
    // A dry run does not go on with it.
    let half = walk(&tree);
    let fail = refused(&home, &["pull", &run, "--apply", "--dry-run"], 1, "apply-unfinished");
    assert!(fail.contains(&undo[..8]), "{fail}");
    assert_eq!(differences(&half, &walk(&tree), &[]), [""; 0]);
    home.json(&["undo", undo]);
    assert_eq!(differences(&before, &walk(&tree), &[]), [""; 0]);
}

/// The names in a folder; none where there is none.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn another_checkout_and_one_in_which_git_is_at_work_are_refused() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = checkout(&home);
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.args(args).current_dir(&tree).env("HOME", home.root());
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        let done = command.output().unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x"]);
    let run = run_to_its_end(&home, &tree, "echo more >> theirs.txt");
    let before = walk(&tree);
    let other = home.folder("other");
    std::fs::write(other.join("file"), "x").unwrap();
    home.json(&["snapshot", arg(&other)]);
    let fail = refused(&home, &["pull", &run, "--apply", arg(&other)], 1, "other-workspace");
    assert!(fail.contains(arg(&tree)), "{fail}");
    let stranger = home.folder("stranger");
    refused(&home, &["pull", &run, "--apply", arg(&stranger)], 1, "other-workspace");
    assert!(std::fs::read_dir(&stranger).unwrap().next().is_none());

    for (name, says) in [("index.lock", "another git command"), ("MERGE_HEAD", "merge")] {
        let path = tree.join(".git").join(name);
        std::fs::write(&path, "").unwrap();
        let fail = refused(&home, &["pull", &run, "--apply"], 1, "git-busy");
        assert!(fail.contains(says), "{fail}");
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(differences(&before, &walk(&tree), &[]), [""; 0]);
    // A folder that is gone is no empty one; where it went it is the same checkout.
    let moved = home.user_home().join("moved");
    std::fs::rename(&tree, &moved).unwrap();
    refused(&home, &["pull", &run, "--apply"], 1, "no-checkout");
    assert!(!tree.exists());
    let applied = home.json(&["pull", &run, "--apply", arg(&moved)]);
    assert_eq!(text(&applied, "root"), arg(&moved));
    assert_eq!(read(&moved, "theirs.txt"), "theirs\nmore\n");
}

#[test]
fn a_daemon_that_is_killed_on_the_way_leaves_one_state_or_the_other() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = home.folder("app").canonicalize().unwrap();
    for number in 0..400 {
        std::fs::write(tree.join(format!("file-{number:03}")), "before\n").unwrap();
    }
    let run = run_to_its_end(
        &home,
        &tree,
        "for file in file-*; do echo after > $file; done; rm file-00*; mkdir new; touch new/file",
    );
    let before = walk(&tree);
    let applied = home.json(&["pull", &run, "--apply"]);
    let after = walk(&tree);
    home.json(&["undo", text(&applied, "undo")]);
    assert_eq!(differences(&before, &walk(&tree), &[]), [""; 0]);
    let mut finished = 0;
    for round in 0..6 {
        let mut command = home.command();
        command.args(["pull", &run, "--apply"]);
        let mut pull = Background::start(command);
        // Not by the clock: as soon as some number of files has changed.
        let changed = || {
            let is_after = |number: &usize| {
                std::fs::read(tree.join(format!("file-{number:03}")))
                    .is_ok_and(|it| it == b"after\n")
            };
            (10..400).filter(is_after).count()
        };
        while changed() <= round * 60 && !pull.is_ended() {}
        home.kill();
        drop(pull);
        home.json(&["status"]);
        let found = walk(&tree);
        if differences(&after, &found, &[]).is_empty() {
            finished += 1;
            undo_in(&home, &tree);
        }
        assert_eq!(differences(&before, &walk(&tree), &[]), [""; 0], "round {round}");
    }
    assert!(finished > 0, "it was never gone on with");
}

#[test]
fn what_may_not_be_written_to_is_opened_for_it_and_closed_again() {
    if !nobody::is_possible() {
        return;
    }
    let cloud = Cloud::new();
    let home = TestHome::new();
    let program = home.root().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_baton"), &program).unwrap();
    let tree = home.folder("app").canonicalize().unwrap();
    std::fs::create_dir_all(tree.join("closed/deep")).unwrap();
    for name in ["closed/a", "closed/deep/b", "open"] {
        std::fs::write(tree.join(name), "before\n").unwrap();
        set_mode(&tree.join(name), 0o444);
    }
    set_mode(&tree.join("closed/deep"), 0o555);
    set_mode(&tree.join("closed"), 0o555);
    give_to_nobody(home.root());
    as_nobody(&home, &program, &["join", &cloud.ticket(&[])], 0);
    let script = "chmod -R u+w .; echo after > closed/a; rm closed/deep/b; echo after > open
        mkdir closed/new; echo new > closed/new/c; chmod 555 closed/new closed closed/deep
        chmod 444 closed/a open";
    let args = ["handoff", arg(&tree), "--", "sh", "-ec", script];
    let answer = as_nobody(&home, &program, &args, 0);
    let run = run_of(&answer);
    as_nobody(&home, &program, &["run", "wait", run], 0);
    let before = walk(&tree);
    let applied = as_nobody(&home, &program, &["pull", run, "--apply"], 0);
    let taken = ["closed/a", "closed/deep/b", "closed/new", "closed/new/c", "open"];
    assert_eq!(paths(&applied, "applied"), taken);
    assert_eq!(
        (read(&tree, "closed/a"), read(&tree, "closed/new/c")),
        ("after\n".into(), "new\n".into())
    );
    for folder in ["closed", "closed/deep", "closed/new"] {
        let mode = tree.join(folder).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o555, "{folder}");
    }
    as_nobody(&home, &program, &["undo", text(&applied, "undo")], 0);
    assert_eq!(differences(&before, &walk(&tree), &[]), [""; 0]);

    // What is somebody else's stops it before the first write.
    let chown = Command::new("chown").args(["root"]).arg(tree.join("closed")).status();
    assert!(chown.unwrap().success());
    let refused = as_nobody(&home, &program, &["pull", run, "--apply"], 1);
    assert_eq!(refused["error"]["code"], "apply", "{refused}");
    assert_eq!(read(&tree, "open"), "before\n");
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn git(home: &TestHome, tree: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=A", "-c", "user.email=a@b.example"]).args(args);
    command.current_dir(tree).env("HOME", home.root()).env("XDG_CONFIG_HOME", home.root());
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    let done = command.output().unwrap();
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
}

/// What a run does in its repository.
const COMMITS: &str = "git config user.name R; git config user.email r@b.example
    echo there >> theirs.txt; rm gone.txt; git add -A; git commit -qm there
    git tag done; echo staged > staged.txt; git add staged.txt
    sed -i 's/line 9/line 9 there/' both.txt; git add both.txt";

fn committed(home: &TestHome) -> PathBuf {
    let tree = checkout(home);
    git(home, &tree, &["init", "-q", "-b", "main"]);
    git(home, &tree, &["add", "."]);
    git(home, &tree, &["commit", "-qm", "one"]);
    tree
}

#[test]
fn what_a_run_committed_and_staged_comes_into_a_checkout_that_stood_still() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = committed(&home);
    let run = run_to_its_end(&home, &tree, COMMITS);
    let index = || std::fs::read(tree.join(".git/index")).unwrap();
    let before = (index(), git(&home, &tree, &["for-each-ref"]), walk(&tree));
    let planned = home.json(&["pull", &run, "--apply", "--dry-run"]);
    assert_eq!(
        (index(), git(&home, &tree, &["for-each-ref"])),
        (before.0.clone(), before.1.clone())
    );
    assert_eq!(planned["git"]["refs"][0]["action"], "moved");
    let applied = home.json(&["pull", &run, "--apply"]);
    assert_eq!(applied["git"], planned["git"]);
    assert_eq!(text(&applied, "state"), "applied");
    let refs: Vec<_> = list(&applied["git"], "refs")
        .iter()
        .map(|one| (text(one, "name"), text(one, "action"), text(one, "here")))
        .collect();
    let tag = format!("refs/handoff/{}/tags/done", &run[..8]);
    let wanted =
        [("refs/heads/main", "moved", "refs/heads/main"), ("refs/tags/done", "made", tag.as_str())];
    assert_eq!(refs, wanted);
    assert_eq!(git(&home, &tree, &["log", "--format=%s"]), "there\none");
    assert_eq!(git(&home, &tree, &["status", "--porcelain"]), "M  both.txt\nA  staged.txt");
    git(&home, &tree, &["fsck", "--full", "--strict"]);
    let undone = undo_in(&home, &tree);
    assert_eq!(undone["index"], "restored");
    assert_eq!(list(&undone, "refs").len(), 2);
    assert_eq!((index(), git(&home, &tree, &["for-each-ref"])), (before.0, before.1));
    // Objects and reflogs stay.
    let mut found = differences(&before.2, &walk(&tree), &[]);
    found.retain(|one| !one.starts_with(".git/"));
    assert_eq!(found, [""; 0]);
    git(&home, &tree, &["fsck", "--full", "--strict"]);
}

#[test]
fn a_checkout_that_moved_on_keeps_its_branch_and_what_it_staged() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = committed(&home);
    let run = run_to_its_end(&home, &tree, COMMITS);
    std::fs::write(tree.join("mine.txt"), "committed here\n").unwrap();
    git(&home, &tree, &["commit", "-qam", "here"]);
    let text_here = read(&tree, "both.txt").replace("line 1\n", "line 1 here\n");
    std::fs::write(tree.join("both.txt"), text_here).unwrap();
    git(&home, &tree, &["add", "both.txt"]);
    let applied = home.json(&["pull", &run, "--apply"]);
    let branch = format!("handoff/{}", &run[..8]);
    let main = &applied["git"]["refs"][0];
    assert_eq!((text(main, "action"), text(main, "reason")), ("made", "diverged"));
    assert_eq!(text(main, "here"), format!("refs/heads/{branch}"));
    assert_eq!(git(&home, &tree, &["log", "--format=%s"]), "here\none");
    assert_eq!(git(&home, &tree, &["log", "--format=%s", &branch]), "there\none");
    // What it did is staged, with what was staged here.
    let staged = git(&home, &tree, &["diff", "--cached", "--name-status"]);
    assert_eq!(staged, "M\tboth.txt\nD\tgone.txt\nA\tstaged.txt\nM\ttheirs.txt");
    let both = git(&home, &tree, &["show", ":both.txt"]);
    assert!(both.starts_with("line 1 here\n") && both.ends_with("line 9 there"), "{both}");
    assert_eq!(git(&home, &tree, &["diff", "--name-only"]), "");
    git(&home, &tree, &["fsck", "--full", "--strict"]);
    // What was committed since must not be staged to go away again.
    git(&home, &tree, &["commit", "-qm", "both"]);
    let undone = home.json_exit(&["undo", text(&applied, "undo")], 4);
    assert_eq!(undone["index"], "kept");
    assert_eq!(git(&home, &tree, &["log", "--format=%s"]), "both\nhere\none");
    assert_eq!(read(&tree, "both.txt").lines().last(), Some("line 9"));
}

#[test]
fn what_both_staged_otherwise_is_a_conflict_that_leaves_the_branch() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = committed(&home);
    let there = "echo there > clash.txt; git add clash.txt; git checkout -q HEAD -- clash.txt
        echo staged there | git hash-object -w --stdin > .git/oid
        git update-index --cacheinfo 100644,$(cat .git/oid),clash.txt
        git config user.name R; git config user.email r@b.example
        echo more >> theirs.txt; git commit -qm there theirs.txt";
    let run = run_to_its_end(&home, &tree, there);
    // Staged, and taken back in the file.
    let was = read(&tree, "clash.txt");
    std::fs::write(tree.join("clash.txt"), "staged here\n").unwrap();
    git(&home, &tree, &["add", "clash.txt"]);
    std::fs::write(tree.join("clash.txt"), was).unwrap();
    let planned = home.json_exit(&["pull", &run, "--apply", "--dry-run"], 4);
    let applied = home.json_exit(&["pull", &run, "--apply"], 1);
    assert_eq!(applied["git"], planned["git"]);
    let conflict = &list(&applied, "conflicts")[0];
    assert_eq!((text(conflict, "path"), text(conflict, "reason")), ("clash.txt", "staged"));
    assert_eq!(git(&home, &tree, &["show", ":clash.txt"]), "staged here");
    assert_eq!(git(&home, &tree, &["log", "--format=%s"]), "one");
    let main = &applied["git"]["refs"][0];
    assert_eq!((text(main, "action"), text(main, "reason")), ("made", "left"));
    assert_eq!(git(&home, &tree, &["diff", "--cached", "--name-only"]), "clash.txt\ntheirs.txt");
    home.json(&["undo", text(&applied, "undo")]);
    // As git has conflicts, where that is asked for.
    let marked = home.json_exit(&["pull", &run, "--apply", "--conflicts", "markers"], 1);
    assert_eq!(git(&home, &tree, &["ls-files", "-u"]).lines().count(), 3);
    home.json(&["undo", text(&marked, "undo")]);
    assert_eq!(git(&home, &tree, &["show", ":clash.txt"]), "staged here");
    git(&home, &tree, &["fsck", "--full", "--strict"]);
}
