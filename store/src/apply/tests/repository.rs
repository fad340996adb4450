//! A run's repository brought into that of a checkout, with real git.

use std::path::PathBuf;

use baton_protocol::id::GitStateId;

use super::written::cut_off;
use super::*;
use crate::git::tests::lab::{Kept, Lab};
use crate::git::{
    Arrival, ArrivalOptions, Brought, CaptureOptions, EntryAction, EntryOutcome, GitError,
    RefAction, RefOutcome, arrive, capture,
};
use crate::objects::ObjectSource;

/// A checkout in `work`, which a run was given and has in `away`.
pub(super) struct Bench {
    pub(super) lab: Lab,
    pub(super) base: (GitStateId, Root),
    pub(super) applies: Applies,
}

pub(super) const KINDS: [Kept; 2] = [
    Kept { hash: "sha1", refs: "files", index: "v2" },
    Kept { hash: "sha256", refs: "reftable", index: "v4" },
];

/// What people are told.
#[derive(Debug, Default)]
pub(super) struct Told {
    entries: Vec<EntryAction>,
    refs: Vec<RefAction>,
    pub(super) omitted: Vec<String>,
}

impl Told {
    pub(super) fn entry(&self, path: &str) -> Option<EntryOutcome> {
        self.entries.iter().find(|it| it.path == path.as_bytes()).map(|it| it.outcome)
    }

    /// The name that a ref of the run got, or why it has none.
    pub(super) fn made(&self, name: &str) -> Option<String> {
        let found = self.refs.iter().find(|it| it.name == name.as_bytes())?;
        Some(match &found.outcome {
            RefOutcome::Made { name, why, .. } => {
                format!("{} {why}", String::from_utf8_lossy(name))
            }
            RefOutcome::Moved { .. } => "moved".into(),
            RefOutcome::Kept(why) => (*why).into(),
        })
    }
}

impl Bench {
    /// `prepare` is done before the run gets it.
    pub(super) fn new(kept: Kept, prepare: impl FnOnce(&Lab)) -> Self {
        let lab = Lab::new(kept);
        let lines = (1..=9).map(|line| format!("line {line}\n")).collect::<Vec<_>>().concat();
        for path in ["both", "clash", "deep/file", "gone", "mine", "theirs"] {
            lab.write(path, &lines);
        }
        lab.commit("one");
        prepare(&lab);
        let captured = lab.capture();
        lab.rebuild(&captured, "away");
        lab.configure(&lab.path("away"));
        let base = (captured.id, model(&lab.work()).store(&lab.objects));
        let applies =
            Applies::new(&lab.path("applies")).with_git(Some(Lab::program()), &lab.path("scratch"));
        Self { lab, base, applies }
    }

    /// Does something as the run.
    pub(super) fn away(&mut self, work: impl FnOnce(&Lab)) {
        self.lab.at = "away".into();
        work(&self.lab);
        self.lab.at = "work".into();
    }

    /// What the run left.
    pub(super) fn there(&self) -> (GitStateId, Root) {
        let lab = &self.lab;
        let options = CaptureOptions { base: Some(self.base.0), ..lab.options() };
        let captured = capture(&lab.path("away"), &lab.objects, &options).unwrap();
        (captured.id, model(&lab.path("away")).store(&lab.objects))
    }

    fn plan(&self, root: &Path, there: Root, (only, markers): (&[&str], bool)) -> Plan {
        let here = model(root).store(&self.lab.objects);
        let trees = Trees { base: self.base.1, here, there };
        let options = PlanOptions {
            only: only.iter().map(|path| RelPath::new(path.as_bytes()).unwrap()).collect(),
            markers: markers.then(|| ("here".into(), "there".into())),
            ..PlanOptions::default()
        };
        plan(&self.lab.objects, &trees, &options, &Progress::default()).unwrap()
    }

