//! What is secret, followed through every way of signing in, at the most talkative level that an operator would choose: it
//! is in no log, metric, status, explanation or answer to anybody else.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use harness::{Browser, Cluster, Reply, SECRET, eventually, outlive};
use http::Method;
use serde_json::json;

use crate::guide::{GATEWAY, Guide, gateway};

/// Strings that nobody is to see, and what each is.
#[derive(Default)]
struct Canaries(BTreeMap<String, String>);

impl Canaries {
    fn add(&mut self, what: &str, value: impl Into<String>) {
        let value = value.into();
        assert!(
            value.len() >= 8,
            "{what}: {value:?} would be found anywhere"
        );
        self.0.insert(value, what.to_owned());
    }

    /// The cookies that a browser has of the gateway.
    fn add_cookies(&mut self, browser: &Browser) {
        for name in browser.cookie_names(GATEWAY) {
            if let Some(value) = browser.cookie(GATEWAY, &name) {
                self.add(&format!("cookie {name}"), value);
            }
        }
    }

    /// The tokens that went upstream.
    fn add_tokens(&mut self, reply: &Reply) {
        for name in ["authorization", "x-id-token", "x-refresh-token"] {
            let sent = reply.upstream_header(name);
            let sent = sent.unwrap_or_else(|| panic!("{name} goes upstream: {}", reply.text()));
            self.add(name, sent.trim_start_matches("Bearer "));
        }
    }

    fn check(&self, place: &str, text: &str) {
        for (value, what) in &self.0 {
            // A part of a token is worth as little to anybody as it is to be told.
            let part = &value[value.len() - value.len().min(40)..];
            assert!(!text.contains(part), "{place} tells {what}");
        }
    }
}

/// How long an access token lives.
const LIFETIME: Duration = Duration::from_secs(2);

const OPTIONS: &str = "--data config.scopes=offline_access --data config.leeway=0 \
    --data config.upstream_id_token_header=x-id-token --data config.upstream_refresh_token_header=x-refresh-token \
    --data config.logout_uri_suffix=/logout --data config.logout_revoke=true \
    --data config.backchannel_logout_uri_suffix=/backchannel --data config.display_errors=true \
    --data config.session_secret=canary-session-secret --data config.refresh_token_param_name=refresh_token \
    --data config.refresh_grace=0";

#[tokio::test]
async fn rule_129_nothing_secret_is_told_whatever_happens() {
    let cluster = Cluster::start_with(1, &[("WARDGATE_LOG", "trace")]).await;
    let mut guide = Guide::set_up(cluster, OPTIONS).await;
    let file = guide.cluster.directory().join("exchanges.log");
    let logging = json!({ "name": "file-log", "config": { "path": file } });
    guide.cluster.create("/plugins", logging).await;
    guide.cluster.settled().await;
    let mut canaries = Canaries::default();
    canaries.add("the client's secret", SECRET);
    canaries.add("session_secret", "canary-session-secret");
    canaries.add("a password at the provider", "alice-password");
    let mut answers = sign_in(&guide, &mut canaries).await;
    answers.extend(credentials(&guide, &mut canaries).await);
    answers.extend(outage(&mut guide, &mut canaries).await);
    for answer in &answers {
        let headers = format!("{:?}", answer.headers);
        let told = format!("{} {}", headers, answer.text());
        canaries.check(&format!("an answer {}", answer.status), &told);
        explained(&guide, &canaries, answer).await;
    }
    everywhere(&guide, &canaries, &file).await;
}

