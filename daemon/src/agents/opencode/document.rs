//! Lines as the document that the program imports.
//!
//! The program takes what stands there: it puts a part under whichever message the part names, and it lets a session do
//! what its rules let it.
//!
//! **Invariant:** a document has messages and parts of its own session only, none of which another session has; and it
//! brings no rule that lets an agent do something.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};

use baton_protocol::path::RelPath;
use baton_store::folder::Folder;
use baton_store::folder::database::Database;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::super::adapter::Target;
use super::super::lines::{Lines, MAX_LINE, Piece};
use super::super::session::AgentError;
use super::{END, MESSAGE, PART, STATE, is_id_of, named, read};

/// Members of what changes of a session that come along.
const OF_STATE: [&str; 9] =
    ["title", "agent", "model", "summary", "cost", "tokens", "time", "metadata", "revert"];

type Members<'a> = BTreeMap<String, &'a RawValue>;

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    info: Members<'a>,
    #[serde(borrow, default)]
    parts: Option<Vec<Members<'a>>>,
}

struct Document<'a> {
    id: &'a str,
    parent: Option<&'a str>,
    /// Where messages of its ids may be, unless it has new ones.
    db: Option<Database>,
    state: BTreeMap<String, Box<RawValue>>,
    out: BufWriter<&'a mut dyn Write>,
    begun: bool,
    messages: u64,
}

