//! Where figures are kept: a table and a picture, named for the day, the commit and what was measured.

use std::path::Path;
use std::process::Command;

use baton_daemon::clock::{Clock, rfc3339};

use crate::arguments::Arguments;

/// On what was measured, and when.
#[derive(Debug)]
pub(crate) struct Record {
    name: String,
    heading: String,
}

impl Record {
    /// Looks at the machine, the repository and the file system of the work folder.
    pub(crate) fn new(arguments: &Arguments, what: &str) -> Self {
        let time = rfc3339(Clock::system().now_ms());
        let day = time.get(..10).unwrap_or(&time).to_owned();
        let commit = commit();
        let heading = format!(
            "{} · commit {commit} · {} · load {} before\n",
            time.get(..16).unwrap_or(&time).replace('T', " "),
            machine(&arguments.work),
            load()
        );
        Self { name: format!("{day}-{commit}-{what}"), heading }
    }

    /// Writes both files, and shows the table.
    pub(crate) fn keep(&self, arguments: &Arguments, title: &str, text: &str, picture: &str) {
        std::fs::create_dir_all(&arguments.out).unwrap();
        let name = &self.name;
        let all =
            format!("# {title}\n\n{}\n{text}\n![{title}]({name}.svg)\n", self.heading.trim_end());
        std::fs::write(arguments.out.join(format!("{name}.md")), &all).unwrap();
        std::fs::write(arguments.out.join(format!("{name}.svg")), picture).unwrap();
        eprintln!("{all}\n{}/{name}.md", arguments.out.display());
    }
}

/// The commit of this repository, and whether something differs from it outside of the results.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output =
            Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(args).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Ok(commit) = git(&["rev-parse", "--short=9", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--", "..", ":(exclude)../benches/runs"]);
    let dirty = if changed.is_ok_and(|text| text.is_empty()) { "" } else { "-dirty" };
    format!("{commit}{dirty}")
}

/// How busy the machine was with other things: times of a run that began above 0.5 say little by themselves.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

fn machine(work: &Path) -> String {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = text("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = text("/proc/meminfo");
    let memory = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok());
    let kernel = text("/proc/sys/kernel/osrelease");
    format!(
        "{}, {cores} cores, {:.0} GiB, Linux {}, on {}",
        model.map_or("an unknown processor", |(_, model)| model),
        memory.unwrap_or_default() / 1_048_576.0,
        kernel.trim(),
        file_system(&text("/proc/self/mounts"), work)
    )
}

/// What is mounted where the work folder is; the last and longest match counts.
fn file_system(mounts: &str, work: &Path) -> String {
    let mut found = ("?", 0);
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(_), Some(point), Some(kind)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if work.starts_with(point) && point.len() >= found.1 {
            found = (kind, point.len());
        }
    }
    found.0.to_owned()
}
