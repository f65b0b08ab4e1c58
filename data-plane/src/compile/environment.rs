//! What filters look things up in: consumers, groups, session keys.

use std::collections::HashMap;
use std::sync::Arc;

use plugins::credentials::{ApiKey, Credentials, JwtKey, Password, PublicKey, SigningSecret};
use plugins::environment::{Consumers, Environment, Membership};
use plugins::openid_connect::client_keys::{ClientCertificate, ClientKeys};
use plugins::session_keys::{KeyRing, SessionKey as RingKey};
use shared::clock::UnixTime;
use shared::entity::{
    Acl, BasicauthCredential, Certificate, ClientKey, Consumer, ConsumerGroup,
    ConsumerGroupConsumer, HmacauthCredential, JwtAlgorithm, JwtSecret, KeyState,
    KeyauthCredential, SessionKey,
};
use shared::secret::Secret;
use uuid::Uuid;

use super::CompileFault;
use super::workspaces::Workspaces;

/// The records that filters look things up in.
#[derive(Debug, Default)]
pub(super) struct Principals {
    pub(super) groups: Vec<ConsumerGroup>,
    pub(super) members: Vec<ConsumerGroupConsumer>,
    pub(super) keys: Vec<KeyauthCredential>,
    pub(super) passwords: Vec<BasicauthCredential>,
    pub(super) signers: Vec<HmacauthCredential>,
    pub(super) jwts: Vec<JwtSecret>,
}

impl Principals {
    /// Takes what is in `workspace`.
    fn within(&mut self, workspace: Uuid, workspaces: &Workspaces) -> Self {
        Self {
            groups: workspaces.take(workspace, &mut self.groups, |group| group.id),
            members: workspaces.take(workspace, &mut self.members, |member| member.id),
            keys: workspaces.take(workspace, &mut self.keys, |key| key.id),
            passwords: workspaces.take(workspace, &mut self.passwords, |password| password.id),
            signers: workspaces.take(workspace, &mut self.signers, |signer| signer.id),
            jwts: workspaces.take(workspace, &mut self.jwts, |jwt| jwt.id),
        }
    }

    /// Who is in which consumer group, in the order of the groups' names.
    fn memberships(&self, consumers: &mut Consumers) {
        let groups: HashMap<Uuid, &ConsumerGroup> =
            self.groups.iter().map(|group| (group.id, group)).collect();
        for member in &self.members {
            if let Some(group) = groups.get(&member.consumer_group.id) {
                let list = consumers.memberships.entry(member.consumer.id);
                list.or_default().push(Membership {
                    group: group.id,
                    name: group.name.clone(),
                });
            }
        }
        for list in consumers.memberships.values_mut() {
            list.sort_by(|a, b| a.name.cmp(&b.name));
        }
    }

    fn credentials(self, faults: &mut Vec<CompileFault>) -> Credentials {
        let mut all = Credentials::default();
        for found in self.keys {
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
        for found in self.passwords {
            let password = Password {
                consumer: found.consumer.id,
                hash: Secret::new(found.password.expose().to_owned()),
            };
            all.basic.insert(found.username, password);
        }
        for found in self.signers {
            let secret = SigningSecret {
                consumer: found.consumer.id,
                secret: Secret::new(found.secret.expose().to_owned()),
            };
            all.hmac.insert(found.username, secret);
        }
        for found in self.jwts {
            let algorithm = name(found.algorithm);
            let public = found
                .rsa_public_key
                .as_deref()
                .filter(|_| !algorithm.starts_with("HS"))
                .map(|pem| PublicKey::read(algorithm, pem));
            if matches!(public, Some(None)) {
                faults.push(CompileFault {
                    kind: "jwt_secrets",
                    id: found.id,
                    field: "rsa_public_key".to_owned(),
                    message: "invalid key".to_owned(),
                });
            }
            let key = JwtKey {
                consumer: found.consumer.id,
                algorithm,
                secret: Secret::new(found.secret.expose().to_owned()),
                public: public.flatten(),
            };
            all.jwt.insert(found.key, key);
        }
        all
    }
}

const fn name(algorithm: JwtAlgorithm) -> &'static str {
    match algorithm {
        JwtAlgorithm::HS256 => "HS256",
        JwtAlgorithm::HS384 => "HS384",
        JwtAlgorithm::HS512 => "HS512",
        JwtAlgorithm::RS256 => "RS256",
        JwtAlgorithm::RS384 => "RS384",
        JwtAlgorithm::RS512 => "RS512",
        JwtAlgorithm::ES256 => "ES256",
        JwtAlgorithm::ES384 => "ES384",
        JwtAlgorithm::ES512 => "ES512",
        JwtAlgorithm::PS256 => "PS256",
        JwtAlgorithm::PS384 => "PS384",
        JwtAlgorithm::PS512 => "PS512",
        JwtAlgorithm::EdDSA => "EdDSA",
    }
}

