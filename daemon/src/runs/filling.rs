//! Runs that fill the disk, also by ways of which no name tells, and what is left of their threads.

#![cfg(test)]

use std::sync::Arc;

use baton_protocol::id::{RunId, ThreadId};
use baton_protocol::message::{LogStream, RunInfo, RunSpec, RunState};

use super::testing::{Node, entries, spec, within};
use crate::limits::{Allowance, NoGroups};

const QUOTA: u64 = 8 << 20;

async fn nodes() -> Vec<Node> {
    let change = |options: &mut super::RunOptions| {
        options.allowance = Allowance { disk: Some(QUOTA), ..Allowance::default() };
    };
    let watched = Arc::new(NoGroups::because("a test".to_owned()));
    let mut nodes = vec![Node::bare(watched, change)];
    nodes.extend(Node::walled(None, change).await);
    nodes
}

fn asked(byte: u8, script: &str, thread: u8, parent: Option<RunId>) -> RunSpec {
    let thread = ThreadId::from_bytes([thread; 16]);
    RunSpec { thread, parent, ..spec(byte, &["sh", "-c", script]) }
}

async fn node_says(node: &Node, info: &RunInfo) -> String {
    let log = node.log(info.spec.run).await;
    String::from_utf8_lossy(&entries(&log, LogStream::Node)).into_owned()
}

#[tokio::test]
async fn a_file_without_a_name_counts_as_long_as_it_is_open() {
    for node in nodes().await {
        let fills = "exec 3> x; rm x; head -c 30000000 /dev/urandom >&3; sleep 300";
        let info = node.run(asked(1, fills, 1, None)).await;
        assert_eq!(info.state, RunState::Failed, "{info:?}");
        let why = "the run was ended: it used more than its disk quota of 8 MiB";
        assert_eq!(info.reason.as_deref(), Some(why), "isolated: {}", node.isolated());
    }
}

#[tokio::test]
async fn a_home_that_has_grown_ends_no_later_run_of_its_thread_and_does_not_grow_for_ever() {
    for node in nodes().await {
        let grows = "ls \"$HOME\"; head -c 6000000 /dev/urandom > \"$HOME/$BATON_RUN\"; sleep 1";
        let mut parent = None;
        for (byte, kept) in [(1, 0), (2, 1), (3, 0)] {
            let info = node.run(asked(byte, grows, 1, parent)).await;
            assert_eq!(info.state, RunState::Succeeded, "{info:?}");
            let (said, _) = node.output(info.spec.run).await;
            assert_eq!(String::from_utf8(said).unwrap().lines().count(), kept, "{byte}");
            let told = node_says(&node, &info).await;
            assert_eq!(told.contains("larger than the disk quota"), byte == 3, "{told}");
            parent = Some(info.spec.run);
        }
        // Nor does one copy what it may not write.
        let more = node.run(asked(4, grows, 1, parent)).await;
        let parent = Some(more.spec.run);
        let fork = node.run(asked(5, "ls -A \"$HOME\"", 2, parent)).await;
        assert_eq!(node.output(fork.spec.run).await.0, b"");
        let told = node_says(&node, &fork).await;
        assert!(told.contains("was not copied: there is no room for it on the disk"), "{told}");
    }
}

#[tokio::test]
async fn a_home_in_which_a_run_is_at_work_is_not_copied() {
    for node in nodes().await {
        let first = node.run(asked(1, "echo kept > \"$HOME/kept\"", 1, None)).await;
        let parent = Some(first.spec.run);
        let endless = asked(2, "echo ready; exec sleep 300", 1, parent);
        let mut log = node.start(endless.clone()).await;
        within(log.next()).await.unwrap();
        let fork = node.run(asked(3, "ls -A \"$HOME\"", 2, parent)).await;
        assert_eq!(fork.state, RunState::Succeeded, "{fork:?}");
        assert_eq!(node.output(fork.spec.run).await.0, b"");
        let told = node_says(&node, &fork).await;
        assert!(told.contains("was not copied: a run of its thread is at work in it"), "{told}");
        within(node.runs.cancel("ann", endless.run)).await.unwrap();
    }
}
