//! Each field of each kind of record and each plugin, absent, null, empty, at its bounds and beyond: what the control
//! plane takes, a node can run. One of the version before, if `BEFORE` names the directory with its programs, runs it,
//! too, or is not given it, or says which field it refuses.

use std::collections::BTreeSet;

use harness::{Cluster, eventually};
use http::Method;
use serde_json::{Map, Value, json};

/// Records that a node is given at once: a refusal names a few of them.
const AT_ONCE: usize = 40;

/// What a plugin's configuration has to say at least.
fn least(plugin: &str) -> Value {
    match plugin {
        "acl" => json!({ "allow": ["a"] }),
        "ip-restriction" => json!({ "deny": ["10.0.0.1"] }),
        "rate-limiting" => json!({ "second": 5 }),
        "response-ratelimiting" => json!({ "limits": { "a": { "second": 5 } } }),
        "http-log" => json!({ "http_endpoint": "http://h.test/" }),
        "file-log" => json!({ "path": "/dev/null" }),
        "tcp-log" | "udp-log" => json!({ "host": "h.test", "port": 9 }),
        "loggly" => json!({ "key": "k" }),
        "opentelemetry" => json!({ "traces_endpoint": "http://h.test/" }),
        "openid-connect" => {
            json!({ "issuer": "https://op.test/", "client_id": ["c"], "client_secret": ["s"] })
        }
        "ldap-auth" => json!({ "ldap_host": "h.test", "base_dn": "dc=x", "attribute": "cn" }),
        "proxy-cache" => json!({ "strategy": "memory" }),
        "redirect" => json!({ "location": "http://h.test/" }),
        _ => json!({}),
    }
}

/// What is tried of a field with this `schema`.
fn tries(schema: &Value) -> Vec<Value> {
    let mut tries = vec![Value::Null];
    let list = |schema: &Value, key: &str| schema[key].as_array().cloned().unwrap_or_default();
    tries.extend(list(schema, "one_of"));
    match schema["type"].as_str().unwrap_or_default() {
        "string" => {
            let texts = [
                "",
                "x",
                "/",
                "http://h.test/",
                "*",
                "ü",
                "a b",
                "\u{0}",
                "$(headers.x)",
            ];
            tries.extend(texts.map(Value::from));
            tries.extend([256, 70_000].map(|length| "x".repeat(length).into()));
        }
        "number" | "integer" => {
            tries.extend([-1, 0, 1, 65_535, 65_536, i64::from(i32::MAX), 1 << 53].map(Value::from));
            tries.push(json!(1.5));
            for bound in list(schema, "between") {
                let bound = bound.as_f64().unwrap_or_default();
                tries.extend([bound - 1.0, bound, bound + 1.0].map(|number| json!(number)));
            }
        }
        "boolean" => tries.extend([true, false].map(Value::from)),
        "array" | "set" => {
            tries.push(json!([]));
            for element in self::tries(&schema["elements"]) {
                tries.push(json!([element]));
            }
            let many = (0..1_000).map(|number| json!(format!("n{number}")));
            tries.push(Value::Array(many.collect()));
        }
        "map" => {
            tries.push(json!({}));
            for value in self::tries(&schema["values"]) {
                tries.push(json!({ "a": value }));
            }
        }
        "record" => {
            tries.push(json!({}));
            for (name, field) in fields(schema) {
                for value in self::tries(&field) {
                    let mut record = Map::new();
                    record.insert(name.clone(), value);
                    tries.push(record.into());
                }
            }
        }
        _ => {}
    }
    tries
}

/// The fields of a schema, as Kong lists them.
fn fields(schema: &Value) -> Vec<(String, Value)> {
    let listed = schema["fields"].as_array().into_iter().flatten();
    let fields = listed.filter_map(|field| field.as_object()?.iter().next());
    fields
        .map(|(name, field)| (name.clone(), field.clone()))
        .collect()
}

/// What is tried of a whole record: one field after the other, beside what it has to say.
fn variations(schema: &Value, least: &Value, fixed: &[&str]) -> Vec<Value> {
    let mut all = vec![least.clone()];
    for (name, field) in fields(schema) {
        if fixed.contains(&name.as_str()) || field["type"] == "foreign" {
            continue;
        }
        for value in tries(&field) {
            let mut record = least.clone();
            record[&name] = value;
            all.push(record);
        }
    }
    all
}

