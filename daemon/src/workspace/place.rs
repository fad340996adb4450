//! Where the folder of a workspace is: by device and inode, so that one that moved is found again, and one
//! that is not there is no empty tree.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use baton_protocol::id::WorkspaceId;
use baton_store::catalog::workspaces::Workspace;
use baton_store::error::StoreError;

use super::Workspaces;

/// A workspace cannot be sealed by itself.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Its folder is gone.
    #[error("{} is gone", root.display())]
    Gone {
        /// Where it was.
        root: PathBuf,
    },
    /// Another file system is where it was.
    #[error("{} is on another file system than before: is a disk not mounted?", root.display())]
    OtherFileSystem {
        /// Where it was.
        root: PathBuf,
    },
    /// The catalog failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Device and inode of a folder; nothing where there is none.
pub(super) fn place_of(root: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(root).ok().filter(std::fs::Metadata::is_dir)?;
    Some((found.dev(), found.ino()))
}

impl Workspaces {
    /// The workspace whose folder this is, where that was somewhere else before.
    pub(super) fn moved_to(
        &self,
        root: &Path,
        place: (u64, u64),
    ) -> Result<Option<Workspace>, StoreError> {
        for mut workspace in self.catalog.workspaces_at(place.0, place.1)? {
            let before = Path::new(std::ffi::OsStr::from_bytes(&workspace.root));
            // Seen at two places at once it is mounted twice, or was copied with its numbers.
            if place_of(before).is_none() {
                tracing::info!(workspace = %workspace.id, root = %root.display(), "moved");
                workspace.root = root.as_os_str().as_bytes().to_vec();
                self.catalog.set_place(workspace.id, &workspace.root, place)?;
                self.let_go(workspace.id);
                return Ok(Some(workspace));
            }
        }
        Ok(None)
    }

    /// The workspace of a folder, also where it was somewhere else before; none is minted.
    pub fn find_moved(&self, root: &Path) -> Result<Option<Workspace>, StoreError> {
        match (self.find(root)?, place_of(root)) {
            (None, Some(place)) => self.moved_to(root, place),
            (found, _) => Ok(found),
        }
    }

    /// Whether the folder of a workspace may be sealed by itself: it is there, and on the file system
    /// that it was on. A disk that is not mounted is not an empty tree.
    pub fn check_place(&self, id: WorkspaceId, root: &Path) -> Result<(), PlaceError> {
        let Some(now) = place_of(root) else {
            return Err(PlaceError::Gone { root: root.to_owned() });
        };
        match self.catalog.place(id)? {
            Some(before) if before.0 != now.0 => {
                Err(PlaceError::OtherFileSystem { root: root.to_owned() })
            }
            Some(before) if before == now => Ok(()),
            _ => Ok(self.catalog.set_place(id, root.as_os_str().as_bytes(), now)?),
        }
    }

    /// Where a workspace is, if its own folder is there, and no other one in its place.
    pub fn own_place(&self, id: WorkspaceId) -> Result<PathBuf, PlaceError> {
        let all = self.catalog.workspaces()?;
        let root = all.into_iter().find(|it| it.id == id).map(|it| it.root).unwrap_or_default();
        let root = PathBuf::from(std::ffi::OsStr::from_bytes(&root));
        let now = place_of(&root);
        if now.is_none() || self.catalog.place(id)?.is_some_and(|before| Some(before) != now) {
            return Err(PlaceError::Gone { root });
        }
        Ok(root)
    }
}
