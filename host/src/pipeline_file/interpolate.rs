//! Variables and secret files in the values of a pipeline file.
//!
//! `${NAME}`, `${NAME:-default}`, `${NAME:?message}`, `${file:/run/secrets/name}`; `$$` is a dollar. A variable that is
//! not set is read from the file that `NAME_FILE` names, as in images of databases. What they stand for never appears in a
//! message: messages show the text as the file has it.

use std::io::Read;
use std::path::Path;

/// A secret is a password, a token or a certificate; a larger file is a wrong path.
const SECRET_LIMIT_BYTES: u64 = 64 << 10;

/// Where values come from.
pub struct Values<'a> {
    /// The variables of the environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// What the path of `${file:…}` is relative to.
    pub folder: &'a Path,
}

/// The text with its references replaced; `None` when it has none. An error is one sentence.
pub fn interpolate(text: &str, values: &Values<'_>) -> Result<Option<String>, String> {
    if !text.contains("$$") && !text.contains("${") {
        return Ok(None);
    }
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        result.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = after.find('}').ok_or("`${` has no closing `}`; write `$$` where a dollar is meant")?;
            result.push_str(&value(&after[..end], values)?);
            rest = &after[end + 1..];
        } else {
            result.push('$');
        }
    }
    result.push_str(rest);
    Ok(Some(result))
}

/// What the reference between the braces stands for.
fn value(reference: &str, values: &Values<'_>) -> Result<String, String> {
    if let Some(path) = reference.strip_prefix("file:") {
        return secret(&values.folder.join(path)).map_err(|reason| format!("`${{{reference}}}`: {reason}"));
    }
    let name_end = reference.find(':').unwrap_or(reference.len());
    let (name, otherwise) = reference.split_at(name_end);
    if !is_variable_name(name) {
        return Err(format!(
            "`${{{reference}}}` does not name a variable; write `$$` where a dollar is meant"
        ));
    }
    let found = match (values.variable)(name) {
        None => of_file(name, values)?,
        found => found,
    };
    match otherwise.split_at_checked(2) {
        None if otherwise.is_empty() => found.ok_or_else(|| {
            format!("the variable `{name}` is not set; set it, or write `${{{name}:-default}}`")
        }),
        Some((":-", default)) => {
            Ok(found.filter(|value| !value.is_empty()).unwrap_or_else(|| default.into()))
        }
        Some((":?", message)) => {
            found.filter(|value| !value.is_empty()).ok_or_else(|| match message.trim() {
                "" => format!("the variable `{name}` is not set"),
                message => format!("the variable `{name}` is not set: {message}"),
            })
        }
        _ => Err(format!(
            "`${{{reference}}}`: after the name comes `}}`, `:-` with a default or `:?` with a message"
        )),
    }
}

/// The secret in the file that `NAME_FILE` names.
fn of_file(name: &str, values: &Values<'_>) -> Result<Option<String>, String> {
    let variable = format!("{name}_FILE");
    let Some(path) = (values.variable)(&variable).filter(|path| !path.is_empty()) else { return Ok(None) };
    let wrong = |reason| format!("the file `{path}`, which the variable `{variable}` names: {reason}");
    secret(&values.folder.join(&path)).map(Some).map_err(wrong)
}

fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The text of a secret file, without the line end that editors leave.
fn secret(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let size =
        file.take(SECRET_LIMIT_BYTES + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if size as u64 > SECRET_LIMIT_BYTES {
        return Err(format!("the file has more than {SECRET_LIMIT_BYTES} bytes"));
    }
    let stripped = text.strip_suffix('\n').unwrap_or(&text);
    Ok(stripped.strip_suffix('\r').unwrap_or(stripped).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("broker".into()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${HOST}".into()),
            _ => None,
        }
    }

    fn apply(text: &str) -> Result<Option<String>, String> {
        interpolate(text, &Values { variable: &variable, folder: Path::new("/nowhere") })
    }

    #[test]
    fn references_are_replaced_once() {
        for (text, expected) in [
            ("${HOST}", "broker"),
            ("${HOST}:9092", "broker:9092"),
            ("a${HOST}b${HOST}c", "abrokerbbrokerc"),
            ("${NONE:-x:y-z}", "x:y-z"),
            ("${NONE:-}", ""),
            ("${EMPTY:-full}", "full"),
            ("${EMPTY}", ""),
            ("${HOST:?needed}", "broker"),
            ("${NESTED}", "${HOST}"),
            ("$${HOST}", "${HOST}"),
            ("a$$$$b", "a$$b"),
            ("cost $5 $$", "cost $5 $"),
        ] {
            assert_eq!(apply(text), Ok(Some(expected.into())), "{text}");
        }
        assert_eq!(apply("no $reference"), Ok(None));
    }

    #[test]
    fn what_cannot_be_replaced_is_one_sentence() {
        for (text, expected) in [
            ("${NONE}", "the variable `NONE` is not set; set it, or write `${NONE:-default}`"),
            ("${NONE:?ask the operator}", "the variable `NONE` is not set: ask the operator"),
            ("${EMPTY:?}", "the variable `EMPTY` is not set"),
            ("${HOST", "`${` has no closing `}`; write `$$` where a dollar is meant"),
            ("${}", "`${}` does not name a variable; write `$$` where a dollar is meant"),
            ("${1A}", "`${1A}` does not name a variable; write `$$` where a dollar is meant"),
            (
                "${HOST:+x}",
                "`${HOST:+x}`: after the name comes `}`, `:-` with a default or `:?` with a message",
            ),
            (
                "${HOST:é}",
                "`${HOST:é}`: after the name comes `}`, `:-` with a default or `:?` with a message",
            ),
        ] {
            assert_eq!(apply(text), Err(expected.into()), "{text}");
        }
        assert!(apply("${file:missing}").unwrap_err().starts_with("`${file:missing}`: "));
    }

    #[test]
    fn a_variable_that_is_not_set_is_read_from_the_file_of_another() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), "canary\n").unwrap();
        let variable = |name: &str| match name {
            "URL_FILE" | "HOST_FILE" => Some("secret".into()),
            "HOST" => Some("broker".into()),
            "LOST_FILE" => Some("/nowhere/secret".into()),
            "NONE_FILE" => Some(String::new()),
            _ => None,
        };
        let values = Values { variable: &variable, folder: folder.path() };
        let apply = |text: &str| interpolate(text, &values);
        assert_eq!(apply("${URL}, ${URL:-other}"), Ok(Some("canary, canary".into())));
        assert_eq!(apply("${HOST}"), Ok(Some("broker".into())), "a variable that is set counts");
        assert_eq!(apply("${NONE:-default}"), Ok(Some("default".into())));
        let error = apply("${LOST:-default}").unwrap_err();
        let expected = "the file `/nowhere/secret`, which the variable `LOST_FILE` names: ";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn a_secret_file_loses_its_line_end_and_has_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "canary\r\n").unwrap();
        std::fs::write(folder.path().join("large"), vec![b'x'; 70_000]).unwrap();
        let values = Values { variable: &variable, folder: folder.path() };
        assert_eq!(interpolate("a:${file:token}@b", &values), Ok(Some("a:canary@b".into())));
        let error = interpolate("${file:large}", &values).unwrap_err();
        assert_eq!(error, "`${file:large}`: the file has more than 65536 bytes");
    }
}
