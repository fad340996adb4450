//! What agents have said of themselves lately: a handoff asks, and their programs need up to seconds to start.
//!
//! Only good answers are kept, and only in memory: whoever has just mended something is not told of what was before.
//!
//! **Invariant:** an answer holds for what was asked: the same program, with the same settings and keys. It is forgotten where a
//! run of the agent fails, and after [`KEPT`].

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use baton_protocol::id::VaultId;

use super::AgentProgram;
use super::environment::Variables;
use crate::agents::ask::find_program;
use crate::clock::Clock;

/// How long an answer holds: who logs out elsewhere is found out after that, or by a run that fails.
const KEPT: Duration = Duration::from_mins(5);

/// Answers that are kept at once.
const MOST: usize = 1000;

/// All that an answer depends on, as a hash: keys are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity([u8; 32]);

impl Identity {
    /// That of a program as it is now; nothing where it is not there. `HOME` is another one each time.
    pub(super) fn of(program: &str, variables: &Variables, set_up: &AgentProgram) -> Option<Self> {
        let path = variables.iter().find(|(name, _)| name == "PATH");
        let file = find_program(program, path.map_or(OsStr::new(""), |(_, path)| path))?;
        let target = file.canonicalize().ok()?;
        let found = target.metadata().ok()?;
        let mut all = Sum(ring::digest::Context::new(&ring::digest::SHA256));
        all.add(file.as_os_str().as_bytes());
        all.add(target.as_os_str().as_bytes());
        let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
        for time in times {
            all.add(&time.to_le_bytes());
        }
        let numbers = [found.dev(), found.ino(), found.len()];
        for number in numbers {
            all.add(&number.to_le_bytes());
        }
        for argument in &set_up.arguments {
            all.add(argument.as_bytes());
        }
        for (name, value) in variables.iter().filter(|(name, _)| name != "HOME") {
            all.add(name.as_bytes());
            all.add(value.as_bytes());
        }
        let sum = all.0.finish();
        sum.as_ref().try_into().ok().map(Self)
    }
}

/// Each part with its length before it.
struct Sum(ring::digest::Context);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

/// What an agent has said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) version: Option<String>,
    pub(super) login: Option<String>,
}

#[derive(Debug)]
struct Kept {
    identity: Identity,
    answer: Answer,
    at: Instant,
}

/// The good answers of agents, for each user.
#[derive(Debug)]
pub(super) struct Known {
    clock: Clock,
    all: Mutex<HashMap<(VaultId, String), Kept>>,
}

impl Known {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, all: Mutex::default() }
    }

    pub(super) fn get(
        &self,
        vault: VaultId,
        agent: &str,
        identity: Option<&Identity>,
    ) -> Option<Answer> {
        let all = self.all();
        let kept = all.get(&(vault, agent.to_owned()))?;
        let holds = Some(&kept.identity) == identity && self.clock.since(kept.at) < KEPT;
        holds.then(|| kept.answer.clone())
    }

    pub(super) fn keep(&self, vault: VaultId, agent: &str, identity: Identity, answer: Answer) {
        let mut all = self.all();
        all.retain(|_, kept| self.clock.since(kept.at) < KEPT);
        if all.len() < MOST {
            let kept = Kept { identity, answer, at: self.clock.instant() };
            all.insert((vault, agent.to_owned()), kept);
        }
    }

    /// Whatever is known of an agent is not believed any more.
    pub(super) fn forget(&self, agent: &str) {
        self.all().retain(|(_, known), _| known != agent);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<(VaultId, String), Kept>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_store::fs;

    #[test]
    fn an_answer_holds_for_what_was_asked_and_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent");
        fs::write_atomic(&file, b"#!/bin/sh\n", 0o755).unwrap();
        let variables = |key: &str| -> Variables {
            let path = folder.path().as_os_str().to_owned();
            vec![("PATH".into(), path), ("KEY".into(), key.into()), ("HOME".into(), "/x".into())]
        };
        let plain = AgentProgram::default();
        let of = |key: &str, set_up: &AgentProgram| Identity::of("agent", &variables(key), set_up);
        let first = of("a", &plain).unwrap();
        assert_eq!(of("a", &plain), Some(first));
        assert_ne!(of("b", &plain), Some(first));
        let arguments = AgentProgram { arguments: vec!["-x".to_owned()], ..plain.clone() };
        assert_ne!(of("a", &arguments), Some(first));
        assert_eq!(Identity::of("other", &variables("a"), &plain), None);

        let clock = Clock::manual(0);
        let known = Known::new(clock.clone());
        let [ann, bob] = [1, 2].map(|byte| VaultId::from_bytes([byte; VaultId::LEN]));
        let answer = Answer { version: Some("1".to_owned()), login: None };
        known.keep(ann, "agent", first, answer.clone());
        assert_eq!(known.get(ann, "agent", Some(&first)), Some(answer.clone()));
        assert_eq!(known.get(bob, "agent", Some(&first)), None);
        assert_eq!(known.get(ann, "other", Some(&first)), None);
        assert_eq!(known.get(ann, "agent", None), None);
        // Another version of the program is another one, at the same place.
        fs::write_atomic(&file, b"#!/bin/sh\n\n", 0o755).unwrap();
        let second = of("a", &plain).unwrap();
        assert_ne!(second, first);
        assert_eq!(known.get(ann, "agent", Some(&second)), None);
        clock.advance(KEPT);
        assert_eq!(known.get(ann, "agent", Some(&first)), None);
        known.keep(ann, "agent", second, answer);
        assert_eq!(known.all().len(), 1);
        known.forget("agent");
        assert_eq!(known.get(ann, "agent", Some(&second)), None);
    }
}
