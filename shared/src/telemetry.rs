//! What operators read while a process runs: the set-up of its log.

use std::error::Error;
use std::fmt;
use std::io::IsTerminal;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

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

/// An error with its causes, for the one place that logs it: `reading ca.pem: permission denied`.
pub fn chain(error: &dyn Error) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        write!(f, "{error}")?;
        let mut cause = error.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    })
}

/// Checks a filter without using it.
pub fn check(filter: &str) -> Result<(), TelemetryError> {
    EnvFilter::try_new(filter)?;
    Ok(())
}

/// What a log is filtered by while the process runs: what changes it, what it was started with, and the level
/// that was asked for last.
struct Filtering {
    handle: reload::Handle<EnvFilter, Registry>,
    started: String,
    level: Mutex<Level>,
}

/// The level that was asked for, and how many were before it.
struct Level {
    name: String,
    change: LevelNumber,
}

/// One of the changes of the level.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LevelNumber(u64);

static FILTERING: OnceLock<Filtering> = OnceLock::new();

/// Kong's levels, each with what it is here. The two that are less than an error say no more than that.
const LEVELS: [(&str, &str); 8] = [
    ("debug", "debug"),
    ("info", "info"),
    ("notice", "info"),
    ("warn", "warn"),
    ("error", "error"),
    ("crit", "error"),
    ("alert", "error"),
    ("emerg", "error"),
];

/// The level of this process's log, or the filter that it was started with.
pub fn level() -> String {
    FILTERING.get().map_or_else(
        || "off".to_owned(),
        |filtering| {
            let level = filtering.level.lock();
            let level = level.unwrap_or_else(PoisonError::into_inner);
            level.name.clone()
        },
    )
}

/// What a change of the level comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LevelChange {
    /// It is in effect, and may be taken back by this number.
    Changed(LevelNumber),
    /// It was so before.
    Already,
    /// There is no such level.
    Unknown,
    /// This process does not log.
    Off,
}

/// Changes the level of this process's log, by Kong's name for it.
pub fn set_level(name: &str) -> LevelChange {
    let Some((_, filter)) = LEVELS.iter().find(|(known, _)| *known == name) else {
        return LevelChange::Unknown;
    };
    let Some(filtering) = FILTERING.get() else {
        return LevelChange::Off;
    };
    let mut level = filtering
        .level
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if level.name == name {
        return LevelChange::Already;
    }
    let reloaded = filter_of(filter).map(|filter| filtering.handle.reload(filter));
    if !matches!(reloaded, Ok(Ok(()))) {
        return LevelChange::Off;
    }
    *level = level.next(name);
    LevelChange::Changed(level.change)
}

/// Goes back to what the log was started with, unless the level was changed again after `change`.
pub fn reset_level(change: LevelNumber) {
    let Some(filtering) = FILTERING.get() else {
        return;
    };
    let mut level = filtering
        .level
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if level.change != change {
        return;
    }
    if let Ok(filter) = filter_of(&filtering.started)
        && filtering.handle.reload(filter).is_ok()
    {
        *level = level.next(&filtering.started);
    }
}

impl Level {
    fn next(&self, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            change: LevelNumber(self.change.0 + 1),
        }
    }
}

/// The filter that `filter` names. A client can make the TLS library warn with each handshake, of what nobody can
/// act on, such as an address for a server's name: that is left out unless `filter` asks for the library.
fn filter_of(filter: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("rustls=error,{filter}"))
}

/// Sends this process's log to standard error, filtered by `filter`, a list of `target=level`.
///
/// Control characters in values are escaped in both formats, so that no value can forge a line.
pub fn start(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let (filtered, handle) = reload::Layer::new(filter_of(filter)?);
    let registry = tracing_subscriber::registry().with(filtered);
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
    // A second log in one process fails above, so this one is the first.
    let _ = FILTERING.set(Filtering {
        handle,
        started: filter.to_owned(),
        level: Mutex::new(Level {
            name: filter.to_owned(),
            change: LevelNumber(0),
        }),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn an_error_is_told_with_its_causes() {
        let error = crate::tls::read_key(Path::new("/nowhere.key")).unwrap_err();
        let told = super::chain(&error).to_string();
        assert!(
            told.starts_with("reading /nowhere.key: No such file"),
            "{told}"
        );
    }

    #[test]
    fn a_bad_filter_is_refused() {
        assert!(super::check("info,control_plane=debug").is_ok());
        assert!(super::check("control_plane=loud").is_err());
    }

    #[test]
    fn the_tls_library_tells_errors_only_unless_it_is_asked_for() {
        let filter = |text: &str| super::filter_of(text).unwrap().to_string();
        assert!(filter("info").contains("rustls=error"));
        let asked = filter("info,rustls=debug");
        assert!(
            asked.contains("rustls=debug") && !asked.contains("rustls=error"),
            "{asked}"
        );
    }
}
