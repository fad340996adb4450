//! A repair that is cut short: by a kill, a power cut or a failure, at each of its operations (`BATON_NIGHTLY`), or at some.
//!
//! Afterwards nothing is gone that could be read before, or that a repair finds which nobody disturbs; and a repair that is run again
//! ends well.

use std::collections::HashSet;
use std::io::ErrorKind;

use super::*;
use crate::fs::fault;
use crate::fs::simulated::Disk;

impl Template {
    /// The files of the store, one of them harmed.
    fn harmed(&self, path: &Path, at: usize) -> Files {
        let mut files = self.files.clone();
        files.get_mut(path).unwrap()[at] ^= 0x10;
        files
    }

    fn find(&self, fits: impl Fn(&str) -> bool) -> PathBuf {
        self.files.keys().find(|path| fits(&path.to_string_lossy())).unwrap().clone()
    }

    fn all(&self) -> Vec<SnapshotId> {
        self.snapshots.iter().map(|(_, id)| *id).collect()
    }

    /// What can be read, as it is.
    fn readable(&self, store: &Store) -> HashSet<ObjectId> {
        let vault = store.vault(VAULT).unwrap();
        let is_there = |id: &ObjectId, bytes: &[u8]| match vault.read(id) {
            Ok(read) => read.is_some_and(|read| {
                assert_eq!(read, bytes, "{id} was served and is wrong");
                true
            }),
            Err(error) => {
                assert!(error.is_corruption(), "{error:?}");
                false
            }
        };
        self.objects.iter().filter(|(id, bytes)| is_there(id, bytes)).map(|(id, _)| *id).collect()
    }
}

/// By night each operation; else one of sixty.
#[expect(clippy::disallowed_methods, reason = "how many is for whoever runs the tests")]
fn step() -> usize {
    if std::env::var_os("BATON_NIGHTLY").is_some() { 1 } else { 61 }
}

/// Opens the store and repairs it, as often as it takes.
fn heal(template: &Template, root: &Path) -> Result<(), StoreError> {
    for _ in 0..4 {
        let store = Store::open(root)?;
        let repaired = repair(&store, |_| template.all(), |_, _| {})?;
        if repaired.found.is_empty() {
            break;
        }
    }
    Ok(())
}

/// What has to be there after a repair of these files, whatever happens meanwhile.
fn expected(template: &Template, files: &Files) -> HashSet<ObjectId> {
    let folder = put_files(files);
    let before = template.readable(&Store::open(folder.path()).unwrap());
    let folder = put_files(files);
    heal(template, folder.path()).unwrap();
    let after = template.readable(&Store::open(folder.path()).unwrap());
    assert!(before.is_subset(&after), "a repair lost something");
    after
}

fn verify(template: &Template, root: &Path, expected: &HashSet<ObjectId>, what: &str) {
    heal(template, root).unwrap();
    let found = template.readable(&Store::open(root).unwrap());
    let lost: Vec<_> = expected.difference(&found).collect();
    assert!(lost.is_empty(), "{what}: {lost:?} are gone");
    Case { template, root, name: PathBuf::new(), detail: "" }.repair();
}

/// A bit in the middle of a sealed segment of data, of one of metadata, of an open one, of the journal, and of the index.
fn damages(template: &Template) -> Vec<(&'static str, Files)> {
    let sealed = |class: &'static str| {
        template.find(move |path| path.contains(class) && !path.contains("open-"))
    };
    let places = [
        ("sealed data", sealed("/data/")),
        ("sealed metadata", sealed("/meta/")),
        ("open data", template.find(|path| path.contains("/data/open-"))),
        ("journal", template.find(|path| path.starts_with("journal"))),
        ("index", template.find(|path| path.ends_with("index.db"))),
    ];
    let harm = |(what, path): (&'static str, PathBuf)| {
        let middle = template.files[&path].len() / 3;
        (what, template.harmed(&path, middle))
    };
    places.into_iter().map(harm).collect()
}

#[test]
fn a_repair_whose_power_is_cut_at_any_moment_loses_nothing() {
    let template = Template::new();
    for (what, files) in damages(&template) {
        let expected = expected(&template, &files);
        let mut operations = 0;
        for at in (1..).step_by(step()) {
            let (folder, left) = (put_files(&files), scratch());
            let disk = Disk::follow(folder.path(), at);
            disk.cut_after(at, left.path(), at);
            heal(&template, folder.path()).unwrap();
            if !disk.is_cut() {
                break;
            }
            operations = at;
            verify(&template, left.path(), &expected, &format!("{what}, cut at {at}"));
        }
        println!("{what}: {operations} operations");
        assert!(operations > 0, "{what}: nothing was cut");
    }
}

#[test]
fn a_repair_that_is_killed_or_fails_at_any_moment_loses_nothing() {
    let template = Template::new();
    for (what, files) in damages(&template) {
        let expected = expected(&template, &files);
        for times in [1, u64::MAX] {
            let mut failed = 0;
            for at in (0..).step_by(step()) {
                let folder = put_files(&files);
                // Followed, the store has no thread of its own.
                let disk = Disk::follow(folder.path(), at);
                let armed = fault::arm(folder.path(), None, at, times, ErrorKind::Other);
                failed += u64::from(heal(&template, folder.path()).is_err());
                let is_over = armed.seen() <= at;
                drop((armed, disk));
                if is_over {
                    break;
                }
                let what = format!("{what}, operation {at} failed {times} times");
                verify(&template, folder.path(), &expected, &what);
            }
            assert!(failed > 0, "{what}: {failed} failures were told");
        }
    }
}
