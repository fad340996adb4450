//! What every adapter keeps: each test runs over all of them, with transcripts of the form that the programs write.
//!
//! - [`samples`]: sessions as they lie in a folder
//! - [`hostile`]: what nobody's program wrote
//! - [`damaged`]: whole conversations, damaged at random
//! - [`database`]: all of that for conversations in a database

mod samples;
mod hostile;
mod damaged;
mod database;

use std::io::Write as _;

use baton_protocol::id::ChunkId;
use baton_protocol::object::Conversation;
use baton_store::chunk::for_each_piece;
use baton_store::error::StoreError;
use baton_store::folder::Folder;
use baton_store::fs;
use baton_store::vault::{Intake, Vault};

use super::adapter::Agent;
use super::capture::{Captured, Source, capture, find, look, sessions};
use super::claude::Claude;
use super::codex::Codex;
use super::findings::Looking;
use super::gemini::Gemini;
use super::restore::{Destination, Form, Restored, restore};
use super::session::{AgentError, Session};
use samples::{ID, Machine, OTHER, write};

/// Those that keep conversations in files; [`database`] has the others.
const ALL: [&dyn Agent; 3] = [&Claude, &Codex, &Gemini];

/// A store of its own.
struct Home {
    _dir: tempfile::TempDir,
    vault: Vault,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vault = crate::workspace::tests::workspaces(dir.path()).vault;
        Self { _dir: dir, vault }
    }
}

fn taken(agent: &dyn Agent, machine: &Machine, id: Option<&str>, to: &Intake) -> Captured {
    try_take(agent, machine, id, to).unwrap()
}

/// What the transcript is made of.
fn chunks(captured: &Captured, of: &Intake) -> Vec<ChunkId> {
    let mut all = Vec::new();
    for part in &captured.conversation.transcript {
        baton_store::chunk::for_each_extent(of, part.blob, |_, extent| {
            all.push(extent.chunk);
            Ok::<_, StoreError>(())
        })
        .unwrap();
    }
    all
}

fn try_take(
    agent: &dyn Agent,
    machine: &Machine,
    id: Option<&str>,
    to: &Intake,
) -> Result<Captured, AgentError> {
    let folder = machine.open(agent);
    let source = Source { folder: &folder, root: &machine.root, home: Some(&machine.home) };
    let session = find(agent, &source, id)?.expect("no session");
    take(agent, &source, &session, id.is_some(), to)
}

fn take(
    agent: &dyn Agent,
    source: &Source<'_>,
    session: &Session,
    is_named: bool,
    to: &Intake,
) -> Result<Captured, AgentError> {
    let looked = look(agent, source, session, None, is_named)?;
    capture(agent, source, session, looked, to)
}

fn written(
    agent: &dyn Agent,
    machine: &Machine,
    conversation: &Conversation,
    form: Form,
    from: &Intake,
) -> Result<Restored, AgentError> {
    let folder = Folder::open_or_create(&machine.folder(agent)).unwrap();
    let root = machine.root.canonicalize().unwrap();
    let destination =
        Destination { folder: &folder, seen_as: None, root: &root, home: Some(&machine.home) };
    restore(agent, from, conversation, &destination, form)
}

fn part(conversation: &Conversation, name: &str, from: &Intake) -> Vec<u8> {
    let found = conversation.transcript.iter().find(|part| part.path.as_bytes() == name.as_bytes());
    let mut bytes = Vec::new();
    for_each_piece(from, found.unwrap().blob, |piece| {
        bytes.extend_from_slice(piece);
        Ok::<_, StoreError>(())
    })
    .unwrap();
    bytes
}

