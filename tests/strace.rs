//! Calls of the system fail under a daemon or a node, those of its databases too: nothing that was acknowledged is lost, an
//! error says that it is one, and no hand is needed after it.
//!
//! A seed says on which side, which call, how it fails, and which one: of each thread by itself,
//! for `strace` counts so.
//! `BATON_SEEDS=from..to` says which seeds, `BATON_NIGHTLY` means many. Takes `strace`, and a system that lets it trace.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test has the file system itself, and says what it skips"
)]

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::crash::change;
use crate::support::cloud::{Background, Cloud, arg, list, text};
use crate::support::home::{TestHome, eventually};
use crate::support::rng::Rng;
use crate::support::simulations::seeds;
use crate::support::walker::{Listing, differences, walk};

/// Seeds of the default run, and of the nightly one.
const FEW: u64 = 4;
const MANY: u64 = 300;

/// Calls, and how many of one thread there are about in what is done here.
const CALLS: [(&str, u64); 7] = [
    ("write", 12),
    ("pwrite64", 60),
    ("fsync", 12),
    ("fdatasync", 12),
    ("rename,renameat,renameat2", 4),
    ("openat", 250),
    ("unlink,unlinkat", 6),
];

/// A snapshot, and what was in the tree.
type Accepted = (String, Listing);

fn is_here() -> bool {
    let traced = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    let is_here = traced.is_ok_and(|output| output.status.success());
    if !is_here {
        eprintln!("!!! skipped: there is no strace here, or it may not trace");
    }
    is_here
}

/// Every file below a folder.
fn files(folder: &Path, to: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => files(&path, to),
            path => to.push(path),
        }
    }
}

struct Place {
    cloud: Cloud,
    home: TestHome,
    tree: PathBuf,
    rng: Rng,
    say: String,
    here: Vec<Accepted>,
    sent: Vec<Accepted>,
    /// How often each outcome was.
    outcomes: BTreeMap<String, u64>,
}

/// What a snapshot has of a tree: all but what it said it could not read.
fn told(said: &Value, tree: &Path) -> Listing {
    let mut all = walk(tree);
    for omitted in list(said, "omitted") {
        assert!(["unreadable", "vanished"].contains(&text(omitted, "reason")), "{said}");
        let path = Path::new(text(omitted, "path"));
        all.retain(|at, _| !Path::new(std::ffi::OsStr::from_bytes(at)).starts_with(path));
    }
    all
}

impl Place {
    fn new(seed: u64) -> Self {
        let cloud = Cloud::in_home(TestHome::under_strace());
        let home = TestHome::under_strace();
        home.json(&["join", &cloud.ticket(&[])]);
        let (tree, mut rng) = (home.folder("work"), Rng::new(seed));
        std::fs::write(tree.join("large"), rng.bytes(300_000)).unwrap();
        let (here, sent, outcomes) = (Vec::new(), Vec::new(), BTreeMap::new());
        let say = format!("seed {seed}");
        let mut place = Self { cloud, home, tree, rng, say, here, sent, outcomes };
        place.asks("push");
        assert_eq!(place.sent.len(), 1);
        place
    }

    /// Options that let calls of a home fail.
    fn options(&mut self, home: &Path) -> String {
        let (calls, most) = *self.rng.pick(&CALLS);
        let error = *self.rng.pick(&["EIO", "ENOSPC"]);
        let from = 1 + self.rng.below(most);
        // Now and then all that come after it fail as well.
        let on = if self.rng.chance(250) { "+" } else { "" };
        let mut options =
            format!("-e trace={calls} -e inject={calls}:error={error}:when={from}{on}");
        if calls == "write" {
            // Others are sockets, and what threads wake each other with.
            let mut all = Vec::new();
            files(&home.join("store"), &mut all);
            for path in all {
                options.extend([" -P ", arg(&path)]);
            }
        }
        self.say = format!("{}, {calls} {error} at {from}{on}", self.say);
        options
    }

    /// Asks for something after a change: it is done and says so, or is not and says why.
    fn asks(&mut self, what: &str) {
        change(&self.tree, &mut self.rng);
        let mut args = vec![what, "--json"];
        if what != "gc" {
            args.push(arg(&self.tree));
        }
        let output = self.home.baton(&args);
        let say = format!("{}: {what}: {output:?}", self.say);
        let said: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{say}"));
        let done = match output.status.code() {
            Some(0 | 3) => {
                assert!(said["error"].is_null(), "{say}");
                if what != "gc" {
                    let accepted = if what == "snapshot" { &mut self.here } else { &mut self.sent };
                    accepted.push((text(&said, "snapshot").to_owned(), told(&said, &self.tree)));
                }
                "done"
            }
            Some(_) => {
                assert!(
                    said["error"]["code"].as_str().is_some_and(|code| !code.is_empty()),
                    "{say}"
                );
                assert!(!text(&said["error"], "message").is_empty(), "{say}");
                text(&said["error"], "code")
            }
            None => panic!("{say}"),
        };
        *self.outcomes.entry(format!("{what} {done}")).or_default() += 1;
    }

