//! Sessions out of the database, as lines.
//!
//! **Invariant:** ids become names of files only where they are ids; memory is bounded by one line.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufWriter, Write};
use std::path::Path;

use baton_protocol::path::RelPath;
use baton_store::folder::database::{Database, Row};
use baton_store::folder::{Folder, FolderError};
use baton_store::fs;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::lines::MAX_LINE;
use super::super::session::{AgentError, Files, LeftOut, MAX_LOOKED_AT, Reason, Session, title};
use super::{
    END, MESSAGE, PART, SESSION, STATE, SUBAGENTS, is_id_of, is_state, named, outputs, place_of,
};

/// The name of the database.
const NAME: &str = "opencode.db";

/// Longest value of a row that travels, and longest line: a tool result of this size is no conversation.
const MAX_VALUE: usize = MAX_LINE / 2;
const MAX_BYTES: usize = MAX_LINE - 64 * 1024;

/// Longest path and title that are read.
const MAX_TEXT: usize = 4096;

/// Longest transcript.
const MAX_FILE: u64 = 1 << 30;

/// Sessions that one has started, and those that these have, at most: the program takes each in by itself, which takes
/// seconds.
const MOST_CHILDREN: usize = 32;

/// Deepest nesting of a value.
const MAX_LEVELS: usize = 64;

/// The tables that are read.
const TABLES: [&str; 3] = ["session", "message", "part"];

pub(super) fn open(folder: &Folder) -> Result<Option<Database>, AgentError> {
    let Some(db) = folder.database(NAME)? else { return Ok(None) };
    db.expect(&TABLES)?;
    Ok(Some(db))
}

/// A column, unless it is too long.
fn bounded(column: &str, most: usize) -> String {
    format!("iif(octet_length({column}) <= {most}, {column}, NULL)")
}

/// The sessions that nobody but a user has begun, the newest first; or the one of an id.
pub(super) fn sessions(folder: &Folder, id: Option<&str>) -> Result<Vec<Session>, AgentError> {
    let Some(db) = open(folder)? else { return Ok(Vec::new()) };
    let which = if id.is_some() {
        "id = ?1"
    } else {
        "?1 = '' AND parent_id IS NULL AND time_archived IS NULL"
    };
    let query = format!(
        "SELECT {}, {}, {}, time_updated FROM session WHERE {which} ORDER BY time_updated DESC, id LIMIT {MAX_LOOKED_AT}",
        bounded("id", MAX_TEXT),
        bounded("directory", MAX_TEXT),
        bounded("title", MAX_TEXT),
    );
    let mut sessions = Vec::new();
    db.rows(&query, &[id.unwrap_or_default()], |row| {
        sessions.extend(session(row));
        Ok::<_, AgentError>(())
    })?;
    Ok(sessions)
}

fn session(row: &Row<'_>) -> Option<Session> {
    let id = row.text(0).filter(|id| is_id_of(SESSION, id))?;
    Some(Session {
        id: id.to_owned(),
        at: place_of(id, false, END),
        cwd: row.text(1).filter(|path| path.starts_with('/'))?.into(),
        modified_ms: u64::try_from(row.number(3)?).ok()?,
        title: title(row.text(2).unwrap_or_default()),
    })
}

/// Every id of a session, also those that are none.
pub(super) fn ids(folder: &Folder) -> Result<Vec<String>, AgentError> {
    let Some(db) = open(folder)? else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    let query = format!("SELECT {} FROM session LIMIT {MAX_LOOKED_AT}", bounded("id", MAX_TEXT));
    db.rows(&query, &[], |row| {
        all.push(row.text(0).unwrap_or_default().to_owned());
        Ok::<_, AgentError>(())
    })?;
    Ok(all)
}

