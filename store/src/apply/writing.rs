//! The writes of an apply, step by step.
//!
//! Directories first, then files, then what goes away; links when everything else is in place, and
//! permissions of directories last, when all of it is durable. Each step looks at what is there, and can be done
//! again.
//!
//! - [`changes`]: what is done with one path
//! - [`permissions`]: those that change, and those that directories get meanwhile
//! - [`ending`]: making it durable
//! - [`settle`]: what a crash has left
//!
//! **Invariant:** what is replaced or taken away is looked at once more when it is out; where it is not what
//! was expected, or its path leads elsewhere by then, it goes back. What came out stays on the shelf. However it ends, directories have the
//! permissions that they should.

mod changes;
mod permissions;
mod ending;
mod settle;

use std::collections::{BTreeSet, HashMap};

use baton_protocol::path::RelPath;
use rustix::io::Errno;

use super::ApplyError;
use super::form::Form;
use super::ground::Ground;
use super::journal::Done;
use super::look::Looker;
use super::plan::Step;
use super::shelf::{SYNCED_ALONE, Shelf};
use crate::stat_cache::FileStat;

/// What comes after what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Directories,
    Files,
    Removals,
    FilesForDirectories,
    Links,
    Modes,
}

impl Phase {
    /// All but the last, which is the end of [`Writing::run`].
    const NAMES: [Self; 5] =
        [Self::Directories, Self::Files, Self::Removals, Self::FilesForDirectories, Self::Links];

    fn of(step: &Step) -> Self {
        use Form::{Directory, File, Link};
        match (step.from, step.to) {
            (Some(Directory { .. }), Some(Directory { .. })) => Self::Modes,
            (_, Some(Directory { .. })) => Self::Directories,
            (Some(Directory { .. }), Some(File { .. })) => Self::FilesForDirectories,
            (_, Some(File { .. })) => Self::Files,
            (_, Some(Link { .. })) => Self::Links,
            (_, None) => Self::Removals,
        }
    }
}

/// Steps under way.
#[derive(Debug)]
pub(super) struct Writing<'a> {
    ground: &'a mut Ground,
    shelf: &'a Shelf,
    steps: &'a [Step],
    tight: &'a [(RelPath, u16)],
    /// Directories that were opened for their owner.
    opened: Vec<Opened>,
    /// Whether what changes its permissions is synced by itself.
    syncs_alone: bool,
    looker: Looker,
    /// Steps that others need, by their path.
    needed: HashMap<&'a RelPath, usize>,
    done: Vec<Done>,
    /// Whether it was begun before, and cut off.
    is_resumed: bool,
    /// What came out, in the state in which it was looked at.
    out: Vec<(usize, FileStat)>,
}

/// A directory that was opened for its owner.
#[derive(Debug)]
struct Opened {
    path: RelPath,
    /// The permissions that it gets back.
    mode: u16,
    /// Those that a step gives it, and may have given it before it was cut off.
    to: u16,
}

/// Why a step was not done.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// The checkout is as it was.
    Unchanged(Errno),
    /// Something is out of its place, and the step has to be done again.
    Halfway(Errno),
}

impl From<Errno> for Stop {
    fn from(error: Errno) -> Self {
        Self::Unchanged(error)
    }
}

/// What a change of permissions alone is.
fn mode_change(step: &Step) -> Option<(u16, u16)> {
    match (step.from, step.to) {
        (Some(Form::File { mode: from, blob }), Some(Form::File { mode, blob: same }))
            if blob == same =>
        {
            Some((from, mode))
        }
        (Some(Form::Directory { mode: from }), Some(Form::Directory { mode })) => {
            Some((from, mode))
        }
        _ => None,
    }
}

/// Whether something new has to be written before a step is done.
pub(super) fn needs_staging(step: &Step) -> bool {
    step.to.is_some() && mode_change(step).is_none()
}

