//! What nobody's program wrote: damaged, foreign and hostile transcripts, in a folder and in a store.

use std::os::unix::fs::symlink;

use baton_protocol::id::ConversationId;
use baton_protocol::object::Part;
use baton_protocol::path::RelPath;
use baton_store::chunk::store_bytes;
use proptest::prelude::*;

use super::super::lines::MAX_LINE;
use super::*;

/// A conversation in a store, with something else in it.
fn changed(
    conversation: &Conversation,
    to: &Intake,
    change: impl Fn(&str, Vec<u8>) -> Option<(String, Vec<u8>)>,
) -> Conversation {
    let mut new = conversation.clone();
    let parts = conversation.transcript.iter().filter_map(|old| {
        let name = old.path.display().into_owned();
        let (name, bytes) = change(&name, part(conversation, &name, to))?;
        let blob = store_bytes(&bytes, to).unwrap();
        Some(Part { path: RelPath::new(name.as_bytes()).unwrap(), blob })
    });
    new.transcript = parts.collect();
    new.transcript.sort_by(|a, b| a.path.cmp(&b.path));
    new
}

fn add(conversation: &mut Conversation, to: &Intake, name: &str, bytes: &[u8]) {
    let blob = store_bytes(bytes, to).unwrap();
    conversation.transcript.push(Part { path: RelPath::new(name.as_bytes()).unwrap(), blob });
    conversation.transcript.sort_by(|a, b| a.path.cmp(&b.path));
}

#[test]
fn odd_lines_travel_as_they_are() {
    for agent in ALL {
        let home = Home::new();
        let (here, there) = (Machine::new("ann", "app"), Machine::new("worker", "tree"));
        here.sample(agent, ID, &here.root);
        let root = here.root.display().to_string();
        let mut odd =
            format!("{{\"type\":\"from-a-later-version\",\"x\":[1,{{}}],\"cwd\":\"{root}\"}}\n")
                .into_bytes();
        odd.extend_from_slice(
            b"no json at all\n\n\xff\xfe\0 bytes\n{\"type\":7,\"payload\":[]}\n[[[[\n",
        );
        odd.extend_from_slice(format!("{}1{}\n", "[".repeat(500), "]".repeat(500)).as_bytes());
        let cut =
            format!("{{\"type\":\"user\",\"cwd\":\"{root}\",\"message\":{{\"content\":\"cut o");
        odd.extend_from_slice(cut.as_bytes());
        here.append(agent, ID, &odd);
        let intake = home.vault.intake();
        let captured = taken(agent, &here, None, &intake);
        assert!(captured.seen.odd_lines >= 5, "{:?}", captured.seen);
        let restored = written(agent, &there, &captured.conversation, Form::Same, &intake).unwrap();
        let path = there.path(agent, &restored.id);
        let bytes = fs::read_if_exists(&path, 1 << 20).unwrap().unwrap();
        assert!(bytes.ends_with(cut.as_bytes()));
        let tail = odd.get(odd.iter().position(|&byte| byte == b'\n').unwrap()..).unwrap();
        assert!(bytes.ends_with(tail), "an odd line was changed");
        // Home again, the same.
        let before = here.all(agent);
        let back = taken(agent, &there, None, &intake);
        let restored = written(agent, &here, &back.conversation, Form::Same, &intake).unwrap();
        assert_eq!(
            here.all(agent).len(),
            before.len() + restored.written.len() * usize::from(restored.is_new_id)
        );
        assert!(before.iter().all(|(path, bytes)| here.all(agent).get(path) == Some(bytes)));
    }
}

#[test]
fn a_version_that_nobody_knows_travels_and_is_named() {
    for (agent, known, new) in [(ALL[0], "2.1.330", "9.0.0"), (ALL[1], "0.169.0", "7.7.7")] {
        let home = Home::new();
        let machine = Machine::new("ann", "app");
        machine.sample(agent, ID, &machine.root);
        let path = machine.path(agent, ID);
        let text = machine.text(agent).replace(known, new);
        let main: Vec<_> = text.lines().filter(|line| !line.contains("subagent")).collect();
        let main = main.join(
            "
",
        ) + "
";
        write(&path, main.as_bytes());
        let captured = taken(agent, &machine, Some(ID), &home.vault.intake());
        assert_eq!(captured.seen.version.as_deref(), Some(new));
    }
}

