//! What peers may cost a node: how many connect, and how long they may take.
//!
//! Whoever is not enrolled gets little: a bounded number of places, a small window and a short life.
//! How often is bounded beside how many: connections from one address, and requests of one device.
//!
//! - [`rates`]: buckets of tokens
//!
//! **Invariant:** every connection that is accepted holds a [`Place`] until it is gone, and places are
//! counted in total, among the unknown, per network address and per device.

pub mod rates;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use baton_protocol::id::DeviceId;

use tokio::time::Instant;

use self::rates::{Buckets, Rate};
use crate::config::ServeConfig;

/// The limits of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, of whatever kind.
    pub connections: usize,
    /// Connections at once whose device is not known, or not yet.
    pub unknown: usize,
    /// Of those, from one network address (in IPv6 from one /64).
    pub unknown_per_address: usize,
    /// Unknown connections from which on a client must show that it receives at its address
    /// (a `Retry`, one more round trip) before anything is computed or kept for it.
    pub retry_from: usize,
    /// Connections at once of one device; the oldest make way.
    pub per_device: usize,
    /// Requests at work at once for one device, over all its connections.
    pub requests_per_device: usize,
    /// How often one network address may connect.
    pub connects: Rate,
    /// How often one device may ask.
    pub requests: Rate,
    /// From the first packet to both keys being proven.
    pub handshake: Duration,
    /// How long a device that is not enrolled may stay to redeem a ticket.
    pub unknown_stay: Duration,
    /// From a stream's start to the end of its first frame.
    pub opening: Duration,
    /// How long a stream may stand still in the middle of a request.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            unknown: 64,
            unknown_per_address: 16,
            retry_from: 32,
            per_device: 8,
            requests_per_device: 64,
            // A handshake costs a processor half a millisecond; an office behind one address that comes
            // back at once after a restart is let in at once.
            connects: Rate { burst: 512, each: Duration::from_millis(20) },
            // What a loop that got out of hand asks, and no home that works.
            requests: Rate { burst: 4096, each: Duration::from_millis(2) },
            handshake: Duration::from_secs(10),
            unknown_stay: Duration::from_secs(30),
            opening: Duration::from_secs(15),
            stall: Duration::from_mins(1),
        }
    }
}

impl Limits {
    /// The limits that a configuration sets, and the defaults of the others.
    pub fn of(config: &ServeConfig) -> Self {
        Self {
            connections: config.max_connections,
            per_device: config.max_connections_per_device,
            ..Self::default()
        }
    }
}

/// What becomes of a connection attempt.
#[derive(Debug)]
pub enum Admission {
    /// Accept it, and keep the place as long as it lives.
    Admit(Place),
    /// Let the client show its address first.
    Validate,
    /// No place is free.
    Refuse,
}

/// Counts places.
#[derive(Clone, Debug)]
pub struct Gate {
    limits: Limits,
    counts: Arc<Mutex<Counts>>,
    connects: Arc<Mutex<Buckets<IpAddr>>>,
    requests: Arc<Mutex<Buckets<DeviceId>>>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    unknown: usize,
    unknown_by_address: HashMap<IpAddr, usize>,
    requests: HashMap<DeviceId, usize>,
}

impl Gate {
    /// Nobody is in.
    pub fn new(limits: Limits) -> Self {
        let connects = Arc::new(Mutex::new(Buckets::new(limits.connects)));
        let requests = Arc::new(Mutex::new(Buckets::new(limits.requests)));
        Self { limits, counts: Arc::default(), connects, requests }
    }

    /// The limits.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Decides on a connection attempt from `address`, which the client has `validated` or not.
    pub fn admit(&self, address: IpAddr, validated: bool) -> Admission {
        let address = network(address);
        let mut counts = lock(&self.counts);
        let of_address = counts.unknown_by_address.get(&address).copied().unwrap_or(0);
        if counts.all >= self.limits.connections || counts.unknown >= self.limits.unknown {
            return Admission::Refuse;
        }
        if !validated && counts.unknown >= self.limits.retry_from {
            return Admission::Validate;
        }
        if of_address >= self.limits.unknown_per_address {
            return Admission::Refuse;
        }
        if lock(&self.connects).take(address, Instant::now()).is_err() {
            return Admission::Refuse;
        }
        counts.all += 1;
        counts.unknown += 1;
        *counts.unknown_by_address.entry(address).or_default() += 1;
        Admission::Admit(Place { counts: Arc::clone(&self.counts), unknown: Some(address) })
    }

