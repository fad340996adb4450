//! The only place that reads the environment: variables, the current folder, and whether somebody
//! looks at a terminal.
//!
//! Not here: what a home looks like inside; that is [`baton_daemon::home`].
//!
//! **Invariant:** everything else gets plain values, so that a test can give it others.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use baton_daemon::agents;
use baton_daemon::api::control::{AgentFolder, AgentFolders};
use baton_daemon::home::Home;
use baton_daemon::notify_socket::NotifySocket;
use baton_daemon::runs::environment::NodeEnvironment;
use baton_store::ignore::GitUser;

use crate::error::CliError;
use crate::workspace;

/// What the environment says.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact about the environment")]
pub(crate) struct Env {
    /// Where Baton keeps everything.
    pub home: Home,
    /// The one folder that `--home` or `BATON_HOME` named; a daemon that is started gets it too.
    pub home_dir: Option<PathBuf>,
    /// The current folder.
    pub cwd: PathBuf,
    /// Whether standard output may be coloured.
    pub colour_out: bool,
    /// Whether standard error may be coloured.
    pub colour_err: bool,
    /// Whether standard error is a terminal.
    pub terminal_err: bool,
    /// Whether a question can be asked.
    pub terminal_in: bool,
    /// `BATON_LOG`: what to log, in the syntax of `tracing`.
    pub log: Option<String>,
    /// `BATON_MESSAGES`: the newest version of the messages that is spoken with other machines, as an older program would;
    /// for tests of upgrades.
    pub messages: Option<String>,
    /// `BATON_RUN`: set inside a run.
    pub run: Option<String>,
    /// What runs on this machine inherit, where this process becomes a node.
    pub inherited: NodeEnvironment,
    /// Everything, for programs of the user that this process starts itself.
    pub variables: Variables,
    /// What git knows about the user.
    pub git_user: GitUser,
    /// Where git is.
    pub git: Option<PathBuf>,
    /// Folders of the user that runs must not see.
    pub private: Vec<PathBuf>,
    /// Where agents keep their conversations.
    pub agents: AgentFolders,
    /// Where programs are looked for.
    pub path: OsString,
    /// The folder of all programs' configurations; units of systemd are there, too.
    pub config_dir: Option<PathBuf>,
    /// The service manager that started this process.
    pub notify: Option<NotifySocket>,
}

/// Names and values, of which only the names are ever shown.
#[derive(Clone, Default)]
pub(crate) struct Variables(pub Vec<(OsString, OsString)>);

impl std::fmt::Debug for Variables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Env {
    /// Reads the environment of this process.
    #[expect(clippy::disallowed_methods, reason = "this is the environment seam")]
    pub(crate) fn read(home: Option<&Path>) -> Result<Self, CliError> {
        let cwd = std::env::current_dir().map_err(|error| {
            CliError::caused("no-current-folder", "cannot tell the current folder", &error)
                .hint("cd to a folder that exists")
        })?;
        let (out, err) = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        let env = Self::from_variables(
            |name| std::env::var_os(name),
            Terminals { input: std::io::stdin().is_terminal(), out, err },
            cwd,
            home,
        )?;
        let variables = Variables(std::env::vars_os().collect());
        Ok(Self { inherited: NodeEnvironment::new(std::env::vars_os()), variables, ..env })
    }

    fn from_variables(
        variable: impl Fn(&str) -> Option<OsString>,
        terminals: Terminals,
        cwd: PathBuf,
        home: Option<&Path>,
    ) -> Result<Self, CliError> {
        // One that is empty says nothing: joined to the current folder it would be that.
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home_dir = home
            .map(Path::to_owned)
            .or_else(|| variable("BATON_HOME").map(PathBuf::from))
            .map(|dir| cwd.join(dir));
        // The specification of the XDG folders wants relative ones ignored.
        let folder = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let below_home = |name, rest: &str| {
            folder(name).or_else(|| folder("HOME").map(|home| home.join(rest))).ok_or_else(|| {
                CliError::new("no-home", format!("neither HOME nor {name} is set"))
                    .hint("say where Baton keeps its data with --home DIR or BATON_HOME")
            })
        };
        let runtime = folder("XDG_RUNTIME_DIR").unwrap_or_else(|| {
            PathBuf::from(format!("/tmp/baton-{}", rustix::process::geteuid().as_raw()))
        });
        let home = match &home_dir {
            Some(dir) => Home::single(dir, &runtime),
            // The socket stays beside the state: in a runtime folder that two of these share, their
            // daemons would be one.
            None => Home {
                config_file: below_home("XDG_CONFIG_HOME", ".config")?.join("baton/config.toml"),
                ..Home::single(
                    &below_home("XDG_STATE_HOME", ".local/state")?.join("baton"),
                    &runtime,
                )
            },
        };
        let colour =
            variable("NO_COLOR").is_none() && variable("TERM").is_none_or(|term| term != "dumb");
        let text = |name| variable(name).and_then(|value| value.into_string().ok());
        let cwd_of_agents = cwd.clone();
        Ok(Self {
            home,
            home_dir,
            cwd,
            colour_out: colour && terminals.out,
            colour_err: colour && terminals.err,
            terminal_err: terminals.err,
            terminal_in: terminals.input,
            log: text("BATON_LOG"),
            messages: text("BATON_MESSAGES"),
            run: text("BATON_RUN"),
            inherited: NodeEnvironment::default(),
            variables: Variables::default(),
            git_user: git_user(folder),
            git: variable("PATH").and_then(|path| find_program("git", &path)),
            private: folder("HOME").into_iter().collect(),
            agents: agent_folders(&variable, &cwd_of_agents),
            path: variable("PATH").unwrap_or_default(),
            config_dir: below_home("XDG_CONFIG_HOME", ".config").ok(),
            notify: variable("NOTIFY_SOCKET").and_then(|value| NotifySocket::new(&value)),
        })
    }
}

