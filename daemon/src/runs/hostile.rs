//! Runs that mean harm, in real rooms: each is held, and the node goes on.

#![cfg(test)]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use baton_protocol::id::{RunId, ThreadId, VaultId};
use baton_protocol::message::{LogStream, RefusalCode, RunInfo, RunSpec, RunState};
use baton_store::fs;

use super::testing::{Node, entries, spec, within};
use crate::limits::{Allowance, NoGroups};
use crate::rooms::DEFAULT_PATH;

fn watched() -> Arc<NoGroups> {
    Arc::new(NoGroups::because("a test".to_owned()))
}

/// Whether a program is there that a test cannot do without.
fn has(program: &str) -> bool {
    let found = std::env::split_paths(DEFAULT_PATH).any(|folder| folder.join(program).exists());
    if !found {
        eprintln!("not tested: {program} is not installed");
    }
    found
}

/// A run that starts with `"$@"`: what it is told beside its script.
async fn script(node: &Node, byte: u8, script: &str, arguments: &[&str]) -> (RunInfo, String) {
    let command = [&["sh", "-c", script, "sh"], arguments].concat();
    let info = node.run(spec(byte, &command)).await;
    let (stdout, stderr) = node.output(info.spec.run).await;
    let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    (info, said)
}

/// The node takes the next run, and nothing of the last one is left.
async fn goes_on(node: &Node, last: &RunInfo) {
    assert_eq!(Node::processes_of(last.spec.run), Vec::<i32>::new());
    let (info, said) = script(node, 0xee, "echo fine > made && cat made", &[]).await;
    assert_eq!((info.state, said.as_str()), (RunState::Succeeded, "fine\n"), "{info:?}");
}

fn node_says(log: &[baton_protocol::message::LogEntry]) -> String {
    String::from_utf8_lossy(&entries(log, LogStream::Node)).into_owned()
}

fn ended_for(info: &RunInfo, why: &str) {
    assert_eq!(info.state, RunState::Failed, "{info:?}");
    assert_eq!(info.reason.as_deref(), Some(why));
}

const EATS_MEMORY: &str = "x=$(head -c 400000000 /dev/zero | tr '\\0' x); sleep 300";

#[tokio::test]
async fn a_run_that_eats_memory_is_ended_with_that_reason() {
    let change = |options: &mut super::RunOptions| options.allowance.memory = Some(64 << 20);
    let why = "the run was ended: it used more than its 64 MiB of memory";
    let Some(node) = Node::walled(None, change).await else { return };
    if node.limits().in_force().memory {
        let fills = "head -c 200000000 /dev/zero > /dev/shm/x; sleep 300";
        for (byte, takes) in [(1, EATS_MEMORY), (2, fills)] {
            let (info, _) = script(&node, byte, takes, &[]).await;
            ended_for(&info, why);
            goes_on(&node, &info).await;
        }
    }
    // Where the kernel does not see to it.
    let watched_ones =
        [Node::walled(Some(watched()), change).await, Some(Node::bare(watched(), change))];
    for node in watched_ones.into_iter().flatten() {
        let (info, _) = script(&node, 1, EATS_MEMORY, &[]).await;
        ended_for(&info, why);
        goes_on(&node, &info).await;
    }
}

#[tokio::test]
async fn a_run_that_forks_without_end_is_held_and_all_of_it_ends() {
    let bomb = "bomb() { bomb & bomb & sleep 300; }; bomb & sleep 1; exit 3";
    let change = |options: &mut super::RunOptions| options.allowance.processes = Some(60);
    let Some(node) = Node::walled(None, change).await else { return };
    if node.limits().in_force().processes {
        // A shell that cannot start another process gives up, and so does the run when its first one has.
        let (info, _) = script(&node, 1, bomb, &[]).await;
        let log = node_says(&node.log(info.spec.run).await);
        assert!(log.contains("met its limit of 60 processes"), "{log}");
        goes_on(&node, &info).await;

        // One that fails of it says so.
        let fails = "i=0; while [ $i -lt 100 ]; do sleep 300 & i=$((i + 1)); done";
        let (info, _) = script(&node, 2, fails, &[]).await;
        let reason = info.reason.clone().unwrap();
        assert!(reason.ends_with("; it had met its limit of 60 processes"), "{reason}");
        goes_on(&node, &info).await;
    }
    let watched_ones =
        [Node::walled(Some(watched()), change).await, Some(Node::bare(watched(), change))];
    for node in watched_ones.into_iter().flatten() {
        let many = "i=0; while [ $i -lt 100 ]; do sleep 300 & i=$((i + 1)); done; wait";
        let (info, _) = script(&node, 1, many, &[]).await;
        ended_for(&info, "the run was ended: it had more than its 60 processes");
        goes_on(&node, &info).await;
    }
}

