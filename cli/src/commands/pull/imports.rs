//! Conversations that an agent's own program takes in: here, where the program, its home and its settings are those of
//! whoever asks, and in the folder where it is to go on.

use std::path::{Path, PathBuf};

use baton_daemon::agents::ALL;
use baton_daemon::agents::ask::{Asking, find_program};
use baton_daemon::agents::import::import_here;
use baton_daemon::api::control::{OmittedEntry, PullAnswer, ReportPath};
use baton_store::fs;

use crate::report::figures;
use crate::session::Session;

/// Has the program take in what came. Where it does not, the files stay, and it is said how that is done by hand.
pub(super) fn take_in(session: &Session, pulled: &mut PullAnswer) {
    let commands = std::mem::take(&mut pulled.import_commands);
    for words in &commands {
        let Err(why) = run(session, &pulled.root, words) else { continue };
        let words: Vec<_> = words.iter().map(|word| figures::one_line(word)).collect();
        session.report.note(&format!(
            "the conversation was not taken in: {why}; in {}: {}",
            figures::one_line(&pulled.root),
            words.join(" ")
        ));
        pulled.resume_command.clear();
        pulled.skipped.push(OmittedEntry {
            path: ReportPath::new(b"conversation"),
            reason: "not-carried".to_owned(),
        });
        return;
    }
}

fn run(session: &Session, root: &str, words: &[String]) -> Result<(), String> {
    let Some((name, arguments)) = words.split_first() else { return Ok(()) };
    let kept = ALL.into_iter().find(|agent| agent.program() == name);
    let kept = kept.and_then(|agent| agent.kept());
    let kept = kept.ok_or_else(|| "another version of Baton has made it".to_owned())?;
    let program = find_program(name, &session.env.path);
    let program = program.ok_or_else(|| format!("{} is not installed", figures::one_line(name)))?;
    let environment = session.env.variables.0.clone();
    let asking = Asking { program, environment, folder: PathBuf::from(root) };
    import_here(kept, &asking, arguments).map_err(|error| crate::error::chain(&error))?;
    if let Some(document) = arguments.last()
        && let Err(error) = fs::remove_file(Path::new(document))
    {
        session.report.note(&crate::error::chain(&error));
    }
    Ok(())
}
