//! `/openid-connect/jwks`.

use std::collections::BTreeSet;

use super::*;
use crate::command::{Action, Body, Command};

#[tokio::test]
async fn case_65_the_keys_are_shown_without_their_private_half_and_replaced_on_demand() {
    let api = Api::new();
    let kids = |body: &Value| -> Vec<String> {
        let keys = body["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 10);
        for key in keys {
            for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
                assert!(key.get(private).is_none());
            }
        }
        keys.iter()
            .map(|key| key["kid"].as_str().unwrap().to_owned())
            .collect()
    };
    let (status, first) = api.get("/openid-connect/jwks").await;
    assert_eq!(status, 200);
    let first = kids(&first);
    let (_, again) = api.get("/openid-connect/jwks").await;
    assert_eq!(kids(&again), first);
    let (status, _) = api.send("DELETE", "/openid-connect/jwks", "", "").await;
    assert_eq!(status, 204);
    let (_, audit) = api.get("/audit/requests").await;
    let listed = audit["data"].as_array().unwrap().iter();
    let statuses: Vec<_> = listed.map(|one| (&one["method"], &one["status"])).collect();
    let expected = [
        (&json!("DELETE"), &json!(204)),
        (&json!("GET"), &json!(200)),
    ];
    assert_eq!(statuses, expected);
    let (_, second) = api.get("/openid-connect/jwks").await;
    assert!(kids(&second).iter().all(|kid| !first.contains(kid)));
    // Nobody reads the records themselves.
    assert_eq!(api.get("/client_keys").await.0, 404);
}

#[tokio::test]
async fn keys_that_were_replaced_twice_are_kept_beside_those_that_were_once() {
    let (_, publisher) = Api::revoking();
    let origin = Origin::system();
    let mut generations: Vec<BTreeSet<Uuid>> = Vec::new();
    // Also within a second, and where a clock was set back.
    for now in [10, 20, 20, 20, 3, 4, 30] {
        let now = UnixTime::from_secs(now);
        crate::client_keys::rotate(&publisher, &origin, now).unwrap();
        let config = publisher.config();
        let kept = config.collection("client_keys", Uuid::nil());
        let (signing, mut retired): (Vec<_>, Vec<_>) = kept
            .map(|(key, fields)| (fields["retired_at"].as_u64(), key.id))
            .partition(|(retired_at, _)| retired_at.is_none());
        retired.sort_by_key(|(retired_at, _)| std::cmp::Reverse(*retired_at));
        let ids = |keys: &[(_, Uuid)]| keys.iter().map(|(_, id)| *id).collect::<BTreeSet<_>>();
        let found: Vec<_> = std::iter::once(ids(&signing))
            .chain(retired.chunks(10).map(ids))
            .collect();
        generations.insert(0, ids(&signing));
        generations.truncate(3);
        assert_eq!(found, generations);
    }
}

#[tokio::test]
async fn providers_are_told_to_read_the_keys_again_soon() {
    let api = Api::new();
    let request = http::Request::get("/openid-connect/jwks").body(HttpBody::empty());
    let response = api.0.oneshot(request.unwrap()).await.unwrap();
    assert_eq!(response.headers()["cache-control"], "max-age=60");
}

#[tokio::test]
async fn who_writes_a_plugin_that_may_need_keys_finds_them_made() {
    let form = "config.issuer=https://idp.example&config.client_id=c";
    for (plugin, expected) in [
        (format!("name=openid-connect&{form}"), true),
        ("name=cors".to_owned(), false),
    ] {
        let (api, publisher) = Api::revoking();
        let kind = "application/x-www-form-urlencoded";
        let (status, told) = api.send("POST", "/plugins", kind, &plugin).await;
        assert_eq!(status, 201, "{told}");
        let shown = crate::client_keys::published(&publisher.config());
        let made = !shown["keys"].as_array().unwrap().is_empty();
        assert_eq!(made, expected, "{plugin}");
    }
}

#[tokio::test]
async fn the_revision_that_is_told_has_the_keys() {
    let config = json!({ "issuer": "https://idp.example", "client_id": ["c"] });
    let plugin = json!({ "name": "openid-connect", "config": config });
    let file = json!({ "_format_version": "3.0", "plugins": [plugin] });
    for (url, body) in [("/plugins", &plugin), ("/config", &file)] {
        let (api, publisher) = Api::revoking();
        let request = http::Request::post(url)
            .header("content-type", "application/json")
            .body(HttpBody::from(body.to_string()))
            .unwrap();
        let response = api.0.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 201, "{url}");
        let told = response.headers()[newest::REVISION].to_str().unwrap();
        assert_eq!(told, publisher.config().revision().to_string(), "{url}");
        assert_eq!(told, "2", "{url}: the plugin and its keys");
    }
}

#[tokio::test]
async fn keys_are_made_where_an_earlier_version_has_stored_a_plugin_without() {
    let (_, publisher) = Api::revoking();
    let config = json!({ "issuer": "https://idp.example", "client_id": ["c"] });
    let plugin = json!({ "name": "openid-connect", "config": config });
    let command = Command {
        entity: "plugins",
        action: Action::Create(Body::Json(plugin.as_object().unwrap().clone())),
        parents: Vec::new(),
    };
    let origin = Origin::system();
    publisher
        .execute_if(&origin, &command, UnixTime::now(), |_| true, |_, _| Ok(()))
        .unwrap();
    crate::client_keys::follow(publisher.clone()).await;
    let config = publisher.config();
    let shown = crate::client_keys::published(&config);
    assert_eq!(shown["keys"].as_array().unwrap().len(), 10);
    assert_eq!(config.revision().0, 2, "the plugin, and the keys");
}
