//! Signatures and keys that were made to be mistaken (Project Wycheproof), held against the keys of a provider and those of `jwt`:
//! what is wrong is refused, whatever it looks like, and what is right is taken.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use wycheproof::ecdsa::TestName as Ecdsa;
use wycheproof::eddsa::TestName as Eddsa;
use wycheproof::rsa_pkcs1_verify::TestName as Pkcs1;
use wycheproof::rsa_pss_verify::TestName as Pss;
use wycheproof::{TestResult, ecdsa, eddsa, rsa_pkcs1_verify, rsa_pss_verify};

use super::super::config::SigningAlgorithm;
use super::super::key::PublicKey;
use crate::credentials;

/// A signature of a message, and whether it is one.
struct Case<'a> {
    number: usize,
    message: &'a [u8],
    signature: &'a [u8],
    result: TestResult,
}

/// Those of a group of any set.
macro_rules! cases {
    ($group:expr) => {
        $group.tests.iter().map(|test| Case {
            number: test.tc_id,
            message: &test.msg,
            signature: &test.sig,
            result: test.result,
        })
    };
}

/// How many of each kind there were: a set that is read wrongly would show nothing.
#[derive(Debug, Default)]
struct Count {
    valid: usize,
    invalid: usize,
}

impl Count {
    /// Holds `cases` against the same key as a provider and as an operator writes it down.
    fn check<'a>(
        &mut self,
        algorithm: SigningAlgorithm,
        jwk: &Value,
        pem: &str,
        cases: impl Iterator<Item = Case<'a>>,
    ) {
        let name = format!("{algorithm:?}");
        let provider = PublicKey::read(jwk).unwrap_or_else(|| panic!("{name}: {jwk}"));
        let operator = credentials::PublicKey::read(&name, pem).unwrap();
        for case in cases {
            let taken = [
                provider.verifies(algorithm, case.message, case.signature),
                operator.verifies(case.message, case.signature),
            ];
            let number = case.number;
            match case.result {
                TestResult::Valid => {
                    self.valid += 1;
                    assert_eq!(taken, [true; 2], "{name} {number} is right: {jwk}");
                }
                TestResult::Invalid => {
                    self.invalid += 1;
                    assert_eq!(taken, [false; 2], "{name} {number} is wrong: {jwk}");
                }
                // What others may refuse, too: both have to be of one mind.
                TestResult::Acceptable => assert_eq!(taken[0], taken[1], "{name} {number}"),
            }
        }
    }

    fn has_both(&self) {
        assert!(self.valid > 50 && self.invalid > 50, "{self:?}");
    }
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn rsa(n: &[u8], e: &[u8]) -> Value {
    json!({ "kty": "RSA", "n": encoded(n), "e": encoded(e) })
}

#[test]
fn signatures_by_elliptic_curves_are_what_they_seem() {
    let mut count = Count::default();
    for (set, curve, algorithm) in [
        (
            Ecdsa::EcdsaSecp256r1Sha256P1363,
            "P-256",
            SigningAlgorithm::ES256,
        ),
        (
            Ecdsa::EcdsaSecp384r1Sha384P1363,
            "P-384",
            SigningAlgorithm::ES384,
        ),
        (
            Ecdsa::EcdsaSecp521r1Sha512P1363,
            "P-521",
            SigningAlgorithm::ES512,
        ),
    ] {
        for group in ecdsa::TestSet::load(set).unwrap().test_groups {
            let (_, point) = group.key.key.split_first().unwrap();
            let (x, y) = point.split_at(point.len() / 2);
            let jwk = json!({ "kty": "EC", "crv": curve, "x": encoded(x), "y": encoded(y) });
            count.check(algorithm, &jwk, &group.pem, cases!(group));
        }
    }
    count.has_both();
}

#[test]
fn signatures_by_ed25519_are_what_they_seem() {
    let mut count = Count::default();
    for group in eddsa::TestSet::load(Eddsa::Ed25519).unwrap().test_groups {
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": encoded(&group.jwk.x) });
        count.check(SigningAlgorithm::EdDSA, &jwk, &group.pem, cases!(group));
    }
    count.has_both();
}

#[test]
fn signatures_by_rsa_are_what_they_seem() {
    let mut count = Count::default();
    for (algorithm, sets) in [
        (
            SigningAlgorithm::RS256,
            &[
                Pkcs1::Rsa2048Sha256,
                Pkcs1::Rsa3072Sha256,
                Pkcs1::Rsa4096Sha256,
                Pkcs1::Rsa8192Sha256,
            ][..],
        ),
        (
            SigningAlgorithm::RS384,
            &[
                Pkcs1::Rsa2048Sha384,
                Pkcs1::Rsa3072Sha384,
                Pkcs1::Rsa4096Sha384,
                Pkcs1::Rsa8192Sha384,
            ],
        ),
        (
            SigningAlgorithm::RS512,
            &[
                Pkcs1::Rsa2048Sha512,
                Pkcs1::Rsa3072Sha512,
                Pkcs1::Rsa4096Sha512,
                Pkcs1::Rsa8192Sha512,
            ],
        ),
    ] {
        for set in sets {
            for group in rsa_pkcs1_verify::TestSet::load(*set).unwrap().test_groups {
                let jwk = rsa(&group.key.n, &group.key.e);
                count.check(algorithm, &jwk, &group.pem, cases!(group));
            }
        }
    }
    count.has_both();
}

#[test]
fn signatures_by_rsa_pss_are_what_they_seem() {
    let mut count = Count::default();
    for (algorithm, sets) in [
        (
            SigningAlgorithm::PS256,
            &[
                Pss::RsaPss2048Sha256Mgf1SaltLen32,
                Pss::RsaPss3072Sha256Mgf1SaltLen32,
                Pss::RsaPss4096Sha256Mgf1SaltLen32,
            ][..],
        ),
        (
            SigningAlgorithm::PS384,
            &[
                Pss::RsaPss2048Sha384Mgf1SaltLen48,
                Pss::RsaPss4096Sha384Mgf1SaltLen48,
            ],
        ),
        (
            SigningAlgorithm::PS512,
            &[Pss::RsaPss4096Sha512Mgf1SaltLen64],
        ),
    ] {
        for set in sets {
            for group in rsa_pss_verify::TestSet::load(*set).unwrap().test_groups {
                let jwk = rsa(&group.key.n, &group.key.e);
                count.check(algorithm, &jwk, &group.pem, cases!(group));
            }
        }
    }
    count.has_both();
}

/// The salt is as long as the hash, and there is one hash (RFC 7518 §3.5).
#[test]
fn signatures_by_rsa_pss_of_another_form_are_none() {
    let mut refused = 0;
    for (algorithm, set) in [
        (SigningAlgorithm::PS256, Pss::RsaPss2048Sha256Mgf1SaltLen0),
        (SigningAlgorithm::PS256, Pss::RsaPss2048Sha256Mgf1Sha1_20),
        (SigningAlgorithm::PS512, Pss::RsaPss4096Sha512Mgf1SaltLen32),
    ] {
        for group in rsa_pss_verify::TestSet::load(set).unwrap().test_groups {
            let key = PublicKey::read(&rsa(&group.key.n, &group.key.e)).unwrap();
            let name = format!("{algorithm:?}");
            let operator = credentials::PublicKey::read(&name, &group.pem).unwrap();
            for case in cases!(group).filter(|case| case.result == TestResult::Valid) {
                assert!(!key.verifies(algorithm, case.message, case.signature));
                assert!(!operator.verifies(case.message, case.signature));
                refused += 1;
            }
        }
    }
    assert!(refused > 50, "{refused}");
}
