//! A checkout of one tree made that of another one, where they differ.
//!
//! All that is new is read and written in a folder beside the checkout first, so that a store that lacks
//! something and a disk that is full change nothing. Then it is moved to its place, entry by entry.
//!
//! **Invariant:** nothing is lost that neither tree knows. What is replaced is taken out whole and looked
//! at once more; where it is not what was expected it goes back, and both are kept. What was stopped on
//! the way is finished by doing the same again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use baton_protocol::id::TreeId;
use baton_protocol::object::{EntryKind, Omission, OmitReason};
use baton_protocol::path::RelPath;
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::ahead::Ahead;
use super::difference::{Found, Looker, Step, find_steps};
use super::layout::Layout;
use super::moves::{as_name, beside, put_back, split, swap};
use super::staging::{DIRECTORY, Staging, rename_new};
use super::{Build, RestoreError, RestoreOptions, failed as failed_at, open_directory};
use crate::fs::Context;
use crate::objects::ObjectSource;
use crate::scan::Progress;
use crate::snapshot::find_entry;
use crate::stat_cache::{FileStat, StatCache};

/// A tree, and the permission bits of its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// The tree.
    pub tree: TreeId,
    /// Permission bits.
    pub mode: u16,
}

/// What a change of a checkout did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Files and links written.
    pub files: u64,
    /// Bytes of the files written.
    pub bytes: u64,
    /// Files and links taken away.
    pub removed: u64,
    /// What was left as it is, because it was not what the old tree has there; ascending.
    pub kept: Vec<Kept>,
    /// What the file system of the checkout cannot hold; ascending.
    pub not_carried: Vec<Omission>,
}

/// Something in a checkout that the old tree does not have there, and that stays.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kept {
    /// Where it is.
    pub path: RelPath,
    /// Where that is which the new tree has there; nothing where it has nothing there.
    pub beside: Option<RelPath>,
}

/// Makes the checkout of `old` at `at` one of `new`.
///
/// Only paths at which the trees differ are looked at: what was changed elsewhere stays. What `cache`
/// says of a file that is unchanged is believed; any other is read before it is replaced. What is there
/// already, as the new tree has it, is left alone.
///
/// An error before anything is in its place leaves the checkout as it was; one after that leaves it between
/// the trees, each file being that of one of them.
pub fn change<S: ObjectSource + ?Sized>(
    source: &S,
    cache: &StatCache,
    (old, new): (Root, Root),
    at: &Path,
    options: &RestoreOptions,
    progress: &Progress,
) -> Result<Changed, RestoreError> {
    let root = rustix::fs::open(at, DIRECTORY, Mode::empty()).context("opening", at)?;
    let steps = find_steps(source, old.tree, new.tree)?;
    let mut staging = Staging::scratch(root.as_fd(), at)?;
    let started = rustix::fs::fstat(staging.directory()).context("looking at", at)?;
    let mut change = Change {
        source,
        progress,
        root: root.as_fd(),
        at,
        new: new.tree,
        staging: staging.directory(),
        started_at: FileStat::new(&started).mtime,
        looker: Looker::new(cache),
        opened: None,
        moved: Vec::new(),
        modes: Vec::new(),
        holds_others: false,
        done: Changed::default(),
    };
    if old.mode != new.mode {
        change.modes.push((Vec::new(), Some(old.mode), new.mode));
    }
    let ended = change.run(&steps, staging.path(), options.threads.max(1));
    let Change { holds_others, mut done, .. } = change;
    if holds_others {
        staging.leave();
    }
    ended?;
    done.kept.sort_unstable();
    done.kept.dedup();
    done.not_carried.sort_unstable();
    Ok(done)
}

struct Change<'a, S: ?Sized> {
    source: &'a S,
    progress: &'a Progress,
    root: BorrowedFd<'a>,
    at: &'a Path,
    new: TreeId,
    /// Where the new files are, each under the number of its step.
    staging: BorrowedFd<'a>,
    /// By the clock of the file system, in nanoseconds since 1970.
    started_at: i64,
    looker: Looker<'a>,
    /// The directory that was used last.
    opened: Option<(Vec<u8>, OwnedFd)>,
    /// Directories that something stands in the place of, and where they are instead.
    moved: Vec<(Vec<u8>, Vec<u8>)>,
    /// Directories that get another mode at the end, and the one they must have until then.
    modes: Vec<(Vec<u8>, Option<u16>, u16)>,
    /// Whether something may be in the scratch folder that is nowhere else.
    holds_others: bool,
    done: Changed,
}

