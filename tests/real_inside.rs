//! A user who stays inside the real program: what `agent setup` writes is what the program takes, from `/handoff` to
//! `/continue-locally`.
//!
//! The model does what the text of a command tells it to: it passes on what the user typed. Standard tests have one program,
//! nightly ones all of them, as those of `real_agents.rs`.

#![expect(clippy::disallowed_methods, reason = "a test, which looks at what programs wrote")]

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::cloud::{arg, list, text};
use crate::support::desk::{Desk, notes, tests_of};
use crate::support::home::eventually;
use crate::support::models::{Heard, History, Step, Turn};
use crate::support::programs::{CLAUDE, CODEX, GEMINI, OPENCODE, Program, Said};

/// A desk at which the program has Baton in it.
fn set_up(program: &'static Program) -> Option<Desk> {
    let desk = Desk::new(program)?;
    let Desk { models, laptop, root, .. } = &desk;
    // The commands, by the beginning of their texts and as Codex's user types them.
    for handoff in ["Hand this work off with the tool", "$handoff "] {
        models.on(handoff, &[Step::pass("handoff", "prompt"), Step::say("it is handed off")]);
    }
    for pull in ["Bring the work of a run back", "$continue-locally "] {
        models.on(pull, &[Step::pass("pull", "run"), Step::say("it is back")]);
    }
    laptop.json(&["agent", "setup", program.agent]);
    // Hooks keep only what is a workspace already.
    laptop.json(&["snapshot", arg(root)]);
    Some(desk)
}

impl Desk {
    fn ask(&self, prompt: &str) -> Said {
        self.agent.ask(&self.laptop, &self.root, prompt)
    }

    /// The user types a command in a conversation.
    fn types(&self, id: &str, name: &str, typed: &str) -> Said {
        self.agent.command_of_setup(&self.laptop, &self.root, Some(id), (name, typed))
    }

    /// Whether a hook has left a snapshot where this conversation stopped.
    fn stopped(&self, id: &str) -> bool {
        let log = self.laptop.json(&["log", arg(&self.root)]);
        let begin: String = id.chars().take(8).collect();
        list(&log, "snapshots").iter().any(|snapshot| {
            let message = snapshot["message"].as_str().unwrap_or_default();
            message.contains("stopped") && message.contains(&begin)
        })
    }

    /// The only run, of which the agent was told as it should be, and which has what the user typed to do.
    fn handed_off(&self, by: &str) -> String {
        let (told, runs) = (self.told(), self.laptop.json(&["run", "list"]));
        let [run] = list(&runs, "runs").as_slice() else { panic!("{told} {runs}") };
        let id = text(run, "run");
        assert!(told.contains(id) && told.contains("Stop editing"), "{told}");
        // Claude Code itself takes what would be a command for it out of a command's text, with a sign that says so.
        let prompt = text(run, "prompt").replace("\\! ", "!").replace("\\!", "!");
        assert_eq!((prompt.as_str(), text(run, "agent")), (TYPED, by));
        id.to_owned()
    }

    fn ends_well(&self, run: &str) {
        let waited = self.laptop.baton(&["run", "wait", run]);
        let log = self.laptop.baton(&["logs", run]);
        assert!(waited.status.success(), "{waited:?}\n{log:?}");
    }

    /// Where the work has come home, as the agent was told.
    fn comes_to(&self, run: &str) -> PathBuf {
        let into = PathBuf::from(format!("{}-handoff-{}", arg(&self.root), &run[..8]));
        assert!(self.told().contains(arg(&into)), "{}", self.told());
        into
    }

    /// What the agent that called a tool of Baton's was told last.
    fn told(&self) -> String {
        let heard = self.models.heard();
        let is_result = |turn: &&Turn| matches!(turn, Turn::Result(_));
        format!("{:?}", heard.last().unwrap().turns.iter().rfind(is_result).unwrap())
    }
}

/// The words of the command with which the conversation goes on, as an agent was told them.
fn resume_command(told: &str) -> Vec<String> {
    let (_, rest) = told.split_once("goes on there with: ").unwrap();
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-_ ".contains(c);
    let line: String = rest.chars().take_while(|&c| is_word(c)).collect();
    line.split(' ').map(str::to_owned).collect()
}

/// What these programs, or shells, would take for a command in the middle of a text.
const TYPED: &str =
    "change the notes (two); $(touch hacked) `touch hacked` !`touch hacked` !{touch hacked}";

fn work_is_handed_off_and_brought_back_from_inside(program: &'static Program) {
    let Some(desk) = set_up(program) else { return };
    let begun = desk.ask("please write the notes (one)");
    assert_eq!(notes(&desk.root), "the first line\n");
    eventually("a snapshot at the stop", || desk.stopped(&begun.id));

    let said = desk.types(&begun.id, "handoff", TYPED);
    assert_eq!(said.text, "it is handed off", "{:?}", desk.models.problems());
    let run = desk.handed_off(program.agent);
    desk.ends_well(&run);
    // Here nothing has happened since.
    assert_eq!(notes(&desk.root), "the first line\n");

    let said = desk.types(&begun.id, "continue-locally", &run);
    assert_eq!(said.text, "it is back", "{:?}", desk.models.problems());
    let (into, told) = (desk.comes_to(&run), desk.told());
    assert_eq!(notes(&into), "the second line\n");

    let resume = resume_command(&told);
    // The command that it was told goes on there with what the run knew, which ends before the user asked for the handoff.
    let said = desk.agent.resume(&desk.laptop, &into, &resume, "and now, what do you know?");
    assert_ne!(said.id, begun.id);
    let history = said.history();
    for words in ["(one)", "(two)", "they are written", "they are changed"] {
        assert!(history.has(words), "{words} is missing in {history:?}");
    }
    assert!(!history.has("<task>") && !history.has("$handoff"), "{history:?}");
    assert_eq!((history.calls.len(), history.results().len()), (2, 2), "{history:?}");
    let heard = desk.models.heard().pop().unwrap();
    let is_told = format!("{heard:?}").contains("Baton has brought the work of a run into");
    assert!(is_told, "what the pull did is not known: {heard:?}");
    for root in [&desk.root, &into] {
        assert!(!root.join("hacked").exists());
    }
    assert_eq!(desk.models.problems(), Vec::<String>::new());
}

