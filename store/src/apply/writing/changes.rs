//! What a step does with one path: something new comes, and what was there goes to the shelf.
//!
//! **Invariant:** what came out and is not what was expected goes back to its place, or stays on the shelf.

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::{Stop, Writing, split};
use crate::apply::crash;
use crate::apply::form::Form;
use crate::apply::journal::Done;
use crate::apply::look::{is_directory, stat};
use crate::apply::moves::take;
use crate::apply::plan::Step;
use crate::apply::shelf::make_directory;
use crate::stat_cache::FileStat;

impl Writing<'_> {
    /// Puts something new where nothing is.
    pub(super) fn place(&mut self, number: usize, step: &Step) -> Result<Done, Errno> {
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
        let is_still = self.ground.is_still(above);
        match placed {
            Ok(()) if is_still => Ok(Done::Made),
            Ok(()) => {
                self.take_back(number, step);
                Ok(Done::Blocked)
            }
            Err(Errno::EXIST) => {
                let directory = self.ground.directory(above)?;
                let is_so = self.looker.is(directory, name, step.to)?;
                Ok(if is_so { Done::Found } else { Done::Changed })
            }
            Err(error) => Err(error),
        }
    }

    /// Takes something new back out of a directory that is elsewhere by now. What somebody else has put in its place
    /// meanwhile stays.
    fn take_back(&mut self, number: usize, step: &Step) {
        let (above, name) = split(&step.path);
        let shelf = self.shelf;
        let text = number.to_string();
        let new = (shelf.new_folder(), text.as_bytes());
        let taken = self.ground.directory(above).and_then(|directory| {
            if step.to.is_some_and(|to| to.is_directory()) && !shelf.abilities.new {
                return rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR);
            }
            crash::point();
            take((directory, name), new)?;
            crash::point();
            if self.looker.is_staged(new.0, new.1, step.to) == Ok(true) {
                return Ok(());
            }
            match shelf.abilities.put(new, (directory, name)) {
                Ok(()) => Ok(()),
                Err(error) => {
                    shelf.keep(number)?;
                    Err(error)
                }
            }
        });
        if let Err(error) = taken {
            let path = step.path.display();
            tracing::warn!(%path, %error, "what is new stays in a directory that was moved away");
        }
    }

    /// Puts something new in the place of a file or link.
    pub(super) fn exchange(&mut self, number: usize, step: &Step) -> Result<Done, Stop> {
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
        let is_expected = self.looker.is(new.0, new.1, step.from) == Ok(true);
        let is_still = self.ground.is_still(above);
        if is_expected && is_still {
            self.keep(number).map_err(Stop::Halfway)?;
            return Ok(Done::Made);
        }
        if let Err(error) = self.give_back(number, step) {
            tracing::warn!(path = %step.path.display(), %error, "what came out stays on the shelf");
            shelf.keep(number).map_err(Stop::Halfway)?;
        }
        Ok(if is_still { Done::Changed } else { Done::Blocked })
    }

    /// Lets what came out, and is not what was expected, change places once more.
    pub(super) fn give_back(&mut self, number: usize, step: &Step) -> Result<(), Errno> {
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
    pub(super) fn replace_in_two(&mut self, number: usize, step: &Step) -> Result<Done, Stop> {
        match self.take_out(number, step)? {
            Done::Made => {}
            // It may have gone out before a crash.
            Done::Found if self.has_come_out(number, step)? => {}
            Done::Found => return Ok(Done::Changed),
            other => return Ok(other),
        }
        match self.place(number, step) {
            Ok(Done::Blocked) => {
                self.put_old_back(number, step).map_err(Stop::Halfway)?;
                Ok(Done::Blocked)
            }
            Ok(done) => Ok(done),
            Err(error) => {
                self.put_old_back(number, step).map_err(Stop::Halfway)?;
                Err(Stop::Unchanged(error))
            }
        }
    }

    pub(super) fn has_come_out(&mut self, number: usize, step: &Step) -> Result<bool, Errno> {
        let name = number.to_string();
        self.looker.is(self.shelf.out_folder(), name.as_bytes(), step.from)
    }

    /// Takes a file or link out of the checkout.
    pub(super) fn take_out(&mut self, number: usize, step: &Step) -> Result<Done, Stop> {
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
        let is_expected = self.looker.is(out.0, out.1, step.from) == Ok(true);
        let is_still = self.ground.is_still(above);
        if is_expected && is_still {
            if is_staged {
                self.note_out(number).map_err(Stop::Halfway)?;
            } else {
                self.keep(number).map_err(Stop::Halfway)?;
            }
            return Ok(Done::Made);
        }
        crash::point();
        let directory = self.ground.directory(above).map_err(Stop::Halfway)?;
        match shelf.abilities.put(out, (directory, name)) {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(path = %step.path.display(), %error, "what came out stays on the shelf");
                if !is_staged {
                    shelf.keep(number).map_err(Stop::Halfway)?;
                }
            }
        }
        Ok(if is_still { Done::Changed } else { Done::Blocked })
    }

    pub(super) fn remove_directory(&mut self, step: &Step) -> Result<Done, Errno> {
        let (above, name) = split(&step.path);
        let directory = match self.ground.directory(above) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Done::Found),
            Err(error) => return Err(error),
        };
        crash::point();
        let removed = rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR);
        crash::point();
        match removed {
            Ok(()) if self.ground.is_still(above) => Ok(Done::Made),
            Ok(()) => {
                if let Err(error) = self.make_again(step) {
                    let path = step.path.display();
                    tracing::warn!(%path, %error, "an empty directory is gone where it was moved to");
                }
                Ok(Done::Blocked)
            }
            Err(Errno::NOENT) => Ok(Done::Found),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(Done::NotEmpty),
            Err(Errno::NOTDIR) => Ok(Done::Changed),
            Err(error) => Err(error),
        }
    }

    /// Puts a file or link in the place of a directory, which is empty by now.
    pub(super) fn replace_directory(&mut self, number: usize, step: &Step) -> Result<Done, Stop> {
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
        match self.place(number, step) {
            Ok(Done::Blocked) => {
                self.make_again(step).map_err(Stop::Halfway)?;
                Ok(Done::Blocked)
            }
            Ok(done) => Ok(done),
            Err(error) => {
                self.make_again(step).map_err(Stop::Halfway)?;
                Err(Stop::Unchanged(error))
            }
        }
    }

    /// Makes an empty directory again that was taken away.
    fn make_again(&mut self, step: &Step) -> Result<(), Errno> {
        let Some(Form::Directory { mode }) = step.from else { return Ok(()) };
        let (above, name) = split(&step.path);
        crash::point();
        let directory = self.ground.directory(above)?;
        match make_directory(directory, name, mode) {
            Err(Errno::EXIST) => return Ok(()),
            made => made?,
        }
        crash::point();
        let made = crate::scan::directory::open_in(directory, name)?;
        rustix::fs::fchmod(made, Mode::from_raw_mode(mode.into()))
    }

    /// Puts what came out where it stays.
    pub(super) fn keep(&mut self, number: usize) -> Result<(), Errno> {
        self.shelf.keep(number)?;
        self.note_out(number)
    }

    pub(super) fn note_out(&mut self, number: usize) -> Result<(), Errno> {
        if let Some(found) = stat(self.shelf.out_folder(), number.to_string().as_bytes())? {
            self.out.push((number, FileStat::new(&found)));
        }
        Ok(())
    }
}
