//! `baton handoff`: the tree goes to a node, and a run starts there.
//!
//! **Invariant:** what this version cannot do is refused before anything is asked of the daemon.

mod which;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use baton_daemon::api::control::{
    Answer, Bytes, Command, ConversationChoice, HandoffAnswer, HandoffCall,
};
use baton_daemon::environments::file::PATH;
use baton_daemon::environments::key::Suggestion;
use baton_protocol::message::{MAX_CHECK, MAX_COMMAND, MAX_PROMPT, Permissions, Terms};
use baton_store::fs;

use super::{push, restore, run};
use crate::detach::Detach;
use crate::error::{CliError, QUEUED};
use crate::report::{Report, Style, figures};
use crate::session::{Session, expect_answer};
use crate::workspace;

const EXAMPLES: &str = "\
Examples:
  baton handoff -p 'make the tests pass'            the tree and its conversation, and the agent goes on there
  baton handoff --agent claude --agent codex -p …   an attempt of each
  baton handoff -- make test                        the tree, and a run of `make test` there
  baton handoff -f -- ./bench.sh                    and follow its output
  baton handoff --variants 3 --check 'make test' -p 'make it fast' -- ./agent.sh
  baton handoff --attach notes.md -p 'see notes' -- ./agent.sh
  baton handoff                                     only the tree";

/// Hands the tree to a node, and starts a run of COMMAND there.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The workspace [default: the current folder, inside a git worktree its root].
    path: Option<PathBuf>,
    /// What to do; the program finds it in BATON_PROMPT. `-` reads it from stdin. Each further one makes a run of its
    /// own.
    #[arg(short, long, value_name = "PROMPT", allow_hyphen_values = true)]
    prompt: Vec<String>,
    /// The same from a file.
    #[arg(long, value_name = "F", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// The agent that does the work, such as `claude`, `codex` or `gemini`, or one of the node's own; `command` runs COMMAND. Each
    /// further one makes a run of its own. Unless said it is the one whose conversation travels, or the configured one.
    #[arg(long, value_name = "A")]
    agent: Vec<String>,
    /// How many attempts at once, each a run of its own.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    variants: Option<u32>,
    /// A file to take along, into the folder BATON_ATTACHMENTS; may be given more than once.
    #[arg(long, value_name = "FILE")]
    attach: Vec<PathBuf>,
    /// Which conversation of an agent travels: `auto` for the only one of the workspace or the one that is at work, `none`,
    /// or an id of `baton agent list` [default: auto; none with a COMMAND, which has no use for it].
    #[arg(long, value_name = "auto|none|ID")]
    conversation: Option<String>,
    /// The conversation in which this is asked for: where `auto` finds several, it is that one.
    #[arg(long, value_name = "ID", hide = true)]
    speaks: Option<String>,
    /// How long it may wait for the network; later it is not started, but reported [default: 7days].
    #[arg(long, value_name = "D", value_parser = duration)]
    expires: Option<Duration>,
    #[command(flatten)]
    terms: TermsArgs,
    /// Say what would travel; a snapshot is kept here, and nothing changes on the node.
    #[arg(long)]
    dry_run: bool,
    /// Follow the output of the run.
    #[arg(short, long)]
    follow: bool,
    /// Hand off from inside a run all the same.
    #[arg(long)]
    nested: bool,
    /// The program and its arguments, never through a shell.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// How a run is to be treated.
#[derive(Debug, clap::Args)]
pub(super) struct TermsArgs {
    /// Run CMD, by `sh -c`, in the run's checkout when its program has ended; `baton runs` shows whether it passed, and
    /// what it changes is not in the result.
    #[arg(long, value_name = "CMD", value_parser = check)]
    check: Option<String>,
    /// End the run when it takes longer; where the node allows less, that holds.
    #[arg(long, value_name = "D", value_parser = duration)]
    timeout: Option<Duration>,
    /// Give the program an empty standard input, instead of one that stays open for `baton say`.
    #[arg(long, conflicts_with = "input")]
    no_input: bool,
    /// Keep the standard input open for `baton say`, also where the node is set up otherwise.
    #[arg(long)]
    input: bool,
    /// The model that the agent asks, by the agent's own name of it.
    #[arg(long, value_name = "M", value_parser = model)]
    model: Option<String>,
    /// What the agent may do unasked, which is never more than the node allows.
    #[arg(long, value_name = "ask|edits|all", value_parser = permissions)]
    permissions: Option<Permissions>,
}

