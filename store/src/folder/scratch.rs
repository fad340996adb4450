//! A folder of ours that is there for a moment.

use std::path::{Path, PathBuf};

use rustix::fs::Mode;

use crate::error::StoreError;
use crate::fs::{self, Context, FsError};

/// A folder for its owner only, which goes with this value.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one in a folder of ours.
    pub fn new(above: &Path) -> Result<Self, FsError> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|_| FsError {
            action: "drawing a name in",
            path: above.to_owned(),
            source: std::io::Error::other(StoreError::Random),
        })?;
        let path = above.join(format!("{:016x}", u64::from_ne_bytes(random)));
        fs::create_dir_all(above)?;
        rustix::fs::mkdir(&path, Mode::RWXU).context("creating", &path)?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            // The folder above is emptied when the next daemon starts.
            tracing::warn!(%error, "a folder for a moment stays");
        }
    }
}
