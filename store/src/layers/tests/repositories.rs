//! Checkouts with git that share layers: git says of each what it says of a plain one.

use super::*;

fn run_git(folder: &Path, args: &[&str]) -> String {
    let mut git = std::process::Command::new("git");
    git.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", folder);
    git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").args([
        "-c",
        "protocol.file.allow=always",
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
    ]);
    let output = git.arg("-C").arg(folder).args(args).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What git says of a repository.
fn told_by_git(at: &Path) -> Vec<String> {
    let commands: [&[&str]; 7] = [
        &["status", "--porcelain=v2", "--branch", "-z"],
        &["diff"],
        &["diff", "--cached"],
        &["ls-files", "--stage", "-v", "-t"],
        &["for-each-ref"],
        &["log", "--all", "--format=raw"],
        &["fsck", "--no-dangling"],
    ];
    commands.iter().map(|args| run_git(at, args)).collect()
}

type Change = Box<dyn Fn(&Path)>;

fn write(at: &Path, name: &str, text: &str) {
    system::write(at.join(name), text).unwrap();
}

/// With git, and an empty repository.
fn ground_with_git() -> Option<(Ground, PathBuf)> {
    let mut ground = Ground::new()?;
    let found = ["/usr/bin/git", "/usr/local/bin/git"].map(PathBuf::from);
    ground.git = Some(GitProgram::new(found.into_iter().find(|path| path.exists()).unwrap()));
    system::create_dir_all(ground.folder.path().join("scratch")).unwrap();
    let plain = ground.folder.path().join("plain");
    system::create_dir_all(&plain).unwrap();
    run_git(&plain, &["init", "-q", "-b", "main"]);
    Some((ground, plain))
}

fn commit(at: &Path, message: &str) {
    run_git(at, &["add", "."]);
    run_git(at, &["commit", "-q", "-m", message]);
}

/// What is sealed of a checkout is what a scan of all of it finds.
fn same_as_a_scan(ground: &Ground, mounted: &Mounted, snapshot: &Snapshot) {
    let sealed = mounted.seal(snapshot, &ground.objects);
    let (root, mode, omitted) = ground.scan(&mounted.at);
    assert_eq!((sealed.root, sealed.root_mode, sealed.omitted), (root, mode, omitted));
}

#[test]
fn a_repository_is_seen_as_it_is_whatever_changed_in_it() {
    let Some((mut ground, plain)) = ground_with_git() else { return };
    system::create_dir_all(plain.join("folder")).unwrap();
    for number in 0..50 {
        system::write(plain.join(format!("folder/file-{number}")), format!("{number}\n")).unwrap();
    }
    run_git(&plain, &["add", "."]);
    run_git(&plain, &["commit", "-q", "-m", "first"]);
    run_git(&plain, &["status"]);
    let changes: Vec<Change> = vec![
        Box::new(|_| {}),
        // An edit makes no other repository: nothing of git is in the layer.
        Box::new(|at| write(at, "folder/file-1", "edited\n")),
        Box::new(|at| drop(run_git(at, &["add", "folder/file-1"]))),
        Box::new(|at| drop(run_git(at, &["commit", "-q", "-m", "second"]))),
        Box::new(|at| drop(run_git(at, &["switch", "-q", "-c", "side", "HEAD~1"]))),
        Box::new(|at| {
            write(at, "folder/file-2", "other\n");
            run_git(at, &["commit", "-q", "-a", "-m", "third"]);
            write(at, "folder/file-3", "more\n");
            run_git(at, &["stash"]);
            run_git(at, &["gc", "-q", "--prune=now"]);
        }),
        Box::new(|at| drop(run_git(at, &["rm", "-q", "-r", "folder"]))),
        Box::new(|at| system::remove_dir_all(at.join(".git")).unwrap()),
    ];
    let mut snapshot: Option<Snapshot> = None;
    for (number, change) in changes.iter().enumerate() {
        change(&plain);
        if !plain.join(".git").exists() {
            ground.git = None;
        }
        let now = ground.snapshot(&plain);
        let mounted = ground.mount(&now, &format!("run-{number}"));
        assert_eq!(ground.scan(&mounted.at).0, now.root, "{number}");
        assert_eq!(mounted.at.join(".git").exists(), plain.join(".git").exists());
        if ground.git.is_some() {
            assert_eq!(told_by_git(&mounted.at), told_by_git(&plain), "{number}");
            let own = mounted.stack.trees[0].join(".git").exists();
            assert_eq!(
                own,
                number != 1 && !(number > 0 && snapshot.as_ref().unwrap().git == now.git),
                "{number}"
            );
            // What a run does there is found, by the rules of git.
            write(&mounted.at, "new.log", "x");
            write(&mounted.at, ".gitignore", "*.log\n");
            run_git(&mounted.at, &["switch", "-q", "-c", "run"]);
            run_git(&mounted.at, &["add", "-f", ".gitignore", "new.log"]);
            run_git(&mounted.at, &["commit", "-q", "-a", "-m", "of the run"]);
            same_as_a_scan(&ground, &mounted, &now);
            // Not tracked any more, and ignored.
            run_git(&mounted.at, &["rm", "-q", "--cached", "new.log"]);
            same_as_a_scan(&ground, &mounted, &now);
            run_git(&mounted.at, &["fsck", "--no-dangling"]);
        }
        snapshot = Some(now);
    }
}

