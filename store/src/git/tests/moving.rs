//! Repositories that change: while they are captured, and from one capture to the next.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use baton_protocol::id::GitStateId;
use baton_protocol::object::GitPlace;
use baton_protocol::path::RelPath;

use super::lab::{Dice, Kept, Lab, PLAIN, all_kept, copy_files};
use crate::git::place::Repository;
use crate::git::{
    CaptureOptions, Captured, Commands, GitError, Told, capture, load_git_omissions, rebuild, refs,
};
use crate::ignore::GitUser;

fn small(kept: Kept) -> Lab {
    let lab = Lab::new(kept);
    for at in 0..20 {
        lab.write(&format!("d{}/{at}", at % 3), format!("{at}\n"));
    }
    lab.commit("first");
    lab
}

fn after(lab: &Lab, base: &Captured) -> Captured {
    let options = CaptureOptions { base: Some(base.id), ..lab.options() };
    capture(&lab.work(), &lab.objects, &options).unwrap()
}

/// Long enough for a file that was written before to be older than one that is written after.
fn let_the_clock_go_on() {
    std::thread::sleep(Duration::from_millis(30));
}

#[test]
fn a_lock_says_busy_only_while_it_is_young() {
    let lab = small(PLAIN);
    assert!(!lab.capture().state.busy);
    let lock = lab.work().join(".git/index.lock");
    crate::fs::write_atomic(&lock, b"", 0o644).unwrap();
    let busy = lab.capture();
    assert!(busy.state.busy);
    assert!(busy.omitted.iter().any(|it| it.what == "index.lock"));
    let mut options = lab.options();
    options.now += Duration::from_hours(1);
    let old = capture(&lab.work(), &lab.objects, &options).unwrap();
    assert!(!old.state.busy);
    assert_eq!(load_git_omissions(&lab.objects, old.id).unwrap(), old.omitted);
    assert!(old.omitted.iter().any(|it| it.reason.name() == "locked"));
    // What git had finished is the same.
    assert_eq!((old.state.refs, old.state.index), (busy.state.refs, busy.state.index));
}

#[test]
fn a_repository_is_captured_while_git_is_at_work_in_it() {
    let lab = small(PLAIN);
    lab.git(&["branch", "side"]);
    lab.write("d0/new", "on main\n");
    lab.commit("second");
    let done = AtomicBool::new(false);
    let captured: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for branch in ["side", "main"] {
                    lab.git(&["checkout", "-q", branch]);
                    lab.git(&["pack-refs", "--all"]);
                    lab.git(&["update-ref", "refs/heads/moving", branch]);
                }
            }
        });
        let captured = (0..12).map(|_| lab.try_capture()).collect();
        done.store(true, Ordering::Relaxed);
        captured
    });
    for (at, captured) in captured.into_iter().enumerate() {
        let there = format!("there{at}");
        lab.rebuild(&captured.unwrap(), &there);
        lab.git_in(&lab.path(&there), &["fsck", "--strict"]);
    }
}

#[test]
fn an_unchanged_repository_is_the_same_state_and_makes_no_pack() {
    for kept in all_kept() {
        let lab = small(kept);
        let first = lab.capture();
        assert_eq!(first.state.packs.len(), 1, "{kept:?}");
        let second = after(&lab, &first);
        assert_eq!(second.id, first.id, "{kept:?}");
    }
}

#[test]
fn only_what_is_new_is_packed() {
    let lab = Lab::new(PLAIN);
    let mut dice = Dice::new(1);
    for at in 0..200 {
        lab.write(&format!("d{}/{at}", at % 9), dice.text(60));
    }
    lab.commit("first");
    let first = lab.capture();
    lab.write("d1/1", dice.text(3));
    lab.git(&["add", "d1/1"]);
    let staged = after(&lab, &first);
    lab.git(&["commit", "-q", "-m", "second"]);
    let committed = after(&lab, &staged);
    for captured in [&staged, &committed] {
        let sizes: Vec<_> = captured.state.packs.iter().map(|pack| pack.blob.size).collect();
        assert!(sizes[0] > 50_000 && sizes[1..].iter().all(|&size| size < 1500), "{sizes:?}");
    }
    // A switch to what is there already brings nothing.
    lab.git(&["checkout", "-q", "-b", "back", "main~1"]);
    assert_eq!(after(&lab, &committed).state.packs, committed.state.packs);
    lab.git(&["reset", "-q", "--soft", "main"]);
    let soft = after(&lab, &committed);
    assert_eq!(soft.state.packs[0], committed.state.packs[0]);
    lab.rebuild(&soft, "there");
    let question = &["status", "--porcelain=v2", "--branch"];
    assert_eq!(lab.git(question), lab.git_in(&lab.path("there"), question));
}

