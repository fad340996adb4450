//! What looks like a secret in a conversation: the rules of the store over what its lines say, with the escapes of JSON
//! taken out.
//!
//! A tool that prints a file of settings puts it into the transcript, and a transcript of a year has been seen with
//! live keys in it. What is found never leaves this module: a finding is a rule, a place and a keyed hash.

use std::cell::RefCell;
use std::path::Path;

use baton_store::secrets::{Finding, LOOKED_AT, SecretRules};

use super::json::texts;
use super::lines::{Lines, Piece};

/// Findings of a conversation that are kept; more do not change what is to be done.
pub const MOST: usize = 20;

/// What a window of a long text has in common with the one before, so that nothing is cut in two.
const OVERLAP: usize = 8 * 1024;

/// Something that looks like a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file of the conversation.
    pub file: String,
    /// The line in it.
    pub line: u64,
    /// Which rule.
    pub rule: &'static str,
    /// A keyed hash of what was found.
    pub fingerprint: [u8; 32],
}

/// Looks through one file as it passes by.
pub(super) struct Search<'a> {
    rules: &'a SecretRules,
    file: String,
    line: u64,
    /// The text of a line, or of a window of a file that has none.
    text: Vec<u8>,
    is_json: bool,
    found: Vec<Found>,
}

impl<'a> Search<'a> {
    pub(super) fn new(rules: &'a SecretRules, file: String) -> Self {
        let is_json = Path::new(&file).extension().is_some_and(|it| it == "jsonl");
        Self { rules, file, line: 1, text: Vec::new(), is_json, found: Vec::new() }
    }

    pub(super) fn piece(&mut self, piece: Piece<'_>) {
        match piece {
            Piece::Line(line) if self.is_json => {
                self.text.clear();
                let text = &mut self.text;
                let is_json = texts(line, |value| {
                    unescape(value, text);
                    text.push(b'\n');
                });
                if !is_json {
                    text.clear();
                    unescape(line, text);
                }
                let text = std::mem::take(&mut self.text);
                self.windows(&text, |_| 0);
                self.text = text;
                self.line += 1;
            }
            Piece::Line(bytes) | Piece::Part(bytes) => {
                self.text.extend_from_slice(bytes);
                if self.text.len() >= LOOKED_AT / 2 {
                    self.flush();
                }
                if self.is_json && bytes.ends_with(b"\n") {
                    self.flush();
                    self.line += 1;
                }
            }
        }
    }

    pub(super) fn end(mut self) -> Vec<Found> {
        self.flush();
        self.found
    }

    fn flush(&mut self) {
        let text = std::mem::take(&mut self.text);
        if self.is_json {
            self.windows(&text, |_| 0);
        } else {
            self.windows(&text, |line| line - 1);
            let parts = text.split(|&byte| byte == b'\n').count();
            self.line += parts.saturating_sub(1) as u64;
        }
    }

    fn windows(&mut self, text: &[u8], further: impl Fn(u64) -> u64) {
        let mut start = 0;
        while start < text.len() && self.found.len() < MOST {
            let window = text.get(start..).unwrap_or_default();
            let window = window.get(..LOOKED_AT).unwrap_or(window);
            self.look(window, &further);
            if window.len() < LOOKED_AT {
                break;
            }
            start += LOOKED_AT - OVERLAP;
        }
    }

    fn look(&mut self, window: &[u8], further: &impl Fn(u64) -> u64) {
        let all = RefCell::new(Vec::new());
        let note = |finding: &Finding| {
            let mut all = all.borrow_mut();
            all.push(finding.clone());
            all.len() < MOST
        };
        let _last = self.rules.scan_unless(self.file.as_bytes(), window, note);
        for Finding { rule, line, fingerprint } in all.into_inner() {
            let known = self.found.iter().any(|it| it.fingerprint == fingerprint);
            if !known && self.found.len() < MOST {
                let line = self.line + further(line);
                self.found.push(Found { file: self.file.clone(), line, rule, fingerprint });
            }
        }
    }
}

/// Looks through a text that is in memory.
pub fn search(rules: &SecretRules, file: &str, bytes: &[u8]) -> Vec<Found> {
    let mut search = Search::new(rules, file.to_owned());
    let mut lines = Lines::default();
    let mut visit = |piece: Piece<'_>| {
        search.piece(piece);
        Ok::<_, std::convert::Infallible>(())
    };
    let Ok(()) = lines.feed(bytes, &mut visit);
    let Ok(()) = lines.end(&mut visit);
    search.end()
}

/// The text of a JSON string; escapes of a single letter are taken out, and zero bytes, which make a text binary.
fn unescape(text: &[u8], to: &mut Vec<u8>) {
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        to.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'n' | b'r') => b'\n',
                Some(b't' | b'b' | b'f') => b' ',
                // A letter beyond ASCII, or a control character: no rule has one.
                Some(b'u') => {
                    bytes.by_ref().take(4).for_each(drop);
                    b' '
                }
                Some(other) => other,
                None => break,
            },
            0 => b' ',
            byte => byte,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token of a form that its makers publish, put together so that this file has none.
    fn token(letter: char) -> String {
        format!(
            "gh{}_{}",
            'p',
            format!("x9Kd7Qm2Wz4Rt8Yb1Nc6{letter}").repeat(2).get(..36).unwrap()
        )
    }

    #[test]
    fn secrets_are_found_in_the_texts_of_lines() {
        let rules = SecretRules::standard().unwrap();
        let (a, b) = (token('a'), token('b'));
        let lines = format!(
            "{{\"type\":\"user\"}}\n{{\"x\":{{\"content\":\"A=1\\nGITHUB={a}\\n{b}\"}}}}\n{{\"again\":\"{a}\"}}\n"
        );
        let found = search(&rules, "session.jsonl", lines.as_bytes());
        let places: Vec<_> = found.iter().map(|it| (it.line, it.file.as_str())).collect();
        assert_eq!(places, [(2, "session.jsonl"); 2], "{found:?}");
        assert!(!format!("{found:?}").contains(&a));
        // One that was cut off, and a file without lines of JSON.
        let found = search(&rules, "session.jsonl", format!("{{}}\n{{\"x\":\"{a}").as_bytes());
        assert_eq!(found.first().map(|it| it.line), Some(2), "{found:?}");
        let found = search(&rules, "session/tool-results/x.txt", format!("a\nb\n{a}\n").as_bytes());
        assert_eq!(found.first().map(|it| it.line), Some(3));
        assert_eq!(search(&rules, "session.jsonl", b"{\"a\":\"nothing\"}\n"), []);
    }

    #[test]
    fn a_secret_far_into_a_long_line_is_found() {
        let rules = SecretRules::standard().unwrap();
        for before in [LOOKED_AT - 20, 3 * LOOKED_AT] {
            let line = format!("{{\"x\":\"{} {}\"}}\n", "word ".repeat(before / 5), token('a'));
            assert_eq!(search(&rules, "session.jsonl", line.as_bytes()).len(), 1, "{before}");
            let text = format!("{} {}\n", "word ".repeat(before / 5), token('a'));
            assert_eq!(search(&rules, "x.txt", text.as_bytes()).len(), 1, "{before}");
        }
    }
}
