//! A request's body before it goes upstream.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use http::HeaderMap;
use plugins::exchange::{BodyError, BodySource};

use crate::body::{RequestBody, RequestBodyError};
use crate::error::GatewayError;

/// The request's body, which a filter may read before it is forwarded.
pub(super) struct Body {
    rest: RequestBody,
    /// Longest wait for the client's next bytes.
    patience: Duration,
    /// What a filter has read, and whether that is all.
    read: Option<(Bytes, bool)>,
    /// What has come behind the last byte.
    trailers: Option<Box<HeaderMap>>,
    /// Whether the client has kept us waiting for too long.
    timed_out: bool,
}

impl Body {
    /// The body `rest`, whose client may pause for as long as `patience`.
    pub(super) const fn new(rest: RequestBody, patience: Duration) -> Self {
        Self {
            rest,
            patience,
            read: None,
            trailers: None,
            timed_out: false,
        }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.read.is_none() && self.rest.is_empty()
    }

    /// Waits for the whole body, if it is no longer than `limit`: a server is then not kept waiting by a slow
    /// client, and can be asked again with the same bytes.
    pub(super) async fn hold(&mut self, limit: usize) -> Result<(), GatewayError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        match self.read_all(limit).await {
            Ok(_) | Err(BodyError::TooLarge(_)) => Ok(()),
            Err(BodyError::Broken) if self.timed_out => Err(GatewayError::RequestTimeout),
            Err(BodyError::Broken) => Err(GatewayError::BadRequest("the body broke")),
        }
    }

    /// How long the body is, if all of it has been read.
    pub(super) fn length(&self) -> Option<u64> {
        match &self.read {
            Some((bytes, true)) if self.trailers.is_none() => u64::try_from(bytes.len()).ok(),
            _ => None,
        }
    }

    /// Takes the body from its first byte.
    pub(super) fn whole(&mut self) -> RequestBody {
        let rest = std::mem::replace(&mut self.rest, RequestBody::Empty);
        let rest = match (self.trailers.take(), &self.read) {
            (Some(trailers), _) => RequestBody::Trailers(trailers),
            // The connection itself does not tell that nothing more comes.
            (None, Some((_, true))) => RequestBody::Empty,
            (None, _) => rest,
        };
        match self.read.take() {
            Some((bytes, _)) if !bytes.is_empty() => RequestBody::Read(bytes, Box::new(rest)),
            _ => rest,
        }
    }

    async fn read_all(&mut self, limit: usize) -> Result<Bytes, BodyError> {
        if let Some((bytes, true)) = &self.read {
            return if bytes.len() > limit {
                Err(BodyError::TooLarge(limit))
            } else {
                Ok(bytes.clone())
            };
        }
        let mut held =
            bytes::BytesMut::from(self.read.take().map(|(bytes, _)| bytes).unwrap_or_default());
        let mut end = Ok(true);
        while held.len() <= limit {
            let next = std::future::poll_fn(|cx| self.rest.poll_frame(cx));
            let next = tokio::time::timeout(self.patience, next).await;
            match next.unwrap_or(Some(Err(RequestBodyError::Timeout))) {
                None => break,
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => held.extend_from_slice(&data),
                    Err(frame) => self.trailers = frame.into_trailers().ok().map(Box::new),
                },
                Some(Err(error)) => {
                    self.timed_out = matches!(error, RequestBodyError::Timeout);
                    end = Err(BodyError::Broken);
                    break;
                }
            }
        }
        let too_large = held.len() > limit;
        let bytes = held.freeze();
        self.read = Some((bytes.clone(), end.is_ok() && !too_large));
        if too_large {
            Err(BodyError::TooLarge(limit))
        } else {
            end.map(|_| bytes)
        }
    }
}

impl BodySource for Body {
    fn read(&mut self, limit: usize) -> LocalBoxFuture<'_, Result<Bytes, BodyError>> {
        self.read_all(limit).boxed_local()
    }
}
