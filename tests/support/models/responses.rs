//! OpenAI's responses, as Codex speaks them.

use serde_json::{Value, json};

use super::heard::{Heard, Turn, data_of, said, words};
use super::{Answer, Call, Step};

pub(super) fn read(body: &Value) -> Heard {
    let mut heard = Heard {
        model: body["model"].as_str().unwrap_or_default().to_owned(),
        system: words(&body["instructions"]),
        ..Heard::default()
    };
    tools(&body["tools"], "", &mut heard.tools);
    if let Some(text) = body["input"].as_str() {
        heard.turns.push(Turn::User(text.to_owned()));
    }
    for item in body["input"].as_array().into_iter().flatten() {
        let text = |field: &str| item[field].as_str().unwrap_or_default().to_owned();
        match item["type"].as_str().unwrap_or("message") {
            "message" => message(item, &mut heard.turns),
            "function_call" => heard.turns.push(Turn::Call {
                tool: text("name"),
                input: serde_json::from_str(&text("arguments")).unwrap_or_default(),
            }),
            "tool_search_call" => {
                heard.searches.extend(item["arguments"]["query"].as_str().map(str::to_owned));
            }
            "tool_search_output" => tools(&item["tools"], "", &mut heard.tools),
            "custom_tool_call" => {
                heard.turns.push(Turn::Call { tool: text("name"), input: text("input").into() });
            }
            "function_call_output" | "custom_tool_call_output" => {
                heard.turns.push(Turn::Result(words(&item["output"])));
                let parts = item["output"].as_array().into_iter().flatten();
                heard.turns.extend(parts.filter_map(image));
            }
            _ => {}
        }
    }
    heard
}

/// With those that are in groups, by the name of the group and their own.
fn tools(from: &Value, above: &str, to: &mut Vec<String>) {
    for tool in from.as_array().into_iter().flatten() {
        let name = tool["name"].as_str().or(tool["type"].as_str()).unwrap_or_default();
        if tool["type"] == "namespace" {
            tools(&tool["tools"], name, to);
        } else if above.is_empty() {
            to.push(name.to_owned());
        } else {
            to.push(format!("{above}/{name}"));
        }
    }
}

fn message(item: &Value, turns: &mut Vec<Turn>) {
    let say = |text: &str| match item["role"].as_str() {
        Some("assistant") => Turn::Model(text.to_owned()),
        Some("user") => said(text),
        _ => Turn::Note(text.to_owned()),
    };
    turns.extend(item["content"].as_str().map(say));
    for part in item["content"].as_array().into_iter().flatten() {
        turns.extend(image(part).or_else(|| part["text"].as_str().map(say)));
    }
}

fn image(part: &Value) -> Option<Turn> {
    (part["type"] == "input_image")
        .then(|| Turn::Image(data_of(part["image_url"].as_str().unwrap_or_default())))
}

pub(super) fn call(step: &Step, heard: &Heard) -> Option<Call> {
    let command = match step {
        Step::Write { path, text } => {
            return patch(heard, &format!("*** Add File: {path}\n{}", signed("+", text)));
        }
        Step::Edit { path, from, to } => {
            let (from, to) = (signed("-", from), signed("+", to));
            return patch(heard, &format!("*** Update File: {path}\n@@\n{from}{to}"));
        }
        Step::Read(path) => {
            let tool = heard.tool(&["view_image"])?;
            return Some(Call { tool, input: json!({"path": heard.path(path)}) });
        }
        Step::Delegate(task) => {
            let tool = of_group(heard, "multi_agent_v1/spawn_agent")?;
            return Some(Call { tool, input: json!({"message": task}) });
        }
        Step::Await => {
            let started = heard.turns.iter().rev().find_map(agent_id)?;
            let tool = of_group(heard, "multi_agent_v1/wait_agent")?;
            return Some(Call { tool, input: json!({"targets": [started]}) });
        }
        Step::Shell(command) => command,
        Step::Say(_) | Step::History | Step::Pass { .. } => return None,
    };
    Some(Call { tool: heard.tool(&["exec_command"])?, input: json!({"cmd": command}) })
}

/// A tool of a group, which some models are told of, and others have to search for.
fn of_group(heard: &Heard, name: &str) -> Option<String> {
    heard.tool(&[name, "tool_search"]).map(|_| name.to_owned())
}

fn agent_id(turn: &Turn) -> Option<String> {
    let Turn::Result(text) = turn else { return None };
    let result: Value = serde_json::from_str(text).ok()?;
    result["agent_id"].as_str().map(str::to_owned)
}

/// Lines of a patch.
fn signed(sign: &str, text: &str) -> String {
    text.lines().flat_map(|line| [sign, line, "\n"]).collect()
}

/// By the tool that is for it, or as the program takes it in a command.
fn patch(heard: &Heard, change: &str) -> Option<Call> {
    let patch = format!("*** Begin Patch\n{change}*** End Patch\n");
    if let Some(tool) = heard.tool(&["apply_patch"]) {
        return Some(Call { tool, input: Value::String(patch) });
    }
    let command = format!("apply_patch <<'EOF'\n{patch}EOF\n");
    Some(Call { tool: heard.tool(&["exec_command"])?, input: json!({"cmd": command}) })
}

fn item(answer: &Answer, at: usize) -> Value {
    match answer {
        Answer::Words(text) => json!({
            "type": "message", "id": format!("msg_{at:024}"), "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        }),
        Answer::Call(Call { tool, input }) => {
            let id = format!("call_{at:024}");
            if let Value::String(input) = input {
                return json!({"type": "custom_tool_call", "id": format!("ctc_{at:024}"), "call_id": id, "name": tool, "input": input});
            }
            if tool == "tool_search" {
                return json!({"type": "tool_search_call", "id": format!("tsc_{at:024}"), "call_id": id, "execution": "client", "status": "completed", "arguments": input});
            }
            let arguments = input.to_string();
            let (group, name) = tool
                .split_once('/')
                .map_or((None, tool.as_str()), |(group, name)| (Some(group), name));
            let mut item = json!({"type": "function_call", "id": format!("fc_{at:024}"), "call_id": id, "name": name, "arguments": arguments});
            if let Some(group) = group {
                item["namespace"] = json!(group);
            }
            item
        }
    }
}

pub(super) fn whole(answer: &Answer, heard: &Heard) -> Value {
    let count = heard.size() / 4 + 1;
    let at = heard.turns.len();
    json!({
        "id": format!("resp_{at:024}"), "object": "response", "status": "completed", "model": heard.model,
        "output": [item(answer, at)],
        "usage": {
            "input_tokens": count, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 10, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": count + 10,
        },
    })
}

pub(super) fn events(answer: &Answer, heard: &Heard) -> Vec<(Option<&'static str>, Value)> {
    let whole = whole(answer, heard);
    let item = whole["output"][0].clone();
    let mut begun = whole.clone();
    begun["status"] = json!("in_progress");
    begun["output"] = json!([]);
    let event = |name: &'static str, mut data: Value| {
        data["type"] = json!(name);
        (Some(name), data)
    };
    let mut events = vec![
        event("response.created", json!({"response": begun})),
        event("response.output_item.added", json!({"output_index": 0, "item": item})),
    ];
    if let Answer::Words(text) = answer {
        let delta =
            json!({"output_index": 0, "content_index": 0, "item_id": item["id"], "delta": text});
        events.push(event("response.output_text.delta", delta));
    }
    events.push(event("response.output_item.done", json!({"output_index": 0, "item": item})));
    events.push(event("response.completed", json!({"response": whole})));
    events
}
