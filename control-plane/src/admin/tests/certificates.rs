//! Certificates, their server names, and authorities.

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
};

use super::*;

/// A certificate and its key, in PEM.
fn pair(
    algorithm: &'static rcgen::SignatureAlgorithm,
    authority: bool,
    end: i32,
) -> (String, String) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(end, 1, 1);
    if authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn elliptic() -> (String, String) {
    pair(&PKCS_ECDSA_P256_SHA256, false, 2100)
}

async fn made(api: &Api, snis: Value) -> Value {
    let (cert, key) = elliptic();
    let body = json!({ "cert": cert, "key": key, "snis": snis });
    let (status, reply) = api.json("POST", "/certificates", body).await;
    assert_eq!(status, 201, "{reply}");
    reply
}

#[tokio::test]
async fn server_names_are_written_along_and_lead_to_the_certificate() {
    let api = Api::new();
    let first = made(&api, json!(["b.test", "a.test"])).await;
    assert_eq!(first["snis"], json!(["a.test", "b.test"]));
    assert_eq!(
        (&first["cert_alt"], &first["key_alt"]),
        (&Value::Null, &Value::Null)
    );
    for name in ["a.test", "b.test", first["id"].as_str().unwrap()] {
        assert_eq!(api.get(&format!("/certificates/{name}")).await.1, first);
    }
    assert_eq!(api.get("/certificates").await.1["data"], json!([first]));
    let (_, names) = api.get("/certificates/a.test/snis").await;
    assert_eq!(names["data"].as_array().unwrap().len(), 2);
    assert_eq!(api.get("/snis/a.test/certificate").await.0, 404);
    assert_eq!(api.get("/certificates/nobody.test").await.0, 404);
    // PATCH without the field leaves the names, `null` takes them away, and a list sets them.
    for (patch, expected) in [
        (json!({}), json!(["a.test", "b.test"])),
        (json!({ "snis": ["c.test"] }), json!(["c.test"])),
        (json!({ "snis": null }), json!([])),
    ] {
        let url = format!("/certificates/{}", first["id"].as_str().unwrap());
        let (status, patched) = api.json("PATCH", &url, patch).await;
        assert_eq!((status, &patched["snis"]), (200, &expected));
    }
    assert_eq!(api.get("/snis").await.1["data"], json!([]));
    // PUT by a new name makes both.
    let (cert, key) = elliptic();
    let body = json!({ "cert": cert, "key": key, "snis": ["d.test"] });
    let (status, put) = api.json("PUT", "/certificates/e.test", body.clone()).await;
    assert_eq!((status, &put["snis"]), (200, &json!(["d.test", "e.test"])));
    let (_, again) = api
        .json(
            "PUT",
            "/certificates/e.test",
            json!({ "cert": cert, "key": key }),
        )
        .await;
    assert_eq!((&again["id"], &again["snis"]), (&put["id"], &json!([])));
    let (_, form) = api
        .form(
            "PATCH",
            &format!("/certificates/{}", put["id"].as_str().unwrap()),
            "snis=f.test&snis=g.test",
        )
        .await;
    assert_eq!(form["snis"], json!(["f.test", "g.test"]));
    // A deleted certificate takes its names along.
    assert_eq!(
        api.send("DELETE", "/certificates/f.test", "", "").await.0,
        204
    );
    assert_eq!(api.get("/snis").await.1["data"], json!([]));
    // By a name that leads nowhere there is no certificate to delete; only an id may be gone already.
    let none = (404, json!({ "message": "SNI not found" }));
    for method in ["DELETE", "GET", "PATCH"] {
        let url = "/certificates/f.test";
        assert_eq!(api.json(method, url, json!({})).await, none, "{method}");
    }
    assert_eq!(api.get("/certificates/f.test/snis").await, none);
    let url = format!("/certificates/{}", Uuid::nil());
    assert_eq!(api.send("DELETE", &url, "", "").await.0, 204);
}

