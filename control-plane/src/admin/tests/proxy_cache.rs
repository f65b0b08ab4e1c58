//! `/proxy-cache/*`.

use serde_json::json;
use shared::entity::{Entity, Revocation};

use tower::ServiceExt as _;

use super::{Api, HttpBody, Uuid, id, made};

#[tokio::test]
async fn what_data_planes_keep_of_answers_is_dropped() {
    let (api, publisher) = Api::revoking();
    let config = json!({ "strategy": "memory" });
    let plugin = json!({ "name": "proxy-cache", "config": config });
    let plugin = made(&api, "/plugins", plugin).await;
    let other = made(&api, "/plugins", json!({ "name": "key-auth" })).await;
    let key = "ab".repeat(32);
    let revoked = || {
        let config = publisher.config();
        let keys: Vec<Uuid> = config
            .keys(Revocation::KIND, Uuid::nil())
            .map(|key| key.id)
            .collect();
        keys
    };
    let of = |plugin: &str, key: &str| format!("/proxy-cache/{plugin}/caches/{key}");
    for (method, url, status) in [
        ("GET", format!("/proxy-cache/{key}"), 404),
        ("GET", of(id(&plugin), &key), 404),
        ("GET", "/proxy-cache".to_owned(), 405),
        ("DELETE", "/proxy-cache/123".to_owned(), 404),
        ("DELETE", of(id(&plugin), "123"), 404),
        ("DELETE", of(id(&other), &key), 404),
        ("DELETE", of(&Uuid::nil().to_string(), &key), 404),
        ("DELETE", of("x", &key), 404),
        ("DELETE", format!("/proxy-cache/{key}/more"), 404),
    ] {
        assert_eq!(
            api.send(method, &url, "", "").await.0,
            status,
            "{method} {url}"
        );
    }
    assert!(revoked().is_empty());
    let entry = Revocation::cached([0xab; 32]);
    for url in [
        of(id(&plugin), &key),
        format!("/proxy-cache/{}", key.to_uppercase()),
    ] {
        assert_eq!(api.send("DELETE", &url, "", "").await.0, 204, "{url}");
        assert_eq!(revoked(), [entry]);
    }
    assert_eq!(api.send("DELETE", "/proxy-cache", "", "").await.0, 204);
    let all = Revocation::cache(id(&plugin).parse().unwrap());
    let mut expected = [entry, all];
    expected.sort();
    assert_eq!(revoked(), expected);
    // It is told who asked for it, as of other writes.
    let (_, requests) = api.get("/audit/requests?size=1").await;
    let last = &requests["data"][0];
    let (method, path, status) = (&last["method"], &last["path"], &last["status"]);
    assert_eq!(
        json!([method, path, status]),
        json!(["DELETE", "/proxy-cache", 204])
    );
}

#[tokio::test]
async fn what_nodes_are_to_end_is_told_with_the_revision_that_they_have_it_at() {
    let (api, publisher) = Api::revoking();
    made(&api, "/upstreams", json!({ "name": "u" })).await;
    let target = json!({ "target": "10.0.0.1:80" });
    made(&api, "/upstreams/u/targets", target).await;
    let config = json!({ "issuer": "https://i.example" });
    let plugin = json!({ "name": "openid-connect", "config": config });
    made(&api, "/plugins", plugin).await;
    for (method, url) in [
        ("DELETE", format!("/proxy-cache/{}", "ab".repeat(32))),
        (
            "DELETE",
            "/openid-connect/issuers/https%3A%2F%2Fi.example".to_owned(),
        ),
        (
            "PUT",
            "/upstreams/u/targets/10.0.0.1:80/unhealthy".to_owned(),
        ),
    ] {
        let before = publisher.config().revision();
        let request = http::Request::builder().method(method).uri(&url);
        let request = request.body(HttpBody::empty()).unwrap();
        let response = api.0.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 204, "{url}");
        let told = response.headers().get("x-wardgate-revision").unwrap();
        let expected = before.next().0.to_string();
        assert_eq!(told.to_str().unwrap(), expected, "{url}");
    }
}
