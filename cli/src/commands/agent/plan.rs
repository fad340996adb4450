//! What changes in which files of an agent, before any of it is written.
//!
//! - [`Plan::put`]: a part where it belongs, in place of an older form of it
//! - [`Plan::take`]: exactly that out again
//!
//! **Invariant:** what is not ours stays: a hook of the user, a server of the same name, a command of the same name.

use std::path::{Path, PathBuf};

use baton_store::fs;
use serde_json::Value;

use super::targets::{Part, Server, more_of_table};
use crate::edit::EditError;
use crate::edit::file::{FileError, Found};
use crate::edit::jsonc::{Document, Step};
use crate::edit::tables::Tables;
use crate::edit::whole;

/// Mode of a file of settings that is made: it may come to hold keys of its user.
const SETTINGS: u32 = 0o600;

/// Mode of a file for a model to read.
const TEXT: u32 = 0o644;

/// The table of Codex.
const TABLE: (&str, &str) = ("mcp_servers", "baton");

/// Files of an agent cannot be changed as they should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} is not understood", path.display())]
    Edit { path: PathBuf, source: EditError },
}

/// Whose a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Ours, or nobody's yet.
    Ours,
    /// Somebody else's: it stays.
    Theirs,
}

/// Files with what becomes of them.
#[derive(Debug, Default)]
pub(super) struct Plan {
    files: Vec<Planned>,
}

#[derive(Debug)]
struct Planned {
    found: Found,
    /// What it becomes; nothing where it goes.
    text: Option<String>,
    /// Whether it is a file of the user in which ours are parts.
    is_settings: bool,
}

impl Planned {
    fn is_changed(&self) -> bool {
        self.text != self.found.text
    }

    fn settings(&self) -> &str {
        self.text.as_deref().unwrap_or_default()
    }

    fn failed(&self, source: EditError) -> PlanError {
        PlanError::Edit { path: self.found.path.clone(), source }
    }
}

impl Plan {
    /// Whether anything would change.
    pub(super) fn is_empty(&self) -> bool {
        !self.files.iter().any(Planned::is_changed)
    }

    fn file(&mut self, part: &Part) -> Result<&mut Planned, PlanError> {
        let known = self.files.iter().position(|it| it.found.path == part.file());
        let at = if let Some(at) = known {
            at
        } else {
            let is_settings = !matches!(part, Part::Own { .. });
            let found = Found::read(part.file(), if is_settings { SETTINGS } else { TEXT })?;
            let text = found.text.clone();
            self.files.push(Planned { found, text, is_settings });
            self.files.len() - 1
        };
        let missing = || FileError::Changed { path: part.file().to_owned() };
        Ok(self.files.get_mut(at).ok_or_else(missing)?)
    }

    /// Puts a part where it belongs.
    pub(super) fn put(&mut self, part: &Part) -> Result<Whose, PlanError> {
        let file = self.file(part)?;
        if let Part::Own { text, .. } = part {
            if file.text.as_deref().is_some_and(|text| !whole::is_ours(text)) {
                return Ok(Whose::Theirs);
            }
            file.text = Some(text.clone());
            return Ok(Whose::Ours);
        }
        let changed = put_into(file.settings(), part).map_err(|error| file.failed(error))?;
        Ok(match changed {
            None => Whose::Theirs,
            Some(text) => {
                // One that is missing and gets nothing is still missing.
                if file.text.is_some() || !text.is_empty() {
                    file.text = Some(text);
                }
                Whose::Ours
            }
        })
    }

    /// Takes a part out; says whether it was there.
    pub(super) fn take(&mut self, part: &Part) -> Result<bool, PlanError> {
        let file = self.file(part)?;
        let Some(text) = file.text.clone() else { return Ok(false) };
        if let Part::Own { .. } = part {
            let is_ours = whole::is_ours(&text);
            if is_ours {
                file.text = None;
            }
            return Ok(is_ours);
        }
        let before = file.found.before()?;
        let new = take_from(&text, part, before.as_deref()).map_err(|error| file.failed(error))?;
        let was_there = new != text;
        file.text = Some(new);
        Ok(was_there)
    }

    /// Where a file, with these parts put in, would be what it is: makes it what it was before that, to the byte. And one
    /// that was made for them, and has nothing else in it, goes.
    pub(super) fn as_before(&mut self, parts: &[Part]) -> Result<(), PlanError> {
        for file in self.files.iter_mut().filter(|file| file.is_settings && file.is_changed()) {
            let of_it = || parts.iter().filter(|part| part.file() == file.found.path);
            let Some(before) = file.found.before()? else {
                let is_blank = match of_it().next() {
                    Some(Part::Mcp { server: Server::Toml { .. }, .. }) => {
                        file.settings().trim().is_empty()
                    }
                    _ => Document::parse(file.settings())
                        .is_ok_and(|it| it.value() == Value::Object(serde_json::Map::new())),
                };
                if is_blank {
                    file.text = None;
                }
                continue;
            };
            let mut text = before.clone();
            for part in of_it() {
                match put_into(&text, part) {
                    Ok(Some(new)) => text = new,
                    Ok(None) => {}
                    Err(_) => break,
                }
            }
            if file.found.text.as_ref() == Some(&text) {
                file.text = Some(before);
            }
        }
        Ok(())
    }

