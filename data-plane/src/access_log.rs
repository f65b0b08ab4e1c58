//! One line per request or stream, written by a thread of its own: a slow disk delays no request.

mod format;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use serde::Serialize;
use shared::clock::monotonic;
use shared::machine::check_file;
use shared::telemetry::Trouble;

pub(crate) use self::format::Format;

/// What is told in place of a secret.
pub(crate) const REDACTED: &str = "[redacted]";

/// Lines that may wait for the writer; more are dropped rather than waited for.
const WAITING: usize = 8192;

/// What the writer is to do.
#[derive(Debug)]
enum Work {
    Write(Vec<u8>),
    /// Open the file again: it may have been moved away.
    Reopen,
}

/// What has broken an answer off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum EndedBy {
    /// The server that gave it.
    Upstream,
    /// The end of the session or token that its request was let through by.
    Session,
    /// The end of the time that a node which stops gives to what is under way.
    DrainTimeout,
}

impl EndedBy {
    /// What the access log calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Session => "session",
            Self::DrainTimeout => "drain_timeout",
        }
    }
}

/// Where lines go, and how they are written.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog(Option<(SyncSender<Work>, Format)>);

/// One line.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    pub(crate) started_at: u64,
    pub(crate) request_id: &'a str,
    pub(crate) client_ip: std::net::IpAddr,
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: Option<String>,
    pub(crate) status: u16,
    pub(crate) latency_ms: u64,
    pub(crate) upstream_latency_ms: Option<u64>,
    /// Bytes of the bodies.
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) route: Option<uuid::Uuid>,
    pub(crate) service: Option<uuid::Uuid>,
    pub(crate) consumer: Option<uuid::Uuid>,
    /// What has broken the answer off: `upstream`, `session`, which it was let through by, or `drain_timeout`.
    pub(crate) ended_by: Option<&'static str>,
}

impl AccessLog {
    /// Opens `target`: `off`, `stdout` or a file to append to. Lines are written in `format`.
    pub(crate) fn open(target: &str, format: Format) -> io::Result<Self> {
        if matches!(target, "off" | "") {
            return Ok(Self(None));
        }
        let (mut output, target) = (output(target)?, target.to_owned());
        let (sender, receiver) = sync_channel(WAITING);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                let mut trouble = Trouble::default();
                while let Ok(first) = receiver.recv() {
                    let (mut lines, mut reopens) = (Vec::new(), false);
                    for work in std::iter::once(first).chain(receiver.try_iter()) {
                        match work {
                            Work::Write(line) => lines.extend(line),
                            Work::Reopen => reopens = true,
                        }
                    }
                    match output.write_all(&lines).and_then(|()| output.flush()) {
                        Ok(()) => trouble.ends(),
                        Err(error) if trouble.is_news(&error.to_string(), monotonic()) => {
                            tracing::warn!(%error, "the access log cannot be written");
                        }
                        // It has been said, and may go to the same disk.
                        Err(_) => {}
                    }
                    if reopens {
                        match self::output(&target) {
                            Ok(opened) => output = opened,
                            Err(error) => {
                                tracing::error!(%error, "the access log cannot be reopened");
                            }
                        }
                    }
                }
            })?;
        Ok(Self(Some((sender, format))))
    }

    /// Has the file opened again, so that one that was moved away is left.
    pub(crate) fn reopen(&self) {
        if let Some((sender, _)) = &self.0 {
            // Who asks waits for signals, and thus not for a reader of the log.
            if sender.try_send(Work::Reopen).is_err() {
                tracing::error!(
                    "too many lines are waiting: the access log is not opened anew, ask again"
                );
            }
        }
    }

    /// Whether a line would go anywhere.
    pub(crate) const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Writes a line, or drops it if the writer is too far behind.
    pub(crate) fn write(&self, line: &impl Serialize) {
        let Some((sender, format)) = &self.0 else {
            return;
        };
        let Some(line) = format.line(line) else {
            return;
        };
        if let Err(TrySendError::Full(_)) = sender.try_send(Work::Write(line)) {
            tracing::debug!("the access log cannot keep up: a line is dropped");
        }
    }
}

/// Whether lines could be written to `target`.
pub(crate) fn check(target: &str) -> io::Result<()> {
    match target {
        "off" | "" | "stdout" => Ok(()),
        path => check_file(Path::new(path)),
    }
}

fn output(target: &str) -> io::Result<Box<dyn Write + Send>> {
    Ok(match target {
        "stdout" => Box::new(io::stdout()),
        path => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_moved_away_is_left_once_it_is_said_so() {
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (directory.path().join("log"), directory.path().join("log.1"));
        let log = AccessLog::open(path.to_str().unwrap(), Format::Json).unwrap();
        let read = |path: &Path, lines: usize| {
            let text = || std::fs::read_to_string(path).unwrap_or_default();
            while text().lines().count() < lines {
                std::thread::yield_now();
            }
            text()
        };
        log.write(&"first");
        read(&path, 1);
        std::fs::rename(&path, &moved).unwrap();
        log.write(&"second");
        assert!(read(&moved, 2).contains("second"));
        log.reopen();
        // The writer opens it when it has written what came before.
        while !path.exists() {
            std::thread::yield_now();
        }
        log.write(&"third");
        assert!(read(&path, 1).contains("third"));
        assert_eq!(read(&moved, 2).lines().count(), 2);
    }
}
