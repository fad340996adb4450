//! Messages, one a line.
//!
//! **Invariant:** of a line that is too long nothing is kept, however long it is.

use std::io::{self, BufRead};

/// Longest line. A prompt and an answer of a tool fit many times.
pub(super) const MAX_LINE: usize = 4 * 1024 * 1024;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Whole(Vec<u8>),
    TooLong,
}

/// Reads lines.
pub(super) struct Lines<R>(R);

impl<R: BufRead> Lines<R> {
    pub(super) fn new(from: R) -> Self {
        Self(from)
    }

    /// The next one that is not blank; nothing at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        let (mut line, mut is_too_long) = (Vec::new(), false);
        loop {
            let bytes = match self.0.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = bytes.iter().position(|&byte| byte == b'\n');
            let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
            is_too_long |= line.len() + part.len() > MAX_LINE;
            if is_too_long {
                line = Vec::new();
            } else {
                line.extend_from_slice(part);
            }
            let is_end = bytes.is_empty();
            let used = part.len() + usize::from(end.is_some());
            self.0.consume(used);
            if end.is_none() && !is_end {
                continue;
            }
            if is_too_long {
                return Ok(Some(Line::TooLong));
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(Line::Whole(line)));
            }
            if is_end {
                return Ok(None);
            }
            line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Read};

    use super::*;

    #[test]
    fn lines_come_one_by_one_and_a_long_one_is_passed_over() {
        let long = io::repeat(b'x').take(3 * MAX_LINE as u64);
        let text = b"{}\n\r\n\n[1]\r\n".chain(long).chain(&b"\nlast"[..]);
        let mut lines = Lines::new(BufReader::with_capacity(1000, text));
        let mut next = || lines.next().unwrap();
        assert_eq!(next(), Some(Line::Whole(b"{}".to_vec())));
        assert_eq!(next(), Some(Line::Whole(b"[1]\r".to_vec())));
        assert_eq!(next(), Some(Line::TooLong));
        assert_eq!(next(), Some(Line::Whole(b"last".to_vec())));
        assert_eq!((next(), next()), (None, None));
    }
}
