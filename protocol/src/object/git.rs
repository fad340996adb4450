//! The state of a git repository, by meaning: what a rebuild needs to make the same repository again.
//!
//! The object itself is short; refs, index, settings and files are lists of their own, each a blob,
//! so that what did not change is not stored again. Objects of git travel in packs.
//!
//! Not here: which settings and files travel, and what may be believed of them. That is decided
//! where a repository is captured, and again where it is rebuilt.
//!
//! - [`oid`]: names of git's objects
//! - [`refs`], [`index`], [`settings`], [`files`], [`omissions`]: the lists
//!
//! **Invariant:** a name that is accepted here stays inside the repository that is made from it: a
//! ref below `refs/`, an entry of the index below the worktree and outside of any `.git`, a submodule
//! below the folder of submodules.

mod oid;
mod refs;
mod index;
mod settings;
mod files;
mod omissions;

use super::{Blob, MAX_OBJECT};
use crate::encode::{DecodeError, Reader, Writer};
use crate::id::{GitStateId, ObjectId};
use crate::path::{MAX_PATH, RelPath, check_name, is_git_name};

pub use files::{GitFile, GitFiles};
pub use index::{GitEntry, GitIndex, GitMode, GitUndo, is_index_path};
pub use oid::{GitHash, GitOid, GitOids};
pub use omissions::{GitOmission, GitOmissions, GitOmitReason};
pub use refs::{GitRef, GitRefName, GitRefs, GitTarget};
pub use settings::{GitSetting, GitSettings};

const VERSION: u64 = 1;

/// Of a state with refs that follow later.
const VERSION_LATER: u64 = 2;

/// Most packs of a state. They consolidate as they come, so that there are few.
pub const MAX_GIT_PACKS: usize = 64;

/// Most repositories inside one.
pub const MAX_GIT_UNITS: usize = 4096;

/// How a repository keeps its refs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RefStorage {
    /// A file each, or one for many.
    Files = 1,
    /// Tables.
    Reftable = 2,
}

/// Where `HEAD` points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GitHead {
    /// A branch, which need not exist yet.
    Symbolic(GitRefName),
    /// A commit.
    Detached(GitOid),
}

/// Some of the objects of git, as git packs them.
///
/// **Invariant:** this pack and those before it in the list hold all that is reachable from `tips`,
/// but for what the repository itself lacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GitPack {
    /// The pack: as `git pack-objects` writes it, thin against the packs before it.
    pub blob: Blob,
    /// What it was packed for, as encoded [`GitOids`].
    pub tips: Blob,
    /// How many commits are in it, for people.
    pub commits: u64,
}

/// Where a repository inside another one keeps its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GitPlace {
    /// In a `.git` folder of its own worktree.
    Embedded,
    /// Among the submodules of the outer one, under this name.
    Module(Vec<u8>),
}

/// A repository whose worktree lies inside that of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitUnit {
    /// Its worktree, relative to the outer one.
    pub path: RelPath,
    /// Where its own folder is.
    pub place: GitPlace,
    /// What it is.
    pub state: GitStateId,
}

/// The state of one git repository, as one of its worktrees sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitState {
    /// How it names objects.
    pub hash: GitHash,
    /// How it keeps refs.
    pub storage: RefStorage,
    /// Whether git was at work during every one of several looks at it: the parts may not belong together.
    pub busy: bool,
    /// `HEAD`.
    pub head: GitHead,
    /// All other refs, as encoded [`GitRefs`].
    pub refs: Blob,
    /// The index, as encoded [`GitIndex`]; nothing where there is no file.
    pub index: Option<Blob>,
    /// What of its configuration travels, as encoded [`GitSettings`].
    pub settings: Blob,
    /// Files of its folder, as encoded [`GitFiles`]; nothing where there are none.
    pub files: Option<Blob>,
    /// Its objects.
    pub packs: Vec<GitPack>,
    /// Submodules that are there, and other repositories inside, ascending by path.
    pub units: Vec<GitUnit>,
    /// What did not travel, and what to look at, as encoded [`GitOmissions`]; nothing where there is nothing.
    pub omitted: Option<Blob>,
    /// Refs that were left out with the history that a cut left out, and follow with it, as encoded [`GitRefs`];
    /// nothing where there are none.
    pub later: Option<Blob>,
}

