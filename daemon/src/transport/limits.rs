//! What peers may cost a node: how many connect, and how long they may take.
//!
//! Whoever is not enrolled gets little: a bounded number of places, a small window and a short life.
//! How often is bounded beside how many: connections from one address, and requests of one device.
//!
//! - [`rates`]: buckets of tokens
//! - [`memory`]: what connections may hold together
//! - [`turns`]: whose pushes and fetches are at work
//!
//! When many come back at once, each waits a moment for its place instead of coming again later.
//!
//! **Invariant:** every connection that is accepted holds a [`Place`] until it is gone, and places are
//! counted in total, among the unknown, per network address and per device.

pub mod memory;
pub mod rates;
pub mod turns;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use baton_protocol::id::DeviceId;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use self::memory::Memory;
use self::rates::Buckets;
pub use self::rates::Rate;
use self::turns::Turns;
use crate::config::ServeConfig;
use crate::machine;

/// Attempts that wait for a place, half of them of one address at most: each has sent a packet or two that are kept.
const MAX_WAITING: usize = 1024;

/// Of the machine's memory, connections get this part for what is under way, and this much where it does not say.
const MEMORY_PART: u64 = 4;
const MEMORY: u64 = 1 << 30;

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
    /// Bytes that all connections may hold of what nobody has read or acknowledged.
    pub memory: u64,
    /// How often one network address may connect.
    pub connects: Rate,
    /// How often one device may ask.
    pub requests: Rate,
    /// How long an attempt waits for its place. A client that hears nothing for 300 ms tries TCP as well.
    pub entering: Duration,
    /// From there to both keys being proven.
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
            memory: machine::memory().map_or(MEMORY, |all| all / MEMORY_PART),
            // A handshake costs a processor half a millisecond; an office behind one address that comes
            // back at once after a restart is let in at once.
            connects: Rate { burst: 1024, each: Duration::from_millis(10) },
            // What a loop that got out of hand asks, and no home that works.
            requests: Rate { burst: 4096, each: Duration::from_millis(2) },
            entering: Duration::from_millis(250),
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
        let of_machine = Self::default();
        Self {
            connections: config.max_connections,
            per_device: config.max_connections_per_device,
            memory: config.memory.map_or(of_machine.memory, |bytes| bytes.0),
            ..of_machine
        }
    }
}

/// What becomes of a connection attempt.
#[derive(Debug)]
pub enum Admission {
    /// It may wait for a place.
    Wait(Entrance),
    /// Let the client show its address first.
    Validate,
    /// No place is free, and too many wait for one.
    Refuse,
}

/// Counts places.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: Limits,
    counts: Mutex<Counts>,
    /// Places for the unknown.
    unknown: Arc<Semaphore>,
    connects: Mutex<Buckets<IpAddr>>,
    requests: Mutex<Buckets<DeviceId>>,
    memory: Memory,
    turns: Turns,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    waiting: usize,
    addresses: HashMap<IpAddr, Address>,
    requests: HashMap<DeviceId, usize>,
}

/// Of one network address.
#[derive(Debug)]
struct Address {
    /// Places for its unknown.
    unknown: Arc<Semaphore>,
    /// Those that have a place or wait for one.
    at_hand: usize,
}