    fn work(&mut self) {
        for what in ["snapshot", "push", "gc", "push", "snapshot"] {
            self.asks(what);
        }
    }

    /// Lets calls of the daemon or the node fail from its start on, or while it works.
    fn fail(&mut self, is_node: bool, is_working: bool) {
        let home = if is_node { &self.cloud.home } else { &self.home };
        let folder = home.baton_home();
        let options = self.options(&folder);
        let address = self.cloud.address();
        let mut faulty = if is_working {
            self.attach(is_node, &options)
        } else {
            self.start(is_node, &options, &address.to_string())
        };
        self.work();
        let home = if is_node { &self.cloud.home } else { &self.home };
        if home.traced().contains("INJECTED") {
            *self.outcomes.entry("struck".to_owned()).or_default() += 1;
        }
        home.inject(None);
        home.kill();
        faulty.end();
        if is_node {
            if is_working {
                self.cloud.kill();
            }
            self.cloud.start(address);
        }
    }

    /// From now on, whatever it does.
    fn attach(&self, is_node: bool, options: &str) -> Background {
        let home = if is_node { &self.cloud.home } else { &self.home };
        self.home.json(&["remote", "list"]);
        let pid = home.json(&["daemon", "status"])["pid"].to_string();
        let log = home.root().join("tmp/rules.log");
        let mut command = home.other(Path::new("strace"));
        command.args(["-f", "-o", arg(&log)]).args(options.split(' ')).args(["-p", &pid]);
        let mut strace = Background::start(command);
        eventually("strace", || {
            assert!(!strace.is_ended(), "{}", strace.stderr());
            strace.stderr().contains("attached")
        });
        strace
    }

    fn start(&mut self, is_node: bool, options: &str, address: &str) -> Background {
        if is_node {
            self.cloud.stop();
        } else {
            self.home.json(&["daemon", "stop"]);
        }
        let home = if is_node { &self.cloud.home } else { &self.home };
        home.inject(Some(options));
        let mut command = home.command();
        if is_node {
            command.args(["serve", "--listen", address, "--json"]);
        } else {
            command.args(["daemon", "run"]);
        }
        let mut faulty = Background::start(command);
        let mut is_started = false;
        eventually("a start, or its failure", || {
            is_started = if is_node {
                faulty.stdout().contains("listening")
            } else {
                home.json(&["daemon", "status"])["running"] == true
            };
            is_started || faulty.is_ended()
        });
        if !is_started {
            assert!(!faulty.end().success(), "{}", self.say);
            assert!(!faulty.stderr().trim().is_empty(), "{}", self.say);
            *self.outcomes.entry("not started".to_owned()).or_default() += 1;
        }
        faulty
    }

    /// All of it is there, and work goes on, without a hand.
    fn verify(&mut self) {
        change(&self.tree, &mut self.rng);
        let last = self.home.json(&["push", "--wait", arg(&self.tree)]);
        // What could not be read before is in it.
        assert_eq!(list(&last, "omitted"), &[] as &[Value], "{}", self.say);
        self.sent.push((text(&last, "snapshot").to_owned(), walk(&self.tree)));
        let fresh = self.cloud.device();
        let into = fresh.root().join("restored");
        for (home, accepted) in [(&fresh, &self.sent), (&self.home, &self.here)] {
            for (snapshot, listing) in accepted {
                home.json(&["restore", snapshot, "--into", arg(&into)]);
                assert_eq!(differences(listing, &walk(&into), &[]), [""; 0], "{}", self.say);
                std::fs::remove_dir_all(&into).unwrap();
            }
        }
        for (name, checked) in [("here", &self.home), ("the node", &self.cloud.home)] {
            let found = checked.json_exit(&["check", "--data"], 0);
            assert_eq!(list(&found, "problems"), &[] as &[Value], "{}, {name}", self.say);
            let damaged = checked.baton_home().join("store/damaged");
            assert!(!damaged.exists(), "{}, {name}", self.say);
        }
    }
}

#[test]
fn whichever_call_of_the_system_fails_nothing_acknowledged_is_lost() {
    if !is_here() {
        return;
    }
    let seeds = seeds(FEW, MANY);
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    for seed in seeds.clone() {
        let mut place = Place::new(seed);
        place.fail(seed % 2 == 1, seed % 4 < 2);
        eprintln!("strace: {}: {:?}", place.say, place.outcomes);
        place.verify();
        for (outcome, count) in place.outcomes {
            *outcomes.entry(outcome).or_default() += count;
        }
    }
    eprintln!("strace: seeds {seeds:?}: {outcomes:?}");
    assert!(outcomes.contains_key("struck"), "no call failed: {outcomes:?}");
}
