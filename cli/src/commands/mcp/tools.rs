//! The tools, and the command that each of them is.
//!
//! **Invariant:** what a model says stands behind a flag of its own or goes in by standard input: it is no flag, and no line
//! of a shell.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::sync::{Mutex, PoisonError};

use baton_protocol::message::MAX_PROMPT;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::rpc;
use crate::error::{CliError, QUEUED};
use crate::session::Session;

/// Bytes of an answer that are read.
const MAX_ANSWER: u64 = 8 * 1024 * 1024;

/// Bytes of notes and errors.
const MAX_NOTES: u64 = 64 * 1024;

/// Most runs that are asked for at once.
const MAX_VARIANTS: u32 = 64;

/// Arguments of one tool; what it has not is an error that names it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Handoff {
    prompt: String,
    variants: Option<u32>,
    path: Option<PathBuf>,
    conversation: Option<String>,
    agent: Option<String>,
    command: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Status {
    run: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FollowUp {
    run: String,
    prompt: String,
    #[serde(default)]
    fork: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pull {
    run: String,
    into: Option<PathBuf>,
    #[serde(default)]
    apply: bool,
    #[serde(default)]
    dry_run: bool,
}

/// What is to be run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Command {
    tool: &'static str,
    args: Vec<String>,
    /// What goes in by standard input.
    input: Option<String>,
    /// A second command, whose answer is added under a name.
    beside: Option<(&'static str, Vec<String>)>,
}

/// A call that is none.
#[derive(Debug)]
pub(super) enum Wrong {
    /// There is no such tool.
    Tool,
    /// Its arguments are not those of the tool, for the model to mend.
    Arguments(String),
}

impl Wrong {
    pub(super) fn answer(&self, id: &Value) -> Value {
        match self {
            Self::Tool => rpc::failed(id, rpc::WRONG_PARAMS, "there is no such tool"),
            Self::Arguments(what) => rpc::done(id, &refusal(what)),
        }
    }
}

/// The tools.
pub(super) fn list() -> Value {
    let text = |what: &str| json!({"type": "string", "description": what});
    let run = text("The id of a run or thread, or its first 8 digits or more");
    let object = |properties: Value, required: &[&str]| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    json!([
        {
            "name": "handoff",
            "title": "Hand off",
            "description": "Hands the work in this folder to a machine of the user's: the tree with all that is not committed, this \
                conversation, and a run there that goes on with `prompt`. Only when the user asks for it. After it has answered, stop \
                editing here.",
            "inputSchema": object(json!({
                "prompt": text("What is to be done there, in the words of the user"),
                "variants": {"type": "integer", "minimum": 1, "maximum": MAX_VARIANTS, "description": "How many attempts, each a run of its own"},
                "path": text("The folder, absolute; the one in which this server was started unless said"),
                "conversation": text("`auto` unless said: the one that is open here; `none`; or an id where several fit"),
                "agent": text("The agent that goes on there; the one whose conversation travels unless said"),
                "command": {"type": "array", "items": {"type": "string"}, "description": "A program and its arguments to run there instead of an agent"},
            }), &["prompt"]),
            "annotations": {"readOnlyHint": false, "destructiveHint": false, "idempotentHint": false, "openWorldHint": true},
        },
        {
            "name": "status",
            "title": "Status",
            "description": "What is kept of this machine's work, where it stands, and the runs there are; with `run` all that is known of one.",
            "inputSchema": object(json!({"run": run}), &[]),
            "annotations": {"readOnlyHint": true, "openWorldHint": true},
        },
        {
            "name": "follow_up",
            "title": "Follow up",
            "description": "Goes on with a run that has ended, in its conversation and in what it left, with another `prompt`. A second one of the \
                same run is a conflict unless `fork` is set.",
            "inputSchema": object(json!({
                "run": run,
                "prompt": text("What is to be done there, in the words of the user"),
                "fork": {"type": "boolean", "description": "Begin a thread of its own"},
            }), &["run", "prompt"]),
            "annotations": {"readOnlyHint": false, "destructiveHint": false, "idempotentHint": false, "openWorldHint": true},
        },
        {
            "name": "pull",
            "title": "Pull",
            "description": "Brings home what a run left: into a new folder beside the checkout, with the command that goes on with its conversation \
                there; with `apply` merged into this checkout, which can be undone.",
            "inputSchema": object(json!({
                "run": run,
                "into": text("A folder that is empty or does not exist yet, absolute"),
                "apply": {"type": "boolean", "description": "Merge it into the checkout"},
                "dry_run": {"type": "boolean", "description": "With `apply`: only say what would change"},
            }), &["run"]),
            "annotations": {"readOnlyHint": false, "destructiveHint": true, "idempotentHint": false, "openWorldHint": true},
        },
    ])
}

/// The command that a call of a tool is.
pub(super) fn command(params: &Value) -> Result<Command, Wrong> {
    let arguments = params.get("arguments").cloned().unwrap_or_else(|| json!({}));
    match params.get("name").and_then(Value::as_str) {
        Some("handoff") => handoff(read(arguments)?, speaks(params)),
        Some("status") => status(read(arguments)?),
        Some("follow_up") => follow_up(read(arguments)?),
        Some("pull") => pull(read(arguments)?),
        _ => Err(Wrong::Tool),
    }
}

fn read<T: serde::de::DeserializeOwned>(arguments: Value) -> Result<T, Wrong> {
    serde_json::from_value(arguments).map_err(|error| Wrong::Arguments(error.to_string()))
}

/// The conversation in which a tool is called, where the program says so beside the call, as Codex does.
fn speaks(params: &Value) -> Option<&str> {
    let id = params.get("_meta")?.get("sessionId")?.as_str()?;
    plain(id, "sessionId").ok().filter(|id| !id.starts_with('-'))
}

fn handoff(asked: Handoff, speaks: Option<&str>) -> Result<Command, Wrong> {
    let mut args = vec!["handoff".to_owned()];
    if let Some(path) = asked.path {
        args.push(absolute(path, "path")?);
    }
    if let Some(variants) = asked.variants {
        if !(1..=MAX_VARIANTS).contains(&variants) {
            return Err(Wrong::Arguments(format!("`variants` is 1 to {MAX_VARIANTS}")));
        }
        args.push(format!("--variants={variants}"));
    }
    let conversation = asked.conversation.as_deref().unwrap_or("auto");
    args.push(format!("--conversation={}", plain(conversation, "conversation")?));
    args.extend(speaks.map(|id| format!("--speaks={id}")));
    if let Some(agent) = asked.agent {
        args.push(format!("--agent={}", plain(&agent, "agent")?));
    }
    let input = Some(prompt(asked.prompt)?);
    args.push("--prompt-file=-".to_owned());
    if let Some(command) = asked.command.filter(|command| !command.is_empty()) {
        if command.iter().any(|word| word.contains('\0')) {
            return Err(Wrong::Arguments("`command` has a zero byte in it".to_owned()));
        }
        args.push("--".to_owned());
        args.extend(command);
    }
    Ok(Command { tool: "handoff", args, input, beside: None })
}

fn status(asked: Status) -> Result<Command, Wrong> {
    let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let (args, beside) = match asked.run {
        Some(run) => (owned(&["run", "show", id(&run)?]), None),
        None => (owned(&["status"]), Some(("runs", owned(&["run", "list"])))),
    };
    Ok(Command { tool: "status", args, input: None, beside })
}

fn follow_up(asked: FollowUp) -> Result<Command, Wrong> {
    let mut args = vec!["follow-up".to_owned(), id(&asked.run)?.to_owned()];
    args.push("--prompt-file=-".to_owned());
    args.extend(asked.fork.then(|| "--fork".to_owned()));
    Ok(Command { tool: "follow_up", args, input: Some(prompt(asked.prompt)?), beside: None })
}

fn pull(asked: Pull) -> Result<Command, Wrong> {
    let mut args = vec!["pull".to_owned(), id(&asked.run)?.to_owned()];
    match (asked.into, asked.apply) {
        (Some(_), true) => {
            return Err(Wrong::Arguments("`into` and `apply` exclude one another".to_owned()));
        }
        (Some(into), false) => args.push(format!("--into={}", absolute(into, "into")?)),
        (None, true) => {
            args.extend(asked.dry_run.then(|| "--dry-run".to_owned()));
            args.push("--apply".to_owned());
        }
        (None, false) if asked.dry_run => {
            return Err(Wrong::Arguments("`dry_run` is for `apply`".to_owned()));
        }
        (None, false) => {}
    }
    Ok(Command { tool: "pull", args, input: None, beside: None })
}

fn prompt(text: String) -> Result<String, Wrong> {
    match text.trim().is_empty() {
        true => Err(Wrong::Arguments("`prompt` is empty: say what is to be done".to_owned())),
        false if text.len() > MAX_PROMPT => {
            Err(Wrong::Arguments(format!("`prompt` is longer than {MAX_PROMPT} bytes")))
        }
        false => Ok(text),
    }
}

fn id(text: &str) -> Result<&str, Wrong> {
    let is_id =
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let is_flag = text.starts_with('-');
    (is_id && !is_flag).then_some(text).ok_or_else(|| Wrong::Arguments("`run` is no id".to_owned()))
}

/// A word that is no path and no flag.
fn plain<'a>(text: &'a str, name: &str) -> Result<&'a str, Wrong> {
    let is_plain = text.len() <= 128
        && text.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_.".contains(&it));
    (is_plain && !text.is_empty())
        .then_some(text)
        .ok_or_else(|| Wrong::Arguments(format!("`{name}` is none")))
}

