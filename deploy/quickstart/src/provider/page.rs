//! The provider's pages. They work without scripts, by keyboard and in a screen reader.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use maud::html;

use super::{Provider, ProviderSettings};
use crate::page::page;

/// What somebody sees who opens the provider itself.
pub(super) async fn index(State(provider): State<Provider>) -> Response {
    let issuer = provider.issuer();
    let discovery = format!("{issuer}/.well-known/openid-configuration");
    page(
        StatusCode::OK,
        "Demo OpenID provider",
        &html! {
            p { "This provider is part of the Wardgate demo. Applications send people here to sign in." }
            p { a href=(discovery) { "Discovery document" } }
        },
    )
}

/// The login page. `complaint` says what was wrong with the last try, `username` is who is expected.
pub(super) fn login(
    settings: &ProviderSettings,
    sign_in: &str,
    username: Option<&str>,
    complaint: Option<&str>,
) -> Response {
    let status = match complaint {
        Some(_) => StatusCode::UNAUTHORIZED,
        None => StatusCode::OK,
    };
    page(
        status,
        "Sign in",
        &html! {
            @if let Some(complaint) = complaint {
                p.alert #complaint role="alert" { (complaint) }
            }
            form method="post" action="/login" {
                input type="hidden" name="sign_in" value=(sign_in);
                label for="username" { "User name" }
                input #username name="username" value=[username] autocomplete="username" autocapitalize="none"
                    spellcheck="false" required autofocus
                    aria-describedby=[complaint.map(|_| "complaint")];
                label for="password" { "Password" }
                input #password name="password" type="password" autocomplete="current-password"
                    required;
                button type="submit" { "Sign in" }
            }
            details open {
                summary { "Demo users" }
                table {
                    thead { tr { th scope="col" { "User name" } th scope="col" { "Password" }
                        th scope="col" { "Groups" } } }
                    tbody {
                        @for user in &settings.users {
                            tr { td { code { (user.username) } } td { code { (user.password) } }
                                td { (user.groups.join(", ")) } }
                        }
                    }
                }
            }
        },
    )
}

/// A request that cannot be answered to the application.
pub(super) fn fault(message: &str) -> Response {
    page(
        StatusCode::BAD_REQUEST,
        "This sign-in cannot go on",
        &html! { p.alert role="alert" { (message) } },
    )
}

/// After a sign-out that leads nowhere else.
pub(super) fn signed_out() -> Response {
    page(
        StatusCode::OK,
        "Signed out",
        &html! { p { "You are signed out at the demo provider. You can close this page." } },
    )
}
