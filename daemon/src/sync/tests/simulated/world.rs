//! Homes, a node, and what happens to them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use baton_protocol::id::{DeviceId, SnapshotId};
use baton_protocol::message::{Opening, Request, decode};
use baton_protocol::object::Snapshot;
use baton_protocol::session::push::PushOutcome;
use baton_store::check::check;
use baton_store::fs::simulated::Dice;
use baton_store::objects::ObjectSource;
use baton_store::plan::plan_push;
use baton_store::snapshot::load_snapshot;
use baton_store::vault::{Collection, Roots, Step, Vault};

use super::machines::Machine;
use super::turns::{LinkNumber, TaskNumber, TurnEnd, Turns};
use crate::sync::tests::ends::wire;
use crate::sync::tests::{Files, hello, noise, put_directory, put_snapshot, snapshot_of};
use crate::sync::{Quota, SyncError, Wire, fetch, push};

const HOMES: usize = 3;

/// The home's side of a wire, and the node's.
const HOME: usize = 0;
const NODE: usize = 1;

/// What a session of a home has come to.
type Outcome = Arc<Mutex<Option<Result<Came, SyncError>>>>;

#[derive(Debug)]
enum Came {
    Pushed(PushOutcome),
    Fetched,
}

/// A push or a fetch under way.
#[derive(Debug)]
struct Session {
    home: usize,
    link: LinkNumber,
    tasks: [TaskNumber; 2],
    about: SnapshotId,
    is_push: bool,
    outcome: Outcome,
}

#[derive(Debug)]
struct Home {
    machine: Machine,
    device: DeviceId,
    files: Files,
    /// What it kept, and must have after any power cut.
    kept: Vec<SnapshotId>,
    newest: Option<(SnapshotId, u64)>,
    /// What it believes the node to have.
    base: Option<SnapshotId>,
}

pub(super) struct World {
    seed: u64,
    step: u64,
    dice: Dice,
    turns: Arc<Turns>,
    node: Machine,
    homes: Vec<Home>,
    sessions: Vec<Session>,
    /// What the node is taking away.
    collection: Option<Collection>,
    /// Every snapshot that was ever made.
    contents: BTreeMap<SnapshotId, Files>,
    /// What the node has answered, kept outside of everything that breaks.
    acked: BTreeMap<DeviceId, Vec<(SnapshotId, u64)>>,
    trace: Vec<String>,
}

impl World {
    pub(super) fn new(seed: u64, lies: bool) -> Self {
        let mut dice = Dice::new(seed);
        let homes = (0..HOMES)
            .map(|at| Home {
                machine: Machine::new(&mut dice, false),
                device: DeviceId::from_bytes([at as u8 + 1; 32]),
                files: Files::new(),
                kept: Vec::new(),
                newest: None,
                base: None,
            })
            .collect();
        let node = Machine::new(&mut dice, lies);
        Self {
            seed,
            step: 0,
            dice,
            turns: Arc::default(),
            node,
            homes,
            sessions: Vec::new(),
            collection: None,
            contents: BTreeMap::new(),
            acked: BTreeMap::new(),
            trace: Vec::new(),
        }
    }

    /// Runs it; returns what happened.
    pub(super) fn run(mut self, steps: u64) -> Vec<String> {
        for step in 0..steps {
            self.step = step;
            self.step();
        }
        self.end();
        self.trace
    }

    fn note(&mut self, what: String) {
        self.trace.push(what);
    }

    fn at(&self) -> String {
        let last = self.trace.iter().rev().take(12).rev().cloned().collect::<Vec<_>>().join("\n  ");
        format!("seed {} step {}:\n  {last}\n", self.seed, self.step)
    }

    fn step(&mut self) {
        match self.dice.roll(100) {
            // Some session goes on.
            0..=69 => self.go_on(),
            70..=79 => self.begin(),
            80..=84 => self.collect(),
            85..=86 if !self.sessions.is_empty() => {
                let at = self.dice.roll(self.sessions.len() as u64) as usize;
                self.note(format!("wire of {} breaks", self.sessions[at].home));
                self.turns.break_link(self.sessions[at].link);
            }
            89..=91 => self.node.doom(&mut self.dice),
            92..=94 => {
                let at = self.dice.roll(HOMES as u64) as usize;
                self.homes[at].machine.doom(&mut self.dice);
            }
            95 if self.sessions.is_empty() => {
                self.note("the node starts again".to_owned());
                self.collection = None;
                self.node.reopen();
                self.verify_node();
            }
            96 => drop(self.node.store().fold()),
            97 => self.node.store().fold_if_due(),
            _ => {
                let at = self.dice.roll(HOMES as u64) as usize;
                drop(self.homes[at].machine.store().fold());
            }
        }
        self.notice();
    }

