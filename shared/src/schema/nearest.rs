//! Suggests the known name that a misspelt one was probably meant to be.

/// The name that differs least from `given`, if it differs so little that it was probably meant.
pub(super) fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer names are no typing errors, and comparing them would cost.
    let length = given.len();
    if !(3..=64).contains(&length) {
        return None;
    }
    let allowed = (length / 4).clamp(1, 2);
    names
        .filter(|name| name.len().abs_diff(length) <= allowed)
        .map(|name| (distance(given.as_bytes(), name.as_bytes()), name))
        .filter(|(distance, _)| (1..=allowed).contains(distance))
        .min()
        .map(|(_, name)| name)
}

/// How many bytes must be put in, left out, changed or swapped with their neighbour.
fn distance(one: &[u8], other: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (row, byte) in one.iter().enumerate() {
        let mut next = vec![row + 1];
        for (column, with) in other.iter().enumerate() {
            let at =
                |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX / 2);
            let mut cost = (at(&last, column) + usize::from(byte != with))
                .min(at(&last, column + 1) + 1)
                .min(at(&next, column) + 1);
            let swapped = column > 0
                && row > 0
                && one.get(row - 1) == Some(with)
                && other.get(column - 1) == Some(byte);
            if swapped {
                cost = cost.min(at(&before, column - 1) + 1);
            }
            next.push(cost);
        }
        before = std::mem::replace(&mut last, next);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_leads_to_the_name_that_was_meant() {
        let names = ["host", "port", "retries", "connect_timeout", "tags"];
        let check = |given: &str, expected: Option<&str>| {
            assert_eq!(nearest(given, names.into_iter()), expected, "{given}");
        };
        check("hots", Some("host"));
        check("retreis", Some("retries"));
        check("conect_timeout", Some("connect_timeout"));
        check("connect_timeuot", Some("connect_timeout"));
        check("foo", None);
        check("x", None);
        check("service", None);
    }
}
