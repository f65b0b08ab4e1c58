//! Redis Cluster: each key has a slot, each slot a node. Which one it is, is learnt from the nodes themselves: whoever
//! is asked for a key of another says where to go (Redis cluster specification, MOVED and ASK redirection).

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use ::redis::{ServerErrorKind, Value};
use plugins::host::redis::{Address, Cluster, Command, RedisError, RedisServer};

use super::ask_one;
use crate::core::Core;

/// The nodes of slots, as far as this core has learnt them.
#[derive(Debug, Default)]
struct Slots(RefCell<HashMap<([u8; 32], u16), Address>>);

/// Sends each of `commands` to the node of its key.
pub(super) async fn ask(
    core: &Rc<Core>,
    server: &Arc<RedisServer>,
    cluster: &Cluster,
    commands: Vec<Command>,
) -> Result<Vec<Value>, RedisError> {
    let mut values = Vec::with_capacity(commands.len());
    for command in commands {
        values.push(Box::pin(ask_node(core, server, cluster, command)).await?);
    }
    Ok(values)
}

async fn ask_node(
    core: &Rc<Core>,
    server: &Arc<RedisServer>,
    cluster: &Cluster,
    command: Command,
) -> Result<Value, RedisError> {
    let slots = core.states.of::<Slots>();
    let key = command.0.get(1).map_or(&[][..], |key| &key[..]);
    let slot = (server.connection_key(), slot(key));
    let mut entries = cluster.nodes.iter();
    let known = slots.0.borrow().get(&slot).cloned();
    let failed = |reason: &str| RedisError::Connect {
        address: "a cluster".to_owned(),
        reason: reason.to_owned(),
    };
    let mut node = known
        .or_else(|| entries.next().cloned())
        .ok_or_else(|| failed("it has no nodes"))?;
    let mut asking = false;
    let mut redirections = 0;
    while redirections <= cluster.max_redirections {
        let mut commands = vec![command.clone()];
        if asking {
            commands.insert(0, Command::new("ASKING"));
        }
        let value = match ask_one(core, server, Some(&node), commands).await {
            Ok(mut values) => values.pop().unwrap_or(Value::Nil),
            Err(error) => {
                // Its place may be another's meanwhile: any other node knows.
                slots.0.borrow_mut().remove(&slot);
                node = entries.next().cloned().ok_or(error)?;
                asking = false;
                continue;
            }
        };
        let Some((kind, to)) = redirection(&value, &node) else {
            return Ok(value);
        };
        asking = kind == ServerErrorKind::Ask;
        if !asking {
            slots.0.borrow_mut().insert(slot, to.clone());
        }
        node = to;
        redirections += 1;
    }
    Err(failed("its nodes send from one to another and back"))
}

/// Where an answer of `node` says to go.
fn redirection(value: &Value, node: &Address) -> Option<(ServerErrorKind, Address)> {
    let Value::ServerError(error) = value else {
        return None;
    };
    let kind = error.kind()?;
    if !matches!(kind, ServerErrorKind::Moved | ServerErrorKind::Ask) {
        return None;
    }
    // The slot, and host and port of the node; no host means the one that was asked.
    let (_, place) = error.details()?.split_once(' ')?;
    let (host, port) = place.rsplit_once(':')?;
    let host = if host.is_empty() { &node.host } else { host };
    Some((kind, Address::new(host, port.parse().ok()?)))
}

/// The slot of a key: CRC16 of it, or of what stands between its first braces.
fn slot(key: &[u8]) -> u16 {
    let braces = || {
        let start = memchr::memchr(b'{', key)? + 1;
        let length = memchr::memchr(b'}', key.get(start..)?)?;
        key.get(start..start + length).filter(|tag| !tag.is_empty())
    };
    crc16(braces().unwrap_or(key)) % 16_384
}

/// CRC16 as XMODEM computes it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_slot_that_redis_says() {
        // CLUSTER KEYSLOT of Redis 7, and the examples of the specification.
        for (key, expected) in [
            ("123456789", 12_739),
            ("foo", 12_182),
            ("bar", 5_061),
            ("hello", 866),
            ("foo{bar}{zap}", 5_061),
            ("{user1000}.following", slot(b"user1000")),
            ("foo{{bar}}zap", slot(b"{bar")),
            ("here:turn:{here:id}:name", slot(b"here:id")),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_ne!(slot(b"foo{}{bar}"), slot(b"bar"));
    }
}
