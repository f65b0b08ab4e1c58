//! What keeps sign-ins from an end though the provider does all that it is asked: cookies that browsers do not send with what
//! another site leads to (RFC 6265bis §5.2), and answers that they do not send.

use super::Findings;
use crate::bundled::openid_connect::config::SameSite;
use crate::bundled::openid_connect::rules::Rules;

const FIX: &str = "Set it to Lax, unless the provider's host and the gateway's are of one site.";

pub(super) fn check(rules: &Rules, findings: &mut Findings) {
    if !rules.methods.authorization_code {
        return;
    }
    let (session, sign_in) = (&rules.config.session, &rules.config.sign_in);
    if session.session_cookie_same_site == SameSite::Strict {
        findings.warn(
            "session_cookie_same_site",
            "browsers send no session (SameSite=Strict) with what another site leads to: who follows a link from there signs \
             in again, and where a sign-in ends with a redirect it goes round in circles",
            FIX,
        );
    }
    // Where the answer is posted it is None.
    if sign_in.authorization_cookie_same_site == SameSite::Strict
        && !sign_in.response_mode.is_posted()
    {
        findings.warn(
            "authorization_cookie_same_site",
            "browsers do not send the cookie of a sign-in (SameSite=Strict) with what the provider leads to: no sign-in ends",
            FIX,
        );
    }
    if sign_in.response_mode.is_in_fragment() {
        findings.warn(
            "response_mode",
            "browsers keep a fragment to themselves: no sign-in ends unless a page at redirect_uri, on a route without this plugin, \
             posts what is in it",
            "Set response_mode to query or form_post, unless there is such a page.",
        );
    }
}