    /// One of the sessions has bytes arriving, or a side of it works.
    fn go_on(&mut self) {
        let mut can = Vec::new();
        for (at, session) in self.sessions.iter().enumerate() {
            for side in [HOME, NODE] {
                if self.turns.flying_to(session.link, side) > 0 {
                    can.push((at, side, true));
                }
                if self.turns.is_ready(session.tasks[side], side) {
                    can.push((at, side, false));
                }
            }
        }
        if can.is_empty() {
            return;
        }
        let (at, side, is_delivery) = can[self.dice.roll(can.len() as u64) as usize];
        let session = &self.sessions[at];
        if is_delivery {
            let flying = self.turns.flying_to(session.link, side);
            let some = match self.dice.roll(3) {
                0 => 1 + self.dice.roll(flying as u64) as usize,
                _ => flying,
            };
            self.turns.deliver(session.link, side, some);
        } else {
            self.turns.give(session.tasks[side]);
        }
    }

    /// The node takes away what nothing leads to, such as pushes that were cut off; a step or a few.
    fn collect(&mut self) {
        let Some(collection) = &mut self.collection else {
            drop(self.node.store().fold());
            self.collection = self.node.vault().collect().unwrap();
            if let Some(collection) = &mut self.collection {
                collection.go_slowly(5);
            }
            return;
        };
        for _ in 0..=self.dice.roll(6) {
            match collection.needs() {
                Step::Roots => {
                    let acked = self.acked.values().flatten();
                    let some = acked.map(|&(snapshot, _)| snapshot.into()).collect();
                    collection.mark(&Roots { whole: Vec::new(), some }).unwrap();
                }
                Step::Goes => drop(collection.step().unwrap()),
                // Who uses what is to go may be long: the next one takes it.
                Step::Waits if self.dice.roll(20) > 0 => return,
                Step::Waits | Step::Done => {
                    let collected = collection.collected();
                    assert_eq!((&collected.damage[..], &collected.doubted[..]), (&[][..], &[][..]));
                    let objects = collected.objects;
                    self.collection = None;
                    return self.note(format!("the node has taken {objects} objects away"));
                }
            }
        }
    }

    /// A home that has nothing to do does something.
    fn begin(&mut self) {
        let at = self.dice.roll(HOMES as u64) as usize;
        if self.sessions.iter().any(|session| session.home == at) {
            return;
        }
        match self.dice.roll(10) {
            0..=2 => {
                let acked: Vec<SnapshotId> =
                    self.acked.values().flatten().map(|&(snapshot, _)| snapshot).collect();
                if !acked.is_empty() {
                    let about = acked[self.dice.roll(acked.len() as u64) as usize];
                    self.fetch(at, about);
                }
            }
            // Once more what was pushed already: an answer may have been lost.
            3 => {
                if let Some((newest, _)) = self.homes[at].newest {
                    self.push(at, newest);
                }
            }
            _ => {
                if let Some(new) = self.edit(at) {
                    self.push(at, new);
                }
            }
        }
    }

    /// Changes a few files of a home and keeps a snapshot of them; nothing where the power was cut meanwhile.
    fn edit(&mut self, at: usize) -> Option<SnapshotId> {
        let dice = &mut self.dice;
        let home = &mut self.homes[at];
        let is_large = dice.roll(12) == 0;
        for _ in 0..=dice.roll(4) {
            let path = format!("d{}/f{}", dice.roll(3), dice.roll(6));
            if dice.roll(5) == 0 {
                home.files.remove(&path);
            } else {
                // Few contents, so that homes have much in common; large ones pack well.
                let bytes = noise(dice.roll(30), 1 + dice.roll(1500) as usize);
                let times = if is_large { 1 + 250_000 / bytes.len() } else { 1 };
                home.files.insert(path, bytes.repeat(times));
            }
        }
        let sequence = home.newest.map_or(1, |(_, sequence)| sequence + 1);
        let parents: Vec<SnapshotId> = home.newest.iter().map(|&(newest, _)| newest).collect();
        let intake = home.machine.vault().intake();
        let files: Vec<_> =
            home.files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
        let (root, _) = put_directory(&intake, &files);
        let snapshot = Snapshot { parents, ..snapshot_of(root, home.device, sequence) };
        let new = put_snapshot(&intake, &snapshot);
        intake.keep(&[new.into()]).unwrap();
        self.contents.insert(new, home.files.clone());
        if home.machine.is_without_power() {
            return None;
        }
        home.newest = Some((new, sequence));
        home.kept.push(new);
        self.note(format!("home {at} makes {new} as {sequence}"));
        Some(new)
    }

