//! Where a home keeps what.
//!
//! Not here: the environment. The command line reads it and hands plain paths in.
//!
//! **Invariant:** two homes share no path.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use baton_store::fs::{self, FsError};

/// Longest socket path that is used as it is. The limit is 108 bytes on Linux and 104 elsewhere,
/// with the final NUL.
const MAX_SOCKET: usize = 100;

/// The paths of a home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// `config.toml`; may be missing.
    pub config_file: PathBuf,
    /// Everything that must not be lost.
    pub state_dir: PathBuf,
    /// Where the daemon listens for the command line.
    pub socket: PathBuf,
    /// How messages name this home.
    pub root_display: PathBuf,
}

impl Home {
    /// A home that is one folder. Its socket lives in `runtime_dir` under a hash of the home where
    /// its path would be too long.
    pub fn single(root: &Path, runtime_dir: &Path) -> Self {
        let mut socket = root.join("daemon.sock");
        if socket.as_os_str().len() > MAX_SOCKET {
            socket = runtime_dir.join(format!("baton-{}.sock", short_hash(root)));
        }
        Self {
            config_file: root.join("config.toml"),
            state_dir: root.to_owned(),
            socket,
            root_display: root.to_owned(),
        }
    }

    /// The home of a user by the XDG folders: each is the folder of all programs.
    pub fn xdg(config: &Path, state: &Path, runtime: &Path) -> Self {
        let state_dir = state.join("baton");
        let mut socket = runtime.join("baton").join("daemon.sock");
        if socket.as_os_str().len() > MAX_SOCKET {
            socket = runtime.join(format!("baton-{}.sock", short_hash(&state_dir)));
        }
        Self {
            config_file: config.join("baton").join("config.toml"),
            socket,
            root_display: state_dir.clone(),
            state_dir,
        }
    }

    /// Objects.
    pub fn store_dir(&self) -> PathBuf {
        self.state_dir.join("store")
    }

    /// Users, devices, tickets, runs.
    pub fn catalog(&self) -> PathBuf {
        self.state_dir.join("catalog.db")
    }

    /// Private keys, for the owner only.
    pub fn keys_dir(&self) -> PathBuf {
        self.state_dir.join("keys")
    }

    /// What this node's users gave it for their runs, for the owner only.
    pub fn secrets_dir(&self) -> PathBuf {
        self.state_dir.join("secrets")
    }

    /// One folder for each run of this node.
    pub fn runs_dir(&self) -> PathBuf {
        self.state_dir.join("runs")
    }

    /// Changes of checkouts, and what came out of these.
    pub fn applies_dir(&self) -> PathBuf {
        self.state_dir.join("applies")
    }

    /// Which conversation is at work in which workspace.
    pub fn sessions_dir(&self) -> PathBuf {
        self.state_dir.join("sessions")
    }

    /// What can be computed again.
    pub fn caches_dir(&self) -> PathBuf {
        self.state_dir.join("cache")
    }

    /// What git needs for a moment; nothing in it outlives the process.
    pub fn scratch_dir(&self) -> PathBuf {
        self.state_dir.join("scratch")
    }

    /// What a daemon without a terminal says.
    pub fn daemon_log(&self) -> PathBuf {
        self.state_dir.join("daemon.log")
    }

    /// Who did what at this node.
    pub fn audit_log(&self) -> PathBuf {
        self.state_dir.join("audit.log")
    }

    /// Held by the one daemon of this home; its content is that daemon's process id.
    pub fn lock_file(&self) -> PathBuf {
        self.state_dir.join("daemon.lock")
    }

    /// Makes the folders that are missing, for their owner only.
    pub fn create(&self) -> Result<(), FsError> {
        for dir in [&self.state_dir, &self.runs_dir(), &self.caches_dir(), &self.keys_dir()] {
            fs::create_dir_all(dir)?;
        }
        match self.socket.parent() {
            Some(parent) => fs::create_dir_all(parent),
            None => Ok(()),
        }
    }
}

/// Twelve digits that name a path.
pub(crate) fn short_hash(path: &Path) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, path.as_os_str().as_bytes());
    let mut hex = data_encoding::HEXLOWER.encode(digest.as_ref());
    hex.truncate(12);
    hex
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_folder_holds_everything_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("home");
        let home = Home::single(&root, Path::new("/run/user/1"));
        home.create().unwrap();
        for path in
            [home.store_dir(), home.catalog(), home.socket.clone(), home.config_file.clone()]
        {
            assert!(path.starts_with(&root), "{}", path.display());
        }
        for dir in [&root, &home.keys_dir()] {
            let mode = std::fs::metadata(dir).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", dir.display());
        }
        home.create().unwrap();
    }

    #[test]
    fn a_long_path_has_its_socket_in_the_runtime_folder() {
        let runtime = Path::new("/run/user/1");
        let [first, second] = ["a", "b"].map(|end| {
            let root = PathBuf::from(format!("/{}{end}", "x".repeat(120)));
            Home::single(&root, runtime).socket
        });
        assert!(first.starts_with(runtime) && first.as_os_str().len() < MAX_SOCKET);
        assert_ne!(first, second);
    }

    #[test]
    fn a_home_by_xdg_stays_in_its_folders() {
        let home = Home::xdg(Path::new("/c"), Path::new("/s"), Path::new("/r"));
        assert_eq!(home.config_file, Path::new("/c/baton/config.toml"));
        assert_eq!(home.catalog(), Path::new("/s/baton/catalog.db"));
        assert_eq!(home.socket, Path::new("/r/baton/daemon.sock"));
    }
}
