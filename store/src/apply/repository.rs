//! The repository of a checkout, changed together with its files: objects let in, refs moved, the index replaced; and all
//! of that put back.
//!
//! Not here: what is to become of each ref and entry, which is planned before.
//!
//! **Invariant:** each step is found to be done where it was, so that one that was cut off is done again. A ref that is
//! neither what was expected nor what it should be is left; so is such an index.
//!
//! **Invariant:** an index that is put back is the same to the byte, and as old.
//!
//! **Invariant:** wherever it is cut off, `HEAD` is at no commit whose work the index lacks: the index changes before the
//! branch moves, and goes back after it did.

use std::path::{Path, PathBuf};
use std::time::Duration;

use baton_protocol::id::ApplyId;
use baton_protocol::object::{GitEntry, GitIndex, GitOid};
use baton_protocol::path::RelPath;

use super::journal::{Done, Folder};
use super::record::{IndexChange, RepositoryChange};
use super::{ApplyError, crash};
use crate::git::{
    Arrival, Brought, CheckoutRepository, GitError, GitProgram, Placed, RefStep, Still, When,
    new_objects,
};

/// Times that refs are tried, and what lies between at first: a command of git holds a ref for milliseconds.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(50);

/// What is needed to change a repository.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    pub(super) git: GitProgram,
    /// A folder for what git needs for a moment.
    pub(super) scratch: PathBuf,
}

/// What became of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepositoryDone {
    /// Of its index; nothing where that was not to change.
    pub index: Option<Done>,
    /// Of each step of its refs.
    pub refs: Vec<Done>,
}

impl RepositoryDone {
    /// In the order of the journal.
    pub(super) fn list(&self) -> Vec<Done> {
        self.index.into_iter().chain(self.refs.iter().copied()).collect()
    }

    /// Of one of which nobody knows how far it came.
    pub const fn interrupted() -> Self {
        Self { index: Some(Done::Waiting), refs: Vec::new() }
    }

    /// Whether anything was changed.
    pub fn is_changed(&self) -> bool {
        self.list().contains(&Done::Made)
    }
}

/// A repository under way.
#[derive(Debug)]
pub(super) struct Repository {
    checkout: CheckoutRepository,
    folder: Folder,
    id: ApplyId,
    pub(super) change: RepositoryChange,
}

