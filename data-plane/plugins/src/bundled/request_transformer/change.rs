//! One kind of place in a request, and what changes there: removed, renamed, replaced, added, appended,
//! in this order.

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Map, Value, json};
use shared::schema::FieldErrors;
use shared::types::patterns::decode_unreserved;

use super::RequestTransformerFilter;
use super::template::{Facts, Template};
use crate::body::{self, Form, LARGEST, MediaType, Multipart};
use crate::config::pairs::split;
use crate::credentials::arguments::Arguments;
use crate::exchange::{BodyError, Exchange, Parsing};
use crate::raw_text::{self, to_bytes};

/// Why a request cannot be changed as configured.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// Its body is larger than what is looked into.
    TooLarge,
    /// Its body ends early.
    Broken,
    /// A template gives no value for it.
    Template(String),
    /// It makes a path that leads out of where the template stands.
    Climbs,
}

/// What changes in one place.
#[derive(Debug, Default)]
pub(super) struct Changes {
    remove: Vec<String>,
    rename: Vec<(String, Template)>,
    replace: Vec<(String, Template)>,
    add: Vec<(String, Template)>,
    append: Vec<(String, Template)>,
}

impl Changes {
    /// Reads the five lists of `place`.
    pub(super) fn compile(
        [remove, rename, replace, add, append]: [&[String]; 5],
        place: &'static str,
        errors: &mut FieldErrors,
    ) -> Self {
        let mut pairs = |list: &[String], name: &str| {
            let mut pairs = Vec::new();
            let mut wrong = Map::new();
            for (number, entry) in list.iter().enumerate() {
                let (key, value) = split(entry);
                match Template::compile(value) {
                    Ok(template) => pairs.push((key.to_owned(), template)),
                    Err(message) => _ = wrong.insert((number + 1).to_string(), json!(message)),
                }
            }
            if !wrong.is_empty() {
                errors.put(&[name, place], Value::Object(wrong));
            }
            pairs
        };
        Self {
            remove: remove
                .iter()
                .map(|entry| split(entry).0.to_owned())
                .collect(),
            rename: pairs(rename, "rename"),
            replace: pairs(replace, "replace"),
            add: pairs(add, "add"),
            append: pairs(append, "append"),
        }
    }

    fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.pairs().next().is_none()
    }

    fn pairs(&self) -> impl Iterator<Item = &(String, Template)> {
        let lists = [&self.rename, &self.replace, &self.add, &self.append];
        lists.into_iter().flatten()
    }

    fn is_constant(&self) -> bool {
        self.pairs().all(|(_, template)| template.is_constant())
    }
}

impl RequestTransformerFilter {
    pub(super) async fn transform(&self, exchange: &mut Exchange<'_>) -> Result<(), Failure> {
        let constant = [&self.headers, &self.query, &self.body]
            .into_iter()
            .all(Changes::is_constant)
            && self.uri.as_ref().is_none_or(Template::is_constant);
        let facts = if constant {
            Facts::default()
        } else {
            Facts::of(exchange)
        };
        if let Some(uri) = &self.uri {
            let path = render(uri, &facts)?;
            if !path.starts_with('/') {
                return Err(Failure::Template(
                    "what 'replace.uri' gives does not begin with '/'".to_owned(),
                ));
            }
            let path = escaped(&path);
            if !uri.is_constant() && climbs(&path) {
                return Err(Failure::Climbs);
            }
            exchange.upstream.path = Some(path);
        }
        if let Some(method) = &self.method {
            self.change_method(method, exchange).await?;
        }
        if !self.headers.is_empty() {
            let host = change_headers(&self.headers, &mut exchange.request.headers, &facts)?;
            if host.is_some() {
                exchange.upstream.host = host;
            }
        }
        if !self.body.is_empty() {
            self.change_body(exchange, &facts).await?;
        }
        if !self.query.is_empty() {
            let mut query = Arguments::of(&exchange.request.uri);
            change_arguments(&self.query, &mut query, &facts)?;
            query.write(&mut exchange.request.uri);
        }
        Ok(())
    }

