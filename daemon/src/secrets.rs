//! The secrets of a node's users: kept in files, given to runs, and known again where they must not be.
//!
//! A vault has one file, which is for its owner only and replaced as a whole. The catalog knows nothing of it, so
//! that no database, journal or backup of one has a value in pages that were freed.
//!
//! Not here: who may ask (the connection knows its vault), and what becomes of output in which a value stands
//! ([`runs`](crate::runs)).
//!
//! **Invariant:** a value is in its file, in the memory of this process and in the environment of runs of its vault, and
//! one for a git host in no environment; no error, `Debug` or log of this module has a byte of one.
//!
//! **Invariant:** a file that somebody else could read or write is refused, not read and not replaced.

mod file;
pub mod git;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use baton_protocol::id::{RunId, VaultId};
use baton_protocol::message::secrets::{
    SecretEntry, SecretError, SecretValue, SetSecret, check_agent, check_name, git_host,
};
use baton_protocol::message::{Refusal, RefusalCode};
use baton_store::fs::{self, FsError};
use baton_store::secrets::known::{KnownValues, TooManyValues};

use file::{check_owner_only, read, write};
use git::GitHost;

/// Most secrets of one vault.
pub const MAX_SECRETS: usize = 128;

/// Most bytes of all names and values of one vault: they stand in one environment, beside a command line and a
/// prompt, and Linux takes a quarter of the stack for all of it, 2 MiB as a rule.
pub const MAX_BYTES: usize = 128 * 1024;

/// Secrets cannot be kept, or cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// No run can be given it.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// There are too many already.
    #[error("a user has at most {MAX_SECRETS} secrets, of {MAX_BYTES} bytes together")]
    TooMany,
    /// Somebody else may read or write them.
    #[error("{} has mode {mode:03o}, and secrets are for their owner only; type: chmod {} {}",
        path.display(), if *is_dir { "700" } else { "600" }, path.display())]
    Exposed {
        /// Which file or folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Whether it is the folder.
        is_dir: bool,
    },
    /// They belong to another user of the machine.
    #[error("{} belongs to user {owner}, not to user {user} who runs this", path.display())]
    Foreign {
        /// Which file or folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who runs this.
        user: u32,
    },
    /// It is no file of secrets, or one of a later version.
    #[error("{} holds no secrets that this version can read; it is left as it is", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// They cannot be looked for in what runs leave.
    #[error(transparent)]
    Known(#[from] TooManyValues),
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl SecretsError {
    /// As the asking side is told. Paths of the node stay in its log.
    pub fn refusal(&self) -> Refusal {
        let (code, message) = match self {
            Self::Secret(error) => (RefusalCode::Malformed, error.to_string()),
            Self::TooMany => (RefusalCode::Limit, self.to_string()),
            Self::Fs(error) if error.is_disk_full() => {
                (RefusalCode::DiskFull, "the node's disk is full".to_owned())
            }
            _ => (RefusalCode::Internal, self.for_user().to_owned()),
        };
        Refusal { code, message }
    }

    /// What is wrong, without paths of the node.
    pub const fn for_user(&self) -> &'static str {
        match self {
            Self::Exposed { .. } | Self::Foreign { .. } => {
                "others may read the secrets on the node, so they are not used; its log says which file"
            }
            Self::Damaged { .. } => {
                "the secrets on the node cannot be read; its log says which file"
            }
            _ => "the node cannot read or write its secrets; its log has more",
        }
    }
}

/// One secret.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    entry: SecretEntry,
    value: SecretValue,
}

/// What a run gets.
#[derive(Clone, Default)]
pub struct Given {
    /// Its variables, each name once.
    pub variables: Vec<(OsString, OsString)>,
    /// The git hosts that the node speaks to for it. It gets none of their values.
    pub hosts: Vec<GitHost>,
    /// Every value of its user, also those of other agents; nothing where there is none to look for.
    pub known: Option<Arc<KnownValues>>,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.variables.iter().map(|(name, _)| name);
        f.debug_list().entries(names).entries(&self.hosts).finish()
    }
}

/// The secrets of a node; clones share them.
#[derive(Clone, Debug)]
pub struct Secrets(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    /// Held from a read to the write that follows from it.
    writing: Mutex<()>,
    /// What the runs at work have: a value that is removed meanwhile is still theirs.
    given: Mutex<HashMap<RunId, Arc<Given>>>,
}

impl Secrets {
    /// Those in this folder, which is made when there is a first one.
    pub fn new(folder: PathBuf) -> Self {
        Self(Arc::new(Inner { folder, writing: Mutex::default(), given: Mutex::default() }))
    }

    /// Keeps a secret: it is on the disk when this returns. One of the same name and agent is replaced. Returns those
    /// that are kept now.
    pub fn set(
        &self,
        vault: VaultId,
        secret: &SetSecret,
    ) -> Result<Vec<SecretEntry>, SecretsError> {
        secret.check()?;
        let entry = secret.entry();
        self.change(vault, |all| {
            all.retain(|kept| !kept.entry.is(&entry.name, entry.agent.as_deref()));
            all.push(Kept { entry: entry.clone(), value: secret.value.clone() });
            let bytes = |kept: &Kept| kept.entry.name.len() + kept.value.reveal().len();
            if all.len() > MAX_SECRETS || all.iter().map(bytes).sum::<usize>() > MAX_BYTES {
                return Err(SecretsError::TooMany);
            }
            all.sort_by(|a, b| a.entry.cmp(&b.entry));
            Ok(())
        })
    }

