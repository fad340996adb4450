//! Objects that travel together in one frame.
//!
//! A batch carries no ids: the receiver hashes what comes out, so a peer cannot lie about a hash, and 32
//! incompressible bytes an object stay at home. An object that the receiver knows an older form of travels
//! as the places where it differs from that. That form is a place in the older form of what names it, or
//! the first eight bytes of a hash; and of what names it, both sides know how it changes. Whole objects and
//! what was inserted share one zstd frame, with the surroundings of the changes as its reference: the same
//! edit in many files is sent once.
//!
//! - [`renew`]: what an object will be once those that it names are their new forms
//!
//! **Invariant:** a receiver holds no more than [`BATCH_RESTORED`] and two objects beside the frame, whatever
//! that claims. A batch that leans on bases is restored whole or not at all.

mod renew;

use std::collections::HashMap;

use crate::delta::hunks::{self, Hunk};
use crate::delta::{self, DeltaError, compress_text, decompress_text};
use crate::encode::{DecodeError, Reader, Writer};
use crate::frame::FrameError;
use crate::id::{HashPrefix, ObjectId, ObjectKind};
use crate::object::{MAX_OBJECT, Object};

use renew::Renewals;

/// Bytes of whole objects and of what was inserted after which a batch is sent.
pub const BATCH_TARGET: usize = 256 * 1024;

/// Most objects of a batch.
pub const MAX_BATCH: usize = 4096;

/// Bytes of bases and of what is restored from them after which a batch is sent. Some bytes can stand for
/// [`MAX_OBJECT`]: without this limit one frame could make its receiver restore 2 GiB.
pub const BATCH_RESTORED: usize = 16 * 1024 * 1024;

/// Most bytes of bases and of what is restored from them: the last object and its base go over the target.
const MOST_RESTORED: usize = BATCH_RESTORED + 2 * weight(ObjectKind::Tree, MAX_OBJECT);

/// What the bytes of an object count for: those of metadata take four times the memory while their names
/// and hashes are looked at.
const fn weight(kind: ObjectKind, len: usize) -> usize {
    if kind.is_metadata() { 4 * len } else { len }
}

/// Bytes of reference after which a batch is sent.
const REFERENCE_TARGET: usize = 1024 * 1024;

/// Bytes of the table after which a batch is sent.
const TABLE_TARGET: usize = 64 * 1024;

/// Most bytes of an item in the table beside its hunks: its kind, and its length or its base.
const MAX_HEAD: usize = 9;

/// Longest table: the hunks of one more object fit.
const MAX_TABLE: usize = 256 * 1024;

/// Marks an item as a delta.
const DELTA: u8 = 0x80;

/// Marks a delta whose base is one of the objects that bases before it name.
const NAMED: u8 = 0x40;

/// Collects objects into one batch.
#[derive(Debug, Default)]
pub struct Batch {
    items: Vec<Pushed>,
    /// Bytes that the table will have at most.
    table: usize,
    text: Vec<u8>,
    reference: Vec<u8>,
    restored: usize,
    leans: bool,
    renewals: Renewals,
}

/// One object on its way into a table.
#[derive(Debug)]
enum Pushed {
    Full {
        kind: ObjectKind,
        len: usize,
    },
    Delta {
        base: ObjectId,
        /// What the base names.
        names: Vec<ObjectId>,
        /// The written hunks.
        hunks: Vec<u8>,
    },
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a whole object.
    pub fn push_full(&mut self, kind: ObjectKind, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
        self.push(Pushed::Full { kind, len: bytes.len() }, 0);
    }

    /// Adds an object as what differs from its base, which is of the same kind. What names it is to come
    /// after it.
    pub fn push_delta(
        &mut self,
        id: ObjectId,
        object: &[u8],
        base: ObjectId,
        base_bytes: &[u8],
    ) -> Result<(), DecodeError> {
        let old = Object::decode(id.kind, base_bytes)?;
        let names = old.children();
        let (expected, from) = self.renewals.renewed(base, base_bytes, old);
        let hunks = hunks::compare(&from, object);
        // Mostly a directory is as expected.
        let decoded = if hunks.is_empty() { expected } else { Object::decode(id.kind, object)? };
        for inserted in hunks::inserted(&from, &hunks, object) {
            self.text.extend_from_slice(inserted);
        }
        if id.kind == ObjectKind::Chunk {
            hunks::surroundings(base_bytes, &hunks, &mut self.reference);
        }
        self.renewals.note(base, id, object, &decoded);
        self.restored += weight(id.kind, base_bytes.len() + object.len());
        self.leans = true;
        let mut to = Writer::new();
        hunks::write(&hunks, &mut to);
        let hunks = to.finish();
        let len = hunks.len();
        self.push(Pushed::Delta { base, names, hunks }, len);
        Ok(())
    }

    fn push(&mut self, item: Pushed, len: usize) {
        self.items.push(item);
        self.table += MAX_HEAD + len;
    }

