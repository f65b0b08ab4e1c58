//! Messages about Kong's plugins that do not exist here.

/// Why there is no plugin of this name: in Kong's words, or, of one that comes with Kong, what does its work here.
pub fn absence(name: &str) -> String {
    let instead = match name {
        "oauth2" => {
            "data planes issue no tokens; have an OpenID provider issue them, and check them with 'openid-connect'"
        }
        "pre-function" | "post-function" => {
            "no Lua runs here; 'request-transformer', 'response-transformer', 'request-termination' and \
             'custom_fields_by_lua' of the log plugins do much of what it is used for"
        }
        "acme" => "have a client of ACME write what it gets to /certificates",
        "aws-lambda" | "azure-functions" => "make a service of the function's URL",
        name if name.starts_with("ai-") => "make a service of the model's API",
        _ => {
            return format!(
                "plugin '{name}' not enabled; add it to the 'plugins' configuration property"
            );
        }
    };
    format!("plugin '{name}' is not supported: {instead}")
}
