//! Enrolled devices: which keys may connect, for whom, and what they may do.
//!
//! **Invariant:** a row is never removed: a revoked key stays known as revoked.

use baton_protocol::id::{DeviceId, VaultId};
use rusqlite::{Connection, OptionalExtension};

use super::{Catalog, sql, unreadable, unsigned};
use crate::error::StoreError;

/// What a device may do; each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Store and read what is in the user's vault.
    Push,
    /// Start and steer runs of the user.
    Run,
    /// Decide on tickets and devices.
    Admin,
}

impl Role {
    /// Every role, from the least on.
    pub const ALL: [Self; 3] = [Self::Push, Self::Run, Self::Admin];

    /// The word used in commands and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Run => "run",
            Self::Admin => "admin",
        }
    }

    /// The role of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// An enrolled home of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its public key.
    pub id: DeviceId,
    /// Whose it is.
    pub user: String,
    /// That user's vault.
    pub vault: VaultId,
    /// What the user calls the machine.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Whether it may not connect any more.
    pub revoked: bool,
    /// When it last connected, in milliseconds since 1970.
    pub last_seen: Option<u64>,
    /// When it was enrolled, likewise.
    pub enrolled_at: u64,
}

impl Catalog {
    /// The device with this key, revoked or not.
    pub fn device(&self, id: DeviceId) -> Result<Option<Device>, StoreError> {
        self.read("reading a device", |db| read(db, id))
    }

    /// Every device, revoked ones too, in the order in which they were enrolled.
    pub fn devices(&self) -> Result<Vec<Device>, StoreError> {
        self.read("listing devices", |db| {
            let mut list =
                db.prepare_cached(&format!("{SELECT} ORDER BY devices.enrolled_at, devices.id"))?;
            list.query_map([], from_row)?.collect()
        })
    }

    /// Enrols a device without a ticket: the node embedded in a daemon and its own home.
    ///
    /// The user must be there. A device that is there already gets this name and role, and is no
    /// longer revoked.
    pub fn add_device(
        &self,
        id: DeviceId,
        user: &str,
        name: &str,
        role: Role,
        enrolled_at: u64,
    ) -> Result<Device, StoreError> {
        self.write("enrolling a device", |db| insert(db, id, user, name, role, enrolled_at))
    }

    /// Takes a device's right to connect; says whether there was one to take.
    ///
    /// The caller closes its live connections.
    pub fn revoke(&self, id: DeviceId) -> Result<bool, StoreError> {
        self.write("revoking a device", |db| {
            let revoke = "UPDATE devices SET revoked = 1 WHERE id = ?1 AND revoked = 0";
            Ok(db.execute(revoke, [id.as_bytes()])? == 1)
        })
    }

    /// Notes that a device connected.
    pub fn touch(&self, id: DeviceId, now: u64) -> Result<(), StoreError> {
        self.write("noting a connection", |db| {
            let touch = "UPDATE devices SET last_seen = ?2 WHERE id = ?1";
            db.execute(touch, (id.as_bytes(), sql(now))).map(drop)
        })
    }
}

const SELECT: &str = "SELECT devices.id, devices.user, users.vault, devices.name, devices.role,
    devices.revoked, devices.last_seen, devices.enrolled_at
    FROM devices JOIN users ON users.name = devices.user";

pub(super) fn read(db: &Connection, id: DeviceId) -> rusqlite::Result<Option<Device>> {
    db.prepare_cached(&format!("{SELECT} WHERE devices.id = ?1"))?
        .query_row([id.as_bytes()], from_row)
        .optional()
}

pub(super) fn insert(
    db: &Connection,
    id: DeviceId,
    user: &str,
    name: &str,
    role: Role,
    enrolled_at: u64,
) -> rusqlite::Result<Device> {
    let add = "INSERT INTO devices(id, user, name, role, enrolled_at) VALUES (?1, ?2, ?3, ?4, ?5)
               ON CONFLICT(id) DO UPDATE SET user = excluded.user, name = excluded.name,
               role = excluded.role, revoked = 0";
    db.execute(add, (id.as_bytes(), user, name, role.name(), sql(enrolled_at)))?;
    read(db, id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Device> {
    let role: String = row.get(4)?;
    Ok(Device {
        id: DeviceId::from_bytes(row.get(0)?),
        user: row.get(1)?,
        vault: VaultId::from_bytes(row.get(2)?),
        name: row.get(3)?,
        role: Role::parse(&role).ok_or_else(|| unreadable(4, "unknown role"))?,
        revoked: row.get(5)?,
        last_seen: row.get::<_, Option<i64>>(6)?.map(unsigned),
        enrolled_at: unsigned(row.get(7)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::catalog;

    const LAPTOP: DeviceId = DeviceId::from_bytes([1; 32]);

    #[test]
    fn a_device_is_enrolled_seen_and_revoked_for_good() {
        let (_folder, catalog) = catalog();
        let vault = VaultId::from_bytes([9; 16]);
        catalog.ensure_user("ann", vault).unwrap();
        let device = catalog.add_device(LAPTOP, "ann", "laptop", Role::Run, 5).unwrap();
        assert_eq!((device.vault, device.role, device.last_seen), (vault, Role::Run, None));
        catalog.touch(LAPTOP, 7).unwrap();
        assert_eq!(catalog.device(LAPTOP).unwrap().unwrap().last_seen, Some(7));
        assert!(catalog.revoke(LAPTOP).unwrap());
        assert!(!catalog.revoke(LAPTOP).unwrap());
        assert!(!catalog.revoke(DeviceId::from_bytes([2; 32])).unwrap());
        let devices = catalog.devices().unwrap();
        assert_eq!(devices.len(), 1);
        assert!(devices[0].revoked);
    }

    #[test]
    fn a_device_needs_a_user() {
        let (_folder, catalog) = catalog();
        assert!(catalog.add_device(LAPTOP, "nobody", "laptop", Role::Push, 0).is_err());
        assert_eq!(catalog.device(LAPTOP).unwrap(), None);
    }

    #[test]
    fn roles_are_ordered_and_named() {
        assert!(Role::Push < Role::Run && Role::Run < Role::Admin);
        for role in Role::ALL {
            assert_eq!(Role::parse(role.name()), Some(role));
        }
        assert_eq!(Role::parse("root"), None);
    }
}
