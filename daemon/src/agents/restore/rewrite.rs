//! One transcript as it passes, with the paths and ids of another machine.
//!
//! **Invariant:** a line in which nothing is to be changed comes out as it came in, and so does one that is no JSON or
//! too long to be looked into.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::object::Blob;
use baton_store::chunk::for_each_piece;
use baton_store::error::StoreError;
use baton_store::objects::ObjectSource;

use super::super::adapter::{Agent, Base, Target, Treatment};
use super::super::json::{Token, edit};
use super::super::lines::Piece;
use super::super::paths::PathMap;
use super::super::session::AgentError;

/// Longest first line that is read for what a transcript goes on from.
const MAX_FIRST: usize = 4 * 1024 * 1024;

/// What transcripts go on from, and where those places are in the files as they are written here.
#[derive(Clone, Debug, Default)]
pub(super) struct Bases {
    of: BTreeMap<String, Base>,
    /// By id and place there: the place here.
    places: BTreeMap<(String, u64), u64>,
}

impl Bases {
    pub(super) fn note(&mut self, id: String, base: Option<Base>) {
        self.of.extend(base.map(|base| (id, base)));
    }

    pub(super) fn forget_places(&mut self) {
        self.places.clear();
    }

    /// Everything that one goes on from.
    pub(super) fn ancestors(&self, id: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut at = id;
        while let Some(base) = self.of.get(at) {
            if base.id == id || !found.insert(base.id.clone()) {
                break;
            }
            at = &base.id;
        }
        found
    }

    /// How many others come before it.
    pub(super) fn depth(&self, id: &str) -> usize {
        self.ancestors(id).len()
    }

    /// The places of one at which others begin.
    fn wanted(&self, id: &str) -> BTreeSet<u64> {
        self.of.values().filter(|base| base.id == id).map(|base| base.offset).collect()
    }
}

/// A transcript under way.
pub(super) struct Rewrite<'a> {
    agent: &'a dyn Agent,
    map: &'a PathMap,
    to: &'a Target,
    bases: &'a mut Bases,
    id: Option<&'a str>,
    wanted: BTreeSet<u64>,
    /// What it goes on from, and where that is here.
    base: Option<(u64, u64)>,
    cut: Option<u64>,
    /// Bytes that have passed, there and here.
    at: (u64, u64),
    /// Whether a line begins here.
    at_line: bool,
    is_cut: bool,
    out: Vec<u8>,
}

impl<'a> Rewrite<'a> {
    pub(super) fn new(
        agent: &'a dyn Agent,
        map: &'a PathMap,
        to: &'a Target,
        bases: &'a mut Bases,
        id: Option<&'a str>,
        cut: Option<u64>,
    ) -> Self {
        let wanted = id.map(|id| bases.wanted(id)).unwrap_or_default();
        let base = id.and_then(|id| bases.of.get(id)).and_then(|base| {
            let here = bases.places.get(&(base.id.clone(), base.offset))?;
            Some((base.offset, *here))
        });
        Self {
            agent,
            map,
            to,
            bases,
            id,
            wanted,
            base,
            cut,
            at: (0, 0),
            at_line: true,
            is_cut: false,
            out: Vec::new(),
        }
    }

    /// The bytes that go in its place.
    pub(super) fn piece<'b>(&'b mut self, piece: Piece<'b>) -> &'b [u8] {
        let (Piece::Line(bytes) | Piece::Part(bytes)) = piece;
        self.out.clear();
        if self.at_line {
            // Where it begins may be where it is to end: never in the middle of a line.
            self.is_cut |= self.cut.is_some_and(|cut| self.at.0 >= cut);
            self.mark();
        }
        self.at.0 += bytes.len() as u64;
        self.at_line = bytes.ends_with(b"\n");
        if self.is_cut {
            return &[];
        }
        let changed = matches!(piece, Piece::Line(_)) && self.line(bytes);
        let out = if changed { self.out.as_slice() } else { bytes };
        self.at.1 += out.len() as u64;
        out
    }

    /// It has ended.
    pub(super) fn end(&mut self) {
        self.mark();
    }

    /// Remembers where this place is, if another one begins there.
    fn mark(&mut self) {
        if let Some(id) = self.id.filter(|_| self.wanted.contains(&self.at.0)) {
            self.bases.places.insert((id.to_owned(), self.at.0), self.at.1);
        }
    }

    fn line(&mut self, line: &[u8]) -> bool {
        let Self { agent, map, to, base, out, .. } = self;
        edit(line, out, |keys, token, text| {
            if token == Token::Text
                && let Ok(id) = std::str::from_utf8(text)
                && let Some(new) = to.ids.get(id)
            {
                return Some(new.as_bytes().to_vec());
            }
            let renamed = std::str::from_utf8(text)
                .ok()
                .filter(|_| token == Token::Text)
                .and_then(|text| agent.renamed(keys, text, to));
            if let Some(new) = renamed {
                let mapped = match agent.treatment(keys, token, text) {
                    Treatment::Paths => map.replace(new.as_bytes()),
                    _ => None,
                };
                return Some(mapped.unwrap_or_else(|| new.into_bytes()));
            }
            match agent.treatment(keys, token, text) {
                Treatment::Leave => None,
                Treatment::Paths => map.replace(text),
                Treatment::Offset => {
                    let (there, here) = (*base)?;
                    let is_it = text == there.to_string().as_bytes() && there != here;
                    is_it.then(|| here.to_string().into_bytes())
                }
            }
        })
    }
}

enum Stop {
    Enough,
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The first line of a file; nothing where it is too long.
pub(super) fn first_line<S: ObjectSource + ?Sized>(
    source: &S,
    blob: Blob,
) -> Result<Option<Vec<u8>>, AgentError> {
    let mut line = Vec::new();
    let read = for_each_piece(source, blob, |bytes| {
        let end = bytes.iter().position(|&byte| byte == b'\n');
        line.extend_from_slice(bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default());
        if end.is_some() || line.len() > MAX_FIRST { Err(Stop::Enough) } else { Ok(()) }
    });
    match read {
        Err(Stop::Store(error)) => Err(error.into()),
        _ => Ok(Some(line).filter(|line| line.len() <= MAX_FIRST)),
    }
}
