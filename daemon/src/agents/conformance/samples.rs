//! Sessions as they lie in the folders of agents: lines of the forms that the programs write, shorter.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use baton_protocol::path::RelPath;
use baton_store::folder::Folder;
use baton_store::fs;

use super::super::adapter::Agent;

pub(super) const ID: &str = "01a21b58-b33b-4981-9512-8b8a5be4cd61";
pub(super) const OTHER: &str = "01a21b58-e336-4bb2-b72d-3193f4f9c6b0";

/// The agent that a session has started.
const CHILD: &str = "01a21b5b-3325-4f03-8a3c-2837fca135a9";

/// Stands in the line with which the last turn begins, and in none before it.
pub(super) const LAST_TURN: &str = "2026-11-27T00:20:00";

/// A home of a user, with a workspace in it.
pub(super) struct Machine {
    pub(super) dir: tempfile::TempDir,
    pub(super) home: PathBuf,
    pub(super) root: PathBuf,
}

/// Whether a file has lines.
pub(super) fn is_transcript(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|it| it == "jsonl")
}

pub(super) fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write_atomic(path, bytes, 0o600).unwrap();
}

impl Machine {
    pub(super) fn new(user: &str, workspace: &str) -> Self {
        Self::new_in(tempfile::tempdir().unwrap(), user, workspace)
    }

    /// The same in memory, where there is a place for that.
    pub(super) fn in_memory(user: &str, workspace: &str) -> Self {
        let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self::new_in(memory.unwrap(), user, workspace)
    }

    fn new_in(dir: tempfile::TempDir, user: &str, workspace: &str) -> Self {
        let top = dir.path().canonicalize().unwrap();
        let (home, root) = (top.join("home").join(user), top.join(workspace));
        fs::create_dir_all(&home).unwrap();
        fs::create_dir_all(&root.join("inner")).unwrap();
        Self { dir, home, root }
    }

    pub(super) fn folder(&self, agent: &dyn Agent) -> PathBuf {
        self.home.join(agent.default_folder())
    }

    pub(super) fn open(&self, agent: &dyn Agent) -> Folder {
        Folder::open(&self.folder(agent)).unwrap().unwrap()
    }

    pub(super) fn read(&self, at: &RelPath, agent: &dyn Agent) -> String {
        String::from_utf8(self.read_bytes(at, agent)).unwrap()
    }

    pub(super) fn read_bytes(&self, at: &RelPath, agent: &dyn Agent) -> Vec<u8> {
        let path = self.open(agent).path_of(at);
        fs::read_if_exists(&path, 1 << 30).unwrap().unwrap()
    }

    /// Every file in the agent's folder.
    pub(super) fn all(&self, agent: &dyn Agent) -> BTreeMap<String, Vec<u8>> {
        fn below(path: &Path, to: &mut BTreeMap<String, Vec<u8>>) {
            for name in fs::list_dir(path).unwrap() {
                let path = path.join(name);
                let kind = path.symlink_metadata().unwrap().file_type();
                if kind.is_dir() {
                    below(&path, to);
                } else if kind.is_file() {
                    let bytes = fs::read_if_exists(&path, 1 << 30).unwrap().unwrap();
                    to.insert(path.to_str().unwrap().to_owned(), bytes);
                }
            }
        }
        let mut all = BTreeMap::new();
        below(&self.folder(agent), &mut all);
        all
    }

    /// All transcripts in it.
    pub(super) fn text(&self, agent: &dyn Agent) -> String {
        let all = self.all(agent).into_iter().filter(|(path, _)| is_transcript(path));
        all.map(|(_, bytes)| String::from_utf8(bytes).unwrap()).collect()
    }

    pub(super) fn path(&self, agent: &dyn Agent, id: &str) -> PathBuf {
        let folder = self.open(agent);
        folder.path_of(&agent.session(&folder, id).unwrap().unwrap().at)
    }

