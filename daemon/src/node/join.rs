//! Tickets, and how the bearer of one becomes a device.
//!
//! **Invariant:** the secret of a ticket leaves this file in the ticket only; what is kept is its
//! hash.

use baton_protocol::id::{DeviceId, NodeId, VaultId};
use baton_protocol::message::{Refusal, RefusalCode, Welcome};
use baton_protocol::ticket::{SECRET, Ticket};
use baton_store::catalog::Catalog;
use baton_store::catalog::devices::{Device, Role};
use baton_store::catalog::tickets::NewTicket;
use baton_store::error::StoreError;

use super::registry::Peer;
use super::{Node, PROGRAM};
use crate::audit::Event;
use crate::clock::Clock;

/// The user of a node's own owner.
pub const OWNER: &str = "owner";

/// Most letters of a device's name.
const MAX_NAME: usize = 64;

/// Most letters of a user's name.
const MAX_USER: usize = 32;

/// Most addresses of a ticket, and the longest one; what a ticket can carry.
const MAX_ADDRESSES: usize = 16;
const MAX_ADDRESS: usize = 259;

/// Most devices of one ticket.
const MAX_USES: u32 = 1000;

/// Longest life of a ticket: a year.
const MAX_LIFE_MS: u64 = 365 * 24 * 3600 * 1000;

/// How long an expired ticket stays known, so that its bearer hears that it expired.
const REMEMBERED_MS: u64 = 30 * 24 * 3600 * 1000;

/// A ticket to be issued.
#[derive(Clone, Debug)]
pub struct TicketWish {
    /// Whose device the bearer's becomes; a new name makes a new user with a vault of their own.
    pub user: String,
    /// What it may do.
    pub role: Role,
    /// How long it lets in.
    pub expires_ms: u64,
    /// How many devices it lets in.
    pub uses: u32,
}

/// A ticket that was issued.
#[derive(Clone, PartialEq, Eq)]
pub struct IssuedTicket {
    /// The word to hand over; whoever has it can enrol.
    pub word: String,
    /// Whose devices it makes.
    pub user: String,
    /// Until when, in milliseconds since 1970.
    pub expires_at: u64,
}

impl std::fmt::Debug for IssuedTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedTicket")
            .field("user", &self.user)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// A ticket could not be issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A name that a user cannot have.
    #[error(
        "{name:?} cannot be a user's name: 1 to {MAX_USER} of a-z, 0-9, '.', '_' and '-', the first one a letter or digit"
    )]
    User {
        /// What was given.
        name: String,
    },
    /// It would let nobody in, or too many.
    #[error("a ticket lets in 1 to {MAX_USES} devices, not {0}")]
    Uses(u32),
    /// It would live too short or too long.
    #[error("a ticket lives up to a year, and longer than no time")]
    Life,
    /// A ticket cannot carry this address.
    #[error("{0:?} is too long for a ticket")]
    Address(String),
    /// There is no address under which the node could be found.
    #[error("the node has no address to put into a ticket")]
    NoAddress,
    /// The catalog failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The random number generator of the system failed.
    #[error("drawing random bytes failed")]
    Random(#[source] getrandom::Error),
}

/// Issues a ticket for the node with this key at these addresses, `HOST:PORT`, the likeliest first.
///
/// Blocks on the database. The ticket is valid when this returns.
pub fn issue_ticket(
    catalog: &Catalog,
    node: NodeId,
    addresses: &[String],
    wish: &TicketWish,
    clock: &Clock,
) -> Result<IssuedTicket, IssueError> {
    let TicketWish { user, role, expires_ms, uses } = wish;
    check_user(user)?;
    if !(1..=MAX_USES).contains(uses) {
        return Err(IssueError::Uses(*uses));
    }
    if !(1..=MAX_LIFE_MS).contains(expires_ms) {
        return Err(IssueError::Life);
    }
    if let Some(long) = addresses.iter().find(|address| address.len() > MAX_ADDRESS) {
        return Err(IssueError::Address(long.clone()));
    }
    if addresses.is_empty() {
        return Err(IssueError::NoAddress);
    }
    let mut secret = [0; SECRET];
    getrandom::fill(&mut secret).map_err(IssueError::Random)?;
    let user = ensure_user(catalog, user)?;
    let now = clock.now_ms();
    let expires_at = now.saturating_add(*expires_ms);
    catalog.prune_tickets(now.saturating_sub(REMEMBERED_MS))?;
    catalog.add_ticket(&NewTicket {
        hash: Ticket::secret_hash(&secret),
        user: user.clone(),
        role: *role,
        expires_at,
        uses: *uses,
    })?;
    let addresses = addresses.iter().take(MAX_ADDRESSES).cloned().collect();
    let word = Ticket { node, secret, addresses }.encode();
    Ok(IssuedTicket { word, user, expires_at })
}

/// Enrols a device without a ticket: the home's own, on the node embedded in its daemon.
///
/// Blocks on the database.
pub fn enrol_own(
    catalog: &Catalog,
    device: DeviceId,
    name: &str,
    clock: &Clock,
) -> Result<Device, IssueError> {
    if let Some(known) = catalog.device(device)?.filter(|device| !device.revoked) {
        return Ok(known);
    }
    let user = ensure_user(catalog, OWNER)?;
    Ok(catalog.add_device(device, &user, &clean_name(name), Role::Admin, clock.now_ms())?)
}

fn ensure_user(catalog: &Catalog, name: &str) -> Result<String, IssueError> {
    let mut vault = [0; VaultId::LEN];
    getrandom::fill(&mut vault).map_err(IssueError::Random)?;
    Ok(catalog.ensure_user(name, VaultId::from_bytes(vault))?.name)
}

