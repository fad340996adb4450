//! Which directories are watched: the tree and the kernel, kept in step.
//!
//! Not here: what events mean.
//!
//! - A directory that is watched stands below watched ones only, so that its path cannot change
//!   without an event. What is below a swept one is swept.
//! - When all watches are given out, a directory in which something happens takes that of one in which
//!   nothing did for a while and which has no watched ones below.
//!
//! **Invariant:** an event of a descriptor is understood until the kernel said that there will be no
//! more: by the tree, or as one of a directory that was let go.
//!
//! **Invariant:** what a path and what a descriptor lead to is compared by the kernel itself: a watch
//! on a directory that has one already returns the same descriptor.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use baton_store::scan::dirty::{Dirty, MAX_DIRECTORIES};
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, WatchFlags};
use rustix::io::Errno;

use super::super::root::Root;
use super::chain::{Chain, path_of};
use super::limits;
use super::tree::{Listed, Node, NodeId, Tree};

/// What is watched of a directory. Not opening and reading: looking would be news. What moves or
/// deletes the directory itself is told by the one above it.
const ALL: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::EXCL_UNLINK)
    .union(WatchFlags::ONLYDIR);

/// Nothing is above the root.
const SELF: WatchFlags = WatchFlags::DELETE_SELF.union(WatchFlags::MOVE_SELF);

/// Writes to the files of a directory, in one drain, above which it is hot.
const HOT_WRITES: u16 = 256;

/// Drains without an event after which a hot directory is watched for each write again.
const COOL_DRAINS: u32 = 8;

/// Drains without an event after which a directory may lose its watch to another.
const COLD_DRAINS: u32 = 16;

/// Nodes that one search for a cold directory looks at.
const SEARCH: u32 = 1024;

/// What became of a directory that was to be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Armed {
    /// It has been all along.
    Still(NodeId),
    New(NodeId),
    /// There is none, or none that we may read.
    Gone,
    /// The kernel has no more watches.
    Full,
}

/// The known directories, and their watches.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) tree: Tree,
    events: Arc<OwnedFd>,
    /// Descriptors that were given back, and whose last event is still to be read.
    dismissed: HashSet<i32>,
    swept: BTreeSet<NodeId>,
    hot: BTreeSet<NodeId>,
    /// Newly watched, to be listed once more.
    fresh: BTreeSet<NodeId>,
    /// Directories that had writes in this drain.
    written: Vec<NodeId>,
    count: u64,
    cap: u64,
    /// Counts drains.
    tick: u32,
    /// Where the search for a cold directory goes on, and the drain in which it found none.
    hand: u32,
    all_warm: Option<u32>,
}

