//! The program `wardgate-control-plane`.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{self, ExitCode, Stdio};

use anyhow::Context;
use control_plane::certificates::CertificatesCommand;
use control_plane::settings::{Command, Program, Settings};
use control_plane::store::restore::RestoreCommand;
use control_plane::{ControlPlane, Inherited};
use program::signals::{self, Asked, Signals};
use program::{begin, end, warn};
use shared::clock::UnixTime;
use shared::passing::pass;
use shared::telemetry;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = match Program::load(std::env::args_os()) {
        Ok(program) => program,
        Err(error) => error.exit(),
    };
    // Before there are threads: it takes what it reads out of the environment.
    let inherited = Inherited::from_environment();
    let ended = run(program, inherited);
    let ended = ended.and_then(|left| left.map_or(Ok(()), |sockets| Err(replace(sockets))));
    end(ended)
}

/// What a process that is replaced leaves to the next.
type Left = Vec<(String, OwnedFd)>;

fn run(program: Program, inherited: io::Result<Inherited>) -> anyhow::Result<Option<Left>> {
    match &program.command {
        Some(Command::Certificates(command)) => {
            return certificates(command).map(|()| None);
        }
        Some(Command::Restore(command)) => return restore(command).map(|()| None),
        None => {}
    }
    telemetry::check(&program.settings.log)?;
    if program.check {
        warn(&control_plane::check(&program.settings)?);
        return Ok(None);
    }
    begin::<Program>(&program.settings.log, program.settings.log_format)?;
    let inherited = inherited.context("using the sockets of LISTEN_FDS")?;
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let ended = runtime.block_on(serve(program.settings, inherited));
    // Nobody waits for work that is cut off.
    runtime.shutdown_background();
    ended
}

/// Runs until a signal ends it.
async fn serve(settings: Settings, inherited: Inherited) -> anyhow::Result<Option<Left>> {
    let mut signals = Signals::listen().context("listening to signals")?;
    let control_plane = tokio::select! {
        started = ControlPlane::start_on(settings, inherited) => started?,
        () = signals.ended() => return Ok(None),
    };
    // systemd, if it wants to know.
    if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "systemd cannot be told");
    }
    let replaced = stopped(&control_plane, &mut signals).await;
    tracing::info!("stopping");
    let stopping = async {
        if replaced {
            return Some(control_plane.leave().await);
        }
        control_plane.stop().await;
        None
    };
    tokio::select! {
        left = stopping => Ok(left),
        () = signals.ended() => {
            tracing::warn!("told to stop at once: requests are cut off");
            Ok(None)
        }
    }
}

/// Returns when the process is to end; with `true`, when it is to be replaced. A program that would not start replaces nothing.
async fn stopped(control_plane: &ControlPlane, signals: &mut Signals) -> bool {
    loop {
        match signals.next().await {
            Asked::End => return false,
            Asked::Reopen => {
                tracing::info!("SIGUSR1 changes nothing: there are no log files");
                continue;
            }
            Asked::Replace => {}
        }
        let checked = tokio::select! {
            () = signals.ended() => return false,
            checked = could_be_replaced(control_plane) => checked,
        };
        match checked {
            Ok(()) => return true,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(%error, "not replaced: this process goes on");
            }
        }
    }
}

/// Has the program that is there now run in the place of this one, as this one was started. Returns only if it cannot.
fn replace(sockets: Left) -> anyhow::Error {
    telemetry::finish();
    let mut command = as_started();
    // What comes from here on waits for what takes this one's place: nobody else listens any more.
    let passed = signals::hold().and_then(|()| pass(&mut command, sockets));
    let error = match passed {
        Ok(_passed) => command.exec(),
        Err(error) => error,
    };
    anyhow::Error::new(error).context("starting anew")
}

/// This program as it was started; by its name, since another may have taken the place of what runs.
fn as_started() -> process::Command {
    let mut arguments = std::env::args_os();
    let mut command = process::Command::new(arguments.next().unwrap_or_default());
    command.args(arguments);
    command
}

/// Whether the program that is there now, with the settings that are there now, could take this one's place.
async fn could_be_replaced(control_plane: &ControlPlane) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(would_start).await??;
    // Settings that only another version can read are that one's to judge.
    match Program::load(std::env::args_os()) {
        Ok(program) => Ok(control_plane
            .could_be_followed_by(&program.settings)
            .await?),
        Err(_) => Ok(()),
    }
}

/// Whether the program that is there now would start, as far as it can tell by itself.
fn would_start() -> anyhow::Result<()> {
    let mut command = as_started();
    let output = command.arg("--check").stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::bail!("{}", said.trim().trim_start_matches("error: "))
}

#[expect(clippy::print_stdout, reason = "what a command did is its output")]
fn certificates(command: &CertificatesCommand) -> anyhow::Result<()> {
    let written = control_plane::certificates::write(command, UnixTime::now());
    for path in written.context("certificates")? {
        println!("{}", path.display());
    }
    Ok(())
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
