//! What `agent setup` puts where, agent by agent.
//!
//! Not here: how a file is changed. That is the same for all of them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use baton_daemon::agents::ask::find_program;
use baton_daemon::daemon::conversations::path_of;
use serde_json::{Value, json};

use super::texts;
use crate::env::Env;

/// Seconds that an agent gives to a hook, which needs none.
const PATIENCE: u64 = 10;

/// The same for the one that gives no more than this at the end of a conversation, and warns of a hook that asks for it.
const CODEX_PATIENCE: u64 = 3;

/// Seconds that an agent gives to a tool: a first handoff may have much to send.
const TOOL_PATIENCE: u64 = 600;

/// Variables that say where a home and the folders of agents are, for the agent that gives its servers no others.
const PASSED: [&str; 8] = [
    "BATON_HOME",
    "CLAUDE_CONFIG_DIR",
    "CODEX_HOME",
    "GEMINI_CLI_HOME",
    "OPENCODE_CONFIG_DIR",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
];

/// What a part is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Hooks,
    Commands,
    Mcp,
}

/// The server of tools, as an agent's file names it.
#[derive(Clone, Debug)]
pub(super) enum Server {
    /// JSON below these names; what of it holds the program and its arguments, and what else a new one has.
    Json { keys: [&'static str; 2], program: Value, more: Value },
    /// TOML, a table of a table.
    Toml { program: String, args: Vec<String> },
}

/// Something that is put into a place.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// A hook for each of these events, in a file of JSON.
    Hooks { file: PathBuf, events: &'static [&'static str], handler: Value },
    /// The server.
    Mcp { file: PathBuf, server: Server },
    /// A file of its own.
    Own { kind: Kind, file: PathBuf, text: String },
}

impl Part {
    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Hooks { .. } => Kind::Hooks,
            Self::Mcp { .. } => Kind::Mcp,
            Self::Own { kind, .. } => *kind,
        }
    }

    pub(super) fn file(&self) -> &Path {
        match self {
            Self::Hooks { file, .. } | Self::Mcp { file, .. } | Self::Own { file, .. } => file,
        }
    }
}

/// An agent into which Baton can be put.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub name: &'static str,
    pub title: &'static str,
    pub program: &'static str,
    /// Where it keeps what is its user's.
    pub folder: PathBuf,
    pub parts: Vec<Part>,
    /// A file that the program writes, too, and whose lock it looks at.
    pub shared: Option<PathBuf>,
    /// What the agent's user has to do before any of it works.
    pub first: Option<&'static str>,
}

/// Names of those there are.
pub(super) const NAMES: [&str; 4] = ["claude", "codex", "gemini", "opencode"];

impl Target {
    /// The agent of this name; nothing where no folder of its is known, for want of a home.
    pub(super) fn new(name: &str, env: &Env) -> Option<Self> {
        let words = words(env);
        match name {
            "claude" => claude(env, &words),
            "codex" => codex(env, &words),
            "gemini" => gemini(env, &words),
            "opencode" => opencode(env, &words),
            _ => None,
        }
    }
}

/// What starts this program with its home: by the name in the `PATH`, if that is it, for that one stays when a new version
/// comes.
fn words(env: &Env) -> Vec<String> {
    let own = std::env::current_exe().unwrap_or_else(|_| "baton".into());
    let is_own = |named: &PathBuf| {
        named.canonicalize().is_ok_and(|named| Ok(named) == own.canonicalize().map_err(drop))
    };
    let program = find_program("baton", &env.path).filter(is_own).unwrap_or(own);
    let mut words = vec![program.to_string_lossy().into_owned()];
    if let Some(home) = &env.home_dir {
        words.extend(["--home".to_owned(), home.to_string_lossy().into_owned()]);
    }
    words
}

fn with(words: &[String], more: &[&str]) -> Vec<String> {
    words.iter().cloned().chain(more.iter().map(|&word| word.to_owned())).collect()
}

