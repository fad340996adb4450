//! The environments that are kept.
//!
//! ```text
//! VAULT/WORKSPACE/KEY/tree         what the setup has put beside the files of the tree
//! VAULT/WORKSPACE/KEY/home         what it has put into its home
//! VAULT/WORKSPACE/KEY/record       how much that is, and when a run had it last
//! VAULT/WORKSPACE/setup-KEY/…      one that is being set up
//! VAULT/WORKSPACE/new-KEY          one that is being put in its place
//! VAULT/WORKSPACE/gone-…           one that is being taken away
//! VAULT/WORKSPACE/users/RUN        the environment that a run has
//! ```
//!
//! **Invariant:** an environment gets its name when all of it is on the disk, and never changes then. What has none when a
//! node starts is taken away.
//!
//! **Invariant:** none is taken away that a run has which is there.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use baton_protocol::id::{RunId, VaultId, WorkspaceId};
use baton_store::checkout::{put_aside, sweep};
use baton_store::fs::{self, FsError};
use baton_store::layers::overlay;
use serde::{Deserialize, Serialize};

use super::key::Key;

const SETUP: &str = "setup-";
const NEW: &str = "new-";
const GONE: &str = "gone-";
const USERS: &str = "users";
const RECORD: &str = "record";

/// Longest record that is read.
const MAX_RECORD: u64 = 4096;

/// How much is kept of what no run has any more.
#[derive(Clone, Copy, Debug)]
pub struct CacheLimits {
    /// Environments of a workspace.
    pub per_workspace: usize,
    /// Bytes of them, of all workspaces.
    pub bytes: u64,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { per_workspace: 4, bytes: 20 << 30 }
    }
}

/// What is known of an environment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Files and links.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// When a run had it last, in milliseconds since 1970.
    pub used: u64,
}

/// An environment that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What lies beside the files of the tree.
    pub tree: PathBuf,
    /// What is in the home.
    pub home: PathBuf,
    /// The checkout and the home in which it was set up.
    pub made_at: (PathBuf, PathBuf),
    /// What is known of it.
    pub record: Record,
}

/// Where an environment is set up: the same place each time, because programs write down where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupPlace {
    /// The folder of all of these.
    pub folder: PathBuf,
    /// Where the script is at work.
    pub checkout: PathBuf,
    /// Its home.
    pub home: PathBuf,
    /// For what it writes, where the checkout is an overlay.
    pub upper: PathBuf,
    /// For the system.
    pub work: PathBuf,
}

/// The environments of a node.
#[derive(Debug)]
pub struct EnvironmentCache {
    folder: PathBuf,
    limits: CacheLimits,
    /// Held while one is found and noted, put in its place, or taken away.
    changing: Mutex<()>,
}

impl EnvironmentCache {
    /// Those in a folder. What an earlier daemon was about is put aside; nothing is read, so that it takes no time. What
    /// cannot be put aside is in nobody's way: it is not used, and is tried again when it would be.
    pub fn open(folder: PathBuf, limits: CacheLimits) -> Self {
        let cache = Self { folder, limits, changing: Mutex::default() };
        if let Err(error) = cache.put_unfinished_away() {
            tracing::warn!(%error, "an environment that was not finished stays");
        }
        cache
    }

    fn put_unfinished_away(&self) -> Result<(), FsError> {
        let mut done = Ok(());
        for workspace in self.workspaces()? {
            for name in fs::list_dir(&workspace)? {
                if [SETUP, NEW].iter().any(|begun| name.as_bytes().starts_with(begun.as_bytes())) {
                    done = done.and(put_away(&workspace.join(&name), &workspace));
                }
            }
        }
        done
    }

    /// Finds an environment for a run. As long as the run is there, so is the environment.
    pub fn find(
        &self,
        (vault, workspace, key): (VaultId, WorkspaceId, Key),
        run: RunId,
        now_ms: u64,
    ) -> Result<Option<Kept>, FsError> {
        let _one = self.lock();
        let above = self.workspace(vault, workspace);
        let Some(record) = read(&above.join(key.to_string()))? else { return Ok(None) };
        note_user(&above, run, key)?;
        let record = Record { used: now_ms, ..record };
        let folder = above.join(key.to_string());
        if let Err(error) = write(&folder, record) {
            // It goes earlier than it should.
            tracing::warn!(%error, "when an environment was used is not kept");
        }
        Ok(Some(kept_in(&above, key, record)))
    }

    /// Looks whether an environment is there that a run has; changes nothing.
    pub fn look(
        &self,
        (vault, workspace, key): (VaultId, WorkspaceId, Key),
    ) -> Result<Option<Kept>, FsError> {
        let above = self.workspace(vault, workspace);
        let record = read(&above.join(key.to_string()))?;
        Ok(record.map(|record| kept_in(&above, key, record)))
    }

