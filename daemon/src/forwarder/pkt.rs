//! Lines as git sends them: four hexadecimal digits that count themselves, and the bytes.
//!
//! Not here: what stands in them.

/// Longest line, with its digits (`LARGE_PACKET_MAX` of git).
pub(super) const MAX_LINE: usize = 65520;

/// Digits before each line.
const DIGITS: usize = 4;

/// What begins a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pkt<'a> {
    /// The end of a list.
    Flush,
    /// Bytes, one at least.
    Line(&'a [u8]),
}

/// No line of git begins with this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no line of git's protocol")]
pub(super) struct NoPkt;

/// The first line of a text, and what is behind it. Nothing where more of the text must come first.
///
/// The other marks that git has are not taken: no list that is read here has one.
pub(super) fn first(text: &[u8]) -> Result<Option<(Pkt<'_>, &[u8])>, NoPkt> {
    let Some((digits, rest)) = text.split_at_checked(DIGITS) else {
        let fits = text.iter().all(u8::is_ascii_hexdigit);
        return if fits { Ok(None) } else { Err(NoPkt) };
    };
    // `from_str_radix` also takes a sign.
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(NoPkt);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| NoPkt)?;
    let length = usize::from_str_radix(digits, 16).map_err(|_| NoPkt)?;
    match length {
        0 => Ok(Some((Pkt::Flush, rest))),
        length if length > DIGITS && length <= MAX_LINE => {
            let line = rest.split_at_checked(length - DIGITS);
            Ok(line.map(|(line, behind)| (Pkt::Line(line), behind)))
        }
        _ => Err(NoPkt),
    }
}

/// Appends a line of at most [`MAX_LINE`] less its digits; what is longer is cut.
pub(super) fn put(to: &mut Vec<u8>, line: &[u8]) {
    let line = line.get(..MAX_LINE - DIGITS).unwrap_or(line);
    to.extend_from_slice(format!("{:04x}", line.len() + DIGITS).as_bytes());
    to.extend_from_slice(line);
}

/// Appends the end of a list.
pub(super) fn flush(to: &mut Vec<u8>) {
    to.extend_from_slice(b"0000");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_read_once_all_of_it_is_there() {
        assert_eq!(first(b"0006a\nrest"), Ok(Some((Pkt::Line(b"a\n"), &b"rest"[..]))));
        assert_eq!(first(b"000Aab\0cd\n0000"), Ok(Some((Pkt::Line(b"ab\0cd\n"), &b"0000"[..]))));
        assert_eq!(first(b"0000PACK"), Ok(Some((Pkt::Flush, &b"PACK"[..]))));
        for part in [&b""[..], b"0", b"00f", b"0006", b"0006a"] {
            assert_eq!(first(part), Ok(None), "{part:?}");
        }
        let longest = [b"fff0".to_vec(), vec![b'x'; MAX_LINE - DIGITS]].concat();
        assert_eq!(first(&longest), Ok(Some((Pkt::Line(&longest[4..]), &b""[..]))));
    }

    #[test]
    fn what_is_no_line_is_refused_at_once() {
        for wrong in [
            &b"0001"[..],
            b"0002",
            b"0003",
            b"0004",
            b"fff1",
            b"ffff",
            b"+006ab",
            b"-001",
            b" 006",
            b"0x10",
            b"00 6",
            b"PACK",
            b"g",
            b"00\xff",
            b"\0\0\0\0",
            b"006\n",
        ] {
            assert_eq!(first(wrong), Err(NoPkt), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_put_is_read_and_nothing_panics(
            lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..400), 0..8),
            noise in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut text = Vec::new();
            for line in &lines {
                put(&mut text, line);
            }
            flush(&mut text);
            text.extend(&noise);
            let mut rest = &text[..];
            for line in &lines {
                let (read, behind) = first(rest).unwrap().unwrap();
                prop_assert_eq!(read, Pkt::Line(line));
                rest = behind;
            }
            prop_assert_eq!(first(rest), Ok(Some((Pkt::Flush, &noise[..]))));
            prop_assert!(first(&noise).is_ok_and(|read| read.is_none_or(|(_, rest)| rest.len() < noise.len())) || first(&noise).is_err());
        }
    }
}
