//! The agent of a run: which conversation it goes on with, how its program is started, and what it is told.
//!
//! **Invariant:** an agent goes on with the whole conversation that came with its snapshot, or is not started.

use std::ffi::OsString;
use std::fmt::Write as _;

use baton_protocol::message::RunSpec;
use baton_store::fs;

use super::attend::Attention;
use super::checkout::{CheckoutError, Conversed};
use super::environment::{Variables, arguments};
use super::refused::{PLAIN_AGENT, SpecError};
use super::{Live, RunOptions, Runs};
use crate::agents;
use crate::agents::adapter::Agent;
use crate::agents::start::{Start, Task, Told};

/// Stands for the prompt among the arguments of an agent that the node's owner has set up.
const PROMPT: &str = "{prompt}";

/// Of what is missing, so much is named.
const NAMED: usize = 20;

/// What a program reads, and who understands it.
#[derive(Debug)]
pub(super) struct Speaks {
    /// Nobody where it has no words of its own.
    pub(super) agent: Option<&'static dyn Agent>,
    /// What it reads first.
    pub(super) input: Vec<u8>,
    /// Whether it is told more after that.
    pub(super) stays_open: bool,
}

/// What a run starts.
pub(super) struct Program {
    /// The program and its arguments.
    pub(super) words: Vec<OsString>,
    pub(super) attention: Attention,
}

impl RunOptions {
    /// Refuses a run whose agent this node does not know, or that does not say what is to be done.
    pub(super) fn check_agent(&self, spec: &RunSpec) -> Result<(), SpecError> {
        if spec.agent == PLAIN_AGENT {
            return Ok(());
        }
        let is_set_up = self.agents.get(&spec.agent).is_some_and(|it| it.program.name.is_some());
        if agents::named(&spec.agent).is_none() && !is_set_up {
            return Err(SpecError::Agent(spec.agent.chars().take(80).collect()));
        }
        if spec.prompt.as_deref().is_none_or(|prompt| prompt.trim().is_empty()) {
            return Err(SpecError::NoPrompt(spec.agent.clone()));
        }
        Ok(())
    }
}

impl Runs {
    /// Has the conversation of a run's snapshot where its agent finds it; and writes what it is told of where it is. Blocks.
    /// Says what people are to know of it.
    pub(super) fn converse(
        &self,
        live: &Live,
        receipt: &serde_json::Value,
    ) -> Result<Option<String>, CheckoutError> {
        let spec = &live.spec;
        let Some(agent) = agents::named(&spec.agent) else { return Ok(None) };
        let is_fork = self.is_fork(spec, &live.user);
        let conversed = self.0.parts.checkouts.converse(&live.place(), spec.snapshot, is_fork)?;
        let told = told(live, receipt, conversed.as_ref());
        let written = fs::write_whole(&live.folders.told(), Told::hook(&told).as_bytes(), 0o644);
        written.map_err(|source| CheckoutError {
            doing: "writing what its agent is told",
            source: Box::new(source),
        })?;
        drop(live.told.set(told));
        let Some(conversed) = conversed else { return Ok(None) };
        let mut note = format!("conversation {} of {}", conversed.id, agent.title());
        if !conversed.left_out.is_empty() {
            let _ = write!(note, ", without {}", few(&conversed.left_out));
        }
        // A run is prepared once.
        drop(live.resumes.set(conversed.id.clone()));
        drop(live.imports.set(conversed.imports));
        drop(live.conversation.set(conversed.id));
        Ok(Some(note))
    }

    /// Whether what the run says is another conversation than the one that it goes on from.
    fn is_fork(&self, spec: &RunSpec, user: &str) -> bool {
        let Some(parent) = spec.parent else { return true };
        let row = self.0.parts.catalog.run(user, parent).ok().flatten();
        row.is_some_and(|row| row.info.spec.thread != spec.thread)
    }

