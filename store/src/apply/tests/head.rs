//! Where `HEAD` is after an apply, or a part of one: the next commit takes back nothing that anybody did.

use super::repository::{ALL, Bench, KINDS, copy, leftovers};
use super::written::cut_off;
use super::*;
use crate::git::GitError;
use crate::git::tests::lab::Lab;

/// Stops an apply at the refs, which git holds; its id has this number.
pub(super) fn stopped_at_refs(bench: &Bench, number: u8) -> ApplyId {
    let there = bench.there();
    let root = bench.lab.work();
    let lock = root.join(".git/refs/heads/main.lock");
    for after in 10.. {
        let held = lock.clone();
        let mut ended = None;
        let step = number + after as u8;
        crate::apply::crash::meanwhile(
            after,
            move || std::fs::write(held, "").unwrap(),
            || ended = Some(bench.apply_to(&root, there, ALL, step)),
        );
        crate::fs::remove_file(&lock).unwrap();
        let id = ApplyId::from_bytes([step; 16]);
        match ended.unwrap() {
            Err(ApplyError::GitBusy { .. } | ApplyError::Git(_)) => {}
            Err(ApplyError::Interrupted { .. }) => return id,
            other => panic!("{other:?}"),
        }
    }
    unreachable!("refs are written at last")
}

#[test]
fn a_branch_that_the_run_moved_and_left_does_not_move_under_this_checkout() {
    for leave in [&["switch", "-q", "-c", "wip", "HEAD~1"][..], &["checkout", "-q", "HEAD~1"]] {
        for kept in KINDS {
            let mut bench = Bench::new(kept, |_| {});
            bench.away(|lab| {
                lab.write("theirs", "theirs\n");
                lab.commit("there");
                lab.git(leave);
            });
            let (_, told) = bench.apply(ALL);
            let made = told.made("refs/heads/main");
            let wanted = "refs/handoff/1a2b/heads/main checked-out-here";
            assert_eq!(made.as_deref(), Some(wanted), "{leave:?}");
            assert_eq!(bench.here(&["log", "--format=%s"]), "one");
            assert_eq!(bench.here(&["status", "--porcelain"]), "");
            bench.check();
        }
    }
    // Both have commits of their own, and neither is in the way of the other.
    let mut bench = Bench::new(KINDS[0], |_| {});
    bench.away(|lab| {
        lab.write("theirs", "theirs\n");
        lab.commit("there");
        lab.git(&["switch", "-q", "-c", "topic"]);
        lab.write("clash", "there\n");
        lab.commit("topic");
    });
    bench.lab.write("clash", "here\n");
    bench.lab.git(&["add", "clash"]);
    bench.apply(ALL);
    assert_eq!(bench.here(&["log", "--format=%s", "handoff/1a2b"]), "topic\nthere\none");
    assert_eq!(bench.here(&["log", "--format=%s", "refs/handoff/1a2b/heads/main"]), "there\none");
    assert_eq!(bench.here(&["log", "--format=%s"]), "one");
    bench.check();
}

#[test]
fn handed_over_work_that_was_put_aside_here_keeps_the_branch_and_what_is_still_here_does_not() {
    type Step = fn(&Lab);
    let edit: Step = |lab| lab.write("mine", "handed over\n");
    let stage: Step = |lab| {
        lab.write("mine", "handed over\n");
        lab.git(&["add", "mine"]);
    };
    let add: Step = |lab| lab.write("loose", "handed over\n");
    let more: Step = |lab| {
        let text = std::fs::read_to_string(lab.work().join("mine")).unwrap();
        lab.write("mine", text + "more\n");
    };
    let nothing: Step = |_| {};
    let aside: Step = |lab| drop(lab.git(&["stash", "-q", "-u"]));
    for (prepare, goes_on, here, moves) in [
        (edit, nothing, aside, false),
        (stage, nothing, aside, false),
        (add, nothing, aside, false),
        (edit, more, aside, false),
        (stage, more, aside, false),
        (edit, nothing, nothing, true),
        (stage, nothing, nothing, true),
        (add, nothing, nothing, true),
        (edit, more, nothing, true),
        (stage, more, nothing, true),
    ] {
        let mut bench = Bench::new(KINDS[0], prepare);
        bench.away(|lab| {
            lab.write("theirs", "theirs\n");
            goes_on(lab);
            lab.commit("there");
        });
        here(&bench.lab);
        bench.apply(ALL);
        if moves {
            assert_eq!(bench.here(&["log", "--format=%s"]), "there\none");
            assert_eq!(bench.here(&["status", "--porcelain"]), "");
        } else {
            assert_eq!(bench.here(&["log", "--format=%s"]), "one");
            assert_eq!(bench.here(&["log", "--format=%s", "handoff/1a2b"]), "there\none");
            // What the run did is staged, and nothing is staged to go away.
            assert_eq!(bench.here(&["show", ":theirs"]), "theirs");
            assert_eq!(bench.here(&["diff", "--cached", "--name-only", "--diff-filter=D"]), "");
        }
        bench.check();
    }
}

