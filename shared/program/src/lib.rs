//! How the programs begin, heed an operator and end. A package of its own: `shared` has no runtime.

pub mod signals;

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use clap::CommandFactory;

use shared::telemetry::{self, LogFormat, TelemetryError};
use shared::{machine, settings};

/// Why a program cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// Its log.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// Signals would end it before it listens to them.
    #[error("holding signals back")]
    Signals(#[source] io::Error),
}

/// Begins what is to serve with the settings of `P`: signals wait until it listens to them, and what it logs is written.
pub fn begin<P: CommandFactory>(log: &str, format: LogFormat) -> Result<(), BeginError> {
    signals::hold().map_err(BeginError::Signals)?;
    machine::leave_no_core_file();
    telemetry::start(log, format)?;
    machine::open_as_many_as_permitted();
    settings::tell_unheeded::<P>();
    Ok(())
}

/// Tells whoever has had settings checked what may be wrong with them.
#[expect(clippy::print_stderr, reason = "it is for whoever has asked")]
pub fn warn(doubts: &[String]) {
    for doubt in doubts {
        eprintln!("warning: {doubt}");
    }
}

/// Says why, if it is not well that a program has `ended`, once all that it logged is written.
#[expect(
    clippy::print_stderr,
    reason = "the last words of a program go to its terminal"
)]
pub fn end(ended: Result<(), impl Display>) -> ExitCode {
    telemetry::finish();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
