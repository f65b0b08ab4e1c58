//! The guide's commands, run as they are written: the few options of curl that the guide uses.

use http::Method;

use crate::{Browser, Reply};

/// Runs a `curl` command line. Line ends after a backslash, quotes, `-i`, `-X`, `--url`, `--data`, `-d`
/// and `-H` mean what they mean to a shell and to curl.
///
/// # Panics
///
/// If the command has another option, or no answer comes.
pub async fn curl(command: &str) -> Reply {
    let words = words(command);
    let mut words = words.iter().map(String::as_str);
    assert_eq!(words.next(), Some("curl"), "{command}");
    let (mut method, mut url, mut data, mut headers) = (None, None, Vec::new(), Vec::new());
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .unwrap_or_else(|| panic!("{word} needs a value"))
        };
        match word {
            "-i" => {}
            "-X" | "--request" => method = Some(value()),
            "--url" => url = Some(value()),
            "-d" | "--data" => data.push(value()),
            "-H" | "--header" => {
                headers.push(value().split_once(": ").expect("a header has a colon"));
            }
            _ if word.starts_with('-') => panic!("unknown option {word}"),
            _ => url = Some(word),
        }
    }
    // Like curl: parts are joined as they are, and make it a form.
    if !data.is_empty() {
        headers.push(("content-type", "application/x-www-form-urlencoded"));
    }
    let method = match method {
        Some(method) => method.parse().expect("a method"),
        None if data.is_empty() => Method::GET,
        None => Method::POST,
    };
    let url = url.unwrap_or_else(|| panic!("no URL in {command}"));
    Browser::new()
        .send(method, url, &headers, data.join("&"))
        .await
}

/// Splits a command line as a shell does, as far as quotes and continued lines go.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut started) = (Vec::new(), String::new(), None, false);
    let mut characters = command.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', None) => match characters.next() {
                Some('\n') | None => {}
                Some(other) => word.push(other),
            },
            ('\'' | '"', None) => (quote, started) = (Some(character), true),
            (_, Some(open)) if character == open => quote = None,
            (_, None) if character.is_whitespace() => {
                if started || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                started = false;
            }
            _ => word.push(character),
        }
    }
    if started || !word.is_empty() {
        words.push(word);
    }
    words
}
