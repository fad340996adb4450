//! What holds for the runs of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use baton_protocol::message::Permissions;

use super::environment::NodeEnvironment;
use crate::limits::Allowance;

/// Limits of a node's runs, and where they live.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Has one folder for each run.
    pub folder: PathBuf,
    /// What runs inherit of the node's environment.
    pub environment: NodeEnvironment,
    /// Runs at once; further ones are queued.
    pub max_parallel: usize,
    /// Runs that wait; further ones are refused.
    pub max_queued: usize,
    /// Bytes of output that are kept of one run.
    pub max_log: u64,
    /// How long a program that was asked to end may take.
    pub grace: Duration,
    /// What holds for the runs of some agents.
    pub agents: BTreeMap<String, AgentLimits>,
    /// How long it takes at least from one snapshot of a live run to the next.
    pub keep_every: Duration,
    /// How long a script of an environment may be at work.
    pub setup_limit: Duration,
    /// How long [`Runs::shut_down`] waits for all runs.
    pub shutdown_limit: Duration,
    /// What one run may take of the machine; what is not set is derived from it.
    pub allowance: Allowance,
    /// Agents whose runs have no network.
    pub without_network: BTreeSet<String>,
    /// Whom the node believes that they are the git hosts of its users.
    pub trust: Arc<crate::forwarder::Trust>,
}

impl RunOptions {
    /// The usual limits.
    pub fn new(folder: PathBuf, environment: NodeEnvironment) -> Self {
        Self {
            folder,
            environment,
            max_parallel: 8,
            max_queued: 1000,
            max_log: 256 * 1024 * 1024,
            grace: Duration::from_secs(5),
            agents: BTreeMap::new(),
            keep_every: Duration::from_secs(30),
            setup_limit: Duration::from_mins(30),
            shutdown_limit: Duration::from_secs(30),
            allowance: Allowance { memory: None, milli_cpus: None, processes: None, disk: None },
            without_network: BTreeSet::new(),
            trust: Arc::default(),
        }
    }

    pub(super) fn agent(&self, name: &str) -> AgentLimits {
        self.agents.get(name).cloned().unwrap_or_default()
    }
}

/// What holds for the runs of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentLimits {
    /// Runs at once. Nothing: as many as the node has at once.
    pub max_parallel: Option<usize>,
    /// When one is ended. Nothing: never.
    pub timeout: Option<Duration>,
    /// Whether something can be said to them, unless they were asked for otherwise.
    pub input: bool,
    /// How its program is started; the adapter's own way without.
    pub program: AgentProgram,
}

/// What the node's owner has set up for an agent.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AgentProgram {
    /// Looked up in the `PATH` of runs.
    pub name: Option<String>,
    /// Arguments behind those of the adapter.
    pub arguments: Vec<String>,
    /// Variables of its runs, where nobody gave them others.
    pub variables: Vec<(OsString, OsString)>,
    /// What it may do unasked at most. Nothing: everything where runs are isolated, else nothing.
    pub permissions: Option<Permissions>,
}

impl std::fmt::Debug for AgentProgram {
    /// Without values of variables, some of which are secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.variables.iter().map(|(name, _)| name).collect();
        f.debug_struct("AgentProgram")
            .field("name", &self.name)
            .field("arguments", &self.arguments)
            .field("variables", &names)
            .field("permissions", &self.permissions)
            .finish()
    }
}

impl AgentProgram {
    /// What it may do unasked: as much as was asked for, and no more than the node allows.
    pub fn may(&self, asked: Option<Permissions>, isolated: bool) -> Permissions {
        let by_itself = if isolated { Permissions::All } else { Permissions::Ask };
        let most = self.permissions.unwrap_or(by_itself);
        asked.map_or(most, |asked| asked.min(most))
    }
}

impl Default for AgentLimits {
    fn default() -> Self {
        Self { max_parallel: None, timeout: None, input: true, program: AgentProgram::default() }
    }
}