#[test]
fn a_line_without_end_passes_in_bounded_memory() {
    // One is enough: it is the same code for all.
    let agent = &super::super::claude::Claude;
    let home = Home::new();
    let (here, there) = (Machine::new("ann", "app"), Machine::new("worker", "tree"));
    here.sample(agent, ID, &here.root);
    let mut line =
        format!("{{\"type\":\"user\",\"cwd\":\"{}\",\"x\":\"", here.root.display()).into_bytes();
    line.resize(MAX_LINE + 1000, b'x');
    line.extend_from_slice(b"\"}\n");
    here.append(agent, ID, &line);
    here.append(agent, ID, super::samples::later(agent, "after it").as_bytes());
    let intake = home.vault.intake();
    let captured = taken(agent, &here, None, &intake);
    assert_eq!(captured.seen.odd_lines, 1);
    let restored = written(agent, &there, &captured.conversation, Form::Same, &intake).unwrap();
    let text = fs::read_if_exists(&there.path(agent, &restored.id), 1 << 27).unwrap().unwrap();
    assert!(text.ends_with(super::samples::later(agent, "after it").as_bytes()));
    assert!(text.windows(64).any(|window| window == &line[..64]));
}

#[test]
fn links_and_special_files_of_a_session_do_not_travel() {
    for agent in ALL {
        let home = Home::new();
        let machine = Machine::new("ann", "app");
        let files = machine.sample(agent, ID, &machine.root);
        let secret = machine.home.join("secret");
        write(&secret, b"secret of another program");
        let folder = machine.folder(agent);
        if agent.name() == "claude" {
            let own = files[1].1.parent().unwrap();
            symlink(&secret, own.join("agent-link.jsonl")).unwrap();
            symlink(&machine.home, own.join("linked")).unwrap();
            symlink(&machine.home, folder.join("image-cache")).unwrap();
            rustix::fs::mknodat(
                rustix::fs::CWD,
                own.join("pipe"),
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR,
                0,
            )
            .unwrap();
        } else if agent.name() == "gemini" {
            let own = files[1].1.parent().unwrap();
            symlink(&secret, own.join("link.jsonl")).unwrap();
            symlink(&machine.home, own.join("linked")).unwrap();
            symlink(&secret, own.with_file_name("session-2026-11-27T00-40-01a21b58.jsonl"))
                .unwrap();
            symlink(&machine.home, folder.join("tmp/linked")).unwrap();
        } else {
            symlink(
                &secret,
                folder
                    .join(format!("sessions/2026/11/27/rollout-2026-11-27T00-13-00-{OTHER}.jsonl")),
            )
            .unwrap();
            symlink(&machine.home, folder.join("sessions/2027")).unwrap();
        }
        let intake = home.vault.intake();
        let captured = taken(agent, &machine, None, &intake);
        assert_eq!(captured.conversation.transcript.len(), files.len() + 1);
        let left: Vec<_> = captured.left_out.iter().map(|it| it.reason.name()).collect();
        let special = match agent.name() {
            "claude" => 4,
            "gemini" => 2,
            _ => 0,
        };
        assert_eq!(left, vec!["special"; special], "{:?}", captured.left_out);
        // The transcript itself.
        let path = machine.path(agent, ID);
        fs::rename(&path, &machine.home.join("moved")).unwrap();
        symlink(machine.home.join("moved"), &path).unwrap();
        let error = try_take_found(agent, &machine, &intake);
        assert!(error.is_none_or(|error| matches!(
            error,
            AgentError::Folder(_) | AgentError::NoSession { .. }
        )));
    }
}

/// Nothing where no session was found.
fn try_take_found(agent: &dyn Agent, machine: &Machine, to: &Intake) -> Option<AgentError> {
    let folder = machine.open(agent);
    let source = Source { folder: &folder, root: &machine.root, home: None };
    match find(agent, &source, Some(ID)) {
        Ok(session) => take(agent, &source, &session?, false, to).err(),
        Err(error) => Some(error),
    }
}

#[test]
fn a_conversation_from_anybody_writes_nothing_but_a_session() {
    for agent in ALL {
        let home = Home::new();
        let (here, there) = (Machine::new("ann", "app"), Machine::new("worker", "tree"));
        let files = here.sample(agent, ID, &here.root);
        let intake = home.vault.intake();
        let mut conversation = taken(agent, &here, None, &intake).conversation;
        for name in [
            "settings.json",
            "hooks.json",
            "config.toml",
            "auth.json",
            "CLAUDE.md",
            "commands/x.md",
            "projects/-x/y.jsonl",
            "plans/a/b.md",
            "todos/a/b",
            "sessions/2026/11/27/x.jsonl",
            "sessions/rollout-2026-11-27T00-12-30-01a21b58-b33b-4981-9512-8b8a5be4cd61.jsonl",
        ] {
            add(&mut conversation, &intake, name, b"hostile");
        }
        let restored = written(agent, &there, &conversation, Form::Same, &intake).unwrap();
        assert_eq!(restored.written.len(), files.len());
        assert!(restored.left_out.iter().all(|it| it.reason.name() == "unknown"));
        assert_eq!(restored.left_out.len(), 11);
        let all = there.all(agent);
        assert_eq!(all.len(), files.len() + super::samples::signs(agent));
        assert!(all.values().all(|bytes| bytes != b"hostile"));
    }
}

