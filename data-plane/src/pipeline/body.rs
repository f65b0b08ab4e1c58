//! A request's body before it goes upstream.

use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use http::{HeaderMap, header};
use plugins::exchange::{BodyError, BodySource, Parsing};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::body::{RequestBody, RequestBodyError};
use crate::core::Core;
use crate::error::GatewayError;
use crate::http1::content_length;
use crate::http1::headers::View;
use crate::http1::kind::Kind;
use crate::memory::Held;

/// The request's body, which a filter may read before it is forwarded.
pub(super) struct Body {
    core: Rc<Core>,
    client: IpAddr,
    service: Option<Uuid>,
    rest: RequestBody,
    /// How many bytes its client has announced, if it has.
    announced: Option<usize>,
    /// What a filter has read, and whether that is all.
    read: Option<(Bytes, bool)>,
    /// What has come behind the last byte.
    trailers: Option<Box<HeaderMap>>,
    /// The memory that it takes up, as long as it is here, and so much of that for its bytes.
    held: Option<Held>,
    size: usize,
    /// Why it was not read to its end, if that is not that it broke.
    fault: Option<GatewayError>,
}

impl Body {
    /// The body `rest` of a request of `client` for `service` on `core`, of so many bytes if that was `announced`.
    pub(super) const fn new(
        rest: RequestBody,
        core: Rc<Core>,
        (client, service): (IpAddr, Option<Uuid>),
        announced: Option<usize>,
    ) -> Self {
        Self {
            announced,
            core,
            client,
            service,
            rest,
            read: None,
            trailers: None,
            held: None,
            size: 0,
            fault: None,
        }
    }

    /// Why it was given up, if it was: then nothing of the request goes upstream, whatever the filter that read it has made of
    /// that.
    pub(super) const fn fault(&mut self) -> Option<GatewayError> {
        self.fault.take()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.read.is_none() && self.rest.is_empty()
    }

