//! A run that has not ended, in memory.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use baton_protocol::id::{RunId, VaultId};
use baton_protocol::message::{RunInfo, RunSpec};
use baton_store::catalog::runs::RunRow;
use tokio::sync::watch;

use super::agent::Speaks;
use super::checkout::Place;
use super::environment::{Folders, Installed, Variables};
use super::input::Input;
use super::log::writer::Log;
use super::turns::{Asked, Turn};

/// A run that has not ended.
pub(super) struct Live {
    pub(super) run: RunId,
    pub(super) user: String,
    pub(super) vault: VaultId,
    pub(super) spec: RunSpec,
    pub(super) folders: Folders,
    /// Known once it is prepared.
    pub(super) home: OnceLock<PathBuf>,
    pub(super) installed: OnceLock<Installed>,
    pub(super) info: watch::Sender<RunInfo>,
    pub(super) stop: watch::Sender<Option<Stop>>,
    pub(super) log: Arc<Log>,
    /// What is said to its program.
    pub(super) input: Input,
    /// Its agent's id of the conversation that it goes on with.
    pub(super) resumes: OnceLock<String>,
    /// What its program takes in before that.
    pub(super) imports: OnceLock<Vec<PathBuf>>,
    /// That of what it says, once that is known.
    pub(super) conversation: OnceLock<String>,
    /// What its agent is told of where it is.
    pub(super) told: OnceLock<String>,
    /// What its program reads, and who understands it.
    pub(super) speaks: OnceLock<Speaks>,
    /// Variables that its agent wants.
    pub(super) variables: OnceLock<Variables>,
    /// Why its agent has failed, in its own words.
    pub(super) failed: Mutex<Option<String>>,
    /// Its own while it is at work.
    pub(super) turn: Mutex<Option<Turn>>,
    /// Held while a snapshot of it is made; whether the last one was.
    pub(super) sealed: Arc<tokio::sync::Mutex<bool>>,
}

/// Why a run is to end before its program has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Its user wants it.
    Cancelled,
    /// The node shuts down.
    Interrupted,
    /// Its time is up.
    TookTooLong,
}

impl Live {
    pub(super) fn new(row: RunRow, folders: Folders, log: Arc<Log>) -> Self {
        Self {
            run: row.info.spec.run,
            user: row.user,
            vault: row.vault,
            spec: row.info.spec.clone(),
            folders,
            home: OnceLock::new(),
            installed: OnceLock::new(),
            info: watch::Sender::new(row.info),
            stop: watch::Sender::new(None),
            log,
            input: Input::default(),
            resumes: OnceLock::new(),
            imports: OnceLock::new(),
            conversation: OnceLock::new(),
            told: OnceLock::new(),
            speaks: OnceLock::new(),
            variables: OnceLock::new(),
            failed: Mutex::default(),
            turn: Mutex::default(),
            sealed: Arc::default(),
        }
    }

    pub(super) fn place(&self) -> Place {
        Place {
            home: Some(self.home()),
            conversation: self.conversation.get().cloned(),
            ..self.folders.place(&self.spec, self.vault)
        }
    }

    pub(super) fn has_home_at(&self, home: PathBuf) {
        // A run is prepared once.
        drop(self.home.set(home));
    }

    pub(super) fn home(&self) -> PathBuf {
        self.home.get().cloned().unwrap_or_else(|| self.folders.own_home())
    }

    pub(super) fn ask_to_stop(&self, stop: Stop) {
        self.stop.send_if_modified(|asked| {
            let first = asked.is_none();
            asked.get_or_insert(stop);
            first
        });
    }

    /// Waits until it is the run's turn, or says why it is not waited for any more.
    pub(super) async fn wait_for_turn(&self, asked: Asked) -> Result<(), Stop> {
        let turn = tokio::select! {
            biased;
            stop = self.stopped() => return Err(stop),
            turn = asked.turn() => turn,
        };
        *self.turn() = Some(turn);
        Ok(())
    }

    pub(super) fn turn(&self) -> MutexGuard<'_, Option<Turn>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets another one be at work.
    pub(super) fn give_turn_back(&self) {
        let turn = self.turn().take();
        drop(turn);
    }

    /// Resolves when the run is to end.
    pub(super) async fn stopped(&self) -> Stop {
        let mut asked = self.stop.subscribe();
        match asked.wait_for(Option::is_some).await.map(|stop| *stop) {
            Ok(Some(stop)) => stop,
            // The sender lives as long as `self`.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}