#[test]
fn the_session_of_a_workspace_is_found() {
    for agent in ALL {
        let machine = Machine::new("ann", "app");
        let folder = Folder::open_or_create(&machine.folder(agent)).unwrap();
        let source = Source { folder: &folder, root: &machine.root, home: None };
        assert_eq!(find(agent, &source, None).unwrap(), None);
        machine.sample(agent, ID, &machine.root);
        let elsewhere = machine.dir.path().join("app2");
        machine.sample(agent, OTHER, &elsewhere);

        let session = find(agent, &source, None).unwrap().unwrap();
        assert_eq!((session.id.as_str(), session.cwd.as_path()), (ID, machine.root.as_path()));
        assert_eq!(session.title, "look at the bug in app");
        assert_eq!(find(agent, &source, Some(ID)).unwrap().unwrap(), session);
        let error = find(agent, &source, Some(OTHER)).unwrap_err();
        assert!(matches!(error, AgentError::Elsewhere { .. }), "{error}");
        let none = ID.replace('0', "9");
        let error = find(agent, &source, Some(&none)).unwrap_err();
        assert!(matches!(error, AgentError::NoSession { .. }), "{error}");
        for no_id in ["", "../x", "/etc/passwd", &format!("{ID}/../x"), "*"] {
            let error = find(agent, &source, Some(no_id)).unwrap_err();
            assert!(matches!(error, AgentError::NoId { .. }), "{error}");
        }

        // Another one, in a folder of the workspace.
        let third = ID.replace('b', "c");
        machine.sample(agent, &third, &machine.root.join("inner"));
        let error = find(agent, &source, None).unwrap_err();
        let AgentError::Several { sessions: listed, .. } = &error else { panic!("{error}") };
        assert_eq!(listed.len(), 2);
        assert!(error.hint().unwrap().contains("--conversation ID"));
        assert_eq!(sessions(agent, &source).unwrap(), *listed);
    }
}

#[test]
fn a_link_to_the_workspace_is_the_workspace() {
    for agent in ALL {
        let machine = Machine::new("ann", "app");
        machine.sample(agent, ID, &machine.root);
        let link = machine.dir.path().join("link");
        std::os::unix::fs::symlink(&machine.root, &link).unwrap();
        let folder = machine.open(agent);
        let source = Source { folder: &folder, root: &link, home: None };
        assert_eq!(find(agent, &source, None).unwrap().unwrap().id, ID);
    }
}

#[test]
fn what_is_stored_is_what_stood_there() {
    for agent in ALL {
        let (home, machine) = (Home::new(), Machine::new("ann", "app"));
        let files = machine.sample(agent, ID, &machine.root);
        let intake = home.vault.intake();
        let captured = taken(agent, &machine, None, &intake);
        assert_eq!(captured.left_out, []);
        assert_eq!(captured.conversation.agent, agent.name());
        assert_eq!(captured.conversation.session, ID);
        assert!(captured.conversation.messages > 2);
        assert_eq!(captured.seen.odd_lines, 0);
        assert_eq!(captured.conversation.transcript.len(), files.len() + 1);
        for (name, at) in &files {
            let there = fs::read_if_exists(at, 1 << 20).unwrap().unwrap();
            assert!(part(&captured.conversation, name, &intake) == there, "{name}");
        }
        // Nothing has changed: nothing is new.
        assert_eq!(taken(agent, &machine, Some(ID), &intake).id, captured.id);
        let read = Conversation::decode(&captured.conversation.encode()).unwrap();
        assert_eq!(read, captured.conversation);
    }
}

