//! What a hostile program of a run can do with its way to git hosts: what gets to the host, and what it costs the node.

#[path = "../../../tests/support/authority.rs"]
mod authority;

use std::sync::Mutex;

use baton_protocol::message::secrets::SecretValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::places::{MAX_REQUESTS, MAX_STRANGERS};
use super::*;

const TOKEN: &str = "tok-of-the-host-1234";
const RUN: RunId = RunId::from_bytes([0xab; 16]);
const LIMIT: Duration = Duration::from_mins(1);
const OID: &str = "1111111111111111111111111111111111111111";

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("it hangs")
}

/// A host that says the same to everybody, and remembers what it was asked.
struct Host {
    name: String,
    seen: Arc<Mutex<Vec<String>>>,
    authority: tempfile::NamedTempFile,
}

impl Host {
    /// Answers with these bytes; for `localhost`, by an authority of its own.
    async fn start(tasks: &Tasks, answer: &'static str) -> Self {
        let (pem, config) = authority::localhost();
        let authority = tempfile::NamedTempFile::new().unwrap();
        fs_write(authority.path(), &pem);
        let acceptor = TlsAcceptor::from(config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = format!("localhost:{}", listener.local_addr().unwrap().port());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (all, own_tasks) = (Arc::clone(&seen), tasks.clone());
        let accepting = async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, all) = (acceptor.clone(), Arc::clone(&all));
                let one = async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut text = Vec::new();
                    let mut buffer = [0; 4096];
                    // Until what was sent is at its end: the tests say so with these bytes.
                    loop {
                        let read = stream.read(&mut buffer).await.unwrap_or(0);
                        text.extend_from_slice(&buffer[..read]);
                        let is_get = text.starts_with(b"GET") && text.ends_with(b"\r\n\r\n");
                        let is_whole = [&b"END"[..], b"0\r\n\r\n", b"0000"]
                            .iter()
                            .any(|end| text.ends_with(end));
                        // Some answer before they have read all.
                        let is_much = text.len() > 64 * 1024;
                        if read == 0 || is_get || is_whole || is_much {
                            break;
                        }
                    }
                    all.lock().unwrap().push(String::from_utf8_lossy(&text).into_owned());
                    drop(stream.write_all(answer.as_bytes()).await);
                    drop(stream.shutdown().await);
                    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
                };
                own_tasks.spawn("test-host", one).detach();
            }
        };
        tasks.spawn("test-hosts", accepting).detach();
        Self { name, seen, authority }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// A way to it for a run.
    async fn forwarder(&self, push: PushScope, tasks: &Tasks) -> Forwarder {
        let trust = Arc::new(Trust::new(vec![self.authority.path().to_owned()]));
        let value = SecretValue::new(TOKEN.into());
        let host = GitHost::new(&self.name, &value, Some(push));
        Forwarder::start(RUN, vec![host], trust, tasks).await.unwrap()
    }
}

fn fs_write(path: &std::path::Path, text: &str) {
    baton_store::fs::write_atomic(path, text.as_bytes(), 0o600).unwrap();
}

/// Sends bytes, and what comes back before the connection ends.
async fn send(forwarder: &Forwarder, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(forwarder.address).await.unwrap();
    // Who is refused in the middle need not read the rest.
    drop(stream.write_all(bytes).await);
    let mut said = Vec::new();
    drop(within(stream.read_to_end(&mut said)).await);
    String::from_utf8_lossy(&said).into_owned()
}

fn key(forwarder: &Forwarder) -> String {
    format!("Authorization: Bearer {}\r\n", forwarder.key)
}

fn refs(forwarder: &Forwarder, host: &str, more: &str) -> Vec<u8> {
    let key = key(forwarder);
    format!("GET /{host}/o/r.git/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: x\r\n{key}{more}\r\n")
        .into_bytes()
}

