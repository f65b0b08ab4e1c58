//! A request's body before it goes upstream.

use std::rc::Rc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use http::HeaderMap;
use plugins::exchange::{BodyError, BodySource};

use crate::body::{RequestBody, RequestBodyError};
use crate::core::Core;
use crate::error::GatewayError;
use crate::memory::Held;

/// The request's body, which a filter may read before it is forwarded.
pub(super) struct Body {
    core: Rc<Core>,
    rest: RequestBody,
    /// What a filter has read, and whether that is all.
    read: Option<(Bytes, bool)>,
    /// What has come behind the last byte.
    trailers: Option<Box<HeaderMap>>,
    /// What of it takes up memory while the request has not begun.
    held: Held,
    /// Why it was not read to its end, if that is not that it broke.
    fault: Option<GatewayError>,
}

impl Body {
    /// The body `rest` of a request on `core`.
    pub(super) fn new(rest: RequestBody, core: Rc<Core>) -> Self {
        Self {
            core,
            rest,
            read: None,
            trailers: None,
            held: Held::default(),
            fault: None,
        }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.read.is_none() && self.rest.is_empty()
    }

    /// Waits for the whole body, if it is no longer than `limit` and the core has room for it: a server is then not kept waiting by a slow
    /// client, and can be asked again with the same bytes.
    pub(super) async fn hold(&mut self, limit: usize) -> Result<(), GatewayError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        match self.read_all(limit, true).await {
            Ok(_) | Err(BodyError::TooLarge(_)) => Ok(()),
            Err(BodyError::Broken) => {
                let fault = self.fault.take();
                Err(fault.unwrap_or(GatewayError::BadRequest("the body broke")))
            }
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
        self.held = Held::default();
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

    /// Reads all of it, if it is no longer than `limit`; with `is_held`, if there is room for it.
    async fn read_all(&mut self, limit: usize, is_held: bool) -> Result<Bytes, BodyError> {
        if let Some((bytes, true)) = &self.read {
            return if bytes.len() > limit {
                Err(BodyError::TooLarge(limit))
            } else {
                Ok(bytes.clone())
            };
        }
        let mut held =
            bytes::BytesMut::from(self.read.take().map(|(bytes, _)| bytes).unwrap_or_default());
        let mut end = Err(BodyError::TooLarge(limit));
        let limits = self.core.node.limits;
        while held.len() <= limit
            && (!is_held || self.held.grows(held.capacity(), limits.held_room))
        {
            let next = std::future::poll_fn(|cx| self.rest.poll_frame(cx));
            let next = tokio::time::timeout(limits.body, next).await;
            match next.unwrap_or(Some(Err(RequestBodyError::Timeout))) {
                None => {
                    end = Ok(());
                    break;
                }
                Some(Ok(frame)) => match frame.into_data() {
                    // Nobody has seen anything of it: it ends here.
                    Ok(_) if is_held && self.core.node.memory.is_critical() => {
                        self.fault = Some(GatewayError::Overloaded);
                        end = Err(BodyError::Broken);
                        break;
                    }
                    Ok(data) => held.extend_from_slice(&data),
                    Err(frame) => self.trailers = frame.into_trailers().ok().map(Box::new),
                },
                Some(Err(error)) => {
                    self.fault = matches!(error, RequestBodyError::Timeout)
                        .then_some(GatewayError::RequestTimeout);
                    end = Err(BodyError::Broken);
                    break;
                }
            }
        }
        let bytes = held.freeze();
        self.read = Some((bytes.clone(), end.is_ok()));
        end.map(|()| bytes)
    }
}

impl BodySource for Body {
    fn read(&mut self, limit: usize) -> LocalBoxFuture<'_, Result<Bytes, BodyError>> {
        self.read_all(limit, false).boxed_local()
    }
}