#[test]
fn a_conversation_of_more_than_any_has_is_refused() {
    for agent in ALL {
        let home = Home::new();
        let (here, there) = (Machine::new("ann", "app"), Machine::new("worker", "tree"));
        here.sample(agent, ID, &here.root);
        let intake = home.vault.intake();
        let good = taken(agent, &here, None, &intake).conversation;
        let refused = |conversation: &Conversation| {
            let refused = written(agent, &there, conversation, Form::Same, &intake);
            assert!(matches!(refused, Err(AgentError::Unknown { .. })), "{refused:?}");
            assert_eq!(there.all(agent).len(), 0);
        };
        // Terabytes out of a chunk that is repeated need not be there to be refused.
        let mut large = good.clone();
        for part in &mut large.transcript {
            part.blob.size = 1 << 40;
        }
        refused(&large);
        let mut many = good.clone();
        let blob = many.transcript[0].blob;
        many.transcript.extend((0..1100).map(|at| Part {
            path: RelPath::new(format!("tasks/{at}.json").as_bytes()).unwrap(),
            blob,
        }));
        many.transcript.sort_by(|a, b| a.path.cmp(&b.path));
        refused(&many);
    }
}

#[test]
fn what_a_conversation_says_of_itself_is_not_believed() {
    for agent in ALL {
        let home = Home::new();
        let (here, there) = (Machine::new("ann", "app"), Machine::new("worker", "tree"));
        here.sample(agent, ID, &here.root);
        let intake = home.vault.intake();
        let good = taken(agent, &here, None, &intake).conversation;
        let with = |from: &str, to: &str| {
            changed(&good, &intake, |name, bytes| {
                if name != "origin.json" {
                    return Some((name.to_owned(), bytes));
                }
                let text = String::from_utf8(bytes).unwrap();
                assert!(text.contains(from), "{text}");
                Some((name.to_owned(), text.replace(from, to).into_bytes()))
            })
        };
        let root = here.root.to_str().unwrap();
        let mut bad = vec![
            with("\"format\":1", "\"format\":2"),
            with("{", ""),
            with("\"main\":\"", "\"main\":\"../../x/"),
            changed(&good, &intake, |name, bytes| {
                (name != "origin.json").then(|| (name.to_owned(), bytes))
            }),
        ];
        for session in ["../../etc", "", "/", OTHER] {
            bad.push(Conversation { session: session.to_owned(), ..good.clone() });
        }
        bad.push(Conversation { agent: "other".to_owned(), ..good.clone() });
        for conversation in bad {
            let refused = written(agent, &there, &conversation, Form::Same, &intake);
            assert!(matches!(refused, Err(AgentError::Unknown { .. })), "{refused:?}");
        }
        assert_eq!(there.all(agent).len(), 0);
        // A working folder that leads elsewhere becomes the workspace.
        for cwd in ["/etc", &format!("{root}/../x")] {
            let conversation = with(&format!("\"cwd\":\"{root}\""), &format!("\"cwd\":\"{cwd}\""));
            let there = Machine::new("worker", "tree");
            let restored = written(agent, &there, &conversation, Form::Same, &intake).unwrap();
            assert_eq!(restored.cwd, there.root);
        }
        // A place to end at that is in the middle of a line, or behind the end.
        for place in ["7", "99999999"] {
            let text = part(&good, "origin.json", &intake);
            let text = String::from_utf8(text).unwrap();
            let (_, number) = text.rsplit_once(':').unwrap();
            let number = number.trim_end_matches('}').to_owned();
            let conversation =
                with(&format!("\"last_turn\":{number}"), &format!("\"last_turn\":{place}"));
            let form = Form::Fork { before_last_turn: true };
            let restored = written(agent, &there, &conversation, form, &intake).unwrap();
            let path = there.folder(agent).join(restored.written.last().unwrap());
            let text = fs::read_if_exists(&path, 1 << 20).unwrap().unwrap();
            assert!(text.ends_with(b"\n"));
        }
    }
}

