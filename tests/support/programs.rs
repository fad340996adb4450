//! The real programs of coding agents: pinned, installed once for a checkout of this repository below its target folder, and
//! run in homes of the tests with a scripted model.
//!
//! - [`table`]: which they are, and what each wants to be told
//! - [`install`]: gets them from the registry

mod install;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use super::home::{TestHome, run};
use super::models::{History, ModelServer};
pub(crate) use table::{CLAUDE, CODEX, GEMINI, OPENCODE, PIXEL, Program};

/// Longest time that a turn may take. Far above what any needs, on a slow machine, too.
const TURN: Duration = Duration::from_mins(2);

/// The key that the programs give to the model.
pub(crate) const KEY: &str = "a-key-of-the-tests";

/// A program that is here.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    program: &'static Program,
    /// Holds it under its usual name.
    bin: PathBuf,
}

/// What a program said in a turn.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// Of its conversation.
    pub(crate) id: String,
    /// Its last words.
    pub(crate) text: String,
    output: Output,
}

impl Said {
    /// What it repeated of the conversation.
    pub(crate) fn history(&self) -> History {
        History::find(&self.text).unwrap_or_else(|| panic!("no history in {self:?}"))
    }
}

impl Installed {
    /// The program, installed where it is not; nothing, and loudly so, where it cannot be, or where these tests are not for it.
    pub(crate) fn get(program: &'static Program) -> Option<Self> {
        let bin = install::get(program)?;
        Some(Self { program, bin })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.program.agent
    }

    /// The folder with the program.
    pub(crate) fn bin(&self) -> &Path {
        &self.bin
    }

    /// Makes the program one that the user of this home has, and that asks this model.
    pub(crate) fn give_to(&self, home: &mut TestHome, models: &ModelServer) {
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".into());
        home.set("PATH", &format!("{}:{path}", self.bin.display()));
        for (file, text) in (self.program.files)(&models.url()) {
            let file = home.user_home().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        for (name, value) in (self.program.variables)(&models.url()) {
            home.set(&name, &value);
        }
        // Whoever wants out asks the model's server, which says no.
        home.set("HTTPS_PROXY", &models.url());
        home.set("NO_PROXY", "127.0.0.1,localhost");
    }

    /// What the program is to find among its settings, for a model at this address: the text of the first file.
    pub(crate) fn settings(&self, url: &str) -> String {
        (self.program.files)(url).remove(0).1
    }

    /// A new conversation, in a folder.
    pub(crate) fn ask(&self, home: &TestHome, folder: &Path, prompt: &str) -> Said {
        self.turn(home, folder, &[], prompt)
    }

    /// The same with an image.
    pub(crate) fn ask_with_image(
        &self,
        home: &TestHome,
        folder: &Path,
        prompt: &str,
        image: &Path,
    ) -> Said {
        let command = self.command(home, folder);
        self.end((self.program.with_image)(command, prompt, image))
    }

    /// A turn of a conversation that is there, by the command that resumes it on a terminal.
    pub(crate) fn resume<S: AsRef<str>>(
        &self,
        home: &TestHome,
        folder: &Path,
        resume: &[S],
        prompt: &str,
    ) -> Said {
        let words: Vec<_> = resume.iter().map(AsRef::as_ref).collect();
        let [program, rest @ ..] = &words[..] else { panic!("no command") };
        assert_eq!(*program, self.name());
        self.turn(home, folder, rest, prompt)
    }

    /// A turn of a conversation that is there, by its id.
    pub(crate) fn again(&self, home: &TestHome, folder: &Path, id: &str, prompt: &str) -> Said {
        let words = (self.program.resume)(id);
        self.turn(home, folder, &words, prompt)
    }

    /// A turn of a fork that the program itself makes of a conversation.
    pub(crate) fn fork(&self, home: &TestHome, folder: &Path, id: &str, prompt: &str) -> Said {
        let words = (self.program.fork)(id);
        self.turn(home, folder, &words, prompt)
    }

    /// What the program answers to these words, in the home of its user.
    pub(crate) fn answers(&self, home: &TestHome, words: &[&str]) -> String {
        self.answers_in(home, &home.user_home(), words)
    }

    /// The same, in a folder.
    pub(crate) fn answers_in(&self, home: &TestHome, folder: &Path, words: &[&str]) -> String {
        let mut command = self.command(home, folder);
        command.args(words);
        let output = run(command, TURN);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A turn in which its user types a command that `agent setup` has put into it, in the conversation with this id or in a
    /// new one.
    pub(crate) fn command_of_setup(
        &self,
        home: &TestHome,
        folder: &Path,
        id: Option<&str>,
        (name, typed): (&str, &str),
    ) -> Said {
        let words = id.map(self.program.resume).unwrap_or_default();
        let mut command = self.command(home, folder);
        command.args((self.program.command)(&words, name, typed));
        self.end(command)
    }

    fn turn(&self, home: &TestHome, folder: &Path, resume: &[&str], prompt: &str) -> Said {
        let mut command = self.command(home, folder);
        command.args((self.program.turn)(resume, prompt));
        self.end(command)
    }

    fn command(&self, home: &TestHome, folder: &Path) -> Command {
        let mut command = home.other(&self.bin.join(self.name()));
        command.current_dir(folder);
        command
    }

    fn end(&self, command: Command) -> Said {
        let shown = format!("{command:?}");
        let output = run(command, TURN);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = output.status.success().then(|| (self.program.said)(&values(&text))).flatten();
        let Some((id, text)) = said else { panic!("{shown}: {output:?}") };
        Said { id, text, output }
    }
}

/// Every value of JSON in what a program wrote: one, or one a line, among other lines perhaps.
fn values(text: &str) -> Vec<Value> {
    if let Some(at) = text.find('{')
        && let Ok(whole) = serde_json::from_str(&text[at..])
    {
        return vec![whole];
    }
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
