//! `.baton/environment.toml`: what a tree asks to find installed.
//!
//! **Invariant:** a key that does nothing is an error, so that nobody believes in a setting that has no effect.

use std::collections::BTreeMap;

use baton_protocol::message::secrets::{SecretError, check_variable};
use toml::{Table, Value};

use super::glob::{Glob, GlobError};
use crate::config::keys::nearest;

/// Where it is in a tree.
pub const PATH: &str = ".baton/environment.toml";

/// Longest file that is read.
pub const MAX_FILE: u64 = 64 * 1024;

/// Longest script in bytes: the system passes it to a shell as one argument of at most 128 KiB.
pub const MAX_SCRIPT: usize = 48 * 1024;

/// Most patterns, and most variables.
const MAX_ENTRIES: usize = 64;

/// Longest value of a variable.
const MAX_VALUE: usize = 16 * 1024;

const KEYS: &[&str] = &["setup", "maintain", "cache_key", "env"];

/// What other tools have in such a file.
const ELSEWHERE: [&str; 12] = [
    "image",
    "dockerfile",
    "dockerFile",
    "docker",
    "docker_socket",
    "container",
    "containers",
    "build",
    "compose",
    "services",
    "snapshot",
    "devcontainer",
];

/// What a tree asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The script that installs; its result is kept.
    pub setup: String,
    /// The script that runs where that was kept, before each program; empty where there is none.
    pub maintain: String,
    /// The files that decide whether what was kept still fits; nothing where the tree does not say.
    pub cache_key: Option<Vec<Glob>>,
    /// Variables for both scripts and for programs.
    pub env: BTreeMap<String, String>,
}

/// A tree asks for what cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It is a link, a folder, or too long.
    #[error("it is not a file of at most {MAX_FILE} bytes")]
    NoFile,
    /// It is not UTF-8.
    #[error("it is not UTF-8 text")]
    NotText,
    /// It is not TOML.
    #[error("line {line}: {why}")]
    Syntax {
        /// Where.
        line: usize,
        /// What is wrong there.
        why: String,
    },
    /// A key is none of ours.
    #[error("unknown key {key}{}", near.map(|near| format!("; did you mean {near}?")).unwrap_or_default())]
    UnknownKey {
        /// The start of it.
        key: String,
        /// The key that was probably meant.
        near: Option<&'static str>,
    },
    /// Other tools have such a key.
    #[error(
        "{key} is not supported: there are no images, services or Docker socket; a run has the programs of the node, and what `setup` installs"
    )]
    Elsewhere {
        /// Which.
        key: &'static str,
    },
    /// A key has a value of another kind.
    #[error("{key} must be {wants}")]
    Kind {
        /// Which.
        key: &'static str,
        /// What it takes.
        wants: &'static str,
    },
    /// A key has too much.
    #[error("{key} has more than {limit}")]
    TooMuch {
        /// Which.
        key: &'static str,
        /// How much it may have, and of what.
        limit: String,
    },
    /// Nothing would be installed.
    #[error("there is no `setup`")]
    NoSetup,
    /// Something contains NUL, which no program can be given.
    #[error("{key} contains a NUL byte")]
    Nul {
        /// Which.
        key: &'static str,
    },
    /// A pattern cannot be.
    #[error("cache_key: {0}")]
    Glob(#[from] GlobError),
    /// A variable cannot have this name.
    #[error("env: {name:?} is no name of a variable")]
    Name {
        /// The start of it.
        name: String,
    },
    /// Something else depends on a variable.
    #[error("env: {name} is set or obeyed by what starts a run, and cannot be set here")]
    Owned {
        /// Which.
        name: String,
    },
}

impl Description {
    /// Reads the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, FileError> {
        if bytes.len() as u64 > MAX_FILE {
            return Err(FileError::NoFile);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| FileError::NotText)?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let end = error.span().map_or(0, |span| span.start).min(bytes.len());
            let before = text.get(..end).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            FileError::Syntax { line, why: error.message().chars().take(200).collect() }
        })?;
        for key in table.keys() {
            if let Some(key) = ELSEWHERE.into_iter().find(|other| other == key) {
                return Err(FileError::Elsewhere { key });
            }
            if !KEYS.contains(&key.as_str()) {
                let near = nearest(key, KEYS);
                return Err(FileError::UnknownKey { key: key.chars().take(80).collect(), near });
            }
        }
        let description = Self {
            setup: script(&table, "setup")?,
            maintain: script(&table, "maintain")?,
            cache_key: cache_key(&table)?,
            env: variables(&table)?,
        };
        if description.setup.trim().is_empty() {
            return Err(FileError::NoSetup);
        }
        Ok(description)
    }
}

/// A script as one text: lines of a list follow each other.
fn script(table: &Table, key: &'static str) -> Result<String, FileError> {
    let wants = FileError::Kind { key, wants: "a string or a list of strings" };
    let script = match table.get(key) {
        None => return Ok(String::new()),
        Some(Value::String(script)) => script.clone(),
        Some(Value::Array(lines)) => {
            let lines = lines.iter().map(|line| line.as_str().ok_or_else(|| wants.clone()));
            lines.collect::<Result<Vec<_>, _>>()?.join("\n")
        }
        Some(_) => return Err(wants),
    };
    if script.len() > MAX_SCRIPT {
        return Err(FileError::TooMuch { key, limit: format!("{MAX_SCRIPT} bytes") });
    }
    if script.contains('\0') { Err(FileError::Nul { key }) } else { Ok(script) }
}

