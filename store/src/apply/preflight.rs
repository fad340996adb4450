//! What is looked at before the first write: whether directories may be changed.
//!
//! **Invariant:** nothing is written here. What would fail later, and can be known, fails now.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

use baton_protocol::path::RelPath;
use rustix::fs::FileType;
use rustix::io::Errno;

use super::ApplyError;
use super::form::Form;
use super::ground::{Ground, Mount};
use super::journal::Done;
use super::look::{mode_of, stat};
use super::plan::Step;
use super::shelf::may_change;
use crate::scan::directory::{join, list};
use crate::stat_cache::Inode;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Preflight {
    /// Directories that their owner may not change, with their permissions.
    pub(super) tight: Vec<(RelPath, u16)>,
    /// Steps that cannot be done, by their number.
    pub(super) held: BTreeMap<usize, Done>,
}

/// Looks at the directories in which something changes.
pub(super) fn preflight(ground: &mut Ground, steps: &[Step]) -> Result<Preflight, ApplyError> {
    let mut found = Preflight::default();
    let mut tight = BTreeMap::new();
    let mut looked_at: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
    let closed: BTreeSet<&[u8]> = closed(steps)
        .filter(|(_, mode)| mode & 0o100 == 0)
        .map(|(path, _)| path.as_bytes())
        .collect();
    for (number, step) in steps.iter().enumerate() {
        let Some((above, _)) = step.path.split_last() else { continue };
        let is_here = if let Some(&is_here) = looked_at.get(above) {
            is_here
        } else {
            let is_here = look_at(ground, above, &closed, &mut tight)?;
            looked_at.insert(above.to_vec(), is_here);
            is_here
        };
        if !is_here {
            found.held.insert(number, Done::Refused);
        }
    }
    for (path, mode) in self::closed(steps) {
        let is_so = match ground.reach(path.as_bytes()).and_then(rustix::fs::fstat) {
            Ok(stat) => mode_of(&stat) & 0o777 == mode,
            // It is looked at when the one that it is in is open.
            Err(error) => error == Errno::ACCESS,
        };
        if is_so {
            tight.entry(path.clone()).or_insert(mode);
        }
    }
    for (number, step) in steps.iter().enumerate() {
        // Who may not enter the root could not put it back.
        if let Some(Form::Directory { mode }) = step.to
            && step.path.is_root()
            && mode & 0o500 != 0o500
        {
            found.held.insert(number, Done::Refused);
        }
    }
    hold_other_names(ground, steps, &mut found)?;
    hold_what_is_not_known(ground, steps, &mut found)?;
    found.tight = tight.into_iter().collect();
    Ok(found)
}

/// Looks at one directory; false where it is on another file system.
fn look_at(
    ground: &mut Ground,
    path: &[u8],
    closed: &BTreeSet<&[u8]>,
    tight: &mut BTreeMap<RelPath, u16>,
) -> Result<bool, ApplyError> {
    let refused = |ground: &Ground, error| Err(ground.failed("opening", path, error));
    let looked = ground.reach(path).and_then(|fd| {
        let (fd, mount) = (fd.as_fd(), ground.mount());
        Ok((Mount::of(fd)? == mount, may_change(fd), rustix::fs::fstat(fd)?))
    });
    let (may_change, stat) = match looked {
        Ok((true, may_change, stat)) => (may_change, stat),
        Ok((false, ..)) => return Ok(false),
        // It will be made, or is not what it was.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(true),
        // It is in one that will be opened.
        Err(Errno::ACCESS) if ends(path).any(|above| closed.contains(above)) => return Ok(true),
        Err(error) => return refused(ground, error),
    };
    let mode = mode_of(&stat) & 0o777;
    if may_change && mode & 0o700 == 0o700 {
        return Ok(true);
    }
    let is_ours = stat.st_uid == rustix::process::geteuid().as_raw();
    let rel_path = RelPath::new(path).map_err(ApplyError::Path)?;
    if mode & 0o700 != 0o700 && (is_ours || may_change) {
        tight.insert(rel_path, mode);
        return Ok(true);
    }
    refused(ground, if is_ours { Errno::ROFS } else { Errno::ACCESS })
}

/// The directories that a path is in.
fn ends(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
    slashes.filter_map(|(at, _)| path.get(..at))
}

/// Directories that the plan knows, and that their owner may not list, change or enter.
fn closed(steps: &[Step]) -> impl Iterator<Item = (&RelPath, u16)> {
    steps.iter().filter_map(|step| match step.from {
        Some(Form::Directory { mode }) if mode & 0o700 != 0o700 => Some((&step.path, mode)),
        _ => None,
    })
}

