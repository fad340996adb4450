//! Users of this node: each owns one vault.
//!
//! **Invariant:** a user's vault never changes, and no two users have the same.

use baton_protocol::id::VaultId;
use rusqlite::{Connection, OptionalExtension};

use super::Catalog;
use crate::error::StoreError;

/// Who owns a vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Unique on this node.
    pub name: String,
    /// What is theirs.
    pub vault: VaultId,
}

impl Catalog {
    /// The user of this name; a new one gets `new_vault`, which the caller has drawn at random.
    pub fn ensure_user(&self, name: &str, new_vault: VaultId) -> Result<User, StoreError> {
        self.write("adding a user", |db| {
            if let Some(user) = read(db, name)? {
                return Ok(user);
            }
            let add = "INSERT INTO users(name, vault) VALUES (?1, ?2)";
            db.execute(add, (name, new_vault.as_bytes()))?;
            Ok(User { name: name.to_owned(), vault: new_vault })
        })
    }

    /// The user of this name.
    pub fn user(&self, name: &str) -> Result<Option<User>, StoreError> {
        self.read("reading a user", |db| read(db, name))
    }

    /// Every user, by name.
    pub fn users(&self) -> Result<Vec<User>, StoreError> {
        self.read("listing users", |db| {
            let mut list = db.prepare_cached("SELECT name, vault FROM users ORDER BY name")?;
            list.query_map([], from_row)?.collect()
        })
    }
}

fn read(db: &Connection, name: &str) -> rusqlite::Result<Option<User>> {
    db.prepare_cached("SELECT name, vault FROM users WHERE name = ?1")?
        .query_row([name], from_row)
        .optional()
}

fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<User> {
    Ok(User { name: row.get(0)?, vault: VaultId::from_bytes(row.get(1)?) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::catalog;

    #[test]
    fn a_user_keeps_the_first_vault() {
        let (_folder, catalog) = catalog();
        let [first, second] = [1, 2].map(|byte| VaultId::from_bytes([byte; 16]));
        assert_eq!(catalog.user("ann").unwrap(), None);
        assert_eq!(catalog.ensure_user("ann", first).unwrap().vault, first);
        assert_eq!(catalog.ensure_user("ann", second).unwrap().vault, first);
        assert_eq!(catalog.ensure_user("bob", second).unwrap().vault, second);
        assert_eq!(catalog.users().unwrap().len(), 2);
    }

    #[test]
    fn no_two_users_share_a_vault() {
        let (_folder, catalog) = catalog();
        let vault = VaultId::from_bytes([1; 16]);
        catalog.ensure_user("ann", vault).unwrap();
        assert!(catalog.ensure_user("bob", vault).is_err());
        assert_eq!(catalog.user("bob").unwrap(), None);
    }
}
