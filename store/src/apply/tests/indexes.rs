//! Random indexes brought together, compared with what must be so; and indexes of every format.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;

use super::repository::{ALL, Bench, KINDS, model};
use super::*;
use crate::apply::testing::is_nightly;
use crate::git::EntryOutcome;
use crate::git::tests::lab::{Kept, Lab};

/// What an index says of a path: mode, stage and content of each entry, and flags.
type Model = BTreeMap<String, Vec<(u32, u8, String, u8)>>;

const PATHS: [&str; 7] = ["a", "a/x", "b", "c", "d/e", "d/f", "g"];

fn text(rng: &mut Rng) -> String {
    let mut lines: Vec<_> = (0..6).map(|line| format!("line {line}\n")).collect();
    for _ in 0..rng.below(3) {
        lines[rng.below(6)] = format!("edit {}\n", rng.below(3));
    }
    lines.concat()
}

fn entries(rng: &mut Rng) -> Vec<(u32, u8, String, u8)> {
    let mode = [0o100_644, 0o100_644, 0o100_755, 0o120_000][rng.below(4)];
    match rng.below(10) {
        0 => (1..=3).map(|stage| (0o100_644, stage, text(rng), 0)).collect(),
        1 => vec![(mode, 0, text(rng), b'v')],
        2 => vec![(mode, 0, text(rng), b'S')],
        _ => vec![(mode, 0, text(rng), 0)],
    }
}

/// A random index, without a file where another one has a folder.
fn random(rng: &mut Rng) -> Model {
    let mut index = Model::new();
    for path in PATHS {
        if rng.below(3) > 0 {
            add(&mut index, path, entries(rng));
        }
    }
    index
}

fn add(index: &mut Model, path: &str, entries: Vec<(u32, u8, String, u8)>) {
    index.retain(|other, _| {
        !other.starts_with(&format!("{path}/")) && !path.starts_with(&format!("{other}/"))
    });
    index.insert(path.to_owned(), entries);
}

fn changed(index: &Model, rng: &mut Rng) -> Model {
    let mut index = index.clone();
    for _ in 0..rng.below(4) {
        let path = PATHS[rng.below(PATHS.len())];
        if rng.below(3) == 0 {
            index.remove(path);
        } else {
            add(&mut index, path, entries(rng));
        }
    }
    index
}

