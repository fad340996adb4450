//! As much of HTTP/1.1 as the programs need: one request a connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

/// Longest head of a request.
const MAX_HEAD: usize = 64 * 1024;

/// Longest body. A conversation with images in it is some megabytes.
pub(super) const MAX_BODY: usize = 64 << 20;

/// Bytes that are read at a time.
const CHUNK: usize = 16 * 1024;

/// How long a program may be silent in the middle of a request.
const SILENCE: Duration = Duration::from_mins(1);

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// With the query.
    pub(super) path: String,
    pub(super) fields: Vec<(String, String)>,
    /// Null where there is none.
    pub(super) body: Value,
}

impl Request {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn key(&self) -> Option<String> {
        let bearer = self.field("authorization").and_then(|it| it.strip_prefix("Bearer "));
        let key = self.field("x-api-key").or(self.field("x-goog-api-key")).or(bearer);
        key.map(str::to_owned)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Reply {
    status: u16,
    kind: &'static str,
    body: String,
}

impl Reply {
    pub(super) fn json(value: &Value) -> Self {
        Self { status: 200, kind: "application/json", body: value.to_string() }
    }

    pub(super) fn with(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// Each with its name, where its API has names for them.
    pub(super) fn events(events: &[(Option<&str>, Value)]) -> Self {
        let mut body = String::new();
        for (name, data) in events {
            if let Some(name) = name {
                body.extend(["event: ", name, "\n"]);
            }
            // A word on its own ends the events of some APIs.
            let text = data.as_str().map_or_else(|| data.to_string(), str::to_owned);
            body.extend(["data: ", &text, "\n\n"]);
        }
        Self { status: 200, kind: "text/event-stream", body }
    }

    pub(super) fn error(status: u16, message: &str) -> Self {
        let body = json!({"type": "error", "error": {"type": "invalid_request_error", "message": message}});
        Self { status, kind: "application/json", body: body.to_string() }
    }
}

/// The request; or what is wrong with it.
pub(super) fn read(stream: &mut TcpStream) -> std::io::Result<Result<Request, &'static str>> {
    stream.set_read_timeout(Some(SILENCE))?;
    let mut input = Input { stream, bytes: Vec::new(), at: 0 };
    let (mut lines, mut size) = (Vec::new(), 0);
    loop {
        let Some(line) = input.line()? else { return Ok(Err("the head is too long")) };
        if line.is_empty() {
            break;
        }
        size += line.len();
        if size > MAX_HEAD {
            return Ok(Err("the head is too long"));
        }
        lines.push(line);
    }
    let mut words = lines.first().map(|line| line.split(' ')).into_iter().flatten();
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Ok(Err("this is no HTTP"));
    };
    let field = |line: &String| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        fields: lines[1..].iter().filter_map(field).collect(),
        body: Value::Null,
    };
    if request.field("expect").is_some() {
        input.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let is_chunked = request.field("transfer-encoding").is_some_and(|it| it.contains("chunked"));
    let length = request.field("content-length").map(str::parse::<usize>);
    let body = match length {
        _ if is_chunked => input.chunks()?,
        Some(Ok(length)) if length <= MAX_BODY => Some(input.take(length)?),
        Some(_) => None,
        None => Some(Vec::new()),
    };
    let Some(body) = body else { return Ok(Err("the body is too long")) };
    if !body.is_empty() {
        let Ok(read) = serde_json::from_slice(&body) else {
            return Ok(Err("the body is no JSON"));
        };
        request.body = read;
    }
    Ok(Ok(request))
}

struct Input<'a> {
    stream: &'a mut TcpStream,
    bytes: Vec<u8>,
    at: usize,
}

impl Input<'_> {
    fn more(&mut self) -> std::io::Result<()> {
        let mut chunk = [0; CHUNK];
        let read = self.stream.read(&mut chunk)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes.drain(..std::mem::take(&mut self.at));
        self.bytes.extend_from_slice(&chunk[..read]);
        Ok(())
    }

    /// Without its end; nothing where it is too long.
    fn line(&mut self) -> std::io::Result<Option<String>> {
        loop {
            let left = &self.bytes[self.at..];
            if let Some(end) = left.iter().position(|&byte| byte == b'\n') {
                let line = String::from_utf8_lossy(&left[..end]).trim_end_matches('\r').to_owned();
                self.at += end + 1;
                return Ok(Some(line));
            }
            if left.len() > MAX_HEAD {
                return Ok(None);
            }
            self.more()?;
        }
    }

    fn take(&mut self, length: usize) -> std::io::Result<Vec<u8>> {
        let mut taken = Vec::new();
        while taken.len() < length {
            if self.at == self.bytes.len() {
                self.more()?;
            }
            let part = (length - taken.len()).min(self.bytes.len() - self.at);
            taken.extend_from_slice(&self.bytes[self.at..self.at + part]);
            self.at += part;
        }
        Ok(taken)
    }

    fn chunks(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut body = Vec::new();
        loop {
            let Some(line) = self.line()? else { return Ok(None) };
            let size = line.split(';').next().unwrap_or_default().trim();
            let Ok(size) = usize::from_str_radix(size, 16) else { return Ok(None) };
            if size > MAX_BODY - body.len() {
                return Ok(None);
            }
            if size == 0 {
                // Fields that come after it, and an empty line.
                while self.line()?.is_some_and(|line| !line.is_empty()) {}
                return Ok(Some(body));
            }
            body.extend(self.take(size)?);
            self.line()?;
        }
    }
}

pub(super) fn write(stream: &mut TcpStream, reply: &Reply) -> std::io::Result<()> {
    let Reply { status, kind, body } = reply;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} Scripted\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.flush()
}