#[test]
fn a_conversation_goes_on_at_another_path_and_comes_back_as_it_was() {
    for agent in ALL {
        let home = Home::new();
        let (here, there) = (Machine::new("ann", "app"), Machine::new("worker", "run 7/tree"));
        for inner in ["", "inner"] {
            let cwd = if inner.is_empty() { here.root.clone() } else { here.root.join(inner) };
            let id = if inner.is_empty() { ID } else { OTHER };
            let files = here.sample(agent, id, &cwd);
            let before = here.all(agent);
            let intake = home.vault.intake();
            let captured = taken(agent, &here, Some(id), &intake);
            let restored =
                written(agent, &there, &captured.conversation, Form::Same, &intake).unwrap();
            assert_eq!((restored.id.as_str(), restored.is_new_id), (id, false));
            // A plan is there from the first time.
            let known = usize::from(agent.name() == "claude" && !inner.is_empty());
            assert_eq!(restored.written.len(), files.len() - known, "{restored:?}");
            assert_eq!(restored.left_out, []);
            assert!(restored.cwd.starts_with(&there.root) && restored.cwd.ends_with(inner));
            assert_eq!(restored.resume.last().map(String::as_str), Some(id));

            // The agent finds it, by the folder and by the id.
            let folder = there.open(agent);
            let source = Source { folder: &folder, root: &there.root, home: None };
            let found = find(agent, &source, Some(id)).unwrap().unwrap();
            assert_eq!(found.cwd, restored.cwd);
            let all = there.text(agent);
            let old = here.root.to_str().unwrap();
            // Only what was said still names the old place.
            for line in all.lines().filter(|line| line.contains(old)) {
                assert!(line.contains("said about"), "{line}");
            }
            assert!(all.contains(&format!("said about {old}/src/main.rs")), "{all}");
            let file = there.root.join("src/main.rs");
            assert!(all.contains(file.to_str().unwrap()));

            // The other way: nothing is to be written, for it is the same.
            let back = taken(agent, &there, Some(id), &intake);
            let restored = written(agent, &here, &back.conversation, Form::Same, &intake).unwrap();
            assert_eq!((restored.written.len(), restored.is_new_id), (0, false), "{restored:?}");
            assert_eq!(here.all(agent), before);
        }
    }
}

#[test]
fn what_was_said_elsewhere_comes_home_and_nothing_is_written_twice() {
    for agent in ALL {
        let home = Home::new();
        let (here, there) = (Machine::new("ann", "app"), Machine::new("worker", "tree"));
        here.sample(agent, ID, &here.root);
        let intake = home.vault.intake();
        let captured = taken(agent, &here, None, &intake);
        for count in [true, false] {
            let restored =
                written(agent, &there, &captured.conversation, Form::Same, &intake).unwrap();
            assert_eq!(!restored.written.is_empty(), count, "{restored:?}");
        }
        let line = samples::later(agent, "all done");
        there.append(agent, ID, line.as_bytes());
        // An older form over a newer one: nothing is lost.
        let restored = written(agent, &there, &captured.conversation, Form::Same, &intake).unwrap();
        assert_eq!(restored.written.len(), 0, "{restored:?}");
        assert!(there.text(agent).contains("all done"));

        let back = taken(agent, &there, None, &intake);
        let restored = written(agent, &here, &back.conversation, Form::Same, &intake).unwrap();
        assert_eq!((restored.id.as_str(), restored.written.len()), (ID, 1), "{restored:?}");
        let path = here.path(agent, ID);
        let text = fs::read_if_exists(&path, 1 << 20).unwrap().unwrap();
        assert!(text.ends_with(line.as_bytes()));
        assert!(!here.text(agent).contains(there.root.to_str().unwrap()));
    }
}

#[test]
fn a_different_conversation_of_the_same_id_is_kept() {
    for agent in ALL {
        let home = Home::new();
        let (here, there) = (Machine::new("ann", "app"), Machine::new("worker", "tree"));
        here.sample(agent, ID, &here.root);
        let intake = home.vault.intake();
        let captured = taken(agent, &here, None, &intake);
        written(agent, &there, &captured.conversation, Form::Same, &intake).unwrap();
        // Both go on.
        here.append(agent, ID, samples::later(agent, "went on here").as_bytes());
        there.append(agent, ID, samples::later(agent, "went on there").as_bytes());
        let before = there.all(agent);
        let captured = taken(agent, &here, None, &intake);
        let restored = written(agent, &there, &captured.conversation, Form::Same, &intake).unwrap();
        assert!(restored.is_new_id && restored.id != ID);
        let after = there.all(agent);
        for (path, bytes) in &before {
            assert_eq!(after.get(path), Some(bytes), "{path}");
        }
        let folder = there.open(agent);
        let source = Source { folder: &folder, root: &there.root, home: None };
        assert_eq!(sessions(agent, &source).unwrap().len(), 2);
        let new = find(agent, &source, Some(&restored.id)).unwrap().unwrap();
        let text = there.read(&new.at, agent);
        assert!(text.contains("went on here") && !text.contains("went on there"));
        assert!(!text.contains(ID), "the old id is in the new conversation");
    }
}

