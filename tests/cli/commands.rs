//! What each command asks, and what it shows of the answer.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use baton_daemon::api::control::{
    Answer, Bytes, CheckAnswer, Command, Event, HandoffAnswer, HandoffRun, JoinAnswer,
    OmittedEntry, Problem, PushFields, QueueCancelAnswer, Receipt, RemoteEntry, RemotesAnswer,
    ReportPath, RunEntry, SnapshotAnswer, TimingMs,
};
use baton_protocol::id::NodeId;
use baton_protocol::ticket::{SECRET, Ticket};

use super::fake::{Fake, done, failed};
use super::place::{Place, Ran};

const RUN: &str = "9c1d2e3f9c1d2e3f9c1d2e3f9c1d2e3f";

fn snapshot() -> SnapshotAnswer {
    SnapshotAnswer {
        snapshot: "3f2a91c0".repeat(8),
        sequence: 4,
        files: 78_579,
        bytes: 1_300_000_000,
        files_changed: 2,
        omitted: Vec::new(),
        torn: Vec::new(),
        timing_ms: TimingMs { scan: Some(400.5), total: 412.0, ..TimingMs::default() },
        push: None,
    }
}

fn run_entry(state: &str, exit_code: Option<i32>) -> RunEntry {
    RunEntry {
        run: RUN.into(),
        thread: RUN.into(),
        remote: "box".into(),
        workspace: "aa".repeat(16),
        state: state.into(),
        reason: None,
        agent: "command".into(),
        command: vec!["make".into()],
        prompt: None,
        parent: None,
        snapshot: "cc".repeat(32),
        result: None,
        exit_code,
        waiting: None,
        check: None,
        timeout_ms: None,
        isolated: true,
        checkout: None,
        started_at: None,
        ended_at: None,
    }
}

fn handoff() -> HandoffAnswer {
    HandoffAnswer {
        handoff: "dd".repeat(16),
        snapshot: "3f2a91c0".repeat(8),
        state: "acked".into(),
        remote: "local".into(),
        queue: None,
        runs: vec![HandoffRun {
            run: RUN.into(),
            thread: RUN.into(),
            state: "queued".into(),
            checkout: None,
        }],
        receipt: Receipt {
            snapshot: "3f2a91c0".repeat(8),
            root: "/r".into(),
            verified: true,
            isolated: Some(true),
            git: None,
            conversation: None,
            attachments: Vec::new(),
            omitted: Vec::new(),
        },
        files: 3,
        bytes: 12,
        bytes_sent: 345,
        objects_sent: 5,
        round_trips: 1,
        timing_ms: TimingMs { total: 41.0, ..TimingMs::default() },
    }
}

