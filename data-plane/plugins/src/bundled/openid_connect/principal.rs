//! Who a request comes from, as far as its tokens tell, and the way from there to a consumer.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use shared::entity::Consumer;
use uuid::Uuid;

use super::claims::{authorize, find, text, words};
use super::config::ConsumerBy;
use super::failure::Failure;
use super::headers::Facts;
use super::jws::Claims;
use super::rules::Rules;
use crate::credentials::identity_headers::{self, Asserted};
use crate::environment::{Consumers, Membership};
use crate::exchange::{Exchange, Identity};
use crate::glance::Known;

/// Everything that tokens decide, computed once for as many requests as they are used for.
pub(super) struct Principal {
    verdict: Result<(), Failure>,
    consumer: Option<String>,
    credential: Option<String>,
    groups: Option<Vec<String>>,
    /// Names of consumer groups; none: they are not looked for.
    consumer_groups: Option<Vec<String>>,
    /// What the identity headers say of the two.
    asserted: Asserted,
    upstream: Vec<(HeaderName, Option<HeaderValue>)>,
    downstream: Vec<(HeaderName, Option<HeaderValue>)>,
    /// What requests go on with that need no more than a glance, as the last one did.
    known: RefCell<Option<Rc<Known>>>,
}

shared::unsaid!(Principal);

impl Principal {
    /// Reads the tokens. Claims are looked up in the access token first, then in what introspection
    /// told, then in the ID token, then, if that is configured, in the user info. `exchanged` goes
    /// upstream in place of the access token.
    pub(super) fn new(rules: &Rules, facts: Facts<'_>, exchanged: Option<&str>) -> Self {
        let access = &rules.config.access;
        let at = |path: &Option<Vec<String>>| {
            let path = path.as_deref().filter(|path| !path.is_empty())?;
            let says = |claims| find(claims, path).filter(|_| !is_unverified(claims, path));
            facts.of_identity().find_map(says)
        };
        let owned = |value: &serde_json::Value| text(value).map(std::borrow::Cow::into_owned);
        let credential = at(&access.credential_claim).and_then(owned);
        let all = |value: &serde_json::Value| -> Vec<String> {
            let words = words(value).into_iter();
            words.map(std::borrow::Cow::into_owned).collect()
        };
        let groups = at(&access.authenticated_groups_claim).map(all);
        let looks = access.consumer_groups_claim.as_deref();
        let looks = looks.is_some_and(|path| !path.is_empty());
        let consumer_groups = at(&access.consumer_groups_claim).map(all);
        Self {
            verdict: authorize(rules, facts.introspection, facts.access, facts.access_token),
            consumer: at(&access.consumer_claim).and_then(owned),
            asserted: Asserted::new(credential.as_deref(), groups.as_deref()),
            credential,
            groups,
            consumer_groups: looks.then(|| consumer_groups.unwrap_or_default()),
            upstream: rules.headers.upstream.values(Facts {
                access_token: exchanged.unwrap_or(facts.access_token),
                ..facts
            }),
            downstream: rules.headers.downstream.values(facts),
            known: RefCell::default(),
        }
    }

    /// Lets the exchange go on as this principal, or as the anonymous consumer, or not at all.
    pub(super) fn admit(&self, rules: &Rules, exchange: &mut Exchange<'_>) -> Result<(), Failure> {
        let access = &rules.config.access;
        if let Err(failure) = &self.verdict {
            if access.anonymous.is_none() {
                return Err(failure.clone());
            }
            return admit_anonymous(rules, exchange);
        }
        let mut identity = Identity::default();
        if maps_consumers(rules) {
            let consumers = &exchange.environment.consumers;
            identity.consumer = self.consumer(rules, consumers).cloned();
            if identity.consumer.is_none() {
                identity = without_consumer(rules, consumers)?;
            }
        }
        if let Some(names) = &self.consumer_groups
            && !identity.anonymous
        {
            let known = &exchange.environment.consumers.group_ids;
            let groups = names.iter().filter_map(|name| {
                let (group, name) = (*known.get(name)?, name.clone());
                Some(Membership { group, name })
            });
            identity.consumer_groups = groups.collect();
            if identity.consumer_groups.is_empty() && !access.consumer_groups_optional {
                if access.anonymous.is_some() {
                    return admit_anonymous(rules, exchange);
                }
                return Err(unknown("no consumer group was found"));
            }
        }
        if identity.consumer.is_none() {
            identity.credential.clone_from(&self.credential);
        }
        identity.authenticated_groups.clone_from(&self.groups);
        rules.withheld.strip(exchange);
        self.write(&identity, &mut exchange.request.headers);
        exchange.response_headers.extend(self.told());
        exchange.identity = identity;
        Ok(())
    }

    /// Whether something that decides on the request was not found. What could not be asked may say it, and to pass without
    /// it may be more than the user is to do: a group can be denied.
    pub(super) fn lacks(&self, rules: &Rules) -> bool {
        let access = &rules.config.access;
        let wanted =
            |path: &Option<Vec<String>>| path.as_deref().is_some_and(|path| !path.is_empty());
        let known = self.consumer.is_some() || self.credential.is_some();
        (maps_consumers(rules) && self.consumer.is_none())
            || (wanted(&access.credential_claim) && !known)
            || (wanted(&access.authenticated_groups_claim) && self.groups.is_none())
            || self.consumer_groups.as_ref().is_some_and(Vec::is_empty)
    }

