//! `baton config show`: what is set, and where that comes from.

use std::fmt::Write as _;

use baton_daemon::config::{Config, Origin};
use serde::Serialize;

use crate::error::CliError;
use crate::report::{Style, figures};
use crate::session::Session;

/// The configuration.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Prints every value that is in force.
    Show {
        /// Say where each comes from.
        #[arg(long)]
        origin: bool,
    },
}

/// What `--json` prints.
#[derive(Serialize)]
struct Shown {
    /// The file, whether it exists or not.
    file: String,
    settings: Vec<Setting>,
}

#[derive(Serialize)]
struct Setting {
    key: String,
    value: serde_json::Value,
    origin: &'static str,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    session.refuse_remote("config")?;
    let What::Show { origin } = args.what;
    let file = &session.env.home.config_file;
    let config = Config::load(file)?;
    let mut human = String::new();
    let mut settings = Vec::new();
    for entry in config.entries() {
        let from = match entry.origin {
            Origin::Default => "default",
            Origin::File => "config.toml",
        };
        let _ = write!(human, "{} = {}", entry.key, entry.value);
        if origin {
            let _ = write!(human, "  {}", session.report.paint(Style::Dim, &format!("# {from}")));
        }
        human.push('\n');
        let value = serde_json::to_value(&entry.value)
            .map_err(|error| CliError::caused("internal", "reading a setting", &error))?;
        settings.push(Setting { key: entry.key, value, origin: from });
    }
    let shown = Shown { file: file.to_string_lossy().into_owned(), settings };
    session.report.answer(&shown, |text| {
        let _ = writeln!(text, "# {}", figures::one_line(&shown.file));
        text.push_str(&human);
    })?;
    Ok(0)
}
