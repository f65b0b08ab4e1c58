//! TLS towards servers: verified against the machine's and Mozilla's roots, or not at all.

use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use shared::secret::Secret;
use tokio_rustls::TlsConnector;

/// The roots of the machine and of Mozilla.
static ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let native = rustls_native_certs::load_native_certs();
    let (_, unreadable) = roots.add_parsable_certificates(native.certs);
    if unreadable > 0 || !native.errors.is_empty() {
        tracing::warn!(
            unreadable,
            errors = native.errors.len(),
            "some of the machine's root certificates cannot be used"
        );
    }
    Arc::new(roots)
});

static VERIFYING: LazyLock<TlsConnector> = LazyLock::new(|| {
    let roots = Arc::clone(&ROOTS);
    connector(|builder| builder.with_root_certificates(roots).with_no_client_auth())
});

static TRUSTING: LazyLock<TlsConnector> = LazyLock::new(|| {
    let verifier = Arc::new(Unverified(Arc::new(aws_lc_rs::default_provider())));
    connector(|builder| {
        builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth()
    })
});

/// What makes TLS connections, with or without verification of the server's certificate.
pub(crate) fn tls_connector(verify: bool) -> &'static TlsConnector {
    if verify { &VERIFYING } else { &TRUSTING }
}

/// Why a certificate cannot be presented.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsSetupError {
    /// It is no PEM.
    #[error("the client's certificate or key is not PEM")]
    Pem,
    /// Certificate and key do not fit together.
    #[error("the client's certificate and key cannot be used")]
    Use(#[from] Error),
}

/// What makes TLS connections in which the client presents a certificate, if it has one: its chain and
/// its key, in PEM.
pub(crate) fn presenting(
    verify: bool,
    certificate: Option<(&str, &Secret<String>)>,
) -> Result<TlsConnector, TlsSetupError> {
    let Some((chain, key)) = certificate else {
        return Ok(tls_connector(verify).clone());
    };
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| TlsSetupError::Pem)?;
    let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes());
    let key = key.map_err(|_| TlsSetupError::Pem)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = if verify {
        builder.with_root_certificates(Arc::clone(&ROOTS))
    } else {
        let verifier = Arc::new(Unverified(provider));
        builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
    };
    let mut config = builder.with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn connector(
    finish: impl FnOnce(rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>) -> ClientConfig,
) -> TlsConnector {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3");
    let mut config = finish(builder);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// Accepts every certificate: Kong's default towards upstream servers (`tls_verify` unset). The
/// handshake's signatures are still checked.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
