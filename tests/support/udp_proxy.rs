//! A bad network on loopback: UDP between a client and a server, late, out of order, lost, twice,
//! damaged, or not at all.
//!
//! Each client address has a socket of its own towards the server, as behind a NAT. What happens to a
//! packet is drawn from a seed; the order in which packets come is the system's.

use std::collections::{BinaryHeap, HashMap};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::rng::Rng;

/// How long a thread sleeps in a socket before it looks whether it should end.
const LOOK: Duration = Duration::from_millis(20);

/// Much later than the next packets.
const LATE: Duration = Duration::from_millis(50);

/// What the network does to each packet, in either direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Least time under way.
    pub(crate) delay: Duration,
    /// Up to so much more, at random: packets overtake each other.
    pub(crate) jitter: Duration,
    /// Packets in a thousand that are lost.
    pub(crate) loss: u32,
    /// That come twice.
    pub(crate) duplicate: u32,
    /// In which one bit is changed.
    pub(crate) corrupt: u32,
    /// That come up to [`LATE`] later than they would: others overtake them.
    pub(crate) late: u32,
    /// Longest packet that gets through, of its bytes after the UDP header; 0 is any.
    pub(crate) longest: usize,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) to_server: u64,
    pub(crate) to_client: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) corrupted: u64,
}

/// A packet under way.
struct Packet {
    due: Instant,
    /// Keeps packets of one moment in order.
    number: u64,
    from: Arc<UdpSocket>,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Packet {}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Packet {
    /// The earliest is the greatest, so that the heap hands it out first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

struct Queue {
    rng: Rng,
    weather: Weather,
    packets: BinaryHeap<Packet>,
    number: u64,
    counts: Counts,
}

struct Shared {
    server: SocketAddr,
    front: Arc<UdpSocket>,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Client addresses and the sockets that stand for them.
    clients: Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    blackhole: AtomicBool,
    /// Counts the moves to new sockets; a reader of an old one ends.
    generation: AtomicU64,
    stop: AtomicBool,
}

/// The network. Ends with its last packet when it is dropped.
pub(crate) struct UdpProxy {
    shared: Arc<Shared>,
}

impl UdpProxy {
    /// Stands before `server`, at an address of its own.
    pub(crate) fn new(server: SocketAddr, seed: u64, weather: Weather) -> Self {
        let front = Arc::new(socket());
        let queue = Queue {
            rng: Rng::new(seed),
            weather,
            packets: BinaryHeap::new(),
            number: 0,
            counts: Counts::default(),
        };
        let shared = Arc::new(Shared {
            server,
            front,
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            clients: Mutex::default(),
            threads: Mutex::default(),
            blackhole: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        shared.spawn(Shared::read_clients);
        shared.spawn(Shared::deliver);
        Self { shared }
    }

    /// Where clients connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.shared.front.local_addr().unwrap()
    }

    /// Changes what happens to packets that come from now on.
    pub(crate) fn set(&self, weather: Weather) {
        self.shared.queue().weather = weather;
    }

    /// Swallows everything, also what is under way, until it is called with `false`.
    pub(crate) fn blackhole(&self, on: bool) {
        self.shared.blackhole.store(on, Ordering::SeqCst);
        if on {
            self.shared.queue().packets.clear();
        }
    }

    /// Gives every client another address towards the server, as a NAT that forgot them does.
    pub(crate) fn rebind(&self) {
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        self.shared.clients.lock().unwrap().clear();
    }

    pub(crate) fn counts(&self) -> Counts {
        self.shared.queue().counts
    }
}

impl Drop for UdpProxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake.notify_all();
        // A thread that ends may have started another one.
        loop {
            let threads = std::mem::take(&mut *self.shared.threads.lock().unwrap());
            if threads.is_empty() {
                break;
            }
            for thread in threads {
                let ended = thread.join();
                assert!(ended.is_ok() || std::thread::panicking(), "the proxy panicked");
            }
        }
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(LOOK)).unwrap();
    socket
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap()
    }

