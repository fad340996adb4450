//! What goes on beside a program that works: its time runs out, it waits for input, and what it has done so far is kept.
//!
//! Whether it waits is looked at when it has been silent for a while, and then less and less often: it costs a look at
//! every process of the machine.
//!
//! **Invariant:** when [`attend`] returns, nothing moves the run to another state any more but its life.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use baton_protocol::message::{Question, QuestionKind, RunSpec, RunState};
use baton_store::catalog::runs::RunUpdate;
use tokio::sync::{mpsc, watch};

use super::input::Found;
use super::process::Processes;
use super::reads::reads;
use super::{Live, Runs};
use crate::agents::talk::Heard;

/// How long a program is silent before it is looked at: longer than a line that has begun is kept back.
const FIRST_LOOK: Duration = Duration::from_millis(300);

/// The longest time from one look to the next.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// How often what did not fit into its input is tried again.
const FEED: Duration = Duration::from_millis(20);

/// How much of its time a program is looked at, at most: one part in so many.
const LOOKING: u32 = 50;

/// How much of its time is spent on snapshots of it, at most: one part in so many.
const KEEPING: u32 = 20;

/// How long it takes at most from one that differs to the next.
const SELDOM: Duration = Duration::from_mins(30);

/// What there is to attend to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attention {
    /// A run's own program.
    Whole,
    /// That of an agent, which says itself what it waits for.
    Agent,
    /// Something that may only take too long.
    TimeOnly,
}

/// Attends to a program until it is `over`.
pub(super) async fn attend(
    runs: Runs,
    live: Arc<Live>,
    (what, heard): (Attention, Option<mpsc::Receiver<Heard>>),
    mut started: watch::Receiver<Option<Arc<Processes>>>,
    over: watch::Receiver<bool>,
) {
    let started = started.wait_for(Option::is_some).await.map(|started| started.clone());
    // Otherwise it was never there.
    let Ok(Some(processes)) = started else { return };
    let whole = what == Attention::Whole;
    let alive = what != Attention::TimeOnly;
    let limit = limit(&runs, &live, over.clone());
    let look = async {
        if whole {
            look(&runs, &live, &processes, over.clone()).await;
        }
    };
    let talk = async {
        match heard {
            Some(heard) => talk(&runs, &live, heard).await,
            None if what == Attention::Agent => feed(&live, over.clone()).await,
            None => {}
        }
    };
    let keep = async {
        if alive {
            keep(&runs, &live, over.clone()).await;
        }
    };
    tokio::join!(limit, look, talk, keep);
}

/// Resolves when it is over, also where nobody is left to say so.
async fn is_over(over: &mut watch::Receiver<bool>) {
    drop(over.wait_for(|over| *over).await);
}

impl Runs {
    /// How long a run may take: the shorter one of what was asked for and what the node allows.
    pub(super) fn time_limit(&self, spec: &RunSpec) -> Option<Duration> {
        let asked = spec.terms.timeout_ms.map(Duration::from_millis);
        let allowed = self.0.options.agent(&spec.agent).timeout;
        [asked, allowed].into_iter().flatten().min()
    }
}

async fn limit(runs: &Runs, live: &Live, mut over: watch::Receiver<bool>) {
    let Some(limit) = runs.time_limit(&live.spec) else { return };
    tokio::select! {
        biased;
        () = is_over(&mut over) => {}
        () = tokio::time::sleep(limit) => live.ask_to_stop(super::Stop::TookTooLong),
    }
}

/// Keeps what it has done so far, every now and then.
async fn keep(runs: &Runs, live: &Arc<Live>, mut over: watch::Receiver<bool>) {
    let mut every = runs.0.options.keep_every;
    let mut pause = every;
    loop {
        tokio::select! {
            biased;
            () = is_over(&mut over) => return,
            () = tokio::time::sleep(pause) => {}
        }
        let begun = runs.0.parts.clock.instant();
        let before = live.info.borrow().result;
        if let Err(error) = runs.keep_now(live, false).await {
            tracing::warn!(run = %live.run, error = &*error as &dyn std::error::Error, "what a run has done so far is not kept");
        }
        if live.info.borrow().result != before {
            // What is kept takes room for good: of a run that writes all the time ever less often.
            every = every.saturating_mul(2).min(SELDOM.max(every));
        }
        pause = every.max(runs.0.parts.clock.since(begun).saturating_mul(KEEPING));
    }
}

