//! One attempt to get a request answered: which server it went to, and how far it got.

use std::borrow::Cow;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use http::{HeaderValue, header};
use plugins::exchange::Try;
use shared::authority::split_port;
use shared::clock::{UnixTime, monotonic};

use super::{Outgoing, Way};
use crate::apart::apart;
use crate::balancer::{Lease, NoPeer, Peer};
use crate::body::RequestBody;
use crate::core::Core;
use crate::http1::Framing;
use crate::http1::headers::View;
use crate::http1::kind::Kind;
use crate::http1::writer::{decimal, field};
use crate::upstream::exchange::{Answer, Asked, Pump, exchange};
use crate::upstream::http2::{self, Seen};
use crate::upstream::origin::Origin;
use crate::upstream::pool::Pool;
use crate::upstream::{Connection, UpstreamError};

/// One attempt: which server, and under which name.
///
/// What the snapshot has of both is shared by all cores: it is looked at where it is, so that no core's count of it
/// is in another's way.
pub(super) struct Attempt<'a> {
    pub(super) origin: Cow<'a, Arc<Origin>>,
    host: Cow<'a, HeaderValue>,
    pub(super) lease: Option<Lease>,
    /// Where it went, once a connection has been found.
    pub(super) address: Cell<Option<SocketAddr>>,
}

/// Which server is asked next, and what it is called.
pub(super) fn choose<'a>(
    core: &Core,
    outgoing: &Outgoing<'a>,
    tried: &[Arc<Peer>],
) -> Result<Attempt<'a>, UpstreamError> {
    match outgoing.way {
        Way::To(origin) => Ok(Attempt {
            origin: Cow::Borrowed(origin),
            host: match outgoing.host {
                Some(host) => Cow::Borrowed(host),
                None => Cow::Owned(HeaderValue::from_static("")),
            },
            lease: None,
            address: Cell::default(),
        }),
        Way::Balanced {
            balancer,
            transport,
            hash,
        } => {
            let lease = balancer
                .pick(hash, tried)
                .map_err(|NoPeer| UpstreamError::NoPeer)?;
            let key = &lease.peer.key;
            let host = if let Some(host) = outgoing.host {
                Cow::Borrowed(host)
            } else {
                let host = match &balancer.config.host_header {
                    Some(host) if split_port(host).1.is_some() => HeaderValue::from_str(host).ok(),
                    Some(host) => {
                        HeaderValue::from_maybe_shared(transport.authority(host, key.port)).ok()
                    }
                    None => core.origins.host_of(&lease.peer, transport),
                };
                Cow::Owned(host.ok_or(UpstreamError::Authority)?)
            };
            Ok(Attempt {
                origin: Cow::Owned(core.origins.of_peer(&lease.peer, transport, &host)),
                host,
                lease: Some(lease),
                address: Cell::default(),
            })
        }
    }
}

/// How far an attempt came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// The server has seen nothing of the request.
    Connecting,
    /// It may have.
    Exchanging,
    /// Most likely it has not: the connection was kept from an earlier exchange, and closed.
    Stale,
    /// It has not: the connection was kept from an earlier exchange, and closed.
    Unseen,
    /// No other attempt could go better.
    Hopeless,
}

/// Why an attempt failed.
pub(super) struct Failed {
    pub(super) error: UpstreamError,
    pub(super) stage: Stage,
    /// The request's body, if all of it is still at hand.
    pub(super) body: Option<RequestBody>,
}

impl Attempt<'_> {
    /// Tells the balancer how it went.
    pub(super) fn report(&self, failed: &Failed) {
        let Some(lease) = &self.lease else { return };
        match (&failed.error, failed.stage) {
            (_, Stage::Stale | Stage::Unseen) | (UpstreamError::RequestBody(_), _) => {}
            (error, _) => {
                lease.unanswered();
                if error.is_timeout() {
                    lease.timed_out();
                } else {
                    lease.failed();
                }
            }
        }
    }

    /// It goes to the `server`, one of `pool`'s.
    fn reaches(&self, pool: &Pool, server: SocketAddr, told: Option<&mut Try>) {
        self.address.set(Some(server));
        pool.retries.earn(server);
        if let Some(told) = told {
            (told.host, told.port) = (server.ip().to_string(), server.port());
        }
    }

    /// Whether it goes to a target that is none of those that have failed.
    pub(super) fn is_elsewhere(&self, failing: &[Arc<Peer>]) -> bool {
        let lease = self.lease.as_ref();
        lease.is_some_and(|lease| !failing.iter().any(|peer| Arc::ptr_eq(peer, &lease.peer)))
    }

    /// What is logged of it, which was begun to be looked for at `began`.
    pub(super) fn told(&self, began: Instant) -> Try {
        let key = self.origin.key();
        let chosen_within = monotonic().saturating_duration_since(began).as_nanos();
        let name = self.lease.as_ref().map(|lease| &lease.peer.key.host);
        Try {
            host: key.host.clone(),
            port: key.port,
            name: name.unwrap_or(&key.host).clone(),
            started_at: UnixTime::now().as_millis(),
            chosen_within: u64::try_from(chosen_within).unwrap_or(u64::MAX),
            failed: None,
        }
    }
}