    /// Makes the place for a setup, in which nothing is.
    pub fn begin(
        &self,
        (vault, workspace, key): (VaultId, WorkspaceId, Key),
    ) -> Result<SetupPlace, FsError> {
        let above = self.workspace(vault, workspace);
        let place = place(&above, key);
        fs::create_dir_all(&above)?;
        put_away(&place.folder, &above)?;
        for folder in [&place.checkout, &place.home, &place.upper, &place.work] {
            fs::create_dir_all(folder)?;
        }
        Ok(place)
    }

    /// Keeps what the setup of a run has made: `tree` is the folder with what lies beside the files. It is on the disk
    /// when this returns, and the run has it.
    pub fn keep(
        &self,
        (vault, workspace, key): (VaultId, WorkspaceId, Key),
        run: RunId,
        tree: &Path,
        record: Record,
    ) -> Result<(), FsError> {
        let above = self.workspace(vault, workspace);
        let place = place(&above, key);
        let new = above.join(format!("{NEW}{key}"));
        put_away(&new, &above)?;
        fs::create_dir_all(&new)?;
        overlay::unmount(&place.checkout)?;
        fs::rename_unsynced(tree, &new.join("tree"))?;
        fs::rename_unsynced(&place.home, &new.join("home"))?;
        // One by one, many files take long; and what was written may have been written anywhere in it.
        fs::sync_file_system(&new)?;
        write(&new, record)?;
        let _one = self.lock();
        let to = above.join(key.to_string());
        put_away(&to, &above)?;
        note_user(&above, run, key)?;
        fs::rename(&new, &to)?;
        put_away(&place.folder, &above)
    }

    /// Lets go of a setup from which nothing is kept.
    pub fn leave_off(
        &self,
        (vault, workspace, key): (VaultId, WorkspaceId, Key),
    ) -> Result<(), FsError> {
        let above = self.workspace(vault, workspace);
        put_away(&place(&above, key).folder, &above)
    }

    /// Where an environment is set up, whether it is or not.
    pub fn place(&self, (vault, workspace, key): (VaultId, WorkspaceId, Key)) -> SetupPlace {
        place(&self.workspace(vault, workspace), key)
    }

    /// Takes away what is too much, the ones that no run has had for the longest time first, and what was put aside,
    /// until it is told to `stop`.
    pub fn sweep(
        &self,
        is_there: impl Fn(RunId) -> bool,
        stop: &AtomicBool,
    ) -> Result<(), FsError> {
        let workspaces = self.workspaces()?;
        let mut swept = self.collect(&workspaces, is_there);
        for workspace in workspaces.iter().take_while(|_| !stop.load(Ordering::Relaxed)) {
            swept = swept.and(sweep(workspace, GONE, stop));
        }
        swept
    }

    /// Puts aside what is too much.
    fn collect(
        &self,
        workspaces: &[PathBuf],
        is_there: impl Fn(RunId) -> bool,
    ) -> Result<(), FsError> {
        let _one = self.lock();
        // The one that was used the longest ago first.
        let mut free: BTreeMap<(u64, PathBuf), u64> = BTreeMap::new();
        let mut bytes = 0u64;
        for workspace in workspaces {
            let used = users(workspace, &is_there)?;
            let mut of_workspace = Vec::new();
            for (key, record) in kept(workspace)? {
                if !used.contains(&key) {
                    bytes = bytes.saturating_add(record.bytes);
                    of_workspace.push((record.used, workspace.join(key.to_string()), record.bytes));
                }
            }
            of_workspace.sort();
            let too_many = of_workspace.len().saturating_sub(self.limits.per_workspace);
            for (at, (used, folder, size)) in of_workspace.into_iter().enumerate() {
                if at < too_many {
                    put_away(&folder, workspace)?;
                    bytes = bytes.saturating_sub(size);
                } else {
                    free.insert((used, folder), size);
                }
            }
        }
        for ((_, folder), size) in free {
            if bytes <= self.limits.bytes {
                break;
            }
            put_away(&folder, folder.parent().unwrap_or(&self.folder))?;
            bytes = bytes.saturating_sub(size);
        }
        Ok(())
    }

    fn workspace(&self, vault: VaultId, workspace: WorkspaceId) -> PathBuf {
        self.folder.join(vault.to_string()).join(workspace.to_string())
    }