impl<S: ObjectSource + ?Sized> Change<'_, S> {
    fn run(&mut self, steps: &[Step], scratch: &Path, threads: usize) -> Result<(), RestoreError> {
        let mut found = self.look(steps)?;
        self.stage(steps, &mut found, scratch, threads)?;
        for (number, (step, found)) in steps.iter().zip(&mut found).enumerate().rev() {
            self.check_cancelled()?;
            self.take_away(number, step, found)?;
        }
        for (number, (step, found)) in steps.iter().zip(&found).enumerate() {
            self.check_cancelled()?;
            self.put(number, step, *found)?;
        }
        self.set_modes()
    }

    /// Looks at what is there.
    fn look(&mut self, steps: &[Step]) -> Result<Vec<Found>, RestoreError> {
        let mut all = Vec::with_capacity(steps.len());
        for step in steps {
            self.check_cancelled()?;
            let (above, name) = split(&step.path);
            let failed = |error| failed_at(self.at, "looking at", step.path.as_bytes(), error);
            let found = match directory(&mut self.opened, self.root, above) {
                Ok(fd) => self.looker.find(fd.as_fd(), step, name).map_err(failed)?,
                // Taken away with what it is in, or not made yet.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Found::Nothing,
                Err(error) => return Err(failed(error)),
            };
            all.push(found);
        }
        Ok(all)
    }

    /// Writes what is new.
    fn stage(
        &mut self,
        steps: &[Step],
        found: &mut [Found],
        scratch: &Path,
        threads: usize,
    ) -> Result<(), RestoreError> {
        let mut layout = Layout::default();
        for (number, (step, found)) in steps.iter().zip(&*found).enumerate() {
            if let Some(kind) = step.new
                && !is_directory(step.new)
                && !matches!(found, Found::New)
            {
                layout.add(0, number.to_string().as_bytes(), kind)?;
            }
        }
        let trees = Ahead::new(self.source);
        let build = Build::new(self.source, &trees, self.staging, scratch, threads, self.progress);
        let written = build.fill(layout)?;
        self.done.files = written.files;
        self.done.bytes = written.bytes;
        for refused in written.not_carried {
            let number: Option<usize> =
                std::str::from_utf8(refused.path.as_bytes()).ok().and_then(|n| n.parse().ok());
            let Some(at) = number else { continue };
            if let (Some(step), Some(found)) = (steps.get(at), found.get_mut(at)) {
                self.omit(&step.path);
                *found = Found::New;
            }
        }
        Ok(())
    }

    /// Takes away what the new tree does not have, from the bottom up.
    fn take_away(
        &mut self,
        number: usize,
        step: &Step,
        found: &mut Found,
    ) -> Result<(), RestoreError> {
        let Some(old) = step.old else { return Ok(()) };
        let stat = match (*found, step.new) {
            (Found::Old(stat), new) if is_directory(new) != is_directory(Some(old)) => stat,
            (Found::Old(stat), None) => stat,
            (Found::Other, None) => {
                self.keep(&step.path, None);
                return Ok(());
            }
            _ => return Ok(()),
        };
        let (above, name) = split(&step.path);
        let failed = |error| failed_at(self.at, "removing", step.path.as_bytes(), error);
        let fd = directory(&mut self.opened, self.root, above).map_err(failed)?;
        let is_gone = if is_directory(Some(old)) {
            match rustix::fs::unlinkat(fd, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => true,
                // Others have put something into it.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => false,
                Err(error) => return Err(failed(error)),
            }
        } else {
            let out = format!("out-{number}");
            self.holds_others = true;
            let is_old = match rename_new(fd, name, self.staging, as_name(out.as_bytes())) {
                Ok(()) => {
                    let scratch = (self.staging, self.started_at);
                    let is_old = is_still(&mut self.looker, scratch, out.as_bytes(), &stat, old);
                    let is_old = is_old.map_err(failed)?;
                    if is_old {
                        self.done.removed += 1;
                    } else {
                        put_back(self.staging, out.as_bytes(), fd, &step.path).map_err(failed)?;
                    }
                    is_old
                }
                Err(Errno::NOENT) => true,
                Err(error) => return Err(failed(error)),
            };
            self.holds_others = false;
            is_old
        };
        if is_gone {
            *found = Found::Nothing;
        } else if step.new.is_some() {
            *found = Found::Other;
        } else {
            self.keep(&step.path, None);
        }
        Ok(())
    }

    /// Puts what the new tree has to its place.
    fn put(&mut self, number: usize, step: &Step, found: Found) -> Result<(), RestoreError> {
        let Some(new) = step.new else { return Ok(()) };
        match (new, step.old, found) {
            (
                EntryKind::Directory { mode, .. },
                Some(EntryKind::Directory { mode: old, .. }),
                Found::Old(_),
            ) => {
                self.modes.push((self.place_of(step.path.as_bytes()), Some(old), mode));
                return Ok(());
            }
            (_, _, Found::New) => return Ok(()),
            _ => self.make_above(step.path.as_bytes())?,
        }
        let path = self.place_of(step.path.as_bytes());
        let at = RelPath::new(&path).unwrap_or_default();
        let (above, name) = split(&at);
        let root = self.at;
        let failed = |error| failed_at(root, "writing", &path, error);
        let fd = directory(&mut self.opened, self.root, above).map_err(failed)?;
        let number = number.to_string();
        if let EntryKind::Directory { mode, .. } = new {
            let mut made = Err(Errno::EXIST);
            if !matches!(found, Found::Other) {
                made = rustix::fs::mkdirat(fd, name, Mode::RWXU);
            }
            match made {
                Ok(()) => self.modes.push((path, None, mode)),
                Err(Errno::EXIST) => {
                    let make = |name: &[u8]| rustix::fs::mkdirat(fd, name, Mode::RWXU);
                    let beside = beside(&at, make).map_err(failed)?;
                    self.modes.push((beside.as_bytes().to_vec(), None, mode));
                    self.moved.push((step.path.as_bytes().to_vec(), beside.as_bytes().to_vec()));
                    self.keep(&step.path, Some(beside));
                }
                Err(error) => return self.refused(step, error),
            }
            return Ok(());
        }
        let placed = match (found, step.old) {
            (Found::Other, _) => Err(Errno::EXIST),
            (Found::Old(stat), Some(old)) => {
                self.holds_others = true;
                let scratch = (self.staging, self.started_at);
                let out = number.as_bytes();
                let swapped = match swap(self.staging, out, fd, name) {
                    Ok(()) => is_still(&mut self.looker, scratch, out, &stat, old).and_then(|is| {
                        if is {
                            return Ok(());
                        }
                        swap(self.staging, out, fd, name)?;
                        Err(Errno::EXIST)
                    }),
                    Err(Errno::NOENT) => rename_new(self.staging, out, fd, as_name(name)),
                    Err(error) => Err(error),
                };
                self.holds_others = !matches!(swapped, Ok(()) | Err(Errno::EXIST));
                swapped
            }
            _ => rename_new(self.staging, number.as_bytes(), fd, as_name(name)),
        };
        match placed {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let make =
                    |name: &[u8]| rename_new(self.staging, number.as_bytes(), fd, as_name(name));
                let beside = beside(&at, make).map_err(failed)?;
                self.keep(&step.path, Some(beside));
                Ok(())
            }
            Err(error) => self.refused(step, error),
        }
    }

    /// Makes the directories that a path is in, where somebody took them away.
    fn make_above(&mut self, path: &[u8]) -> Result<(), RestoreError> {
        let is_there = |change: &mut Self, path: &[u8]| {
            let place = change.place_of(path);
            directory(&mut change.opened, change.root, &place).is_ok()
        };
        let above = path.iter().rposition(|&byte| byte == b'/').unwrap_or_default();
        let above = path.get(..above).unwrap_or_default();
        if is_there(self, above) {
            return Ok(());
        }
        let ends = above.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at);
        for end in ends.chain([above.len()]) {
            let path = RelPath::new(above.get(..end).unwrap_or_default()).unwrap_or_default();
            if is_there(self, path.as_bytes()) {
                continue;
            }
            let mut place = RelPath::new(&self.place_of(path.as_bytes())).unwrap_or_default();
            let failed = |error| failed_at(self.at, "creating", path.as_bytes(), error);
            let entry = find_entry(self.source, self.new, &path)?;
            let (above, name) = split(&place);
            let fd = directory(&mut self.opened, self.root, above).map_err(failed)?;
            let make = |name: &[u8]| rustix::fs::mkdirat(fd, name, Mode::RWXU);
            match make(name) {
                Ok(()) => {}
                // Something else stands there.
                Err(Errno::EXIST) => {
                    place = beside(&place, make).map_err(failed)?;
                    self.moved.push((path.as_bytes().to_vec(), place.as_bytes().to_vec()));
                    self.keep(&path, Some(place.clone()));
                }
                Err(error) => return Err(failed(error)),
            }
            if let Some(EntryKind::Directory { mode, .. }) = entry.map(|entry| entry.kind) {
                self.modes.push((place.as_bytes().to_vec(), None, mode));
            }
        }
        Ok(())
    }

    /// Sets the modes of directories, from the bottom up.
    fn set_modes(&mut self) -> Result<(), RestoreError> {
        let mut modes = std::mem::take(&mut self.modes);
        modes.sort_unstable();
        for (path, expected, mode) in modes.into_iter().rev() {
            let failed = |error| failed_at(self.at, "setting the mode of", &path, error);
            let fd = open_directory(self.root, &path).map_err(failed)?;
            let found = rustix::fs::fstat(&fd).map_err(failed)?.st_mode & 0o7777;
            if expected.is_none_or(|expected| found == rustix::fs::RawMode::from(expected)) {
                rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode.into())).map_err(failed)?;
            } else if found != rustix::fs::RawMode::from(mode) {
                self.keep(&RelPath::new(&path).unwrap_or_default(), None);
            }
        }
        Ok(())
    }

    /// Where a path of the new tree is put.
    fn place_of(&self, path: &[u8]) -> Vec<u8> {
        for (from, to) in self.moved.iter().rev() {
            if let Some(rest) = path.strip_prefix(from.as_slice())
                && (rest.is_empty() || rest.starts_with(b"/"))
            {
                return [to.as_slice(), rest].concat();
            }
        }
        path.to_vec()
    }

    fn check_cancelled(&self) -> Result<(), RestoreError> {
        if self.progress.is_cancelled() { Err(RestoreError::Cancelled) } else { Ok(()) }
    }

    fn keep(&mut self, path: &RelPath, beside: Option<RelPath>) {
        self.done.kept.push(Kept { path: path.clone(), beside });
    }

    fn omit(&mut self, path: &RelPath) {
        let omission = Omission { path: path.clone(), reason: OmitReason::NotCarried };
        self.done.not_carried.push(omission);
    }

    /// Names what the file system cannot hold.
    fn refused(&mut self, step: &Step, error: Errno) -> Result<(), RestoreError> {
        match error {
            Errno::NAMETOOLONG | Errno::ILSEQ | Errno::INVAL => {
                self.omit(&step.path);
                Ok(())
            }
            error => Err(failed_at(self.at, "writing", step.path.as_bytes(), error)),
        }
    }
}