    /// Applies what a run left to a checkout; the id has this number.
    pub(super) fn apply_to(
        &self,
        root: &Path,
        (there, tree): (GitStateId, Root),
        asked: (&[&str], bool),
        number: u8,
    ) -> Result<(Applied, Told), ApplyError> {
        let plan = self.plan(root, tree, asked);
        let request = request(root, number);
        let (scratch, git) = (self.lab.path("scratch"), Lab::program());
        let (aside, source) = (request.id.to_string(), &self.lab.objects);
        let (arrival, mut omitted) = arrive(
            source,
            ArrivalOptions {
                git: &git,
                scratch: &scratch,
                base: Some(self.base.0),
                there: Some(there),
                checkout: root,
                run: "1a2b",
                aside: Some(&aside),
            },
        )?;
        let only: Vec<_> =
            asked.0.iter().map(|path| RelPath::new(path.as_bytes()).unwrap()).collect();
        let work = arrival.map(|arrival| -> Result<(Arrival<'_>, Brought), GitError> {
            let options = plan.bring_options(&only, asked.1);
            let brought = arrival.plan(&options, MAX_TEXT, merge_entry)?;
            Ok((arrival, brought))
        });
        let work = work.transpose()?;
        let mut told = Told::default();
        if let Some((_, brought)) = &work {
            told.entries.clone_from(&brought.entries);
            told.refs.clone_from(&brought.refs);
            omitted.extend(brought.omitted.iter().cloned());
        }
        told.omitted = omitted.into_iter().map(|it| it.what).collect();
        let progress = Progress::default();
        let applied = self.applies.apply(source, &request, &plan, work, options(), &progress)?;
        Ok((applied, told))
    }

    pub(super) fn apply(&mut self, asked: (&[&str], bool)) -> (Applied, Told) {
        let there = self.there();
        self.apply_to(&self.lab.work(), there, asked, 9).unwrap()
    }

    pub(super) fn undo(&self) -> Undone {
        let id = ApplyId::from_bytes([9; 16]);
        self.applies.undo(&self.lab.objects, id, &self.lab.work()).unwrap()
    }

    pub(super) fn says(&self, at: &str, args: &[&str]) -> String {
        String::from_utf8(self.lab.git_in(&self.lab.path(at), args)).unwrap().trim_end().to_owned()
    }

    pub(super) fn here(&self, args: &[&str]) -> String {
        self.says("work", args)
    }

    /// That the repository is whole, and nothing is left in it.
    pub(super) fn check(&self) {
        self.here(&["fsck", "--full", "--strict"]);
        assert_eq!(leftovers(&self.lab.work()), [""; 0]);
    }
}

/// What an apply would leave in git's folder.
pub(super) fn leftovers(root: &Path) -> Vec<String> {
    let git = root.join(".git");
    let names = |folder: &Path| {
        let names = crate::fs::list_dir(folder).unwrap().into_iter();
        names.map(|name| name.into_string().unwrap()).collect::<Vec<_>>()
    };
    let mut found = names(&git);
    found.extend(names(&git.join("objects")));
    found.retain(|name| name.contains("baton") || name.contains(".lock"));
    found
}

fn packs(root: &Path) -> usize {
    crate::fs::list_dir(&root.join(".git/objects/pack")).unwrap().len()
}

/// The files of a worktree, without git's.
pub(super) fn model(root: &Path) -> Model {
    let mut model = Model::read(root);
    model.0.retain(|path, _| path != b".git" && !path.starts_with(b".git/"));
    // What no snapshot has.
    model.0.retain(|path, _| !path.ends_with(b"not-sealed"));
    model
}

/// The index to the byte, when it was written, and every ref.
fn state(bench: &Bench, at: &str) -> (Vec<u8>, std::time::SystemTime, String, String) {
    let index = bench.lab.path(at).join(".git/index");
    let written = index.metadata().unwrap().modified().unwrap();
    let bytes = std::fs::read(index).unwrap();
    (bytes, written, bench.says(at, &["for-each-ref"]), bench.says(at, &["symbolic-ref", "HEAD"]))
}

pub(super) const ALL: (&[&str], bool) = (&[], false);
const STATUS: [&str; 3] = ["status", "--porcelain=v2", "--branch"];