fn push(forwarder: &Forwarder, host: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let key = key(forwarder);
    let head = format!(
        "POST /{host}/o/r.git/git-receive-pack HTTP/1.1\r\nHost: x\r\n{key}\
         Content-Type: application/x-git-receive-pack-request\r\n{more}\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn list(names: &[&str], capabilities: &str) -> Vec<u8> {
    let mut text = Vec::new();
    for name in names {
        let capabilities =
            if text.is_empty() { format!("\0{capabilities}") } else { String::new() };
        pkt::put(&mut text, format!("{OID} {OID} {name}{capabilities}").as_bytes());
    }
    pkt::flush(&mut text);
    text
}

fn length(body: &[u8]) -> String {
    format!("Content-Length: {}\r\n", body.len())
}

const ADVERTISED: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n\
    Set-Cookie: a=b\r\nWWW-Authenticate: Basic\r\nContent-Length: 4\r\n\r\n0000";
const PUSHED: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-receive-pack-result\r\nContent-Length: 4\r\n\r\n0000";

#[tokio::test]
async fn a_host_gets_what_is_known_of_a_request_and_what_is_kept_for_it() {
    let tasks = Tasks::new();
    let host = Host::start(&tasks, ADVERTISED).await;
    let forwarder = host.forwarder(PushScope::Run, &tasks).await;
    let more = "Git-Protocol: version=2\r\nCookie: c=d\r\nX-Forwarded-For: 1.2.3.4\r\nHost: evil\r\nAccept-Encoding: gzip\r\n";
    let said = send(&forwarder, &refs(&forwarder, &host.name, more)).await;
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("\r\n\r\n0000"), "{said}");
    for field in ["set-cookie", "www-authenticate", TOKEN] {
        assert!(!said.to_lowercase().contains(field), "{said}");
    }
    let seen = host.seen();
    assert_eq!(seen.len(), 1);
    let mut lines: Vec<_> = seen[0].lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.remove(0), "GET /o/r.git/info/refs?service=git-upload-pack HTTP/1.1");
    lines.sort_unstable();
    let pair = data_encoding::BASE64.encode(format!("x-access-token:{TOKEN}").as_bytes());
    let expected = [
        "accept: */*".to_owned(),
        format!("authorization: Basic {pair}"),
        "git-protocol: version=2".to_owned(),
        format!("host: {}", host.name),
        format!("user-agent: {AGENT}"),
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn who_has_no_key_or_asks_for_another_host_gets_nothing() {
    let tasks = Tasks::new();
    let host = Host::start(&tasks, ADVERTISED).await;
    let other = Host::start(&tasks, ADVERTISED).await;
    let forwarder = host.forwarder(PushScope::Run, &tasks).await;
    let whole = String::from_utf8(refs(&forwarder, &host.name, "")).unwrap();
    let own = key(&forwarder);
    for wrong in [
        String::new(),
        own.replace("Bearer ", "Basic "),
        own.replace("Bearer ", "bearer "),
        format!("Authorization: Bearer {}\r\n", "0".repeat(64)),
        format!("Authorization: Bearer {}\r\n", &forwarder.key[..63]),
        "Authorization: Bearer \r\n".to_owned(),
    ] {
        let said = send(&forwarder, whole.replace(&own, &wrong).as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 403 "), "{wrong}: {said}");
    }
    for name in [&other.name, "github.com", "localhost", "127.0.0.1"] {
        let said = send(&forwarder, &refs(&forwarder, name, "")).await;
        let text = format!(
            "ERR baton: this run has no credential for {name}; at home: baton secret set git:{name}"
        );
        assert!(said.contains(&text), "{said}");
    }
    // As a proxy it takes nobody anywhere.
    for line in [
        format!("GET https://{}/o/r.git/info/refs?service=git-upload-pack HTTP/1.1", other.name),
        format!("GET http://x/{}/o/r.git/info/refs?service=git-upload-pack HTTP/1.1", host.name),
        format!("CONNECT {} HTTP/1.1", host.name),
        format!("GET /{}/api/v3/user HTTP/1.1", host.name),
        format!("GET /{}/o/../r.git/info/refs?service=git-upload-pack HTTP/1.1", host.name),
        format!("GET /{}/o/r.git/info/lfs/locks HTTP/1.1", host.name),
    ] {
        let said = send(&forwarder, format!("{line}\r\nHost: x\r\n{own}\r\n").as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 403 "), "{line}: {said}");
    }
    assert_eq!((host.seen(), other.seen()), (vec![], vec![]));
}

#[tokio::test]
async fn a_push_to_another_ref_never_reaches_the_host() {
    let tasks = Tasks::new();
    let host = Host::start(&tasks, PUSHED).await;
    let forwarder = host.forwarder(PushScope::Run, &tasks).await;
    let own = "refs/heads/handoff/abababab";
    let asked = "report-status side-band-64k";
    for (body, reason) in [
        (list(&["refs/heads/main"], asked), "ng refs/heads/main not the branch of this run"),
        (
            list(&[own, "refs/heads/main"], asked),
            "ng refs/heads/handoff/abababab the push has other refs, too",
        ),
        (
            list(&[own], "report-status side-band-64k push-options"),
            "pushes with push options are not passed on",
        ),
        (
            list(&[&format!("{own} refs/heads/main")], asked),
            "this is no push that can be looked through",
        ),
        ([b"0001".to_vec(), list(&[own], asked)].concat(), "this is no line of git's protocol"),
        (b"ffff".to_vec(), "this is no line of git's protocol"),
        (b"00".to_vec(), "the push ended before it said what it is about"),
        (list(&["x"], asked)[..40].to_vec(), "the push ended before it said what it is about"),
    ] {
        let said = send(&forwarder, &push(&forwarder, &host.name, &length(&body), &body)).await;
        assert!(said.starts_with("HTTP/1.1 200 ") && said.contains(reason), "{said}");
    }
    // In a form that is not looked into, or as something else.
    let body = list(&[own], asked);
    for more in ["Content-Encoding: gzip\r\n", "Content-Encoding: identity\r\n"] {
        let more = format!("{more}{}", length(&body));
        let said = send(&forwarder, &push(&forwarder, &host.name, &more, &body)).await;
        assert!(said.starts_with("HTTP/1.1 415 "), "{said}");
    }
    assert_eq!(host.seen(), Vec::<String>::new());

    let body = [list(&[own], asked), b"PACK...END".to_vec()].concat();
    let said = send(&forwarder, &push(&forwarder, &host.name, &length(&body), &body)).await;
    assert!(said.ends_with("0000"), "{said}");
    let seen = host.seen();
    let (head, sent) = seen[0].split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /o/r.git/git-receive-pack HTTP/1.1\r\n"), "{head}");
    let expected = format!("{OID} {OID} {own}\0 {asked}0000PACK...END");
    assert_eq!(sent, format!("{:04x}{expected}", expected.len() - 14 + 4));
    assert!(head.contains(&format!("content-length: {}", sent.len())), "{head}");

    // Whether it may push at all is asked without one.
    let said =
        send(&forwarder, &push(&forwarder, &host.name, "Content-Length: 4\r\n", b"0000")).await;
    assert!(said.ends_with("0000"), "{said}");
    let seen = host.seen();
    let (head, sent) = seen[1].split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-length: 4") && sent == "0000", "{head} {sent}");
}

#[tokio::test]
async fn where_every_branch_is_allowed_the_host_gets_what_was_sent() {
    let tasks = Tasks::new();
    let host = Host::start(&tasks, PUSHED).await;
    let forwarder = host.forwarder(PushScope::Any, &tasks).await;
    let body = [list(&["refs/heads/main"], "push-options"), b"PACK...END".to_vec()].concat();
    send(&forwarder, &push(&forwarder, &host.name, &length(&body), &body)).await;
    assert!(host.seen()[0].ends_with(std::str::from_utf8(&body).unwrap()), "{:?}", host.seen());
}

#[tokio::test]
async fn two_requests_in_one_are_one_or_none() {
    let tasks = Tasks::new();
    let host = Host::start(&tasks, PUSHED).await;
    let forwarder = host.forwarder(PushScope::Run, &tasks).await;
    let own = list(&["refs/heads/handoff/abababab"], "report-status");
    let second = "POST /o/r.git/git-receive-pack HTTP/1.1\r\nHost: x\r\n\r\nEND";
    let chunked =
        |body: &[u8]| [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n0\r\n\r\n"].concat();
    for (more, body) in [
        // Lengths that two readers could take differently.
        (format!("Content-Length: 4\r\nContent-Length: {}\r\n", own.len()), own.clone()),
        (
            format!("Transfer-Encoding: chunked\r\n{}", length(&own)),
            [chunked(&own), second.into()].concat(),
        ),
        ("Transfer-Encoding: xchunked\r\n".to_owned(), chunked(&own)),
        ("Content-Length: +4\r\n".to_owned(), own.clone()),
        ("Content-Length : 4\r\n".to_owned(), own.clone()),
        (format!("X: a\r\n b: c\r\n{}", length(&own)), own.clone()),
        (length(&own), [own.clone(), second.into()].concat()),
    ] {
        let before = host.seen().len();
        let said = send(&forwarder, &push(&forwarder, &host.name, &more, &body)).await;
        assert!(said.matches("HTTP/1.1 ").count() <= 1, "{more}: {said}");
        for seen in &host.seen()[before..] {
            assert_eq!(seen.matches("HTTP/1.1").count(), 1, "{more}: {seen}");
            assert_eq!(seen.matches("git-receive-pack HTTP").count(), 1, "{more}: {seen}");
        }
        assert!(host.seen().len() <= before + 1);
    }
    // What is behind the end of the first one is nobody's, and that one goes.
    let before = host.seen().len();
    let body = [own.clone(), second.into()].concat();
    send(&forwarder, &push(&forwarder, &host.name, &length(&own), &body)).await;
    let seen = host.seen();
    assert_eq!(seen.len(), before + 1);
    let (_, sent) = seen[before].split_once("\r\n\r\n").unwrap();
    let expected = format!("{OID} {OID} refs/heads/handoff/abababab\0 report-status");
    assert_eq!(sent, format!("{:04x}{expected}0000", expected.len() + 4));
    // A line end in a path is the end of a request line, and what follows is no request.
    let line = format!(
        "GET /{}/o%0d%0aX/r.git/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: x\r\n{}\r\n",
        host.name,
        key(&forwarder)
    );
    let before = host.seen().len();
    assert!(send(&forwarder, line.as_bytes()).await.starts_with("HTTP/1.1 403 "));
    assert_eq!(host.seen().len(), before);
}

#[tokio::test]
async fn heads_and_lists_without_an_end_are_cut_off() {
    let tasks = Tasks::new();
    let host = Host::start(&tasks, PUSHED).await;
    let forwarder = host.forwarder(PushScope::Run, &tasks).await;
    let said =
        send(&forwarder, &refs(&forwarder, &host.name, &"X: y\r\n".repeat(MAX_FIELDS + 1))).await;
    assert!(said.starts_with("HTTP/1.1 4") || said.is_empty(), "{said}");
    let said =
        send(&forwarder, &refs(&forwarder, &host.name, &format!("X: {}\r\n", "y".repeat(1 << 20))))
            .await;
    assert!(said.starts_with("HTTP/1.1 4") || said.is_empty(), "{said}");
    // Refs for ever, in a body that has no length; the node is told of its end by the connection's.
    let mut one = Vec::new();
    pkt::put(&mut one, format!("{OID} {OID} refs/heads/handoff/abababab").as_bytes());
    let many = one.repeat(10_000);
    let body = [format!("{:x}\r\n", many.len()).as_bytes(), &many, b"\r\n0\r\n\r\n"].concat();
    let more = "Transfer-Encoding: chunked\r\n";
    let said = send(&forwarder, &push(&forwarder, &host.name, more, &body)).await;
    assert!(said.contains("a push has at most 262144 bytes of refs"), "{said}");
    assert_eq!(host.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn silent_strangers_take_no_place_of_a_run_and_go_when_it_ends() {
    let tasks = Tasks::new();
    let host = Host::start(&tasks, ADVERTISED).await;
    let forwarder = host.forwarder(PushScope::Run, &tasks).await;
    let mut open = Vec::new();
    for _ in 0..MAX_STRANGERS + MAX_REQUESTS {
        open.push(TcpStream::connect(forwarder.address).await.unwrap());
    }
    // The run is served meanwhile, and where there are too many the oldest has gone.
    let said = send(&forwarder, &refs(&forwarder, &host.name, "")).await;
    assert!(said.ends_with("0000"), "{said}");
    let mut rest = Vec::new();
    drop(within(open[0].read_to_end(&mut rest)).await);
    assert!(rest.is_empty());
    // Those of the way itself and of the test's host are there besides.
    assert!(tasks.count() <= MAX_STRANGERS + 8, "{}", tasks.count());
    drop(open);

    let mut waiting = TcpStream::connect(forwarder.address).await.unwrap();
    waiting.write_all(b"GET /").await.unwrap();
    let address = forwarder.address;
    drop(forwarder);
    let mut rest = Vec::new();
    drop(within(waiting.read_to_end(&mut rest)).await);
    within(async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn nothing_that_a_host_says_beside_its_answer_gets_to_the_run() {
    let tasks = Tasks::new();
    for (answer, told) in [
        (
            "HTTP/1.1 302 Found\r\nLocation: https://localhost:1/evil\r\nContent-Length: 0\r\n\r\n",
            "redirects are not followed",
        ),
        (
            "HTTP/1.1 401 No\r\nContent-Length: 20\r\n\r\ntok-of-the-host-1234",
            "does not accept what is kept for it",
        ),
        (
            "HTTP/1.1 403 No\r\nContent-Length: 20\r\n\r\ntok-of-the-host-1234",
            "may not read /o/r.git",
        ),
        ("HTTP/1.1 404 No\r\nContent-Length: 20\r\n\r\ntok-of-the-host-1234", "has no /o/r.git"),
        (
            "HTTP/1.1 500 No\r\nContent-Length: 20\r\n\r\ntok-of-the-host-1234",
            "answered with status 500",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\r\ntok-of-the-host-1234",
            "did not answer as a git host does",
        ),
        ("tok-of-the-host-1234", "cannot speak to"),
    ] {
        let host = Host::start(&tasks, answer).await;
        let forwarder = host.forwarder(PushScope::Run, &tasks).await;
        let said = send(&forwarder, &refs(&forwarder, &host.name, "")).await;
        assert!(said.contains("ERR baton: ") && said.contains(told), "{said}");
        assert!(!said.contains(TOKEN) && !said.contains("evil"), "{said}");
    }
}

#[tokio::test]
async fn who_does_not_prove_to_be_the_host_is_told_nothing() {
    let tasks = Tasks::new();
    let host = Host::start(&tasks, ADVERTISED).await;
    let other = Host::start(&tasks, ADVERTISED).await;
    // The authority of another host, and a name that the certificate does not have.
    let trust = |host: &Host| Arc::new(Trust::new(vec![host.authority.path().to_owned()]));
    let value = SecretValue::new(TOKEN.into());
    let renamed = host.name.replace("localhost", "127.0.0.1");
    for (name, trust) in [(&host.name, trust(&other)), (&renamed, trust(&host))] {
        let hosts = vec![GitHost::new(name, &value, None)];
        let forwarder = Forwarder::start(RUN, hosts, trust, &tasks).await.unwrap();
        let said = send(&forwarder, &refs(&forwarder, name, "")).await;
        assert!(said.contains("does not prove to the node that it is"), "{said}");
        assert!(said.contains("serve.git_authorities"), "{said}");
    }
    assert_eq!(host.seen(), Vec::<String>::new());
    // What is wrong with the node's own files is no business of a run.
    for text in ["", "no certificate"] {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_write(file.path(), text);
        let trust = Arc::new(Trust::new(vec![file.path().to_owned()]));
        let hosts = vec![GitHost::new(&host.name, &value, None)];
        let forwarder = Forwarder::start(RUN, hosts, trust, &tasks).await.unwrap();
        let said = send(&forwarder, &refs(&forwarder, &host.name, "")).await;
        assert!(said.contains("cannot read its certificates of authorities"), "{said}");
        assert!(!said.contains(file.path().to_str().unwrap()), "{said}");
    }
}

#[tokio::test]
async fn requests_of_a_run_take_its_own_places_and_no_others() {
    let tasks = Tasks::new();
    let host = Host::start(&tasks, ADVERTISED).await;
    let forwarder = host.forwarder(PushScope::Run, &tasks).await;
    let other = host.forwarder(PushScope::Run, &tasks).await;
    let mut open = Vec::new();
    for _ in 0..MAX_REQUESTS {
        let mut stream = TcpStream::connect(forwarder.address).await.unwrap();
        let begun =
            push(&forwarder, &host.name, "Content-Length: 1000\r\nExpect: 100-continue\r\n", b"");
        stream.write_all(&begun).await.unwrap();
        // It is said once the body is asked for, which is in its place.
        let mut said = [0; 25];
        within(stream.read_exact(&mut said)).await.unwrap();
        assert!(said.starts_with(b"HTTP/1.1 100 "));
        open.push(stream);
    }
    let mut next = TcpStream::connect(forwarder.address).await.unwrap();
    next.write_all(&refs(&forwarder, &host.name, "")).await.unwrap();
    let said = send(&other, &refs(&other, &host.name, "")).await;
    assert!(said.ends_with("0000"), "{said}");
    assert_eq!(host.seen().len(), 1, "the next one waits");
    open.pop();
    let mut said = Vec::new();
    within(next.read_to_end(&mut said)).await.unwrap();
    assert!(said.ends_with(b"0000"));
}

#[tokio::test]
async fn what_a_request_began_ends_with_it() {
    let tasks = Tasks::new();
    // It takes a connection, and says nothing.
    let host = Host::start(&tasks, PUSHED).await;
    let forwarder = host.forwarder(PushScope::Run, &tasks).await;
    let before = tasks.count();
    let body = list(&["refs/heads/handoff/abababab"], "report-status");
    let more = format!("Content-Length: {}\r\n", body.len() + 9);
    let mut stream = TcpStream::connect(forwarder.address).await.unwrap();
    let body = [&body[..], b"PACK"].concat();
    stream.write_all(&push(&forwarder, &host.name, &more, &body)).await.unwrap();
    let reached = |count: usize| {
        let tasks = tasks.clone();
        within(async move {
            while tasks.count() != count {
                tokio::task::yield_now().await;
            }
        })
    };
    // The request, its connection, and the host's side of that.
    reached(before + 3).await;
    drop(stream);
    reached(before).await;
}

#[tokio::test]
async fn the_answer_of_a_host_that_reads_no_further_is_told() {
    let tasks = Tasks::new();
    let answer = "HTTP/1.1 413 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let host = Host::start(&tasks, answer).await;
    let forwarder = host.forwarder(PushScope::Run, &tasks).await;
    let own = list(&["refs/heads/handoff/abababab"], "report-status");
    let body = [own, vec![b'x'; 8 << 20]].concat();
    let request = push(&forwarder, &host.name, &length(&body), &body);
    let mut stream = TcpStream::connect(forwarder.address).await.unwrap();
    // As git does: all of it is sent, and then is read.
    within(stream.write_all(&request)).await.unwrap();
    let mut said = Vec::new();
    within(stream.read_to_end(&mut said)).await.unwrap();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("status 413"), "{said}");
}

#[tokio::test]
async fn settings_of_a_repository_do_not_lock_a_run_out() {
    let tasks = Tasks::new();
    let host = Host::start(&tasks, ADVERTISED).await;
    let forwarder = host.forwarder(PushScope::Run, &tasks).await;
    let whole = String::from_utf8(refs(&forwarder, &host.name, "")).unwrap();
    let own = key(&forwarder);
    let two = whole.replace(&own, &format!("Authorization: Basic abc\r\n{own}"));
    let said = send(&forwarder, two.as_bytes()).await;
    assert!(said.ends_with("0000"), "{said}");
    assert!(!host.seen()[0].contains("abc"), "{:?}", host.seen());
}

#[tokio::test]
async fn what_does_not_begin_as_a_fetch_is_not_passed_on() {
    let tasks = Tasks::new();
    let host = Host::start(&tasks, ADVERTISED).await;
    let forwarder = host.forwarder(PushScope::Run, &tasks).await;
    for (body, more, status) in [
        (r#"{"branch":"main"}"#, "", "400"),
        ("a=b&c=d", "", "400"),
        ("{}", "", "400"),
        (r#"{"branch":"main"}"#, "Content-Encoding: gzip\r\n", "400"),
        ("0000", "", "200"),
    ] {
        let more = format!("{more}{}", length(body.as_bytes()));
        let request = push(&forwarder, &host.name, &more, body.as_bytes());
        let request = String::from_utf8(request).unwrap().replace("receive-pack", "upload-pack");
        let said = send(&forwarder, request.as_bytes()).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{body}: {said}");
    }
    assert_eq!(host.seen().len(), 1);
}
