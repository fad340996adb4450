//! One-time tickets: how a home learns where a node is, which key it has, and what lets it in.
//!
//! A ticket is one word that survives a terminal, a chat and a voice call badly but a clipboard
//! well: `baton1` and base32 without padding. Whoever holds it can enrol a device, so it is treated
//! like a password: the node keeps a hash of the secret only.

use crate::encode::{DecodeError, Reader, Writer};
use crate::id::NodeId;

/// Starts every ticket; the digit is the version.
const PREFIX: &str = "baton1";

/// Most addresses in a ticket.
pub const MAX_ADDRESSES: usize = 16;

/// Longest address in bytes: a DNS name of 253, a colon and a port.
pub const MAX_ADDRESS: usize = 259;

/// Longest word that is looked at; a ticket with the most and longest addresses has 6,780 letters.
const MAX_WORD: usize = 8 * 1024;

/// Bytes of the secret: 160 bits, so that guessing is out of reach and base32 has no padding.
pub const SECRET: usize = 20;

/// What a node gives to a home that may enrol.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The node's public key, pinned from here on.
    pub node: NodeId,
    /// Proves that the bearer may enrol, once.
    pub secret: [u8; SECRET],
    /// `HOST:PORT`, the likeliest first.
    pub addresses: Vec<String>,
}

/// A word is not a ticket.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TicketError {
    /// It does not start with `baton1`.
    #[error("not a ticket: it does not start with {PREFIX}")]
    Prefix,
    /// A character is missing, added or changed.
    #[error("the ticket is damaged or cut off")]
    Damaged,
}

impl From<DecodeError> for TicketError {
    fn from(_: DecodeError) -> Self {
        Self::Damaged
    }
}

impl Ticket {
    /// The word to type. It holds the first [`MAX_ADDRESSES`] of the addresses that are printable
    /// ASCII of at most [`MAX_ADDRESS`] bytes, which every real one is.
    pub fn encode(&self) -> String {
        word(&self.bytes())
    }

    fn bytes(&self) -> Vec<u8> {
        let addresses: Vec<_> =
            self.addresses.iter().filter(|text| is_address(text)).take(MAX_ADDRESSES).collect();
        let mut to = Writer::new();
        to.fixed(self.node.as_bytes());
        to.fixed(&self.secret);
        to.varint(addresses.len() as u64);
        for address in addresses {
            to.bytes(address.as_bytes());
        }
        to.finish()
    }

    /// Reads the word; surrounding white space and case do not matter.
    pub fn decode(word: &str) -> Result<Self, TicketError> {
        let word = word.trim();
        if word.len() > MAX_WORD {
            return Err(TicketError::Damaged);
        }
        let word = word.to_ascii_lowercase();
        let body = word.strip_prefix(PREFIX).ok_or(TicketError::Prefix)?;
        let bytes = data_encoding::BASE32_NOPAD
            .decode(body.to_ascii_uppercase().as_bytes())
            .map_err(|_| TicketError::Damaged)?;
        let (bytes, sum) = bytes.split_last_chunk().ok_or(TicketError::Damaged)?;
        if checksum(bytes) != *sum {
            return Err(TicketError::Damaged);
        }
        let mut from = Reader::new(bytes);
        let node = NodeId::from_bytes(from.array()?);
        let secret = from.array()?;
        let count = from.count("addresses", MAX_ADDRESSES, 1)?;
        let addresses = (0..count)
            .map(|_| {
                let address = from.text("address", MAX_ADDRESS)?;
                if is_address(address) { Ok(address.to_owned()) } else { Err(TicketError::Damaged) }
            })
            .collect::<Result<_, _>>()?;
        from.finish()?;
        Ok(Self { node, secret, addresses })
    }

