//! Keeps the machine awake while work leaves it.
//!
//! The system is asked through a program of its own (`systemd-inhibit`, `caffeinate`) that holds the
//! machine awake for as long as it runs. Where there is none, or it is refused, nothing happens.
//!
//! **Invariant:** the machine is held awake only while bytes move to a node, and never longer than
//! [`LONGEST`] for one snapshot: a bag with a closed laptop in it must not get hot.
//!
//! **Invariant:** what is quick costs nothing: nobody is asked before [`QUICK`] has passed.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::process::{Child, ChildStdin, Command};

use crate::task::Tasks;

/// What is done by then needs no help: nobody closes a lid that fast.
const QUICK: Duration = Duration::from_millis(500);

/// Longest time for one snapshot.
const LONGEST: Duration = Duration::from_mins(15);

/// The program and its arguments; each ends when its standard input does, because `cat` does.
const PROGRAM: &[&str] = if cfg!(target_os = "macos") {
    &["caffeinate", "-i", "cat"]
} else {
    &[
        "systemd-inhibit",
        "--what=sleep:handle-lid-switch",
        "--mode=block",
        "--who=baton",
        "--why=work is on its way to another machine",
        "cat",
    ]
};

/// Holds the machine awake; clones share what is known of the system.
#[derive(Clone, Debug)]
pub struct Inhibitor {
    tasks: Tasks,
    /// It does not work here: it is not tried again.
    refused: Arc<AtomicBool>,
    quick: Duration,
}

impl Inhibitor {
    /// Nothing is held yet.
    pub fn new(tasks: Tasks) -> Self {
        Self { tasks, refused: Arc::default(), quick: QUICK }
    }

    /// Does work during which the machine should stay awake.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        if let Ok(done) = tokio::time::timeout(self.quick, &mut work).await {
            return done;
        }
        // Waiting for a child would close its standard input, if it still had it.
        let Some((mut held, input)) = self.hold() else { return work.await };
        let done = tokio::select! {
            done = &mut work => Some(done),
            () = tokio::time::sleep(LONGEST) => None,
            ended = held.wait() => {
                tracing::debug!(?ended, "the system does not let itself be held awake");
                self.refused.store(true, Ordering::Relaxed);
                None
            }
        };
        drop(input);
        self.release(held);
        match done {
            Some(done) => done,
            None => work.await,
        }
    }

    fn hold(&self) -> Option<(Child, Option<ChildStdin>)> {
        if self.refused.load(Ordering::Relaxed) {
            return None;
        }
        let (program, arguments) = PROGRAM.split_first()?;
        let held = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        match held {
            Ok(mut held) => {
                let input = held.stdin.take();
                Some((held, input))
            }
            Err(error) => {
                tracing::debug!(%error, program, "the machine cannot be held awake");
                self.refused.store(true, Ordering::Relaxed);
                None
            }
        }
    }

    /// Waits, beside the caller, for the end of the program, whose input has ended.
    fn release(&self, mut held: Child) {
        let work = async move {
            // One that does not end by itself is killed with its handle.
            drop(tokio::time::timeout(Duration::from_secs(5), held.wait()).await);
        };
        self.tasks.spawn("inhibitor", work).detach();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn quick_work_asks_nobody() {
        let tasks = Tasks::new();
        let inhibitor = Inhibitor::new(tasks.clone());
        assert_eq!(inhibitor.during(async { 7 }).await, 7);
        assert_eq!(tasks.count(), 0);
        assert!(!inhibitor.refused.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn slow_work_is_done_whether_or_not_the_system_helps() {
        let tasks = Tasks::new();
        let inhibitor = Inhibitor { quick: Duration::ZERO, ..Inhibitor::new(tasks.clone()) };
        for _ in 0..2 {
            let work = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                7
            };
            assert_eq!(inhibitor.during(work).await, 7);
        }
        assert_eq!(tasks.shut_down(Duration::from_secs(10)).await, [""; 0]);
    }
}
