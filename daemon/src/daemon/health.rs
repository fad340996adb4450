//! Whether what is kept is whole, and whether this machine is fit.

use std::sync::Arc;

use baton_store::check::{Checked, check};

use super::Daemon;
use super::failure::Fail;
use super::remotes::Target;
use crate::api::control::{Answer, CheckAnswer, DoctorAnswer, DoctorCheck, Problem, Progress};
use crate::api::socket::{EventSender, VERSION};
use crate::clock::rfc3339;

/// Free space below which `doctor` warns.
const LEAST_FREE: u64 = 1 << 30;

/// A clock before this was never set: 2026-01-01.
const EARLIEST_MS: u64 = 1_767_225_600_000;

impl Daemon {
    pub(super) async fn check(
        self: &Arc<Self>,
        data: bool,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let events = events.clone();
        let checked = self.blocking("check", move |daemon| {
            let stage = || "check".to_owned();
            Ok(check(&daemon.store, data, |done, bytes| {
                events.progress(Progress { stage: stage(), done, total: None, bytes });
            })?)
        });
        let Checked { problems, snapshots, objects, bytes_read } = checked.await?;
        let problem = |problem: baton_store::check::Problem| Problem {
            what: problem.what,
            detail: problem.detail,
        };
        let problems = problems.into_iter().map(problem).collect();
        Ok(Answer::Check(CheckAnswer { problems, snapshots, objects, bytes_read }))
    }

    pub(super) async fn doctor(self: &Arc<Self>) -> Result<Answer, Fail> {
        let mut checks = self.blocking("doctor", |daemon| Ok(daemon.local_checks())).await?;
        for target in self.targets(None).await? {
            checks.push(self.reach(&target).await);
        }
        Ok(Answer::Doctor(DoctorAnswer { checks }))
    }

    fn local_checks(&self) -> Vec<DoctorCheck> {
        let now = self.clock.now_ms();
        let mut checks = vec![
            verdict(
                "clock",
                now > EARLIEST_MS,
                format!("it is {}", rfc3339(now)),
                "set the time of this machine; nothing Baton keeps depends on it",
            ),
            self.disk(),
            watches(),
            verdict("keys", true, format!("node {}", self.identity.node().short()), ""),
            verdict("version", true, format!("baton {VERSION}"), ""),
        ];
        checks.push(match &self.isolation {
            Ok(()) => verdict("isolation", true, "runs are in bubblewrap rooms".to_owned(), ""),
            Err(why) => verdict(
                "isolation",
                false,
                format!("runs are not isolated: {why}"),
                "install bubblewrap (apt install bubblewrap) and allow user namespaces",
            ),
        });
        if let Err(error) = self.store.check_poison() {
            let detail = super::failure::chain(&error);
            checks.push(verdict("store", false, detail, "baton daemon stop, then try again"));
        }
        checks
    }

    fn disk(&self) -> DoctorCheck {
        let fix = "free some space on the file system of the home";
        match rustix::fs::statvfs(&self.options.home.state_dir) {
            Ok(found) => {
                let free = found.f_bavail.saturating_mul(found.f_frsize);
                let detail = format!("{} MB free in the home", free / 1_000_000);
                verdict("disk", free >= LEAST_FREE, detail, fix)
            }
            Err(error) => verdict("disk", false, format!("cannot tell: {error}"), fix),
        }
    }

    /// Whether a node answers over UDP.
    async fn reach(&self, target: &Target) -> DoctorCheck {
        let name = format!("remote {}", target.remote.name);
        match self.pool.hello(&target.remote).await {
            Ok(welcome) => {
                let detail =
                    format!("answers over UDP, user {}, baton {}", welcome.user, welcome.program);
                verdict(&name, true, detail, "")
            }
            Err(error) => {
                let Fail(failure) = Fail::from(error);
                let fix = failure.hint.unwrap_or_else(|| "baton remote list".to_owned());
                verdict(&name, false, failure.message, &fix)
            }
        }
    }
}

/// How many directories of this user may be watched: what later versions need for big trees.
fn watches() -> DoctorCheck {
    let path = std::path::Path::new("/proc/sys/fs/inotify/max_user_watches");
    let limit = baton_store::fs::read_if_exists(path, 64)
        .ok()
        .flatten()
        .and_then(|bytes| String::from_utf8(bytes).ok()?.trim().parse::<u64>().ok());
    let fix = "sysctl fs.inotify.max_user_watches=524288";
    match limit {
        Some(limit) => {
            verdict("watches", limit >= 65_536, format!("{limit} directories can be watched"), fix)
        }
        None => verdict("watches", true, "no inotify limit on this system".to_owned(), ""),
    }
}

fn verdict(name: &str, ok: bool, detail: String, fix: &str) -> DoctorCheck {
    let fix = (!ok && !fix.is_empty()).then(|| fix.to_owned());
    DoctorCheck { name: name.to_owned(), ok, detail, fix }
}
