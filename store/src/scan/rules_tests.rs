//! The scan against git itself, by generated trees and rules: what git lists and what it ignores is what the scan takes
//! and leaves out.
//!
//! A *set* is a folder with files, links, folders and files of patterns of its own. Many sets stand in one repository,
//! because starting git takes longer than asking it; others have a repository for themselves, where the
//! patterns of the whole repository are as wild as the others. `BATON_NIGHTLY` makes it 100,000 sets.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use baton_protocol::object::EntryKind;

use super::*;
use crate::objects::memory::MemoryObjects;
use crate::snapshot::for_each_entry;

type Bytes = Vec<u8>;

/// Random numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides
    }

    fn one_in(&mut self, odds: usize) -> bool {
        self.roll(odds) == 0
    }

    fn pick<'a>(&mut self, of: &[&'a [u8]]) -> &'a [u8] {
        of[self.roll(of.len())]
    }
}

const PLAIN_NAMES: [&[u8]; 14] = [
    b"a", b"b", b"ab", b"a.o", b"b.o", b"log", b"A", b"aB", b"LOG", b"x y", b"a-b", b"0", b"z9",
    b".x",
];

const ODD_NAMES: [&[u8]; 36] = [
    b"#c",
    b"!d",
    b"e\\",
    b"[f]",
    b"\xff",
    b"\xff\xfea",
    b"\xc3\xa9",
    b"e\xcc\x81",
    b"a ",
    b" a",
    b" ",
    b"\t",
    b"a\tb",
    b"a\r",
    b"\r",
    b"b\nc",
    b"*",
    b"?",
    b"-",
    b"^",
    b"]",
    b"[",
    b"$x",
    b"~",
    b"{a}",
    b":",
    b"\x7f",
    b"\x01",
    b"\"q\"",
    b"**",
    b"\\",
    b"+/v8",
    b"\xef\xbb\xbfa",
    b"\x0b",
    b"a\\ ",
    b"\xc3\x89",
];

fn name(dice: &mut Dice) -> Bytes {
    if dice.one_in(4) { dice.pick(&ODD_NAMES) } else { dice.pick(&PLAIN_NAMES) }.to_vec()
}

const CLASSES: [&[u8]; 16] = [
    b"[[:alpha:]]",
    b"[[:upper:]]",
    b"[[:lower:]]",
    b"[[:digit:]]",
    b"[[:alnum:]]",
    b"[[:punct:]]",
    b"[[:space:]]",
    b"[[:blank:]]",
    b"[[:cntrl:]]",
    b"[[:graph:]]",
    b"[[:print:]]",
    b"[[:xdigit:]]",
    b"[[:none:]]",
    b"[![:alpha:].]",
    b"[[:alpha:]-z]",
    b"[[:alpha]",
];

/// What may stand for one byte of a name.
fn instead_of(byte: u8, dice: &mut Dice) -> Bytes {
    let (low, high) =
        (byte.saturating_sub(dice.roll(4) as u8), byte.saturating_add(dice.roll(4) as u8));
    let other = match byte {
        b'a'..=b'z' => byte.to_ascii_uppercase(),
        b'A'..=b'Z' => byte.to_ascii_lowercase(),
        _ => b'q',
    };
    match dice.roll(24) {
        0..=4 => vec![b'?'],
        5 => vec![b'*'],
        6 => b"**".to_vec(),
        7 => vec![b'[', byte, b']'],
        8 => vec![b'[', b'!', byte, b']'],
        9 => vec![b'[', b'^', other, b']'],
        10 | 11 => vec![b'[', low, b'-', high, b']'],
        12 => dice.pick(&CLASSES).to_vec(),
        13 => vec![b'\\', byte],
        14 => vec![other],
        15 => vec![b'[', b']', byte, b']'],
        16 => vec![b'[', b'\\', byte, b']'],
        17 => vec![b'[', other, byte, b'-', b']'],
        18 => vec![b'[', low, b'-', b'\\', high, b']'],
        19 => vec![b'[', b'[', byte, b']'],
        20 => vec![b'[', byte],
        21 => vec![b'[', b'\\', low, b'-', high, b']'],
        22 => vec![b'[', other, b'/', byte, b']'],
        _ => vec![b'\\', other],
    }
}

