//! Collection: taking away what nothing leads to any more, while others write and read.
//!
//! The store does not know what is to be kept: whoever drives a collection hands in the *roots* (snapshots that a ref,
//! a history, a run, a queue or an apply names). The store knows the refs of the vault and what was committed since.
//!
//! A collection is a row of short steps, which its driver takes one by one. It can stop after any of them for good:
//! nothing is lost then, and what was not taken away is found by the next one.
//!
//! 1. **Begin.** From here on every commit, and every `keep`, notes what it made reachable. The rows of the index are
//!    listed: only what is listed can be taken away, so that what comes later is safe by itself.
//! 2. **Mark** ([`marks`]) all that the roots and the refs reach. Nobody waits for that. Damage below them ends the
//!    collection: what cannot be read may lead to what is needed to repair it.
//! 3. **Unclose** what is not marked: from then on no row that goes away is said to be whole.
//! 4. **Condemn** what is not marked. A condemned object is absent for who looks whether it is here, and is still
//!    read by who knew of it before. Whoever brings it, or meets it on the walk of a commit, takes it back
//!    ([`Vault::revive`]).
//! 5. **Wait** until every [`Lease`] from before the last condemnation has ended. Who began later has seen these
//!    objects as absent, or has taken them back.
//! 6. **Mark again**, from the roots as they are by then, and take back what is reached by now. Then **wait again**, until every
//!    lease from before that has ended: its holder may read what was a root when it was taken and is none any more, named
//!    after the first mark and let go before this one. What is named after this one was walked by somebody who took it back.
//! 7. **Delete** the rows that are still condemned, and make that durable.
//! 8. **Rewrite** ([`rewrite`]) segments of which much is dead: live records are copied, synced, the rows moved, that
//!    made durable, and only then is the old file removed, once who may still read it has ended.
//!
//! Steps 3, 4, 6 and 7 are transactions of at most [`AT_ONCE`] rows. Each holds the gate of the store, which commits hold shared from
//! before their entry is journalled until their ref is in memory; and each first marks what was committed since the one before.
//!
//! **What orders what.** Epochs are numbers in memory. A [`Lease`] has the epoch in which it was taken; a restart ends all of them. No
//! clock is read. Condemned rows stay condemned over a restart; nobody holds anything from before it.
//!
//! **Why no commit loses anything.** A commit walks what it makes reachable and then moves its ref, under the gate. If a condemnation
//! came between the two (the *generation* has moved) it walks again: it takes back what was condemned, and says what is missing. So when
//! its ref moves all below it is live; from then on it is noted, and marked before anything more is condemned or deleted. What a commit has seen
//! before it was condemned cannot be deleted, because the intake has a lease.
//!
//! **Invariant:** no closed row that is not condemned has anything below it that is condemned or gone: step 3 is before step 4, what is marked
//! includes all below it, and what is closed later is noted as what a commit has made reachable. It holds after a power cut, too: the index
//! keeps the order of its transactions.
//!
//! **Invariant:** a row is deleted only if it was condemned, all leases from before that have ended, a mark of all roots after that did
//! not reach it, and all leases from before that mark have ended, too.
//!
//! **Invariant:** rows go durably before bytes. A crash between the two leaves bytes that nobody finds, which the next collection removes.
//!
//! **What is durable when:**
//!
//! | step | durable before it | after a crash right after it |
//! |---|---|---|
//! | fold, before 1 | objects of the journal in segments, refs in the checkpoint of a new file | the old journal files are gone: a replay brings nothing back |
//! | condemn | nothing | some condemned rows are live again, in the order of the transactions |
//! | delete rows | nothing | some rows are back, and their bytes are still there |
//! | copy records | nothing | records that no row names |
//! | move rows | the copies, synced | rows name the old place, and it is still there |
//! | remove a file | rows deleted or moved, the log of the index synced | an index that is made anew finds what is in the files that are left: dead objects in them are live until the next collection, and none of them is closed |

mod marks;
mod kept;
mod rewrite;
#[cfg(test)]
mod model;

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use baton_protocol::id::ObjectId;

