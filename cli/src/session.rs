//! One command at work: what was said on the command line for all commands, and the way to ask
//! the daemon.
//!
//! **Invariant:** a command asks the daemon only through [`Session::call`], so that notes, progress,
//! output and a daemon of another version are treated alike everywhere.

use std::path::{Path, PathBuf};
use std::time::Duration;

use baton_daemon::api::control::{Answer, Bytes, Command, Event};
use baton_daemon::api::socket::{CallError, ControlClient, Events, OTHER_VERSION};

use crate::connect;
use crate::detach::Detach;
use crate::env::Env;
use crate::error::CliError;
use crate::progress::Meter;
use crate::report::Report;
use crate::workspace;

/// Code of the failure of a daemon that ended in the middle.
const GONE: &str = "daemon-gone";

/// How often it is asked again, and how long after.
const AGAIN: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// How long nobody waits: `Ctrl-C` needs no word until then.
const SOON: Duration = Duration::from_millis(50);

/// What is done while the answer does not come.
struct Waiting<'a> {
    detach: Option<&'a Detach>,
    accepted: &'a dyn Fn(&str),
}

/// One command at work.
pub(crate) struct Session {
    pub env: Env,
    pub report: Report,
    /// `--remote`.
    pub remote: Option<String>,
    /// The definition of the command line, for what describes it.
    pub definition: fn() -> clap::Command,
}

impl Session {
    /// Asks the daemon, which is started where it does not run, and passes on what it says
    /// meanwhile.
    pub(crate) fn call(&self, command: &Command) -> Result<Answer, CliError> {
        self.call_for(command, None, |_| {})
    }

    /// The same; where somebody has to wait for it, `detach` is armed, and `accepted` hears the id by which
    /// what was asked for can be cancelled.
    pub(crate) fn call_for(
        &self,
        command: &Command,
        detach: Option<&Detach>,
        accepted: impl Fn(&str),
    ) -> Result<Answer, CliError> {
        let waiting = Waiting { detach, accepted: &accepted };
        match self.ask(connect::open(&self.env)?, command, &waiting) {
            Err(error) if error.is(OTHER_VERSION) => {
                connect::replace(&self.env)?;
                self.ask(connect::open(&self.env)?, command, &waiting)
            }
            Err(error) if error.is(GONE) && command.may_be_repeated() => {
                self.ask_again(command, &waiting, error)
            }
            answer => answer,
        }
    }

    /// A daemon that was killed takes a moment to close its socket, and lets callers in until then: what
    /// does no harm twice is asked of the next one.
    fn ask_again(
        &self,
        command: &Command,
        waiting: &Waiting<'_>,
        mut error: CliError,
    ) -> Result<Answer, CliError> {
        for _ in 0..AGAIN {
            std::thread::sleep(PAUSE);
            match self.ask(connect::open(&self.env)?, command, waiting) {
                Err(again) if again.is(GONE) => error = again,
                answer => return answer,
            }
        }
        Err(error)
    }

    fn ask(
        &self,
        client: ControlClient,
        command: &Command,
        waiting: &Waiting<'_>,
    ) -> Result<Answer, CliError> {
        let meter = Meter::new(self.env.terminal_err);
        let mut events = client.call(command)?;
        while let Some(event) = next(&mut events, waiting.detach)? {
            match event {
                Event::Progress(progress) => meter.update(&progress),
                Event::Accepted { queue } => (waiting.accepted)(&queue),
                Event::Note { message } => {
                    meter.clear();
                    self.report.note(&message);
                }
                Event::Line(line) => {
                    meter.clear();
                    self.report.log_line(&line)?;
                    if !events.has_more() {
                        self.report.flush()?;
                    }
                }
                Event::Done(answer) => return Ok(*answer),
                Event::Failed(failure) => return Err(failure.into()),
            }
        }
        Err(CallError::Ended.into())
    }

    /// The root of the workspace that a PATH argument means.
    pub(crate) fn workspace(&self, path: Option<&Path>) -> Result<Bytes, CliError> {
        workspace::root(path, &self.env.cwd).map(|root| workspace::bytes(&root))
    }

    /// The same for a command that also makes sense of a folder that is gone.
    pub(crate) fn workspace_or_gone(&self, path: Option<&Path>) -> Result<Bytes, CliError> {
        match (self.workspace(path), path) {
            (Err(error), Some(path)) if error.is("no-such-folder") => {
                Ok(workspace::bytes(self.absolute(path)))
            }
            (found, _) => found,
        }
    }

    /// An absolute path.
    pub(crate) fn absolute(&self, path: &Path) -> PathBuf {
        workspace::absolute(path, &self.env.cwd)
    }

    /// Refuses `--remote` for a command that is about this home only.
    pub(crate) fn refuse_remote(&self, command: &str) -> Result<(), CliError> {
        match &self.remote {
            None => Ok(()),
            Some(_) => Err(CliError::usage(format!(
                "`baton {command}` is about this machine's own node; --remote has no meaning here"
            ))
            .hint(format!("type `baton {command}` on the machine of that node"))),
        }
    }
}

/// The next event; where it is not the last, or is not there soon, somebody waits.
fn next(events: &mut Events, detach: Option<&Detach>) -> Result<Option<Event>, CallError> {
    let arm = || detach.iter().for_each(|detach| detach.arm());
    if detach.is_some() && !events.is_near(SOON) {
        arm();
    }
    let event = events.next().transpose()?;
    if !matches!(event, Some(Event::Done(_) | Event::Failed(_))) {
        arm();
    }
    Ok(event)
}

/// An id as typed: upper case and blanks around it do not matter.
pub(crate) fn id(typed: &str) -> String {
    typed.trim().to_ascii_lowercase()
}

/// The answer of the kind that belongs to the question.
macro_rules! expect_answer {
    ($answer:expr, $kind:ident) => {
        match $answer {
            baton_daemon::api::control::Answer::$kind(answer) => answer,
            _ => return Err($crate::error::CliError::unexpected()),
        }
    };
}
pub(crate) use expect_answer;
