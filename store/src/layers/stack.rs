//! The layers of a workspace: found again, made, and let go of.
//!
//! ```text
//! N/tree       what the layer has; N counts up
//! N/record     what it shows together with those below it
//! users/NAME   the layers that somebody uses, one a line
//! new-…        one that is being made
//! gone-…       one that is being taken away
//! ```
//!
//! A layer over fifteen others is made over their base instead, so that no stack is high and what they have in common is
//! written once.
//!
//! **Invariant:** one layer of a workspace is made at a time, and meanwhile nobody comes to use one or takes one away.
//!
//! **Invariant:** a layer gets its name when all of it is there. What has none goes when the folder is opened. Nothing is
//! synced: all of it means nothing after the next start of the machine.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use baton_protocol::object::Snapshot;

use super::LayerError;
use super::known::{Known, LayerId, Stack, numbers};
use super::making::{LayerOptions, SHOWN, make};
use super::overlay;
use crate::checkout::{put_aside, sweep};
use crate::fs::{self, FsError};
use crate::objects::{ObjectSink, ObjectSource};
use crate::scan::Progress;

/// Longest note of who uses layers.
const MAX_NOTE: u64 = 4096;

const USERS: &str = "users";
const NEW: &str = "new-";
const GONE: &str = "gone-";

/// The layers of a workspace. One at a time may be open for a folder.
#[derive(Debug)]
pub struct Layers {
    folder: PathBuf,
    making: Mutex<()>,
}

impl Layers {
    /// Opens the layers in a folder, which is made where it is missing.
    pub fn open(folder: &Path) -> Result<Self, FsError> {
        fs::create_dir_all(folder)?;
        let layers = Self { folder: folder.to_owned(), making: Mutex::default() };
        for name in fs::list_dir(folder)? {
            if name.as_bytes().starts_with(NEW.as_bytes()) {
                layers.put_aside(&folder.join(&name))?;
            }
        }
        Ok(layers)
    }

    /// The layers that show a snapshot, made where they are not there. That `user` has them is noted: as long as the
    /// user is there, so are they. It is there from before it asks.
    pub fn stack<S: ObjectSource + ObjectSink>(
        &self,
        objects: &S,
        snapshot: &Snapshot,
        user: &str,
        options: &LayerOptions<'_>,
        progress: &Progress,
    ) -> Result<Stack, LayerError> {
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let stack = self.find_or_make(objects, snapshot, options, progress)?;
        // Whoever makes room may take it away.
        fs::create_dir_all(&self.folder.join(USERS))?;
        let noted: Vec<_> = stack.layers.iter().map(LayerId::to_string).collect();
        fs::write_whole(&self.note(user), noted.join("\n").as_bytes(), 0o600)?;
        Ok(stack)
    }

    /// The layers that a user has by [`Layers::stack`], of that snapshot; nothing where they are not there as they were.
    pub fn noted(
        &self,
        user: &str,
        snapshot: &Snapshot,
        boot: &str,
    ) -> Result<Option<Stack>, FsError> {
        // While one is made others are found: nobody takes them away, for the user is there.
        let layers = noted(&self.note(user))?;
        let known = Known::read(&self.folder, boot)?;
        let Some((&top, record)) = layers.first().and_then(|top| Some((top, known.record(*top)?)))
        else {
            return Ok(None);
        };
        let stack = known.stack(top);
        Ok((record.shows(snapshot) && stack.layers == layers).then_some(stack))
    }

    fn note(&self, user: &str) -> PathBuf {
        self.folder.join(USERS).join(user)
    }

    fn find_or_make<S: ObjectSource + ObjectSink>(
        &self,
        objects: &S,
        snapshot: &Snapshot,
        options: &LayerOptions<'_>,
        progress: &Progress,
    ) -> Result<Stack, LayerError> {
        let mut known = Known::read(&self.folder, options.boot)?;
        if let Some(id) = known.that_shows(snapshot) {
            return Ok(known.stack(id));
        }
        // Those of an earlier start of the machine have numbers, too.
        let id = numbers(&self.folder)?.last().map_or(1, |id| id + 1);
        let new = self.folder.join(format!("{NEW}{id}"));
        self.put_aside(&new)?;
        fs::create_dir_all(&new)?;
        let made = make(objects, snapshot, &known, &new, options, progress);
        let record = made.inspect_err(|_| drop(self.put_aside(&new)))?;
        fs::write_whole(&new.join("record"), &record.encode(), 0o600)?;
        fs::rename_unsynced(&new, &self.folder.join(id.to_string()))?;
        known.add(id, record);
        Ok(known.stack(id))
    }

    /// Puts the layers aside that no user has who is there, but for the newest stack, and those of an earlier start of
    /// the machine. Returns which.
    pub fn collect(
        &self,
        is_there: impl Fn(&str) -> bool,
        boot: &str,
    ) -> Result<Vec<LayerId>, FsError> {
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let known = Known::read(&self.folder, boot)?;
        let mut kept = BTreeSet::new();
        for name in fs::list_dir(&self.folder.join(USERS))? {
            let note = self.folder.join(USERS).join(&name);
            if name.to_str().is_some_and(&is_there) {
                kept.extend(noted(&note)?);
            } else if let Err(error) = fs::remove_file(&note) {
                tracing::warn!(%error, "a note of layers stays");
            }
        }
        // What is shown over them ended with the machine.
        kept.retain(|id| !known.of_before.contains(id));
        kept.extend(known.newest());
        let mut gone = Vec::new();
        for id in numbers(&self.folder)? {
            if !kept.contains(&id) {
                self.put_aside(&self.folder.join(id.to_string()))?;
                gone.push(id);
            }
        }
        Ok(gone)
    }

    /// Puts a folder of this one aside, if it is there. Nothing that is in it can be seen any more.
    fn put_aside(&self, path: &Path) -> Result<(), FsError> {
        for shown in SHOWN {
            overlay::unmount(&path.join(shown))?;
        }
        put_aside(path, &self.folder, GONE)
    }

    /// Takes away what was put aside, until it is told to `stop`. What cannot be taken away stays.
    pub fn sweep(&self, stop: &AtomicBool) -> Result<(), FsError> {
        sweep(&self.folder, GONE, stop)
    }
}

/// The layers that a file names.
fn noted(note: &Path) -> Result<Vec<LayerId>, FsError> {
    let bytes = fs::read_if_exists(note, MAX_NOTE)?.unwrap_or_default();
    let lines = bytes.split(|&byte| byte == b'\n');
    Ok(lines.filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok()).collect())
}