    /// Forgets a secret, if it is kept. What runs at work have of it stays theirs. Returns those that are kept now.
    pub fn remove(
        &self,
        vault: VaultId,
        entry: &SecretEntry,
    ) -> Result<Vec<SecretEntry>, SecretsError> {
        check_name(&entry.name)?;
        check_agent(entry.agent.as_deref())?;
        self.change(vault, |all| {
            all.retain(|kept| !kept.entry.is(&entry.name, entry.agent.as_deref()));
            Ok(())
        })
    }

    /// Which secrets are kept.
    pub fn list(&self, vault: VaultId) -> Result<Vec<SecretEntry>, SecretsError> {
        Ok(self.all(vault)?.into_iter().map(|kept| kept.entry).collect())
    }

    /// Checks that all that is kept can be used; says of how many vaults there is something.
    pub fn check(&self) -> Result<usize, SecretsError> {
        let folder = &self.0.folder;
        match check_owner_only(folder) {
            Err(SecretsError::Fs(error)) if error.is_not_found() => return Ok(0),
            checked => checked?,
        }
        let names = fs::list_dir(folder)?;
        let files = names.iter().filter(|name| name.as_bytes().ends_with(b".json"));
        let mut count = 0;
        for name in files {
            count += usize::from(!read(&folder.join(name))?.is_empty());
        }
        Ok(count)
    }

    /// What a run of this agent gets: of a name, the secret of its agent, else the one of all. It is remembered until
    /// [`Secrets::take_back`].
    pub fn give(
        &self,
        vault: VaultId,
        run: RunId,
        agent: &str,
    ) -> Result<Arc<Given>, SecretsError> {
        let all = self.all(vault).inspect_err(|_| {
            // It does not start, so that nothing of them is in what is at its place.
            self.given_now().insert(run, Arc::default());
        })?;
        let mut chosen: HashMap<&str, &Kept> = HashMap::new();
        for kept in &all {
            match kept.entry.agent.as_deref() {
                None => drop(chosen.entry(&kept.entry.name).or_insert(kept)),
                Some(of) if of == agent => drop(chosen.insert(&kept.entry.name, kept)),
                Some(_) => {}
            }
        }
        let (mut variables, mut hosts) = (Vec::new(), Vec::new());
        for kept in chosen.into_values() {
            if let Some(host) = git_host(&kept.entry.name) {
                hosts.push(GitHost::new(host, &kept.value, kept.entry.push));
            } else {
                let value = OsStr::from_bytes(kept.value.reveal()).to_owned();
                variables.push((OsString::from(&kept.entry.name), value));
            }
        }
        variables.sort();
        hosts.sort_by(|a, b| a.host().cmp(b.host()));
        let given = Arc::new(Given { variables, hosts, known: known_of(&all)? });
        self.given_now().insert(run, Arc::clone(&given));
        Ok(given)
    }

    /// What must not be in what a run leaves: what it was given; where that is not remembered, because another process
    /// gave it, what its user has now.
    pub fn known(
        &self,
        vault: VaultId,
        run: RunId,
    ) -> Result<Option<Arc<KnownValues>>, SecretsError> {
        let given = self.given_now().get(&run).cloned();
        match given {
            Some(given) => Ok(given.known.clone()),
            None => Ok(known_of(&self.all(vault)?)?),
        }
    }

    /// The same for whoever keeps what a run has left: where the file of secrets cannot be read, all of that is kept. It
    /// stays with the user whose secrets they are, and would be lost otherwise.
    pub fn to_hold(&self, vault: VaultId, run: RunId) -> Option<Arc<KnownValues>> {
        self.known(vault, run).unwrap_or_else(|error| {
            tracing::error!(%run, %error, "a result is not looked through for secrets");
            None
        })
    }

    /// The values that a run was given, and those of its other agents.
    pub fn known_to(&self, run: RunId) -> Option<Arc<KnownValues>> {
        self.given_now().get(&run).and_then(|given| given.known.clone())
    }

    /// Says that a run has ended.
    pub fn take_back(&self, run: RunId) {
        self.given_now().remove(&run);
    }

    fn given_now(&self) -> MutexGuard<'_, HashMap<RunId, Arc<Given>>> {
        self.0.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, vault: VaultId) -> PathBuf {
        self.0.folder.join(format!("{vault}.json"))
    }

    fn all(&self, vault: VaultId) -> Result<Vec<Kept>, SecretsError> {
        // Who has none has nothing that others could read.
        let file = self.file(vault);
        if file.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        {
            return Ok(Vec::new());
        }
        check_owner_only(&self.0.folder)?;
        read(&file)
    }

    fn change(
        &self,
        vault: VaultId,
        change: impl FnOnce(&mut Vec<Kept>) -> Result<(), SecretsError>,
    ) -> Result<Vec<SecretEntry>, SecretsError> {
        let _one = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.all(vault)?;
        let mut all = before.clone();
        change(&mut all)?;
        if all != before {
            let folder = &self.0.folder;
            fs::create_dir_all(folder)?;
            fs::sync_dir(folder.parent().unwrap_or(Path::new("/")))?;
            // What a process that was killed has left would outlive what is forgotten here.
            for name in fs::list_dir(folder)? {
                if name.as_bytes().ends_with(b".tmp") {
                    fs::remove_file(&folder.join(name))?;
                }
            }
            write(&self.file(vault), &all)?;
        }
        Ok(all.into_iter().map(|kept| kept.entry).collect())
    }
}

fn known_of(all: &[Kept]) -> Result<Option<Arc<KnownValues>>, TooManyValues> {
    let values = all.iter().flat_map(|kept| {
        let token = git_host(&kept.entry.name).map(|_| git::token(&kept.value));
        std::iter::once(kept.value.reveal()).chain(token)
    });
    Ok(KnownValues::new(values)?.map(Arc::new))
}

#[cfg(test)]
mod tests;
