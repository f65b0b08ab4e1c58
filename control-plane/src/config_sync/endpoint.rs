//! The one call that data planes make, as HTTP/2 carries it: what nodes say is read by the library, what they are sent
//! leaves as it was encoded.
//!
//! The library's encoder copies each message into a buffer of its stream and keeps that as long as the stream lives,
//! which for a chunk is a hundred kilobytes a node. Here all nodes are sent the same bytes.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use proto::v1::NodeMessage;
use proto::v1::config_sync_server::SERVICE_NAME;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::BufferSettings;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::{Status, Streaming};
use tonic_prost::ProstDecoder;

use super::{Streams, peer};
use crate::snapshot::Frame as Message;

/// Bytes that a node may send in one message: faults are the longest.
const MESSAGE_LIMIT: usize = 1024 * 1024;

/// What nodes say is short, most of the time.
const BUFFER: usize = 1024;

/// The name of the call.
const SUBSCRIBE: &str = "Subscribe";

/// Hands streams to what serves them.
#[derive(Clone, Debug)]
pub(super) struct Endpoint(pub(super) Streams);

impl NamedService for Endpoint {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<Request<Body>> for Endpoint {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let streams = self.0.clone();
        Box::pin(async move {
            let answer = answer(streams, request).await;
            Ok(answer.unwrap_or_else(Status::into_http))
        })
    }
}

async fn answer(streams: Streams, request: Request<Body>) -> Result<Response<Body>, Status> {
    let call = request.uri().path().strip_prefix('/');
    let call = call.and_then(|path| path.strip_prefix(SERVICE_NAME)?.strip_prefix('/'));
    if call != Some(SUBSCRIBE) {
        return Err(Status::unimplemented("there is no such call"));
    }
    let peer = peer(request.extensions())?;
    let decoder: ProstDecoder<NodeMessage> =
        ProstDecoder::new(BufferSettings::new(BUFFER, MESSAGE_LIMIT));
    let body = request.into_body();
    let incoming = Streaming::new_request(decoder, body, None, Some(MESSAGE_LIMIT));
    Ok(respond(streams.subscribe(&peer, incoming).await?))
}

/// Sends `messages` until there are no more.
fn respond(messages: mpsc::Receiver<Message>) -> Response<Body> {
    let pieces = ReceiverStream::new(messages).flat_map(|message| {
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