#[tokio::test]
async fn names_that_are_taken_change_nothing() {
    let api = Api::new();
    let first = made(&api, json!(["a.test"])).await;
    let (cert, key) = elliptic();
    let taken = format!(
        "schema violation (snis: a.test already associated with existing certificate '{}')",
        first["id"].as_str().unwrap()
    );
    for (snis, message) in [
        (
            json!(["x.test", "y.test", "x.test"]),
            "schema violation (snis: x.test is duplicated)",
        ),
        (json!(["a.test", "x.test"]), taken.as_str()),
        (
            json!(["1.2.3.4"]),
            "schema violation (snis: must not be an IP)",
        ),
    ] {
        let body = json!({ "cert": cert, "key": key, "snis": snis });
        let (status, reply) = api.json("POST", "/certificates", body).await;
        assert_eq!((status, reply["message"].as_str()), (400, Some(message)));
    }
    assert_eq!(api.get("/certificates").await.1["data"], json!([first]));
    let body = json!({ "name": "a.test" });
    assert_eq!(
        api.json("POST", "/certificates/a.test/snis", body).await.0,
        409
    );
    for (name, message) in [
        ("*.wildcard.*", "only one wildcard must be specified"),
        (
            "a.*.test",
            "wildcard must be leftmost or rightmost character",
        ),
        ("a.test:80", "must not have a port"),
    ] {
        let body = json!({ "name": name, "certificate": { "id": first["id"] } });
        let (status, reply) = api.json("POST", "/snis", body).await;
        assert_eq!((status, &reply["fields"]["name"]), (400, &json!(message)));
    }
    let body = json!({ "name": "*.w.test", "certificate": { "id": first["id"] } });
    assert_eq!(api.json("POST", "/snis", body).await.0, 201);
    assert_eq!(api.get("/snis/%2A.w.test").await.1["name"], "*.w.test");
}

#[tokio::test]
async fn a_pair_is_checked_unless_it_is_referred_to() {
    let api = Api::new();
    let ((cert, key), (other, other_key)) = (elliptic(), elliptic());
    let (edwards, edwards_key) = pair(&PKCS_ED25519, false, 2100);
    for (body, message) in [
        (
            json!({}),
            "2 schema violations (cert: required field missing; key: required field missing)",
        ),
        (
            json!({ "cert": cert, "key": other_key }),
            "schema violation (certificate does not match key)",
        ),
        (
            json!({ "cert": cert, "key": key, "cert_alt": other }),
            "schema violation (all or none of these fields must be set: 'cert_alt', 'key_alt')",
        ),
        (
            json!({ "cert": cert, "key": key, "cert_alt": other, "key_alt": other_key }),
            "schema violation (certificate and alternative certificate need to have different type (e.g. RSA and ECDSA), the provided certificates were both of the same type 'id-ecPublicKey')",
        ),
        (
            json!({ "cert": cert, "key": key, "cert_alt": edwards, "key_alt": other_key }),
            "schema violation (alternative certificate does not match key)",
        ),
    ] {
        let (status, reply) = api.json("POST", "/certificates", body).await;
        assert_eq!((status, reply["message"].as_str()), (400, Some(message)));
    }
    let (_, reply) = api
        .json("POST", "/certificates", json!({ "cert": "x", "key": "y" }))
        .await;
    assert!(
        reply["fields"]["cert"]
            .as_str()
            .unwrap()
            .starts_with("invalid certificate: ")
    );
    assert!(
        reply["fields"]["key"]
            .as_str()
            .unwrap()
            .starts_with("invalid key: ")
    );
    for body in [
        json!({ "cert": cert, "key": key, "cert_alt": edwards, "key_alt": edwards_key }),
        json!({ "cert": "{vault://env/cert}", "key": "{vault://env/key}" }),
    ] {
        let (status, stored) = api.json("POST", "/certificates", body.clone()).await;
        assert_eq!((status, &stored["key"]), (201, &body["key"]));
    }
}

#[tokio::test]
async fn a_chain_with_a_damaged_certificate_is_refused() {
    let api = Api::new();
    let ((cert, key), (next, _)) = (elliptic(), elliptic());
    let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
    let (damaged, line) = (
        "invalid certificate: PEM block 2 is cut or damaged",
        "a line of its own",
    );
    let text = "A note.\n";
    for (chain, expected) in [
        (format!("{cert}{next}"), None),
        (
            format!("{text}{cert}{text}{next}{text}").replace('\n', "\r\n"),
            None,
        ),
        (
            format!("{cert}{}", next.replacen("MII", "M*I", 1)),
            Some(damaged),
        ),
        (format!("{cert}{}", next.replace(end, "")), Some(damaged)),
        (
            format!("{cert}{begin}\nAAAA\n{end}\n"),
            Some("PEM block 2 is not a well-formed X.509"),
        ),
        (format!("{cert}{}", next.replace(begin, "")), Some(line)),
        (format!("{cert}  {next}"), Some(line)),
        (
            format!("{}{next}", cert.replace(end, "")),
            Some("PEM block 1 is cut"),
        ),
        (String::from("x"), Some("no PEM certificate found")),
    ] {
        let body = json!({ "cert": chain, "key": key });
        let (status, reply) = api.json("POST", "/certificates", body).await;
        let said = reply["fields"]["cert"].as_str();
        match expected {
            Some(expected) => assert!(status == 400 && said.unwrap().contains(expected), "{reply}"),
            None => assert_eq!(status, 201, "{reply}"),
        }
    }
}

