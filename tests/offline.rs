//! Without a network work goes on: what is handed over meanwhile is accepted at once and arrives when the
//! network is back, once and in order, whatever happens to the daemon in between.
//!
//! `BATON_NIGHTLY` makes it 50 pushes and 5 handoffs. Times are printed, and never asserted.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test has the environment, the file system and the clock itself, and prints what it measured"
)]

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use baton_protocol::id::{DeviceId, SnapshotId, WorkspaceId};
use baton_protocol::ticket::Ticket;
use baton_store::catalog::Catalog;
use baton_store::snapshot::load_snapshot;
use baton_store::store::Store;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::cloud::{Background, Cloud, arg, list, refused, text};
use crate::support::home::{TestHome, eventually};
use crate::support::rng::Rng;
use crate::support::udp_proxy::{UdpProxy, Weather};
use crate::support::walker::{Listing, differences, walk};

/// Pushes and handoffs in the default run, and in the nightly one.
const FEW: (usize, usize) = (10, 3);
const MANY: (usize, usize) = (50, 5);

fn amount() -> (usize, usize) {
    if std::env::var_os("BATON_NIGHTLY").is_some() { MANY } else { FEW }
}

/// Ends the daemon of a home as a power cut would.
fn kill_daemon(home: &TestHome) {
    let status = home.json(&["daemon", "status"]);
    let pid = Pid::from_raw(i32::try_from(status["pid"].as_i64().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    // Its sockets are closed last: while one is open the next command would still be let in.
    eventually("the end of the daemon", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        stat.map_or(true, |stat| stat.rsplit(") ").next().unwrap().starts_with(['Z', 'X']))
    });
}

fn workspace(home: &TestHome) -> PathBuf {
    let tree = home.folder("work");
    std::fs::create_dir_all(tree.join("folder")).unwrap();
    for at in 0..20 {
        std::fs::write(tree.join(format!("folder/file-{at}")), format!("{at}\n")).unwrap();
    }
    tree
}

fn edit(tree: &Path, at: usize) {
    let mut log = std::fs::read_to_string(tree.join("log")).unwrap_or_default();
    writeln!(log, "edit {at}").unwrap();
    std::fs::write(tree.join("log"), log).unwrap();
    std::fs::write(tree.join(format!("folder/file-{}", at % 20)), format!("edit {at}\n")).unwrap();
}

fn queue(home: &TestHome) -> Vec<Value> {
    list(&home.json(&["queue"]), "queue").clone()
}

fn queue_empties(home: &TestHome) {
    eventually("an empty queue", || queue(home).is_empty());
}

/// What was accepted, in order.
#[derive(Debug, Default)]
struct Accepted {
    snapshots: Vec<String>,
    runs: Vec<String>,
    trees: Vec<Listing>,
}

/// Pushes and hands off over edits in mixed order, killing the daemon twice in between.
fn work_offline(home: &TestHome, tree: &Path) -> Accepted {
    let (pushes, handoffs) = amount();
    let total = pushes + handoffs;
    let mut accepted = Accepted::default();
    let mut slowest = Duration::ZERO;
    let started = Instant::now();
    for at in 0..total {
        edit(tree, at);
        let begun = Instant::now();
        // Spread evenly among the pushes.
        let hands_off = (at + 1) * handoffs / total > at * handoffs / total;
        let answer = if hands_off {
            home.json_exit(&["handoff", arg(tree), "--", "sh", "-c", "tail -n 1 log; echo ran"], 3)
        } else {
            home.json_exit(&["push", arg(tree)], 3)
        };
        slowest = slowest.max(begun.elapsed());
        assert_eq!(text(&answer, "state"), "queued", "{answer}");
        assert_eq!(answer["bytes_sent"], 0);
        if hands_off {
            let run = &list(&answer, "runs")[0];
            assert_eq!(text(run, "state"), "queued");
            accepted.runs.push(text(run, "run").to_owned());
        }
        accepted.snapshots.push(text(&answer, "snapshot").to_owned());
        accepted.trees.push(walk(tree));
        if at == total / 3 || at == total * 2 / 3 {
            kill_daemon(home);
        }
    }
    eprintln!(
        "offline: {pushes} pushes and {handoffs} handoffs accepted in {:.1} s, the slowest in {:.2} s",
        started.elapsed().as_secs_f64(),
        slowest.as_secs_f64()
    );
    let waiting = queue(home);
    let ids: Vec<_> = waiting.iter().map(|entry| text(entry, "snapshot")).collect();
    assert_eq!(ids, accepted.snapshots, "all of it, in order");
    let status = home.json(&["status", arg(tree)]);
    let shown = &list(&status, "workspaces")[0];
    assert_eq!(shown["queued"], total, "{shown}");
    assert_eq!(shown["state"], "offline", "{shown}");
    assert!(shown["last_error"].is_string(), "{shown}");
    accepted
}

/// Waits until the first entry has been acknowledged.
fn first_ack(home: &TestHome, before: usize) {
    eventually("the first ack", || queue(home).len() < before);
}

/// The snapshots that the node has of a workspace, from its ref back.
fn chain(cloud: &mut Cloud, home: &TestHome, tree: &Path) -> Vec<String> {
    let status = home.json(&["status", arg(tree)]);
    let workspace: WorkspaceId =
        text(&list(&status, "workspaces")[0], "workspace").parse().unwrap();
    let address = cloud.stop();
    let catalog = Catalog::open(&cloud.home.baton_home().join("catalog.db")).unwrap();
    let own = baton_daemon::identity::Identity::load_or_create(&home.baton_home().join("keys"));
    let device: DeviceId = own.unwrap().device();
    let vault = catalog.device(device).unwrap().unwrap().vault;
    let store = Store::open(&cloud.home.baton_home().join("store")).unwrap();
    let vault = store.vault(vault).unwrap();
    let mut found = Vec::new();
    let mut next: Option<SnapshotId> = vault.head(workspace, device).map(|head| head.snapshot);
    while let Some(id) = next {
        // Whole, and not only named by the one after it.
        if !vault.intake().missing(id.into(), 1).unwrap().is_empty() {
            break;
        }
        found.push(id.to_string());
        next = load_snapshot(&vault, id).unwrap().parents.first().copied();
    }
    drop((vault, store, catalog));
    cloud.start(address);
    found.reverse();
    found
}

fn started_from(home: &TestHome, run: &str) -> String {
    text(&home.json(&["run", "show", run]), "snapshot").to_owned()
}

/// All of it is there: in order, once, and as it was.
fn all_arrived(cloud: &mut Cloud, home: &TestHome, tree: &Path, accepted: &Accepted) {
    for run in &accepted.runs {
        home.json_exit(&["run", "wait", run], 0);
        let lines = home.json_lines(&["logs", run], 0);
        let out = lines.iter().filter(|line| line["stream"] == "stdout");
        let said: String = out.map(|line| text(line, "text")).collect();
        let at = accepted.snapshots.iter().position(|one| *one == started_from(home, run)).unwrap();
        assert_eq!(said, format!("edit {at}\nran\n"), "it ran once, on the tree of its moment");
    }
    let listed = home.json(&["runs"]);
    let mut ids: Vec<_> =
        list(&listed, "runs").iter().map(|run| text(run, "run").to_owned()).collect();
    let mut expected = accepted.runs.clone();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected, "each run is there once");

    let found = chain(cloud, home, tree);
    let from = found.len() - accepted.snapshots.len();
    assert_eq!(found[from..], accepted.snapshots, "in the order in which they were asked for");
    let other = cloud.device();
    for at in [0, accepted.snapshots.len() / 2, accepted.snapshots.len() - 1] {
        let into = other.root().join(format!("restored-{at}"));
        other.json(&["restore", &accepted.snapshots[at], "--into", arg(&into)]);
        assert_eq!(differences(&accepted.trees[at], &walk(&into), &[]), [""; 0]);
    }
    let status = home.json(&["status", arg(tree)]);
    let shown = &list(&status, "workspaces")[0];
    assert_eq!((&shown["state"], &shown["queued"]), (&"synced".into(), &0.into()), "{shown}");
}

