//! `acl`: lets a request through by the groups of its consumer, or by those that its authentication
//! asserts (Kong 3.9, acl).

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;

use crate::answer;
use crate::credentials::identity_headers::{self, AUTHENTICATED_GROUPS, CONSUMER_GROUPS};
use crate::environment::Consumers;
use crate::exchange::{Exchange, Identity};
use crate::filter::{Filter, Flow, Instance, Plugin, Scope};
use crate::glance::{Glance, Looks, Pass};
use crate::host::Host;

/// What those hear whose groups do not let them pass.
const REFUSED: &str = "You cannot consume this service";

/// Configuration of `acl`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Acl {
    /// Groups that may pass. Either this or `deny`.
    #[serde(default)]
    pub allow: Option<Vec<String>>,

    /// Groups that may not pass; everybody else may. Either this or `allow`.
    #[serde(default)]
    pub deny: Option<Vec<String>>,

    /// Keeps the matched groups from the upstream.
    #[serde(default)]
    pub hide_groups_header: bool,

    /// Prefers the groups that the authentication asserts to those of the consumer.
    #[serde(default)]
    pub always_use_authenticated_groups: bool,

    /// Counts the consumer's consumer groups as its groups.
    #[serde(default)]
    pub include_consumer_groups: bool,
}

impl Plugin for Acl {
    const NAME: &'static str = "acl";
    const PRIORITY: u32 = 950;
    const FORBIDDEN_SCOPES: &'static [Scope] = &[Scope::Consumer];
    const SHORTHANDS: &'static [(&'static str, &'static str)] =
        &[("whitelist", "allow"), ("blacklist", "deny")];
    type Filter = Self;

    fn compile(self, _: &Instance) -> Result<Self, FieldErrors> {
        let given = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
        let (allows, denies) = (given(&self.allow), given(&self.deny));
        if allows != denies {
            return Ok(self);
        }
        // Two rules of Kong, of which neither list breaks both.
        let mut errors = FieldErrors::default();
        for quantity in ["exactly", "at least"]
            .into_iter()
            .take(2 - usize::from(allows))
        {
            errors.add_rule(format!(
                "{quantity} one of these fields must be non-empty: 'config.allow', 'config.deny'"
            ));
        }
        Err(errors)
    }
}

impl Filter for Acl {
    fn looks(&self) -> Looks {
        if self.hide_groups_header {
            Looks::Never
        } else {
            Looks::Sometimes
        }
    }

    fn on_glance(&self, request: &Glance<'_>, pass: &mut Pass, _: &impl Host) -> Option<()> {
        let known = pass.known.as_ref()?;
        let (groups, header) = self.groups(&known.identity, &request.environment.consumers)?;
        // What else an authentication tells the upstream by these headers takes a whole look.
        let mut removed = known.removed.iter();
        let told = removed.any(|name| *name == AUTHENTICATED_GROUPS || *name == CONSUMER_GROUPS);
        if told || !self.lets_pass(&groups) {
            return None;
        }
        // Groups that an authentication asserts it tells itself, and no others are told beside them.
        if header == CONSUMER_GROUPS {
            if known.identity.authenticated_groups.is_some() {
                return None;
            }
            let value = shown(&groups, &header);
            pass.fields.extend(value.map(|value| (header, value)));
        }
        Some(())
    }

    async fn on_request(&self, exchange: &mut Exchange<'_>, _: &impl Host) -> Flow {
        let identity = &exchange.identity;
        let Some((groups, header)) = self.groups(identity, &exchange.environment.consumers) else {
            let (status, text) = if identity.credential.is_some() {
                (StatusCode::FORBIDDEN, REFUSED)
            } else {
                (StatusCode::UNAUTHORIZED, "Unauthorized")
            };
            return Flow::Answer(answer::error(status, text, exchange));
        };
        if !self.lets_pass(&groups) {
            let refused = answer::error(StatusCode::FORBIDDEN, REFUSED, exchange);
            return Flow::Answer(refused);
        }
        let value = shown(&groups, &header).filter(|_| !self.hide_groups_header);
        let headers = &mut exchange.request.headers;
        headers.remove(CONSUMER_GROUPS);
        headers.remove(AUTHENTICATED_GROUPS);
        if let Some(value) = value {
            headers.insert(header, value);
        }
        Flow::Continue
    }
}

