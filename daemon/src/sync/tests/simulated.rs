//! Homes and a node in one simulation: the sync core, over wires that break and on disks that lose power, by seed.
//!
//! Each home and the node has a real store; pushes and fetches are those of the program. They run on threads of which one at a
//! time has the turn, and dice say whose it is, when bytes arrive, where a wire breaks, and at which operation of a disk a
//! machine loses its power. So a seed is a run, and the same one each time.
//!
//! What is kept outside of all that: what each push was answered. In the end, and after each start of the node, all of it is
//! there.
//!
//! - [`turns`]: threads that take turns, and the wires between them
//! - [`machines`]: a store on a disk that loses power
//! - [`world`]: homes, a node, and what happens to them
//!
//! `BATON_SEEDS=from..to` says which seeds; `BATON_NIGHTLY` means many.

mod machines;
mod turns;
mod world;

use crate::fuzz::simulations::seeds;
use world::World;

const FEW: u64 = 60;
const MANY: u64 = 2_000;

/// Steps of the scheduler in a run, before everything is mended.
const STEPS: u64 = 250;

fn run(seed: u64, lies: bool) -> Vec<String> {
    World::new(seed, lies).run(STEPS)
}

#[test]
fn whatever_breaks_what_was_acknowledged_is_at_the_node() {
    let mut done = 0;
    for seed in seeds(FEW, MANY) {
        run(seed, false);
        done += 1;
        if done % 1000 == 0 {
            println!("{done} seeds");
        }
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in seeds(FEW, MANY).take(15) {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}

/// The tests above can fail: they do, where the node's disk only says that it syncs.
#[test]
fn a_node_that_does_not_sync_is_noticed() {
    let is_noticed = |seed| std::panic::catch_unwind(|| run(seed, true)).is_err();
    assert!((0..200).any(is_noticed));
}

/// What the runs are made of: a simulation in which nothing happens proves nothing.
#[test]
fn a_run_has_of_everything() {
    let traces: Vec<Vec<String>> = (0..12).map(|seed| run(seed, false)).collect();
    for what in [
        "is told that",
        "has fetched",
        "the head is Some",
        "the node loses its power",
        "home 0 loses its power",
        "nothing came back",
        "breaks",
        "objects away",
    ] {
        let count = traces.iter().flatten().filter(|line| line.contains(what)).count();
        assert!(count > 1, "{what}: {count}");
        println!("{what}: {count}");
    }
}
