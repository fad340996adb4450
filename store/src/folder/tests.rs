//! Nothing leaves the folder, and what comes into it comes whole.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;

use super::*;

fn rel(path: &str) -> RelPath {
    RelPath::new(path.as_bytes()).unwrap()
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write_atomic(path, bytes, 0o600).unwrap();
}

fn read(path: &Path) -> Option<Vec<u8>> {
    fs::read_if_exists(path, 1 << 20).unwrap()
}

#[test]
fn links_and_special_files_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    write(&outside.join("secret"), b"secret");
    let top = dir.path().join("top");
    write(&top.join("a/file"), b"text");
    symlink(outside.join("secret"), top.join("a/link")).unwrap();
    symlink(&outside, top.join("linked")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        top.join("a/pipe"),
        FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .unwrap();
    let folder = Folder::open(&top).unwrap().unwrap();
    assert!(folder.file(&rel("a/file")).unwrap().is_some());
    assert!(folder.file(&rel("a/none")).unwrap().is_none());
    assert!(folder.file(&rel("none/none")).unwrap().is_none());
    for not in ["a/link", "a/pipe", "a"] {
        let error = folder.file(&rel(not)).unwrap_err();
        assert!(matches!(error, FolderError::NotRegular { .. }), "{not}: {error}");
    }
    for not in ["linked/secret", "a/file/x"] {
        let error = folder.file(&rel(not)).unwrap_err();
        assert!(matches!(error, FolderError::NotDirectory { .. }), "{not}: {error}");
    }
    assert!(folder.list(&rel("linked")).is_err());
    assert!(folder.list(&rel("none")).unwrap().is_empty());
    let listed = folder.list(&rel("a")).unwrap();
    let kinds: Vec<_> = listed.iter().map(|(_, kind)| *kind).collect();
    assert_eq!(kinds, [Kind::File, Kind::Other, Kind::Other]);
    assert!(Folder::open(&dir.path().join("none")).unwrap().is_none());

    let mut stage = folder.stage().unwrap();
    let (number, _) = stage.create().unwrap();
    for not in ["linked/new", "a/link/new", "a/file/new"] {
        let error = stage.place(number, &rel(not)).unwrap_err();
        assert!(matches!(error, FolderError::NotDirectory { .. }), "{not}: {error}");
    }
    drop(stage);
    assert_eq!(fs::list_dir(&outside).unwrap(), ["secret"]);
    assert_eq!(fs::list_dir(&top).unwrap(), ["a", "linked"]);
}

#[test]
fn files_come_together_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("there"), b"theirs");
    write(&dir.path().join("old"), b"old");
    let folder = Folder::open(dir.path()).unwrap().unwrap();
    let fill = |stage: &mut Stage<'_>, bytes: &[u8]| {
        let (number, mut file) = stage.create().unwrap();
        file.write_all(bytes).unwrap();
        number
    };
    for finishes in [false, true] {
        let mut stage = folder.stage().unwrap();
        let [a, b, c] = [b"a", b"b", b"c"].map(|bytes| fill(&mut stage, bytes));
        assert_eq!(stage.place(a, &rel("new/deep/a")).unwrap(), Placed::Done);
        assert_eq!(stage.place(b, &rel("there")).unwrap(), Placed::Occupied);
        let seen = folder.file(&rel("old")).unwrap().unwrap();
        let seen = Seen::new(&seen, 3).unwrap();
        assert_eq!(stage.replace(c, &rel("old"), seen).unwrap(), Placed::Done);
        assert_eq!(read(&dir.path().join("old")).unwrap(), b"c");
        if finishes {
            stage.finish().unwrap();
        } else {
            drop(stage);
            assert_eq!(read(&dir.path().join("new/deep/a")), None);
            assert_eq!(read(&dir.path().join("old")).unwrap(), b"old");
        }
    }
    assert_eq!(read(&dir.path().join("new/deep/a")).unwrap(), b"a");
    assert_eq!(read(&dir.path().join("old")).unwrap(), b"c");
    assert_eq!(read(&dir.path().join("there")).unwrap(), b"theirs");
    assert_eq!(fs::list_dir(dir.path()).unwrap(), ["new", "old", "there"]);
}

