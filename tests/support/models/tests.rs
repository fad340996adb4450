//! The server, asked as the programs ask it.

use std::io::{Read, Write};

use super::http::MAX_BODY;
use super::*;

/// The answer to a request: its status, and its body.
fn send(models: &ModelServer, head: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(models.address).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    // It may have hung up before the end.
    drop(stream.write_all(body));
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn post(models: &ModelServer, path: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nX-Api-Key: k\r\nContent-Length: {length}\r\n\r\n");
    let (status, answer) = send(models, &head, body.as_bytes());
    assert_eq!(status, 200, "{answer}");
    answer
}

/// A request in each API: with an older text, a call and its result, and then a text and an image.
fn asking(api: Api, text: &str) -> (&'static str, Value) {
    let (write, image) = (json!({"file_path": "/w/a"}), "QUJD");
    let url = format!("data:image/png;base64,{image}");
    match api {
        Api::Messages => (
            "/v1/messages?beta=true",
            json!({"model": "m", "tools": [{"name": "Write"}], "messages": [
                {"role": "user", "content": "the first text"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "Write", "input": write}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "it is written"}]},
                {"role": "system", "content": "# Environment\n - Primary working directory: /w\n"},
                {"role": "user", "content": [{"type": "text", "text": text},
                    {"type": "image", "source": {"type": "base64", "data": image}}]},
            ]}),
        ),
        Api::Responses => (
            "/v1/responses",
            json!({"model": "m", "tools": [{"type": "custom", "name": "apply_patch"}], "input": [
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<cwd>/w</cwd>"}]},
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "the first text"}]},
                {"type": "function_call", "call_id": "1", "name": "Write", "arguments": write.to_string()},
                {"type": "function_call_output", "call_id": "1", "output": "it is written"},
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text},
                    {"type": "input_image", "image_url": url}]},
            ]}),
        ),
        Api::Gemini => (
            "/v1beta/models/m:generateContent",
            json!({"tools": [{"functionDeclarations": [{"name": "write_file"}]}], "contents": [
                {"role": "user", "parts": [{"text": "<c>\n- **Workspace Directories:**\n  - /w\n</c>"}, {"text": "the first text"}]},
                {"role": "model", "parts": [{"functionCall": {"name": "Write", "args": write}}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "Write", "response": {"output": "it is written"}}}]},
                {"role": "user", "parts": [{"text": text}, {"inlineData": {"mimeType": "image/png", "data": image}}]},
            ]}),
        ),
        Api::Chat => (
            "/v1/chat/completions",
            json!({"model": "m", "tools": [{"type": "function", "function": {"name": "write"}}], "messages": [
                {"role": "system", "content": "<env>\n  Working directory: /w\n</env>"},
                {"role": "user", "content": "the first text"},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "Write", "arguments": write.to_string()}}]},
                {"role": "tool", "tool_call_id": "1", "content": "it is written"},
                {"role": "user", "content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]},
            ]}),
        ),
    }
}

const ALL: [Api; 4] = [Api::Messages, Api::Responses, Api::Gemini, Api::Chat];

/// Words of an answer that is no stream.
fn words_of(api: Api, answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).unwrap();
    let at = match api {
        Api::Messages => "/content/0/text",
        Api::Responses => "/output/0/content/0/text",
        Api::Gemini => "/candidates/0/content/parts/0/text",
        Api::Chat => "/choices/0/message/content",
    };
    answer.pointer(at).and_then(Value::as_str).unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[test]
fn a_model_repeats_what_it_was_told_in_every_api() {
    for api in ALL {
        let models = ModelServer::new();
        models.on("what was it", &[Step::History]);
        let (path, body) = asking(api, "so what was it?");
        let said = words_of(api, &post(&models, path, &body));
        let history = History::find(&said).unwrap();
        assert_eq!(history.users, ["the first text", "so what was it?"], "{api:?}");
        assert_eq!(history.calls, [("Write".to_owned(), json!({"file_path": "/w/a"}))], "{api:?}");
        assert!(history.has("it is written") && !history.has("something else"), "{api:?}");
        assert_eq!(history.images, [blake3::hash(b"QUJD").to_hex().to_string()], "{api:?}");
        assert_eq!(history.folder.as_deref(), Some("/w"), "{api:?}");
        let asked = models.asked();
        assert_eq!((asked.len(), asked[0].key.as_deref()), (1, Some("k")));
        assert_eq!(asked[0].body, body);
    }
}

