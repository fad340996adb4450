//! What the hardware allows, on the same tree and file system: lists, reads, hashes, compresses and creates
//! the same files with nothing else around it, on all cores.
//!
//! Runs in a process of its own, so that its memory is not that of the benchmark.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use baton_daemon::identity::Identity;
use baton_daemon::transport::quic;

use crate::processes::Scratch;

/// Seconds by what was done.
pub(crate) type Limits = BTreeMap<String, f64>;

pub(crate) const LIST: &str = "list and statx";
pub(crate) const READ: &str = "read everything";
pub(crate) const HASH: &str = "read and BLAKE3";
pub(crate) const COMPRESS: &str = "read, BLAKE3 and zstd -1";
pub(crate) const CREATE_EMPTY: &str = "create the files, empty";
pub(crate) const CREATE: &str = "create the files with content";
pub(crate) const APPEND: &str = "append 4 KiB, fdatasync";
pub(crate) const UDP: &str = "UDP there and back";
pub(crate) const QUIC: &str = "QUIC request and answer";

/// Files are compressed in groups of so many bytes, as a store groups them.
const GROUP: usize = 1024 * 1024;

/// How often what is short is repeated; the median counts.
const SHORT: usize = 300;

/// Measures in another process.
pub(crate) fn measure(tree: &Path, scratch: &Scratch) -> Limits {
    let program = std::env::current_exe().unwrap();
    let work = scratch.path("limits");
    let mut command = scratch.command(program);
    command.arg("--limits-of").arg(tree).arg("--work").arg(&work);
    let ran = scratch.must(&mut command);
    scratch.remove(&work);
    serde_json::from_slice(&ran.stdout).unwrap()
}

/// Measures here, and prints it.
pub(crate) fn print(tree: &Path, work: &Path) {
    let mut limits = Limits::new();
    let mut note = |name: &str, seconds: f64| {
        limits.insert(name.to_owned(), seconds);
    };
    // The first pass fills the page cache.
    let mut files = list(tree);
    note(LIST, timed(|| files = list(tree)));
    let files = files;
    each(&files, |path, buffer| read(path, buffer));
    note(READ, timed(|| each(&files, |path, buffer| read(path, buffer))));
    note(HASH, timed(|| hash_all(&files)));
    note(COMPRESS, timed(|| compress_all(&files)));
    let empty = |name: &str, content: bool| {
        let folder = work.join(name);
        let pairs = plan_copy(tree, &files, &folder);
        rustix::fs::sync();
        timed(|| create_all(&pairs, content))
    };
    note(CREATE_EMPTY, empty("empty", false));
    note(CREATE, empty("full", true));
    note(APPEND, append(&work.join("appended")));
    note(UDP, udp());
    note(QUIC, quic(&work.join("keys")));
    serde_json::to_writer(std::io::stdout(), &limits).unwrap();
}

fn timed(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Every regular file, listed by all cores, with what statx says.
fn list(tree: &Path) -> Vec<PathBuf> {
    let queue = Mutex::new((vec![tree.to_owned()], 0usize));
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                let mut files = Vec::new();
                loop {
                    let mut state = queue.lock().unwrap();
                    let Some(folder) = state.0.pop() else {
                        let is_over = state.1 == 0;
                        drop(state);
                        if is_over {
                            break;
                        }
                        std::thread::yield_now();
                        continue;
                    };
                    state.1 += 1;
                    drop(state);
                    let mut folders = Vec::new();
                    for entry in std::fs::read_dir(&folder).unwrap().flatten() {
                        let meta = entry.metadata().unwrap();
                        if meta.is_dir() {
                            folders.push(entry.path());
                        } else if meta.is_file() {
                            files.push(entry.path());
                        }
                    }
                    let mut state = queue.lock().unwrap();
                    state.0.append(&mut folders);
                    state.1 -= 1;
                }
                found.lock().unwrap().append(&mut files);
            });
        }
    });
    let mut files = found.into_inner().unwrap();
    files.sort_unstable();
    files
}

/// Hands files to all cores, in runs of neighbours.
fn each<T: Sync, S: Default>(files: &[T], work: impl Fn(&T, &mut S) + Sync) {
    const RUN: usize = 64;
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                let mut state = S::default();
                loop {
                    let start = next.fetch_add(RUN, Ordering::Relaxed);
                    let Some(run) = files.get(start..(start + RUN).min(files.len())) else { break };
                    for file in run {
                        work(file, &mut state);
                    }
                    if run.is_empty() {
                        break;
                    }
                }
            });
        }
    });
}

