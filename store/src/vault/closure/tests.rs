//! What a walk believes, and what it does not.

use baton_protocol::id::{ChunkId, ConversationId, ManifestId, SnapshotId, TreeId, VaultId};
use baton_protocol::object::{Entry, Extent, ManifestChild, Part, TreeChild};
use baton_protocol::path::RelPath;

use super::*;
use crate::journal::RefUpdate;
use crate::objects::ObjectSink;
use crate::store::Store;
use crate::vault::{CommitError, Intake};

const LIMIT: usize = 100;

struct Home {
    _folder: tempfile::TempDir,
    store: Store,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        Self { _folder: folder, store }
    }

    fn intake(&self) -> Intake {
        self.store.vault(VaultId::from_bytes([1; 16])).unwrap().intake()
    }
}

fn chunk(intake: &Intake, bytes: &[u8]) -> ChunkId {
    ChunkId::from_bytes(intake.put(ObjectKind::Chunk, bytes).unwrap().hash)
}

fn manifest(intake: &Intake, manifest: &Manifest) -> ManifestId {
    ManifestId::from_bytes(intake.put(ObjectKind::Manifest, &manifest.encode()).unwrap().hash)
}

fn tree(intake: &Intake, tree: &Tree) -> TreeId {
    TreeId::from_bytes(intake.put(ObjectKind::Tree, &tree.encode()).unwrap().hash)
}

fn leaf(intake: &Intake, entries: Vec<(&str, EntryKind)>) -> TreeId {
    let entries = entries.into_iter().map(|(name, kind)| Entry { name: name.into(), kind });
    tree(intake, &Tree::Leaf(entries.collect()))
}

fn file(size: u64, content: Content) -> EntryKind {
    EntryKind::File { mode: 0o644, blob: Blob { size, content } }
}

fn directory(tree: TreeId, files: u64, bytes: u64) -> EntryKind {
    EntryKind::Directory { mode: 0o755, tree, below: TreeSums { files, bytes } }
}

/// A manifest of two chunks of 200,000 bytes.
fn two_chunks(intake: &Intake) -> ManifestId {
    let extents =
        [1, 2].map(|byte| Extent { len: 200_000, chunk: chunk(intake, &vec![byte; 200_000]) });
    manifest(intake, &Manifest::Leaf(extents.to_vec()))
}

fn walk(intake: &Intake, root: TreeId) -> Result<Vec<ObjectId>, StoreError> {
    intake.missing(root.into(), LIMIT)
}

