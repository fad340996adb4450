//! What is known of each apply, on the disk: in a folder of the home, one folder each.
//!
//! ```text
//! ID/plan      what will be done, and what is expected where
//! ID/lock      where git's lock of the index is that is held meanwhile
//! ID/git       how the repository is changed; nothing where it is not
//! ID/index     the index as it was before
//! ID/made      what the new index says, in short
//! ID/begun     the first write may have happened
//! ID/applied   it is done: what became of each step
//! ID/undoing   it is being put back: the steps that do so
//! ID/undone    it was put back: what became of each of them
//! ID/area/     what came out of the checkout, where that is on the same file system
//! ID.gone/     one that is being forgotten
//! ```
//!
//! **Invariant:** each file but `lock` and `made` is written once, as one step that survives a crash, and before what it announces.
//! One that is damaged is refused and not taken for anything.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use baton_protocol::encode::{DecodeError, Reader, Writer};
use baton_protocol::id::{ApplyId, ObjectId, SnapshotId, WorkspaceId};
use baton_protocol::path::{MAX_PATH, RelPath};

use super::ApplyError;
use super::form::Form;
use super::ground::Place;
use super::plan::Step;
use super::record::RepositoryChange;
use crate::error::StoreError;
use crate::fs;
use crate::git::GitError;

const MAGIC: &[u8; 16] = b"baton apply  v1\n";

/// Longest file that is read: a million steps with the longest list of paths, or the entries of the largest index before
/// and after.
const MAX_LEN: u64 = 1 << 30;

/// Most steps, and directories that get other permissions meanwhile.
const MAX_STEPS: usize = 1 << 21;

/// Bytes that a step takes at least: a path, two forms and a flag.
const LEAST_STEP: usize = 4;

/// One change of a checkout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its id.
    pub id: ApplyId,
    /// Of which workspace the checkout is.
    pub workspace: WorkspaceId,
    /// When it was asked for, in milliseconds since 1970.
    pub created_at: u64,
    /// The root of the checkout.
    pub root: PathBuf,
    /// Which folder that was.
    pub(super) place: Place,
    /// The snapshot of the checkout as it was before.
    pub safety: SnapshotId,
    /// What was applied.
    pub there: SnapshotId,
    /// Where what came out of the checkout is.
    pub area: PathBuf,
    /// Directories that their owner may not change, with their permissions: they get more meanwhile.
    pub(super) tight: Vec<(RelPath, u16)>,
    /// Of an undo: what is left as it is, as that was known before it was begun.
    pub(super) held: Vec<(RelPath, Done)>,
    /// What was planned.
    pub steps: Vec<Step>,
}

impl Record {
    /// The snapshots and the contents of files that it may still need.
    pub fn needs(&self) -> Vec<ObjectId> {
        let forms = self.steps.iter().flat_map(|step| [&step.from, &step.to]).flatten();
        let snapshots = [self.safety, self.there].map(ObjectId::from);
        forms.filter_map(super::form::Form::content).chain(snapshots).collect()
    }
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Done {
    /// Not yet looked at.
    Waiting = 0,
    /// It was done.
    Made = 1,
    /// It was so already.
    Found = 2,
    /// Something else was there than was expected. It is there still.
    Changed = 3,
    /// A directory has something in it that is in no safety copy, and stays.
    NotEmpty = 4,
    /// What it relies on did not come about.
    Blocked = 5,
    /// The system does not allow it there.
    Refused = 6,
    /// The file system cannot hold such a name.
    NotCarried = 7,
}

impl Done {
    const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Waiting,
            1 => Self::Made,
            2 => Self::Found,
            3 => Self::Changed,
            4 => Self::NotEmpty,
            5 => Self::Blocked,
            6 => Self::Refused,
            7 => Self::NotCarried,
            _ => return None,
        })
    }

    /// Whether the path is what it should be.
    pub const fn is_so(self) -> bool {
        matches!(self, Self::Made | Self::Found)
    }
}

/// How far an apply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing was written yet.
    Planned,
    /// It was begun.
    Begun,
    /// It is done.
    Applied,
    /// It is being put back.
    Undoing,
    /// It was put back.
    Undone,
}

impl Record {
    /// The same where the checkout is at `root` now: what was in it moved with it.
    pub(super) fn moved(&self, root: &Path) -> Self {
        let area = match self.area.strip_prefix(&self.root) {
            Ok(within) => root.join(within),
            Err(_) => self.area.clone(),
        };
        Self { root: root.to_owned(), area, ..self.clone() }
    }

    fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.fixed(MAGIC);
        to.fixed(self.id.as_bytes());
        to.fixed(self.workspace.as_bytes());
        to.varint(self.created_at);
        to.fixed(self.safety.as_bytes());
        to.fixed(self.there.as_bytes());
        to.bytes(self.root.as_os_str().as_bytes());
        to.bytes(self.area.as_os_str().as_bytes());
        to.varint(self.place.inode);
        to.varint(self.place.born);
        to.varint(self.tight.len() as u64);
        for (path, mode) in &self.tight {
            to.bytes(path.as_bytes());
            to.varint(u64::from(*mode));
        }
        to.varint(self.held.len() as u64);
        for (path, done) in &self.held {
            to.bytes(path.as_bytes());
            to.byte(*done as u8);
        }
        to.varint(self.steps.len() as u64);
        for step in &self.steps {
            to.bytes(step.path.as_bytes());
            Form::write(step.from.as_ref(), &mut to);
            Form::write(step.to.as_ref(), &mut to);
            match &step.needs {
                None => to.byte(0),
                Some(path) => {
                    to.byte(1);
                    to.bytes(path.as_bytes());
                }
            }
        }
        to.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let from = &mut Reader::new(bytes);
        if from.array()? != *MAGIC {
            return Err(DecodeError::Inconsistent { what: "magic" });
        }
        let id = ApplyId::from_bytes(from.array()?);
        let workspace = WorkspaceId::from_bytes(from.array()?);
        let created_at = from.varint()?;
        let safety = SnapshotId::from_bytes(from.array()?);
        let there = SnapshotId::from_bytes(from.array()?);
        let (root, area) = (absolute(from)?, absolute(from)?);
        let place = Place { inode: from.varint()?, born: from.varint()? };
        let count = from.count("directories", MAX_STEPS, 2)?;
        let mut tight = Vec::with_capacity(count);
        for _ in 0..count {
            tight.push((rel_path(from)?, from.bounded("mode", 0o7777)? as u16));
        }
        let count = from.count("steps", MAX_STEPS, 2)?;
        let mut held = Vec::with_capacity(count);
        for _ in 0..count {
            let (path, number) = (rel_path(from)?, from.byte()?);
            let done = Done::from_number(number);
            held.push((path, done.ok_or(DecodeError::Inconsistent { what: "step" })?));
        }
        let count = from.count("steps", MAX_STEPS, LEAST_STEP)?;
        let mut steps = Vec::with_capacity(count);
        for _ in 0..count {
            let path = rel_path(from)?;
            let (before, to) = (Form::read(from)?, Form::read(from)?);
            let needs = match from.bounded("flag", 1)? {
                0 => None,
                _ => Some(rel_path(from)?),
            };
            steps.push(Step { path, from: before, to, needs });
        }
        from.clone().finish()?;
        Ok(Self { id, workspace, created_at, root, place, safety, there, area, tight, held, steps })
    }
}

fn absolute(from: &mut Reader<'_>) -> Result<PathBuf, DecodeError> {
    let bytes = from.bytes("path length", MAX_PATH + 1)?;
    let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
    if path.is_absolute() { Ok(path) } else { Err(DecodeError::Inconsistent { what: "path" }) }
}

fn rel_path(from: &mut Reader<'_>) -> Result<RelPath, DecodeError> {
    let bytes = from.bytes("path length", MAX_PATH)?;
    RelPath::new(bytes).map_err(|_| DecodeError::Inconsistent { what: "path" })
}

