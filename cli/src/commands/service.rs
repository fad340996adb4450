//! `baton service`: the daemon, or a cloud node, starts with the machine.
//!
//! - [`systemd`]: the text of a user unit
//! - [`launchd`]: the text of a launch agent
//!
//! Where the service manager cannot be reached from here, as in a container or over `su`, the file is
//! written all the same and what is left to type is said.
//!
//! **Invariant:** a file that somebody else wrote, or that belongs to another home, is left alone.

mod systemd;
mod launchd;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use baton_store::fs;
use serde::Serialize;

use crate::connect;
use crate::error::{CONFLICT, CliError};
use crate::report::{Report, Style, figures};
use crate::session::Session;

/// The daemon starts with the machine.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Writes a systemd user unit, or a launch agent, and starts it.
    Install {
        /// A cloud node that also runs while nobody is logged in.
        #[arg(long)]
        serve: bool,
    },
    /// Stops it and takes the file away.
    Remove,
}

/// What is started.
struct Plan<'a> {
    program: &'a Path,
    /// `--home`, where one was named.
    home: Option<&'a Path>,
    /// What tells whose file it is.
    owner: &'a Path,
    /// Where programs of runs are looked up.
    path: &'a std::ffi::OsStr,
    serve: bool,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Answer {
    /// How the service manager calls it.
    service: String,
    /// The file.
    path: String,
    /// Whether the file is there, as it should be.
    installed: bool,
    /// Whether it starts with the machine, or the login; null where that cannot be told.
    enabled: Option<bool>,
    /// Whether it runs now.
    started: Option<bool>,
    /// Whether it runs while nobody is logged in; null where that does not matter, or cannot be told.
    linger: Option<bool>,
    /// What this command wrote.
    written: Vec<String>,
    /// What it took away.
    removed: Vec<String>,
    /// What is left to type.
    todo: Vec<String>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    session.refuse_remote("service")?;
    let manager = Manager::of(session)?;
    let answer = match args.what {
        What::Install { serve } => install(session, &manager, serve)?,
        What::Remove => remove(session, &manager)?,
    };
    session.report.answer(&answer, |text| show(&session.report, text, &answer))?;
    Ok(0)
}

/// Who starts services for this user.
enum Manager {
    Systemd(PathBuf),
    Launchd(PathBuf),
}

impl Manager {
    fn of(session: &Session) -> Result<Self, CliError> {
        let none = |what: &str| {
            CliError::new("no-home", format!("{what} is not set: there is no place for the file"))
                .hint("set HOME and try again")
        };
        if cfg!(target_os = "macos") {
            let home = session.env.git_user.home.as_ref().ok_or_else(|| none("HOME"))?;
            return Ok(Self::Launchd(home.join("Library/LaunchAgents").join(launchd::FILE)));
        }
        let config = session.env.config_dir.as_ref();
        let config = config.ok_or_else(|| none("neither HOME nor XDG_CONFIG_HOME"))?;
        Ok(Self::Systemd(config.join("systemd/user").join(systemd::UNIT)))
    }

    const fn file(&self) -> &PathBuf {
        match self {
            Self::Systemd(path) | Self::Launchd(path) => path,
        }
    }

