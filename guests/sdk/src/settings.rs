//! Settings: from the JSON of the pipeline file to a rule's own struct.

use schemars::JsonSchema;
use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The settings of a rule that has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

/// A length of time that the pipeline file writes with its unit: `500ms`, `30s`, `5m`, `24h`, `7d`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration {
    ms: i64,
}

impl Duration {
    /// So many milliseconds.
    pub const fn from_ms(ms: i64) -> Duration {
        Duration { ms }
    }

    /// So many seconds.
    pub const fn from_seconds(seconds: i64) -> Duration {
        Duration { ms: seconds * 1_000 }
    }

    /// So many minutes.
    pub const fn from_minutes(minutes: i64) -> Duration {
        Duration { ms: minutes * 60_000 }
    }

    /// So many hours.
    pub const fn from_hours(hours: i64) -> Duration {
        Duration { ms: hours * 3_600_000 }
    }

    /// In milliseconds; never negative when it comes from settings.
    pub const fn ms(self) -> i64 {
        self.ms
    }
}

/// The units, longest first; a duration is written with the first that divides it.
const UNITS: [(&str, i64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl std::str::FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Duration, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start();
        let factor = UNITS
            .iter()
            .find(|(name, _)| *name == unit && digits > 0)
            .map(|(_, factor)| *factor)
            .ok_or_else(|| {
                format!("`{text}` is not a duration: write a whole number and ms, s, m, h or d")
            })?;
        let ms = number.parse::<i64>().ok().and_then(|number| number.checked_mul(factor));
        ms.map(Duration::from_ms).ok_or_else(|| format!("`{text}` is too long"))
    }
}

impl std::fmt::Display for Duration {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match UNITS.iter().find(|(_, factor)| self.ms % factor == 0) {
            Some((unit, factor)) if self.ms != 0 => write!(formatter, "{}{unit}", self.ms / factor),
            _ => write!(formatter, "{}ms", self.ms),
        }
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_str(DurationVisitor)
    }
}

/// A visitor, because `serde_json` then gives the error the position of the text and not that of the end of
/// the settings.
struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a duration such as `5m`")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
        text.parse().map_err(E::custom)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-9]+ *(ms|s|m|h|d)$" })
    }
}

/// Settings from JSON; an error names the setting that it is about.
pub fn parse<S: DeserializeOwned>(json: &str) -> Result<S, String> {
    serde_json::from_str(json).map_err(|error| {
        let path = path_at(json, error.line(), error.column());
        let text = error.to_string();
        let sentence = text.rsplit_once(" at line ").map_or(text.as_str(), |(sentence, _)| sentence);
        if path.is_empty() {
            format!("settings: {sentence}")
        } else {
            format!("setting `{path}`: {sentence}")
        }
    })
}

/// The path of keys (`exchanges.binance.name`, `sources[2]`) that leads to a position which `serde_json` gave
/// for an error: it points behind the last byte that was read.
fn path_at(json: &str, line: usize, column: usize) -> String {
    let before: usize = json.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let end = (before + column).min(json.len());
    let mut path: Vec<Step> = Vec::new();
    let mut text_start = None;
    let mut escaped = false;
    for (position, byte) in json.bytes().enumerate().take(end) {
        match (text_start, byte) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(start), b'"') => {
                text_start = None;
                if let Some(Step::Key { name, is_read: false }) = path.last_mut() {
                    *name = json[start..position].to_owned();
                }
            }
            (Some(_), _) => {}
            (None, b'"') => text_start = Some(position + 1),
            (None, b'{') => path.push(Step::Key { name: String::new(), is_read: false }),
            (None, b'[') => path.push(Step::Index(0)),
            (None, b'}' | b']') => {
                path.pop();
            }
            (None, b':') => set_key_is_read(&mut path, true),
            (None, b',') => match path.last_mut() {
                Some(Step::Index(index)) => *index += 1,
                _ => set_key_is_read(&mut path, false),
            },
            (None, _) => {}
        }
    }
    let mut written = String::new();
    for step in &path {
        match step {
            Step::Key { is_read: false, .. } => break,
            Step::Key { name, .. } if written.is_empty() => written.push_str(name),
            Step::Key { name, .. } => {
                written.push('.');
                written.push_str(name);
            }
            Step::Index(index) => {
                written.push_str(&format!("[{index}]"));
            }
        }
    }
    written
}

/// One level of nesting on the way to a position in JSON.
enum Step {
    /// In an object, at the value of this key once the key is read.
    Key { name: String, is_read: bool },
    /// In an array, at this element.
    Index(usize),
}

fn set_key_is_read(path: &mut [Step], value: bool) {
    if let Some(Step::Key { is_read, .. }) = path.last_mut() {
        *is_read = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        window: Duration,
        #[serde(default)]
        sources: Vec<String>,
        #[serde(default)]
        nested: Option<Nested>,
    }

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Nested {
        factor: f64,
    }

    fn error(json: &str) -> String {
        parse::<Settings>(json).unwrap_err()
    }

    #[test]
    fn durations_are_read_and_written_with_units() {
        for (text, ms) in
            [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("24h", 86_400_000), ("7 d", 604_800_000)]
        {
            assert_eq!(text.parse::<Duration>(), Ok(Duration::from_ms(ms)), "{text}");
        }
        for text in
            ["", "5", "m", "-5m", "5 minutes", "1.5h", "99999999999999999999s", "9223372036854775807d"]
        {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
        assert_eq!(Duration::from_ms(300_000).to_string(), "5m");
        assert_eq!(Duration::from_hours(24).to_string(), "1d");
        assert_eq!(Duration::from_ms(1_500).to_string(), "1500ms");
        assert_eq!(Duration::from_ms(0).to_string(), "0ms");
    }

    #[test]
    fn settings_are_read() {
        let settings = parse::<Settings>(r#"{"window": "24h", "sources": ["a"]}"#).unwrap();
        assert_eq!(settings.window, Duration::from_hours(24));
        assert_eq!(settings.sources, ["a"]);
    }

    #[test]
    fn an_error_names_the_setting() {
        assert_eq!(
            error(r#"{"window": "24"}"#),
            "setting `window`: `24` is not a duration: write a whole number and ms, s, m, h or d"
        );
        assert_eq!(
            error(r#"{"window": "1h", "sources": ["a", 2]}"#),
            "setting `sources[1]`: invalid type: integer `2`, expected a string"
        );
        assert_eq!(
            error("{\"window\": \"1h\",\n \"nested\": {\"factor\": \"x\"}}"),
            "setting `nested.factor`: invalid type: string \"x\", expected f64"
        );
        assert_eq!(
            error(r#"{"window": "1h", "nested": {"faktor": 1}}"#),
            "setting `nested`: unknown field `faktor`, expected `factor`"
        );
        assert_eq!(error("{}"), "settings: missing field `window`");
        assert!(error(r#"{"windw": "1h"}"#).starts_with("settings: unknown field `windw`, expected one of"));
        assert!(error(r#"{"win\"{dow": "1h"}"#).starts_with("settings: unknown field"));
        assert!(error("[").starts_with("setting"));
        assert!(error("").starts_with("settings: EOF"));
    }

    #[test]
    fn a_rule_without_settings_takes_an_empty_object_only() {
        assert_eq!(parse::<NoSettings>("{}"), Ok(NoSettings {}));
        assert!(parse::<NoSettings>(r#"{"a": 1}"#).is_err());
    }
}
