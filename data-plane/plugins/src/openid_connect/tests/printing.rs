//! What would stand in a log if somebody printed what the plugin works with: nothing that anybody could use.

use std::fmt::Debug;

use http::{HeaderMap, HeaderValue};
use serde_json::json;

use super::gateway::Gateway;
use crate::glance::Value;
use crate::openid_connect::config::AuthMethod;
use crate::openid_connect::cookie::{Glimpse, Jar};
use crate::openid_connect::flow::{Action, Callback, Event};
use crate::openid_connect::opened;
use crate::openid_connect::session::Session;
use crate::openid_connect::token_endpoint::{PassedOn, Post, Tokens};
use crate::openid_connect::user_info::UserInfo;

/// What is secret in all of them.
const CANARY: &str = "eyJjanary.eyJzdWIiOiJ4In0.c2ln";

#[test]
fn rule_128_what_holds_secrets_prints_none() {
    let gateway = Gateway::new(json!({
        "upstream_headers_claims": ["sub"], "upstream_headers_names": ["x-sub"],
        "upstream_id_token_header": "x-id-token",
    }));
    let rules = &gateway.filter.0;
    let canary = || CANARY.to_owned();
    let tokens = Tokens {
        access_token: canary(),
        id_token: Some(canary()),
        refresh_token: Some(canary()),
        expires_at: None,
        answer: json!({ "access_token": CANARY })
            .as_object()
            .unwrap()
            .clone(),
        introspection: None,
        headers: Vec::new(),
    };
    let session = Session::begin(&tokens, AuthMethod::Bearer, 0, &gateway.host);
    let principal = opened::principal(rules, &session);
    let mut headers = HeaderMap::new();
    let cookies = format!("session={CANARY}; other={CANARY}");
    headers.insert("cookie", HeaderValue::from_str(&cookies).unwrap());
    let jar = Jar::read(&headers, &rules.names, false);
    let glimpse = Glimpse::of(cookies.as_bytes(), &rules.names, false).unwrap();
    let callback = Callback {
        code: Some(canary()),
        state: Some(canary()),
        ..Callback::default()
    };
    let form = vec![("code".to_owned(), canary())];
    let post = Post {
        endpoint: "https://idp.example/token",
        form: form.clone(),
        headers: &[],
        accept: "application/json",
        repeatable: false,
    };
    let passed_on = PassedOn {
        arguments: form.clone(),
        headers: Vec::new(),
    };
    let user_info = UserInfo {
        claims: json!({ "sub": CANARY }).as_object().unwrap().clone(),
        jwt: Some(canary()),
    };
    let told = principal.known(None).expect("nothing is asked of it");
    let all: [&dyn Debug; 13] = [
        &tokens,
        &session,
        &principal,
        &told,
        &jar,
        &glimpse,
        &Value::Sole(CANARY.as_bytes()),
        &callback,
        &Event::CalledBack(callback.clone()),
        &Action::FetchTokens(form.clone()),
        &post,
        &passed_on,
        &user_info,
    ];
    for (number, value) in all.iter().enumerate() {
        for text in [format!("{value:?}"), format!("{value:#?}")] {
            let bytes = format!("{:?}", CANARY.as_bytes());
            let bytes = bytes.trim_matches(['[', ']']);
            assert!(
                !text.contains(CANARY) && !text.contains(bytes),
                "{number}: {text}"
            );
        }
    }
}
