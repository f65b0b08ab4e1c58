//! What is kept of refusals, and how long.

use super::*;

fn explanation(id: usize, at: u64) -> Explanation {
    Explanation {
        request_id: format!("{id:032x}"),
        at: UnixTime::from_secs(at),
        method: "GET".to_owned(),
        path: "/a\u{7}".to_owned(),
        plugin: uuid::Uuid::nil(),
        issuer: "https://idp.example".to_owned(),
        status: 401,
        reason: "idt_aud",
        detail: "the ID token is for another audience".to_owned(),
        session: None,
        facts: vec![("aud", "another".to_owned())],
    }
}

#[test]
fn a_refusal_is_explained_for_a_while() {
    let explanations = Explanations::default();
    explanations.note(explanation(1, 1_000));
    let id = format!("{:032x}", 1);
    let told = explanations.find(&id, UnixTime::from_secs(1_001)).unwrap();
    assert_eq!(told["step"], "ID token");
    assert_eq!(told["compared"]["aud"], "another");
    assert_eq!(told["path"], "/a");
    assert!(told["fix"].as_str().unwrap().contains("client_id"));
    assert_eq!(explanations.find("x", UnixTime::from_secs(1_001)), None);
    assert_eq!(explanations.find(&id, UnixTime::from_secs(9_000)), None);
}

#[test]
fn each_reason_has_its_step() {
    let mut named: Vec<&str> = KNOWN
        .iter()
        .flat_map(|(reasons, ..)| *reasons)
        .copied()
        .collect();
    let all = named.len();
    named.sort_unstable();
    named.dedup();
    assert_eq!(named.len(), all, "one is named twice");
    // Those that no test provokes.
    for reason in [
        "jarm",
        "introspect_sig",
        "session_storage",
        "revocations_unknown",
    ] {
        assert_ne!(known(reason).0, "request", "{reason}");
    }
}

#[test]
fn the_oldest_go_first_and_all_are_counted() {
    let explanations = Explanations::default();
    for id in 0..=MOST {
        explanations.note(explanation(id, 1_000));
    }
    let now = UnixTime::from_secs(1_001);
    assert_eq!(explanations.find(&format!("{:032x}", 0), now), None);
    assert!(explanations.find(&format!("{MOST:032x}"), now).is_some());
    let counted = format!("{{reason=\"idt_aud\"}} {}", MOST + 1);
    assert!(explanations.metrics().contains(&counted));
}

#[test]
fn no_more_is_kept_than_is_told() {
    let explanations = Explanations::default();
    let long = "x".repeat(16 * 1024);
    explanations.note(Explanation {
        method: long.clone(),
        path: long.clone(),
        detail: long.clone(),
        facts: vec![("aud", long.clone()), ("iss", long)],
        ..explanation(1, 1_000)
    });
    let kept = explanations.lock();
    let kept = kept.all.front().unwrap();
    let texts = [&kept.method, &kept.path, &kept.detail];
    let facts = kept.facts.iter().map(|(_, value)| value);
    let size: usize = texts.into_iter().chain(facts).map(String::capacity).sum();
    assert!(size <= 4096, "{size}");
}