impl Gate {
    /// Nobody is in.
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Shared {
            counts: Mutex::default(),
            unknown: Arc::new(Semaphore::new(limits.unknown)),
            connects: Mutex::new(Buckets::new(limits.connects)),
            requests: Mutex::new(Buckets::new(limits.requests)),
            memory: Memory::new(limits.memory),
            turns: Turns::default(),
            limits,
        }))
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// What connections may hold together.
    pub fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// Whose pushes and fetches are at work.
    pub fn turns(&self) -> &Turns {
        &self.0.turns
    }

    /// Decides on a connection attempt from `address`, which the client has `validated` or not.
    pub fn admit(&self, address: IpAddr, validated: bool) -> Admission {
        let Limits { connections, unknown, unknown_per_address, retry_from, .. } = self.0.limits;
        let address = network(address);
        let mut counts = lock(&self.0.counts);
        let is_busy = unknown - self.0.unknown.available_permits() + counts.waiting >= retry_from;
        if !validated && is_busy {
            return Admission::Validate;
        }
        if counts.all >= connections || counts.waiting >= MAX_WAITING {
            return Admission::Refuse;
        }
        let of_address = counts.addresses.entry(address).or_insert_with(|| Address {
            unknown: Arc::new(Semaphore::new(unknown_per_address)),
            at_hand: 0,
        });
        // Half of the places to wait are for those of other addresses.
        if of_address.at_hand >= unknown_per_address + MAX_WAITING / 2 {
            return Admission::Refuse;
        }
        of_address.at_hand += 1;
        counts.waiting += 1;
        drop(counts);
        let gate = self.clone();
        Admission::Wait(Entrance { at_hand: AtHand { gate, address, is_waiting: true } })
    }

    /// Waits until a device may ask again, if that is within `patience`; says whether it may.
    pub async fn pace(&self, device: DeviceId, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            let now = Instant::now();
            let taken = lock(&self.0.requests).take(device, now);
            match taken {
                Ok(()) => return true,
                Err(wait) if now + wait > until => return false,
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// A place for one more request of a device, where one is free.
    pub fn request(&self, device: DeviceId) -> Option<RequestPlace> {
        let mut counts = lock(&self.0.counts);
        let at_work = counts.requests.entry(device).or_default();
        if *at_work >= self.0.limits.requests_per_device {
            return None;
        }
        *at_work += 1;
        Some(RequestPlace { gate: self.clone(), device })
    }

    /// How many connections there are: all, and those of unknown devices.
    pub fn connections(&self) -> (usize, usize) {
        let all = lock(&self.0.counts).all;
        (all, self.0.limits.unknown - self.0.unknown.available_permits())
    }
}

/// An attempt that waits for a place.
#[derive(Debug)]
pub struct Entrance {
    at_hand: AtHand,
}

impl Entrance {
    /// Waits for a place, if there is one within `patience`. Those of one address have it in their order.
    pub async fn enter(self, patience: Duration) -> Option<Place> {
        let Self { mut at_hand } = self;
        let (gate, address) = (at_hand.gate.clone(), at_hand.address);
        let of_address = {
            let counts = lock(&gate.0.counts);
            Arc::clone(&counts.addresses.get(&address)?.unknown)
        };
        let until = Instant::now() + patience;
        let enter = async {
            let of_address = of_address.acquire_owned().await.ok()?;
            loop {
                let taken = lock(&gate.0.connects).take(address, Instant::now());
                match taken {
                    Ok(()) => break,
                    Err(wait) => tokio::time::sleep(wait).await,
                }
            }
            let of_all = Arc::clone(&gate.0.unknown).acquire_owned().await.ok()?;
            Some((of_address, of_all))
        };
        let permits = tokio::time::timeout_at(until, enter).await.ok()??;
        let mut counts = lock(&gate.0.counts);
        if counts.all >= gate.0.limits.connections {
            return None;
        }
        counts.all += 1;
        at_hand.stops_waiting(&mut counts);
        drop(counts);
        Some(Place { gate, unknown: Some((permits, at_hand)) })
    }
}

/// Counts among those of its address that are not known.
#[derive(Debug)]
struct AtHand {
    gate: Gate,
    address: IpAddr,
    is_waiting: bool,
}

impl AtHand {
    fn stops_waiting(&mut self, counts: &mut Counts) {
        counts.waiting -= usize::from(std::mem::take(&mut self.is_waiting));
    }
}

impl Drop for AtHand {
    fn drop(&mut self) {
        let gate = self.gate.clone();
        let mut counts = lock(&gate.0.counts);
        self.stops_waiting(&mut counts);
        if let Entry::Occupied(mut entry) = counts.addresses.entry(self.address) {
            entry.get_mut().at_hand -= 1;
            // The map does not grow with every peer seen.
            if entry.get().at_hand == 0 {
                entry.remove();
            }
        }
    }
}

/// Of its address, and of all.
type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// The place of a connection; dropping it frees it.
#[derive(Debug)]
pub struct Place {
    gate: Gate,
    unknown: Option<(Permits, AtHand)>,
}

impl Place {
    /// The device turned out to be enrolled: it no longer counts among the unknown.
    pub fn known(&mut self) {
        self.unknown = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.gate.0.counts).all -= 1;
    }
}

