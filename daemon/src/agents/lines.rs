//! A stream of bytes as the lines of a transcript, in bounded memory.
//!
//! **Invariant:** what is handed on is, piece by piece, exactly what came in.

/// Longest line that is looked into. Images stand inside of lines, as text; a tool result of this size is no
/// conversation.
pub(super) const MAX_LINE: usize = 32 * 1024 * 1024;

/// A part of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A line, with its newline; the last one may have none.
    Line(&'a [u8]),
    /// A part of a line that is too long to be looked into.
    Part(&'a [u8]),
}

/// Cuts a stream into lines.
#[derive(Debug)]
pub(super) struct Lines {
    limit: usize,
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
    /// Whether the line is one that is handed on in parts.
    in_long: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self::with_limit(MAX_LINE)
    }
}

impl Lines {
    pub(super) const fn with_limit(limit: usize) -> Self {
        Self { limit, begun: Vec::new(), in_long: false }
    }

    /// Takes the next bytes.
    pub(super) fn feed<E>(
        &mut self,
        mut bytes: &[u8],
        visit: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            let newline = bytes.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
            let (now, rest) = bytes.split_at(newline.unwrap_or(bytes.len()));
            bytes = rest;
            let ended = newline.is_some();
            if self.in_long {
                visit(Piece::Part(now))?;
                self.in_long = !ended;
            } else if self.begun.len() + now.len() > self.limit {
                visit(Piece::Part(&self.begun))?;
                visit(Piece::Part(now))?;
                self.begun = Vec::new();
                self.in_long = !ended;
            } else if !ended {
                self.begun.extend_from_slice(now);
            } else if self.begun.is_empty() {
                visit(Piece::Line(now))?;
            } else {
                self.begun.extend_from_slice(now);
                visit(Piece::Line(&self.begun))?;
                self.begun.clear();
            }
        }
        Ok(())
    }

    /// There are no more bytes.
    pub(super) fn end<E>(
        self,
        visit: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.begun.is_empty() { Ok(()) } else { visit(Piece::Line(&self.begun)) }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn pieces(parts: &[&str]) -> Vec<(bool, String)> {
        let mut found = Vec::new();
        let mut lines = Lines::with_limit(8);
        let mut visit = |piece: Piece<'_>| {
            let (whole, bytes) = match piece {
                Piece::Line(bytes) => (true, bytes),
                Piece::Part(bytes) => (false, bytes),
            };
            found.push((whole, String::from_utf8(bytes.to_vec()).unwrap()));
            Ok::<_, Infallible>(())
        };
        for part in parts {
            lines.feed(part.as_bytes(), &mut visit).unwrap();
        }
        lines.end(&mut visit).unwrap();
        found
    }

    #[test]
    fn lines_are_whole_wherever_the_stream_was_cut() {
        let lines = |texts: &[&str]| -> Vec<_> {
            texts.iter().map(|text| (true, (*text).to_owned())).collect()
        };
        let text = "one\n\ntwo\nend";
        for cut in 0..=text.len() {
            let (a, b) = text.split_at(cut);
            assert_eq!(pieces(&[a, b]), lines(&["one\n", "\n", "two\n", "end"]), "{cut}");
        }
        assert_eq!(pieces(&[]), []);
        assert_eq!(pieces(&["1234567\n"]), lines(&["1234567\n"]));
    }

    #[test]
    fn a_line_that_is_too_long_passes_through_in_parts() {
        for cut in 0..=17 {
            let (a, b) = "x\n123456789abc\ny\n".split_at(cut);
            let found = pieces(&[a, b]);
            let all: String = found.iter().map(|(_, text)| text.as_str()).collect();
            assert_eq!(all, "x\n123456789abc\ny\n");
            let whole: Vec<_> = found.iter().filter(|(whole, _)| *whole).collect();
            assert_eq!(whole.len(), 2, "{found:?}");
            assert!(found.iter().all(|(_, text)| text.len() <= 13));
        }
        // Never more than the limit is kept.
        let mut lines = Lines::with_limit(8);
        for _ in 0..1000 {
            lines.feed(b"1234567", &mut |_| Ok::<_, Infallible>(())).unwrap();
            assert!(lines.begun.capacity() <= 64);
        }
    }
}
