//! For tests: a disk that loses power.
//!
//! It stands beside a real folder and follows what the seam does there: which bytes of which file were synced, and which
//! names of which directory. From that it makes, at any operation, the folder that a power cut could have left: names that
//! were not synced may be there or not, but in the order in which they changed; of bytes that were not synced each block is
//! the old one, the new one, or zeros where there was none. One seed makes the same folder again.
//!
//! What SQLite does is not seen. An index is a cache, so it is left as it is, ahead of everything, or as it was when its log was
//! synced last, or taken away.
//!
//! **Invariant:** what was synced, under a name that was synced, is in every folder that is made.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a disk writes as a whole.
const BLOCK: usize = 512;

static DISKS: Mutex<Vec<Arc<Disk>>> = Mutex::new(Vec::new());

/// Numbers that a seed determines (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same numbers.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one, below `below`.
    pub const fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}

/// A folder whose syncs are followed.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    /// Of the ids of what is made there.
    seed: u64,
    state: Mutex<State>,
}

/// Which file a name leads to. Numbers of inodes are used again; these are not.
type FileNumber = u64;

/// What a directory holds: files, and further directories.
type Names = BTreeMap<std::ffi::OsString, Option<FileNumber>>;

#[derive(Debug, Default)]
struct State {
    /// What each directory may hold after a power cut: as it was synced, and each state since.
    directories: HashMap<PathBuf, Vec<Names>>,
    /// The bytes of each file when it was synced last.
    synced: HashMap<FileNumber, Vec<u8>>,
    /// By inode, as long as it is this file.
    numbers: HashMap<u64, FileNumber>,
    next: FileNumber,
    /// By index: the bytes of it and of its log when that was synced last.
    logs: HashMap<PathBuf, (Vec<u8>, Vec<u8>)>,
    operations: u64,
    ids: u64,
    /// Syncs below this path do nothing.
    lies: Option<PathBuf>,
    /// At which operations it ends, how, and the folder that is to be made then.
    ends: Vec<(u64, PathBuf, End)>,
    is_cut: bool,
}

/// What ends the work on a disk.
#[derive(Clone, Debug)]
enum End {
    /// The process is killed: everything that was written is there.
    Kill,
    /// The power is cut.
    PowerCut(Dice),
}

/// A disk is followed until this is dropped.
#[derive(Debug)]
pub struct Followed(Arc<Disk>);

impl Disk {
    /// Follows what happens in a folder, which is empty or whose content counts as synced.
    ///
    /// What is made there has ids that the seed determines.
    pub fn follow(root: &Path, seed: u64) -> Followed {
        let disk = Self { root: root.to_owned(), seed, state: Mutex::default() };
        disk.state().start(root);
        let disk = Arc::new(disk);
        disks().push(disk.clone());
        Followed(disk)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, action: &str, path: &Path) {
        let mut state = self.state();
        state.operations += 1;
        if action == "creating" && path.is_file() {
            state.is_new(path);
        }
        match action {
            // What only looks or writes changes no directory.
            "reading"
            | "looking at"
            | "listing"
            | "writing"
            | "cutting"
            | "setting the mode of" => {}
            "syncing" | "making room in" => state.notice(path),
            "opening" | "creating" | "removing" => state.notice_up_to_known(path, &self.root),
            // A name may have gone from any of them.
            _ => {
                let above = path.ancestors().take_while(|folder| folder.starts_with(&self.root));
                above.for_each(|folder| state.notice(folder));
            }
        }
        let is_a_lie = state.lies.as_ref().is_some_and(|below| path.starts_with(below));
        if (action == "syncing" || action == "making room in") && !is_a_lie {
            state.sync(path);
        }
        let operation = state.operations;
        let is_now = |(at, ..): &mut (u64, PathBuf, End)| *at == operation;
        let ends: Vec<_> = state.ends.extract_if(.., is_now).collect();
        for (_, to, end) in ends {
            state.is_cut = true;
            match end {
                End::Kill => copy(&self.root, &to),
                End::PowerCut(mut dice) => state.leave(&self.root, &to, &mut dice),
            }
        }
    }
}

