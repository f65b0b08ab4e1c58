//! What holds for all orders of events and all inputs.

use std::sync::Arc;

use http::HeaderValue;
use http::header::COOKIE;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde_json::json;
use shared::properties::cases;
use uuid::Uuid;

use super::super::config::OpenidConnect;
use super::super::flow::{Action, Arrival, Callback, Context, Event, Pending, State, step};
use super::super::provider::Document;
use super::super::rules::Rules;
use super::super::token_endpoint::PassedOn;
use super::gateway::{Browser, Gateway};
use super::provider::{ISSUER, Provider, SigningKey};
use crate::testing::{FakeHost, Request, START};

/// A sign-in that was started, with what the provider would answer to it.
struct Started {
    pending: Pending,
    tokens: super::super::token_endpoint::Tokens,
}

struct World {
    rules: Arc<Rules>,
    document: Document,
    started: Vec<Started>,
}

impl World {
    /// Two sign-ins of the same browser at the same provider.
    fn new() -> Self {
        let config =
            json!({ "issuer": ISSUER, "client_id": ["client"], "client_secret": ["secret"] });
        let config: OpenidConnect = serde_json::from_value(config).unwrap();
        let rules = Arc::new(Rules::new(config, Uuid::nil()).unwrap());
        let provider = Provider::new();
        let host = FakeHost::default();
        let network = std::rc::Rc::clone(&provider);
        host.connect(std::rc::Rc::new(move |request| network.handle(request)));
        let document = host
            .run(super::super::provider::document(&rules, &host))
            .unwrap();
        let mut world = Self {
            rules,
            document: Arc::into_inner(host_copy(&document)).unwrap(),
            started: Vec::new(),
        };
        for number in 0..2 {
            let (state, action) = step(
                world.context(),
                State::Idle,
                Event::Arrived(arrival(number)),
                START,
            );
            let (State::Waiting(pending), Action::Redirect(location)) = (state, action) else {
                panic!("a sign-in begins");
            };
            let query = provider.authorize(&location);
            let code = query.split(['=', '&']).nth(1).unwrap().to_owned();
            let form = vec![
                ("grant_type".to_owned(), "authorization_code".to_owned()),
                ("code".to_owned(), code),
                ("redirect_uri".to_owned(), pending.redirect_uri.clone()),
                (
                    "code_verifier".to_owned(),
                    pending.verifier.clone().unwrap(),
                ),
            ];
            let tokens = host
                .run(super::super::token_endpoint::request(
                    &world.rules,
                    &document,
                    0,
                    &host,
                    form,
                    &PassedOn::default(),
                ))
                .unwrap();
            world.started.push(Started { pending, tokens });
        }
        world
    }

    fn context(&self) -> Context<'_> {
        Context {
            rules: &self.rules,
            document: &self.document,
            signer: None,
        }
    }

    fn event(&self, choice: &Choice) -> Event {
        match choice {
            Choice::CalledBack { state, iss } => Event::CalledBack(Callback {
                state: state.map(|number| format!("state-{number}")),
                code: Some("code".to_owned()),
                iss: iss.map(|good| {
                    if good {
                        ISSUER.to_owned()
                    } else {
                        "https://evil.example".to_owned()
                    }
                }),
                ..Callback::default()
            }),
            Choice::TokensReceived(number) => {
                Event::TokensReceived(Box::new(self.started[*number].tokens.clone()))
            }
            Choice::KeysReceived => Event::KeysReceived,
            Choice::Arrived => Event::Arrived(arrival(9)),
        }
    }
}

/// What begins a sign-in, with secrets of this number.
fn arrival(number: u8) -> Arrival {
    Arrival {
        state: format!("state-{number}"),
        nonce: format!("nonce-{number}"),
        verifier: format!("verifier-{number}"),
        seed: [0; 32],
        jti: "request".to_owned(),
        client: 0,
        redirect_uri: "https://gateway.example/".to_owned(),
        target: "https://gateway.example/".to_owned(),
        query: None,
        form: None,
        arguments: Vec::new(),
        interactive: false,
        wished: false,
        epoch: Some(0),
    }
}

/// A document of our own, equal to the one that the node shares.
fn host_copy(document: &Arc<Document>) -> Arc<Document> {
    Arc::new(Document {
        issuer: document.issuer.clone(),
        authorization_endpoint: document.authorization_endpoint.clone(),
        token_endpoint: document.token_endpoint.clone(),
        keys: document.keys.clone(),
        ..Document::default()
    })
}

