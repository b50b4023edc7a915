//! What a failure of the server means: whose fault it is, and whether trying again helps.

use std::error::Error as _;

use tokio_postgres::Error as ServerError;

/// What the server answers.
pub type Answer<T> = std::result::Result<T, ServerError>;

/// What a failure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The row, or one of the rows; why it can never be stored, as a reason of a dead letter.
    Row(&'static str),
    /// A unique index has the key of one of the rows.
    Unique,
    /// Tables or columns are not what the statements say.
    Schema,
    /// User, password, certificate, privilege, database: an operator must mend it.
    Refused,
    /// What is gone when it is tried again later, or a connection that is gone.
    Passing,
    /// None of these.
    Other,
}

/// The class of a failure.
pub fn class(error: &ServerError) -> Class {
    match error.code() {
        Some(state) => class_of_state(state.code()),
        None if is_refused_before_login(error) => Class::Refused,
        None => Class::Passing,
    }
}

/// By SQLSTATE, <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn class_of_state(state: &str) -> Class {
    match state {
        "23505" => Class::Unique,
        "23502" => Class::Row("missing"),
        "22001" => Class::Row("too_long"),
        "22003" | "22008" => Class::Row("out_of_range"),
        // TimescaleDB says so of an insert that would unpack too many rows of compressed chunks; fewer rows at once
        // unpack fewer.
        "53400" => Class::Row("late_compressed"),
        // An index takes no entry so long.
        "54000" => Class::Row("too_long"),
        // 21000: one statement meets a row twice, which is said of keys that the database takes for equal; 44000: a
        // view's condition; P0001: a trigger that raises.
        "21000" | "44000" | "P0001" => Class::Row("constraint"),
        "3D000" | "42501" => Class::Refused,
        // 0A000: what a prepared statement gives is no longer of the same types.
        "0A000" => Class::Schema,
        // XX000 also stands for rows that two statements have changed at once.
        "XX000" => Class::Passing,
        _ => match state.get(..2) {
            Some("22") => Class::Row("value_refused"),
            Some("23") => Class::Row("constraint"),
            Some("28") => Class::Refused,
            Some("3F" | "42") => Class::Schema,
            Some("08" | "25" | "40" | "53" | "55" | "57" | "58") => Class::Passing,
            _ => Class::Other,
        },
    }
}

/// Whether the other side was reached, and one of the two did not want the other.
fn is_refused_before_login(error: &ServerError) -> bool {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if inner.downcast_ref::<rustls::Error>().is_some_and(|error| {
            matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
        }) {
            return true;
        }
        cause = match inner.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => inner.source(),
        };
    }
    // The kind of an error is not public; these are what its sentences begin with.
    let text = error.to_string();
    let refused = ["authentication error", "invalid configuration"];
    refused.iter().any(|start| text.starts_with(start)) || reason(error).contains("does not support TLS")
}

/// The failure in the server's own words, without its details: they may have values of rows in them.
pub fn reason(error: &ServerError) -> String {
    if let Some(failure) = error.as_db_error() {
        return format!("{} ({})", failure.message(), failure.code().code());
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    text
}

/// The failure with its details, for the dead letter of the row that they are about.
pub fn detail(error: &ServerError) -> String {
    match error.as_db_error() {
        Some(failure) => match failure.detail() {
            Some(detail) => format!("{}: {detail}", failure.message()),
            None => failure.message().to_owned(),
        },
        None => reason(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_classes() {
        let classes = [
            ("23505", Class::Unique),
            ("23514", Class::Row("constraint")),
            ("23502", Class::Row("missing")),
            ("22021", Class::Row("value_refused")),
            ("22003", Class::Row("out_of_range")),
            ("53400", Class::Row("late_compressed")),
            ("42P01", Class::Schema),
            ("42703", Class::Schema),
            ("42P10", Class::Schema),
            ("0A000", Class::Schema),
            ("42501", Class::Refused),
            ("28P01", Class::Refused),
            ("3D000", Class::Refused),
            ("57P01", Class::Passing),
            ("57014", Class::Passing),
            ("40001", Class::Passing),
            ("40P01", Class::Passing),
            ("55P03", Class::Passing),
            ("53100", Class::Passing),
            ("53300", Class::Passing),
            ("25006", Class::Passing),
            ("08006", Class::Passing),
            ("F0000", Class::Other),
        ];
        for (state, class) in classes {
            assert_eq!(class_of_state(state), class, "{state}");
        }
    }
}
