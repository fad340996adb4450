//! A folder with a home and a workspace, and the real binary run in it with nothing else around.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Where a test runs `baton`.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

/// What a run of `baton` left.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        for name in ["work", "bin"] {
            std::fs::DirBuilder::new().create(place.path(name)).unwrap();
        }
        place
    }

    /// A path in the folder, without symbolic links above it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.path("home")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home().join("daemon.sock")
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        baton_store::fs::create_dir_all(path.parent().unwrap()).unwrap();
        baton_store::fs::write_atomic(&path, text.as_bytes(), 0o644).unwrap();
        path
    }

    /// `baton` in `work`, with no environment but a home and a search path.
    #[expect(clippy::disallowed_methods, reason = "the search path is the one thing kept")]
    pub(crate) fn baton(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_baton"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path(""))
            .env("BATON_HOME", self.home())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_RUNTIME_DIR", self.path("runtime"))
            .current_dir(self.path("work"))
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
        Ran::from(self.baton(arguments).output().unwrap())
    }

    /// The same, arguments as one line split at blanks.
    pub(crate) fn line(&self, arguments: &str) -> Ran {
        self.run(arguments.split_whitespace())
    }

    /// Whether something made a home here: a daemon was started, or tried to.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.home().exists()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// The one object on stdout.
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.out.lines().count(), 1, "not one line: {self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}
