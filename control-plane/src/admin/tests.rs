//! The Admin API over its router: what Kong's clients send and read.

mod audit;
mod certificates;
mod client_keys;
mod deck;
mod entities;
mod information;
mod ingress;
mod itself;
mod leaks;
mod noise;
mod openid_connect;
mod paging;
mod plugins;
mod preconditions;
mod proxy_cache;
mod rbac;
mod rollback;
mod transcript;
mod upstreams;
mod verbs;
mod whole;
mod words;

use std::sync::Mutex;

use axum::body::Body as HttpBody;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use shared::clock::UnixTime;
use shared::entity::Entity as _;
use shared::snapshot::{Key, Revision};
use shared::version::KONG_PRODUCT;
use tower::ServiceExt;

use super::*;
use crate::config::Fields;
use crate::history::{Entry, History, HistoryFault};
use crate::publisher::{Journal, JournalFault};
use crate::revocations::Revoker;

/// A journal in memory, or one that refuses.
struct Memory {
    broken: bool,
    entries: Kept,
}

/// The commits of a journal, the first of revision 1.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Entry>>>);

impl History for Kept {
    fn entry(&self, revision: Revision) -> Result<Option<Entry>, HistoryFault> {
        let entries = self.0.lock().unwrap();
        let found = entries.iter().find(|entry| entry.revision == revision);
        // Through the form that the store keeps.
        found
            .map(|entry| Entry::unpack(revision, &entry.pack(&[0; 32]).unwrap()))
            .transpose()
    }
}

impl Journal for Memory {
    fn commit(&mut self, entry: &Entry) -> Result<(), JournalFault> {
        if self.broken {
            return Err(JournalFault::Broken("disk full".to_owned()));
        }
        self.entries.0.lock().unwrap().push(entry.clone());
        Ok(())
    }

    fn history(&self) -> Arc<dyn History> {
        Arc::new(self.entries.clone())
    }
}

struct Api(Router);

impl Api {
    fn new() -> Self {
        Self::on(false)
    }

    fn on(broken: bool) -> Self {
        let entries = Kept::default();
        let publisher = Publisher::new(Config::default(), 1, Box::new(Memory { broken, entries }));
        Self(Admin::new(publisher, Uuid::nil(), Vec::new()).router())
    }

    async fn send(&self, method: &str, url: &str, kind: &str, body: &str) -> (u16, Value) {
        let mut request = http::Request::builder().method(method).uri(url);
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        self.answer(request.body(HttpBody::from(body.to_owned())).unwrap())
            .await
    }