    /// What a run starts.
    pub(super) fn program(&self, live: &Live) -> Program {
        let (spec, options) = (&live.spec, self.0.options.agent(&live.spec.agent));
        let prompt = spec.prompt.as_deref().unwrap_or_default();
        let speaks = |agent, input, stays_open| {
            drop(live.speaks.set(Speaks { agent, input, stays_open }));
        };
        let Some(agent) = agents::named(&spec.agent) else {
            let Some(name) = options.program.name.filter(|_| spec.agent != PLAIN_AGENT) else {
                return Program { words: arguments(spec), attention: Attention::Whole };
            };
            let given = options.program.arguments;
            let has_place = given.iter().any(|argument| argument == PROMPT);
            let fill = |it: String| if it == PROMPT { prompt.to_owned() } else { it };
            let words = std::iter::once(name).chain(given.into_iter().map(fill));
            let input = if has_place { Vec::new() } else { prompt.as_bytes().to_vec() };
            speaks(None, input, false);
            let words = words.map(OsString::from).collect();
            return Program { words, attention: Attention::Agent };
        };
        let isolated = self.0.parts.room.isolated();
        let (id, file) = (fresh(spec), live.folders.told());
        let start =
            live.resumes.get().map_or(Start::New { id: Some(&id) }, |id| Start::Resume { id });
        let task = Task {
            prompt,
            model: spec.terms.model.as_deref(),
            approval: options.program.may(spec.terms.permissions, isolated),
            is_isolated: isolated,
            is_heard: spec.terms.input.unwrap_or(options.input),
            told: live.told.get().map(|text| Told { text, file: &file }),
        };
        let invocation = agent.start(&start, &task);
        speaks(Some(agent), invocation.input, invocation.stays_open);
        let variables = invocation.environment.into_iter();
        let variables = variables.map(|(name, value)| (name.into(), value.into())).collect();
        drop(live.variables.set(variables));
        let name = options.program.name.unwrap_or(invocation.program);
        let words = std::iter::once(name).chain(invocation.arguments);
        let words = words.chain(options.program.arguments).collect();
        let documents: Vec<_> = live.imports.get().into_iter().flatten().collect();
        let words = match agent.kept().filter(|_| !documents.is_empty()) {
            Some(kept) => {
                // A home of a run that is no UTF-8 has none.
                let named = documents.iter().filter_map(|file| file.to_str());
                kept.imports_first(&named.map(str::to_owned).collect::<Vec<_>>(), words)
            }
            None => words,
        };
        let words = words.into_iter().map(OsString::from).collect();
        Program { words, attention: Attention::Agent }
    }

    /// Variables that come with the agent of a run, whatever is started there.
    pub(super) fn variables_of_agent(&self, live: &Live) -> Variables {
        let mut all = self.0.options.agent(&live.spec.agent).program.variables;
        if let Some(agent) = agents::named(&live.spec.agent) {
            // Its folder is in the home of the run.
            all.retain(|(name, _)| name != agent.folder_variable());
        }
        all.extend(live.variables.get().cloned().unwrap_or_default());
        all
    }
}

/// An id for a conversation that begins with a run: another one for each.
fn fresh(spec: &RunSpec) -> String {
    let digits = spec.run.to_string();
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    // RFC 9562, version 4.
    let parts = [part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32)];
    let [a, b, c, d, e] = parts;
    format!("{a}-{b}-4{c}-8{d}-{e}")
}

/// What an agent is told of where it is.
fn told(live: &Live, receipt: &serde_json::Value, conversed: Option<&Conversed>) -> String {
    let checkout = live.folders.checkout();
    let mut text = format!(
        "You are at work in run {} of Baton, on another machine than the user's. {} has the workspace as it was handed over",
        live.run.short(),
        checkout.display()
    );
    match conversed.and_then(|conversed| conversed.from.as_ref()) {
        Some(from) if *from != checkout => {
            let _ = write!(text, "; before, this conversation was held in {}.", from.display());
        }
        _ => text.push('.'),
    }
    let omitted = receipt.get("omitted").and_then(serde_json::Value::as_array);
    let named = |it: &serde_json::Value| {
        let part = |name| it.get(name).and_then(serde_json::Value::as_str);
        Some(format!("{} ({})", part("path")?, part("reason")?))
    };
    let omitted: Vec<_> = omitted.into_iter().flatten().filter_map(named).collect();
    if !omitted.is_empty() {
        let _ = write!(text, " Not carried, and so not there: {}.", few(&omitted));
    }
    let attached = receipt.get("attachments").and_then(serde_json::Value::as_array);
    if attached.is_some_and(|all| !all.is_empty()) {
        let _ = write!(text, " Attached files are in {}.", live.folders.attachments().display());
    }
    text.push_str(" What you leave in the workspace is the result of the run.");
    text
}

fn few(all: &[String]) -> String {
    let named = all.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
