//! `config.toml`: what a user has set, and the default of everything else.
//!
//! Not here: flags, which the command line lays over this; and the environment.
//!
//! **Invariant:** a key that this version does not use is an error, so that nobody believes in a
//! setting that does nothing.

pub mod keys;
mod duration;
pub mod size;
pub mod sync;
pub mod notify;
mod serve;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use baton_protocol::message::Permissions;
use baton_store::fs::{self, FsError};
use serde::{Deserialize, Serialize};

use notify::NotifyConfig;
use size::{Bytes, Processors};
pub use store::StoreConfig;
use sync::{Contradiction, SyncConfig};

/// The UDP port of a node unless another is said.
pub const PORT: u16 = 4319;

/// Longest configuration that is read.
const MAX_FILE: u64 = 1024 * 1024;

/// The configuration could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The file is not UTF-8.
    #[error("{} is not UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// The file is not TOML.
    #[error("{} is not TOML", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A key is none of ours.
    #[error("{}: unknown key {key}{}", path.display(), near_text(near.as_deref()))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// With its tables: `serve.lisen`.
        key: String,
        /// The key that was probably meant.
        near: Option<String>,
    },
    /// A key has a value that it cannot have.
    #[error("{} has a value that cannot be", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which, where and why.
        source: Box<toml::de::Error>,
    },
    /// Keys contradict each other, or have a value that does nothing.
    #[error("{} has a value that cannot be meant", path.display())]
    Meaning {
        /// The file.
        path: PathBuf,
        /// Which, and why.
        source: Contradiction,
    },
}

fn near_text(near: Option<&str>) -> String {
    near.map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}

/// What is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How trees are kept in step, and what does not travel.
    pub sync: SyncConfig,
    /// How `serve` behaves.
    pub serve: ServeConfig,
    /// How large what is kept may become.
    pub store: StoreConfig,
    /// Who is told that a run has ended.
    pub notify: NotifyConfig,
    /// The programs that do the work in runs, by name.
    pub agents: BTreeMap<String, AgentConfig>,
    /// The keys that the file sets.
    #[serde(skip)]
    set: BTreeSet<String>,
}

/// `[serve]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServeConfig {
    /// The UDP address that is listened on. Every address, both families, port [`PORT`].
    pub listen: SocketAddr,
    /// `HOST` or `HOST:PORT` to put into tickets. Empty: the addresses of the machine.
    pub advertise: Vec<String>,
    /// Most bytes that all connections may hold of what nobody has read or acknowledged yet. Nothing: a quarter of the
    /// machine's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Most connections at once. 256.
    pub max_connections: usize,
    /// Most connections at once of one device. A home needs one, and a second for as long as it
    /// takes to notice that the first one is dead. 8.
    pub max_connections_per_device: usize,
    /// Most runs that work at once, of all users; more wait their turn. 4.
    pub max_runs: usize,
    /// Most bytes of a user's vault; a push beyond is refused. Nothing: as much as the disk holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// Most bytes that the snapshots of one device may need; a push beyond is refused. Nothing: as much as its user may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_quota_bytes: Option<u64>,
    /// Most bytes of memory of one run. Nothing: three quarters of the machine's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_memory: Option<Bytes>,
    /// Most processors that one run keeps busy. Nothing: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_cpus: Option<Processors>,
    /// Most processes and threads of one run. Nothing: 512 for each processor, from 2,048 to 16,384.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_processes: Option<u64>,
    /// Most bytes that one run writes. Nothing: half of what is free when it starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_disk: Option<Bytes>,
    /// Files and folders with toolchains that runs see beside those that are found in the home of the node's user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expose: Option<Vec<String>>,
    /// Whether a node that is not root's goes into a namespace of its own where that lets checkouts share layers. Programs
    /// that take another user's or group's rights (`sudo`, `sendmail`) get none there.
    pub namespace: bool,
    /// Files in PEM with certificates of authorities that the node believes, beside the machine's, where it speaks to git
    /// hosts for runs.
    pub git_authorities: Vec<PathBuf>,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), PORT),
            advertise: Vec::new(),
            memory: None,
            max_connections: 256,
            max_connections_per_device: 8,
            max_runs: 8,
            quota_bytes: None,
            device_quota_bytes: None,
            run_memory: None,
            run_cpus: None,
            run_processes: None,
            run_disk: None,
            expose: None,
            namespace: true,
            git_authorities: Vec::new(),
        }
    }
}

