//! What Claude Code says and is told where it is started with `stream-json` both ways.
//!
//! ```text
//! {"type":"system","subtype":"init","session_id":…}
//! {"type":"assistant","message":{"content":[{"type":"text"|"tool_use"|"thinking",…}]}}
//! {"type":"user","message":{"content":[{"type":"tool_result","is_error":…,"content":…}]}}
//! {"type":"control_request","request_id":…,"request":{"subtype":"can_use_tool","tool_name":…,"input":…}}
//! {"type":"control_cancel_request","request_id":…}
//! {"type":"result","is_error":…,"result":…}
//! ```

use baton_protocol::message::Answer;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::session::is_id;
use super::super::talk::{Heard, Request, given, question, shown};

#[derive(Deserialize)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    subtype: Option<String>,
    session_id: Option<String>,
    message: Option<Message>,
    request_id: Option<String>,
    request: Option<Asked>,
    #[serde(default)]
    is_error: bool,
    result: Option<Value>,
    /// Of an agent that it has started itself.
    parent_tool_use_id: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    content: Value,
}

#[derive(Deserialize)]
struct Asked {
    subtype: String,
    tool_name: Option<String>,
    input: Option<Value>,
}

/// Nothing where it is none of its lines.
pub(super) fn hear(line: &[u8]) -> Option<Vec<Heard>> {
    let said: Said = serde_json::from_slice(line).ok()?;
    let mut heard = Vec::new();
    match said.kind.as_str() {
        "system" if said.subtype.as_deref() == Some("init") => {
            heard.extend(said.session_id.filter(|id| is_id(id)).map(Heard::Session));
        }
        "assistant" | "user" => {
            let inner = said.parent_tool_use_id.is_some();
            let blocks = said.message.as_ref().and_then(|message| message.content.as_array());
            let shown = blocks.into_iter().flatten().filter_map(|block| block_text(block, inner));
            heard.extend(shown.map(Heard::Text));
        }
        "control_request" => {
            let (id, asked) = (said.request_id?, said.request?);
            if asked.subtype == "can_use_tool" {
                let input = asked.input.unwrap_or(Value::Null);
                let tool = asked.tool_name.unwrap_or_default();
                let text = question(&format!("{tool} {}", given(&input)));
                heard.push(Heard::Asks(Request { id, text, input: input.to_string() }));
            }
        }
        "control_cancel_request" => heard.extend(said.request_id.map(Heard::Unasks)),
        "result" => {
            let failed = said.is_error || said.subtype.as_deref() != Some("success");
            let why = || match &said.result {
                Some(Value::String(text)) if !text.trim().is_empty() => shown(text),
                _ => said.subtype.clone().unwrap_or_else(|| "it failed".to_owned()),
            };
            heard.push(Heard::TurnEnded(if failed { Err(why()) } else { Ok(()) }));
        }
        _ => {}
    }
    Some(heard)
}

fn block_text(block: &Value, inner: bool) -> Option<String> {
    let text_of = |name: &str| block.get(name).and_then(Value::as_str);
    let begin = if inner { "  " } else { "" };
    match text_of("type")? {
        "text" => {
            let text = text_of("text").filter(|text| !text.trim().is_empty())?;
            Some(shown(&format!("{begin}{text}")))
        }
        "tool_use" => {
            let tool = text_of("name")?;
            let given = given(block.get("input").unwrap_or(&Value::Null));
            Some(shown(&format!("{begin}[{tool}] {given}")))
        }
        "tool_result" if block.get("is_error").and_then(Value::as_bool) == Some(true) => {
            let content = block.get("content")?;
            let text = content.as_str().map(str::to_owned).or_else(|| {
                let parts =
                    content.as_array()?.iter().filter_map(|part| part.get("text")?.as_str());
                Some(parts.collect::<Vec<_>>().join("\n"))
            })?;
            Some(shown(&format!("{begin}[failed] {text}")))
        }
        _ => None,
    }
}

/// A message of the user's.
pub(super) fn say(text: &str) -> Vec<u8> {
    let message = json!({"role": "user", "content": [{"type": "text", "text": text}]});
    line(&json!({"type": "user", "message": message, "parent_tool_use_id": null, "session_id": ""}))
}

