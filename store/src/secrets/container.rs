//! Key files that are no text, by their first bytes.
//!
//! Private keys in DER (PKCS #1, PKCS #8, SEC 1), PKCS #12, Java key stores, and the databases of
//! password managers. Formats are those of RFC 5958, 7292, 8017 and 5915, and of KeePass.

/// How many kinds are known.
pub(super) const COUNT: usize = 6;

/// The first bytes of a key store of Java, of its JCE form, and of KeePass 1 and 2.
const MAGIC: [(&[u8], &str); 4] = [
    (&[0xfe, 0xed, 0xfe, 0xed, 0, 0, 0], "java-keystore"),
    (&[0xce, 0xce, 0xce, 0xce, 0, 0, 0], "java-keystore"),
    (&[0x03, 0xd9, 0xa2, 0x9a, 0x65, 0xfb, 0x4b, 0xb5], "keepass-database"),
    (&[0x03, 0xd9, 0xa2, 0x9a, 0x67, 0xfb, 0x4b, 0xb5], "keepass-database"),
];

/// Which rule holds this file back, where it is a container of keys.
pub(super) fn recognise(bytes: &[u8]) -> Option<&'static str> {
    let magic = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic));
    magic.map(|&(_, rule)| rule).or_else(|| der(bytes))
}

/// A sequence that fills the file, whose first member is the version that such files have.
fn der(bytes: &[u8]) -> Option<&'static str> {
    let (body, size) = match *bytes {
        [0x30, 0x82, high, low, ..] => (4, usize::from(high) << 8 | usize::from(low)),
        [0x30, 0x81, size, ..] => (3, usize::from(size)),
        [0x30, size @ 0x20..=0x7f, ..] => (2, usize::from(size)),
        _ => return None,
    };
    // Some tools append a newline.
    if !(body + size..=body + size + 1).contains(&bytes.len()) {
        return None;
    }
    match bytes.get(body..)? {
        // PKCS #8: version 0 or 1, then an algorithm, then an octet string.
        [2, 1, 0 | 1, 0x30, length, 6, ..] if *length < 0x40 => Some("private-key-der"),
        // PKCS #1: version 0, then the modulus. SEC 1: version 1, then the key as an octet string.
        [2, 1, 0, 2, 0x81 | 0x82, ..] | [2, 1, 1, 4, 0x18..=0x48, ..] => Some("private-key-der"),
        // PKCS #12: version 3, then what is protected.
        [2, 1, 3, 0x30, ..] => Some("pkcs12"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(body: &[u8]) -> Vec<u8> {
        let size = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&[0x30, 0x82], &size[..], body].concat()
    }

    #[test]
    fn containers_of_keys_are_recognised_and_nothing_else() {
        let rest = [7; 300];
        let pkcs8 = sequence(&[&[2, 1, 0, 0x30, 13, 6, 9][..], &rest].concat());
        assert_eq!(recognise(&pkcs8), Some("private-key-der"));
        let pkcs1 = sequence(&[&[2, 1, 0, 2, 0x82, 1, 1][..], &rest].concat());
        assert_eq!(recognise(&pkcs1), Some("private-key-der"));
        let pkcs12 = sequence(&[&[2, 1, 3, 0x30, 0x82][..], &rest].concat());
        assert_eq!(recognise(&pkcs12), Some("pkcs12"));
        assert_eq!(recognise(b"\xfe\xed\xfe\xed\0\0\0\x02..."), Some("java-keystore"));
        assert_eq!(recognise(b"\x03\xd9\xa2\x9a\x67\xfb\x4b\xb5"), Some("keepass-database"));

        // A certificate; a key with more behind it; a file that merely begins like one.
        let certificate = sequence(&[&[0x30, 0x82, 1, 1][..], &rest].concat());
        for other in [certificate, [&pkcs8[..], b"more"].concat(), pkcs8[..100].to_vec()] {
            assert_eq!(recognise(&other), None);
        }
        assert_eq!(recognise(b""), None);
        assert_eq!(recognise(&[0x30]), None);
    }
}
