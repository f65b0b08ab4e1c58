//! `key-auth`: lets a request through if it carries a known API key (Kong 3.9, key-auth).

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::schema::FieldErrors;

use crate::body::{self, Form};
use crate::config::values::yes;
use crate::credentials::arguments::Arguments;
use crate::credentials::authentication::{Authenticated, Refusal, challenge, is_settled, settle};
use crate::credentials::secret_names::SecretNames;
use crate::exchange::Exchange;
use crate::filter::{Filter, Flow, Instance, Plugin, Scope};
use crate::host::Host;

/// Configuration of `key-auth`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of Kong's")]
pub struct KeyAuth {
    /// Names of the header, query argument or body field that may carry the key, tried in this order.
    #[serde(default = "apikey")]
    pub key_names: Vec<KeyName>,

    /// Keeps the key from the upstream.
    #[serde(default)]
    pub hide_credentials: bool,

    /// Consumer, by id or username, that requests without a valid key count as. Without one they are
    /// refused.
    #[serde(default)]
    pub anonymous: Option<String>,

    /// Looks for the key in headers.
    #[serde(default = "yes")]
    pub key_in_header: bool,

    /// Looks for the key in the query.
    #[serde(default = "yes")]
    pub key_in_query: bool,

    /// Looks for the key in the body: a form, JSON or multipart.
    #[serde(default)]
    pub key_in_body: bool,

    /// Asks `OPTIONS` requests for a key too.
    #[serde(default = "yes")]
    pub run_on_preflight: bool,

    /// Realm of the challenge to clients without a key.
    #[serde(default)]
    pub realm: Option<String>,
}

/// A name that a key is looked for under.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(transparent)]
#[schemars(inline)]
pub struct KeyName(#[schemars(extend("format" = "kong-header-name"))] pub String);

fn apikey() -> Vec<KeyName> {
    vec![KeyName("apikey".to_owned())]
}

impl Plugin for KeyAuth {
    const NAME: &'static str = "key-auth";
    const PRIORITY: u32 = 1250;
    const FORBIDDEN_SCOPES: &'static [Scope] = &[Scope::Consumer];
    type Filter = KeyAuthFilter;

    fn compile(self, _: &Instance) -> Result<KeyAuthFilter, FieldErrors> {
        let mut places = Vec::new();
        for KeyName(name) in &self.key_names {
            match HeaderName::try_from(name.as_str()) {
                Ok(header) => places.push(Place {
                    hyphenated: HeaderName::try_from(name.replace('_', "-")).ok(),
                    name: name.clone(),
                    header,
                }),
                Err(_) => {
                    return Err(FieldErrors::at(
                        &["key_names"],
                        format!(
                            "bad header name '{name}', allowed characters are A-Z, a-z, 0-9, '_', and '-'"
                        ),
                    ));
                }
            }
        }
        Ok(KeyAuthFilter {
            challenge: challenge("Key", self.realm.as_deref()),
            places,
            config: self,
        })
    }
}

/// Looks for API keys.
#[derive(Debug)]
pub struct KeyAuthFilter {
    config: KeyAuth,
    places: Vec<Place>,
    challenge: String,
}

/// A name that a key is looked for under.
#[derive(Debug)]
struct Place {
    name: String,
    header: HeaderName,
    /// The header's name with hyphens, which some clients and proxies send for underscores.
    hyphenated: Option<HeaderName>,
}

impl Place {
    /// The name of the header that a request has.
    fn header(&self, headers: &HeaderMap) -> &HeaderName {
        match &self.hyphenated {
            Some(hyphenated) if !headers.contains_key(&self.header) => hyphenated,
            _ => &self.header,
        }
    }
}

impl Filter for KeyAuthFilter {
    fn secret_names(&self) -> SecretNames {
        let mut names = SecretNames::default();
        for place in &self.places {
            names.arguments.push(place.name.clone());
            names.fields.push(place.header.clone());
            names.fields.extend(place.hyphenated.clone());
        }
        names
    }

    async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
        let config = &self.config;
        let preflight = exchange.request.method == Method::OPTIONS;
        let anonymous = config.anonymous.as_deref();
        if (preflight && !config.run_on_preflight) || is_settled(exchange, anonymous) {
            return Flow::Continue;
        }
        let outcome = self.authenticate(exchange, host.now()).await;
        settle(exchange, outcome, anonymous)
    }
}

impl KeyAuthFilter {
    async fn authenticate(
        &self,
        exchange: &mut Exchange<'_>,
        now: UnixTime,
    ) -> Result<Authenticated, Refusal> {
        let refuse = |message: &str| Refusal::new(message, self.challenge.as_str());
        let key = self.find(exchange).await.map_err(refuse)?;
        let key = key
            .filter(|key| !key.is_empty())
            .ok_or_else(|| refuse("No API key found in request"))?;
        let found = exchange.environment.credentials.key(&key, now);
        found
            .map(|credential| Authenticated {
                consumer: credential.consumer,
                credential: credential.id.to_string(),
            })
            .ok_or_else(|| refuse("Unauthorized"))
    }

