//! What operators read while a process runs: the set-up of its log.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why a log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error(
        "`log` must be a level (error, warn, info, debug, trace) or directives such as `info,data_plane=debug`"
    )]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something else in this process already logs.
    #[error("setting up the log")]
    AlreadySet(#[from] tracing_subscriber::util::TryInitError),
}

/// Checks a filter without using it.
pub fn check(filter: &str) -> Result<(), TelemetryError> {
    EnvFilter::try_new(filter)?;
    Ok(())
}

/// Sends this process's log to standard error, filtered by `filter`, a list of `target=level`.
///
/// Control characters in values are escaped in both formats, so that no value can forge a line.
pub fn start(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let registry = tracing_subscriber::registry().with(EnvFilter::try_new(filter)?);
    match format {
        LogFormat::Text => {
            let layer = tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal());
            registry.with(layer).try_init()?;
        }
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(std::io::stderr);
            registry.with(layer).try_init()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_bad_filter_is_refused() {
        assert!(super::check("info,control_plane=debug").is_ok());
        assert!(super::check("control_plane=loud").is_err());
    }
}