#[test]
fn what_a_run_committed_and_staged_is_committed_and_staged_here() {
    for kept in KINDS {
        let mut bench = Bench::new(kept, |_| {});
        bench.away(|lab| {
            lab.write("theirs", "theirs\n");
            lab.write("new/file", "new\n");
            lab.remove("gone");
            lab.commit("two");
            lab.write("staged", "staged\n");
            lab.write("mine", "staged, and then edited\n");
            lab.git(&["add", "staged", "mine"]);
            lab.write("mine", "edited\n");
            lab.write("intended", "x\n");
            lab.git(&["add", "-N", "intended"]);
            lab.git(&["update-index", "--assume-unchanged", "both"]);
            lab.write("loose", "loose\n");
        });
        let before = (state(&bench, "work"), model(&bench.lab.work()));
        let (applied, told) = bench.apply(ALL);
        assert!(applied.repository.unwrap().is_changed());
        assert_eq!(told.made("refs/heads/main").as_deref(), Some("moved"));
        for question in [&STATUS[..], &["ls-files", "--stage", "-v"], &["log", "--format=%H"]] {
            assert_eq!(bench.here(question), bench.says("away", question), "{question:?}");
        }
        assert_eq!(bench.here(&["reflog", "-1", "--format=%gs", "main"]), "baton apply 1a2b");
        assert_eq!(bench.here(&["reflog", "-1", "--format=%gs"]), "baton apply 1a2b");
        bench.check();
        // Git need not look into files to say so.
        let debug = bench.here(&["ls-files", "--debug", "theirs"]);
        assert!(debug.contains("size: 7"), "{debug}");
        // Another look at it changes what git knows of files, and not what is undone.
        bench.here(&["status"]);
        let undone = bench.undo();
        assert_eq!((undone.index, undone.kept.len()), (Some(Done::Made), 0));
        assert_eq!(undone.refs, [(b"refs/heads/main".to_vec(), Done::Made)]);
        assert_eq!((state(&bench, "work"), model(&bench.lab.work())), before);
        bench.check();
    }
}

#[test]
fn nothing_done_there_changes_nothing() {
    let mut bench = Bench::new(KINDS[0], |_| {});
    bench.away(|lab| lab.write("loose", "loose\n"));
    let before = state(&bench, "work");
    let (applied, told) = bench.apply(ALL);
    assert_eq!((applied.repository, told.refs.len(), told.entries.len()), (None, 0, 0));
    assert_eq!(state(&bench, "work"), before);
    bench.check();
}

#[test]
fn both_sides_work_is_in_the_index() {
    for markers in [false, true] {
        let mut bench = Bench::new(KINDS[0], |_| {});
        bench.away(|lab| {
            for path in ["both", "clash"] {
                lab.git(&["config", "core.safecrlf", "false"]);
                let text = std::fs::read_to_string(lab.work().join(path)).unwrap();
                lab.write(path, text.replace("line 9", "line 9 there"));
            }
            lab.write("theirs", "theirs\n");
            lab.remove("gone");
            lab.git(&["add", "-A"]);
        });
        let lab = &bench.lab;
        let edit = |path: &str, from: &str, to: &str| {
            let text = std::fs::read_to_string(lab.work().join(path)).unwrap();
            lab.write(path, text.replace(from, to));
        };
        edit("both", "line 1\n", "line 1 here\n");
        edit("clash", "line 9", "line 9 here");
        edit("mine", "line 1", "mine");
        edit("gone", "line 1", "edited");
        lab.git(&["add", "-A"]);
        let clash = bench.here(&["ls-files", "--stage", "clash"]);
        let (_, told) = bench.apply((&[], markers));
        assert_eq!(told.entry("both"), Some(EntryOutcome::Merged));
        assert_eq!(told.entry("theirs"), Some(EntryOutcome::Taken));
        assert_eq!(told.entry("gone"), Some(EntryOutcome::EditedHere));
        assert_eq!(told.entry("mine"), None);
        let both = bench.here(&["show", ":both"]);
        assert!(both.starts_with("line 1 here\n") && both.ends_with("line 9 there"), "{both}");
        assert_eq!(bench.here(&["diff", "--name-only", "both"]), "");
        assert!(bench.here(&["show", ":gone"]).contains("edited"));
        let now = bench.here(&["ls-files", "--stage", "clash"]);
        if markers {
            assert!(matches!(told.entry("clash"), Some(EntryOutcome::Conflict(_))));
            let stages: Vec<_> = now.lines().map(|line| &line[48..49]).collect();
            // The others are in the new conflict.
            assert_eq!(stages, ["1", "2", "3"], "{now}");
            assert!(bench.here(&["status", "--porcelain"]).contains("UU clash"));
        } else {
            assert_eq!(told.entry("clash"), Some(EntryOutcome::FileLeft));
            assert_eq!(now, clash);
        }
        bench.check();
        assert_eq!(bench.undo().index, Some(Done::Made));
        bench.check();
    }
}

