//! What a request holds, whatever its API.

use serde_json::{Value, json};

/// Tools that find tools.
pub(super) const SEARCHES: [&str; 2] = ["ToolSearch", "tool_search"];

/// How the programs tell the model where it is. What stands last in a request holds.
const FOLDERS: [(&str, &str); 7] = [
    ("Primary working directory: ", "\n"),
    ("Working directory: ", "\n"),
    ("working directory: ", "\n"),
    ("<cwd>", "</cwd>"),
    ("working in the directory: ", "\n"),
    ("working in the following directories:\n  - ", "\n"),
    ("**Workspace Directories:**\n  - ", "\n"),
];

/// Part of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Turn {
    /// Of a user.
    User(String),
    /// Of the program itself, about where it is and the like.
    Note(String),
    /// Of the model.
    Model(String),
    /// The model called a tool.
    Call { tool: String, input: Value },
    /// What came of it.
    Result(String),
    /// As it is sent, in base 64.
    Image(String),
}

/// A request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Heard {
    pub(crate) model: String,
    pub(crate) system: String,
    pub(crate) turns: Vec<Turn>,
    /// Names of the tools that the program has.
    pub(crate) tools: Vec<String>,
    /// What was looked for among those that it has and does not tell of before. That is no part of the conversation.
    pub(super) searches: Vec<String>,
}

impl Heard {
    /// The first of these tools that the program has.
    pub(super) fn tool(&self, names: &[&str]) -> Option<String> {
        let has = |name: &&&str| self.tools.iter().any(|tool| tool == **name);
        names.iter().find(has).map(|name| (*name).to_owned())
    }

    /// The tool of Baton's server, by whatever name the program gives it.
    fn tool_of_baton(&self, name: &str) -> Option<String> {
        let is_it = |tool: &&String| tool.contains("baton") && tool.ends_with(name);
        self.tools.iter().find(is_it).or_else(|| self.tools.iter().find(|it| *it == name)).cloned()
    }

    /// What the user typed behind the last command, as the text of the command marks it.
    fn typed(&self) -> Option<&str> {
        let tagged = |text: &'_ str, tag: &str| -> Option<(usize, usize)> {
            let begin = text.rfind(&format!("<{tag}>\n"))? + tag.len() + 3;
            let end = begin + text.get(begin..)?.find(&format!("\n</{tag}>"))?;
            Some((begin, end))
        };
        self.turns.iter().rev().find_map(|turn| {
            let Turn::User(text) = turn else { return None };
            if let Some(command) = text.trim_start().strip_prefix('$') {
                return Some(command.split_once(' ').map_or("", |(_, typed)| typed));
            }
            let (begin, end) = ["task", "run"].iter().find_map(|tag| tagged(text, tag))?;
            text.get(begin..end)
        })
    }

    /// A call of a tool of Baton's server with what the user typed; or first of the one that finds tools.
    pub(super) fn pass(&self, tool: &str, argument: &str) -> Option<(String, Value)> {
        if let Some(found) = self.tool_of_baton(tool) {
            return Some((found, json!({ argument: self.typed()?.trim() })));
        }
        let finder = self.tool(&SEARCHES)?;
        let query = match finder.as_str() {
            "ToolSearch" => format!("select:mcp__baton__{tool}"),
            _ => format!("baton {tool}"),
        };
        (!self.searches.contains(&query)).then(|| (finder, json!({ "query": query })))
    }

    /// The folder that the program works in, as the request tells it.
    pub(crate) fn folder(&self) -> Option<String> {
        let notes = self.turns.iter().filter_map(|turn| match turn {
            Turn::Note(text) => Some(text),
            _ => None,
        });
        let found = |text: &String| {
            let all = FOLDERS.iter().filter_map(|(begin, end)| {
                let at = text.rfind(begin)? + begin.len();
                let rest = text.get(at..)?;
                Some((at, rest.split(end).next()?.trim()))
            });
            let last = all.filter(|(_, path)| path.starts_with('/')).max();
            last.map(|(_, path)| path.to_owned())
        };
        notes.rev().find_map(found).or_else(|| found(&self.system))
    }

    /// A path of a step as the program's tools want it.
    pub(super) fn path(&self, path: &str) -> String {
        self.folder().map_or_else(|| path.to_owned(), |folder| format!("{folder}/{path}"))
    }

    /// Bytes of words in it.
    pub(super) fn size(&self) -> usize {
        let turns = self.turns.iter().map(|turn| match turn {
            Turn::User(text)
            | Turn::Note(text)
            | Turn::Model(text)
            | Turn::Result(text)
            | Turn::Image(text) => text.len(),
            Turn::Call { tool, input } => tool.len() + input.to_string().len(),
        });
        self.system.len() + turns.sum::<usize>()
    }
}