fn absolute(path: PathBuf, name: &str) -> Result<String, Wrong> {
    let text = path.into_os_string().into_string().unwrap_or_default();
    let is_good = text.starts_with('/') && !text.contains('\0');
    is_good.then_some(text).ok_or_else(|| Wrong::Arguments(format!("`{name}` is not absolute")))
}

/// The result of a call that came to nothing.
pub(super) fn refusal(what: &str) -> Value {
    json!({"content": [{"type": "text", "text": what}], "isError": true})
}

/// This program, as calls start it.
pub(super) struct Program {
    path: PathBuf,
    before: Vec<std::ffi::OsString>,
}

impl Program {
    pub(super) fn of(session: &Session) -> Result<Self, CliError> {
        let path = std::env::current_exe()
            .map_err(|error| CliError::caused("internal", "finding this program", &error))?;
        let mut before = vec!["--json".into()];
        for (flag, value) in [
            ("--home", session.env.home_dir.clone().map(PathBuf::into_os_string)),
            ("--remote", session.remote.clone().map(Into::into)),
        ] {
            before.extend(value.map(|value| [flag.into(), value]).into_iter().flatten());
        }
        Ok(Self { path, before })
    }

    fn start(&self, args: &[String], has_input: bool) -> std::io::Result<Child> {
        let input = if has_input { Stdio::piped() } else { Stdio::null() };
        Process::new(&self.path)
            .args(&self.before)
            .args(args)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }
}

