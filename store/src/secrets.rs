//! What looks like a secret and must not leave by itself: keys, tokens and passwords in the content
//! of a file.
//!
//! Not here: which files are looked at, and what becomes of a finding. The scan asks for every changed
//! file that git does not track, and holds back what is found unless the user allowed it
//! ([`crate::catalog::held`]).
//!
//! - [`words`]: finding what the rules begin with
//! - [`judge`]: what is a placeholder, and what was drawn at random
//! - [`shape`]: how the rules say what a token looks like, and how that is matched
//! - [`table`]: the tokens whose form their makers publish
//! - [`assigned`]: values without a form, known by what they are assigned to
//! - [`container`]: key files that are no text
//! - [`known`]: values that somebody said are secret
//!
//! One pass over the first [`LOOKED_AT`] bytes finds the words that the rules begin with; at each word a few
//! bytes are compared. No regular expression runs: the forms that are published are prefixes, alphabets and
//! lengths. The tables of those take 200 KB, where as many compiled expressions take most of what the daemon may
//! have.
//!
//! A name alone is never a finding. A `.env`, an `.npmrc`, a `credentials.json` is handed over like
//! any other file; what holds it back is a secret inside, or that it *is* a key.
//!
//! Not seen: what is compressed, encoded or not in an encoding that contains ASCII; what stands after
//! the first [`LOOKED_AT`] bytes; a password that people made up, outside of files of settings.
//!
//! **Invariant:** nothing that leaves this module contains a byte of what was found: a finding is the
//! name of a rule, a line, and a keyed hash.

mod words;
mod judge;
mod shape;
mod table;
mod assigned;
mod container;
pub mod known;

use std::ops::{ControlFlow, Range};

use gix::bstr::BStr;
use gix::glob::Pattern;
use gix::glob::pattern::Case;
use gix::glob::wildmatch::Mode;

use shape::Text;
use words::{Word, Words};

/// How much of a file is looked at, in bytes.
pub const LOOKED_AT: usize = 1 << 20;

/// A zero byte within so many bytes makes a file binary; git's own rule.
const BINARY_WITHIN: usize = 8000;

/// A prefix that stands in ordinary text often holds back everything.
const LEAST_PREFIX: usize = 4;

/// The name of the rule that a prefix of the user's makes.
const OWN: &str = "own-prefix";

/// Why a file is held back. Never what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which rule.
    pub rule: &'static str,
    /// Where, counted from 1; 1 in a file that is no text.
    pub line: u64,
    /// A keyed hash of what was found: the same secret has the same one in every file of a home, and
    /// another one in another home.
    pub fingerprint: [u8; 32],
}

/// What is to be looked for, beside the standard rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretOptions {
    /// What keys the fingerprints: random, and kept with the home.
    pub key: [u8; 32],
    /// What the user's own tokens begin with.
    pub prefixes: Vec<String>,
    /// Which files are never held back: patterns as in `.gitignore`, the last one that matches
    /// decides.
    pub allow: Vec<String>,
}

/// An option cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SecretRulesError {
    /// A prefix would hold back ordinary text.
    #[error(
        "the prefix {prefix:?} is not {LEAST_PREFIX} to 64 ASCII characters without white space"
    )]
    Prefix {
        /// Which one.
        prefix: String,
    },
    /// A pattern is empty or a comment.
    #[error("{pattern:?} is no pattern")]
    Pattern {
        /// Which one.
        pattern: String,
    },
}

/// Every rule, ready to be used by several threads. Made once; about 200 KB.
#[derive(Debug)]
pub struct SecretRules {
    words: Words,
    /// What each word begins, by its number.
    meanings: Vec<Meaning>,
    key: [u8; 32],
    allow: Vec<Pattern>,
}

#[derive(Clone, Copy, Debug)]
enum Meaning {
    /// A row of the table.
    Row(&'static shape::Row),
    /// What a secret is assigned to.
    Key(assigned::Kind),
    /// `://`, after which a password may stand.
    Url,
    /// A prefix of the user's.
    Own,
}

impl SecretRules {
    /// The standard rules alone, with fingerprints that are the same everywhere.
    pub fn standard() -> Result<Self, SecretRulesError> {
        Self::new(&SecretOptions::default())
    }

    /// The standard rules and the user's.
    pub fn new(options: &SecretOptions) -> Result<Self, SecretRulesError> {
        let mut words = Vec::new();
        let mut meanings = Vec::new();
        for row in table::ROWS {
            words.push(Word { text: row.word, any_case: row.any_case });
            meanings.push(Meaning::Row(row));
        }
        for &(word, kind) in assigned::WORDS {
            words.push(Word { text: word, any_case: true });
            meanings.push(Meaning::Key(kind));
        }
        words.push(Word { text: "://", any_case: false });
        meanings.push(Meaning::Url);
        for prefix in &options.prefixes {
            let fits = (LEAST_PREFIX..=64).contains(&prefix.len());
            if !fits || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(SecretRulesError::Prefix { prefix: prefix.clone() });
            }
            words.push(Word { text: prefix, any_case: true });
            meanings.push(Meaning::Own);
        }
        let words = Words::new(&words);
        let pattern = |text: &String| {
            Pattern::from_bytes(text.as_bytes())
                .ok_or_else(|| SecretRulesError::Pattern { pattern: text.clone() })
        };
        let allow = options.allow.iter().map(pattern).collect::<Result<_, _>>()?;
        Ok(Self { words, meanings, key: options.key, allow })
    }

