//! Every rule finds a made-up token and lets near misses pass. Tokens are put together at run time, so
//! that no scanner stumbles over this file, ours included.

use std::collections::BTreeSet;

use super::shape::{Part, Set};
use super::*;

fn rules() -> SecretRules {
    SecretRules::standard().unwrap()
}

fn found(path: &str, text: &str) -> Option<(&'static str, u64)> {
    rules().scan(path.as_bytes(), text.as_bytes()).map(|found| (found.rule, found.line))
}

/// Characters of a set in no order.
fn drawn(set: Set, count: usize) -> String {
    let all: Vec<u8> = (0..128).filter(|&byte| set.has(byte)).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(all[(state >> 24) as usize % all.len()])
    };
    (0..count).map(|_| next()).collect()
}

/// A token as the row says; `change` is added to the length of every run.
fn made(row: &shape::Row, change: isize) -> Option<String> {
    let mut text = row.before.map(|(set, least, _)| drawn(set, least)).unwrap_or_default();
    text.push_str(row.word);
    for part in row.parts {
        match *part {
            Part::Is(literal) => text.push_str(literal),
            Part::Run(set, least, most) => {
                let count = if change > 0 { most } else { least };
                text.push_str(&drawn(set, count.checked_add_signed(change)?));
            }
            Part::Assign => text.push_str(" = \""),
            Part::PemBody => return None,
        }
    }
    Some(text)
}

#[test]
fn every_row_finds_its_token_and_nothing_shorter() {
    for row in table::ROWS {
        let Some(token) = made(row, 0) else { continue };
        // What stands before the word is not told from the letter of an escape.
        let escape = if row.before.is_some() { " " } else { "\\n" };
        for text in
            [format!("let x = '{token}';\n"), format!("\n{token}"), format!("a{escape}{token} b")]
        {
            let rules = rules();
            let finding = rules.scan(b"src/x", text.as_bytes());
            let finding = finding.unwrap_or_else(|| panic!("{}: nothing in {text}", row.rule));
            // Another rule may know the same form by another name; what counts is that it is held.
            assert!(!finding.rule.is_empty());
        }
        let shorter = made(row, -1).unwrap();
        let text = format!("'{shorter}'");
        let text = Text { bytes: text.as_bytes(), is_settings: false };
        let start = 1 + row.before.map_or(0, |(_, least, _)| least - 1);
        assert_eq!(row.find(text, start), None, "{}: {shorter}", row.rule);
        if !row.any_case {
            let upper = token.replace(row.word, &swapped(row.word));
            let text = Text { bytes: upper.as_bytes(), is_settings: false };
            let start = row.before.map_or(0, |(_, least, _)| least);
            let other = swapped(row.word) != row.word;
            assert!(!other || row.find(text, start).is_none(), "{}: {upper}", row.rule);
        }
    }
}

fn swapped(word: &str) -> String {
    let swap = |c: char| {
        if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }
    };
    word.chars().map(swap).collect()
}

#[test]
fn tokens_begin_where_words_begin_and_placeholders_are_none() {
    let body = drawn(Set::ALNUM, 36);
    let token = format!("gh{}{body}", "p_");
    assert_eq!(found("x", &token), Some(("github-token", 1)));
    assert_eq!(found("x", &format!("a{token}")), None);
    assert_eq!(found("x", &format!("gh{}{}", "p_", "x".repeat(36))), None);
    assert_eq!(found("x", &format!("AK{}IOSFODNN7{}", "IA", "EXAMPLE")), None);
    assert_eq!(found("x", &format!("one\ntwo\n{token}\n{token}")), Some(("github-token", 3)));
}

#[test]
fn private_keys_are_found_in_files_and_in_source_and_mentions_are_not() {
    let begin = |label: &str| format!("-----BEG{} {label}-----", "IN");
    let lines: Vec<String> = (0..6).map(|_| drawn(Set::BASE64, 64)).collect();
    for label in [
        "PRIVATE KEY",
        "RSA PRIVATE KEY",
        "EC PRIVATE KEY",
        "OPENSSH PRIVATE KEY",
        "ENCRYPTED PRIVATE KEY",
        "PGP PRIVATE KEY BLOCK",
    ] {
        let file = format!("\n{}\n{}\n", begin(label), lines.join("\n"));
        assert_eq!(found("id", &file), Some(("private-key-pem", 2)), "{label}");
        let json = format!("{{\"k\": \"{}\\n{}\\n\"}}", begin(label), lines.join("\\n"));
        assert_eq!(found("credentials.json", &json), Some(("private-key-pem", 1)), "{label}");
        let mention = format!("if text.starts_with(\"{}\") {{\n", begin(label));
        assert_eq!(found("x.rs", &mention), None, "{label}");
    }
    let public = format!("{}\n{}\n", begin("PUBLIC KEY"), lines.join("\n"));
    assert_eq!(found("id.pub", &public), None);
    let certificate = format!("{}\n{}\n", begin("CERTIFICATE"), lines.join("\n"));
    assert_eq!(found("ca.pem", &certificate), None);
}

