//! LDAP servers that filters prove users by: binding as one (RFC 4511 §4.2).

use std::time::Duration;

/// An LDAP server and how to reach it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct LdapServer {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What protects the way to it.
    pub security: LdapSecurity,
    /// Whether its certificate must be valid for its name.
    pub verify: bool,
    /// Longest wait for its answer, connection included.
    pub timeout: Duration,
}

/// What protects the way to a server.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum LdapSecurity {
    /// Nothing.
    None,
    /// TLS from the start.
    Tls,
    /// TLS once both have agreed on it (RFC 4511 §4.14).
    StartTls,
}

/// Why it is not known whether a password is right.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LdapError {
    /// Name resolution, connection or TLS failed.
    #[error("connecting to LDAP at {address}: {reason}")]
    Connect {
        /// Where.
        address: String,
        /// What went wrong, without secrets.
        reason: String,
    },
    /// The connection broke, or the server does not speak the protocol.
    #[error("asking LDAP at {address}: {reason}")]
    Broken {
        /// Where.
        address: String,
        /// What went wrong, without secrets.
        reason: String,
    },
    /// There was no answer in time.
    #[error("LDAP at {address} did not answer within {timeout:?}")]
    Timeout {
        /// Where.
        address: String,
        /// The limit.
        timeout: Duration,
    },
}