/// Holds back a new name that leads to what another step takes away, and that step: a file system that does not
/// tell case has one file there, which would be found under the new name and go with the old one.
fn hold_other_names(
    ground: &mut Ground,
    steps: &[Step],
    found: &mut Preflight,
) -> Result<(), ApplyError> {
    let leaves = |step: &Step| {
        let was_directory = step.from.is_some_and(|from| from.is_directory());
        let is_directory = step.to.is_some_and(|to| to.is_directory());
        step.from.is_some() && (step.to.is_none() || (was_directory && !is_directory))
    };
    let mut comes: BTreeMap<(u64, u64), Vec<usize>> = BTreeMap::new();
    for (number, step) in steps.iter().enumerate().filter(|(_, step)| step.from.is_none()) {
        if let Some(inode) = inode_at(ground, &step.path)? {
            comes.entry(inode).or_default().push(number);
        }
    }
    let mut others = BTreeSet::new();
    if !comes.is_empty() {
        for (number, step) in steps.iter().enumerate().filter(|(_, step)| leaves(step)) {
            let inode = inode_at(ground, &step.path)?;
            if let Some(same) = inode.and_then(|inode| comes.get(&inode)) {
                others.insert(number);
                others.extend(same);
            }
        }
    }
    let paths: BTreeSet<&[u8]> =
        others.iter().filter_map(|&at| steps.get(at)).map(|step| step.path.as_bytes()).collect();
    for (number, step) in steps.iter().enumerate() {
        if others.contains(&number) {
            found.held.insert(number, Done::NotCarried);
        } else if ends(step.path.as_bytes()).any(|above| paths.contains(above)) {
            found.held.insert(number, Done::Blocked);
        }
    }
    Ok(())
}

/// What a path of the checkout leads to; nothing where that is nothing, or cannot be seen yet.
fn inode_at(ground: &mut Ground, path: &RelPath) -> Result<Option<(u64, u64)>, ApplyError> {
    let Some((above, name)) = path.split_last() else { return Ok(None) };
    let found = ground.reach(above).and_then(|above| stat(above.as_fd(), name));
    match found {
        Ok(found) => Ok(found.as_ref().map(Inode::new).map(|inode| (inode.dev, inode.ino))),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::NAMETOOLONG) => {
            Ok(None)
        }
        Err(Errno::ILSEQ | Errno::INVAL) => Ok(None),
        Err(error) => Err(ground.failed("looking at", path.as_bytes(), error)),
    }
}

/// Holds back what would take a directory away in which something is that the plan does not know: nobody
/// has a copy of that.
fn hold_what_is_not_known(
    ground: &mut Ground,
    steps: &[Step],
    found: &mut Preflight,
) -> Result<(), ApplyError> {
    let is_replaced = |step: &&Step| {
        step.from.is_some_and(|from| from.is_directory())
            && matches!(step.to, Some(Form::File { .. } | Form::Link { .. }))
    };
    let replaced: Vec<&RelPath> = steps.iter().filter(is_replaced).map(|step| &step.path).collect();
    if replaced.is_empty() {
        return Ok(());
    }
    let removed: BTreeSet<&[u8]> =
        steps.iter().filter(|step| step.to.is_none()).map(|step| step.path.as_bytes()).collect();
    for path in replaced {
        let done = match holds_others(ground, path, &removed) {
            Ok(true) => Some(Done::NotEmpty),
            Ok(false) => None,
            // Who may not list it cannot know.
            Err(Errno::ACCESS) => Some(Done::Refused),
            Err(error) => return Err(ground.failed("listing", path.as_bytes(), error)),
        };
        if let Some(done) = done {
            for (number, step) in steps.iter().enumerate() {
                if step.path == *path {
                    found.held.insert(number, done);
                } else if is_below(&step.path, path) {
                    found.held.insert(number, Done::Blocked);
                }
            }
        }
    }
    Ok(())
}

fn holds_others(
    ground: &mut Ground,
    top: &RelPath,
    removed: &BTreeSet<&[u8]>,
) -> Result<bool, Errno> {
    let mut open = vec![top.as_bytes().to_vec()];
    while let Some(path) = open.pop() {
        let entries = match ground.directory(&path).and_then(list) {
            Ok(entries) => entries,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(error) => return Err(error),
        };
        for (name, kind) in entries {
            let path = join(&path, &name);
            if !removed.contains(path.as_slice()) {
                return Ok(true);
            }
            // Some file systems do not say what an entry is.
            if matches!(kind, FileType::Directory | FileType::Unknown) {
                open.push(path);
            }
        }
    }
    Ok(false)
}

/// Whether a path is below another one.
pub(super) fn is_below(path: &RelPath, above: &RelPath) -> bool {
    above.is_root()
        || path
            .as_bytes()
            .strip_prefix(above.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&b'/'))
}
