//! `evenkeel run`: serves until it is told to stop.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::app::{App, Options, StartError};
use crate::config::defaults::CONFIG_PATHS;
use crate::config::{LoadError, problems};
use crate::lifecycle::reload::Source;

/// How long a file that is being written, or read, is waited for at the end: its disk may hang.
const LAST_FILES: Duration = Duration::from_secs(2);

/// Serve until SIGTERM or SIGINT; SIGHUP reloads the configuration
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Configuration file [default: /etc/evenkeel/evenkeel.yaml, then ./evenkeel.yaml]
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Reload when the file changes, as SIGHUP does
    #[arg(long)]
    pub watch: bool,
}

/// 0: stopped with everything drained; 1: could not start, or connections had to be cut.
pub fn run(args: &Args) -> ExitCode {
    let Some(path) = args.config.clone().or_else(default_path) else {
        eprintln!("evenkeel: no configuration file: neither {} exists", CONFIG_PATHS.join(" nor "));
        eprintln!("evenkeel: name one with --config FILE, or try `evenkeel demo`");
        return ExitCode::FAILURE;
    };
    serve(Options { source: Source::File(path), watch: args.watch })
}

/// The first of the usual places that has a file.
pub fn default_path() -> Option<PathBuf> {
    CONFIG_PATHS.iter().map(PathBuf::from).find(|path| Path::exists(path))
}

fn serve(options: Options) -> ExitCode {
    let served = tokio::runtime::LocalRuntime::new().map(|runtime| {
        let served = runtime.block_on(async { Ok(App::start(options).await?.run().await) });
        runtime.shutdown_timeout(LAST_FILES);
        served
    });
    match served {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            report(&error);
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("evenkeel: no runtime can be made: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says on standard error why there is no start: an invalid file's problems in full.
pub fn report(error: &StartError) {
    if let StartError::Load(LoadError::Invalid(found)) = error {
        eprint!("{}", problems::render(found));
    }
    eprintln!("evenkeel: not started: {error}");
}
