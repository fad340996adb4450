//! What is said to the program of a run: its standard input, and the question that it asks.
//!
//! Not here: finding out that it asks ([`attend`](super::attend)), and who may say something ([`steer`](super::steer)).
//! An agent that asks in words of its own puts its [`Question`] here in the same way, and reads the answer from its
//! input, in those words.
//!
//! **Invariant:** saying something never waits. What does not fit is refused as a whole, and what was taken is written in
//! order, also where the program reads it later.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use baton_protocol::message::{Answer, Question};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::ioctl_fionread;
use tokio::sync::Notify;

use crate::agents::adapter::Agent;
use crate::agents::talk::Request;

/// What a pipe takes as a whole, or not at all (POSIX has 512, Linux one page of at least this).
const WHOLE: usize = 4096;

/// Most that an agent asks for at once.
const MAX_REQUESTS: usize = 64;

/// The input of a run.
#[derive(Debug, Default)]
pub(super) struct Input {
    state: Mutex<State>,
    /// Somebody has said something.
    said: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Whether there is one, or never will be.
    begun: bool,
    pipe: Option<PipeWriter>,
    /// What was taken and did not fit; shorter than what may be said at once.
    left: Vec<u8>,
    /// It ends once that is written.
    ending: bool,
    question: Option<Question>,
    /// How many were asked.
    asked: u64,
    /// Who is told things in words of its own.
    agent: Option<&'static dyn Agent>,
    /// What that asks for, the oldest first.
    requests: VecDeque<(Question, Request)>,
}

/// Something cannot be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unsaid {
    /// There is no input yet.
    NotYet,
    /// There is no input, or not any more.
    Closed,
    /// The program has not read what was said before.
    Busy,
    /// It asks nothing.
    NothingAsked,
    /// It asks something else.
    Other {
        /// The question that it asks.
        asked: String,
    },
}

/// What is found where the program is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It waits for what it waited for before; or it does not wait, as before.
    Nothing,
    /// It asks something, or the same in other words.
    Asks(Question),
    /// It asks no more.
    GoesOn,
    /// Nothing can be said to it any more.
    Closed,
}

impl Input {
    /// Makes the standard input of a program.
    pub(super) fn open(&self) -> io::Result<PipeReader> {
        let (reader, writer) = io::pipe()?;
        let flags = fcntl_getfl(&writer)? | OFlags::NONBLOCK;
        fcntl_setfl(&writer, flags)?;
        *self.state() = State { begun: true, pipe: Some(writer), ..State::default() };
        Ok(reader)
    }

    /// The same for an agent's program, which reads this first.
    pub(super) fn open_for(
        &self,
        agent: Option<&'static dyn Agent>,
        first: &[u8],
        stays_open: bool,
    ) -> io::Result<PipeReader> {
        let reader = self.open()?;
        let mut state = self.state();
        state.agent = agent;
        state.left = first.to_vec();
        state.ending = !stays_open;
        state.flush();
        drop(state);
        self.said.notify_one();
        Ok(reader)
    }

    /// The program has none.
    pub(super) fn none(&self) {
        self.state().begun = true;
    }

    /// The program has ended.
    pub(super) fn close(&self) {
        *self.state() = State { begun: true, ..State::default() };
        self.said.notify_one();
    }

    /// Says a line, and ends the input where that was the last one. A question is answered by it.
    pub(super) fn say(&self, line: Option<&[u8]>, end: bool) -> Result<(), Unsaid> {
        let mut state = self.state();
        let in_words = match (state.agent, line) {
            (Some(agent), Some(line)) => {
                let text = String::from_utf8_lossy(line);
                Some(agent.say(text.trim_end()).ok_or(Unsaid::Closed)?)
            }
            _ => None,
        };
        let said = state.say(in_words.as_deref().or(line), end);
        drop(state);
        self.said.notify_one();
        said
    }

    /// Says what answers a question: this one, or whichever is asked. `line` is how a program is told that has no words of
    /// its own.
    pub(super) fn answer(
        &self,
        question: Option<&str>,
        answer: &Answer,
        line: &[u8],
    ) -> Result<(), Unsaid> {
        let mut state = self.state();
        let asked = state.asks().map(|asked| asked.id.clone());
        match (asked, question) {
            (None, _) => return Err(Unsaid::NothingAsked),
            (Some(asked), Some(meant)) if asked != meant => return Err(Unsaid::Other { asked }),
            (Some(_), _) => {}
        }
        let in_words = match (state.agent, state.requests.front()) {
            (Some(agent), Some((_, request))) => agent.answer(request, answer),
            _ => None,
        };
        let said = state.say(in_words.as_deref().or(Some(line)), false);
        if said.is_ok() {
            state.requests.pop_front();
        }
        drop(state);
        self.said.notify_one();
        said
    }

