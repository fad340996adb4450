//! Names that could leave the repository that is made from a state, and values that no capture writes.

use super::*;

fn oid(byte: u8) -> GitOid {
    GitOid::new(GitHash::Sha1, &[byte; 20]).unwrap()
}

#[test]
fn refs_that_could_escape_have_no_name() {
    for name in [
        "refs/heads/main",
        "refs/heads/a/b-c.d",
        "refs/stash",
        "refs/notes/commits",
        "refs/bisect/bad",
        "refs/heads/é",
        "ORIG_HEAD",
        "CHERRY_PICK_HEAD",
        "AUTO_MERGE",
    ] {
        assert!(GitRefName::new(name.as_bytes()).is_some(), "{name}");
    }
    for name in [
        "",
        "refs",
        "refs/",
        "/refs/heads/a",
        "refs/../../x",
        "refs/heads/../../config",
        "refs/heads/./a",
        "refs/heads//a",
        "refs/heads/a/",
        "refs/heads/.a",
        "refs/heads/a.lock",
        "refs/heads/a.lock/b",
        "refs/heads/a.",
        "refs/heads/a..b",
        "refs/heads/a@{b",
        "refs/heads/a b",
        "refs/heads/a\n",
        "refs/heads/a\r",
        "refs/heads/a\0",
        "refs/heads/a~1",
        "refs/heads/a^",
        "refs/heads/a:b",
        "refs/heads/a?",
        "refs/heads/a*",
        "refs/heads/a[b",
        "refs/heads/a\\b",
        "HEAD",
        "MERGE_HEAD",
        "config",
        "index",
        "hooks/post-checkout",
        "../x_HEAD",
        "A/B_HEAD",
    ] {
        assert!(GitRefName::new(name.as_bytes()).is_none(), "{name}");
    }
    let long = format!("refs/heads/{}", "x".repeat(256));
    assert!(GitRefName::new(long.as_bytes()).is_none());
}

#[test]
fn submodules_that_could_escape_have_no_name() {
    for name in ["a", "libs/a", "a.b", "a b", "..."] {
        assert!(is_module_name(name.as_bytes()), "{name}");
    }
    for name in [
        "", ".", "..", "../a", "a/../b", "a/..", "/a", "a/", "a//b", "a\\..\\b", ".git", "a/.GIT",
        "git~1", "a\r", "a\nb", "a\0",
    ] {
        assert!(!is_module_name(name.as_bytes()), "{name:?}");
        assert!(unit_path(name.as_bytes()).is_none() || name.contains('\\'), "{name:?}");
    }
}

fn index_of(change: impl FnOnce(&mut GitIndex)) -> Vec<u8> {
    let entry = |path: &str| GitEntry {
        path: path.into(),
        stage: 0,
        mode: GitMode::File,
        assume_valid: false,
        skip_worktree: false,
        intent_to_add: false,
        clean: None,
        oid: oid(1),
    };
    let mut index = GitIndex {
        hash: GitHash::Sha1,
        version: 2,
        sparse: false,
        entries: vec![entry("a"), entry("b")],
        undo: Vec::new(),
    };
    change(&mut index);
    index.encode()
}

#[test]
fn how_many_entries_there_are_is_said_at_the_beginning() {
    for count in [0, 1, 2, 300] {
        let bytes = index_of(|index| {
            let entry = index.entries[0].clone();
            let path = |at: usize| format!("{at:04}").into_bytes();
            index.entries =
                (0..count).map(|at| GitEntry { path: path(at), ..entry.clone() }).collect();
        });
        let size = bytes.len() as u64;
        assert_eq!(GitIndex::count_entries(&bytes[..bytes.len().min(6)], size), Ok(count as u64));
        assert_eq!(GitIndex::decode(&bytes).unwrap().entries.len(), count);
        // More than fit.
        assert_eq!(GitIndex::count_entries(&bytes, 23).is_err(), count > 0);
        assert!(GitIndex::count_entries(&bytes[..3], size).is_err());
    }
}

