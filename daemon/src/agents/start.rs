//! How an agent's program is started: values that an adapter fills in.
//!
//! **Invariant:** nothing of a prompt goes through a shell or can be taken for an option: it is the standard input.

/// What an agent may do unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// Nothing that changes something.
    Ask,
    /// Edit files.
    Edits,
    /// Everything.
    All,
}

/// What an agent is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task<'a> {
    /// What it is asked.
    pub prompt: &'a str,
    /// The model, unless it is to choose.
    pub model: Option<&'a str>,
    /// What it may do unasked.
    pub approval: Approval,
    /// Whether walls stand around it that are not its own.
    pub is_isolated: bool,
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

/// How a program is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// Looked up in the `PATH`.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Set in its environment, beside what it has.
    pub environment: Vec<(String, String)>,
    /// Its standard input, which ends after it.
    pub input: Vec<u8>,
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
        }
    }
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
