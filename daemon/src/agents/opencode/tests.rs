//! Lines, names and places.

use super::*;

const ID: &str = "ses_de42cc8a8ffepZyp4dlVdUs36m";
const CHILD: &str = "ses_de42cc8a7ffepZyp4dlVdUs36m";

fn rel(path: &str) -> RelPath {
    RelPath::new(path.as_bytes()).unwrap()
}

fn target() -> Target {
    let ids = [ID, CHILD].map(|id| (id.to_owned(), id.replace("Zyp", "New")));
    Target {
        id: ID.replace("Zyp", "New"),
        ids: ids.into(),
        cwd: "/w".into(),
        folder: "/f".into(),
        project: String::new(),
    }
}

#[test]
fn an_id_is_never_a_path() {
    assert!(OpenCode.is_id(ID));
    let new = OpenCode.fresh_id(ID).unwrap();
    assert!(OpenCode.is_id(&new) && new != ID && new.starts_with("ses_de42cc8a8ffe"), "{new}");
    assert_ne!(new, OpenCode.fresh_id(ID).unwrap());
    for not in
        ["", "ses_", "..", "ses_../../../../../../x", &ID.replace("ses", "msg"), &ID.repeat(2)]
    {
        assert!(!OpenCode.is_id(not), "{not}");
    }
    assert!(!OpenCode.is_id(&format!("{ID}/x")) && !OpenCode.is_id(&format!("{ID}\n")));
}

#[test]
fn files_come_only_to_places_of_their_session() {
    let to = target();
    let place = |name: &str| Some(OpenCode.place(&rel(name), &to)?.at.display().into_owned());
    let (new, child) = (to.id.clone(), CHILD.replace("Zyp", "New"));
    assert_eq!(place(&format!("{ID}.jsonl")), Some(format!("{new}.jsonl")));
    assert_eq!(place(&format!("{ID}.state.jsonl")), Some(format!("{new}.state.jsonl")));
    let of_child = format!("subagents/{CHILD}.jsonl");
    assert_eq!(place(&of_child), Some(format!("subagents/{child}.jsonl")));
    let output = "tool-output/tool_21c0392bc001uI13mvUGMhGRdK";
    assert_eq!(place(output).as_deref(), Some(output));
    for not in [
        output.replace("tool_", "x_"),
        format!("{output}/x"),
        output.replace("-output", "-output/x"),
        format!("{CHILD}.jsonl"),
        format!("subagents/{ID}.jsonl"),
        format!("other/{CHILD}.jsonl"),
        format!("subagents/x/{CHILD}.jsonl"),
        format!("{ID}.json"),
        "opencode.db".to_owned(),
        "auth.json".to_owned(),
        "ses_x.jsonl".to_owned(),
    ] {
        assert_eq!(place(&not), None, "{not}");
    }
    let id_of = |name: &str| named(&rel(name)).map(|(id, _)| id.to_owned());
    assert_eq!(id_of(&of_child).as_deref(), Some(CHILD));
    assert_eq!(id_of(&format!("{ID}.state.jsonl")).as_deref(), Some(ID));
}

#[test]
fn ids_of_a_fork_are_others_wherever_the_agent_goes_by_them() {
    let to = target();
    let keys: &[&[u8]] = &[b"parts", b"*", b"state", b"output"];
    let renamed = |text: &str| OpenCode.renamed(keys, text, &to);
    let message = "msg_21bd338390017d7sqRyQ0gZyDq";
    let new = renamed(message).unwrap();
    assert!(new.starts_with("msg_21bd33839001") && new != message && is_id_of(MESSAGE, &new));
    assert_eq!(renamed(message), Some(new.clone()));
    assert_ne!(
        OpenCode.renamed(keys, message, &Target { id: CHILD.to_owned(), ..to.clone() }),
        Some(new)
    );
    let part = renamed("prt_21bd3385e001YwsaASl3WFIffb").unwrap();
    assert!(part.starts_with("prt_21bd3385e001"), "{part}");
    let text = format!("task_id: {CHILD} (of {ID}, not {ID}x)\n");
    let expected = text.replace(&format!("{CHILD} "), &format!("{} ", CHILD.replace("Zyp", "New")));
    let expected = expected.replace(&format!("{ID},"), &format!("{},", to.id));
    assert_eq!(renamed(&text), Some(expected));
    // What was said, and what is none of its ids.
    assert_eq!(OpenCode.renamed(&[b"parts", b"*", b"text"], &text, &to), None);
    for same in ["ses_de42cc8a9ffepZyp4dlVdUs36m", "ses_", "msg_x", "x"] {
        assert_eq!(renamed(same), None, "{same}");
    }
    let same = Target { ids: std::collections::BTreeMap::new(), ..to };
    assert_eq!(OpenCode.renamed(keys, message, &same), None);
}

