//! Conversations of agents in the homes of runs, which are whatever the runs have made of them.

use std::os::unix::fs::symlink;

use baton_store::snapshot::load_conversation;

use super::*;

const ID: &str = "01234567-89ab-4def-8123-456789abcdef";

/// A place with a home, for runs of Claude Code.
fn place(lab: &Lab, number: u8) -> Place {
    let place = lab.place(number);
    let home = place.attachments.with_file_name("home");
    system::create_dir_all(&home).unwrap();
    Place { agent: "claude".to_owned(), home: Some(home), ..place }
}

/// Has the agent say something in the checkout of a run.
fn say(place: &Place, folder: &Path, id: &str, words: &str) -> PathBuf {
    let cwd = place.checkout.to_str().unwrap();
    let slug: String =
        cwd.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let at = folder.join("projects").join(slug).join(format!("{id}.jsonl"));
    system::create_dir_all(at.parent().unwrap()).unwrap();
    let line = serde_json::json!({
        "type": "user", "uuid": "u", "sessionId": id, "cwd": cwd, "version": "2.1.330",
        "message": {"role": "user", "content": words},
    });
    let before = system::read_to_string(&at).unwrap_or_default();
    system::write(&at, format!("{before}{line}\n")).unwrap();
    at
}

fn claude(place: &Place) -> PathBuf {
    place.home.as_ref().unwrap().join(".claude")
}

fn conversations(lab: &Lab, snapshot: SnapshotId) -> Vec<baton_protocol::object::Conversation> {
    let vault = lab.vault();
    let loaded = load_snapshot(&vault, snapshot).unwrap();
    loaded.conversations.iter().map(|id| load_conversation(&vault, *id).unwrap()).collect()
}

#[test]
fn what_an_agent_said_is_in_each_snapshot_and_goes_on_under_its_id() {
    let lab = Lab::new();
    write(&lab.path("plain"), "file", "before\n");
    let (node, snapshot) = (lab.node(), lab.snapshot());
    let first = place(&lab, 1);
    node.prepare(&first, snapshot).unwrap();
    assert_eq!(node.converse(&first, snapshot, true).unwrap(), None);
    say(&first, &claude(&first), ID, "one");
    let live = Checkouts::keep(&node, &first, snapshot).unwrap();
    assert_eq!(conversations(&lab, live)[0].session, ID);
    let old = say(&first, &claude(&first), ID, "two");
    let result = node.seal(&first, snapshot).unwrap();
    assert_ne!(conversations(&lab, live), conversations(&lab, result));

    // The next one of the thread, with its home: the same conversation, at the path of another checkout.
    let next = Place { home: first.home.clone(), ..place(&lab, 2) };
    node.prepare(&next, result).unwrap();
    let conversed = node.converse(&next, result, false).unwrap().unwrap();
    assert_eq!((conversed.id.as_str(), conversed.from.as_ref()), (ID, Some(&first.checkout)));
    assert!(!old.exists());
    let at = say(&next, &claude(&next), ID, "three");
    let text = system::read_to_string(at).unwrap();
    assert_eq!(text.lines().count(), 3);
    assert!(!text.contains(first.checkout.to_str().unwrap()), "{text}");
    // Another thread's is a fork, and what was there and differs from what was kept stays.
    let fork = Place { home: first.home.clone(), ..place(&lab, 3) };
    node.prepare(&fork, result).unwrap();
    let forked = node.converse(&fork, result, true).unwrap().unwrap();
    assert_ne!(forked.id, ID);
    let again = Place { home: first.home, ..place(&lab, 4) };
    node.prepare(&again, result).unwrap();
    let kept = node.converse(&again, result, false).unwrap().unwrap();
    assert!(kept.id != ID && kept.id != forked.id);
}

#[test]
fn what_a_run_puts_at_the_place_of_its_agents_folder_leads_nowhere() {
    let lab = Lab::new();
    write(&lab.path("plain"), "file", "before\n");
    let (node, snapshot) = (lab.node(), lab.snapshot());
    let first = place(&lab, 1);
    node.prepare(&first, snapshot).unwrap();
    say(&first, &claude(&first), ID, "one");
    let result = node.seal(&first, snapshot).unwrap();
    assert_eq!(conversations(&lab, result).len(), 1);

    // What is the node's own is neither read nor written through a link.
    let own = lab.path("own");
    let second = place(&lab, 2);
    let secret = say(&second, &own, ID, "of the node's owner");
    let before = system::read(&secret).unwrap();
    symlink(&own, claude(&second)).unwrap();
    node.prepare(&second, result).unwrap();
    node.converse(&second, result, false).unwrap_err();
    let left = node.seal(&second, result).unwrap();
    assert_eq!(conversations(&lab, left), conversations(&lab, result));
    let report = node.seal(&second, result).unwrap();
    assert_eq!(report, left);
    assert_eq!(system::read(&secret).unwrap(), before);
    assert_eq!(system::read_dir(own.join("projects")).unwrap().count(), 1);
}

#[test]
fn a_conversation_with_what_the_run_was_given_does_not_leave() {
    let lab = Lab::new();
    write(&lab.path("plain"), "file", "before\n");
    let (node, snapshot) = (lab.node(), lab.snapshot());
    let value = b"correct-horse-battery-staple-0123";
    let set = baton_protocol::message::secrets::SetSecret {
        name: "TOKEN".to_owned(),
        agent: None,
        value: baton_protocol::message::secrets::SecretValue::new(value.to_vec()),
        push: None,
    };
    node.secrets.set(VAULT, &set).unwrap();
    let place = place(&lab, 1);
    drop(node.secrets.give(VAULT, place.run, "claude").unwrap());
    node.prepare(&place, snapshot).unwrap();
    let words = format!("it printed \"{}\"", String::from_utf8_lossy(value));
    say(&place, &claude(&place), ID, &words);
    let result = node.seal(&place, snapshot).unwrap();
    assert_eq!(conversations(&lab, result), []);
    let loaded = load_snapshot(&lab.vault(), result).unwrap();
    let omitted = baton_store::snapshot::load_omissions(&lab.vault(), &loaded).unwrap();
    let path = format!("conversation/{ID}");
    assert!(omitted.iter().any(|it| it.path.as_bytes() == path.as_bytes()), "{omitted:?}");
}
