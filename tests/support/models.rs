//! A model on loopback that says what a script says, to the real programs of coding agents and over the APIs that each speaks.
//!
//! - [`script`]: what is answered to what
//! - [`heard`]: what a request holds, whatever its API
//! - [`http`]: requests and answers as bytes
//! - [`anthropic`], [`responses`], [`gemini`], [`chat`]: one API each
//!
//! What it answers depends on the request alone, so it does not matter who asks, how often, or after how many restarts. Every
//! request is kept. It is also the proxy of the programs that it serves, and lets none of them out.

mod anthropic;
mod chat;
mod gemini;
mod heard;
mod http;
mod responses;
mod script;

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

pub(crate) use heard::{Heard, History, Turn};
use http::{Reply, Request};
use script::Script;
pub(crate) use script::Step;

/// Requests that are kept, and answered.
const MAX_REQUESTS: usize = 2_000;

/// How long an answer is held at most.
const MAX_HELD: Duration = Duration::from_mins(1);

/// Connections at a time.
const MAX_CONNECTIONS: usize = 64;

/// One of the APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    /// Anthropic's messages.
    Messages,
    /// OpenAI's responses.
    Responses,
    /// Gemini's contents.
    Gemini,
    /// OpenAI's chat completions.
    Chat,
}

impl Api {
    fn read(self, body: &Value) -> Heard {
        match self {
            Self::Messages => anthropic::read(body),
            Self::Responses => responses::read(body),
            Self::Gemini => gemini::read(body),
            Self::Chat => chat::read(body),
        }
    }

    /// The step in the words of the program that speaks this API.
    fn call(self, step: &Step, heard: &Heard) -> Option<Call> {
        if let Step::Pass { tool, argument } = step {
            return heard.pass(tool, argument).map(|(tool, input)| Call { tool, input });
        }
        match self {
            Self::Messages => anthropic::call(step, heard),
            Self::Responses => responses::call(step, heard),
            Self::Gemini => gemini::call(step, heard),
            Self::Chat => chat::call(step, heard),
        }
    }
}

/// A call of a tool of the program.
#[derive(Clone, Debug, PartialEq)]
struct Call {
    tool: String,
    input: Value,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Words(String),
    Call(Call),
}

/// A request that a program made.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Method and path.
    pub(crate) line: String,
    /// What it gave as its key, in whichever field its API has it.
    pub(crate) key: Option<String>,
    /// Nothing where it is none for words of the model.
    pub(crate) heard: Option<Heard>,
    /// As it came.
    pub(crate) body: Value,
}

#[derive(Debug, Default)]
struct State {
    script: Mutex<Script>,
    asked: Mutex<Vec<Asked>>,
    /// What went wrong where a program would go on all the same.
    problems: Mutex<Vec<String>>,
    /// To be hung up on in the end.
    open: Mutex<Vec<(JoinHandle<()>, TcpStream)>>,
    is_over: AtomicBool,
    /// Words whose requests are refused, with which code and why.
    refused: Mutex<Vec<(String, u16, String)>>,
    /// Words whose requests are not answered yet.
    held: Mutex<Vec<String>>,
    released: Condvar,
}

