//! What is told without a record, and what every reply has.

use super::*;

impl Api {
    async fn headers(&self, method: &str, url: &str, sent: &[(&str, &str)]) -> http::HeaderMap {
        let mut request = http::Request::builder().method(method).uri(url);
        for (name, value) in sent {
            request = request.header(*name, *value);
        }
        let request = request.body(HttpBody::empty()).unwrap();
        self.0
            .clone()
            .oneshot(request)
            .await
            .unwrap()
            .headers()
            .clone()
    }
}

#[tokio::test]
async fn the_methods_of_a_path_are_told_sorted() {
    let api = Api::new();
    for (url, expected) in [
        ("/", "GET, HEAD, OPTIONS"),
        ("/routes", "GET, HEAD, OPTIONS, POST"),
        ("/routes/test", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("/schemas/routes/validate", "OPTIONS, POST"),
        ("/debug/node/log-level/debug", "OPTIONS, PUT"),
        ("/cache", "DELETE, OPTIONS"),
    ] {
        let headers = api.headers("OPTIONS", url, &[]).await;
        assert_eq!(headers["allow"], expected, "{url}");
        assert_eq!(headers["access-control-allow-methods"], expected);
        assert_eq!(headers["access-control-allow-headers"], "Content-Type");
    }
    let asked = [("access-control-request-headers", "X-Header-1,X-Header-2")];
    let headers = api.headers("OPTIONS", "/", &asked).await;
    assert_eq!(
        headers["access-control-allow-headers"],
        "X-Header-1,X-Header-2"
    );
    let headers = api.headers("GET", "/", &asked).await;
    assert!(!headers.contains_key("access-control-allow-headers"));
    assert!(headers.contains_key("x-kong-admin-latency"));
    assert_eq!(headers["server"], KONG_PRODUCT);
    assert_eq!(headers["content-type"], "application/json; charset=utf-8");
    // Closed for other sites' pages as long as no console is configured.
    assert_eq!(headers["access-control-allow-origin"], "*");
    assert_eq!(headers["vary"], "Origin");
    let page = [("origin", "https://elsewhere.example")];
    let headers = api.headers("GET", "/", &page).await;
    assert!(!headers.contains_key("access-control-allow-origin"));
    assert_eq!(
        api.send("GEEEET", "/", "", "").await,
        (405, json!({ "message": "Method not allowed" }))
    );
}

#[tokio::test]
async fn a_consoles_page_may_read_also_what_is_refused() {
    let journal = Memory {
        broken: false,
        entries: Kept::default(),
    };
    let publisher = Publisher::new(Config::default(), 1, Box::new(journal));
    let admin = Admin::new(publisher, Uuid::nil(), Vec::new())
        .with_names(Vec::new(), &["https://console.test".to_owned()]);
    let api = Api(admin.router());
    let sent = [
        ("origin", "https://console.test"),
        ("sec-fetch-site", "cross-site"),
    ];
    for (method, url) in [
        ("GET", "/services"),
        ("GET", "/services/none"),
        ("OPTIONS", "/services"),
    ] {
        let headers = api.headers(method, url, &sent).await;
        assert_eq!(
            headers["access-control-allow-origin"],
            "https://console.test"
        );
        assert_eq!(headers["access-control-allow-credentials"], "true");
    }
}

#[tokio::test]
async fn the_status_counts_and_measures() {
    let api = Api::new();
    let (status, reply) = api.get("/status").await;
    assert_eq!(
        (status, &reply["database"]["reachable"]),
        (200, &json!(true))
    );
    for counter in [
        "connections_accepted",
        "connections_active",
        "connections_handled",
        "connections_reading",
        "connections_writing",
        "connections_waiting",
        "total_requests",
    ] {
        assert!(reply["server"][counter].is_u64(), "{counter}");
    }
    for (query, ending, decimals) in [
        ("", " MiB", 2),
        ("?unit=k", " KiB", 2),
        ("?unit=G&scale=4", " GiB", 4),
        ("?scale=3", " MiB", 3),
    ] {
        let (_, reply) = api.get(&format!("/status{query}")).await;
        let text = reply["memory"]["workers_lua_vms"][0]["http_allocated_gc"]
            .as_str()
            .unwrap();
        let amount = text.strip_suffix(ending).unwrap();
        assert_eq!(amount.split_once('.').unwrap().1.len(), decimals, "{text}");
        assert!(
            amount.parse::<f64>().unwrap() > 0.0 || ending == " GiB",
            "{text}"
        );
    }
    let (_, reply) = api.get("/status?unit=b").await;
    assert!(
        reply["memory"]["lua_shared_dicts"]["kong"]["capacity"]
            .as_u64()
            .unwrap()
            > 0
    );
    let expected = json!({ "message": "invalid unit 'V' (expected 'k/K', 'm/M', or 'g/G')" });
    assert_eq!(api.get("/status?unit=V").await, (400, expected));
    assert_eq!(api.get("/status?scale=-1").await.0, 400);
    let expected = json!({ "message": "not implemented with the legacy DNS client" });
    assert_eq!(api.get("/status/dns").await, (501, expected));
}

#[tokio::test]
async fn pages_without_a_record_answer_as_kongs_do() {
    let api = Api::new();
    let (_, root) = api.get("/").await;
    assert_eq!(root["tagline"], "Welcome to kong");
    assert!(root["node_id"].as_str().unwrap().parse::<Uuid>().is_ok());
    assert_eq!(root["plugins"]["enabled_in_cluster"], json!([]));
    assert_eq!(
        api.get("/timers").await.1["worker"],
        json!({ "id": 0, "count": 1 })
    );
    assert_eq!(
        api.send("DELETE", "/cache", "", "").await,
        (204, Value::Null)
    );
    assert_eq!(api.get("/cache/x").await.0, 404);
    assert_eq!(api.send("DELETE", "/cache/x", "", "").await.0, 204);
    let unknown = json!({ "message": "unknown log level: stderr" });
    assert_eq!(
        api.send("PUT", "/debug/node/log-level/stderr", "", "")
            .await,
        (400, unknown)
    );
    assert_eq!(api.get("/debug/node/log-level").await.0, 200);
    let (_, endpoints) = api.get("/endpoints").await;
    let listed: Vec<&str> = endpoints["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for path in [
        "/plugins",
        "/basic-auths/{basicauth_credentials}",
        "/consumers/{consumers}/key-auth/{keyauth_credentials}",
        "/upstreams/{upstreams}/targets/{targets}",
        "/key-sets/{key_sets}/keys",
        "/schemas/targets",
    ] {
        assert!(listed.contains(&path), "{path}");
    }
    for path in [
        "/targets",
        "/snis/{snis}/certificate",
        "/session_keys",
        "/consumer_group_consumers",
    ] {
        assert!(!listed.contains(&path), "{path}");
    }
    assert!(listed.is_sorted());
    let (status, schema) = api.get("/plugins/schema/acl").await;
    assert!(
        status == 200
            && schema["fields"]
                .as_array()
                .unwrap()
                .iter()
                .any(|field| field.get("allow").is_some())
    );
    for path in [
        "plugins/acl",
        "vaults/env",
        "routes",
        "keyauth_credentials",
        "tags",
    ] {
        let (_, schema) = api.get(&format!("/schemas/{path}")).await;
        assert!(
            schema["fields"].is_array() && schema["entity_checks"].is_array(),
            "{path}"
        );
    }
    let (_, schema) = api.get("/schemas/plugins/openid-connect").await;
    let config = schema["fields"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|field| field.get("config"));
    let old = config.unwrap()["shorthand_fields"].as_array().unwrap();
    let method = old
        .iter()
        .find_map(|field| field.get("auth_method"))
        .unwrap();
    assert_eq!(method["type"], "array");
    assert_eq!(
        method["deprecation"],
        json!({
            "message": "openid-connect: config.auth_method is deprecated, please use config.auth_methods instead",
            "removal_in_version": "4.0",
            "replaced_with": [{ "path": ["auth_methods"] }],
        })
    );
    let expected = json!({ "message": "No plugin named 'foobar'" });
    assert_eq!(api.get("/plugins/schema/foobar").await, (404, expected));
}

#[tokio::test]
async fn bodies_are_read_as_kong_reads_them() {
    let api = Api::new();
    let entity = "at least one of these fields must be non-empty: 'custom_id', 'username'";
    for kind in [
        "",
        "multipart/form-data",
        "application/x-www-form-urlencoded",
    ] {
        let (status, reply) = api.send("POST", "/consumers", kind, "").await;
        assert_eq!(
            (status, &reply["fields"]["@entity"]),
            (400, &json!([entity])),
            "{kind}"
        );
    }
    let unreadable = json!({ "message": "Cannot parse JSON body" });
    assert_eq!(
        api.send("POST", "/consumers", "application/json", "").await,
        (400, unreadable)
    );
    for (kind, body) in [("", "x"), ("image/png", ""), ("image/png", "x")] {
        let answer = api.send("POST", "/consumers", kind, body).await;
        assert_eq!(answer.0, 415, "{kind} {body}");
    }
    let deleted = api.send("DELETE", "/consumers/x", "image/png", "").await;
    assert_eq!(deleted.0, 204);

    assert_eq!(
        api.send("GET", "/consumers", "application/json", "{")
            .await
            .0,
        200
    );
    assert_eq!(
        api.send("DELETE", "/consumers/x", "application/json", "")
            .await
            .0,
        204
    );
    let part = |head: &str, value: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{head}\r\n\r\n{value}\r\n")
    };
    let form = format!(
        "{}{}--b--\r\n",
        part(
            "paths\"\r\nContent-Type: application/json",
            "[\"/a\", \"/b\"]"
        ),
        part("headers.x-a\"", "v")
    );
    let (status, route) = api
        .send("POST", "/routes", "multipart/form-data; boundary=b", &form)
        .await;
    assert_eq!(
        (status, &route["paths"], &route["headers"]),
        (201, &json!(["/a", "/b"]), &json!({ "x-a": ["v"] }))
    );
    let (_, reply) = api.json("POST", "/services", json!({ "hots": "h" })).await;
    assert_eq!(
        reply["message"],
        "2 schema violations (host: required field missing; hots: unknown field)"
    );
    assert_eq!(reply["hints"], json!({ "hots": "did you mean 'host'?" }));
    let config = json!({ "name": "acl", "config": { "alow": ["a"] } });
    let (_, reply) = api.json("POST", "/plugins", config).await;
    assert_eq!(
        reply["hints"],
        json!({ "config.alow": "did you mean 'allow'?" })
    );
    assert!(
        api.json("POST", "/services", json!({}))
            .await
            .1
            .get("hints")
            .is_none()
    );
}

