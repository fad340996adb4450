//! What looks like a secret in a conversation: the rules of the store over what its lines say, with the escapes of JSON
//! taken out.
//!
//! A tool that prints a file of settings puts it into the transcript, and a transcript of a year has been seen with
//! live keys in it. So every text is looked at as one of settings, in which a value may stand without quotes; a text
//! stands behind the name of its member, for the name may be what says that it is a secret; and what is JSON inside of a
//! text is looked at as what it says, too. What is found never leaves this module: a finding is a rule, a place and a
//! keyed hash.
//!
//! **Invariant:** memory is bounded by a few windows, however long a line is.

use std::cell::RefCell;
use std::path::Path;

use baton_store::catalog::held::Allowed;
use baton_store::secrets::known::KnownValues;
use baton_store::secrets::{Finding, LOOKED_AT, SecretRules};

use super::json::texts;
use super::lines::{Lines, Piece};

/// Findings of a conversation that are kept; more do not change what is to be done.
pub const MOST: usize = 20;

/// What a window of a long text has in common with the one before, so that nothing is cut in two.
const OVERLAP: usize = 8 * 1024;

/// How often the escapes of a text are taken out once more: a tool's answer may be JSON, which has JSON in it.
const MORE_LEVELS: usize = 2;

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub enum Looking<'a> {
    /// What looks like a secret.
    Rules {
        /// The rules.
        rules: &'a SecretRules,
        /// What the user lets through in the workspace.
        allowed: &'a Allowed,
    },
    /// What is known to be one.
    Known(&'a KnownValues),
}

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

impl Found {
    /// As the store keeps it.
    pub fn finding(&self) -> Finding {
        Finding { rule: self.rule, line: self.line, fingerprint: self.fingerprint }
    }
}

/// Looks through one file as it passes by.
pub(super) struct Search<'a> {
    seeing: Seeing<'a>,
    is_json: bool,
    /// The line of the first byte of the text.
    line: u64,
    /// What was not looked at yet: lines of a file that has no JSON, or a part of a line that is too long.
    text: Vec<u8>,
    /// Newlines in it.
    newlines: u64,
    /// Text of the values of a line.
    values: Vec<u8>,
}

impl<'a> Search<'a> {
    pub(super) fn new(looking: Looking<'a>, file: String) -> Self {
        let is_json = Path::new(&file).extension().is_some_and(|it| it == "jsonl");
        let seeing = Seeing { looking, file, found: Vec::new() };
        Self { seeing, is_json, line: 1, text: Vec::new(), newlines: 0, values: Vec::new() }
    }

    pub(super) fn piece(&mut self, piece: Piece<'_>) {
        match piece {
            Piece::Line(line) if self.is_json => {
                self.json(line);
                self.line += 1;
            }
            Piece::Part(bytes) if self.is_json => self.long(bytes),
            Piece::Line(bytes) => {
                if bytes.contains(&b'\\') {
                    let line = self.line + self.newlines;
                    self.values.clear();
                    for window in windows(bytes) {
                        plainly(window, &mut self.values);
                        self.seeing.look(&self.values, |_| line);
                        self.values.clear();
                    }
                }
                self.plain(bytes);
            }
            Piece::Part(bytes) => self.plain(bytes),
        }
    }

    pub(super) fn end(mut self) -> Vec<Found> {
        if self.is_json {
            self.end_of_long();
        } else {
            self.flush(0);
        }
        self.seeing.found
    }

    /// A line of JSON, or what is to be one.
    fn json(&mut self, line: &[u8]) {
        let Self { seeing, values, line: number, .. } = self;
        let number = *number;
        values.clear();
        let mut see = |name: Option<&[u8]>, value: &[u8]| {
            for window in windows(value) {
                if let Some(name) = name {
                    unescape(name, values);
                    values.extend_from_slice(b": \"");
                }
                plainly(window, values);
                values.extend_from_slice(b"\"\n");
                if values.len() >= LOOKED_AT / 2 {
                    seeing.look(values, |_| number);
                    values.clear();
                }
            }
        };
        if !texts(line, &mut see) {
            see(None, line);
        }
        seeing.look(values, |_| number);
        values.clear();
    }

    /// A part of a line that is too long to be taken apart.
    fn long(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
        if bytes.ends_with(b"\n") {
            self.end_of_long();
            self.line += 1;
        } else if self.text.len() >= LOOKED_AT {
            self.see_long();
            let keep = self.text.len().saturating_sub(OVERLAP);
            self.text.drain(..keep);
        }
    }

    fn end_of_long(&mut self) {
        self.see_long();
        self.text = Vec::new();
    }

    fn see_long(&mut self) {
        for window in windows(&self.text) {
            self.values.clear();
            plainly(window, &mut self.values);
            self.seeing.look(&self.values, |_| self.line);
        }
    }

    /// Bytes of a file that has no JSON.
    fn plain(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
        self.newlines += newlines(bytes);
        if self.text.len() >= LOOKED_AT {
            self.flush(OVERLAP);
        }
    }