/// Writes a session, and those that it has started, as files into a folder.
pub(super) fn write_out(folder: &Folder, id: &str, into: &Path) -> Result<Files, AgentError> {
    let mut files = Files::default();
    let Some(db) = open(folder)? else { return Ok(files) };
    let mut outputs = BTreeSet::new();
    let mut seen = (&mut files, &mut outputs);
    transcript(&db, id, &place_of(id, false, END), into, &mut seen)?;
    state(&db, id, &place_of(id, false, STATE), into)?;
    let mut known = BTreeSet::from([id.to_owned()]);
    let mut parents = vec![id.to_owned()];
    while let Some(parent) = parents.pop() {
        let mut found = Vec::new();
        let query = format!(
            "SELECT {} FROM session WHERE parent_id = ?1 ORDER BY id LIMIT 1000",
            bounded("id", MAX_TEXT)
        );
        db.rows(&query, &[&parent], |row| {
            found.extend(row.text(0).filter(|id| is_id_of(SESSION, id)).map(str::to_owned));
            Ok::<_, AgentError>(())
        })?;
        for child in found {
            if known.contains(&child) {
                continue;
            }
            if known.len() > MOST_CHILDREN {
                files.left_out.push(left(&place_of(&child, true, END), Reason::TooMany));
                continue;
            }
            fs::create_dir_all(&into.join(SUBAGENTS)).map_err(FolderError::from)?;
            let mut seen = (&mut files, &mut outputs);
            transcript(&db, &child, &place_of(&child, true, END), into, &mut seen)?;
            state(&db, &child, &place_of(&child, true, STATE), into)?;
            known.insert(child.clone());
            parents.push(child);
        }
    }
    outputs::copy(folder, &outputs, into, &mut files)?;
    let todos = "SELECT count(*) FROM todo WHERE session_id = ?1";
    if db.has_table("todo")? && db.number(todos, &[id])? > 0 {
        let path = format!("{id}/todo");
        files.left_out.push(LeftOut { path, reason: Reason::NotCarried });
    }
    Ok(files)
}

/// Writes what is there of the sessions of these transcripts.
pub(super) fn write_there(
    folder: &Folder,
    names: &[RelPath],
    into: &Path,
) -> Result<(), AgentError> {
    let Some(db) = open(folder)? else { return Ok(()) };
    for name in names.iter().filter(|name| !is_state(name)) {
        let Some((id, is_child)) = named(name) else { continue };
        if is_child {
            fs::create_dir_all(&into.join(SUBAGENTS)).map_err(FolderError::from)?;
        }
        let mut seen = (&mut Files::default(), &mut BTreeSet::new());
        transcript(&db, id, name, into, &mut seen)?;
    }
    Ok(())
}

fn left(at: &RelPath, reason: Reason) -> LeftOut {
    LeftOut { path: at.display().into_owned(), reason }
}

/// A file of ours, with how long it may still become.
struct Out<'a> {
    to: BufWriter<std::fs::File>,
    path: &'a Path,
    free: u64,
}

impl<'a> Out<'a> {
    fn new(path: &'a Path) -> Result<Self, AgentError> {
        let file = fs::create_new(path).map_err(FolderError::from)?;
        Ok(Self { to: BufWriter::new(file), path, free: MAX_FILE })
    }

    fn line(&mut self, line: &[u8]) -> Result<(), AgentError> {
        let limit = || AgentError::TooLarge { path: self.path.to_owned(), limit: MAX_FILE };
        let failed = |source| AgentError::Write { path: self.path.to_owned(), source };
        self.free = self.free.checked_sub(line.len() as u64 + 1).ok_or_else(limit)?;
        self.to.write_all(line).and_then(|()| self.to.write_all(b"\n")).map_err(failed)
    }

    fn end(mut self) -> Result<(), AgentError> {
        let failed = |source| AgentError::Write { path: self.path.to_owned(), source };
        self.to.flush().map_err(failed)
    }
}

