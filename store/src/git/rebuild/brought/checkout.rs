//! The repository of a checkout while it is changed: its index and refs, read and written.
//!
//! **Invariant:** of the index nothing is written in its place, but a whole file renamed to it, which the caller has the
//! lock for. A ref is changed only from what it is expected to be, by git itself.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use baton_protocol::object::{
    GitEntry, GitHash, GitHead, GitIndex, GitMode, GitOid, GitRefName, GitTarget, RefStorage,
};
use rustix::fs::{Timespec, Timestamps};

use super::elsewhere::branches_elsewhere;
use super::entries::{EntryChange, is_same};
use super::moves::{RefStep, When};
use crate::fs::{self, Context};
use crate::git::index::{self, Files, Index, Remembered, Stat, build_trees, has_file, prove};
use crate::git::place::Repository;
use crate::git::program::GitProgram;
use crate::git::rebuild::arrived::{TICK, tick};
use crate::git::rebuild::repo_trusts_mode;
use crate::git::rebuild::updating::{Lines, rehearse_refs, update_refs};
use crate::git::refs::{self, Refs};
use crate::git::view::View;
use crate::git::{GitError, Told, as_path, objects, quarantine};

/// Looks at files until their times are past.
const LOOKS: usize = 5;

/// What lies between.
const PAUSE: Duration = Duration::from_millis(5);

/// The repository of a checkout.
#[derive(Debug)]
pub(crate) struct CheckoutRepository {
    git: GitProgram,
    scratch: PathBuf,
    repo: Repository,
}

/// The index of a checkout, as it stands there.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) index: Index,
    pub(crate) bytes: Vec<u8>,
}

/// Where `HEAD` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The branch; empty where it is on none.
    pub(crate) branch: Vec<u8>,
    /// The commit; nothing where there is none.
    pub(crate) oid: Option<GitOid>,
}

/// The files of a checkout, with what its index knows of them.
pub(super) struct Worktree<'a> {
    pub(super) path: &'a Path,
    pub(super) trusts_mode: bool,
    pub(super) index: Option<&'a Index>,
}

impl Placed {
    /// When the file was written, in seconds and nanoseconds.
    pub(crate) const fn written(&self) -> (i64, i64) {
        self.index.written
    }
}

/// What a ref is.
pub(super) fn target(refs: &Refs, name: &[u8]) -> Option<GitOid> {
    match refs.refs.get(&GitRefName::new(name)?) {
        Some(GitTarget::Object(oid)) => Some(*oid),
        _ => None,
    }
}

impl CheckoutRepository {
    pub(super) const fn new(git: GitProgram, scratch: PathBuf, repo: Repository) -> Self {
        Self { git, scratch, repo }
    }

    /// Opens that of the checkout at `root`.
    pub(crate) fn open(git: &GitProgram, scratch: &Path, root: &Path) -> Result<Self, GitError> {
        Ok(Self::new(git.clone(), scratch.to_owned(), Repository::open(root, None)?))
    }

    pub(crate) const fn hash(&self) -> GitHash {
        self.repo.hash
    }

    pub(super) fn elsewhere(&self, head: &GitHead) -> Result<BTreeSet<Vec<u8>>, GitError> {
        branches_elsewhere(&self.git, &self.repo, head)
    }

    pub(super) fn refs(&self) -> Result<Refs, GitError> {
        let view = match self.repo.storage {
            RefStorage::Files => None,
            RefStorage::Reftable => Some(View::new(&self.git, &self.scratch, &self.repo)?),
        };
        refs::read(&self.repo, view.as_ref(), &mut Told::default())
    }

    /// What these refs are now; nothing for those that are not there.
    pub(crate) fn targets(&self, steps: &[RefStep]) -> Result<Vec<Option<GitOid>>, GitError> {
        let refs = self.refs()?;
        Ok(steps.iter().map(|step| target(&refs, &step.name)).collect())
    }

    /// Where `HEAD` is.
    pub(crate) fn standing(&self) -> Result<Standing, GitError> {
        let refs = self.refs()?;
        Ok(match &refs.head {
            GitHead::Detached(oid) => Standing { branch: Vec::new(), oid: Some(*oid) },
            GitHead::Symbolic(name) => {
                let branch = name.as_bytes().to_vec();
                let oid = target(&refs, &branch);
                Standing { branch, oid }
            }
        })
    }

