//! What a push plans to send.

use std::collections::HashMap;

use baton_protocol::id::{DeviceId, ObjectKind, TreeId, WorkspaceId};
use baton_protocol::object::{Entry, EntryKind, Object, Tree, build_tree};
use baton_protocol::path::RelPath;

use super::*;
use crate::chunk::store_bytes;
use crate::objects::ObjectSink;
use crate::objects::memory::MemoryObjects;
use crate::snapshot::store_snapshot;

/// A tree by path; directories come from the paths.
type Files = std::collections::BTreeMap<String, Vec<u8>>;

fn store(objects: &MemoryObjects, files: &Files) -> SnapshotId {
    let EntryKind::Directory { tree, .. } = directory(objects, files) else { panic!() };
    snapshot(objects, tree, Vec::new(), None)
}

fn snapshot(
    objects: &MemoryObjects,
    root: TreeId,
    conversations: Vec<ConversationId>,
    omitted: Option<Blob>,
) -> SnapshotId {
    let snapshot = Snapshot {
        workspace: WorkspaceId::from_bytes([1; 16]),
        device: DeviceId::from_bytes([2; 32]),
        sequence: 1,
        parents: Vec::new(),
        root,
        root_mode: 0o755,
        omitted,
        git: None,
        conversations,
        created_at: 0,
        message: String::new(),
    };
    store_snapshot(&snapshot, objects).unwrap()
}

fn directory(objects: &MemoryObjects, files: &Files) -> EntryKind {
    let mut below: std::collections::BTreeMap<&str, Files> = std::collections::BTreeMap::new();
    let mut entries = Vec::new();
    for (path, bytes) in files {
        if let Some((name, rest)) = path.split_once('/') {
            below.entry(name).or_default().insert(rest.to_owned(), bytes.clone());
        } else {
            let blob = store_bytes(bytes, objects).unwrap();
            let kind = EntryKind::File { mode: 0o644, blob };
            entries.push(Entry { name: path.as_bytes().to_vec(), kind });
        }
    }
    entries.extend(below.into_iter().map(|(name, files)| Entry {
        name: name.as_bytes().to_vec(),
        kind: directory(objects, &files),
    }));
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let put = |_, _: &Tree, bytes: Vec<u8>| objects.put(ObjectKind::Tree, &bytes).map(|_| ());
    let (tree, below) = build_tree(entries, put).unwrap();
    EntryKind::Directory { mode: 0o755, tree, below }
}

fn closure(objects: &MemoryObjects, root: ObjectId) -> HashMap<ObjectId, Vec<ObjectId>> {
    let mut found = HashMap::new();
    let mut left = vec![root];
    while let Some(id) = left.pop() {
        if found.contains_key(&id) {
            continue;
        }
        let children = Object::decode(id.kind, &objects.require(&id).unwrap()).unwrap().children();
        left.extend(&children);
        found.insert(id, children);
    }
    found
}

/// The plan brings a node from the base to the new snapshot, with nothing twice and what is
/// found in an object before that. Returns it.
fn check(objects: &MemoryObjects, base: SnapshotId, new: SnapshotId) -> Vec<Planned> {
    let plan = plan_push(objects, Some(base), new).unwrap();
    let has = closure(objects, base.into());
    let needs = closure(objects, new.into());
    let mut sent = std::collections::HashSet::new();
    let mut named = std::collections::HashSet::from([ObjectId::from(new)]);
    for planned in plan.iter().rev() {
        assert!(needs.contains_key(&planned.id), "{planned:?} is not needed");
        assert!(!has.contains_key(&planned.id), "{planned:?} is there already");
        assert!(sent.insert(planned.id), "{planned:?} is planned twice");
        assert!(named.contains(&planned.id), "{planned:?} comes after what it is found in");
        named.extend(&needs[&planned.id]);
        if let Some(base) = planned.base {
            assert!(has.contains_key(&base), "the base of {planned:?} is not there");
            assert_eq!(base.kind, planned.id.kind);
        }
    }
    for id in needs.keys() {
        assert!(sent.contains(id) || has.contains_key(id), "{id:?} is missing");
    }
    plan
}

fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn files(list: &[(&str, &[u8])]) -> Files {
    list.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect()
}

#[test]
fn one_edit_is_the_way_down_to_it_each_against_its_older_form() {
    let o = MemoryObjects::default();
    let mut tree = files(&[("a/b/f", b"one"), ("a/g", b"two"), ("c/h", b"three")]);
    let base = store(&o, &tree);
    tree.insert("a/b/f".to_owned(), b"new".to_vec());
    let plan = check(&o, base, store(&o, &tree));
    let (s, t, chunk) = (ObjectKind::Snapshot, ObjectKind::Tree, ObjectKind::Chunk);
    let kinds: Vec<_> = plan.iter().map(|planned| planned.id.kind).collect();
    assert_eq!(kinds, [chunk, t, t, t, s]);
    assert!(plan.iter().all(|planned| planned.base.is_some()));
}

#[test]
fn what_was_renamed_is_not_sent_again() {
    let o = MemoryObjects::default();
    let base = store(&o, &files(&[("a/b/f", b"one"), ("a/g", b"two"), ("h", b"three")]));
    let new = store(&o, &files(&[("z/b/f", b"one"), ("z/g", b"two"), ("y", b"three")]));
    // The snapshot and its root: `z` is what `a` was.
    assert_eq!(check(&o, base, new).len(), 2);
}