#[test]
fn steps_follow_on_one_another_by_what_the_request_holds() {
    for (api, tool) in ALL.into_iter().zip(["Write", "apply_patch", "write_file", "write"]) {
        let models = ModelServer::new();
        models.on("the first", &[Step::say("one"), Step::say("two"), Step::say("three")]);
        // What was said last, and is known.
        let (path, body) = asking(api, "who knows");
        assert_eq!(words_of(api, &post(&models, path, &body)), "two");
        models.on("who knows", &[Step::write("b", "text\n")]);
        let answer = post(&models, path, &body);
        assert!(answer.contains(&format!("\"{tool}\"")) && answer.contains("text"), "{answer}");
        // Anything about it but the work itself.
        let mut title = body.clone();
        title.as_object_mut().unwrap().remove("tools");
        assert_eq!(words_of(api, &post(&models, path, &title)), "a title");
        assert_eq!(models.problems(), Vec::<String>::new());
        // A tool that it has not.
        models.on("who knows", &[Step::delegate("a part")]);
        words_of(api, &post(&models, path, &body));
        assert_eq!(models.problems().len(), 1);
        let (path, body) = asking(api, "who");
        models.on("the first", &[]);
        assert_eq!(words_of(api, &post(&models, path, &body)), "done");
    }
}

#[test]
fn streams_have_the_same_in_pieces() {
    let models = ModelServer::new();
    models.on("say it", &[Step::say("these words")]);
    models.on("do it", &[Step::write("b", "these words\n")]);
    for api in ALL {
        for text in ["say it", "do it"] {
            let (path, mut body) = asking(api, text);
            body["stream"] = json!(true);
            let path = path.replace(":generate", ":streamGenerate");
            let answer = post(&models, &path, &body);
            let data = answer.lines().filter_map(|line| line.strip_prefix("data: "));
            let data: Vec<_> = data.filter(|data| *data != "[DONE]").collect();
            assert!(!data.is_empty(), "{answer}");
            for event in &data {
                serde_json::from_str::<Value>(event).unwrap();
            }
            assert!(data.iter().any(|event| event.contains("these words")), "{answer}");
            assert_eq!(answer.contains("event: "), matches!(api, Api::Messages | Api::Responses));
        }
    }
    assert_eq!(models.problems(), Vec::<String>::new());
}

#[test]
fn what_is_no_request_is_refused_within_bounds_and_nobody_gets_out() {
    let models = ModelServer::new();
    let long = "x".repeat(1 << 20);
    for (head, body) in [
        ("POST /v1/messages HTTP/1.1\r\nContent-Length: 3\r\n\r\n".to_owned(), "{x}"),
        (format!("POST /v1/messages HTTP/1.1\r\nContent-Length: {}\r\n\r\n", MAX_BODY + 1), ""),
        (
            "POST /v1/messages HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n".into(),
            "",
        ),
        ("\r\n\r\n".to_owned(), ""),
    ] {
        assert_eq!(send(&models, &head, body.as_bytes()).0, 400, "{head}");
    }
    assert_eq!(models.problems().len(), 4);
    let mut endless = TcpStream::connect(models.address).unwrap();
    drop(endless.write_all(format!("GET /{long}").as_bytes()));
    let mut answer = Vec::new();
    // What was not read may reset the connection.
    drop(endless.read_to_end(&mut answer));
    assert!(models.problems().iter().any(|problem| problem.contains("head")));
    assert_eq!(send(&models, "CONNECT example.org:443 HTTP/1.1\r\n\r\n", b"").0, 403);
    assert_eq!(send(&models, "GET /what HTTP/1.1\r\n\r\n", b"").0, 404);
    assert_eq!(models.heard(), []);
}

#[test]
fn chunks_and_bodies_that_wait_to_be_asked_for_are_read() {
    let models = ModelServer::new();
    let body = asking(Api::Messages, "hello").1.to_string();
    let (one, two) = body.split_at(7);
    let head = "POST /v1/messages/count_tokens HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks =
        format!("{:x}\r\n{one}\r\n{:X};a=b\r\n{two}\r\n0\r\nX: y\r\n\r\n", one.len(), two.len());
    let (status, answer) = send(&models, head, chunks.as_bytes());
    assert!(status == 200 && answer.starts_with("{\"input_tokens\":"), "{answer}");
    let mut stream = TcpStream::connect(models.address).unwrap();
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut go = [0; 25];
    stream.read_exact(&mut go).unwrap();
    assert!(go.starts_with(b"HTTP/1.1 100 "));
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn a_server_that_ends_hangs_up() {
    let models = ModelServer::new();
    let mut silent = TcpStream::connect(models.address).unwrap();
    silent.write_all(b"POST /v1/messages HTTP/1.1\r\nContent-Length: 10\r\n\r\n").unwrap();
    let address = models.address;
    drop(models);
    let mut answer = Vec::new();
    drop(silent.read_to_end(&mut answer));
    assert!(answer.is_empty() && TcpStream::connect(address).is_err());
}