    /// The folders of all workspaces that have some.
    fn workspaces(&self) -> Result<Vec<PathBuf>, FsError> {
        let mut all = Vec::new();
        for vault in fs::list_dir(&self.folder)? {
            if vault.to_str().is_none_or(|name| name.parse::<VaultId>().is_err()) {
                continue;
            }
            let vault = self.folder.join(vault);
            let names = fs::list_dir(&vault)?.into_iter();
            let names = names
                .filter(|name| name.to_str().is_some_and(|it| it.parse::<WorkspaceId>().is_ok()));
            all.extend(names.map(|name| vault.join(name)));
        }
        Ok(all)
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes which environment a run has.
fn note_user(above: &Path, run: RunId, key: Key) -> Result<(), FsError> {
    fs::create_dir_all(&above.join(USERS))?;
    fs::write_atomic(&above.join(USERS).join(run.to_string()), key.to_string().as_bytes(), 0o600)
}

fn kept_in(above: &Path, key: Key, record: Record) -> Kept {
    let (folder, place) = (above.join(key.to_string()), place(above, key));
    let made_at = (place.checkout, place.home);
    Kept { tree: folder.join("tree"), home: folder.join("home"), made_at, record }
}

fn place(above: &Path, key: Key) -> SetupPlace {
    let folder = above.join(format!("{SETUP}{key}"));
    let [checkout, home, upper, work] =
        ["checkout", "home", "upper", "work"].map(|name| folder.join(name));
    SetupPlace { folder, checkout, home, upper, work }
}

/// The environments that runs have which are there; the notes of others go.
fn users(workspace: &Path, is_there: impl Fn(RunId) -> bool) -> Result<BTreeSet<Key>, FsError> {
    let mut used = BTreeSet::new();
    for name in fs::list_dir(&workspace.join(USERS))? {
        let note = workspace.join(USERS).join(&name);
        let run = name.to_str().and_then(|name| name.parse::<RunId>().ok());
        if run.is_some_and(&is_there) {
            let text = fs::read_if_exists(&note, MAX_RECORD)?.unwrap_or_default();
            used.extend(std::str::from_utf8(&text).ok().and_then(Key::parse));
        } else {
            fs::remove_file(&note)?;
        }
    }
    Ok(used)
}

/// The environments of a workspace.
fn kept(workspace: &Path) -> Result<Vec<(Key, Record)>, FsError> {
    let mut all = Vec::new();
    for name in fs::list_dir(workspace)? {
        let Some(key) = name.to_str().and_then(Key::parse) else { continue };
        // One without a record is none, and goes first.
        all.push((key, read(&workspace.join(&name))?.unwrap_or_default()));
    }
    Ok(all)
}

/// What is known of an environment; nothing where there is none.
fn read(folder: &Path) -> Result<Option<Record>, FsError> {
    let bytes = fs::read_if_exists(&folder.join(RECORD), MAX_RECORD)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

fn write(folder: &Path, record: Record) -> Result<(), FsError> {
    let json = serde_json::to_vec(&record).unwrap_or_default();
    fs::write_atomic(&folder.join(RECORD), &json, 0o600)
}

/// Puts a folder aside, if it is there, with what is shown in it.
fn put_away(path: &Path, above: &Path) -> Result<(), FsError> {
    overlay::unmount(&path.join("checkout"))?;
    put_aside(path, above, GONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VAULT: VaultId = VaultId::from_bytes([9; 16]);
    const WORKSPACE: WorkspaceId = WorkspaceId::from_bytes([2; 16]);

    fn key(byte: u8) -> Key {
        Key::parse(&format!("{byte:02x}").repeat(32)).unwrap()
    }

    fn run(byte: u8) -> RunId {
        RunId::from_bytes([byte; 16])
    }

    fn open(folder: &Path, limits: CacheLimits) -> EnvironmentCache {
        EnvironmentCache::open(folder.join("environments"), limits)
    }

    fn set_up(cache: &EnvironmentCache, byte: u8, bytes: u64) {
        let which = (VAULT, WORKSPACE, key(byte));
        let place = cache.begin(which).unwrap();
        fs::write_atomic(&place.upper.join("made"), &[byte], 0o644).unwrap();
        fs::write_atomic(&place.home.join("tool"), &[byte], 0o644).unwrap();
        let record = Record { files: 2, bytes, used: byte.into() };
        cache.keep(which, run(99), &place.upper, record).unwrap();
    }

    fn has(cache: &EnvironmentCache, byte: u8) -> bool {
        cache.workspace(VAULT, WORKSPACE).join(key(byte).to_string()).exists()
    }

    #[test]
    fn what_is_kept_is_there_for_the_next_daemon_and_half_of_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), CacheLimits::default());
        set_up(&cache, 1, 2);
        let half = cache.begin((VAULT, WORKSPACE, key(2))).unwrap();
        fs::write_atomic(&half.upper.join("made"), b"half", 0o644).unwrap();
        fs::create_dir_all(&half.folder.with_file_name(format!("{NEW}{}", key(3)))).unwrap();

        let cache = open(folder.path(), CacheLimits::default());
        let kept = cache.find((VAULT, WORKSPACE, key(1)), run(1), 7).unwrap().unwrap();
        assert_eq!(kept.record, Record { files: 2, bytes: 2, used: 7 });
        assert_eq!(fs::read_if_exists(&kept.tree.join("made"), 9).unwrap().unwrap(), [1]);
        assert_eq!(fs::read_if_exists(&kept.home.join("tool"), 9).unwrap().unwrap(), [1]);
        for other in [2, 3] {
            assert_eq!(cache.find((VAULT, WORKSPACE, key(other)), run(1), 7).unwrap(), None);
        }
        // Nor is it another user's, or another workspace's.
        let other = VaultId::from_bytes([8; 16]);
        assert_eq!(cache.find((other, WORKSPACE, key(1)), run(1), 7).unwrap(), None);
        cache.sweep(|_| true, &AtomicBool::new(false)).unwrap();
        let left = fs::list_dir(&cache.workspace(VAULT, WORKSPACE)).unwrap();
        assert_eq!(
            left,
            [key(1).to_string(), USERS.to_owned()].map(Into::<std::ffi::OsString>::into)
        );
    }

    #[test]
    fn the_ones_that_were_not_used_for_long_go_and_those_in_use_stay() {
        let folder = tempfile::tempdir().unwrap();
        let limits = CacheLimits { per_workspace: 3, bytes: 100 };
        let cache = open(folder.path(), limits);
        for byte in 1..=5 {
            set_up(&cache, byte, 10);
        }
        cache.find((VAULT, WORKSPACE, key(1)), run(1), 50).unwrap().unwrap();
        // One that a run has, and was used before all others since.
        cache.find((VAULT, WORKSPACE, key(2)), run(2), 0).unwrap().unwrap();
        let go = AtomicBool::new(false);
        cache.sweep(|who| who == run(2), &go).unwrap();
        let left: Vec<_> = (1..=5).filter(|&byte| has(&cache, byte)).collect();
        assert_eq!(left, [1, 2, 4, 5]);
        cache.sweep(|_| false, &go).unwrap();
        let left: Vec<_> = (1..=5).filter(|&byte| has(&cache, byte)).collect();
        assert_eq!(left, [1, 4, 5]);
        // By their bytes.
        set_up(&cache, 9, 85);
        cache.find((VAULT, WORKSPACE, key(9)), run(9), 60).unwrap().unwrap();
        cache.sweep(|_| false, &go).unwrap();
        let left: Vec<_> = (1..=9).filter(|&byte| has(&cache, byte)).collect();
        assert_eq!(left, [1, 9]);
        // What somebody has is no burden to the others, however large it is.
        set_up(&cache, 10, 500);
        cache.find((VAULT, WORKSPACE, key(10)), run(3), 70).unwrap().unwrap();
        cache.sweep(|who| who == run(3), &go).unwrap();
        assert!(has(&cache, 10) && has(&cache, 9));
        // From when it is kept, the run that has set it up has it.
        set_up(&cache, 11, 500);
        cache.sweep(|who| who == run(99), &go).unwrap();
        assert!(has(&cache, 11) && !has(&cache, 10));
    }

    #[test]
    fn environment_records() {
        use crate::fuzz::fuzzing::{fuzz_with, texts, within};

        let folder = crate::fuzz::scratch();
        let cache = open(folder.path(), CacheLimits::default());
        set_up(&cache, 1, 10);
        let above = cache.workspace(VAULT, WORKSPACE);
        let kept_at = above.join(key(1).to_string());
        let user = above.join(USERS).join(run(99).to_string());
        let corpus = texts(&[
            r#"{"files":2,"bytes":10,"used":1}"#,
            r#"{"files":18446744073709551615,"bytes":0,"used":18446744073709551615}"#,
            &key(1).to_string(),
        ]);
        fuzz_with(1000, corpus, |random, input| {
            if random.below(3) == 0 {
                fs::write_whole(&user, input, 0o600).unwrap();
                let used = within(input, 16, 65_536, |_| users(&above, |_| true)).unwrap();
                let said = std::str::from_utf8(input).ok().and_then(Key::parse);
                assert_eq!(used.into_iter().collect::<Vec<_>>(), said.as_slice());
                return said.is_some();
            }
            fs::write_whole(&kept_at.join(RECORD), input, 0o600).unwrap();
            let known = within(input, 16, 65_536, |_| read(&kept_at)).unwrap();
            let all = kept(&above).unwrap();
            assert_eq!(all, [(key(1), known.unwrap_or_default())]);
            if let Some(record) = known {
                write(&kept_at, record).unwrap();
                assert_eq!(read(&kept_at).unwrap(), known);
            }
            known.is_some()
        });
    }
}
