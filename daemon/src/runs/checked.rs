//! The check of a run: a command of the user's, in the checkout and the room of a run whose program has ended.
//!
//! It begins when the result is sealed, so that nothing of what it makes is in there: what is looked at is what was left,
//! and not what a test has made of it.
//!
//! **Invariant:** that a check has begun is durable before it does, with the result. A run is not sealed again behind its
//! check, and a check that was begun is not begun again.

use std::sync::Arc;

use baton_protocol::id::SnapshotId;
use baton_protocol::message::{CheckState, Checked, RunState};
use baton_store::catalog::runs::RunUpdate;

use super::attend::Attention;
use super::program::Ended;
use super::{Live, Runs};

impl Runs {
    /// Runs the check of a run, where it has one and its program came to its end.
    pub(super) async fn check(
        &self,
        live: &Arc<Live>,
        ended: &Ended,
        result: Option<SnapshotId>,
    ) -> Option<Checked> {
        let command = live.spec.terms.check.as_deref()?;
        if ended.checked.is_some() {
            // An earlier daemon began it.
            return Some(Checked { state: CheckState::Interrupted, ..not_run() });
        }
        let came_to_its_end = ended.code.is_some() && ended.stop.is_none();
        if result.is_none() || !came_to_its_end || ended.failure.is_some() {
            return Some(not_run());
        }
        let begun = Checked { state: CheckState::Running, ..not_run() };
        let update = RunUpdate { result, checked: Some(begun), ..RunUpdate::default() };
        if let Err(error) = self.advance(live, RunState::Running, update).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(run = %live.run, error, "a run is not checked");
            return Some(not_run());
        }
        self.note(live, &format!("check: {command}"));
        live.log.forget_tail();
        let given = match self.give(live).await {
            Ok(given) => given,
            Err(why) => return Some(Checked { tail: why, ..not_run() }),
        };
        let words = ["sh", "-c", command].map(Into::into);
        let end = self.run_in_room(live, &given, &words, Attention::TimeOnly).await;
        let state = match (end.stop, end.failure.is_some(), end.code) {
            (None, false, Some(0)) => CheckState::Passed,
            (None, false, Some(_)) => CheckState::Failed,
            _ => CheckState::Interrupted,
        };
        let failure = end.failure.map(|failure| self.masked(live, failure));
        let tail = failure.unwrap_or_else(|| live.log.tail());
        let code = end.code.map_or(String::new(), |code| format!(" (exit {code})"));
        self.note(live, &format!("check {}{code}", state.name()));
        Some(Checked { state, exit_code: end.code, tail })
    }
}

fn not_run() -> Checked {
    Checked { state: CheckState::Interrupted, exit_code: None, tail: String::new() }
}

#[cfg(test)]
mod tests {
    use baton_protocol::message::{LogStream, RunSpec, Terms};

    use super::super::testing::{Node, entries, spec, within};
    use super::*;

    fn with_check(byte: u8, command: &[&str], check: &str) -> RunSpec {
        let terms = Terms { check: Some(check.to_owned()), ..Terms::default() };
        RunSpec { terms, ..spec(byte, command) }
    }

    #[tokio::test]
    async fn a_check_looks_at_what_was_left_and_changes_nothing_of_it() {
        for node in Node::in_every_room().await {
            let check = "cat made; echo spoiled > made; echo x > report; echo done >&2";
            let asked = with_check(1, &["sh", "-c", "echo whole > made; echo noise"], check);
            let info = node.run(asked).await;
            assert_eq!((info.state, info.exit_code), (RunState::Succeeded, Some(0)));
            let checked = info.checked.clone().unwrap();
            assert_eq!((checked.state, checked.exit_code), (CheckState::Passed, Some(0)));
            let mut lines: Vec<_> = checked.tail.lines().collect();
            lines.sort_unstable();
            assert_eq!(lines, ["done", "whole"]);
            assert_eq!(node.sealed(&info, "made"), b"whole\n");
            assert!(!node.sealed_path(&info, "report").exists());
            let log = String::from_utf8(entries(&node.log(info.spec.run).await, LogStream::Node));
            assert!(log.unwrap().contains("check passed (exit 0)\n"));
        }
    }

    #[tokio::test]
    async fn a_check_that_fails_leaves_the_run_as_it_ended() {
        let node = Node::new();
        let info = node.run(with_check(1, &["true"], "echo no; exit 3")).await;
        let tail = "no\n".to_owned();
        let expected = Checked { state: CheckState::Failed, exit_code: Some(3), tail };
        assert_eq!((info.state, info.checked), (RunState::Succeeded, Some(expected)));
        // What failed is checked, too; it may have left what is good all the same.
        let info = node.run(with_check(2, &["false"], "true")).await;
        assert_eq!(info.state, RunState::Failed);
        assert_eq!(info.checked.unwrap().state, CheckState::Passed);
        let info = node.run(with_check(3, &["no-such-program"], "true")).await;
        assert_eq!(info.checked.unwrap().state, CheckState::Interrupted);
    }

    #[tokio::test]
    async fn a_check_ends_with_its_run() {
        let node = Node::new();
        let asked =
            with_check(1, &["sh", "-c", "echo whole > made"], "echo spoiled > made; sleep 300");
        let run = asked.run;
        node.runs.create("ann", node.vault, asked).await.unwrap();
        node.until(run, |info| info.checked.is_some() && !Node::processes_of(run).is_empty()).await;
        let info = within(node.runs.cancel("ann", run)).await.unwrap();
        assert_eq!(info.state, RunState::Succeeded);
        assert_eq!(info.checked.as_ref().unwrap().state, CheckState::Interrupted);
        assert_eq!(node.sealed(&info, "made"), b"whole\n");
        assert_eq!(Node::processes_of(run), Vec::<i32>::new());
    }

    #[test]
    fn a_daemon_that_died_during_a_check_leaves_the_result_and_no_second_check() {
        // What a daemon waits for ends with its runtime: the first one does not see how its check is ended.
        let runtime =
            || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let first = runtime();
        let script = "echo x >> ../../checks; echo spoiled > made; sleep 300";
        let asked = with_check(1, &["sh", "-c", "echo whole > made"], script);
        let run = asked.run;
        let (node, before) = first.block_on(async {
            let node = Node::new();
            node.runs.create("ann", node.vault, asked).await.unwrap();
            let before = node.until(run, |info| info.checked.is_some() && count(&node) > 0).await;
            (node, before)
        });
        first.shutdown_background();
        runtime().block_on(async {
            let next = node.next_daemon();
            next.runs.recover().await.unwrap();
            let info = within(next.runs.wait("ann", run)).await.unwrap();
            assert_eq!((info.state, info.result), (RunState::Succeeded, before.result));
            assert_eq!(info.checked.as_ref().unwrap().state, CheckState::Interrupted);
            assert_eq!(next.sealed(&info, "made"), b"whole\n");
            assert_eq!(count(&next), 1);
        });
    }

    /// How many checks have begun.
    fn count(node: &Node) -> usize {
        let checks = node.folder.path().join("runs/checks");
        let read = baton_store::fs::read_if_exists(&checks, 100).unwrap();
        String::from_utf8(read.unwrap_or_default()).unwrap().lines().count()
    }
}
