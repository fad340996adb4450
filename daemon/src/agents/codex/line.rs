//! What a line of a rollout says, and which of its values are paths.

use serde::Deserialize;

use super::super::adapter::Base;
use super::super::json::Keys;
use super::super::session::{Seen, is_id};

/// Texts that the program writes for the model in the user's name begin so.
const OF_PROGRAM: [&str; 6] = [
    "<environment_context>",
    "<skills_instructions>",
    "<permissions instructions>",
    "<filesystem>",
    "<user_instructions>",
    "# AGENTS.md instructions for ",
];

/// Members of a payload in which paths stand: working folders, the state of the surroundings, what tools were given and
/// what they answered.
const PATHS: [&[u8]; 20] = [
    b"cwd",
    b"runtime_workspace_roots",
    b"workspace_roots",
    b"state",
    b"thread_settings",
    b"sandbox_policy",
    b"permission_profile",
    b"environments",
    b"arguments",
    b"output",
    b"input",
    b"action",
    b"command",
    b"changes",
    b"parsed_cmd",
    b"stdout",
    b"stderr",
    b"aggregated_output",
    b"formatted_output",
    b"unified_diff",
];

/// Members of an item that are what was said.
const SAID: [&[u8]; 5] = [b"content", b"text", b"summary_text", b"raw_content", b"prompt"];

/// The parts of a line that matter here; everything else may be anything.
#[derive(Deserialize)]
pub(super) struct Line {
    #[serde(rename = "type")]
    kind: String,
    payload: serde_json::Value,
}

/// The first line.
#[derive(Deserialize)]
pub(super) struct Meta {
    pub(super) cwd: String,
    session_id: Option<String>,
    cli_version: Option<String>,
    parent_thread_id: Option<String>,
    thread_source: Option<String>,
    history_base: Option<HistoryBase>,
}

#[derive(Deserialize)]
struct HistoryBase {
    thread_id: String,
    end_byte_offset: Option<u64>,
}

impl Meta {
    /// Whether a user began it, and not another agent.
    pub(super) fn is_of_user(&self, id: &str) -> bool {
        self.session_id.as_deref().is_none_or(|session| session == id)
            && self.parent_thread_id.is_none()
            && self.thread_source.as_deref() != Some("subagent")
    }

    /// Whether one of these began it.
    pub(super) fn belongs_to(&self, ids: &[String]) -> bool {
        [&self.session_id, &self.parent_thread_id].into_iter().flatten().any(|id| ids.contains(id))
    }

    /// What it goes on from.
    pub(super) fn base(&self) -> Option<Base> {
        let base = self.history_base.as_ref().filter(|base| is_id(&base.thread_id))?;
        Some(Base { id: base.thread_id.clone(), offset: base.end_byte_offset.unwrap_or(u64::MAX) })
    }
}

impl Line {
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    pub(super) fn meta(&self) -> Option<Meta> {
        let is_meta = self.kind == "session_meta";
        is_meta.then(|| Meta::deserialize(&self.payload).ok())?
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.payload.get(name)?.as_str()
    }

    /// What the user asked; nothing where it is no message of the user's.
    pub(super) fn prompt(&self) -> Option<String> {
        let text = self.message().filter(|_| self.text("role") == Some("user"))?;
        (!is_of_program(text)).then(|| text.to_owned())
    }

    fn message(&self) -> Option<&str> {
        let is_message = self.kind == "response_item" && self.text("type") == Some("message");
        let content = self.payload.get("content").filter(|_| is_message)?;
        Some(content.get(0)?.get("text")?.as_str().unwrap_or_default())
    }

    fn is_event(&self, name: &str) -> bool {
        self.kind == "event_msg" && self.text("type") == Some(name)
    }
}

fn is_of_program(text: &str) -> bool {
    OF_PROGRAM.iter().any(|begin| text.starts_with(begin))
}

/// Learns from a line that begins at `at`.
pub(super) fn see(seen: &mut Seen, at: u64, bytes: &[u8]) {
    let Some(line) = Line::parse(bytes) else {
        seen.odd_lines += 1;
        return;
    };
    if let Some(version) = line.meta().and_then(|meta| meta.cli_version) {
        seen.version = Some(version);
    }
    let asked = line.prompt().is_some();
    seen.messages += u64::from(asked);
    seen.messages += u64::from(line.text("role") == Some("assistant") && line.message().is_some());
    if line.is_event("task_started") {
        // From the first one on it says where every turn begins.
        seen.before_turn = Some(at);
        seen.last_turn = Some(at);
    } else if asked && seen.before_turn.is_none() {
        seen.last_turn = Some(at);
    }
}

/// Whether the number says where the file ends that a fork goes on from.
pub(super) fn is_offset(keys: &Keys<'_>) -> bool {
    keys == [b"payload".as_slice(), b"history_base", b"end_byte_offset"]
}

/// Whether paths stand there that the agent goes by. What people and the model have said to one another stays as it was said.
pub(super) fn has_paths(keys: &Keys<'_>, text: &[u8]) -> bool {
    let [b"payload", name, rest @ ..] = keys else { return false };
    match (*name, rest) {
        (b"item", [inner, ..]) => !SAID.contains(inner),
        (b"content", [b"*", b"text"]) => {
            OF_PROGRAM.iter().any(|begin| text.starts_with(begin.as_bytes()))
        }
        (name, _) => PATHS.contains(&name),
    }
}
