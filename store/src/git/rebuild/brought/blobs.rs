//! Texts that both sides changed in their indexes, merged: however many there are, git runs twice.
//!
//! **Invariant:** a name that is given for what a merge came to is that of a blob which is there when
//! [`merging`] has ended without an error.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::mpsc;

use baton_protocol::object::{GitHash, GitOid};

use super::TextMerge;
use super::entries::{Edits, EntryClash};
use crate::fs::{self, Context};
use crate::git::GitError;
use crate::git::index::name_of_blob;
use crate::git::program::DURABLE;
use crate::git::view::View;

const READING: &str = "read objects";
const WRITING: &str = "write objects";

/// Longest line with which git answers before the bytes of an object.
const MAX_LINE: u64 = 256;

/// How texts are merged.
pub(super) struct Merging<'a, M> {
    pub(super) view: &'a View<'a>,
    pub(super) hash: GitHash,
    /// Longest text that is merged.
    pub(super) max_text: u64,
    /// What two edits of a text come to.
    pub(super) merge: M,
}

impl<M: FnMut(&[u8], &[u8], &[u8]) -> TextMerge> Merging<'_, M> {
    /// Does `work`, which may ask what two edits of a blob come to, and writes what they came to.
    pub(super) fn during<T>(
        mut self,
        work: impl FnOnce(&mut dyn FnMut([GitOid; 3]) -> Result<Edits, GitError>) -> Result<T, GitError>,
    ) -> Result<T, GitError> {
        let mut merged = Merged { view: self.view, names: Vec::new() };
        let (ask, asked) = mpsc::channel::<GitOid>();
        let value = self
            .view
            .git()
            .args(["cat-file", "--batch"])
            .run(
                READING,
                |mut stdin| {
                    asked
                        .into_iter()
                        .try_for_each(|oid| stdin.write_all(format!("{oid}\n").as_bytes()))
                },
                |stdout| {
                    let mut blobs =
                        Blobs { ask, answers: BufReader::new(stdout), max: self.max_text };
                    work(&mut |oids| {
                        let mut texts = Vec::with_capacity(3);
                        for oid in oids {
                            match blobs.read(oid)? {
                                Some(text) => texts.push(text),
                                None => return Ok(Edits::Clash(EntryClash::Binary)),
                            }
                        }
                        let [base, ours, theirs] = texts.as_slice() else {
                            return Ok(Edits::Clash(EntryClash::Binary));
                        };
                        Ok(match (self.merge)(base, ours, theirs) {
                            TextMerge::Clean(text) => {
                                let oid = name_of_blob(self.hash, &text)?;
                                merged.keep(oid, &text)?;
                                Edits::Merged(oid, text.len() as u64)
                            }
                            TextMerge::Conflict => Edits::Clash(EntryClash::Content),
                            TextMerge::Binary => Edits::Clash(EntryClash::Binary),
                        })
                    })
                },
            )?
            .checked(READING)?;
        merged.write(self.hash)?;
        Ok(value)
    }
}

/// A run of git that is asked for one blob after the other.
struct Blobs<R> {
    ask: mpsc::Sender<GitOid>,
    answers: BufReader<R>,
    max: u64,
}

impl<R: Read> Blobs<R> {
    /// Reads a blob; nothing where there is none, or a longer one.
    fn read(&mut self, oid: GitOid) -> Result<Option<Vec<u8>>, GitError> {
        let stopped = || GitError::Git { doing: READING, said: "it stopped in the middle".into() };
        self.ask.send(oid).map_err(|_| stopped())?;
        let mut line = Vec::new();
        let read = self.answers.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        if read.is_err() || line.pop() != Some(b'\n') {
            return Err(stopped());
        }
        let words: Vec<_> = line.split(|&byte| byte == b' ').collect();
        let (kind, len) = match words.as_slice() {
            [_, kind, len] => {
                (*kind, std::str::from_utf8(len).ok().and_then(|len| len.parse::<u64>().ok()))
            }
            // `… missing`
            _ => return Ok(None),
        };
        let len = len.ok_or_else(stopped)?;
        // What is not wanted is read all the same: the next answer comes after it.
        let is_wanted = kind == b"blob" && len <= self.max;
        let mut bytes = Vec::new();
        let mut content = self.answers.by_ref().take(len);
        let read = if is_wanted {
            content.read_to_end(&mut bytes).map(|read| read as u64)
        } else {
            std::io::copy(&mut content, &mut std::io::sink())
        };
        let mut end = [0];
        let ended = self.answers.read_exact(&mut end);
        if read.ok() != Some(len) || ended.is_err() || end != *b"\n" {
            return Err(stopped());
        }
        Ok(is_wanted.then_some(bytes))
    }
}

/// What merges came to, as files until git takes them in.
struct Merged<'a> {
    view: &'a View<'a>,
    names: Vec<GitOid>,
}

impl Merged<'_> {
    fn file(&self, at: usize) -> PathBuf {
        self.view.beside().join(format!("merged-{at}"))
    }

    fn keep(&mut self, oid: GitOid, text: &[u8]) -> Result<(), GitError> {
        let path = self.file(self.names.len());
        let mut file = fs::create_new(&path)?;
        file.write_all(text).context("writing", &path)?;
        self.names.push(oid);
        Ok(())
    }

    /// Makes git take all of them in, durably.
    fn write(self, hash: GitHash) -> Result<(), GitError> {
        if self.names.is_empty() {
            return Ok(());
        }
        let names = 0..self.names.len();
        let input: Vec<u8> =
            names.flat_map(|at| format!("../merged-{at}\n").into_bytes()).collect();
        let args = ["hash-object", "-w", "--no-filters", "--stdin-paths"];
        let answer = self.names.len() as u64 * (1 + 2 * 32);
        let said = self
            .view
            .git()
            .args(DURABLE)
            .args(args)
            .bytes(WRITING, &input, answer)?
            .checked(WRITING)?;
        let lines = said.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let written: Vec<_> = lines.map(|line| GitOid::from_hex(hash, line)).collect();
        let is_same = written.len() == self.names.len()
            && written.iter().zip(&self.names).all(|(is, own)| is.as_ref() == Some(own));
        if !is_same {
            let said = "it gave them other names".to_owned();
            return Err(GitError::Git { doing: WRITING, said });
        }
        Ok(())
    }
}
