//! The exact bytes of one example of everything that is stored, hashed or sent.
//!
//! A test that fails here says that the format has changed: other homes, and this one tomorrow,
//! cannot read it any more. Either that is an accident, or it needs a new version number and a way
//! to read what is there already.

use std::fmt::Write;

use crate::batch::{Batch, Parcel};
use crate::delta;
use crate::frame::{FrameKind, encode_header};
use crate::id::{
    ChunkId, ConversationId, DeviceId, GitStateId, IdempotencyKey, ManifestId, NodeId, ObjectId,
    ObjectKind, RunId, SnapshotId, ThreadId, TreeId, WorkspaceId,
};
use crate::message::{
    self, AgentReport, AheadReply, AheadRequest, Answer, CheckState, Checked, FetchReply,
    FetchRequest, Forget, Head, LogEntry, LogReply, LogStream, Opening, Permissions, PushHello,
    PushReply, PushRequest, Question, QuestionKind, Refusal, RefusalCode, Reply, Request, RunInfo,
    RunSpec, RunState, Terms, Welcome,
    secrets::{SecretEntry, SecretValue, SetSecret},
};
use crate::object::{
    Blob, Content, Conversation, Entry, EntryKind, Extent, GitEntry, GitFile, GitFiles, GitHash,
    GitHead, GitIndex, GitMode, GitOid, GitOids, GitOmission, GitOmissions, GitOmitReason, GitPack,
    GitPlace, GitRef, GitRefName, GitRefs, GitSetting, GitSettings, GitState, GitTarget, GitUndo,
    GitUnit, Manifest, ManifestChild, Omission, Omissions, OmitReason, Part, RefStorage, Snapshot,
    Tree, TreeChild, TreeSums, build_manifest, build_tree,
};
use crate::path::RelPath;
use crate::ticket::{SECRET, Ticket};

/// Hex digits, with eight and more equal bytes as `[byte*count]`.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for run in bytes.chunk_by(|a, b| a == b) {
        let byte = data_encoding::HEXLOWER.encode(&run[..1]);
        match run.len() {
            0..8 => text.push_str(&byte.repeat(run.len())),
            len => write!(text, "[{byte}*{len}]").unwrap(),
        }
    }
    text
}

/// Compares all at once, so that one run shows everything that changed.
fn assert_golden(found: &[(&str, String)], expected: &str) {
    let expected: Vec<_> =
        expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let found: Vec<_> = found.iter().map(|(name, hex)| format!("{name}: {hex}")).collect();
    assert!(found == expected, "the format has changed; it is now\n{}\n", found.join("\n"));
}

fn small(byte: u8) -> Blob {
    Blob { size: 5, content: Content::Chunk(ChunkId::from_bytes([byte; 32])) }
}

