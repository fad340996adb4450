//! The algorithm without disks, searched to the end: every order in which the steps of a collection, those of who writes,
//! and a power cut can come.
//!
//! Five objects: a chunk, a tree that has it, and three snapshots of that tree. One of them a history names, or not any more; the
//! others are committed by writers. What is deterministic of a step is one transition; what SQLite may lose in a power cut is
//! the tail of its transactions.

use std::collections::{BTreeSet, HashSet};

/// The chunk and the tree; the rest are snapshots.
const X: usize = 0;
const T: usize = 1;
/// Named by somebody outside of the vault.
const A: usize = 2;
/// Committed by the two writers.
const OWN: [usize; 2] = [3, 4];
const OBJECTS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Row {
    Gone,
    Open,
    Closed,
    Condemned,
}

type Rows = [Row; OBJECTS];

fn children(id: usize) -> &'static [usize] {
    match id {
        X => &[],
        T => &[X],
        _ => &[T],
    }
}

/// A row that is there again: chunks are whole by themselves.
fn back(id: usize) -> Row {
    if id == X { Row::Closed } else { Row::Open }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Does {
    Idle,
    PutX,
    PutT,
    /// Looks at the snapshot that it names; a writer has its own.
    WalkS,
    WalkT,
    WalkX,
    Commit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a bit of a state")]
struct Actor {
    does: Does,
    /// Times that it may still begin.
    left: u8,
    /// Its lease is from before the last condemnation.
    is_old: bool,
    /// Something was condemned since it began to walk.
    is_stale: bool,
    /// It has walked through the tree, which is whole then.
    closes: bool,
    /// It was told that all is here, or has brought it.
    relies: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    Mark,
    Unclose(usize),
    Condemn(usize),
    Wait,
    MarkAgain,
    Delete(usize),
    Sync,
    Remove,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    rows: Rows,
    bytes: [bool; OBJECTS],
    /// What rows may be after a power cut.
    undone: BTreeSet<Rows>,
    refs: [bool; 2],
    is_named: bool,
    /// Times that a root may still go.
    goes: u8,
    actors: [Actor; 3],
    phase: Phase,
    cycles: u8,
    crashes: u8,
    /// No power cut so far.
    is_powered: bool,
    marks: [bool; OBJECTS],
    listed: [bool; OBJECTS],
    since: [bool; OBJECTS],
}

/// What is left out of the algorithm, so that the search has to find something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    Leases,
    WalkingAgain,
    MarkingAgain,
    Unclosing,
    Since,
    SyncBeforeBytes,
}

struct Search {
    without: Without,
    /// In which order rows are gone through.
    order: [usize; OBJECTS],
}

impl World {
    fn new(crashes: u8, writers: u8, namers: u8) -> Self {
        let actor = |left| Actor {
            does: Does::Idle,
            left,
            is_old: false,
            is_stale: false,
            closes: false,
            relies: false,
        };
        let mut rows = [Row::Closed; OBJECTS];
        rows[OWN[0]] = Row::Gone;
        rows[OWN[1]] = Row::Gone;
        Self {
            rows,
            bytes: rows.map(|row| row != Row::Gone),
            undone: BTreeSet::new(),
            refs: [false; 2],
            is_named: true,
            goes: 2,
            actors: [actor(u8::from(writers > 0)), actor(u8::from(writers > 1)), actor(namers)],
            phase: Phase::Idle,
            cycles: 2,
            crashes,
            is_powered: true,
            marks: [false; OBJECTS],
            listed: [false; OBJECTS],
            since: [false; OBJECTS],
        }
    }

    fn set(&mut self, id: usize, row: Row) {
        if self.rows[id] != row {
            if self.crashes > 0 {
                self.undone.insert(self.rows);
            }
            self.rows[id] = row;
        }
    }

    fn reach(&mut self, id: usize) {
        if self.rows[id] != Row::Gone && !std::mem::replace(&mut self.marks[id], true) {
            for &child in children(id) {
                self.reach(child);
            }
        }
    }

    fn roots(&self) -> Vec<usize> {
        let refs = OWN.into_iter().zip(self.refs).filter(|(_, is_on)| *is_on).map(|(id, _)| id);
        refs.chain(self.is_named.then_some(A)).collect()
    }

    /// What an actor relies on from now on; whether it is here.
    fn take(&mut self, id: usize) -> bool {
        if self.rows[id] == Row::Condemned {
            self.set(id, back(id));
        }
        self.rows[id] != Row::Gone
    }

    fn put(&mut self, id: usize) {
        if !self.take(id) {
            self.bytes[id] = true;
            self.set(id, back(id));
        }
    }

    fn check(&self) -> Result<(), String> {
        let mut open = self.roots();
        while let Some(id) = open.pop() {
            if self.rows[id] == Row::Gone || !self.bytes[id] {
                return Err(format!("{id} is gone below a root"));
            }
            open.extend(children(id));
        }
        // What a power cut brings back to be condemned is taken back by the mark before anything is deleted.
        let mut open: Vec<_> = OWN.into_iter().filter(|&id| self.refs[id - OWN[0]]).collect();
        while let Some(id) = open.pop().filter(|_| self.is_powered) {
            if self.rows[id] == Row::Condemned {
                return Err(format!("{id} is condemned below a ref"));
            }
            open.extend(children(id));
        }
        for id in 0..OBJECTS {
            let is_gone = |&child: &usize| self.rows[child] == Row::Gone;
            if self.rows[id] == Row::Closed && children(id).iter().any(is_gone) {
                return Err(format!("{id} is said to be whole"));
            }
            if self.rows[id] != Row::Gone && !self.bytes[id] {
                return Err(format!("{id} has a row and no bytes"));
            }
        }
        Ok(())
    }
}

impl Search {
    /// All that can happen next.
    fn next(&self, world: &World) -> Result<Vec<World>, String> {
        let mut all = Vec::new();
        self.collect(world, &mut all);
        for at in 0..world.actors.len() {
            self.act(world, at, &mut all)?;
        }
        if world.goes > 0 {
            for at in 0..2 {
                if world.refs[at] {
                    let mut next = world.clone();
                    (next.refs[at], next.goes) = (false, world.goes - 1);
                    all.push(next);
                }
            }
            if world.is_named {
                let mut next = world.clone();
                (next.is_named, next.goes) = (false, world.goes - 1);
                all.push(next);
            }
        }
        if world.crashes > 0 {
            self.crash(world, &mut all);
        }
        Ok(all)
    }

    fn act(&self, world: &World, at: usize, all: &mut Vec<World>) -> Result<(), String> {
        let mut next = world.clone();
        let is_writer = at < 2;
        let actor = world.actors[at];
        let then = |next: &mut World, does| next.actors[at].does = does;
        match actor.does {
            Does::Idle if actor.left == 0 => return Ok(()),
            Does::Idle => {
                next.actors[at] = Actor { left: actor.left - 1, is_old: false, ..actor };
                let walk = if is_writer { Does::PutX } else { Does::WalkS };
                next.actors[at].is_stale = false;
                then(&mut next, walk);
                if is_writer {
                    // Or it knows the tree from before, and brings nothing of it.
                    let mut lazy = next.clone();
                    lazy.actors[at].does = Does::PutT;
                    all.push(lazy);
                    next.actors[at].relies = true;
                }
            }
            Does::PutX => {
                next.put(X);
                then(&mut next, Does::PutT);
            }
            Does::PutT => {
                next.put(T);
                next.actors[at].is_stale = false;
                next.actors[at].closes = false;
                then(&mut next, Does::WalkT);
                // Or it gives up.
                let mut ended = world.clone();
                self.end(&mut ended, at);
                all.push(ended);
            }
            Does::WalkS => match world.rows[A] {
                Row::Gone => self.end(&mut next, at),
                Row::Closed => then(&mut next, Does::Commit),
                Row::Open | Row::Condemned => {
                    next.take(A);
                    then(&mut next, Does::WalkT);
                }
            },
            Does::WalkT if world.rows[T] == Row::Closed => then(&mut next, Does::Commit),
            Does::WalkT | Does::WalkX => {
                let id = if actor.does == Does::WalkT { T } else { X };
                if next.take(id) {
                    next.actors[at].closes = id == X;
                    then(&mut next, if id == T { Does::WalkX } else { Does::Commit });
                } else if !is_writer {
                    self.end(&mut next, at);
                } else if actor.relies {
                    return Err(format!("{id} was here for a writer, and is missing"));
                } else {
                    // It is told, and brings all of it.
                    next.actors[at].relies = true;
                    then(&mut next, Does::PutX);
                }
            }
            Does::Commit if !is_writer => {
                next.is_named = true;
                self.end(&mut next, at);
            }
            Does::Commit => {
                if actor.is_stale && self.without != Without::WalkingAgain {
                    next.actors[at].is_stale = false;
                    next.actors[at].closes = false;
                    then(&mut next, Does::WalkT);
                } else {
                    let own = OWN[at];
                    next.bytes[own] = true;
                    next.set(own, Row::Closed);
                    if actor.closes {
                        next.set(T, Row::Closed);
                    }
                    next.refs[at] = true;
                    if world.phase != Phase::Idle && self.without != Without::Since {
                        next.since[own] = true;
                    }
                    self.end(&mut next, at);
                }
            }
        }
        all.push(next);
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "a step like the others")]
    fn end(&self, world: &mut World, at: usize) {
        let left = world.actors[at].left;
        world.actors[at] = Actor {
            does: Does::Idle,
            left,
            is_old: false,
            is_stale: false,
            closes: false,
            relies: false,
        };
    }

    fn collect(&self, world: &World, all: &mut Vec<World>) {
        let mut next = world.clone();
        if !matches!(world.phase, Phase::Idle | Phase::Wait) {
            for id in 0..OBJECTS {
                if std::mem::take(&mut next.since[id]) {
                    next.reach(id);
                }
            }
        }
        let row = |at: usize| (self.order[at], world.rows[self.order[at]]);
        let after = |at: usize, this: fn(usize) -> Phase, then: Phase| {
            if at + 1 < OBJECTS { this(at + 1) } else { then }
        };
        next.phase = match world.phase {
            Phase::Idle if world.cycles == 0 => return,
            Phase::Idle => {
                next.cycles -= 1;
                next.marks = [false; OBJECTS];
                next.since = [false; OBJECTS];
                next.listed = world.rows.map(|row| row != Row::Gone);
                Phase::Mark
            }
            Phase::Mark | Phase::MarkAgain => {
                if world.phase == Phase::Mark || self.without != Without::MarkingAgain {
                    world.roots().into_iter().for_each(|id| next.reach(id));
                }
                match world.phase {
                    Phase::Mark if self.without == Without::Unclosing => Phase::Condemn(0),
                    Phase::Mark => Phase::Unclose(0),
                    _ => Phase::Delete(0),
                }
            }
            Phase::Unclose(at) => {
                let (id, row) = row(at);
                if id != X && row == Row::Closed && !next.marks[id] {
                    next.set(id, Row::Open);
                }
                after(at, Phase::Unclose, Phase::Condemn(0))
            }
            Phase::Condemn(at) => {
                let (id, row) = row(at);
                if next.listed[id] && !next.marks[id] && matches!(row, Row::Open | Row::Closed) {
                    next.set(id, Row::Condemned);
                    next.actors.iter_mut().for_each(|actor| actor.is_stale = true);
                }
                let then = Phase::Wait;
                if at + 1 == OBJECTS {
                    for actor in &mut next.actors {
                        actor.is_old = actor.does != Does::Idle;
                    }
                }
                after(at, Phase::Condemn, then)
            }
            Phase::Wait => {
                let is_old = world.actors.iter().any(|actor| actor.is_old);
                if is_old && self.without != Without::Leases {
                    return;
                }
                Phase::MarkAgain
            }
            Phase::Delete(at) => {
                let (id, row) = row(at);
                if row == Row::Condemned {
                    let to = if next.marks[id] { back(id) } else { Row::Gone };
                    next.set(id, to);
                }
                after(at, Phase::Delete, Phase::Sync)
            }
            Phase::Sync => {
                if self.without != Without::SyncBeforeBytes {
                    next.undone.clear();
                }
                Phase::Remove
            }
            Phase::Remove => {
                next.bytes = world.rows.map(|row| row != Row::Gone);
                Phase::Idle
            }
        };
        all.push(next);
    }

    /// The power goes: memory is lost, and a part of what the index has noted last.
    fn crash(&self, world: &World, all: &mut Vec<World>) {
        for rows in world.undone.iter().chain([&world.rows]) {
            let mut next = world.clone();
            next.crashes -= 1;
            next.is_powered = false;
            next.undone.clear();
            next.phase = Phase::Idle;
            next.since = [false; OBJECTS];
            next.rows = *rows;
            for at in 0..world.actors.len() {
                self.end(&mut next, at);
            }
            for id in 0..OBJECTS {
                // Records that had rows are found again; so are those of the journal.
                if next.rows[id] == Row::Gone && world.rows[id] != Row::Gone {
                    next.rows[id] = back(id);
                }
            }
            for (id, is_on) in OWN.into_iter().zip(world.refs) {
                // The journal has it, with the proof of its walk.
                if is_on {
                    next.rows[id] = Row::Closed;
                }
            }
            // An index that is made anew lists every record that is there, and believes nothing.
            let mut anew = next.clone();
            for id in 0..OBJECTS {
                anew.rows[id] = if anew.bytes[id] { back(id) } else { Row::Gone };
            }
            all.extend([next, anew]);
        }
    }

    /// How many worlds there are; or what is wrong in one.
    fn run(&self, start: World) -> Result<usize, String> {
        let mut seen = HashSet::new();
        let mut open = vec![start];
        while let Some(world) = open.pop() {
            if !seen.insert(world.clone()) {
                continue;
            }
            world.check().map_err(|what| format!("{what}: {world:?}"))?;
            open.extend(self.next(&world)?);
        }
        Ok(seen.len())
    }
}

