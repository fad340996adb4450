//! Notices reach programs and URLs, are tried again, and never hold up who has something to tell.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

use baton_store::fs;

use super::*;

fn notice(byte: u8, state: RunState) -> Notice {
    Notice {
        run: RunId::from_bytes([byte; 16]),
        thread: ThreadId::from_bytes([2; 16]),
        workspace: WorkspaceId::from_bytes([3; 16]),
        user: "ann".to_owned(),
        state,
        time: 1_000,
    }
}

/// The program `sh` with a script, in a folder of its own.
fn shell(script: &str) -> NotifyConfig {
    NotifyConfig { command: ["sh", "-c", script].map(str::to_owned).to_vec(), url: None }
}

fn options(folder: &tempfile::TempDir) -> NoticeOptions {
    let environment = vec![("PATH".into(), crate::rooms::DEFAULT_PATH.into())];
    NoticeOptions {
        waits: [1, 1, 1].map(Duration::from_millis).to_vec(),
        ..NoticeOptions::new(environment, folder.path().to_owned())
    }
}

/// Waits until a file has so many lines.
async fn lines(folder: &tempfile::TempDir, name: &str, count: usize) -> Vec<String> {
    let path = folder.path().join(name);
    let read = async {
        loop {
            let text = fs::read_if_exists(&path, 1 << 20).unwrap().unwrap_or_default();
            let lines: Vec<_> =
                String::from_utf8(text).unwrap().lines().map(str::to_owned).collect();
            if lines.len() >= count {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), read).await.expect("it was not told")
}

#[tokio::test]
async fn a_program_is_told_ids_a_state_and_a_time_and_has_nothing_else() {
    let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let config = shell("cat > told.new; env > env.new; mv env.new env; mv told.new told");
    let notices = Notices::start(&config, &options(&folder), &tasks);
    notices.tell(&notice(1, RunState::Failed));
    let told = lines(&folder, "told", 1).await.remove(0);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let expected = serde_json::json!({
        "run": "01".repeat(16),
        "thread": "02".repeat(16),
        "workspace": "03".repeat(16),
        "user": "ann",
        "state": "failed",
        "time": "1970-01-01T00:00:01.000Z",
    });
    assert_eq!(told, expected);
    // What a shell sets by itself is beside it.
    let mut environment = lines(&folder, "env", 1).await;
    let own = |variable: &String| {
        ["PWD=", "SHLVL=", "_=", "OLDPWD="].iter().any(|own| variable.starts_with(own))
    };
    environment.retain(|variable| !own(variable));
    assert_eq!(environment, [format!("PATH={}", crate::rooms::DEFAULT_PATH)]);
}

#[tokio::test]
async fn what_fails_is_tried_again_a_few_times_and_the_next_is_told() {
    let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    // The first run fails always, the second one twice.
    let script = "read line; echo \"$line\" | cut -c 9-10 >> tried
        case $line in *'\"run\":\"01'*) exit 1;; esac
        [ $(grep -c 02 tried) -ge 3 ]";
    let notices = Notices::start(&shell(script), &options(&folder), &tasks);
    for (byte, state) in [(1, RunState::Succeeded), (2, RunState::Cancelled), (3, RunState::Failed)]
    {
        notices.tell(&notice(byte, state));
    }
    let tried = lines(&folder, "tried", 8).await;
    assert_eq!(tried, ["01", "01", "01", "01", "02", "02", "02", "03"]);
}