    /// How many rules there are.
    pub fn count(&self) -> usize {
        self.meanings.len() + container::COUNT
    }

    /// The first finding in the file at `path`, relative to the root of its workspace. Of `bytes` at
    /// most [`LOOKED_AT`] are looked at: the beginning of a file is enough.
    pub fn scan(&self, path: &[u8], bytes: &[u8]) -> Option<Finding> {
        self.scan_unless(path, bytes, |_| false)
    }

    /// The first finding that `is_allowed` does not let through. To allow one secret of a file is
    /// not to allow the next.
    pub fn scan_unless(
        &self,
        path: &[u8],
        bytes: &[u8],
        is_allowed: impl Fn(&Finding) -> bool,
    ) -> Option<Finding> {
        if self.is_allowed(path) {
            return None;
        }
        self.look(bytes, assigned::is_settings(path), is_allowed)
    }

    /// The same in a text that is no file of a workspace, such as what somebody has said or a tool has printed: no
    /// pattern allows it, and a setting is looked for wherever one may stand.
    pub fn scan_said(
        &self,
        bytes: &[u8],
        is_allowed: impl Fn(&Finding) -> bool,
    ) -> Option<Finding> {
        self.look(bytes, true, is_allowed)
    }

    fn look(
        &self,
        bytes: &[u8],
        is_settings: bool,
        is_allowed: impl Fn(&Finding) -> bool,
    ) -> Option<Finding> {
        let bytes = bytes.get(..LOOKED_AT).unwrap_or(bytes);
        if let Some(rule) = container::recognise(bytes) {
            let finding = Finding { rule, line: 1, fingerprint: self.fingerprint(bytes) };
            return (!is_allowed(&finding)).then_some(finding);
        }
        if bytes.get(..BINARY_WITHIN).unwrap_or(bytes).contains(&0) {
            return None;
        }
        let text = Text { bytes, is_settings };
        let mut lines = Lines { bytes, at: 0, line: 1 };
        // Words may stand inside of others, so that every one is looked at.
        self.words.visit(bytes, |word, place| {
            let Some(meaning) = self.meanings.get(word) else { return ControlFlow::Continue(()) };
            let found = match meaning {
                Meaning::Row(row) => row.find(text, place.start).map(|at| (row.rule, at)),
                Meaning::Key(kind) => assigned::value(text, place, *kind)
                    .map(|found| self.known_in(text, &found.1).unwrap_or(found)),
                Meaning::Url => assigned::password_of_url(text, place.end),
                Meaning::Own => shape::own(text, place).map(|at| (OWN, at)),
            };
            let Some((rule, at)) = found else { return ControlFlow::Continue(()) };
            let line = lines.of(at.start);
            let secret = bytes.get(at).unwrap_or_default();
            let finding = Finding { rule, line, fingerprint: self.fingerprint(secret) };
            if is_allowed(&finding) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(finding)
            }
        })
    }

    /// A token of a known form in a value: it is called by its name, wherever it stands.
    fn known_in(
        &self,
        text: Text<'_>,
        value: &Range<usize>,
    ) -> Option<(&'static str, Range<usize>)> {
        self.words.visit(text.bytes.get(value.clone())?, |word, place| {
            let found = match self.meanings.get(word) {
                Some(Meaning::Row(row)) => {
                    row.find(text, value.start + place.start).map(|at| (row.rule, at))
                }
                _ => None,
            };
            found.map_or(ControlFlow::Continue(()), ControlFlow::Break)
        })
    }

    /// Whether the user's patterns allow whatever stands in this file.
    fn is_allowed(&self, path: &[u8]) -> bool {
        let basename = path.iter().rposition(|&byte| byte == b'/').map(|at| at + 1);
        let matches = |pattern: &&Pattern| {
            pattern.matches_repo_relative_path(
                BStr::new(path),
                basename,
                Some(false),
                Case::Sensitive,
                Mode::NO_MATCH_SLASH_LITERAL,
            )
        };
        self.allow.iter().rfind(matches).is_some_and(|pattern| !pattern.is_negative())
    }

    fn fingerprint(&self, secret: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.key, secret).as_bytes()
    }
}

/// Counts lines from one finding to the next: a file may hold one allowed secret thousands of times.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u64,
}

impl Lines<'_> {
    /// The line of this byte, counted from 1.
    fn of(&mut self, index: usize) -> u64 {
        if index < self.at {
            (self.at, self.line) = (0, 1);
        }
        let passed = self.bytes.get(self.at..index).unwrap_or_default();
        self.line += passed.split(|&byte| byte == b'\n').count().saturating_sub(1) as u64;
        self.at = index;
        self.line
    }
}

#[cfg(test)]
mod survey;
#[cfg(test)]
mod tests;
