//! The program `wardgate-data-plane`.

use std::process::ExitCode;

use anyhow::Context;
use data_plane::DataPlane;
use data_plane::settings::Program;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = match Program::load(std::env::args_os()) {
        Ok(program) => program,
        Err(error) => error.exit(),
    };
    match run(&program) {
        Ok(()) => ExitCode::SUCCESS,
        #[expect(
            clippy::print_stderr,
            reason = "the last words of a program go to its terminal"
        )]
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(program: &Program) -> anyhow::Result<()> {
    shared::telemetry::check(&program.settings.log)?;
    if program.check {
        return Ok(data_plane::check(&program.settings)?);
    }
    shared::telemetry::start(&program.settings.log, program.settings.log_format)?;
    // The proxy has threads of its own; this one waits for signals.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let data_plane = DataPlane::start(&program.settings)?;
        stopped().await?;
        data_plane.stop().await;
        Ok(())
    })
}

/// Waits for SIGTERM or SIGINT.
async fn stopped() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    Ok(())
}
