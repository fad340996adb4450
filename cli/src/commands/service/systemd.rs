//! The text of a systemd user unit.
//!
//! The unit restricts little: what the daemon starts inherits every restriction, and a run is somebody's
//! build, with its own namespaces, just-in-time compilers and file modes. Rooms are what separates runs. Its control
//! group is handed to the daemon, which makes one in it for each run.
//!
//! A daemon that fails is started again, five times in five minutes. One that finds its home in use, or is
//! called wrongly, is not: another try would find the same.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;

use super::{Plan, mark};
use crate::connect::GIVE_BACK;
use crate::error::{CONFLICT, USAGE};

/// Its name; a user has one.
pub(super) const UNIT: &str = "baton.service";

/// The unit.
pub(super) fn text(plan: &Plan<'_>) -> String {
    let Plan { program, home, owner, path, serve } = *plan;
    let mut start = quoted(program.as_os_str(), Where::Command);
    if let Some(home) = home {
        start.push_str(" --home ");
        start.push_str(&quoted(home.as_os_str(), Where::Command));
    }
    start.push_str(if serve { " serve" } else { " daemon run" });
    let what = if serve { "Baton cloud node" } else { "Baton daemon" };
    let mut search = OsStr::new("PATH=").to_owned();
    search.push(path);
    let search = quoted(&search, Where::Value);
    let give_back = GIVE_BACK.map(|(name, value)| format!("{name}={value}")).join(" ");
    let mark = mark(owner);
    format!(
        "# {mark}
# `baton service install` writes it anew; what is to stay goes into `systemctl --user edit {UNIT}`.
[Unit]
Description={what}
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=notify
ExecStart={start}
Environment={search}
Environment={give_back}
Restart=on-failure
RestartSec=5
RestartPreventExitStatus={USAGE} {CONFLICT}
KillMode=mixed
TimeoutStopSec=90
LimitNOFILE=1024:524288
LimitCORE=0:infinity
RestrictRealtime=yes
Delegate=cpu memory pids

[Install]
WantedBy=default.target
"
    )
}

/// Where a word stands: only the words of a command have variables put in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    Command,
    Value,
}

/// A word as systemd reads it (`systemd.syntax(7)`), whatever its bytes.
fn quoted(word: &OsStr, place: Where) -> String {
    let mut text = String::from('"');
    for &byte in word.as_bytes() {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(byte)]),
            b'%' => text.push_str("%%"),
            b'$' if place == Where::Command => text.push_str("$$"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => drop(write!(text, "\\x{byte:02x}")),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_unit_says_what_is_started_with_which_home() {
        let plan = Plan {
            program: Path::new("/opt/my tools/baton"),
            home: Some(Path::new("/srv/100%/a\"b")),
            owner: Path::new("/srv/100%/a\"b"),
            path: OsStr::new("/usr/bin:/home/a/.cargo/bin"),
            serve: true,
        };
        let unit = text(&plan);
        for line in [
            "# Written by baton for the home /srv/100%/a\"b",
            "Type=notify",
            "Delegate=cpu memory pids",
            "ExecStart=\"/opt/my tools/baton\" --home \"/srv/100%%/a\\\"b\" serve",
            "Environment=\"PATH=/usr/bin:/home/a/.cargo/bin\"",
            "RestartPreventExitStatus=2 4",
            "WantedBy=default.target",
        ] {
            assert!(unit.lines().any(|it| it == line), "{line}\n{unit}");
        }
        let unit = text(&Plan { home: None, serve: false, ..plan });
        assert!(unit.contains("ExecStart=\"/opt/my tools/baton\" daemon run\n"), "{unit}");
    }

    #[test]
    fn every_byte_of_a_path_is_quoted() {
        let word = OsStr::from_bytes(b"/a\xff\n$X%h\\");
        assert_eq!(quoted(word, Where::Command), "\"/a\\xff\\x0a$$X%%h\\\\\"");
        assert_eq!(quoted(word, Where::Value), "\"/a\\xff\\x0a$X%%h\\\\\"");
    }
}
