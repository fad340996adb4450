//! What the command line and the daemon say to each other over the control socket.
//!
//! One JSON object a line. The command line sends one [`Call`]; the daemon answers with any number of
//! [`Event`]s, of which the last is `done` or `failed`. The answers are the objects that `--json` prints:
//! their field names are the contract of the command line.
//!
//! Not here: the socket itself, and what the commands do.

#![expect(missing_docs, reason = "the fields are those of the command-line contract")]

use baton_protocol::message::Terms;
use baton_protocol::message::secrets::SetSecret;
use serde::{Deserialize, Serialize};

pub use super::agents::{
    AgentEntry, AgentFolder, AgentFolders, AgentsAnswer, ConversationChoice, ConversationEntry,
    NodeAgent, NodeAgentsCall, SetupEntry,
};
pub use super::apply::{ApplyAnswer, ApplyCall, UndoAnswer};
pub use super::log::{LogAnswer, LogRun, LogSnapshot};
pub use super::receipt::{
    Bytes, ConversationReceipt, GitOmittedEntry, GitReceipt, OmittedEntry, Problem, Receipt,
    ReportPath,
};
pub use super::repair::{RepairAnswer, Unrepaired};
pub use super::steer::{CheckEntry, RunCall, SaidAnswer, WaitingEntry};

/// The first line from the command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    /// Version of the program that asks; another one makes the daemon refuse with `daemon-version`.
    pub version: String,
    /// What it asks.
    pub command: Command,
}

/// What the command line asks. Paths are absolute.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// `daemon status`.
    Ping,
    /// `daemon stop`. With `if_idle` it is refused while a run is live or another command runs.
    Stop { if_idle: bool },
    /// `ticket`.
    Ticket { user: Option<String>, role: Option<String>, expires_ms: u64, uses: u32 },
    /// `join`.
    Join { ticket: String, name: Option<String> },
    /// `remote list`.
    RemoteList,
    /// `remote default NAME`.
    RemoteDefault { name: String },
    /// `remote remove NAME`.
    RemoteRemove {
        name: String,
        /// Although something waits to be sent there.
        #[serde(default)]
        force: bool,
    },
    /// `device list`.
    DeviceList,
    /// `device revoke ID`; `device` is an id or a unique prefix.
    DeviceRevoke { device: String },
    /// `watch`.
    Watch { path: Bytes, remote: Option<String> },
    /// `unwatch`.
    Unwatch { path: Bytes },
    /// `allow PATH|FINDING`.
    Allow(AllowCall),
    /// `status [PATH]`.
    Status { path: Option<Bytes> },
    /// `snapshot`.
    Snapshot { path: Bytes, message: Option<String> },
    /// An agent has ended a turn in a workspace: a snapshot as those that are taken by themselves.
    Stopped { path: Bytes, message: String },
    /// `push`; with `wait` it is answered once the node has it.
    Push { path: Bytes, remote: Option<String>, wait: bool },
    /// `log`.
    Log { path: Bytes },
    /// `diff A [B]`; without `b` against the tree at `path`.
    Diff { a: String, b: Option<String>, path: Bytes, patch: bool },
    /// `restore`.
    Restore { snapshot: String, into: Bytes, remote: Option<String> },
    /// `handoff`.
    Handoff(Box<HandoffCall>),
    /// `agent check`, `agent list`: how agents stand on a node.
    NodeAgents(NodeAgentsCall),
    /// `run list`.
    RunList { remote: Option<String> },
    /// `run show`.
    RunShow { run: String },
    /// `run logs`; streams `line` events.
    RunLogs { run: String, follow: bool },
    /// `run wait`.
    RunWait { run: String },
    /// `run cancel`.
    RunCancel { run: String },
    /// `run say`, `run answer`, `run delete`, `run diff`.
    Run(RunCall),
    /// `follow-up`.
    FollowUp(Box<FollowUpCall>),
    /// `secret set`.
    SecretSet { secret: Box<SetSecret>, remote: Option<String> },
    /// `secret list`.
    SecretList { remote: Option<String> },
    /// `secret rm`; without an agent, for whichever the secret is.
    SecretRemove { name: String, agent: Option<String>, remote: Option<String> },
    /// `pull RUN --into DIR`.
    Pull(PullCall),
    /// `pull RUN --apply [PATH]`.
    Apply(Box<ApplyCall>),
    /// `undo [ID]`; without, the last apply to the workspace at `path`.
    Undo { id: Option<String>, path: Bytes },
    /// `queue`.
    Queue,
    /// `queue cancel ID`; `id` is an id or a unique prefix.
    QueueCancel { id: String },
    /// `check [--data]`.
    Check { data: bool },
    /// `repair`.
    Repair,
    /// `forget SNAPSHOT`, `forget --run RUN`, `forget --workspace W`.
    Forget(ForgetCall),
    /// `gc [--dry-run]`.
    Gc { dry_run: bool },
    /// `doctor`.
    Doctor,
}

