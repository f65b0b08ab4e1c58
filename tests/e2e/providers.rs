//! What operators ask about a provider: before a configuration is saved, while it serves, and after a
//! request was refused.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::guide::{GATEWAY, Guide, assert_sign_in_demanded, gateway};
use harness::{Browser, CLIENT, Cluster, SECRET, eventually, read_head};

#[tokio::test]
async fn a_provider_is_checked_listed_dropped_and_a_refusal_explained() {
    let guide = Guide::start(1, "").await;
    let (cluster, issuer) = (&guide.cluster, guide.demo.issuer());
    let check = |secret: &str| {
        let config = json!({
            "issuer": issuer, "client_id": [CLIENT], "client_secret": [secret],
            "redirect_uri": [format!("http://{GATEWAY}/api")],
        });
        json!({ "name": "openid-connect", "config": config })
    };
    let path = "/openid-connect/check";
    let report = cluster.admin(Method::POST, path, &check(SECRET)).await;
    assert_eq!(report.json()["ok"], true, "{}", report.text());
    let report = cluster.admin(Method::POST, path, &check("wrong")).await;
    let report = report.json();
    assert_eq!(report["ok"], false, "{report}");
    let findings = report["findings"].as_array().unwrap();
    let failed: Vec<_> = findings
        .iter()
        .filter(|finding| finding["result"] == "fail")
        .collect();
    assert!(
        failed.len() == 1 && failed[0]["check"] == "client",
        "{report}"
    );

    let browser = guide.browser(0);
    assert_eq!(browser.sign_in(&gateway("/"), "alice").await.status, 200);
    let listed = cluster.read("/openid-connect/issuers").await;
    let entry = &listed["data"][0];
    assert_eq!(entry["issuer"], issuer.as_str());
    assert_eq!(entry["configuration"]["issuer"], issuer.as_str());
    assert!(
        entry["keys"][0]["kid"].is_string() && entry["keys"][0]["d"].is_null(),
        "{entry}"
    );
    let id = entry["id"].as_str().unwrap().to_owned();
    let one = cluster.read(&format!("/openid-connect/issuers/{id}")).await;
    assert_eq!(one["issuer"], issuer.as_str());
    assert_eq!(browser.get(&gateway("/")).await.status, 200);
    let path = format!("/openid-connect/issuers/{id}");
    let dropped = cluster.admin(Method::DELETE, &path, &json!({})).await;
    assert_eq!(dropped.status, 204, "{}", dropped.text());
    let empty = cluster.read("/openid-connect/issuers").await;
    assert_eq!(empty["data"], json!([]));
    eventually("the sessions of the dropped provider end", async || {
        (browser.get(&gateway("/")).await.status == 302).then_some(())
    })
    .await;
    assert_sign_in_demanded(&browser.get(&gateway("/")).await, &guide.demo);

    let refused = browser.get(&gateway("/api?state=forged&code=x")).await;
    assert_eq!(refused.status, 401, "{}", refused.text());
    let id = refused.header("x-kong-request-id").to_owned();
    let status = cluster.data_planes[0].process.address("status");
    let url = format!("http://{status}/openid-connect/explain/{id}");
    let told = Browser::new().get(&url).await;
    assert_eq!(told.status, 200, "{}", told.text());
    let told = told.json();
    assert_eq!(told["reason"], "state_unknown", "{told}");
    assert_eq!(told["request_id"], id.as_str());
    assert!(told["fix"].is_string());
    let metrics = Browser::new()
        .get(&format!("http://{status}/metrics"))
        .await;
    let counted = "wardgate_openid_connect_refusals_total{reason=\"state_unknown\"} 1";
    assert!(metrics.text().contains(counted));
    let unknown = Browser::new()
        .get(&format!("http://{status}/openid-connect/explain/x"))
        .await;
    assert_eq!(unknown.status, 404);
}

/// A provider that gives out nothing and keeps what is posted to its token endpoint.
async fn deaf_provider() -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let (told, posted) = tokio::sync::mpsc::unbounded_channel();
    let own = issuer.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await.unwrap().to_ascii_lowercase();
            let (status, body) = if head.starts_with("post /token ") {
                let mut lines = head.lines();
                let length = lines.find_map(|line| line.strip_prefix("content-length: "));
                let mut form = vec![0; length.unwrap().parse().unwrap()];
                stream.read_exact(&mut form).await.unwrap();
                told.send(String::from_utf8(form).unwrap()).unwrap();
                ("400 Bad Request", json!({ "error": "invalid_grant" }))
            } else if head.starts_with("get /jwks ") {
                ("200 OK", json!({ "keys": [] }))
            } else {
                let document = json!({
                    "issuer": own, "authorization_endpoint": format!("{own}/authorize"),
                    "token_endpoint": format!("{own}/token"), "jwks_uri": format!("{own}/jwks"),
                });
                ("200 OK", document)
            };
            let body = body.to_string();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (issuer, posted)
}

#[tokio::test]
async fn a_client_key_of_the_cluster_serves_as_soon_as_its_plugin_does() {
    let (issuer, mut posted) = deaf_provider().await;
    let cluster = Cluster::start(1).await;
    let route = cluster.route(&issuer, "/").await;
    let config = json!({
        "issuer": issuer, "client_id": ["app"], "client_auth": ["private_key_jwt"],
    });
    let plugin = json!({ "name": "openid-connect", "config": config });
    cluster
        .create(&format!("/routes/{route}/plugins"), plugin)
        .await;
    let url = format!("{}/page", cluster.url(0));
    let browser = Browser::new();
    let start = eventually("the plugin is in force", async || {
        browser.get(&url).await.location()
    })
    .await;
    let state = start.query_pairs().find(|(name, _)| name == "state");
    let state = state.unwrap().1.into_owned();
    // The cluster is making its keys; until then the sign-in waits, and is told so.
    let back = format!("{url}?state={state}&code=none");
    eventually("the gateway shows its key", async || {
        let reply = browser.get(&back).await;
        assert!([401, 503].contains(&reply.status), "{}", reply.text());
        (reply.status == 401).then_some(())
    })
    .await;
    let form = posted.recv().await.unwrap();
    let fields: std::collections::HashMap<_, _> = form_urlencoded::parse(form.as_bytes())
        .into_owned()
        .collect();
    let header = fields["client_assertion"].split('.').next().unwrap();
    let header = URL_SAFE_NO_PAD.decode(header).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&header).unwrap();
    let published = cluster.read("/openid-connect/jwks").await;
    let keys = published["keys"].as_array().unwrap();
    let known = keys
        .iter()
        .any(|key| key["kid"] == header["kid"] && key["d"].is_null());
    assert!(known, "{header} {published}");
}
