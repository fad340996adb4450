//! Whose run is next.
//!
//! Users are taken in turn, and the runs of one in the order in which they were asked for; one whose agent may not have
//! more at once lets the next one pass.
//!
//! Who waits for its user needs no place at work: it lends its own to the next one, and takes it back the moment it goes
//! on, since a program does not wait for that.
//!
//! **Invariant:** at most as many turns as were agreed on are given out at once, and one that is given back, or that nobody
//! took, is the next one's. At most as many again are lent, so that no more than twice as many are ever there.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The turns of a node; clones share them.
#[derive(Clone)]
pub(super) struct Turns(Arc<Inner>);

struct Inner {
    at_once: usize,
    limit: Box<dyn Fn(&str) -> usize + Send + Sync>,
    state: Mutex<State>,
}

struct State {
    /// Below nothing where one was taken back that another one has.
    free: isize,
    /// How many of each agent are lent.
    lent: HashMap<String, usize>,
    /// How many of each agent have one.
    at_work: HashMap<String, usize>,
    /// Who waits; whoever got a turn goes to the end.
    users: VecDeque<(String, VecDeque<Waiter>)>,
}

struct Waiter {
    agent: String,
    to: oneshot::Sender<Turn>,
}

/// A turn that was asked for. Whoever drops it does not want it any more.
pub(super) struct Asked(oneshot::Receiver<Turn>);

