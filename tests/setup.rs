//! A user stays inside their agent: `agent setup` puts hooks, commands and tools into its files, which are the user's, and
//! `agent remove` takes out exactly that. Hooks name the conversation, snapshot at a stop, and tell what a pull did.

#![expect(clippy::disallowed_methods, reason = "a test, which writes what users and agents would")]

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::home::TestHome;

const AGENTS: [&str; 4] = ["claude", "codex", "gemini", "opencode"];

const ID: &str = "01a21b58-b33b-4981-9512-8b8a5be4cd61";

/// Longest time until a snapshot that a hook has left to others is there.
const SOON: Duration = Duration::from_mins(1);

/// What a user had in the files of their agents before: hooks of the same events, servers, comments, an order of their own.
const OWN: [(&str, &str); 8] = [
    (
        ".claude/settings.json",
        "{\n    \"z\": true,\n    \"hooks\": {\n        \"Stop\": [\n            {\"hooks\": [{\"type\": \"command\", \"command\": \"say done\"}]}\n        ],\n        \"PreToolUse\": []\n    },\n    \"a\": 1\n}\n",
    ),
    (
        ".claude.json",
        "{\"numStartups\":7,\"mcpServers\":{\"own\":{\"command\":\"x\"}},\"projects\":{}}",
    ),
    (
        ".codex/hooks.json",
        "{\"hooks\": {\"SessionStart\": [{\"matcher\": \"startup\", \"hooks\": [{\"type\": \"command\", \"command\": \"date\"}]}]}}",
    ),
    (
        ".codex/config.toml",
        "# my settings\nmodel = \"x\" # the good one\n\n[mcp_servers.own]\ncommand = 'own' # theirs\n\n[projects.\"/a\"]\ntrust_level = \"trusted\"\n",
    ),
    (
        ".gemini/settings.json",
        "// with comments\n{\n\t\"theme\": \"dark\", // always\n\t\"hooks\": {\n\t\t\"AfterAgent\": [\n\t\t\t{\"hooks\": [{\"type\": \"command\", \"command\": \"beep\"}]}, // own\n\t\t],\n\t},\n}\n",
    ),
    (".config/opencode/opencode.jsonc", "{\n  // mine\n  \"model\": \"a/b\",\n  \"mcp\": {}\n}\n"),
    (".claude/commands/own.md", "my own command\n"),
    (".gemini/commands/handoff.toml", "prompt = 'my own handoff'\n"),
];

/// Every file and folder below the user's home, with modes: what a user would miss or find.
fn files(home: &TestHome) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let content = match meta.file_type() {
                kind if kind.is_dir() => {
                    walk(&path, found);
                    Vec::new()
                }
                kind if kind.is_symlink() => {
                    path.read_link().unwrap().as_os_str().as_encoded_bytes().to_vec()
                }
                _ => std::fs::read(&path).unwrap(),
            };
            found.insert(path, (meta.permissions().mode(), content));
        }
    }
    let mut found = BTreeMap::new();
    walk(&home.user_home(), &mut found);
    found
}

/// A home of a user who keeps Claude Code where it is unless told otherwise.
fn user() -> TestHome {
    let mut home = TestHome::new();
    home.set("CLAUDE_CONFIG_DIR", "");
    home
}

