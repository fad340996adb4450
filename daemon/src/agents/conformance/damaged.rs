//! Whole conversations, damaged at random: as files in a folder, and as what a store says that they are.
//!
//! An input is the files of a conversation, one after the other, each behind its name. Places of the machine stand in it under
//! names of their own, so that one that is kept means the same on every machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use baton_protocol::object::Part;
use baton_protocol::path::RelPath;
use baton_store::chunk::store_bytes;
use baton_store::secrets::SecretRules;

use super::*;
use crate::fuzz::fuzzing::{Random, fuzz_with, within};

/// Behind a name, and behind a file.
const NAMED: u8 = 0x1f;
const ENDED: u8 = 0x1e;

/// What reading may take, however long a conversation is: the buffers of the chunker and of lines, windows of the search for
/// secrets, and what an intake keeps in memory.
pub(super) const FIXED: usize = 24 << 20;

/// How much of each byte may be in memory at once: a line, its values, and what is made of them.
pub(super) const EACH: usize = 512;

/// Names for places of a machine, longest place first.
pub(super) fn places(machine: &Machine) -> [(String, &'static str); 3] {
    let root = machine.root.to_str().unwrap();
    let slug = root.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    [
        (machine.home.to_str().unwrap().to_owned(), "/@HOME"),
        (root.to_owned(), "/@ROOT"),
        (slug, "-@SLUG"),
    ]
}

pub(super) fn replace(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let (from, mut out, mut at) = (from.as_bytes(), Vec::new(), 0);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(from) {
            out.extend_from_slice(to.as_bytes());
            at += from.len();
        } else {
            out.push(rest[0]);
            at += 1;
        }
    }
    out
}

pub(super) fn without_places(bytes: &[u8], machine: &Machine) -> Vec<u8> {
    places(machine).iter().fold(bytes.to_vec(), |all, (place, name)| replace(&all, place, name))
}

pub(super) fn with_places(bytes: &[u8], machine: &Machine) -> Vec<u8> {
    places(machine).iter().fold(bytes.to_vec(), |all, (place, name)| replace(&all, name, place))
}

fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let one = |(name, bytes): &(String, Vec<u8>)| {
        [name.as_bytes(), &[NAMED], bytes.as_slice(), &[ENDED]].concat()
    };
    files.iter().flat_map(one).collect()
}

fn unpack(input: &[u8]) -> Vec<(&[u8], &[u8])> {
    input
        .split(|&byte| byte == ENDED)
        .map(|piece| match piece.iter().position(|&byte| byte == NAMED) {
            Some(at) => (&piece[..at], &piece[at + 1..]),
            None => (&b""[..], piece),
        })
        .collect()
}

/// Every file below a folder; links and what else there may be by their names alone.
pub(super) fn everything(top: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut all, mut left) = (BTreeMap::new(), vec![top.to_owned()]);
    while let Some(folder) = left.pop() {
        for name in fs::list_dir(&folder).unwrap() {
            let path = folder.join(name);
            let kind = path.symlink_metadata().unwrap().file_type();
            if kind.is_dir() {
                left.push(path);
            } else {
                let bytes = if kind.is_file() {
                    fs::read_if_exists(&path, 1 << 30).unwrap().unwrap()
                } else {
                    Vec::new()
                };
                all.insert(path, bytes);
            }
        }
    }
    all
}

/// All of a machine but for the folder of an agent: nothing of it ever changes.
pub(super) fn outside(machine: &Machine, agent: &dyn Agent) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = everything(machine.dir.path());
    all.retain(|path, _| !path.starts_with(machine.folder(agent)));
    all
}

pub(super) fn form(random: &mut Random) -> Form {
    match random.below(6) {
        0..3 => Form::Same,
        3 => Form::Fork { before_last_turn: true },
        4 => Form::Fork { before_last_turn: false },
        _ => Form::ForkAtHandoff,
    }
}

/// What was read or made; where it was not, it is said why.
pub(super) fn said<T>(result: Result<T, AgentError>) -> Option<T> {
    result.inspect_err(|error| assert!(!error.to_string().is_empty())).ok()
}

