//! What a line of a transcript of Claude Code says, and which of its values are paths.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::super::json::Keys;
use super::super::session::{MOST_CALLS, Seen, is_handoff};

/// Characters of what was asked that are kept.
const MAX_TEXT: usize = 4096;

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

/// What the blocks of a message say, whatever their number.
#[derive(Debug, Default)]
struct Content {
    /// The beginning of what was written.
    text: String,
    /// Whether a tool has answered.
    is_answer: bool,
    /// Calls that ask for a handoff.
    asking: Vec<String>,
    /// Calls that were answered.
    answered: Vec<String>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    tool_use_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

impl Content {
    fn add(&mut self, block: &Block<'_>) {
        let kind = block.kind.as_deref();
        if kind == Some("tool_use")
            && is_handoff(block.name.as_deref(), block.input.map(RawValue::get))
            && self.asking.len() < MOST_CALLS
        {
            self.asking.extend(block.id.as_deref().map(str::to_owned));
        }
        if kind == Some("tool_result") {
            self.is_answer = true;
            if self.answered.len() < MOST_CALLS {
                self.answered.extend(block.tool_use_id.as_deref().map(str::to_owned));
            }
        }
        if let Some(text) = block.text.as_deref().filter(|_| self.text.len() < MAX_TEXT) {
            let gap = if self.text.is_empty() { "" } else { " " };
            self.text.push_str(gap);
            self.text.extend(text.chars().take(MAX_TEXT));
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Blocks;
        impl<'de> Visitor<'de> for Blocks {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("what was said")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                let text = text.chars().take(MAX_TEXT).collect();
                Ok(Content { text, ..Content::default() })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut blocks: A) -> Result<Content, A::Error> {
                let mut content = Content::default();
                while let Some(block) = blocks.next_element::<Block<'de>>()? {
                    content.add(&block);
                }
                Ok(content)
            }
        }
        from.deserialize_any(Blocks)
    }
}

impl<'a> Line<'a> {
    /// Nothing where it is no JSON object, or one with other meanings of these names.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    fn content(&self) -> Option<Content> {
        serde_json::from_str(self.message.as_ref()?.content?.get()).ok()
    }

    /// What the user asked; nothing where it is no turn of the user's.
    pub(super) fn prompt(&self) -> Option<String> {
        self.prompt_of(self.content()?)
    }

    fn prompt_of(&self, content: Content) -> Option<String> {
        let is_turn = self.kind.as_deref() == Some("user")
            && !self.is_sidechain
            && !self.is_meta
            && !self.is_compact_summary
            && !content.is_answer;
        // What a command of the program itself printed is none either.
        (is_turn && !content.text.starts_with("<local-command-")).then_some(content.text)
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
    let Some(mut content) = line.content().filter(|_| !line.is_sidechain) else { return };
    let asking = std::mem::take(&mut content.asking);
    let answered = std::mem::take(&mut content.answered);
    if line.prompt_of(content).is_some() {
        seen.turn(before.unwrap_or(at));
    }
    seen.calls(asking, &answered);
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