    /// Whether it is time to send: one more object of the largest size still fits.
    pub const fn is_full(&self) -> bool {
        self.text.len() >= BATCH_TARGET
            || self.table >= TABLE_TARGET
            || self.reference.len() >= REFERENCE_TARGET
            || self.restored >= BATCH_RESTORED
            || self.items.len() >= MAX_BATCH
    }

    /// Whether nothing was added.
    pub const fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether an object in it needs its base to be restored, and with it all of them.
    pub const fn leans(&self) -> bool {
        self.leans
    }

    /// The body of the frame; empties the batch.
    pub fn finish(&mut self) -> Result<Vec<u8>, FrameError> {
        let Self { items, text, reference, leans, .. } = std::mem::take(self);
        let table = write_table(&items);
        let (packed_table, packed) = if leans {
            (compress_text(&[], &table)?, compress_text(&reference, &text)?)
        } else {
            let packed = delta::compress(&text, delta::LEVEL)?;
            (table.clone(), if packed.len() < text.len() { packed } else { text })
        };
        let mut to = Writer::new();
        to.varint(table.len() as u64);
        to.bytes(&packed_table);
        to.fixed(&packed);
        Ok(to.finish())
    }
}

/// The last item first: its base is likely to name the bases of those before.
fn write_table(items: &[Pushed]) -> Vec<u8> {
    let mut table = Writer::new();
    table.varint(items.len() as u64);
    let mut places: HashMap<ObjectId, usize> = HashMap::new();
    let (mut count, mut next) = (0, 0);
    for item in items.iter().rev() {
        match item {
            Pushed::Full { kind, len } => {
                table.byte(*kind as u8);
                table.varint(*len as u64);
            }
            Pushed::Delta { base, names, hunks } => {
                let number = base.kind as u8 | DELTA;
                if let Some(&place) = places.get(base) {
                    table.byte(number | NAMED);
                    table.near(next, place);
                    next = place + 1;
                } else {
                    table.byte(number);
                    table.fixed(&base.prefix());
                }
                table.fixed(hunks);
                for name in names {
                    places.entry(*name).or_insert(count);
                    count += 1;
                }
            }
        }
    }
    table.finish()
}

/// One object of a batch as its table has it.
#[derive(Debug)]
enum Item {
    Full { kind: ObjectKind, len: usize },
    Delta { kind: ObjectKind, base: BaseRef, hunks: Vec<Hunk> },
}

#[derive(Clone, Copy, Debug)]
enum BaseRef {
    Prefix(HashPrefix),
    /// Its place among what the bases so far name.
    Named(usize),
}

/// The base of a delta, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The one object of this kind whose hash begins so.
    Prefix(ObjectKind, HashPrefix),
    /// This one.
    Id(ObjectId),
}

/// Objects that came whole, not yet checked.
pub type Whole = Vec<(ObjectKind, Vec<u8>)>;

/// A batch as it came, while it waits for its bases.
#[derive(Debug)]
pub struct Parcel {
    /// In the order of the table, which is not that in which they are restored.
    items: Vec<Item>,
    /// Of the deltas, in the same order.
    bases: Vec<Base>,
    /// What they name.
    named: Vec<ObjectId>,
    /// Items that were looked at for one.
    looked: usize,
    /// Bytes of bases.
    restored: usize,
    lacks: bool,
    text: usize,
    packed: Vec<u8>,
}

/// What a delta is restored from.
#[derive(Debug)]
struct Base {
    id: ObjectId,
    bytes: Vec<u8>,
    object: Object,
}

