//! The configuration that requests run by: one pointer, swapped whole.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::compile::CompiledSnapshot;

/// The compiled snapshot that new requests begin with; none before the first.
pub type Live = Arc<ArcSwapOption<CompiledSnapshot>>;
