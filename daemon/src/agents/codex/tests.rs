//! Lines and names as the program writes them.

use super::*;

const ID: &str = "01a21a58-b33b-7981-9512-8b8a5be4cd61";

fn rel(path: &str) -> RelPath {
    RelPath::new(path.as_bytes()).unwrap()
}

fn parse(path: &str) -> Option<Rollout> {
    Rollout::parse(&rel(path))
}

#[test]
fn names_are_read_and_others_are_not() {
    let name = format!("sessions/2026/11/27/rollout-2026-11-27T00-12-30-{ID}.jsonl");
    let rollout = parse(&name).unwrap();
    assert_eq!((rollout.id.as_str(), rollout.time.as_str()), (ID, "2026-11-27T00-12-30"));
    assert_eq!(rollout.name(), name.as_bytes());
    // Put away, or in a wrong folder: the name says where it belongs.
    let away = parse(&format!("archived_sessions/rollout-2026-11-27T00-12-30-{ID}.jsonl")).unwrap();
    assert_eq!(away.name(), name.as_bytes());
    assert!(parse(&format!("{name}.zst")).unwrap().is_compressed);
    for not in [
        format!("sessions/rollout-2026-11-27T00-12-30-{ID}"),
        format!("sessions/rollout-2026-11-27-{ID}.jsonl"),
        format!("sessions/rollout-2026-11-27T00-12-30{ID}.jsonl"),
        "sessions/rollout-.jsonl".to_owned(),
        "auth.json".to_owned(),
        "config.toml".to_owned(),
    ] {
        assert_eq!(parse(&not), None, "{not}");
    }
}

#[test]
fn files_come_only_to_places_of_rollouts() {
    let to = Target {
        id: "X".to_owned(),
        ids: [(ID.to_owned(), ID.replace('0', "f"))].into(),
        cwd: "/w".into(),
        folder: "/f".into(),
        project: String::new(),
    };
    let name = format!("sessions/2026/11/27/rollout-2026-11-27T00-12-30-{ID}.jsonl");
    let place = Codex.place(&rel(&name), &to).unwrap();
    assert_eq!(place.at, rel(&name.replace(ID, &ID.replace('0', "f"))));
    for not in [
        name.replace("2026/11/27", "2026/11/28"),
        name.replace("sessions/", ""),
        format!("skills/{name}"),
        format!("{name}.zst"),
        "config.toml".to_owned(),
        "hooks.json".to_owned(),
    ] {
        assert_eq!(Codex.place(&rel(&not), &to), None, "{not}");
    }
}

#[test]
fn a_turn_begins_with_its_task() {
    let mut seen = Seen::default();
    let message = |role: &str, text: &str| {
        format!(
            r#"{{"type":"response_item","payload":{{"type":"message","role":"{role}","content":[{{"type":"input_text","text":"{text}"}}]}}}}"#
        )
    };
    let lines = [
        format!(
            r#"{{"type":"session_meta","payload":{{"id":"{ID}","cwd":"/w","cli_version":"0.169.0"}}}}"#
        ),
        r#"{"type":"event_msg","payload":{"type":"task_started"}}"#.to_owned(),
        message("user", "<environment_context> <cwd>/w</cwd>"),
        message("user", "first"),
        message("assistant", "done"),
        r#"{"type":"event_msg","payload":{"type":"task_started"}}"#.to_owned(),
        message("user", "second"),
        message("user", "said while it was at work"),
        "{\"type\":\"event_m".to_owned(),
    ];
    let mut at = 0;
    let mut begins = Vec::new();
    for line in &lines {
        begins.push(at);
        Codex.see(&mut seen, at, line.as_bytes());
        at += line.len() as u64 + 1;
    }
    assert_eq!(seen.last_turn, Some(begins[5]));
    assert_eq!((seen.messages, seen.odd_lines), (4, 1));
    assert_eq!(seen.version.as_deref(), Some("0.169.0"));

    // A tool of a server, as the program writes down that it was called.
    let call = |item: &str| {
        format!(r#"{{"type":"response_item","payload":{{"type":"{item}","call_id":"c"}}}}"#)
    };
    let tool = r#""call_id":"c","namespace":"mcp__baton","name":"handoff","arguments":"{\"prompt\":\"x\"}""#;
    let called = call("function_call").replace(r#""call_id":"c""#, tool);
    Codex.see(&mut seen, at, called.as_bytes());
    assert_eq!(seen.handoff(), Some(begins[5]));
    Codex.see(&mut seen, at, call("function_call_output").as_bytes());
    assert_eq!(seen.handoff(), None);
    Codex.see(&mut seen, at, called.replace("mcp__baton", "mcp__other").as_bytes());
    assert_eq!(seen.handoff(), None);
}

#[test]
fn what_the_program_says_of_itself_is_understood() {
    assert_eq!(Codex.version("codex-cli 0.169.0\n").as_deref(), Some("0.169.0"));
    assert_eq!(Codex.version("0.169.0"), None);
    let said = "WARNING: proceeding\nNot logged in\n";
    assert!(matches!(Codex.login(false, said), Login::No(_)));
    assert_eq!(
        Codex.login(true, "Logged in using an API key - sk-***\n"),
        Login::Yes("Logged in using an API key - sk-***".to_owned())
    );
    assert_eq!(Codex.login(true, "what"), Login::Unknown);
}

#[test]
fn what_is_asked_is_never_an_option() {
    let task = Task {
        prompt: "--yolo",
        model: Some("m"),
        approval: Permissions::All,
        is_isolated: true,
        is_heard: false,
        told: None,
    };
    let started = Codex.start(&Start::Resume { id: ID }, &task);
    let expected = format!(
        "exec --json --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox --model m resume {ID} -"
    );
    assert_eq!(started.arguments.join(" "), expected);
    assert_eq!(started.input, b"--yolo");
    let asks = Task { approval: Permissions::Ask, model: None, ..task };
    let expected = "exec --json --skip-git-repo-check --sandbox read-only -";
    assert_eq!(Codex.start(&Start::New { id: None }, &asks).arguments.join(" "), expected);
}
