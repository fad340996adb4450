//! The directories that are known, as a tree of small nodes: a directory that is renamed takes all
//! below it along in one step, and a path is made only where somebody asks for it.
//!
//! Not here: the kernel, and what is to be watched.
//!
//! **Invariant:** a node is found under its parent and name, and under its watch descriptor, for as long
//! as it has them; nothing else is.
//!
//! **Invariant:** memory is about 100 bytes a directory.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

/// A directory, by its place in the list of nodes. Places are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeId(u32);

impl NodeId {
    /// The root, which is always there.
    pub(super) const ROOT: Self = Self(0);
    const NONE: Self = Self(u32::MAX);

    fn some(self) -> Option<Self> {
        (self != Self::NONE).then_some(self)
    }
}

/// Whether each seal lists a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Listed {
    /// What changes in it is told.
    #[default]
    No,
    /// It is not watched, for want of watches.
    Swept,
    /// It is watched, but not for each write.
    Hot,
}

/// What is known of a directory.
#[derive(Debug)]
pub(super) struct Node {
    parent: NodeId,
    first_child: NodeId,
    next: NodeId,
    previous: NodeId,
    /// Its watch descriptor; 0 without. The kernel counts from 1, and up.
    wd: i32,
    watched_children: u32,
    name: Box<[u8]>,
    /// The drain in which it last had an event, or got its watch.
    pub(super) tick: u32,
    /// Writes of this drain, as far as that matters.
    pub(super) writes: u16,
    /// The kernel watches it. A descriptor alone may be one that is being given back.
    watched: bool,
    pub(super) listed: Listed,
    /// That the descriptor is of the directory at this path is known: no event was lost since.
    pub(super) verified: bool,
}

impl Node {
    fn new(parent: NodeId, name: &[u8]) -> Self {
        Self {
            parent,
            first_child: NodeId::NONE,
            next: NodeId::NONE,
            previous: NodeId::NONE,
            wd: 0,
            watched_children: 0,
            name: name.into(),
            tick: 0,
            writes: 0,
            watched: false,
            listed: Listed::No,
            verified: false,
        }
    }

    pub(super) const fn wd(&self) -> i32 {
        self.wd
    }

    pub(super) const fn is_watched(&self) -> bool {
        self.watched
    }

    /// Whether a directory below it is watched, so that it has to be.
    pub(super) const fn has_watched_children(&self) -> bool {
        self.watched_children > 0
    }
}