#[tokio::test]
async fn services_are_refused_in_kongs_words() {
    let protocols = "expected one of: grpc, grpcs, http, https, tcp, tls, tls_passthrough, udp";
    let cases = [
        (
            json!({ "url": 1, "port": "80" }),
            json!({ "url": "expected a string" }),
        ),
        (
            json!({ "url": "test" }),
            json!({ "host": "required field missing", "path": "should start with: /" }),
        ),
        (
            json!({ "url": "test:33" }),
            json!({
                "host": "required field missing", "path": "should start with: /", "protocol": protocols,
            }),
        ),
        (
            json!({ "host": "h", "protocol": "tcp", "path": "/" }),
            json!({
                "@entity": ["failed conditional validation given value of field 'protocol'"], "path": "value must be null",
            }),
        ),
    ];
    wrong(&Api::new(), "services", &cases).await;
}

#[tokio::test]
async fn routes_are_refused_in_kongs_words() {
    let protocols = "expected one of: grpc, grpcs, http, https, tcp, tls, tls_passthrough, udp";
    let family = "these sets are mutually exclusive: ('http', 'https'), ('tcp', 'tls', 'udp')";
    let only =
        "'snis' can only be set when 'protocols' is 'grpcs', 'https', 'tls' or 'tls_passthrough'";
    let no_methods = "cannot set 'methods' when 'protocols' is 'grpc' or 'grpcs'";
    let cases = [
        (
            json!({ "methods": ["GET"], "protocols": ["foo", "http"] }),
            json!({ "protocols": [protocols] }),
        ),
        (
            json!({ "methods": ["GET"], "protocols": ["http", "tcp"] }),
            json!({ "protocols": family }),
        ),
        (
            json!({ "methods": ["GET"], "service": { "name": "\\o/" } }),
            json!({
                "service": { "name": "invalid value '\\o/': the only accepted ascii characters are alphanumerics or ., -, _, and ~" },
            }),
        ),
        (
            json!({ "methods": ["GET"], "service": { "protocol": "http" } }),
            json!({ "service": { "id": "missing primary key" } }),
        ),
        (
            json!({ "protocols": ["http"], "methods": ["GET"], "snis": ["a.test"] }),
            json!({ "@entity": [only], "snis": "length must be 0" }),
        ),
        (
            json!({ "protocols": ["grpc"], "hosts": ["a"], "methods": ["GET"] }),
            json!({ "methods": no_methods }),
        ),
        (
            json!({ "protocols": ["grpc"], "hosts": ["a"], "strip_path": true }),
            json!({ "strip_path": "cannot set 'strip_path' when 'protocols' is 'grpc' or 'grpcs'" }),
        ),
        (
            json!({ "protocols": ["tcp"], "paths": ["/"] }),
            json!({
                "@entity": ["must set one of 'sources', 'destinations', 'snis' when 'protocols' is 'tcp', 'tls' or 'udp'"],
                "paths": "cannot set 'paths' when 'protocols' is 'tcp', 'tls', 'tls_passthrough' or 'udp'",
            }),
        ),
        (
            json!({ "protocols": ["tls_passthrough"] }),
            json!({ "@entity": ["must set snis when 'protocols' is 'tls_passthrough'"] }),
        ),
        (
            json!({ "paths": ["/"], "headers": { "Host": ["a"] } }),
            json!({
                "headers": "cannot contain 'host' header, which must be specified in the 'hosts' attribute",
            }),
        ),
        (
            json!({ "protocols": ["tcp"], "sources": [{ "ip": "x" }] }),
            json!({ "sources": [{ "ip": "invalid ip or cidr range: 'x'" }] }),
        ),
    ];
    wrong(&Api::new(), "routes", &cases).await;
}

