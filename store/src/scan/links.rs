//! Files of several names: what is written through one changes all of them, and a watcher is told of one,
//! or of none where that name is outside the tree.
//!
//! **Invariant:** of a file whose every name is in the tree, and known, a change is seen by the name that
//! it was made through; of any other, the known names are looked at whenever anything is.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::entry::Linked;
use crate::stat_cache::Inode;

/// A directory, and a name in it.
type Name = (Vec<u8>, Vec<u8>);

/// The files of several names in a tree.
#[derive(Debug, Default)]
pub(super) struct Links {
    files: HashMap<(u64, u64), LinkedFile>,
    by_name: HashMap<Name, (u64, u64)>,
}

#[derive(Debug, Default)]
struct LinkedFile {
    /// How many names it has, in the tree and elsewhere.
    names: u64,
    known: BTreeSet<Name>,
    /// Whether the tree was searched for further names.
    searched: bool,
}

impl Links {
    /// Those that a walk of everything met.
    pub(super) fn of(met: Vec<(Linked, Vec<u8>, Vec<u8>)>) -> Self {
        let mut links = Self::default();
        for (linked, directory, name) in met {
            links.met(&directory, &name, Some(linked));
        }
        links.files.values_mut().for_each(|file| file.searched = true);
        links
    }

    /// A name was looked at: it is one of several of a file, or not.
    pub(super) fn met(&mut self, directory: &[u8], name: &[u8], linked: Option<Linked>) {
        let name: Name = (directory.to_vec(), name.to_vec());
        let key = linked.map(|Linked { inode: Inode { dev, ino }, .. }| (dev, ino));
        let before = match key {
            Some(key) => self.by_name.insert(name.clone(), key),
            None => self.by_name.remove(&name),
        };
        if let Some(before) = before.filter(|before| Some(*before) != key)
            && let Some(file) = self.files.get_mut(&before)
        {
            file.known.remove(&name);
            if file.known.is_empty() {
                self.files.remove(&before);
            }
        }
        if let (Some(key), Some(linked)) = (key, linked) {
            let file = self.files.entry(key).or_default();
            file.names = linked.names;
            file.known.insert(name);
        }
    }

    /// Nothing is known of the names below a directory, nor of the file of that name.
    pub(super) fn forget_below(&mut self, path: &[u8]) {
        if self.by_name.is_empty() {
            return;
        }
        let gone: Vec<Name> = self
            .by_name
            .keys()
            .filter(|(directory, name)| {
                let at = super::directory::join(directory, name);
                at.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
            })
            .cloned()
            .collect();
        for (directory, name) in gone {
            self.met(&directory, &name, None);
        }
    }

    /// Names to be looked at whatever a watcher says: their files have others outside the tree.
    pub(super) fn exposed(&self) -> impl Iterator<Item = &(Vec<u8>, Vec<u8>)> {
        let exposed = |file: &&LinkedFile| file.names > file.known.len() as u64;
        self.files.values().filter(exposed).flat_map(|file| &file.known)
    }

    /// The other names of the file that has this one.
    pub(super) fn others(&self, directory: &[u8], name: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        if self.by_name.is_empty() {
            return Vec::new();
        }
        let own: Name = (directory.to_vec(), name.to_vec());
        let file = self.by_name.get(&own).and_then(|key| self.files.get(key));
        file.map(|file| file.known.iter().filter(|name| **name != own).cloned().collect())
            .unwrap_or_default()
    }

    /// Files with names that are not known, for which the tree was not searched yet; it is, by who asks.
    pub(super) fn take_unsearched(&mut self) -> HashSet<(u64, u64)> {
        let mut wanted = HashSet::new();
        for (key, file) in &mut self.files {
            if !file.searched && file.names > file.known.len() as u64 {
                wanted.insert(*key);
            }
            file.searched = true;
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linked(ino: u64, names: u64) -> Linked {
        Linked { inode: Inode { dev: 1, ino }, names }
    }

    #[test]
    fn names_come_and_go() {
        let mut links = Links::default();
        links.met(b"a", b"x", Some(linked(5, 2)));
        assert_eq!(links.exposed().count(), 1);
        assert_eq!(links.take_unsearched(), [(1, 5)].into());
        assert!(links.take_unsearched().is_empty());
        links.met(b"b", b"y", Some(linked(5, 2)));
        assert_eq!(links.exposed().count(), 0);
        assert_eq!(links.others(b"a", b"x"), [(b"b".to_vec(), b"y".to_vec())]);
        // One of the names is another file now, so the other has one elsewhere.
        links.met(b"b", b"y", None);
        assert_eq!(links.exposed().count(), 1);
        links.met(b"a/sub", b"z", Some(linked(5, 2)));
        links.forget_below(b"a");
        assert_eq!(links.exposed().count(), 0);
        assert!(links.files.is_empty() && links.by_name.is_empty());
    }
}