/// `allow PATH|FINDING`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AllowCall {
    /// What was typed, as an absolute path; its folder is resolved.
    pub path: Bytes,
    /// What was typed, where that may be the beginning of a finding's id and no such file is there.
    pub finding: Option<String>,
    /// The current folder: of findings in several workspaces, the one in its own is meant.
    pub folder: Bytes,
    /// Take it back.
    pub revoke: bool,
}

impl Command {
    /// Whether asking twice does no more than asking once: nothing is started or issued by it.
    pub const fn may_be_repeated(&self) -> bool {
        !matches!(
            self,
            Self::Stop { .. }
                | Self::Ticket { .. }
                | Self::Join { .. }
                | Self::Handoff(_)
                | Self::RunCancel { .. }
                | Self::Run(RunCall::Say { .. } | RunCall::Answer { .. } | RunCall::Delete { .. })
                | Self::FollowUp(_)
                | Self::Restore { .. }
                | Self::Pull(_)
                | Self::Apply(_)
                | Self::Undo { .. }
                | Self::Forget(_)
        )
    }
}

/// `handoff`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HandoffCall {
    /// The workspace.
    pub path: Bytes,
    /// Which node; the default one unless said.
    pub remote: Option<String>,
    /// What the user asked. Of several each is for a run of its own.
    pub prompts: Vec<String>,
    /// How many runs, each on its own.
    pub variants: u32,
    /// Program and arguments; empty where an agent takes the prompt, or for a transfer only.
    pub command: Vec<Bytes>,
    /// Who does it. Of several each has a run of its own; nobody: whose conversation travels, or the configured one.
    #[serde(default)]
    pub by: Vec<String>,
    /// Absolute paths of files to attach.
    pub attachments: Vec<Bytes>,
    /// How long after it was asked for it may still start.
    pub expires_ms: Option<u64>,
    /// Say what would travel and change nothing on the node.
    pub dry_run: bool,
    /// How its runs are to be treated.
    pub terms: Terms,
    /// Which conversation travels.
    #[serde(default)]
    pub conversation: ConversationChoice,
    /// Of several it is this one, if that is among them: the one in which the handoff is asked for.
    #[serde(default)]
    pub speaks: Option<String>,
    /// Where it is looked for.
    #[serde(default)]
    pub agents: AgentFolders,
}

/// `follow-up`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FollowUpCall {
    /// The run, or its thread.
    pub run: String,
    /// What the user asked.
    pub prompt: Option<String>,
    /// Program and arguments; empty for those of the run.
    pub command: Vec<Bytes>,
    /// How long after it was asked for it may still start.
    pub expires_ms: Option<u64>,
    /// In a thread of its own.
    pub fork: bool,
    /// On this node; on that of the run unless said.
    pub remote: Option<String>,
    /// Files to take along.
    pub attachments: Vec<Bytes>,
    /// How it is to be treated; what is nothing is as it was for the run.
    pub terms: Terms,
}

