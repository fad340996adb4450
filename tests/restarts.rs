//! A node that is killed or ended while runs are in every state: what is said of them after is true, no program is
//! started twice, and each can be followed up and pulled.
//!
//! `BATON_NIGHTLY` makes it 50 times of each.

#![expect(
    clippy::disallowed_methods,
    reason = "a test has the file system and the environment itself"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::support::cloud::{Cloud, arg, list, text};
use crate::support::home::{TestHome, eventually};
use crate::support::rng::Rng;

/// Notes each start where another start of it would find that.
const STARTED: &str = "echo started >> \"$HOME/started\"";

const WORKS: &str = "echo half > made; exec sleep 300";
const WAITS: &str = "echo half > made; read answer";
const ENDS: &str = "echo whole > made; head -c 3000000 /dev/zero > large; exit 3";

/// How the node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Killed,
    Asked,
}

/// States that were met when the node ended, as far as they were seen after it.
type Seen = BTreeMap<String, usize>;

struct Place {
    cloud: Cloud,
    home: TestHome,
    tree: PathBuf,
    rng: Rng,
    seen: Seen,
}

impl Place {
    fn new(seed: u64) -> Self {
        let cloud_home = TestHome::new();
        std::fs::create_dir_all(cloud_home.baton_home()).unwrap();
        let config = cloud_home.baton_home().join("config.toml");
        std::fs::write(config, "[serve]\nmax_runs = 2\n").unwrap();
        let cloud = Cloud::in_home(cloud_home);
        let home = cloud.device();
        let tree = home.folder("work");
        std::fs::write(tree.join("given"), "given\n").unwrap();
        Self { cloud, home, tree, rng: Rng::new(seed), seen: Seen::new() }
    }

    fn begin(&self, script: &str) -> Value {
        let script = format!("{STARTED}; {script}");
        let handed = self.home.json(&["handoff", arg(&self.tree), "--", "sh", "-c", &script]);
        list(&handed, "runs")[0].clone()
    }

    fn until(&self, run: &Value, state: &str) {
        eventually(state, || self.show(run)["state"] == state);
    }

    fn show(&self, run: &Value) -> Value {
        self.home.json(&["run", "show", text(run, "run")])
    }

    fn end_and_start(&mut self, end: End) {
        let address = match end {
            End::Killed => self.cloud.kill(),
            End::Asked => self.cloud.stop(),
        };
        self.cloud.start(address);
    }

    /// How often the program of a run was started: its thread's home says so.
    fn starts(&self, run: &Value) -> usize {
        let homes = self.cloud.home.baton_home().join("runs/homes");
        let of_vault = |vault: std::fs::DirEntry| {
            let noted = vault.path().join(text(run, "thread")).join("home/started");
            std::fs::read_to_string(noted).unwrap_or_default().lines().count()
        };
        std::fs::read_dir(homes).unwrap().flatten().map(of_vault).sum()
    }

    /// Waits for its end, and holds what is said of it against what it did.
    fn check(&mut self, run: &Value, was: &str) {
        let id = text(run, "run");
        let waited = self.home.baton(&["run", "wait", id, "--json"]);
        let shown = self.show(run);
        let (state, starts) = (text(&shown, "state").to_owned(), self.starts(run));
        let made = self.pulled(id, &shown);
        let say = format!("{was}: {shown}, started {starts} times, left {made:?}");
        assert!(starts <= 1, "{say}");
        let met = match state.as_str() {
            "failed" => {
                assert_eq!((&shown["exit_code"], starts), (&3.into(), 1), "{say}");
                assert_eq!(waited.status.code(), Some(3), "{say}");
                assert_eq!(made.as_deref(), Some("whole\n"), "{say}");
                "ended"
            }
            "interrupted" => {
                // What it had written is there; it may have been ended before it wrote.
                assert!(starts == 1 || made.is_none(), "{say}");
                "at work"
            }
            _ => panic!("{say}"),
        };
        *self.seen.entry(format!("{was}, then {met}")).or_default() += 1;
    }

    fn pulled(&self, run: &str, shown: &Value) -> Option<String> {
        shown["result"].as_str()?;
        let into = self.home.root().join(format!("pulled-{run}"));
        self.home.json(&["pull", run, "--into", arg(&into)]);
        assert_eq!(std::fs::read_to_string(into.join("given")).unwrap(), "given\n");
        let made = std::fs::read_to_string(into.join("made")).ok();
        std::fs::remove_dir_all(&into).unwrap();
        made
    }

    /// Goes on from each, with what it left.
    fn follow_up(&self, runs: &[Value]) {
        let begun: Vec<_> = runs
            .iter()
            .map(|run| {
                let script = "cat given && { test ! -e made || cat made; }";
                let command =
                    ["follow-up", text(run, "run"), "--no-input", "--", "sh", "-c", script];
                self.home.json(&command)
            })
            .collect();
        for next in begun {
            let ended = self.home.json_exit(&["run", "wait", text(&next, "run")], 0);
            assert_eq!(ended["state"], "succeeded", "{ended}");
        }
    }
}

fn rounds() -> usize {
    if std::env::var_os("BATON_NIGHTLY").is_some() { 50 } else { 1 }
}

/// Two at work, one that waits, and one that waits for its turn.
fn all_places_taken(place: &mut Place, end: End) {
    let waits = place.begin(WAITS);
    place.until(&waits, "waiting");
    let works = [(); 2].map(|()| place.begin(WORKS));
    for run in &works {
        eventually("it is at work", || place.starts(run) == 1);
    }
    let queued = place.begin(ENDS);
    assert_eq!(place.show(&queued)["state"], "queued");
    place.end_and_start(end);
    place.check(&waits, "waiting");
    for run in &works {
        place.check(run, "running");
    }
    place.check(&queued, "queued");
    // It had not begun, and so it did.
    assert_eq!(place.show(&queued)["state"], "failed");
    place.follow_up(&[&[waits, queued][..], &works].concat());
}

/// Two that begin, work and end while the node does.
fn all_in_motion(place: &mut Place, end: End) {
    let first = place.begin(ENDS);
    let pause = place.rng.below(120);
    std::thread::sleep(Duration::from_millis(pause));
    let second = place.begin(ENDS);
    let pause = place.rng.below(120);
    std::thread::sleep(Duration::from_millis(pause));
    place.end_and_start(end);
    let runs = [first, second];
    for run in &runs {
        place.check(run, "in motion");
    }
    place.follow_up(&runs);
}

fn restarts(end: End, seed: u64) {
    let mut place = Place::new(seed);
    for _ in 0..rounds() {
        all_places_taken(&mut place, end);
        all_in_motion(&mut place, end);
        all_in_motion(&mut place, end);
    }
    let of = |what: &str| place.seen.get(what).copied().unwrap_or_default();
    let rounds = rounds();
    let met = (of("waiting, then at work"), of("running, then at work"), of("queued, then ended"));
    assert_eq!(met, (rounds, 2 * rounds, rounds), "{end:?}: {:?}", place.seen);
    note(&format!("{end:?}: {:?}", place.seen));
    assert!(!place.tree.join("made").exists(), "nothing is changed here");
}

/// Shown by `--nocapture`.
#[expect(clippy::print_stderr, reason = "figures of a long test")]
fn note(text: &str) {
    eprintln!("{text}");
}

#[test]
fn runs_of_a_node_that_is_killed() {
    restarts(End::Killed, 1);
}

#[test]
fn runs_of_a_node_that_is_ended() {
    restarts(End::Asked, 2);
}
