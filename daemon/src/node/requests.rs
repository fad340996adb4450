//! What a node answers to an enrolled device: pushes, fetches, refs, runs and their secrets.
//!
//! **Invariant:** the vault and the user of every answer are those of the device's key.

use std::sync::Arc;

use baton_protocol::id::{RunId, WorkspaceId};
use baton_protocol::message::{Forget, LogReply, MAX_AGENTS, RefusalCode, Reply, Request, RunSpec};
use baton_store::catalog::Catalog;
use baton_store::store::Store;
use baton_store::vault::Lease;
use tokio::sync::Notify;

use super::forget::forget;
use super::usage::Usage;
use super::{Handler, Handling, Session};
use crate::audit::Event;
use crate::runs::{Runs, RunsError};
use crate::secrets::Secrets;
use crate::sync::{Quota, SyncError, Wire, ahead, fetch, push};
use crate::task::Tasks;
use crate::transport::TransportError;

/// Answers from a store and the runs of a node.
pub struct Requests {
    /// Vaults and refs.
    pub store: Store,
    /// What was forgotten.
    pub catalog: Catalog,
    /// Runs.
    pub runs: Runs,
    /// What they are given.
    pub secrets: Secrets,
    /// What one push may cost.
    pub quota: Quota,
    /// What is kept for each device.
    pub usage: Usage,
    /// Told of what may have made the store larger.
    pub changed: Arc<Notify>,
    /// Where the blocking parts work.
    pub tasks: Tasks,
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

impl Handler for Requests {
    fn handle(self: Arc<Self>, session: Session, request: Request) -> Handling {
        Box::pin(async move {
            match request {
                Request::Push(_) | Request::Ahead | Request::Fetch => {
                    self.sync(session, request).await
                }
                Request::Refs => self.refs(session).await,
                Request::Logs { run, from, follow } => {
                    let log = self.runs.logs(&session.device.user, run, from, follow).await;
                    logs(session, log).await
                }
                Request::Forget(what) => self.forget(session, what).await,
                Request::SetSecret(_) | Request::ListSecrets | Request::RemoveSecret(_) => {
                    self.secrets(session, request).await
                }
                other => self.run(session, other).await,
            }
        })
    }
}

impl Requests {
    /// What moves objects: when it is its turn, on a blocking thread, to the end of the stream.
    async fn sync(&self, session: Session, request: Request) -> Result<(), TransportError> {
        let store = self.store.clone();
        let Session { device, stream, address, audit, place, turns } = session;
        let place = (place, turns.turn(device.id).await);
        let mut wire = Wire::new(stream);
        let (id, of, mut quota) = (device.id, device.vault, self.quota.clone());
        let (usage, catalog) = (self.usage.clone(), self.catalog.clone());
        let is_push = !matches!(request, Request::Fetch);
        let work = move || {
            // What it finds here stays until it ends.
            let _lease = store.lease();
            let vault = store.vault(device.vault).map_err(SyncError::Store);
            let vault = vault.and_then(|vault| {
                if is_push {
                    let kept = usage.of_device(&catalog, &vault, id);
                    quota.device = kept.map_err(SyncError::Store)?;
                    quota.vault = usage.of_user(&vault).map_err(SyncError::Store)?;
                }
                Ok(vault)
            });
            let outcome = vault.and_then(|vault| match &request {
                Request::Push(hello) => {
                    let acked = push::receive(&mut wire, &vault, id, hello, quota)?;
                    if acked {
                        let (user, workspace, snapshot) =
                            (&device.user, hello.workspace, hello.new);
                        let device = id;
                        audit.note(&Event::Push { device, user, workspace, snapshot, address });
                    }
                    Ok(())
                }
                Request::Ahead => ahead::receive(&mut wire, &vault, quota),
                _ => fetch::answer(&mut wire, &vault),
            });
            // Its places are held by the thread: it goes on where nobody waits for it any more.
            (wire, outcome, place)
        };
        let Ok((wire, outcome, place)) = self.tasks.spawn_blocking("sync", work).await else {
            return Ok(());
        };
        let mut stream = wire.into_stream();
        if is_push {
            self.usage.came(id, of);
        }
        self.changed.notify_one();
        let result = match outcome {
            Ok(()) => Ok(()),
            Err(SyncError::Transport(error)) => Err(error),
            Err(SyncError::Store(error)) => {
                stream.send(&Reply::Refused(super::refusal_for(&error))).await
            }
            Err(error) => {
                tracing::warn!(device = %id.short(), error = &error as &dyn std::error::Error, "a sync failed");
                Ok(())
            }
        };
        stream.finish();
        stream.reader.stop();
        stream.writer.delivered().await;
        drop(place);
        result
    }