    /// Writes what has changed; names the files.
    pub(super) fn write(&self) -> Result<Vec<PathBuf>, PlanError> {
        let changed = || self.files.iter().filter(|file| file.is_changed());
        for file in changed() {
            file.found.may_be_written()?;
        }
        for file in changed() {
            let Some(text) = &file.text else {
                file.found.remove()?;
                drop_empty(&file.found.path);
                continue;
            };
            if file.is_settings {
                file.found.back_up()?;
            }
            file.found.write(text)?;
            if file.is_settings && file.found.before()?.as_ref() == Some(text) {
                file.found.drop_backup()?;
            }
        }
        Ok(changed().map(|file| file.found.path.clone()).collect())
    }
}

/// Folders that were made for a file, as far as nothing else is in them.
fn drop_empty(file: &Path) {
    const MADE: [&str; 5] = ["commands", "skills", "plugins", "handoff", "continue-locally"];
    let is_made = |folder: &&Path| {
        folder.file_name().is_some_and(|name| MADE.iter().any(|made| name == *made))
    };
    for folder in file.ancestors().skip(1).take_while(is_made) {
        // One that is not empty stays, and so do those above it.
        if !fs::list_dir(folder).is_ok_and(|found| found.is_empty())
            || std::fs::remove_dir(folder).is_err()
        {
            return;
        }
    }
}

/// A text with a part in it; nothing where what stands there is not ours.
fn put_into(text: &str, part: &Part) -> Result<Option<String>, EditError> {
    match part {
        Part::Own { text, .. } => Ok(Some(text.clone())),
        Part::Mcp { server: Server::Toml { program, args }, .. } => {
            let mut tables = Tables::parse(text)?;
            let (above, name) = TABLE;
            let is_new = !tables.has(above, name);
            if !is_new && !is_ours_in(&tables) {
                return Ok(None);
            }
            let mut values = vec![
                ("command", program.clone().into()),
                ("args", args.iter().cloned().collect::<toml_edit::Value>()),
            ];
            if is_new {
                values.extend(more_of_table());
            }
            tables.set(above, name, &values)?;
            Ok(Some(tables.text()))
        }
        Part::Mcp { server: Server::Json { keys, program, more }, .. } => {
            let mut document = Document::parse(text)?;
            let Some(there) = document.at(&keys.map(Step::Key)) else {
                let mut whole = program.clone();
                if let (Value::Object(whole), Value::Object(more)) = (&mut whole, more.clone()) {
                    whole.extend(more);
                }
                document.set(keys, &whole)?;
                return Ok(Some(document.text().to_owned()));
            };
            if !is_server(&there) {
                return Ok(None);
            }
            for (key, value) in program.as_object().into_iter().flatten() {
                if there.get(key) != Some(value) {
                    document.set(&[keys.as_slice(), &[key]].concat(), value)?;
                }
            }
            Ok(Some(document.text().to_owned()))
        }
        Part::Hooks { events, handler, .. } => {
            let mut document = Document::parse(text)?;
            let group = serde_json::json!({"hooks": [handler]});
            for event in *events {
                let groups = document.at(&[Step::Key("hooks"), Step::Key(event)]);
                let groups = groups.as_ref().and_then(Value::as_array).into_iter().flatten();
                let ours: Vec<_> = groups.filter(|it| has_hook(it, handler)).collect();
                if ours == [&group] {
                    continue;
                }
                take_hooks(&mut document, event, handler)?;
                document.push(&["hooks", event], &group)?;
            }
            Ok(Some(document.text().to_owned()))
        }
    }
}

