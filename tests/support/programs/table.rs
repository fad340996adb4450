//! Which programs there are, at which version, and what each wants to be told.

use std::io::{Seek, Write};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::KEY;

/// A small image, as a file.
pub(crate) const PIXEL: [u8; 70] = [
    0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', 0, 0, 0, 13, b'I', b'H', b'D', b'R', 0, 0,
    0, 1, 0, 0, 0, 1, 8, 6, 0, 0, 0, 0x1f, 0x15, 0xc4, 0x89, 0, 0, 0, 13, b'I', b'D', b'A', b'T',
    0x78, 0xda, 0x63, 0x64, 0xf8, 0xcf, 0x50, 0x0f, 0, 3, 0x86, 1, 0x80, 0x5a, 0x34, 0x7d, 0x6b, 0,
    0, 0, 0, b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82,
];

/// The same in base 64.
const PIXEL_AS_TEXT: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/// A program, and its ways.
#[derive(Debug)]
pub(crate) struct Program {
    /// What it is called here, and as a command.
    pub(crate) agent: &'static str,
    /// In the npm registry.
    pub(super) package: &'static str,
    pub(super) version: &'static str,
    /// Where it is below `node_modules`, the first that is there: `{cpu}` is npm's word for the processor, `{arch}` Rust's.
    pub(super) at: &'static [&'static str],
    /// Whether the standard tests have it; the others are those of the nightly ones.
    pub(super) is_standard: bool,
    /// Files of a home, with the address of the model.
    pub(super) files: fn(&str) -> Vec<(&'static str, String)>,
    pub(super) variables: fn(&str) -> Vec<(String, String)>,
    /// Arguments for a turn without a terminal: those of the command that resumes on one, without the program, and the prompt.
    pub(super) turn: fn(&[&str], &str) -> Vec<String>,
    /// The same for a command that `agent setup` has put into it, and what its user types behind that.
    pub(super) command: fn(&[&str], &str, &str) -> Vec<String>,
    /// Words of the command that resumes a conversation, and of the one that forks it.
    pub(super) resume: fn(&str) -> Vec<&str>,
    pub(super) fork: fn(&str) -> Vec<&str>,
    /// A turn of a new conversation with an image.
    pub(super) with_image: fn(Command, &str, &Path) -> Command,
    /// The id of the conversation and the last words, in what it wrote.
    pub(super) said: fn(&[Value]) -> Option<(String, String)>,
}

impl Program {
    /// What its file of settings says.
    pub(crate) fn file(&self, url: &str) -> String {
        (self.files)(url).into_iter().map(|(_, text)| text).collect()
    }
}

pub(crate) static CLAUDE: Program = Program {
    agent: "claude",
    package: "@anthropic-ai/claude-code",
    version: "2.1.330",
    at: &[
        "@anthropic-ai/claude-code-linux-{cpu}/claude",
        "@anthropic-ai/claude-code-linux-{cpu}-musl/claude",
    ],
    is_standard: false,
    files: |_| Vec::new(),
    variables: |url| {
        vec![
            ("ANTHROPIC_BASE_URL".to_owned(), url.to_owned()),
            ("ANTHROPIC_API_KEY".to_owned(), KEY.to_owned()),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC".to_owned(), "1".to_owned()),
            ("DISABLE_AUTOUPDATER".to_owned(), "1".to_owned()),
            // Root may do without questions only where it says that nothing can be harmed.
            ("IS_SANDBOX".to_owned(), "1".to_owned()),
        ]
    },
    turn: |resume, prompt| {
        strings(&[
            &["-p", "--output-format", "json", "--permission-mode", "bypassPermissions"],
            resume,
            &["--", prompt],
        ])
    },
    // Without a word on what it may do: what setup writes is enough for its tools.
    command: |resume, name, typed| {
        let prompt = format!("/{name} {typed}");
        strings(&[&["-p", "--output-format", "json"], resume, &["--", &prompt]])
    },
    resume: |id| vec!["--resume", id],
    fork: |id| vec!["--resume", id, "--fork-session"],
    with_image: |mut command, prompt, image| {
        assert_eq!(std::fs::read(image).unwrap(), PIXEL);
        let source = json!({"type": "base64", "media_type": "image/png", "data": PIXEL_AS_TEXT});
        let content =
            json!([{"type": "text", "text": prompt}, {"type": "image", "source": source}]);
        let message = json!({"type": "user", "message": {"role": "user", "content": content}});
        let mut input = tempfile::tempfile().unwrap();
        writeln!(input, "{message}").unwrap();
        input.rewind().unwrap();
        command
            .args(["-p", "--output-format", "stream-json", "--verbose"])
            .args(["--input-format", "stream-json", "--permission-mode", "bypassPermissions"])
            .stdin(input);
        command
    },
    said: |values| {
        let last = values.last()?;
        Some((text(last, "session_id")?, text(last, "result")?))
    },
};

