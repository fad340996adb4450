//! What a run can see and touch of the machine it runs on.
//!
//! A [`Room`] wraps a command; it starts nothing. [`BubblewrapRoom`] shows a run its checkout, a home of
//! its own and the system's programs, and nothing else of the node; [`BareRoom`] hides nothing and says
//! so. Which of them a node has is found out by trying, in [`choose`].
//!
//! Not here: starting, signalling and waiting for the command (`runs`).
//!
//! **Invariant:** the environment of a wrapped command is exactly [`Job::environment`] and `PWD`; nothing of
//! the node's own environment reaches it.

pub mod bare;
mod programs;
pub mod bubblewrap;
pub mod toolchains;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

pub use bare::BareRoom;
pub use bubblewrap::BubblewrapRoom;

/// What is to run, and with which of the node's folders.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// Looked up in the `PATH` of `environment`, or in `checkout` where it has a slash.
    pub program: &'a OsStr,
    /// Its arguments, without the program.
    pub arguments: &'a [OsString],
    /// The working folder, writable, absolute.
    pub checkout: &'a Path,
    /// The run's own home, writable, absolute.
    pub home: &'a Path,
    /// Folders that it sees as `/tmp` and `/var/tmp`, writable, absolute. Nothing: those of a room are in memory.
    pub temporary: Option<[&'a Path; 2]>,
    /// Files and folders outside of all these that it may read.
    pub readable: &'a [&'a Path],
    /// Places at which the checkout and the home are seen once more, where the room can do that: what was installed
    /// elsewhere and brought into them knows them by these names.
    pub seen_at: Option<(&'a Path, &'a Path)>,
    /// Its whole environment.
    pub environment: &'a [(OsString, OsString)],
    /// Whether it may use the network.
    pub network: bool,
    /// Files into which its first process writes `0` before it does anything else:
    /// [`Group::entrances`](crate::limits::Group::entrances). A room that cannot make it do that leaves them alone.
    pub entrances: &'a [PathBuf],
}

impl std::fmt::Debug for Job<'_> {
    /// Without values of the environment, some of which are secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.environment.iter().map(|(name, _)| name).collect();
        f.debug_struct("Job")
            .field("program", &self.program)
            .field("checkout", &self.checkout)
            .field("environment", &names)
            .finish_non_exhaustive()
    }
}

impl Job<'_> {
    fn path(&self) -> &OsStr {
        let path = self.environment.iter().find(|(name, _)| name == "PATH");
        path.map_or(OsStr::new(DEFAULT_PATH), |(_, value)| value)
    }
}

/// Where programs are looked for when the node has no `PATH`.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A way to wrap commands.
pub trait Room: Send + Sync + std::fmt::Debug {
    /// Whether the node's own files and other runs are out of reach.
    fn isolated(&self) -> bool;

    /// How many processes of the room itself stand above the program: the signals that a program may
    /// catch must not reach them, because with them the room ends at once.
    fn layers(&self) -> usize;

    /// Whether a program writes itself into [`Job::entrances`]; otherwise the caller puts it there once it is started.
    fn enters(&self) -> bool;

    /// Wraps a command.
    fn command(&self, job: &Job<'_>) -> Result<Wrapped, RoomError>;
}

/// A command in its room.
#[derive(Debug)]
pub struct Wrapped {
    /// What is to be started. The caller sets its standard streams and its process group.
    pub command: Command,
    /// What it reads when it has started: to be kept until it has ended.
    pub arguments: Option<std::fs::File>,
}

/// A command cannot be started in the room.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// No folder of `PATH` has it.
    #[error("command not found: {}", program.display())]
    NotFound {
        /// As it was asked for.
        program: OsString,
    },
    /// It is there, but nobody may execute it.
    #[error("{} is not executable", program.display())]
    NotExecutable {
        /// Which file.
        program: PathBuf,
    },
    /// It is on the node, but outside of what a run sees.
    #[error("{} is on the node, but its folder is not exposed to runs", program.display())]
    Hidden {
        /// Which file.
        program: PathBuf,
    },
    /// It is to run without a network, which takes walls.
    #[error(
        "it is to run without a network, which a node cannot see to whose runs are not isolated"
    )]
    NoWalls,
    /// What the room is told could not be kept for it.
    #[error("the room could not be prepared")]
    Prepare(#[source] std::io::Error),
}

