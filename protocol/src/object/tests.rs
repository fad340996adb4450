//! Every object: a round trip, and one byte string for each value.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::arbitrary::{self, mutated};
use crate::path::RelPath;

/// What a decoder accepts it writes again, byte for byte.
fn is_canonical<T>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> Result<(), TestCaseError> {
    if let Ok(value) = decode(bytes) {
        prop_assert_eq!(encode(&value), bytes);
    }
    Ok(())
}

macro_rules! properties {
    ($($module:ident: $type:ident from $strategy:expr;)*) => {$(
        mod $module {
            use super::*;

            proptest! {
                #[test]
                fn round_trips(value in $strategy) {
                    let bytes = value.encode();
                    prop_assert_eq!($type::decode(&bytes), Ok(value));
                }

                #[test]
                fn every_cut_is_refused(value in $strategy, at: prop::sample::Index) {
                    let bytes = value.encode();
                    prop_assert!($type::decode(&bytes[..at.index(bytes.len())]).is_err());
                }

                #[test]
                fn any_bytes_are_refused_or_canonical(bytes in vec(any::<u8>(), 0..200)) {
                    is_canonical(&bytes, $type::decode, $type::encode)?;
                }

                #[test]
                fn changed_bytes_are_refused_or_canonical(
                    bytes in mutated($strategy.prop_map(|value| value.encode())),
                ) {
                    is_canonical(&bytes, $type::decode, $type::encode)?;
                }
            }
        }
    )*};
}

properties! {
    a_manifest: Manifest from arbitrary::manifest();
    a_tree: Tree from arbitrary::tree();
    a_conversation: Conversation from arbitrary::conversation();
    a_snapshot: Snapshot from arbitrary::snapshot();
    a_git_state: GitState from arbitrary::git::state();
    a_list_of_git_objects: GitOids from arbitrary::git::oids();
    a_list_of_refs: GitRefs from arbitrary::git::refs();
    an_index: GitIndex from arbitrary::git::index();
    a_list_of_settings: GitSettings from arbitrary::git::settings();
    a_list_of_files: GitFiles from arbitrary::git::files();
    a_list_of_git_omissions: GitOmissions from arbitrary::git::omissions();
    a_list_of_omissions: Omissions from arbitrary::omissions();
}

/// The changed bytes above must often still decode, or they show nothing.
#[test]
fn changes_are_small_enough_to_pass_sometimes() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let strategy = mutated(arbitrary::tree().prop_map(|tree| tree.encode()));
    let passed = (0..1000)
        .filter(|_| Tree::decode(&strategy.new_tree(&mut runner).unwrap().current()).is_ok())
        .count();
    assert!((10..990).contains(&passed), "{passed} of 1000");
}

#[test]
fn what_no_encoder_writes_is_refused() {
    let blob = [vec![5], vec![1; 32]].concat();
    let file =
        |mode: &[u8], name: &[u8]| [&[0][..], mode, &[name.len() as u8], name, &blob].concat();
    let leaf = |entries: &[Vec<u8>]| [vec![0, entries.len() as u8], entries.concat()].concat();
    assert!(Tree::decode(&leaf(&[file(&[7], b"a"), file(&[7], b"b")])).is_ok());
    let refused = [
        leaf(&[file(&[7], b"b"), file(&[7], b"a")]),
        leaf(&[file(&[7], b"a"), file(&[7], b"a")]),
        leaf(&[file(&[0x80, 0x04], b"a")]), // mode 0o1000
        leaf(&[file(&[0x87, 0x00], b"a")]), // a mode that is not in its shortest form
        leaf(&[file(&[7], b"..")]),
        leaf(&[file(&[7], b"a/b")]),
        leaf(&[file(&[7], b"")]),
        leaf(&[[vec![1, 1, b'l', 0], vec![1; 32]].concat()]), // a symlink to nothing
        leaf(&[[vec![3, 7, 1, b'x'], blob.clone()].concat()]), // no such kind
        [vec![9, 2], vec![0; 80]].concat(),                   // no such level
        [vec![1, 1, 1, b'a'], vec![0; 34]].concat(),          // a node of one child
        [leaf(&[file(&[7], b"a")]), vec![0]].concat(),
    ];
    for (at, bytes) in refused.iter().enumerate() {
        assert!(Tree::decode(bytes).is_err(), "number {at}");
    }
}

/// The bytes of a snapshot, of which `change` spoils one value before they are written.
fn snapshot_with(change: impl FnOnce(&mut Snapshot)) -> Vec<u8> {
    let id = |byte| crate::id::SnapshotId::from_bytes([byte; 32]);
    let mut snapshot = Snapshot {
        workspace: crate::id::WorkspaceId::from_bytes([1; 16]),
        device: crate::id::DeviceId::from_bytes([2; 32]),
        sequence: 1,
        parents: vec![id(1), id(2)],
        root: crate::id::TreeId::from_bytes([3; 32]),
        root_mode: 0o755,
        omitted: None,
        git: None,
        conversations: Vec::new(),
        created_at: 0,
        message: "m".into(),
    };
    change(&mut snapshot);
    snapshot.encode()
}

