//! Conversations of the real programs: what they write travels, and they go on with it elsewhere.
//!
//! Each test is a way through stages. The model says what its script says; what a program asks of it shows what the program knows
//! of its conversation. Standard tests have one program, nightly ones all of them; `programs/table.rs` says which.
//!
//! `tests/agents.rs` has what needs no program: lines as the programs write them.

#![expect(clippy::disallowed_methods, reason = "a test, which looks at what programs wrote")]

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::cloud::{Cloud, arg, text};
use crate::support::desk::tests_of;
use crate::support::home::{TestHome, eventually};
use crate::support::models::{History, ModelServer, Step};
use crate::support::programs::{
    CLAUDE, CODEX, GEMINI, Installed, KEY, OPENCODE, PIXEL, Program, Said,
};

/// A model, a node, and a laptop whose user has the program and a workspace.
struct Desk {
    agent: Installed,
    models: ModelServer,
    cloud: Cloud,
    laptop: TestHome,
    root: PathBuf,
}

/// A place where a conversation goes on.
struct Place<'a> {
    desk: &'a Desk,
    home: &'a TestHome,
    root: PathBuf,
    resume: Vec<String>,
}

impl Desk {
    /// Nothing where the program is not here.
    fn new(program: &'static Program) -> Option<Self> {
        let agent = Installed::get(program)?;
        let models = ModelServer::new();
        models.on(
            "change the notes",
            &[
                Step::edit("notes.txt", "the first line", "the second line"),
                Step::say("they are changed"),
            ],
        );
        models.on("what do you know", &[Step::History]);
        let cloud = Cloud::new();
        let mut laptop = cloud.device();
        agent.give_to(&mut laptop, &models);
        let root = laptop.folder("work/app_1").canonicalize().unwrap();
        std::fs::write(root.join("main.rs"), "fn main() {}\n").unwrap();
        let steps = [
            Step::write("notes.txt", "the first line\n"),
            Step::shell(&format!("cat {}/main.rs", root.display())),
            Step::say("they are written"),
        ];
        models.on("write the notes", &steps);
        Some(Self { agent, models, cloud, laptop, root })
    }

    /// Stage: the user works with the program here.
    fn ask(&self, prompt: &str) -> Said {
        self.agent.ask(&self.laptop, &self.root, prompt)
    }

    /// Stage: the work goes to the node, with a run of a command; returns what was told, and the run.
    fn hand_off(&self, conversation: &str) -> (Value, String) {
        let handoff = ["handoff", "--json", "--conversation", conversation, "--", "true"];
        let output = self.laptop.baton_in(&self.root, &handoff);
        assert!(output.status.success(), "{output:?}");
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        let run = text(&told["runs"][0], "run").to_owned();
        self.laptop.json(&["run", "wait", &run]);
        (told, run)
    }

    /// Another machine of the same user, who has the program there, too.
    fn device(&self) -> TestHome {
        let mut home = self.cloud.device();
        self.agent.give_to(&mut home, &self.models);
        home
    }

    /// Stage: the work comes to a machine, into a new folder.
    fn pull<'a>(&'a self, home: &'a TestHome, run: &str, into: &str) -> Place<'a> {
        let into = home.user_home().join(into);
        std::fs::create_dir_all(into.parent().unwrap()).unwrap();
        let told = home.json(&["pull", run, "--into", arg(&into)]);
        let resume = told["resume_command"].as_array().unwrap_or_else(|| panic!("{told}"));
        let resume = resume.iter().map(|word| word.as_str().unwrap().to_owned()).collect();
        Place { desk: self, home, root: into.canonicalize().unwrap(), resume }
    }
}

impl Place<'_> {
    /// The conversation that the printed command names.
    fn id(&self) -> &str {
        self.resume.last().unwrap()
    }

    /// Stage: the printed command goes on with it.
    fn ask(&self, prompt: &str) -> Said {
        let said = self.desk.agent.resume(self.home, &self.root, &self.resume, prompt);
        assert_eq!(said.id, self.id());
        said
    }

    /// Stage: it is asked what it knows. It is told where it is.
    fn knows(&self) -> History {
        let history = self.ask("and now, what do you know?").history();
        assert_eq!(history.folder.as_deref(), self.root.to_str());
        history
    }
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path.as_ref())
        .unwrap_or_else(|error| panic!("{error}: {}", path.as_ref().display()))
}

