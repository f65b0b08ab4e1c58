//! Fetches that need a connection of their own: by way of a proxy, with a certificate, in HTTP/1.0, or
//! where the configuration keeps no connection. Rare, so nothing is pooled.

use bytes::Bytes;
use fetch::{Address, Outside, proxy};
use http::{Request, Response, Uri};
use plugins::host::{ClientCertificate, FetchError, FetchLimits};
use shared::network::Network;
use tokio_rustls::TlsConnector;

use crate::upstream::resolve::Resolver;
use crate::upstream::tls::presenting;

/// Whether a fetch needs a connection of its own.
pub(super) fn is_needed(target: &Uri, limits: &FetchLimits) -> bool {
    limits.certificate.is_some()
        || !limits.keep_alive
        || limits.http_1_0
        || proxy(target, limits).is_some()
}

/// What a fetch goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Means<'a> {
    /// Finds addresses.
    pub(super) resolver: &'a Resolver,
    /// Networks in which providers may be besides public addresses.
    pub(super) permitted: &'a [Network],
    /// What it may cost.
    pub(super) limits: &'a FetchLimits,
}

impl Outside for Means<'_> {
    async fn addresses(&self, host: &str) -> Result<Vec<Address>, String> {
        let resolved = self.resolver.resolve(host).await;
        let resolved = resolved.map_err(|error| error.to_string())?;
        let found = resolved.found.iter();
        Ok(found.map(|found| (found.address, found.port)).collect())
    }

    fn connector(
        &self,
        verify: bool,
        certificate: Option<&ClientCertificate>,
    ) -> Result<TlsConnector, String> {
        let pair = certificate.map(|certificate| (certificate.chain.as_str(), &certificate.key));
        presenting(verify, pair).map_err(|error| error.to_string())
    }

    fn permitted(&self) -> &[Network] {
        self.permitted
    }
}

/// Sends `request` over a connection of its own and reads the whole answer.
pub(super) async fn fetch(
    request: Request<Bytes>,
    means: Means<'_>,
) -> Result<Response<Bytes>, FetchError> {
    fetch::fetch(request, means.limits, &means).await
}

#[cfg(test)]
mod tests;