/// Writes what a program is to read until it has it, or it is over.
async fn feed(live: &Live, mut over: watch::Receiver<bool>) {
    while live.input.has_left() {
        tokio::select! {
            biased;
            () = is_over(&mut over) => return,
            () = tokio::time::sleep(FEED) => live.input.flush(),
        }
    }
}

/// Sees to what an agent says, until it says no more.
async fn talk(runs: &Runs, live: &Arc<Live>, mut heard: mpsc::Receiver<Heard>) {
    loop {
        tokio::select! {
            biased;
            heard = heard.recv() => match heard {
                Some(heard) => runs.see_to(live, heard),
                None => return,
            },
            // Then it may ask no more.
            () = live.input.said() => {}
            () = tokio::time::sleep(FEED), if live.input.has_left() => {
                live.input.flush();
                continue;
            }
        }
        match live.input.asked() {
            Some(question) => {
                let known = live.info.borrow().waiting.as_ref().map(|known| known.id.clone());
                if known.as_ref() != Some(&question.id) {
                    runs.wait_for_answer(live, question).await;
                }
            }
            None if live.info.borrow().state == RunState::Waiting => runs.go_on(live).await,
            None => {}
        }
    }
}

/// Finds out when it waits for input, and when it does not any more.
async fn look(
    runs: &Runs,
    live: &Arc<Live>,
    processes: &Arc<Processes>,
    mut over: watch::Receiver<bool>,
) {
    let mut output = live.log.subscribe();
    let mut pause = FIRST_LOOK;
    loop {
        tokio::select! {
            biased;
            () = is_over(&mut over) => return,
            // Who speaks does not wait; and what it still says belongs to its question.
            changed = output.changed() => {
                pause = FIRST_LOOK;
                if changed.is_ok() {
                    continue;
                }
            }
            () = live.input.said() => pause = FIRST_LOOK,
            () = tokio::time::sleep(pause) => {}
        }
        let begun = runs.0.parts.clock.instant();
        let (seen, all, now) =
            (Arc::clone(live), Arc::clone(processes), runs.0.parts.clock.now_ms());
        let look = move || {
            let ask = |id| Question {
                id,
                kind: QuestionKind::Input,
                text: seen.log.last_line(),
                options: Vec::new(),
                asked_at: now,
            };
            seen.input.look(|pipe| all.led().into_iter().any(|pid| reads(pid, pipe)), ask)
        };
        let Ok(found) = runs.blocking("run-look", look).await else { return };
        let closed = found == Found::Closed;
        match found {
            Found::Asks(question) => runs.wait_for_answer(live, question).await,
            _ if live.info.borrow().state == RunState::Waiting && !live.input.asks() => {
                runs.go_on(live).await;
            }
            _ => {}
        }
        if closed {
            return;
        }
        let cost = runs.0.parts.clock.since(begun).saturating_mul(LOOKING);
        let next = if live.input.has_left() { FIRST_LOOK } else { pause.saturating_mul(2) };
        pause = next.min(LAST_LOOK).max(cost);
    }
}

impl Runs {
    /// Notes what an agent has said.
    fn see_to(&self, live: &Live, heard: Heard) {
        match heard {
            // It was shown.
            Heard::Text(_) => {}
            Heard::Session(id) => drop(live.conversation.set(id)),
            Heard::Asks(request) => {
                let text = self.masked(live, request.text.clone());
                let asked_at = self.0.parts.clock.now_ms();
                let options = ["allow", "deny"].map(str::to_owned).to_vec();
                live.input.ask(request, |id| Question {
                    id,
                    kind: QuestionKind::Permission,
                    text,
                    options,
                    asked_at,
                });
            }
            Heard::Unasks(id) => live.input.unask(&id),
            Heard::TurnEnded(ended) => {
                *live.failed.lock().unwrap_or_else(PoisonError::into_inner) = ended.err();
                // What was said meanwhile it still reads.
                drop(live.input.say(None, true));
            }
        }
    }

