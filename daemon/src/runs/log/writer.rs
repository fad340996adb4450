//! Appends to a log.
//!
//! **Invariant:** the position that is announced covers whole entries only, and those are in the file.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use baton_protocol::message::{LogStream, MAX_QUESTION};
use baton_store::fs::{self, Context, FsError};
use tokio::sync::watch;

use super::LogError;
use super::format::{MAGIC, MAX_TEXT, OVERHEAD, encode};
use super::reader::LogReader;

/// Room for what the node itself has to say behind the limit of a log.
const NODE_RESERVE: u64 = 1024 * 1024;

/// What is remembered of the end of the output at least, and at most twice of it.
const TAIL: usize = MAX_QUESTION;

/// How far a log has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::runs) struct Position {
    /// Bytes of the file that are whole entries.
    pub(in crate::runs) bytes: u64,
    /// Whether more may come.
    pub(in crate::runs) ended: bool,
}

/// The log of a live run. The file is made with the first entry.
#[derive(Debug)]
pub(in crate::runs) struct Log {
    path: PathBuf,
    limit: u64,
    state: Mutex<State>,
    position: watch::Sender<Position>,
}

#[derive(Debug, Default)]
struct State {
    file: Option<File>,
    bytes: u64,
    /// Output is dropped from here on, because of the limit or because it cannot be written.
    cut: bool,
    buffer: Vec<u8>,
    /// The end of the program's output.
    tail: Vec<u8>,
}

impl Log {
    /// Prepares a log that takes `limit` bytes of output; nothing is opened or made yet.
    pub(in crate::runs) fn new(path: PathBuf, limit: u64) -> Self {
        let position = watch::Sender::new(Position::default());
        Self { path, limit, state: Mutex::default(), position }
    }

    /// Continues a log that an earlier daemon has written, and cuts off what a crash left at its end.
    pub(in crate::runs) fn reopen(&self) -> Result<(), LogError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut reader) = LogReader::open(&self.path)? else {
            // One without a beginning is made anew.
            fs::remove_file(&self.path)?;
            return Ok(());
        };
        while reader.batch(u64::MAX)?.skipped > 0 {}
        let whole = reader.offset();
        let mut file = fs::open_writable(&self.path)?;
        file.set_len(whole).context("cutting", &self.path)?;
        file.seek(SeekFrom::End(0)).context("seeking", &self.path)?;
        state.file = Some(file);
        state.bytes = whole;
        state.cut = whole >= self.limit;
        self.position.send_modify(|position| position.bytes = whole);
        Ok(())
    }

    /// Where it stands, now and later.
    pub(in crate::runs) fn subscribe(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }

    /// Says that no more will come.
    pub(in crate::runs) fn end(&self) {
        self.position.send_modify(|position| position.ended = true);
    }

    /// Appends what the node itself says about the run, as one line.
    pub(in crate::runs) fn node(&self, time: u64, text: &str) {
        let mut line = text.as_bytes().to_vec();
        line.truncate(MAX_TEXT - 1);
        line.push(b'\n');
        self.append(time, |add| add(LogStream::Node, &line));
    }

    /// Appends the entries that `fill` adds, each of at most [`MAX_TEXT`] bytes, with one write.
    ///
    /// What does not fit, or cannot be written, is dropped, and the log says so: output must never stop a
    /// run or fill the disk.
    pub(in crate::runs) fn append(
        &self,
        time: u64,
        fill: impl FnOnce(&mut dyn FnMut(LogStream, &[u8])),
    ) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = std::mem::take(&mut state.buffer);
        buffer.clear();
        let mut tail = std::mem::take(&mut state.tail);
        fill(&mut |stream, text| {
            if stream != LogStream::Node {
                tail.extend_from_slice(text.get(text.len().saturating_sub(TAIL)..).unwrap_or(text));
                if tail.len() > 2 * TAIL {
                    tail.drain(..tail.len() - TAIL);
                }
            }
            let size = (OVERHEAD + text.len()) as u64;
            let after = state.bytes + buffer.len() as u64 + size;
            if stream == LogStream::Node {
                if after <= self.limit.saturating_add(NODE_RESERVE) {
                    encode(&mut buffer, time, stream, text);
                }
            } else if !state.cut && after <= self.limit {
                encode(&mut buffer, time, stream, text);
            } else if !state.cut {
                state.cut = true;
                let limit = self.limit;
                let note = format!("the output is cut here, at {limit} bytes; the run goes on\n");
                encode(&mut buffer, time, LogStream::Node, note.as_bytes());
            }
        });
        state.tail = tail;
        if !buffer.is_empty() {
            match state.write(&self.path, &buffer) {
                Ok(bytes) => self.position.send_modify(|position| position.bytes = bytes),
                Err(error) => {
                    state.cut = true;
                    let cause = &error.source;
                    tracing::warn!(%error, %cause, "the output of a run is dropped from here on");
                }
            }
        }
        state.buffer = buffer;
    }

    /// The end of the program's output, of at most [`MAX_QUESTION`] bytes.
    pub(in crate::runs) fn tail(&self) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let from = state.tail.len().saturating_sub(TAIL);
        let text = String::from_utf8_lossy(state.tail.get(from..).unwrap_or_default()).into_owned();
        // What is no UTF-8 is longer as text.
        let from = text.ceil_char_boundary(text.len().saturating_sub(TAIL));
        text.get(from..).unwrap_or_default().to_owned()
    }

    /// The last line of the program's output that is not blank, also where its end has not come.
    pub(in crate::runs) fn last_line(&self) -> String {
        let tail = self.tail();
        let line = tail.lines().rev().map(str::trim).find(|line| !line.is_empty());
        line.unwrap_or_default().to_owned()
    }

    /// What comes now is another line for whoever reads it: somebody has answered.
    pub(in crate::runs) fn break_tail(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).tail.push(b'\n');
    }

    /// What comes now has nothing to do with what came before.
    pub(in crate::runs) fn forget_tail(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).tail.clear();
    }

    /// Makes everything so far survive a power cut.
    pub(in crate::runs) fn sync(&self) -> Result<(), FsError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.file {
            Some(file) => file.sync_data().context("syncing", &self.path),
            None => Ok(()),
        }
    }
}