#[test]
fn what_was_accepted_offline_arrives_once_and_in_order() {
    let mut cloud = Cloud::new();
    let home = cloud.device();
    let tree = workspace(&home);
    home.json(&["push", arg(&tree)]);
    let address = cloud.stop();

    let accepted = work_offline(&home, &tree);
    let runs = home.json(&["runs"]);
    assert!(list(&runs, "runs").iter().all(|run| run["state"] == "queued"), "{runs}");
    assert_eq!(list(&runs, "runs").len(), accepted.runs.len());
    assert!(runs["as_of"].is_string(), "{runs}");

    let back = Instant::now();
    cloud.start(address);
    first_ack(&home, accepted.snapshots.len());
    let first = back.elapsed();
    queue_empties(&home);
    let all = back.elapsed();
    eprintln!(
        "offline: the node started, first ack after {:.2} s, all {} after {:.2} s",
        first.as_secs_f64(),
        accepted.snapshots.len(),
        all.as_secs_f64()
    );
    all_arrived(&mut cloud, &home, &tree, &accepted);

    // A node that was killed, and comes back.
    let address = cloud.kill();
    edit(&tree, 1000);
    let queued = home.json_exit(&["push", arg(&tree)], 3);
    let back = Instant::now();
    cloud.start(address);
    let ready = back.elapsed();
    queue_empties(&home);
    eprintln!(
        "offline: a killed node was ready after {:.2} s, and the next ack came after {:.2} s",
        ready.as_secs_f64(),
        back.elapsed().as_secs_f64()
    );
    let log = home.json(&["log", arg(&tree)]);
    let newest = &list(&log, "snapshots")[0];
    assert_eq!((&newest["snapshot"], &newest["acked"]), (&queued["snapshot"], &true.into()));
}

