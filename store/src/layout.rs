//! Where everything of a store is on the disk, and which formats this program reads.
//!
//! ```text
//! format                     the format of everything below, and which features it has
//! reserve/                   room that is given up to delete something on a full disk
//! lock                       held by the process that has the store open
//! journal/0000000000000001   what was acknowledged and is not yet in segments
//! watermark                  up to where the journal is known to be on the disk; can be dropped
//! vaults/VAULT/index.db      where each object is; can be dropped
//! vaults/VAULT/data|meta/    segments: open-UID, or HASH once sealed
//! damaged/                   quarantine: files as they were when damage was found in them
//! noted                      damage that was found, until it is dealt with
//! verified                   when which segment was read as a whole; can be dropped
//! ```

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use baton_protocol::id::VaultId;
use rustix::fs::FlockOperation;

use crate::error::StoreError;
use crate::features::{Features, MAX_FILE};
use crate::fs::{self, Context};

/// The format that this program writes.
pub const FORMAT: u32 = 1;

const FORMAT_PREFIX: &str = "baton store ";

/// Segments of metadata and of file data are kept apart, so that marking and listing never read
/// file data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Chunks.
    Data = 0,
    /// Everything else.
    Metadata = 1,
}

impl Class {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Data, Self::Metadata];

    /// The class with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Data),
            1 => Some(Self::Metadata),
            _ => None,
        }
    }

    /// The name of its folder.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Metadata => "meta",
        }
    }
}

/// The folders of a store.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
    /// The feature that this program would have to know to write.
    unwritten: Option<String>,
}

impl Layout {
    /// Prepares the folders, and refuses a store of a newer program. Where that one left only writing to itself nothing is
    /// prepared.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let mut layout = Self { root: root.to_owned(), unwritten: None };
        fs::create_dir_all(root)?;
        layout.unwritten = layout.check_format()?.into_unwritten();
        if layout.is_read_only() {
            return Ok(layout);
        }
        fs::create_dir_all(&layout.journal())?;
        fs::create_dir_all(&layout.vaults())?;
        fs::sync_dir(root)?;
        Ok(layout)
    }

    fn check_format(&self) -> Result<Features, StoreError> {
        let path = self.root.join("format");
        let read = match fs::read_if_exists(&path, MAX_FILE) {
            Err(error) if error.is_too_large() => Some(Vec::new()),
            read => read?,
        };
        let Some(bytes) = read else {
            let line = format!("{FORMAT_PREFIX}{FORMAT}\n");
            fs::write_atomic(&path, line.as_bytes(), 0o600)?;
            return Ok(Features::default());
        };
        // Nothing writes the file again: what is in it that this program does not know stays.
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.trim_end().lines();
        let format = lines.next().and_then(|line| line.strip_prefix(FORMAT_PREFIX));
        let number = format.and_then(|format| format.parse::<u32>().ok());
        match number.filter(|number| format == Some(number.to_string().as_str())) {
            Some(FORMAT) => {
                let detail = "no known list of features";
                let features = Features::parse(lines).ok_or(StoreError::Damaged {
                    path,
                    offset: 0,
                    detail,
                })?;
                features.check_readable(&self.root)?;
                Ok(features)
            }
            Some(found) if found > FORMAT => {
                Err(StoreError::Newer { path: self.root.clone(), found, supported: FORMAT })
            }
            _ => Err(StoreError::Damaged { path, offset: 0, detail: "no known store format" }),
        }
    }

    /// Whether the store has a feature without which nothing may be written.
    pub fn is_read_only(&self) -> bool {
        self.unwritten.is_some()
    }

    /// Refuses to write anything where the store is only read.
    pub fn check_writable(&self) -> Result<(), StoreError> {
        self.check_writable_at(&self.root)
    }

    /// The same of what belongs to the store, and is at `path`.
    pub fn check_writable_at(&self, path: &Path) -> Result<(), StoreError> {
        match &self.unwritten {
            None => Ok(()),
            Some(feature) => {
                Err(StoreError::ReadOnly { path: path.to_owned(), feature: feature.clone() })
            }
        }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Journal files.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// One journal file.
    pub fn journal_file(&self, number: u64) -> PathBuf {
        self.journal().join(format!("{number:016x}"))
    }

    /// Up to where the journal is known to be on the disk.
    pub fn watermark(&self) -> PathBuf {
        self.root.join("watermark")
    }

    /// One folder a vault.
    pub fn vaults(&self) -> PathBuf {
        self.root.join("vaults")
    }

    /// The folder of a vault.
    pub fn vault(&self, vault: VaultId) -> PathBuf {
        self.vaults().join(vault.to_string())
    }

    /// The index of a vault.
    pub fn index(&self, vault: VaultId) -> PathBuf {
        self.vault(vault).join("index.db")
    }

    /// The segments of a class.
    pub fn segments(&self, vault: VaultId, class: Class) -> PathBuf {
        self.vault(vault).join(class.folder())
    }

    /// Damage that was found, and is not dealt with.
    pub fn noted(&self) -> PathBuf {
        self.root.join("noted")
    }

    /// When which segment was read as a whole.
    pub fn verified(&self) -> PathBuf {
        self.root.join("verified")
    }

    /// Where damaged files are kept. Nothing is ever deleted there.
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("damaged")
    }

    /// Moves a damaged file into quarantine, durably, and says where it is now: the name is its own, after `what` it is and
    /// before when it was written last, in milliseconds.
    pub(crate) fn set_aside(&self, path: &Path, what: &str) -> Result<PathBuf, StoreError> {
        let folder = self.quarantine();
        fs::create_dir_all(&folder)?;
        fs::sync_dir(&self.root)?;
        let written = fs::modified_ms(path)?.unwrap_or_default();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut to = folder.join(format!("{what}-{name}-{written}"));
        let mut more = 1u32;
        while to.exists() {
            to = folder.join(format!("{what}-{name}-{written}-{more}"));
            more += 1;
        }
        fs::rename(path, &to)?;
        fs::sync_dir(path.parent().unwrap_or(&self.root))?;
        Ok(to)
    }

    /// Takes the store for this process until what is returned is dropped.
    pub fn lock(&self) -> Result<StoreLock, StoreError> {
        let path = self.root.join("lock");
        let mut file = match fs::create_new(&path) {
            Ok(file) => file,
            Err(_) if self.is_read_only() => fs::open(&path)?,
            Err(_) => fs::open_writable(&path)?,
        };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut text = String::new();
            // Who holds it is a courtesy; the refusal stands without it.
            let pid = match (&file).take(32).read_to_string(&mut text) {
                Ok(_) => text.trim().parse().unwrap_or(0),
                Err(_) => 0,
            };
            return Err(StoreError::Locked { path: self.root.clone(), pid });
        }
        if self.is_read_only() {
            return Ok(StoreLock(file));
        }
        file.set_len(0).context("writing", &path)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes()).context("writing", &path)?;
        Ok(StoreLock(file))
    }
}

/// The store is this process's until this is dropped.
#[derive(Debug)]
pub struct StoreLock(File);

impl Drop for StoreLock {
    fn drop(&mut self) {
        // Closing is not enough: a child that is being started has the descriptor too until it
        // executes its program. Where this fails, closing is what remains.
        let _closed_then = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}
