//! Which additions are still as they were brought into a checkout: these are no change by who worked there.
//!
//! They are named as rules in the syntax of `.gitignore`, by the shortest list there is: mostly one folder.
//!
//! **Invariant:** what is named is the same, byte by byte, as it was brought, is no file of the snapshot, and is tracked by
//! no repository of the checkout. What cannot be looked at in a checkout is not named, and keeps nothing else from it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use baton_protocol::id::TreeId;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{
    AdditionsError, Failure, borrowed, check_level, entries, of_snapshot, open_top, tree_of,
};
use crate::ignore::Tracked;
use crate::layers::hides;
use crate::layers::overlay::Marks;
use crate::objects::ObjectSource;
use crate::scan::directory::{join, open_in};

/// Compared at once.
const BUFFER: usize = 64 * 1024;

/// Finds them in a checkout of a snapshot.
pub fn unchanged<S: ObjectSource + ?Sized>(
    objects: &S,
    snapshot: TreeId,
    additions: &Path,
    checkout: &Path,
) -> Result<Vec<u8>, AdditionsError> {
    find(objects, snapshot, additions, (checkout, checkout), Shown::All)
}

/// Finds those that the writable layer of a checkout has, too: touched, and left as they were.
pub fn unchanged_in_layer<S: ObjectSource + ?Sized>(
    objects: &S,
    snapshot: TreeId,
    additions: &Path,
    (upper, marks): (&Path, Marks),
    checkout: &Path,
) -> Result<Vec<u8>, AdditionsError> {
    find(objects, snapshot, additions, (upper, checkout), Shown::Changes(marks))
}

/// Whether the repository of a checkout tracks any of them: somebody has made them part of it.
pub fn are_tracked(additions: &Path, checkout: &Path) -> Result<bool, AdditionsError> {
    let top = entries(borrowed(&open_top(additions)?));
    let top = top.map_err(|error| Failure::from(error).at("reading", additions))?;
    let at_top = |path: &[u8]| {
        let first = path.split(|&byte| byte == b'/').next().unwrap_or_default();
        top.binary_search_by(|(name, _)| name.as_slice().cmp(first)).is_ok()
    };
    let is_there = |path: &[u8]| {
        at_top(path) && additions.join(OsStr::from_bytes(path)).symlink_metadata().is_ok()
    };
    Ok(Tracked::by_repository_of(checkout).any(is_there))
}

fn find<S: ObjectSource + ?Sized>(
    objects: &S,
    snapshot: TreeId,
    additions: &Path,
    (found_in, checkout): (&Path, &Path),
    shown: Shown,
) -> Result<Vec<u8>, AdditionsError> {
    let (ours, theirs) = (open_top(additions)?, open_top(found_in)?);
    let comparison = Comparison { objects, tracked: Tracked::by_repository_of(checkout), shown };
    let mut rules = Vec::new();
    comparison
        .compare(Some(snapshot), (&ours, &theirs), &[], 0, &mut rules)
        .map_err(|failure| failure.at("comparing", found_in))?;
    Ok(rules)
}

/// What a folder that is compared shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// All that is in a checkout.
    All,
    /// What is in its writable layer, which has such marks.
    Changes(Marks),
}

struct Comparison<'a, S: ?Sized> {
    objects: &'a S,
    tracked: Tracked,
    shown: Shown,
}

