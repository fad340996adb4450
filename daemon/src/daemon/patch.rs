//! A unified diff of two trees, for people.

use std::fmt::Write as _;

use baton_protocol::id::TreeId;
use baton_protocol::object::{Blob, Entry, EntryKind};
use baton_protocol::path::RelPath;
use baton_store::diff::Change;
use baton_store::error::StoreError;
use baton_store::objects::ObjectSource;
use baton_store::snapshot::{BlobError, find_entry, load_blob};

/// Files above this are only named.
const MAX_FILE: u64 = 1024 * 1024;

/// Text after which the rest of the changes is only named.
const MAX_PATCH: usize = 16 * 1024 * 1024;

/// What changed, as `diff -u` shows it. Binary and very large files are named only.
pub(super) fn unified<S: ObjectSource + ?Sized>(
    source: &S,
    old: TreeId,
    new: TreeId,
    changes: &[Change],
) -> Result<String, StoreError> {
    let mut patch = String::new();
    for change in changes {
        let name = shown(&change.path);
        let before = find_entry(source, old, &change.path)?;
        let after = find_entry(source, new, &change.path)?;
        let texts = if patch.len() > MAX_PATCH {
            None
        } else {
            text(source, before.as_ref())?.zip(text(source, after.as_ref())?)
        };
        match texts {
            Some((before_text, after_text)) if before_text != after_text => {
                let label = |entry: &Option<Entry>, side: &str| match entry {
                    Some(_) => format!("{side}/{name}"),
                    None => "/dev/null".to_owned(),
                };
                let diff = similar::TextDiff::from_lines(&before_text, &after_text);
                let unified = diff
                    .unified_diff()
                    .header(&label(&before, "a"), &label(&after, "b"))
                    .to_string();
                patch.push_str(&unified);
            }
            Some(_) => {
                let mode = |entry: Option<&Entry>| match entry.map(|entry| entry.kind) {
                    Some(EntryKind::File { mode, .. } | EntryKind::Directory { mode, .. }) => mode,
                    _ => 0,
                };
                let (old, new) = (mode(before.as_ref()), mode(after.as_ref()));
                if old != new {
                    // Writing to a string does not fail.
                    let _ = writeln!(patch, "mode of {name}: {old:04o} -> {new:04o}");
                }
            }
            None => {
                let _ = writeln!(patch, "Binary or large file {name} differs");
            }
        }
    }
    Ok(patch)
}

/// Lines of a change that are new, and lines that are gone; nothing where it is binary, or too large to be looked at.
pub(super) fn lines<S: ObjectSource + ?Sized>(
    source: &S,
    old: TreeId,
    new: TreeId,
    change: &Change,
) -> Result<Option<(u64, u64)>, StoreError> {
    let before = text(source, find_entry(source, old, &change.path)?.as_ref())?;
    let after = text(source, find_entry(source, new, &change.path)?.as_ref())?;
    let Some((before, after)) = before.zip(after) else { return Ok(None) };
    let diff = similar::TextDiff::from_lines(&before, &after);
    let mut counts = (0, 0);
    for op in diff.ops().iter().filter(|op| op.tag() != similar::DiffTag::Equal) {
        counts.0 += op.new_range().len() as u64;
        counts.1 += op.old_range().len() as u64;
    }
    Ok(Some(counts))
}

/// A path on one line, without what a terminal would obey: its names may come from anywhere.
fn shown(path: &RelPath) -> String {
    let mut text = String::new();
    for character in path.display().chars() {
        if character.is_control() {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

/// The text of a file or link, nothing where it is binary or large; a missing entry and a directory
/// are empty.
fn text<S: ObjectSource + ?Sized>(
    source: &S,
    entry: Option<&Entry>,
) -> Result<Option<String>, StoreError> {
    let blob: Blob = match entry.map(|entry| entry.kind) {
        Some(EntryKind::File { blob, .. } | EntryKind::Symlink { target: blob }) => blob,
        _ => return Ok(Some(String::new())),
    };
    match load_blob(source, blob, MAX_FILE) {
        Ok(bytes) if bytes.contains(&0) => Ok(None),
        Ok(bytes) => Ok(String::from_utf8(bytes).ok()),
        Err(BlobError::TooLarge { .. }) => Ok(None),
        Err(BlobError::Store(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_a_terminal_nothing() {
        let path = RelPath::new(b"a\n+b/\x1b]0;title\x07/gr\xc3\xb6\xc3\x9fe").unwrap();
        assert_eq!(shown(&path), "a\\n+b/\\u{1b}]0;title\\u{7}/gr\u{f6}\u{df}e");
    }
}
