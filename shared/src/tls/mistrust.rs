//! Why a server's certificate is not trusted, for whoever has to fix that.

use std::error::Error;
use std::io;

use rustls::CertificateError;

/// Why a server's certificate is not believed (RFC 5280 §6, RFC 9525).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Mistrust {
    /// No authority that is trusted has issued it.
    #[error("its issuer is not a trusted authority")]
    Issuer,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// Its time has not come.
    #[error("it is not valid yet")]
    NotYet,
    /// It names other hosts.
    #[error("it is for another host name")]
    Name,
    /// Anything else: an authority's own, one for clients, a weak or a broken one.
    #[error("it is not valid as the certificate of a server")]
    Other,
}

impl Mistrust {
    /// What is wrong with the certificate, if `error` comes of that.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
                return Some(Self::from(why));
            }
            // Its source is what its content comes of, not the content.
            let content = error.downcast_ref().and_then(io::Error::get_ref);
            next = match content {
                Some(content) => Some(content),
                None => error.source(),
            };
        }
        None
    }
}

impl From<&CertificateError> for Mistrust {
    fn from(why: &CertificateError) -> Self {
        match why {
            CertificateError::UnknownIssuer => Self::Issuer,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::NotYet
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::Name
            }
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_certificate_is_found_in_what_tls_says() {
        for (why, expected) in [
            (CertificateError::UnknownIssuer, Mistrust::Issuer),
            (CertificateError::Expired, Mistrust::Expired),
            (CertificateError::NotValidYet, Mistrust::NotYet),
            (CertificateError::NotValidForName, Mistrust::Name),
            (CertificateError::BadEncoding, Mistrust::Other),
        ] {
            let error = rustls::Error::InvalidCertificate(why);
            assert_eq!(Mistrust::of(&error), Some(expected));
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            assert_eq!(Mistrust::of(&error), Some(expected));
            let error = io::Error::other(error);
            assert_eq!(Mistrust::of(&error), Some(expected));
        }
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(Mistrust::of(&refused), None);
        let broken = io::Error::other(rustls::Error::DecryptError);
        assert_eq!(Mistrust::of(&broken), None);
    }
}
