//! Values of every type of the format, for property tests: valid ones only, with the corners often.
//!
//! Not here: damaged bytes. [`mutated`] makes those from the bytes of a valid value.

pub(crate) mod git;

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::id::{
    ChunkId, ConversationId, DeviceId, GitStateId, IdempotencyKey, ManifestId, NodeId, ObjectId,
    ObjectKind, RunId, SnapshotId, ThreadId, TreeId, WorkspaceId,
};
use crate::message::{
    AgentReport, AheadReply, AheadRequest, Answer, CheckState, Checked, FetchReply, FetchRequest,
    Forget, Head, LogEntry, LogReply, LogStream, Opening, Permissions, PushHello, PushReply,
    PushRequest, Question, QuestionKind, Refusal, RefusalCode, Reply, Request, RunInfo, RunSpec,
    RunState, Terms, Welcome,
    secrets::{PushScope, SecretEntry, SecretValue, SetSecret},
};
use crate::object::{
    Blob, Content, Conversation, Entry, EntryKind, Extent, MAX_CHUNK, Manifest, ManifestChild,
    Omission, Omissions, OmitReason, Part, Snapshot, Tree, TreeChild, TreeSums,
};
use crate::path::{RelPath, check_name};
use crate::ticket::{SECRET, Ticket};

macro_rules! ids {
    ($($function:ident $id:ident),* $(,)?) => {$(
        pub(crate) fn $function() -> impl Strategy<Value = $id> {
            any::<[u8; $id::LEN]>().prop_map($id::from_bytes)
        }
    )*};
}

ids!(
    chunk_id ChunkId,
    manifest_id ManifestId,
    tree_id TreeId,
    conversation_id ConversationId,
    snapshot_id SnapshotId,
    git_state_id GitStateId,
    device_id DeviceId,
    node_id NodeId,
    workspace_id WorkspaceId,
    run_id RunId,
    thread_id ThreadId,
    key IdempotencyKey,
);

pub(crate) fn object_id() -> impl Strategy<Value = ObjectId> {
    (select(ObjectKind::ALL.to_vec()), any::<[u8; 32]>())
        .prop_map(|(kind, hash)| ObjectId { kind, hash })
}

/// Sizes around the places where something changes.
fn size() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..200u64,
        (MAX_CHUNK as u64 - 2)..(MAX_CHUNK as u64 + 3),
        (0..64u32, any::<bool>()).prop_map(|(bit, less)| (1u64 << bit) - u64::from(less)),
        any::<u64>(),
    ]
}

fn name_byte() -> impl Strategy<Value = u8> {
    prop_oneof![4 => select(b"abc.- \n\xff".to_vec()), 1 => 1..=255u8]
}

pub(crate) fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![8 => vec(name_byte(), 1..6), 1 => vec(name_byte(), 250..=255)]
        .prop_map(|mut name: Vec<u8>| {
            name.iter_mut().filter(|byte| **byte == b'/').for_each(|byte| *byte = b'_');
            name
        })
        .prop_filter("a name", |name| check_name(name).is_ok())
}

pub(crate) fn rel_path() -> impl Strategy<Value = RelPath> {
    vec(name(), 1..5)
        .prop_map(|names| names.iter().fold(RelPath::root(), |path, name| path.join(name)))
}

pub(crate) fn blob() -> impl Strategy<Value = Blob> {
    (size(), any::<[u8; 32]>()).prop_map(|(size, hash)| {
        let content = if size <= MAX_CHUNK as u64 {
            Content::Chunk(ChunkId::from_bytes(hash))
        } else {
            Content::Manifest(ManifestId::from_bytes(hash))
        };
        Blob { size, content }
    })
}

fn target() -> impl Strategy<Value = Blob> {
    (1..=4095u64, chunk_id()).prop_map(|(size, id)| Blob { size, content: Content::Chunk(id) })
}

fn sums() -> impl Strategy<Value = TreeSums> {
    (size(), size()).prop_map(|(files, bytes)| TreeSums { files, bytes })
}

pub(crate) fn entry_kind() -> impl Strategy<Value = EntryKind> {
    prop_oneof![
        3 => (0..=0o777u16, blob()).prop_map(|(mode, blob)| EntryKind::File { mode, blob }),
        1 => target().prop_map(|target| EntryKind::Symlink { target }),
        1 => (0..=0o777u16, tree_id(), sums())
            .prop_map(|(mode, tree, below)| EntryKind::Directory { mode, tree, below }),
    ]
}

/// Entries as a directory has them: by name, each once.
pub(crate) fn entries(
    count: impl Into<proptest::collection::SizeRange>,
) -> impl Strategy<Value = Vec<Entry>> {
    btree_map(name(), entry_kind(), count).prop_map(|map: BTreeMap<_, _>| {
        map.into_iter().map(|(name, kind)| Entry { name, kind }).collect()
    })
}

