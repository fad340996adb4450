//! What Gemini CLI says where it is started with `--output-format stream-json`: a line for each thing.

use serde::Deserialize;
use serde_json::Value;

use super::super::session::is_id;
use super::super::talk::{Heard, given, shown};

#[derive(Deserialize)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    session_id: Option<String>,
    role: Option<String>,
    content: Option<String>,
    tool_name: Option<String>,
    parameters: Option<Value>,
    status: Option<String>,
    output: Option<Value>,
    error: Option<Value>,
    message: Option<String>,
}

/// Nothing where it is none of its lines.
pub(super) fn hear(line: &[u8]) -> Option<Vec<Heard>> {
    let said: Said = serde_json::from_slice(line).ok()?;
    let failed = said.status.as_deref() == Some("error");
    let heard = match said.kind.as_str() {
        "init" => said.session_id.filter(|id| is_id(id)).map(Heard::Session),
        "message" if said.role.as_deref() == Some("assistant") => {
            let text = said.content.filter(|text| !text.trim().is_empty());
            text.map(|text| Heard::Text(shown(&text)))
        }
        "tool_use" => said.tool_name.map(|name| {
            let given = given(said.parameters.as_ref().unwrap_or(&Value::Null));
            Heard::Text(shown(&format!("[{name}] {given}")))
        }),
        "tool_result" if failed => {
            let why = why(said.error.as_ref()).or_else(|| said.output?.as_str().map(str::to_owned));
            Some(Heard::Text(shown(&format!("[failed] {}", why.unwrap_or_default()))))
        }
        "error" => said.message.map(|message| Heard::Text(shown(&format!("[failed] {message}")))),
        "result" if failed => {
            let why = why(said.error.as_ref()).unwrap_or_else(|| "it failed".to_owned());
            Some(Heard::TurnEnded(Err(shown(&why))))
        }
        "result" => Some(Heard::TurnEnded(Ok(()))),
        _ => None,
    };
    Some(heard.into_iter().collect())
}

fn why(error: Option<&Value>) -> Option<String> {
    error?.get("message")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_is_shown_in_words() {
        let said = |line: &str| hear(line.as_bytes()).unwrap().pop();
        let text = |text: &str| Some(Heard::Text(text.to_owned()));
        let id = "01a21b58-b33b-4981-9512-8b8a5be4cd61";
        let begins = format!(r#"{{"type":"init","session_id":"{id}","model":"m"}}"#);
        assert_eq!(said(&begins), Some(Heard::Session(id.to_owned())));
        assert_eq!(said(r#"{"type":"init","session_id":"../x"}"#), None);
        assert_eq!(said(r#"{"type":"message","role":"user","content":"do it\n"}"#), None);
        let words = r#"{"type":"message","role":"assistant","content":"done","delta":true}"#;
        assert_eq!(said(words), text("done"));
        let call = r#"{"type":"tool_use","tool_name":"run_shell_command","tool_id":"1","parameters":{"command":"make\ntest"}}"#;
        assert_eq!(said(call), text("[run_shell_command] make …"));
        let result =
            |rest: &str| said(&format!(r#"{{"type":"tool_result","tool_id":"1",{rest}}}"#));
        assert_eq!(result(r#""status":"success","output":"x""#), None);
        assert_eq!(
            result(r#""status":"error","output":"x","error":{"type":"t","message":"no rule"}"#),
            text("[failed] no rule")
        );
        assert_eq!(result(r#""status":"error","output":"x""#), text("[failed] x"));
        assert_eq!(
            said(r#"{"type":"error","severity":"warning","message":"Loop detected"}"#),
            text("[failed] Loop detected")
        );
        let ended = |rest: &str| said(&format!(r#"{{"type":"result",{rest}}}"#));
        assert_eq!(ended(r#""status":"success","stats":{}"#), Some(Heard::TurnEnded(Ok(()))));
        assert_eq!(
            ended(r#""status":"error","error":{"type":"t","message":"no key"}"#),
            Some(Heard::TurnEnded(Err("no key".to_owned())))
        );
        assert_eq!(hear(b"YOLO mode is enabled."), None);
    }
}
