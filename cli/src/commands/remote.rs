//! `baton remote`: the nodes that this home knows.

use baton_daemon::api::control::{Command, RemotesAnswer};

use crate::error::CliError;
use crate::report::{Report, Style, figures};
use crate::session::{Session, expect_answer};

/// The nodes that this home knows.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Lists them.
    List,
    /// Chooses the one that commands use unless said.
    Default {
        /// Its name.
        name: String,
    },
    /// Forgets one; what it keeps stays there.
    #[command(visible_alias = "leave")]
    Remove(RemoveArgs),
}

/// Forgets a node: the same as `remote remove`.
#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Its name.
    name: String,
    /// Although something waits to be sent there, which then never is.
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<u8, CliError> {
    session.refuse_remote("remote")?;
    match args.what {
        What::List => ask(session, &Command::RemoteList, ""),
        What::Default { name } => {
            let said = format!("{} is the default\n", figures::one_line(&name));
            ask(session, &Command::RemoteDefault { name }, &said)
        }
        What::Remove(args) => remove(session, args),
    }
}

pub(crate) fn remove(session: &Session, args: RemoveArgs) -> Result<u8, CliError> {
    session.refuse_remote("leave")?;
    let said = format!("left {}\n", figures::one_line(&args.name));
    ask(session, &Command::RemoteRemove { name: args.name, force: args.force }, &said)
}

fn ask(session: &Session, command: &Command, said: &str) -> Result<u8, CliError> {
    let remotes = expect_answer!(session.call(command)?, Remotes);
    session.report.answer(&remotes, |text| {
        text.push_str(said);
        list(&session.report, text, &remotes);
    })?;
    Ok(0)
}

/// One line for each node.
pub(crate) fn list(report: &Report, to: &mut String, answer: &RemotesAnswer) {
    if answer.remotes.is_empty() {
        to.push_str("no node is known; baton join TICKET adds one\n");
    }
    let rows: Vec<_> = answer
        .remotes
        .iter()
        .map(|remote| {
            let mut marks = Vec::new();
            if remote.default {
                marks.push("default".to_owned());
            }
            if let Some(way) = &remote.transport {
                marks.push(format!("transport: {}", figures::one_line(way)));
            }
            let place = if remote.embedded {
                "on this machine".to_owned()
            } else {
                figures::one_line(&remote.addresses.join(" "))
            };
            vec![
                report.paint(Style::Name, &figures::one_line(&remote.name)),
                figures::short(&remote.node_id).to_owned(),
                figures::one_line(&remote.user),
                place,
                marks.join(", "),
            ]
        })
        .collect();
    figures::table(to, &rows);
}
