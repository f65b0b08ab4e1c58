//! What a long exchange keeps of the configuration that it began with. Most exchanges end before anything has changed;
//! a stream or a WebSocket may outlast any number of snapshots, none of which may stay in memory for it.

use std::sync::Arc;

use http::Uri;
use plugins::credentials::secret_names::SecretNames;
use plugins::filter::Counts;
use plugins::registry::AnyFilter;

use super::record::Record;
use crate::compile::{Account, CompiledRoute};

/// What an exchange is logged and counted by, without the snapshot that it is from.
#[derive(Debug)]
pub(super) struct Lasting {
    /// Its route's; none if it has matched none.
    account: Option<Arc<Account>>,
    /// What no log tells of it.
    secrets: Arc<SecretNames>,
    /// What of it is counted.
    pub(super) counts: Counts,
    /// The filters that are told of its end.
    pub(super) filters: Vec<Arc<AnyFilter>>,
}

impl Record {
    /// Lets go of the snapshot: what is left to do needs no more than what is kept now.
    pub(super) fn let_go(&mut self) {
        let Some(secrets) = self.held_secrets().cloned() else {
            return;
        };
        let told = self.run.phases.log;
        self.lasting = Some(Box::new(Lasting {
            account: self.route().map(|route| Arc::clone(&route.account)),
            secrets,
            counts: self.counts(),
            filters: self.run.filters().filter(|_| told).cloned().collect(),
        }));
        (self.route, self.run.snapshot) = (None, None);
    }

    /// Lets go of the request's head as well, of which nothing else is of use to anybody any more.
    pub(super) fn outlast(&mut self) {
        self.let_go();
        if let Some((_, uri)) = &mut self.asked
            && let Ok(own) = Uri::try_from(uri.to_string())
        {
            *uri = own;
        }
    }

    /// Its route in the snapshot, as long as it has not let go of that.
    fn route(&self) -> Option<&CompiledRoute> {
        let (snapshot, route) = self.route.as_ref()?;
        snapshot.routes.get(*route)
    }

    /// What its route's exchanges are logged and counted by; none if it has matched none.
    pub(super) fn account(&self) -> Option<&Arc<Account>> {
        let lasting = || self.lasting.as_ref()?.account.as_ref();
        self.route().map(|route| &route.account).or_else(lasting)
    }

    /// What no log tells of it; nothing is known of one that no filter has seen and that has matched no route.
    pub(super) fn secrets(&self) -> Option<&Arc<SecretNames>> {
        let lasting = || self.lasting.as_ref().map(|lasting| &lasting.secrets);
        self.held_secrets().or_else(lasting)
    }

    /// The same, as long as it has not let go of the snapshot.
    fn held_secrets(&self) -> Option<&Arc<SecretNames>> {
        let unrouted = || {
            let snapshot = self.run.snapshot.as_ref();
            snapshot.map(|snapshot| &snapshot.unrouted.secrets)
        };
        let route = self.route().map(|route| &route.filters.secrets);
        route.or_else(unrouted)
    }
}
