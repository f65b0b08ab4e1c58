//! How specific the scope of a plugin is: of several configurations that fit, the most specific one runs.

/// Whose requests a plugin sees.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whose {
    /// One consumer's, while he is in a group. Kong never runs such: it is the most specific there is.
    Member,
    Consumer,
    Group,
    Everybody,
}

/// How specific a scope is (Kong 3.9, plugin precedence).
pub(super) const fn rank(route: bool, service: bool, whose: Whose) -> u8 {
    match (route, service, whose) {
        (true, true, Whose::Member) => 15,
        (true, false, Whose::Member) => 14,
        (false, true, Whose::Member) => 13,
        (false, false, Whose::Member) => 12,
        (true, true, Whose::Consumer) => 11,
        (true, true, Whose::Group) => 10,
        (true, false, Whose::Consumer) => 9,
        (false, true, Whose::Consumer) => 8,
        (true, false, Whose::Group) => 7,
        (false, true, Whose::Group) => 6,
        (true, true, Whose::Everybody) => 5,
        (false, false, Whose::Consumer) => 4,
        (false, false, Whose::Group) => 3,
        (true, false, Whose::Everybody) => 2,
        (false, true, Whose::Everybody) => 1,
        (false, false, Whose::Everybody) => 0,
    }
}
