//! Where somebody works with the real program of a coding agent, and a node that has it, too.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::cloud::{Cloud, arg};
use super::home::TestHome;
use super::models::{ModelServer, Step};
use super::programs::{Installed, KEY, Program};

/// A model, a node whose owner has set the program up, and a laptop whose user has it, too, and a workspace.
pub(crate) struct Desk {
    pub(crate) agent: Installed,
    pub(crate) models: ModelServer,
    pub(crate) cloud: Cloud,
    pub(crate) laptop: TestHome,
    pub(crate) root: PathBuf,
}

/// What the owner of the node sets up.
fn config(agent: &Installed, url: &str, home: &TestHome) -> String {
    let bin = agent.bin().canonicalize().unwrap();
    // The program itself is beside its link.
    let folder = arg(bin.parent().unwrap());
    let program = bin.join(agent.name());
    let mut program = arg(&program).to_owned();
    let mut exposed = vec![folder.to_owned()];
    let own = match agent.name() {
        "codex" => format!(
            "env = {{ SCRIPTED_KEY = {KEY:?} }}\n\
             args = ['-c', 'model=\"gpt-5.5\"', '-c', 'model_provider=\"scripted\"', '-c', \
             'model_providers.scripted={{name=\"scripted\",base_url=\"{url}/v1\",wire_api=\"responses\",env_key=\"SCRIPTED_KEY\",requires_openai_auth=false}}']\n"
        ),
        "claude" => format!(
            "env = {{ ANTHROPIC_BASE_URL = {url:?}, ANTHROPIC_API_KEY = {KEY:?}, \
             CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC = \"1\" }}\n"
        ),
        "gemini" => {
            // By its variables alone it takes no key where the model is not its maker's, and settings for all users it takes
            // from below nothing that others may write to, as `/tmp` is.
            let wrapper = home.folder("programs").join("gemini");
            let settings = agent.settings(url);
            let script = format!(
                "#!/bin/sh\nset -e\nmkdir -p ~/.gemini\necho '{settings}' > ~/.gemini/settings.json\nexec {program:?} \"$@\"\n"
            );
            std::fs::write(&wrapper, script).unwrap();
            std::fs::set_permissions(&wrapper, Permissions::from_mode(0o755)).unwrap();
            arg(&wrapper).clone_into(&mut program);
            exposed.push(program.clone());
            format!(
                "env = {{ GOOGLE_GEMINI_BASE_URL = {url:?}, GEMINI_API_KEY = {KEY:?} }}\n\
                 args = ['--model', 'gemini-2.5-flash']\n"
            )
        }
        "opencode" => {
            let settings = agent.settings(url);
            format!(
                "env = {{ OPENCODE_CONFIG_CONTENT = '{settings}', OPENCODE_DISABLE_MODELS_FETCH = \"1\", \
                 OPENCODE_DISABLE_LSP_DOWNLOAD = \"1\", OPENCODE_DISABLE_DEFAULT_PLUGINS = \"1\" }}\n"
            )
        }
        other => panic!("{other}"),
    };
    format!(
        "[serve]\nexpose = {exposed:?}\n[agents.{}]\nprogram = {program:?}\n{own}",
        agent.name()
    )
}

impl Desk {
    /// Nothing where the program is not here.
    pub(crate) fn new(program: &'static Program) -> Option<Self> {
        let agent = Installed::get(program)?;
        let models = ModelServer::new();
        models.on(
            "write the notes",
            &[Step::write("notes.txt", "the first line\n"), Step::say("they are written")],
        );
        models.on(
            "change the notes",
            &[
                Step::edit("notes.txt", "the first line", "the second line"),
                Step::say("they are changed"),
            ],
        );
        models.on(
            "finish the notes",
            &[
                Step::edit("notes.txt", "the second line", "the third line"),
                Step::say("they are finished"),
            ],
        );
        models.on("what do you know", &[Step::History]);
        let home = TestHome::new();
        std::fs::create_dir_all(home.baton_home()).unwrap();
        let node = config(&agent, &models.url(), &home);
        std::fs::write(home.baton_home().join("config.toml"), node).unwrap();
        let cloud = Cloud::in_home(home);
        let mut laptop = cloud.device();
        agent.give_to(&mut laptop, &models);
        let root = laptop.folder("work/app_1").canonicalize().unwrap();
        std::fs::write(root.join("main.rs"), "fn main() {}\n").unwrap();
        Some(Self { agent, models, cloud, laptop, root })
    }
}

/// What the agent has written in a workspace.
pub(crate) fn notes(root: &Path) -> String {
    std::fs::read_to_string(root.join("notes.txt")).unwrap()
}

/// The same tests of one program, in a module of its name.
macro_rules! tests_of {
    ($name:ident, $program:expr, [$($test:ident),*]) => {
        mod $name {
            use super::*;
            $(#[test]
            fn $test() {
                super::$test($program);
            })*
        }
    };
}
pub(crate) use tests_of;