#[test]
fn what_a_run_takes_back_of_a_commit_that_was_made_here_keeps_the_branch() {
    let mut bench = Bench::new(KINDS[0], |_| {});
    bench.lab.write("mine", "here\n");
    bench.lab.commit("here");
    let (work, tip) = (bench.lab.work(), bench.here(&["rev-parse", "main"]));
    bench.away(|lab| {
        lab.git(&["fetch", "-q", work.to_str().unwrap(), "main"]);
        lab.git(&["merge", "-q", "--ff-only", &tip]);
        lab.git(&["revert", "--no-edit", "HEAD"]);
    });
    bench.apply(ALL);
    assert_eq!(bench.here(&["log", "-1", "--format=%s"]), "here");
    assert_eq!(bench.here(&["log", "-1", "--format=%s", "handoff/1a2b"]), "Revert \"here\"");
    assert_eq!(bench.here(&["diff", "HEAD"]), "");
    bench.check();
}

#[test]
fn work_of_git_between_a_stop_and_going_on_is_seen() {
    type Meanwhile = fn(&Lab);
    let look: Meanwhile = |lab| {
        // The same again is another file, and git's index is written anew.
        let text = std::fs::read(lab.work().join("both")).unwrap();
        crate::fs::write_atomic(&lab.work().join("both"), &text, 0o644).unwrap();
        lab.git(&["update-index", "--force-write-index", "--refresh"]);
    };
    let add: Meanwhile = |lab| {
        lab.write("mine", "meanwhile\n");
        lab.git(&["add", "mine"]);
    };
    let switch: Meanwhile = |lab| drop(lab.git(&["switch", "-q", "-c", "elsewhere"]));
    for (meanwhile, moves) in [(look, true), (add, false), (switch, false)] {
        let mut bench = Bench::new(KINDS[0], |_| {});
        bench.away(|lab| {
            lab.write("theirs", "theirs\n");
            lab.commit("there");
        });
        let id = stopped_at_refs(&bench, 100);
        let root = bench.lab.work();
        assert_eq!(bench.here(&["log", "--format=%s", "main"]), "one");
        meanwhile(&bench.lab);
        bench.applies.resume(&bench.lab.objects, id, &root).unwrap();
        let log = if moves { "there\none" } else { "one" };
        assert_eq!(bench.here(&["log", "--format=%s", "main"]), log);
        assert_eq!(bench.here(&["show", ":theirs"]), "theirs");
        if !moves {
            assert_eq!(bench.here(&["log", "--format=%s", "handoff/1a2b"]), "there\none");
        }
        bench.check();
    }
}

