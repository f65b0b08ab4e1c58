//! Where OpenID providers are asked: what a name or a redirect leads to is looked at first (security rules
//! 72 and 73).

use std::io::Write as _;

use data_plane::limits::Limits;
use data_plane::settings::Settings;
use serde_json::json;

use crate::gateway::{
    ask, configuration, get, plugin, settings, start_with, stop, upstream, upstream_at,
};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

/// Settings whose names are in `hosts`.
fn with_names(hosts: &tempfile::NamedTempFile, permitted: &[&str]) -> Settings {
    Settings {
        dns_hostsfile: hosts.path().to_owned(),
        provider_networks: permitted.iter().map(|text| text.parse().unwrap()).collect(),
        ..settings()
    }
}

/// What a visitor is answered where the provider is `issuer`.
fn visit(settings: &Settings, issuer: &str, more: &serde_json::Value) -> String {
    let mut config = json!({
        "issuer": issuer, "client_id": ["c"], "client_secret": ["s"], "allow_insecure_http": true,
    });
    let fields = config.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    let mut records = configuration(1, &json!({}), &[json!({ "paths": ["/"] })]);
    records.push(plugin(9, "openid-connect", &config));
    let proxy = start_with(settings, Limits::default(), records);
    let answer = ask(&proxy, REQUEST);
    stop(proxy);
    answer
}

#[test]
fn rule_72_a_name_leads_to_public_and_permitted_addresses_only() {
    let (port, heads) = upstream(&[NOT_FOUND]);
    let mut hosts = tempfile::NamedTempFile::new().unwrap();
    writeln!(hosts, "127.0.0.1 idp.test\n10.9.8.7 inside.test").unwrap();
    let asked = || heads.try_iter().count() > 0;
    let name = format!("http://idp.test:{port}");
    // Each way of connecting: pooled, and on a connection of its own.
    for keeps in [true, false] {
        let more = json!({ "keepalive": keeps });
        for (issuer, permitted, expected) in [
            (name.as_str(), &[][..], false),
            (&name, &["10.0.0.0/8"], false),
            (&name, &["127.0.0.0/8"], true),
            // Whoever writes this machine's address means it.
            (&format!("http://127.0.0.1:{port}"), &[], true),
            (&format!("http://localhost:{port}"), &[], true),
        ] {
            let answer = visit(&with_names(&hosts, permitted), issuer, &more);
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert_eq!(asked(), expected, "{issuer} {permitted:?}");
        }
        // Nothing is sent there, so nothing is waited for.
        let answer = visit(&with_names(&hosts, &[]), "http://inside.test", &more);
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
}

#[test]
fn rule_73_a_redirect_leads_to_public_and_permitted_addresses_only() {
    let (inside, heads) = upstream(&[NOT_FOUND]);
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nLocation: http://inside.test:{inside}/\r\nContent-Length: 0\r\n\r\n"
    );
    let answers: &'static [&'static str] = vec![&*redirect.leak()].leak();
    let (outside, asked_first) = upstream_at("127.0.0.2", answers);
    let mut hosts = tempfile::NamedTempFile::new().unwrap();
    writeln!(hosts, "127.0.0.1 inside.test\n127.0.0.2 idp.test").unwrap();
    for (permitted, expected) in [(&["127.0.0.2"][..], false), (&["127.0.0.0/8"], true)] {
        let settings = with_names(&hosts, permitted);
        let issuer = format!("http://idp.test:{outside}");
        let answer = visit(&settings, &issuer, &json!({}));
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(asked_first.try_iter().count() > 0);
        assert_eq!(heads.try_iter().count() > 0, expected, "{permitted:?}");
    }
}

#[test]
fn rule_75_providers_whose_certificates_nobody_looks_at_are_counted() {
    let mut records = configuration(1, &json!({}), &[json!({ "paths": ["/"] })]);
    let config = json!({ "issuer": "https://idp.test", "client_id": ["c"], "ssl_verify": false });
    records.push(plugin(9, "openid-connect", &config));
    let proxy = start_with(&settings(), Limits::default(), records);
    let status = proxy.addresses().status.unwrap();
    let metrics = get(status, "/metrics");
    assert!(
        metrics.contains("\nwardgate_openid_connect_unverified 1\n"),
        "{metrics}"
    );
    let told = get(status, "/status");
    assert!(told.contains("\"openid_connect_unverified\":1"), "{told}");
    stop(proxy);
}
