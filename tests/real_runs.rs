//! The real programs at work in runs: the conversation goes to a node, goes on there and in a follow-up, and comes home.
//!
//! Standard tests have one program, nightly ones all of them, as those of `real_agents.rs`.

#![expect(clippy::disallowed_methods, reason = "a test, which looks at what programs wrote")]

use std::path::PathBuf;

use serde_json::Value;

use crate::support::cloud::{arg, list, refused, text};
use crate::support::desk::{Desk, notes, tests_of};
use crate::support::home::{TestHome, eventually};
use crate::support::models::History;
use crate::support::programs::{CLAUDE, CODEX, GEMINI, OPENCODE, Program};

impl Desk {
    fn baton(&self, args: &[&str]) -> Value {
        let output = self.laptop.baton_in(&self.root, &[args, &["--json"]].concat());
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Waits for a run, which must end well; returns what it is, and its output.
    fn ended(&self, run: &str) -> (Value, String) {
        let waited = self.laptop.baton(&["run", "wait", run]);
        let log = self.laptop.baton(&["logs", run]);
        let log = String::from_utf8(log.stdout).unwrap();
        assert!(waited.status.success(), "{waited:?}\n{log}");
        (self.laptop.json(&["run", "show", run]), log)
    }

    fn hand_off(&self, args: &[&str]) -> (Value, String) {
        let told = self.baton(&[&["handoff"], args].concat());
        let run = text(&list(&told, "runs")[0], "run").to_owned();
        (told, run)
    }

    /// What an agent that goes on by the printed command knows, at a new place.
    fn comes_home(&self, home: &TestHome, run: &str, into: &str) -> (String, PathBuf, History) {
        let into = home.user_home().join(into);
        std::fs::create_dir_all(into.parent().unwrap()).unwrap();
        let told = home.json(&["pull", run, "--into", arg(&into)]);
        let resume: Vec<_> =
            list(&told, "resume_command").iter().map(|word| word.as_str().unwrap()).collect();
        let root = into.canonicalize().unwrap();
        let said = self.agent.resume(home, &root, &resume, "and now, what do you know?");
        let id = (*resume.last().unwrap()).to_owned();
        assert_eq!(said.id, id);
        (id, root, said.history())
    }
}

fn work_goes_to_the_cloud_is_followed_up_and_comes_home(program: &'static Program) {
    let Some(mut desk) = Desk::new(program) else { return };
    let begun = desk.agent.ask(&desk.laptop, &desk.root, "please write the notes (one)");
    assert_eq!(notes(&desk.root), "the first line\n");

    // Nobody says which agent: it is the one whose conversation travels.
    let (told, run) = desk.hand_off(&["-p", "please change the notes (two)"]);
    assert_eq!(told["receipt"]["conversation"]["id"], begun.id.as_str());
    let (info, log) = desk.ended(&run);
    assert_eq!((&info["agent"], &info["state"]), (&program.agent.into(), &"succeeded".into()));
    assert!(log.contains("they are changed"), "{log}");
    assert!(!log.contains("\"type\""), "what it says is shown in words: {log}");

    // The same conversation goes on, after a restart of the node, and in another checkout.
    let address = desk.cloud.stop();
    desk.cloud.start(address);
    let next = desk.baton(&["follow-up", &run, "-p", "please finish the notes (three)"]);
    let next = text(&next, "run").to_owned();
    let (_, log) = desk.ended(&next);
    assert!(log.contains("they are finished"), "{log}");
    let again = desk.laptop.baton(&["follow-up", &run, "-p", "something else"]);
    assert_eq!(again.status.code(), Some(4), "{again:?}");

    // On another machine of the user, and beside the first conversation, which stays as it was.
    let mut other = desk.cloud.device();
    desk.agent.give_to(&mut other, &desk.models);
    let mut ids = Vec::new();
    for (home, into) in [(&other, "elsewhere/a b"), (&desk.laptop, "result")] {
        let (id, root, history) = desk.comes_home(home, &next, into);
        assert_eq!(notes(&root), "the third line\n");
        let said = ["(one)", "(two)", "(three)", "they are written", "they are changed"];
        for words in said.iter().chain(&["they are finished"]) {
            assert!(history.has(words), "{words} is missing in {history:?}");
        }
        assert_eq!((history.calls.len(), history.results().len()), (3, 3), "{history:?}");
        assert_eq!(history.folder.as_deref(), root.to_str());
        for (tool, input) in &history.calls {
            let input = input.to_string();
            let elsewhere = [desk.root.to_str().unwrap(), "/runs/"];
            assert!(elsewhere.iter().all(|old| !input.contains(old)), "{tool} {input}");
        }
        ids.push(id);
    }
    // What went on in the cloud is a fork, and it is the same one wherever it comes home.
    assert_ne!(ids[0], begun.id);
    assert_eq!(ids[0], ids[1]);
    let here = desk.agent.again(&desk.laptop, &desk.root, &begun.id, "what do you know?");
    let history = here.history();
    assert!(history.has("(one)") && !history.has("(two)"), "{history:?}");
    assert_eq!(notes(&desk.root), "the first line\n");
    assert_eq!(desk.models.problems(), Vec::<String>::new());
}

fn work_begins_in_the_cloud_by_several_and_is_forked(program: &'static Program) {
    let Some(desk) = Desk::new(program) else { return };
    let told = desk.baton(&[
        "handoff",
        "--agent",
        program.agent,
        "-p",
        "please write the notes (one)",
        "-p",
        "please write the notes (two)",
    ]);
    let runs: Vec<_> = list(&told, "runs").iter().map(|run| text(run, "run").to_owned()).collect();
    assert_eq!(runs.len(), 2);
    for run in &runs {
        let (_, log) = desk.ended(run);
        assert!(log.contains("they are written"), "{log}");
    }
    let mut other = desk.cloud.device();
    desk.agent.give_to(&mut other, &desk.models);
    let (first, _, history) = desk.comes_home(&other, &runs[0], "first");
    assert!(history.has("(one)") && !history.has("(two)"), "{history:?}");
    let (second, _, history) = desk.comes_home(&other, &runs[1], "second");
    assert!(history.has("(two)") && !history.has("(one)"), "{history:?}");
    assert_ne!(first, second);
    // Two that go on from one are two conversations.
    let ask = |words: &str| {
        let told = desk.baton(&["follow-up", &runs[0], "--fork", "-p", words]);
        let run = text(&told, "run").to_owned();
        desk.ended(&run);
        run
    };
    let forks = [ask("please change the notes (a)"), ask("please change the notes (b)")];
    let mut ids = vec![first];
    for (run, own, others) in [(&forks[0], "(a)", "(b)"), (&forks[1], "(b)", "(a)")] {
        let (id, root, history) = desk.comes_home(&other, run, &format!("fork {own}"));
        assert!(history.has("(one)") && history.has(own) && !history.has(others), "{history:?}");
        assert_eq!(notes(&root), "the second line\n");
        assert!(!ids.contains(&id), "{ids:?} {id}");
        ids.push(id);
    }
}

fn an_agent_that_is_not_there_is_found_before_anything_is_sent(program: &'static Program) {
    let Some(desk) = Desk::new(program) else { return };
    let other = if program.agent == "codex" { "claude" } else { "codex" };
    let args = ["handoff", "--json", "--agent", other, "-p", "x"];
    let output = desk.laptop.baton_in(&desk.root, &args);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["error"]["code"], "agent-not-ready", "{told}");
    assert!(text(&told["error"], "hint").contains("install"), "{told}");
    refused(&desk.laptop, &["log", arg(&desk.root)], 1, "no-workspace");
    let output = desk.laptop.baton_in(&desk.root, &["handoff", "--agent", "nobody", "-p", "x"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // Nobody is named, no conversation travels, and none is configured here.
    let output = desk.laptop.baton_in(&desk.root, &["handoff", "-p", "x"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

/// It asks whether it may, and is told more while it works.
fn what_it_asks_for_is_answered(program: &'static Program) {
    let Some(desk) = Desk::new(program) else { return };
    let asked = ["--agent", program.agent, "--permissions", "ask", "-p", "please write the notes"];
    for (answer, is_written) in [("allow", true), ("deny", false)] {
        let (_, run) = desk.hand_off(&asked);
        let waiting = || desk.laptop.json(&["run", "show", &run])["waiting"].clone();
        eventually("a question", || !waiting().is_null());
        let question = waiting();
        assert_eq!(question["kind"], "permission", "{question}");
        assert!(text(&question, "text").contains("notes.txt"), "{question}");
        desk.laptop.json(&["run", "answer", &run, answer]);
        let waited = desk.laptop.baton(&["run", "wait", &run]);
        assert!(waited.status.success(), "{waited:?}");
        let into = desk.laptop.user_home().join(answer);
        desk.laptop.json(&["pull", &run, "--into", arg(&into)]);
        assert_eq!(into.join("notes.txt").exists(), is_written);
    }
}

/// It asks nobody: what it would ask for is refused, and the run goes on.
fn what_nobody_may_allow_is_not_done(program: &'static Program) {
    let Some(desk) = Desk::new(program) else { return };
    for (permissions, is_written) in [("ask", false), ("edits", true)] {
        let asked = ["--agent", program.agent, "--permissions", permissions];
        let (_, run) = desk.hand_off(&[&asked[..], &["-p", "please write the notes"]].concat());
        let (info, log) = desk.ended(&run);
        assert_eq!(info["waiting"], Value::Null, "{info}");
        assert_eq!(log.contains("rejected"), !is_written, "{log}");
        let into = desk.laptop.user_home().join(permissions);
        desk.laptop.json(&["pull", &run, "--into", arg(&into)]);
        assert_eq!(into.join("notes.txt").exists(), is_written);
    }
}

tests_of!(
    codex,
    &CODEX,
    [
        work_goes_to_the_cloud_is_followed_up_and_comes_home,
        work_begins_in_the_cloud_by_several_and_is_forked,
        an_agent_that_is_not_there_is_found_before_anything_is_sent
    ]
);
tests_of!(
    claude,
    &CLAUDE,
    [
        work_goes_to_the_cloud_is_followed_up_and_comes_home,
        work_begins_in_the_cloud_by_several_and_is_forked,
        an_agent_that_is_not_there_is_found_before_anything_is_sent,
        what_it_asks_for_is_answered
    ]
);
tests_of!(
    gemini,
    &GEMINI,
    [
        work_goes_to_the_cloud_is_followed_up_and_comes_home,
        work_begins_in_the_cloud_by_several_and_is_forked,
        an_agent_that_is_not_there_is_found_before_anything_is_sent
    ]
);
tests_of!(
    opencode,
    &OPENCODE,
    [
        work_goes_to_the_cloud_is_followed_up_and_comes_home,
        work_begins_in_the_cloud_by_several_and_is_forked,
        an_agent_that_is_not_there_is_found_before_anything_is_sent,
        what_nobody_may_allow_is_not_done
    ]
);