/// What a request holds of the conversation, as the model repeats it: the proof that it arrived.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct History {
    /// What the user said.
    pub(crate) users: Vec<String>,
    /// What the model said.
    pub(crate) models: Vec<String>,
    /// Tools that were called, and with what.
    pub(crate) calls: Vec<(String, Value)>,
    /// What came of it.
    pub(crate) results: Vec<String>,
    /// Hash of each image as it was sent.
    pub(crate) images: Vec<String>,
    /// The folder in which the program said that it works.
    pub(crate) folder: Option<String>,
}

/// What stands before it in a reply.
const MARK: &str = "HISTORY ";

/// Characters of each text that are repeated.
const MAX_TEXT: usize = 4_000;

impl History {
    /// What came of it, each once: a program may repeat one, as Gemini CLI does whenever it resumes.
    pub(crate) fn results(&self) -> Vec<&String> {
        let mut all: Vec<_> = self.results.iter().collect();
        // Two calls may have come to the same.
        if all.len() > self.calls.len() {
            all.dedup();
        }
        all
    }

    pub(crate) fn of(heard: &Heard) -> Self {
        let mut history = Self { folder: heard.folder(), ..Self::default() };
        let short = |text: &String| text.chars().take(MAX_TEXT).collect::<String>();
        for turn in &heard.turns {
            match turn {
                Turn::User(text) => history.users.push(short(text)),
                // Repeating what was repeated would grow without end.
                Turn::Model(text) if text.starts_with(MARK) => {}
                Turn::Note(_) => {}
                Turn::Model(text) => history.models.push(short(text)),
                Turn::Call { tool, input } => history.calls.push((tool.clone(), input.clone())),
                Turn::Result(text) => history.results.push(short(text)),
                Turn::Image(data) => {
                    history.images.push(blake3::hash(data.as_bytes()).to_hex().to_string());
                }
            }
        }
        history
    }

    /// Finds it in what a program wrote.
    pub(crate) fn find(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once(MARK)?;
        serde_json::Deserializer::from_str(rest).into_iter().next()?.ok()
    }

    /// Whether something that was said, called or answered has these words.
    pub(crate) fn has(&self, words: &str) -> bool {
        let said = self.users.iter().chain(&self.models).chain(&self.results);
        said.into_iter().any(|text| text.contains(words))
            || self.calls.iter().any(|(_, input)| input.to_string().contains(words))
    }
}

impl std::fmt::Display for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{MARK}{}", serde_json::to_string(self).map_err(|_| std::fmt::Error)?)
    }
}

/// What was said for the user: by the user, or in a tag by the program.
pub(super) fn said(text: &str) -> Turn {
    let is_note = text.trim_start().starts_with('<');
    if is_note { Turn::Note(text.to_owned()) } else { Turn::User(text.to_owned()) }
}

/// The text of content that is a text, or parts of which some are texts.
pub(super) fn words(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part["text"].as_str());
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// The part of a data URL that is data.
pub(super) fn data_of(url: &str) -> String {
    url.split_once("base64,").map_or(url, |(_, data)| data).to_owned()
}
