//! Which directories a seal visits, and what it looks at in each.

use std::collections::BTreeMap;

use crate::scan::dirty::{Depth, DirtyDirectory, split};

/// Directories on the way from the root that are visited one in the other; what is below the last is
/// walked. Each holds a descriptor and a piece of the stack.
const MAX_VISITED: usize = 64;

/// Dirty directories, as a tree.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) marks: DirtyDirectory,
    pub(super) below: BTreeMap<Vec<u8>, Node>,
}

impl Node {
    pub(super) fn is_empty(&self) -> bool {
        self.marks == DirtyDirectory::default() && self.below.is_empty()
    }

    /// The node of a directory; one that is too deep is a part of a walk.
    pub(super) fn at(&mut self, path: &[u8]) -> &mut Self {
        let mut node = self;
        for (depth, name) in path.split(|&byte| byte == b'/').enumerate() {
            if name.is_empty() {
                continue;
            }
            if depth >= MAX_VISITED {
                node.marks.walk = true;
                return node;
            }
            node = node.below.entry(name.to_vec()).or_default();
        }
        node
    }

    pub(super) fn name(&mut self, directory: &[u8], name: &[u8], depth: Depth) {
        let marks = &mut self.at(directory).marks;
        let mark = marks.names.entry(name.to_vec()).or_insert(depth);
        *mark = depth.max(*mark);
    }

    /// What the rules say of this path may be otherwise now, and of each directory on the way to it.
    pub(super) fn look_on_the_way(&mut self, path: &[u8]) {
        let mut path = path;
        while !path.is_empty() {
            let (directory, name) = split(path);
            self.name(directory, name, Depth::Look);
            path = directory;
        }
    }
}
