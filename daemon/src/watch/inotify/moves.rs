//! Directories that left one place and have not come to another yet.
//!
//! Not here: files, which are looked at in both places.
//!
//! The kernel queues the two halves of a rename one after the other, not at once: a drain can end
//! between them, and other events can stand between them.

use baton_store::scan::dirty::Depth;

use super::tree::NodeId;

/// Marks that wait for a directory to arrive.
const MAX_WAITING: usize = 4096;

/// A directory on its way.
#[derive(Debug)]
pub(super) struct Departure {
    cookie: u32,
    pub(super) node: NodeId,
    /// Where it was, if that was known.
    pub(super) from: Option<Vec<u8>>,
    /// What happened below it since.
    pub(super) marks: Vec<(NodeId, Vec<u8>, Depth)>,
}

/// All that are on their way.
#[derive(Debug, Default)]
pub(super) struct Moves {
    under_way: Vec<Departure>,
}

impl Moves {
    pub(super) const fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    pub(super) fn depart(&mut self, cookie: u32, node: NodeId, from: Option<Vec<u8>>) {
        self.under_way.push(Departure { cookie, node, from, marks: Vec::new() });
    }

    /// The directory that arrives with this cookie. Mostly there is one at most.
    pub(super) fn arrive(&mut self, cookie: u32) -> Option<Departure> {
        let at = self.under_way.iter().rposition(|departure| departure.cookie == cookie)?;
        Some(self.under_way.swap_remove(at))
    }

    /// Keeps a mark for when the directory arrives below which it is. False if there is no room, or
    /// nothing to wait for.
    pub(super) fn mark(&mut self, top: NodeId, node: NodeId, name: &[u8], depth: Depth) -> bool {
        let waiting = self.under_way.iter_mut().find(|departure| departure.node == top);
        let Some(departure) = waiting.filter(|waiting| waiting.marks.len() < MAX_WAITING) else {
            return false;
        };
        departure.marks.push((node, name.to_vec(), depth));
        true
    }

    /// Those that did not arrive: they left the tree.
    pub(super) fn end(&mut self) -> Vec<Departure> {
        std::mem::take(&mut self.under_way)
    }
}
