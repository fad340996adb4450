//! Tickets: how the bearer of a secret becomes a device.
//!
//! **Invariant:** only the hash of a secret is here; and a ticket lets in at most as many devices as
//! it has uses, however the calls interleave.

use baton_protocol::id::DeviceId;
use rusqlite::OptionalExtension;

use super::devices::{self, Device, Role};
use super::{Catalog, sql, unreadable, unsigned};
use crate::error::StoreError;

/// A ticket that has just been drawn.
#[derive(Clone, Debug)]
pub struct NewTicket {
    /// Of the secret.
    pub hash: [u8; 32],
    /// Whose devices it makes; the user must be there.
    pub user: String,
    /// What they may do.
    pub role: Role,
    /// Until when, in milliseconds since 1970.
    pub expires_at: u64,
    /// How many devices it lets in.
    pub uses: u32,
}

/// Why a ticket lets nobody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketRefused {
    /// This node has issued no such ticket.
    #[error("this node knows no such ticket")]
    Unknown,
    /// It has let in as many devices as it may.
    #[error("the ticket has been used already")]
    Used,
    /// Its time is over.
    #[error("the ticket has expired")]
    Expired,
}

impl Catalog {
    /// Notes a ticket.
    pub fn add_ticket(&self, ticket: &NewTicket) -> Result<(), StoreError> {
        self.write("adding a ticket", |db| {
            let add = "INSERT INTO tickets(hash, user, role, expires_at, uses_left)
                       VALUES (?1, ?2, ?3, ?4, ?5)";
            let NewTicket { hash, user, role, expires_at, uses } = ticket;
            db.execute(add, (hash, user, role.name(), sql(*expires_at), uses)).map(drop)
        })
    }

    /// Enrols a device with a ticket, by the hash of its secret.
    ///
    /// A device that this ticket has let in gets its row again, even when the ticket is used up or
    /// expired since, so that an answer lost on its way does no harm. A revoked device does not:
    /// it needs a new ticket.
    pub fn redeem(
        &self,
        hash: [u8; 32],
        device: DeviceId,
        device_name: &str,
        now: u64,
    ) -> Result<Result<Device, TicketRefused>, StoreError> {
        self.write("redeeming a ticket", |db| {
            let find = "SELECT user, role, expires_at, uses_left FROM tickets WHERE hash = ?1";
            let ticket = db
                .query_row(find, [hash], |row| {
                    let role: String = row.get(1)?;
                    let expires_at = unsigned(row.get(2)?);
                    Ok((row.get::<_, String>(0)?, role, expires_at, row.get::<_, i64>(3)?))
                })
                .optional()?;
            let Some((user, role, expires_at, uses_left)) = ticket else {
                return Ok(Err(TicketRefused::Unknown));
            };
            let role = Role::parse(&role).ok_or_else(|| unreadable(1, "unknown role"))?;
            let before = "SELECT 1 FROM redemptions WHERE hash = ?1 AND device = ?2";
            if db.query_row(before, (hash, device.as_bytes()), |_| Ok(())).optional()?.is_some() {
                let enrolled = devices::read(db, device)?.filter(|device| !device.revoked);
                return Ok(enrolled.ok_or(TicketRefused::Used));
            }
            if uses_left < 1 {
                return Ok(Err(TicketRefused::Used));
            }
            if now >= expires_at {
                return Ok(Err(TicketRefused::Expired));
            }
            db.execute("UPDATE tickets SET uses_left = uses_left - 1 WHERE hash = ?1", [hash])?;
            let note = "INSERT INTO redemptions(hash, device) VALUES (?1, ?2)";
            db.execute(note, (hash, device.as_bytes()))?;
            devices::insert(db, device, &user, device_name, role, now).map(Ok)
        })
    }

    /// Forgets tickets that expired before `before`; their bearers are then told that the ticket is
    /// not known. Says how many.
    pub fn prune_tickets(&self, before: u64) -> Result<usize, StoreError> {
        self.write("forgetting tickets", |db| {
            db.execute("DELETE FROM tickets WHERE expires_at < ?1", [sql(before)])
        })
    }
}