fn cache_key(table: &Table) -> Result<Option<Vec<Glob>>, FileError> {
    let key = "cache_key";
    let wants = FileError::Kind { key, wants: "a list of patterns" };
    let Some(value) = table.get(key) else { return Ok(None) };
    let patterns = value.as_array().ok_or_else(|| wants.clone())?;
    if patterns.len() > MAX_ENTRIES {
        return Err(FileError::TooMuch { key, limit: format!("{MAX_ENTRIES} patterns") });
    }
    let pattern = |value: &Value| Ok(Glob::parse(value.as_str().ok_or_else(|| wants.clone())?)?);
    patterns.iter().map(pattern).collect::<Result<_, FileError>>().map(Some)
}

fn variables(table: &Table) -> Result<BTreeMap<String, String>, FileError> {
    let key = "env";
    let wants = FileError::Kind { key, wants: "a table of strings" };
    let Some(value) = table.get(key) else { return Ok(BTreeMap::new()) };
    let variables = value.as_table().ok_or_else(|| wants.clone())?;
    if variables.len() > MAX_ENTRIES {
        return Err(FileError::TooMuch { key, limit: format!("{MAX_ENTRIES} variables") });
    }
    let mut found = BTreeMap::new();
    for (name, value) in variables {
        let short = || name.chars().take(80).collect();
        match check_variable(name) {
            Ok(()) => {}
            Err(SecretError::Owned { .. }) => return Err(FileError::Owned { name: short() }),
            Err(_) => return Err(FileError::Name { name: short() }),
        }
        let value = value.as_str().ok_or_else(|| wants.clone())?;
        if value.len() > MAX_VALUE {
            return Err(FileError::TooMuch { key, limit: format!("{MAX_VALUE} bytes in a value") });
        }
        if value.contains('\0') {
            return Err(FileError::Nul { key });
        }
        found.insert(name.clone(), value.to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Description, FileError> {
        Description::parse(text.as_bytes())
    }

    #[test]
    fn all_of_it_is_read() {
        let all = parse(
            r#"
            setup = ["npm ci", "npm run build:deps"]
            maintain = "npm ls > /dev/null"
            cache_key = ["package-lock.json", "packages/*/package.json"]
            env = { NODE_ENV = "development", npm_config_audit = "false" }
            "#,
        );
        let all = all.unwrap();
        assert_eq!(all.setup, "npm ci\nnpm run build:deps");
        assert_eq!(all.maintain, "npm ls > /dev/null");
        assert_eq!(all.cache_key.unwrap().len(), 2);
        assert_eq!(all.env["NODE_ENV"], "development");
        let least = parse("setup = '''\nmake deps\n'''").unwrap();
        assert_eq!((least.maintain.as_str(), least.cache_key, least.env.len()), ("", None, 0));
    }

    #[test]
    fn what_does_nothing_is_refused_by_name() {
        for (text, said) in [
            ("set_up = 'x'", "unknown key set_up; did you mean setup?"),
            ("colour = 1", "unknown key colour"),
            ("setup = 'x'\nimage = 'node:22'", "image is not supported: there are no images"),
            ("setup = 'x'\n[services.db]\nimage = 'x'", "services is not supported"),
            ("setup = 1", "setup must be a string or a list of strings"),
            ("setup = [1]", "setup must be a string or a list of strings"),
            ("maintain = 'x'", "there is no `setup`"),
            ("setup = ' '", "there is no `setup`"),
            ("setup = 'x'\nsetup = 'y'", "line 2: "),
            ("setup = ", "line 1: "),
            ("setup = \"a\\u0000b\"", "setup contains a NUL byte"),
            ("setup = 'x'\ncache_key = 'y'", "cache_key must be a list of patterns"),
            ("setup = 'x'\ncache_key = ['../y']", "cache_key: a pattern is a path within"),
            ("setup = 'x'\nenv = ['y']", "env must be a table of strings"),
            ("setup = 'x'\nenv = { A = 1 }", "env must be a table of strings"),
            ("setup = 'x'\nenv = { 'A B' = '1' }", "env: \"A B\" is no name"),
            ("setup = 'x'\nenv = { LD_PRELOAD = '/x' }", "env: LD_PRELOAD is set or obeyed"),
            ("setup = 'x'\nenv = { PATH = '/x' }", "env: PATH is set or obeyed"),
            ("setup = 'x'\nenv = { BATON_RUN = '/x' }", "env: BATON_RUN is set or obeyed"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }

    #[test]
    fn too_much_is_refused() {
        let long = "x".repeat(MAX_SCRIPT + 1);
        let patterns = vec!["'x'"; MAX_ENTRIES + 1].join(",");
        let names: Vec<_> = (0..=MAX_ENTRIES).map(|at| format!("A{at} = 'x'")).collect();
        for text in [
            format!("setup = '{long}'"),
            format!("setup = 'x'\ncache_key = [{patterns}]"),
            format!("setup = 'x'\n[env]\n{}", names.join("\n")),
            format!("setup = 'x'\nenv = {{ A = '{}' }}", "x".repeat(MAX_VALUE + 1)),
        ] {
            assert!(matches!(parse(&text), Err(FileError::TooMuch { .. })), "{text}");
        }
        assert_eq!(parse(&" ".repeat(MAX_FILE as usize + 1)), Err(FileError::NoFile));
        assert_eq!(Description::parse(b"setup = '\xff'"), Err(FileError::NotText));
        // Nested as deep as it is long.
        let deep = format!("setup = {}", "[".repeat(60_000));
        assert!(matches!(parse(&deep), Err(FileError::Syntax { .. })));
    }
}