use super::Vault;
use crate::error::StoreError;
use crate::fs;
use crate::index::Listed;
use marks::{Marks, Wanted};
use rewrite::Rewriting;

/// Rows of one transaction: of 10,000 each takes about as long as the sync of a push.
const AT_ONCE: usize = 10_000;

/// Roots that are marked under the gate at most; more are marked before it is closed, and looked at again.
const FEW: usize = 16;

/// How often they are, where more come all the time.
const MOST_TRIES: usize = 8;

/// Snapshots and what else must stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// What has to be here, with all below it. Where something of it is missing, nothing is taken away.
    pub whole: Vec<ObjectId>,
    /// What stays as far as it is here.
    pub some: Vec<ObjectId>,
}

/// Why nothing is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Of which object.
    pub id: ObjectId,
    /// What is wrong with it.
    pub what: &'static str,
}

/// What a collection needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The roots as they are now: [`Collection::mark`].
    Roots,
    /// Another step.
    Goes,
    /// That those end who began before: [`Collection::wait`], or to be left for the next collection.
    Waits,
    /// Nothing: it is done.
    Done,
}

/// What a collection did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Bytes of files that were removed, without those of the copies.
    pub freed_bytes: u64,
    /// Objects that were deleted.
    pub objects: u64,
    /// Objects that were condemned, and are deleted once who began before has ended.
    pub left: u64,
    /// Why nothing was taken away, or something was not.
    pub damage: Vec<Damage>,
    /// Segments that were left alone, because what should be in them is not.
    pub doubted: Vec<String>,
}

#[derive(Debug)]
enum Phase {
    Mark,
    UnclosePending,
    Unclose,
    Condemn,
    Wait(u64),
    MarkAgain,
    WaitAgain(u64),
    Delete,
    Rewrite(Rewriting),
    Done,
}

/// A collection of a vault; one at a time.
#[derive(Debug)]
pub struct Collection {
    vault: Vault,
    marks: Marks,
    phase: Phase,
    cursor: Option<[u8; 32]>,
    /// Rows of one transaction.
    at_once: usize,
    collected: Collected,
}

impl Vault {
    /// Begins a collection; nothing while there is another one. The journal should have been folded just before:
    /// what only it has is not collected.
    pub fn collect(&self) -> Result<Option<Collection>, StoreError> {
        self.0.commits.poison.check()?;
        {
            let _gate = self.0.commits.gate.write().unwrap_or_else(PoisonError::into_inner);
            if self.0.collecting.is_on.swap(true, Ordering::SeqCst) {
                return Ok(None);
            }
        }
        let mut collection = Collection {
            vault: self.clone(),
            marks: Marks::default(),
            phase: Phase::Mark,
            cursor: None,
            at_once: AT_ONCE,
            collected: Collected::default(),
        };
        collection.marks = Marks::list(self)?;
        Ok(Some(collection))
    }

    /// Makes the next collection rewrite every segment that has anything dead in it, so that no byte of it is left; durable
    /// when this returns.
    pub fn purge_next(&self) -> Result<(), StoreError> {
        Ok(fs::write_atomic(&self.purge_file(), b"", 0o600)?)
    }

    /// Whether the next collection does that.
    pub fn is_to_be_purged(&self) -> bool {
        self.purge_file().exists()
    }

    fn purge_file(&self) -> std::path::PathBuf {
        self.0.layout.vault(self.0.id).join("purge")
    }
}

impl Collection {
    /// How many rows there are.
    pub const fn rows(&self) -> usize {
        self.marks.len()
    }

    /// What it needs next.
    pub fn needs(&self) -> Step {
        match &self.phase {
            Phase::Mark | Phase::MarkAgain => Step::Roots,
            Phase::Wait(epoch) | Phase::WaitAgain(epoch) => self.or_waits(*epoch),
            Phase::Rewrite(rewriting) => match rewriting.waits_for() {
                Some(epoch) => self.or_waits(epoch),
                None => Step::Goes,
            },
            Phase::Done => Step::Done,
            _ => Step::Goes,
        }
    }

