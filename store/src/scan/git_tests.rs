//! The scan against git itself: the files of a scan are those that `git ls-files` names.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use baton_protocol::object::EntryKind;

use super::*;
use crate::objects::memory::MemoryObjects;
use crate::snapshot::for_each_entry;

/// A repository in a folder of its own, and a home that is nobody's.
struct Repo {
    dir: tempfile::TempDir,
}

impl Repo {
    fn new() -> Self {
        let repo = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(repo.dir.path().join("home")).unwrap();
        std::fs::create_dir(repo.root()).unwrap();
        repo.git(&["init", "-q"]);
        repo
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn git(&self, args: &[&str]) -> Vec<u8> {
        self.git_in(&self.root(), args)
    }

    fn git_in(&self, folder: &Path, args: &[&str]) -> Vec<u8> {
        let output = self.try_git(folder, args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn try_git(&self, folder: &Path, args: &[&str]) -> std::process::Output {
        Command::new("git")
            .args(args)
            .current_dir(folder)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.dir.path().join("home"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .output()
            .unwrap()
    }

    fn write(&self, path: &str, bytes: &str) {
        let path = self.root().join(path);
        crate::fs::create_dir_all(path.parent().unwrap()).unwrap();
        crate::fs::write_atomic(&path, bytes.as_bytes(), 0o644).unwrap();
    }

    /// What git names that is there.
    fn by_git(&self) -> BTreeSet<String> {
        let listed = self.git(&["ls-files", "-co", "--exclude-standard", "-z"]);
        let names = listed.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        let there = |name: &&[u8]| self.root().join(OsStr::from_bytes(name)).is_file();
        names.filter(there).map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    fn scan(&self, git_user: GitUser) -> (Scanned, BTreeSet<String>, BTreeSet<String>) {
        let objects = MemoryObjects::default();
        let options = ScanOptions { git_user, ..ScanOptions::default() };
        let progress = Progress::default();
        let scanned =
            scan(&self.root(), &StatCache::default(), &objects, &options, &progress).unwrap();
        let (mut files, mut folders) = (BTreeSet::new(), BTreeSet::new());
        let mut left = vec![(String::new(), scanned.root)];
        while let Some((path, tree)) = left.pop() {
            for_each_entry(&objects, tree, |entry| {
                let path = format!("{path}{}", String::from_utf8_lossy(&entry.name));
                if let EntryKind::Directory { tree, .. } = entry.kind {
                    folders.insert(path.clone());
                    left.push((format!("{path}/"), tree));
                } else {
                    files.insert(path);
                }
                Ok::<_, StoreError>(())
            })
            .unwrap();
        }
        (scanned, files, folders)
    }
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn case_is_folded_where_the_repository_says_so() {
    let repo = Repo::new();
    repo.write("a.log", "x");
    repo.write("b.LOG", "x");
    repo.write(".gitignore", "*.Log\n");
    assert_eq!(repo.scan(GitUser::default()).1.len(), 3);
    repo.git(&["config", "core.ignoreCase", "true"]);
    assert_eq!(repo.scan(GitUser::default()).1, names(&[".gitignore"]));
    assert_eq!(repo.by_git(), names(&[".gitignore"]));
}

#[test]
fn tracked_files_stay_and_empty_folders_too() {
    let repo = Repo::new();
    repo.write("ignored/tracked", "x");
    repo.write("ignored/deep/tracked", "x");
    repo.git(&["add", "."]);
    repo.write("ignored/untracked", "x");
    repo.write("ignored/deep/untracked", "x");
    repo.write("out/only", "x");
    repo.write("objects/a.o", "x");
    crate::fs::create_dir_all(&repo.root().join("empty/er")).unwrap();
    crate::fs::create_dir_all(&repo.root().join("ignored/empty")).unwrap();
    repo.write(".gitignore", "ignored/\nout/\n*.o\n");
    let (scanned, files, folders) = repo.scan(GitUser::default());
    assert_eq!(files, names(&[".gitignore", "ignored/deep/tracked", "ignored/tracked"]));
    let expected = ["empty", "empty/er", "ignored", "ignored/deep", "objects"];
    assert_eq!(folders, names(&expected));
    assert_eq!(scanned.omitted.len(), 1);
    repo.write(".batonignore", "deep\nempty/*\n");
    let (_, files, folders) = repo.scan(GitUser::default());
    assert_eq!(files, names(&[".batonignore", ".gitignore", "ignored/tracked"]));
    assert_eq!(folders, names(&["empty", "ignored", "objects"]));
}

#[test]
fn ignored_files_are_brought_back() {
    let repo = Repo::new();
    for path in
        [".env", "sub/.env", "out/.env", "out/keep/a", "out/keep/b.o", "out/other", "lib/x/y"]
    {
        repo.write(path, "x");
    }
    repo.write("lib/x/.gitignore", "y\n");
    repo.write(".gitignore", ".env\nout/\n/lib/\n*.o\n");
    let rules = [".gitignore", ".worktreeinclude"];
    let with = |files: &[&str]| names(&[&rules[..], files].concat());
    let expected: [(&str, &[&str]); 4] = [
        // Inside an ignored directory only a way that is spelled out counts.
        (".env\n", &[".env", "sub/.env"]),
        ("out/keep\n", &["out/keep/a", "out/keep/b.o"]),
        ("out/*\n!out/other\n", &["out/.env", "out/keep/a", "out/keep/b.o"]),
        ("/lib/\n", &["lib/x/y", "lib/x/.gitignore"]),
    ];
    for (lines, files) in expected {
        repo.write(".worktreeinclude", lines);
        assert_eq!(repo.scan(GitUser::default()).1, with(files), "{lines}");
    }
}

#[test]
fn the_users_own_rules_hold_where_they_are_handed_in() {
    let repo = Repo::new();
    for name in ["a", "b", "c"] {
        repo.write(name, "x");
    }
    repo.write("../home/named", "a\n");
    repo.write("../home/.gitconfig", "[core]\n\texcludesFile = ~/named\n");
    repo.write("../home/.config/git/ignore", "b\n");
    let home = repo.dir.path().join("home");
    let default =
        GitUser { excludes_file: Some(home.join(".config/git/ignore")), ..GitUser::default() };
    assert_eq!(repo.scan(default.clone()).1, names(&["a", "c"]));
    let config_files = vec![home.join("absent"), home.join(".gitconfig")];
    let full = GitUser { home: Some(home), config_files, ..default };
    assert_eq!(repo.scan(full.clone()).1, names(&["b", "c"]));
    assert_eq!(repo.scan(full).1, repo.by_git());
    assert_eq!(repo.scan(GitUser::default()).1, names(&["a", "b", "c"]));
}

#[test]
fn a_repository_inside_has_rules_of_its_own() {
    let repo = Repo::new();
    repo.write(".gitignore", "*.o\n/ignored/\n");
    repo.write("inner/a.o", "x");
    repo.write("inner/b", "x");
    repo.write("inner/sub/c", "x");
    repo.git_in(&repo.root().join("inner"), &["init", "-q"]);
    repo.write("inner/.gitignore", "b\n/sub/c\n");
    repo.git_in(&repo.root().join("inner"), &["add", "-f", "b"]);
    repo.write("ignored/x", "x");
    repo.git_in(&repo.root().join("ignored"), &["init", "-q"]);
    let (scanned, files, _) = repo.scan(GitUser::default());
    let expected = [".gitignore", "inner/.gitignore", "inner/a.o", "inner/b"];
    assert_eq!(files, names(&expected));
    assert_eq!(scanned.notes, Vec::<String>::new());
    // A folder that is called `.git` and is no repository changes nothing but its own omission.
    repo.write("plain/.git/x", "x");
    repo.write("plain/y.o", "x");
    let (scanned, files, folders) = repo.scan(GitUser::default());
    assert_eq!(files, names(&expected));
    assert!(folders.contains("plain"));
    assert_eq!(scanned.notes.len(), 1);
}

#[test]
fn every_form_of_repository_is_read() {
    type Form = (&'static [&'static str], &'static [&'static [&'static str]]);
    let forms: [Form; 6] = [
        (&[], &[&["update-index", "--index-version", "4"]]),
        (&[], &[&["update-index", "--split-index"], &["add", "-f", "late.o"]]),
        (&[], &[&["sparse-checkout", "set", "--cone", "--sparse-index", "in"]]),
        (&[], &[&["update-index", "--untracked-cache"], &["config", "index.skipHash", "true"]]),
        (&["--object-format=sha256"], &[]),
        (&["--ref-format=reftable"], &[]),
    ];
    for (init, then) in forms {
        let repo = Repo::new();
        crate::fs::remove_dir_all(&repo.root().join(".git")).unwrap();
        if !repo.try_git(&repo.root(), &[&["init", "-q"], init].concat()).status.success() {
            // A git that does not know this form does not make it either.
            continue;
        }
        for path in ["in/a.o", "out/b.o", "out/c", "top.o"] {
            repo.write(path, "x");
        }
        repo.write(".gitignore", "*.o\n");
        repo.git(&["add", "-f", "."]);
        let name = ["-c", "user.name=n", "-c", "user.email=e"];
        repo.git(&[&name[..], &["commit", "-qm", "one"]].concat());
        repo.write("late.o", "x");
        for args in then {
            repo.git(args);
        }
        repo.write("in/untracked.o", "x");
        repo.write("in/new", "x");
        // A file where a sparse index names only the directory counts as tracked.
        repo.write("out/b.o", "x");
        let (scanned, files, _) = repo.scan(GitUser::default());
        assert_eq!(files, repo.by_git(), "{init:?} {then:?}");
        assert_eq!(scanned.notes, Vec::<String>::new(), "{init:?} {then:?}");
        assert!(files.contains("in/a.o") && !files.contains("in/untracked.o"));
    }
}

#[test]
fn a_linked_worktree_has_its_own_index() {
    let repo = Repo::new();
    repo.write("kept", "x");
    repo.git(&["add", "."]);
    let name = ["-c", "user.name=n", "-c", "user.email=e"];
    repo.git(&[&name[..], &["commit", "-qm", "one"]].concat());
    repo.git(&["worktree", "add", "-q", "../linked"]);
    let linked = repo.dir.path().join("linked");
    crate::fs::write_atomic(&linked.join("kept.o"), b"x", 0o644).unwrap();
    crate::fs::write_atomic(&linked.join(".gitignore"), b"kept*\n", 0o644).unwrap();
    repo.write(".git/info/exclude", ".gitignore\n");
    let objects = MemoryObjects::default();
    let options = ScanOptions::default();
    let progress = Progress::default();
    let scanned = scan(&linked, &StatCache::default(), &objects, &options, &progress).unwrap();
    assert_eq!(scanned.sums.files, 1);
    assert_eq!(scanned.notes, Vec::<String>::new());
}

#[test]
fn a_repository_that_cannot_be_read_keeps_everything_and_says_so() {
    let repo = Repo::new();
    repo.write(".gitignore", "*.o\n");
    repo.write("a.o", "x");
    repo.git(&["add", ".gitignore"]);
    let all = names(&[".gitignore", "a.o"]);
    let index = repo.root().join(".git/index");
    let good = crate::fs::read_if_exists(&index, 1 << 20).unwrap().unwrap();
    assert_eq!(repo.scan(GitUser::default()).1, names(&[".gitignore"]));
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for bad in [&b""[..], b"garbage", &good[..good.len() / 2], &flipped] {
        crate::fs::write_atomic(&index, bad, 0o644).unwrap();
        let (scanned, files, _) = repo.scan(GitUser::default());
        assert_eq!((files, scanned.notes.len()), (all.clone(), 1));
    }
    // A fifo where a file should be must not hang the scan.
    crate::fs::remove_file(&index).unwrap();
    let (cwd, fifo) = (rustix::fs::CWD, rustix::fs::FileType::Fifo);
    rustix::fs::mknodat(cwd, &index, fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let (scanned, files, _) = repo.scan(GitUser::default());
    assert_eq!((files, scanned.notes.len()), (all.clone(), 1));
    crate::fs::remove_dir_all(&repo.root().join(".git")).unwrap();
    assert_eq!(repo.scan(GitUser::default()).1, all);
}
