//! Providers that answer too much, too slowly, nonsense or nothing: whoever wants to sign in is told so,
//! nobody else feels it, and it is over once they behave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use harness::{Browser, Cluster, Demo, eventually, read_head};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What goes wrong at each issuer, by the first segment of its path.
const WAYS: [&str; 9] = [
    "huge", "endless", "silent", "garbage", "text", "error", "metadata", "file", "circle",
];

/// A provider with an issuer for each way to misbehave.
struct Provider {
    address: String,
    behaves: Arc<AtomicBool>,
    /// How often its token endpoint was asked.
    token_calls: Arc<AtomicUsize>,
}

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let behaves = Arc::new(AtomicBool::new(false));
        let (own, told) = (address.clone(), Arc::clone(&behaves));
        let token_calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&token_calls);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (own, behaves) = (own.clone(), told.load(Ordering::SeqCst));
                let calls = Arc::clone(&counted);
                // Whoever is tired of waiting goes away: that is no failure here.
                tokio::spawn(async move { answer(stream, &own, behaves, &calls).await.ok() });
            }
        });
        Self {
            address,
            behaves,
            token_calls,
        }
    }

    fn issuer(&self, way: &str) -> String {
        format!("http://{}/{way}", self.address)
    }
}

/// One request, one answer, one connection.
async fn answer(
    mut stream: TcpStream,
    own: &str,
    behaves: bool,
    token_calls: &AtomicUsize,
) -> std::io::Result<()> {
    let head = read_head(&mut stream).await?;
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let way = path
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default();
    let issuer = format!("http://{own}/{way}");
    if way == "curt" {
        return answer_once(stream, head, &issuer, token_calls).await;
    }
    let good = if path.ends_with("/jwks") {
        json!({ "keys": [] })
    } else {
        json!({
            "issuer": issuer, "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/jwks"),
        })
    };
    let redirect = |to: &str| whole("302 Found", &format!("Location: {to}\r\n"), "");
    let text = match way {
        _ if behaves => whole("200 OK", "", &good.to_string()),
        "huge" => whole("200 OK", "", &format!("[\"{}\"]", "x".repeat(10 << 20))),
        "garbage" => "220 mail.example ESMTP\r\n\r\n".to_owned(),
        "text" => whole("200 OK", "", "<html>welcome"),
        "error" => whole("500 Internal Server Error", "", ""),
        "metadata" => redirect("http://169.254.169.254/latest/meta-data/"),
        "file" => redirect("file:///etc/passwd"),
        "circle" => redirect(&path),
        "silent" => {
            // Until the other side gives up.
            stream.read_u8().await?;
            String::new()
        }
        _ => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            // A byte now and then, so that nobody is silent, and no end.
            loop {
                stream.write_all(b" ").await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

/// Answers the first request of a connection and keeps that. At the next one it goes: half into the answer to a GET,
/// and without a word to a POST.
async fn answer_once(
    mut stream: TcpStream,
    head: String,
    issuer: &str,
    token_calls: &AtomicUsize,
) -> std::io::Result<()> {
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let count = |head: &str| {
        if head.starts_with("POST ") && head.contains("/token HTTP") {
            token_calls.fetch_add(1, Ordering::SeqCst);
        }
    };
    count(&head);
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length
        .and_then(|length| length.parse().ok())
        .unwrap_or_default();
    stream.read_exact(&mut vec![0; length]).await?;
    let answer = if path.ends_with("/jwks") {
        json!({ "keys": [] })
    } else if path.ends_with("/introspect") {
        json!({ "active": true, "sub": "somebody" })
    } else if path.ends_with("/token") {
        json!({ "access_token": "opaque", "token_type": "Bearer", "expires_in": 60 })
    } else {
        json!({
            "issuer": issuer, "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/jwks"),
            "introspection_endpoint": format!("{issuer}/introspect"),
        })
    };
    let answer = whole("200 OK", "", &answer.to_string()).replace("Connection: close\r\n", "");
    stream.write_all(answer.as_bytes()).await?;
    let next = read_head(&mut stream).await?;
    count(&next);
    if next.starts_with("GET ") {
        stream
            .write_all(
                answer
                    .as_bytes()
                    .get(..answer.len() / 2)
                    .unwrap_or_default(),
            )
            .await?;
    }
    stream.shutdown().await
}

fn whole(status: &str, more: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{more}Connection: close\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn a_provider_that_misbehaves_keeps_nobody_but_its_own_users_out() {
    let demo = Demo::start(&[]).await;
    let provider = Provider::start().await;
    let cluster = Cluster::start(1).await;
    let protect = |way: &str| -> Value {
        json!({
            "name": "openid-connect", "config": {
                "issuer": provider.issuer(way), "client_id": ["c"], "client_secret": ["s"],
                "timeout": 1500,
            },
        })
    };
    cluster.route(&demo.upstream(), "/open").await;
    for way in WAYS {
        let route = cluster.route(&demo.upstream(), &format!("/{way}")).await;
        let path = format!("/routes/{route}/plugins");
        cluster.create(&path, protect(way)).await;
    }
    for (name, method) in [("introspection", "introspection"), ("grant", "password")] {
        let route = cluster.route(&demo.upstream(), &format!("/{name}")).await;
        let mut plugin = protect("curt");
        plugin["config"]["auth_methods"] = json!([method]);
        // It is slow only where this machine is.
        plugin["config"]["timeout"] = json!(60_000);
        cluster
            .create(&format!("/routes/{route}/plugins"), plugin)
            .await;
    }
    cluster.settled().await;
    let url = |path: &str| format!("{}/{path}", cluster.url(0));
    let asking = WAYS.map(|way| {
        let url = url(way);
        async move { (way, Browser::new().get(&url).await) }
    });
    let open = async {
        for _ in 0..20 {
            assert_eq!(Browser::new().get(&url("open")).await.status, 200);
        }
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(asking), open);
    for (way, reply) in answers {
        assert_eq!(reply.status, 503, "{way}: {}", reply.text());
        let said = reply.json()["message"].clone();
        assert_eq!(said, "The OpenID provider is unavailable", "{way}");
        assert_ne!(reply.header("retry-after"), "", "{way}");
    }
    // Connections that end in the middle cost a second try, and nobody an answer; but for what may be said only once.
    for (path, credential) in [
        ("introspection", "Bearer opaque-"),
        ("grant", "Basic user:"),
    ] {
        for number in 0..5 {
            let value = format!("{credential}{number}");
            let headers = [("authorization", value.as_str())];
            let (browser, url) = (Browser::new(), url(path));
            let reply = browser.get_with(&url, &headers).await;
            assert_eq!(reply.status, 200, "{path} {number}: {}", reply.text());
        }
    }
    assert_eq!(provider.token_calls.load(Ordering::SeqCst), 5);
    provider.behaves.store(true, Ordering::SeqCst);
    for way in WAYS {
        eventually(&format!("{way} is over"), async || {
            let reply = Browser::new().get(&url(way)).await;
            let location = reply.location()?.to_string();
            location.starts_with(&provider.issuer(way)).then_some(())
        })
        .await;
    }
}