#[test]
fn a_file_that_has_changed_since_it_was_seen_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    write(&path, b"one\n");
    let folder = Folder::open(dir.path()).unwrap().unwrap();
    let seen = Seen::new(&folder.file(&rel("log")).unwrap().unwrap(), 4).unwrap();
    let mut stage = folder.stage().unwrap();
    let (number, _) = stage.create().unwrap();
    // Somebody appends.
    fs::open_append(&path).unwrap().write_all(b"two\n").unwrap();
    assert_eq!(stage.replace(number, &rel("log"), seen).unwrap(), Placed::Occupied);
    assert_eq!(read(&path).unwrap(), b"one\ntwo\n");
    // Somebody replaces it, with as many bytes.
    write(&path, b"new\n");
    assert_eq!(stage.replace(number, &rel("log"), seen).unwrap(), Placed::Occupied);
    stage.finish().unwrap();
    let mut text = String::new();
    folder.file(&rel("log")).unwrap().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "new\n");
}

#[test]
fn many_files_take_few_descriptors() {
    let open = || fs::list_dir(Path::new("/proc/self/fd")).unwrap().len();
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).unwrap().unwrap();
    for finishes in [false, true] {
        let mut stage = folder.stage().unwrap();
        let before = open();
        for at in 0..600 {
            let (number, _) = stage.create().unwrap();
            let place = rel(&format!("{}/{at}", at % 300));
            assert_eq!(stage.place(number, &place).unwrap(), Placed::Done);
        }
        // Other tests open some meanwhile.
        assert!(open() < before + 200, "{} and {before} before", open());
        if finishes {
            stage.finish().unwrap();
        }
    }
    assert_eq!(fs::list_dir(&dir.path().join("7")).unwrap(), ["307", "7"]);
}

#[test]
fn nothing_is_taken_back_in_another_directory() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).unwrap().unwrap();
    let mut stage = folder.stage().unwrap();
    let (number, _) = stage.create().unwrap();
    assert_eq!(stage.place(number, &rel("a/file")).unwrap(), Placed::Done);
    fs::rename(&dir.path().join("a"), &dir.path().join("moved")).unwrap();
    write(&dir.path().join("a/file"), b"theirs");
    drop(stage);
    assert_eq!(read(&dir.path().join("a/file")).unwrap(), b"theirs");
}

#[test]
fn a_folder_in_one_of_somebody_else_is_never_that_of_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let (home, outside) = (dir.path().join("home"), dir.path().join("outside"));
    write(&outside.join("file"), b"text");
    fs::create_dir_all(&home).unwrap();
    symlink(&outside, home.join("linked")).unwrap();
    assert!(Folder::open_in(&home, &rel("new"), false).unwrap().is_none());
    let opened = Folder::open_in(&home, &rel("linked"), true).unwrap_err();
    assert!(matches!(opened, FolderError::NotDirectory { .. }), "{opened}");
    let made = Folder::open_in(&home, &rel("new/below"), true).unwrap().unwrap();
    assert_eq!(made.path(), home.join("new/below"));
    symlink(&outside, home.join("new/linked")).unwrap();
    Folder::open_in(&home, &rel("new/linked"), true).unwrap_err();
    assert!(Folder::open_in(&dir.path().join("none"), &rel("x"), true).unwrap().is_none());
}

#[test]
fn a_file_is_removed_that_is_still_the_one() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("a/file");
    write(&at, b"text");
    let folder = Folder::open(dir.path()).unwrap().unwrap();
    let seen = folder.file(&rel("a/file")).unwrap().unwrap();
    write(&at, b"other");
    assert!(!folder.remove(&rel("a/file"), &seen).unwrap());
    assert_eq!(read(&at).unwrap(), b"other");
    let seen = folder.file(&rel("a/file")).unwrap().unwrap();
    assert!(folder.remove(&rel("a/file"), &seen).unwrap());
    assert!(!folder.remove(&rel("a/file"), &seen).unwrap());
    assert_eq!(read(&at), None);
}