impl TermsArgs {
    pub(super) fn terms(&self) -> Terms {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Terms {
            check: self.check.clone(),
            timeout_ms: self.timeout.map(milliseconds),
            input: (self.input || self.no_input).then_some(self.input),
            model: self.model.clone(),
            permissions: self.permissions,
        }
    }
}

fn model(text: &str) -> Result<String, String> {
    match text {
        text if text.trim().is_empty() => Err("there is no name".to_owned()),
        // It would be taken for an option of the agent's program.
        text if text.starts_with('-') => Err("a name does not begin with '-'".to_owned()),
        text if text.chars().any(char::is_control) => Err("it has a control character".to_owned()),
        text => Ok(text.to_owned()),
    }
}

fn permissions(text: &str) -> Result<Permissions, String> {
    match text {
        "ask" => Ok(Permissions::Ask),
        "edits" => Ok(Permissions::Edits),
        "all" => Ok(Permissions::All),
        _ => Err("ask, edits or all".to_owned()),
    }
}

fn check(text: &str) -> Result<String, String> {
    match text {
        text if text.trim().is_empty() => Err("there is nothing to run".to_owned()),
        text if text.len() > MAX_CHECK => Err(format!("it is longer than {MAX_CHECK} bytes")),
        text => Ok(text.to_owned()),
    }
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    refuse_what_cannot_be(args)?;
    if let Some(run) = session.env.run.as_deref().filter(|_| !args.nested) {
        let run = figures::one_line(run);
        return Err(CliError::new("nested", format!("this is inside the run {run} already"))
            .hint("add --nested to hand off from inside a run"));
    }
    let prompts = match (args.prompt.as_slice(), &args.prompt_file) {
        ([], None) => Vec::new(),
        ([], Some(file)) => vec![prompt(None, Some(file))?],
        (several, _) => {
            several.iter().map(|text| prompt(Some(text), None)).collect::<Result<_, _>>()?
        }
    };
    let call = call(session, args, prompts)?;
    let root = PathBuf::from(OsString::from_vec(call.path.0.clone()));
    let detach = Detach::later("the handoff goes on in the daemon; see it with: baton runs");
    let hand = |call: &HandoffCall| {
        let command = Command::Handoff(Box::new(call.clone()));
        session.call_for(&command, Some(&detach), |queue| {
            detach.say(push::goes_on("handoff", queue));
        })
    };
    let answer = match hand(&call) {
        Err(error) if which::can_ask(session, &error) => {
            match which::ask(session, &root)? {
                // Nothing was sent before that was clear.
                Some(choice) => hand(&HandoffCall { conversation: choice, ..call })?,
                None => return Err(error),
            }
        }
        answer => answer?,
    };
    let handoff = expect_answer!(answer, Handoff);
    session.report.answer(&handoff, |text| show(&session.report, text, &handoff))?;
    if !session.report.json() && !handoff.runs.is_empty() {
        suggest_environment(session, &root);
    }
    if handoff.state == "acked" {
        push::closable(session, handoff.timing_ms.total);
    }
    let started = handoff.runs.first().filter(|_| args.follow && handoff.state == "acked");
    if let Some(started) = started {
        detach.say(run::goes_on(&started.run));
        detach.arm();
        let command = Command::RunLogs { run: started.run.clone(), follow: true };
        session.call(&command)?;
        let command = Command::RunShow { run: started.run.clone() };
        if !session.report.json()
            && let Answer::Run(ended) = session.call(&command)?
        {
            session.report.note(&run::ended(&Report::new(false, None), &ended));
        }
    }
    Ok(if handoff.state == "queued" { QUEUED } else { 0 })
}