/// What it hears of something that it has asked for.
pub(super) fn answer(asked: &Request, answer: &Answer) -> Vec<u8> {
    let input: Value = serde_json::from_str(&asked.input).unwrap_or(Value::Null);
    let decided = match answer {
        Answer::Allow => json!({"behavior": "allow", "updatedInput": input}),
        Answer::Deny => json!({"behavior": "deny", "message": "The user does not allow it."}),
        Answer::Text(text) => json!({"behavior": "deny", "message": text}),
    };
    let response = json!({"subtype": "success", "request_id": asked.id, "response": decided});
    line(&json!({"type": "control_response", "response": response}))
}

fn line(value: &Value) -> Vec<u8> {
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01234567-89ab-cdef-0123-456789abcdef";

    fn heard(line: &str) -> Vec<Heard> {
        hear(line.as_bytes()).unwrap()
    }

    fn text(text: &str) -> Vec<Heard> {
        vec![Heard::Text(text.to_owned())]
    }

    #[test]
    fn what_it_says_is_shown_in_words() {
        let init = format!(r#"{{"type":"system","subtype":"init","session_id":"{ID}","x":1}}"#);
        assert_eq!(heard(&init), [Heard::Session(ID.to_owned())]);
        let hostile = r#"{"type":"system","subtype":"init","session_id":"../../x"}"#;
        assert_eq!(heard(hostile), []);
        let says = r#"{"type":"assistant","message":{"content":[{"type":"thinking","thinking":"t"},{"type":"text","text":"hi\nyou"}]}}"#;
        assert_eq!(heard(says), text("hi\nyou"));
        let does = r#"{"type":"assistant","message":{"content":[{"type":"tool_use","name":"Bash","input":{"command":"ls"}}]},"parent_tool_use_id":"t"}"#;
        assert_eq!(heard(does), text("  [Bash] ls"));
        let fails = r#"{"type":"user","message":{"content":[{"type":"tool_result","is_error":true,"content":[{"type":"text","text":"no"}]}]}}"#;
        assert_eq!(heard(fails), text("[failed] no"));
        let fine =
            r#"{"type":"user","message":{"content":[{"type":"tool_result","content":"x"}]}}"#;
        assert_eq!(heard(fine), []);
        let asked = r#"{"type":"user","message":{"content":"x"}}"#;
        assert_eq!((heard(asked), heard(r#"{"type":"new","x":[]}"#)), (vec![], vec![]));
        for other in ["", "{", "[1]", "Error: no key", r#"{"kind":"x"}"#] {
            assert_eq!(hear(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_turn_ends_well_or_says_why_not() {
        let end = |line: &str| heard(line).pop().unwrap();
        let well = r#"{"type":"result","subtype":"success","is_error":false,"result":"done"}"#;
        assert_eq!(end(well), Heard::TurnEnded(Ok(())));
        let badly = r#"{"type":"result","subtype":"success","is_error":true,"result":"no login"}"#;
        assert_eq!(end(badly), Heard::TurnEnded(Err("no login".to_owned())));
        let most = r#"{"type":"result","subtype":"error_max_turns"}"#;
        assert_eq!(end(most), Heard::TurnEnded(Err("error_max_turns".to_owned())));
    }

    #[test]
    fn what_it_asks_for_is_answered_by_its_name() {
        let asks = r#"{"type":"control_request","request_id":"r1","request":{"subtype":"can_use_tool","tool_name":"Write","input":{"file_path":"/x","content":"y"}}}"#;
        let Some(Heard::Asks(asked)) = heard(asks).pop() else { panic!("it asks") };
        assert_eq!((asked.id.as_str(), asked.text.as_str()), ("r1", "Write /x"));
        let answer = |it| serde_json::from_slice::<Value>(&answer(&asked, &it)).unwrap();
        let allowed = answer(Answer::Allow);
        assert_eq!(allowed["response"]["request_id"], "r1");
        assert_eq!(allowed["response"]["response"]["updatedInput"]["content"], "y");
        let said = answer(Answer::Text("elsewhere".to_owned()));
        assert_eq!(
            said["response"]["response"],
            json!({"behavior": "deny", "message": "elsewhere"})
        );
        assert_eq!(answer(Answer::Deny)["response"]["response"]["behavior"], "deny");
        let gone = r#"{"type":"control_cancel_request","request_id":"r1"}"#;
        assert_eq!(heard(gone), [Heard::Unasks("r1".to_owned())]);
        let said = say("a \"b\"\nc");
        assert_eq!(said.split(|byte| *byte == b'\n').count(), 2);
        let said: Value = serde_json::from_slice(&said).unwrap();
        assert_eq!(said["message"]["content"][0]["text"], "a \"b\"\nc");
    }
}
