//! What holds on one node holds on all: logouts, and one refresh per session.

use std::time::Duration;

use harness::{Browser, PATIENCE, Relay, Reply, eventually, outlive, read_head};
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wardgate::provider::SigningKey;

use crate::guide::{GATEWAY, Guide, gateway};

/// How long an access token lives that is to end soon.
const BRIEF: Duration = Duration::from_secs(2);

/// Waits until a token that came with [`BRIEF`] has ended. Those that come from now on do not end here: however long it takes
/// whoever asks for them, they are still good.
async fn expire(guide: &Guide) {
    outlive(BRIEF).await;
    let long = Duration::from_hours(1);
    guide.demo.set_access_token_lifetime(long);
}

#[tokio::test]
async fn a_logout_holds_on_every_node_and_after_a_restart() {
    let mut guide = Guide::start(2, "--data config.logout_uri_suffix=/logout").await;
    let browser = guide.browser(0);
    assert_eq!(browser.sign_in(&gateway("/"), "alice").await.status, 200);
    let session = browser.cookie(GATEWAY, "session").unwrap();
    // Somebody has a copy of the cookie.
    let thief = |guide: &Guide, at| {
        let thief = guide.browser(at);
        thief.set_cookie(GATEWAY, "session", &session);
        thief
    };
    assert_eq!(thief(&guide, 1).get(&gateway("/")).await.status, 200);
    let reply = browser.post_form(&gateway("/logout"), &[]).await;
    assert!([200, 302].contains(&reply.status), "{}", reply.text());
    for at in [0, 1] {
        eventually("the session is over", async || {
            let reply = thief(&guide, at).get(&gateway("/")).await;
            (reply.status == 302).then_some(())
        })
        .await;
    }
    guide.cluster.settled().await;
    guide.cluster.persisted().await;
    guide.cluster.control_plane.take().unwrap().kill();
    // In order, since two crashes soon after a change are more than chance.
    let node = guide.cluster.data_planes.remove(0);
    node.process.stop().await;
    guide.cluster.start_data_plane(&node.name).await;
    let reply = thief(&guide, 1).get(&gateway("/")).await;
    assert_eq!(reply.status, 302, "{}", reply.text());
    // Others are let in as before.
    let bob = guide.browser(1);
    let reply = bob.sign_in(&gateway("/"), "bob").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    // A logout that no control plane has heard of holds after a restart all the same.
    let session = bob.cookie(GATEWAY, "session").unwrap();
    let thief = |guide: &Guide, at| {
        let thief = guide.browser(at);
        thief.set_cookie(GATEWAY, "session", &session);
        thief
    };
    let reply = bob.post_form(&gateway("/logout"), &[]).await;
    assert!([200, 302].contains(&reply.status), "{}", reply.text());
    let data = guide.cluster.directory().join("data").join(&node.name);
    let unstored = data.join("unstored-revocations");
    eventually("the logout is on disk", async || {
        unstored.exists().then_some(())
    })
    .await;
    let reply = thief(&guide, 0).get(&gateway("/")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let node = guide.cluster.data_planes.remove(1);
    node.process.kill();
    guide.cluster.start_data_plane(&node.name).await;
    let reply = thief(&guide, 1).get(&gateway("/")).await;
    assert_eq!(reply.status, 302, "{}", reply.text());
    // And everywhere, once there is a control plane again.
    guide.cluster.start_control_plane().await;
    eventually("the session is over on the other node", async || {
        let reply = thief(&guide, 0).get(&gateway("/")).await;
        (reply.status == 302).then_some(())
    })
    .await;
    eventually("the logout is stored", async || {
        (!unstored.exists()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nodes_that_meet_an_expired_session_at_once_refresh_it_once() {
    let options = "--data config.scopes=offline_access --data config.leeway=0";
    let mut guide = Guide::start(2, options).await;
    // A token that comes twice ends the session at this provider.
    let strict = |settings: &mut wardgate::provider::ProviderSettings| {
        settings.refresh_reuse_leeway = Duration::ZERO;
    };
    guide.demo.provider.configure(strict);
    // A code that comes to both at once is redeemed once, for both: the provider refuses it the second time.
    let browser = guide.browser(0);
    let back = browser.log_in(&gateway("/"), "bob").await;
    let tabs = [0, 1].map(|at| {
        let tab = guide.browser(at);
        tab.take_cookies(&browser, GATEWAY);
        let back = back.clone();
        async move { tab.get(back.as_str()).await.status }
    });
    assert_eq!(futures::future::join_all(tabs).await, [200, 200]);
    let (browser, alone) = (guide.browser(0), guide.browser(1));
    guide.demo.set_access_token_lifetime(BRIEF);
    let first = alone.sign_in(&gateway("/"), "alice").await;
    assert_eq!(first.status, 200, "{}", first.text());
    assert_eq!(browser.sign_in(&gateway("/"), "alice").await.status, 200);
    let session = browser.cookie(GATEWAY, "session").unwrap();
    // What comes of the refresh lasts for as long as it takes all of them to ask for it.
    expire(&guide).await;
    let tabs = (0..16).map(|tab| {
        let tab = guide.browser(tab % 2);
        tab.set_cookie(GATEWAY, "session", &session);
        async move {
            let reply = tab.get(&gateway("/")).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            reply.upstream_header("authorization").unwrap()
        }
    });
    let tokens = futures::future::join_all(tabs).await;
    assert!(tokens.iter().all(|token| *token == tokens[0]));
    // One that comes late with the old cookie is served by the same refresh, also by the other node.
    for at in [0, 1] {
        let late = guide.browser(at);
        late.set_cookie(GATEWAY, "session", &session);
        let reply = late.get(&gateway("/")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    // Without a control plane a node refreshes for itself.
    guide.cluster.control_plane.take().unwrap().kill();
    let reply = alone.get(&gateway("/")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let token = |reply: &Reply| reply.upstream_header("authorization").unwrap();
    assert_ne!(token(&reply), token(&first));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_41_processes_that_take_over_use_no_token_twice() {
    let options = "--data config.scopes=offline_access --data config.leeway=0";
    let mut guide = Guide::start(2, options).await;
    guide.demo.provider.configure(|settings| {
        settings.refresh_reuse_leeway = Duration::ZERO;
    });
    guide.cluster.persisted().await;
    let begun = tokio::time::Instant::now();
    for round in 0..6 {
        let browser = guide.browser(0);
        guide.demo.set_access_token_lifetime(BRIEF);
        assert_eq!(browser.sign_in(&gateway("/"), "alice").await.status, 200);
        let session = browser.cookie(GATEWAY, "session").unwrap();
        expire(&guide).await;
        let tabs: Vec<_> = [0, 1, 1, 0].map(|at| guide.browser(at)).into();
        let asking = tabs.iter().enumerate().map(|(number, tab)| {
            let session = &session;
            async move {
                // Some meet the process that goes, some the one that comes.
                for asked in 0..8 {
                    tab.set_cookie(GATEWAY, "session", session);
                    let reply = tab.get(&gateway("/")).await;
                    let at = begun.elapsed();
                    let text = reply.text();
                    assert_eq!(reply.status, 200, "{round} {number} {asked} {at:?}: {text}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        });
        let process = &mut guide.cluster.data_planes[round % 2].process;
        tokio::join!(process.succeed("USR2"), futures::future::join_all(asking));
    }
}

#[tokio::test]
async fn rule_41_the_next_process_of_a_node_that_is_alone_uses_no_token_of_the_one_before() {
    let options = "--data config.scopes=offline_access --data config.leeway=0";
    let mut guide = Guide::start(1, options).await;
    guide.demo.provider.configure(|settings| {
        settings.refresh_reuse_leeway = Duration::ZERO;
    });
    guide.cluster.persisted().await;
    guide.demo.set_access_token_lifetime(BRIEF);
    let browser = guide.browser(0);
    assert_eq!(browser.sign_in(&gateway("/"), "alice").await.status, 200);
    let session = browser.cookie(GATEWAY, "session").unwrap();
    guide.cluster.control_plane.take().unwrap().kill();
    outlive(BRIEF).await;
    let reply = browser.get(&gateway("/")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_ne!(browser.cookie(GATEWAY, "session").unwrap(), session);
    let token = |reply: &Reply| reply.upstream_header("authorization").unwrap();
    let given = token(&reply);
    guide.cluster.data_planes[0].process.succeed("USR2").await;
    // What the browser has sent before it had the new cookie.
    let late = guide.browser(0);
    late.set_cookie(GATEWAY, "session", &session);
    let reply = late.get(&gateway("/")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    // At a second use the provider would have ended all that came of the first.
    expire(&guide).await;
    let reply = browser.get(&gateway("/")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_ne!(token(&reply), given, "it is refreshed");
}

#[tokio::test]
async fn a_form_that_no_cookie_holds_comes_back_on_any_node() {
    let mut guide = Guide::start(2, "").await;
    // Nearly 64 KiB, of which compressing leaves most.
    let mut state = 1_u64;
    let characters = (0..60_000).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b'a' + u8::try_from((state >> 33) % 26).unwrap())
    });
    let text: String = characters.collect();
    let begin = async |guide: &Guide| {
        let browser = guide.browser(0);
        let fields = [("text", text.as_str())];
        let start = browser.post_form(&gateway("/orders"), &fields).await;
        assert_eq!(start.status, 302, "{}", start.text());
        let provider = start.location().unwrap();
        let back = browser.log_in(provider.as_str(), "alice").await;
        (browser, back)
    };
    let finish = async |browser: &Browser, back: &url::Url| {
        let page = browser.get(back.as_str()).await;
        assert_eq!(page.status, 200);
        assert!(page.text().contains(&text), "{}", page.text().len());
    };
    let (mut browser, back) = begin(&guide).await;
    guide.turn(&mut browser, 1);
    finish(&browser, &back).await;
    // Also where the node is gone that it was posted to.
    let (mut browser, back) = begin(&guide).await;
    guide.turn(&mut browser, 1);
    guide.cluster.data_planes.remove(0).process.stop().await;
    finish(&browser, &back).await;
    // Without a control plane on the one that it was posted to.
    guide.cluster.control_plane.take().unwrap().kill();
    let (browser, back) = begin(&guide).await;
    finish(&browser, &back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_41_a_control_plane_that_starts_again_has_no_token_used_twice() {
    let options =
        "--data config.scopes=offline_access --data config.leeway=0 --data config.timeout=60000";
    let mut guide = Guide::start(2, options).await;
    guide.demo.provider.configure(|settings| {
        settings.refresh_reuse_leeway = Duration::ZERO;
    });
    let issuer = guide.demo.issuer();
    let provider = Relay::start(issuer.trim_start_matches("http://")).await;
    let endpoint = format!(
        "--data config.token_endpoint=http://{}/token",
        provider.address()
    );
    guide.patch(&endpoint).await;
    for is_killed in [true, false] {
        let first = guide.browser(0);
        guide.demo.set_access_token_lifetime(BRIEF);
        assert_eq!(first.sign_in(&gateway("/"), "alice").await.status, 200);
        let session = first.cookie(GATEWAY, "session").unwrap();
        let second = guide.browser(1);
        second.set_cookie(GATEWAY, "session", &session);
        expire(&guide).await;
        // The provider takes its time, and the control plane that knows who is at it goes away.
        provider.silence();
        let before = guide.demo.provider_requests();
        let refreshing = async {
            let reply = first.get(&gateway("/")).await;
            assert_eq!(reply.status, 200, "{is_killed}: {}", reply.text());
        };
        let cluster = &mut guide.cluster;
        let meanwhile = async {
            provider.is_used().await;
            let control_plane = cluster.control_plane.take().unwrap();
            if is_killed {
                control_plane.kill();
            } else {
                control_plane.stop().await;
            }
            cluster.start_control_plane().await;
            cluster.settled().await;
            let page = gateway("/");
            let late = second.get(&page);
            let healing = async {
                // Nobody says when a node is told to wait: whoever is given the work asks at once.
                tokio::time::sleep(Duration::from_millis(300)).await;
                provider.heal();
            };
            let (late, ()) = tokio::join!(late, healing);
            assert_eq!(late.status, 200, "{is_killed}: {}", late.text());
        };
        tokio::join!(refreshing, meanwhile);
        assert_eq!(guide.demo.provider_requests(), before + 1, "{is_killed}");
        // Neither node has the other one's tokens revoked.
        assert_eq!(second.get(&gateway("/")).await.status, 200);
    }
}

#[tokio::test]
async fn rule_25_a_control_plane_that_starts_hears_again_which_codes_are_redeemed() {
    let mut guide = Guide::start(2, "").await;
    let first = guide.browser(0);
    let callback = first.log_in(&gateway("/"), "alice").await;
    let second = guide.browser(1);
    second.take_cookies(&first, GATEWAY);
    assert_eq!(first.open(callback.as_str()).await.status, 200);
    // It knows the provider.
    assert_eq!(guide.browser(1).get(&gateway("/")).await.status, 302);
    let before = guide.demo.provider_requests();
    guide.cluster.control_plane.take().unwrap().kill();
    guide.cluster.start_control_plane().await;
    guide.cluster.settled().await;
    let reply = second.open(callback.as_str()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(guide.demo.provider_requests(), before);
}

#[tokio::test]
async fn rule_41_new_tokens_that_nobody_can_judge_yet_end_no_session_on_any_node() {
    let options =
        "--data config.scopes=offline_access --data config.leeway=0 --data config.refresh_grace=0";
    let guide = Guide::start(2, options).await;
    guide.demo.set_access_token_lifetime(BRIEF);
    guide.demo.provider.configure(|settings| {
        settings.refresh_reuse_leeway = Duration::ZERO;
    });
    let browser = guide.browser(0);
    assert_eq!(browser.sign_in(&gateway("/"), "alice").await.status, 200);
    let session = browser.cookie(GATEWAY, "session").unwrap();
    expire(&guide).await;
    let unpublished = SigningKey::generate();
    let provider = &guide.demo.provider;
    provider.on_draft(move |draft| {
        draft.header.kid = Some(unpublished.id.clone());
        draft.key = unpublished.clone();
    });
    // A token that comes twice would end the session.
    for at in [0, 1, 1, 0] {
        let tab = guide.browser(at);
        tab.set_cookie(GATEWAY, "session", &session);
        let reply = tab.get(&gateway("/")).await;
        assert_eq!(reply.status, 503, "{at}: {}", reply.text());
        assert_eq!(reply.header("set-cookie"), "", "{at}");
    }
}

#[tokio::test]
async fn revoked_session_keys_end_every_session_at_once() {
    let guide = Guide::start(2, "").await;
    let mut browser = guide.browser(0);
    assert_eq!(browser.sign_in(&gateway("/"), "alice").await.status, 200);
    let before = guide.cluster.read("/clustering/session-keys").await;
    assert_eq!(before["data"][0]["state"], "ready");
    assert!(before["data"][0]["secret"].is_null());
    let path = "/clustering/session-keys/revoke";
    let reply = guide.cluster.admin(Method::POST, path, &json!({})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let states: Vec<_> = reply.json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states, ["revoked", "ready"]);
    for at in [0, 1] {
        guide.turn(&mut browser, at);
        eventually("the session is over", async || {
            let reply = browser.get(&gateway("/")).await;
            (reply.status == 302).then_some(())
        })
        .await;
    }
    // The provider still knows the user.
    assert_eq!(browser.open(&gateway("/")).await.status, 200);
}

/// An upstream that begins what is asked of it, and ends nothing.
async fn endless() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut streams = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await.unwrap().to_ascii_lowercase();
            let begun: &[u8] = if head.contains("upgrade: websocket") {
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\x81\x02hi"
            } else {
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"
            };
            stream.write_all(begun).await.unwrap();
            streams.push(stream);
        }
    });
    url
}

#[tokio::test]
async fn rule_95_what_a_session_has_begun_ends_with_it_on_every_node() {
    let guide = Guide::start(2, "--data config.logout_uri_suffix=/logout").await;
    let browser = guide.browser(0);
    assert_eq!(browser.sign_in(&gateway("/"), "alice").await.status, 200);
    let session = browser.cookie(GATEWAY, "session").unwrap();
    let changed = json!({"url": endless().await, "read_timeout": 60_000});
    let path = "/services/openid-connect-demo";
    let reply = guide.cluster.admin(Method::PATCH, path, &changed).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    guide.cluster.settled().await;
    let mut begun = Vec::new();
    for at in [0, 1] {
        for (fields, last) in [
            ("", &b"2\r\nhi\r\n"[..]),
            (
                "Connection: Upgrade\r\nUpgrade: websocket\r\n",
                b"\x81\x02hi\x88\x02\x03\xf0",
            ),
        ] {
            let node = guide.cluster.url(at);
            let node = node.trim_start_matches("http://");
            let mut stream = TcpStream::connect(node).await.unwrap();
            let request = format!(
                "GET / HTTP/1.1\r\nHost: {GATEWAY}\r\nCookie: session={session}\r\n{fields}\r\n"
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let head = read_head(&mut stream).await.unwrap();
            assert!(!head.starts_with("HTTP/1.1 302"));
            begun.push((stream, last));
        }
    }
    let reply = browser.post_form(&gateway("/logout"), &[]).await;
    assert!([200, 302].contains(&reply.status), "{}", reply.text());
    for (mut stream, last) in begun {
        let mut heard = Vec::new();
        let reading = stream.read_to_end(&mut heard);
        let ended = tokio::time::timeout(PATIENCE, reading).await;
        ended.expect("the logout ends it").unwrap();
        assert_eq!(heard, last);
    }
}