/// A pattern that may match this part of a path, or nearly.
fn part_like(name: &[u8], dice: &mut Dice) -> Bytes {
    match dice.roll(12) {
        0 => return b"*".to_vec(),
        1 => return b"**".to_vec(),
        2 => return [&name[..dice.roll(name.len() + 1)], b"*"].concat(),
        3 => return [b"*", &name[dice.roll(name.len() + 1)..]].concat(),
        4 => return [&name[..dice.roll(name.len() + 1)], b"**"].concat(),
        _ => {}
    }
    let mut pattern = Bytes::new();
    for &byte in name {
        if dice.one_in(5) {
            pattern.extend(instead_of(byte, dice));
        } else if b"*?[\\ ".contains(&byte) && !dice.one_in(4) {
            pattern.extend([b'\\', byte]);
        } else {
            pattern.push(byte);
        }
        if dice.one_in(16) {
            pattern.extend(dice.pick(&[b"*", b"**", b"?", b"\\"]));
        }
    }
    pattern
}

/// One line of patterns, mostly of something that is there.
fn line(below: &[u8], paths: &[Bytes], dice: &mut Dice) -> Bytes {
    let mut line = Bytes::new();
    for (odds, prefix) in
        [(4, &b"!"[..]), (4, b"/"), (9, b"**/"), (30, b"\\"), (60, b" "), (80, b"//")]
    {
        if dice.one_in(odds) {
            line.extend(prefix);
        }
    }
    let near: Vec<&[u8]> = paths.iter().filter_map(|path| path.strip_prefix(below)).collect();
    if !near.is_empty() && !dice.one_in(8) {
        let path = near[dice.roll(near.len())];
        let parts: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
        let from = if dice.one_in(2) { 0 } else { dice.roll(parts.len()) };
        let to = from + 1 + dice.roll(parts.len() - from);
        let mut parts: Vec<Bytes> =
            parts[from..to].iter().map(|part| part_like(part, dice)).collect();
        if parts.len() > 1 && dice.one_in(5) {
            // Two are one, or one is none.
            let at = dice.roll(parts.len());
            parts[at] = dice.pick(&[b"**", b"*", b"", b"***", b"a**", b"**b"]).to_vec();
        }
        line.extend(parts.join(if dice.one_in(20) { &b"\\/"[..] } else { b"/" }));
    } else {
        let parts: Vec<Bytes> = (0..=dice.roll(3)).map(|_| part_like(&name(dice), dice)).collect();
        line.extend(parts.join(&b'/'));
    }
    let ends: [&[u8]; 24] = [
        b"", b"", b"", b"", b"", b"", b"", b"", b"", b"", b"", b"/", b"/", b"/", b"/", b"/**",
        b"/*", b" ", b"  ", b"\\ ", b"\t", b"\\", b"/ ", b"//",
    ];
    line.extend(dice.pick(&ends));
    if dice.one_in(150) {
        line.insert(dice.roll(line.len() + 1), 0);
    }
    line
}

/// A whole file of patterns, as the folder `below`, with its slash, has it.
fn rules(below: &[u8], paths: &[Bytes], lines: usize, dice: &mut Dice) -> Bytes {
    let mut text = match dice.roll(40) {
        0 | 1 => b"\xef\xbb\xbf".to_vec(),
        2 => b"\xff\xfe".to_vec(),
        _ => Bytes::new(),
    };
    let end = if dice.one_in(6) { &b"\r\n"[..] } else { b"\n" };
    for _ in 0..lines {
        match dice.roll(25) {
            0 => text.extend(dice.pick(&[
                b"", b"# a", b"#", b" ", b"\t", b"!", b"/", b"\r", b"\\", b"!/", b"**", b"*/",
            ])),
            _ => text.extend(line(below, paths, dice)),
        }
        text.extend(if dice.one_in(30) { &b"\r\n"[..] } else { end });
    }
    if dice.one_in(6) {
        text.pop();
    }
    text
}

