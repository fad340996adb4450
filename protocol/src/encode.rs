//! The canonical encoding of hashed objects: one value, one byte string.
//!
//! Integers are LEB128 varints in their shortest form; byte strings carry their length. A reader
//! refuses everything else, so `decode` followed by `encode` is the identity on accepted input.
//!
//! **Invariant:** nothing is allocated before its length was checked against the bytes that are
//! really there.

/// Why a byte string is not an object of the expected kind.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The input ends inside a value.
    #[error("truncated at byte {at}")]
    Truncated {
        /// Offset of the value that is cut.
        at: usize,
    },
    /// Bytes are left after the last value.
    #[error("{left} bytes after the end")]
    Trailing {
        /// How many.
        left: usize,
    },
    /// A varint is not in its shortest form, or does not fit 64 bits.
    #[error("malformed integer at byte {at}")]
    Varint {
        /// Offset of its first byte.
        at: usize,
    },
    /// A value lies outside its range.
    #[error("{what} is {value}, allowed is at most {limit}")]
    Limit {
        /// Which value.
        what: &'static str,
        /// What it was.
        value: u64,
        /// What it may be.
        limit: u64,
    },
    /// A number names no known kind, version or flag.
    #[error("unknown {what} {value}")]
    Unknown {
        /// Which enumeration.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// Entries are not strictly ascending.
    #[error("{what} out of order or repeated")]
    Order {
        /// Which list.
        what: &'static str,
    },
    /// A name that may not stand in a tree.
    #[error(transparent)]
    Name(#[from] crate::path::NameError),
    /// A value contradicts another one.
    #[error("{what} contradicts the rest of the object")]
    Inconsistent {
        /// Which value.
        what: &'static str,
    },
    /// Text that is not UTF-8.
    #[error("{what} is not UTF-8")]
    Utf8 {
        /// Which text.
        what: &'static str,
    },
}

/// Appends canonical values to a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// One byte.
    pub fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    /// An unsigned integer.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// A number near to one that the reader knows, below or above.
    pub fn near(&mut self, known: usize, value: usize) {
        let distance = 2 * known.abs_diff(value) as u64;
        self.varint(if value < known { distance - 1 } else { distance });
    }

    /// Bytes whose length the reader knows.
    pub fn fixed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A length and that many bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }
}

/// Takes canonical values from a byte string.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, len: bytes.len() }
    }

    /// Offset of the next byte.
    pub const fn at(&self) -> usize {
        self.len - self.rest.len()
    }

    /// Bytes not yet read.
    pub const fn left(&self) -> usize {
        self.rest.len()
    }

    /// Refuses bytes that nothing has read.
    pub const fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing { left }),
        }
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&first, rest) =
            self.rest.split_first().ok_or(DecodeError::Truncated { at: self.at() })?;
        self.rest = rest;
        Ok(first)
    }

    /// An unsigned integer in its shortest form.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let at = self.at();
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Varint { at });
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(DecodeError::Varint { at });
                }
                return Ok(value);
            }
        }
        Err(DecodeError::Varint { at })
    }

    /// An unsigned integer of at most `limit`.
    pub fn bounded(&mut self, what: &'static str, limit: u64) -> Result<u64, DecodeError> {
        let value = self.varint()?;
        if value > limit {
            return Err(DecodeError::Limit { what, value, limit });
        }
        Ok(value)
    }

    /// A number of at most `limit` near to one that is known, as [`Writer::near`] writes it.
    pub fn near(
        &mut self,
        what: &'static str,
        known: usize,
        limit: usize,
    ) -> Result<usize, DecodeError> {
        let distance = self.varint()?;
        let by = usize::try_from(distance.div_ceil(2)).unwrap_or(usize::MAX);
        let value = if distance % 2 == 0 { known.checked_add(by) } else { known.checked_sub(by) };
        value.filter(|&value| value <= limit).ok_or(DecodeError::Inconsistent { what })
    }

    /// The number of entries of a list, each of which takes at least `least` bytes.
    ///
    /// A count that the remaining bytes cannot hold is refused, so that it is safe to reserve.
    pub fn count(
        &mut self,
        what: &'static str,
        limit: usize,
        least: usize,
    ) -> Result<usize, DecodeError> {
        let at = self.at();
        let count = self.bounded(what, limit as u64)? as usize;
        if count.saturating_mul(least) > self.left() {
            return Err(DecodeError::Truncated { at });
        }
        Ok(count)
    }

    /// Exactly `len` bytes.
    pub fn fixed(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) =
            self.rest.split_at_checked(len).ok_or(DecodeError::Truncated { at: self.at() })?;
        self.rest = rest;
        Ok(taken)
    }

    /// An array whose length the type says.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) =
            self.rest.split_first_chunk().ok_or(DecodeError::Truncated { at: self.at() })?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A length of at most `limit` and that many bytes.
    pub fn bytes(&mut self, what: &'static str, limit: usize) -> Result<&'a [u8], DecodeError> {
        let len = self.bounded(what, limit as u64)? as usize;
        self.fixed(len)
    }

    /// A length of at most `limit` and that many bytes of UTF-8.
    pub fn text(&mut self, what: &'static str, limit: usize) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes(what, limit)?).map_err(|_| DecodeError::Utf8 { what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_round_trip(value: u64) {
            let mut writer = Writer::new();
            writer.varint(value);
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn an_accepted_varint_is_the_only_form(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.varint() {
                let mut writer = Writer::new();
                writer.varint(value);
                prop_assert_eq!(writer.finish(), &bytes[..reader.at()]);
            }
        }
    }

    #[test]
    fn over_long_varints_are_refused() {
        for bytes in [&[0x80, 0x00][..], &[0xff, 0x80, 0x00], &[0xff; 10], &[0x80; 11]] {
            assert!(matches!(Reader::new(bytes).varint(), Err(DecodeError::Varint { at: 0 })));
        }
    }

    #[test]
    fn a_count_beyond_the_input_is_refused_before_it_is_used() {
        let mut writer = Writer::new();
        writer.varint(1 << 20);
        let bytes = writer.finish();
        let refused = Reader::new(&bytes).count("entries", 1 << 24, 34);
        assert_eq!(refused, Err(DecodeError::Truncated { at: 0 }));
    }
}
