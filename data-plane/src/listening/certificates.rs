//! Certificates that clients are shown: by server name those of the live configuration, else the configured
//! default, or one made at start.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use shared::clock::UnixTime;
use shared::renewal::Renewal;
use shared::tls::{Identity, TlsError, expires_at};

use crate::live::Live;

/// Ends of certificates that a report has room for, besides those of the node's own.
const EXPIRIES: usize = 60;

/// Why there is no certificate to serve.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read or is not PEM.
    #[error(transparent)]
    File(#[from] TlsError),
    /// Certificate and key cannot be used.
    #[error("using the certificate")]
    Use(#[from] rustls::Error),
    /// None could be made.
    #[error("making a certificate")]
    Make(#[from] rcgen::Error),
}

/// The certificate that is shown where the configuration has none for a name: that of two files, as they are now, or one made
/// at the start.
#[derive(Debug)]
pub(crate) struct DefaultCertificate {
    files: Option<Mutex<Files>>,
    key: ArcSwap<CertifiedKey>,
}

#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    renewal: Renewal,
}

impl DefaultCertificate {
    /// That of `files`, a certificate and its key, which the log calls `what`.
    pub(crate) fn new(
        what: &'static str,
        files: Option<(&Path, &Path)>,
    ) -> Result<Self, CertificateError> {
        let Some((certificate, key)) = files else {
            return Ok(Self {
                files: None,
                key: ArcSwap::new(certified(self_signed()?)?),
            });
        };
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        let renewal = Renewal::of(what, vec![certificate.clone(), key.clone()]);
        Ok(Self {
            key: ArcSwap::new(read(&certificate, &key)?),
            files: Some(Mutex::new(Files {
                certificate,
                key,
                renewal,
            })),
        })
    }

    /// Takes up what the files hold, if they have changed.
    pub(crate) fn renew(&self, clock: Instant) {
        let Some(files) = &self.files else { return };
        let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
        let Files {
            certificate,
            key,
            renewal,
        } = &mut *files;
        if let Some(renewed) = renewal.look(clock, || read(certificate, key)) {
            self.key.store(renewed);
        }
    }

    /// When it ends, if it is from files.
    pub(crate) fn expires_at(&self) -> Option<UnixTime> {
        self.files.as_ref()?;
        let key = self.key.load();
        key.cert.iter().filter_map(expires_at).min()
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, CertificateError> {
    let identity = Identity::read(certificate, key)?;
    certified((identity.chain, identity.key))
}

fn certified((chain, key): Pair) -> Result<Arc<CertifiedKey>, CertificateError> {
    Ok(Arc::new(shared::tls::certified(chain, key)?))
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn self_signed() -> Result<Pair, CertificateError> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Ok((vec![made.cert.der().clone()], key.into()))
}

/// Certificates by server name (Kong 3.9: exact, then a wildcard for the first label, then one for the last,
/// then `*`).
#[derive(Debug, Default)]
pub(crate) struct ServerNames {
    exact: HashMap<Box<str>, Keys>,
    /// `*.example.com`, kept as `.example.com`.
    endings: HashMap<Box<str>, Keys>,
    /// `example.*`, kept as `example.`.
    beginnings: HashMap<Box<str>, Keys>,
    any: Option<Keys>,
    expiries: OnceLock<Vec<(String, UnixTime)>>,
}

/// Certificates for the same name, with keys of different types.
type Keys = Vec<Arc<CertifiedKey>>;

impl ServerNames {
    /// Gives `name` its certificates.
    pub(crate) fn insert(&mut self, name: &str, mut keys: Keys) {
        // A client that takes both gets the cheaper signature.
        keys.sort_by_key(|key| key.key.algorithm() != SignatureAlgorithm::ECDSA);
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if name == "*" {
            self.any = Some(keys);
        } else if let Some(ending) = name.strip_prefix('*') {
            self.endings.insert(ending.into(), keys);
        } else if let Some(beginning) = name.strip_suffix('*') {
            self.beginnings.insert(beginning.into(), keys);
        } else {
            self.exact.insert(name.into(), keys);
        }
    }

    fn of(&self, name: Option<&str>) -> Option<&Keys> {
        let found = name.and_then(|name| {
            let lower = name.trim_end_matches('.').to_ascii_lowercase();
            let name = lower.as_str();
            self.exact
                .get(name)
                .or_else(|| self.endings.get(name.get(name.find('.')?..)?))
                .or_else(|| self.beginnings.get(name.get(..=name.rfind('.')?)?))
        });
        found.or(self.any.as_ref())
    }

    /// When the certificates end, by the names that they are shown for: the soonest, soonest first. Read when
    /// it is first asked for, not when a configuration is compiled.
    pub(crate) fn expiries(&self) -> &[(String, UnixTime)] {
        self.expiries.get_or_init(|| {
            let exact = self
                .exact
                .iter()
                .map(|(name, keys)| (name.to_string(), keys));
            let endings = self.endings.iter();
            let endings = endings.map(|(name, keys)| (format!("*{name}"), keys));
            let beginnings = self.beginnings.iter();
            let beginnings = beginnings.map(|(name, keys)| (format!("{name}*"), keys));
            let any = self.any.iter().map(|keys| ("*".to_owned(), keys));
            let names = exact.chain(endings).chain(beginnings).chain(any);
            let mut expiries: Vec<(String, UnixTime)> = names
                .filter_map(|(name, keys)| {
                    let ends = keys.iter().filter_map(|key| expires_at(key.cert.first()?));
                    Some((format!("certificate for {name}"), ends.min()?))
                })
                .collect();
            expiries.sort_by(|(name, at), (other, end)| (at, name).cmp(&(end, other)));
            expiries.truncate(EXPIRIES);
            expiries
        })
    }

    /// The certificate for `name` whose key signs by one of `schemes`.
    pub(crate) fn find(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        self.of(name)?.iter().find(fits).cloned()
    }
}

/// Chooses by the name that a client asks for.
pub(crate) struct ByName {
    live: Live,
    default: Arc<DefaultCertificate>,
}

impl ByName {
    pub(crate) fn new(live: Live, default: Arc<DefaultCertificate>) -> Self {
        Self { live, default }
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByName").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = self.live.load().as_ref().and_then(|snapshot| {
            snapshot
                .server_names
                .find(hello.server_name(), hello.signature_schemes())
        });
        Some(found.unwrap_or_else(|| self.default.key.load_full()))
    }
}

#[cfg(test)]
mod tests {
    use shared::clock::monotonic;

    use super::*;

    fn key() -> Arc<CertifiedKey> {
        let (chain, key) = self_signed().unwrap();
        Arc::new(shared::tls::certified(chain, key).unwrap())
    }

    #[test]
    fn a_default_that_is_renewed_is_shown_once_both_files_are_there() {
        let directory = tempfile::tempdir().unwrap();
        let files = ["pem", "key"].map(|name| directory.path().join(name));
        let [certificate, key] = &files;
        let make = || rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
        let put = |path: &Path, text: String| std::fs::write(path, text).unwrap();
        let (first, second) = (make(), make());
        put(certificate, first.cert.pem());
        put(key, first.signing_key.serialize_pem());
        let default = DefaultCertificate::new("ours", Some((certificate, key))).unwrap();
        let shown = || default.key.load().cert[0].clone();
        assert_eq!(shown(), *first.cert.der());
        assert!(default.expires_at().is_some());
        put(certificate, second.cert.pem());
        default.renew(monotonic());
        assert_eq!(shown(), *first.cert.der(), "its key is another one");
        put(key, second.signing_key.serialize_pem());
        default.renew(monotonic());
        assert_eq!(shown(), *second.cert.der());
        let none = DefaultCertificate::new("ours", None).unwrap();
        none.renew(monotonic());
        assert_eq!(none.expires_at(), None);
    }

    #[test]
    fn a_certificate_is_shown_whatever_its_extensions_say_but_with_its_own_key() {
        let mut parameters = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap();
        let mut unknown = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        unknown.set_criticality(true);
        parameters.custom_extensions.push(unknown);
        let [own, other] = [(); 2].map(|()| rcgen::KeyPair::generate().unwrap());
        let made = parameters.self_signed(&own).unwrap();
        let with = |key: &rcgen::KeyPair| {
            let key = PrivatePkcs8KeyDer::from(key.serialize_der());
            certified((vec![made.der().clone()], key.into()))
        };
        assert!(with(&own).is_ok());
        let refused = with(&other).unwrap_err();
        assert!(matches!(refused, CertificateError::Use(_)), "{refused}");
    }

    #[test]
    fn a_name_is_looked_up_from_the_most_to_the_least_exact() {
        let patterns = ["a.example.com", "*.example.com", "example.*", "*"];
        let keys: Vec<_> = patterns.iter().map(|_| key()).collect();
        let mut names = ServerNames::default();
        for (pattern, key) in patterns.iter().zip(&keys) {
            names.insert(pattern, vec![Arc::clone(key)]);
        }
        let told: Vec<&str> = names
            .expiries()
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(
            told,
            [
                "certificate for *",
                "certificate for *.example.com",
                "certificate for a.example.com",
                "certificate for example.*",
            ]
        );
        let schemes = [SignatureScheme::ECDSA_NISTP256_SHA256];
        for (name, expected) in [
            (Some("a.example.com"), 0),
            (Some("A.Example.com"), 0),
            (Some("b.example.com"), 1),
            (Some("x.b.example.com"), 3),
            (Some("example.org"), 2),
            (Some("other"), 3),
            (None, 3),
        ] {
            let found = names.find(name, &schemes).unwrap();
            assert!(Arc::ptr_eq(&found, &keys[expected]), "{name:?}");
        }
        assert!(
            names
                .find(None, &[SignatureScheme::RSA_PSS_SHA256])
                .is_none()
        );
    }
}