impl Watched {
    pub(super) fn new(events: Arc<OwnedFd>, cap: u64) -> Self {
        Self {
            tree: Tree::new(),
            events,
            dismissed: HashSet::new(),
            swept: BTreeSet::new(),
            hot: BTreeSet::new(),
            fresh: BTreeSet::new(),
            written: Vec::new(),
            count: 0,
            cap,
            tick: 0,
            hand: 0,
            all_warm: None,
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn swept(&self) -> u64 {
        self.swept.len() as u64
    }

    pub(super) fn hot(&self) -> u64 {
        self.hot.len() as u64
    }

    pub(super) fn is_dismissed(&self, wd: i32) -> bool {
        self.dismissed.contains(&wd)
    }

    /// The queue was read to its end: nothing of what was given back before is to come.
    pub(super) fn queue_ended(&mut self) {
        self.dismissed.clear();
    }

    /// Adds a directory, and those above it that turn out to be others than known, to `added`.
    pub(super) fn add(
        &mut self,
        chain: &mut Chain<'_>,
        path: &[u8],
        added: &mut Vec<Vec<u8>>,
    ) -> Result<(), Errno> {
        if self.tree.find(path).and_then(|id| self.tree.get(id)).is_some_and(is_settled) {
            return Ok(());
        }
        let names: Vec<_> = path.split(|&byte| byte == b'/').collect();
        if path.is_empty() {
            if self.arm_root(chain)? {
                added.push(Vec::new());
            }
            return Ok(());
        }
        if names.iter().any(|name| matches!(*name, b"" | b"." | b"..") || name.contains(&0)) {
            return Ok(());
        }
        if !self.add_named(chain, path, &names, added)? {
            // From the root every way is open.
            self.add_named(chain, path, &names, added)?;
        }
        Ok(())
    }

    /// As [`Watched::add`]; false where the way was closed, and has to start at the root.
    fn add_named(
        &mut self,
        chain: &mut Chain<'_>,
        path: &[u8],
        names: &[&[u8]],
        added: &mut Vec<Vec<u8>>,
    ) -> Result<bool, Errno> {
        let mut above = NodeId::ROOT;
        let mut end = 0;
        for (level, name) in names.iter().enumerate() {
            end += name.len() + usize::from(level > 0);
            let is_last = level + 1 == names.len();
            let known = self.tree.child(above, name);
            if !is_last && known.is_none() {
                return Ok(true);
            }
            if !self.is_watched(above) {
                // Only swept from here on; what is gone is found so by who lists the one above.
                let Some(id) = known.or_else(|| is_last.then(|| self.tree.insert(above, name)))
                else {
                    return Ok(true);
                };
                if is_last && self.sweep(id) {
                    added.push(path.to_vec());
                }
                above = id;
                continue;
            }
            if !is_last && known.is_some_and(|id| chain.passes(level, id)) {
                above = known.unwrap_or(above);
                continue;
            }
            let has_watch = known.is_some_and(|id| self.is_watched(id));
            if !has_watch && !is_last {
                above = known.unwrap_or(above);
                continue;
            }
            if !chain.up_to(level) {
                return Ok(false);
            }
            let armed = if has_watch || self.has_room(above) {
                self.arm(chain, above, name)?
            } else {
                Armed::Full
            };
            match armed {
                Armed::Still(id) => above = id,
                Armed::New(id) => {
                    added.push(path.get(..end).unwrap_or(path).to_vec());
                    above = id;
                }
                Armed::Gone => {
                    if let Some(known) = known {
                        self.forget(known);
                    }
                    return Ok(true);
                }
                Armed::Full => {
                    // Another stands there than the one that was watched.
                    if has_watch && let Some(known) = known {
                        self.forget(known);
                    }
                    let known = self.tree.child(above, name);
                    let id = known.unwrap_or_else(|| self.tree.insert(above, name));
                    if self.sweep(id) {
                        added.push(path.to_vec());
                    }
                    return Ok(true);
                }
            }
        }
        Ok(true)
    }

    /// Watches a swept directory, and what has to be watched above it, if that can be had.
    pub(super) fn prefer(&mut self, chain: &mut Chain<'_>, path: &[u8]) -> Result<(), Errno> {
        let Some(mut id) = self.tree.find(path) else { return Ok(()) };
        let mut way = Vec::new();
        while id != NodeId::ROOT {
            way.push((id, self.tree.name(id).to_vec()));
            let Some(parent) = self.tree.parent(id) else { return Ok(()) };
            id = parent;
        }
        let mut above = NodeId::ROOT;
        for (id, name) in way.into_iter().rev() {
            let is_new = !self.is_watched(id);
            if is_new && !self.has_room(above) {
                return Ok(());
            }
            match self.arm(chain, above, &name)? {
                Armed::Still(id) => above = id,
                Armed::New(id) => {
                    self.fresh.insert(id);
                    above = id;
                }
                Armed::Gone | Armed::Full => return Ok(()),
            }
        }
        Ok(())
    }

    fn is_watched(&self, id: NodeId) -> bool {
        self.tree.get(id).is_some_and(Node::is_watched)
    }

    fn arm_root(&mut self, chain: &mut Chain<'_>) -> Result<bool, Errno> {
        chain.up_to(0);
        let wd = inotify::add_watch(&*self.events, path_of(chain.here()), ALL | SELF)?;
        let new = self.tree.get(NodeId::ROOT).is_none_or(|root| root.wd() != wd);
        if new {
            self.release(NodeId::ROOT);
            self.bind(NodeId::ROOT, wd);
        }
        self.settle(NodeId::ROOT);
        Ok(new)
    }

    /// Watches the directory of this name, in the one that the chain leads to, and goes there.
    fn arm(&mut self, chain: &mut Chain<'_>, above: NodeId, name: &[u8]) -> Result<Armed, Errno> {
        let Some(directory) = chain.open(name)? else { return Ok(Armed::Gone) };
        let wd = match inotify::add_watch(&*self.events, path_of(&directory), ALL) {
            Ok(wd) => wd,
            Err(Errno::NOSPC) => {
                self.cap = self.count;
                return Ok(Armed::Full);
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(Armed::Gone),
            Err(errno) => return Err(errno),
        };
        let armed = self.place(above, name, wd);
        if let Armed::Still(id) | Armed::New(id) = armed {
            self.settle(id);
            chain.down(id, directory);
        }
        Ok(armed)
    }

    /// Finds the place of a descriptor that the kernel returned for this name.
    fn place(&mut self, above: NodeId, name: &[u8], wd: i32) -> Armed {
        let known = self.tree.child(above, name);
        match self.tree.by_descriptor(wd) {
            Some(owner) if Some(owner) == known && self.is_watched(owner) => Armed::Still(owner),
            // It was renamed, and the events that say so are still to be read, or were lost.
            Some(owner) if self.is_watched(owner) => {
                if self.tree.is_within(above, owner) {
                    return Armed::Gone;
                }
                self.tree.detach(owner);
                if let Some(known) = known {
                    self.forget(known);
                }
                self.tree.attach(owner, above, name);
                Armed::New(owner)
            }
            owner => {
                if let Some(owner) = owner {
                    self.tree.unbind(owner);
                }
                let id = match known {
                    Some(known) if !self.is_watched(known) => known,
                    // Another directory than before, and so is all below it.
                    Some(known) => {
                        self.forget(known);
                        self.tree.insert(above, name)
                    }
                    None => self.tree.insert(above, name),
                };
                self.bind(id, wd);
                Armed::New(id)
            }
        }
    }

    /// A directory was watched with all that there is, by what its path leads to.
    fn settle(&mut self, id: NodeId) {
        let tick = self.tick;
        let Some(node) = self.tree.get_mut(id) else { return };
        node.verified = true;
        node.tick = tick;
        if node.listed == Listed::Swept {
            node.listed = Listed::No;
            self.swept.remove(&id);
        }
        self.settle_mask(id);
    }

    fn bind(&mut self, id: NodeId, wd: i32) {
        let before = self.tree.unbind(id);
        if before != 0 {
            self.dismissed.insert(before);
        }
        self.tree.bind(id, wd);
        self.tree.set_watched(id, true);
        self.count += 1;
        limits::hold(1);
    }

    /// Gives the watch of a directory back, for good.
    fn release(&mut self, id: NodeId) {
        let was_watched = self.is_watched(id);
        self.tree.set_watched(id, false);
        let wd = self.tree.unbind(id);
        self.dismiss(wd, was_watched);
    }

    fn dismiss(&mut self, wd: i32, was_watched: bool) {
        if wd != 0 {
            // It is no error that the kernel was faster.
            let _gone = inotify::remove_watch(&*self.events, wd);
            self.dismissed.insert(wd);
        }
        if was_watched {
            self.count -= 1;
            limits::release(1);
        }
    }

    /// Keeps a directory without a watch; whether it was not known before.
    fn sweep(&mut self, id: NodeId) -> bool {
        if let Some(node) = self.tree.get_mut(id) {
            node.listed = Listed::Swept;
            node.verified = true;
        }
        self.swept.insert(id)
    }

    /// Lets go of a directory and of all below it.
    pub(super) fn forget(&mut self, id: NodeId) {
        if id == NodeId::ROOT {
            self.release(id);
        }
        for (id, node) in self.tree.take(id) {
            self.dismiss(node.wd(), node.is_watched());
            for set in [&mut self.swept, &mut self.hot, &mut self.fresh] {
                set.remove(&id);
            }
        }
    }

    /// Whether one more directory can be watched, after another lost its watch if it has to.
    fn has_room(&mut self, above: NodeId) -> bool {
        self.count < self.cap || self.take_from_a_cold_one(above)
    }

    fn take_from_a_cold_one(&mut self, above: NodeId) -> bool {
        if self.all_warm == Some(self.tick) {
            return false;
        }
        let places = self.tree.places();
        for _ in 0..places.min(SEARCH) {
            self.hand = (self.hand + 1) % places;
            let Some((id, node)) = self.tree.at(self.hand) else { continue };
            let is_cold = self.tick.wrapping_sub(node.tick) >= COLD_DRAINS
                && node.is_watched()
                && !node.has_watched_children()
                && node.listed != Listed::Hot;
            if !is_cold || id == above || id == NodeId::ROOT {
                continue;
            }
            // Its descriptor stays known: it may have events in the queue.
            let _gone = inotify::remove_watch(&*self.events, node.wd());
            self.tree.set_watched(id, false);
            self.count -= 1;
            limits::release(1);
            self.sweep(id);
            return true;
        }
        self.all_warm = Some(self.tick);
        false
    }

    /// The kernel has nothing more to say of a descriptor. False if that was not to be expected.
    pub(super) fn ended(&mut self, id: NodeId) -> bool {
        let was_expected = !self.is_watched(id);
        if was_expected {
            self.tree.unbind(id);
        }
        was_expected
    }

    /// A drain begins.
    pub(super) fn begin(&mut self) {
        self.tick = self.tick.wrapping_add(1);
        for id in self.written.drain(..) {
            if let Some(node) = self.tree.get_mut(id) {
                node.writes = 0;
            }
        }
    }

    /// Something happened in a directory.
    pub(super) fn warm(&mut self, id: NodeId) {
        let tick = self.tick;
        if let Some(node) = self.tree.get_mut(id) {
            node.tick = tick;
        }
    }

    /// A file of a directory was written to.
    pub(super) fn written(&mut self, root: &Root, id: NodeId) -> Result<(), Errno> {
        let Some(node) = self.tree.get_mut(id) else { return Ok(()) };
        if node.writes == 0 {
            self.written.push(id);
        }
        node.writes = node.writes.saturating_add(1);
        if node.writes <= HOT_WRITES || node.listed == Listed::Hot {
            return Ok(());
        }
        node.writes = 1;
        if self.rearm(root, id, ALL.difference(WatchFlags::MODIFY))? {
            if let Some(node) = self.tree.get_mut(id) {
                node.listed = Listed::Hot;
            }
            self.hot.insert(id);
        }
        Ok(())
    }

    /// Changes what a directory is watched for; false if it is not where it was.
    fn rearm(&mut self, root: &Root, id: NodeId, mask: WatchFlags) -> Result<bool, Errno> {
        let mut path = Vec::new();
        if self.tree.path(id, &mut path).is_err() {
            return Ok(false);
        }
        let Ok(root) = root.directory() else { return Ok(false) };
        let mut chain = Chain::new(&root);
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let Some(directory) = chain.open(name)? else { return Ok(false) };
            chain.down(id, directory);
        }
        let of_root = if id == NodeId::ROOT { SELF } else { WatchFlags::empty() };
        let path = path_of(chain.here());
        let wd = match inotify::add_watch(&*self.events, &path, mask | of_root) {
            Ok(wd) => wd,
            Err(Errno::NOSPC | Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        if self.tree.get(id).is_some_and(|node| node.wd() == wd) {
            return Ok(true);
        }
        // Another directory stands there by now; it gets back what it had.
        match self.tree.by_descriptor(wd).filter(|&other| self.is_watched(other)) {
            Some(other) => {
                inotify::add_watch(&*self.events, &path, ALL)?;
                self.settle_mask(other);
            }
            None => self.dismiss(wd, false),
        }
        Ok(false)
    }

    /// A directory is watched for everything again, wherever it stands.
    fn settle_mask(&mut self, id: NodeId) {
        if let Some(node) = self.tree.get_mut(id)
            && node.listed == Listed::Hot
        {
            node.listed = Listed::No;
            self.hot.remove(&id);
            self.fresh.insert(id);
        }
    }

    /// Marks what is not watched for each change, at the end of a drain.
    pub(super) fn finish(&mut self, root: &Root, dirty: &mut Dirty) -> Result<(), Errno> {
        if self.hot.is_empty() && self.swept.is_empty() && self.fresh.is_empty() {
            return Ok(());
        }
        let cooled: Vec<_> = self.hot.iter().copied().filter(|&id| self.is_cool(id)).collect();
        for id in cooled {
            // First the watch, then the last listing: nothing falls between.
            if self.rearm(root, id, ALL)? {
                self.settle_mask(id);
            }
        }
        if self.swept.len() > MAX_DIRECTORIES {
            dirty.set_everything();
        }
        let mut path = Vec::new();
        for id in self.swept.iter().chain(&self.hot).chain(&self.fresh) {
            if dirty.is_everything() {
                break;
            }
            if self.tree.path(*id, &mut path).is_ok() {
                dirty.list(&path);
            }
        }
        self.fresh.clear();
        Ok(())
    }

    fn is_cool(&self, id: NodeId) -> bool {
        let tick = self.tree.get(id).map_or(0, |node| node.tick);
        self.tick.wrapping_sub(tick) >= COOL_DRAINS
    }

    /// Events were lost: no directory is known to stand where it did until it is added again. What was
    /// not since the last time is gone.
    pub(super) fn distrust(&mut self) {
        let stale = self.tree.each_mut().filter(|(id, node)| !node.verified && *id != NodeId::ROOT);
        let stale: Vec<_> = stale.map(|(id, _)| id).collect();
        for id in stale {
            self.forget(id);
        }
        for (_, node) in self.tree.each_mut() {
            node.verified = false;
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        limits::release(self.count);
    }
}

/// Whether nothing has to be done to watch a directory.
fn is_settled(node: &Node) -> bool {
    node.verified && (node.is_watched() || node.listed == Listed::Swept)
}
