//! How far a command is, drawn on standard error.
//!
//! **Invariant:** nothing is drawn where standard error is no terminal, nor in the first half second:
//! what is quick stays silent.

use std::time::Duration;

use baton_daemon::api::control::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::figures;

/// How long a command stays silent.
const SILENCE: Duration = Duration::from_millis(500);

/// Draws progress.
pub(crate) struct Meter {
    bar: Option<ProgressBar>,
}

impl Meter {
    /// A meter that has drawn nothing yet.
    pub(crate) fn new(terminal: bool) -> Self {
        let bar = || ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self { bar: terminal.then(bar) }
    }

    /// Shows how far it is.
    pub(crate) fn update(&self, progress: &Progress) {
        let Some(bar) = &self.bar else { return };
        if bar.elapsed() < SILENCE {
            return;
        }
        let template = match progress.total {
            Some(_) => "{spinner} {prefix} [{bar:24}] {msg}",
            None => "{spinner} {prefix} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        if let Some(total) = progress.total {
            bar.set_length(total);
        }
        bar.set_prefix(figures::one_line(&progress.stage));
        bar.set_message(figure(progress));
        bar.set_position(progress.done);
        if bar.is_hidden() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.tick();
        }
    }

    /// Takes the drawing away, so that something else can be written.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar
            && !bar.is_hidden()
        {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `1,204 of 5,000, 12.3 MB`.
fn figure(progress: &Progress) -> String {
    let mut text = figures::count(progress.done);
    if let Some(total) = progress.total {
        text.push_str(" of ");
        text.push_str(&figures::count(total));
    }
    if progress.bytes > 0 {
        text.push_str(", ");
        text.push_str(&figures::size(progress.bytes));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_name_only_what_is_known() {
        let progress = |total, bytes| Progress { stage: "send".into(), done: 1204, total, bytes };
        assert_eq!(figure(&progress(None, 0)), "1,204");
        assert_eq!(figure(&progress(Some(5000), 12_300_000)), "1,204 of 5,000, 12.3 MB");
    }

    #[test]
    fn nothing_is_drawn_at_once_nor_without_a_terminal() {
        let progress = Progress { stage: "send".into(), done: 1, total: None, bytes: 0 };
        assert!(Meter::new(false).bar.is_none());
        let meter = Meter::new(true);
        meter.update(&progress);
        assert!(meter.bar.as_ref().is_some_and(ProgressBar::is_hidden));
    }
}
