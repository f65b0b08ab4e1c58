//! `If-Match`.

use super::*;

impl Api {
    /// Sends a write with this `If-Match`: status, `ETag` and body.
    async fn matching(
        &self,
        (method, url): (&str, &str),
        seen: &str,
        body: Value,
    ) -> (u16, String, Value) {
        let request = http::Request::builder()
            .method(method)
            .uri(url)
            .header("content-type", "application/json");
        let request = if seen.is_empty() {
            request
        } else {
            request.header("if-match", seen)
        };
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let request = request.body(HttpBody::from(body)).unwrap();
        let response = self.0.clone().oneshot(request).await.unwrap();
        let etag = response.headers().get("etag");
        let etag = etag.map_or("", |etag| etag.to_str().unwrap()).to_owned();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (
            status,
            etag,
            serde_json::from_slice(&bytes).unwrap_or_default(),
        )
    }
}

#[tokio::test]
async fn a_record_is_changed_only_as_it_was_seen() {
    let api = Api::new();
    let service = json!({ "name": "s", "host": "h" });
    let (_, first, made) = api.matching(("POST", "/services"), "", service).await;
    let by_id = format!("/services/{}", made["id"].as_str().unwrap());
    let (_, read, _) = api.matching(("GET", "/services/s"), "", Value::Null).await;
    assert!(first == read && first.len() == 34, "{first} {read}");
    made_route(&api).await;
    let change = |port: u16| json!({ "port": port });
    let (status, second, _) = api
        .matching(("PATCH", "/services/s"), &first, change(1))
        .await;
    assert!(status == 200 && second != first);
    let either = format!("\"x\", {second}");
    for (method, url, seen, body, expected) in [
        ("PATCH", "/services/s", first.as_str(), change(2), 412),
        ("PUT", by_id.as_str(), &first, json!({ "host": "h" }), 412),
        ("DELETE", "/services/s", &first, Value::Null, 412),
        ("PATCH", "/routes/r/service", &first, change(2), 412),
        (
            "PATCH",
            "/services/s",
            &format!("W/{second}"),
            change(2),
            412,
        ),
        ("PATCH", "/services/none", "*", change(2), 412),
        ("PUT", "/services/none", "*", json!({ "host": "h" }), 412),
        ("DELETE", "/services/none", &second, Value::Null, 412),
        ("PATCH", "/services/s", "second", change(2), 400),
        ("POST", "/services", "*", json!({ "host": "h" }), 400),
        (
            "POST",
            "/config",
            &second,
            json!({ "_format_version": "3.0" }),
            400,
        ),
        ("PATCH", "/services/s", &either, json!({ "port": 1 }), 200),
        ("PATCH", "/services/s", "*", change(3), 200),
    ] {
        let (status, _, reply) = api.matching((method, url), seen, body).await;
        assert_eq!(status, expected, "{method} {url} {seen}: {reply}");
    }
    let (_, last, _) = api
        .matching(("GET", "/routes/r/service"), "", Value::Null)
        .await;
    let removed = api
        .matching(("DELETE", "/routes/r"), &last, Value::Null)
        .await;
    assert_eq!(removed.0, 412, "it is another record");
    let (_, route, _) = api.matching(("GET", "/routes/r"), "", Value::Null).await;
    assert_eq!(
        api.matching(("DELETE", "/routes/r"), &route, Value::Null)
            .await
            .0,
        204
    );
}

/// A route of the service.
async fn made_route(api: &Api) {
    let route = json!({ "name": "r", "paths": ["/r"] });
    let made = api
        .matching(("POST", "/services/s/routes"), "", route)
        .await;
    assert_eq!(made.0, 201, "{made:?}");
}
