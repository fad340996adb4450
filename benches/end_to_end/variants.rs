//! Attempts at once: how soon each of several runs of one handoff is at work, beside worktrees and copies; and many
//! small runs beside plain processes.
//!
//! The tree is handed over as it is, and is not edited; `--with baton` leaves the others out. Which kind of checkout it becomes, and whether copies share
//! their bytes, is up to the file system of `--work`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::arguments::Arguments;
use crate::homes::{Home, Node};
use crate::plot::{self, Bar};
use crate::processes::{Scratch, memory, start};
use crate::record::Record;
use crate::samples::{bytes, quantile, seconds};

/// Says when it is at work, and stays.
const ATTEMPT: &str = "date +%s%N; exec sleep 60";

/// How long git's first look at a checkout takes, in nanoseconds.
const STATUS: &str =
    "a=$(date +%s%N); git status --porcelain > /dev/null; b=$(date +%s%N); echo $((b - a))";

/// What each of many small runs writes, and how many lines that are.
const SMALL: &str = "seq 1 1000; pwd > written";
const LINES: usize = 1000;

/// Bytes that the node's own configuration has: as many runs at once as are measured.
const CONFIG: &str = "[serve]\nmax_runs = 64\n";

/// Named figures of one kind, each measured several times.
#[derive(Debug, Default)]
struct Figures(Vec<(String, Vec<f64>)>);

impl Figures {
    fn add(&mut self, name: &str, value: f64) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(value),
            None => self.0.push((name.to_owned(), vec![value])),
        }
    }
}

/// Hands the tree over for several attempts, again and again, and keeps what came of it.
pub(crate) fn run(arguments: &Arguments, tree: &Path, scratch: &Scratch) {
    let record = Record::new(arguments, "variants");
    let mut times = Figures::default();
    let mut sizes = Figures::default();
    let node = Node::start(configured(scratch, &arguments.baton));
    let home = Home::new(scratch, &arguments.baton, "home");
    home.join(&node, None);
    let path = tree.to_string_lossy().into_owned();
    home.run(&["push", &path]);
    // The base of the checkouts, and the watch of the tree.
    finish(&home, &handed_off(&home, &path, 1, &["true"]).1);
    for _ in 0..arguments.runs {
        attempts(arguments.variants, (&home, &node), &path, (&mut times, &mut sizes));
        if tree.join(".git").exists() {
            let (_, runs) = handed_off(&home, &path, 1, &["sh", "-c", STATUS]);
            let ns = said(&home, &runs[0]);
            times.add("first git status in a checkout", ns.trim().parse::<f64>().unwrap() / 1e9);
            let mut status = Command::new("git");
            let ran = scratch.must(status.arg("-C").arg(tree).args(["status", "--porcelain"]));
            times.add("git status of the tree", ran.wall.as_secs_f64());
        }
    }
    small(arguments, (&home, &node), &path, (&mut times, &mut sizes));
    sizes.add("node, peak memory", memory(node.pid(), "VmHWM") as f64);
    if arguments.has("peers") {
        peers(arguments.variants, tree, scratch, &mut times);
    }
    home.remove();
    node.remove();
    keep(arguments, &record, &times, &sizes);
}

fn configured<'a>(scratch: &'a Scratch, program: &Path) -> Home<'a> {
    let home = Home::new(scratch, program, "node");
    home.configure(CONFIG);
    home
}

/// The moment before the command, in nanoseconds since 1970, and the runs that it began.
fn handed_off(home: &Home<'_>, tree: &str, variants: u32, command: &[&str]) -> (u128, Vec<String>) {
    let variants = variants.to_string();
    let args = [&["handoff", tree, "--variants", &variants, "--"], command].concat();
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let answered = home.run(&args);
    let runs = answered.answer["runs"].as_array().unwrap();
    (begun, runs.iter().map(|run| run["run"].as_str().unwrap().to_owned()).collect())
}

/// What a run has written when it ends, or so far where that is a line.
fn said(home: &Home<'_>, run: &str) -> String {
    home.run(&["run", "wait", run]);
    written(home, run)
}

fn written(home: &Home<'_>, run: &str) -> String {
    let lines = home.lines(&["logs", run]);
    let of_program = lines.iter().filter(|line| line["stream"] == "stdout");
    of_program.filter_map(|line| line["text"].as_str()).collect()
}

fn finish(home: &Home<'_>, runs: &[String]) {
    for run in runs {
        home.run(&["run", "wait", run]);
    }
}

