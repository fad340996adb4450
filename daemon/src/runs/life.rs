//! What happens to a run, from its turn in the queue to its end.
//!
//! **Invariant:** whatever was prepared is sealed, however the run ends. A failure of the node never hides
//! how the program ended: the checkout stays, and the reason says what is missing.

use std::sync::Arc;

use baton_protocol::id::SnapshotId;
use baton_protocol::message::RunState;
use baton_store::catalog::runs::RunUpdate;
use baton_store::error::StoreError;
use baton_store::fs;

use super::checkout::{CheckoutError, Prepared};
use super::git_access::make_programs;
use super::homes::{make_temporary, remove_temporary};
use super::mask::masked;
use super::program::Ended;
use super::refused::{chain, reason};
use super::turns::Asked;
use super::{Live, Runs, RunsError, Stop};
use crate::notices::Notice;

/// The whole life of a queued run.
pub(super) async fn live(runs: Runs, live: Arc<Live>, asked: Asked) {
    match live.wait_for_turn(asked).await {
        Ok(()) => runs.run_through(&live).await,
        Err(Stop::Cancelled) => runs.finish(&live, RunState::Cancelled, None, None).await,
        // It was not begun: the next daemon will.
        Err(Stop::Interrupted | Stop::TookTooLong) => {}
    }
    runs.leave(&live);
}

impl Runs {
    async fn run_through(&self, live: &Arc<Live>) {
        // Not in the catalog: where the node dies before anything is started, the next one begins anew.
        live.info.send_modify(|info| {
            info.state = RunState::Preparing;
            info.isolated = self.0.parts.room.isolated();
        });
        self.note(live, &format!("preparing snapshot {}", live.spec.snapshot.short()));
        let prepared = match self.prepare(live).await {
            Ok(prepared) => prepared,
            Err(reason) => return self.finish(live, RunState::Failed, Some(reason), None).await,
        };
        let Prepared { files, bytes, .. } = prepared;
        self.note(live, &format!("prepared {files} files, {bytes} bytes"));
        let mut ended = match self.furnish(live).await {
            Ok(installed) => self.run_program(live, installed).await,
            Err(Ended { is_half_made: true, failure, .. }) => {
                // Nobody has worked there, and half of what was brought would be taken for a change.
                self.discard_checkout(live).await;
                let failure = failure.map(|failure| self.masked(live, failure));
                return self.finish(live, RunState::Failed, failure, None).await;
            }
            Err(ended) => ended,
        };
        if let Some(turn) = live.turn().as_mut() {
            turn.take_back();
        }
        if ended.stop == Some(Stop::Interrupted) && self.is_noted_as_queued(live).await {
            // Nothing was started: the next daemon begins anew.
            self.discard_checkout(live).await;
            return;
        }
        ended.failure = ended.failure.map(|failure| self.masked(live, failure));
        if ended.stop.is_none() && ended.code.is_some() {
            // If the node dies while it seals, the next daemon knows how the program ended.
            let update = RunUpdate {
                exit_code: ended.code,
                ended_at: Some(ended.at),
                reason: ended.failure.clone(),
                ..RunUpdate::default()
            };
            if let Err(error) = self.advance(live, RunState::Running, update).await {
                tracing::error!(run = %live.run, %error, "the exit code of a run is not kept yet");
            }
        }
        self.seal_and_finish(live, ended).await;
    }

    async fn is_noted_as_queued(&self, live: &Live) -> bool {
        let (catalog, user, run) = (self.0.parts.catalog.clone(), live.user.clone(), live.run);
        let row = self.blocking("run-state", move || catalog.run(&user, run)).await;
        matches!(row, Ok(Ok(Some(row))) if row.info.state == RunState::Queued)
    }