fn read(path: &Path, buffer: &mut Vec<u8>) {
    buffer.clear();
    std::fs::File::open(path).unwrap().read_to_end(buffer).unwrap();
}

fn hash_all(files: &[PathBuf]) {
    each(files, |path, buffer| {
        read(path, buffer);
        std::hint::black_box(blake3::hash(buffer));
    });
}

/// What a thread compresses with, and what waits for the group to be full.
#[derive(Default)]
struct Grouped {
    buffer: Vec<u8>,
    group: Vec<u8>,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    out: Vec<u8>,
}

impl Grouped {
    fn compress(&mut self) {
        let new = || zstd::bulk::Compressor::new(1).unwrap();
        let compressor = self.compressor.get_or_insert_with(new);
        self.out.clear();
        self.out.reserve(zstd::zstd_safe::compress_bound(self.group.len()));
        compressor.compress_to_buffer(&self.group, &mut self.out).unwrap();
        self.group.clear();
    }
}

impl Drop for Grouped {
    fn drop(&mut self) {
        self.compress();
    }
}

fn compress_all(files: &[PathBuf]) {
    each(files, |path, state: &mut Grouped| {
        read(path, &mut state.buffer);
        std::hint::black_box(blake3::hash(&state.buffer));
        state.group.extend_from_slice(&state.buffer);
        if state.group.len() >= GROUP {
            state.compress();
        }
    });
}

/// Each file and where it would go, with all folders made.
fn plan_copy(tree: &Path, files: &[PathBuf], into: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut made = PathBuf::new();
    let pair = |from: &PathBuf| {
        let to = into.join(from.strip_prefix(tree).unwrap());
        let folder = to.parent().unwrap();
        if folder != made {
            std::fs::create_dir_all(folder).unwrap();
            folder.clone_into(&mut made);
        }
        (from.clone(), to)
    };
    files.iter().map(pair).collect()
}

fn create_all(pairs: &[(PathBuf, PathBuf)], content: bool) {
    each(pairs, |(from, to), buffer: &mut Vec<u8>| {
        let mut file = std::fs::File::create_new(to).unwrap();
        if content {
            read(from, buffer);
            file.write_all(buffer).unwrap();
        }
    });
}

fn append(path: &Path) -> f64 {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    let mut once = || {
        file.write_all(&[7; 4096]).unwrap();
        file.sync_data().unwrap();
    };
    median((0..SHORT).map(|_| timed(&mut once)).collect())
}

fn udp() -> f64 {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.connect(server.local_addr().unwrap()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 2048];
            for _ in 0..SHORT {
                let (len, from) = server.recv_from(&mut buffer).unwrap();
                server.send_to(&buffer[..len], from).unwrap();
            }
        });
        let mut buffer = [0; 2048];
        let mut once = || {
            client.send(&[1; 1000]).unwrap();
            client.recv(&mut buffer).unwrap();
        };
        median((0..SHORT).map(|_| timed(&mut once)).collect())
    })
}

/// On a standing connection, a stream each, as requests are made.
fn quic(keys: &Path) -> f64 {
    let [node, device] =
        ["node", "device"].map(|name| Identity::load_or_create(&keys.join(name)).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let listening = quic::listen(&node, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let dialling = quic::dialling_endpoint().unwrap();
        let address = listening.local_addr().unwrap();
        let accept = async { listening.accept().await.unwrap().await.unwrap() };
        let dial = quic::connect(&dialling, &device, node.node(), address, Duration::from_secs(20));
        let (server, client) = tokio::join!(accept, dial);
        let client = client.unwrap();
        let serve = async {
            while let Ok((mut send, mut receive)) = server.accept_bi().await {
                let asked = receive.read_to_end(4096).await.unwrap();
                send.write_all(&asked).await.unwrap();
                send.finish().unwrap();
            }
        };
        let ask = async {
            let mut all = Vec::new();
            for _ in 0..SHORT {
                let started = Instant::now();
                let (mut send, mut receive) = client.open_bi().await.unwrap();
                send.write_all(&[1; 1000]).await.unwrap();
                send.finish().unwrap();
                receive.read_to_end(4096).await.unwrap();
                all.push(started.elapsed().as_secs_f64());
            }
            median(all)
        };
        tokio::select! {
            () = serve => panic!("the server ended first"),
            median = ask => median,
        }
    })
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all[all.len() / 2]
}