#[test]
fn snapshots_that_no_device_makes_are_refused() {
    let id = crate::id::ConversationId::from_bytes([5; 32]);
    assert!(Snapshot::decode(&snapshot_with(|_| {})).is_ok());
    let refused = [
        snapshot_with(|it| it.sequence = 0),
        snapshot_with(|it| it.root_mode = 0o1000),
        snapshot_with(|it| it.parents[1] = it.parents[0]),
        snapshot_with(|it| it.conversations = vec![id, id]),
        snapshot_with(|it| it.message = "x".repeat(16 * 1024 + 1)),
        snapshot_with(|it| {
            let parent = |byte| crate::id::SnapshotId::from_bytes([byte; 32]);
            it.parents = (0..17).map(parent).collect();
        }),
        // No text, another version, a flag that is neither yes nor no.
        [&snapshot_with(|_| {})[..snapshot_with(|_| {}).len() - 1], &[0xff]].concat(),
        [&[2], &snapshot_with(|_| {})[1..]].concat(),
        {
            let mut bytes = snapshot_with(|_| {});
            let flag = 1 + 16 + 32 + 1 + 1 + 2 * 32 + 32 + 2;
            assert_eq!(bytes[flag], 0);
            bytes[flag] = 2;
            bytes
        },
    ];
    for (at, bytes) in refused.iter().enumerate() {
        assert!(Snapshot::decode(bytes).is_err(), "number {at}");
    }
}

#[test]
fn lists_out_of_order_or_with_repeats_are_refused() {
    let omission =
        |path: &str, reason| Omission { path: RelPath::new(path.as_bytes()).unwrap(), reason };
    let [a, b] = [omission("a", OmitReason::Secret), omission("b", OmitReason::Special)];
    let twice = omission("a", OmitReason::Torn);
    assert!(Omissions::decode(&Omissions(vec![a.clone(), twice, b.clone()]).encode()).is_ok());
    assert!(Omissions::decode(&Omissions(vec![a.clone(), a.clone()]).encode()).is_err());
    assert!(Omissions::decode(&Omissions(vec![b, a]).encode()).is_err());
    assert!(Omissions::decode(&[1, 9, 1, b'a']).is_err());

    let child = |first: &str| TreeChild {
        first: first.into(),
        id: crate::id::TreeId::from_bytes([0; 32]),
        below: TreeSums::default(),
    };
    let node = |children: &[&str]| Tree::Node {
        level: 1,
        children: children.iter().map(|name| child(name)).collect(),
    };
    assert!(Tree::decode(&node(&["a", "b"]).encode()).is_ok());
    assert!(Tree::decode(&node(&["a", "a"]).encode()).is_err());
    assert!(Tree::decode(&node(&["b", "a"]).encode()).is_err());

    let part = |path: &str| Part {
        path: RelPath::new(path.as_bytes()).unwrap(),
        blob: Blob { size: 0, content: Content::Chunk(ChunkId::from_bytes([0; 32])) },
    };
    let conversation = |parts: &[&str]| Conversation {
        agent: String::new(),
        session: String::new(),
        messages: 0,
        transcript: Vec::new(),
        attachments: parts.iter().map(|path| part(path)).collect(),
    };
    assert!(Conversation::decode(&conversation(&["a", "b"]).encode()).is_ok());
    for parts in [["a", "a"], ["b", "a"]] {
        assert!(Conversation::decode(&conversation(&parts).encode()).is_err());
    }
    assert!(Conversation::decode(&conversation(&[""]).encode()).is_err());
}

#[test]
fn a_conversation_that_no_buffer_holds_is_refused() {
    let part = |i: usize| Part {
        path: RelPath::new(format!("{i:04}/{}", vec!["x".repeat(250); 16].join("/")).as_bytes())
            .unwrap(),
        blob: Blob { size: 0, content: Content::Chunk(ChunkId::from_bytes([0; 32])) },
    };
    let with = |count| Conversation {
        agent: "a".into(),
        session: "s".into(),
        messages: 0,
        transcript: (0..count).map(part).collect(),
        attachments: Vec::new(),
    };
    assert!(Conversation::decode(&with(100).encode()).is_ok());
    assert!(matches!(
        Conversation::decode(&with(200).encode()),
        Err(DecodeError::Limit { what: "conversation length", .. })
    ));
}

#[test]
fn the_largest_tree_node_is_an_object() {
    let entry = |i: usize| Entry {
        name: [format!("{i:04}").into_bytes(), vec![b'x'; 251]].concat(),
        kind: EntryKind::Directory {
            mode: 0o777,
            tree: crate::id::TreeId::from_bytes([0xff; 32]),
            below: TreeSums { files: u64::MAX, bytes: u64::MAX },
        },
    };
    let bytes = Tree::Leaf((0..TREE_NODE_MAX).map(entry).collect()).encode();
    assert_eq!(bytes.len(), 319_491);
    assert!(bytes.len() <= MAX_OBJECT && Tree::decode(&bytes).is_ok());
}