/// Writes what does not change of a session, and its messages; nothing where there is none of this id. Learns what of it is
/// left out, and which outputs it names.
fn transcript(
    db: &Database,
    id: &str,
    at: &RelPath,
    into: &Path,
    (files, outputs): &mut (&mut Files, &mut BTreeSet<String>),
) -> Result<(), AgentError> {
    let mut first = None;
    let columns = ["slug", "directory", "version", "parent_id"].map(|it| bounded(it, MAX_TEXT));
    let query = format!("SELECT {}, time_created FROM session WHERE id = ?1", columns.join(", "));
    db.rows(&query, &[id], |row| {
        let mut info = json!({
            "id": id, "slug": row.text(0), "directory": row.text(1), "version": row.text(2),
            "time": {"created": row.number(4)},
        });
        if let (Some(parent), Some(info)) = (row.text(3), info.as_object_mut()) {
            info.insert("parentID".to_owned(), parent.into());
        }
        first = Some(json!({ "info": info }).to_string());
        Ok::<_, AgentError>(())
    })?;
    let Some(first) = first else { return Ok(()) };
    let path = into.join(at.display().as_ref());
    let mut out = Out::new(&path)?;
    out.line(first.as_bytes())?;
    let data = bounded("data", MAX_VALUE);
    let messages = format!(
        "SELECT {}, {data} FROM message WHERE session_id = ?1 ORDER BY time_created, id",
        bounded("id", MAX_TEXT)
    );
    let of_message = format!(
        "SELECT {}, {data} FROM part WHERE message_id = ?1 ORDER BY id",
        bounded("id", MAX_TEXT)
    );
    db.rows(&messages, &[id], |row| {
        let message = row.text(0).unwrap_or_default();
        let ids = [("id", message), ("sessionID", id)];
        let info = row.text(1).filter(|_| is_id_of(MESSAGE, message));
        let Some(info) = info.and_then(|info| with(info, &ids)) else {
            files.left_out.push(odd(id, message));
            return Ok(());
        };
        let mut line = format!("{{\"info\":{info},\"parts\":[");
        let mut count = 0;
        db.rows(&of_message, &[message], |row| {
            let part = row.text(0).unwrap_or_default();
            let ids = [("id", part), ("messageID", message), ("sessionID", id)];
            let data = row.text(1).filter(|_| is_id_of(PART, part));
            match data.and_then(|data| with(data, &ids)) {
                Some(data) if line.len() + data.len() < MAX_BYTES => {
                    outputs::find(&data, outputs);
                    line.push_str(if count == 0 { "" } else { "," });
                    line.push_str(&data);
                    count += 1;
                }
                _ => files.left_out.push(odd(id, part)),
            }
            Ok::<_, AgentError>(())
        })?;
        line.push_str("]}");
        out.line(line.as_bytes())
    })?;
    out.end()
}

/// A row that is not carried, by its id where it has one.
fn odd(session: &str, row: &str) -> LeftOut {
    let row = if is_id_of(MESSAGE, row) || is_id_of(PART, row) { row } else { "?" };
    LeftOut { path: format!("{session}/{row}"), reason: Reason::NotCarried }
}

