//! Every cost at 10³, 10⁴, 10⁵ and 10⁶ files of a made tree. What should cost what changed, and not what is
//! there, is flat.
//!
//! Not here: the restore of one changed file into an existing checkout, which the program does not have; what
//! differs between two snapshots is asked for instead.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::arguments::Arguments;
use crate::ground::Ground;
use crate::homes::{Answered, Home, Node};
use crate::plot::{self, Line, Panel};
use crate::processes::{Scratch, memory};
use crate::record::Record;
use crate::rng::Rng;
use crate::samples::{bytes, quantile, seconds};

/// Files of a folder, and their size on average: those of a large tree of sources.
const FILES_OF_FOLDER: u64 = 17;
const FOLDERS_OF_FOLDER: u64 = 12;
const MEAN: u64 = 1400;

/// Pushes of one line, whose median counts.
const PUSHES: usize = 100;

/// How often what is neither short nor long is repeated.
const REPEAT: usize = 5;

const SECONDS: [&str; 10] = [
    "first snapshot",
    "snapshot, nothing changed, after a restart",
    "snapshot --no-daemon, nothing changed",
    "first push",
    "push of one line, the command",
    "push of one line, inside",
    "diff of one line",
    "snapshot, nothing changed, daemon warm",
    "restore, whole",
    "status",
];

const BYTES: [&str; 5] =
    ["daemon, memory at rest", "daemon, peak", "node, peak", "stored", "sent for one line"];

/// All figures at one size.
#[derive(Debug)]
struct Size {
    files: u64,
    tree: u64,
    seconds: [f64; 10],
    bytes: [f64; 5],
}

/// Grows, and keeps what came of it.
pub(crate) fn run(arguments: &Arguments, scratch: &Scratch) {
    let record = Record::new(arguments, "growth");
    let sizes: Vec<_> = (3..=arguments.growth_max)
        .map(|power| {
            let size = measure(arguments, scratch, 10u64.pow(power));
            eprintln!("{size:?}");
            size
        })
        .collect();
    let title = "Growth";
    let picture = plot::lines(
        "What each costs, by the number of files",
        &[
            panel("seconds", seconds, &SECONDS, &sizes, |size, at| size.seconds[at]),
            panel("bytes", |value| bytes(value as u64), &BYTES, &sizes, |size, at| size.bytes[at]),
        ],
    );
    record.keep(arguments, title, &table(&sizes), &picture);
}

fn panel(
    title: &str,
    shown: fn(f64) -> String,
    names: &[&str],
    sizes: &[Size],
    of: fn(&Size, usize) -> f64,
) -> Panel {
    let line = |(at, name): (usize, &&str)| Line {
        name: (*name).to_owned(),
        points: sizes.iter().map(|size| (size.files as f64, of(size, at))).collect(),
    };
    Panel { title: title.to_owned(), shown, lines: names.iter().enumerate().map(line).collect() }
}

fn table(sizes: &[Size]) -> String {
    let mut text = String::from(
        "Made trees, 17 files a folder. Medians; *growth* is how many times more the largest costs than the one before, \
         for ten times the files.\n\n|",
    );
    for size in sizes {
        let _ = write!(text, " | {} files, {}", size.files, bytes(size.tree));
    }
    let _ = writeln!(text, " | growth |\n|---{}|--:|", "|--:".repeat(sizes.len()));
    let mut row = |name: &str, of: &dyn Fn(&Size) -> f64, shown: &dyn Fn(f64) -> String| {
        let _ = write!(text, "| {name}");
        for size in sizes {
            let _ = write!(text, " | {}", shown(of(size)));
        }
        let growth = match sizes {
            [.., before, last] => format!("{:.1}", of(last) / of(before)),
            _ => String::new(),
        };
        let _ = writeln!(text, " | {growth} |");
    };
    for (at, name) in SECONDS.iter().enumerate() {
        row(name, &|size| size.seconds[at], &seconds);
    }
    for (at, name) in BYTES.iter().enumerate() {
        row(name, &|size| size.bytes[at], &|value| bytes(value as u64));
    }
    text
}

