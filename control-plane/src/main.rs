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
use shared::clock::UnixTime;
use shared::passing::pass;
use shared::settings::tell_unheeded;
use shared::signals;
use tokio::signal::unix::{Signal, SignalKind, signal};

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
    shared::telemetry::finish();
    let ended = ended.and_then(|left| left.map_or(Ok(()), |sockets| Err(replace(sockets))));
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
    shared::telemetry::check(&program.settings.log)?;
    if program.check {
        warn(&control_plane::check(&program.settings)?);
        return Ok(None);
    }
    // Until this process listens to them they would end it.
    signals::hold().context("holding signals back")?;
    shared::machine::leave_no_core_file();
    shared::telemetry::start(&program.settings.log, program.settings.log_format)?;
    tell_unheeded::<Program>();
    let inherited = inherited.context("using the sockets of LISTEN_FDS")?;
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let ended = runtime.block_on(serve(program.settings, inherited));
    // Nobody waits for work that is cut off.
    runtime.shutdown_background();
    ended
}

/// Runs until a signal ends it.
async fn serve(settings: Settings, inherited: Inherited) -> anyhow::Result<Option<Left>> {
    let mut signals = Signals::new()?;
    signals::release().context("listening to signals")?;
    let control_plane = tokio::select! {
        started = ControlPlane::start_on(settings, inherited) => started?,
        () = signals.ended() => return Ok(None),
    };
    let replaced = signals.stopped(&control_plane).await;
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

/// Has the program that is there now run in the place of this one, as this one was started. Returns only if it cannot.
fn replace(sockets: Left) -> anyhow::Error {
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

#[expect(clippy::print_stderr, reason = "it is for whoever has asked")]
fn warn(doubts: &[String]) {
    for doubt in doubts {
        eprintln!("warning: {doubt}");
    }
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

/// What an operator may ask of a running control plane.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    replace: Signal,
    hang_up: Signal,
    reopen: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind, name| signal(kind).context(name);
        Ok(Self {
            terminate: listen(SignalKind::terminate(), "listening for SIGTERM")?,
            interrupt: listen(SignalKind::interrupt(), "listening for SIGINT")?,
            quit: listen(SignalKind::quit(), "listening for SIGQUIT")?,
            replace: listen(SignalKind::user_defined2(), "listening for SIGUSR2")?,
            hang_up: listen(SignalKind::hangup(), "listening for SIGHUP")?,
            reopen: listen(SignalKind::user_defined1(), "listening for SIGUSR1")?,
        })
    }

    /// Waits for SIGTERM, SIGINT or SIGQUIT.
    async fn ended(&mut self) {
        ended(&mut self.terminate, &mut self.interrupt, &mut self.quit).await;
    }

    /// Returns when the process is to end; with `true`, when it is to be replaced, which SIGUSR2 and SIGHUP ask for: to read
    /// settings anew is to start anew. A program that would not start replaces nothing.
    async fn stopped(&mut self, control_plane: &ControlPlane) -> bool {
        loop {
            tokio::select! {
                () = ended(&mut self.terminate, &mut self.interrupt, &mut self.quit) => return false,
                _ = self.replace.recv() => {}
                _ = self.hang_up.recv() => {}
                _ = self.reopen.recv() => {
                    tracing::info!("SIGUSR1 changes nothing: there are no log files");
                    continue;
                }
            }
            let checked = tokio::select! {
                () = self.ended() => return false,
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
}

async fn ended(terminate: &mut Signal, interrupt: &mut Signal, quit: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = quit.recv() => {}
    }
}
