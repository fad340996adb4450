//! Who is let in, what they see, and what is said to everybody else; and what happens when a node is
//! away, comes back, or is another one.

#![expect(clippy::disallowed_methods, reason = "a test has the file system and the clock itself")]

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use baton_protocol::ticket::Ticket;
use serde_json::Value;

use crate::support::cloud::{Background, Cloud, arg, list, refused, text};
use crate::support::home::{TestHome, eventually};
use crate::support::udp_proxy::{UdpProxy, Weather};
use crate::support::walker::{differences, walk};

/// Most that a user waits to hear that a node is away: two seconds to connect, and room for a slow
/// machine.
const SOON: Duration = Duration::from_secs(8);

/// A workspace with one file.
fn workspace(home: &TestHome) -> PathBuf {
    let tree = home.folder("work");
    write(&tree, "first\n");
    tree
}

fn write(tree: &Path, bytes: &str) {
    std::fs::write(tree.join("file"), bytes).unwrap();
}

/// Pushes, which must succeed; returns the snapshot.
fn push(home: &TestHome, tree: &Path) -> String {
    let pushed = home.json(&["push", arg(tree)]);
    assert_eq!(text(&pushed, "state"), "acked");
    text(&pushed, "snapshot").to_owned()
}

/// Whether a snapshot comes from the node as the tree at `original`.
fn restores(home: &TestHome, snapshot: &str, original: &Path) {
    let into = tempfile::tempdir().unwrap();
    let into = into.path().join("restored");
    home.json(&["restore", snapshot, "--into", arg(&into)]);
    assert_eq!(differences(&walk(original), &walk(&into), &[]), [""; 0]);
}

fn remotes(home: &TestHome) -> usize {
    let answer = home.json(&["remote", "list"]);
    list(&answer, "remotes").iter().filter(|remote| remote["embedded"] == false).count()
}

#[test]
fn only_a_ticket_that_is_good_lets_in() {
    let cloud = Cloud::new();
    let home = TestHome::new();
    let good = cloud.ticket(&[]);
    // Every letter counts; the last one stands for a few bits only.
    let mut mistyped = good.clone().into_bytes();
    let at = mistyped.len() / 2;
    mistyped[at] = if mistyped[at] == b'a' { b'b' } else { b'a' };
    let mistyped = String::from_utf8(mistyped).unwrap();
    for wrong in
        [mistyped.as_str(), &good[..good.len() - 3], "baton1", "hello", "https://example.org"]
    {
        refused(&home, &["join", wrong], 1, "ticket");
    }
    // Well-formed, and never issued.
    let mut ticket = Ticket::decode(&good).unwrap();
    ticket.secret[0] ^= 1;
    refused(&home, &["join", &ticket.encode()], 1, "ticket-refused");

    let expired = cloud.home.json(&["ticket", "--expires", "1s"]);
    let issued = Instant::now();
    // Nothing tells that a time has come.
    std::thread::sleep(Duration::from_millis(1100).saturating_sub(issued.elapsed()));
    let said = refused(&home, &["join", text(&expired, "ticket")], 1, "ticket-refused");
    assert!(said.contains("expired"), "{said}");
    assert_eq!(remotes(&home), 0);

    // As pasted: in capitals, with blanks around it, by standard input.
    let pasted = format!("\n  {}  \n", good.to_uppercase());
    let joined = home.baton_with_input(&["join", "-", "--json"], pasted.as_bytes());
    let joined: Value = serde_json::from_slice(&joined.stdout).unwrap();
    assert_eq!(text(&joined, "user"), "owner");
    assert_eq!(text(&joined, "node_id"), cloud.serve().node_id);
    // An answer that was lost: the same device may ask again, another one may not.
    assert_eq!(home.json(&["join", &good])["device_id"], joined["device_id"]);
    assert_eq!(remotes(&home), 1);
    let other = TestHome::new();
    let said = refused(&other, &["join", &good], 1, "ticket-refused");
    assert!(said.contains("used"), "{said}");
    let tree = workspace(&other);
    // It has joined nothing, so that its own node is the one that keeps the snapshot.
    assert_eq!(text(&other.json(&["push", arg(&tree)]), "remote"), "local");

    // For two devices, and not for a third.
    let twice = cloud.ticket(&["--uses", "2"]);
    other.json(&["join", &twice]);
    TestHome::new().json(&["join", &twice]);
    refused(&TestHome::new(), &["join", &twice], 1, "ticket-refused");
    let devices = cloud.home.json(&["device", "list"]);
    assert_eq!(list(&devices, "devices").len(), 3, "{devices}");
}