/// What a command has said.
struct Said {
    code: u8,
    object: Option<Map<String, Value>>,
    notes: String,
}

/// A call under way.
#[derive(Debug, Default)]
pub(super) struct Call(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_cancelled: bool,
    child: Option<Pid>,
}

impl Call {
    /// Ends the command, as Ctrl-C does: what the daemon has taken on goes on.
    pub(super) fn cancel(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_cancelled = true;
        if let Some(child) = state.child {
            // Not waited for yet, so the number is its own.
            let _ = kill_process(child, Signal::INT);
        }
    }

    /// Runs it to its end; nothing where it was cancelled.
    pub(super) fn run(&self, program: &Program, command: &Command) -> Option<Value> {
        let said = self.one(program, &command.args, command.input.as_deref());
        let result = match said {
            Ok(said) => {
                let beside = command.beside.as_ref().filter(|_| said.object.is_some());
                let beside = beside
                    .and_then(|(name, args)| Some((*name, self.one(program, args, None).ok()?)));
                result(command.tool, said, beside)
            }
            Err(error) => refusal(&format!("the command could not be run: {error}")),
        };
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!state.is_cancelled).then_some(result)
    }

    fn one(
        &self,
        program: &Program,
        args: &[String],
        input: Option<&str>,
    ) -> std::io::Result<Said> {
        let mut child = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if state.is_cancelled {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            let child = program.start(args, input.is_some())?;
            state.child = Pid::from_raw(child.id().cast_signed());
            child
        };
        let (stdin, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (out, err) = std::thread::scope(|scope| {
            let err = scope.spawn(|| first(err, MAX_NOTES));
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                scope.spawn(move || drop(stdin.write_all(input.as_bytes())));
            }
            (first(out, MAX_ANSWER), err.join().unwrap_or_default())
        });
        // Waited for where nobody can end it any more: its number may be another one's afterwards.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).child = None;
        let status = child.wait()?;
        let code =
            status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(crate::error::FAILED);
        let object = serde_json::from_slice(&out).ok();
        let notes = String::from_utf8_lossy(&err).trim().to_owned();
        Ok(Said { code, object, notes })
    }
}

/// The beginning of what comes; the rest is read and forgotten, so that whoever writes it comes to an end.
fn first(from: Option<impl Read>, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        drop((&mut from).take(most).read_to_end(&mut bytes));
        drop(std::io::copy(&mut from, &mut std::io::sink()));
    }
    bytes
}

