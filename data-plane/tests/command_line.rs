//! The program's command line.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use data_plane::live::Live;
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;

/// Runs the program with a certificate of its own.
fn data_plane(root: &Path, arguments: &[&str]) -> Output {
    let made = rcgen::generate_simple_self_signed(vec!["node-1".to_owned()]).unwrap();
    let certificate = root.join("node-1.pem");
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    let key = root.join("node-1.key");
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    Command::new(env!("CARGO_BIN_EXE_wardgate-data-plane"))
        .env("WARDGATE_CLUSTER_CERTIFICATE", &certificate)
        .env("WARDGATE_CLUSTER_KEY", &key)
        .env("WARDGATE_CLUSTER_CA", &certificate)
        .env("WARDGATE_DATA_DIRECTORY", root.join("data"))
        .env("WARDGATE_PROXY_TLS_LISTEN", "127.0.0.1:0")
        .env("WARDGATE_STATUS_LISTEN", "127.0.0.1:0")
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn mistakes_in_settings_are_named() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("settings.toml");
    std::fs::write(&file, "proxy_listn = \"127.0.0.1:1\"\n").unwrap();
    for (arguments, expected) in [
        (
            ["--check", "--control-planes=http://cp:8005"],
            "control_planes",
        ),
        (["--check", "--control-planes=https://cp:8005,cp"], "`cp`"),
        (["--check", "--trusted-ips=10.0.0.0/33"], "--trusted-ips"),
        (
            ["--check", "--provider-networks=10.0.0.0/33"],
            "provider-networks",
        ),
        (["--check", "--labels=zone"], "NAME=VALUE"),
        (["--check", "--cluster-key=/nowhere.key"], "/nowhere.key"),
        (
            ["--check", "--upstream-tls-ca=/nowhere.pem"],
            "upstream_tls_ca",
        ),
        (
            ["--check", "--upstream-tls-key=/nowhere.key"],
            "--upstream-tls-certificate",
        ),
        (["--config", file.to_str().unwrap()], "proxy_listn"),
        (["--check", "--control-planes="], "control_planes"),
        (["--check", "--max-connections=0"], "--max-connections"),
        (["--check", "--dns-stale-ttl=-1"], "--dns-stale-ttl"),
        (
            ["--check", "--proxy-listen=127.0.0.1:1,127.0.0.1:1"],
            "proxy_listen: 127.0.0.1:1 is an address of proxy_listen",
        ),
        (["--check", "--data-directory=/dev/null"], "data_directory"),
        (["--check", "--access-log=/"], "access_log"),
        (["--check", "--addresses-file=/nowhere/x"], "addresses_file"),
    ] {
        let output = data_plane(root.path(), &arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn sound_settings_pass_the_check_and_nothing_is_made() {
    let root = tempfile::tempdir().unwrap();
    for (arguments, said) in [
        (&["--check"][..], ""),
        (
            &["--check", "--secrets-directory=/nowhere"],
            "warning: secrets_directory",
        ),
    ] {
        let output = data_plane(root.path(), arguments);
        let found = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{found}");
        assert!(
            found.contains(said) && found.is_empty() == said.is_empty(),
            "{found}"
        );
    }
    assert!(!root.path().join("data").exists());
}

#[test]
fn a_port_that_another_data_plane_has_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    let settings = Settings {
        proxy_listen: vec![any.into()],
        proxy_tls_listen: vec![any.into()],
        status_listen: vec![any.into()],
        access_log: "off".to_owned(),
        ..Settings::default()
    };
    let running = Proxy::start(&settings, Live::default()).unwrap();
    let taken = running.addresses().proxy.unwrap().to_string();
    let output = data_plane(root.path(), &["--proxy-listen", &taken]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        said.contains("proxy_listen") && said.contains(&taken),
        "{said}"
    );
}
