//! Lists: their pages, and their filters.

use std::collections::BTreeSet;

use super::*;

#[tokio::test]
async fn pages_walk_every_record_once() {
    let api = Api::new();
    for at in 0..25 {
        let tags = if at % 2 == 0 {
            json!(["even", "all"])
        } else {
            json!(["all"])
        };
        let body =
            json!({ "username": format!("c{at}"), "custom_id": format!("i{at}"), "tags": tags });
        assert_eq!(api.json("POST", "/consumers", body).await.0, 201);
    }
    for (filter, expected) in [
        ("", 25),
        ("&tags=all", 25),
        ("&tags=all,even", 13),
        ("&tags=x/even", 13),
    ] {
        let seen = api.all(&format!("/consumers?size=10{filter}")).await;
        let names: BTreeSet<_> = seen.iter().map(|one| one["username"].as_str()).collect();
        assert_eq!((seen.len(), names.len()), (expected, expected), "{filter}");
    }
    let (_, found) = api.get("/consumers?custom_id=i7").await;
    assert_eq!(found["data"][0]["username"], "c7");
}

#[test]
fn data_planes_are_listed_in_pages() {
    let names: Vec<String> = (0..250).map(|number| format!("node-{number:03}")).collect();
    let rows: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
    let given = |from: &str, most| {
        let rows = rows.iter().filter(|row| row["name"].as_str() >= Some(from));
        rows.take(most).cloned().collect()
    };
    let page = |query: &str| page::of_named("/clustering/data-planes", Some(query), given);
    for (start, pages) in [("", 3), ("size=100", 3), ("size=50", 5), ("size=1000", 1)] {
        let (mut query, mut seen, mut count) = (start.to_owned(), Vec::new(), 0);
        loop {
            let shown = page(&query).unwrap();
            let data = shown["data"].as_array().unwrap();
            seen.extend(
                data.iter()
                    .map(|row| row["name"].as_str().unwrap().to_owned()),
            );
            count += 1;
            let Some(next) = shown["next"].as_str() else {
                assert!(shown.get("offset").is_none());
                break;
            };
            query = next
                .strip_prefix("/clustering/data-planes?")
                .unwrap()
                .to_owned();
        }
        assert_eq!((seen, count), (names.clone(), pages), "{start}");
    }
    // A node that has left meanwhile takes nobody along.
    let offset = "offset=WyJub2RlLTI0OC1ub25lIl0";
    assert_eq!(
        page(offset).unwrap()["data"],
        json!([{ "name": "node-249" }])
    );
    for wrong in [
        "size=0",
        "size=1001",
        "size=abc",
        "offset=junk",
        "offset=aGVsbG8K",
    ] {
        assert!(page(wrong).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn tags_are_listed_in_pages() {
    let api = Api::new();
    for at in 0..5 {
        let body = json!({ "username": format!("u{at}"), "tags": ["b/b", "a a", "c"] });
        let (status, _) = api.json("POST", "/consumers", body).await;
        assert_eq!(status, 400, "a tag has no slash");
        let body = json!({ "username": format!("u{at}"), "tags": ["b", "a a", "c"] });
        api.json("POST", "/consumers", body).await;
    }
    for (start, expected) in [("/tags?size=4", 15), ("/tags/a%20a?size=2", 5)] {
        let seen = api.all(start).await;
        let unique: BTreeSet<String> = seen.iter().map(Value::to_string).collect();
        assert_eq!((seen.len(), unique.len()), (expected, expected));
    }
    assert_eq!(api.get("/tags?offset=x").await.1["code"], 7);
    assert_eq!(api.get("/tags?size=0").await.1["code"], 9);
}

#[tokio::test]
async fn an_offset_that_is_none_is_refused_by_its_encoding() {
    let api = Api::new();
    for (offset, encoding) in [
        ("x", "base64"),
        ("hello", "base64"),
        ("%7Cpotato%7C", "base64"),
        ("aGVsbG8K", "json"),
        ("WyJub25lIl0=", "json"),
    ] {
        for list in ["services", "tags"] {
            let (status, reply) = api.get(&format!("/{list}?offset={offset}")).await;
            let text = offset.replace("%7C", "|");
            let message = format!("'{text}' is not a valid offset: bad {encoding} encoding");
            let expected = json!({ "code": 7, "name": "invalid offset", "message": message });
            assert_eq!((status, reply), (400, expected), "{list}");
        }
    }
    // Kong writes them without padding.
    let nil = "WyIwMDAwMDAwMC0wMDAwLTAwMDAtMDAwMC0wMDAwMDAwMDAwMDAiXQ";
    assert_eq!(api.get(&format!("/services?offset={nil}")).await.0, 200);
}

#[tokio::test]
async fn a_tag_that_no_record_can_have_is_refused() {
    let api = Api::new();
    let utf8 = "invalid utf-8 character sequence detected at position 2";
    let ascii =
        "invalid tag 'a,b': expected printable ascii (except `,` and `/`) or valid utf-8 sequences";
    for (tag, message) in [("a%FF", utf8), ("a,b", ascii)] {
        let expected = json!({ "code": 10, "name": "invalid unique tag", "message": message });
        assert_eq!(
            api.get(&format!("/tags/{tag}")).await,
            (400, expected),
            "{tag}"
        );
    }
    let (status, reply) = api.get("/consumers?tags=a%FF").await;
    let message = "invalid option (tags: invalid filter syntax)";
    assert_eq!((status, &reply["message"]), (400, &json!(message)));
    for tag in ["not-there", "%F0%9F%A6%8D"] {
        assert_eq!(api.get(&format!("/tags/{tag}")).await.0, 200, "{tag}");
        assert_eq!(
            api.get(&format!("/consumers?tags={tag}")).await.0,
            200,
            "{tag}"
        );
    }
}

#[tokio::test]
async fn lists_below_a_record_know_no_tags_unless_there_is_no_other_list() {
    let api = Api::new();
    made(&api, "/consumers", json!({ "username": "c" })).await;
    let plugin = json!({ "name": "request-termination", "tags": ["one"] });
    made(&api, "/consumers/c/plugins", plugin).await;
    made(&api, "/upstreams", json!({ "name": "u" })).await;
    let target = json!({ "target": "10.0.0.1:80", "tags": ["one"] });
    made(&api, "/upstreams/u/targets", target).await;
    for (url, count) in [
        ("/consumers/c/plugins?tags=two", 1),
        ("/plugins?tags=two", 0),
        ("/plugins?tags=one", 1),
        ("/upstreams/u/targets?tags=two", 0),
        ("/upstreams/u/targets?tags=one", 1),
    ] {
        let (status, list) = api.get(url).await;
        let found = list["data"].as_array().map(Vec::len);
        assert_eq!((status, found), (200, Some(count)), "{url}");
    }
    assert_eq!(api.get("/consumers/c/plugins?tags=a,b/c").await.0, 400);
}
