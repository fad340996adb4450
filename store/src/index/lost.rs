//! Rows that name bytes which are not there any more.

use baton_protocol::id::ObjectId;
use rusqlite::params;

use super::Index;
use crate::error::StoreError;
use crate::objects::Location;

impl Index {
    /// Takes rows away that name exactly these places, and every proof that something is whole, as one step. A row that moved
    /// meanwhile stays. Returns how many went.
    pub fn forget_rows(&self, rows: &[(ObjectId, Location)]) -> Result<usize, StoreError> {
        if rows.is_empty() {
            return Ok(0);
        }
        self.forget_known();
        self.write("forgetting lost objects", |db| {
            let transaction = db.transaction()?;
            let mut gone = 0;
            {
                let mut forget = transaction.prepare_cached(
                    "DELETE FROM object
                     WHERE hash = ?1 AND segment = ?2 AND offset = ?3 AND inner = ?4 AND len = ?5",
                )?;
                for (id, at) in rows {
                    gone += forget.execute(params![
                        &id.hash[..],
                        at.segment,
                        at.offset,
                        at.inner,
                        at.len
                    ])?;
                }
            }
            transaction.execute("UPDATE object SET closed = 0 WHERE kind != 1", [])?;
            transaction.commit()?;
            Ok(gone)
        })
    }
}
