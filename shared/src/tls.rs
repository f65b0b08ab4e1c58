//! TLS configurations from PEM files, with one cryptography provider: aws-lc-rs.

mod judge;
mod mistrust;
mod servers;
mod signatures;
mod unverified;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, InconsistentKeys, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::clock::UnixTime;
use crate::expiry::Expiry;
use crate::renewal::Renewal;
pub use judge::Role;
pub use mistrust::Mistrust;
pub use servers::{is_root, server_verifier};
pub use unverified::Unverified;

/// The name that every control plane's certificate carries and that every data plane demands, by
/// whatever address it connects.
pub const CONTROL_PLANE_NAME: &str = "wardgate-control-plane";

/// What a member of the cluster calls its own certificate among what expires.
pub const CLUSTER_CERTIFICATE: &str = "cluster_certificate";

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds no PEM of the kind that is expected. What is wrong with it is not told: that may quote a key.
    #[error("{path} holds no valid PEM {expected}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// A certificate of an authority cannot be used as one.
    #[error("using {path} as a certificate authority")]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The authorities cannot verify clients.
    #[error("preparing the verification of client certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// Certificate and key do not fit, or the key is of an unknown kind.
    #[error("using certificate {certificate} with key {key}")]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The certificate is not that of a member of the cluster.
    #[error("the certificate in {path} {what}")]
    Unfit {
        /// The certificate's file.
        path: PathBuf,
        /// What it is not.
        what: &'static str,
    },
    /// The provider lacks a protocol version.
    #[error("choosing TLS versions")]
    Versions(#[source] rustls::Error),
}

/// A certificate chain with its key, as read from two PEM files.
#[derive(Debug)]
pub struct Identity {
    /// Where the chain came from.
    pub certificate_path: PathBuf,
    /// Where the key came from.
    pub key_path: PathBuf,
    /// The chain, the own certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key. Its `Debug` shows nothing of it.
    pub key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads a pair of PEM files.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            certificate_path: certificate.to_owned(),
            key_path: key.to_owned(),
            chain: read_certificates(certificate)?,
            key: read_key(key)?,
        })
    }

    /// What is to be said where certificate and key cannot be used together.
    pub fn refused(&self, source: rustls::Error) -> TlsError {
        TlsError::Pair {
            certificate: self.certificate_path.clone(),
            key: self.key_path.clone(),
            source,
        }
    }
}

/// The authorities that this machine and Mozilla trust.
pub fn public_authorities() -> Arc<RootCertStore> {
    static AUTHORITIES: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
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
    Arc::clone(&AUTHORITIES)
}

/// The one provider of cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Reads every certificate of a PEM file; at least one.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(TlsError::Pem {
            path: path.to_owned(),
            expected: "certificate",
        }),
    }
}

/// Reads the private key of a PEM file.
pub(crate) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = Zeroizing::new(read(path)?);
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| TlsError::Pem {
        path: path.to_owned(),
        expected: "private key",
    })
}

/// Reads the authorities of a PEM file. Two may stand in it while one replaces the other.
pub fn read_authorities(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots
            .add(certificate)
            .map_err(|source| TlsError::Authority {
                path: path.to_owned(),
                source,
            })?;
    }
    Ok(Arc::new(roots))
}

/// The control plane's end of config sync: TLS 1.3, HTTP/2, and a client certificate of the cluster
/// from everyone.
pub fn cluster_server(
    identity: &Identity,
    authorities: Arc<RootCertStore>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(authorities, provider()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Versions)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|source| identity.refused(source))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would skip the look at the certificate's expiry.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Whether one of `authorities` vouches for a peer that has shown `chain`. When its certificate ends does not matter: what
/// was shown in time is believed as long as its authority is.
pub fn is_vouched_for(
    chain: &[CertificateDer<'_>],
    authorities: &Arc<RootCertStore>,
    now: UnixTime,
) -> bool {
    let Some((own, others)) = chain.split_first() else {
        return false;
    };
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(authorities), provider());
    let Ok(verifier) = verifier.build() else {
        return false;
    };
    let ends = expires_at(own).map_or(now, |at| at.min(now));
    let at = std::time::Duration::from_secs(ends.as_secs().saturating_sub(1));
    let at = rustls_pki_types::UnixTime::since_unix_epoch(at);
    verifier.verify_client_cert(own, others, at).is_ok()
}

