//! One line per request or stream, written by a thread of its own: a slow disk delays no request.

mod format;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use serde::Serialize;

pub(crate) use self::format::Format;

/// What is told in place of a secret.
pub(crate) const REDACTED: &str = "[redacted]";

/// Lines that may wait for the writer; more are dropped rather than waited for.
const WAITING: usize = 8192;

/// Where lines go, and how they are written.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog(Option<(SyncSender<Vec<u8>>, Format)>);

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
}

impl AccessLog {
    /// Opens `target`: `off`, `stdout` or a file to append to. Lines are written in `format`.
    pub(crate) fn open(target: &str, format: Format) -> io::Result<Self> {
        let mut output: Box<dyn Write + Send> = match target {
            "off" | "" => return Ok(Self(None)),
            "stdout" => Box::new(io::stdout()),
            path => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        };
        let (sender, receiver) = sync_channel::<Vec<u8>>(WAITING);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                while let Ok(mut lines) = receiver.recv() {
                    lines.extend(receiver.try_iter().flatten());
                    if let Err(error) = output.write_all(&lines).and_then(|()| output.flush()) {
                        tracing::warn!(%error, "the access log cannot be written");
                    }
                }
            })?;
        Ok(Self(Some((sender, format))))
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
        if let Err(TrySendError::Full(_)) = sender.try_send(line) {
            tracing::debug!("the access log is behind: a line is dropped");
        }
    }
}
