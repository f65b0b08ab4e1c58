//! The authorization code flow.

use serde_json::{Value, json};

use super::gateway::{Browser, Gateway};
use super::provider::{ISSUER, SigningKey};

fn authorization_cookies(browser: &Browser) -> usize {
    browser
        .cookies
        .keys()
        .filter(|name| name.starts_with("authorization_"))
        .count()
}

#[test]
fn case_1_without_a_cookie_the_browser_is_sent_to_the_provider() {
    let mut gateway = Gateway::new(json!({}));
    let reply = Browser::default().get(&mut gateway, "/api");
    assert_eq!(reply.status, 302);
    assert!(
        reply
            .location()
            .starts_with(&format!("{ISSUER}/authorize?tenant=a&"))
    );
    let cookies = reply.set_cookies();
    assert!(cookies[0].starts_with("authorization="));
    assert!(cookies[1].starts_with("authorization_"));
    assert!(reply.upstream.is_none());
    assert_eq!(reply.headers["cache-control"], "no-store");
}

#[test]
fn case_2_the_authorization_request_has_all_that_it_needs() {
    let mut gateway = Gateway::new(json!({
        "redirect_uri": ["https://kong.com/api"], "scopes": ["openid", "email", "profile"],
    }));
    let reply = Browser::default().get(&mut gateway, "/api");
    let is = |name: &str, value: &str| assert_eq!(reply.argument(name).as_deref(), Some(value));
    is("client_id", "client");
    is("redirect_uri", "https://kong.com/api");
    is("response_type", "code");
    is("scope", "openid email profile");
    is("code_challenge_method", "S256");
    for name in ["nonce", "code_challenge"] {
        assert_eq!(reply.argument(name).unwrap().len(), 43, "{name}");
    }
    assert_eq!(reply.argument("response_mode"), None);
}

#[test]
fn case_4_a_sign_in_leads_upstream_with_the_access_token_and_a_session() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    let reply = browser.sign_in(&mut gateway, "/api");
    assert_eq!(reply.status, 200);
    assert!(
        reply
            .seen("authorization")
            .unwrap()
            .starts_with("Bearer ey")
    );
    assert_eq!(reply.upstream.as_ref().unwrap().0, "/api");
    let session = reply
        .set_cookies()
        .into_iter()
        .find(|cookie| cookie.starts_with("session="))
        .unwrap();
    assert!(
        session.ends_with("; Path=/; SameSite=Lax; HttpOnly"),
        "{session}"
    );
    assert_eq!(reply.seen("cookie"), None);
    let (_, form) = gateway.provider.forms.borrow()[0].clone();
    assert_eq!(form["redirect_uri"], "http://gateway.example/api");
}

#[test]
fn case_23_after_success_the_sign_in_s_cookie_is_gone() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    let reply = browser.sign_in(&mut gateway, "/api");
    let expired = "authorization=; Expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=0; Path=/";
    let is_expired = |cookie: &&str| cookie.starts_with(expired);
    assert!(reply.set_cookies().iter().any(is_expired), "{reply:?}");
    let left: Vec<_> = browser.cookies.keys().collect();
    assert_eq!(left, ["session"]);
}

#[test]
fn case_5_an_unknown_user_gets_401_and_no_session() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    let state = browser.get(&mut gateway, "/api").argument("state").unwrap();
    let reply = browser.get(
        &mut gateway,
        &format!("/api?error=access_denied&state={state}"),
    );
    assert_eq!((reply.status, reply.sets_session()), (401, false));
    assert_eq!(reply.json()["message"], "Unauthorized");
    assert_eq!(gateway.provider.called("/token"), 0);
}

#[test]
fn case_6_the_reason_is_shown_only_if_asked_for() {
    for (display, ends) in [(true, ")"), (false, "Unauthorized")] {
        let mut gateway = Gateway::new(json!({ "display_errors": display }));
        gateway.provider.script.borrow_mut().id_claims = vec![("aud", json!("other"))];
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert_eq!(reply.status, 401);
        assert!(
            reply.json()["message"].as_str().unwrap().ends_with(ends),
            "{reply:?}"
        );
    }
}

