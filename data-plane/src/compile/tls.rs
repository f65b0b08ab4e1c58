//! Certificates of a snapshot: those presented to upstream servers, those presented to clients by name, and
//! the authorities that upstream servers' certificates may come from.

use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use shared::entity::{CaCertificate, Certificate, Sni};
use shared::types::pem::certificates;
use uuid::Uuid;

use super::CompileFault;
use crate::listening::certificates::ServerNames;
use crate::upstream::tls::TlsIdentity;

/// The certificates that can be presented, by id.
#[derive(Clone, Debug, Default)]
pub(super) struct Identities(imbl::HashMap<Uuid, Vec<Arc<TlsIdentity>>>);

impl Identities {
    /// Reads every certificate with its key; both, where there is an alternative.
    pub(super) fn compile(all: &[Certificate], faults: &mut Vec<CompileFault>) -> Self {
        let mut identities = Self::default();
        for certificate in all {
            identities.put(certificate, faults);
        }
        identities
    }

    /// Puts `certificate` in the place of what it was before.
    pub(super) fn put(&mut self, certificate: &Certificate, faults: &mut Vec<CompileFault>) {
        let mut pairs = vec![("cert", certificate.cert.as_str(), certificate.key.expose())];
        if let (Some(cert), Some(key)) = (&certificate.cert_alt, &certificate.key_alt) {
            pairs.push(("cert_alt", cert.as_str(), key.expose()));
        }
        let mut read = Vec::new();
        for (field, cert, key) in pairs {
            match identity(cert, key) {
                Ok(identity) => read.push(identity),
                Err(message) => faults.push(CompileFault {
                    kind: "certificates",
                    id: certificate.id,
                    field: field.to_owned(),
                    message,
                }),
            }
        }
        self.0.insert(certificate.id, read);
    }

    /// Takes the certificate `id` away.
    pub(super) fn remove(&mut self, id: Uuid) {
        self.0.remove(&id);
    }

    /// Whether `identity` is of the certificate `id`.
    pub(super) fn is_of(&self, identity: &Arc<TlsIdentity>, id: Uuid) -> bool {
        let pairs = self.0.get(&id);
        pairs.is_some_and(|pairs| pairs.iter().any(|pair| Arc::ptr_eq(pair, identity)))
    }

    /// The certificate `id` to present to a server.
    pub(super) fn of(&self, id: Uuid) -> Result<Arc<TlsIdentity>, String> {
        self.0
            .get(&id)
            .and_then(|pairs| pairs.first())
            .cloned()
            .ok_or_else(|| format!("the certificate {id} does not exist or cannot be used"))
    }

    /// The certificates to present to clients, by the names that `snis` give them.
    pub(super) fn server_names(&self, snis: &[Sni]) -> ServerNames {
        let mut names = ServerNames::default();
        for sni in snis {
            let keys: Vec<Arc<CertifiedKey>> = self
                .0
                .get(&sni.certificate.id)
                .into_iter()
                .flatten()
                .map(|identity| Arc::clone(&identity.key))
                .collect();
            if !keys.is_empty() {
                names.insert(sni.name.as_str(), keys);
            }
        }
        names
    }
}

fn identity(cert: &str, key: &str) -> Result<Arc<TlsIdentity>, String> {
    // The text of an error might quote a key: only its kind is told.
    let chain = certificates(cert);
    if chain.is_empty() {
        return Err("not a certificate in PEM".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| "its key is not a private key in PEM".to_owned())?;
    TlsIdentity::new(chain, key).map(Arc::new)
}

/// The authorities of a snapshot, by id.
#[derive(Clone, Debug, Default)]
pub(super) struct Authorities(imbl::HashMap<Uuid, CertificateDer<'static>>);

impl Authorities {
    /// Reads every authority's certificate.
    pub(super) fn compile(all: &[CaCertificate], faults: &mut Vec<CompileFault>) -> Self {
        let mut authorities = Self::default();
        for certificate in all {
            authorities.put(certificate, faults);
        }
        authorities
    }

    /// Puts `certificate` in the place of what it was before.
    pub(super) fn put(&mut self, certificate: &CaCertificate, faults: &mut Vec<CompileFault>) {
        match certificates(&certificate.cert).into_iter().next() {
            Some(authority) => _ = self.0.insert(certificate.id, authority),
            None => faults.push(CompileFault {
                kind: "ca_certificates",
                id: certificate.id,
                field: "cert".to_owned(),
                message: "not a certificate in PEM".to_owned(),
            }),
        }
    }

    /// Takes the authority `id` away.
    pub(super) fn remove(&mut self, id: Uuid) {
        self.0.remove(&id);
    }

    /// The certificate of the authority `id`.
    pub(super) fn of(&self, id: Uuid) -> Option<&CertificateDer<'static>> {
        self.0.get(&id)
    }
}