/// Gives git an input.
fn told(lab: &Lab, at: &Path, args: &[&str], input: &str) -> String {
    let mut git =
        lab.command(at, args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    git.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = git.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What objects hold, by their names, and the other way round.
#[derive(Default)]
struct Names {
    contents: BTreeMap<String, String>,
    oids: BTreeMap<String, String>,
}

impl Names {
    /// The name of an object, which both repositories get.
    fn of(&mut self, lab: &Lab, content: &str) -> String {
        if let Some(oid) = self.oids.get(content) {
            return oid.clone();
        }
        let write = |at| told(lab, &lab.path(at), &["hash-object", "-w", "--stdin"], content);
        let oid = ["work", "away"].map(write)[0].trim().to_owned();
        self.contents.insert(oid.clone(), content.to_owned());
        self.oids.insert(content.to_owned(), oid.clone());
        oid
    }
}

/// Writes an index, with git.
fn write(lab: &Lab, at: &Path, index: &Model, names: &mut Names) {
    let mut input = String::new();
    for (path, entries) in index {
        for (mode, stage, content, _) in entries {
            let oid = names.of(lab, content);
            writeln!(input, "{mode:o} {oid} {stage}\t{path}").unwrap();
        }
    }
    crate::fs::remove_file(&at.join(".git/index")).unwrap();
    told(lab, at, &["update-index", "--index-info"], &input);
    for (flag, arg) in [(b'v', "--assume-unchanged"), (b'S', "--skip-worktree")] {
        let with = index.iter().filter(|(_, entries)| entries[0].3 == flag);
        let paths = with.map(|(path, _)| format!("{path}\n")).collect::<Vec<_>>().concat();
        if paths.is_empty() {
            continue;
        }
        told(lab, at, &["update-index", arg, "--stdin"], &paths);
    }
}

/// Reads one back, with git.
fn read(lab: &Lab, at: &Path, names: &mut Names) -> Model {
    let mut index = Model::new();
    for line in String::from_utf8(lab.git_in(at, &["ls-files", "-s", "-v"])).unwrap().lines() {
        let (meta, path) = line.split_once('\t').unwrap();
        let mut words = meta.split(' ');
        let tag = words.next().unwrap().as_bytes()[0];
        let mode = u32::from_str_radix(words.next().unwrap(), 8).unwrap();
        let oid = words.next().unwrap();
        let stage = words.next().unwrap().parse().unwrap();
        let content = names.contents.entry(oid.to_owned()).or_insert_with(|| {
            String::from_utf8(lab.git_in(at, &["cat-file", "blob", oid])).unwrap()
        });
        let flag = match tag {
            b'h' => b'v',
            b'S' => b'S',
            _ => 0,
        };
        index.entry(path.to_owned()).or_default().push((mode, stage, content.clone(), flag));
    }
    index
}

/// What `git merge-file` makes of three texts; nothing where they meet.
fn merged(folder: &Path, texts: [&str; 3]) -> Option<String> {
    let files = ["ours", "base", "theirs"].map(|name| folder.join(name));
    for (file, text) in files.iter().zip([texts[1], texts[0], texts[2]]) {
        std::fs::write(file, text).unwrap();
    }
    let output =
        std::process::Command::new("git").args(["merge-file", "-p"]).args(&files).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn random_indexes_are_brought_together_and_lose_nothing() {
    let rounds = if is_nightly() { 3_000 } else { 60 };
    let mut bench = Bench::new(KINDS[0], |_| {});
    let folder = tempfile::tempdir().unwrap();
    let (mut rng, mut names) = (Rng::new(21), Names::default());
    let (work, away) = (bench.lab.work(), bench.lab.path("away"));
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for round in 0..rounds {
        let base = random(&mut rng);
        let here = changed(&base, &mut rng);
        let there = changed(if rng.below(5) == 0 { &here } else { &base }, &mut rng);
        write(&bench.lab, &away, &base, &mut names);
        bench.base.0 = bench.there().0;
        write(&bench.lab, &away, &there, &mut names);
        write(&bench.lab, &work, &here, &mut names);
        // Git writes no file of an index without entries where there was none.
        let bytes = std::fs::read(work.join(".git/index")).ok();
        let left = bench.there();
        let (applied, told) = bench.apply_to(&work, left, ALL, 9).unwrap();
        let result = read(&bench.lab, &work, &mut names);
        let what = format!("round {round}\nbase {base:#?}\nhere {here:#?}\nthere {there:#?}");
        let all: BTreeSet<&String> =
            [&base, &here, &there].iter().flat_map(|it| it.keys()).collect();
        for path in all {
            let [b, h, t] = [&base, &here, &there].map(|it| it.get(path));
            let outcome = told.entry(path);
            *seen.entry(outcome.map_or("same", EntryOutcome::name)).or_default() += 1;
            let found = result.get(path);
            match outcome {
                // Nothing is taken that is not told.
                None => assert_eq!(found, h, "{path} {what}"),
                Some(EntryOutcome::Taken | EntryOutcome::Removed) => {
                    assert!(t != b, "{path} {what}");
                    assert_eq!(found, t, "{path} {what}");
                }
                Some(EntryOutcome::Restored) => assert!(h.is_none() && found == t, "{path} {what}"),
                Some(EntryOutcome::EditedHere) => {
                    assert!(t.is_none() && h != b && found == h, "{path} {what}");
                }
                Some(EntryOutcome::Conflict(_)) => {
                    assert!(h != t && t != b && found == h, "{path} {what}");
                }
                Some(EntryOutcome::Merged) => {
                    let [b, h, t] = [b, h, t].map(|it| it.map(|it| &it[0]));
                    let (h, t, found) = (h.unwrap(), t.unwrap(), &found.unwrap()[0]);
                    if h.2 != t.2 && b.is_none_or(|b| b.2 != h.2 && b.2 != t.2) {
                        let texts = [&b.unwrap().2, &h.2, &t.2].map(String::as_str);
                        assert_eq!(Some(&found.2), merged(folder.path(), texts).as_ref(), "{what}");
                    }
                }
                Some(EntryOutcome::FileLeft) => panic!("no file is left: {path} {what}"),
            }
            // What one side alone changed is what there is, unless the other one has a folder there.
            let is_folder = outcome.is_some_and(|it| it.reason() == Some("kind"));
            if b == h && b != t && !is_folder {
                assert_eq!(found, t, "{path} {what}");
            }
        }
        if applied.id.is_some() {
            bench.undo();
            bench.applies.purge(u64::MAX).unwrap();
        }
        assert_eq!(std::fs::read(work.join(".git/index")).ok(), bytes, "{what}");
        assert!(!model(&work).0.is_empty());
    }
    for word in ["taken", "removed", "restored", "merged", "kept", "conflict", "same"] {
        assert!(seen.contains_key(word), "{word}: {seen:?}");
    }
}

#[test]
fn indexes_of_every_format_are_brought_together() {
    for index in ["v2", "v4", "split"] {
        let kept = Kept { hash: "sha1", refs: "files", index };
        let mut bench = Bench::new(kept, |_| {});
        bench.away(|lab| {
            lab.write("theirs", "theirs\n");
            lab.write("new", "new\n");
            lab.git(&["add", "-A"]);
        });
        bench.lab.write("mine", "mine\n");
        bench.lab.git(&["add", "mine"]);
        let before = std::fs::read(bench.lab.work().join(".git/index")).unwrap();
        bench.apply(ALL);
        let staged = bench.here(&["diff", "--cached", "--name-status"]);
        assert_eq!(staged, "M\tmine\nA\tnew\nM\ttheirs", "{index}");
        assert_eq!(bench.here(&["status", "--porcelain"]), "M  mine\nA  new\nM  theirs", "{index}");
        // Git writes it again as it is set up to.
        bench.lab.git(&["rm", "-q", "--cached", "new"]);
        bench.lab.git(&["add", "new"]);
        bench.check();
        assert_eq!(bench.undo().index, Some(Done::Made), "{index}");
        assert_eq!(std::fs::read(bench.lab.work().join(".git/index")).unwrap(), before, "{index}");
        assert_eq!(bench.here(&["diff", "--cached", "--name-status"]), "M\tmine", "{index}");
        bench.check();
    }
}

#[test]
fn a_sparse_index_is_unfolded_only_where_something_comes() {
    let sparse = |lab: &Lab| {
        for path in ["out/a", "out/b", "other/c"] {
            lab.write(path, "one\n");
        }
        lab.commit("two");
        lab.git(&["sparse-checkout", "set", "--cone", "--sparse-index", "deep"]);
    };
    let mut bench = Bench::new(KINDS[0], sparse);
    let folded = |bench: &Bench| {
        let listed = bench.here(&["ls-files", "--sparse"]);
        listed.lines().filter(|line| line.ends_with('/')).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(folded(&bench), ["other/", "out/"]);
    // Nothing of a folder changes: it stays.
    bench.away(|lab| {
        lab.write("theirs", "theirs\n");
        lab.git(&["add", "theirs"]);
    });
    bench.apply(ALL);
    assert_eq!(folded(&bench), ["other/", "out/"]);
    assert_eq!(bench.here(&["status", "--porcelain"]), "M  theirs");
    bench.undo();
    bench.applies.purge(u64::MAX).unwrap();
    // Something in one of them does.
    bench.away(|lab| {
        let oid = told(lab, &lab.work(), &["hash-object", "-w", "--stdin"], "there\n");
        let info = format!("100644,{},out/a", oid.trim());
        lab.git(&["update-index", "--cacheinfo", &info]);
        lab.git(&["update-index", "--skip-worktree", "out/a"]);
        lab.git(&["commit", "-qm", "out"]);
    });
    let before = std::fs::read(bench.lab.work().join(".git/index")).unwrap();
    bench.apply(ALL);
    assert_eq!(bench.here(&["show", ":out/a"]), "there");
    assert_eq!(bench.here(&["status", "--porcelain"]), "");
    bench.check();
    bench.undo();
    assert_eq!(std::fs::read(bench.lab.work().join(".git/index")).unwrap(), before);
    assert_eq!(bench.here(&["status", "--porcelain"]), "");
}