#[test]
fn a_value_stays_as_it_stands_and_names_come_in_order() {
    let canonical = |text: &str| read::canonical(text, 0);
    let text = r#" {"b" : 1.50, "a":[ {"z":"\u00e9","y":-0.0},[],{} ],
        "c":18446744073709551616,"d":"\ud83d"} "#;
    let expected =
        r#"{"a":[{"y":-0.0,"z":"\u00e9"},[],{}],"b":1.50,"c":18446744073709551616,"d":"\ud83d"}"#;
    assert_eq!(canonical(text).as_deref(), Some(expected));
    assert_eq!(canonical(expected).as_deref(), Some(expected));
    for not in ["", "{", "{\"a\":}", "[1,]", "x", "{} {}"] {
        assert_eq!(canonical(not), None, "{not}");
    }
    assert_eq!(canonical(&("[".repeat(100) + &"]".repeat(100))), None);
}

#[test]
fn what_is_asked_is_never_an_option() {
    let task = Task {
        prompt: "--auto",
        model: Some("p/m"),
        approval: Permissions::Edits,
        is_isolated: true,
        is_heard: true,
        told: None,
    };
    let started = OpenCode.start(&Start::Resume { id: ID }, &task);
    assert_eq!(
        started.arguments.join(" "),
        format!("run --format json --model p/m --session {ID}")
    );
    assert_eq!((started.input.as_slice(), started.stays_open), (b"--auto".as_slice(), false));
    let may = |approval| {
        let task = Task { model: None, approval, ..task };
        let started = OpenCode.start(&Start::New { id: Some("x") }, &task);
        let (_, may) =
            started.environment.into_iter().find(|it| it.0 == "OPENCODE_PERMISSION").unwrap();
        let may: serde_json::Value = serde_json::from_str(&may).unwrap();
        assert_eq!(may["question"], "deny");
        (
            started.arguments.iter().any(|it| it == "--auto"),
            may["edit"].clone(),
            may["bash"].clone(),
        )
    };
    assert_eq!(may(Permissions::Ask), (false, "ask".into(), "ask".into()));
    assert_eq!(may(Permissions::Edits), (false, "allow".into(), "ask".into()));
    assert_eq!(may(Permissions::All), (true, serde_json::Value::Null, serde_json::Value::Null));
    assert_eq!(OpenCode.version("1.18.33\n").as_deref(), Some("1.18.33"));
    assert_eq!(OpenCode.version("codex-cli 0.169.0"), None);
}

/// The shell has nothing of what anybody says in its line, starts nothing where a document was not taken in, and becomes the
/// program.
#[test]
fn documents_are_taken_in_before_the_program_is_started() {
    use baton_store::fs;

    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("a program");
    let script = "#!/bin/sh\n\
        if [ \"$1\" = import ]; then grep -q good \"$2\" && echo \"Imported session: x\"; exit 0; fi\n\
        echo \"started $$\"; printf '<%s>' \"$@\"; cat\n";
    fs::write_atomic(&program, script.as_bytes(), 0o755).unwrap();
    let document = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write_atomic(&path, text.as_bytes(), 0o600).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let kept = OpenCode.kept().unwrap();
    let run = |documents: &[String]| {
        let words = ["run", "$(touch x)", "-- '"].map(str::to_owned).to_vec();
        let words = [vec![program.to_str().unwrap().to_owned()], words].concat();
        let words = kept.imports_first(documents, words);
        let mut child = std::process::Command::new(&words[0])
            .args(&words[1..])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"the prompt").unwrap();
        let id = child.id();
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (id, output.status.success(), text(output.stdout), text(output.stderr))
    };
    let all = [document("1 .json", "good"), document("2.json", "good")];
    let (id, success, out, _) = run(&all);
    assert_eq!(out, format!("started {id}\n<run><$(touch x)><-- '>the prompt"));
    assert!(success && all.iter().all(|it| !std::path::Path::new(it).exists()));
    let all = [document("1.json", "good"), document("2.json", "bad")];
    let (_, success, out, error) = run(&all);
    assert!(!success && out.is_empty() && error.contains("could not be taken in"), "{out} {error}");
    assert!(std::path::Path::new(&all[1]).exists());
}