impl Parcel {
    /// Reads the body of a frame.
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut from = Reader::new(body);
        let len = from.bounded("table length", MAX_TABLE as u64)? as usize;
        let table = decompress_text(&[], from.bytes("table length", MAX_TABLE)?, len)?;
        let packed = from.fixed(from.left())?.to_vec();
        let mut table = Reader::new(&table);
        let count = table.count("objects of a batch", MAX_BATCH, 2)?;
        let mut items = Vec::with_capacity(count);
        let (mut text, mut next) = (0usize, 0);
        for _ in 0..count {
            let item = read_item(&mut table, &mut next)?;
            text = text.saturating_add(match &item {
                Item::Full { len, .. } => *len,
                Item::Delta { hunks, .. } => hunks.iter().map(|hunk| hunk.insert).sum(),
            });
            items.push(item);
        }
        table.finish()?;
        // A batch goes over its target with its last object at most.
        check_total("batch length", text, BATCH_TARGET + MAX_OBJECT)?;
        let (bases, named, looked, restored, lacks) = (Vec::new(), Vec::new(), 0, 0, false);
        Ok(Self { items, bases, named, looked, restored, lacks, text, packed })
    }

    /// Objects in it.
    pub const fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether an object in it needs its base, and with it all of them.
    pub fn leans(&self) -> bool {
        self.items.iter().any(|item| matches!(item, Item::Delta { .. }))
    }

    /// The next base to look for; [`Self::supply`] takes it. Nothing once one of them is not here.
    pub fn next_base(&mut self) -> Option<Wanted> {
        while !self.lacks
            && let Some(item) = self.items.get(self.looked)
        {
            if let Item::Delta { kind, base, .. } = item {
                let wanted = match *base {
                    BaseRef::Prefix(prefix) => Some(Wanted::Prefix(*kind, prefix)),
                    BaseRef::Named(place) => {
                        let named = self.named.get(place).copied();
                        named.filter(|id| id.kind == *kind).map(Wanted::Id)
                    }
                };
                self.lacks = wanted.is_none();
                return wanted;
            }
            self.looked += 1;
        }
        None
    }

    /// Takes the base that was asked for, or that there is none.
    pub fn supply(&mut self, base: Option<(ObjectId, Vec<u8>)>) {
        self.looked += 1;
        let Some((id, bytes)) = base else {
            self.lacks = true;
            return;
        };
        self.restored += weight(id.kind, bytes.len());
        // More than a sender takes is another base than it took.
        if self.restored <= MOST_RESTORED
            && let Ok(object) = Object::decode(id.kind, &bytes)
        {
            self.named.extend(object.children());
            self.bases.push(Base { id, bytes, object });
        } else {
            self.lacks = true;
        }
    }

    /// Restores all objects, and checks that each is canonical and one that a peer may send.
    pub fn restore(self) -> Result<Vec<(ObjectId, Vec<u8>)>, FrameError> {
        const LACKS: DecodeError = DecodeError::Inconsistent { what: "base of a delta" };
        if self.lacks {
            return Err(LACKS.into());
        }
        let text = self.text(&self.reference()?)?;
        let mut text = Reader::new(&text);
        let mut bases = self.bases.into_iter().rev();
        let mut renewals = Renewals::default();
        let mut restored = self.restored;
        let mut objects = Vec::with_capacity(self.items.len());
        for item in self.items.iter().rev() {
            let (kind, bytes, renewed) = match item {
                Item::Full { kind, len } => (*kind, text.fixed(*len)?.to_vec(), None),
                Item::Delta { kind, hunks, .. } => {
                    let base = bases.next().ok_or(LACKS)?;
                    let (_, from) = renewals.renewed(base.id, &base.bytes, base.object);
                    let bytes = hunks::restore(&from, hunks, &mut text)?;
                    restored += weight(*kind, bytes.len());
                    check_total("restored length", restored, MOST_RESTORED)?;
                    (*kind, bytes, Some(base.id))
                }
            };
            let object = Object::decode(kind, &bytes)?;
            object.check_received()?;
            let id = ObjectId::of(kind, &bytes);
            if let Some(base) = renewed {
                renewals.note(base, id, &bytes, &object);
            }
            objects.push((id, bytes));
        }
        text.finish()?;
        Ok(objects)
    }

    /// What surrounds the changes in the bases.
    fn reference(&self) -> Result<Vec<u8>, DecodeError> {
        let mut reference = Vec::new();
        let mut bases = self.bases.iter().rev();
        for item in self.items.iter().rev() {
            let Item::Delta { kind, hunks, .. } = item else { continue };
            if let Some(base) = bases.next()
                && *kind == ObjectKind::Chunk
            {
                hunks::surroundings(&base.bytes, hunks, &mut reference);
                check_total("reference length", reference.len(), REFERENCE_TARGET + MAX_OBJECT)?;
            }
        }
        Ok(reference)
    }

    /// The objects of a batch in which all are whole.
    pub fn whole(self) -> Result<Option<Whole>, FrameError> {
        let text = if self.leans() { return Ok(None) } else { self.text(&[])? };
        let mut text = Reader::new(&text);
        let mut objects = Vec::with_capacity(self.items.len());
        for item in self.items.iter().rev() {
            if let Item::Full { kind, len } = item {
                objects.push((*kind, text.fixed(*len)?.to_vec()));
            }
        }
        text.finish()?;
        Ok(Some(objects))
    }

    fn text(&self, reference: &[u8]) -> Result<Vec<u8>, DeltaError> {
        decompress_text(reference, &self.packed, self.text)
    }
}

/// Reads an item; a base that others name is mostly the one after the last of these.
fn read_item(from: &mut Reader<'_>, next: &mut usize) -> Result<Item, DecodeError> {
    let number = from.byte()?;
    let kind = ObjectKind::from_number(number & !(DELTA | NAMED))
        .ok_or(DecodeError::Unknown { what: "object kind", value: number.into() })?;
    let base = match number & (DELTA | NAMED) {
        0 => {
            let len = from.bounded("object length", MAX_OBJECT as u64)? as usize;
            return Ok(Item::Full { kind, len });
        }
        DELTA => BaseRef::Prefix(from.array()?),
        NAMED => return Err(DecodeError::Unknown { what: "object kind", value: number.into() }),
        _ => {
            let place = from.near("place of a base", *next, MOST_RESTORED)?;
            *next = place + 1;
            BaseRef::Named(place)
        }
    };
    Ok(Item::Delta { kind, base, hunks: hunks::read(from)? })
}

const fn check_total(what: &'static str, total: usize, most: usize) -> Result<(), DecodeError> {
    if total > most {
        return Err(DecodeError::Limit { what, value: total as u64, limit: most as u64 });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
