//! What a user says to a live run, and asks of it.
//!
//! **Invariant:** what was not taken is refused, and nothing is kept for later: what is said to a run reaches the program
//! that is at work now, or nobody.

use std::sync::Arc;
use std::time::Duration;

use baton_protocol::id::RunId;
use baton_protocol::message::{Answer, MAX_SAY, RunInfo, RunState};

use super::input::Unsaid;
use super::{Live, Runs, RunsError, SpecError};

/// How long an answer waits for the run to be seen going on.
const GOES_ON: Duration = Duration::from_secs(1);

impl Runs {
    /// Says a line, or several, to the program of a run; with `end` it is told nothing more. A run that waits for input
    /// goes on with it.
    pub async fn say(
        &self,
        user: &str,
        run: RunId,
        text: Option<String>,
        end: bool,
    ) -> Result<RunInfo, RunsError> {
        let line = text.map(line).transpose()?;
        let live = self.at_work(user, run).await?;
        let to = Arc::clone(&live);
        live.log.break_tail();
        let said = self.blocking("run-say", move || to.input.say(line.as_deref(), end)).await?;
        said.map_err(|unsaid| refused(run, unsaid))?;
        Ok(going_on(&live).await)
    }

    /// Answers what a run waits for: this question, or whichever it asks.
    pub async fn answer(
        &self,
        user: &str,
        run: RunId,
        question: Option<String>,
        answer: Answer,
    ) -> Result<RunInfo, RunsError> {
        // A program that waits for input is answered with a word.
        let line = line(match &answer {
            Answer::Allow => "allow".to_owned(),
            Answer::Deny => "deny".to_owned(),
            Answer::Text(text) => text.clone(),
        })?;
        let live = self.at_work(user, run).await?;
        let to = Arc::clone(&live);
        live.log.break_tail();
        let answer = move || to.input.answer(question.as_deref(), &answer, &line);
        let said = self.blocking("run-answer", answer).await?;
        said.map_err(|unsaid| refused(run, unsaid))?;
        Ok(going_on(&live).await)
    }

    /// Makes a snapshot of what a live run has done so far, which is its result until there is another. One that is not at
    /// work stays as it is.
    pub async fn keep(&self, user: &str, run: RunId) -> Result<RunInfo, RunsError> {
        if let Some(live) = self.find(user, run) {
            let works = matches!(live.info.borrow().state, RunState::Running | RunState::Waiting);
            if works {
                self.keep_now(&live, false)
                    .await
                    .map_err(|error| RunsError::NotKept { run, why: error.to_string() })?;
            }
        }
        self.show(user, run).await
    }

    /// A run whose program can be told something.
    async fn at_work(&self, user: &str, run: RunId) -> Result<Arc<Live>, RunsError> {
        let Some(live) = self.find(user, run) else {
            self.show(user, run).await?;
            return Err(RunsError::Ended(run));
        };
        let state = live.info.borrow().state;
        match state {
            RunState::Queued | RunState::Preparing => Err(RunsError::NotStarted(run)),
            state if state.is_final() => Err(RunsError::Ended(run)),
            _ => Ok(live),
        }
    }
}

/// A text as it is said.
fn line(text: String) -> Result<Vec<u8>, RunsError> {
    let (length, limit) = (text.len(), MAX_SAY);
    if length > limit {
        return Err(SpecError::TooLong { what: "text", length, limit }.into());
    }
    let mut line = text.into_bytes();
    if line.last() != Some(&b'\n') {
        line.push(b'\n');
    }
    Ok(line)
}

fn refused(run: RunId, unsaid: Unsaid) -> RunsError {
    match unsaid {
        Unsaid::NotYet => RunsError::NotStarted(run),
        Unsaid::Closed => RunsError::NoInput(run),
        Unsaid::Busy => RunsError::Busy(run),
        Unsaid::NothingAsked => RunsError::NothingAsked(run),
        Unsaid::Other { asked } => RunsError::OtherQuestion { run, asked },
    }
}

/// The run, once it does not ask any more what it was told the answer to.
async fn going_on(live: &Live) -> RunInfo {
    let before = live.info.borrow().waiting.as_ref().map(|asked| asked.id.clone());
    if let Some(before) = before {
        let mut info = live.info.subscribe();
        let other = |info: &RunInfo| info.waiting.as_ref().is_none_or(|asked| asked.id != before);
        // It was told, in any case.
        drop(tokio::time::timeout(GOES_ON, info.wait_for(other)).await);
    }
    live.info.borrow().clone()
}
