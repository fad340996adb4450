//! Git and an apply in one checkout.

use std::path::PathBuf;
use std::process::Command;

use super::written::cut_off;
use super::*;
use crate::apply::testing::{Node, folder};

fn git(home: &Path, at: &Path, args: &[&str]) -> bool {
    let mut git = Command::new("git");
    git.args(args).current_dir(at).env("HOME", home).env("XDG_CONFIG_HOME", home);
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    git.output().unwrap().status.success()
}

/// A repository, or a worktree of one, with the case in it; and its folder in git.
fn repository(top: &Path, here: &Model, is_linked: bool) -> (PathBuf, PathBuf) {
    let (first, root) = (top.join("first"), top.join("tree"));
    let main = if is_linked { &first } else { &root };
    std::fs::create_dir(main).unwrap();
    let commit =
        ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-q", "--allow-empty", "-m", "x"];
    assert!(git(top, main, &["init", "-q"]) && git(top, main, &commit));
    if is_linked {
        assert!(git(top, main, &["worktree", "add", "-q", "--detach", root.to_str().unwrap()]));
    }
    here.write(&root);
    assert!(git(top, &root, &["add", "."]));
    let own = if is_linked { first.join(".git/worktrees/tree") } else { root.join(".git") };
    (root, own)
}

/// Names in git's folder that were not there before.
fn left_in(own: &Path) -> Vec<std::ffi::OsString> {
    let names = crate::fs::list_dir(own).unwrap().into_iter();
    names.filter(|name| name.to_str().unwrap().contains("lock")).collect()
}

#[test]
fn git_waits_until_a_checkout_is_changed_and_a_lock_of_its_own_is_left_alone() {
    let nodes = |text: &str| {
        let file = || Node::File(0o644, text.into());
        let nodes = [("a", file()), ("b", file())];
        Model(nodes.map(|(path, node)| (path.as_bytes().to_vec(), node)).into())
    };
    let case = Case { base: nodes("1"), here: nodes("1"), there: nodes("2") };
    let objects = MemoryObjects::default();
    let plan = case.plan(&objects);
    let (mut refused, mut foreign, mut before_it_was_begun) = (0, 0, 0);
    for is_linked in [false, true] {
        for is_undo in [false, true] {
            for after in 0.. {
                let top = folder();
                let (root, own) = repository(top.path(), &case.here, is_linked);
                let applies = Applies::new(&top.path().join("applies"));
                let request = request(&root, 9);
                let apply = || {
                    let progress = Progress::default();
                    drop(
                        applies
                            .apply(&objects, &request, &plan, None, options(), &progress)
                            .unwrap(),
                    );
                };
                let undo = || applies.undo(&objects, request.id, &root);
                let is_cut = if is_undo {
                    apply();
                    cut_off(after, || drop(undo().unwrap()))
                } else {
                    cut_off(after, apply)
                };
                let lock = own.join("index.lock");
                let known = applies.list().unwrap().pop();
                if is_cut && lock.exists() {
                    let says = std::fs::read_to_string(&lock).unwrap();
                    assert!(says.starts_with(&format!("baton apply {}\n", request.id)), "{says}");
                    if after % 5 == 0 {
                        assert!(!git(top.path(), &root, &["add", "."]));
                        refused += 1;
                    }
                    let is_begun = known.as_ref().is_some_and(|one| one.stage == Stage::Begun);
                    before_it_was_begun += usize::from(!is_begun && !is_undo);
                    if is_begun && after % 2 == 0 {
                        // The user took it away, and git has it now.
                        std::fs::write(&lock, "an index").unwrap();
                        let error = applies.resume(&objects, request.id, &root).unwrap_err();
                        let ApplyError::Interrupted { source, .. } = error else {
                            panic!("nothing is said of what was changed: {error}")
                        };
                        assert!(matches!(*source, ApplyError::GitBusy { .. }), "{source}");
                        undo().unwrap_err();
                        assert_eq!(std::fs::read_to_string(&lock).unwrap(), "an index");
                        std::fs::remove_file(&lock).unwrap();
                        foreign += 1;
                    }
                }
                if known.is_some() {
                    applies.resume(&objects, request.id, &root).unwrap();
                }
                assert_eq!(left_in(&own), [""; 0], "cut after {after}");
                if let Some(known) = applies.list().unwrap().pop()
                    && known.stage == Stage::Applied
                {
                    undo().unwrap();
                }
                let is_as_before = |path: &str| std::fs::read(root.join(path)).unwrap() == b"1";
                assert!(is_as_before("a") && is_as_before("b"), "cut after {after}");
                assert_eq!(left_in(&own), [""; 0], "cut after {after}");
                assert!(git(top.path(), &root, &["add", "."]));
                if !is_cut {
                    break;
                }
            }
        }
    }
    assert!(refused > 3 && foreign > 3 && before_it_was_begun > 0);
}
