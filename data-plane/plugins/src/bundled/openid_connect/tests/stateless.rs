//! Answers of a provider that say too little of which sign-in they answer.

use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use serde_json::{Value, json};

use super::conformance::reason;
use super::gateway::{Browser, Gateway, request};
use crate::sessions::session_keys::KeyRing;
use crate::testing::session_key;

/// What becomes of `answer` at the URL that the provider was told, with `{state}` in the place of the sign-in's.
fn answered(config: Value, answer: &str) -> (u16, String) {
    let (mut gateway, mut browser) = (Gateway::new(config), Browser::default());
    let start = browser.get(&mut gateway, "/api");
    let state = start.argument("state").unwrap();
    let answer = answer.replace("{state}", &state);
    let reply = browser.get(&mut gateway, &format!("/api?{answer}"));
    assert!(!reply.sets_session() && gateway.provider.called("/token") == 0);
    (
        reply.status,
        if reply.status == 401 {
            reason(&gateway)
        } else {
            String::new()
        },
    )
}

#[test]
fn rule_1_an_answer_without_what_it_needs_is_a_failed_sign_in() {
    let check = |answer: &str, status: u16, code: &str| {
        let outcome = answered(json!({}), answer);
        assert_eq!((outcome.0, &*outcome.1), (status, code), "{answer}");
    };
    check("error=access_denied", 401, "state_missing");
    check(
        "error=invalid_request&error_description=x",
        401,
        "state_missing",
    );
    check("state={state}", 401, "code_missing");
    check("state={state}&session_state=1", 401, "code_missing");
    // Other applications have arguments of these names.
    for theirs in ["error=1", "code=SUMMER", "state=ohio", "response=1", "a=1"] {
        check(theirs, 302, "");
    }
    let (mut gateway, mut browser) = (Gateway::new(json!({})), Browser::default());
    assert_eq!(
        browser.get(&mut gateway, "/api?error=access_denied").status,
        302
    );
    // Where the provider was not told to send anybody.
    assert_eq!(
        browser
            .get(&mut gateway, "/else?error=access_denied")
            .status,
        302
    );
    browser.sign_in(&mut gateway, "/api");
    assert_eq!(
        browser.get(&mut gateway, "/api?error=access_denied").status,
        200
    );
}

#[test]
fn rule_26_a_response_that_nobody_signed_is_a_failed_sign_in() {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let body = part(json!({ "code": "c", "state": "s" }));
    let unsigned = format!("{}.{body}.", part(json!({ "alg": "none" })));
    for answer in [
        unsigned.clone(),
        format!("{unsigned}AA"),
        "x.y.AA".to_owned(),
        "x".to_owned(),
    ] {
        let outcome = answered(
            json!({ "response_mode": "jwt" }),
            &format!("response={answer}"),
        );
        assert_eq!((outcome.0, &*outcome.1), (401, "idt_alg"), "{answer}");
    }
    let encrypted = "response=eyJhbGciOiJSU0ExXzUiLCJlbmMiOiJBMTI4R0NNIn0.a.b.c.d";
    let outcome = answered(json!({ "response_mode": "jwt" }), encrypted);
    assert_eq!((outcome.0, &*outcome.1), (401, "jarm"));
}

#[test]
fn rule_18_a_provider_that_answers_nothing_of_use_makes_no_circle() {
    // Who typed the address has begun all that follows: `none` is said to its end.
    for (answer, site) in [
        ("code=c", "cross-site"),
        ("error=odd", "none"),
        ("code=c", "none"),
        ("iss=i", "cross-site"),
        ("session_state=s", "none"),
    ] {
        let (mut gateway, mut browser) = (Gateway::new(json!({})), Browser::default());
        browser.get_with(&mut gateway, "/api", "sec-fetch-site", site);
        let uri = format!("/api?{answer}");
        let mut come_back = || browser.get_with(&mut gateway, &uri, "sec-fetch-site", site);
        let statuses: Vec<_> = (0..4).map(|_| come_back().status).collect();
        assert_eq!(statuses, [302, 302, 400, 400], "{answer} {site}");
        let told = come_back().json()["message"].to_string();
        assert!(
            told.contains("the OpenID provider sends the browser back"),
            "{told}"
        );
        // Later it is tried again.
        gateway.advance(31);
        let reply = browser.get(&mut gateway, &format!("/api?{answer}"));
        assert_eq!(reply.status, 302, "{answer}");
    }
}