    async fn answer(&self, request: Request) -> (u16, Value) {
        let response = self.0.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn get(&self, url: &str) -> (u16, Value) {
        self.send("GET", url, "", "").await
    }

    /// What all pages of a list hold, from `url` on.
    async fn all(&self, url: &str) -> Vec<Value> {
        let (mut url, mut all) = (url.to_owned(), Vec::new());
        loop {
            let (status, page) = self.get(&url).await;
            assert_eq!(status, 200, "{page}");
            all.extend(page["data"].as_array().unwrap().clone());
            let Some(next) = page["next"].as_str() else {
                assert!(page.get("offset").is_none(), "{page}");
                return all;
            };
            assert!(page["offset"].is_string(), "{page}");
            url = next.to_owned();
        }
    }

    async fn json(&self, method: &str, url: &str, body: Value) -> (u16, Value) {
        self.send(method, url, "application/json", &body.to_string())
            .await
    }

    /// One whose revocations are kept, and what keeps them.
    fn revoking() -> (Self, Publisher) {
        let memory = Memory {
            broken: false,
            entries: Kept::default(),
        };
        let publisher = Publisher::new(Config::default(), 1, Box::new(memory));
        let revoker = Revoker::start(publisher.clone(), Fleet::default());
        let admin = Admin::new(publisher.clone(), Uuid::nil(), Vec::new()).with_revoker(revoker);
        (Self(admin.router()), publisher)
    }

    async fn form(&self, method: &str, url: &str, body: &str) -> (u16, Value) {
        self.send(method, url, "application/x-www-form-urlencoded", body)
            .await
    }
}

/// Has each body refused at `/{kind}`, with what is said of its fields.
async fn wrong(api: &Api, kind: &str, cases: &[(Value, Value)]) {
    for (body, fields) in cases {
        let (status, reply) = api.json("POST", &format!("/{kind}"), body.clone()).await;
        assert_eq!((status, &reply["fields"]), (400, fields), "{kind} {body}");
    }
}

/// Makes a record, which is returned.
async fn made(api: &Api, url: &str, body: Value) -> Value {
    let (status, reply) = api.json("POST", url, body.clone()).await;
    assert_eq!(status, 201, "POST {url} {body}: {reply}");
    reply
}

fn id(value: &Value) -> &str {
    value["id"].as_str().unwrap()
}

#[tokio::test]
async fn the_guides_commands_run() {
    let api = Api::new();
    let (status, service) = api
        .form(
            "POST",
            "/services",
            "name=openid-connect-demo&url=http://httpbin.org/anything",
        )
        .await;
    assert_eq!((status, &service["host"]), (201, &json!("httpbin.org")));
    let (status, route) = api
        .form(
            "POST",
            "/services/openid-connect-demo/routes/",
            "name=oidc-route&paths[]=/oidc",
        )
        .await;
    assert_eq!((status, &route["service"]["id"]), (201, &service["id"]));
    let url = format!("/routes/{}/plugins", route["id"].as_str().unwrap());
    let (status, plugin) = api
        .form(
            "POST",
            &url,
            "name=openid-connect&config.issuer=https%3A%2F%2Fexample.okta.com%2Foauth2%2Fdefault\
             &config.client_id=id&config.scopes=openid&config.scopes=email&config.scopes=profile",
        )
        .await;
    assert_eq!(status, 201, "{plugin}");
    assert_eq!(
        plugin["config"]["scopes"],
        json!(["openid", "email", "profile"])
    );
    assert_eq!(plugin["config"]["client_id"], json!(["id"]));
    assert_eq!(plugin["route"], json!({ "id": route["id"] }));
    let (status, _) = api
        .form("POST", "/consumers/", "username=Yoda&custom_id=abc")
        .await;
    assert_eq!(status, 201);
    let url = format!("/plugins/{}", plugin["id"].as_str().unwrap());
    let (status, patched) = api
        .form(
            "PATCH",
            &url,
            "config.consumer_by=custom_id&config.consumer_claim=sub",
        )
        .await;
    assert_eq!(status, 200, "{patched}");
    assert_eq!(patched["config"]["consumer_by"], json!(["custom_id"]));
    assert_eq!(patched["config"]["issuer"], plugin["config"]["issuer"]);
    assert_eq!(patched["route"], plugin["route"]);
}

#[tokio::test]
async fn rejections_have_kongs_bodies() {
    let transcript = r#"
        POST /services {"name": "s", "host": "h"} => 201
        POST /services/s/routes {"name": "r", "paths": ["/"]} => 201
        POST /services {} => 400 code 2: schema violation (host: required field missing)
        POST /services {"port": "80", "x": 1} => 400 code 2: 3 schema violations (host: required field missing; port: expected an integer; x: unknown field)
        POST /routes {} => 400 code 2: schema violation (must set one of 'methods', 'hosts', 'headers', 'paths', 'snis' when 'protocols' is 'https')
        POST /plugins {"name": "openid-connect"} => 400 code 2: schema violation (config.issuer: required field missing)
        POST /services {"name": "s", "host": "h"} => 409 code 5: UNIQUE violation detected on '{name="s"}'
        PATCH /services/x {} => 404 code 6: could not find the entity with '{name="x"}'
        PATCH /plugins/x {} => 404 code 6: could not find the entity with '{instance_name="x"}'
        PATCH /ca_certificates/x {} => 400 code 1: invalid primary key: '{id="expected a valid UUID"}'
        DELETE /services/s => 400 code 4: an existing 'routes' entity references this 'services' entity
        POST /routes {"paths": ["/"], "service": {"id": "00000000-0000-0000-0000-000000000000"}} => 400 code 4: the foreign key '{id="00000000-0000-0000-0000-000000000000"}' does not reference an existing 'services' entity.
    "#;
    Api::new().holds(transcript).await;
}

#[tokio::test]
async fn what_is_not_understood_is_refused_in_kongs_words() {
    let transcript = r#"
        GET /services/x => 404 Not found
        GET /session_keys => 404 Not found
        GET /partials => 404 Not found
        POST /services { => 400 Cannot parse JSON body
        POST /services [1] => 400 Cannot parse JSON body
        GET /services?size=0 => 400 size must be an integer between 1 and 1000
        GET /services?size=x => 400 size must be a number
        GET /services?offset=%25 => 400 '%' is not a valid offset: bad base64 encoding
        GET /services?tags=a,b/c => 400 invalid option (tags: invalid filter syntax)
        GET /services?tags=a,b,c,d,e => 200
        GET /services?tags=a,b,c,d,e,f => 400 code 11: invalid option (tags: cannot query more than 5 tags)
        GET /schemas/nope => 404 No entity named 'nope'
        GET /schemas/plugins/nope => 404 No plugin named 'nope'
        POST /services {"name": "s", "host": "h"} => 201
        POST /services/s/routes {"name": "r", "paths": ["/"]} => 201
        DELETE /routes/r/service => 405 Method not allowed
    "#;
    let api = Api::new();
    api.holds(transcript).await;
    let (status, reply) = api.send("POST", "/services", "text/plain", "x").await;
    assert_eq!(
        (status, &reply["message"]),
        (415, &json!("Unsupported media type"))
    );
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let api = Api::new();
    let (_, many) = api.form("POST", "/services", &"a=1&".repeat(1001)).await;
    assert_eq!(many["message"], "Too many arguments");
    let huge = "x".repeat(10 * 1024 * 1024 + 1);
    assert_eq!(api.ask("", "POST", "/services", huge).await.0, 413);
}

#[tokio::test]
async fn a_write_that_is_not_durable_is_not_acknowledged() {
    let api = Api::on(true);
    let (status, reply) = api.json("POST", "/services", json!({ "host": "h" })).await;
    assert_eq!(status, 503);
    assert_eq!(reply["message"], "the store takes no writes: disk full");
    assert_eq!(api.get("/services").await.1["data"], json!([]));
}

#[tokio::test]
async fn another_sites_page_cannot_write() {
    let api = Api::new();
    let request = http::Request::post("/services")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("sec-fetch-site", "cross-site")
        .body(HttpBody::from("host=evil"))
        .unwrap();
    assert_eq!(api.0.clone().oneshot(request).await.unwrap().status(), 403);
    assert_eq!(api.get("/services").await.1["data"], json!([]));
}

#[tokio::test]
async fn a_panic_is_answered_like_any_other_fault() {
    let answer = guard(async { panic!("a bug") }).await;
    let expected = json!({ "message": "An unexpected error occurred" });
    assert_eq!((answer.status.as_u16(), answer.body), (500, Some(expected)));
}
