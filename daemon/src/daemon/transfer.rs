//! Between this home and a node: making it have a snapshot, getting one from it, and writing one out.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use baton_protocol::id::{IdempotencyKey, NodeId, ObjectKind, SnapshotId, WorkspaceId};
use baton_protocol::message::{Opening, PushHello, Request};
use baton_protocol::object::Snapshot;
use baton_protocol::session::push::{PushOutcome, PushStats};
use baton_store::checkout::{
    RepositoryOptions, RestoreOptions, Restored, RestoredRepository, restore_snapshot,
};
use baton_store::error::StoreError;
use baton_store::git::{self, Commands};
use baton_store::objects::ObjectSource;
use baton_store::plan::plan_push;
use baton_store::scan;
use baton_store::snapshot::load_snapshot;

use super::failure::{Fail, chain};
use super::remotes::{Target, only};
use super::{Daemon, report};
use crate::api::control::{Progress, Receipt};
use crate::api::socket::EventSender;
use crate::clock::decimal_ms;
use crate::sync::{SyncError, Wire, fetch, push};
use crate::transport::TransportError;
use crate::workspace::Workspaces;

/// How often progress is told while a tree is walked or written.
const PROGRESS: std::time::Duration = std::time::Duration::from_millis(100);

/// Tries of a push whose connection turned out to be dead: the second is on a new connection.
const TRIES: usize = 3;

/// Heads adopted in one push: another writer of the same ref is a copied home.
const MAX_ADOPTED: usize = 3;

/// A snapshot that a node has.
#[derive(Debug)]
pub(super) struct Pushed {
    pub(super) id: SnapshotId,
    pub(super) snapshot: Snapshot,
    pub(super) stats: PushStats,
    pub(super) send_ms: f64,
}

impl Daemon {
    /// Makes a node have a snapshot that is whole here; adopts what the node has where this home was
    /// put back. Ends with the code `cancelled` where `stop` is set before all of it is sent.
    ///
    /// The caller holds the [order](crate::queue::Queue::order) of the workspace and the node, or is the
    /// worker of the node's queue.
    pub(super) async fn push_snapshot(
        self: &Arc<Self>,
        target: &Target,
        (mut id, mut snapshot): (SnapshotId, Snapshot),
        stop: &Arc<AtomicBool>,
        events: &EventSender,
    ) -> Result<Pushed, Fail> {
        let _lease = self.store.lease();
        let started = self.clock.instant();
        let (workspace, node) = (snapshot.workspace, target.remote.node);
        let (mut base, overtaken) = self.known_base(node, id, &snapshot).await?;
        if let Some(head) = overtaken {
            (id, snapshot) = self.adopt((id, snapshot), head).await?;
        }
        let mut stats = PushStats::default();
        for _ in 0..=MAX_ADOPTED {
            let (outcome, cost) =
                self.push_once(target, base, id, &snapshot, (stop, events)).await?;
            stats.bytes_sent += cost.bytes_sent;
            stats.objects_sent += cost.objects_sent;
            stats.round_trips += cost.round_trips;
            match outcome {
                PushOutcome::Acked { snapshot: acked, .. } => {
                    self.acks.note(workspace, node, acked);
                    self.histories.wake(workspace);
                    self.tell_forgotten(target);
                    let send_ms = decimal_ms(self.clock.since(started));
                    tracing::info!(snapshot = %id, remote = %target.remote.name,
                        bytes = stats.bytes_sent, trips = stats.round_trips, "pushed");
                    return Ok(Pushed { id, snapshot, stats, send_ms });
                }
                // The node has never heard of this workspace, or has lost it: all of it travels.
                PushOutcome::HeadMoved { head: None } => base = None,
                PushOutcome::HeadMoved { head: Some((head, sequence)) } => {
                    if !self.continues(&snapshot, head).await? {
                        if !self.is_ours(workspace, head).await? {
                            events
                                .note(format!(
                                    "the node has snapshot {} of this workspace, which this home does \
                                     not know (was it restored from a backup?); it is kept as a parent",
                                    head.short()
                                ))
                                .await;
                        }
                        (id, snapshot) = self.adopt((id, snapshot), (head, sequence)).await?;
                    }
                    base = Some(head);
                }
            }
        }
        Err(Fail::new(
            "head-moves",
            "another machine keeps moving this workspace's ref on the node",
        )
        .hint("is this home a copy that is used in two places? give one of them a home of its own"))
    }

