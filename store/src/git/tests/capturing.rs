//! Repositories captured, and rebuilt beside where they are.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use super::lab::Lab;
use crate::git::{
    CaptureOptions, Captured, Commands, GitError, GitProgram, RebuildOptions, Rebuilt, capture,
    rebuild,
};
use crate::ignore::GitUser;

impl Lab {
    pub(super) fn program() -> GitProgram {
        let folders = ["/usr/local/bin", "/usr/bin", "/bin"];
        let found = folders.map(|folder| Path::new(folder).join("git"));
        GitProgram::new(found.into_iter().find(|path| path.exists()).expect("git is not here"))
    }

    #[expect(clippy::disallowed_methods, reason = "a test, which asks for the age of locks")]
    pub(super) fn options(&self) -> CaptureOptions {
        CaptureOptions {
            git: Self::program(),
            scratch: self.path("scratch"),
            within: None,
            base: None,
            user: GitUser::default(),
            nested: Vec::new(),
            now: SystemTime::now(),
        }
    }

    pub(super) fn capture(&self) -> Captured {
        self.try_capture().unwrap()
    }

    pub(super) fn try_capture(&self) -> Result<Captured, GitError> {
        capture(&self.work(), &self.objects, &self.options())
    }

    pub(super) fn rebuild_options(&self) -> RebuildOptions {
        RebuildOptions {
            git: Self::program(),
            scratch: self.path("scratch"),
            beside: self.path("scratch"),
            commands: Commands::All,
        }
    }

    /// The files of the worktree copied to another folder, and the repository rebuilt there.
    pub(super) fn rebuild(&self, captured: &Captured, at: &str) -> Rebuilt {
        let to = self.path(at);
        copy_files(&self.work(), &to);
        rebuild(&self.objects, captured.id, &to, &self.rebuild_options()).unwrap()
    }
}

/// Copies files, links and folders with their modes, but no `.git`.
pub(super) fn copy_files(from: &Path, to: &Path) {
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
