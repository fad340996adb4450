//! What is to be measured, and where.

use std::path::PathBuf;

use clap::Parser as _;

/// Whole commands beside the tools of today.
#[derive(Debug, clap::Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Arguments {
    /// Where everything is made; decides on which file system is measured.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    pub(crate) work: PathBuf,
    /// The tree to measure with; only read.
    #[arg(long, value_name = "DIR")]
    pub(crate) tree: Option<PathBuf>,
    /// How often the race is run.
    #[arg(long, default_value_t = 5)]
    pub(crate) runs: usize,
    /// Steps to show: first, nothing, one, hundred, restore; push is one and hundred.
    #[arg(long, value_name = "STEPS", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Contestants; unless said, baton and every peer that is found.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) with: Vec<String>,
    /// Every cost at growing sizes of a made tree.
    #[arg(long)]
    pub(crate) growth: bool,
    /// The largest size, as a power of ten.
    #[arg(long, value_name = "POWER", default_value_t = 5, value_parser = clap::value_parser!(u32).range(3..=6))]
    pub(crate) growth_max: u32,
    /// Releases of crates, as NAME/VERSION/, whose differences are pushed.
    #[arg(long, value_name = "DIR")]
    pub(crate) edits: Option<PathBuf>,
    /// Has cargo download what `--edits` lacks.
    #[arg(long, requires = "edits")]
    pub(crate) fetch: bool,
    /// Pushes over links of several kinds.
    #[arg(long)]
    pub(crate) links: bool,
    /// Homes at one node, each with an edit a second.
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub(crate) clients: u64,
    /// For how long.
    #[arg(long, default_value_t = 300)]
    pub(crate) seconds: u64,
    /// Runs of one handoff of `--tree`, beside worktrees and copies; nothing else is measured with the tree then.
    #[arg(long, value_name = "COUNT", default_value_t = 0, requires = "tree", value_parser = clap::value_parser!(u32).range(0..=64))]
    pub(crate) variants: u32,
    /// Small runs at once, beside plain processes.
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) small: u32,
    /// The program to measure.
    #[arg(long, value_name = "PROGRAM", default_value = env!("CARGO_BIN_EXE_baton"))]
    pub(crate) baton: PathBuf,
    /// Where the table and the plot go.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/runs"))]
    pub(crate) out: PathBuf,
    /// What stands in their names; unless said, the tree's name.
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// Measures what the hardware allows on a tree, and prints it: the benchmark calls itself so.
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) limits_of: Option<PathBuf>,
    /// Said by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    /// From the command line; ends the program where that is wrong. Folders are made absolute.
    pub(crate) fn read() -> Self {
        let mut arguments = Self::parse();
        std::fs::create_dir_all(&arguments.work).unwrap();
        arguments.work = arguments.work.canonicalize().unwrap();
        arguments.baton = arguments.baton.canonicalize().unwrap();
        let given = [&mut arguments.tree, &mut arguments.limits_of];
        for path in given.into_iter().flatten() {
            *path = path.canonicalize().unwrap();
        }
        arguments.runs = arguments.runs.max(1);
        arguments
    }

    /// Whether a step is to be shown.
    pub(crate) fn shows(&self, step: &str) -> bool {
        let means = |only: &String| only == step || (only == "push" && step_is_push(step));
        self.only.is_empty() || self.only.iter().any(means)
    }

    /// Whether a contestant takes part.
    pub(crate) fn has(&self, contestant: &str) -> bool {
        self.with.is_empty() || self.with.iter().any(|name| name == contestant)
    }
}

fn step_is_push(step: &str) -> bool {
    step == "one" || step == "hundred"
}