    fn or_waits(&self, epoch: u64) -> Step {
        if self.vault.0.commits.leases.are_over(epoch) { Step::Goes } else { Step::Waits }
    }

    /// Marks the refs of the vault, and what else must stay.
    pub fn mark(&mut self, roots: &Roots) -> Result<(), StoreError> {
        let heads = self.vault.heads();
        let heads = heads.iter().map(|head| ObjectId::from(head.snapshot));
        let whole = heads.chain(roots.whole.iter().copied());
        self.marks.mark(&self.vault, whole, Wanted::Whole)?;
        self.marks.mark(&self.vault, roots.some.iter().copied(), Wanted::Some)?;
        let next = match self.phase {
            Phase::Mark => Phase::UnclosePending,
            // Somebody may read what was named for a moment, before this looked at what is.
            Phase::MarkAgain => Phase::WaitAgain(self.vault.0.commits.leases.advance()),
            _ => return Ok(()),
        };
        self.go_to(next);
        self.stop_at_damage();
        Ok(())
    }

    /// What taking away what is not marked would free, about; to be asked once the roots are marked.
    pub fn survey(&mut self) -> Result<Collected, StoreError> {
        rewrite::survey(&self.vault, &self.marks, &mut self.collected)?;
        Ok(self.collected.clone())
    }

    /// Waits for who began before, at most so long.
    pub fn wait(&self, most: Duration) {
        let epoch = match &self.phase {
            Phase::Wait(epoch) | Phase::WaitAgain(epoch) => Some(*epoch),
            Phase::Rewrite(rewriting) => rewriting.waits_for(),
            _ => None,
        };
        if let Some(epoch) = epoch {
            self.vault.0.commits.leases.wait(epoch, most);
        }
    }

    /// Takes the next step; does nothing where it needs something else first.
    pub fn step(&mut self) -> Result<Step, StoreError> {
        if self.needs() == Step::Goes {
            self.vault.0.commits.poison.check()?;
            self.go()?;
            self.stop_at_damage();
        }
        Ok(self.needs())
    }

    /// What it has done so far.
    pub fn collected(&self) -> &Collected {
        &self.collected
    }

    /// For tests: in transactions of so few rows.
    #[cfg(any(test, feature = "simulation"))]
    pub const fn go_slowly(&mut self, rows: usize) {
        self.at_once = rows;
    }

    /// For tests: whether all that it has noted is durable by now.
    #[cfg(test)]
    pub(crate) const fn is_rewriting(&self) -> bool {
        matches!(self.phase, Phase::Rewrite(_) | Phase::Done)
    }

