//! Single values of the home, by name.

use rusqlite::OptionalExtension;

use super::Catalog;
use crate::error::StoreError;

impl Catalog {
    /// The value of a name.
    pub fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read("reading a value", |db| {
            let find = "SELECT value FROM meta WHERE key = ?1";
            db.prepare_cached(find)?.query_row([key], |row| row.get(0)).optional()
        })
    }

    /// Sets the value of a name.
    pub fn set_meta(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.write("storing a value", |db| {
            let set = "INSERT INTO meta(key, value) VALUES (?1, ?2)
                       ON CONFLICT(key) DO UPDATE SET value = excluded.value";
            db.execute(set, (key, value)).map(drop)
        })
    }

    /// The value of a name; where there is none, `value` becomes it.
    ///
    /// Of two callers at once both get the same answer.
    pub fn meta_or_set(&self, key: &str, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        if let Some(kept) = self.meta(key)? {
            return Ok(kept);
        }
        self.write("storing a value", |db| {
            db.execute("INSERT OR IGNORE INTO meta(key, value) VALUES (?1, ?2)", (key, value))?;
            db.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::testing::catalog;

    #[test]
    fn values_are_set_replaced_and_kept() {
        let (_folder, catalog) = catalog();
        assert_eq!(catalog.meta("vault").unwrap(), None);
        assert_eq!(catalog.meta_or_set("vault", b"first").unwrap(), b"first");
        assert_eq!(catalog.meta_or_set("vault", b"second").unwrap(), b"first");
        catalog.set_meta("vault", b"third").unwrap();
        assert_eq!(catalog.meta("vault").unwrap(), Some(b"third".to_vec()));
    }
}
