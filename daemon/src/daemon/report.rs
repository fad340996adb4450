//! From what the store knows to what `--json` prints.

use std::path::PathBuf;

use baton_protocol::id::{GitStateId, SnapshotId};
use baton_protocol::message::{Question, QuestionKind, RunInfo};
use baton_protocol::object::{Conversation, GitOmission, Omission, Snapshot};
use baton_store::checkout::RestoredRepository;
use baton_store::git::{self, GitError, Linked, Summary};
use baton_store::objects::ObjectSource;
use baton_store::snapshot::{load_conversation, load_omissions};

use crate::api::control::{
    Bytes, CheckEntry, ConversationReceipt, GitOmittedEntry, GitReceipt, OmittedEntry, PushFields,
    Receipt, ReportPath, RunEntry, SnapshotAnswer, TimingMs, WaitingEntry,
};
use crate::clock::{decimal_ms, rfc3339};
use crate::workspace::{Taken, split_torn};

/// Omissions as reports carry them.
pub fn omitted<'a>(list: impl IntoIterator<Item = &'a Omission>) -> Vec<OmittedEntry> {
    let entry = |omission: &Omission| OmittedEntry {
        path: ReportPath::new(omission.path.as_bytes()),
        reason: omission.reason.name().to_owned(),
    };
    list.into_iter().map(entry).collect()
}

/// What was carried of a snapshot and what was not: the same object on every machine, but for what
/// this machine's own file system could not take.
pub fn receipt<S: ObjectSource + ?Sized>(
    source: &S,
    id: SnapshotId,
    snapshot: &Snapshot,
    not_carried: &[Omission],
    isolated: Option<bool>,
) -> Result<Receipt, GitError> {
    let list = load_omissions(source, snapshot)?;
    let (left_out, _) = split_torn(&list);
    let mut all = omitted(left_out);
    all.extend(omitted(not_carried));
    let (mut attachments, mut carried) = (Vec::new(), None);
    for &conversation in &snapshot.conversations {
        let conversation = load_conversation(source, conversation)?;
        let names = conversation.attachments.iter().map(|part| part.path.display().into_owned());
        attachments.extend(names);
        carried = carried.or_else(|| of_conversation(conversation));
    }
    Ok(Receipt {
        snapshot: id.to_string(),
        root: snapshot.root.to_string(),
        verified: true,
        isolated,
        git: snapshot.git.map(|git| of_git(source, git)).transpose()?,
        conversation: carried,
        attachments,
        omitted: all,
    })
}

fn of_conversation(conversation: Conversation) -> Option<ConversationReceipt> {
    let Conversation { agent, session: id, messages, transcript, .. } = conversation;
    (!transcript.is_empty()).then_some(ConversationReceipt { agent, id, messages })
}

/// The conversation of a snapshot, where it has one that can be read here.
pub fn conversation<S: ObjectSource + ?Sized>(
    source: &S,
    snapshot: &Snapshot,
) -> Option<ConversationReceipt> {
    let all = snapshot.conversations.iter();
    all.filter_map(|&id| load_conversation(source, id).ok()).find_map(of_conversation)
}

/// What a receipt says of a repository that was made again here: what was not taken, too; nothing where it was not made.
pub fn made(receipt: &mut Receipt, made: &RestoredRepository) {
    match made {
        RestoredRepository::Absent => {}
        RestoredRepository::Rebuilt(omitted) => add_omitted(receipt, omitted),
        RestoredRepository::Failed(_) => receipt.git = None,
    }
}

/// The same of a linked worktree, which has a branch of its own and no list of stashes.
pub fn linked(receipt: &mut Receipt, linked: &Linked) {
    if let Some(git) = &mut receipt.git {
        git.branch = Some(linked.branch().to_owned());
        git.stashes = 0;
        git.shallow = linked.is_shallow();
    }
    add_omitted(receipt, linked.omitted());
}

/// Adds what was not taken here to what a receipt says of a repository.
pub(super) fn add_omitted(receipt: &mut Receipt, omitted: &[GitOmission]) {
    let Some(git) = &mut receipt.git else { return };
    for entry in omitted.iter().cloned().map(git_entry) {
        if !git.omitted.contains(&entry) {
            git.omitted.push(entry);
        }
    }
}