    /// Makes the run's folders, checkout, attachments and receipt.
    async fn prepare(&self, live: &Arc<Live>) -> Result<Prepared, String> {
        let (checkouts, work) = (Arc::clone(&self.0.parts.checkouts), Arc::clone(live));
        let isolated = self.0.parts.room.isolated();
        let runs = self.clone();
        let prepare = move || -> Result<Prepared, CheckoutError> {
            let folders = &work.folders;
            let own = |doing, result: Result<(), fs::FsError>| {
                result.map_err(|source| CheckoutError { doing, source: Box::new(source) })
            };
            let folder = folders.attachments();
            own("making the run's folders", fs::create_dir_all(&folder))?;
            own("making the run's folders", make_temporary(&work.folders))?;
            let mut prepared = checkouts.prepare(&work.place(), work.spec.snapshot)?;
            if let Some(receipt) = prepared.receipt.as_object_mut() {
                receipt.insert("isolated".to_owned(), isolated.into());
            }
            let told = runs.make_home(&work).map_err(|source| CheckoutError {
                doing: "making the run's home",
                source: Box::new(source),
            })?;
            for told in told.iter().chain(&prepared.note) {
                runs.note(&work, told);
            }
            if let Some(told) = runs.converse(&work, &prepared.receipt)? {
                runs.note(&work, &told);
            }
            own("making the run's folders", make_programs(folders, &work.run.short()))?;
            let receipt = prepared.receipt.to_string();
            let written = fs::write_whole(&folders.receipt(), receipt.as_bytes(), 0o644);
            own("writing the receipt", written).map(|()| prepared)
        };
        let failed = match self.blocking("run-prepare", prepare).await {
            Ok(Ok(prepared)) => return Ok(prepared),
            Ok(Err(error)) => reason("the checkout could not be prepared", &error),
            Err(error) => reason("the checkout could not be prepared", &error),
        };
        self.discard_checkout(live).await;
        Err(failed)
    }

    /// Removes what nobody needs of a run whose processes have ended: the result may need the place.
    fn forget_temporary(&self, live: &Live) {
        let folders = live.folders.clone();
        let remove = move || remove_temporary(&folders);
        self.0.parts.tasks.spawn_blocking("run-tmp", remove).detach();
    }

    /// Removes a checkout in which nothing has run.
    pub(super) async fn discard_checkout(&self, live: &Live) {
        self.forget_temporary(live);
        let (checkout, layer) = (live.folders.checkout(), live.folders.layer());
        let checkouts = Arc::clone(&self.0.parts.checkouts);
        let release = move || checkouts.release(&checkout, &layer);
        if let Ok(Err(error)) = self.blocking("run-discard", release).await {
            tracing::warn!(run = %live.run, error = chain(&error), "a part of a checkout stays behind");
        }
    }

    /// Keeps what is in the checkout, and ends the run.
    pub(super) async fn seal_and_finish(&self, live: &Arc<Live>, ended: Ended) {
        // A check has what the program had.
        let is_checked = live.spec.terms.check.is_some();
        if !is_checked {
            self.forget_temporary(live);
        }
        let (mut state, mut reason) = ended.state();
        let sealed = live.info.borrow().result.filter(|_| ended.checked.is_some());
        let sealed = match sealed {
            Some(sealed) => Ok(Some(sealed)),
            None => self.seal(live).await,
        };
        let mut result = None;
        match sealed {
            Ok(sealed) => result = sealed,
            Err(failure) => {
                tracing::error!(run = %live.run, failure, "the result of a run is not sealed");
                if state == RunState::Succeeded {
                    state = RunState::Failed;
                }
                reason =
                    Some(reason.map_or(failure.clone(), |reason| format!("{reason}; {failure}")));
            }
        }
        let ended = Ended { checked: self.check(live, &ended, result).await, ..ended };
        if is_checked {
            self.forget_temporary(live);
        }
        self.finish_with(live, state, reason, result, &ended).await;
    }

    async fn seal(&self, live: &Arc<Live>) -> Result<Option<SnapshotId>, String> {
        let doing = format!(
            "its result could not be sealed and is in {} only, where it is sealed when the daemon starts the next time",
            live.folders.checkout().display()
        );
        // It may name a file.
        let sealed = self.keep_now(live, true).await;
        sealed.map_err(|error| self.masked(live, reason(&doing, &*error)))
    }

    /// Ends a run of which nothing was prepared.
    pub(super) async fn finish(
        &self,
        live: &Arc<Live>,
        state: RunState,
        reason: Option<String>,
        result: Option<SnapshotId>,
    ) {
        let ended = Ended { at: self.0.parts.clock.now_ms(), ..Ended::default() };
        self.finish_with(live, state, reason, result, &ended).await;
    }

