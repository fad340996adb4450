//! What a device sends, on its way into a vault and within what one push may cost.
//!
//! **Invariant:** what came counts before it is kept, and as much as it weighs on the wire.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use baton_protocol::encode::DecodeError;
use baton_protocol::frame::FrameError;
use baton_protocol::message::{Refusal, RefusalCode, Reply};
use baton_store::error::StoreError;
use baton_store::segment::RecordEntry;
use baton_store::vault::{Intake, Vault};

use super::{KEEP_AT, MAX_OBJECTS, SyncError, Wire, records, store_refusal};

/// What one push may cost a node.
#[derive(Clone, Debug)]
pub struct Quota {
    /// Objects.
    pub objects: u64,
    /// Objects that could not be restored and were not asked for again: four bytes of memory each.
    pub unresolved: usize,
    /// Bytes after which what came is made durable and found, so that a push on another connection goes
    /// on from there while this one still waits for a device that is gone.
    pub keep_at: u64,
    /// What the user's vault has and may have at most; what comes counts as it comes, compressed. Nothing: as much as the
    /// disk holds.
    pub vault: Option<Kept>,
    /// What the snapshots of the device need, and may need at most; what comes counts to it. Nothing: as much as the vault
    /// may have.
    pub device: Option<Kept>,
}

/// Bytes that are kept for a device or a user.
#[derive(Clone, Debug)]
pub struct Kept {
    /// How many there are; everything that is on its way counts here.
    pub now: Arc<AtomicU64>,
    /// How many there may be.
    pub most: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            objects: MAX_OBJECTS,
            unresolved: 4 << 20,
            keep_at: KEEP_AT,
            vault: None,
            device: None,
        }
    }
}

/// Why a push with more objects than it may have ends.
pub(super) const TOO_MANY: &str = "too many objects in one push";

/// An intake that counts.
pub(super) struct Incoming {
    intake: Intake,
    quota: Quota,
    /// Bytes on the wire.
    taken: u64,
    objects: u64,
    unkept: u64,
    entries: Vec<RecordEntry>,
}

impl Incoming {
    pub(super) fn new(vault: &Vault, quota: Quota) -> Self {
        let intake = vault.intake();
        let (taken, objects, unkept, entries) = (0, 0, 0, Vec::new());
        Self { intake, quota, taken, objects, unkept, entries }
    }

    pub(super) const fn intake(&self) -> &Intake {
        &self.intake
    }

    /// How many objects came.
    pub(super) const fn objects(&self) -> u64 {
        self.objects
    }

    /// Makes durable and found what came.
    pub(super) fn keep(&self) -> Result<(), StoreError> {
        self.intake.flush_all()
    }

    /// Stages a record, whose hashes are checked beside; returns how many objects it says that it holds.
    pub(super) fn record(&mut self, body: Vec<u8>) -> Result<usize, TakeError> {
        let len = body.len();
        self.weigh(len)?;
        let damaged = || TakeError::Malformed("a damaged record".to_owned());
        let head = records::table(&body, &mut self.entries).ok_or_else(damaged)?;
        self.intake.put_record(body, head, &self.entries)?;
        self.came(self.entries.len() as u64, len as u64)?;
        Ok(self.entries.len())
    }

    /// Counts bytes that came.
    pub(super) fn weigh(&mut self, len: usize) -> Result<(), TakeError> {
        let len = len as u64;
        self.taken = self.taken.saturating_add(len);
        // What there was before, where it is too much with this.
        let is_over = |kept: &Option<Kept>| {
            let Kept { now, most } = kept.as_ref()?;
            let now = now.fetch_add(len, Ordering::Relaxed).saturating_add(len);
            (now > *most).then(|| (now.saturating_sub(self.taken), *most))
        };
        let (device, vault) = (is_over(&self.quota.device), is_over(&self.quota.vault));
        let what = if let Some((now, most)) = device {
            format!("the node keeps {now} bytes for this device, of {most} that it may have")
        } else if let Some((now, most)) = vault {
            format!("the node keeps {now} bytes for this user, of {most} that they may have")
        } else {
            return Ok(());
        };
        self.keep()?;
        let hint = "forget what is not needed, then baton gc on the node";
        Err(TakeError::Limit(format!("{what}: {hint}")))
    }

    /// Counts objects that are staged, and makes them durable once there are many bytes of them.
    pub(super) fn came(&mut self, objects: u64, bytes: u64) -> Result<(), TakeError> {
        self.objects += objects;
        if self.objects > self.quota.objects {
            return Err(TakeError::Limit(TOO_MANY.to_owned()));
        }
        self.unkept += bytes;
        if self.unkept >= self.quota.keep_at {
            self.keep()?;
            self.unkept = 0;
        }
        Ok(())
    }
}

/// What came is not taken.
pub(super) enum TakeError {
    Malformed(String),
    Limit(String),
    Store(StoreError),
}

impl TakeError {
    /// Ends the session with it.
    pub(super) fn tell(self, wire: &mut Wire) -> Result<(), SyncError> {
        let refusal = match self {
            Self::Malformed(message) => Refusal { code: RefusalCode::Malformed, message },
            Self::Limit(message) => Refusal { code: RefusalCode::Limit, message },
            Self::Store(error) => store_refusal(&error),
        };
        Ok(wire.send(&Reply::Refused(refusal))?)
    }
}

impl From<StoreError> for TakeError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Forged(_) => Self::Malformed(error.to_string()),
            error => Self::Store(error),
        }
    }
}

impl From<FrameError> for TakeError {
    fn from(error: FrameError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<DecodeError> for TakeError {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}
