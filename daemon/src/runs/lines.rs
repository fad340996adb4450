//! Cuts output into lines, and long lines into pieces.
//!
//! **Invariant:** the pieces of a stream, put together, are its bytes.

use super::log::format::MAX_TEXT;

/// One stream of output that is being cut.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The beginning of a line whose end has not come, shorter than [`MAX_TEXT`].
    begun: Vec<u8>,
}

impl Lines {
    /// Takes bytes and hands out every piece that is complete.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut piece: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = MAX_TEXT - self.begun.len();
            let window = bytes.get(..room).unwrap_or(bytes);
            let line = window.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
            let (now, rest) = bytes.split_at(line.unwrap_or(window.len()));
            bytes = rest;
            let complete = line.is_some() || now.len() == room;
            if complete && self.begun.is_empty() {
                piece(now);
                continue;
            }
            self.begun.extend_from_slice(now);
            if complete {
                self.flush(&mut piece);
            }
        }
    }

    /// Hands out what has begun, as if its end had come.
    pub(super) fn flush(&mut self, mut piece: impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            piece(&self.begun);
            self.begun.clear();
        }
    }

    /// Whether a line has begun.
    pub(super) const fn has_begun(&self) -> bool {
        !self.begun.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut pieces = Vec::new();
        for chunk in chunks {
            lines.push(chunk, |piece| pieces.push(piece.to_vec()));
        }
        lines.flush(|piece| pieces.push(piece.to_vec()));
        pieces
    }

    #[test]
    fn lines_keep_their_ends_wherever_they_are_cut() {
        let text = b"one\n\ntwo\r\nthree";
        let expected: [&[u8]; 4] = [b"one\n", b"\n", b"two\r\n", b"three"];
        for at in 0..text.len() {
            let (a, b) = text.split_at(at);
            assert_eq!(pieces(&[a, b]), expected, "cut at {at}");
        }
        assert_eq!(pieces(&[b""]), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_long_line_comes_in_pieces_and_loses_nothing() {
        let mut text = vec![b'x'; MAX_TEXT * 2 + 10];
        text.push(b'\n');
        text.extend_from_slice(b"end");
        for step in [1000, MAX_TEXT - 1, MAX_TEXT, MAX_TEXT + 1, text.len()] {
            let chunks: Vec<_> = text.chunks(step).collect();
            let pieces = pieces(&chunks);
            let lengths: Vec<_> = pieces.iter().map(Vec::len).collect();
            assert_eq!(lengths, [MAX_TEXT, MAX_TEXT, 11, 3], "step {step}");
            assert_eq!(pieces.concat(), text);
        }
    }
}