/// Where conversations come from and go to, and what is there of one.
struct Two {
    agent: &'static dyn Agent,
    home: Home,
    here: Machine,
    there: Machine,
    rules: SecretRules,
    allowed: baton_store::catalog::held::Allowed,
    /// Names in the conversation, and where these files are here.
    files: Vec<(String, PathBuf)>,
    /// What is in them.
    whole: Vec<Vec<u8>>,
}

impl Two {
    fn new(agent: &'static dyn Agent) -> Self {
        let (here, there) =
            (Machine::in_memory("ann", "app"), Machine::in_memory("worker", "run 7/tree"));
        let files = here.sample(agent, ID, &here.root);
        let read =
            |(_, path): &(String, PathBuf)| fs::read_if_exists(path, 1 << 20).unwrap().unwrap();
        let whole = files.iter().map(read).collect();
        fs::create_dir_all(&there.folder(agent)).unwrap();
        let rules = SecretRules::standard().unwrap();
        let allowed = baton_store::catalog::held::Allowed::default();
        Self { agent, home: Home::new(), here, there, rules, allowed, files, whole }
    }

    /// The sample as an input, with what is kept of its machine.
    fn sample(&self) -> Vec<u8> {
        let intake = self.home.vault.intake();
        let captured = taken(self.agent, &self.here, Some(ID), &intake);
        let names = captured.conversation.transcript.iter();
        let mut files: Vec<(String, Vec<u8>)> = names
            .map(|part| part.path.display().into_owned())
            .map(|name| (name.clone(), part(&captured.conversation, &name, &intake)))
            .collect();
        // The transcript first.
        let main = &self.files[0].0;
        files.sort_by_key(|(name, _)| name != main);
        without_places(&pack(&files), &self.here)
    }

    /// The same with little in it, so that damage meets what it says of its machine.
    fn short(&self, sample: &[u8]) -> Vec<u8> {
        let main = self.files[0].0.as_bytes();
        let pieces = unpack(sample).into_iter();
        let few = pieces.filter(|(name, _)| *name == main || *name == b"origin.json");
        few.flat_map(|(name, bytes)| {
            let lines = bytes.split_inclusive(|&byte| byte == b'\n');
            let first = lines.take(2).collect::<Vec<_>>().concat();
            [name, &[NAMED], first.as_slice(), &[ENDED]].concat()
        })
        .collect()
    }

    /// As its agent left it: each file of the input that has its name in the sample, and all others as they are.
    fn capture(&self, input: &[u8], random: &mut Random) -> bool {
        let pieces = unpack(input);
        for ((name, path), whole) in self.files.iter().zip(&self.whole) {
            let found = pieces.iter().find(|(found, _)| *found == name.as_bytes());
            let bytes = found.map_or(whole.as_slice(), |(_, bytes)| bytes);
            fs::write_whole(path, bytes, 0o600).unwrap();
        }
        let before = self.here.all(self.agent);
        let folder = self.here.open(self.agent);
        let source = Source { folder: &folder, root: &self.here.root, home: Some(&self.here.home) };
        let found = within(input, EACH, FIXED, |_| {
            said(sessions(self.agent, &source));
            find(self.agent, &source, Some(ID))
        });
        let Some(session) = said(found) else { return false };
        let session = session.unwrap();
        let intake = self.home.vault.intake();
        let captured = within(input, EACH, FIXED, |_| {
            let looking = Looking::Rules { rules: &self.rules, allowed: &self.allowed };
            let looked = look(self.agent, &source, &session, Some(looking), true)?;
            capture(self.agent, &source, &session, looked, &intake)
        });
        let Some(captured) = said(captured) else { return false };
        let conversation = &captured.conversation;
        assert_eq!(Conversation::decode(&conversation.encode()).unwrap(), *conversation);
        for (name, path) in &self.files {
            let is_carried =
                conversation.transcript.iter().any(|part| part.path.as_bytes() == name.as_bytes());
            if is_carried {
                let there = &before[path.to_str().unwrap()];
                assert!(part(conversation, name, &intake) == *there, "{name} was stored otherwise");
            }
        }
        // Where nothing has another path everything is as it was.
        let empty = self.there.open(self.agent);
        let folder_here = self.here.folder(self.agent);
        let same = Destination {
            folder: &empty,
            seen_as: Some(&folder_here),
            root: &self.here.root,
            home: Some(&self.here.home),
        };
        let restored = restore(self.agent, &intake, conversation, &same, Form::Same);
        if let Ok(restored) = &restored {
            assert!(!restored.is_new_id, "nothing was there");
            let main = part(conversation, &self.files[0].0, &intake);
            let session = self.agent.session(&empty, ID).unwrap();
            if let Some(session) = session {
                assert!(self.there.read_bytes(&session.at, self.agent) == main);
            }
        }
        self.clear_there();
        // A fork may have nothing before the turn that asked for it.
        let form = form(random);
        let is_there = self.restore(conversation, &intake, input, form);
        assert!(is_there || form != Form::Same || restored.is_err());
        // Into the folder that it is from: what is there stays.
        let at_home = Destination { folder: &folder, seen_as: None, ..same };
        said(restore(self.agent, &intake, conversation, &at_home, Form::Same));
        let after = self.here.all(self.agent);
        for (path, bytes) in &before {
            assert!(after.get(path) == Some(bytes), "{path} has changed");
        }
        for path in after.keys().filter(|path| !before.contains_key(*path)) {
            fs::remove_file(Path::new(path)).unwrap();
        }
        restored.is_ok()
    }

