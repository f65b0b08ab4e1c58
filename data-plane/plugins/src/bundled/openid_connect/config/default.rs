//! Defaults that are neither empty nor off.

use super::values::{
    AuthMethod, ConsumerBy, LoginToken, LogoutMethod, Number, ParamPlace, SameSite, TokenPlace,
};

/// A function per default of the same type.
macro_rules! defaults {
    ($($type:ty { $($name:ident: $value:expr,)* })*) => {
        $($(
            #[allow(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
            pub(super) fn $name() -> $type { $value }
        )*)*
    };
}

defaults! {
    bool { yes: true, }
    u16 { redis_port: 6379, memcached_port: 11211, }
    u32 { redis_timeout: 2000, keepalive_pool_size: 256, max_redirections: 5, sixty_thousand: 60_000, }
    Number {
        zero: Number(0.into()),
        thirty: Number(30.into()),
        five_minutes: Number(300.into()),
        ten_minutes: Number(600.into()),
        fifteen_minutes: Number(900.into()),
        one_hour: Number(3600.into()),
        one_day: Number(86_400.into()),
        one_week: Number(604_800.into()),
        thirty_days: Number(2_592_000.into()),
        ten_thousand: Number(10_000.into()),
        http_1_1: Number(serde_json::Number::from_f64(1.1).expect("1.1 is finite")),
    }
    String {
        loopback: "127.0.0.1".to_owned(),
        client_id: "client_id".to_owned(),
        token: "token".to_owned(),
        authorization: "authorization".to_owned(),
        root: "/".to_owned(),
        default: "default".to_owned(),
        session: "session".to_owned(),
        remember: "remember".to_owned(),
        sid: "sid".to_owned(),
        access_token: "access_token".to_owned(),
        unauthorized: "Unauthorized".to_owned(),
        forbidden: "Forbidden".to_owned(),
    }
    Option<String> {
        upstream_access_token_header: Some("authorization:bearer".to_owned()),
    }
    Vec<String> {
        code: vec!["code".to_owned()],
    }
    Option<Vec<String>> {
        openid: Some(vec!["openid".to_owned()]),
        scope: Some(vec!["scope".to_owned()]),
        aud: Some(vec!["aud".to_owned()]),
        groups: Some(vec!["groups".to_owned()]),
        roles: Some(vec!["roles".to_owned()]),
        sub: Some(vec!["sub".to_owned()]),
    }
    Vec<AuthMethod> {
        authorization_code: vec![AuthMethod::AuthorizationCode],
        auth_methods: vec![
            AuthMethod::Password,
            AuthMethod::ClientCredentials,
            AuthMethod::AuthorizationCode,
            AuthMethod::Bearer,
            AuthMethod::Introspection,
            AuthMethod::Userinfo,
            AuthMethod::KongOauth2,
            AuthMethod::RefreshToken,
            AuthMethod::Session,
        ],
    }
    Option<Vec<LoginToken>> {
        id_token: Some(vec![LoginToken::IdToken]),
    }
    Option<Vec<TokenPlace>> {
        token_places: Some(vec![TokenPlace::Header, TokenPlace::Query, TokenPlace::Body]),
    }
    Option<Vec<ParamPlace>> {
        param_places: Some(vec![ParamPlace::Header, ParamPlace::Query, ParamPlace::Body]),
    }
    Option<Vec<ConsumerBy>> {
        consumer_by: Some(vec![ConsumerBy::Username, ConsumerBy::CustomId]),
    }
    Option<Vec<LogoutMethod>> {
        logout_methods: Some(vec![LogoutMethod::Post, LogoutMethod::Delete]),
    }
    SameSite { lax: SameSite::Lax, }
}
