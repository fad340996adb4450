//! Agents and their conversations, as the command line names them.

#![expect(missing_docs, reason = "the fields are those of the command-line contract")]

use baton_protocol::message::Permissions;
use serde::{Deserialize, Serialize};

use super::receipt::Bytes;

/// Where agents keep what is theirs: of the command that asks, not of the daemon that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFolders {
    /// The home of the user.
    pub home: Option<Bytes>,
    /// The folder of each agent that has one.
    pub folders: Vec<AgentFolder>,
}

/// The folder of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFolder {
    pub agent: String,
    /// Absolute; it need not exist.
    pub path: Bytes,
}

/// Which conversation travels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConversationChoice {
    /// Nothing was said: as `Auto` where an agent can go on with it, and none where a command runs.
    #[default]
    Unsaid,
    /// The only one of the workspace, or of several the one that a hook has named; otherwise several are an error.
    Auto,
    /// None.
    None,
    /// This one.
    Id(String),
}

/// `agent list`, `agent check`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentsAnswer {
    pub agents: Vec<AgentEntry>,
}

/// An agent of this machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentEntry {
    pub agent: String,
    pub title: String,
    /// Where its program is; null where it is not installed.
    pub program: Option<String>,
    pub version: Option<String>,
    /// Whether somebody is logged in; null where nobody knows.
    pub logged_in: Option<bool>,
    /// How, or what to do about it.
    pub detail: Option<String>,
    pub folder: Option<String>,
    /// Those of the workspace, the newest first.
    pub conversations: Vec<ConversationEntry>,
    /// What `agent setup` has put into its folder; null where that is not known.
    #[serde(default)]
    pub setup: Option<SetupEntry>,
    /// Milliseconds in which it did a turn here; null where that was not tried.
    #[serde(default)]
    pub turn_ms: Option<f64>,
    /// How it stands on the node; null where nobody was asked, or could be.
    #[serde(default)]
    pub there: Option<NodeAgent>,
}

/// Which agents of a node are asked about.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeAgentsCall {
    pub agents: Vec<String>,
    /// Which node; the default one unless said.
    pub remote: Option<String>,
    /// Whether their models are asked, too.
    pub turn: bool,
}

/// How an agent stands on a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeAgent {
    pub agent: String,
    pub remote: String,
    /// What its program says that it is; null where that is not known.
    pub version: Option<String>,
    /// How somebody is logged in; null where that is not known.
    pub login: Option<String>,
    /// What it may do unasked: `ask`, `edits` or `all`.
    pub permissions: Permissions,
    /// Why a run cannot have it; null where it can.
    pub problem: Option<String>,
    /// What to do about that.
    pub fix: Option<String>,
    /// Milliseconds in which it did a turn in a room, all else included; null where that was not tried.
    #[serde(default)]
    pub turn_ms: Option<f64>,
}

/// What of Baton is in an agent's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupEntry {
    /// Hooks that name the session and snapshot at each stop.
    pub hooks: bool,
    /// `/handoff` and `/continue-locally`.
    pub commands: bool,
    /// The tools of `baton mcp`.
    pub mcp: bool,
    /// Files that were changed, made or taken away just now.
    pub changed: Vec<String>,
    /// What is left to the user: what they have to allow first, and what of theirs is in the way.
    pub notes: Vec<String>,
}

/// A conversation of a workspace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConversationEntry {
    pub conversation: String,
    pub cwd: String,
    pub title: String,
    pub modified_at: String,
}
