//! What is said to live runs of nodes, what they have done so far, and taking runs away.

use std::sync::Arc;

use baton_protocol::message::{Request, RunInfo, RunState};

use super::Daemon;
use super::failure::Fail;
use super::remotes::Target;
use crate::api::control::{Answer, CancelAnswer, RunCall, SaidAnswer};
use crate::api::socket::EventSender;

impl Daemon {
    pub(super) async fn run_call(
        self: &Arc<Self>,
        call: RunCall,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        match call {
            RunCall::Say { run, text, end } => {
                self.tell_run(&run, events, |run| Request::SayRun { run, text, end }).await
            }
            RunCall::Answer { run, question, answer } => {
                let ask = |run| Request::AnswerRun { run, question, answer };
                self.tell_run(&run, events, ask).await
            }
            RunCall::Delete { run } => self.run_delete(&run, events).await,
            RunCall::Diff { run, other, patch } => self.run_diff(&run, other, patch, events).await,
        }
    }

    /// Says something to a run. Nothing waits in the queue: it is for the program that is at work now.
    async fn tell_run(
        self: &Arc<Self>,
        run: &str,
        events: &EventSender,
        request: impl FnOnce(baton_protocol::id::RunId) -> Request,
    ) -> Result<Answer, Fail> {
        let (target, info) = self.find_run(run, events).await?;
        let id = info.spec.run;
        let short = id.short();
        if info.state.is_final() {
            let what = format!("run {short} has ended: it is {}", info.state.name());
            return Err(Fail::new("run-ended", what)
                .hint(format!("baton follow-up {short} -p PROMPT"))
                .exit(4));
        }
        let told = self.run_request(&target, request(id)).await;
        let info = told.map_err(|fail| match fail.0.code.as_str() {
            "conflict" => fail.hint(format!("baton run show {short}")),
            "busy" => {
                fail.hint(format!("try again soon; baton logs {short} -f shows what it does"))
            }
            _ => fail,
        })?;
        self.remember(&target, &info).await?;
        let state = info.state.name().to_owned();
        Ok(Answer::Said(SaidAnswer { run: id.to_string(), delivered: true, state }))
    }

    pub(super) async fn run_delete(
        self: &Arc<Self>,
        run: &str,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let (target, info) = self.find_run(run, events).await?;
        let (id, node) = (info.spec.run, target.remote.node);
        let short = id.short();
        let live = |state: RunState| {
            let what = format!("run {short} has not ended: it is {}", state.name());
            Fail::new("run-live", what).hint(format!("baton run cancel {short}")).exit(4)
        };
        if !info.state.is_final() {
            return Err(live(info.state));
        }
        match self.run_request(&target, Request::DeleteRun(id)).await {
            Ok(_) => {}
            // An answer was lost on its way, or somebody else was faster.
            Err(fail) if fail.0.code == "not-found" => {}
            Err(fail) => return Err(fail),
        }
        self.blocking("forget", move |daemon| Ok(daemon.catalog.forget_run(node, id)?)).await?;
        let state = "deleted".to_owned();
        Ok(Answer::Cancel(CancelAnswer { run: id.to_string(), state }))
    }

    /// A run with what it has done by now, where it is at work.
    pub(super) async fn up_to_now(
        self: &Arc<Self>,
        target: &Target,
        info: RunInfo,
        events: &EventSender,
    ) -> Result<RunInfo, Fail> {
        if !matches!(info.state, RunState::Running | RunState::Waiting) {
            return Ok(info);
        }
        let id = info.spec.run;
        let info = self.run_request(target, Request::KeepRun(id)).await?;
        self.remember(target, &info).await?;
        if !info.state.is_final() {
            let short = id.short();
            events.note(format!("run {short} is at work: this is what it has done so far")).await;
        }
        Ok(info)
    }
}
