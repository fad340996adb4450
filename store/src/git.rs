//! A git repository captured by meaning, and made again from that: `.git` never travels as files.
//!
//! Not here: the files of the worktree, which a scan and a checkout carry byte for byte, and which of
//! several states a snapshot names.
//!
//! - [`program`]: git itself, for what no library does, where nothing of a repository can reach it
//! - [`place`]: where a repository is, and its configuration as it stands there
//! - [`quarantine`]: objects that came and are not yet among its own
//! - [`view`]: what git sees of it
//! - [`settings`], [`files`], [`refs`], [`index`]: what is read and written of each
//! - [`stamp`]: whether all of it held still meanwhile
//! - [`glance`]: whether it is as it was when it was captured
//! - [`signs`]: where git shows that it is not
//! - [`objects`]: packs of what the other side lacks
//! - [`capture`]: all of that together; [`summary`]: what it says, for people
//! - [`rebuild`]: the same again elsewhere, or brought into what is there
//!
//! **Invariant:** nothing of a repository is run, neither where it is captured nor where it is rebuilt: no hook,
//! filter, helper or alias. No configuration of it is read by git, but where git itself changes refs, adds a worktree or
//! lists them: there it reads that of the repository, whose hooks stay off.
//!
//! **Invariant:** what does not travel is named.

mod program;
mod place;
mod quarantine;
mod view;
mod settings;
mod files;
mod refs;
mod index;
mod stamp;
mod glance;
mod signs;
mod objects;
mod capture;
mod summary;
mod rebuild;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use baton_protocol::encode::DecodeError;
use baton_protocol::id::GitStateId;
use baton_protocol::object::{GitOmission, GitOmissions, GitOmitReason, MAX_GIT_UNITS};

use crate::error::StoreError;
use crate::fs::FsError;
use crate::objects::ObjectSource;
use crate::snapshot::{BlobError, load_blob};

pub use capture::{
    CaptureOptions, Captured, Packed, capture, deepen, is_cut, is_longer, make_rest,
};
pub use glance::Glance;
pub use program::GitProgram;
pub use rebuild::{
    Arrival, ArrivalOptions, BringOptions, Brought, Commands, EntryAction, EntryClash,
    EntryOutcome, FilesBrought, Former, LinkPlace, Linked, RebuildOptions, Rebuilt, RefAction,
    RefOutcome, TextMerge, arrive, is_related, link, rebuild, rebuild_over,
};
pub(crate) use rebuild::{
    CheckoutRepository, EntryChange, Placed, RefStep, Standing, Still, When, new_objects, three_way,
};
pub use signs::{has_signs, is_sign, sign_folders, sign_places};
pub use summary::{Summary, commands, is_alike, summarize, worktrees};

/// Longest list that is read of a state, in bytes: an index of four million entries.
const MAX_LIST: u64 = 512 << 20;

/// Most that is told of one repository.
const MAX_OMISSIONS: usize = 10_000;

/// A repository could not be captured or rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// An object could not be put or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A part of a state could not be read.
    #[error("reading the state of a repository")]
    Blob(#[from] BlobError),
    /// A part of a state is not what it should be.
    #[error("the state of a repository is malformed")]
    Malformed(#[from] DecodeError),
    /// A snapshot has no state of a repository.
    #[error("the snapshot has no repository")]
    NoState,
    /// There is no git.
    #[error("git was not found")]
    NoProgram,
    /// There is no room for what is to be packed.
    #[error("{} MB of history are to be packed, and there is room for {} MB", bytes / 1_000_000, room / 1_000_000)]
    NoRoom {
        /// Of objects.
        bytes: u64,
        /// Free.
        room: u64,
    },
    /// Git could not be run.
    #[error("running {} to {doing}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What for.
        doing: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// Git refused.
    #[error("git could not {doing}: {said}")]
    Git {
        /// What it was to do.
        doing: &'static str,
        /// What it said, cut short.
        said: String,
    },
    /// Git is in the middle of something in the state: its index and files are half done without that.
    #[error("a {operation} is under way there")]
    UnderWay {
        /// What.
        operation: &'static str,
    },
    /// Git is in the middle of something in the checkout.
    #[error("{what} in this checkout")]
    AtWork {
        /// What, in words for people.
        what: &'static str,
    },
    /// There is no repository that can be read.
    #[error("{} is no repository that can be captured: {why}", path.display())]
    NoRepository {
        /// The worktree, or the file in the way.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// A file of the repository is damaged.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// Something would reach outside, or is larger than anything that git makes.
    #[error("{what} is refused: {why}")]
    Refused {
        /// What, in words for people.
        what: String,
        /// Why.
        why: &'static str,
    },
    /// Git would run these when the operation goes on, and the caller did not allow it.
    #[error("{} commands would run when git goes on with what it is in the middle of", lines.len())]
    Commands {
        /// The lines, as they stand in their files.
        lines: Vec<String>,
    },
}

impl GitError {
    fn refused(what: impl Into<String>, why: &'static str) -> Self {
        Self::Refused { what: what.into(), why }
    }
}

/// Collects what is to be told of a repository.
#[derive(Debug, Default)]
struct Told(BTreeSet<GitOmission>);

impl Told {
    fn note(&mut self, reason: GitOmitReason, what: impl Into<String>) {
        let mut what = what.into();
        if let Some((at, _)) = what.char_indices().nth(500) {
            what.truncate(at);
            what.push('…');
        }
        if self.0.len() < MAX_OMISSIONS {
            self.0.insert(GitOmission { what, reason });
        } else {
            let what = format!("more than these {MAX_OMISSIONS}");
            self.0.insert(GitOmission { what, reason: GitOmitReason::NotCarried });
        }
    }

    fn into_list(self) -> Vec<GitOmission> {
        self.0.into_iter().collect()
    }
}

/// Reads what of a repository did not travel, and of those inside it with their paths before it.
pub fn load_git_omissions<S: ObjectSource + ?Sized>(
    source: &S,
    id: GitStateId,
) -> Result<Vec<GitOmission>, GitError> {
    let mut all = Vec::new();
    let mut left = vec![(String::new(), id)];
    let mut seen = 0;
    while let Some((path, id)) = left.pop() {
        seen += 1;
        if seen > MAX_GIT_UNITS {
            return Err(GitError::refused("the state", "its repositories are too many"));
        }
        let state = capture::load_state(source, id)?;
        if let Some(blob) = state.omitted {
            let omitted = GitOmissions::decode(&load_blob(source, blob, MAX_LIST)?)?.0;
            let of_it = omitted
                .into_iter()
                .map(|it| GitOmission { what: format!("{path}{}", it.what), reason: it.reason });
            all.extend(of_it.take(MAX_OMISSIONS.saturating_sub(all.len())));
        }
        let inner = state.units.iter().rev();
        left.extend(inner.map(|it| (format!("{path}{}: ", shown(it.path.as_bytes())), it.state)));
    }
    Ok(all)
}

/// Bytes as a path.
fn as_path(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// Bytes for people.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

#[cfg(test)]
pub(crate) mod tests;