/// A repository with a submodule in `sub` and another repository in `inner`.
fn ground_with_inner() -> Option<(Ground, PathBuf)> {
    let (ground, plain) = ground_with_git()?;
    let source = ground.folder.path().join("source");
    for at in [&source, &plain.join("inner")] {
        system::create_dir_all(at).unwrap();
        run_git(at, &["init", "-q", "-b", "main"]);
        write(at, "file", "of the inner one\n");
        commit(at, "first");
    }
    write(&plain, "file", "of the outer one\n");
    write(&plain, ".git/info/exclude", "*.log\n");
    run_git(&plain, &["add", "file"]);
    run_git(&plain, &["submodule", "--quiet", "add", source.to_str().unwrap(), "sub"]);
    run_git(&plain, &["commit", "-q", "-m", "first"]);
    Some((ground, plain))
}

#[test]
fn repositories_inside_are_seen_as_they_are_in_each_state() {
    let Some((ground, plain)) = ground_with_inner() else { return };
    let changes: Vec<Change> = vec![
        Box::new(|_| {}),
        Box::new(|at| write(at, "file", "edited\n")),
        Box::new(|at| drop(run_git(at, &["commit", "-q", "-a", "-m", "second"]))),
        Box::new(|at| {
            write(&at.join("inner"), "file", "edited\n");
            run_git(&at.join("inner"), &["commit", "-q", "-a", "-m", "second"]);
            write(&at.join("sub"), "file", "edited, not added\n");
        }),
        Box::new(|at| {
            write(&at.join("sub"), "new", "new\n");
            commit(&at.join("sub"), "second");
            run_git(at, &["add", "sub"]);
        }),
        // The one is no repository any more, the other one is not there.
        Box::new(|at| {
            system::remove_dir_all(at.join("inner/.git")).unwrap();
            run_git(at, &["rm", "-q", "-r", "-f", "sub"]);
        }),
        Box::new(|at| drop(run_git(at, &["commit", "-q", "-m", "without"]))),
    ];
    for (number, change) in changes.iter().enumerate() {
        change(&plain);
        let now = ground.snapshot(&plain);
        let mounted = ground.mount(&now, &format!("run-{number}"));
        assert_eq!(ground.scan(&mounted.at), ground.scan(&plain), "{number}");
        // Before git has looked at them, and written what it saw.
        same_as_a_scan(&ground, &mounted, &now);
        for name in ["", "inner", "sub"] {
            let (there, here) = (plain.join(name), mounted.at.join(name));
            assert_eq!(here.join(".git").exists(), there.join(".git").exists(), "{number} {name}");
            if there.join(".git").exists() {
                assert_eq!(told_by_git(&here), told_by_git(&there), "{number} {name}");
            }
        }
        same_as_a_scan(&ground, &mounted, &now);
        // Outside of them only.
        write(&mounted.at, "made", "x\n");
        same_as_a_scan(&ground, &mounted, &now);
        if plain.join("inner/.git").exists() {
            write(&mounted.at.join("inner"), "made", "x\n");
            commit(&mounted.at.join("inner"), "of the run");
            same_as_a_scan(&ground, &mounted, &now);
            let after = ground.snapshot(&mounted.at);
            let units = crate::git::worktrees(&ground.objects, after.git.unwrap()).unwrap();
            assert_eq!(units, [&b""[..], b"inner", b"sub"].map(<[u8]>::to_vec).into());
        }
    }
}

#[test]
fn rules_of_a_submodule_that_a_run_changes_hold() {
    let Some((ground, plain)) = ground_with_inner() else { return };
    for name in ["object.o", "kept.o"] {
        write(&plain.join("sub"), name, "x\n");
    }
    run_git(&plain.join("sub"), &["add", "kept.o"]);
    let now = ground.snapshot(&plain);
    let mounted = ground.mount(&now, "run");
    assert_eq!(ground.scan(&mounted.at).0, now.root);
    write(&mounted.at, ".git/modules/sub/info/exclude", "*.o\n");
    same_as_a_scan(&ground, &mounted, &now);
    assert_ne!(ground.scan(&mounted.at).0, now.root);
    run_git(&mounted.at.join("sub"), &["rm", "-q", "--cached", "kept.o"]);
    same_as_a_scan(&ground, &mounted, &now);
}

