//! Output that streams, readers that go away, and `Ctrl-C`.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use baton_daemon::api::control::{
    Answer, Bytes, Command, DaemonAnswer, Event, LogLine, Progress, RemotesAnswer,
};

use super::fake::{Fake, done};
use super::place::{Place, Ran};

fn line(stream: &str, text: &[u8]) -> Event {
    Event::Line(LogLine {
        time: "2026-01-02T03:04:05.678Z".into(),
        stream: stream.into(),
        text: String::from_utf8_lossy(text).into_owned(),
        text_b64: std::str::from_utf8(text).is_err().then(|| Bytes(text.to_vec())),
    })
}

#[test]
fn logs_are_bytes_for_people_and_objects_for_programs() {
    let place = Place::new();
    let _fake = Fake::start(&place, |_| {
        vec![
            line("node", b"preparing\n"),
            line("stdout", b"caf\xe9 \x1b[1mbold\x1b[0m\n"),
            line("stderr", b"oops\n"),
            line("stdout", b"no end"),
            done(Answer::LogsEnd),
        ]
    });
    let output = place.baton(["logs", "9c1d2e3f"]).output().unwrap();
    assert_eq!(output.stdout, b"caf\xe9 \x1b[1mbold\x1b[0m\nno end");
    assert_eq!(output.stderr, b"baton: preparing\noops\n");
    let ran = place.line("run logs 9c1d2e3f --json");
    let lines: Vec<serde_json::Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((ran.code, ran.err.as_str(), lines.len()), (0, "", 4));
    assert_eq!(lines[0]["stream"], "node");
    assert_eq!(lines[1]["text_b64"], "Y2Fm6SAbWzFtYm9sZBtbMG0K");
    assert_eq!(lines[2]["text"], "oops\n");
    assert_eq!(lines[3]["time"], "2026-01-02T03:04:05.678Z");
}

#[test]
fn ctrl_c_leaves_a_push_to_the_daemon_and_says_how_to_stop_it() {
    let place = Place::new();
    let id = "9c1d2e3f".repeat(4);
    let accepted = Event::Accepted { queue: id };
    let note = Event::Note { message: "under way".into() };
    let fake = Fake::start(&place, move |_| vec![accepted.clone(), note.clone()]);
    for arguments in [&["push"][..], &["handoff", "--", "make"]] {
        let mut command = place.baton(arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut err = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        err.read_line(&mut said).unwrap();
        assert_eq!(said, "note: under way\n");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        err.read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert!(
            said.contains("detached; the ") && said.contains("goes on in the daemon"),
            "{said}"
        );
        assert!(said.contains("baton queue cancel 9c1d2e3f"), "{said}");
    }
    fake.wait_until_gone();
}

#[test]
fn a_reader_that_has_seen_enough_is_a_success() {
    let place = Place::new();
    let _fake =
        Fake::start(&place, |_| (0..20_000).map(|_| line("stdout", &[b'x'; 100])).collect());
    let mut command = place.baton(["logs", "9c1d2e3f", "-f"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran, Ran { code: 0, out: String::new(), err: String::new() });
}

#[test]
fn ctrl_c_detaches_and_says_how_to_follow_again() {
    let place = Place::new();
    let fake = Fake::start(&place, |_| vec![line("stdout", b"first\n")]);
    let mut command = place.baton(["logs", "9c1d2e3f", "-f"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    assert_eq!(first, "first\n", "it is shown as it comes");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(
        err.contains("detached; the run goes on") && err.contains("baton logs 9c1d2e3f -f"),
        "{err}"
    );
    fake.wait_until_gone();
}

#[test]
fn progress_is_drawn_only_on_a_terminal_and_nothing_is_coloured_elsewhere() {
    let place = Place::new();
    let _fake = Fake::start(&place, |command| {
        let progress = Progress { stage: "send".into(), done: 1, total: Some(2), bytes: 3 };
        let answer = match command {
            Command::Ping => Answer::Daemon(DaemonAnswer {
                running: true,
                pid: Some(7),
                version: Some("1".into()),
                home: "/h".into(),
                serving: false,
            }),
            _ => Answer::Remotes(RemotesAnswer { remotes: Vec::new() }),
        };
        vec![Event::Progress(progress), done(answer)]
    });
    let empty = "no node is known; baton join TICKET adds one\n";
    assert_eq!(place.line("remote list"), Ran { code: 0, out: empty.into(), err: String::new() });
    let running = "running  version 1, process 7, home /h\n";
    assert_eq!(place.line("daemon status").out, running);
    for arguments in [&["frobnicate"][..], &["watch"], &["--help"], &["daemon", "status"]] {
        let output = place.baton(arguments).env("NO_COLOR", "1").output().unwrap();
        assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b), "{arguments:?}");
    }
}
