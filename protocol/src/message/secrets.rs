//! What is said of the secrets of runs: their names, and once, on the way to the node, their values.
//!
//! A secret is a variable of runs, or, as `git:HOST`, what a node says for them to a git host: such a value is in no
//! environment.
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

/// What the name of a secret for a git host begins with.
pub const GIT: &str = "git:";

/// Longest value for a git host: it stands in a header, of which servers take some 8 KiB.
pub const MAX_GIT_VALUE: usize = 4096;

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

/// To which refs a node pushes for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PushScope {
    /// To the branch of the run, `handoff/RUN`, only.
    Run,
    /// To every one.
    Any,
}

impl PushScope {
    /// As it is typed and printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Any => "any",
        }
    }
}

/// Keep a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetSecret {
    /// The variable that it becomes, or `git:HOST`.
    pub name: String,
    /// Whose runs get it; those of every agent without.
    pub agent: Option<String>,
    /// What it is. For a git host `TOKEN` or `USER:TOKEN`.
    pub value: SecretValue,
    /// For a git host: where runs may push. Nothing: to their own branch.
    pub push: Option<PushScope>,
}

/// Which secret is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SecretEntry {
    /// The variable that it becomes, or `git:HOST`.
    pub name: String,
    /// Whose runs get it; those of every agent without.
    pub agent: Option<String>,
    /// Of one that is kept for a git host: where runs may push. It says nothing of which secret is meant.
    pub push: Option<PushScope>,
}

impl SecretEntry {
    /// Whether this is the secret of that name and agent.
    pub fn is(&self, name: &str, agent: Option<&str>) -> bool {
        self.name == name && self.agent.as_deref() == agent
    }
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
    /// Not a git host.
    #[error(
        "{host:?} is no git host: the name of one in lower case, with :PORT behind it where that is not 443, and no path"
    )]
    Host {
        /// The start of it.
        host: String,
    },
    /// Nothing is pushed with a variable.
    #[error("{name} is a variable: where runs may push is said of git:HOST only")]
    Push {
        /// The start of its name.
        name: String,
    },
    /// No header can have it.
    #[error(
        "the value is TOKEN or USER:TOKEN, in at most {MAX_GIT_VALUE} letters, digits and signs of ASCII without white space"
    )]
    GitValue,
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
        if git_host(&self.name).is_some() {
            return check_git_value(&self.value);
        }
        if self.push.is_some() {
            return Err(SecretError::Push { name: self.name.clone() });
        }
        check_value(&self.value)
    }

    /// What is said of it once it is kept.
    pub fn entry(&self) -> SecretEntry {
        let push = git_host(&self.name).map(|_| self.push.unwrap_or(PushScope::Run));
        SecretEntry { name: self.name.clone(), agent: self.agent.clone(), push }
    }
}

/// The host, where a secret is for one.
pub fn git_host(name: &str) -> Option<&str> {
    name.strip_prefix(GIT)
}

/// Checks that a secret may have this name.
pub fn check_name(name: &str) -> Result<(), SecretError> {
    match git_host(name) {
        Some(host) => check_host(host),
        None => check_variable(name),
    }
}

/// Checks that this is a host, with or without a port, as URLs have it.
pub fn check_host(host: &str) -> Result<(), SecretError> {
    let wrong = || SecretError::Host { host: host.chars().take(MAX_NAME).collect() };
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.len() <= 63
            && bytes.first().copied().is_some_and(is_letter)
            && bytes.last().copied().is_some_and(is_letter)
            && bytes.iter().all(|&byte| is_letter(byte) || byte == b'-')
    };
    // One way to write each port: what is compared are texts.
    let is_port = |port: &str| {
        port.parse::<u16>().is_ok_and(|number| number > 0 && number.to_string() == port)
    };
    let is_host = GIT.len() + host.len() <= MAX_NAME && name.split('.').all(is_label);
    // 443 is the port of a host without one, and a second name for it.
    if is_host && port.is_none_or(|port| is_port(port) && port != "443") {
        Ok(())
    } else {
        Err(wrong())
    }
}

/// Checks that a header can have this value.
pub fn check_git_value(value: &SecretValue) -> Result<(), SecretError> {
    let bytes = value.reveal();
    let user = bytes.iter().position(|&byte| byte == b':');
    let whole = user.is_none_or(|at| at > 0 && at + 1 < bytes.len());
    let plain = bytes.iter().all(u8::is_ascii_graphic);
    match bytes {
        [] => Err(SecretError::Empty),
        bytes if bytes.len() > MAX_GIT_VALUE || !whole || !plain => Err(SecretError::GitValue),
        _ => Ok(()),
    }
}

/// Checks that a variable of this name is free to be a secret.
pub fn check_variable(name: &str) -> Result<(), SecretError> {
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
        SetSecret { name: name.to_owned(), agent: agent.map(str::to_owned), value, push: None }
    }

    #[test]
    fn a_git_host_has_one_name_and_a_value_that_a_header_can_have() {
        let name = |host: &str| format!("git:{host}");
        for host in ["github.com", "git.example.org:8443", "localhost:1", "10.0.0.7", "a-b.c"] {
            assert_eq!(set(&name(host), None, b"v").check(), Ok(()), "{host}");
        }
        let long = "a.".repeat(MAX_NAME);
        for host in [
            "",
            "GitHub.com",
            "github.com/",
            "github.com/owner",
            "user@github.com",
            "a..b",
            ".a",
            "a.",
            "-a",
            "a-",
            "a_b",
            "a b",
            "a\n",
            "ä.de",
            "a:0",
            "a:",
            "a:x",
            "a:443",
            "a:0080",
            "a:+80",
            "a:65536",
            "a:1:2",
            "[::1]",
            "a%2e",
            "*.a",
            &long,
        ] {
            let refused = set(&name(host), None, b"v").check();
            assert!(matches!(refused, Err(SecretError::Host { .. })), "{host}");
        }
        for value in ["t", "user:token", "a:b:c", "-_~.+/="] {
            assert_eq!(set("git:a", None, value.as_bytes()).check(), Ok(()), "{value}");
        }
        let long = "t".repeat(MAX_GIT_VALUE + 1);
        for value in [":", ":t", "u:", "a b", "a\n", "a\r\nX: y", "ä", "\0", &long] {
            let refused = set("git:a", None, value.as_bytes()).check();
            assert_eq!(refused, Err(SecretError::GitValue), "{value:?}");
        }
        let any = |name: &str| SetSecret { push: Some(PushScope::Any), ..set(name, None, b"v") };
        assert_eq!(any("git:a").check(), Ok(()));
        assert!(matches!(any("TOKEN").check(), Err(SecretError::Push { .. })));
        assert_eq!(any("git:a").entry().push, Some(PushScope::Any));
        assert_eq!(set("git:a", None, b"v").entry().push, Some(PushScope::Run));
        assert_eq!(set("A", None, b"v").entry().push, None);
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
