//! The calling half of the control socket: blocking, so that a command line needs no runtime.
//!
//! Not here: starting a daemon where none answers; that is the command line's.
//!
//! **Invariant:** only a daemon of the same user is talked to: a path to attach or a prompt never
//! reaches somebody who made a socket where ours should be.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{MAX_CALL, VERSION};
use crate::api::control::{Call, Command, Event};

/// Longest event in bytes. A patch or the list of what was left out of a large tree is one event.
const MAX_EVENT: u64 = 1024 * 1024 * 1024;

/// No daemon could be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers: there is no socket, or a dead one.
    #[error("no daemon answers at {}", path.display())]
    Nobody {
        /// The socket.
        path: PathBuf,
    },
    /// Another user's process answers.
    #[error("{} belongs to the user with id {uid}", path.display())]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// The system refused.
    #[error("connecting to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A call got no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It does not fit.
    #[error("the call is longer than {MAX_CALL} bytes")]
    TooLong,
    /// The connection failed.
    #[error("talking to the daemon")]
    Io(#[source] std::io::Error),
    /// The daemon hung up before its last event.
    #[error("the daemon ended before it had answered")]
    Ended,
    /// What came is no event.
    #[error("the daemon said something that is no event")]
    Malformed(#[source] serde_json::Error),
}

/// A connection to a daemon, for one call.
#[derive(Debug)]
pub struct ControlClient {
    stream: UnixStream,
}

impl ControlClient {
    /// Connects to the daemon that listens at `path`.
    pub fn connect(path: &Path) -> Result<Self, ConnectError> {
        use std::io::ErrorKind;
        let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                ConnectError::Nobody { path: path.to_owned() }
            }
            _ => ConnectError::Connect { path: path.to_owned(), source },
        })?;
        #[cfg(target_os = "linux")]
        {
            let peer = rustix::net::sockopt::socket_peercred(&stream).map_err(|errno| {
                ConnectError::Connect { path: path.to_owned(), source: errno.into() }
            })?;
            let uid = peer.uid.as_raw();
            if uid != rustix::process::geteuid().as_raw() {
                return Err(ConnectError::Foreign { path: path.to_owned(), uid });
            }
        }
        Ok(Self { stream })
    }

    /// Bounds how long each event may take; without it a call waits for as long as it takes.
    pub fn set_patience(&self, patience: Option<Duration>) -> Result<(), CallError> {
        self.stream.set_read_timeout(patience).map_err(CallError::Io)
    }

    /// Asks; the answer comes as events.
    pub fn call(self, command: &Command) -> Result<Events, CallError> {
        self.call_as(VERSION, command)
    }

    /// Asks in the name of another version.
    pub fn call_as(mut self, version: &str, command: &Command) -> Result<Events, CallError> {
        let call = Call { version: version.to_owned(), command: command.clone() };
        let mut line = serde_json::to_vec(&call).map_err(CallError::Malformed)?;
        line.push(b'\n');
        if line.len() > MAX_CALL {
            return Err(CallError::TooLong);
        }
        // A daemon that refuses while the call is on its way may close first; its answer is what
        // counts then, so a failed write is only remembered by the read that follows.
        if let Err(error) = self.stream.write_all(&line)
            && error.kind() != std::io::ErrorKind::BrokenPipe
        {
            return Err(CallError::Io(error));
        }
        Ok(Events { from: BufReader::new(self.stream), ended: false })
    }
}

/// What a daemon answers, as it comes. Ends after `done` or `failed`, or after an error.
#[derive(Debug)]
pub struct Events {
    from: BufReader<UnixStream>,
    ended: bool,
}

impl Events {
    /// Whether the next event has arrived already, at least in part.
    pub fn has_more(&self) -> bool {
        !self.from.buffer().is_empty()
    }

    /// Whether something of the next event comes within `patience`.
    pub fn is_near(&self, patience: Duration) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        if self.has_more() || self.ended {
            return true;
        }
        let mut from = [PollFd::new(self.from.get_ref(), PollFlags::IN)];
        let patience = Timespec::try_from(patience).ok();
        // What cannot be asked shows when it is read.
        poll(&mut from, patience.as_ref()).map_or(true, |ready| ready > 0)
    }

    fn read(&mut self) -> Result<Event, CallError> {
        let mut line = Vec::new();
        self.from.by_ref().take(MAX_EVENT).read_until(b'\n', &mut line).map_err(
            |error| match error.kind() {
                std::io::ErrorKind::ConnectionReset => CallError::Ended,
                _ => CallError::Io(error),
            },
        )?;
        if !line.ends_with(b"\n") {
            return Err(CallError::Ended);
        }
        serde_json::from_slice(&line).map_err(CallError::Malformed)
    }
}

impl Iterator for Events {
    type Item = Result<Event, CallError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let event = self.read();
        self.ended = matches!(event, Err(_) | Ok(Event::Done(_) | Event::Failed(_)));
        Some(event)
    }
}
