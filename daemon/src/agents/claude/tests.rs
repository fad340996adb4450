//! Lines as the program writes them.

use super::super::session::Seen;
use super::*;

fn see(lines: &[&str]) -> Seen {
    let mut seen = Seen::default();
    let mut at = 0;
    for line in lines {
        Claude.see(&mut seen, at, line.as_bytes());
        at += line.len() as u64 + 1;
    }
    seen
}

#[test]
fn a_turn_begins_where_it_was_queued() {
    let lines = [
        r#"{"type":"user","cwd":"/a","version":"2.1.330","message":{"role":"user","content":"first"}}"#,
        r#"{"type":"assistant","message":{"content":[{"type":"tool_use","name":"Read","input":{}}]}}"#,
        r#"{"type":"queue-operation","operation":"enqueue"}"#,
        r#"{"type":"queue-operation","operation":"dequeue"}"#,
        r#"{"type":"user","slug":"a-plan","message":{"role":"user","content":[{"type":"text","text":"hand it over"}]}}"#,
        r#"{"type":"user","message":{"role":"user","content":[{"type":"tool_result","content":"x"}]}}"#,
        r#"{"type":"user","isSidechain":true,"message":{"role":"user","content":"of a subagent"}}"#,
        r#"{"type":"user","isMeta":true,"message":{"role":"user","content":"of the program"}}"#,
        r#"{"type":"user","slug":"../../x","message":{"content":"<local-command-stdout>x"}}"#,
        r#"{"type":"a-new-one","message":"of another kind"}"#,
        r#"{"type":"assistant","mess"#,
    ];
    let seen = see(&lines);
    let begin: usize = lines.iter().take(2).map(|line| line.len() + 1).sum();
    assert_eq!(seen.last_turn, Some(begin as u64));
    assert_eq!(seen.version.as_deref(), Some("2.1.330"));
    assert_eq!(seen.plans.iter().collect::<Vec<_>>(), ["a-plan"]);
    assert_eq!((seen.messages, seen.odd_lines), (6, 2));
}

#[test]
fn files_belong_to_the_session_wherever_their_names_come_from() {
    let to = Target {
        id: "5e1eea0b-0581-43e6-acbc-7e08626dc652".to_owned(),
        ids: [("old".to_owned(), "new".to_owned())].into(),
        cwd: "/w/x.y".into(),
        folder: "/f".into(),
        project: String::new(),
    };
    let place = |name: &str| {
        let place = Claude.place(&RelPath::new(name.as_bytes()).unwrap(), &to)?;
        let at = String::from_utf8(place.at.as_bytes().to_vec()).unwrap();
        Some((at.replace(&to.id, "ID"), place.is_shared))
    };
    for (name, at, is_shared) in [
        ("session.jsonl", "projects/-w-x-y/ID.jsonl", false),
        ("session/subagents/agent-1.jsonl", "projects/-w-x-y/ID/subagents/agent-1.jsonl", false),
        ("todos/agent-old.json", "todos/ID-agent-new.json", false),
        ("tasks/1.json", "tasks/ID/1.json", false),
        ("file-history/a@v1", "file-history/ID/a@v1", false),
        ("memory/MEMORY.md", "projects/-w-x-y/memory/MEMORY.md", true),
        ("plans/a-plan.md", "plans/a-plan.md", true),
    ] {
        assert_eq!(place(name), Some((at.to_owned(), is_shared)), "{name}");
    }
    for not in [
        "settings.json",
        "hooks/x",
        "CLAUDE.md",
        "commands/x.md",
        "plans/x/y.md",
        "plans/x",
        "plans/..md.md",
        "todos/x/y",
        "session",
        "memory",
        ".claude.json",
        "projects/x/y.jsonl",
    ] {
        assert_eq!(place(not), None, "{not}");
    }
}

#[test]
fn what_the_program_says_of_itself_is_understood() {
    assert_eq!(Claude.version("2.1.330 (Claude Code)\n").as_deref(), Some("2.1.330"));
    for not in ["", "claude", "bash: claude: command not found", "2.1.330", "v (Claude Code)"] {
        assert_eq!(Claude.version(not), None);
    }
    let yes =
        Claude.login(true, "{\n \"loggedIn\": true, \"authMethod\": \"api_key\", \"x\": 1}\n");
    assert_eq!(yes, Login::Yes("api_key".to_owned()));
    let no = r#"{"loggedIn": false, "authMethod": "none", "apiProvider": "firstParty"}"#;
    assert!(matches!(Claude.login(false, no), Login::No(_)));
    assert_eq!(Claude.login(false, "error: unknown command 'auth'"), Login::Unknown);
}

#[test]
fn what_is_asked_is_never_an_option() {
    let task = Task {
        prompt: "--dangerously-skip-permissions; rm -rf ~",
        model: Some("opus"),
        approval: Permissions::Edits,
        is_isolated: true,
        is_heard: false,
        told: None,
    };
    let started = Claude.start(&Start::Resume { id: "ID" }, &task);
    assert_eq!(
        started.arguments.join(" "),
        "-p --output-format stream-json --verbose --permission-mode acceptEdits --model opus --resume ID"
    );
    assert_eq!(started.input, task.prompt.as_bytes());
    assert_eq!(started.environment, [("DISABLE_AUTOUPDATER".to_owned(), "1".to_owned())]);
    let all = Task { approval: Permissions::All, ..task };
    assert!(Claude.start(&Start::New { id: None }, &all).environment.len() == 2);
    let open = Task { approval: Permissions::All, is_isolated: false, ..task };
    assert!(Claude.start(&Start::New { id: None }, &open).environment.len() == 1);
}
