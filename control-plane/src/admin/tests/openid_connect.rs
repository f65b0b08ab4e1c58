//! `/openid-connect/*`.

use serde_json::json;

use super::{Api, Uuid};

#[tokio::test]
async fn every_provider_is_found_however_many_there_are() {
    let (api, _) = Api::revoking();
    let routes: Vec<_> = (0..=100)
        .map(|number| {
            json!({ "paths": [format!("/{number}")], "plugins": [{
                "id": Uuid::from_u128(1 + number), "name": "openid-connect",
                "config": { "issuer": format!("https://i{number}.example") },
            }] })
        })
        .collect();
    let file = json!({ "_format_version": "3.0", "routes": routes });
    assert_eq!(api.json("POST", "/config", file).await.0, 201);
    for number in [0, 100] {
        let issuer = format!("/openid-connect/issuers/https%3A%2F%2Fi{number}.example");
        assert_eq!(api.send("DELETE", &issuer, "", "").await.0, 204, "{number}");
    }
}

#[tokio::test]
async fn a_configuration_is_judged_before_its_provider_is_asked() {
    let api = Api::new();
    let check = "/openid-connect/check";
    let (status, body) = api.json("POST", check, json!({ "client_id": ["a"] })).await;
    assert_eq!(status, 400, "{body}");
    assert_eq!(body["fields"]["config"]["issuer"], "required field missing");
    // Nobody listens there.
    let config = json!({ "issuer": "http://127.0.0.1:1", "client_id": ["a"] });
    for body in [
        config.clone(),
        json!({ "name": "openid-connect", "config": config }),
    ] {
        let (status, report) = api.json("POST", check, body).await;
        assert_eq!((status, &report["ok"]), (200, &json!(false)), "{report}");
        let findings = report["findings"].as_array().unwrap();
        let failed = findings
            .iter()
            .find(|finding| finding["check"] == "discovery");
        let failed = failed.unwrap();
        assert_eq!(failed["result"], "fail");
        assert_eq!(failed["detail"], "the OpenID provider does not answer");
    }
    assert_eq!(api.get(check).await.0, 405);
}

#[tokio::test]
async fn providers_that_say_nothing_are_not_listed() {
    let api = Api::new();
    let issuers = "/openid-connect/issuers";
    let nothing = json!({ "data": [], "next": null });
    assert_eq!(api.get(issuers).await, (200, nothing.clone()));
    let plugin = json!({
        "name": "openid-connect", "config": { "issuer": "http://127.0.0.1:1" },
    });
    assert_eq!(api.json("POST", "/plugins", plugin).await.0, 201);
    assert_eq!(api.get(issuers).await, (200, nothing));
    let known = format!("{issuers}/http%3A%2F%2F127.0.0.1%3A1");
    assert_eq!(api.get(&known).await.0, 404);
    let unknown = format!("{issuers}/https%3A%2F%2Fother.example");
    assert_eq!(api.send("DELETE", &unknown, "", "").await.0, 404);
}