/// The place of a request; dropping it frees it.
#[derive(Debug)]
pub struct RequestPlace {
    gate: Gate,
    device: DeviceId,
}

impl Drop for RequestPlace {
    fn drop(&mut self) {
        decrement(&mut lock(&self.gate.0.counts).requests, self.device);
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

    async fn admit(gate: &Gate, from: &str, validated: bool) -> Option<Place> {
        match gate.admit(address(from), validated) {
            Admission::Wait(entrance) => entrance.enter(Duration::from_secs(1)).await,
            _ => None,
        }
    }

    #[tokio::test]
    async fn unknown_peers_are_validated_and_then_wait_or_are_refused() {
        let gate = gate();
        let _first = admit(&gate, "10.0.0.1", false).await.unwrap();
        let second = admit(&gate, "10.0.0.1", false).await.unwrap();
        assert!(matches!(gate.admit(address("10.0.0.2"), false), Admission::Validate));
        assert!(admit(&gate, "10.0.0.1", true).await.is_none(), "a third one of an address");
        let _third = admit(&gate, "10.0.0.2", true).await.unwrap();
        assert!(admit(&gate, "10.0.0.3", true).await.is_none(), "a fourth one");
        // Who waits is in as soon as somebody is gone.
        let waits = admit(&gate, "10.0.0.1", true);
        let leaves = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(gate.connections(), (3, 3));
            drop(second);
        };
        assert!(tokio::join!(waits, leaves).0.is_some());
        assert_eq!(gate.connections(), (2, 2));
        assert_eq!(lock(&gate.0.counts).waiting, 0);
    }

    #[tokio::test]
    async fn those_that_wait_are_bounded_for_each_address_and_in_all() {
        let gate = gate();
        let wait = |from: &str| match gate.admit(address(from), true) {
            Admission::Wait(entrance) => Some(entrance),
            _ => None,
        };
        let of_one: Vec<_> = std::iter::from_fn(|| wait("10.0.0.1")).collect();
        assert_eq!(of_one.len(), 2 + MAX_WAITING / 2);
        let of_another: Vec<_> = std::iter::from_fn(|| wait("10.0.0.2")).collect();
        assert_eq!(of_one.len() + of_another.len(), MAX_WAITING);
        assert!(wait("10.0.0.3").is_none());
        drop((of_one, of_another));
        assert!(wait("10.0.0.3").is_some());
        assert!(lock(&gate.0.counts).addresses.is_empty());
    }

    #[tokio::test]
    async fn known_devices_leave_room_for_unknown_ones_up_to_the_total() {
        let gate = gate();
        let mut places = Vec::new();
        for _ in 0..4 {
            let mut place = admit(&gate, "10.0.0.1", false).await.unwrap();
            place.known();
            place.known();
            places.push(place);
        }
        assert_eq!(gate.connections(), (4, 0));
        assert!(matches!(gate.admit(address("10.0.0.9"), true), Admission::Refuse));
        places.clear();
        assert_eq!(gate.connections(), (0, 0));
        assert!(lock(&gate.0.counts).addresses.is_empty());
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
        assert!(lock(&gate.0.counts).requests.is_empty());
    }
}