/// What the daemon answers; the last one is `done` or `failed`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// How far it is.
    Progress(Progress),
    /// A push or handoff has this id, by which it can be cancelled.
    Accepted { queue: String },
    /// Something the user should read on stderr, and that is no failure.
    Note { message: String },
    /// A line of output of a run.
    Line(LogLine),
    /// It is done.
    Done(Box<Answer>),
    /// It failed.
    Failed(Failure),
}

/// How far a command is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// `scan`, `send`, `fetch`, `restore`, `check`, `collect`.
    pub stage: String,
    /// Files or objects done.
    pub done: u64,
    /// Of how many, where known.
    pub total: Option<u64>,
    /// Bytes done.
    pub bytes: u64,
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable, kebab-case: `not-found`, `remote-unreachable`, `target-not-empty`, …
    pub code: String,
    /// What we were doing and why it failed.
    pub message: String,
    /// The next command to type.
    pub hint: Option<String>,
    /// The exit code: 1, 2, 3, 4 or 5.
    pub exit: u8,
}

/// A line of output of a run, as `logs --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// RFC 3339 UTC.
    pub time: String,
    /// `stdout`, `stderr` or `node`.
    pub stream: String,
    /// Lossy UTF-8, with its line end.
    pub text: String,
    /// The exact bytes, only where `text` is lossy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_b64: Option<Bytes>,
}

/// The object that `--json` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Daemon(DaemonAnswer),
    Stopped(DaemonAnswer),
    Ticket(TicketAnswer),
    Join(JoinAnswer),
    Remotes(RemotesAnswer),
    Devices(DevicesAnswer),
    Watch(WatchAnswer),
    Allowed(AllowedAnswer),
    Status(StatusAnswer),
    Snapshot(SnapshotAnswer),
    Log(LogAnswer),
    Diff(DiffAnswer),
    Restore(RestoreAnswer),
    Handoff(Box<HandoffAnswer>),
    Runs(RunsAnswer),
    /// `run show` and `run wait`.
    Run(Box<RunEntry>),
    /// `run cancel` and `run delete`.
    Cancel(CancelAnswer),
    Said(SaidAnswer),
    RunDiff(RunDiffAnswer),
    FollowUp(Box<FollowUpAnswer>),
    /// To `node-agents`.
    NodeAgents(Vec<NodeAgent>),
    Secrets(SecretsAnswer),
    Queue(QueueAnswer),
    QueueCancelled(QueueCancelAnswer),
    /// `logs` has no object of its own: its lines were the output.
    LogsEnd,
    Pull(Box<PullAnswer>),
    Applied(Box<ApplyAnswer>),
    Undone(Box<UndoAnswer>),
    Check(CheckAnswer),
    Repair(RepairAnswer),
    Forget(ForgetAnswer),
    Gc(GcAnswer),
    Doctor(DoctorAnswer),
}

/// `daemon status` and `daemon stop`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DaemonAnswer {
    pub running: bool,
    pub pid: Option<u32>,
    pub version: Option<String>,
    pub home: String,
    /// Whether it is a `serve`.
    pub serving: bool,
}

/// `ticket`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TicketAnswer {
    pub ticket: String,
    pub user: String,
    pub role: String,
    pub uses: u32,
    pub expires_at: String,
}

/// `serve`, printed when ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServeAnswer {
    pub listening: String,
    pub advertised: Vec<String>,
    pub node_id: String,
    pub ticket: String,
}

/// `join`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinAnswer {
    pub remote: String,
    pub node_id: String,
    pub device_id: String,
    pub user: String,
}

/// `remote …`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemotesAnswer {
    pub remotes: Vec<RemoteEntry>,
}

