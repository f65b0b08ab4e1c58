//! Whether other members of a cluster will trust a member's certificate: what can never become valid is refused, and
//! what may become valid again is a warning.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::{ServerName, UnixTime as At};
use x509_parser::extensions::GeneralName;

use super::{CONTROL_PLANE_NAME, Identity, TlsError, provider};
use crate::clock::UnixTime;

/// What a member of the cluster is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Data planes connect to it.
    ControlPlane,
    /// It connects to control planes.
    DataPlane,
}

impl Identity {
    /// What keeps others from believing that this is a member of that role at `now`, if anything does.
    ///
    /// # Errors
    ///
    /// The certificate is not one of such a member, and never will be.
    pub fn judge(
        &self,
        role: Role,
        authorities: &Arc<RootCertStore>,
        now: UnixTime,
    ) -> Result<Option<String>, TlsError> {
        let unfit = |what: &'static str| TlsError::Unfit {
            path: self.certificate_path.clone(),
            what,
        };
        let Some((own, others)) = self.chain.split_first() else {
            return Ok(None);
        };
        if role == Role::ControlPlane && !has_name(own, CONTROL_PLANE_NAME) {
            return Err(unfit(
                "has not the name that data planes ask for, wardgate-control-plane",
            ));
        }
        let at = At::since_unix_epoch(Duration::from_secs(now.as_secs()));
        let judged = match role {
            Role::ControlPlane => {
                let name = ServerName::try_from(CONTROL_PLANE_NAME).expect("the name is one");
                WebPkiServerVerifier::builder_with_provider(Arc::clone(authorities), provider())
                    .build()?
                    .verify_server_cert(own, others, &name, &[], at)
                    .map(drop)
            }
            Role::DataPlane => {
                WebPkiClientVerifier::builder_with_provider(Arc::clone(authorities), provider())
                    .build()?
                    .verify_client_cert(own, others, at)
                    .map(drop)
            }
        };
        let doubt = match judged {
            Ok(()) => return Ok(None),
            Err(Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            )) => {
                return Err(unfit(match role {
                    Role::ControlPlane => "is not for servers, so not for a control plane",
                    Role::DataPlane => "is not for clients, so not for a data plane",
                }));
            }
            Err(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => "it has ended".to_owned(),
            Err(Error::InvalidCertificate(
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
            )) => "it has not begun: is the clock right?".to_owned(),
            // The authorities of all clusters go by one name, so that another one's is known by the signature.
            Err(Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            )) => "no authority in cluster_ca has issued it".to_owned(),
            Err(error) => error.to_string(),
        };
        let path = self.certificate_path.display();
        Ok(Some(format!(
            "other members will not believe {path}: {doubt}"
        )))
    }
}

/// Whether `certificate` names the host `name`.
fn has_name(certificate: &[u8], name: &str) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return false;
    };
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return false;
    };
    let is_it = |one: &GeneralName<'_>| matches!(one, GeneralName::DNSName(own) if own.eq_ignore_ascii_case(name));
    names.value.general_names.iter().any(is_it)
}