impl GitState {
    /// The canonical bytes. Whoever makes a state decodes what comes out before it is stored: many units
    /// with long paths can exceed [`MAX_OBJECT`].
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.varint(if self.later.is_some() { VERSION_LATER } else { VERSION });
        to.byte(self.hash as u8);
        to.byte(self.storage as u8);
        to.byte(u8::from(self.busy));
        match &self.head {
            GitHead::Symbolic(name) => {
                to.byte(0);
                to.bytes(name.as_bytes());
            }
            GitHead::Detached(oid) => {
                to.byte(1);
                oid.write(&mut to);
            }
        }
        self.refs.write(&mut to);
        write_optional(&mut to, self.index.as_ref());
        self.settings.write(&mut to);
        write_optional(&mut to, self.files.as_ref());
        to.varint(self.packs.len() as u64);
        for pack in &self.packs {
            pack.blob.write(&mut to);
            pack.tips.write(&mut to);
            to.varint(pack.commits);
        }
        to.varint(self.units.len() as u64);
        for unit in &self.units {
            to.bytes(unit.path.as_bytes());
            match &unit.place {
                GitPlace::Embedded => to.byte(0),
                GitPlace::Module(name) => {
                    to.byte(1);
                    to.bytes(name);
                }
            }
            to.fixed(unit.state.as_bytes());
        }
        write_optional(&mut to, self.omitted.as_ref());
        if let Some(later) = &self.later {
            later.write(&mut to);
        }
        to.finish()
    }

    /// Reads canonical bytes and refuses all others.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_OBJECT {
            let (value, limit) = (bytes.len() as u64, MAX_OBJECT as u64);
            return Err(DecodeError::Limit { what: "git state length", value, limit });
        }
        let mut from = Reader::new(bytes);
        let version = from.varint()?;
        if ![VERSION, VERSION_LATER].contains(&version) {
            return Err(DecodeError::Unknown { what: "git state version", value: version });
        }
        let hash = GitHash::read(&mut from)?;
        let storage = match from.byte()? {
            1 => RefStorage::Files,
            2 => RefStorage::Reftable,
            value => return Err(DecodeError::Unknown { what: "ref storage", value: value.into() }),
        };
        let busy = read_flag(&mut from)?;
        let head = match from.byte()? {
            0 => GitHead::Symbolic(
                GitRefName::read(&mut from)?
                    .below_refs()
                    .ok_or(DecodeError::Inconsistent { what: "HEAD" })?,
            ),
            1 => GitHead::Detached(GitOid::read(hash, &mut from)?),
            value => return Err(DecodeError::Unknown { what: "HEAD", value: value.into() }),
        };
        let refs = Blob::read(&mut from)?;
        let index = read_optional(&mut from)?;
        let settings = Blob::read(&mut from)?;
        let files = read_optional(&mut from)?;
        let count = from.count("packs", MAX_GIT_PACKS, 2 * Blob::LEAST + 1)?;
        let mut packs = Vec::with_capacity(count);
        for _ in 0..count {
            let (blob, tips) = (Blob::read(&mut from)?, Blob::read(&mut from)?);
            packs.push(GitPack { blob, tips, commits: from.varint()? });
        }
        let units = read_units(&mut from)?;
        let omitted = read_optional(&mut from)?;
        let later = (version == VERSION_LATER).then(|| Blob::read(&mut from)).transpose()?;
        from.finish()?;
        Ok(Self {
            hash,
            storage,
            busy,
            head,
            refs,
            index,
            settings,
            files,
            packs,
            units,
            omitted,
            later,
        })
    }

    /// The blobs it names, in the order in which it names them.
    pub fn blobs(&self) -> impl Iterator<Item = Blob> {
        let lists = [Some(self.refs), self.index, Some(self.settings), self.files];
        let packs = self.packs.iter().flat_map(|pack| [pack.blob, pack.tips]);
        lists.into_iter().flatten().chain(packs).chain(self.omitted).chain(self.later)
    }

    /// The objects it needs to be whole.
    pub fn children(&self) -> Vec<ObjectId> {
        let blobs = self.blobs().map(|blob| blob.content.id());
        blobs.chain(self.units.iter().map(|unit| unit.state.into())).collect()
    }
}

fn read_units(from: &mut Reader<'_>) -> Result<Vec<GitUnit>, DecodeError> {
    let count = from.count("units", MAX_GIT_UNITS, 3 + GitStateId::LEN)?;
    let mut units: Vec<GitUnit> = Vec::with_capacity(count);
    for _ in 0..count {
        let path = unit_path(from.bytes("unit path", MAX_PATH)?)
            .ok_or(DecodeError::Inconsistent { what: "unit path" })?;
        if units.last().is_some_and(|last| last.path >= path) {
            return Err(DecodeError::Order { what: "units" });
        }
        let place = match from.byte()? {
            0 => GitPlace::Embedded,
            1 => {
                let name = from.bytes("module name", MAX_PATH)?;
                if !is_module_name(name) {
                    return Err(DecodeError::Inconsistent { what: "module name" });
                }
                GitPlace::Module(name.to_vec())
            }
            value => return Err(DecodeError::Unknown { what: "place", value: value.into() }),
        };
        let state = GitStateId::from_bytes(from.array()?);
        units.push(GitUnit { path, place, state });
    }
    Ok(units)
}

/// The path of a repository inside another one: no `.git` in it, and nothing that a file of settings
/// could lose, such as a carriage return at its end.
pub fn unit_path(bytes: &[u8]) -> Option<RelPath> {
    let path = RelPath::new(bytes).ok().filter(|path| !path.is_root())?;
    let plain = path.components().all(|name| !is_git_name(name) && !has_control(name));
    plain.then_some(path)
}

/// Whether a submodule may have this name: it is a path below `.git/modules`, and the rules are those of
/// `git submodule`, and no control characters.
pub fn is_module_name(name: &[u8]) -> bool {
    let part = |part: &[u8]| check_name(part).is_ok() && !is_git_name(part) && !has_control(part);
    name.len() <= MAX_PATH && !name.contains(&b'\\') && name.split(|&byte| byte == b'/').all(part)
}

fn has_control(bytes: &[u8]) -> bool {
    bytes.iter().any(u8::is_ascii_control)
}

fn write_optional(to: &mut Writer, blob: Option<&Blob>) {
    to.byte(u8::from(blob.is_some()));
    if let Some(blob) = blob {
        blob.write(to);
    }
}

fn read_optional(from: &mut Reader<'_>) -> Result<Option<Blob>, DecodeError> {
    Ok(if read_flag(from)? { Some(Blob::read(from)?) } else { None })
}

fn read_flag(from: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match from.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(DecodeError::Unknown { what: "flag", value: value.into() }),
    }
}

#[cfg(test)]
mod tests;
