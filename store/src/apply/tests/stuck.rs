//! What could stop an apply for good: it is refused before the first write, or an undo ends it.

use super::head::stopped_at_refs;
use super::repository::{ALL, Bench, KINDS, copy, leftovers};
use super::written::cut_off;
use super::*;
use crate::git::{EntryOutcome, GitError};

#[test]
fn a_file_that_a_crash_left_for_the_time_is_in_nobodys_way() {
    let mut bench = Bench::new(KINDS[0], |_| {});
    bench.away(|lab| {
        lab.write("theirs", "theirs\n");
        lab.commit("there");
    });
    bench.lab.write(".git/baton-tick", "");
    bench.lab.write(".git/tick", "");
    bench.apply(ALL);
    assert_eq!(bench.here(&["log", "--format=%s"]), "there\none");
    bench.check();
}

#[test]
fn refs_that_git_must_refuse_are_refused_before_the_first_write() {
    for made in ["a blob", "a tag"] {
        let mut bench = Bench::new(KINDS[0], |lab| drop(lab.git(&["branch", "other"])));
        bench.away(|lab| {
            lab.write("theirs", "theirs\n");
            lab.commit("there");
            lab.git(&["tag", "-m", "annotated", "new"]);
            let name = if made == "a blob" { "HEAD:theirs" } else { "new" };
            let oid = lab.says(&["rev-parse", name]);
            lab.write(".git/refs/heads/other", format!("{}\n", oid.trim()));
        });
        let (there, root) = (bench.there(), bench.lab.work());
        let refs = bench.here(&["for-each-ref"]);
        let error = bench.apply_to(&root, there, ALL, 9).unwrap_err();
        assert!(matches!(error, ApplyError::Git(GitError::Git { .. })), "{made}: {error:?}");
        assert_eq!(bench.here(&["for-each-ref"]), refs);
        assert_eq!(bench.here(&["status", "--porcelain"]), "");
        assert!(bench.applies.list().unwrap().is_empty());
        assert_eq!(leftovers(&root), [""; 0]);
    }
}

#[test]
fn refs_with_names_that_become_too_long_are_told_and_do_not_come() {
    let mut bench = Bench::new(KINDS[0], |_| {});
    let long = format!("refs/tags/{}", vec!["a".repeat(190); 6].join("/"));
    let part = format!("refs/tags/{}", "b".repeat(220));
    bench.away(|lab| {
        lab.write("theirs", "theirs\n");
        lab.commit("there");
        for name in [&long, &part] {
            lab.git(&["update-ref", name, "HEAD"]);
        }
        lab.git(&["tag", "short"]);
    });
    let (_, told) = bench.apply(ALL);
    for name in [&long, &part] {
        assert_eq!(told.made(name).as_deref(), Some("name-too-long"));
    }
    let short = told.made("refs/tags/short");
    assert_eq!(short.as_deref(), Some("refs/handoff/1a2b/tags/short new"));
    assert_eq!(bench.here(&["log", "--format=%s"]), "there\none");
    bench.check();
}

#[test]
fn stashes_that_are_no_commits_are_told_and_do_not_come() {
    let mut bench = Bench::new(KINDS[0], |_| {});
    bench.away(|lab| {
        lab.write("mine", "stashed there\n");
        lab.git(&["stash", "-q"]);
        let log = std::fs::read_to_string(lab.work().join(".git/logs/refs/stash")).unwrap();
        let (tip, blob) =
            (lab.says(&["rev-parse", "stash"]), lab.says(&["rev-parse", "HEAD:both"]));
        lab.write(".git/logs/refs/stash", log.replace(tip.trim(), blob.trim()) + &log);
    });
    let (_, told) = bench.apply(ALL);
    assert_eq!(told.made("refs/stash@{0}").as_deref(), Some("refs/handoff/1a2b/stash/0 stash"));
    assert!(told.omitted.iter().any(|it| it.contains("stashes")), "{:?}", told.omitted);
    bench.check();
}