fn attempts(
    variants: u32,
    (home, node): (&Home<'_>, &Node<'_>),
    tree: &str,
    (times, sizes): (&mut Figures, &mut Figures),
) {
    let (begun, runs) = handed_off(home, tree, variants, &["sh", "-c", ATTEMPT]);
    let mut at_work: Vec<f64> = runs
        .iter()
        .map(|run| {
            let patience = Instant::now() + std::time::Duration::from_mins(1);
            loop {
                if let Ok(ns) = written(home, run).trim().parse::<u128>() {
                    break (ns - begun) as f64 / 1e9;
                }
                assert!(Instant::now() < patience, "run {run} does not begin");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        })
        .collect();
    at_work.sort_by(f64::total_cmp);
    for run in &runs {
        sizes.add("a checkout, on the disk", on_disk(&node.home.runs().join(run)));
        home.run(&["run", "cancel", run]);
    }
    let (first, last) = (at_work[0], at_work[at_work.len() - 1]);
    times.add("first at work", first);
    times.add("each further one", (last - first) / f64::from(variants.max(2) - 1));
    times.add("all at work", last);
}

/// What a folder takes, without what is mounted below it.
fn on_disk(folder: &Path) -> f64 {
    let mut du = Command::new("du");
    let output = du.args(["-s", "-x", "--block-size=1"]).arg(folder).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// As many small runs at once as there may be, and the same commands as plain processes.
fn small(
    arguments: &Arguments,
    (home, node): (&Home<'_>, &Node<'_>),
    tree: &str,
    (times, sizes): (&mut Figures, &mut Figures),
) {
    let count = arguments.small;
    for _ in 0..arguments.runs {
        let begun = Instant::now();
        let (_, runs) = handed_off(home, tree, count, &["sh", "-c", SMALL]);
        finish(home, &runs);
        times.add("small runs, all ended", begun.elapsed().as_secs_f64());
        sizes.add("node, memory after them", memory(node.pid(), "VmRSS") as f64);
        for run in &runs {
            assert_eq!(
                written(home, run).lines().count(),
                LINES,
                "the output of {run} is not whole"
            );
        }
        let begun = Instant::now();
        let children: Vec<_> = (0..count)
            .map(|at| {
                let folder = home.folder.join(format!("user/plain-{at}"));
                std::fs::create_dir_all(&folder).unwrap();
                let output = std::fs::File::create(folder.join("output")).unwrap();
                start(Command::new("sh").args(["-c", SMALL]).current_dir(folder).stdout(output))
            })
            .collect();
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        times.add("small processes, all ended", begun.elapsed().as_secs_f64());
    }
}

/// The same number of checkouts as people make them today.
fn peers(variants: u32, tree: &Path, scratch: &Scratch, times: &mut Figures) {
    let folder = scratch.path("peers");
    std::fs::create_dir_all(&folder).unwrap();
    if tree.join(".git").exists() {
        for at in 0..variants.min(2) {
            let place = folder.join(format!("worktree-{at}"));
            let mut add = Command::new("git");
            add.arg("-C").arg(tree).args(["worktree", "add", "-q", "--detach"]).arg(&place);
            times.add("git worktree add, each", scratch.must(&mut add).wall.as_secs_f64());
        }
        for at in 0..variants.min(2) {
            let place = folder.join(format!("worktree-{at}"));
            let mut remove = Command::new("git");
            remove.arg("-C").arg(tree).args(["worktree", "remove", "--force"]).arg(&place);
            scratch.must(&mut remove);
        }
    }
    let place = folder.join("copy");
    let mut copy = Command::new("cp");
    copy.args(["-a", "--reflink=auto"]).arg(tree).arg(&place);
    times.add("cp -a --reflink=auto, each", scratch.must(&mut copy).wall.as_secs_f64());
    scratch.remove(&place);
}

fn keep(arguments: &Arguments, record: &Record, times: &Figures, sizes: &Figures) {
    let mut text = format!(
        "`handoff --variants {}` of a tree that the node has, and {} small runs at once. Medians.\n\n\
         | | median | least | most |\n|---|--:|--:|--:|\n",
        arguments.variants, arguments.small
    );
    let mut bars = Vec::new();
    for (figures, is_time) in [(times, true), (sizes, false)] {
        for (name, values) in &figures.0 {
            let [least, median, most] = [0.0, 0.5, 1.0].map(|at| quantile(values, at));
            let shown = |value: f64| if is_time { seconds(value) } else { bytes(value as u64) };
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} |",
                shown(median),
                shown(least),
                shown(most)
            );
            if is_time {
                let (name, shown) = (name.clone(), shown(median));
                bars.push(Bar { name, value: median, least, most, shown, class: "baton" });
            }
        }
    }
    let picture = plot::bars("Attempts at once", &[("seconds".to_owned(), bars)]);
    record.keep(arguments, "Attempts at once", &text, &picture);
}
