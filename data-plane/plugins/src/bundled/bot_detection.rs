//! `bot-detection`: keeps well-known crawlers away (Kong 3.9, bot-detection).

use std::sync::LazyLock;

use http::StatusCode;
use http::header::USER_AGENT;
use regex::{Regex, RegexSet};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::schema::FieldErrors;
use shared::types::patterns;

use crate::answer;
use crate::exchange::Exchange;
use crate::filter::{Filter, Flow, Instance, Plugin, Scope};
use crate::glance::{self, Glance, Looks, Pass};
use crate::host::Host;

/// Names that crawlers, fetchers and monitors give themselves in `User-Agent`.
const KNOWN: [&str; 8] = [
    // `NameBot/1.0`, `name-spider/2`, `crawler`, as most call themselves.
    r"(?i)[a-z0-9_.-]*(?:bot|spider|crawl(?:er)?|archiver|indexer|scraper)\b(?:[-/ ;)+:@]|\d|$)",
    r"facebookexternalhit/|facebookplatform/|Google.*/\+/web/snippet|Mediapartners-Google|AdsBot-Google|AppEngine-Google|Google SketchUp",
    r"(?i)bingpreview|msnbot|slurp|baiduspider|yandex\w+|duckduckgo|ia_archiver|heritrix|nutch|larbin|scrapy|htdig|gsa-crawler|grub-client",
    r"Pingdom|HttpMonitor|TLSProber|WinHTTP|Catchpoint|Netvibes|NewsGator|YottaaMonitor|GomezAgent|MSIECrawler",
    r"Google-HTTP-Java-Client|Apache-HttpClient|http%20client|Python-urllib|Python-webchecker|JNLP/",
    r"WhatsApp|Slackbot|Slack-ImgProxy|URL2PNG|ThumbShots|WebThumb|SimplePie|SimpleRSS|Feed Seeker|Feedfetcher|FeedBurner",
    r"WordPress/|Web-sniffer|WhatWeb|Xenu Link Sleuth|Checklinks|LinkAider|SiteCon|SEOstats|Wotbox|WIRE/|wminer/",
    r"BoardReader|DataparkSearch|PathDefender|PostPost|Steeler/|WebCrunch|WebZIP|YahooSeeker|envolk|sproose|findlinks|yacy",
];

static BOTS: LazyLock<RegexSet> =
    LazyLock::new(|| RegexSet::new(KNOWN).expect("the built-in expressions are well-formed"));

/// Configuration of `bot-detection`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct BotDetection {
    /// Regular expressions of the `User-Agent` of clients that may pass.
    #[serde(default)]
    pub allow: Vec<String>,

    /// Regular expressions of the `User-Agent` of further clients that may not pass.
    #[serde(default)]
    pub deny: Vec<String>,
}

impl Plugin for BotDetection {
    const NAME: &'static str = "bot-detection";
    const PRIORITY: u32 = 2500;
    const FORBIDDEN_SCOPES: &'static [Scope] = &[Scope::Consumer];
    const SHORTHANDS: &'static [(&'static str, &'static str)] =
        &[("whitelist", "allow"), ("blacklist", "deny")];
    type Filter = BotDetectionFilter;

    fn refuse(&self, errors: &mut FieldErrors) {
        for (field, texts) in [("allow", &self.allow), ("deny", &self.deny)] {
            for (place, text) in texts.iter().enumerate() {
                if let Err(error) = patterns::check_quantifiers(text) {
                    let message = format!("not a valid regex: {text}: {error}");
                    errors.add(&[field, &(place + 1).to_string()], message);
                }
            }
        }
    }

    fn compile(self, _: &Instance) -> Result<BotDetectionFilter, FieldErrors> {
        let mut errors = FieldErrors::default();
        let mut set = |field: &str, texts: &[String]| {
            let mut wrong = serde_json::Map::new();
            for (place, text) in texts.iter().enumerate() {
                if Regex::new(text).is_err() {
                    let message = format!("not a valid regex: {text}");
                    wrong.insert((place + 1).to_string(), json!(message));
                }
            }
            if !wrong.is_empty() {
                errors
                    .by_field
                    .insert(field.to_owned(), Value::Object(wrong));
            }
            RegexSet::new(texts).unwrap_or_default()
        };
        let filter = BotDetectionFilter {
            allow: set("allow", &self.allow),
            deny: set("deny", &self.deny),
        };
        if errors.is_empty() {
            Ok(filter)
        } else {
            Err(errors)
        }
    }
}

/// Looks at `User-Agent`.
#[derive(Debug)]
pub struct BotDetectionFilter {
    allow: RegexSet,
    deny: RegexSet,
}

