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
//! 6. **Mark again**, from the roots as they are by then, and take back what is reached by now.
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
//! **Invariant:** a row is deleted only if it was condemned, all leases from before that have ended, and a mark of all roots after that did
//! not reach it.
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
