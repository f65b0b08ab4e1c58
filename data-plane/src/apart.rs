//! Futures that few requests wait for, kept out of the ones that all requests wait for.

use std::pin::Pin;

/// Boxes the future that `make` returns. Neither its state nor the stack that it needs is then part of the future that waits for
/// it: every request goes through that one, and it was ten kilobytes larger for something that hardly any request does.
#[inline(never)]
pub(crate) fn apart<'a, F: Future + 'a>(
    make: impl FnOnce() -> F,
) -> Pin<Box<dyn Future<Output = F::Output> + 'a>> {
    Box::pin(make())
}
