//! Makes the cluster's certificates: an authority, a pair for the control plane, one for each node.
//!
//! Run again it renews certificates but keeps every key that is there: the authority's, so that
//! running nodes still trust it, and the nodes', because each seals its last good configuration
//! under its own. So are the names of the control plane kept, by which nodes find it.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use shared::clock::UnixTime;
use shared::tls::{self, CONTROL_PLANE_NAME};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

const DAY: Duration = Duration::from_hours(24);
const AUTHORITY_DAYS: u32 = 3_650;
const MEMBER_DAYS: u32 = 1_095;

/// What to make.
#[derive(Args, Clone, Debug)]
pub struct CertificatesCommand {
    /// Directory to write the PEM files to.
    #[arg(long, value_name = "DIRECTORY")]
    pub out: PathBuf,
    /// Ids of the data planes; each gets NAME.pem and NAME.key.
    #[arg(long = "data-plane", value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub data_planes: Vec<String>,
    /// Names of groups of data planes that come and go; each gets NAME.pem and NAME.key for all of its nodes, which
    /// go by names below it.
    #[arg(long = "data-plane-group", value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub groups: Vec<String>,
    /// Further host names or addresses to put into the control plane's certificate, which keeps those that it has.
    #[arg(long = "name", value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub names: Vec<String>,
}

/// Why certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// A node's name cannot be one.
    #[error(
        "data plane name `{0}` must be 1 to 64 letters, digits, `.`, `_` or `-`, and neither `ca` nor `control-plane`"
    )]
    Name(String),
    /// A file could not be read or written.
    #[error("{attempt} {path}")]
    File {
        /// Such as `writing`.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// One of the authority's two files is there and the other is not.
    #[error(
        "{0} is missing while its counterpart exists: restore it, or remove both to start a new cluster"
    )]
    HalfAuthority(PathBuf),
    /// A host name cannot be one.
    #[error("name `{0}` must be the name of a host or an address")]
    Host(String),
    /// A node's name is one of a group's, so that whoever holds the group's pair could take its place.
    #[error(
        "a data plane `{node}` would be one of the group `{group}`: whoever holds that group's pair could take its place"
    )]
    OfGroup {
        /// The node's name.
        node: String,
        /// The group's.
        group: String,
    },
    /// A file is another member's.
    #[error("{path} is the certificate of `{name}`: choose another name or another directory")]
    Taken {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        name: String,
    },
    /// The authority's key fits none of its certificates.
    #[error("{0} is not the key of any certificate in ca.pem")]
    Foreign(PathBuf),
    /// An existing key or certificate is none.
    #[error("using the existing {path}")]
    Existing {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rcgen::Error,
    },
    /// The control plane's certificate is there, and what names it has cannot be told.
    #[error(
        "the names in {0} cannot be read: restore it, or take it away to begin with the names that are given"
    )]
    Names(PathBuf),
    /// A certificate could not be issued.
    #[error("issuing the certificate of {name}")]
    Issue {
        /// Whose.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
}