/// Why it is not written to its end.
enum Stop {
    Agent(AgentError),
    Write(io::Error),
    /// A message of it is another session's.
    Taken,
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl From<AgentError> for Stop {
    fn from(error: AgentError) -> Self {
        Self::Agent(error)
    }
}

/// Writes the document of a transcript in the mirror; false where something of it is another session's there.
pub(super) fn write(
    folder: &Folder,
    mirror: &Folder,
    transcript: &RelPath,
    to: &Target,
    out: &mut dyn Write,
) -> Result<bool, AgentError> {
    let Some((id, is_child)) = named(transcript) else { return Ok(true) };
    let Some(mut file) = mirror.file(transcript)? else { return Ok(true) };
    let mut document = Document {
        id,
        parent: is_child.then_some(to.id.as_str()),
        db: if to.ids.is_empty() { read::open(folder)? } else { None },
        state: state(mirror, transcript)?,
        out: BufWriter::new(out),
        begun: false,
        messages: 0,
    };
    let path = || mirror.path_of(transcript);
    match document.all(&mut file) {
        Ok(()) => Ok(true),
        Err(Stop::Taken) => Ok(false),
        Err(Stop::Agent(error)) => Err(error),
        Err(Stop::Write(source)) => Err(AgentError::Write { path: path(), source }),
    }
}

/// What changes of the session; nothing where that is missing, or nobody understands it.
fn state(
    mirror: &Folder,
    transcript: &RelPath,
) -> Result<BTreeMap<String, Box<RawValue>>, AgentError> {
    let text = transcript.display();
    let name = format!("{}{STATE}", text.strip_suffix(END).unwrap_or(&text));
    let at = RelPath::new(name.as_bytes()).unwrap_or_default();
    let Some(file) = mirror.file(&at)? else { return Ok(BTreeMap::new()) };
    let mut bytes = Vec::new();
    file.take(MAX_LINE as u64)
        .read_to_end(&mut bytes)
        .map_err(|source| AgentError::Read { path: mirror.path_of(&at), source })?;
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

impl Document<'_> {
    fn all(&mut self, file: &mut File) -> Result<(), Stop> {
        let mut lines = Lines::default();
        let mut buffer = vec![0; 256 * 1024];
        let mut visit = |piece: Piece<'_>| match piece {
            Piece::Line(line) => self.line(line),
            // Nothing of this length is written out.
            Piece::Part(_) => Ok(()),
        };
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            lines.feed(buffer.get(..read).unwrap_or_default(), &mut visit)?;
        }
        lines.end(&mut visit)?;
        if !self.begun {
            self.begin(&Members::new())?;
        }
        self.out.write_all(b"]}")?;
        self.out.flush()?;
        Ok(())
    }

    /// One line; what is none, or was cut off, is passed over.
    fn line(&mut self, line: &[u8]) -> Result<(), Stop> {
        let Ok(Line { info, parts }) = serde_json::from_slice(line) else { return Ok(()) };
        match parts {
            None if self.begun => Ok(()),
            None => self.begin(&info),
            Some(parts) => {
                if !self.begun {
                    self.begin(&Members::new())?;
                }
                self.message(info, parts)
            }
        }
    }

    fn begin(&mut self, first: &Members<'_>) -> Result<(), Stop> {
        self.begun = true;
        let mut info: BTreeMap<&str, Box<RawValue>> = BTreeMap::new();
        for name in ["slug", "version"] {
            info.extend(first.get(name).map(|value| (name, (*value).to_owned())));
        }
        let state = &self.state;
        for name in OF_STATE {
            info.extend(state.get(name).map(|value| (name, value.clone())));
        }
        let mut set = |name, value: Value| {
            info.insert(name, to_raw_value(&value)?);
            Ok::<_, io::Error>(())
        };
        let kept = state.get("permission").map(|rules| rules_that_forbid(rules.get()));
        set("permission", kept.unwrap_or_else(|| json!([])))?;
        set("id", self.id.into())?;
        self.parent.map(|parent| set("parentID", parent.into())).transpose()?;
        let created = first.get("time").and_then(|time| {
            serde_json::from_str::<Value>(time.get()).ok()?.get("created")?.as_u64()
        });
        let missing = [
            ("slug", json!(self.id)),
            ("version", json!("0")),
            ("title", json!("")),
            ("time", json!({"created": created.unwrap_or(0), "updated": created.unwrap_or(0)})),
        ];
        for (name, value) in missing {
            if !info.contains_key(name) {
                info.insert(name, to_raw_value(&value).map_err(io::Error::from)?);
            }
        }
        self.out.write_all(b"{\"info\":")?;
        serde_json::to_writer(&mut self.out, &info).map_err(io::Error::from)?;
        self.out.write_all(b",\"messages\":[")?;
        Ok(())
    }

    fn message(&mut self, info: Members<'_>, parts: Vec<Members<'_>>) -> Result<(), Stop> {
        let Some(id) = id_in(MESSAGE, &info) else { return Ok(()) };
        let raw = |text: &str| to_raw_value(text).map_err(io::Error::from);
        let (session, message) = (raw(self.id)?, raw(&id)?);
        let mut info: Members<'_> = info;
        info.insert("sessionID".to_owned(), &session);
        let mut ids = Vec::new();
        let mut own = Vec::new();
        for part in parts {
            let Some(id) = id_in(PART, &part) else { continue };
            let mut part: Members<'_> = part;
            part.insert("sessionID".to_owned(), &session);
            part.insert("messageID".to_owned(), &message);
            ids.push(id);
            own.push(part);
        }
        if let Some(db) = &self.db
            && read::is_anothers(db, self.id, &id, &ids)?
        {
            return Err(Stop::Taken);
        }
        if self.messages > 0 {
            self.out.write_all(b",")?;
        }
        self.messages += 1;
        self.out.write_all(b"{\"info\":")?;
        serde_json::to_writer(&mut self.out, &info).map_err(io::Error::from)?;
        self.out.write_all(b",\"parts\":")?;
        serde_json::to_writer(&mut self.out, &own).map_err(io::Error::from)?;
        self.out.write_all(b"}")?;
        Ok(())
    }
}

/// The id that stands there, if it is one of this kind.
fn id_in(kind: &str, members: &Members<'_>) -> Option<String> {
    let id: String = serde_json::from_str(members.get("id")?.get()).ok()?;
    is_id_of(kind, &id).then_some(id)
}

/// Of the rules of a session those that forbid something.
fn rules_that_forbid(rules: &str) -> Value {
    let all: Vec<Value> = serde_json::from_str(rules).unwrap_or_default();
    let is_one = |rule: &Value| rule.get("action").and_then(Value::as_str) == Some("deny");
    all.into_iter().filter(is_one).collect()
}