#[test]
fn what_looks_random_and_is_called_a_secret_is_found() {
    let value = drawn(Set::ALNUM, 32);
    for text in [
        format!("API_KEY = \"{value}\""),
        format!("client_secret: '{value}'"),
        format!("{{\"authToken\": \"{value}\"}}"),
        format!("$config['api_key'] => '{value}';"),
    ] {
        assert_eq!(found("a.py", &text), Some(("assigned-secret", 1)), "{text}");
    }
    assert_eq!(
        found(".env", &format!("A=1\nSESSION_SECRET={value}\n")),
        Some(("assigned-secret", 2))
    );
    // Without quotes it is a name, in a program.
    assert_eq!(found("a.py", &format!("token = {value}")), None);
    let made_up = format!("Sup3r-{}!", "Geheim");
    assert_eq!(found("app.env", &format!("DB_PASSWORD={made_up}")), Some(("assigned-password", 1)));
    assert_eq!(found("a.py", &format!("password = \"{made_up}\"")), None);
}

#[test]
fn settings_without_a_secret_are_handed_over() {
    for text in [
        "API_KEY=your_api_key_here\nDB_PASSWORD=postgres\nSECRET_KEY=changeme\n",
        "token: ${GITHUB_TOKEN}\npassword: {{ vault.password }}\n",
        "secret = os.environ[\"SECRET\"]\ntoken=$(cat token)\n",
        "password = get_password_from_keyring(user1)\n",
        "private_key: /etc/ssl/private/server.key\npassword_file = ~/.pw1\n",
        "next_token: my-page-token-2024\nsecret_name = \"prod/service/database-2\"\n",
        "DATABASE_URL=postgres://app:app@localhost/app\n",
        "REDIS=redis://user:s3cretpw@redis:6379\nURL=https://user:password@db.internal.net/\n",
        "proxy=http://user:<password>@proxy.net:3128\n",
        "api_key = \"00000000-0000-0000-0000-000000000000\"\n",
        "token == \"9f86d081884c7d659a2feaa0c55ad015\"\n",
    ] {
        for path in [".env", "config.yml", "a.py"] {
            assert_eq!(found(path, text), None, "{text}");
        }
    }
}

#[test]
fn passwords_of_urls_are_found() {
    let password = drawn(Set::ALNUM, 12);
    let url = format!("postgres://app:{password}@db.prod.net:5432/app");
    assert_eq!(found("x.rb", &url), Some(("url-password", 1)));
    assert_eq!(found("x.rb", "https://app:443@x/"), None);
    assert_eq!(found("x.rb", "git+ssh://git@host.org/a:b@c"), None);
}

#[test]
fn a_secret_after_what_is_looked_at_or_in_a_binary_file_is_not_seen() {
    let token = format!("gh{}{}", "p_", drawn(Set::ALNUM, 36));
    let rules = rules();
    let mut bytes = vec![b'\n'; LOOKED_AT - token.len()];
    bytes.extend(token.bytes());
    let finding = rules.scan(b"x", &bytes).unwrap();
    assert_eq!(finding.line, (LOOKED_AT - token.len()) as u64 + 1);
    bytes.insert(0, b'\n');
    assert_eq!(rules.scan(b"x", &bytes), None);
    let binary = [b"\0 ", token.as_bytes()].concat();
    assert_eq!(rules.scan(b"x", &binary), None);
    assert_eq!(rules.scan(b"x", b"\xfe\xed\xfe\xed\0\0\0\x02").unwrap().rule, "java-keystore");
}