#[test]
fn rule_18_a_provider_that_posts_nothing_makes_no_circle() {
    let large = format!("document={}", "x".repeat(70_000));
    for (origin, form, expected) in [
        ("https://idp.example", "", [302, 302, 400, 400]),
        // A page of the application.
        ("http://gateway.example", "", [302; 4]),
        // Forms for the application, be they larger than what is looked into.
        ("https://partner.example", "document=x", [302; 4]),
        ("https://partner.example", large.as_str(), [302; 4]),
    ] {
        let mut gateway = Gateway::new(json!({ "response_mode": "form_post" }));
        let mut browser = Browser::default();
        assert_eq!(browser.get(&mut gateway, "/api").status, 302);
        let statuses = [(); 4].map(|()| {
            let kind = "application/x-www-form-urlencoded";
            let mut request = request("/api", &[("origin", origin), ("content-type", kind)]);
            request.method = Method::POST;
            request.body = form.to_owned().into();
            browser.send(&mut gateway, request).status
        });
        assert_eq!(statuses, expected, "{origin} {}", form.len());
    }
}

#[test]
fn rule_18_no_provider_sends_a_browser_round_by_answers_of_another_kind() {
    for (mode, answer, posted) in [
        ("form_post", "code=c", true),
        ("form_post.jwt", "code=c&state=s", true),
        ("form_post.jwt", "error=access_denied&state=s", true),
        ("query", "response=r", false),
        ("query.jwt", "code=c&state=s", false),
    ] {
        let mut gateway = Gateway::new(json!({ "response_mode": mode }));
        let mut browser = Browser::default();
        assert_eq!(browser.get(&mut gateway, "/api").status, 302);
        let statuses = [(); 4].map(|()| {
            let reply = if posted {
                browser.post(&mut gateway, "/api", answer)
            } else {
                browser.get(&mut gateway, &format!("/api?{answer}"))
            };
            reply.status
        });
        assert_eq!(statuses, [302, 302, 400, 400], "{mode} {answer}");
    }
}

#[test]
fn rule_18_a_provider_that_sends_a_browser_back_with_nothing_makes_no_circle() {
    let come_back = |from: &str, site: Option<&'static str>, mode: &str, uri: &str| {
        let config = json!({
            "redirect_uri": ["https://gateway.example/cb"], "response_mode": mode,
        });
        let (mut gateway, mut browser) = (Gateway::new(config), Browser::default());
        gateway.https = true;
        assert_eq!(browser.get(&mut gateway, from).status, 302);
        [(); 4].map(|()| {
            let reply = match site {
                Some(site) => browser.get_with(&mut gateway, uri, "sec-fetch-site", site),
                None if mode.starts_with("form_post") => browser.post(&mut gateway, uri, ""),
                None => browser.get(&mut gateway, uri),
            };
            reply.status
        })
    };
    let ended = [302, 302, 400, 400];
    for mode in [
        "query",
        "form_post",
        "fragment",
        "query.jwt",
        "form_post.jwt",
    ] {
        for uri in ["/cb", "/cb?iss=i", "/cb?session_state=s", "/cb?id_token=t"] {
            assert_eq!(come_back("/app", None, mode, uri), ended, "{mode} {uri}");
            let led = come_back("/app", Some("cross-site"), mode, uri);
            assert_eq!(led, ended, "{mode} {uri}");
        }
    }
    // Pages of the application that are opened in several tabs.
    for (from, site, uri) in [
        ("/cb", None, "/cb"),
        ("/app", None, "/other"),
        ("/app", Some("none"), "/cb"),
        ("/app", Some("same-origin"), "/cb"),
    ] {
        assert_eq!(
            come_back(from, site, "query", uri),
            [302; 4],
            "{from} {uri}"
        );
    }
}

#[test]
fn rule_18_a_provider_makes_no_circle_where_redirect_uri_has_a_query() {
    let ended = [302, 302, 400, 400];
    for (from, uri, expected) in [
        ("/app", "/cb?x=1", ended),
        ("/app", "/cb?x=1&iss=i", ended),
        ("/app", "/cb?x=1&code=c", ended),
        // Pages of the application.
        ("/app", "/cb?x=2", [302; 4]),
        ("/cb?x=1", "/cb?x=1", [302; 4]),
    ] {
        let told = json!({ "redirect_uri": ["http://gateway.example/cb?x=1"] });
        let (mut gateway, mut browser) = (Gateway::new(told), Browser::default());
        assert_eq!(browser.get(&mut gateway, from).status, 302);
        let statuses = [(); 4].map(|()| browser.get(&mut gateway, uri).status);
        assert_eq!(statuses, expected, "{from} {uri}");
    }
}