/// A repository with sets in it.
struct Batch {
    dir: tempfile::TempDir,
    /// Everything that is there but the files of patterns, by its path below the root.
    paths: Vec<Bytes>,
    /// Repositories inside, by their path with its slash.
    inner: Vec<Bytes>,
    tracked: BTreeSet<Bytes>,
    fold: bool,
}

impl Batch {
    fn root(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn at(&self, path: &[u8]) -> PathBuf {
        self.root().join(OsStr::from_bytes(path))
    }

    fn git(&self, folder: &[u8], args: &[&str], input: &[u8]) -> Bytes {
        let mut child = Command::new("git")
            .args(args)
            .current_dir(self.at(folder))
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input).unwrap());
            child.wait_with_output().unwrap()
        });
        // One of check-ignore says that nothing is ignored.
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some_and(|code| code < 2), "git {args:?}: {said}");
        output.stdout
    }

    fn write(&self, path: &[u8], bytes: &[u8]) -> bool {
        let path = self.at(path);
        let above = std::fs::DirBuilder::new().recursive(true).create(path.parent().unwrap());
        // A path through a file, or to a folder, is not to be had.
        above.is_ok()
            && crate::fs::create_new(&path).is_ok_and(|mut file| file.write_all(bytes).is_ok())
    }

    /// Fills the folder `below`, which ends with a slash or is empty; returns what is there.
    fn fill(&mut self, below: &[u8], dice: &mut Dice) -> Vec<Bytes> {
        let mut paths = BTreeSet::new();
        let mut folders = vec![Bytes::new()];
        for _ in 0..4 + dice.roll(16) {
            let mut path = folders[dice.roll(folders.len())].clone();
            for _ in 0..dice.roll(3) {
                path.extend(name(dice));
                path.push(b'/');
                folders.push(path.clone());
            }
            path.extend(name(dice));
            let mut ways = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
            if ways.any(|(at, _)| self.at(&[below, &path[..at]].concat()).is_symlink()) {
                continue;
            }
            let full = [below, &path].concat();
            let above = self.at(&full);
            drop(std::fs::DirBuilder::new().recursive(true).create(above.parent().unwrap()));
            match dice.roll(20) {
                0 => drop(std::os::unix::fs::symlink("a", self.at(&full))),
                1 => drop(std::fs::DirBuilder::new().create(self.at(&full))),
                _ => drop(self.write(&full, b"x")),
            }
            let ways = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at);
            for to in ways.chain([path.len()]) {
                if self.at(&[below, &path[..to]].concat()).symlink_metadata().is_ok() {
                    paths.insert(path[..to].to_vec());
                }
            }
        }
        paths.into_iter().collect()
    }

    /// Folders of a set, each with its slash, and the set itself.
    fn folders(&self, below: &[u8], paths: &[Bytes]) -> Vec<Bytes> {
        let real = |path: &&Bytes| {
            self.at(&[below, path].concat()).symlink_metadata().is_ok_and(|data| data.is_dir())
        };
        let slash = |path: &Bytes| [path.as_slice(), b"/"].concat();
        std::iter::once(Bytes::new()).chain(paths.iter().filter(real).map(slash)).collect()
    }

    /// One set. Returns patterns for the files of the whole repository, and what it has tracked.
    fn set(&mut self, below: &[u8], dice: &mut Dice) -> (Vec<Bytes>, Vec<Bytes>) {
        let paths = self.fill(below, dice);
        let folders = self.folders(below, &paths);
        let mut inner: Option<Bytes> = None;
        if dice.one_in(30) && folders.len() > 1 {
            let at = folders[1 + dice.roll(folders.len() - 1)].clone();
            self.repository(&[below, &at].concat(), &paths, &at, dice);
            inner = Some(at);
        }
        let is_inside = |path: &Bytes| inner.as_ref().is_some_and(|at| path.starts_with(at));
        for folder in &folders {
            if dice.one_in(if folder.is_empty() { 2 } else { 4 }) {
                let lines = dice.roll(5);
                let text = rules(folder, &paths, lines, dice);
                let file = [below, folder, b".gitignore"].concat();
                match dice.roll(60) {
                    0 => drop(std::os::unix::fs::symlink("a", self.at(&file))),
                    1 => drop(std::fs::DirBuilder::new().create(self.at(&file))),
                    _ => drop(self.write(&file, &text)),
                }
            }
        }
        let mut tracked = Vec::new();
        // What is in a repository inside may be tracked around it: for git it is none then.
        let tracks_inside = dice.one_in(3);
        for path in paths.iter().filter(|path| tracks_inside || !is_inside(path)) {
            let full = [below, path].concat();
            if dice.one_in(5) && !self.at(&full).symlink_metadata().unwrap().is_dir() {
                tracked.push(full);
            }
        }
        let global = (0..dice.roll(3)).map(|_| line(b"", &paths, dice)).collect();
        let inside = paths.iter().filter(|path| {
            !is_inside(path) || inner.as_ref().is_some_and(|at| path.len() < at.len())
        });
        let kept: Vec<_> = inside.map(|path| [below, path].concat()).collect();
        self.paths.extend(kept);
        self.inner.extend(inner.map(|at| [below, &at].concat()));
        (global, tracked)
    }

    /// Makes a folder a repository with patterns of its own, as `git init` would.
    fn repository(&self, at: &[u8], paths: &[Bytes], below: &[u8], dice: &mut Dice) {
        for folder in ["objects", "refs", "info"] {
            let folder = self.at(at).join(".git").join(folder);
            std::fs::DirBuilder::new().recursive(true).create(folder).unwrap();
        }
        assert!(self.write(&[at, b".git/HEAD"].concat(), b"ref: refs/heads/main\n"));
        assert!(
            self.write(&[at, b".git/config"].concat(), b"[core]\n\trepositoryFormatVersion = 0\n")
        );
        let lines = dice.roll(3);
        let text = rules(below, paths, lines, dice);
        assert!(self.write(&[at, b".git/info/exclude"].concat(), &text));
    }

    /// A repository with so many sets; one has it for itself.
    fn new(seed: u64, sets: usize) -> Self {
        let mut dice = Dice::new(seed);
        let dir = tempfile::tempdir().unwrap();
        crate::fs::create_dir_all(&dir.path().join("work")).unwrap();
        let mut batch = Self {
            dir,
            paths: Vec::new(),
            inner: Vec::new(),
            tracked: BTreeSet::new(),
            fold: dice.one_in(4),
        };
        batch.repository(b"", &[], b"", &mut dice);
        let excludes = batch.dir.path().join("excludes");
        let config = format!(
            "[core]\n\trepositoryFormatVersion = 0\n\tignoreCase = {}\n\texcludesFile = {}\n",
            batch.fold,
            excludes.display()
        );
        crate::fs::write_atomic(&batch.at(b".git/config"), config.as_bytes(), 0o644).unwrap();
        let mut global = [b"\n".to_vec(), b"\n".to_vec()];
        if sets == 1 {
            let (_, names) = batch.set(b"", &mut dice);
            batch.tracked.extend(names);
            let paths = batch.paths.clone();
            for text in &mut global {
                let lines = dice.roll(4);
                *text = rules(b"", &paths, lines, &mut dice);
            }
        } else {
            for at in 0..sets {
                let below = format!("s{at:03}/").into_bytes();
                let (lines, names) = batch.set(&below, &mut dice);
                batch.tracked.extend(names);
                for mut line in lines {
                    line.retain(|&byte| byte != b'\n');
                    // For this set alone: others have names like its.
                    let line = line.strip_prefix(b"!").map_or_else(
                        || [b"/", &below[..], &line].concat(),
                        |rest| [b"!", &below[..], rest].concat(),
                    );
                    global[dice.roll(2)].extend([&line[..], b"\n"].concat());
                }
            }
        }
        crate::fs::write_atomic(&excludes, &global[0], 0o644).unwrap();
        crate::fs::write_atomic(&batch.at(b".git/info/exclude"), &global[1], 0o644).unwrap();
        let tracked: Bytes =
            batch.tracked.iter().flat_map(|name| [name, &b"\0"[..]].concat()).collect();
        batch.git(b"", &["update-index", "--add", "-z", "--stdin"], &tracked);
        batch
    }

    /// What git lists that is there, with what repositories inside list.
    fn by_git(&self, folder: &[u8]) -> BTreeSet<Bytes> {
        let listed = self.git(folder, &["ls-files", "-co", "--exclude-standard", "-z"], b"");
        let mut found = BTreeSet::new();
        for name in listed.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            let path = [folder, name].concat();
            if path.ends_with(b"/") {
                found.extend(self.by_git(&path));
            } else if self.at(&path).symlink_metadata().is_ok_and(|data| !data.is_dir()) {
                found.insert(path);
            }
        }
        found
    }

    /// The paths that patterns ignore, of those outside of repositories inside, whatever is tracked.
    fn ignored_by_patterns(&self) -> BTreeSet<Bytes> {
        // For git these are patterns of paths; only without the index it takes each for itself.
        let input: Bytes =
            self.paths.iter().flat_map(|path| [b"./", &path[..], b"\0"].concat()).collect();
        let said =
            self.git(b"", &["check-ignore", "--no-index", "--stdin", "-z", "-v", "-n"], &input);
        let fields: Vec<&[u8]> = said.split(|&byte| byte == 0).collect();
        let answers = fields.chunks_exact(4);
        assert_eq!(answers.len(), self.paths.len());
        let is_ignored = |of: &&[&[u8]]| !of[0].is_empty() && !of[2].starts_with(b"!");
        answers.filter(is_ignored).map(|of| of[3].strip_prefix(b"./").unwrap().to_vec()).collect()
    }

    /// Whether the index has this name, in whatever letters where they are the same.
    fn is_tracked(&self, path: &[u8]) -> bool {
        self.tracked.contains(path)
            || (self.fold && self.tracked.iter().any(|one| one.eq_ignore_ascii_case(path)))
    }

    fn leads_to_tracked(&self, path: &[u8]) -> bool {
        let below = [path, b"/"].concat();
        self.tracked
            .iter()
            .filter_map(|one| one.get(..below.len()))
            .any(|one| one == below || (self.fold && one.eq_ignore_ascii_case(&below)))
    }

    /// Files and folders of the scan.
    fn by_scan(&self) -> (BTreeSet<Bytes>, BTreeSet<Bytes>) {
        let objects = MemoryObjects::default();
        let (options, progress) = (ScanOptions::default(), Progress::default());
        let scanned =
            scan(&self.root(), &StatCache::default(), &objects, &options, &progress).unwrap();
        assert_eq!(scanned.notes, Vec::<String>::new());
        let (mut files, mut folders) = (BTreeSet::new(), BTreeSet::new());
        let mut left = vec![(Bytes::new(), scanned.root)];
        while let Some((path, tree)) = left.pop() {
            for_each_entry(&objects, tree, |entry| {
                let path = [&path[..], &entry.name[..]].concat();
                if let EntryKind::Directory { tree, .. } = entry.kind {
                    folders.insert(path.clone());
                    left.push(([&path[..], b"/"].concat(), tree));
                } else {
                    files.insert(path);
                }
                Ok::<_, StoreError>(())
            })
            .unwrap();
        }
        (files, folders)
    }

    /// What git and the scan say differently.
    fn differences(&self) -> Vec<String> {
        let (files, folders) = self.by_scan();
        let (mut listed, mut ignored) = (self.by_git(b""), self.ignored_by_patterns());
        // Where letters are the same, git takes one file for another that is beside it, and lists it not at all.
        let beside = self.paths.iter().filter(|path| {
            let is_file = self.at(path).symlink_metadata().is_ok_and(|data| !data.is_dir());
            self.fold && is_file && self.is_tracked(path)
        });
        listed.extend(beside.cloned());
        // The same inside of repositories inside, where something is tracked around them.
        listed.extend(files.iter().filter(|path| self.fold && self.is_tracked(path)).cloned());
        // What git takes for a folder, because something in it is tracked around it, is a repository, too; unless it is
        // ignored around it: then what is tracked is taken, and nothing else.
        let inner = self.inner.iter().filter(|at| !ignored.contains(&at[..at.len() - 1]));
        let there = inner.filter(|at| folders.contains(&at[..at.len() - 1]));
        for at in there {
            listed.extend(self.by_git(at));
        }
        ignored.retain(|path| !self.is_tracked(path) && !self.leads_to_tracked(path));
        let mut found = Vec::new();
        let mut differs = |path: &Bytes, what: &str| {
            found.push(format!(
                "{what}: {:?}{}",
                path.escape_ascii().to_string(),
                self.rules_for(path)
            ));
        };
        files.difference(&listed).for_each(|path| differs(path, "git does not list it"));
        listed.difference(&files).for_each(|path| differs(path, "git lists it"));
        for path in &self.paths {
            // A folder inside an ignored one is there for what it holds.
            let is_there =
                files.contains(path) || folders.contains(path) || self.leads_to_tracked(path);
            if ignored.contains(path) && files.contains(path) {
                differs(path, "git ignores it");
            } else if !ignored.contains(path) && !is_there {
                differs(path, "git does not ignore it");
            } else if ignored.contains(path) && folders.contains(path) {
                differs(path, "git ignores the folder");
            }
        }
        found
    }

    /// All patterns that may have to do with a path.
    fn rules_for(&self, path: &[u8]) -> String {
        let ways = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at + 1);
        let mut files: Vec<_> = std::iter::once(0)
            .chain(ways)
            .map(|to| [&path[..to], b".gitignore"].concat())
            .collect();
        files.extend([b".git/info/exclude".to_vec(), b"../excludes".to_vec()]);
        let set = path.split(|&byte| byte == b'/').next().unwrap_or_default();
        let mut said = vec![format!(" (ignoreCase {})", self.fold)];
        for file in files {
            let Ok(Some(text)) = crate::fs::read_if_exists(&self.at(&file), 1 << 20) else {
                continue;
            };
            let lines = text.split(|&byte| byte == b'\n');
            let lines = lines.filter(|line| {
                !file.ends_with(b"ex")
                    && (text.len() < 400 || line.windows(set.len()).any(|part| part == set))
            });
            for line in lines {
                said.push(format!("    {}: {}", file.escape_ascii(), line.escape_ascii()));
            }
        }
        said.join("\n")
    }
}