fn put(home: &TestHome, name: &str, text: &str) -> PathBuf {
    let path = home.user_home().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

fn text(home: &TestHome, name: &str) -> String {
    std::fs::read_to_string(home.user_home().join(name)).unwrap()
}

#[test]
fn what_setup_puts_in_survives_a_second_one_and_goes_with_remove_and_all_else_stays() {
    let home = user();
    for (name, text) in OWN {
        put(&home, name, text);
    }
    std::fs::set_permissions(
        home.user_home().join(".claude.json"),
        PermissionsExt::from_mode(0o640),
    )
    .unwrap();
    let before = files(&home);
    for agent in AGENTS {
        let set = home.json(&["agent", "setup", agent]);
        let setup = &set["agents"][0]["setup"];
        assert_eq!((&setup["hooks"], &setup["mcp"]), (&true.into(), &true.into()), "{set}");
        // A command of the user's stays, and that is said.
        assert_eq!(setup["commands"], agent != "gemini", "{set}");
        let notes = setup["notes"].to_string();
        assert_eq!(notes.contains("handoff.toml is left as it is"), agent == "gemini", "{notes}");
        assert_eq!(notes.contains("/hooks"), agent == "codex", "{notes}");
    }
    let after = files(&home);
    for agent in AGENTS {
        let again = home.json(&["agent", "setup", agent]);
        assert_eq!(again["agents"][0]["setup"]["changed"], json!([]), "{again}");
    }
    assert_eq!(files(&home), after);

    // What the user had is there, in its words and its order; what came is there, too.
    let settings = text(&home, ".claude/settings.json");
    assert!(settings.starts_with("{\n    \"z\": true,\n    \"hooks\": {\n        \"Stop\": [\n            {\"hooks\": [{\"type\": \"command\", \"command\": \"say done\"}]},\n"), "{settings}");
    let read: Value = serde_json::from_str(&settings).unwrap();
    for event in ["SessionStart", "UserPromptSubmit", "Stop", "SessionEnd"] {
        let groups = read["hooks"][event].as_array().unwrap();
        let command = groups.last().unwrap()["hooks"][0]["command"].as_str().unwrap();
        assert!(command.ends_with(" agent hook claude"), "{command}");
    }
    let state: Value = serde_json::from_str(&text(&home, ".claude.json")).unwrap();
    assert_eq!(state["mcpServers"]["own"]["command"], "x");
    assert_eq!(
        state["mcpServers"]["baton"]["args"].as_array().unwrap().last(),
        Some(&"mcp".into())
    );
    for line in OWN[3].1.lines() {
        assert!(text(&home, ".codex/config.toml").contains(line), "{line}");
    }
    let gemini = text(&home, ".gemini/settings.json");
    assert!(
        gemini.contains("\"dark\", // always") && gemini.contains("agent hook gemini"),
        "{gemini}"
    );
    for own in OWN.map(|(name, _)| name).into_iter().filter(|name| !name.contains("commands")) {
        let kept = home.user_home().join(format!("{own}.before-baton"));
        let path = home.user_home().join(own);
        assert_eq!(std::fs::read(&kept).unwrap(), before[&path].1, "{own}");
        assert_eq!(kept.metadata().unwrap().permissions().mode(), before[&path].0, "{own}");
    }
    let listed = home.json(&["agent", "list"]);
    for agent in listed["agents"].as_array().unwrap() {
        assert_eq!(agent["setup"]["hooks"], true, "{agent}");
    }

    for agent in AGENTS {
        let removed = home.json(&["agent", "remove", agent]);
        let setup = &removed["agents"][0]["setup"];
        assert_eq!(setup["hooks"].as_bool().or(setup["mcp"].as_bool()), Some(false), "{removed}");
        home.json(&["agent", "remove", agent]);
    }
    let left = files(&home);
    assert_eq!(left.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert_eq!(left, before);
}

#[test]
fn where_there_was_nothing_nothing_is_left() {
    let home = user();
    let tops = [".claude", ".codex", ".gemini", ".config/opencode"];
    for agent in AGENTS {
        home.json(&["agent", "setup", agent]);
    }
    assert!(home.user_home().join(".codex/skills/handoff/SKILL.md").is_file());
    for agent in AGENTS {
        home.json(&["agent", "remove", agent]);
    }
    for top in tops {
        let left: Vec<_> = std::fs::read_dir(home.user_home().join(top)).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert!(!home.user_home().join(".claude.json").exists());
}

#[test]
fn what_changed_since_setup_stays_when_it_goes() {
    let home = user();
    put(&home, OWN[0].0, OWN[0].1);
    put(&home, OWN[3].0, OWN[3].1);
    home.json(&["agent", "setup", "claude"]);
    home.json(&["agent", "setup", "codex"]);
    // Another hook beside ours, another one in our group, a tool that was allowed; and a command of ours made the user's.
    let settings = text(&home, ".claude/settings.json");
    let mut read: Value = serde_json::from_str(&settings).unwrap();
    read["hooks"]["SessionEnd"]
        .as_array_mut()
        .unwrap()
        .push(json!({"hooks": [{"type": "command", "command": "bye"}]}));
    read["hooks"]["SessionStart"][0]["hooks"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "command", "command": "hi"}));
    put(&home, ".claude/settings.json", &serde_json::to_string_pretty(&read).unwrap());
    let config = text(&home, ".codex/config.toml");
    put(
        &home,
        ".codex/config.toml",
        &format!(
            "{config}\n[mcp_servers.baton.tools.pull]\napproval_mode = \"approve\"\n\n[tui]\ntheme = \"x\"\n"
        ),
    );
    let command =
        text(&home, ".claude/commands/handoff.md").replace("Call it once", "Call it twice");
    put(&home, ".claude/commands/handoff.md", &command);
    let again = home.json(&["agent", "setup", "codex"]);
    assert_eq!(again["agents"][0]["setup"]["changed"], json!([]), "{again}");

    home.json(&["agent", "remove", "claude"]);
    home.json(&["agent", "remove", "codex"]);
    let read: Value = serde_json::from_str(&text(&home, ".claude/settings.json")).unwrap();
    assert_eq!(read["hooks"]["SessionEnd"][0]["hooks"][0]["command"], "bye");
    assert_eq!(
        read["hooks"]["SessionStart"][0]["hooks"],
        json!([{"type": "command", "command": "hi"}])
    );
    assert_eq!(read["hooks"]["Stop"].as_array().unwrap().len(), 1);
    assert_eq!(read["hooks"]["PreToolUse"], json!([]), "an empty list of the user's");
    assert_eq!(read["hooks"].get("UserPromptSubmit"), None);
    let config = text(&home, ".codex/config.toml");
    assert!(!config.contains("baton") && config.contains("[tui]\ntheme = \"x\"\n"), "{config}");
    assert!(config.contains("command = 'own' # theirs"), "{config}");
    assert_eq!(text(&home, ".claude/commands/handoff.md"), command);
}

#[test]
fn a_file_that_is_not_understood_is_an_error_and_nothing_is_written() {
    for (agent, name, bad) in [
        ("claude", ".claude/settings.json", "{\"hooks\": {\n"),
        ("claude", ".claude/settings.json", "{\"hooks\": [1]}"),
        ("claude", ".claude/settings.json", "{\"hooks\": {\"Stop\": {}}}"),
        ("claude", ".claude.json", "not json"),
        ("claude", ".claude.json", "{\"mcpServers\": 1}"),
        ("codex", ".codex/config.toml", "[mcp_servers\n"),
        ("codex", ".codex/config.toml", "mcp_servers = 3\n"),
        ("codex", ".codex/hooks.json", "[]"),
        ("gemini", ".gemini/settings.json", "{\"a\": 1 \"b\": 2}"),
        ("opencode", ".config/opencode/opencode.json", "{\"mcp\": []}"),
    ] {
        let home = user();
        put(&home, name, bad);
        let before = files(&home);
        let output = home.baton(&["agent", "setup", agent]);
        assert_eq!(output.status.code(), Some(1), "{name} {bad}: {output:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains(name) && told.contains("hint:"), "{told}");
        let mut after = files(&home);
        // Folders that had to be there for a lock are no change.
        after.retain(|path, _| path.is_file() || before.contains_key(path));
        assert_eq!(after, before, "{name} {bad}");
        // The list says so, and is a list all the same.
        let listed = home.json(&["agent", "list"]);
        assert!(listed["agents"].as_array().is_some_and(|it| it.len() >= 2), "{listed}");
    }
    // One that is not text, one that is no file, one that may not be written.
    let home = user();
    let path = home.user_home().join(".claude/settings.json");
    std::fs::create_dir_all(&path).unwrap();
    assert_eq!(home.baton(&["agent", "setup", "claude"]).status.code(), Some(1));
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, "{}").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
    assert_eq!(home.baton(&["agent", "setup", "claude"]).status.code(), Some(1));
    assert_eq!(std::fs::read(&path).unwrap(), b"{}");
    assert_eq!(home.baton(&["agent", "setup", "nobody"]).status.code(), Some(2));
}

#[test]
fn settings_behind_a_link_are_written_through_it() {
    let home = user();
    let kept = put(&home, "dotfiles/claude/settings.json", OWN[0].1);
    std::fs::set_permissions(&kept, PermissionsExt::from_mode(0o664)).unwrap();
    std::fs::create_dir_all(home.user_home().join(".claude")).unwrap();
    let link = home.user_home().join(".claude/settings.json");
    symlink("../dotfiles/claude/settings.json", &link).unwrap();
    symlink(home.user_home().join("dotfiles/state.json"), home.user_home().join(".claude.json"))
        .unwrap();
    home.json(&["agent", "setup", "claude"]);
    assert!(link.is_symlink() && home.user_home().join(".claude.json").is_symlink());
    assert!(text(&home, "dotfiles/claude/settings.json").contains("agent hook claude"));
    assert!(text(&home, "dotfiles/state.json").contains("mcp"));
    assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o777, 0o664);
    // What is kept of before is not where others may see it.
    assert_eq!(std::fs::read_dir(home.user_home().join("dotfiles/claude")).unwrap().count(), 1);
    home.json(&["agent", "remove", "claude"]);
    assert!(link.is_symlink());
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), OWN[0].1);
}