#[test]
fn a_second_user_sees_nothing_of_the_first() {
    let cloud = Cloud::new();
    let (owner, bob) = (cloud.device(), cloud.device_with(&["--user", "bob"]));
    let tree = workspace(&owner);
    let snapshot = push(&owner, &tree);
    let answer = owner.json(&["handoff", arg(&tree), "--", "true"]);
    let run = text(&answer["runs"][0], "run");
    owner.json_exit(&["run", "wait", run], 0);

    let into = bob.root().join("stolen");
    for id in [snapshot.as_str(), &snapshot[..12]] {
        refused(&bob, &["restore", id, "--into", arg(&into)], 1, "not-found");
    }
    assert!(!into.exists());
    refused(&bob, &["diff", &snapshot], 1, "not-found");
    assert_eq!(list(&bob.json(&["runs"]), "runs").len(), 0);
    for args in
        [["run", "show", run], ["logs", run, "-f"], ["run", "wait", run], ["run", "cancel", run]]
    {
        refused(&bob, &args, 1, "not-found");
    }
    refused(&bob, &["pull", run, "--into", arg(&into)], 1, "not-found");

    // The same bytes in a vault of their own, all of which had to be sent.
    let same = workspace(&bob);
    let sent = bob.json(&["push", arg(&same)]);
    assert!(sent["objects_sent"].as_u64().unwrap() >= 3, "{sent}");
    let into = owner.root().join("stolen");
    refused(&owner, &["restore", text(&sent, "snapshot"), "--into", arg(&into)], 1, "not-found");
    restores(&bob, text(&sent, "snapshot"), &same);
    restores(&cloud.device_with(&["--user", "bob"]), text(&sent, "snapshot"), &same);
}

#[test]
fn a_device_that_may_only_push_starts_and_ends_no_run() {
    let cloud = Cloud::new();
    let (owner, pusher) = (cloud.device(), cloud.device_with(&["--role", "push"]));
    let tree = workspace(&pusher);
    let snapshot = push(&pusher, &tree);
    restores(&owner, &snapshot, &tree);
    let args = ["handoff", arg(&tree), "--", "touch", "made"];
    let said = refused(&pusher, &args, 1, "not-allowed");
    assert!(said.contains("role"), "{said}");
    assert_eq!(list(&owner.json(&["runs"]), "runs").len(), 0);

    let tree = workspace(&owner);
    let answer = owner.json(&["handoff", arg(&tree), "--", "sleep", "1000"]);
    let run = text(&answer["runs"][0], "run");
    refused(&pusher, &["run", "cancel", run], 1, "not-allowed");
    // As the hint says.
    pusher.json(&["join", &cloud.ticket(&["--role", "run"])]);
    assert_eq!(text(&pusher.json(&["run", "cancel", run]), "state"), "cancelled");
}

