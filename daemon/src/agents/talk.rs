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
}