/// Whether what was taken out, to the scratch folder, is what was seen in its place. A file that had not come
/// to rest when the change began may have been written to without a trace, and is read again.
fn is_still(
    looker: &mut Looker<'_>,
    (staging, started_at): (BorrowedFd<'_>, i64),
    name: &[u8],
    seen: &FileStat,
    old: EntryKind,
) -> Result<bool, Errno> {
    let now = FileStat::new(&rustix::fs::statat(staging, name, AtFlags::SYMLINK_NOFOLLOW)?);
    // Moving it is a change of its inode.
    if (FileStat { ctime: seen.ctime, ..now }) == *seen && seen.is_at_rest(started_at) {
        return Ok(true);
    }
    looker.is(staging, name, None, &now, old)
}

/// A directory of the checkout; the one that was opened last is kept.
fn directory<'a>(
    opened: &'a mut Option<(Vec<u8>, OwnedFd)>,
    root: BorrowedFd<'_>,
    path: &[u8],
) -> Result<BorrowedFd<'a>, Errno> {
    if opened.as_ref().is_none_or(|(last, _)| last != path) {
        *opened = Some((path.to_vec(), open_directory(root, path)?));
    }
    opened.as_ref().map(|(_, fd)| fd.as_fd()).ok_or(Errno::BADF)
}

fn is_directory(kind: Option<EntryKind>) -> bool {
    matches!(kind, Some(EntryKind::Directory { .. }))
}

#[cfg(test)]
mod tests;
