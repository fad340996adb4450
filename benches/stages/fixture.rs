//! What is measured on: a seeded tree of 5,000 files, on the disk and in a vault, and its snapshots.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use baton_protocol::id::{
    DeviceId, IdempotencyKey, ObjectId, ObjectKind, SnapshotId, TreeId, VaultId, WorkspaceId,
};
use baton_protocol::object::Snapshot;
use baton_store::error::StoreError;
use baton_store::journal::RefUpdate;
use baton_store::objects::{ObjectSink, ObjectSource};
use baton_store::scan::{Progress, ScanOptions, Scanned, scan};
use baton_store::stat_cache::StatCache;
use baton_store::store::Store;
use baton_store::vault::{Intake, Vault};

pub(crate) const FILES: usize = 5_000;

pub(crate) const WORKSPACE: WorkspaceId = WorkspaceId::from_bytes([2; 16]);
pub(crate) const DEVICE: DeviceId = DeviceId::from_bytes([3; 32]);

/// The folder of the file that is edited.
pub(crate) const EDITED: &str = "top7/part7/d7";

/// xorshift64*: the same tree on every machine.
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    /// Text that compresses about as source code does.
    pub(crate) fn source(&mut self, len: usize) -> Vec<u8> {
        const WORDS: [&str; 16] = [
            "let ", "self.", "fn ", "return ", "value", "index", "(", ")", " = ", ";\n", "    ",
            "match ", "error", "&mut ", "pub ", "count",
        ];
        let mut text = Vec::with_capacity(len + 16);
        while text.len() < len {
            match self.below(4) {
                0 => text.extend(format!("name_{} ", self.below(5_000)).bytes()),
                _ => text.extend(WORDS[self.below(WORDS.len())].bytes()),
            }
        }
        text.truncate(len);
        text
    }

    pub(crate) fn noise(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len / 8).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.resize(len, 0);
        bytes
    }
}

/// 5,000 files in 400 folders; most have a few KiB, one in a hundred 100.
pub(crate) fn make_tree(root: &Path) {
    let mut seeded = Seeded(42);
    for at in 0..FILES {
        let folder = seeded.below(400);
        let folder = root.join(format!("top{}/part{}/d{folder}", folder % 10, folder % 40));
        std::fs::create_dir_all(&folder).unwrap();
        let len = match seeded.below(100) {
            0 => 100_000,
            few => 200 + seeded.below(120 * few),
        };
        std::fs::write(folder.join(format!("file{at}.rs")), seeded.source(len)).unwrap();
    }
}

/// Knows ids and keeps nothing: what is left is the work of the stage itself.
#[derive(Default)]
pub(crate) struct Known(Mutex<HashSet<ObjectId>>);

impl ObjectSink for Known {
    fn put(&self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId, StoreError> {
        let id = ObjectId::of(kind, bytes);
        self.0.lock().unwrap().insert(id);
        Ok(id)
    }
}

impl ObjectSource for Known {
    fn read(&self, _: &ObjectId) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn contains(&self, id: &ObjectId) -> Result<bool, StoreError> {
        Ok(self.0.lock().unwrap().contains(id))
    }
}

/// The tree on the disk and in a vault, once for all stages.
pub(crate) struct Fixture {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) tree: PathBuf,
    pub(crate) store: Store,
    pub(crate) snapshot: SnapshotId,
    pub(crate) root: TreeId,
    pub(crate) bytes: u64,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        make_tree(&tree);
        let store = Store::open(&folder.path().join("store")).unwrap();
        let intake = vault_of(&store).intake();
        let scanned = scan_into(&tree, &StatCache::default(), &intake);
        let (root, bytes) = (scanned.root, scanned.sums.bytes);
        let snapshot = put_snapshot(&intake, DEVICE, root, 1);
        intake.commit(update(None, snapshot, 1)).unwrap();
        // As it is found later: in segments, and not in memory.
        store.fold().unwrap();
        Self { folder, tree, store, snapshot, root, bytes }
    }

    /// The file that is edited; who edits it puts it back.
    pub(crate) fn edited(&self) -> PathBuf {
        let mut files = std::fs::read_dir(self.tree.join(EDITED)).unwrap();
        files.next().unwrap().unwrap().path()
    }

    pub(crate) fn vault(&self) -> Vault {
        vault_of(&self.store)
    }
}

pub(crate) fn vault_of(store: &Store) -> Vault {
    store.vault(VaultId::from_bytes([1; 16])).unwrap()
}

pub(crate) fn scan_into<S: ObjectSource + ObjectSink>(
    tree: &Path,
    cache: &StatCache,
    sink: &S,
) -> Scanned {
    // Long after the files came to rest, so that the next scan believes the cache.
    let options = ScanOptions { started_at_ns: i64::MAX, ..ScanOptions::default() };
    let scanned = scan(tree, cache, sink, &options, &Progress::default()).unwrap();
    cache.end_scan();
    scanned
}

pub(crate) fn put_snapshot(
    intake: &Intake,
    device: DeviceId,
    root: TreeId,
    sequence: u64,
) -> SnapshotId {
    let snapshot = Snapshot {
        workspace: WORKSPACE,
        device,
        sequence,
        parents: Vec::new(),
        root,
        root_mode: 0o755,
        omitted: None,
        git: None,
        conversations: Vec::new(),
        created_at: 0,
        message: String::new(),
    };
    let id = intake.put(ObjectKind::Snapshot, &snapshot.encode()).unwrap();
    SnapshotId::from_bytes(id.hash)
}

pub(crate) fn update(expected: Option<SnapshotId>, new: SnapshotId, sequence: u64) -> RefUpdate {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&sequence.to_le_bytes());
    let key = IdempotencyKey::from_bytes(key);
    RefUpdate { workspace: WORKSPACE, device: DEVICE, expected, new, sequence, key }
}
