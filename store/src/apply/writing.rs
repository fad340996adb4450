//! The writes of an apply, step by step.
//!
//! Directories first, then files, then what goes away; links when everything else is in place, and
//! permissions of directories last. Each step looks at what is there, and can be done again.
//!
//! - [`permissions`]: those that change, and those that directories get meanwhile
//! - [`settle`]: what a crash has left
//!
//! **Invariant:** what is replaced or taken away is looked at once more when it is out; where it is not what
//! was expected, it goes back. What came out stays on the shelf. However it ends, directories have the
//! permissions that they should.

mod permissions;
mod settle;

use std::collections::{BTreeSet, HashMap};

use baton_protocol::path::RelPath;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::form::Form;
use super::ground::Ground;
use super::journal::Done;
use super::look::{Looker, is_directory, stat};
use super::moves::take;
use super::plan::Step;
use super::shelf::{SYNCED_ALONE, Shelf, make_directory, sync_all};
use super::{ApplyError, crash};
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
    const ALL: [Self; 6] = [
        Self::Directories,
        Self::Files,
        Self::Removals,
        Self::FilesForDirectories,
        Self::Links,
        Self::Modes,
    ];

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
    looker: Looker,
    /// Steps that others need, by their path.
    needed: HashMap<&'a RelPath, usize>,
    done: Vec<Done>,
    /// Whether it was begun before, and cut off.
    is_resumed: bool,
    /// What came out, in the state in which it was looked at.
    out: Vec<(usize, FileStat)>,
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
        Self { ground, shelf, steps, tight, looker, needed, done, is_resumed: false, out }
    }

    /// Does all steps that are not done.
    pub(super) fn run(mut self) -> Result<(Vec<Done>, Vec<RelPath>), ApplyError> {
        self.loosen()?;
        let ended = self.phases();
        let tightened = self.tighten();
        ended?;
        tightened?;
        self.sync()?;
        let late = self.changed_late();
        Ok((self.done, late))
    }

    fn phases(&mut self) -> Result<(), ApplyError> {
        let steps = self.steps;
        for phase in Phase::ALL {
            let mut numbers: Vec<usize> = Vec::new();
            for (number, step) in steps.iter().enumerate() {
                if Phase::of(step) == phase {
                    numbers.push(number);
                }
            }
            if matches!(phase, Phase::Removals | Phase::Modes) {
                numbers.reverse();
            }
            for number in numbers {
                let Some(step) = steps.get(number) else { continue };
                if self.done.get(number).is_some_and(|&done| done != Done::Waiting) {
                    continue;
                }
                let mut done = self.step(number, step)?;
                if done == Done::Found && self.is_resumed && self.was_made(number, step)? {
                    done = Done::Made;
                }
                self.set(number, done);
            }
        }
        Ok(())
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

    /// Puts something new where nothing is.
    fn place(&mut self, number: usize, step: &Step) -> Result<Done, Errno> {
        let (above, name) = split(&step.path);
        let shelf = self.shelf;
        let directory = self.ground.directory(above)?;
        if self.looker.is(directory, name, step.to)? {
            return Ok(Done::Found);
        }
        crash::point();
        let placed = match step.to {
            // No second name can be made for one.
            Some(Form::Directory { mode }) if !shelf.abilities.new => {
                make_directory(directory, name, mode)
            }
            _ => {
                let number = number.to_string();
                let from = (shelf.new_folder(), number.as_bytes());
                shelf.abilities.put(from, (directory, name))
            }
        };
        crash::point();
        match placed {
            Ok(()) => Ok(Done::Made),
            Err(Errno::EXIST) => {
                let is_so = self.looker.is(directory, name, step.to)?;
                Ok(if is_so { Done::Found } else { Done::Changed })
            }
            Err(error) => Err(error),
        }
    }

    /// Puts something new in the place of a file or link.
    fn exchange(&mut self, number: usize, step: &Step) -> Result<Done, Stop> {
        let (above, name) = split(&step.path);
        let shelf = self.shelf;
        let directory = self.ground.directory(above)?;
        if self.looker.is(directory, name, step.to)? {
            return Ok(Done::Found);
        }
        if !shelf.abilities.exchange {
            return self.replace_in_two(number, step);
        }
        if !self.looker.is(directory, name, step.from)? {
            return Ok(Done::Changed);
        }
        let text = number.to_string();
        let new = (shelf.new_folder(), text.as_bytes());
        crash::point();
        match shelf.abilities.exchange(new, (directory, name)) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(Done::Changed),
            Err(error) => return Err(error.into()),
        }
        crash::point();
        // What cannot be looked at is not what was expected.
        if self.looker.is(new.0, new.1, step.from) == Ok(true) {
            self.keep(number).map_err(Stop::Halfway)?;
            return Ok(Done::Made);
        }
        if let Err(error) = self.give_back(number, step) {
            tracing::warn!(path = %step.path.display(), %error, "what came out stays on the shelf");
            shelf.keep(number).map_err(Stop::Halfway)?;
        }
        Ok(Done::Changed)
    }

    /// Lets what came out, and is not what was expected, change places once more.
    fn give_back(&mut self, number: usize, step: &Step) -> Result<(), Errno> {
        let (above, name) = split(&step.path);
        let shelf = self.shelf;
        let directory = self.ground.directory(above)?;
        let text = number.to_string();
        let new = (shelf.new_folder(), text.as_bytes());
        crash::point();
        match shelf.abilities.exchange(new, (directory, name)) {
            Ok(()) => {
                crash::point();
                // Somebody may have written to the new one while it was in its place.
                if self.looker.is_staged(new.0, new.1, step.to) != Ok(true) {
                    shelf.keep(number)?;
                }
                Ok(())
            }
            // The new one was taken away meanwhile.
            Err(Errno::NOENT) => match shelf.abilities.put(new, (directory, name)) {
                Err(Errno::EXIST) => shelf.keep(number),
                done => done,
            },
            Err(error) => Err(error),
        }
    }

    /// The same as an exchange, where the file system has none: the old one goes out, and the new one in.
    fn replace_in_two(&mut self, number: usize, step: &Step) -> Result<Done, Stop> {
        match self.take_out(number, step)? {
            Done::Made => {}
            // It may have gone out before a crash.
            Done::Found if self.has_come_out(number, step)? => {}
            Done::Found => return Ok(Done::Changed),
            other => return Ok(other),
        }
        match self.place(number, step) {
            Ok(done) => Ok(done),
            Err(error) => {
                self.put_old_back(number, step).map_err(Stop::Halfway)?;
                Err(Stop::Unchanged(error))
            }
        }
    }

    fn has_come_out(&mut self, number: usize, step: &Step) -> Result<bool, Errno> {
        let name = number.to_string();
        self.looker.is(self.shelf.out_folder(), name.as_bytes(), step.from)
    }

    /// Takes a file or link out of the checkout.
    fn take_out(&mut self, number: usize, step: &Step) -> Result<Done, Stop> {
        let (above, name) = split(&step.path);
        let shelf = self.shelf;
        let directory = match self.ground.directory(above) {
            Ok(directory) => directory,
            // It went with what it was in.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Done::Found),
            Err(error) => return Err(error.into()),
        };
        if self.looker.is(directory, name, None)? {
            return Ok(Done::Found);
        }
        if !self.looker.is(directory, name, step.from)? {
            return Ok(Done::Changed);
        }
        // Through the place of what is new, so that it gets a free name where it stays.
        let text = number.to_string();
        let new = (shelf.new_folder(), text.as_bytes());
        let is_staged = stat(new.0, new.1)?.is_some();
        let out = if is_staged { (shelf.out_folder(), new.1) } else { new };
        crash::point();
        match take((directory, name), out) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(Done::Found),
            // From before a crash: it came out, and somebody made another one.
            Err(Errno::EXIST) => return Ok(Done::Changed),
            Err(error) => return Err(error.into()),
        }
        crash::point();
        if self.looker.is(out.0, out.1, step.from) == Ok(true) {
            if is_staged {
                self.note_out(number).map_err(Stop::Halfway)?;
            } else {
                self.keep(number).map_err(Stop::Halfway)?;
            }
            return Ok(Done::Made);
        }
        crash::point();
        match shelf.abilities.put(out, (directory, name)) {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(path = %step.path.display(), %error, "what came out stays on the shelf");
                if !is_staged {
                    shelf.keep(number).map_err(Stop::Halfway)?;
                }
            }
        }
        Ok(Done::Changed)
    }

    fn remove_directory(&mut self, step: &Step) -> Result<Done, Errno> {
        let (above, name) = split(&step.path);
        let directory = match self.ground.directory(above) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Done::Found),
            Err(error) => return Err(error),
        };
        crash::point();
        match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(Done::Made),
            Err(Errno::NOENT) => Ok(Done::Found),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(Done::NotEmpty),
            Err(Errno::NOTDIR) => Ok(Done::Changed),
            Err(error) => Err(error),
        }
    }

    /// Puts a file or link in the place of a directory, which is empty by now.
    fn replace_directory(&mut self, number: usize, step: &Step) -> Result<Done, Stop> {
        let (above, name) = split(&step.path);
        let directory = self.ground.directory(above)?;
        match stat(directory, name)? {
            Some(found) if is_directory(&found) => match self.remove_directory(step)? {
                Done::Made | Done::Found => {}
                other => return Ok(other),
            },
            Some(_) => {
                let is_so = self.looker.is(directory, name, step.to)?;
                return Ok(if is_so { Done::Found } else { Done::Changed });
            }
            None => {}
        }
        let Some(Form::Directory { mode }) = step.from else { return Ok(Done::Changed) };
        match self.place(number, step) {
            Ok(done) => Ok(done),
            Err(error) => {
                crash::point();
                let directory = self.ground.directory(above).map_err(Stop::Halfway)?;
                match make_directory(directory, name, mode) {
                    Ok(()) | Err(Errno::EXIST) => Err(Stop::Unchanged(error)),
                    Err(error) => Err(Stop::Halfway(error)),
                }
            }
        }
    }

    /// Puts what came out where it stays.
    fn keep(&mut self, number: usize) -> Result<(), Errno> {
        self.shelf.keep(number)?;
        self.note_out(number)
    }

    fn note_out(&mut self, number: usize) -> Result<(), Errno> {
        if let Some(found) = stat(self.shelf.out_folder(), number.to_string().as_bytes())? {
            self.out.push((number, FileStat::new(&found)));
        }
        Ok(())
    }

    /// What was written to after it had come out, by whoever had it open.
    fn changed_late(&self) -> Vec<RelPath> {
        let is_late = |(number, before): &&(usize, FileStat)| {
            let name = number.to_string();
            let now = stat(self.shelf.out_folder(), name.as_bytes());
            let now = now.ok().flatten().map(|now| FileStat::new(&now));
            now.is_none_or(|now| FileStat { ctime: before.ctime, ..now } != *before)
        };
        let late = self.out.iter().filter(is_late);
        late.filter_map(|(number, _)| Some(self.steps.get(*number)?.path.clone())).collect()
    }

    /// Makes the names durable that changed.
    fn sync(&mut self) -> Result<(), ApplyError> {
        let made = self.steps.iter().zip(&self.done).filter(|(_, done)| done.is_so());
        let above: BTreeSet<&[u8]> = made.map(|(step, _)| split(&step.path).0).collect();
        if above.is_empty() {
            return Ok(());
        }
        let synced = |ground: &Ground, error| Err(ground.failed("syncing", b"", error));
        if above.len() > SYNCED_ALONE {
            match sync_all(self.ground.root()) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return synced(self.ground, error),
            }
        }
        for path in above {
            match self.ground.directory(path).and_then(rustix::fs::fsync) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return synced(self.ground, error),
            }
        }
        match rustix::fs::fsync(self.shelf.out_folder()) {
            Ok(()) => Ok(()),
            Err(error) => synced(self.ground, error),
        }
    }
}

/// The path of the directory that an entry is in, and its name.
fn split(path: &RelPath) -> (&[u8], &[u8]) {
    path.split_last().unwrap_or_default()
}