#[test]
fn a_server_of_this_name_that_is_the_users_stays() {
    let home = user();
    let own = "{\"mcpServers\": {\"baton\": {\"command\": \"/opt/other\", \"args\": [\"mcp\"]}}}";
    put(&home, ".claude.json", own);
    let set = home.json(&["agent", "setup", "claude"]);
    assert_eq!(set["agents"][0]["setup"]["mcp"], false, "{set}");
    assert!(
        set["agents"][0]["setup"]["notes"].to_string().contains(".claude.json is left as it is"),
        "{set}"
    );
    home.json(&["agent", "remove", "claude"]);
    assert_eq!(text(&home, ".claude.json"), own);
}

#[test]
fn a_lock_of_the_agent_is_waited_for_and_one_that_is_left_over_is_not() {
    let home = user();
    let lock = home.user_home().join(".claude.json.lock");
    std::fs::create_dir(&lock).unwrap();
    let output = home.baton(&["agent", "setup", "claude"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!home.user_home().join(".claude.json").exists());
    let old = std::time::SystemTime::now() - Duration::from_mins(2);
    std::fs::File::open(&lock).unwrap().set_modified(old).unwrap();
    home.json(&["agent", "setup", "claude"]);
    assert!(!lock.exists());
}

/// Runs the line that an agent would run for an event, as it does: by a shell, with words of its own on standard input.
fn fire(home: &TestHome, file: &str, event: &str, cwd: &Path, more: &Value) -> Output {
    let read: Value = serde_json::from_str(&text(home, file)).unwrap();
    let groups = read["hooks"][event].as_array().unwrap();
    let line = groups.last().unwrap()["hooks"][0]["command"].as_str().unwrap();
    let mut said = json!({"session_id": ID, "cwd": cwd, "hook_event_name": event, "transcript_path": "/x/y.jsonl"});
    said.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let input = home.root().join("tmp/said");
    std::fs::write(&input, said.to_string()).unwrap();
    let own = home.command();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", line])
        .env_clear()
        .current_dir(cwd)
        .stdin(std::fs::File::open(&input).unwrap());
    // What an agent passes on, but for the home, which is in the line.
    let passed = own.get_envs().filter(|(name, _)| *name != "BATON_HOME");
    shell.envs(passed.filter_map(|(name, value)| Some((name, value?))));
    shell.stderr(Stdio::piped()).output().unwrap()
}

fn marks(home: &TestHome) -> Vec<Value> {
    let Ok(folder) = std::fs::read_dir(home.baton_home().join("sessions")) else {
        return Vec::new();
    };
    let files = folder
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "json"));
    files.map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()).collect()
}