    fn go(&mut self) -> Result<(), StoreError> {
        match &mut self.phase {
            Phase::UnclosePending => {
                self.alone(|vault, marks| {
                    vault.change_pending(|pending| pending.unclose(|id| marks.has(id)));
                    Ok(())
                })?;
                self.go_to(Phase::Unclose);
            }
            Phase::Unclose => {
                let (is_last, ()) = self.page(|vault, marks, rows| {
                    let goes = |row: &&Listed| row.is_closed && !marks.has(&row.id);
                    vault.index().unclose(&ids(rows.iter().filter(goes)))
                })?;
                if is_last {
                    self.go_to(Phase::Condemn);
                }
            }
            Phase::Condemn => {
                let (is_last, condemned) = self.page(|vault, marks, rows| {
                    let goes = |row: &&Listed| {
                        !row.is_condemned && marks.is_listed(&row.id) && !marks.has(&row.id)
                    };
                    let condemned = vault.index().condemn(&ids(rows.iter().filter(goes)));
                    // After it: whoever begins to walk between the two sees what is condemned.
                    if !matches!(condemned, Ok(0)) {
                        vault.0.collecting.generation.fetch_add(1, Ordering::SeqCst);
                    }
                    condemned
                })?;
                self.collected.left += condemned as u64;
                if is_last {
                    let epoch = self.vault.0.commits.leases.advance();
                    self.go_to(Phase::Wait(epoch));
                }
            }
            Phase::Wait(_) => self.go_to(Phase::MarkAgain),
            Phase::WaitAgain(_) => self.go_to(Phase::Delete),
            Phase::Delete => {
                let (is_last, deleted) = self.page(|vault, marks, rows| {
                    let condemned = rows.iter().filter(|row| row.is_condemned);
                    let (back, gone): (Vec<_>, Vec<_>) =
                        condemned.partition(|row| marks.has(&row.id));
                    vault.index().acquit(&ids(back))?;
                    vault.index().delete_condemned(&ids(gone))
                })?;
                self.collected.objects += deleted as u64;
                if is_last {
                    self.collected.left = 0;
                    self.vault.index().forget_known();
                    self.vault.index().sync()?;
                    let least_dead = rewrite::least_dead(&self.vault);
                    let rewriting = Rewriting::begin(&self.vault, least_dead)?;
                    self.go_to(Phase::Rewrite(rewriting));
                }
            }
            Phase::Rewrite(rewriting) => {
                if rewriting.go(&self.vault, &mut self.collected)? {
                    self.go_to(Phase::Done);
                }
            }
            Phase::Mark | Phase::MarkAgain | Phase::Done => {}
        }
        Ok(())
    }

    fn go_to(&mut self, phase: Phase) {
        self.phase = phase;
        self.cursor = None;
    }

    fn stop_at_damage(&mut self) {
        if !self.marks.damage.is_empty() {
            self.collected.damage.clone_from(&self.marks.damage);
            self.phase = Phase::Done;
        }
    }

    /// Does something with the next rows, alone; whether they were the last ones.
    fn page<T: Default>(
        &mut self,
        work: impl FnOnce(&Vault, &Marks, &[Listed]) -> Result<T, StoreError>,
    ) -> Result<(bool, T), StoreError> {
        let (cursor, at_once) = (self.cursor, self.at_once);
        let (next, done) = self.alone(|vault, marks| {
            let rows = vault.index().page(cursor.as_ref(), at_once)?;
            let next = rows.last().map(|row| row.id.hash);
            Ok((next, work(vault, marks, &rows)?))
        })?;
        self.cursor = next.or(cursor);
        Ok((next.is_none(), done))
    }

    /// Does something while no commit takes effect, with all marked that was committed before. If that came upon
    /// damage it is not done.
    fn alone<T: Default>(
        &mut self,
        work: impl FnOnce(&Vault, &Marks) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let vault = self.vault.clone();
        let collecting = &vault.0.collecting;
        let since = || {
            let mut since = collecting.since.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *since)
        };
        for tries in 0.. {
            // While nobody waits.
            self.marks.mark(&vault, since(), Wanted::Whole)?;
            {
                let held = collecting.held_off.lock().unwrap_or_else(PoisonError::into_inner);
                let waited = collecting.let_go.wait_while(held, |held| *held > 0);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
            let gate = vault.0.commits.gate.write().unwrap_or_else(PoisonError::into_inner);
            if *collecting.held_off.lock().unwrap_or_else(PoisonError::into_inner) > 0 {
                continue;
            }
            let since = since();
            if since.len() > FEW && tries < MOST_TRIES {
                drop(gate);
                self.marks.mark(&vault, since, Wanted::Whole)?;
                continue;
            }
            self.marks.mark(&vault, since, Wanted::Whole)?;
            if !self.marks.damage.is_empty() {
                break;
            }
            return work(&vault, &self.marks);
        }
        Ok(T::default())
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        let collecting = &self.vault.0.collecting;
        let _gate = self.vault.0.commits.gate.write().unwrap_or_else(PoisonError::into_inner);
        collecting.is_on.store(false, Ordering::SeqCst);
        collecting.since.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn ids<'a>(rows: impl IntoIterator<Item = &'a Listed>) -> Vec<ObjectId> {
    rows.into_iter().map(|row| row.id).collect()
}
