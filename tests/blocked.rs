//! A network that lets no UDP through costs a little time and nothing else: everything goes over TCP, is
//! said to, and goes back to QUIC when it can.
//!
//! The network is a namespace of the test's own, in which a routing rule drops every UDP packet that comes.
//! Times are printed, and never asserted.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test has the file system and the clock itself, and prints what it measured"
)]

use std::time::Instant;

use serde_json::Value;

use crate::support::cloud::{Background, Cloud, arg, list, text};
use crate::support::home::{TestHome, eventually};

/// A network namespace with a link to this one.
struct Network {
    namespace: String,
    here: String,
    address: String,
}

impl Network {
    /// Nothing, and loudly, where that is not allowed.
    fn new() -> Option<Self> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let next = COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let number = (std::process::id() * 2 + next) % 10_000;
        let network = Self {
            namespace: format!("baton-b{number}"),
            here: format!("btb{number}"),
            address: format!("10.{}.{}", 150 + number / 250, number % 250),
        };
        let Self { namespace, here, address } = &network;
        for step in [
            format!("netns add {namespace}"),
            format!("link add {here} type veth peer name away netns {namespace}"),
            format!("addr add {address}.1/30 dev {here}"),
            format!("link set {here} up"),
            format!("-n {namespace} link set lo up"),
            format!("-n {namespace} addr add {address}.2/30 dev away"),
            format!("-n {namespace} link set away up"),
            // What is for this machine is looked up after the rule that drops, and not before.
            format!("-n {namespace} rule add pref 100 lookup local"),
            format!("-n {namespace} rule del pref 0"),
        ] {
            if !ip(&step) {
                eprintln!("SKIPPED: no network namespace here: `ip {step}` failed");
                return None;
            }
        }
        Some(network)
    }

    /// Drops every UDP packet on its way in, or no longer.
    fn block_udp(&self, on: bool) {
        let what = if on { "add" } else { "del" };
        let Self { namespace, .. } = self;
        assert!(ip(&format!("-n {namespace} rule {what} pref 50 iif away ipproto udp blackhole")));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.here));
        ip(&format!("netns del {}", self.namespace));
    }
}

fn ip(arguments: &str) -> bool {
    let run = std::process::Command::new("ip").args(arguments.split(' ')).output();
    run.is_ok_and(|output| output.status.success())
}

fn transport(home: &TestHome) -> Value {
    let status = home.json(&["status"]);
    let remotes = list(&status, "remotes");
    remotes.iter().find(|remote| remote["embedded"] == false).unwrap()["transport"].clone()
}

#[test]
fn where_udp_is_blocked_everything_goes_over_tcp_and_says_so() {
    let Some(network) = Network::new() else { return };
    let cloud = Cloud::listening(&format!("{}.1:0", network.address));
    let home = TestHome::in_network(&network.namespace);
    network.block_udp(true);
    let started = Instant::now();
    home.json(&["join", &cloud.ticket(&[])]);
    eprintln!("blocked: joined over TCP after {:.2} s", started.elapsed().as_secs_f64());
    let tree = home.folder("work");
    std::fs::write(tree.join("file"), "one\n").unwrap();
    let pushed = home.json(&["push", arg(&tree)]);
    assert_eq!(text(&pushed, "state"), "acked");
    assert_eq!(transport(&home), "tcp");
    let shown = home.baton(&["status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("transport: tcp"), "{shown}");
    let doctor = home.json(&["doctor"]);
    let reached = list(&doctor, "checks").iter().find(|check| {
        text(check, "name").starts_with("remote ")
            && text(check, "detail").contains("transport: tcp")
    });
    assert_eq!(reached.unwrap_or_else(|| panic!("{doctor}"))["ok"], true);

    // A handoff, its live output, and its way home.
    let script = "echo begun; read x; echo $x > result; echo ended";
    std::fs::write(tree.join("file"), "two\n").unwrap();
    let handed = home.json(&["handoff", arg(&tree), "--", "sh", "-c", script]);
    let run = text(&list(&handed, "runs")[0], "run").to_owned();
    let mut command = home.command();
    command.args(["logs", &run, "-f"]);
    let mut logs = Background::start(command);
    logs.says("begun");
    home.json(&["say", &run, "told"]);
    home.json_exit(&["run", "wait", &run], 0);
    logs.says("ended");
    assert!(logs.end().success());
    let back = home.root().join("user/back");
    home.json(&["pull", &run, "--into", arg(&back)]);
    assert_eq!(std::fs::read_to_string(back.join("result")).unwrap(), "told\n");
    assert_eq!(std::fs::read_to_string(back.join("file")).unwrap(), "two\n");
    assert_eq!(transport(&home), "tcp");

    // UDP is let through again: what the machine hears of its network is a reason to try.
    network.block_udp(false);
    let freed = Instant::now();
    eventually("QUIC again", || {
        let Network { namespace, address, .. } = &network;
        ip(&format!("-n {namespace} addr add {address}.2/32 dev lo"));
        ip(&format!("-n {namespace} addr del {address}.2/32 dev lo"));
        transport(&home) == "quic"
    });
    eprintln!("blocked: QUIC again after {:.2} s", freed.elapsed().as_secs_f64());
    std::fs::write(tree.join("file"), "three\n").unwrap();
    assert_eq!(text(&home.json(&["push", arg(&tree)]), "state"), "acked");
    assert_eq!(transport(&home), "quic");
}

/// The network begins to swallow UDP under a connection that stands.
#[test]
fn where_udp_ceases_to_get_through_a_push_arrives_by_itself() {
    let Some(network) = Network::new() else { return };
    let cloud = Cloud::listening(&format!("{}.1:0", network.address));
    let home = TestHome::in_network(&network.namespace);
    home.json(&["join", &cloud.ticket(&[])]);
    let tree = home.folder("work");
    std::fs::write(tree.join("file"), "one\n").unwrap();
    home.json(&["push", arg(&tree)]);
    assert_eq!(transport(&home), "quic");
    network.block_udp(true);
    std::fs::write(tree.join("file"), "two\n").unwrap();
    let started = Instant::now();
    // At once, or from the queue.
    drop(home.baton(&["push", arg(&tree)]));
    eventually("an empty queue", || list(&home.json(&["queue"]), "queue").is_empty());
    eprintln!(
        "blocked: UDP lost under a connection, acknowledged after {:.2} s",
        started.elapsed().as_secs_f64()
    );
    assert_eq!(transport(&home), "tcp");
    let log = home.json(&["log", arg(&tree)]);
    assert_eq!(list(&log, "snapshots")[0]["acked"], true);
}