impl State {
    /// Writes whole entries or nothing. Returns the length of the file.
    fn write(&mut self, path: &Path, entries: &[u8]) -> Result<u64, FsError> {
        if self.file.is_none() {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            let mut file = fs::create_new(path)?;
            let begun = file.write_all(&MAGIC).context("writing", path);
            // The next attempt makes it.
            begun.inspect_err(|_| drop(fs::remove_file(path)))?;
            self.bytes = MAGIC.len() as u64;
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else { return Ok(self.bytes) };
        if let Err(error) = file.write_all(entries).context("writing", path) {
            // A part of an entry would hide all that follow it.
            drop(file.set_len(self.bytes));
            drop(file.seek(SeekFrom::Start(self.bytes)));
            return Err(error);
        }
        self.bytes += entries.len() as u64;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(path: &Path) -> Vec<(LogStream, Vec<u8>)> {
        let batch = LogReader::open(path).unwrap().unwrap().batch(0).unwrap();
        batch.entries.into_iter().map(|entry| (entry.stream, entry.text)).collect()
    }

    #[test]
    fn output_past_the_limit_is_dropped_and_the_node_still_speaks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Log::new(path.clone(), 1000);
        for _ in 0..100 {
            log.append(1, |add| {
                add(LogStream::Stdout, &[b'x'; 100]);
                add(LogStream::Stderr, b"small");
            });
        }
        log.node(2, "it ended");
        let found = entries(&path);
        let output = |(stream, _): &&(LogStream, Vec<u8>)| *stream != LogStream::Node;
        assert_eq!(found.iter().filter(output).count(), 14);
        let notes: Vec<_> = found.iter().filter(|entry| !output(entry)).collect();
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].1.starts_with(b"the output is cut here"));
        assert_eq!(notes[1].1, b"it ended\n");
        assert!(path.metadata().unwrap().len() < 1200);

        // And it stays cut in the next daemon.
        drop(log);
        let log = Log::new(path.clone(), 1000);
        log.reopen().unwrap();
        log.append(3, |add| add(LogStream::Stdout, &[b'y'; 100]));
        log.node(3, "again");
        assert_eq!(entries(&path).last().unwrap().1, b"again\n");
        assert!(entries(&path).iter().all(|(_, text)| !text.starts_with(b"y")));
    }

    #[test]
    fn a_log_that_cannot_be_written_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        drop(fs::create_new(&file).unwrap());
        let log = Log::new(file.join("log"), 1000);
        log.append(1, |add| add(LogStream::Stdout, b"lost"));
        log.sync().unwrap();
        assert_eq!(log.subscribe().borrow().bytes, 0);
    }
}
