//! In what kind of room the runs of this node are, what they are shown of it, and what they may take.

use std::sync::Arc;

use super::Options;
use super::failure::Fail;
use crate::agents;
use crate::config::Config;
use crate::forwarder::Trust;
use crate::limits::{self, Allowance, Limits};
use crate::rooms::toolchains::{self, Toolchains};
use crate::rooms::{self, RoomSettings};
use crate::runs::RunOptions;

/// What was found out about this machine, for `doctor`.
#[derive(Debug)]
pub(super) struct Rooming {
    /// Why runs are not isolated, where they are not.
    pub(super) isolation: Result<(), String>,
    /// What runs are shown of the toolchains of the node's user.
    pub(super) toolchains: Toolchains,
    /// What holds runs to their limits.
    pub(super) limits: Arc<dyn Limits>,
    /// What one may take.
    pub(super) allowance: Allowance,
}

/// The room alone.
pub(super) async fn choose_room(options: &Options, config: &Config) -> Arc<dyn rooms::Room> {
    find_room(options, config).await.0.room
}

async fn find_room(options: &Options, config: &Config) -> (rooms::Chosen, Toolchains) {
    let home = &options.home;
    let expose = config.serve.expose.as_deref().unwrap_or_default();
    let mut toolchains = toolchains::find(options.git_user.home.as_deref(), expose);
    let set_up = config.agents.values().filter_map(|agent| agent.program.clone());
    let programs = agents::ALL.iter().map(|agent| agent.program().to_owned()).chain(set_up);
    let mut hide = options.private.clone();
    hide.extend(toolchains.hide.iter().cloned());
    let settings = RoomSettings {
        path: options.environment.path().to_owned(),
        programs: programs.map(Into::into).collect(),
        search: toolchains.path_with(options.environment.path()),
        expose: toolchains.expose.clone(),
        hide,
        never: vec![home.state_dir.clone()],
    };
    let (settings, refused) = settings.resolve();
    for path in refused {
        tracing::warn!(path = %path.display(), "what is private is not exposed to runs");
        toolchains.names.push(format!("not {}, which is private", path.display()));
    }
    (rooms::choose(settings, &home.caches_dir()).await, toolchains)
}

/// Finds the best room and limits that this machine has for runs, and sets what runs are told and may.
pub(super) async fn choose(
    options: &Options,
    config: &Config,
) -> Result<(Rooming, Arc<dyn rooms::Room>, RunOptions), Fail> {
    let home = &options.home;
    let serve = &config.serve;
    let (chosen, toolchains) = find_room(options, config).await;
    let environment = options.environment.with_toolchains(&toolchains);
    let mut runs = RunOptions::new(home.runs_dir(), environment);
    runs.max_parallel = serve.max_runs;
    runs.allowance = Allowance {
        memory: serve.run_memory.map(|bytes| bytes.0),
        milli_cpus: serve.run_cpus.map(|processors| processors.0),
        processes: serve.run_processes,
        disk: serve.run_disk.map(|bytes| bytes.0),
    };
    let offline = config.agents.iter().filter(|(_, agent)| !agent.network);
    runs.trust = Arc::new(Trust::new(serve.git_authorities.clone()));
    runs.without_network = offline.map(|(name, _)| name.clone()).collect();
    baton_store::fs::create_dir_all(&runs.folder)?;
    let isolation = if chosen.room.isolated() { Ok(()) } else { Err(chosen.detail) };
    let (limits, allowance) = (limits::choose(&runs.folder), runs.allowance.or_of_machine());
    Ok((Rooming { isolation, toolchains, limits, allowance }, chosen.room, runs))
}
