//! A git host on loopback: the real `git http-backend` behind TLS, of an authority of its own, which asks for a password and
//! remembers who asked what.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use rustls::{ServerConnection, StreamOwned};

use super::authority::localhost;
use super::git::git;

/// Longest head of a request.
const MAX_HEAD: usize = 64 * 1024;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Method, path and query.
    pub(crate) line: String,
    /// As it came.
    pub(crate) authorization: Option<String>,
}

/// The host. Its threads end with the process of the tests.
#[derive(Debug)]
pub(crate) struct GitHost {
    /// As in URLs.
    pub(crate) name: String,
    folder: tempfile::TempDir,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    root: PathBuf,
    /// `USER:PASSWORD`; nothing: everybody may read.
    password: Option<String>,
    asked: Mutex<Vec<Asked>>,
    /// Where requests for paths below `/moved/` are sent.
    elsewhere: Mutex<Option<String>>,
}

impl GitHost {
    /// One whose repositories are read and written with a password.
    pub(crate) fn new(password: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (pem, config) = localhost();
        std::fs::write(folder.path().join("authority.pem"), pem).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = format!("localhost:{}", listener.local_addr().unwrap().port());
        let state = Arc::new(State {
            root: folder.path().join("repositories"),
            password: password.map(str::to_owned),
            asked: Mutex::default(),
            elsewhere: Mutex::default(),
        });
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (config, state) = (Arc::clone(&config), Arc::clone(&serving));
                std::thread::spawn(move || {
                    let connection = ServerConnection::new(config).unwrap();
                    // Who does not believe the certificate hangs up.
                    drop(state.serve(StreamOwned::new(connection, stream)));
                });
            }
        });
        Self { name, folder, state }
    }

    /// What vouches for it.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// A repository with what a worktree has on `main`.
    pub(crate) fn repository(&self, path: &str, from: &Path) -> PathBuf {
        let at = self.state.root.join(path);
        std::fs::create_dir_all(&at).unwrap();
        git(&at, &["init", "-q", "--bare", "-b", "main"]);
        git(&at, &["config", "http.receivepack", "true"]);
        git(&at, &["config", "receive.advertisePushOptions", "true"]);
        git(from, &["push", "-q", at.to_str().unwrap(), "HEAD:refs/heads/main"]);
        at
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}/{path}", self.name)
    }

    /// Sends who asks for what is below `/moved/` to another place.
    pub(crate) fn move_to(&self, url: &str) {
        *self.state.elsewhere.lock().unwrap() = Some(url.to_owned());
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }
}

type Stream = StreamOwned<ServerConnection, TcpStream>;

impl State {
    fn serve(&self, mut stream: Stream) -> std::io::Result<()> {
        let mut text = Vec::new();
        let head = loop {
            if let Some(end) = text.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            assert!(text.len() < MAX_HEAD);
            read_more(&mut stream, &mut text)?;
        };
        let mut body = text.split_off(head);
        let head = String::from_utf8(text).unwrap();
        let mut lines = head.lines();
        let line = lines.next().unwrap().strip_suffix(" HTTP/1.1").unwrap().to_owned();
        let field = |name: &str| {
            let mut found = head.lines().filter_map(|line| line.split_once(": "));
            found.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        if field("Transfer-Encoding").is_some() {
            body = read_chunks(&mut stream, body)?;
        } else {
            let length = field("Content-Length").map_or(0, |length| length.parse().unwrap());
            while body.len() < length {
                read_more(&mut stream, &mut body)?;
            }
        }
        let authorization = field("Authorization");
        let asked = Asked { line: line.clone(), authorization: authorization.clone() };
        self.asked.lock().unwrap().push(asked);
        let answer = self.answer(&line, authorization.as_deref(), &field, &body);
        stream.write_all(&answer)?;
        stream.conn.send_close_notify();
        stream.flush()
    }

    fn answer(
        &self,
        line: &str,
        authorization: Option<&str>,
        field: &dyn Fn(&str) -> Option<String>,
        body: &[u8],
    ) -> Vec<u8> {
        let (method, target) = line.split_once(' ').unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if let (Some(below), Some(to)) =
            (path.strip_prefix("/moved/"), self.elsewhere.lock().unwrap().as_ref())
        {
            let to = format!("{to}{below}?{query}");
            return format!("HTTP/1.1 301 Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
                .into();
        }
        let wanted =
            self.password.as_ref().map(|pair| format!("Basic {}", base64(pair.as_bytes())));
        if wanted.is_some() && authorization != wanted.as_deref() {
            let text = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\n\
                Content-Length: 0\r\nConnection: close\r\n\r\n";
            return text.into();
        }
        let mut command = Command::new("git");
        command
            .arg("http-backend")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("GIT_PROJECT_ROOT", &self.root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("REQUEST_METHOD", method)
            .env("PATH_INFO", path)
            .env("QUERY_STRING", query)
            .env("CONTENT_TYPE", field("Content-Type").unwrap_or_default())
            .env("CONTENT_LENGTH", body.len().to_string());
        if let Some(encoding) = field("Content-Encoding") {
            command.env("HTTP_CONTENT_ENCODING", encoding);
        }
        if let Some(version) = field("Git-Protocol") {
            command.env("GIT_PROTOCOL", version);
        }
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(body).unwrap();
        std::io::Seek::rewind(&mut input).unwrap();
        let output = command.stdin(Stdio::from(input)).output().unwrap();
        let at = output.stdout.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let (fields, content) = output.stdout.split_at(at + 4);
        let fields = String::from_utf8_lossy(fields);
        let status = fields.lines().find_map(|line| line.strip_prefix("Status: "));
        let mut answer = format!("HTTP/1.1 {}\r\n", status.unwrap_or("200 OK"));
        for line in fields.lines().filter(|line| !line.is_empty() && !line.starts_with("Status: "))
        {
            answer.push_str(line);
            answer.push_str("\r\n");
        }
        answer.push_str("Connection: close\r\nContent-Length: ");
        answer.push_str(&content.len().to_string());
        answer.push_str("\r\n\r\n");
        [answer.as_bytes(), content].concat()
    }
}

fn read_more(stream: &mut Stream, text: &mut Vec<u8>) -> std::io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    let read = stream.read(&mut buffer)?;
    if read == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    text.extend_from_slice(&buffer[..read]);
    Ok(())
}

fn read_chunks(stream: &mut Stream, mut text: Vec<u8>) -> std::io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = text.windows(2).position(|two| two == b"\r\n") {
                break end;
            }
            read_more(stream, &mut text)?;
        };
        let length = usize::from_str_radix(std::str::from_utf8(&text[..end]).unwrap(), 16).unwrap();
        while text.len() < end + 2 + length + 2 {
            read_more(stream, &mut text)?;
        }
        whole.extend_from_slice(&text[end + 2..end + 2 + length]);
        text.drain(..end + 2 + length + 2);
        if length == 0 {
            return Ok(whole);
        }
    }
}

/// As RFC 4648 has it.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte));
        let bits = bits << (8 * (3 - three.len()));
        for digit in 0..4 {
            let place = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit <= three.len() { char::from(DIGITS[place as usize]) } else { '=' });
        }
    }
    text
}
