//! The race: every contestant does every step, one contestant after the other, run after run.
//!
//! A step that is short is repeated within a run; an edit is made before each.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::arguments::Arguments;
use crate::ground::{Ground, size};
use crate::homes::{Home, Meter, Node};
use crate::limits::{self, Limits};
use crate::peers::{self, Act, Peer, Place};
use crate::plot::{self, Bar};
use crate::processes::{Ran, Scratch, cpu_seconds, memory};
use crate::record::Record;
use crate::samples::{Sample, Side, Step, Summary, bytes, seconds, summaries, table};
use crate::udp_proxy::{UdpProxy, Weather};

/// A step is repeated within a run until so much time went by, or so often.
const PATIENCE: Duration = Duration::from_secs(3);
const REPEAT: usize = 20;

/// One way, of the distant node.
const DISTANT: Duration = Duration::from_millis(25);

/// Races on a copy of a tree, and keeps what came of it, after each contestant anew.
pub(crate) fn run(arguments: &Arguments, tree: &Path, scratch: &Scratch) {
    let ground = Ground::copied(tree, scratch);
    eprintln!("{} files, {}", ground.files, bytes(ground.bytes));
    let (here, missing): (Vec<_>, Vec<_>) =
        peers::ALL.iter().partition(|peer| peer.is_here(scratch));
    let peers: Vec<_> = here.into_iter().filter(|peer| arguments.has(peer.name)).collect();
    let versions: Vec<_> = peers.iter().map(|peer| peer.version(scratch)).collect();
    let missing: Vec<_> = missing.into_iter().map(|peer| peer.name).collect();
    let label = label(arguments, tree);
    let record = Record::new(arguments, &format!("{label}-end_to_end"));
    let mut race =
        Race { arguments, scratch, ground: &ground, samples: Vec::new(), failed: Vec::new() };
    let keep = |race: &Race<'_>, runs: usize| {
        let mut text = format!(
            "{} files, {}; {runs} runs, contestants in alternation, page cache warm. Peers: {}.",
            ground.files,
            bytes(ground.bytes),
            versions.join("; "),
        );
        if !missing.is_empty() {
            let _ = write!(text, " Not here: {}.", missing.join(", "));
        }
        race.failed.iter().for_each(|failed| text.push_str(failed));
        text.push_str(WORDS);
        let title = format!("Whole commands on {label}");
        let groups = show(arguments, &race.samples, &mut text);
        record.keep(arguments, &title, &text, &plot::bars(&title, &groups));
    };
    for runs in 1..=arguments.runs {
        race.limits(&limits::measure(&ground.tree, scratch));
        if arguments.has("baton") {
            race.baton(&format!("baton{runs}"));
            keep(&race, runs);
        }
        for peer in &peers {
            race.peer(peer);
            keep(&race, runs);
        }
    }
}

/// What the columns are.
const WORDS: &str = "\n\nOf baton, processor and memory are those of the daemon (behind the +, of the node); *inside* is \
    what the daemon says of itself. Of the peers they are those of the largest process, which is never shown smaller than \
    this benchmark, some MB. *sent or added*: baton and rsync sent so much; what the others keep grew by so much.\n\n";

/// A table and bars of each step.
fn show(arguments: &Arguments, samples: &[Sample], text: &mut String) -> Vec<(String, Vec<Bar>)> {
    let mut groups = Vec::new();
    for step in Step::ALL.into_iter().filter(|step| arguments.shows(step.word())) {
        let all = summaries(samples, step);
        if all.is_empty() {
            continue;
        }
        text.push_str(&table(step, &all));
        let bar = |it: &Summary| Bar {
            name: it.who.clone(),
            value: it.median,
            least: it.least,
            most: it.most,
            shown: seconds(it.median),
            class: match it.side {
                Side::Limit => "limit",
                Side::Baton => "baton",
                Side::Peer => "peer",
            },
        };
        groups.push((step.title().to_owned(), all.iter().map(bar).collect()));
    }
    groups
}

fn label(arguments: &Arguments, tree: &Path) -> String {
    let name = || tree.file_name().unwrap_or_default().to_string_lossy().into_owned();
    arguments.label.clone().unwrap_or_else(name)
}

struct Race<'a> {
    arguments: &'a Arguments,
    scratch: &'a Scratch,
    ground: &'a Ground,
    samples: Vec<Sample>,
    /// What peers did not do, for people.
    failed: Vec<String>,
}

