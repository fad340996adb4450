//! A room without walls: for nodes that cannot make any.
//!
//! **Invariant:** it never claims to isolate.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::{Job, Room, RoomError, Wrapped, check_program, has_slash};

/// Enters groups (a process that writes `0` there means itself), and becomes the program, without the variables that some
/// shells add.
const ENTER: &str = "while [ \"$1\" != -- ]; do echo 0 > \"$1\" || exit 126; shift; done; shift
exec /usr/bin/env -u _ -u SHLVL -u OLDPWD \"$@\"";

/// Runs commands as they are, with the rights of the node's own user.
#[derive(Clone, Copy, Debug)]
pub struct BareRoom;

impl Room for BareRoom {
    fn isolated(&self) -> bool {
        false
    }

    fn layers(&self) -> usize {
        0
    }

    fn enters(&self) -> bool {
        false
    }

    fn command(&self, job: &Job<'_>) -> Result<Wrapped, RoomError> {
        if !job.network {
            return Err(RoomError::NoWalls);
        }
        check_program(job, |_| true)?;
        // What `env` would take for a variable enters when it has started.
        let enters = !job.entrances.is_empty() && !job.program.as_bytes().contains(&b'=');
        let mut command = if enters {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", ENTER, "sh"]).args(job.entrances).arg("--").arg(job.program);
            command
        } else if has_slash(job.program) {
            // Whether a relative program is meant from here or from the new folder is left open by the
            // standard library.
            let mut command = Command::new(job.checkout.join(job.program));
            command.arg0(job.program);
            command
        } else {
            Command::new(job.program)
        };
        command
            .args(job.arguments)
            .current_dir(job.checkout)
            .env_clear()
            .envs(job.environment.iter().map(|(name, value)| (name, value)))
            .env("PWD", job.checkout);
        Ok(Wrapped { command, arguments: None })
    }
}
