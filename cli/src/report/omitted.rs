//! What could not be carried, in a few lines: it must be seen, and must not drown the rest.

use std::fmt::Write as _;

use baton_daemon::api::control::{OmittedEntry, ReportPath};

use super::figures;

/// Paths that are named before the rest is only counted.
const SHOWN: usize = 5;

/// Lists what a snapshot left out.
pub(crate) fn omitted(to: &mut String, entries: &[OmittedEntry]) {
    let paths = entries.iter().map(|entry| format!("{} ({})", path(&entry.path), entry.reason));
    list(to, "left out", paths);
}

/// Lists what was left as it is, because it was changed since.
pub(crate) fn kept(to: &mut String, entries: &[OmittedEntry]) {
    let paths = entries.iter().map(|entry| format!("{} ({})", path(&entry.path), entry.reason));
    list(to, "changed since, and left", paths);
}

/// Lists files that changed during every read.
pub(crate) fn torn(to: &mut String, paths: &[ReportPath]) {
    list(to, "changing while read, kept as last seen", paths.iter().map(path));
}

fn list(to: &mut String, what: &str, lines: impl ExactSizeIterator<Item = String>) {
    let count = lines.len();
    if count == 0 {
        return;
    }
    let _ = writeln!(to, "{what}: {}", figures::plural(count as u64, "path"));
    for line in lines.take(SHOWN) {
        let _ = writeln!(to, "  {line}");
    }
    if count > SHOWN {
        let more = figures::count((count - SHOWN) as u64);
        let _ = writeln!(to, "  and {more} more, see --json");
    }
}

/// A path on one line.
pub(crate) fn path(path: &ReportPath) -> String {
    figures::one_line(&path.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_named_and_the_rest_counted() {
        let entry = |at: usize| OmittedEntry {
            path: ReportPath::new(format!("pipe{at}").as_bytes()),
            reason: "special".into(),
        };
        let mut text = String::new();
        omitted(&mut text, &[]);
        assert_eq!(text, "");
        omitted(&mut text, &[entry(0)]);
        assert_eq!(text, "left out: 1 path\n  pipe0 (special)\n");
        text.clear();
        omitted(&mut text, &(0..7).map(entry).collect::<Vec<_>>());
        assert!(text.ends_with("  pipe4 (special)\n  and 2 more, see --json\n"), "{text}");
    }
}