#[test]
fn what_was_cancelled_offline_never_goes_out() {
    let mut cloud = Cloud::new();
    let home = cloud.device();
    let tree = workspace(&home);
    home.json(&["push", arg(&tree)]);
    let address = cloud.stop();
    let mut entries = Vec::new();
    for at in 0..3 {
        edit(&tree, at);
        entries.push(home.json_exit(&["push", arg(&tree)], 3));
    }
    edit(&tree, 3);
    let handoff = home.json_exit(&["handoff", arg(&tree), "--", "true"], 3);
    let run = text(&list(&handoff, "runs")[0], "run").to_owned();

    let id = text(&entries[1], "queue");
    let cancelled = home.json(&["queue", "cancel", &id[..8]]);
    assert_eq!(list(&cancelled, "cancelled"), &[Value::from(id)]);
    refused(&home, &["queue", "cancel", id], 1, "not-found");
    refused(&home, &["queue", "cancel", &id[..4]], 1, "prefix-too-short");
    refused(&home, &["run", "wait", &run], 1, "run-queued");
    assert_eq!(text(&home.json(&["run", "show", &run]), "state"), "queued");
    assert_eq!(text(&home.json(&["run", "cancel", &run]), "state"), "cancelled");
    assert_eq!(queue(&home).len(), 2);
    kill_daemon(&home);
    assert_eq!(queue(&home).len(), 2);

    cloud.start(address);
    queue_empties(&home);
    let found = chain(&mut cloud, &home, &tree);
    // It is a parent of what was sent, and not there itself.
    assert_eq!(found, [text(&entries[2], "snapshot")]);
    assert_eq!(list(&home.json(&["runs"]), "runs"), &[] as &[Value]);
    let other = cloud.device();
    let into = other.root().join("none");
    refused(
        &other,
        &["restore", text(&entries[1], "snapshot"), "--into", arg(&into)],
        1,
        "not-found",
    );
}

#[test]
fn a_handoff_that_has_expired_is_not_started_but_reported() {
    let mut cloud = Cloud::new();
    let home = cloud.device();
    let tree = workspace(&home);
    home.json(&["push", arg(&tree)]);
    let address = cloud.stop();
    edit(&tree, 1);
    let handoff = home.json_exit(&["handoff", arg(&tree), "--expires", "1s", "--", "true"], 3);
    edit(&tree, 2);
    let push = home.json_exit(&["push", arg(&tree)], 3);
    std::thread::sleep(Duration::from_millis(1100));

    cloud.start(address);
    eventually("the push behind it", || {
        queue(&home).iter().all(|entry| entry["state"] == "expired")
    });
    let left = queue(&home);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["id"], handoff["queue"]);
    let status = home.baton(&["status", arg(&tree)]);
    let said = String::from_utf8(status.stderr).unwrap();
    assert!(said.contains("was not sent"), "{said}");
    let again = home.baton(&["status", arg(&tree)]);
    assert_eq!(String::from_utf8(again.stderr).unwrap(), "", "said once");
    let status = home.json(&["status", arg(&tree)]);
    assert!(list(&status, "workspaces")[0]["last_error"].is_string(), "{status}");
    assert_eq!(list(&status, "workspaces")[0]["acked"], push["snapshot"]);
    let run = text(&list(&handoff, "runs")[0], "run");
    assert_eq!(text(&home.json(&["run", "show", run]), "state"), "cancelled");
    // Seen, and off the list.
    home.json(&["queue", "cancel", text(&handoff, "queue")]);
    assert_eq!(queue(&home), [] as [Value; 0]);
    assert_eq!(list(&home.json(&["runs"]), "runs"), &[] as &[Value]);
}