pub(crate) fn tree() -> impl Strategy<Value = Tree> {
    let node = (1..=8u8, btree_map(name(), (tree_id(), sums()), 2..20)).prop_map(|(level, map)| {
        let child = |(first, (id, below))| TreeChild { first, id, below };
        Tree::Node { level, children: map.into_iter().map(child).collect() }
    });
    prop_oneof![2 => entries(0..20).prop_map(Tree::Leaf), 1 => node]
}

pub(crate) fn manifest() -> impl Strategy<Value = Manifest> {
    let extent = (1..=MAX_CHUNK as u32, chunk_id()).prop_map(|(len, chunk)| Extent { len, chunk });
    let child = (1..=1u64 << 50, manifest_id()).prop_map(|(len, id)| ManifestChild { len, id });
    prop_oneof![
        vec(extent, 1..20).prop_map(Manifest::Leaf),
        (1..=8u8, vec(child, 2..20))
            .prop_map(|(level, children)| Manifest::Node { level, children }),
    ]
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    btree_map(rel_path(), blob(), 0..6).prop_map(|map: BTreeMap<_, _>| {
        map.into_iter().map(|(path, blob)| Part { path, blob }).collect()
    })
}

pub(crate) fn conversation() -> impl Strategy<Value = Conversation> {
    ("[a-z]{0,9}", "\\PC{0,40}", any::<u64>(), parts(), parts()).prop_map(
        |(agent, session, messages, transcript, attachments)| Conversation {
            agent,
            session,
            messages,
            transcript,
            attachments,
        },
    )
}

pub(crate) fn snapshot() -> impl Strategy<Value = Snapshot> {
    let ids = (workspace_id(), device_id(), tree_id());
    let lists = (btree_set(snapshot_id(), 0..=16), btree_set(conversation_id(), 0..5));
    let rest = (1..=u64::MAX, 0..=0o777u16, option::of(blob()), size(), "\\PC{0,60}");
    let git = option::of(git_state_id());
    (ids, lists, rest, git).prop_map(|((workspace, device, root), lists, rest, git)| {
        let (parents, conversations): (BTreeSet<_>, BTreeSet<_>) = lists;
        let (sequence, root_mode, omitted, created_at, message) = rest;
        Snapshot {
            workspace,
            device,
            sequence,
            // In an order of their own: descending here.
            parents: parents.into_iter().rev().collect(),
            root,
            root_mode,
            omitted,
            git,
            conversations: conversations.into_iter().rev().collect(),
            created_at,
            message,
        }
    })
}

pub(crate) fn omissions() -> impl Strategy<Value = Omissions> {
    let path = prop_oneof![1 => Just(RelPath::root()), 9 => rel_path()];
    let omission = (path, select(OmitReason::ALL.to_vec()))
        .prop_map(|(path, reason)| Omission { path, reason });
    btree_set(omission, 0..20)
        .prop_map(|set: BTreeSet<Omission>| Omissions(set.into_iter().collect()))
}

pub(crate) fn ticket() -> impl Strategy<Value = Ticket> {
    (node_id(), any::<[u8; SECRET]>(), vec("[!-~]{1,259}", 0..=16))
        .prop_map(|(node, secret, addresses)| Ticket { node, secret, addresses })
}

fn terms() -> impl Strategy<Value = Terms> {
    let permissions = select(vec![Permissions::Ask, Permissions::Edits, Permissions::All]);
    let said = (option::of("\\PC{0,20}"), option::of(any::<u64>()), option::of(any::<bool>()));
    (said, option::of("\\PC{0,9}"), option::of(permissions)).prop_map(
        |((check, timeout_ms, input), model, permissions)| Terms {
            check,
            timeout_ms,
            input,
            model,
            permissions,
        },
    )
}

fn agent_report() -> impl Strategy<Value = AgentReport> {
    let permissions = select(vec![Permissions::Ask, Permissions::Edits, Permissions::All]);
    let texts = || option::of("\\PC{0,9}");
    ("\\PC{0,9}", texts(), texts(), permissions, texts(), texts()).prop_map(
        |(agent, version, login, permissions, problem, fix)| AgentReport {
            agent,
            version,
            login,
            permissions,
            problem,
            fix,
        },
    )
}

fn question() -> impl Strategy<Value = Question> {
    let kind = select(vec![QuestionKind::Input, QuestionKind::Permission]);
    let texts = ("\\PC{0,9}", "\\PC{0,40}", vec("\\PC{0,9}", 0..3));
    (kind, texts, any::<u64>()).prop_map(|(kind, (id, text, options), asked_at)| Question {
        id,
        kind,
        text,
        options,
        asked_at,
    })
}

