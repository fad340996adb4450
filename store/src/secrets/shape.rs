//! How a rule says what a token looks like: a word, then runs of characters of an alphabet.
//!
//! **Invariant:** matching looks at no more than [`FARTHEST`] bytes beyond the word, and never goes
//! back: its time is bounded whatever the file.

use std::ops::Range;

use super::judge;

/// No token is longer.
const FARTHEST: usize = 4096;

/// A file that is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    pub(crate) bytes: &'a [u8],
    /// Whether it holds settings, where a value may stand without quotes.
    pub(crate) is_settings: bool,
}

impl Text<'_> {
    pub(crate) fn at(&self, index: usize) -> Option<u8> {
        self.bytes.get(index).copied()
    }

    /// The first index from `from` on, below `limit`, whose byte is not in `set`.
    pub(crate) fn skip(&self, from: usize, limit: usize, set: Set) -> usize {
        let rest = self.bytes.get(from..limit.min(self.bytes.len())).unwrap_or_default();
        from + rest.iter().take_while(|&&byte| set.has(byte)).count()
    }
}

/// A set of ASCII characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Set(u128);

impl Set {
    pub(crate) const DIGIT: Self = Self::range(b'0', b'9');
    pub(crate) const UPPER: Self = Self::range(b'A', b'Z');
    pub(crate) const LOWER: Self = Self::range(b'a', b'z');
    /// Lowercase hexadecimal.
    pub(crate) const HEX: Self = Self::DIGIT.or(Self::range(b'a', b'f'));
    /// Letters and digits.
    pub(crate) const ALNUM: Self = Self::DIGIT.or(Self::UPPER).or(Self::LOWER);
    /// The alphabet of base64 for URLs; also what a word is made of.
    pub(crate) const WORD: Self = Self::ALNUM.or(Self::of(b"_-"));
    /// The alphabet of base64, without its padding.
    pub(crate) const BASE64: Self = Self::ALNUM.or(Self::of(b"+/"));
    /// Base32 as RFC 4648 writes it.
    pub(crate) const BASE32: Self = Self::UPPER.or(Self::range(b'2', b'7'));
    /// The alphabet of bech32, in capitals.
    pub(crate) const BECH32: Self = Self::of(b"QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L");
    pub(crate) const BLANK: Self = Self::of(b" \t");

    const fn range(first: u8, last: u8) -> Self {
        let mut bits = 0;
        let mut byte = first;
        while byte <= last {
            bits |= 1 << byte;
            byte += 1;
        }
        Self(bits)
    }

    pub(crate) const fn of(bytes: &[u8]) -> Self {
        let mut bits = 0;
        let mut rest = bytes;
        while let [byte, others @ ..] = rest {
            bits |= 1 << *byte;
            rest = others;
        }
        Self(bits)
    }

    pub(crate) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn has(self, byte: u8) -> bool {
        byte < 128 && self.0 >> byte & 1 == 1
    }
}

/// What follows the word of a rule.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// Exactly this.
    Is(&'static str),
    /// As many of these as there are; it fits if they are this many. An end that is a longer run of
    /// the same alphabet is another thing.
    Run(Set, usize, usize),
    /// An assignment: the rest of the quotes around a name, `=`, `:`, `=>` or `:=`, an opening quote.
    Assign,
    /// The label of a PEM block up to `PRIVATE KEY`, and a body.
    PemBody,
}

/// One form of one kind of token.
#[derive(Debug)]
pub(super) struct Row {
    /// The name of the rule; several forms may have the same.
    pub(super) rule: &'static str,
    /// What stands before the word and belongs to the token.
    pub(super) before: Option<(Set, usize, usize)>,
    /// By which it is found. Its case matters unless `any_case`.
    pub(super) word: &'static str,
    /// Whether the word is the name of a setting, which people write as they like.
    pub(super) any_case: bool,
    /// What comes after it.
    pub(super) parts: &'static [Part],
}

impl Row {
    /// Where the token stands whose word is at `start`.
    pub(super) fn find(&self, text: Text<'_>, start: usize) -> Option<Range<usize>> {
        let end = start + self.word.len();
        if !self.any_case && text.bytes.get(start..end)? != self.word.as_bytes() {
            return None;
        }
        let first = match self.before {
            Some((set, least, most)) => {
                let head = text.bytes.get(..start)?;
                let count = head.iter().rev().take(most + 1).take_while(|&&b| set.has(b)).count();
                if count < least || count > most {
                    return None;
                }
                start - count
            }
            None => start,
        };
        // The name of a setting may have a prefix; a token begins where a word begins.
        let before = first.checked_sub(1).and_then(|index| text.at(index));
        let word = Set::ALNUM.or(Set::of(b"_"));
        if !self.any_case && before.is_some_and(|byte| word.has(byte)) && !escaped(text, first) {
            return None;
        }
        let mut secret = first;
        let mut at = end;
        let limit = end + FARTHEST;
        let mut random = (first < start).then_some(first..start);
        for part in self.parts {
            match *part {
                Part::Is(literal) => {
                    let next = at + literal.len();
                    if text.bytes.get(at..next)? != literal.as_bytes() {
                        return None;
                    }
                    at = next;
                }
                Part::Run(set, least, most) => {
                    let next = text.skip(at, limit, set);
                    if !(least..=most).contains(&(next - at)) {
                        return None;
                    }
                    // The longest run is what was drawn at random.
                    if random.as_ref().is_none_or(|run: &Range<usize>| run.len() < next - at) {
                        random = Some(at..next);
                    }
                    at = next;
                }
                Part::Assign => {
                    at = assignment(text, at)?.0;
                    secret = at;
                }
                Part::PemBody => return pem(text, first, at),
            }
        }
        let random = text.bytes.get(random?)?;
        let whole = text.bytes.get(secret..at)?;
        (!judge::is_placeholder(whole) && judge::is_varied(random)).then_some(secret..at)
    }
}