    /// Looks at what is there, and keeps so much of its end.
    fn flush(&mut self, keep: usize) {
        let mut line = self.line;
        for window in windows(&self.text) {
            self.seeing.look(window, |further| line + further - 1);
            let passed = window.len() - OVERLAP.min(window.len());
            line += newlines(window.get(..passed).unwrap_or_default());
        }
        let passed = self.text.len().saturating_sub(keep);
        let lines = newlines(self.text.get(..passed).unwrap_or_default());
        self.line += lines;
        self.newlines -= lines;
        self.text.drain(..passed);
    }
}

/// What was found so far.
struct Seeing<'a> {
    looking: Looking<'a>,
    file: String,
    found: Vec<Found>,
}

impl Seeing<'_> {
    /// Looks at a text; `line` says which line of the file is the one of that number in it.
    fn look(&mut self, text: &[u8], line: impl Fn(u64) -> u64) {
        if self.found.len() >= MOST {
            return;
        }
        for window in windows(text) {
            self.window(window, &line);
            // A text with a zero byte is none by the rules, and what a tool has printed may have one.
            if window.contains(&0) {
                let text: Vec<_> =
                    window.iter().map(|&byte| if byte == 0 { b' ' } else { byte }).collect();
                self.window(&text, &line);
            }
        }
    }

    fn window(&mut self, window: &[u8], line: &impl Fn(u64) -> u64) {
        let (rules, allowed) = match self.looking {
            Looking::Rules { rules, allowed } => (rules, allowed),
            Looking::Known(known) => {
                if let Some(Finding { rule, line: at, fingerprint }) = known.finding(window) {
                    let file = self.file.clone();
                    self.found.push(Found { file, line: line(at), rule, fingerprint });
                }
                return;
            }
        };
        let all = RefCell::new(Vec::new());
        let most = MOST.saturating_sub(self.found.len());
        let note = |finding: &Finding| {
            let mut all = all.borrow_mut();
            let known = self.found.iter().any(|it| it.fingerprint == finding.fingerprint)
                || all.iter().any(|it: &Finding| it.fingerprint == finding.fingerprint);
            if !known && !allowed.permits_finding(finding) {
                all.push(finding.clone());
            }
            all.len() < most
        };
        let _last = rules.scan_said(window, note);
        for Finding { rule, line: at, fingerprint } in all.into_inner() {
            self.found.push(Found { file: self.file.clone(), line: line(at), rule, fingerprint });
        }
    }
}

/// Parts of a text that the rules take, each of which begins in the one before.
fn windows(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text).filter(|text| !text.is_empty());
    std::iter::from_fn(move || {
        let text = rest?;
        let window = text.get(..LOOKED_AT).unwrap_or(text);
        let next = (window.len() < text.len()).then(|| text.get(LOOKED_AT - OVERLAP..));
        rest = next.flatten();
        Some(window)
    })
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.split(|&byte| byte == b'\n').count().saturating_sub(1) as u64
}

/// The text of a JSON string, and behind it what that says where it has escapes itself.
fn plainly(text: &[u8], to: &mut Vec<u8>) {
    let mut from = to.len();
    unescape(text, to);
    for _ in 0..MORE_LEVELS {
        let last = to.get(from..).unwrap_or_default().to_vec();
        if !last.contains(&b'\\') {
            break;
        }
        to.push(b'\n');
        from = to.len();
        unescape(&last, to);
    }
}

