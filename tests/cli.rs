//! The command line as scripts see it: whole output and exit codes, in an environment of its own,
//! against a daemon that answers what the test wants.

mod commands;
mod contract;
mod daemons;
mod fake;
mod place;
mod streams;