#[test]
fn the_same_id_at_another_place_is_another_conversation() {
    for agent in ALL {
        let home = Home::new();
        let machine = Machine::new("ann", "app");
        machine.sample(agent, ID, &machine.root);
        let intake = home.vault.intake();
        let captured = taken(agent, &machine, None, &intake);
        let before = machine.all(agent);
        // A worktree beside the checkout, with the same folder of the agent.
        let folder = machine.open(agent);
        let root = machine.dir.path().join("app-run");
        let destination = Destination { folder: &folder, seen_as: None, root: &root, home: None };
        let restored =
            restore(agent, &intake, &captured.conversation, &destination, Form::Same).unwrap();
        assert!(restored.is_new_id, "{restored:?}");
        assert_eq!(restored.cwd, root);
        let after = machine.all(agent);
        assert!(before.iter().all(|(path, bytes)| after.get(path) == Some(bytes)));
        let source = Source { folder: &folder, root: &root, home: None };
        assert_eq!(find(agent, &source, None).unwrap().unwrap().id, restored.id);
    }
}

#[test]
fn a_fork_has_a_new_id_and_may_end_before_the_last_turn() {
    for agent in ALL {
        let home = Home::new();
        let (here, there) = (Machine::new("ann", "app"), Machine::new("worker", "tree"));
        here.sample(agent, ID, &here.root);
        let before = here.all(agent);
        let intake = home.vault.intake();
        let captured = taken(agent, &here, None, &intake);
        let fork = |before_last_turn| {
            let form = Form::Fork { before_last_turn };
            written(agent, &there, &captured.conversation, form, &intake).unwrap()
        };
        let (whole, short) = (fork(false), fork(true));
        let folder = there.open(agent);
        let source = Source { folder: &folder, root: &there.root, home: None };
        let text = |restored: &Restored| {
            let session = find(agent, &source, Some(&restored.id)).unwrap().unwrap();
            there.read(&session.at, agent)
        };
        assert!(whole.is_new_id && whole.id != ID && whole.id != short.id);
        let (whole, short) = (text(&whole), text(&short));
        assert!(whole.contains("hand it over") && !short.contains("hand it over"));
        assert!(short.contains("look at the bug") && short.ends_with('\n'));
        assert!(!whole.contains(ID) && !short.contains(ID));
        // Every line of the short one is one of the whole one.
        assert_eq!(
            short.lines().count(),
            whole.lines().take_while(|line| !line.contains(samples::LAST_TURN)).count()
        );
        assert_eq!(here.all(agent), before);
        // A conversation of one turn has nothing before it.
        let third = ID.replace('b', "c");
        here.one_turn(agent, &third);
        let captured = taken(agent, &here, Some(&third), &intake);
        let form = Form::Fork { before_last_turn: true };
        let restored = written(agent, &there, &captured.conversation, form, &intake);
        match agent.name() {
            "claude" => assert!(matches!(restored, Err(AgentError::NothingBefore)), "{restored:?}"),
            // Its first line is of no turn.
            _ => assert!(restored.unwrap().is_new_id),
        }
    }
}

#[test]
fn a_transcript_that_has_grown_shares_all_but_its_end() {
    for agent in ALL {
        let home = Home::new();
        let machine = Machine::new("ann", "app");
        machine.sample(agent, ID, &machine.root);
        for at in 0..2000 {
            let line = samples::later(agent, &format!("{at} {}", "word ".repeat(at % 97)));
            machine.append(agent, ID, line.as_bytes());
        }
        let intake = home.vault.intake();
        let before = taken(agent, &machine, None, &intake);
        machine.append(agent, ID, samples::later(agent, "one more").as_bytes());
        let after = taken(agent, &machine, None, &intake);
        assert_ne!(before.id, after.id);
        assert_eq!(after.seen.messages, before.seen.messages + 1);
        let (old, new) = (chunks(&before, &intake), chunks(&after, &intake));
        assert!(old.len() > 3);
        // The last chunk of the transcript, and at most one more where that was full.
        let fresh = new.iter().filter(|chunk| !old.contains(chunk)).count();
        assert!(fresh <= 2, "{fresh} of {}", new.len());
    }
}

