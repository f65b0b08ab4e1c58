//! What operators ask about a provider: before a configuration is saved, while it serves, and after a
//! request was refused.

use http::Method;
use serde_json::json;

use crate::guide::{GATEWAY, Guide, assert_sign_in_demanded, gateway};
use harness::{Browser, CLIENT, SECRET, eventually};

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
