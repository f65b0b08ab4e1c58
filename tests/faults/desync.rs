//! Requests by which two servers in a row have been set against each other (RFC 9112 §11.2): behind the gateway, nginx,
//! `HAProxy` and hyper see the requests that it has sent them, and no others.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use harness::{Cluster, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What is to be taken for a request of its own; no route leads there.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\nX-Rest: ";

/// How long whoever says nothing is taken to have nothing more to say.
const SILENCE: Duration = Duration::from_millis(400);

/// A server that answers `METHOD PATH` of each request, and writes it down.
struct Server {
    address: String,
    child: Option<Child>,
    seen: Seen,
}

enum Seen {
    Log(PathBuf),
    Lines(Arc<Mutex<Vec<String>>>),
}

impl Server {
    /// What it has seen: `METHOD PATH`, and what nobody can read.
    fn lines(&self) -> Vec<String> {
        match &self.seen {
            Seen::Log(path) => {
                let text = std::fs::read_to_string(path).unwrap_or_default();
                text.lines().map(str::to_owned).collect()
            }
            Seen::Lines(lines) => lines.lock().unwrap().clone(),
        }
    }

    async fn hyper() -> Self {
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&lines);
        let answer = move |request: Request| {
            let line = format!("{} {}", request.method(), request.uri());
            seen.lock().unwrap().push(line.clone());
            async move { format!("{line}\n") }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new().fallback(answer);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            address,
            child: None,
            seen: Seen::Lines(lines),
        }
    }

    /// A program that is given `file`, made of `text` with its address in the place of `ADDRESS` and `directory` in that of
    /// `DIRECTORY`; it writes to `access.log` there.
    async fn program(directory: &Path, program: &str, arguments: &[&str], text: &str) -> Self {
        let directory = directory.join(program);
        std::fs::create_dir(&directory).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let text = text.replace("ADDRESS", &address);
        let text = text.replace("DIRECTORY", &directory.display().to_string());
        let file = directory.join("configuration");
        std::fs::write(&file, text).unwrap();
        let log = directory.join("access.log");
        let child = Command::new(program)
            .args(arguments)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(File::create(&log).unwrap())
            .stderr(File::create(directory.join("said")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("tests/faults/run installs {program}: {error}"));
        eventually(&format!("{program} listens"), async || {
            TcpStream::connect(&address).await.ok()
        })
        .await;
        Self {
            address,
            child: Some(child),
            seen: Seen::Log(log),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const NGINX: &str =
    "daemon off; master_process off; pid DIRECTORY/pid; error_log DIRECTORY/error.log;
events {}
http {
    log_format line '$request_method $request_uri'; access_log DIRECTORY/access.log line;
    client_body_temp_path DIRECTORY/1; proxy_temp_path DIRECTORY/2; fastcgi_temp_path DIRECTORY/3;
    uwsgi_temp_path DIRECTORY/4; scgi_temp_path DIRECTORY/5;
    server { listen ADDRESS; location / { return 200 \"$request_method $request_uri\\n\"; } }
}
";

const HAPROXY: &str = "global
    log stdout format raw local0
defaults
    mode http
    log global
    option dontlognull
    timeout client 60s
    timeout server 60s
    timeout connect 5s
frontend all
    bind ADDRESS
    log-format \"%HM %HU\"
    http-request return status 200 content-type text/plain lf-string \"%[method] %[path]\\n\"
";

/// All requests of HTTP/1.1 to `path`, each by the family that it is of. Those in two parts come with a pause between.
#[expect(clippy::too_many_lines, reason = "a list")]
fn families(path: &str) -> Vec<(String, Vec<String>)> {
    let length = SMUGGLED.len();
    let head = |method: &str, fields: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")
    };
    let post = |fields: &str, body: &str| head("POST", fields) + body;
    let (both, last) = (
        format!("Content-Length: {}", 5 + length),
        format!("0\r\n\r\n{SMUGGLED}"),
    );
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    let mut add = |name: &str, parts: &[String]| all.push((name.to_owned(), parts.to_vec()));
    add(
        "CL.TE",
        &[post(
            &format!("{both}\r\nTransfer-Encoding: chunked"),
            &last,
        )],
    );
    let chunk = format!("{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n");
    add(
        "TE.CL",
        &[post(
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            &chunk,
        )],
    );
    for disguise in [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding: \u{b}chunked",
        "X: x\nTransfer-Encoding: chunked",
        "X: x\r\n Transfer-Encoding: chunked",
        "Transfer-Encoding\r\n : chunked",
        "Transfer_Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: \"chunked\"",
        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    ] {
        let name = format!("TE.TE {disguise:?}");
        add(&name, &[post(&format!("{both}\r\n{disguise}"), &last)]);
        add(&name, &[post(disguise, &last)]);
    }
    let whole = format!("Content-Length: {length}");
    add("CL.0", &[post(&whole, SMUGGLED)]);
    add("CL.0, GET", &[head("GET", &whole) + SMUGGLED]);
    add("CL.0, HEAD", &[head("HEAD", &whole) + SMUGGLED]);
    for disguise in [
        "Content-Length: +5",
        "Content-Length: 0",
        "Content-Length: 0, 0",
        "Content-Length : 5",
        "Content_Length: 5",
        "Content-Length: 0\r\nContent-Length: 5",
    ] {
        add(disguise, &[post(disguise, SMUGGLED)]);
        add(
            disguise,
            &[post(&format!("{disguise}\r\n{whole}"), SMUGGLED)],
        );
    }
    // Fields that end here, told to end here (RFC 9110 §7.6.1).
    add(
        "Connection",
        &[post(
            &format!("Connection: Content-Length\r\n{whole}"),
            SMUGGLED,
        )],
    );
    let upgrade =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAA";
    add("h2c", &[head("GET", upgrade) + SMUGGLED]);
    // Without a key HAProxy takes none of it for a request.
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let tunnel =
        format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\nSec-WebSocket-Version: 777");
    add("WebSocket", &[head("GET", &tunnel) + SMUGGLED]);
    for size in ["0x0", "0 ", "0;\n", "00000000000000000", "-0", "0;a=\rb"] {
        let body = format!("{size}\r\n\r\n{SMUGGLED}");
        add(
            &format!("chunk {size:?}"),
            &[post("Transfer-Encoding: chunked", &body)],
        );
    }
    for end in ["\n", "\r", "", "xx", "\r\n\r\n"] {
        let body = format!("1\r\nZ{end}0\r\n\r\n{SMUGGLED}");
        add(
            &format!("chunk's end {end:?}"),
            &[post("Transfer-Encoding: chunked", &body)],
        );
    }
    for expect in [
        "100-continue",
        "y 100-continue",
        "100-continue, 100-continue",
    ] {
        let fields = format!("Expect: {expect}\r\n{whole}");
        add("Expect", &[post(&fields, SMUGGLED)]);
        add("Expect", &[post(&fields, ""), SMUGGLED.to_owned()]);
    }
    add("pause", &[post(&whole, ""), SMUGGLED.to_owned()]);
    let many = head("GET", "X: x").repeat(20);
    add("single packet", &[many + SMUGGLED]);
    all
}

/// A field of HTTP/2 as it is, neither indexed nor compressed (RFC 7541 §6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
        [&[length.expect("one byte tells it")], text.as_bytes()].concat()
    };
    [vec![0], text(name), text(value)].concat()
}

/// A frame of the first stream of a connection (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [.., high, low] = payload.len().to_be_bytes();
    [&[0, high, low, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A family, the method and the path, further fields, and the body.
type Downgrade<'a> = (&'a str, [&'a str; 2], &'a [(&'a str, &'a str)], &'a str);

/// All requests of HTTP/2 to `path`, each by the family that it is of.
fn downgrades(path: &str) -> Vec<(String, Vec<u8>)> {
    let split = format!("{path} HTTP/1.1\r\nHost: a\r\n\r\nGET /smuggled");
    let value = "x\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a";
    let last = format!("0\r\n\r\n{SMUGGLED}");
    let (method, length) = (
        format!("GET {path} HTTP/1.1\r\n\r\nGET"),
        SMUGGLED.len().to_string(),
    );
    let cases: [Downgrade<'_>; 10] = [
        ("H2.0", ["POST", path], &[], SMUGGLED),
        (
            "H2.CL, none",
            ["POST", path],
            &[("content-length", "0")],
            SMUGGLED,
        ),
        (
            "H2.CL, less",
            ["POST", path],
            &[("content-length", "4")],
            SMUGGLED,
        ),
        (
            "H2.CL, as it is",
            ["POST", path],
            &[("content-length", &length)],
            SMUGGLED,
        ),
        (
            "H2.TE",
            ["POST", path],
            &[("transfer-encoding", "chunked")],
            &last,
        ),
        (
            "H2.TE, GET",
            ["GET", path],
            &[("transfer-encoding", "chunked")],
            &last,
        ),
        ("path", ["GET", &split], &[], ""),
        ("method", [&method, path], &[], ""),
        ("value", ["GET", path], &[("x", value)], ""),
        ("name", ["GET", path], &[("x: y\r\nz", "1")], ""),
    ];
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let request = |[method, path]: [&str; 2], more: &[(&str, &str)], body: &str| {
        let pseudo = [
            (":method", method),
            (":scheme", "http"),
            (":path", path),
            (":authority", "a"),
        ];
        let fields = pseudo.iter().chain(more);
        let block: Vec<u8> = fields
            .flat_map(|(name, value)| field(name, value))
            .collect();
        [
            &preface[..],
            &frame(4, 0, 0, &[]),
            &frame(1, 4, 1, &block),
            &frame(0, 1, 1, body.as_bytes()),
        ]
        .concat()
    };
    cases
        .into_iter()
        .map(|(name, line, more, body)| (name.to_owned(), request(line, more, body)))
        .collect()
}

/// What the gateway says to these bytes, until it closes the connection or has nothing more to say.
async fn say(address: &str, parts: &[Vec<u8>]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        // It may have closed before all was said.
        let _ = stream.write_all(part).await;
        let patience = if at + 1 < parts.len() {
            SILENCE * 2
        } else {
            SILENCE
        };
        while let Ok(Ok(1..)) = tokio::time::timeout(patience, stream.read_buf(&mut answer)).await {
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nginx and HAProxy: tests/faults/run"]
async fn servers_behind_the_gateway_see_the_requests_that_it_sees() {
    let cluster = Cluster::start(1).await;
    let place = tempfile::tempdir().unwrap();
    let servers = [
        (
            "nginx",
            Server::program(place.path(), "nginx", &["-c"], NGINX).await,
        ),
        (
            "haproxy",
            Server::program(place.path(), "haproxy", &["-db", "-f"], HAPROXY).await,
        ),
        ("hyper", Server::hyper().await),
    ];
    for (name, server) in &servers {
        let upstream = format!("http://{}", server.address);
        cluster.route(&upstream, &format!("/{name}")).await;
    }
    cluster.settled().await;
    let address = cluster.data_planes[0].process.address("proxy");
    for (name, server) in &servers {
        let (attack, mut victims) = (format!("/{name}/attack"), 0);
        let sound = |line: &str| {
            let path = line.split_once(' ').map_or("", |(_, path)| path);
            path == format!("/{name}/attack") || path.starts_with(&format!("/{name}/victim-"))
        };
        let bytes = |parts: Vec<String>| parts.into_iter().map(String::into_bytes).collect();
        let first = families(&attack)
            .into_iter()
            .map(|(family, parts)| (family, bytes(parts)));
        let second = downgrades(&attack)
            .into_iter()
            .map(|(family, bytes)| (family, vec![bytes]));
        let cases: Vec<(String, Vec<Vec<u8>>)> = first.chain(second).collect();
        for (family, parts) in &cases {
            let said = say(&address, parts).await;
            assert!(
                !said.contains("GET /smuggled\n"),
                "{name}, {family}: {said}"
            );
            let others = server.lines().into_iter().filter(|line| !sound(line));
            let others: Vec<String> = others.collect();
            assert!(
                others.is_empty(),
                "{name}, {family}: it has seen {others:?}"
            );
            // Whoever comes next, over the connections that are kept, has the answer to what was asked.
            for _ in 0..2 {
                victims += 1;
                let request = format!(
                    "GET /{name}/victim-{victims} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
                );
                let answer = say(&address, &[request.into_bytes()]).await;
                let own = format!("GET /{name}/victim-{victims}\n");
                let whole = answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&own);
                assert!(whole, "{name}, after {family}: {answer}");
            }
        }
        // It may answer a moment before it writes that down.
        let last = format!("GET /{name}/victim-{victims}");
        let lines = eventually(&format!("{name} has written it down"), async || {
            Some(server.lines()).filter(|lines| lines.contains(&last))
        })
        .await;
        for number in 1..=victims {
            let line = format!("GET /{name}/victim-{number}");
            let count = lines.iter().filter(|seen| **seen == line).count();
            assert_eq!(count, 1, "{name}: {line}");
        }
        println!(
            "{name}: {} families, {} requests seen, {victims} of them those of others; none that was not sent",
            cases.len(),
            lines.len()
        );
    }
}
