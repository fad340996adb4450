//! Programs as the user `nobody`, where the tests run as root: what the system refuses a user, it refuses them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::home::{TestHome, run};

/// Longest time for one command.
const PATIENCE: Duration = Duration::from_mins(5);

/// The user.
const NOBODY: &str = "65534";

/// Whether this process can become another user; says so where it cannot.
pub(crate) fn is_possible() -> bool {
    let setpriv = Command::new("setpriv").arg("--version").output();
    let is_possible = rustix::process::geteuid().is_root() && setpriv.is_ok();
    if !is_possible {
        eprintln!("skipped: becoming another user takes root and setpriv");
    }
    is_possible
}

/// `baton` of a home as `nobody`, who owns all of it; it must end with this code.
pub(crate) fn as_nobody(home: &TestHome, program: &Path, args: &[&str], code: i32) -> Value {
    let plain = home.command();
    let mut command = Command::new("setpriv");
    let own = args.iter().take_while(|arg| **arg != "--").count();
    command
        .env_clear()
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
        .arg(program)
        .args(&args[..own])
        .arg("--json")
        .args(&args[own..])
        .current_dir(home.user_home());
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let output = run(command, PATIENCE);
    let (out, err) = (&output.stdout, &output.stderr);
    let shown = String::from_utf8_lossy(&[&out[..], err].concat()).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {shown}");
    serde_json::from_slice(out).unwrap_or_else(|error| panic!("{error}: {args:?}: {shown}"))
}

pub(crate) fn give_to_nobody(folder: &Path) {
    let chown =
        Command::new("chown").args(["-hR", &format!("{NOBODY}:{NOBODY}")]).arg(folder).status();
    assert!(chown.unwrap().success());
}
