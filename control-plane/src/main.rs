//! The program `wardgate-control-plane`.

use std::process::ExitCode;

use anyhow::Context;
use control_plane::ControlPlane;
use control_plane::settings::{Command, Program};
use control_plane::store::restore::RestoreCommand;
use shared::clock::UnixTime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = match Program::load(std::env::args_os()) {
        Ok(program) => program,
        Err(error) => error.exit(),
    };
    let ended = run(program);
    shared::telemetry::finish();
    match ended {
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
    match &program.command {
        Some(Command::Certificates(command)) => {
            return control_plane::certificates::write(command, UnixTime::now())
                .map(drop)
                .context("certificates");
        }
        Some(Command::Restore(command)) => return restore(command),
        None => {}
    }
    shared::telemetry::check(&program.settings.log)?;
    if program.check {
        return Ok(control_plane::check(&program.settings)?);
    }
    shared::machine::leave_no_core_file();
    shared::telemetry::start(&program.settings.log, program.settings.log_format)?;
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    runtime.block_on(async {
        let control_plane = ControlPlane::start(program.settings).await?;
        stopped().await?;
        control_plane.stop().await;
        Ok(())
    })
}

#[expect(clippy::print_stdout, reason = "what a command did is its output")]
fn restore(command: &RestoreCommand) -> anyhow::Result<()> {
    let done = control_plane::store::restore::restore(command, UnixTime::now())?;
    println!(
        "restored revision {} with {} records as generation {}",
        done.revision, done.records, done.generation
    );
    if let Some(replaced) = done.replaced {
        println!("the store from before is in {}", replaced.display());
    }
    if !done.carried {
        println!(
            "which sessions were ended since the export is not known here: `POST /clustering/session-keys/revoke` ends all \
             of them"
        );
    }
    Ok(())
}

/// Waits for SIGTERM, SIGINT or SIGQUIT. What has other servers read their settings or open their logs anew ends nothing.
async fn stopped() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut quit = signal(SignalKind::quit()).context("listening for SIGQUIT")?;
    let mut hang_up = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    let mut reopen = signal(SignalKind::user_defined1()).context("listening for SIGUSR1")?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = quit.recv() => break,
            interrupt = tokio::signal::ctrl_c() => break interrupt.context("listening for SIGINT")?,
            _ = hang_up.recv() => {
                tracing::warn!("SIGHUP changes nothing: settings are read at a start, certificates when they change");
            }
            _ = reopen.recv() => tracing::info!("SIGUSR1 changes nothing: there are no log files"),
        }
    }
    tracing::info!("stopping");
    Ok(())
}
