//! Codex CLI: rollout files, `sessions/YYYY/MM/DD/rollout-TIME-ID.jsonl` in its folder.
//!
//! - [`line`]: what a line says, and which values of it are paths
//! - [`rollout`]: names of the files
//! - [`lineage`]: what a conversation goes on from
//! - [`talk`]: what the program says
//!
//! A fork of the program's own is by reference: its file begins where another one stops, and cannot be read without.
//! So the line of ancestors travels, of each what belongs to the fork, and the agents that were started in it. The
//! databases beside the rollouts do not: the program makes them again, and finds a conversation by its id without.
//!
//! Formats as 0.169.0 writes them.

mod line;
mod rollout;
mod lineage;
mod talk;

use std::path::{Path, PathBuf};

use baton_protocol::message::{Answer, Permissions};
use baton_protocol::path::RelPath;
use baton_store::folder::Folder;

use super::adapter::{Agent, Base, Place, Target, Treatment, Wanted};
use super::json::{Keys, Token};
use super::origin::Origin;
use super::session::{AgentError, Files, MAX_LOOKED_AT, Seen, Session, head, is_in, title};
use super::start::{Invocation, Login, Start, Task, Trial};
use super::talk::{Heard, Request};
use line::{Line, Meta};
use rollout::{Rollout, all};

/// Lines that are read for what was asked first, once it is known where.
const MOST_LINES: usize = 40;

/// The agent.
#[derive(Clone, Copy, Debug)]
pub struct Codex;

/// What the beginning of a rollout says.
struct Begun {
    meta: Meta,
    modified_ms: u64,
    title: String,
}

/// Nothing where it is gone, or says nothing that is understood.
fn read(folder: &Folder, at: &RelPath, wants_title: bool) -> Result<Option<Begun>, AgentError> {
    let (mut meta, mut asked, mut lines) = (None, None, 0);
    let modified = head(folder, at, |bytes| {
        let line = Line::parse(bytes);
        meta = meta.take().or_else(|| line.as_ref()?.meta());
        asked = asked.take().or_else(|| line.as_ref()?.prompt());
        lines += 1;
        meta.is_some() && (!wants_title || asked.is_some() || lines >= MOST_LINES)
    })?;
    let (Some(modified_ms), Some(meta)) = (modified, meta) else { return Ok(None) };
    Ok(Some(Begun { meta, modified_ms, title: title(&asked.unwrap_or_default()) }))
}

fn session(folder: &Folder, rollout: Rollout) -> Result<Option<Session>, AgentError> {
    let Some(begun) = read(folder, &rollout.at, true)? else { return Ok(None) };
    Ok(Some(Session {
        id: rollout.id,
        at: rollout.at,
        cwd: PathBuf::from(begun.meta.cwd),
        modified_ms: begun.modified_ms,
        title: begun.title,
    }))
}

