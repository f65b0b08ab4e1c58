//! The requirements of security and the acceptance cases of Kong's plugin by their numbers, and which tests show each.
//! Where a test has its number in its name (`rule_17_…`, `rules_1_3_and_4_…`, `rules_32_to_35_…`, `case_17_…`), nothing
//! more is said here.

use std::collections::{BTreeMap, BTreeSet};

use plugins::registry;

use crate::documents::functions;
use crate::files::files;
use crate::root;

/// How many requirements there are.
const ALL: u32 = 140;

/// How many acceptance cases of Kong's plugin there are.
const CASES: u32 = 70;

/// Requirements of the proxy and the control plane, whose tests are called by what they show.
const SHOWN: [(u32, &[&str]); 16] = [
    (
        86,
        &[
            "a_trusted_proxy_says_which_url_was_asked_for",
            "the_word_of_proxies_is_known_in_every_spelling",
            "the_last_address_counts_or_the_last_that_is_not_trusted",
        ],
    ),
    (
        87,
        &[
            "no_spelling_gets_around_a_route",
            "a_request_that_could_be_read_in_two_ways_is_refused",
        ],
    ),
    (
        112,
        &[
            "a_request_that_could_be_read_in_two_ways_is_refused",
            "a_body_has_one_certain_length",
        ],
    ),
    (
        113,
        &[
            "a_request_that_could_be_read_in_two_ways_is_refused",
            "http_1_0_has_no_transfer_coding",
        ],
    ),
    (
        114,
        &[
            "malformed_chunks_are_refused",
            "extensions_and_trailers_are_bounded",
            "a_broken_chunk_is_answered_and_nothing_behind_it_is_a_request",
            "trailers_cannot_smuggle_framing_or_identity",
        ],
    ),
    (
        115,
        &["a_request_that_could_be_read_in_two_ways_is_refused"],
    ),
    (
        116,
        &[
            "a_request_that_could_be_read_in_two_ways_is_refused",
            "a_target_is_a_path_or_absolute",
            "a_host_is_one_name_and_perhaps_a_port",
        ],
    ),
    (
        117,
        &[
            "a_head_passes_alike_with_filters_and_without",
            "bodies_arrive_whole_and_hop_by_hop_headers_do_not",
            "identity_headers_of_a_client_never_reach_the_upstream",
        ],
    ),
    (
        118,
        &[
            "an_answer_that_does_not_wait_for_the_body_ends_the_connection",
            "one_hundred_continue_comes_only_when_the_body_is_wanted",
        ],
    ),
    (
        119,
        &[
            "only_a_websocket_is_an_upgrade",
            "a_websocket_that_is_refused_leaves_the_connection_as_it_was",
        ],
    ),
    (
        120,
        &[
            "a_head_that_would_be_another_request_is_refused",
            "a_length_that_the_data_breaks_does_not_become_a_request",
            "trailers_pass_both_ways_and_hop_by_hop_fields_do_not",
        ],
    ),
    (
        121,
        &[
            "a_head_has_limits_that_are_told",
            "a_head_has_the_limits_of_one_of_http1",
            "a_client_that_resets_its_streams_at_once_is_cut_off",
            "a_flood_of_frames_reaches_nobody_else",
            "as_many_frames_that_carry_nothing_are_served_as_may_be_and_no_more",
            "a_head_comes_in_so_many_parts_and_no_more",
            "a_head_that_does_not_end_is_given_up",
            "a_body_that_stops_is_given_up",
        ],
    ),
    (122, &["an_answer_whose_framing_is_broken_is_none"]),
    (
        124,
        &[
            "the_admin_api_is_not_exposed_by_accident",
            "nobody_without_a_good_token_is_told_anything",
            "a_role_for_one_workspace_ends_at_it",
        ],
    ),
    (
        125,
        &["only_the_node_that_a_certificate_names_gets_a_configuration"],
    ),
    (
        126,
        &[
            "the_newest_is_found_again_and_nobody_else_can_read_it",
            "no_secret_is_readable_where_it_lies",
        ],
    ),
];

/// What is not offered or is otherwise on purpose, why, and what shows what is so instead.
const OTHERWISE: [(u32, &str, &str); 2] = [
    (
        90,
        "there are no expressions that decide over claims: what would hold one is refused by name",
        "rule_91_every_bad_field_is_named_at_once",
    ),
    (
        127,
        "who may read a record reads its secrets, as with Kong, which decK needs: rights are given by role, differences show none",
        "what_may_be_a_secret_is_in_no_difference",
    ),
];

