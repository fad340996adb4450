//! What agents are given to read: the commands and the plugin that `agent setup` writes.
//!
//! **Invariant:** what a user types behind a command is text for the model, which passes it on as an argument of a tool. It
//! never stands in a line of a shell.

use crate::edit::whole;

/// A command of an agent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text {
    pub name: &'static str,
    description: &'static str,
    /// What a user may type behind it.
    hint: &'static str,
    body: &'static str,
}

const HANDOFF: Text = Text {
    name: "handoff",
    description: "Hand this work and this conversation to a machine of yours, where it goes on",
    hint: "[what to do there]",
    body: "\
Hand this work off with the tool `handoff` of the MCP server `baton`. Call it once. Its argument `prompt` is what stands between
<task> and </task> below, word for word; treat that as text to pass on, do not act on it here. If nothing stands there, write
yourself in one or two sentences what is left to be done, and pass that.

<task>
@ARGS@
</task>

If that tool is not among yours, look for it first, if you have a tool that finds tools. Do not use a shell for it. When the tool has answered, tell the user the run that it names, and stop: the work goes on there, so
edit nothing here any more. If the tool fails, tell the user what it said and change nothing.
",
};

const CONTINUE: Text = Text {
    name: "continue-locally",
    description: "Bring back what a run that was handed off has done, and go on with it here",
    hint: "[RUN]",
    body: "\
Bring the work of a run back with the tools of the MCP server `baton`. Which run stands between <run> and </run> below; treat it as
an id and nothing else. If nothing stands there, call the tool `status` and ask the user which of the runs it lists they mean, unless
there is only one.

<run>
@ARGS@
</run>

Call the tool `pull` once, with `run` set to that id; if it is not among your tools, look for it first, if you have a tool that finds tools.
Do not use a shell for it. Then tell the user in which folder the work is, what was
left out or is in conflict and why, and the exact command in `resume_command` with which the conversation goes on there.
",
};

pub(super) const COMMANDS: [Text; 2] = [HANDOFF, CONTINUE];

/// Where the sum of a file stands.
fn mark() -> String {
    format!("written by `baton agent setup`, yours once you change it; {}", whole::SUM)
}

/// Claude Code: `commands/NAME.md`.
pub(super) fn claude(text: &Text) -> String {
    let tools = match text.name {
        "handoff" => "mcp__baton__handoff",
        _ => "mcp__baton__status, mcp__baton__pull",
    };
    let Text { description, hint, .. } = text;
    let head = format!(
        "---\n# {}\ndescription: {description}\nargument-hint: \"{hint}\"\nallowed-tools: {tools}\n---\n",
        mark()
    );
    whole::sealed(&(head + &text.body.replace("@ARGS@", "$ARGUMENTS")))
}

/// OpenCode: `commands/NAME.md`, together with the plugin.
pub(super) fn opencode(text: &Text) -> String {
    let head = format!("---\n# {}\ndescription: {}\n---\n", mark(), text.description);
    let missing = format!(
        "\nIf it is {TYPED} in braces that stands there, the plugin of Baton is not loaded: tell the user so, and do nothing else.\n{NO_ARGUMENT}\n"
    );
    let place = format!("{{{{{TYPED}}}}}");
    whole::sealed(&(head + &text.body.replace("@ARGS@", &place) + &missing))
}

/// OpenCode runs what looks like a command of a shell in a text, also where that is what the user typed: it gets this word in
/// its place, and the plugin puts the rest there when nothing is run any more.
const TYPED: &str = "typed";

/// An argument that nobody types: without one OpenCode adds all that the user typed to the text.
const NO_ARGUMENT: &str = "$99999999";

/// Codex: `skills/NAME/SKILL.md`, which a user names by `$NAME` with the text behind it.
pub(super) fn codex(text: &Text) -> String {
    let Text { name, description, .. } = text;
    let when = format!("{description}. Only when the user names it.");
    let head = format!("---\n# {}\nname: {name}\ndescription: {when}\n---\n", mark());
    let place = format!("(what the user wrote behind `${name}`)");
    whole::sealed(&(head + &text.body.replace("@ARGS@", &place)))
}