/// What the upstream is told of `groups` by `header`; nothing if there are none.
fn shown(groups: &[String], header: &HeaderName) -> Option<HeaderValue> {
    if *header == AUTHENTICATED_GROUPS {
        return identity_headers::asserted_groups(groups);
    }
    identity_headers::text(&groups.join(", ")).filter(|value| !value.is_empty())
}

impl Acl {
    /// The groups that decide, and the header that tells them; `None` if nobody has any.
    fn groups<'a>(
        &self,
        identity: &'a Identity,
        consumers: &'a Consumers,
    ) -> Option<(Cow<'a, [String]>, HeaderName)> {
        let asserted = identity.consumer_groups.iter();
        let asserted = asserted.filter(|_| self.include_consumer_groups);
        let asserted = asserted.map(|membership| &membership.name);
        let found = match (&identity.consumer, identity.authenticated_groups.as_deref()) {
            // Groups of the authentication outrank those of a consumer that no credential of its own
            // stands behind: OpenID Connect maps a consumer, it does not authenticate one.
            (Some(_), Some(groups))
                if identity.credential.is_none() || self.always_use_authenticated_groups =>
            {
                Some((Cow::Borrowed(groups), AUTHENTICATED_GROUPS))
            }
            (Some(consumer), _) => {
                let groups = consumers.groups.get(&consumer.id);
                let mut groups = Cow::Borrowed(groups.map_or(&[][..], Vec::as_slice));
                let more = consumers.memberships.get(&consumer.id);
                if let Some(more) = more.filter(|_| self.include_consumer_groups) {
                    let names = more.iter().map(|membership| membership.name.clone());
                    groups.to_mut().extend(names);
                }
                Some((groups, CONSUMER_GROUPS))
            }
            (None, Some(groups)) => Some((Cow::Borrowed(groups), AUTHENTICATED_GROUPS)),
            (None, None) => None,
        };
        // Nobody that plugins of a group run for is spared what it may not.
        let mut asserted = asserted.peekable();
        if asserted.peek().is_none() {
            return found;
        }
        let (mut groups, header) = found.unwrap_or((Cow::Borrowed(&[]), CONSUMER_GROUPS));
        groups.to_mut().extend(asserted.cloned());
        Some((groups, header))
    }

    fn lets_pass(&self, groups: &[String]) -> bool {
        let any_of = |list: &[String]| list.iter().any(|group| groups.contains(group));
        match &self.deny {
            Some(deny) if !deny.is_empty() => !any_of(deny),
            _ => self.allow.as_deref().is_some_and(any_of),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use futures::executor::block_on;
    use http::HeaderMap;
    use shared::entity::Consumer;

    use super::*;
    use crate::environment::Membership;
    use crate::glance::Known;
    use crate::testing::{FakeHost, Request, glance};

    fn acl(allow: &[&str], deny: &[&str]) -> Acl {
        let list = |names: &[&str]| {
            (!names.is_empty()).then(|| names.iter().map(|name| (*name).to_owned()).collect())
        };
        Acl {
            allow: list(allow),
            deny: list(deny),
            ..Acl::default()
        }
    }

    /// Runs `acl` for a consumer in `consumer_groups`, if any, with `asserted` groups, if any, and
    /// answers the status, 200 for "goes on", and the groups that the upstream sees.
    fn check(
        acl: &Acl,
        consumer_groups: Option<&[&str]>,
        asserted: Option<&[&str]>,
        credential: bool,
    ) -> (u16, String) {
        let owned = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let mut request = Request::get("/");
        let consumer: Arc<Consumer> = crate::testing::consumer("yoda", None);
        if let Some(groups) = consumer_groups {
            request
                .environment
                .consumers
                .groups
                .insert(consumer.id, owned(groups));
        }
        let identity = Identity {
            consumer: consumer_groups.map(|_| consumer),
            credential: credential.then(|| "key".to_owned()),
            authenticated_groups: asserted.map(owned),
            ..Identity::default()
        };
        request.with_exchange(|exchange| {
            let host = FakeHost::default();
            let known = Known::new(identity.clone(), Vec::new(), Vec::new());
            let pass = Pass {
                known: Some(Rc::new(known)),
                ..Pass::default()
            };
            let glanced = glance(exchange, &HeaderMap::new(), acl, &host, pass);
            exchange.identity = identity;
            let flow = block_on(acl.on_request(exchange, &host));
            let goes_on = matches!(flow, Flow::Continue);
            assert_eq!(glanced.is_some(), goes_on, "at a glance");
            for (name, value) in glanced.iter().flat_map(|pass| &pass.fields) {
                assert_eq!(exchange.request.headers.get(name), Some(value));
            }
            let seen = |name| {
                exchange
                    .request
                    .headers
                    .get(name)
                    .map(|value: &HeaderValue| value.to_str().unwrap().to_owned())
            };
            let groups = seen(CONSUMER_GROUPS)
                .or_else(|| seen(AUTHENTICATED_GROUPS))
                .unwrap_or_default();
            match flow {
                Flow::Continue => (200, groups),
                Flow::Answer(answer) | Flow::Kept(answer) => {
                    (answer.status().as_u16(), String::new())
                }
            }
        })
    }

    #[test]
    fn groups_of_the_consumer_decide() {
        assert_eq!(
            check(&acl(&["a"], &[]), Some(&["a", "b"]), None, true),
            (200, "a, b".to_owned())
        );
        assert_eq!(check(&acl(&["c"], &[]), Some(&["a"]), None, true).0, 403);
        assert_eq!(check(&acl(&[], &["a"]), Some(&["a"]), None, true).0, 403);
        assert_eq!(check(&acl(&[], &["b"]), Some(&["a"]), None, true).0, 200);
    }

    #[test]
    fn case_18_authenticated_groups_stand_in_for_a_consumer() {
        let scopes: &[&str] = &["openid", "email", "profile"];
        let (status, seen) = check(&acl(&["openid"], &[]), None, Some(scopes), true);
        assert_eq!((status, seen.as_str()), (200, "openid, email, profile"));
        let (status, seen) = check(&acl(&["a, b"], &[]), None, Some(&["a, b"]), true);
        assert_eq!((status, seen.as_str()), (200, "a%2C b"));
        assert_eq!(
            check(&acl(&[], &["profile"]), None, Some(scopes), true).0,
            403
        );
    }

    #[test]
    fn case_19_authenticated_groups_outrank_those_of_a_mapped_consumer() {
        assert_eq!(
            check(&acl(&["b"], &[]), Some(&["a"]), Some(&["b"]), false).0,
            200
        );
        assert_eq!(
            check(&acl(&["a"], &[]), Some(&["a"]), Some(&["b"]), false).0,
            403
        );
    }

    #[test]
    fn consumer_groups_that_a_token_asserts_count_where_those_of_consumers_do() {
        for consumer in [false, true] {
            for asserted in [None, Some(vec!["a".to_owned()])] {
                let identity = Identity {
                    consumer: consumer.then(|| crate::testing::consumer("yoda", None)),
                    authenticated_groups: asserted.clone(),
                    consumer_groups: vec![Membership {
                        group: uuid::Uuid::nil(),
                        name: "blocked".to_owned(),
                    }],
                    ..Identity::default()
                };
                for include_consumer_groups in [false, true] {
                    let acl = Acl {
                        include_consumer_groups,
                        ..acl(&[], &["blocked"])
                    };
                    let consumers = Consumers::default();
                    let found = acl.groups(&identity, &consumers);
                    let passes = found.map(|(groups, _)| acl.lets_pass(&groups));
                    let known = consumer || asserted.is_some();
                    let expected = if include_consumer_groups {
                        Some(false)
                    } else {
                        known.then_some(true)
                    };
                    assert_eq!(passes, expected, "{consumer} {asserted:?}");
                }
            }
        }
    }

    #[test]
    fn without_groups_a_credential_makes_the_difference_between_401_and_403() {
        assert_eq!(check(&acl(&["a"], &[]), None, None, false).0, 401);
        assert_eq!(check(&acl(&["a"], &[]), None, None, true).0, 403);
    }

    #[test]
    fn exactly_one_list_is_needed() {
        let instance = Instance {
            id: uuid::Uuid::nil(),
        };
        assert!(acl(&[], &[]).compile(&instance).is_err());
        assert!(acl(&["a"], &["b"]).compile(&instance).is_err());
        assert!(acl(&["a"], &[]).compile(&instance).is_ok());
    }
}