impl<'a> Writing<'a> {
    pub(super) fn new(
        (ground, shelf): (&'a mut Ground, &'a Shelf),
        steps: &'a [Step],
        tight: &'a [(RelPath, u16)],
    ) -> Self {
        let wanted: BTreeSet<&RelPath> =
            steps.iter().filter_map(|step| step.needs.as_ref()).collect();
        let needed = steps.iter().enumerate().filter(|(_, step)| wanted.contains(&step.path));
        let needed = needed.map(|(number, step)| (&step.path, number)).collect();
        let (looker, done, out) = (Looker::default(), vec![Done::Waiting; steps.len()], Vec::new());
        let modes = steps.iter().filter(|step| {
            mode_change(step).is_some()
                || matches!(step.to, Some(Form::Directory { mode }) if mode & 0o700 != 0o700)
        });
        let syncs_alone = !cfg!(target_os = "linux") || tight.len() + modes.count() <= SYNCED_ALONE;
        Self {
            ground,
            shelf,
            steps,
            tight,
            opened: Vec::new(),
            syncs_alone,
            looker,
            needed,
            done,
            is_resumed: false,
            out,
        }
    }

    /// Does all steps that are not done.
    pub(super) fn run(mut self) -> Result<(Vec<Done>, Vec<RelPath>), ApplyError> {
        self.loosen()?;
        let ended = self.phases().and_then(|()| self.sync());
        let tightened = self.set_modes(ended.is_ok());
        ended?;
        tightened?;
        self.sync_modes()?;
        let late = self.changed_late();
        Ok((self.done, late))
    }

    fn phases(&mut self) -> Result<(), ApplyError> {
        let steps = self.steps;
        for phase in Phase::NAMES {
            let mut numbers: Vec<usize> = Vec::new();
            for (number, step) in steps.iter().enumerate() {
                if Phase::of(step) == phase {
                    numbers.push(number);
                }
            }
            if phase == Phase::Removals {
                numbers.reverse();
            }
            for number in numbers {
                let Some(step) = steps.get(number) else { continue };
                if self.done.get(number).is_some_and(|&done| done != Done::Waiting) {
                    continue;
                }
                self.step_once(number, step)?;
            }
        }
        Ok(())
    }

    /// Does a step, and notes what became of it.
    fn step_once(&mut self, number: usize, step: &Step) -> Result<Done, ApplyError> {
        self.ground.let_go();
        let mut done = self.step(number, step)?;
        if done == Done::Found && self.is_resumed && self.was_made(number, step)? {
            done = Done::Made;
        }
        self.set(number, done);
        Ok(done)
    }

    fn set(&mut self, number: usize, done: Done) {
        if let Some(place) = self.done.get_mut(number) {
            *place = done;
        }
    }

    fn step(&mut self, number: usize, step: &Step) -> Result<Done, ApplyError> {
        if let Some(needed) = &step.needs {
            let place = self.needed.get(needed);
            let is_so = place.and_then(|&at| self.done.get(at)).is_some_and(|done| done.is_so());
            if !is_so {
                return Ok(Done::Blocked);
            }
        }
        let was_directory = step.from.is_some_and(|from| from.is_directory());
        let is_file = |form: &Option<Form>| form.is_some_and(|form| !form.is_directory());
        // What came out could not go back where that is needed.
        if mode_change(step).is_none()
            && (is_file(&step.from) || is_file(&step.to))
            && !self.shelf.abilities.can_put()
        {
            return Ok(Done::Refused);
        }
        let done = if let Some((from, to)) = mode_change(step) {
            self.change_mode(step, from, to).map_err(Stop::Unchanged)
        } else if step.to.is_none() {
            if was_directory {
                self.remove_directory(step).map_err(Stop::Unchanged)
            } else {
                self.take_out(number, step)
            }
        } else if was_directory {
            self.replace_directory(number, step)
        } else if step.from.is_some() {
            self.exchange(number, step)
        } else {
            self.place(number, step).map_err(Stop::Unchanged)
        };
        let done = match done {
            Err(Stop::Halfway(error)) => {
                return Err(self.ground.failed("writing", step.path.as_bytes(), error));
            }
            Err(Stop::Unchanged(error)) => Err(error),
            Ok(done) => Ok(done),
        };
        match done {
            Ok(done) => Ok(done),
            // What it is in is not there, or not what it was.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(Done::Blocked),
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::XDEV | Errno::BUSY) => {
                Ok(Done::Refused)
            }
            Err(Errno::TXTBSY | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(Done::Refused),
            Err(Errno::NAMETOOLONG | Errno::ILSEQ | Errno::INVAL) => Ok(Done::NotCarried),
            Err(error) => Err(self.ground.failed("writing", step.path.as_bytes(), error)),
        }
    }
}

/// The path of the directory that an entry is in, and its name.
fn split(path: &RelPath) -> (&[u8], &[u8]) {
    path.split_last().unwrap_or_default()
}
