//! What the git of a run has instead of credentials: the node, which speaks to hosts for it, and programs that say what can
//! be done where it has nothing for one.
//!
//! What a run was given in variables of the same names comes before all of this.
//!
//! **Invariant:** git asks nobody: there is no terminal in a room, and where there is no room it would be that of the node.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;

use baton_store::fs::{self, FsError};

use super::environment::{Folders, Variables, set_where_free};
use super::refused::reason;
use super::{Live, Runs};
use crate::forwarder::{Forwarder, settings};
use crate::secrets::Given;

/// How many settings variables bring.
const COUNT: &str = "GIT_CONFIG_COUNT";

/// Most settings of a run's own that are counted on.
const MAX_OWN: usize = 4096;

/// Writes the programs.
pub(super) fn make_programs(folders: &Folders, run: &str) -> Result<(), FsError> {
    let [asking, reaching] = programs(folders);
    fs::create_dir_all(&folders.git())?;
    fs::write_whole(&asking, settings::asking(run).as_bytes(), 0o755)?;
    fs::write_whole(&reaching, settings::reaching(run).as_bytes(), 0o755)
}

/// By its name git knows which options the second one takes.
fn programs(folders: &Folders) -> [PathBuf; 2] {
    ["askpass", "ssh"].map(|name| folders.git().join(name))
}

/// Has git ask nobody.
pub(super) fn ask_nobody(all: &mut Variables) {
    set_where_free(all, vec![("GIT_TERMINAL_PROMPT".into(), "0".into())]);
}

/// Adds all that git is told.
pub(super) fn tell(all: &mut Variables, folders: &Folders, forwarder: Option<&Forwarder>) {
    ask_nobody(all);
    let [asking, reaching] = programs(folders);
    let told = [("GIT_ASKPASS", asking), ("GIT_SSH", reaching)];
    set_where_free(all, told.map(|(name, path)| (name.into(), path.into())).to_vec());
    if let Some(forwarder) = forwarder {
        add_settings(all, forwarder.settings());
        set_where_free(all, vec![(settings::HOSTS.into(), forwarder.hosts().into())]);
    }
}

/// Adds settings behind those that are there.
fn add_settings(all: &mut Variables, more: Vec<(String, String)>) {
    let own = all.iter().find(|(name, _)| name == COUNT).map(|(_, count)| count.to_str());
    let own = match own {
        None | Some(Some("")) => 0,
        Some(count) => match count.and_then(|count| count.parse::<usize>().ok()) {
            Some(count) if count <= MAX_OWN => count,
            // Git says what is wrong with it.
            _ => return,
        },
    };
    all.retain(|(name, _)| name != COUNT);
    all.push((COUNT.into(), (own + more.len()).to_string().into()));
    for (at, (key, value)) in (own..).zip(more) {
        for (name, value) in [("KEY", key), ("VALUE", value)] {
            let name = OsString::from(format!("GIT_CONFIG_{name}_{at}"));
            all.retain(|(other, _)| other.as_os_str() != OsStr::new(&name));
            all.push((name, value.into()));
        }
    }
}

impl Runs {
    /// Begins to speak to hosts for a run that may have it, until the result is dropped.
    pub(super) async fn forward(
        &self,
        live: &Live,
        given: &Given,
    ) -> Result<Option<Forwarder>, String> {
        // What has no network has none by way of the node either.
        if given.hosts.is_empty() || self.is_without_network(&live.spec) {
            return Ok(None);
        }
        let parts = &self.0.parts;
        let trust = Arc::clone(&self.0.options.trust);
        let started = Forwarder::start(live.run, given.hosts.clone(), trust, &parts.tasks).await;
        started
            .map(Some)
            .map_err(|error| reason("its way to git hosts could not be opened", &error))
    }
}

#[cfg(test)]
mod tests {
    use baton_protocol::message::RunState;
    use baton_protocol::message::secrets::{SecretValue, SetSecret};

    use super::super::testing::{Node, spec};
    use super::*;

    #[tokio::test]
    async fn a_run_is_told_the_way_and_not_the_token_in_every_room() {
        for node in Node::in_every_room().await {
            let value = SecretValue::new(b"tok-of-a-git-host".to_vec());
            let name = "git:localhost:1".to_owned();
            let secret = SetSecret { name, agent: None, value, push: None };
            node.secrets().set(node.vault, &secret).unwrap();
            let script = "env; git ls-remote https://localhost:1/o/r.git 2>&1 || echo ended";
            let info = node.run(spec(1, &["sh", "-c", script])).await;
            let said = String::from_utf8(node.output(info.spec.run).await.0).unwrap();
            assert_eq!(info.state, RunState::Succeeded, "{said}");
            assert!(said.contains("GIT_CONFIG_KEY_0=http.http://127.0.0.1:"), "{said}");
            let told = "remote error: baton: the node cannot speak to localhost:1";
            assert!(said.contains(told) && said.ends_with("ended\n"), "{said}");
            // It would be masked, too.
            assert!(!said.contains("tok-of") && !said.contains("***"), "{said}");
        }
    }

    fn variables(all: &[(&str, &str)]) -> Variables {
        all.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn settings_come_behind_those_that_a_run_has() {
        let more = || vec![("a.b".to_owned(), "x".to_owned()), ("c.d".to_owned(), String::new())];
        let mut none = variables(&[("HOME", "/h")]);
        add_settings(&mut none, more());
        let mine = [
            ("GIT_CONFIG_COUNT", "2"),
            ("GIT_CONFIG_KEY_0", "a.b"),
            ("GIT_CONFIG_VALUE_0", "x"),
            ("GIT_CONFIG_KEY_1", "c.d"),
            ("GIT_CONFIG_VALUE_1", ""),
        ];
        assert_eq!(none, variables(&[&[("HOME", "/h")], &mine[..]].concat()));

        let own = [
            ("GIT_CONFIG_KEY_0", "own"),
            ("GIT_CONFIG_VALUE_0", "o"),
            ("GIT_CONFIG_KEY_1", "stray"),
        ];
        let mut some = variables(&[&own[..], &[("GIT_CONFIG_COUNT", "1")]].concat());
        add_settings(&mut some, more());
        let value = |name: &str| {
            let mut all = some.iter().filter(|(other, _)| other == name);
            let value = all.next().map(|(_, value)| value.to_str().unwrap().to_owned());
            assert!(all.next().is_none(), "{name} is there twice");
            value.unwrap()
        };
        assert_eq!(
            (value("GIT_CONFIG_COUNT"), value("GIT_CONFIG_KEY_0")),
            ("3".to_owned(), "own".to_owned())
        );
        assert_eq!(
            (value("GIT_CONFIG_KEY_1"), value("GIT_CONFIG_KEY_2")),
            ("a.b".to_owned(), "c.d".to_owned())
        );

        for wrong in ["x", "-1", "99999999999"] {
            let before = variables(&[("GIT_CONFIG_COUNT", wrong)]);
            let mut after = before.clone();
            add_settings(&mut after, more());
            assert_eq!(after, before);
        }
    }

    #[test]
    fn what_a_run_was_given_comes_first() {
        let folders = Folders::of(
            std::path::Path::new("/runs"),
            baton_protocol::id::RunId::from_bytes([1; 16]),
        );
        let mut all = variables(&[("GIT_ASKPASS", "mine")]);
        tell(&mut all, &folders, None);
        let names: Vec<_> = all.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["GIT_ASKPASS", "GIT_TERMINAL_PROMPT", "GIT_SSH"]);
        assert_eq!(all[0].1, "mine");
    }
}