#[test]
fn packs_stay_few_and_whole_over_many_captures() {
    let lab = small(PLAIN);
    let mut dice = Dice::new(7);
    let mut last = lab.capture();
    let mut most = 0;
    for round in 0..40 {
        match dice.roll(6) {
            0 => {
                lab.write("staged", dice.text(4));
                lab.git(&["add", "staged"]);
            }
            1 => {
                lab.write("d1/1", dice.text(4));
                lab.git(&["stash", "push", "-q"]);
            }
            2 => {
                lab.write("d2/2", dice.text(4));
                lab.git(&["commit", "-q", "-a", "--amend", "-m", &format!("amended {round}")]);
            }
            3 => {
                lab.git(&["reflog", "expire", "--expire=now", "--all"]);
                lab.git(&["gc", "-q", "--prune=now"]);
            }
            _ => {
                lab.write(&format!("d0/{round}"), dice.text(4));
                lab.commit(&format!("round {round}"));
            }
        }
        last = after(&lab, &last);
        most = most.max(last.state.packs.len());
        if round % 8 == 7 {
            let there = format!("there{round}");
            lab.rebuild(&last, &there);
            lab.git_in(&lab.path(&there), &["fsck", "--strict"]);
            for question in [&["status", "--porcelain=v2"][..], &["stash", "list", "-p"]] {
                assert_eq!(lab.git(question), lab.git_in(&lab.path(&there), question));
            }
        }
    }
    assert!((2..12).contains(&most), "{most} packs");
}

/// Nothing is left to look at for git: it neither reads a file again nor writes its index.
#[test]
fn the_first_status_finds_everything_looked_at() {
    for kept in all_kept() {
        let lab = small(kept);
        if kept.index == "sparse" {
            lab.git(&["sparse-checkout", "set", "--cone", "--sparse-index", "d1"]);
        }
        let_the_clock_go_on();
        lab.write("d1/1", "changed\n");
        lab.git(&["add", "d1/1"]);
        let_the_clock_go_on();
        lab.git(&["update-index", "-q", "--force-write-index"]);
        let captured = lab.capture();
        lab.rebuild(&captured, "there");
        let there = lab.path("there");
        assert_eq!(lab.git_in(&there, &["diff-files", "--raw"]), b"", "{kept:?}");
        let index = there.join(".git/index");
        let read = || crate::fs::read_if_exists(&index, 1 << 20).unwrap().unwrap();
        let before = read();
        lab.git_in(&there, &["status"]);
        // An index that is to be split is split by the first one who writes it.
        if kept.index != "split" {
            assert!(read() == before, "{kept:?}: git had to write its index again");
        }
        // The trees that the index says it is made of are those that git would make.
        let hash = match kept.hash {
            "sha1" => gix::hash::Kind::Sha1,
            _ => gix::hash::Kind::Sha256,
        };
        let opened =
            gix::index::File::at(&index, hash, false, gix::index::decode::Options::default())
                .unwrap();
        let written = index.metadata().unwrap().modified().unwrap();
        let written = written.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        for entry in opened.entries().iter().filter(|it| it.stat.size > 0) {
            assert!(u64::from(entry.stat.mtime.secs) < written, "{kept:?}: git looks again");
        }
        let known = opened.tree().unwrap();
        assert!(known.children.iter().any(|child| child.num_entries.is_some()), "{kept:?}");
        lab.git_in(&there, &["commit", "-q", "-m", "x"]);
        lab.git(&["commit", "-q", "-m", "x"]);
        let tree = &["rev-parse", "HEAD^{tree}"];
        assert_eq!(lab.git(tree), lab.git_in(&there, tree), "{kept:?}");
    }
}

