//! A list of things by index, with later additions in a layer of their own.

use std::sync::Arc;

/// Many that were made together, and a few that came later, whose places follow. Cloning copies none of them.
#[derive(Debug)]
pub(crate) struct Layered<T> {
    whole: Arc<Vec<T>>,
    newer: Vec<Arc<T>>,
}

impl<T> Default for Layered<T> {
    fn default() -> Self {
        Self::whole(Vec::new())
    }
}

impl<T> Clone for Layered<T> {
    fn clone(&self) -> Self {
        Self {
            whole: Arc::clone(&self.whole),
            newer: self.newer.clone(),
        }
    }
}

impl<T> Layered<T> {
    /// `all` were made together.
    pub(super) fn whole(all: Vec<T>) -> Self {
        Self {
            whole: Arc::new(all),
            newer: Vec::new(),
        }
    }

    /// Those that were made together, if nobody else has them.
    pub(super) fn into_whole(self) -> Vec<T> {
        Arc::into_inner(self.whole).unwrap_or_default()
    }

    /// The one at `place`.
    pub(crate) fn get(&self, place: usize) -> Option<&T> {
        match place.checked_sub(self.whole.len()) {
            None => self.whole.get(place),
            Some(place) => self.newer.get(place).map(|newer| &**newer),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.whole.len() + self.newer.len()
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.whole.iter().chain(self.newer())
    }

    /// Those that came later.
    pub(super) fn newer(&self) -> impl ExactSizeIterator<Item = &T> {
        self.newer.iter().map(|newer| &**newer)
    }

    /// Adds one.
    pub(super) fn push(&mut self, newer: T) {
        self.newer.push(Arc::new(newer));
    }

    /// The same with what `make` makes of each that was made together; none if it makes nothing of one.
    pub(super) fn remade(&self, make: impl FnMut(&T) -> Option<T>) -> Option<Self> {
        let whole: Option<Vec<T>> = self.whole.iter().map(make).collect();
        Some(Self {
            whole: Arc::new(whole?),
            newer: self.newer.clone(),
        })
    }

    /// Those that were made together, with `newer` in the place of what came later.
    pub(super) fn beside(&self, newer: Vec<T>) -> Self {
        Self {
            whole: Arc::clone(&self.whole),
            newer: newer.into_iter().map(Arc::new).collect(),
        }
    }
}