/// The server. It ends, and hangs up on everybody, when it is dropped.
#[derive(Debug)]
pub(crate) struct ModelServer {
    address: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

impl ModelServer {
    /// One that nobody has asked yet, and that knows nothing.
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let serving = Arc::clone(&state);
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if serving.is_over.load(Ordering::SeqCst) {
                    break;
                }
                serving.take(stream);
            }
        });
        Self { address, state, accepting: Some(accepting) }
    }

    /// As in the configuration of programs, without a path.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From here on, a request whose last user text that is known has these words is answered with these steps: the first one, after its
    /// result the next one, and so on. What was said last for the same words holds.
    pub(crate) fn on(&self, words: &str, steps: &[Step]) {
        self.state.script.lock().unwrap().on(words, steps);
    }

    /// From here on, requests whose last text of the user has these words wait for their answer.
    pub(crate) fn hold(&self, words: &str) {
        self.state.held.lock().unwrap().push(words.to_owned());
    }

    /// From here on, such requests are refused; the last refusal holds.
    pub(crate) fn refuse(&self, words: &str, status: u16, why: &str) {
        self.state.refused.lock().unwrap().push((words.to_owned(), status, why.to_owned()));
    }

    /// They wait no more.
    pub(crate) fn release(&self, words: &str) {
        self.state.held.lock().unwrap().retain(|held| held != words);
        self.state.released.notify_all();
    }

    /// What was asked so far, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }

    /// What was heard so far from programs that wanted words.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.asked().into_iter().filter_map(|asked| asked.heard).collect()
    }

    /// Steps that a program had no tool for, requests of unknown form, and the like.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.state.problems.lock().unwrap().clone()
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        // Under the lock, so that nobody begins to wait between the two.
        let held = self.state.held.lock().unwrap();
        self.state.released.notify_all();
        drop(held);
        // Wakes the one that waits for connections.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
        for (thread, stream) in std::mem::take(&mut *self.state.open.lock().unwrap()) {
            // It may be gone already.
            drop(stream.shutdown(Shutdown::Both));
            drop(thread.join());
        }
    }
}

impl State {
    fn problem(&self, problem: String) {
        let mut problems = self.problems.lock().unwrap();
        if problems.len() < MAX_REQUESTS {
            problems.push(problem);
        }
    }

    fn take(self: &Arc<Self>, stream: TcpStream) {
        let mut open = self.open.lock().unwrap();
        open.retain(|(thread, _)| !thread.is_finished());
        if open.len() >= MAX_CONNECTIONS {
            self.problem(format!("more than {MAX_CONNECTIONS} connections"));
            return;
        }
        let Ok(other) = stream.try_clone() else { return };
        let state = Arc::clone(self);
        let thread = std::thread::spawn(move || {
            // A program that ends in the middle of something is no mistake here.
            drop(state.serve(stream));
        });
        open.push((thread, other));
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let reply = match http::read(&mut stream)? {
            Ok(request) => self.answer(&request),
            Err(problem) => {
                self.problem(problem.to_owned());
                Reply::error(400, problem)
            }
        };
        http::write(&mut stream, &reply)?;
        // There is another handle to it, to hang up with.
        stream.shutdown(Shutdown::Write)
    }

    /// Until nothing holds it, or too long.
    fn wait(&self, said: &str) {
        let waits = |held: &mut Vec<String>| {
            held.iter().any(|words| said.contains(words)) && !self.is_over.load(Ordering::SeqCst)
        };
        let held = self.held.lock().unwrap();
        drop(self.released.wait_timeout_while(held, MAX_HELD, waits).unwrap());
    }

    fn refusal(&self, said: &str, api: Api) -> Option<Reply> {
        let refused = self.refused.lock().unwrap();
        let (_, status, why) = refused.iter().rfind(|(words, ..)| said.contains(words))?;
        Some(match api {
            Api::Gemini => Reply::json(&gemini::error(*status, why)).with(*status),
            _ => Reply::error(*status, why),
        })
    }

