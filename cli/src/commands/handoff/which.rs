//! Which of several conversations goes along, asked at a terminal.

use std::fmt::Write as _;
use std::io::{BufRead, Read, Write};
use std::path::Path;

use baton_daemon::agents::ALL;
use baton_daemon::api::control::{ConversationChoice, ConversationEntry};

use crate::commands::agent;
use crate::error::CliError;
use crate::report::figures;
use crate::session::Session;

/// The failure that an answer to the question is for.
const SEVERAL: &str = "which-conversation";

/// Longest answer.
const MAX_ANSWER: u64 = 256;

/// Conversations that are shown: the newest of each agent.
const SHOWN: usize = 10;

/// Whether somebody can be asked about this failure.
pub(super) fn can_ask(session: &Session, error: &CliError) -> bool {
    let env = &session.env;
    error.is(SEVERAL) && env.terminal_in && env.terminal_err && !session.report.json()
}

/// Asks; nothing where no answer was given.
pub(super) fn ask(session: &Session, root: &Path) -> Result<Option<ConversationChoice>, CliError> {
    let mut all = Vec::new();
    for agent in ALL {
        // What is wrong with one of them was said.
        let found = agent::conversations(session, agent, root).unwrap_or_default();
        all.extend(found.into_iter().take(SHOWN).map(|entry| (agent.name(), entry)));
    }
    let stdin = std::io::stdin().lock();
    answer(&all, stdin.take(MAX_ANSWER), std::io::stderr().lock())
        .map_err(|error| CliError::caused("input", "reading the answer", &error))
}

fn answer(
    all: &[(&str, ConversationEntry)],
    mut from: impl BufRead,
    mut to: impl Write,
) -> std::io::Result<Option<ConversationChoice>> {
    let mut text =
        "Several conversations are about this workspace. Which one goes along?\n".to_owned();
    for (at, (agent, entry)) in all.iter().enumerate() {
        let (id, title) = (figures::one_line(&entry.conversation), figures::one_line(&entry.title));
        // A text takes everything.
        let _ = writeln!(text, "{:4}  {agent}  {id}  {}  {title}", at + 1, entry.modified_at);
    }
    text.push_str("   0  none of them\nnumber: ");
    to.write_all(text.as_bytes())?;
    to.flush()?;
    let mut line = String::new();
    from.read_line(&mut line)?;
    Ok(match line.trim().parse::<usize>() {
        Ok(0) => Some(ConversationChoice::None),
        Ok(number) => {
            let chosen = all.get(number - 1);
            chosen.map(|(_, entry)| ConversationChoice::Id(entry.conversation.clone()))
        }
        Err(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_chooses_and_everything_else_does_not() {
        let entry = |id: &str| ConversationEntry {
            conversation: id.to_owned(),
            cwd: "/app".to_owned(),
            title: "fix \u{1b}[31mit".to_owned(),
            modified_at: "2026-11-27T00:00:00Z".to_owned(),
        };
        let all = [("claude", entry("a")), ("codex", entry("b"))];
        let id = |id: &str| Some(ConversationChoice::Id(id.to_owned()));
        for (typed, chosen) in [
            ("1\n", id("a")),
            (" 2 \n", id("b")),
            ("0\n", Some(ConversationChoice::None)),
            ("3\n", None),
            ("-1\n", None),
            ("\n", None),
            ("", None),
        ] {
            let mut shown = Vec::new();
            assert_eq!(answer(&all, typed.as_bytes(), &mut shown).unwrap(), chosen, "{typed:?}");
            let shown = String::from_utf8(shown).unwrap();
            assert!(shown.contains("2  codex  b") && !shown.contains('\u{1b}'), "{shown}");
        }
    }
}