    fn spawn(self: &Arc<Self>, work: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let shared = Arc::clone(self);
        let thread = std::thread::spawn(move || work(&shared));
        self.threads.lock().unwrap().push(thread);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn read_clients(self: &Arc<Self>) {
        let mut buffer = vec![0; 65536];
        while !self.stopped() {
            let Some((len, client)) = receive(&self.front, &mut buffer) else { continue };
            let back = self.back(client);
            self.enqueue(&back, self.server, &buffer[..len]);
        }
    }

    /// The socket that stands for a client.
    fn back(self: &Arc<Self>, client: SocketAddr) -> Arc<UdpSocket> {
        let mut clients = self.clients.lock().unwrap();
        let back = clients.entry(client).or_insert_with(|| {
            let back = Arc::new(socket());
            let from = Arc::clone(&back);
            let generation = self.generation.load(Ordering::SeqCst);
            self.spawn(move |shared| shared.read_server(&from, client, generation));
            back
        });
        Arc::clone(back)
    }

    fn read_server(&self, back: &UdpSocket, client: SocketAddr, generation: u64) {
        let mut buffer = vec![0; 65536];
        while !self.stopped() && self.generation.load(Ordering::SeqCst) == generation {
            let Some((len, from)) = receive(back, &mut buffer) else { continue };
            if from == self.server {
                self.enqueue(&self.front, client, &buffer[..len]);
            }
        }
    }

    fn enqueue(&self, from: &Arc<UdpSocket>, to: SocketAddr, bytes: &[u8]) {
        let mut queue = self.queue();
        let Queue { rng, weather, packets, number, counts } = &mut *queue;
        let too_long = weather.longest > 0 && bytes.len() > weather.longest;
        if too_long || self.blackhole.load(Ordering::SeqCst) || rng.chance(weather.loss) {
            counts.lost += 1;
            return;
        }
        *(if to == self.server { &mut counts.to_server } else { &mut counts.to_client }) += 1;
        let copies = if rng.chance(weather.duplicate) {
            counts.duplicated += 1;
            2
        } else {
            1
        };
        for _ in 0..copies {
            let mut bytes = bytes.to_vec();
            if !bytes.is_empty() && rng.chance(weather.corrupt) {
                counts.corrupted += 1;
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << rng.below(8);
            }
            let mut jitter = rng.below(weather.jitter.as_micros() as u64 + 1);
            if rng.chance(weather.late) {
                jitter += rng.below(LATE.as_micros() as u64);
            }
            let due = Instant::now() + weather.delay + Duration::from_micros(jitter);
            *number += 1;
            packets.push(Packet { due, number: *number, from: Arc::clone(from), to, bytes });
        }
        self.wake.notify_all();
    }

    fn deliver(self: &Arc<Self>) {
        let mut queue = self.queue();
        while !self.stopped() {
            let now = Instant::now();
            match queue.packets.peek().map(|packet| packet.due.saturating_duration_since(now)) {
                Some(Duration::ZERO) => {
                    let packet = queue.packets.pop();
                    drop(queue);
                    if let Some(Packet { from, to, bytes, .. }) = packet {
                        // A peer that has gone is a packet lost.
                        drop(from.send_to(&bytes, to));
                    }
                    queue = self.queue();
                }
                wait => {
                    let wait = wait.unwrap_or(LOOK).min(LOOK);
                    queue = self.wake.wait_timeout(queue, wait).unwrap().0;
                }
            }
        }
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    match socket.recv_from(buffer) {
        Ok(received) => Some(received),
        Err(error) => {
            // A refused packet of before is reported here; it was lost.
            let passes = matches!(
                error.kind(),
                ErrorKind::WouldBlock
                    | ErrorKind::TimedOut
                    | ErrorKind::ConnectionRefused
                    | ErrorKind::Interrupted
            );
            assert!(passes, "receiving: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each packet with the same bytes; remembers who asked.
    struct Echo {
        address: SocketAddr,
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<Vec<SocketAddr>>>,
    }

    impl Echo {
        fn new() -> Self {
            let socket = socket();
            let address = socket.local_addr().unwrap();
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = Arc::clone(&stop);
            let thread = std::thread::spawn(move || {
                let mut buffer = vec![0; 65536];
                let mut clients = Vec::new();
                while !stopped.load(Ordering::SeqCst) {
                    if let Some((len, client)) = receive(&socket, &mut buffer) {
                        socket.send_to(&buffer[..len], client).unwrap();
                        if clients.last() != Some(&client) {
                            clients.push(client);
                        }
                    }
                }
                clients
            });
            Self { address, stop, thread: Some(thread) }
        }

        fn clients(mut self) -> Vec<SocketAddr> {
            self.stop.store(true, Ordering::SeqCst);
            self.thread.take().unwrap().join().unwrap()
        }
    }

    /// Sends numbered packets of 100 bytes; returns what came back until `expected` did, or nothing
    /// more for a while.
    fn exchange(proxy: &UdpProxy, client: &UdpSocket, count: u32, expected: usize) -> Vec<Vec<u8>> {
        for number in 0..count {
            let mut packet = vec![0; 100];
            packet[..4].copy_from_slice(&number.to_be_bytes());
            client.send_to(&packet, proxy.address()).unwrap();
            // Not more than a socket buffer holds.
            if number % 50 == 49 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let mut buffer = vec![0; 65536];
        let mut received = Vec::new();
        let mut silent = 0;
        while silent < 100 && received.len() < expected {
            match receive(client, &mut buffer) {
                Some((len, _)) => {
                    received.push(buffer[..len].to_vec());
                    silent = 0;
                }
                None => silent += 1,
            }
        }
        received
    }

    #[test]
    fn fair_weather_changes_nothing() {
        let echo = Echo::new();
        let proxy = UdpProxy::new(echo.address, 1, Weather::default());
        let client = socket();
        let received = exchange(&proxy, &client, 200, 200);
        assert_eq!(received.len(), 200);
        assert!(received.is_sorted());
        let counts = proxy.counts();
        assert_eq!((counts.to_server, counts.to_client, counts.lost), (200, 200, 0));
        drop(proxy);
        assert_eq!(echo.clients().len(), 1);
    }

    #[test]
    fn bad_weather_does_all_that_it_says() {
        let echo = Echo::new();
        let weather = Weather {
            delay: Duration::from_millis(5),
            jitter: Duration::from_millis(20),
            loss: 200,
            duplicate: 100,
            corrupt: 100,
            ..Weather::default()
        };
        let proxy = UdpProxy::new(echo.address, 7, weather);
        let received = exchange(&proxy, &socket(), 500, 1000);
        let counts = proxy.counts();
        assert!(received.len() < 500 && received.len() > 200, "{}", received.len());
        assert!(!received.is_sorted(), "nothing was overtaken");
        assert!(counts.lost > 80 && counts.duplicated > 30 && counts.corrupted > 30, "{counts:?}");
        let damaged = received.iter().filter(|packet| packet[4..].iter().any(|&byte| byte != 0));
        assert!(damaged.count() > 5);
        drop(proxy);
        echo.clients();
    }

    #[test]
    fn what_is_too_long_is_lost_and_what_is_late_is_overtaken() {
        let echo = Echo::new();
        let weather = Weather { late: 250, longest: 100, ..Weather::default() };
        let proxy = UdpProxy::new(echo.address, 7, weather);
        let client = socket();
        client.send_to(&[0; 101], proxy.address()).unwrap();
        let received = exchange(&proxy, &client, 200, 200);
        assert_eq!((received.len(), proxy.counts().lost), (200, 1));
        assert!(!received.is_sorted(), "nothing was overtaken");
        drop(proxy);
        echo.clients();
    }

    #[test]
    fn a_blackhole_swallows_until_it_is_closed() {
        let echo = Echo::new();
        let proxy = UdpProxy::new(echo.address, 1, Weather::default());
        let client = socket();
        proxy.blackhole(true);
        assert!(exchange(&proxy, &client, 10, 10).is_empty());
        assert_eq!(proxy.counts().lost, 10);
        proxy.blackhole(false);
        assert_eq!(exchange(&proxy, &client, 10, 10).len(), 10);
        drop(proxy);
        echo.clients();
    }

    #[test]
    fn after_a_rebind_the_server_sees_another_address() {
        let echo = Echo::new();
        let proxy = UdpProxy::new(echo.address, 1, Weather::default());
        let (client, other) = (socket(), socket());
        assert_eq!(exchange(&proxy, &client, 10, 10).len(), 10);
        assert_eq!(exchange(&proxy, &other, 10, 10).len(), 10);
        proxy.rebind();
        assert_eq!(exchange(&proxy, &client, 10, 10).len(), 10);
        drop(proxy);
        let clients = echo.clients();
        assert_eq!(clients.len(), 3);
        assert!(clients[0] != clients[1] && clients[0] != clients[2] && clients[1] != clients[2]);
    }
}