#[derive(Clone, Debug)]
enum Choice {
    Arrived,
    CalledBack {
        state: Option<usize>,
        iss: Option<bool>,
    },
    TokensReceived(usize),
    KeysReceived,
}

fn choice() -> impl Strategy<Value = Choice> {
    prop_oneof![
        1 => Just(Choice::Arrived),
        4 => (proptest::option::weighted(0.9, 0_usize..2), proptest::option::weighted(0.3, any::<bool>()))
            .prop_map(|(state, iss)| Choice::CalledBack { state, iss }),
        4 => (0_usize..2).prop_map(Choice::TokensReceived),
        1 => Just(Choice::KeysReceived),
    ]
}

#[test]
fn no_order_of_events_signs_in_without_matching_state_nonce_and_verifier() {
    let world = World::new();
    let mut signed_in = 0;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = (0_usize..2, proptest::collection::vec(choice(), 1..5));
    for _ in 0..2000 {
        let (mine, choices) = strategy.new_tree(&mut runner).unwrap().current();
        let pending = world.started[mine].pending.clone();
        let mut state = State::Waiting(pending.clone());
        let mut matched_state = false;
        let mut sent_verifier = false;
        let mut received = None;
        for choice in choices {
            if let Choice::CalledBack {
                state: Some(number),
                ..
            } = &choice
            {
                matched_state |= *number == mine && matches!(state, State::Waiting(_));
            }
            if let (Choice::TokensReceived(number), State::Exchanging(..)) = (&choice, &state) {
                received = Some(*number);
            }
            let (next, action) = step(world.context(), state, world.event(&choice), START);
            state = next;
            match action {
                Action::FetchTokens(form) => {
                    let verifier = form.iter().find(|(name, _)| name == "code_verifier");
                    sent_verifier = verifier.map(|(_, value)| value) == pending.verifier.as_ref();
                }
                Action::Proceed(_) => {
                    signed_in += 1;
                    assert!(matched_state && sent_verifier);
                    // The tokens of the other sign-in carry the other nonce.
                    assert_eq!(received, Some(mine));
                }
                Action::Deny(_) => assert!(matches!(state, State::Ended)),
                Action::Redirect(_) | Action::Post(..) | Action::Push(_) | Action::FetchKeys => {}
            }
        }
    }
    assert!(signed_in > 20, "the right order does sign in: {signed_in}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(200)))]

    #[test]
    fn no_mutated_session_cookie_authenticates(position in any::<prop::sample::Index>(), replacement in "[ -:<-~]{0,3}") {
        let mut gateway = Gateway::new(json!({ "auth_methods": ["session", "authorization_code"] }));
        let mut browser = Browser::default();
        browser.sign_in(&mut gateway, "/api");
        let genuine = browser.cookies["session"].clone();
        let at = position.index(genuine.len());
        let mut forged = genuine.clone();
        forged.replace_range(at..=at, &replacement);
        prop_assume!(forged != genuine);
        let mut request = Request::get("/api");
        request.headers.push((COOKIE, HeaderValue::from_str(&format!("session={forged}")).unwrap()));
        prop_assert_eq!(gateway.send(request).status, 302);
    }

    #[test]
    fn no_cookie_header_panics_or_authenticates(cookies in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut gateway = Gateway::new(json!({ "auth_methods": ["session"] }));
        let mut request = Request::get("/api");
        let mut value = b"session=".to_vec();
        value.extend(cookies);
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            request.headers.push((COOKIE, value));
        }
        prop_assert_eq!(gateway.send(request).status, 401);
    }

    #[test]
    fn no_mutated_token_authenticates(position in any::<prop::sample::Index>(), replacement in "[!-~]{0,3}") {
        let mut gateway = Gateway::new(json!({ "auth_methods": ["bearer"] }));
        let genuine = gateway.provider.access_token(&[]);
        let at = position.index(genuine.len());
        let mut forged = genuine.clone();
        forged.replace_range(at..=at, &replacement);
        prop_assume!(forged != genuine);
        prop_assert_eq!(gateway.call(&forged).status, 401, "{}", forged);
    }

    #[test]
    fn no_discovery_document_panics(name in "(issuer|jwks_uri|token_endpoint|authorization_endpoint|end_session_endpoint)", value in "\\PC{0,40}") {
        let mut gateway = Gateway::new(json!({}));
        let name: &'static str = ["issuer", "jwks_uri", "token_endpoint", "authorization_endpoint", "end_session_endpoint"]
            .into_iter()
            .find(|known| *known == name)
            .unwrap();
        gateway.provider.script.borrow_mut().discovery = vec![(name, json!(value))];
        let status = Browser::default().get(&mut gateway, "/api").status;
        prop_assert!(status == 503 || status == 302, "{}", status);
    }

    #[test]
    fn no_jwks_document_panics(member in "(kty|n|e|x|y|crv|kid|alg|use)", value in "\\PC{0,40}") {
        let mut gateway = Gateway::new(json!({ "auth_methods": ["bearer"] }));
        let mut key = SigningKey::es256("one");
        key.jwk[member] = json!(value);
        *gateway.provider.keys.borrow_mut() = vec![key];
        let token = gateway.provider.access_token(&[]);
        let status = gateway.call(&token).status;
        prop_assert!(matches!(status, 200 | 401 | 503), "{}", status);
    }
}

