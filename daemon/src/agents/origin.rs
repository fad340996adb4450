//! What is kept of the machine that a conversation comes from: beside the transcript, as a file of it.
//!
//! **Invariant:** the same conversation on the same machine has the same one, so that nothing new is stored for it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The name of the file among those of the transcript.
pub(super) const NAME: &str = "origin.json";

/// Longest one that is read.
pub(super) const MAX_LEN: u64 = 64 * 1024;

/// The form of the file.
const FORMAT: u32 = 1;

/// Where a conversation comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    format: u32,
    /// Of the agent's program, as the transcript says.
    pub version: Option<String>,
    /// The root of the workspace.
    pub root: PathBuf,
    /// Where the agent was started.
    pub cwd: PathBuf,
    /// The folder of the agent.
    pub folder: PathBuf,
    /// The home of the user.
    pub home: Option<PathBuf>,
    /// The main file: its name among those of the transcript.
    pub main: String,
    /// Where it lay in the folder.
    pub at: String,
    /// Where the last turn begins in it.
    pub last_turn: Option<u64>,
    /// Where the turn begins in it that asked for the handoff, where that had not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handoff: Option<u64>,
}

impl Origin {
    /// One of this version.
    #[expect(clippy::too_many_arguments, reason = "its fields")]
    pub(super) const fn new(
        version: Option<String>,
        root: PathBuf,
        cwd: PathBuf,
        folder: PathBuf,
        home: Option<PathBuf>,
        main: String,
        at: String,
        last_turn: Option<u64>,
        handoff: Option<u64>,
    ) -> Self {
        Self { format: FORMAT, version, root, cwd, folder, home, main, at, last_turn, handoff }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // Paths that are no UTF-8 are refused before.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Nothing where it is none, or of a form that this version does not know.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let origin: Self = serde_json::from_slice(bytes).ok()?;
        let absolute =
            [&origin.root, &origin.cwd, &origin.folder].iter().all(|it| it.is_absolute());
        (origin.format == FORMAT && absolute).then_some(origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_version_wrote_is_read() {
        let text = r#"{"format":1,"version":"2.1.0","root":"/r","cwd":"/r/x","folder":"/h/.a","home":null,"main":"m","at":"p/m","last_turn":7}"#;
        let origin = Origin::decode(text.as_bytes()).unwrap();
        assert_eq!((origin.cwd.to_str(), origin.last_turn), (Some("/r/x"), Some(7)));
        assert_eq!((origin.encode().as_slice(), origin.handoff), (text.as_bytes(), None));
        let asked = text.replace("\"last_turn\":7", "\"last_turn\":7,\"handoff\":7");
        assert_eq!(Origin::decode(asked.as_bytes()).unwrap().handoff, Some(7));
        for (from, to) in [("\"format\":1", "\"format\":2"), ("/r/x", "r/x"), ("{", "")] {
            assert_eq!(Origin::decode(text.replacen(from, to, 1).as_bytes()), None);
        }
    }
    #[test]
    fn origins() {
        let corpus = crate::fuzz::fuzzing::texts(&[
            r#"{"format":1,"version":"2.1.0","root":"/r","cwd":"/r/x","folder":"/h/.a","home":null,"main":"m","at":"p/m","last_turn":7}"#,
            r#"{"format":1,"version":null,"root":"/r","cwd":"/r","folder":"/h/.a","home":"/h","main":"m","at":"p/m","last_turn":null,"handoff":3}"#,
        ]);
        crate::fuzz::fuzzing::fuzz(corpus, |_, input| {
            let origin = crate::fuzz::fuzzing::within(input, 64, 8192, Origin::decode);
            origin
                .inspect(|origin| {
                    assert!(origin.root.is_absolute() && origin.cwd.is_absolute());
                    assert_eq!(Origin::decode(&origin.encode()).as_ref(), Some(origin));
                })
                .is_some()
        });
    }
}
