//! Threads of which one at a time has the turn, and the wires between them.
//!
//! Who has the turn keeps it until it reads what has not come, or has written something. A scheduler hands it on.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use baton_store::fs::simulated::Followed;

use crate::sync::tests::ends::{End, take_frame};
use crate::transport::TransportError;
use crate::transport::stream::Frame;

pub(super) type TaskNumber = usize;
pub(super) type LinkNumber = usize;

/// Everything that takes turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    turn: Option<TaskNumber>,
    tasks: Vec<TaskState>,
    links: Vec<Link>,
}

#[derive(Debug, Default)]
struct TaskState {
    is_done: bool,
    /// It reads here, and had seen so much.
    reads: Option<(LinkNumber, usize)>,
}

/// A wire, as both of its sides see it.
#[derive(Debug, Default)]
struct Link {
    /// Sent by each side and not arrived.
    flying: [VecDeque<u8>; 2],
    /// Arrived at each side.
    arrived: [VecDeque<u8>; 2],
    has_ended: [bool; 2],
    is_broken: bool,
}

impl Link {
    /// Whether somebody who waits on this side has anything to hear.
    fn has_news(&self, side: usize, seen: usize) -> bool {
        let other = 1 - side;
        let is_over = self.has_ended[other] && self.flying[other].is_empty();
        self.is_broken || is_over || self.arrived[side].len() > seen
    }
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread, which gets its first turn later.
    pub(super) fn start(
        self: &Arc<Self>,
        work: impl FnOnce(TaskNumber) + Send + 'static,
    ) -> TaskNumber {
        let mut state = self.state();
        state.tasks.push(TaskState::default());
        let task = state.tasks.len() - 1;
        drop(state);
        let turns = Arc::clone(self);
        let run = move || {
            turns.wait(turns.state(), task);
            let _last = LastWord(&turns, task);
            work(task);
        };
        std::thread::Builder::new().name(format!("task {task}")).spawn(run).unwrap();
        task
    }

    /// A new wire.
    pub(super) fn link(&self) -> LinkNumber {
        let mut state = self.state();
        state.links.push(Link::default());
        state.links.len() - 1
    }

    /// Hands the turn to a task and waits until it gives it back.
    pub(super) fn give(&self, task: TaskNumber) {
        let mut state = self.state();
        if state.tasks[task].is_done {
            return;
        }
        state.turn = Some(task);
        self.changed.notify_all();
        while state.turn.is_some() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait(&self, mut state: MutexGuard<'_, State>, task: TaskNumber) {
        while state.turn != Some(task) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives the turn back, and waits for the next one.
    fn pause(&self, mut state: MutexGuard<'_, State>, task: TaskNumber) {
        state.turn = None;
        self.changed.notify_all();
        self.wait(state, task);
    }

    pub(super) fn is_done(&self, task: TaskNumber) -> bool {
        self.state().tasks[task].is_done
    }

    /// Whether a task would do anything with a turn.
    pub(super) fn is_ready(&self, task: TaskNumber, side: usize) -> bool {
        let state = self.state();
        let TaskState { is_done, reads } = state.tasks[task];
        !is_done && reads.is_none_or(|(link, seen)| state.links[link].has_news(side, seen))
    }

    /// Bytes under way to a side.
    pub(super) fn flying_to(&self, link: LinkNumber, side: usize) -> usize {
        self.state().links[link].flying[1 - side].len()
    }

    /// Lets bytes arrive.
    pub(super) fn deliver(&self, link: LinkNumber, side: usize, count: usize) {
        let mut state = self.state();
        let link = &mut state.links[link];
        let bytes: Vec<u8> = link.flying[1 - side].drain(..count).collect();
        link.arrived[side].extend(bytes);
    }

    /// Nothing arrives any more, on either side.
    pub(super) fn break_link(&self, link: LinkNumber) {
        self.state().links[link].is_broken = true;
    }
}

/// Ends a task whatever becomes of it.
struct LastWord<'a>(&'a Turns, TaskNumber);

impl Drop for LastWord<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.tasks[self.1].is_done = true;
        state.turn = None;
        self.0.changed.notify_all();
    }
}

/// One side of a wire, for a task.
#[derive(Debug)]
pub(super) struct TurnEnd {
    turns: Arc<Turns>,
    task: TaskNumber,
    link: LinkNumber,
    side: usize,
    /// A machine without power says nothing.
    disk: Arc<Followed>,
}

impl TurnEnd {
    pub(super) fn new(
        turns: &Arc<Turns>,
        task: TaskNumber,
        (link, side): (LinkNumber, usize),
        disk: &Arc<Followed>,
    ) -> Self {
        Self { turns: Arc::clone(turns), task, link, side, disk: Arc::clone(disk) }
    }
}

impl End for TurnEnd {
    fn read(&mut self) -> Result<Option<Frame>, TransportError> {
        loop {
            let mut state = self.turns.state();
            let link = &mut state.links[self.link];
            if link.is_broken {
                return Err(TransportError::Stalled);
            }
            if let Some(frame) = take_frame(&mut link.arrived[self.side])? {
                return Ok(Some(frame));
            }
            let seen = link.arrived[self.side].len();
            if link.has_ended[1 - self.side] && link.flying[1 - self.side].is_empty() {
                return if seen == 0 { Ok(None) } else { Err(TransportError::Ended) };
            }
            state.tasks[self.task].reads = Some((self.link, seen));
            self.turns.pause(state, self.task);
            self.turns.state().tasks[self.task].reads = None;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        let mut state = self.turns.state();
        let link = &mut state.links[self.link];
        if link.is_broken || self.disk.is_cut() {
            return Err(TransportError::Stalled);
        }
        link.flying[self.side].extend(bytes);
        self.turns.pause(state, self.task);
        Ok(())
    }
}

impl Drop for TurnEnd {
    fn drop(&mut self) {
        self.turns.state().links[self.link].has_ended[self.side] = true;
    }
}
