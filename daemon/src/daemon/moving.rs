//! Whether a node that is not root's goes into a namespace of its own, in which checkouts can share layers.
//!
//! There is no way back from one, so another process tries it first: whether overlays can be mounted there, and whether
//! runs are isolated there.
//!
//! **Invariant:** no node loses its rooms for the sake of layers.
//!
//! **Invariant:** a node goes into a namespace only when no process of an earlier node's runs is alive. From inside it
//! could not tell them, wherever they are, and would show and seal what they still write to.

use std::process::{Command, Stdio};

use baton_store::layers::overlay::{self, Marks};
use baton_store::layout::Layout;
use serde::{Deserialize, Serialize};

use super::failure::{Fail, chain};
use super::{Options, opening, rooming};
use crate::namespace::{self, Namespace};
use crate::runs::kill_leftovers_in;

/// Longest answer of a trial that is shown.
const MAX_SHOWN: usize = 300;

/// What a trial found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tried {
    /// Whether runs are isolated.
    pub isolated: bool,
    /// Why there can be no overlays.
    pub refused: Option<String>,
}

/// Goes into a namespace and tries what a node of this home could do there, in a process that does nothing else. It must
/// have one thread only.
pub fn try_namespace(options: &Options) -> Result<Tried, Fail> {
    let config = opening::load_config(&options.home)?;
    options.home.create()?;
    let (caches, runs) = (options.home.caches_dir(), options.home.runs_dir());
    baton_store::fs::create_dir_all(&runs)?;
    let refused = |why| Ok(Tried { isolated: false, refused: Some(why) });
    if let Err(error) = namespace::enter() {
        return refused(chain(&error));
    }
    if let Err(error) = overlay::try_with(&caches, &runs, Marks::User) {
        return refused(chain(&error));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Fail::new("runtime", error.to_string()))?;
    let room = runtime.block_on(rooming::choose_room(options, &config));
    Ok(Tried { isolated: room.isolated(), refused: None })
}

/// Moves this process into a namespace of its own, if that is of use. It must have one thread only. `trial` is a command
/// that answers with what [`try_namespace`] says, as JSON. After an error there is nothing to go on with.
pub fn move_into_namespace(options: &Options, trial: Command) -> Result<Namespace, Fail> {
    if rustix::process::geteuid().is_root() {
        return Ok(Namespace::Outside);
    }
    if !opening::load_config(&options.home)?.serve.namespace {
        return Ok(Namespace::Refused("serve.namespace = false keeps the node out".to_owned()));
    }
    if let Err(why) = check(trial) {
        return Ok(Namespace::Refused(why));
    }
    options.home.create()?;
    // Held until there is no way back: only of a home that is nobody else's the runs are not at work.
    let _own = Layout::open(&options.home.store_dir())?.lock()?;
    let (found, gone) = kill_leftovers_in(&options.home.runs_dir())?;
    if found > 0 {
        tracing::info!(processes = found, "an earlier node's runs had left processes");
    }
    if !gone {
        let why = "processes of an earlier node's runs do not end: look for BATON_RUN in /proc/*/environ, end them, and \
                   start the node again";
        return Ok(Namespace::Refused(why.to_owned()));
    }
    match namespace::enter() {
        Ok(()) => Ok(Namespace::Own),
        Err(error) if error.stayed() => Ok(Namespace::Refused(chain(&error))),
        Err(error) => Err(Fail::new("namespace", chain(&error)).hint(
            "serve again, or set serve.namespace = false in the configuration to stay out of it",
        )),
    }
}

fn check(trial: Command) -> Result<(), String> {
    match run(trial)? {
        Tried { refused: Some(why), .. } => Err(why),
        Tried { isolated: false, .. } => Err("runs would not be isolated there".to_owned()),
        Tried { .. } => Ok(()),
    }
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
        assert_eq!(check(tried(true, None)), Ok(()));
        let lost = check(tried(false, None)).unwrap_err();
        assert!(lost.contains("would not be isolated"), "{lost}");
        assert_eq!(check(tried(true, Some("not permitted"))), Err("not permitted".to_owned()));
        let mut failing = Command::new("sh");
        failing.args(["-c", "echo killed >&2; exit 3"]);
        let failed = check(failing).unwrap_err();
        assert!(failed.contains("3: killed"), "{failed}");
        assert!(check(Command::new("/nonexistent/program")).is_err());
    }
}
