//! The real git, without the settings of whoever runs the tests.

use std::path::Path;
use std::process::{Command, Output};

/// Git in a folder, whose home is the one above.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", folder.parent().unwrap())
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_EDITOR", "true")
        .env("GIT_TERMINAL_PROMPT", "0")
        .arg("-C")
        .arg(folder);
    command
}

pub(crate) fn try_git(folder: &Path, args: &[&str]) -> Output {
    command(folder).args(args).output().unwrap()
}

/// What it says; it must not fail.
pub(crate) fn git(folder: &Path, args: &[&str]) -> String {
    let output = try_git(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
