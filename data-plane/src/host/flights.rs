//! Operations that one node does for all: what is told about them, and what an answer of the control plane makes of
//! them.

use std::time::Duration;

use plugins::host::{Claim, Number};
use proto::v1::flight::Step;
use proto::v1::{Flight, answer};

/// How long this node waits for an operation of another one: the token endpoint may take its time, and then the keys of what
/// it gives.
pub(super) const CLAIMED: Duration = Duration::from_secs(30);

/// After how long without an answer another node is known to be at it: control planes agree sooner on whose it is.
pub(super) const AGREED: Duration = Duration::from_secs(4);

/// Whose an operation is, by what the control plane has answered after so long; which beginning of it, if it is this node's.
/// `is_late`: meanwhile, or shortly before, none was heard.
pub(super) fn claim_of(
    answer: Option<answer::What>,
    waited: Duration,
    is_late: bool,
    begun: impl Fn() -> Number,
) -> Claim {
    match answer {
        // Another node may have begun it by itself in the gap, and not have told yet. Or by way of another control plane.
        Some(answer::What::Yours(is_sure)) if is_late || !is_sure => Claim::Alone,
        Some(answer::What::Yours(_)) => Claim::Ours(begun()),
        Some(answer::What::Result(sealed)) => Claim::Theirs(sealed.to_vec()),
        // Nor does the end of the control plane make it this node's.
        None if waited >= AGREED => Claim::Taken,
        _ => Claim::Alone,
    }
}

/// What is said of an operation that one node does for all.
pub(super) fn flight(key: [u8; 32], step: Step, sealed: Option<Vec<u8>>) -> Flight {
    Flight {
        key: key.to_vec().into(),
        step: step.into(),
        result: sealed.unwrap_or_default().into(),
        yields: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_node_is_at_is_nobody_elses_however_long_it_takes() {
        let soon = Duration::from_millis(50);
        let check = |answer, waited, expected| {
            assert_eq!(claim_of(answer, waited, false, || Number(7)), expected);
        };
        let late = |answer| claim_of(Some(answer), CLAIMED, true, || Number(7));
        let ours = Claim::Ours(Number(7));
        check(Some(answer::What::Yours(true)), CLAIMED, ours);
        // One that could not ask the others knows less, too.
        check(Some(answer::What::Yours(false)), soon, Claim::Alone);
        // What one says that has just come back is less than another node may know.
        assert_eq!(late(answer::What::Yours(true)), Claim::Alone);
        let result = answer::What::Result(vec![7].into());
        assert_eq!(late(result.clone()), Claim::Theirs(vec![7]));
        check(Some(result), CLAIMED, Claim::Theirs(vec![7]));
        let refused = answer::What::Refused("too much at once".to_owned());
        check(Some(refused), soon, Claim::Alone);
        // Without a control plane, or with one that is frozen, that is known at once.
        check(None, soon, Claim::Alone);
        check(None, Duration::from_secs(2), Claim::Alone);
        check(None, CLAIMED, Claim::Taken);
        check(None, CLAIMED / 2, Claim::Taken);
    }
}