#[test]
fn case_7_the_session_serves_at_once_without_a_call_to_the_provider() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    let first = browser.sign_in(&mut gateway, "/api");
    let calls = gateway.provider.calls.borrow().len();
    let second = browser.get(&mut gateway, "/other");
    assert_eq!(second.status, 200);
    assert_eq!(second.seen("authorization"), first.seen("authorization"));
    assert_eq!(gateway.provider.calls.borrow().len(), calls);
    assert!(!second.sets_session());
}

#[test]
fn case_20_an_altered_state_or_nonce_is_refused() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    browser.get(&mut gateway, "/api");
    let reply = browser.get(&mut gateway, "/api?code=x&state=altered");
    assert_eq!((reply.status, gateway.provider.called("/token")), (401, 0));
    for (verify, status) in [(true, 401), (false, 200)] {
        let mut gateway = Gateway::new(json!({ "verify_nonce": verify }));
        gateway.provider.script.borrow_mut().id_claims = vec![("nonce", json!("other"))];
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert_eq!(reply.status, status);
    }
}

#[test]
fn case_21_a_callback_that_belongs_to_no_sign_in_begins_a_new_one() {
    let mut gateway = Gateway::new(json!({}));
    let reply = Browser::default().get(&mut gateway, "/api?code=x&state=y");
    assert_eq!(reply.status, 302);
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let back = format!("/api?{}", gateway.provider.authorize(start.location()));
    assert_eq!(browser.get(&mut gateway, &back).status, 200);
    browser.cookies.clear();
    assert_eq!(browser.get(&mut gateway, &back).status, 302);
}

#[test]
fn case_22_a_sign_in_that_took_too_long_begins_anew() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let back = format!("/api?{}", gateway.provider.authorize(start.location()));
    gateway.advance(600);
    let reply = browser.get(&mut gateway, &back);
    assert_eq!((reply.status, gateway.provider.called("/token")), (302, 0));
}

#[test]
fn case_24_the_code_verifier_fits_the_challenge_and_can_be_switched_off() {
    // The provider checks that they fit. Discovery that does not list S256 does not switch it off: a
    // provider that does not know PKCE ignores it (RFC 9700 §2.1.1).
    for (changes, required, sent) in [
        (vec![], json!(null), true),
        (
            vec![("code_challenge_methods_supported", json!(null))],
            json!(null),
            true,
        ),
        (vec![], json!(false), false),
    ] {
        let mut gateway = Gateway::new(json!({ "require_proof_key_for_code_exchange": required }));
        gateway.provider.script.borrow_mut().discovery = changes;
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert_eq!(reply.status, 200);
        let form = &gateway.provider.forms.borrow()[0].1;
        assert_eq!(form.contains_key("code_verifier"), sent);
    }
}

