//! Tickets, devices, and the nodes that this home knows.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use baton_protocol::id::DeviceId;
use baton_protocol::ticket::Ticket;
use baton_store::catalog::devices::Role;
use baton_store::catalog::queue::EntryState;
use baton_store::catalog::remotes::Remote;

use super::Daemon;
use super::failure::{Fail, chain};
use crate::api::control::{
    Answer, DeviceEntry, DevicesAnswer, JoinAnswer, RemoteEntry, RemotesAnswer, TicketAnswer,
};
use crate::audit::Event;
use crate::client::ClientError;
use crate::clock::rfc3339;
use crate::node::Node;
use crate::node::addresses::advertised;
use crate::node::join::{OWNER, TicketWish, enrol_own, issue_ticket};

/// The name of the node embedded in this daemon.
pub(super) const LOCAL: &str = "local";

/// A node to talk to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) remote: Remote,
    pub(super) embedded: bool,
}

impl From<ClientError> for Fail {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Transport(error) => error.into(),
            ClientError::Refused(refusal) => refusal.into(),
            error @ (ClientError::OutOfTurn | ClientError::TooLong { .. }) => {
                Self::new("transport", chain(&error))
            }
        }
    }
}

impl Daemon {
    /// The node that a command means: the one named, else the default one, else the one embedded.
    pub(super) async fn target(self: &Arc<Self>, name: Option<String>) -> Result<Target, Fail> {
        let chosen = self.blocking("remote", move |daemon| daemon.find_remote(name)).await?;
        match chosen {
            Some(remote) => Ok(Target { remote, embedded: false }),
            None => self.local().await,
        }
    }

    /// The node that a command means among those that were joined; nothing where it means the one embedded.
    pub(super) fn find_remote(&self, name: Option<String>) -> Result<Option<Remote>, Fail> {
        let name = match name {
            Some(name) => Some(name),
            None => self.catalog.default_remote()?,
        };
        let Some(name) = name.filter(|name| name != LOCAL) else { return Ok(None) };
        self.catalog.remote(&name)?.map(Some).ok_or_else(|| no_remote(&name))
    }

    /// The default node among those that were joined.
    pub(super) async fn joined_target(self: &Arc<Self>) -> Result<Option<Target>, Fail> {
        self.blocking("remote", move |daemon| {
            let name = daemon.catalog.default_remote()?.filter(|name| name != LOCAL);
            let remote = name.map(|name| daemon.catalog.remote(&name)).transpose()?.flatten();
            Ok(remote.map(|remote| Target { remote, embedded: false }))
        })
        .await
    }

    /// The node embedded in this daemon, with this home enrolled.
    pub(super) async fn local(self: &Arc<Self>) -> Result<Target, Fail> {
        let node = self.node().await?;
        let (id, address) = (node.id(), reachable(node.address()));
        self.blocking("enrol", |daemon| {
            enrol_own(&daemon.catalog, daemon.workspaces.device, "this machine", &daemon.clock)
                .map_err(|error| Fail::new("enrol", chain(&error)))
        })
        .await?;
        let remote = Remote {
            name: LOCAL.to_owned(),
            node: id,
            user: OWNER.to_owned(),
            addresses: vec![address.to_string()],
            joined_at: 0,
        };
        Ok(Target { remote, embedded: true })
    }

    /// Every node that this home knows; the embedded one where it was used, or none is joined.
    pub(super) async fn targets(
        self: &Arc<Self>,
        name: Option<String>,
    ) -> Result<Vec<Target>, Fail> {
        if name.is_some() {
            return Ok(vec![self.target(name).await?]);
        }
        let (joined, is_enrolled) = self
            .blocking("remotes", |daemon| {
                let own = daemon.catalog.device(daemon.workspaces.device)?;
                Ok((daemon.catalog.remotes()?, own.is_some()))
            })
            .await?;
        let mut targets: Vec<Target> =
            joined.into_iter().map(|remote| Target { remote, embedded: false }).collect();
        // A home that never used its embedded node has nothing there.
        if targets.is_empty() || is_enrolled {
            targets.push(self.local().await?);
        }
        Ok(targets)
    }

    /// What tickets of this node say.
    pub(super) fn advertised(&self, node: &Node) -> Vec<String> {
        let said = match self.options.advertise.as_slice() {
            [] => &self.config.serve.advertise,
            said => said,
        };
        advertised(node.address(), said)
    }