fn is_nightly() -> bool {
    #[expect(clippy::disallowed_methods, reason = "a test, told how much to do")]
    std::env::var_os("BATON_NIGHTLY").is_some()
}

/// A quarter of all sets. One run shows all that differ.
fn check_share(share: u64) {
    // Repositories of many sets, sets in each, repositories of one.
    let (many, of, single) = if is_nightly() { (120, 200, 1000) } else { (1, 100, 15) };
    let mut found = Vec::new();
    let mut differing = 0;
    for at in 0..many + single {
        let (seed, sets) = (at * 4 + share + 1, if at < many { of } else { 1 });
        let differences = Batch::new(seed, sets).differences();
        differing += usize::from(!differences.is_empty());
        found.extend(differences.into_iter().map(|one| format!("seed {seed} of {sets}: {one}")));
        if found.len() > 100 {
            break;
        }
    }
    let shown = found.iter().take(40).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(found.is_empty(), "{} differences in {differing} repositories:\n{shown}", found.len());
}

#[test]
fn git_and_the_scan_agree_on_random_rules_0() {
    check_share(0);
}

#[test]
fn git_and_the_scan_agree_on_random_rules_1() {
    check_share(1);
}

#[test]
fn git_and_the_scan_agree_on_random_rules_2() {
    check_share(2);
}

#[test]
fn git_and_the_scan_agree_on_random_rules_3() {
    check_share(3);
}
