//! What a push has acknowledged, or accepted into the queue, survives any number of crashes, of either side, at any moment.
//!
//! `BATON_CRASHES` says how many, `BATON_SEED` which ones.

#![expect(
    clippy::disallowed_methods,
    reason = "a test has the environment, the file system and the clock itself"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::cloud::{Background, Cloud, arg, list, text};
use crate::support::home::TestHome;
use crate::support::rng::Rng;
use crate::support::walker::{Listing, differences, walk};

/// Crashes in the default run, and in the nightly one.
const FEW: u64 = 8;
const MANY: u64 = 100;

pub(crate) fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|error| panic!("{name}={value}: {error}")))
}

fn crashes() -> u64 {
    let usual = if std::env::var_os("BATON_NIGHTLY").is_some() { MANY } else { FEW };
    variable("BATON_CRASHES").unwrap_or(usual)
}

/// Changes a few files; now and then so much that it does not fit into the journal.
pub(crate) fn change(tree: &Path, rng: &mut Rng) {
    for _ in 0..=rng.below(12) {
        let folder = tree.join(format!("folder-{}", rng.below(4)));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(format!("file-{}", rng.below(12)));
        if rng.chance(200) && file.exists() {
            std::fs::remove_file(file).unwrap();
        } else {
            let len = rng.below(30_000) as usize;
            std::fs::write(file, rng.bytes(len)).unwrap();
        }
    }
    let large = tree.join("large");
    let mut bytes = std::fs::read(&large).unwrap();
    match rng.below(10) {
        0..3 => {
            let len = (1 << 20) + rng.below(3 << 20) as usize;
            bytes = rng.bytes(len);
        }
        3..5 => {
            // Something in the middle of it.
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 0x55;
        }
        _ => return,
    }
    std::fs::write(large, bytes).unwrap();
}

/// The daemon of a home, started where it does not run.
fn daemon(home: &TestHome) -> Pid {
    home.json(&["remote", "list"]);
    let status = home.json(&["daemon", "status"]);
    Pid::from_raw(i32::try_from(status["pid"].as_i64().unwrap()).unwrap()).unwrap()
}

/// Starts the node, and kills it now and then while it starts.
fn start(cloud: &mut Cloud, address: std::net::SocketAddr, rng: &mut Rng) {
    while rng.chance(250) {
        let mut command = cloud.home.command();
        command.args(["serve", "--listen", &address.to_string()]);
        let starting = Background::start(command);
        std::thread::sleep(Duration::from_millis(rng.below(60)));
        drop(starting);
    }
    cloud.start(address);
}

#[derive(Debug, Default)]
struct Summary {
    here: u64,
    there: u64,
    both: u64,
    failed: u64,
    queued: u64,
    acked: Vec<(String, Listing)>,
}

#[test]
fn what_was_acknowledged_survives_crashes_of_both_sides() {
    let (seed, crashes) = (variable("BATON_SEED").unwrap_or(1), crashes());
    let mut rng = Rng::new(seed);
    let mut cloud = Cloud::new();
    let home = cloud.device();
    let tree = home.folder("work");
    std::fs::write(tree.join("large"), rng.bytes(2 << 20)).unwrap();
    change(&tree, &mut rng);
    let started = Instant::now();
    home.json(&["push", arg(&tree)]);
    // Kills fall into the push, and a little after it.
    let usual = started.elapsed().as_millis().clamp(20, 2000) as u64;
    let mut summary = Summary::default();

    for _ in 0..crashes {
        change(&tree, &mut rng);
        let pid = daemon(&home);
        let mut command = home.command();
        command.args(["push", arg(&tree), "--json"]);
        let mut push = Background::start(command);
        std::thread::sleep(Duration::from_millis(rng.below(usual * 5 / 4)));
        let kind = rng.below(5);
        if kind != 1 && kind != 2 {
            // It may have ended: then the push has failed by itself, and says so below.
            let _ = kill_process(pid, Signal::KILL);
        }
        match kind {
            0 | 3 => summary.here += 1,
            1 | 2 => summary.there += 1,
            _ => summary.both += 1,
        }
        if (1..=2).contains(&kind) || kind == 4 {
            let address = cloud.kill();
            start(&mut cloud, address, &mut rng);
        }
        let status = push.end();
        let said: Value = serde_json::from_str(&push.stdout())
            .unwrap_or_else(|error| panic!("{error}: {}{}", push.stdout(), push.stderr()));
        if status.success() {
            assert_eq!(text(&said, "state"), "acked");
            summary.acked.push((text(&said, "snapshot").to_owned(), walk(&tree)));
        } else if status.code() == Some(3) {
            // Accepted: it goes out by itself, whatever comes next.
            assert_eq!(text(&said, "state"), "queued");
            summary.queued += 1;
            summary.acked.push((text(&said, "snapshot").to_owned(), walk(&tree)));
        } else {
            assert_eq!(text(&said["error"], "code"), "daemon-gone", "{said}");
            summary.failed += 1;
        }
    }
    // Work goes on: whatever was in the way before.
    change(&tree, &mut rng);
    let last = home.json(&["push", "--wait", arg(&tree)]);
    summary.acked.push((text(&last, "snapshot").to_owned(), walk(&tree)));

    let fresh = cloud.device();
    for (at, (snapshot, listing)) in summary.acked.iter().enumerate() {
        let into = fresh.root().join("restored");
        fresh.json(&["restore", snapshot, "--into", arg(&into)]);
        let found = differences(listing, &walk(&into), &[]);
        assert_eq!(found, [""; 0], "seed {seed}, acknowledged snapshot {at} ({snapshot})");
        std::fs::remove_dir_all(into).unwrap();
    }
    for (name, checked) in [("here", &home), ("the node", &cloud.home)] {
        let found = checked.json_exit(&["check", "--data"], 0);
        assert_eq!(list(&found, "problems"), &[] as &[Value], "seed {seed}, {name}");
        assert!(!checked.baton_home().join("store/damaged").exists(), "seed {seed}, {name}");
    }
    let Summary { here, there, both, failed, queued, acked } = summary;
    eprintln!(
        "crashes: seed {seed}, {crashes} kills ({here} here, {there} of the node, {both} of both), \
         {failed} pushes failed, {queued} were queued; with those {} accepted and all restored \
         identically",
        acked.len()
    );
}