/// Writes what changes of a session.
fn state(db: &Database, id: &str, at: &RelPath, into: &Path) -> Result<(), AgentError> {
    let long = ["summary_diffs", "metadata", "revert", "permission", "model"];
    let columns = long.map(|column| bounded(column, MAX_VALUE / 8)).join(", ");
    let query = format!(
        "SELECT {columns}, {}, {}, time_created, time_updated, time_archived, summary_additions, summary_deletions, \
         summary_files, cost, tokens_input, tokens_output, tokens_reasoning, tokens_cache_read, tokens_cache_write \
         FROM session WHERE id = ?1",
        bounded("title", MAX_TEXT),
        bounded("agent", MAX_TEXT),
    );
    let mut line = None;
    db.rows(&query, &[id], |row| {
        let number = |column| row.number(column);
        let value = |column| row.text(column).and_then(|text| canonical(text, 0));
        let mut state: BTreeMap<&str, String> = BTreeMap::new();
        let mut set = |name, value: Value| state.insert(name, value.to_string());
        set("title", row.text(5).unwrap_or_default().into());
        row.text(6).map(|agent| set("agent", agent.into()));
        let mut time = json!({"created": number(7), "updated": number(8)});
        if let (Some(archived), Some(time)) = (number(9), time.as_object_mut()) {
            time.insert("archived".to_owned(), archived.into());
        }
        set("time", time);
        set("cost", row.real(13).into());
        let cache = json!({"read": number(17), "write": number(18)});
        set("tokens", json!({"input": number(14), "output": number(15), "reasoning": number(16), "cache": cache}));
        let summary = [("additions", 10), ("deletions", 11), ("files", 12)];
        if summary.iter().any(|(_, column)| number(*column).is_some()) {
            let counts = summary.map(|(name, column)| (name, json!(number(column).unwrap_or(0)).to_string()));
            let mut summary = BTreeMap::from(counts);
            summary.extend(value(0).map(|diffs| ("diffs", diffs)));
            state.insert("summary", object(&summary));
        }
        for (name, column) in [("metadata", 1), ("revert", 2), ("permission", 3), ("model", 4)] {
            state.extend(value(column).map(|value| (name, value)));
        }
        line = Some(object(&state));
        Ok::<_, AgentError>(())
    })?;
    let Some(line) = line else { return Ok(()) };
    let path = into.join(at.display().as_ref());
    let mut out = Out::new(&path)?;
    out.line(line.as_bytes())?;
    out.end()
}

/// An object of names that need no escapes, and values that are JSON.
fn object<K: AsRef<str>>(members: &BTreeMap<K, String>) -> String {
    let member = |(name, value): (&K, &String)| format!("\"{}\":{value}", name.as_ref());
    format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
}

/// An object with members more, with its names in order; nothing where it is no object.
fn with(text: &str, more: &[(&str, &str)]) -> Option<String> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    let mut ordered = BTreeMap::new();
    for (name, value) in &members {
        ordered.insert(Value::from(name.as_str()).to_string(), canonical(value.get(), 1)?);
    }
    for (name, value) in more {
        ordered.insert(Value::from(*name).to_string(), Value::from(*value).to_string());
    }
    let member = |(name, value): (&String, &String)| format!("{name}:{value}");
    Some(format!("{{{}}}", ordered.iter().map(member).collect::<Vec<_>>().join(",")))
}

/// JSON with the names of objects in order, and everything else as it stands; nothing where it is none, or nested too deep.
pub(super) fn canonical(text: &str, level: usize) -> Option<String> {
    if level > MAX_LEVELS {
        return None;
    }
    let text = text.trim();
    match text.as_bytes().first()? {
        b'{' => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
            let mut out = String::with_capacity(text.len());
            for (name, value) in &members {
                out.push(if out.is_empty() { '{' } else { ',' });
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                out.push_str(&canonical(value.get(), level + 1)?);
            }
            out.push_str(if out.is_empty() { "{}" } else { "}" });
            Some(out)
        }
        b'[' => {
            let members: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            let mut out = String::with_capacity(text.len());
            for value in members {
                out.push(if out.is_empty() { '[' } else { ',' });
                out.push_str(&canonical(value.get(), level + 1)?);
            }
            out.push_str(if out.is_empty() { "[]" } else { "]" });
            Some(out)
        }
        _ => serde_json::from_str::<&RawValue>(text).ok().map(|it| it.get().to_owned()),
    }
}

/// Whether a message or part of this id is of another session, or of another message.
pub(super) fn is_anothers(
    db: &Database,
    session: &str,
    message: &str,
    parts: &[String],
) -> Result<bool, AgentError> {
    const MESSAGES: &str = "SELECT count(*) FROM message WHERE id = ?1 AND session_id <> ?2";
    const PARTS: &str =
        "SELECT count(*) FROM part WHERE id = ?1 AND (message_id <> ?2 OR session_id <> ?3)";
    if db.number(MESSAGES, &[message, session])? > 0 {
        return Ok(true);
    }
    for part in parts {
        if db.number(PARTS, &[part, message, session])? > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}