/// The folder of one apply.
#[derive(Clone, Debug)]
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    /// Writes a plan down; durable when this returns.
    pub(super) fn plan(&self, record: &Record) -> Result<(), ApplyError> {
        fs::create_dir_all(&self.0)?;
        self.write("plan", record.encode())?;
        if let Some(above) = self.0.parent() {
            fs::sync_dir(above)?;
        }
        Ok(())
    }

    /// Reads the plan; nothing where none was made.
    pub(super) fn record(&self) -> Result<Option<Record>, ApplyError> {
        let Some(bytes) = self.read("plan")? else { return Ok(None) };
        let damaged = |_| self.damaged("plan");
        Record::decode(&bytes).map(Some).map_err(damaged)
    }

    /// How far it is.
    pub(super) fn stage(&self) -> Result<Stage, ApplyError> {
        for (name, stage) in [
            ("undone", Stage::Undone),
            ("undoing", Stage::Undoing),
            ("applied", Stage::Applied),
            ("begun", Stage::Begun),
        ] {
            if self.read(name)?.is_some() {
                return Ok(stage);
            }
        }
        Ok(Stage::Planned)
    }

    /// Notes that it is being put back, and how.
    pub(super) fn begin_undo(&self, undo: &Record) -> Result<(), ApplyError> {
        super::crash::point();
        self.write(name_of(Stage::Undoing), undo.encode())?;
        super::crash::point();
        Ok(())
    }

    /// How it is being put back.
    pub(super) fn undo(&self) -> Result<Record, ApplyError> {
        let name = name_of(Stage::Undoing);
        let bytes = self.read(name)?.unwrap_or_default();
        Record::decode(&bytes).map_err(|_| self.damaged(name))
    }

    /// Notes a stage, and what became of the steps.
    pub(super) fn note(&self, stage: Stage, done: &[Done]) -> Result<(), ApplyError> {
        super::crash::point();
        let numbers = done.iter().map(|done| *done as u8).collect();
        self.write(name_of(stage), numbers)?;
        super::crash::point();
        Ok(())
    }

    /// What became of the steps at a stage that was noted.
    pub(super) fn done(&self, stage: Stage, steps: usize) -> Result<Vec<Done>, ApplyError> {
        let bytes = self.read(name_of(stage))?.unwrap_or_default();
        let done: Option<Vec<_>> = bytes.iter().map(|&number| Done::from_number(number)).collect();
        done.filter(|done| done.len() == steps).ok_or_else(|| self.damaged(name_of(stage)))
    }

    /// Notes how the repository is changed, and its index as it is.
    pub(super) fn note_repository(
        &self,
        change: &RepositoryChange,
        index: Option<&[u8]>,
    ) -> Result<(), ApplyError> {
        if change.index.is_some() {
            self.write("index", index.unwrap_or_default().to_vec())?;
            super::crash::point();
        }
        let bytes = change.encode();
        // What could not be read could neither be gone on with nor be put back.
        if bytes.len() as u64 > MAX_LEN - blake3::OUT_LEN as u64
            || RepositoryChange::decode(&bytes).as_ref() != Ok(change)
        {
            let what = "the change of the repository".to_owned();
            return Err(
                GitError::Refused { what, why: "it is larger than any project needs" }.into()
            );
        }
        self.write("git", bytes)
    }

    /// How the repository is changed; nothing where it is not.
    pub(super) fn repository(&self) -> Result<Option<RepositoryChange>, ApplyError> {
        let Some(bytes) = self.read("git")? else { return Ok(None) };
        RepositoryChange::decode(&bytes).map(Some).map_err(|_| self.damaged("git"))
    }

    /// The index as it was before.
    pub(super) fn old_index(&self) -> Result<Vec<u8>, ApplyError> {
        self.read("index")?.ok_or_else(|| self.damaged("index"))
    }

    /// Notes what the new index says, in short.
    pub(super) fn note_made(&self, sum: &[u8; 32]) -> Result<(), ApplyError> {
        self.write("made", sum.to_vec())
    }

    /// What the new index says, in short; nothing where none was made.
    pub(super) fn made(&self) -> Result<Option<[u8; 32]>, ApplyError> {
        let Some(bytes) = self.read("made")? else { return Ok(None) };
        Ok(Some(bytes.try_into().map_err(|_| self.damaged("made"))?))
    }

    /// When a stage was noted, in milliseconds since 1970; nothing where it was not.
    pub(super) fn noted_at(&self, stage: Stage) -> Result<Option<u64>, ApplyError> {
        Ok(fs::modified_ms(&self.0.join(name_of(stage)))?)
    }

    /// Notes which file of git will be held.
    pub(super) fn note_lock(&self, path: &Path) -> Result<(), ApplyError> {
        self.write("lock", path.as_os_str().as_bytes().to_vec())
    }

    /// Which file of git may be held; nothing where none was noted.
    pub(super) fn lock(&self) -> Result<Option<PathBuf>, ApplyError> {
        Ok(self.read("lock")?.map(|bytes| PathBuf::from(OsString::from_vec(bytes))))
    }

    /// Notes that no file of git is held any more.
    pub(super) fn forget_lock(&self) -> Result<(), ApplyError> {
        Ok(fs::remove_file(&self.0.join("lock"))?)
    }

    fn write(&self, name: &str, mut bytes: Vec<u8>) -> Result<(), ApplyError> {
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        Ok(fs::write_atomic(&self.0.join(name), &bytes, 0o600)?)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, ApplyError> {
        let Some(mut bytes) = fs::read_if_exists(&self.0.join(name), MAX_LEN)? else {
            return Ok(None);
        };
        let body = bytes.len().checked_sub(blake3::OUT_LEN).ok_or_else(|| self.damaged(name))?;
        let hash = bytes.split_off(body);
        if blake3::hash(&bytes).as_bytes() != hash.as_slice() {
            return Err(self.damaged(name));
        }
        Ok(Some(bytes))
    }

    fn damaged(&self, name: &str) -> ApplyError {
        let path: &Path = &self.0;
        let detail = "no record of an apply";
        StoreError::Damaged { path: path.join(name), offset: 0, detail }.into()
    }
}