/// A line of a shell with these words.
fn line(words: &[String]) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    let quoted = words.iter().map(|word| {
        if !word.is_empty() && word.chars().all(is_plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn handler(words: &[String], agent: &str, timeout: u64) -> Value {
    json!({"type": "command", "command": line(&with(words, &["agent", "hook", agent])), "timeout": timeout})
}

fn variable(env: &Env, name: &str) -> Option<PathBuf> {
    let mut variables = env.variables.0.iter();
    let value = variables.find(|(known, _)| known == OsStr::new(name)).map(|(_, value)| value)?;
    (!value.is_empty()).then(|| env.cwd.join(value))
}

fn user_home(env: &Env) -> Option<PathBuf> {
    env.agents.home.as_ref().map(path_of)
}

fn known_folder(env: &Env, agent: &str) -> Option<PathBuf> {
    env.agents.folders.iter().find(|it| it.agent == agent).map(|it| path_of(&it.path))
}

fn claude(env: &Env, words: &[String]) -> Option<Target> {
    let folder = known_folder(env, "claude")?;
    // Beside the folder, unless a variable names one; an early version had it in there under another name.
    let early = folder.join(".config.json");
    let state = match variable(env, "CLAUDE_CONFIG_DIR") {
        _ if early.is_file() => early,
        Some(folder) => folder.join(".claude.json"),
        None => user_home(env)?.join(".claude.json"),
    };
    let server = Server::Json {
        keys: ["mcpServers", "baton"],
        program: json!({"command": words.first(), "args": with(words.get(1..)?, &["mcp"])}),
        more: json!({"type": "stdio"}),
    };
    let mut parts = vec![
        Part::Hooks {
            file: folder.join("settings.json"),
            events: &["SessionStart", "UserPromptSubmit", "Stop", "SessionEnd"],
            handler: handler(words, "claude", PATIENCE),
        },
        Part::Mcp { file: state.clone(), server },
    ];
    parts.extend(texts::COMMANDS.iter().map(|text| Part::Own {
        kind: Kind::Commands,
        file: folder.join("commands").join(format!("{}.md", text.name)),
        text: texts::claude(text),
    }));
    Some(Target {
        name: "claude",
        title: "Claude Code",
        program: "claude",
        folder,
        parts,
        shared: Some(state),
        first: None,
    })
}

fn codex(env: &Env, words: &[String]) -> Option<Target> {
    let folder = known_folder(env, "codex")?;
    let server =
        Server::Toml { program: words.first()?.clone(), args: with(words.get(1..)?, &["mcp"]) };
    let mut parts = vec![
        Part::Hooks {
            file: folder.join("hooks.json"),
            events: &["SessionStart", "UserPromptSubmit", "Stop", "SessionEnd"],
            handler: handler(words, "codex", CODEX_PATIENCE),
        },
        Part::Mcp { file: folder.join("config.toml"), server },
    ];
    parts.extend(texts::COMMANDS.iter().map(|text| Part::Own {
        kind: Kind::Commands,
        file: folder.join("skills").join(text.name).join("SKILL.md"),
        text: texts::codex(text),
    }));
    Some(Target {
        name: "codex",
        title: "Codex CLI",
        program: "codex",
        folder,
        parts,
        shared: None,
        first: Some(
            "Codex runs hooks only once you trust them: start codex and type /hooks; its commands are $handoff and \
             $continue-locally",
        ),
    })
}

fn gemini(env: &Env, words: &[String]) -> Option<Target> {
    let above = variable(env, "GEMINI_CLI_HOME").or_else(|| user_home(env))?;
    let folder = above.join(".gemini");
    let server = Server::Json {
        keys: ["mcpServers", "baton"],
        program: json!({"command": words.first(), "args": with(words.get(1..)?, &["mcp"])}),
        more: json!({"timeout": TOOL_PATIENCE * 1000}),
    };
    let mut parts = vec![
        Part::Hooks {
            file: folder.join("settings.json"),
            events: &["SessionStart", "BeforeAgent", "AfterAgent", "SessionEnd"],
            // This one counts in milliseconds.
            handler: handler(words, "gemini", PATIENCE * 1000),
        },
        Part::Mcp { file: folder.join("settings.json"), server },
    ];
    parts.extend(texts::COMMANDS.iter().map(|text| Part::Own {
        kind: Kind::Commands,
        file: folder.join("commands").join(format!("{}.toml", text.name)),
        text: texts::gemini(text),
    }));
    Some(Target {
        name: "gemini",
        title: "Gemini CLI",
        program: "gemini",
        folder,
        parts,
        shared: None,
        first: None,
    })
}

fn opencode(env: &Env, words: &[String]) -> Option<Target> {
    let folder = variable(env, "OPENCODE_CONFIG_DIR")
        .or_else(|| Some(variable(env, "XDG_CONFIG_HOME")?.join("opencode")))
        .or_else(|| Some(user_home(env)?.join(".config/opencode")))?;
    let own = ["opencode.jsonc", "opencode.json", "config.json"].map(|name| folder.join(name));
    let file = own.iter().find(|file| file.exists()).unwrap_or(own.get(1)?).clone();
    let server = Server::Json {
        keys: ["mcp", "baton"],
        program: json!({"command": with(words, &["mcp"])}),
        more: json!({"type": "local", "enabled": true}),
    };
    let mut parts = vec![
        Part::Own {
            kind: Kind::Hooks,
            file: folder.join("plugins/baton.js"),
            text: texts::plugin(&with(words, &["agent", "hook", "opencode"])),
        },
        Part::Mcp { file, server },
    ];
    parts.extend(texts::COMMANDS.iter().map(|text| Part::Own {
        kind: Kind::Commands,
        file: folder.join("commands").join(format!("{}.md", text.name)),
        text: texts::opencode(text),
    }));
    Some(Target {
        name: "opencode",
        title: "OpenCode",
        program: "opencode",
        folder,
        parts,
        shared: None,
        first: None,
    })
}

/// What a new table of Codex has beside the program and its arguments.
pub(super) fn more_of_table() -> [(&'static str, toml_edit::Value); 2] {
    let passed = PASSED.into_iter().collect();
    let patience = i64::try_from(TOOL_PATIENCE).unwrap_or(i64::MAX);
    [("env_vars", passed), ("tool_timeout_sec", patience.into())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_shell_has_the_words_and_nothing_else() {
        let words = ["/a b/baton", "--home", "/x'y$z", "agent", ""].map(str::to_owned);
        assert_eq!(line(&words), r"'/a b/baton' --home '/x'\''y$z' agent ''");
        assert_eq!(line(&["/usr/bin/baton".to_owned()]), "/usr/bin/baton");
    }
}
