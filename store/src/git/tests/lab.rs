//! Repositories made with real git, in an environment that is nobody's.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

use super::MemoryObjects;
use crate::git::{
    CaptureOptions, Captured, Commands, GitError, GitProgram, RebuildOptions, Rebuilt, capture,
    rebuild,
};
use crate::ignore::GitUser;

/// How a repository is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) hash: &'static str,
    pub(crate) refs: &'static str,
    pub(crate) index: &'static str,
}

pub(crate) const HASHES: [&str; 2] = ["sha1", "sha256"];
pub(crate) const STORAGES: [&str; 2] = ["files", "reftable"];
pub(crate) const INDEXES: [&str; 4] = ["v2", "v4", "split", "sparse"];

pub(crate) const PLAIN: Kept = Kept { hash: "sha1", refs: "files", index: "v2" };

/// Every way.
pub(crate) fn all_kept() -> Vec<Kept> {
    let mut all = Vec::new();
    for hash in HASHES {
        for refs in STORAGES {
            all.extend(INDEXES.map(|index| Kept { hash, refs, index }));
        }
    }
    all
}

/// Random numbers that are the same in every run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides
    }

    /// Lines of text.
    pub(crate) fn text(&mut self, lines: usize) -> String {
        let lines: Vec<_> = (0..lines).map(|at| format!("{at} {}", self.roll(1_000_000))).collect();
        lines.join("\n") + "\n"
    }
}

/// A folder for one test, with the repository that it is about in `work`.
pub(crate) struct Lab {
    dir: tempfile::TempDir,
    pub(crate) kept: Kept,
    /// The worktree that is captured, below the folder.
    pub(crate) at: String,
    pub(crate) objects: MemoryObjects,
}

impl Lab {
    pub(crate) fn new(kept: Kept) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["home", "scratch", "work"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let lab = Self { dir, kept, at: "work".into(), objects: MemoryObjects::default() };
        lab.init("work");
        lab
    }

    pub(crate) fn init(&self, at: &str) {
        let path = self.path(at);
        crate::fs::create_dir_all(&path).unwrap();
        let Kept { hash, refs, .. } = self.kept;
        let formats = [format!("--object-format={hash}"), format!("--ref-format={refs}")];
        self.git_in(&path, &["init", "-q", "-b", "main", &formats[0], &formats[1]]);
        self.configure(&path);
    }

    pub(crate) fn configure(&self, path: &Path) {
        for (key, value) in [("user.name", "A B"), ("user.email", "a@b.example")] {
            self.git_in(path, &["config", key, value]);
        }
        let set = |key: &str, value: &str| drop(self.git_in(path, &["config", key, value]));
        match self.kept.index {
            "v4" => set("index.version", "4"),
            "split" => {
                set("core.splitIndex", "true");
                set("splitIndex.maxPercentChange", "100");
            }
            _ => {}
        }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The worktree that is captured.
    pub(crate) fn work(&self) -> PathBuf {
        self.path(&self.at)
    }

    pub(crate) fn command(&self, folder: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command
            .args(["-c", "protocol.file.allow=always", "-c", "advice.detachedHead=false"])
            .args(["-c", "core.fsync=none", "-c", "maintenance.auto=false"])
            .args(args)
            .current_dir(folder)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.path("home"))
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_EDITOR", "true")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_AUTHOR_DATE", "@1700000000 +0100")
            .env("GIT_COMMITTER_DATE", "@1700000100 +0000");
        command
    }

    pub(crate) fn try_git_in(&self, folder: &Path, args: &[&str]) -> Output {
        self.command(folder, args).output().unwrap()
    }

    pub(crate) fn git_in(&self, folder: &Path, args: &[&str]) -> Vec<u8> {
        let output = self.try_git_in(folder, args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {args:?} in {}: {said}", folder.display());
        output.stdout
    }

    pub(crate) fn git(&self, args: &[&str]) -> Vec<u8> {
        self.git_in(&self.work(), args)
    }

    /// A run that has to stop half way.
    pub(crate) fn stops(&self, args: &[&str]) {
        let output = self.try_git_in(&self.work(), args);
        assert!(!output.status.success(), "git {args:?} should have stopped");
    }

    /// The output as text, without its last line break.
    pub(crate) fn says(&self, args: &[&str]) -> String {
        String::from_utf8(self.git(args)).unwrap().trim_end().to_owned()
    }

    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.work().join(path);
        crate::fs::create_dir_all(path.parent().unwrap()).unwrap();
        crate::fs::remove_file(&path).unwrap();
        crate::fs::write_atomic(&path, text.as_ref(), 0o644).unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        crate::fs::remove_file(&self.work().join(path)).unwrap();
    }

    pub(crate) fn commit(&self, message: &str) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", message]);
    }

    pub(crate) fn program() -> GitProgram {
        let folders = ["/usr/local/bin", "/usr/bin", "/bin"];
        let found = folders.map(|folder| Path::new(folder).join("git"));
        GitProgram::new(found.into_iter().find(|path| path.exists()).expect("git is not here"))
    }

    #[expect(clippy::disallowed_methods, reason = "a test, which asks for the age of locks")]
    pub(crate) fn options(&self) -> CaptureOptions {
        CaptureOptions {
            git: Self::program(),
            scratch: self.path("scratch"),
            within: None,
            base: None,
            user: GitUser::default(),
            nested: Vec::new(),
            now: SystemTime::now(),
            most_history: u64::MAX,
            room: u64::MAX,
        }
    }

    pub(crate) fn capture(&self) -> Captured {
        self.try_capture().unwrap()
    }

    pub(crate) fn try_capture(&self) -> Result<Captured, GitError> {
        capture(&self.work(), &self.objects, &self.options())
    }

    pub(crate) fn rebuild_options(&self) -> RebuildOptions {
        RebuildOptions {
            git: Self::program(),
            scratch: self.path("scratch"),
            beside: self.path("scratch"),
            commands: Commands::All,
        }
    }

    /// The files of the worktree copied to another folder, and the repository rebuilt there.
    pub(crate) fn rebuild(&self, captured: &Captured, at: &str) -> Rebuilt {
        let to = self.path(at);
        copy_files(&self.work(), &to);
        rebuild(&self.objects, captured.id, &to, &self.rebuild_options()).unwrap()
    }
}

/// Copies files, links and folders with their modes, but no `.git`.
pub(crate) fn copy_files(from: &Path, to: &Path) {
    crate::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if entry.file_name() == ".git" {
            continue;
        }
        if kind.is_dir() {
            copy_files(&path, &to);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&path).unwrap(), &to).unwrap();
        } else {
            std::fs::copy(&path, &to).unwrap();
            let mode = entry.metadata().unwrap().permissions().mode();
            std::fs::set_permissions(&to, PermissionsExt::from_mode(mode)).unwrap();
        }
    }
}