impl Agent for Codex {
    fn name(&self) -> &'static str {
        "codex"
    }

    fn title(&self) -> &'static str {
        "Codex CLI"
    }

    fn default_folder(&self) -> &'static str {
        ".codex"
    }

    fn folder_variable(&self) -> &'static str {
        "CODEX_HOME"
    }

    fn sessions(&self, folder: &Folder, root: &Path) -> Result<Vec<Session>, AgentError> {
        let mut sessions = Vec::new();
        for rollout in all(folder)?.into_iter().take(MAX_LOOKED_AT) {
            if rollout.is_compressed {
                continue;
            }
            // One that cannot be read is no reason not to list others.
            let Ok(Some(begun)) = read(folder, &rollout.at, false) else { continue };
            let is_own = begun.meta.is_of_user(&rollout.id);
            if is_own && is_in(Path::new(&begun.meta.cwd), root) {
                sessions.extend(session(folder, rollout).ok().flatten());
            }
        }
        sessions.sort_by_key(|session| std::cmp::Reverse(session.modified_ms));
        Ok(sessions)
    }

    fn session(&self, folder: &Folder, id: &str) -> Result<Option<Session>, AgentError> {
        let Some(rollout) = all(folder)?.into_iter().find(|rollout| rollout.id == id) else {
            return Ok(None);
        };
        let path = folder.path_of(&rollout.at);
        if rollout.is_compressed {
            return Err(AgentError::Compressed { path });
        }
        session(folder, rollout)?.map(Some).ok_or(AgentError::NoFolder { path })
    }

    fn main_name(&self, session: &Session) -> Vec<u8> {
        let (_, file) = session.at.split_last().unwrap_or_default();
        rollout::name(file)
    }

    fn see(&self, seen: &mut Seen, at: u64, line: &[u8]) {
        line::see(seen, at, line);
    }

    fn others(
        &self,
        folder: &Folder,
        session: &Session,
        _seen: &Seen,
        wanted: &Wanted<'_>,
    ) -> Result<Files, AgentError> {
        lineage::files(folder, session, wanted)
    }

    fn id_of(&self, name: &RelPath, _origin: &Origin) -> Option<String> {
        Rollout::parse(name).map(|rollout| rollout.id)
    }

    fn base(&self, first_line: &[u8]) -> Option<Base> {
        Line::parse(first_line)?.meta()?.base()
    }

    fn place(&self, name: &RelPath, to: &Target) -> Option<Place> {
        let rollout = Rollout::parse(name).filter(|rollout| !rollout.is_compressed)?;
        // No other place: a name that was made up is not one that the program would find.
        if rollout.name() != name.as_bytes() {
            return None;
        }
        let id = to.id(&rollout.id).to_owned();
        let at = RelPath::new(&rollout.with_id(&id).name()).ok()?;
        Some(Place { at, is_shared: false })
    }

    fn paths(&self, origin: &Origin, to: &Target) -> Vec<(PathBuf, PathBuf)> {
        vec![(origin.folder.clone(), to.folder.clone())]
    }

    fn treatment(&self, keys: &Keys<'_>, token: Token, text: &[u8]) -> Treatment {
        match token {
            Token::Plain if line::is_offset(keys) => Treatment::Offset,
            Token::Key | Token::Text if line::has_paths(keys, text) => Treatment::Paths,
            _ => Treatment::Leave,
        }
    }

    fn program(&self) -> &'static str {
        "codex"
    }

    fn start(&self, start: &Start<'_>, task: &Task<'_>) -> Invocation {
        let mut arguments = vec!["exec", "--json", "--skip-git-repo-check"];
        match task.approval {
            Permissions::Ask => arguments.extend(["--sandbox", "read-only"]),
            Permissions::Edits => arguments.extend(["--sandbox", "workspace-write"]),
            Permissions::All => arguments.push("--dangerously-bypass-approvals-and-sandbox"),
        }
        if let Some(model) = task.model {
            arguments.extend(["--model", model]);
        }
        match start {
            Start::New { .. } => {}
            Start::Resume { id } => arguments.extend(["resume", id]),
        }
        // What is asked comes on the standard input.
        arguments.push("-");
        Invocation::new(self.program(), &arguments, &[], &task.words())
    }

    fn trial(&self) -> Trial {
        Trial { arguments: &["--ephemeral"], environment: &[] }
    }

    fn hear(&self, line: &[u8]) -> Option<Vec<Heard>> {
        talk::hear(line)
    }

    fn say(&self, _text: &str) -> Option<Vec<u8>> {
        // `exec` reads its prompt, and nothing more.
        None
    }

    fn answer(&self, _asked: &Request, _answer: &Answer) -> Option<Vec<u8>> {
        None
    }

    fn resume_command(&self, id: &str) -> Vec<String> {
        ["codex", "resume", id].map(str::to_owned).to_vec()
    }

    fn version(&self, output: &str) -> Option<String> {
        // `codex-cli 0.169.0`
        let version = output.trim().strip_prefix("codex-cli ")?;
        version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
    }

    fn login_arguments(&self) -> &'static [&'static str] {
        &["login", "status"]
    }

    fn login(&self, success: bool, output: &str) -> Login {
        let said = output.lines().find(|line| line.contains("ogged in")).map(str::trim);
        match said {
            Some(said) if success => Login::Yes(said.to_owned()),
            // A provider of one's own needs none, and its program says the same then.
            Some(_) => Login::No("run: codex login, or configure a model provider".to_owned()),
            None => Login::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
