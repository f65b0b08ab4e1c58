//! The program `wardgate-data-plane`.

use std::process::ExitCode;

use anyhow::Context;
use data_plane::DataPlane;
use data_plane::listening::inherited::{InheritError, Inherited};
use data_plane::settings::Program;
use data_plane::succession::Successor;
use shared::settings::tell_unheeded;
use shared::signals;
use shared::telemetry::chain;
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
    let ended = run(&program, inherited);
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

fn run(program: &Program, inherited: Result<Inherited, InheritError>) -> anyhow::Result<()> {
    shared::telemetry::check(&program.settings.log)?;
    if program.check {
        warn(&data_plane::check(&program.settings)?);
        return Ok(());
    }
    // Until this process listens to them they would end it.
    signals::hold().context("holding signals back")?;
    shared::machine::leave_no_core_file();
    shared::telemetry::start(&program.settings.log, program.settings.log_format)?;
    tell_unheeded::<Program>();
    // The proxy has threads of its own; this one waits for signals.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let ended = runtime.block_on(async {
        // First of all: a signal that is to end nothing must not end a start either.
        let mut signals = Signals::new()?;
        signals::release().context("listening to signals")?;
        let data_plane = DataPlane::start_on(&program.settings, inherited?)?;
        match signals.serve(&data_plane).await {
            Some(mut successor) => {
                data_plane
                    .hand_over(&mut successor, signals.at_once())
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

#[expect(clippy::print_stderr, reason = "it is for whoever has asked")]
fn warn(doubts: &[String]) {
    for doubt in doubts {
        eprintln!("warning: {doubt}");
    }
}

/// What an operator may ask of a running node.
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

    /// Returns when the process is to end: on SIGTERM, SIGINT or SIGQUIT, or, with that, once a successor serves, which
    /// SIGUSR2 and SIGHUP ask for: to read settings anew is to start anew.
    async fn serve(&mut self, data_plane: &DataPlane) -> Option<Successor> {
        loop {
            tokio::select! {
                () = ended(&mut self.terminate, &mut self.interrupt) => break,
                _ = self.quit.recv() => break,
                _ = self.replace.recv() => {}
                _ = self.hang_up.recv() => {}
                _ = self.reopen.recv() => {
                    data_plane.reopen_logs();
                    continue;
                }
            }
            let succeeded = tokio::select! {
                () = ended(&mut self.terminate, &mut self.interrupt) => break,
                _ = self.quit.recv() => break,
                succeeded = data_plane.succeed() => succeeded,
            };
            match succeeded {
                Ok(successor) => {
                    tracing::info!("a successor serves");
                    return Some(successor);
                }
                Err(error) => {
                    tracing::error!(error = %chain(&error), "no successor: this process goes on");
                }
            }
        }
        None
    }

    /// Returns when a process that ends is not to wait any longer: on another SIGTERM or SIGINT.
    async fn at_once(&mut self) {
        ended(&mut self.terminate, &mut self.interrupt).await;
    }
}

async fn ended(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