/// A text without a part. Objects and lists that are empty then go too, unless they were there before.
fn take_from(text: &str, part: &Part, before: Option<&str>) -> Result<String, EditError> {
    let kept = before;
    let before = before.and_then(|before| Document::parse(before).ok());
    let was_there = |path: &[Step<'_>]| before.as_ref().is_some_and(|it| it.at(path).is_some());
    let drop_empty = |document: &mut Document, path: &[Step<'_>]| match document.at(path) {
        Some(Value::Object(it)) if it.is_empty() && !was_there(path) => document.remove(path),
        Some(Value::Array(it)) if it.is_empty() && !was_there(path) => document.remove(path),
        _ => Ok(()),
    };
    match part {
        Part::Own { .. } => Ok(text.to_owned()),
        Part::Mcp { server: Server::Toml { .. }, .. } => {
            let mut tables = Tables::parse(text)?;
            if !is_ours_in(&tables) {
                return Ok(text.to_owned());
            }
            let was_there =
                kept.is_some_and(|kept| Tables::parse(kept).is_ok_and(|it| it.has_table(TABLE.0)));
            tables.remove(TABLE.0, TABLE.1, was_there);
            Ok(tables.text())
        }
        Part::Mcp { server: Server::Json { keys, .. }, .. } => {
            let mut document = Document::parse(text)?;
            let path = keys.map(Step::Key);
            if !document.at(&path).is_some_and(|there| is_server(&there)) {
                return Ok(text.to_owned());
            }
            document.remove(&path)?;
            let [above, _] = path;
            drop_empty(&mut document, &[above])?;
            Ok(document.text().to_owned())
        }
        Part::Hooks { handler, .. } => {
            let mut document = Document::parse(text)?;
            let hooks = document.at(&[Step::Key("hooks")]);
            let events = hooks.as_ref().and_then(Value::as_object).into_iter().flatten();
            let mut found = false;
            for event in events.map(|(event, _)| event) {
                if take_hooks(&mut document, event, handler)? {
                    found = true;
                    drop_empty(&mut document, &[Step::Key("hooks"), Step::Key(event)])?;
                }
            }
            if !found {
                return Ok(text.to_owned());
            }
            drop_empty(&mut document, &[Step::Key("hooks")])?;
            Ok(document.text().to_owned())
        }
    }
}

/// Takes our hooks of an event out, and groups that had no other ones; says whether there were any.
fn take_hooks(document: &mut Document, event: &str, own: &Value) -> Result<bool, EditError> {
    let path = [Step::Key("hooks"), Step::Key(event)];
    let Some(Value::Array(groups)) = document.at(&path) else { return Ok(false) };
    let mut found = false;
    // From behind, so that what is before keeps its place.
    for (at, group) in groups.iter().enumerate().rev() {
        let handlers = group.get("hooks").and_then(Value::as_array).into_iter().flatten();
        let ours: Vec<_> =
            handlers.enumerate().filter(|(_, it)| is_hook(it, own)).map(|(at, _)| at).collect();
        let group_path = [path.as_slice(), &[Step::At(at)]].concat();
        if ours.is_empty() {
            continue;
        }
        found = true;
        let all = group.get("hooks").and_then(Value::as_array).map_or(0, Vec::len);
        if ours.len() == all {
            document.remove(&group_path)?;
            continue;
        }
        for handler in ours.into_iter().rev() {
            let inner = [Step::Key("hooks"), Step::At(handler)];
            document.remove(&[group_path.as_slice(), &inner].concat())?;
        }
    }
    Ok(found)
}

fn has_hook(group: &Value, own: &Value) -> bool {
    let handlers = group.get("hooks").and_then(Value::as_array);
    handlers.is_some_and(|handlers| handlers.iter().any(|it| is_hook(it, own)))
}

/// Whether a hook is ours, of whichever program and home: it ends with the same words.
fn is_hook(handler: &Value, own: &Value) -> bool {
    let command = |it: &Value| it.get("command").and_then(Value::as_str).map(str::to_owned);
    let (Some(command), Some(own)) = (command(handler), command(own)) else { return false };
    let Some(at) = own.rfind(" agent hook ") else { return false };
    own.get(at..).is_some_and(|end| command.ends_with(end))
}

/// Whether a server is ours, of whichever version and home: our program, and the word for it.
fn is_server(server: &Value) -> bool {
    let list = |key: &str| server.get(key).and_then(Value::as_array);
    let program = match server.get("command") {
        Some(Value::Array(words)) => words.first().and_then(Value::as_str),
        other => other.and_then(Value::as_str),
    };
    let last = list("args").or_else(|| list("command")).and_then(|words| words.last());
    is_program(program) && last == Some(&Value::from("mcp"))
}

fn is_ours_in(tables: &Tables) -> bool {
    let value = |key: &str| tables.value(TABLE.0, TABLE.1, key);
    let (command, args) = (value("command"), value("args"));
    let args = args.as_ref().and_then(toml_edit::Value::as_array);
    let last = args.and_then(|args| args.iter().last()).and_then(toml_edit::Value::as_str);
    is_program(command.as_ref().and_then(toml_edit::Value::as_str)) && last == Some("mcp")
}

fn is_program(path: Option<&str>) -> bool {
    let name = path.and_then(|path| Path::new(path).file_name()).and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("baton"))
}