#[test]
fn a_file_of_a_filter_is_clean_where_it_is_so_in_the_snapshot() {
    let Some((ground, plain)) = ground_with_git() else { return };
    let content = "the large content\n";
    let stored = ground.folder.path().join("stored");
    system::write(&stored, content).unwrap();
    let clean = "f=$(mktemp) && cat > $f && printf 'version https://git-lfs.github.com/spec/v1\\n\
                 oid sha256:%s\\nsize %s\\n' $(sha256sum < $f | cut -d' ' -f1) $(wc -c < $f) && rm $f";
    run_git(&plain, &["config", "filter.lfs.clean", clean]);
    run_git(&plain, &["config", "filter.lfs.smudge", &format!("cat {}", stored.display())]);
    write(&plain, ".gitattributes", "large filter=lfs\n");
    write(&plain, "large", content);
    commit(&plain, "first");
    assert!(
        run_git(&plain, &["cat-file", "blob", ":large"]).starts_with("version https://git-lfs")
    );
    // What was edited is not remembered to be clean.
    write(&plain, "large", "edited\n");
    ground.stack(&ground.snapshot(&plain), "edited");
    let status = ["status", "--porcelain=v2"];
    run_git(&plain, &["checkout", "-q", "--", "large"]);
    assert_eq!(run_git(&plain, &status), "");
    let now = ground.snapshot(&plain);
    let mounted = ground.mount(&now, "run");
    assert_eq!(ground.scan(&mounted.at).0, now.root);
    assert_eq!(run_git(&mounted.at, &status), "");
    write(&mounted.at, "new", "x\n");
    commit(&mounted.at, "of the run");
    let committed = run_git(&mounted.at, &["cat-file", "blob", "HEAD:large"]);
    assert!(committed.starts_with("version https://git-lfs"), "{committed}");
}

#[test]
fn what_is_staged_in_one_folder_after_another_is_whole() {
    let Some((ground, plain)) = ground_with_git() else { return };
    write(&plain, "file", "x\n");
    commit(&plain, "first");
    for (number, folder) in ["a", "b", "c"].into_iter().enumerate() {
        system::create_dir_all(plain.join(folder)).unwrap();
        write(&plain.join(folder), "file", folder);
        run_git(&plain, &["add", folder]);
        let now = ground.snapshot(&plain);
        let mounted = ground.mount(&now, folder);
        assert_eq!(mounted.stack.layers.len(), number + 1);
        assert_eq!(told_by_git(&mounted.at), told_by_git(&plain), "{folder}");
    }
}

#[test]
fn names_that_are_taken_are_in_no_repositorys_way() {
    let Some((ground, plain)) = ground_with_git() else { return };
    for name in [".baton-before", "git-before-0", "git-before-1"] {
        system::create_dir_all(plain.join(name)).unwrap();
    }
    write(&plain, ".baton-before/file", "x\n");
    symlink("nowhere", plain.join("git-before-2")).unwrap();
    for number in 0..3 {
        write(&plain, "file", &number.to_string());
        commit(&plain, "next");
        let now = ground.snapshot(&plain);
        let mounted = ground.mount(&now, &format!("run-{number}"));
        assert_eq!(ground.scan(&mounted.at).0, now.root);
        assert_eq!(mounted.stack.layers.len(), number + 1);
        assert_eq!(told_by_git(&mounted.at), told_by_git(&plain));
    }
}

#[test]
fn a_resolution_is_looked_at_again_with_other_files() {
    let Some((ground, plain)) = ground_with_git() else { return };
    run_git(&plain, &["config", "rerere.enabled", "true"]);
    write(&plain, "file", "base\n");
    write(&plain, "other", "x\n");
    commit(&plain, "first");
    run_git(&plain, &["switch", "-q", "-c", "side"]);
    write(&plain, "file", "side\n");
    commit(&plain, "side");
    run_git(&plain, &["switch", "-q", "main"]);
    write(&plain, "file", "main\n");
    commit(&plain, "main");
    let merge = std::process::Command::new("git")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .arg("-C")
        .arg(&plain)
        .args(["-c", "user.name=a", "-c", "user.email=a@b", "merge", "-q", "side"])
        .output();
    assert!(!merge.unwrap().status.success());
    assert!(system::metadata(plain.join(".git/MERGE_RR")).unwrap().len() > 0);
    let before = ground.snapshot(&plain);
    ground.stack(&before, "before");
    // The index is as it was.
    write(&plain, "other", "y\n");
    let now = ground.snapshot(&plain);
    let mounted = ground.mount(&now, "run");
    assert!(mounted.stack.trees[0].join(".git").exists());
    assert_eq!(told_by_git(&mounted.at), told_by_git(&plain));
}