/// Where runs could find installed what a file of the tree pins, and nothing says so.
fn suggest_environment(session: &Session, root: &Path) {
    let has = |name: &str| root.join(name).symlink_metadata().is_ok();
    if let Some(suggestion) = Suggestion::new(has).filter(|_| !has(PATH)) {
        session.report.note(&suggestion.text());
    }
}

fn refuse_what_cannot_be(args: &Args) -> Result<(), CliError> {
    let prompted = !args.prompt.is_empty() || args.prompt_file.is_some();
    let is_nothing = args.command.is_empty() && !prompted;
    let count = args.variants.map_or(1, |count| count as usize);
    let pass = "pass a program: baton handoff -- COMMAND…";
    for agent in &args.agent {
        let name = figures::one_line(agent);
        match (agent.as_str(), args.command.is_empty()) {
            ("command", true) => {
                return Err(CliError::usage("the agent `command` needs a command").hint(pass));
            }
            ("command", false) => {}
            (_, false) => {
                return Err(CliError::usage(format!("{name} takes a prompt and no command"))
                    .hint("either --agent A -p PROMPT, or -- COMMAND…"));
            }
            (_, true) if !prompted => {
                return Err(CliError::usage(format!("there is nothing for {name} to do"))
                    .hint("say what: -p PROMPT, or --prompt-file F"));
            }
            (_, true) => {}
        }
    }
    if count > 1 && is_nothing {
        return Err(CliError::usage("there is nothing to run in several variants")
            .hint("say what to do: -p PROMPT for an agent, or a program: -- COMMAND…"));
    }
    let runs = count.max(args.prompt.len()).max(args.agent.len());
    for (number, of) in [(args.prompt.len(), "prompts"), (args.agent.len(), "agents")] {
        if number > 1 && number != runs {
            let what = format!("{runs} runs, and {number} {of}");
            return Err(CliError::usage(what).hint("give one for all, or one for each"));
        }
    }
    if args.follow && runs > 1 {
        return Err(CliError::usage("only one run can be followed")
            .hint("leave out -f, then baton logs RUN -f"));
    }
    if args.follow && is_nothing {
        return Err(CliError::usage("there is no run to follow without something to do")
            .hint("say what to do: -p PROMPT for an agent, or a program: -- COMMAND…"));
    }
    check_command(&args.command)
}

/// Refuses what no program can be given.
pub(super) fn check_command(command: &[OsString]) -> Result<(), CliError> {
    let length: usize = command.iter().map(|argument| argument.len()).sum();
    if length > MAX_COMMAND {
        return Err(CliError::usage(format!("the command is longer than {MAX_COMMAND} bytes"))
            .hint("put it into a script in the workspace"));
    }
    Ok(())
}

/// What the user asked, from the flag, a file or stdin.
pub(super) fn prompt(text: Option<&str>, file: Option<&Path>) -> Result<String, CliError> {
    let too_long = || {
        CliError::usage(format!("the prompt is longer than {MAX_PROMPT} bytes"))
            .hint("pass long text as a file: --attach FILE")
    };
    let bytes = match (text, file) {
        (Some("-"), _) | (None, None) => read_bounded(std::io::stdin().lock())?,
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(file)) if file == Path::new("-") => read_bounded(std::io::stdin().lock())?,
        (None, Some(file)) => fs::open(file)
            .map_err(|error| {
                CliError::caused("prompt-file", "the prompt cannot be read", &error)
                    .hint("name a text file, or use -p PROMPT")
            })
            .and_then(read_bounded)?,
    };
    if bytes.len() > MAX_PROMPT {
        return Err(too_long());
    }
    let text = String::from_utf8(bytes).map_err(|_| {
        CliError::usage("the prompt is not UTF-8 text").hint("pass it as a file: --attach FILE")
    })?;
    if text.trim().is_empty() {
        return Err(
            CliError::usage("the prompt is empty").hint("baton handoff -p PROMPT -- COMMAND…")
        );
    }
    Ok(text)
}

/// At most one byte more than a prompt may have.
fn read_bounded(from: impl Read) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    from.take(MAX_PROMPT as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| CliError::caused("input", "reading the prompt", &error))?;
    Ok(bytes)
}

