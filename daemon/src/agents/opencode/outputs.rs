//! Outputs of tools that were too long for a part, and that a part names: files beside the database.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;

use baton_protocol::path::RelPath;
use baton_store::folder::{Folder, FolderError};
use baton_store::fs;

use super::super::session::{AgentError, Files, Reason};
use super::is_id_of;

/// Where they are, in the folder and in a conversation.
pub(super) const FOLDER: &str = "tool-output";

/// What the program calls one.
const OUTPUT: &str = "tool_";

/// Of one conversation.
const MOST: usize = 200;

/// Longest one.
const MAX_FILE: u64 = 64 << 20;

/// Whether a file of a conversation is one.
pub(super) fn is_one(name: &RelPath) -> bool {
    let text = std::str::from_utf8(name.as_bytes()).unwrap_or_default();
    let id = text.strip_prefix(FOLDER).and_then(|rest| rest.strip_prefix('/'));
    id.is_some_and(|id| is_id_of(OUTPUT, id))
}

/// Those that a part names.
pub(super) fn find(part: &str, found: &mut BTreeSet<String>) {
    let mut rest = part;
    while let Some((_, after)) = rest.split_once("tool-output/") {
        rest = after;
        let is_of_id = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = after.find(|c: char| !is_of_id(c)).unwrap_or(after.len());
        let id = after.get(..end).unwrap_or_default();
        if is_id_of(OUTPUT, id) && found.len() < MOST {
            found.insert(id.to_owned());
        }
    }
}

/// Copies those of these names into a folder; one that the program has removed is none.
pub(super) fn copy(
    folder: &Folder,
    found: &BTreeSet<String>,
    into: &Path,
    files: &mut Files,
) -> Result<(), AgentError> {
    for id in found {
        // An id has letters and digits.
        let at = RelPath::new(format!("{FOLDER}/{id}").as_bytes()).unwrap_or_default();
        let file = match folder.file(&at) {
            Ok(Some(file)) => file,
            Ok(None) => continue,
            Err(FolderError::Fs(error)) => return Err(FolderError::Fs(error).into()),
            Err(_) => {
                files.leave_out(&at, Reason::Special);
                continue;
            }
        };
        let failed = |source| AgentError::Read { path: folder.path_of(&at), source };
        if file.metadata().map_err(failed)?.len() > MAX_FILE {
            files.leave_out(&at, Reason::NotCarried);
            continue;
        }
        fs::create_dir_all(&into.join(FOLDER)).map_err(FolderError::from)?;
        let path = into.join(FOLDER).join(id);
        let mut out = fs::create_new(&path).map_err(FolderError::from)?;
        io::copy(&mut file.take(MAX_FILE), &mut out).map_err(failed)?;
    }
    Ok(())
}
