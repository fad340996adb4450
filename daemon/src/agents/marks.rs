//! Which conversation is at work in a workspace, as a hook of its agent has said: one small file a workspace, the last one
//! that spoke.
//!
//! Not here: who speaks. Written by the command line when an agent calls it, read by the daemon of the same home.
//!
//! **Invariant:** a mark decides between conversations that were found; it names no file that is opened.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use baton_store::fs::{self, FsError};
use serde::{Deserialize, Serialize};

use super::session::is_in;

/// Longest one that is read.
const MAX_LEN: u64 = 64 * 1024;

/// What a hook has said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The name of the agent.
    pub agent: String,
    /// The agent's own id of the conversation.
    pub session: String,
    /// Where the agent says that it keeps it.
    pub transcript_path: Option<PathBuf>,
    /// Where the agent works.
    pub cwd: PathBuf,
    /// When it was said, in milliseconds since 1970.
    pub at: u64,
}

impl Mark {
    /// The one of a workspace; nothing where none was set, or none that is understood.
    pub fn read(folder: &Path, root: &Path) -> Option<Self> {
        let root = real(root);
        let bytes = fs::read_if_exists(&file(folder, &root), MAX_LEN).ok().flatten()?;
        let mark: Self = serde_json::from_slice(&bytes).ok()?;
        is_in(&real(&mark.cwd), &root).then_some(mark)
    }

    /// Sets it for a workspace.
    pub fn write(&self, folder: &Path, root: &Path) -> Result<(), FsError> {
        fs::create_dir_all(folder)?;
        // Paths that are no UTF-8 have no conversations either.
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        fs::write_atomic(&file(folder, &real(root)), &bytes, 0o600)
    }

    /// Takes the one of a workspace away, if it is still of this session.
    pub fn forget(folder: &Path, root: &Path, agent: &str, session: &str) -> Result<(), FsError> {
        let is_its = |mark: &Self| mark.agent == agent && mark.session == session;
        if Self::read(folder, root).as_ref().is_some_and(is_its) {
            fs::remove_file(&file(folder, &real(root)))?;
        }
        Ok(())
    }
}

pub(super) fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Where the one of a root is.
pub(super) fn file(folder: &Path, root: &Path) -> PathBuf {
    let digest = ring::digest::digest(&ring::digest::SHA256, root.as_os_str().as_bytes());
    folder.join(format!("{}.json", data_encoding::HEXLOWER.encode(digest.as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_one_workspace_and_the_last_one_holds() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, root) = (dir.path().join("sessions"), dir.path().join("app"));
        fs::create_dir_all(&root.join("inner")).unwrap();
        assert_eq!(Mark::read(&folder, &root), None);
        let mark = |session: &str, cwd: &Path| Mark {
            agent: "claude".to_owned(),
            session: session.to_owned(),
            transcript_path: None,
            cwd: cwd.to_owned(),
            at: 7,
        };
        mark("a", &root).write(&folder, &root).unwrap();
        let last = mark("b", &root.join("inner"));
        last.write(&folder, &root).unwrap();
        assert_eq!(Mark::read(&folder, &root), Some(last.clone()));
        // By any name of the root, and of no other.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&root, &link).unwrap();
        assert_eq!(Mark::read(&folder, &link), Some(last));
        assert_eq!(Mark::read(&folder, &dir.path().join("app2")), None);
        // The one that ends takes no other one's with it.
        Mark::forget(&folder, &root, "claude", "a").unwrap();
        Mark::forget(&folder, &root, "codex", "b").unwrap();
        assert!(Mark::read(&folder, &root).is_some());
        Mark::forget(&folder, &root, "claude", "b").unwrap();
        assert_eq!(Mark::read(&folder, &root), None);
        Mark::forget(&folder, &root, "claude", "b").unwrap();
        // One of elsewhere, and what is no mark.
        mark("c", dir.path()).write(&folder, &root).unwrap();
        assert_eq!(Mark::read(&folder, &root), None);
        fs::write_atomic(&file(&folder, &real(&root)), b"{}", 0o600).unwrap();
        assert_eq!(Mark::read(&folder, &root), None);
    }
    #[test]
    fn marks_of_sessions() {
        use crate::fuzz::fuzzing::{self, fuzz_with, within};

        let dir = crate::fuzz::scratch();
        let (folder, root) = (dir.path().join("sessions"), dir.path().join("app"));
        fs::create_dir_all(&root.join("inner")).unwrap();
        fs::create_dir_all(&folder).unwrap();
        let at = file(&folder, &real(&root));
        // The place is that of this machine: it stands in an input under a name of its own.
        let corpus = fuzzing::texts(&[
            r#"{"agent":"claude","session":"a","transcript_path":null,"cwd":"/@ROOT","at":7}"#,
            r#"{"agent":"x","session":"b","transcript_path":"/y/z","cwd":"/@ROOT/inner","at":0}"#,
        ]);
        let here = real(&root).to_str().unwrap().to_owned();
        fuzz_with(1000, corpus, |_, input| {
            let text = String::from_utf8_lossy(input).replace("/@ROOT", &here);
            fs::write_whole(&at, text.as_bytes(), 0o600).unwrap();
            let found = within(text.as_bytes(), 32, 65_536, |_| Mark::read(&folder, &root));
            if let Some(mark) = &found {
                assert!(mark.cwd.starts_with(&here));
                mark.write(&folder, &root).unwrap();
                assert_eq!(Mark::read(&folder, &root).as_ref(), Some(mark));
            }
            // The same bytes as what an agent is to be told: given once, or not at all.
            fs::write_whole(&at.with_extension("told"), input, 0o600).unwrap();
            let told = super::super::told::take(&folder, &root);
            assert!(told.is_ok_and(|told| told.is_none_or(|told| told.as_bytes() == input)));
            assert_eq!(super::super::told::take(&folder, &root).unwrap(), None);
            found.is_some()
        });
    }
}