impl Race<'_> {
    fn limits(&mut self, limits: &Limits) {
        let shown = [
            (Step::First, &[limits::READ, limits::HASH, limits::COMPRESS, limits::CREATE][..]),
            (Step::Nothing, &[limits::LIST]),
            (Step::One, &[limits::APPEND, limits::UDP, limits::QUIC]),
            (Step::Hundred, &[limits::APPEND, limits::QUIC]),
            (Step::Restore, &[limits::CREATE_EMPTY, limits::CREATE]),
        ];
        for (step, names) in shown {
            for name in names {
                let who = (*name).to_owned();
                let sample = Sample::new(step, Side::Limit, &who, limits[*name]);
                self.samples.push(sample);
            }
        }
    }

    fn edit(&self, step: Step) {
        match step {
            Step::One => self.ground.one(),
            Step::Hundred => self.ground.hundred(),
            Step::First | Step::Nothing | Step::Restore => {}
        }
    }

    /// Repeats a step that is short.
    fn repeat(&mut self, step: Step, mut once: impl FnMut() -> (Duration, Vec<Sample>)) {
        let mut spent = Duration::ZERO;
        let often = if matches!(step, Step::First | Step::Restore) { 1 } else { REPEAT };
        for _ in 0..often {
            if spent > PATIENCE {
                break;
            }
            self.edit(step);
            if often == 1 {
                // What others have written is not ours to wait for.
                rustix::fs::sync();
            }
            let (wall, samples) = once();
            spent += wall;
            if self.arguments.shows(step.word()) {
                self.samples.extend(samples);
            }
        }
    }

    /// One that fails is left out from there, and said.
    fn peer(&mut self, peer: &Peer) {
        let scratch = self.scratch;
        let place = Place {
            scratch,
            tree: &self.ground.tree,
            folder: scratch.path(peer.name),
            restored: scratch.path("restored"),
        };
        for folder in [&place.folder, &place.restored] {
            std::fs::create_dir(folder).unwrap();
        }
        let script = peer.script(&place);
        let mut failed = None;
        let run = |command: &mut Command, failed: &mut Option<String>| {
            let ran = scratch.run(command);
            if !ran.status.success() {
                let said = String::from_utf8_lossy(&ran.stderr).into_owned();
                let last = said.lines().last().unwrap_or_default();
                failed.get_or_insert(format!(" {} failed: {last}.", peer.name));
            }
            ran
        };
        for act in script.acts {
            let (step, who, commands) = match act {
                Act::Measure { step, who, commands } => (step, who, commands),
                Act::Prepare(commands) => {
                    for mut command in commands {
                        run(&mut command, &mut failed);
                    }
                    continue;
                }
            };
            let unwanted = step == Step::Restore && !self.arguments.shows(step.word());
            if failed.is_some() || unwanted {
                continue;
            }
            self.repeat(step, || {
                let before = size(&script.store);
                let mut commands = commands(&place);
                let ran: Vec<_> =
                    commands.iter_mut().map(|command| run(command, &mut failed)).collect();
                if failed.is_some() {
                    return (PATIENCE * 2, Vec::new());
                }
                let stored = size(&script.store);
                let wall = ran.iter().map(|ran| ran.wall).sum::<Duration>();
                let mut sample = Sample::new(step, Side::Peer, who, wall.as_secs_f64());
                sample.cpu = Some(ran.iter().map(|ran| ran.cpu).sum::<Duration>().as_secs_f64());
                sample.peaks.extend(ran.iter().map(|ran| ran.peak).max());
                sample.stored = (step == Step::First).then_some(stored);
                let added = sent_by_rsync(&ran).unwrap_or(stored.saturating_sub(before));
                sample.sent = (step != Step::Restore).then_some(added);
                (wall, vec![sample])
            });
        }
        self.failed.extend(failed);
        for folder in [&place.folder, &place.restored] {
            scratch.remove(folder);
        }
    }

    fn baton(&mut self, name: &str) {
        let tree = self.ground.tree.to_string_lossy().into_owned();
        self.snapshots(name, &tree);
        self.pushes(&format!("{name}p"), &tree);
    }

    /// What stays on this machine.
    fn snapshots(&mut self, name: &str, tree: &str) {
        let home = Home::new(self.scratch, &self.arguments.baton, name);
        self.repeat(Step::First, || {
            let ran = home.run(&["snapshot", tree]).ran;
            let mut sample =
                Sample::new(Step::First, Side::Baton, "baton snapshot", ran.wall.as_secs_f64());
            // The daemon was started by it, so that all it ever did is this.
            let daemon = home.daemon();
            sample.cpu = daemon.map(cpu_seconds);
            sample.peaks.extend(daemon.map(|pid| memory(pid, "VmHWM")));
            sample.stored = Some(home.stored());
            (ran.wall, vec![sample])
        });
        // After the first one all directories are listed once more: they were not watched when they were read.
        home.run(&["snapshot", tree]);
        self.repeat(Step::Nothing, || {
            let meter = Meter::start(home.daemon());
            let ran = home.run(&["snapshot", tree]).ran;
            let who = "baton snapshot, daemon warm";
            (ran.wall, vec![measured(Step::Nothing, who, ran.wall, &meter)])
        });
        home.stop();
        self.repeat(Step::Nothing, || {
            let ran = home.run(&["snapshot", "--no-daemon", tree]).ran;
            let who = "baton snapshot --no-daemon";
            let mut sample = Sample::new(Step::Nothing, Side::Baton, who, ran.wall.as_secs_f64());
            sample.cpu = Some(ran.cpu.as_secs_f64());
            sample.peaks.push(ran.peak);
            (ran.wall, vec![sample])
        });
        home.remove();
    }

    /// What goes to a node on loopback, and what comes back from the store.
    fn pushes(&mut self, name: &str, tree: &str) {
        let scratch = self.scratch;
        let program = &self.arguments.baton;
        let node = Node::start(Home::new(scratch, program, &format!("{name}n")));
        let home = Home::new(scratch, program, name);
        home.join(&node, None);
        let pids = || home.daemon().into_iter().chain([node.pid()]);
        let mut last = String::new();
        self.repeat(Step::First, || {
            let meter = Meter::start(pids());
            let pushed = home.run(&["push", tree]);
            let who = "baton push, durable here and there";
            let mut sample = measured(Step::First, who, pushed.ran.wall, &meter);
            sample.stored = Some(node.home.stored());
            sample.sent = Some(pushed.count("bytes_sent"));
            pushed.text("snapshot").clone_into(&mut last);
            (pushed.ran.wall, vec![sample])
        });
        let push = |step: Step, who: &str, last: &mut String| {
            let meter = Meter::start(pids());
            let pushed = home.run(&["push", tree]);
            let mut sample = measured(step, who, pushed.ran.wall, &meter);
            sample.sent = Some(pushed.count("bytes_sent"));
            let seconds = pushed.inside_ms() / 1e3;
            let inside = Sample::new(step, Side::Baton, &format!("{who}, inside"), seconds);
            pushed.text("snapshot").clone_into(last);
            (pushed.ran.wall, vec![sample, inside])
        };
        for step in [Step::One, Step::Hundred] {
            self.repeat(step, || push(step, "baton push", &mut last));
        }
        self.repeat(Step::Restore, || {
            let into = scratch.path("restored");
            let meter = Meter::start(home.daemon());
            let ran = home.run(&["restore", &last, "--into", &into.to_string_lossy()]).ran;
            let sample = measured(Step::Restore, "baton restore", ran.wall, &meter);
            scratch.remove(&into);
            (ran.wall, vec![sample])
        });
        // The same node, from far away.
        let weather = Weather { delay: DISTANT, ..Weather::default() };
        let proxy = UdpProxy::new(node.address, 1, weather);
        home.stop();
        home.join(&node, Some(proxy.address()));
        home.run(&["push", tree]);
        for step in [Step::One, Step::Hundred] {
            self.repeat(step, || push(step, "baton push, 50 ms there and back", &mut last));
        }
        home.remove();
        node.remove();
    }
}

fn measured(step: Step, who: &str, wall: Duration, meter: &Meter) -> Sample {
    let mut sample = Sample::new(step, Side::Baton, who, wall.as_secs_f64());
    sample.cpu = Some(meter.cpu());
    sample.peaks = meter.peaks();
    sample
}

/// What rsync says of itself, where it was rsync.
fn sent_by_rsync(ran: &[Ran]) -> Option<u64> {
    let text = String::from_utf8_lossy(&ran.first()?.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("Total bytes sent: "))?;
    line.replace(',', "").trim().parse().ok()
}
