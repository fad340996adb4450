//! Anthropic's messages, as Claude Code speaks them.

use serde_json::{Value, json};

use super::heard::{Heard, Turn, said, words};
use super::{Answer, Call, Step};

pub(super) fn read(body: &Value) -> Heard {
    let mut heard = Heard {
        model: body["model"].as_str().unwrap_or_default().to_owned(),
        system: words(&body["system"]),
        ..Heard::default()
    };
    for tool in body["tools"].as_array().into_iter().flatten() {
        heard.tools.extend(tool["name"].as_str().map(str::to_owned));
    }
    let mut searches = Vec::new();
    for message in body["messages"].as_array().into_iter().flatten() {
        let say = |text: &str| match message["role"].as_str() {
            Some("assistant") => Turn::Model(text.to_owned()),
            Some("user") => said(text),
            _ => Turn::Note(text.to_owned()),
        };
        heard.turns.extend(message["content"].as_str().map(say));
        for part in message["content"].as_array().into_iter().flatten() {
            match part["type"].as_str().unwrap_or_default() {
                "text" => heard.turns.extend(part["text"].as_str().map(say)),
                "image" => heard.turns.extend(image(part)),
                "tool_use" if part["name"] == "ToolSearch" => {
                    searches.push(part["id"].clone());
                    heard.searches.extend(part["input"]["query"].as_str().map(str::to_owned));
                }
                "tool_result" if searches.contains(&part["tool_use_id"]) => {
                    let found = part["content"].as_array().into_iter().flatten();
                    let found = found.filter_map(|found| found["tool_name"].as_str());
                    heard.tools.extend(found.map(str::to_owned));
                }
                "tool_use" => heard.turns.push(Turn::Call {
                    tool: part["name"].as_str().unwrap_or_default().to_owned(),
                    input: part["input"].clone(),
                }),
                "tool_result" => {
                    heard.turns.push(Turn::Result(words(&part["content"])));
                    let parts = part["content"].as_array().into_iter().flatten();
                    heard.turns.extend(parts.filter_map(image));
                }
                _ => {}
            }
        }
    }
    heard
}

fn image(part: &Value) -> Option<Turn> {
    (part["type"] == "image")
        .then(|| Turn::Image(part["source"]["data"].as_str().unwrap_or_default().to_owned()))
}

pub(super) fn call(step: &Step, heard: &Heard) -> Option<Call> {
    let (tools, input): (&[&str], _) = match step {
        Step::Write { path, text } => {
            (&["Write"], json!({"file_path": heard.path(path), "content": text}))
        }
        Step::Edit { path, from, to } => (
            &["Edit"],
            json!({"file_path": heard.path(path), "old_string": from, "new_string": to}),
        ),
        Step::Read(path) => (&["Read"], json!({"file_path": heard.path(path)})),
        Step::Shell(command) => {
            (&["Bash"], json!({"command": command, "description": "Does what was asked"}))
        }
        Step::Delegate(task) => (
            &["Agent", "Task"],
            json!({"description": "a part of it", "prompt": task, "subagent_type": "general-purpose", "run_in_background": false}),
        ),
        Step::Say(_) | Step::History | Step::Await | Step::Pass { .. } => return None,
    };
    Some(Call { tool: heard.tool(tools)?, input })
}

fn block(answer: &Answer, at: usize) -> (Value, &'static str) {
    match answer {
        Answer::Words(text) => (json!({"type": "text", "text": text}), "end_turn"),
        Answer::Call(call) => {
            let id = format!("toolu_{at:024}");
            (
                json!({"type": "tool_use", "id": id, "name": call.tool, "input": call.input}),
                "tool_use",
            )
        }
    }
}

pub(super) fn whole(answer: &Answer, heard: &Heard) -> Value {
    let at = heard.turns.len();
    let (block, reason) = block(answer, at);
    let mut message = message(heard);
    message["content"] = json!([block]);
    message["stop_reason"] = json!(reason);
    message
}

fn message(heard: &Heard) -> Value {
    let count = heard.size() / 4 + 1;
    json!({
        "id": format!("msg_{:024}", heard.turns.len()), "type": "message", "role": "assistant",
        "model": heard.model, "content": [], "stop_reason": null, "stop_sequence": null,
        "usage": {"input_tokens": count, "output_tokens": 10, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0},
    })
}

pub(super) fn events(answer: &Answer, heard: &Heard) -> Vec<(Option<&'static str>, Value)> {
    let (block, reason) = block(answer, heard.turns.len());
    let (empty, delta) = match answer {
        Answer::Words(text) => {
            (json!({"type": "text", "text": ""}), json!({"type": "text_delta", "text": text}))
        }
        Answer::Call(call) => {
            let mut empty = block;
            empty["input"] = json!({});
            let json = call.input.to_string();
            (empty, json!({"type": "input_json_delta", "partial_json": json}))
        }
    };
    let event = |name: &'static str, mut data: Value| {
        data["type"] = json!(name);
        (Some(name), data)
    };
    vec![
        event("message_start", json!({"message": message(heard)})),
        event("content_block_start", json!({"index": 0, "content_block": empty})),
        event("content_block_delta", json!({"index": 0, "delta": delta})),
        event("content_block_stop", json!({"index": 0})),
        event(
            "message_delta",
            json!({"delta": {"stop_reason": reason, "stop_sequence": null}, "usage": {"output_tokens": 10}}),
        ),
        event("message_stop", json!({})),
    ]
}