/// Files of a home whose name ends so.
fn files_of(home: &TestHome, end: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![home.user_home()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_str().is_some_and(|name| name.ends_with(end)) {
                found.push(entry.path());
            }
        }
    }
    found
}

fn transcript(home: &TestHome, id: &str) -> PathBuf {
    let mut found = files_of(home, &format!("{id}.jsonl"));
    if found.is_empty() {
        // Its name has the beginning of the id.
        found = files_of(home, &format!("-{}.jsonl", &id[..8]));
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

/// All that the program keeps of a conversation.
fn kept(agent: &Installed, home: &TestHome, id: &str) -> String {
    if agent.name() == "opencode" {
        agent.answers(home, &["export", id])
    } else {
        read(transcript(home, id))
    }
}

/// What the program keeps of the work of an agent that another one has started.
fn kept_of_part(agent: &Installed, home: &TestHome, id: &str) -> Option<String> {
    let all: Vec<_> = if agent.name() == "opencode" {
        let query = format!("SELECT id FROM session WHERE parent_id = '{id}'");
        let found = agent.answers(home, &["db", "--format", "tsv", &query]);
        let ids = found.lines().filter(|line| line.starts_with("ses_"));
        ids.map(|id| agent.answers(home, &["export", id])).collect()
    } else {
        let is_other = |path: &PathBuf| {
            !path.to_str().unwrap().contains(id) || path.parent().unwrap().ends_with("subagents")
        };
        files_of(home, ".jsonl").into_iter().filter(is_other).map(read).collect()
    };
    all.into_iter().find(|text| text.contains("part.txt") && text.contains("the details are done"))
}

fn a_program_works_with_the_model(program: &'static Program) {
    let Some(agent) = Installed::get(program) else { return };
    let models = ModelServer::new();
    let mut home = TestHome::new();
    agent.give_to(&mut home, &models);
    let root = home.folder("app").canonicalize().unwrap();
    let steps = [
        Step::write("notes.txt", "the first line\n"),
        Step::edit("notes.txt", "the first line", "the second line"),
        Step::shell("cp notes.txt copy.txt"),
        Step::History,
    ];
    models.on("write the notes", &steps);
    let said = agent.ask(&home, &root, "please write the notes");
    let history = said.history();
    assert!(history.has("please write the notes"), "{history:?}");
    assert_eq!((history.calls.len(), history.results().len()), (3, 3), "{history:?}");
    assert_eq!(history.folder.as_deref(), root.to_str());
    assert_eq!(read(root.join("copy.txt")), "the second line\n", "{history:?}");
    models.on("an image", &[Step::History]);
    std::fs::write(root.join("a.png"), PIXEL).unwrap();
    let said = agent.ask_with_image(&home, &root, "this is an image", &root.join("a.png"));
    assert_eq!(said.history().images.len(), 1, "{said:?}");
    assert_eq!(models.problems(), Vec::<String>::new());
    assert!(
        models
            .asked()
            .iter()
            .filter(|asked| asked.heard.is_some())
            .all(|asked| asked.key.as_deref() == Some(KEY))
    );
}

fn a_conversation_goes_on_elsewhere_and_as_a_fork(program: &'static Program) {
    let Some(desk) = Desk::new(program) else { return };
    let begun = desk.ask("please write the notes (one)");
    assert_eq!(read(desk.root.join("notes.txt")), "the first line\n");
    let before = kept(&desk.agent, &desk.laptop, &begun.id);
    let (told, run) = desk.hand_off("auto");
    assert_eq!(told["receipt"]["conversation"]["id"], begun.id.as_str());
    assert_eq!(told["receipt"]["conversation"]["agent"], program.agent);

    // On another machine it is the same one.
    let other = desk.device();
    let there = desk.pull(&other, &run, "elsewhere/a b");
    assert_eq!(there.id(), begun.id);
    let changed = there.ask("please change the notes (two)");
    assert_eq!(changed.text, "they are changed");
    assert_eq!(read(there.root.join("notes.txt")), "the second line\n");
    knows_the_beginning(&there, &desk, &["(one)", "(two)", "they are written", "they are changed"]);

    // Beside the first one it is a fork.
    let here = desk.pull(&desk.laptop, &run, "result");
    assert_ne!(here.id(), begun.id);
    assert_eq!(here.ask("please change the notes (three)").text, "they are changed");
    let history = knows_the_beginning(&here, &desk, &["(one)", "(three)", "they are changed"]);
    assert!(!history.has("(two)"));

    // Where it began nothing happened.
    assert_eq!(kept(&desk.agent, &desk.laptop, &begun.id), before);
    assert_eq!(read(desk.root.join("notes.txt")), "the first line\n");
    assert_eq!(desk.models.problems(), Vec::<String>::new());
}

/// All of this, and tools that were called at the new place, or with words that name none.
fn knows_the_beginning(place: &Place<'_>, desk: &Desk, said: &[&str]) -> History {
    let history = place.knows();
    for words in said {
        assert!(history.has(words), "{words} is missing in {history:?}");
    }
    assert_eq!((history.calls.len(), history.results().len()), (3, 3), "{history:?}");
    let old = desk.root.to_str().unwrap();
    for (tool, input) in &history.calls {
        assert!(!input.to_string().contains(old), "{tool} {input}");
    }
    // Nor is the old place anywhere else in what the model is told.
    let heard = desk.models.heard().pop().unwrap();
    assert!(!format!("{heard:?}").contains(old), "{heard:?}");
    history
}

fn of_two_conversations_the_one_that_is_named_goes_on(program: &'static Program) {
    let Some(desk) = Desk::new(program) else { return };
    let [first, second] =
        ["(one)", "(two)"].map(|mark| desk.ask(&format!("what do you know {mark}")));
    assert_ne!(first.id, second.id);
    let asked = ["handoff", "--conversation", "auto", "--", "true"];
    let output = desk.laptop.baton_in(&desk.root, &asked);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains(&first.id) && told.contains(&second.id), "{told}");
    let (_, run) = desk.hand_off(&first.id);
    let other = desk.device();
    let there = desk.pull(&other, &run, "elsewhere");
    assert_eq!(there.id(), first.id);
    let history = there.knows();
    assert!(history.has("(one)") && !history.has("(two)"), "{history:?}");
}

fn what_another_agent_did_comes_along(program: &'static Program) {
    let Some(desk) = Desk::new(program) else { return };
    desk.models.on(
        "ask somebody",
        &[Step::delegate("look after the details (part)"), Step::Await, Step::say("somebody did")],
    );
    desk.models.on(
        "look after the details",
        &[Step::write("part.txt", "a part\n"), Step::say("the details are done")],
    );
    let begun = desk.ask("please ask somebody (whole)");
    assert_eq!(begun.text, "somebody did");
    assert_eq!(read(desk.root.join("part.txt")), "a part\n");
    let (_, run) = desk.hand_off("auto");
    let other = desk.device();
    let there = desk.pull(&other, &run, "elsewhere");
    let history = there.knows();
    assert!(history.has("(whole)") && history.has("(part)"), "{history:?}");
    assert!(history.has("the details are done"), "{history:?}");
    // What that one did is there, for who looks, at the place where it would have been done.
    assert!(kept_of_part(&desk.agent, &desk.laptop, &begun.id).is_some());
    let text = kept_of_part(&desk.agent, &other, there.id())
        .unwrap_or_else(|| panic!("what the other agent did is not there"));
    assert!(text.contains(there.root.to_str().unwrap()));
    assert_eq!(desk.models.problems(), Vec::<String>::new());
}

fn a_fork_of_the_programs_own_goes_on(program: &'static Program) {
    let Some(desk) = Desk::new(program) else { return };
    let begun = desk.ask("please write the notes (one)");
    let fork = desk.agent.fork(&desk.laptop, &desk.root, &begun.id, "what do you know (two)");
    assert_ne!(fork.id, begun.id);
    assert!(fork.history().has("(one)"), "{fork:?}");
    // Nothing of this is the fork's.
    let first = desk.agent.again(&desk.laptop, &desk.root, &begun.id, "what do you know (three)");
    assert_eq!(first.id, begun.id);
    let (_, run) = desk.hand_off(&fork.id);
    let other = desk.device();
    // As itself, and as a fork of the fork.
    for (home, into) in [(&other, "elsewhere"), (&desk.laptop, "result")] {
        let place = desk.pull(home, &run, into);
        assert_eq!(place.id() == fork.id, into == "elsewhere");
        assert_ne!(place.id(), begun.id);
        let history = place.knows();
        let has_all = ["(one)", "(two)", "they are written"].iter().all(|it| history.has(it));
        assert!(has_all && !history.has("(three)"), "{history:?}");
    }
}

fn an_image_is_seen_elsewhere(program: &'static Program) {
    let Some(desk) = Desk::new(program) else { return };
    let image = desk.root.join("a.png");
    std::fs::write(&image, PIXEL).unwrap();
    let prompt = "here it is: what do you know of it (one)";
    let begun = desk.agent.ask_with_image(&desk.laptop, &desk.root, prompt, &image);
    let images = begun.history().images;
    assert_eq!(images.len(), 1);
    let (_, run) = desk.hand_off("auto");
    let other = desk.device();
    let history = desk.pull(&other, &run, "elsewhere").knows();
    assert_eq!(history.images, images);
    assert!(history.has("(one)"), "{history:?}");
}

fn a_torn_line_does_no_harm(program: &'static Program) {
    let Some(desk) = Desk::new(program) else { return };
    let begun = desk.ask("please write the notes (one)");
    let path = transcript(&desk.laptop, &begun.id);
    // A program that is just writing.
    let mut text = read(&path);
    text += &text.lines().last().unwrap().chars().take(40).collect::<String>();
    std::fs::write(&path, &text).unwrap();
    let (_, run) = desk.hand_off("auto");
    let other = desk.device();
    let there = desk.pull(&other, &run, "elsewhere");
    assert_eq!(there.id(), begun.id);
    let history = there.knows();
    assert!(history.has("(one)") && history.has("they are written"), "{history:?}");
}

/// A program in the middle of a turn has a database that is written to.
fn a_program_at_work_does_no_harm(program: &'static Program) {
    let Some(desk) = Desk::new(program) else { return };
    let begun = desk.ask("please write the notes (one)");
    let steps = [
        Step::shell("touch begun; while ! test -e go-on; do sleep 0.1; done"),
        Step::say("it is over"),
    ];
    desk.models.on("wait for it", &steps);
    let (run, said) = std::thread::scope(|scope| {
        let turn = scope.spawn(|| {
            desk.agent.again(&desk.laptop, &desk.root, &begun.id, "please wait for it (two)")
        });
        eventually("a command at work", || desk.root.join("begun").exists());
        let (_, run) = desk.hand_off(&begun.id);
        std::fs::write(desk.root.join("go-on"), "").unwrap();
        (run, turn.join().unwrap())
    });
    assert_eq!((said.id.as_str(), said.text.as_str()), (begun.id.as_str(), "it is over"));
    let other = desk.device();
    let there = desk.pull(&other, &run, "elsewhere");
    assert_eq!(there.id(), begun.id);
    let history = there.knows();
    assert!(history.has("(one)") && history.has("they are written"), "{history:?}");
    assert!(history.has("(two)") && !history.has("it is over"), "{history:?}");
    // What it did meanwhile is here.
    let here = desk.agent.again(&desk.laptop, &desk.root, &begun.id, "what do you know?").history();
    assert!(here.has("(two)") && here.has("it is over"), "{here:?}");
}

/// What was too long for the transcript is where the model was told that it is.
fn an_output_that_was_too_long_comes_along(program: &'static Program) {
    let Some(desk) = Desk::new(program) else { return };
    desk.models.on("print a lot", &[Step::shell("seq 1 100000"), Step::say("that was a lot")]);
    desk.ask("please print a lot (one)");
    let (_, run) = desk.hand_off("auto");
    let other = desk.device();
    let there = desk.pull(&other, &run, "elsewhere");
    let history = there.knows();
    let named = history.results().iter().find_map(|text| {
        let from = text.find(other.user_home().to_str()?)?;
        text.get(from..)?.split(|c: char| c.is_whitespace() || c == '\\').next()
    });
    let named = PathBuf::from(named.unwrap_or_else(|| panic!("{history:?}")));
    // All that the program wrote down: when it ends, it does not always wait for the last of it.
    let written = desk.laptop.user_home().join(named.strip_prefix(other.user_home()).unwrap());
    let output = read(written);
    assert!(output.lines().count() > 10_000, "{} lines", output.lines().count());
    assert_eq!(read(named), output);
}

/// The work comes whether or not its conversation can, and nothing of that is lost.
fn without_the_program_the_work_comes_and_it_is_said(program: &'static Program) {
    let Some(desk) = Desk::new(program) else { return };
    let begun = desk.ask("please write the notes (one)");
    let (_, run) = desk.hand_off("auto");
    let mut other = desk.cloud.device();
    let into = other.user_home().join("elsewhere");
    let output = other.baton(&["pull", &run, "--json", "--into", arg(&into)]);
    assert!(output.status.success(), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["resume_command"], serde_json::json!([]), "{told}");
    assert_eq!(told["skipped"][0]["path"], "conversation", "{told}");
    assert_eq!(read(into.join("notes.txt")), "the first line\n");
    // It is said what is missing, and what is then to be done.
    let said = String::from_utf8(output.stderr).unwrap();
    let words = format!("{} is not installed", program.agent);
    assert!(said.contains(&words), "{said}");
    let command = said.rsplit(": ").next().unwrap().split_whitespace().collect::<Vec<_>>();
    desk.agent.give_to(&mut other, &desk.models);
    let taken = desk.agent.answers_in(&other, &into, &command[1..]);
    assert!(taken.contains(&begun.id), "{command:?}: {taken}");
    let history = desk.agent.again(&other, &into, &begun.id, "what do you know?").history();
    assert!(history.has("(one)"), "{history:?}");
}

tests_of!(
    codex,
    &CODEX,
    [
        a_program_works_with_the_model,
        a_conversation_goes_on_elsewhere_and_as_a_fork,
        of_two_conversations_the_one_that_is_named_goes_on,
        what_another_agent_did_comes_along,
        an_image_is_seen_elsewhere,
        a_fork_of_the_programs_own_goes_on,
        a_torn_line_does_no_harm
    ]
);
tests_of!(
    claude,
    &CLAUDE,
    [
        a_program_works_with_the_model,
        a_conversation_goes_on_elsewhere_and_as_a_fork,
        of_two_conversations_the_one_that_is_named_goes_on,
        what_another_agent_did_comes_along,
        an_image_is_seen_elsewhere,
        a_fork_of_the_programs_own_goes_on,
        a_torn_line_does_no_harm
    ]
);
tests_of!(
    gemini,
    &GEMINI,
    [
        a_program_works_with_the_model,
        a_conversation_goes_on_elsewhere_and_as_a_fork,
        of_two_conversations_the_one_that_is_named_goes_on,
        what_another_agent_did_comes_along,
        an_image_is_seen_elsewhere,
        a_torn_line_does_no_harm
    ]
);
tests_of!(
    opencode,
    &OPENCODE,
    [
        a_program_works_with_the_model,
        a_conversation_goes_on_elsewhere_and_as_a_fork,
        of_two_conversations_the_one_that_is_named_goes_on,
        what_another_agent_did_comes_along,
        an_image_is_seen_elsewhere,
        a_fork_of_the_programs_own_goes_on,
        a_program_at_work_does_no_harm,
        an_output_that_was_too_long_comes_along,
        without_the_program_the_work_comes_and_it_is_said
    ]
);
