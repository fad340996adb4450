//! Hears of changes of the machine's network: a link, an address, a route.
//!
//! On Linux from a routing socket of the kernel, which wakes nobody while nothing changes. Elsewhere,
//! and where the system refuses, nothing is heard, and a node that is away is tried as the
//! backoff of the queue says.

/// Changes of the network since it was made, or since it was last drained.
#[derive(Debug)]
pub struct NetworkChanges(Option<system::Socket>);

impl NetworkChanges {
    /// Starts to listen. Must be called within a runtime.
    pub fn listen() -> Self {
        match system::Socket::open() {
            Ok(socket) => Self(socket),
            Err(error) => {
                tracing::debug!(%error, "changes of the network are not heard of");
                Self(None)
            }
        }
    }

    /// Forgets what was heard until now; says whether there was something.
    pub fn drain(&mut self) -> bool {
        self.0.as_mut().is_some_and(system::Socket::drain)
    }

    /// Returns when something has changed; never where that cannot be known. May be dropped at any
    /// point without losing a change.
    pub async fn changed(&mut self) {
        match &mut self.0 {
            Some(socket) => socket.changed().await,
            None => std::future::pending().await,
        }
    }
}

/// Returns at the next change of the network; never where that cannot be known.
pub async fn changed() {
    NetworkChanges::listen().changed().await;
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::os::unix::net::UnixDatagram as BlockingDatagram;

    use rustix::net::netlink::SocketAddrNetlink;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
    use tokio::net::UnixDatagram;

    /// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR` and
    /// `RTMGRP_IPV6_ROUTE` of linux/rtnetlink.h.
    const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

    /// Tokio has no type for it; what it does with datagrams of the Unix family, waiting and receiving,
    /// is the same for every socket of datagrams.
    #[derive(Debug)]
    pub(super) struct Socket(UnixDatagram);

    impl Socket {
        pub(super) fn open() -> io::Result<Option<Self>> {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            // Without a protocol it is the routing one.
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
            UnixDatagram::from_std(BlockingDatagram::from(socket)).map(|socket| Some(Self(socket)))
        }

        pub(super) fn drain(&mut self) -> bool {
            // What a message says does not matter: any of them may have brought the network back.
            let mut ignored = [0; 4096];
            let mut heard = false;
            // As many as a burst has at most: if it never ends, that is a change.
            for _ in 0..10_000 {
                match self.0.try_recv(&mut ignored) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // Also where more came than the kernel keeps (`ENOBUFS`): it has dropped some.
                    _ => heard = true,
                }
            }
            heard
        }

        pub(super) async fn changed(&mut self) {
            loop {
                if self.0.readable().await.is_err() {
                    return std::future::pending().await;
                }
                if self.drain() {
                    return;
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    #[derive(Debug)]
    pub(super) enum Socket {}

    impl Socket {
        pub(super) fn open() -> std::io::Result<Option<Self>> {
            Ok(None)
        }

        pub(super) fn drain(&mut self) -> bool {
            match *self {}
        }

        pub(super) async fn changed(&mut self) {
            match *self {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// That a change is heard needs a network of its own: the whole-program tests have one.
    #[tokio::test]
    async fn listening_works_and_nothing_is_heard_while_nothing_changes() {
        let mut changes = NetworkChanges::listen();
        assert!(changes.0.is_some() == cfg!(target_os = "linux"));
        changes.drain();
        let heard = tokio::time::timeout(Duration::from_millis(50), changes.changed()).await;
        // Another program may change the network meanwhile; then it was heard.
        assert!(heard.is_err() || !changes.drain());
    }
}
