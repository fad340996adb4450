//! Who this home is: one Ed25519 key, as a node and as a device alike; and the two keys that let a
//! restarted node end its old connections at once.
//!
//! **Invariant:** a key file that exists is used or refused, never replaced; its content is in no log
//! and in no message.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use baton_protocol::id::{DeviceId, NodeId};
use baton_store::fs::{self, FsError};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};

/// A key file is shorter.
const MAX_KEY_FILE: u64 = 4096;

/// Bytes of the key of stateless resets: the block of SHA-256, as quinn draws it.
const RESET_KEY: usize = 64;

/// Bytes of the key of connection ids.
const CONNECTION_ID_KEY: usize = 8;

/// A home's keys could not be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Others may read or change a key.
    #[error("{} has mode {mode:03o}, and keys are for their owner only; type: chmod {} {}",
        path.display(), if *is_dir { "700" } else { "600" }, path.display())]
    Exposed {
        /// Which file or folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Whether it is the folder.
        is_dir: bool,
    },
    /// A key belongs to another user of the machine.
    #[error("{} belongs to user {owner}, not to user {user} who runs this", path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who runs this.
        user: u32,
    },
    /// A key file holds something else.
    #[error("{} is no key; put it back from a backup, or move it away to become a new device", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// The random number generator of the system failed.
    #[error("drawing a key failed")]
    Random,
}

/// The keys of a home.
#[derive(Clone)]
pub struct Identity {
    pkcs8: Vec<u8>,
    public: [u8; 32],
    reset_key: [u8; RESET_KEY],
    connection_id_key: u64,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("node", &self.node()).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads the keys in this folder, and draws those that are missing.
    ///
    /// A new key is on disk when this returns.
    pub fn load_or_create(keys_dir: &Path) -> Result<Self, IdentityError> {
        fs::create_dir_all(keys_dir)?;
        check_owner_only(keys_dir)?;
        let random = SystemRandom::new();
        let path = keys_dir.join("identity.pk8");
        let pkcs8 = load_or_draw(&path, || {
            let drawn =
                Ed25519KeyPair::generate_pkcs8(&random).map_err(|_| IdentityError::Random)?;
            Ok(drawn.as_ref().to_vec())
        })?;
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8)
            .map_err(|_| IdentityError::Damaged { path: path.clone() })?;
        let public = pair.public_key().as_ref().try_into();
        let public = public.map_err(|_| IdentityError::Damaged { path })?;
        let reset_key = load_or_draw_array(&keys_dir.join("reset.key"), &random)?;
        let connection_id_key: [u8; CONNECTION_ID_KEY] =
            load_or_draw_array(&keys_dir.join("connection-id.key"), &random)?;
        let connection_id_key = u64::from_le_bytes(connection_id_key);
        Ok(Self { pkcs8, public, reset_key, connection_id_key })
    }

    /// Who this home is to those that connect to it.
    pub const fn node(&self) -> NodeId {
        NodeId::from_bytes(self.public)
    }

    /// Who this home is to the nodes that it connects to.
    pub const fn device(&self) -> DeviceId {
        DeviceId::from_bytes(self.public)
    }

    /// The private key, for TLS.
    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// Makes the tokens that tell a client that its connection is from before a restart.
    pub(crate) const fn reset_key(&self) -> &[u8] {
        &self.reset_key
    }

    /// Marks the connection ids that this node gives out.
    pub(crate) const fn connection_id_key(&self) -> u64 {
        self.connection_id_key
    }
}

fn load_or_draw_array<const N: usize>(
    path: &Path,
    random: &SystemRandom,
) -> Result<[u8; N], IdentityError> {
    let bytes = load_or_draw(path, || {
        let mut key = [0; N];
        random.fill(&mut key).map_err(|_| IdentityError::Random)?;
        Ok(key.to_vec())
    })?;
    bytes.try_into().map_err(|_| IdentityError::Damaged { path: path.to_owned() })
}

/// The content of a key file; where there is none `draw` makes it. Of two processes at once both
/// get the same key.
fn load_or_draw(
    path: &Path,
    draw: impl FnOnce() -> Result<Vec<u8>, IdentityError>,
) -> Result<Vec<u8>, IdentityError> {
    if let Some(bytes) = load(path)? {
        return Ok(bytes);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    fs::write_atomic(&new, &draw()?, 0o600)?;
    // A link, not a rename: it never takes the place of a key that is there.
    let linked = std::fs::hard_link(&new, path);
    fs::remove_file(&new)?;
    match linked {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(FsError { action: "creating", path: path.to_owned(), source }.into());
        }
        _ => fs::sync_dir(path.parent().unwrap_or(Path::new(".")))?,
    }
    load(path)?.ok_or_else(|| IdentityError::Damaged { path: path.to_owned() })
}

fn load(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    match check_owner_only(path) {
        Err(IdentityError::Fs(error)) if error.is_not_found() => return Ok(None),
        other => other?,
    }
    Ok(fs::read_if_exists(path, MAX_KEY_FILE)?)
}

