//! Changes of checkouts that somebody works in.

#![expect(clippy::disallowed_methods, reason = "somebody who works there knows nothing of ours")]

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};

use baton_protocol::id::{ChunkId, ObjectId, ObjectKind};

use super::super::tests::{awkward, look, restore_tree, scan_tree, tidy, write};
use super::*;
use crate::error::StoreError;
use crate::objects::memory::MemoryObjects;
use crate::scan::Scanned;

/// A checkout of one tree, and another tree.
struct Checkout {
    dir: tempfile::TempDir,
    objects: MemoryObjects,
    old: Root,
    new: Root,
}

fn root(scanned: &Scanned) -> Root {
    Root { tree: scanned.root, mode: scanned.root_mode }
}

impl Checkout {
    /// `make` makes the old tree, and `edit` the new one out of it.
    fn new(make: impl Fn(&Path), edit: impl Fn(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let objects = MemoryObjects::default();
        let from = dir.path().join("from");
        std::fs::create_dir(&from).unwrap();
        make(&from);
        let old = scan_tree(&from, &objects);
        restore_tree(&objects, &old, &dir.path().join("at"));
        edit(&from);
        let new = scan_tree(&from, &objects);
        Self { dir, objects, old: root(&old), new: root(&new) }
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("at").join(name)
    }

    fn change(&self, (old, new): (Root, Root)) -> Result<Changed, RestoreError> {
        let cache = StatCache::default();
        let (options, progress) = (RestoreOptions::default(), Progress::default());
        change(&self.objects, &cache, (old, new), &self.at(""), &options, &progress)
    }

    /// Makes it the new tree; says what was kept, by its path, and what it holds.
    fn forward(&self) -> Vec<(String, Option<Vec<u8>>)> {
        let changed = self.change((self.old, self.new)).unwrap();
        self.is_alone();
        let told = changed.kept.into_iter().map(|kept| {
            let beside = kept.beside.map(|beside| {
                let path = self.at(&beside.display());
                if path.is_dir() { b"a directory".to_vec() } else { std::fs::read(path).unwrap() }
            });
            (kept.path.display().into_owned(), beside)
        });
        told.collect()
    }

    /// Nothing is left beside the checkout.
    fn is_alone(&self) {
        let mut names: Vec<_> = std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["at", "from"]);
    }
}

/// Every kind of difference.
fn edit(root: &Path) {
    for name in ["size-0", "size-262145", "repeats", "mode-755", "dangling", "open/in"] {
        std::fs::remove_file(root.join(name)).unwrap();
    }
    write(&root.join("size-0"), b"more", 0o644);
    write(&root.join("repeats"), &vec![b'b'; 1 << 20], 0o600);
    write(&root.join("mode-755"), b"x", 0o644);
    symlink("elsewhere", root.join("dangling")).unwrap();
    // A directory for a file, a file for a directory.
    std::fs::create_dir(root.join("size-262145")).unwrap();
    write(&root.join("size-262145/in"), b"deep", 0o644);
    std::fs::remove_dir(root.join("empty")).unwrap();
    write(&root.join("empty"), b"a file", 0o644);
    std::fs::set_permissions(root.join("none"), PermissionsExt::from_mode(0o711)).unwrap();
    std::fs::remove_dir(root.join("open")).unwrap();
    for i in 0..500 {
        std::fs::remove_file(root.join(format!("wide/{i}"))).unwrap();
        write(&root.join(format!("wide/new-{i}")), b"new", 0o644);
    }
    std::fs::create_dir_all(root.join("some/where/deep")).unwrap();
    std::fs::set_permissions(root.join("some"), PermissionsExt::from_mode(0o555)).unwrap();
    std::fs::set_permissions(root, PermissionsExt::from_mode(0o750)).unwrap();
}

#[test]
fn a_changed_checkout_is_what_a_restore_makes_and_changes_back() {
    let checkout = Checkout::new(awkward, edit);
    let before = look(&checkout.at(""));
    assert_eq!(checkout.forward(), []);
    assert!(look(&checkout.at("")) == look(&checkout.dir.path().join("from")));
    // There is nothing left to do.
    let again = checkout.change((checkout.old, checkout.new)).unwrap();
    assert_eq!(again, Changed::default());
    std::fs::set_permissions(checkout.at("some"), PermissionsExt::from_mode(0o755)).unwrap();
    let back = checkout.change((checkout.new, checkout.old)).unwrap();
    assert_eq!(back.kept, []);
    assert!(look(&checkout.at("")) == before);
    tidy(checkout.dir.path());
}