#[test]
fn entries_that_could_reach_gits_own_folder_are_refused() {
    assert!(GitIndex::decode(&index_of(|_| {})).is_ok());
    for path in [
        "",
        ".git/config",
        ".GIT/x",
        "b/.git/hooks/x",
        "git~1/x",
        ".git.",
        "b/../../x",
        "/b",
        "b/",
        "b//c",
        "b/.",
        ".g\u{200c}it/config",
        "b\0",
    ] {
        let bytes = index_of(|index| index.entries[1].path = path.into());
        assert!(GitIndex::decode(&bytes).is_err(), "{path:?}");
        let undo =
            GitUndo { path: path.into(), stages: [Some((GitMode::File, oid(1))), None, None] };
        assert!(GitIndex::decode(&index_of(|index| index.undo = vec![undo])).is_err(), "{path:?}");
    }
    let with = |change: fn(&mut GitIndex)| GitIndex::decode(&index_of(change)).is_ok();
    assert!(with(|index| index.entries[1].path = b"c/.gitmodules".to_vec()));
    assert!(!with(|index| {
        index.entries[1].path = b"c/.GitModules".to_vec();
        index.entries[1].mode = GitMode::Symlink;
    }));
    let directory = |index: &mut GitIndex| {
        index.entries[1].path = b"c/".to_vec();
        index.entries[1].mode = GitMode::Directory;
    };
    assert!(GitIndex::decode(&index_of(directory)).is_err());
    assert!(
        GitIndex::decode(&index_of(|index| {
            directory(index);
            index.sparse = true;
        }))
        .is_ok()
    );
}

#[test]
fn indexes_that_no_git_writes_are_refused() {
    let refused: [fn(&mut GitIndex); 7] = [
        |index| index.entries.swap(0, 1),
        |index| index.entries[1].path = b"a".to_vec(),
        |index| index.entries[1].oid = GitOid::null(GitHash::Sha1),
        |index| index.version = 1,
        |index| index.version = 5,
        |index| index.undo = vec![GitUndo { path: b"a".to_vec(), stages: [None; 3] }],
        |index| {
            let stages = [Some((GitMode::Directory, oid(1))), None, None];
            index.undo = vec![GitUndo { path: b"a".to_vec(), stages }];
        },
    ];
    for (at, change) in refused.into_iter().enumerate() {
        assert!(GitIndex::decode(&index_of(change)).is_err(), "number {at}");
    }
    assert!(
        GitIndex::decode(&index_of(|index| {
            index.entries[1].path = b"a".to_vec();
            index.entries[1].stage = 3;
        }))
        .is_ok()
    );
}

#[test]
fn counts_that_nothing_could_hold_take_no_memory() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let with = |before: &[u8]| [before, &huge].concat();
    assert!(GitIndex::decode(&with(&[1, 2, 0])).is_err());
    assert!(GitRefs::decode(&with(&[1])).is_err());
    assert!(GitOids::decode(&with(&[2])).is_err());
    assert!(GitSettings::decode(&with(&[])).is_err());
    assert!(GitFiles::decode(&with(&[])).is_err());
    assert!(GitOmissions::decode(&with(&[])).is_err());
}

#[test]
fn settings_that_could_become_two_lines_are_refused() {
    let setting = |section: &str, subsection: Option<&str>, key: &str, value: &str| GitSetting {
        section: section.into(),
        subsection: subsection.map(Into::into),
        key: key.into(),
        value: value.into(),
    };
    assert!(setting("remote", Some("a \"b\" \\"), "url", "x\ny\t\r").is_valid());
    for bad in [
        setting("core]\n[alias", None, "x", ""),
        setting("Core", None, "x", ""),
        setting("core", None, "x = y\nz", ""),
        setting("core", None, "", ""),
        setting("remote", Some("a\"]\n[core"), "url", ""),
        setting("submodule", Some("a\r"), "path", ""),
        setting("core", None, "x", "a\0"),
    ] {
        assert!(!bad.is_valid(), "{bad:?}");
        assert!(GitSettings::decode(&GitSettings(vec![bad]).encode()).is_err());
    }
}