/// Makes or renews all files that `command` asks for and returns the certificates' paths.
pub fn write(
    command: &CertificatesCommand,
    now: UnixTime,
) -> Result<Vec<PathBuf>, CertificatesError> {
    for name in command.data_planes.iter().chain(&command.groups) {
        check_name(name)?;
    }
    command.names.iter().try_for_each(|name| check_host(name))?;
    let directory = &command.out;
    for node in &command.data_planes {
        check_group(node, command)?;
    }
    std::fs::create_dir_all(directory).map_err(|source| CertificatesError::File {
        attempt: "creating",
        path: directory.clone(),
        source,
    })?;
    // Before anything is made: a run that is refused leaves nothing.
    let before = hosts(&directory.join("control-plane.pem"))?;
    let authority_path = directory.join("ca.pem");
    let authority = authority(&authority_path, &directory.join("ca.key"), now)?;
    let mut written = vec![authority_path];

    let mut names = vec![
        CONTROL_PLANE_NAME.to_owned(),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
    ];
    for name in before.iter().chain(&command.names) {
        let name = name
            .parse::<IpAddr>()
            .map_or_else(|_| name.clone(), |ip| ip.to_string());
        if !names.iter().any(|one| one.eq_ignore_ascii_case(&name)) {
            names.push(name);
        }
    }
    let server = Member {
        file: "control-plane",
        common_name: CONTROL_PLANE_NAME,
        names,
        usage: ExtendedKeyUsagePurpose::ServerAuth,
    };
    written.push(server.write(directory, &authority, now)?);
    for name in &command.data_planes {
        let node = Member {
            file: name,
            common_name: name,
            names: vec![name.clone()],
            usage: ExtendedKeyUsagePurpose::ClientAuth,
        };
        written.push(node.write(directory, &authority, now)?);
    }
    for name in &command.groups {
        let common_name = tls::group_name(name);
        let group = Member {
            file: name,
            common_name: &common_name,
            names: vec![common_name.clone()],
            usage: ExtendedKeyUsagePurpose::ClientAuth,
        };
        written.push(group.write(directory, &authority, now)?);
    }
    Ok(written)
}

/// One holder of a certificate.
struct Member<'a> {
    file: &'a str,
    common_name: &'a str,
    names: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
}

impl Member<'_> {
    fn write(
        self,
        directory: &Path,
        authority: &Issuer<'_, KeyPair>,
        now: UnixTime,
    ) -> Result<PathBuf, CertificatesError> {
        let issue = |source| CertificatesError::Issue {
            name: self.common_name.to_owned(),
            source,
        };
        let key_path = directory.join(format!("{}.key", self.file));
        let path = directory.join(format!("{}.pem", self.file));
        if let Some(name) = holder(&path).filter(|name| name != self.common_name) {
            return Err(CertificatesError::Taken { path, name });
        }
        let key = match read(&key_path)? {
            Some(pem) => KeyPair::from_pem(&pem).map_err(|source| CertificatesError::Existing {
                path: key_path.clone(),
                source,
            })?,
            None => KeyPair::generate().map_err(issue)?,
        };
        let mut params = CertificateParams::new(self.names).map_err(issue)?;
        params
            .distinguished_name
            .push(DnType::CommonName, self.common_name);
        issue_at(&mut params, now, MEMBER_DAYS);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![self.usage];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, authority).map_err(issue)?;
        put(&key_path, &key.serialize_pem(), 0o600)?;
        put(&path, &certificate.pem(), 0o644)?;
        Ok(path)
    }
}

/// The existing authority, or a new one.
fn authority(
    certificate_path: &Path,
    key_path: &Path,
    now: UnixTime,
) -> Result<Issuer<'static, KeyPair>, CertificatesError> {
    match (read(certificate_path)?, read(key_path)?) {
        (Some(certificates), Some(key)) => {
            let existing = |path: &Path, source| CertificatesError::Existing {
                path: path.to_owned(),
                source,
            };
            let key = KeyPair::from_pem(&key).map_err(|source| existing(key_path, source))?;
            // While one authority replaces the other both are there: it is the one that the key is of.
            let mut all = CertificateDer::pem_slice_iter(certificates.as_bytes());
            let own = all.find_map(|one| one.ok().filter(|one| is_key_of(&key, one)));
            let Some(own) = own else {
                return Err(CertificatesError::Foreign(key_path.to_owned()));
            };
            Issuer::from_ca_cert_der(&own, key).map_err(|source| existing(certificate_path, source))
        }
        (None, None) => {
            let issue = |source| CertificatesError::Issue {
                name: "the authority".to_owned(),
                source,
            };
            let key = KeyPair::generate().map_err(issue)?;
            let mut params = CertificateParams::default();
            params
                .distinguished_name
                .push(DnType::CommonName, "Wardgate cluster");
            issue_at(&mut params, now, AUTHORITY_DAYS);
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let certificate = params.self_signed(&key).map_err(issue)?;
            put(key_path, &key.serialize_pem(), 0o600)?;
            put(certificate_path, &certificate.pem(), 0o644)?;
            Ok(Issuer::new(params, key))
        }
        (None, Some(_)) => Err(CertificatesError::HalfAuthority(
            certificate_path.to_owned(),
        )),
        (Some(_), None) => Err(CertificatesError::HalfAuthority(key_path.to_owned())),
    }
}