#[test]
fn case_25_form_post_ends_at_the_original_url() {
    let mut gateway = Gateway::new(json!({
        "response_mode": "form_post", "login_action": "redirect", "preserve_query_args": true,
        "login_tokens": null, "redirect_uri": ["http://localhost/callback"],
    }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/x?hello=world");
    assert_eq!(
        start.argument("response_mode").as_deref(),
        Some("form_post")
    );
    let form = gateway.provider.authorize(start.location());
    let reply = browser.post(&mut gateway, "/callback", &form);
    assert_eq!(
        (reply.status, reply.location()),
        (302, "http://gateway.example/x?hello=world")
    );
    assert_eq!(browser.get(&mut gateway, "/x?hello=world").status, 200);
}

#[test]
fn rule_7_form_post_over_tls_makes_the_cookie_cross_site() {
    let mut gateway = Gateway::new(json!({ "response_mode": "form_post" }));
    gateway.https = true;
    let reply = Browser::default().get(&mut gateway, "/api");
    assert!(reply.set_cookies()[0].contains("SameSite=None; Secure"));
}

#[test]
fn case_26_a_redirect_carries_tokens_where_the_configuration_says() {
    for (mode, mark) in [
        ("fragment", "https://a/b#id_token=ey"),
        ("query", "https://a/b?id_token=ey"),
    ] {
        let mut gateway = Gateway::new(json!({
            "login_action": "redirect", "login_redirect_uri": ["https://a/b"], "login_redirect_mode": mode,
        }));
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert!(reply.location().starts_with(mark), "{}", reply.location());
        assert!(reply.sets_session());
    }
}

#[test]
fn case_26_a_token_that_the_browser_brought_is_not_handed_out() {
    for (query, mark) in [
        ("?a=1&id_token=evil", "?a=1&id_token=ey"),
        ("?id%5Ftoken=x", "?id_token=ey"),
    ] {
        let mut gateway = Gateway::new(json!({
            "login_action": "redirect", "login_redirect_mode": "query", "preserve_query_args": true,
        }));
        let reply = Browser::default().sign_in(&mut gateway, &format!("/api{query}"));
        let (_, found) = reply.location().split_once("/api").unwrap();
        assert!(found.starts_with(mark), "{found}");
    }
}

#[test]
fn case_27_the_tokens_may_be_the_answer() {
    let mut gateway =
        Gateway::new(json!({ "login_action": "response", "login_tokens": ["tokens"] }));
    let reply = Browser::default().sign_in(&mut gateway, "/api");
    assert_eq!(reply.status, 200);
    assert!(reply.upstream.is_none());
    assert_eq!(reply.json()["token_type"], "Bearer");
    assert!(reply.json()["refresh_token"].is_string());
}

#[test]
fn preserved_arguments_come_back_in_place_of_the_providers() {
    let mut gateway = Gateway::new(json!({ "preserve_query_args": true }));
    let reply = Browser::default().sign_in(&mut gateway, "/x?hello=world&state=mine");
    assert_eq!(reply.upstream.unwrap().0, "/x?hello=world&state=mine");
}

#[test]
fn twenty_tabs_sign_in_at_once() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    let starts: Vec<_> = (0..20)
        .map(|tab| {
            // All tabs ask before any has its cookie.
            let mut tab_browser = Browser::default();
            let start = tab_browser.get(&mut gateway, &format!("/tab{tab}"));
            browser.cookies.extend(tab_browser.cookies);
            start
        })
        .collect();
    for start in starts.into_iter().rev() {
        let back = url::Url::parse(&start.argument("redirect_uri").unwrap()).unwrap();
        let query = gateway.provider.authorize(start.location());
        let reply = browser.get(&mut gateway, &format!("{}?{query}", back.path()));
        assert_eq!(reply.status, 200);
    }
    assert_eq!(authorization_cookies(&browser), 0);
}

#[test]
fn rule_17_a_browser_keeps_no_more_than_twenty_sign_ins_and_forgets_the_oldest() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    let oldest = browser.get(&mut gateway, "/api");
    for _ in 0..40 {
        gateway.advance(1);
        browser.get(&mut gateway, "/api");
        assert!(authorization_cookies(&browser) <= 20);
    }
    let back = format!("/api?{}", gateway.provider.authorize(oldest.location()));
    assert_eq!(browser.get(&mut gateway, &back).status, 401);
}

#[test]
fn case_62_a_sign_in_begun_on_one_node_ends_on_another_and_both_serve_the_session() {
    let mut one = Gateway::new(json!({}));
    let mut two = Gateway::with_provider(&json!({}), std::rc::Rc::clone(&one.provider), 2);
    let mut browser = Browser::default();
    let start = browser.get(&mut one, "/api");
    let back = format!("/api?{}", one.provider.authorize(start.location()));
    assert_eq!(browser.get(&mut two, &back).status, 200);
    assert_eq!(browser.get(&mut one, "/api").status, 200);
}

#[test]
fn rule_22_the_issuer_of_the_response_is_checked() {
    let check = |announced: bool, iss: &str, status: u16| {
        let mut gateway = Gateway::new(json!({}));
        gateway.provider.script.borrow_mut().discovery = vec![(
            "authorization_response_iss_parameter_supported",
            json!(announced),
        )];
        let mut browser = Browser::default();
        let start = browser.get(&mut gateway, "/api");
        let back = format!("/api?{}{iss}", gateway.provider.authorize(start.location()));
        assert_eq!(
            browser.get(&mut gateway, &back).status,
            status,
            "{announced} {iss}"
        );
    };
    check(true, "&iss=https%3A%2F%2Fidp.example", 200);
    check(true, "", 401);
    check(false, "", 200);
    check(false, "&iss=https%3A%2F%2Fevil.example", 401);
    check(false, "&iss=https%3A%2F%2Fidp.example%2F", 401);
}

