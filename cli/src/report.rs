//! What is written to standard output and standard error, and how.
//!
//! Data goes to stdout, everything else to stderr. Under `--json` stdout has exactly one object,
//! or one a line where a command streams.
//!
//! **Invariant:** no colour carries meaning, and no control character of a file name or a message
//! reaches a terminal; the output of a run is the exception, it passes as it is.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Stdout, Write};

use baton_daemon::api::control::LogLine;
use serde::Serialize;

use crate::env::Env;
use crate::error::CliError;

pub(crate) mod figures;
pub(crate) mod omitted;

/// Where a command writes.
pub(crate) struct Report {
    json: bool,
    colour_out: bool,
    colour_err: bool,
    out: RefCell<BufWriter<Stdout>>,
}

/// How a word looks where there is colour.
#[derive(Clone, Copy)]
pub(crate) enum Style {
    /// What went well.
    Good,
    /// What failed.
    Bad,
    /// What deserves a look.
    Warn,
    /// Ids, and commands to type.
    Name,
    /// What matters less.
    Dim,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Bad => "1;31",
            Self::Warn => "33",
            Self::Name => "36",
            Self::Dim => "2",
        }
    }
}

impl Report {
    pub(crate) fn new(json: bool, env: Option<&Env>) -> Self {
        Self {
            json,
            colour_out: env.is_some_and(|env| env.colour_out),
            colour_err: env.is_some_and(|env| env.colour_err),
            out: RefCell::new(BufWriter::new(io::stdout())),
        }
    }

    /// Whether programs read this.
    pub(crate) const fn json(&self) -> bool {
        self.json
    }

    /// A word in a style, for standard output.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        paint(self.colour_out, style, text)
    }

    /// Prints an answer: the object itself, or the text that `human` makes of it.
    pub(crate) fn answer<T: Serialize>(
        &self,
        answer: &T,
        human: impl FnOnce(&mut String),
    ) -> Result<(), CliError> {
        if self.json {
            return self.object(answer);
        }
        let mut text = String::new();
        human(&mut text);
        self.raw(text.as_bytes())?;
        self.flush()
    }

    /// Prints an answer, and beside it why it is no success; the command ends with the code that is returned.
    pub(crate) fn answer_in_part<T: Serialize>(
        &self,
        answer: &T,
        error: &crate::error::Report,
        human: impl FnOnce(&mut String),
    ) -> Result<u8, CliError> {
        #[derive(Serialize)]
        struct Object<'a, T> {
            error: &'a crate::error::Report,
            #[serde(flatten)]
            answer: &'a T,
        }
        self.answer(&Object { error, answer }, human)?;
        self.say(error);
        Ok(error.exit)
    }

    /// Prints one object on a line of its own.
    pub(crate) fn object<T: Serialize>(&self, object: &T) -> Result<(), CliError> {
        let mut line = serde_json::to_vec(object)
            .map_err(|error| CliError::caused("internal", "writing the answer", &error))?;
        line.push(b'\n');
        self.raw(&line)?;
        self.flush()
    }

    /// Writes bytes to standard output as they are.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), CliError> {
        self.out.borrow_mut().write_all(bytes).map_err(|error| output(&error))
    }

    /// Sends on what was written.
    pub(crate) fn flush(&self) -> Result<(), CliError> {
        self.out.borrow_mut().flush().map_err(|error| output(&error))
    }

    /// Prints what a run wrote. For people, what the node says is set apart on standard error.
    pub(crate) fn log_line(&self, line: &LogLine) -> Result<(), CliError> {
        if self.json {
            let mut text = serde_json::to_vec(line)
                .map_err(|error| CliError::caused("internal", "writing a line", &error))?;
            text.push(b'\n');
            return self.raw(&text);
        }
        let bytes = line.text_b64.as_ref().map_or(line.text.as_bytes(), |exact| &exact.0);
        match line.stream.as_str() {
            "stdout" => self.raw(bytes),
            "stderr" => {
                // In order with what went to the other stream before.
                self.flush()?;
                stderr(bytes);
                Ok(())
            }
            _ => {
                self.flush()?;
                let text = figures::printable(line.text.trim_end_matches('\n'));
                stderr(format!("baton: {text}\n").as_bytes());
                Ok(())
            }
        }
    }

    /// Says on standard error what is no failure.
    pub(crate) fn note(&self, message: &str) {
        let word = paint(self.colour_err, Style::Warn, "note:");
        stderr(format!("{word} {}\n", figures::printable(message.trim_end())).as_bytes());
    }

    /// Says what failed, and the next command; under `--json` also on standard output, unless the
    /// usage was wrong.
    pub(crate) fn error(&self, error: &CliError) {
        let CliError::Failed(report) = error else { return };
        self.say(report);
        if self.json && report.exit != crate::error::USAGE {
            #[derive(Serialize)]
            struct Object<'a> {
                error: &'a crate::error::Report,
            }
            drop(self.object(&Object { error: report }));
        }
    }
}

impl Report {
    fn say(&self, report: &crate::error::Report) {
        let mut text = String::new();
        let word = paint(self.colour_err, Style::Bad, "error:");
        let _ = writeln!(text, "{word} {}", figures::printable(&report.message));
        if let Some(hint) = &report.hint {
            let word = paint(self.colour_err, Style::Name, "hint:");
            let _ = writeln!(text, "{word} {}", figures::printable(hint));
        }
        // A reader that is gone must not hide the failure behind another one.
        drop(self.flush());
        stderr(text.as_bytes());
    }
}

/// Writes to standard error; there is nobody to tell if that fails.
fn stderr(bytes: &[u8]) {
    drop(io::stderr().lock().write_all(bytes));
}

fn paint(colour: bool, style: Style, text: &str) -> String {
    if colour { format!("\x1b[{}m{text}\x1b[0m", style.code()) } else { text.to_owned() }
}

fn output(error: &io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::BrokenPipe,
        _ => CliError::caused("output", "writing to standard output", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colour_words_stay_as_they_are() {
        assert_eq!(paint(false, Style::Bad, "error:"), "error:");
        assert_eq!(paint(true, Style::Bad, "error:"), "\x1b[1;31merror:\x1b[0m");
    }

    #[test]
    fn a_closed_pipe_is_a_success_and_a_full_disk_is_not() {
        let error = |kind| output(&io::Error::from(kind)).code();
        assert_eq!(error(io::ErrorKind::BrokenPipe), 0);
        assert_eq!(error(io::ErrorKind::StorageFull), 1);
    }
}
