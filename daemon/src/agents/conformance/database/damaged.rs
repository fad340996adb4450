//! What stands in a database, damaged at random: rows of sessions, messages and parts.
//!
//! An input is rows one after the other: the letter of a table, and its columns. A column that begins with a hash is a number, and
//! one that is a tilde is nothing.

use rusqlite::types::Value as Column;

use super::super::damaged::{EACH, FIXED, form, outside, said, with_places, without_places};
use super::*;
use crate::fuzz::fuzzing::{CORPUS, Random, fuzz_with, within};

/// Behind a column, and behind a row.
const COLUMN: u8 = 0x1f;
const ROW: u8 = 0x1e;

const TABLES: [(u8, &str, &str); 3] = [
    (
        b's',
        "session",
        "id, project_id, parent_id, slug, directory, title, version, cost, revert, permission, agent, model, \
         time_created, time_updated",
    ),
    (b'm', "message", "id, session_id, time_created, time_updated, data"),
    (b'p', "part", "id, message_id, session_id, time_created, time_updated, data"),
];

fn rows_of(db: &Connection) -> Vec<u8> {
    let mut all = Vec::new();
    for (letter, table, columns) in TABLES {
        let mut list = db.prepare(&format!("SELECT {columns} FROM {table} ORDER BY 1")).unwrap();
        let count = list.column_count();
        let mut rows = list.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            all.push(letter);
            for column in 0..count {
                all.extend(match row.get(column).unwrap() {
                    Column::Null => b"~".to_vec(),
                    Column::Integer(value) => format!("#{value}").into_bytes(),
                    Column::Real(value) => format!("#{value}").into_bytes(),
                    Column::Text(text) => text.into_bytes(),
                    Column::Blob(bytes) => bytes,
                });
                all.push(COLUMN);
            }
            all.push(ROW);
        }
    }
    all
}

fn column(bytes: &[u8]) -> Column {
    let text = String::from_utf8_lossy(bytes);
    match text.strip_prefix('#') {
        _ if bytes == b"~" => Column::Null,
        Some(number) => match (number.parse(), number.parse()) {
            (Ok(value), _) => Column::Integer(value),
            (_, Ok(value)) => Column::Real(value),
            _ => Column::Blob(bytes.to_vec()),
        },
        None => Column::Text(text.into_owned()),
    }
}

/// Puts rows in place of those that are there, as far as the database takes them.
fn put_rows(db: &Connection, input: &[u8]) {
    db.execute_batch("BEGIN").unwrap();
    for (_, table, _) in TABLES {
        db.execute(&format!("DELETE FROM {table}"), []).unwrap();
    }
    for row in input.split(|&byte| byte == ROW) {
        let Some((letter, row)) = row.split_first() else { continue };
        let (_, table, columns) =
            TABLES.into_iter().find(|it| it.0 == *letter).unwrap_or(TABLES[2]);
        let count = columns.split(',').count();
        let values: Vec<_> = row
            .split(|&byte| byte == COLUMN)
            .map(column)
            .chain(std::iter::repeat(Column::Null))
            .take(count)
            .collect();
        let marks = vec!["?"; count].join(", ");
        let put = format!("INSERT OR REPLACE INTO {table} ({columns}) VALUES ({marks})");
        // Nothing where there has to be something is in no database.
        let _is_taken = db.execute(&put, rusqlite::params_from_iter(values)).is_ok();
    }
    db.execute_batch("COMMIT").unwrap();
}

/// What came of it: documents in the folder of the agent, which are JSON, and nothing beside it.
fn check(restored: &Restored, desk: &Desk) {
    assert!(AGENT.is_id(&restored.id), "{restored:?}");
    assert!(restored.cwd.starts_with(desk.root().canonicalize().unwrap()), "{restored:?}");
    for path in &restored.imports {
        assert!(path.starts_with(desk.machine.folder(AGENT)), "{restored:?}");
        let bytes = fs::read_if_exists(path, 1 << 30).unwrap().unwrap();
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        assert!(document["info"]["id"].as_str().is_some_and(|id| AGENT.is_id(id)), "{document}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn opencode_transcripts() {
    let desk = |machine, is_anybodys| Desk { machine, is_anybodys };
    let here = desk(Machine::in_memory("ann", "app"), false);
    let there = desk(Machine::in_memory("worker", "run 7/tree"), true);
    here.sample(ID, here.root());
    there.sample(OTHER, there.root());
    let (db, home) = (here.db(), Home::new());
    let sample = without_places(&rows_of(&db), &here.machine);
    let (beside_here, beside_there) =
        (outside(&here.machine, AGENT), outside(&there.machine, AGENT));
    let before_there = there.all();

    fuzz_with(200, vec![sample; CORPUS], |_, input| {
        let random = &mut Random::of(input);
        let input = with_places(&input[..input.len().min(128 * 1024)], &here.machine);
        put_rows(&db, &input);
        let before = rows_of(&db);
        let found = within(&input, EACH, FIXED, |_| {
            said(here.source(|source| sessions(AGENT, source)));
            here.find(Some(ID))
        });
        let Some(session) = said(found) else { return false };
        let session = session.unwrap();
        let intake = home.vault.intake();
        let captured = within(&input, EACH, FIXED, |_| {
            here.source(|source| take(AGENT, source, &session, true, &intake))
        });
        let Some(captured) = said(captured) else { return false };
        let conversation = &captured.conversation;
        assert_eq!(Conversation::decode(&conversation.encode()).unwrap(), *conversation);
        // The same again is the same.
        if random.below(4) == 0 {
            let again = here.source(|source| take(AGENT, source, &session, true, &intake));
            assert_eq!(again.unwrap().id, captured.id);
        }

        let form = form(random);
        let restored = within(&input, EACH, FIXED, |_| there.written(conversation, form, &intake));
        let restored = said(restored).inspect(|restored| check(restored, &there));
        // Where it is from it is there, and stays.
        let back = said(here.written(conversation, Form::Same, &intake));
        back.inspect(|restored| check(restored, &here));
        assert!(rows_of(&db) == before, "the database has changed");
        assert_eq!(outside(&here.machine, AGENT), beside_here, "written beside the folder");
        assert_eq!(outside(&there.machine, AGENT), beside_there, "written beside the folder");
        restored.is_some()
    });
    assert!(there.all() == before_there, "the database has changed");
}