fn of_two_that_are_open_the_one_that_asks_travels(program: &'static Program) {
    let Some(desk) = set_up(program) else { return };
    let begun = desk.ask("please write the notes (one)");
    desk.models.on("take your time", &[Step::say("that took long")]);
    desk.models.hold("take your time");
    desk.models.hold(TYPED);
    let is_asked =
        |words: &str| desk.models.asked().iter().any(|it| it.body.to_string().contains(words));
    let Desk { agent, laptop, root, .. } = &desk;
    std::thread::scope(|scope| {
        let other = scope.spawn(|| agent.ask(laptop, root, "please take your time (three)"));
        eventually("the other one is at work", || is_asked("(three)"));
        let asks = scope
            .spawn(|| agent.command_of_setup(laptop, root, Some(&begun.id), ("handoff", TYPED)));
        eventually("this one is asked", || is_asked("(two)"));
        // The other one stops between what the user typed here and what comes of it.
        desk.models.release("take your time");
        assert_ne!(other.join().unwrap().id, begun.id);
        desk.models.release(TYPED);
        assert_eq!(asks.join().unwrap().text, "it is handed off", "{}", desk.told());
    });
    desk.ends_well(&desk.handed_off(program.agent));
    // What the program was told in the run is what was said here, and nothing of the other one.
    let heard = desk.models.heard();
    let is_in_run = |heard: &&Heard| heard.folder().is_some_and(|it| it.contains("/runs/"));
    let history = History::of(heard.iter().rfind(is_in_run).unwrap());
    assert!(history.has("(one)") && !history.has("(three)"), "{history:?}");
}

/// What is asked where an agent is checked.
const QUESTION: &str = "Answer with the single word";

fn a_check_does_a_turn_on_the_node_and_here_and_says_what_is_wrong(program: &'static Program) {
    let Some(desk) = set_up(program) else { return };
    desk.models.on(QUESTION, &[Step::say("ready")]);
    let check = || desk.laptop.baton(&["agent", "check", program.agent, "--json"]);
    let output = check();
    let checked: Value = serde_json::from_slice(&output.stdout).unwrap();
    let entry = &checked["agents"][0];
    assert!(entry["turn_ms"].is_f64() && entry["there"]["turn_ms"].is_f64(), "{output:?}");
    let asked = || {
        let heard = desk.models.heard();
        let turn = |turn: &Turn| matches!(turn, Turn::User(text) if text.contains(QUESTION));
        heard.iter().filter(|it| it.turns.iter().any(turn)).filter_map(Heard::folder).collect()
    };
    let folders: Vec<String> = asked();
    let in_room = |folder: &&String| folder.contains("/runs/checks/");
    assert!(folders.iter().any(|it| in_room(&it)), "{folders:?}");
    assert!(folders.iter().any(|it| !in_room(&it)), "{folders:?}");
    let left = folders.iter().filter(|folder| Path::new(folder).exists());
    assert_eq!(left.count(), 0, "{folders:?}");

    // Some programs take their time before they believe it: of these one in the standard tests.
    let all = if std::env::var_os("BATON_NIGHTLY").is_some() { 2 } else { 1 };
    for (status, why, what, fix) in [
        (401, "Incorrect API key provided", "401", "baton secret set"),
        (404, "The model does not exist", "model", "--model"),
    ]
    .into_iter()
    .take(all)
    {
        desk.models.refuse(QUESTION, status, why);
        let output = check();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(text(&told["error"], "message").contains(what), "{told}");
        assert!(text(&told["error"], "hint").contains(fix), "{told}");
    }
}

tests_of!(
    codex,
    &CODEX,
    [
        work_is_handed_off_and_brought_back_from_inside,
        of_two_that_are_open_the_one_that_asks_travels,
        a_check_does_a_turn_on_the_node_and_here_and_says_what_is_wrong
    ]
);
tests_of!(
    claude,
    &CLAUDE,
    [
        work_is_handed_off_and_brought_back_from_inside,
        of_two_that_are_open_the_one_that_asks_travels,
        a_check_does_a_turn_on_the_node_and_here_and_says_what_is_wrong
    ]
);
tests_of!(
    gemini,
    &GEMINI,
    [
        work_is_handed_off_and_brought_back_from_inside,
        of_two_that_are_open_the_one_that_asks_travels,
        a_check_does_a_turn_on_the_node_and_here_and_says_what_is_wrong
    ]
);
tests_of!(opencode, &OPENCODE, [work_is_handed_off_and_brought_back_from_inside]);
