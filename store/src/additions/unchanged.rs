//! Which additions are still as they were brought into a checkout: these are no change by who worked there.
//!
//! They are named as rules in the syntax of `.gitignore`, by the shortest list there is: mostly one folder.
//!
//! **Invariant:** what is named is the same, byte by byte, as it was brought, and is no file of the snapshot.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use baton_protocol::id::TreeId;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{
    AdditionsError, Failure, borrowed, check_level, entries, of_snapshot, open_top, tree_of,
};
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
    let (ours, theirs) = (open_top(additions)?, open_top(checkout)?);
    let mut rules = Vec::new();
    compare(objects, Some(snapshot), (&ours, &theirs), &[], 0, &mut rules)
        .map_err(|failure| failure.at("comparing", checkout))?;
    Ok(rules)
}

/// Names what is unchanged in a folder; says whether that is all there is in it.
fn compare<S: ObjectSource + ?Sized>(
    objects: &S,
    snapshot: Option<TreeId>,
    (ours, theirs): (&OwnedFd, &OwnedFd),
    path: &[u8],
    level: usize,
    rules: &mut Vec<u8>,
) -> Result<bool, Failure> {
    check_level(level)?;
    let (ours_fd, theirs_fd) = (borrowed(ours), borrowed(theirs));
    let (added, found) = (entries(ours_fd)?, entries(theirs_fd)?);
    let of_snapshot = of_snapshot(objects, snapshot, &added)?;
    let mut is_all =
        found.iter().all(|(name, _)| added.binary_search_by(|(other, _)| other.cmp(name)).is_ok());
    for (name, kind) in added {
        let known = of_snapshot.get(&name);
        let inner = join(path, &name);
        let is_there = found.binary_search_by(|(other, _)| other.cmp(&name));
        let is_same_kind =
            is_there.ok().and_then(|at| found.get(at)).is_some_and(|(_, other)| *other == kind);
        if !is_same_kind || (known.is_some() && tree_of(known).is_none()) {
            is_all = false;
            continue;
        }
        if kind == FileType::Directory {
            let folders = (open_in(ours_fd, &name)?, open_in(theirs_fd, &name)?);
            let mut of_inner = Vec::new();
            let tree = tree_of(known);
            let is_same =
                compare(objects, tree, (&folders.0, &folders.1), &inner, level + 1, &mut of_inner)?;
            let mode = |folder: &OwnedFd| rustix::fs::fstat(folder).map(|it| it.st_mode & 0o777);
            let is_same = is_same && mode(&folders.0)? == mode(&folders.1)?;
            if is_same && tree.is_none() && add_rule(rules, &inner, true) {
                continue;
            }
            rules.extend(of_inner);
            is_all = false;
        } else if known.is_some()
            || !is_same(ours, theirs, &name, kind)?
            || !add_rule(rules, &inner, false)
        {
            is_all = false;
        }
    }
    Ok(is_all)
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
    match (open(ours), open(theirs)) {
        (Ok(ours), Ok(theirs)) => have_same_bytes(ours, theirs),
        // What cannot be read is nobody's business here.
        _ => Ok(false),
    }
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
