//! Logouts where clocks differ: the provider's, those of nodes, and the cluster's.

use serde_json::json;
use shared::clock::UnixTime;

use super::gateway::{Browser, Gateway};
use super::logout::{back_channel, log_out};
use super::provider::ISSUER;
use crate::testing::START;

#[test]
fn rule_104_a_logout_holds_whatever_the_clocks_say() {
    for ask in 0..3 {
        let (mut gateway, mut browser) = back_channel();
        let mut copy = browser.clone();
        // This node's clock is behind that of the node, and of the provider, where the session began.
        let (now, behind) = (START, START.as_secs() - 10);
        gateway.host.set_clock(UnixTime::from_secs(behind));
        let ended = match ask {
            0 => browser.post(&mut gateway, "/logout", "").status == 302,
            1 => log_out(&mut gateway, &json!({})).status == 200,
            _ => log_out(&mut gateway, &json!({ "sid": null })).status == 200,
        };
        assert!(ended, "{ask}");
        assert_eq!(copy.get(&mut gateway, "/api").status, 302, "{ask}");
        gateway.host.set_clock(now);
        assert_eq!(copy.get(&mut gateway, "/api").status, 302, "{ask}");
    }
}

#[test]
fn rule_104_a_logout_ends_what_began_where_the_clock_is_ahead() {
    for (where_it_began, where_it_ends) in [(50, 0), (0, -50), (-50, 0), (0, 50)] {
        for of in [json!({}), json!({ "sid": null })] {
            // The provider's clock is right.
            let config = json!({ "backchannel_logout_uri_suffix": "/backchannel", "leeway": 60 });
            let mut gateway = Gateway::new(config);
            gateway.provider.script.borrow_mut().id_claims = vec![("sid", json!("s1"))];
            gateway.host.set_ahead(where_it_began);
            let mut browser = Browser::default();
            browser.sign_in(&mut gateway, "/api");
            gateway.host.set_ahead(where_it_ends);
            gateway.advance(2);
            assert_eq!(browser.get(&mut gateway, "/api").status, 200);
            assert_eq!(log_out(&mut gateway, &of).status, 200);
            let reply = browser.get(&mut gateway, "/api");
            assert_eq!(reply.status, 302, "{where_it_began} {where_it_ends} {of}");
            // Who signs in again stays, where the clock is not behind.
            gateway.host.set_ahead(where_it_ends.max(0));
            gateway.advance(2);
            assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
            assert_eq!(browser.get(&mut gateway, "/api").status, 200);
        }
    }
}

#[test]
fn rule_104_a_logout_holds_where_the_clock_of_one_control_plane_is_wrong() {
    let frame = format!("/frontchannel?iss={ISSUER}&sid=s1");
    // Of the node where the session begins, and of that which hears of the logout.
    for [there, here] in [[-50, 0], [50, 0], [0, -50], [0, 50]] {
        for ask in 0..3 {
            let mut gateway = Gateway::new(json!({
                "backchannel_logout_uri_suffix": "/backchannel",
                "frontchannel_logout_uri_suffix": "/frontchannel",
            }));
            gateway.provider.script.borrow_mut().id_claims = vec![("sid", json!("s1"))];
            gateway.host.mislead(there);
            let mut browser = Browser::default();
            browser.sign_in(&mut gateway, "/api");
            gateway.host.mislead(here);
            gateway.advance(2);
            let asked = match ask {
                0 => log_out(&mut gateway, &json!({})),
                1 => log_out(&mut gateway, &json!({ "sid": null })),
                _ => Browser::default().get(&mut gateway, &frame),
            };
            assert_eq!(asked.status, 200);
            let reply = browser.get(&mut gateway, "/api");
            assert_eq!(reply.status, 302, "{there} {here} {ask}");
        }
    }
}

#[test]
fn rule_103_a_logout_counts_by_the_clock_of_the_provider() {
    let mut gateway = Gateway::new(json!({ "backchannel_logout_uri_suffix": "/backchannel" }));
    // It is two seconds behind, and says so.
    let its = std::time::UNIX_EPOCH + std::time::Duration::from_secs(START.as_secs());
    let date = ("date", httpdate::fmt_http_date(its));
    gateway.provider.script.borrow_mut().headers = vec![date];
    gateway.host.advance(2.0);
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    assert_eq!(log_out(&mut gateway, &json!({ "sid": null })).status, 200);
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}