    /// What a node has acknowledged of a workspace; and the same with its number where that is a later
    /// snapshot than `id`: a ref never goes back, so that the older content goes there as a new one.
    async fn known_base(
        self: &Arc<Self>,
        node: NodeId,
        id: SnapshotId,
        snapshot: &Snapshot,
    ) -> Result<(Option<SnapshotId>, Option<(SnapshotId, u64)>), Fail> {
        let (workspace, sequence) = (snapshot.workspace, snapshot.sequence);
        let parents = snapshot.parents.clone();
        self.blocking("acked", move |daemon| {
            let base = daemon.acks.get(workspace, node)?;
            // Usually it is the parent, which is known to be older.
            let other = base.filter(|base| *base != id && !parents.contains(base));
            let overtaken = other.and_then(|base| {
                // Where it cannot be read, the node says where it is.
                let before = load_snapshot(&daemon.workspaces.vault, base).ok()?;
                (before.sequence >= sequence).then_some((base, before.sequence))
            });
            Ok((base, overtaken))
        })
        .await
    }

    /// Whether a head of a node was made here, or adopted.
    async fn is_ours(
        self: &Arc<Self>,
        workspace: WorkspaceId,
        head: SnapshotId,
    ) -> Result<bool, Fail> {
        self.blocking("head", move |daemon| {
            let own = daemon.workspaces.head(workspace).map(|own| own.snapshot);
            Ok(own == Some(head) || daemon.workspaces.vault.contains(&head.into())?)
        })
        .await
    }

