//! Scrubbing: segments are read now and then, the one first that was read longest ago. Of one that is being written that is as
//! much as there is.
//!
//! When each was read is kept in a file of the store; what is not in there counts as read when it was written. How much is read
//! is a budget of bytes a day: after a segment nothing is due until its bytes are paid for.
//!
//! Not here: what wakes it; what is done about what it finds.
//!
//! **Invariant:** reads only. What is found is noted before the segment counts as read.

use std::collections::{BTreeMap, HashSet};

use baton_protocol::id::VaultId;

use crate::check::{Checked, Problem, check_some};
use crate::error::StoreError;
use crate::fs;
use crate::index::SegmentRow;
use crate::layout::{Class, Layout};
use crate::lines;
use crate::noted::note;
use crate::segment::SegmentHeader;
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
    if pace.per_day == 0 || kept.paid_ms(now_ms) > now_ms {
        return Ok(done);
    }
    let listed = list(store, &kept)?;
    let there: HashSet<_> = listed.iter().map(|(_, id, row)| (*id, row.name.clone())).collect();
    let mut due = listed;
    due.retain(|(read, ..)| due_ms(*read, now_ms, pace) <= now_ms);
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

/// In how many milliseconds something is due; nothing where nothing will be before something more is stored.
pub fn due_in(store: &Store, now_ms: u64, pace: Pace) -> Result<Option<u64>, StoreError> {
    if pace.per_day == 0 {
        return Ok(None);
    }
    let kept = Kept::read(store.layout())?;
    let listed = list(store, &kept)?;
    let first = listed.iter().map(|(read, ..)| due_ms(*read, now_ms, pace)).min();
    Ok(first.map(|first| first.max(kept.paid_ms(now_ms)).saturating_sub(now_ms)))
}

/// When something is due that was read then. What says that it was read in the future was read by another clock.
const fn due_ms(read: u64, now_ms: u64, pace: Pace) -> u64 {
    if read > now_ms.saturating_add(DAY) { now_ms } else { read.saturating_add(pace.every_ms) }
}

/// All segments that hold something, and when each was read.
fn list(store: &Store, kept: &Kept) -> Result<Vec<(u64, VaultId, SegmentRow)>, StoreError> {
    let mut listed = Vec::new();
    for id in store.vaults()? {
        let Ok(vault) = store.vault(id) else { continue };
        for row in vault.index().segments()? {
            let Some(class) = Class::from_number(row.class) else { continue };
            if row.indexed <= SegmentHeader::LEN as u64 {
                continue;
            }
            let read = if let Some(read) = kept.read_ms.get(&(id, row.name.clone())) {
                *read
            } else {
                let path = vault.layout().segments(id, class).join(&row.name);
                fs::modified_ms(&path)?.unwrap_or_default()
            };
            listed.push((read, id, row));
        }
    }
    Ok(listed)
}

/// When what was read, and when the next may be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Kept {
    next_ms: u64,
    read_ms: BTreeMap<(VaultId, String), u64>,
}

impl Kept {
    /// When the bytes that were read are paid for. A clock that was set back is no reason to wait for longer than a day.
    const fn paid_ms(&self, now_ms: u64) -> u64 {
        if self.next_ms > now_ms.saturating_add(DAY) { now_ms } else { self.next_ms }
    }

    /// Where it cannot be understood everything is as if it had never been read.
    fn read(layout: &Layout) -> Result<Self, StoreError> {
        let text = lines::read(&layout.verified(), MAX_FILE)?.unwrap_or_default();
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
        let segments =
            self.read_ms.iter().map(|((vault, name), read)| format!("{vault} {name} {read}"));
        let all = std::iter::once(self.next_ms.to_string()).chain(segments);
        Ok(lines::write(&layout.verified(), all)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::fuzzing::{fuzz_with, within};
    use crate::fuzz::scratch;

    #[test]
    fn times_of_scrubs() {
        let folder = scratch();
        let layout = Layout::open(folder.path()).unwrap();
        let mut kept = Kept { next_ms: 5, read_ms: BTreeMap::new() };
        let mut corpus = vec![b"x\n".to_vec()];
        for at in 0..3u8 {
            let name = format!("open-{at}");
            kept.read_ms.insert((VaultId::from_bytes([at; 16]), name), u64::from(at) * 1000);
            kept.write(&layout).unwrap();
            corpus.push(fs::read_if_exists(&layout.verified(), 4096).unwrap().unwrap());
        }
        fuzz_with(1500, corpus, |_, input| {
            fs::write_whole(&layout.verified(), input, 0o600).unwrap();
            // A line takes more than it is long, but what is no line of this takes nothing.
            let kept = within(input, 16, 65_536, |_| Kept::read(&layout)).unwrap();
            kept.write(&layout).unwrap();
            assert_eq!(Kept::read(&layout).unwrap(), kept);
            let pace = Pace { per_day: 1, every_ms: u64::MAX };
            for read in kept.read_ms.values() {
                assert!(due_ms(*read, u64::MAX, pace) >= *read);
            }
            !kept.read_ms.is_empty()
        });
    }
}