impl Asked {
    /// Resolves when it is this one's turn.
    pub(super) async fn turn(self) -> Turn {
        match self.0.await {
            Ok(turn) => turn,
            // Nobody lets go of who waits.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Given back when it is dropped.
pub(super) struct Turn {
    turns: Turns,
    agent: String,
    is_lent: bool,
}

impl Turn {
    /// Lets another one have it, unless too many are lent already.
    pub(super) fn lend(&mut self) {
        let mut state = self.turns.state();
        let most = (self.turns.0.limit)(&self.agent);
        let is_full = state.lent.values().sum::<usize>() >= self.turns.0.at_once
            || state.lent.get(&self.agent).is_some_and(|lent| *lent >= most);
        if self.is_lent || is_full {
            return;
        }
        self.is_lent = true;
        *state.lent.entry(self.agent.clone()).or_default() += 1;
        state.give_back(&self.agent);
        drop(state);
        self.turns.hand_out();
    }

    /// Has it again, also where another one is still at work with it.
    pub(super) fn take_back(&mut self) {
        if self.is_lent {
            self.is_lent = false;
            let mut state = self.turns.state();
            state.end_loan(&self.agent);
            state.give_out(&self.agent);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.state();
        if self.is_lent {
            state.end_loan(&self.agent);
        } else {
            state.give_back(&self.agent);
        }
        drop(state);
        self.turns.hand_out();
    }
}

impl Turns {
    /// As many at once, and of each agent as many as `limit` says.
    pub(super) fn new(
        at_once: usize,
        limit: impl Fn(&str) -> usize + Send + Sync + 'static,
    ) -> Self {
        let free = isize::try_from(at_once).unwrap_or(isize::MAX);
        let state =
            State { free, lent: HashMap::new(), at_work: HashMap::new(), users: VecDeque::new() };
        Self(Arc::new(Inner { at_once, limit: Box::new(limit), state: Mutex::new(state) }))
    }

    /// Asks for a turn, behind what the same user has asked for.
    pub(super) fn ask(&self, user: &str, agent: &str) -> Asked {
        let (to, asked) = oneshot::channel();
        let waiter = Waiter { agent: agent.to_owned(), to };
        let mut state = self.state();
        match state.users.iter_mut().find(|(known, _)| known == user) {
            Some((_, waiting)) => waiting.push_back(waiter),
            None => state.users.push_back((user.to_owned(), VecDeque::from([waiter]))),
        }
        drop(state);
        self.hand_out();
        Asked(asked)
    }

    fn hand_out(&self) {
        let mut next = Vec::new();
        let mut state = self.state();
        while state.free > 0 {
            let Some(waiter) = state.next(&*self.0.limit) else { break };
            state.give_out(&waiter.agent);
            next.push(waiter);
        }
        drop(state);
        for Waiter { agent, to } in next {
            // One that nobody takes is given back here.
            drop(to.send(Turn { turns: self.clone(), agent, is_lent: false }));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn give_out(&mut self, agent: &str) {
        self.free -= 1;
        *self.at_work.entry(agent.to_owned()).or_default() += 1;
    }

    fn end_loan(&mut self, agent: &str) {
        if let Some(count) = self.lent.get_mut(agent) {
            *count = count.saturating_sub(1);
        }
    }

    fn give_back(&mut self, agent: &str) {
        self.free += 1;
        if let Some(count) = self.at_work.get_mut(agent) {
            *count = count.saturating_sub(1);
        }
    }

    fn next(&mut self, limit: &dyn Fn(&str) -> usize) -> Option<Waiter> {
        for (_, waiting) in &mut self.users {
            waiting.retain(|waiter| !waiter.to.is_closed());
        }
        self.users.retain(|(_, waiting)| !waiting.is_empty());
        let may = |waiter: &Waiter| {
            let at_work = self.at_work.get(&waiter.agent).copied().unwrap_or_default();
            at_work < limit(&waiter.agent)
        };
        let find = |(_, waiting): &(String, VecDeque<Waiter>)| waiting.iter().position(may);
        let (user, at) = (self.users.iter().enumerate())
            .find_map(|(user, waiting)| find(waiting).map(|at| (user, at)))?;
        let (user, mut waiting) = self.users.remove(user)?;
        let next = waiting.remove(at);
        if !waiting.is_empty() {
            self.users.push_back((user, waiting));
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(asked: &mut Asked) -> Option<Turn> {
        asked.0.try_recv().ok()
    }

    #[test]
    fn users_take_turns_and_each_has_its_order() {
        let turns = Turns::new(1, |_| usize::MAX);
        let mut first = turns.ask("ann", "a");
        let mut turn = taken(&mut first);
        assert!(turn.is_some());
        let mut waiting: Vec<_> = ["ann", "ann", "ann", "bob", "bob", "cyd"]
            .iter()
            .enumerate()
            .map(|(at, user)| (format!("{user}{at}"), turns.ask(user, "a")))
            .collect();
        let mut order = Vec::new();
        while turn.take().is_some() {
            for (name, asked) in &mut waiting {
                if let Some(got) = taken(asked) {
                    order.push(name.clone());
                    assert!(turn.replace(got).is_none(), "two at once");
                }
            }
        }
        assert_eq!(order, ["ann0", "bob3", "cyd5", "ann1", "bob4", "ann2"]);
    }

    #[test]
    fn an_agent_that_has_enough_lets_others_pass() {
        let turns = Turns::new(3, |agent| if agent == "few" { 1 } else { usize::MAX });
        let mut asked: Vec<_> =
            ["few", "few", "many", "many"].iter().map(|agent| turns.ask("ann", agent)).collect();
        let mut got: Vec<_> = asked.iter_mut().map(taken).collect();
        assert_eq!(got.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true, true]);
        got[2] = None;
        assert!(taken(&mut asked[1]).is_none());
        got[0] = None;
        assert!(taken(&mut asked[1]).is_some());
    }

    #[test]
    fn a_turn_that_nobody_wants_any_more_is_the_next_ones() {
        let turns = Turns::new(1, |_| usize::MAX);
        let mut first = turns.ask("ann", "a");
        let held = taken(&mut first).unwrap();
        let gone = turns.ask("ann", "a");
        let mut last = turns.ask("ann", "a");
        drop(gone);
        drop(held);
        let turn = taken(&mut last);
        assert!(turn.is_some());
        // One that was sent and not taken.
        let sent = turns.ask("bob", "a");
        drop(turn);
        drop(sent);
        assert!(taken(&mut turns.ask("cyd", "a")).is_some());
    }
    #[test]
    fn who_waits_for_its_user_lends_its_turn_and_has_it_again_at_once() {
        let turns = Turns::new(1, |agent| if agent == "one" { 1 } else { usize::MAX });
        let mut first = taken(&mut turns.ask("ann", "one")).unwrap();
        let mut second = turns.ask("ann", "one");
        let mut third = turns.ask("bob", "many");
        first.lend();
        first.lend();
        // Neither more at once nor more of one agent than agreed on.
        let mut second = taken(&mut second).unwrap();
        assert!(taken(&mut third).is_none());
        // Only so many are lent.
        second.lend();
        assert!(taken(&mut third).is_none());
        // Both are at work: nobody else is until both have ended.
        first.take_back();
        drop(second);
        assert!(taken(&mut third).is_none());
        drop(first);
        let mut third = taken(&mut third).unwrap();
        // One that ends while it is lent is not given back twice.
        third.lend();
        drop(third);
        let held = taken(&mut turns.ask("ann", "one"));
        assert!(held.is_some());
        assert!(taken(&mut turns.ask("ann", "many")).is_none());
    }
}
