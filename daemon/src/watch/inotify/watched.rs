//! Which directories are watched: the tree and the kernel, kept in step.
//!
//! Not here: what events mean; and, in [`listed`], what is listed because not each change is told.
//!
//! **Invariant:** a directory that is watched stands below watched ones only, so that its path cannot
//! change without an event. What is below a swept one is swept.
//!
//! **Invariant:** an event of a descriptor is understood until the kernel said that there will be no
//! more: by the tree, or as one of a directory that was let go.
//!
//! **Invariant:** what a path and what a descriptor lead to is compared by the kernel itself: a watch
//! on a directory that has one already returns the same descriptor.

mod listed;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, WatchFlags};
use rustix::io::Errno;

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