    /// A form that is sent with a method without a body becomes arguments.
    async fn change_method(
        &self,
        method: &Method,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), Failure> {
        exchange.request.method = method.clone();
        let bodiless = matches!(*method, Method::GET | Method::HEAD | Method::TRACE);
        if !bodiless || MediaType::of(&exchange.request.headers) != Some(MediaType::Form) {
            return Ok(());
        }
        let body = read(exchange, Parsing::Form).await?;
        let mut query = Arguments::of(&exchange.request.uri);
        query.extend(Arguments::parse_bytes(&body));
        query.write(&mut exchange.request.uri);
        Ok(())
    }

    async fn change_body(&self, exchange: &mut Exchange<'_>, facts: &Facts) -> Result<(), Failure> {
        let headers = &exchange.request.headers;
        let Some(media_type) = MediaType::of(headers) else {
            return Ok(());
        };
        let bytes = read(exchange, media_type.into()).await?;
        let parsed = if bytes.is_empty() {
            match media_type {
                MediaType::Json => Some(Form::Json(Map::new())),
                MediaType::Form => Some(Form::Arguments(Arguments::default())),
                MediaType::Multipart => None,
            }
        } else {
            body::parse(media_type, &exchange.request.headers, &bytes)
        };
        let changes = &self.body;
        let form = match parsed {
            Some(Form::Arguments(mut arguments)) => {
                change_arguments(changes, &mut arguments, facts)?;
                Form::Arguments(arguments)
            }
            Some(Form::Json(mut map)) => {
                change_json(changes, &mut map, facts)?;
                Form::Json(map)
            }
            Some(Form::Multipart(mut parts)) => {
                change_parts(changes, &mut parts, facts)?;
                Form::Multipart(parts)
            }
            // What cannot be read is not changed (Kong 3.9).
            Some(Form::Opaque) | None => return Ok(()),
        };
        if let Some(changed) = form.encode() {
            exchange.upstream.body = Some(Bytes::from(changed));
        }
        Ok(())
    }
}

/// The value of a template for a request.
fn render(template: &Template, facts: &Facts) -> Result<String, Failure> {
    template.render(facts).map_err(Failure::Template)
}

/// The same for where only UTF-8 may stand.
fn shown(template: &Template, facts: &Facts) -> Result<String, Failure> {
    render(template, facts).map(|text| raw_text::shown(&text))
}

async fn read(exchange: &mut Exchange<'_>, parsing: Parsing) -> Result<Bytes, Failure> {
    if let Some(bytes) = &exchange.upstream.body {
        return Ok(bytes.clone());
    }
    exchange
        .body
        .read(LARGEST, parsing)
        .await
        .map_err(|error| match error {
            BodyError::TooLarge(_) => Failure::TooLarge,
            BodyError::Broken => Failure::Broken,
        })
}

/// Whether `path` holds dot segments (RFC 3986 §3.3), also encoded ones.
fn climbs(path: &str) -> bool {
    let decoded = decode_unreserved(path);
    decoded
        .split('/')
        .any(|segment| matches!(segment, "." | ".."))
}