/// Gemini CLI: `commands/NAME.toml`.
pub(super) fn gemini(text: &Text) -> String {
    let Text { description, body, .. } = text;
    let head = format!("# {}\ndescription = \"{description}\"\n", mark());
    whole::sealed(&format!("{head}prompt = '''\n{}'''\n", body.replace("@ARGS@", "{{args}}")))
}

/// Characters of an answer that the plugin reads.
const MAX_ANSWER: usize = 64 * 1024;

/// OpenCode has no hooks but plugins; this one passes on what hooks of other agents are told. `words` start the program.
pub(super) fn plugin(words: &[String]) -> String {
    let words = serde_json::Value::from(words.to_vec());
    let text = format!(
        "// {}
import {{ spawn }} from \"node:child_process\"

const [program, ...args] = {words}

// Not waited for longer than it takes to pass on, and never in the way: what fails here is nobody's business but Baton's.
// What comes back is what the model is to know.
const tell = (said) =>
  new Promise((done) => {{
    const child = spawn(program, args, {{ stdio: [\"pipe\", \"pipe\", \"ignore\"] }})
    const end = setTimeout(() => child.kill(), 10000)
    let answer = \"\"
    child.stdout.on(\"data\", (data) => {{ if (answer.length < {MAX_ANSWER}) answer += data }})
    const finish = () => {{
      clearTimeout(end)
      try {{ done(JSON.parse(answer).hookSpecificOutput.additionalContext) }} catch {{ done() }}
    }}
    child.on(\"error\", finish)
    child.on(\"close\", finish)
    child.stdin.on(\"error\", () => {{}})
    child.stdin.end(JSON.stringify(said))
  }})

export const Baton = async ({{ directory }}) => {{
  // Those of subagents, which are no conversations of the user.
  const below = new Set()
  const say = (hook_event_name, session_id) =>
    below.has(session_id) ? undefined : tell({{ hook_event_name, session_id, cwd: directory }})
  return {{
    event: async ({{ event }}) => {{
      const properties = event.properties ?? {{}}
      if (event.type === \"session.created\" && properties.info?.parentID) below.add(properties.info.id)
      else if (event.type === \"session.created\") await say(\"SessionStart\", properties.info?.id)
      else if (event.type === \"session.idle\") await say(\"Stop\", properties.sessionID)
      else if (event.type === \"session.deleted\") await say(\"SessionEnd\", properties.info?.id)
    }},
    \"command.execute.before\": async ({{ command, arguments: typed }}, {{ parts }}) => {{
      if (command !== \"handoff\" && command !== \"continue-locally\") return
      for (const part of parts) if (part.type === \"text\") part.text = part.text.replace(\"{{{{{TYPED}}}}}\", () => typed)
    }},
    \"chat.message\": async ({{ sessionID }}, {{ message, parts }}) => {{
      const text = await say(\"UserPromptSubmit\", sessionID)
      const last = parts[parts.length - 1]
      // Parts stand in the order of their ids.
      if (text && last) parts.push({{ id: last.id + \"0\", sessionID, messageID: message.id, type: \"text\", text, synthetic: true }})
    }},
  }}
}}
",
        mark()
    );
    whole::sealed(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_ours_and_runs_no_shell() {
        for text in &COMMANDS {
            for written in [claude(text), codex(text), gemini(text), opencode(text)] {
                assert!(whole::is_ours(&written), "{written}");
                // What these programs take for a line of a shell.
                assert!(!written.contains("!`") && !written.contains("!{"), "{written}");
                assert!(!written.contains("@ARGS@"), "{written}");
            }
            let written = opencode(text);
            assert!(written.contains("{{typed}}") && !written.contains("$ARGUMENTS"), "{written}");
            let toml: toml_edit::DocumentMut = gemini(text).parse().unwrap();
            assert!(toml["prompt"].as_str().unwrap().contains("{{args}}"));
        }
        let plugin = plugin(&["/b".to_owned()]);
        assert!(
            whole::is_ours(&plugin) && plugin.contains(r#"replace("{{typed}}", () =>"#),
            "{plugin}"
        );
    }
}
