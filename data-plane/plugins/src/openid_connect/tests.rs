//! The plugin from outside: a browser, a gateway and a provider that does as it is told. Names with
//! `case_N` are the acceptance cases of Kong's behaviour.

mod access;
mod authorization;
mod bearer;
mod bindings;
mod callback;
mod check;
mod client;
mod conformance;
mod conformance_logout;
mod failures;
mod forged;
mod gateway;
mod glance;
mod grants;
mod hostile;
mod initiation;
mod introspection;
mod keeping;
mod logout;
mod possession;
mod presets;
mod printing;
mod properties;
mod provider;
mod requirements;
mod requirements_of_requests;
mod requirements_of_time;
mod requirements_of_tokens;
mod script;
mod session;
mod shared_sessions;
mod sign_in;
mod storage;
mod token_requests;
mod user_info;
