//! The tests of the OpenID Foundation for relying parties (`oidcc-client-…`, `fapi1-advanced-final-client-…`,
//! `fapi2-security-profile-final-client-…`), and which of ours shows the same.

use std::collections::BTreeSet;

use crate::documents::functions;
use crate::root;

/// Their name without what all have in common, and ours.
const SHOWN: [(&str, &str); 70] = [
    ("test", "oidcc_client_test"),
    (
        "client-secret-basic",
        "oidcc_client_test_client_secret_basic",
    ),
    ("invalid-iss", "oidcc_client_test_invalid_iss"),
    ("missing-sub", "oidcc_client_test_missing_sub"),
    ("invalid-aud", "oidcc_client_test_invalid_aud"),
    ("missing-aud", "oidcc_client_test_missing_aud"),
    ("missing-iat", "oidcc_client_test_missing_iat"),
    (
        "kid-absent-single-jwks",
        "oidcc_client_test_kid_absent_single_jwks",
    ),
    (
        "kid-absent-multiple-jwks",
        "oidcc_client_test_kid_absent_multiple_jwks",
    ),
    ("idtoken-sig-rs256", "oidcc_client_test_idtoken_sig_rs256"),
    ("idtoken-sig-none", "oidcc_client_test_idtoken_sig_none"),
    ("invalid-sig-rs256", "oidcc_client_test_invalid_sig_rs256"),
    ("invalid-sig-es256", "oidcc_client_test_invalid_sig_es256"),
    ("invalid-sig-hs256", "oidcc_client_test_invalid_sig_hs256"),
    ("nonce-invalid", "rule_33_oidcc_client_test_nonce_invalid"),
    ("nonce-unless-code-flow", "oidcc_client_test"),
    ("invalid-athash", "oidcc_client_test_invalid_athash"),
    ("missing-athash", "oidcc_client_test_missing_athash"),
    ("invalid-chash", "oidcc_client_test_invalid_chash"),
    ("missing-chash", "oidcc_client_test_missing_chash"),
    (
        "userinfo-bearer-header",
        "oidcc_client_test_userinfo_bearer_header",
    ),
    (
        "userinfo-invalid-sub",
        "oidcc_client_test_userinfo_invalid_sub",
    ),
    ("userinfo-signed", "oidcc_client_test_userinfo_signed"),
    ("scope-userinfo-claims", "oidcc_client_test"),
    (
        "aggregated-claims",
        "rule_39_oidcc_client_test_aggregated_and_distributed_claims_are_added_if_somebody_known_signed_them",
    ),
    (
        "distributed-claims",
        "rule_39_oidcc_client_test_aggregated_and_distributed_claims_are_added_if_somebody_known_signed_them",
    ),
    ("discovery-openid-config", "oidcc_client_test"),
    ("discovery-jwks-uri-keys", "oidcc_client_test"),
    (
        "discovery-issuer-mismatch",
        "oidcc_client_test_discovery_issuer_mismatch",
    ),
    (
        "signing-key-rotation",
        "oidcc_client_test_signing_key_rotation",
    ),
    (
        "signing-key-rotation-just-before-signing",
        "oidcc_client_test_signing_key_rotation_just_before_signing",
    ),
    (
        "request-uri-signed-rs256",
        "oidcc_client_test_request_uri_signed_rs256",
    ),
    (
        "mtls-endpoint-aliases",
        "rule_30_a_certificate_takes_the_place_of_the_secret",
    ),
    ("form-post-error", "oidcc_client_test_form_post_error"),
    ("refresh-token", "oidcc_client_test_refresh_token"),
    (
        "refresh-token-invalid-issuer",
        "oidcc_client_test_refresh_token_invalid_issuer",
    ),
    (
        "refresh-token-invalid-sub",
        "oidcc_client_test_refresh_token_invalid_sub",
    ),
    (
        "3rd-party-init-login",
        "oidcc_client_test_3rd_party_init_login",
    ),
    (
        "rp-init-logout",
        "rule_98_the_way_back_is_known_by_its_state",
    ),
    (
        "rp-init-logout-no-state",
        "rule_99_oidcc_client_test_rp_init_logout_no_state_and_other_state",
    ),
    (
        "rp-init-logout-other-state",
        "rule_99_oidcc_client_test_rp_init_logout_no_state_and_other_state",
    ),
    (
        "rp-backchannel-rpinitlogout",
        "oidcc_client_test_rp_backchannel_rpinitlogout",
    ),
    (
        "rp-backchannel-rpinitlogout-alg-none",
        "oidcc_client_test_rp_backchannel_rpinitlogout_alg_none",
    ),
    (
        "rp-backchannel-rpinitlogout-wrong-alg",
        "oidcc_client_test_rp_backchannel_rpinitlogout_wrong_alg",
    ),
    (
        "rp-backchannel-rpinitlogout-wrong-iss",
        "oidcc_client_test_rp_backchannel_rpinitlogout_wrong_iss",
    ),
    (
        "rp-backchannel-rpinitlogout-wrong-aud",
        "oidcc_client_test_rp_backchannel_rpinitlogout_wrong_aud",
    ),
    (
        "rp-backchannel-rpinitlogout-no-event",
        "oidcc_client_test_rp_backchannel_rpinitlogout_no_event",
    ),
    (
        "rp-backchannel-rpinitlogout-wrong-event",
        "oidcc_client_test_rp_backchannel_rpinitlogout_wrong_event",
    ),
    (
        "rp-backchannel-rpinitlogout-with-nonce",
        "oidcc_client_test_rp_backchannel_rpinitlogout_with_nonce",
    ),
    (
        "rp-frontchannel-rpinitlogout",
        "oidcc_client_test_rp_frontchannel_rpinitlogout_and_opinitlogout",
    ),
    (
        "rp-frontchannel-opinitlogout",
        "oidcc_client_test_rp_frontchannel_rpinitlogout_and_opinitlogout",
    ),
    (
        "fapi2: happy-path",
        "rule_52_a_nonce_dates_a_proof_if_that_is_configured",
    ),
    (
        "fapi2: happy-path-no-dpop-nonce",
        "rule_52_a_proof_must_be_right_in_everything",
    ),
    (
        "fapi2: holder of a certificate's key",
        "rule_51_a_token_that_is_bound_to_a_certificate_is_good_with_it_only",
    ),
    (
        "fapi2: invalid-authorization-response-iss",
        "fapi2_authorization_responses",
    ),
    (
        "fapi2: remove-authorization-response-iss",
        "fapi2_authorization_responses",
    ),
    (
        "fapi2: ensure-authorization-response-with-invalid-state-fails",
        "fapi2_authorization_responses",
    ),
    (
        "fapi2: ensure-authorization-response-with-invalid-missing-state-fails",
        "fapi2_authorization_responses",
    ),
    (
        "fapi2: invalid-iss, -aud, -secondary-aud, -expired-exp, -nonce, invalid-missing-*, valid-aud-as-array",
        "fapi2_id_tokens_of_the_token_endpoint",
    ),
    (
        "fapi2: invalid-null-alg, invalid-alternate-alg",
        "fapi2_id_tokens_of_the_token_endpoint",
    ),
    (
        "fapi2: token-type-case-insensitivity, token-endpoint-response-without-expires-in",
        "fapi2_token_answers",
    ),
    (
        "fapi2: rs-dpop-auth-scheme-case-insensitivity",
        "rule_52_a_proof_must_be_right_in_everything",
    ),
    (
        "fapi2: ensure-jarm-*",
        "fapi2_signed_authorization_responses",
    ),
    (
        "fapi2: happy-path of message signing",
        "fapi2_happy_path_of_message_signing",
    ),
    ("fapi2: refresh-token", "oidcc_client_test_refresh_token"),
    (
        "fapi1: invalid-iss, -aud, -secondary-aud, -expired-exp, -nonce, invalid-missing-*, valid-aud-as-array",
        "fapi1_id_tokens_by_way_of_the_browser",
    ),
    (
        "fapi1: invalid-shash, invalid-chash, iat-is-week-in-past, invalid-signature",
        "fapi1_id_tokens_by_way_of_the_browser",
    ),
    (
        "fapi1: invalid-null-alg, invalid-alternate-alg",
        "fapi1_id_tokens_by_way_of_the_browser",
    ),
    (
        "fapi1: client-test",
        "fapi1_a_state_that_the_id_token_vouches_for",
    ),
    (
        "fapi1: no-scope-in-token-endpoint-response",
        "fapi1_id_tokens_by_way_of_the_browser",
    ),
];