    /// The key, taken away if it is not for the upstream.
    async fn find(&self, exchange: &mut Exchange<'_>) -> Result<Option<String>, &'static str> {
        const TWICE: &str = "Duplicate API key found";
        let mut query = Arguments::of(&exchange.request.uri);
        let mut form: Option<Form> = None;
        for place in &self.places {
            let name = place.name.as_str();
            let mut key = None;
            if self.config.key_in_header {
                let headers = &exchange.request.headers;
                let mut values = headers.get_all(place.header(headers)).iter();
                key = values
                    .next()
                    .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
                if values.next().is_some() {
                    return Err(TWICE);
                }
            }
            if key.is_none() && self.config.key_in_query {
                let mut values = query.all(name);
                key = values.next().map(str::to_owned);
                if values.next().is_some() {
                    return Err(TWICE);
                }
            }
            if key.is_none() && self.config.key_in_body {
                if form.is_none() {
                    form = Some(body::form(exchange).await);
                }
                let values = form.as_ref().map(|form| form.values(name));
                let mut values = values.unwrap_or_default().into_iter();
                key = values.next();
                if values.next().is_some() {
                    return Err(TWICE);
                }
            }
            if key.is_none() {
                continue;
            }
            if self.config.hide_credentials {
                if query.remove(name) {
                    query.write(&mut exchange.request.uri);
                }
                let headers = &mut exchange.request.headers;
                headers.remove(place.header(headers));
                if self.config.key_in_body {
                    let mut form = match form {
                        Some(form) => form,
                        None => body::form(exchange).await,
                    };
                    if form.remove(name)
                        && let Some(bytes) = form.encode()
                    {
                        exchange.upstream.body = Some(Bytes::from(bytes));
                    }
                }
            }
            return Ok(key);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::CONTENT_TYPE;
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::credentials::ApiKey;
    use crate::testing::{Answer, FakeHost, Request, START, answer_of, consumer};

    /// Shows a request to the plugin in a world where bob's key is `kong` and ann's `old` has ended.
    fn ask(config: &Value, mut request: Request, headers: &[(&'static str, &str)]) -> Answer {
        let config: KeyAuth = serde_json::from_value(config.clone()).unwrap();
        let filter = config.compile(&Instance { id: Uuid::nil() }).unwrap();
        let environment = &mut request.environment;
        for (name, key, expires_at) in [("bob", "kong", None), ("ann", "old", Some(START))] {
            let consumer = consumer(name, None);
            let credential = ApiKey {
                id: Uuid::from_u128(7),
                consumer: consumer.id,
                expires_at,
            };
            environment.credentials.add_key(key, credential);
            let consumers = &mut environment.consumers;
            consumers.by_id.insert(consumer.id, consumer);
        }
        let nobody = consumer("nobody", None);
        let consumers = &mut environment.consumers;
        consumers.by_username.insert("nobody".to_owned(), nobody);
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).unwrap();
            request.headers.push((HeaderName::from_static(name), value));
        }
        answer_of(&filter, &FakeHost::default(), &request)
    }

    fn check(config: &Value, uri: &str, headers: &[(&'static str, &str)], expected: (u16, &str)) {
        let answer = ask(config, Request::get(uri), headers);
        let got = (answer.status, answer.message());
        assert_eq!(
            (got.0, got.1.as_str()),
            expected,
            "{config} {uri} {headers:?}"
        );
        if expected.0 == 401 {
            assert_eq!(answer.header("www-authenticate"), "Key");
        }
    }

    const NONE: (u16, &str) = (401, "No API key found in request");
    const TWICE: (u16, &str) = (401, "Duplicate API key found");
    const WRONG: (u16, &str) = (401, "Unauthorized");
    const PASSES: (u16, &str) = (200, "");

    #[test]
    fn a_key_is_looked_for_in_headers_and_the_query() {
        let config = json!({});
        check(&config, "/", &[], NONE);
        check(&config, "/", &[("apikey", "")], NONE);
        check(&config, "/?apikey", &[], NONE);
        check(&config, "/?apikey=kong", &[], PASSES);
        check(&config, "/?apikey=123", &[], WRONG);
        check(&config, "/?apikey=old", &[], WRONG);
        check(&config, "/?apikey=kong&apikey=kong", &[], TWICE);
        check(&config, "/", &[("apikey", "kong")], PASSES);
        check(&config, "/", &[("apikey", "kong"), ("apikey", "x")], TWICE);
        check(&config, "/?apikey=kong", &[("apikey", "123")], WRONG);
        check(&json!({"key_in_query": false}), "/?apikey=kong", &[], NONE);
        let no_header = json!({"key_in_header": false});
        check(&no_header, "/", &[("apikey", "kong")], NONE);
    }

    #[test]
    fn a_hyphen_is_taken_for_an_underscore_but_not_the_other_way_round() {
        let underscore = json!({"key_names": ["api_key"]});
        check(&underscore, "/", &[("api_key", "kong")], PASSES);
        check(&underscore, "/", &[("api-key", "kong")], PASSES);
        check(&underscore, "/", &[("api-key", "123")], WRONG);
        check(
            &json!({"key_names": ["api-key"]}),
            "/",
            &[("api_key", "kong")],
            NONE,
        );
        let hides = json!({"key_names": ["api_key"], "hide_credentials": true});
        let answer = ask(&hides, Request::get("/"), &[("api-key", "kong")]);
        assert_eq!(
            (answer.status, answer.upstream_header("api-key").as_str()),
            (200, "")
        );
    }

    #[test]
    fn a_key_is_looked_for_in_bodies_on_wish() {
        let body =
            |media_type: &str, body: &'static str, expected: (u16, &str), left: Option<&str>| {
                let mut request = Request::get("/");
                request.method = Method::POST;
                request.body = Bytes::from_static(body.as_bytes());
                let config = json!({"key_in_body": true, "hide_credentials": true});
                let answer = ask(&config, request, &[(CONTENT_TYPE.as_str(), media_type)]);
                assert_eq!(
                    (answer.status, answer.message().as_str()),
                    expected,
                    "{body}"
                );
                let sent = answer.overrides.body.as_deref();
                assert_eq!(sent.map(|bytes| str::from_utf8(bytes).unwrap()), left);
            };
        let form = "application/x-www-form-urlencoded";
        body(form, "apikey=kong&a=b", PASSES, Some("a=b"));
        body(form, "apikey=kong&apikey=kong", TWICE, None);
        body(form, "apikey[]=kong&apikey[1]=kong", NONE, None);
        body(
            "application/json",
            r#"{"apikey":"kong","a":1}"#,
            PASSES,
            Some(r#"{"a":1}"#),
        );
        body(
            "application/json",
            r#"{"apikey":["kong","kong"]}"#,
            TWICE,
            None,
        );
        body("application/json", r#"{"apikey":"123"}"#, WRONG, Some("{}"));
        body("text/plain", "apikey=kong", NONE, None);
        let multipart =
            "--x\r\nContent-Disposition: form-data; name=\"apikey\"\r\n\r\n123\r\n--x--\r\n";
        body(
            "multipart/form-data; boundary=x",
            multipart,
            WRONG,
            Some("--x--\r\n"),
        );
    }

    #[test]
    fn a_hidden_key_leaves_the_rest_of_the_query_as_it_was() {
        let config = json!({"hide_credentials": true});
        let uri = "/?ab%20cd=ef&foo=bar&apikey=kong&foo=baz&bb";
        let answer = ask(&config, Request::get(uri), &[("x-a", "1")]);
        assert_eq!(answer.upstream.uri, "/?ab%20cd=ef&foo=bar&foo=baz&bb");
        let answer = ask(&json!({}), Request::get(uri), &[]);
        assert_eq!(answer.upstream.uri, uri);
        assert_eq!(answer.upstream_header("x-consumer-username"), "bob");
        let id = Uuid::from_u128(7).to_string();
        assert_eq!(answer.upstream_header("x-credential-identifier"), id);
    }

    #[test]
    fn without_a_key_a_request_is_anonymous_where_somebody_stands_for_that() {
        let config = json!({"anonymous": "nobody"});
        for uri in ["/", "/?apikey=123"] {
            let answer = ask(&config, Request::get(uri), &[]);
            assert_eq!(answer.upstream_header("x-consumer-username"), "nobody");
            assert_eq!(answer.upstream_header("x-anonymous-consumer"), "true");
            assert_eq!(answer.upstream_header("x-credential-identifier"), "");
        }
        let answer = ask(&config, Request::get("/?apikey=kong"), &[]);
        assert_eq!(answer.upstream_header("x-consumer-username"), "bob");
        assert_eq!(answer.upstream_header("x-anonymous-consumer"), "");
        let gone = ask(&json!({"anonymous": "gone"}), Request::get("/"), &[]);
        let said = "anonymous consumer gone is configured but doesn't exist";
        assert_eq!((gone.status, gone.message().as_str()), (500, said));
    }

    #[test]
    fn preflights_and_realms_are_as_configured() {
        let preflight = |config: Value| {
            let mut request = Request::get("/");
            request.method = Method::OPTIONS;
            ask(&config, request, &[]).status
        };
        assert_eq!(preflight(json!({})), 401);
        assert_eq!(preflight(json!({"run_on_preflight": false})), 200);
        let answer = ask(&json!({"realm": "test"}), Request::get("/"), &[]);
        assert_eq!(answer.header("www-authenticate"), r#"Key realm="test""#);
    }
}