#[tokio::test]
async fn a_run_that_fills_its_disk_is_ended_with_that_reason() {
    let change = |options: &mut super::RunOptions| {
        options.allowance = Allowance { disk: Some(8 << 20), ..Allowance::default() };
    };
    let why = "the run was ended: it used more than its disk quota of 8 MiB";
    let Some(node) = Node::walled(None, change).await else { return };
    let places = [".", "/tmp", "/var/tmp", "\"$HOME\"/deep/er"];
    for (byte, place) in (1..).zip(places) {
        let fills =
            format!("mkdir -p {place}; head -c 30000000 /dev/urandom > {place}/x; sleep 300");
        let mut asked = spec(byte, &["sh", "-c", &fills]);
        // What stays in a home counts for the next run of its thread, too.
        asked.thread = ThreadId::from_bytes([byte; 16]);
        let info = node.run(asked).await;
        ended_for(&info, why);
        goes_on(&node, &info).await;
        let temporary = Path::new(info.checkout.as_ref().unwrap()).with_file_name("tmp");
        within(async {
            while temporary.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
    // What a run writes on top of a little is no more than it may.
    let (info, _) = script(&node, 9, "head -c 4000000 /dev/urandom > x; sleep 2", &[]).await;
    assert_eq!(info.state, RunState::Succeeded, "{info:?}");
    // Without walls, too.
    let node = Node::bare(watched(), change);
    let (info, _) = script(&node, 1, "head -c 30000000 /dev/urandom > x; sleep 300", &[]).await;
    ended_for(&info, why);
    goes_on(&node, &info).await;
}

#[tokio::test]
async fn daemons_that_a_run_leaves_behind_end_with_it_whatever_they_hide() {
    // In a session of its own, of another parent, without a variable by which it could be known.
    let leaves = "env -i setsid sh -c 'sh -c \"exec sleep 3$1\" & exit' sh \"$1\" > /dev/null 2>&1 < /dev/null; \
                  sleep 0.3";
    for (byte, node) in (1u8..).zip(Node::in_every_room().await) {
        let force = node.limits().in_force();
        if !node.isolated() && !force.memory && !force.processes {
            continue;
        }
        let mark = format!("{}{byte}", std::process::id());
        let (info, _) = script(&node, byte, leaves, &[&mark]).await;
        assert_eq!(info.state, RunState::Succeeded);
        let line = format!("sleep\x003{mark}\0");
        let left = fs::list_dir(Path::new("/proc")).unwrap().into_iter().filter(|name| {
            let path = Path::new("/proc").join(name).join("cmdline");
            let read = fs::read_if_exists(&path, 1 << 20).ok().flatten();
            read.is_some_and(|read| read == line.as_bytes())
        });
        assert_eq!(left.count(), 0, "isolated: {}", node.isolated());
        goes_on(&node, &info).await;
    }
}

#[tokio::test]
async fn no_way_leads_out_of_a_room() {
    let Some(node) = Node::walled(None, |_| {}).await else { return };
    let made = tries_to_leave(&node).await;
    if made {
        return;
    }
    // A run of root may make no namespaces; that of somebody else may, and tries more.
    if !rustix::process::geteuid().is_root() || !has("setpriv") {
        eprintln!(
            "not tested: what a run does in namespaces of its own, of which it cannot make any"
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_mode(folder.path(), 0o777).unwrap();
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "runs::hostile::a_run_of_an_ordinary_user_tries_to_leave"])
        .args(["--ignored", "--nocapture"])
        .env("TMPDIR", folder.path())
        .env("HOME", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    if said.is_empty() {
        // Its program, or the folders above that, may be closed to others.
        eprintln!("not tested: {}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    assert!(output.status.success(), "{said}");
    if !said.contains("\ntried in namespaces\n") {
        eprintln!("not tested: an ordinary user has no namespaces in a room here");
    }
}

/// Not a test: what the one above starts as another user.
#[tokio::test]
#[ignore = "started by another test"]
async fn a_run_of_an_ordinary_user_tries_to_leave() {
    let Some(node) = Node::walled(None, |_| {}).await else { return };
    if tries_to_leave(&node).await {
        println!("\ntried in namespaces");
    }
}

/// Says whether that could be tried with namespaces of its own, too.
async fn tries_to_leave(node: &Node) -> bool {
    let root = node.folder.path().canonicalize().unwrap();
    fs::write_atomic(&root.join("key"), b"the key of the node", 0o644).unwrap();
    let tries = r#"
        root=$1 node=$2
        # By names that lead elsewhere.
        for way in /proc/self/root /proc/1/root /proc/1/cwd /proc/self/cwd/../../../.. /dev/fd/../root; do
            cat "$way$root/key" 2> /dev/null && echo "out by $way"
        done
        ln -s "$root/key" link && cat link 2> /dev/null && echo 'out by a link'
        ln "$BATON_RECEIPT" hard 2> /dev/null && echo 'out by a hard link'
        ln /etc/passwd hard 2> /dev/null && echo 'out by a hard link'
        mv "$PWD" "$PWD.moved" 2> /dev/null && echo 'moved its checkout'
        mknod disk b 254 0 2> /dev/null && cat disk 2> /dev/null && echo 'out by a device'
        for pid in 1 "$node"; do
            cat "/proc/$pid/environ" 2> /dev/null | tr '\0' '\n' | grep -v '^BATON_RUN=\|^PWD='
            kill -0 "$node" 2> /dev/null && echo "reached $node"
        done
        (: < /dev/tty) 2> /dev/null && echo 'has a terminal'
        # With namespaces of its own, in which it may do what root may.
        try() {
            unshare -Urm sh -c "$1" sh "$root" 2> /dev/null
        }
        # These work where any of it could.
        unshare -Urm sh -c 'mkdir /tmp/control && mount -t tmpfs none /tmp/control' 2> /dev/null && echo can
        try 'umount -l /tmp; umount -l "$1"; umount -l /etc/shadow; umount -l /dev; cat "$1/key" && echo unmounted'
        try 'mount -o remount,rw,bind / && : > /new && echo "wrote the top"'
        try 'mount -o remount,rw,bind /usr && : > /usr/new && echo "wrote the system"'
        try 'mkdir -p /tmp/all && mount --rbind / /tmp/all && cat "/tmp/all$1/key" && echo "out by a mount"'
        try 'mkdir -p /tmp/u /tmp/w /tmp/m && mount -t overlay o -o lowerdir=/,upperdir=/tmp/u,workdir=/tmp/w /tmp/m &&
             cat "/tmp/m$1/key" && echo "out by an overlay"'
        try 'mount -t proc proc /proc && cat "/proc/1/root$1/key" && echo "out by proc"'
        unshare -UrmC sh -c '
            for kind in cgroup2 "cgroup -o memory" "cgroup -o pids"; do
                mkdir -p /tmp/groups && mount -t $kind none /tmp/groups || continue
                for file in memory.max memory.limit_in_bytes pids.max cgroup.procs; do
                    [ -e /tmp/groups/$file ] || continue
                    (echo 9999999 > /tmp/groups/$file) && echo "raised $file"
                done
                mkdir /tmp/groups/own && echo "made a group"
                umount /tmp/groups
            done' 2> /dev/null
        echo done
    "#;
    let me = std::process::id().to_string();
    let (info, said) = script(node, 1, tries, &[root.to_str().unwrap(), &me]).await;
    let rest = said.strip_prefix("can\n");
    assert_eq!((info.state, rest.unwrap_or(&said)), (RunState::Succeeded, "done\n"), "{info:?}");
    goes_on(node, &info).await;
    rest.is_some()
}

#[tokio::test]
async fn what_a_run_is_given_is_in_no_command_line_and_in_no_process_above_it() {
    let Some(node) = Node::walled(None, |_| {}).await else { return };
    let asked = spec(1, &["sh", "-c", "echo ready; exec sleep 300"]);
    let mut log = node.start(asked.clone()).await;
    within(log.next()).await.unwrap();
    let runs = node.folder.path().canonicalize().unwrap().join("runs");
    let secret = runs.to_str().unwrap().as_bytes();
    let has = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
    let mut seen = 0;
    for pid in Node::processes_of(asked.run) {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_if_exists(Path::new(&path), 1 << 20).ok().flatten().unwrap_or_default()
        };
        let (line, environment) = (read("cmdline"), read("environ"));
        assert!(!has(&line), "{}", String::from_utf8_lossy(&line));
        // The program may not yet be what it becomes; what is above it is bubblewrap.
        if line.starts_with(b"sleep") || line.starts_with(b"sh\0-c\0echo") {
            assert!(has(&environment));
            seen += 1;
        } else {
            assert!(!has(&environment), "{}", String::from_utf8_lossy(&environment));
        }
    }
    assert_eq!(seen, 1);
    let info = within(node.runs.cancel("ann", asked.run)).await.unwrap();
    goes_on(&node, &info).await;
}

#[tokio::test]
async fn a_run_without_a_network_reaches_nobody_and_nobody_reaches_it() {
    let change = |options: &mut super::RunOptions| {
        options.without_network.insert("command".to_owned());
    };
    // Where there are no walls, such a run is refused.
    let bare = Node::bare(watched(), change);
    let refused = bare.runs.create("ann", bare.vault, spec(1, &["true"])).await.unwrap_err();
    assert_eq!(refused.refusal().code, RefusalCode::Malformed);
    assert!(refused.to_string().contains("not isolated"), "{refused}");

    let Some(node) = Node::walled(None, change).await else { return };
    let (info, said) = script(&node, 1, "tail -n +3 /proc/net/dev | cut -d: -f1", &[]).await;
    assert_eq!((info.state, said.trim()), (RunState::Succeeded, "lo"));
    if !has("bash") || !has("perl") {
        return;
    }
    let open = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = open.local_addr().unwrap().port().to_string();
    let calls = "bash -c \"exec 3<> /dev/tcp/127.0.0.1/$1\" 2> /dev/null && echo reached; true";
    let (info, said) = script(&node, 2, calls, &[&port]).await;
    assert_eq!((info.state, said.as_str()), (RunState::Succeeded, ""));
    let Some(other) = Node::walled(None, |_| {}).await else { return };
    assert_eq!(script(&other, 2, calls, &[&port]).await.1, "reached\n");

    // Its own loopback is there, and what listens there is heard by nobody else.
    drop(open);
    let listens = "use IO::Socket::INET; $| = 1;
        my $s = IO::Socket::INET->new(LocalAddr => \"127.0.0.1:$ARGV[0]\", Listen => 1) or die $!;
        IO::Socket::INET->new(PeerAddr => \"127.0.0.1:$ARGV[0]\") or die $!;
        print \"ready\\n\"; sleep 300";
    let asked = spec(3, &["perl", "-e", listens, &port]);
    let mut log = node.start(asked.clone()).await;
    let said = within(log.next()).await.unwrap().unwrap();
    assert_eq!(said[0].text, b"ready\n");
    let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse().unwrap())).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let info = within(node.runs.cancel("ann", asked.run)).await.unwrap();
    goes_on(&node, &info).await;
}

fn of_thread(run: RunSpec, thread: u8, parent: Option<RunId>) -> RunSpec {
    RunSpec { thread: ThreadId::from_bytes([thread; 16]), parent, ..run }
}

#[tokio::test]
async fn a_thread_keeps_its_home_a_fork_has_a_copy_and_nobody_shares_one() {
    for node in Node::in_every_room().await {
        let fill = "umask 077; echo first > \"$HOME/kept\"; ln -s kept \"$HOME/link\"; mkfifo \"$HOME/pipe\";
                    echo x > /tmp/gone";
        let first = node.run(of_thread(spec(1, &["sh", "-c", fill]), 1, None)).await;
        assert_eq!(first.state, RunState::Succeeded);
        let show = "cat \"$HOME/link\"; ls \"$HOME\"; echo second >> \"$HOME/kept\"";
        let parent = Some(first.spec.run);
        let second = node.run(of_thread(spec(2, &["sh", "-c", show]), 1, parent)).await;
        assert_eq!(node.output(second.spec.run).await.0, b"first\nkept\nlink\npipe\n");

        // A fork goes on from what there is, and changes nothing of it.
        let parent = Some(second.spec.run);
        let fork = node.run(of_thread(spec(3, &["sh", "-c", show]), 2, parent)).await;
        let said = node.output(fork.spec.run).await.0;
        assert_eq!(said, b"first\nsecond\nkept\nlink\npipe\n");
        let parent = Some(second.spec.run);
        let third = node.run(of_thread(spec(4, &["cat", "kept"]), 1, parent)).await;
        assert_ne!(third.spec.thread, fork.spec.thread);
        let kept = Path::new(&node.home_of(&first.spec)).join("kept");
        assert_eq!(fs::read_if_exists(&kept, 100).unwrap().unwrap(), b"first\nsecond\n");

        // Another user's thread of the same id is another thread.
        let other = VaultId::from_bytes([7; 16]);
        node.catalog.ensure_user("bob", other).unwrap();
        let asked = of_thread(spec(5, &["sh", "-c", "ls -A \"$HOME\""]), 1, None);
        within(async {
            node.runs.create("bob", other, asked.clone()).await.unwrap();
            node.runs.wait("bob", asked.run).await.unwrap();
        })
        .await;
        let mut log = node.runs.logs("bob", asked.run, 0, false).await.unwrap();
        while let Some(some) = within(log.next()).await.unwrap() {
            assert_eq!(entries(&some, LogStream::Stdout), b"");
        }

        // While one is at work in a home, no other one is, and it cannot be taken away.
        let endless = of_thread(spec(6, &["sh", "-c", "echo ready; exec sleep 300"]), 1, None);
        let mut log = node.start(endless.clone()).await;
        within(log.next()).await.unwrap();
        let beside = node.run(of_thread(spec(7, &["sh", "-c", "ls -A \"$HOME\""]), 1, None)).await;
        assert_eq!(node.output(beside.spec.run).await.0, b"");
        let log = node_says(&node.log(beside.spec.run).await);
        assert!(log.contains("another run of the thread is at work"), "{log}");
        let thread = first.spec.thread;
        assert!(!node.runs.forget_home(node.vault, thread).unwrap());
        within(node.runs.cancel("ann", endless.run)).await.unwrap();
        assert!(node.runs.forget_home(node.vault, thread).unwrap());
        assert!(!kept.exists());
        let after = node.run(of_thread(spec(8, &["sh", "-c", "ls -A \"$HOME\""]), 1, None)).await;
        assert_eq!(node.output(after.spec.run).await.0, b"");
    }
}

#[tokio::test]
async fn a_home_with_a_trap_in_it_is_copied_and_nothing_else() {
    let Some(node) = Node::walled(None, |_| {}).await else { return };
    let root = node.folder.path().canonicalize().unwrap();
    fs::write_atomic(&root.join("key"), b"the key of the node", 0o600).unwrap();
    let trap = "ln -s \"$1\" \"$HOME/key\"; ln -s / \"$HOME/top\"; touch \"$HOME/-rf\" \"$HOME/--version\"";
    let key = root.join("key");
    let command = ["sh", "-c", trap, "sh", key.to_str().unwrap()];
    let first = node.run(of_thread(spec(1, &command), 1, None)).await;
    let show = "ls -A \"$HOME\"; cat \"$HOME/key\" 2> /dev/null";
    let asked = of_thread(spec(2, &["sh", "-c", show]), 2, Some(first.spec.run));
    let fork = node.run(asked.clone()).await;
    let said = String::from_utf8(node.output(fork.spec.run).await.0).unwrap();
    let mut names: Vec<_> = said.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["--version", "-rf", "key", "top"]);
    let copied = Path::new(&node.home_of(&asked)).join("key");
    assert!(copied.symlink_metadata().unwrap().is_symlink());
    goes_on(&node, &fork).await;
}