#[test]
fn a_folder_that_cannot_take_it_is_as_it_was() {
    for agent in ALL {
        let home = Home::new();
        let (here, there) = (Machine::new("ann", "app"), Machine::new("worker", "tree"));
        here.sample(agent, ID, &here.root);
        let intake = home.vault.intake();
        let captured = taken(agent, &here, None, &intake);
        // A file where one of the last folders is to be.
        let top = match agent.name() {
            "claude" => "file-history",
            "gemini" => "tmp",
            _ => "sessions/2026/11/27",
        };
        let folder = there.folder(agent);
        write(&folder.join(top), b"in the way");
        let before = there.all(agent);
        let error = written(agent, &there, &captured.conversation, Form::Same, &intake);
        assert!(matches!(error, Err(AgentError::Folder(_))), "{error:?}");
        assert_eq!(there.all(agent), before);
        let names = fs::list_dir(&folder).unwrap();
        let other = names.iter().find(|name| name.to_string_lossy().starts_with(".baton"));
        assert_eq!(other, None);
    }
}

#[test]
fn what_is_shared_with_other_conversations_stays_as_it_is() {
    let agent = &super::claude::Claude;
    let home = Home::new();
    let (here, there) = (Machine::new("ann", "app"), Machine::new("worker", "tree"));
    here.sample(agent, ID, &here.root);
    let intake = home.vault.intake();
    let captured = taken(agent, &here, None, &intake);
    let plan = there.folder(agent).join("plans/a-plan.md");
    write(&plan, b"mine");
    let restored = written(agent, &there, &captured.conversation, Form::Same, &intake).unwrap();
    let kept: Vec<_> =
        restored.left_out.iter().map(|it| (it.path.as_str(), it.reason.name())).collect();
    assert_eq!(kept, [("plans/a-plan.md", "kept")]);
    assert_eq!(fs::read_if_exists(&plan, 100).unwrap().unwrap(), b"mine");
}

