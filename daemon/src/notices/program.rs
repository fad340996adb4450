//! Tells a program, on its standard input.
//!
//! **Invariant:** its environment is the one it is given here, with nothing of a run; it and what it started end when
//! its time is up.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::{NoticeError, NoticeOptions};

/// A program that is started for each notice.
#[derive(Debug)]
pub(super) struct Program {
    name: String,
    arguments: Vec<String>,
    environment: Vec<(OsString, OsString)>,
    folder: PathBuf,
    limit: Duration,
}

impl Program {
    /// Nothing where there are no words.
    pub(super) fn new(words: &[String], options: &NoticeOptions) -> Option<Self> {
        let (program, arguments) = words.split_first()?;
        Some(Self {
            name: program.clone(),
            arguments: arguments.to_vec(),
            environment: options.environment.clone(),
            folder: options.folder.clone(),
            limit: options.limit,
        })
    }

    /// Starts it and waits until it has ended, or until its time is up.
    pub(super) async fn run(&self, json: &[u8]) -> Result<(), NoticeError> {
        let mut child = Command::new(&self.name)
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(NoticeError::Start)?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let ended = tokio::time::timeout(self.limit, feed(&mut child, json)).await;
        // What it left behind, or what it is: its number is its own until it was waited for.
        if let (Err(_), Some(group)) = (&ended, group) {
            // The group may be gone already.
            let _ = kill_process_group(group, Signal::KILL);
            drop(child.wait().await);
        }
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(NoticeError::Program(status)),
            Ok(Err(error)) => Err(NoticeError::Wait(error)),
            Err(_) => Err(NoticeError::TooSlow),
        }
    }
}

async fn feed(child: &mut Child, json: &[u8]) -> std::io::Result<std::process::ExitStatus> {
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read is one all the same.
        drop(stdin.write_all(json).await);
    }
    child.wait().await
}
