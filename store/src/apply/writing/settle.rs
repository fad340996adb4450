//! What a crash has left, put in order before the steps are done again.
//!
//! **Invariant:** what came out of the checkout and was not looked at goes back to its path, or to the shelf.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::{Opened, Writing, mode_change, needs_staging, split};
use crate::apply::form::Form;
use crate::apply::journal::Done;
use crate::apply::look::{is_directory, mode_of, stat};
use crate::apply::plan::Step;
use crate::apply::shelf::make_directory;
use crate::apply::{ApplyError, crash};

impl Writing<'_> {
    /// Puts in order what a crash has left: what came out and was not looked at goes back, or to its shelf.
    pub(in crate::apply) fn settle(&mut self) -> Result<(), ApplyError> {
        let steps = self.steps;
        self.is_resumed = true;
        self.loosen()?;
        for (number, step) in steps.iter().enumerate() {
            self.ground.let_go();
            match self.settle_step(number, step) {
                Ok(Some(done)) => self.set(number, done),
                Ok(None) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => {
                    return Err(self.ground.failed("looking at", step.path.as_bytes(), error));
                }
            }
        }
        Ok(())
    }

    fn settle_step(&mut self, number: usize, step: &Step) -> Result<Option<Done>, Errno> {
        let (above, name) = split(&step.path);
        let shelf = self.shelf;
        let text = number.to_string();
        let new = (shelf.new_folder(), text.as_bytes());
        let out = (shelf.out_folder(), text.as_bytes());
        // Where names cannot change places, it may have been taken out and not looked at since.
        if !shelf.abilities.exchange
            && step.from.is_some()
            && !self.looker.is(out.0, out.1, None)?
            && !self.looker.is(out.0, out.1, step.from)?
            && self.put_back(out, step)?
        {
            return Ok(Some(Done::Changed));
        }
        if self.looker.is(new.0, new.1, None)? {
            return Ok(None);
        }
        if step.to.is_some() && self.looker.is_staged(new.0, new.1, step.to) == Ok(true) {
            return Ok(None);
        }
        if step.from.is_some() && self.looker.is(new.0, new.1, step.from)? {
            shelf.keep(number)?;
            return Ok(None);
        }
        // It is nobody's but the user's.
        if step.to.is_none() {
            if !self.put_back(new, step)? {
                shelf.keep(number)?;
            }
            return Ok(Some(Done::Changed));
        }
        let directory = self.ground.directory(above)?;
        if shelf.abilities.exchange && self.looker.is(directory, name, step.to)? {
            self.give_back(number, step)?;
            return Ok(Some(Done::Changed));
        }
        shelf.keep(number)?;
        Ok(None)
    }

    /// Gives something back to a path, where that is free; says whether it was.
    fn put_back(&mut self, from: (BorrowedFd<'_>, &[u8]), step: &Step) -> Result<bool, Errno> {
        let (above, name) = split(&step.path);
        let directory = self.ground.directory(above)?;
        crash::point();
        match self.shelf.abilities.put(from, (directory, name)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Does nothing more: says which steps are done, and puts back what was done of one by halves.
    pub(in crate::apply) fn stop(mut self) -> Result<Vec<Done>, ApplyError> {
        let ended = self.settle().and_then(|()| {
            let steps = self.steps;
            for (number, step) in steps.iter().enumerate() {
                if self.done.get(number).is_some_and(|&done| done != Done::Waiting) {
                    continue;
                }
                self.ground.let_go();
                match self.stop_step(number, step) {
                    Ok(true) => self.set(number, Done::Made),
                    // What it is in is not there any more.
                    Ok(false) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(error) => {
                        return Err(self.ground.failed("looking at", step.path.as_bytes(), error));
                    }
                }
            }
            self.sync()
        });
        let tightened = self.set_modes(false);
        ended?;
        tightened?;
        self.sync_modes()?;
        Ok(self.done)
    }

    /// Whether a step was done, whatever became of it since.
    fn stop_step(&mut self, number: usize, step: &Step) -> Result<bool, Errno> {
        let (above, name) = split(&step.path);
        let text = number.to_string();
        if let Some((_, to)) = mode_change(step) {
            let found = if step.path.is_root() {
                Some(rustix::fs::fstat(self.ground.root())?)
            } else {
                stat(self.ground.directory(above)?, name)?
            };
            let open = self.opened.iter().find(|opened| opened.path == step.path);
            let open = open.filter(|opened| opened.to == to).map(|_| to | 0o700);
            let mode = found.as_ref().map(|found| mode_of(found) & 0o777);
            return Ok(mode == Some(to) || (mode.is_some() && mode == open));
        }
        let is_out = stat(self.shelf.out_folder(), text.as_bytes())?.is_some();
        if step.to.is_none() {
            let was_directory = step.from.is_some_and(|from| from.is_directory());
            if !was_directory {
                return Ok(is_out);
            }
            return match self.ground.directory(above) {
                Ok(directory) => Ok(stat(directory, name)?.is_none()),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(true),
                Err(error) => Err(error),
            };
        }
        if stat(self.shelf.new_folder(), text.as_bytes())?.is_none() {
            return Ok(true);
        }
        let directory = self.ground.directory(above)?;
        let found = stat(directory, name)?;
        match (step.from, step.to) {
            // Made in its place, where it cannot be moved there.
            (from, Some(Form::Directory { .. }))
                if !self.shelf.abilities.new && found.as_ref().is_some_and(is_directory) =>
            {
                Ok(from.is_none() || is_out)
            }
            // What was there has gone, and nothing new has come yet.
            (Some(Form::Directory { mode }), _) if found.is_none() => {
                crash::point();
                make_directory(directory, name, mode)?;
                if mode & 0o700 != 0o700 {
                    let path = step.path.clone();
                    self.opened.push(Opened { path, mode, to: mode });
                }
                Ok(false)
            }
            (Some(_), _) if found.is_none() && is_out => {
                self.put_old_back(number, step)?;
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// The steps for which something new has to be staged yet.
    pub(in crate::apply) fn unstaged(&mut self) -> Result<Vec<usize>, ApplyError> {
        let steps = self.steps;
        let mut found = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            let is_settled = self.done.get(number).is_some_and(|&done| done != Done::Waiting);
            if is_settled || !needs_staging(step) {
                continue;
            }
            let text = number.to_string();
            let (above, name) = split(&step.path);
            let is_staged = stat(self.shelf.new_folder(), text.as_bytes()).map(|it| it.is_some());
            let is_so = match self.ground.directory(above) {
                Ok(directory) => self.looker.is(directory, name, step.to),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
                Err(error) => Err(error),
            };
            match (is_staged, is_so) {
                (Ok(is_staged), Ok(is_so)) => {
                    if !is_staged && !is_so {
                        found.push(number);
                    }
                }
                (Err(error), _) | (_, Err(error)) => {
                    return Err(self.ground.failed("looking at", step.path.as_bytes(), error));
                }
            }
        }
        Ok(found)
    }

    /// Whether a step that is found done was done by us before it was cut off.
    pub(super) fn was_made(&self, number: usize, step: &Step) -> Result<bool, ApplyError> {
        let text = number.to_string();
        let was_directory = step.from.is_some_and(|from| from.is_directory());
        let has = |folder, ours| match stat(folder, text.as_bytes()) {
            Ok(found) => Ok(found.is_some() == ours),
            Err(error) => Err(self.ground.failed("looking at", step.path.as_bytes(), error)),
        };
        match step.to {
            // What tells it is where it was moved from, or to.
            None if !was_directory => has(self.shelf.out_folder(), true),
            Some(Form::Directory { .. }) if !self.shelf.abilities.new => Ok(true),
            Some(_) if needs_staging(step) => has(self.shelf.new_folder(), false),
            // Nothing does.
            _ => Ok(true),
        }
    }

    /// Gives what came out of the checkout its place again, since nothing else gets it.
    pub(super) fn put_old_back(&mut self, number: usize, step: &Step) -> Result<(), Errno> {
        let (above, name) = split(&step.path);
        let shelf = self.shelf;
        let directory = self.ground.directory(above)?;
        let text = number.to_string();
        crash::point();
        shelf.abilities.put((shelf.out_folder(), text.as_bytes()), (directory, name))?;
        crash::point();
        self.out.retain(|(out, _)| *out != number);
        Ok(())
    }
}
