//! The program `wardgate-data-plane`.

use std::process::ExitCode;

use anyhow::Context;
use data_plane::DataPlane;
use data_plane::listening::inherited::{InheritError, Inherited};
use data_plane::settings::Program;
use data_plane::succession::{Successor, launcher};
use program::signals::{Asked, Signals};
use program::{begin, end, warn};
use shared::telemetry;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(ended) = launcher::launch(std::env::args_os()) {
        return ended;
    }
    let program = match Program::load(std::env::args_os()) {
        Ok(program) => program,
        Err(error) => error.exit(),
    };
    // Before there are threads: it takes what it reads out of the environment.
    let inherited = Inherited::from_environment();
    end(run(&program, inherited))
}

fn run(program: &Program, inherited: Result<Inherited, InheritError>) -> anyhow::Result<()> {
    telemetry::check(&program.settings.log)?;
    if program.check {
        warn(&data_plane::check(&program.settings)?);
        return Ok(());
    }
    begin::<Program>(&program.settings.log, program.settings.log_format)?;
    // The proxy has threads of its own; this one waits for signals.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let ended = runtime.block_on(async {
        // First of all: a signal that is to end nothing must not end a start either.
        let mut signals = Signals::listen().context("listening to signals")?;
        let data_plane = DataPlane::start_on(&program.settings, inherited?)?;
        match serve(&data_plane, &mut signals).await {
            Some(mut successor) => {
                // systemd sends SIGTERM to this process too when it stops the successor, and again when that has ended: exchanges
                // are to end all the same.
                data_plane
                    .hand_over(&mut successor, signals.interrupted())
                    .await;
            }
            None => data_plane.stop(signals.at_once()).await,
        }
        Ok(())
    });
    // Nobody waits for exchanges that are cut off.
    runtime.shutdown_background();
    ended
}

/// Returns when the process is to end; with the successor that serves then, where one was asked for.
async fn serve(data_plane: &DataPlane, signals: &mut Signals) -> Option<Successor> {
    loop {
        match signals.next().await {
            Asked::End => return None,
            Asked::Reopen => {
                data_plane.reopen_logs();
                continue;
            }
            Asked::Replace => {}
        }
        let succeeded = tokio::select! {
            () = signals.ended() => return None,
            succeeded = data_plane.succeed() => succeeded,
        };
        match succeeded {
            Ok(successor) => {
                tracing::info!("a successor serves");
                return Some(successor);
            }
            Err(error) => {
                tracing::error!(error = %telemetry::chain(&error), "no successor: this process goes on");
            }
        }
    }
}