    pub(super) fn append(&self, agent: &dyn Agent, id: &str, bytes: &[u8]) {
        fs::open_append(&self.path(agent, id)).unwrap().write_all(bytes).unwrap();
    }

    /// Writes a session of two turns with everything that can belong to one. Gives the names of its files in a
    /// conversation, and where they are.
    pub(super) fn sample(&self, agent: &dyn Agent, id: &str, cwd: &Path) -> Vec<(String, PathBuf)> {
        let folder = self.folder(agent);
        let files = match agent.name() {
            "claude" => self.claude(id, cwd),
            "gemini" => self.gemini(id, cwd),
            _ => codex(id, cwd),
        };
        let files: Vec<_> = files
            .into_iter()
            .map(|(name, at, text)| {
                write(&folder.join(&at), text.as_bytes());
                (name, folder.join(at))
            })
            .collect();
        if agent.name() == "claude" {
            // What belongs to the machine, and is never looked at.
            write(&folder.join("settings.json"), b"{}");
            write(&folder.join(".credentials.json"), b"{}");
            write(&folder.join("session-env").join(id).join("env"), b"export X=1");
        }
        if agent.name() == "gemini" {
            write(&folder.join("settings.json"), b"{}");
            write(&folder.join("oauth_creds.json"), b"{}");
            self.gemini_project(cwd);
        }
        files
    }

    /// A session of a single turn.
    pub(super) fn one_turn(&self, agent: &dyn Agent, id: &str) {
        let cwd = &self.root;
        let (at, text) = match agent.name() {
            "claude" => {
                let turn = claude_turn(id, cwd, "hand it over", LAST_TURN);
                (format!("projects/{}/{id}.jsonl", slug(cwd)), turn)
            }
            "gemini" => {
                let at = format!("{}/chats/{}", self.gemini_project(cwd), gemini_file(id));
                (at, gemini_first(id, "main") + &gemini_said("user", "hand it over", LAST_TURN))
            }
            _ => {
                let turn = codex_turn(id, "1", "hand it over", "00:20:00");
                (rollout(id, "00-12-30"), codex_meta(id, id, cwd, "") + &turn)
            }
        };
        write(&self.folder(agent).join(at), text.as_bytes());
    }

    /// The folder of a project of Gemini, with what says whose it is.
    fn gemini_project(&self, cwd: &Path) -> String {
        let name = cwd.file_name().unwrap().to_str().unwrap().replace(' ', "-");
        let at = format!("tmp/{name}");
        let sign = self.home.join(".gemini").join(&at).join(".project_root");
        write(&sign, cwd.to_str().unwrap().as_bytes());
        at
    }

