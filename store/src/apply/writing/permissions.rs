//! Permissions: those that a step changes, and those that directories get meanwhile.
//!
//! **Invariant:** what has other permissions than were expected keeps them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use baton_protocol::path::RelPath;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Phase, Writing, split};
use crate::apply::form::Form;
use crate::apply::journal::Done;
use crate::apply::look::mode_of;
use crate::apply::plan::Step;
use crate::apply::{ApplyError, crash};

impl Writing<'_> {
    /// Sets permissions, and nothing else. The content need not be what it was.
    pub(super) fn change_mode(&mut self, step: &Step, from: u16, to: u16) -> Result<Done, Errno> {
        let Some(Form::File { .. }) = step.to else {
            let is_tight = self.tight.iter().any(|(path, _)| *path == step.path);
            let directory = self.ground.directory(step.path.as_bytes())?;
            let done = set_mode(directory, &[from, from | 0o700], to)?;
            // What it got meanwhile may be what it is to have.
            return Ok(if is_tight && done == Done::Found { Done::Made } else { done });
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
        set_mode(file.as_fd(), &[from], to)
    }

    /// Lets directories be changed that their owner may not change.
    pub(super) fn loosen(&mut self) -> Result<(), ApplyError> {
        for (path, mode) in self.tight {
            let loosened = self.ground.directory(path.as_bytes()).and_then(|directory| {
                crash::point();
                set_mode(directory, &[*mode], *mode | 0o700)
            });
            match loosened {
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::PERM) => {}
                Err(error) => {
                    let failed = self.ground.failed("changing", path.as_bytes(), error);
                    self.tighten()?;
                    return Err(failed);
                }
            }
        }
        Ok(())
    }

    /// Gives directories the permissions that they should have, from the bottom up.
    pub(super) fn tighten(&mut self) -> Result<(), ApplyError> {
        let mut modes: BTreeMap<&RelPath, (u16, u16)> = BTreeMap::new();
        for (path, mode) in self.tight {
            modes.insert(path, (*mode | 0o700, *mode));
        }
        for (step, done) in self.steps.iter().zip(&self.done) {
            match step.to {
                Some(Form::Directory { .. }) if Phase::of(step) == Phase::Modes && done.is_so() => {
                    modes.remove(&step.path);
                }
                Some(Form::Directory { mode })
                    if Phase::of(step) != Phase::Modes
                        && mode & 0o700 != 0o700
                        && *done == Done::Made =>
                {
                    modes.insert(&step.path, (mode | 0o700, mode));
                }
                _ => {}
            }
        }
        let mut first = None;
        for (path, (now, mode)) in modes.into_iter().rev() {
            crash::point();
            let set = self
                .ground
                .directory(path.as_bytes())
                .and_then(|directory| set_mode(directory, &[now], mode));
            match set {
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::PERM) => {}
                Err(error) => {
                    let failed = self.ground.failed("setting the mode of", path.as_bytes(), error);
                    first.get_or_insert(failed);
                }
            }
        }
        first.map_or(Ok(()), Err)
    }
}

/// Sets the permissions of something that has one of these now. What is set beside them stays.
fn set_mode(fd: BorrowedFd<'_>, expected: &[u16], mode: u16) -> Result<Done, Errno> {
    let found = mode_of(&rustix::fs::fstat(fd)?);
    let (now, special) = (found & 0o777, found & 0o7000);
    if now == mode {
        return Ok(Done::Found);
    }
    if !expected.contains(&now) {
        return Ok(Done::Changed);
    }
    crash::point();
    rustix::fs::fchmod(fd, Mode::from_raw_mode((special | mode).into()))?;
    Ok(Done::Made)
}