#[tokio::test]
async fn an_authority_is_one_is_valid_and_stays_while_it_is_used() {
    let api = Api::new();
    let ((cert, _), (plain, _)) = (pair(&PKCS_ECDSA_P256_SHA256, true, 2100), elliptic());
    let (expired, _) = pair(&PKCS_ECDSA_P256_SHA256, true, 2001);
    let missing = "schema violation (certificate does not appear to be a CA because it is missing the \"CA\" basic constraint)";
    for (body, message) in [
        (
            json!({ "cert": format!("{cert}{cert}") }),
            "schema violation (please submit only one certificate at a time)",
        ),
        (json!({ "cert": plain }), missing),
        (
            json!({ "cert": expired }),
            "schema violation (certificate expired, \"Not After\" time is in the past)",
        ),
        (json!({}), "schema violation (cert: required field missing)"),
    ] {
        let (status, reply) = api.json("POST", "/ca_certificates", body).await;
        assert_eq!((status, reply["message"].as_str()), (400, Some(message)));
    }
    let (status, stored) = api
        .json("POST", "/ca_certificates", json!({ "cert": cert }))
        .await;
    let digest = stored["cert_digest"].as_str().unwrap();
    assert!(status == 201 && digest.len() == 64 && digest.chars().all(|c| c.is_ascii_hexdigit()));
    let (status, reply) = api
        .json("POST", "/ca_certificates", json!({ "cert": cert }))
        .await;
    assert_eq!(
        (status, &reply["fields"]),
        (409, &json!({ "cert_digest": digest }))
    );
    // What a client got is what it may send back.
    let url = format!("/ca_certificates/{}", stored["id"].as_str().unwrap());
    assert_eq!(api.json("PUT", &url, stored.clone()).await.0, 200);
    assert_eq!(api.send("DELETE", &url, "", "").await.0, 204);
}

#[tokio::test]
async fn a_certificate_that_a_service_presents_stays() {
    let api = Api::new();
    let stored = made(&api, json!([])).await;
    let reference = json!({ "id": stored["id"] });
    let body = json!({ "name": "s", "host": "h", "client_certificate": reference });
    let (status, reply) = api.json("POST", "/services", body.clone()).await;
    assert_eq!(
        (status, &reply["fields"]),
        (
            400,
            &json!({
                "@entity": ["failed conditional validation given value of field 'protocol'"],
                "client_certificate": "value must be null",
            })
        )
    );
    let mut body = body;
    body["protocol"] = json!("https");
    assert_eq!(api.json("POST", "/services", body).await.0, 201);
    let url = format!("/certificates/{}", stored["id"].as_str().unwrap());
    assert_eq!(
        api.get(&format!("{url}/services")).await.1["data"][0]["name"],
        "s"
    );
    let (status, reply) = api.send("DELETE", &url, "", "").await;
    assert_eq!(
        (status, &reply["fields"]),
        (400, &json!({ "@referenced_by": "services" }))
    );
}

#[tokio::test]
async fn an_authority_that_a_service_trusts_stays() {
    let api = Api::new();
    let (cert, _) = pair(&PKCS_ECDSA_P256_SHA256, true, 2100);
    let authority = super::made(&api, "/ca_certificates", json!({ "cert": cert })).await;
    super::made(&api, "/workspaces", json!({ "name": "team" })).await;
    let service = json!({ "url": "https://a.test", "ca_certificates": [id(&authority)] });
    // Authorities are shared by all workspaces.
    let service = super::made(&api, "/team/services", service).await;
    let url = format!("/ca_certificates/{}", id(&authority));
    let (status, reply) = api.send("DELETE", &url, "", "").await;
    assert_eq!(status, 400, "{reply}");
    let message = format!(
        "ca certificate {} is still referenced by services (id = {})",
        id(&authority),
        id(&service)
    );
    let expected = json!({ "message": message, "name": "referenced by others", "code": 19 });
    assert_eq!(reply, expected);
    let (status, _) = api
        .json(
            "PATCH",
            &format!("/team/services/{}", id(&service)),
            json!({ "ca_certificates": null }),
        )
        .await;
    assert_eq!(status, 200);
    assert_eq!(api.send("DELETE", &url, "", "").await.0, 204);
}