#[test]
fn rule_17_arguments_of_an_application_are_no_answers_in_vain() {
    let told = json!({ "redirect_uri": ["http://gateway.example/cb"] });
    for (config, asked) in [
        (json!({}), "/issues?state=open"),
        (told.clone(), "/issues?state=open"),
        (told.clone(), "/shop?code=SUMMER"),
        (told, "/log?error=odd"),
    ] {
        let (mut gateway, mut browser) = (Gateway::new(config), Browser::default());
        for tab in 0..6 {
            assert_eq!(
                browser.get(&mut gateway, asked).status,
                302,
                "{asked} {tab}"
            );
        }
    }
    let (mut gateway, mut browser) = (Gateway::new(json!({})), Browser::default());
    for tab in 0..6 {
        let (name, site) = ("sec-fetch-site", "same-origin");
        let reply = browser.get_with(&mut gateway, "/item?code=5", name, site);
        assert_eq!(reply.status, 302, "{tab}");
    }
}

#[test]
fn rule_1_a_state_that_is_not_taken_is_told_why() {
    let mut gateway = Gateway::new(json!({}));
    let (mut browser, mut other) = (Browser::default(), Browser::default());
    let start = browser.get(&mut gateway, "/api");
    let back = format!("/api?{}", gateway.provider.authorize(start.location()));
    let why = |gateway: &mut Gateway, browser: &mut Browser, uri: &str| {
        // It has a sign-in of its own under way.
        assert_eq!(browser.get(gateway, "/api").status, 302);
        let status = browser.get(gateway, uri).status;
        (status, reason(gateway))
    };
    let expected = |code: &str| (401, code.to_owned());
    let forged = "/api?code=x&state=forged";
    let unknown = why(&mut gateway, &mut other, forged);
    assert_eq!(unknown, expected("state_unknown"));
    let foreign = why(&mut gateway, &mut other, &back);
    assert_eq!(foreign, expected("state_wrong_browser"));
    assert_eq!(browser.get(&mut gateway, &back).status, 200);
    browser.cookies.clear();
    let reused = why(&mut gateway, &mut browser, &back);
    assert_eq!(reused, expected("state_reused"));
}

#[test]
fn arguments_of_an_application_outlast_a_sign_in() {
    for asked in [
        "state=CA&city=LA",
        "code=5&a=1",
        "error=1&error_description=z",
        "iss=x&session_state=1&response=2",
        "state=CA&code=5&city=LA",
        "state=CA&error=e&iss=i&city=LA&&",
        // It is a client of the same provider.
        "code=5&state=mine&iss=https%3A%2F%2Fidp.example&session_state=1",
    ] {
        for action in ["redirect", "upstream"] {
            let mut gateway = Gateway::new(json!({
                "preserve_query_args": true, "login_action": action, "login_tokens": null,
            }));
            let mut browser = Browser::default();
            let start = browser.get(&mut gateway, &format!("/x?{asked}"));
            assert_eq!(start.status, 302, "{asked}");
            let back = gateway.provider.authorize(start.location());
            let reply = browser.get(&mut gateway, &format!("/x?{back}"));
            if action == "redirect" {
                let expected = format!("http://gateway.example/x?{asked}");
                assert_eq!((reply.status, reply.location()), (302, &*expected));
            } else {
                let (uri, _) = reply.upstream.unwrap();
                assert_eq!(uri, &*format!("/x?{asked}"));
            }
            // With the session, all of it is the application's.
            let (uri, _) = browser
                .get(&mut gateway, &format!("/x?{asked}"))
                .upstream
                .unwrap();
            assert_eq!(uri, &*format!("/x?{asked}"));
        }
    }
}

#[test]
fn what_no_provider_leads_to_has_arguments_of_answers_that_are_its_own() {
    // An application that is an OAuth client itself, whose user comes back while the gateway's session is over.
    for asked in [
        "a=1&code=mine&state=mine&b=2",
        "code=a&state=b&iss=x&session_state=1&scope=y",
        "error=access_denied&state=mine",
    ] {
        for (action, is_form) in [("redirect", false), ("upstream", false), ("redirect", true)] {
            let mut gateway = Gateway::new(json!({
                "redirect_uri": ["http://gateway.example/cb"], "preserve_query_args": true,
                "login_action": action, "login_tokens": null,
            }));
            let mut browser = Browser::default();
            let uri = format!("/own/cb?{asked}");
            let start = if is_form {
                browser.post(&mut gateway, &uri, "field=1")
            } else {
                browser.get(&mut gateway, &uri)
            };
            assert_eq!(start.status, 302, "{asked}");
            let back = gateway.provider.authorize(start.location());
            let reply = browser.get(&mut gateway, &format!("/cb?{back}"));
            let led = if action == "redirect" && !is_form {
                reply.location().to_owned()
            } else if is_form {
                String::from_utf8_lossy(&reply.body).replace("&amp;", "&")
            } else {
                reply.upstream.unwrap().0.to_string()
            };
            assert!(led.contains(asked), "{action} {asked}: {led}");
            let (uri, _) = browser.get(&mut gateway, &uri).upstream.unwrap();
            assert_eq!(uri, &*format!("/own/cb?{asked}"));
            if action == "upstream" {
                continue;
            }
            // Where it does lead, they are the provider's, and with a state of ours wherever they come.
            for (uri, expected) in [
                (format!("/cb?{asked}&c=3"), "http://gateway.example/"),
                (format!("/x?{back}&c=3"), "http://gateway.example/x?c=3"),
            ] {
                let mut browser = Browser::default();
                let start = browser.get(&mut gateway, &uri);
                assert_eq!(start.status, 302, "{uri}");
                let back = gateway.provider.authorize(start.location());
                let reply = browser.get(&mut gateway, &format!("/cb?{back}"));
                assert_eq!(reply.location(), expected, "{uri}");
            }
        }
    }
}

