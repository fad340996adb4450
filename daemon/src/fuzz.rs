//! Damaged input for what reads settings, descriptions and requests.

#[path = "../../tests/support/fuzzing.rs"]
pub(crate) mod fuzzing;
#[path = "../../tests/support/simulations.rs"]
pub(crate) mod simulations;

use std::path::Path;

use fuzzing::{fuzz, texts, within};
pub(crate) use simulations::scratch;

use crate::api::control::Command;
use crate::api::receipt::Bytes;
use crate::config::Config;
use crate::environments::file::{Description, MAX_FILE};

#[test]
fn settings() {
    let corpus = texts(&[
        "[serve]\nmax_runs = 2\n",
        "[sync]\n[serve]\nlisten = \"127.0.0.1:0\"\n",
        "[agents.claude]\nprogram = \"claude\"\nargs = [\"-x\"]\npermissions = \"ask\"\n",
        "[agents.mine]\nprogram = \"m\"\nenv = { A = \"b\" }\n",
        "# nothing\n",
    ]);
    // The rules of the secret scan are made for each.
    fuzz(corpus, |_, input| {
        let Ok(text) = std::str::from_utf8(input) else { return false };
        let first = within(input, 2048, 8 << 20, |_| Config::parse(text, Path::new("config.toml")));
        let again = Config::parse(text, Path::new("config.toml"));
        assert_eq!(first.is_ok(), again.is_ok());
        if let Err(error) = &first {
            assert!(!error.to_string().is_empty());
        }
        first.is_ok()
    });
}

#[test]
fn descriptions() {
    let corpus = texts(&[
        "setup = \"make\"\n",
        "setup = \"make\"\nmaintain = \"make more\"\ncache_key = [\"Cargo.lock\", \"**/*.toml\"]\n",
        "setup = \"\"\"\nline\n\"\"\"\n[env]\nA = \"b\"\n",
    ]);
    fuzz(corpus, |_, input| {
        let read = within(input, 2048, 1 << 20, Description::parse);
        assert!(read.is_err() || input.len() as u64 <= MAX_FILE);
        if let Err(error) = &read {
            assert!(!error.to_string().is_empty());
        }
        read.is_ok()
    });
}

#[test]
fn requests() {
    let path = || Bytes(b"/a/\xffb".to_vec());
    let commands = [
        Command::Ping,
        Command::Stop { if_idle: true },
        Command::Ticket { user: Some("a".into()), role: None, expires_ms: 5, uses: 1 },
        Command::Join { ticket: "baton1x".into(), name: None },
        Command::Push { path: path(), remote: None, wait: true },
        Command::Diff { a: "a".into(), b: None, path: path(), patch: false },
        Command::Restore { snapshot: "ab".into(), into: path(), remote: Some("r".into()) },
        Command::RunLogs { run: "r".into(), follow: true },
    ];
    let corpus = commands.iter().map(|command| serde_json::to_vec(command).unwrap()).collect();
    fuzz(corpus, |_, input| {
        let read = within(input, 256, 1 << 20, |input| serde_json::from_slice::<Command>(input));
        read.inspect(|command| {
            // What is understood means itself when it is written again.
            let written = serde_json::to_vec(command).unwrap();
            let again: Command = serde_json::from_slice(&written).unwrap();
            assert_eq!(serde_json::to_vec(&again).unwrap(), written);
        })
        .is_ok()
    });
}