fn measure(arguments: &Arguments, scratch: &Scratch, files: u64) -> Size {
    let program = &arguments.baton;
    let folder = scratch.path("grown");
    make(&folder, files);
    let ground = Ground::of(folder.clone());
    let tree = ground.tree.to_string_lossy().into_owned();
    let node = Node::start(Home::new(scratch, program, "node"));
    let home = Home::new(scratch, program, "home");
    home.join(&node, None);
    rustix::fs::sync();
    let first = wall(&home.run(&["snapshot", &tree]));
    let pushed = home.run(&["push", &tree]);
    let first_push = wall(&pushed);
    let base = pushed.text("snapshot").to_owned();
    let daemon_peak = home.daemon().map_or(0, |pid| memory(pid, "VmHWM"));
    let warm = repeated(|| wall(&home.run(&["snapshot", &tree])));
    let restarted = repeated(|| {
        home.stop();
        wall(&home.run(&["snapshot", &tree]))
    });
    home.stop();
    let alone = repeated(|| wall(&home.run(&["snapshot", "--no-daemon", &tree])));
    // The watch is armed, and the connection made.
    home.run(&["push", &tree]);
    let lines: Vec<_> = (0..PUSHES)
        .map(|_| {
            ground.one();
            home.run(&["push", &tree])
        })
        .collect();
    let of = |figure: &dyn Fn(&Answered) -> f64| {
        quantile(&lines.iter().map(figure).collect::<Vec<_>>(), 0.5)
    };
    let rests = home.daemon().map_or(0, |pid| memory(pid, "VmRSS"));
    let last = lines.last().map_or(base.clone(), |push| push.text("snapshot").to_owned());
    let before = lines.iter().rev().nth(1).map_or(base, |push| push.text("snapshot").to_owned());
    let diff = repeated(|| wall(&home.run(&["diff", &before, &last])));
    let status = repeated(|| wall(&home.run(&["status", &tree])));
    let into = scratch.path("restored");
    rustix::fs::sync();
    let restore = wall(&home.run(&["restore", &last, "--into", &into.to_string_lossy()]));
    let size = Size {
        files,
        tree: ground.bytes,
        seconds: [
            first,
            restarted,
            alone,
            first_push,
            of(&wall),
            of(&|push| push.inside_ms() / 1e3),
            diff,
            warm,
            restore,
            status,
        ],
        bytes: [
            rests as f64,
            daemon_peak as f64,
            memory(node.pid(), "VmHWM") as f64,
            home.stored() as f64,
            of(&|push| push.count("bytes_sent") as f64),
        ],
    };
    home.remove();
    node.remove();
    scratch.remove(&into);
    scratch.remove(&folder);
    size
}

fn wall(answered: &Answered) -> f64 {
    answered.ran.wall.as_secs_f64()
}

fn repeated(mut once: impl FnMut() -> f64) -> f64 {
    quantile(&(0..REPEAT).map(|_| once()).collect::<Vec<_>>(), 0.5)
}

/// Makes a tree of so many files: the same one each time.
fn make(folder: &Path, files: u64) {
    let mut rng = Rng::new(42);
    let words: Vec<String> = (0..2000).map(|_| word(&mut rng)).collect();
    let folders = files.div_ceil(FILES_OF_FOLDER);
    for at in 0..folders {
        let path = place(folder, at, &words);
        std::fs::create_dir_all(&path).unwrap();
        let left = files - at * FILES_OF_FOLDER;
        for file in 0..left.min(FILES_OF_FOLDER) {
            let ending = *rng.pick(&["rs", "rs", "c", "h", "py", "md", "json"]);
            let name = format!("{}_{file}.{ending}", rng.pick(&words));
            std::fs::write(path.join(name), source(&mut rng, &words)).unwrap();
        }
    }
}

/// Each folder has twelve others, so that a tree of ten times the files is one level deeper.
fn place(top: &Path, folder: u64, words: &[String]) -> PathBuf {
    if folder == 0 {
        return top.to_owned();
    }
    let word = &words[folder as usize % words.len()];
    place(top, (folder - 1) / FOLDERS_OF_FOLDER, words).join(format!("{word}{folder}"))
}

fn word(rng: &mut Rng) -> String {
    let len = 3 + rng.below(8);
    (0..len).map(|_| char::from(b'a' + rng.below(26) as u8)).collect()
}

/// Text that looks to a compressor about as sources do, mostly short and sometimes long.
fn source(rng: &mut Rng, words: &[String]) -> String {
    // The product of two numbers with this mean each: half are below 0.6 of the mean, few above three times.
    let len = (rng.below(2 * MEAN) * rng.below(2 * MEAN) / MEAN).max(20) as usize;
    let mut text = format!("// {:016x}\n", rng.next());
    while text.len() < len {
        let [a, b, c] = [(); 3].map(|()| rng.pick(words));
        let line = match rng.below(6) {
            0 => format!("use crate::{a}::{b};\n"),
            1 => format!("pub fn {a}_{b}({c}: &str) -> Result<(), Error> {{\n"),
            2 => format!("    let {a} = self.{b}.{c}({})?;\n", rng.below(1000)),
            3 => "}\n\n".to_owned(),
            4 => format!("    // {a} {b} {c}\n"),
            _ => format!("    if {a}.{b}() > {} {{ return Err({c}); }}\n", rng.below(100)),
        };
        text.push_str(&line);
    }
    text
}