    /// As a store says that it is: names and all, made by anybody.
    fn take_over(&self, input: &[u8], random: &mut Random) -> bool {
        let intake = self.home.vault.intake();
        let mut parts = BTreeMap::new();
        for (name, bytes) in unpack(input).into_iter().take(100) {
            if let Ok(path) = RelPath::new(name) {
                parts.insert(
                    path.clone(),
                    Part { path, blob: store_bytes(bytes, &intake).unwrap() },
                );
            }
        }
        let conversation = Conversation {
            agent: self.agent.name().to_owned(),
            session: ID.to_owned(),
            messages: 3,
            transcript: parts.into_values().collect(),
            attachments: Vec::new(),
        };
        self.restore(&conversation, &intake, input, form(random))
    }

    /// Writes it on the other machine, where nothing but the folder of the agent changes.
    fn restore(
        &self,
        conversation: &Conversation,
        from: &Intake,
        input: &[u8],
        form: Form,
    ) -> bool {
        let restored = within(input, EACH, FIXED, |_| {
            written(self.agent, &self.there, conversation, form, from)
        });
        let restored = said(restored);
        if let Some(restored) = &restored {
            assert!(self.agent.is_id(&restored.id), "{restored:?}");
            assert!(restored.cwd.starts_with(&self.there.root), "{restored:?}");
            for name in &restored.written {
                let path = self.there.folder(self.agent).join(name);
                assert!(path.symlink_metadata().unwrap().is_file(), "{restored:?}");
            }
            // A second time there is nothing to be done.
            if form == Form::Same && !restored.is_new_id {
                let again = written(self.agent, &self.there, conversation, form, from);
                let again = again.unwrap();
                assert_eq!((again.written.len(), again.is_new_id), (0, false), "{again:?}");
            }
        }
        self.clear_there();
        restored.is_some()
    }

    fn clear_there(&self) {
        fs::remove_dir_all(&self.there.folder(self.agent)).unwrap();
        fs::create_dir_all(&self.there.folder(self.agent)).unwrap();
    }
}

fn transcripts(agent: &'static dyn Agent) {
    let two = Two::new(agent);
    let sample = two.sample();
    let (here, there) = (outside(&two.here, agent), outside(&two.there, agent));
    let short = two.short(&sample);
    fuzz_with(400, vec![sample, short], |_, input| {
        let random = &mut Random::of(input);
        let input = with_places(&input[..input.len().min(128 * 1024)], &two.here);
        let is_taken = if random.below(3) > 0 {
            two.capture(&input, random)
        } else {
            two.take_over(&input, random)
        };
        assert_eq!(outside(&two.here, agent), here, "something was written beside the folder");
        assert_eq!(outside(&two.there, agent), there, "something was written beside the folder");
        is_taken
    });
}

#[test]
fn claude_transcripts() {
    transcripts(&Claude);
}

#[test]
fn codex_transcripts() {
    transcripts(&Codex);
}

#[test]
fn gemini_transcripts() {
    transcripts(&Gemini);
}