    /// Refuses while git is in the middle of something that only refs tell.
    pub(crate) fn check_at_work(&self) -> Result<(), GitError> {
        super::check_at_work(&self.refs()?)
    }

    /// Its files, with what its index knows of them.
    pub(super) fn worktree<'a>(&'a self, index: Option<&'a Index>) -> Worktree<'a> {
        let trusts_mode = repo_trusts_mode(&self.repo.config);
        Worktree { path: &self.repo.worktree, trusts_mode, index }
    }

    /// A lock of git because of which one of these refs could not be changed.
    pub(super) fn lock_of(&self, steps: &[RefStep]) -> Option<PathBuf> {
        let common = &self.repo.common_dir;
        let locks: Vec<PathBuf> = match self.repo.storage {
            RefStorage::Reftable => vec![common.join("reftable/tables.list.lock")],
            RefStorage::Files => {
                let own = steps
                    .iter()
                    .map(|step| common.join(as_path(&[&step.name[..], b".lock"].concat())));
                own.chain([common.join("packed-refs.lock")]).collect()
            }
        };
        let is_there = |lock: &PathBuf| lock.symlink_metadata().is_ok();
        locks.into_iter().filter(|_| !steps.is_empty()).find(is_there)
    }

    /// Changes refs, all or none: each from what it is expected to be, nothing where it is not there, to what it will be.
    pub(crate) fn update<'s>(
        &self,
        message: &str,
        changes: impl Iterator<Item = (&'s [u8], Option<GitOid>, Option<GitOid>)>,
    ) -> Result<(), GitError> {
        let mut lines = Lines::default();
        for (name, old, new) in changes {
            lines.change(name, old, new);
        }
        update_refs(&self.git, &self.repo.git_dir, message, &lines)
    }

    /// Has git say whether refs could be changed so, whether something is left or not; nothing is changed.
    pub(super) fn rehearse(&self, view: &View<'_>, steps: &[RefStep]) -> Result<(), GitError> {
        for not in [When::Left, When::Whole] {
            let mut lines = Lines::default();
            for step in steps.iter().filter(|step| step.when != not) {
                lines.change(&step.name, step.old, Some(step.new));
            }
            rehearse_refs(view.git_at(&self.repo.git_dir), &lines)?;
        }
        Ok(())
    }

    /// Lets the objects in that wait under a name.
    pub(crate) fn let_in(&self, name: &str) -> Result<(), GitError> {
        let objects = self.repo.common_dir.join("objects");
        quarantine::let_in(&quarantine::folder_in(&objects, name), &objects)
    }

    /// Takes the objects away that wait under a name.
    pub(crate) fn discard(&self, name: &str) -> Result<(), GitError> {
        let objects = self.repo.common_dir.join("objects");
        Ok(fs::remove_dir_all(&quarantine::folder_in(&objects, name))?)
    }

    /// Takes objects away that nobody waits for: what was cut off before that was noted has left them. None that came
    /// later than at a time, in milliseconds since 1970, or under a name that is known.
    pub(crate) fn sweep(
        &self,
        before_ms: u64,
        is_known: impl Fn(&str) -> bool,
    ) -> Result<(), GitError> {
        let objects = self.repo.common_dir.join("objects");
        for (name, folder) in quarantine::waiting(&objects)? {
            let is_old = fs::modified_ms(&folder)?.is_some_and(|modified| modified < before_ms);
            if is_old && !is_known(&name) {
                fs::remove_dir_all(&folder)?;
            }
        }
        Ok(())
    }

    /// Which of these objects are not there.
    pub(crate) fn missing(&self, oids: &BTreeSet<GitOid>) -> Result<Option<GitOid>, GitError> {
        let view = View::new(&self.git, &self.scratch, &self.repo)?;
        let there = objects::present(&view, self.repo.hash, oids)?;
        Ok(oids.iter().find(|oid| !there.contains(oid)).copied())
    }

    /// Whether objects may be missing by intention.
    pub(crate) const fn is_partial(&self) -> bool {
        self.repo.is_partial
    }

    /// The index as it is now; nothing where there is none.
    pub(crate) fn index(&self) -> Result<Option<Placed>, GitError> {
        self.index_at("index")
    }

