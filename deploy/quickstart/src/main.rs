//! The program `wardgate`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use program::end;
use shared::machine;
use shared::telemetry::{self, LogFormat};
use tokio::signal::unix::{Signal, SignalKind, signal};
use wardgate::run;
use wardgate::settings::{Program, Settings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = match Program::load(std::env::args_os()) {
        Ok(program) => program,
        Err(error) => error.exit(),
    };
    let served = serve(&program.settings);
    let is_taken = served.as_ref().is_err_and(root_cause_is_a_busy_port);
    let code = end(served);
    if is_taken {
        hint();
    }
    code
}

#[expect(clippy::print_stderr, reason = "it explains the last words")]
fn hint() {
    eprintln!(
        "something else listens there: stop it, or choose another address (port 0: any that is free)"
    );
}

fn root_cause_is_a_busy_port(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::AddrInUse)
}

fn serve(settings: &Settings) -> anyhow::Result<()> {
    telemetry::start(&settings.log, LogFormat::Text)?;
    machine::open_as_many_as_permitted();
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let running = tokio::select! {
            running = run::start(settings) => running?,
            () = signals.next() => return Ok(()),
        };
        // A terminal that is gone does not stop a server.
        let _ = std::io::stdout().write_all(running.greeting.as_bytes());
        signals.next().await;
        tokio::select! {
            () = running.stop() => {}
            // Asked twice: at once.
            () = signals.next() => {}
        }
        Ok(())
    })
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listening for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listening for SIGINT")?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
