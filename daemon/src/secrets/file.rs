//! The file of a vault's secrets: read by its owner only, written as one step.
//!
//! **Invariant:** a file that this version does not understand in full is an error, so that it is never written over.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use baton_protocol::message::secrets::{PushScope, SecretValue, SetSecret};
use baton_store::fs::{self, Context};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::{Kept, MAX_BYTES, MAX_SECRETS, SecretsError};

/// No file is longer: base64 takes a third more, and what stands around a value less than a KiB.
const MAX_FILE: u64 = (MAX_BYTES * 2 + MAX_SECRETS * 1024) as u64;

/// Of the file.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    secrets: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    agent: Option<String>,
    /// In base64.
    value: String,
    /// Where runs may push, of one for a git host; nothing where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    push: Option<Push>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Push {
    Run,
    Any,
}

/// What a file holds; nothing where there is none.
pub(super) fn read(path: &Path) -> Result<Vec<Kept>, SecretsError> {
    match check_owner_only(path) {
        Err(SecretsError::Fs(error)) if error.is_not_found() => return Ok(Vec::new()),
        checked => checked?,
    }
    let Some(bytes) = fs::read_if_exists(path, MAX_FILE)? else { return Ok(Vec::new()) };
    // Without the reason: it could quote what it did not understand.
    let damaged = || SecretsError::Damaged { path: path.to_owned() };
    let file: File = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
    if file.version != VERSION {
        return Err(damaged());
    }
    let kept = |row: Row| {
        let value = SecretValue::new(BASE64.decode(row.value.as_bytes()).map_err(|_| damaged())?);
        let push = row.push.map(|push| match push {
            Push::Run => PushScope::Run,
            Push::Any => PushScope::Any,
        });
        let secret = SetSecret { name: row.name, agent: row.agent, value, push };
        // A name that was taken over from elsewhere could reach the program that makes the room.
        secret.check().map_err(|_| damaged())?;
        Ok(Kept { entry: secret.entry(), value: secret.value })
    };
    file.secrets.into_iter().map(kept).collect()
}

/// Replaces a file; it is on the disk when this returns.
pub(super) fn write(path: &Path, all: &[Kept]) -> Result<(), SecretsError> {
    let row = |kept: &Kept| Row {
        name: kept.entry.name.clone(),
        agent: kept.entry.agent.clone(),
        value: BASE64.encode(kept.value.reveal()),
        push: kept.entry.push.map(|push| match push {
            PushScope::Run => Push::Run,
            PushScope::Any => Push::Any,
        }),
    };
    let file = File { version: VERSION, secrets: all.iter().map(row).collect() };
    let json = serde_json::to_vec(&file).map_err(std::io::Error::from);
    Ok(fs::write_atomic(path, &json.context("encoding", path)?, 0o600)?)
}

/// Refuses a file or folder that somebody else may read, write or replace.
pub(super) fn check_owner_only(path: &Path) -> Result<(), SecretsError> {
    let metadata = path.symlink_metadata().context("looking at", path)?;
    let (mode, is_dir) = (metadata.mode() & 0o777, metadata.is_dir());
    if !is_dir && !metadata.is_file() {
        return Err(SecretsError::Damaged { path: path.to_owned() });
    }
    if mode & 0o077 != 0 {
        return Err(SecretsError::Exposed { path: path.to_owned(), mode, is_dir });
    }
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        return Err(SecretsError::Foreign { path: path.to_owned(), owner, user });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::fuzzing::{self, fuzz_with, within};

    #[test]
    fn secret_files() {
        let folder = crate::fuzz::scratch();
        let path = folder.path().join("secrets");
        let corpus = fuzzing::texts(&[
            r#"{"version":1,"secrets":[{"name":"TOKEN","agent":null,"value":"aHVudGVyMg=="}]}"#,
            r#"{"version":1,"secrets":[{"name":"A","agent":"claude","value":"YWJjZA=="},{"name":"git:example.com","agent":null,"value":"eDp5eg==","push":"any"}]}"#,
            r#"{"version":1,"secrets":[]}"#,
        ]);
        let told = |all: &[Kept]| {
            let one = |kept: &Kept| (format!("{:?}", kept.entry), kept.value.reveal().to_vec());
            all.iter().map(one).collect::<Vec<_>>()
        };
        // All that a file says, but for what would be meant without it, and with one spelling for each value.
        let said = |bytes: &[u8]| {
            let mut file: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            for row in file["secrets"].as_array_mut().unwrap() {
                let is_meant = |name: &str, value: &serde_json::Value| {
                    value.is_null() || (name == "push" && value == "run")
                };
                let value = BASE64.decode(row["value"].as_str().unwrap().as_bytes()).unwrap();
                row["value"] = BASE64.encode(&value).into();
                row.as_object_mut().unwrap().retain(|name, value| !is_meant(name, value));
            }
            file
        };
        fuzz_with(1000, corpus, |_, input| {
            fs::write_whole(&path, input, 0o600).unwrap();
            let found = within(input, 64, 65_536, |_| read(&path));
            match &found {
                Ok(all) => {
                    // What is understood means itself when it is written again.
                    write(&path, all).unwrap();
                    assert_eq!(told(&read(&path).unwrap()), told(all));
                    let written = fs::read_if_exists(&path, MAX_FILE).unwrap().unwrap();
                    assert_eq!(said(&written), said(input), "something would be lost");
                }
                Err(SecretsError::Damaged { path: told }) => assert_eq!(*told, path),
                Err(SecretsError::Fs(error)) => assert!(error.is_too_large(), "{error}"),
                Err(error) => panic!("{error}"),
            }
            found.is_ok_and(|all| !all.is_empty())
        });
    }
}
