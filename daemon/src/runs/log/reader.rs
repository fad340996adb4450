//! Reads a log in batches.
//!
//! **Invariant:** nothing behind the first entry that is not whole is ever returned.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use baton_protocol::message::LogEntry;
use baton_store::fs::{self, Context, FsError};

use super::LogError;
use super::format::{MAGIC, OVERHEAD, PREFIX, decode, decode_prefix};

/// Bytes after which a batch is handed out. With the longest entry on top it stays far below the longest
/// frame of the protocol.
const BATCH: usize = 256 * 1024;

/// Most entries of a batch.
const MAX_ENTRIES: usize = 4096;

/// Some entries of a log.
#[derive(Debug, Default)]
pub(in crate::runs) struct Batch {
    /// In order.
    pub(in crate::runs) entries: Vec<LogEntry>,
    /// Entries that were passed over.
    pub(in crate::runs) skipped: u64,
}

/// A place in a log.
#[derive(Debug)]
pub(in crate::runs) struct LogReader {
    path: PathBuf,
    file: BufReader<File>,
    /// Of the next entry.
    offset: u64,
    body: Vec<u8>,
}

impl LogReader {
    /// At the first entry; nothing where there is no file, or its beginning is not whole: it is being made, or a crash
    /// left it so.
    pub(in crate::runs) fn open(path: &Path) -> Result<Option<Self>, LogError> {
        let file = match fs::open(path) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut file = BufReader::with_capacity(BATCH, file);
        let mut magic = [0; MAGIC.len()];
        let read = read_whole(&mut file, &mut magic).context("reading", path)?;
        if !read {
            return Ok(None);
        }
        if magic != MAGIC {
            return Err(LogError::NotALog { path: path.to_owned() });
        }
        let offset = MAGIC.len() as u64;
        Ok(Some(Self { path: path.to_owned(), file, offset, body: Vec::new() }))
    }

    /// Where the next entry begins.
    pub(in crate::runs) const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next entries, after at most `skip` that are passed over. Empty at the end of what is there now;
    /// later there may be more.
    pub(in crate::runs) fn batch(&mut self, skip: u64) -> Result<Batch, FsError> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        while bytes < BATCH && batch.entries.len() < MAX_ENTRIES {
            let Some(entry) = self.entry().context("reading", &self.path)? else {
                // The buffer holds what was there before; more may be written behind it.
                let to = SeekFrom::Start(self.offset);
                self.file.seek(to).context("seeking", &self.path)?;
                break;
            };
            let length = OVERHEAD + entry.text.len();
            self.offset += length as u64;
            bytes += length;
            if batch.skipped < skip {
                batch.skipped += 1;
            } else {
                batch.entries.push(entry);
            }
        }
        Ok(batch)
    }

    fn entry(&mut self) -> std::io::Result<Option<LogEntry>> {
        let mut prefix = [0; PREFIX];
        if !read_whole(&mut self.file, &mut prefix)? {
            return Ok(None);
        }
        let Some((length, sum)) = decode_prefix(prefix) else { return Ok(None) };
        self.body.resize(length, 0);
        if !read_whole(&mut self.file, &mut self.body)? {
            return Ok(None);
        }
        Ok(decode(&self.body, sum))
    }
}

