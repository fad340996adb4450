//! What a line of a transcript says, and which of its values are paths.
//!
//! A line is a message, or changes what was said of the conversation (`$set`), among that all of its messages. A message
//! of the model that calls tools comes again, with the calls and what they answered, when they have.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::json::Keys;
use super::super::session::{Seen, is_handoff};

/// Texts in the user's name that the program takes for none of the user's begin so.
const NO_PROMPTS: [&str; 4] = ["/", "?", OF_PROGRAM, "<hook_context>"];

/// Begins what the program tells the model of where it is.
const OF_PROGRAM: &str = "<session_context>";

/// Stands for a handoff that was asked for by a prompt. Calls are only written down when they were answered.
const BY_PROMPT: &str = "by prompt";

/// The parts of a line that matter here; everything else may be anything.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    session_id: Option<String>,
    #[serde(borrow)]
    project_hash: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part<'a> {
    text: Option<String>,
    #[serde(borrow)]
    function_call: Option<Call<'a>>,
    #[serde(borrow)]
    function_response: Option<Call<'a>>,
}

/// A call of a tool, or what answers it.
#[derive(Deserialize)]
struct Call<'a> {
    id: Option<String>,
    name: Option<String>,
    #[serde(borrow)]
    args: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

impl Call<'_> {
    fn hands_over(&self) -> bool {
        is_handoff(self.name.as_deref(), self.args.map(RawValue::get))
            || is_handoff(None, self.args.map(RawValue::get))
    }
}

impl<'a> Line<'a> {
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// The id of the conversation, where it is the line that begins one.
    pub(super) fn session(&self) -> Option<String> {
        self.session_id.clone().filter(|_| self.project_hash.is_some())
    }

    /// What the user asked; nothing where it is no message of the user's.
    pub(super) fn prompt(&self) -> Option<String> {
        let text = self.words().filter(|_| self.is("user"))?;
        let begins = text.trim_start();
        let is_one = !begins.is_empty() && !NO_PROMPTS.iter().any(|it| begins.starts_with(it));
        is_one.then_some(text)
    }

    fn is(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }

    /// The texts of its content.
    fn words(&self) -> Option<String> {
        let content = self.content?.get();
        serde_json::from_str::<String>(content).ok().or_else(|| {
            let texts = self.parts().into_iter().filter_map(|part| part.text);
            Some(texts.collect::<String>())
        })
    }

    fn parts(&self) -> Vec<Part<'a>> {
        let content = self.content.map(RawValue::get).unwrap_or_default();
        serde_json::from_str(content).unwrap_or_default()
    }

    fn calls(&self) -> Vec<Call<'a>> {
        let calls = self.tool_calls.map(RawValue::get).unwrap_or_default();
        serde_json::from_str(calls).unwrap_or_default()
    }
}

/// Learns from a line that begins at `at`.
pub(super) fn see(seen: &mut Seen, at: u64, bytes: &[u8]) {
    let Some(line) = Line::parse(bytes) else {
        seen.odd_lines += 1;
        return;
    };
    let (mut asking, mut answered) = (Vec::new(), Vec::new());
    if let Some(prompt) = line.prompt() {
        seen.messages += 1;
        seen.turn(at);
        asking.extend(is_handoff(None, Some(&prompt)).then(|| BY_PROMPT.to_owned()));
    } else if line.is("gemini")
        && line.tool_calls.is_none()
        && line.words().is_some_and(|text| !text.trim().is_empty())
    {
        seen.messages += 1;
        answered.push(BY_PROMPT.to_owned());
    }
    for call in line.calls() {
        if call.result.is_none() {
            asking.extend(call.id.clone().filter(|_| call.hands_over()));
        } else {
            answered.extend(call.hands_over().then(|| BY_PROMPT.to_owned()));
            answered.extend(call.id);
        }
    }
    for Part { function_call, function_response, .. } in line.parts() {
        asking.extend(function_call.filter(Call::hands_over).and_then(|call| call.id));
        answered.extend(function_response.and_then(|answer| answer.id));
    }
    seen.calls(asking, &answered);
}

/// Whether paths stand there that the agent goes by. What people and the model have said to one another stays as it was said.
pub(super) fn has_paths(keys: &Keys<'_>, text: &[u8]) -> bool {
    let keys = match keys {
        [b"$set", b"messages", b"*", rest @ ..]
        | [b"messages", b"*", rest @ ..]
        | [b"$set", rest @ ..] => rest,
        keys => keys,
    };
    match keys {
        [b"directories", ..]
        | [b"toolCalls", b"*", b"args" | b"result" | b"resultDisplay" | b"description", ..]
        | [b"content", b"*", b"functionCall", b"args", ..]
        | [b"content", b"*", b"functionResponse", b"response", ..] => true,
        [b"content"] | [b"content", b"*", b"text"] => text.starts_with(OF_PROGRAM.as_bytes()),
        _ => false,
    }
}
