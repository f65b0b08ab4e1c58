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
