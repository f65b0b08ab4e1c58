//! What filters look things up in: consumers, groups, session keys.

use std::collections::HashMap;
use std::sync::Arc;

use plugins::client_keys::ClientKeys;
use plugins::credentials::{ApiKey, JwtKey, Password, PublicKey, SigningSecret};
use plugins::environment::{Environment, Membership};
use plugins::host::ClientCertificate;
use plugins::sessions::session_keys::{KeyRing, SessionKey as RingKey};
use shared::clock::UnixTime;
use shared::entity::{
    Acl, BasicauthCredential, Certificate, ClientKey, Consumer, ConsumerGroup,
    ConsumerGroupConsumer, Entity, HmacauthCredential, JwtSecret, KeyState, KeyauthCredential,
    SessionKey, SigningAlgorithm,
};
use shared::secret::Secret;
use shared::snapshot::Key;
use uuid::Uuid;

use super::workspaces::Workspaces;
use super::{CompileFault, parse};

/// A record that filters look things up by.
#[derive(Debug)]
pub(super) enum Looked {
    Consumer(Consumer),
    Acl(Acl),
    Member(ConsumerGroupConsumer),
    Key(KeyauthCredential),
    Password(BasicauthCredential),
    Signer(HmacauthCredential),
    Jwt(JwtSecret),
}

impl Looked {
    /// Whether records of this kind are some.
    pub(super) fn is_kind(kind: &str) -> bool {
        [
            Consumer::KIND,
            Acl::KIND,
            ConsumerGroupConsumer::KIND,
            KeyauthCredential::KIND,
            BasicauthCredential::KIND,
            HmacauthCredential::KIND,
            JwtSecret::KIND,
        ]
        .contains(&kind)
    }

    /// Reads a record; none if it is of another kind or cannot be read.
    pub(super) fn read(key: Key, json: &[u8], faults: &mut Vec<CompileFault>) -> Option<Self> {
        let Key { kind, id } = key;
        match kind {
            Consumer::KIND => parse(kind, id, json, faults).map(Self::Consumer),
            Acl::KIND => parse(kind, id, json, faults).map(Self::Acl),
            ConsumerGroupConsumer::KIND => parse(kind, id, json, faults).map(Self::Member),
            KeyauthCredential::KIND => parse(kind, id, json, faults).map(Self::Key),
            BasicauthCredential::KIND => parse(kind, id, json, faults).map(Self::Password),
            HmacauthCredential::KIND => parse(kind, id, json, faults).map(Self::Signer),
            JwtSecret::KIND => parse(kind, id, json, faults).map(Self::Jwt),
            _ => None,
        }
    }

    /// Adds it to `environment`. `groups` names consumer groups.
    pub(super) fn add(
        self,
        environment: &mut Environment,
        groups: &dyn Fn(Uuid) -> Option<String>,
    ) {
        let (consumers, all) = (&mut environment.consumers, &mut environment.credentials);
        match self {
            Self::Consumer(consumer) => consumers.add(&Arc::new(consumer)),
            Self::Acl(acl) => {
                let list = consumers.groups.entry(acl.consumer.id).or_default();
                let place = list.partition_point(|group| *group < acl.group);
                list.insert(place, acl.group);
            }
            Self::Member(member) => {
                let group = member.consumer_group.id;
                if let Some(name) = groups(group) {
                    let list = consumers.memberships.entry(member.consumer.id);
                    let list = list.or_default();
                    let place = list.partition_point(|other| other.name < name);
                    list.insert(place, Membership { group, name });
                }
            }
            Self::Key(found) => {
                let created = UnixTime::from_secs(found.created_at);
                let key = ApiKey {
                    id: found.id,
                    consumer: found.consumer.id,
                    expires_at: found
                        .ttl
                        .filter(|ttl| *ttl > 0)
                        .map(|ttl| created.saturating_add(std::time::Duration::from_secs(ttl))),
                };
                all.add_key(found.key.expose(), key);
            }
            Self::Password(found) => {
                let password = Password {
                    consumer: found.consumer.id,
                    hash: Secret::new(found.password.expose().to_owned()),
                };
                all.basic.insert(found.username, password);
            }
            Self::Signer(found) => {
                let secret = SigningSecret {
                    consumer: found.consumer.id,
                    secret: Secret::new(found.secret.expose().to_owned()),
                };
                all.hmac.insert(found.username, secret);
            }
            Self::Jwt(found) => {
                all.jwt.insert(found.key.clone(), jwt_key(&found));
            }
        }
    }

    /// Takes it out of `environment`, as it was added.
    pub(super) fn remove(&self, environment: &mut Environment) {
        let (consumers, all) = (&mut environment.consumers, &mut environment.credentials);
        match self {
            Self::Consumer(consumer) => consumers.remove(consumer),
            Self::Acl(acl) => {
                if let Some(list) = consumers.groups.get_mut(&acl.consumer.id) {
                    list.retain(|group| *group != acl.group);
                    if list.is_empty() {
                        consumers.groups.remove(&acl.consumer.id);
                    }
                }
            }
            Self::Member(member) => {
                if let Some(list) = consumers.memberships.get_mut(&member.consumer.id) {
                    list.retain(|other| other.group != member.consumer_group.id);
                    if list.is_empty() {
                        consumers.memberships.remove(&member.consumer.id);
                    }
                }
            }
            Self::Key(found) => all.remove_key(found.key.expose()),
            Self::Password(found) => _ = all.basic.remove(&found.username),
            Self::Signer(found) => _ = all.hmac.remove(&found.username),
            Self::Jwt(found) => _ = all.jwt.remove(&found.key),
        }
    }
}