/// Looks through a text that is in memory.
pub fn search(looking: Looking<'_>, file: &str, bytes: &[u8]) -> Vec<Found> {
    let mut search = Search::new(looking, file.to_owned());
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

    fn search(file: &str, text: &str) -> Vec<Found> {
        let rules = SecretRules::standard().unwrap();
        let allowed = Allowed::default();
        super::search(Looking::Rules { rules: &rules, allowed: &allowed }, file, text.as_bytes())
    }

    #[test]
    fn secrets_are_found_in_the_texts_of_lines() {
        let (a, b) = (token('a'), token('b'));
        let lines = format!(
            "{{\"type\":\"user\"}}\n{{\"x\":{{\"content\":\"A=1\\nGITHUB={a}\\n{b}\"}}}}\n{{\"again\":\"{a}\"}}\n"
        );
        let found = search("session.jsonl", &lines);
        let places: Vec<_> = found.iter().map(|it| (it.line, it.file.as_str())).collect();
        assert_eq!(places, [(2, "session.jsonl"); 2], "{found:?}");
        assert!(!format!("{found:?}").contains(&a));
        // One that was cut off, and a file without lines of JSON.
        let found = search("session.jsonl", &format!("{{}}\n{{\"x\":\"{a}"));
        assert_eq!(found.first().map(|it| it.line), Some(2), "{found:?}");
        let found = search("session/tool-results/x.txt", &format!("a\nb\n{a}\n"));
        assert_eq!(found.first().map(|it| it.line), Some(3));
        assert_eq!(search("session.jsonl", "{\"a\":\"nothing\"}\n"), []);
    }

    /// A value without a form of its own, drawn at random.
    const VALUE: &str = "q7Zk2mXv9RtL4wBn8sYc";

    #[test]
    fn a_setting_without_quotes_is_found_wherever_it_was_printed() {
        let env = format!("A=1\nAPI_TOKEN={VALUE}\n");
        let one = |file: &str, text: &str, line| {
            let found = search(file, text);
            assert_eq!(found.iter().map(|it| it.line).collect::<Vec<_>>(), [line], "{file} {text}");
        };
        one("file-history/a@v1", &env, 2);
        one("session/tool-results/x.txt", &env, 2);
        one("session/tool-results/x.txt", &format!("a\0b\n{env}"), 3);
        // As what a tool printed, once and twice inside of JSON.
        let once = serde_json::json!({ "output": env }).to_string();
        let twice = serde_json::json!({ "payload": { "output": once } }).to_string();
        let thrice = serde_json::json!({ "x": [twice] }).to_string();
        for text in [&once, &twice, &thrice] {
            one("session.jsonl", &format!("{{}}\n{text}\n"), 2);
            one("session/tool-results/x.txt", &format!("\n\n{text}\n"), 3);
        }
        let numbered = format!("     7\u{2192}API_TOKEN={VALUE}\n");
        one("session.jsonl", &serde_json::json!({ "content": [numbered] }).to_string(), 1);
    }

    #[test]
    fn a_value_is_found_by_the_name_of_its_member() {
        let line = serde_json::json!({ "input": { "env": { "AWS_SECRET_ACCESS_KEY": VALUE } } });
        assert_eq!(search("session.jsonl", &line.to_string()).len(), 1);
        let inner = serde_json::json!({ "arguments": line.to_string() }).to_string();
        assert_eq!(search("session.jsonl", &inner).len(), 1);
        let listed = serde_json::json!({ "api_key": [VALUE] }).to_string();
        assert_eq!(search("session.jsonl", &listed).len(), 1);
        let id = serde_json::json!({ "sessionId": VALUE, "signature": VALUE }).to_string();
        assert_eq!(search("session.jsonl", &id), []);
    }

    #[test]
    fn patterns_of_files_allow_nothing_and_findings_what_was_named() {
        let options = baton_store::secrets::SecretOptions {
            allow: ["*.jsonl", "*.txt", "session*"].map(str::to_owned).to_vec(),
            ..Default::default()
        };
        let rules = SecretRules::new(&options).unwrap();
        let text = format!("{}\n", token('a'));
        let folder = tempfile::tempdir().unwrap();
        let workspaces = crate::workspace::tests::workspaces(folder.path());
        let workspace = workspaces.find_or_add(folder.path()).unwrap().id;
        let look = || {
            let allowed = workspaces.catalog.allowed(workspace).unwrap();
            let looking = Looking::Rules { rules: &rules, allowed: &allowed };
            super::search(looking, "session/tool-results/x.txt", text.as_bytes())
        };
        let found = look();
        assert_eq!(found.len(), 1);
        workspaces.catalog.allow_finding(workspace, &found[0].fingerprint, 1).unwrap();
        assert_eq!(look(), []);
    }

    #[test]
    fn a_secret_far_into_a_long_line_is_found() {
        for before in [LOOKED_AT / 2 - 20, LOOKED_AT - 20, 3 * LOOKED_AT] {
            let line = format!("{{\"x\":\"{} {}\"}}\n", "word ".repeat(before / 5), token('a'));
            assert_eq!(search("session.jsonl", &line).len(), 1, "{before}");
            let text = format!("{} {}\n", "word ".repeat(before / 5), token('a'));
            assert_eq!(search("x.txt", &text).len(), 1, "{before}");
        }
    }

    #[test]
    fn a_secret_is_found_wherever_the_pieces_were_cut() {
        let rules = SecretRules::standard().unwrap();
        let allowed = Allowed::default();
        let looking = Looking::Rules { rules: &rules, allowed: &allowed };
        let token = token('a');
        // Cut in two by the window: as lines, and as parts of a line that is too long.
        for cut in [1, 10, 30] {
            let filler = "word\n".repeat((LOOKED_AT - 100) / 5);
            let gap = " ".repeat(LOOKED_AT - cut - filler.len());
            let text = format!("{filler}{gap}{token} end\n");
            let found = super::search(looking, "x.txt", text.as_bytes());
            let lines: Vec<_> = found.iter().map(|it| it.line).collect();
            assert_eq!(lines, [text.lines().count() as u64], "{cut}");
            let mut search = Search::new(looking, "session.jsonl".to_owned());
            let text = text.replace('\n', " ") + "\n";
            text.as_bytes().chunks(4096).for_each(|part| search.piece(Piece::Part(part)));
            let lines: Vec<_> = search.end().iter().map(|it| it.line).collect();
            assert_eq!(lines, [1], "{cut}");
        }
    }
}
