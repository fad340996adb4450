//! Calls over a real socket: the blocking client on a thread, the daemon's half on a runtime.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;

use tokio::sync::{Notify, oneshot};

use super::*;
use crate::api::control::{DaemonAnswer, LogLine, RemotesAnswer};

/// Answers some commands in a way that shows what the socket does with it.
#[derive(Default)]
struct Fake {
    finish: Notify,
    finished: Notify,
}

impl Commands for Fake {
    fn run(self: Arc<Self>, command: Command, events: EventSender) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            match command {
                Command::Ping => events.done(Answer::Daemon(daemon())).await,
                Command::RemoteList => {
                    events.note("a note").await;
                    events.done(Answer::Remotes(RemotesAnswer { remotes: Vec::new() })).await;
                    events.note("after the end").await;
                }
                Command::Doctor => panic!("on purpose"),
                Command::Check { .. } => {}
                Command::RunWait { .. } => {
                    self.finish.notified().await;
                    self.finished.notify_one();
                    events.done(Answer::LogsEnd).await;
                }
                Command::RunLogs { .. } => {
                    let line = LogLine {
                        time: String::new(),
                        stream: "stdout".into(),
                        text: "x".repeat(1000),
                        text_b64: None,
                    };
                    while !events.is_gone() {
                        events.send(Event::Line(line.clone())).await;
                    }
                    self.finished.notify_one();
                }
                _ => events.failed(refused("unexpected", String::new())).await,
            }
        })
    }
}

fn daemon() -> DaemonAnswer {
    DaemonAnswer { running: true, pid: Some(1), version: None, home: String::new(), serving: false }
}

struct Running {
    folder: tempfile::TempDir,
    commands: Arc<Fake>,
    activity: Activity,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
}

#[expect(clippy::disallowed_methods, reason = "the test is the task's owner")]
fn start(version: &'static str) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let socket = ControlSocket::bind(&folder.path().join("sub/daemon.sock")).unwrap();
    let socket = socket.with_version(version);
    let (stop, stopped) = oneshot::channel();
    let (commands, activity) = (Arc::new(Fake::default()), socket.activity());
    let served = tokio::spawn(socket.serve(Arc::clone(&commands), async { drop(stopped.await) }));
    Running { folder, commands, activity, stop, served }
}

impl Running {
    fn path(&self) -> PathBuf {
        self.folder.path().join("sub/daemon.sock")
    }

    /// Everything that a call is answered.
    async fn call(&self, command: Command) -> Vec<Result<Event, CallError>> {
        let path = self.path();
        blocking(move || ControlClient::connect(&path).unwrap().call(&command).unwrap().collect())
            .await
    }

    /// Everything that a raw line is answered.
    async fn raw(&self, bytes: Vec<u8>) -> String {
        let path = self.path();
        blocking(move || {
            let mut stream = BlockingStream::connect(path).unwrap();
            drop(stream.write_all(&bytes));
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut line = String::new();
            drop(BufReader::new(stream).read_line(&mut line));
            line
        })
        .await
    }
}

