//! The small files of a store: which format it has, and what damage was found.

use super::fuzzing::{fuzz_with, texts, within};
use super::scratch;
use crate::error::StoreError;
use crate::fs;
use crate::layout::Layout;
use crate::noted::{Problem, note, noted};

#[test]
fn layouts() {
    let corpus = texts(&[
        "baton store 1\n",
        "baton store 1\noptional a\nread-required b-2\n",
        "baton store 1\nwrite-required a\nwrite-required b\noptional c",
        "baton store 2\nanything\n",
    ]);
    let folder = scratch();
    let (store, path) = (folder.path().join("store"), folder.path().join("store/format"));
    fuzz_with(1500, corpus, |_, input| {
        fs::remove_dir_all(&store).unwrap();
        fs::create_dir_all(&store).unwrap();
        fs::write_whole(&path, input, 0o600).unwrap();
        let opened = within(input, 0, 65_536, |_| Layout::open(&store));
        let there = fs::list_dir(&store).unwrap();
        match &opened {
            Ok(layout) => {
                assert!(input.starts_with(b"baton store 1"));
                // This program knows no feature.
                let text = String::from_utf8_lossy(input);
                let has = |kind: &str| text.trim_end().lines().any(|line| line.starts_with(kind));
                assert!(!has("read-required"), "nobody here can read it");
                assert_eq!(layout.is_read_only(), has("write-required"));
                let prepared = if layout.is_read_only() { 1 } else { 3 };
                assert_eq!(there.len(), prepared, "{there:?}");
                let again = Layout::open(&store).unwrap();
                assert_eq!(again.is_read_only(), layout.is_read_only());
                assert_eq!(layout.check_writable().is_ok(), !layout.is_read_only());
            }
            Err(error) => {
                let is_known = matches!(
                    error,
                    StoreError::Damaged { .. }
                        | StoreError::Newer { .. }
                        | StoreError::Unread { .. }
                );
                assert!(is_known, "{error:?}");
                assert_eq!(there, ["format"], "a store that was refused is as it was");
            }
        }
        assert_eq!(fs::read_if_exists(&path, u64::MAX - 1).unwrap().unwrap(), input);
        opened.is_ok()
    });
}

#[test]
fn notes_of_damage() {
    let corpus = texts(&["segment a\tgone\nvault b\tx\ty\n", "\t\n\t\n", "no note\n"]);
    let folder = scratch();
    let layout = Layout::open(folder.path()).unwrap();
    fuzz_with(1500, corpus, |_, input| {
        fs::write_whole(&layout.noted(), input, 0o600).unwrap();
        let before = within(input, 16, 65_536, |_| noted(&layout)).unwrap();
        // A note says that something was found, whatever became of it.
        assert!((1..=100).contains(&before.len()));
        let new = Problem { what: "new".into(), detail: "found".into() };
        note(&layout, std::slice::from_ref(&new));
        let after = noted(&layout).unwrap();
        assert!(after.contains(&new) || before.len() == 100);
        assert!(after.len() >= before.len());
        before.len() > 1
    });
}
