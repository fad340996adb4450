//! What a link makes of a push: one file that does not compress, which fills it, and one line, which waits for it.
//!
//! Loopback is taken as it is: in a network namespace of its own `tc` makes it as slow as one likes
//! (`docs/benchmarks.md`).

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use crate::arguments::Arguments;
use crate::homes::{Home, Meter, Node};
use crate::plot::{self, Bar};
use crate::processes::Scratch;
use crate::record::Record;
use crate::rng::Rng;
use crate::samples::{quantile, seconds};
use crate::udp_proxy::{UdpProxy, Weather};

/// Pushes of one line in a run.
const LINES: usize = 20;

/// What stands between home and node, nothing on loopback; and MiB of the file that fills it for some seconds.
const LINKS: [(&str, Option<Weather>, usize); 4] = [
    ("loopback", None, 256),
    ("50 ms", Some(weather(25, 0)), 64),
    ("50 ms, 1 % lost", Some(weather(25, 10)), 8),
    ("10 ms, 1 % lost", Some(weather(5, 10)), 16),
];

const fn weather(delay_ms: u64, loss: u32) -> Weather {
    let jitter = Duration::ZERO;
    Weather {
        delay: Duration::from_millis(delay_ms),
        jitter,
        loss,
        duplicate: 0,
        corrupt: 0,
        late: 0,
        longest: 0,
    }
}

/// What was measured over one link.
#[derive(Debug, Default)]
struct Link {
    /// Bytes a second of the file.
    bulk: Vec<f64>,
    /// Seconds of processor time at both ends for it.
    cpu: Vec<f64>,
    /// Seconds of one line, the whole command.
    line: Vec<f64>,
}

/// Pushes over each link, and keeps what came of it.
pub(crate) fn run(arguments: &Arguments, scratch: &Scratch) {
    let record = Record::new(arguments, "links");
    let mut links: Vec<(&str, Link)> =
        LINKS.iter().map(|(name, ..)| (*name, Link::default())).collect();
    for _ in 0..arguments.runs {
        for ((_, weather, mib), (name, link)) in LINKS.iter().zip(&mut links) {
            measure(arguments, scratch, (*weather, mib << 20), link);
            eprintln!("{name}: {link:?}");
        }
    }
    let mut text = format!(
        "A file of noise, its snapshot taken before, to a new node; then {LINES} pushes of one line. Medians.\n\n\
         | | MB/s | least | most | processor, both ends | one line, the command | p99 |\n|---|--:|--:|--:|--:|--:|--:|\n"
    );
    for (name, Link { bulk, cpu, line }) in &links {
        let [least, median, most] = [0.0, 0.5, 1.0].map(|at| quantile(bulk, at) / 1e6);
        let _ = writeln!(
            text,
            "| {name} | {median:.0} | {least:.0} | {most:.0} | {} | {} | {} |",
            seconds(quantile(cpu, 0.5)),
            seconds(quantile(line, 0.5)),
            seconds(quantile(line, 0.99))
        );
    }
    let bar = |(name, link): &(&str, Link)| {
        let [least, value, most] = [0.0, 0.5, 1.0].map(|at| quantile(&link.bulk, at));
        let shown = format!("{:.0} MB/s", value / 1e6);
        Bar { name: (*name).to_owned(), value, least, most, shown, class: "baton" }
    };
    let title = "Links";
    let picture =
        plot::bars(title, &[("bytes a second".to_owned(), links.iter().map(bar).collect())]);
    record.keep(arguments, title, &text, &picture);
}

fn measure(
    arguments: &Arguments,
    scratch: &Scratch,
    (weather, len): (Option<Weather>, usize),
    link: &mut Link,
) {
    let node = Node::start(Home::new(scratch, &arguments.baton, "node"));
    let proxy = weather.map(|weather| UdpProxy::new(node.address, 1, weather));
    let home = Home::new(scratch, &arguments.baton, "home");
    let tree = home.folder.join("user/tree");
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::write(tree.join("noise"), Rng::new(7).bytes(len)).unwrap();
    std::fs::write(tree.join("text"), "a line\n".repeat(1000)).unwrap();
    let path = tree.to_string_lossy().into_owned();
    home.run(&["snapshot", &path]);
    home.join(&node, proxy.as_ref().map(UdpProxy::address));
    let meter = Meter::start(home.daemon().into_iter().chain([node.pid()]));
    let pushed = home.run(&["push", &path]);
    link.cpu.push(meter.cpu());
    let send_ms = pushed.answer["timing_ms"]["send"].as_f64().unwrap();
    link.bulk.push(len as f64 / (send_ms / 1e3));
    for _ in 0..LINES {
        let mut text = std::fs::File::options().append(true).open(tree.join("text")).unwrap();
        text.write_all(b"one more\n").unwrap();
        let pushed = home.run(&["push", &path]);
        assert_eq!(pushed.text("state"), "acked");
        link.line.push(pushed.ran.wall.as_secs_f64());
    }
    home.remove();
    node.remove();
}