/// The environment of each workspace. Keys are shared by all.
pub(super) fn by_workspace(
    (mut all, mut acls, mut principals): (Vec<Consumer>, Vec<Acl>, Principals),
    keys: &[SessionKey],
    client_keys: &Arc<ClientKeys>,
    workspaces: &Workspaces,
    faults: &mut Vec<CompileFault>,
) -> HashMap<Uuid, Arc<Environment>> {
    let mut environments = HashMap::new();
    for workspace in workspaces.all() {
        let mut environment = compile(
            workspaces.take(workspace, &mut all, |consumer| consumer.id),
            &workspaces.take(workspace, &mut acls, |acl| acl.id),
            keys,
            principals.within(workspace, workspaces),
            faults,
        );
        environment.client_keys = Arc::clone(client_keys);
        environments.insert(workspace, Arc::new(environment));
    }
    environments
}

fn compile(
    all: Vec<Consumer>,
    acls: &[Acl],
    keys: &[SessionKey],
    principals: Principals,
    faults: &mut Vec<CompileFault>,
) -> Environment {
    let mut consumers = Consumers::default();
    for consumer in all.into_iter().map(Arc::new) {
        consumers.by_id.insert(consumer.id, Arc::clone(&consumer));
        if let Some(name) = &consumer.username {
            consumers
                .by_username_lower
                .insert(name.to_lowercase(), Arc::clone(&consumer));
            consumers
                .by_username
                .insert(name.clone(), Arc::clone(&consumer));
        }
        if let Some(name) = &consumer.custom_id {
            consumers
                .by_custom_id
                .insert(name.clone(), Arc::clone(&consumer));
        }
    }
    for acl in acls {
        consumers
            .groups
            .entry(acl.consumer.id)
            .or_default()
            .push(acl.group.clone());
    }
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
    principals.memberships(&mut consumers);
    Environment {
        consumers,
        credentials: principals.credentials(faults),
        session_keys: KeyRing { keys: ring },
        ..Environment::default()
    }
}

/// What the gateway proves itself with at providers.
pub(super) fn client_keys(
    keys: &[ClientKey],
    certificates: &[Certificate],
    faults: &mut Vec<CompileFault>,
) -> ClientKeys {
    let mut all = ClientKeys::default();
    for key in keys.iter().filter(|key| key.retired_at.is_none()) {
        let kid = key.id.to_string();
        if let Err(problem) = all.add(&kid, &key.algorithm, key.secret.expose()) {
            faults.push(CompileFault {
                kind: "client_keys",
                id: key.id,
                field: "secret".to_owned(),
                message: problem.to_owned(),
            });
        }
    }
    for certificate in certificates {
        let presented = ClientCertificate {
            chain: certificate.cert.clone(),
            key: Secret::new(certificate.key.expose().to_owned()),
        };
        all.certificates.insert(certificate.id, Arc::new(presented));
    }
    all
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
