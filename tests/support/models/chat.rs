//! OpenAI's chat completions, as OpenCode speaks them to providers of one's own.

use serde_json::{Value, json};

use super::heard::{Heard, Turn, data_of, said, words};
use super::{Answer, Call, Step};

pub(super) fn read(body: &Value) -> Heard {
    let mut heard =
        Heard { model: body["model"].as_str().unwrap_or_default().to_owned(), ..Heard::default() };
    for tool in body["tools"].as_array().into_iter().flatten() {
        heard.tools.extend(tool["function"]["name"].as_str().map(str::to_owned));
    }
    for message in body["messages"].as_array().into_iter().flatten() {
        let content = &message["content"];
        match message["role"].as_str().unwrap_or_default() {
            "system" | "developer" => heard.system += &words(content),
            "tool" => heard.turns.push(Turn::Result(words(content))),
            "assistant" => {
                let text = words(content);
                heard.turns.extend((!text.is_empty()).then_some(Turn::Model(text)));
                for call in message["tool_calls"].as_array().into_iter().flatten() {
                    let function = &call["function"];
                    let arguments = function["arguments"].as_str().unwrap_or_default();
                    heard.turns.push(Turn::Call {
                        tool: function["name"].as_str().unwrap_or_default().to_owned(),
                        input: serde_json::from_str(arguments).unwrap_or_default(),
                    });
                }
            }
            _ => {
                heard.turns.extend(content.as_str().map(said));
                for part in content.as_array().into_iter().flatten() {
                    let text = part["text"].as_str().map(said);
                    let url = part["image_url"]["url"].as_str();
                    heard.turns.extend(text.or_else(|| Some(Turn::Image(data_of(url?)))));
                }
            }
        }
    }
    heard
}

pub(super) fn call(step: &Step, heard: &Heard) -> Option<Call> {
    let (tool, input) = match step {
        Step::Write { path, text } => {
            ("write", json!({"filePath": heard.path(path), "content": text}))
        }
        Step::Edit { path, from, to } => {
            ("edit", json!({"filePath": heard.path(path), "oldString": from, "newString": to}))
        }
        Step::Read(path) => ("read", json!({"filePath": heard.path(path)})),
        Step::Shell(command) => {
            ("bash", json!({"command": command, "description": "what was asked"}))
        }
        Step::Delegate(task) => (
            "task",
            json!({"description": "a part of it", "prompt": task, "subagent_type": "general"}),
        ),
        Step::Say(_) | Step::History | Step::Await | Step::Pass { .. } => return None,
    };
    Some(Call { tool: heard.tool(&[tool])?, input })
}

fn message(answer: &Answer, at: usize) -> (Value, &'static str) {
    match answer {
        Answer::Words(text) => (json!({"role": "assistant", "content": text}), "stop"),
        Answer::Call(Call { tool, input }) => {
            let function = json!({"name": tool, "arguments": input.to_string()});
            let call = json!({"index": 0, "id": format!("call_{at:024}"), "type": "function", "function": function});
            (json!({"role": "assistant", "content": null, "tool_calls": [call]}), "tool_calls")
        }
    }
}

fn envelope(heard: &Heard, object: &str) -> Value {
    let count = heard.size() / 4 + 1;
    json!({
        "id": format!("chatcmpl-{}", heard.turns.len()), "object": object, "created": 1, "model": heard.model,
        "usage": {"prompt_tokens": count, "completion_tokens": 10, "total_tokens": count + 10},
    })
}

pub(super) fn whole(answer: &Answer, heard: &Heard) -> Value {
    let (message, reason) = message(answer, heard.turns.len());
    let mut whole = envelope(heard, "chat.completion");
    whole["choices"] = json!([{"index": 0, "message": message, "finish_reason": reason}]);
    whole
}

pub(super) fn events(answer: &Answer, heard: &Heard) -> Vec<(Option<&'static str>, Value)> {
    let (message, reason) = message(answer, heard.turns.len());
    let chunk = |delta: Value, reason: Value| {
        let mut chunk = envelope(heard, "chat.completion.chunk");
        chunk["choices"] = json!([{"index": 0, "delta": delta, "finish_reason": reason}]);
        (None, chunk)
    };
    vec![chunk(message, Value::Null), chunk(json!({}), json!(reason)), (None, json!("[DONE]"))]
}
