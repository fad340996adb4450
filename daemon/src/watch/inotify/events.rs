//! From what the kernel tells to what is dirty.
//!
//! Not here: reading the queue.
//!
//! - a write, or the last close of a file that was open for writing: read it, whatever its times say;
//!   a store through a mapping is told by the close alone
//! - anything else about a file: look at it. One that was moved in, or linked, has another inode or
//!   another time
//! - a directory that is new at its place: walk it, and be sure of its watch when it is added
//! - a directory that is gone: look at its name, and let go of all below
//!
//! **Invariant:** what is not understood makes everything dirty.

use baton_store::scan::dirty::{Depth, Dirty};
use rustix::fs::inotify::{Event, ReadFlags};
use rustix::io::Errno;

use super::super::root::Root;
use super::moves::Moves;
use super::tree::NodeId;
use super::watched::Watched;

/// One drain.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    root: &'a Root,
    watched: &'a mut Watched,
    moves: &'a mut Moves,
    pub(super) dirty: Dirty,
    /// Something happened of which nothing is known.
    pub(super) lost: bool,
    /// Something happened to the root itself.
    pub(super) root_touched: bool,
    /// The watch of the root is gone.
    pub(super) root_gone: bool,
    /// The directory of the last event, and its path: one follows another.
    at: Option<NodeId>,
    path: Vec<u8>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(root: &'a Root, watched: &'a mut Watched, moves: &'a mut Moves) -> Self {
        Self {
            root,
            watched,
            moves,
            dirty: Dirty::default(),
            lost: false,
            root_touched: false,
            root_gone: false,
            at: None,
            path: Vec::new(),
        }
    }

    /// Takes one event in.
    pub(super) fn event(&mut self, event: &Event<'_>) -> Result<(), Errno> {
        let flags = event.events();
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.lost = true;
            return Ok(());
        }
        let Some(id) = self.watched.tree.by_descriptor(event.wd()) else {
            self.lost |= !self.watched.is_dismissed(event.wd());
            return Ok(());
        };
        self.watched.warm(id);
        if flags.intersects(ReadFlags::IGNORED | ReadFlags::UNMOUNT) {
            self.unwatched(id, flags);
            return Ok(());
        }
        if let Some(name) = event.file_name() {
            return self.named(id, name.to_bytes(), flags, event.cookie());
        }
        if flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) {
            self.root_touched = true;
        } else if id == NodeId::ROOT {
            self.dirty.list(b"");
        } else {
            self.mark_itself(id, Depth::Look);
        }
        Ok(())
    }

    fn named(
        &mut self,
        id: NodeId,
        name: &[u8],
        flags: ReadFlags,
        cookie: u32,
    ) -> Result<(), Errno> {
        let is_directory = flags.contains(ReadFlags::ISDIR);
        let known = if is_directory { self.watched.tree.child(id, name) } else { None };
        if flags.intersects(ReadFlags::MODIFY | ReadFlags::CLOSE_WRITE) {
            self.mark(id, name, Depth::Read);
            if flags.contains(ReadFlags::MODIFY) {
                self.watched.written(self.root, id)?;
            }
        } else if !is_directory {
            self.mark(id, name, Depth::Look);
        } else if flags.contains(ReadFlags::MOVED_TO) {
            self.arrived(id, name, cookie);
        } else if flags.contains(ReadFlags::CREATE) {
            self.unsettle(known);
            self.mark(id, name, Depth::Walk);
        } else if flags.contains(ReadFlags::MOVED_FROM) {
            self.mark(id, name, Depth::Look);
            if let Some(known) = known {
                self.departed(id, name, known, cookie);
            }
        } else if flags.contains(ReadFlags::DELETE) {
            self.mark(id, name, Depth::Look);
            self.forget(known);
        } else {
            // Its mode may have kept us out before.
            let depth = if known.is_some() { Depth::Look } else { Depth::Walk };
            self.mark(id, name, depth);
        }
        Ok(())
    }

    fn departed(&mut self, id: NodeId, name: &[u8], known: NodeId, cookie: u32) {
        let is_placed = self.find_path(id).is_ok();
        let from = is_placed.then(|| join(&self.path, name));
        self.watched.tree.detach(known);
        self.moves.depart(cookie, known, from);
        self.at = None;
    }

    fn arrived(&mut self, id: NodeId, name: &[u8], cookie: u32) {
        let there = self.watched.tree.child(id, name);
        match self.moves.arrive(cookie) {
            None => {
                self.unsettle(there);
                self.mark(id, name, Depth::Walk);
            }
            // A directory cannot go below itself: what is known is not how it was.
            Some(departure) if self.watched.tree.is_within(id, departure.node) => {
                self.lost = true;
                self.forget(Some(departure.node));
            }
            Some(departure) => {
                self.forget(there);
                self.watched.tree.attach(departure.node, id, name);
                // Of two that changed places the second half is still to be read.
                self.unsettle(Some(departure.node));
                self.at = None;
                self.mark(id, name, Depth::Walk);
                if let Some(from) = departure.from
                    && self.find_path(id).is_ok()
                {
                    self.dirty.moved(&from, &join(&self.path, name));
                }
                for (node, name, depth) in departure.marks {
                    self.mark(node, &name, depth);
                }
            }
        }
    }

    /// The kernel let go of a directory. It says so before the one above says that it was deleted.
    fn unwatched(&mut self, id: NodeId, flags: ReadFlags) {
        if id == NodeId::ROOT {
            self.root_gone = true;
        } else if flags.contains(ReadFlags::UNMOUNT) || !self.watched.ended(id) {
            self.mark_itself(id, Depth::Walk);
            self.forget(Some(id));
        }
    }

    /// Those that left and did not come back are gone.
    pub(super) fn left(&mut self) {
        for departure in self.moves.end() {
            self.forget(Some(departure.node));
        }
    }

    fn forget(&mut self, id: Option<NodeId>) {
        if let Some(id) = id {
            self.watched.forget(id);
            self.at = None;
        }
    }

    fn unsettle(&mut self, id: Option<NodeId>) {
        if let Some(node) = id.and_then(|id| self.watched.tree.get_mut(id)) {
            node.verified = false;
        }
    }

    /// Marks a directory by its name in the one above it.
    fn mark_itself(&mut self, id: NodeId, depth: Depth) {
        // One that is on its way is walked where it arrives.
        let Some(above) = self.watched.tree.parent(id) else { return };
        let name = self.watched.tree.name(id).to_vec();
        self.mark(above, &name, depth);
    }

    fn mark(&mut self, id: NodeId, name: &[u8], depth: Depth) {
        match self.find_path(id) {
            Ok(()) => self.dirty.name(&self.path, name, depth),
            Err(top) => self.lost |= !self.moves.mark(top, id, name, depth),
        }
    }

    fn find_path(&mut self, id: NodeId) -> Result<(), NodeId> {
        if self.at != Some(id) {
            self.at = None;
            self.watched.tree.path(id, &mut self.path)?;
            self.at = Some(id);
        }
        Ok(())
    }

    pub(super) fn watched(&mut self) -> &mut Watched {
        self.watched
    }

    pub(super) const fn has_moves(&self) -> bool {
        !self.moves.is_empty()
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}