#[test]
fn nothing_is_written_through_a_link_in_the_folder() {
    for agent in ALL {
        let home = Home::new();
        let (here, there) = (Machine::new("ann", "app"), Machine::new("worker", "tree"));
        here.sample(agent, ID, &here.root);
        let intake = home.vault.intake();
        let conversation = taken(agent, &here, None, &intake).conversation;
        let outside = there.dir.path().join("outside");
        fs::create_dir_all(&outside).unwrap();
        let folder = there.folder(agent);
        fs::create_dir_all(&folder).unwrap();
        let top = match agent.name() {
            "claude" => "projects",
            "gemini" => "tmp",
            _ => "sessions",
        };
        symlink(&outside, folder.join(top)).unwrap();
        let refused = written(agent, &there, &conversation, Form::Same, &intake);
        assert!(matches!(refused, Err(AgentError::Folder(_))), "{refused:?}");
        assert!(fs::list_dir(&outside).unwrap().is_empty());
        assert_eq!(fs::list_dir(&folder).unwrap(), [top]);
    }
}

#[test]
fn transcripts_that_go_on_from_one_another_in_a_ring_end() {
    let agent = &super::super::codex::Codex;
    let home = Home::new();
    let (here, there) = (Machine::new("ann", "app"), Machine::new("worker", "tree"));
    here.sample(agent, ID, &here.root);
    here.fork(ID, OTHER);
    let intake = home.vault.intake();
    let good = taken(agent, &here, Some(OTHER), &intake).conversation;
    let ring = changed(&good, &intake, |name, bytes| {
        let text = String::from_utf8(bytes).unwrap();
        let base = format!(
            ",\"source\":\"exec\",\"history_base\":{{\"thread_id\":\"{OTHER}\",\"end_byte_offset\":1}}"
        );
        let text =
            if name.contains(ID) { text.replacen(",\"source\":\"exec\"", &base, 1) } else { text };
        Some((name.to_owned(), text.into_bytes()))
    });
    assert_ne!(ring, good);
    for form in [Form::Same, Form::Fork { before_last_turn: false }] {
        let restored = written(agent, &there, &ring, form, &intake).unwrap();
        assert!(!restored.id.is_empty());
    }
    // In a folder it is refused: the program would not read it either.
    let path = here.path(agent, ID);
    let text = part(
        &ring,
        &format!("sessions/2026/11/27/{}", path.file_name().unwrap().to_str().unwrap()),
        &intake,
    );
    write(&path, &text);
    let error = try_take(agent, &here, Some(OTHER), &intake).unwrap_err();
    assert!(matches!(error, AgentError::NoBase { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens to a transcript: it travels as it is, or is refused, and what is there stays.
    #[test]
    fn damage_anywhere_loses_nothing(
        which in 0..ALL.len(),
        places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        end in any::<prop::sample::Index>(),
    ) {
        let agent = ALL[which];
        let home = Home::new();
        let (here, there) = (Machine::new("ann", "app"), Machine::new("worker", "tree"));
        here.sample(agent, ID, &here.root);
        let path = here.path(agent, ID);
        let mut bytes = fs::read_if_exists(&path, 1 << 20).unwrap().unwrap();
        for (place, byte) in places {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(end.index(bytes.len()) + 1);
        write(&path, &bytes);
        let intake = home.vault.intake();
        let folder = here.open(agent);
        let source = Source { folder: &folder, root: &here.root, home: None };
        let Ok(Some(session)) = find(agent, &source, Some(ID)) else { return Ok(()) };
        let captured = match take(agent, &source, &session, false, &intake) {
            Ok(captured) => captured,
            Err(AgentError::NoBase { .. }) => return Ok(()),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        prop_assert_ne!(captured.id, ConversationId::from_bytes([0; 32]));
        let name = captured.conversation.transcript.iter().map(|it| it.path.display().into_owned());
        let mut name = name;
        let main = name.find(|name| name.ends_with(&format!("{ID}.jsonl")) || name == "session.jsonl");
        let main = main.unwrap();
        prop_assert!(part(&captured.conversation, &main, &intake) == bytes);
        for form in [Form::Same, Form::Fork { before_last_turn: true }] {
            match written(agent, &there, &captured.conversation, form, &intake) {
                Ok(restored) => prop_assert_eq!(restored.is_new_id, form != Form::Same),
                Err(AgentError::NothingBefore) => {}
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
        }
    }
}
