//! Conversations of coding agents: found where an agent keeps them, carried as they are, and written where the agent
//! of another machine finds them, so that its own resume command goes on.
//!
//! What is stored are the agent's bytes, unchanged: what is tied to a machine is rewritten where it arrives. So a
//! transcript that has grown by a line costs a line when it is handed over again, whoever rewrote it meanwhile.
//!
//! - [`lines`], [`json`], [`paths`]: a stream as lines, and lines with other paths in them
//! - [`origin`]: what is kept of the machine that a conversation comes from
//! - [`session`]: what is known of a session, and the files of one
//! - [`marks`]: which conversation a hook has named
//! - [`told`]: what an agent is to be told of a pull
//! - [`start`]: how a program is started
//! - [`talk`]: what it says while it works, and is told
//! - [`adapter`]: what differs from agent to agent
//! - [`claude`], [`codex`], [`gemini`], [`opencode`]: the agents
//! - [`mirror`]: conversations of a database as files, for those below
//! - [`findings`]: what looks like a secret in a conversation
//! - [`capture`], [`restore`]: from an agent's folder into a store, and from a store into a folder
//! - [`departed`]: out of a folder, so that it can come to another place there
//! - [`ask`]: what a program says of itself
//! - [`import`]: a program takes a conversation in
//!
//! Not here: who asks, and where the folders of agents are; they are arguments. What an agent's program does with a
//! conversation is its own affair: the files are checked against the real programs by hand
//! (`docs/agents.md`), and in the standard tests against what those wrote.
//!
//! **Invariant:** nothing is read or written outside of the folder that is given, and what is there stays: a
//! conversation that differs from the one that arrives is kept beside it.

mod lines;
mod json;
pub mod paths;
pub mod origin;
pub mod session;
pub mod marks;
pub mod told;
pub mod start;
pub mod talk;
pub mod adapter;
pub mod claude;
pub mod codex;
pub mod gemini;
pub mod opencode;
mod mirror;
pub mod findings;
pub mod capture;
pub mod restore;
pub mod departed;
pub mod ask;
pub mod import;
#[cfg(test)]
mod conformance;

use adapter::Agent;

/// Every agent whose conversations travel, in the order in which they are asked.
pub const ALL: [&dyn Agent; 4] =
    [&claude::Claude, &codex::Codex, &gemini::Gemini, &opencode::OpenCode];

/// The agent of this name.
pub fn named(name: &str) -> Option<&'static dyn Agent> {
    ALL.into_iter().find(|agent| agent.name() == name)
}
