//! What a conversation of Codex goes on from, and the agents that were started in it.
//!
//! **Invariant:** of a conversation that was held elsewhere nothing is carried, unless somebody named the one that goes on
//! from it; and of none what came after the place from which it was gone on.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use baton_store::folder::Folder;

use super::super::adapter::Wanted;
use super::super::session::{AgentError, Files, Reason, Session, is_in};
use super::read;
use super::rollout::{Rollout, all};

/// Conversations that go on from one another at most.
const MAX_LINEAGE: usize = 64;

/// Bytes that are read at once.
const BUFFER: usize = 256 * 1024;

/// One that others go on from.
struct Ancestor {
    rollout: Rollout,
    /// Bytes of it that belong to the conversation.
    length: u64,
}

/// The files of a session beside its own.
pub(super) fn files(
    folder: &Folder,
    session: &Session,
    wanted: &Wanted<'_>,
) -> Result<Files, AgentError> {
    let mut files = Files::default();
    let rollouts = all(folder)?;
    let ancestors = ancestors(folder, session, wanted, &rollouts, &mut files)?;
    for Ancestor { rollout, length } in &ancestors {
        files.push_part(&rollout.name(), rollout.at.clone(), *length);
    }
    // Those that were started are younger than the oldest of those that started them.
    let is_of_line =
        |it: &&Rollout| it.id == session.id || ancestors.iter().any(|one| one.rollout.id == it.id);
    let oldest = rollouts.iter().filter(is_of_line).map(|it| &it.time).min();
    let Some(oldest) = oldest.cloned() else { return Ok(files) };
    let mut of_ancestors: Vec<Vec<&Rollout>> = ancestors.iter().map(|_| Vec::new()).collect();
    for rollout in rollouts.iter().filter(|it| it.time >= oldest && !is_of_line(it)) {
        if rollout.is_compressed {
            continue;
        }
        let begun = match read(folder, &rollout.at, false) {
            Err(AgentError::Folder(_)) => continue,
            begun => begun?,
        };
        let Some(meta) = begun.map(|begun| begun.meta).filter(|it| !it.is_of_user(&rollout.id))
        else {
            continue;
        };
        if meta.belongs_to(&session.id) {
            add(&mut files, rollout, wanted.most);
        } else if let Some(at) = ancestors.iter().position(|it| meta.belongs_to(&it.rollout.id))
            && let Some(theirs) = of_ancestors.get_mut(at)
        {
            theirs.push(rollout);
        }
    }
    for (ancestor, started) in ancestors.iter().zip(of_ancestors) {
        let ids: BTreeSet<_> = started.iter().map(|rollout| rollout.id.as_str()).collect();
        let named = named(folder, ancestor, &ids)?;
        for rollout in started.into_iter().filter(|rollout| named.contains(rollout.id.as_str())) {
            add(&mut files, rollout, wanted.most);
        }
    }
    Ok(files)
}

fn add(files: &mut Files, rollout: &Rollout, most: usize) {
    if files.files.len() < most {
        files.push(&rollout.name(), rollout.at.clone());
    } else {
        files.leave_out(&rollout.at, Reason::TooMany);
    }
}

/// All that the session goes on from, the nearest first.
fn ancestors(
    folder: &Folder,
    session: &Session,
    wanted: &Wanted<'_>,
    rollouts: &[Rollout],
    files: &mut Files,
) -> Result<Vec<Ancestor>, AgentError> {
    let mut found: Vec<Ancestor> = Vec::new();
    let mut base = read(folder, &session.at, false)?.and_then(|begun| begun.meta.base());
    while let Some(at) = base {
        let no_base = || AgentError::NoBase {
            id: session.id.clone(),
            base: at.id.clone(),
            folder: folder.path().to_owned(),
        };
        // One that goes on from itself was not written by the program.
        let is_known = at.id == session.id || found.iter().any(|it| it.rollout.id == at.id);
        if is_known || found.len() >= MAX_LINEAGE {
            return Err(no_base());
        }
        let rollout = rollouts.iter().find(|rollout| rollout.id == at.id).ok_or_else(no_base)?;
        if rollout.is_compressed {
            return Err(AgentError::Compressed { path: folder.path_of(&rollout.at) });
        }
        let begun = read(folder, &rollout.at, false)?.ok_or_else(no_base)?;
        let cwd = PathBuf::from(&begun.meta.cwd);
        if !is_in(&cwd, wanted.root) {
            // Without a place to end at it would be all of it.
            if !wanted.is_named || at.offset == u64::MAX {
                return Err(AgentError::BaseElsewhere {
                    id: session.id.clone(),
                    base: at.id,
                    cwd,
                    root: wanted.root.to_owned(),
                });
            }
            files.notes.push(note(session, &at.id, &cwd));
        }
        found.push(Ancestor { rollout: rollout.clone(), length: at.offset });
        base = begun.meta.base();
    }
    Ok(found)
}

fn note(session: &Session, base: &str, cwd: &Path) -> String {
    let (id, cwd) = (&session.id, cwd.display());
    format!(
        "conversation {id} goes on from {base}, which was held in {cwd}: that part travels, too"
    )
}

/// Which of these ids stand in what belongs to the conversation.
fn named<'a>(
    folder: &Folder,
    ancestor: &Ancestor,
    ids: &BTreeSet<&'a str>,
) -> Result<BTreeSet<&'a str>, AgentError> {
    let mut found = BTreeSet::new();
    let Some(file) = folder.file(&ancestor.rollout.at)?.filter(|_| !ids.is_empty()) else {
        return Ok(found);
    };
    let path = folder.path_of(&ancestor.rollout.at);
    let mut from = file.take(ancestor.length);
    let mut window = Vec::new();
    loop {
        // What may be the beginning of an id.
        let keep = window.len().saturating_sub(64);
        window.drain(..keep);
        let read = (&mut from).take(BUFFER as u64).read_to_end(&mut window);
        if read.map_err(|source| AgentError::Read { path: path.clone(), source })? == 0 {
            return Ok(found);
        }
        for id in ids.iter().filter(|id| !found.contains(**id)).copied().collect::<Vec<_>>() {
            if window.windows(id.len()).any(|it| it == id.as_bytes()) {
                found.insert(id);
            }
        }
    }
}