fn snapshots(home: &TestHome, root: &Path) -> Vec<Value> {
    let output = home.baton_in(root, &["log", "--json"]);
    let Ok(log) = serde_json::from_slice::<Value>(&output.stdout) else { return Vec::new() };
    log["snapshots"].as_array().cloned().unwrap_or_default()
}

#[test]
fn hooks_name_the_conversation_that_is_open_and_snapshot_at_a_stop() {
    let home = user();
    home.json(&["agent", "setup", "claude"]);
    home.json(&["agent", "setup", "codex"]);
    let root = home.folder("app").canonicalize().unwrap();
    let git = |args: &[&str]| {
        assert!(Command::new("git").arg("-C").arg(&root).args(args).status().unwrap().success());
    };
    git(&["init", "-q"]);
    std::fs::create_dir(root.join("src")).unwrap();
    std::fs::write(root.join("src/main.rs"), "fn main() {}\n").unwrap();
    let claude = ".claude/settings.json";
    let started =
        fire(&home, claude, "SessionStart", &root.join("src"), &json!({"source": "startup"}));
    assert!(started.status.success() && started.stdout.is_empty(), "{started:?}");
    let [mark] = &marks(&home)[..] else { panic!() };
    assert_eq!((&mark["agent"], &mark["session"]), (&"claude".into(), &ID.into()));
    assert_eq!(mark["cwd"], root.join("src").to_str().unwrap());
    assert_eq!(mark["transcript_path"], "/x/y.jsonl");

    let stopped = fire(&home, claude, "Stop", &root, &json!({"stop_hook_active": false}));
    assert!(stopped.status.success() && stopped.stdout.is_empty(), "{stopped:?}");
    let end = Instant::now() + SOON;
    while snapshots(&home, &root).is_empty() {
        assert!(Instant::now() < end, "no snapshot came");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(snapshots(&home, &root)[0]["message"], "claude stopped (01a21b58)");

    // Another one speaks last; the end of the first does not take its mark.
    let other = json!({"session_id": "01a21b58-e336-4bb2-b72d-3193f4f9c6b0"});
    fire(&home, ".codex/hooks.json", "UserPromptSubmit", &root, &other);
    fire(&home, claude, "SessionEnd", &root, &json!({"reason": "exit"}));
    assert_eq!(marks(&home)[0]["agent"], "codex");
    fire(&home, ".codex/hooks.json", "SessionEnd", &root, &other);
    assert_eq!(marks(&home), Vec::<Value>::new());
}

#[test]
fn a_stop_in_a_folder_that_nobody_keeps_makes_no_workspace_of_it() {
    let home = user();
    home.json(&["agent", "setup", "claude"]);
    let root = home.folder("downloads").canonicalize().unwrap();
    std::fs::write(root.join("a"), "a").unwrap();
    let stop = |session: &str| {
        let args =
            ["agent", "hook", "claude", "--session", session, "--stopped", root.to_str().unwrap()];
        home.baton(&args)
    };
    // As the process that a hook leaves behind, to its end.
    let output = stop(ID);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("no workspace yet"));
    assert_eq!(snapshots(&home, &root), Vec::<Value>::new());
    // Kept, it is taken, and not counted as one that somebody asked for.
    home.baton_in(&root, &["snapshot"]);
    std::fs::write(root.join("a"), "b").unwrap();
    assert!(stop(ID).stderr.is_empty());
    assert_eq!(snapshots(&home, &root).len(), 2);
    // Never a folder that has the home of Baton in it, be it in git or not.
    let whole = home.root().to_str().unwrap();
    std::fs::create_dir_all(home.root().join(".git")).unwrap();
    let output = home.baton(&["agent", "hook", "claude", "--stopped", whole]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("no workspace yet"));
}