/// Power cuts, writers, and others who name what they found whole.
const STARTS: [(u8, u8, u8); 5] = [(0, 2, 0), (0, 1, 1), (1, 1, 0), (1, 0, 1), (1, 1, 1)];

/// Two million more, for the night.
const MORE: [(u8, u8, u8); 2] = [(0, 2, 1), (1, 2, 0)];

const ORDERS: [[usize; OBJECTS]; 2] = [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]];

#[test]
fn in_no_order_of_steps_is_anything_lost() {
    #[expect(clippy::disallowed_methods, reason = "how much is for whoever runs the tests")]
    let is_night = std::env::var_os("BATON_SEEDS").is_some();
    for order in ORDERS {
        let search = Search { without: Without::Nothing, order };
        let more = MORE.iter().filter(|_| is_night);
        for &(crashes, writers, namers) in STARTS.iter().chain(more) {
            let worlds = search.run(World::new(crashes, writers, namers)).unwrap();
            println!(
                "{order:?}, {crashes} power cuts, {writers} writers, {namers} others: {worlds}"
            );
            assert!(worlds > 1000);
        }
    }
}

#[test]
fn each_part_of_the_algorithm_is_needed() {
    for without in [
        Without::Leases,
        Without::WalkingAgain,
        Without::MarkingAgain,
        Without::Unclosing,
        Without::Since,
        Without::SyncBeforeBytes,
    ] {
        let found = ORDERS.into_iter().any(|order| {
            let search = Search { without, order };
            STARTS.into_iter().any(|(crashes, writers, namers)| {
                search.run(World::new(crashes, writers, namers)).is_err()
            })
        });
        assert!(found, "nothing goes wrong without {without:?}");
    }
}
