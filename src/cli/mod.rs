//! The command line, one file a subcommand: from its arguments to an exit code.

mod ask;
pub mod check;
pub mod demo;
pub mod healthcheck;
pub mod operate;
pub mod run;
mod summary;

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
    Check(check::CheckArgs),
    Demo(demo::Args),
    Healthcheck(healthcheck::Args),
    Switchover(operate::Switchover),
    Failback(operate::Failback),
    Drain(operate::Drain),
    Disable(operate::Disable),
    Enable(operate::Enable),
}

/// Runs what the arguments ask for.
pub fn main() -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => match check::run(&args, &env, &mut std::io::stdout().lock()) {
            Ok(code) => ExitCode::from(code),
            // Nobody reads the report: its reader is gone.
            Err(_) => ExitCode::FAILURE,
        },
        Command::Demo(args) => demo::run(&args),
        Command::Healthcheck(args) => {
            let path = args.config.clone().or_else(run::default_path);
            // Without a readable file the default address is asked.
            let loaded = path.and_then(|path| crate::config::load(&path, &env).ok());
            healthcheck::run(&args, loaded.map(|loaded| loaded.config.admin.listen))
        }
        Command::Switchover(args) => operate::switchover(&args, &env),
        Command::Failback(args) => operate::failback(&args, &env),
        Command::Drain(args) => operate::drain(&args, &env),
        Command::Disable(args) => operate::disable(&args, &env),
        Command::Enable(args) => operate::enable(&args, &env),
    }
}
