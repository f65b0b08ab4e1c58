//! A control plane as a process of its own, spoken to over its Admin API.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use shared::clock::monotonic;

/// The longest that anything here waits for what is to happen soon, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Asks until there is an answer.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let begun = monotonic();
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running control plane, killed when dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) admin: String,
}

impl Process {
    pub(crate) fn start(root: &Path) -> Self {
        let program = Command::new(env!("CARGO_BIN_EXE_wardgate-control-plane"));
        Self::run(root, program)
    }

    /// Starts a process whose files cannot grow beyond `kilobytes`.
    pub(crate) fn start_with_file_limit(root: &Path, kilobytes: u32) -> Self {
        let mut shell = Command::new("bash");
        // Ignored, the signal leaves the failing write an error, as a full disk does.
        let script = format!("trap '' XFSZ; ulimit -f {kilobytes}; exec \"$0\"");
        shell
            .args(["-c", &script])
            .arg(env!("CARGO_BIN_EXE_wardgate-control-plane"));
        Self::run(root, shell)
    }

    fn run(root: &Path, mut program: Command) -> Self {
        let addresses = root.join("addresses.json");
        // A leftover would name the port of the process before.
        let _ = std::fs::remove_file(&addresses);
        let certificates = certificates(root);
        let mut child = program
            .env(
                "WARDGATE_CLUSTER_CERTIFICATE",
                certificates.join("control-plane.pem"),
            )
            .env(
                "WARDGATE_CLUSTER_KEY",
                certificates.join("control-plane.key"),
            )
            .env("WARDGATE_CLUSTER_CA", certificates.join("ca.pem"))
            .env("WARDGATE_ADMIN_LISTEN", "127.0.0.1:0")
            .env("WARDGATE_CLUSTER_LISTEN", "127.0.0.1:0")
            .env("WARDGATE_DATA_DIRECTORY", root.join("data"))
            .env("WARDGATE_ADDRESSES_FILE", &addresses)
            .env("WARDGATE_EXPORT_INTERVAL", "1")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let chosen = eventually("the control plane starts", || {
            assert!(
                child.try_wait().unwrap().is_none(),
                "the control plane ended"
            );
            std::fs::read_to_string(&addresses).ok()
        });
        let chosen: serde_json::Value = serde_json::from_str(&chosen).unwrap();
        Self {
            child,
            admin: chosen["admin"].as_str().unwrap().to_owned(),
        }
    }

    /// Status and body, or `None` if the process is gone.
    pub(crate) fn send(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.admin).ok()?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).ok()?;
        let status = reply.split(' ').nth(1)?.parse().ok()?;
        Some((status, reply.split_once("\r\n\r\n")?.1.to_owned()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL on Unix.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The cluster's certificates, made at the first call.
pub(crate) fn certificates(root: &Path) -> PathBuf {
    let directory = root.join("certificates");
    if !directory.exists() {
        let made = Command::new(env!("CARGO_BIN_EXE_wardgate-control-plane"))
            .args(["certificates", "--out"])
            .arg(&directory)
            .status()
            .unwrap();
        assert!(made.success());
    }
    directory
}
