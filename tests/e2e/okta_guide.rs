//! The guide's "Test your configuration", bullet by bullet, and its "Configure access restrictions".

use std::collections::HashMap;
use std::time::Duration;

use harness::{curl, eventually};
use serde_json::json;
use shared::clock::monotonic;

use crate::guide::{GATEWAY, Guide, assert_sign_in_demanded, created, gateway};

#[tokio::test]
async fn unauthorized_access_is_blocked() {
    let guide = Guide::start(1, "").await;
    let browser = guide.browser(0);
    let reply = browser.get(&gateway("/some/page?x=1")).await;
    assert_sign_in_demanded(&reply, &guide.demo);
    let location = reply.location().unwrap();
    let sent: HashMap<String, String> = location.query_pairs().into_owned().collect();
    for (name, value) in [
        ("client_id", harness::CLIENT),
        ("redirect_uri", "http://gateway.test/api"),
        ("response_type", "code"),
        ("scope", "openid email profile"),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(
            sent.get(name).map(String::as_str),
            Some(value),
            "{location}"
        );
    }
    for name in ["state", "nonce", "code_challenge"] {
        assert!(
            sent.get(name).is_some_and(|value| value.len() >= 16),
            "{name}: {location}"
        );
    }
    let cookies = browser.cookie_names(GATEWAY);
    assert!(
        matches!(cookies.as_slice(), [one, two] if one == "authorization" && two.starts_with("authorization_")),
        "{cookies:?}"
    );
    assert_eq!(guide.demo.upstream_requests(), 0);
}

