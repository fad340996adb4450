//! What a line of a transcript of Claude Code says, and which of its values are paths.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::json::Keys;
use super::super::session::Seen;

/// The parts of a line that matter here; everything else may be anything.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) cwd: Option<Cow<'a, str>>,
    #[serde(borrow)]
    version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    slug: Option<Cow<'a, str>>,
    #[serde(default)]
    is_sidechain: bool,
    #[serde(default)]
    is_meta: bool,
    #[serde(default)]
    is_compact_summary: bool,
    #[serde(borrow)]
    message: Option<Message<'a>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<String>,
}

impl<'a> Line<'a> {
    /// Nothing where it is no JSON object, or one with other meanings of these names.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// What the user asked; nothing where it is no turn of the user's.
    pub(super) fn prompt(&self) -> Option<String> {
        let is_turn = self.kind.as_deref() == Some("user")
            && !self.is_sidechain
            && !self.is_meta
            && !self.is_compact_summary;
        let content = self.message.as_ref().filter(|_| is_turn)?.content?.get();
        let text = if content.starts_with('"') {
            serde_json::from_str::<String>(content).ok()?
        } else {
            let blocks: Vec<Block> = serde_json::from_str(content).ok()?;
            if blocks.iter().any(|block| block.kind.as_deref() == Some("tool_result")) {
                return None;
            }
            blocks.into_iter().filter_map(|block| block.text).collect::<Vec<_>>().join(" ")
        };
        // What a command of the program itself printed.
        (!text.starts_with("<local-command-")).then_some(text)
    }

    fn is_message(&self) -> bool {
        !self.is_sidechain && matches!(self.kind.as_deref(), Some("user" | "assistant"))
    }
}

/// Learns from a line that begins at `at`.
pub(super) fn see(seen: &mut Seen, at: u64, bytes: &[u8]) {
    let Some(line) = Line::parse(bytes) else {
        seen.odd_lines += 1;
        return;
    };
    if let Some(version) = &line.version {
        seen.version = Some(version.clone().into_owned());
    }
    if let Some(slug) = line.slug.as_deref().filter(|slug| is_plan(slug)) {
        seen.plans.insert(slug.to_owned());
    }
    seen.messages += u64::from(line.is_message());
    // What was typed is queued before it is a turn, and files are noted before it.
    if matches!(line.kind.as_deref(), Some("queue-operation" | "file-history-snapshot")) {
        seen.before_turn.get_or_insert(at);
        return;
    }
    let before = seen.before_turn.take();
    if line.prompt().is_some() {
        seen.last_turn = Some(before.unwrap_or(at));
    }
}

/// Whether it may be the name of a plan: words, and nothing that leads elsewhere.
pub(super) fn is_plan(name: &str) -> bool {
    (1..=200).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// Whether paths stand there that the agent goes by: its working folder, what tools were given and what they answered,
/// and what the program itself has written. What people and the model have said to one another stays as it was said,
/// and so does the record of requests.
pub(super) fn has_paths(keys: &Keys<'_>) -> bool {
    let was_said = matches!(keys, [b"attachment", b"prompt", ..]);
    let has_paths = matches!(
        keys,
        [b"cwd"]
            | [b"toolUseResult" | b"rendered" | b"snapshot" | b"attachment", ..]
            | [b"message", b"content", b"*", b"input" | b"content", ..]
    );
    has_paths && !was_said
}
