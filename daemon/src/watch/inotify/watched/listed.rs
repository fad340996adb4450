//! Directories of which not each change is told: those that are swept, and those that are hot.
//!
//! Not here: which directories there are.
//!
//! - When all watches are given out, a directory in which something happens takes that of one in which
//!   nothing did for a while and which has no watched ones below. Which one that is a hand finds that
//!   goes round: near enough to the coldest, and for a bounded price.
//! - A directory to whose files something is written all the time is not watched for each write, and
//!   after a while of silence is again.
//!
//! **Invariant:** each drain lists them, and once more when each change is told again: the watch comes
//! first, then the listing.

use baton_store::scan::dirty::{Dirty, MAX_DIRECTORIES};
use rustix::fs::inotify::{self, WatchFlags};
use rustix::io::Errno;

use super::super::super::root::Root;
use super::super::chain::{Chain, path_of};
use super::super::limits;
use super::super::tree::{Listed, NodeId};
use super::{ALL, SELF, Watched};

/// Writes to the files of a directory, in one drain, above which it is hot.
const HOT_WRITES: u16 = 256;

/// Drains without an event after which a hot directory is watched for each write again.
const COOL_DRAINS: u32 = 8;

/// Drains without an event after which a directory may lose its watch to another.
const COLD_DRAINS: u32 = 16;

/// Nodes that one search for a cold directory looks at.
const SEARCH: u32 = 1024;

impl Watched {
    /// Whether one more directory can be watched, after another lost its watch if it has to.
    pub(super) fn has_room(&mut self, above: NodeId) -> bool {
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

    /// A file of a directory was written to.
    pub(in super::super) fn written(&mut self, root: &Root, id: NodeId) -> Result<(), Errno> {
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
    pub(super) fn settle_mask(&mut self, id: NodeId) {
        if let Some(node) = self.tree.get_mut(id)
            && node.listed == Listed::Hot
        {
            node.listed = Listed::No;
            self.hot.remove(&id);
            self.fresh.insert(id);
        }
    }

    /// Marks what is not watched for each change, at the end of a drain.
    pub(in super::super) fn finish(&mut self, root: &Root, dirty: &mut Dirty) -> Result<(), Errno> {
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
}