/// Makes one attempt; if it is to be `fresh`, over a connection of its own. Of a name's servers those come last that have `failed` the
/// request.
pub(super) async fn once(
    core: &Core,
    pool: &Rc<Pool>,
    attempt: &Attempt<'_>,
    outgoing: &Outgoing<'_>,
    (fresh, failed): (bool, &[SocketAddr]),
    (framing, body): (Framing, RequestBody),
    told: Option<&mut Try>,
) -> Result<Answer, Failed> {
    let connect = outgoing.timeouts.connect;
    let connecting = |error, body| {
        let hopeless = matches!(
            error,
            UpstreamError::Resolve { .. }
                | UpstreamError::Forbidden { .. }
                | UpstreamError::Authority
        );
        Failed {
            error,
            stage: if hopeless {
                Stage::Hopeless
            } else {
                Stage::Connecting
            },
            body: Some(body),
        }
    };
    if attempt.origin.key().http2 {
        let seat = match apart(|| http2::connect(pool, connect, failed)).await {
            Ok(seat) => seat,
            Err(error) => return Err(connecting(error, body)),
        };
        attempt.reaches(pool, seat.address, told);
        let spare = body.try_clone();
        let host = &attempt.host;
        return apart(move || http2::exchange(pool, seat, outgoing, host, framing, body))
            .await
            .map_err(|http2::Failure { error, seen }| {
                let (stage, body) = match seen {
                    Seen::Nothing(body) => (Stage::Connecting, Some(body)),
                    Seen::Closed(body) => (Stage::Unseen, Some(body)),
                    Seen::Something if matches!(error, UpstreamError::RequestBody(_)) => {
                        (Stage::Hopeless, spare)
                    }
                    Seen::Something => (Stage::Exchanging, spare),
                };
                Failed { error, stage, body }
            });
    }
    let spare = body.try_clone();
    let (mut connection, pooled) = match (!fresh).then(|| pool.take(outgoing.now, failed)).flatten()
    {
        Some(connection) => (connection, true),
        None => match apart(|| pool.connect(connect, fresh, failed)).await {
            Ok(connected) => connected,
            Err(error) => return Err(connecting(error, body)),
        },
    };
    attempt.reaches(pool, connection.address, told);
    write_head(&mut connection, outgoing, &attempt.host, framing);
    let pump = Pump::new(body, framing, core.node.limits.body);
    let failure = match exchange(
        connection,
        Rc::clone(pool),
        pump,
        Asked {
            method: outgoing.method,
            upgrades: outgoing.upgrade.is_some(),
            interim: outgoing.interim,
        },
        outgoing.timeouts,
    )
    .await
    {
        Ok(answer) => return Ok(answer),
        Err(failure) => failure,
    };
    let stage = match failure.error {
        UpstreamError::Closed | UpstreamError::Send(_) | UpstreamError::Receive(_)
            if pooled && !failure.begun =>
        {
            Stage::Stale
        }
        UpstreamError::RequestBody(_)
        | UpstreamError::Framing(_)
        | UpstreamError::Informational => Stage::Hopeless,
        _ => Stage::Exchanging,
    };
    Err(Failed {
        error: failure.error,
        stage,
        body: failure.pump.untouched().or(spare),
    })
}

/// Writes the request's head to where the connection writes from.
fn write_head(
    connection: &mut Connection,
    outgoing: &Outgoing<'_>,
    host: &HeaderValue,
    framing: Framing,
) {
    let head = connection.output.head();
    put(
        head,
        &[
            outgoing.method.as_str().as_bytes(),
            b" ",
            outgoing.target.as_bytes(),
            b" HTTP/1.1\r\n",
        ],
    );
    field(head, header::HOST.as_str(), host.as_bytes());
    match outgoing.headers {
        View::Raw(fields) => fields.copy_without(outgoing.replaced, head),
        View::Map(headers) => {
            for (name, value) in headers {
                if !Kind::of(name).is_any_of(outgoing.replaced) {
                    field(head, name.as_str(), value.as_bytes());
                }
            }
        }
    }
    for (name, value) in outgoing.at_hand.iter().flatten() {
        field(head, name, value);
    }
    for (name, value) in outgoing.added {
        field(head, name, value);
    }
    put(head, &outgoing.lines);
    match framing {
        Framing::Length(length) => {
            put(head, &[b"content-length: "]);
            decimal(head, length);
            put(head, &[b"\r\n"]);
        }
        Framing::Chunked => put(head, &[b"transfer-encoding: chunked\r\n"]),
        Framing::None | Framing::UntilClose => {}
    }
    if let Some(protocol) = outgoing.upgrade {
        put(head, &[b"connection: keep-alive, Upgrade\r\n"]);
        field(head, header::UPGRADE.as_str(), protocol.as_bytes());
    } else if outgoing.trailers {
        put(head, &[b"connection: keep-alive, te\r\nte: trailers\r\n"]);
    } else {
        put(head, &[b"connection: keep-alive\r\n"]);
    }
    put(head, &[b"\r\n"]);
}

fn put(head: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        head.extend_from_slice(part);
    }
}
