//! References to secrets: stored as such, and read where they are used.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::guide::{Guide, gateway};
use harness::{SECRET, eventually};
use http::Method;

#[tokio::test]
async fn rule_130_each_data_plane_reads_the_secret_behind_a_reference() {
    let mut guide = Guide::start(1, "").await;
    let secrets = guide.cluster.directory().join("secrets");
    fs::create_dir_all(secrets.join("oidc")).unwrap();
    fs::write(secrets.join("oidc/secret"), format!("{SECRET}\n")).unwrap();
    let node = guide.cluster.data_planes.remove(0);
    node.process.kill();
    let known = [
        ("WARDGATE_SECRETS_DIRECTORY", secrets.display().to_string()),
        ("OIDC_SECRET", SECRET.to_owned()),
        ("OIDC", json!({ "secret": SECRET }).to_string()),
    ];
    guide
        .cluster
        .start_data_plane_with(&node.name, &known)
        .await;
    guide.cluster.settled().await;
    let vault = json!({ "name": "env", "prefix": "mine", "config": { "prefix": "OIDC_" } });
    guide.cluster.create("/vaults", vault).await;
    let plugin = format!("/plugins/{}", guide.plugin);
    let written = format!("{plugin}?wait=30");
    // What the provider is told is the secret, however it is referred to.
    for reference in [
        "{vault://env/oidc-secret}",
        "{vault://env/oidc/secret}",
        "{vault://mine/secret}",
        "{vault://file/oidc/secret}",
    ] {
        let body = json!({ "config": { "client_secret": [reference] } });
        let reply = guide.cluster.admin(Method::PATCH, &written, &body).await;
        assert_eq!(reply.status, 200, "{reference}: {}", reply.text());
        assert_eq!(reply.header("x-wardgate-serving"), "node-1", "{reference}");
        let stored = guide.cluster.read(&plugin).await;
        assert_eq!(stored["config"]["client_secret"], json!([reference]));
        let page = guide.browser(0).sign_in(&gateway("/"), "alice").await;
        assert_eq!(page.status, 200, "{reference}: {}", page.text());
    }
    // A reference that leads nowhere is refused with its field, and the node serves what it served.
    for (reference, reason) in [
        ("{vault://env/no-such-thing}", "NO_SUCH_THING"),
        ("{vault://file/oidc/none}", "oidc/none"),
        ("{vault://file/../token}", "leads out of"),
    ] {
        let body = json!({ "config": { "client_secret": [reference] } });
        let reply = guide.cluster.admin(Method::PATCH, &written, &body).await;
        assert_eq!(reply.status, 202, "{reference}: {}", reply.text());
        assert_eq!(reply.header("x-wardgate-refused"), "node-1", "{reference}");
        let row = guide.cluster.read("/clustering/data-planes").await["data"][0].clone();
        let fault = &row["last_refusal"]["faults"][0];
        assert_eq!(
            (&fault["entity_type"], &fault["entity_id"]),
            (&json!("plugins"), &json!(guide.plugin)),
            "{row}"
        );
        assert!(
            fault["field"].as_str().unwrap().contains("client_secret"),
            "{fault}"
        );
        assert!(
            fault["message"].as_str().unwrap().contains(reason),
            "{reference}: {fault}"
        );
        let page = guide.browser(0).sign_in(&gateway("/"), "bob").await;
        assert_eq!(page.status, 200, "{reference}: {}", page.text());
    }
    let body = json!({ "config": { "client_secret": ["{vault://env/oidc-secret}"] } });
    let reply = guide.cluster.admin(Method::PATCH, &written, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    a_secret_goes_and_comes(&mut guide, &secrets, &known).await;
    for log in [
        guide.cluster.data_planes[0].process.log(),
        guide.cluster.control_plane.as_ref().unwrap().log(),
    ] {
        assert!(!log.contains(SECRET), "a secret is in a log");
    }
}

async fn a_secret_goes_and_comes(
    guide: &mut Guide,
    secrets: &Path,
    known: &[(&'static str, String)],
) {
    // One that is gone stays what it was, and does not stand in the way of other changes.
    fs::write(secrets.join("late"), "a secret that comes late").unwrap();
    let late = guide.cluster.route(&guide.demo.upstream(), "/late").await;
    let plugins = format!("/routes/{late}/plugins?wait=30");
    let secret = json!({ "name": "session", "config": { "secret": "{vault://file/late}" } });
    let reply = guide.cluster.admin(Method::POST, &plugins, &secret).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    fs::remove_file(secrets.join("late")).unwrap();
    let change = json!({ "tags": ["a"] });
    let written = format!("/routes/{late}?wait=30");
    let reply = guide.cluster.admin(Method::PATCH, &written, &change).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let page = guide.browser(0).get(&gateway("/late")).await;
    assert_eq!(page.status, 200, "{}", page.text());
    // A node that starts without it refuses what needs it alone, and takes it up when it is there.
    guide.cluster.persisted().await;
    let node = guide.cluster.data_planes.remove(0);
    node.process.kill();
    guide.cluster.start_data_plane_with(&node.name, known).await;
    guide.cluster.settled().await;
    let page = guide.browser(0).get(&gateway("/late")).await;
    assert_eq!(page.status, 503, "{}", page.text());
    let page = guide.browser(0).sign_in(&gateway("/"), "bob").await;
    assert_eq!(page.status, 200, "{}", page.text());
    fs::write(secrets.join("late"), "a secret that comes late").unwrap();
    eventually("the secret is taken up", async || {
        let page = guide.browser(0).get(&gateway("/late")).await;
        (page.status == 200).then_some(())
    })
    .await;
}
