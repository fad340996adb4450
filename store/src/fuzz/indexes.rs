//! The file of an index: as a file, and row by row.
//!
//! An input that begins with zero is a file without what is zero in it anyway; any other is what rows say.

use baton_protocol::encode::{Reader, Writer};
use baton_protocol::id::{ObjectId, ObjectKind};
use rusqlite::Connection;

use super::fuzzing::{CORPUS, Random, fuzz_with, within};
use super::ground::{Ground, served};
use super::rows::{Sparse, value, write_value};
use super::segments::segment;
use crate::fs;
use crate::layout::Class;
use crate::objects::ObjectSink;

/// What opening and reading may take, whatever a row says: records are read to look at them.
const FIXED: usize = 16 << 20;

/// The tables and the number of their columns.
const TABLES: [(&str, usize); 2] = [("object", 9), ("segment", 4)];

/// All rows of a file, each after the number of its table.
fn rows_of(db: &Connection) -> Vec<u8> {
    let mut to = Writer::new();
    for (number, (table, columns)) in TABLES.into_iter().enumerate() {
        let mut list = db.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let mut rows = list.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            to.byte(number as u8 + 1);
            for column in 0..columns {
                write_value(&row.get(column).unwrap(), &mut to);
            }
        }
    }
    to.finish()
}

/// Puts rows in place of those that are there, as far as the file takes them; says how many.
fn put_rows(db: &Connection, input: &[u8]) -> usize {
    let mut put_rows = 0;
    db.execute_batch("BEGIN; DELETE FROM object; DELETE FROM segment;").unwrap();
    let from = &mut Reader::new(input);
    while let Ok(number) = from.byte() {
        let (table, columns) = TABLES[(usize::from(number) + 1) % 2];
        let Some(row) = (0..columns).map(|_| value(from)).collect::<Option<Vec<_>>>() else {
            break;
        };
        let marks = vec!["?"; columns].join(", ");
        // Two rows of one key, or none where one has to be, are in no file.
        let put = format!("INSERT OR REPLACE INTO {table} VALUES ({marks})");
        put_rows += db.execute(&put, rusqlite::params_from_iter(row)).unwrap_or_default();
    }
    db.execute_batch("COMMIT").unwrap();
    put_rows
}

#[test]
fn indexes() {
    let ground = Ground::new();
    let mut random = Random::new(3);
    let segments: Vec<_> = [(Class::Data, true), (Class::Metadata, true), (Class::Data, false)]
        .into_iter()
        .map(|(class, is_sealed)| (class, segment(&mut random, class, is_sealed)))
        .collect();
    let put_segments = || {
        ground.clear();
        for (class, (name, bytes)) in &segments {
            ground.put(&ground.segments(*class).join(name), bytes);
        }
    };
    put_segments();
    drop(ground.open().unwrap());
    let whole = fs::read_if_exists(&ground.index(), 1 << 20).unwrap().unwrap();
    let sparse = Sparse::of(&whole);
    let db = Connection::open(ground.index()).unwrap();
    let rows = rows_of(&db);
    let mut all = Vec::new();
    let mut list = db.prepare("SELECT kind, hash FROM object").unwrap();
    let found = list.query_map([], |row| Ok((row.get::<_, u8>(0)?, row.get(1)?))).unwrap();
    for (kind, hash) in found.map(Result::unwrap) {
        all.push(ObjectId { kind: ObjectKind::from_number(kind).unwrap(), hash });
    }
    drop(list);
    drop(db);
    assert!(all.len() > 3);
    let file = [&[0], sparse.pack(&whole).as_slice()].concat();
    let corpus = (0..CORPUS).map(|at| if at % 2 == 0 { file.clone() } else { rows.clone() });

    fuzz_with(800, corpus.collect(), |_, input| {
        let random = &mut Random::of(input);
        put_segments();
        let rows = if let Some((0, packed)) = input.split_first() {
            ground.put(&ground.index(), &sparse.unpack(packed));
            all.len()
        } else {
            ground.put(&ground.index(), &whole);
            put_rows(&Connection::open(ground.index()).unwrap(), input)
        };
        let Some(vault) = within(input, 256, FIXED, |_| ground.open()) else {
            return false;
        };
        let before = within(input, 256, FIXED, |_| served(&vault, &all));
        // What else asks it.
        let index = vault.index();
        let one = &all[random.below(all.len())];
        let answers = [
            index.find(one).map(drop),
            index.find_all(&all).map(drop),
            index.find_prefix(None, &one.hash[..random.below(33)]).map(drop),
            index.has_prefix(&one.prefix()).map(drop),
            index.page(Some(&one.hash), 1 + random.below(9)).map(drop),
            index.live_by_segment().map(drop),
            index.integrity().map(drop),
            index.for_each(|_, _| {}),
        ];
        for error in answers.into_iter().filter_map(Result::err) {
            assert!(error.is_corruption(), "{error:?}");
        }
        // What comes now is kept, or refused.
        let intake = vault.intake();
        let new = intake.put(ObjectKind::Chunk, b"new");
        let new = new.and_then(|id| intake.flush_all().map(|()| id));
        drop(intake);
        if let Ok(id) = &new
            && served(&vault, &[*id]).is_empty()
        {
            // A page may take a row so that it is not found again. Then it can be seen that the page is damaged.
            let (found, seen) = (vault.index().find(id), vault.index().integrity());
            assert!(!matches!((found, seen), (Ok(_), Ok(None))), "nothing says why");
        }
        drop(vault);
        // The segments are as they were: everything is found in them.
        let vault = ground.open_doubted();
        assert_eq!(served(&vault, &all), all);
        if let Ok(id) = &new {
            assert_eq!(served(&vault, &[*id]), [*id]);
        }
        rows >= all.len() / 2 && before.len() == all.len()
    });
}
