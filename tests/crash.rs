//! What a push has acknowledged, or accepted into the queue, survives any number of crashes, of either side, at any moment:
//! in pushes, collections, and while something is forgotten. What a node names as latest only moves forward.
//!
//! Each seed is a home and a node of its own, and some kills. `BATON_SEEDS=from..to` says which, `BATON_NIGHTLY` means many.

#![expect(
    clippy::disallowed_methods,
    reason = "a test has the environment, the file system and the clock itself"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use baton_protocol::id::{DeviceId, SnapshotId, VaultId, WorkspaceId};
use baton_protocol::object::Snapshot;
use baton_store::objects::ObjectSource;
use baton_store::store::Store;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::cloud::{Background, Cloud, arg, list, text};
use crate::support::home::TestHome;
use crate::support::rng::Rng;
use crate::support::simulations::seeds;
use crate::support::walker::{Listing, differences, walk};

/// Seeds of the default run, and of the nightly one: 1,000 kills of each side.
const FEW: u64 = 1;
const MANY: u64 = 210;

/// Crashes of a seed.
const CRASHES: u64 = 8;

pub(crate) fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|error| panic!("{name}={value}: {error}")))
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

/// What is under way when somebody is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Push,
    CollectHere,
    CollectThere,
    Forget,
}

/// Counts over all seeds.
#[derive(Debug, Default)]
struct Counts {
    /// Kills of the daemon, and of the node.
    here: u64,
    there: u64,
    failed: u64,
    queued: u64,
    accepted: usize,
    collections: u64,
    forgotten: usize,
}

/// A snapshot, and what was in the tree.
type Accepted = (String, Listing);

/// Which snapshot a node names as latest.
type Heads = BTreeMap<(VaultId, WorkspaceId, DeviceId), (u64, SnapshotId)>;

struct Place {
    cloud: Cloud,
    home: TestHome,
    rng: Rng,
    heads: Heads,
    accepted: Vec<Accepted>,
    /// Somebody asked for it to go: it is there as it was, or not.
    forgotten: Vec<Accepted>,
    say: String,
}

impl Place {
    fn new(seed: u64) -> Self {
        let cloud = Cloud::new();
        let home = cloud.device();
        let (rng, heads, say) = (Rng::new(seed), Heads::new(), format!("seed {seed}"));
        Self { cloud, home, rng, heads, accepted: Vec::new(), forgotten: Vec::new(), say }
    }

    /// What will be under way, and its command.
    fn choose(&mut self, tree: &Path) -> (Asked, Command) {
        let older = self.accepted.len().saturating_sub(1) as u64;
        let (asked, home, args) = match self.rng.below(10) {
            0 => (Asked::CollectHere, &self.home, vec!["gc".to_owned()]),
            1 => (Asked::CollectThere, &self.cloud.home, vec!["gc".to_owned()]),
            2 | 3 if older > 0 => {
                let one = self.accepted.remove(self.rng.below(older) as usize);
                let args = vec!["forget".to_owned(), one.0.clone()];
                self.forgotten.push(one);
                (Asked::Forget, &self.home, args)
            }
            _ => (Asked::Push, &self.home, vec!["push".to_owned(), arg(tree).to_owned()]),
        };
        let mut command = home.command();
        command.args(args).arg("--json");
        (asked, command)
    }

    /// Kills the node, looks at what it left, and starts it again; now and then it is killed while it starts.
    fn restart_node(&mut self, counts: &mut Counts) {
        let address = self.cloud.kill();
        counts.there += 1;
        self.look();
        while self.rng.chance(250) {
            let mut command = self.cloud.home.command();
            command.args(["serve", "--listen", &address.to_string()]);
            let starting = Background::start(command);
            std::thread::sleep(Duration::from_millis(self.rng.below(60)));
            drop(starting);
            counts.there += 1;
        }
        self.cloud.start(address);
    }

    /// Refs of the node are where they were, or further on in the same history.
    fn look(&mut self) {
        let copy = tempfile::tempdir().unwrap();
        let store = self.cloud.home.baton_home().join("store");
        let copied = Command::new("cp").arg("-a").arg(store.join(".")).arg(copy.path()).status();
        assert!(copied.unwrap().success());
        let store = Store::open(copy.path()).unwrap();
        let Ok(vaults) = std::fs::read_dir(copy.path().join("vaults")) else { return };
        for name in vaults.flatten() {
            let Ok(id) = name.file_name().to_string_lossy().parse::<VaultId>() else { continue };
            let vault = store.vault(id).unwrap();
            for head in vault.heads() {
                let now = (head.sequence, head.snapshot);
                let was = self.heads.insert((id, head.workspace, head.device), now);
                let Some((sequence, snapshot)) = was else { continue };
                let mut at = (head.sequence, head.snapshot);
                while at.0 > sequence {
                    // What was forgotten on the way is not looked behind.
                    let Ok(bytes) = vault.require(&at.1.into()) else { break };
                    let Some(&parent) = Snapshot::decode(&bytes).unwrap().parents.first() else {
                        break;
                    };
                    at = (at.0 - 1, parent);
                }
                let say = format!("{}: from {sequence} {snapshot} to {head:?}", self.say);
                assert!(head.sequence >= sequence, "{say}");
                assert!(at.0 > sequence || at.1 == snapshot, "{say}");
            }
        }
        for key in self.heads.keys() {
            let is_there = store.vault(key.0).is_ok_and(|vault| vault.head(key.1, key.2).is_some());
            assert!(is_there, "{}: the ref {key:?} is gone", self.say);
        }
    }

