//! What is dirty, looked at; all else as it was.
//!
//! Dirty paths make a small tree of their own, which is visited from the root down. In each directory the
//! dirty names are looked at, subdirectories on the way to others are visited, and the directory is edited:
//! entries that nobody named are not even read from the disk. What may be another directory than before
//! is walked.
//!
//! - [`plan`]: the tree of dirty paths
//!
//! **Invariant:** the result is what a scan of everything finds, provided that whatever differs from
//! `before` is covered by `dirty`.

mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use baton_protocol::id::TreeId;
use baton_protocol::object::{Entry, EntryKind, Omission, OmitReason, TreeSums};
use baton_protocol::path::{MAX_PATH, RelPath, is_git_name};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::directory::{self, join};
use super::dirty::{Depth, Dirty, DirtyDirectory, split};
use super::entry::{Known, Taker, dropped_bits, exhausted, look, permissions, reason};
use super::ground::{Found, Ground, Start, read_git_ignore};
use super::links::Links;
use super::read::FileReader;
use super::walk::walk;
use super::{Progress, ScanError, ScanOptions, Scanned};
use crate::ignore::{BATON_IGNORE, RuleChange, Scope, Verdict, WORKTREE_INCLUDE};
use crate::objects::{ObjectSink, ObjectSource};
use crate::secrets::Finding;
use crate::stat_cache::{CachedDirectory, CachedFile, FileStat, Inode, StatCache};
use crate::trees::{Edits, OpenedDirectory};
use plan::Node;

/// Times that names of files with several are looked at because another one was: all are known after one.
const LINK_ROUNDS: u32 = 4;

/// What a seal works with, before it has rules.
pub(super) struct Unruled<'a, S> {
    pub(super) fd: BorrowedFd<'a>,
    pub(super) cache: &'a StatCache,
    pub(super) sink: &'a S,
    pub(super) progress: &'a Progress,
    pub(super) options: &'a ScanOptions,
}

/// Looks at what is dirty. Nothing where everything has to be looked at instead.
pub(super) fn seal<S: ObjectSource + ObjectSink>(
    ground: &Unruled<'_, S>,
    before: Scanned,
    dirty: &Dirty,
) -> Result<Option<Scanned>, ScanError> {
    let Scanned { root, root_mode, sums, omitted, held, rules, links, .. } = before;
    for (from, to) in dirty.moves() {
        ground.cache.rename(from, to);
    }
    let mut plan = Node::default();
    for (path, marks) in dirty.directories() {
        plan.at(path).marks.add(marks);
    }
    for change in rules.refresh() {
        match change {
            RuleChange::Below(path) if path.is_empty() => return Ok(None),
            RuleChange::Below(path) => plan.at(&path).marks.walk = true,
            RuleChange::Paths(paths) => paths.iter().for_each(|path| plan.look_on_the_way(path)),
        }
    }
    for (directory, name) in links.exposed() {
        plan.name(directory, name, Depth::Look);
    }
    let ground = Ground {
        fd: ground.fd,
        cache: ground.cache,
        sink: ground.sink,
        progress: ground.progress,
        options: ground.options,
        trusted: ground.cache.is_trusted(),
        rules: &rules,
    };
    let mut seal = Seal {
        taker: Taker {
            sink: ground.sink,
            progress: ground.progress,
            reader: FileReader::default(),
        },
        ground: &ground,
        omitted: omitted.into_iter().collect(),
        held,
        links,
        linked: Vec::new(),
        directories: Vec::new(),
        hashed_files: 0,
        hashed_bytes: 0,
    };
    let mut found = Found { tree: root, sums, mode: root_mode };
    let mut round = 0;
    while !plan.is_empty() {
        if plan.marks.walk || seal.root_rules_changed(&plan.marks) {
            return Ok(None);
        }
        let fd = rustix::io::fcntl_dupfd_cloexec(ground.fd, 0).map_err(exhausted)?;
        let above = Scope::default();
        let here = Here { path: Vec::new(), verdict: Verdict::Keep, above: &above };
        match seal.visit(&fd, &here, (found.tree, found.sums), &mut plan)? {
            Some(sealed) => found = sealed,
            None => return Ok(None),
        }
        plan = Node::default();
        round += 1;
        if round < LINK_ROUNDS {
            seal.plan_other_names(&mut plan);
        }
    }
    let Seal { omitted, held, links, mut directories, hashed_files, hashed_bytes, .. } = seal;
    directories.sort_unstable();
    directories.dedup();
    Ok(Some(Scanned {
        root: found.tree,
        root_mode: found.mode,
        sums: found.sums,
        omitted: omitted.into_iter().collect(),
        held,
        directories,
        hashed_files,
        hashed_bytes,
        notes: rules.notes(),
        links,
        rules,
    }))
}

