//! One file for each command: its arguments, what it asks, and what it shows of the answer.
//!
//! **Invariant:** what this version does not have exits 2 before anything is asked of a daemon.

use crate::error::CliError;
use crate::session::Session;

pub(crate) mod later;
pub(crate) mod manual;
pub(crate) mod config;
pub(crate) mod daemon;
pub(crate) mod service;
pub(crate) mod serve;
pub(crate) mod ticket;
pub(crate) mod join;
pub(crate) mod remote;
pub(crate) mod device;
pub(crate) mod allow;
pub(crate) mod watch;
pub(crate) mod status;
pub(crate) mod snapshot;
pub(crate) mod push;
pub(crate) mod diff;
pub(crate) mod restore;
pub(crate) mod run;
pub(crate) mod log;
pub(crate) mod secret;
pub(crate) mod agent;
pub(crate) mod handoff;
pub(crate) mod follow_up;
pub(crate) mod pull;
pub(crate) mod undo;
pub(crate) mod queue;
pub(crate) mod forget;
pub(crate) mod gc;
pub(crate) mod check;
mod repair;
pub(crate) mod doctor;
pub(crate) mod uninstall;
pub(crate) mod mcp;

/// The commands, in the order in which a newcomer meets them.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    Serve(serve::Args),
    Ticket(ticket::Args),
    Join(join::Args),
    Remote(remote::Args),
    Leave(remote::RemoveArgs),
    Device(device::Args),
    Allow(allow::Args),
    Watch(watch::Args),
    Unwatch(watch::UnwatchArgs),
    Status(status::Args),
    Snapshot(snapshot::Args),
    Push(push::Args),
    Log(log::Args),
    Diff(diff::Args),
    Restore(restore::Args),
    Handoff(Box<handoff::Args>),
    FollowUp(follow_up::Args),
    Run(run::Args),
    Runs(run::ListArgs),
    Logs(run::LogsArgs),
    Say(run::SayArgs),
    Secret(secret::Args),
    Agent(agent::Args),
    Mcp(mcp::Args),
    Pull(pull::Args),
    Undo(undo::Args),
    Queue(queue::Args),
    Forget(forget::Args),
    Gc(gc::Args),
    Check(check::Args),
    Repair(repair::Args),
    Doctor(doctor::Args),
    Daemon(daemon::Args),
    Service(service::Args),
    Uninstall(uninstall::Args),
    Config(config::Args),
    Completions(manual::CompletionsArgs),
    Man(manual::ManArgs),
}

/// Does what was typed; gives the exit code.
pub(crate) fn dispatch(session: &Session, verb: Verb) -> Result<u8, CliError> {
    match verb {
        Verb::Serve(args) => serve::run(session, args),
        Verb::Ticket(args) => ticket::run(session, args),
        Verb::Join(args) => join::run(session, args),
        Verb::Remote(args) => remote::run(session, args),
        Verb::Leave(args) => remote::remove(session, args),
        Verb::Device(args) => device::run(session, args),
        Verb::Allow(args) => allow::run(session, &args),
        Verb::Watch(args) => watch::run(session, &args),
        Verb::Unwatch(args) => watch::unwatch(session, &args),
        Verb::Status(args) => status::run(session, &args),
        Verb::Snapshot(args) => snapshot::run(session, args),
        Verb::Push(args) => push::run(session, &args),
        Verb::Log(args) => log::run(session, &args),
        Verb::Diff(args) => diff::run(session, &args),
        Verb::Restore(args) => restore::run(session, &args),
        Verb::Handoff(args) => handoff::run(session, &args),
        Verb::FollowUp(args) => follow_up::run(session, &args),
        Verb::Run(args) => run::run(session, args),
        Verb::Runs(args) => run::list(session, args),
        Verb::Logs(args) => run::logs(session, &args),
        Verb::Say(args) => run::say(session, &args),
        Verb::Secret(args) => secret::run(session, args),
        Verb::Agent(args) => agent::run(session, &args),
        Verb::Mcp(args) => mcp::run(session, &args),
        Verb::Pull(args) => pull::run(session, &args),
        Verb::Undo(args) => undo::run(session, &args),
        Verb::Queue(args) => queue::run(session, args),
        Verb::Forget(args) => forget::run(session, &args),
        Verb::Gc(args) => gc::run(session, args),
        Verb::Check(args) => check::run(session, args),
        Verb::Repair(args) => repair::run(session, args),
        Verb::Doctor(args) => doctor::run(session, args),
        Verb::Daemon(args) => daemon::run(session, &args),
        Verb::Service(args) => service::run(session, &args),
        Verb::Uninstall(args) => uninstall::run(session, &args),
        Verb::Config(args) => config::run(session, &args),
        Verb::Completions(args) => manual::completions(session, &args),
        Verb::Man(args) => manual::man(session, &args),
    }
}

/// Whether this process becomes a node, which logs.
pub(crate) const fn is_node(verb: &Verb) -> bool {
    matches!(verb, Verb::Serve(_) | Verb::Daemon(daemon::Args { what: daemon::What::Run { .. } }))
}