#[test]
fn a_branch_that_moved_here_stays_and_what_came_has_names_of_its_own() {
    for kept in KINDS {
        let mut bench = Bench::new(kept, |lab| {
            for branch in ["ahead", "elsewhere", "behind", "deleted-here", "deleted-there"] {
                lab.git(&["branch", branch]);
            }
            lab.git(&["tag", "moved"]);
            lab.write("mine", "stashed before\n");
            lab.git(&["stash", "-q"]);
        });
        bench.away(|lab| {
            lab.write("theirs", "theirs\n");
            lab.commit("there");
            for branch in ["ahead", "elsewhere", "deleted-here", "topic"] {
                lab.git(&["branch", "-f", branch]);
            }
            lab.git(&["branch", "-D", "deleted-there"]);
            lab.git(&["tag", "-f", "moved"]);
            lab.git(&["tag", "-m", "annotated", "new"]);
            lab.write("mine", "stashed there\n");
            lab.git(&["stash", "-q"]);
        });
        let lab = &bench.lab;
        lab.write("mine", "mine\n");
        lab.commit("here");
        lab.git(&["branch", "-D", "deleted-here"]);
        lab.git(&["worktree", "add", "-q", lab.path("other").to_str().unwrap(), "elsewhere"]);
        let before = state(&bench, "work");
        let (_, told) = bench.apply(ALL);
        let there = bench.says("away", &["rev-parse", "main"]);
        let wanted = [
            ("refs/heads/main", "refs/heads/handoff/1a2b diverged"),
            ("refs/heads/ahead", "moved"),
            ("refs/heads/elsewhere", "refs/handoff/1a2b/heads/elsewhere checked-out-elsewhere"),
            ("refs/heads/deleted-here", "refs/handoff/1a2b/heads/deleted-here deleted-here"),
            ("refs/heads/deleted-there", "deleted-there"),
            ("refs/heads/topic", "refs/handoff/1a2b/heads/topic new"),
            ("refs/tags/moved", "refs/handoff/1a2b/tags/moved differs"),
            ("refs/tags/new", "refs/handoff/1a2b/tags/new new"),
            ("refs/stash@{0}", "refs/handoff/1a2b/stash/0 stash"),
        ];
        for (name, made) in wanted {
            assert_eq!(told.made(name).as_deref(), Some(made), "{name}");
        }
        assert_eq!(told.refs.len(), wanted.len(), "{:?}", told.refs);
        for name in ["ahead", "handoff/1a2b", "refs/handoff/1a2b/heads/topic"] {
            assert_eq!(bench.here(&["rev-parse", name]), there, "{name}");
        }
        assert_eq!(bench.here(&["log", "--format=%s", "main"]), "here\none");
        assert_eq!(bench.here(&["stash", "list"]).lines().count(), 1);
        let stashed = bench.here(&["stash", "show", "-p", "refs/handoff/1a2b/stash/0"]);
        assert!(stashed.contains("stashed there"));
        // What it committed is staged here, and nothing of here's is taken back.
        assert_eq!(bench.here(&["diff", "--cached", "--name-only"]), "theirs");
        assert_eq!(bench.here(&["status", "--porcelain"]), "M  theirs");
        bench.check();
        // The same once more makes no ref again.
        let there = bench.there();
        let (again, _) = bench.apply_to(&bench.lab.work(), there, ALL, 8).unwrap();
        assert_eq!(again.repository, None);
        bench.undo();
        assert_eq!(state(&bench, "work"), before);
    }
}

