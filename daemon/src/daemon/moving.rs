//! Whether a node that is not root's goes into a namespace of its own, in which checkouts can share layers.
//!
//! There is no way back from one, so another process tries it first: whether overlays can be mounted there, and whether
//! runs are isolated there as they are outside.
//!
//! **Invariant:** no node loses its rooms for the sake of layers.

use std::process::{Command, Stdio};

use baton_store::layers::overlay::{self, Marks};
use serde::{Deserialize, Serialize};

use super::failure::{Fail, chain};
use super::{Options, opening, rooming};
use crate::namespace;

/// Longest answer of a trial that is read, as it is shown.
const MAX_SHOWN: usize = 300;

/// Whether the process is in a namespace of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Namespace {
    /// It needs none, or nobody asked for one.
    #[default]
    Outside,
    /// It is.
    Own,
    /// It cannot be, and why.
    Refused(String),
}

/// What a trial found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tried {
    /// Whether runs are isolated.
    pub isolated: bool,
    /// Why there can be no overlays.
    pub refused: Option<String>,
}

/// Where a trial takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// In a namespace of its own.
    Inside,
    /// Where the process was started.
    Outside,
}

/// Tries what a node of this home could do, in a process that does nothing else. It must have one thread only.
pub fn try_namespace(options: &Options, trial: Trial) -> Result<Tried, Fail> {
    let config = opening::load_config(&options.home)?;
    options.home.create()?;
    if trial == Trial::Inside
        && let Err(error) = namespace::enter()
    {
        return Ok(Tried { isolated: false, refused: Some(chain(&error)) });
    }
    let (caches, runs) = (options.home.caches_dir(), options.home.runs_dir());
    baton_store::fs::create_dir_all(&runs)?;
    let refused = match trial {
        Trial::Inside => overlay::try_with(&caches, &runs, Marks::User).err(),
        Trial::Outside => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Fail::new("runtime", error.to_string()))?;
    let room = runtime.block_on(rooming::choose_room(options, &config));
    Ok(Tried { isolated: room.isolated(), refused: refused.map(|error| chain(&error)) })
}

/// Moves this process into a namespace of its own, if that is of use. It must have one thread only. `trial` is a command
/// that answers with what [`try_namespace`] says, as JSON.
pub fn move_into_namespace(trial: impl Fn(Trial) -> Command) -> Namespace {
    if rustix::process::geteuid().is_root() {
        return Namespace::Outside;
    }
    match check(trial) {
        Err(why) => Namespace::Refused(why),
        Ok(()) => match namespace::enter() {
            Ok(()) => Namespace::Own,
            Err(error) => Namespace::Refused(chain(&error)),
        },
    }
}

fn check(trial: impl Fn(Trial) -> Command) -> Result<(), String> {
    let inside = run(trial(Trial::Inside))?;
    if let Some(why) = inside.refused {
        return Err(why);
    }
    if !inside.isolated && run(trial(Trial::Outside))?.isolated {
        return Err("in a namespace of its own its runs would not be isolated".to_owned());
    }
    Ok(())
}

fn run(mut trial: Command) -> Result<Tried, String> {
    let output = trial.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("trying it in another process: {error}"))?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        let said: String = said.trim().chars().take(MAX_SHOWN).collect();
        format!("trying it in another process ended with {}: {said}", output.status)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(text: &str) -> Command {
        let mut command = Command::new("echo");
        command.arg(text);
        command
    }

    #[test]
    fn a_node_moves_only_where_it_loses_nothing() {
        let tried = |isolated: bool, refused: Option<&str>| {
            let refused = refused.map(str::to_owned);
            says(&serde_json::to_string(&Tried { isolated, refused }).unwrap())
        };
        assert_eq!(check(|_| tried(true, None)), Ok(()));
        assert_eq!(check(|_| tried(false, None)), Ok(()));
        let lost = check(|trial| tried(trial == Trial::Outside, None)).unwrap_err();
        assert!(lost.contains("would not be isolated"), "{lost}");
        assert_eq!(check(|_| tried(true, Some("not permitted"))), Err("not permitted".to_owned()));
        let mut failing = Command::new("sh");
        failing.args(["-c", "echo killed >&2; exit 3"]);
        let failed = run(failing).unwrap_err();
        assert!(failed.contains("3: killed"), "{failed}");
        assert!(run(Command::new("/nonexistent/program")).is_err());
    }
}