    fn push(&mut self, at: usize, new: SnapshotId) {
        let base = self.homes[at].base;
        self.note(format!("home {at} pushes {new} on {base:?}"));
        let hello = hello(base, new);
        self.start(at, new, true, move |wire, vault| {
            let plan = plan_push(vault, hello.base, hello.new)?;
            push::send(wire, vault, hello, plan, |_, _| {})
                .map(|(outcome, _)| Came::Pushed(outcome))
        });
    }

    fn fetch(&mut self, at: usize, about: SnapshotId) {
        self.note(format!("home {at} fetches {about}"));
        self.start(at, about, false, move |wire, vault| {
            wire.send(&Opening::new(Request::Fetch))?;
            fetch::fetch(wire, vault, about, |_, _, _| {}).map(|_| Came::Fetched)
        });
    }

    /// Starts a session: a thread of the home, and one of the node.
    fn start(
        &mut self,
        at: usize,
        about: SnapshotId,
        is_push: bool,
        work: impl FnOnce(&mut Wire, &Vault) -> Result<Came, SyncError> + Send + 'static,
    ) {
        let (turns, link) = (Arc::clone(&self.turns), self.turns.link());
        let outcome = Outcome::default();
        let home = &self.homes[at];
        let (vault, disk) = (home.machine.vault(), Arc::clone(&home.machine.disk));
        let (ends, to) = (Arc::clone(&turns), Arc::clone(&outcome));
        let asking = turns.start(move |task| {
            let mut wire = wire(TurnEnd::new(&ends, task, (link, HOME), &disk));
            let came = work(&mut wire, &vault);
            *to.lock().unwrap() = Some(came);
        });
        let (vault, disk) = (self.node.vault(), Arc::clone(&self.node.disk));
        let (ends, device) = (Arc::clone(&turns), home.device);
        let answering = turns.start(move |task| {
            let mut wire = wire(TurnEnd::new(&ends, task, (link, NODE), &disk));
            let Ok(Some(frame)) = wire.read() else { return };
            let opening: Opening = decode(&frame.body).unwrap();
            let quota = Quota { keep_at: 20_000, ..Quota::default() };
            let answered = match opening.request {
                Request::Push(hello) => {
                    push::receive(&mut wire, &vault, device, &hello, quota).map(drop)
                }
                Request::Fetch => fetch::answer(&mut wire, &vault),
                other => panic!("{other:?}"),
            };
            match answered {
                Ok(()) | Err(SyncError::Transport(_)) => {}
                Err(error) => panic!("the node: {error}"),
            }
        });
        let tasks = [asking, answering];
        self.sessions.push(Session { home: at, link, tasks, about, is_push, outcome });
    }

    /// Looks at which machines have lost their power and which sessions are over.
    fn notice(&mut self) {
        if self.node.is_without_power() {
            self.note("the node loses its power".to_owned());
            while let Some(session) = self.sessions.pop() {
                self.finish(&session);
            }
            self.collection = None;
            self.node.restart(&mut self.dice);
            self.verify_node();
        }
        for at in 0..HOMES {
            if !self.homes[at].machine.is_without_power() {
                continue;
            }
            self.note(format!("home {at} loses its power"));
            if let Some(session) = self.sessions.iter().position(|session| session.home == at) {
                let session = self.sessions.remove(session);
                self.finish(&session);
            }
            let home = &mut self.homes[at];
            home.machine.restart(&mut self.dice);
            // It may not remember what the node has said last.
            if self.dice.roll(3) == 0 {
                home.base = None;
            }
            let vault = home.machine.vault();
            for kept in &home.kept {
                assert_eq!(read(&vault, *kept), self.contents[kept], "{}", self.at());
            }
        }
        for at in (0..self.sessions.len()).rev() {
            if self.sessions[at].tasks.iter().all(|&task| self.turns.is_done(task)) {
                let session = self.sessions.remove(at);
                self.finish(&session);
            }
        }
    }

