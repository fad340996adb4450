//! What is answered to what.

use super::Api;
use super::heard::{Heard, Turn};

/// What the model does. Paths are from the working folder that the request tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Words, with which its turn ends.
    Say(String),
    /// Tells what the request holds; see [`super::History`]. Its turn ends.
    History,
    /// Writes a file, by the tool that is for it.
    Write { path: String, text: String },
    /// Replaces text in a file, by the tool that is for it.
    Edit { path: String, from: String, to: String },
    /// Reads a file, which may be an image.
    Read(String),
    /// Runs a command.
    Shell(String),
    /// Gives a task to another agent.
    Delegate(String),
    /// Calls a tool of Baton's server, as its commands say: what the user typed behind the command is this argument of it.
    Pass { tool: String, argument: String },
    /// Waits for that one. Only where giving the task does not; elsewhere there is no such step.
    Await,
}

impl Step {
    pub(crate) fn say(words: &str) -> Self {
        Self::Say(words.to_owned())
    }

    pub(crate) fn write(path: &str, text: &str) -> Self {
        Self::Write { path: path.to_owned(), text: text.to_owned() }
    }

    pub(crate) fn edit(path: &str, from: &str, to: &str) -> Self {
        Self::Edit { path: path.to_owned(), from: from.to_owned(), to: to.to_owned() }
    }

    pub(crate) fn shell(command: &str) -> Self {
        Self::Shell(command.to_owned())
    }

    pub(crate) fn pass(tool: &str, argument: &str) -> Self {
        Self::Pass { tool: tool.to_owned(), argument: argument.to_owned() }
    }

    pub(crate) fn delegate(task: &str) -> Self {
        Self::Delegate(task.to_owned())
    }
}

#[derive(Debug, Default)]
pub(super) struct Script {
    rules: Vec<(String, Vec<Step>)>,
}

impl Script {
    pub(super) fn on(&mut self, words: &str, steps: &[Step]) {
        self.rules.retain(|(known, _)| known != words);
        self.rules.push((words.to_owned(), steps.to_vec()));
    }

    /// The step that comes now; nothing where nobody said anything that is known.
    pub(super) fn next(&self, heard: &Heard, api: Api) -> Option<Step> {
        let rule = |turn: &Turn| match turn {
            Turn::User(text) => self.rules.iter().rev().find(|(words, _)| text.contains(words)),
            _ => None,
        };
        let (at, (_, steps)) = heard
            .turns
            .iter()
            .enumerate()
            .rev()
            .find_map(|(at, turn)| rule(turn).map(|rule| (at, rule)))?;
        let done = heard.turns[at..].iter().filter(|turn| matches!(turn, Turn::Result(_))).count();
        let mut steps = steps.iter().filter(|&step| *step != Step::Await || api == Api::Responses);
        Some(steps.nth(done).cloned().unwrap_or_else(|| Step::say("done")))
    }
}
