//! Whole commands of the real binary, beside the tools that people use today and what the hardware allows,
//! in one run and in alternation.
//!
//! Not here: single stages (`benches/stages.rs`).
//!
//! ```text
//! cargo bench -p baton --bench end_to_end -- --work DIR --tree TREE               # beside the peers
//! cargo bench -p baton --bench end_to_end -- --work DIR --tree TREE --only push   # one kind of step
//! cargo bench -p baton --bench end_to_end -- --work DIR --growth                  # 1,000 to 100,000 files
//! cargo bench -p baton --bench end_to_end -- --work DIR --growth --growth-max 6   # to a million
//! cargo bench -p baton --bench end_to_end -- --work DIR --edits CRATES --fetch    # 300 real edits
//! cargo bench -p baton --bench end_to_end -- --work DIR --links                   # near and far
//! cargo bench -p baton --bench end_to_end -- --work DIR --tree TREE --variants 8  # runs at once
//! cargo bench -p baton --bench end_to_end -- --work DIR --clients 1000            # homes at one node
//! ```
//!
//! `--work` decides on which file system is measured. Everything is made in a folder of its own there, and
//! taken away at the end. The peers are those found on the `PATH`: tar, cp, rsync, restic, rustic, borg,
//! git; one that is missing is named. `--baton PROGRAM` measures another build. `--runs` says how often,
//! `--out` where the table (Markdown) and the plot (SVG) go: `benches/runs/` of this repository unless said.
//! `CRATES` has a folder NAME/VERSION for each release; with `--fetch` cargo downloads those of ten crates
//! into it.
//!
//! Modules stand in the order in which a measurement passes through them:
//!
//! - [`arguments`]: what is to be measured
//! - [`processes`]: what runs, what it cost, and that nothing stays behind
//! - [`rng`], [`udp_proxy`]: the tests' seeded numbers and distant network
//! - [`ground`]: the tree that is edited
//! - [`homes`]: homes and nodes of the program that is measured
//! - [`limits`]: what the hardware allows
//! - [`samples`], [`plot`], [`record`]: figures, pictures of them, and where they are kept
//! - [`peers`], [`compare`]: the tools of today, and the race
//! - [`growth`]: each cost at 10³ to 10⁶ files
//! - [`crates`], [`edits`]: real edits
//! - [`links`]: near and far, with and without loss
//! - [`clients`]: many homes at one node
//! - [`variants`]: several runs of one handoff, and many small ones
//!
//! **Invariant:** the given tree is never written to: edits are made in a copy.
//!
//! **Invariant:** when this ends, also by Ctrl-C or a panic, so has every process that it started.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a benchmark: fails by panicking, has files and clock itself, and rounds what it shows"
)]

mod arguments;
mod processes;
#[path = "../../tests/support/rng.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use more of it")]
mod rng;
#[path = "../../tests/support/udp_proxy.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use more of it")]
mod udp_proxy;
mod ground;
mod homes;
mod limits;
mod samples;
mod plot;
mod record;
mod peers;
mod compare;
mod growth;
mod crates;
mod edits;
mod links;
mod clients;
mod variants;

use arguments::Arguments;
use processes::Scratch;

fn main() {
    let arguments = Arguments::read();
    if let Some(tree) = &arguments.limits_of {
        limits::print(tree, &arguments.work);
        return;
    }
    let scratch = Scratch::new(&arguments.work);
    let mut did = false;
    if arguments.growth {
        growth::run(&arguments, &scratch);
        did = true;
    }
    if let Some(crates) = &arguments.edits {
        edits::run(&arguments, crates, &scratch);
        did = true;
    }
    if arguments.links {
        links::run(&arguments, &scratch);
        did = true;
    }
    if arguments.clients > 0 {
        clients::run(&arguments, &scratch);
        did = true;
    }
    if let Some(tree) = arguments.tree.as_ref().filter(|_| arguments.variants > 0) {
        variants::run(&arguments, tree, &scratch);
        did = true;
    } else if let Some(tree) = &arguments.tree {
        compare::run(&arguments, tree, &scratch);
        did = true;
    }
    if !did {
        eprintln!(
            "nothing to do: say --tree DIR, --growth, --links, --clients N or --edits DIR; see --help"
        );
    }
}
