//! What an earlier daemon left behind.
//!
//! What is in another namespace cannot be told from others by a process that is in one itself: then [`kill_leftovers_in`]
//! comes first, from outside of all.
//!
//! **Invariant:** when [`Runs::recover`] returns, no process of an earlier daemon's runs is alive, and no
//! program that was started once is started again.

use std::path::Path;
use std::sync::Arc;

use baton_protocol::id::RunId;
use baton_protocol::message::RunState;
use baton_store::catalog::runs::RunRow;
use baton_store::checkout::remove_made;
use baton_store::fs::{self, FsError};

use super::ended::look_after_ended;
use super::environment::Folders;
use super::process::{ProcessRecord, kill_leftovers, kill_leftovers_of};
use super::program::Ended;
use super::refused::reason;
use super::{Live, Runs, RunsError};

/// Kills what earlier daemons left of any run that has a folder here. The caller has the lock of their home, so that none
/// of these runs is at work. Returns how many processes were found, and whether all are gone.
pub(crate) fn kill_leftovers_in(runs: &Path) -> Result<(usize, bool), FsError> {
    let names = fs::list_dir(runs)?;
    let all = names.iter().filter_map(|name| name.to_str()?.parse::<RunId>().ok());
    let record = |run| ProcessRecord::read(&Folders::of(runs, run).process());
    let all: Vec<_> = all.map(|run| (run, record(run))).collect();
    // Most nodes have left nothing, and to look through all processes takes a while.
    Ok(if all.is_empty() { (0, true) } else { kill_leftovers_of(&all) })
}

impl Runs {
    /// Takes up the runs of an earlier daemon: those of which nothing was started begin anew, the others end as
    /// interrupted with what is in their checkouts. To be called once, before anything is created.
    ///
    /// Sealing goes on after it returned; until then such a run is still shown in its old state. Then a result is sealed
    /// that could not be when its run ended.
    pub async fn recover(&self) -> Result<(), RunsError> {
        let catalog = self.0.parts.catalog.clone();
        let rows = self.blocking("run-recover", move || catalog.live_runs()).await??;
        for row in rows {
            match row.info.state {
                RunState::Queued => self.begin_anew(row).await?,
                _ => self.recover_one(row).await?,
            }
        }
        // Live ones are among the live by now.
        self.0.parts.tasks.spawn("run-recover", look_after_ended(self.clone())).detach();
        Ok(())
    }

    /// Begins with a run of which nothing was started, without what was prepared for it.
    async fn begin_anew(&self, row: RunRow) -> Result<(), RunsError> {
        let live = self.enter(row);
        let (checkouts, work) = (Arc::clone(&self.0.parts.checkouts), Arc::clone(&live));
        let clear = move || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            if work.folders.root().symlink_metadata().is_err() {
                return Ok(());
            }
            work.log.reopen()?;
            checkouts.release(&work.folders.checkout(), &work.folders.layer())?;
            for name in fs::list_dir(work.folders.root())?.iter().filter(|name| *name != "log") {
                remove_made(&work.folders.root().join(name))?;
            }
            Ok(())
        };
        if let Err(error) = self.blocking("run-recover", clear).await? {
            let reason = reason("what was prepared of it before cannot be taken away", &*error);
            self.finish(&live, RunState::Interrupted, Some(reason), None).await;
            self.leave(&live);
            return Ok(());
        }
        let asked = self.ask(&live);
        self.begin(live, asked);
        Ok(())
    }

    async fn recover_one(&self, row: RunRow) -> Result<(), RunsError> {
        self.end_leftovers(&row).await?;
        let live = self.enter(row);
        self.0.parts.tasks.spawn("run-recover", recovered(self.clone(), live)).detach();
        Ok(())
    }

    /// Ends what an earlier daemon had started for a run.
    async fn end_leftovers(&self, row: &RunRow) -> Result<(), RunsError> {
        let run = row.info.spec.run;
        let record = Folders::of(&self.0.options.folder, run).process();
        let kill = move || {
            let killed = kill_leftovers(run, ProcessRecord::read(&record).as_ref());
            // Another process may have its number by the time of the next restart.
            drop(fs::remove_file(&record));
            killed
        };
        let (found, gone) = self.blocking("run-recover", kill).await?;
        if !gone {
            tracing::error!(%run, "processes of an earlier daemon's run cannot be killed");
        }
        tracing::info!(%run, state = row.info.state.name(), processes = found, "run of an earlier daemon");
        Ok(())
    }
}

