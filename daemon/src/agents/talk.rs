//! What an agent's program says while it works, line by line, and what it is told.
//!
//! Not here: the words, which are the adapter's; whoever starts the program, and reads and writes its streams.
//!
//! **Invariant:** a line of output is anybody's: it may say what it likes, and all that it can do is to be shown, or to ask.

use baton_protocol::message::MAX_QUESTION;

/// Longest text of a line that is shown, in bytes.
const MAX_SHOWN: usize = 64 * 1024;

/// Longest one that stands for what a tool was given.
const MAX_GIVEN: usize = 200;

/// What a line of a program's output says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// This, to people.
    Text(String),
    /// The id of its conversation.
    Session(String),
    /// It asks whether it may do something, and waits.
    Asks(Request),
    /// It does not ask that any more.
    Unasks(String),
    /// It has done what it was asked, or failed to, and why.
    TurnEnded(Result<(), String>),
}

/// What an agent asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The agent's own name of it.
    pub id: String,
    /// For people; at most [`MAX_QUESTION`] bytes.
    pub text: String,
    /// What the tool would be given, as JSON.
    pub input: String,
}

/// Text as it is shown: of a sane length.
pub(super) fn shown(text: &str) -> String {
    cut(text, MAX_SHOWN)
}

/// A question of a length that can be asked.
pub(super) fn question(text: &str) -> String {
    cut(text, MAX_QUESTION)
}

/// What a tool is given, in short: what people know it by, or else all of it.
pub(super) fn given(input: &serde_json::Value) -> String {
    const NAMES: [&str; 8] =
        ["command", "cmd", "file_path", "path", "pattern", "url", "query", "description"];
    let named = NAMES.iter().find_map(|name| input.get(name)?.as_str());
    let all = named.map_or_else(|| input.to_string(), str::to_owned);
    let line = all.lines().next().unwrap_or_default();
    let short = cut(line, MAX_GIVEN);
    if line.len() < all.trim_end().len() && !short.ends_with('…') {
        short + " …"
    } else {
        short
    }
}

fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut end = most - '…'.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_of_a_sane_length() {
        assert_eq!(cut("äöü", 6), "äöü");
        assert_eq!(cut("äöüä", 7), "äö…");
        assert_eq!(shown(&"x".repeat(1 << 20)).len(), MAX_SHOWN);
        assert_eq!(question(&"ä".repeat(1 << 20)).len().div_ceil(2) * 2, MAX_QUESTION);
        let json = |text| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(given(&json(r#"{"description":"d","command":"make\ntest"}"#)), "make …");
        assert_eq!(given(&json(r#"{"x":[1]}"#)), r#"{"x":[1]}"#);
        assert_eq!(given(&json("null")), "null");
    }
    #[test]
    fn heard_lines() {
        use crate::fuzz::fuzzing::{self, fuzz, within};
        use baton_protocol::message::Answer;

        let corpus = fuzzing::texts(&[
            r#"{"type":"system","subtype":"init","session_id":"01a21b58-b33b-4981-9512-8b8a5be4cd61"}"#,
            r#"{"type":"assistant","message":{"content":[{"type":"tool_use","name":"Bash","input":{"command":"ls"}},{"type":"text","text":"hi\nyou"}]}}"#,
            r#"{"type":"user","message":{"content":[{"type":"tool_result","is_error":true,"content":[{"type":"text","text":"no"}]}]}}"#,
            r#"{"type":"result","subtype":"success","is_error":true,"result":"no login"}"#,
            r#"{"type":"control_request","request_id":"r","request":{"subtype":"can_use_tool","tool_name":"Bash","input":{"command":"rm"}}}"#,
            r#"{"type":"control_cancel_request","request_id":"r"}"#,
            r#"{"type":"thread.started","thread_id":"01a21b58-b33b-4981-9512-8b8a5be4cd61"}"#,
            r#"{"type":"item.completed","item":{"id":"1","type":"command_execution","command":"make\nx","exit_code":2,"aggregated_output":"no rule"}}"#,
            r#"{"type":"item.completed","item":{"type":"file_change","changes":[{"path":"a","kind":"add"},{"path":"b"}]}}"#,
            r#"{"type":"turn.failed","error":{"message":"no key"}}"#,
            r#"{"type":"init","session_id":"01a21b58-b33b-4981-9512-8b8a5be4cd61","model":"m"}"#,
            r#"{"type":"tool_use","tool_name":"run_shell_command","tool_id":"1","parameters":{"command":"make\ntest"}}"#,
            r#"{"type":"error","severity":"warning","message":"Loop detected"}"#,
            r#"{"type":"tool_use","sessionID":"ses_de42cc8a8ffepZyp4dlVdUs36m","part":{"tool":"bash","state":{"status":"error","input":{"command":"x"},"error":"no"}}}"#,
            r#"{"type":"error","sessionID":"ses_de42cc8a8ffepZyp4dlVdUs36m","error":{"name":"x","data":{"message":"y"}}}"#,
        ]);
        fuzz(corpus, |_, input| {
            let mut is_heard = false;
            for agent in crate::agents::ALL {
                let heard = within(input, 256, 1 << 20, |input| agent.hear(input));
                for one in heard.into_iter().flatten() {
                    is_heard = true;
                    match one {
                        Heard::Session(id) => assert!(agent.is_id(&id), "{id}"),
                        Heard::Text(text) => assert!(text.len() <= MAX_SHOWN),
                        Heard::TurnEnded(Err(why)) => assert!(why.len() <= MAX_SHOWN),
                        Heard::TurnEnded(Ok(())) | Heard::Unasks(_) => {}
                        Heard::Asks(asked) => {
                            assert!(asked.text.len() <= MAX_QUESTION);
                            for answer in
                                [Answer::Allow, Answer::Deny, Answer::Text("x\"\n".into())]
                            {
                                let told = agent.answer(&asked, &answer).unwrap();
                                // A line of JSON, whatever it was that asked.
                                let line = told.strip_suffix(b"\n").unwrap_or(&told);
                                assert!(!line.contains(&b'\n'));
                                drop(serde_json::from_slice::<serde_json::Value>(line).unwrap());
                            }
                        }
                    }
                }
            }
            is_heard
        });
    }
}
