//! Who waits to write, and who does it: the first one, for all that came meanwhile.
//!
//! Waiting costs nobody else a wake-up: who finds no one writing does it on its own thread, and who leads
//! tells each of the others once.
//!
//! **Invariant:** while somebody waits, somebody leads or has been told to.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Those who want something written, in the order in which they came.
#[derive(Debug)]
pub(super) struct Line<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<Arc<Waiting<T>>>,
    is_led: bool,
}

#[derive(Debug)]
struct Waiting<T> {
    bytes: Vec<u8>,
    told: Mutex<Option<Told<T>>>,
    wake: Condvar,
}

#[derive(Debug)]
enum Told<T> {
    /// To lead.
    Lead,
    /// What came of it.
    Done(T),
}

/// What it is one's turn for.
pub(super) enum Turn<'a, T: Clone> {
    /// To write what waits.
    Lead(Lead<'a, T>),
    /// Nothing: it was written, with this outcome.
    Done(T),
}

/// The right to write, and the duty to let the next one do it.
pub(super) struct Lead<'a, T: Clone>(&'a Line<T>);

/// What is written together. Dropped without an outcome, as by a panic, it leaves the others in the line.
pub(super) struct Group<'a, T: Clone> {
    line: &'a Line<T>,
    members: Vec<Arc<Waiting<T>>>,
    bytes: Vec<u8>,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self(Mutex::new(State { waiting: VecDeque::new(), is_led: false }))
    }
}

impl<T: Clone> Line<T> {
    /// Waits until these bytes are written, or it is one's turn to do so.
    pub(super) fn enter(&self, bytes: Vec<u8>) -> Turn<'_, T> {
        let own = Arc::new(Waiting { bytes, told: Mutex::default(), wake: Condvar::new() });
        {
            let mut state = lock(&self.0);
            state.waiting.push_back(Arc::clone(&own));
            if !std::mem::replace(&mut state.is_led, true) {
                return Turn::Lead(Lead(self));
            }
        }
        let mut told = lock(&own.told);
        loop {
            match told.take() {
                Some(Told::Done(outcome)) => return Turn::Done(outcome),
                Some(Told::Lead) => return Turn::Lead(Lead(self)),
                None => told = own.wake.wait(told).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Lets the next one lead, where somebody waits.
    fn pass(&self) {
        let mut state = lock(&self.0);
        match state.waiting.front() {
            Some(next) => next.tell(Told::Lead),
            None => state.is_led = false,
        }
    }
}

impl<T> Waiting<T> {
    fn tell(&self, told: Told<T>) {
        *lock(&self.told) = Some(told);
        self.wake.notify_one();
    }
}

impl<'a, T: Clone> Lead<'a, T> {
    /// What waits, oneself included: at most so many, and none further after so many bytes.
    pub(super) fn group(self, most: usize, most_bytes: usize) -> Group<'a, T> {
        let line = self.0;
        let mut state = lock(&line.0);
        let (mut members, mut bytes) = (Vec::new(), Vec::new());
        while members.len() < most && bytes.len() < most_bytes {
            let Some(next) = state.waiting.pop_front() else { break };
            bytes.extend_from_slice(&next.bytes);
            members.push(next);
        }
        Group { line, members, bytes }
    }
}

impl<T: Clone> Group<'_, T> {
    /// The bytes of all of them.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Tells everyone what came of it.
    pub(super) fn end(mut self, outcome: &T) {
        // The first one is who leads.
        for member in self.members.drain(..).skip(1) {
            member.tell(Told::Done(outcome.clone()));
        }
    }
}

impl<T: Clone> Drop for Group<'_, T> {
    fn drop(&mut self) {
        let mut state = lock(&self.line.0);
        for member in self.members.drain(..).skip(1).rev() {
            state.waiting.push_front(member);
        }
        drop(state);
        self.line.pass();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_is_written_once_and_told_so() {
        let line = Line::default();
        let written = Mutex::new(Vec::new());
        let largest = Mutex::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8u8 {
                let (line, written, largest) = (&line, &written, &largest);
                scope.spawn(move || {
                    for at in 0..200u8 {
                        let ended = match line.enter(vec![thread, at]) {
                            Turn::Done(upto) => upto,
                            Turn::Lead(lead) => {
                                let group = lead.group(3, 1024);
                                let mut all = lock(written);
                                all.extend_from_slice(group.bytes());
                                let upto = all.len();
                                drop(all);
                                std::thread::yield_now();
                                let mut largest = lock(largest);
                                *largest = group.bytes().len().max(*largest);
                                group.end(&upto);
                                upto
                            }
                        };
                        let all = lock(written);
                        assert!(all[..ended].chunks(2).any(|pair| pair == [thread, at]));
                    }
                });
            }
        });
        let mut all: Vec<_> = lock(&written).chunks(2).map(<[u8]>::to_vec).collect();
        assert_eq!(all.len(), 8 * 200);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 8 * 200);
        assert!((2..=6).contains(&*lock(&largest)));
    }

    #[test]
    fn who_waits_behind_a_panic_leads_in_turn() {
        let line: Line<()> = Line::default();
        let Turn::Lead(lead) = line.enter(vec![1]) else { panic!("nobody else is here") };
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| match line.enter(vec![2]) {
                Turn::Lead(lead) => {
                    let group = lead.group(10, 10);
                    assert_eq!(group.bytes(), [2]);
                    group.end(&());
                }
                Turn::Done(()) => panic!("nobody has written it"),
            });
            while lock(&line.0).waiting.len() < 2 {
                std::thread::yield_now();
            }
            let group = lead.group(10, 10);
            assert_eq!(group.bytes(), [1, 2]);
            drop(group);
            waits.join().unwrap();
        });
        assert!(matches!(line.enter(vec![3]), Turn::Lead(_)));
    }
}
