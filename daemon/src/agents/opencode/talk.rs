//! What OpenCode says where it is started with `run --format json`: a line for each thing.

use serde::Deserialize;
use serde_json::Value;

use super::super::start::Login;
use super::super::talk::{Heard, given, shown};
use super::{SESSION, is_id_of};

#[derive(Deserialize)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "sessionID")]
    session: String,
    part: Option<Part>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Part {
    text: Option<String>,
    tool: Option<String>,
    reason: Option<String>,
    state: Option<State>,
}

#[derive(Deserialize)]
struct State {
    status: Option<String>,
    input: Option<Value>,
    error: Option<String>,
}

/// Nothing where it is none of its lines.
pub(super) fn hear(line: &[u8]) -> Option<Vec<Heard>> {
    let Said { kind, session, part, error } = serde_json::from_slice(line).ok()?;
    let mut heard = Vec::new();
    match (kind.as_str(), part) {
        // It has no line with which it begins.
        ("step_start", _) if is_id_of(SESSION, &session) => heard.push(Heard::Session(session)),
        ("text", Some(Part { text: Some(text), .. })) if !text.trim().is_empty() => {
            heard.push(Heard::Text(shown(&text)));
        }
        ("tool_use", Some(Part { tool: Some(tool), state: Some(state), .. })) => {
            let given = given(state.input.as_ref().unwrap_or(&Value::Null));
            heard.push(Heard::Text(shown(&format!("[{tool}] {given}"))));
            if state.status.as_deref() == Some("error") {
                let why = state.error.unwrap_or_default();
                heard.push(Heard::Text(shown(&format!("[failed] {why}"))));
            }
        }
        // It goes on after one that ends with calls.
        ("step_finish", Some(Part { reason: Some(reason), .. })) if reason == "stop" => {
            heard.push(Heard::TurnEnded(Ok(())));
        }
        ("error", _) => {
            let why = error.as_ref().map(why).unwrap_or_default();
            heard.push(Heard::TurnEnded(Err(shown(&why))));
        }
        _ => {}
    }
    Some(heard)
}

fn why(error: &Value) -> String {
    let message = error.get("data").and_then(|data| data.get("message"));
    let named = message.or_else(|| error.get("name")).and_then(Value::as_str);
    named.map_or_else(|| "it failed".to_owned(), str::to_owned)
}

/// What it says of keys: how many it keeps, and how many it has found in its environment. One that stands in a file of
/// settings it does not list, and a model may need none.
pub(super) fn login(success: bool, output: &str) -> Login {
    let count = |what: &str| {
        let before = output.lines().find_map(|line| line.split_once(what))?.0;
        before.split_whitespace().last()?.parse::<u64>().ok()
    };
    let found = [" credential", " environment variable"].map(|it| count(it).unwrap_or_default());
    match found {
        _ if !success => Login::Unknown,
        [0, 0] => Login::Unknown,
        [0, _] => Login::Yes("a key in the environment".to_owned()),
        [kept, _] => Login::Yes(format!("keys of {kept} providers")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_is_shown_in_words() {
        const ID: &str = "ses_de42cc8a8ffepZyp4dlVdUs36m";
        let said = |rest: &str| {
            let line = format!(r#"{{"timestamp":1,"sessionID":"{ID}",{rest}}}"#);
            hear(line.as_bytes()).unwrap()
        };
        let text = |text: &str| Heard::Text(text.to_owned());
        let begins = r#""type":"step_start","part":{"id":"prt_1","type":"step-start"}"#;
        assert_eq!(said(begins), [Heard::Session(ID.to_owned())]);
        let elsewhere = r#"{"type":"step_start","sessionID":"../x","part":{}}"#;
        assert_eq!(hear(elsewhere.as_bytes()), Some(Vec::new()));
        let words = r#""type":"text","part":{"type":"text","text":"done"}"#;
        assert_eq!(said(words), [text("done")]);
        let call = r#""type":"tool_use","part":{"type":"tool","tool":"bash","state":{"status":"completed","input":{"command":"make\ntest"},"output":"x"}}"#;
        assert_eq!(said(call), [text("[bash] make …")]);
        let failed = call.replace("completed", "error").replace("output", "error");
        assert_eq!(said(&failed), [text("[bash] make …"), text("[failed] x")]);
        let step = |reason: &str| {
            said(&format!(
                r#""type":"step_finish","part":{{"type":"step-finish","reason":"{reason}"}}"#
            ))
        };
        assert_eq!((step("tool-calls"), step("stop")), (vec![], vec![Heard::TurnEnded(Ok(()))]));
        let error = r#""type":"error","error":{"name":"APIError","data":{"message":"no key"}}"#;
        assert_eq!(said(error), [Heard::TurnEnded(Err("no key".to_owned()))]);
        let error = r#""type":"error","error":{"name":"UnknownError"}"#;
        assert_eq!(said(error), [Heard::TurnEnded(Err("UnknownError".to_owned()))]);
        assert_eq!(hear(b"! permission requested: bash (ls); auto-rejecting"), None);
    }

    #[test]
    fn keys_are_counted() {
        let said = |kept: u32, found: u32| {
            let text = format!(
                "\u{250c}  Credentials \u{1b}[90m~/.local/share/opencode/auth.json\n\u{2502}\n\u{2514}  {kept} credentials\n\
                 \u{250c}  Environment\n\u{2514}  {found} environment variable\n"
            );
            login(true, &text)
        };
        assert_eq!(said(0, 0), Login::Unknown);
        assert_eq!(said(0, 1), Login::Yes("a key in the environment".to_owned()));
        assert_eq!(said(2, 0), Login::Yes("keys of 2 providers".to_owned()));
        assert_eq!(login(false, "2 credentials"), Login::Unknown);
        assert_eq!(login(true, "nothing of this kind"), Login::Unknown);
    }
}
