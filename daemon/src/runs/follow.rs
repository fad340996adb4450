//! A log on its way to a reader, batch by batch, and live.

use std::path::PathBuf;

use baton_protocol::message::LogEntry;
use tokio::sync::watch;

use super::RunsError;
use super::log::LogError;
use super::log::reader::{Batch, LogReader};
use super::log::writer::Position;
use crate::task::Tasks;

/// The output of a run from some entry on.
#[derive(Debug)]
pub struct RunLog {
    path: PathBuf,
    /// Nothing while the file is not there or has no beginning, or while a batch is being read.
    reader: Option<LogReader>,
    /// Entries of the file that came before this reader's next one and are not wanted again.
    from: u64,
    /// Of those, what the reader still has to pass over.
    skip: u64,
    /// Only where the log is followed.
    position: Option<watch::Receiver<Position>>,
    tasks: Tasks,
}

impl RunLog {
    pub(super) const fn new(
        path: PathBuf,
        from: u64,
        position: Option<watch::Receiver<Position>>,
        tasks: Tasks,
    ) -> Self {
        Self { path, reader: None, from, skip: from, position, tasks }
    }

    /// The next entries, in order, at most about 320 KiB; nothing after the last. Waits for them where
    /// the log is followed and its run is live.
    ///
    /// May be dropped at any time: entries that were not returned come again.
    pub async fn next(&mut self) -> Result<Option<Vec<LogEntry>>, RunsError> {
        loop {
            // Before the file is read: what comes later wakes us.
            let position = self.position.as_mut().map(|watched| *watched.borrow_and_update());
            let batch = self.read().await?;
            if !batch.entries.is_empty() {
                self.from += batch.entries.len() as u64;
                return Ok(Some(batch.entries));
            }
            if batch.skipped > 0 {
                continue;
            }
            let Some(watched) =
                self.position.as_mut().filter(|_| position.is_some_and(|at| !at.ended))
            else {
                return Ok(None);
            };
            if watched.changed().await.is_err() {
                self.position = None;
            }
        }
    }

    async fn read(&mut self) -> Result<Batch, RunsError> {
        let reader = self.reader.take();
        if reader.is_none() {
            self.skip = self.from;
        }
        let (path, skip) = (self.path.clone(), self.skip);
        let work = move || -> Result<_, LogError> {
            let reader = match reader {
                Some(reader) => Some(reader),
                None => LogReader::open(&path)?,
            };
            let Some(mut reader) = reader else { return Ok((None, Batch::default())) };
            let batch = reader.batch(skip)?;
            Ok((Some(reader), batch))
        };
        let (reader, batch) = self.tasks.spawn_blocking("run-log", work).await??;
        self.reader = reader;
        self.skip -= batch.skipped;
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use baton_protocol::message::{LogStream, RunState};
    use baton_store::fs;

    use super::super::log::writer::Log;
    use super::super::testing::{Node, spec, within};
    use super::*;

    #[tokio::test]
    async fn who_follows_a_log_that_is_just_being_made_sees_what_comes() {
        let folder = tempfile::tempdir().unwrap();
        let made = folder.path().join("made");
        Log::new(made.clone(), 1 << 20).node(1, "first");
        let whole = fs::read_if_exists(&made, 1 << 20).unwrap().unwrap();
        for length in 0..whole.len() {
            let path = folder.path().join(format!("cut-{length}"));
            let mut file = fs::create_new(&path).unwrap();
            let (before, after) = whole.split_at(length);
            file.write_all(before).unwrap();
            let at = watch::Sender::new(Position::default());
            let mut log = RunLog::new(path, 0, Some(at.subscribe()), Tasks::new());
            let soon = std::time::Duration::from_millis(20);
            assert!(tokio::time::timeout(soon, log.next()).await.is_err(), "{length}");
            file.write_all(after).unwrap();
            at.send_modify(|position| position.bytes = whole.len() as u64);
            let entries = within(log.next()).await.unwrap().unwrap();
            assert_eq!(entries[0].text, b"first\n");
        }
    }

    #[tokio::test]
    async fn lines_are_seen_while_the_program_runs() {
        let node = Node::new();
        let script = "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two; printf three";
        let asked = spec(1, &["sh", "-c", script]);
        let mut log = node.start(asked.clone()).await;
        let first = within(log.next()).await.unwrap().unwrap();
        assert_eq!((first[0].stream, first[0].text.as_slice()), (LogStream::Stdout, &b"one\n"[..]));
        // Cancelling a reader that waits loses nothing.
        let soon = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, log.next()).await.is_err());

        let state = node.runs.show("ann", asked.run).await.unwrap();
        assert_eq!(state.state, RunState::Running);
        let go = std::path::PathBuf::from(state.checkout.unwrap()).join("go");
        drop(fs::create_new(&go).unwrap());
        let mut rest = Vec::new();
        while let Some(entries) = within(log.next()).await.unwrap() {
            rest.extend(entries);
        }
        let texts: Vec<_> = rest.iter().map(|entry| entry.text.as_slice()).collect();
        assert_eq!(texts, [&b"two\n"[..], b"three", b"succeeded\n"]);
        // The end of the log is not announced before the end of the run.
        let state = node.runs.show("ann", asked.run).await.unwrap();
        assert_eq!(state.state, RunState::Succeeded);

        let mut later = node.runs.logs("ann", asked.run, 3, true).await.unwrap();
        let entries = within(later.next()).await.unwrap().unwrap();
        assert_eq!(entries, rest);
        assert_eq!(within(later.next()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_shown_when_nothing_follows() {
        let node = Node::new();
        let asked = spec(1, &["sh", "-c", "printf 'Password: '; exec sleep 300"]);
        let mut log = node.start(asked.clone()).await;
        let entries = within(log.next()).await.unwrap().unwrap();
        assert_eq!(entries[0].text, b"Password: ");
        within(node.runs.cancel("ann", asked.run)).await.unwrap();
    }

    #[tokio::test]
    async fn without_following_a_live_log_ends_where_it_stands() {
        let node = Node::new();
        let asked = spec(1, &["sh", "-c", "echo ready; exec sleep 300"]);
        let mut live = node.start(asked.clone()).await;
        within(live.next()).await.unwrap();
        let mut log = node.runs.logs("ann", asked.run, 0, false).await.unwrap();
        assert_eq!(within(log.next()).await.unwrap().unwrap().len(), 3);
        assert_eq!(within(log.next()).await.unwrap(), None);
        within(node.runs.cancel("ann", asked.run)).await.unwrap();
    }
}