pub(crate) static CODEX: Program = Program {
    agent: "codex",
    package: "@openai/codex",
    version: "0.169.0",
    at: &["@openai/codex-linux-{cpu}/vendor/{arch}-unknown-linux-musl/bin/codex"],
    is_standard: true,
    files: |url| {
        let config = format!(
            "model = \"gpt-5.5\"\nmodel_provider = \"scripted\"\ncheck_for_update_on_startup = false\n\
             [model_providers.scripted]\nname = \"scripted\"\nbase_url = \"{url}/v1\"\nwire_api = \"responses\"\n\
             env_key = \"SCRIPTED_KEY\"\nrequires_openai_auth = false\n[analytics]\nenabled = false\n"
        );
        vec![(".codex/config.toml", config)]
    },
    variables: |_| vec![("SCRIPTED_KEY".to_owned(), KEY.to_owned())],
    turn: |resume, prompt| strings(&[&["exec"], &CODEX_OPTIONS, resume, &["--", prompt]]),
    command: |resume, name, typed| {
        let prompt = format!("${name} {typed}");
        strings(&[&["exec"], &CODEX_OPTIONS, resume, &["--", &prompt]])
    },
    resume: |id| vec!["resume", id],
    fork: |id| vec!["fork", id],
    with_image: |mut command, prompt, image| {
        command.args(["exec"]).args(CODEX_OPTIONS).arg("-i").arg(image).args(["--", prompt]);
        command
    },
    said: |values| {
        let id = values.iter().find_map(|value| text(value, "thread_id"))?;
        let mut words = values.iter().filter(|value| value["item"]["type"] == "agent_message");
        Some((id, text(&words.next_back()?["item"], "text")?))
    },
};

const CODEX_OPTIONS: [&str; 4] = [
    "--json",
    "--skip-git-repo-check",
    "--dangerously-bypass-approvals-and-sandbox",
    // Its user would trust them by `/hooks`.
    "--dangerously-bypass-hook-trust",
];

pub(crate) static GEMINI: Program = Program {
    agent: "gemini",
    package: "@google/gemini-cli",
    version: "0.61.0",
    at: &["@google/gemini-cli/bundle/gemini.js"],
    is_standard: false,
    files: |_| {
        let settings = json!({
            "security": {"auth": {"selectedType": "gemini-api-key"}, "folderTrust": {"enabled": false}},
            "model": {"name": "gemini-2.5-flash"},
            "general": {"enableAutoUpdate": false, "disableAutoUpdate": true},
            "privacy": {"usageStatisticsEnabled": false},
            "telemetry": {"enabled": false},
        });
        vec![(".gemini/settings.json", settings.to_string())]
    },
    variables: |url| {
        vec![
            ("GOOGLE_GEMINI_BASE_URL".to_owned(), url.to_owned()),
            ("GEMINI_API_KEY".to_owned(), KEY.to_owned()),
        ]
    },
    turn: |resume, prompt| {
        let options = ["-m", "gemini-2.5-flash", "--yolo", "--output-format", "json", "-p", prompt];
        strings(&[resume, &options])
    },
    command: |resume, name, typed| (GEMINI.turn)(resume, &format!("/{name} {typed}")),
    resume: |id| vec!["--resume", id],
    // It has no forks.
    fork: |_| Vec::new(),
    with_image: |mut command, prompt, image| {
        let name = image.file_name().unwrap().to_str().unwrap();
        let options = ["-m", "gemini-2.5-flash", "--yolo", "--output-format", "json", "-p"];
        command.args(options).arg(format!("{prompt} @{name}"));
        command
    },
    said: |values| {
        let last = values.last()?;
        Some((text(last, "session_id")?, text(last, "response")?))
    },
};

pub(crate) static OPENCODE: Program = Program {
    agent: "opencode",
    package: "opencode-ai",
    version: "1.18.33",
    at: &["opencode-linux-{cpu}/bin/opencode"],
    is_standard: false,
    files: |url| {
        let model = json!({
            "name": "scripted", "attachment": true, "tool_call": true,
            "modalities": {"input": ["text", "image"], "output": ["text"]},
        });
        let config = json!({
            "model": "scripted/scripted", "small_model": "scripted/scripted",
            "autoupdate": false, "share": "disabled", "permission": "allow",
            "provider": {"scripted": {
                "npm": "@ai-sdk/openai-compatible", "name": "scripted",
                "options": {"baseURL": format!("{url}/v1"), "apiKey": KEY},
                "models": {"scripted": model},
            }},
        });
        vec![(".config/opencode/opencode.json", config.to_string())]
    },
    variables: |_| {
        let off = ["MODELS_FETCH", "AUTOUPDATE", "LSP_DOWNLOAD", "DEFAULT_PLUGINS"];
        off.map(|what| (format!("OPENCODE_DISABLE_{what}"), "1".to_owned())).to_vec()
    },
    turn: |resume, prompt| strings(&[&["run", "--format", "json"], resume, &["--", prompt]]),
    command: |resume, name, typed| {
        // It puts what has a space in it into quotation marks.
        let typed: Vec<_> = typed.split(' ').collect();
        strings(&[&["run", "--format", "json"], resume, &["--command", name, "--"], &typed])
    },
    resume: |id| vec!["-s", id],
    fork: |id| vec!["-s", id, "--fork"],
    with_image: |mut command, prompt, image| {
        command.args(["run", "--format", "json", "-f"]).arg(image).args(["--", prompt]);
        command
    },
    said: |values| {
        let id = values.iter().find_map(|value| text(value, "sessionID"))?;
        let mut words = values.iter().filter(|value| value["type"] == "text");
        Some((id, text(&words.next_back()?["part"], "text")?))
    },
};

fn text(value: &Value, field: &str) -> Option<String> {
    value[field].as_str().map(str::to_owned)
}

fn strings(groups: &[&[&str]]) -> Vec<String> {
    groups.concat().into_iter().map(str::to_owned).collect()
}
