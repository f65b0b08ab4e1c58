//! The program `wardgate-control-plane`.

use std::process::ExitCode;

use anyhow::Context;
use control_plane::ControlPlane;
use control_plane::settings::{Command, Program};
use shared::clock::UnixTime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = match Program::load(std::env::args_os()) {
        Ok(program) => program,
        Err(error) => error.exit(),
    };
    match run(program) {
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

fn run(program: Program) -> anyhow::Result<()> {
    if let Some(Command::Certificates(command)) = program.command {
        return control_plane::certificates::write(&command, UnixTime::now())
            .map(drop)
            .context("certificates");
    }
    shared::telemetry::check(&program.settings.log)?;
    if program.check {
        return Ok(());
    }
    shared::telemetry::start(&program.settings.log, program.settings.log_format)?;
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    runtime.block_on(async {
        let control_plane = ControlPlane::start(program.settings).await?;
        stopped().await?;
        control_plane.stop().await;
        Ok(())
    })
}

/// Waits for SIGTERM or SIGINT.
async fn stopped() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupt = tokio::signal::ctrl_c() => interrupt.context("listening for SIGINT")?,
    }
    tracing::info!("stopping");
    Ok(())
}
