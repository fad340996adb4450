//! Fetches from a node that answers well, badly, or not at all.

use std::collections::VecDeque;

use super::*;
use crate::id::SnapshotId;
use crate::message::WireId;
use crate::object::MAX_CHUNK;
use crate::session::model::{Files, Objects};

/// What a node puts on the stream.
#[derive(Clone, Debug)]
enum Sent {
    Object(ObjectKind, Vec<u8>),
    End(FetchReply),
}

fn answer(vault: &Objects, FetchRequest::Want(ids): FetchRequest) -> Vec<Sent> {
    let mut answer = Vec::new();
    for id in ids {
        let id = id.id().unwrap();
        let Some(bytes) = vault.0.get(&id) else {
            let sent = answer.len() as u32;
            answer.push(Sent::End(FetchReply::Done { sent, absent: Some(id.into()) }));
            return answer;
        };
        answer.push(Sent::Object(id.kind, bytes.clone()));
    }
    let sent = answer.len() as u32;
    answer.push(Sent::End(FetchReply::Done { sent, absent: None }));
    answer
}

/// Fetches `root` from `vault`; `spoil` may change what the node sends.
fn fetch(
    vault: &Objects,
    root: ObjectId,
    mut spoil: impl FnMut(&mut VecDeque<Sent>),
) -> Result<Objects, FetchError> {
    let mut session = FetchSession::new();
    session.want(root);
    let mut here = Objects::default();
    let mut asked = HashSet::new();
    let mut stream = VecDeque::new();
    while !session.is_done() {
        let mut under_way = 0;
        while let Some(request) = session.request() {
            let FetchRequest::Want(ids) = &request;
            assert!(ids.len() <= PER_REQUEST && !ids.is_empty());
            for id in ids {
                assert!(asked.insert(id.id().unwrap()), "asked twice");
            }
            stream.extend(answer(vault, request));
            under_way += 1;
            assert!(under_way <= IN_FLIGHT);
        }
        spoil(&mut stream);
        match stream.pop_front().expect("the session waits for nothing") {
            Sent::Object(kind, bytes) => {
                let (id, children) = session.accept(kind, &bytes)?;
                here.0.insert(id, bytes);
                for child in children {
                    session.want(child);
                }
            }
            Sent::End(reply) => session.end(&reply)?,
        }
    }
    assert_eq!(session.outstanding(), 0);
    assert_eq!(session.received(), here.0.len() as u64);
    Ok(here)
}

fn vault() -> (Objects, SnapshotId) {
    let mut vault = Objects::default();
    let mut files: Files =
        (0..3000).map(|i| (format!("d{}/f{i}", i % 5), i.to_string().into_bytes())).collect();
    files.insert("big".into(), vec![7; MAX_CHUNK * 3]);
    let snapshot = vault.snapshot(&files, Vec::new(), 1);
    (vault, snapshot)
}

#[test]
fn a_snapshot_comes_whole_and_each_object_once() {
    let (vault, snapshot) = vault();
    let here = fetch(&vault, snapshot.into(), |_| {}).unwrap();
    assert_eq!(here.closure(snapshot.into()), vault.closure(snapshot.into()));
}

#[test]
fn what_is_here_is_not_asked_for() {
    let (vault, snapshot) = vault();
    let mut session = FetchSession::new();
    session.want(snapshot.into());
    session.want(snapshot.into());
    let Some(FetchRequest::Want(ids)) = session.request() else { panic!() };
    assert_eq!(ids, [WireId::from(ObjectId::from(snapshot))]);
    let (_, children) = session.accept(ObjectKind::Snapshot, &vault.0[&snapshot.into()]).unwrap();
    assert_eq!(children.len(), 1);
    session.end(&FetchReply::Done { sent: 1, absent: None }).unwrap();
    // The driver has the children: it wants none of them.
    assert!(session.is_done() && session.request().is_none());
}

#[test]
fn another_object_than_the_one_asked_for_is_refused() {
    let (vault, snapshot) = vault();
    let refused = fetch(&vault, snapshot.into(), |stream| {
        if let Some(Sent::Object(ObjectKind::Tree, bytes)) = stream.front_mut() {
            *bytes = vec![0, 0];
        }
    });
    assert!(matches!(refused, Err(FetchError::Unasked(_))));
    let of_another_kind = fetch(&vault, snapshot.into(), |stream| {
        if let Some(Sent::Object(kind, _)) = stream.front_mut() {
            *kind = ObjectKind::Chunk;
        }
    });
    assert!(
        matches!(of_another_kind, Err(FetchError::Unasked(id)) if id.kind == ObjectKind::Chunk)
    );
    let mut swapped = 0;
    let out_of_order = fetch(&vault, snapshot.into(), |stream| {
        if let [Sent::Object(..), Sent::Object(..), ..] = stream.make_contiguous() {
            stream.swap(0, 1);
            swapped += 1;
        }
    });
    // What a request asks for may come in any order.
    assert_eq!(out_of_order.unwrap().closure(snapshot.into()), vault.closure(snapshot.into()));
    assert!(swapped > 0);
}

