//! What a daemon says of itself, when it ends, which commands read the store for as long as they take, and which change nothing.

use std::sync::Arc;

use super::Daemon;
use super::failure::{Fail, chain};
use crate::api::control::{Answer, Command, DaemonAnswer};
use crate::api::socket::{Activity, VERSION};

/// Whether a command reads what it finds in the store to its end. Those that wait for a run or a node do not.
pub(super) const fn reads(command: &Command) -> bool {
    matches!(
        command,
        Command::Log { .. }
            | Command::Diff { .. }
            | Command::Restore { .. }
            | Command::Handoff(_)
            | Command::Run(_)
            | Command::FollowUp(_)
            | Command::Pull(_)
            | Command::Apply(_)
            | Command::Undo { .. }
    )
}

/// Whether a command leaves all that is kept as it is.
const fn changes_nothing(command: &Command) -> bool {
    matches!(
        command,
        Command::Ping
            | Command::Stop { .. }
            | Command::RemoteList
            | Command::DeviceList
            | Command::Status { .. }
            | Command::Log { .. }
            | Command::Diff { .. }
            | Command::Restore { .. }
            | Command::RunList { .. }
            | Command::RunShow { .. }
            | Command::RunLogs { .. }
            | Command::SecretList { .. }
            | Command::Pull(_)
            | Command::Queue
            | Command::Check { .. }
            | Command::Doctor
    )
}

impl Daemon {
    /// Goes on with what an earlier daemon has left, and begins what happens by itself; neither where the store is only read.
    pub(super) async fn take_up(self: &Arc<Self>) -> Result<(), Fail> {
        if self.store.layout().is_read_only() {
            tracing::warn!(
                "the store has a feature that this version does not know: it is only read"
            );
            return Ok(());
        }
        self.runs.recover().await.map_err(|error| Fail::new("runs", chain(&error)))?;
        self.resume_applies().await?;
        self.queue.start(self)?;
        self.start_background()?;
        self.start_histories().await?;
        self.start_collecting();
        Ok(())
    }

    /// Refuses what would change something, where the store is only read.
    pub(super) fn check_writable(&self, command: &Command) -> Result<(), Fail> {
        if changes_nothing(command) {
            return Ok(());
        }
        Ok(self.store.layout().check_writable()?)
    }

    pub(super) fn answer(&self) -> DaemonAnswer {
        DaemonAnswer {
            running: true,
            pid: Some(std::process::id()),
            version: Some(VERSION.to_owned()),
            home: self.options.home.root_display.to_string_lossy().into_owned(),
            serving: self.options.serving,
        }
    }

    pub(super) fn stop(&self, if_idle: bool) -> Result<Answer, Fail> {
        let live = self.runs.live_count();
        // The command that asks is one of those that run.
        let busy = self.activity.get().map_or(0, Activity::running).saturating_sub(1);
        if if_idle && (live > 0 || busy > 0) {
            let what = format!("the daemon is busy: {live} runs and {busy} commands are under way");
            return Err(Fail::new("daemon-busy", what)
                .hint("wait for them (baton runs), or baton daemon stop")
                .exit(4));
        }
        self.stop.send_replace(true);
        Ok(Answer::Stopped(self.answer()))
    }
}
