//! Permissions: those that a step changes, and those that directories get meanwhile.
//!
//! Directories get theirs when everything in them is in its place and durable, from the bottom up: those above
//! are open until then, and none is opened afterwards.
//!
//! **Invariant:** what has other permissions than were expected keeps them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use baton_protocol::path::RelPath;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Opened, Phase, Writing, split};
use crate::apply::form::Form;
use crate::apply::ground::change_mode;
use crate::apply::journal::Done;
use crate::apply::look::mode_of;
use crate::apply::plan::Step;
use crate::apply::{ApplyError, crash};

/// What one directory gets in the end.
#[derive(Debug, Default)]
struct Due {
    /// The permissions that it got meanwhile, and its own.
    back: Option<([u16; 2], u16)>,
    /// The step that changes them.
    step: Option<usize>,
}

impl Writing<'_> {
    /// Sets permissions, and nothing else. The content need not be what it was.
    pub(super) fn change_mode(&mut self, step: &Step, from: u16, to: u16) -> Result<Done, Errno> {
        let is_alone = self.syncs_alone;
        let Some(Form::File { .. }) = step.to else {
            let is_open = self.opened.iter().any(|opened| opened.path == step.path);
            let directory = self.ground.directory(step.path.as_bytes())?;
            // What was done before it was cut off is opened, too.
            let open = if is_open { to | 0o700 } else { from };
            let before = mode_of(&rustix::fs::fstat(directory)?) & 0o777;
            let done = set_mode(directory, &[from, from | 0o700, open], to, is_alone)?;
            if done == Done::Made && !self.ground.is_still(step.path.as_bytes()) {
                let directory = self.ground.directory(step.path.as_bytes())?;
                set_mode(directory, &[to], before, is_alone)?;
                return Ok(Done::Blocked);
            }
            // What it got meanwhile may be what it is to have.
            return Ok(if is_open && done == Done::Found { Done::Made } else { done });
        };
        let (above, name) = split(&step.path);
        let directory = self.ground.directory(above)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(Done::Changed),
            Err(error) => return Err(error),
        };
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        if kind != FileType::RegularFile {
            return Ok(Done::Changed);
        }
        let done = set_mode(file.as_fd(), &[from], to, is_alone)?;
        if done == Done::Made && !self.ground.is_still(above) {
            set_mode(file.as_fd(), &[to], from, is_alone)?;
            return Ok(Done::Blocked);
        }
        Ok(done)
    }

    /// Lets directories be changed that their owner may not change; one that was cut off may have closed more.
    pub(super) fn loosen(&mut self) -> Result<(), ApplyError> {
        let mut opened: BTreeMap<&RelPath, (u16, u16)> =
            self.tight.iter().map(|(path, mode)| (path, (*mode, *mode))).collect();
        for (number, step) in self.steps.iter().enumerate() {
            if let Some(Form::Directory { mode }) = step.to
                && self.is_resumed
                && mode & 0o700 != 0o700
                && (Phase::of(step) == Phase::Modes || self.was_made(number, step)?)
            {
                opened.entry(&step.path).or_insert((mode, mode)).1 = mode;
            }
        }
        let opened = opened.into_iter();
        self.opened =
            opened.map(|(path, (mode, to))| Opened { path: path.clone(), mode, to }).collect();
        for at in 0..self.opened.len() {
            let Some(Opened { path, mode, to }) = self.opened.get(at) else { continue };
            let loosened = self.ground.reach(path.as_bytes()).and_then(|directory| {
                crash::point();
                let open = |mode: u16| set_mode(directory.as_fd(), &[mode], mode | 0o700, false);
                match open(*mode)? {
                    Done::Changed => open(*to),
                    done => Ok(done),
                }
            });
            match loosened {
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::PERM) => {}
                Err(error) => {
                    let failed = self.ground.failed("changing", path.as_bytes(), error);
                    self.set_modes(false)?;
                    return Err(failed);
                }
            }
        }
        Ok(())
    }

    /// Gives directories the permissions that they should have; those that the steps ask for only where all
    /// that comes before is done.
    pub(in crate::apply) fn set_modes(&mut self, is_done: bool) -> Result<(), ApplyError> {
        let steps = self.steps;
        let mut due: BTreeMap<RelPath, Due> = BTreeMap::new();
        for Opened { path, mode, to } in &self.opened {
            let open = [*mode | 0o700, *to | 0o700];
            due.entry(path.clone()).or_default().back = Some((open, *mode));
        }
        for (number, (step, done)) in steps.iter().zip(&self.done).enumerate() {
            let Some(Form::Directory { mode }) = step.to else { continue };
            if Phase::of(step) == Phase::Modes {
                if is_done && *done == Done::Waiting {
                    due.entry(step.path.clone()).or_default().step = Some(number);
                }
            } else if mode & 0o700 != 0o700 && *done == Done::Made {
                let open = [mode | 0o700; 2];
                due.entry(step.path.clone()).or_default().back = Some((open, mode));
            }
        }
        let mut first = None;
        for (path, Due { back, step }) in due.into_iter().rev() {
            let mut is_set = false;
            if let Some((number, step)) = step.and_then(|at| Some((at, steps.get(at)?))) {
                match self.step_once(number, step) {
                    Ok(done) => is_set = done.is_so(),
                    Err(error) => drop(first.get_or_insert(error)),
                }
            }
            let Some((open, mode)) = back.filter(|_| !is_set) else { continue };
            crash::point();
            let is_alone = self.syncs_alone;
            let set = self
                .ground
                .directory(path.as_bytes())
                .and_then(|directory| set_mode(directory, &open, mode, is_alone));
            match set {
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::PERM) => {}
                // Somebody else has closed it, or one that it is in.
                Err(Errno::ACCESS) => {
                    tracing::warn!(path = %path.display(), "a directory keeps the mode that it has");
                }
                Err(error) => {
                    let failed = self.ground.failed("setting the mode of", path.as_bytes(), error);
                    first.get_or_insert(failed);
                }
            }
        }
        first.map_or(Ok(()), Err)
    }
}

/// Sets the permissions of something that has one of these now, durably where that is asked for. What is set
/// beside them stays.
fn set_mode(
    fd: BorrowedFd<'_>,
    expected: &[u16],
    mode: u16,
    is_durable: bool,
) -> Result<Done, Errno> {
    let found = mode_of(&rustix::fs::fstat(fd)?);
    let (now, special) = (found & 0o777, found & 0o7000);
    if now == mode {
        return Ok(Done::Found);
    }
    if !expected.contains(&now) {
        return Ok(Done::Changed);
    }
    crash::point();
    change_mode(fd, Mode::from_raw_mode((special | mode).into()))?;
    if is_durable {
        rustix::fs::fsync(fd)?;
    }
    Ok(Done::Made)
}
