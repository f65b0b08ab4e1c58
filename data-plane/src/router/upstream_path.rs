//! The path that goes upstream, from the service's path and the request's (Kong `path_handling`).

use shared::entity::PathHandling;

/// Room for a query behind the path.
const QUERY: usize = 64;

/// Joins `service` and `request`, both absolute, without the first `strip` bytes of the request if a
/// route with `strip_path` has matched them.
pub(crate) fn upstream_path(
    handling: PathHandling,
    service: &str,
    request: &str,
    strip: Option<usize>,
) -> String {
    let service = if service.is_empty() { "/" } else { service };
    let rest = strip.map(|length| without_dots(request.get(length..).unwrap_or_default()));
    match (handling, rest) {
        (PathHandling::V0, None) => match request {
            "/" => service.to_owned(),
            _ => glue(service, request),
        },
        (PathHandling::V0, Some("")) => {
            let trimmed = service.trim_end_matches('/');
            if trimmed.is_empty() {
                "/".to_owned()
            } else if request.len() > 1 && request.ends_with('/')
                || request == "/" && service.ends_with('/')
            {
                format!("{trimmed}/")
            } else {
                trimmed.to_owned()
            }
        }
        (PathHandling::V0, Some(rest)) => glue(service, rest),
        (PathHandling::V1, None) => format!("{service}{}", request.trim_start_matches('/')),
        (PathHandling::V1, Some(rest)) => match rest.strip_prefix('/') {
            Some(inner) if service.ends_with('/') => format!("{service}{inner}"),
            _ => format!("{service}{rest}"),
        },
    }
}

/// With exactly one slash at the seam.
fn glue(service: &str, rest: &str) -> String {
    let (left, right) = (service.trim_end_matches('/'), rest.trim_start_matches('/'));
    let mut path = String::with_capacity(left.len() + 1 + right.len() + QUERY);
    path.push_str(left);
    path.push('/');
    path.push_str(right);
    path
}

/// A prefix that ends inside a segment (`/api` of `/api../x`) must not leave a way up.
fn without_dots(mut rest: &str) -> &str {
    loop {
        match rest {
            "." | ".." => return "",
            _ => match rest.strip_prefix("./").or_else(|| rest.strip_prefix("../")) {
                Some(shorter) => rest = shorter,
                None => return rest,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Service path, route path, request path, and what v0 and v1 make of them, stripped and kept.
    const TABLE: &[[&str; 7]] = &[
        ["/", "/r", "/r", "/", "/r", "/", "/r"],
        ["/", "/r", "/r/", "/", "/r/", "/", "/r/"],
        ["/", "/r", "/r/x", "/x", "/r/x", "/x", "/r/x"],
        ["/", "/r/", "/r/x", "/x", "/r/x", "/x", "/r/x"],
        ["/s", "/", "/", "/s", "/s", "/s", "/s"],
        ["/s", "/", "/x", "/s/x", "/s/x", "/sx", "/sx"],
        ["/s", "/r", "/r", "/s", "/s/r", "/s", "/sr"],
        ["/s", "/r", "/r/", "/s/", "/s/r/", "/s/", "/sr/"],
        ["/s", "/r", "/r/x", "/s/x", "/s/r/x", "/s/x", "/sr/x"],
        ["/s", "/r", "/rx", "/s/x", "/s/rx", "/sx", "/srx"],
        ["/s", "/r/", "/r/", "/s/", "/s/r/", "/s", "/sr/"],
        ["/s", "/r/", "/r/x", "/s/x", "/s/r/x", "/sx", "/sr/x"],
        ["/s/", "/", "/", "/s/", "/s/", "/s/", "/s/"],
        ["/s/", "/", "/x", "/s/x", "/s/x", "/s/x", "/s/x"],
        ["/s/", "/r", "/r", "/s", "/s/r", "/s/", "/s/r"],
        ["/s/", "/r", "/r/", "/s/", "/s/r/", "/s/", "/s/r/"],
        ["/s/", "/r", "/r/x", "/s/x", "/s/r/x", "/s/x", "/s/r/x"],
        ["/s/", "/r/", "/r/", "/s/", "/s/r/", "/s/", "/s/r/"],
        ["/s/", "/r/", "/r/x", "/s/x", "/s/r/x", "/s/x", "/s/r/x"],
    ];

    #[test]
    fn every_row_of_kongs_table() {
        for [
            service,
            route,
            request,
            v0_strip,
            v0_keep,
            v1_strip,
            v1_keep,
        ] in TABLE
        {
            let path = |handling, strip| upstream_path(handling, service, request, strip);
            let row = format!("{service} {route} {request}");
            assert_eq!(
                path(PathHandling::V0, Some(route.len())),
                *v0_strip,
                "v0 strip {row}"
            );
            assert_eq!(path(PathHandling::V0, None), *v0_keep, "v0 keep {row}");
            assert_eq!(
                path(PathHandling::V1, Some(route.len())),
                *v1_strip,
                "v1 strip {row}"
            );
            assert_eq!(path(PathHandling::V1, None), *v1_keep, "v1 keep {row}");
        }
    }

    #[test]
    fn a_prefix_inside_a_segment_leaves_no_way_up() {
        for request in ["/api../secret", "/api./secret", "/api../../secret"] {
            let path = upstream_path(PathHandling::V0, "/s", request, Some(4));
            assert!(path == "/s/secret", "{request} {path}");
        }
    }
}