/// What a node tells its rooms about itself.
#[derive(Clone, Debug, Default)]
pub struct RoomSettings {
    /// The node's `PATH`, in which `bwrap` is looked for.
    pub path: OsString,
    /// Programs that runs may start wherever in `search` they are, by their names or paths: those of agents.
    pub programs: Vec<OsString>,
    /// The `PATH` of runs.
    pub search: OsString,
    /// Files and folders shown to runs beside the system's own, read-only: toolchains.
    pub expose: Vec<PathBuf>,
    /// Files and folders that must stay out of sight even where they lie in one that is shown: the home of the
    /// daemon, and that of its user.
    pub hide: Vec<PathBuf>,
    /// Of those, the ones in which nothing is exposed, whatever `expose` says.
    pub never: Vec<PathBuf>,
}

impl RoomSettings {
    /// With every path under all the names that it can be seen by in a room, and without what would show a hidden
    /// folder itself or something in one of `never`. Says which paths those are.
    pub fn resolve(mut self) -> (Self, Vec<PathBuf>) {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let both = |paths: &[PathBuf]| -> Vec<PathBuf> {
            paths.iter().flat_map(|path| [path.clone(), real(path)]).collect()
        };
        let never = both(&self.never);
        let mut hide = both(&self.hide);
        hide.extend(never.iter().cloned());
        let (mut expose, mut refused) = (Vec::new(), Vec::new());
        let mut other_names = Vec::new();
        for path in self.expose {
            let target = real(&path);
            let is_hidden = [&path, &target].into_iter().any(|name| {
                hide.contains(name) || never.iter().any(|above| name.starts_with(above))
            });
            if is_hidden {
                refused.push(path);
                continue;
            }
            if path != target {
                let below = hide.iter().filter_map(|hidden| hidden.strip_prefix(&target).ok());
                other_names.extend(below.map(|below| path.join(below)));
            }
            expose.extend([path, target]);
        }
        hide.extend(other_names);
        for paths in [&mut expose, &mut hide] {
            paths.sort();
            paths.dedup();
        }
        (self.expose, self.hide, self.never) = (expose, hide, never);
        (self, refused)
    }
}

/// The room of this node, and why it is that one.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Wraps the commands of all runs.
    pub room: Arc<dyn Room>,
    /// For `doctor`: what is used, or why runs are not isolated.
    pub detail: String,
}

/// Finds the best room that works here. `scratch` is a folder of the node's own in which the trial run
/// gets a checkout and a home; it is left empty.
///
/// Having `bwrap` is not enough: many machines forbid user namespaces, or mounting `/proc` in one.
pub async fn choose(settings: RoomSettings, scratch: &Path) -> Chosen {
    let Some(program) = find_in(&settings.path, OsStr::new("bwrap")) else {
        return Chosen { room: Arc::new(BareRoom), detail: "bwrap is not installed".to_owned() };
    };
    let mut room = BubblewrapRoom::new(program, settings);
    match room.probe(scratch).await {
        Ok(()) => {
            let detail = format!("bubblewrap, {}", room.program().display());
            Chosen { room: Arc::new(room), detail }
        }
        Err(error) => {
            let mut detail = format!("{} does not work here: {error}", room.program().display());
            if let Some(source) = std::error::Error::source(&error) {
                detail = format!("{detail}: {source}");
            }
            tracing::warn!(detail, "runs are not isolated");
            Chosen { room: Arc::new(BareRoom), detail }
        }
    }
}

/// The first executable file of this name in the absolute folders of a `PATH`.
fn find_in(path: &OsStr, name: &OsStr) -> Option<PathBuf> {
    candidates(path, name).find(|file| is_executable(file) == Some(true))
}

/// Checks that a program can be started where only some paths can be seen.
///
/// The room would fail too, but in the middle of the run and with words of its own.
fn check_program(job: &Job<'_>, sees: impl Fn(&Path) -> bool) -> Result<(), RoomError> {
    let not_found = || RoomError::NotFound { program: job.program.to_owned() };
    let check = |file: PathBuf| -> Result<(), RoomError> {
        match is_executable(&file) {
            None => return Err(not_found()),
            Some(false) => return Err(RoomError::NotExecutable { program: file }),
            Some(true) => {}
        }
        let target = file.canonicalize().unwrap_or_else(|_| file.clone());
        if sees(&file) && sees(&target) { Ok(()) } else { Err(RoomError::Hidden { program: file }) }
    };
    if has_slash(job.program) {
        return check(job.checkout.join(job.program));
    }
    let mut best = not_found();
    for file in candidates(job.path(), job.program) {
        match check(file) {
            Ok(()) => return Ok(()),
            Err(RoomError::NotFound { .. }) => {}
            Err(error) => best = error,
        }
    }
    Err(best)
}

fn candidates<'a>(path: &'a OsStr, name: &'a OsStr) -> impl Iterator<Item = PathBuf> + 'a {
    // A relative folder would mean one inside the checkout: not something to run by accident.
    let folders = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    folders.map(move |folder| folder.join(name)).filter(move |_| !name.is_empty())
}