    async fn wait_for_answer(&self, live: &Arc<Live>, question: Question) {
        let run = live.run;
        let (time, kind, text) = (question.asked_at, question.kind, question.text.clone());
        let known = live.info.borrow().waiting.as_ref().map(|known| known.id.clone());
        let is_new = known.as_ref() != Some(&question.id);
        let update = RunUpdate { waiting: Some(question), ..RunUpdate::default() };
        if let Err(error) = self.advance(live, RunState::Waiting, update).await {
            tracing::error!(%run, error = &error as &dyn std::error::Error, "that a run waits is not kept");
            return;
        }
        if let Some(turn) = live.turn().as_mut() {
            turn.lend();
        }
        if !is_new {
            return;
        }
        let short = run.short();
        let what = if kind == QuestionKind::Permission {
            format!("asks: {text}; baton run answer {short} allow, or deny, or TEXT")
        } else {
            format!(
                "waits for input: baton run answer {short} TEXT, or baton run say --end {short}"
            )
        };
        self.note(live, &what);
        self.tell(live, RunState::Waiting, time);
    }

    async fn go_on(&self, live: &Arc<Live>) {
        if let Some(turn) = live.turn().as_mut() {
            turn.take_back();
        }
        if let Err(error) = self.advance(live, RunState::Running, RunUpdate::default()).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(run = %live.run, error, "that a run waits no more is not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use baton_protocol::id::RunId;
    use baton_protocol::message::{Answer, LogStream, RefusalCode, RunInfo, Terms};

    use super::super::testing::{Node, entries, spec, within};
    use super::*;

    fn with_terms(byte: u8, command: &[&str], terms: Terms) -> RunSpec {
        RunSpec { terms, ..spec(byte, command) }
    }

    async fn waiting(node: &Node, run: RunId, id: &str) -> RunInfo {
        node.until(run, |info| info.waiting.as_ref().is_some_and(|asked| asked.id == id)).await
    }

    /// Its words may come after it is seen that it waits.
    async fn asking(node: &Node, run: RunId, id: &str, text: &str) -> RunInfo {
        let is = |asked: &Question| asked.id == id && asked.text == text;
        node.until(run, |info| info.waiting.as_ref().is_some_and(is)).await
    }

    fn text(text: &str) -> Answer {
        Answer::Text(text.to_owned())
    }

    #[tokio::test]
    async fn a_program_that_reads_waits_and_goes_on_when_it_is_answered() {
        for node in Node::in_every_room().await {
            let script = "echo 'first of all'; printf 'name? '; read x; echo \"hi $x\"; read y
                echo \"<$y>\"; read z; read last || echo \"$z, and no more\"";
            let asked = spec(1, &["sh", "-c", script]);
            let run = asked.run;
            node.runs.create("ann", node.vault, asked).await.unwrap();
            let info = asking(&node, run, "1", "name?").await;
            assert_eq!(info.state, RunState::Waiting);
            let question = info.waiting.clone().unwrap();
            assert_eq!((question.kind, question.text.as_str()), (QuestionKind::Input, "name?"));
            assert_eq!(node.catalog.run("ann", run).unwrap().unwrap().info, info);

            let foreign = node.runs.answer("bob", run, None, text("x")).await.unwrap_err();
            assert_eq!(foreign.refusal().code, RefusalCode::NotFound);
            let other = node.runs.answer("ann", run, Some("7".into()), text("x")).await;
            let other = other.unwrap_err().refusal();
            assert_eq!(other.code, RefusalCode::Conflict);
            assert!(other.message.contains("question 1"), "{other}");
            let info = node.runs.answer("ann", run, Some("1".into()), text("bob")).await.unwrap();
            assert!(info.waiting.is_none_or(|asked| asked.id != "1"));

            asking(&node, run, "2", "hi bob").await;
            node.runs.answer("ann", run, None, Answer::Deny).await.unwrap();
            waiting(&node, run, "3").await;
            // Whatever is said is an answer, too.
            node.runs.say("ann", run, Some("two\n".into()), true).await.unwrap();
            let info = within(node.runs.wait("ann", run)).await.unwrap();
            assert_eq!((info.state, info.waiting.clone()), (RunState::Succeeded, None), "{info:?}");
            let log = node.log(run).await;
            let stdout = String::from_utf8(entries(&log, LogStream::Stdout)).unwrap();
            assert_eq!(stdout, "first of all\nname? hi bob\n<deny>\ntwo, and no more\n");
            let said = String::from_utf8(entries(&log, LogStream::Node)).unwrap();
            assert!(said.contains(&format!("baton run answer {} TEXT", run.short())), "{said}");
            let ended = node.runs.say("ann", run, Some("x".into()), false).await.unwrap_err();
            assert_eq!(ended.refusal().code, RefusalCode::Conflict);
        }
    }

    #[tokio::test]
    async fn while_one_waits_another_one_is_at_work() {
        let node = Node::with(|options| options.max_parallel = 1);
        let asked = spec(1, &["sh", "-c", "read x; echo \"<$x>\""]);
        let run = asked.run;
        node.runs.create("ann", node.vault, asked).await.unwrap();
        waiting(&node, run, "1").await;
        let info = node.run(spec(2, &["true"])).await;
        assert_eq!(info.state, RunState::Succeeded);
        node.runs.answer("ann", run, None, text("x")).await.unwrap();
        let info = within(node.runs.wait("ann", run)).await.unwrap();
        assert_eq!(info.state, RunState::Succeeded);
        assert_eq!(node.output(run).await.0, b"<x>\n");
    }

    #[tokio::test]
    async fn whoever_reads_to_the_end_gets_one() {
        let node = Node::new();
        let asked = spec(1, &["cat"]);
        let run = asked.run;
        node.runs.create("ann", node.vault, asked).await.unwrap();
        waiting(&node, run, "1").await;
        node.runs.say("ann", run, None, true).await.unwrap();
        assert_eq!(within(node.runs.wait("ann", run)).await.unwrap().state, RunState::Succeeded);

        // Or has none from the start.
        let none = Terms { input: Some(false), ..Terms::default() };
        let info = node.run(with_terms(2, &["cat"], none.clone())).await;
        assert_eq!(info.state, RunState::Succeeded);
        let silent = with_terms(3, &["sleep", "300"], none);
        node.start(silent.clone()).await;
        let refused = within(async {
            loop {
                let said = node.runs.say("ann", silent.run, Some("x".into()), false).await;
                match said.unwrap_err().refusal().code {
                    RefusalCode::Busy => tokio::time::sleep(Duration::from_millis(5)).await,
                    other => break other,
                }
            }
        })
        .await;
        assert_eq!(refused, RefusalCode::Conflict);
        within(node.runs.cancel("ann", silent.run)).await.unwrap();
    }

    #[tokio::test]
    async fn only_who_waits_for_input_waits() {
        let node = Node::new();
        // Silent, with an input that nobody reads, with one of another kind, and with one that is read elsewhere.
        let asked =
            spec(1, &["sh", "-c", "sleep 0.9; mkfifo f; (sleep 1; echo x > f) & read y < f; rm f"]);
        let run = asked.run;
        node.runs.create("ann", node.vault, asked).await.unwrap();
        let mut seen = Vec::new();
        within(async {
            let live = node.runs.find("ann", run).unwrap();
            let mut info = live.info.subscribe();
            drop(live);
            while info.changed().await.is_ok() {
                seen.push(info.borrow_and_update().state);
            }
        })
        .await;
        assert!(!seen.contains(&RunState::Waiting), "{seen:?}");
        assert_eq!(seen.last(), Some(&RunState::Succeeded));
    }

    #[tokio::test]
    async fn what_is_not_read_is_refused_at_last_and_never_waited_for() {
        let node = Node::new();
        let asked = spec(1, &["sh", "-c", "echo ready; sleep 300; cat"]);
        let mut log = node.start(asked.clone()).await;
        within(log.next()).await.unwrap();
        let long = "x".repeat(8_000);
        let mut taken = 0;
        let refused = loop {
            match node.runs.say("ann", asked.run, Some(long.clone()), false).await {
                Ok(_) => taken += 1,
                Err(error) => break error.refusal(),
            }
            assert!(taken < 1000, "it takes everything");
        };
        assert_eq!(refused.code, RefusalCode::Busy, "{refused}");
        let too_long = Some("x".repeat(baton_protocol::message::MAX_SAY + 1));
        let refused = node.runs.say("ann", asked.run, too_long, false).await.unwrap_err();
        assert_eq!(refused.refusal().code, RefusalCode::Malformed);
        within(node.runs.cancel("ann", asked.run)).await.unwrap();
    }

    #[tokio::test]
    async fn a_run_that_takes_too_long_is_ended_and_says_so() {
        let limits = super::super::AgentLimits {
            timeout: Some(Duration::from_mins(90)),
            ..Default::default()
        };
        let node = Node::with(move |options| {
            options.agents = [("command".to_owned(), limits.clone())].into();
        });
        assert_eq!(node.runs.time_limit(&spec(1, &["true"])), Some(Duration::from_mins(90)));
        let terms = Terms { timeout_ms: Some(700), ..Terms::default() };
        let asked = with_terms(1, &["sh", "-c", "echo half > done; exec sleep 300"], terms);
        let info = node.run(asked).await;
        assert_eq!(info.state, RunState::Failed);
        assert_eq!(info.reason.as_deref(), Some("it took longer than its 700ms"));
        assert_eq!(node.sealed(&info, "done"), b"half\n");
    }

    #[tokio::test]
    async fn what_a_run_has_done_so_far_is_kept_while_it_works() {
        let node = Node::with(|options| options.keep_every = Duration::from_millis(20));
        let asked = spec(1, &["sh", "-c", "echo half > done; read x; echo whole > done"]);
        let run = asked.run;
        node.runs.create("ann", node.vault, asked).await.unwrap();
        let half = |info: &RunInfo| {
            info.result.is_some()
                && node.sealed_path(info, "done").exists()
                && node.sealed(info, "done") == b"half\n"
        };
        let info = node.until(run, half).await;
        assert!(!info.state.is_final());
        assert_eq!(node.catalog.run("ann", run).unwrap().unwrap().info.result, info.result);
        node.runs.say("ann", run, Some("x".into()), true).await.unwrap();
        let info = within(node.runs.wait("ann", run)).await.unwrap();
        assert_eq!(node.sealed(&info, "done"), b"whole\n");
    }

    #[tokio::test]
    async fn a_snapshot_of_a_live_run_is_made_when_it_is_asked_for() {
        let node = Node::new();
        let asked = spec(1, &["sh", "-c", "echo half > done; echo ready; exec sleep 300"]);
        let mut log = node.start(asked.clone()).await;
        within(log.next()).await.unwrap();
        let info = within(node.runs.keep("ann", asked.run)).await.unwrap();
        assert!(!info.state.is_final());
        assert_eq!(node.sealed(&info, "done"), b"half\n");
        let foreign = node.runs.keep("bob", asked.run).await.unwrap_err();
        assert_eq!(foreign.refusal().code, RefusalCode::NotFound);
        let ended = within(node.runs.cancel("ann", asked.run)).await.unwrap();
        assert_eq!(within(node.runs.keep("ann", asked.run)).await.unwrap(), ended);
    }

    #[tokio::test]
    async fn a_run_that_waited_when_its_daemon_died_is_interrupted() {
        let node = Node::new();
        let asked = spec(1, &["sh", "-c", "echo half > done; read x"]);
        let run = asked.run;
        node.runs.create("ann", node.vault, asked).await.unwrap();
        waiting(&node, run, "1").await;
        assert_eq!(within(node.runs.shut_down()).await, 0);
        let info = node.runs.show("ann", run).await.unwrap();
        assert_eq!((info.state, info.waiting.clone()), (RunState::Interrupted, None));
        assert_eq!(node.sealed(&info, "done"), b"half\n");
    }
}
