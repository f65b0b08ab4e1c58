//! How many cases property tests try.

/// So many cases as `least`, which a run of all tests has time for, or as `PROPTEST_CASES` asks for beyond that.
pub fn cases(least: u32) -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    let asked = asked.and_then(|asked| asked.parse::<u32>().ok());
    asked.unwrap_or_default().max(least)
}