#[test]
fn cut_off_anywhere_the_next_commit_takes_nothing_back() {
    let mut bench = Bench::new(KINDS[0], |_| {});
    bench.away(|lab| {
        lab.write("theirs", "theirs\n");
        lab.commit("there");
    });
    let there = bench.there();
    let (before, tip) =
        (bench.here(&["rev-parse", "main"]), bench.says("away", &["rev-parse", "main"]));
    // A commit of what is staged has what the commit below it has.
    let check = |name: &str, what: &str| {
        let root = bench.lab.path(name);
        std::fs::remove_file(root.join(".git/index.lock")).ok();
        let head = bench.says(name, &["rev-parse", "HEAD"]);
        let staged = bench.says(name, &["diff", "--cached", "--name-only"]);
        assert!(head == before || (head == tip && staged.is_empty()), "{what}: {head} {staged}");
    };
    let (mut step, mut moved) = (1, 0);
    for after in 0.. {
        let (root, name) = copy(&bench, after);
        let is_cut = cut_off(after, || drop(bench.apply_to(&root, there, ALL, step).unwrap()));
        let what = format!("cut after {after}");
        check(&name, &what);
        // Whoever looks on, and takes git's lock away as git says.
        bench.says(&name, &["status"]);
        let id = ApplyId::from_bytes([step; 16]);
        if bench.applies.list().unwrap().iter().any(|known| known.record.id == id) {
            bench.applies.resume(&bench.lab.objects, id, &root).unwrap();
            check(&name, &what);
            let is_moved = bench.says(&name, &["rev-parse", "main"]) == tip;
            moved += usize::from(is_moved);
            if is_moved {
                cut_off(after, || drop(bench.applies.undo(&bench.lab.objects, id, &root)));
                check(&name, &format!("{what}, and put back"));
            }
        }
        crate::fs::remove_dir_all(&root).unwrap();
        step += 1;
        if !is_cut {
            break;
        }
    }
    assert!(moved > 10, "{moved}");
}

#[test]
fn an_undo_leaves_the_index_where_head_stays() {
    type Since = fn(&Lab);
    let switch: Since = |lab| drop(lab.git(&["switch", "-q", "-c", "topic"]));
    let hold: Since = |lab| {
        let place = lab.path("other");
        lab.git(&["worktree", "add", "-q", "-f", place.to_str().unwrap(), "main"]);
    };
    for (since, main) in [(switch, Done::Made), (hold, Done::Refused)] {
        let mut bench = Bench::new(KINDS[0], |_| {});
        bench.away(|lab| {
            lab.write("theirs", "theirs\n");
            lab.commit("there");
        });
        bench.apply(ALL);
        since(&bench.lab);
        let undone = bench.undo();
        assert_eq!(undone.index, Some(Done::Changed));
        assert_eq!(undone.refs, [(b"refs/heads/main".to_vec(), main)]);
        // Nothing is staged to go away.
        assert_eq!(bench.here(&["log", "-1", "--format=%s"]), "there");
        assert_eq!(bench.here(&["diff", "--cached", "--name-only"]), "");
    }
}

#[test]
fn what_git_is_in_the_middle_of_is_refused_there_and_here() {
    type Starts = fn(&Lab);
    let both = |lab: &Lab| {
        lab.git(&["checkout", "-q", "-b", "topic"]);
        lab.write("clash", "topic\n");
        lab.commit("topic");
        lab.git(&["checkout", "-q", "main"]);
        lab.write("clash", "main\n");
        lab.commit("main");
    };
    let merge: Starts = |lab| lab.stops(&["merge", "topic"]);
    let rebase: Starts = |lab| lab.stops(&["rebase", "topic"]);
    let pick: Starts = |lab| lab.stops(&["cherry-pick", "topic"]);
    for kept in KINDS {
        for (starts, operation) in [(merge, "merge"), (rebase, "rebase"), (pick, "cherry-pick")] {
            let mut bench = Bench::new(kept, |_| {});
            bench.away(|lab| {
                both(lab);
                starts(lab);
            });
            let (there, root) = (bench.there(), bench.lab.work());
            let refs = bench.here(&["for-each-ref"]);
            let error = bench.apply_to(&root, there, ALL, 9).unwrap_err();
            let is_said = matches!(&error, ApplyError::Git(GitError::UnderWay { operation: it })
                if *it == operation);
            assert!(is_said, "{error:?}");
            assert_eq!(bench.here(&["status", "--porcelain"]), "");
            assert_eq!(bench.here(&["for-each-ref"]), refs);
            assert_eq!(leftovers(&root), [""; 0]);
            // The other way round.
            let mut bench = Bench::new(kept, both);
            bench.away(|lab| {
                lab.write("theirs", "theirs\n");
                lab.commit("there");
            });
            starts(&bench.lab);
            let there = bench.there();
            let before = bench.here(&["ls-files", "--stage"]);
            let error = bench.apply_to(&bench.lab.work(), there, ALL, 9).unwrap_err();
            let is_busy = matches!(
                error,
                ApplyError::GitBusy { .. } | ApplyError::Git(GitError::AtWork { .. })
            );
            assert!(is_busy, "{error:?}");
            assert_eq!(bench.here(&["ls-files", "--stage"]), before);
        }
    }
}