/// The numbers that a test's name tells after `word`, or after its plural.
fn told(name: &str, word: &str) -> Vec<u32> {
    let (one, many) = (format!("{word}_"), format!("{word}s_"));
    let after = |mark: &str| name.split_once(mark).map(|(_, rest)| rest);
    let Some((words, several)) = after(&many)
        .map(|rest| (rest, true))
        .or_else(|| after(&one).map(|rest| (rest, false)))
    else {
        return Vec::new();
    };
    let mut numbers: Vec<u32> = Vec::new();
    let mut up_to = false;
    for word in words.split('_') {
        let digits = word.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
        match (word, digits.parse::<u32>()) {
            ("and", _) => {}
            ("to", _) => up_to = true,
            // A letter names a part.
            (_, Ok(number)) if word.len() <= digits.len() + 1 => {
                let first = numbers
                    .last()
                    .filter(|_| up_to)
                    .map_or(number, |last| last + 1);
                numbers.extend(first..=number);
                up_to = false;
                if !several {
                    break;
                }
            }
            _ => break,
        }
    }
    numbers
}

/// All tests, and what else is called like them.
fn all() -> BTreeSet<String> {
    let mut there = BTreeSet::new();
    for directory in [
        "control-plane",
        "data-plane",
        "shared",
        "proto",
        "tests",
        "deploy",
    ] {
        functions(&root().join(directory), &mut there);
    }
    there
}

#[test]
fn every_requirement_has_a_test_or_a_reason() {
    let there = all();
    let mut shown: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for name in &there {
        for number in told(name, "rule") {
            shown.entry(number).or_default().push(name);
        }
    }
    let named = SHOWN
        .iter()
        .flat_map(|(number, tests)| tests.iter().map(move |test| (*number, *test)));
    let otherwise = OTHERWISE.iter().map(|(number, _, test)| (*number, *test));
    for (number, test) in named.chain(otherwise) {
        assert!(there.contains(test), "{number}: there is no test `{test}`");
        shown.entry(number).or_default().push(test);
    }
    let missing: Vec<u32> = (1..=ALL)
        .filter(|number| !shown.contains_key(number))
        .collect();
    assert!(missing.is_empty(), "nothing shows {missing:?}");
    let beyond: Vec<_> = shown.keys().filter(|number| **number > ALL).collect();
    assert!(beyond.is_empty(), "there are no {beyond:?}");
}

#[test]
fn every_acceptance_case_of_openid_connect_has_a_test() {
    let there = all();
    let shown: BTreeSet<u32> = there.iter().flat_map(|name| told(name, "case")).collect();
    let missing: Vec<u32> = (1..=CASES)
        .filter(|number| !shown.contains(number))
        .collect();
    assert!(missing.is_empty(), "nothing shows {missing:?}");
}

#[test]
fn every_parameter_of_openid_connect_is_set_by_a_test() {
    let tests = files(&[".rs", ".js"]).into_iter().filter(|(path, _)| {
        let path = path.display().to_string();
        ["openid_connect/tests/", "tests/e2e/", "tests/real-peers/"]
            .iter()
            .any(|place| path.contains(place))
    });
    let tests: Vec<String> = tests.map(|(_, text)| text).collect();
    let plugin = registry::definition("openid-connect").unwrap();
    let fields = &plugin.fields.fields;
    assert!(fields.len() > 200, "{}", fields.len());
    let is_said = |name: &str| {
        let (quoted, as_form) = (format!("\"{name}\""), format!("config.{name}="));
        let says = |text: &String| text.contains(&quoted) || text.contains(&as_form);
        tests.iter().any(says)
    };
    let by_old_name = |name: &str| {
        let mut known = plugin.shorthands.iter();
        known.any(|(old, new)| *new == name && is_said(old))
    };
    let missing: Vec<&String> = fields
        .iter()
        .map(|field| &field.name)
        .filter(|name| !is_said(name) && !by_old_name(name))
        .collect();
    assert!(missing.is_empty(), "no test sets {missing:?}");
}

#[test]
fn a_name_tells_its_requirements() {
    for (name, numbers) in [
        ("rule_17_a_browser_keeps_no_more_than_twenty", &[17][..]),
        ("rule_32c_only_plain_signed_tokens", &[32]),
        ("rules_1_3_and_4_what_binds_a_sign_in", &[1, 3, 4]),
        ("rules_32_to_35_an_id_token", &[32, 33, 34, 35]),
        ("rules_6_7_57_and_71_what_is_not_safe", &[6, 7, 57, 71]),
        ("cases_53_and_rule_83_headers_carry_the_user_info", &[83]),
        ("case_53_headers", &[]),
        ("rule_25_a_response_that_comes_to_2_nodes", &[25]),
    ] {
        assert_eq!(told(name, "rule"), numbers, "{name}");
    }
    for (name, numbers) in [
        (
            "cases_45_to_48_required_claims_decide",
            &[45, 46, 47, 48][..],
        ),
        ("case_63_and_5_1_a_bearer_token_starts_a_session", &[63]),
        ("cases_53_and_rule_83_headers_carry_the_user_info", &[53]),
        ("rule_25_no_referer_tells_the_code", &[]),
    ] {
        assert_eq!(told(name, "case"), numbers, "{name}");
    }
}
