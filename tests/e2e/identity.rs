//! Who a client is, across plugins and nodes.

use harness::{Browser, Cluster, Demo, eventually};
use http::Method;
use serde_json::json;

#[tokio::test]
async fn a_session_signs_in_on_every_node_until_its_logout() {
    let cluster = Cluster::start(2).await;
    let demo = Demo::start(&[]).await;
    cluster.route(&demo.upstream(), "/").await;
    let anonymous = cluster
        .create("/consumers", json!({ "username": "anonymous" }))
        .await;
    cluster
        .create("/consumers", json!({ "username": "coop" }))
        .await;
    cluster
        .create("/consumers/coop/key-auth", json!({ "key": "kong" }))
        .await;
    let nobody = json!({ "status_code": 403, "message": "So it goes." });
    for plugin in [
        json!({ "name": "session" }),
        json!({ "name": "key-auth", "config": { "anonymous": "anonymous", "hide_credentials": true } }),
        json!({
            "name": "request-termination", "config": nobody,
            "consumer": { "id": anonymous["id"] },
        }),
    ] {
        cluster.create("/plugins", plugin).await;
    }
    cluster.settled().await;
    let ask = async |at: usize, method: Method, path: &str, headers: &[(&str, &str)]| {
        let url = format!("{}{path}", cluster.url(at));
        Browser::new().send(method, &url, headers, "").await
    };
    let reply = ask(0, Method::GET, "/", &[]).await;
    assert_eq!(
        (reply.status, &reply.json()["message"]),
        (403, &json!("So it goes."))
    );
    let reply = ask(0, Method::GET, "/", &[("apikey", "kong")]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let line = reply.header("set-cookie");
    assert!(
        line.ends_with("; Path=/; SameSite=Strict; Secure; HttpOnly"),
        "{line}"
    );
    let cookie = line.split(';').next().unwrap();
    let with_cookie = [("cookie", cookie)];
    for at in [0, 1] {
        let reply = ask(at, Method::GET, "/", &with_cookie).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let named = reply.upstream_header("x-consumer-username");
        assert_eq!(named.as_deref(), Some("coop"));
        assert_eq!(reply.upstream_header("cookie"), None);
    }
    let reply = ask(1, Method::POST, "/?session_logout=true", &with_cookie).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, ""));
    for at in [1, 0] {
        eventually("the session is over", async || {
            let reply = ask(at, Method::GET, "/", &with_cookie).await;
            (reply.status == 403).then_some(())
        })
        .await;
    }
}