    /// Waits until a device may ask again, if that is within `patience`; says whether it may.
    pub async fn pace(&self, device: DeviceId, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            let now = Instant::now();
            let taken = lock(&self.requests).take(device, now);
            match taken {
                Ok(()) => return true,
                Err(wait) if now + wait > until => return false,
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// A place for one more request of a device, where one is free.
    pub fn request(&self, device: DeviceId) -> Option<RequestPlace> {
        let mut counts = lock(&self.counts);
        let at_work = counts.requests.entry(device).or_default();
        if *at_work >= self.limits.requests_per_device {
            return None;
        }
        *at_work += 1;
        Some(RequestPlace { counts: Arc::clone(&self.counts), device })
    }

    /// How many connections there are: all, and those of unknown devices.
    pub fn connections(&self) -> (usize, usize) {
        let counts = lock(&self.counts);
        (counts.all, counts.unknown)
    }
}

/// The place of a connection; dropping it frees it.
#[derive(Debug)]
pub struct Place {
    counts: Arc<Mutex<Counts>>,
    unknown: Option<IpAddr>,
}

impl Place {
    /// The device turned out to be enrolled: it no longer counts among the unknown.
    pub fn known(&mut self) {
        if let Some(address) = self.unknown.take() {
            let mut counts = lock(&self.counts);
            counts.unknown -= 1;
            decrement(&mut counts.unknown_by_address, address);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.known();
        lock(&self.counts).all -= 1;
    }
}

/// The place of a request; dropping it frees it.
#[derive(Debug)]
pub struct RequestPlace {
    counts: Arc<Mutex<Counts>>,
    device: DeviceId,
}

impl Drop for RequestPlace {
    fn drop(&mut self) {
        decrement(&mut lock(&self.counts).requests, self.device);
    }
}

fn lock<T>(counts: &Mutex<T>) -> MutexGuard<'_, T> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts down, and forgets what is at zero, so that the map does not grow with every peer seen.
fn decrement<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

/// What one attacker has cheaply: an IPv4 address, or an IPv6 network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn gate() -> Gate {
        Gate::new(Limits {
            connections: 4,
            unknown: 3,
            unknown_per_address: 2,
            retry_from: 2,
            requests_per_device: 2,
            ..Limits::default()
        })
    }

    fn admit(gate: &Gate, from: &str, validated: bool) -> Option<Place> {
        match gate.admit(address(from), validated) {
            Admission::Admit(place) => Some(place),
            _ => None,
        }
    }

    #[test]
    fn unknown_peers_are_validated_and_then_refused() {
        let gate = gate();
        let _first = admit(&gate, "10.0.0.1", false).unwrap();
        let second = admit(&gate, "10.0.0.1", false).unwrap();
        assert!(matches!(gate.admit(address("10.0.0.2"), false), Admission::Validate));
        assert!(matches!(gate.admit(address("10.0.0.1"), true), Admission::Refuse));
        let _third = admit(&gate, "10.0.0.2", true).unwrap();
        assert!(matches!(gate.admit(address("10.0.0.3"), true), Admission::Refuse));
        drop(second);
        assert_eq!(gate.connections(), (2, 2));
        assert!(admit(&gate, "10.0.0.1", true).is_some());
    }

    #[test]
    fn known_devices_leave_room_for_unknown_ones_up_to_the_total() {
        let gate = gate();
        let mut places = Vec::new();
        for _ in 0..4 {
            let mut place = admit(&gate, "10.0.0.1", false).unwrap();
            place.known();
            place.known();
            places.push(place);
        }
        assert_eq!(gate.connections(), (4, 0));
        assert!(matches!(gate.admit(address("10.0.0.9"), true), Admission::Refuse));
        places.clear();
        assert_eq!(gate.connections(), (0, 0));
        assert!(lock(&gate.counts).unknown_by_address.is_empty());
    }

    #[test]
    fn one_network_is_one_address() {
        assert_eq!(network(address("2001:db8::1")), network(address("2001:db8::ffff:1")));
        assert_ne!(network(address("2001:db8::1")), network(address("2001:db8:0:1::1")));
        assert_eq!(network(address("::ffff:10.0.0.1")), address("10.0.0.1"));
    }

    #[test]
    fn requests_are_counted_per_device() {
        let gate = gate();
        let [first, second] = [1, 2].map(|byte| DeviceId::from_bytes([byte; 32]));
        let held: Vec<_> = (0..2).map(|_| gate.request(first).unwrap()).collect();
        assert!(gate.request(first).is_none());
        assert!(gate.request(second).is_some());
        drop(held);
        assert!(gate.request(first).is_some());
        assert!(lock(&gate.counts).requests.is_empty());
    }
}