    async fn finish_with(
        &self,
        live: &Arc<Live>,
        state: RunState,
        reason: Option<String>,
        result: Option<SnapshotId>,
        ended: &Ended,
    ) {
        let text = reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        self.note(live, &format!("{}{text}", state.name()));
        let log = Arc::clone(&live.log);
        if let Ok(Err(error)) = self.blocking("run-log", move || log.sync()).await {
            tracing::warn!(run = %live.run, %error, "the output of a run is not synced");
        }
        tracing::info!(run = %live.run, state = state.name(), code = ended.code, "run ended");
        if state == RunState::Failed {
            self.0.known.forget(&live.spec.agent);
        }
        let update = RunUpdate {
            reason: reason.clone(),
            isolated: Some(live.info.borrow().isolated),
            result,
            exit_code: ended.code,
            ended_at: Some(ended.at),
            checked: ended.checked.clone(),
            unsealed: Some(result.is_none()),
            ..RunUpdate::default()
        };
        if let Err(error) = self.advance(live, state, update).await {
            // It has ended all the same. The next daemon finds it unended and seals it once more.
            tracing::error!(run = %live.run, %error, "the end of a run is not in the catalog");
            live.info.send_modify(|info| {
                info.state = state;
                info.reason = reason;
                info.result = result.or(info.result);
                info.exit_code = ended.code.or(info.exit_code);
                info.ended_at = Some(ended.at);
                info.waiting = None;
                info.checked = ended.checked.clone().or_else(|| info.checked.take());
            });
        }
        self.tell(live, state, ended.at);
    }

    /// Tells who wants to know how a run stands.
    pub(super) fn tell(&self, live: &Live, state: RunState, time: u64) {
        let spec = &live.spec;
        self.0.parts.notices.tell(&Notice {
            run: live.run,
            thread: spec.thread,
            workspace: spec.workspace,
            user: live.user.clone(),
            state,
            time,
        });
    }

    /// Moves a run to a state, durably, and tells who waits.
    pub(super) async fn advance(
        &self,
        live: &Arc<Live>,
        state: RunState,
        update: RunUpdate,
    ) -> Result<(), RunsError> {
        let (catalog, run) = (self.0.parts.catalog.clone(), live.run);
        let set = move || -> Result<_, StoreError> { catalog.set_state(run, state, &update) };
        let row = self.blocking("run-state", set).await??;
        live.info.send_replace(row.ok_or(RunsError::NotFound(run))?.info);
        Ok(())
    }

    pub(super) fn note(&self, live: &Live, text: &str) {
        let text = self.masked(live, text.to_owned());
        live.log.node(self.0.parts.clock.now_ms(), &text);
    }

