//! The command line, one file a subcommand: from its arguments to an exit code.

pub mod healthcheck;