#[expect(clippy::disallowed_methods, reason = "the test is the task's owner")]
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn failure(events: &[Result<Event, CallError>]) -> &Failure {
    match events {
        [Ok(Event::Failed(failure))] => failure,
        other => panic!("not one failure: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_gets_its_events_in_order_and_nothing_after_the_last() {
    let running = start(VERSION);
    let events = running.call(Command::RemoteList).await;
    assert!(
        matches!(&events[..], [Ok(Event::Note { message }), Ok(Event::Done(_))] if message == "a note"),
        "{events:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_panics_or_ends_in_silence_is_reported() {
    let running = start(VERSION);
    assert_eq!(failure(&running.call(Command::Doctor).await).code, "internal");
    assert_eq!(failure(&running.call(Command::Check { data: false }).await).code, "internal");
    assert_eq!(running.activity.running(), 0);
    assert!(matches!(running.call(Command::Ping).await[..], [Ok(Event::Done(_))]));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_may_only_ask_who_is_there_and_stop() {
    let running = start("0.0.0-other");
    let failed = running.call(Command::RemoteList).await;
    assert_eq!(failure(&failed).code, OTHER_VERSION);
    assert!(failure(&failed).message.contains("0.0.0-other"), "{failed:?}");
    assert!(matches!(running.call(Command::Ping).await[..], [Ok(Event::Done(_))]));
    let unknown = br#"{"version":"9.9.9","command":{"teleport":{}}}"#;
    assert!(running.raw([unknown, &b"\n"[..]].concat()).await.contains(OTHER_VERSION));
    let stop = running.call(Command::Stop { if_idle: false }).await;
    assert_eq!(failure(&stop).code, "unexpected", "it reached the commands");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_endless_calls_are_refused_and_harm_nobody() {
    let running = start(VERSION);
    assert!(running.raw(b"hello\n".to_vec()).await.contains("bad-call"));
    assert!(running.raw(b"{\"version\":\"1\"".to_vec()).await.contains("bad-call"));
    assert!(running.raw(vec![b'x'; MAX_CALL + 10]).await.contains("call-too-long"));
    assert_eq!(running.raw(Vec::new()).await, "");
    assert!(matches!(running.call(Command::Ping).await[..], [Ok(Event::Done(_))]));
    let long = Command::RemoteDefault { name: "x".repeat(MAX_CALL) };
    let client = ControlClient::connect(&running.path()).unwrap();
    assert!(matches!(client.call(&long), Err(CallError::TooLong)));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_when_its_caller_hangs_up() {
    let running = start(VERSION);
    let wait = Command::RunWait { run: String::new() };
    let events = ControlClient::connect(&running.path()).unwrap().call(&wait).unwrap();
    while running.activity.running() == 0 {
        tokio::task::yield_now().await;
    }
    drop(events);
    running.commands.finish.notify_one();
    running.commands.finished.notified().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_learns_that_nobody_reads_any_more() {
    let running = start(VERSION);
    let logs = Command::RunLogs { run: String::new(), follow: true };
    let mut events = ControlClient::connect(&running.path()).unwrap().call(&logs).unwrap();
    assert!(matches!(events.next(), Some(Ok(Event::Line(_)))));
    drop(events);
    running.commands.finished.notified().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_takes_the_socket_away_and_lets_running_commands_end() {
    let running = start(VERSION);
    let wait = Command::RunWait { run: String::new() };
    let events = ControlClient::connect(&running.path()).unwrap().call(&wait).unwrap();
    while running.activity.running() == 0 {
        tokio::task::yield_now().await;
    }
    let path = running.path();
    running.stop.send(()).unwrap();
    while path.exists() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(ControlClient::connect(&path), Err(ConnectError::Nobody { .. })));
    running.commands.finish.notify_one();
    let events: Vec<_> = blocking(move || events.collect()).await;
    assert!(matches!(events[..], [Ok(Event::Done(_))]), "{events:?}");
    running.served.await.unwrap();
}

#[tokio::test]
async fn only_a_dead_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/daemon.sock");
    let first = ControlSocket::bind(&path).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert!(matches!(ControlSocket::bind(&path), Err(BindError::InUse { .. })));
    drop(first);
    assert!(path.exists(), "a socket stays behind when its daemon dies");
    assert!(matches!(ControlClient::connect(&path), Err(ConnectError::Nobody { .. })));
    drop(ControlSocket::bind(&path).unwrap());
    fs::remove_file(&path).unwrap();
    fs::write_atomic(&path, b"mine", 0o600).unwrap();
    assert!(matches!(ControlSocket::bind(&path), Err(BindError::NotASocket { .. })));
    assert_eq!(fs::read_if_exists(&path, 9).unwrap().as_deref(), Some(&b"mine"[..]));
}

#[test]
fn only_the_same_user_may_call() {
    assert!(may_call(1000, 1000));
    assert!(!may_call(0, 1000));
    assert!(!may_call(1001, 0));
}

#[test]
fn a_daemon_that_dies_in_the_middle_is_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let dying = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        BufReader::new(&stream).read_line(&mut String::new()).unwrap();
        stream.write_all(b"{\"note\":{\"message\":\"x\"}}\n{\"done\":").unwrap();
    });
    let events: Vec<_> =
        ControlClient::connect(&path).unwrap().call(&Command::Doctor).unwrap().collect();
    dying.join().unwrap();
    assert!(matches!(&events[..], [Ok(Event::Note { .. }), Err(CallError::Ended)]), "{events:?}");
}