impl Repository {
    /// Looks once more at what the plan was made for, and notes what will be done: the last that is done before the
    /// first write. The caller holds the lock of the index. What is at these paths is left.
    pub(super) fn begin(
        (arrival, brought): (Arrival<'_>, Brought),
        folder: &Folder,
        id: ApplyId,
        left: &[&RelPath],
    ) -> Result<Self, ApplyError> {
        let placed = match arrival.still(&brought)? {
            Still::Same(placed) => placed,
            Still::Moved(what) => return Err(ApplyError::GitMoved { what }),
            Still::Locked(path) => {
                return Err(ApplyError::GitBusy { what: "another git command is at work", path });
            }
        };
        let Brought { is_left, hash, run, mut changes, steps: refs, .. } = brought;
        // Whoever goes on with it must leave them, too.
        changes.retain(|change| !touches(&change.path, left));
        let index = (!changes.is_empty())
            .then(|| IndexChange { written: placed.as_ref().map(Placed::written), changes });
        let is_left = is_left || !left.is_empty();
        let sum = placed.as_ref().map(|placed| sum_of(&placed.index.meaning));
        let head = arrival.checkout.standing()?;
        let change = RepositoryChange { hash, run, is_left, head, sum, index, refs };
        folder.note_repository(&change, placed.as_ref().map(|placed| placed.bytes.as_slice()))?;
        crash::point();
        // From here on whoever forgets the apply takes them away.
        let checkout = arrival.leave();
        let this = Self { checkout, folder: folder.clone(), id, change };
        crash::point();
        this.reserve(placed.as_ref())?;
        crash::point();
        Ok(this)
    }

    /// Takes the place on the disk that the new index needs.
    fn reserve(&self, placed: Option<&Placed>) -> Result<(), ApplyError> {
        let Some(change) = &self.change.index else { return Ok(()) };
        if let Some(index) = self.checkout.changed(placed, change.changes.iter()) {
            let bytes = self.checkout.index_bytes(placed, &index, false)?;
            self.checkout.stage_index(&self.staged(), &bytes)?;
        }
        Ok(())
    }

    /// Opens one that was begun; nothing where its apply changes no repository.
    pub(super) fn open(
        tools: Option<&Tools>,
        folder: &Folder,
        root: &Path,
        id: ApplyId,
    ) -> Result<Option<Self>, ApplyError> {
        let Some(change) = folder.repository()? else { return Ok(None) };
        let Tools { git, scratch } = tools.ok_or(GitError::NoProgram)?;
        let checkout = CheckoutRepository::open(git, scratch, root)?;
        if checkout.hash() != change.hash {
            let why = "it names objects in another way than before";
            return Err(GitError::NoRepository { path: root.to_owned(), why }.into());
        }
        checkout.check_at_work()?;
        Ok(Some(Self { checkout, folder: folder.clone(), id, change }))
    }

    fn staged(&self) -> String {
        staged(self.id)
    }

    /// Lets the objects in: before anything else is written.
    pub(super) fn let_in(&self) -> Result<(), ApplyError> {
        crash::point();
        self.checkout.let_in(&self.id.to_string())?;
        crash::point();
        if self.checkout.is_partial() {
            return Ok(());
        }
        // What was here before the plan was made was made sure of then.
        let index = self.change.index.as_ref();
        let mut oids = index.map(|index| new_objects(&index.changes)).unwrap_or_default();
        oids.extend(self.change.refs.iter().map(|step| step.new));
        if let Some(oid) = self.checkout.missing(&oids)? {
            let said = format!("the object {oid}, which was brought, is gone");
            return Err(GitError::Git { doing: "find what came", said }.into());
        }
        Ok(())
    }

    /// Replaces the index and moves refs. What is at these paths was left.
    ///
    /// The branch that is checked out moves last, and only where the index is what it should be: whatever happens in
    /// between, the next commit takes nothing back.
    pub(super) fn write(&self, left: &[&RelPath]) -> Result<RepositoryDone, ApplyError> {
        let placed = self.checkout.index()?;
        let found = self.found(placed.as_ref())?;
        let index = self.change.index.as_ref();
        let index = index.map(|change| self.replace_index(change, found, placed.as_ref(), left));
        let index = index.transpose()?;
        let is_left = self.change.is_left
            || !left.is_empty()
            || found == Found::Another
            || index.is_some_and(|done| !done.is_so())
            || self.checkout.standing()?.branch != self.change.head.branch;
        let message = format!("baton apply {}", self.change.run);
        let refs = self.move_refs(&message, |now| {
            let mut steps = self.change.refs.iter().zip(now);
            let is_another = steps.any(|(step, now)| {
                step.when == When::Whole && *now != step.old && *now != Some(step.new)
            });
            let is_left = is_left || is_another;
            let of = |(step, now): (&RefStep, &Option<GitOid>)| {
                let is_asked = match step.when {
                    When::Always => true,
                    When::Whole => !is_left,
                    When::Left => is_left,
                };
                if *now == Some(step.new) {
                    Move::Stay(Done::Made)
                } else if !is_asked && *now == step.old {
                    Move::Stay(Done::Blocked)
                } else if *now == step.old {
                    Move::To(Some(step.new))
                } else {
                    Move::Stay(Done::Changed)
                }
            };
            self.change.refs.iter().zip(now).map(of).collect()
        })?;
        self.tidy(false);
        Ok(RepositoryDone { index, refs })
    }

    /// Moves refs, each to what `which` says of what they are now; and says what became of them.
    fn move_refs(
        &self,
        message: &str,
        which: impl Fn(&[Option<GitOid>]) -> Vec<Move>,
    ) -> Result<Vec<Done>, ApplyError> {
        let refs = &self.change.refs;
        if refs.is_empty() {
            return Ok(Vec::new());
        }
        let mut pause = PAUSE;
        for tries in 1.. {
            let now = self.checkout.targets(refs)?;
            let moves = which(&now);
            let todo = refs.iter().zip(&now).zip(&moves).filter_map(|((step, now), to)| {
                let Move::To(to) = to else { return None };
                Some((step.name.as_slice(), *now, *to))
            });
            crash::point();
            match self.checkout.update(message, todo) {
                Ok(()) => {
                    crash::point();
                    let done = moves.iter().map(|to| match to {
                        Move::To(_) => Done::Made,
                        Move::Stay(done) => *done,
                    });
                    return Ok(done.collect());
                }
                // A command of git may hold one of them, or have moved it meanwhile.
                Err(error) if tries >= TRIES => return Err(error.into()),
                Err(error) => tracing::debug!(%error, "refs are tried again"),
            }
            std::thread::sleep(pause);
            pause *= 2;
        }
        Ok(Vec::new())
    }

    fn replace_index(
        &self,
        change: &IndexChange,
        found: Found,
        placed: Option<&Placed>,
        left: &[&RelPath],
    ) -> Result<Done, ApplyError> {
        match found {
            Found::Made => return Ok(Done::Made),
            Found::Another => return Ok(Done::Changed),
            Found::AsItWas => {}
        }
        let mut changes = change.changes.iter().filter(|it| !touches(&it.path, left)).peekable();
        if changes.peek().is_none() {
            return Ok(Done::Blocked);
        }
        let Some(index) = self.checkout.changed(placed, changes) else {
            return Ok(Done::Blocked);
        };
        let bytes = self.checkout.index_bytes(placed, &index, true)?;
        crash::point();
        self.folder.note_made(&sum_of(&index))?;
        crash::point();
        let staged = self.staged();
        self.checkout.stage_index(&staged, &bytes)?;
        crash::point();
        self.checkout.place_index(&staged)?;
        crash::point();
        Ok(Done::Made)
    }

    /// Which index there is, by what it says: any look at files may write it anew.
    fn found(&self, placed: Option<&Placed>) -> Result<Found, ApplyError> {
        let now = placed.map(|placed| sum_of(&placed.index.meaning));
        Ok(if now.is_some() && self.folder.made()? == now {
            Found::Made
        } else if now == self.change.sum {
            Found::AsItWas
        } else {
            Found::Another
        })
    }

    /// What of it is done; the objects that were not let in go.
    pub(super) fn stop(&self) -> Result<RepositoryDone, ApplyError> {
        let now = self.checkout.targets(&self.change.refs)?;
        let made = |(step, now): (&RefStep, Option<GitOid>)| {
            if now == Some(step.new) { Done::Made } else { Done::Waiting }
        };
        let refs = self.change.refs.iter().zip(now).map(made).collect();
        let index = self.change.index.as_ref().map(|_| {
            let placed = self.checkout.index()?;
            // One that was made and has changed since is found to be another one when it would be put back.
            let is_made =
                self.found(placed.as_ref())? != Found::AsItWas && self.folder.made()?.is_some();
            Ok::<_, ApplyError>(if is_made { Done::Made } else { Done::Waiting })
        });
        let done = RepositoryDone { index: index.transpose()?, refs };
        self.tidy(true);
        Ok(done)
    }

    /// Puts back what was made: first refs, and the index only if `HEAD` is where it was. What was committed since, or
    /// is there still, would be staged to go away.
    pub(super) fn put_back(&self, made: &RepositoryDone) -> Result<RepositoryDone, ApplyError> {
        let in_use = self.checkout.in_use()?;
        let message = format!("baton undo {}", self.change.run);
        let refs = self.move_refs(&message, |now| {
            let of = |(at, (step, now)): (usize, (&RefStep, &Option<GitOid>))| {
                if made.refs.get(at) != Some(&Done::Made) {
                    Move::Stay(Done::Found)
                } else if *now == step.old {
                    Move::Stay(Done::Made)
                } else if *now != Some(step.new) {
                    Move::Stay(Done::Changed)
                } else if in_use.holds(&step.name, step.old.is_none()) {
                    Move::Stay(Done::Refused)
                } else {
                    Move::To(step.old)
                }
            };
            self.change.refs.iter().zip(now).enumerate().map(of).collect()
        })?;
        let mut index = None;
        if let Some(change) = self.change.index.as_ref() {
            index = Some(match made.index {
                Some(Done::Made) => self.put_index_back(change)?,
                _ => Done::Found,
            });
        }
        self.tidy(true);
        Ok(RepositoryDone { index, refs })
    }

    fn put_index_back(&self, change: &IndexChange) -> Result<Done, ApplyError> {
        let placed = self.checkout.index()?;
        match self.found(placed.as_ref())? {
            Found::AsItWas => return Ok(Done::Made),
            Found::Another => return Ok(Done::Changed),
            Found::Made if self.checkout.standing()? != self.change.head => {
                return Ok(Done::Changed);
            }
            Found::Made => {}
        }
        let staged = self.staged();
        let Some(written) = change.written else {
            crash::point();
            self.checkout.remove_index("index")?;
            crash::point();
            return Ok(Done::Made);
        };
        self.checkout.stage_index(&staged, &self.folder.old_index()?)?;
        // What a split index shares may be gone since.
        if let Err(error) = self.checkout.index_at(&staged) {
            tracing::warn!(%error, "an index that would be put back cannot be read");
            return Ok(Done::Refused);
        }
        self.checkout.date_index(&staged, written)?;
        crash::point();
        self.checkout.place_index(&staged)?;
        crash::point();
        Ok(Done::Made)
    }

    /// Takes away what is not needed any more.
    fn tidy(&self, with_objects: bool) {
        let mut left = self.checkout.remove_index(&self.staged());
        if with_objects {
            left = left.and(self.checkout.discard(&self.id.to_string()));
        }
        if let Err(error) = left {
            tracing::warn!(%error, "an apply left files in the folder of a repository");
        }
    }

    /// Takes away what one may have left that was not begun.
    pub(super) fn forget(tools: &Tools, root: &Path, id: ApplyId) -> Result<(), ApplyError> {
        let Tools { git, scratch } = tools;
        let checkout = CheckoutRepository::open(git, scratch, root)?;
        checkout.remove_index(&staged(id))?;
        Ok(checkout.discard(&id.to_string())?)
    }

    /// Takes away what no apply of these knows and is older than this, in milliseconds since 1970.
    pub(super) fn sweep(
        tools: &Tools,
        root: &Path,
        before_ms: u64,
        is_known: impl Fn(&str) -> bool,
    ) -> Result<(), ApplyError> {
        let checkout = CheckoutRepository::open(&tools.git, &tools.scratch, root)?;
        Ok(checkout.sweep(before_ms, is_known)?)
    }

    /// Names of the refs that were moved, with what became of them.
    pub(super) fn named(&self, refs: &[Done]) -> Vec<(Vec<u8>, Done)> {
        let names = self.change.refs.iter().map(|step| step.name.clone());
        names.zip(refs.iter().copied()).collect()
    }

    /// How many steps it has in the journal.
    pub(super) fn len(&self) -> usize {
        self.change.len()
    }

    /// What became of them, as the journal has it.
    pub(super) fn done_of(&self, list: &[Done]) -> RepositoryDone {
        self.change.done_of(list)
    }
}

impl RepositoryChange {
    /// How many steps it has in the journal.
    pub(super) fn len(&self) -> usize {
        usize::from(self.index.is_some()) + self.refs.len()
    }