/// Refuses what somebody else may read or write.
fn check_owner_only(path: &Path) -> Result<(), IdentityError> {
    let metadata = std::fs::metadata(path).map_err(|source| FsError {
        action: "looking at",
        path: path.to_owned(),
        source,
    })?;
    let (mode, is_dir) = (metadata.mode() & 0o777, metadata.is_dir());
    // The names in the folder are no secret; who may change them could put another key in place.
    let forbidden = if is_dir { 0o022 } else { 0o077 };
    if mode & forbidden != 0 {
        return Err(IdentityError::Exposed { path: path.to_owned(), mode, is_dir });
    }
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        return Err(IdentityError::Foreign { path: path.to_owned(), owner, user });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_home_stays_who_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        let first = Identity::load_or_create(&keys).unwrap();
        let again = Identity::load_or_create(&keys).unwrap();
        assert_eq!(first.node(), again.node());
        assert_eq!(first.device().as_bytes(), first.node().as_bytes());
        assert_eq!(first.reset_key(), again.reset_key());
        assert_eq!(first.connection_id_key(), again.connection_id_key());
        let other = Identity::load_or_create(&folder.path().join("other")).unwrap();
        assert_ne!(first.node(), other.node());
        assert_ne!(first.reset_key(), other.reset_key());
        for name in fs::list_dir(&keys).unwrap() {
            let mode = std::fs::metadata(keys.join(&name)).unwrap().mode();
            assert_eq!(mode & 0o777, 0o600, "{name:?}");
        }
        assert_eq!(fs::list_dir(&keys).unwrap().len(), 3);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        Identity::load_or_create(&keys).unwrap();
        set_mode(&keys.join("identity.pk8"), 0o640);
        let refused = Identity::load_or_create(&keys).unwrap_err();
        assert!(matches!(refused, IdentityError::Exposed { mode: 0o640, is_dir: false, .. }));
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
        set_mode(&keys.join("identity.pk8"), 0o600);
        set_mode(&keys, 0o770);
        let refused = Identity::load_or_create(&keys).unwrap_err();
        assert!(matches!(refused, IdentityError::Exposed { mode: 0o770, is_dir: true, .. }));
    }

    #[test]
    fn a_damaged_key_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        Identity::load_or_create(&keys).unwrap();
        for name in ["identity.pk8", "reset.key", "connection-id.key"] {
            let whole = fs::read_if_exists(&keys.join(name), MAX_KEY_FILE).unwrap().unwrap();
            fs::write_atomic(&keys.join(name), &whole[1..], 0o600).unwrap();
            let refused = Identity::load_or_create(&keys).unwrap_err();
            assert!(matches!(refused, IdentityError::Damaged { .. }), "{name}: {refused}");
            let kept = fs::read_if_exists(&keys.join(name), MAX_KEY_FILE).unwrap().unwrap();
            assert_eq!(kept, &whole[1..]);
            fs::write_atomic(&keys.join(name), &whole, 0o600).unwrap();
        }
    }

    #[test]
    fn key_files() {
        use crate::fuzz::fuzzing::{Random, fuzz_with, within};

        let folder = crate::fuzz::scratch();
        let keys = folder.path().join("keys");
        let first = Identity::load_or_create(&keys).unwrap();
        let names = ["identity.pk8", "reset.key", "connection-id.key"];
        let whole =
            names.map(|name| fs::read_if_exists(&keys.join(name), MAX_KEY_FILE).unwrap().unwrap());
        fuzz_with(1000, whole.to_vec(), |_, input| {
            let at = Random::of(input).below(names.len());
            // Of its own kind more often than not.
            let at = whole.iter().position(|key| key.len() == input.len()).unwrap_or(at);
            let path = keys.join(names[at]);
            fs::write_whole(&path, input, 0o600).unwrap();
            let loaded = within(input, 16, 65_536, |_| Identity::load_or_create(&keys));
            match &loaded {
                Ok(loaded) => {
                    let is_same = loaded.node() == first.node();
                    assert!(is_same || (at == 0 && input != whole[0]));
                    assert!(at == 0 || input.len() == whole[at].len());
                }
                Err(IdentityError::Damaged { path: told }) => assert_eq!(*told, path),
                Err(IdentityError::Fs(error)) => assert!(error.is_too_large(), "{error}"),
                Err(error) => panic!("{error}"),
            }
            // What is there is never replaced.
            assert_eq!(fs::read_if_exists(&path, u64::MAX - 1).unwrap().unwrap(), input);
            fs::write_whole(&path, &whole[at], 0o600).unwrap();
            loaded.is_ok()
        });
    }

    #[test]
    fn two_at_once_become_the_same_home() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        // Within one process the temporary names clash; drawing is what must not replace.
        fs::create_dir_all(&keys).unwrap();
        let path = keys.join("reset.key");
        let raced = load_or_draw(&path, || {
            fs::write_atomic(&path, b"first", 0o600)?;
            Ok(b"second".to_vec())
        });
        assert_eq!(raced.unwrap(), b"first");
    }
}
