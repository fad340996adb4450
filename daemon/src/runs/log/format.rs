//! The bytes of a log.
//!
//! Eight bytes of magic, of which the last is the version; then entries:
//!
//! ```text
//! u32  length of what follows the checksum      little-endian, 9 ..= 9 + 64 KiB
//! u32  CRC-32C of what follows
//! u64  milliseconds since 1970
//! u8   1 stdout, 2 stderr, 3 node
//! …    text
//! ```
//!
//! **Invariant:** a file is its entries up to the first one that is not whole. What a crash left behind it
//! is no entry, and is cut off before the next one is written.

use baton_protocol::message::{LogEntry, LogStream};

/// What every log begins with.
pub(in crate::runs) const MAGIC: [u8; 8] = *b"BATNlog\x01";

/// Longest text of an entry.
pub(in crate::runs) const MAX_TEXT: usize = 64 * 1024;

/// Length and checksum.
pub(super) const PREFIX: usize = 8;

/// Time and stream.
const FIXED: usize = 9;

/// What an entry costs beside its text.
pub(in crate::runs) const OVERHEAD: usize = PREFIX + FIXED;

/// Appends an entry; a text that is too long is cut.
pub(super) fn encode(to: &mut Vec<u8>, time: u64, stream: LogStream, text: &[u8]) {
    let text = text.get(..MAX_TEXT).unwrap_or(text);
    let number = match stream {
        LogStream::Stdout => 1,
        LogStream::Stderr => 2,
        LogStream::Node => 3,
    };
    let sum = crc32c::crc32c(&time.to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &[number]);
    let sum = crc32c::crc32c_append(sum, text);
    to.extend_from_slice(&((FIXED + text.len()) as u32).to_le_bytes());
    to.extend_from_slice(&sum.to_le_bytes());
    to.extend_from_slice(&time.to_le_bytes());
    to.push(number);
    to.extend_from_slice(text);
}

/// Takes apart a length and a checksum; nothing where no entry is so long or so short.
pub(super) fn decode_prefix(bytes: [u8; PREFIX]) -> Option<(usize, u32)> {
    let [a, b, c, d, e, f, g, h] = bytes;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let whole = (FIXED..=FIXED + MAX_TEXT).contains(&length);
    whole.then_some((length, u32::from_le_bytes([e, f, g, h])))
}

/// Takes apart what follows the checksum; nothing where it is not what was written.
pub(super) fn decode(body: &[u8], sum: u32) -> Option<LogEntry> {
    if crc32c::crc32c(body) != sum {
        return None;
    }
    let (time, rest) = body.split_first_chunk()?;
    let (number, text) = rest.split_first()?;
    let stream = match number {
        1 => LogStream::Stdout,
        2 => LogStream::Stderr,
        3 => LogStream::Node,
        _ => return None,
    };
    Some(LogEntry { time: u64::from_le_bytes(*time), stream, text: text.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_stay_what_they_are() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 0x0102, LogStream::Stderr, b"hi\n");
        assert_eq!(bytes, b"\x0c\0\0\0\x84\xda\x2d\x1a\x02\x01\0\0\0\0\0\0\x02hi\n");
    }

    #[test]
    fn every_damage_is_seen() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 5, LogStream::Stdout, b"\xff\0text");
        let parse = |bytes: &[u8]| {
            let (prefix, body) = bytes.split_first_chunk()?;
            let (length, sum) = decode_prefix(*prefix)?;
            decode(body.get(..length)?, sum)
        };
        let entry = parse(&bytes).unwrap();
        assert_eq!((entry.time, entry.text.as_slice()), (5, &b"\xff\0text"[..]));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&damaged), None, "bit {bit}");
        }
        assert_eq!(decode_prefix([0xff; 8]), None);
        assert_eq!(decode_prefix([0; 8]), None);
    }
}
