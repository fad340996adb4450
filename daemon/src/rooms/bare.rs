//! A room without walls: for nodes that cannot make any.
//!
//! **Invariant:** it never claims to isolate.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::{Job, Room, RoomError, check_program, has_slash};

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

    fn command(&self, job: &Job<'_>) -> Result<Command, RoomError> {
        if !job.network {
            return Err(RoomError::NoWalls);
        }
        check_program(job, |_| true)?;
        let mut command = if has_slash(job.program) {
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
            .stdin(Stdio::null())
            .current_dir(job.checkout)
            .env_clear()
            .envs(job.environment.iter().map(|(name, value)| (name, value)))
            .env("PWD", job.checkout);
        Ok(command)
    }
}
