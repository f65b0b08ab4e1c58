//! What token endpoint promises.

use serde_json::json;

use super::*;

fn parsed(answer: &Value) -> Result<Tokens, TokenError> {
    read(answer.to_string().as_bytes(), UnixTime::from_secs(100))
}

#[test]
fn an_answer_must_be_an_object_with_a_bearer_token() {
    let check = |answer: Value, accepted: bool| {
        assert_eq!(parsed(&answer).is_ok(), accepted, "{answer}");
    };
    check(json!({"access_token": "x", "token_type": "Bearer"}), true);
    check(json!({"access_token": "x", "token_type": "bEARER"}), true);
    check(json!({"access_token": "x"}), false);
    check(json!({"access_token": "x", "token_type": "mac"}), false);
    check(json!({"access_token": 1, "token_type": "Bearer"}), false);
    check(
        json!({"access_token": "a b", "token_type": "Bearer"}),
        false,
    );
    check(json!([]), false);
    check(json!(null), false);
}

#[test]
fn rule_31_a_lifetime_is_a_number_or_digits_and_never_overflows() {
    let check = |expires_in: Value, expected: u64| {
        let answer = json!({"access_token": "x", "token_type": "Bearer", "expires_in": expires_in});
        assert_eq!(
            parsed(&answer).unwrap().expires_at,
            Some(UnixTime::from_secs(expected))
        );
    };
    check(json!(60), 160);
    check(json!("60"), 160);
    check(json!(0), 100);
    check(json!(-5), 100);
    // What is no number is not the same as nothing.
    for expires_in in [
        json!("soon"),
        json!(""),
        json!("NaN"),
        json!("inf"),
        json!([60]),
        json!(true),
    ] {
        let answer = json!({"access_token": "x", "token_type": "Bearer", "expires_in": expires_in});
        assert!(parsed(&answer).is_err(), "{answer}");
    }
    let nothing = json!({"access_token": "x", "token_type": "Bearer", "expires_in": null});
    assert_eq!(parsed(&nothing).unwrap().expires_at, None);
    let absurd = json!({"access_token": "x", "token_type": "Bearer", "expires_in": 1e300});
    assert!(parsed(&absurd).unwrap().expires_at.unwrap() > UnixTime::from_secs(1_000_000_000));
}

#[test]
fn rule_31_the_earlier_of_two_ends_counts_unless_it_is_over() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let check = |exp: u64, expires_in: Value, expected: u64| {
        let [header, claims] = [json!({"alg": "RS256"}), json!({"exp": exp})]
            .map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let token = format!("{header}.{claims}.c2ln");
        let answer =
            json!({"access_token": token, "token_type": "Bearer", "expires_in": expires_in});
        let end = parsed(&answer).unwrap().expires_at;
        assert_eq!(end, Some(UnixTime::from_secs(expected)), "{answer}");
    };
    check(130, json!(60), 130);
    check(160, json!(60), 160);
    check(190, json!(60), 160);
    check(190, json!(null), 190);
    check(90, json!(null), 90);
    // The provider's clock is behind.
    check(100, json!(60), 160);
    check(190, json!(0), 100);
}
