//! Up to where the journal is known to be on the disk: what tells damage from a write that a power cut left unfinished.
//!
//! A file of two slots, each in a sector of its own, written in turns; the valid one that was written last counts.
//!
//! ```text
//! "BTNW"  version u8  0 [3]  sequence u64  number u64  end u64  crc32c of the above u32
//! ```
//!
//! It is written beside the journal and synced by nobody: an old one proves less, and nothing waits for it. There is no hash of
//! what it names: each entry has its own.
//!
//! **Invariant:** what it names was synced before it was written.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::error::StoreError;
use crate::fs::{self, Context};
use crate::layout::Layout;

/// Magic, version 1, and zeros.
const HEAD: [u8; 8] = *b"BTNW\x01\0\0\0";

/// What a disk writes whole or not at all.
const SLOT: usize = 512;
/// What of a slot is used.
const LEN: usize = 36;

/// A place in the journal before which everything is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The file.
    pub(super) number: u64,
    /// Where its last entry that was synced ends.
    pub(super) end: u64,
}

/// What was read of the file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    sequence: u64,
    pub(super) mark: Option<Mark>,
    /// Whether there is a file, and nothing in it can be believed: a power cut harms one slot at most.
    pub(super) is_damaged: bool,
}

/// Reads the file.
pub(super) fn read(layout: &Layout) -> Result<Found, StoreError> {
    let read = match fs::read_if_exists(&layout.watermark(), 2 * SLOT as u64) {
        Err(error) if error.is_too_large() => Some(Vec::new()),
        read => read?,
    };
    let Some(bytes) = read else { return Ok(Found::default()) };
    let newest = bytes.chunks(SLOT).filter_map(decode).max_by_key(|(sequence, _)| *sequence);
    Ok(match newest {
        Some((sequence, mark)) => Found { sequence, mark: Some(mark), is_damaged: false },
        None => Found { is_damaged: true, ..Found::default() },
    })
}

/// Writes the file.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    file: Option<File>,
    found: Found,
}

impl Writer {
    /// Goes on with what was read of the file.
    pub(super) fn new(layout: &Layout, found: Found) -> Self {
        Self { path: layout.watermark(), file: None, found }
    }

    /// The last one.
    pub(super) const fn mark(&self) -> Option<Mark> {
        self.found.mark
    }

    /// Writes what was synced, over the slot that is older.
    pub(super) fn write(&mut self, mark: Mark) -> Result<(), StoreError> {
        let next = self.found.sequence.checked_add(1);
        // After the last number, which only damage has written, the file is begun anew.
        let (sequence, is_new) = (next.unwrap_or(1), next.is_none() || self.found.mark.is_none());
        let slot = encode(sequence, mark);
        match &self.file {
            Some(file) if !is_new => {
                write_slot(file, sequence, &slot).context("writing", &self.path)?;
            }
            None if !is_new => {
                let file = fs::open_writable(&self.path)?;
                write_slot(&file, sequence, &slot).context("writing", &self.path)?;
                self.file = Some(file);
            }
            _ => {
                // With its length it never needs room again.
                let mut bytes = vec![0; 2 * SLOT];
                for (to, from) in bytes.iter_mut().skip(place(sequence)).zip(slot) {
                    *to = from;
                }
                fs::write_atomic(&self.path, &bytes, 0o600)?;
                self.file = None;
            }
        }
        self.found = Found { sequence, mark: Some(mark), is_damaged: false };
        Ok(())
    }
}

fn write_slot(file: &File, sequence: u64, slot: &[u8]) -> std::io::Result<()> {
    file.write_all_at(slot, place(sequence) as u64)
}

/// Where the slot of this sequence is.
const fn place(sequence: u64) -> usize {
    if sequence.is_multiple_of(2) { 0 } else { SLOT }
}

fn encode(sequence: u64, mark: Mark) -> [u8; LEN] {
    let mut slot = [0; LEN];
    let numbers = [sequence, mark.number, mark.end].into_iter().flat_map(u64::to_le_bytes);
    for (to, from) in slot.iter_mut().zip(HEAD.into_iter().chain(numbers)) {
        *to = from;
    }
    if let Some((body, sum)) = slot.split_last_chunk_mut::<4>() {
        *sum = crc32c::crc32c(body).to_le_bytes();
    }
    slot
}

fn decode(slot: &[u8]) -> Option<(u64, Mark)> {
    let (body, sum) = slot.get(..LEN)?.split_last_chunk::<4>()?;
    let (head, numbers) = body.split_first_chunk::<8>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) || *head != HEAD {
        return None;
    }
    let mut numbers = numbers.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
    let (sequence, number, end) = (numbers.next()?, numbers.next()?, numbers.next()?);
    Some((sequence, Mark { number, end }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::fuzzing::{Random, fuzz, within};
    use crate::fuzz::{scratch, sum};

    #[test]
    fn after_the_last_number_it_is_begun_anew() {
        let folder = scratch();
        let layout = Layout::open(folder.path()).unwrap();
        let mut bytes = vec![0; 2 * SLOT];
        let at = place(u64::MAX - 1);
        let mark = Mark { number: 1, end: 300 };
        bytes[at..at + LEN].copy_from_slice(&encode(u64::MAX - 1, mark));
        fs::write_whole(&layout.watermark(), &bytes, 0o600).unwrap();
        let mut writer = Writer::new(&layout, read(&layout).unwrap());
        assert_eq!(writer.mark(), Some(mark));
        for end in 400..405 {
            let mark = Mark { number: 2, end };
            writer.write(mark).unwrap();
            assert_eq!(read(&layout).unwrap().mark, Some(mark));
        }
    }

    #[test]
    fn watermarks() {
        let folder = scratch();
        let layout = Layout::open(folder.path()).unwrap();
        let mut corpus = Vec::new();
        for number in 1..9 {
            let mut writer = Writer::new(&layout, read(&layout).unwrap());
            writer.write(Mark { number, end: number * 300 }).unwrap();
            corpus.push(fs::read_if_exists(&layout.watermark(), 4096).unwrap().unwrap());
        }
        fuzz(corpus, |_, input| {
            let mut input = input.to_vec();
            let random = &mut Random::of(&input);
            if random.below(4) > 0 {
                for slot in [0, SLOT] {
                    sum(&mut input, slot, slot + LEN - 4);
                }
            }
            fs::write_whole(&layout.watermark(), &input, 0o600).unwrap();
            let found = within(&input, 4, 8192, |_| read(&layout)).unwrap();
            assert_eq!(found.is_damaged, found.mark.is_none());
            if let Some(Mark { number, end }) = found.mark {
                let says = [found.sequence, number, end].map(u64::to_le_bytes).concat();
                let is_whole = |slot: &[u8]| {
                    let sum = crc32c::crc32c(&slot[..LEN - 4]).to_le_bytes();
                    slot[8..LEN - 4] == says && slot[LEN - 4..LEN] == sum
                };
                let mut slots = input.chunks(SLOT).filter(|slot| slot.len() >= LEN);
                assert!(slots.any(is_whole), "no slot says that");
            }
            // It is written over, whatever it says, and then says what was written.
            let mark = Mark { number: random.next(), end: random.next() };
            Writer::new(&layout, found).write(mark).unwrap();
            assert_eq!(read(&layout).unwrap().mark, Some(mark));
            found.mark.is_some()
        });
    }
}
