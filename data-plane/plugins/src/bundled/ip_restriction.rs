//! `ip-restriction`: lets a request through by its client's address (Kong 3.9, ip-restriction).

use std::net::IpAddr;

use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::entity::Protocol;
use shared::schema::FieldErrors;

use crate::answer;
use crate::bundled::request_termination::{final_status, refuse_interim};
use crate::exchange::Exchange;
use crate::filter::{Filter, Flow, Instance, Plugin, Protocols};
use crate::glance::{Glance, Looks, Pass};
use crate::host::Host;

/// Configuration of `ip-restriction`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct IpRestriction {
    /// Addresses and CIDR blocks that may pass.
    #[serde(default)]
    pub allow: Option<Vec<String>>,

    /// Addresses and CIDR blocks that may not pass.
    #[serde(default)]
    pub deny: Option<Vec<String>>,

    /// Status of the answer to those who may not pass; 403 if absent.
    #[serde(default)]
    #[schemars(range(min = 100, max = 599))]
    pub status: Option<u16>,

    /// Message of that answer.
    #[serde(default)]
    pub message: Option<String>,
}

impl Plugin for IpRestriction {
    const NAME: &'static str = "ip-restriction";
    const PRIORITY: u32 = 990;
    const PROTOCOLS: Protocols = {
        use Protocol::{Grpc, Grpcs, Http, Https, Tcp, Tls};
        Protocols {
            default: &[Http, Https, Tcp, Tls, Grpc, Grpcs],
            ..Protocols::ALL
        }
    };
    const SHORTHANDS: &'static [(&'static str, &'static str)] =
        &[("whitelist", "allow"), ("blacklist", "deny")];
    type Filter = IpRestrictionFilter;

    fn refuse(&self, errors: &mut FieldErrors) {
        if let Some(status) = self.status {
            refuse_interim("status", status, errors);
        }
    }

    fn compile(self, _: &Instance) -> Result<IpRestrictionFilter, FieldErrors> {
        let mut errors = FieldErrors::default();
        let allow = blocks("allow", self.allow.as_deref(), &mut errors);
        let deny = blocks("deny", self.deny.as_deref(), &mut errors);
        if errors.is_empty() && allow.is_empty() && deny.is_empty() {
            errors.add_rule(
                "at least one of these fields must be non-empty: 'config.allow', 'config.deny'",
            );
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(IpRestrictionFilter {
            allow,
            deny,
            status: self
                .status
                .and_then(final_status)
                .unwrap_or(StatusCode::FORBIDDEN),
            message: self.message,
        })
    }
}

fn blocks(field: &str, texts: Option<&[String]>, errors: &mut FieldErrors) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut wrong = serde_json::Map::new();
    for (place, text) in texts.unwrap_or_default().iter().enumerate() {
        if let Some(block) = Block::parse(text) {
            blocks.push(block);
        } else {
            let message = format!("invalid ip or cidr range: '{text}'");
            wrong.insert((place + 1).to_string(), json!(message));
        }
    }
    if !wrong.is_empty() {
        errors
            .by_field
            .insert(field.to_owned(), Value::Object(wrong));
    }
    blocks
}

/// Looks at addresses.
#[derive(Debug)]
pub struct IpRestrictionFilter {
    allow: Vec<Block>,
    deny: Vec<Block>,
    status: StatusCode,
    message: Option<String>,
}

impl Filter for IpRestrictionFilter {
    fn looks(&self) -> Looks {
        Looks::Sometimes
    }

    fn on_glance(&self, request: &Glance<'_>, _: &mut Pass, _: &impl Host) -> Option<()> {
        let address = request.client.address.to_canonical();
        self.lets_through(address).then_some(())
    }

    async fn on_request(&self, exchange: &mut Exchange<'_>, _: &impl Host) -> Flow {
        let address = exchange.client.address.to_canonical();
        if self.lets_through(address) {
            return Flow::Continue;
        }
        let message = match &self.message {
            Some(message) => message.clone(),
            None => format!("IP address not allowed: {address}"),
        };
        Flow::Answer(answer::error(self.status, &message, exchange))
    }