    fn gemini(&self, id: &str, cwd: &Path) -> Vec<(String, String, String)> {
        let project = self.gemini_project(cwd);
        let own = self.home.join(".gemini").join(&project);
        let (own, cwd) = (own.to_str().unwrap(), cwd.to_str().unwrap());
        let file = format!("{cwd}/src/main.rs");
        let call = format!(
            r#"{{"id":"m","timestamp":"2026-11-27T00:11:00.1Z","type":"gemini","content":"","thoughts":[],"tokens":{{"input":1.50}},"toolCalls":[{{"id":"t1","name":"read_file","args":{{"file_path":"{file}"}},"result":[{{"functionResponse":{{"id":"t1","name":"read_file","response":{{"output":"in {file}:\n\tfn main, all of it in {own}/tool-outputs/session-{id}/b.txt"}}}}}}],"status":"success","resultDisplay":{{"filePath":"{file}"}},"description":"{file}"}}]}}"#
        );
        let main = [
            gemini_first(id, "main"),
            format!(
                r#"{{"$set":{{"messages":[{{"id":"c","type":"user","content":[{{"text":"<session_context>\nThe project's temporary directory is: {own}\n  - {cwd}\n</session_context>"}}]}}],"lastUpdated":"2026-11-27T00:10:31.0Z"}}}}"#
            ) + "\n",
            gemini_said("user", "look at the bug in app", "2026-11-27T00:10:32"),
            "{\"$set\":{\"lastUpdated\":\"2026-11-27T00:10:32.2Z\"}}\n".to_owned(),
            call + "\n",
            format!(
                r#"{{"id":"r","type":"user","content":[{{"functionResponse":{{"id":"t1","name":"read_file","response":{{"output":"in {file}"}}}}}}]}}"#
            ) + "\n",
            format!(r#"{{"$set":{{"directories":["{cwd}"]}}}}"#) + "\n",
            gemini_said("gemini", &format!("said about {file}"), "2026-11-27T00:12:00"),
            gemini_said("user", "hand it over", LAST_TURN),
        ];
        let of_agent = gemini_first(CHILD, "subagent")
            + &gemini_said("user", "of a subagent", "2026-11-27T00:11:30");
        let named = gemini_file(id);
        let name = named.replace(id.get(..8).unwrap(), id);
        vec![
            (name, format!("{project}/chats/{named}"), main.concat()),
            (
                format!("subagents/{CHILD}.jsonl"),
                format!("{project}/chats/{id}/{CHILD}.jsonl"),
                of_agent,
            ),
            ("session/plans/p.md".into(), format!("{project}/{id}/plans/p.md"), "# Plan\n".into()),
            (
                "tool-outputs/b.txt".into(),
                format!("{project}/tool-outputs/session-{id}/b.txt"),
                "1\n2\n".into(),
            ),
        ]
    }

    fn claude(&self, id: &str, cwd: &Path) -> Vec<(String, String, String)> {
        let project = slug(cwd);
        let own = format!("projects/{project}/{id}");
        let big = self.home.join(format!(".claude/{own}/tool-results/b.txt"));
        let cwd_text = cwd.to_str().unwrap();
        let file = format!("{cwd_text}/src/main.rs");
        let root_name = "app";
        let common =
            format!(r#""cwd":"{cwd_text}","sessionId":"{id}","version":"2.1.330","slug":"a-plan""#);
        let main = [
            format!(
                r#"{{"type":"queue-operation","operation":"enqueue","timestamp":"2026-11-27T00:10:33.729Z","sessionId":"{id}"}}"#
            ),
            format!(
                r#"{{"parentUuid":null,"isSidechain":false,"type":"user","message":{{"role":"user","content":"look at the bug in {root_name}"}},"uuid":"1","timestamp":"2026-11-27T00:10:33Z",{common}}}"#
            ),
            format!(
                r#"{{"attachment":{{"type":"environment","snapshot":{{"workingDirectory":"{cwd_text}"}}}},"type":"attachment","rendered":[{{"content":"cwd: {cwd_text}\n"}}],{common}}}"#
            ),
            format!(
                r#"{{"type":"assistant","message":{{"role":"assistant","content":[{{"type":"tool_use","id":"t1","name":"Read","input":{{"file_path":"{file}"}}}}]}},{common}}}"#
            ),
            format!(
                r#"{{"type":"user","message":{{"role":"user","content":[{{"tool_use_id":"t1","type":"tool_result","content":"in {file}:\n\tfn main"}}]}},"toolUseResult":{{"filePath":"{file}","n":1.50}},{common}}}"#
            ),
            format!(
                r#"{{"type":"user","message":{{"role":"user","content":[{{"type":"tool_result","content":"Output too large: {}"}}]}},"toolUseResult":{{"persistedOutputPath":"{}"}},{common}}}"#,
                big.display(),
                big.display()
            ),
            format!(
                r#"{{"type":"assistant","message":{{"content":[{{"type":"text","text":"said about {cwd_text}/src/main.rs"}}]}},{common}}}"#
            ),
            format!(
                r#"{{"type":"file-history-snapshot","messageId":"2","timestamp":"{LAST_TURN}.000Z","snapshot":{{"trackedFileBackups":{{"{file}":{{"v":1}}}}}}}}"#
            ),
        ];
        let main = main.join("\n") + "\n";
        let main = main + &claude_turn(id, cwd, "hand it over", LAST_TURN);
        let agent_line = format!(
            r#"{{"type":"user","isSidechain":true,"agentId":"x","message":{{"role":"user","content":"of a subagent"}},{common}}}"#
        );
        vec![
            ("session.jsonl".into(), format!("{own}.jsonl"), main),
            (
                "session/subagents/agent-x.jsonl".into(),
                format!("{own}/subagents/agent-x.jsonl"),
                agent_line + "\n",
            ),
            (
                "session/subagents/agent-x.meta.json".into(),
                format!("{own}/subagents/agent-x.meta.json"),
                "{}".into(),
            ),
            (
                "session/tool-results/b.txt".into(),
                format!("{own}/tool-results/b.txt"),
                "1\n2\n".into(),
            ),
            (format!("todos/agent-{id}.json"), format!("todos/{id}-agent-{id}.json"), "[]".into()),
            ("tasks/1.json".into(), format!("tasks/{id}/1.json"), "{}".into()),
            ("file-history/a@v1".into(), format!("file-history/{id}/a@v1"), "old text\n".into()),
            ("plans/a-plan.md".into(), "plans/a-plan.md".into(), "# Plan\n".into()),
            (
                "memory/MEMORY.md".into(),
                format!("projects/{project}/memory/MEMORY.md"),
                "- a fact\n".into(),
            ),
        ]
    }

    /// An agent of Codex that another one has started.
    pub(super) fn child(&self, id: &str, of: &str) {
        let rest = format!(r#","parent_thread_id":"{of}","thread_source":"subagent""#);
        let text = codex_meta(id, of, &self.root, &rest);
        let path = self.folder(&super::super::codex::Codex).join(rollout(id, "00-12-50"));
        write(&path, text.as_bytes());
    }

    /// A conversation of Codex that goes on from another one by reference. Gives where that is, and how long.
    pub(super) fn fork(&self, of: &str, id: &str) -> (PathBuf, u64) {
        let agent = &super::super::codex::Codex;
        let base = self.path(agent, of);
        let length = fs::read_if_exists(&base, 1 << 20).unwrap().unwrap().len() as u64;
        let rest = format!(
            r#","history_base":{{"thread_id":"{of}","end_ordinal_exclusive":24,"end_byte_offset":{length}}}"#
        );
        let text = format!(
            "{}{}",
            codex_meta(id, id, &self.root, &rest),
            codex_turn(id, "3", "and now a fork", "00:30:00")
        );
        write(&self.folder(agent).join(rollout(id, "00-12-42")), text.as_bytes());
        (base, length)
    }
}

fn slug(path: &Path) -> String {
    path.to_str().unwrap().replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

fn claude_turn(id: &str, cwd: &Path, text: &str, time: &str) -> String {
    let cwd = cwd.display();
    format!(
        "{{\"type\":\"queue-operation\",\"operation\":\"dequeue\",\"timestamp\":\"{time}.1Z\",\"sessionId\":\"{id}\"}}\n\
         {{\"type\":\"user\",\"message\":{{\"role\":\"user\",\"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}]}},\"cwd\":\"{cwd}\",\"sessionId\":\"{id}\",\"timestamp\":\"{time}.2Z\"}}\n"
    )
}

/// The samples' ids begin alike: they are of different minutes.
fn gemini_file(id: &str) -> String {
    let minute = 10 + u32::from_str_radix(id.get(9..10).unwrap(), 16).unwrap();
    format!("session-2026-11-27T00-{minute}-{}.jsonl", id.get(..8).unwrap())
}

fn gemini_first(id: &str, kind: &str) -> String {
    format!(
        "{{\"sessionId\":\"{id}\",\"projectHash\":\"549513bd\",\"startTime\":\"2026-11-27T00:10:30.0Z\",\"kind\":\"{kind}\"}}\n"
    )
}

fn gemini_said(kind: &str, text: &str, time: &str) -> String {
    let content =
        if kind == "user" { format!("[{{\"text\":\"{text}\"}}]") } else { format!("\"{text}\"") };
    format!(
        "{{\"id\":\"{time}\",\"timestamp\":\"{time}.1Z\",\"type\":\"{kind}\",\"content\":{content}}}\n"
    )
}

fn rollout(id: &str, time: &str) -> String {
    format!("sessions/2026/11/27/rollout-2026-11-27T{time}-{id}.jsonl")
}

fn codex_meta(id: &str, session: &str, cwd: &Path, rest: &str) -> String {
    let cwd = cwd.display();
    format!(
        "{{\"timestamp\":\"2026-11-27T00:12:30.436Z\",\"ordinal\":0,\"type\":\"session_meta\",\"payload\":{{\"session_id\":\"{session}\",\"id\":\"{id}\",\"cwd\":\"{cwd}\",\"runtime_workspace_roots\":[\"{cwd}\"],\"cli_version\":\"0.169.0\",\"source\":\"exec\"{rest}}}}}\n"
    )
}

fn codex_turn(id: &str, turn: &str, text: &str, time: &str) -> String {
    format!(
        "{{\"timestamp\":\"2026-11-27T{time}.1Z\",\"type\":\"event_msg\",\"payload\":{{\"type\":\"task_started\",\"turn_id\":\"{turn}\"}}}}\n\
         {{\"timestamp\":\"2026-11-27T{time}.2Z\",\"type\":\"response_item\",\"payload\":{{\"type\":\"message\",\"role\":\"user\",\"content\":[{{\"type\":\"input_text\",\"text\":\"{text}\"}}]}}}}\n\
         {{\"timestamp\":\"2026-11-27T{time}.3Z\",\"type\":\"event_msg\",\"payload\":{{\"type\":\"item_completed\",\"thread_id\":\"{id}\",\"item\":{{\"type\":\"UserMessage\",\"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}]}}}}}}\n"
    )
}

fn codex(id: &str, cwd: &Path) -> Vec<(String, String, String)> {
    let cwd_text = cwd.to_str().unwrap();
    let file = format!("{cwd_text}/src/main.rs");
    let line = |kind: &str, payload: String| {
        format!(
            "{{\"timestamp\":\"2026-11-27T00:12:30.5Z\",\"type\":\"{kind}\",\"payload\":{payload}}}\n"
        )
    };
    let main = [
        codex_meta(id, id, cwd, ""),
        line("response_item", format!(r#"{{"type":"message","role":"user","content":[{{"type":"input_text","text":"<environment_context>\n  <cwd>{cwd_text}</cwd>\n"}}]}}"#)),
        line("world_state", format!(r#"{{"full":true,"state":{{"environments":{{"local":{{"cwd":"{cwd_text}"}}}}}}}}"#)),
        line("turn_context", format!(r#"{{"turn_id":"1","cwd":"{cwd_text}","model":"m"}}"#)),
        codex_turn(id, "1", "look at the bug in app", "00:13:00"),
        line("response_item", format!(r#"{{"type":"function_call","name":"exec_command","arguments":"{{\"cmd\":\"cat {file}\"}}","call_id":"c"}}"#)),
        line("event_msg", format!(r#"{{"type":"item_completed","item":{{"type":"CommandExecution","command":["bash","-lc","cat {file}"],"cwd":"file://{}"}}}}"#, cwd_text.replace(' ', "%20"))),
        line("response_item", format!(r#"{{"type":"function_call_output","call_id":"c","output":"Output:\nin {file}\n"}}"#)),
        line("response_item", format!(r#"{{"type":"message","role":"assistant","content":[{{"type":"output_text","text":"said about {cwd_text}/src/main.rs"}}]}}"#)),
        codex_turn(id, "2", "hand it over", "00:20:00"),
        line("response_item", r#"{"type":"message","role":"assistant","content":[{"type":"output_text","text":"yes"}]}"#.to_owned()),
    ];
    // Its name is unlike those of the other sessions' children.
    let child = format!("{}{}", CHILD.get(..24).unwrap(), id.get(24..).unwrap());
    let name = rollout(id, "00-12-30");
    let of_child = rollout(&child, "00-12-31");
    let child_text = codex_meta(
        &child,
        id,
        cwd,
        &format!(r#","parent_thread_id":"{id}","thread_source":"subagent""#),
    ) + &codex_turn(&child, "1", "of a subagent", "00:14:00");
    vec![(name.clone(), name, main.concat()), (of_child.clone(), of_child, child_text)]
}

/// What comes to be beside the files of a conversation: what says whose a folder is.
pub(super) fn signs(agent: &dyn Agent) -> usize {
    usize::from(agent.name() == "gemini")
}

/// A line that comes after all others: what the agent has said.
pub(super) fn later(agent: &dyn Agent, text: &str) -> String {
    match agent.name() {
        "claude" => format!(
            "{{\"type\":\"assistant\",\"message\":{{\"role\":\"assistant\",\"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}]}}}}\n"
        ),
        "gemini" => gemini_said("gemini", text, "2026-11-27T01:00:00"),
        _ => format!(
            "{{\"timestamp\":\"2026-11-27T01:00:00.0Z\",\"type\":\"response_item\",\"payload\":{{\"type\":\"message\",\"role\":\"assistant\",\"content\":[{{\"type\":\"output_text\",\"text\":\"{text}\"}}]}}}}\n"
        ),
    }
}

/// A line with which a tool is called, by the number `id`.
pub(super) fn call(agent: &dyn Agent, id: &str, command: &str) -> String {
    match agent.name() {
        "claude" => format!(
            "{{\"type\":\"assistant\",\"message\":{{\"role\":\"assistant\",\"content\":[{{\"type\":\"tool_use\",\"id\":\"{id}\",\"name\":\"Bash\",\"input\":{{\"command\":\"{command}\"}}}}]}}}}\n"
        ),
        "gemini" => format!(
            "{{\"id\":\"{id}\",\"type\":\"gemini\",\"content\":\"\",\"toolCalls\":[{{\"id\":\"{id}\",\"name\":\"run_shell_command\",\"args\":{{\"command\":\"{command}\"}}}}]}}\n"
        ),
        _ => format!(
            "{{\"timestamp\":\"2026-11-27T01:00:00.0Z\",\"type\":\"response_item\",\"payload\":{{\"type\":\"function_call\",\"name\":\"exec_command\",\"arguments\":\"{{\\\"cmd\\\":\\\"{command}\\\"}}\",\"call_id\":\"{id}\"}}}}\n"
        ),
    }
}

/// What answers it.
pub(super) fn answer(agent: &dyn Agent, id: &str) -> String {
    match agent.name() {
        "claude" => format!(
            "{{\"type\":\"user\",\"message\":{{\"role\":\"user\",\"content\":[{{\"type\":\"tool_result\",\"tool_use_id\":\"{id}\",\"content\":\"done\"}}]}}}}\n"
        ),
        "gemini" => format!(
            "{{\"id\":\"a{id}\",\"type\":\"user\",\"content\":[{{\"functionResponse\":{{\"id\":\"{id}\",\"name\":\"run_shell_command\",\"response\":{{\"output\":\"done\"}}}}}}]}}\n"
        ),
        _ => format!(
            "{{\"timestamp\":\"2026-11-27T01:00:00.0Z\",\"type\":\"response_item\",\"payload\":{{\"type\":\"function_call_output\",\"call_id\":\"{id}\",\"output\":\"done\"}}}}\n"
        ),
    }
}
