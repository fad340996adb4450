//! Tells a service manager how far a daemon is, as `sd_notify(3)` describes it: a datagram to the socket
//! that `NOTIFY_SOCKET` names.
//!
//! Not here: the variable; the command line reads it.
//!
//! **Invariant:** a service manager that does not listen is no reason to fail: it is logged.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What a service manager is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Commands are answered.
    Ready,
    /// It ends.
    Stopping,
}

/// The socket of a service manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotifySocket(OsString);

impl NotifySocket {
    /// From the value of `NOTIFY_SOCKET`: an absolute path, or `@` and an abstract name. Nothing where
    /// it is neither, such as the address of a virtual machine's host.
    pub fn new(value: &OsStr) -> Option<Self> {
        let known = matches!(value.as_bytes(), [b'/' | b'@', _, ..]);
        known.then(|| Self(value.to_owned()))
    }

    /// Tells it.
    pub fn tell(&self, state: State) {
        let text = match state {
            State::Ready => format!("READY=1\nMAINPID={}\n", std::process::id()),
            State::Stopping => "STOPPING=1\n".to_owned(),
        };
        if let Err(error) = self.send(text.as_bytes()) {
            tracing::warn!(%error, ?state, "the service manager could not be told");
        }
    }

    fn send(&self, text: &[u8]) -> io::Result<()> {
        let address = match self.0.as_bytes() {
            [b'@', name @ ..] => abstract_address(name)?,
            _ => SocketAddr::from_pathname(&self.0)?,
        };
        let socket = UnixDatagram::unbound()?;
        // It must not hold up a stop.
        socket.set_nonblocking(true)?;
        socket.send_to_addr(text, &address).map(drop)
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_service_manager_hears_that_it_is_ready_and_that_it_stops() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let socket = NotifySocket::new(path.as_os_str()).unwrap();
        socket.tell(State::Ready);
        assert_eq!(heard(&listener), format!("READY=1\nMAINPID={}\n", std::process::id()));
        socket.tell(State::Stopping);
        assert_eq!(heard(&listener), "STOPPING=1\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn abstract_names_are_reached_too() {
        let name = format!("baton-notify-{}", std::process::id());
        let address = abstract_address(name.as_bytes()).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        NotifySocket::new(OsStr::new(&format!("@{name}"))).unwrap().tell(State::Stopping);
        assert_eq!(heard(&listener), "STOPPING=1\n");
    }

    #[test]
    fn what_is_no_socket_of_ours_is_left_alone_and_nobody_listening_is_no_failure() {
        for value in ["", "/", "@", "relative", "vsock:2:1234"] {
            assert_eq!(NotifySocket::new(OsStr::new(value)), None, "{value}");
        }
        NotifySocket::new(OsStr::new("/nowhere/at/all")).unwrap().tell(State::Ready);
    }
}