#[test]
fn what_a_node_refuses_does_not_hold_up_what_comes_after_it() {
    let mut cloud = Cloud::new();
    // May keep snapshots and start no run.
    let home = cloud.device_with(&["--role", "push"]);
    let tree = workspace(&home);
    home.json(&["push", arg(&tree)]);
    let address = cloud.stop();
    edit(&tree, 1);
    let handoff = home.json_exit(&["handoff", arg(&tree), "--", "true"], 3);
    edit(&tree, 2);
    let push = home.json_exit(&["push", arg(&tree)], 3);
    cloud.start(address);
    eventually("the push behind it", || {
        queue(&home).iter().all(|entry| entry["state"] == "failed")
    });
    let left = queue(&home);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["id"], handoff["queue"]);
    assert!(text(&left[0], "last_error").contains("role"), "{left:?}");
    let status = home.json(&["status", arg(&tree)]);
    let shown = &list(&status, "workspaces")[0];
    assert_eq!(shown["acked"], push["snapshot"]);
    assert!(shown["last_error"].is_string(), "{shown}");
}

#[test]
fn a_push_that_waits_hears_of_its_ack_or_that_it_was_cancelled() {
    let mut cloud = Cloud::new();
    let home = cloud.device();
    let tree = workspace(&home);
    let address = cloud.stop();
    let wait = || {
        let mut command = home.command();
        command.args(["push", arg(&tree), "--wait", "--json"]);
        let waiting = Background::start(command);
        eventually("a word about the wait", || waiting.stderr().contains("goes out when it can"));
        waiting
    };
    let mut first = wait();
    edit(&tree, 1);
    let mut second = wait();
    let entries = queue(&home);
    assert_eq!(entries.len(), 2, "{entries:?}");
    home.json(&["queue", "cancel", text(&entries[1], "id")]);
    assert_eq!(second.end().code(), Some(1));
    let said: Value = serde_json::from_str(&second.stdout()).unwrap();
    assert_eq!(text(&said["error"], "code"), "cancelled");
    assert!(!first.is_ended());
    cloud.start(address);
    assert!(first.end().success(), "{}{}", first.stdout(), first.stderr());
    let said: Value = serde_json::from_str(&first.stdout()).unwrap();
    assert_eq!(text(&said, "state"), "acked");
    assert_eq!(said["snapshot"], entries[0]["snapshot"]);
    assert!(said["bytes_sent"].as_u64().unwrap() > 0, "{said}");
}

/// A network namespace with a link to this one, as far as the machine lets us make one.
struct Link {
    namespace: String,
    here: String,
    address: String,
}

impl Link {
    /// Nothing, and loudly, where that is not allowed.
    fn new() -> Option<Self> {
        let number = std::process::id() % 60_000;
        let (high, low) = (number / 250, number % 250);
        let link = Self {
            namespace: format!("baton-{number}"),
            here: format!("btn{number}"),
            address: format!("10.{}.{low}", 200 + high % 50),
        };
        let Self { namespace, here, address } = &link;
        let steps = [
            format!("netns add {namespace}"),
            format!("link add {here} type veth peer name away netns {namespace}"),
            format!("addr add {address}.1/30 dev {here}"),
            format!("link set {here} up"),
            format!("-n {namespace} link set lo up"),
        ];
        for step in steps {
            if !Self::ip(&step) {
                eprintln!("SKIPPED: no network namespace here: `ip {step}` failed");
                return None;
            }
        }
        link.connect();
        Some(link)
    }

    fn ip(arguments: &str) -> bool {
        let run = std::process::Command::new("ip").args(arguments.split(' ')).output();
        run.is_ok_and(|output| output.status.success())
    }

    fn connect(&self) {
        let Self { namespace, address, .. } = self;
        assert!(Self::ip(&format!("-n {namespace} addr add {address}.2/30 dev away")));
        assert!(Self::ip(&format!("-n {namespace} link set away up")));
    }

    fn cut(&self) {
        let Self { namespace, .. } = self;
        assert!(Self::ip(&format!("-n {namespace} link set away down")));
        assert!(Self::ip(&format!("-n {namespace} addr flush dev away")));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        Self::ip(&format!("link del {}", self.here));
        Self::ip(&format!("netns del {}", self.namespace));
    }
}

