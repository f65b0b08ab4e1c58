//! The list of writes: those that took effect, and those that did not.

use super::*;

#[tokio::test]
async fn refused_writes_are_listed_among_the_others() {
    let api = Api::new();
    for (method, url, body) in [
        ("POST", "/services", json!({})),
        ("POST", "/services", json!({ "name": "s", "host": "h" })),
        ("PATCH", "/services/s", json!({ "port": "x" })),
        ("DELETE", "/services", json!({})),
        ("PATCH", "/services/s", json!({ "port": 1 })),
        ("POST", "/nowhere", json!({})),
        // These change nothing and are no writes.
        ("GET", "/nowhere", json!({})),
        ("DELETE", "/services/none", json!({})),
        ("POST", "/schemas/services/validate", json!({})),
    ] {
        api.json(method, url, body).await;
    }
    let expected = [
        ("POST", "/nowhere", json!(404), json!(null)),
        ("PATCH", "/services/s", json!(200), json!(2)),
        ("DELETE", "/services", json!(405), json!(null)),
        ("PATCH", "/services/s", json!(400), json!(null)),
        ("POST", "/services", json!(201), json!(1)),
        ("POST", "/services", json!(400), json!(null)),
    ];
    for size in [1, 2, 4, 100] {
        let seen = api.all(&format!("/audit/requests?size={size}")).await;
        let shown: Vec<_> = seen
            .iter()
            .map(|one| {
                assert_eq!(one["refused"], one["revision"].is_null());
                let text = |field: &str| one[field].as_str().unwrap();
                (
                    text("method"),
                    text("path"),
                    one["status"].clone(),
                    one["revision"].clone(),
                )
            })
            .collect();
        assert_eq!(shown, expected, "{size}");
    }
    assert_eq!(api.get("/audit/requests?offset=x").await.1["code"], 7);
    // What is kept of a request is bounded.
    let long = format!("/services/{}", "x".repeat(5_000));
    api.json("PATCH", &long, json!({})).await;
    let (_, page) = api.get("/audit/requests?size=1").await;
    assert_eq!(page["data"][0]["path"].as_str().unwrap().len(), 1024);
}

#[tokio::test]
async fn a_workspace_is_told_of_its_own_refusals_only() {
    let api = Api::new();
    for name in ["alpha", "beta"] {
        made(&api, "/workspaces", json!({ "name": name })).await;
        let url = format!("/{name}/services");
        api.json("POST", &url, json!({})).await;
    }
    let (_, own) = api.get("/alpha/audit/requests").await;
    let paths: Vec<_> = own["data"].as_array().unwrap().iter().collect();
    assert_eq!(paths.len(), 1, "{own}");
    assert_eq!(
        (&paths[0]["path"], &paths[0]["status"]),
        (&json!("/alpha/services"), &json!(400))
    );
}
