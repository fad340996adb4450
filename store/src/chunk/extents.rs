//! From a blob to its chunks, in order.
//!
//! **Invariant:** lengths are believed only where all levels agree: the extents visited cover the
//! blob's size exactly, or the walk fails.

use baton_protocol::id::{ManifestId, ObjectId};
use baton_protocol::object::{Blob, Content, Extent, Manifest};

use crate::error::StoreError;
use crate::objects::ObjectSource;

/// Visits the chunks of a blob with their offsets. An empty blob has one empty chunk.
pub fn for_each_extent<S: ObjectSource + ?Sized, E: From<StoreError>>(
    source: &S,
    blob: Blob,
    mut visit: impl FnMut(u64, Extent) -> Result<(), E>,
) -> Result<(), E> {
    match blob.content {
        // A blob was decoded, or made, with a chunk only where its size is one chunk's.
        Content::Chunk(chunk) => visit(0, Extent { len: blob.size as u32, chunk }),
        Content::Manifest(id) => walk(source, id, blob.size, u8::MAX, 0, &mut visit),
    }
}

/// Visits what lies below one manifest, which must be of a level below `above` and `len` long.
fn walk<S: ObjectSource + ?Sized, E: From<StoreError>>(
    source: &S,
    id: ManifestId,
    len: u64,
    above: u8,
    mut offset: u64,
    visit: &mut impl FnMut(u64, Extent) -> Result<(), E>,
) -> Result<(), E> {
    let manifest = load_manifest(source, id)?;
    let level = match &manifest {
        Manifest::Leaf(_) => 0,
        Manifest::Node { level, .. } => *level,
    };
    if level >= above || manifest.len() != len {
        return Err(StoreError::DamagedObject(id.into()).into());
    }
    match manifest {
        Manifest::Leaf(extents) => {
            for extent in extents {
                visit(offset, extent)?;
                offset += u64::from(extent.len);
            }
        }
        Manifest::Node { level, children } => {
            for child in children {
                walk(source, child.id, child.len, level, offset, visit)?;
                offset += child.len;
            }
        }
    }
    Ok(())
}

pub(crate) fn load_manifest<S: ObjectSource + ?Sized>(
    source: &S,
    id: ManifestId,
) -> Result<Manifest, StoreError> {
    let id = ObjectId::from(id);
    Manifest::decode(&source.require(&id)?).map_err(|_| StoreError::DamagedObject(id))
}

/// Visits the bytes of a blob in order, a chunk at a time.
pub fn for_each_piece<S: ObjectSource + ?Sized, E: From<StoreError>>(
    source: &S,
    blob: Blob,
    mut visit: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    for_each_extent(source, blob, |_, extent| visit(&read_chunk(source, extent)?))
}

/// The bytes of a chunk, which must be as long as its list says.
pub(crate) fn read_chunk<S: ObjectSource + ?Sized>(
    source: &S,
    extent: Extent,
) -> Result<Vec<u8>, StoreError> {
    let id = ObjectId::from(extent.chunk);
    let bytes = source.require(&id)?;
    if bytes.len() as u64 == u64::from(extent.len) {
        Ok(bytes)
    } else {
        Err(StoreError::DamagedObject(id))
    }
}

#[cfg(test)]
mod tests {
    use baton_protocol::id::{ChunkId, ObjectKind};
    use baton_protocol::object::ManifestChild;

    use super::*;
    use crate::objects::ObjectSink;
    use crate::objects::memory::MemoryObjects;

    #[test]
    fn lengths_that_contradict_each_other_are_refused() {
        let objects = MemoryObjects::default();
        let chunk = ChunkId::from_bytes(objects.put(ObjectKind::Chunk, b"abc").unwrap().hash);
        let put = |manifest: &Manifest| {
            let id = objects.put(ObjectKind::Manifest, &manifest.encode()).unwrap();
            ManifestId::from_bytes(id.hash)
        };
        let leaf = put(&Manifest::Leaf(vec![Extent { len: 3, chunk }]));
        let node = |len, level| {
            put(&Manifest::Node { level, children: vec![ManifestChild { len, id: leaf }; 2] })
        };
        let visit = |size, id| {
            let blob = Blob { size, content: Content::Manifest(id) };
            let mut seen = 0;
            for_each_extent(&objects, blob, |offset, extent| {
                assert_eq!(offset, seen);
                seen += u64::from(extent.len);
                Ok::<_, StoreError>(())
            })
            .map(|()| seen)
        };
        assert_eq!(visit(6, node(3, 1)).unwrap(), 6);
        assert!(visit(8, node(4, 1)).unwrap_err().is_corruption());
        assert!(visit(7, node(3, 1)).unwrap_err().is_corruption());
        let bad = put(&Manifest::Node {
            level: 1,
            children: vec![ManifestChild { len: 6, id: node(3, 1) }; 2],
        });
        assert!(visit(12, bad).unwrap_err().is_corruption());
        assert!(read_chunk(&objects, Extent { len: 4, chunk }).is_err());
        assert_eq!(read_chunk(&objects, Extent { len: 3, chunk }).unwrap(), b"abc");
    }
}