/// `[agents.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// The program, looked up in the node's `PATH`. Nothing: the name of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Appended to what the adapter passes.
    pub args: Vec<String>,
    /// Set in the run's environment.
    pub env: BTreeMap<String, String>,
    /// Passed on from the node's environment.
    pub pass_env: Vec<String>,
    /// What it may do unasked. Nothing: `all` where runs are isolated, else `ask`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Permissions>,
    /// Most runs of this agent at once. Nothing: as many as the node has at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<usize>,
    /// When a run of it is ended. Nothing: never.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration::optional")]
    pub timeout: Option<Duration>,
    /// Whether it may use the network. True.
    pub network: bool,
    /// Whether something can be said to its runs, unless they are asked for otherwise: their standard input stays open.
    /// True.
    pub input: bool,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            program: None,
            args: Vec::new(),
            env: BTreeMap::new(),
            pass_env: Vec::new(),
            permissions: None,
            max_parallel: None,
            timeout: None,
            network: true,
            input: true,
        }
    }
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The file does not say.
    Default,
    /// `config.toml`.
    File,
}

/// One value that is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// With its tables: `serve.listen`.
    pub key: String,
    /// As TOML.
    pub value: toml::Value,
    /// Where it comes from.
    pub origin: Origin,
}

impl Config {
    /// Reads the file; where there is none everything has its default.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let Some(bytes) = fs::read_if_exists(path, MAX_FILE)? else {
            return Ok(Self::default());
        };
        let text = String::from_utf8(bytes);
        let text = text.map_err(|_| ConfigError::NotText { path: path.to_owned() })?;
        Self::parse(&text, path)
    }

    /// Reads the text of a file; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let table: toml::Table = text.parse().map_err(|source| ConfigError::Syntax {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        if let Some(unknown) = keys::first_unknown(&table) {
            let keys::Unknown { key, near } = unknown;
            return Err(ConfigError::UnknownKey { path: path.to_owned(), key, near });
        }
        // From the text, not the table: so that an error can show its line.
        let mut config: Self = toml::from_str(text).map_err(|source| ConfigError::Value {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        config
            .sync
            .validate()
            .and_then(|()| config.notify.validate())
            .and_then(|()| config.serve.validate())
            .map_err(|source| ConfigError::Meaning { path: path.to_owned(), source })?;
        config.set = keys::flatten(&table).into_iter().map(|(key, _)| key).collect();
        Ok(config)
    }

    /// Every value in force, by key.
    pub fn entries(&self) -> Vec<Entry> {
        // Strings, numbers, lists and tables with string keys: all of them are TOML.
        let table = toml::Table::try_from(self).unwrap_or_default();
        let origin = |key: &str| {
            if self.set.contains(key) { Origin::File } else { Origin::Default }
        };
        keys::flatten(&table)
            .into_iter()
            .map(|(key, value)| Entry { origin: origin(&key), key, value })
            .collect()
    }

    /// What is set for an agent, or the defaults.
    pub fn agent(&self, name: &str) -> AgentConfig {
        self.agents.get(name).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("config.toml"))
    }

    #[test]
    fn the_documented_example_is_read() {
        let config = parse(
            r#"
            [sync]
            settle = "250ms"
            keep_daily = "60d"
            exclude = ["*.iso"]
            max_watches = 1000
            [serve]
            listen = "0.0.0.0:9"
            advertise = ["box.example:9"]
            [notify]
            command = ["notify-send", "Baton"]
            url = "https://example.org/hook"
            [agents.claude]
            program = "claude"
            args = []
            env = { ANTHROPIC_BASE_URL = "http://127.0.0.1:18080" }
            pass_env = ["ANTHROPIC_API_KEY"]
            permissions = "ask"
            max_parallel = 4
            timeout = "2h"
            network = true
            "#,
        )
        .unwrap();
        assert_eq!(config.sync.settle, Duration::from_millis(250));
        assert_eq!((config.sync.exclude.len(), config.sync.max_watches), (1, Some(1000)));
        assert_eq!(config.serve.listen.port(), 9);
        assert_eq!(config.serve.max_runs, 8);
        assert_eq!(config.notify.command, ["notify-send", "Baton"]);
        let claude = config.agent("claude");
        assert_eq!(claude.timeout, Some(Duration::from_hours(2)));
        assert_eq!(claude.permissions, Some(Permissions::Ask));
        assert_eq!(claude.env.len(), 1);
        assert_eq!(config.agent("other"), AgentConfig::default());
    }

    #[test]
    fn a_missing_file_means_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        assert_eq!(Config::load(&path).unwrap(), Config::default());
        fs::write_atomic(&path, b"[serve]\nmax_runs = 9\n", 0o600).unwrap();
        assert_eq!(Config::load(&path).unwrap().serve.max_runs, 9);
        fs::write_atomic(&path, b"\xff", 0o600).unwrap();
        assert!(matches!(Config::load(&path), Err(ConfigError::NotText { .. })));
    }

    #[test]
    fn unknown_keys_name_the_near_one() {
        let cases = [
            ("[serve]\nlisen = 1", "unknown key serve.lisen; did you mean serve.listen?"),
            ("[server]", "unknown key server; did you mean serve?"),
            ("[agents.x]\nprogramm = 'x'", "agents.x.programm; did you mean agents.x.program?"),
            ("[sync]\nsetle = '1s'", "unknown key sync.setle; did you mean sync.settle?"),
            ("[sync]\nfrobnicate = 1", "unknown key sync.frobnicate"),
            ("[notify]\nurls = 'x'", "unknown key notify.urls; did you mean notify.url?"),
        ];
        for (text, expected) in cases {
            let refused = parse(text).unwrap_err().to_string();
            assert!(refused.contains(expected), "{refused}");
        }
        let far = parse("[sync]\nfrobnicate = 1").unwrap_err().to_string();
        assert!(!far.contains("did you mean"), "{far}");
    }

    #[test]
    fn wrong_values_show_their_line() {
        let refused = parse("[serve]\nmax_runs = 'many'").unwrap_err();
        let ConfigError::Value { source, .. } = refused else { panic!("{refused}") };
        assert!(source.to_string().contains("max_runs"), "{source}");
        assert!(matches!(parse("[serve"), Err(ConfigError::Syntax { .. })));
        assert!(matches!(parse("serve = 1"), Err(ConfigError::Value { .. })));
        let backwards = parse("[sync]\nkeep_daily = '1h'").unwrap_err();
        assert!(matches!(backwards, ConfigError::Meaning { .. }), "{backwards}");
        let nowhere = parse("[notify]\nurl = 'example.org'").unwrap_err();
        assert!(matches!(nowhere, ConfigError::Meaning { .. }), "{nowhere}");
        let timeout = "[agents.x]\ntimeout = 'soon'";
        assert!(matches!(parse(timeout), Err(ConfigError::Value { .. })));
    }

    #[test]
    fn entries_tell_where_they_come_from() {
        let config = parse("[serve]\nmax_runs = 4\n[agents.x]\ntimeout = '90s'").unwrap();
        let entries = config.entries();
        let find = |key: &str| entries.iter().find(|entry| entry.key == key).unwrap();
        assert_eq!(find("serve.max_runs").origin, Origin::File);
        assert_eq!(find("serve.listen").origin, Origin::Default);
        assert_eq!(find("serve.listen").value.as_str(), Some("[::]:4319"));
        assert_eq!(find("sync.keep_daily").value.as_str(), Some("30days"));
        assert_eq!(find("agents.x.timeout").value.as_str(), Some("1m 30s"));
        assert_eq!(find("agents.x.network").origin, Origin::Default);
    }
}
