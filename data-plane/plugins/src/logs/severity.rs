//! The severity of an exchange, from the status of its response, for logs that have one (RFC 5424 §6.2.1).

use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A severity.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Of interest to developers.
    Debug,
    /// All is well.
    Info,
    /// Worth a look.
    Notice,
    /// Something may become wrong.
    Warning,
    /// Something is wrong.
    Err,
    /// Something important is wrong.
    Crit,
    /// To be acted on at once.
    Alert,
    /// Nothing works.
    Emerg,
}

const fn info() -> Severity {
    Severity::Info
}

impl Severity {
    /// Its number: the lower, the more severe.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Emerg => 0,
            Self::Alert => 1,
            Self::Crit => 2,
            Self::Err => 3,
            Self::Warning => 4,
            Self::Notice => 5,
            Self::Info => 6,
            Self::Debug => 7,
        }
    }
}

/// Severities by status, and the least severe that is logged: part of a plugin's configuration.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Severities {
    /// The least severe messages that are logged.
    #[serde(default = "info")]
    pub log_level: Severity,

    /// Severity of exchanges that went well.
    #[serde(default = "info")]
    pub successful_severity: Severity,

    /// Severity of answers of 4xx.
    #[serde(default = "info")]
    pub client_errors_severity: Severity,

    /// Severity of answers of 5xx.
    #[serde(default = "info")]
    pub server_errors_severity: Severity,
}

impl Severities {
    /// That of an exchange that ended in `status`; `None` if it is not logged.
    pub(crate) fn of(self, status: StatusCode) -> Option<Severity> {
        let severity = match status.as_u16() {
            500.. => self.server_errors_severity,
            400.. => self.client_errors_severity,
            _ => self.successful_severity,
        };
        (severity.number() <= self.log_level.number()).then_some(severity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_less_severe_than_asked_for_is_not_logged() {
        let severities = Severities {
            log_level: Severity::Warning,
            successful_severity: Severity::Info,
            client_errors_severity: Severity::Warning,
            server_errors_severity: Severity::Crit,
        };
        let check = |status: u16, expected: Option<Severity>| {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(severities.of(status), expected, "{status}");
        };
        check(200, None);
        check(302, None);
        check(404, Some(Severity::Warning));
        check(503, Some(Severity::Crit));
    }
}
