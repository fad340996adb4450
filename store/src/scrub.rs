//! Scrubbing: sealed segments are read now and then, the one first that was read longest ago.
//!
//! When each was read is kept in a file of the store; what is not in there counts as read when it was written. How much is read
//! is a budget of bytes a day: after a segment nothing is due until its bytes are paid for.
//!
//! Not here: what wakes it; what is done about what it finds.
//!
//! **Invariant:** reads only. What is found is noted before the segment counts as read.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use baton_protocol::id::VaultId;

use crate::check::{Checked, Problem, check_some};
use crate::error::StoreError;
use crate::fs;
use crate::layout::{Class, Layout};
use crate::noted::note;
use crate::store::Store;

const DAY: u64 = 24 * 60 * 60 * 1000;

/// Most that is read of the file: 400,000 segments.
const MAX_FILE: u64 = 64 << 20;

/// How often, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Bytes a day.
    pub per_day: u64,
    /// Milliseconds after which a segment is to be read again.
    pub every_ms: u64,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Segments.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// What is wrong with them; it is noted.
    pub problems: Vec<Problem>,
}

/// Reads what is due, at most as much as an hour's budget and one segment more. `is_to_end` is asked before each.
pub fn scrub(
    store: &Store,
    now_ms: u64,
    pace: Pace,
    is_to_end: impl Fn() -> bool,
) -> Result<Scrubbed, StoreError> {
    let mut done = Scrubbed::default();
    let mut kept = Kept::read(store.layout())?;
    // A clock that was set back is no reason to wait for longer than a day.
    let is_paid = kept.next_ms <= now_ms || kept.next_ms > now_ms.saturating_add(DAY);
    if pace.per_day == 0 || !is_paid {
        return Ok(done);
    }
    let mut due = Vec::new();
    let mut there = HashSet::new();
    for id in store.vaults()? {
        let Ok(vault) = store.vault(id) else { continue };
        for row in vault.index().segments()? {
            let Some(class) = Class::from_number(row.class) else { continue };
            if row.name.starts_with("open-") {
                continue;
            }
            let path = vault.layout().segments(id, class).join(&row.name);
            let key = (id, row.name.clone());
            let read = match kept.read_ms.get(&key) {
                Some(read) => *read,
                None => fs::modified_ms(&path)?.unwrap_or_default(),
            };
            there.insert(key);
            // What says that it was read in the future was read by another clock.
            if read.saturating_add(pace.every_ms) <= now_ms || read > now_ms.saturating_add(DAY) {
                due.push((read, id, row));
            }
        }
    }
    if due.is_empty() {
        return Ok(done);
    }
    due.sort_by(|one, other| (one.0, &one.2.name).cmp(&(other.0, &other.2.name)));
    kept.read_ms.retain(|key, _| there.contains(key));
    // Files stay where they are, whatever is collected meanwhile.
    let _lease = store.lease();
    for (_, id, row) in due {
        if is_to_end() || done.bytes >= pace.per_day / 24 && done.segments > 0 {
            break;
        }
        let vault = store.vault(id)?;
        // Collected since.
        if vault.index().segment(row.segment)?.is_none_or(|now| now.name != row.name) {
            continue;
        }
        let mut checked = Checked::default();
        match check_some(&vault, &HashSet::from([row.segment]), &mut checked) {
            Err(error) if error.is_corruption() => checked.found(format!("vault {id}"), error),
            checked => checked?,
        }
        if !checked.problems.is_empty() {
            note(store.layout(), &checked.problems);
            vault.index().doubt();
        }
        done.problems.extend(checked.problems);
        done.segments += 1;
        done.bytes += row.indexed;
        let paid_in = u128::from(done.bytes) * u128::from(DAY) / u128::from(pace.per_day);
        kept.next_ms = now_ms.saturating_add(u64::try_from(paid_in).unwrap_or(DAY).min(DAY));
        kept.read_ms.insert((id, row.name), now_ms);
        kept.write(store.layout())?;
    }
    Ok(done)
}

/// When what was read, and when the next may be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Kept {
    next_ms: u64,
    read_ms: BTreeMap<(VaultId, String), u64>,
}

impl Kept {
    /// Where it cannot be understood everything is as if it had never been read.
    fn read(layout: &Layout) -> Result<Self, StoreError> {
        let read = match fs::read_if_exists(&layout.verified(), MAX_FILE) {
            Err(error) if error.is_too_large() => None,
            read => read?,
        };
        let text = read.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        let mut lines = text.lines();
        let next_ms = lines.next().and_then(|line| line.parse().ok()).unwrap_or_default();
        let segment = |line: &str| {
            let mut parts = line.split(' ');
            let vault = parts.next()?.parse().ok()?;
            let name = parts.next()?.to_owned();
            Some(((vault, name), parts.next()?.parse().ok()?))
        };
        Ok(Self { next_ms, read_ms: lines.filter_map(segment).collect() })
    }

    fn write(&self, layout: &Layout) -> Result<(), StoreError> {
        let mut text = format!("{}\n", self.next_ms);
        for ((vault, name), read) in &self.read_ms {
            let _ = writeln!(text, "{vault} {name} {read}");
        }
        Ok(fs::write_atomic(&layout.verified(), text.as_bytes(), 0o600)?)
    }
}
