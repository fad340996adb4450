//! `baton mcp`: the tools of Baton for an agent, over standard input and output.
//!
//! - [`lines`]: messages, one a line, of a bounded length
//! - [`rpc`]: what a message asks, and the form of answers
//! - [`tools`]: which tools there are, and the command that each of them is
//!
//! Not here: what the tools do. Each is a command of this program, run by a process of its own with `--json`: what it answers
//! is the contract of the command line, and what goes wrong in it does not end the server.
//!
//! **Invariant:** each request gets exactly one answer, but for one that was cancelled, which gets none; nothing else is
//! written to standard output, and nothing of what is said goes to a log.

use std::collections::HashMap;
use std::io::{Stdout, Write};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::error::CliError;
use crate::session::Session;
use lines::{Line, Lines};
use rpc::{Asked, Request};
use tools::{Call, Program};

mod lines;
mod rpc;
mod tools;

/// Calls of tools at a time.
const MAX_CALLS: usize = 8;

/// Messages in one, as an older version of the protocol allows.
const MAX_BATCH: usize = 64;

/// Versions of the protocol, the newest first. What differs between them does not concern this server.
const VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

const INSTRUCTIONS: &str = "Baton hands half-done work to a machine of the user's: the tree as it is, this conversation, and a run \
there. After `handoff` has answered, stop editing: the work goes on there.";

/// Tools for an agent, over stdin and stdout (Model Context Protocol).
///
/// Agents start this; `baton agent setup` tells them to. It has `handoff`, `status`, `follow_up` and `pull`, which do what the
/// commands of these names do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(session: &Session, _args: &Args) -> Result<u8, CliError> {
    let program = Program::of(session)?;
    let server =
        Arc::new(Server { program, out: Mutex::new(std::io::stdout()), calls: Mutex::default() });
    let mut lines = Lines::new(std::io::stdin().lock());
    let mut workers = Vec::new();
    loop {
        let next =
            lines.next().map_err(|error| CliError::caused("input", "reading a message", &error))?;
        match next {
            None => break,
            Some(Line::TooLong) => {
                server.say(&rpc::failed(&Value::Null, rpc::INVALID, "the message is too long"))?;
            }
            Some(Line::Whole(line)) => workers.extend(server.hear(&line)?),
        }
        workers.retain(|worker: &std::thread::JoinHandle<()>| !worker.is_finished());
    }
    // Whoever has nothing more to say may still listen.
    for worker in workers {
        drop(worker.join());
    }
    Ok(0)
}

struct Server {
    program: Program,
    out: Mutex<Stdout>,
    /// Those under way, by the id of their request.
    calls: Mutex<HashMap<String, Arc<Call>>>,
}

impl Server {
    /// Answers a message, at once or from another thread.
    fn hear(
        self: &Arc<Self>,
        line: &[u8],
    ) -> Result<Option<std::thread::JoinHandle<()>>, CliError> {
        let Ok(message) = serde_json::from_slice::<Value>(line) else {
            self.say(&rpc::failed(&Value::Null, rpc::NOT_JSON, "this is not JSON"))?;
            return Ok(None);
        };
        let Value::Array(batch) = message else {
            return match rpc::read(message) {
                Asked::Nothing => Ok(None),
                Asked::Wrong(answer) => self.say(&answer).map(|()| None),
                Asked::Cancelled(id) => {
                    self.cancel(&id);
                    Ok(None)
                }
                Asked::Request(request) if request.method == "tools/call" => self.begin(request),
                Asked::Request(request) => self.say(&Self::answer(&request)).map(|()| None),
            };
        };
        if batch.is_empty() || batch.len() > MAX_BATCH {
            self.say(&rpc::failed(
                &Value::Null,
                rpc::INVALID,
                "there are none or too many messages in one",
            ))?;
            return Ok(None);
        }
        // In order and while nothing else is heard: only clients of one older version send these.
        let answers = batch.into_iter().filter_map(|message| match rpc::read(message) {
            Asked::Wrong(answer) => Some(answer),
            Asked::Request(request) if request.method == "tools/call" => {
                match tools::command(&request.params) {
                    Ok(command) => Call::default()
                        .run(&self.program, &command)
                        .map(|it| rpc::done(&request.id, &it)),
                    Err(wrong) => Some(wrong.answer(&request.id)),
                }
            }
            Asked::Request(request) => Some(Self::answer(&request)),
            Asked::Nothing | Asked::Cancelled(_) => None,
        });
        let answers: Vec<_> = answers.collect();
        if !answers.is_empty() {
            self.say(&Value::Array(answers))?;
        }
        Ok(None)
    }

    fn answer(request: &Request) -> Value {
        let Request { id, method, params } = request;
        match method.as_str() {
            "initialize" => {
                let asked = params.get("protocolVersion").and_then(Value::as_str);
                let version = VERSIONS.into_iter().find(|version| Some(*version) == asked);
                let [newest, ..] = VERSIONS;
                rpc::done(
                    id,
                    &json!({
                        "protocolVersion": version.unwrap_or(newest),
                        "capabilities": {"tools": {}},
                        "serverInfo": {
                            "name": "baton", "title": "Baton", "version": env!("CARGO_PKG_VERSION"),
                        },
                        "instructions": INSTRUCTIONS,
                    }),
                )
            }
            "ping" => rpc::done(id, &json!({})),
            "tools/list" => rpc::done(id, &json!({"tools": tools::list()})),
            _ => rpc::failed(id, rpc::NO_METHOD, "this server has no such method"),
        }
    }

    /// Begins a call, which answers by itself.
    fn begin(
        self: &Arc<Self>,
        request: Request,
    ) -> Result<Option<std::thread::JoinHandle<()>>, CliError> {
        let command = match tools::command(&request.params) {
            Ok(command) => command,
            Err(wrong) => return self.say(&wrong.answer(&request.id)).map(|()| None),
        };
        let (key, call) = (request.id.to_string(), Arc::new(Call::default()));
        {
            let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
            if calls.len() >= MAX_CALLS || calls.contains_key(&key) {
                drop(calls);
                let what = "too many calls are under way, or one with this id; ask again when one has ended";
                return self.say(&rpc::done(&request.id, &tools::refusal(what))).map(|()| None);
            }
            calls.insert(key.clone(), Arc::clone(&call));
        }
        let server = Arc::clone(self);
        let work = move || {
            let result = call.run(&server.program, &command);
            server.calls.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            if let Some(result) = result {
                // A reader that is gone has no more use for it.
                drop(server.say(&rpc::done(&request.id, &result)));
            }
        };
        let worker = std::thread::Builder::new().name("call".into()).spawn(work);
        worker.map(Some).map_err(|error| CliError::caused("internal", "starting a thread", &error))
    }

    fn cancel(&self, id: &Value) {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = calls.get(&id.to_string()) {
            call.cancel();
        }
    }

    /// Writes one message on a line of its own.
    fn say(&self, message: &Value) -> Result<(), CliError> {
        let mut line = message.to_string();
        line.push('\n');
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
            match error.kind() {
                std::io::ErrorKind::BrokenPipe => CliError::BrokenPipe,
                _ => CliError::caused("output", "writing a message", &error),
            }
        })
    }
}