/// What has been found good so far, as one declarative configuration.
struct Good<'a> {
    cluster: &'a Cluster,
    whole: Map<String, Value>,
    tried: usize,
    taken: usize,
}

impl Good<'_> {
    /// Whether the control plane finds `record` good by itself.
    async fn judge(&mut self, schema: &str, record: &Value) -> bool {
        let path = format!("/schemas/{schema}/validate");
        let reply = self.cluster.admin(Method::POST, &path, record).await;
        self.tried += 1;
        assert!(
            [200, 400].contains(&reply.status),
            "{record}: {}",
            reply.text()
        );
        let good = reply.status == 200;
        self.taken += usize::from(good);
        good
    }

    fn add(&mut self, kind: &str, record: Value) {
        let list = self.whole.entry(kind).or_insert_with(|| json!([]));
        list.as_array_mut().unwrap().push(record);
    }

    /// Every variation of the records of `kind`, each told apart by `name` of its number.
    async fn kind(&mut self, kind: &str, name: &str, least: impl Fn(usize) -> Value) {
        let schema = self.cluster.read(&format!("/schemas/{kind}")).await;
        let fixed = ["id", "created_at", "updated_at", "ws_id", name];
        let all = variations(&schema, &least(0), &fixed);
        for (number, mut record) in all.into_iter().enumerate() {
            for (field, value) in least(number).as_object().unwrap() {
                if least(0)[field] == record[field] {
                    record[field] = value.clone();
                }
            }
            if self.judge(kind, &record).await {
                self.add(kind, record);
            }
        }
    }

    /// Every variation of a plugin's configuration, each on a route of its own.
    async fn plugin(&mut self, name: &str) {
        let schema = self.cluster.read(&format!("/schemas/plugins/{name}")).await;
        let config = fields(&schema)
            .into_iter()
            .find(|(name, _)| name == "config");
        let Some((_, config)) = config else {
            panic!("{name} has no configuration: {schema}");
        };
        for (number, config) in variations(&config, &least(name), &[])
            .into_iter()
            .enumerate()
        {
            let plugin = json!({ "name": name, "config": config });
            if self.judge("plugins", &plugin).await {
                let path = format!("/plugins/{name}/{number}");
                self.add("routes", json!({ "paths": [path], "plugins": [plugin] }));
            }
        }
    }
}