#[tokio::test]
async fn a_program_that_hangs_is_ended_with_what_it_started() {
    let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let script = "read line; sleep 300 & echo $! >> started; echo $line >> told; wait";
    let options =
        NoticeOptions { limit: Duration::from_millis(300), waits: Vec::new(), ..options(&folder) };
    let notices = Notices::start(&shell(script), &options, &tasks);
    notices.tell(&notice(1, RunState::Failed));
    notices.tell(&notice(2, RunState::Failed));
    let started = lines(&folder, "started", 2).await;
    let is_gone = || {
        let stat =
            fs::read_if_exists(std::path::Path::new(&format!("/proc/{}/stat", started[0])), 4096);
        let stat = String::from_utf8(stat.unwrap().unwrap_or_default()).unwrap();
        stat.rsplit(") ").next().is_some_and(|rest| rest.is_empty() || rest.starts_with(['Z', 'X']))
    };
    while cfg!(target_os = "linux") && !is_gone() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn who_tells_never_waits_and_what_is_too_much_is_dropped() {
    let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let script = "until [ -e gate ]; do sleep 0.01; done; cut -c 9-10 >> told";
    let options = NoticeOptions { max_waiting: 3, ..options(&folder) };
    let notices = Notices::start(&shell(script), &options, &tasks);
    for byte in 0..100 {
        notices.tell(&notice(byte, RunState::Failed));
        if byte == 0 {
            // Until the worker has the first one, it counts as one that waits.
            tokio::task::yield_now().await;
        }
    }
    fs::write_atomic(&folder.path().join("gate"), b"", 0o600).unwrap();
    assert_eq!(lines(&folder, "told", 4).await, ["00", "01", "02", "03"]);
    // Nothing of it is started where there is nobody to tell.
    Notices::start(&NotifyConfig::default(), &options, &tasks).tell(&notice(1, RunState::Failed));
    Notices::default().tell(&notice(1, RunState::Failed));
}

#[tokio::test]
async fn what_waits_when_a_node_ends_is_tried_once() {
    let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let options = NoticeOptions { waits: vec![Duration::from_hours(1); 3], ..options(&folder) };
    let script = "cut -c 9-10 >> told; exit 1";
    let notices = Notices::start(&shell(script), &options, &tasks);
    notices.tell(&notice(1, RunState::Failed));
    lines(&folder, "told", 1).await;
    notices.tell(&notice(2, RunState::Interrupted));
    tasks.cancel();
    assert_eq!(tasks.shut_down(Duration::from_mins(1)).await, [""; 0]);
    // The first one waits for its second try, or has not ended its first one yet.
    let told = lines(&folder, "told", 2).await;
    assert!(told == ["01", "01", "02"] || told == ["01", "02"], "{told:?}");
}

/// One request as it comes: its head and its body.
fn request(stream: &TcpStream) -> (String, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse().unwrap())
    });
    let mut body = vec![0; length.unwrap()];
    reader.read_exact(&mut body).unwrap();
    (head, body)
}

/// A server that gives these answers, and tells what it was sent.
fn server(answers: Vec<&'static str>) -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook?key=swordfish", listener.local_addr().unwrap());
    let (to, from) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            to.send(request(&stream)).unwrap();
            let head =
                format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
        }
    });
    (url, from)
}

async fn sent(from: mpsc::Receiver<(String, Vec<u8>)>, count: usize) -> Vec<(String, Vec<u8>)> {
    let tasks = Tasks::new();
    let receive =
        move || (0..count).map(|_| from.recv_timeout(Duration::from_mins(1)).unwrap()).collect();
    tasks.spawn_blocking("receive", receive).await.unwrap()
}

#[tokio::test]
async fn a_url_is_told_again_until_it_takes_it_and_no_redirect_is_followed() {
    let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let answers = vec!["500 No", "302 Found\r\nlocation: /elsewhere", "204 Yes", "200 Yes"];
    let (url, from) = server(answers);
    let config = NotifyConfig { url: Some(url), ..NotifyConfig::default() };
    let notices = Notices::start(&config, &options(&folder), &tasks);
    notices.tell(&notice(1, RunState::Succeeded));
    notices.tell(&notice(2, RunState::Failed));
    let sent = sent(from, 4).await;
    for (at, (head, body)) in sent.iter().enumerate() {
        assert!(head.starts_with("POST /hook?key=swordfish HTTP/1.1\r\n"), "{head}");
        assert!(head.to_ascii_lowercase().contains("content-type: application/json"), "{head}");
        let run = if at < 3 { "01" } else { "02" };
        let told: serde_json::Value = serde_json::from_slice(body).unwrap();
        assert_eq!(told["run"], run.repeat(16));
    }
}

#[tokio::test]
async fn nobody_at_a_url_and_a_certificate_of_nobody_are_errors_without_the_url() {
    let tasks = Tasks::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // One that answers, and has no certificate.
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let answers = plain.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = plain.accept().unwrap();
        stream.write_all(b"HTTP/1.1 200 Yes\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    for place in [format!("http://{free}"), format!("https://{free}"), format!("https://{answers}")]
    {
        let url = format!("{place}/swordfish");
        let post = Arc::new(post::Post::new(&url, Duration::from_secs(5)));
        assert!(!format!("{post:?}").contains("swordfish"));
        let error = Target::Url(post).tell(b"{}".to_vec(), &tasks).await.unwrap_err();
        let said = format!("{error} {error:?} {}", std::error::Error::source(&error).unwrap());
        assert!(!said.contains("swordfish"), "{said}");
    }
}
