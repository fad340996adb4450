//! Appending records to the open segment of a class.
//!
//! **Invariant:** the file always ends with an intact record. A write that fails is cut off again; where
//! even that fails the writer refuses everything that follows.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::footer::{FooterEntry, encode_footer};
use super::reader::{SegmentHeader, scan};
use super::record::RecordEntry;
use crate::error::StoreError;
use crate::fs::{self, Context};

/// Length at which a segment is sealed.
pub const SEAL_AT: u64 = 64 * 1024 * 1024;

/// Where a record went.
#[derive(Clone, Copy, Debug)]
pub struct Appended {
    /// Its offset.
    pub offset: u64,
    /// Its length.
    pub record_len: u32,
}

/// A segment that was sealed.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Its new name in the folder of its class.
    pub name: String,
    /// Length of the whole file.
    pub len: u64,
}

/// The open segment of a class.
#[derive(Debug)]
pub struct SegmentWriter {
    file: File,
    path: PathBuf,
    header: SegmentHeader,
    len: u64,
    hasher: blake3::Hasher,
    entries: Vec<FooterEntry>,
    broken: bool,
}

impl SegmentWriter {
    /// The name of the open segment with this uid.
    pub fn open_name(uid: &[u8; 16]) -> String {
        let digits: String = uid.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("open-{digits}")
    }

    /// Starts a segment in `folder`; its name is durable when this returns.
    pub fn create(folder: &Path, header: SegmentHeader) -> Result<Self, StoreError> {
        let path = folder.join(Self::open_name(&header.uid));
        let file = fs::create_new(&path)?;
        let bytes = header.encode();
        file.write_all_at(&bytes, 0).context("writing", &path)?;
        fs::sync_dir(folder)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        let len = bytes.len() as u64;
        Ok(Self { file, path, header, len, hasher, entries: Vec::new(), broken: false })
    }

    /// Goes on with a segment that an earlier process left open, after its last intact record.
    ///
    /// Nothing where damage stands before `least`: there are records after it, and cutting would
    /// lose them.
    pub fn resume(
        path: &Path,
        header: SegmentHeader,
        least: u64,
    ) -> Result<Option<Self>, StoreError> {
        let file = fs::open_writable(path)?;
        let mut entries = Vec::new();
        let start = SegmentHeader::LEN as u64;
        let len = scan(&file, path, start, false, |offset, record_len, record| {
            note(&mut entries, &record.entries, offset, record_len);
            Ok(())
        })?;
        if len < least {
            return Ok(None);
        }
        file.set_len(len).context("cutting", path)?;
        let hasher = hash_of(&file, path, len)?;
        Ok(Some(Self { file, path: path.to_owned(), header, len, hasher, entries, broken: false }))
    }

    /// Which segment it is.
    pub const fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Its length.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it holds no record.
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends an encoded record. Not durable before [`SegmentWriter::sync`].
    pub fn append(
        &mut self,
        record: &[u8],
        entries: &[RecordEntry],
    ) -> Result<Appended, StoreError> {
        if self.broken {
            return Err(self.refusal());
        }
        let offset = self.len;
        if let Err(error) = self.file.write_all_at(record, offset).context("writing", &self.path) {
            self.broken = self.file.set_len(offset).is_err();
            return Err(error.into());
        }
        let record_len = record.len() as u32;
        self.hasher.update(record);
        self.len += u64::from(record_len);
        note(&mut self.entries, entries, offset, record_len);
        Ok(Appended { offset, record_len })
    }

    /// Takes away the records from `len` on, which nobody refers to.
    pub fn cut(&mut self, len: u64) -> Result<(), StoreError> {
        if self.broken {
            return Err(self.refusal());
        }
        let hasher = hash_of(&self.file, &self.path, len)?;
        self.file.set_len(len).context("cutting", &self.path)?;
        self.hasher = hasher;
        self.entries.retain(|entry| entry.offset < len);
        self.len = len;
        Ok(())
    }

    /// Makes every appended record durable. After an error what reached the disk is unknown, and
    /// the store must be poisoned.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        let synced = self.file.sync_data().context("syncing", &self.path);
        self.broken |= synced.is_err();
        Ok(synced?)
    }

    /// Adds the footer, syncs, and renames the segment to its hash.
    pub fn seal(mut self) -> Result<Sealed, StoreError> {
        if self.broken {
            return Err(self.refusal());
        }
        let hash = self.hasher.finalize();
        let footer = encode_footer(&mut self.entries, self.len, hash.as_bytes());
        if let Err(error) = self.file.write_all_at(&footer, self.len).context("writing", &self.path)
        {
            // Without its footer it is an open segment, as before.
            self.file.set_len(self.len).context("cutting", &self.path)?;
            return Err(error.into());
        }
        self.file.sync_data().context("syncing", &self.path)?;
        let name = hash.to_hex().to_string();
        fs::rename(&self.path, &self.path.with_file_name(&name))?;
        Ok(Sealed { name, len: self.len + footer.len() as u64 })
    }

    fn refusal(&self) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            offset: self.len,
            detail: "an earlier write failed and could not be taken back",
        }
    }
}

fn hash_of(file: &File, path: &Path, len: u64) -> Result<blake3::Hasher, StoreError> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let want = (len - at).min(buffer.len() as u64) as usize;
        let part = buffer.get_mut(..want).unwrap_or_default();
        file.read_exact_at(part, at).context("reading", path)?;
        hasher.update(part);
        at += want as u64;
    }
    Ok(hasher)
}

fn note(to: &mut Vec<FooterEntry>, entries: &[RecordEntry], offset: u64, record_len: u32) {
    to.extend(entries.iter().map(|entry| FooterEntry {
        id: entry.id,
        offset,
        record_len,
        inner: entry.inner,
        len: entry.len,
    }));
}
