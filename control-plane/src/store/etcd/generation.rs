//! What generation a store in etcd is, which its control planes have to agree on before they lead any node.

use shared::clock::UnixTime;

use super::client::{Comparison, EtcdError, Put};
use super::{EtcdStore, HEAD, Head};
use crate::store::generation_after;

impl EtcdStore {
    /// Says what generation this is, unless another control plane has: all of them must say the same.
    pub(super) fn declare_generation(&mut self, now: UnixTime) -> Result<(), EtcdError> {
        let head = Head {
            generation: generation_after(0, now),
            ..Head::default()
        };
        let none = Comparison {
            name: HEAD,
            version: 0,
        };
        let put = Put {
            name: HEAD.to_owned(),
            value: self.shelf.seal_json(HEAD, &head)?,
        };
        let declared = self.shelf.client.commit(&none, None, &[put]);
        if let Err(error) = &declared
            && !matches!(error, EtcdError::Unknown(_))
        {
            return Err(error.clone());
        }
        // What is there counts, whoever has put it there.
        (self.head, self.seen) = self.shelf.head()?;
        if self.seen == 0 {
            declared?;
        }
        Ok(())
    }
}
