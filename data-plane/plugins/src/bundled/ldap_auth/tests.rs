//! What ldap-auth promises.

use std::rc::Rc;

use http::HeaderValue;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::testing::{FakeHost, Request, answer_of, consumer};

fn compile(more: Value) -> Result<LdapAuthFilter, FieldErrors> {
    let mut config = json!({
        "ldap_host": "ldap.example", "base_dn": "ou=people,dc=example", "attribute": "uid",
    });
    if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
        config.extend(more);
    }
    let config = crate::registry::check("ldap-auth", &config)?;
    let config: LdapAuth = serde_json::from_value(config).unwrap();
    config.compile(&Instance { id: Uuid::nil() })
}

/// A directory that knows einstein, and counts what it is asked.
fn directory(host: &FakeHost) -> Rc<RefCell<Vec<String>>> {
    let asked: Rc<RefCell<Vec<String>>> = Rc::default();
    let names = Rc::clone(&asked);
    host.connect_ldap(Rc::new(move |_, name, password| {
        names.borrow_mut().push(name.to_owned());
        Ok(name == "uid=einstein,ou=people,dc=example" && password == "password")
    }));
    asked
}

fn header(scheme: &str, credentials: &str) -> String {
    format!("{scheme} {}", STANDARD.encode(credentials))
}

fn request(headers: &[(HeaderName, &str)]) -> Request {
    let mut request = Request::get("/");
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers.push((name.clone(), value));
    }
    let nobody = consumer("no-body", None);
    let consumers = &mut request.environment.consumers;
    consumers.by_id.insert(nobody.id, nobody);
    request
}

#[test]
fn whoever_the_directory_knows_passes() {
    let filter = compile(json!({})).unwrap();
    for (value, status) in [
        (header("ldap", "einstein:password"), 200),
        (header("LDAP", "einstein:password"), 200),
        (header(" ldap", "einstein:password"), 200),
        (header("ldap", "einstein:wrong"), 401),
        (header("ldap", "einstein:password:another"), 401),
        (header("ldap", "einstein:"), 401),
        (header("ldap", ":password"), 401),
        (header("invalidldap", "einstein:password"), 401),
        (header("ldapx", "einstein:password"), 401),
        ("ldap ".to_owned(), 401),
        ("abcd".to_owned(), 401),
    ] {
        for name in [AUTHORIZATION, PROXY_AUTHORIZATION] {
            let host = FakeHost::default();
            directory(&host);
            let answer = answer_of(&filter, &host, &request(&[(name, &value)]));
            assert_eq!(answer.status, status, "{value}");
            if status == 200 {
                let told = answer.upstream_header("x-credential-identifier");
                assert_eq!(told, "einstein");
                assert_eq!(answer.upstream_header("x-consumer-username"), "");
            } else {
                assert_eq!(answer.message(), "Unauthorized");
                assert_eq!(answer.header("www-authenticate"), "LDAP");
            }
        }
    }
}

#[test]
fn the_scheme_and_the_realm_may_be_others() {
    let filter =
        compile(json!({"header_type": "Basic", "realm": "r", "hide_credentials": true})).unwrap();
    let host = FakeHost::default();
    directory(&host);
    let good = header("basic", "einstein:password");
    let answer = answer_of(&filter, &host, &request(&[(AUTHORIZATION, &good)]));
    assert_eq!(
        (answer.status, answer.upstream_header("authorization")),
        (200, String::new())
    );
    let answer = answer_of(&filter, &host, &request(&[]));
    assert_eq!(answer.header("www-authenticate"), "Basic realm=\"r\"");
}

#[test]
fn answers_are_remembered_for_a_while() {
    let filter = compile(json!({"cache_ttl": 2})).unwrap();
    let host = FakeHost::default();
    let asked = directory(&host);
    let good = header("ldap", "einstein:password");
    let bad = header("ldap", "einstein:wrong");
    for _ in 0..2 {
        assert_eq!(
            answer_of(&filter, &host, &request(&[(AUTHORIZATION, &good)])).status,
            200
        );
        assert_eq!(
            answer_of(&filter, &host, &request(&[(AUTHORIZATION, &bad)])).status,
            401
        );
    }
    assert_eq!(asked.borrow().len(), 2);
    host.advance(3.0);
    assert_eq!(
        answer_of(&filter, &host, &request(&[(AUTHORIZATION, &good)])).status,
        200
    );
    assert_eq!(asked.borrow().len(), 3);
}

#[test]
fn a_directory_that_is_gone_is_no_wrong_password() {
    let filter = compile(json!({})).unwrap();
    let good = header("ldap", "einstein:password");
    let answer = answer_of(
        &filter,
        &FakeHost::default(),
        &request(&[(AUTHORIZATION, &good)]),
    );
    assert_eq!(
        (answer.status, answer.message().as_str()),
        (500, "An unexpected error occurred")
    );
}

#[test]
fn nobody_gets_out_of_where_users_are() {
    let filter = compile(json!({})).unwrap();
    let host = FakeHost::default();
    let asked = directory(&host);
    let tricky = header("ldap", "admin,ou=roots+x=\"#\\:password");
    answer_of(&filter, &host, &request(&[(AUTHORIZATION, &tricky)]));
    let expected = r##"uid=admin\,ou\=roots\+x\=\"#\\,ou=people,dc=example"##;
    assert_eq!(*asked.borrow(), [expected]);
    assert_eq!(escape(" #a "), "\\ #a\\ ");
    assert_eq!(escape("#a"), "\\#a");
}

#[test]
fn nobody_else_is_the_anonymous_consumer() {
    let nobody = consumer("no-body", None).id;
    let filter = compile(json!({ "anonymous": nobody })).unwrap();
    let host = FakeHost::default();
    directory(&host);
    let answer = answer_of(&filter, &host, &request(&[]));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.upstream_header("x-anonymous-consumer"), "true");
    assert_eq!(answer.upstream_header("x-consumer-username"), "no-body");
}

#[test]
fn tls_begins_at_once_or_later() {
    let errors = compile(json!({"ldaps": true, "start_tls": true})).unwrap_err();
    assert_eq!(
        Value::Object(errors.by_field),
        json!({
            "@entity": ["'ldaps' and 'start_tls' cannot be enabled simultaneously"],
            "start_tls": "value must be false",
        })
    );
    assert_eq!(
        compile(json!({"ldaps": true})).unwrap().server.security,
        LdapSecurity::Tls
    );
    assert_eq!(compile(json!({})).unwrap().server.port, 389);
}