    /// An index under another name of git's folder.
    pub(crate) fn index_at(&self, name: &str) -> Result<Option<Placed>, GitError> {
        let read = index::read_with_bytes(&self.repo.git_dir.join(name), self.repo.hash)?;
        Ok(read.map(|(index, bytes)| Placed { index, bytes }))
    }

    /// What an index will be with these changes; nothing where one of its entries would stand where another one has a
    /// folder.
    pub(crate) fn changed<'c>(
        &self,
        placed: Option<&Placed>,
        changes: impl Iterator<Item = &'c EntryChange>,
    ) -> Option<GitIndex> {
        let empty = || GitIndex {
            hash: self.repo.hash,
            version: 2,
            sparse: false,
            entries: Vec::new(),
            undo: Vec::new(),
        };
        let mut index = placed.map_or_else(empty, |placed| placed.index.meaning.clone());
        let mut paths: BTreeMap<Vec<u8>, Vec<GitEntry>> = BTreeMap::new();
        for entry in std::mem::take(&mut index.entries) {
            paths.entry(entry.path.clone()).or_default().push(entry);
        }
        let mut changed = Vec::new();
        for change in changes {
            if change.to.is_empty() {
                paths.remove(&change.path);
            } else {
                paths.insert(change.path.clone(), change.to.clone());
                changed.push(change.path.as_slice());
            }
        }
        for path in changed {
            let plain = path.strip_suffix(b"/").unwrap_or(path);
            let slashes = plain.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
            let mut above = slashes.map(|(at, _)| plain.get(..at).unwrap_or_default());
            let below = [plain, b"/"].concat();
            let mut inner = paths.range(below.clone()..).map(|(other, _)| other);
            let has_below = inner.any(|other| other != path && other.starts_with(&below));
            if has_below || above.any(|above| paths.contains_key(above)) {
                return None;
            }
        }
        index.entries = paths.into_values().flatten().collect();
        index.sparse = index.entries.iter().any(|entry| entry.mode == GitMode::Directory);
        Some(index)
    }

    /// The bytes of an index. What git knew of files stays known, and what is new is read: it is known where the file
    /// is as the index has it.
    pub(crate) fn index_bytes(
        &self,
        placed: Option<&Placed>,
        index: &GitIndex,
        reads_files: bool,
    ) -> Result<Vec<u8>, GitError> {
        let mut stats: BTreeMap<usize, Stat> = BTreeMap::new();
        let mut new: Vec<usize> = Vec::new();
        let mut old = placed.map_or(&[][..], |it| &it.index.meaning.entries).iter().enumerate();
        let mut next = old.next();
        for (at, entry) in index.entries.iter().enumerate() {
            let key = |entry: &GitEntry| (entry.path.clone(), entry.stage);
            while next.is_some_and(|(_, old)| key(old) < key(entry)) {
                next = old.next();
            }
            let same = next
                .filter(|(_, old)| is_same(std::slice::from_ref(old), std::slice::from_ref(entry)));
            match (same, placed) {
                (Some((was, _)), Some(placed)) => {
                    let stat = placed.index.stats.get(was).copied().unwrap_or_default();
                    // Git looks at the content of what changed as late as the index; in a later index it would not.
                    if is_before(stat.mtime, placed.written()) {
                        stats.insert(at, stat);
                    }
                }
                _ => new.push(at),
            }
        }
        if reads_files {
            self.look_at(index, new, &mut stats)?;
        }
        let trees = build_trees(&index.entries, index.hash)?;
        let view = View::new(&self.git, &self.scratch, &self.repo)?;
        let there: HashSet<_> =
            objects::present(&view, index.hash, &trees.oids())?.into_iter().collect();
        index::write(index, &stats, &trees, &there)
    }

    /// Reads the files of entries.
    fn look_at(
        &self,
        index: &GitIndex,
        mut left: Vec<usize>,
        stats: &mut BTreeMap<usize, Stat>,
    ) -> Result<(), GitError> {
        let worktree = &self.repo.worktree;
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let root = rustix::fs::open(worktree, flags, rustix::fs::Mode::empty())
            .context("opening", worktree)?;
        let trusts_mode = repo_trusts_mode(&self.repo.config);
        for look in 0..LOOKS {
            let now = tick(&self.repo.git_dir)?;
            let mut files = Files::below(worktree)?;
            let mut entries = Vec::with_capacity(left.len());
            left.retain(|&at| {
                let Some(entry) = index.entries.get(at).filter(|entry| has_file(entry)) else {
                    return false;
                };
                let Some(seen) = files.look(&entry.path) else { return false };
                entries.push(GitEntry { clean: Some(seen.stat.size), ..entry.clone() });
                true
            });
            // No file is dated back: whoever builds here would take what it made before for newer.
            let proven =
                prove(&entries, &root, &Remembered::default(), trusts_mode, (i64::MAX, 0))?;
            let mut again = Vec::new();
            for (which, stat) in proven.stats {
                let Some(&at) = left.get(which) else { continue };
                // A change that is still to come must have another time.
                if is_before(stat.mtime, now) {
                    stats.insert(at, stat);
                } else {
                    again.push(at);
                }
            }
            left = again;
            if left.is_empty() || look + 1 == LOOKS {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Writes a file beside the index, durable. One that is there keeps its place on the disk.
    pub(crate) fn stage_index(&self, name: &str, bytes: &[u8]) -> Result<(), GitError> {
        use std::io::Write;
        let path = self.repo.git_dir.join(name);
        let mut file = match fs::open_writable(&path) {
            Err(error) if error.is_not_found() => fs::create_new(&path)?,
            opened => opened?,
        };
        file.write_all(bytes).context("writing", &path)?;
        file.set_len(bytes.len() as u64).context("writing", &path)?;
        let own = self.repo.git_dir.join("index").symlink_metadata();
        let mode = own.map_or(0o644, |own| own.mode() & 0o777);
        let mode = std::fs::Permissions::from_mode(mode);
        file.set_permissions(mode).context("setting the mode of", &path)?;
        Ok(file.sync_all().context("syncing", &path)?)
    }

    /// Dates such a file as the index was, whose bytes it has.
    pub(crate) fn date_index(&self, name: &str, (sec, nsec): (i64, i64)) -> Result<(), GitError> {
        let path = self.repo.git_dir.join(name);
        let file = fs::open(&path)?;
        let then = Timespec { tv_sec: sec, tv_nsec: nsec };
        let times = Timestamps { last_access: then, last_modification: then };
        rustix::fs::futimens(file.as_fd(), &times).context("dating", &path)?;
        Ok(file.sync_all().context("syncing", &path)?)
    }

    /// Makes such a file the index.
    pub(crate) fn place_index(&self, name: &str) -> Result<(), GitError> {
        let (from, to) = (self.repo.git_dir.join(name), self.repo.git_dir.join("index"));
        Ok(fs::rename(&from, &to)?)
    }

    /// Takes such a file, or the index, away.
    pub(crate) fn remove_index(&self, name: &str) -> Result<(), GitError> {
        fs::remove_file(&self.repo.git_dir.join(TICK))?;
        fs::remove_file(&self.repo.git_dir.join(name))?;
        Ok(fs::sync_dir(&self.repo.git_dir)?)
    }
}

/// Whether a time of an index is before another one.
fn is_before((sec, nsec): (u32, u32), (than_sec, than_nsec): (i64, i64)) -> bool {
    // An index has the low half of each.
    let low = |value: i64| (value & i64::from(u32::MAX)).unsigned_abs() as u32;
    (sec, nsec) < (low(than_sec), low(than_nsec))
}

/// Branches that worktrees have.
#[derive(Debug)]
pub(crate) struct InUse {
    head: GitHead,
    elsewhere: BTreeSet<Vec<u8>>,
}

impl InUse {
    /// Whether a branch must not be moved under whoever has it; nor deleted under this worktree.
    pub(crate) fn holds(&self, name: &[u8], is_deleted: bool) -> bool {
        let is_ours = matches!(&self.head, GitHead::Symbolic(head) if head.as_bytes() == name);
        self.elsewhere.contains(name) || (is_deleted && is_ours)
    }
}

impl CheckoutRepository {
    /// Which branches worktrees have.
    pub(crate) fn in_use(&self) -> Result<InUse, GitError> {
        let head = self.refs()?.head;
        let elsewhere = self.elsewhere(&head)?;
        Ok(InUse { head, elsewhere })
    }
}
