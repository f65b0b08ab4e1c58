//! Groups of Redis servers that Sentinels look after: these say which server it is, and it says so itself.

use ::redis::Value;
use plugins::host::redis::{Address, Command, RedisError, RedisServer, SentinelRole, Sentinels};

use super::{Account, Connection, reach, sent};
use crate::upstream::resolve::Resolver;

/// Connects to the server of `group` that is meant: whichever Sentinel knows it first.
pub(super) async fn open(
    server: &RedisServer,
    group: &Sentinels,
    account: Account<'_>,
    resolver: &Resolver,
) -> Result<Connection, RedisError> {
    let mut last = RedisError::Connect {
        address: format!("the group {}", group.name),
        reason: "there are no Sentinels".to_owned(),
    };
    for sentinel in &group.nodes {
        let own = Account {
            username: group.username.as_deref(),
            password: group.password.as_ref(),
            database: 0,
        };
        let candidates = match reach(server, sentinel, own, resolver).await {
            Ok(mut connection) => candidates(&mut connection, group, sentinel).await,
            Err(error) => Err(error),
        };
        let candidates = match candidates {
            Ok(candidates) => candidates,
            Err(error) => {
                last = error;
                continue;
            }
        };
        for (address, role) in candidates {
            match reach(server, &address, account, resolver).await {
                Ok(mut connection) => {
                    if is(&mut connection, role).await {
                        return Ok(connection);
                    }
                    // A Sentinel that has not heard of a failover yet.
                    last = RedisError::Connect {
                        address: address.to_string(),
                        reason: format!("it is no longer a {role}"),
                    };
                }
                Err(error) => last = error,
            }
        }
    }
    Err(last)
}

/// The servers that a Sentinel knows, in the order in which they are tried, and what each is to be.
async fn candidates(
    connection: &mut Connection,
    group: &Sentinels,
    sentinel: &Address,
) -> Result<Vec<(Address, &'static str)>, RedisError> {
    let broken = |reason: String| RedisError::Broken {
        address: sentinel.to_string(),
        reason,
    };
    let mut found = Vec::new();
    if group.role != SentinelRole::Replica {
        let command = Command::new("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME");
        let command = sent(&command.arg(group.name.clone()));
        let answer = connection.commands.send_packed_command(&command).await;
        let answer = answer.map_err(|error| broken(error.to_string()))?;
        let parts = texts(&answer);
        if let [host, port] = parts.as_slice()
            && let Ok(port) = port.parse()
        {
            found.push((Address::new(host, port), "master"));
        }
    }
    if group.role != SentinelRole::Master {
        let command = Command::new("SENTINEL").arg("REPLICAS");
        let command = sent(&command.arg(group.name.clone()));
        let answer = connection.commands.send_packed_command(&command).await;
        let answer = answer.map_err(|error| broken(error.to_string()))?;
        if let Value::Array(replicas) = answer {
            found.extend(replicas.iter().filter_map(replica));
        }
    }
    if found.is_empty() {
        let name = &group.name;
        return Err(broken(format!(
            "this Sentinel knows no server of the group {name}"
        )));
    }
    Ok(found)
}

/// A replica that is up, by its fields.
fn replica(fields: &Value) -> Option<(Address, &'static str)> {
    let fields = texts(fields);
    let field = |name: &str| {
        let mut pairs = fields.chunks_exact(2);
        pairs.find_map(|pair| match pair {
            [found, value] if found == name => Some(value.as_str()),
            _ => None,
        })
    };
    let down = ["s_down", "o_down", "disconnected"];
    let is_down = field("flags")?.split(',').any(|flag| down.contains(&flag));
    let address = Address::new(field("ip")?, field("port")?.parse().ok()?);
    (!is_down).then_some((address, "slave"))
}

/// Whether the server calls itself `role`.
async fn is(connection: &mut Connection, role: &str) -> bool {
    let command = sent(&Command::new("ROLE"));
    let answer = connection.commands.send_packed_command(&command).await;
    match answer {
        Ok(Value::Array(parts)) => parts.first().and_then(text).as_deref() == Some(role),
        _ => false,
    }
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(parts) => parts.iter().filter_map(text).collect(),
        _ => Vec::new(),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}
