//! The nodes that this home has joined.
//!
//! **Invariant:** a name means one node; joining another node never takes over a name.

use baton_protocol::id::NodeId;
use rusqlite::{Connection, OptionalExtension};

use super::{Catalog, sql, unreadable, unsigned};
use crate::error::StoreError;

/// A joined node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// What the user calls it.
    pub name: String,
    /// Its key, pinned.
    pub node: NodeId,
    /// Who the user is there.
    pub user: String,
    /// `HOST:PORT`, the likeliest first.
    pub addresses: Vec<String>,
    /// When it was joined, in milliseconds since 1970.
    pub joined_at: u64,
}

/// A remote of this name is another node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is the name of another node already")]
pub struct NameTaken {
    /// The name.
    pub name: String,
}

/// Under which the chosen default is kept.
const DEFAULT: &str = "default-remote";

impl Catalog {
    /// Adds a remote. Where this node has this name already its row is replaced.
    pub fn add_remote(&self, remote: &Remote) -> Result<Result<(), NameTaken>, StoreError> {
        let Remote { name, node, user, addresses, joined_at } = remote;
        let addresses = serde_json::Value::from(addresses.clone()).to_string();
        self.write("adding a remote", |db| {
            if read(db, name)?.is_some_and(|known| known.node != *node) {
                return Ok(Err(NameTaken { name: name.clone() }));
            }
            let add = "INSERT INTO remotes(name, node, user, addresses, joined_at)
                       VALUES (?1, ?2, ?3, ?4, ?5)
                       ON CONFLICT(name) DO UPDATE SET user = excluded.user,
                       addresses = excluded.addresses, joined_at = excluded.joined_at";
            db.execute(add, (name, node.as_bytes(), user, &addresses, sql(*joined_at)))?;
            Ok(Ok(()))
        })
    }

    /// Every remote, the last joined first.
    pub fn remotes(&self) -> Result<Vec<Remote>, StoreError> {
        self.read("listing remotes", |db| {
            let mut list = db.prepare_cached(&format!("{SELECT} ORDER BY joined_at DESC, name"))?;
            list.query_map([], from_row)?.collect()
        })
    }

    /// The remote of this name.
    pub fn remote(&self, name: &str) -> Result<Option<Remote>, StoreError> {
        self.read("reading a remote", |db| read(db, name))
    }

    /// The remote whose node has this key; the last joined of several names.
    pub fn remote_of_node(&self, node: NodeId) -> Result<Option<Remote>, StoreError> {
        Ok(self.remotes()?.into_iter().find(|remote| remote.node == node))
    }

    /// Forgets a remote; says whether there was one.
    pub fn remove_remote(&self, name: &str) -> Result<bool, StoreError> {
        self.write("removing a remote", |db| {
            let undefault = "DELETE FROM meta WHERE key = ?1 AND value = ?2";
            db.execute(undefault, (DEFAULT, name.as_bytes()))?;
            Ok(db.execute("DELETE FROM remotes WHERE name = ?1", [name])? == 1)
        })
    }

    /// The remote that is meant where none is named: the chosen one, else the last joined.
    pub fn default_remote(&self) -> Result<Option<String>, StoreError> {
        self.read("reading the default remote", |db| {
            let chosen = "SELECT remotes.name FROM remotes JOIN meta
                          ON meta.key = ?1 AND CAST(meta.value AS TEXT) = remotes.name";
            let mut chosen = db.prepare_cached(chosen)?;
            if let Some(name) = chosen.query_row([DEFAULT], |row| row.get(0)).optional()? {
                return Ok(Some(name));
            }
            let last = "SELECT name FROM remotes ORDER BY joined_at DESC, name LIMIT 1";
            db.prepare_cached(last)?.query_row([], |row| row.get(0)).optional()
        })
    }

    /// Chooses the default; says whether there is such a remote.
    pub fn set_default_remote(&self, name: &str) -> Result<bool, StoreError> {
        self.write("choosing the default remote", |db| {
            if read(db, name)?.is_none() {
                return Ok(false);
            }
            let set = "INSERT INTO meta(key, value) VALUES (?1, ?2)
                       ON CONFLICT(key) DO UPDATE SET value = excluded.value";
            db.execute(set, (DEFAULT, name.as_bytes()))?;
            Ok(true)
        })
    }
}

const SELECT: &str = "SELECT name, node, user, addresses, joined_at FROM remotes";

fn read(db: &Connection, name: &str) -> rusqlite::Result<Option<Remote>> {
    db.prepare_cached(&format!("{SELECT} WHERE name = ?1"))?.query_row([name], from_row).optional()
}

fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Remote> {
    let addresses: String = row.get(3)?;
    let addresses = serde_json::from_str(&addresses)
        .map_err(|_| unreadable(3, "addresses are a list of strings"))?;
    Ok(Remote {
        name: row.get(0)?,
        node: NodeId::from_bytes(row.get(1)?),
        user: row.get(2)?,
        addresses,
        joined_at: unsigned(row.get(4)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::catalog;

    fn remote(name: &str, node: u8, joined_at: u64) -> Remote {
        Remote {
            name: name.to_owned(),
            node: NodeId::from_bytes([node; 32]),
            user: "owner".to_owned(),
            addresses: vec!["host:4319".to_owned(), "[::1]:4319".to_owned()],
            joined_at,
        }
    }

    #[test]
    fn a_name_stays_with_its_node() {
        let (_folder, catalog) = catalog();
        let rack = remote("rack", 1, 10);
        catalog.add_remote(&rack).unwrap().unwrap();
        assert_eq!(catalog.remote("rack").unwrap(), Some(rack.clone()));
        assert!(catalog.add_remote(&remote("rack", 2, 11)).unwrap().is_err());
        assert_eq!(catalog.remote("rack").unwrap(), Some(rack));
        let mut moved = remote("rack", 1, 12);
        moved.addresses = vec!["elsewhere:1".to_owned()];
        catalog.add_remote(&moved).unwrap().unwrap();
        assert_eq!(catalog.remote_of_node(moved.node).unwrap(), Some(moved));
    }

    #[test]
    fn the_default_is_the_chosen_one_else_the_last_joined() {
        let (_folder, catalog) = catalog();
        assert_eq!(catalog.default_remote().unwrap(), None);
        catalog.add_remote(&remote("a", 1, 10)).unwrap().unwrap();
        catalog.add_remote(&remote("b", 2, 20)).unwrap().unwrap();
        assert_eq!(catalog.default_remote().unwrap().as_deref(), Some("b"));
        assert!(!catalog.set_default_remote("c").unwrap());
        assert!(catalog.set_default_remote("a").unwrap());
        assert_eq!(catalog.default_remote().unwrap().as_deref(), Some("a"));
        assert!(catalog.remove_remote("a").unwrap());
        assert!(!catalog.remove_remote("a").unwrap());
        assert_eq!(catalog.default_remote().unwrap().as_deref(), Some("b"));
        // Joining it again does not bring the old choice back.
        catalog.add_remote(&remote("a", 1, 5)).unwrap().unwrap();
        assert_eq!(catalog.default_remote().unwrap().as_deref(), Some("b"));
        assert_eq!(catalog.remotes().unwrap().len(), 2);
    }
}