    pub(super) fn issue_ticket(
        &self,
        user: Option<String>,
        role: Option<&str>,
        expires_ms: u64,
        uses: u32,
    ) -> Result<TicketAnswer, Fail> {
        let Some(node) = self.node.get().filter(|_| self.options.serving) else {
            return Err(Fail::new(
                "not-serving",
                "this home is no cloud node: nobody could connect",
            )
            .hint("baton serve"));
        };
        let role = match role {
            None => Role::Admin,
            Some(name) => Role::parse(name).ok_or_else(|| {
                Fail::new("role", format!("{name:?} is no role; there are push, run and admin"))
                    .exit(2)
            })?,
        };
        let user = user.unwrap_or_else(|| OWNER.to_owned());
        let wish = TicketWish { user, role, expires_ms, uses };
        let addresses = self.advertised(node);
        let issued = issue_ticket(&self.catalog, node.id(), &addresses, &wish, &self.clock)
            .map_err(|error| Fail::new("ticket", chain(&error)))?;
        node.audit().note(&Event::Ticket {
            user: &issued.user,
            role: role.name(),
            uses,
            expires_at: &rfc3339(issued.expires_at),
        });
        Ok(TicketAnswer {
            ticket: issued.word,
            user: issued.user,
            role: role.name().to_owned(),
            uses,
            expires_at: rfc3339(issued.expires_at),
        })
    }

    pub(super) async fn ticket(
        self: &Arc<Self>,
        user: Option<String>,
        role: Option<String>,
        expires_ms: u64,
        uses: u32,
    ) -> Result<Answer, Fail> {
        self.blocking("ticket", move |daemon| {
            daemon.issue_ticket(user, role.as_deref(), expires_ms, uses)
        })
        .await
        .map(Answer::Ticket)
    }

    pub(super) async fn join(
        self: &Arc<Self>,
        ticket: &str,
        name: Option<String>,
    ) -> Result<Answer, Fail> {
        let ticket = Ticket::decode(ticket).map_err(|error| {
            Fail::new("ticket", chain(&error)).hint("copy the whole word after `baton join`")
        })?;
        if name.as_deref() == Some(LOCAL) {
            return Err(Fail::new("name-taken", "`local` is the node embedded in this daemon")
                .hint("baton join --name OTHER TICKET"));
        }
        let joined = self.pool.join(&ticket, &host_name()).await?;
        let device = joined.welcome.device;
        if device != self.workspaces.device {
            return Err(Fail::new(
                "wrong-identity",
                "the node enrolled another device than this one",
            ));
        }
        let (node, user) = (ticket.node, joined.welcome.user);
        // The address that answered comes first.
        let wanted = name.unwrap_or_else(|| short_name(&joined.address));
        let mut addresses = ticket.addresses;
        addresses.retain(|other| *other != joined.address);
        addresses.insert(0, joined.address);
        let remote = Remote {
            name: wanted,
            node,
            user: user.clone(),
            addresses,
            joined_at: self.clock.now_ms(),
        };
        let name = self.blocking("join", move |daemon| daemon.keep_remote(remote)).await?;
        tracing::info!(remote = %name, node = %node.short(), "joined");
        self.queue.nudge(node);
        Ok(Answer::Join(JoinAnswer {
            remote: name,
            node_id: node.to_string(),
            device_id: device.to_string(),
            user,
        }))
    }

    /// Keeps a node under its name, or the name with a number where another node has it; a node that
    /// was joined before keeps its entry up to date. It becomes the default.
    fn keep_remote(&self, mut remote: Remote) -> Result<String, Fail> {
        if let Some(known) = self.catalog.remote_of_node(remote.node)? {
            self.catalog.remove_remote(&known.name)?;
        }
        let base = remote.name.clone();
        let mut number = 2;
        while self.catalog.add_remote(&remote)?.is_err() {
            remote.name = format!("{base}-{number}");
            number += 1;
        }
        self.catalog.set_default_remote(&remote.name)?;
        Ok(remote.name)
    }

    pub(super) async fn remote_list(self: &Arc<Self>) -> Result<Answer, Fail> {
        self.blocking("remotes", Self::remotes_answer).await.map(Answer::Remotes)
    }

    pub(super) fn remotes_answer(&self) -> Result<RemotesAnswer, Fail> {
        let joined = self.catalog.remotes()?;
        let default = self.catalog.default_remote()?;
        let transport = |node| self.pool.way(node).map(|way| way.name().to_owned());
        let mut remotes: Vec<RemoteEntry> = joined
            .into_iter()
            .map(|remote| RemoteEntry {
                default: default.as_ref() == Some(&remote.name),
                name: remote.name,
                node_id: remote.node.to_string(),
                user: remote.user,
                addresses: remote.addresses,
                embedded: false,
                transport: transport(remote.node),
            })
            .collect();
        remotes.push(RemoteEntry {
            name: LOCAL.to_owned(),
            node_id: self.identity.node().to_string(),
            user: OWNER.to_owned(),
            addresses: Vec::new(),
            default: default.is_none() || default.as_deref() == Some(LOCAL),
            embedded: true,
            transport: transport(self.identity.node()),
        });
        Ok(RemotesAnswer { remotes })
    }

    pub(super) async fn remote_default(self: &Arc<Self>, name: String) -> Result<Answer, Fail> {
        self.blocking("remotes", move |daemon| {
            if name != LOCAL && daemon.catalog.remote(&name)?.is_none() {
                return Err(no_remote(&name));
            }
            daemon.catalog.set_default_remote(&name)?;
            daemon.remotes_answer()
        })
        .await
        .map(Answer::Remotes)
    }