#[tokio::test]
async fn services_and_routes_of_every_protocol_are_taken() {
    let api = Api::new();
    for protocol in [
        "grpc",
        "grpcs",
        "http",
        "https",
        "tcp",
        "tls",
        "tls_passthrough",
        "udp",
    ] {
        made(
            &api,
            "/services",
            json!({ "host": "h", "protocol": protocol }),
        )
        .await;
    }
    let grpc = json!({ "protocols": ["grpc", "grpcs"], "hosts": ["a"] });
    assert_eq!(made(&api, "/routes", grpc).await["strip_path"], false);
    let body =
        json!({ "protocols": ["tls", "tcp"], "sources": [{ "ip": "10.0.0.0/8" }, { "port": 1 }] });
    let route = made(&api, "/routes", body).await;
    assert_eq!(route["sources"][1], json!({ "ip": null, "port": 1 }));
    let plugin = json!({ "name": "acl", "config": { "allow": ["a"] }, "protocols": ["http"] });
    let url = format!("/routes/{}/plugins", id(&route));
    let (_, reply) = api.json("POST", &url, plugin).await;
    assert_eq!(
        reply["fields"],
        json!({ "protocols": "must match the associated route's protocols" })
    );
}

#[tokio::test]
async fn what_a_patch_leaves_out_has_to_fit_what_it_brings() {
    let api = Api::new();
    let http = made(&api, "/routes", json!({ "paths": ["/a"] })).await;
    let url = format!("/routes/{}", id(&http));
    let (status, reply) = api
        .json("PATCH", &url, json!({ "protocols": ["grpc"] }))
        .await;
    let refused =
        json!({ "strip_path": "cannot set 'strip_path' when 'protocols' is 'grpc' or 'grpcs'" });
    assert_eq!((status, &reply["fields"]), (400, &refused));
    let body = json!({ "protocols": ["grpc"], "strip_path": false });
    assert_eq!(api.json("PATCH", &url, body).await.0, 200);
}

