//! What Codex CLI says where it is started as `codex exec --json`: a line for each thing that it has done.

use serde::Deserialize;
use serde_json::Value;

use super::super::session::is_id;
use super::super::talk::{Heard, given, shown};

#[derive(Deserialize)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    thread_id: Option<String>,
    item: Option<Value>,
    error: Option<Value>,
    message: Option<String>,
}

/// Nothing where it is none of its lines.
pub(super) fn hear(line: &[u8]) -> Option<Vec<Heard>> {
    let said: Said = serde_json::from_slice(line).ok()?;
    let heard = match said.kind.as_str() {
        "thread.started" => said.thread_id.filter(|id| is_id(id)).map(Heard::Session),
        "item.started" => said.item.as_ref().and_then(begun).map(Heard::Text),
        "item.completed" => said.item.as_ref().and_then(done).map(Heard::Text),
        "turn.completed" => Some(Heard::TurnEnded(Ok(()))),
        "turn.failed" => {
            let why = said.error.as_ref().and_then(|error| error.get("message")?.as_str());
            Some(Heard::TurnEnded(Err(shown(why.unwrap_or("it failed")))))
        }
        "error" => said.message.map(|message| Heard::Text(shown(&format!("[failed] {message}")))),
        _ => None,
    };
    Some(heard.into_iter().collect())
}

fn text<'a>(item: &'a Value, name: &str) -> Option<&'a str> {
    item.get(name)?.as_str().filter(|text| !text.trim().is_empty())
}

fn begun(item: &Value) -> Option<String> {
    match text(item, "type")? {
        "command_execution" => Some(shown(&format!("[command] {}", given(item)))),
        "mcp_tool_call" => {
            let (server, tool) = (text(item, "server")?, text(item, "tool")?);
            let given = given(item.get("arguments").unwrap_or(&Value::Null));
            Some(shown(&format!("[{server} {tool}] {given}")))
        }
        "web_search" => Some(shown(&format!("[search] {}", given(item)))),
        _ => None,
    }
}

fn done(item: &Value) -> Option<String> {
    match text(item, "type")? {
        "agent_message" => text(item, "text").map(shown),
        "file_change" => {
            let changes = item.get("changes")?.as_array()?.iter();
            let names = changes.filter_map(|change| text(change, "path")).collect::<Vec<_>>();
            Some(shown(&format!("[files] {}", names.join(", "))))
        }
        "command_execution" => {
            let code = item.get("exit_code").and_then(Value::as_i64).filter(|code| *code != 0)?;
            let output = text(item, "aggregated_output").unwrap_or_default();
            Some(shown(&format!("[failed] code {code}\n{output}")))
        }
        "error" => text(item, "message").map(|message| shown(&format!("[failed] {message}"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_is_shown_in_words() {
        let said = |line: &str| hear(line.as_bytes()).unwrap().pop();
        let text = |text: &str| Some(Heard::Text(text.to_owned()));
        let id = "019b0000-89ab-7def-8123-456789abcdef";
        let begins = format!(r#"{{"type":"thread.started","thread_id":"{id}"}}"#);
        assert_eq!(said(&begins), Some(Heard::Session(id.to_owned())));
        assert_eq!(said(r#"{"type":"thread.started","thread_id":"/etc"}"#), None);
        let item = |kind: &str, item: &str| said(&format!(r#"{{"type":"{kind}","item":{item}}}"#));
        let command = r#"{"id":"1","type":"command_execution","command":"make\nx","exit_code":2,"aggregated_output":"no rule"}"#;
        assert_eq!(item("item.started", command), text("[command] make …"));
        assert_eq!(item("item.completed", command), text("[failed] code 2\nno rule"));
        let message = r#"{"type":"agent_message","text":"done"}"#;
        assert_eq!(item("item.completed", message), text("done"));
        let files = r#"{"type":"file_change","changes":[{"path":"a","kind":"add"},{"path":"b"}]}"#;
        assert_eq!(item("item.completed", files), text("[files] a, b"));
        assert_eq!(said(r#"{"type":"turn.completed","usage":{}}"#), Some(Heard::TurnEnded(Ok(()))));
        let failed = r#"{"type":"turn.failed","error":{"message":"no key"}}"#;
        assert_eq!(said(failed), Some(Heard::TurnEnded(Err("no key".to_owned()))));
        assert_eq!(hear(b"Reading prompt from stdin..."), None);
    }
}
