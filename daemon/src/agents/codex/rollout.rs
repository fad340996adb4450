//! Names of the files in which Codex keeps conversations.

use baton_protocol::path::RelPath;
use baton_store::folder::{Folder, FolderError, Kind};

use super::super::session::is_id;

const BEGIN: &str = "rollout-";
const END: &str = ".jsonl";
const COMPRESSED: &str = ".jsonl.zst";

/// Letters of an id.
const ID: usize = 36;

/// A file by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rollout {
    /// Below the folder.
    pub(super) at: RelPath,
    /// When it was begun: `2026-11-27T00-12-30`, in the time of the place.
    pub(super) time: String,
    pub(super) id: String,
    pub(super) is_compressed: bool,
}

impl Rollout {
    /// Nothing where it has another form.
    pub(super) fn parse(at: &RelPath) -> Option<Self> {
        let (_, file) = at.split_last()?;
        let text = std::str::from_utf8(file).ok()?.strip_prefix(BEGIN)?;
        let (rest, is_compressed) = match text.strip_suffix(COMPRESSED) {
            Some(rest) => (rest, true),
            None => (text.strip_suffix(END)?, false),
        };
        let cut = rest.len().checked_sub(ID)?;
        let (time, id) = (rest.get(..cut)?.strip_suffix('-')?, rest.get(cut..)?);
        (is_id(id) && is_time(time)).then(|| Self {
            at: at.clone(),
            time: time.to_owned(),
            id: id.to_owned(),
            is_compressed,
        })
    }

    /// The name in a conversation, and the place that the program would give it.
    pub(super) fn name(&self) -> Vec<u8> {
        let day = self.time.get(..10).unwrap_or_default().replace('-', "/");
        format!("sessions/{day}/{BEGIN}{}-{}{END}", self.time, self.id).into_bytes()
    }

    pub(super) fn with_id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.id);
        self
    }
}

/// The name in a conversation of a file that has one.
pub(super) fn name(file: &[u8]) -> Vec<u8> {
    let at = RelPath::new(file).unwrap_or_default();
    Rollout::parse(&at).map_or_else(|| file.to_vec(), |rollout| rollout.name())
}

/// `2026-11-27T00-12-30`
fn is_time(text: &str) -> bool {
    let form = |(byte, form): (u8, u8)| match form {
        b'0' => byte.is_ascii_digit(),
        _ => byte == form,
    };
    text.len() == 19 && text.bytes().zip(*b"0000-00-00T00-00-00").all(form)
}

/// All files, the newest first, also those that were put away.
pub(super) fn all(folder: &Folder) -> Result<Vec<Rollout>, FolderError> {
    let mut found = Vec::new();
    let top = |name: &str| RelPath::new(name.as_bytes()).unwrap_or_default();
    for name in ["sessions", "archived_sessions"] {
        below(folder, &top(name), 0, &mut found)?;
    }
    found.sort_by(|a: &Rollout, b: &Rollout| (&b.time, &b.id).cmp(&(&a.time, &a.id)));
    Ok(found)
}

fn below(
    folder: &Folder,
    directory: &RelPath,
    level: usize,
    found: &mut Vec<Rollout>,
) -> Result<(), FolderError> {
    for (name, kind) in folder.list(directory)? {
        let at = directory.join(&name);
        match kind {
            Kind::File => found.extend(Rollout::parse(&at)),
            // Year, month and day.
            Kind::Directory if level < 3 => {
                if let Err(error) = below(folder, &at, level + 1, found) {
                    tracing::warn!(%error, "conversations of some days are passed over");
                }
            }
            Kind::Directory | Kind::Other => {}
        }
    }
    Ok(())
}
