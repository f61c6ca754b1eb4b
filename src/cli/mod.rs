//! The command line, one file a subcommand: from its arguments to an exit code.

pub mod demo;
pub mod healthcheck;
pub mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A high-availability TCP and HTTP load balancer: the front door for redundant servers
#[derive(Debug, Parser)]
#[command(name = "evenkeel", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Demo(demo::Args),
    Healthcheck(healthcheck::Args),
}

/// Runs what the arguments ask for.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Healthcheck(args) => {
            let path = args.config.clone().or_else(run::default_path);
            let env = |name: &str| std::env::var(name).ok();
            // Without a readable file the default address is asked.
            let loaded = path.and_then(|path| crate::config::load(&path, &env).ok());
            healthcheck::run(&args, loaded.map(|loaded| loaded.config.admin.listen))
        }
    }
}