#[test]
fn objects_that_were_pruned_meanwhile_are_missed_and_an_undo_ends_it() {
    let mut bench = Bench::new(KINDS[0], |_| {});
    bench.away(|lab| {
        lab.write("theirs", "staged\n");
        lab.git(&["add", "theirs"]);
    });
    let (there, mut pruned, mut step) = (bench.there(), 0, 1);
    for after in 0.. {
        let (root, name) = copy(&bench, after);
        let is_cut = cut_off(after, || drop(bench.apply_to(&root, there, ALL, step).unwrap()));
        let id = ApplyId::from_bytes([step; 16]);
        let known = bench.applies.list().unwrap();
        let is_begun = known.iter().any(|it| it.record.id == id && it.stage == Stage::Begun);
        let waits = !leftovers(&root).iter().all(|name| !name.starts_with("tmp_objdir"));
        if is_begun && waits {
            bench.says(&name, &["prune", "--expire=now"]);
            pruned += 1;
            let error = bench.applies.resume(&bench.lab.objects, id, &root).unwrap_err();
            assert!(error.to_string().contains("stopped"), "{error}");
            bench.applies.undo(&bench.lab.objects, id, &root).unwrap();
            assert_eq!(bench.says(&name, &["status", "--porcelain"]), "");
        } else if is_begun {
            bench.applies.resume(&bench.lab.objects, id, &root).unwrap();
        }
        crate::fs::remove_dir_all(&root).unwrap();
        step += 1;
        if !is_cut {
            break;
        }
    }
    assert!(pruned > 0);
}

#[test]
fn what_was_held_back_is_left_in_the_index_also_when_it_is_gone_on_with() {
    let mut bench = Bench::new(KINDS[0], |_| {});
    bench.away(|lab| {
        lab.remove("deep/file");
        std::fs::remove_dir_all(lab.work().join("deep")).ok();
        lab.write("deep", "a file now\n");
        lab.write("theirs", "theirs\n");
        lab.commit("there");
    });
    bench.lab.write("deep/not-sealed", "in no snapshot\n");
    let (there, mut gone_on, mut step) = (bench.there(), 0, 1);
    for after in 0.. {
        let (root, name) = copy(&bench, after);
        let is_cut = cut_off(after, || drop(bench.apply_to(&root, there, ALL, step).unwrap()));
        let id = ApplyId::from_bytes([step; 16]);
        let known = bench.applies.list().unwrap();
        let stage = known.iter().find(|it| it.record.id == id).map(|it| it.stage);
        if stage == Some(Stage::Begun) {
            gone_on += 1;
            bench.applies.resume(&bench.lab.objects, id, &root).unwrap();
        }
        if matches!(stage, Some(Stage::Begun | Stage::Applied)) {
            let what = format!("cut after {after}");
            assert_eq!(bench.says(&name, &["ls-files", "deep"]), "deep/file", "{what}");
            assert_eq!(bench.says(&name, &["show", ":theirs"]), "theirs", "{what}");
            assert_eq!(bench.says(&name, &["log", "--format=%s", "main"]), "one", "{what}");
            let tip = bench.says(&name, &["log", "-1", "--format=%s", "handoff/1a2b"]);
            assert_eq!(tip, "there", "{what}");
        }
        crate::fs::remove_dir_all(&root).unwrap();
        step += 1;
        if !is_cut {
            break;
        }
    }
    assert!(gone_on > 10, "{gone_on}");
}

#[test]
fn objects_of_what_was_cut_off_before_its_record_go_after_a_day() {
    let mut bench = Bench::new(KINDS[0], |_| {});
    bench.away(|lab| {
        lab.write("theirs", "theirs\n");
        lab.commit("there");
    });
    let id = stopped_at_refs(&bench, 100);
    let root = bench.lab.work();
    let unknown = format!("tmp_objdir-baton-{}", ApplyId::from_bytes([3; 16]));
    let known = format!("tmp_objdir-baton-{id}");
    for name in [&unknown, &known] {
        crate::fs::create_dir_all(&root.join(".git/objects").join(name).join("pack")).unwrap();
    }
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    bench.applies.sweep_repository(&root, now).unwrap();
    assert!(leftovers(&root).contains(&unknown));
    bench.applies.sweep_repository(&root, now + 25 * 60 * 60 * 1000).unwrap();
    assert!(!leftovers(&root).contains(&unknown) && leftovers(&root).contains(&known));
}

#[test]
fn without_git_files_go_back_and_the_rest_is_told() {
    let mut bench = Bench::new(KINDS[0], |_| {});
    bench.away(|lab| {
        lab.write("theirs", "theirs\n");
        lab.commit("there");
    });
    let (_, told) = bench.apply(ALL);
    assert_eq!(told.entry("theirs"), Some(EntryOutcome::Taken));
    let without = bench.applies.clone().with_git(None, &bench.lab.path("scratch"));
    let (id, root) = (ApplyId::from_bytes([9; 16]), bench.lab.work());
    let undone = without.undo(&bench.lab.objects, id, &root).unwrap();
    assert_eq!((undone.restored.len(), undone.index), (1, Some(Done::Blocked)));
    assert_eq!(undone.refs, [(b"refs/heads/main".to_vec(), Done::Blocked)]);
    assert!(std::fs::read_to_string(root.join("theirs")).unwrap().starts_with("line 1\n"));
    assert_eq!(bench.here(&["log", "--format=%s"]), "there\none");
}