fn check_user(name: &str) -> Result<(), IssueError> {
    let fits = (1..=MAX_USER).contains(&name.len());
    let letters = name.bytes().all(|byte| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
    });
    if fits && letters && name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err(IssueError::User { name: name.chars().take(80).collect() })
}

/// A device's name as it may be shown: no control characters, no invisible ones, no endless one.
pub(super) fn clean_name(name: &str) -> String {
    let shown = name.chars().filter(|&letter| !letter.is_control() && !is_invisible(letter));
    let cut: String = shown.take(MAX_NAME).collect();
    match cut.trim() {
        "" => "unnamed".to_owned(),
        name => name.to_owned(),
    }
}

/// Characters that reorder or hide what stands beside them.
const fn is_invisible(letter: char) -> bool {
    matches!(letter,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Redeems a ticket for the device of a connection.
pub(super) async fn redeem(
    node: &Node,
    peer: &Peer,
    secret: [u8; SECRET],
    name: &str,
) -> Result<Device, Refusal> {
    let (name, now) = (clean_name(name), node.0.clock.now_ms());
    let (device, address) = (peer.id, peer.connection.peer_address().ip());
    let hash = Ticket::secret_hash(&secret);
    let redeemed =
        node.with_catalog(move |catalog| catalog.redeem(hash, device, &name, now)).await?;
    match redeemed {
        Ok(enrolled) => {
            let (user, role) = (&enrolled.user, enrolled.role.name());
            tracing::info!(device = %device.short(), %user, role, "enrolled a device");
            let name = &enrolled.name;
            node.0.audit.note(&Event::Joined { device, user, name, role, address });
            Ok(enrolled)
        }
        Err(refused) => {
            tracing::info!(device = %device.short(), %refused, "refused a ticket");
            let (device, user, request, why) = (Some(device), None, "Join", &refused.to_string());
            node.0.audit.refused(&Event::Refused { device, user, address, request, why });
            Err(Refusal { code: RefusalCode::Ticket, message: refused.to_string() })
        }
    }
}

/// What an enrolled device is told about itself.
pub(super) fn welcome(device: &Device) -> Welcome {
    Welcome {
        user: device.user.clone(),
        device: device.id,
        role: device.role.name().to_owned(),
        program: PROGRAM.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(user: &str) -> TicketWish {
        TicketWish { user: user.to_owned(), role: Role::Run, expires_ms: 1000, uses: 1 }
    }

    fn issue(catalog: &Catalog, wish: &TicketWish) -> Result<IssuedTicket, IssueError> {
        let addresses = ["127.0.0.1:4319".to_owned()];
        let node = NodeId::from_bytes([7; 32]);
        issue_ticket(catalog, node, &addresses, wish, &Clock::manual(50))
    }

    #[test]
    fn a_ticket_names_the_node_and_lets_its_bearer_in() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&folder.path().join("catalog.db")).unwrap();
        let issued = issue(&catalog, &wish("owner")).unwrap();
        assert_eq!(issued.expires_at, 1050);
        let ticket = Ticket::decode(&issued.word).unwrap();
        assert_eq!(ticket.node, NodeId::from_bytes([7; 32]));
        let hash = Ticket::secret_hash(&ticket.secret);
        let device = DeviceId::from_bytes([1; 32]);
        let enrolled = catalog.redeem(hash, device, "x", 60).unwrap().unwrap();
        assert_eq!((enrolled.user.as_str(), enrolled.role), ("owner", Role::Run));
        assert!(!format!("{issued:?}").contains(&issued.word));
    }

    #[test]
    fn users_get_vaults_of_their_own_and_keep_them() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&folder.path().join("catalog.db")).unwrap();
        issue(&catalog, &wish("ann")).unwrap();
        let first = catalog.user("ann").unwrap().unwrap();
        issue(&catalog, &wish("ann")).unwrap();
        issue(&catalog, &wish("bob")).unwrap();
        assert_eq!(catalog.user("ann").unwrap(), Some(first.clone()));
        assert_ne!(catalog.user("bob").unwrap().unwrap().vault, first.vault);
        let device = DeviceId::from_bytes([1; 32]);
        let own = enrol_own(&catalog, device, "here", &Clock::manual(9)).unwrap();
        assert_eq!((own.user.as_str(), own.role), (OWNER, Role::Admin));
        assert_eq!(enrol_own(&catalog, device, "again", &Clock::manual(10)).unwrap(), own);
    }

    #[test]
    fn impossible_tickets_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&folder.path().join("catalog.db")).unwrap();
        for user in ["", "Ann", "../x", "-x", "a b", "\u{202e}x", &"x".repeat(33)] {
            assert!(matches!(issue(&catalog, &wish(user)), Err(IssueError::User { .. })), "{user}");
        }
        let none = TicketWish { uses: 0, ..wish("ann") };
        assert!(matches!(issue(&catalog, &none), Err(IssueError::Uses(0))));
        let over = TicketWish { expires_ms: 0, ..wish("ann") };
        assert!(matches!(issue(&catalog, &over), Err(IssueError::Life)));
        assert_eq!(catalog.users().unwrap(), Vec::new());
    }

    #[test]
    fn names_are_shown_as_they_are_or_cleaned() {
        assert_eq!(clean_name(" Zoë's laptop "), "Zoë's laptop");
        assert_eq!(clean_name("a\x1b[31mb\n\u{202e}c"), "a[31mbc");
        assert_eq!(clean_name("\u{200b}\t"), "unnamed");
        assert_eq!(clean_name(&"é".repeat(200)).chars().count(), MAX_NAME);
    }
}
