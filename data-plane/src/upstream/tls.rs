//! TLS towards servers: whom to trust, and how the gateway identifies itself.

pub(crate) mod defaults;
mod verify;

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::ServerCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use shared::secret::Secret;
use shared::tls::{Unverified, certified, provider, public_authorities, server_verifier};
use shared::types::pem::certificates;
use tokio_rustls::TlsConnector;

use self::verify::Bounded;

/// A certificate with its key, to present to a peer.
pub(crate) struct TlsIdentity {
    pub(crate) key: Arc<CertifiedKey>,
    digest: [u8; 32],
}

impl TlsIdentity {
    /// The identity of a certificate chain and the key of its first one.
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, String> {
        let mut hasher = blake3::Hasher::new();
        for certificate in &chain {
            hasher.update(certificate);
        }
        hasher.update(key.secret_der());
        let key = certified(chain, key)
            .map_err(|_| "the certificate and its key cannot be used together".to_owned())?;
        Ok(Self {
            key: Arc::new(key),
            digest: *hasher.finalize().as_bytes(),
        })
    }
}

impl PartialEq for TlsIdentity {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity").finish_non_exhaustive()
    }
}

/// What tells one way to speak TLS from another.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Terms {
    verify: bool,
    depth: Option<u8>,
    authorities: Option<[u8; 32]>,
    identity: Option<[u8; 32]>,
}

/// A way to speak TLS to servers. Connections are shared only among equal ones.
pub(crate) struct TlsProfile {
    terms: Terms,
    http1: TlsConnector,
    http2: TlsConnector,
}

/// Only compilation and provider calls come here, never a proxied request.
static PROFILES: LazyLock<Mutex<HashMap<Terms, Weak<TlsProfile>>>> = LazyLock::new(Mutex::default);

/// The two that need nothing from a configuration, which stay.
static PLAIN: LazyLock<[Arc<TlsProfile>; 2]> =
    LazyLock::new(|| [false, true].map(|verify| TlsProfile::of(verify, None, None, None)));

impl TlsProfile {
    /// The profile that verifies servers by `authorities` (without a list, by the machine's and Mozilla's),
    /// over no more than `depth` certificates between, and presents `identity`.
    pub(crate) fn of(
        verify: bool,
        depth: Option<u8>,
        authorities: Option<&[CertificateDer<'static>]>,
        identity: Option<&Arc<TlsIdentity>>,
    ) -> Arc<Self> {
        let (depth, authorities) = (depth.filter(|_| verify), authorities.filter(|_| verify));
        let terms = Terms {
            verify,
            depth,
            authorities: authorities.map(|list| {
                let mut hasher = blake3::Hasher::new();
                for authority in list {
                    hasher.update(authority);
                }
                *hasher.finalize().as_bytes()
            }),
            identity: identity.map(|identity| identity.digest),
        };
        let mut profiles = PROFILES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(profile) = profiles.get(&terms).and_then(Weak::upgrade) {
            return profile;
        }
        profiles.retain(|_, profile| profile.strong_count() > 0);
        let verifier: Arc<dyn ServerCertVerifier> = if verify {
            let roots = authorities.map_or_else(public_authorities, |list| {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(list.iter().cloned());
                Arc::new(roots)
            });
            let inner = server_verifier(Arc::clone(&roots));
            match depth {
                Some(depth) => Arc::new(Bounded::new(inner, roots, depth)),
                None => inner,
            }
        } else {
            Arc::new(Unverified)
        };
        let identity = identity.map(|identity| Arc::clone(&identity.key));
        let profile = Arc::new(Self {
            http1: connector(&verifier, identity.as_ref(), b"http/1.1"),
            http2: connector(&verifier, identity.as_ref(), b"h2"),
            terms: terms.clone(),
        });
        profiles.insert(terms, Arc::downgrade(&profile));
        profile
    }

    /// The profile without anything of a configuration.
    pub(crate) fn plain(verify: bool) -> Arc<Self> {
        let [unverified, verified] = &*PLAIN;
        Arc::clone(if verify { verified } else { unverified })
    }

    /// What makes connections.
    pub(crate) const fn connector(&self, http2: bool) -> &TlsConnector {
        if http2 { &self.http2 } else { &self.http1 }
    }
}

/// What makes TLS connections by nothing but the machine's roots, or without verification.
pub(crate) fn tls_connector(verify: bool) -> &'static TlsConnector {
    let [unverified, verified] = &*PLAIN;
    if verify {
        &verified.http1
    } else {
        &unverified.http1
    }
}

/// Why a certificate cannot be presented.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsSetupError {
    /// It is no PEM.
    #[error("the client's certificate or key is not PEM")]
    Pem,
    /// Certificate and key do not fit together.
    #[error("the client's certificate and key cannot be used")]
    Use,
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
    let chain = certificates(chain);
    if chain.is_empty() {
        return Err(TlsSetupError::Pem);
    }
    let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes());
    let key = key.map_err(|_| TlsSetupError::Pem)?;
    let identity = TlsIdentity::new(chain, key).map_err(|_| TlsSetupError::Use)?;
    let profile = TlsProfile::of(verify, None, None, Some(&Arc::new(identity)));
    Ok(profile.http1.clone())
}

impl PartialEq for TlsProfile {
    fn eq(&self, other: &Self) -> bool {
        self.terms == other.terms
    }
}

impl Eq for TlsProfile {}

impl Hash for TlsProfile {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.terms.hash(state);
    }
}

impl fmt::Debug for TlsProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsProfile").finish_non_exhaustive()
    }
}

fn connector(
    verifier: &Arc<dyn ServerCertVerifier>,
    identity: Option<&Arc<CertifiedKey>>,
    protocol: &[u8],
) -> TlsConnector {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(verifier));
    let mut config = match identity {
        Some(key) => builder.with_client_cert_resolver(Arc::new(Presents(Arc::clone(key)))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// Presents one certificate to whoever asks for one.
#[derive(Debug)]
struct Presents(Arc<CertifiedKey>);

impl ResolvesClientCert for Presents {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0
            .key
            .choose_scheme(schemes)
            .map(|_| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
