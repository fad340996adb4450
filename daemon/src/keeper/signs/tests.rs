//! What git does, told where nothing else changes.

#![expect(clippy::disallowed_methods, reason = "a test has git and the file system itself")]

use std::process::Command;

use baton_protocol::id::WorkspaceId;
use baton_store::git::summarize;
use baton_store::scan::Progress;

use super::*;
use crate::clock::Clock;
use crate::keeper::{OpenWatch, Watched};
use crate::task::Tasks;
use crate::watch::notify::NotifyWatch;
use crate::watch::{WatchOptions, choose};
use crate::workspace::tests::{git_program, workspaces};
use crate::workspace::{TakeOptions, Taken, Workspaces};

fn try_git(folder: &Path, args: &[&str]) -> std::process::Output {
    Command::new("git")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_EDITOR", "true")
        .args(["-c", "user.name=A B", "-c", "user.email=a@b.example"])
        .args(["-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main"])
        .arg("-C")
        .arg(folder)
        .args(args)
        .output()
        .unwrap()
}

fn git(folder: &Path, args: &[&str]) {
    let output = try_git(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn by_notify(root: &Path, options: &WatchOptions) -> Result<Box<dyn Watch>, WatchError> {
    Ok(Box::new(NotifyWatch::open(root, options)?))
}

struct Place {
    folder: tempfile::TempDir,
    workspaces: Workspaces,
    changed: tokio::sync::broadcast::Receiver<WorkspaceId>,
}

impl Place {
    fn new(open: OpenWatch, max_watches: Option<u64>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (to, changed) = tokio::sync::broadcast::channel(64);
        let options = WatchOptions { max_watches, ..WatchOptions::default() };
        let watching = Watching { tasks: Tasks::new(), changed: to, options, open };
        let workspaces = Workspaces {
            git: git_program(),
            clock: Clock::system(),
            watching: Some(watching),
            ..workspaces(folder.path())
        };
        Self { folder, workspaces, changed }
    }

    /// A repository with two commits, and one from which it can fetch.
    fn repository(&self, name: &str) -> PathBuf {
        let tree = self.folder.path().join(name);
        git(self.folder.path(), &["init", "-q", name]);
        for text in ["one", "two"] {
            std::fs::write(tree.join("file"), text).unwrap();
            git(&tree, &["add", "."]);
            git(&tree, &["commit", "-q", "-m", text]);
        }
        tree
    }

    fn take(&self, tree: &Path) -> Taken {
        self.workspaces.take(tree, &TakeOptions::default(), &Progress::default()).unwrap()
    }

    /// Takes snapshots until nothing is left to look at.
    fn settle(&self, tree: &Path) -> (Taken, std::sync::Arc<Watched>) {
        let mut taken = self.take(tree);
        let watched = self.workspaces.watched(taken.workspace).unwrap();
        for _ in 0..5 {
            if !watched.is_dirty() {
                return (taken, watched);
            }
            taken = self.take(tree);
        }
        panic!("there is always something to look at: {:?}", watched.seen());
    }

    /// Whether somebody who waits is told.
    fn is_told(&mut self, workspace: WorkspaceId) -> bool {
        for _ in 0..1000 {
            match self.changed.try_recv() {
                Ok(told) if told == workspace => return true,
                _ => std::thread::sleep(std::time::Duration::from_millis(10)),
            }
        }
        false
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.workspaces.close();
    }
}

/// Does one thing after another, and expects to be told of each.
fn each_is_told(place: &mut Place, tree: &Path, steps: &[&[&str]]) {
    for step in steps {
        let (before, watched) = place.settle(tree);
        while place.changed.try_recv().is_ok() {}
        git(tree, step);
        assert!(place.is_told(before.workspace), "{step:?} wakes nobody");
        assert!(watched.is_dirty(), "{step:?}");
        assert!(watched.seen().git, "{step:?}");
        let (after, _) = place.settle(tree);
        assert_ne!(after.snapshot.git, before.snapshot.git, "{step:?}");
    }
}

/// What changes no file of the tree.
const QUIET: [&[&str]; 13] = [
    &["commit", "-q", "--allow-empty", "-m", "empty"],
    &["rm", "-q", "--cached", "file"],
    &["add", "file"],
    &["commit", "-q", "--allow-empty", "-m", "again"],
    &["branch", "feature/deep/er"],
    &["branch", "feature/deep/still"],
    &["checkout", "-q", "feature/deep/er"],
    &["commit", "-q", "--allow-empty", "-m", "there"],
    &["tag", "-a", "-m", "of it", "v1"],
    &["fetch", "-q", "../other", "main:refs/remotes/far/main"],
    &["config", "user.name", "C D"],
    &["branch", "-D", "feature/deep/still"],
    &["commit", "-q", "--amend", "-m", "other words", "--allow-empty"],
];

#[test]
fn what_git_does_is_told_where_no_file_changes() {
    for open in [choose::open as OpenWatch, by_notify] {
        let mut place = Place::new(open, None);
        place.repository("other");
        let tree = place.repository("tree");
        each_is_told(&mut place, &tree, &QUIET);
    }
}

#[test]
fn a_linked_worktree_and_a_submodule_are_told_of_too() {
    for open in [choose::open as OpenWatch, by_notify] {
        let mut place = Place::new(open, None);
        place.repository("other");
        let main = place.repository("main");
        let tree = place.folder.path().join("linked");
        git(&main, &["worktree", "add", "-q", "-b", "linked", tree.to_str().unwrap()]);
        each_is_told(&mut place, &tree, &QUIET);
        // What another worktree does to what both share.
        let (before, watched) = place.settle(&tree);
        git(&main, &["branch", "from-there"]);
        assert!(watched.is_dirty());
        assert_ne!(place.settle(&tree).0.snapshot.git, before.snapshot.git);
        assert_eq!(watched.seen().error, None);

        git(&main, &["submodule", "--quiet", "add", "../other", "inner"]);
        git(&main, &["commit", "-q", "-m", "inner"]);
        let (before, watched) = place.settle(&main);
        git(&main.join("inner"), &["commit", "-q", "--allow-empty", "-m", "inside"]);
        assert!(watched.seen().git);
        assert_ne!(place.settle(&main).0.snapshot.git, before.snapshot.git);
    }
}

#[test]
fn a_repository_that_is_another_one_is_followed() {
    for open in [choose::open as OpenWatch, by_notify] {
        let mut place = Place::new(open, None);
        let tree = place.folder.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("file"), "one").unwrap();
        assert_eq!(place.settle(&tree).0.snapshot.git, None);
        for _ in 0..3 {
            git(&tree, &["init", "-q"]);
            git(&tree, &["add", "."]);
            let (taken, watched) = place.settle(&tree);
            let state = summarize(&place.workspaces.vault, taken.snapshot.git.unwrap()).unwrap();
            assert_eq!((state.index_entries, state.head), (1, None));
            each_is_told(&mut place, &tree, &[&["commit", "-q", "-m", "one"]]);
            assert!(!watched.is_dirty());
            std::fs::remove_dir_all(tree.join(".git")).unwrap();
            assert!(watched.is_dirty());
        }
        assert_eq!(place.settle(&tree).0.snapshot.git, None);
    }
}

#[test]
fn who_only_reads_wakes_nobody() {
    for open in [choose::open as OpenWatch, by_notify] {
        let place = Place::new(open, None);
        let tree = place.repository("tree");
        git(&tree, &["status"]);
        let (before, watched) = place.settle(&tree);
        for args in [
            &["--no-optional-locks", "status"][..],
            &["log", "--all", "-p"],
            &["hash-object", "-w", "file"],
            &["fsck"],
            &["count-objects"],
            &["diff"],
        ] {
            git(&tree, args);
            assert!(!watched.is_dirty(), "{args:?}");
        }
        // A lock that comes and goes.
        std::fs::write(tree.join(".git/index.lock"), "").unwrap();
        std::fs::remove_file(tree.join(".git/index.lock")).unwrap();
        assert!(!watched.is_dirty());
        assert_eq!(place.take(&tree).id, before.id);
        assert!(!watched.is_dirty());
    }
}

#[test]
fn the_end_of_what_git_was_at_is_told() {
    let place = Place::new(choose::open, None);
    let tree = place.repository("tree");
    std::fs::write(tree.join(".git/index.lock"), "").unwrap();
    let (taken, watched) = place.settle(&tree);
    assert!(taken.notes.iter().any(|note| note.contains("git is at work")), "{:?}", taken.notes);
    std::fs::remove_file(tree.join(".git/index.lock")).unwrap();
    assert!(watched.is_dirty());
    assert!(place.settle(&tree).0.notes.is_empty());
}

#[test]
fn without_watches_left_it_is_noticed_with_the_next_look() {
    let place = Place::new(choose::open, Some(2));
    let tree = place.repository("tree");
    let (before, watched) = {
        let taken = place.take(&tree);
        (taken.snapshot.git, place.workspaces.watched(taken.workspace).unwrap())
    };
    assert!(watched.seen().coverage.unwrap().note.unwrap().contains("max_user_watches"));
    git(&tree, &["branch", "more"]);
    assert_ne!(place.take(&tree).snapshot.git, before);
}

#[test]
fn the_innermost_folder_counts() {
    let tops = [&b".git"[..], b".git/modules/one", b"in/.git"].map(<[u8]>::to_vec).into();
    let place = |directory: &str| {
        place_in(directory.as_bytes(), &tops)
            .map(|place| String::from_utf8_lossy(place).into_owned())
    };
    assert_eq!(place(".git").as_deref(), Some(""));
    assert_eq!(place(".git/refs/heads").as_deref(), Some("refs/heads"));
    assert_eq!(place(".git/modules/one/refs").as_deref(), Some("refs"));
    assert_eq!(place(".git/modules/on").as_deref(), Some("modules/on"));
    assert_eq!(place("in/.git/info").as_deref(), Some("info"));
    assert_eq!(place("in"), None);
    let outermost = [Vec::new(), b"worktrees/w".to_vec()].into();
    assert_eq!(place_in(b"refs", &outermost), Some(&b"refs"[..]));
    assert_eq!(place_in(b"worktrees/w", &outermost), Some(&b""[..]));
    assert_eq!(place_in(b"worktrees/v", &outermost), Some(&b"worktrees/v"[..]));
}

#[test]
fn where_not_every_name_is_told_there_may_be_a_sign() {
    for (count, is_sign) in [(10, false), (2000, true)] {
        let mut signs = Signs::default();
        signs.inside.insert(b".git".to_vec());
        let mut dirty = Dirty::default();
        for number in 0..count {
            dirty.name(b".git", format!(".of-an-editor-{number}").as_bytes(), Depth::Look);
        }
        assert_eq!(signs.take(&mut dirty), is_sign);
        assert_eq!((signs.stale, dirty.is_empty()), (is_sign, true));
    }
}