#[test]
fn a_head_on_no_branch_and_a_new_branch_come_as_one_of_their_own() {
    for (how, name) in [
        (&["checkout", "-q", "--detach"][..], "HEAD"),
        (&["checkout", "-q", "-b", "topic"], "refs/heads/topic"),
    ] {
        let mut bench = Bench::new(KINDS[0], |_| {});
        bench.away(|lab| {
            lab.git(how);
            lab.write("theirs", "theirs\n");
            lab.commit("there");
        });
        let (_, told) = bench.apply(ALL);
        let made = told.made(name).unwrap();
        assert!(made.starts_with("refs/heads/handoff/1a2b "), "{made}");
        assert_eq!(told.refs.len(), 1);
        assert_eq!(bench.here(&["log", "--format=%s"]), "one");
        let tip = bench.says("away", &["rev-parse", "HEAD"]);
        assert_eq!(bench.here(&["rev-parse", "handoff/1a2b"]), tip);
        bench.undo();
        assert_eq!(bench.here(&["branch"]), "* main");
    }
}

#[test]
fn a_branch_is_never_moved_back_and_one_that_was_amended_moves() {
    let mut bench = Bench::new(KINDS[0], |lab| {
        lab.write("mine", "two\n");
        lab.commit("two");
        lab.git(&["branch", "back"]);
    });
    bench.away(|lab| {
        lab.git(&["commit", "-q", "--amend", "-m", "two, amended"]);
        lab.git(&["branch", "-f", "back", "HEAD~1"]);
    });
    let (_, told) = bench.apply(ALL);
    assert_eq!(told.made("refs/heads/main").as_deref(), Some("moved"));
    assert_eq!(told.made("refs/heads/back").as_deref(), Some("behind"));
    assert_eq!(bench.here(&["log", "-1", "--format=%s", "back"]), "two");
    assert_eq!(bench.here(&["log", "-1", "--format=%s"]), "two, amended");
    bench.check();
}

#[test]
fn where_something_is_left_the_branch_that_is_checked_out_stays() {
    // A commit here would take back what the run did.
    let mut bench = Bench::new(KINDS[0], |_| {});
    bench.away(|lab| {
        lab.write("clash", "there\n");
        lab.write("theirs", "theirs\n");
        lab.commit("there");
    });
    bench.lab.write("clash", "here\n");
    bench.lab.git(&["add", "clash"]);
    let (_, told) = bench.apply(ALL);
    assert_eq!(told.entry("clash"), Some(EntryOutcome::FileLeft));
    assert_eq!(bench.here(&["log", "--format=%s", "main"]), "one");
    assert_eq!(bench.here(&["log", "--format=%s", "handoff/1a2b"]), "there\none");
    assert_eq!(bench.here(&["show", ":clash"]), "here");
    assert_eq!(bench.here(&["show", ":theirs"]), "theirs");
    bench.check();
    // The same where a file turns out to be another one while it is written.
    let mut bench = Bench::new(KINDS[0], |_| {});
    bench.away(|lab| {
        lab.write("theirs", "theirs\n");
        lab.write("mine", "there\n");
        lab.commit("there");
    });
    let file = bench.lab.work().join("mine");
    let mut done = None;
    let written = crate::apply::crash::meanwhile(
        2,
        move || std::fs::write(file, "written meanwhile\n").unwrap(),
        || done = Some(bench.apply(ALL)),
    );
    assert!(written);
    let (applied, _) = done.unwrap();
    assert!(applied.done.contains(&Done::Changed), "{applied:?}");
    assert_eq!(bench.here(&["log", "--format=%s", "main"]), "one");
    assert_eq!(bench.here(&["log", "--format=%s", "handoff/1a2b"]), "there\none");
    assert_eq!(bench.here(&["show", ":mine"]).lines().next(), Some("line 1"));
    assert_eq!(bench.here(&["show", ":theirs"]), "theirs");
    bench.check();
}