#[test]
fn an_absent_object_is_named() {
    let (mut vault, snapshot) = vault();
    let lost = ObjectId::of(ObjectKind::Chunk, b"77");
    vault.0.remove(&lost).unwrap();
    let absent = fetch(&vault, snapshot.into(), |_| {});
    assert!(matches!(absent, Err(FetchError::Absent(id)) if id == lost));
}

#[test]
fn bytes_with_the_right_hash_that_are_no_object_are_refused() {
    let mut vault = Objects::default();
    let id = vault.put(ObjectKind::Tree, b"no tree".to_vec());
    let malformed = fetch(&vault, id, |_| {});
    assert!(matches!(malformed, Err(FetchError::Malformed { id: found, .. }) if found == id));
}

/// A session that has asked for two objects in one request.
fn two() -> (FetchSession, [ObjectId; 2]) {
    let mut session = FetchSession::new();
    let ids = [b"a", b"b"].map(|bytes| ObjectId::of(ObjectKind::Chunk, bytes));
    for id in ids {
        session.want(id);
    }
    assert!(session.request().is_some() && session.request().is_none());
    (session, ids)
}

#[test]
fn an_end_must_say_what_was_sent() {
    let done =
        |sent, absent: Option<ObjectId>| FetchReply::Done { sent, absent: absent.map(Into::into) };
    for (received, reply, ids_left) in
        [(0, done(2, None), 2), (1, done(1, None), 1), (1, done(2, None), 1), (2, done(1, None), 0)]
    {
        let (mut session, _) = two();
        for bytes in [b"a", b"b"].iter().take(received) {
            session.accept(ObjectKind::Chunk, *bytes).unwrap();
        }
        assert_eq!(session.outstanding(), ids_left);
        assert!(matches!(session.end(&reply), Err(FetchError::OutOfTurn)), "{reply:?}");
    }
    for absent in two().1 {
        let (mut session, _) = two();
        let ended = session.end(&done(0, Some(absent)));
        assert!(matches!(ended, Err(FetchError::Absent(id)) if id == absent));
    }
    let (mut session, [a, b]) = two();
    session.accept(ObjectKind::Chunk, b"a").unwrap();
    assert!(matches!(session.end(&done(1, Some(a))), Err(FetchError::OutOfTurn)));
    let (mut session, _) = two();
    session.accept(ObjectKind::Chunk, b"a").unwrap();
    session.accept(ObjectKind::Chunk, b"b").unwrap();
    assert!(matches!(session.end(&done(2, Some(b))), Err(FetchError::OutOfTurn)));
}

#[test]
fn more_than_was_asked_for_is_refused() {
    let (mut session, _) = two();
    session.accept(ObjectKind::Chunk, b"a").unwrap();
    session.accept(ObjectKind::Chunk, b"b").unwrap();
    assert!(matches!(session.accept(ObjectKind::Chunk, b"c"), Err(FetchError::OutOfTurn)));
    session.end(&FetchReply::Done { sent: 2, absent: None }).unwrap();
    let again = session.end(&FetchReply::Done { sent: 0, absent: None });
    assert!(matches!(again, Err(FetchError::OutOfTurn)));
}

#[test]
fn an_object_of_the_next_request_before_the_end_of_this_one_is_refused() {
    let mut session = FetchSession::new();
    session.want(ObjectId::of(ObjectKind::Chunk, b"a"));
    session.request().unwrap();
    session.want(ObjectId::of(ObjectKind::Chunk, b"b"));
    session.request().unwrap();
    session.accept(ObjectKind::Chunk, b"a").unwrap();
    assert!(matches!(session.accept(ObjectKind::Chunk, b"b"), Err(FetchError::OutOfTurn)));
}

#[test]
fn a_tree_that_could_reach_a_git_folder_is_not_taken() {
    use crate::object::{Entry, EntryKind, Tree, TreeSums};
    let kind = EntryKind::Directory {
        mode: 0o755,
        tree: crate::id::TreeId::of(b""),
        below: TreeSums::default(),
    };
    let tree = Tree::Leaf(vec![Entry { name: b".Git".to_vec(), kind }]).encode();
    let mut session = FetchSession::new();
    session.want(ObjectId::of(ObjectKind::Tree, &tree));
    session.request().unwrap();
    let refused = session.accept(ObjectKind::Tree, &tree);
    assert!(matches!(refused, Err(FetchError::Malformed { .. })), "{refused:?}");
}