#[test]
fn a_file_that_changed_after_it_was_captured_is_not_taken_for_clean() {
    let lab = small(PLAIN);
    let_the_clock_go_on();
    lab.git(&["update-index", "-q", "--force-write-index"]);
    let captured = lab.capture();
    // Another length: the files are of another moment than the repository.
    lab.write("d1/1", "longer than before\n");
    lab.rebuild(&captured, "there");
    let status = lab.git_in(&lab.path("there"), &["status", "--porcelain"]);
    assert_eq!(status, b" M d1/1\n");
}

/// An edit that no length shows: somebody made it while the files were read, or says that there is none.
#[test]
fn an_edit_of_the_same_length_is_not_taken_for_clean() {
    for kept in all_kept() {
        let lab = small(kept);
        std::os::unix::fs::symlink("here", lab.work().join("d0/link")).unwrap();
        lab.commit("with a link");
        let_the_clock_go_on();
        lab.git(&["update-index", "-q", "--force-write-index"]);
        let captured = lab.capture();
        lab.write("d1/1", "7\n");
        lab.remove("d0/link");
        std::os::unix::fs::symlink("evil", lab.work().join("d0/link")).unwrap();
        lab.rebuild(&captured, "there");
        let status = lab.git_in(&lab.path("there"), &["status", "--porcelain"]);
        assert_eq!(status, b" M d0/link\n M d1/1\n", "{kept:?}");
    }
}

/// A writer that never changes a length, while the repository is rebuilt.
#[test]
fn an_edit_during_a_rebuild_is_not_taken_for_clean() {
    let lab = small(PLAIN);
    let_the_clock_go_on();
    lab.git(&["update-index", "-q", "--force-write-index"]);
    let captured = lab.capture();
    for round in 0..8 {
        let there = lab.path(&format!("there{round}"));
        copy_files(&lab.work(), &there);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let file = std::fs::OpenOptions::new().write(true).open(there.join("d1/1"));
                let file = file.unwrap();
                for at in 0u64.. {
                    let byte = [b'2' + (at % 5) as u8];
                    std::os::unix::fs::FileExt::write_at(&file, &byte, 0).unwrap();
                    if done.load(Ordering::Relaxed) && at % 5 == 4 {
                        break;
                    }
                }
            });
            rebuild(&lab.objects, captured.id, &there, &lab.rebuild_options()).unwrap();
            done.store(true, Ordering::Relaxed);
        });
        let status = lab.git_in(&there, &["status", "--porcelain"]);
        assert_eq!(status, b" M d1/1\n", "round {round}");
    }
}

/// Files whose bytes are not those of their objects.
#[test]
fn what_no_filter_has_to_prove_is_clean_without_it() {
    let lab = small(PLAIN);
    let pointer = "#!/bin/sh\ncat > $0.file\nprintf 'version https://git-lfs.github.com/spec/v1\\noid sha256:%s\\nsize %s\\n' \
        $(sha256sum < $0.file | cut -d' ' -f1) $(wc -c < $0.file)\n";
    crate::fs::write_atomic(&lab.path("pointer"), pointer.as_bytes(), 0o755).unwrap();
    let clean = lab.path("pointer").display().to_string();
    lab.git(&["config", "filter.lfs.clean", &clean]);
    lab.git(&["config", "filter.other.clean", "tr a-z A-Z"]);
    lab.write(".gitattributes", "*.lfs filter=lfs\n*.up filter=other\n*.txt eol=crlf\n");
    lab.write("d0/large.lfs", "of some length\n".repeat(50_000));
    lab.write("d0/lines.txt", "one\r\ntwo\r\n".repeat(50_000) + "\r");
    lab.write("d0/other.up", "text\n");
    lab.commit("filters");
    let_the_clock_go_on();
    lab.git(&["update-index", "-q", "--force-write-index"]);
    let captured = lab.capture();
    let mut options = lab.rebuild_options();
    for (at, commands, looked_at) in
        [("all", Commands::All, ""), ("only", Commands::Only([].into()), "d0/other.up")]
    {
        options.commands = commands;
        copy_files(&lab.work(), &lab.path(at));
        rebuild(&lab.objects, captured.id, &lab.path(at), &options).unwrap();
        let names = lab.git_in(&lab.path(at), &["diff-files", "--name-only"]);
        assert_eq!(String::from_utf8(names).unwrap().trim_end(), looked_at, "{at}");
    }
}

