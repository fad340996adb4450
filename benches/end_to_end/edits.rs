//! Real edits: what differs between successive releases of a crate, one push each, to a node on loopback
//! and to the same one 50 ms away.
//!
//! Beside each push stands what zstd -3 makes of the files that changed: what a tool would send that knows
//! which files changed, and nothing of what was in them.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::arguments::Arguments;
use crate::crates::{self, Files};
use crate::homes::{Home, Node};
use crate::plot::{self, Bar};
use crate::processes::Scratch;
use crate::record::Record;
use crate::samples::{bytes, quantile, seconds};
use crate::udp_proxy::{UdpProxy, Weather};

/// One push.
#[derive(Debug)]
struct Edit {
    name: String,
    files: usize,
    round_trips: u64,
    sent: u64,
    wall: f64,
    inside: f64,
    /// The files that changed, each by zstd -3.
    whole: u64,
    /// The same in one stream.
    stream: u64,
    /// Each alone against what it was, by zstd -3: what the edits of several files have in common is sent
    /// again with each.
    deltas: u64,
    /// Of those that were not there before, which have nothing to be told apart from: by zstd -3.
    new: u64,
}

/// Pushes all differences, near and far, and keeps what came of it.
pub(crate) fn run(arguments: &Arguments, folder: &Path, scratch: &Scratch) {
    if arguments.fetch {
        std::fs::create_dir_all(folder).unwrap();
        crates::fetch(folder, scratch);
    }
    let record = Record::new(arguments, "edits");
    let node = Node::start(Home::new(scratch, &arguments.baton, "node"));
    let near = all(arguments, folder, scratch, &node, "near", None);
    let weather = Weather { delay: Duration::from_millis(25), ..Weather::default() };
    let proxy = UdpProxy::new(node.address, 1, weather);
    let far = all(arguments, folder, scratch, &node, "far", Some(&proxy));
    node.remove();
    let mut text = format!(
        "{} pushes of what differs between successive releases. *whole* is zstd -3 of each changed file, *stream* of all of \
         them together; *deltas* what it makes of those that were there before, each against what it was, and *new* of the others.\n\n",
        near.len()
    );
    text.push_str(&table("loopback", &near));
    text.push_str(&table("50 ms there and back", &far));
    let title = "Real edits, one push each";
    let picture = plot::bars(title, &[bars("bytes sent, loopback", &near), times(&near, &far)]);
    record.keep(arguments, title, &text, &picture);
}

/// Pushes each difference of each crate.
fn all(
    arguments: &Arguments,
    folder: &Path,
    scratch: &Scratch,
    node: &Node<'_>,
    name: &str,
    proxy: Option<&UdpProxy>,
) -> Vec<Edit> {
    let home = Home::new(scratch, &arguments.baton, name);
    home.join(node, proxy.map(UdpProxy::address));
    let mut edits = Vec::new();
    for (name, releases) in crates::releases(folder) {
        let tree = home.folder.join("user").join(&name);
        let mut before = Files::new();
        for release in releases {
            let after = crates::read(&release);
            let is_first = before.is_empty();
            let changed = apply(&tree, &before, &after);
            let pushed = home.run(&["push", &tree.to_string_lossy()]);
            assert_eq!(pushed.text("state"), "acked");
            if !is_first {
                edits.push(Edit {
                    name: name.clone(),
                    files: changed.len(),
                    round_trips: pushed.count("round_trips"),
                    sent: pushed.count("bytes_sent"),
                    wall: pushed.ran.wall.as_secs_f64(),
                    inside: pushed.inside_ms() / 1e3,
                    whole: sizes(changed.iter()),
                    stream: compressed(
                        &changed.iter().flat_map(|it| it.after).copied().collect::<Vec<_>>(),
                    ),
                    deltas: changed.iter().filter_map(|it| Some(delta(it.before?, it.after))).sum(),
                    new: sizes(changed.iter().filter(|it| it.before.is_none())),
                });
            }
            before = after;
        }
    }
    home.remove();
    edits
}

/// A file that is another one than before.
#[derive(Clone, Copy, Debug)]
struct Changed<'a> {
    before: Option<&'a [u8]>,
    after: &'a [u8],
}

/// Writes what differs, and returns it.
fn apply<'a>(tree: &Path, before: &'a Files, after: &'a Files) -> Vec<Changed<'a>> {
    let mut changed = Vec::new();
    for (name, content) in after {
        let old = before.get(name);
        if old != Some(content) {
            let path = tree.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
            changed.push(Changed { before: old.map(Vec::as_slice), after: content });
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        std::fs::remove_file(tree.join(name)).unwrap();
    }
    changed
}

fn sizes<'a>(files: impl Iterator<Item = &'a Changed<'a>>) -> u64 {
    files.map(|file| compressed(file.after)).sum()
}