#[test]
fn to_allow_one_secret_is_not_to_allow_the_next() {
    let [first, second] = [36, 40].map(|count| format!("gh{}{}", "p_", drawn(Set::ALNUM, count)));
    let text = format!("{first}\n{second}\n");
    let rules = rules();
    let one = rules.scan(b"x", text.as_bytes()).unwrap();
    let two = rules.scan_unless(b"x", text.as_bytes(), |finding| *finding == one).unwrap();
    assert_eq!((one.line, two.line), (1, 2));
    assert_ne!(one.fingerprint, two.fingerprint);
    assert_eq!(rules.scan_unless(b"x", text.as_bytes(), |_| true), None);
    // A form that is known is called by its name, and is the same secret in whatever setting.
    let set = rules.scan(b".env", format!("API_TOKEN='{first}'").as_bytes()).unwrap();
    assert_eq!((set.rule, set.fingerprint), (one.rule, one.fingerprint));
    // The same secret elsewhere has the same fingerprint, and another one in another home.
    let elsewhere = rules.scan(b"y", format!("\n\n{first}").as_bytes()).unwrap();
    assert_eq!(elsewhere.fingerprint, one.fingerprint);
    let other = SecretRules::new(&SecretOptions { key: [1; 32], ..SecretOptions::default() });
    assert_ne!(other.unwrap().scan(b"x", text.as_bytes()).unwrap().fingerprint, one.fingerprint);
}

#[test]
fn lines_are_counted_on_past_what_is_allowed() {
    let token = format!("gh{}{}", "p_", drawn(Set::ALNUM, 36));
    let other = format!("gl{}{}", "pat-", drawn(Set::WORD, 24));
    let text = format!("{}\n{other}\n", vec![token.as_str(); 5000].join("\n"));
    let rules = rules();
    let allowed = rules.scan(b"x", token.as_bytes()).unwrap().fingerprint;
    let found = rules.scan_unless(b"x", text.as_bytes(), |found| found.fingerprint == allowed);
    assert_eq!(found.map(|found| (found.rule, found.line)), Some(("gitlab-token", 5001)));
}

#[test]
fn prefixes_and_patterns_of_the_user_are_kept() {
    let options = SecretOptions {
        prefixes: vec!["acme_".to_owned()],
        allow: ["fixtures/", "*.pem", "!prod.pem", "/top"].map(str::to_owned).to_vec(),
        ..SecretOptions::default()
    };
    let rules = SecretRules::new(&options).unwrap();
    let token = format!("acme_{}", drawn(Set::ALNUM, 20));
    assert_eq!(rules.scan(b"x", token.as_bytes()).unwrap().rule, OWN);
    assert_eq!(rules.scan(b"x", b"acme_short"), None);
    for allowed in ["a.pem", "deep/b.pem", "top"] {
        assert_eq!(rules.scan(allowed.as_bytes(), token.as_bytes()), None, "{allowed}");
    }
    for held in ["prod.pem", "deep/top", "a.pem.txt"] {
        assert!(rules.scan(held.as_bytes(), token.as_bytes()).is_some(), "{held}");
    }
    let with = |prefix: &str, allow: &str| {
        SecretRules::new(&SecretOptions {
            prefixes: vec![prefix.to_owned()],
            allow: vec![allow.to_owned()],
            ..SecretOptions::default()
        })
    };
    assert!(matches!(with("ab", "x"), Err(SecretRulesError::Prefix { .. })));
    assert!(matches!(with("with space", "x"), Err(SecretRulesError::Prefix { .. })));
    assert!(matches!(with("acme_", ""), Err(SecretRulesError::Pattern { .. })));
}

#[test]
fn whatever_the_bytes_are_the_rules_come_to_an_end() {
    let rules = rules();
    let mut state = 7_u64;
    let words: Vec<&[u8]> = table::ROWS.iter().map(|row| row.word.as_bytes()).collect();
    let glue: [&[u8]; 8] = [b"=", b"\"", b":", b"\n", b"\\n", b"://a:", b"@", b"PRIVATE KEY-----"];
    for _ in 0..2000 {
        let mut bytes = Vec::new();
        for _ in 0..12 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (state >> 33) as usize;
            bytes.extend_from_slice(if at.is_multiple_of(2) {
                words[at % words.len()]
            } else {
                glue[at % 8]
            });
            bytes.push((at >> 8) as u8);
        }
        let lines = bytes.split(|&byte| byte == b'\n').count() as u64;
        assert!(rules.scan(b".env", &bytes).is_none_or(|found| found.line <= lines));
    }
}

#[test]
fn the_set_is_large_small_and_names_its_rules_well() {
    let rules = rules();
    let names: BTreeSet<_> = table::ROWS.iter().map(|row| row.rule).collect();
    assert!(names.len() >= 60 && rules.count() > 130, "{} {}", names.len(), rules.count());
    assert!(rules.words.memory_usage() < 1 << 20, "{}", rules.words.memory_usage());
    let fits = |name: &&str| name.bytes().all(|byte| byte == b'-' || byte.is_ascii_lowercase());
    assert!(names.iter().all(fits), "{names:?}");
}
