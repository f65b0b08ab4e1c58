//! Certificates and keys in PEM.

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};

use crate::clock::UnixTime;
use crate::digest::sha256;
use crate::hexadecimal::hexadecimal;

/// What kind of key a certificate is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyType {
    /// RSA.
    Rsa,
    /// A curve over a prime field.
    EllipticCurve,
    /// Anything else.
    Other,
}

impl KeyType {
    /// The name that OpenSSL has for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rsa => "rsaEncryption",
            Self::EllipticCurve => "id-ecPublicKey",
            Self::Other => "undefined",
        }
    }
}

/// Every certificate of `text`, whatever else stands there.
pub fn certificates(text: &str) -> Vec<CertificateDer<'static>> {
    all(text).map(|pem| pem.contents.into()).collect()
}

fn all(text: &str) -> impl Iterator<Item = Pem> {
    Pem::iter_from_buffer(text.as_bytes())
        .filter_map(Result::ok)
        .filter(is_certificate)
}

fn is_certificate(pem: &Pem) -> bool {
    matches!(pem.label.as_str(), "CERTIFICATE" | "X509 CERTIFICATE")
}

/// The first certificate of `text`.
fn first(text: &str) -> Option<Pem> {
    all(text).next()
}

/// Whether `text` holds a certificate, and nothing that was meant to be one and is damaged: whoever reads it would pass
/// that over, and clients would be shown a chain that leads nowhere.
pub(super) fn check_certificate(text: &str) -> Result<(), String> {
    let (mut certificates, mut blocks) = (0, 0);
    for block in Pem::iter_from_buffer(text.as_bytes()) {
        blocks += 1;
        let refused = |what: &str| format!("invalid certificate: PEM block {blocks} is {what}");
        let pem = block.map_err(|_| refused("cut or damaged"))?;
        if !is_certificate(&pem) {
            continue;
        }
        pem.parse_x509()
            .map_err(|_| refused("not a well-formed X.509 certificate"))?;
        certificates += 1;
    }
    if certificates == 0 {
        return Err("invalid certificate: no PEM certificate found".to_owned());
    }
    let is_whole = |mark: &str| text.matches(mark).count() == blocks;
    if !(is_whole("-----BEGIN ") && is_whole("-----END ")) {
        return Err(
            "invalid certificate: a PEM block does not begin or end with a line of its own"
                .to_owned(),
        );
    }
    Ok(())
}

pub(super) fn check_key(text: &str) -> Result<(), String> {
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| "invalid key: no PEM private key found")?;
    any_supported_type(&key)
        .map(drop)
        .map_err(|_| "invalid key: neither RSA of at least 2048 bits, ECDSA nor Ed25519".to_owned())
}

pub(super) fn check_public_key(text: &str) -> Result<(), String> {
    if is_public_key(text) || first(text).is_some_and(|pem| pem.parse_x509().is_ok()) {
        Ok(())
    } else {
        Err("could not load public key".to_owned())
    }
}

/// Whether `text` holds a public key by itself, not in a certificate.
pub(crate) fn is_public_key(text: &str) -> bool {
    Pem::iter_from_buffer(text.as_bytes())
        .filter_map(Result::ok)
        .any(|pem| match pem.label.as_str() {
            "PUBLIC KEY" => SubjectPublicKeyInfo::from_der(&pem.contents).is_ok(),
            "RSA PUBLIC KEY" => {
                x509_parser::public_key::RSAPublicKey::from_der(&pem.contents).is_ok()
            }
            _ => false,
        })
}

/// Whether `public` holds the public half of `key`. Where one of them is not of a kind that is known, nothing
/// speaks against it.
pub fn pair(public: &str, key: &str) -> bool {
    let Some(expected) = public_half(key) else {
        return true;
    };
    let is_half = |pem: &Pem| match pem.label.as_str() {
        "PUBLIC KEY" => pem.contents == expected,
        // What stands alone here is the last part of the other form.
        "RSA PUBLIC KEY" => expected.ends_with(&pem.contents),
        _ => true,
    };
    Pem::iter_from_buffer(public.as_bytes())
        .find_map(Result::ok)
        .is_none_or(|pem| is_half(&pem))
}

/// The public half of a private key, in DER.
fn public_half(key: &str) -> Option<Vec<u8>> {
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).ok()?;
    Some(any_supported_type(&key).ok()?.public_key()?.to_vec())
}

/// Whether the first certificate of `cert` is for `key`.
pub fn matches(cert: &str, key: &str) -> bool {
    let public = public_half(key);
    let pem = first(cert);
    let certified = pem
        .as_ref()
        .and_then(|pem| Some(pem.parse_x509().ok()?.public_key().raw.to_vec()));
    public.is_some() && public == certified
}

/// What kind of key the first certificate of `cert` is for.
pub(crate) fn key_type(cert: &str) -> Option<KeyType> {
    let pem = first(cert)?;
    let certificate = pem.parse_x509().ok()?;
    let algorithm = certificate.public_key().algorithm.algorithm.to_id_string();
    Some(match algorithm.as_str() {
        "1.2.840.113549.1.1.1" => KeyType::Rsa,
        "1.2.840.10045.2.1" => KeyType::EllipticCurve,
        _ => KeyType::Other,
    })
}

/// Whether `cert` is one certificate of an authority that is valid at `now`; the error is what Kong says.
pub fn authority(cert: &str, now: UnixTime) -> Result<(), &'static str> {
    if cert.matches("-----BEGIN CERTIFICATE-----").count() > 1 {
        return Err("please submit only one certificate at a time");
    }
    let pem = first(cert).ok_or("please submit a certificate")?;
    let certificate = pem
        .parse_x509()
        .map_err(|_| "please submit a certificate")?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if certificate.validity().not_after.timestamp() < now {
        return Err("certificate expired, \"Not After\" time is in the past");
    }
    let is_authority = certificate
        .basic_constraints()
        .ok()
        .flatten()
        .is_some_and(|constraints| constraints.value.ca);
    if is_authority {
        Ok(())
    } else {
        Err(
            "certificate does not appear to be a CA because it is missing the \"CA\" basic constraint",
        )
    }
}

/// SHA-256 of the first certificate of `cert`, in hexadecimal digits.
pub fn digest(cert: &str) -> Option<String> {
    let pem = first(cert)?;
    Some(hexadecimal(&sha256(&pem.contents)))
}
