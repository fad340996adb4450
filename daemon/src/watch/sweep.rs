//! For file systems that tell of nothing, such as those of another machine: each seal looks at
//! everything.
//!
//! Not here: when that is. Nobody is woken by a change; a keeper that wants to see one seals now and
//! then, with patience.

use std::collections::BTreeSet;
use std::path::Path;

use baton_store::scan::dirty::Dirty;

use super::bell::Bell;
use super::root::Root;
use super::{Coverage, Waiter, Watch, WatchError};

/// Watches nothing.
#[derive(Debug)]
pub struct SweepWatch {
    root: Root,
    /// Only so that each is said to be new once.
    directories: BTreeSet<Vec<u8>>,
    bell: Bell,
    note: Option<String>,
}

impl SweepWatch {
    /// Sweeps a root; `note` says for people why it is not watched.
    pub fn open(root: &Path, note: Option<String>) -> Result<Self, WatchError> {
        let root = Root::open(root)?;
        Ok(Self { root, directories: BTreeSet::new(), bell: Bell::default(), note })
    }
}

impl Watch for SweepWatch {
    fn add(
        &mut self,
        directories: &mut dyn Iterator<Item = &[u8]>,
    ) -> Result<Vec<Vec<u8>>, WatchError> {
        let mut new = Vec::new();
        for directory in directories {
            if self.directories.insert(directory.to_vec()) {
                new.push(directory.to_vec());
            }
        }
        Ok(new)
    }

    fn remove(&mut self, directory: &[u8]) {
        super::root::remove_below(&mut self.directories, directory);
    }

    fn drain(&mut self) -> Result<Dirty, WatchError> {
        self.root.check()?;
        Ok(Dirty::everything())
    }

    fn check_root(&self) -> Result<(), WatchError> {
        self.root.check()
    }

    fn waiter(&self) -> Box<dyn Waiter> {
        Box::new(self.bell.clone())
    }

    fn coverage(&self) -> Coverage {
        let swept = self.directories.len() as u64;
        Coverage { backend: "sweep", swept, note: self.note.clone(), ..Coverage::default() }
    }
}

impl Drop for SweepWatch {
    fn drop(&mut self) {
        self.bell.close();
    }
}
