//! Gemini's contents, as Gemini CLI speaks them.

use serde_json::{Value, json};

use super::heard::{Heard, Turn, said, words};
use super::{Answer, Call, Step};

pub(super) fn read(body: &Value) -> Heard {
    let mut heard =
        Heard { system: words(&body["systemInstruction"]["parts"]), ..Heard::default() };
    for group in body["tools"].as_array().into_iter().flatten() {
        for tool in group["functionDeclarations"].as_array().into_iter().flatten() {
            heard.tools.extend(tool["name"].as_str().map(str::to_owned));
        }
    }
    for content in body["contents"].as_array().into_iter().flatten() {
        let is_model = content["role"] == "model";
        for part in content["parts"].as_array().into_iter().flatten() {
            let (call, response) = (&part["functionCall"], &part["functionResponse"]);
            if call.is_object() {
                heard.turns.push(Turn::Call {
                    tool: call["name"].as_str().unwrap_or_default().to_owned(),
                    input: call["args"].clone(),
                });
            } else if response.is_object() {
                heard.turns.push(Turn::Result(response["response"].to_string()));
                let parts = response["parts"].as_array().into_iter().flatten();
                heard.turns.extend(parts.filter_map(image));
            } else if let Some(text) = part["text"].as_str() {
                // What a hook of the user's adds stands before what the user said.
                let (hook, text) = match text.split_once("</hook_context>") {
                    Some((hook, said)) if !is_model => (Some(hook), said.trim_start()),
                    _ => (None, text),
                };
                heard.turns.extend(hook.map(said));
                heard.turns.push(if is_model { Turn::Model(text.to_owned()) } else { said(text) });
            } else {
                heard.turns.extend(image(part));
            }
        }
    }
    heard
}

fn image(part: &Value) -> Option<Turn> {
    part["inlineData"]["data"].as_str().map(|data| Turn::Image(data.to_owned()))
}

pub(super) fn call(step: &Step, heard: &Heard) -> Option<Call> {
    let (tool, input) = match step {
        Step::Write { path, text } => {
            ("write_file", json!({"file_path": heard.path(path), "content": text}))
        }
        Step::Edit { path, from, to } => (
            "replace",
            json!({"file_path": heard.path(path), "old_string": from, "new_string": to, "instruction": "what was asked"}),
        ),
        Step::Read(path) => ("read_file", json!({"file_path": heard.path(path)})),
        Step::Shell(command) => {
            ("run_shell_command", json!({"command": command, "description": "what was asked"}))
        }
        Step::Delegate(task) => {
            ("invoke_agent", json!({"agent_name": "generalist", "prompt": task}))
        }
        // An agent that another one has started says its last words so, and goes on for as long as it has not.
        Step::Say(words) => ("complete_task", json!({"result": {"response": words}})),
        Step::History | Step::Await | Step::Pass { .. } => return None,
    };
    Some(Call { tool: heard.tool(&[tool])?, input })
}

pub(super) fn whole(answer: &Answer, heard: &Heard) -> Value {
    let count = heard.size() / 4 + 1;
    let part = match answer {
        Answer::Words(text) => json!({"text": text}),
        Answer::Call(Call { tool, input }) => {
            let id = format!("call-{}", heard.turns.len());
            json!({"functionCall": {"id": id, "name": tool, "args": input}})
        }
    };
    json!({
        "candidates": [{"index": 0, "finishReason": "STOP", "content": {"role": "model", "parts": [part]}}],
        "usageMetadata": {"promptTokenCount": count, "candidatesTokenCount": 10, "totalTokenCount": count + 10},
        "modelVersion": "scripted",
    })
}

/// A refusal, with its code in the words as well as in the head.
pub(super) fn error(status: u16, why: &str) -> Value {
    let name = if status == 401 { "UNAUTHENTICATED" } else { "NOT_FOUND" };
    json!({"error": {"code": status, "message": why, "status": name}})
}

pub(super) fn events(answer: &Answer, heard: &Heard) -> Vec<(Option<&'static str>, Value)> {
    vec![(None, whole(answer, heard))]
}