#[test]
fn what_a_hook_is_told_that_is_none_breaks_nothing() {
    let home = user();
    let root = home.folder("app");
    let good =
        json!({"session_id": ID, "cwd": root, "hook_event_name": "SessionStart"}).to_string();
    let huge = good.replace(ID, &"a".repeat(5 * 1024 * 1024));
    for said in [
        "",
        "null",
        "{\"session_id\": 1}",
        "\u{0}\u{1}",
        &good.replace(ID, "../../../etc/passwd"),
        &good.replace("app", "app/../../gone"),
        &good.replace("\"cwd\":\"/", "\"cwd\":\""),
        &"[".repeat(200_000),
        &huge,
    ] {
        let output = home.baton_with_input(&["agent", "hook", "claude"], said.as_bytes());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{output:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("passwd"), "{output:?}");
    }
    let output = home.baton_with_input(&["agent", "hook", "nobody"], good.as_bytes());
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(marks(&home), Vec::<Value>::new());
    // An event of a later version of an agent is no error.
    let later = good.replace("SessionStart", "SessionFork");
    let output = home.baton_with_input(&["agent", "hook", "claude"], later.as_bytes());
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(home.baton_with_input(&["agent", "hook", "claude"], good.as_bytes()).stderr.is_empty());
    assert_eq!(marks(&home).len(), 1);
}