/// The end of a run that was at work when its daemon died.
async fn recovered(runs: Runs, live: Arc<Live>) {
    let log = Arc::clone(&live.log);
    if let Ok(Err(error)) = runs.blocking("run-log", move || log.reopen()).await {
        tracing::warn!(run = %live.run, %error, "the output of a run cannot be continued");
    }
    // Only so many at once; never closed.
    let _slot = Arc::clone(&runs.0.slots).acquire_owned().await;
    let info = live.info.borrow().clone();
    if info.state == RunState::Preparing {
        // The program was not started, and half a checkout is nobody's work: sealed, it would look as
        // if the run had deleted the other half. What set it up is not begun again unasked.
        runs.discard_checkout(&live).await;
        let reason = "the node stopped while the run was set up; its program was not started";
        runs.finish(&live, RunState::Interrupted, Some(reason.to_owned()), None).await;
    } else {
        live.has_home_at(runs.home_of(&live));
        let now = runs.0.parts.clock.now_ms();
        let ended = Ended {
            code: info.exit_code,
            stop: None,
            failure: info.reason,
            at: info.ended_at.unwrap_or(now),
            checked: info.checked,
            ..Ended::default()
        };
        runs.seal_and_finish(&live, ended).await;
    }
    runs.leave(&live);
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use baton_protocol::id::RunId;
    use baton_protocol::message::{LogStream, RunInfo, RunSpec};
    use baton_store::catalog::runs::RunUpdate;
    use baton_store::fs;

    use super::super::log::writer::Log;
    use super::super::process::Processes;
    use super::super::testing::{Node, entries, spec, within};
    use super::*;

    const ENDLESS: &str = "echo begun > made
        (setsid sleep 308 > /dev/null 2>&1 &)
        sleep 309 & echo ready; wait; echo again";

    /// Not a test: the daemon that dies in the one below. It is told by its standard input where it lives,
    /// and whether with walls.
    #[tokio::test]
    #[ignore = "started by another test"]
    async fn a_daemon_that_is_killed() {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        let Some((walls, home)) = line.trim().split_once(' ') else { return };
        let Some(node) = Node::in_home_of_another(home.into(), walls == "walls").await else {
            println!("\nnone");
            return;
        };
        let asked = spec(1, &["sh", "-c", ENDLESS]);
        let mut log = node.start(asked.clone()).await;
        within(log.next()).await.unwrap();
        println!("\nrun {}", asked.run);
        std::future::pending::<()>().await;
    }

    #[tokio::test]
    async fn a_killed_daemon_leaves_a_run_that_the_next_one_ends() {
        for walls in ["bare", "walls"] {
            let folder = tempfile::tempdir().unwrap();
            let mut daemon = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "runs::recover::tests::a_daemon_that_is_killed"])
                .args(["--ignored", "--nocapture"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = daemon.stdin.take().unwrap();
            writeln!(stdin, "{walls} {}", folder.path().display()).unwrap();
            let stdout = BufReader::new(daemon.stdout.take().unwrap());
            let mut lines = stdout.lines().map_while(Result::ok);
            let said = lines.find(|line| line.starts_with("run ") || line == "none").unwrap();
            daemon.kill().unwrap();
            daemon.wait().unwrap();
            let Some(run) = said.strip_prefix("run ") else { continue };
            let run: RunId = run.parse().unwrap();

            let home = folder.path().to_owned();
            if walls == "bare" {
                // What the program starts it does not wait for.
                within(async {
                    while Node::processes_of(run).len() < 3 {
                        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                    }
                })
                .await;
            }
            let node = Node::in_home_of_another(home, walls == "walls").await.unwrap();
            node.runs.recover().await.unwrap();
            assert_eq!(Node::processes_of(run), Vec::<i32>::new());
            let info = within(node.runs.wait("ann", run)).await.unwrap();
            assert_eq!(info.state, RunState::Interrupted);
            assert_eq!(info.isolated, walls == "walls");
            assert_eq!(node.sealed(&info, "made"), b"begun\n");
            assert_eq!(entries(&node.log(run).await, LogStream::Stdout), b"ready\n");
        }
    }

    #[test]
    fn what_runs_of_a_home_left_is_ended_before_a_node_moves() {
        let folder = tempfile::tempdir().unwrap();
        let [here, elsewhere] = [1, 2].map(|number| RunId::from_bytes([number; 16]));
        assert_eq!(kill_leftovers_in(&folder.path().join("none")).unwrap(), (0, true));
        fs::create_dir_all(&folder.path().join(here.to_string())).unwrap();
        fs::create_dir_all(&folder.path().join("aside")).unwrap();
        let start = |program: &str, args: &[&str], run: RunId| {
            let mut command = Command::new(program);
            command.args(args).env("BATON_RUN", run.to_string()).process_group(0);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let walls = ["--user", "--mount", "--map-current-user", "sleep", "311"];
        let mut left = [start("sleep", &["310"], here), start("unshare", &walls, here)];
        let mut other = start("sleep", &["312"], elsewhere);
        let (found, gone) = kill_leftovers_in(folder.path()).unwrap();
        assert!(found >= 1 && gone);
        for child in &mut left {
            assert!(!child.wait().unwrap().success());
        }
        assert_eq!(other.try_wait().unwrap(), None, "a run of another home");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    /// Leaves a run as a daemon does that dies while it is in this state.
    fn abandon(node: &Node, spec: &RunSpec, state: RunState, update: &RunUpdate) -> Folders {
        node.catalog.create_run(spec, "ann", node.vault, 5).unwrap().unwrap();
        node.catalog.set_state(spec.run, state, update).unwrap();
        let runs = node.folder.path().canonicalize().unwrap().join("runs");
        let folders = Folders::of(&runs, spec.run);
        fs::create_dir_all(&folders.checkout()).unwrap();
        fs::write_atomic(&folders.checkout().join("made"), b"half\n", 0o644).unwrap();
        for folder in [folders.temporary(), folders.own_home()] {
            fs::create_dir_all(&folder).unwrap();
            fs::write_atomic(&folder.join("large"), b"left", 0o644).unwrap();
        }
        let log = Log::new(folders.log(), 1 << 20);
        log.append(6, |add| add(LogStream::Stdout, b"before\n"));
        folders
    }

    async fn recovered(node: &Node, spec: &RunSpec) -> RunInfo {
        node.runs.recover().await.unwrap();
        let info = within(node.runs.wait("ann", spec.run)).await.unwrap();
        let runs = node.folder.path().canonicalize().unwrap().join("runs");
        let folders = Folders::of(&runs, spec.run);
        within(async {
            while folders.temporary().exists() || folders.own_home().exists() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
        info
    }

    #[tokio::test]
    async fn a_run_at_work_is_interrupted_sealed_and_rid_of_its_processes() {
        let node = Node::new();
        let asked = spec(1, &["sh", "-c", "echo again > repeated"]);
        let folders = abandon(&node, &asked, RunState::Running, &RunUpdate::default());
        // The program itself has no mark in its environment; what it has left behind has.
        let mut program = Command::new("sleep")
            .arg("306")
            .env_clear()
            .process_group(0)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let leader = rustix::process::Pid::from_child(&program);
        let no_group = Arc::new(crate::limits::NoGroups::because(String::new()));
        Processes::new(asked.run, leader, 0, no_group).record().write(&folders.process()).unwrap();
        let mut orphan = Command::new("sleep")
            .arg("307")
            .env("BATON_RUN", asked.run.to_string())
            .process_group(0)
            .spawn()
            .unwrap();

        node.runs.recover().await.unwrap();
        // Both are dead when it returns.
        assert!(!program.wait().unwrap().success() && !orphan.wait().unwrap().success());
        let info = within(node.runs.wait("ann", asked.run)).await.unwrap();
        assert_eq!((info.state, info.exit_code), (RunState::Interrupted, None));
        assert_eq!(info.reason.unwrap(), "the node stopped while the run was at work");
        assert!(!folders.checkout().join("repeated").exists(), "the program ran again");
        assert!(!folders.process().exists());
        assert_eq!(
            node.sealed(&node.runs.show("ann", asked.run).await.unwrap(), "made"),
            b"half\n"
        );
        let log = node.log(asked.run).await;
        assert_eq!(entries(&log, LogStream::Stdout), b"before\n");
        assert!(entries(&log, LogStream::Node).starts_with(b"interrupted: "));

        let next = node.next_daemon();
        next.runs.recover().await.unwrap();
        assert_eq!(next.runs.live_count(), 0);
    }

    #[tokio::test]
    async fn half_a_checkout_is_nobodys_result() {
        // Where it was set up it ends, and else it begins anew.
        let node = Node::new();
        let asked = spec(1, &["sh", "-c", "echo x > own"]);
        let folders = abandon(&node, &asked, RunState::Preparing, &RunUpdate::default());
        let info = recovered(&node, &asked).await;
        assert_eq!((info.state, info.result), (RunState::Interrupted, None));
        assert!(info.reason.unwrap().contains("its program was not started"));
        assert!(!folders.checkout().exists());

        let node = Node::new();
        abandon(&node, &asked, RunState::Queued, &RunUpdate::default());
        let info = recovered(&node, &asked).await;
        assert_eq!((info.state, info.exit_code), (RunState::Succeeded, Some(0)), "{info:?}");
        assert_eq!(node.sealed(&info, "own"), b"x\n");
        assert!(!node.sealed_path(&info, "made").exists());
        // Its output goes on where it was.
        assert_eq!(entries(&node.log(asked.run).await, LogStream::Stdout), b"before\n");
    }

    #[tokio::test]
    async fn a_program_that_had_ended_keeps_its_end() {
        let node = Node::new();
        let update = RunUpdate { exit_code: Some(0), ended_at: Some(7), ..RunUpdate::default() };
        let asked = spec(1, &["true"]);
        abandon(&node, &asked, RunState::Running, &update);
        let info = recovered(&node, &asked).await;
        let end = (info.state, info.exit_code, info.ended_at);
        assert_eq!(end, (RunState::Succeeded, Some(0), Some(7)));
        assert_eq!(node.sealed(&info, "made"), b"half\n");
    }

    #[tokio::test]
    async fn queued_runs_are_started_and_ended_ones_left_alone() {
        let node = Node::new();
        let queued = spec(1, &["sh", "-c", "echo x > made"]);
        node.catalog.create_run(&queued, "ann", node.vault, 5).unwrap().unwrap();
        let cancelled = spec(2, &["sh", "-c", "echo x > made"]);
        abandon(&node, &cancelled, RunState::Cancelled, &RunUpdate::default());
        let info = recovered(&node, &queued).await;
        assert_eq!(info.state, RunState::Succeeded);
        assert_eq!(node.sealed(&info, "made"), b"x\n");
        let info = within(node.runs.wait("ann", cancelled.run)).await.unwrap();
        assert_eq!((info.state, info.result), (RunState::Cancelled, None));
        assert_eq!(node.checkouts.seals.lock().unwrap().len(), 1);
    }
}
