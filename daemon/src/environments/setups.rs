//! Setting up one environment at a time: whoever wants one that somebody is setting up waits.
//!
//! **Invariant:** whoever sets up is known until it says how that ended, or is gone; then everybody who waits is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use baton_protocol::id::{RunId, VaultId, WorkspaceId};
use tokio::sync::watch;

use super::key::Key;

/// Which environment: a key says it within a workspace of a user.
pub type Which = (VaultId, WorkspaceId, Key);

/// How setting up has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is there.
    Made,
    /// It cannot be, in words for people.
    Failed(String),
    /// Whoever was at it went away.
    LeftOff,
}

/// Who is at it.
#[derive(Clone, Debug)]
struct AtWork {
    run: RunId,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// Environments that are being set up; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Setups(Arc<Mutex<HashMap<Which, AtWork>>>);

/// What who wants an environment is to do.
#[derive(Debug)]
pub enum Turn {
    /// Set it up.
    Mine(Mine),
    /// Wait.
    Wait(Wait),
}

/// Somebody else sets up.
#[derive(Debug)]
pub struct Wait {
    /// Who.
    pub by: RunId,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Wait {
    /// Resolves when that has ended.
    pub async fn outcome(&mut self) -> Outcome {
        match self.outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) {
            Ok(Some(outcome)) => outcome,
            Ok(None) | Err(_) => Outcome::LeftOff,
        }
    }
}

/// The right to set up; given up when it is dropped.
#[derive(Debug)]
pub struct Mine {
    setups: Setups,
    which: Which,
    outcome: watch::Sender<Option<Outcome>>,
}

impl Setups {
    /// Takes a turn: the first one sets up, the others wait.
    pub fn turn(&self, which: Which, run: RunId) -> Turn {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(AtWork { run, outcome }) = all.get(&which) {
            return Turn::Wait(Wait { by: *run, outcome: outcome.clone() });
        }
        let (outcome, receiver) = watch::channel(None);
        all.insert(which, AtWork { run, outcome: receiver });
        Turn::Mine(Mine { setups: self.clone(), which, outcome })
    }

    /// Whether somebody is setting it up.
    pub fn is_at_work(&self, which: &Which) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(which)
    }
}

impl Mine {
    /// Says how it ended.
    pub fn end(self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        // First off the list: who is told looks again, and must find nobody.
        let mut all = self.setups.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.which);
        drop(all);
        self.outcome.send_if_modified(|outcome| {
            let is_left = outcome.is_none();
            outcome.get_or_insert(Outcome::LeftOff);
            is_left
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn which(byte: u8) -> Which {
        let key = Key::parse(&"0a".repeat(32)).unwrap();
        (VaultId::from_bytes([byte; 16]), WorkspaceId::from_bytes([2; 16]), key)
    }

    fn run(byte: u8) -> RunId {
        RunId::from_bytes([byte; 16])
    }

    #[tokio::test]
    async fn the_first_one_sets_up_and_the_others_are_told() {
        let setups = Setups::default();
        for ended in [Outcome::Made, Outcome::Failed("no".to_owned()), Outcome::LeftOff] {
            let Turn::Mine(mine) = setups.turn(which(1), run(1)) else { panic!("nobody is") };
            let mut waiting = Vec::new();
            for other in 2..5 {
                let Turn::Wait(wait) = setups.turn(which(1), run(other)) else { panic!("one is") };
                assert_eq!(wait.by, run(1));
                waiting.push(wait);
            }
            // Another user's is another one.
            assert!(matches!(setups.turn(which(2), run(9)), Turn::Mine(_)));
            assert!(setups.is_at_work(&which(1)) && !setups.is_at_work(&which(2)));
            match &ended {
                Outcome::LeftOff => drop(mine),
                ended => mine.end(ended.clone()),
            }
            for mut wait in waiting {
                assert_eq!(wait.outcome().await, ended);
            }
        }
        assert!(matches!(setups.turn(which(1), run(2)), Turn::Mine(_)));
    }
}