#[test]
fn a_part_moves_no_branch() {
    let mut bench = Bench::new(KINDS[0], |_| {});
    bench.away(|lab| {
        lab.write("theirs", "theirs\n");
        lab.write("deep/file", "deep\n");
        lab.commit("there");
        lab.git(&["tag", "new"]);
    });
    let (_, told) = bench.apply((&["deep"], false));
    assert_eq!(told.made("refs/heads/main").as_deref(), Some("refs/heads/handoff/1a2b a-part"));
    assert_eq!(told.refs.len(), 1);
    assert_eq!(bench.here(&["status", "--porcelain"]), "M  deep/file");
    assert_eq!(bench.here(&["log", "--format=%s"]), "one");
    bench.check();
}

#[test]
fn what_is_refused_leaves_nothing() {
    let mut bench = Bench::new(KINDS[0], |_| {});
    bench.away(|lab| {
        lab.write("theirs", "theirs\n");
        lab.commit("there");
    });
    let there = bench.there();
    let root = bench.lab.work();
    let before = (state(&bench, "work"), model(&root), packs(&root));
    let refused = |why: &dyn Fn(&ApplyError) -> bool| {
        let error = bench.apply_to(&root, there, ALL, 9).unwrap_err();
        assert!(why(&error), "{error:?}");
        std::fs::remove_file(root.join(".git/index.lock")).ok();
        std::fs::remove_file(root.join(".git/refs/heads/main.lock")).ok();
        assert_eq!((state(&bench, "work"), model(&root), packs(&root)), before);
        assert_eq!(leftovers(&root), [""; 0]);
        assert!(bench.applies.list().unwrap().is_empty());
    };
    for lock in ["index.lock", "refs/heads/main.lock"] {
        std::fs::write(root.join(".git").join(lock), "").unwrap();
        refused(&|error| matches!(error, ApplyError::GitBusy { .. }));
    }
    // Git moved the branch while it was prepared: nothing is begun.
    let lab = &bench.lab;
    let commit = lab.says(&["commit-tree", "-m", "meanwhile", "-p", "main", "main^{tree}"]);
    let at = root.join(".git/refs/heads/main");
    let was = std::fs::read(&at).unwrap();
    let mut found = None;
    let moving = at.clone();
    crate::apply::crash::meanwhile(
        3,
        move || std::fs::write(moving, format!("{commit}\n")).unwrap(),
        || found = Some(bench.apply_to(&root, there, ALL, 9).unwrap_err()),
    );
    assert!(matches!(found, Some(ApplyError::GitMoved { .. })), "{found:?}");
    std::fs::write(&at, was).unwrap();
    assert_eq!((state(&bench, "work"), model(&root), packs(&root)), before);
    assert_eq!(leftovers(&root), [""; 0]);
}

#[test]
fn nothing_of_the_repository_is_run() {
    let mut bench = Bench::new(KINDS[0], |_| {});
    bench.away(|lab| {
        lab.write("theirs", "theirs\n");
        lab.write(".gitattributes", "* filter=evil\n");
        lab.commit("there");
    });
    let (root, ran) = (bench.lab.work(), bench.lab.path("ran"));
    let script = bench.lab.path("evil");
    let text = format!("#!/bin/sh\necho \"$0\" >> {}\ncat\n", ran.display());
    crate::fs::write_atomic(&script, text.as_bytes(), 0o755).unwrap();
    let hooks = root.join(".git/hooks");
    crate::fs::create_dir_all(&hooks).unwrap();
    for name in ["reference-transaction", "post-index-change", "post-checkout", "pre-commit"] {
        crate::fs::write_atomic(&hooks.join(name), text.as_bytes(), 0o755).unwrap();
    }
    let evil = script.to_str().unwrap();
    for key in ["core.fsmonitor", "filter.evil.clean", "filter.evil.smudge"] {
        bench.lab.git(&["config", key, evil]);
    }
    crate::fs::remove_file(&ran).unwrap();
    let there = bench.there();
    bench.apply_to(&root, there, ALL, 9).unwrap();
    bench.undo();
    assert!(!ran.exists(), "{}", std::fs::read_to_string(ran).unwrap());
}