#[test]
fn an_agent_that_goes_on_where_a_pull_wrote_is_told_of_it_once() {
    let home = user();
    home.json(&["agent", "setup", "claude"]);
    let root = home.folder("app").canonicalize().unwrap();
    std::fs::write(root.join("a"), "a\n").unwrap();
    let output = home
        .baton_in(&root, &["handoff", "--json", "-f", "--", "sh", "-c", "echo b > b; mkfifo pipe"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let handed: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let run = handed["runs"][0]["run"].as_str().unwrap();
    let into = home.user_home().join("result");
    home.json(&["pull", run, "--into", into.to_str().unwrap()]);
    let into = into.canonicalize().unwrap();
    let claude = ".claude/settings.json";
    let begin =
        |source: &str| fire(&home, claude, "SessionStart", &into, &json!({"source": source}));
    assert!(begin("startup").stdout.is_empty());
    let said: Value = serde_json::from_slice(&begin("resume").stdout).unwrap();
    let said = &said["hookSpecificOutput"];
    assert_eq!(said["hookEventName"], "SessionStart");
    let context = said["additionalContext"].as_str().unwrap();
    assert!(context.contains(into.to_str().unwrap()) && context.contains("2 files"), "{context}");
    assert!(begin("resume").stdout.is_empty());

    // Merged into the checkout, which has moved on.
    std::fs::write(root.join("a"), "here\n").unwrap();
    let applied = home.baton_in(&root, &["pull", run, "--apply", "--json"]);
    assert!(applied.status.success(), "{applied:?}");
    let said = fire(&home, claude, "SessionStart", &root, &json!({"source": "resume"}));
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    let context = said["hookSpecificOutput"]["additionalContext"].as_str().unwrap();
    assert!(
        context.contains("Taken from the run: b\n") && context.contains("baton undo"),
        "{context}"
    );
}

#[test]
fn of_two_conversations_the_one_that_was_spoken_to_last_is_handed_over() {
    let home = user();
    home.json(&["agent", "setup", "claude"]);
    let root = home.folder("app").canonicalize().unwrap();
    std::fs::write(root.join("a"), "a\n").unwrap();
    let other = "01a21b58-e336-4bb2-b72d-3193f4f9c6b0";
    let slug = root.to_str().unwrap().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    for id in [ID, other] {
        let line = json!({"type": "user", "cwd": root, "sessionId": id, "version": "2.1.330", "message": {"role": "user", "content": "hello"}});
        put(&home, &format!(".claude/projects/{slug}/{id}.jsonl"), &format!("{line}\n"));
    }
    let claude = ".claude/settings.json";
    // The other one ends its turn while this one is spoken to.
    for (session, event) in [
        (ID, "SessionStart"),
        (other, "SessionStart"),
        (ID, "UserPromptSubmit"),
        (other, "Stop"),
        (other, "SessionEnd"),
    ] {
        fire(&home, claude, event, &root, &json!({"session_id": session}));
    }
    let handed = home.baton_in(&root, &["handoff", "--json", "--conversation", "auto"]);
    let handed: Value = serde_json::from_slice(&handed.stdout).unwrap();
    assert_eq!(handed["receipt"]["conversation"]["id"], ID, "{handed}");
    // Whoever says in which of them they ask is believed before any hook.
    for (speaks, travels) in [(other, other), ("0badc0de", ID)] {
        let args = ["handoff", "--json", "--conversation", "auto", "--speaks", speaks];
        let handed: Value = serde_json::from_slice(&home.baton_in(&root, &args).stdout).unwrap();
        assert_eq!(handed["receipt"]["conversation"]["id"], travels, "{handed}");
    }
}
