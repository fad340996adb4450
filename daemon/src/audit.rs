//! Who did what at this node: one line of JSON for each event, appended and never changed.
//!
//! Not here: what was pushed or said, nor any secret; names, ids and addresses are all there is.
//!
//! **Invariant:** the log is bounded: a full file makes way, and the oldest one goes. Refusals, which
//! strangers can cause, have a rate of their own, so that they push nothing else out; those that were not
//! written are counted in the next that is.

use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use baton_protocol::id::{DeviceId, RunId, SnapshotId, WorkspaceId};
use baton_store::fs::{self, FsError};
use serde::Serialize;

use crate::clock::{Clock, rfc3339};

/// Bytes after which a file is full: some 30,000 events.
const FULL: u64 = 8 * 1024 * 1024;

/// Full files that are kept.
const KEPT: u32 = 4;

/// Refusals that may come at once, and one more each such time.
const REFUSALS: u32 = 20;
const REFUSAL_EACH: Duration = Duration::from_secs(3);

/// What happened.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "fields are named as they are written; docs/operations.md has the table"
)]
pub enum Event<'a> {
    /// Somebody at the node issued a ticket.
    Ticket { user: &'a str, role: &'a str, uses: u32, expires_at: &'a str },
    /// A ticket was redeemed.
    Joined { device: DeviceId, user: &'a str, name: &'a str, role: &'a str, address: IpAddr },
    /// A request was refused for who asked.
    Refused {
        device: Option<DeviceId>,
        user: Option<&'a str>,
        address: IpAddr,
        request: &'a str,
        why: &'a str,
    },
    /// A device's right to connect was taken, and so many connections were cut.
    Revoked { device: DeviceId, connections: usize },
    /// A snapshot was acknowledged.
    Push {
        device: DeviceId,
        user: &'a str,
        workspace: WorkspaceId,
        snapshot: SnapshotId,
        address: IpAddr,
    },
    /// A run was created.
    RunStarted { device: DeviceId, user: &'a str, run: RunId, agent: &'a str, address: IpAddr },
    /// A run was cancelled.
    RunCancelled { device: DeviceId, user: &'a str, run: RunId, address: IpAddr },
    /// A run was taken away.
    RunDeleted { device: DeviceId, user: &'a str, run: RunId, address: IpAddr },
    /// A secret was kept, or is kept no longer.
    Secret { device: DeviceId, user: &'a str, name: &'a str, kept: bool },
    /// Something was taken away for good.
    Forget { device: DeviceId, user: &'a str, what: &'a str },
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    /// Refusals before this one that were not written.
    #[serde(skip_serializing_if = "is_zero")]
    skipped: u64,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The log; clones write to the same one.
#[derive(Clone, Debug)]
pub struct Audit(Option<Arc<Mutex<Log>>>);

#[derive(Debug)]
struct Log {
    path: PathBuf,
    clock: Clock,
    full: u64,
    open: Option<(File, u64)>,
    refusals: u32,
    counted: Instant,
    skipped: u64,
    /// A failure is told once, until a line is written again.
    failing: bool,
}

impl Audit {
    /// Nothing is written down.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Appends to this file. It is opened with the first event.
    pub fn open(path: &Path, clock: &Clock) -> Self {
        Self::with_size(path, clock, FULL)
    }

    fn with_size(path: &Path, clock: &Clock, full: u64) -> Self {
        let log = Log {
            path: path.to_owned(),
            clock: clock.clone(),
            full,
            open: None,
            refusals: REFUSALS,
            counted: clock.instant(),
            skipped: 0,
            failing: false,
        };
        Self(Some(Arc::new(Mutex::new(log))))
    }

    /// Writes an event down. A failure holds nobody up: the log of the daemon tells of it.
    pub fn note(&self, event: &Event<'_>) {
        if let Some(log) = &self.0 {
            log.lock().unwrap_or_else(PoisonError::into_inner).note(event, 0);
        }
    }

    /// Writes a refusal down, or counts it where there are too many.
    pub fn refused(&self, event: &Event<'_>) {
        let Some(log) = &self.0 else { return };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = log.clock.since(log.counted).as_secs() / REFUSAL_EACH.as_secs();
        if let Ok(more @ 1..) = u32::try_from(passed) {
            log.refusals = log.refusals.saturating_add(more).min(REFUSALS);
            log.counted = log.clock.instant();
        }
        if log.refusals == 0 {
            log.skipped += 1;
            return;
        }
        log.refusals -= 1;
        let skipped = std::mem::take(&mut log.skipped);
        log.note(event, skipped);
    }
}

impl Log {
    fn note(&mut self, event: &Event<'_>, skipped: u64) {
        let line = Line { time: rfc3339(self.clock.now_ms()), skipped, event };
        let Ok(mut bytes) = serde_json::to_vec(&line) else { return };
        bytes.push(b'\n');
        match self.append(&bytes) {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::error!(error = &error as &dyn std::error::Error, "the audit log");
            }
            Err(_) => {}
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        let (mut file, len) = match self.open.take() {
            Some(open) => open,
            None => self.begin()?,
        };
        let failed = |source| FsError { action: "writing", path: self.path.clone(), source };
        // One call, so that a line is there whole or not at all.
        file.write_all(bytes).map_err(failed)?;
        let len = len + bytes.len() as u64;
        if len < self.full {
            self.open = Some((file, len));
            return Ok(());
        }
        drop(file);
        self.turn()
    }

    fn begin(&self) -> Result<(File, u64), FsError> {
        let file = fs::open_append(&self.path)?;
        let failed = |source| FsError { action: "looking at", path: self.path.clone(), source };
        let len = file.metadata().map_err(failed)?.len();
        Ok((file, len))
    }

    /// Makes way for a new file.
    fn turn(&self) -> Result<(), FsError> {
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            if number > 0 {
                name.push(format!(".{number}"));
            }
            PathBuf::from(name)
        };
        for number in (0..KEPT).rev() {
            match fs::rename_unsynced(&numbered(number), &numbered(number + 1)) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn refusal() -> Event<'static> {
        Event::Refused { device: None, user: None, address: HERE, request: "Hello", why: "x" }
    }

    #[test]
    fn events_are_lines_that_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let clock = Clock::manual(1_000_000);
        let device = DeviceId::from_bytes([7; 32]);
        let name = "a \"quoted\"\nname";
        let event = Event::Joined { device, user: "ann", name, role: "run", address: HERE };
        Audit::open(&path, &clock).note(&event);
        // Another process of the same node goes on with it.
        Audit::open(&path, &clock).note(&Event::Revoked { device, connections: 2 });
        let lines = lines(&path);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["event"], "joined");
        assert_eq!(lines[0]["name"], name);
        assert_eq!(lines[0]["device"], device.to_string());
        assert_eq!(lines[0]["address"], "127.0.0.1");
        assert_eq!(lines[0]["time"], "1970-01-01T00:16:40.000Z");
        assert_eq!(lines[1]["connections"], 2);
        assert!(lines[0].get("skipped").is_none());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_full_file_makes_way_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let audit = Audit::with_size(&path, &Clock::manual(0), 1000);
        for connections in 0..200 {
            let device = DeviceId::from_bytes([7; 32]);
            audit.note(&Event::Revoked { device, connections });
        }
        let names = fs::list_dir(folder.path()).unwrap();
        assert_eq!(names.len(), KEPT as usize + 1, "{names:?}");
        let newest = lines(&folder.path().join("audit.log.1"));
        let before = lines(&folder.path().join("audit.log.2"));
        let number = |line: &serde_json::Value| line["connections"].as_u64().unwrap();
        assert_eq!(number(before.last().unwrap()) + 1, number(&newest[0]));
        for name in names {
            assert!(std::fs::metadata(folder.path().join(name)).unwrap().len() < 1200);
        }
    }

    #[test]
    fn strangers_do_not_fill_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let clock = Clock::manual(0);
        let audit = Audit::open(&path, &clock);
        for _ in 0..1000 {
            audit.refused(&refusal());
        }
        assert_eq!(lines(&path).len(), REFUSALS as usize);
        audit.note(&Event::Revoked { device: DeviceId::from_bytes([7; 32]), connections: 0 });
        clock.advance(REFUSAL_EACH);
        audit.refused(&refusal());
        audit.refused(&refusal());
        let lines = lines(&path);
        assert_eq!(lines.len(), REFUSALS as usize + 2);
        assert_eq!(lines.last().unwrap()["skipped"], 1000 - u64::from(REFUSALS));
    }
}
