//! What `deploy/` says, held against the programs: settings, files for providers, nodes that share a certificate.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Browser, CLIENT, Cluster, Demo, SECRET, eventually, output, run};
use http::Method;

use crate::guide::assert_sign_in_demanded;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("deploy")
}

/// Files below `directory` whose name ends in one of `extensions`.
fn files(directory: &Path, extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        if path.is_dir() {
            found.extend(files(&path, extensions));
        } else if extensions.iter().any(|extension| name.ends_with(extension)) {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

#[test]
fn every_setting_in_the_files_is_one_of_the_programs() {
    let help = ["wardgate-control-plane", "wardgate-data-plane"]
        .map(|program| (program, output(program, &["--help"])));
    // One that is known to the build alone.
    let known = |variable: &str| {
        variable == "WARDGATE_VERSION" || help.iter().any(|(_, text)| text.contains(variable))
    };
    let mut seen = 0;
    for (path, text) in files(
        &deploy(),
        &["compose.yaml", "-plane.yaml", "Dockerfile", ".service"],
    ) {
        for variable in text.split(|c: char| !(c.is_ascii_uppercase() || c == '_')) {
            if variable.starts_with("WARDGATE_") {
                assert!(known(variable), "{}: {variable}", path.display());
                seen += 1;
            }
        }
    }
    for (path, text) in files(&deploy().join("systemd"), &[".toml"]) {
        let program = format!("wardgate-{}", path.file_stem().unwrap().display());
        let (_, help) = help.iter().find(|(name, _)| *name == program).unwrap();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let key = line.split(" = ").next().unwrap();
            let variable = format!("WARDGATE_{}", key.to_ascii_uppercase());
            assert!(
                key.is_empty() || help.contains(&variable),
                "{}: {key}",
                path.display()
            );
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

#[tokio::test]
async fn every_example_leads_to_its_provider() {
    let cluster = Cluster::start(1).await;
    let demo = Demo::start(&[]).await;
    let (mut browser, admin) = (Browser::new(), cluster.admin_url());
    let examples = files(&deploy().join("examples"), &[".yaml"]);
    assert_eq!(examples.len(), 5);
    for (path, text) in examples {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let host = format!("{name}.test");
        let issuer = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("issuer: "));
        let own = text
            .replace(issuer.unwrap(), &demo.issuer())
            .replace("YOUR_CLIENT_ID", CLIENT)
            .replace("YOUR_CLIENT_SECRET", SECRET)
            .replace("http://app.internal:3000", &demo.upstream())
            .replace("app.example.com", &host);
        for (text, query) in [(&text, "?dry_run=1"), (&own, "")] {
            let headers = [("content-type", "text/yaml")];
            let url = format!("{admin}/config{query}");
            let reply = Browser::new()
                .send(Method::POST, &url, &headers, text.clone())
                .await;
            assert!(
                matches!(reply.status, 200 | 201),
                "{name}: {}",
                reply.text()
            );
            if !query.is_empty() {
                assert_eq!(reply.json()["changes"]["created"], 5, "{name}");
            }
        }
        cluster.settled().await;
        browser.resolve(&host, cluster.url(0).trim_start_matches("http://"));
        let reply = browser.get(&format!("http://{host}/orders?x=1")).await;
        assert_sign_in_demanded(&reply, &demo);
        let location = reply.location().unwrap();
        let asked = |wanted: &str| {
            let mut arguments = location.query_pairs();
            let found = arguments.find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.into_owned())
        };
        assert_eq!(asked("client_id").as_deref(), Some(CLIENT), "{name}");
        let back = format!("https://{host}/callback");
        assert_eq!(asked("redirect_uri"), Some(back), "{name}");
        assert!(
            asked("scope").unwrap().starts_with("openid email"),
            "{name}"
        );
        let reply = browser.get(&format!("http://{host}/signed-out")).await;
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_group_of_nodes_shares_a_certificate() {
    let mut cluster = Cluster::start(0).await;
    let certificates = cluster.directory().join("certificates");
    let certificates = certificates.to_str().unwrap();
    run(
        "wardgate-control-plane",
        &[
            "certificates",
            "--out",
            certificates,
            "--data-plane-group",
            "pods",
        ],
    );
    cluster.start_data_plane("pods").await;
    eventually("a node of the group follows", async || {
        let rows = cluster.read("/clustering/data-planes").await["data"].clone();
        let row = rows.as_array()?.first()?.clone();
        let name = row["name"].as_str()?;
        (shared::tls::may_be_called("*.pods", name) && row["progress"] == "current").then_some(())
    })
    .await;
}

#[test]
fn settings_come_by_the_variables_of_kong_as_well() {
    let asked = |program: &str, variables: &[(&str, &str)]| {
        let mut command = Command::new(harness::path(program));
        command.arg("--check").env_clear();
        let asked = command.envs(variables.iter().copied()).output().unwrap();
        assert!(!asked.status.success(), "{program} {variables:?}");
        String::from_utf8(asked.stderr).unwrap()
    };
    let (control_plane, data_plane) = ("wardgate-control-plane", "wardgate-data-plane");
    for (program, variables, named) in [
        (
            control_plane,
            &[("KONG_CLUSTER_CERT", "/of/kong.pem")][..],
            "/of/kong.pem",
        ),
        (
            control_plane,
            &[("KONG_ENFORCE_RBAC", "perhaps")],
            "--enforce-rbac",
        ),
        (
            data_plane,
            &[("KONG_CLUSTER_DP_LABELS", "zone")],
            "--labels",
        ),
        // A plane's own name for it comes first, and what says nothing is not said.
        (
            data_plane,
            &[
                ("KONG_CLUSTER_CERT", "/of/kong.pem"),
                ("WARDGATE_CLUSTER_CERTIFICATE", "/own.pem"),
            ],
            "/own.pem",
        ),
        (
            data_plane,
            &[("KONG_CLUSTER_CERT", "")],
            "/etc/wardgate/data-plane.pem",
        ),
    ] {
        let message = asked(program, variables);
        assert!(message.contains(named), "{variables:?}: {message}");
    }
    // So does what its own file says: the variable may be there for another program.
    let file = std::env::temp_dir().join(format!("settings-{}.toml", std::process::id()));
    fs::write(&file, "cluster_certificate = \"/of/the/file.pem\"\n").unwrap();
    let both = [
        ("KONG_CLUSTER_CERT", "/of/kong.pem"),
        ("WARDGATE_CONFIG", file.to_str().unwrap()),
    ];
    let message = asked(data_plane, &both);
    fs::remove_file(&file).unwrap();
    assert!(message.contains("/of/the/file.pem"), "{message}");
    // Kong takes the text of a file as well: a key must not come into a log so.
    let key = "-----BEGIN PRIVATE KEY-----\nMIIEsecret\n-----END PRIVATE KEY-----\n";
    for (program, variable) in [
        (control_plane, "KONG_CLUSTER_CERT_KEY"),
        (control_plane, "KONG_ADMIN_SSL_CERT_KEY"),
        (data_plane, "KONG_CLUSTER_CERT_KEY"),
        (data_plane, "KONG_SSL_CERT_KEY"),
        (data_plane, "WARDGATE_CLUSTER_KEY"),
    ] {
        // The key of a listener wants its certificate named as well.
        let certificate = variable.replace("SSL_CERT_KEY", "SSL_CERT");
        let mut variables = vec![(certificate.as_str(), "/of/kong.pem")];
        variables.retain(|(name, _)| *name != variable);
        variables.push((variable, key));
        let message = asked(program, &variables);
        let named = format!("{variable} holds the text");
        assert!(message.contains(&named), "{variable}: {message}");
        assert!(!message.contains("secret"), "{variable}: {message}");
    }
}

#[test]
fn a_program_that_fails_again_and_again_is_started_again_and_again() {
    let units = files(&deploy().join("systemd"), &[".service"]);
    assert_eq!(units.len(), 2);
    for (path, text) in units {
        let (unit, service) = text.split_once("[Service]").unwrap();
        let unlimited = unit.lines().any(|line| line == "StartLimitIntervalSec=0");
        assert!(unlimited, "{}", path.display());
        let always = service.lines().any(|line| line == "Restart=always");
        assert!(always, "{}", path.display());
    }
}
