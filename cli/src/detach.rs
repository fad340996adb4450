//! `Ctrl-C` while the daemon works: the command line goes, the work stays, and the user is told.
//!
//! **Invariant:** commands that only look are not here; for them the default action of the signal
//! is right.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

/// Exit code of a command that did not wait for its end: 128 and the signal, as shells have it, so
/// that `baton … && next` does not go on.
const INTERRUPTED: i32 = 130;

/// Says on `Ctrl-C` what goes on, for as long as the process lives.
#[derive(Clone)]
pub(crate) struct Detach(Arc<Inner>);

struct Inner {
    message: Mutex<String>,
    armed: AtomicBool,
}

impl Detach {
    /// Takes over `Ctrl-C`. Where that fails it just ends the command, without a word.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        let detach = Self::later(message);
        detach.arm();
        detach
    }

    /// One that takes over `Ctrl-C` only once it is [armed](Self::arm): the thread that it needs takes a
    /// noticeable part of the time of a small push.
    pub(crate) fn later(message: impl Into<String>) -> Self {
        Self(Arc::new(Inner { message: Mutex::new(message.into()), armed: AtomicBool::new(false) }))
    }

    /// Takes over `Ctrl-C`, unless that was done.
    pub(crate) fn arm(&self) {
        if self.0.armed.swap(true, Ordering::Relaxed) {
            return;
        }
        let said = self.clone();
        if let Ok(mut signals) = Signals::new([SIGINT]) {
            std::thread::spawn(move || {
                if signals.forever().next().is_some() {
                    let text =
                        said.0.message.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    // The terminal has echoed `^C` on the line before.
                    drop(writeln!(std::io::stderr(), "\nnote: detached; {text}"));
                    std::process::exit(INTERRUPTED);
                }
            });
        }
    }

    /// Changes what is said, once more is known.
    pub(crate) fn say(&self, message: impl Into<String>) {
        *self.0.message.lock().unwrap_or_else(PoisonError::into_inner) = message.into();
    }
}
