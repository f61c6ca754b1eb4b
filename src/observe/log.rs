//! Sets the log up: events of `tracing` as lines on standard error, as text or as JSON.
//!
//! Level and format come from the configuration and can be changed while the process runs;
//! EVENKEEL_LOG, a filter such as `debug` or `evenkeel::health=trace,info`, overrides the level.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use thiserror::Error;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, Layered, SubscriberExt};
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::model::{Log, LogFormat, LogLevel};

/// The environment variable that overrides the level.
pub const FILTER_VARIABLE: &str = "EVENKEEL_LOG";

static SWITCH: OnceLock<Switch> = OnceLock::new();

#[derive(Debug, Error)]
pub enum LogError {
    #[error("the log is set up already")]
    Twice,
    #[error("EVENKEEL_LOG is no valid filter ({0}); write a level such as debug, or unset it")]
    Filter(String),
}

/// Sets the log up for the whole process. Call it once, before the first event.
///
/// # Errors
/// If the log was set up already, or EVENKEEL_LOG cannot be understood.
pub fn init(log: Log) -> Result<(), LogError> {
    let over = std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (subscriber, switch) = build(log, over, Output { writer: io::stderr, colours })?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)?;
    SWITCH.set(switch).map_err(|_| LogError::Twice)
}

/// Changes level and format, after a reload. Does nothing before [`init`].
pub fn set(log: Log) {
    if let Some(switch) = SWITCH.get() {
        switch.set(log);
    }
}

type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;
type Lines = Box<dyn Layer<Filtered> + Send + Sync>;
type Whole = Layered<reload::Layer<Lines, Filtered>, Filtered>;

#[derive(Clone, Copy, Debug)]
struct Output<W> {
    writer: W,
    colours: bool,
}

/// What can be changed later.
struct Switch {
    over: Option<String>,
    filter: reload::Handle<EnvFilter, Registry>,
    lines: reload::Handle<Lines, Filtered>,
    make: Box<dyn Fn(LogFormat) -> Lines + Send + Sync>,
}

impl Switch {
    fn set(&self, log: Log) {
        // `build` has proved the override; the level's word is always a filter. The handles only
        // fail when their subscriber is gone, and with it the log that could tell.
        if let Ok(filter) = filter(log.level, self.over.as_deref()) {
            let _ = self.filter.reload(filter);
        }
        let _ = self.lines.reload((self.make)(log.format));
    }
}

fn build<W>(log: Log, over: Option<String>, output: Output<W>) -> Result<(Whole, Switch), LogError>
where
    W: for<'w> MakeWriter<'w> + Clone + Send + Sync + 'static,
{
    let make = move |format| lines(format, output.clone());
    let (filter, filter_handle) = reload::Layer::new(filter(log.level, over.as_deref())?);
    let (layer, lines_handle) = reload::Layer::new(make(log.format));
    let subscriber = tracing_subscriber::registry().with(filter).with(layer);
    let make = Box::new(make);
    Ok((subscriber, Switch { over, filter: filter_handle, lines: lines_handle, make }))
}

fn lines<W>(format: LogFormat, output: Output<W>) -> Lines
where
    W: for<'w> MakeWriter<'w> + Clone + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(output.writer);
    match format {
        LogFormat::Text => layer.with_ansi(output.colours).with_target(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
    }
}

fn filter(level: LogLevel, over: Option<&str>) -> Result<EnvFilter, LogError> {
    let text = over.unwrap_or(match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    });
    EnvFilter::try_new(text).map_err(|why| LogError::Filter(why.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Paper {
        /// What was written since it was last asked.
        fn take(&self) -> String {
            let mut ink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            String::from_utf8(std::mem::take(&mut *ink)).expect("the log writes UTF-8")
        }
    }

    impl io::Write for Paper {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(buf);
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn on_paper(log: Log, over: Option<&str>) -> (Whole, Switch, Paper) {
        let paper = Paper::default();
        let pen = paper.clone();
        let output = Output { writer: move || pen.clone(), colours: false };
        let (subscriber, switch) =
            build(log, over.map(String::from), output).expect("the filter is valid");
        (subscriber, switch, paper)
    }

    const TEXT: Log = Log { level: LogLevel::Info, format: LogFormat::Text };

    fn speak() {
        tracing::debug!("quiet");
        tracing::info!(pool = "web", serving = 2, "a backend changed");
    }

    #[test]
    fn level_and_format_change_while_it_runs() {
        let (subscriber, switch, paper) = on_paper(TEXT, None);
        tracing::subscriber::with_default(subscriber, || {
            speak();
            let text = paper.take();
            assert!(text.contains("INFO a backend changed pool=\"web\" serving=2"), "{text}");
            assert!(!text.contains("quiet"), "{text}");

            switch.set(Log { level: LogLevel::Debug, format: LogFormat::Json });
            speak();
            let text = paper.take();
            let lines: Vec<serde_json::Value> = text
                .lines()
                .map(|line| serde_json::from_str(line).expect("each line is one JSON object"))
                .collect();
            assert_eq!(lines.len(), 2, "{text}");
            assert_eq!(lines[0]["message"], "quiet");
            assert_eq!(lines[1]["level"], "INFO");
            assert_eq!(lines[1]["pool"], "web");
            assert_eq!(lines[1]["serving"], 2);

            switch.set(Log { level: LogLevel::Error, format: LogFormat::Text });
            speak();
            assert_eq!(paper.take(), "");
        });
    }

    #[test]
    fn the_environment_overrides_the_level_also_after_a_reload() {
        let (subscriber, switch, paper) = on_paper(TEXT, Some("off,evenkeel=debug"));
        tracing::subscriber::with_default(subscriber, || {
            speak();
            assert_eq!(paper.take().lines().count(), 2);
            switch.set(Log { level: LogLevel::Error, ..TEXT });
            speak();
            assert_eq!(paper.take().lines().count(), 2);
        });
    }

    #[test]
    fn a_filter_that_is_none_is_refused_by_name() {
        let output = Output { writer: io::sink, colours: false };
        let error = build(TEXT, Some("evenkeel=loud".into()), output).err();
        let text = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(text.starts_with("EVENKEEL_LOG is no valid filter"), "{text}");
    }
}
