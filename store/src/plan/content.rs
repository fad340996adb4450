//! Manifests and chunks of one file against those of its older form.

use baton_protocol::id::{ManifestId, ObjectId};
use baton_protocol::object::{Blob, Content, Extent, Manifest};

use super::Plan;
use crate::chunk::{for_each_extent, load_manifest};
use crate::error::StoreError;
use crate::objects::ObjectSource;

/// A manifest of the older form: where it begins, and how far above the chunks it is.
struct OldManifest {
    offset: u64,
    level: u8,
    id: ManifestId,
}

impl<S: ObjectSource + ?Sized> Plan<'_, S> {
    /// Plans the content of a file.
    pub(super) fn blob(&mut self, old: Option<Blob>, new: Blob) -> Result<(), StoreError> {
        if old.is_some_and(|old| old.content == new.content) || self.has.contains(&new.content.id())
        {
            return Ok(());
        }
        let mut extents: Vec<(u64, Extent)> = Vec::new();
        let mut manifests = Vec::new();
        if let Some(old) = old {
            if let Content::Manifest(id) = old.content {
                self.old_manifests(id, 0, u8::MAX, &mut manifests)?;
            }
            for_each_extent(self.source, old, |offset, extent| {
                extents.push((offset, extent));
                Ok::<_, StoreError>(())
            })?;
            self.has.extend(extents.iter().map(|(_, extent)| ObjectId::from(extent.chunk)));
            self.has.extend(manifests.iter().map(|old| ObjectId::from(old.id)));
        }
        match new.content {
            Content::Chunk(id) => {
                let base = extents.first().map(|(_, extent)| extent.chunk.into());
                self.emit(id.into(), base);
                Ok(())
            }
            Content::Manifest(id) => self.manifest(id, 0, u8::MAX, &extents, &manifests),
        }
    }

    /// Lists the manifests of the older form, with those above before those below.
    fn old_manifests(
        &self,
        id: ManifestId,
        mut offset: u64,
        above: u8,
        found: &mut Vec<OldManifest>,
    ) -> Result<(), StoreError> {
        let manifest = load_manifest(self.source, id)?;
        let level = level(&manifest);
        check_level(id, level, above)?;
        found.push(OldManifest { offset, level, id });
        if let Manifest::Node { children, .. } = manifest {
            for child in children {
                self.old_manifests(child.id, offset, level, found)?;
                offset = offset.saturating_add(child.len);
            }
        }
        Ok(())
    }

    /// Plans a manifest and what is below it.
    fn manifest(
        &mut self,
        id: ManifestId,
        mut offset: u64,
        above: u8,
        extents: &[(u64, Extent)],
        manifests: &[OldManifest],
    ) -> Result<(), StoreError> {
        if self.has.contains(&id.into()) {
            return Ok(());
        }
        let manifest = load_manifest(self.source, id)?;
        let level = level(&manifest);
        check_level(id, level, above)?;
        // The one that covers this offset, or the last one of its level; else the root.
        let covers = |old: &&OldManifest| old.level == level && old.offset <= offset;
        let base = manifests.iter().rfind(covers).or(manifests.first());
        self.emit(id.into(), base.map(|old| old.id.into()));
        match manifest {
            Manifest::Leaf(leaf) => {
                for extent in leaf {
                    let after = extents.partition_point(|&(old, _)| old <= offset);
                    let base = after.checked_sub(1).and_then(|at| extents.get(at));
                    self.emit(extent.chunk.into(), base.map(|(_, old)| old.chunk.into()));
                    offset += u64::from(extent.len);
                }
            }
            Manifest::Node { children, .. } => {
                for child in children {
                    self.manifest(child.id, offset, level, extents, manifests)?;
                    offset = offset.saturating_add(child.len);
                }
            }
        }
        Ok(())
    }
}

const fn level(manifest: &Manifest) -> u8 {
    match manifest {
        Manifest::Leaf(_) => 0,
        Manifest::Node { level, .. } => *level,
    }
}

fn check_level(id: ManifestId, level: u8, above: u8) -> Result<(), StoreError> {
    if level < above { Ok(()) } else { Err(StoreError::DamagedObject(id.into())) }
}