/// Ten thousand changes to `genuine`, always the same ones: bytes flipped, cut out, put in, doubled.
fn mutations(genuine: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move |below: usize| {
        // Xorshift (Marsaglia): spread is all that is asked of it.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 16).unwrap() % below.max(1)
    };
    let genuine = genuine.to_vec();
    (0..10_000).map(move |_| {
        let mut changed = genuine.clone();
        for _ in 0..=draw(3) {
            let at = draw(changed.len());
            let length = draw(8).min(changed.len() - at);
            match draw(5) {
                0 if at < changed.len() => changed[at] ^= 1 << draw(8),
                1 => drop(changed.drain(at..at + length)),
                2 => changed.insert(at, u8::try_from(draw(256)).unwrap()),
                3 => {
                    let copy = changed[at..at + length].to_vec();
                    changed.splice(at..at, copy);
                }
                _ => changed.truncate(at),
            }
        }
        changed
    })
}

#[test]
fn rule_138_no_mutation_of_a_cookie_panics_fails_or_authenticates() {
    let mut gateway = Gateway::new(json!({ "auth_methods": ["session", "authorization_code"] }));
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    let genuine = browser.cookies["session"].clone();
    let header = format!("session={genuine}");
    for changed in mutations(header.as_bytes()) {
        let Ok(value) = HeaderValue::from_bytes(&changed) else {
            continue;
        };
        let mut request = Request::get("/api");
        request.headers.push((COOKIE, value));
        let status = gateway.send(request).status;
        let held = String::from_utf8_lossy(&changed).contains(&genuine);
        assert!(status == 302 || (held && status == 200), "{status}");
    }
}

#[test]
fn rule_138_no_mutation_of_a_token_panics_fails_or_authenticates() {
    let mut gateway = Gateway::new(json!({ "auth_methods": ["bearer"] }));
    let genuine = gateway.provider.access_token(&[]);
    for changed in mutations(genuine.as_bytes()) {
        let Ok(value) = HeaderValue::from_bytes(&[b"Bearer ".as_slice(), &changed].concat()) else {
            continue;
        };
        let same = String::from_utf8_lossy(&changed).trim() == genuine;
        let mut request = Request::get("/api");
        request.headers.push((http::header::AUTHORIZATION, value));
        let status = gateway.send(request).status;
        assert!(status == 401 || (same && status == 200), "{status}");
    }
}

#[test]
fn rule_138_no_mutation_of_a_discovery_document_panics_or_fails() {
    let provider = Provider::new();
    let genuine = provider.discovery().to_string();
    let mut outcomes = std::collections::BTreeSet::new();
    let mut gateway = Gateway::with_provider(&json!({}), std::rc::Rc::clone(&provider), 1);
    for changed in mutations(genuine.as_bytes()) {
        provider.script.borrow_mut().discovery_text = Some(changed);
        // A node that has never heard of the provider.
        gateway.host = FakeHost::default();
        let network = std::rc::Rc::clone(&provider);
        gateway
            .host
            .connect(std::rc::Rc::new(move |request| network.handle(request)));
        let status = Browser::default().get(&mut gateway, "/api").status;
        assert!(matches!(status, 302 | 503), "{status}");
        outcomes.insert(status);
        provider.calls.borrow_mut().clear();
        provider.requests.borrow_mut().clear();
    }
    assert_eq!(outcomes.len(), 2, "some changes are none that matter");
}