fn checked() -> impl Strategy<Value = Checked> {
    let states =
        vec![CheckState::Running, CheckState::Passed, CheckState::Failed, CheckState::Interrupted];
    (select(states), option::of(any::<i32>()), "\\PC{0,40}")
        .prop_map(|(state, exit_code, tail)| Checked { state, exit_code, tail })
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![select(vec![Answer::Allow, Answer::Deny]), "\\PC{0,40}".prop_map(Answer::Text),]
}

fn run_spec() -> impl Strategy<Value = RunSpec> {
    let ids = (run_id(), thread_id(), workspace_id(), snapshot_id());
    let command = vec(vec(any::<u8>(), 0..20), 0..4);
    let rest = ("[a-z]{1,9}", command, option::of("\\PC{0,60}"), option::of(run_id()), terms());
    (ids, rest).prop_map(|((run, thread, workspace, snapshot), rest)| {
        let (agent, command, prompt, parent, terms) = rest;
        RunSpec { run, thread, workspace, snapshot, agent, command, prompt, parent, terms }
    })
}

pub(crate) fn run_info() -> impl Strategy<Value = RunInfo> {
    let ends = (option::of("\\PC{0,20}"), option::of(snapshot_id()), option::of(any::<i32>()));
    let room = (any::<bool>(), option::of("/[a-z/]{0,20}"));
    let times = (any::<u64>(), option::of(any::<u64>()), option::of(any::<u64>()));
    let more = (option::of(question()), option::of(checked()));
    (run_spec(), select(RunState::ALL.to_vec()), ends, room, times, more).prop_map(
        |(spec, state, (reason, result, exit_code), (isolated, checkout), times, more)| RunInfo {
            spec,
            state,
            reason,
            result,
            exit_code,
            isolated,
            checkout,
            created_at: times.0,
            started_at: times.1,
            ended_at: times.2,
            waiting: more.0,
            checked: more.1,
        },
    )
}

pub(crate) fn push_hello() -> impl Strategy<Value = PushHello> {
    (workspace_id(), option::of(snapshot_id()), snapshot_id(), key())
        .prop_map(|(workspace, base, new, key)| PushHello { workspace, base, new, key })
}

pub(crate) fn opening() -> impl Strategy<Value = Opening> {
    prop_oneof![
        (any::<[u8; SECRET]>(), "\\PC{0,30}")
            .prop_map(|(secret, name)| Request::Join { secret, name }),
        select(vec![
            Request::Hello,
            Request::Fetch,
            Request::Refs,
            Request::ListRuns,
            Request::Ahead,
            Request::ListSecrets,
        ]),
        push_hello().prop_map(Request::Push),
        run_spec().prop_map(Request::CreateRun),
        run_id().prop_map(Request::ShowRun),
        (run_id(), any::<u64>(), any::<bool>()).prop_map(|(run, from, follow)| Request::Logs {
            run,
            from,
            follow
        }),
        run_id().prop_map(Request::WaitRun),
        run_id().prop_map(Request::CancelRun),
        (secret_entry(), vec(any::<u8>(), 0..40)).prop_map(
            |(SecretEntry { name, agent, push }, value)| {
                let value = SecretValue::new(value);
                Request::SetSecret(Box::new(SetSecret { name, agent, value, push }))
            }
        ),
        secret_entry().prop_map(Request::RemoveSecret),
        (run_id(), option::of("\\PC{0,40}"), any::<bool>())
            .prop_map(|(run, text, end)| Request::SayRun { run, text, end }),
        (run_id(), option::of("\\PC{0,9}"), answer())
            .prop_map(|(run, question, answer)| { Request::AnswerRun { run, question, answer } }),
        run_id().prop_map(Request::DeleteRun),
        run_id().prop_map(Request::KeepRun),
        vec("\\PC{0,9}", 0..3).prop_map(Request::CheckAgents),
        "\\PC{0,9}".prop_map(Request::TryAgent),
        run_id().prop_map(|run| Request::Forget(Forget::Run(run))),
        vec(any::<[u8; 32]>(), 0..3).prop_map(|ids| {
            let ids = ids.into_iter().map(SnapshotId::from_bytes).collect();
            Request::Forget(Forget::Snapshots(ids))
        }),
    ]
    .prop_map(Opening::new)
}

fn secret_entry() -> impl Strategy<Value = SecretEntry> {
    let push = option::of(prop_oneof![Just(PushScope::Run), Just(PushScope::Any)]);
    ("\\PC{0,9}", option::of("[a-z]{0,9}"), push).prop_map(|(name, agent, push)| SecretEntry {
        name,
        agent,
        push,
    })
}

