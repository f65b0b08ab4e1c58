//! `/openid-connect/jwks`.

use super::*;

#[tokio::test]
async fn case_65_the_keys_are_shown_without_their_private_half_and_replaced_on_demand() {
    let api = Api::new();
    let kids = |body: &Value| -> Vec<String> {
        let keys = body["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 10);
        for key in keys {
            for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
                assert!(key.get(private).is_none());
            }
        }
        keys.iter()
            .map(|key| key["kid"].as_str().unwrap().to_owned())
            .collect()
    };
    let (status, first) = api.get("/openid-connect/jwks").await;
    assert_eq!(status, 200);
    let first = kids(&first);
    let (_, again) = api.get("/openid-connect/jwks").await;
    assert_eq!(kids(&again), first);
    let (status, _) = api.send("DELETE", "/openid-connect/jwks", "", "").await;
    assert_eq!(status, 204);
    let (_, audit) = api.get("/audit/requests").await;
    let listed = audit["data"].as_array().unwrap().iter();
    let statuses: Vec<_> = listed.map(|one| (&one["method"], &one["status"])).collect();
    let expected = [
        (&json!("DELETE"), &json!(204)),
        (&json!("GET"), &json!(200)),
    ];
    assert_eq!(statuses, expected);
    let (_, second) = api.get("/openid-connect/jwks").await;
    assert!(kids(&second).iter().all(|kid| !first.contains(kid)));
    // Nobody reads the records themselves.
    assert_eq!(api.get("/client_keys").await.0, 404);
}