fn compressed(bytes: &[u8]) -> u64 {
    zstd::bulk::compress(bytes, 3).unwrap().len() as u64
}

fn delta(before: &[u8], after: &[u8]) -> u64 {
    use std::io::Write as _;
    let mut to = zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), 3, before).unwrap();
    // Both fit in it.
    to.window_log((before.len() + after.len()).next_power_of_two().ilog2().clamp(10, 27)).unwrap();
    to.write_all(after).unwrap();
    to.finish().unwrap().len() as u64
}

/// Each crate, and all of them.
fn table(title: &str, edits: &[Edit]) -> String {
    let mut text = format!(
        "## {title}\n\n| | pushes | in one round trip | files, median | sent, median | sent | deltas | new | whole | whole ÷ sent \
         | stream ÷ sent | command p50 | p99 | inside p50 |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    let mut names: Vec<_> = edits.iter().map(|edit| edit.name.as_str()).collect();
    names.dedup();
    for name in names.into_iter().map(Some).chain([None]) {
        let all: Vec<_> =
            edits.iter().filter(|edit| name.is_none_or(|name| edit.name == name)).collect();
        let of = |figure: fn(&Edit) -> f64, share| {
            quantile(&all.iter().map(|edit| figure(edit)).collect::<Vec<_>>(), share)
        };
        let sum = |figure: fn(&Edit) -> u64| all.iter().map(|edit| figure(edit)).sum::<u64>();
        let once = all.iter().filter(|edit| edit.round_trips == 1).count();
        let (sent, whole, stream) =
            (sum(|edit| edit.sent), sum(|edit| edit.whole), sum(|edit| edit.stream));
        let _ = writeln!(
            text,
            "| {} | {} | {once} ({:.1} %) | {:.0} | {} | {} | {} | {} | {} | {:.1} | {:.1} | {} | {} | {} |",
            name.unwrap_or("**all**"),
            all.len(),
            100.0 * once as f64 / all.len() as f64,
            of(|edit| edit.files as f64, 0.5),
            bytes(of(|edit| edit.sent as f64, 0.5) as u64),
            bytes(sent),
            bytes(sum(|edit| edit.deltas)),
            bytes(sum(|edit| edit.new)),
            bytes(whole),
            whole as f64 / sent as f64,
            stream as f64 / sent as f64,
            seconds(of(|edit| edit.wall, 0.5)),
            seconds(of(|edit| edit.wall, 0.99)),
            seconds(of(|edit| edit.inside, 0.5)),
        );
    }
    text.push('\n');
    text
}

/// Bytes of each crate's pushes, their median, least and most, beside those of whole files.
fn bars(title: &str, edits: &[Edit]) -> (String, Vec<Bar>) {
    let mut names: Vec<_> = edits.iter().map(|edit| edit.name.as_str()).collect();
    names.dedup();
    let mut bars = Vec::new();
    for name in names {
        let of = |figure: fn(&Edit) -> u64| {
            let all = edits.iter().filter(|edit| edit.name == name);
            all.map(|edit| figure(edit) as f64).collect::<Vec<_>>()
        };
        let sent = of(|edit| edit.sent);
        let whole = of(|edit| edit.whole);
        bars.push(bar(name, &sent, "baton", |value| bytes(value as u64)));
        bars.push(bar("whole, zstd -3", &whole, "peer", |value| bytes(value as u64)));
    }
    (title.to_owned(), bars)
}

fn times(near: &[Edit], far: &[Edit]) -> (String, Vec<Bar>) {
    let of = |edits: &[Edit]| edits.iter().map(|edit| edit.wall * 1e3).collect::<Vec<_>>();
    let shown = |value: f64| seconds(value / 1e3);
    let bars = vec![
        bar("loopback", &of(near), "baton", shown),
        bar("50 ms away", &of(far), "baton", shown),
    ];
    ("milliseconds of the whole command".to_owned(), bars)
}

fn bar(name: &str, values: &[f64], class: &'static str, shown: fn(f64) -> String) -> Bar {
    let value = quantile(values, 0.5);
    Bar {
        name: name.to_owned(),
        value,
        least: quantile(values, 0.0),
        most: quantile(values, 1.0),
        shown: shown(value),
        class,
    }
}