/// What a model reads first of an answer that went well.
fn headline(tool: &str, code: u8, object: &Map<String, Value>) -> Option<String> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    match tool {
        "handoff" => {
            let runs = object.get("runs").and_then(Value::as_array).into_iter().flatten();
            let runs: Vec<_> =
                runs.filter_map(|run| run.get("run").and_then(Value::as_str)).collect();
            let runs = runs.join(", ");
            Some(match code {
                QUEUED => format!(
                    "Handed off as {runs}: it goes out by itself when the node can be reached. Stop editing here."
                ),
                _ => format!(
                    "Handed off as {runs} to {}. Stop editing here: the work goes on there.",
                    text("remote")
                ),
            })
        }
        "follow_up" => Some(format!("Run {} goes on with it ({}).", text("run"), text("state"))),
        "pull" => {
            let words =
                object.get("resume_command").and_then(Value::as_array).into_iter().flatten();
            let words: Vec<_> = words.filter_map(Value::as_str).collect();
            let resume = if words.is_empty() {
                String::new()
            } else {
                format!(" Its conversation goes on there with: {}", words.join(" "))
            };
            Some(format!("What the run left is in {}.{resume}", text("root")))
        }
        _ => None,
    }
}

fn result(tool: &str, said: Said, beside: Option<(&str, Said)>) -> Value {
    let Said { code, object, notes } = said;
    let Some(mut object) = object else {
        let what = if notes.is_empty() { format!("the command ended with {code}") } else { notes };
        return refusal(&what);
    };
    if let Some((name, Said { object: Some(mut more), .. })) = beside
        && let Some(more) = more.remove(name)
    {
        object.insert(name.to_owned(), more);
    }
    let is_error = !matches!(code, 0 | QUEUED);
    let headline = headline(tool, code, &object).filter(|_| !is_error);
    let said: Vec<_> =
        headline.into_iter().chain(Some(notes).filter(|it| !it.is_empty())).collect();
    let mut content = Vec::new();
    let mut text = |text: String| content.push(json!({"type": "text", "text": text}));
    said.iter().cloned().for_each(&mut text);
    text(Value::Object(object.clone()).to_string());
    if !said.is_empty() {
        // Some programs show a model the object and nothing else.
        object.insert("message".to_owned(), said.join("\n").into());
    }
    json!({"content": content, "structuredContent": object, "isError": is_error})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(name: &str, arguments: &Value) -> Result<Vec<String>, Wrong> {
        command(&json!({"name": name, "arguments": arguments})).map(|command| command.args)
    }

    #[test]
    fn what_a_model_says_is_no_flag() {
        let hostile = json!({"prompt": "--dry-run; $(rm -rf /)\n", "command": ["--x", "$(y)"]});
        let made = command(&json!({"name": "handoff", "arguments": hostile})).unwrap();
        let expected = ["handoff", "--conversation=auto", "--prompt-file=-", "--", "--x", "$(y)"];
        assert_eq!(made.args, expected);
        assert_eq!(made.input.as_deref(), Some("--dry-run; $(rm -rf /)\n"));
        for (name, bad) in [
            ("handoff", json!({})),
            ("handoff", json!({"prompt": " "})),
            ("handoff", json!({"prompt": "x", "path": "-x"})),
            ("handoff", json!({"prompt": "x", "variants": 65})),
            ("handoff", json!({"prompt": "x", "variants": -1})),
            ("handoff", json!({"prompt": "x", "conversation": "a b"})),
            ("handoff", json!({"prompt": "x", "unknown": 1})),
            ("handoff", json!({"prompt": "x".repeat(MAX_PROMPT + 1)})),
            ("follow_up", json!({"run": "--fork", "prompt": "x"})),
            ("pull", json!({"run": "a/b"})),
            ("pull", json!({"run": "abcdef12", "into": "x"})),
            ("pull", json!({"run": "abcdef12", "into": "/x", "apply": true})),
            ("pull", json!({"run": "abcdef12", "dry_run": true})),
            ("status", json!({"run": ""})),
            ("status", json!([])),
        ] {
            assert!(matches!(args(name, &bad), Err(Wrong::Arguments(_))), "{name} {bad}");
        }
        assert!(matches!(args("rm", &json!({})), Err(Wrong::Tool)));
        // Which conversation it is that calls, and what is none.
        for (id, flag) in [("01a2-b", Some("--speaks=01a2-b")), ("-x", None), ("a b", None)] {
            let call = json!({"name": "handoff", "arguments": {"prompt": "x"}, "_meta": {"sessionId": id}});
            let made = command(&call).unwrap().args;
            assert_eq!(made.iter().find(|it| it.starts_with("--speaks")).map(String::as_str), flag);
        }
        assert_eq!(
            args("pull", &json!({"run": "abcdef12", "apply": true, "dry_run": true})).unwrap(),
            ["pull", "abcdef12", "--dry-run", "--apply"]
        );
    }

    #[test]
    fn every_tool_that_is_listed_is_there() {
        for tool in list().as_array().unwrap() {
            let made = args(tool["name"].as_str().unwrap(), &json!({}));
            assert!(!matches!(made, Err(Wrong::Tool)), "{tool}");
            assert_eq!(tool["inputSchema"]["type"], "object");
        }
    }
}
