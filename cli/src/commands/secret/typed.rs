//! A value that is typed at a terminal, which does not show it.
//!
//! Each key is read as it comes: in lines, a terminal would cut what is pasted at 4,095 bytes.
//!
//! **Invariant:** the terminal is as it was when this returns, whatever was typed.

use std::io::{Stdin, Write};

use baton_protocol::message::secrets::MAX_VALUE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::error::CliError;

/// Within this time the next piece of what is pasted comes.
const PASTE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const CTRL_U: u8 = 21;
const BACKSPACE: [u8; 2] = [8, 127];

/// What one key means.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    More,
    Done,
    Cancelled,
    TooLong,
    /// More came after the end of a line, at once.
    Lines,
}

/// Asks for the value of a variable.
pub(super) fn read(name: &str) -> Result<Vec<u8>, CliError> {
    let failed = |error: std::io::Error| CliError::caused("input", "reading the value", &error);
    say(&format!("value of {name}, which is not shown: "));
    let quiet = Quiet::new().map_err(|error| failed(error.into()))?;
    let mut value = Vec::new();
    let mut key = [0];
    let last = loop {
        match rustix::io::read(&quiet.stdin, &mut key) {
            Ok(0) => break Step::Done,
            Ok(_) => match step(&mut value, key[0]) {
                Step::More => {}
                // Nobody types that fast: several lines were pasted.
                Step::Done if key[0] != CTRL_D && quiet.drain() => break Step::Lines,
                last => break last,
            },
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    };
    drop(quiet);
    say("\n");
    match last {
        Step::Cancelled => {
            Err(CliError::new("cancelled", "nothing was kept")
                .hint(format!("baton secret set {name}")))
        }
        Step::TooLong => Err(CliError::new("secret", "the value is too long to be kept")
            .hint(format!("at most {MAX_VALUE} bytes; a run can also read a file of its tree"))),
        Step::Lines => Err(CliError::new("secret", "several lines were pasted; nothing was kept")
            .hint(format!("baton secret set {name} < FILE"))),
        Step::More | Step::Done => Ok(value),
    }
}

fn step(value: &mut Vec<u8>, key: u8) -> Step {
    match key {
        b'\n' | b'\r' | CTRL_D => return Step::Done,
        CTRL_C => return Step::Cancelled,
        CTRL_U => value.clear(),
        key if BACKSPACE.contains(&key) => {
            // A whole letter: those bytes that continue it, and the one that begins it.
            while value.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
        }
        _ if value.len() >= MAX_VALUE => return Step::TooLong,
        key => value.push(key),
    }
    Step::More
}

fn say(text: &str) {
    let mut to = std::io::stderr().lock();
    // Nobody may be there to read it.
    drop(to.write_all(text.as_bytes()).and_then(|()| to.flush()));
}

/// A terminal that shows nothing and passes each key on, until this is dropped.
struct Quiet {
    stdin: Stdin,
    before: Termios,
}

impl Quiet {
    fn new() -> rustix::io::Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut quiet = before.clone();
        quiet.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        // What was typed ahead was shown, and was not meant for this.
        tcsetattr(&stdin, OptionalActions::Flush, &quiet)?;
        Ok(Self { stdin, before })
    }

    /// Takes what is still coming, so that it is neither shown nor read as a command by whoever reads next; whether that
    /// was anything.
    fn drain(&self) -> bool {
        let mut came = false;
        let mut bytes = [0; 4096];
        loop {
            let mut waits = [PollFd::new(&self.stdin, PollFlags::IN)];
            match poll(&mut waits, Some(&PASTE)) {
                Ok(0) => return came,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return came,
            }
            match rustix::io::read(&self.stdin, &mut bytes) {
                Ok(0) | Err(_) => return came,
                Ok(_) => came = true,
            }
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // There is no other way to put it back.
        let _ = tcsetattr(&self.stdin, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> (Vec<u8>, Step) {
        let mut value = Vec::new();
        for &key in keys {
            match step(&mut value, key) {
                Step::More => {}
                last => return (value, last),
            }
        }
        (value, Step::More)
    }

    #[test]
    fn keys_are_what_they_are_at_a_prompt() {
        assert_eq!(typed(b"abc\rx"), (b"abc".to_vec(), Step::Done));
        assert_eq!(typed("aé\u{7f}\u{7f}\u{7f}b\n".as_bytes()), (b"b".to_vec(), Step::Done));
        assert_eq!(typed(b"wrong\x15right\x04"), (b"right".to_vec(), Step::Done));
        assert_eq!(typed(b"half\x03").1, Step::Cancelled);
        let long = vec![b'x'; MAX_VALUE];
        assert_eq!(typed(&long), (long.clone(), Step::More));
        assert_eq!(typed(&[&long[..], b"x"].concat()).1, Step::TooLong);
    }
}