#[test]
fn the_user_travels_also_from_a_configuration_of_their_own() {
    let lab = small(PLAIN);
    lab.git(&["config", "--unset", "user.name"]);
    let config = lab.path("gitconfig");
    let text = "[user]\n name = Own Name\n email = other@x\n signingKey = K\n[core]\n autocrlf = input\n pager = evil\n";
    crate::fs::write_atomic(&config, text.as_bytes(), 0o600).unwrap();
    let user = GitUser { config_files: vec![config], ..GitUser::default() };
    let options = CaptureOptions { user, ..lab.options() };
    let captured = capture(&lab.work(), &lab.objects, &options).unwrap();
    lab.rebuild(&captured, "there");
    let listed = lab.git_in(&lab.path("there"), &["config", "--local", "--list"]);
    let listed = String::from_utf8(listed).unwrap();
    for line in ["user.name=Own Name", "user.email=a@b.example", "core.autocrlf=input"] {
        assert!(listed.lines().any(|it| it == line), "{line}: {listed}");
    }
    assert!(
        !listed.contains("pager") && !listed.contains("signing") && !listed.contains("other@x")
    );
}

/// Many keep their configuration elsewhere, and one of another name for each folder of work.
#[test]
fn the_user_of_an_included_configuration_travels() {
    let lab = small(PLAIN);
    lab.git(&["config", "--unset", "user.name"]);
    lab.git(&["config", "--unset", "user.email"]);
    let write = |name: &str, text: &str| {
        crate::fs::write_atomic(&lab.path(name), text.as_bytes(), 0o600).unwrap();
    };
    let work = lab.work().canonicalize().unwrap();
    write(
        "dotfile",
        &format!(
            "[user]\n name = Own\n email = own@x\n[includeIf \"gitdir:{}/\"]\n path = at-work\n\
         [includeIf \"gitdir:/elsewhere/\"]\n path = other\n[includeIf \"onbranch:main\"]\n path = ~/main\n\
         [include]\n path = gone\n",
            work.parent().unwrap().display(),
        ),
    );
    write("at-work", "[user]\n email = work@x\n");
    write("other", "[user]\n email = other@x\n");
    write("home/main", "[user]\n name = Main\n");
    std::os::unix::fs::symlink("dotfile", lab.path("gitconfig")).unwrap();
    let user = GitUser {
        config_files: vec![lab.path("gitconfig")],
        home: Some(lab.path("home")),
        ..GitUser::default()
    };
    let options = CaptureOptions { user, ..lab.options() };
    let captured = capture(&lab.work(), &lab.objects, &options).unwrap();
    lab.rebuild(&captured, "there");
    for (key, value) in [("user.name", "Main\n"), ("user.email", "work@x\n")] {
        assert_eq!(lab.git_in(&lab.path("there"), &["config", key]), value.as_bytes());
    }
}

#[test]
fn a_repository_inside_that_is_no_submodule_travels_too() {
    let mut lab = small(PLAIN);
    lab.at = "work/inner".into();
    lab.init("work/inner");
    lab.write("f", "inner\n");
    lab.commit("inner");
    lab.write("f", "changed\n");
    lab.at = "work".into();
    let nested = vec![RelPath::new(b"inner").unwrap()];
    let options = CaptureOptions { nested, ..lab.options() };
    let captured = capture(&lab.work(), &lab.objects, &options).unwrap();
    assert_eq!(captured.state.units.len(), 1);
    assert_eq!(captured.state.units[0].place, GitPlace::Embedded);
    lab.rebuild(&captured, "there");
    for at in ["", "inner"] {
        let question = &["status", "--porcelain=v2", "--branch"];
        let here = lab.git_in(&lab.work().join(at), question);
        assert_eq!(here, lab.git_in(&lab.path("there").join(at), question));
    }
}

