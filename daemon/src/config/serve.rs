//! What `[serve]` and `[agents.NAME]` mean for runs.
//!
//! **Invariant:** an agent never may do everything unasked on a node whose runs are not isolated, unless somebody wrote
//! that down.

use std::path::Path;

use super::sync::Contradiction;
use super::{AgentConfig, Permissions, ServeConfig};

/// Less than this is less than two connections may have.
const LEAST_CONNECTIONS: u64 = 64 << 20;

/// Less than this and no program starts in a room.
const LEAST_MEMORY: u64 = 16 << 20;
const LEAST_PROCESSES: u64 = 16;
const LEAST_DISK: u64 = 1 << 20;

impl ServeConfig {
    /// The first value that cannot be meant.
    pub fn validate(&self) -> Result<(), Contradiction> {
        let wrong = |key, why: String| Err(Contradiction { table: "serve", key, why });
        let least = [
            ("memory", self.memory.map(|bytes| bytes.0), LEAST_CONNECTIONS),
            ("run_memory", self.run_memory.map(|bytes| bytes.0), LEAST_MEMORY),
            ("run_processes", self.run_processes, LEAST_PROCESSES),
            ("run_disk", self.run_disk.map(|bytes| bytes.0), LEAST_DISK),
        ];
        for (key, value, least) in least {
            if value.is_some_and(|value| value < least) {
                return wrong(key, format!("at least {least}"));
            }
        }
        for path in self.expose.iter().flatten() {
            let folder = path.strip_prefix("~/").map_or(Path::new(path), |below| Path::new(below));
            let is_one = path.starts_with("~/") || folder.is_absolute();
            if !is_one {
                return wrong("expose", format!("{path:?} is neither absolute nor below ~/"));
            }
            let is_whole = folder.components().all(|part| {
                matches!(part, std::path::Component::RootDir | std::path::Component::CurDir)
            });
            if is_whole || folder.components().any(|part| part == std::path::Component::ParentDir) {
                return wrong("expose", format!("{path:?} is no single folder of toolchains"));
            }
        }
        for path in &self.git_authorities {
            if !path.is_absolute() {
                return wrong("git_authorities", format!("{} is not absolute", path.display()));
            }
        }
        Ok(())
    }
}

impl AgentConfig {
    /// What the agent may do unasked on a node whose runs are isolated, or not.
    pub fn permissions_where(&self, isolated: bool) -> Permissions {
        let otherwise = if isolated { Permissions::All } else { Permissions::Ask };
        self.permissions.unwrap_or(otherwise)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError};
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("config.toml"))
    }

    #[test]
    fn everything_is_allowed_by_itself_only_where_runs_are_isolated() {
        let plain = AgentConfig::default();
        assert_eq!(plain.permissions_where(true), Permissions::All);
        assert_eq!(plain.permissions_where(false), Permissions::Ask);
        for said in [Permissions::Ask, Permissions::Edits, Permissions::All] {
            let agent = AgentConfig { permissions: Some(said), ..AgentConfig::default() };
            for isolated in [true, false] {
                assert_eq!(agent.permissions_where(isolated), said);
            }
        }
    }

    #[test]
    fn limits_and_toolchains_are_read_and_what_cannot_be_meant_is_refused() {
        let config = parse(
            "[serve]\nrun_memory = '4GiB'\nrun_cpus = 1.5\nrun_processes = 500\nrun_disk = '20GB'\n\
             expose = ['~/.cargo/bin', '/opt/tools']\n",
        )
        .unwrap()
        .serve;
        assert_eq!(config.run_memory.unwrap().0, 4 << 30);
        assert_eq!(config.run_cpus.unwrap().0, 1500);
        assert_eq!((config.run_processes, config.run_disk.unwrap().0), (Some(500), 20_000_000_000));
        assert_eq!(config.expose.unwrap().len(), 2);
        assert_eq!(parse("[serve]").unwrap().serve.expose, None);
        for wrong in [
            "memory = '1MiB'",
            "run_memory = 1000",
            "run_processes = 3",
            "run_disk = '1K'",
            "git_authorities = ['ca.pem']",
            "expose = ['bin']",
            "expose = ['~/']",
            "expose = ['/']",
            "expose = ['~/../other']",
        ] {
            let refused = parse(&format!("[serve]\n{wrong}\n")).unwrap_err();
            assert!(matches!(refused, ConfigError::Meaning { .. }), "{wrong}: {refused}");
        }
    }
}