    fn answer(&self, request: &Request) -> Reply {
        let line = format!("{} {}", request.method, request.path);
        let known = route(request);
        let heard = known.as_ref().map(|(api, _)| api.read(&request.body));
        {
            let mut asked = self.asked.lock().unwrap();
            if asked.len() >= MAX_REQUESTS {
                return Reply::error(429, "more requests than are kept");
            }
            let body = request.body.clone();
            let wants_words = matches!(known, Some((_, Wanted::Words { .. })));
            let heard = heard.clone().filter(|_| wants_words);
            asked.push(Asked { line: line.clone(), key: request.key(), heard, body });
        }
        let (Some((api, wanted)), Some(heard)) = (known, heard) else {
            return other(request).unwrap_or_else(|| {
                self.problem(format!("{line} is not known"));
                Reply::error(404, "not known")
            });
        };
        let Wanted::Words { is_stream } = wanted else {
            let count = heard.size() / 4 + 1;
            return Reply::json(&match api {
                Api::Gemini => json!({"totalTokens": count}),
                _ => json!({"input_tokens": count}),
            });
        };
        let said = heard.turns.iter().rev().find_map(|turn| match turn {
            Turn::User(text) => Some(text.as_str()),
            _ => None,
        });
        self.wait(said.unwrap_or_default());
        if let Some(refusal) = self.refusal(said.unwrap_or_default(), api) {
            return refusal;
        }
        let turn = self.script.lock().unwrap().next(&heard, api);
        let answer = match turn {
            None => Answer::Words("nothing is known of this".to_owned()),
            // Where words are said by a tool, the program has it.
            Some(Step::Say(words)) => api
                .call(&Step::Say(words.clone()), &heard)
                .map_or(Answer::Words(words), Answer::Call),
            Some(Step::History) => Answer::Words(History::of(&heard).to_string()),
            // A request for a title, or the like, about what was asked.
            Some(_) if heard.tools.is_empty() => Answer::Words("a title".to_owned()),
            Some(step) => api.call(&step, &heard).map_or_else(
                || {
                    self.problem(format!("{api:?} has no tool for {step:?}: {:?}", heard.tools));
                    Answer::Words("there is no tool for this".to_owned())
                },
                Answer::Call,
            ),
        };
        match (api, is_stream) {
            (Api::Messages, true) => Reply::events(&anthropic::events(&answer, &heard)),
            (Api::Messages, false) => Reply::json(&anthropic::whole(&answer, &heard)),
            (Api::Responses, true) => Reply::events(&responses::events(&answer, &heard)),
            (Api::Responses, false) => Reply::json(&responses::whole(&answer, &heard)),
            (Api::Gemini, true) => Reply::events(&gemini::events(&answer, &heard)),
            (Api::Gemini, false) => Reply::json(&gemini::whole(&answer, &heard)),
            (Api::Chat, true) => Reply::events(&chat::events(&answer, &heard)),
            (Api::Chat, false) => Reply::json(&chat::whole(&answer, &heard)),
        }
    }
}

/// What a request wants.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    Words { is_stream: bool },
    Count,
}

fn route(request: &Request) -> Option<(Api, Wanted)> {
    if request.method != "POST" {
        return None;
    }
    let path = request.path.split('?').next().unwrap_or_default();
    let is_stream = request.body["stream"] == true;
    let words = Wanted::Words { is_stream };
    if path.ends_with("/messages/count_tokens") {
        return Some((Api::Messages, Wanted::Count));
    } else if path.ends_with("/messages") {
        return Some((Api::Messages, words));
    } else if path.ends_with("/responses") {
        return Some((Api::Responses, words));
    } else if path.ends_with("/chat/completions") {
        return Some((Api::Chat, words));
    }
    let wanted = match path.rsplit_once(':')?.1 {
        "streamGenerateContent" => Wanted::Words { is_stream: true },
        "generateContent" => Wanted::Words { is_stream: false },
        "countTokens" => Wanted::Count,
        _ => return None,
    };
    Some((Api::Gemini, wanted))
}

/// What the programs ask beside, and can do without.
fn other(request: &Request) -> Option<Reply> {
    let path = request.path.split('?').next().unwrap_or_default();
    match request.method.as_str() {
        // Whether somebody is there.
        "HEAD" => Some(Reply::json(&json!({}))),
        "GET" if path.ends_with("/models") => {
            Some(Reply::json(&json!({"object": "list", "data": [], "models": []})))
        }
        // Nothing leaves the machine.
        "CONNECT" => Some(Reply::error(403, "there is no way out")),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
