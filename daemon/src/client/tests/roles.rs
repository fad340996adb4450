//! Each request of the protocol, asked by each role: the answers are those of `docs/protocol.md`.

use std::collections::BTreeMap;

use baton_protocol::id::IdempotencyKey;
use baton_protocol::message::secrets::{SecretEntry, SecretValue, SetSecret};
use baton_protocol::message::{Answer, Forget, PushHello};

use super::*;
use crate::node::roles;

const PROTOCOL: &str = include_str!("../../../../docs/protocol.md");

/// The columns of the table.
const ROLES: [&str; 5] = ["unknown", "revoked", "push", "run", "admin"];

/// Every request that gets there is answered with the same refusal.
struct Asked;

impl Handler for Asked {
    fn handle(self: Arc<Self>, mut session: Session, _: Request) -> Handling {
        Box::pin(async move { session.refuse(RefusalCode::NotFound, "it was asked").await })
    }
}

fn samples() -> Vec<Request> {
    let (run, workspace) = (RunId::from_bytes([1; 16]), WorkspaceId::from_bytes([1; 16]));
    let (snapshot, name) = (SnapshotId::from_bytes([1; 32]), "TOKEN".to_owned());
    let key = IdempotencyKey::from_bytes([1; 16]);
    vec![
        Request::Join { secret: [0; 20], name: "laptop".to_owned() },
        Request::Hello,
        Request::Push(PushHello { workspace, base: None, new: snapshot, key }),
        Request::Ahead,
        Request::Fetch,
        Request::Refs,
        Request::CreateRun(RunSpec {
            run,
            thread: ThreadId::from_bytes([1; 16]),
            workspace,
            snapshot,
            agent: "command".to_owned(),
            command: vec![b"true".to_vec()],
            prompt: None,
            parent: None,
            terms: Terms::default(),
        }),
        Request::ListRuns,
        Request::ShowRun(run),
        Request::Logs { run, from: 0, follow: false },
        Request::WaitRun(run),
        Request::CancelRun(run),
        Request::SayRun { run, text: Some("x".to_owned()), end: false },
        Request::AnswerRun { run, question: None, answer: Answer::Allow },
        Request::DeleteRun(run),
        Request::KeepRun(run),
        Request::SetSecret(Box::new(SetSecret {
            name: name.clone(),
            agent: None,
            value: SecretValue::new(b"x".to_vec()),
            push: None,
        })),
        Request::ListSecrets,
        Request::RemoveSecret(SecretEntry { name, agent: None, push: None }),
        Request::CheckAgents(Vec::new()),
        Request::TryAgent("claude".to_owned()),
        Request::Forget(Forget::Thinned(vec![snapshot])),
        Request::Forget(Forget::Run(run)),
    ]
}

/// What the table says: by request, whether each role may ask it.
fn table() -> BTreeMap<String, [bool; 5]> {
    let section = PROTOCOL.split("## Roles").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut table = BTreeMap::new();
    for row in rows {
        let (names, marks) = row.trim_end_matches(" |").split_once(" | ").unwrap();
        let marks: Vec<bool> = marks.split(" | ").map(|mark| mark == "yes").collect();
        for name in names.split(", ") {
            let marks = marks.clone().try_into().unwrap();
            assert_eq!(table.insert(name.trim_matches('`').to_owned(), marks), None, "{name}");
        }
    }
    table
}

#[tokio::test]
async fn each_request_is_allowed_to_whom_the_table_says() {
    let scene = TestNode::start(Limits::default());
    let TestNode { identity, catalog, clock, .. } = &scene;
    let parts = NodeParts { handler: Arc::new(Asked), ..parts(identity, catalog, clock, 0) };
    let node = Node::start(parts).unwrap();
    let remote = remote(identity.node(), node.address());
    let mut pools = vec![pool()];
    for role in [Role::Push, Role::Push, Role::Run, Role::Admin] {
        pools.push(scene.home(role).await);
    }
    pools[1].hello(&remote).await.unwrap();
    let revoked = node.connected();
    assert_eq!(revoked.len(), 1);
    node.revoke(revoked[0]).unwrap();

    let mut table = table();
    for request in samples() {
        let name = roles::name(&request);
        let expected = table.remove(name).unwrap_or_else(|| panic!("{name} is not in the table"));
        let mut found = [false; 5];
        for (pool, allowed) in pools.iter().zip(&mut found) {
            let answer = pool.request(&remote, request.clone()).await;
            *allowed = match answer {
                Ok(Reply::Welcome(_)) => true,
                Err(ClientError::Refused(refusal)) => match refusal.code {
                    // Who has a ticket may join whoever it is; this one is wrong.
                    RefusalCode::NotFound | RefusalCode::Ticket => true,
                    RefusalCode::Role | RefusalCode::UnknownDevice => false,
                    _ => panic!("{name}: {refusal:?}"),
                },
                other => panic!("{name}: {other:?}"),
            };
        }
        assert_eq!(found, expected, "{name}, by {ROLES:?}");
    }
    assert!(table.is_empty(), "not tried: {table:?}");
}
