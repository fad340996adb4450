//! The layers of a workspace that are there.
//!
//! **Invariant:** a layer is known where its record can be read, this start of the machine has made it, and it stands on
//! such layers only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use baton_protocol::object::{GitOmission, Omission, Snapshot};

use super::record::{self, MAX_LEN, Record};
use crate::fs::{self, FsError};

/// The number of a layer, within its workspace.
pub type LayerId = u64;

/// Layers that show a snapshot together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// The topmost first.
    pub layers: Vec<LayerId>,
    /// Their trees, in the same order.
    pub trees: Vec<PathBuf>,
    /// What the file system could not hold.
    pub not_carried: Vec<Omission>,
    /// What of the repository did not come, or is to be looked at; nothing where there is none.
    pub told: Option<Vec<GitOmission>>,
}

impl Stack {
    /// The topmost tree that has a repository: that of the snapshot.
    pub fn repository(&self) -> Option<&Path> {
        let found = self.trees.iter().find(|tree| tree.join(".git").symlink_metadata().is_ok())?;
        found.join(".git").is_dir().then_some(found)
    }

    /// Whether its repository has all of its objects.
    pub(super) fn is_whole(&self) -> bool {
        self.told.as_deref().is_none_or(record::is_whole)
    }
}

/// What is known of the layers in a folder.
#[derive(Debug)]
pub(super) struct Known {
    folder: PathBuf,
    records: BTreeMap<LayerId, Record>,
    /// Those of another start of the machine.
    pub(super) of_before: BTreeSet<LayerId>,
}

impl Known {
    /// Reads it.
    pub(super) fn read(folder: &Path, boot: &str) -> Result<Self, FsError> {
        let mut known = Self {
            folder: folder.to_owned(),
            records: BTreeMap::new(),
            of_before: BTreeSet::new(),
        };
        for id in numbers(folder)? {
            let path = folder.join(id.to_string()).join("record");
            let Some(bytes) = fs::read_if_exists(&path, MAX_LEN)? else { continue };
            let Ok(record) = Record::decode(&bytes) else { continue };
            let stands =
                record.below.is_none_or(|below| below < id && known.records.contains_key(&below));
            if record.boot != boot {
                known.of_before.insert(id);
            } else if stands {
                known.records.insert(id, record);
            }
        }
        Ok(known)
    }

    /// What is known of a layer.
    pub(super) fn record(&self, id: LayerId) -> Option<&Record> {
        self.records.get(&id)
    }

    /// The topmost layer that shows a snapshot.
    pub(super) fn that_shows(&self, snapshot: &Snapshot) -> Option<LayerId> {
        let mut newest = self.records.iter().rev();
        newest.find(|(_, record)| record.shows(snapshot)).map(|(&id, _)| id)
    }

    /// The layers of the newest stack, the topmost first.
    pub(super) fn newest(&self) -> Vec<LayerId> {
        let newest = self.records.last_key_value();
        newest.map(|(&id, _)| self.height(id)).unwrap_or_default()
    }

    /// A new layer.
    pub(super) fn add(&mut self, id: LayerId, record: Record) {
        self.records.insert(id, record);
    }

    /// A layer and those below it.
    pub(super) fn height(&self, top: LayerId) -> Vec<LayerId> {
        let below = |id: &LayerId| self.record(*id).and_then(|record| record.below);
        std::iter::successors(Some(top).filter(|top| self.records.contains_key(top)), below)
            .collect()
    }

    /// What a layer and those below it show.
    pub(super) fn stack(&self, id: LayerId) -> Stack {
        let layers = self.height(id);
        let tree = |id: &LayerId| self.folder.join(id.to_string()).join("tree");
        let trees = layers.iter().map(tree).collect();
        let top = self.record(id);
        let not_carried = layers.iter().filter_map(|id| self.record(*id));
        let mut not_carried: Vec<_> =
            not_carried.flat_map(|record| record.not_carried.clone()).collect();
        not_carried.sort_unstable();
        not_carried.dedup();
        let told = top.filter(|record| record.git.is_some()).map(|record| record.told.clone());
        Stack { layers, trees, not_carried, told }
    }
}

/// The layers in a folder, known or not.
pub(super) fn numbers(folder: &Path) -> Result<BTreeSet<LayerId>, FsError> {
    let names = fs::list_dir(folder)?;
    Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
}