    /// What became of them, as the journal has it.
    pub(super) fn done_of(&self, list: &[Done]) -> RepositoryDone {
        let (index, refs) = match (&self.index, list) {
            (Some(_), [index, refs @ ..]) => (Some(*index), refs),
            _ => (None, list),
        };
        RepositoryDone { index, refs: refs.to_vec() }
    }
}

/// The name of an index that waits.
fn staged(id: ApplyId) -> String {
    format!("baton-apply-{id}.index")
}

/// What is done with a ref.
enum Move {
    Stay(Done),
    To(Option<GitOid>),
}

/// Which index stands in a checkout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    AsItWas,
    Made,
    Another,
}

/// What an index says, in short; not what git knows of files, which any look at them changes.
fn sum_of(index: &GitIndex) -> [u8; 32] {
    let entries = index.entries.iter().map(|entry| GitEntry { clean: None, ..entry.clone() });
    let entries = entries.collect();
    let plain = GitIndex { version: 2, entries, undo: Vec::new(), ..index.clone() };
    *blake3::hash(&plain.encode()).as_bytes()
}

/// Whether a path of the index is one of these, or below one, or one of them is below it: where those were left, its
/// entry is left, too.
pub fn touches(path: &[u8], list: &[&RelPath]) -> bool {
    let plain = path.strip_suffix(b"/").unwrap_or(path);
    let is_in = |path: &[u8], above: &[u8]| {
        let rest = path.strip_prefix(above);
        above.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    // The root stands for its permissions alone.
    let mut others = list.iter().filter(|other| !other.is_root());
    others.any(|other| is_in(plain, other.as_bytes()) || is_in(other.as_bytes(), plain))
}
