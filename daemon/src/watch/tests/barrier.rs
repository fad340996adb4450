//! What another process wrote before a drain is in what the drain returns.
//!
//! `BATON_PAIRS` says how often that is tried.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use baton_store::scan::dirty::Depth;

use super::super::WatchOptions;
use super::keeper::Keeper;
use super::operations::fill;
use super::{ALL, Backend};

/// Does what each line says, and says so.
const WRITER: &str = r#"
while read -r what from to; do
    case $what in
        write) printf x > "$from" ;;
        append) printf more >> "$from" ;;
        rename) mv -f "$from" "$to" ;;
        remove) rm -f "$from" ;;
        mode) chmod "$to" "$from" ;;
    esac
    echo done
done
"#;

#[expect(clippy::disallowed_methods, reason = "a test, which is told how long to go on")]
fn pairs() -> usize {
    std::env::var("BATON_PAIRS").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

#[test]
fn what_was_written_before_is_known_after() {
    for backend in ALL.iter().filter(|backend| **backend != Backend::Sweep) {
        let mut keeper = Keeper::new(*backend, &WatchOptions::default(), fill);
        let mut command = Command::new("sh");
        command.args(["-c", WRITER]).current_dir(keeper.root());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut says = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stdin = child.stdin.take().unwrap();
        let mut missed = 0;
        for pair in 0..pairs() {
            let directory = ["a", "a/b", "a/b/c", "d"][pair % 4];
            let (line, path) = match pair / 4 % 5 {
                0 => (format!("write {directory}/file"), "file"),
                1 => (format!("append {directory}/file"), "file"),
                2 => (format!("mode {directory}/file 75{}", pair % 8), "file"),
                3 => (format!("rename {directory}/file {directory}/other"), "other"),
                _ => (format!("remove {directory}/other"), "other"),
            };
            writeln!(stdin, "{line}").unwrap();
            assert_eq!(says.next().unwrap().unwrap(), "done");
            let dirty = keeper.watch.drain().unwrap();
            let covers = dirty.covers(format!("{directory}/{path}").as_bytes(), Depth::Look);
            missed += usize::from(!covers || dirty.is_everything());
        }
        drop(stdin);
        child.wait().unwrap();
        assert_eq!(missed, 0, "{backend:?}, of {}", pairs());
        drop(keeper.seal());
    }
}