    const fn service(&self) -> &'static str {
        match self {
            Self::Systemd(_) => systemd::UNIT,
            Self::Launchd(_) => launchd::LABEL,
        }
    }

    fn text(&self, plan: &Plan<'_>) -> String {
        match self {
            Self::Systemd(_) => systemd::text(plan),
            Self::Launchd(_) => launchd::text(plan),
        }
    }

    /// What makes it start with the machine, and now; `restart` where it may run already.
    fn start(&self, restart: bool) -> Vec<Vec<String>> {
        match self {
            Self::Systemd(_) => {
                let mut all = vec![words("systemctl --user daemon-reload")];
                all.push(words(&format!("systemctl --user enable {}", systemd::UNIT)));
                let verb = if restart { "restart" } else { "start" };
                all.push(words(&format!("systemctl --user {verb} {}", systemd::UNIT)));
                all
            }
            Self::Launchd(path) => {
                let mut load = words(&format!("launchctl bootstrap gui/{}", user_id()));
                load.push(path.to_string_lossy().into_owned());
                let mut all = Vec::new();
                if restart {
                    all.push(words(&format!(
                        "launchctl bootout gui/{}/{}",
                        user_id(),
                        launchd::LABEL
                    )));
                }
                all.push(load);
                all
            }
        }
    }

    fn stop(&self) -> Vec<Vec<String>> {
        match self {
            Self::Systemd(_) => {
                vec![words(&format!("systemctl --user disable --now {}", systemd::UNIT))]
            }
            Self::Launchd(_) => {
                vec![words(&format!("launchctl bootout gui/{}/{}", user_id(), launchd::LABEL))]
            }
        }
    }

    /// Whether the service manager of this user answers.
    fn answers(&self) -> bool {
        match self {
            Self::Systemd(_) => said(&words("systemctl --user show-environment")).is_some(),
            Self::Launchd(_) => {
                said(&words(&format!("launchctl print gui/{}", user_id()))).is_some()
            }
        }
    }
}

fn install(session: &Session, manager: &Manager, serve: bool) -> Result<Answer, CliError> {
    let env = &session.env;
    let program = std::env::current_exe().map_err(|error| {
        CliError::caused("service", "cannot tell where this program is", &error)
            .hint("call it by its absolute path")
    })?;
    let plan = Plan {
        program: &program,
        home: env.home_dir.as_deref(),
        owner: &env.home.state_dir,
        path: env.inherited.path(),
        serve,
    };
    let text = manager.text(&plan);
    let path = manager.file();
    let before = read_own(path, &plan)?;
    let mut answer = Answer { installed: true, ..named(manager) };
    let changed = before.as_deref() != Some(text.as_bytes());
    if changed {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| failed(&error))?;
        }
        fs::write_atomic(path, text.as_bytes(), 0o644).map_err(|error| failed(&error))?;
        answer.written.push(answer.path.clone());
    }
    let commands = manager.start(before.is_some() && changed);
    if manager.answers() {
        // One that a command started has the home; it gives way unless it is at work.
        let room = match connect::ping(env) {
            Ok(Some(daemon)) if before.is_none() && !daemon.serving => {
                connect::stop(env, true).map(drop)
            }
            _ => Ok(()),
        };
        match room {
            Ok(()) => carry_out(&commands, &mut answer)?,
            Err(CliError::Failed(busy)) => {
                let (start, others) =
                    commands.split_last().map_or((None, &[][..]), |(a, b)| (Some(a), b));
                carry_out(others, &mut answer)?;
                answer.started = Some(false);
                answer.todo.extend(start.map(|start| start.join(" ")));
                session.report.note(&format!("{}; it is started by hand after that", busy.message));
            }
            Err(error) => return Err(error),
        }
    } else {
        answer.todo.extend(commands.iter().map(|command| command.join(" ")));
    }
    if serve && matches!(manager, Manager::Systemd(_)) {
        let show = format!("loginctl show-user {} --property=Linger --value", user_id());
        let linger = said(&words(&show)).map(|text| text.trim() == "yes");
        answer.linger = linger;
        if linger != Some(true) {
            answer.todo.push("loginctl enable-linger".to_owned());
        }
    }
    Ok(answer)
}

/// Runs commands of the service manager; the first that fails is said with what it said.
fn carry_out(commands: &[Vec<String>], answer: &mut Answer) -> Result<(), CliError> {
    for command in commands {
        let shown = command.join(" ");
        let ran = ran(command).map_err(|error| failed(&error))?;
        if !ran.status.success() {
            let why = String::from_utf8_lossy(&ran.stderr);
            let why = why.trim().lines().last().unwrap_or("it said nothing").to_owned();
            let what = format!("{shown}: {why}");
            return Err(CliError::new("service", what).hint(format!(
                "{} is written; systemctl --user status {} says more",
                answer.path, answer.service
            )));
        }
    }
    (answer.enabled, answer.started) = (Some(true), Some(true));
    Ok(())
}

