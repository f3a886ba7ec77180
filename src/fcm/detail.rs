//! What an application is told in words: on one line, without a token. Who passes it on cuts it.

use super::fault::Fault;
use super::target::Target;

/// A run of so many characters of a token's alphabet is taken for one: field names and words are shorter.
const TOKEN_LIKE: usize = 40;
/// How far into a page its title is looked for, in bytes.
const TITLE_WITHIN: usize = 4096;
const HIDDEN: &str = "<token>";

/// The words of a fault, if it has any.
pub(super) fn of_fault(fault: &Fault, target: &Target) -> Option<String> {
    let mut words = fault.message.clone();
    for violation in &fault.violations {
        words.push_str(&format!("; {}: {}", violation.field, violation.description));
    }
    for quota in fault.quotas.iter().filter(|quota| !quota.is_empty()) {
        words.push_str(&format!("; {quota}"));
    }
    for reason in fault.reason.iter().chain(&fault.apns) {
        words.push_str(&format!(" ({reason})"));
    }
    Some(shown(&words, target)).filter(|words| !words.is_empty())
}

/// The words of a body that is no fault of FCM: the title of a page, or that there is none.
pub(super) fn of_body(status: u16, content_type: Option<&str>, body: &[u8], target: &Target) -> String {
    let start = String::from_utf8_lossy(&body[..body.len().min(TITLE_WITHIN)]);
    let html = content_type.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/html"))
        || start.trim_start().starts_with('<');
    let words = match (html, title(&start)) {
        (true, Some(title)) => format!("HTTP status {status}, a page: {title}"),
        (true, None) => format!("HTTP status {status}, a page"),
        (false, _) => format!("HTTP status {status} without an explanation"),
    };
    shown(&words, target)
}

/// `text` on one line, without what is or looks like a token.
fn shown(text: &str, target: &Target) -> String {
    let known = if target.kind().is_device() { text.replace(target.reveal(), HIDDEN) } else { text.to_owned() };
    let line: String = known.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    without_long_runs(&line).trim().to_owned()
}

fn without_long_runs(text: &str) -> String {
    let ends_token = |c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | ':');
    let mut out = String::with_capacity(text.len());
    for part in text.split_inclusive(ends_token) {
        let run = part.trim_end_matches(ends_token);
        out.push_str(if run.len() >= TOKEN_LIKE { HIDDEN } else { run });
        out.push_str(&part[run.len()..]);
    }
    out
}

fn title(page: &str) -> Option<&str> {
    let lower = page.to_ascii_lowercase();
    let start = lower.find("<title>")? + "<title>".len();
    let end = start + lower[start..].find('<')?;
    Some(page[start..end].trim()).filter(|title| !title.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target() -> Target {
        Target::named("token", "short-token").unwrap()
    }

    #[test]
    fn no_token_is_shown_neither_this_one_nor_another() {
        let other = format!("dEf:APA91b{}", "x".repeat(120));
        let text = format!("Invalid value \"short-token\",\n not {other}!");
        assert_eq!(shown(&text, &target()), "Invalid value \"<token>\",  not <token>!");
    }

    #[test]
    fn a_page_gives_its_title() {
        let page = b"<!DOCTYPE html><html><title>Error 502 (Server Error)!!1</title>";
        assert_eq!(of_body(502, None, page, &target()), "HTTP status 502, a page: Error 502 (Server Error)!!1");
        assert_eq!(of_body(401, Some("Text/HTML; charset=UTF-8"), b"", &target()), "HTTP status 401, a page");
        assert_eq!(of_body(500, None, b"oops", &target()), "HTTP status 500 without an explanation");
    }

    proptest! {
        #[test]
        fn it_is_on_one_line(text: String) {
            let shown = shown(&text, &target());
            prop_assert!(!shown.contains(char::is_control));
        }

        #[test]
        fn any_body_gives_words(status: u16, body: Vec<u8>) {
            prop_assert!(!of_body(status, None, &body, &target()).is_empty());
        }
    }
}
