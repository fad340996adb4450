//! One turn of an agent here, as its user would have it, in an empty folder.

use std::path::Path;

use baton_daemon::agents::adapter::Agent;
use baton_daemon::agents::ask::{Asking, QUESTION, remedy, turn_here};
use baton_daemon::agents::start::{Start, Task};
use baton_daemon::clock::{Clock, decimal_ms};
use baton_protocol::message::Permissions;
use baton_store::fs;

use crate::error::CliError;
use crate::report::figures;
use crate::session::Session;

/// Longest text of what an agent says is wrong.
const MAX_WHY: usize = 300;

/// What our own hooks in the agent take for a run, in which they do nothing.
const MARK: (&str, &str) = ("BATON_RUN", "agent-check");

/// How many milliseconds it took; or what is wrong, and what to do about it.
pub(super) fn take(
    session: &Session,
    agent: &dyn Agent,
    program: &Path,
) -> Result<Result<f64, (String, String)>, CliError> {
    let folder = session.env.home.caches_dir().join(format!("turn-{}", std::process::id()));
    let failed = |error| CliError::caused("agent", "making a folder for a turn", &error);
    fs::create_dir_all(&folder).map_err(failed)?;
    let turned = turn(session, agent, program, &folder);
    fs::remove_dir_all(&folder).map_err(failed)?;
    Ok(turned)
}

fn turn(
    session: &Session,
    agent: &dyn Agent,
    program: &Path,
    folder: &Path,
) -> Result<f64, (String, String)> {
    let mut environment = session.env.variables.0.clone();
    environment.push((MARK.0.into(), MARK.1.into()));
    let asking = Asking { program: program.to_owned(), environment, folder: folder.to_owned() };
    let task = Task {
        prompt: QUESTION,
        model: None,
        approval: Permissions::Ask,
        is_isolated: false,
        is_heard: false,
        told: None,
    };
    let mut invocation = agent.start(&Start::New { id: None }, &task);
    agent.trial().apply(&mut invocation, &[]);
    let clock = Clock::system();
    let begun = clock.instant();
    let keys = format!("log in: {}, or set a key in its environment", agent.program());
    match turn_here(agent, &invocation, &asking.make()) {
        Ok(Ok(())) => Ok(decimal_ms(clock.since(begun))),
        Ok(Err(why)) => {
            let shown: String = figures::one_line(&why).chars().take(MAX_WHY).collect();
            let fix = remedy(agent, &why, &keys);
            Err((format!("here its model did not answer: {shown}"), fix))
        }
        Err(error) => {
            let why = crate::error::chain(&error);
            Err((format!("here: {why}"), format!("try it: {}", agent.program())))
        }
    }
}
