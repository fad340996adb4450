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

#[test]
fn of_many_transcripts_the_newest_are_looked_at() {
    use std::time::{Duration, SystemTime};
    let dir = tempfile::tempdir().unwrap();
    let project = dir.path().join("projects/-app");
    baton_store::fs::create_dir_all(&project).unwrap();
    let id = |at: u64| format!("0000000{at}-b33b-4981-9512-8b8a5be4cd61");
    for at in 0..6 {
        let path = project.join(format!("{}.jsonl", id(at)));
        let file = baton_store::fs::create_new(&path).unwrap();
        // The order of their names is not that of their times.
        let age = Duration::from_secs((at * 5 % 6) * 1000);
        file.set_modified(SystemTime::UNIX_EPOCH + age).unwrap();
    }
    let folder = Folder::open(dir.path()).unwrap().unwrap();
    let newest = |most| newest(&folder, &rel("projects/-app"), most);
    assert_eq!(newest(2), [id(1), id(2)]);
    assert_eq!(newest(6).len(), 6);
    assert_eq!(super::newest(&folder, &rel("projects/none"), 6), [""; 0]);
}

#[test]
fn a_line_of_many_blocks_says_what_its_first_ones_say() {
    let empty = "{},".repeat(200_000);
    let line = format!(
        r#"{{"type":"user","message":{{"role":"user","content":[{{"type":"text","text":"first"}},{empty}{{"type":"text","text":"last"}}]}}}}"#
    );
    let seen = see(&[&line]);
    assert_eq!((seen.messages, seen.last_turn, seen.odd_lines), (1, Some(0), 0));
    assert_eq!(Line::parse(line.as_bytes()).unwrap().prompt().as_deref(), Some("first last"));
}