/// Files to take along, which must be there.
pub(super) fn attachments(session: &Session, files: &[PathBuf]) -> Result<Vec<Bytes>, CliError> {
    let mut attachments = Vec::with_capacity(files.len());
    for file in files {
        let path = session.absolute(file);
        let found = std::fs::metadata(&path).map_err(|error| {
            let what = format!("{} cannot be attached", figures::one_line(&file.to_string_lossy()));
            CliError::caused("attachment", &what, &error).hint("name a file that exists")
        })?;
        if !found.is_file() {
            let name = figures::one_line(&file.to_string_lossy());
            return Err(CliError::new(
                "attachment",
                format!("{name} cannot be attached: not a file"),
            )
            .hint("attach files one by one, or put the folder into the workspace"));
        }
        attachments.push(workspace::bytes(&path));
    }
    Ok(attachments)
}

fn call(session: &Session, args: &Args, prompts: Vec<String>) -> Result<HandoffCall, CliError> {
    Ok(HandoffCall {
        path: session.workspace(args.path.as_deref())?,
        remote: session.remote.clone(),
        prompts,
        variants: args.variants.unwrap_or(1),
        command: args.command.iter().map(workspace::bytes).collect(),
        attachments: attachments(session, &args.attach)?,
        expires_ms: args.expires.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        dry_run: args.dry_run,
        terms: args.terms.terms(),
        by: args.agent.clone(),
        conversation: conversation(args.conversation.as_deref())?,
        speaks: args.speaks.clone(),
        agents: session.env.agents.clone(),
    })
}

/// Fewest digits by which a conversation can be named.
const LEAST_DIGITS: usize = 8;

fn conversation(said: Option<&str>) -> Result<ConversationChoice, CliError> {
    let is_id = |text: &str| {
        text.len() >= LEAST_DIGITS && text.bytes().all(|it| it.is_ascii_hexdigit() || it == b'-')
    };
    // Some agents say first of what kind an id is, and tell small letters from large ones.
    let is_kind = |text: &str| {
        text.split_once('_').is_some_and(|(kind, rest)| {
            let is_plain = |text: &str| text.bytes().all(|it| it.is_ascii_alphanumeric());
            !kind.is_empty() && rest.len() >= LEAST_DIGITS && is_plain(kind) && is_plain(rest)
        })
    };
    match said {
        None => Ok(ConversationChoice::Unsaid),
        Some("auto") => Ok(ConversationChoice::Auto),
        Some("none") => Ok(ConversationChoice::None),
        Some(id) if is_id(id) => Ok(ConversationChoice::Id(id.to_ascii_lowercase())),
        Some(id) if is_kind(id) => Ok(ConversationChoice::Id(id.to_owned())),
        Some(other) => {
            let what = format!("{} is no id of a conversation", figures::one_line(other));
            Err(CliError::usage(what).hint("baton agent list shows them; or auto, or none"))
        }
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; expected such as 30m, 12h or 3days"))
}

fn show(report: &Report, to: &mut String, handoff: &HandoffAnswer) {
    let word = match handoff.state.as_str() {
        "dry-run" => "would hand off",
        "queued" => "queued",
        _ => "handed off",
    };
    let _ = write!(
        to,
        "{} {}  {}, {} to {}",
        report.paint(Style::Good, word),
        report.paint(Style::Name, figures::short(&handoff.snapshot)),
        figures::plural(handoff.files, "file"),
        figures::size(handoff.bytes),
        figures::one_line(&handoff.remote)
    );
    let queued = handoff.state == "queued";
    if handoff.state == "acked" {
        let trips = figures::plural(handoff.round_trips, "round trip");
        let _ = write!(to, " ({} in {trips})", figures::size(handoff.bytes_sent));
    }
    let _ = writeln!(to, " in {}", figures::span(handoff.timing_ms.total));
    for started in &handoff.runs {
        let short = figures::short(&started.run);
        let run = report.paint(Style::Name, short);
        let state = run::state(report, &started.state);
        let next = if queued {
            "starts when the handoff arrives".to_owned()
        } else {
            format!("follow it with: baton logs {short} -f")
        };
        let _ = writeln!(to, "run {run}  {state}, {next}");
    }
    restore::receipt(report, to, &handoff.receipt);
}