#[test]
fn a_fork_by_reference_travels_with_what_it_goes_on_from() {
    let agent = &super::codex::Codex;
    let home = Home::new();
    let (here, there) = (Machine::new("ann", "a"), Machine::new("worker", "a/longer/path"));
    let files = here.sample(agent, ID, &here.root);
    let child = files[1].0.rsplit_once("00-12-31-").unwrap().1.strip_suffix(".jsonl").unwrap();
    here.append(agent, ID, samples::later(agent, &format!("started {child}")).as_bytes());
    let (base, length) = here.fork(ID, OTHER);
    let intake = home.vault.intake();
    let captured = taken(agent, &here, Some(OTHER), &intake);
    let names: Vec<_> =
        captured.conversation.transcript.iter().map(|it| it.path.display()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    let restored = written(agent, &there, &captured.conversation, Form::Same, &intake).unwrap();
    assert_eq!((restored.id.as_str(), restored.written.len()), (OTHER, 3));
    // The place at which the base ends is where it ends here.
    let folder = there.open(agent);
    let text = |id: &str| {
        let session = agent.session(&folder, id).unwrap().unwrap();
        there.read(&session.at, agent)
    };
    let new = text(ID).len();
    assert_ne!(new as u64, length);
    assert!(text(OTHER).contains(&format!("\"end_byte_offset\":{new}}}")), "{}", text(OTHER));

    // Home again: all of it is the same.
    let back = taken(agent, &there, Some(OTHER), &intake);
    let restored = written(agent, &here, &back.conversation, Form::Same, &intake).unwrap();
    assert_eq!(restored.written.len(), 0, "{restored:?}");
    // A fork of the fork leaves the ancestor where it is.
    let form = Form::Fork { before_last_turn: false };
    let restored = written(agent, &there, &captured.conversation, form, &intake).unwrap();
    let fork = text(&restored.id);
    assert!(fork.contains(ID) && !fork.contains(OTHER), "{fork}");
    assert_eq!(restored.written.len(), 2, "{restored:?}");

    // Without its base it cannot be read, and that is said here and not there.
    fs::remove_file(&base).unwrap();
    let error = try_take(agent, &here, Some(OTHER), &intake).unwrap_err();
    assert!(matches!(&error, AgentError::NoBase { base, .. } if base == ID), "{error}");
}

#[test]
fn what_looks_like_a_secret_is_named_and_not_shown() {
    let rules = baton_store::secrets::SecretRules::standard().unwrap();
    for agent in ALL {
        let machine = Machine::new("ann", "app");
        machine.sample(agent, ID, &machine.root);
        let folder = machine.open(agent);
        let source = Source { folder: &folder, root: &machine.root, home: None };
        let allowed = baton_store::catalog::held::Allowed::default();
        let looking = Looking::Rules { rules: &rules, allowed: &allowed };
        let found = || {
            let session = find(agent, &source, None).unwrap().unwrap();
            look(agent, &source, &session, Some(looking), false).unwrap().found
        };
        assert_eq!(found(), []);
        let secret = format!("gh{}_{}", 'p', "x9Kd7Qm2Wz4Rt8Yb1Nc6x9Kd7Qm2Wz4Rt8Yb");
        machine.append(agent, ID, samples::later(agent, &format!("A=1\\n{secret}")).as_bytes());
        let found = found();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(samples::is_transcript(&found[0].file) && found[0].line > 3);
        assert!(!format!("{found:?}").contains(&secret));
    }
}

#[test]
fn a_session_that_is_written_to_is_read_as_it_was_when_it_was_opened() {
    for agent in ALL {
        let home = Home::new();
        let machine = Machine::new("ann", "app");
        machine.sample(agent, ID, &machine.root);
        let folder = machine.open(agent);
        let source = Source { folder: &folder, root: &machine.root, home: None };
        let session = find(agent, &source, None).unwrap().unwrap();
        let path = folder.path_of(&session.at);
        let intake = home.vault.intake();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut file = fs::open_append(&path).unwrap();
                let line = samples::later(agent, "and on");
                (0..20_000).for_each(|_| file.write_all(line.as_bytes()).unwrap());
            });
            let mut sizes = Vec::new();
            while !writer.is_finished() || sizes.is_empty() {
                let captured = take(agent, &source, &session, false, &intake).unwrap();
                let main = captured.conversation.transcript.iter().map(|part| part.blob.size).max();
                sizes.push(main.unwrap());
            }
            assert!(sizes.is_sorted(), "{sizes:?}");
        });
    }
}

#[test]
fn what_is_stored_is_what_was_looked_at() {
    for agent in ALL {
        let (home, machine) = (Home::new(), Machine::new("ann", "app"));
        machine.sample(agent, ID, &machine.root);
        let folder = machine.open(agent);
        let source = Source { folder: &folder, root: &machine.root, home: None };
        let session = find(agent, &source, None).unwrap().unwrap();
        let intake = home.vault.intake();
        let looked = look(agent, &source, &session, None, false).unwrap();
        // Nothing was stored by looking.
        let stored = baton_store::snapshot::load_conversation(&intake, looked.id);
        assert!(matches!(stored, Err(StoreError::Absent(_))), "{stored:?}");
        // It grows: what has come since is not of it.
        let path = machine.path(agent, ID);
        let before = fs::read_if_exists(&path, 1 << 20).unwrap().unwrap();
        machine.append(agent, ID, samples::later(agent, "something else").as_bytes());
        let captured = capture(agent, &source, &session, looked.clone(), &intake).unwrap();
        assert_eq!(captured.id, looked.id);
        let main = captured.conversation.transcript.iter();
        let mut main = main.map(|part| part.path.display().into_owned());
        let main = main.find(|it| it == "session.jsonl" || it.contains(ID)).unwrap();
        assert!(part(&captured.conversation, &main, &intake) == before);
        // It becomes another one, as long: that was not looked at.
        let mut other = before.clone();
        let at = other.iter().rposition(|&byte| byte == b'e').unwrap();
        other[at] = b'E';
        write(&path, &other);
        let changed = capture(agent, &source, &session, looked.clone(), &intake);
        assert!(matches!(changed, Err(AgentError::Unsteady { .. })), "{changed:?}");
        fs::remove_file(&path).unwrap();
        let gone = capture(agent, &source, &session, looked, &intake);
        assert!(matches!(gone, Err(AgentError::Unsteady { .. })), "{gone:?}");
    }
}