impl<S: ObjectSource + ?Sized> Comparison<'_, S> {
    /// Names what is unchanged in a folder; says whether that is all there is in it.
    fn compare(
        &self,
        snapshot: Option<TreeId>,
        (ours, theirs): (&OwnedFd, &OwnedFd),
        path: &[u8],
        level: usize,
        rules: &mut Vec<u8>,
    ) -> Result<bool, Failure> {
        check_level(level)?;
        let (ours_fd, theirs_fd) = (borrowed(ours), borrowed(theirs));
        let added = entries(ours_fd)?;
        let Some(found) = seen(entries(theirs_fd))? else { return Ok(false) };
        if let Shown::Changes(marks) = self.shown
            && seen(hides(theirs, marks))? != Some(false)
        {
            // All in it is what somebody has made.
            return Ok(false);
        }
        let of_snapshot = of_snapshot(self.objects, snapshot, &added)?;
        let mut is_all = found
            .iter()
            .all(|(name, _)| added.binary_search_by(|(other, _)| other.cmp(name)).is_ok());
        for (name, kind) in added {
            let known = of_snapshot.get(&name);
            let inner = join(path, &name);
            let is_there = found.binary_search_by(|(other, _)| other.cmp(&name));
            if is_there.is_err() && self.shown != Shown::All {
                continue;
            }
            let is_same_kind =
                is_there.ok().and_then(|at| found.get(at)).is_some_and(|(_, other)| *other == kind);
            if !is_same_kind || (known.is_some() && tree_of(known).is_none()) {
                is_all = false;
                continue;
            }
            if kind == FileType::Directory {
                let Some(folder) = seen(open_in(theirs_fd, &name))? else {
                    is_all = false;
                    continue;
                };
                let folders = (open_in(ours_fd, &name)?, folder);
                let mut of_inner = Vec::new();
                let tree = tree_of(known);
                let both = (&folders.0, &folders.1);
                let is_same = self.compare(tree, both, &inner, level + 1, &mut of_inner)?;
                let mode =
                    |folder: &OwnedFd| rustix::fs::fstat(folder).map(|it| it.st_mode & 0o777);
                let is_same = is_same && mode(&folders.0)? == mode(&folders.1)?;
                if is_same && tree.is_none() && add_rule(rules, &inner, true) {
                    continue;
                }
                rules.extend(of_inner);
                is_all = false;
            } else if known.is_some()
                || self.tracked.has(&inner)
                || seen(is_same(ours, theirs, &name, kind))? != Some(true)
                || !add_rule(rules, &inner, false)
            {
                is_all = false;
            }
        }
        Ok(is_all)
    }
}

/// What was seen of somebody's files; nothing where it cannot be, unless that is because this process can see no more.
fn seen<T>(looked: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => Err(error),
        Err(_) => Ok(None),
    }
}

fn is_same(ours: &OwnedFd, theirs: &OwnedFd, name: &[u8], kind: FileType) -> Result<bool, Errno> {
    if kind == FileType::Symlink {
        let target = |folder| rustix::fs::readlinkat(folder, name, Vec::new());
        return Ok(target(ours)? == target(theirs)?);
    }
    let stat = |folder| rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    let (a, b): (Stat, Stat) = (stat(ours)?, stat(theirs)?);
    if a.st_size != b.st_size || (a.st_mode ^ b.st_mode) & 0o777 != 0 {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |folder| rustix::fs::openat(folder, name, flags, Mode::empty()).map(File::from);
    have_same_bytes(open(ours)?, open(theirs)?)
}

fn have_same_bytes(mut ours: File, mut theirs: File) -> Result<bool, Errno> {
    let mut buffers = [vec![0; BUFFER], vec![0; BUFFER]];
    let [a, b] = &mut buffers;
    loop {
        let length = read(&mut ours, a)?;
        if read(&mut theirs, b)? != length || a.get(..length) != b.get(..length) {
            return Ok(false);
        }
        if length == 0 {
            return Ok(true);
        }
    }
}

/// Fills a buffer as far as there is something.
fn read(file: &mut File, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }
    Ok(length)
}

/// Adds a rule for exactly this path; says whether there can be one.
fn add_rule(rules: &mut Vec<u8>, path: &[u8], is_directory: bool) -> bool {
    // A rule is a line, and nothing stands for the end of one.
    if path.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return false;
    }
    rules.push(b'/');
    let last = path.len().saturating_sub(1);
    for (at, &byte) in path.iter().enumerate() {
        let special = matches!(byte, b'\\' | b'*' | b'?' | b'[');
        if special || (at == last && matches!(byte, b' ' | b'\t')) {
            rules.push(b'\\');
        }
        rules.push(byte);
    }
    if is_directory {
        rules.push(b'/');
    }
    rules.push(b'\n');
    true
}
