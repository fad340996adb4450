//! What stands in for a secret, and what was drawn at random.
//!
//! Thresholds are measured: on the tree of an operating system and on a folder of published crates,
//! the rules that use them find nothing that is not a key (`docs/safety.md`).

/// Words that people write where a secret belongs.
const PLACEHOLDERS: [&[u8]; 20] = [
    b"example",
    b"changeme",
    b"change_me",
    b"change-me",
    b"placeholder",
    b"redacted",
    b"dummy",
    b"insert",
    b"replace",
    b"sample",
    b"xxxxx",
    b"your_",
    b"your-",
    b"yourkey",
    b"<your",
    b"-here",
    b"_here",
    b"fake",
    b"mock",
    b"testtest",
];

/// Six of one kind in a row: once in ten million tokens.
const REPEATED: usize = 6;

/// Seven that go up or down by one, as in `1234567` and `abcdefg`.
const ASCENDING: usize = 7;

/// Whether this is no secret but what the documentation writes in its place.
pub(crate) fn is_placeholder(value: &[u8]) -> bool {
    let contains =
        |word: &&[u8]| value.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word));
    let template = |pair: &[u8]| matches!(pair, b"${" | b"$(" | b"{{" | b"}}" | b"<%" | b"%(");
    PLACEHOLDERS.iter().any(contains)
        || value.windows(2).any(template)
        || value.iter().any(|byte| b"<>\\".contains(byte))
        || value.windows(REPEATED).any(|run| run.windows(2).all(|pair| pair.first() == pair.last()))
        || ascends(value)
}

/// Whether characters follow each other as in the alphabet.
fn ascends(value: &[u8]) -> bool {
    value.windows(ASCENDING).any(|run| {
        let steps = |by: i16| {
            run.windows(2).all(|pair| {
                let [a, b] = *pair else { return false };
                i16::from(b) - i16::from(a) == by
            })
        };
        steps(1) || steps(-1)
    })
}

/// Bits that a character tells, were the next one drawn from those here; 0 of nothing.
pub(crate) fn entropy(value: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for &byte in value {
        if let Some(count) = counts.get_mut(usize::from(byte)) {
            *count += 1;
        }
    }
    let len = f64::from(counts.iter().sum::<u32>());
    let shares = counts.iter().filter(|&&count| count > 0).map(|&count| f64::from(count) / len);
    shares.map(|share| -share * share.log2()).sum()
}

/// Whether what has the form of a token has the variety of one. A random token of 20 characters has
/// less than 2.5 bits a character once in millions; a run of digits of a table has.
pub(crate) fn is_varied(value: &[u8]) -> bool {
    entropy(value) >= 2.5
}

/// Whether a value without a form was drawn at random, rather than made of words: long, letters and
/// digits in no order, and as varied as its alphabet lets it be.
pub(crate) fn is_random(value: &[u8]) -> bool {
    const LEAST: usize = 16;
    let kind = |byte: u8| match byte {
        b'0'..=b'9' => 1,
        b'a'..=b'z' => 2,
        b'A'..=b'Z' => 3,
        _ => 0,
    };
    let mut changes = 0;
    let mut last = 0;
    for kind in value.iter().map(|&byte| kind(byte)).filter(|&kind| kind != 0) {
        changes += usize::from(last != 0 && kind != last);
        last = kind;
    }
    let digits = value.iter().filter(|byte| byte.is_ascii_digit()).count();
    let letters = value.iter().filter(|byte| byte.is_ascii_alphabetic()).count();
    let hexadecimal = value.iter().all(u8::is_ascii_hexdigit);
    value.len() >= LEAST
        && digits >= 2
        && letters >= 2
        // Words with a number behind them change seldom; what is random changes at every second.
        && changes * 5 >= digits + letters
        && entropy(value) >= if hexadecimal { 3.0 } else { 3.5 }
}

/// Whether a password that people made up is one that they mean: long, of three kinds of characters.
pub(crate) fn is_strong(value: &[u8]) -> bool {
    const LEAST: usize = 10;
    let kinds = [
        value.iter().any(u8::is_ascii_lowercase),
        value.iter().any(u8::is_ascii_uppercase),
        value.iter().any(u8::is_ascii_digit),
        value.iter().any(u8::is_ascii_punctuation),
    ];
    value.len() >= LEAST
        && kinds.into_iter().filter(|&kind| kind).count() >= 3
        && value.iter().any(u8::is_ascii_digit)
        && entropy(value) >= 2.8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_seen() {
        for value in [
            "your_api_key_goes_somewhere",
            "EXAMPLEKEY",
            "changeme123",
            "${TOKEN}",
            "{{ token }}",
            "aaaaaaaaaaaa",
            "01234567890",
            "<token>",
            "xxxxxxxx",
            "$(cat token)",
            "ABCDEFGHIJ",
        ] {
            assert!(is_placeholder(value.as_bytes()), "{value}");
        }
        for value in ["q7Zt9Lp2Xk4Vb8Nm", "9f86d081884c7d659a2f", "pa$$w0rd-9"] {
            assert!(!is_placeholder(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn what_is_random_is_told_from_what_has_a_meaning() {
        for value in
            ["9f86d081884c7d659a2feaa0c55ad015", "q7Zt9Lp2Xk4Vb8NmR3wS", "k3j9x0qpz7m2v5t8"]
        {
            assert!(is_random(value.as_bytes()), "{value}");
        }
        for value in [
            "my-service-production-2024",
            "getAccessTokenFromHeader",
            "application/x-www-form-1",
            "1234567890123456",
            "net.ipv4.tcp_fastopen_key",
            "password",
            "session-token-v2-2026",
        ] {
            assert!(!is_random(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn entropy_is_that_of_the_characters() {
        assert!(entropy(b"").abs() < 1e-9 && entropy(b"aaaa").abs() < 1e-9);
        assert!((entropy(b"abab") - 1.0).abs() < 1e-9);
        assert!((entropy(b"abcdefgh") - 3.0).abs() < 1e-9);
    }
}
