//! What a run may take of the machine, and what holds its processes to that.
//!
//! - [`allowance`]: how much that is
//! - [`hierarchies`]: where this process stands among the control groups of the machine
//! - [`cgroup`]: groups whose limits the kernel keeps
//! - [`disk`]: how much a run has written
//!
//! A [`Group`] holds the processes of one run. Where the machine has no control groups for us, [`NoGroups`] stands in
//! their place, and whoever watches a run adds up what its processes take.
//!
//! Not here: watching a run, and ending it ([`runs`](crate::runs)).
//!
//! **Invariant:** a process that is in a group stays in it, and so does all that it starts, whatever it does to its
//! session, its parents and its environment.

pub mod allowance;
mod hierarchies;
mod cgroup;
pub mod disk;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use baton_store::fs::FsError;

pub use allowance::{Allowance, Exceeded};

/// Which limits the kernel keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    /// Memory, with what is written to file systems in it.
    pub memory: bool,
    /// Processes and threads.
    pub processes: bool,
    /// Time of processors.
    pub cpus: bool,
}

/// What the kernel has done so far to keep the limits of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Met {
    /// Processes that it ended because there was no memory left for them.
    pub memory_kills: u64,
    /// Processes that it did not start because there were too many.
    pub refused_processes: u64,
}

/// Makes a group for each run.
pub trait Limits: Send + Sync + std::fmt::Debug {
    /// Which limits its groups keep.
    fn in_force(&self) -> InForce;

    /// What holds runs to their limits, for `doctor`.
    fn detail(&self) -> &str;

    /// Makes the group of a run, with its limits; what an earlier one of that name has left goes.
    fn open(&self, run: &str, allowance: &Allowance) -> Result<Arc<dyn Group>, LimitError>;

    /// Takes away what is left of all groups, and kills what is in them.
    fn shut_down(&self);
}

/// The processes of one run.
pub trait Group: Send + Sync + std::fmt::Debug {
    /// A process that writes `0` into each of these files is in the group, and so is what it starts afterwards.
    fn entrances(&self) -> &[PathBuf];

    /// Puts a process into the group; what it started before stays where it is.
    fn add(&self, pid: i32) -> Result<(), LimitError>;

    /// The living processes that are in it.
    fn processes(&self) -> Vec<i32>;

    /// What was done so far to keep the limits.
    fn met(&self) -> Met;

    /// Kills all that is in it, and keeps it from starting more. Returns whether nothing is left.
    fn kill(&self) -> bool;

    /// Kills all that is in it, and takes it away.
    fn close(&self) -> Result<(), LimitError>;
}

/// A group cannot be made or taken away.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// One of its files.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Something in it does not end.
    #[error("processes in {} cannot be killed", group.display())]
    Stuck {
        /// Its folder.
        group: PathBuf,
    },
}

/// Groups of a machine that lets us make none: they hold nothing.
#[derive(Clone, Debug)]
pub struct NoGroups {
    why: String,
}

impl NoGroups {
    /// Says why there are none.
    pub const fn because(why: String) -> Self {
        Self { why }
    }
}

impl Limits for NoGroups {
    fn in_force(&self) -> InForce {
        InForce::default()
    }

    fn detail(&self) -> &str {
        &self.why
    }

    fn open(&self, _run: &str, _allowance: &Allowance) -> Result<Arc<dyn Group>, LimitError> {
        Ok(Arc::new(self.clone()))
    }

    fn shut_down(&self) {}
}

impl Group for NoGroups {
    fn entrances(&self) -> &[PathBuf] {
        &[]
    }

    fn add(&self, _pid: i32) -> Result<(), LimitError> {
        Ok(())
    }

    fn processes(&self) -> Vec<i32> {
        Vec::new()
    }

    fn met(&self) -> Met {
        Met::default()
    }

    fn kill(&self) -> bool {
        true
    }

    fn close(&self) -> Result<(), LimitError> {
        Ok(())
    }
}

/// The groups of the runs in a folder, which is of one daemon only: the best that this machine lets us make. What an
/// earlier daemon has left of its own is killed and taken away; which groups those are it wrote down in the folder.
pub fn choose(runs: &Path) -> Arc<dyn Limits> {
    match cgroup::CgroupLimits::choose(runs) {
        Ok(limits) => Arc::new(limits),
        Err(why) => Arc::new(NoGroups::because(why)),
    }
}
