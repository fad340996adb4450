//! Damage that was found, noted in the store until somebody has dealt with it.
//!
//! Whoever finds damage may be about to take the rows of lost bytes away, or to make an index anew: afterwards nothing is wrong
//! any more, and something is gone. The note outlives that, and the process.
//!
//! Not here: who finds it, and what is done about it.
//!
//! **Invariant:** a note is taken back only by who has looked at everything.

use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::StoreError;
use crate::fs;
use crate::layout::Layout;
use crate::lines;

/// Most that is noted; what is beyond shows itself when these are dealt with.
const MOST: usize = 100;

/// Longest part of a note, in characters.
const LONGEST: usize = 300;

/// Longest note that is read.
const MAX_FILE: u64 = 1 << 20;

/// Notes are read, and written as a whole.
static WRITING: Mutex<()> = Mutex::new(());

/// Damage that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which vault, segment, snapshot or object.
    pub what: String,
    /// What is wrong with it.
    pub detail: String,
}

/// What is noted.
pub fn noted(layout: &Layout) -> Result<Vec<Problem>, StoreError> {
    let path = layout.noted();
    let Some(text) = lines::read(&path, MAX_FILE)? else { return Ok(Vec::new()) };
    let mut found: Vec<Problem> = text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(what, detail)| Problem { what: what.to_owned(), detail: detail.to_owned() })
        .take(MOST)
        .collect();
    if found.is_empty() {
        // That there is a note says that something was found.
        found.push(problem(path.display(), "damage was noted, and the note is damaged itself"));
    }
    Ok(found)
}

/// Notes what was found, beside what is noted. Whoever finds damage goes on where that fails.
pub(crate) fn note(layout: &Layout, found: &[Problem]) {
    if layout.is_read_only() {
        return;
    }
    let _one = alone();
    let written = noted(layout).and_then(|mut all| {
        let before = all.len();
        for problem in found.iter().map(line_of) {
            if all.len() < MOST && !all.contains(&problem) {
                all.push(problem);
            }
        }
        if all.len() == before { Ok(()) } else { write(layout, &all) }
    });
    if let Err(error) = written {
        tracing::error!(%error, "damage that was found could not be noted");
    }
}

/// Notes one thing.
pub(crate) fn note_one(layout: &Layout, what: impl Display, detail: impl Display) {
    note(layout, &[problem(what, detail)]);
}

/// After somebody looked at everything: this is what is still wrong.
pub fn replace(layout: &Layout, left: &[Problem]) -> Result<(), StoreError> {
    let _one = alone();
    if left.is_empty() {
        return Ok(fs::remove_file(&layout.noted())?);
    }
    write(layout, &left.iter().take(MOST).map(line_of).collect::<Vec<_>>())
}

fn write(layout: &Layout, all: &[Problem]) -> Result<(), StoreError> {
    let lines = all.iter().map(|Problem { what, detail }| format!("{what}\t{detail}"));
    Ok(lines::write(&layout.noted(), lines)?)
}

fn problem(what: impl Display, detail: impl Display) -> Problem {
    Problem { what: what.to_string(), detail: detail.to_string() }
}

/// As it stands in a line.
fn line_of(of: &Problem) -> Problem {
    let plain = |text: &str| -> String {
        let shown = text.chars().take(LONGEST);
        shown.map(|char| if char.is_control() { ' ' } else { char }).collect()
    };
    Problem { what: plain(&of.what), detail: plain(&of.detail) }
}

fn alone() -> MutexGuard<'static, ()> {
    WRITING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_stays_until_it_is_taken_back_and_is_never_too_much() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open(folder.path()).unwrap();
        assert_eq!(noted(&layout).unwrap(), []);
        note_one(&layout, "segment a", "bytes\nare\tgone");
        note_one(&layout, "segment a", "bytes\nare\tgone");
        assert_eq!(noted(&layout).unwrap(), [problem("segment a", "bytes are gone")]);
        for at in 0..2 * MOST {
            note_one(&layout, at, "x".repeat(2 * LONGEST));
        }
        assert_eq!(noted(&layout).unwrap().len(), MOST);
        replace(&layout, &[problem("b", "c")]).unwrap();
        assert_eq!(noted(&layout).unwrap(), [problem("b", "c")]);
        // One that cannot be read is no all-clear.
        fs::write_atomic(&layout.noted(), &[0; 512], 0o600).unwrap();
        assert_eq!(noted(&layout).unwrap().len(), 1);
        replace(&layout, &[]).unwrap();
        assert_eq!(noted(&layout).unwrap(), []);
    }
}
