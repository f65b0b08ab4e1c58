//! Certificates that are added, removed or renewed, and the listeners and services that use or trust them.

use std::sync::Arc;

use shared::entity::{CaCertificate, Certificate, Entity as _, Sni};

use super::super::environment::client_certificate;
use super::Amendment;

impl Amendment<'_> {
    /// Changes the certificates, and touches the services and upstreams that go by them.
    pub(super) fn change_certificates(&mut self) {
        let certificates = self.take(Certificate::KIND);
        let names = self.take(Sni::KIND);
        let mut presented = certificates.first().map(|_| self.client_keys());
        for change in &certificates {
            let id = change.key.id;
            let ground = &mut self.ground;
            let presents = |upstream: &&Arc<super::upstreams::CompiledUpstream>| {
                let identity = upstream.identity.as_ref();
                let is_of = identity.is_some_and(|one| ground.identities.is_of(one, id));
                is_of || upstream.lacks_identity
            };
            let upstreams = ground.upstreams.iter().filter(presents);
            self.upstreams.extend(upstreams.map(|upstream| upstream.id));
            let services = ground.services.which(|service| {
                let own = service.client_certificate;
                own.is_some_and(|certificate| certificate.id == id)
            });
            self.services.extend(services);
            let after = change.is::<Certificate>(&mut self.faults);
            match &after {
                Some(certificate) => ground.identities.put(certificate, &mut self.faults),
                None => ground.identities.remove(id),
            }
            if let Some(presented) = &mut presented {
                presented.certificates.remove(&id);
                let shown = after
                    .iter()
                    .map(|one| (id, Arc::new(client_certificate(one))));
                presented.certificates.extend(shown);
            }
        }
        for change in self.take(CaCertificate::KIND) {
            let id = change.key.id;
            let services = self.ground.services.which(|service| {
                let believed = service.ca_certificates.as_ref();
                believed.is_some_and(|all| all.contains(&id))
            });
            self.services.extend(services);
            match change.is::<CaCertificate>(&mut self.faults) {
                Some(authority) => self.ground.authorities.put(&authority, &mut self.faults),
                None => self.ground.authorities.remove(id),
            }
        }
        if let Some(presented) = presented {
            self.present(presented);
        }
        if !(certificates.is_empty() && names.is_empty()) {
            let names = self.all::<Sni>();
            self.server_names = Arc::new(self.ground.identities.server_names(&names));
        }
    }
}
