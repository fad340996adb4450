//! What is said of the secrets of runs: their names, and once, on the way to the node, their values.
//!
//! Not here: keeping them, and giving them to runs.
//!
//! **Invariant:** no `Debug` or `Display` of these types shows a byte of a value.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest value in bytes. Linux takes 128 KiB with the name (`MAX_ARG_STRLEN`).
pub const MAX_VALUE: usize = 64 * 1024;

/// Longest name in bytes.
pub const MAX_NAME: usize = 128;

/// Longest name of an agent.
pub const MAX_AGENT: usize = 64;

/// Variables that Baton or the room sets.
const OWNED: [&str; 7] = ["PATH", "HOME", "PWD", "OLDPWD", "LANG", "TERM", "TZ"];

/// Beginnings of such variables, and of those that the dynamic linker or the C library obeys in every program,
/// so also in the one that makes the room.
const OWNED_BEGINNINGS: [&str; 6] = ["BATON_", "LC_", "LD_", "DYLD_", "MALLOC_", "RESOLV_"];

/// Further ones of the C library, which ignores them itself where a program has more rights than its caller; and of what a
/// program that makes the room may be a script for.
const OBEYED: [&str; 28] = [
    "BASHOPTS",
    "BASH_ENV",
    "ENV",
    "GCONV_PATH",
    "GETCONF_DIR",
    "GLIBC_TUNABLES",
    "HOSTALIASES",
    "IFS",
    "LANGUAGE",
    "LOCALDOMAIN",
    "LOCPATH",
    "MUSL_LOCPATH",
    "NIS_PATH",
    "NLSPATH",
    "PERL5LIB",
    "PERL5OPT",
    "PERLLIB",
    "PS4",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "RES_OPTIONS",
    "RUBYLIB",
    "RUBYOPT",
    "SHELLOPTS",
    "TMPDIR",
    "TZDIR",
    "_",
];

/// A value that is shown to nobody.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretValue(Vec<u8>);

impl SecretValue {
    /// Takes any bytes; [`SetSecret::check`] says whether a run can be given them.
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for who needs them.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(***)")
    }
}

/// Keep a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetSecret {
    /// The variable that it becomes.
    pub name: String,
    /// Whose runs get it; those of every agent without.
    pub agent: Option<String>,
    /// What it is.
    pub value: SecretValue,
}

/// Which secret is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SecretEntry {
    /// The variable that it becomes.
    pub name: String,
    /// Whose runs get it; those of every agent without.
    pub agent: Option<String>,
}

/// A secret that no run can be given. Never says what its value is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Not a name that shells take.
    #[error(
        "{name:?} is no name of a variable: 1 to {MAX_NAME} of A-Z, a-z, 0-9 and '_', the first one no digit"
    )]
    Name {
        /// The start of it.
        name: String,
    },
    /// Something else depends on it.
    #[error("{name} is set or obeyed by what starts a run, and cannot be a secret")]
    Owned {
        /// Which.
        name: String,
    },
    /// Not a name of an agent.
    #[error(
        "{agent:?} is no name of an agent: 1 to {MAX_AGENT} of a-z, 0-9, '.', '_' and '-', the first one a letter or digit"
    )]
    Agent {
        /// The start of it.
        agent: String,
    },
    /// There is no value.
    #[error("the value is empty")]
    Empty,
    /// No variable can have it.
    #[error("the value contains a NUL byte, which no variable can")]
    Nul,
    /// It is too long.
    #[error("the value is longer than {MAX_VALUE} bytes")]
    TooLong,
}

impl SetSecret {
    /// Checks that a run can be given it.
    pub fn check(&self) -> Result<(), SecretError> {
        check_name(&self.name)?;
        check_agent(self.agent.as_deref())?;
        check_value(&self.value)
    }
}