impl State {
    fn start(&mut self, folder: &Path) {
        let names = self.look(folder).unwrap_or_default();
        for (name, file) in &names {
            let path = folder.join(name);
            match file {
                Some(file) => drop(self.synced.insert(*file, read(&path))),
                None => self.start(&path),
            }
        }
        self.directories.insert(folder.to_owned(), vec![names]);
    }

    /// Makes what a power cut leaves of a folder.
    fn leave(&self, folder: &Path, to: &Path, dice: &mut Dice) {
        make_dir(to);
        let Some(versions) = self.directories.get(folder) else { return };
        let Some(names) = versions.get(dice.roll(versions.len() as u64) as usize) else { return };
        for (name, file) in names {
            let (from, to) = (folder.join(name), to.join(name));
            match file {
                None => self.leave(&from, &to, dice),
                Some(file) => {
                    let bytes = self.left_of(*file, &from, dice);
                    put(&to, &bytes);
                }
            }
        }
        let index = folder.join("index.db");
        let kept = dice.roll(3);
        if index.exists() && kept > 0 {
            let (now, log) = (read(&index), read(&log_of(&index)));
            // Where SQLite has begun its log anew, or has moved it into the file, it has synced it itself.
            let log = match self.logs.get(&index) {
                Some((then, synced)) if kept == 1 && *then == now && log.starts_with(synced) => {
                    synced.clone()
                }
                _ => log,
            };
            put(&to.join("index.db"), &now);
            put(&to.join("index.db-wal"), &log);
        }
    }

    /// What a directory holds now; nothing where there is no directory.
    fn look(&mut self, folder: &Path) -> Option<Names> {
        let entries = std::fs::read_dir(folder).ok()?;
        let mut names = Names::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("index.db") {
                continue;
            }
            let Ok(kind) = entry.file_type() else { continue };
            let file = (!kind.is_dir()).then(|| self.number(entry.ino()));
            names.insert(name, file);
        }
        Some(names)
    }

    fn number(&mut self, inode: u64) -> FileNumber {
        let next = &mut self.next;
        *self.numbers.entry(inode).or_insert_with(|| {
            *next += 1;
            *next
        })
    }

    /// A file was made: its inode may have been another one's.
    fn is_new(&mut self, path: &Path) {
        if let Ok(metadata) = path.metadata() {
            self.numbers.remove(&metadata.ino());
        }
    }

    /// Looks at a path, if it is a directory, and at what is above it, as far as that may just have come.
    fn notice_up_to_known(&mut self, path: &Path, root: &Path) {
        self.notice(path);
        for folder in path.ancestors().skip(1).take_while(|folder| folder.starts_with(root)) {
            self.notice(folder);
            if self.is_known(folder) {
                break;
            }
        }
    }

    /// Whether a directory is in the one above it, as that was seen last.
    fn is_known(&self, folder: &Path) -> bool {
        let (Some(above), Some(name)) = (folder.parent(), folder.file_name()) else { return false };
        let names = self.directories.get(above).and_then(|versions| versions.last());
        names.is_some_and(|names| names.get(name) == Some(&None))
    }

    fn notice(&mut self, folder: &Path) {
        let Some(names) = self.look(folder) else { return };
        let versions =
            self.directories.entry(folder.to_owned()).or_insert_with(|| vec![Names::new()]);
        if versions.last() != Some(&names) {
            versions.push(names);
        }
    }

    fn sync(&mut self, path: &Path) {
        if path.is_dir() {
            if let Some(versions) = self.directories.get_mut(path) {
                versions.drain(..versions.len().saturating_sub(1));
            }
        } else if let Ok(metadata) = path.metadata() {
            if path.ends_with("index.db-wal") {
                let index = path.with_file_name("index.db");
                self.logs.insert(index.clone(), (read(&index), read(path)));
                return;
            }
            let number = self.number(metadata.ino());
            self.synced.insert(number, read(path));
        }
    }

    /// Bytes of a file after a power cut.
    fn left_of(&self, file: FileNumber, path: &Path, dice: &mut Dice) -> Vec<u8> {
        const NONE: &[u8] = &[];
        let synced = self.synced.get(&file).map_or(NONE, Vec::as_slice);
        let is_there =
            path.metadata().is_ok_and(|found| self.numbers.get(&found.ino()) == Some(&file));
        let now = if is_there { read(path) } else { synced.to_vec() };
        if now == synced {
            return now;
        }
        let shorter = synced.len().min(now.len());
        let longer = synced.len().max(now.len());
        // Somewhere between both lengths, and often at one of them.
        let len = match dice.roll(3) {
            0 => synced.len(),
            1 => now.len(),
            _ => shorter + dice.roll((longer - shorter + 1) as u64) as usize,
        };
        let mut left = vec![0; len];
        // Mostly from the front, as systems write; now and then in any order.
        let front = dice.roll(2) == 0;
        let reached = dice.roll(len as u64 + 1) as usize;
        for at in (0..len).step_by(BLOCK) {
            let end = len.min(at + BLOCK);
            let is_written = if front { at < reached } else { dice.roll(2) == 0 };
            let source = if is_written { now.as_slice() } else { synced };
            let from = source.iter().skip(at).take(end - at);
            for (to, from) in left.iter_mut().skip(at).zip(from) {
                *to = *from;
            }
        }
        left
    }
}