/// One node that this home knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemoteEntry {
    pub name: String,
    pub node_id: String,
    pub user: String,
    pub addresses: Vec<String>,
    pub default: bool,
    /// Whether it is the node embedded in this daemon.
    pub embedded: bool,
    /// Over what it is connected now: `quic`, or `tcp` where UDP does not get through.
    #[serde(default)]
    pub transport: Option<String>,
}

/// `device …`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DevicesAnswer {
    pub devices: Vec<DeviceEntry>,
}

/// One device that may connect to this node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceEntry {
    pub device_id: String,
    pub user: String,
    pub name: String,
    pub role: String,
    pub last_seen: Option<String>,
    pub revoked: bool,
}

/// `secret …`: those that the node keeps now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretsAnswer {
    pub remote: String,
    pub secrets: Vec<SecretAnswer>,
}

/// One secret; never its value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretAnswer {
    pub name: String,
    /// Whose runs get it; null: those of every agent.
    pub agent: Option<String>,
    /// Of one for a git host: where runs may push, `run` (to their own branch) or `any`; else null.
    pub push: Option<String>,
}

/// `allow`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AllowedAnswer {
    /// What travels from now on.
    pub allowed: Vec<AllowedEntry>,
    /// What is held back again, after `--revoke`.
    pub revoked: Vec<AllowedEntry>,
}

/// A file, or a secret in whatever file of a workspace, that the secret scan lets through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowedEntry {
    pub workspace: String,
    /// Its root.
    pub root: String,
    /// The file, relative to the root; null where a finding was allowed.
    pub path: Option<String>,
    /// The exact bytes, only where `path` is lossy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<Bytes>,
    /// The finding; null where a file was allowed.
    pub finding: Option<String>,
    /// What was found, where it is known; never its content.
    pub rule: Option<String>,
}

/// `status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusAnswer {
    pub workspaces: Vec<WorkspaceEntry>,
    pub remotes: Vec<RemoteEntry>,
    pub daemon: DaemonAnswer,
    /// When this was so, by the clock of the daemon.
    #[serde(default)]
    pub as_of: String,
    /// Damage that was found in the stores, and is not repaired.
    #[serde(default)]
    pub damage: Vec<Problem>,
}

/// `watch` and `unwatch`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WatchAnswer {
    pub workspace: String,
    pub root: String,
}

/// One tree that is kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WorkspaceEntry {
    pub workspace: String,
    pub root: String,
    /// `synced`, `syncing`, `offline`, `paused` or `error`.
    pub state: String,
    pub pending_files: u64,
    pub head: Option<String>,
    pub acked: Option<String>,
    pub queued: u64,
    pub remote: Option<String>,
    pub last_error: Option<String>,
    /// When the snapshot was taken that the remote has.
    #[serde(default)]
    pub synced_at: Option<String>,
    /// Files that the secret scan holds back.
    #[serde(default)]
    pub held: Vec<HeldEntry>,
    /// How changes are noticed; null where the tree is not watched.
    #[serde(default)]
    pub watch: Option<WatchEntry>,
    /// How far a transfer is; null where nothing is on its way.
    #[serde(default)]
    pub progress: Option<SyncProgress>,
    /// `following` where the older part of a repository's history is not in the snapshot yet; null otherwise.
    #[serde(default)]
    pub history: Option<String>,
    /// Why that does not go on now; null where it does.
    #[serde(default)]
    pub history_waits: Option<String>,
}

/// A file that is held back, and why. Never what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldEntry {
    #[serde(flatten)]
    pub path: ReportPath,
    pub rule: String,
    /// Counted from 1.
    pub line: u64,
    /// The id by which `allow` takes it.
    pub finding: String,
}

/// How changes of a tree are noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchEntry {
    /// `inotify`, `notify`, `sweep`.
    pub backend: String,
    /// Directories whose changes the system tells.
    pub watched: u64,
    /// Directories that are looked through at every snapshot instead.
    pub swept: u64,
    /// Why, and what to do about it.
    pub note: Option<String>,
}