#[test]
fn what_is_missing_is_named_and_the_rest_travels() {
    let lab = small(PLAIN);
    lab.write("staged", "only in the index\n");
    lab.git(&["add", "staged"]);
    let oid = lab.says(&["rev-parse", ":staged"]);
    let object = lab.work().join(".git/objects").join(&oid[..2]).join(&oid[2..]);
    crate::fs::remove_file(&object).unwrap();
    let gone = "1".repeat(40);
    let path = lab.work().join(".git/refs/heads/gone");
    crate::fs::write_atomic(&path, format!("{gone}\n").as_bytes(), 0o644).unwrap();
    let captured = lab.capture();
    for what in ["an object of refs/heads/gone", "an object of the entry staged of the index"] {
        assert!(captured.omitted.iter().any(|it| it.what == what), "{:?}", captured.omitted);
    }
    let rebuilt = lab.rebuild(&captured, "there");
    assert!(rebuilt.omitted.iter().any(|it| it.reason.name() == "missing"));
    let there = lab.path("there");
    assert_eq!(lab.git_in(&there, &["branch", "--format=%(refname)"]), b"refs/heads/main\n");
    assert_eq!(lab.git(&["ls-files", "-s"]), lab.git_in(&there, &["ls-files", "-s"]));
}

/// A ref is either in a file or packed, and while git moves it in both.
#[test]
fn no_ref_is_missing_while_refs_are_packed() {
    let lab = small(PLAIN);
    for at in 0..30 {
        lab.git(&["branch", &format!("b{at}")]);
    }
    let repo = Repository::open(&lab.work(), None).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let other = lab.says(&["commit-tree", "-m", "x", "HEAD^{tree}"]);
                for to in [other.as_str(), "main"] {
                    let moves = (0..30).map(|at| format!("update refs/heads/b{at} {to}\n"));
                    let input = lab.path("input");
                    let moves: String = moves.collect();
                    crate::fs::write_atomic(&input, moves.as_bytes(), 0o600).unwrap();
                    let input = crate::fs::open(&input).unwrap();
                    let mut command = lab.command(&lab.work(), &["update-ref", "--stdin"]);
                    assert!(command.stdin(input).status().unwrap().success());
                    lab.git(&["pack-refs", "--all"]);
                }
            }
        });
        for _ in 0..500 {
            let found = refs::read(&repo, None, &mut Told::default()).unwrap().refs.len();
            if found != 31 {
                done.store(true, Ordering::Relaxed);
            }
            assert_eq!(found, 31);
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// What is left of a repository whose disk was damaged.
#[test]
fn a_branch_without_its_commit_is_no_unborn_one() {
    let lab = small(PLAIN);
    let oid = lab.says(&["rev-parse", "HEAD"]);
    let object = lab.work().join(".git/objects").join(&oid[..2]).join(&oid[2..]);
    crate::fs::remove_file(&object).unwrap();
    assert!(matches!(lab.try_capture(), Err(GitError::Damaged { .. })));
}

#[test]
fn history_that_only_a_reflog_names_may_be_broken() {
    let lab = small(PLAIN);
    for at in 0..2 {
        lab.write("d0/0", format!("amended {at}\n"));
        lab.commit(&format!("amended {at}"));
    }
    let gone = lab.says(&["rev-parse", "HEAD~1"]);
    lab.git(&["reset", "-q", "--hard", "HEAD~2"]);
    // The first of two that only the reflog names: the second one is there, but not its parent.
    let object = lab.work().join(".git/objects").join(&gone[..2]).join(&gone[2..]);
    crate::fs::remove_file(&object).unwrap();
    let captured = lab.capture();
    assert!(captured.omitted.iter().any(|it| it.what.contains("logs/HEAD")));
    lab.rebuild(&captured, "there");
    lab.git_in(&lab.path("there"), &["fsck", "--strict"]);
    // A base that is gone is no reason to fail.
    let options = CaptureOptions { base: Some(GitStateId::of(b"gone")), ..lab.options() };
    capture(&lab.work(), &lab.objects, &options).unwrap();
}

#[test]
fn what_of_a_reflog_does_not_travel_is_named() {
    for kept in all_kept().into_iter().filter(|kept| kept.index == "v2") {
        let lab = small(kept);
        for _ in 0..110 {
            lab.git(&["checkout", "-q", "--detach"]);
            lab.git(&["checkout", "-q", "main"]);
        }
        crate::fs::write_atomic(&lab.work().join(".git/FETCH_HEAD"), b"x\n", 0o600).unwrap();
        let captured = lab.capture();
        let rebuilt = lab.rebuild(&captured, "there");
        for what in ["logs/HEAD before its last 200 lines", "FETCH_HEAD"] {
            assert!(captured.omitted.iter().any(|it| it.what == what), "{kept:?}: {what}");
        }
        // Though no commit of all those lines is another one than before.
        let question = &["reflog", "-20", "--format=%H %gs %gn %ge"];
        assert_eq!(lab.git(question), lab.git_in(&lab.path("there"), question), "{kept:?}");
        let lines = lab.git_in(&lab.path("there"), &["reflog"]);
        let lines = lines.split(|&byte| byte == b'\n').count() - 1;
        let names =
            rebuilt.omitted.iter().any(|it| it.what.starts_with("logs/HEAD before its last 20 "));
        match kept.refs {
            "files" => assert_eq!((lines, names), (200, false)),
            _ => assert_eq!((lines, names), (20, true)),
        }
    }
}

#[test]
fn history_that_was_cut_and_comes_later_travels_later() {
    let lab = small(PLAIN);
    for at in 0..5 {
        lab.write("d0/0", format!("number {at}\n"));
        lab.commit(&format!("number {at}"));
    }
    let url = format!("file://{}", lab.work().display());
    for (at, args, more) in [
        ("shallow", &["--depth=2"][..], &["fetch", "-q", "--unshallow"][..]),
        ("partial", &["--filter=blob:none"], &["checkout", "-q", "HEAD~3"]),
    ] {
        lab.git(&["config", "uploadpack.allowFilter", "true"]);
        lab.git(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
        let clone = [&["clone", "-q"], args, &[url.as_str(), at]].concat();
        lab.git_in(&lab.path(""), &clone);
        let path = lab.path(at);
        let first = capture(&path, &lab.objects, &lab.options()).unwrap();
        lab.git_in(&path, more);
        let options = CaptureOptions { base: Some(first.id), ..lab.options() };
        let second = capture(&path, &lab.objects, &options).unwrap();
        let there = lab.path(&format!("{at}-there"));
        copy_files(&path, &there);
        rebuild(&lab.objects, second.id, &there, &lab.rebuild_options()).unwrap();
        lab.git_in(&there, &["fsck", "--strict"]);
        // Nothing may be asked of where it came from.
        lab.git_in(&there, &["config", "remote.origin.url", "/nowhere"]);
        lab.git_in(&path, &["config", "remote.origin.url", "/nowhere"]);
        crate::fs::write_atomic(&there.join("d0/0"), b"changed\n", 0o644).unwrap();
        crate::fs::write_atomic(&path.join("d0/0"), b"changed\n", 0o644).unwrap();
        for question in [&["diff"][..], &["log", "--format=raw"], &["status", "--porcelain=v2"]] {
            assert_eq!(lab.git_in(&path, question), lab.git_in(&there, question), "{at}");
        }
    }
}

/// Either all of the repositories are in their places, or none.
#[test]
fn a_rebuild_that_fails_late_leaves_nothing() {
    let lab = small(PLAIN);
    for inner in ["d0/inner", "d1/inner"] {
        let path = lab.work().join(inner);
        lab.init(&format!("work/{inner}"));
        crate::fs::write_atomic(&path.join("f"), b"x", 0o644).unwrap();
        lab.git_in(&path, &["add", "f"]);
        lab.git_in(&path, &["commit", "-q", "-m", "inner"]);
    }
    let nested = ["d0/inner", "d1/inner"].map(|path| RelPath::new(path.as_bytes()).unwrap());
    let options = CaptureOptions { nested: nested.to_vec(), ..lab.options() };
    let captured = capture(&lab.work(), &lab.objects, &options).unwrap();
    let there = lab.path("there");
    copy_files(&lab.work(), &there);
    let blocked = there.join("d1/inner/.git");
    crate::fs::write_atomic(&blocked, b"of the user", 0o644).unwrap();
    let refused = rebuild(&lab.objects, captured.id, &there, &lab.rebuild_options());
    assert!(refused.is_err());
    assert!(!there.join(".git").exists() && !there.join("d0/inner/.git").exists());
    assert_eq!(crate::fs::read_if_exists(&blocked, 99).unwrap().unwrap(), b"of the user");
    assert!(std::fs::read_dir(lab.path("scratch")).unwrap().next().is_none());
    crate::fs::remove_file(&blocked).unwrap();
    rebuild(&lab.objects, captured.id, &there, &lab.rebuild_options()).unwrap();
    lab.git_in(&there.join("d0/inner"), &["fsck", "--strict"]);
}

/// Every file of a repository with its length and time.
fn looks(folder: &std::path::Path, found: &mut Vec<(std::path::PathBuf, u64, i64, i64)>) {
    use std::os::unix::fs::MetadataExt;
    for entry in std::fs::read_dir(folder).unwrap() {
        let (path, metadata) = entry.map(|it| (it.path(), it.metadata().unwrap())).unwrap();
        found.push((path.clone(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
        if metadata.is_dir() {
            looks(&path, found);
        }
    }
    found.sort();
}

#[test]
fn capturing_writes_nothing_into_a_repository() {
    for kept in all_kept() {
        let lab = small(kept);
        lab.write("d0/0", "staged\n");
        lab.git(&["add", "d0/0"]);
        lab.write("d1/1", "changed\n");
        let [mut before, mut after] = [Vec::new(), Vec::new()];
        looks(&lab.work(), &mut before);
        lab.capture();
        looks(&lab.work(), &mut after);
        assert_eq!(before, after, "{kept:?}");
    }
}

#[test]
fn nothing_is_left_behind() {
    let lab = small(PLAIN);
    let captured = lab.capture();
    lab.rebuild(&captured, "there");
    let names = |at: &str| {
        let mut names: Vec<_> =
            std::fs::read_dir(lab.path(at)).unwrap().map(|it| it.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("scratch"), [""; 0]);
    assert_eq!(names("there"), [".git", "d0", "d1", "d2"]);
}

/// Every commit is captured by itself, as in the background.
#[test]
fn packs_stay_few_and_what_is_sent_stays_small_however_many_commits_come_one_by_one() {
    let lab = small(PLAIN);
    let mut dice = Dice::new(3);
    let mut bytes = |count: usize| (0..count).map(|_| dice.roll(256) as u8).collect::<Vec<u8>>();
    lab.write("large", bytes(400_000));
    lab.commit("large");
    let mut last = lab.capture();
    let first = last.state.packs[0];
    let (mut written, mut most) = (0, 0);
    for at in 0..COMMITS {
        lab.write("d0/0", bytes(1000));
        lab.commit(&format!("number {at}"));
        let next = after(&lab, &last);
        let new = next.state.packs.iter().filter(|pack| !last.state.packs.contains(pack));
        let new: Vec<_> = new.map(|pack| pack.blob.size).collect();
        assert_eq!(new.len(), 1);
        written += new[0];
        most = most.max(next.state.packs.len());
        last = next;
    }
    // What was there before is not sent again.
    assert_eq!(last.state.packs[0], first);
    assert!(most <= 9, "{most} packs");
    // Each commit about once for each time that their number doubled.
    let all: u64 = last.state.packs[1..].iter().map(|pack| pack.blob.size).sum();
    let doublings = u64::from(COMMITS.ilog2()) + 1;
    assert!(written <= all * doublings, "{written} of {all}");
    lab.rebuild(&last, "there");
    lab.git_in(&lab.path("there"), &["fsck", "--strict"]);
    println!("{COMMITS} commits: at most {most} packs, {written} bytes written for {all}");
}

const COMMITS: u32 = 100;
