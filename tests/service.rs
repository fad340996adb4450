//! At home on the machine: the service manager starts the daemon, hears when it is ready, and is not sent
//! round in circles; what was installed is taken away again without a trace.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::support::home::{TestHome, run};

/// A home whose `systemctl` and `loginctl` note what they are asked, and answer as `script` says.
fn managed(script: &str) -> (TestHome, PathBuf) {
    let mut home = TestHome::new();
    let bin = home.folder("bin");
    let asked = home.root().join("asked");
    for name in ["systemctl", "loginctl"] {
        let text = format!("#!/bin/sh\necho {name} \"$@\" >> '{}'\n{script}\n", asked.display());
        std::fs::write(bin.join(name), text).unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(bin.join(name), mode).unwrap();
    }
    let path = format!("{}:/usr/bin:/bin", bin.display());
    home.set("PATH", &path);
    (home, asked)
}

fn unit(home: &TestHome) -> PathBuf {
    home.user_home().join(".config/systemd/user/baton.service")
}

fn asked(path: &PathBuf) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    drop(std::fs::remove_file(path));
    let changes = |line: &&str| !line.contains("show-environment");
    text.lines().filter(changes).map(str::to_owned).collect()
}

#[test]
fn where_no_service_manager_answers_the_unit_is_written_and_the_rest_is_said() {
    let (home, _) = managed("exit 1");
    let answer = home.json(&["service", "install"]);
    assert_eq!(answer["service"], "baton.service");
    assert_eq!(answer["path"], unit(&home).to_str().unwrap());
    assert_eq!(answer["written"][0], answer["path"]);
    assert_eq!(answer["todo"][0], "systemctl --user daemon-reload");
    assert!(answer["started"].is_null() && answer["linger"].is_null(), "{answer}");
    let text = std::fs::read_to_string(unit(&home)).unwrap();
    let home_flag = format!("--home \"{}\" daemon run", home.baton_home().display());
    assert!(text.contains(&home_flag) && text.contains("Type=notify"), "{text}");
    // Once more changes nothing, and what is said stays.
    let again = home.json(&["service", "install"]);
    assert_eq!(again["written"], serde_json::json!([]), "{again}");
    let answer = home.json(&["service", "install", "--serve"]);
    let todo = answer["todo"].as_array().unwrap();
    assert!(todo.contains(&"loginctl enable-linger".into()), "{answer}");
    assert!(std::fs::read_to_string(unit(&home)).unwrap().contains(" serve\n"));
    let removed = home.json(&["service", "remove"]);
    assert_eq!(removed["removed"][0], answer["path"]);
    assert!(!unit(&home).exists());
    let nothing = home.json(&["service", "remove"]);
    assert_eq!(nothing["removed"], serde_json::json!([]));
    let said = home.baton(&["service", "remove"]);
    assert_eq!(String::from_utf8_lossy(&said.stdout), "baton.service is not installed\n");
}

#[test]
fn a_service_manager_is_asked_to_start_it_and_to_stop_it() {
    let (home, log) = managed("[ \"$1\" = show-user ] && echo no; exit 0");
    let answer = home.json(&["service", "install"]);
    assert_eq!((&answer["enabled"], &answer["started"]), (&true.into(), &true.into()), "{answer}");
    assert_eq!(answer["todo"], serde_json::json!([]));
    let start = ["daemon-reload", "enable baton.service", "start baton.service"];
    assert_eq!(asked(&log), start.map(|words| format!("systemctl --user {words}")));
    // Another unit takes effect with a restart.
    let answer = home.json(&["service", "install", "--serve"]);
    assert_eq!(
        (&answer["linger"], &answer["todo"][0]),
        (&false.into(), &"loginctl enable-linger".into())
    );
    let asked_now = asked(&log);
    assert_eq!(asked_now[2], "systemctl --user restart baton.service", "{asked_now:?}");
    assert!(asked_now[3].starts_with("loginctl show-user "), "{asked_now:?}");
    home.json(&["service", "remove"]);
    let stop = ["disable --now baton.service", "daemon-reload"];
    assert_eq!(asked(&log), stop.map(|words| format!("systemctl --user {words}")));

    let (home, _) = managed("[ \"$2\" = enable ] && { echo no such unit >&2; exit 1; }; exit 0");
    let failed = home.json_exit(&["service", "install"], 1);
    assert_eq!(failed["error"]["code"], "service");
    assert!(failed["error"]["message"].as_str().unwrap().contains("no such unit"), "{failed}");
}

#[test]
fn a_unit_of_somebody_else_is_left_alone() {
    let (home, log) = managed("exit 0");
    let path = unit(&home);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    for text in ["[Service]\nExecStart=/bin/true\n", "# Written by baton for the home /elsewhere\n"]
    {
        std::fs::write(&path, text).unwrap();
        for verb in ["install", "remove"] {
            let refused = home.json_exit(&["service", verb], 4);
            assert_eq!(refused["error"]["code"], "service-exists");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
    assert_eq!(asked(&log), [""; 0]);
}

#[test]
fn systemd_understands_the_unit() {
    let (home, _) = managed("exit 1");
    home.json(&["service", "install", "--serve"]);
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--user", "--man=no"]).arg(unit(&home));
    verify.env("XDG_RUNTIME_DIR", home.root().join("run"));
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED systemd_understands_the_unit: there is no systemd-analyze");
        return;
    }
    let output = run(verify, Duration::from_mins(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("baton.service"), "{said}");
}

#[test]
fn a_service_manager_hears_when_the_daemon_is_ready_and_when_it_ends() {
    let home = TestHome::new();
    let path = home.root().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let heard = || {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let start = || {
        let mut command = home.command();
        command.args(["daemon", "run"]).env("NOTIFY_SOCKET", &path);
        command
    };
    let mut daemon = start().spawn().unwrap();
    assert_eq!(heard(), format!("READY=1\nMAINPID={}\n", daemon.id()));
    // Its home is in use: with an exit code after which a service manager does not try again.
    assert_eq!(run(start(), Duration::from_mins(1)).status.code(), Some(4));
    let mut serve = home.command();
    serve.args(["serve", "--listen", "127.0.0.1:0"]).env("NOTIFY_SOCKET", &path);
    let mut serving = serve.spawn().unwrap();
    assert_eq!(heard(), "STOPPING=1\n", "the daemon gives way to serve");
    assert!(daemon.wait().unwrap().success());
    assert!(heard().starts_with("READY=1\n"));
    let mut second = home.command();
    second.args(["serve", "--listen", "127.0.0.1:0"]).env("NOTIFY_SOCKET", &path);
    assert_eq!(run(second, Duration::from_mins(1)).status.code(), Some(4));
    home.json(&["daemon", "stop"]);
    assert_eq!(heard(), "STOPPING=1\n");
    assert!(serving.wait().unwrap().success());
}

#[test]
fn what_a_command_is_given_to_hold_is_not_held_on_by_the_daemon_that_it_starts() {
    let home = TestHome::new();
    let (lock, root) = (home.root().join("lock"), home.folder("app"));
    // Of whoever starts the command; the shell gives it on, as many programs do.
    let hold = "exec 9> \"$1\"; flock -n 9 || exit 7; shift; \"$@\"";
    let mut shell = home.other(Path::new("/bin/sh"));
    shell.args(["-c", hold, "sh"]).arg(&lock).arg(env!("CARGO_BIN_EXE_baton"));
    let output = shell.arg("snapshot").arg(&root).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(home.json(&["daemon", "status"])["running"], true);
    let lock = std::fs::File::options().write(true).open(&lock).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
}