/// The same of one thing.
pub(super) fn git_entry(omission: GitOmission) -> GitOmittedEntry {
    GitOmittedEntry { what: omission.what, reason: omission.reason.name().to_owned() }
}

fn of_git<S: ObjectSource + ?Sized>(source: &S, id: GitStateId) -> Result<GitReceipt, GitError> {
    let Summary { head, branch, index_entries, stashes, commits_carried, operation, shallow } =
        git::summarize(source, id)?;
    let omitted = git::load_git_omissions(source, id)?;
    Ok(GitReceipt {
        head,
        branch,
        index_entries,
        stashes,
        commits_carried,
        operation: operation.map(str::to_owned),
        shallow,
        omitted: omitted.into_iter().map(git_entry).collect(),
    })
}

/// The answer to `snapshot` and `push`.
pub fn snapshot(
    taken: &Taken,
    id: SnapshotId,
    sequence: u64,
    timing_ms: TimingMs,
    push: Option<PushFields>,
) -> SnapshotAnswer {
    let (left_out, torn) = split_torn(&taken.omitted);
    SnapshotAnswer {
        snapshot: id.to_string(),
        sequence,
        files: taken.sums.files,
        bytes: taken.sums.bytes,
        files_changed: taken.files_changed,
        omitted: omitted(left_out),
        torn: torn.iter().map(|omission| ReportPath::new(omission.path.as_bytes())).collect(),
        timing_ms,
        push,
    }
}

/// How long taking a snapshot took; the caller adds the rest.
pub fn timing(taken: &Taken) -> TimingMs {
    TimingMs {
        barrier: Some(decimal_ms(taken.barrier)),
        scan: Some(decimal_ms(taken.scan)),
        store: Some(decimal_ms(taken.store)),
        send: None,
        total: decimal_ms(taken.barrier + taken.scan + taken.store),
    }
}

/// A run of a node.
pub fn run(remote: &str, info: &RunInfo) -> RunEntry {
    let spec = &info.spec;
    RunEntry {
        run: spec.run.to_string(),
        thread: spec.thread.to_string(),
        remote: remote.to_owned(),
        workspace: spec.workspace.to_string(),
        state: info.state.name().to_owned(),
        reason: info.reason.clone(),
        agent: spec.agent.clone(),
        command: spec.command.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect(),
        prompt: spec.prompt.clone(),
        parent: spec.parent.map(|parent| parent.to_string()),
        snapshot: spec.snapshot.to_string(),
        result: info.result.map(|id| id.to_string()),
        exit_code: info.exit_code,
        waiting: info.waiting.as_ref().map(waiting),
        check: spec.terms.check.as_ref().map(|command| check(command, info)),
        timeout_ms: spec.terms.timeout_ms,
        isolated: info.isolated,
        checkout: info.checkout.clone(),
        started_at: info.started_at.map(rfc3339),
        ended_at: info.ended_at.map(rfc3339),
    }
}

fn waiting(question: &Question) -> WaitingEntry {
    let kind = match question.kind {
        QuestionKind::Input => "input",
        QuestionKind::Permission => "permission",
    };
    WaitingEntry {
        id: question.id.clone(),
        kind: kind.to_owned(),
        text: question.text.clone(),
        options: question.options.clone(),
        since: rfc3339(question.asked_at),
    }
}

fn check(command: &str, info: &RunInfo) -> CheckEntry {
    let checked = info.checked.as_ref();
    let begun = checked.map(|checked| checked.state.name());
    let waits = if info.state.is_final() { "interrupted" } else { "pending" };
    CheckEntry {
        command: command.to_owned(),
        exit_code: checked.and_then(|checked| checked.exit_code),
        state: begun.unwrap_or(waits).to_owned(),
        output: checked.map(|checked| checked.tail.clone()).unwrap_or_default(),
    }
}

/// The path that a command line sent as bytes.
pub fn to_path(bytes: Bytes) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    PathBuf::from(std::ffi::OsString::from_vec(bytes.0))
}