/// A directory that is visited.
struct Here<'a> {
    path: Vec<u8>,
    verdict: Verdict,
    above: &'a Scope,
}

/// One name of a directory that is visited.
struct Name<'a> {
    fd: &'a OwnedFd,
    directory: &'a [u8],
    scope: &'a Scope,
    own: &'a [u8],
    path: Vec<u8>,
    depth: Depth,
    /// What is known of the directory, where all of it was read.
    cached: Option<&'a CachedDirectory>,
    /// As it was.
    old: Option<Entry>,
}

/// A seal under way.
struct Seal<'a, 'g, S> {
    taker: Taker<'a, S>,
    ground: &'g Ground<'a, S>,
    omitted: BTreeSet<Omission>,
    held: BTreeMap<Vec<u8>, Finding>,
    links: Links,
    /// Names that were looked at, of files that have others.
    linked: Vec<(Vec<u8>, Vec<u8>)>,
    directories: Vec<Vec<u8>>,
    hashed_files: u64,
    hashed_bytes: u64,
}

impl<S: ObjectSource + ObjectSink> Seal<'_, '_, S> {
    /// Visits a directory that stands where it stood. Nothing where it is not readable any more.
    fn visit(
        &mut self,
        fd: &OwnedFd,
        here: &Here<'_>,
        (old, sums): (TreeId, TreeSums),
        node: &mut Node,
    ) -> Result<Option<Found>, ScanError> {
        if self.ground.progress.is_cancelled() {
            return Err(ScanError::Cancelled);
        }
        let stat = match rustix::fs::fstat(fd) {
            Ok(stat) => stat,
            Err(error) => return self.unreadable(&here.path, error),
        };
        let is_repository = look(fd.as_fd(), b".git").is_ok();
        let mut scope =
            self.ground.rules.enter(here.above, &here.path, here.verdict, is_repository);
        read_git_ignore(&mut scope, fd, &here.path);
        let sink = self.ground.sink;
        let mut opened = OpenedDirectory::open(sink, old)?;
        let mut names = std::mem::take(&mut node.marks.names);
        for name in node.below.keys() {
            names.entry(name.clone()).or_insert(Depth::Look);
        }
        let mut cached = None;
        if node.marks.list {
            let listed = match directory::list(fd.as_fd()) {
                Ok(listed) => listed,
                Err(error) => return self.unreadable(&here.path, error),
            };
            let listed = listed.into_iter().map(|(name, _)| name);
            // What was left out may be gone, too.
            let told = self.omitted.iter().map(|it| split(it.path.as_bytes()));
            let told = told.filter(|(directory, _)| *directory == here.path.as_slice());
            let told: Vec<_> =
                told.filter(|(_, name)| !name.is_empty()).map(|(_, name)| name.to_vec()).collect();
            for name in listed.chain(opened.names(sink)?).chain(told) {
                names.entry(name).or_insert(Depth::Look);
            }
            cached = Some(self.ground.cache.directory(&here.path));
            self.directories.push(here.path.clone());
        }
        self.said_of(&here.path, dropped_bits(&stat));
        let mut edits = Edits::new();
        for (name, depth) in names {
            let old = opened.find(sink, &name)?.cloned();
            let one = Name {
                fd,
                directory: &here.path,
                scope: &scope,
                path: join(&here.path, &name),
                own: &name,
                depth,
                cached: cached.as_ref(),
                old,
            };
            let new = self.name(&one, node.below.get_mut(&name))?;
            if new != one.old {
                edits.insert(name, new);
            }
        }
        let mode = permissions(&stat);
        if edits.is_empty() {
            return Ok(Some(Found { tree: old, sums, mode }));
        }
        let (tree, sums) = opened.edit(sink, edits)?;
        Ok(Some(Found { tree, sums, mode }))
    }

