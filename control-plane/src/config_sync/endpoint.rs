//! The one call that data planes make, as HTTP/2 carries it: what nodes say is read by the library, what they are sent
//! leaves as it was encoded.
//!
//! The library's encoder copies each message into a buffer of its stream and keeps that as long as the stream lives,
//! which for a chunk is a hundred kilobytes a node. Here all nodes are sent the same bytes.

use std::convert::Infallible;
use std::pin::pin;

use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use proto::v1::NodeMessage;
use proto::v1::config_sync_server::SERVICE_NAME;
use shared::telemetry::chain;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;
use tonic::body::Body;
use tonic::codec::BufferSettings;
use tonic::{Status, Streaming};
use tonic_prost::ProstDecoder;

use super::outgoing::Messages;
use super::{PING, PONG, Peer, Streams, WINDOW, peer};

/// Bytes that a node may send in one message: faults are the longest.
const MESSAGE_LIMIT: usize = 1024 * 1024;

/// What nodes say is short, most of the time.
const BUFFER: usize = 1024;

/// The name of the call.
const SUBSCRIBE: &str = "Subscribe";

/// Streams on one connection: each node makes one, and perhaps another before the first has ended.
const STREAMS: u32 = 4;

/// Bytes of a stream that have left it and not its connection: what is prompt stands behind them.
const UNSENT: usize = 8 * 1024;

/// Serves `connections` until the process stops, and then until the last of them has ended.
pub(super) async fn serve(
    connections: impl Stream<Item = TlsStream<TcpStream>>,
    streams: Streams,
    mut stopping: watch::Receiver<bool>,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(PING))
        .keep_alive_timeout(PONG)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(UNSENT);
    let serving = GracefulShutdown::new();
    {
        let mut connections = pin!(connections);
        loop {
            let connection = tokio::select! {
                connection = connections.next() => connection,
                // A sender that is gone means the same as one that spoke.
                _ = stopping.wait_for(|stop| *stop) => None,
            };
            let Some(connection) = connection else {
                break;
            };
            let (peer, streams) = (peer(&connection), streams.clone());
            let service = service_fn(move |request| {
                let (peer, streams) = (peer.clone(), streams.clone());
                async move {
                    let answer = answer(&streams, peer, request).await;
                    Ok::<_, Infallible>(answer.unwrap_or_else(Status::into_http))
                }
            });
            let connection = builder.serve_connection(TokioIo::new(connection), service);
            // What is awaited within a future would be there twice.
            tokio::spawn(serving.watch(connection).map(|ended| {
                if let Err(error) = ended {
                    tracing::debug!(error = %chain(&error), "the connection of a data plane broke");
                }
            }));
        }
    }
    serving.shutdown().await;
}

async fn answer(
    streams: &Streams,
    peer: Result<Peer, Status>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let call = request.uri().path().strip_prefix('/');
    let call = call.and_then(|path| path.strip_prefix(SERVICE_NAME)?.strip_prefix('/'));
    if call != Some(SUBSCRIBE) {
        return Err(Status::unimplemented("there is no such call"));
    }
    let peer = peer?;
    let decoder: ProstDecoder<NodeMessage> =
        ProstDecoder::new(BufferSettings::new(BUFFER, MESSAGE_LIMIT));
    let body = request.into_body();
    let incoming = Streaming::new_request(decoder, body, None, Some(MESSAGE_LIMIT));
    Ok(respond(streams.subscribe(&peer, incoming).await?))
}

/// Sends `messages` until there are no more.
fn respond(messages: Messages) -> Response<Body> {
    let pieces = messages.flat_map(|message| {
        let pieces = message.into_iter().filter(|piece| !piece.is_empty());
        stream::iter(pieces.map(Frame::data))
    });
    let ended = stream::once(async {
        let mut trailers = HeaderMap::new();
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
        Frame::trailers(trailers)
    });
    let frames = pieces.chain(ended).map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