#[tokio::test]
async fn authorized_access_is_allowed_after_sign_in() {
    let guide = Guide::start(1, "").await;
    let browser = guide.browser(0);
    let callback = browser.log_in(&gateway("/"), "alice").await;
    assert!(
        callback.as_str().starts_with(&gateway("/api?")),
        "{callback}"
    );
    let reply = browser.get(callback.as_str()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let authorization = reply.upstream_header("authorization").unwrap();
    assert!(authorization.starts_with("Bearer ey"), "{authorization}");
    assert_eq!(
        reply.upstream_header("cookie"),
        None,
        "the session is the gateway's business"
    );
    assert_eq!(
        browser.cookie_names(GATEWAY),
        ["session"],
        "the authorization cookie is used up"
    );
    let cookies: Vec<_> = reply.headers.get_all("set-cookie").iter().collect();
    let session = cookies
        .iter()
        .find(|line| line.as_bytes().starts_with(b"session="));
    let session = session.unwrap().to_str().unwrap();
    for attribute in ["Path=/", "SameSite=Lax", "HttpOnly"] {
        assert!(session.contains(attribute), "{session}");
    }
    // Without a consumer setting any user of the provider is let in, as nobody in particular.
    assert_eq!(reply.upstream_header("x-consumer-username"), None);
}

#[tokio::test]
async fn access_is_allowed_again_at_once_without_a_call_to_the_provider() {
    let guide = Guide::start(1, "").await;
    let browser = guide.browser(0);
    let first = browser.sign_in(&gateway("/"), "alice").await;
    let before = guide.demo.provider_requests();
    for _ in 0..5 {
        let again = browser.get(&gateway("/again")).await;
        assert_eq!(again.status, 200, "{}", again.text());
        assert_eq!(
            again.upstream_header("authorization"),
            first.upstream_header("authorization")
        );
    }
    assert_eq!(guide.demo.provider_requests(), before);
}

#[tokio::test]
async fn access_is_refused_after_the_session_ends() {
    let lifetime = "--data config.session_cookie_lifetime=2 --data config.session_cookie_renew=0";
    let guide = Guide::start(1, lifetime).await;
    let browser = guide.browser(0);
    let begun = monotonic();
    let reply = browser.sign_in(&gateway("/"), "alice").await;
    assert_eq!(reply.status, 200);
    // A browser would drop the cookie; a thief would not.
    let kept = browser.cookie(GATEWAY, "session").unwrap();
    let reply = browser.get(&gateway("/")).await;
    // On a machine that is busy it may be over by then.
    if begun.elapsed() < Duration::from_secs(1) {
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let over = eventually("the session ends", async || {
        browser.set_cookie(GATEWAY, "session", &kept);
        let reply = browser.get(&gateway("/")).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    assert_sign_in_demanded(&over, &guide.demo);
}

#[tokio::test]
async fn case_68_a_user_is_mapped_to_a_consumer_and_others_are_forbidden() {
    let guide = Guide::start(1, "").await;
    let admin = guide.cluster.admin_url();
    let consumer = created(&format!(
        r#"curl -i -X POST {admin}/consumers/ --data username="Yoda" --data custom_id="sub-alice""#
    ))
    .await;
    // Case 68: all else stays as it was.
    let path = format!("/plugins/{}", guide.plugin);
    let mut before = guide.cluster.read(&path).await;
    let patched = guide
        .patch(r#"--data config.consumer_by="custom_id" --data config.consumer_claim="sub""#)
        .await;
    before["config"]["consumer_by"] = json!(["custom_id"]);
    before["config"]["consumer_claim"] = json!(["sub"]);
    assert_eq!(patched["config"], before["config"]);
    let alice = guide.browser(0);
    let reply = alice.sign_in(&gateway("/"), "alice").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    for (header, value) in [
        ("x-consumer-username", "Yoda"),
        ("x-consumer-custom-id", "sub-alice"),
        ("x-consumer-id", consumer["id"].as_str().unwrap()),
    ] {
        assert_eq!(reply.upstream_header(header).as_deref(), Some(value));
    }
    let bob = guide.browser(0);
    let reply = bob.sign_in(&gateway("/"), "bob").await;
    assert_eq!(
        (reply.status, reply.json()["message"].as_str()),
        (403, Some("Forbidden"))
    );
    // Optional mapping lets bob in, as nobody in particular.
    guide.patch("--data config.consumer_optional=true").await;
    // The provider still knows him.
    let reply = bob.open(&gateway("/")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.upstream_header("x-consumer-username"), None);
}

#[tokio::test]
async fn groups_of_the_token_decide_through_the_acl_plugin() {
    let groups = "--data config.authenticated_groups_claim=groups";
    let guide = Guide::start(1, groups).await;
    let admin = guide.cluster.admin_url();
    created(&format!(
        "curl -X POST {admin}/services/openid-connect-demo/plugins --data name=acl --data config.allow=admins"
    ))
    .await;
    guide.cluster.settled().await;
    let reply = guide.browser(0).sign_in(&gateway("/"), "alice").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let shown = reply.upstream_header("x-authenticated-groups").unwrap();
    assert!(shown.contains("admins"), "{shown}");
    let reply = guide.browser(0).sign_in(&gateway("/"), "bob").await;
    let message = reply.json()["message"].clone();
    assert_eq!(
        (reply.status, message),
        (403, json!("You cannot consume this service"))
    );
}

#[tokio::test]
async fn signing_out_ends_the_session_here_and_at_the_provider() {
    let guide = Guide::start(
        1,
        r"--data config.logout_uri_suffix=/logout --data config.logout_methods=GET \
          --data config.logout_redirect_uri=http://gateway.test/bye",
    )
    .await;
    let browser = guide.browser(0);
    assert_eq!(browser.sign_in(&gateway("/"), "alice").await.status, 200);
    let reply = browser.get(&gateway("/logout")).await;
    assert_eq!(reply.status, 302, "{}", reply.text());
    let location = reply.location().unwrap();
    assert!(
        location
            .as_str()
            .starts_with(&format!("{}/end-session?", guide.demo.issuer()))
    );
    let sent: HashMap<_, _> = location.query_pairs().into_owned().collect();
    assert!(sent.contains_key("id_token_hint"), "{location}");
    assert_eq!(sent["post_logout_redirect_uri"], gateway("/bye"));
    assert_eq!(browser.cookie(GATEWAY, "session"), None);
    let back = browser.get(location.as_str()).await;
    // The provider gives the state back that the gateway has sent along.
    let end = format!("{}?state={}", gateway("/bye"), sent["state"]);
    assert_eq!(back.location().unwrap().as_str(), end);
    // Signed out at the provider too: it asks for the password again.
    let page = browser.open(&gateway("/")).await;
    assert!(page.text().contains("name=\"password\""), "{}", page.text());
}

#[tokio::test]
async fn a_programs_bearer_token_is_checked_on_the_node() {
    let guide = Guide::start(1, "--data config.auth_methods=bearer").await;
    let browser = guide.browser(0);
    let reply = browser.get(&gateway("/")).await;
    assert_eq!(
        (reply.status, reply.json()["message"].as_str()),
        (401, Some("Unauthorized"))
    );
    assert!(
        reply.header("www-authenticate").starts_with("Bearer"),
        "{:?}",
        reply.headers
    );
    let token = guide
        .demo
        .provider
        .access_token("alice", harness::CLIENT, "openid")
        .unwrap();
    let call = async |token: &str| {
        let header = format!("Bearer {token}");
        browser
            .get_with(&gateway("/"), &[("authorization", &header)])
            .await
    };
    let reply = call(&token).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let before = guide.demo.provider_requests();
    assert_eq!(call(&token).await.status, 200);
    assert_eq!(guide.demo.provider_requests(), before);
    let mut forged = token.clone().into_bytes();
    let last = forged.len() - 10;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    assert_eq!(call(&String::from_utf8(forged).unwrap()).await.status, 401);
    guide.demo.set_access_token_lifetime(Duration::ZERO);
    let expired = guide
        .demo
        .provider
        .access_token("alice", harness::CLIENT, "openid")
        .unwrap();
    assert_eq!(call(&expired).await.status, 401);
}

#[tokio::test]
async fn a_mistake_in_the_guides_command_names_the_field() {
    let guide = Guide::start(1, "").await;
    let admin = guide.cluster.admin_url();
    let before = guide.cluster.read("/status").await["configuration_revision"].clone();
    for (data, field) in [
        ("--data name=openid-connect", "issuer"),
        (
            "--data name=openid-connect --data config.issuer=nowhere",
            "issuer",
        ),
        (
            "--data name=openid-connect --data config.issuer=https://a --data config.scope=x",
            "scope",
        ),
        (
            "--data name=openid-connect --data config.issuer=https://a --data config.leeway=x",
            "leeway",
        ),
    ] {
        let reply = curl(&format!(
            "curl -X POST {admin}/services/openid-connect-demo/plugins {data}"
        ))
        .await;
        let fields = &reply.json()["fields"]["config"];
        assert_eq!(reply.status, 400, "{data}: {}", reply.text());
        assert!(fields.get(field).is_some(), "{data}: {}", reply.text());
    }
    let after = guide.cluster.read("/status").await["configuration_revision"].clone();
    assert_eq!(before, after);
}