/// How far the transfer of a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncProgress {
    /// Files sent.
    pub files: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// Of how many, where known.
    pub total_bytes: Option<u64>,
    /// Bytes a second.
    pub rate: Option<u64>,
    /// Milliseconds, at this rate.
    pub left_ms: Option<u64>,
}

/// Milliseconds, decimals; a stage that did not happen is null.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct TimingMs {
    pub barrier: Option<f64>,
    pub scan: Option<f64>,
    pub store: Option<f64>,
    pub send: Option<f64>,
    pub total: f64,
}

/// `snapshot` and `push`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotAnswer {
    pub snapshot: String,
    pub sequence: u64,
    pub files: u64,
    pub bytes: u64,
    pub files_changed: u64,
    pub omitted: Vec<OmittedEntry>,
    /// Files that changed during every read; they are in the snapshot as last seen.
    pub torn: Vec<ReportPath>,
    pub timing_ms: TimingMs,
    /// What `push` adds.
    #[serde(flatten)]
    pub push: Option<PushFields>,
}

/// What `push` adds to a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PushFields {
    /// `acked`, `queued`.
    pub state: String,
    pub remote: String,
    pub bytes_sent: u64,
    pub objects_sent: u64,
    pub round_trips: u64,
    /// Its id in the queue, where it is or was there.
    pub queue: Option<String>,
}

/// `diff`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiffAnswer {
    pub changes: Vec<ChangeEntry>,
    /// A unified diff, where `--patch` asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<String>,
}

/// `run diff`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunDiffAnswer {
    pub run: String,
    /// The run that it is compared with; nothing where that is what it started from.
    pub other: Option<String>,
    pub changes: Vec<RunChange>,
    /// A unified diff, where `--patch` asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<String>,
}

/// One path that a run changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunChange {
    #[serde(flatten)]
    pub change: ChangeEntry,
    /// Lines that are new; nothing where it is binary, or too large to be looked at.
    pub added: Option<u64>,
    /// Lines that are gone.
    pub removed: Option<u64>,
}

/// `follow-up`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FollowUpAnswer {
    pub run: String,
    pub thread: String,
    /// That of the run; `queued` also where the node cannot be reached.
    pub state: String,
    /// What it follows up.
    pub parent: String,
    /// What it starts from.
    pub snapshot: String,
    pub remote: String,
    pub checkout: Option<String>,
    /// Its id in the queue, where it waits for the network.
    pub queue: Option<String>,
}

/// One changed path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeEntry {
    #[serde(flatten)]
    pub path: ReportPath,
    /// `added`, `removed`, `modified`, `mode`, `type`.
    pub kind: String,
}

/// `restore`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestoreAnswer {
    pub root: String,
    pub files: u64,
    pub bytes: u64,
    pub receipt: Receipt,
}

/// `handoff`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HandoffAnswer {
    pub handoff: String,
    pub snapshot: String,
    /// `acked`; `queued`; `dry-run`.
    pub state: String,
    pub remote: String,
    /// Its id in the queue, where it is or was there.
    pub queue: Option<String>,
    pub runs: Vec<HandoffRun>,
    pub receipt: Receipt,
    pub files: u64,
    pub bytes: u64,
    pub bytes_sent: u64,
    pub objects_sent: u64,
    pub round_trips: u64,
    pub timing_ms: TimingMs,
}

/// A run that a handoff started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HandoffRun {
    pub run: String,
    pub thread: String,
    pub state: String,
    pub checkout: Option<String>,
}