#[test]
fn a_ref_that_git_holds_meanwhile_stops_it_and_it_is_gone_on_with() {
    let mut bench = Bench::new(KINDS[0], |_| {});
    bench.away(|lab| {
        lab.write("theirs", "theirs\n");
        lab.commit("there");
    });
    let there = bench.there();
    let root = bench.lab.work();
    let before = state(&bench, "work");
    let lock = root.join(".git/refs/heads/main.lock");
    let (mut stopped, mut step) = (0, 10);
    for after in 10..40 {
        let held = lock.clone();
        let mut ended = None;
        crate::apply::crash::meanwhile(
            after,
            move || std::fs::write(held, "").unwrap(),
            || ended = Some(bench.apply_to(&root, there, ALL, step)),
        );
        let id = ApplyId::from_bytes([step; 16]);
        crate::fs::remove_file(&lock).unwrap();
        if let Some(Err(error)) = ended {
            if matches!(error, ApplyError::GitBusy { .. }) {
                assert_eq!(state(&bench, "work"), before);
                continue;
            }
            assert!(matches!(error, ApplyError::Interrupted { .. }), "{error:?}");
            stopped += 1;
            if stopped == 1 {
                bench.applies.resume(&bench.lab.objects, id, &root).unwrap();
                assert_eq!(bench.here(&["log", "--format=%s"]), "there\none");
            }
        }
        bench.applies.undo(&bench.lab.objects, id, &root).unwrap();
        assert_eq!(state(&bench, "work"), before);
        assert_eq!(leftovers(&root), [""; 0]);
        step += 1;
        if stopped == 2 {
            break;
        }
    }
    assert_eq!(stopped, 2);
}

#[test]
fn what_moved_since_is_left_by_an_undo() {
    let mut bench = Bench::new(KINDS[0], |lab| drop(lab.git(&["branch", "other"])));
    bench.away(|lab| {
        lab.write("theirs", "theirs\n");
        lab.commit("there");
        lab.git(&["branch", "-f", "other"]);
        lab.git(&["branch", "topic"]);
    });
    bench.apply(ALL);
    bench.lab.write("mine", "since\n");
    bench.lab.commit("since");
    let place = bench.lab.path("other-tree");
    bench.lab.git(&["worktree", "add", "-q", place.to_str().unwrap(), "other"]);
    let tip = bench.here(&["rev-parse", "main"]);
    let undone = bench.undo();
    assert_eq!(undone.index, Some(Done::Changed));
    let mut refs = undone.refs.clone();
    refs.sort_by(|a, b| a.0.cmp(&b.0));
    let wanted = [
        ("refs/handoff/1a2b/heads/topic", Done::Made),
        ("refs/heads/main", Done::Changed),
        ("refs/heads/other", Done::Refused),
    ];
    assert_eq!(refs, wanted.map(|(name, done)| (name.as_bytes().to_vec(), done)));
    assert_eq!(bench.here(&["rev-parse", "main"]), tip);
    assert_eq!(bench.here(&["show", ":mine"]), "since");
}

/// Another copy of the checkout.
pub(super) fn copy(bench: &Bench, number: u64) -> (PathBuf, String) {
    let name = format!("copy-{number}");
    let to = bench.lab.path(&name);
    let copied = std::process::Command::new("cp").arg("-a").args([&bench.lab.work(), &to]).status();
    assert!(copied.unwrap().success());
    (to, name)
}

