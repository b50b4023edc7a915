//! A rule of which tests make other versions: they replace the text [`VERSION`] in the component's file by another of
//! the same length, and have a component with another hash that does something else.
//!
//! It writes which version has decided a row (`mark`), and how many rows of its partition it had seen before (`seen`): these
//! numbers go on without a gap only if every row was shown or given to every instance exactly once.

use std::hint::black_box;

use schemars::JsonSchema;
use serde::Deserialize;
use tidegate_guest::{
    Batch, Column, InputColumn, Kind, Outcome, OutputColumn, Reject, Rule, export, input, output,
};

/// What the version does, and its number.
#[used]
static VERSION: [u8; 40] = *b"VERSION-OF-THE-RULE:keep----:0000000000:";

/// The component with another text in the place of [`VERSION`]: the version that does `word` and has this number.
///
/// # Panics
/// When the text is not in the component exactly once, or the word is too long.
#[cfg(not(target_family = "wasm"))]
pub fn changed(mut component: Vec<u8>, word: &str, number: i64) -> Vec<u8> {
    let text = format!("VERSION-OF-THE-RULE:{word:-<8}:{number:010}:");
    assert_eq!(text.len(), VERSION.len(), "{text}");
    let places: Vec<usize> = component
        .windows(VERSION.len())
        .enumerate()
        .filter(|(_, window)| *window == VERSION)
        .map(|(place, _)| place)
        .collect();
    let [place] = places[..] else { panic!("the text is there {} times", places.len()) };
    component[place..place + text.len()].copy_from_slice(text.as_bytes());
    component
}

/// Where in the text the words are.
const WORD: std::ops::Range<usize> = 20..28;
const NUMBER: std::ops::Range<usize> = 29..39;

/// What the pipeline file can set.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Whether the rule remembers how many rows it has seen.
    remembers: bool,
}

tidegate_guest::reasons! {
    /// Why the rule rejects a row.
    enum Reason {
        /// It is a version that rejects.
        Refused = "refused",
    }
}

struct Versions {
    remembers: bool,
    seen: i64,
}

fn text(range: std::ops::Range<usize>) -> String {
    // Without this the compiler knows the text, and no other can take its place.
    let version = black_box(&VERSION);
    String::from_utf8_lossy(&version[range]).trim_end_matches('-').to_owned()
}

impl Rule for Versions {
    const NAME: &'static str = "versions";
    const SUMMARY: &'static str = "Does what a text in its component says";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    type Settings = Settings;
    type Reason = Reason;

    fn reads() -> Vec<InputColumn> {
        vec![input("close", Kind::Float)]
    }

    fn writes() -> Vec<OutputColumn> {
        let mut columns = vec![output("mark", Kind::Integer), output("seen", Kind::Integer)];
        match text(WORD).as_str() {
            "turned" => columns.reverse(),
            "fewer" => drop(columns.pop()),
            "more" => columns.push(output("more", Kind::Integer)),
            "closes" => columns.push(output("close", Kind::Float)),
            _ => {}
        }
        columns
    }

    fn new(settings: Settings) -> Result<Versions, String> {
        if text(WORD) == "refuses" {
            return Err("this version refuses its settings".to_owned());
        }
        Ok(Versions { remembers: settings.remembers, seen: 0 })
    }

    fn remembers(&self) -> bool {
        self.remembers
    }

    fn transform(&mut self, _now: i64, input: &Batch) -> Result<Outcome, String> {
        let word = text(WORD);
        let number: i64 = text(NUMBER).parse().unwrap_or(-1);
        let rows = input.rows;
        let mut outcome = Outcome::default();
        let closes = input.floats("close")?;
        match word.as_str() {
            "trap" => panic!("this version traps"),
            "late" if self.seen + i64::from(rows) > number => panic!("this version traps late"),
            "one" if (0..rows as usize).any(|row| closes.get(row) == Some(number as f64)) => {
                panic!("this version traps on a close of {number}");
            }
            "forever" => loop {
                black_box(());
            },
            "lies" => outcome.dropped.push(rows),
            "reject" => {
                let reject = |row| Reject { row, reason: 0, detail: "it is this version".to_owned() };
                outcome.rejected = (0..rows).map(reject).collect();
            }
            "half" => {
                let reject = |row| Reject { row, reason: 0, detail: "it is this version".to_owned() };
                outcome.rejected = (0..rows).filter(|row| row % 2 == 0).map(reject).collect();
            }
            "drop" => outcome.dropped = (0..rows).collect(),
            _ => {}
        }
        let seen: Vec<i64> = (self.seen..).take(rows as usize).collect();
        outcome.columns = vec![Column::of_integers("mark", vec![number; rows as usize])];
        if word != "fewer" {
            outcome.columns.push(Column::of_integers("seen", seen));
        }
        self.seen += i64::from(rows);
        Ok(outcome)
    }

    fn remember(&mut self, output: &Batch) {
        assert!(text(WORD) != "forgets", "this version traps when it is shown rows");
        self.seen += i64::from(output.rows);
    }
}

export!(Versions);