    /// Looks at one name of a directory: what becomes of it.
    fn name(
        &mut self,
        one: &Name<'_>,
        below: Option<&mut Node>,
    ) -> Result<Option<Entry>, ScanError> {
        let stat = match look(one.fd.as_fd(), one.own) {
            Ok(stat) => stat,
            Err(error) => {
                let reason = reason(error).map_err(exhausted)?;
                // What is not there was taken away: nothing has to be said of it.
                self.gone(one, (reason != OmitReason::Vanished).then_some(reason));
                return Ok(None);
            }
        };
        if is_git_name(one.own) {
            self.gone(one, Some(OmitReason::GitMetadata));
            return Ok(None);
        }
        if one.path.len() > MAX_PATH {
            self.gone(one, None);
            self.say(one.directory, OmitReason::NotCarried);
            return Ok(None);
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_directory = kind == FileType::Directory;
        match self.ground.rules.verdict(one.scope, &one.path, is_directory) {
            Verdict::Skip => {
                self.gone(one, None);
                Ok(None)
            }
            verdict if is_directory => self.subdirectory(one, &stat, verdict, below),
            _ => self.file(one, kind),
        }
    }

    fn subdirectory(
        &mut self,
        one: &Name<'_>,
        stat: &Stat,
        verdict: Verdict,
        below: Option<&mut Node>,
    ) -> Result<Option<Entry>, ScanError> {
        let before = match one.old.as_ref().map(|entry| entry.kind) {
            Some(EntryKind::Directory { tree, below, .. }) => Some((tree, below)),
            _ => None,
        };
        let inode = Inode::new(stat);
        let same = one.depth < Depth::Walk && self.ground.cache.inode(&one.path) == Some(inode);
        let found = match (before.filter(|_| same), below) {
            (Some((tree, sums)), None) => {
                self.said_of(&one.path, dropped_bits(stat));
                Some(Found { tree, sums, mode: permissions(stat) })
            }
            (Some(old), Some(node)) => match directory::open_in(one.fd.as_fd(), one.own) {
                Ok(fd) if self.may_visit(&one.path, &fd, inode, &node.marks) => {
                    let here = Here { path: one.path.clone(), verdict, above: one.scope };
                    self.visit(&fd, &here, old, node)?
                }
                Ok(_) => self.walk(one, verdict)?,
                Err(error) => self.unreadable(&one.path, error)?,
            },
            (None, _) => self.walk(one, verdict)?,
        };
        Ok(found.map(|Found { tree, sums, mode }| {
            let kind = EntryKind::Directory { mode, tree, below: sums };
            Entry { name: one.own.to_vec(), kind }
        }))
    }

    /// Looks at everything below a directory.
    fn walk(&mut self, one: &Name<'_>, verdict: Verdict) -> Result<Option<Found>, ScanError> {
        self.forget(&one.path);
        self.ground.rules.forget_below(&one.path);
        let above = one.scope.clone();
        let walked = walk(self.ground, Start { path: one.path.clone(), verdict, above })?;
        self.ground.cache.retain_below(&one.path, &walked.directories);
        self.omitted.extend(walked.omitted);
        self.held.extend(walked.held);
        for (linked, directory, name) in walked.links {
            self.links.met(&directory, &name, Some(linked));
            self.linked.push((directory, name));
        }
        self.directories.extend(walked.directories);
        self.hashed_files += walked.hashed_files;
        self.hashed_bytes += walked.hashed_bytes;
        Ok(walked.found)
    }

    fn file(&mut self, one: &Name<'_>, kind: FileType) -> Result<Option<Entry>, ScanError> {
        let known = match one.cached {
            Some(directory) => directory.file(one.own).cloned(),
            None => self.ground.cache.file(one.directory, one.own),
        };
        // Where a directory was expected another file may have come, but with another inode.
        let file = known.as_ref().filter(|_| one.depth != Depth::Read);
        let inspect = |bytes: &[u8]| self.ground.inspect(one.scope, &one.path, bytes);
        let known_of = Known {
            file,
            kept: self.ground.trusted,
            inspect: self.ground.options.guard.is_some().then_some(&inspect),
        };
        let taken = self.taker.take(one.fd.as_fd(), one.own, kind, known_of)?;
        self.unsay_below(&one.path);
        self.held.extend(taken.held.map(|finding| (one.path.clone(), finding)));
        if let Some(reason) = taken.omitted {
            self.say(&one.path, reason);
        }
        let mut cache = None;
        if let Some(Entry {
            kind: EntryKind::File { blob, .. } | EntryKind::Symlink { target: blob },
            ..
        }) = &taken.entry
        {
            if taken.read {
                self.hashed_files += 1;
                self.hashed_bytes += blob.size;
            }
            let started = self.ground.options.started_at_ns;
            cache = taken.stat.map(|stat| CachedFile::seen(one.own, stat, blob, started));
        }
        if cache != known {
            self.ground.cache.set(one.directory, one.own, cache);
        }
        if one.old.as_ref().is_some_and(is_directory) {
            self.ground.cache.remove_below(&one.path);
            self.links.forget_below(&one.path);
        }
        self.links.met(one.directory, one.own, taken.links);
        if taken.links.is_some() {
            self.linked.push((one.directory.to_vec(), one.own.to_vec()));
        }
        Ok(taken.entry)
    }

    /// A name is not in the tree any more, or never was.
    fn gone(&mut self, one: &Name<'_>, told: Option<OmitReason>) {
        match &one.old {
            Some(old) if is_directory(old) => self.ground.cache.remove_below(&one.path),
            _ => self.ground.cache.set(one.directory, one.own, None),
        }
        self.forget(&one.path);
        if let Some(reason) = told {
            self.say(&one.path, reason);
        }
    }

    /// A directory that stands there and cannot be read.
    fn unreadable(&mut self, path: &[u8], error: Errno) -> Result<Option<Found>, ScanError> {
        let reason = reason(error).map_err(exhausted)?;
        self.forget(path);
        self.ground.cache.remove_below(path);
        self.say(path, reason);
        Ok(None)
    }

    /// Whether what is known of a directory still says something about it: it is the same one, and its
    /// rules are those of before.
    fn may_visit(&self, path: &[u8], fd: &OwnedFd, inode: Inode, marks: &DirtyDirectory) -> bool {
        let deciding: [&[u8]; 2] = [b".gitignore", b".git"];
        !marks.walk
            && rustix::fs::fstat(fd).is_ok_and(|stat| Inode::new(&stat) == inode)
            && deciding.iter().all(|name| !marks.names.contains_key(*name))
            && (!marks.list || !self.listed_rules_changed(path, fd.as_fd(), &deciding))
    }

    /// Whether what decides about everything in the tree is among the dirty names of its root.
    fn root_rules_changed(&self, marks: &DirtyDirectory) -> bool {
        let deciding: [&[u8]; 4] = [BATON_IGNORE, WORKTREE_INCLUDE, b".gitignore", b".git"];
        deciding.iter().any(|name| marks.names.contains_key(*name))
            || (marks.list && self.listed_rules_changed(b"", self.ground.fd, &deciding))
    }

    /// The same where nobody knows which names are dirty.
    fn listed_rules_changed(&self, path: &[u8], fd: BorrowedFd<'_>, deciding: &[&[u8]]) -> bool {
        deciding.iter().any(|name| {
            let now = look(fd, name).ok();
            if *name == b".git" {
                return now.is_some() != self.is_omitted(&join(path, name));
            }
            match (now, self.ground.cache.file(path, name)) {
                (Some(stat), Some(file)) => file.stat != FileStat::new(&stat),
                (None, None) => false,
                _ => true,
            }
        })
    }

    /// Names of the files that were looked at and have others: those are looked at next.
    fn plan_other_names(&mut self, plan: &mut Node) {
        let seen: BTreeSet<(Vec<u8>, Vec<u8>)> =
            std::mem::take(&mut self.linked).into_iter().collect();
        if seen.is_empty() {
            return;
        }
        let mut wanted = BTreeSet::new();
        let search = self.links.take_unsearched();
        if !search.is_empty() {
            wanted.extend(self.ground.cache.names_of(&search));
        }
        for (directory, name) in &seen {
            wanted.extend(self.links.others(directory, name));
        }
        for (directory, name) in wanted.difference(&seen) {
            plan.name(directory, name, Depth::Read);
        }
    }

    fn is_omitted(&self, path: &[u8]) -> bool {
        let Ok(path) = RelPath::new(path) else { return false };
        self.omitted.iter().any(|omission| omission.path == path)
    }

    /// Nothing is said any more of a path and what is below it, nor known of its links.
    fn forget(&mut self, path: &[u8]) {
        self.unsay_below(path);
        self.links.forget_below(path);
    }

    fn unsay_below(&mut self, path: &[u8]) {
        if self.omitted.is_empty() {
            return;
        }
        let is_below = |at: &[u8]| {
            at.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.held.retain(|at, _| !is_below(at));
        let Ok(path) = RelPath::new(path) else { return };
        self.omitted.retain(|omission| {
            let rest = omission.path.as_bytes().strip_prefix(path.as_bytes());
            !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        });
    }

    /// What is to be said of a path, and of nothing below it.
    fn said_of(&mut self, path: &[u8], reason: Option<OmitReason>) {
        if !self.omitted.is_empty()
            && let Ok(path) = RelPath::new(path)
        {
            self.omitted.retain(|omission| omission.path != path);
        }
        if let Some(reason) = reason {
            self.say(path, reason);
        }
    }

    fn say(&mut self, path: &[u8], reason: OmitReason) {
        if let Ok(path) = RelPath::new(path) {
            self.omitted.insert(Omission { path, reason });
        }
    }
}

fn is_directory(entry: &Entry) -> bool {
    matches!(entry.kind, EntryKind::Directory { .. })
}