    /// Waits for the whole body, if it is no longer than `limit` and there is plenty of room for it: a server is then not kept
    /// waiting by a slow client, and can be asked again with the same bytes.
    pub(super) async fn hold(&mut self, limit: usize) -> Result<(), GatewayError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        match self.read_all(limit, true).await {
            Ok(_) | Err(BodyError::TooLarge(_)) => Ok(()),
            Err(BodyError::Broken) => Err(self
                .fault()
                .unwrap_or(GatewayError::BadRequest("the body broke"))),
        }
    }

    /// How long the body is, if all of it has been read.
    pub(super) fn length(&self) -> Option<u64> {
        match &self.read {
            Some((bytes, true)) if self.trailers.is_none() => u64::try_from(bytes.len()).ok(),
            _ => None,
        }
    }

    /// Filters have seen what they want to: nobody parses it any more.
    pub(super) fn is_seen(&mut self) {
        if let Some(held) = &mut self.held {
            held.shrinks_to(self.size);
        }
    }

    /// A filter sends so many bytes in its place.
    pub(super) fn gives_way(&mut self, length: usize) {
        self.read = None;
        if let Some(held) = &mut self.held {
            // They are here already: should there be no room, they count for less.
            let _ = held.grows(length);
            held.shrinks_to(length);
        }
    }

    /// Takes the body from its first byte. One that is here whole is kept until the server has answered, and counts as long.
    pub(super) fn whole(&mut self) -> RequestBody {
        let rest = std::mem::replace(&mut self.rest, RequestBody::Empty);
        let rest = match (self.trailers.take(), &self.read) {
            (Some(trailers), _) => RequestBody::Trailers(trailers),
            // The connection itself does not tell that nothing more comes.
            (None, Some((_, true))) => RequestBody::Empty,
            (None, _) => rest,
        };
        if !rest.is_empty() {
            self.held = None;
        }
        match self.read.take() {
            Some((bytes, _)) if !bytes.is_empty() => RequestBody::Read(bytes, Box::new(rest)),
            _ => rest,
        }
    }

    /// Reads all of it, if it is no longer than `limit`. One that only `is_held` goes on as it comes where there is not plenty of
    /// room or it takes too long, and one that a filter has to see is given up then; where memory is critical, either.
    async fn read_all(&mut self, limit: usize, is_held: bool) -> Result<Bytes, BodyError> {
        if let Some((bytes, true)) = &self.read {
            return if bytes.len() > limit {
                Err(BodyError::TooLarge(limit))
            } else {
                Ok(bytes.clone())
            };
        }
        if self.fault.is_some() {
            return Err(BodyError::Broken);
        }
        // Nobody is asked to send what no filter will read (RFC 9110 §10.1.1).
        if !is_held && self.announced > Some(limit) {
            return Err(BodyError::TooLarge(limit));
        }
        let most = self.announced.unwrap_or(limit).min(limit);
        let before = self.read.take().map(|(bytes, _)| bytes).unwrap_or_default();
        let known = before.len();
        let mut read = Vec::from(before);
        let mut end = Err(BodyError::TooLarge(limit));
        let limits = self.core.node.limits;
        let held = self
            .held
            .get_or_insert_with(|| self.core.hold(self.client, self.service));
        let begun = Instant::now();
        while read.len() <= limit {
            let in_all = begun + limits.for_body(read.len() - known);
            let stalled = Instant::now() + limits.body;
            // Who dawdles, and does not stand still, may have a server wait that needs not have it whole.
            let in_all = if is_held {
                in_all + limits.body
            } else {
                in_all
            };
            let until = in_all.min(stalled);
            let next = std::future::poll_fn(|cx| self.rest.poll_frame(cx));
            let next = tokio::select! {
                // What is here already is taken.
                biased;
                next = timeout_at(until, next) => next,
                () = self.core.until_critical() => {
                    self.fault = Some(GatewayError::Overloaded);
                    break;
                }
            };
            if next.is_err() && is_held && in_all < stalled {
                break;
            }
            match next.unwrap_or(Some(Err(RequestBodyError::Timeout))) {
                None => {
                    end = Ok(());
                    break;
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if held.adds(&mut read, &data, most, is_held) => {}
                    Ok(_) if is_held => break,
                    Ok(_) => {
                        self.fault = Some(lack(held, read.len()));
                        break;
                    }
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
        if self.fault.is_some() {
            // Nobody has seen anything of it: it ends here.
            self.held = None;
            read = Vec::new();
            end = Err(BodyError::Broken);
        }
        self.size = read.capacity();
        let bytes = Bytes::from(read);
        self.read = Some((bytes.clone(), end.is_ok()));
        end.map(|()| bytes)
    }
}

/// How many bytes a client announces that has sent `headers`.
pub(super) fn announced(headers: View<'_>) -> Option<usize> {
    let mut lengths = headers.values(Kind::CONTENT_LENGTH, &header::CONTENT_LENGTH);
    content_length(lengths.next()?).ok()?.try_into().ok()
}

/// Why what is `held` cannot become so many bytes.
fn lack(held: &Held, bytes: usize) -> GatewayError {
    if held.may_have(bytes) {
        GatewayError::Overloaded
    } else {
        GatewayError::BodyTooLarge
    }
}

/// What a value, and an object, of JSON take up at most while they are read, and an argument of a form.
const VALUE: usize = 256;
const OBJECT: usize = 512;

/// How much memory is needed, beside that of `bytes`, to parse them: 2 bytes of JSON can be a value of 72, in a list that
/// has room for twice as many and was copied to grow.
pub(super) fn needed(bytes: &[u8], parsing: Parsing) -> usize {
    let count = |wanted: u8| memchr::memchr_iter(wanted, bytes).count();
    let length = bytes.len();
    match parsing {
        Parsing::Nothing => 0,
        Parsing::Multipart => length,
        Parsing::Form => length + count(b'&') * VALUE,
        Parsing::Json => length + json(bytes),
    }
}

/// What the values of `text` take up: there is one more with each comma and bracket, but for those within strings.
fn json(mut text: &[u8]) -> usize {
    let mut needed = 0_usize;
    loop {
        let quote = memchr::memchr(b'"', text).unwrap_or(text.len());
        let (outside, string) = text.split_at(quote);
        for byte in outside {
            needed += match byte {
                b',' | b'[' => VALUE,
                b'{' => OBJECT,
                _ => 0,
            };
        }
        let Some(behind) = string.get(1..).and_then(behind_string) else {
            return needed;
        };
        text = behind;
    }
}

/// What comes behind the string that `text` is within; none if it does not end.
fn behind_string(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        let at = memchr::memchr2(b'"', b'\\', text)?;
        if text.get(at) == Some(&b'"') {
            return text.get(at + 1..);
        }
        text = text.get(at + 2..)?;
    }
}

impl BodySource for Body {
    fn read(
        &mut self,
        limit: usize,
        parsing: Parsing,
    ) -> LocalBoxFuture<'_, Result<Bytes, BodyError>> {
        let reading = async move {
            let bytes = self.read_all(limit, false).await?;
            self.make_room(&bytes, parsing)?;
            Ok(bytes)
        };
        reading.boxed_local()
    }

    fn make_room(&mut self, bytes: &[u8], parsing: Parsing) -> Result<(), BodyError> {
        let needed = self.size + needed(bytes, parsing);
        let held = self
            .held
            .get_or_insert_with(|| self.core.hold(self.client, self.service));
        if held.grows(needed) {
            return Ok(());
        }
        self.fault = Some(lack(held, needed));
        self.held = None;
        self.read = Some((Bytes::new(), false));
        Err(BodyError::Broken)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use tokio::task::LocalSet;

    use super::*;
    use crate::limits::Limits;
    use crate::live::Live;
    use crate::proxy::Proxy;
    use crate::settings::Settings;

    /// On a core of a node with so much room for what is held.
    pub(in crate::pipeline) fn on_core(room: usize, check: impl AsyncFnOnce(&Rc<Core>)) {
        let settings = Settings {
            proxy_listen: Vec::new(),
            proxy_tls_listen: vec!["off".parse().unwrap()],
            status_listen: Vec::new(),
            access_log: "off".to_owned(),
            workers: 1,
            ..Settings::default()
        };
        let limits = Limits {
            held: room,
            ..Limits::default()
        };
        let proxy = Proxy::start_with(&settings, limits, Live::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let checking = async {
            let core = Core::new(Arc::clone(proxy.node()), Arc::default());
            check(&core).await;
        };
        runtime.block_on(LocalSet::new().run_until(checking));
    }

    /// The same with what a client sends in two parts.
    fn with_body(room: usize, check: impl AsyncFnOnce(Body, &Rc<Core>)) {
        on_core(room, async |core| {
            let rest = body("two", RequestBody::Empty, core).rest;
            check(body("one,", rest, core), core).await;
        });
    }

    const PAGE: usize = 4096;

    /// The body of a client that has sent `text` and then the `rest`.
    fn body(text: &str, rest: RequestBody, core: &Rc<Core>) -> Body {
        let sent = RequestBody::Read(Bytes::copy_from_slice(text.as_bytes()), Box::new(rest));
        let client = IpAddr::from([192, 0, 2, 1]);
        Body::new(sent, Rc::clone(core), (client, None), None)
    }

    /// What goes upstream.
    async fn upstream(body: &mut Body) -> Bytes {
        let (mut whole, mut sent) = (body.whole(), Vec::new());
        while let Some(frame) = std::future::poll_fn(|cx| whole.poll_frame(cx)).await {
            sent.extend(frame.unwrap().into_data().unwrap());
        }
        sent.into()
    }

    #[test]
    fn what_a_filter_never_has_room_to_read_goes_nowhere() {
        with_body(0, async |mut body, core| {
            let read = body.read(64, Parsing::Nothing).await;
            assert!(matches!(read, Err(BodyError::Broken)));
            let held = body.hold(64).await;
            assert!(matches!(held, Err(GatewayError::BodyTooLarge)), "{held:?}");
            assert_eq!(core.held.used(), 0);
        });
    }

    #[test]
    fn what_is_announced_too_long_is_not_read() {
        with_body(64 * PAGE, async |mut body, core| {
            body.announced = Some(7);
            let read = body.read(6, Parsing::Nothing).await;
            assert!(matches!(read, Err(BodyError::TooLarge(6))));
            assert_eq!((body.read.is_none(), core.held.used()), (true, 0));
            assert_eq!(body.read(7, Parsing::Nothing).await.unwrap(), "one,two");
            assert_eq!(upstream(&mut body).await, "one,two");
        });
    }

    #[test]
    fn what_is_parsed_takes_up_more_until_filters_have_seen_it() {
        // Room for what two of these may become, and its last quarter.
        let each = (100 * VALUE).div_ceil(PAGE);
        with_body(2 * each * PAGE * 4 / 3 + PAGE, async |_, core| {
            let json = format!("[{}0]", "0,".repeat(99));
            let sent = || body(&json, RequestBody::Empty, core);
            let mut bodies: Vec<Body> = Vec::new();
            for _ in 0..2 {
                let mut body = sent();
                assert!(body.read(PAGE, Parsing::Json).await.is_ok());
                bodies.push(body);
            }
            let mut late = sent();
            assert_eq!(late.read(PAGE, Parsing::Nothing).await.unwrap(), json);
            assert!(late.read(PAGE, Parsing::Json).await.is_err());
            assert!(matches!(late.fault(), Some(GatewayError::Overloaded)));
            bodies.iter_mut().for_each(Body::is_seen);
            assert_eq!(core.held.used(), 2);
            assert_eq!(sent().read(PAGE, Parsing::Json).await.unwrap(), json);
            let large = json.replace('0', "0,0,0");
            let mut large = body(&large, RequestBody::Empty, core);
            assert!(large.read(PAGE, Parsing::Json).await.is_err());
            assert!(matches!(large.fault(), Some(GatewayError::BodyTooLarge)));
            drop(bodies);
            assert_eq!(core.held.used(), 0);
        });
    }

    #[test]
    fn what_is_here_whole_takes_up_memory_until_it_is_answered() {
        with_body(64 * PAGE, async |mut small, core| {
            let text = "x".repeat(3 * PAGE);
            let mut large = body(&text, RequestBody::Empty, core);
            for body in [&mut small, &mut large] {
                body.hold(4 * PAGE).await.unwrap();
                upstream(body).await;
            }
            assert_eq!(core.held.used(), 1 + 3);
            // Another is sent in its place.
            let mut replaced = body(&text, RequestBody::Empty, core);
            assert!(replaced.read(4 * PAGE, Parsing::Nothing).await.is_ok());
            replaced.gives_way(PAGE + 1);
            assert_eq!(core.held.used(), 1 + 3 + 2);
            drop((small, large, replaced));
            assert_eq!(core.held.used(), 0);
            // The server is sent the rest as it comes.
            let rest = body(&text, RequestBody::Empty, core).rest;
            let rest = body(&text, rest, core).rest;
            let mut begun = body(&text, rest, core);
            begun.hold(4 * PAGE).await.unwrap();
            assert!(core.held.used() > 0);
            assert_eq!(upstream(&mut begun).await, text.repeat(3));
            assert_eq!(core.held.used(), 0);
        });
    }

    #[test]
    fn what_there_is_no_room_for_streams() {
        with_body(5, async |mut body, _| {
            body.hold(64).await.unwrap();
            assert_eq!(body.length(), None);
            assert_eq!(upstream(&mut body).await, "one,two");
        });
    }

    #[test]
    fn what_is_parsed_takes_what_its_values_do() {
        use Parsing::{Form, Json, Multipart, Nothing};
        for (body, parsing, expected) in [
            ("a=b&c&&d=[,{", Nothing, 0),
            ("a=b&c&&d=[,{", Multipart, 12),
            ("a=b&c&&d=[,{", Form, 12 + 3 * VALUE),
            ("a=b", Form, 3),
            ("", Json, 0),
            (" [0,1,2]", Json, 8 + 3 * VALUE),
            (
                "{\"a\":[{},{}],\"b&\":0}",
                Json,
                20 + 3 * VALUE + 3 * OBJECT,
            ),
            ("{\"a,[{\":\"b\\\",[\"}", Json, 16 + OBJECT),
            ("[\"a\\\\\",1,\"b", Json, 11 + 3 * VALUE),
        ] {
            assert_eq!(needed(body.as_bytes(), parsing), expected, "{body}");
        }
    }
}