/// The known directories.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Option<Node>>,
    free: Vec<NodeId>,
    /// By parent and name. Names are anybody's choice, hence the keyed hash.
    names: HashTable<NodeId>,
    /// By watch descriptor.
    descriptors: HashTable<NodeId>,
    hasher: RandomState,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![Some(Node::new(NodeId::NONE, b""))],
            free: Vec::new(),
            names: HashTable::new(),
            descriptors: HashTable::new(),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn get(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id.0 as usize)?.as_mut()
    }

    /// The places of nodes, used and free ones.
    pub(super) fn places(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }

    /// The node at a place.
    pub(super) fn at(&self, place: u32) -> Option<(NodeId, &Node)> {
        Some((NodeId(place), self.get(NodeId(place))?))
    }

    /// Every node.
    pub(super) fn each_mut(&mut self) -> impl Iterator<Item = (NodeId, &mut Node)> {
        let nodes = (0..).map(NodeId).zip(&mut self.nodes);
        nodes.filter_map(|(id, node)| Some((id, node.as_mut()?)))
    }

    pub(super) fn parent(&self, id: NodeId) -> Option<NodeId> {
        self.get(id)?.parent.some()
    }

    pub(super) fn name(&self, id: NodeId) -> &[u8] {
        self.get(id).map_or(b"", |node| &node.name)
    }

    pub(super) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let hash = self.hasher.hash_one((parent.0, name));
        let is = |id: &NodeId| {
            self.get(*id).is_some_and(|node| node.parent == parent && *node.name == *name)
        };
        self.names.find(hash, is).copied()
    }

    /// The node of a path; the empty one is the root.
    pub(super) fn find(&self, path: &[u8]) -> Option<NodeId> {
        if path.is_empty() {
            return Some(NodeId::ROOT);
        }
        path.split(|&byte| byte == b'/').try_fold(NodeId::ROOT, |id, name| self.child(id, name))
    }

    pub(super) fn by_descriptor(&self, wd: i32) -> Option<NodeId> {
        let hash = self.hasher.hash_one(wd);
        self.descriptors.find(hash, |id| self.get(*id).is_some_and(|node| node.wd == wd)).copied()
    }

    /// Writes the path of a node, or says which node above it hangs nowhere.
    pub(super) fn path(&self, id: NodeId, path: &mut Vec<u8>) -> Result<(), NodeId> {
        path.clear();
        let mut at = id;
        while at != NodeId::ROOT {
            let Some(node) = self.get(at) else { return Err(at) };
            if node.parent == NodeId::NONE {
                return Err(at);
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(node.name.iter().rev());
            at = node.parent;
        }
        path.reverse();
        Ok(())
    }

    /// Whether a node is another, or is below it.
    pub(super) fn is_within(&self, id: NodeId, above: NodeId) -> bool {
        let mut at = Some(id);
        while let Some(node) = at {
            if node == above {
                return true;
            }
            at = self.parent(node);
        }
        false
    }

    /// A new directory; the name must be free.
    pub(super) fn insert(&mut self, parent: NodeId, name: &[u8]) -> NodeId {
        let node = Some(Node::new(NodeId::NONE, b""));
        let id = if let Some(id) = self.free.pop() {
            if let Some(place) = self.nodes.get_mut(id.0 as usize) {
                *place = node;
            }
            id
        } else {
            self.nodes.push(node);
            NodeId(self.places() - 1)
        };
        self.attach(id, parent, name);
        id
    }

    /// Takes a directory with all below it out of its place; it keeps its descriptor.
    pub(super) fn detach(&mut self, id: NodeId) {
        let Some(node) = self.get(id) else { return };
        let Some(parent) = node.parent.some() else { return };
        let (next, previous, watched) = (node.next, node.previous, node.watched);
        let hash = self.hasher.hash_one((parent.0, &*node.name));
        if let Ok(entry) = self.names.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        if let Some(next) = self.get_mut(next) {
            next.previous = previous;
        }
        if let Some(previous) = self.get_mut(previous) {
            previous.next = next;
        }
        if let Some(parent) = self.get_mut(parent) {
            if parent.first_child == id {
                parent.first_child = next;
            }
            parent.watched_children -= u32::from(watched);
        }
        if let Some(node) = self.get_mut(id) {
            node.parent = NodeId::NONE;
            node.next = NodeId::NONE;
            node.previous = NodeId::NONE;
        }
    }

    /// Puts a directory that hangs nowhere below another, under a name that must be free.
    pub(super) fn attach(&mut self, id: NodeId, parent: NodeId, name: &[u8]) {
        let Some(above) = self.get(parent) else { return };
        let next = above.first_child;
        let Some(node) = self.get_mut(id) else { return };
        node.parent = parent;
        node.next = next;
        node.name = name.into();
        let watched = node.watched;
        if let Some(next) = self.get_mut(next) {
            next.previous = id;
        }
        if let Some(parent) = self.get_mut(parent) {
            parent.first_child = id;
            parent.watched_children += u32::from(watched);
        }
        let hash = self.hasher.hash_one((parent.0, name));
        let (hasher, nodes) = (&self.hasher, &self.nodes);
        self.names.insert_unique(hash, id, |id| {
            let node = nodes.get(id.0 as usize).and_then(Option::as_ref);
            node.map_or(0, |node| hasher.hash_one((node.parent.0, &*node.name)))
        });
    }

    /// Takes a directory and all below it out, with their descriptors. The root stays, without what is below.
    pub(super) fn take(&mut self, id: NodeId) -> Vec<(NodeId, Node)> {
        self.detach(id);
        let mut found = vec![id];
        let mut at = 0;
        while let Some(&id) = found.get(at) {
            let mut child = self.get(id).and_then(|node| node.first_child.some());
            while let Some(id) = child {
                found.push(id);
                child = self.get(id).and_then(|node| node.next.some());
            }
            at += 1;
        }
        if id == NodeId::ROOT {
            found.remove(0);
            if let Some(root) = self.get_mut(id) {
                root.first_child = NodeId::NONE;
                root.watched_children = 0;
            }
        }
        let mut taken = Vec::with_capacity(found.len());
        for id in found {
            let wd = self.unbind(id);
            let Some(mut node) = self.nodes.get_mut(id.0 as usize).and_then(Option::take) else {
                continue;
            };
            node.wd = wd;
            if node.parent != NodeId::NONE {
                let hash = self.hasher.hash_one((node.parent.0, &*node.name));
                if let Ok(entry) = self.names.find_entry(hash, |other| *other == id) {
                    entry.remove();
                }
            }
            self.free.push(id);
            taken.push((id, node));
        }
        taken
    }

    /// Gives a directory its descriptor.
    pub(super) fn bind(&mut self, id: NodeId, wd: i32) {
        self.unbind(id);
        let Some(node) = self.get_mut(id) else { return };
        node.wd = wd;
        let hash = self.hasher.hash_one(wd);
        let (hasher, nodes) = (&self.hasher, &self.nodes);
        self.descriptors.insert_unique(hash, id, |id| {
            let node = nodes.get(id.0 as usize).and_then(Option::as_ref);
            hasher.hash_one(node.map_or(0, |node| node.wd))
        });
    }

    /// Takes the descriptor of a directory away, and returns it.
    pub(super) fn unbind(&mut self, id: NodeId) -> i32 {
        let Some(wd) = self.get(id).map(Node::wd).filter(|&wd| wd != 0) else { return 0 };
        let hash = self.hasher.hash_one(wd);
        if let Ok(entry) = self.descriptors.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        if let Some(node) = self.get_mut(id) {
            node.wd = 0;
        }
        wd
    }

    /// Whether the kernel watches a directory.
    pub(super) fn set_watched(&mut self, id: NodeId, watched: bool) {
        let Some(node) = self.get_mut(id).filter(|node| node.watched != watched) else { return };
        node.watched = watched;
        let parent = node.parent;
        if let Some(parent) = self.get_mut(parent) {
            if watched {
                parent.watched_children += 1;
            } else {
                parent.watched_children -= 1;
            }
        }
    }
}