pub(crate) fn push_request() -> impl Strategy<Value = PushRequest> {
    Just(PushRequest::Commit)
}

pub(crate) fn ahead_request() -> impl Strategy<Value = AheadRequest> {
    prop_oneof![vec(any::<[u8; 8]>(), 0..20).prop_map(AheadRequest::Offer), Just(AheadRequest::End)]
}

pub(crate) fn fetch_request() -> impl Strategy<Value = FetchRequest> {
    vec(object_id().prop_map(Into::into), 0..20).prop_map(FetchRequest::Want)
}

fn refusal() -> impl Strategy<Value = Refusal> {
    let codes = vec![
        RefusalCode::Version,
        RefusalCode::UnknownDevice,
        RefusalCode::Ticket,
        RefusalCode::Role,
        RefusalCode::NotFound,
        RefusalCode::Malformed,
        RefusalCode::Limit,
        RefusalCode::DiskFull,
        RefusalCode::Conflict,
        RefusalCode::Internal,
        RefusalCode::Unavailable,
        RefusalCode::Busy,
    ];
    (select(codes), "\\PC{0,40}").prop_map(|(code, message)| Refusal { code, message })
}

pub(crate) fn head() -> impl Strategy<Value = Head> {
    (workspace_id(), device_id(), snapshot_id(), any::<u64>()).prop_map(
        |(workspace, device, snapshot, sequence)| Head { workspace, device, snapshot, sequence },
    )
}

fn push_reply() -> impl Strategy<Value = PushReply> {
    prop_oneof![
        (snapshot_id(), any::<u64>())
            .prop_map(|(snapshot, sequence)| PushReply::Acked { snapshot, sequence }),
        option::of((snapshot_id(), any::<u64>())).prop_map(|head| PushReply::HeadMoved { head }),
        (vec(object_id().prop_map(Into::into), 0..9), any::<bool>())
            .prop_map(|(ids, more)| PushReply::Missing { ids, more }),
        vec(any::<u32>(), 0..9).prop_map(|items| PushReply::NeedFull { items }),
    ]
}

fn log_reply() -> impl Strategy<Value = LogReply> {
    let stream = select(vec![LogStream::Stdout, LogStream::Stderr, LogStream::Node]);
    let entry = (any::<u64>(), stream, vec(any::<u8>(), 0..30))
        .prop_map(|(time, stream, text)| LogEntry { time, stream, text });
    prop_oneof![vec(entry, 0..5).prop_map(LogReply::Entries), Just(LogReply::End)]
}

pub(crate) fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        refusal().prop_map(Reply::Refused),
        ("\\PC{0,9}", device_id(), "[a-z]{0,5}", "[0-9.]{0,9}").prop_map(
            |(user, device, role, program)| {
                Reply::Welcome(Welcome { user, device, role, program })
            }
        ),
        vec(head(), 0..5).prop_map(Reply::Refs),
        run_info().prop_map(|info| Reply::Run(Box::new(info))),
        vec(run_info(), 0..4).prop_map(Reply::Runs),
        push_reply().prop_map(Reply::Push),
        (any::<u32>(), option::of(object_id().prop_map(Into::into)))
            .prop_map(|(sent, absent)| Reply::Fetch(FetchReply::Done { sent, absent })),
        log_reply().prop_map(Reply::Log),
        any::<bool>().prop_map(|wanted| Reply::Ahead(AheadReply::Wanted(wanted))),
        Just(Reply::Ahead(AheadReply::Kept)),
        vec(secret_entry(), 0..5).prop_map(Reply::Secrets),
        vec(agent_report(), 0..5).prop_map(Reply::Agents),
    ]
}

/// Bytes with a few changes: flips, cuts, insertions and repeated pieces.
pub(crate) fn mutated(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (0..5u8, any::<Index>(), any::<Index>(), any::<u8>());
    (bytes, vec(change, 1..4)).prop_map(|(mut bytes, changes)| {
        for (what, at, other, value) in changes {
            let at = at.index(bytes.len() + 1);
            let other = other.index(bytes.len() + 1);
            let (from, to) = (at.min(other), at.max(other));
            match what {
                0 if at < bytes.len() => bytes[at] ^= 1 << (value % 8),
                1 if at < bytes.len() => bytes[at] = value,
                2 => bytes.insert(at, value),
                3 => drop(bytes.drain(from..to.min(from + 8))),
                _ => {
                    let piece = bytes[from..to.min(from + 40)].to_vec();
                    drop(bytes.splice(at..at, piece));
                }
            }
        }
        bytes
    })
}