#[test]
fn of_a_conversation_of_elsewhere_a_fork_takes_nothing_unless_it_is_named() {
    let agent = &super::codex::Codex;
    let home = Home::new();
    let here = Machine::new("ann", "app");
    let private = here.dir.path().canonicalize().unwrap().join("private");
    here.sample(agent, ID, &private);
    let (base, length) = here.fork(ID, OTHER);
    // What came in it after the fork.
    here.append(agent, ID, samples::later(agent, "said in private later").as_bytes());
    let (folder, intake) = (here.open(agent), home.vault.intake());
    let source = Source { folder: &folder, root: &here.root, home: Some(&here.home) };
    let session = find(agent, &source, None).unwrap().unwrap();
    assert_eq!(session.id, OTHER);
    let refused = take(agent, &source, &session, false, &intake).unwrap_err();
    let is_that = matches!(&refused, AgentError::BaseElsewhere { base, cwd, .. } if base == ID && *cwd == private);
    assert!(is_that && refused.hint().unwrap().contains("--conversation ID"), "{refused}");
    // Named: of it what the fork goes on from, and none of the agents that it did not start in that.
    let taken = take(agent, &source, &session, true, &intake).unwrap();
    assert_eq!(taken.notes.len(), 1, "{:?}", taken.notes);
    assert!(taken.notes[0].contains(private.to_str().unwrap()));
    let parts: Vec<_> = (taken.conversation.transcript.iter())
        .map(|it| (it.path.display().into_owned(), it.blob.size))
        .filter(|(name, _)| name != "origin.json")
        .collect();
    assert_eq!(parts.len(), 2, "{parts:?}");
    let name = base.file_name().unwrap().to_str().unwrap();
    assert!(parts.iter().any(|(path, size)| path.ends_with(name) && *size == length), "{parts:?}");
}

#[test]
fn of_an_ancestor_travels_what_the_fork_goes_on_from() {
    let agent = &super::codex::Codex;
    let home = Home::new();
    let (here, there) = (Machine::new("ann", "app"), Machine::new("worker", "tree"));
    let files = here.sample(agent, ID, &here.root);
    // The agent that it has started is named in it.
    let child = files[1].0.rsplit_once("00-12-31-").unwrap().1.strip_suffix(".jsonl").unwrap();
    here.append(agent, ID, samples::later(agent, &format!("started {child}")).as_bytes());
    here.fork(ID, OTHER);
    let own = format!("{}{}", OTHER.get(..35).unwrap(), "f");
    here.child(&own, OTHER);
    let late = format!("{}{}", OTHER.get(..35).unwrap(), "e");
    here.child(&late, ID);
    here.append(agent, ID, samples::later(agent, &format!("later, started {late}")).as_bytes());
    let intake = home.vault.intake();
    let captured = taken(agent, &here, Some(OTHER), &intake);
    let names: Vec<_> = (captured.conversation.transcript.iter())
        .map(|it| it.path.display().into_owned())
        .collect();
    let has = |id: &str| names.iter().any(|name| name.contains(id));
    assert!(has(ID) && has(OTHER) && has(child) && has(&own), "{names:?}");
    assert!(!has(&late), "{names:?}");
    let restored = written(agent, &there, &captured.conversation, Form::Same, &intake).unwrap();
    assert_eq!(restored.id, OTHER);
    assert!(!there.text(agent).contains("later, started"));
    // All of the ancestor comes over its beginning, and not the other way.
    let whole = taken(agent, &here, Some(ID), &intake);
    for conversation in [&whole, &captured, &whole] {
        written(agent, &there, &conversation.conversation, Form::Same, &intake).unwrap();
        assert!(there.text(agent).contains("later, started") || conversation.id == captured.id);
    }
    assert!(there.text(agent).contains("later, started"));
}