fn jwt_key(found: &JwtSecret) -> JwtKey {
    let algorithm = name(found.algorithm);
    let pem = found.rsa_public_key.as_deref();
    JwtKey {
        consumer: found.consumer.id,
        algorithm,
        secret: Secret::new(found.secret.expose().to_owned()),
        // With none that can be read no token is believed.
        public: pem.and_then(|pem| PublicKey::read(algorithm, pem)),
    }
}

const fn name(algorithm: SigningAlgorithm) -> &'static str {
    match algorithm {
        SigningAlgorithm::HS256 => "HS256",
        SigningAlgorithm::HS384 => "HS384",
        SigningAlgorithm::HS512 => "HS512",
        SigningAlgorithm::RS256 => "RS256",
        SigningAlgorithm::RS384 => "RS384",
        SigningAlgorithm::RS512 => "RS512",
        SigningAlgorithm::ES256 => "ES256",
        SigningAlgorithm::ES384 => "ES384",
        SigningAlgorithm::ES512 => "ES512",
        SigningAlgorithm::PS256 => "PS256",
        SigningAlgorithm::PS384 => "PS384",
        SigningAlgorithm::PS512 => "PS512",
        SigningAlgorithm::EdDSA => "EdDSA",
    }
}

/// The environment of each workspace, and its place. Keys are shared by all.
pub(super) fn by_workspace(
    looked: Vec<(Key, Looked)>,
    groups: &[ConsumerGroup],
    keys: &[SessionKey],
    client_keys: ClientKeys,
    workspaces: &Workspaces,
    faults: &mut Vec<CompileFault>,
) -> (Vec<Arc<Environment>>, HashMap<Uuid, usize>) {
    let empty = Environment {
        session_keys: key_ring(keys, faults),
        client_keys: Arc::new(client_keys),
        ..Environment::default()
    };
    let all = workspaces.all();
    let places: HashMap<Uuid, usize> = all.iter().copied().zip(0..).collect();
    let mut environments = vec![empty; all.len()];
    let names: HashMap<Uuid, &ConsumerGroup> =
        groups.iter().map(|group| (group.id, group)).collect();
    let name = |group: Uuid| names.get(&group).map(|group| group.name.clone());
    for group in groups {
        let place = places.get(&workspaces.of_record::<ConsumerGroup>(group.id));
        if let Some(environment) = place.and_then(|place| environments.get_mut(*place)) {
            let known = &mut environment.consumers.group_ids;
            known.insert(group.name.clone(), group.id);
        }
    }
    for (key, record) in looked {
        let place = places.get(&workspaces.of(key));
        if let Some(environment) = place.and_then(|place| environments.get_mut(*place)) {
            record.add(environment, &name);
        }
    }
    (environments.into_iter().map(Arc::new).collect(), places)
}

/// The keys that seal and open cookies, the newest first.
pub(super) fn key_ring(keys: &[SessionKey], faults: &mut Vec<CompileFault>) -> KeyRing {
    let mut ring: Vec<RingKey> = Vec::new();
    for key in keys.iter().filter(|key| key.state == KeyState::Ready) {
        match ring_key(key) {
            Some(key) => ring.push(key),
            None => faults.push(CompileFault {
                kind: "session_keys",
                id: key.id,
                field: "secret".to_owned(),
                message: "expected 32 bytes in Base64".to_owned(),
            }),
        }
    }
    ring.sort_by_key(|key| std::cmp::Reverse(key.activate_at));
    KeyRing { keys: ring }
}

/// What the gateway proves itself with at providers.
pub(super) fn client_keys(
    keys: &[ClientKey],
    certificates: &[Certificate],
    faults: &mut Vec<CompileFault>,
) -> ClientKeys {
    let mut all = ClientKeys::default();
    for key in keys {
        if let Err(problem) = all.add(key) {
            faults.push(CompileFault {
                kind: "client_keys",
                id: key.id,
                field: "secret".to_owned(),
                message: problem.to_owned(),
            });
        }
    }
    for certificate in certificates {
        let presented = Arc::new(client_certificate(certificate));
        all.certificates.insert(certificate.id, presented);
    }
    all
}

/// `certificate` as it is presented to a provider.
pub(super) fn client_certificate(certificate: &Certificate) -> ClientCertificate {
    ClientCertificate {
        chain: certificate.cert.clone(),
        key: Secret::new(certificate.key.expose().to_owned()),
    }
}

fn ring_key(key: &SessionKey) -> Option<RingKey> {
    use base64::Engine as _;
    let secret = base64::engine::general_purpose::STANDARD
        .decode(&key.secret)
        .ok()?;
    let (id, _) = key.id.as_bytes().split_first_chunk::<8>()?;
    Some(RingKey {
        id: *id,
        secret: Secret::new(secret.try_into().ok()?),
        activate_at: key.activate_at,
        decrypt_until: key.decrypt_until,
    })
}