    async fn refs(&self, mut session: Session) -> Result<(), TransportError> {
        let (store, vault) = (self.store.clone(), session.device.vault);
        let heads = self
            .tasks
            .spawn_blocking("refs", move || store.vault(vault).map(|vault| vault.heads()));
        match heads.await {
            Ok(Ok(heads)) => session.reply_list(heads, Reply::Refs).await,
            Ok(Err(error)) => session.refuse_for(&error).await,
            Err(_) => {
                session.refuse(RefusalCode::Internal, "the node failed; its log has more").await
            }
        }
    }

    async fn forget(&self, mut session: Session, what: Forget) -> Result<(), TransportError> {
        if let Forget::Workspaces(ids) = &what
            && let Err(error) = self.delete_runs(&session, ids).await
        {
            return refuse_run(&mut session, &error).await;
        }
        if let Forget::Run(run) = what
            && self.runs.show(&session.device.user, run).await.is_ok()
        {
            let message = format!("run {} is still known here: delete it first", run.short());
            return session.refuse(RefusalCode::Conflict, message).await;
        }
        let (store, catalog, vault) =
            (self.store.clone(), self.catalog.clone(), session.device.vault);
        let (audit, device, user) =
            (session.audit.clone(), session.device.id, session.device.user.clone());
        let usage = self.usage.clone();
        let work = move || {
            let _room = store.room_to_delete();
            let forgotten = forget((&store, &catalog), vault, &what)?;
            usage.renew();
            if forgotten.is_ok() {
                for what in named(&what) {
                    audit.note(&Event::Forget { device, user: &user, what: &what });
                }
            }
            Ok::<_, baton_store::error::StoreError>(forgotten)
        };
        match self.tasks.spawn_blocking("forget", work).await {
            Ok(Ok(Ok(()))) => session.reply(&Reply::Forgotten).await,
            Ok(Ok(Err(refusal))) => session.refuse(refusal.code, refusal.message).await,
            Ok(Err(error)) => session.refuse_for(&error).await,
            Err(error) => refuse_run(&mut session, &error.into()).await,
        }
    }

