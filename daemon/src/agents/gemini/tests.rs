//! Lines, names and places as the program writes them.

use baton_store::fs;

use super::*;

const ID: &str = "01a21b58-b33b-4981-9512-8b8a5be4cd61";
const NAME: &str = "session-2026-11-27T05-06-01a21b58-b33b-4981-9512-8b8a5be4cd61.jsonl";

fn rel(path: &str) -> RelPath {
    RelPath::new(path.as_bytes()).unwrap()
}

fn target() -> Target {
    let new = ID.replace('0', "f");
    Target {
        id: new.clone(),
        ids: [(ID.to_owned(), new)].into(),
        cwd: "/w".into(),
        folder: "/f".into(),
        project: "w-1".to_owned(),
    }
}

#[test]
fn files_come_only_to_places_of_their_session() {
    let to = target();
    let place = |name: &str| Some(Gemini.place(&rel(name), &to)?.at.display().into_owned());
    let at = |below: &str| Some(format!("tmp/w-1/{below}"));
    assert_eq!(place(NAME), at("chats/session-2026-11-27T05-06-f1a21b58.jsonl"));
    assert_eq!(place("subagents/x.jsonl"), at(&format!("chats/{}/x.jsonl", to.id)));
    assert_eq!(place("session/plans/a.md"), at(&format!("{}/plans/a.md", to.id)));
    assert_eq!(place("tool-outputs/a.txt"), at(&format!("tool-outputs/session-{}/a.txt", to.id)));
    for not in [
        &NAME.replace("01a2", "02a2"),
        &NAME.replace("T05", "/05"),
        &NAME.replace("2026", "x026"),
        "session-2026-11-27T05-06-01a21b58.jsonl",
        "settings.json",
        "chats/x.jsonl",
        "memory/MEMORY.md",
    ] {
        assert_eq!(place(not), None, "{not}");
    }
}

#[test]
fn a_project_has_the_folder_that_the_program_would_take() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).unwrap().unwrap();
    let of = |cwd: &str| project::of(&folder, Path::new(cwd)).unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write_atomic(&path, text.as_bytes(), 0o600).unwrap();
    };
    assert_eq!(of("/a/My App_1."), "my-app-1");
    assert_eq!(of("/a/…"), "project");
    // Listed, and of another one: a number.
    write("projects.json", r#"{"projects":{"/b/app":"app","/c/app":"apple","/d":"../x"}}"#);
    assert_eq!(
        (of("/a/app"), of("/b/app"), of("/c/app")),
        ("app-1".into(), "app".into(), "apple".into())
    );
    assert_eq!(of("/d"), "d");
    // A sign decides, also in the other folder that has them.
    write("history/app-1/.project_root", "/e/app");
    assert_eq!((of("/a/app"), of("/e/app")), ("app-2".into(), "app-1".into()));
    write("tmp/app/.project_root", "/a/app\n");
    assert_eq!((of("/a/app"), of("/b/app")), ("app".into(), "app-2".into()));
    // One that nobody can read is nobody's.
    write("tmp/x/.project_root", "x");
    assert_eq!(of("/a/x"), "x-1");
    write("projects.json", "{");
    assert_eq!(of("/c/app"), "app-2");
}

#[test]
fn a_file_of_nothing_but_its_first_line_is_no_session() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).unwrap().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join("tmp/app").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write_atomic(&path, text.as_bytes(), 0o600).unwrap();
    };
    let first = format!(r#"{{"sessionId":"{ID}","projectHash":"0","kind":"main"}}"#);
    let context = r#"{"$set":{"messages":[{"id":"1","type":"user","content":[{"text":"<session_context>"}]}]}}"#;
    let asked = r#"{"id":"2","type":"user","content":[{"text":"do it"}]}"#;
    write("chats/session-2026-11-27T05-08-01a21b58.jsonl", &format!("{first}\n{context}\n"));
    assert_eq!(Gemini.session(&folder, ID).unwrap(), None);
    write(
        "chats/session-2026-11-27T05-06-01a21b58.jsonl",
        &format!("{first}\n{context}\n{asked}\n"),
    );
    // Nothing says where it was held.
    let refused = Gemini.session(&folder, ID);
    assert!(matches!(refused, Err(AgentError::NoFolder { .. })), "{refused:?}");
    write(".project_root", "/a/app");
    let found = Gemini.session(&folder, ID).unwrap().unwrap();
    assert!(found.at.as_bytes().ends_with(b"05-06-01a21b58.jsonl"));
    assert_eq!((found.cwd.as_path(), found.title.as_str()), (Path::new("/a/app"), "do it"));
    assert_eq!(Gemini.sessions(&folder, Path::new("/a")).unwrap(), std::slice::from_ref(&found));
    assert_eq!(Gemini.main_name(&found), NAME.as_bytes());
}

#[test]
fn a_turn_begins_with_what_was_asked() {
    let mut seen = Seen::default();
    let user =
        |text: &str| format!(r#"{{"id":"1","type":"user","content":[{{"text":"{text}"}}]}}"#);
    let lines = [
        format!(r#"{{"sessionId":"{ID}","projectHash":"0"}}"#),
        user("<session_context>\\nx"),
        user("first"),
        r#"{"id":"2","type":"gemini","content":""}"#.to_owned(),
        r#"{"id":"2","type":"gemini","content":"","toolCalls":[{"id":"c","name":"run_shell_command","args":{"command":"ls"},"result":[]}]}"#.to_owned(),
        r#"{"id":"3","type":"user","content":[{"functionResponse":{"id":"c","name":"x","response":{}}}]}"#.to_owned(),
        r#"{"id":"4","type":"gemini","content":"done"}"#.to_owned(),
        user("/help"),
        user("now call baton handoff"),
        r#"{"$set":{"lastUpdated":"x"}}"#.to_owned(),
        r#"{"id":"5","type":"gemini","content":""}"#.to_owned(),
    ];
    let mut at = 0;
    let mut begins = Vec::new();
    for line in &lines {
        begins.push(at);
        Gemini.see(&mut seen, at, line.as_bytes());
        at += line.len() as u64 + 1;
    }
    assert_eq!((seen.messages, seen.odd_lines), (3, 0));
    // Its call is not written down before it was answered.
    assert_eq!((seen.last_turn, seen.handoff()), (Some(begins[8]), Some(begins[8])));
    let answered = r#"{"id":"5","type":"gemini","content":"","toolCalls":[{"id":"d","name":"run_shell_command","args":{"command":"baton handoff"},"result":[]}]}"#;
    Gemini.see(&mut seen, at, answered.as_bytes());
    assert_eq!(seen.handoff(), None);
}

#[test]
fn what_is_asked_is_never_an_option() {
    let task = Task {
        prompt: "--yolo",
        model: Some("m"),
        approval: Permissions::Edits,
        is_isolated: true,
        is_heard: true,
        told: None,
    };
    let started = Gemini.start(&Start::Resume { id: ID }, &task);
    let expected =
        format!("--output-format stream-json --approval-mode auto_edit --model m --resume {ID}");
    assert_eq!(started.arguments.join(" "), expected);
    assert_eq!((started.input.as_slice(), started.stays_open), (b"--yolo".as_slice(), false));
    let started = Gemini.start(&Start::New { id: Some(ID) }, &Task { model: None, ..task });
    assert!(started.arguments.ends_with(&["--session-id".to_owned(), ID.to_owned()]));
    assert_eq!(Gemini.version("0.61.0\n").as_deref(), Some("0.61.0"));
    assert_eq!(Gemini.version("codex-cli 0.169.0"), None);
    assert_eq!(Gemini.version("12"), None);
}
