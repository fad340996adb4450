//! What peers who ask for much and take nothing can make a node hold.

#![expect(clippy::disallowed_methods, reason = "a test has the file system and a runtime itself")]

use std::time::Duration;

use baton_daemon::client::pool::{Patience, Pool};
use baton_daemon::identity::Identity;
use baton_daemon::task::Tasks;
use baton_protocol::id::{ObjectId, ObjectKind};
use baton_protocol::message::{FetchRequest, Opening, Request};
use baton_protocol::ticket::Ticket;
use baton_store::catalog::remotes::Remote;

use crate::support::cloud::{Cloud, arg, list, text};
use crate::support::home::TestHome;
use crate::support::rng::Rng;

const DEVICES: usize = 5;

/// Connections of each device: as many as it may have.
const CONNECTIONS: usize = 8;

/// What all of them may have under way together.
const MEMORY: u64 = 64 << 20;

/// Of 40 KB, each a chunk of its own.
const FILES: usize = 500;

/// The most memory that a process had so far.
fn peak(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Forty connections of which each could hold sixteen megabytes, and wants twenty.
#[test]
fn those_that_read_nothing_make_a_node_hold_no_more_than_it_may() {
    let home = TestHome::new();
    std::fs::create_dir_all(home.baton_home()).unwrap();
    let settings = format!("[serve]\nmemory = {MEMORY}\n");
    std::fs::write(home.baton_home().join("config.toml"), settings).unwrap();
    let cloud = Cloud::in_home(home);
    let home = cloud.device();
    let tree = home.folder("work");
    let mut rng = Rng::new(7);
    let mut ids = Vec::new();
    for file in 0..FILES {
        let bytes = rng.bytes(40_000);
        std::fs::write(tree.join(file.to_string()), &bytes).unwrap();
        ids.push(ObjectId::of(ObjectKind::Chunk, &bytes).into());
    }
    assert_eq!(text(&home.json(&["push", arg(&tree)]), "state"), "acked");
    let status = cloud.home.json(&["daemon", "status"]);
    let pid = status["pid"].to_string();
    let before = peak(&pid);

    let want = FetchRequest::Want(ids);
    let keys = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let slow = runtime.block_on(async {
        let mut slow = Vec::new();
        for device in 0..DEVICES {
            let ticket = Ticket::decode(&cloud.ticket(&[])).unwrap();
            let remote = Remote {
                name: "node".to_owned(),
                node: ticket.node,
                user: "owner".to_owned(),
                addresses: ticket.addresses.clone(),
                joined_at: 0,
            };
            let identity = Identity::load_or_create(&keys.path().join(device.to_string())).unwrap();
            for connection in 0..CONNECTIONS {
                let tasks = Tasks::new();
                let pool = Pool::new(identity.clone(), tasks, Patience::default()).unwrap();
                if connection == 0 {
                    pool.join(&ticket, "slow").await.unwrap();
                }
                let mut stream = pool.open(&remote).await.unwrap();
                stream.send(&Opening::new(Request::Fetch)).await.unwrap();
                stream.send(&want).await.unwrap();
                slow.push((pool, stream));
            }
        }
        // What they may hold of it has come by then; nothing of it is read.
        tokio::time::sleep(Duration::from_secs(3)).await;
        slow
    });
    let grown = peak(&pid) - before;
    // A thread for each of them, with the buffers of its work.
    let most = MEMORY + (DEVICES * CONNECTIONS) as u64 * (2 << 20);
    assert!(grown <= most, "{grown} bytes more, of {most}");

    // Somebody else works on meanwhile.
    std::fs::write(tree.join("0"), "changed").unwrap();
    assert_eq!(text(&home.json(&["push", arg(&tree)]), "state"), "acked");
    assert_eq!(list(&home.json(&["log", arg(&tree)]), "snapshots").len(), 2);
    drop(slow);
}
