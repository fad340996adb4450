//! The output of an agent's program, line by line: what is shown of it, and what it says beside.
//!
//! **Invariant:** a line that is none of the agent's words is shown as it is, and none is longer than [`MAX_LINE`] in memory.

use tokio::sync::mpsc;

use crate::agents::adapter::Agent;
use crate::agents::talk::Heard;

/// Longest line that is understood: one with a large file in it is longer than any other.
const MAX_LINE: usize = 32 << 20;

/// What was heard and not yet seen to; a program that says more waits.
const AT_ONCE: usize = 64;

/// One stream of output that is being heard.
pub(super) struct Hearing {
    agent: &'static dyn Agent,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
    /// Bytes of a line that was too long.
    passed: usize,
    to: mpsc::Sender<Heard>,
}

impl Hearing {
    /// With where what is heard comes out.
    pub(super) fn new(agent: &'static dyn Agent) -> (Self, mpsc::Receiver<Heard>) {
        let (to, heard) = mpsc::channel(AT_ONCE);
        (Self { agent, begun: Vec::new(), passed: 0, to }, heard)
    }

    /// Takes bytes and hands out what is to be shown.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut show: impl FnMut(&[u8])) {
        while let Some(at) = bytes.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = bytes.split_at(at + 1);
            bytes = rest;
            self.add(line);
            self.line(&mut show);
        }
        self.add(bytes);
    }

    /// Nothing more will come.
    pub(super) fn end(&mut self, mut show: impl FnMut(&[u8])) {
        self.line(&mut show);
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.passed > 0 || self.begun.len() + bytes.len() > MAX_LINE {
            self.passed += self.begun.len() + bytes.len();
            self.begun = Vec::new();
        } else {
            self.begun.extend_from_slice(bytes);
        }
    }

    fn line(&mut self, show: &mut impl FnMut(&[u8])) {
        let passed = std::mem::take(&mut self.passed);
        if passed > 0 {
            show(format!("(a line of {passed} bytes is not shown)\n").as_bytes());
        }
        let line = std::mem::take(&mut self.begun);
        if line.is_empty() {
            return;
        }
        let Some(heard) = self.agent.hear(&line) else { return show(&line) };
        for heard in heard {
            if let Heard::Text(mut text) = heard {
                if !text.ends_with('\n') {
                    text.push('\n');
                }
                show(text.as_bytes());
            } else if self.to.blocking_send(heard).is_err() {
                // Nobody sees to it any more: the run is about to end.
                tracing::debug!("what an agent said at last is passed over");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::claude::Claude;

    #[test]
    fn lines_come_in_pieces_and_what_is_no_word_of_the_agent_is_shown_as_it_is() {
        let (mut hearing, mut heard) = Hearing::new(&Claude);
        let mut shown = Vec::new();
        let said = concat!(
            r#"{"type":"assistant","message":{"content":[{"type":"text","text":"hi"}]}}"#,
            "\nwarning: x\n",
            r#"{"type":"result","subtype":"success"}"#,
            "\n{\"half"
        );
        for piece in said.as_bytes().chunks(7) {
            hearing.push(piece, |bytes| shown.extend_from_slice(bytes));
        }
        assert_eq!(shown, b"hi\nwarning: x\n");
        hearing.end(|bytes| shown.extend_from_slice(bytes));
        assert_eq!(shown, b"hi\nwarning: x\n{\"half");
        assert_eq!(heard.try_recv(), Ok(Heard::TurnEnded(Ok(()))));
        assert!(heard.try_recv().is_err());
    }

    #[test]
    fn a_line_without_an_end_takes_no_room() {
        let (mut hearing, _heard) = Hearing::new(&Claude);
        let mut shown = Vec::new();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..40 {
            hearing.push(&piece, |bytes| shown.extend_from_slice(bytes));
        }
        assert!(hearing.begun.capacity() <= MAX_LINE + piece.len());
        hearing.push(b"\nafter\n", |bytes| shown.extend_from_slice(bytes));
        let length = 40 * piece.len() + 1;
        let expected = format!("(a line of {length} bytes is not shown)\nafter\n");
        assert_eq!(String::from_utf8(shown).unwrap(), expected);
    }
}
