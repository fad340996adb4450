//! What a daemon says of itself, when it ends, and which commands read the store for as long as they take.

use super::Daemon;
use super::failure::Fail;
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

impl Daemon {
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
