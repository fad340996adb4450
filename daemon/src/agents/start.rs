//! How an agent's program is started: values that an adapter fills in.
//!
//! **Invariant:** nothing of a prompt goes through a shell or can be taken for an option: it is the standard input.

use std::path::Path;

use baton_protocol::message::Permissions;

/// What an agent is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task<'a> {
    /// What it is asked.
    pub prompt: &'a str,
    /// The model, unless it is to choose.
    pub model: Option<&'a str>,
    /// What it may do unasked.
    pub approval: Permissions,
    /// Whether walls stand around it that are not its own.
    pub is_isolated: bool,
    /// Whether somebody is there to answer what it asks, and to say more.
    pub is_heard: bool,
    /// What it is to know beside what it is asked.
    pub told: Option<Told<'a>>,
}

impl Task<'_> {
    /// What it is asked, and behind that what else it is to know: for an agent that has no other place for it.
    pub(super) fn words(&self) -> String {
        match self.told {
            Some(told) => format!("{}\n\n{}", self.prompt, told.text),
            None => self.prompt.to_owned(),
        }
    }
}

/// What an agent is to know of where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told<'a> {
    /// It.
    pub text: &'a str,
    /// A file that has it in the form in which hooks of the agents say something: [`Told::hook`].
    pub file: &'a Path,
}

impl Told<'_> {
    /// What that file has.
    pub fn hook(text: &str) -> String {
        let told = serde_json::json!({
            "hookSpecificOutput": {"hookEventName": "SessionStart", "additionalContext": text}
        });
        format!("{told}\n")
    }
}

/// With which conversation. A fork has a new id before its agent is started ([`super::restore`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start<'a> {
    /// A new one.
    New {
        /// Its id, where the agent lets others choose.
        id: Option<&'a str>,
    },
    /// One that is there.
    Resume {
        /// Which.
        id: &'a str,
    },
}

/// How a turn is tried, of which nothing is to be kept and whose model either answers or does not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trial {
    /// Arguments beside those of a turn.
    pub arguments: &'static [&'static str],
    /// Variables beside those of a turn.
    pub environment: &'static [(&'static str, &'static str)],
}

impl Trial {
    /// Makes a turn one that is tried; `more` are arguments that stand behind those of the agent.
    pub fn apply(&self, invocation: &mut Invocation, more: &[String]) {
        let owned = |text: &&str| (*text).to_owned();
        invocation.arguments.extend(more.iter().cloned());
        invocation.arguments.extend(self.arguments.iter().map(owned));
        let pairs = self.environment.iter().map(|(name, value)| (owned(name), owned(value)));
        invocation.environment.extend(pairs);
    }
}

/// How a program is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// Looked up in the `PATH`.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Set in its environment, beside what it has.
    pub environment: Vec<(String, String)>,
    /// What comes on its standard input first.
    pub input: Vec<u8>,
    /// Whether that stays open for more.
    pub stays_open: bool,
}

impl Invocation {
    pub(super) fn new(
        program: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
        input: &str,
    ) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self {
            program: program.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            environment: environment.iter().map(owned).collect(),
            input: input.as_bytes().to_vec(),
            stays_open: false,
        }
    }
}

/// A version, where a program says nothing else: `0.61.0`.
pub(super) fn bare_version(output: &str) -> Option<String> {
    let version = output.trim();
    let is_version = version.starts_with(|c: char| c.is_ascii_digit())
        && version.contains('.')
        && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-+".contains(&byte));
    is_version.then(|| version.to_owned())
}

/// Whether a program can work for somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// With what.
    Yes(String),
    /// What to do about it.
    No(String),
    /// It cannot be asked.
    Unknown,
}