/// Whether the byte before is the end of an escape such as `\n`, as in a string of source code.
fn escaped(text: Text<'_>, at: usize) -> bool {
    let [slash, letter] = [2, 1].map(|back| at.checked_sub(back).and_then(|index| text.at(index)));
    slash == Some(b'\\') && letter.is_some_and(|byte| b"nrt".contains(&byte))
}

/// What follows the name of a setting that ends at `at`: where the value begins, and its quote.
pub(super) fn assignment(text: Text<'_>, mut at: usize) -> Option<(usize, Option<u8>)> {
    const QUOTES: Set = Set::of(b"\"'`");
    let limit = at + 64;
    at = text.skip(at, at + 1, QUOTES.or(Set::of(b"]")));
    at = text.skip(at, at + 1, Set::of(b"]"));
    at = text.skip(at, limit, Set::BLANK);
    at = match (text.at(at)?, text.at(at + 1)) {
        (b':', Some(b'=')) | (b'=', Some(b'>')) => at + 2,
        // A comparison, or a path in source code.
        (b'=', Some(b'=')) | (b':', Some(b':')) => return None,
        (b'=' | b':', _) => at + 1,
        _ => return None,
    };
    at = text.skip(at, limit, Set::BLANK);
    let quote = text.at(at).filter(|&byte| QUOTES.has(byte));
    Some((at + usize::from(quote.is_some()), quote))
}

/// A token of the user's own: the prefix, and at least 12 characters of a word.
pub(super) fn own(text: Text<'_>, prefix: Range<usize>) -> Option<Range<usize>> {
    let end = text.skip(prefix.end, prefix.end + FARTHEST, Set::WORD.or(Set::of(b"+/=.")));
    let token = text.bytes.get(prefix.end..end)?;
    (token.len() >= 12 && !judge::is_placeholder(token)).then_some(prefix.start..end)
}

/// A private key in PEM: what matters is that there is a body, which a mere mention has not.
fn pem(text: Text<'_>, first: usize, at: usize) -> Option<Range<usize>> {
    /// `ENCRYPTED `, `OPENSSH ` and the like.
    const LONGEST_LABEL: usize = 24;
    let after = text.bytes.get(at..text.bytes.len().min(at + LONGEST_LABEL + 32))?;
    let key = b"PRIVATE KEY";
    let label = after.windows(key.len()).position(|window| window == key)?;
    let label_fits = |byte: &u8| Set::UPPER.or(Set::DIGIT).or(Set::of(b" ")).has(*byte);
    if label > LONGEST_LABEL || !after.iter().take(label).all(label_fits) {
        return None;
    }
    let mut body = at + label + key.len();
    body += " BLOCK".len() * usize::from(text.bytes.get(body..)?.starts_with(b" BLOCK"));
    if !text.bytes.get(body..)?.starts_with(b"-----") {
        return None;
    }
    body += 5;
    // In source code a key stands in quotes, with escapes between its lines.
    let rest = text.bytes.get(body..text.bytes.len().min(body + FARTHEST))?;
    let end = rest.windows(5).position(|window| window == b"-----").unwrap_or(rest.len());
    let rest = rest.get(..end)?;
    let longest = rest.split(|&byte| !Set::BASE64.has(byte)).map(<[u8]>::len).max()?;
    let letters: usize = rest.iter().filter(|&&byte| Set::BASE64.has(byte)).count();
    let long_enough = longest >= 16 && letters >= 60;
    let body = body..body + end;
    let varied = judge::is_varied(text.bytes.get(body.clone())?);
    (long_enough && varied).then_some(first..body.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_have_what_they_say() {
        for byte in 0..=255_u8 {
            let is = |yes: bool, set: Set| assert_eq!(set.has(byte), yes, "{byte}");
            is(byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte), Set::HEX);
            is(byte.is_ascii_alphanumeric() || b"_-".contains(&byte), Set::WORD);
            is(byte.is_ascii_alphanumeric() || b"+/".contains(&byte), Set::BASE64);
        }
    }

    #[test]
    fn an_assignment_is_seen_however_it_is_written() {
        let value = |source: &str| {
            let text = Text { bytes: source.as_bytes(), is_settings: true };
            let (at, quote) = assignment(text, 1)?;
            Some((source[at..].to_owned(), quote))
        };
        for (source, quote) in [
            ("k=v", None),
            ("k = \"v", Some(b'"')),
            ("k: 'v", Some(b'\'')),
            ("k\": \"v", Some(b'"')),
            ("k'] => 'v", Some(b'\'')),
            ("k\t:=\t`v", Some(b'`')),
        ] {
            assert_eq!(value(source), Some(("v".to_owned(), quote)), "{source}");
        }
        for source in ["k == v", "k::v", "k", "k v", "k(v", "k.x = v", "k_x = v"] {
            assert_eq!(value(source), None, "{source}");
        }
    }
}
