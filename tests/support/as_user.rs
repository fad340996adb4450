//! Tests of a crate once more, as a user in a namespace of their own: what root may is no measure of what a user may.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

/// Set where this program was started by itself.
const INSIDE: &str = "BATON_TEST_UNPRIVILEGED";

/// Neither root nor the user that stands for all who have no number in a namespace.
const USER: u32 = 61234;

/// A command in a namespace in which a user who is not root may mount; nothing where there can be none.
fn namespace() -> Option<(Command, u32)> {
    let is_root = rustix::process::geteuid().is_root();
    let user = if is_root { USER } else { rustix::process::geteuid().as_raw() };
    let mut command = Command::new(if is_root { "setpriv" } else { "unshare" });
    if is_root {
        let user = user.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "unshare"]);
    }
    command.args(["--user", "--mount", "--map-current-user", "--keep-caps"]);
    let mut trial = Command::new(command.get_program());
    trial.args(command.get_args()).arg("true").stderr(Stdio::null());
    trial.status().is_ok_and(|status| status.success()).then_some((command, user))
}

/// Gives up what a namespace permits, where this program is in one: only the thread that `keep_mounter` starts has it, as in
/// a node.
pub(super) fn give_up_rights(keep_mounter: fn() -> std::io::Result<()>) {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    static MOUNTER: std::sync::Once = std::sync::Once::new();
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    MOUNTER.call_once(|| keep_mounter().unwrap());
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).unwrap();
}

/// Runs those of this program's tests whose names have one of these words.
pub(super) fn once_more(words: &[&str]) {
    if std::env::var_os(INSIDE).is_some() {
        return;
    }
    let Some((mut command, user)) = namespace() else {
        writeln!(std::io::stderr(), "!!! overlays of users are not tested: no namespace").unwrap();
        assert!(std::env::var_os("BATON_REQUIRE_USER_OVERLAYS").is_none(), "they have to be");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
    if folder.path().metadata().unwrap().uid() != user {
        std::os::unix::fs::chown(folder.path(), Some(user), Some(user)).unwrap();
    }
    // Where it lies need not be open to that user.
    let program = std::fs::File::open("/proc/self/exe").unwrap();
    let output = command
        .arg("/proc/self/fd/0")
        .args(words)
        .env(INSIDE, "1")
        .env("TMPDIR", folder.path())
        .env("HOME", folder.path())
        .env("BATON_REQUIRE_OVERLAYS", "1")
        .env_remove("BATON_REQUIRE_REFLINK")
        .current_dir(folder.path())
        .stdin(program)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains(" 0 passed"), "{said}");
}