    /// What is said of a run, without what it was given.
    pub(super) fn masked(&self, live: &Live, text: String) -> String {
        masked(self.0.parts.secrets.known_to(live.run).as_ref(), text)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use baton_protocol::id::VaultId;
    use baton_protocol::message::LogStream;
    use baton_protocol::message::secrets::{SecretValue, SetSecret};

    use super::super::testing::{Node, entries, spec, within};
    use super::*;

    #[tokio::test]
    async fn a_run_works_on_its_checkout_and_leaves_a_snapshot() {
        for node in Node::in_every_room().await {
            let script = "cat given && echo new > made && rm given && echo err >&2 && cat";
            let mut asked = spec(1, &["sh", "-c", script]);
            asked.terms.input = Some(false);
            let info = node.run(asked).await;
            assert_eq!((info.state, info.exit_code), (RunState::Succeeded, Some(0)), "{info:?}");
            assert_eq!(info.reason, None);
            assert!(info.started_at.is_some() && info.ended_at.is_some());
            assert_eq!(info.isolated, node.isolated());
            let (stdout, stderr) = node.output(info.spec.run).await;
            assert_eq!((stdout.as_slice(), stderr.as_slice()), (&b"given\n"[..], &b"err\n"[..]));
            assert_eq!(node.sealed(&info, "made"), b"new\n");
            assert!(!node.sealed_path(&info, "given").exists());
            let seals = node.checkouts.seals.lock().unwrap();
            assert_eq!(*seals, [(info.spec.run, info.spec.snapshot, info.result.unwrap())]);
            // What can be pulled stays; what named the process does not.
            let checkout = Path::new(info.checkout.as_ref().unwrap());
            assert!(checkout.join("made").exists());
            assert!(!checkout.with_file_name("process").exists());
        }
    }

    #[tokio::test]
    async fn a_failure_has_its_code_and_is_sealed_too() {
        for node in Node::in_every_room().await {
            let script = "echo partly > made; exit 7";
            let info = node.run(spec(1, &["sh", "-c", script])).await;
            assert_eq!((info.state, info.exit_code), (RunState::Failed, Some(7)));
            assert_eq!(info.reason.as_deref(), Some("the program ended with code 7"));
            assert_eq!(node.sealed(&info, "made"), b"partly\n");
            let info = node.run(spec(2, &["sh", "-c", "kill -9 $$"])).await;
            assert_eq!((info.state, info.exit_code), (RunState::Failed, Some(137)));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_started_says_why() {
        for node in Node::in_every_room().await {
            let cases = [
                (1, "no-such-program", 127, "command not found: no-such-program"),
                (2, "./given", 126, "is not executable"),
                (3, "./missing", 127, "command not found: ./missing"),
            ];
            for (byte, program, code, why) in cases {
                let info = node.run(spec(byte, &[program, "x"])).await;
                assert_eq!((info.state, info.exit_code), (RunState::Failed, Some(code)));
                assert!(info.reason.as_deref().unwrap().contains(why), "{:?}", info.reason);
                let last = node.log(info.spec.run).await.pop().unwrap();
                assert_eq!(last.stream, LogStream::Node);
                assert!(String::from_utf8(last.text).unwrap().contains(why));
                assert!(info.result.is_some());
            }
        }
    }

    #[tokio::test]
    async fn a_snapshot_that_is_not_there_fails_the_run() {
        let node = Node::new();
        let mut asked = spec(1, &["true"]);
        asked.snapshot = SnapshotId::from_bytes([0xee; 32]);
        let info = node.run(asked).await;
        assert_eq!((info.state, info.result, info.exit_code), (RunState::Failed, None, None));
        let why = info.reason.unwrap();
        assert!(why.contains("the checkout could not be prepared: finding the snapshot"), "{why}");
        assert_eq!(info.started_at, None);
    }

    #[tokio::test]
    async fn a_result_that_cannot_be_sealed_is_never_called_a_success() {
        let node = Node::new();
        let info = node.run(spec(1, &["sh", "-c", "echo x > unsealable"])).await;
        assert_eq!((info.state, info.exit_code), (RunState::Failed, Some(0)));
        let (reason, checkout) = (info.reason.unwrap(), info.checkout.unwrap());
        assert!(reason.contains(&format!("is in {checkout} only")), "{reason}");
        assert!(Path::new(&checkout).join("unsealable").exists());
    }

    #[tokio::test]
    async fn output_keeps_every_byte_and_its_order() {
        let node = Node::new();
        let script = r"printf 'a\0b\377\n\n\r\nlast'; sleep 0.02; echo err >&2; printf more";
        let info = node.run(spec(1, &["sh", "-c", script])).await;
        let (stdout, stderr) = node.output(info.spec.run).await;
        assert_eq!(stdout, b"a\0b\xff\n\n\r\nlastmore");
        assert_eq!(stderr, b"err\n");
        let script = "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done";
        let info = node.run(spec(2, &["sh", "-c", script])).await;
        let lines = node.log(info.spec.run).await;
        let lines = lines.iter().filter(|entry| entry.stream == LogStream::Stdout);
        let expected: Vec<_> = (0..2000).map(|number| format!("{number}\n").into_bytes()).collect();
        assert_eq!(lines.map(|entry| entry.text.clone()).collect::<Vec<_>>(), expected);
    }

    #[tokio::test]
    async fn a_burst_of_output_comes_whole() {
        const SIZE: usize = 10 * 1024 * 1024;
        for node in Node::in_every_room().await {
            let script = format!("head -c {SIZE} /dev/urandom > made; cat made; cat made >&2");
            let info = node.run(spec(1, &["sh", "-c", &script])).await;
            assert_eq!(info.state, RunState::Succeeded);
            let made = Path::new(info.checkout.as_ref().unwrap()).join("made");
            let made = fs::read_if_exists(&made, SIZE as u64).unwrap().unwrap();
            assert_eq!(made.len(), SIZE);
            let (stdout, stderr) = node.output(info.spec.run).await;
            assert!(stdout == made && stderr == made);
        }
    }

    #[tokio::test]
    async fn a_program_that_is_asked_to_end_may_finish_its_work() {
        for node in Node::in_every_room().await {
            let script = "trap 'echo bye; echo saved > made; exit 3' TERM; echo ready;
                          while :; do sleep 0.01; done";
            let asked = spec(1, &["sh", "-c", script]);
            let mut log = node.start(asked.clone()).await;
            within(log.next()).await.unwrap();
            let info = within(node.runs.cancel("ann", asked.run)).await.unwrap();
            assert_eq!((info.state, info.exit_code), (RunState::Cancelled, Some(3)));
            assert_eq!(node.sealed(&info, "made"), b"saved\n");
            assert!(node.output(asked.run).await.0.ends_with(b"bye\n"));
            let again = node.runs.cancel("ann", asked.run).await.unwrap();
            assert_eq!(again, info);
        }
    }

    #[tokio::test]
    async fn cancelling_kills_what_ignores_it_and_all_that_was_started() {
        let change = |options: &mut super::super::RunOptions| {
            options.grace = Duration::from_millis(50);
        };
        for node in Node::in_every_room_with(change).await {
            // A child that ignores the request, an orphan in a session of its own, and one that holds
            // the output open.
            let script = "trap '' TERM; echo begun > made
                (trap '' TERM; exec sleep 301) &
                (setsid sleep 302 > /dev/null 2>&1 &)
                (setsid sh -c 'trap \"\" TERM; exec sleep 303' &)
                echo ready; while :; do sleep 1; done";
            let asked = spec(1, &["sh", "-c", script]);
            let mut log = node.start(asked.clone()).await;
            within(log.next()).await.unwrap();
            let info = within(node.runs.cancel("ann", asked.run)).await.unwrap();
            assert_eq!(info.state, RunState::Cancelled);
            assert_eq!(node.sealed(&info, "made"), b"begun\n");
            assert_eq!(Node::processes_of(asked.run), Vec::<i32>::new());
            let note = b"did not end within 0 s, and is killed\n";
            assert!(node.log(asked.run).await.iter().any(|entry| entry.text == note));
        }
    }

    #[tokio::test]
    async fn what_a_program_leaves_behind_ends_with_it() {
        for node in Node::in_every_room().await {
            let script = "sleep 304 & (setsid sleep 305 &) ; echo done";
            let info = node.run(spec(1, &["sh", "-c", script])).await;
            assert_eq!((info.state, info.exit_code), (RunState::Succeeded, Some(0)));
            assert_eq!(Node::processes_of(info.spec.run), Vec::<i32>::new());
        }
    }

    #[tokio::test]
    async fn the_environment_is_what_is_documented_and_no_more() {
        for node in Node::in_every_room().await {
            let mut asked = spec(1, &["env", "-0"]);
            asked.prompt = Some("two\nlines $HOME 'x'".to_owned());
            let info = node.run(asked.clone()).await;
            let (stdout, _) = node.output(asked.run).await;
            let mut found: Vec<_> = stdout
                .split(|&byte| byte == 0)
                .filter(|variable| !variable.is_empty())
                .map(|variable| String::from_utf8(variable.to_vec()).unwrap())
                .collect();
            found.sort();
            let folder = node.folder.path().canonicalize().unwrap().join("runs");
            let folder = folder.join(asked.run.to_string());
            let folder = folder.to_str().unwrap();
            let mut expected = [
                format!("BATON_ATTACHMENTS={folder}/attachments"),
                "BATON_PROMPT=two\nlines $HOME 'x'".to_owned(),
                format!("BATON_RECEIPT={folder}/receipt.json"),
                format!("BATON_RUN={}", asked.run),
                format!("BATON_SNAPSHOT={}", asked.snapshot),
                format!("BATON_THREAD={}", asked.thread),
                format!("HOME={}", node.home_of(&asked)),
                format!("BATON_BRANCH=handoff/{}", &asked.run.to_string()[..8]),
                format!("GIT_ASKPASS={folder}/git/askpass"),
                format!("GIT_SSH={folder}/git/ssh"),
                "GIT_TERMINAL_PROMPT=0".to_owned(),
                "LANG=C.UTF-8".to_owned(),
                format!("PATH={}", crate::rooms::DEFAULT_PATH),
                format!("PWD={folder}/checkout"),
            ];
            expected.sort();
            assert_eq!(found, expected);
            assert_eq!(info.checkout.unwrap(), format!("{folder}/checkout"));
        }
    }

    #[tokio::test]
    async fn folders_and_receipt_are_there() {
        for node in Node::in_every_room().await {
            let script = "set -e; pwd; cat \"$BATON_RECEIPT\"; echo; cat \"$BATON_ATTACHMENTS\"/*;
                          echo x > \"$HOME/.kept\"; printf '%s|' \"$@\"; ulimit -c";
            let arguments = ["sh", "-c", script, "name", "a b", "", "$(c)"];
            let info = node.run(spec(1, &arguments)).await;
            assert_eq!(info.state, RunState::Succeeded, "{:?}", node.output(info.spec.run).await);
            let output = String::from_utf8(node.output(info.spec.run).await.0).unwrap();
            let mut lines = output.lines();
            assert_eq!(lines.next(), info.checkout.as_deref());
            let receipt: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
            assert_eq!(receipt["isolated"], node.isolated());
            assert_eq!(receipt["snapshot"], info.spec.snapshot.to_string());
            assert_eq!(lines.next(), Some("the attachment"));
            assert!(lines.next().unwrap().starts_with("a b||$(c)|"));
            let home = node.home_of(&info.spec);
            assert!(Path::new(&home).join(".kept").exists());
            // Without a prompt there is an empty one.
            let script = "test \"${BATON_PROMPT-unset}\" = ''";
            assert_eq!(node.run(spec(2, &["sh", "-c", script])).await.exit_code, Some(0));
        }
    }

    #[tokio::test]
    async fn secrets_are_given_to_their_runs_and_are_in_no_log_reason_or_command_line() {
        for node in Node::in_every_room().await {
            let keep = |vault, name: &str, agent: Option<&str>, value: &[u8]| {
                let value = SecretValue::new(value.to_vec());
                let (name, agent) = (name.to_owned(), agent.map(str::to_owned));
                node.secrets().set(vault, &SetSecret { name, agent, value, push: None }).unwrap();
            };
            keep(node.vault, "TOKEN", None, b"hunter2-is-no-password");
            keep(node.vault, "TOKEN", Some("command"), b"that-of-plain-commands");
            keep(node.vault, "OTHER", Some("claude"), b"that-of-another-agent");
            keep(node.vault, "LINES", None, b"the first line\nshort\n");
            keep(VaultId::from_bytes([9; 16]), "FOREIGN", None, b"that-of-another-user");
            let script = r#"
                echo "${OTHER-none} ${FOREIGN-none} ${#TOKEN}"
                echo "<$TOKEN>"
                for part in that-of -plain- commands; do printf %s "$part"; sleep 0.4; done; echo
                printf %s "$TOKEN" | base64 >&2
                echo "$LINES" | sed 's/^/> /'
                printf %s "$TOKEN" > "$HOME/value"
                cat /proc/[0-9]*/cmdline | tr '\000' '\n' | grep -cF -f "$HOME/value" > seen
                printf %s "$TOKEN" > checked
                "./$TOKEN"
            "#;
            let info = node.run(spec(1, &["sh", "-c", script])).await;
            let (stdout, stderr) = node.output(info.spec.run).await;
            let stdout = String::from_utf8(stdout).unwrap();
            assert_eq!(stdout, "none none 22\n<***>\n***\n> ***\n> short\n> \n");
            let stderr = String::from_utf8(stderr).unwrap();
            assert!(stderr.starts_with("***"), "{stderr}");
            assert!(!stderr.contains("that-of-plain-commands"), "{stderr}");
            assert_eq!(node.sealed(&info, "checked"), b"that-of-plain-commands");
            assert_eq!(node.sealed(&info, "seen"), b"0\n");

            // What the node itself says of it.
            let info = node.run(spec(2, &["./that-of-plain-commands"])).await;
            assert_eq!(info.reason.unwrap(), "command not found: ./***");
            let log = entries(&node.log(info.spec.run).await, LogStream::Node);
            let log = String::from_utf8(log).unwrap();
            assert!(log.contains("failed: command not found: ./***"), "{log}");
        }
    }

    #[tokio::test]
    async fn a_run_whose_secrets_cannot_be_read_does_not_start_without_them() {
        let node = Node::new();
        let value = SecretValue::new(b"swordfish".to_vec());
        let secret = SetSecret { name: "TOKEN".to_owned(), agent: None, value, push: None };
        node.secrets().set(node.vault, &secret).unwrap();
        let folder = node.folder.path().join("secrets");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder, open).unwrap();
        let info = node.run(spec(1, &["sh", "-c", "echo x > made"])).await;
        assert_eq!((info.state, info.exit_code), (RunState::Failed, None));
        let reason = info.reason.as_ref().unwrap();
        assert!(
            reason.contains("others may read the secrets") && !reason.contains('/'),
            "{reason}"
        );
        assert!(!node.sealed_path(&info, "made").exists());
    }

    #[tokio::test]
    async fn a_room_hides_the_node_and_other_runs() {
        for node in Node::in_every_room().await.into_iter().filter(Node::isolated) {
            let first = node.run(spec(1, &["sh", "-c", "echo secret > made"])).await;
            let first = first.checkout.unwrap();
            let root = node.folder.path().canonicalize().unwrap();
            fs::write_atomic(&root.join("key"), b"secret", 0o644).unwrap();
            let script = r#"
                root=$1 first=$2 me=$3 own=${BATON_RECEIPT%/*}
                for path in "$root/key" "$root/catalog.db" "$first/made" /root /home /boot /sys; do
                    [ -e "$path" ] && echo "saw $path"
                done
                [ -s /etc/shadow ] && echo "read $(head -c1 /etc/shadow)"
                for path in /x /usr/x /etc/x "$BATON_RECEIPT" "$BATON_ATTACHMENTS/x" \
                    /proc/sys/kernel/domainname /proc/sys/kernel/core_pattern; do
                    (cat "$path" > "$path") 2> /dev/null && echo "wrote $path"
                    (: >> "$path") 2> /dev/null && echo "opened $path"
                done
                echo x > "$own/x"
                ls "$root/runs" "$own" /run
                grep Cap /proc/self/status | tr -d "\t0" | tr "\n" " "
                echo $$
                kill -0 "$me" 2> /dev/null && echo "reached $me"
                [ -r /etc/passwd ] && [ -d /usr/bin ] && echo x > /tmp/x && echo fine
            "#;
            let me = std::process::id().to_string();
            let root = root.to_str().unwrap();
            let asked = spec(2, &["sh", "-c", script, "sh", root, &first, &me]);
            let info = node.run(asked).await;
            let (stdout, stderr) = node.output(info.spec.run).await;
            let stdout = String::from_utf8(stdout).unwrap();
            let run = info.spec.run;
            let expected = format!(
                "/run:\n\n{root}/runs:\n{run}\nhomes\n\n{root}/runs/{run}:\n\
                 attachments\ncheckout\ngit\nreceipt.json\nx\n\
                 CapInh: CapPrm: CapEff: CapBnd: CapAmb: 2\nfine\n"
            );
            assert_eq!(stdout, expected, "{}", String::from_utf8_lossy(&stderr));
            // Its /tmp was its own.
            assert!(!Path::new(root).join("runs").join(run.to_string()).join("x").exists());
        }
    }

    #[tokio::test]
    async fn entries_of_the_node_tell_the_story() {
        let node = Node::new();
        let info = node.run(spec(1, &["true"])).await;
        let log = node.log(info.spec.run).await;
        let prepared = "prepared 1 files, 6 bytes\n";
        let preparing = format!("preparing snapshot {}\n", info.spec.snapshot.short());
        let expected = [preparing.as_str(), prepared, "succeeded\n"];
        assert_eq!(entries(&log, LogStream::Node), expected.concat().into_bytes());
        assert!(log.iter().all(|entry| entry.time >= info.created_at));
    }
}