    fn crash(&mut self, tree: &Path, usual: u64, counts: &mut Counts) {
        change(tree, &mut self.rng);
        let pid = daemon(&self.home);
        let (asked, command) = self.choose(tree);
        let mut background = Background::start(command);
        std::thread::sleep(Duration::from_millis(self.rng.below(usual * 5 / 4)));
        let kind = self.rng.below(5);
        if kind != 1 && kind != 2 {
            // It may have ended: then what was asked has failed by itself, and says so below.
            let _ = kill_process(pid, Signal::KILL);
            counts.here += 1;
        }
        if (1..=2).contains(&kind) || kind == 4 {
            if asked == Asked::CollectThere {
                // Whoever asks there when it is gone starts a daemon, which would have its home.
                let _ = kill_process(self.cloud.serve().pid(), Signal::KILL);
                background.end();
                self.cloud.home.kill();
            }
            self.restart_node(counts);
        }
        let status = background.end();
        let said: Value = serde_json::from_str(&background.stdout()).unwrap_or_else(|error| {
            panic!("{error}: {}{}", background.stdout(), background.stderr())
        });
        if asked != Asked::Push {
            counts.collections += u64::from(asked != Asked::Forget);
            let code = said["error"]["code"].as_str();
            match code {
                Some("daemon-gone" | "needed") => {}
                // What came after it waits in the queue: for the node it is the latest one.
                Some("conflict") if asked == Asked::Forget => {
                    self.accepted.extend(self.forgotten.pop());
                }
                Some(_) => panic!("{}, {asked:?}: {said}", self.say),
                // Done here; a node that is gone hears of it later.
                None => {
                    let waits = asked == Asked::Forget && !list(&said, "queued").is_empty();
                    let code = if waits { 3 } else { 0 };
                    assert_eq!(status.code(), Some(code), "{}, {asked:?}: {said}", self.say);
                }
            }
        } else if status.success() {
            assert_eq!(text(&said, "state"), "acked");
            self.accepted.push((text(&said, "snapshot").to_owned(), walk(tree)));
        } else if status.code() == Some(3) {
            // Accepted: it goes out by itself, whatever comes next.
            assert_eq!(text(&said, "state"), "queued");
            counts.queued += 1;
            self.accepted.push((text(&said, "snapshot").to_owned(), walk(tree)));
        } else {
            assert_eq!(text(&said["error"], "code"), "daemon-gone", "{}: {said}", self.say);
            counts.failed += 1;
        }
    }

    /// Everything that was accepted comes back as it was, and nothing is damaged.
    fn verify(&self) {
        let fresh = self.cloud.device();
        let into = fresh.root().join("restored");
        for (snapshot, listing) in &self.accepted {
            fresh.json(&["restore", snapshot, "--into", arg(&into)]);
            let found = differences(listing, &walk(&into), &[]);
            assert_eq!(found, [""; 0], "{}, acknowledged snapshot {snapshot}", self.say);
            std::fs::remove_dir_all(&into).unwrap();
        }
        for (snapshot, listing) in &self.forgotten {
            let restored = fresh.baton(&["restore", snapshot, "--into", arg(&into)]);
            if restored.status.success() {
                let found = differences(listing, &walk(&into), &[]);
                assert_eq!(found, [""; 0], "{}, forgotten snapshot {snapshot}", self.say);
            }
            drop(std::fs::remove_dir_all(&into));
        }
        for (name, checked) in [("here", &self.home), ("the node", &self.cloud.home)] {
            let found = checked.json_exit(&["check", "--data"], 0);
            assert_eq!(list(&found, "problems"), &[] as &[Value], "{}, {name}", self.say);
            assert!(!checked.baton_home().join("store/damaged").exists(), "{}, {name}", self.say);
        }
    }
}

fn run(seed: u64, counts: &mut Counts) {
    let mut place = Place::new(seed);
    let tree = place.home.folder("work");
    std::fs::write(tree.join("large"), place.rng.bytes(2 << 20)).unwrap();
    change(&tree, &mut place.rng);
    let started = Instant::now();
    place.home.json(&["push", arg(&tree)]);
    // Kills fall into the push, and a little after it.
    let usual = started.elapsed().as_millis().clamp(20, 2000) as u64;
    for _ in 0..CRASHES {
        place.crash(&tree, usual, counts);
    }
    // Work goes on: whatever was in the way before.
    change(&tree, &mut place.rng);
    let last = place.home.json(&["push", "--wait", arg(&tree)]);
    place.accepted.push((text(&last, "snapshot").to_owned(), walk(&tree)));
    place.verify();
    counts.accepted += place.accepted.len();
    counts.forgotten += place.forgotten.len();
}

#[test]
fn what_was_acknowledged_survives_crashes_of_both_sides() {
    let seeds = seeds(FEW, MANY);
    let mut counts = Counts::default();
    for seed in seeds.clone() {
        run(seed, &mut counts);
    }
    let Counts { here, there, failed, queued, accepted, collections, forgotten } = counts;
    eprintln!(
        "crashes: seeds {seeds:?}: daemon kills {here}, node kills {there}; {failed} pushes failed, {queued} were queued; \
         with those {accepted} accepted and all restored identically; {collections} collections, {forgotten} forgotten"
    );
}
