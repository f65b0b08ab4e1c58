//! What a client's TLS handshake has established for all requests on its connection.

use plugins::exchange::TlsSession;
use rustls::{CipherSuite, ProtocolVersion, ServerConnection};
use shared::digest::sha256;

/// What is known of a client from its handshake.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// The name that it has asked for, in lower case.
    pub(crate) server_name: Option<String>,
    /// Whether it was asked for a certificate.
    pub(crate) asked: bool,
    /// SHA-256 of its certificate.
    pub(crate) certificate: Option<[u8; 32]>,
    pub(crate) session: Option<TlsSession>,
}

impl Handshake {
    /// That of `connection`, which has ended; and whether the client was `asked` for a certificate.
    pub(crate) fn of(connection: &ServerConnection, asked: bool) -> Self {
        let certificates = connection.peer_certificates();
        Self {
            server_name: connection.server_name().map(str::to_ascii_lowercase),
            asked,
            certificate: certificates
                .and_then(<[_]>::first)
                .map(|first| sha256(first)),
            session: session(connection),
        }
    }
}

pub(crate) fn session(connection: &ServerConnection) -> Option<TlsSession> {
    let version = match connection.protocol_version()? {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        _ => return None,
    };
    let cipher = cipher(connection.negotiated_cipher_suite()?.suite())?;
    Some(TlsSession { version, cipher })
}

/// What OpenSSL calls a cipher suite.
pub(crate) const fn cipher(suite: CipherSuite) -> Option<&'static str> {
    Some(match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => {
            "ECDHE-ECDSA-CHACHA20-POLY1305"
        }
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;

    use super::cipher;

    #[test]
    fn every_suite_that_is_spoken_has_a_name() {
        for suite in ALL_CIPHER_SUITES {
            assert!(cipher(suite.suite()).is_some(), "{suite:?}");
        }
    }
}