/// What is not offered, and what shows that nothing happens instead.
const NOT_OFFERED: [(&str, &str); 7] = [
    (
        "fapi1: invalid-missing-shash, invalid-scope-in-token-endpoint-response: OpenID Connect knows neither demand",
        "fapi1_id_tokens_by_way_of_the_browser",
    ),
    (
        "userinfo-bearer-body: the header is every provider's",
        "oidcc_client_test_userinfo_bearer_header",
    ),
    (
        "discovery-webfinger-acct, -url: the issuer is configured",
        "rule_82_a_token_makes_nobody_fetch_anything",
    ),
    (
        "dynamic-registration: clients are registered by operators",
        "case_2_the_authorization_request_has_all_that_it_needs",
    ),
    (
        "request-uri-signed-none: requests are signed, or pushed",
        "rule_13_a_request_is_signed_by_the_client",
    ),
    (
        "request_uri of our own: requests are pushed",
        "rule_12_a_request_is_pushed_and_the_browser_carries_its_name_only",
    ),
    (
        "session-management: no page of ours watches",
        "rule_106_no_page_of_ours_watches_the_providers_session",
    ),
];

#[test]
fn every_test_of_the_foundation_has_one_of_ours() {
    let mut there = BTreeSet::new();
    functions(&root().join("data-plane/plugins"), &mut there);
    for (theirs, ours) in SHOWN.iter().chain(&NOT_OFFERED) {
        assert!(there.contains(*ours), "{theirs}: there is no test `{ours}`");
    }
    let names: BTreeSet<_> = SHOWN.iter().map(|(theirs, _)| theirs).collect();
    assert_eq!(names.len(), SHOWN.len());
}
