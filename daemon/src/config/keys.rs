//! Which keys a configuration may have, and which one a wrong key was probably meant to be.

use toml::{Table, Value};

const TOP: &[&str] = &["sync", "serve", "store", "notify", "agents"];
const SYNC: &[&str] = &[
    "background",
    "settle",
    "settle_max",
    "keep_all",
    "keep_hourly",
    "keep_daily",
    "exclude",
    "secrets",
    "secret_prefixes",
    "secret_allow",
    "max_watches",
    "most_history",
];
const SERVE: &[&str] = &[
    "listen",
    "advertise",
    "memory",
    "max_connections",
    "max_connections_per_device",
    "max_runs",
    "quota_bytes",
    "device_quota_bytes",
    "run_memory",
    "run_cpus",
    "run_processes",
    "run_disk",
    "expose",
    "namespace",
    "git_authorities",
];
const STORE: &[&str] = &["collect", "budget", "scrub", "scrub_every"];
const NOTIFY: &[&str] = &["command", "url"];
const AGENT: &[&str] = &[
    "program",
    "args",
    "env",
    "pass_env",
    "permissions",
    "max_parallel",
    "timeout",
    "network",
    "input",
];

/// A key that is none of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// With its tables.
    pub key: String,
    /// The key that was probably meant, with its tables.
    pub near: Option<String>,
}

/// The first key that no version of the tables below knows.
pub fn first_unknown(table: &Table) -> Option<Unknown> {
    let inner = |name: &str| table.get(name).and_then(Value::as_table);
    unknown_in(table, "", TOP)
        .or_else(|| inner("sync").and_then(|table| unknown_in(table, "sync.", SYNC)))
        .or_else(|| inner("serve").and_then(|table| unknown_in(table, "serve.", SERVE)))
        .or_else(|| inner("store").and_then(|table| unknown_in(table, "store.", STORE)))
        .or_else(|| inner("notify").and_then(|table| unknown_in(table, "notify.", NOTIFY)))
        .or_else(|| {
            inner("agents")?.iter().find_map(|(name, agent)| {
                unknown_in(agent.as_table()?, &format!("agents.{name}."), AGENT)
            })
        })
}

fn unknown_in(table: &Table, prefix: &str, known: &[&str]) -> Option<Unknown> {
    let key = table.keys().find(|key| !known.contains(&key.as_str()))?;
    let near = nearest(key, known).map(|near| format!("{prefix}{near}"));
    Some(Unknown { key: format!("{prefix}{key}"), near })
}

/// The known key that takes the fewest edits, unless that is a third of its letters or more.
pub(crate) fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|&name| (distance(key, name), name))
        .min()
        .filter(|(edits, name)| edits * 3 <= name.chars().count().max(3))
        .map(|(_, name)| name)
}

/// Letters to insert, remove or replace (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (at, letter) in from.chars().enumerate() {
        // `row` holds the distances from the first `at` letters; `next` those from one more.
        let mut next = vec![at + 1];
        for (&other, window) in to.iter().zip(row.windows(2)) {
            let (diagonal, above) = match window {
                [diagonal, above] => (*diagonal, *above),
                _ => continue,
            };
            let left = next.last().copied().unwrap_or(at + 1);
            let replaced = diagonal + usize::from(letter != other);
            next.push(replaced.min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

/// Every value that is not a table of settings, with its dotted key.
pub fn flatten(table: &Table) -> Vec<(String, Value)> {
    fn walk(table: &Table, prefix: &str, depth: usize, into: &mut Vec<(String, Value)>) {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            // `agents.NAME.env` is one value, however many variables it has.
            let settings = depth == 0 || (depth == 1 && prefix == "agents.");
            match value {
                Value::Table(inner) if settings => {
                    walk(inner, &format!("{key}."), depth + 1, into);
                }
                _ => into.push((key, value.clone())),
            }
        }
    }
    let mut found = Vec::new();
    walk(table, "", 0, &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AgentConfig, Config, Permissions};

    #[test]
    fn the_lists_of_keys_are_those_of_the_structs() {
        let mut config = Config::default();
        config.serve.memory = Some(crate::config::size::Bytes(1));
        config.serve.quota_bytes = Some(1);
        config.serve.device_quota_bytes = Some(1);
        config.serve.run_memory = Some(crate::config::size::Bytes(1));
        config.serve.run_cpus = Some(crate::config::size::Processors(1));
        config.serve.run_processes = Some(1);
        config.serve.run_disk = Some(crate::config::size::Bytes(1));
        config.serve.expose = Some(Vec::new());
        config.sync.max_watches = Some(1);
        config.notify.url = Some("http://x".to_owned());
        let agent = AgentConfig {
            program: Some("x".to_owned()),
            permissions: Some(Permissions::All),
            timeout: Some(std::time::Duration::from_secs(1)),
            max_parallel: Some(1),
            ..AgentConfig::default()
        };
        config.agents.insert("x".to_owned(), agent);
        let table = Table::try_from(&config).unwrap();
        let check = |table: &Table, known: &[&str]| {
            let mut keys: Vec<_> = table.keys().map(String::as_str).collect();
            let mut known = known.to_vec();
            keys.sort_unstable();
            known.sort_unstable();
            assert_eq!(keys, known);
        };
        check(&table, TOP);
        check(table["sync"].as_table().unwrap(), SYNC);
        check(table["serve"].as_table().unwrap(), SERVE);
        check(table["notify"].as_table().unwrap(), NOTIFY);
        check(table["agents"]["x"].as_table().unwrap(), AGENT);
        assert_eq!(first_unknown(&table), None);
    }

    #[test]
    fn distances_count_edits() {
        for (from, to, edits) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("lisen", "listen", 1), ("ab", "ba", 2)]
        {
            assert_eq!(distance(from, to), edits, "{from} {to}");
        }
    }

    #[test]
    fn far_keys_suggest_nothing() {
        assert_eq!(nearest("colour", SERVE), None);
        assert_eq!(nearest("max_run", SERVE), Some("max_runs"));
        assert_eq!(nearest("x", &[]), None);
    }
}
