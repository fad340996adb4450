//! Messages: round trips, damage, lists of any length, and clients of another version.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::arbitrary::{self, mutated};
use crate::frame::{MAX_FRAME, decode_header};

/// Takes a frame apart.
fn body(frame: &[u8]) -> &[u8] {
    let (header, body) = frame.split_first_chunk::<HEADER>().unwrap();
    assert_eq!(decode_header(*header).unwrap(), (FrameKind::Message, body.len()));
    body
}

/// A message may have a second byte form, but what was read from it must mean itself.
fn is_stable<T>(bytes: &[u8]) -> Result<(), TestCaseError>
where
    T: Serialize + for<'a> Deserialize<'a> + PartialEq + std::fmt::Debug,
{
    if let Ok(message) = decode::<T>(bytes) {
        let again = encode(&message).unwrap();
        prop_assert_eq!(decode::<T>(body(&again)).unwrap(), message);
    }
    Ok(())
}

macro_rules! properties {
    ($($module:ident: $type:ident from $strategy:expr;)*) => {$(
        mod $module {
            use super::*;

            proptest! {
                #[test]
                fn round_trips(message in $strategy) {
                    let frame = encode(&message).unwrap();
                    prop_assert_eq!(decode::<$type>(body(&frame)).unwrap(), message);
                }

                #[test]
                fn a_byte_more_or_less_is_refused(message in $strategy) {
                    let frame = encode(&message).unwrap();
                    let body = body(&frame);
                    prop_assert!(decode::<$type>(&body[..body.len() - 1]).is_err());
                    prop_assert!(decode::<$type>(&[body, &[0]].concat()).is_err());
                }

                #[test]
                fn any_bytes_are_refused_or_stable(bytes in vec(any::<u8>(), 0..200)) {
                    is_stable::<$type>(&bytes)?;
                }

                #[test]
                fn changed_bytes_are_refused_or_stable(
                    bytes in mutated($strategy.prop_map(|it| body(&encode(&it).unwrap()).to_vec())),
                ) {
                    is_stable::<$type>(&bytes)?;
                }
            }
        }
    )*};
}

properties! {
    an_opening: Opening from arbitrary::opening();
    a_reply: Reply from arbitrary::reply();
    a_push_request: PushRequest from arbitrary::push_request();
    a_fetch_request: FetchRequest from arbitrary::fetch_request();
}

proptest! {
    #[test]
    fn an_opening_of_our_version_is_read(opening in arbitrary::opening()) {
        let frame = encode(&opening).unwrap();
        prop_assert_eq!(Opening::decode(body(&frame)).unwrap(), opening);
    }

    #[test]
    fn ids_travel(id in arbitrary::object_id()) {
        prop_assert_eq!(WireId::from(id).id(), Some(id));
    }

    #[test]
    fn a_list_comes_back_in_order(heads in vec(arbitrary::head(), 0..20), many in 0..200usize) {
        let heads: Vec<_> = heads.iter().cycle().take(heads.len() * many).copied().collect();
        let mut back = Vec::new();
        for frame in encode_list(heads.iter().copied(), Reply::Refs).unwrap() {
            let Reply::Refs(page) = decode(body(&frame)).unwrap() else { panic!() };
            back.extend(page);
        }
        prop_assert_eq!(back, heads);
    }
}

#[test]
fn a_newer_client_is_told_our_version_whatever_it_asks() {
    // Versions 6 to 7, and a request that this version does not know.
    let body = [6, 7, 200, 1, 2, 3];
    assert!(decode::<Opening>(&body).is_err());
    let refused = Opening::decode(&body).unwrap_err();
    assert!(matches!(refused, OpeningError::Version { oldest: 6, newest: 7 }));
    assert_eq!(refused.to_string(), "the client speaks versions 6 to 7, this program 4 to 5");
    assert!(matches!(Opening::decode(&[1, 4, 200]), Err(OpeningError::Malformed(_))));
    assert!(matches!(Opening::decode(&[]), Err(OpeningError::Malformed(_))));
    // A client that also speaks ours, and those that speak older ones only.
    assert!(Opening::decode(&[1, 4, 1]).unwrap().is_spoken());
    for older in [[3, 3, 1], [1, 1, 1], [0, 1, 1], [5, 4, 1]] {
        assert!(matches!(Opening::decode(&older), Err(OpeningError::Version { .. })), "{older:?}");
    }
}

#[test]
fn an_older_node_is_asked_what_it_knows_and_told_that_the_rest_is_newer() {
    let secret = SecretEntry { name: "A".to_owned(), agent: None, push: None };
    let set = SetSecret {
        name: "A".to_owned(),
        agent: None,
        value: secrets::SecretValue::new(b"v".to_vec()),
        push: None,
    };
    for (request, oldest) in [
        (Request::Hello, OLDEST),
        (Request::Ahead, OLDEST),
        (Request::ListSecrets, OLDEST),
        (Request::SetSecret(Box::new(set)), OLDEST),
        (Request::RemoveSecret(secret), OLDEST),
        (Request::CheckAgents(Vec::new()), OLDEST),
        (Request::TryAgent(String::new()), 5),
        (Request::Forget(Forget::Thinned(Vec::new())), 5),
    ] {
        // What an older node compares: whether its own version lies between these.
        let frame = encode(&Opening::new(request)).unwrap();
        assert_eq!(body(&frame)[..2], [oldest as u8, VERSION as u8]);
    }
}

#[test]
fn lists_of_any_length_fit_their_frames() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let info = proptest::strategy::ValueTree::current(
        &arbitrary::run_info().new_tree(&mut runner).unwrap(),
    );
    let long = RunInfo {
        spec: RunSpec {
            prompt: Some("x".repeat(MAX_PROMPT)),
            command: vec![vec![b'x'; MAX_COMMAND]],
            ..info.spec.clone()
        },
        ..info
    };
    let frames = encode_list(vec![long; 10], Reply::Runs).unwrap();
    assert_eq!(frames.len(), 10);
    assert!(frames.iter().all(|frame| frame.len() <= HEADER + MAX_FRAME));

    let head = Head {
        workspace: WorkspaceId::from_bytes([0xff; 16]),
        device: DeviceId::from_bytes([0xff; 32]),
        snapshot: SnapshotId::from_bytes([0xff; 32]),
        sequence: u64::MAX,
    };
    let frames = encode_list(vec![head; 100_000], Reply::Refs).unwrap();
    assert!((100..200).contains(&frames.len()), "{}", frames.len());
    assert!(frames.iter().all(|frame| frame.len() < 2 * PAGE));
    // An empty list is a message, too.
    assert_eq!(encode_list(Vec::<Head>::new(), Reply::Refs).unwrap().len(), 1);
}

#[test]
fn a_length_that_lies_is_refused_before_it_is_reserved() {
    // `Want` with 2^60 ids, of which none is there.
    let mut bytes = vec![0];
    bytes.extend([0x80; 8]);
    bytes.push(0x10);
    assert!(decode::<FetchRequest>(&bytes).is_err());
}

#[test]
fn an_unknown_kind_is_no_id() {
    let bytes = [vec![0, 1, 9], vec![0; 32]].concat();
    let FetchRequest::Want(ids) = decode(&bytes).unwrap();
    assert_eq!(ids[0].id(), None);
}
