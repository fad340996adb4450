//! Damaged files of a repository: what is captured of them can be rebuilt, and the rest is an error.

use std::path::{Path, PathBuf};

use super::*;
use crate::fs;
use crate::fuzz::fuzzing::{fuzz_with, within};
use crate::git::rebuild;
use crate::git::tests::lab::{Lab, PLAIN, copy_files};

/// A repository in the middle of a merge, with packed refs, a tag, a stash and notes of its own.
fn lab() -> Lab {
    let lab = Lab::new(PLAIN);
    lab.write("a/1", "one\n");
    lab.write("2", "two\n");
    lab.commit("first");
    lab.git(&["tag", "-a", "v1", "-m", "the first one"]);
    lab.git(&["branch", "packed"]);
    lab.git(&["pack-refs", "--all"]);
    lab.git(&["checkout", "-q", "-b", "other"]);
    lab.write("2", "three\n");
    lab.commit("second");
    lab.git(&["checkout", "-q", "main"]);
    lab.write("a/1", "stashed\n");
    lab.git(&["stash", "-q"]);
    lab.write("2", "four\n");
    lab.commit("third");
    lab.git(&["symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main"]);
    lab.git(&["config", "branch.main.merge", "refs/heads/main"]);
    lab.git(&["config", "remote.origin.url", "https://example.com/x"]);
    lab.stops(&["merge", "other"]);
    lab
}

/// The files of a repository that are no objects, with what stands in them.
fn files_of(folder: &Path, all: &mut Vec<(PathBuf, Vec<u8>)>) {
    for name in fs::list_dir(folder).unwrap() {
        let path = folder.join(&name);
        if path.is_dir() {
            if name != "objects" && name != "hooks" {
                files_of(&path, all);
            }
        } else {
            let bytes = fs::read_if_exists(&path, 1 << 20).unwrap().unwrap();
            all.push((path, bytes));
        }
    }
}

#[test]
fn repositories() {
    let lab = lab();
    let git_dir = lab.work().join(".git");
    let mut files = Vec::new();
    files_of(&git_dir, &mut files);
    assert!((15..256).contains(&files.len()), "{}", files.len());
    // The first byte says which file it is.
    let corpus = files.iter().zip(0u8..).map(|((_, bytes), at)| [&[at], &bytes[..]].concat());
    let back = lab.path("back");
    fuzz_with(250, corpus.collect(), |random, input| {
        let Some((&at, bytes)) = input.split_first() else { return false };
        let (path, whole) = &files[usize::from(at) % files.len()];
        fs::write_whole(path, bytes, 0o644).unwrap();
        let mut options = lab.options();
        if random.below(2) == 0 {
            options.within = Some(lab.work());
        }
        let read = within(input, 512, 1 << 20, |_| read_parts(&lab.work(), &options));
        let is_read = read.is_ok();
        if let Err(error) = read {
            assert!(!error.to_string().is_empty());
        } else if random.below(30) == 0
            && let Ok(captured) = capture(&lab.work(), &lab.objects, &options)
        {
            fs::remove_dir_all(&back).unwrap();
            copy_files(&lab.work(), &back);
            let options = lab.rebuild_options();
            rebuild(&lab.objects, captured.id, &back, &options).unwrap();
        }
        fs::write_whole(path, whole, 0o644).unwrap();
        is_read && bytes != whole
    });
}