    /// Takes the runs of workspaces away; none of them, where one goes on.
    async fn delete_runs(
        &self,
        session: &Session,
        workspaces: &[WorkspaceId],
    ) -> Result<(), RunsError> {
        let (user, mut runs) = (&session.device.user, self.runs.list(&session.device.user).await?);
        runs.retain(|info| workspaces.contains(&info.spec.workspace));
        if let Some(live) = runs.iter().find(|info| !info.state.is_final()) {
            return Err(RunsError::Live(live.spec.run));
        }
        for info in runs {
            match self.runs.delete(user, info.spec.run).await {
                Ok(_) | Err(RunsError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn secrets(&self, mut session: Session, request: Request) -> Result<(), TransportError> {
        let (secrets, vault) = (self.secrets.clone(), session.device.vault);
        let named = match &request {
            Request::SetSecret(secret) => Some((secret.name.clone(), true)),
            Request::RemoveSecret(entry) => Some((entry.name.clone(), false)),
            _ => None,
        };
        let work = move || match request {
            Request::SetSecret(secret) => secrets.set(vault, &secret),
            Request::RemoveSecret(entry) => secrets.remove(vault, &entry),
            _ => secrets.list(vault),
        };
        let refusal = match self.tasks.spawn_blocking("secrets", work).await {
            Ok(Ok(kept)) => {
                if let Some((name, kept)) = &named {
                    let (device, user) = (session.device.id, &session.device.user);
                    session.audit.note(&Event::Secret { device, user, name, kept: *kept });
                }
                return session.reply(&Reply::Secrets(kept)).await;
            }
            Ok(Err(error)) => {
                let user = &session.device.user;
                tracing::warn!(%user, error = &error as &dyn std::error::Error, "secrets");
                error.refusal()
            }
            Err(error) => RunsError::from(error).refusal(),
        };
        session.refuse(refusal.code, refusal.message).await
    }

    async fn run(&self, mut session: Session, request: Request) -> Result<(), TransportError> {
        let user = session.device.user.clone();
        let done = Done::by(&request);
        let reply = match request {
            Request::CreateRun(spec) => match self.holds(&session, &spec).await {
                Ok(Some(_lease)) => {
                    self.runs.create(&user, session.device.vault, spec).await.map(run_reply)
                }
                Ok(None) => {
                    let message = "the snapshot that the run starts from is not on this node";
                    return session.refuse(RefusalCode::NotFound, message).await;
                }
                Err(error) => Err(error),
            },
            Request::ListRuns => match self.runs.list(&user).await {
                Ok(runs) => return session.reply_list(runs, Reply::Runs).await,
                Err(error) => Err(error),
            },
            Request::ShowRun(run) => self.runs.show(&user, run).await.map(run_reply),
            Request::WaitRun(run) => self.runs.wait(&user, run).await.map(run_reply),
            Request::CancelRun(run) => self.runs.cancel(&user, run).await.map(run_reply),
            Request::SayRun { run, text, end } => {
                self.runs.say(&user, run, text, end).await.map(run_reply)
            }
            Request::AnswerRun { run, question, answer } => {
                self.runs.answer(&user, run, question, answer).await.map(run_reply)
            }
            Request::DeleteRun(run) => self.runs.delete(&user, run).await.map(run_reply),
            Request::KeepRun(run) => self.runs.keep(&user, run).await.map(run_reply),
            Request::CheckAgents(names) if names.len() <= MAX_AGENTS => {
                self.runs.check_agents(session.device.vault, names).await.map(Reply::Agents)
            }
            Request::TryAgent(name) => {
                let tried = self.runs.try_agent(session.device.vault, name).await;
                tried.map(|report| Reply::Agents(vec![report]))
            }
            _ => return session.refuse(RefusalCode::Malformed, "not a request of this kind").await,
        };
        if let (Some(done), Ok(_)) = (&done, &reply) {
            let (device, user, address) = (session.device.id, &user, session.address);
            session.audit.note(&match done {
                Done::Started { run, agent } => {
                    let run = *run;
                    Event::RunStarted { device, user, run, agent, address }
                }
                &Done::Cancelled(run) => Event::RunCancelled { device, user, run, address },
                &Done::Deleted(run) => Event::RunDeleted { device, user, run, address },
            });
        }
        match reply {
            Ok(reply) => session.reply(&reply).await,
            Err(error) => refuse_run(&mut session, &error).await,
        }
    }

    /// Whether the snapshot of a run is whole in the vault of whoever asks for it: it stays so while the lease is held.
    async fn holds(&self, session: &Session, spec: &RunSpec) -> Result<Option<Lease>, RunsError> {
        let (store, vault, snapshot) = (self.store.clone(), session.device.vault, spec.snapshot);
        let work = move || {
            let lease = store.lease();
            let vault = store.vault(vault)?;
            let is_whole = vault.intake().missing(snapshot.into(), 1)?.is_empty();
            Ok::<_, baton_store::error::StoreError>(is_whole.then_some(lease))
        };
        Ok(self.tasks.spawn_blocking("run-snapshot", work).await??)
    }
}

/// What is written down of a request about a run.
enum Done {
    Started { run: RunId, agent: String },
    Cancelled(RunId),
    Deleted(RunId),
}

impl Done {
    fn by(request: &Request) -> Option<Self> {
        match request {
            Request::CreateRun(spec) => {
                Some(Self::Started { run: spec.run, agent: spec.agent.clone() })
            }
            Request::CancelRun(run) => Some(Self::Cancelled(*run)),
            Request::DeleteRun(run) => Some(Self::Deleted(*run)),
            _ => None,
        }
    }
}

/// What is taken away for good, in words of the audit log; thinning a history out is none of its events.
fn named(what: &Forget) -> Vec<String> {
    match what {
        Forget::Snapshots(ids) => ids.iter().map(|id| format!("snapshot {id}")).collect(),
        Forget::Thinned(_) => Vec::new(),
        Forget::Run(run) => vec![format!("run {run}")],
        Forget::Workspaces(ids) => ids.iter().map(|id| format!("workspace {id}")).collect(),
    }
}

fn run_reply(info: baton_protocol::message::RunInfo) -> Reply {
    Reply::Run(Box::new(info))
}

async fn refuse_run(session: &mut Session, error: &RunsError) -> Result<(), TransportError> {
    let refusal = error.refusal();
    if refusal.code == RefusalCode::Internal {
        tracing::error!(error = error as &dyn std::error::Error, "a request about a run failed");
    }
    session.refuse(refusal.code, refusal.message).await
}

async fn logs(
    mut session: Session,
    log: Result<crate::runs::follow::RunLog, RunsError>,
) -> Result<(), TransportError> {
    let mut log = match log {
        Ok(log) => log,
        Err(error) => return refuse_run(&mut session, &error).await,
    };
    loop {
        match log.next().await {
            Ok(Some(entries)) => {
                session.stream.send(&Reply::Log(LogReply::Entries(entries))).await?;
            }
            Ok(None) => return session.reply(&Reply::Log(LogReply::End)).await,
            Err(error) => return refuse_run(&mut session, &error).await,
        }
    }
}
