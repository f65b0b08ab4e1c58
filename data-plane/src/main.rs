//! The program `wardgate-data-plane`.

use std::io;
use std::process::ExitCode;

use anyhow::Context;
use data_plane::DataPlane;
use data_plane::listening::inherited::{InheritError, Inherited};
use data_plane::settings::Program;
use data_plane::succession::{Successor, launcher};
use shared::program::{begin, end, warn};
use shared::{signals, telemetry};
use tokio::signal::unix::{Signal, SignalKind, signal};

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
        match signals.serve(&data_plane).await {
            Some(mut successor) => {
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
    /// Listens to all of them; what has waited comes first.
    fn listen() -> io::Result<Self> {
        let all = Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            replace: signal(SignalKind::user_defined2())?,
            hang_up: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
        };
        signals::release()?;
        Ok(all)
    }

    /// Waits for SIGTERM, SIGINT or SIGQUIT.
    async fn ended(&mut self) {
        ended(&mut self.terminate, &mut self.interrupt, &mut self.quit).await;
    }

    /// Returns when the process is to end; with the successor that serves then, where SIGUSR2 or SIGHUP has asked for one: to
    /// read settings anew is to start anew.
    async fn serve(&mut self, data_plane: &DataPlane) -> Option<Successor> {
        loop {
            tokio::select! {
                () = ended(&mut self.terminate, &mut self.interrupt, &mut self.quit) => return None,
                _ = self.replace.recv() => {}
                _ = self.hang_up.recv() => {}
                _ = self.reopen.recv() => {
                    data_plane.reopen_logs();
                    continue;
                }
            }
            let succeeded = tokio::select! {
                () = self.ended() => return None,
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

    /// Returns when a process that ends is not to wait any longer: on another SIGTERM or SIGINT.
    async fn at_once(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// The same of one that has a successor: on SIGINT. systemd sends SIGTERM to this process too when it stops the successor, and
    /// again when that has ended: exchanges are to end all the same.
    async fn interrupted(&mut self) {
        self.interrupt.recv().await;
    }
}

async fn ended(terminate: &mut Signal, interrupt: &mut Signal, quit: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = quit.recv() => {}
    }
}