#[test]
fn what_was_moved_and_edited_goes_against_what_it_was() {
    let o = MemoryObjects::default();
    let base = store(
        &o,
        &files(&[("a/f.rs", b"one"), ("a/g.rs", b"two"), ("d/x/h", b"three"), ("d/i", b"four")]),
    );
    let chunk = |bytes: &[u8]| ObjectId::of(ObjectKind::Chunk, bytes);
    let base_of = |list: &[(&str, &[u8])], bytes: &[u8]| {
        let plan = check(&o, base, store(&o, &files(list)));
        plan.iter().find(|planned| planned.id == chunk(bytes)).unwrap().base
    };
    let rest: [(&str, &[u8]); 2] = [("d/x/h", b"three"), ("d/i", b"four")];
    // Elsewhere, and under a name that is more like one than the other.
    let moved = [&rest[..], &[("b/g.rs", b"two!"), ("a/f.rs", b"one")]].concat();
    assert_eq!(base_of(&moved, b"two!"), Some(chunk(b"two")));
    let renamed = [&rest[..], &[("a/ff.rs", b"one!")]].concat();
    assert_eq!(base_of(&renamed, b"one!"), Some(chunk(b"one")));
    let other = [&rest[..], &[("a/g.txt", b"two!")]].concat();
    assert_eq!(base_of(&other, b"two!"), None);
    // A file in a directory that was moved; what was not edited there does not travel.
    let kept: [(&str, &[u8]); 2] = [("a/f.rs", b"one"), ("a/g.rs", b"two")];
    let moved = [&kept[..], &[("e/d/x/h", b"three!"), ("e/d/i", b"four")]].concat();
    assert_eq!(base_of(&moved, b"three!"), Some(chunk(b"three")));
}

#[test]
fn a_large_file_goes_as_the_chunks_that_changed() {
    let o = MemoryObjects::default();
    let mut big = noise(5 << 20, 1);
    let base = store(&o, &files(&[("big", &big)]));
    big[3 << 20] ^= 1;
    let plan = check(&o, base, store(&o, &files(&[("big", &big)])));
    assert!(plan.len() <= 6, "{}", plan.len());
    assert!(plan.iter().all(|planned| planned.base.is_some()));
    // From one chunk to many and back.
    let small = store(&o, &files(&[("big", &big[..1000])]));
    let plan = check(&o, base, small);
    assert!(plan.first().is_some_and(|planned| planned.base.is_some()));
    check(&o, small, base);
}

#[test]
fn a_wide_directory_goes_as_the_node_that_changed() {
    let o = MemoryObjects::default();
    let mut tree: Files =
        (0..20_000).map(|i| (format!("d/{i:05}"), format!("{i}").into_bytes())).collect();
    let base = store(&o, &tree);
    tree.insert("d/07777".to_owned(), b"edited".to_vec());
    tree.insert("d/09999x".to_owned(), b"added".to_vec());
    let plan = check(&o, base, store(&o, &tree));
    assert!(plan.len() <= 9, "{}", plan.len());
    assert!(plan.iter().filter(|p| p.id.kind == ObjectKind::Tree).all(|p| p.base.is_some()));
    // From one node to many and back.
    let few: Files = tree.iter().take(10).map(|(a, b)| (a.clone(), b.clone())).collect();
    let few = store(&o, &few);
    check(&o, few, base);
    check(&o, base, few);
}

#[test]
fn conversations_and_omissions_go_against_their_older_form() {
    let o = MemoryObjects::default();
    let conversation = |messages, text: &[u8]| {
        let part = |bytes: &[u8]| Part {
            path: RelPath::new(b"session.jsonl").unwrap(),
            blob: store_bytes(bytes, &o).unwrap(),
        };
        let conversation = Conversation {
            agent: "claude".to_owned(),
            session: "s".to_owned(),
            messages,
            transcript: vec![part(text)],
            attachments: Vec::new(),
        };
        let id = o.put(ObjectKind::Conversation, &conversation.encode()).unwrap();
        ConversationId::from_bytes(id.hash)
    };
    let EntryKind::Directory { tree, .. } = directory(&o, &Files::new()) else { panic!() };
    let omitted = |bytes: &[u8]| Some(store_bytes(bytes, &o).unwrap());
    let base = snapshot(&o, tree, vec![conversation(1, b"one")], omitted(b"list"));
    let new = snapshot(&o, tree, vec![conversation(2, b"one two")], omitted(b"longer list"));
    let plan = check(&o, base, new);
    assert_eq!(plan.len(), 4);
    assert!(plan.iter().all(|planned| planned.base.is_some()));
}

#[test]
fn without_a_base_the_node_asks() {
    let o = MemoryObjects::default();
    let base = store(&o, &files(&[("a/f", b"one")]));
    let new = store(&o, &files(&[("a/f", b"two")]));
    assert_eq!(plan_push(&o, None, new).unwrap().len(), 2);
    let gone = SnapshotId::of(b"gone");
    assert_eq!(plan_push(&o, Some(gone), new).unwrap().len(), 2);
    let tree = load_snapshot(&o, base).unwrap().root;
    o.0.lock().unwrap().remove(&tree.into());
    assert_eq!(plan_push(&o, Some(base), new).unwrap().len(), 2);
    assert!(plan_push(&o, None, gone).unwrap_err().is_corruption());
}