    /// Whether a head of the node is in the history of a snapshot of ours.
    pub(super) async fn continues(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        head: SnapshotId,
    ) -> Result<bool, Fail> {
        let mut open = snapshot.parents.clone();
        self.blocking("history", move |daemon| {
            let mut seen = std::collections::HashSet::new();
            while let Some(id) = open.pop() {
                if id == head {
                    return Ok(true);
                }
                if seen.insert(id) && daemon.workspaces.vault.contains(&id.into())? {
                    match load_snapshot(&daemon.workspaces.vault, id) {
                        Ok(snapshot) => open.extend(snapshot.parents),
                        // What came before it is not known any more.
                        Err(error) if error.is_corruption() => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Ok(false)
        })
        .await
    }

    pub(super) async fn adopt(
        self: &Arc<Self>,
        (own, snapshot): (SnapshotId, Snapshot),
        head: (SnapshotId, u64),
    ) -> Result<(SnapshotId, Snapshot), Fail> {
        self.blocking("adopt", move |daemon| {
            Ok(daemon.workspaces.adopt(snapshot.workspace, own, &snapshot, head)?)
        })
        .await
    }

    /// One push, on a new connection where the kept one turns out to be dead: a replay is harmless.
    pub(super) async fn push_once(
        self: &Arc<Self>,
        target: &Target,
        base: Option<SnapshotId>,
        new: SnapshotId,
        snapshot: &Snapshot,
        (stop, events): (&Arc<AtomicBool>, &EventSender),
    ) -> Result<(PushOutcome, PushStats), Fail> {
        let hello = PushHello {
            workspace: snapshot.workspace,
            base,
            new,
            key: IdempotencyKey::from_bytes(crate::workspace::random()?),
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let stream = self.pool.open(&target.remote).await?;
            let mut wire = Wire::new(stream).stopped_by(Arc::clone(stop));
            let events = events.clone();
            let work = self.blocking("push", move |daemon| {
                let vault = &daemon.workspaces.vault;
                let plan = plan_push(vault, hello.base, hello.new)?;
                let total = plan.len() as u64;
                let outcome = push::send(&mut wire, vault, hello, plan, |stats, queued| {
                    events.progress(Progress {
                        stage: "send".to_owned(),
                        done: stats.objects_sent,
                        total: Some(total.max(stats.objects_sent + queued as u64)),
                        bytes: stats.bytes_sent,
                    });
                });
                wire.into_stream().finish();
                Ok(outcome)
            });
            let outcome = self.inhibitor.during(work).await?;
            match outcome {
                Err(error) if error.is_retryable() && tries < TRIES => {
                    tracing::debug!(%error, "pushing again");
                    self.pool.forget(target.remote.node).await;
                }
                other => return Ok(other?),
            }
        }
    }

    /// Makes sure that all of a snapshot is here: from this home, or from a node.
    pub(super) async fn fetch_from(
        self: &Arc<Self>,
        target: &Target,
        snapshot: SnapshotId,
        events: &EventSender,
    ) -> Result<(), Fail> {
        if self.is_whole(snapshot).await? {
            return Ok(());
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let mut stream = self.pool.open(&target.remote).await?;
            stream.send(&Opening::new(Request::Fetch)).await.or_else(|error| match error {
                // Its answer says why.
                TransportError::Stopped => Ok(()),
                error => Err(error),
            })?;
            let mut wire = Wire::new(stream);
            let events = events.clone();
            let outcome = self
                .blocking("fetch", move |daemon| {
                    let vault = &daemon.workspaces.vault;
                    let outcome =
                        fetch::fetch(&mut wire, vault, snapshot, |done, bytes, outstanding| {
                            let total = Some(done + outstanding);
                            events.progress(Progress {
                                stage: "fetch".to_owned(),
                                done,
                                total,
                                bytes,
                            });
                        });
                    wire.into_stream().finish();
                    Ok(outcome)
                })
                .await?;
            match outcome {
                Ok(_) => return Ok(()),
                Err(error) if error.is_retryable() && tries < TRIES => {
                    tracing::debug!(%error, "fetching again");
                    self.pool.forget(target.remote.node).await;
                }
                Err(SyncError::Fetch(error)) if is_absent(&error, snapshot) => {
                    let message = format!(
                        "{} does not have snapshot {}",
                        target.remote.name,
                        snapshot.short()
                    );
                    return Err(
                        Fail::new("not-found", message).hint("baton log, baton remote list")
                    );
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn is_whole(self: &Arc<Self>, snapshot: SnapshotId) -> Result<bool, Fail> {
        self.blocking("closure", move |daemon| {
            Ok(daemon.workspaces.vault.intake().missing(snapshot.into(), 1)?.is_empty())
        })
        .await
    }

    /// The snapshot that an id or a prefix means, whole here when this returns.
    pub(super) async fn obtain(
        self: &Arc<Self>,
        digits: &str,
        remote: Option<String>,
        events: &EventSender,
    ) -> Result<SnapshotId, Fail> {
        if digits.len() < baton_protocol::id::MIN_PREFIX {
            return only::<SnapshotId>(&[], "snapshot", digits, "baton log");
        }
        let wanted = digits.to_owned();
        let here = self
            .blocking("find", move |daemon| Ok(daemon.workspaces.vault.find_snapshots(&wanted)?))
            .await?;
        if let [id] = here.as_slice()
            && self.is_whole(*id).await?
        {
            return Ok(*id);
        }
        if here.len() > 1 {
            return only(&here, "snapshot", digits, "baton log");
        }
        let named = remote.is_some();
        let mut last = None;
        for target in self.targets(remote).await? {
            let found = match digits.parse::<SnapshotId>() {
                Ok(id) => Ok(vec![id]),
                Err(_) => self.heads_with(&target, digits).await,
            };
            let tried = match found.and_then(|ids| only(&ids, "snapshot", digits, "baton log")) {
                Ok(id) => self.fetch_from(&target, id, events).await.map(|()| id),
                Err(fail) => Err(fail),
            };
            match tried {
                Ok(id) => return Ok(id),
                Err(fail) if named => return Err(fail),
                // Of several failures the one that is not a plain "not here" tells more.
                Err(fail) if fail.0.code == "not-found" && last.is_some() => {}
                Err(fail) => last = Some(fail),
            }
        }
        Err(last.unwrap_or_else(|| {
            Fail::new("not-found", format!("there is no snapshot {digits}")).hint("baton log")
        }))
    }

    /// Heads of a node's refs that start with these digits.
    async fn heads_with(&self, target: &Target, digits: &str) -> Result<Vec<SnapshotId>, Fail> {
        match self.pool.request(&target.remote, Request::Refs).await? {
            baton_protocol::message::Reply::Refs(heads) => {
                let mut ids: Vec<SnapshotId> = heads.iter().map(|head| head.snapshot).collect();
                ids.retain(|id| id.to_string().starts_with(digits));
                ids.sort_unstable();
                ids.dedup();
                Ok(ids)
            }
            _ => Err(Fail::new("transport", "the node answered something else than was asked")),
        }
    }

    /// Writes a snapshot that is whole here into a new folder; `asked` is the one that a run was given, if it is what
    /// a run has left.
    pub(super) async fn write_out(
        self: &Arc<Self>,
        snapshot: SnapshotId,
        into: PathBuf,
        (asked, isolated): (Option<SnapshotId>, Option<bool>),
        events: &EventSender,
    ) -> Result<(Restored, Receipt), Fail> {
        let progress = Arc::new(scan::Progress::default());
        let watched = Arc::clone(&progress);
        let work = self.blocking("restore", move |daemon| {
            let vault = &daemon.workspaces.vault;
            let loaded = load_snapshot(vault, snapshot)?;
            if let Some(above) = into.parent() {
                // With the usual mode: the folders are the user's, and not ours.
                #[expect(clippy::disallowed_methods, reason = "the one of the store is private")]
                std::fs::create_dir_all(above).map_err(|error| {
                    Fail::new("restore", format!("creating {}: {error}", above.display()))
                })?;
            }
            let options = RestoreOptions::default();
            let repository = daemon.repository_options(snapshot, asked)?;
            let (restored, made) =
                restore_snapshot(vault, &loaded, &into, &options, &repository, &progress)?;
            let mut receipt =
                report::receipt(vault, snapshot, &loaded, &restored.not_carried, isolated)?;
            report::made(&mut receipt, &made);
            Ok(((restored, receipt), made))
        });
        let (done, made) = with_progress(work, &watched, "restore", events).await?;
        if let RestoredRepository::Failed(error) = made {
            let why = chain(&error);
            events.note(format!("the files are there, and the repository is not: {why}")).await;
        }
        tracing::info!(snapshot = %snapshot, files = done.0.files, "checkout");
        Ok(done)
    }
}

impl Daemon {
    /// How the repository of a snapshot is made again here; `asked` is the one that a run was given, if it is what a run
    /// has left. Of a snapshot of this home all may run that git would run when it goes on with what it is in the middle
    /// of, of any other one what was in the repository that went there.
    pub(super) fn repository_options(
        &self,
        snapshot: SnapshotId,
        asked: Option<SnapshotId>,
    ) -> Result<RepositoryOptions, Fail> {
        let Workspaces { vault, git, scratch, .. } = &self.workspaces;
        let commands = match asked {
            _ if self.is_own(snapshot)? => Commands::All,
            Some(asked) if self.is_own(asked)? => {
                let before = load_snapshot(vault, asked)?;
                let known = before.git.map(|git| git::commands(vault, git));
                Commands::Only(known.and_then(Result::ok).unwrap_or_default())
            }
            _ => Commands::Only(BTreeSet::new()),
        };
        Ok(RepositoryOptions { git: git.clone(), scratch: scratch.clone(), commands })
    }

    /// Whether this home made a snapshot: its own ref leads to it. What a snapshot says of itself proves nothing.
    fn is_own(&self, id: SnapshotId) -> Result<bool, Fail> {
        /// Snapshots that are gone through.
        const MAX_STEPS: usize = 10_000;
        let vault = &self.workspaces.vault;
        let workspace = match load_snapshot(vault, id) {
            Ok(snapshot) => snapshot.workspace,
            // What is not here was not made here.
            Err(StoreError::Absent(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if self.catalog.workspace(workspace)?.is_none() {
            // What a run left has a ref of ours where it went to another node.
            return Ok(false);
        }
        if self.catalog.history(workspace)?.iter().any(|row| row.snapshot == id) {
            return Ok(true);
        }
        let mut at = self.workspaces.head(workspace).map(|head| head.snapshot);
        for _ in 0..MAX_STEPS {
            let Some(here) = at else { return Ok(false) };
            if here == id {
                return Ok(true);
            }
            at = load_snapshot(vault, here).ok().and_then(|it| it.parents.first().copied());
        }
        Ok(false)
    }
}

/// Whether a fetch found that the node does not have the snapshot at all.
fn is_absent(error: &baton_protocol::session::fetch::FetchError, snapshot: SnapshotId) -> bool {
    use baton_protocol::session::fetch::FetchError;
    matches!(error, FetchError::Absent(id) if id.kind == ObjectKind::Snapshot && id.hash == *snapshot.as_bytes())
}

/// Tells how far a walk is until it is done.
pub(super) async fn with_progress<T>(
    work: impl Future<Output = T>,
    progress: &scan::Progress,
    stage: &str,
    events: &EventSender,
) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(PROGRESS) => events.progress(Progress {
                stage: stage.to_owned(),
                done: progress.files(),
                total: None,
                bytes: progress.bytes(),
            }),
        }
    }
}