#[tokio::test]
async fn a_browser_may_ask_what_a_path_takes_before_it_knows_the_record() {
    let api = Api::new();
    let (record, collection) = (
        "DELETE, GET, HEAD, OPTIONS, PATCH, PUT",
        "GET, HEAD, OPTIONS, POST",
    );
    for (url, methods) in [
        ("/services/x/routes", collection),
        ("/services/x/routes/y/", record),
        ("/routes/x/service", "GET, HEAD, OPTIONS, PATCH, PUT"),
        ("/consumers/x/key-auth", collection),
        ("/consumers/x/acls/y", record),
        (
            "/consumers/x/consumer_groups",
            "DELETE, GET, HEAD, OPTIONS, POST",
        ),
        (
            "/consumer_groups/x/consumers/y",
            "DELETE, GET, HEAD, OPTIONS",
        ),
        ("/upstreams/x/health", "GET, HEAD, OPTIONS"),
        ("/upstreams/x/targets/all", collection),
        ("/certificates/x/snis", collection),
        ("/schemas/nope", "GET, HEAD, OPTIONS"),
        ("/schemas/plugins/nope", "GET, HEAD, OPTIONS"),
    ] {
        let headers = api.headers("OPTIONS", url, &[]).await;
        assert_eq!(headers["allow"], methods, "{url}");
        let wrong = if methods == record { "POST" } else { "TRACE" };
        assert_eq!(api.send(wrong, url, "", "").await.0, 405, "{url}");
        assert_eq!(api.send("GET", url, "", "").await.0, 404, "{url}");
    }
    assert_eq!(api.send("DELETE", "/routes/x/service", "", "").await.0, 404);
    let unknown = "/schemas/nope/validate";
    let headers = api.headers("OPTIONS", unknown, &[]).await;
    assert_eq!(headers["allow"], "OPTIONS, POST");
    assert_eq!(api.json("POST", unknown, json!({})).await.0, 404);
    for url in [
        "/services/x/nothing",
        "/snis/x/certificate",
        "/routes/x/service/y",
        "/nothing/x/routes",
    ] {
        for method in ["OPTIONS", "TRACE"] {
            assert_eq!(api.send(method, url, "", "").await.0, 404, "{method} {url}");
        }
    }
}
