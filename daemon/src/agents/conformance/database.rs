//! The same for an agent that keeps its conversations in a database, which is the user's own, or that of a run's home, of which
//! anybody may have made anything. What its program does when it takes a document in is done here as it does it; the real one
//! is asked in `tests/real_agents.rs`.

mod damaged;

use std::path::{Path, PathBuf};

use baton_protocol::object::Part;
use baton_protocol::path::RelPath;
use baton_store::chunk::store_bytes;
use baton_store::folder::Scratch;
use baton_store::folder::database::DatabaseError;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use super::super::departed::take_out;
use super::super::opencode::OpenCode;
use super::super::restore::is_on_its_way;
use super::super::session::Reason;
use super::*;

const ID: &str = "ses_de42cc8a8ffepZyp4dlVdUs36m";
const OTHER: &str = "ses_de42cc8a9ffepZyp4dlVdUs36m";
const CHILD: &str = "ses_de42cc8a7ffepZyp4dlVdUs36m";

const AGENT: &OpenCode = &OpenCode;

/// A home of a user, with a workspace in it, and a program that has a database.
struct Desk {
    machine: Machine,
    /// Whether anybody decides what is in the home.
    is_anybodys: bool,
}

impl Desk {
    fn new(user: &str, workspace: &str) -> Self {
        Self { machine: Machine::new(user, workspace), is_anybodys: false }
    }

    fn of_run(user: &str, workspace: &str) -> Self {
        Self { is_anybodys: true, ..Self::new(user, workspace) }
    }

    fn root(&self) -> &Path {
        &self.machine.root
    }

    fn folder(&self) -> Folder {
        let name = RelPath::new(AGENT.default_folder().as_bytes()).unwrap();
        let folder = if self.is_anybodys {
            Folder::open_in(&self.machine.home, &name, true).unwrap().unwrap()
        } else {
            Folder::open_or_create(&self.machine.folder(AGENT)).unwrap()
        };
        folder.with_scratch(&self.machine.dir.path().join("scratch"))
    }

    fn path(&self) -> PathBuf {
        drop(self.folder());
        self.machine.folder(AGENT).join("opencode.db")
    }

    /// The program's connection.
    fn db(&self) -> Connection {
        let db = Connection::open(self.path()).unwrap();
        db.pragma_update(None, "journal_mode", "wal").unwrap();
        db.execute_batch(SCHEMA).unwrap();
        db
    }

