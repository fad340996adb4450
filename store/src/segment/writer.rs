//! Appending records to the open segment of a class.
//!
//! **Invariant:** the file always ends with an intact record. A write that fails is cut off again; where
//! even that fails the writer refuses everything that follows.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::footer::{FooterEntry, encode_footer};
use super::reader::{SegmentHeader, scan_as};
use super::record::{RecordEntry, decode_table};
use crate::error::StoreError;
use crate::fs::{self, Context};

/// Length at which a segment is sealed.
pub const SEAL_AT: u64 = 64 * 1024 * 1024;

/// Objects at which it is sealed too: the ids of the open segment are in memory.
const SEAL_COUNT: usize = 256 * 1024;

/// Bytes after which the system is asked to begin writing them: a sync at the end then waits for little,
/// and the disk has been busy meanwhile. A segment that waited for its sync kept a thread for half a
/// second.
const WRITE_BEHIND: u64 = 4 * 1024 * 1024;

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

/// Why a segment was not sealed.
#[derive(Debug)]
pub enum SealError {
    /// It is open as before: the disk is full.
    Unchanged(StoreError),
    /// What reached the disk is unknown, and the store must be poisoned.
    Broken(StoreError),
}

/// The open segment of a class.
#[derive(Debug)]
pub struct SegmentWriter {
    file: Arc<File>,
    path: PathBuf,
    header: SegmentHeader,
    len: u64,
    synced: u64,
    /// Up to where the system was asked to write.
    begun: u64,
    hasher: blake3::Hasher,
    entries: Vec<FooterEntry>,
    broken: bool,
    disk: Arc<Disk>,
}

impl SegmentWriter {
    /// The name of the open segment with this uid.
    pub fn open_name(uid: &[u8; 16]) -> String {
        use std::fmt::Write as _;
        uid.iter().fold(String::from("open-"), |mut name, byte| {
            // Writing to a string does not fail.
            let _always = write!(name, "{byte:02x}");
            name
        })
    }

    /// Starts a segment in `folder`; its header and its name are durable when this returns.
    pub fn create(folder: &Path, header: SegmentHeader) -> Result<Self, StoreError> {
        let path = folder.join(Self::open_name(&header.uid));
        let bytes = header.encode();
        let start = || {
            let file = fs::create_new(&path)?;
            file.write_all_at(&bytes, 0).context("writing", &path)?;
            // A file whose header does not say what it is was damaged, and not merely begun.
            file.sync_data().context("syncing", &path)?;
            fs::sync_dir(folder)?;
            Ok(Arc::new(file))
        };
        let file = start().inspect_err(|_: &StoreError| {
            // Or a full disk would fill up with empty files.
            drop(fs::remove_file(&path));
        })?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        let len = bytes.len() as u64;
        let entries = Vec::new();
        Ok(Self {
            file,
            path,
            header,
            len,
            synced: 0,
            begun: 0,
            hasher,
            entries,
            broken: false,
            disk: Arc::default(),
        })
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
        let mut hasher = blake3::Hasher::new();
        let mut first = [0; SegmentHeader::LEN];
        file.read_exact_at(&mut first, 0).context("reading", path)?;
        hasher.update(&first);
        // The checksums are enough, and taking 64 MiB of records apart is not.
        let table = |bytes: &[u8]| {
            let mut entries = Vec::new();
            decode_table(bytes, &mut entries).map(|_| entries)
        };
        let start = SegmentHeader::LEN as u64;
        let len = scan_as(&file, path, start, false, table, |offset, bytes, table| {
            note(&mut entries, &table, offset, bytes.len() as u32);
            hasher.update(bytes);
            Ok(())
        })?;
        if len < least {
            return Ok(None);
        }
        file.set_len(len).context("cutting", path)?;
        let (file, path) = (Arc::new(file), path.to_owned());
        let begun = len;
        Ok(Some(Self {
            file,
            path,
            header,
            len,
            synced: 0,
            begun,
            hasher,
            entries,
            broken: false,
            disk: Arc::default(),
        }))
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

    /// Bytes of the objects in it.
    pub fn object_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.len)).sum()
    }

    /// Whether it is time to seal it.
    pub const fn is_full(&self) -> bool {
        self.len >= SEAL_AT || self.entries.len() >= SEAL_COUNT
    }

    /// The file, for reading.
    pub const fn file(&self) -> &Arc<File> {
        &self.file
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
        if self.len - self.begun >= WRITE_BEHIND {
            fs::begin_writing(&self.file, self.begun, self.len - self.begun);
            self.begun = self.len;
        }
        note(&mut self.entries, entries, offset, record_len);
        Ok(Appended { offset, record_len })
    }

    /// Makes every appended record durable. After an error what reached the disk is unknown, and
    /// the store must be poisoned.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        match self.begin_sync()? {
            Some(begun) => self.end_sync(begun.run()),
            None => Ok(()),
        }
    }

    /// A sync that runs while others append; nothing where everything is durable.
    pub fn begin_sync(&self) -> Result<Option<Sync>, StoreError> {
        if self.broken {
            return Err(self.refusal());
        }
        let to = self.len;
        let (file, disk) = (Arc::clone(&self.file), Arc::clone(&self.disk));
        let sync = || Sync { file, disk, path: self.path.clone(), to };
        Ok((self.synced < to).then(sync))
    }

    /// Notes what became of one. After an error as [`SegmentWriter::sync`].
    pub fn end_sync(&mut self, synced: Result<u64, StoreError>) -> Result<(), StoreError> {
        self.broken |= synced.is_err();
        self.synced = self.synced.max(synced?);
        Ok(())
    }

    /// Adds the footer, syncs, and renames the segment to its hash.
    pub fn seal(&mut self) -> Result<Sealed, SealError> {
        self.sync().map_err(SealError::Broken)?;
        let hash = self.hasher.finalize();
        let footer = encode_footer(&mut self.entries, self.len, hash.as_bytes());
        if let Err(error) = self.file.write_all_at(&footer, self.len).context("writing", &self.path)
        {
            self.broken = self.file.set_len(self.len).is_err();
            return Err(SealError::Unchanged(error.into()));
        }
        let name = hash.to_hex().to_string();
        let finish = || {
            self.disk.sync(&self.file, &self.path)?;
            fs::rename(&self.path, &self.path.with_file_name(&name))?;
            Ok(())
        };
        finish().map_err(SealError::Broken)?;
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

/// A sync of what a segment holds, without its writer.
#[derive(Debug)]
pub struct Sync {
    file: Arc<File>,
    disk: Arc<Disk>,
    path: PathBuf,
    to: u64,
}

/// Syncs of one segment, one after the other.
///
/// The system tells of a write that failed once, to whoever syncs next: of two at the same time the other would hear that all
/// is well. So after a failure none succeeds.
#[derive(Debug, Default)]
struct Disk(Mutex<bool>);

impl Disk {
    fn sync(&self, file: &File, path: &Path) -> Result<(), StoreError> {
        let mut has_failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *has_failed {
            let detail = "an earlier sync failed";
            return Err(StoreError::Damaged { path: path.to_owned(), offset: 0, detail });
        }
        let synced = file.sync_data().context("syncing", path);
        *has_failed = synced.is_err();
        Ok(synced?)
    }
}

impl Sync {
    /// Runs it; returns up to where the segment is durable.
    pub fn run(&self) -> Result<u64, StoreError> {
        self.disk.sync(&self.file, &self.path).map(|()| self.to)
    }
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