impl Filter for BotDetectionFilter {
    fn looks(&self) -> Looks {
        Looks::Sometimes
    }

    fn on_glance(&self, request: &Glance<'_>, _: &mut Pass, _: &impl Host) -> Option<()> {
        match request.fields.value(&USER_AGENT) {
            glance::Value::Missing => Some(()),
            glance::Value::Sole(agent) => self.lets_pass(agent).then_some(()),
            glance::Value::Repeated => None,
        }
    }

    async fn on_request(&self, exchange: &mut Exchange<'_>, _: &impl Host) -> Flow {
        let mut agents = exchange.request.headers.get_all(USER_AGENT).iter();
        let Some(agent) = agents.next() else {
            return Flow::Continue;
        };
        let refuse = |status, text| Flow::Answer(answer::error(status, text, exchange));
        if agents.next().is_some() {
            return refuse(
                StatusCode::BAD_REQUEST,
                "Only one User-Agent header allowed",
            );
        }
        if self.lets_pass(agent.as_bytes()) {
            Flow::Continue
        } else {
            refuse(StatusCode::FORBIDDEN, "Forbidden")
        }
    }
}

impl BotDetectionFilter {
    fn lets_pass(&self, agent: &[u8]) -> bool {
        let agent = String::from_utf8_lossy(agent);
        let agent = agent.trim();
        self.allow.is_match(agent) || !(self.deny.is_match(agent) || BOTS.is_match(agent))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use uuid::Uuid;

    use super::*;
    use crate::testing::{FakeHost, Request, answer_of};

    fn status(config: Value, agents: &[&str]) -> u16 {
        let config: BotDetection = serde_json::from_value(config).unwrap();
        let filter = config.compile(&Instance { id: Uuid::nil() }).unwrap();
        let mut request = Request::get("/");
        for agent in agents {
            let value = HeaderValue::from_str(agent).unwrap();
            request.headers.push((USER_AGENT, value));
        }
        let host = FakeHost::default();
        let status = answer_of(&filter, &host, &request).status;
        assert_eq!(request.glance(&filter, &host).is_some(), status == 200);
        status
    }

    #[test]
    fn crawlers_are_known_and_browsers_are_not_taken_for_them() {
        for bot in [
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "Googlebot/2.1 (+http://www.google.com/bot.html)",
            "facebookexternalhit/1.1",
            "Twitterbot/1.0",
            "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
            "Mozilla/5.0 (compatible; Baiduspider/2.0; +http://www.baidu.com/search/spider.html)",
            "Mozilla/5.0 (compatible; Yahoo! Slurp; http://help.yahoo.com/help/us/ysearch/slurp)",
            "LinkedInBot/1.0",
        ] {
            assert_eq!(status(json!({}), &[bot]), 403, "{bot}");
        }
        for browser in [
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0 Safari/537.36",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 Version/17.4 Mobile/15E148 Safari/604.1",
            "Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0",
            "curl/8.5.0",
            "helloworld",
            "Robotics/1.0",
        ] {
            assert_eq!(status(json!({}), &[browser]), 200, "{browser}");
        }
    }

    #[test]
    fn own_rules_go_before_the_built_in_ones() {
        let bot = "facebookexternalhit/1.1";
        assert_eq!(
            status(json!({"allow": ["facebookexternalhit/1.1"]}), &[bot]),
            200
        );
        assert_eq!(status(json!({"deny": ["^hello"]}), &["helloworld"]), 403);
        assert_eq!(
            status(
                json!({"allow": ["world"], "deny": ["hello"]}),
                &["helloworld"]
            ),
            200
        );
        assert_eq!(status(json!({}), &["a", "b"]), 400);
        assert_eq!(status(json!({}), &[]), 200);
    }

    #[test]
    fn a_possessive_quantifier_is_refused_where_it_is_written() {
        for (field, text, good) in [
            ("deny", "^a*+ab$", false),
            ("allow", "a{2}+", false),
            ("deny", "a*?b+?", true),
        ] {
            let config = json!({ field: ["x", text] });
            let errors = crate::registry::check("bot-detection", &config).err();
            let expected = json!({ "2": format!("not a valid regex: {text}: possessive quantifiers (`*+`, `++`, `?+`, `}}+`) are not supported") });
            let found = errors.map(|errors| errors.by_field[field].clone());
            assert_eq!(found, (!good).then_some(expected), "{text}");
        }
        // What is stored runs on as it did.
        assert_eq!(status(json!({"deny": ["^a*+ab$"]}), &["aaab"]), 403);
    }
}
