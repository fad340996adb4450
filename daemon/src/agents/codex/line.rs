//! What a line of a rollout says, and which of its values are paths.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::super::adapter::Base;
use super::super::json::Keys;
use super::super::session::{Seen, is_handoff, is_id};

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

/// Items with which tools are called, and what answers these.
const CALLS: [&str; 3] = ["function_call", "custom_tool_call", "local_shell_call"];
const ANSWERS: [&str; 3] =
    ["function_call_output", "custom_tool_call_output", "local_shell_call_output"];

/// Events with which a turn ends.
const ENDS: [&str; 2] = ["task_complete", "turn_aborted"];

/// Members of an item that are what was said.
const SAID: [&[u8]; 5] = [b"content", b"text", b"summary_text", b"raw_content", b"prompt"];

/// The parts of a line that matter here; everything else may be anything.
#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// A line.
pub(super) struct Line<'a> {
    kind: Cow<'a, str>,
    raw: &'a RawValue,
    payload: Payload<'a>,
}

#[derive(Default, Deserialize)]
struct Payload<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    role: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    call_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    /// The server of tools that the name belongs to.
    #[serde(borrow)]
    namespace: Option<Cow<'a, str>>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    action: Option<&'a RawValue>,
}

/// The text of the first item of a list, whatever the others are.
struct First(Option<String>);

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Item {
            text: Option<String>,
        }
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = First;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("what was said")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<First, A::Error> {
                let first = items.next_element::<Item>()?;
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(First(first.and_then(|item| item.text)))
            }
        }
        from.deserialize_seq(Items)
    }
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

    /// Whether this one began it.
    pub(super) fn belongs_to(&self, id: &str) -> bool {
        [&self.session_id, &self.parent_thread_id].into_iter().flatten().any(|it| it == id)
    }

    /// What it goes on from.
    pub(super) fn base(&self) -> Option<Base> {
        let base = self.history_base.as_ref().filter(|base| is_id(&base.thread_id))?;
        Some(Base { id: base.thread_id.clone(), offset: base.end_byte_offset.unwrap_or(u64::MAX) })
    }
}

impl<'a> Line<'a> {
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let Parts { kind, payload: raw } = serde_json::from_slice(line).ok()?;
        let payload = serde_json::from_str(raw.get()).unwrap_or_default();
        Some(Self { kind, raw, payload })
    }

    pub(super) fn meta(&self) -> Option<Meta> {
        let is_meta = self.kind == "session_meta";
        is_meta.then(|| serde_json::from_str(self.raw.get()).ok())?
    }

    /// What the user asked; nothing where it is no message of the user's.
    pub(super) fn prompt(&self) -> Option<String> {
        let is_user = self.payload.role.as_deref() == Some("user");
        let text = self.message().filter(|_| is_user)?;
        (!is_of_program(&text)).then_some(text)
    }

    fn message(&self) -> Option<String> {
        let content = self.payload.content.filter(|_| self.is_item("message"))?;
        serde_json::from_str::<First>(content.get()).ok()?.0
    }

    fn is_item(&self, name: &str) -> bool {
        self.kind == "response_item" && self.payload.kind.as_deref() == Some(name)
    }

    fn is_event(&self, name: &str) -> bool {
        self.kind == "event_msg" && self.payload.kind.as_deref() == Some(name)
    }

    /// Which call asks for a handoff, and which was answered.
    fn calls(&self) -> (Option<String>, Option<String>) {
        let Payload { call_id, name, namespace, arguments, input, action, .. } = &self.payload;
        let Some(id) = call_id.as_deref().map(str::to_owned) else { return (None, None) };
        if CALLS.iter().any(|name| self.is_item(name)) {
            let given =
                [arguments, input, action].into_iter().copied().flatten().map(RawValue::get);
            let name = [namespace, name].map(|it| it.as_deref().unwrap_or_default()).join("/");
            let asks = is_handoff(Some(&name), None)
                || given.into_iter().any(|given| is_handoff(None, Some(given)));
            return (Some(id).filter(|_| asks), None);
        }
        (None, Some(id).filter(|_| ANSWERS.iter().any(|name| self.is_item(name))))
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
    let is_agent = line.payload.role.as_deref() == Some("assistant");
    seen.messages += u64::from(asked || (is_agent && line.message().is_some()));
    if line.is_event("task_started") {
        // From the first one on it says where every turn begins.
        seen.before_turn = Some(at);
        seen.turn(at);
    } else if asked && seen.before_turn.is_none() {
        seen.turn(at);
    } else if ENDS.iter().any(|name| line.is_event(name)) {
        seen.end_turn();
    }
    let (asking, answered) = line.calls();
    seen.calls(asking.into_iter().collect(), answered.as_slice());
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