    /// Resolves when somebody has said something since the last time.
    pub(super) async fn said(&self) {
        self.said.notified().await;
    }

    /// Looks whether the program waits for input: `reads` is asked whether a process of the run is in a read of the pipe
    /// of this name, which is empty. What it then asks `ask` says, given the question's id.
    ///
    /// A question that is asked already may have got other words: the last of its line was still on its way.
    ///
    /// Nothing can be said meanwhile, so that what was found is still so when it is kept.
    pub(super) fn look(
        &self,
        reads: impl FnOnce(&str) -> bool,
        ask: impl FnOnce(String) -> Question,
    ) -> Found {
        let mut state = self.state();
        state.flush();
        let Some(pipe) = &state.pipe else { return Found::Closed };
        let name = fstat(pipe).map(|stat| format!("pipe:[{}]", stat.st_ino));
        let empty = state.left.is_empty() && ioctl_fionread(pipe.as_fd()) == Ok(0);
        let waits = empty && name.is_ok_and(|name| reads(&name));
        match (waits, state.question.is_some()) {
            (true, false) => {
                state.asked += 1;
                let question = ask(state.asked.to_string());
                state.question = Some(question.clone());
                Found::Asks(question)
            }
            (false, true) => {
                state.question = None;
                Found::GoesOn
            }
            (true, true) => {
                let Some(known) = &mut state.question else { return Found::Nothing };
                let now = Question { asked_at: known.asked_at, ..ask(known.id.clone()) };
                if *known == now {
                    return Found::Nothing;
                }
                known.clone_from(&now);
                Found::Asks(now)
            }
            (false, false) => Found::Nothing,
        }
    }

    /// Notes what an agent asks for; `ask` makes the question of the id that it gets.
    pub(super) fn ask(&self, request: Request, ask: impl FnOnce(String) -> Question) {
        let mut state = self.state();
        if state.requests.len() >= MAX_REQUESTS {
            tracing::warn!("an agent asks for too much at once");
            return;
        }
        state.asked += 1;
        let question = ask(state.asked.to_string());
        state.requests.push_back((question, request));
    }

    /// Notes that an agent does not ask for that any more.
    pub(super) fn unask(&self, id: &str) {
        self.state().requests.retain(|(_, request)| request.id != id);
    }

    /// What an agent asks for now.
    pub(super) fn asked(&self) -> Option<Question> {
        self.state().requests.front().map(|(question, _)| question.clone())
    }

    /// Writes what was taken and did not fit, as far as it fits now.
    pub(super) fn flush(&self) {
        self.state().flush();
    }

    /// Whether something was taken that the program has to read before it gets the rest.
    pub(super) fn has_left(&self) -> bool {
        !self.state().left.is_empty()
    }