/// Signs in, refreshes and goes. The answers to requests that somebody else could have made.
async fn sign_in(guide: &Guide, canaries: &mut Canaries) -> Vec<Reply> {
    guide.demo.set_access_token_lifetime(LIFETIME);
    let browser = guide.browser(0);
    let back = browser.log_in(&gateway("/?kept=1"), "alice").await;
    canaries.add_cookies(&browser);
    let argument = |name: &str| {
        let found = back.query_pairs().find(|(found, _)| found == name);
        found.map(|(_, value)| value.into_owned()).unwrap()
    };
    canaries.add("a code", argument("code"));
    let stranger = guide.browser(0).get(back.as_str()).await;
    let reply = browser.get(back.as_str()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    canaries.add_tokens(&reply);
    canaries.add_cookies(&browser);
    // The page is loaded again, and a code is brought that is none.
    let reloaded = guide.browser(0).get(back.as_str()).await;
    let state = argument("state");
    canaries.add("a code that is none", "canary-code-that-is-none");
    let forged = gateway(&format!("/api?code=canary-code-that-is-none&state={state}"));
    let forged = guide.browser(0).get(&forged).await;
    outlive(LIFETIME).await;
    let reply = browser.get(&gateway("/")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    canaries.add_tokens(&reply);
    canaries.add_cookies(&browser);
    // A cookie that has been changed.
    let session = browser.cookie(GATEWAY, "session").unwrap();
    let thief = guide.browser(0);
    let damaged = format!("{}canary", &session[..session.len() - 6]);
    thief.set_cookie(GATEWAY, "session", &damaged);
    canaries.add("a cookie that is none", damaged);
    let damaged = thief.get(&gateway("/")).await;
    assert_eq!(damaged.status, 302);
    let reply = browser.post_form(&gateway("/logout"), &[]).await;
    assert!([200, 302].contains(&reply.status), "{}", reply.text());
    let late = guide.browser(0);
    late.set_cookie(GATEWAY, "session", &session);
    let late = late.get(&gateway("/")).await;
    assert_eq!(late.status, 302);
    // Where a browser is sent, and by which cookies it is known there, is its own.
    let answers = [stranger, reloaded, forged, damaged, late];
    answers
        .into_iter()
        .map(|mut answer| {
            answer.headers.remove("set-cookie");
            answer
        })
        .collect()
}

/// Brings credentials of all kinds, in all places.
async fn credentials(guide: &Guide, canaries: &mut Canaries) -> Vec<Reply> {
    let mut answers = Vec::new();
    let json_type = ("content-type", "application/json");
    let form_type = ("content-type", "application/x-www-form-urlencoded");
    // `canary-user-name:canary-pass-word` and `canary-user-name:canary-other-word`.
    let basic = "Basic Y2FuYXJ5LXVzZXItbmFtZTpjYW5hcnktcGFzcy13b3Jk";
    canaries.add(
        "Basic credentials",
        "Y2FuYXJ5LXVzZXItbmFtZTpjYW5hcnktcGFzcy13b3Jk",
    );
    canaries.add("a password", "canary-pass-word");
    let token = "ey0.canary-bearer-token-that-is-no-jwt.x";
    canaries.add("a bearer token", token);
    let authorization = format!("Bearer {token}");
    for (number, header) in [
        ("authorization", basic),
        ("authorization", authorization.as_str()),
        ("x-access-token", token),
        ("refresh-token", "canary-refresh-token-of-a-client"),
        ("authorization", "Bearer"),
        ("authorization", "canary-token-without-a-scheme"),
    ]
    .into_iter()
    .enumerate()
    {
        let url = gateway(&format!("/credentials/{number}"));
        answers.push(guide.browser(0).get_with(&url, &[header]).await);
    }
    canaries.add("a refresh token", "canary-refresh-token-of-a-client");
    canaries.add("a token without a scheme", "canary-token-without-a-scheme");
    for (name, value) in [
        ("access_token", "canary-token-in-the-query"),
        ("refresh_token", "canary-refresh-in-the-query"),
        ("password", "canary-password-in-the-query"),
        ("client_secret", "canary-client-secret-in-the-query"),
        ("code", "canary-code-in-the-query"),
    ] {
        canaries.add(name, value);
        let beside = "username=canary&client_id=canary&state=x";
        let url = gateway(&format!("/query?{beside}&{name}={value}"));
        answers.push(guide.browser(0).get(&url).await);
    }
    for (kind, text, value) in [
        (
            form_type,
            "access_token=canary-token-in-a-form",
            "canary-token-in-a-form",
        ),
        (
            form_type,
            "username=x&password=canary-password-in-a-form",
            "canary-password-in-a-form",
        ),
        (
            json_type,
            r#"{"access_token":"canary-token-in-json"}"#,
            "canary-token-in-json",
        ),
    ] {
        canaries.add("what a body holds", value);
        let (browser, url) = (guide.browser(0), gateway("/body"));
        answers.push(browser.send(Method::POST, &url, &[kind], text).await);
    }
    canaries.add("a logout token", "canary-logout-token");
    let fields = [("logout_token", "a.canary-logout-token.b")];
    let url = gateway("/backchannel");
    answers.push(guide.browser(0).post_form(&url, &fields).await);
    // A sign-in that is under way keeps a form in its cookie; where it leads is its own.
    for answer in &mut answers {
        answer.headers.remove("set-cookie");
    }
    answers
}

/// Lets the provider fail for somebody whose tokens have ended, and for somebody with a code.
async fn outage(guide: &mut Guide, canaries: &mut Canaries) -> Vec<Reply> {
    let known = guide.browser(0);
    let reply = known.sign_in(&gateway("/"), "alice").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    canaries.add_tokens(&reply);
    canaries.add_cookies(&known);
    let coming = guide.browser(0);
    let back = coming.log_in(&gateway("/"), "bob").await;
    let code = back.query_pairs().find(|(name, _)| name == "code").unwrap();
    canaries.add("a code", code.1.into_owned());
    canaries.add_cookies(&coming);
    outlive(LIFETIME).await;
    guide.demo.stop_provider().await;
    let mut answers = vec![
        known.get(&gateway("/")).await,
        coming.get(back.as_str()).await,
        guide
            .browser(0)
            .get_with(
                &gateway("/"),
                &[("refresh-token", "canary-refresh-in-vain")],
            )
            .await,
    ];
    canaries.add("a refresh token", "canary-refresh-in-vain");
    for answer in &mut answers {
        assert_eq!(answer.status, 503, "{}", answer.text());
        answer.headers.remove("set-cookie");
    }
    answers
}

/// What operators are told of a request that was refused.
async fn explained(guide: &Guide, canaries: &Canaries, answer: &Reply) {
    let status = guide.cluster.data_planes[0].process.address("status");
    let id = answer.header("x-kong-request-id");
    let url = format!("http://{status}/openid-connect/explain/{id}");
    let told = Browser::new().get(&url).await.text();
    canaries.check(&format!("the explanation of {}", answer.url.path()), &told);
}

/// Looks at all that is written and told.
async fn everywhere(guide: &Guide, canaries: &Canaries, file: &std::path::Path) {
    let (node, control_plane) = (
        &guide.cluster.data_planes[0].process,
        guide.cluster.control_plane.as_ref().unwrap(),
    );
    let exchanges = eventually("exchanges are logged", async || {
        let text = fs::read_to_string(file).ok()?;
        text.contains("/credentials/0").then_some(text)
    })
    .await;
    canaries.check("the log of exchanges", &exchanges);
    let log = node.log();
    assert!(
        log.contains("DEBUG") || log.contains("\"debug\""),
        "it is talkative"
    );
    canaries.check("the data plane's log", &log);
    canaries.check("the control plane's log", &control_plane.log());
    for path in ["/status", "/metrics"] {
        let url = format!("http://{}{path}", node.address("status"));
        canaries.check(path, &Browser::new().get(&url).await.text());
    }
    for path in [
        "/clustering/data-planes",
        "/audit/requests",
        "/revisions",
        "/revisions/1..5",
        "/openid-connect/issuers",
        "/openid-connect/jwks",
        "/schemas/plugins/openid-connect",
    ] {
        let reply = guide.cluster.admin(Method::GET, path, &json!(null)).await;
        canaries.check(path, &reply.text());
    }
}