#[test]
fn rule_21_a_repeated_parameter_is_refused() {
    for twice in ["code=other", "response=a&response=b"] {
        let (mut gateway, mut browser) = (Gateway::new(json!({})), Browser::default());
        let start = browser.get(&mut gateway, "/api");
        let back = gateway.provider.authorize(start.location());
        let reply = browser.get(&mut gateway, &format!("/api?{back}&{twice}"));
        assert_eq!(reply.status, 401, "{twice}");
        assert_eq!(gateway.provider.called("/token"), 0);
    }
}

#[test]
fn rules_32_to_35_an_id_token_must_be_right_in_every_claim() {
    let check = |name: &'static str, value: Value, status: u16| {
        let mut gateway = Gateway::new(json!({ "max_age": 600 }));
        gateway.provider.script.borrow_mut().id_claims = vec![(name, value.clone())];
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert_eq!(reply.status, status, "{name} {value}");
    };
    let now = crate::testing::START.as_secs();
    check("email_verified", json!("true"), 200);
    check("updated_at", json!("2024-01-01T00:00:00.000Z"), 200);
    check("iss", json!("https://evil.example"), 401);
    check("iss", json!(null), 401);
    check("aud", json!(["client", "other"]), 401);
    check("azp", json!("other"), 401);
    check("exp", json!(now - 1), 401);
    check("exp", json!(1e300), 401);
    check("exp", json!(null), 401);
    check("iat", json!(now + 100), 401);
    check("iat", json!(null), 401);
    check("nbf", json!(now + 100), 401);
    check("sub", json!(""), 401);
    check("sub", json!(null), 401);
    check("nonce", json!(null), 401);
    check("at_hash", json!("AAAAAAAAAAAAAAAAAAAAAA"), 401);
    check("at_hash", json!(null), 200);
    check("c_hash", json!("AAAAAAAAAAAAAAAAAAAAAA"), 401);
    check("auth_time", json!(now - 601), 401);
    check("auth_time", json!(null), 401);
}

#[test]
fn rule_79_a_forged_id_token_is_refused_and_a_rotated_key_is_found() {
    let mut gateway = Gateway::new(json!({}));
    gateway.provider.script.borrow_mut().signs_with = Some(SigningKey::es256("one"));
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 401);
    let mut gateway = Gateway::new(json!({}));
    let start = browser.get(&mut gateway, "/api");
    // The provider rotates its keys between the start and the end of the sign-in.
    *gateway.provider.keys.borrow_mut() = vec![SigningKey::es256("two")];
    let back = format!("/api?{}", gateway.provider.authorize(start.location()));
    assert_eq!(browser.get(&mut gateway, &back).status, 200);
    assert_eq!(gateway.provider.called("/jwks"), 2);
}

#[test]
fn rule_32_without_an_id_token_nobody_is_signed_in_by_openid() {
    for (scopes, status) in [(json!(["openid"]), 401), (json!(["email"]), 200)] {
        let mut gateway = Gateway::new(json!({ "scopes": scopes }));
        gateway.provider.script.borrow_mut().no_id_token = true;
        assert_eq!(
            Browser::default().sign_in(&mut gateway, "/api").status,
            status
        );
    }
}

#[test]
fn the_domain_of_the_user_must_be_listed() {
    for (hd, status) in [
        (json!("example.com"), 200),
        (json!("evil.example"), 401),
        (json!(null), 401),
    ] {
        let mut gateway = Gateway::new(json!({ "domains": ["example.com"] }));
        gateway.provider.script.borrow_mut().id_claims = vec![("hd", hd)];
        assert_eq!(
            Browser::default().sign_in(&mut gateway, "/api").status,
            status
        );
    }
}

