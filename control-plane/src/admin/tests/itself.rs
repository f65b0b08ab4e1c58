//! What the Admin API tells of itself in header fields.

use super::*;

#[tokio::test]
async fn the_api_tells_of_itself_what_it_is_to() {
    for (headers, server, latency) in [
        (&["server_tokens", " latency_tokens"][..], true, true),
        (&["X-Kong-Admin-Latency"], false, true),
        (&["Server", "Via"], true, false),
        (&["off"], false, false),
    ] {
        let headers: Vec<String> = headers.iter().map(|name| (*name).to_owned()).collect();
        let journal = Memory {
            broken: false,
            entries: Kept::default(),
        };
        let publisher = Publisher::new(Config::default(), 1, Box::new(journal));
        let admin = Admin::new(publisher, Uuid::nil(), Vec::new())
            .with_headers(Headers::read(&headers).unwrap());
        let api = Api(admin.router());
        let request = http::Request::get("/").body(HttpBody::empty()).unwrap();
        let answered = api.0.clone().oneshot(request).await.unwrap();
        let told =
            ["server", "x-kong-admin-latency"].map(|name| answered.headers().contains_key(name));
        assert_eq!(told, [server, latency], "{headers:?}");
        let (_, shown) = api.get("/").await;
        let names: Vec<&str> = headers.iter().map(|name| name.trim()).collect();
        assert_eq!(shown["configuration"]["headers"], json!(names));
    }
    assert!(Headers::read(&["X-Other".to_owned()]).is_err());
}
