//! `[sync]`: how trees are kept in step, how long what is kept, and what does not travel.
//!
//! **Invariant:** a value that would do something else than its reader thinks is an error: spans that
//! contradict each other, patterns that match nothing.

use std::time::Duration;

use baton_store::secrets::{SecretOptions, SecretRules};
use serde::{Deserialize, Serialize};

use super::duration;

/// Shortest settle time: below it a program that saves in two steps is caught between them.
const LEAST_SETTLE: Duration = Duration::from_millis(20);

/// Bytes of git objects that nobody minds to wait for at a first push; with less, what is shallow over there would be
/// the usual case.
const MOST_HISTORY: u64 = 1 << 30;

/// `[sync]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyncConfig {
    /// Whether watched trees are sent by themselves. True.
    pub background: bool,
    /// How long nothing must change before a tree is sent by itself. It grows with what the tree
    /// costs to send, up to `settle_max`. 1 s.
    #[serde(with = "duration")]
    pub settle: Duration,
    /// After how long it is sent where changes never stop. 30 s.
    #[serde(with = "duration")]
    pub settle_max: Duration,
    /// To which age every automatic snapshot stays. 1 h.
    #[serde(with = "duration")]
    pub keep_all: Duration,
    /// To which age the last one of each hour stays. A day.
    #[serde(with = "duration")]
    pub keep_hourly: Duration,
    /// To which age the last one of each day stays. 30 days.
    #[serde(with = "duration")]
    pub keep_daily: Duration,
    /// What every tree leaves out, in the syntax of `.gitignore`; as if it stood in each `.batonignore`,
    /// before what does stand there.
    pub exclude: Vec<String>,
    /// Whether changed files that git does not track are looked through for secrets. True.
    pub secrets: bool,
    /// What tokens of one's own begin with.
    pub secret_prefixes: Vec<String>,
    /// Files that are never held back, in the syntax of `.gitignore`.
    pub secret_allow: Vec<String>,
    /// Most directories that are watched, of all trees. Nothing: half of what the system leaves free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_watches: Option<u64>,
    /// Bytes of objects of a repository above which its history follows later than its first snapshot. 1 GiB.
    pub most_history: u64,
}

impl Default for SyncConfig {
    fn default() -> Self {
        Self {
            background: true,
            settle: Duration::from_secs(1),
            settle_max: Duration::from_secs(30),
            keep_all: Duration::from_hours(1),
            keep_hourly: Duration::from_hours(24),
            keep_daily: Duration::from_hours(30 * 24),
            exclude: Vec::new(),
            secrets: true,
            secret_prefixes: Vec::new(),
            secret_allow: Vec::new(),
            max_watches: None,
            most_history: MOST_HISTORY,
        }
    }
}

/// A key has a value that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{table}.{key}: {why}")]
pub struct Contradiction {
    /// In which table.
    pub table: &'static str,
    /// Which key.
    pub key: &'static str,
    /// What is wrong with it, and what would be right.
    pub why: String,
}

impl SyncConfig {
    /// What is to be looked for; `key` is the home's own, for the fingerprints.
    pub fn secret_options(&self, key: [u8; 32]) -> SecretOptions {
        SecretOptions {
            key,
            prefixes: self.secret_prefixes.clone(),
            allow: self.secret_allow.clone(),
        }
    }

    /// The first value that cannot be meant.
    pub fn validate(&self) -> Result<(), Contradiction> {
        let wrong = |key, why: String| Err(Contradiction { table: "sync", key, why });
        let text = |duration: Duration| humantime::format_duration(duration).to_string();
        if self.settle < LEAST_SETTLE {
            return wrong("settle", format!("at least {}", text(LEAST_SETTLE)));
        }
        let spans = [
            ("settle_max", self.settle_max, "settle", self.settle),
            ("keep_hourly", self.keep_hourly, "keep_all", self.keep_all),
            ("keep_daily", self.keep_daily, "keep_hourly", self.keep_hourly),
        ];
        for (key, value, of, least) in spans {
            if value < least {
                let why = format!("{} is less than sync.{of}, {}", text(value), text(least));
                return wrong(key, why);
            }
        }
        let patterns = [("exclude", &self.exclude), ("secret_allow", &self.secret_allow)];
        for (key, patterns) in patterns {
            let matches_nothing =
                |pattern: &&String| pattern.trim().is_empty() || pattern.starts_with('#');
            if let Some(pattern) = patterns.iter().find(matches_nothing) {
                return wrong(key, format!("{pattern:?} matches nothing"));
            }
            if let Some(pattern) = patterns.iter().find(|pattern| pattern.contains(['\n', '\0'])) {
                return wrong(key, format!("{pattern:?} is more than one pattern"));
            }
        }
        // The only one left that may be refused.
        SecretRules::new(&self.secret_options([0; 32]))
            .map(drop)
            .or_else(|error| wrong("secret_prefixes", error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut SyncConfig)) -> String {
        let mut config = SyncConfig::default();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_and_sensible_values_hold_together() {
        SyncConfig::default().validate().unwrap();
        let config = SyncConfig {
            keep_all: Duration::ZERO,
            exclude: vec!["node_modules/".into(), "!keep".into()],
            secret_allow: vec!["fixtures/**".into()],
            secret_prefixes: vec!["acme_".into()],
            ..SyncConfig::default()
        };
        config.validate().unwrap();
    }

    #[test]
    fn what_contradicts_itself_or_matches_nothing_is_named() {
        let minute = Duration::from_mins(1);
        assert_eq!(refused(|it| it.settle = Duration::ZERO), "sync.settle: at least 20ms");
        assert_eq!(
            refused(|it| it.settle = minute),
            "sync.settle_max: 30s is less than sync.settle, 1m"
        );
        assert_eq!(
            refused(|it| it.keep_hourly = minute),
            "sync.keep_hourly: 1m is less than sync.keep_all, 1h"
        );
        assert_eq!(
            refused(|it| it.keep_daily = minute),
            "sync.keep_daily: 1m is less than sync.keep_hourly, 1day"
        );
        let empty = || vec![" ".to_owned()];
        assert_eq!(refused(|it| it.exclude = empty()), "sync.exclude: \" \" matches nothing");
        assert!(refused(|it| it.secret_allow = vec!["# x".into()]).contains("secret_allow"));
        assert!(refused(|it| it.exclude = vec!["a\nb".into()]).contains("more than one"));
        assert!(refused(|it| it.secret_prefixes = vec!["ab".into()]).contains("secret_prefixes"));
    }
}
