//! Compares what a start finds in the store with what was known before: a store that was lost, or put back, is not
//! written to.

use shared::snapshot::{Hash, Revision};

use super::StoreError;

/// Tells the hash of what was committed as a revision, which holds that of all before; none if it is not kept.
pub type Chains<'a> = dyn Fn(Revision) -> Result<Option<Hash>, StoreError> + 'a;

/// A store, as far as its head tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Found {
    /// Its generation; 0: nothing is there.
    pub generation: u64,
    /// Its revision.
    pub revision: Revision,
    /// Whether it was begun where nothing was, rather than restored. Versions that did not tell count as restored.
    pub begun: bool,
}

impl Found {
    /// A store at `revision` of `generation`. One that holds nothing was begun.
    pub fn at(generation: u64, revision: Revision) -> Self {
        Self {
            generation,
            revision,
            begun: revision == Revision::default(),
        }
    }

    /// Whether it lacks what `revision` of `generation` held: it is older; or it was begun without that, whatever the clock
    /// said then.
    pub fn lacks(&self, generation: u64, revision: Revision) -> bool {
        let is_other = self.begun && generation != self.generation;
        is_other || (generation, revision) > (self.generation, self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_was_begun_anew_lacks_what_was_before_it() {
        let known = |found: Found| found.lacks(7, Revision(34));
        for (generation, revision, lacks) in [(7, 34, false), (7, 35, false), (7, 33, true)] {
            assert_eq!(known(Found::at(generation, Revision(revision))), lacks);
        }
        for (generation, revision, if_begun, if_restored) in [
            (8, 2, true, false),
            (8, 40, true, false),
            (6, 40, true, true),
            (7, 34, false, false),
            (7, 2, true, true),
        ] {
            for (begun, lacks) in [(true, if_begun), (false, if_restored)] {
                let found = Found {
                    begun,
                    ..Found::at(generation, Revision(revision))
                };
                assert_eq!(known(found), lacks, "{found:?}");
            }
        }
        // What holds nothing was restored from nothing.
        assert!(known(Found::at(8, Revision(0))));
    }
}
