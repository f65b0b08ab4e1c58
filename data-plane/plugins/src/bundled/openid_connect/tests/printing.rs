//! What would stand in a log if somebody printed what the plugin works with: nothing that anybody could use.

use std::fmt::Debug;

use http::{HeaderMap, HeaderValue};
use serde_json::json;

use super::gateway::{Gateway, compile};
use crate::bundled::openid_connect::config::AuthMethod;
use crate::bundled::openid_connect::cookie::{Glimpse, Jar};
use crate::bundled::openid_connect::flow::{Action, Callback, Event};
use crate::bundled::openid_connect::opened;
use crate::bundled::openid_connect::session::Session;
use crate::bundled::openid_connect::token_endpoint::{PassedOn, Post, Tokens};
use crate::bundled::openid_connect::user_info::UserInfo;
use crate::environment::Consumers;
use crate::filter::Filter as _;
use crate::glance::Value;
use crate::host::Repeatable;

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
    let session = Session::begin(rules, &tokens, AuthMethod::Bearer, 0, &gateway.host);
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
        repeatable: Repeatable::Never,
    };
    let passed_on = PassedOn {
        arguments: form.clone(),
        headers: Vec::new(),
    };
    let user_info = UserInfo {
        claims: json!({ "sub": CANARY }).as_object().unwrap().clone(),
        jwt: Some(canary()),
        lacks: false,
    };
    let told = principal.known(rules, &Consumers::default(), None);
    let told = told.expect("nothing is asked of it");
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

#[test]
fn rule_129_the_names_of_credentials_and_of_the_fields_of_tokens_are_told_to_logs() {
    for (field, value, argument, header) in [
        (
            "refresh_token_param_name",
            "my_rt",
            Some("my_rt"),
            Some("my_rt my-rt"),
        ),
        ("id_token_param_name", "idt", Some("idt"), Some("idt")),
        (
            "upstream_access_token_header",
            "x_at:bearer",
            None,
            Some("x-at"),
        ),
        ("upstream_refresh_token_header", "x-rt", None, Some("x-rt")),
        ("downstream_id_token_header", "x-idt", None, Some("x-idt")),
        (
            "downstream_access_token_header",
            "x-tok",
            None,
            Some("x-tok"),
        ),
        ("upstream_user_info_jwt_header", "x-ui", None, Some("x-ui")),
        (
            "downstream_introspection_jwt_header",
            "x-in",
            None,
            Some("x-in"),
        ),
        // What nobody can use.
        ("upstream_session_id_header", "x-sid", None, None),
        ("downstream_user_info_header", "x-user", None, None),
        ("upstream_access_token_jwk_header", "x-key", None, None),
    ] {
        let defaults = json!({"upstream_access_token_header": null});
        let mut config = defaults.as_object().unwrap().clone();
        config.insert(field.to_owned(), json!(value));
        let secrets = compile(&config.into(), 1).secret_names();
        let arguments: Vec<&str> = argument.into_iter().collect();
        let headers: Vec<&str> = header
            .into_iter()
            .flat_map(|names| names.split(' '))
            .collect();
        assert_eq!(secrets.arguments, arguments, "{field}");
        assert_eq!(secrets.fields, headers, "{field}");
    }
}
