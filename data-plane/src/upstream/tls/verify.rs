//! Limits the length of a server's certificate chain.

use std::sync::Arc;

use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use shared::handshake_signatures;
use shared::tls::{is_root, provider};

/// Verifies as `inner` does, and refuses chains with more certificates between the server's and the root
/// than allowed (OpenSSL, `verify_depth`).
#[derive(Debug)]
pub(super) struct Bounded {
    inner: Arc<dyn ServerCertVerifier>,
    roots: Arc<RootCertStore>,
    depth: usize,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Bounded {
    pub(super) fn new(
        inner: Arc<dyn ServerCertVerifier>,
        roots: Arc<RootCertStore>,
        depth: u8,
    ) -> Self {
        Self {
            inner,
            roots,
            depth: depth.into(),
            algorithms: provider().signature_verification_algorithms,
        }
    }
}

impl ServerCertVerifier for Bounded {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.inner
                .verify_server_cert(certificate, intermediates, name, ocsp, now)?;
        if is_root(certificate, &self.roots) {
            return Ok(verified);
        }
        let too_long = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let certificate = webpki::EndEntityCert::try_from(certificate).map_err(|_| too_long())?;
        let short_enough = |path: &webpki::VerifiedPath<'_>| {
            if path.intermediate_certificates().count() > self.depth {
                Err(webpki::Error::MaximumPathDepthExceeded)
            } else {
                Ok(())
            }
        };
        certificate
            .verify_for_usage(
                self.algorithms.all,
                &self.roots.roots,
                intermediates,
                now,
                webpki::KeyUsage::server_auth(),
                None,
                Some(&short_enough),
            )
            .map_err(|_| too_long())?;
        Ok(verified)
    }

    handshake_signatures!();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, date_time_ymd};

    use shared::tls::server_verifier;

    use super::*;

    /// A certificate for `name`, made by its own key in 2020 for ten years.
    fn own(name: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "own");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2030, 1, 1);
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        made.der().clone()
    }

    #[test]
    fn a_certificate_that_is_trusted_itself_needs_its_name_and_its_time() {
        const IN_2025: u64 = 1_750_000_000;
        let [trusted, other] = ["a.test", "a.test"].map(own);
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let roots = Arc::new(roots);
        let verifiers: [Arc<dyn ServerCertVerifier>; 2] = [
            server_verifier(Arc::clone(&roots)),
            Arc::new(Bounded::new(server_verifier(Arc::clone(&roots)), roots, 0)),
        ];
        for verifier in &verifiers {
            for (certificate, name, now, expected) in [
                (&trusted, "a.test", IN_2025, true),
                (&trusted, "b.test", IN_2025, false),
                (&trusted, "a.test", 1_500_000_000, false),
                (&trusted, "a.test", 1_900_000_000, false),
                (&other, "a.test", IN_2025, false),
            ] {
                let server = ServerName::try_from(name).unwrap();
                let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
                let verified = verifier.verify_server_cert(certificate, &[], &server, &[], now);
                assert_eq!(verified.is_ok(), expected, "{name} {now:?} {verified:?}");
            }
        }
    }
}