const fn name_of(stage: Stage) -> &'static str {
    match stage {
        Stage::Planned => "plan",
        Stage::Begun => "begun",
        Stage::Applied => "applied",
        Stage::Undoing => "undoing",
        Stage::Undone => "undone",
    }
}

#[cfg(test)]
mod tests {
    use baton_protocol::id::ChunkId;
    use baton_protocol::object::{Blob, Content};

    use super::*;
    use crate::fuzz::fuzzing::{Random, fuzz, within};
    use crate::fuzz::scratch;

    #[test]
    fn apply_records() {
        let few = Record { steps: Vec::new(), held: Vec::new(), ..record() };
        let corpus = vec![record().encode(), few.encode(), vec![1, 2, 3, 7]];
        let folder = scratch();
        let apply = Folder(folder.path().to_owned());
        fuzz(corpus, |_, input| {
            let read = within(input, 128, 8192, Record::decode);
            if let Ok(record) = &read {
                assert_eq!(record.encode(), input);
            }
            // What the disk has changed is refused, and nothing is taken for what it is not.
            let (name, stage) =
                [("plan", Stage::Planned), ("undoing", Stage::Undoing)][Random::of(input).below(2)];
            apply.write(name, input.to_vec()).unwrap();
            let mut bytes =
                fs::read_if_exists(&folder.path().join(name), MAX_LEN).unwrap().unwrap();
            assert_eq!(apply.stage().unwrap(), stage);
            let told = match stage {
                Stage::Planned => apply.record().map(Option::unwrap),
                _ => apply.undo(),
            };
            assert_eq!(told.is_ok(), read.is_ok());
            let done = apply.done(Stage::Undoing, input.len());
            let are_known = stage == Stage::Undoing && input.iter().all(|&number| number < 8);
            assert_eq!(done.is_ok(), are_known || (stage == Stage::Planned && input.is_empty()));
            let at = Random::of(input).below(bytes.len());
            bytes[at] ^= 1;
            fs::write_whole(&folder.path().join(name), &bytes, 0o600).unwrap();
            assert!(apply.read(name).is_err());
            fs::remove_file(&folder.path().join(name)).unwrap();
            read.is_ok()
        });
    }

    fn record() -> Record {
        let blob =
            |size, byte| Blob { size, content: Content::Chunk(ChunkId::from_bytes([byte; 32])) };
        let path = |path: &[u8]| RelPath::new(path).unwrap();
        let step = |at: &[u8], from, to, needs| Step { path: path(at), from, to, needs };
        let file = Some(Form::File { mode: 0o644, blob: blob(300, 9) });
        let link = Some(Form::Link { target: blob(3, 8) });
        Record {
            id: ApplyId::from_bytes([1; 16]),
            workspace: WorkspaceId::from_bytes([2; 16]),
            created_at: 300,
            root: "/home/someone/app".into(),
            place: Place { inode: 300, born: 5 },
            safety: SnapshotId::from_bytes([3; 32]),
            there: SnapshotId::from_bytes([4; 32]),
            area: "/home/someone/.app".into(),
            tight: vec![(RelPath::root(), 0o555)],
            held: vec![(path(b"b"), Done::NotEmpty)],
            steps: vec![
                step(b"a", file, link, None),
                step(b"a/\xff", None, Some(Form::Directory { mode: 0o700 }), Some(path(b"a"))),
            ],
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let bytes = record().encode();
        assert_eq!(Record::decode(&bytes).unwrap(), record());
        assert_eq!(bytes.len(), 248);
        let hash = blake3::hash(&bytes).to_hex();
        assert_eq!(&hash[..16], "9adc22ebca5539c1");
    }

    #[test]
    fn what_no_encoder_writes_is_refused() {
        let bytes = record().encode();
        for len in 0..bytes.len() {
            assert!(Record::decode(&bytes[..len]).is_err(), "{len}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(Record::decode(&longer).is_err());
        // A list that claims to be long takes no memory.
        let mut claims = bytes.clone();
        let at = bytes.windows(2).rposition(|two| two == [2, 1]).unwrap();
        claims.splice(at..=at, [0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert!(Record::decode(&claims).is_err());
        for path in ["relative", "../x", ""] {
            let hostile = Record { root: path.into(), ..record() }.encode();
            assert!(Record::decode(&hostile).is_err(), "{path}");
        }
    }
}
