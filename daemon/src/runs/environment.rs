//! What a run is told: its folders, and its environment.
//!
//! **Invariant:** of the node's own environment a run gets only what [`NodeEnvironment`] lets through, and what the node's
//! owner has named for its agent.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use baton_protocol::id::{RunId, VaultId};
use baton_protocol::message::RunSpec;

use super::checkout::Place;
use crate::forwarder::branch;
use crate::rooms::DEFAULT_PATH;
use crate::rooms::toolchains::Toolchains;
use crate::secrets::Given;

/// Longest string that Linux takes as one argument or variable, its NUL included (`MAX_ARG_STRLEN`).
pub(super) const MAX_STRING: usize = 128 * 1024;

/// What of the node's environment its runs inherit: where programs are, the language, the terminal and
/// the time zone.
#[derive(Clone, Default)]
pub struct NodeEnvironment {
    kept: Variables,
    /// All of it, of which the node's owner may name something for an agent.
    all: Arc<Variables>,
}

impl std::fmt::Debug for NodeEnvironment {
    /// Without what is not let through.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("NodeEnvironment").field(&self.kept).finish()
    }
}

impl NodeEnvironment {
    /// Takes the whole environment and keeps what runs may have.
    pub fn new(all: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let all: Variables = all.into_iter().collect();
        let kept = all.iter().filter(|(name, _)| is_inherited(name)).cloned().collect();
        Self { kept, all: Arc::new(all) }
    }

    /// Those that the node's owner has named.
    pub fn passed(&self, names: &[String]) -> Variables {
        let is_named = |name: &OsStr| names.iter().any(|named| OsStr::new(named) == name);
        self.all.iter().filter(|(name, _)| is_named(name)).cloned().collect()
    }

    /// What it let through.
    pub fn variables(&self) -> &[(OsString, OsString)] {
        &self.kept
    }

    /// The same, with toolchains that it may use.
    #[must_use]
    pub fn with_toolchains(&self, toolchains: &Toolchains) -> Self {
        let path = toolchains.path_with(self.path());
        let own = self.kept.iter().filter(|(name, _)| name != "PATH").cloned();
        let told = toolchains.variables.iter().cloned();
        let kept = own.chain([("PATH".into(), path)]).chain(told).collect();
        Self { kept, all: Arc::clone(&self.all) }
    }

    /// The folders in which programs are looked for.
    pub fn path(&self) -> &OsStr {
        let path = self.kept.iter().find(|(name, _)| name == "PATH");
        path.map_or(OsStr::new(DEFAULT_PATH), |(_, value)| value)
    }
}

fn is_inherited(name: &OsStr) -> bool {
    let name = name.as_bytes();
    matches!(name, b"PATH" | b"LANG" | b"TERM" | b"TZ") || name.starts_with(b"LC_")
}

/// The folders and files of one run.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    root: PathBuf,
}

impl Folders {
    pub(crate) fn of(runs: &Path, run: RunId) -> Self {
        Self { root: runs.join(run.to_string()) }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where its checkout is made.
    pub(super) fn place(&self, spec: &RunSpec, vault: VaultId) -> Place {
        Place {
            run: spec.run,
            vault,
            workspace: spec.workspace,
            agent: spec.agent.clone(),
            home: None,
            conversation: None,
            checkout: self.checkout(),
            attachments: self.attachments(),
            layer: self.layer(),
        }
    }

    /// What the run works on.
    pub(crate) fn checkout(&self) -> PathBuf {
        self.root.join("checkout")
    }

    /// What the checkout needs beside it.
    pub(crate) fn layer(&self) -> PathBuf {
        self.root.join("layer")
    }

    /// The home of a run that cannot have that of its thread.
    pub(super) fn own_home(&self) -> PathBuf {
        self.root.join("home")
    }

    /// Where what it has as `/tmp` and `/var/tmp` is.
    pub(super) fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Both.
    pub(super) fn temporaries(&self) -> [PathBuf; 2] {
        ["tmp", "var"].map(|name| self.temporary().join(name))
    }

    pub(super) fn attachments(&self) -> PathBuf {
        self.root.join("attachments")
    }

    /// Programs for its git.
    pub(super) fn git(&self) -> PathBuf {
        self.root.join("git")
    }

    pub(super) fn receipt(&self) -> PathBuf {
        self.root.join("receipt.json")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// What its agent is told of where it is.
    pub(super) fn told(&self) -> PathBuf {
        self.root.join("told.json")
    }

    /// The leader of the run's processes, while it lives.
    pub(super) fn process(&self) -> PathBuf {
        self.root.join("process")
    }
}

/// The whole environment of a run. What it is given has none of the names that are set here: see
/// [`check_name`](baton_protocol::message::secrets::check_name).
pub(super) fn environment(
    node: &NodeEnvironment,
    spec: &RunSpec,
    folders: &Folders,
    home: &Path,
    given: &Given,
) -> Variables {
    let mut all = node.kept.clone();
    if !all.iter().any(|(name, _)| name == "PATH") {
        all.push(("PATH".into(), DEFAULT_PATH.into()));
    }
    let mut add = |name: &str, value: OsString| all.push((name.into(), value));
    add("HOME", home.into());
    add("BATON_RUN", spec.run.to_string().into());
    add("BATON_THREAD", spec.thread.to_string().into());
    add("BATON_BRANCH", branch(spec.run).into());
    add("BATON_SNAPSHOT", spec.snapshot.to_string().into());
    add("BATON_PROMPT", spec.prompt.clone().unwrap_or_default().into());
    add("BATON_ATTACHMENTS", folders.attachments().into());
    add("BATON_RECEIPT", folders.receipt().into());
    all.extend(given.variables.iter().cloned());
    all
}

/// Names and values.
pub type Variables = Vec<(OsString, OsString)>;

/// What a run finds installed.
#[derive(Clone, Debug, Default)]
pub(super) struct Installed {
    /// Those that come with it.
    pub(super) variables: Variables,
    /// The checkout and the home in which it was made.
    pub(super) made_at: Option<(PathBuf, PathBuf)>,
}

/// Has programs that were installed in a home found before others.
pub(super) fn find_in_home_first(all: &mut Variables, home: &Path) {
    for (_, path) in all.iter_mut().filter(|(name, _)| name == "PATH") {
        let mut folders = OsString::new();
        for folder in [".local/bin", ".cargo/bin"] {
            folders.push(home.join(folder));
            folders.push(":");
        }
        folders.push(&*path);
        *path = folders;
    }
}

/// Sets variables that are not set.
pub(super) fn set_where_free(all: &mut Variables, others: Variables) {
    for (name, value) in others {
        if !all.iter().any(|(known, _)| *known == name) {
            all.push((name, value));
        }
    }
}

/// The program and its arguments, as the system takes them.
pub(super) fn arguments(spec: &RunSpec) -> Vec<OsString> {
    spec.command.iter().map(|argument| OsString::from_vec(argument.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_listed_variables_come_through() {
        let names =
            ["PATH", "LANG", "LC_ALL", "LC_TIME", "TERM", "TZ", "HOME", "AWS_SECRET", "LCX"];
        let node = NodeEnvironment::new(names.map(|name| (name.into(), "v".into())));
        let kept: Vec<_> = node.kept.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(kept, ["PATH", "LANG", "LC_ALL", "LC_TIME", "TERM", "TZ"]);
        assert_eq!(node.path(), "v");
        assert_eq!(NodeEnvironment::default().path(), DEFAULT_PATH);
    }
}