#[test]
fn a_revoked_device_is_cut_off_and_can_be_let_in_again() {
    let cloud = Cloud::new();
    let (home, other) = (cloud.device(), cloud.device());
    let tree = workspace(&home);
    let snapshot = push(&home, &tree);
    let answer =
        home.json(&["handoff", arg(&tree), "--", "sh", "-c", "echo begun; exec sleep 1000"]);
    let run = text(&answer["runs"][0], "run").to_owned();
    let mut command = home.command();
    command.args(["logs", &run, "-f"]);
    let mut follow = Background::start(command);
    follow.says("begun");

    let devices = cloud.home.json(&["device", "list"]);
    let of = |list: &[Value], home: &TestHome| {
        // By the key, which is the name that the home itself has for its embedded node.
        let remotes = home.json(&["remote", "list"]);
        let own = remotes["remotes"].as_array().unwrap().iter();
        let id = own.clone().find(|remote| remote["embedded"] == true).unwrap()["node_id"].clone();
        list.iter().find(|device| device["device_id"] == id).unwrap().clone()
    };
    let device = of(list(&devices, "devices"), &home);
    assert_eq!(device["revoked"], false);
    let revoked = cloud.home.json(&["device", "revoke", &text(&device, "device_id")[..8]]);
    assert_eq!(of(list(&revoked, "devices"), &home)["revoked"], true);
    assert_eq!(of(list(&revoked, "devices"), &other)["revoked"], false);

    // What was under way is cut.
    assert!(!follow.end().success());
    assert!(follow.stderr().contains("revoked"), "{}", follow.stderr());
    write(&tree, "second\n");
    let said = refused(&home, &["push", arg(&tree)], 1, "unknown-device");
    assert!(said.contains("revoked") && said.contains("ticket"), "{said}");
    let into = home.root().join("more");
    let missing = "ab".repeat(32);
    refused(&home, &["restore", &missing, "--into", arg(&into)], 1, "unknown-device");
    // Nothing here was lost by it.
    let log = home.json(&["log", arg(&tree)]);
    let known: Vec<_> = list(&log, "snapshots").iter().map(|one| one["acked"] == true).collect();
    assert_eq!(known, [false, true]);
    restores(&other, &snapshot, &{
        write(&tree, "first\n");
        tree.clone()
    });

    home.json(&["join", &cloud.ticket(&[])]);
    write(&tree, "third\n");
    let snapshot = push(&home, &tree);
    restores(&other, &snapshot, &tree);
    assert_eq!(text(&other.json(&["run", "cancel", &run]), "state"), "cancelled");
}

#[test]
fn a_device_that_the_node_does_not_know_is_told_so() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = workspace(&home);
    push(&home, &tree);
    // The home without its key is another device.
    assert!(home.baton(&["daemon", "stop"]).status.success());
    std::fs::remove_dir_all(home.baton_home().join("keys")).unwrap();
    let said = refused(&home, &["push", arg(&tree)], 1, "unknown-device");
    assert!(said.contains("baton join"), "{said}");
    home.json(&["join", &cloud.ticket(&[])]);
    let snapshot = push(&home, &tree);
    restores(&cloud.device(), &snapshot, &tree);
}

#[test]
fn a_node_that_was_set_up_anew_is_not_trusted() {
    let mut cloud = Cloud::new();
    let home = cloud.device();
    let tree = workspace(&home);
    push(&home, &tree);
    let address = cloud.stop();
    let anew = TestHome::new();
    let serve = anew.serve_on(&address.to_string(), &[]);
    let vaults = || std::fs::read_dir(anew.baton_home().join("store/vaults")).unwrap().count();
    let before = vaults();
    write(&tree, "second\n");
    let said = refused(&home, &["push", arg(&tree)], 1, "wrong-identity");
    assert!(said.contains(&serve.node_id[..8]) && said.contains("baton remote remove"), "{said}");
    // Also on a connection that stood before.
    refused(&home, &["push", arg(&tree)], 1, "wrong-identity");
    assert_eq!(vaults(), before, "it was told nothing");

    // As the hint says.
    let known = home.json(&["remote", "list"]);
    let name = text(&list(&known, "remotes")[0], "name").to_owned();
    home.json(&["remote", "remove", &name]);
    let ticket = anew.json(&["ticket"]);
    home.json(&["join", text(&ticket, "ticket")]);
    let pushed = home.json(&["push", arg(&tree)]);
    assert_eq!(text(&pushed, "state"), "acked");
    let other = TestHome::new();
    other.json(&["join", text(&anew.json(&["ticket"]), "ticket")]);
    restores(&other, text(&pushed, "snapshot"), &tree);
}

