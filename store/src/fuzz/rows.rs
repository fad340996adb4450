//! Files of pages, and rows of tables, as bytes that can be damaged.

use baton_protocol::encode::{Reader, Writer};
use rusqlite::types::Value;

/// A file of pages, and what of it is not zero: what is damaged there is something.
pub(crate) struct Sparse {
    places: Vec<usize>,
    len: usize,
}

impl Sparse {
    pub(crate) fn of(file: &[u8]) -> Self {
        // A zero among other bytes belongs to them.
        let near = |at: usize| {
            let from = at.saturating_sub(4);
            file[from..(at + 5).min(file.len())].iter().any(|&byte| byte != 0)
        };
        Self { places: (0..file.len()).filter(|&at| near(at)).collect(), len: file.len() }
    }

    pub(crate) fn pack(&self, file: &[u8]) -> Vec<u8> {
        self.places.iter().map(|&at| file[at]).collect()
    }

    pub(crate) fn unpack(&self, packed: &[u8]) -> Vec<u8> {
        let mut file = vec![0; self.len];
        for (&at, &byte) in self.places.iter().zip(packed) {
            file[at] = byte;
        }
        file
    }
}

/// A value of any type, as a damaged input says.
pub(crate) fn value(from: &mut Reader<'_>) -> Option<Value> {
    Some(match from.byte().ok()? % 5 {
        0 => Value::Null,
        1 => Value::Integer(i64::from_le_bytes(from.array().ok()?)),
        2 => Value::Text(String::from_utf8_lossy(from.bytes("text", 4096).ok()?).into_owned()),
        3 => Value::Blob(from.bytes("blob", 4096).ok()?.to_vec()),
        _ => Value::Real(f64::from_le_bytes(from.array().ok()?)),
    })
}

pub(crate) fn write_value(value: &Value, to: &mut Writer) {
    match value {
        Value::Null => to.byte(0),
        Value::Integer(value) => {
            to.byte(1);
            to.fixed(&value.to_le_bytes());
        }
        Value::Text(text) => {
            to.byte(2);
            to.bytes(text.as_bytes());
        }
        Value::Blob(bytes) => {
            to.byte(3);
            to.bytes(bytes);
        }
        Value::Real(value) => {
            to.byte(4);
            to.fixed(&value.to_le_bytes());
        }
    }
}
