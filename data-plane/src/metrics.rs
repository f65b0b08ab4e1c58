//! What operators watch: counters of the whole node, as text for Prometheus.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;

/// The counters. Relaxed: none of them orders anything.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Answers by hundreds of the status.
    answers: [AtomicU64; 6],
    /// Open client connections.
    pub(crate) connections: AtomicU64,
}

impl Metrics {
    /// Counts an answer.
    pub(crate) fn count(&self, status: StatusCode) {
        if let Some(counter) = self.answers.get(usize::from(status.as_u16() / 100)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The text exposition format.
    pub(crate) fn render(&self) -> String {
        let mut text = String::from(
            "# HELP wardgate_http_requests_total Answered requests by class of status.\n# TYPE wardgate_http_requests_total counter\n",
        );
        for (class, counter) in self.answers.iter().enumerate().skip(1) {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "wardgate_http_requests_total{{class=\"{class}xx\"}} {}",
                counter.load(Ordering::Relaxed)
            );
        }
        let _ = writeln!(
            text,
            "# HELP wardgate_connections Open client connections.\n# TYPE wardgate_connections gauge\nwardgate_connections {}",
            self.connections.load(Ordering::Relaxed)
        );
        text
    }
}