    fn session(&self, id: &str, parent: Option<&str>, cwd: &Path) {
        let cwd = cwd.to_str().unwrap();
        let rules = json!([
            {"permission": "question", "pattern": "*", "action": "deny"},
            {"permission": "bash", "pattern": "*", "action": "allow"},
        ]);
        self.db()
            .execute(
                "INSERT INTO session (id, project_id, parent_id, slug, directory, title, version, cost, permission, \
                 model, time_created, time_updated) \
                 VALUES (?1, 'global', ?2, 'quick-fox', ?3, 'the bug in app', '1.18.33', 0.125, ?4, ?5, 1, 2)",
                params![id, parent, cwd, rules.to_string(), r#"{"providerID":"p","id":"m"}"#],
            )
            .unwrap();
    }

    /// A message, as the program writes it, with its parts.
    fn say(&self, session: &str, message: &str, info: &Value, parts: &[&str]) {
        let db = self.db();
        let time: i64 = db
            .query_row("SELECT coalesce(max(time_created), 0) + 1 FROM message", [], |row| {
                row.get(0)
            })
            .unwrap();
        let message = format!("msg_{message}");
        db.execute(
            "INSERT INTO message VALUES (?1, ?2, ?3, ?3, ?4)",
            params![message, session, time, info.to_string()],
        )
        .unwrap();
        for (at, part) in parts.iter().enumerate() {
            // The time at which it was made comes first.
            let (time, rest) = message.strip_prefix("msg_").unwrap().split_at(10);
            let id = format!("prt_{time}{at:02}{rest}");
            db.execute(
                "INSERT INTO part VALUES (?1, ?2, ?3, ?4, ?4, ?5)",
                params![id, message, session, time, part],
            )
            .unwrap();
        }
    }

    fn user(&self, session: &str, message: &str, text: &str) {
        let part = json!({"type": "text", "text": text}).to_string();
        self.say(session, message, &json!({"role": "user", "time": {"created": 5}}), &[&part]);
    }

    fn agent(&self, session: &str, message: &str, text: &str) {
        let part = json!({"type": "text", "text": text}).to_string();
        self.say(session, message, &self.assistant(), &[&part]);
    }

    fn assistant(&self) -> Value {
        json!({"role": "assistant", "path": {"root": "/", "cwd": self.root()}, "cost": 0})
    }

    /// A session of two turns, the second of which asks for a handoff that was not answered, and one that it has started.
    fn sample(&self, id: &str, cwd: &Path) {
        let tag = id.get(12..15).unwrap();
        let (file, child) = (cwd.join("src/main.rs"), id.replace("ses_de", "ses_df"));
        let file = file.to_str().unwrap();
        self.session(id, None, cwd);
        self.session(&child, Some(id), cwd);
        self.user(&child, &format!("21bd33839001{tag}child0001"), "of a subagent");
        self.user(id, &format!("21bd33839001{tag}first0001"), "look at the bug in app");
        let read = format!(
            r#"{{"type":"tool","callID":"c1","tool":"read","state":{{"status":"completed","input":{{"filePath":"{file}"}},"output":"in {file}:\n\tfn main, by {child}","n":1.5}}}}"#
        );
        let parts = [r#"{"type":"step-start","snapshot":"0123"}"#, &read];
        self.say(id, &format!("21bd34291001{tag}secon0002"), &self.assistant(), &parts);
        self.agent(
            id,
            &format!("21bd34f86001{tag}third0003"),
            &format!("said about {file} of {id}"),
        );
        self.user(id, &format!("21bd351af001{tag}fourt0004"), "hand it over");
        let call = r#"{"type":"tool","callID":"c2","tool":"bash","state":{"status":"running","input":{"command":"baton handoff -p x"}}}"#;
        self.say(id, &format!("21bd351bf001{tag}fifth0005"), &self.assistant(), &[call]);
    }

    /// Everything in the database.
    fn all(&self) -> Vec<String> {
        let db = self.db();
        let mut all = Vec::new();
        for table in ["session", "message", "part", "todo"] {
            let mut found = db.prepare(&format!("SELECT * FROM {table} ORDER BY 1")).unwrap();
            let count = found.column_count();
            let rows = found.query_map([], |row| {
                let value = |at| format!("{:?}", row.get::<_, rusqlite::types::Value>(at).unwrap());
                Ok((0..count).map(value).collect::<Vec<_>>().join("|"))
            });
            all.extend(rows.unwrap().map(Result::unwrap));
        }
        all
    }

    /// All messages and parts of a session.
    fn text(&self, id: &str) -> String {
        let db = self.db();
        let mut found = db
            .prepare(
                "SELECT m.id || ' ' || m.data || ' ' || p.id || ' ' || p.message_id || ' ' || p.session_id || ' ' || p.data \
                 FROM message m LEFT JOIN part p ON p.message_id = m.id WHERE m.session_id = ?1 \
                 ORDER BY m.time_created, m.id, p.id",
            )
            .unwrap();
        let rows = found.query_map([id], |row| row.get::<_, Option<String>>(0)).unwrap();
        rows.map(|row| row.unwrap().unwrap_or_default() + "\n").collect()
    }

    fn source<T>(&self, read: impl FnOnce(&Source<'_>) -> T) -> T {
        let folder = self.folder();
        read(&Source { folder: &folder, root: self.root(), home: Some(&self.machine.home) })
    }

    fn find(&self, id: Option<&str>) -> Result<Option<Session>, AgentError> {
        self.source(|source| find(AGENT, source, id))
    }

    fn taken(&self, id: Option<&str>, to: &Intake) -> Captured {
        self.source(|source| {
            let session = find(AGENT, source, id).unwrap().unwrap();
            take(AGENT, source, &session, id.is_some(), to).unwrap()
        })
    }

    fn written(
        &self,
        conversation: &Conversation,
        form: Form,
        from: &Intake,
    ) -> Result<Restored, AgentError> {
        let folder = self.folder();
        let root = self.root().canonicalize().unwrap();
        let home = Some(self.machine.home.as_path());
        let destination = Destination { folder: &folder, seen_as: None, root: &root, home };
        restore(AGENT, from, conversation, &destination, form)
    }

    /// The same, and the program has taken it in.
    fn goes_on(&self, conversation: &Conversation, form: Form, from: &Intake) -> Restored {
        let restored = self.written(conversation, form, from).unwrap();
        self.take_in(&restored);
        restored
    }

    /// What `opencode import` does, in the folder where the conversation goes on.
    fn take_in(&self, restored: &Restored) {
        let db = self.db();
        for path in &restored.imports {
            let bytes = fs::read_if_exists(path, 1 << 30).unwrap().unwrap();
            let document: Value = serde_json::from_slice(&bytes).unwrap();
            let info = &document["info"];
            let id = info["id"].as_str().unwrap();
            let text = |name: &str| info[name].as_str();
            let json = |name: &str| info.get(name).map(Value::to_string);
            db.execute(
                "INSERT INTO session (id, project_id, parent_id, slug, directory, title, version, cost, permission, model, \
                 time_created, time_updated) VALUES (?1, 'p', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) \
                 ON CONFLICT (id) DO UPDATE SET directory = excluded.directory",
                params![
                    id,
                    text("parentID"),
                    text("slug").unwrap(),
                    restored.cwd.to_str().unwrap(),
                    text("title").unwrap(),
                    text("version").unwrap(),
                    info["cost"].as_f64().unwrap_or_default(),
                    json("permission"),
                    json("model"),
                    info["time"]["created"].as_i64().unwrap(),
                    info["time"]["updated"].as_i64().unwrap(),
                ],
            )
            .unwrap();
            for (at, message) in document["messages"].as_array().unwrap().iter().enumerate() {
                let own = message["info"]["id"].as_str().unwrap();
                db.execute(
                    "INSERT OR IGNORE INTO message VALUES (?1, ?2, ?3, 0, ?4)",
                    params![own, id, at, without(&message["info"], &["id", "sessionID"])],
                )
                .unwrap();
                for part in message["parts"].as_array().unwrap() {
                    let (part_id, of) = (part["id"].as_str(), part["messageID"].as_str());
                    let data = without(part, &["id", "sessionID", "messageID"]);
                    db.execute(
                        "INSERT OR IGNORE INTO part VALUES (?1, ?2, ?3, 0, 0, ?4)",
                        params![part_id.unwrap(), of.unwrap(), id, data],
                    )
                    .unwrap();
                }
            }
            fs::remove_file(path).unwrap();
        }
    }
}

fn without(value: &Value, names: &[&str]) -> String {
    let mut value = value.clone();
    value.as_object_mut().unwrap().retain(|name, _| !names.contains(&name.as_str()));
    value.to_string()
}

/// As the program makes it, without what nobody reads here.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS session (id text PRIMARY KEY, project_id text NOT NULL, workspace_id text, parent_id text,
    slug text NOT NULL, directory text NOT NULL, path text, title text NOT NULL, version text NOT NULL, share_url text,
    summary_additions integer, summary_deletions integer, summary_files integer, summary_diffs text, metadata text,
    cost real DEFAULT 0 NOT NULL, tokens_input integer DEFAULT 0 NOT NULL, tokens_output integer DEFAULT 0 NOT NULL,
    tokens_reasoning integer DEFAULT 0 NOT NULL, tokens_cache_read integer DEFAULT 0 NOT NULL,
    tokens_cache_write integer DEFAULT 0 NOT NULL, revert text, permission text, agent text, model text,
    time_created integer NOT NULL, time_updated integer NOT NULL, time_compacting integer, time_archived integer);
CREATE TABLE IF NOT EXISTS message (id text PRIMARY KEY, session_id text NOT NULL, time_created integer NOT NULL,
    time_updated integer NOT NULL, data text NOT NULL);
CREATE TABLE IF NOT EXISTS part (id text PRIMARY KEY, message_id text NOT NULL, session_id text NOT NULL,
    time_created integer NOT NULL, time_updated integer NOT NULL, data text NOT NULL);
CREATE TABLE IF NOT EXISTS todo (session_id text NOT NULL, content text NOT NULL, position integer NOT NULL);
";

/// A conversation in a store, with other lines in a file of it.
fn changed(
    conversation: &Conversation,
    to: &Intake,
    change: impl Fn(&str, String) -> String,
) -> Conversation {
    let mut new = conversation.clone();
    new.transcript = (conversation.transcript.iter())
        .map(|old| {
            let name = old.path.display().into_owned();
            let text = String::from_utf8(part(conversation, &name, to)).unwrap();
            let blob = store_bytes(change(&name, text).as_bytes(), to).unwrap();
            Part { path: old.path.clone(), blob }
        })
        .collect();
    new
}

#[test]
fn the_session_of_a_workspace_is_found() {
    for desk in [Desk::new("ann", "app"), Desk::of_run("ann", "app")] {
        assert_eq!(desk.find(None).unwrap(), None);
        desk.sample(ID, desk.root());
        desk.sample(OTHER, &desk.machine.dir.path().join("app2"));
        let session = desk.find(None).unwrap().unwrap();
        assert_eq!((session.id.as_str(), session.cwd.as_path()), (ID, desk.root()));
        assert_eq!((session.title.as_str(), session.modified_ms), ("the bug in app", 2));
        assert_eq!(desk.find(Some(ID)).unwrap().unwrap(), session);
        assert!(matches!(desk.find(Some(OTHER)), Err(AgentError::Elsewhere { .. })));
        assert!(matches!(desk.find(Some(CHILD)), Err(AgentError::NoSession { .. })));
        let uuid = "01a21b58-b33b-4981-9512-8b8a5be4cd61";
        for no_id in ["", "../x", "ses_", "ses_../../../etc/passwd0", uuid, &ID.replace('p', "/")] {
            let error = desk.find(Some(no_id)).unwrap_err();
            assert!(matches!(error, AgentError::NoId { .. }), "{error}");
        }
        desk.session("ses_de42cc8a6ffepZyp4dlVdUs36m", None, &desk.root().join("inner"));
        let error = desk.find(None).unwrap_err();
        assert!(matches!(&error, AgentError::Several { sessions, .. } if sessions.len() == 2));
    }
}

#[test]
fn what_is_stored_is_what_stood_there() {
    for desk in [Desk::new("ann", "app"), Desk::of_run("ann", "app")] {
        let home = Home::new();
        let intake = home.vault.intake();
        desk.sample(ID, desk.root());
        desk.db().execute("INSERT INTO todo VALUES (?1, 'x', 0)", [ID]).unwrap();
        let numbers = r#"{"type":"step-finish","n":1.50,"big":18446744073709551616}"#;
        desk.say(ID, "21bd36000001number0000006", &desk.assistant(), &[numbers]);
        let before = desk.all();
        let captured = desk.taken(None, &intake);
        let left: Vec<_> =
            captured.left_out.iter().map(|it| (it.path.clone(), it.reason)).collect();
        assert_eq!(left, [(format!("{ID}/todo"), Reason::NotCarried)]);
        let child = ID.replace("ses_de", "ses_df");
        let names: Vec<_> =
            captured.conversation.transcript.iter().map(|it| it.path.display()).collect();
        let expected = [
            "origin.json".to_owned(),
            format!("{ID}.jsonl"),
            format!("{ID}.state.jsonl"),
            format!("subagents/{child}.jsonl"),
            format!("subagents/{child}.state.jsonl"),
        ];
        assert_eq!(names, expected);
        assert_eq!((captured.seen.messages, captured.seen.odd_lines), (3, 0));
        assert_eq!(captured.seen.version.as_deref(), Some("1.18.33"));
        assert!(captured.seen.handoff().is_some());
        let text = String::from_utf8(part(&captured.conversation, &expected[1], &intake)).unwrap();
        assert_eq!(text.lines().count(), 7);
        // To the byte, but for the order of names.
        for value in [r#""n":1.50"#, r#""big":18446744073709551616"#, r"fn main, by ses_df"] {
            assert!(text.contains(value), "{value}: {text}");
        }
        // Nothing has changed: nothing is new, and nothing was written.
        assert_eq!(desk.taken(Some(ID), &intake).id, captured.id);
        assert_eq!(desk.all(), before);
    }
}

#[test]
fn what_was_looked_at_is_what_is_stored() {
    let (home, desk) = (Home::new(), Desk::new("ann", "app"));
    let intake = home.vault.intake();
    desk.sample(ID, desk.root());
    let writer = desk.db();
    desk.source(|source| {
        let session = find(AGENT, source, None).unwrap().unwrap();
        let looked = look(AGENT, source, &session, None, false).unwrap();
        let id = looked.id;
        // The program is at work.
        desk.agent(ID, "21bd36000001later00000006", "one more");
        writer.execute("UPDATE session SET title = 'another', time_updated = 99", []).unwrap();
        let captured = capture(AGENT, source, &session, looked, &intake).unwrap();
        assert_eq!(captured.id, id);
        let text = part(&captured.conversation, &format!("{ID}.jsonl"), &intake);
        assert!(!String::from_utf8(text).unwrap().contains("one more"));
    });
    let scratch = desk.machine.dir.path().join("scratch");
    assert_eq!(fs::list_dir(&scratch).unwrap().len(), 0);
}

#[test]
fn a_conversation_goes_on_at_another_path_and_comes_back_as_it_was() {
    let home = Home::new();
    let (here, there) = (Desk::new("ann", "app"), Desk::of_run("worker", "run 7/tree"));
    here.sample(ID, here.root());
    let (intake, before) = (home.vault.intake(), here.all());
    let captured = here.taken(None, &intake);
    let is_on_its_way = || is_on_its_way(AGENT, &there.folder(), ID).unwrap();
    let restored = there.written(&captured.conversation, Form::Same, &intake).unwrap();
    assert!(is_on_its_way());
    there.take_in(&restored);
    assert!(!is_on_its_way());
    assert_eq!((restored.id.as_str(), restored.is_new_id), (ID, false));
    assert_eq!((restored.imports.len(), restored.left_out.len()), (2, 0), "{restored:?}");
    assert_eq!(restored.resume, ["opencode", "--session", ID]);
    assert_eq!(there.find(None).unwrap().unwrap().cwd, restored.cwd);
    let (text, old) = (there.text(ID), here.root().to_str().unwrap());
    for line in text.lines().filter(|line| line.contains(old)) {
        assert!(line.contains("said about"), "{line}");
    }
    let file = there.root().join("src/main.rs");
    assert!(text.contains(file.to_str().unwrap()) && text.contains("hand it over"), "{text}");
    // Nothing lets an agent do what it would ask for.
    let all = there.all().join("\n");
    assert!(all.contains("deny") && !all.contains("allow"), "{all}");
    // The other way: nothing is to be taken in, for it is the same.
    let back = there.taken(Some(ID), &intake);
    let restored = here.written(&back.conversation, Form::Same, &intake).unwrap();
    assert_eq!((restored.imports.len(), restored.is_new_id), (0, false), "{restored:?}");
    assert_eq!(here.all(), before);
}

#[test]
fn what_was_said_elsewhere_comes_home_and_nothing_is_taken_in_twice() {
    let home = Home::new();
    let (here, there) = (Desk::new("ann", "app"), Desk::of_run("worker", "tree"));
    here.sample(ID, here.root());
    let intake = home.vault.intake();
    let captured = here.taken(None, &intake);
    for count in [2, 0] {
        let restored = there.goes_on(&captured.conversation, Form::Same, &intake);
        assert_eq!(restored.imports.len(), count, "{restored:?}");
    }
    there.agent(ID, "21bd36000001later00000006", "all done");
    // An older form over a newer one: nothing is lost.
    let restored = there.goes_on(&captured.conversation, Form::Same, &intake);
    assert_eq!(restored.imports.len(), 0, "{restored:?}");
    assert!(there.text(ID).contains("all done"));
    let back = there.taken(None, &intake);
    let restored = here.goes_on(&back.conversation, Form::Same, &intake);
    assert_eq!((restored.id.as_str(), restored.imports.len()), (ID, 1), "{restored:?}");
    let text = here.text(ID);
    assert!(text.contains("all done") && !text.contains(there.root().to_str().unwrap()), "{text}");
    assert_eq!(text.matches("hand it over").count(), 1);
}

#[test]
fn a_different_conversation_of_the_same_id_is_kept() {
    let home = Home::new();
    let (here, there) = (Desk::new("ann", "app"), Desk::new("worker", "tree"));
    here.sample(ID, here.root());
    let intake = home.vault.intake();
    let captured = here.taken(None, &intake);
    there.goes_on(&captured.conversation, Form::Same, &intake);
    for desk in [&here, &there] {
        desk.db()
            .execute("UPDATE part SET data = replace(data, 'running', 'completed')", [])
            .unwrap();
    }
    here.agent(ID, "21bd36000001here000000006", "went on here");
    there.agent(ID, "21bd36000001there00000006", "went on there");
    let before = there.all();
    let captured = here.taken(None, &intake);
    let restored = there.goes_on(&captured.conversation, Form::Same, &intake);
    assert!(restored.is_new_id && restored.id != ID && AGENT.is_id(&restored.id));
    let after = there.all();
    assert!(before.iter().all(|row| after.contains(row)), "{before:#?} {after:#?}");
    // Every message and part has come, under an id of its own and in its order.
    let (old, new) = (there.text(ID), there.text(&restored.id));
    assert!(new.contains("went on here") && !new.contains("went on there"), "{new}");
    assert_eq!(new.lines().count(), old.lines().count());
    let ids = |text: &str| -> Vec<String> {
        let ids =
            text.split_whitespace().filter(|it| it.starts_with("msg_") || it.starts_with("prt_"));
        ids.map(str::to_owned).collect()
    };
    assert!(ids(&new).iter().all(|id| !ids(&old).contains(id)), "{new}");
    // The old id stands where it was said only; the one that it has started is another one, too.
    for line in new.lines().filter(|line| line.contains(ID)) {
        assert!(line.contains("said about"), "{line}");
    }
    let child = ID.replace("ses_de", "ses_df");
    assert!(!new.contains(&child), "{new}");
    assert_eq!(there.source(|source| sessions(AGENT, source).unwrap().len()), 2);
    // As what it goes on from, at another place.
    let beside = Desk { machine: there.machine, is_anybodys: false };
    let root = beside.machine.dir.path().join("tree-run");
    let folder = beside.folder();
    let destination = Destination { folder: &folder, seen_as: None, root: &root, home: None };
    let restored =
        restore(AGENT, &intake, &captured.conversation, &destination, Form::Same).unwrap();
    assert!(restored.is_new_id, "{restored:?}");
}

#[test]
fn a_fork_has_a_new_id_and_ends_before_the_turn_that_asked() {
    let home = Home::new();
    let (here, there) = (Desk::new("ann", "app"), Desk::of_run("worker", "tree"));
    here.sample(ID, here.root());
    let (intake, before) = (home.vault.intake(), here.all());
    let captured = here.taken(None, &intake);
    let last = Form::Fork { before_last_turn: true };
    for (form, is_short) in
        [(Form::ForkAtHandoff, true), (last, true), (Form::Fork { before_last_turn: false }, false)]
    {
        let fork = there.goes_on(&captured.conversation, form, &intake);
        assert!(fork.is_new_id && fork.id != ID, "{fork:?}");
        let text = there.text(&fork.id);
        assert_eq!(text.contains("hand it over"), !is_short, "{text}");
        assert!(text.contains("look at the bug"), "{text}");
        assert_eq!(text.lines().count(), if is_short { 4 } else { 6 });
    }
    assert_eq!(here.all(), before);
    // A conversation of one turn has nothing before it.
    here.session(OTHER, None, here.root());
    here.user(OTHER, "21bd37000001single0000001", "hand it over");
    let captured = here.taken(Some(OTHER), &intake);
    let refused = there.written(&captured.conversation, last, &intake);
    assert!(matches!(refused, Err(AgentError::NothingBefore)), "{refused:?}");
}

#[test]
fn a_conversation_that_has_grown_shares_all_but_its_end() {
    let (home, desk) = (Home::new(), Desk::new("ann", "app"));
    let intake = home.vault.intake();
    desk.session(ID, None, desk.root());
    for at in 0..1500 {
        desk.agent(
            ID,
            &format!("21bd36{at:06}grown0000001"),
            &format!("{at} {}", "word ".repeat(at % 97)),
        );
    }
    let before = desk.taken(None, &intake);
    desk.agent(ID, "21bd37000001grown0000001", "one more");
    desk.db().execute("UPDATE session SET time_updated = 99, cost = 3", []).unwrap();
    let after = desk.taken(None, &intake);
    let (old, new) = (chunks(&before, &intake), chunks(&after, &intake));
    assert!(old.len() > 3);
    // The last one of the transcript, perhaps one more where that was full, what changes of it, and where it comes from.
    let fresh = new.iter().filter(|chunk| !old.contains(chunk)).count();
    assert!(fresh <= 4, "{fresh} of {}", new.len());
}

#[test]
fn what_looks_like_a_secret_is_named_and_not_shown() {
    let rules = baton_store::secrets::SecretRules::standard().unwrap();
    let desk = Desk::new("ann", "app");
    desk.sample(ID, desk.root());
    let key = format!("AKIA{}", "IOSFODNN7EXAMPLQ");
    let output = format!(
        r#"{{"type":"tool","callID":"c","tool":"bash","state":{{"status":"completed","output":"aws_access_key_id = {key}\naws_secret_access_key = wJalrXUtnFEMIK7MDENGbPxRfiCYzzzzzzKEYQ12"}}}}"#
    );
    desk.say(ID, "21bd36000001secret0000006", &desk.assistant(), &[&output]);
    desk.source(|source| {
        let session = find(AGENT, source, None).unwrap().unwrap();
        let allowed = baton_store::catalog::held::Allowed::default();
        let looking = Looking::Rules { rules: &rules, allowed: &allowed };
        let looked = look(AGENT, source, &session, Some(looking), false).unwrap();
        assert!(!looked.found.is_empty());
        let found = &looked.found[0];
        assert_eq!((found.file.as_str(), found.line), (format!("{ID}.jsonl").as_str(), 7));
        assert!(!format!("{found:?}").contains(&key));
    });
}

#[test]
fn an_output_that_was_too_long_comes_to_its_place() {
    let home = Home::new();
    let (here, there) = (Desk::of_run("ann", "app"), Desk::new("worker", "tree"));
    here.sample(ID, here.root());
    let [name, link, gone] =
        ["a", "b", "c"].map(|end| format!("tool_21c0392bc001uI13mvUGMhGRd{end}"));
    let at = |desk: &Desk, name: &str| desk.machine.folder(AGENT).join("tool-output").join(name);
    write(&at(&here, &name), b"all of it");
    write(&at(&here, "tool_21c0392bc001uI13mvUGMhGRdx"), b"of another one");
    std::os::unix::fs::symlink("/etc/passwd", at(&here, &link)).unwrap();
    let paths = [&name, &link, &gone].map(|name| at(&here, name).display().to_string());
    let output = format!("saved to: {}", paths.join(" and "));
    let part = json!({"type": "tool", "callID": "c3", "tool": "bash", "state": {"status": "completed", "output": output}});
    here.say(ID, "21bd350000001output0000004", &here.assistant(), &[&part.to_string()]);
    let intake = home.vault.intake();
    let captured = here.taken(None, &intake);
    let left: Vec<_> = captured.left_out.iter().map(|it| (it.path.as_str(), it.reason)).collect();
    assert_eq!(left, [(format!("tool-output/{link}").as_str(), Reason::Special)]);
    write(&at(&there, &gone), b"own");
    let restored = there.goes_on(&captured.conversation, Form::Same, &intake);
    assert_eq!(restored.imports.len(), 2);
    let bytes = fs::read_if_exists(&at(&there, &name), 100).unwrap();
    assert_eq!(bytes.as_deref(), Some(b"all of it".as_slice()));
    assert_eq!(fs::list_dir(&at(&there, "")).unwrap().len(), 2);
    let text = there.text(ID);
    assert!(text.contains(at(&there, &name).to_str().unwrap()), "{text}");
    // One that is there stays as it is.
    write(&at(&there, &name), b"mine");
    let form = Form::Fork { before_last_turn: false };
    assert!(there.goes_on(&captured.conversation, form, &intake).is_new_id);
    assert_eq!(fs::read_if_exists(&at(&there, &name), 100).unwrap().unwrap(), b"mine");
}

/// What comes is anybody's: it puts nothing into another conversation, and lets nobody do anything.
#[test]
fn a_document_has_nothing_that_is_not_its_own() {
    let home = Home::new();
    let (here, there) = (Desk::of_run("ann", "app"), Desk::new("worker", "tree"));
    here.sample(ID, here.root());
    let intake = home.vault.intake();
    let captured = here.taken(None, &intake).conversation;
    there.session(OTHER, None, &there.root().join("elsewhere"));
    there.user(OTHER, "21bd33839001cc8first0001", "what nobody else may change");
    let own = "msg_21bd33839001cc8first0001";
    let before = there.text(OTHER);
    let main = format!("{ID}.jsonl");
    let theirs =
        |find: &str, replace: &str| {
            changed(&captured, &intake, |name, text| {
                if name == main { text.replace(find, replace) } else { text }
            })
        };
    // A message of another conversation, and a part that says that it is of one.
    let tag = ID.get(12..15).unwrap();
    let message = format!("msg_21bd34291001{tag}secon0002");
    let taken = theirs(&message, own);
    let restored = there.goes_on(&taken, Form::Same, &intake);
    assert!(restored.is_new_id, "{restored:?}");
    assert_eq!(there.text(OTHER), before);
    let pushed =
        theirs(&format!("\"messageID\":\"{message}\""), &format!("\"messageID\":\"{own}\""));
    there.goes_on(&pushed, Form::Same, &intake);
    assert_eq!(there.text(OTHER), before);
    let pushed = theirs(&format!("\"sessionID\":\"{ID}\""), &format!("\"sessionID\":\"{OTHER}\""));
    there.goes_on(&pushed, Form::Same, &intake);
    assert_eq!(there.text(OTHER), before);
    // Of another id than its file, below another one, and with rules that let it do everything.
    let free = changed(&captured, &intake, |_, text| {
        text.replace(
            &format!("\"id\":\"{ID}\""),
            &format!("\"id\":\"{OTHER}\",\"parentID\":\"{OTHER}\""),
        )
        .replace("\"deny\"", "\"allow\"")
    });
    let fork = Form::Fork { before_last_turn: false };
    let restored = there.goes_on(&free, fork, &intake);
    assert_eq!(there.text(OTHER), before);
    let rules: String = there
        .db()
        .query_row("SELECT permission FROM session WHERE id = ?1", [&restored.id], |row| row.get(0))
        .unwrap();
    assert_eq!(rules, "[]");
    let parents: Option<String> = there
        .db()
        .query_row("SELECT parent_id FROM session WHERE id = ?1", [&restored.id], |row| row.get(0))
        .unwrap();
    assert_eq!(parents, None);
}

#[test]
fn odd_and_hostile_lines_are_passed_over_and_names_lead_nowhere() {
    let home = Home::new();
    let (here, there) = (Desk::of_run("ann", "app"), Desk::new("worker", "tree"));
    here.sample(ID, here.root());
    let intake = home.vault.intake();
    let captured = here.taken(None, &intake).conversation;
    let main = format!("{ID}.jsonl");
    let odd = changed(&captured, &intake, |name, text| {
        if name != main {
            return "no state".to_owned();
        }
        let deep = format!("{{\"info\":{}1{}}}", "[".repeat(300), "]".repeat(300));
        let path = r#"{"info":{"id":"msg_../../../../etc/x","role":"user"},"parts":[]}"#;
        let part = r#"{"info":{"id":"msg_21bd39000001odd0000000001","role":"user"},"parts":[{"id":"../x","type":"text"},7]}"#;
        let later = r#"{"info":{"id":"msg_21bd39000002odd0000000001","role":"from-later"},"parts":[{"id":"prt_21bd39000002odd0000000001","type":"new"}]}"#;
        format!("{text}no json\n\n{deep}\n{path}\n{part}\n{later}\n{{\"info\":{{\"id\":\"msg_cut")
    });
    let mut odd = odd;
    // Where it comes from is not one of them.
    odd.transcript =
        (odd.transcript.into_iter())
            .map(|it| {
                if it.path.as_bytes() == b"origin.json" {
                    captured.transcript[0].clone()
                } else {
                    it
                }
            })
            .collect();
    for name in ["../../x", "/etc/x", "subagents/../x.jsonl", "auth.json", "opencode.db", "x.jsonl"]
    {
        let Ok(path) = RelPath::new(name.as_bytes()) else { continue };
        let blob = store_bytes(b"{}", &intake).unwrap();
        odd.transcript.push(Part { path, blob });
    }
    let restored = there.goes_on(&odd, Form::Same, &intake);
    let unknown = restored.left_out.iter().filter(|it| it.reason == Reason::Unknown).count();
    assert!(unknown >= 3, "{restored:?}");
    let text = there.text(ID);
    assert!(text.contains("from-later") && text.contains("hand it over"), "{text}");
    assert!(!text.contains("etc/x") && !text.contains("msg_cut"), "{text}");
    let names: Vec<_> = fs::list_dir(&there.machine.folder(AGENT)).unwrap();
    let strange = names.iter().filter(|name| {
        let name = name.to_string_lossy();
        !name.starts_with("opencode.db") && name != "baton"
    });
    assert_eq!(strange.count(), 0, "{names:?}");
    // Ids that are none.
    for id in ["../../x", "01a21b58-b33b-4981-9512-8b8a5be4cd61", "ses_", &"ses_x".repeat(100)] {
        let other = Conversation { session: id.to_owned(), ..captured.clone() };
        let refused = there.written(&other, Form::Same, &intake);
        assert!(matches!(refused, Err(AgentError::Unknown { .. })), "{refused:?}");
    }
}

/// The database of a home in which somebody has put something else.
#[test]
fn what_is_no_database_of_the_agents_is_an_error_and_leads_nowhere() {
    let home = Home::new();
    let intake = home.vault.intake();
    for is_anybodys in [false, true] {
        let new = || Desk { is_anybodys, ..Desk::new("ann", "app") };
        // Ids and paths that are none, in its rows.
        let desk = new();
        desk.sample(ID, desk.root());
        for (at, (id, cwd)) in [
            ("../../x", desk.root().to_owned()),
            ("ses_../../../../../etc/cron.d/x", desk.root().to_owned()),
            ("ses_de42cc8a5ffepZyp4dlVdUs36m", "relative".into()),
            ("ses_de42cc8a4ffepZyp4dlVdUs36m", desk.root().join("../../etc")),
        ]
        .into_iter()
        .enumerate()
        {
            desk.session(id, None, &cwd);
            desk.user(id, &format!("21bd3800000{at}hostile0001"), "x");
        }
        desk.session("../../child", Some(ID), desk.root());
        desk.db().execute("UPDATE message SET id = '../../y' WHERE id LIKE '%third%'", []).unwrap();
        let captured = desk.taken(None, &intake);
        let names: Vec<_> =
            captured.conversation.transcript.iter().map(|it| it.path.display()).collect();
        assert_eq!(names.len(), 5, "{names:?}");
        assert_eq!(captured.left_out.len(), 1, "{:?}", captured.left_out);
        // A value that nobody has room for stays, and is named; so does what is no JSON.
        desk.db()
            .execute("UPDATE part SET data = zeroblob(70000000) WHERE id LIKE '%fourt%'", [])
            .unwrap();
        desk.db().execute("UPDATE part SET data = '{\"a\":' WHERE id LIKE '%fifth%'", []).unwrap();
        let captured = desk.taken(None, &intake);
        let left: Vec<_> = captured.left_out.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(left.iter().all(|path| path.starts_with(ID)), "{left:?}");
        // Of another form.
        let desk = new();
        desk.sample(ID, desk.root());
        desk.db().execute_batch("ALTER TABLE session RENAME COLUMN directory TO place").unwrap();
        let error = desk.find(None).unwrap_err();
        assert!(matches!(error, AgentError::Database(DatabaseError::Sqlite { .. })), "{error}");
        assert!(error.hint().is_some());
        let desk = new();
        desk.sample(ID, desk.root());
        desk.db()
            .execute_batch("ALTER TABLE part RENAME TO old; CREATE VIEW part AS SELECT * FROM old")
            .unwrap();
        let error = desk.find(None).unwrap_err();
        assert!(matches!(error, AgentError::Database(DatabaseError::NoTable { .. })), "{error}");
        let desk = new();
        write(&desk.path(), &[b'x'; 5000]);
        let error = desk.find(None).unwrap_err();
        assert!(matches!(error, AgentError::Database(DatabaseError::Sqlite { .. })), "{error}");
        // It is not made another's.
        let conversation = captured.conversation.clone();
        desk.written(&conversation, Form::Same, &intake).unwrap_err();
        assert_eq!(fs::read_if_exists(&desk.path(), 10_000).unwrap().unwrap(), [b'x'; 5000]);
        // A link to another one.
        let desk = new();
        let outside = Desk::new("bob", "app");
        outside.sample(ID, desk.root());
        std::os::unix::fs::symlink(outside.path(), desk.path()).unwrap();
        let error = desk.find(None).unwrap_err();
        assert!(matches!(error, AgentError::Database(DatabaseError::Folder(_))), "{error}");
    }
}

#[test]
fn a_database_goes_when_everything_in_it_is_stored_and_stays_otherwise() {
    let home = Home::new();
    let (here, run) = (Desk::new("ann", "app"), Desk::of_run("worker", "tree"));
    here.sample(ID, here.root());
    let intake = home.vault.intake();
    let captured = here.taken(None, &intake);
    run.goes_on(&captured.conversation, Form::Same, &intake);
    run.agent(ID, "21bd36000001later00000006", "all done");
    let left = run.taken(Some(ID), &intake).conversation;
    let out = |conversation: &Conversation| {
        take_out(AGENT, &intake, conversation, &run.folder()).unwrap()
    };
    // What it came with is older than what is there.
    assert!(!out(&captured.conversation) && run.path().exists());
    // Another conversation is there, too.
    run.session(OTHER, None, run.root());
    assert!(!out(&left) && run.path().exists());
    run.db().execute("DELETE FROM session WHERE id = ?1", [OTHER]).unwrap();
    assert!(out(&left));
    let names = fs::list_dir(&run.machine.folder(AGENT)).unwrap();
    assert!(names.iter().all(|name| !name.to_string_lossy().contains("opencode.db")), "{names:?}");
    // Nothing is there.
    assert!(out(&left));
    // It comes to another place with its id.
    let again = Desk { machine: run.machine, is_anybodys: true };
    let restored = again.goes_on(&left, Form::Same, &intake);
    assert_eq!((restored.id.as_str(), restored.imports.len()), (ID, 2));
    // Of a conversation that is not there nothing is taken out.
    let other = Conversation { session: OTHER.to_owned(), ..left.clone() };
    let other = Conversation { transcript: vec![other.transcript[0].clone()], ..other };
    assert!(take_out(AGENT, &intake, &other, &again.folder()).unwrap() && again.path().exists());
}

#[test]
fn without_a_place_for_a_copy_nothing_is_read() {
    let desk = Desk::of_run("ann", "app");
    desk.sample(ID, desk.root());
    let name = RelPath::new(AGENT.default_folder().as_bytes()).unwrap();
    let folder = Folder::open_in(&desk.machine.home, &name, false).unwrap().unwrap();
    let source = Source { folder: &folder, root: desk.root(), home: None };
    let error = sessions(AGENT, &source).unwrap_err();
    assert!(error.to_string().contains("no place for a copy"), "{error}");
    drop(Scratch::new(&desk.machine.dir.path().join("scratch")).unwrap());
}