#[test]
fn a_network_that_comes_back_is_noticed_at_once() {
    let Some(link) = Link::new() else { return };
    let mut cloud = Cloud::listening(&format!("{}.1:0", link.address));
    let home = TestHome::in_network(&link.namespace);
    home.json(&["join", &cloud.ticket(&[])]);
    let tree = workspace(&home);
    home.json(&["push", arg(&tree)]);

    link.cut();
    let accepted = work_offline(&home, &tree);
    // Long enough for waits between tries that nobody would want to sit out.
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(queue(&home).len(), accepted.snapshots.len());
    link.connect();
    let back = Instant::now();
    first_ack(&home, accepted.snapshots.len());
    let first = back.elapsed();
    queue_empties(&home);
    eprintln!(
        "offline: the network is back, first ack after {:.2} s, all {} after {:.2} s",
        first.as_secs_f64(),
        accepted.snapshots.len(),
        back.elapsed().as_secs_f64()
    );
    all_arrived(&mut cloud, &home, &tree, &accepted);
}

#[test]
fn a_connection_that_is_lost_in_the_middle_starts_no_run_twice_and_loses_none() {
    let rounds = if std::env::var_os("BATON_NIGHTLY").is_some() { 20 } else { 3 };
    let cloud = Cloud::new();
    let proxy = UdpProxy::new(cloud.address(), 1, Weather::default());
    let mut ticket = Ticket::decode(&cloud.ticket(&[])).unwrap();
    ticket.addresses = vec![proxy.address().to_string()];
    let home = TestHome::new();
    home.json(&["join", &ticket.encode()]);
    let tree = workspace(&home);
    home.json(&["push", arg(&tree)]);
    let mut rng = Rng::new(7);
    let (mut runs, mut queued) = (Vec::new(), 0);
    for at in 0..rounds {
        edit(&tree, at);
        let mut command = home.command();
        command.args(["handoff", arg(&tree), "--json", "--", "sh", "-c", "echo ran"]);
        let mut handoff = Background::start(command);
        std::thread::sleep(Duration::from_millis(rng.below(80)));
        proxy.blackhole(true);
        let code = handoff.end().code();
        assert!(matches!(code, Some(0 | 3)), "{}{}", handoff.stdout(), handoff.stderr());
        queued += usize::from(code == Some(3));
        let answer: Value = serde_json::from_str(&handoff.stdout()).unwrap();
        runs.push(text(&list(&answer, "runs")[0], "run").to_owned());
        proxy.blackhole(false);
        // On the connection that was lost, or on a new one.
        queue_empties(&home);
    }
    for run in &runs {
        home.json_exit(&["run", "wait", run], 0);
        let lines = home.json_lines(&["logs", run], 0);
        assert_eq!(lines.iter().filter(|line| line["text"] == "ran\n").count(), 1, "{lines:?}");
    }
    let listed = home.json(&["runs"]);
    let mut ids: Vec<_> = list(&listed, "runs").iter().map(|run| text(run, "run")).collect();
    ids.reverse();
    assert_eq!(ids, runs, "each is there once");
    eprintln!("offline: {rounds} handoffs cut off in the middle, {queued} of them queued");
}

#[test]
fn the_machine_is_held_awake_while_bytes_move_and_no_longer() {
    let cloud = Cloud::new();
    let proxy = UdpProxy::new(cloud.address(), 1, Weather::default());
    let mut ticket = Ticket::decode(&cloud.ticket(&[])).unwrap();
    ticket.addresses = vec![proxy.address().to_string()];
    let mut home = TestHome::new();
    let (programs, log) = (home.root().join("tmp/programs"), home.root().join("tmp/held"));
    std::fs::create_dir(&programs).unwrap();
    let name = if cfg!(target_os = "macos") { "caffeinate" } else { "systemd-inhibit" };
    let script = "#!/bin/sh\necho \"held $*\" >> \"$HELD\"\ncat\necho released >> \"$HELD\"\n";
    std::fs::write(programs.join(name), script).unwrap();
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(programs.join(name), executable).unwrap();
    let path = std::env::var("PATH").unwrap();
    home.set("PATH", &format!("{}:{path}", arg(&programs)));
    home.set("HELD", arg(&log));
    let said = || std::fs::read_to_string(&log).unwrap_or_default();

    home.json(&["join", &ticket.encode()]);
    let tree = workspace(&home);
    home.json(&["push", arg(&tree)]);
    assert_eq!(said(), "", "what is quick asks nobody");
    // Sent into a hole, until the connection is given up: then it waits, and the machine may sleep.
    proxy.blackhole(true);
    edit(&tree, 1);
    home.json_exit(&["push", arg(&tree)], 3);
    eventually("the end of it", || said().contains("released"));
    assert!(said().starts_with("held ") && said().lines().count() == 2, "{}", said());
    proxy.blackhole(false);
    queue_empties(&home);
}