#[test]
fn a_new_one_ends_before_the_turn_whose_call_hands_over() {
    for agent in ALL {
        let home = Home::new();
        let (here, there) = (Machine::new("ann", "app"), Machine::new("worker", "tree"));
        here.sample(agent, ID, &here.root);
        let intake = home.vault.intake();
        let written = |form: Form| {
            let captured = taken(agent, &here, None, &intake);
            let restored = written(agent, &there, &captured.conversation, form, &intake).unwrap();
            let session = agent.session(&there.open(agent), &restored.id).unwrap().unwrap();
            (restored, there.read(&session.at, agent))
        };
        // A call of something else, and one that was answered.
        here.append(agent, ID, samples::call(agent, "c1", "make test").as_bytes());
        let (_, text) = written(Form::ForkAtHandoff);
        assert!(text.contains("hand it over") && text.contains("make test"), "{text}");
        let (call, answer) =
            (samples::call(agent, "c2", "baton handoff --json"), samples::answer(agent, "c2"));
        here.append(agent, ID, call.as_bytes());
        here.append(agent, ID, answer.as_bytes());
        let (_, text) = written(Form::ForkAtHandoff);
        assert!(text.contains("baton handoff"), "{text}");
        // One that waits.
        here.append(agent, ID, samples::call(agent, "c3", "baton handoff -p x").as_bytes());
        let (fork, text) = written(Form::ForkAtHandoff);
        assert!(fork.is_new_id && text.contains("look at the bug"), "{text}");
        assert!(!text.contains("hand it over") && !text.contains("baton handoff"), "{text}");
        let (_, text) = written(Form::Fork { before_last_turn: false });
        assert!(text.contains("baton handoff -p x"), "{text}");
        // Under its own id it is all of it; where that is another one's, the new one is cut.
        let (same, text) = written(Form::Same);
        assert!(!same.is_new_id && text.contains("baton handoff -p x"), "{text}");
        there.append(agent, ID, samples::later(agent, "went on there").as_bytes());
        here.append(agent, ID, samples::later(agent, "went on here").as_bytes());
        let (other, text) = written(Form::Same);
        assert!(other.is_new_id && !text.contains("hand it over"), "{text}");
        // Answered after all.
        here.append(agent, ID, samples::answer(agent, "c3").as_bytes());
        let (_, text) = written(Form::ForkAtHandoff);
        assert!(text.contains("baton handoff -p x"), "{text}");
        // With nothing before it, it is all there is.
        let third = ID.replace('b', "c");
        here.one_turn(agent, &third);
        here.append(agent, &third, samples::call(agent, "c4", "baton handoff").as_bytes());
        let captured = taken(agent, &here, Some(&third), &intake);
        assert_eq!(captured.seen.handoff(), None);
    }
}

/// Carries a session of a real program to another folder, for that program to go on with there. Run by hand:
///
/// ```sh
/// BATON_SESSION='claude ID FOLDER ROOT NEW-FOLDER NEW-ROOT same|fork|before' \
///     cargo test -p baton-daemon -- --ignored --nocapture a_session_of_a_real_program
/// ```
#[test]
#[ignore = "by hand, with a session of a real program"]
#[expect(clippy::disallowed_methods, reason = "a test that is told by hand what to do")]
fn a_session_of_a_real_program_is_carried() {
    let told = std::env::var("BATON_SESSION").unwrap();
    let words: Vec<_> = told.split(' ').collect();
    let [agent, id, from, root, to, new_root, form] = words[..] else { panic!("{told}") };
    let agent = super::named(agent).unwrap();
    let (home, path) = (Home::new(), std::path::Path::new);
    let intake = home.vault.intake();
    let folder = Folder::open(path(from)).unwrap().unwrap();
    let source = Source { folder: &folder, root: path(root), home: None };
    let session = find(agent, &source, Some(id)).unwrap().unwrap();
    let captured = take(agent, &source, &session, true, &intake).unwrap();
    println!("{:?} {:?}", captured.seen, captured.left_out);
    let folder = Folder::open_or_create(path(to)).unwrap();
    let root = path(new_root);
    let destination = Destination { folder: &folder, seen_as: None, root, home: None };
    let form = match form {
        "same" => Form::Same,
        form => Form::Fork { before_last_turn: form == "before" },
    };
    let restored = restore(agent, &intake, &captured.conversation, &destination, form).unwrap();
    println!("{restored:#?}");
}
