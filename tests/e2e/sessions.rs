//! Any node serves any session.

use std::time::Duration;

use harness::{Cluster, curl, outlive};

use crate::guide::{GATEWAY, Guide, assert_sign_in_demanded, gateway};

/// How long an access token lives that is to end soon. Times in tokens are whole seconds: one of a second may be over as it
/// comes.
const LIFETIME: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_session_of_one_node_is_served_by_another() {
    let guide = Guide::start(2, "").await;
    let mut browser = guide.browser(0);
    let first = browser.sign_in(&gateway("/"), "alice").await;
    assert_eq!(first.status, 200, "{}", first.text());
    let before = guide.demo.provider_requests();
    guide.turn(&mut browser, 1);
    let second = browser.get(&gateway("/")).await;
    assert_eq!(second.status, 200, "{}", second.text());
    let token = |reply: &harness::Reply| reply.upstream_header("authorization").unwrap();
    assert_eq!(token(&first), token(&second));
    assert_eq!(
        guide.demo.provider_requests(),
        before,
        "no call to the provider"
    );
}

#[tokio::test]
async fn rule_110_a_sign_in_ends_on_any_node_and_only_at_the_hosts_of_its_route() {
    let guide = Guide::start(2, "").await;
    let mut browser = guide.browser(0);
    let callback = browser.log_in(&gateway("/"), "bob").await;
    guide.turn(&mut browser, 1);
    let reply = browser.get(callback.as_str()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    guide.turn(&mut browser, 0);
    assert_eq!(browser.get(&gateway("/")).await.status, 200);

    let admin = guide.cluster.admin_url();
    let routes = curl(&format!(
        "curl -i {admin}/services/openid-connect-demo/routes"
    ))
    .await;
    let id = routes.json()["data"][0]["id"].clone();
    let id = id.as_str().unwrap();
    let hosts = format!("curl -X PATCH {admin}/routes/{id} --data hosts[]={GATEWAY}");
    assert_eq!(curl(&hosts).await.status, 200);
    guide.patch("--data config.redirect_uri=").await;
    // What anybody says of the host counts for nothing.
    let said = [
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", "8443"),
        ("forwarded", "host=evil.example;proto=https"),
        ("x-original-host", "evil.example"),
    ];
    let reply = guide.browser(0).get_with(&gateway("/reports"), &said).await;
    let location = reply.location().unwrap();
    let mut sent = location.query_pairs();
    let redirect_uri = sent.find(|(name, _)| name == "redirect_uri").unwrap().1;
    assert_eq!(redirect_uri, gateway("/reports"));
    assert!(!location.as_str().contains("evil"), "{location}");
    // What it says itself is no host of the route.
    let mut stranger = guide.browser(0);
    let url = guide.cluster.url(0);
    stranger.resolve("evil.example", url.trim_start_matches("http://"));
    let reply = stranger.get("http://evil.example/reports").await;
    assert_eq!((reply.status, reply.location()), (404, None));
    assert!(reply.headers.get("set-cookie").is_none());
}

#[tokio::test]
async fn case_29_behind_a_trusted_proxy_the_redirect_uri_is_what_the_browser_sees() {
    let cluster = Cluster::start_with(1, &[("WARDGATE_TRUSTED_IPS", "127.0.0.1")]).await;
    let guide = Guide::set_up(cluster, "").await;
    guide.patch("--data config.redirect_uri=").await;
    let headers = [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "app.example"),
        ("x-forwarded-port", "8443"),
    ];
    let reply = guide
        .browser(0)
        .get_with(&gateway("/reports"), &headers)
        .await;
    let location = reply.location().unwrap();
    let mut sent = location.query_pairs();
    let redirect_uri = sent.find(|(name, _)| name == "redirect_uri").unwrap().1;
    assert_eq!(redirect_uri, "https://app.example:8443/reports");
}

#[tokio::test]
async fn twenty_tabs_sign_in_at_once() {
    let guide = Guide::start(2, "").await;
    let mut browser = guide.browser(0);
    let mut starts = Vec::new();
    for tab in 0..20 {
        guide.turn(&mut browser, tab % 2);
        let reply = browser.get(&gateway(&format!("/tab/{tab}"))).await;
        assert_sign_in_demanded(&reply, &guide.demo);
        starts.push(reply.location().unwrap());
    }
    let mut callbacks = Vec::new();
    for start in &starts {
        // The first tab shows the login page; the provider knows the user after that.
        let next = if callbacks.is_empty() {
            browser.log_in(start.as_str(), "alice").await
        } else {
            browser.get(start.as_str()).await.location().unwrap()
        };
        callbacks.push(next);
    }
    for (tab, callback) in callbacks.iter().enumerate() {
        guide.turn(&mut browser, (tab + 1) % 2);
        let reply = browser.open(callback.as_str()).await;
        assert_eq!(reply.status, 200, "tab {tab}: {}", reply.text());
    }
}

#[tokio::test]
async fn an_expired_access_token_is_refreshed_without_the_user() {
    let guide = Guide::start(
        2,
        "--data config.scopes=offline_access --data config.leeway=0",
    )
    .await;
    guide.demo.set_access_token_lifetime(LIFETIME);
    let mut browser = guide.browser(0);
    let first = browser.sign_in(&gateway("/"), "alice").await;
    let token = first.upstream_header("authorization").unwrap();
    outlive(LIFETIME).await;
    guide
        .demo
        .set_access_token_lifetime(Duration::from_hours(1));
    // The other node refreshes, and the node that has not seen it goes on with the new session.
    guide.turn(&mut browser, 1);
    let second = browser.get(&gateway("/")).await;
    assert_eq!(second.status, 200, "{}", second.text());
    let refreshed = second.upstream_header("authorization").unwrap();
    assert_ne!(token, refreshed);
    guide.turn(&mut browser, 0);
    let third = browser.get(&gateway("/")).await;
    assert_eq!(third.upstream_header("authorization"), Some(refreshed));
}

#[tokio::test]
async fn a_session_that_the_provider_does_not_refresh_ends() {
    let guide = Guide::start(
        1,
        "--data config.scopes=offline_access --data config.leeway=0",
    )
    .await;
    guide.demo.set_access_token_lifetime(LIFETIME);
    let browser = guide.browser(0);
    assert_eq!(browser.sign_in(&gateway("/"), "alice").await.status, 200);
    guide.demo.provider.forget_everyone();
    outlive(LIFETIME).await;
    let reply = browser.get(&gateway("/")).await;
    assert!(
        [302, 401].contains(&reply.status),
        "{} {}",
        reply.status,
        reply.text()
    );
    assert_eq!(browser.cookie(GATEWAY, "session"), None);
    assert_eq!(browser.sign_in(&gateway("/"), "alice").await.status, 200);
}