#[test]
fn rule_15_only_navigations_are_sent_to_the_provider_if_that_is_configured() {
    let check = |only: bool, name: &'static str, value: &str, status: u16| {
        let mut gateway = Gateway::new(json!({ "redirect_navigations_only": only }));
        let reply = Browser::default().get_with(&mut gateway, "/api?x=1", name, value);
        assert_eq!(reply.status, status, "{only} {name}: {value}");
        if status == 401 && only && name != "sec-purpose" {
            assert_eq!(reply.json()["login_url"], "http://gateway.example/api");
            assert_eq!(reply.challenge(), "Bearer realm=\"idp.example\"");
            assert!(reply.set_cookies().is_empty());
        }
    };
    check(true, "sec-fetch-mode", "navigate", 302);
    check(true, "sec-fetch-mode", "cors", 401);
    check(true, "x-requested-with", "XMLHttpRequest", 401);
    check(true, "accept", "application/json", 401);
    check(true, "accept", "text/html,application/xhtml+xml", 302);
    check(true, "accept", "*/*", 401);
    check(true, "user-agent", "curl", 401);
    // Kong's rule: everybody is redirected.
    check(false, "sec-fetch-mode", "cors", 302);
    check(false, "x-requested-with", "XMLHttpRequest", 302);
    check(false, "accept", "application/json", 302);
    // Rule 16: a look ahead begins nothing.
    for only in [false, true] {
        check(only, "sec-purpose", "prefetch;prerender", 401);
    }
    let mut gateway = Gateway::new(json!({ "redirect_navigations_only": true }));
    let mut request = crate::testing::Request::get("/api");
    request.method = http::Method::DELETE;
    assert_eq!(gateway.send(request).status, 401);
}

#[test]
fn rule_10_arguments_of_the_client_pass_only_from_the_list_and_never_replace_ours() {
    let mut gateway = Gateway::new(json!({
        "authorization_query_args_client": ["login_hint", "redirect_uri", "state"],
        "authorization_query_args_names": ["prompt"], "authorization_query_args_values": ["login"],
    }));
    let uri = "/api?login_hint=john&redirect_uri=https%3A%2F%2Fevil.example&state=x&acr_values=2";
    let reply = Browser::default().get(&mut gateway, uri);
    assert_eq!(reply.argument("login_hint").as_deref(), Some("john"));
    assert_eq!(reply.argument("prompt").as_deref(), Some("login"));
    assert_eq!(reply.argument("acr_values"), None);
    assert_eq!(reply.location().matches("redirect_uri=").count(), 1);
    assert!(!reply.location().contains("evil"));
    assert_eq!(reply.location().matches("&state=").count(), 1);
}

#[test]
fn case_69_the_client_is_chosen_by_id_or_number() {
    let config = json!({
        "client_id": ["one", "two"], "client_secret": ["s1", "s2"],
        "redirect_uri": ["http://gateway.example/1", "http://gateway.example/2"],
    });
    let check = |uri: &str, id: &str, redirect: &str| {
        let mut gateway = Gateway::new(config.clone());
        let reply = Browser::default().get(&mut gateway, uri);
        assert_eq!(reply.argument("client_id").as_deref(), Some(id), "{uri}");
        assert_eq!(
            reply.argument("redirect_uri").as_deref(),
            Some(redirect),
            "{uri}"
        );
    };
    check("/api", "one", "http://gateway.example/1");
    check("/api?client_id=2", "two", "http://gateway.example/2");
    check("/api?client_id=two", "two", "http://gateway.example/2");
    check("/api?client_id=99", "one", "http://gateway.example/1");
}

#[test]
fn the_client_authenticates_as_configured() {
    for (auth, in_form) in [("client_secret_basic", false), ("client_secret_post", true)] {
        let mut gateway = Gateway::new(json!({ "client_auth": [auth] }));
        assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
        let form = &gateway.provider.forms.borrow()[0].1;
        assert_eq!(
            form.get("client_secret")
                .is_some_and(|secret| secret == "secret"),
            in_form
        );
    }
}

#[test]
fn an_assertion_takes_the_place_of_the_secret() {
    let mut gateway = Gateway::new(json!({ "client_auth": ["client_secret_jwt"] }));
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
    let form = &gateway.provider.forms.borrow()[0].1;
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    assert_eq!(form["client_assertion_type"], kind);
    assert_eq!(form["client_assertion"].split('.').count(), 3);
    assert!(!form.contains_key("client_id") && !form.contains_key("client_secret"));
}