/// Has the control plane take all of `whole` but what two records may not both say; how much was left out.
#[expect(clippy::print_stdout, reason = "it is run for its figures")]
async fn load(cluster: &Cluster, whole: &mut Map<String, Value>) -> usize {
    let mut left_out = 0;
    loop {
        let body = Value::Object(whole.clone());
        let reply = cluster
            .admin(Method::POST, "/config?flatten_errors=1", &body)
            .await;
        if reply.status < 300 {
            return left_out;
        }
        let refused = reply.json();
        let records = refused["flattened_errors"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        assert!(!records.is_empty(), "{}", reply.text());
        for record in &records {
            println!("only together: {}", record["errors"]);
            let entity = record["entity"].as_object().unwrap();
            for list in whole.values_mut().filter_map(Value::as_array_mut) {
                let before = list.len();
                list.retain(|one| {
                    // A route goes with its plugin.
                    let inner = one["plugins"].as_array().into_iter().flatten();
                    !std::iter::once(one).chain(inner).any(|one| {
                        let mut said = one.as_object().unwrap().iter();
                        said.all(|(name, value)| {
                            name == "plugins" || entity.get(name) == Some(value)
                        })
                    })
                });
                left_out += before - list.len();
            }
        }
    }
}

/// What came of records that were given to nodes.
#[derive(Default)]
struct Told {
    /// How many were taken by themselves only.
    left_out: usize,
    /// How often the node of the version before was not given them.
    kept_back: usize,
    /// The fields that it refused, and why.
    refused: BTreeSet<String>,
}

/// Has the nodes run `whole`, some records at a time: one of this version runs them all.
async fn all_run(cluster: &Cluster, whole: &Map<String, Value>) -> Told {
    let mut told = Told::default();
    for (kind, records) in whole.iter().filter(|(_, records)| records.is_array()) {
        for some in records.as_array().unwrap().chunks(AT_ONCE) {
            let whole = json!({ "_format_version": "3.0", kind: some });
            told.left_out += load(cluster, &mut whole.as_object().unwrap().clone()).await;
            let newest = cluster.read("/status").await["configuration_revision"].as_u64();
            let answer = async |name: &str| {
                eventually(&format!("{name} answers"), async || {
                    let rows = cluster.read("/clustering/data-planes").await["data"].clone();
                    let row = rows.as_array()?.iter().find(|row| row["name"] == name)?;
                    let refused = row["last_refusal"]["revision"].as_u64() >= newest;
                    let answered = row["revision"].as_u64() >= newest || refused;
                    (answered || row["progress"] == "blocked").then(|| row.clone())
                })
                .await
            };
            let row = answer("node-1").await;
            let slowest = some.iter().map(|one| one.to_string().len()).max();
            assert!(
                row["last_refusal"].is_null(),
                "{:#} {kind}, of {slowest:?} bytes at most",
                row["last_refusal"]
            );
            if cluster.data_planes.len() == 1 {
                continue;
            }
            let row = answer("before").await;
            let missing = row["missing"].as_array().into_iter().flatten();
            if row["progress"] == "blocked" {
                told.kept_back += 1;
                let named = missing.map(|one| one["feature"].as_str().unwrap_or_default());
                assert!(named.count() > 0, "{row}");
            } else if row["revision"].as_u64() < newest {
                for fault in row["last_refusal"]["faults"].as_array().unwrap() {
                    assert_eq!(fault["code"], "INVALID", "{fault}");
                    told.refused
                        .insert(format!("{} {}", fault["field"], fault["message"]));
                }
            }
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn what_the_control_plane_takes_a_node_can_run() {
    let mut cluster = Cluster::start(1).await;
    if let Ok(before) = std::env::var("BEFORE") {
        cluster.change_programs(Some(&before));
        cluster.add_data_plane("before").await;
        cluster.change_programs(None);
    }
    let made = rcgen::generate_simple_self_signed(vec!["h.test".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let mut good = Good {
        cluster: &cluster,
        whole: json!({ "_format_version": "3.0" })
            .as_object()
            .unwrap()
            .clone(),
        tried: 0,
        taken: 0,
    };
    good.kind(
        "services",
        "name",
        |at| json!({ "name": format!("s{at}"), "host": "h.test" }),
    )
    .await;
    good.kind(
        "routes",
        "name",
        |at| json!({ "name": format!("r{at}"), "paths": [format!("/r/{at}")] }),
    )
    .await;
    good.kind(
        "consumers",
        "username",
        |at| json!({ "username": format!("c{at}") }),
    )
    .await;
    good.kind(
        "upstreams",
        "name",
        |at| json!({ "name": format!("u{at}.test") }),
    )
    .await;
    good.kind(
        "certificates",
        "id",
        |_| json!({ "cert": cert, "key": key }),
    )
    .await;
    good.kind(
        "consumer_groups",
        "name",
        |at| json!({ "name": format!("g{at}") }),
    )
    .await;
    good.kind(
        "vaults",
        "prefix",
        |at| json!({ "prefix": format!("v{at}"), "name": "env" }),
    )
    .await;
    let schema = cluster.read("/schemas/plugins").await;
    let least = json!({ "name": "cors" });
    for (number, plugin) in variations(&schema, &least, &["id", "name", "config"])
        .into_iter()
        .enumerate()
    {
        if good.judge("plugins", &plugin).await {
            let path = format!("/plugin/{number}");
            good.add("routes", json!({ "paths": [path], "plugins": [plugin] }));
        }
    }
    let names = cluster.read("/").await["plugins"]["available_on_server"].clone();
    let names: BTreeSet<String> = names.as_object().unwrap().keys().cloned().collect();
    for name in &names {
        good.plugin(name).await;
    }
    let (tried, taken) = (good.tried, good.taken);
    let Told {
        left_out,
        kept_back,
        refused,
    } = all_run(&cluster, &good.whole).await;
    println!(
        "{} plugins and 8 kinds of records: {tried} variations tried, {taken} taken ({left_out} of them not beside others), and all of them run",
        names.len()
    );
    if cluster.data_planes.len() > 1 {
        println!(
            "a node of the version before was kept from {kept_back} of them, and refused: {refused:#?}"
        );
    }
}