    /// Ends a session, in the middle or at its end, and hears what has become of it.
    fn finish(&mut self, session: &Session) {
        self.turns.break_link(session.link);
        for task in session.tasks {
            while !self.turns.is_done(task) {
                self.turns.give(task);
            }
        }
        let came = session.outcome.lock().unwrap().take();
        let home = &mut self.homes[session.home];
        let about = session.about;
        let has_power = !home.machine.is_without_power();
        match came {
            Some(Ok(Came::Pushed(PushOutcome::Acked { snapshot, sequence }))) => {
                assert!(session.is_push && snapshot == about);
                self.acked.entry(home.device).or_default().push((snapshot, sequence));
                if has_power {
                    home.base = Some(snapshot);
                }
                self.note(format!("home {} is told that {snapshot} is there", session.home));
            }
            Some(Ok(Came::Pushed(PushOutcome::HeadMoved { head }))) => {
                if has_power {
                    home.base = head.map(|(head, _)| head);
                    if let Some((head, sequence)) = head
                        && home.newest.is_none_or(|(_, newest)| newest < sequence)
                    {
                        // It was put back to an older state: goes on after what the node has.
                        home.newest =
                            Some((home.newest.map_or(head, |(newest, _)| newest), sequence));
                    }
                }
                self.note(format!("home {} is told that the head is {head:?}", session.home));
            }
            Some(Ok(Came::Fetched)) => {
                if has_power {
                    assert_eq!(read(&home.machine.vault(), about), self.contents[&about]);
                    home.kept.push(about);
                }
                self.note(format!("home {} has fetched {about}", session.home));
            }
            Some(Err(SyncError::Transport(error))) => {
                self.note(format!("home {}: {error}", session.home));
            }
            // A sequence number that the node has seen already, of a home that was put back.
            Some(Err(error)) => panic!("{}home {}: {error:?}", self.at(), session.home),
            None => panic!("{}a session without an end", self.at()),
        }
    }

    /// What was acknowledged is at the node, whole, and no ref has gone back.
    fn verify_node(&self) {
        let vault = self.node.vault();
        for (device, acked) in &self.acked {
            let head = vault.head(crate::sync::tests::WORKSPACE, *device);
            let head = head.unwrap_or_else(|| panic!("{}the ref of {device} is gone", self.at()));
            let (last, sequence) = *acked.iter().max_by_key(|(_, sequence)| *sequence).unwrap();
            assert!(
                head.sequence > sequence || head.snapshot == last,
                "{}{head:?} instead of {last}, {sequence}",
                self.at()
            );
            assert!(self.contents.contains_key(&head.snapshot), "{}", self.at());
            for (snapshot, _) in acked.iter().chain([&(head.snapshot, head.sequence)]) {
                assert_eq!(read(&vault, *snapshot), self.contents[snapshot], "{}", self.at());
            }
        }
        let checked = check(self.node.store(), true, |_, _| {}).unwrap();
        assert_eq!(checked.problems, [], "{}", self.at());
    }

    /// Nothing breaks any more: without a hand every home brings its newest to the node.
    fn end(&mut self) {
        while let Some(session) = self.sessions.pop() {
            self.finish(&session);
        }
        self.notice();
        self.collection = None;
        self.node.disk.spare();
        self.homes.iter().for_each(|home| home.machine.disk.spare());
        for at in 0..HOMES {
            for attempt in 0.. {
                // Where the head was elsewhere, and once more.
                assert!(attempt < 3, "{}home {at} does not get through", self.at());
                let Some(new) = self.edit(at) else { panic!("{}no power", self.at()) };
                self.push(at, new);
                while !self.sessions.is_empty() {
                    self.go_on();
                    self.notice();
                }
                let acked = self.acked.get(&self.homes[at].device);
                if acked.is_some_and(|acked| acked.iter().any(|(snapshot, _)| *snapshot == new)) {
                    break;
                }
            }
        }
        self.verify_node();
    }
}

/// The files of a snapshot, read back.
fn read(vault: &Vault, snapshot: SnapshotId) -> Files {
    fn below(vault: &Vault, id: baton_protocol::id::TreeId, at: &str, files: &mut Files) {
        use baton_protocol::object::{EntryKind, Tree};
        match Tree::decode(&vault.require(&id.into()).unwrap()).unwrap() {
            Tree::Leaf(entries) => {
                for entry in entries {
                    let path = format!("{at}{}", String::from_utf8(entry.name).unwrap());
                    match entry.kind {
                        EntryKind::Directory { tree, .. } => {
                            below(vault, tree, &format!("{path}/"), files);
                        }
                        EntryKind::File { blob, .. } => {
                            let mut bytes = Vec::new();
                            baton_store::chunk::for_each_piece(vault, blob, |piece| {
                                bytes.extend_from_slice(piece);
                                Ok::<_, baton_store::error::StoreError>(())
                            })
                            .unwrap();
                            files.insert(path, bytes);
                        }
                        EntryKind::Symlink { .. } => panic!("nobody makes links here"),
                    }
                }
            }
            Tree::Node { children, .. } => {
                for child in children {
                    below(vault, child.id, at, files);
                }
            }
        }
    }
    let root = load_snapshot(vault, snapshot).unwrap().root;
    let mut files = Files::new();
    below(vault, root, "", &mut files);
    files
}
