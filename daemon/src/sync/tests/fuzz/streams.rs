//! Damaged streams to a whole node, over a real connection: of a device that is enrolled, and of one that is not.

use baton_protocol::id::{RunId, ThreadId};
use baton_protocol::message::secrets::{SecretEntry, SecretValue, SetSecret};
use baton_protocol::message::{Answer, Forget, RunSpec, Terms};

use super::*;
use crate::transport::limits::Rate;

/// Openings of every kind, with what may follow.
fn openings(secret: [u8; baton_protocol::ticket::SECRET]) -> Vec<Vec<u8>> {
    let (run, snapshot) = (RunId::from_bytes([8; 16]), SnapshotId::from_bytes([9; 32]));
    // Of a snapshot that is not there: nothing is ever started.
    let spec = RunSpec {
        run,
        thread: ThreadId::from_bytes([8; 16]),
        workspace: WORKSPACE,
        snapshot,
        agent: "command".to_owned(),
        command: vec![b"true".to_vec()],
        prompt: Some("do it".to_owned()),
        parent: None,
        terms: Terms::default(),
    };
    let entry = SecretEntry { name: "TOKEN".to_owned(), agent: None, push: None };
    let set = SetSecret {
        name: "TOKEN".to_owned(),
        agent: Some("claude".to_owned()),
        value: SecretValue::new(b"hidden".to_vec()),
        push: None,
    };
    let requests = [
        Request::Join { secret, name: "laptop".to_owned() },
        Request::Hello,
        Request::Push(hello(None, snapshot)),
        Request::Fetch,
        Request::Refs,
        Request::CreateRun(spec),
        Request::ListRuns,
        Request::ShowRun(run),
        Request::Logs { run, from: 3, follow: true },
        Request::WaitRun(run),
        Request::CancelRun(run),
        Request::Ahead,
        Request::SetSecret(Box::new(set)),
        Request::ListSecrets,
        Request::RemoveSecret(entry),
        Request::SayRun { run, text: Some("go on".to_owned()), end: false },
        Request::AnswerRun { run, question: Some("q".to_owned()), answer: Answer::Allow },
        Request::DeleteRun(run),
        Request::KeepRun(run),
        Request::CheckAgents(vec!["claude".to_owned()]),
        Request::TryAgent("nobody".to_owned()),
        Request::Forget(Forget::Snapshots(vec![snapshot])),
        Request::Forget(Forget::Run(run)),
        Request::Forget(Forget::Workspaces(vec![WorkspaceId::from_bytes([5; 16])])),
    ];
    requests.map(|request| encode(&Opening::new(request)).unwrap()).into()
}

/// What is replied to some bytes and the end of them. Objects come only if they are `known`: they were sent before.
async fn answered(
    home: &Home,
    remote: &Remote,
    bytes: &[u8],
    known: &BTreeMap<ObjectId, Vec<u8>>,
) -> Result<Vec<Reply>, TransportError> {
    let mut stream = within(home.pool.open(remote)).await?;
    // It may be refused before all of it is read.
    drop(stream.write(bytes).await);
    stream.finish();
    let mut replies = Vec::new();
    while let Some(frame) = within(stream.read_frame()).await? {
        expect_known(&frame, known);
        if frame.kind == FrameKind::Message {
            replies.push(decode(&frame.body).unwrap());
        }
    }
    Ok(replies)
}

/// Whatever a stream says, the node answers in its own words or not at all, and goes on; and nobody gets in without a ticket.
#[test]
fn streams() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let often = Rate { burst: 1 << 20, each: Duration::from_micros(1) };
    let limits = Limits { connects: often, requests: often, ..Limits::default() };
    let cloud =
        runtime.block_on(async { Cloud::start(&Settings { limits, ..Settings::default() }) });
    let remote = cloud.remote();
    let (known, mut stranger) = runtime.block_on(async { (cloud.home().await, Home::new()) });
    let wish =
        TicketWish { user: "guest".to_owned(), role: Role::Run, expires_ms: 60_000, uses: 1000 };
    let (node, addresses) = (cloud.identity.node(), &remote.addresses);
    let issued = issue_ticket(&cloud.catalog, node, addresses, &wish, &cloud.clock).unwrap();
    let ticket = Ticket::decode(&issued.word).unwrap();
    let scene = Scene::new();
    let well = openings(ticket.secret);
    let knows = |input: &[u8]| input.windows(ticket.secret.len()).any(|at| at == ticket.secret);
    let (mut devices, mut user) = (1, "owner");
    fuzz(well.clone(), |random, input| {
        let input = scene.moved(random, &input[..input.len().min(64 * 1024)], &well);
        if random.below(4) > 0 {
            let answer = runtime.block_on(answered(&known, &remote, &input, &scene.of_both));
            assert!(
                runtime.block_on(known.pool.is_connected(remote.node)),
                "the connection is lost"
            );
            // A ticket moves a device to the user whom it is for.
            let welcome = answer.iter().flatten().find_map(|reply| match reply {
                Reply::Welcome(welcome) => Some(welcome.user.as_str()),
                _ => None,
            });
            if knows(&input) && welcome == Some("guest") {
                user = "guest";
            }
            if random.below(20) == 0 {
                let mine = runtime.block_on(known.pool.hello(&remote)).unwrap();
                assert_eq!(mine.user, user);
            }
            return answer.is_ok_and(|said| !said.is_empty());
        }
        let answer = runtime.block_on(answered(&stranger, &remote, &input, &BTreeMap::new()));
        let all = cloud.catalog.devices().unwrap();
        let joined = answer.iter().flatten().any(|reply| matches!(reply, Reply::Welcome(_)));
        if joined {
            // Only who knows the secret is let in, and only as what its ticket says.
            assert!(knows(&input));
            devices += 1;
            stranger = runtime.block_on(async { Home::new() });
        } else {
            let of_others = |reply: &Reply| !matches!(reply, Reply::Refused(_));
            assert!(!answer.iter().flatten().any(of_others), "{answer:?}");
        }
        assert_eq!(all.len(), devices);
        assert!(all.iter().skip(1).all(|device| device.role == Role::Run));
        joined
    });
    runtime.block_on(async {
        cloud.node.shut_down(Duration::from_secs(5)).await;
        cloud.tasks.shut_down(Duration::from_secs(5)).await;
    });
}
