//! Having an agent's program take in a conversation that has arrived.
//!
//! **Invariant:** the program has the environment it is given here and no other; it ends when its time is up, and so does
//! what it started; a bounded part of what it says is read.

use std::ffi::OsString;
use std::time::Duration;

use super::adapter::Kept;
use super::ask::{AskError, Asking, MAX_OUTPUT, output};

/// How long a program may take. 134 MB in 12,000 messages took OpenCode 1.18.33 55 seconds on two busy cores, a short one
/// seven where it was its first start in a home.
const LIMIT: Duration = Duration::from_mins(10);

/// Characters of it that people are shown.
const SHOWN: usize = 400;

/// A conversation was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The program did not come to an end.
    #[error("{} did not take it in", program.display())]
    Ask {
        /// Which.
        program: std::path::PathBuf,
        /// Why not.
        source: AskError,
    },
    /// It did not do it.
    #[error("{} says: {said}", program.display())]
    Refused {
        /// Which.
        program: std::path::PathBuf,
        /// What it said.
        said: String,
    },
}

/// Has a program take in what these arguments name, where nothing else runs.
pub fn import_here(
    kept: &dyn Kept,
    asking: &Asking,
    arguments: &[String],
) -> Result<(), ImportError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let failed = |source| ImportError::Ask { program: asking.program.clone(), source };
    let runtime = runtime.map_err(|source| failed(AskError::Start(source)))?;
    runtime.block_on(import(kept, asking, arguments))
}

async fn import(kept: &dyn Kept, asking: &Asking, arguments: &[String]) -> Result<(), ImportError> {
    let program = asking.program.clone();
    let mut asking = asking.clone();
    // What the shell said of where it was is not where the program is to be.
    asking.environment.push(("PWD".into(), asking.folder.clone().into()));
    let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
    let said = match asking.make()(&arguments, &[]).map_err(AskError::Make) {
        Ok(made) => output(made, &[], LIMIT, MAX_OUTPUT).await,
        Err(error) => Err(error),
    };
    let said = said.map_err(|source| ImportError::Ask { program: program.clone(), source })?;
    if said.success && kept.has_imported(&said.out) {
        return Ok(());
    }
    let said = if said.err.trim().is_empty() { said.out } else { said.err };
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let said = words.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
    Err(ImportError::Refused { program, said })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::adapter::Agent as _;
    use super::super::opencode::OpenCode;
    use super::*;

    fn program(folder: &Path, script: &str) -> Asking {
        let program = folder.join("opencode");
        let text = format!("#!/bin/sh\n{script}\n");
        baton_store::fs::write_atomic(&program, text.as_bytes(), 0o755).unwrap();
        Asking {
            program,
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            folder: folder.to_owned(),
        }
    }

    #[test]
    fn what_a_program_does_not_take_in_is_said_in_its_words() {
        let folder = tempfile::tempdir().unwrap();
        let kept = OpenCode.kept().unwrap();
        let arguments = kept.import("/x/y.json");
        let run = |script: &str| import_here(kept, &program(folder.path(), script), &arguments);
        run("test \"$PWD $*\" = \"$PWD import /x/y.json\" && echo Imported session: x").unwrap();
        for script in ["echo File not found", "echo Imported session; exit 1", "exit 0"] {
            assert!(matches!(run(script), Err(ImportError::Refused { .. })), "{script}");
        }
        let error = run("echo out; printf 'no\\033[1m room\\n' >&2; exit 1").unwrap_err();
        assert!(error.to_string().ends_with("says: no[1m room"), "{error}");
        let none = Asking { program: folder.path().join("none"), ..program(folder.path(), "") };
        let error = import_here(kept, &none, &arguments);
        assert!(matches!(error, Err(ImportError::Ask { source: AskError::Start(_), .. })));
    }
}