fn remove(session: &Session, manager: &Manager) -> Result<Answer, CliError> {
    let mut answer = named(manager);
    let path = manager.file();
    let owner = &session.env.home.state_dir;
    let plan = Plan {
        program: Path::new(""),
        home: None,
        owner,
        path: std::ffi::OsStr::new(""),
        serve: false,
    };
    if read_own(path, &plan)?.is_none() {
        return Ok(answer);
    }
    let answers = manager.answers();
    if answers {
        for command in manager.stop() {
            // One that was never enabled or loaded cannot be stopped, and need not be.
            drop(ran(&command));
        }
    }
    fs::remove_file(path).map_err(|error| failed(&error))?;
    answer.removed.push(answer.path.clone());
    (answer.enabled, answer.started) = (Some(false), answers.then_some(false));
    if let Manager::Systemd(_) = manager {
        let reload = words("systemctl --user daemon-reload");
        if answers {
            drop(ran(&reload));
        } else {
            answer.todo.push(reload.join(" "));
        }
    }
    Ok(answer)
}

/// The same for who takes all of Baton away; names the file.
pub(super) fn take_away(session: &Session) -> Result<Vec<String>, CliError> {
    remove(session, &Manager::of(session)?).map(|answer| answer.removed)
}

/// What stands in the file; refused where it is not ours.
fn read_own(path: &Path, plan: &Plan<'_>) -> Result<Option<Vec<u8>>, CliError> {
    let Some(bytes) = fs::read_if_exists(path, 1 << 20).map_err(|error| failed(&error))? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&bytes);
    let mark = mark(plan.owner);
    if text.lines().any(|line| line.contains(&mark)) {
        return Ok(Some(bytes));
    }
    let what = match text.lines().find_map(|line| line.split_once(MARK)) {
        Some((_, other)) => format!("{} belongs to the home {}", path.display(), other.trim_end()),
        None => format!("{} was not written by baton", path.display()),
    };
    Err(CliError::new("service-exists", what)
        .hint("move that file away, or name its home with --home DIR")
        .exit(CONFLICT))
}

/// Stands before the home in a file of ours.
const MARK: &str = "Written by baton for the home ";

fn mark(owner: &Path) -> String {
    // On one line, whatever the path.
    format!("{MARK}{}", figures::one_line(&owner.to_string_lossy()).replace("--", "- -"))
}

fn named(manager: &Manager) -> Answer {
    let path = manager.file().to_string_lossy().into_owned();
    Answer { service: manager.service().to_owned(), path, ..Answer::default() }
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn ran(command: &[String]) -> std::io::Result<std::process::Output> {
    let (program, arguments) = command.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    Command::new(program).args(arguments).stdin(Stdio::null()).output()
}

/// What a command says on its standard output; nothing where it fails.
fn said(command: &[String]) -> Option<String> {
    let output = ran(command).ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn user_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn failed(error: &dyn std::error::Error) -> CliError {
    CliError::caused("service", "installing the service", error)
        .hint("baton daemon run, or baton serve, from a unit of your own")
}

fn show(report: &Report, to: &mut String, answer: &Answer) {
    let (service, path) = (figures::one_line(&answer.service), figures::one_line(&answer.path));
    if answer.installed {
        let word = report.paint(Style::Good, "installed");
        let state = match (answer.enabled, answer.started) {
            (Some(true), Some(true)) => ", runs and starts with the machine",
            (Some(true), _) => ", starts with the machine",
            _ => "",
        };
        let _ = writeln!(to, "{word} {service}{state}  {path}");
    } else if answer.removed.is_empty() {
        let _ = writeln!(to, "{service} is not installed");
    } else {
        let _ = writeln!(to, "{} {service}  {path}", report.paint(Style::Good, "removed"));
    }
    if answer.linger == Some(false) {
        to.push_str("it ends when you log out, until you let it linger\n");
    }
    for command in &answer.todo {
        let _ =
            writeln!(to, "{} {}", report.paint(Style::Name, "type:"), figures::one_line(command));
    }
}
