//! Whether what is kept is whole, and whether this machine is fit.
//!
//! - [`machine`]: clock, disk, limits, permissions
//! - [`room`]: the rooms of runs

mod machine;
mod room;

use std::path::Path;
use std::sync::Arc;

use baton_store::check::{Checked, check};
use baton_store::layers::overlay::Marks;

use super::Daemon;
use super::checkouts::Sharing;
use super::failure::Fail;
use super::remotes::Target;
use crate::api::control::{Answer, CheckAnswer, DoctorAnswer, DoctorCheck, Problem, Progress};
use crate::api::socket::{EventSender, VERSION};
use crate::transport::connection::Way;

use machine::verdict;

/// Of what is used where UDP does not get through: it works, and is not the best.
const SLOWER: &str = "for less delay let UDP to the same port through";

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
        let home = &self.options.home;
        let mut checks = vec![machine::clock(now), machine::file_clock(&home.caches_dir(), now)];
        checks.extend(machine::space(&home.state_dir));
        checks.extend(machine::watches(Path::new("/proc/sys/fs/inotify")));
        checks.push(machine::keys(&home.keys_dir(), &self.identity.node().short()));
        checks.push(verdict("version", true, format!("daemon and command line {VERSION}"), ""));
        checks.extend(room::checks(&self.rooming));
        checks.push(checkouts_check(&self.sharing));
        let path = self.options.environment.path();
        checks.push(machine::sleep(Path::new("/sys/class/power_supply"), path));
        checks.push(self.catalog_check());
        checks.extend(self.secrets_check());
        if let Err(error) = self.store.check_poison() {
            let detail = super::failure::chain(&error);
            checks.push(verdict("store", false, detail, "baton daemon stop, then try again"));
        }
        checks.push(damage_check(&self.noted_damage()));
        checks
    }

    /// Whether the catalog can be read: it is what cannot be computed again.
    fn catalog_check(&self) -> DoctorCheck {
        let problem = match self.catalog.check() {
            Ok(problems) => problems.into_iter().next(),
            Err(error) => Some(super::failure::chain(&error)),
        };
        let path = self.options.home.catalog();
        let fix = format!("baton daemon stop, then put {} back from a backup", path.display());
        let whole = || "users, remotes, workspaces and runs can be read".to_owned();
        verdict("catalog", problem.is_none(), problem.unwrap_or_else(whole), &fix)
    }

    /// Whether the secrets of runs can be used, where there are some.
    fn secrets_check(&self) -> Option<DoctorCheck> {
        let (ok, detail) = match self.secrets.check() {
            Ok(0) => return None,
            Ok(users) => (true, format!("{users} with secrets, for their owner only")),
            Err(error) => (false, super::failure::chain(&error)),
        };
        let folder = self.options.home.secrets_dir();
        let fix = format!(
            "make it yours alone (chmod -R go= {}), or put it back from a backup",
            folder.display()
        );
        Some(verdict("secrets", ok, detail, if ok { "" } else { &fix }))
    }

    /// Whether a node answers, and over what.
    async fn reach(&self, target: &Target) -> DoctorCheck {
        let name = format!("remote {}", target.remote.name);
        match self.pool.hello(&target.remote).await {
            Ok(welcome) => {
                let (over, fix) = match self.pool.way(target.remote.node) {
                    Some(Way::Tcp) => ("TCP (transport: tcp), UDP does not get through", SLOWER),
                    _ => ("UDP (transport: quic)", ""),
                };
                let detail = format!(
                    "answers over {over}, user {}, baton {}",
                    welcome.user, welcome.program
                );
                verdict(&name, true, detail, fix)
            }
            Err(error) => {
                let Fail(failure) = Fail::from(error);
                let fix = if failure.code == "remote-unreachable" {
                    let addresses = target.remote.addresses.join(", ");
                    format!(
                        "see whether `baton serve` runs there; most often a firewall drops both UDP and TCP: \
                         let {addresses} through, there (ufw allow 4319) and on the way"
                    )
                } else {
                    failure.hint.unwrap_or_else(|| "baton remote list".to_owned())
                };
                verdict(&name, false, failure.message, &fix)
            }
        }
    }
}

/// Whether damage was found in the stores that nobody has dealt with.
fn damage_check(noted: &[Problem]) -> DoctorCheck {
    let detail = match noted {
        [] => "none was found in what is stored".to_owned(),
        [first] => format!("{}: {}", first.what, first.detail),
        [first, more @ ..] => {
            format!("{}: {}, and {} more", first.what, first.detail, more.len())
        }
    };
    verdict("damage", noted.is_empty(), detail, "baton repair")
}

/// Which kind of checkout runs get. Copies do as well, but for the time and the space they take.
fn checkouts_check(sharing: &Sharing) -> DoctorCheck {
    let detail = match sharing {
        Sharing::Layers(Marks::Trusted) => {
            "those of runs share layers: one more costs what its run changes".to_owned()
        }
        Sharing::Layers(Marks::User) => {
            "those of runs share layers, seen in a namespace of this node: one more costs what its run changes; a folder \
             of the snapshot is renamed by copying it"
                .to_owned()
        }
        Sharing::Bytes(why) => format!(
            "those of runs are copies that share the bytes of their files: one more costs a file's name for each, and what \
             its run changes; they share no layers: {why}"
        ),
        Sharing::Nothing(why) => format!(
            "those of runs are copies, each as large as its tree: {why}; where baton serve runs on Linux 5.11 or later, \
             as root or where users may have namespaces, they share layers, and on XFS or btrfs bytes"
        ),
    };
    verdict("checkouts", true, detail, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_checkouts_is_told_and_none_is_a_failure() {
        let why = || "not permitted".to_owned();
        for (sharing, told) in [
            (Sharing::Layers(Marks::Trusted), "share layers: one more"),
            (Sharing::Layers(Marks::User), "in a namespace of this node"),
            (Sharing::Bytes(why()), "share no layers: not permitted"),
            (Sharing::Nothing(why()), "not permitted; where baton serve runs"),
        ] {
            let check = checkouts_check(&sharing);
            assert!(check.ok && check.detail.contains(told), "{check:?}");
        }
    }
}