#[test]
fn a_way_back_that_is_walked_again_ends_at_no_page_of_nobody() {
    for way_back in ["/cb?", "/cb?x=1&"] {
        let redirect_uri = format!("http://gateway.example{}", &way_back[..way_back.len() - 1]);
        let mut gateway = Gateway::new(json!({
            "redirect_uri": [redirect_uri], "login_action": "redirect", "login_tokens": null,
        }));
        let mut browser = Browser::default();
        let start = browser.get(&mut gateway, "/reports");
        let state = start.argument("state").unwrap();
        let back = format!("{way_back}error=access_denied&state={state}");
        assert_eq!(browser.get(&mut gateway, &back).status, 401);
        let again = browser.get(&mut gateway, &back);
        assert_eq!(again.status, 302);
        let answer = gateway.provider.authorize(again.location());
        // Signed in, and once more with a session.
        for _ in 0..2 {
            let reply = browser.get(&mut gateway, &format!("{way_back}{answer}"));
            assert_eq!(
                (reply.status, reply.location()),
                (302, "http://gateway.example/"),
                "{way_back}"
            );
        }
    }
}

#[test]
fn an_application_has_answers_of_its_own_beside_a_sign_in_that_leads_elsewhere() {
    for config in [
        json!({}),
        json!({ "redirect_uri": ["http://gateway.example/cb"] }),
    ] {
        let (mut gateway, mut browser) = (Gateway::new(config), Browser::default());
        let start = browser.get(&mut gateway, "/api");
        let own = "/own/cb?code=mine&state=mine&iss=x";
        assert_eq!(browser.get(&mut gateway, own).status, 302);
        assert_eq!(
            browser
                .post(&mut gateway, "/own/form", "code=mine&state=mine")
                .status,
            302
        );
        // The sign-in lands, and then it is for the application.
        let uri = url::Url::parse(&start.argument("redirect_uri").unwrap()).unwrap();
        let back = gateway.provider.authorize(start.location());
        let here = format!("{}?{back}", uri.path());
        assert!(browser.get(&mut gateway, &here).sets_session());
        assert_eq!(browser.get(&mut gateway, own).upstream.unwrap().0, own);
        // One that looks as ours do is refused wherever it comes, and so is any where the sign-in leads.
        let mut browser = Browser::default();
        browser.get(&mut gateway, "/api");
        for refused in [
            format!("/own/cb?{}", back.replace("state=AQE", "state=AQF")),
            format!("{}?code=mine&state=mine", uri.path()),
        ] {
            let reply = browser.get(&mut gateway, &refused);
            assert_eq!(
                (reply.status, reason(&gateway)),
                (401, "state_unknown".to_owned())
            );
        }
    }
}

#[test]
fn rule_25_nothing_of_an_answer_that_opens_no_more_outlasts_the_next_sign_in() {
    for mode in ["query", "query.jwt"] {
        let config = json!({ "preserve_query_args": true, "response_mode": mode });
        let (mut gateway, mut browser) = (Gateway::new(config.clone()), Browser::default());
        let start = browser.get(&mut gateway, "/api?a=1");
        let lost = gateway.provider.authorize(start.location());
        // By a gateway that has made it, and by one that has other keys.
        let mut other = Gateway::with_provider(&config, Rc::clone(&gateway.provider), 2);
        other.environment.session_keys = KeyRing {
            keys: vec![session_key(9)],
        };
        for node in [&mut gateway, &mut other] {
            let mut browser = Browser::default();
            let start = browser.get(node, &format!("/api?{lost}&scope=x&b=2"));
            assert_eq!(start.status, 302, "{mode}");
            let back = node.provider.authorize(start.location());
            let reply = browser.get(node, &format!("/api?{back}"));
            assert_eq!(reply.upstream.unwrap().0, "/api?b=2", "{mode}");
        }
    }
}