/// The data plane's end of config sync.
pub fn cluster_client(
    identity: &Identity,
    authorities: Arc<RootCertStore>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Versions)?
        .with_root_certificates(authorities)
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|source| identity.refused(source))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// A certificate chain and the key of its first one, to present to others. They are presented whatever their version of X.509
/// and their extensions are: whoever is shown them judges that.
///
/// # Errors
///
/// A key of another certificate or of an unknown kind, a certificate that is none, or none at all.
pub fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    let key = provider().key_provider.load_private_key(key)?;
    let own = chain
        .first()
        .ok_or(rustls::Error::NoCertificatesPresented)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(own)
        .map_err(|_| rustls::Error::from(CertificateError::BadEncoding))?;
    let certified = parsed.public_key().raw;
    if key
        .public_key()
        .is_some_and(|public| public.as_ref() != certified)
    {
        return Err(InconsistentKeys::KeyMismatch.into());
    }
    Ok(CertifiedKey::new(chain, key))
}

/// Where a member of the cluster has its certificates.
#[derive(Clone, Debug)]
pub struct ClusterFiles {
    /// Its own, PEM.
    pub certificate: PathBuf,
    /// The key of that one, PEM.
    pub key: PathBuf,
    /// The authorities of the other members' certificates, PEM.
    pub authorities: PathBuf,
}

impl ClusterFiles {
    /// Reads the files.
    pub fn read(&self) -> Result<(Identity, Arc<RootCertStore>), TlsError> {
        let identity = Identity::read(&self.certificate, &self.key)?;
        Ok((identity, read_authorities(&self.authorities)?))
    }

    /// Looks after them: see [`Renewal::look`].
    pub fn renewal(&self) -> Renewal {
        let files = [&self.certificate, &self.key, &self.authorities];
        Renewal::of(
            "the cluster's certificates",
            files.into_iter().cloned().collect(),
        )
    }

    /// When the member's certificate ends, and the first of the authorities; nothing where that cannot be told.
    pub fn expiries(&self) -> Vec<Expiry> {
        let ends = |what: &str, path| Some((what.to_owned(), chain_expires_at(path)?));
        let own = ends(CLUSTER_CERTIFICATE, &self.certificate);
        own.into_iter()
            .chain(ends("cluster_ca", &self.authorities))
            .collect()
    }
}

/// The common name in a certificate: what a member of the cluster is called.
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

/// The common name in the certificate of a group of data planes: any name one level below is a node's.
pub fn group_name(group: &str) -> String {
    format!("*.{group}")
}

/// The group that a certificate with the common name `name` is for, if it is one of a group.
pub fn group_of(name: &str) -> Option<&str> {
    name.strip_prefix("*.")
}

/// Whether a member whose certificate says `name` may be called `node`.
pub fn may_be_called(name: &str, node: &str) -> bool {
    let Some(group) = group_of(name) else {
        return name == node;
    };
    let own = node
        .strip_suffix(group)
        .and_then(|front| front.strip_suffix('.'));
    own.is_some_and(is_node_name)
}

/// Whether `text` may be the name of a node below its group: 1 to 64 letters, digits, `_` or `-`.
fn is_node_name(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=64).contains(&text.len()) && text.bytes().all(fine)
}

/// When a certificate ends.
pub fn expires_at(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some(UnixTime::from_secs(seconds))
}

/// When the certificate in a file ends, counting those that vouch for it there; none if that cannot be told.
pub fn chain_expires_at(certificate: &Path) -> Option<UnixTime> {
    let chain = read_certificates(certificate).ok()?;
    chain.iter().filter_map(expires_at).min()
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_names_its_nodes_and_no_others() {
        let group = group_name("pods");
        for (name, node, expected) in [
            ("node-1", "node-1", true),
            ("node-1", "node-2", false),
            (group.as_str(), "web-7.pods", true),
            (&group, "pods", false),
            (&group, ".pods", false),
            (&group, "a.b.pods", false),
            (&group, "web-7.others", false),
            (&group, "web-7pods", false),
            (&group, "*.pods", false),
        ] {
            assert_eq!(may_be_called(name, node), expected, "{name} {node}");
        }
    }
}