    /// Forgets a node. What waits for it would never be sent: it is named, and nothing is changed, unless
    /// the user insists.
    pub(super) async fn remote_remove(
        self: &Arc<Self>,
        name: String,
        force: bool,
    ) -> Result<Answer, Fail> {
        let (answer, node) = self
            .blocking("remotes", move |daemon| {
                let Some(remote) = daemon.catalog.remote(&name)? else {
                    return Err(no_remote(&name));
                };
                let queue = daemon.catalog.queue()?;
                let waits = queue.iter().filter(|entry| {
                    entry.state == EntryState::Waiting && entry.wanted.node == remote.node
                });
                let waits: Vec<_> = waits
                    .map(|entry| {
                        format!("{} {}", entry.wanted.kind.name(), entry.wanted.id.short())
                    })
                    .collect();
                if !waits.is_empty() && !force {
                    let what = format!(
                        "{} not sent to {name} yet: {}",
                        are(waits.len()),
                        waits.join(", ")
                    );
                    return Err(Fail::new("unsent", what)
                        .hint("baton queue says why; baton remote remove --force gives it up")
                        .exit(4));
                }
                daemon.catalog.remove_remote(&name)?;
                Ok((daemon.remotes_answer()?, remote.node))
            })
            .await?;
        self.pool.forget(node).await;
        // What waits for it is not waited for any more.
        self.queue.nudge(node);
        Ok(Answer::Remotes(answer))
    }

    pub(super) async fn device_list(self: &Arc<Self>) -> Result<Answer, Fail> {
        self.blocking("devices", Self::devices_answer).await.map(Answer::Devices)
    }

    fn devices_answer(&self) -> Result<DevicesAnswer, Fail> {
        let entry = |device: baton_store::catalog::devices::Device| DeviceEntry {
            device_id: device.id.to_string(),
            user: device.user,
            name: device.name,
            role: device.role.name().to_owned(),
            last_seen: device.last_seen.map(rfc3339),
            revoked: device.revoked,
        };
        let devices = self.catalog.devices()?.into_iter().map(entry).collect();
        Ok(DevicesAnswer { devices })
    }

    pub(super) async fn device_revoke(self: &Arc<Self>, digits: String) -> Result<Answer, Fail> {
        let revoke = move |daemon: &Self| {
            let known = daemon.catalog.devices()?;
            let fits: Vec<DeviceId> = known
                .iter()
                .map(|device| device.id)
                .filter(|id| id.to_string().starts_with(&digits))
                .collect();
            let id = only(&fits, "device", &digits, "baton device list")?;
            match daemon.node.get() {
                Some(node) => node.revoke(id)?,
                None => daemon.catalog.revoke(id)?,
            };
            daemon.devices_answer()
        };
        self.blocking("revoke", revoke).await.map(Answer::Devices)
    }
}

/// The one thing that an id or a prefix of 8 or more digits means.
pub(super) fn only<T: Copy>(found: &[T], what: &str, digits: &str, list: &str) -> Result<T, Fail> {
    if digits.len() < baton_protocol::id::MIN_PREFIX {
        let message = format!("{digits:?} is too short: give 8 digits or more of the {what}'s id");
        return Err(Fail::new("prefix-too-short", message).hint(list));
    }
    match found {
        [one] => Ok(*one),
        [] => Err(Fail::new("not-found", format!("there is no {what} {digits}")).hint(list)),
        _ => {
            let message = format!("{digits} fits more than one {what}: give more digits");
            Err(Fail::new("ambiguous", message).hint(list))
        }
    }
}

fn are(count: usize) -> String {
    if count == 1 { "one thing is".to_owned() } else { format!("{count} things are") }
}

fn no_remote(name: &str) -> Fail {
    Fail::new("no-remote", format!("this home has joined no node called {name}"))
        .hint("baton remote list")
}

/// Where a listening address is reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

/// The name of this machine, for lists of devices.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A name for a node from its address: the first label of a DNS name, else `cloud`.
fn short_name(address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let is_ip = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    match host.split('.').next() {
        Some(label) if !is_ip && !label.is_empty() => label.to_ascii_lowercase(),
        _ => "cloud".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_addresses() {
        assert_eq!(short_name("Box.example.org:4319"), "box");
        assert_eq!(short_name("127.0.0.1:4319"), "cloud");
        assert_eq!(short_name("[::1]:4319"), "cloud");
    }

    #[test]
    fn a_prefix_means_one_thing_or_nothing() {
        assert_eq!(only(&[7], "device", "12345678", "x").unwrap(), 7);
        for (found, code) in [(&[][..], "not-found"), (&[1, 2], "ambiguous")] {
            assert_eq!(only(found, "device", "12345678", "x").unwrap_err().0.code, code);
        }
        assert_eq!(only(&[7], "device", "1234567", "x").unwrap_err().0.code, "prefix-too-short");
    }
}