fn has_slash(program: &OsStr) -> bool {
    program.as_bytes().contains(&b'/')
}

/// Nothing where there is no such file.
fn is_executable(file: &Path) -> Option<bool> {
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some(metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(program: &str, sees: impl Fn(&Path) -> bool, folder: &Path) -> Result<(), RoomError> {
        let mut path = OsString::from("relative:/usr/bin:/bin:");
        path.push(folder);
        let environment = [(OsString::from("PATH"), path)];
        let job = Job {
            program: OsStr::new(program),
            arguments: &[],
            checkout: folder,
            home: folder,
            temporary: None,
            readable: &[],
            seen_at: None,
            environment: &environment,
            network: true,
            entrances: &[],
        };
        check_program(&job, sees)
    }

    #[test]
    fn a_program_is_found_as_the_room_would_find_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tool-of-the-checkout");
        baton_store::fs::write_atomic(&file, b"#!/bin/sh\n", 0o755).unwrap();
        let plain = folder.path().join("plain");
        baton_store::fs::write_atomic(&plain, b"text", 0o644).unwrap();
        std::os::unix::fs::symlink("/usr/bin/env", folder.path().join("link")).unwrap();

        let all = |_: &Path| true;
        assert!(check("sh", all, folder.path()).is_ok());
        assert!(check("./tool-of-the-checkout", all, folder.path()).is_ok());
        assert!(check("tool-of-the-checkout", all, folder.path()).is_ok());
        for missing in ["no-such-program-anywhere", "./missing", "", "."] {
            let error = check(missing, all, folder.path()).unwrap_err();
            assert!(matches!(error, RoomError::NotFound { .. }), "{missing}: {error}");
        }
        let error = check("./plain", all, folder.path()).unwrap_err();
        assert!(matches!(error, RoomError::NotExecutable { .. }), "{error}");

        let here = |path: &Path| path.starts_with(folder.path().canonicalize().unwrap());
        assert!(check("tool-of-the-checkout", here, folder.path()).is_ok());
        for hidden in ["sh", "./link", "/usr/bin/env"] {
            let error = check(hidden, here, folder.path()).unwrap_err();
            assert!(matches!(error, RoomError::Hidden { .. }), "{hidden}: {error}");
        }
    }

    #[test]
    fn what_is_hidden_is_so_under_each_of_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let at = |path: &str| root.join(path);
        for path in ["data/ann/.ssh", "data/ann/state/keys", "data/ann/tools", "home"] {
            baton_store::fs::create_dir_all(&at(path)).unwrap();
        }
        for (name, target) in
            [("home/ann", "data/ann"), ("other", "data"), ("link", "data/ann/state/keys")]
        {
            std::os::unix::fs::symlink(at(target), at(name)).unwrap();
        }
        let settings = RoomSettings {
            expose: [
                "other",
                "home/ann",
                "data/ann",
                "link",
                "home/ann/state/keys",
                "home/ann/tools",
            ]
            .map(at)
            .to_vec(),
            hide: ["home/ann", "home/ann/.ssh"].map(at).to_vec(),
            never: vec![at("home/ann/state")],
            ..RoomSettings::default()
        };
        let (settings, refused) = settings.resolve();
        // A tie is one for hiding, and the daemon's own folder is hidden whatever is said.
        assert_eq!(refused, ["home/ann", "data/ann", "link", "home/ann/state/keys"].map(at));
        assert_eq!(settings.expose, ["data", "data/ann/tools", "home/ann/tools", "other"].map(at));
        for hidden in
            ["data/ann", "home/ann/.ssh", "other/ann", "other/ann/state", "data/ann/state"]
        {
            assert!(settings.hide.contains(&at(hidden)), "{hidden}");
        }
    }

    #[tokio::test]
    async fn without_bubblewrap_the_room_is_bare_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let chosen = choose(RoomSettings::default(), folder.path()).await;
        assert!(!chosen.room.isolated());
        assert_eq!(chosen.detail, "bwrap is not installed");

        // One that is there and cannot make a room.
        // By another process: whoever is started meanwhile would hold the file open as one that is being written.
        let write = r#"printf '#!/bin/sh\necho "bwrap: No permissions to create new namespace" >&2\nexit 1\n' > bwrap
            chmod 755 bwrap"#;
        let mut shell = Command::new("sh");
        let written = shell.args(["-c", write]).current_dir(folder.path()).status();
        assert!(written.unwrap().success());
        let settings = RoomSettings { path: folder.path().into(), ..RoomSettings::default() };
        let chosen = choose(settings, folder.path()).await;
        assert!(!chosen.room.isolated());
        assert!(chosen.detail.contains("No permissions"), "{}", chosen.detail);
    }
}
