//! What decK asks for, in its order: ping, read, defaults, write, and a second diff that is empty.

use super::*;

/// The lists that decK aborts without, and those that it takes a 404 for but that we have.
const LISTS: [&str; 18] = [
    "services",
    "routes",
    "plugins",
    "certificates",
    "snis",
    "upstreams",
    "consumers",
    "ca_certificates",
    "vaults",
    "keys",
    "key-sets",
    "key-auths",
    "hmac-auths",
    "jwts",
    "basic-auths",
    "oauth2",
    "acls",
    "consumer_groups",
];

/// The lists that there are not, and what decK takes for that.
const MISSING: [(&str, u16); 3] = [
    ("partials", 404),
    ("mtls-auths", 404),
    ("filter-chains", 400),
];

/// What decK takes as given for a field that a file leaves out, from the schema; nulls are omitted.
fn defaults(fields: &Value) -> Fields {
    let mut filled = Fields::new();
    for field in fields.as_array().unwrap() {
        let (name, attributes) = field.as_object().unwrap().iter().next().unwrap();
        let value = match (attributes.get("default"), &attributes["fields"]) {
            (Some(default), _) => default.clone(),
            (None, nested) if nested.is_array() => Value::Object(defaults(nested)),
            _ => continue,
        };
        filled.insert(name.clone(), value);
    }
    filled
}

/// `given` over `defaults`; records merge.
fn fill(mut defaults: Fields, given: &Fields) -> Fields {
    for (name, value) in given {
        let value = match (defaults.get(name), value) {
            (Some(Value::Object(old)), Value::Object(new)) => Value::Object(fill(old.clone(), new)),
            _ => value.clone(),
        };
        defaults.insert(name.clone(), value);
    }
    defaults
}

/// Without nulls and empty records, as decK compares.
fn bare(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut shown: Vec<(String, Value)> = map
                .iter()
                .filter(|(name, _)| !matches!(name.as_str(), "created_at" | "updated_at"))
                .map(|(name, value)| (name.clone(), bare(value)))
                .filter(|(_, value)| {
                    !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty())
                })
                .collect();
            shown.sort_by(|one, other| one.0.cmp(&other.0));
            Value::Object(shown.into_iter().collect())
        }
        other => other.clone(),
    }
}

#[tokio::test]
async fn deck_reads_the_whole_state() {
    let api = Api::new();
    for kind in LISTS {
        let (status, list) = api.get(&format!("/{kind}?size=1000&tags=a")).await;
        assert_eq!((status, &list["data"]), (200, &json!([])), "{kind}");
    }
    for (kind, expected) in MISSING {
        let (status, _) = api.get(&format!("/{kind}?size=1000")).await;
        assert_eq!(status, expected, "{kind}");
    }
    for entity in ["services", "routes", "upstreams", "targets"] {
        let (status, schema) = api.get(&format!("/schemas/{entity}")).await;
        assert!(status == 200 && schema["fields"].is_array(), "{entity}");
    }
    assert_eq!(api.get("/schemas/consumer_group_plugins").await.0, 404);
}

#[tokio::test]
async fn a_second_diff_after_a_sync_is_empty() {
    let api = Api::new();
    let id = |at: u128| Uuid::from_u128(at).to_string();
    let oidc = json!({
        "issuer": "https://op.test", "client_id": ["c"], "client_secret": ["s"],
        "scopes": ["openid", "email"], "auth_methods": ["session", "authorization_code"],
    });
    let target = [
        (
            "services",
            json!({ "id": id(1), "name": "s", "host": "h", "tags": ["t"] }),
        ),
        (
            "routes",
            json!({ "id": id(2), "name": "r", "paths": ["/x"], "headers": { "x-a": ["1"] },
                    "service": { "id": id(1) } }),
        ),
        (
            "consumers",
            json!({ "id": id(3), "username": "yoda", "custom_id": "sub" }),
        ),
        (
            "plugins",
            json!({ "id": id(4), "name": "openid-connect", "route": { "id": id(2) }, "config": oidc }),
        ),
        (
            "plugins",
            json!({ "id": id(5), "name": "acl", "service": { "id": id(1) }, "config": { "allow": ["a"] } }),
        ),
    ];
    for (kind, given) in &target {
        let schema = match given["name"].as_str() {
            Some(name) if *kind == "plugins" => format!("/schemas/plugins/{name}"),
            _ => format!("/schemas/{kind}"),
        };
        let (_, schema) = api.get(&schema).await;
        let mut wanted = fill(defaults(&schema["fields"]), given.as_object().unwrap());
        if *kind == "plugins" {
            wanted.insert("enabled".to_owned(), true.into());
        }
        let url = format!("/{kind}/{}", given["id"].as_str().unwrap());
        let wanted = Value::Object(wanted);
        let mut body = bare(&wanted);
        if given["name"] == "openid-connect" {
            // Of what is made where a file leaves it out, decK says that there is none.
            body["config"]["cache_tokens_salt"] = Value::Null;
        }
        let (status, reply) = api.json("PUT", &url, body).await;
        assert_eq!(status, 200, "{reply}");
        assert_eq!(bare(&api.get(&url).await.1), bare(&wanted), "{kind}");
        // The dump of what is there, sent again, changes nothing.
        let (status, again) = api.json("PUT", &url, reply.clone()).await;
        assert_eq!((status, bare(&again)), (200, bare(&reply)));
    }
    for (kind, given) in target.iter().rev() {
        let url = format!("/{kind}/{}", given["id"].as_str().unwrap());
        assert_eq!(api.send("DELETE", &url, "", "").await.0, 204);
        assert_eq!(api.get(&url).await.0, 404);
    }
}
