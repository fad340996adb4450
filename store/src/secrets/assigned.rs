//! Secrets without a form of their own: values that look random and are assigned to what is called a
//! password, a token or a key; passwords in URLs.
//!
//! **Invariant:** a value that is a placeholder, a word, a path or a reference to where the secret is
//! kept is no finding. Whoever hands over half-done work misses a file that was held back for nothing.

use std::ops::Range;

use super::judge;
use super::shape::{Set, Text, assignment};

/// What a value is assigned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// People make it up.
    Password,
    /// A program draws it.
    Token,
}

/// How the names of such settings end.
pub(super) const WORDS: &[(&str, Kind)] = &[
    ("password", Kind::Password),
    ("passwd", Kind::Password),
    ("passphrase", Kind::Password),
    ("_pwd", Kind::Password),
    ("_pass", Kind::Password),
    ("secret", Kind::Token),
    ("secret_key", Kind::Token),
    ("secret-key", Kind::Token),
    ("secretkey", Kind::Token),
    ("secret_base", Kind::Token),
    ("secret_key_base", Kind::Token),
    ("token", Kind::Token),
    ("api_key", Kind::Token),
    ("api-key", Kind::Token),
    ("apikey", Kind::Token),
    ("access_key", Kind::Token),
    ("access-key", Kind::Token),
    ("accesskey", Kind::Token),
    ("auth_key", Kind::Token),
    ("authkey", Kind::Token),
    ("account_key", Kind::Token),
    ("private_key", Kind::Token),
    ("privatekey", Kind::Token),
    ("signing_key", Kind::Token),
    ("encryption_key", Kind::Token),
    ("master_key", Kind::Token),
    ("app_key", Kind::Token),
    ("application_key", Kind::Token),
    ("_auth", Kind::Token),
];

/// Longest value.
const LONGEST: usize = 512;

/// Whether a file of this path holds settings.
pub(super) fn is_settings(path: &[u8]) -> bool {
    const ENDINGS: [&[u8]; 11] = [
        b".env",
        b".ini",
        b".cfg",
        b".conf",
        b".config",
        b".properties",
        b".toml",
        b".yml",
        b".yaml",
        b".tfvars",
        b".envrc",
    ];
    const NAMES: [&[u8]; 6] =
        [b".npmrc", b".pypirc", b"credentials", b".s3cfg", b".boto", b".my.cnf"];
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    name.starts_with(b".env")
        || NAMES.contains(&name)
        || ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// The secret that is assigned to the setting whose name ends with `word`, and the rule.
pub(super) fn value(
    text: Text<'_>,
    word: Range<usize>,
    kind: Kind,
) -> Option<(&'static str, Range<usize>)> {
    let (start, quote) = assignment(text, word.end)?;
    let stop = match quote {
        Some(quote) => {
            let rest = text.bytes.get(start..text.bytes.len().min(start + LONGEST))?;
            start + rest.iter().position(|&byte| byte == quote || byte == b'\n')?
        }
        // Without quotes it is a name or a call, unless the file is one of settings.
        None if text.is_settings => {
            let ends = |byte: &u8| byte.is_ascii_whitespace() || b",;\"'#".contains(byte);
            let rest = text.bytes.get(start..text.bytes.len().min(start + LONGEST))?;
            start + rest.iter().position(ends).unwrap_or(rest.len())
        }
        None => return None,
    };
    let range = start..stop;
    let value = text.bytes.get(range.clone())?;
    if !value.iter().all(u8::is_ascii_graphic)
        || value.iter().any(|byte| b"(){}[]<>\\|".contains(byte))
        || value.first().is_some_and(|byte| b"$%@/.~&*".contains(byte))
        || value.windows(3).any(|three| three == b"://")
        || judge::is_placeholder(value)
    {
        return None;
    }
    if judge::is_random(value) && (is_uniform(value) || kind == Kind::Password) {
        return Some(("assigned-secret", range));
    }
    (kind == Kind::Password && text.is_settings && judge::is_strong(value))
        .then_some(("assigned-password", range))
}

/// Whether a value is of the alphabets in which programs write what they drew.
fn is_uniform(value: &[u8]) -> bool {
    const SEPARATORS: Set = Set::of(b"_-+/=.:~");
    let separators = value.iter().filter(|&&byte| SEPARATORS.has(byte)).count();
    value.iter().all(|&byte| Set::ALNUM.or(SEPARATORS).has(byte)) && separators * 5 <= value.len()
}

/// The password of a URL whose `://` ends at `at`: `user:password@host`.
pub(super) fn password_of_url(text: Text<'_>, at: usize) -> Option<(&'static str, Range<usize>)> {
    /// What people use where nobody else gets in.
    const KNOWN: [&[u8]; 14] = [
        b"password",
        b"passwd",
        b"pass",
        b"postgres",
        b"root",
        b"secret",
        b"guest",
        b"admin",
        b"test",
        b"user",
        b"mysql",
        b"redis",
        b"pwd",
        b"mypassword",
    ];
    const NAME: Set = Set::ALNUM.or(Set::of(b"_-.+%"));
    const HOST: Set = Set::ALNUM.or(Set::of(b"-._"));
    let user = at..text.skip(at, at + 64, NAME);
    if text.at(user.end)? != b':' {
        return None;
    }
    let start = user.end + 1;
    let secret = Set::ALNUM.or(Set::of(b"_-.+%!*~=&,;^$|"));
    let stop = text.skip(start, start + 128, secret);
    if text.at(stop)? != b'@' {
        return None;
    }
    let host = stop + 1..text.skip(stop + 1, stop + 129, HOST);
    let name = text.bytes.get(user)?;
    let password = text.bytes.get(start..stop)?;
    let host = text.bytes.get(host)?;
    let known = KNOWN.iter().any(|known| password.eq_ignore_ascii_case(known));
    if password.len() < 6
        || known
        || password == name
        || password.first().is_some_and(|byte| b"$%".contains(byte))
        || judge::is_placeholder(password)
        || judge::is_placeholder(host)
    {
        return None;
    }
    // A host without a dot, or of this machine, is that of somebody's own containers: there only
    // what was drawn at random is a secret.
    let far = host.contains(&b'.') && !host.starts_with(b"127.");
    let digits = password.iter().any(u8::is_ascii_digit);
    let letters = password.iter().any(u8::is_ascii_alphabetic);
    let meant = far && password.len() >= 8 && digits && letters && judge::entropy(password) >= 2.8;
    (meant || judge::is_random(password)).then_some(("url-password", start..stop))
}