#[cfg(test)]
mod tests {
    use baton_protocol::id::VaultId;

    use super::*;
    use crate::catalog::testing::catalog;

    const HASH: [u8; 32] = [3; 32];

    fn with_ticket(uses: u32) -> (tempfile::TempDir, Catalog) {
        let (folder, catalog) = catalog();
        catalog.ensure_user("ann", VaultId::from_bytes([1; 16])).unwrap();
        let user = "ann".to_owned();
        let ticket = NewTicket { hash: HASH, user, role: Role::Run, expires_at: 100, uses };
        catalog.add_ticket(&ticket).unwrap();
        (folder, catalog)
    }

    fn id(byte: u8) -> DeviceId {
        DeviceId::from_bytes([byte; 32])
    }

    #[test]
    fn a_ticket_lets_in_one_device_and_that_one_again() {
        let (_folder, catalog) = with_ticket(1);
        let device = catalog.redeem(HASH, id(1), "laptop", 10).unwrap().unwrap();
        assert_eq!((device.user.as_str(), device.role), ("ann", Role::Run));
        assert_eq!(catalog.redeem(HASH, id(2), "thief", 11).unwrap(), Err(TicketRefused::Used));
        assert_eq!(catalog.device(id(2)).unwrap(), None);
        // Long after it expired, too: the answer may have been lost.
        assert_eq!(catalog.redeem(HASH, id(1), "laptop", 1000).unwrap(), Ok(device));
    }

    #[test]
    fn unknown_and_expired_tickets_enrol_nobody() {
        let (_folder, catalog) = with_ticket(1);
        let unknown = catalog.redeem([4; 32], id(1), "x", 10).unwrap();
        assert_eq!(unknown, Err(TicketRefused::Unknown));
        assert_eq!(catalog.redeem(HASH, id(1), "x", 100).unwrap(), Err(TicketRefused::Expired));
        assert_eq!(catalog.devices().unwrap(), Vec::new());
        // A refusal costs no use.
        assert!(catalog.redeem(HASH, id(1), "x", 99).unwrap().is_ok());
    }

    #[test]
    fn a_revoked_device_needs_a_new_ticket() {
        let (_folder, catalog) = with_ticket(5);
        catalog.redeem(HASH, id(1), "laptop", 10).unwrap().unwrap();
        catalog.revoke(id(1)).unwrap();
        assert_eq!(catalog.redeem(HASH, id(1), "laptop", 11).unwrap(), Err(TicketRefused::Used));
        assert!(catalog.device(id(1)).unwrap().unwrap().revoked);
        let user = "ann".to_owned();
        let fresh = NewTicket { hash: [5; 32], user, role: Role::Push, expires_at: 100, uses: 1 };
        catalog.add_ticket(&fresh).unwrap();
        let device = catalog.redeem([5; 32], id(1), "laptop", 12).unwrap().unwrap();
        assert!(!device.revoked);
        assert_eq!(device.role, Role::Push);
    }

    #[test]
    fn uses_are_counted_across_threads() {
        let (_folder, catalog) = with_ticket(3);
        let accepted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|byte| {
                    let catalog = &catalog;
                    scope.spawn(move || catalog.redeem(HASH, id(byte), "x", 1).unwrap().is_ok())
                })
                .collect();
            threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
        });
        assert_eq!(accepted, 3);
        assert_eq!(catalog.devices().unwrap().len(), 3);
    }

    #[test]
    fn old_tickets_are_forgotten_and_devices_are_not() {
        let (_folder, catalog) = with_ticket(2);
        catalog.redeem(HASH, id(1), "laptop", 10).unwrap().unwrap();
        assert_eq!(catalog.prune_tickets(100).unwrap(), 0);
        assert_eq!(catalog.prune_tickets(101).unwrap(), 1);
        assert_eq!(catalog.redeem(HASH, id(2), "x", 10).unwrap(), Err(TicketRefused::Unknown));
        assert_eq!(catalog.devices().unwrap().len(), 1);
    }
}