impl Followed {
    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        self.0.state().operations
    }

    /// Cuts the power right after the operation with this number: what is left of the folder is made in `to`, and the folder
    /// itself goes on, as if nothing had happened.
    pub fn cut_after(&self, operation: u64, to: &Path, seed: u64) {
        let end = End::PowerCut(Dice::new(seed));
        self.0.state().ends.push((operation, to.to_owned(), end));
    }

    /// The same where only the process is killed: the folder is as it is then.
    pub fn kill_after(&self, operation: u64, to: &Path) {
        self.0.state().ends.push((operation, to.to_owned(), End::Kill));
    }

    /// From now on syncs below this path say that all is well, and do nothing: what a test sees then it would see without
    /// them.
    pub fn lie_about(&self, below: &Path) {
        self.0.state().lies = Some(below.to_owned());
    }

    /// Whether the power has been cut. What happens in the folder since is of no consequence.
    pub fn is_cut(&self) -> bool {
        self.0.state().is_cut
    }

    /// The power is not cut after all.
    pub fn spare(&self) {
        self.0.state().ends.clear();
    }

    /// Cuts the power now.
    pub fn cut(&self, to: &Path, seed: u64) {
        self.0.state().leave(&self.0.root, to, &mut Dice::new(seed));
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        disks().retain(|disk| !Arc::ptr_eq(disk, &self.0));
    }
}

/// Called after each operation of the seam that has succeeded.
pub(super) fn note(action: &str, path: &Path) {
    let disk = disks().iter().find(|disk| path.starts_with(&disk.root)).cloned();
    if let Some(disk) = disk {
        disk.note(action, path);
    }
}

/// Whether a folder is followed.
pub(super) fn is_followed(path: &Path) -> bool {
    disks().iter().any(|disk| path.starts_with(&disk.root))
}

/// Fills an id of a folder that is followed: the first one, the second one, and so on.
pub(super) fn fill(path: &Path, id: &mut [u8]) -> bool {
    let Some(disk) = disks().iter().find(|disk| path.starts_with(&disk.root)).cloned() else {
        return false;
    };
    let mut state = disk.state();
    state.ids += 1;
    let (number, seed) = (state.ids, disk.seed);
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .update(&number.to_le_bytes())
        .finalize_xof()
        .fill(id);
    true
}

fn disks() -> MutexGuard<'static, Vec<Arc<Disk>>> {
    DISKS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn log_of(index: &Path) -> PathBuf {
    index.with_file_name("index.db-wal")
}

#[expect(clippy::disallowed_methods, reason = "the seam would count it")]
fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}

/// Copies a folder as it is. What only processes share about a database means nothing without them.
fn copy(from: &Path, to: &Path) {
    make_dir(to);
    for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else if !path.to_string_lossy().ends_with(".db-shm") {
            put(&to, &read(&path));
        }
    }
}

fn put(path: &Path, bytes: &[u8]) {
    #[expect(clippy::expect_used, reason = "a test's own folder")]
    super::write_whole(path, bytes, 0o600).expect("a folder of the test's own");
}

fn make_dir(path: &Path) {
    #[expect(clippy::expect_used, reason = "a test's own folder")]
    super::create_dir_all(path).expect("a folder of the test's own");
}