#[test]
fn a_node_that_was_killed_and_started_again_is_found_by_itself() {
    let mut cloud = Cloud::new();
    let (home, other) = (cloud.device(), cloud.device());
    let tree = workspace(&home);
    let mut snapshots = vec![push(&home, &tree)];
    for round in 0..3 {
        let address = cloud.kill();
        cloud.start(address);
        write(&tree, &format!("round {round}\n"));
        snapshots.push(push(&home, &tree));
    }
    restores(&other, snapshots.last().unwrap(), &tree);
    snapshots.dedup();
    assert_eq!(snapshots.len(), 4);
    let log = home.json(&["log", arg(&tree)]);
    assert!(list(&log, "snapshots").iter().all(|one| one["acked"] == true), "{log}");
}

/// A push to a node that is away: queued soon, and nothing is lost.
fn push_is_queued_soon(home: &TestHome, tree: &Path) -> String {
    let started = Instant::now();
    let queued = home.json_exit(&["push", arg(tree)], 3);
    let took = started.elapsed();
    assert!(took < SOON, "{took:?}");
    assert_eq!(text(&queued, "state"), "queued", "{queued}");
    let log = home.json(&["log", arg(tree)]);
    let newest = &list(&log, "snapshots")[0];
    assert_eq!(newest["acked"], false, "{log}");
    assert_eq!(newest["snapshot"], queued["snapshot"]);
    text(&queued, "snapshot").to_owned()
}

fn push_and_wait(home: &TestHome, tree: &Path) -> String {
    text(&home.json(&["push", "--wait", arg(tree)]), "snapshot").to_owned()
}

#[test]
fn without_its_node_a_push_is_queued_soon_and_the_snapshot_is_kept() {
    let mut cloud = Cloud::new();
    let (home, other) = (cloud.device(), cloud.device());
    let tree = workspace(&home);
    push(&home, &tree);
    let address = cloud.stop();

    // Nobody listens, and the system says so.
    write(&tree, "second\n");
    push_is_queued_soon(&home, &tree);
    // Somebody swallows every packet.
    let hole = UdpSocket::bind(address).unwrap();
    write(&tree, "third\n");
    let kept = push_is_queued_soon(&home, &tree);
    restores(&home, &kept, &tree);
    drop(hole);

    cloud.start(address);
    // Not at once: for a moment the node is believed to be away still.
    assert_eq!(push_and_wait(&home, &tree), kept, "what was kept is what arrives");
    restores(&other, &kept, &tree);
    let log = home.json(&["log", arg(&tree)]);
    let acked = list(&log, "snapshots").iter().filter(|one| one["acked"] == true).count();
    assert_eq!(acked, 3, "with all that came before: {log}");
}

#[test]
fn a_network_that_goes_away_under_a_standing_connection_is_noticed_soon() {
    let cloud = Cloud::new();
    let proxy = UdpProxy::new(cloud.address(), 1, Weather::default());
    let mut ticket = Ticket::decode(&cloud.ticket(&[])).unwrap();
    ticket.addresses = vec![proxy.address().to_string()];
    let home = TestHome::new();
    home.json(&["join", &ticket.encode()]);
    let tree = workspace(&home);
    push(&home, &tree);

    proxy.blackhole(true);
    write(&tree, "second\n");
    let kept = push_is_queued_soon(&home, &tree);
    proxy.blackhole(false);
    assert_eq!(push_and_wait(&home, &tree), kept);

    // With --wait it goes out by itself when the network is back.
    proxy.blackhole(true);
    write(&tree, "third\n");
    let mut command = home.command();
    command.args(["push", arg(&tree), "--wait", "--json"]);
    let mut waiting = Background::start(command);
    eventually("a word about the wait", || waiting.stderr().contains("goes out when it can"));
    assert!(!waiting.is_ended());
    proxy.blackhole(false);
    assert!(waiting.end().success(), "{}", waiting.stderr());
    let pushed: Value = serde_json::from_str(&waiting.stdout()).unwrap();
    restores(&cloud.device(), text(&pushed, "snapshot"), &tree);
}
