//! A store in memory, and in it a vault whose files are put there for each input.

use std::path::{Path, PathBuf};

use baton_protocol::id::{ObjectId, VaultId};

use super::scratch;
use crate::error::StoreError;
use crate::fs;
use crate::index::Index;
use crate::layout::Class;
use crate::objects::ObjectSource;
use crate::store::Store;
use crate::vault::Vault;

/// Whose files are damaged.
pub(super) const VAULT: VaultId = VaultId::from_bytes([7; 16]);

pub(super) struct Ground {
    folder: tempfile::TempDir,
    beside: Vault,
}

impl Ground {
    pub(super) fn new() -> Self {
        let folder = scratch();
        let store = Store::open(folder.path()).unwrap();
        let beside = store.vault(VaultId::from_bytes([9; 16])).unwrap();
        Self { folder, beside }
    }

    pub(super) fn index(&self) -> PathBuf {
        self.beside.layout().index(VAULT)
    }

    pub(super) fn segments(&self, class: Class) -> PathBuf {
        self.beside.layout().segments(VAULT, class)
    }

    /// Leaves nothing of what an input before has made.
    pub(super) fn clear(&self) {
        let layout = self.beside.layout();
        fs::remove_dir_all(&layout.vault(VAULT)).unwrap();
        fs::remove_dir_all(&layout.quarantine()).unwrap();
        fs::remove_file(&layout.noted()).unwrap();
        for class in Class::ALL {
            fs::create_dir_all(&self.segments(class)).unwrap();
        }
    }

    pub(super) fn put(&self, path: &Path, bytes: &[u8]) {
        assert!(path.starts_with(self.folder.path()));
        fs::write_whole(path, bytes, 0o600).unwrap();
    }

    /// Opens it; nothing where it is refused as damaged, or as that of a newer program.
    pub(super) fn open(&self) -> Option<Vault> {
        match self.beside.open_beside(VAULT) {
            Ok(vault) => Some(vault),
            Err(error) => {
                let is_newer = matches!(error, StoreError::Newer { .. });
                assert!(error.is_corruption() || is_newer, "{error:?}");
                None
            }
        }
    }

    /// The same after somebody has said that its index is not to be believed.
    pub(super) fn open_doubted(&self) -> Vault {
        self.put(&Index::doubt_file(&self.index()), b"");
        self.beside.open_beside(VAULT).unwrap()
    }
}

/// Those of these objects that the vault serves: each is what was asked for.
pub(super) fn served(vault: &Vault, asked: &[ObjectId]) -> Vec<ObjectId> {
    let is_served = |id: &&ObjectId| match vault.read(id) {
        Ok(Some(bytes)) => {
            assert_eq!(ObjectId::of(id.kind, &bytes), **id, "other bytes were served");
            true
        }
        Ok(None) => false,
        Err(error) => {
            assert!(error.is_corruption(), "{error:?}");
            false
        }
    };
    asked.iter().filter(is_served).copied().collect()
}