/// The folder of each agent: the one that its variable names, or the one in the home.
fn agent_folders(variable: &impl Fn(&str) -> Option<OsString>, cwd: &Path) -> AgentFolders {
    let home = variable("HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let folders = agents::ALL.into_iter().filter_map(|agent| {
        let below = |folder: PathBuf| match agent.below_variable() {
            "" => folder,
            name => folder.join(name),
        };
        let named = variable(agent.folder_variable()).map(|folder| below(cwd.join(folder)));
        let path = named.or_else(|| Some(home.as_ref()?.join(agent.default_folder())))?;
        Some(AgentFolder { agent: agent.name().to_owned(), path: workspace::bytes(path) })
    });
    AgentFolders { folders: folders.collect(), home: home.as_ref().map(workspace::bytes) }
}

/// Where git looks for the user's own ignore rules.
fn git_user(folder: impl Fn(&'static str) -> Option<PathBuf>) -> GitUser {
    let home = folder("HOME");
    let config = folder("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
    let mut config_files = vec![PathBuf::from("/etc/gitconfig")];
    config_files.extend(config.as_ref().map(|config| config.join("git/config")));
    config_files.extend(home.as_ref().map(|home| home.join(".gitconfig")));
    let excludes_file = config.map(|config| config.join("git/ignore"));
    GitUser { home, config_files, excludes_file }
}

/// A program of the search path; relative folders of it are passed over.
fn find_program(name: &str, path: &OsStr) -> Option<PathBuf> {
    let found = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    found.map(|folder| folder.join(name)).find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

/// Which standard streams are terminals.
#[derive(Clone, Copy, Default)]
struct Terminals {
    input: bool,
    out: bool,
    err: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(variables: &[(&str, &str)], home: Option<&str>) -> Result<Env, CliError> {
        Env::from_variables(
            |name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
            },
            Terminals { out: true, err: true, input: true },
            "/here".into(),
            home.map(Path::new),
        )
    }

    #[test]
    fn the_flag_beats_the_variable_and_both_are_made_absolute() {
        let of = |variables: &[_], home| env(variables, home).unwrap().home_dir;
        let set = [("BATON_HOME", "/b"), ("HOME", "/h")];
        assert_eq!(of(&set, Some("/f")), Some("/f".into()));
        assert_eq!(of(&set, None), Some("/b".into()));
        assert_eq!(of(&[("BATON_HOME", "b")], None), Some("/here/b".into()));
        assert_eq!(of(&[("HOME", "/h")], None), None);
    }

    #[test]
    fn an_empty_variable_makes_the_current_folder_nobodys() {
        let set = [
            ("HOME", "/h"),
            ("CODEX_HOME", ""),
            ("CLAUDE_CONFIG_DIR", "c"),
            ("GEMINI_CLI_HOME", "/g"),
            ("XDG_DATA_HOME", "/d"),
        ];
        let agents = env(&set, Some("/f")).unwrap().agents;
        let folders: Vec<_> =
            agents.folders.iter().map(|it| (it.agent.as_str(), it.path.0.as_slice())).collect();
        let expected = [
            ("claude", b"/here/c".as_slice()),
            ("codex", b"/h/.codex"),
            ("gemini", b"/g/.gemini"),
            ("opencode", b"/d/opencode"),
        ];
        assert_eq!(folders, expected);
        assert_eq!(env(&[("HOME", "/h"), ("BATON_HOME", "")], None).unwrap().home_dir, None);
    }

    #[test]
    fn xdg_folders_hold_what_no_home_was_named_for() {
        let read = env(&[("HOME", "/h"), ("XDG_STATE_HOME", "relative")], None).unwrap();
        assert_eq!(read.home.config_file, Path::new("/h/.config/baton/config.toml"));
        assert_eq!(read.home.state_dir, Path::new("/h/.local/state/baton"));
        let moved = [("XDG_CONFIG_HOME", "/c"), ("XDG_STATE_HOME", "/s")];
        let read = env(&moved, None).unwrap();
        assert_eq!(read.home.config_file, Path::new("/c/baton/config.toml"));
        assert_eq!(read.home.state_dir, Path::new("/s/baton"));
    }

    #[test]
    fn two_users_folders_never_share_a_socket() {
        let socket = |home: &str| {
            env(&[("HOME", home), ("XDG_RUNTIME_DIR", "/run/user/0")], None).unwrap().home.socket
        };
        let long = format!("/{}", "x".repeat(120));
        assert_ne!(socket("/a"), socket("/b"));
        assert_ne!(socket(&long), socket(&format!("{long}y")));
        assert!(socket(&long).starts_with("/run/user/0"));
    }

    #[test]
    fn without_any_folder_the_error_says_what_to_set() {
        let error = env(&[], None).unwrap_err();
        assert!(error.is("no-home"), "{error:?}");
    }

    #[test]
    fn no_color_and_a_dumb_terminal_hold() {
        let colour = |variables: &[_]| env(variables, Some("/f")).unwrap().colour_out;
        assert!(colour(&[]));
        assert!(!colour(&[("NO_COLOR", "1")]));
        assert!(!colour(&[("TERM", "dumb")]));
    }
}
