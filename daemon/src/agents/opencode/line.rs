//! What a line of a transcript says, and which of its values are paths.
//!
//! The first line has what does not change of a session; each other one is a message with its parts. A part that calls a tool
//! has what the tool was given, and what came of it when it has ended.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::adapter::Target;
use super::super::json::Keys;
use super::super::session::{Seen, is_handoff};
use super::{LEAST, MESSAGE, MOST, PART, SESSION, TIME, is_id_of};

/// Begins what the program itself puts into a message of the user's, with the path of a file.
const OF_PROGRAM: [&str; 2] = ["Called the ", "<path>"];

/// The parts of a line that matter here; everything else may be anything.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    info: Info<'a>,
    #[serde(borrow, default)]
    parts: Option<Vec<Part<'a>>>,
}

#[derive(Deserialize)]
struct Info<'a> {
    #[serde(borrow)]
    role: Option<Cow<'a, str>>,
    version: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    synthetic: Option<bool>,
    #[serde(borrow)]
    tool: Option<Cow<'a, str>>,
    #[serde(rename = "callID")]
    call: Option<String>,
    #[serde(borrow)]
    state: Option<State<'a>>,
}

#[derive(Deserialize)]
struct State<'a> {
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

impl Part<'_> {
    fn is(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }

    fn has_words(&self) -> bool {
        self.is("text")
            && self.synthetic != Some(true)
            && self.text.as_deref().is_some_and(|text| !text.trim().is_empty())
    }
}

/// Learns from a line that begins at `at`.
pub(super) fn see(seen: &mut Seen, at: u64, bytes: &[u8]) {
    let Ok(line) = serde_json::from_slice::<Line<'_>>(bytes) else {
        seen.odd_lines += 1;
        return;
    };
    let Some(parts) = line.parts else {
        seen.version = line.info.version.or_else(|| seen.version.take());
        return;
    };
    let has_words = parts.iter().any(Part::has_words);
    match line.info.role.as_deref() {
        Some("user") if has_words || parts.iter().any(|part| part.is("file")) => {
            seen.messages += 1;
            // Before the first one there is nothing that was said.
            seen.turn(if seen.last_turn.is_none() { 0 } else { at });
        }
        Some("assistant") if has_words => seen.messages += 1,
        _ => {}
    }
    let (mut asking, mut answered) = (Vec::new(), Vec::new());
    for part in parts {
        let (Some(call), Some(state)) = (part.call, part.state) else { continue };
        let input = state.input.map(RawValue::get);
        match state.status.as_deref() {
            Some("completed" | "error") => answered.push(call),
            _ if is_handoff(part.tool.as_deref(), input) || is_handoff(None, input) => {
                asking.push(call);
            }
            _ => {}
        }
    }
    seen.calls(asking, &answered);
}

/// Whether paths stand there that the agent goes by. What people and the model have said to one another stays as it was said.
pub(super) fn has_paths(keys: &Keys<'_>, text: &[u8]) -> bool {
    match keys {
        [b"info", b"directory" | b"path", ..]
        | [b"parts", b"*", b"state" | b"source" | b"files", ..]
        | [b"parts", b"*", b"url" | b"filename"] => true,
        [b"parts", b"*", b"text"] => OF_PROGRAM.iter().any(|it| text.starts_with(it.as_bytes())),
        _ => false,
    }
}

/// A text with the ids of a fork: of messages and parts, where it is nothing but one, and of sessions that come along,
/// wherever they stand but in what was said.
pub(super) fn renamed(keys: &Keys<'_>, text: &str, to: &Target) -> Option<String> {
    if to.ids.is_empty() {
        return None;
    }
    let kind = [MESSAGE, PART].into_iter().find(|kind| is_id_of(kind, text));
    if let Some(kind) = kind {
        return Some(fresh(kind, text, &to.id));
    }
    if matches!(keys, [b"parts", b"*", b"text"]) || !text.contains(SESSION) {
        return None;
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(SESSION) {
        let (before, found) = rest.split_at(at);
        let is_of_id = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = found.find(|c: char| !is_of_id(c)).unwrap_or(found.len());
        let (id, after) = found.split_at(end);
        out.push_str(before);
        out.push_str(to.id(id));
        rest = after;
    }
    out.push_str(rest);
    (out != text).then_some(out)
}

/// The id that a message or part has in another session: another one for each of them, in the same order.
fn fresh(kind: &str, id: &str, session: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, format!("{session} {id}").as_bytes());
    let mut digits = data_encoding::HEXLOWER.encode(digest.as_ref());
    digits.truncate(LEAST.max(26 - TIME));
    let time: String = id.chars().skip(kind.len()).take(TIME).collect();
    debug_assert!(digits.len() + TIME <= MOST);
    format!("{kind}{time}{digits}")
}
