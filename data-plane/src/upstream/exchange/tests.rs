//! What is heard of a server that refuses what it is sent.

use std::io::Write as _;
use std::net::TcpListener;
use std::sync::Arc;

use plugins::host::Reach;

use super::*;
use crate::limits::KeepAlive;
use crate::settings::Settings;
use crate::timer::Timers;
use crate::upstream::origin::{Origin, OriginKey};
use crate::upstream::pool::Pools;
use crate::upstream::resolve::{DnsConfig, Resolver};

/// What comes of an upload to a server that says so much and closes while nothing of the upload has been written yet, nor has
/// the runtime been told of anything. No timer fires.
async fn upload(said: &[u8]) -> Result<(StatusCode, Vec<u8>), UpstreamError> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = Origin::of(OriginKey {
        host: "127.0.0.1".to_owned(),
        port: listener.local_addr().unwrap().port(),
        tls: None,
        http2: false,
        reach: Reach::Anywhere,
    });
    let dns = DnsConfig::read(&Settings::default()).unwrap();
    let pools = Pools::new(
        Rc::new(Timers::default()),
        Rc::new(Resolver::new(dns)),
        Arc::default(),
        (8, 1),
        KeepAlive::default(),
    );
    let pool = pools.of(&origin);
    let connected = pool.connect(Duration::from_mins(1), true, &[]).await;
    let (mut connection, _) = connected.unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(said).unwrap();
    drop(server);

    let head = b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.output.head().extend_from_slice(head);
    let body = (0..8).fold(RequestBody::Empty, |rest, _| {
        RequestBody::Read(Bytes::from(vec![b'x'; 16 * 1024]), Box::new(rest))
    });
    let minute = Duration::from_mins(1);
    let asked = Asked {
        method: &Method::POST,
        upgrades: false,
        interim: None,
    };
    let timeouts = Timeouts {
        connect: minute,
        write: minute,
        read: minute,
    };
    let pump = Pump::new(body, Framing::Chunked, minute);
    let answer = exchange(connection, pool, pump, asked, timeouts).await;
    let Answer { head, body, .. } = answer.map_err(|failure| failure.error)?;
    let mut read = Vec::new();
    match body {
        ResponseBody::Upstream(mut body) => {
            while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
                read.extend(frame?.into_data().unwrap());
            }
        }
        // The system took all of the upload before it said that nobody is there.
        ResponseBody::Full(body) => read.extend(body),
        other => panic!("{other:?}"),
    }
    Ok((head.status, read))
}

#[tokio::test(flavor = "local")]
async fn a_refusal_that_came_before_the_connection_broke_is_the_answer() {
    for said in [
        "HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\n\r\ntoo large",
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 413 Content Too Large\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ntoo large\r\n0\r\n\r\n",
    ] {
        let (status, body) = upload(said.as_bytes()).await.unwrap();
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(body, b"too large");
    }
}

#[tokio::test(flavor = "local")]
async fn a_connection_that_broke_before_an_answer_is_told_of() {
    for said in ["", "HTTP/1.1 413 Content Too Large\r\nContent-"] {
        let error = upload(said.as_bytes()).await.unwrap_err();
        let is_told = matches!(
            error,
            UpstreamError::Send(_) | UpstreamError::Receive(_) | UpstreamError::Closed
        );
        assert!(is_told, "{error}");
    }
}