#[test]
fn cut_off_anywhere_the_repository_is_gone_on_with_and_put_back() {
    for (kind, kept) in KINDS.into_iter().enumerate() {
        let mut bench = Bench::new(kept, |lab| drop(lab.git(&["branch", "other"])));
        bench.away(|lab| {
            lab.write("theirs", "theirs\n");
            lab.remove("gone");
            lab.commit("there");
            lab.git(&["tag", "done"]);
            lab.git(&["branch", "-f", "other"]);
            lab.write("staged", "staged\n");
            lab.git(&["add", "staged"]);
        });
        let there = bench.there();
        let questions = [&["ls-files", "--stage", "-v"][..], &["for-each-ref"], &STATUS];
        let answers = |at: &str| questions.map(|question| bench.says(at, question));
        let before = answers("work");
        let (root, name) = copy(&bench, 1000);
        bench.apply_to(&root, there, ALL, 100).unwrap();
        let after = answers(&name);
        assert_ne!(before, after);
        let (mut on_its_way, mut step) = (0, 1);
        for after_writes in (0..).map(|round| round * if kind == 0 { 1 } else { 5 }) {
            let (root, name) = copy(&bench, after_writes);
            let old = state(&bench, &name);
            let is_cut = cut_off(after_writes, || {
                drop(bench.apply_to(&root, there, ALL, step).unwrap());
            });
            let known = bench.applies.list().unwrap();
            let known = known.iter().find(|it| it.record.id == ApplyId::from_bytes([step; 16]));
            let (id, what) = (ApplyId::from_bytes([step; 16]), format!("cut after {after_writes}"));
            let undo = || bench.applies.undo(&bench.lab.objects, id, &root);
            match known.map(|known| known.stage) {
                Some(Stage::Begun) if after_writes % 2 == 0 => {
                    // Put back from where it is, and that is cut off, too.
                    on_its_way += 1;
                    cut_off(after_writes % 23, || drop(undo()));
                    match undo() {
                        Ok(undone) => assert_eq!(undone.kept, [], "{what}"),
                        Err(ApplyError::Undone(_)) => {}
                        Err(error) => panic!("{what}: {error}"),
                    }
                }
                Some(Stage::Begun) => {
                    on_its_way += 1;
                    bench.applies.resume(&bench.lab.objects, id, &root).unwrap();
                    assert_eq!(answers(&name), after, "{what}");
                    assert_eq!(undo().unwrap().index, Some(Done::Made), "{what}");
                }
                Some(Stage::Planned) => {
                    bench.applies.resume(&bench.lab.objects, id, &root).unwrap();
                }
                Some(_) => drop(undo().unwrap()),
                None => {}
            }
            assert_eq!(state(&bench, &name), old, "{what}");
            assert_eq!(answers(&name), before, "{what}");
            assert_eq!(leftovers(&root), [""; 0], "{what}");
            crate::fs::remove_dir_all(&root).unwrap();
            step += 1;
            if !is_cut {
                break;
            }
        }
        assert!(on_its_way > if kind == 0 { 15 } else { 3 }, "{on_its_way}");
    }
}

#[test]
fn objects_that_are_missing_and_other_repositories_are_refused_or_told() {
    let mut bench = Bench::new(KINDS[0], |_| {});
    bench.away(|lab| {
        lab.write("theirs", "theirs\n");
        lab.commit("there");
    });
    let there = bench.there();
    let other = Lab::new(KINDS[1]);
    other.write("x", "x\n");
    other.commit("x");
    let (_, told) = bench.apply_to(&other.work(), there, ALL, 9).unwrap();
    assert!(told.omitted.iter().any(|it| it.contains("in another way")), "{:?}", told.omitted);
    // A state whose packs lack what its refs name.
    let id = baton_protocol::id::ObjectId::from(there.0);
    let bytes = bench.lab.objects.require(&id).unwrap();
    let mut state = baton_protocol::object::GitState::decode(&bytes).unwrap();
    state.packs.clear();
    let kind = baton_protocol::id::ObjectKind::GitState;
    let hash = crate::objects::ObjectSink::put(&bench.lab.objects, kind, &state.encode()).unwrap();
    let lying = (GitStateId::from_bytes(hash.hash), there.1);
    let error = bench.apply_to(&bench.lab.work(), lying, ALL, 7).unwrap_err();
    assert!(matches!(error, ApplyError::Git(GitError::Refused { .. })), "{error:?}");
    assert_eq!(leftovers(&bench.lab.work()), [""; 0]);
}