#[test]
fn a_snapshot_is_a_line_for_people_and_an_object_for_programs() {
    let place = Place::new();
    let fake = Fake::answering(&place, Answer::Snapshot(snapshot()));
    let ran = place.line("snapshot -m before");
    let out = "snapshot 3f2a91c0  78,579 files, 1.30 GB (2 changed) in 0.41 s\n".to_owned();
    assert_eq!(ran, Ran { code: 0, out, err: String::new() });
    let json = place.line("snapshot --json").json();
    assert_eq!(json["snapshot"], "3f2a91c0".repeat(8));
    assert_eq!(json["omitted"], serde_json::json!([]), "a list is never missing");
    assert_eq!(json["timing_ms"]["scan"], 400.5);
    assert!(json["timing_ms"]["send"].is_null(), "absent is null");
    let work = Bytes(place.path("work").as_os_str().as_bytes().to_vec());
    match &fake.seen()[..] {
        [Command::Snapshot { path, message }, Command::Snapshot { message: None, .. }] => {
            assert_eq!((path, message.as_deref()), (&work, Some("before")));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_left_out_is_named_and_cannot_command_the_terminal() {
    let place = Place::new();
    let entry =
        |path: &[u8]| OmittedEntry { path: ReportPath::new(path), reason: "special".into() };
    let answer =
        SnapshotAnswer { omitted: vec![entry(b"pipe\x1b[2J"), entry(b"\xff")], ..snapshot() };
    let _fake = Fake::answering(&place, Answer::Snapshot(answer));
    let ran = place.line("snapshot");
    let expected = "left out: 2 paths\n  pipe\\u{1b}[2J (special)\n  \u{fffd} (special)\n";
    assert!(ran.out.ends_with(expected), "{ran:?}");
    let json = place.line("snapshot --json").json();
    assert_eq!(json["omitted"][1]["path_b64"], "/w==", "{json}");
}

#[test]
fn failures_say_what_why_and_what_to_type_next() {
    for (exit, code) in [(1, "remote-unreachable"), (3, "queued"), (4, "target-not-empty")] {
        let place = Place::new();
        let script = move |_: &Command| vec![failed(code, "it failed", Some("baton doctor"), exit)];
        let _fake = Fake::start(&place, script);
        let ran = place.line("push");
        let err = "error: it failed\nhint: baton doctor\n".to_owned();
        assert_eq!(ran, Ran { code: exit.into(), out: String::new(), err: err.clone() });
        let ran = place.line("push --json");
        let expected = serde_json::json!({
            "error": { "code": code, "message": "it failed", "hint": "baton doctor" }
        });
        assert_eq!((ran.code, ran.err.as_str(), ran.json()), (exit.into(), err.as_str(), expected));
    }
    let place = Place::new();
    let _fake = Fake::start(&place, |_| vec![failed("x", "it failed", None, 1)]);
    assert!(place.line("push --json").json()["error"]["hint"].is_null());
}

#[test]
fn a_workspace_is_the_root_of_its_git_worktree() {
    let place = Place::new();
    place.write("work/.git/HEAD", "ref: refs/heads/main\n");
    place.write("work/src/x", "");
    let fake = Fake::answering(&place, Answer::Snapshot(snapshot()));
    assert_eq!(place.baton(["push", "src"]).status().unwrap().code(), Some(0));
    assert_eq!(
        place.baton(["push"]).current_dir(place.path("work/src")).status().unwrap().code(),
        Some(0)
    );
    for command in fake.seen() {
        let Command::Push { path, .. } = command else { panic!("{command:?}") };
        assert_eq!(path.0, place.path("work").as_os_str().as_bytes());
    }
    let ran = place.line("push gone");
    assert_eq!(ran.code, 1);
    assert!(ran.err.starts_with("error: ") && ran.err.contains("hint: "), "{ran:?}");
}

#[test]
fn a_handoff_carries_every_byte_of_what_was_typed() {
    let place = Place::new();
    place.write("work/notes.md", "x");
    let fake = Fake::start(&place, |_| {
        let message = "this machine".to_owned();
        vec![Event::Note { message }, done(Answer::Handoff(Box::new(handoff())))]
    });
    let mut command =
        place.baton(["handoff", "--remote", "box", "-p", "-", "--attach", "./notes.md", "--"]);
    command.args([OsStr::new("sh"), OsStr::new("--json"), OsStr::from_bytes(b"a\xffb")]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all("größe\n".as_bytes()).unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap());
    let out = "handed off 3f2a91c0  3 files, 12 B to local (345 B in 1 round trip) in 41 ms\n\
               run 9c1d2e3f  queued, follow it with: baton logs 9c1d2e3f -f\n";
    assert_eq!(ran, Ran { code: 0, out: out.into(), err: "note: this machine\n".into() });
    let seen = fake.seen();
    let [Command::Handoff(call)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(call.remote.as_deref(), Some("box"));
    assert_eq!(call.prompts, ["größe\n"]);
    let expected = [&b"sh"[..], b"--json", b"a\xffb"];
    assert!(call.command.iter().map(|argument| &argument.0[..]).eq(expected), "{call:?}");
    let notes = place.path("work/notes.md");
    assert_eq!(call.attachments, [Bytes(notes.as_os_str().as_bytes().to_vec())]);
    assert_eq!(place.line("handoff --json").json()["runs"][0]["run"], RUN);
}

#[test]
fn what_was_queued_exits_3_and_says_so() {
    let place = Place::new();
    let id = "9c1d2e3f".repeat(4);
    let queued = id.clone();
    let fake = Fake::start(&place, move |command| match command {
        Command::Push { .. } => {
            let push = PushFields {
                state: "queued".into(),
                remote: "box".into(),
                bytes_sent: 0,
                objects_sent: 0,
                round_trips: 0,
                queue: Some(queued.clone()),
            };
            vec![done(Answer::Snapshot(SnapshotAnswer { push: Some(push), ..snapshot() }))]
        }
        Command::Handoff(_) => {
            let (state, queue) = ("queued".into(), Some(queued.clone()));
            vec![done(Answer::Handoff(Box::new(HandoffAnswer { state, queue, ..handoff() })))]
        }
        _ => {
            let cancelled = vec![queued.clone()];
            vec![done(Answer::QueueCancelled(QueueCancelAnswer { cancelled }))]
        }
    });
    let ran = place.line("push --wait");
    let out = "queued 3f2a91c0  78,579 files, 1.30 GB (2 changed), for box, in 0.41 s\n";
    assert_eq!(ran, Ran { code: 3, out: out.into(), err: String::new() });
    let json = place.line("push --json");
    assert_eq!((json.code, &json.json()["queue"]), (3, &id.clone().into()));
    // What did not start cannot be followed.
    let ran = place.line("handoff -f --expires 2h -- make");
    let out = "queued 3f2a91c0  3 files, 12 B to local in 41 ms\n\
               run 9c1d2e3f  queued, starts when the handoff arrives\n";
    assert_eq!(ran, Ran { code: 3, out: out.into(), err: String::new() });
    let ran = place.line("queue cancel 9C1D2E3F");
    assert_eq!((ran.code, ran.out.as_str()), (0, "cancelled 9c1d2e3f\n"));
    match &fake.seen()[..] {
        [
            Command::Push { wait: true, .. },
            Command::Push { wait: false, .. },
            Command::Handoff(call),
            Command::QueueCancel { id },
        ] => {
            assert_eq!(call.expires_ms, Some(2 * 60 * 60 * 1000));
            assert_eq!(id, "9c1d2e3f");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_handoff_refuses_what_cannot_be_before_it_asks() {
    let place = Place::new();
    place.write("work/prompt", &"x".repeat(256 * 1024 + 1));
    let cases = [
        ("handoff --attach gone -- make", 1, "attachment"),
        ("handoff --attach . -- make", 1, "attachment"),
        ("handoff --prompt-file gone -- make", 1, "prompt-file"),
        ("handoff --prompt-file prompt -- make", 2, ""),
        ("handoff gone -- make", 1, "no-such-folder"),
        ("handoff prompt -- make", 1, "not-a-folder"),
    ];
    for (line, code, name) in cases {
        let ran = place.line(&format!("--json {line}"));
        assert_eq!(ran.code, code, "{line}: {ran:?}");
        if code == 1 {
            assert_eq!(ran.json()["error"]["code"], name, "{line}");
        }
    }
    let nested = place.baton(["handoff", "--", "make"]).env("BATON_RUN", RUN).output().unwrap();
    let nested = Ran::from(nested);
    assert!(nested.code == 1 && nested.err.contains("--nested"), "{nested:?}");
    assert!(place.is_untouched());
}

#[test]
fn ids_may_be_typed_in_upper_case_and_targets_relative() {
    let place = Place::new();
    let fake = Fake::start(&place, |_| vec![failed("not-found", "no", None, 1)]);
    drop(place.line("restore 3F2A91C0 --into ../new --remote box"));
    drop(place.line("pull 9C1D2E3F --into new"));
    drop(place.line("diff 3F2A91C0 77B01D2E --patch"));
    let bytes = |name: &str| Bytes(place.path(name).as_os_str().as_bytes().to_vec());
    let seen = fake.seen();
    let [Command::Restore { snapshot, into, remote }, Command::Pull(pull), diff] = &seen[..] else {
        panic!("{seen:?}")
    };
    assert_eq!(
        (snapshot.as_str(), into, remote.as_deref()),
        ("3f2a91c0", &bytes("new"), Some("box"))
    );
    assert_eq!((pull.run.as_str(), &pull.into), ("9c1d2e3f", &Some(bytes("work/new"))));
    let Command::Diff { a, b: Some(b), patch: true, .. } = diff else { panic!("{diff:?}") };
    assert_eq!((a.as_str(), b.as_str()), ("3f2a91c0", "77b01d2e"));
}

#[test]
fn waiting_for_a_run_exits_with_its_code() {
    let cases = [("succeeded", Some(0), 0), ("failed", Some(3), 3), ("cancelled", None, 1)];
    for (state, exit_code, code) in cases {
        let place = Place::new();
        let _fake = Fake::answering(&place, Answer::Run(Box::new(run_entry(state, exit_code))));
        let ran = place.line(&format!("run wait {RUN}"));
        assert_eq!((ran.code, ran.err.as_str()), (code, ""), "{ran:?}");
        assert!(ran.out.starts_with(&format!("run 9c1d2e3f  {state}")), "{ran:?}");
        let ran = place.line(&format!("run wait {RUN} --json"));
        assert_eq!((ran.code, &ran.json()["state"]), (code, &state.into()));
        let shown = place.line(&format!("run show {RUN} --json"));
        assert_eq!((shown.code, &shown.json()["runs"][0]["run"]), (0, &RUN.into()));
    }
}

#[test]
fn check_exits_5_where_something_is_damaged() {
    let place = Place::new();
    let problem = Problem { what: "segment ab".into(), detail: "a checksum is wrong".into() };
    let answer =
        CheckAnswer { problems: vec![problem], snapshots: 2, objects: 1234, bytes_read: 0 };
    let _fake = Fake::answering(&place, Answer::Check(answer));
    let ran = place.line("check");
    let out = "damaged segment ab: a checksum is wrong\n1 problem in 2 snapshots and 1,234 objects\nnext: baton repair\n";
    assert_eq!(ran, Ran { code: 5, out: out.into(), err: String::new() });
    let ran = place.line("check --json");
    assert_eq!((ran.code, &ran.json()["problems"][0]["what"]), (5, &"segment ab".into()));
}

#[test]
fn remotes_are_a_table_and_leave_is_remove() {
    let place = Place::new();
    let remote = |name: &str, default| RemoteEntry {
        name: name.into(),
        node_id: "ab12cd34".repeat(8),
        user: "owner".into(),
        addresses: vec!["127.0.0.1:4319".into()],
        default,
        embedded: !default,
        transport: None,
    };
    let remotes = vec![remote("box", true), remote("local", false)];
    let fake = Fake::answering(&place, Answer::Remotes(RemotesAnswer { remotes }));
    let ran = place.line("remote list");
    let table = "box    ab12cd34  owner  127.0.0.1:4319   default\n\
                 local  ab12cd34  owner  on this machine\n";
    assert_eq!(ran, Ran { code: 0, out: table.into(), err: String::new() });
    for line in ["remote remove old", "remote leave old", "leave old"] {
        assert_eq!(place.line(line).out, format!("left old\n{table}"));
    }
    let removes =
        fake.seen().iter().filter(|one| matches!(one, Command::RemoteRemove { .. })).count();
    assert_eq!(removes, 3);
}

#[test]
fn a_ticket_is_read_from_stdin_and_a_damaged_one_starts_nothing() {
    let place = Place::new();
    let ran = place.line("join baton1damaged --json");
    assert_eq!((ran.code, &ran.json()["error"]["code"]), (1, &"ticket".into()), "{ran:?}");
    assert!(place.is_untouched());
    let ticket = Ticket {
        node: NodeId::from_bytes([7; 32]),
        secret: [9; SECRET],
        addresses: vec!["127.0.0.1:4319".into()],
    };
    let word = ticket.encode();
    let answer = JoinAnswer {
        remote: "box".into(),
        node_id: "ab12cd34".repeat(8),
        device_id: "cd34ab12".repeat(8),
        user: "owner".into(),
    };
    let fake = Fake::answering(&place, Answer::Join(answer));
    let mut command = place.baton(["join", "-", "--name", "box"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("  {word}\n").as_bytes()).unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap());
    let out = "joined box as owner  node ab12cd34, this device cd34ab12\n".to_owned();
    assert_eq!(ran, Ran { code: 0, out, err: String::new() });
    let seen = fake.seen();
    let [Command::Join { ticket, name }] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((ticket, name.as_deref()), (&word, Some("box")));
}