/// Gives one certificate its time, from a day ago, so that a clock that is behind accepts it too; and a number of its own, since a
/// renewed one has the same issuer and key: RFC 5280 §4.1.2.2.
fn issue_at(params: &mut CertificateParams, now: UnixTime, days: u32) {
    let serial = uuid::Uuid::new_v4();
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    let today = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_secs());
    params.not_before = today - DAY;
    params.not_after = today + DAY * days;
}

fn check_name(name: &str) -> Result<(), CertificatesError> {
    let good = (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && !name.starts_with('.')
        && name != "ca"
        && name != "control-plane"
        && name != CONTROL_PLANE_NAME;
    if good {
        return Ok(());
    }
    Err(CertificatesError::Name(name.to_owned()))
}

fn check_host(name: &str) -> Result<(), CertificatesError> {
    let is_address = name.parse::<IpAddr>().is_ok();
    let bare = name.strip_prefix("*.").unwrap_or(name);
    let is_label = |label: &str| {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(fine)
    };
    if is_address || bare.split('.').all(is_label) {
        return Ok(());
    }
    Err(CertificatesError::Host(name.to_owned()))
}

/// Refuses a node that goes by a name of a group that is made, or there already.
fn check_group(node: &str, command: &CertificatesCommand) -> Result<(), CertificatesError> {
    let Some((_, group)) = node.split_once('.') else {
        return Ok(());
    };
    let is_there = || {
        let holder = holder(&command.out.join(format!("{group}.pem")));
        holder.is_some_and(|name| name == tls::group_name(group))
    };
    if command.groups.iter().any(|one| one == group) || is_there() {
        return Err(CertificatesError::OfGroup {
            node: node.to_owned(),
            group: group.to_owned(),
        });
    }
    Ok(())
}

/// Whose certificate is in the file `path`, if there is one.
fn holder(path: &Path) -> Option<String> {
    let chain = tls::read_certificates(path).ok()?;
    tls::common_name(chain.first()?)
}

/// The host names and addresses of the certificate in the file `path`, if there is one.
fn hosts(path: &Path) -> Result<Vec<String>, CertificatesError> {
    let Some(pem) = read(path)? else {
        return Ok(Vec::new());
    };
    let unknown = || CertificatesError::Names(path.to_owned());
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| unknown())?;
    let (_, certificate) = parse_x509_certificate(&der).map_err(|_| unknown())?;
    let names = certificate.subject_alternative_name();
    let Some(names) = names.map_err(|_| unknown())? else {
        return Ok(Vec::new());
    };
    let address = |bytes: &[u8]| {
        let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        let address = four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
        address.ok().map(|address| address.to_string())
    };
    let names = names.value.general_names.iter();
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    });
    Ok(names.collect())
}

fn is_key_of(key: &KeyPair, certificate: &CertificateDer<'_>) -> bool {
    let parsed = parse_x509_certificate(certificate);
    parsed.is_ok_and(|(_, parsed)| parsed.public_key().raw == key.subject_public_key_info())
}

fn read(path: &Path) -> Result<Option<String>, CertificatesError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CertificatesError::File {
            attempt: "reading",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Replaces a file at once, so that a reader never sees half of it.
fn put(path: &Path, text: &str, mode: u32) -> Result<(), CertificatesError> {
    let write = || {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let _ = std::fs::remove_file(&temporary);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| CertificatesError::File {
        attempt: "writing",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