/// Files by name and content.
fn files(root: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

#[test]
fn what_somebody_did_meanwhile_is_kept_and_named() {
    let make = |root: &Path| {
        let all = ["edited", "removed", "mode", "linked", "same", "gone", "d/in", "e/in", "f/in"];
        for name in all {
            files(root, &[(name, "old")]);
        }
        files(root, &[("untouched", "old"), ("became-dir", "old")]);
    };
    let edit = |root: &Path| {
        let all = ["edited", "mode", "linked", "same", "gone", "e/in", "f/in", "added", "g/in"];
        for name in all {
            files(root, &[(name, "new")]);
        }
        std::fs::remove_file(root.join("removed")).unwrap();
        std::fs::remove_dir_all(root.join("d")).unwrap();
        std::fs::remove_file(root.join("became-dir")).unwrap();
        files(root, &[("became-dir/in", "new")]);
    };
    let checkout = Checkout::new(make, edit);
    files(
        &checkout.at(""),
        &[
            ("edited", "mine"),
            ("removed", "mine"),
            ("untouched", "mine"),
            ("added", "mine"),
            ("same", "new"),
            ("d/other", "mine"),
            ("became-dir", "mine"),
            ("g", "mine"),
        ],
    );
    std::fs::set_permissions(checkout.at("mode"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::remove_file(checkout.at("linked")).unwrap();
    symlink("edited", checkout.at("linked")).unwrap();
    std::fs::remove_file(checkout.at("gone")).unwrap();
    std::fs::remove_dir_all(checkout.at("e")).unwrap();
    std::fs::remove_dir_all(checkout.at("f")).unwrap();
    files(&checkout.at(""), &[("f", "mine")]);

    let kept: BTreeMap<_, _> = checkout.forward().into_iter().collect();
    let new = Some(b"new".to_vec());
    let directory = Some(b"a directory".to_vec());
    let expected = [
        ("added", new.clone()),
        ("became-dir", directory.clone()),
        ("d", None),
        ("edited", new.clone()),
        ("f", directory.clone()),
        ("g", directory),
        ("linked", new.clone()),
        ("mode", new),
        ("removed", None),
    ];
    assert_eq!(kept, expected.map(|(path, content)| (path.to_owned(), content)).into());
    let read = |name: &str| std::fs::read_to_string(checkout.at(name)).unwrap();
    for name in ["edited", "removed", "untouched", "added", "d/other", "became-dir", "g", "f"] {
        assert_eq!(read(name), "mine", "{name}");
    }
    for name in ["same", "gone", "e/in"] {
        assert_eq!(read(name), "new", "{name}");
    }
    assert_eq!((read("mode").as_str(), read("linked").as_str()), ("old", "mine"));
    assert!(!checkout.at("d/in").exists());
    // What is below a directory that could not get its place is in the one beside it.
    let beside = std::fs::read_dir(checkout.at("")).unwrap().map(|entry| entry.unwrap().path());
    let inside: Vec<_> = beside.filter(|path| path.is_dir()).map(|path| path.join("in")).collect();
    assert_eq!(inside.iter().filter(|path| path.exists()).count(), 4, "{inside:?}");
}

/// Objects during whose reading somebody works in the checkout.
struct Meddling<'a> {
    objects: &'a MemoryObjects,
    at: std::path::PathBuf,
}

impl ObjectSource for Meddling<'_> {
    fn read(&self, id: &ObjectId) -> Result<Option<Vec<u8>>, StoreError> {
        if id.kind == ObjectKind::Chunk {
            for name in ["edited", "removed", "added"] {
                // As long as what was there, and perhaps within the same tick of the clock.
                files(&self.at, &[(name, "own")]);
            }
            drop(std::fs::remove_file(self.at.join("gone")));
        }
        self.objects.read(id)
    }

    fn contains(&self, id: &ObjectId) -> Result<bool, StoreError> {
        self.objects.contains(id)
    }
}

#[test]
fn what_is_written_while_the_change_is_under_way_is_kept() {
    let make = |root: &Path| files(root, &[("edited", "old"), ("removed", "old"), ("gone", "old")]);
    let edit = |root: &Path| {
        files(root, &[("edited", "new"), ("added", "new"), ("gone", "new")]);
        std::fs::remove_file(root.join("removed")).unwrap();
    };
    let checkout = Checkout::new(make, edit);
    let meddling = Meddling { objects: &checkout.objects, at: checkout.at("") };
    let (options, progress) = (RestoreOptions::default(), Progress::default());
    let roots = (checkout.old, checkout.new);
    let cache = StatCache::default();
    let changed = change(&meddling, &cache, roots, &checkout.at(""), &options, &progress).unwrap();
    checkout.is_alone();
    let read = |path: &RelPath| std::fs::read_to_string(checkout.at(&path.display())).unwrap();
    let kept = |kept: &Kept| (read(&kept.path), kept.beside.as_ref().map(read));
    let kept: Vec<_> = changed.kept.iter().map(kept).collect();
    let both = ("own".to_owned(), Some("new".to_owned()));
    assert_eq!(kept, [both.clone(), both, ("own".to_owned(), None)]);
    assert_eq!(std::fs::read_to_string(checkout.at("gone")).unwrap(), "new");
}

#[test]
fn a_store_that_lacks_something_changes_nothing() {
    let make = |root: &Path| files(root, &[("a", "old"), ("b", "old"), ("c", "old")]);
    let edit = |root: &Path| {
        files(root, &[("a", "new"), ("b", "lost"), ("d/e", "new")]);
        std::fs::remove_file(root.join("c")).unwrap();
    };
    let checkout = Checkout::new(make, edit);
    let before = look(&checkout.at(""));
    let id = ChunkId::of(b"lost").into();
    let lost = checkout.objects.0.lock().unwrap().remove(&id).unwrap();
    let failed = checkout.change((checkout.old, checkout.new));
    assert!(matches!(failed, Err(RestoreError::Store(StoreError::Absent(_)))));
    assert!(look(&checkout.at("")) == before);
    checkout.is_alone();
    checkout.objects.0.lock().unwrap().insert(id, lost);
    assert_eq!(checkout.forward(), []);
    assert!(look(&checkout.at("")) == look(&checkout.dir.path().join("from")));
}