    /// The consumer that it is mapped to.
    fn consumer<'a>(&self, rules: &Rules, consumers: &'a Consumers) -> Option<&'a Arc<Consumer>> {
        map_consumer(rules, consumers, self.consumer.as_deref()?)
    }

    /// What requests go on with that need no more than a glance: without one of `hidden` fields, which are the same each
    /// time. `None`: not all may go on, or as whom takes more than a look for a consumer.
    pub(super) fn known(
        &self,
        rules: &Rules,
        consumers: &Consumers,
        hidden: Option<HeaderName>,
    ) -> Option<Rc<Known>> {
        if self.verdict.is_err() {
            return None;
        }
        let consumer = if maps_consumers(rules) {
            Some(self.consumer(rules, consumers)?)
        } else {
            None
        };
        let mut known = self.known.borrow_mut();
        let is_same = |known: &&Rc<Known>| match (&known.identity.consumer, consumer) {
            (Some(before), Some(found)) => Arc::ptr_eq(before, found),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if let Some(known) = known.as_ref().filter(is_same) {
            return Some(Rc::clone(known));
        }
        let identity = Identity {
            consumer: consumer.cloned(),
            credential: self.credential.clone().filter(|_| consumer.is_none()),
            authenticated_groups: self.groups.clone(),
            ..Identity::default()
        };
        let mut headers = HeaderMap::new();
        self.write(&identity, &mut headers);
        let removed = self.upstream.iter().map(|(name, _)| name.clone());
        let fields = headers
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()));
        let removed = removed.chain(hidden).collect();
        let made = Rc::new(Known::new(identity, removed, fields.collect()));
        *known = Some(Rc::clone(&made));
        Some(made)
    }

    /// What the client is told of it.
    pub(super) fn told(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let told = self.downstream.iter();
        told.filter_map(|(name, value)| Some((name.clone(), value.clone()?)))
    }

    /// Makes `headers` say who `identity` is, and what of its tokens goes upstream.
    fn write(&self, identity: &Identity, headers: &mut HeaderMap) {
        identity_headers::write_asserted(headers, identity, &self.asserted);
        for (name, value) in &self.upstream {
            match value {
                Some(value) => _ = headers.insert(name.clone(), value.clone()),
                None => _ = headers.remove(name),
            }
        }
    }
}

/// Whether consumers are looked for (Kong 3.9, `consumer_claim`).
fn maps_consumers(rules: &Rules) -> bool {
    let path = rules.config.access.consumer_claim.as_deref();
    path.is_some_and(|path| !path.is_empty())
}

/// Whether the provider says that it has not verified what the claim at `path` says: nobody is known by
/// an address that is not theirs.
fn is_unverified(claims: &Claims, path: &[String]) -> bool {
    let beside = match path {
        [name] if name == "email" => "email_verified",
        [name] if name == "phone_number" => "phone_number_verified",
        _ => return false,
    };
    // Some providers write it as a text.
    match claims.get(beside) {
        Some(serde_json::Value::Bool(verified)) => !verified,
        Some(serde_json::Value::String(verified)) => verified.eq_ignore_ascii_case("false"),
        _ => false,
    }
}

/// The claim names no consumer (Kong 3.9, `consumer_optional` and `anonymous`).
fn without_consumer(rules: &Rules, consumers: &Consumers) -> Result<Identity, Failure> {
    let access = &rules.config.access;
    if access.anonymous.is_some() {
        match anonymous(rules, consumers) {
            Some(consumer) => {
                return Ok(Identity {
                    consumer: Some(consumer),
                    anonymous: true,
                    ..Identity::default()
                });
            }
            None if !access.consumer_optional => return Err(no_anonymous()),
            None => {}
        }
    } else if !access.consumer_optional {
        return Err(unknown("consumer was not found"));
    }
    Ok(Identity::default())
}

/// The token is good, but names nobody that is known here.
fn unknown(detail: &'static str) -> Failure {
    let mut failure = Failure::forbidden("consumer_missing", detail);
    failure.error = None;
    failure
}

/// Lets the exchange go on as the anonymous consumer.
pub(super) fn admit_anonymous(rules: &Rules, exchange: &mut Exchange<'_>) -> Result<(), Failure> {
    let consumer = anonymous(rules, &exchange.environment.consumers).ok_or_else(no_anonymous)?;
    exchange.identity = Identity {
        consumer: Some(consumer),
        anonymous: true,
        ..Identity::default()
    };
    rules.withheld.strip(exchange);
    rules.headers.withhold(&mut exchange.request.headers);
    identity_headers::write(&mut exchange.request.headers, &exchange.identity);
    Ok(())
}

/// The anonymous consumer: by id or user name, never by custom id (Kong 3.9).
fn anonymous(rules: &Rules, consumers: &Consumers) -> Option<Arc<Consumer>> {
    let name = rules.config.access.anonymous.as_deref()?;
    let by_id = name
        .parse::<Uuid>()
        .ok()
        .and_then(|id| consumers.by_id.get(&id));
    by_id.or_else(|| consumers.by_username.get(name)).cloned()
}

fn no_anonymous() -> Failure {
    Failure::unexpected("consumer_missing", "anonymous consumer was not found")
}

/// Tries the fields of `consumer_by` in their order.
fn map_consumer<'a>(
    rules: &Rules,
    consumers: &'a Consumers,
    claim: &str,
) -> Option<&'a Arc<Consumer>> {
    let access = &rules.config.access;
    let by = access.consumer_by.as_deref().unwrap_or_default();
    by.iter().find_map(|field| match field {
        ConsumerBy::Id => consumers.by_id.get(&claim.parse::<Uuid>().ok()?),
        ConsumerBy::Username if access.by_username_ignore_case => consumers
            .by_username
            .get(claim)
            .or_else(|| consumers.named_alike(claim)),
        ConsumerBy::Username => consumers.by_username.get(claim),
        ConsumerBy::CustomId => consumers.by_custom_id.get(claim),
    })
}
