//! Work that no commit waits for.

use super::EtcdError;

/// Does `work` on a thread of its own: nobody who commits waits for it. Whether that has begun.
pub(super) fn in_background(
    name: &'static str,
    work: impl FnOnce() -> Result<(), EtcdError> + Send + 'static,
) -> bool {
    let work = move || {
        if let Err(error) = work() {
            tracing::warn!(%error, work = name, "cleaning up the store in etcd failed");
        }
    };
    let started = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work);
    if let Err(error) = &started {
        tracing::warn!(%error, work = name, "cleaning up the store in etcd failed");
    }
    started.is_ok()
}