fn large(byte: u8) -> Blob {
    Blob { size: 1 << 20, content: Content::Manifest(ManifestId::from_bytes([byte; 32])) }
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn leaf() -> Tree {
    let entry = |name: &[u8], kind| Entry { name: name.to_vec(), kind };
    Tree::Leaf(vec![
        entry(b"big", EntryKind::File { mode: 0o600, blob: large(0xb1) }),
        entry(
            b"dir",
            EntryKind::Directory {
                mode: 0o755,
                tree: TreeId::from_bytes([0xd1; 32]),
                below: TreeSums { files: 3, bytes: 300 },
            },
        ),
        entry(b"file\xff", EntryKind::File { mode: 0o644, blob: small(0xf1) }),
        entry(b"link", EntryKind::Symlink { target: small(0x11) }),
    ])
}

fn node() -> Tree {
    let child = |first: &str, byte| TreeChild {
        first: first.into(),
        id: TreeId::from_bytes([byte; 32]),
        below: TreeSums { files: 128, bytes: u64::from(byte) },
    };
    Tree::Node { level: 1, children: vec![child("a", 1), child("b", 2)] }
}

fn snapshot() -> Snapshot {
    Snapshot {
        workspace: WorkspaceId::from_bytes([1; 16]),
        device: DeviceId::from_bytes([2; 32]),
        sequence: 300,
        parents: vec![SnapshotId::from_bytes([9; 32]), SnapshotId::from_bytes([8; 32])],
        root: TreeId::from_bytes([3; 32]),
        root_mode: 0o755,
        omitted: Some(small(4)),
        git: None,
        conversations: vec![ConversationId::from_bytes([5; 32])],
        created_at: 1_767_225_600_000,
        message: "half done ✓".into(),
    }
}

fn snapshot_with_git() -> Snapshot {
    Snapshot { git: Some(GitStateId::from_bytes([6; 32])), ..snapshot() }
}

fn conversation() -> Conversation {
    Conversation {
        agent: "claude".into(),
        session: "0a1b".into(),
        messages: 42,
        transcript: vec![Part { path: path("session.jsonl"), blob: large(6) }],
        attachments: vec![
            Part { path: path("a/plan.md"), blob: small(7) },
            Part { path: path("b.png"), blob: small(8) },
        ],
    }
}

fn manifests() -> [Manifest; 2] {
    let extent = |len, byte| Extent { len, chunk: ChunkId::from_bytes([byte; 32]) };
    let child = |len, byte| ManifestChild { len, id: ManifestId::from_bytes([byte; 32]) };
    [
        Manifest::Leaf(vec![extent(256 * 1024, 1), extent(1, 2)]),
        Manifest::Node { level: 2, children: vec![child(1 << 40, 3), child(77, 4)] },
    ]
}

fn git_oid(byte: u8) -> GitOid {
    GitOid::new(GitHash::Sha1, &[byte; 20]).unwrap()
}

fn ref_name(name: &str) -> GitRefName {
    GitRefName::new(name.as_bytes()).unwrap()
}

fn git_state() -> GitState {
    GitState {
        hash: GitHash::Sha1,
        storage: RefStorage::Reftable,
        busy: false,
        head: GitHead::Symbolic(ref_name("refs/heads/main")),
        refs: small(1),
        index: Some(large(2)),
        settings: small(3),
        files: None,
        packs: vec![GitPack { blob: large(4), tips: small(5), commits: 9 }],
        units: vec![GitUnit {
            path: path("libs/x"),
            place: GitPlace::Module(b"x".to_vec()),
            state: GitStateId::from_bytes([6; 32]),
        }],
        omitted: Some(small(7)),
        later: None,
    }
}

/// The lists that a git state names.
fn git_lists() -> [(&'static str, Vec<u8>); 6] {
    let hash = GitHash::Sha1;
    let target = GitTarget::Object(git_oid(1));
    let refs = vec![
        GitRef { name: ref_name("ORIG_HEAD"), target },
        GitRef {
            name: ref_name("refs/remotes/o/HEAD"),
            target: GitTarget::Symbolic(ref_name("refs/remotes/o/x")),
        },
    ];
    let entry = GitEntry {
        path: b"a/b".to_vec(),
        stage: 2,
        mode: GitMode::Executable,
        assume_valid: false,
        skip_worktree: true,
        intent_to_add: false,
        clean: Some(255),
        oid: git_oid(2),
    };
    let undo = GitUndo {
        path: b"u".to_vec(),
        stages: [None, Some((GitMode::File, git_oid(3))), Some((GitMode::Symlink, git_oid(4)))],
    };
    let index = GitIndex { hash, version: 4, sparse: true, entries: vec![entry], undo: vec![undo] };
    let setting = GitSetting {
        section: "branch".into(),
        subsection: Some(b"main".to_vec()),
        key: "remote".into(),
        value: b"o".to_vec(),
    };
    let file = GitFile { path: path("MERGE_MSG"), bytes: b"m\n".to_vec() };
    let omission = GitOmission { what: "core.sshcommand".into(), reason: GitOmitReason::Command };
    [
        ("git objects", GitOids { hash, oids: vec![git_oid(1), git_oid(2)] }.encode()),
        ("git refs", GitRefs { hash, refs }.encode()),
        ("git index", index.encode()),
        ("git settings", GitSettings(vec![setting]).encode()),
        ("git files", GitFiles(vec![file]).encode()),
        ("git omissions", GitOmissions(vec![omission]).encode()),
    ]
}

fn omissions() -> Omissions {
    Omissions(vec![
        Omission { path: path(".env"), reason: OmitReason::Secret },
        Omission { path: path("run/socket"), reason: OmitReason::Special },
    ])
}

#[test]
fn objects() {
    let [manifest_leaf, manifest_node] = manifests();
    let found = [
        ("empty tree", hex(&Tree::Leaf(Vec::new()).encode())),
        ("tree leaf", hex(&leaf().encode())),
        ("tree node", hex(&node().encode())),
        ("manifest leaf", hex(&manifest_leaf.encode())),
        ("manifest node", hex(&manifest_node.encode())),
        ("conversation", hex(&conversation().encode())),
        ("snapshot", hex(&snapshot().encode())),
        ("snapshot with git", hex(&snapshot_with_git().encode())),
        ("omissions", hex(&omissions().encode())),
        ("git state", hex(&git_state().encode())),
    ];
    let lists = git_lists().map(|(name, bytes)| (name, hex(&bytes)));
    let found = [&found[..], &lists].concat();
    assert_golden(
        &found,
        r"
        empty tree: 0000
        tree leaf: 000400800303626967808040[b1*32]02ed0303646972[d1*32]03ac0200a4030566696c65ff05[f1*32]01046c696e6b05[11*32]
        tree node: 01020161[01*32]8001010162[02*32]800102
        manifest leaf: 0002808010[01*33][02*32]
        manifest node: 0202808080808020[03*32]4d[04*32]
        conversation: 0106636c6175646504306131622a010d73657373696f6e2e6a736f6e6c808040[06*32]0209612f706c616e2e6d6405[07*32]05622e706e6705[08*32]
        snapshot: [01*17][02*32]ac0202[09*32][08*32][03*32]ed030105[04*32]01[05*32]80d0eab6b7330d68616c6620646f6e6520e29c93
        snapshot with git: 02[01*16][02*32]ac0202[09*32][08*32][03*32]ed030105[04*32][06*32]01[05*32]80d0eab6b7330d68616c6620646f6e6520e29c93
        omissions: 0203042e656e76010a72756e2f736f636b6574
        git state: 01010200000f726566732f68656164732f6d61696e05[01*33]808040[02*32]05[03*32]0001808040[04*32][05*33]0901066c6962732f78010178[06*32]0105[07*32]
        git objects: 0102[01*20][02*20]
        git refs: 0102094f5249475f4845414400[01*20]13726566732f72656d6f7465732f6f2f484541440110726566732f72656d6f7465732f6f2f78
        git index: 0104010103612f6251[02*20]80020101750001[03*21][04*20]
        git settings: 01066272616e636801046d61696e0672656d6f7465016f
        git files: 01094d455247455f4d5347026d0a
        git omissions: 01010f636f72652e737368636f6d6d616e64
    ",
    );
}

#[test]
fn ids() {
    let [manifest, _] = manifests();
    let found = [
        ("chunk", ChunkId::of(b"").to_string()),
        ("chunk of hello", ChunkId::of(b"hello").to_string()),
        ("manifest", ManifestId::of(&manifest.encode()).to_string()),
        ("tree", TreeId::of(&leaf().encode()).to_string()),
        ("conversation", ConversationId::of(&conversation().encode()).to_string()),
        ("snapshot", SnapshotId::of(&snapshot().encode()).to_string()),
        ("git state", GitStateId::of(&git_state().encode()).to_string()),
        ("device of a run", RunId::from_bytes([7; 16]).device().to_string()),
        ("hash of a ticket's secret", hex(&Ticket::secret_hash(&[9; SECRET]))),
    ];
    assert_golden(
        &found,
        r"
        chunk: 0f95ca210c549d91782967abd2f02fa495c52750cc1c59476061b306b1bb2366
        chunk of hello: fd178e81cc7bd2b5f68367d754339a7d3d38a1869c2b1e993e13869a50e79169
        manifest: bcf4453dc82d183a9fe0e1bd5261d8615a29ffcaf343909a6519697e1e3ff20d
        tree: fa5301d50c80a657be6b066edbfa326d0aa6b737a9a014145bc48d34b1cfcc45
        conversation: 3f7182e924ff109f1350975bc6eab864a12353d96ca0ba20f8b4babdc5986e8a
        snapshot: 74ff28fe58dc9165cbc7cbb1025522a3e165caa94a64e05855f73513adb173e7
        git state: 871782b30aed7b9b489a0d5033bddde4ad557a2edf2c2581d982e5631fffcf05
        device of a run: 3fe24f3965801c3f07d346bfd6d7631204a747e76aa3a88be8eebedf186f7d3d
        hash of a ticket's secret: 56af85c408ddd2e0866fbc08a53c0ee3146015e02f53105c9bf014623a0fa897
    ",
    );
}

/// Where wide directories and long manifests are cut.
#[test]
fn boundaries() {
    let mut nodes = 0;
    let entry = |i: u32| Entry {
        name: format!("{i:05}").into_bytes(),
        kind: EntryKind::File { mode: 0o644, blob: small(i as u8) },
    };
    let (tree, _) =
        build_tree::<std::convert::Infallible>((0..50_000).map(entry).collect(), |_, _, _| {
            nodes += 1;
            Ok(())
        })
        .unwrap();
    let extent = |i: u32| Extent { len: 1000, chunk: ChunkId::of(&i.to_le_bytes()) };
    let mut manifests = 0;
    let manifest =
        build_manifest::<std::convert::Infallible>((0..50_000).map(extent).collect(), |_, _, _| {
            manifests += 1;
            Ok(())
        })
        .unwrap();
    let found = [
        ("tree of 50,000 names", tree.to_string()),
        ("its nodes", nodes.to_string()),
        ("manifest of 50,000 chunks", hex(&manifest.id().hash)),
        ("its nodes", manifests.to_string()),
    ];
    assert_golden(
        &found,
        r"
        tree of 50,000 names: a6e5ba4e4aef5446f3cdacf9a15cc5a50f68f353f30c5c2910a01614b909cfe3
        its nodes: 385
        manifest of 50,000 chunks: ba068a99b14eeaa81fb69b56e66a9f09b62ab60697069331393b984ede6224b5
        its nodes: 134
    ",
    );
}

#[test]
fn tickets() {
    let ticket = Ticket {
        node: NodeId::from_bytes([7; 32]),
        secret: [9; SECRET],
        addresses: vec!["cloud.example:4319".into(), "[::1]:4319".into()],
    };
    assert_golden(
        &[("ticket", ticket.encode())],
        r"
        ticket: baton1a4dqobyha4dqobyha4dqobyha4dqobyha4dqobyha4dqobyha4dqscijbeeqscijbeeqscijbeeqscijbeeqeetdnrxxkzbomv4gc3lqnrstunbtge4quwz2hiyv2orugmytsjvo7hoa
    ",
    );
}

#[test]
fn batches() {
    let mut batch = Batch::new();
    batch.push_full(ObjectKind::Chunk, b"hello");
    let (base, object) = ([7; 300], [&[7; 100][..], b"delta", &[7; 190]].concat());
    let of = |bytes: &[u8]| ObjectId::of(ObjectKind::Chunk, bytes);
    batch.push_delta(of(&object), &object, of(&base), &base).unwrap();
    // A directory of one file, which is that.
    let directory = |bytes: &[u8]| {
        let content = Content::Chunk(ChunkId::of(bytes));
        let blob = Blob { size: bytes.len() as u64, content };
        let kind = EntryKind::File { mode: 0o644, blob };
        Tree::Leaf(vec![Entry { name: b"f".to_vec(), kind }]).encode()
    };
    let [old, new] = [directory(&base), directory(&object)];
    let of = |bytes: &[u8]| ObjectId::of(ObjectKind::Tree, bytes);
    batch.push_delta(of(&new), &new, of(&old), &old).unwrap();
    let body = batch.finish().unwrap();
    let header = encode_header(FrameKind::Objects, body.len()).unwrap();
    let found = [("header", hex(&header)), ("body", hex(&body))];
    assert_golden(
        &found,
        r"
        header: 1f00000002
        body: 1313038312270177270ca28f00c1000164050a010568656c6c6f64656c7461
    ",
    );
}

/// What zstd writes may change with its version; what it once wrote must stay readable.
#[test]
fn compressed_bytes_stay_readable() {
    let unhex = |hex: &str| data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
    let base: Vec<u8> = (0..200u8).collect();
    let mut object = base.clone();
    object.insert(100, 7);
    let packed = unhex("28b52ffd00505d0000080702008169a984656a80");
    let restored = delta::decompress_text(&base, &packed, object.len());
    assert_eq!(restored.ok().as_ref(), Some(&object));
    let whole = Parcel::decode(&unhex("030301016428b52ffd206445000010787801003f012c"))
        .unwrap()
        .whole()
        .unwrap();
    assert_eq!(whole, Some(vec![(ObjectKind::Chunk, vec![b'x'; 100])]));
}

fn run() -> RunInfo {
    RunInfo {
        spec: RunSpec {
            run: RunId::from_bytes([1; 16]),
            thread: ThreadId::from_bytes([2; 16]),
            workspace: WorkspaceId::from_bytes([3; 16]),
            snapshot: SnapshotId::from_bytes([4; 32]),
            agent: "command".into(),
            command: vec![b"ls".to_vec(), b"-l".to_vec()],
            prompt: Some("go".into()),
            parent: Some(RunId::from_bytes([6; 16])),
            terms: Terms {
                check: Some("ls".into()),
                timeout_ms: Some(300),
                input: Some(false),
                model: Some("m".into()),
                permissions: Some(Permissions::Edits),
            },
        },
        state: RunState::Interrupted,
        reason: None,
        result: Some(SnapshotId::from_bytes([5; 32])),
        exit_code: Some(-1),
        isolated: true,
        checkout: Some("/w".into()),
        created_at: 300,
        started_at: Some(301),
        ended_at: None,
        waiting: Some(Question {
            id: "1".into(),
            kind: QuestionKind::Permission,
            text: "rm?".into(),
            options: vec!["y".into()],
            asked_at: 300,
        }),
        checked: Some(Checked { state: CheckState::Failed, exit_code: Some(2), tail: "no".into() }),
    }
}

fn agent() -> AgentReport {
    AgentReport {
        agent: "a".into(),
        version: Some("1".into()),
        login: None,
        permissions: Permissions::All,
        problem: Some("p".into()),
        fix: None,
    }
}

fn secret() -> SecretEntry {
    SecretEntry { name: "TOKEN".into(), agent: Some("command".into()), push: None }
}

/// A request of each kind.
fn all_requests() -> Vec<(&'static str, Request)> {
    let hello = PushHello {
        workspace: WorkspaceId::from_bytes([1; 16]),
        base: None,
        new: SnapshotId::from_bytes([2; 32]),
        key: IdempotencyKey::from_bytes([3; 16]),
    };
    let id = RunId::from_bytes([1; 16]);
    let value = SecretValue::new(b"xyz".to_vec());
    let set = SetSecret { name: "TOKEN".into(), agent: None, value, push: None };
    vec![
        ("join", Request::Join { secret: [9; SECRET], name: "laptop".into() }),
        ("hello", Request::Hello),
        ("push", Request::Push(hello)),
        ("fetch", Request::Fetch),
        ("refs", Request::Refs),
        ("create run", Request::CreateRun(run().spec)),
        ("list runs", Request::ListRuns),
        ("show run", Request::ShowRun(id)),
        ("logs", Request::Logs { run: id, from: 300, follow: true }),
        ("wait run", Request::WaitRun(id)),
        ("cancel run", Request::CancelRun(id)),
        ("ahead", Request::Ahead),
        ("set secret", Request::SetSecret(Box::new(set))),
        ("list secrets", Request::ListSecrets),
        ("remove secret", Request::RemoveSecret(secret())),
        ("say run", Request::SayRun { run: id, text: Some("hi".into()), end: true }),
        (
            "answer run",
            Request::AnswerRun {
                run: id,
                question: Some("1".into()),
                answer: Answer::Text("y".into()),
            },
        ),
        ("delete run", Request::DeleteRun(id)),
        ("keep run", Request::KeepRun(id)),
        ("check agents", Request::CheckAgents(vec!["a".into()])),
        ("try an agent", Request::TryAgent("a".into())),
        ("forget", Request::Forget(Forget::Thinned(vec![SnapshotId::from_bytes([5; 32])]))),
        ("forget run", Request::Forget(Forget::Run(id))),
    ]
}

fn openings(newest: u16) -> Vec<(&'static str, String)> {
    let opening = |(name, request)| {
        let opening = Opening { newest, ..Opening::new(request) };
        (name, hex(&message::encode(&opening).unwrap()))
    };
    all_requests().into_iter().map(opening).collect()
}

#[test]
fn requests() {
    assert_golden(
        &openings(message::VERSION),
        r"
        join: 1e00000001040500[09*20]066c6170746f70
        hello: 0300000001040501
        push: 4400000001040502[01*16]00[02*32][03*16]
        fetch: 0300000001040503
        refs: 0300000001040504
        create run: 8500000001040505[01*16][02*16][03*16][04*32]07636f6d6d616e6402026c73022d6c0102676f01[06*16]01026c7301ac02010001016d0101
        list runs: 0300000001040506
        show run: 1300000001040507[01*16]
        logs: 1600000001040508[01*16]ac0201
        wait run: 1300000001040509[01*16]
        cancel run: 130000000104050a[01*16]
        ahead: 030000000104050b
        set secret: 0f0000000104050c05544f4b454e000378797a00
        list secrets: 030000000104050d
        remove secret: 130000000104050e05544f4b454e0107636f6d6d616e6400
        say run: 180000000104050f[01*17]02686901
        answer run: 1900000001040510[01*18]31020179
        delete run: 1300000001040511[01*16]
        keep run: 1300000001040512[01*16]
        check agents: 0600000001040513010161
        try an agent: 05000000010505140161
        forget: 25000000010505150101[05*32]
        forget run: 140000000105051502[01*16]
    ",
    );
    let want = ObjectId { kind: ObjectKind::Tree, hash: [6; 32] };
    let found = [
        ("commit", hex(&message::encode(&PushRequest::Commit).unwrap())),
        ("want", hex(&message::encode(&FetchRequest::Want(vec![want.into()])).unwrap())),
        ("offer", hex(&message::encode(&AheadRequest::Offer(vec![[7; 8]])).unwrap())),
        ("end", hex(&message::encode(&AheadRequest::End).unwrap())),
    ];
    assert_golden(
        &found,
        r"
        commit: 010000000100
        want: 2300000001000103[06*32]
        offer: 0a000000010001[07*8]
        end: 010000000101
    ",
    );
}

#[test]
fn what_version_4_has_is_as_it_was() {
    let mut found = openings(4);
    found.retain(|(name, _)| !["try an agent", "forget", "forget run"].contains(name));
    assert_golden(
        &found,
        r"
        join: 1e00000001040400[09*20]066c6170746f70
        hello: 0300000001040401
        push: 4400000001040402[01*16]00[02*32][03*16]
        fetch: 0300000001040403
        refs: 0300000001040404
        create run: 8500000001040405[01*16][02*16][03*16][04*32]07636f6d6d616e6402026c73022d6c0102676f01[06*16]01026c7301ac02010001016d0101
        list runs: 0300000001040406
        show run: 1300000001040407[01*16]
        logs: 1600000001040408[01*16]ac0201
        wait run: 1300000001040409[01*16]
        cancel run: 130000000104040a[01*16]
        ahead: 030000000104040b
        set secret: 0f0000000104040c05544f4b454e000378797a00
        list secrets: 030000000104040d
        remove secret: 130000000104040e05544f4b454e0107636f6d6d616e6400
        say run: 180000000104040f[01*17]02686901
        answer run: 1900000001040410[01*18]31020179
        delete run: 1300000001040411[01*16]
        keep run: 1300000001040412[01*16]
        check agents: 0600000001040413010161
    ",
    );
    // And it is understood.
    for (name, request) in all_requests().into_iter().take(found.len()) {
        let asked = Opening { oldest: 4, newest: 4, request };
        let frame = message::encode(&asked).unwrap();
        assert_eq!(Opening::decode(&frame[5..]).unwrap(), asked, "{name}");
    }
}

#[test]
fn replies() {
    let id = ObjectId { kind: ObjectKind::Chunk, hash: [6; 32] };
    let snapshot = SnapshotId::from_bytes([2; 32]);
    let head = Head {
        workspace: WorkspaceId::from_bytes([1; 16]),
        device: DeviceId::from_bytes([3; 32]),
        snapshot,
        sequence: 300,
    };
    let entry = LogEntry { time: 300, stream: LogStream::Node, text: b"x\n".to_vec() };
    let welcome = Welcome {
        user: "owner".into(),
        device: DeviceId::from_bytes([3; 32]),
        role: "run".into(),
        program: "0.1.0".into(),
    };
    let refusal = Refusal { code: RefusalCode::Unavailable, message: "no".into() };
    let reply = |reply: Reply| hex(&message::encode(&reply).unwrap());
    let found = [
        ("refused", reply(Reply::Refused(refusal))),
        ("welcome", reply(Reply::Welcome(welcome))),
        ("refs", reply(Reply::Refs(vec![head]))),
        ("run", reply(Reply::Run(Box::new(run())))),
        ("runs", reply(Reply::Runs(Vec::new()))),
        ("acked", reply(Reply::Push(PushReply::Acked { snapshot, sequence: 300 }))),
        ("head moved", reply(Reply::Push(PushReply::HeadMoved { head: Some((snapshot, 300)) }))),
        ("missing", reply(Reply::Push(PushReply::Missing { ids: vec![id.into()], more: true }))),
        ("need full", reply(Reply::Push(PushReply::NeedFull { items: vec![0, 300] }))),
        ("done", reply(Reply::Fetch(FetchReply::Done { sent: 300, absent: Some(id.into()) }))),
        ("log", reply(Reply::Log(LogReply::Entries(vec![entry])))),
        ("end of log", reply(Reply::Log(LogReply::End))),
        ("wanted", reply(Reply::Ahead(AheadReply::Wanted(true)))),
        ("kept", reply(Reply::Ahead(AheadReply::Kept))),
        ("secrets", reply(Reply::Secrets(vec![secret()]))),
        ("agents", reply(Reply::Agents(vec![agent()]))),
    ];
    assert_golden(
        &found,
        r"
        refused: 0500000001000a026e6f
        welcome: 310000000101056f776e6572[03*33]72756e05302e312e30
        refs: 540000000102[01*17][03*32][02*32]ac02
        run: c70000000103[01*16][02*16][03*16][04*32]07636f6d6d616e6402026c73022d6c0102676f01[06*16]01026c7301ac02010001016d0101070001[05*32]01010101022f77ac0201ad02000101310103726d3f010179ac0201020104026e6f
        runs: 02000000010400
        acked: 24000000010500[02*32]ac02
        head moved: 2500000001050101[02*32]ac02
        missing: 250000000105020101[06*32]01
        need full: 060000000105030200ac02
        done: 26000000010600ac020101[06*32]
        log: 0900000001070001ac020202780a
        end of log: 02000000010701
        wanted: 0300000001080001
        kept: 02000000010801
        secrets: 1200000001090105544f4b454e0107636f6d6d616e6400
        agents: 0d000000010a010161010131000201017000
    ",
    );
}

#[test]
fn numbers() {
    for (at, reason) in OmitReason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, at + 1);
    }
    for (at, reason) in GitOmitReason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, at + 1);
    }
    for (at, mode) in GitMode::ALL.into_iter().enumerate() {
        assert_eq!(mode as usize, at);
    }
    for (at, kind) in ObjectKind::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, at + 1);
    }
    // Messages number their enumerations by position.
    for (at, state) in RunState::ALL.into_iter().enumerate() {
        assert_eq!(message::encode(&state).unwrap()[5..], [at as u8]);
    }
    assert_eq!(message::encode(&RefusalCode::Version).unwrap()[5..], [0]);
    assert_eq!(message::encode(&RefusalCode::Unavailable).unwrap()[5..], [10]);
    assert_eq!(message::encode(&RefusalCode::Busy).unwrap()[5..], [11]);
    assert_eq!(message::ALPN, b"baton/1");
    assert_eq!(message::ALPN_TCP, b"baton-tcp/1");
    assert_eq!((message::OLDEST, message::VERSION), (4, 5));
}