    /// What the node keeps of the secret.
    pub fn secret_hash(secret: &[u8; SECRET]) -> [u8; 32] {
        blake3::derive_key("baton 2026 ticket secret v1", secret)
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("node", &self.node)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// The word that stands for these bytes.
fn word(bytes: &[u8]) -> String {
    let bytes = [bytes, &checksum(bytes)].concat();
    let mut word = data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase();
    word.insert_str(0, PREFIX);
    word
}

/// Addresses are shown on terminals and written to files: nothing in them may act there.
fn is_address(text: &str) -> bool {
    (1..=MAX_ADDRESS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Tells a mistyped ticket from a refused one without asking the node.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = blake3::derive_key("baton 2026 ticket checksum v1", bytes);
    [a, b, c, d]
}

/// For fuzzing behind the checksum.
#[cfg(test)]
impl Ticket {
    pub(crate) fn unchecked_bytes(&self) -> Vec<u8> {
        self.bytes()
    }

    pub(crate) fn word(bytes: &[u8]) -> String {
        word(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arbitrary;

    #[test]
    fn words_round_trip_and_every_changed_character_is_noticed() {
        let ticket = Ticket {
            node: NodeId::from_bytes([7; 32]),
            secret: [9; SECRET],
            addresses: vec!["127.0.0.1:4319".into(), "[::1]:4319".into()],
        };
        let word = ticket.encode();
        assert_eq!(Ticket::decode(&format!("  {}\n", word.to_uppercase())), Ok(ticket));
        for at in 0..word.len() {
            let mut changed = word.clone().into_bytes();
            changed[at] = if changed[at] == b'a' { b'b' } else { b'a' };
            assert!(Ticket::decode(std::str::from_utf8(&changed).unwrap()).is_err(), "at {at}");
        }
        assert!(Ticket::decode(&word[..word.len() - 3]).is_err());
        assert_eq!(Ticket::decode("hello"), Err(TicketError::Prefix));
    }

    proptest! {
        #[test]
        fn any_ticket_round_trips(ticket in arbitrary::ticket()) {
            prop_assert_eq!(Ticket::decode(&ticket.encode()), Ok(ticket));
        }

        /// The checksum lets a changed word through once in 2^32; the bytes below it must hold alone.
        #[test]
        fn changed_words_are_refused_or_the_same_ticket(
            bytes in arbitrary::mutated(arbitrary::ticket().prop_map(|ticket| ticket.bytes())),
        ) {
            let word = word(&bytes);
            if let Ok(ticket) = Ticket::decode(&word) {
                prop_assert_eq!(ticket.encode(), word);
            }
        }

        #[test]
        fn any_text_is_refused(word in "(baton1)?[a-z2-7]{0,200}|\\PC{0,40}") {
            prop_assert!(Ticket::decode(&word).is_err());
        }
    }

    #[test]
    fn a_ticket_can_always_be_read() {
        let with = |addresses: Vec<String>| {
            let ticket =
                Ticket { node: NodeId::from_bytes([7; 32]), secret: [9; SECRET], addresses };
            Ticket::decode(&ticket.encode()).unwrap().addresses
        };
        let longest = "a".repeat(MAX_ADDRESS);
        assert_eq!(with(vec![longest.clone(); 20]), vec![longest.clone(); MAX_ADDRESSES]);
        let odd = ["\u{1b}[2Jclear:1", "", "two words:1", "a\nb:1", &format!("{longest}a"), "b:1"];
        assert_eq!(with(odd.map(str::to_owned).to_vec()), ["b:1"]);
    }

    #[test]
    fn an_address_that_could_act_on_a_terminal_is_refused() {
        let mut to = Writer::new();
        to.fixed(&[7; 32]);
        to.fixed(&[9; SECRET]);
        to.varint(1);
        to.bytes(b"\x1b[2J:1");
        let bytes = to.finish();
        let word = word(&bytes);
        assert_eq!(Ticket::decode(&word), Err(TicketError::Damaged));
        let endless = format!("{PREFIX}{}", "a".repeat(1 << 20));
        assert_eq!(Ticket::decode(&endless), Err(TicketError::Damaged));
    }

    #[test]
    fn a_secret_is_not_shown() {
        let ticket =
            Ticket { node: NodeId::from_bytes([7; 32]), secret: [0xab; SECRET], addresses: vec![] };
        let shown = format!("{ticket:?}");
        assert!(!shown.contains("171") && !shown.contains("ab"), "{shown}");
    }
}
