//! Additions against a snapshot that may have files at the same places, made by somebody who was free to put anything there.

#![expect(
    clippy::disallowed_methods,
    reason = "what a program does, it does with the system's own calls"
)]

use std::fs as system;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::objects::memory::MemoryObjects;
use crate::scan::{Progress, ScanOptions, scan};
use crate::stat_cache::StatCache;

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    system::create_dir_all(path.parent().unwrap()).unwrap();
    system::write(path, text).unwrap();
}

fn tree(objects: &MemoryObjects, folder: &Path) -> TreeId {
    let (options, progress) = (ScanOptions::default(), Progress::default());
    scan(folder, &StatCache::default(), objects, &options, &progress).unwrap().root
}

fn names(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in system::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.symlink_metadata().unwrap().is_dir() {
            found.push(format!("{name}/"));
            found.extend(names(&path).into_iter().map(|inner| format!("{name}/{inner}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}

#[test]
fn what_a_snapshot_has_is_not_kept_however_it_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (objects, plain) = (MemoryObjects::default(), dir.path().join("plain"));
    for name in ["a", "folder/a", "other/a", "was/a", "odd"] {
        write(&plain, name, "x");
    }
    let snapshot = tree(&objects, &plain);
    // Of a folder with all that a program may have done to it.
    write(&plain, "a", "y");
    write(&plain, "folder/new", "new");
    system::remove_dir_all(plain.join("was")).unwrap();
    write(&plain, "was", "a file now");
    system::remove_file(plain.join("odd")).unwrap();
    write(&plain, "odd/inner/file", "a folder now");
    write(&plain, ".git/config", "of the snapshot");
    write(&plain, "folder/.git", "of the snapshot");
    write(&plain, "new/.git/config", "of what was installed");
    let outside = dir.path().join("outside");
    write(&outside, "stays", "x");
    symlink(&outside, plain.join("new/link")).unwrap();
    system::remove_file(plain.join("other/a")).unwrap();
    symlink(&outside, plain.join("other/a")).unwrap();
    let closed = plain.join("new/closed");
    write(&closed, "file", "x");
    system::set_permissions(&closed, system::Permissions::from_mode(0o500)).unwrap();
    let kept = keep_additions(&objects, Some(snapshot), &plain).unwrap();
    assert_eq!(kept, Kept { files: 4, bytes: 3 + 21 + 1 });
    let left = [
        "folder/",
        "folder/new",
        "new/",
        "new/.git/",
        "new/.git/config",
        "new/closed/",
        "new/closed/file",
        "new/link",
    ];
    assert_eq!(names(&plain), left);
    assert!(outside.join("stays").exists());
}

#[test]
fn folders_deeper_than_any_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (deep, to) = (dir.path().join("deep"), dir.path().join("to"));
    system::create_dir_all(&to).unwrap();
    system::create_dir_all(deep.join("d/".repeat(MAX_LEVELS + 1))).unwrap();
    let objects = MemoryObjects::default();
    let empty = tree(&objects, &to);
    for refused in [
        keep_additions(&objects, None, &deep).map(drop),
        copy_missing(&deep, &to).map(drop),
        unchanged(&objects, empty, &deep, &deep).map(drop),
    ] {
        assert!(matches!(refused, Err(AdditionsError::TooDeep { .. })), "{refused:?}");
    }
}

#[test]
fn what_is_brought_is_the_same_and_what_is_there_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to, outside) =
        (dir.path().join("from"), dir.path().join("to"), dir.path().join("outside"));
    for folder in [&to, &outside] {
        system::create_dir_all(folder).unwrap();
    }
    write(&from, "deps/a", "content");
    system::hard_link(from.join("deps/a"), from.join("deps/b")).unwrap();
    symlink("../x", from.join("deps/link")).unwrap();
    write(&from, "there", "not this one");
    write(&from, "trap/file", "x");
    write(&from, "closed/file", "x");
    system::set_permissions(from.join("deps/a"), system::Permissions::from_mode(0o750)).unwrap();
    system::set_permissions(from.join("closed"), system::Permissions::from_mode(0o555)).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    system::File::options()
        .write(true)
        .open(from.join("deps/a"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    write(&to, "there", "stays");
    symlink(&outside, to.join("trap")).unwrap();
    let copied = copy_missing(&from, &to).unwrap();
    assert_eq!(copied, Copied { files: 4, bytes: 8 });
    assert_eq!(system::read_to_string(to.join("there")).unwrap(), "stays");
    assert_eq!(system::read_dir(&outside).unwrap().count(), 0);
    let [a, b] = ["a", "b"].map(|name| to.join("deps").join(name).metadata().unwrap());
    assert_eq!((a.ino(), a.mode() & 0o7777), (b.ino(), 0o750));
    assert_eq!(a.modified().unwrap(), old);
    assert_eq!(system::read_link(to.join("deps/link")).unwrap(), Path::new("../x"));
    assert_eq!(to.join("closed").metadata().unwrap().mode() & 0o777, 0o555);
    // Once more changes nothing.
    assert_eq!(copy_missing(&from, &to).unwrap().bytes, 0);
}

#[test]
fn rules_name_what_is_the_same_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    system::create_dir_all(&to).unwrap();
    let objects = MemoryObjects::default();
    write(&to, "src/kept", "x");
    let snapshot = tree(&objects, &to);
    for name in [
        "whole/a/b",
        "part/same",
        "part/not",
        "src/made",
        "od*d [x]\\ ",
        "src/line\nend",
        "fresh/a",
    ] {
        write(&from, name, "installed");
    }
    copy_missing(&from, &to).unwrap();
    write(&to, "part/not", "installee");
    write(&to, "fresh/more", "of the run");
    let rules = String::from_utf8(unchanged(&objects, snapshot, &from, &to).unwrap()).unwrap();
    let expected = "/fresh/a\n/od\\*d \\[x]\\\\\\ \n/part/same\n/src/made\n/whole/\n";
    assert_eq!(rules, expected);
    // A scan understands them.
    let options = ScanOptions { exclude: rules.into_bytes(), ..ScanOptions::default() };
    let scanned = scan(&to, &StatCache::default(), &objects, &options, &Progress::default());
    let clean = dir.path().join("clean");
    for (name, text) in [
        ("src/kept", "x"),
        ("part/not", "installee"),
        ("fresh/more", "of the run"),
        ("src/line\nend", "installed"),
    ] {
        write(&clean, name, text);
    }
    assert_eq!(scanned.unwrap().root, tree(&objects, &clean));
}

#[test]
fn what_would_be_hidden_lies_over_it() {
    let dir = tempfile::tempdir().unwrap();
    let (added, plain) = (dir.path().join("added"), dir.path().join("plain"));
    let objects = MemoryObjects::default();
    for name in ["only/here", "both/here", "file", "folder/inner"] {
        write(&added, name, "added");
    }
    for name in ["only_there", "both/there"] {
        write(&plain, name, "x");
    }
    assert_eq!(hidden(&objects, tree(&objects, &plain), &added).unwrap(), None);
    for name in ["both/here", "file/now/a/folder", "folder", "both/more"] {
        write(&plain, name, "x");
    }
    let over = hidden(&objects, tree(&objects, &plain), &added).unwrap().unwrap();
    let expected = dir.path().join("expected");
    for name in ["both/here", "file/now/a/folder", "folder"] {
        write(&expected, name, "x");
    }
    assert_eq!(over, tree(&objects, &expected));
}
