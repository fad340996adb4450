//! Bytes and paths as answers carry them, what was found damaged, and the receipt: the same object on both ends of a handoff.

#![expect(missing_docs, reason = "the fields are those of the command-line contract")]

use serde::{Deserialize, Serialize};

/// Raw bytes as base64 in JSON.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&data_encoding::BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        data_encoding::BASE64.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// A path as reports carry it: lossy for people, and exact where that loses something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportPath {
    /// UTF-8, lossy.
    pub path: String,
    /// The exact bytes as base64, only where `path` is lossy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<Bytes>,
}

impl ReportPath {
    /// From raw bytes.
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(path) => Self { path: path.to_owned(), path_b64: None },
            Err(_) => Self {
                path: String::from_utf8_lossy(bytes).into_owned(),
                path_b64: Some(Bytes(bytes.to_vec())),
            },
        }
    }
}

/// A path that a snapshot left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OmittedEntry {
    #[serde(flatten)]
    pub path: ReportPath,
    pub reason: String,
}

/// What was carried, what was not, and why: the same object on both ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub snapshot: String,
    pub root: String,
    /// Whether every byte was checked against its hash.
    pub verified: bool,
    /// Whether the run is in a room; null where there is no run.
    pub isolated: Option<bool>,
    /// The repository; null where there is none, or where it did not travel.
    pub git: Option<GitReceipt>,
    /// The conversation of an agent; null where none travels.
    pub conversation: Option<ConversationReceipt>,
    pub attachments: Vec<String>,
    pub omitted: Vec<OmittedEntry>,
}

/// The conversation of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationReceipt {
    pub agent: String,
    pub id: String,
    pub messages: u64,
}

/// What was carried of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitReceipt {
    /// The commit that `HEAD` leads to; null on a branch that is not born yet.
    pub head: Option<String>,
    /// Null where `HEAD` is detached.
    pub branch: Option<String>,
    pub index_entries: u64,
    pub stashes: u64,
    pub commits_carried: u64,
    /// What git is in the middle of.
    pub operation: Option<String>,
    /// Whether history ends before its beginning.
    pub shallow: bool,
    /// What did not travel, and what is to be looked at.
    pub omitted: Vec<GitOmittedEntry>,
}

/// Something of a repository that did not travel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitOmittedEntry {
    pub what: String,
    pub reason: String,
}

/// Damage that `check` found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// Which vault, segment, snapshot or path.
    pub what: String,
    /// What is wrong with it.
    pub detail: String,
}
