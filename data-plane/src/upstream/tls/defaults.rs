//! TLS towards upstream servers where neither service nor upstream says how: the node's settings decide (Kong 3.9,
//! `client_ssl_cert`, `proxy_ssl_verify`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use shared::types::pem::certificates;

use super::TlsIdentity;
use crate::settings::Settings;

/// Why the settings about TLS to upstream servers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamTlsError {
    /// A file cannot be read.
    #[error("reading {path} ({setting})")]
    Read {
        /// The file.
        path: PathBuf,
        /// What names it.
        setting: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} ({setting}): {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What names it.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// How TLS is spoken to servers of which nothing is said.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsDefaults {
    /// What is presented to them.
    pub(crate) identity: Option<Arc<TlsIdentity>>,
    pub(crate) verify: bool,
    pub(crate) depth: Option<u8>,
    /// Whose certificates are believed; without any, those of the machine's and Mozilla's authorities.
    pub(crate) authorities: Option<Vec<CertificateDer<'static>>>,
}

impl TlsDefaults {
    /// Reads the files that `settings` name.
    pub(crate) fn of(settings: &Settings) -> Result<Self, UpstreamTlsError> {
        let pair = settings
            .upstream_tls_certificate
            .as_deref()
            .zip(settings.upstream_tls_key.as_deref());
        let authorities = settings.upstream_tls_ca.as_deref();
        Ok(Self {
            identity: pair.map(identity).transpose()?,
            verify: settings.upstream_tls_verify,
            depth: settings.upstream_tls_verify_depth,
            authorities: authorities
                .map(|path| read_certificates("upstream_tls_ca", path))
                .transpose()?,
        })
    }
}

fn identity((certificate, key): (&Path, &Path)) -> Result<Arc<TlsIdentity>, UpstreamTlsError> {
    const CERTIFICATE: &str = "upstream_tls_certificate";
    const KEY: &str = "upstream_tls_key";
    let chain = read_certificates(CERTIFICATE, certificate)?;
    let text = read(KEY, key)?;
    let private = PrivateKeyDer::from_pem_slice(text.as_bytes())
        // The text of the error might quote the key.
        .map_err(|_| content(KEY, key, "not a private key in PEM"))?;
    let identity = TlsIdentity::new(chain, private);
    identity
        .map(Arc::new)
        .map_err(|reason| content(CERTIFICATE, certificate, &reason))
}

fn read_certificates(
    setting: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, UpstreamTlsError> {
    let found = certificates(&read(setting, path)?);
    if found.is_empty() {
        return Err(content(setting, path, "no certificate in PEM"));
    }
    Ok(found)
}

fn read(setting: &'static str, path: &Path) -> Result<String, UpstreamTlsError> {
    std::fs::read_to_string(path).map_err(|source| UpstreamTlsError::Read {
        path: path.to_owned(),
        setting,
        source,
    })
}

fn content(setting: &'static str, path: &Path, reason: &str) -> UpstreamTlsError {
    UpstreamTlsError::Content {
        path: path.to_owned(),
        setting,
        reason: reason.to_owned(),
    }
}