/// `run list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunsAnswer {
    pub runs: Vec<RunEntry>,
    /// When the answer was true, where a node could not be reached.
    pub as_of: Option<String>,
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunEntry {
    pub run: String,
    pub thread: String,
    pub remote: String,
    pub workspace: String,
    pub state: String,
    pub reason: Option<String>,
    pub agent: String,
    pub command: Vec<String>,
    pub prompt: Option<String>,
    /// The run that this one follows up.
    pub parent: Option<String>,
    pub snapshot: String,
    pub result: Option<String>,
    pub exit_code: Option<i32>,
    pub waiting: Option<WaitingEntry>,
    /// Null where none was asked for.
    pub check: Option<CheckEntry>,
    /// After how many milliseconds it is ended, where that was asked for.
    pub timeout_ms: Option<u64>,
    pub isolated: bool,
    pub checkout: Option<String>,
    pub started_at: Option<String>,
    pub ended_at: Option<String>,
}

/// `run cancel`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CancelAnswer {
    pub run: String,
    pub state: String,
}

/// `queue`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueAnswer {
    pub queue: Vec<QueueEntry>,
}

/// A push or handoff that waits, is being sent, or was not sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueEntry {
    pub id: String,
    /// `push`, `handoff`.
    pub kind: String,
    /// `waiting`, `sending`; `failed`, `expired`: these are not sent any more.
    pub state: String,
    pub remote: String,
    pub workspace: String,
    pub snapshot: String,
    /// The run that a handoff starts.
    pub run: Option<String>,
    pub created_at: String,
    pub expires_at: Option<String>,
    pub attempts: u64,
    pub last_error: Option<String>,
}

/// `queue cancel`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueCancelAnswer {
    pub cancelled: Vec<String>,
}

/// `pull` into a folder of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullCall {
    pub run: String,
    /// Where to; nothing for beside the checkout.
    pub into: Option<Bytes>,
    /// The worktree in which that was typed.
    pub here: Option<Bytes>,
    /// Where a conversation goes on.
    #[serde(default)]
    pub agents: AgentFolders,
}

/// `pull` into a folder of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PullAnswer {
    pub root: String,
    /// The branch of the linked worktree; null where it is none.
    pub branch: Option<String>,
    /// Other refs that came, below `refs/handoff/`.
    pub refs: Vec<String>,
    pub snapshot: String,
    /// Whether the run was at work: it is what it had done by then.
    pub live: bool,
    pub files: u64,
    pub bytes: u64,
    pub applied: Vec<ReportPath>,
    pub merged: Vec<ReportPath>,
    pub conflicts: Vec<ReportPath>,
    pub skipped: Vec<OmittedEntry>,
    pub resume_command: Vec<String>,
    /// What the command line runs in `root` before that: never in what it answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub import_commands: Vec<Vec<String>>,
    pub undo: Option<String>,
    pub receipt: Receipt,
}

/// `check`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckAnswer {
    pub problems: Vec<Problem>,
    /// Snapshots whose whole closure was walked.
    pub snapshots: u64,
    pub objects: u64,
    /// Bytes of file data read and hashed; 0 without `--data`.
    pub bytes_read: u64,
}

/// What is to be forgotten.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ForgetCall {
    /// The beginning of a snapshot's id.
    Snapshot(String),
    /// The beginning of a run's id.
    Run(String),
    /// The beginning of a workspace's id.
    Workspace(String),
    /// The workspace at a path.
    Folder(Bytes),
}

/// `forget`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ForgetAnswer {
    /// Ids of what was forgotten.
    pub forgotten: Vec<String>,
    /// Remotes that could not be reached, and are told with the next push to them.
    pub queued: Vec<String>,
}

/// `gc`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GcAnswer {
    /// Bytes of files that are gone, or would be, about.
    pub freed_bytes: u64,
    /// Objects that are gone, or would be.
    pub objects: u64,
    /// Objects that are taken away once those end who use them.
    pub in_use: u64,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Why something was not taken away.
    pub problems: Vec<Problem>,
}

/// `doctor`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DoctorAnswer {
    pub checks: Vec<DoctorCheck>,
}

/// One thing that `doctor` looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DoctorCheck {
    pub name: String,
    pub ok: bool,
    pub detail: String,
    pub fix: Option<String>,
}
