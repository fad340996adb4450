//! Which directories of an index are as a tree object has them, computed from the entries.
//!
//! With it git need not read the trees of `HEAD` to say that nothing is staged. What another machine says of
//! it is not believed: git would make commits of it that hold something else than the index shows.
//!
//! **Invariant:** a directory is said to be a tree only if its entries make that tree.

use std::collections::{BTreeSet, HashSet};

use baton_protocol::object::{GitEntry, GitHash, GitMode, GitOid};

use super::hash_of;
use crate::git::GitError;

/// Deeper directories than any project has are left to git.
const MAX_DEPTH: usize = 256;

/// The directories of an index; the first one is the root.
#[derive(Debug, Default)]
pub(crate) struct CacheTree {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    parent: Option<usize>,
    name: Vec<u8>,
    /// Entries below.
    count: usize,
    /// The tree that they make, where they make one.
    oid: Option<GitOid>,
}

/// A directory whose entries are not all seen yet.
struct Open {
    node: usize,
    content: Vec<u8>,
    is_tree: bool,
}

/// Computes the trees of an index.
pub(crate) fn build_trees(entries: &[GitEntry], hash: GitHash) -> Result<CacheTree, GitError> {
    let deep = |entry: &GitEntry| entry.path.split(|&byte| byte == b'/').count() > MAX_DEPTH;
    let mut this = CacheTree::default();
    if entries.iter().any(deep) {
        return Ok(this);
    }
    let mut open = vec![this.open(None, b"")];
    for entry in entries {
        let (path, is_sparse) = match entry.path.strip_suffix(b"/") {
            Some(path) => (path, true),
            None => (entry.path.as_slice(), false),
        };
        let mut names: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
        let last = if is_sparse { b"" } else { names.pop().unwrap_or_default() };
        let same = open
            .iter()
            .skip(1)
            .zip(&names)
            .take_while(|(open, name)| {
                this.nodes.get(open.node).is_some_and(|it| it.name == **name)
            })
            .count();
        this.close(&mut open, same + 1, hash)?;
        for name in names.get(same..).unwrap_or_default() {
            let parent = open.last().map(|open| open.node);
            open.push(this.open(parent, name));
        }
        let Some(directory) = open.last_mut() else { continue };
        if let Some(node) = this.nodes.get_mut(directory.node) {
            node.count += 1;
            if is_sparse {
                node.oid = Some(entry.oid);
            }
        }
        if entry.stage != 0 || entry.intent_to_add {
            directory.is_tree = false;
        } else if !is_sparse {
            add(&mut directory.content, entry.mode, last, entry.oid);
        }
    }
    this.close(&mut open, 0, hash)?;
    Ok(this)
}

fn add(content: &mut Vec<u8>, mode: GitMode, name: &[u8], oid: GitOid) {
    content.extend_from_slice(format!("{:o} ", mode.bits()).as_bytes());
    content.extend_from_slice(name);
    content.push(0);
    content.extend_from_slice(oid.as_bytes());
}

impl CacheTree {
    fn open(&mut self, parent: Option<usize>, name: &[u8]) -> Open {
        self.nodes.push(Node { parent, name: name.to_vec(), count: 0, oid: None });
        Open { node: self.nodes.len() - 1, content: Vec::new(), is_tree: true }
    }

    /// Closes directories until `keep` are open, each into the one around it.
    fn close(&mut self, open: &mut Vec<Open>, keep: usize, hash: GitHash) -> Result<(), GitError> {
        while open.len() > keep {
            let Some(Open { node: at, content, is_tree }) = open.pop() else { break };
            let Some(node) = self.nodes.get_mut(at) else { break };
            if is_tree && node.oid.is_none() {
                let header = format!("tree {}\0", content.len()).into_bytes();
                let oid = hash_of(hash, &[header, content].concat())?;
                node.oid = GitOid::new(hash, oid.as_slice());
            }
            let (name, oid, count) = (node.name.clone(), node.oid, node.count);
            let Some(above) = open.last_mut() else { break };
            if let Some(node) = self.nodes.get_mut(above.node) {
                node.count += count;
            }
            match oid {
                Some(oid) => add(&mut above.content, GitMode::Directory, &name, oid),
                None => above.is_tree = false,
            }
        }
        Ok(())
    }

    /// The tree that all entries make, where they make one.
    pub(crate) fn root(&self) -> Option<GitOid> {
        self.nodes.first()?.oid
    }

    /// The trees that the directories make.
    pub(crate) fn oids(&self) -> BTreeSet<GitOid> {
        self.nodes.iter().filter_map(|node| node.oid).collect()
    }

    /// The bytes of the extension, with the trees that are there.
    pub(super) fn encode(&self, there: &HashSet<GitOid>) -> Vec<u8> {
        let mut children: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            if let Some(children) = node.parent.and_then(|parent| children.get_mut(parent)) {
                children.push(at);
            }
        }
        let mut text = Vec::new();
        let mut left: Vec<usize> = if self.nodes.is_empty() { Vec::new() } else { vec![0] };
        while let Some(at) = left.pop() {
            let (Some(node), Some(below)) = (self.nodes.get(at), children.get(at)) else {
                continue;
            };
            text.extend_from_slice(&node.name);
            text.push(0);
            let known = node.oid.filter(|oid| there.contains(oid));
            let count = if known.is_some() { node.count.to_string() } else { "-1".to_owned() };
            text.extend_from_slice(format!("{count} {}\n", below.len()).as_bytes());
            if let Some(oid) = known {
                text.extend_from_slice(oid.as_bytes());
            }
            left.extend(below.iter().rev());
        }
        text
    }
}
