//! Futures that few requests wait for.

use std::pin::Pin;

/// The future that `make` makes, apart from the one that waits for it. Neither its state nor what it needs while it goes on takes
/// room there, on the stack either: that is gone through by all requests, and was ten kilobytes for what hardly any of them does.
#[inline(never)]
pub(crate) fn apart<'a, F: Future + 'a>(
    make: impl FnOnce() -> F,
) -> Pin<Box<dyn Future<Output = F::Output> + 'a>> {
    Box::pin(make())
}
