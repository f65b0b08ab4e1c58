//! What a connection that broke says of the settings.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, InvalidMessage};
use shared::telemetry::chain;
use url::Url;

/// Why the connection to `url` that `error` broke is of no use, if that is for an operator to mend: TLS was not agreed
/// upon, so the member has taken nothing. `shows` tells whether it is shown a certificate.
pub(super) fn of_settings(url: &Url, shows: bool, error: &(dyn Error + 'static)) -> Option<String> {
    let fault = tls(error)?;
    let mend = match fault {
        rustls::Error::AlertReceived(alert) if is_of_certificates(*alert) => {
            if shows {
                "it does not take etcd_certificate: the authority that it believes (its `--trusted-ca-file`) must have \
                 signed that, for clients, and it must not have ended"
            } else {
                "it wants to be shown a certificate: set etcd_certificate and etcd_key"
            }
        }
        rustls::Error::InvalidCertificate(_) => {
            "its certificate is not believed: etcd_ca must be its authority, and it must be for this name"
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS: write `http://` in etcd_endpoints"
        }
        _ => return None,
    };
    Some(format!("{url}: {mend} ({fault})"))
}

/// What is known of a connection to `url` that `error` broke before there was an answer, and what may be behind it. One that
/// has been `heard` over plain HTTP does not speak TLS: it has been stopped.
pub(super) fn without_an_answer(url: &Url, heard: bool, error: &dyn Error) -> String {
    let plain = url.scheme() == "http";
    if plain && heard {
        return format!("{url}: {}", chain(error));
    }
    let perhaps = if plain {
        "if it speaks TLS, write `https://` in etcd_endpoints"
    } else {
        "if its log tells of a bad certificate, look at etcd_certificate"
    };
    format!("{url}: {}; {perhaps}", chain(error))
}

/// The fault of TLS that an error wraps.
fn tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // It passes over what it wraps.
        let wrapped = error.downcast_ref().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// Whether a server says so of a client's certificate (RFC 8446 §6.2).
const fn is_of_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            // Of the signature on it, or by it.
            | AlertDescription::DecryptError
    )
}