    fn on_stream(&self, client: IpAddr) -> bool {
        self.lets_through(client.to_canonical())
    }
}

impl IpRestrictionFilter {
    fn lets_through(&self, address: IpAddr) -> bool {
        let any = |blocks: &[Block]| blocks.iter().any(|block| block.contains(address));
        !any(&self.deny) && (self.allow.is_empty() || any(&self.allow))
    }
}

/// A block of addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Block {
    /// As one number, with addresses of version 4 where version 6 maps them.
    network: u128,
    mask: u128,
    version_4: bool,
}

impl Block {
    fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let version_4 = address.is_ipv4();
        let bits = if version_4 { 32 } else { 128 };
        let length = length.unwrap_or(bits);
        if length > bits {
            return None;
        }
        let free = bits - length;
        let mask = u128::MAX.checked_shl(free).unwrap_or(0);
        Some(Self {
            network: number(address) & mask,
            mask,
            version_4,
        })
    }

    fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.version_4 && number(address) & self.mask == self.network
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::testing::{FakeHost, Request, answer_of};

    fn compile(config: Value) -> Result<IpRestrictionFilter, FieldErrors> {
        let config: IpRestriction = serde_json::from_value(config).unwrap();
        config.compile(&Instance { id: Uuid::nil() })
    }

    #[test]
    fn denied_addresses_are_told_theirs() {
        // Requests of tests come from 127.0.0.1.
        let check = |config: Value, expected: Option<(u16, &str)>| {
            let filter = compile(config.clone()).unwrap();
            let (host, request) = (FakeHost::default(), Request::get("/"));
            let answer = answer_of(&filter, &host, &request);
            let passes = request.glance(&filter, &host).is_some();
            assert_eq!(passes, expected.is_none(), "{config}");
            let (status, message) = expected.unwrap_or((200, ""));
            assert_eq!(
                (answer.status, answer.message().as_str()),
                (status, message),
                "{config}"
            );
        };
        let refused = Some((403, "IP address not allowed: 127.0.0.1"));
        check(json!({"deny": ["127.0.0.1"]}), refused);
        check(json!({"deny": ["127.0.0.0/8"]}), refused);
        check(json!({"deny": ["0.0.0.0/0"]}), refused);
        check(json!({"deny": ["127.0.0.2", "::/0"]}), None);
        check(json!({"allow": ["127.0.0.2"]}), refused);
        check(json!({"allow": ["127.0.0.2", "127.0.0.1"]}), None);
        check(
            json!({"allow": ["127.0.0.1"], "deny": ["127.0.0.1"]}),
            refused,
        );
        check(
            json!({"deny": ["127.0.0.1"], "status": 401, "message": "no"}),
            Some((401, "no")),
        );
    }

    #[test]
    fn a_status_that_ends_no_answer_is_refused() {
        for (status, taken) in [(204, true), (200, true), (101, false), (199, false)] {
            let config = json!({"deny": ["127.0.0.1"], "status": status});
            let config: IpRestriction = serde_json::from_value(config).unwrap();
            let mut errors = FieldErrors::default();
            config.refuse(&mut errors);
            assert_eq!(!errors.by_field.contains_key("status"), taken, "{status}");
            // One that is stored already has the client answered.
            let filter = config.compile(&Instance { id: Uuid::nil() }).unwrap();
            let answer = answer_of(&filter, &FakeHost::default(), &Request::get("/"));
            assert_eq!(answer.status, if taken { status } else { 403 });
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        let errors =
            compile(json!({"allow": ["127.0.0.1", "300.0.0.1", "10.0.0.0/33"]})).unwrap_err();
        assert_eq!(
            Value::Object(errors.by_field),
            json!({"allow": {
                "2": "invalid ip or cidr range: '300.0.0.1'",
                "3": "invalid ip or cidr range: '10.0.0.0/33'",
            }})
        );
        assert!(compile(json!({})).is_err());
    }
}