/// Percent-encodes what may not stand in a path (RFC 3986 §3.3), a `%` that begins no triplet among it.
fn escaped(path: &str) -> String {
    use std::fmt::Write as _;
    let path = to_bytes(path);
    let mut text = String::with_capacity(path.len());
    for (place, &byte) in path.iter().enumerate() {
        let stays = if byte == b'%' {
            let digits = path.get(place + 1..place + 3);
            digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        } else {
            byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'#' | b'?' | b'\\')
        };
        if stays {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// Changes header fields, and answers the `Host` if it is replaced.
fn change_headers(
    changes: &Changes,
    headers: &mut HeaderMap,
    facts: &Facts,
) -> Result<Option<HeaderValue>, Failure> {
    let name = |text: &str| {
        HeaderName::try_from(text)
            .ok()
            .filter(|name| !is_framing(name))
    };
    let value = |template: &Template| {
        let text = render(template, facts)?;
        Ok(HeaderValue::from_bytes(&to_bytes(&text)).ok())
    };
    for name in changes.remove.iter().filter_map(|text| name(text)) {
        headers.remove(name);
    }
    // It is not among what Kong renames; but what is renamed to it is the server's.
    let mut host = None;
    for (old, new) in &changes.rename {
        if let (Some(old), Some(new)) = (name(old), name(&render(new, facts)?))
            && old != new
            && old != HOST
        {
            if new == HOST {
                host = headers.remove(&old).or(host);
                continue;
            }
            let values: Vec<HeaderValue> = headers.get_all(&old).iter().cloned().collect();
            if !values.is_empty() {
                headers.remove(&old);
                headers.remove(&new);
                for value in values {
                    headers.append(new.clone(), value);
                }
            }
        }
    }
    for (key, template) in &changes.replace {
        match (name(key), value(template)?) {
            (Some(HOST), Some(value)) => host = Some(value),
            (Some(name), Some(value)) if headers.contains_key(&name) => {
                headers.insert(name, value);
            }
            _ => {}
        }
    }
    for (key, template) in &changes.add {
        if let (Some(name), Some(value)) = (name(key), value(template)?)
            && name != HOST
            && !headers.contains_key(&name)
        {
            headers.insert(name, value);
        }
    }
    for (key, template) in &changes.append {
        if let (Some(name), Some(value)) = (name(key), value(template)?)
            && name != HOST
        {
            headers.append(name, value);
        }
    }
    Ok(host)
}

/// Whether a field says where a message ends, or belongs to one connection: no filter may say that.
fn is_framing(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "content-length" | "transfer-encoding" | "connection" | "upgrade" | "te" | "trailer"
    )
}

fn change_arguments(
    changes: &Changes,
    arguments: &mut Arguments,
    facts: &Facts,
) -> Result<(), Failure> {
    for name in &changes.remove {
        arguments.remove(name);
    }
    for (old, new) in &changes.rename {
        arguments.rename(old, &render(new, facts)?);
    }
    for (name, template) in &changes.replace {
        if arguments.contains(name) {
            arguments.set(name, to_bytes(&render(template, facts)?));
        }
    }
    for (name, template) in &changes.add {
        if !arguments.contains(name) {
            arguments.push(name, to_bytes(&render(template, facts)?));
        }
    }
    for (name, template) in &changes.append {
        arguments.push(name, to_bytes(&render(template, facts)?));
    }
    Ok(())
}

fn change_json(
    changes: &Changes,
    map: &mut Map<String, Value>,
    facts: &Facts,
) -> Result<(), Failure> {
    for name in &changes.remove {
        map.shift_remove(name);
    }
    for (old, new) in &changes.rename {
        if let Some(value) = map.shift_remove(old) {
            map.insert(shown(new, facts)?, value);
        }
    }
    for (name, template) in &changes.replace {
        if let Some(kept) = map.get_mut(name) {
            *kept = json!(shown(template, facts)?);
        }
    }
    for (name, template) in &changes.add {
        if !map.contains_key(name) {
            map.insert(name.clone(), json!(shown(template, facts)?));
        }
    }
    for (name, template) in &changes.append {
        let value = json!(shown(template, facts)?);
        match map.get_mut(name) {
            Some(Value::Array(list)) => list.push(value),
            Some(text @ Value::String(_)) => *text = json!([text.take(), value]),
            _ => _ = map.insert(name.clone(), json!([value])),
        }
    }
    Ok(())
}

fn change_parts(changes: &Changes, parts: &mut Multipart, facts: &Facts) -> Result<(), Failure> {
    for (old, new) in &changes.rename {
        parts.rename(old, &render(new, facts)?);
    }
    for name in &changes.remove {
        parts.remove(name);
    }
    for (name, template) in &changes.replace {
        if parts.remove(name) {
            parts.push(name, to_bytes(&render(template, facts)?));
        }
    }
    for (name, template) in &changes.add {
        if !parts.contains(name) {
            parts.push(name, to_bytes(&render(template, facts)?));
        }
    }
    Ok(())
}
