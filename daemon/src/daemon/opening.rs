//! Opening what a home keeps: by its daemon, and by a command that does without one.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex};

use baton_protocol::id::VaultId;
use baton_store::catalog::Catalog;
use baton_store::error::StoreError;
use baton_store::fs;
use baton_store::git::GitProgram;
use baton_store::secrets::SecretRules;
use baton_store::store::Store;

use super::checkouts::{Captures, NodeCheckouts, SharedBytes, SharedLayers, Sharing};
use super::failure::{Fail, chain};
use super::{Options, report};
use crate::clock::Clock;
use crate::config::{AgentConfig, Config};
use crate::environments::cache::{CacheLimits, EnvironmentCache};
use crate::environments::setups::Setups;
use crate::environments::system::system;
use crate::home::Home;
use crate::identity::Identity;
use crate::keeper::Watching;
use crate::namespace::Namespace;
use crate::notices::{NoticeOptions, Notices};
use crate::runs::{AgentLimits, AgentProgram, RunOptions};
use crate::secrets::Secrets;
use crate::task::Tasks;
use crate::workspace::{TakeOptions, Workspaces, random};

/// Takes a snapshot in this process, without a daemon; refused where one has the home.
pub fn local_snapshot(
    options: &Options,
    root: &std::path::Path,
    message: Option<String>,
) -> Result<crate::api::control::SnapshotAnswer, Fail> {
    options.home.create()?;
    let store = Store::open(&options.home.store_dir())?;
    store.check_poison()?;
    let catalog = Catalog::open(&options.home.catalog())?;
    let identity = identity(&options.home)?;
    let config = load_config(&options.home)?;
    let clock = Clock::system();
    let workspaces = workspaces(options, &config, &store, &catalog, &identity, clock, None)?;
    let take = TakeOptions { message, ..TakeOptions::default() };
    let taken = workspaces.take(root, &take, &baton_store::scan::Progress::default())?;
    let sequence = taken.snapshot.sequence;
    Ok(report::snapshot(&taken, taken.id, sequence, report::timing(&taken), None))
}

pub(super) fn identity(home: &Home) -> Result<Identity, Fail> {
    Identity::load_or_create(&home.keys_dir()).map_err(|error| Fail::new("identity", chain(&error)))
}

pub(super) fn load_config(home: &Home) -> Result<Config, Fail> {
    Config::load(&home.config_file)
        .map_err(|error| Fail::new("config", chain(&error)).hint("baton config show"))
}

pub(super) fn workspaces(
    options: &Options,
    config: &Config,
    store: &Store,
    catalog: &Catalog,
    identity: &Identity,
    clock: Clock,
    watching: Option<Watching>,
) -> Result<Workspaces, Fail> {
    let secrets = if config.sync.secrets {
        let key = catalog.finding_key(random()?)?;
        let rules = SecretRules::new(&config.sync.secret_options(key));
        Some(Arc::new(rules.map_err(|error| Fail::new("config", chain(&error)))?))
    } else {
        None
    };
    let scratch = options.home.scratch_dir();
    // What a process that was killed has left.
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir_all(&scratch)?;
    Ok(Workspaces {
        catalog: catalog.clone(),
        vault: store.vault(local_vault(catalog)?)?,
        device: identity.device(),
        caches: options.home.caches_dir(),
        git_user: options.git_user.clone(),
        git: options.git.clone().map(GitProgram::new),
        scratch,
        // Where nothing is sent by itself, nothing can follow.
        most_history: if config.sync.background { config.sync.most_history } else { u64::MAX },
        clock,
        exclude: config.sync.exclude.join("\n").into_bytes(),
        secrets,
        watching,
        kept: Mutex::default(),
    })
}

/// What the configuration says of runs.
pub(super) fn limit(options: &mut RunOptions, config: &Config) {
    options.max_parallel = config.serve.max_runs;
    let environment = &options.environment;
    let of = |(name, agent): (&String, &AgentConfig)| {
        let AgentConfig { max_parallel, timeout, input, permissions, .. } = *agent;
        let set = agent.env.iter().map(|(name, value)| (name.into(), value.into()));
        let program = AgentProgram {
            name: agent.program.clone(),
            arguments: agent.args.clone(),
            variables: set.chain(environment.passed(&agent.pass_env)).collect(),
            permissions,
        };
        (name.clone(), AgentLimits { max_parallel, timeout, input, program })
    };
    options.agents = config.agents.iter().map(of).collect();
}

/// Who is told how runs ended.
pub(super) fn notices(home: &Home, options: &Options, config: &Config, tasks: &Tasks) -> Notices {
    let variables = options.environment.variables().to_vec();
    let telling = NoticeOptions::new(variables, home.state_dir.clone());
    Notices::start(&config.notify, &telling, tasks)
}

/// The checkouts of runs, whose programs are found in `path`, and which kind they are.
pub(super) fn checkouts(
    options: &Options,
    store: &Store,
    workspaces: &Workspaces,
    secrets: &Secrets,
    path: &OsStr,
) -> (NodeCheckouts, Sharing) {
    let (home, caches) = (&options.home, options.home.caches_dir());
    let shared = SharedLayers::choose(caches.join("checkouts"), home.runs_dir());
    let mut cloned = None;
    let sharing = match &shared {
        Ok(shared) => Sharing::Layers(shared.marks()),
        Err(error) => {
            let mut why = chain(error);
            if let Namespace::Refused(refused) = &options.namespace {
                why = format!("{why}; in a namespace of its own: {refused}");
            }
            match SharedBytes::choose(caches.join("copies"), &home.runs_dir()) {
                Ok(bytes) => {
                    cloned = Some(bytes);
                    Sharing::Bytes(why)
                }
                Err(error) => Sharing::Nothing(format!("{why}; {}", chain(&error))),
            }
        }
    };
    let aside = home.runs_dir().join("aside");
    if cloned.is_none()
        && let Err(error) = SharedBytes::give_up(&caches.join("copies"), &aside)
    {
        tracing::warn!(
            error = chain(&error),
            "copies that no run needs any more stay: remove them"
        );
    }
    let checkouts = NodeCheckouts {
        store: store.clone(),
        clock: workspaces.clock.clone(),
        git: workspaces.git.clone(),
        scratch: workspaces.scratch.clone(),
        captures: Captures::default(),
        secrets: secrets.clone(),
        shared: shared.ok(),
        cloned,
        note: sharing.note(options.serving),
        aside,
        environments: EnvironmentCache::open(caches.join("environments"), CacheLimits::default()),
        setups: Setups::default(),
        system: system(path),
    };
    (checkouts, sharing)
}

/// The vault of this home's own workspaces.
fn local_vault(catalog: &Catalog) -> Result<VaultId, StoreError> {
    let fresh = random::<{ VaultId::LEN }>()?;
    let kept = catalog.meta_or_set("local-vault", &fresh)?;
    // Anything else was not written by us; a fresh vault loses nothing that the old one has.
    Ok(VaultId::from_bytes(kept.try_into().unwrap_or(fresh)))
}
