//! What an answer is that is not the expected JSON.

use serde::Deserialize;
use serde_json::error::Category;

use super::{Answer, Failure, Throttled};

/// So many characters of a body are shown.
const SHOWN_CHARACTERS: usize = 80;

/// Reads a body as JSON.
///
/// # Errors
/// When the body is something else: what its status says ([`by_status`]), or else `unreadable` with what it is (a page
/// for people, cut, empty, of another shape) and its first characters.
pub fn decode<'a, T: Deserialize<'a>>(answer: &'a Answer) -> Result<T, Failure> {
    serde_json::from_str(&answer.body).map_err(|error| {
        by_status(answer).unwrap_or_else(|| Failure::Unreadable(what_it_is(&answer.body, &error)))
    })
}

/// What the status of an answer says when its body says nothing better: `refused` for 401, 403 and 451, `throttled`
/// for 418 and 429, `unavailable` for 408 and from 500 on, `unreadable` for any other but 2xx.
pub fn by_status(answer: &Answer) -> Option<Failure> {
    let sentence = || format!("status {}: {}", answer.status, shown(&answer.body));
    match answer.status {
        200..=299 => None,
        401 | 403 | 451 => Some(Failure::Refused(sentence())),
        418 | 429 => Some(throttled(None, sentence())),
        408 | 500.. => Some(Failure::Unavailable(sentence())),
        _ => Some(Failure::Unreadable(sentence())),
    }
}

/// Too many requests, with the time (in milliseconds since 1970) until which nothing may be asked, where it is known.
pub fn throttled(until: Option<i64>, detail: impl Into<String>) -> Failure {
    Failure::Throttled(Throttled { until, detail: detail.into() })
}

fn what_it_is(body: &str, error: &serde_json::Error) -> String {
    let start = body.trim_start();
    if start.is_empty() {
        return "the body is empty".to_owned();
    }
    let what = match error.classify() {
        _ if start.starts_with('<') => "a page for people instead of JSON".to_owned(),
        Category::Eof => format!("JSON that is cut after {} bytes", body.len()),
        Category::Data => format!("JSON of another shape ({error})"),
        Category::Syntax | Category::Io => format!("no JSON ({error})"),
    };
    format!("{what}: {}", shown(start))
}

/// The first characters of a body on one line.
fn shown(body: &str) -> String {
    let mut characters = body.trim().chars();
    let printable = |character: char| if character.is_control() { ' ' } else { character };
    let start: String = characters.by_ref().take(SHOWN_CHARACTERS).map(printable).collect();
    format!("`{start}{}`", if characters.next().is_some() { "…" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::super::testing::answer;
    use super::*;

    fn failure(status: u16, body: &str) -> Failure {
        decode::<Vec<i64>>(&answer(status, body)).unwrap_err()
    }

    fn unreadable(body: &str) -> String {
        match failure(200, body) {
            Failure::Unreadable(sentence) => sentence,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn json_is_read() {
        assert_eq!(decode::<Vec<i64>>(&answer(200, " [1, 2]\n")), Ok(vec![1, 2]));
    }

    #[test]
    fn what_a_body_is_instead_is_said() {
        assert_eq!(
            unreadable("\n<!DOCTYPE html>\n<html>"),
            "a page for people instead of JSON: `<!DOCTYPE html> <html>`"
        );
        assert_eq!(unreadable("[1, 2"), "JSON that is cut after 5 bytes: `[1, 2`");
        assert_eq!(unreadable(" "), "the body is empty");
        assert!(unreadable("{\"a\": 1}").starts_with("JSON of another shape (invalid type: map, expected"));
        assert!(unreadable("oops").starts_with("no JSON (expected value at line 1 column 1): `oops`"));
        let long = unreadable(&"é".repeat(200));
        assert!(long.ends_with(&format!("`{}…`", "é".repeat(80))), "{long}");
    }

    #[test]
    fn a_status_says_what_its_body_does_not() {
        let page = "<html>Just a moment…</html>";
        assert!(
            matches!(failure(403, page), Failure::Refused(text) if text.starts_with("status 403: `<html>"))
        );
        assert!(matches!(failure(451, page), Failure::Refused(_)));
        assert!(matches!(failure(429, page), Failure::Throttled(Throttled { until: None, .. })));
        assert!(matches!(failure(418, ""), Failure::Throttled(_)));
        assert!(matches!(failure(502, page), Failure::Unavailable(_)));
        assert!(matches!(failure(408, page), Failure::Unavailable(_)));
        assert!(matches!(failure(404, page), Failure::Unreadable(_)));
        assert!(matches!(failure(302, ""), Failure::Unreadable(_)));
    }
}
