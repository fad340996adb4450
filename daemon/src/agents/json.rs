//! One line of JSON as it stands, with some of its values changed and every other byte left alone.
//!
//! A line that is parsed and written again is another line: numbers, the order of keys and escapes of their own change,
//! and a transcript whose old lines change costs all of its bytes again when it is handed over.
//!
//! **Invariant:** what is no JSON, or nested too deep, is left as it is.

/// Deepest nesting that is looked into.
const MAX_LEVELS: usize = 128;

/// A value, or a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The name of a member of an object.
    Key,
    /// A string.
    Text,
    /// A number, `true`, `false` or `null`.
    Plain,
}

/// Where a value stands: the names above it as they are written, `*` for members of a list.
pub type Keys<'a> = [&'a [u8]];

enum Frame {
    Object,
    List,
}

struct Scan<'a> {
    line: &'a [u8],
    at: usize,
    keys: Vec<&'a [u8]>,
    frames: Vec<Frame>,
}

/// Writes the line to `out`; `change` is asked for another text for each key and value, as it stands between its
/// quotes. Returns whether anything was changed.
pub(super) fn edit(
    line: &[u8],
    out: &mut Vec<u8>,
    mut change: impl FnMut(&Keys<'_>, Token, &[u8]) -> Option<Vec<u8>>,
) -> bool {
    let start = out.len();
    let mut copied = 0;
    let mut changed = false;
    let walked = visit(line, |keys, token, from, text| {
        if let Some(new) = change(keys, token, text) {
            out.extend_from_slice(line.get(copied..from).unwrap_or_default());
            out.extend_from_slice(&new);
            copied = from + text.len();
            changed = true;
        }
    });
    if walked.is_none() {
        out.truncate(start);
        out.extend_from_slice(line);
        return false;
    }
    out.extend_from_slice(line.get(copied..).unwrap_or_default());
    changed
}

/// Visits every string of a line with the name of the member that it belongs to; false where it is no JSON, and then some
/// may have been visited.
pub(super) fn texts(line: &[u8], mut see: impl FnMut(Option<&[u8]>, &[u8])) -> bool {
    let walked = visit(line, |keys, token, _, text| {
        if token == Token::Text {
            see(keys.iter().rev().find(|key| **key != b"*").copied(), text);
        }
    });
    walked.is_some()
}

/// Visits every key and value of a line with the place at which its text begins; nothing where it is no JSON.
fn visit<'a>(line: &'a [u8], mut see: impl FnMut(&Keys<'a>, Token, usize, &'a [u8])) -> Option<()> {
    let mut scan = Scan { line, at: 0, keys: Vec::new(), frames: Vec::new() };
    loop {
        // A value begins here.
        scan.space();
        match scan.peek()? {
            b'{' => {
                scan.open(Frame::Object)?;
                scan.space();
                if scan.peek()? == b'}' {
                    scan.at += 1;
                    scan.frames.pop();
                } else {
                    scan.key(&mut see)?;
                    continue;
                }
            }
            b'[' => {
                scan.open(Frame::List)?;
                scan.space();
                if scan.peek()? == b']' {
                    scan.at += 1;
                    scan.frames.pop();
                } else {
                    scan.keys.push(b"*");
                    continue;
                }
            }
            b'"' => {
                let (from, text) = scan.text()?;
                see(&scan.keys, Token::Text, from, text);
            }
            _ => {
                let (from, text) = scan.plain()?;
                see(&scan.keys, Token::Plain, from, text);
            }
        }
        // A value has ended.
        loop {
            scan.space();
            let Some(frame) = scan.frames.last() else {
                return (scan.at == line.len()).then_some(());
            };
            let is_object = matches!(frame, Frame::Object);
            scan.keys.pop();
            match (scan.peek()?, is_object) {
                (b',', true) => {
                    scan.at += 1;
                    scan.space();
                    scan.key(&mut see)?;
                    break;
                }
                (b',', false) => {
                    scan.at += 1;
                    scan.keys.push(b"*");
                    break;
                }
                (b'}', true) | (b']', false) => {
                    scan.at += 1;
                    scan.frames.pop();
                }
                _ => return None,
            }
        }
    }
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn open(&mut self, frame: Frame) -> Option<()> {
        if self.frames.len() >= MAX_LEVELS {
            return None;
        }
        self.at += 1;
        self.frames.push(frame);
        Some(())
    }

    fn key(&mut self, see: &mut impl FnMut(&Keys<'a>, Token, usize, &'a [u8])) -> Option<()> {
        if self.peek()? != b'"' {
            return None;
        }
        let (from, text) = self.text()?;
        see(&self.keys, Token::Key, from, text);
        self.keys.push(text);
        self.space();
        if self.peek()? != b':' {
            return None;
        }
        self.at += 1;
        Some(())
    }

    /// What stands between quotes.
    fn text(&mut self) -> Option<(usize, &'a [u8])> {
        let from = self.at + 1;
        let mut at = from;
        loop {
            match self.line.get(at)? {
                b'"' => break,
                b'\\' => at += 2,
                byte if *byte < 0x20 => return None,
                _ => at += 1,
            }
        }
        self.at = at + 1;
        Some((from, self.line.get(from..at)?))
    }

    fn plain(&mut self) -> Option<(usize, &'a [u8])> {
        let from = self.at;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        while self.peek().is_some_and(is_plain) {
            self.at += 1;
        }
        (self.at > from).then_some((from, self.line.get(from..self.at)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn seen(line: &str) -> Option<Vec<String>> {
        let mut found = Vec::new();
        visit(line.as_bytes(), |keys, token, _, text| {
            let keys: Vec<_> = keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
            let text = String::from_utf8_lossy(text);
            found.push(format!("{}:{token:?}:{text}", keys.join("/")));
        })
        .map(|()| found)
    }

    #[test]
    fn places_are_told_by_the_names_above_them() {
        let found = seen(r#" {"a":"x","b":[1,{"c":"y\"z"},[]],"d":{},"e":null} "#).unwrap();
        let expected = [
            ":Key:a",
            "a:Text:x",
            ":Key:b",
            "b/*:Plain:1",
            "b/*:Key:c",
            r#"b/*/c:Text:y\"z"#,
            ":Key:d",
            ":Key:e",
            "e:Plain:null",
        ];
        assert_eq!(found, expected);
        assert_eq!(seen("\"x\""), Some(vec![":Text:x".to_owned()]));
        for not in [
            "",
            "{",
            "{\"a\"}",
            "[1,]",
            "{\"a\":1",
            "[1 2]",
            "{} {}",
            "\"\u{1}\"",
            "]",
            "{\"a\":\"x",
        ] {
            assert_eq!(seen(not), None, "{not}");
        }
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert_eq!(seen(&deep), None);
    }

    #[test]
    fn lines_of_transcripts() {
        use crate::fuzz::fuzzing;

        let lines = fuzzing::texts(&[
            r#"{"type":"user","cwd":"/old","message":{"content":[{"text":"a\\nb\\u00e9"}]},"n":-1.5e3}"#,
            r#" {"a":"x","b":[1,{"c":"y\"z"},[]],"d":{},"e":null,"f":true} "#,
            r#"[["/old"],"/old/er",{"cwd":"/old"}]"#,
        ]);
        fuzzing::fuzz(lines, |_, input| {
            let input = &input[..input.len().min(64 * 1024)];
            let is_read = visit(input, |_, _, _, _| {}).is_some();
            let mut out = Vec::new();
            edit(input, &mut out, |_, _, _| None);
            assert_eq!(out, input);
            is_read
        });
    }

    #[test]
    fn only_what_is_changed_changes() {
        let line = br#"{ "n":1.50, "cwd" : "/old", "x":"\u00e9"}"#;
        let mut out = b"before".to_vec();
        let changed = edit(line, &mut out, |keys, _, text| {
            (keys == [b"cwd"] && text == b"/old").then(|| b"/new/longer".to_vec())
        });
        assert!(changed);
        assert_eq!(out, br#"before{ "n":1.50, "cwd" : "/new/longer", "x":"\u00e9"}"#);
        // A change is not made in half of a line.
        let cut = line.get(..line.len() - 3).unwrap();
        let mut out = Vec::new();
        assert!(!edit(cut, &mut out, |_, _, _| Some(b"z".to_vec())));
        assert_eq!(out, cut);
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(".*", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_text_of_every_value_is_seen_and_nothing_else_changes(value in json()) {
            fn count(value: &Value) -> usize {
                match value {
                    Value::String(_) => 1,
                    Value::Array(all) => all.iter().map(count).sum(),
                    Value::Object(all) => all.values().map(count).sum(),
                    _ => 0,
                }
            }
            let line = value.to_string();
            let mut texts = 0;
            let mut out = Vec::new();
            edit(line.as_bytes(), &mut out, |_, token, text| {
                texts += usize::from(token == Token::Text);
                Some(text.to_vec())
            });
            prop_assert_eq!(texts, count(&value));
            prop_assert_eq!(out, line.as_bytes());
        }

        #[test]
        fn any_bytes_come_out_as_they_went_in(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut out = Vec::new();
            edit(&bytes, &mut out, |_, _, _| None);
            prop_assert_eq!(out, bytes);
        }
    }
}