/// Fills the buffer; false where the file ends before.
fn read_whole(file: &mut impl Read, to: &mut [u8]) -> std::io::Result<bool> {
    match file.read_exact(to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use baton_protocol::message::LogStream;

    use super::super::writer::Log;
    use super::*;

    fn texts(path: &Path, mut skip: u64) -> Vec<String> {
        let mut texts = Vec::new();
        let Some(mut reader) = LogReader::open(path).unwrap() else { return texts };
        loop {
            let batch = reader.batch(skip).unwrap();
            if batch.entries.is_empty() && batch.skipped == 0 {
                return texts;
            }
            skip -= batch.skipped;
            let batch = batch.entries.into_iter();
            texts.extend(batch.map(|entry| String::from_utf8(entry.text).unwrap()));
        }
    }

    #[test]
    fn a_torn_end_is_ignored_at_every_length_and_cut_before_more_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Log::new(path.clone(), 1 << 20);
        log.append(1, |add| {
            add(LogStream::Stdout, b"one\n");
            add(LogStream::Stderr, b"two\n");
        });
        let two = log.subscribe().borrow().bytes;
        log.append(2, |add| add(LogStream::Stdout, b"three\n"));
        drop(log);
        let whole = fs::read_if_exists(&path, 1 << 20).unwrap().unwrap();
        assert_eq!(texts(&path, 0), ["one\n", "two\n", "three\n"]);
        for length in two..whole.len() as u64 {
            let torn = folder.path().join(format!("torn-{length}"));
            fs::write_atomic(&torn, &whole[..length as usize], 0o600).unwrap();
            assert_eq!(texts(&torn, 0), ["one\n", "two\n"], "cut at {length}");
            let log = Log::new(torn.clone(), 1 << 20);
            log.reopen().unwrap();
            log.append(3, |add| add(LogStream::Node, b"four\n"));
            assert_eq!(texts(&torn, 0), ["one\n", "two\n", "four\n"], "cut at {length}");
        }
        // Even without a whole beginning.
        for length in 0..MAGIC.len() {
            fs::write_atomic(&path, &whole[..length], 0o600).unwrap();
            assert_eq!(texts(&path, 0), Vec::<String>::new());
            let log = Log::new(path.clone(), 1 << 20);
            log.reopen().unwrap();
            log.node(3, "new");
            assert_eq!(texts(&path, 0), ["new\n"]);
        }
        fs::write_atomic(&path, b"#!/bin/sh something", 0o600).unwrap();
        assert!(matches!(LogReader::open(&path), Err(LogError::NotALog { .. })));
        assert!(LogReader::open(&folder.path().join("none")).unwrap().is_none());
    }

    /// Makes the checksums right, as far as one entry leads to the next.
    fn sum_entries(bytes: &mut [u8]) {
        let mut at = MAGIC.len();
        while let Some(prefix) = bytes.get(at..at + PREFIX) {
            let length = u32::from_le_bytes(prefix[..4].try_into().unwrap()) as usize;
            let Some(body) = bytes.get(at + PREFIX..at + PREFIX + length) else { return };
            let sum = crc32c::crc32c(body).to_le_bytes();
            bytes[at + 4..at + 8].copy_from_slice(&sum);
            at += PREFIX + length;
        }
    }

    fn entries(path: &Path) -> Option<Vec<LogEntry>> {
        let Ok(opened) = LogReader::open(path) else { return None };
        let mut all = Vec::new();
        let Some(mut reader) = opened else { return Some(all) };
        loop {
            let batch = reader.batch(0).unwrap();
            if batch.entries.is_empty() {
                return Some(all);
            }
            all.extend(batch.entries);
        }
    }

    #[test]
    fn run_logs() {
        use crate::fuzz::fuzzing::{Random, fuzz_with, within};

        let folder = crate::fuzz::scratch();
        let path = folder.path().join("log");
        let log = Log::new(path.clone(), 1 << 20);
        log.append(1, |add| {
            add(LogStream::Stdout, b"one\n");
            add(LogStream::Stderr, b"\xff\0");
        });
        log.node(1 << 40, "three");
        drop(log);
        let whole = fs::read_if_exists(&path, 1 << 20).unwrap().unwrap();
        fuzz_with(1500, vec![whole], |_, input| {
            let mut input = input.to_vec();
            if Random::of(&input).below(4) > 0 {
                sum_entries(&mut input);
            }
            fs::write_whole(&path, &input, 0o600).unwrap();
            let fixed = 2 * BATCH;
            let Some(before) = within(&input, 32, fixed, |_| entries(&path)) else {
                assert!(Log::new(path.clone(), 1 << 30).reopen().is_err());
                assert_eq!(fs::read_if_exists(&path, u64::MAX - 1).unwrap().unwrap(), input);
                return false;
            };
            let texts: usize = before.iter().map(|entry| OVERHEAD + entry.text.len()).sum();
            assert!(texts <= input.len());
            // It goes on behind the last one that is whole.
            let log = Log::new(path.clone(), 1 << 30);
            log.reopen().unwrap();
            log.node(7, "new");
            let after = entries(&path).unwrap();
            assert_eq!(after[..after.len() - 1], before[..]);
            assert_eq!(after.last().unwrap().text, b"new\n");
            before.len() > 1
        });
    }

    #[test]
    fn a_reader_at_the_end_sees_what_comes_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Log::new(path.clone(), 1 << 20);
        log.node(1, "first");
        let mut reader = LogReader::open(&path).unwrap().unwrap();
        assert_eq!(reader.batch(0).unwrap().entries.len(), 1);
        assert!(reader.batch(0).unwrap().entries.is_empty());
        log.node(2, "second");
        assert_eq!(reader.batch(0).unwrap().entries[0].text, b"second\n");
    }

    #[test]
    fn skipping_counts_entries_over_many_batches() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Log::new(path.clone(), 1 << 30);
        for number in 0..10_000_u32 {
            let line = format!("{number}\n");
            log.append(1, |add| add(LogStream::Stdout, line.as_bytes()));
        }
        assert_eq!(texts(&path, 0).len(), 10_000);
        assert_eq!(texts(&path, 9_998), ["9998\n", "9999\n"]);
        assert_eq!(texts(&path, 20_000), Vec::<String>::new());
    }
}