/// Checks that a variable of this name is free to be a secret.
pub fn check_name(name: &str) -> Result<(), SecretError> {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let begins = name.bytes().next().is_some_and(|first| !first.is_ascii_digit());
    if !letters || !begins || name.len() > MAX_NAME {
        return Err(SecretError::Name { name: name.chars().take(MAX_NAME).collect() });
    }
    let owned = OWNED.contains(&name)
        || OBEYED.contains(&name)
        || OWNED_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning));
    if owned { Err(SecretError::Owned { name: name.to_owned() }) } else { Ok(()) }
}

/// Checks that an agent can be called this.
pub fn check_agent(agent: Option<&str>) -> Result<(), SecretError> {
    let Some(agent) = agent else { return Ok(()) };
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let letters = agent.bytes().all(|byte| is_letter(byte) || b"._-".contains(&byte));
    if letters && agent.len() <= MAX_AGENT && agent.bytes().next().is_some_and(is_letter) {
        return Ok(());
    }
    Err(SecretError::Agent { agent: agent.chars().take(MAX_AGENT).collect() })
}

/// Checks that a variable can have this value.
pub fn check_value(value: &SecretValue) -> Result<(), SecretError> {
    match value.reveal() {
        [] => Err(SecretError::Empty),
        value if value.len() > MAX_VALUE => Err(SecretError::TooLong),
        value if value.contains(&0) => Err(SecretError::Nul),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, agent: Option<&str>, value: &[u8]) -> SetSecret {
        let value = SecretValue::new(value.to_vec());
        SetSecret { name: name.to_owned(), agent: agent.map(str::to_owned), value }
    }

    #[test]
    fn only_variables_that_nobody_depends_on_are_taken() {
        for name in ["TOKEN", "_x", "npm_config_token", "A1", "PATHS", "LDAP", "BATON", "LCX"] {
            assert_eq!(set(name, None, b"v").check(), Ok(()), "{name}");
        }
        let long = "A".repeat(MAX_NAME + 1);
        for name in ["", "1A", "A B", "A=B", "A-B", "Ä", "A\0", "../x", "A\n", &long] {
            assert!(matches!(check_name(name), Err(SecretError::Name { .. })), "{name}");
        }
        let owned =
            ["PATH", "HOME", "PWD", "BATON_RUN", "BATON_X", "LD_PRELOAD", "LD_X", "LC_ALL", "_"];
        for name in owned.into_iter().chain(["DYLD_INSERT_LIBRARIES", "GLIBC_TUNABLES", "TMPDIR"]) {
            assert!(matches!(check_name(name), Err(SecretError::Owned { .. })), "{name}");
        }
    }

    #[test]
    fn agents_and_values_are_bounded() {
        for agent in [None, Some("command"), Some("claude-2.x_y"), Some("0")] {
            assert_eq!(set("A", agent, b"v").check(), Ok(()), "{agent:?}");
        }
        for agent in ["", "Claude", "a/b", "-a", "a\u{202e}", &"a".repeat(MAX_AGENT + 1)] {
            let refused = set("A", Some(agent), b"v").check();
            assert!(matches!(refused, Err(SecretError::Agent { .. })), "{agent}");
        }
        assert_eq!(set("A", None, &vec![b'x'; MAX_VALUE]).check(), Ok(()));
        assert_eq!(set("A", None, b"\xff\n ").check(), Ok(()));
        assert_eq!(set("A", None, &vec![b'x'; MAX_VALUE + 1]).check(), Err(SecretError::TooLong));
        assert_eq!(set("A", None, b"").check(), Err(SecretError::Empty));
        assert_eq!(set("A", None, b"a\0b").check(), Err(SecretError::Nul));
    }

    #[test]
    fn a_value_is_not_shown() {
        let secret = set("TOKEN", None, b"swordfish");
        let shown = format!("{secret:?} {:?}", secret.value);
        assert!(shown.contains("TOKEN") && shown.contains("***"), "{shown}");
        assert!(!shown.contains("swordfish") && !shown.contains("115"), "{shown}");
    }
}