#[test]
fn what_is_said_of_an_object_must_be_true() {
    let home = Home::new();
    let intake = home.intake();
    let one = Content::Chunk(chunk(&intake, b"1"));
    let long = two_chunks(&intake);
    let run = |len, level| {
        let children = vec![ManifestChild { len, id: long }; 2];
        manifest(&intake, &Manifest::Node { level, children })
    };
    let (true_run, short_run) = (run(400_000, 1), run(399_999, 1));
    let upside_down = {
        let children = vec![ManifestChild { len: 800_000, id: true_run }; 2];
        manifest(&intake, &Manifest::Node { level: 1, children })
    };
    let a = leaf(&intake, vec![("a", file(1, one))]);
    let b = leaf(&intake, vec![("b", file(1, one))]);
    let wide = |level, second: &str, files| {
        let child = |first: &str, id, files| TreeChild {
            first: first.into(),
            id,
            below: TreeSums { files, bytes: files },
        };
        let children = vec![child("a", a, 1), child(second, b, files)];
        tree(&intake, &Tree::Node { level, children })
    };
    let nested = {
        let below = TreeSums { files: 2, bytes: 2 };
        let last = leaf(&intake, vec![("z", file(1, one))]);
        let children = vec![
            TreeChild { first: b"a".to_vec(), id: wide(1, "b", 1), below },
            TreeChild { first: b"z".to_vec(), id: last, below: TreeSums { files: 1, bytes: 1 } },
        ];
        move |level| Tree::Node { level, children: children.clone() }
    };
    let blob = |size, id| file(size, Content::Manifest(id));
    let cases: [(&str, EntryKind, bool); 16] = [
        ("a chunk", file(1, one), true),
        ("a longer chunk", file(2, one), false),
        ("no bytes", file(0, one), false),
        ("a manifest", blob(400_000, long), true),
        ("a longer manifest", blob(400_001, long), false),
        ("a manifest of two", blob(800_000, true_run), true),
        ("of two that are longer", blob(799_998, short_run), false),
        ("of two of its own level", blob(1_600_000, upside_down), false),
        ("a directory", directory(a, 1, 1), true),
        ("of more files", directory(a, 2, 1), false),
        ("of more bytes", directory(a, 1, 2), false),
        ("a wide directory", directory(wide(1, "b", 1), 2, 2), true),
        ("with another first name", directory(wide(1, "c", 1), 2, 2), false),
        ("with other sums", directory(wide(1, "b", 2), 3, 3), false),
        ("a wider directory", directory(tree(&intake, &nested(2)), 3, 3), true),
        ("with a node of its own level", directory(tree(&intake, &nested(1)), 3, 3), false),
    ];
    for (what, kind, holds) in cases {
        let root = leaf(&intake, vec![("x", kind)]);
        // Asked twice: a contradiction is not forgotten.
        for _ in 0..2 {
            match walk(&intake, root) {
                Ok(missing) => assert!(holds && missing.is_empty(), "{what}"),
                Err(StoreError::Contradicted(_)) => assert!(!holds, "{what}"),
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }
}

#[test]
fn what_was_closed_before_is_still_compared() {
    let home = Home::new();
    let intake = home.intake();
    let one = Content::Chunk(chunk(&intake, b"1"));
    let (inner, long) = (leaf(&intake, vec![("f", file(1, one))]), two_chunks(&intake));
    let blob = file(400_000, Content::Manifest(long));
    let root = leaf(&intake, vec![("d", directory(inner, 1, 1)), ("m", blob)]);
    intake.keep(&[root.into()]).unwrap();
    for fold in [false, true] {
        if fold {
            home.store.fold().unwrap();
        }
        let intake = home.intake();
        let again = leaf(&intake, vec![("d", directory(inner, 1, 1)), ("e", blob)]);
        assert_eq!(walk(&intake, again).unwrap(), []);
        for lie in [
            directory(inner, 9, 1),
            file(400_001, Content::Manifest(long)),
            file(2, one),
            EntryKind::Symlink { target: Blob { size: 7, content: one } },
        ] {
            let lying = leaf(&intake, vec![("l", lie)]);
            assert!(matches!(walk(&intake, lying), Err(StoreError::Contradicted(_))), "{lie:?}");
        }
    }
}

#[test]
fn a_lie_about_what_comes_later_is_found_when_it_comes() {
    let home = Home::new();
    let intake = home.intake();
    let late = Content::Chunk(ChunkId::of(b"late"));
    // The first mention is true, the second is not.
    let root = leaf(&intake, vec![("a", file(5, late)), ("b", file(4, late))]);
    assert_eq!(walk(&intake, root).unwrap(), [late.id()]);
    assert_eq!(walk(&intake, root).unwrap(), [late.id()]);
    chunk(&intake, b"late");
    assert!(matches!(walk(&intake, root), Err(StoreError::Contradicted(_))));
}

#[test]
fn every_child_is_named() {
    let blob = |byte, size| {
        let content = if size > 300_000 {
            Content::Manifest(ManifestId::from_bytes([byte; 32]))
        } else {
            Content::Chunk(ChunkId::from_bytes([byte; 32]))
        };
        Blob { size, content }
    };
    let part = |byte| Part { path: RelPath::new(b"p").unwrap(), blob: blob(byte, 3) };
    let entry = |name: &str, kind| Entry { name: name.into(), kind };
    let id = TreeId::from_bytes([9; 32]);
    let extent = Extent { len: 5, chunk: ChunkId::from_bytes([8; 32]) };
    let run = ManifestChild { len: 5, id: ManifestId::from_bytes([7; 32]) };
    let node = TreeChild { first: b"a".to_vec(), id, below: TreeSums::default() };
    let objects = [
        Object::Chunk,
        Object::Manifest(Manifest::Leaf(vec![extent; 3])),
        Object::Manifest(Manifest::Node { level: 1, children: vec![run; 3] }),
        Object::Tree(Tree::Leaf(vec![
            entry("a", EntryKind::File { mode: 0, blob: blob(1, 400_000) }),
            entry("b", EntryKind::Symlink { target: blob(2, 3) }),
            entry("c", directory(id, 1, 1)),
        ])),
        Object::Tree(Tree::Node { level: 1, children: vec![node.clone(), node] }),
        Object::Conversation(Conversation {
            agent: String::new(),
            session: String::new(),
            messages: 0,
            transcript: vec![part(1), part(2)],
            attachments: vec![part(3)],
        }),
        Object::Snapshot(Snapshot {
            workspace: baton_protocol::id::WorkspaceId::from_bytes([1; 16]),
            device: baton_protocol::id::DeviceId::from_bytes([1; 32]),
            sequence: 1,
            parents: vec![SnapshotId::from_bytes([1; 32])],
            root: id,
            root_mode: 0,
            omitted: Some(blob(4, 9)),
            git: Some(baton_protocol::id::GitStateId::from_bytes([6; 32])),
            conversations: vec![ConversationId::from_bytes([5; 32])],
            created_at: 0,
            message: String::new(),
        }),
    ];
    for object in objects {
        let mut ids: Vec<_> = children(&object).into_iter().map(|child| child.id).collect();
        let mut wanted = object.children();
        ids.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(ids, wanted, "{object:?}");
    }
}

/// Puts a snapshot of a directory, and makes its ref point there.
fn commit(
    intake: Intake,
    root: TreeId,
    before: Option<SnapshotId>,
) -> Result<SnapshotId, CommitError> {
    let workspace = baton_protocol::id::WorkspaceId::from_bytes([1; 16]);
    let device = baton_protocol::id::DeviceId::from_bytes([1; 32]);
    let sequence = 1 + u64::from(before.is_some());
    let snapshot = Snapshot {
        workspace,
        device,
        sequence,
        parents: before.into_iter().collect(),
        root,
        root_mode: 0o755,
        omitted: None,
        git: None,
        conversations: Vec::new(),
        created_at: 0,
        message: String::new(),
    };
    let new = SnapshotId::from_bytes(intake.put(ObjectKind::Snapshot, &snapshot.encode())?.hash);
    let key = baton_protocol::id::IdempotencyKey::from_bytes([sequence as u8; 16]);
    intake.commit(RefUpdate { workspace, device, expected: before, new, sequence, key })?;
    Ok(new)
}

#[test]
fn what_an_older_form_proves_is_believed_and_what_it_does_not_is_looked_at() {
    let home = Home::new();
    let intake = home.intake();
    let names: Vec<String> = (0..200).map(|i| format!("f{i:03}")).collect();
    let chunks: Vec<ChunkId> = names.iter().map(|name| chunk(&intake, name.as_bytes())).collect();
    let entries = |changed: Option<(usize, u64, ChunkId)>| {
        let entry = |(at, (name, id)): (usize, (&String, &ChunkId))| match changed {
            Some((which, size, id)) if which == at => {
                (name.clone(), file(size, Content::Chunk(id)))
            }
            _ => (name.clone(), file(4, Content::Chunk(*id))),
        };
        names.iter().zip(&chunks).enumerate().map(entry).collect::<Vec<_>>()
    };
    let put = |intake: &Intake, changed| {
        let entries = entries(changed);
        let entries = entries.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
        leaf(intake, entries)
    };
    let first = put(&intake, None);
    let before = commit(intake, first, None).unwrap();
    let second = || {
        let intake = home.intake();
        let new = chunk(&intake, b"other");
        (intake, new)
    };
    // Of a file that both name alike another length is said.
    let (intake, _) = second();
    let root = put(&intake, Some((7, 5, chunks[7])));
    let lie = commit(intake, root, Some(before)).unwrap_err();
    assert!(matches!(lie, CommitError::Store(StoreError::Contradicted(_))), "{lie}");
    // A file that is not here.
    let (intake, _) = second();
    let root = put(&intake, Some((7, 5, ChunkId::of(b"never put"))));
    let lack = commit(intake, root, Some(before)).unwrap_err();
    assert!(matches!(&lack, CommitError::Missing(ids) if ids.len() == 1), "{lack}");
    // An honest edit, of which one file is looked at.
    let (intake, new) = second();
    let root = put(&intake, Some((7, 5, new)));
    commit(intake, root, Some(before)).unwrap();
}