    /// Whether it asks something.
    pub(super) fn asks(&self) -> bool {
        self.state().asks().is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn asks(&self) -> Option<&Question> {
        self.requests.front().map(|(question, _)| question).or(self.question.as_ref())
    }

    fn say(&mut self, line: Option<&[u8]>, end: bool) -> Result<(), Unsaid> {
        self.flush();
        if !self.begun {
            return Err(Unsaid::NotYet);
        }
        if self.pipe.is_none() || self.ending {
            return Err(Unsaid::Closed);
        }
        if let Some(line) = line {
            if !self.left.is_empty() {
                return Err(Unsaid::Busy);
            }
            let written = self.write(line)?;
            if written == 0 && !line.is_empty() {
                return Err(Unsaid::Busy);
            }
            self.left.extend_from_slice(line.get(written..).unwrap_or_default());
        }
        // It goes on, or gets the end of its input.
        self.question = None;
        self.ending = end;
        self.flush();
        Ok(())
    }

    /// How much of it fits: all or nothing of what is short.
    fn write(&mut self, line: &[u8]) -> Result<usize, Unsaid> {
        let mut written = 0;
        while let (Some(pipe), Some(rest)) = (&mut self.pipe, line.get(written..)) {
            let piece = rest.get(..WHOLE).unwrap_or(rest);
            if piece.is_empty() {
                break;
            }
            match pipe.write(piece) {
                Ok(some) => written += some,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Nobody can read it any more.
                Err(_) => {
                    self.pipe = None;
                    return Err(Unsaid::Closed);
                }
            }
        }
        Ok(written)
    }

    /// Writes what is left, as far as it fits.
    fn flush(&mut self) {
        let left = std::mem::take(&mut self.left);
        if let Ok(written) = self.write(&left) {
            self.left = left.get(written..).unwrap_or_default().to_vec();
        }
        if self.ending && self.left.is_empty() {
            self.pipe = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use baton_protocol::message::QuestionKind;

    use super::*;

    fn question(id: String) -> Question {
        let (text, options) = (String::new(), Vec::new());
        Question { id, kind: QuestionKind::Input, text, options, asked_at: 0 }
    }

    fn asked(input: &Input, reads: bool) -> Found {
        input.look(|name| name.starts_with("pipe:[") && reads, question)
    }

    #[test]
    fn a_question_is_answered_once_and_by_its_id() {
        let input = Input::default();
        assert_eq!(input.say(Some(b"x\n"), false), Err(Unsaid::NotYet));
        let mut reader = input.open().unwrap();
        assert_eq!(input.answer(None, &Answer::Allow, b"x\n"), Err(Unsaid::NothingAsked));
        assert_eq!(asked(&input, true), Found::Asks(question("1".into())));
        assert_eq!(asked(&input, true), Found::Nothing);
        assert_eq!(
            input.answer(Some("2"), &Answer::Allow, b"x\n"),
            Err(Unsaid::Other { asked: "1".into() })
        );
        assert_eq!(input.answer(Some("1"), &Answer::Allow, b"x\n"), Ok(()));
        assert_eq!(input.answer(Some("1"), &Answer::Allow, b"x\n"), Err(Unsaid::NothingAsked));
        // Not before it has read that.
        assert_eq!(asked(&input, true), Found::Nothing);
        let mut two = [0; 2];
        reader.read_exact(&mut two).unwrap();
        assert_eq!(asked(&input, true), Found::Asks(question("2".into())));
        assert_eq!(asked(&input, false), Found::GoesOn);
        assert_eq!(input.answer(None, &Answer::Allow, b"x\n"), Err(Unsaid::NothingAsked));
    }

    #[test]
    fn a_question_may_get_other_words() {
        let input = Input::default();
        let _reader = input.open().unwrap();
        assert_eq!(asked(&input, true), Found::Asks(question("1".into())));
        let words = |id| Question { text: "name?".into(), asked_at: 9, ..question(id) };
        let now = Question { asked_at: 0, ..words("1".into()) };
        assert_eq!(input.look(|_| true, words), Found::Asks(now));
        assert_eq!(input.look(|_| true, words), Found::Nothing);
        assert_eq!(input.answer(Some("1"), &Answer::Allow, b"x\n"), Ok(()));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_what_was_taken_comes_whole() {
        let input = Input::default();
        let mut reader = input.open().unwrap();
        let line = [[b'a'; 999].as_slice(), b"\n"].concat();
        let mut taken = 0;
        while input.say(Some(&line), false) == Ok(()) {
            taken += line.len();
        }
        assert!(taken >= WHOLE, "{taken}");
        assert_eq!(input.say(Some(&line), false), Err(Unsaid::Busy));
        let mut all = vec![0; taken];
        reader.read_exact(&mut all).unwrap();
        // More than a pipe holds is taken once, and written as it is read.
        let long = vec![b'b'; 1 << 20];
        assert_eq!(input.say(Some(&long), true), Ok(()));
        assert!(input.has_left());
        assert_eq!(input.say(Some(b"x\n"), false), Err(Unsaid::Closed));
        let read = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        while !read.is_finished() {
            asked(&input, false);
            std::thread::yield_now();
        }
        assert_eq!(read.join().unwrap().unwrap(), long);
        assert_eq!(asked(&input, true), Found::Closed);
    }

    #[test]
    fn a_program_that_closed_its_input_is_told_nothing() {
        let input = Input::default();
        drop(input.open().unwrap());
        assert_eq!(input.say(Some(b"x\n"), false), Err(Unsaid::Closed));
        assert_eq!(asked(&input, true), Found::Closed);
    }
}
