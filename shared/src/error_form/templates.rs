//! Bodies of errors as an operator writes them (Kong 3.9, `error_template_html` and its siblings).

use super::{ErrorForm, escaped, json_text};

/// Where the message, and after it the request's id, stand in a template.
const PLACE: &str = "%s";

/// The templates that stand in place of the own bodies.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ErrorTemplates {
    json: Option<Template>,
    html: Option<Template>,
    plain: Option<Template>,
    xml: Option<Template>,
}

/// No template at all.
pub static NO_TEMPLATES: ErrorTemplates = ErrorTemplates {
    json: None,
    html: None,
    plain: None,
    xml: None,
};

/// A text with a place for the message, and perhaps one for the request's id.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Template {
    before: String,
    between: String,
    /// What follows the request's id, if that has a place.
    after: Option<String>,
}

impl std::str::FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(PLACE).map(|part| part.replace("%%", "%"));
        let wrong = || {
            format!(
                "expected {PLACE} once for the message, or twice: then for the request's id too"
            )
        };
        let before = parts.next().ok_or_else(wrong)?;
        let between = parts.next().ok_or_else(wrong)?;
        let after = parts.next();
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self {
            before,
            between,
            after,
        })
    }
}

impl Template {
    fn render(&self, message: &str, request_id: &str) -> String {
        let mut text = format!("{}{message}{}", self.before, self.between);
        if let Some(after) = &self.after {
            text.push_str(request_id);
            text.push_str(after);
        }
        text
    }
}

impl ErrorTemplates {
    /// Uses `template` for `form`; gRPC has no body to write.
    pub fn set(&mut self, form: ErrorForm, template: Template) {
        let place = match form {
            ErrorForm::Json => &mut self.json,
            ErrorForm::Html => &mut self.html,
            ErrorForm::Plain => &mut self.plain,
            ErrorForm::Xml => &mut self.xml,
            ErrorForm::Grpc => return,
        };
        *place = Some(template);
    }

    /// The body of an error in `form`. `message` may be anything that an operator has written.
    pub fn body(&self, form: ErrorForm, message: &str, request_id: &str) -> String {
        let template = match form {
            ErrorForm::Json => &self.json,
            ErrorForm::Html => &self.html,
            ErrorForm::Plain => &self.plain,
            ErrorForm::Xml => &self.xml,
            ErrorForm::Grpc => &None,
        };
        let Some(template) = template else {
            return form.body(message, request_id);
        };
        match form {
            ErrorForm::Json => template.render(&json_text(message), request_id),
            ErrorForm::Html | ErrorForm::Xml => template.render(&escaped(message), request_id),
            ErrorForm::Plain | ErrorForm::Grpc => template.render(message, request_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(form: ErrorForm, template: &str) -> String {
        let mut templates = ErrorTemplates::default();
        templates.set(form, template.parse().unwrap());
        templates.body(form, "a \"<b>\" %s", "1f")
    }

    #[test]
    fn a_template_stands_in_place_of_the_own_body() {
        assert_eq!(
            body(ErrorForm::Json, "{\"custom\": \"%s\", \"id\": \"%s\"}"),
            "{\"custom\": \"a \\\"<b>\\\" %s\", \"id\": \"1f\"}"
        );
        assert_eq!(
            body(ErrorForm::Html, "<p width=100%%>%s</p>"),
            "<p width=100%>a \"&lt;b&gt;\" %s</p>"
        );
        assert_eq!(body(ErrorForm::Plain, "%s (%s)\n"), "a \"<b>\" %s (1f)\n");
        let own = NO_TEMPLATES.body(ErrorForm::Plain, "a", "1f");
        assert_eq!(own, ErrorForm::Plain.body("a", "1f"));
    }

    #[test]
    fn a_template_has_a_place_for_the_message() {
        for text in ["", "no place", "%s %s %s"] {
            assert!(text.parse::<Template>().is_err(), "{text}");
        }
    }
}
