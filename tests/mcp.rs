//! The tools of `baton mcp`, by a client that speaks the protocol.

#![expect(clippy::disallowed_methods, reason = "a test, which writes what users would")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::home::TestHome;

/// Longest time until an answer.
const SOON: Duration = Duration::from_mins(2);

/// A server, and what it says line by line.
struct Client {
    child: Child,
    to: Option<ChildStdin>,
    from: Receiver<Value>,
    next: u64,
}

impl Client {
    fn new(home: &TestHome, folder: &Path) -> Self {
        let mut command = home.command();
        command.arg("mcp").current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let (to, from) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                // Each line is a message, and nothing else comes.
                let message = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
                if to.send(message).is_err() {
                    return;
                }
            }
        });
        Self { to: child.stdin.take(), child, from, next: 1 }
    }

    fn write(&mut self, line: &str) {
        let to = self.to.as_mut().unwrap();
        to.write_all(line.as_bytes()).unwrap();
        to.write_all(b"\n").unwrap();
        to.flush().unwrap();
    }

    fn read(&self) -> Value {
        self.from.recv_timeout(SOON).unwrap()
    }

    /// Asks, and reads the answer, which belongs to it.
    fn ask(&mut self, method: &str, params: &Value) -> Value {
        let id = self.next;
        self.next += 1;
        self.write(
            &json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string(),
        );
        let answer = self.read();
        assert_eq!((&answer["jsonrpc"], &answer["id"]), (&"2.0".into(), &id.into()), "{answer}");
        answer
    }

    fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        let answer = self.ask("tools/call", &json!({"name": tool, "arguments": arguments}));
        let result = answer["result"].clone();
        assert!(result["content"][0]["text"].is_string(), "{answer}");
        result
    }

    /// Says that there is no more; what the server still says.
    fn end(mut self) -> Vec<Value> {
        drop(self.to.take());
        let left = self.from.iter().collect();
        assert!(self.child.wait().unwrap().success());
        left
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_client_of_any_version_is_greeted_and_every_message_answered() {
    let home = TestHome::new();
    for (asked, given) in [
        ("2025-11-25", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("2025-03-26", "2025-03-26"),
        ("2024-11-05", "2024-11-05"),
        ("2099-01-01", "2025-11-25"),
    ] {
        let mut client = Client::new(&home, &home.user_home());
        let hello = json!({"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
        let greeted = client.ask("initialize", &hello);
        assert_eq!(greeted["result"]["protocolVersion"], given);
        assert_eq!(greeted["result"]["serverInfo"]["name"], "baton");
        client.write("{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}");
        assert_eq!(client.ask("ping", &Value::Null)["result"], json!({}));
        let listed = client.ask("tools/list", &json!({}));
        let names: Vec<_> = listed["result"]["tools"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["handoff", "status", "follow_up", "pull"]);
        assert_eq!(client.end(), Vec::<Value>::new());
    }
    let mut client = Client::new(&home, &home.user_home());
    let code = |answer: &Value| answer["error"]["code"].as_i64();
    for (line, expected) in [
        ("{", -32700),
        ("\u{fffd}", -32700),
        ("7", -32600),
        ("{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"ping\"}", -32600),
        ("{\"id\":1,\"method\":\"ping\"}", -32600),
        ("[]", -32600),
        ("{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"resources/list\"}", -32601),
        (
            "{\"jsonrpc\":\"2.0\",\"id\":\"b\",\"method\":\"tools/call\",\"params\":{\"name\":\"rm\"}}",
            -32602,
        ),
        ("{\"jsonrpc\":\"2.0\",\"id\":\"c\",\"method\":\"tools/call\"}", -32602),
    ] {
        client.write(line);
        assert_eq!(code(&client.read()), Some(expected), "{line}");
    }
    // Too long, too deep: an answer, and the next one is heard.
    client.write(&format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{}\"}}",
        "x".repeat(9_000_000)
    ));
    assert_eq!(code(&client.read()), Some(-32600));
    client.write(&"[".repeat(1_000_000));
    assert_eq!(code(&client.read()), Some(-32700));
    // Several in one: those that want an answer get one, in one.
    client.write("[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"},{\"jsonrpc\":\"2.0\",\"method\":\"x\"},{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"tools/list\"},3]");
    let answers = client.read();
    let ids: Vec<_> = answers.as_array().unwrap().iter().map(|it| it["id"].clone()).collect();
    assert_eq!(ids, [json!(1), json!(2), Value::Null]);
    client.write("[{\"jsonrpc\":\"2.0\",\"method\":\"x\"}]");
    assert_eq!(client.ask("ping", &Value::Null)["result"], json!({}));
    assert_eq!(client.end(), Vec::<Value>::new());
}

#[test]
fn tools_do_what_the_commands_do() {
    let home = TestHome::new();
    let root = home.folder("app").canonicalize().unwrap();
    std::fs::write(root.join("a"), "a\n").unwrap();
    let mut client = Client::new(&home, &root);
    // What a user writes is text, whatever it looks like.
    let prompt = "--dry-run $(touch pwned) `touch pwned` ; touch pwned\n\"é\"";
    let command = ["sh", "-c", "printf %s \"$BATON_PROMPT\" > prompt"];
    let handed =
        client.call("handoff", &json!({"prompt": prompt, "command": command, "variants": 2}));
    assert_eq!(handed["isError"], false, "{handed}");
    let object = &handed["structuredContent"];
    assert_eq!(
        (&object["state"], object["runs"].as_array().map(Vec::len)),
        (&"acked".into(), Some(2))
    );
    let run = object["runs"][0]["run"].as_str().unwrap().to_owned();
    let text = handed["content"][0]["text"].as_str().unwrap();
    assert!(text.contains(&run) && text.contains("Stop editing"), "{text}");
    home.json(&["run", "wait", &run]);

    let shown = client.call("status", &json!({"run": run}));
    assert_eq!(shown["structuredContent"]["state"], "succeeded", "{shown}");
    let status = client.call("status", &json!({}));
    assert_eq!(status["structuredContent"]["workspaces"][0]["root"], root.to_str().unwrap());
    assert_eq!(status["structuredContent"]["runs"].as_array().map(Vec::len), Some(2), "{status}");

    let into = home.user_home().join("result");
    let pulled = client.call("pull", &json!({"run": run, "into": into}));
    assert_eq!(pulled["structuredContent"]["root"], into.to_str().unwrap(), "{pulled}");
    assert_eq!(std::fs::read_to_string(into.join("prompt")).unwrap(), prompt);
    assert!(!into.join("pwned").exists() && !root.join("pwned").exists());
    let applied = client.call("pull", &json!({"run": run, "apply": true}));
    assert_eq!(applied["structuredContent"]["state"], "applied", "{applied}");
    assert!(root.join("prompt").exists());

    let again = client.call("follow_up", &json!({"run": run, "prompt": "and more"}));
    let next = again["structuredContent"]["run"].as_str().unwrap().to_owned();
    assert!(again["content"][0]["text"].as_str().unwrap().contains(&next), "{again}");
    // What is refused is told, with the way on, and is an error.
    let twice = client.call("follow_up", &json!({"run": run, "prompt": "x"}));
    assert_eq!(twice["isError"], true);
    assert!(twice.to_string().contains("fork"), "{twice}");
    for (tool, arguments) in [
        ("handoff", json!({"prompt": ""})),
        ("pull", json!({"run": "99999999"})),
        ("pull", json!({"run": run, "into": "relative"})),
        ("status", json!({"more": 1})),
    ] {
        let failed = client.call(tool, &arguments);
        assert_eq!(failed["isError"], true, "{tool} {arguments}: {failed}");
    }
    assert_eq!(client.end(), Vec::<Value>::new());
}

#[test]
fn a_call_that_takes_long_holds_nobody_up_and_can_be_cancelled() {
    let home = TestHome::new();
    let root = home.folder("app").canonicalize().unwrap();
    std::fs::write(root.join("a"), "a\n").unwrap();
    home.baton_in(&root, &["snapshot"]);
    let mut client = Client::new(&home, &root);
    let handoff = json!({"name": "handoff", "arguments": {"prompt": "x", "command": ["true"]}});
    let call = |id: u64| {
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": handoff}).to_string()
    };
    client.write(&call(70));
    client.write("{\"jsonrpc\":\"2.0\",\"id\":71,\"method\":\"ping\"}");
    let (first, second) = (client.read(), client.read());
    assert_eq!((&first["id"], &second["id"]), (&71.into(), &70.into()));
    assert_eq!(second["result"]["isError"], false, "{second}");
    // One that is cancelled gets no answer; the others do.
    client.write(&call(80));
    client.write("{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":80}}");
    client.write("{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":99}}");
    assert_eq!(client.ask("ping", &Value::Null)["result"], json!({}));
    // What was asked before the end is answered before the server goes.
    client.write(&call(90));
    let left = client.end();
    assert_eq!(left.iter().map(|it| it["id"].clone()).collect::<Vec<_>>(), [90]);
}
