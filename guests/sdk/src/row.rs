//! Rules that are written a row at a time.

/// Declares a rule that is a function of one row and its settings.
///
/// The macro makes the rule's type and two structs: one for the row that is read, whose fields are the
/// columns (`Option`, as a value may be null), and one for what is written to the row. The function itself is
/// an ordinary one beside the macro. Columns are named as their fields, with the contract's words for what
/// they hold:
///
/// | word | read as | written as |
/// |---|---|---|
/// | `float` | `Option<f64>` | `Option<f64>` |
/// | `integer` | `Option<i64>` | `Option<i64>` |
/// | `timestamp` | `Option<i64>`, milliseconds since 1970 | `Option<i64>` |
/// | `boolean` | `Option<bool>` | `Option<bool>` |
/// | `text` | `Option<&str>` | `Option<String>` |
///
/// A written field starts as `None`, which leaves the row without a value. A column that the rule reads and
/// writes starts with the row's own value instead: a rule changes it where it sets the field, and takes it away
/// where it sets `None`.
///
/// Nothing but such a column is copied to make a row, and columns are looked up once a batch. Such a rule costs three to four
/// times as much as one over columns, which is still little; it reads no optional columns and keeps nothing
/// between rows. A rule that needs either implements [`Rule`](crate::Rule) itself.
///
/// ```
/// use tidegate_guest::{BatchBuilder, Instance, NoSettings, Verdict};
///
/// tidegate_guest::reasons! {
///     /// Why `no_trades` rejects a row.
///     pub enum Reason {
///         /// Prices moved although nothing was traded.
///         MovedWithoutVolume = "moved_without_volume",
///     }
/// }
///
/// tidegate_guest::row_rule! {
///     /// Rejects candles whose price moved although nothing was traded.
///     pub rule NoTrades;
///     name: "no_trades";
///     summary: "Rejects candles whose price moved although nothing was traded";
///     settings: NoSettings;
///     reasons: Reason;
///     reads: Candle { high: float, low: float, volume: float };
///     writes: Written { is_flat: boolean };
///     decide: decide;
/// }
///
/// fn decide(candle: &Candle, _: &NoSettings, written: &mut Written, _now: i64) -> Verdict<Reason> {
///     let (Some(high), Some(low)) = (candle.high, candle.low) else { return Verdict::Keep };
///     written.is_flat = Some(high == low);
///     if high > low && candle.volume == Some(0.0) {
///         let detail = format!("high {high} is above low {low} and volume is 0");
///         return Verdict::Reject(Reason::MovedWithoutVolume, detail);
///     }
///     Verdict::Keep
/// }
///
/// tidegate_guest::export!(NoTrades);
///
/// let batch = BatchBuilder::new(2)
///     .floats("high", [2.0, 2.0])
///     .floats("low", [1.0, 2.0])
///     .floats("volume", [0.0, 0.0])
///     .build();
/// let mut rule = Instance::<NoTrades>::unconfigured();
/// rule.configure("{}").unwrap();
/// let outcome = rule.transform(0, &batch).unwrap();
/// assert_eq!(
///     outcome.verdicts::<Reason>(),
///     ["0 moved_without_volume: high 2 is above low 1 and volume is 0"]
/// );
/// assert_eq!(outcome.column("is_flat").unwrap().booleans().unwrap().get(1), Some(true));
/// ```
#[macro_export]
macro_rules! row_rule {
    (
        $(#[$attribute:meta])*
        $visibility:vis rule $rule:ident;
        name: $name:literal;
        summary: $summary:literal;
        settings: $settings:ty;
        reasons: $reasons:ty;
        reads: $row:ident { $($read:ident: $read_kind:ident),* $(,)? };
        writes: $written:ident { $($write:ident: $write_kind:ident),* $(,)? };
        decide: $decide:path $(;)?
    ) => {
        $(#[$attribute])*
        #[derive(Debug)]
        $visibility struct $rule {
            settings: $settings,
        }

        #[doc = concat!("The columns that `", $name, "` reads, of one row.")]
        #[derive(Debug, Clone, Copy, Default)]
        $visibility struct $row<'a> {
            $(#[doc = concat!("The column `", stringify!($read), "`.")]
            pub $read: $crate::row_rule!(@read $read_kind),)*
            #[doc(hidden)]
            pub _batch: ::core::marker::PhantomData<&'a ()>,
        }

        #[doc = concat!("The columns that `", $name, "` writes, of one row.")]
        #[derive(Debug, Clone, Default)]
        $visibility struct $written {
            $(#[doc = concat!("The column `", stringify!($write), "`.")]
            pub $write: $crate::row_rule!(@write $write_kind),)*
        }

        impl $crate::Rule for $rule {
            const NAME: &'static str = $name;
            const SUMMARY: &'static str = $summary;
            const VERSION: &'static str = env!("CARGO_PKG_VERSION");

            type Settings = $settings;
            type Reason = $reasons;

            fn reads() -> ::std::vec::Vec<$crate::InputColumn> {
                ::std::vec![$($crate::input(stringify!($read), $crate::row_rule!(@kind $read_kind))),*]
            }

            fn writes() -> ::std::vec::Vec<$crate::OutputColumn> {
                ::std::vec![$($crate::output(stringify!($write), $crate::row_rule!(@kind $write_kind))),*]
            }

            fn new(settings: $settings) -> ::core::result::Result<Self, ::std::string::String> {
                ::core::result::Result::Ok($rule { settings })
            }

            fn transform(
                &mut self,
                now: i64,
                input: &$crate::Batch,
            ) -> ::core::result::Result<$crate::Outcome, ::std::string::String> {
                $(let $read = $crate::row_rule!(@column input $read_kind, stringify!($read));)*
                let rows = input.rows as usize;
                let mut outcome = $crate::Outcome::keep_all();
                let mut answers = ::std::vec![$written::default(); rows];
                // The batch has a written column only where the rule reads it too.
                $(if input.has_column(stringify!($write)) {
                    let column = $crate::row_rule!(@column input $write_kind, stringify!($write));
                    for (place, written) in answers.iter_mut().enumerate() {
                        written.$write = $crate::row_rule!(@own $write_kind, column.get(place));
                    }
                })*
                for (place, written) in answers.iter_mut().enumerate() {
                    let row = $row { $($read: $read.get(place),)* _batch: ::core::marker::PhantomData };
                    match $decide(&row, &self.settings, written, now) {
                        $crate::Verdict::Keep => {}
                        $crate::Verdict::Reject(reason, detail) => outcome.reject(place, reason, detail),
                        $crate::Verdict::Drop => outcome.drop_row(place),
                    }
                }
                $(outcome.write($crate::row_rule!(
                    @answer $write_kind, stringify!($write), answers.iter(), $write
                ));)*
                ::core::result::Result::Ok(outcome)
            }
        }
    };

    (@kind float) => { $crate::Kind::Float };
    (@kind integer) => { $crate::Kind::Integer };
    (@kind timestamp) => { $crate::Kind::Timestamp };
    (@kind boolean) => { $crate::Kind::Boolean };
    (@kind text) => { $crate::Kind::Text };

    (@read float) => { ::core::option::Option<f64> };
    (@read integer) => { ::core::option::Option<i64> };
    (@read timestamp) => { ::core::option::Option<i64> };
    (@read boolean) => { ::core::option::Option<bool> };
    (@read text) => { ::core::option::Option<&'a str> };

    (@write float) => { ::core::option::Option<f64> };
    (@write integer) => { ::core::option::Option<i64> };
    (@write timestamp) => { ::core::option::Option<i64> };
    (@write boolean) => { ::core::option::Option<bool> };
    (@write text) => { ::core::option::Option<::std::string::String> };

    (@column $batch:ident float, $name:expr) => { $batch.floats($name)? };
    (@column $batch:ident integer, $name:expr) => { $batch.integers($name)? };
    (@column $batch:ident timestamp, $name:expr) => { $batch.timestamps($name)? };
    (@column $batch:ident boolean, $name:expr) => { $batch.booleans($name)? };
    (@column $batch:ident text, $name:expr) => { $batch.texts($name)? };

    (@own text, $value:expr) => { $value.map(::std::string::String::from) };
    (@own $kind:ident, $value:expr) => { $value };

    (@answer float, $name:expr, $rows:expr, $field:ident) => {
        $crate::Column::of_floats_or_null($name, $rows.map(|row| row.$field))
    };
    (@answer integer, $name:expr, $rows:expr, $field:ident) => {
        $crate::Column::of_integers_or_null($name, $rows.map(|row| row.$field))
    };
    (@answer timestamp, $name:expr, $rows:expr, $field:ident) => {
        $crate::Column::of_timestamps_or_null($name, $rows.map(|row| row.$field))
    };
    (@answer boolean, $name:expr, $rows:expr, $field:ident) => {
        $crate::Column::of_booleans_or_null($name, $rows.map(|row| row.$field))
    };
    (@answer text, $name:expr, $rows:expr, $field:ident) => {
        $crate::Column::of_texts_or_null($name, $rows.map(|row| row.$field.as_deref()))
    };
}

#[cfg(test)]
mod tests {
    use crate::{Batch, BatchBuilder, Duration, Instance, Kind, Verdict, describe, export};

    crate::reasons! {
        enum Reason {
            TooWide = "too_wide",
        }
    }

    #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        factor: f64,
        #[serde(default)]
        delay: Duration,
    }

    crate::row_rule! {
        /// Uses every kind of column, and writes one that it reads.
        rule WideRange;
        name: "wide_range";
        summary: "Rejects wide ranges";
        settings: Settings;
        reasons: Reason;
        reads: Row { high: float, low: float, trades: integer, timestamp: timestamp, closed: boolean, symbol: text };
        writes: Written { low: float, trades: integer, seen: timestamp, closed: boolean, base: text };
        decide: decide;
    }

    export!(WideRange);

    fn decide(row: &Row<'_>, settings: &Settings, written: &mut Written, now: i64) -> Verdict<Reason> {
        let (Some(high), Some(low)) = (row.high, row.low) else { return Verdict::Drop };
        written.low = Some(low + 1.0);
        written.trades = row.trades.map(|trades| trades + 1);
        written.seen = row.timestamp.map(|_| now + settings.delay.ms());
        written.closed = row.closed;
        written.base = row.symbol.and_then(|symbol| symbol.split('/').next()).map(str::to_owned);
        if high > low * settings.factor {
            return Verdict::Reject(Reason::TooWide, format!("high {high} is too far from low {low}"));
        }
        Verdict::Keep
    }

    fn batch() -> Batch {
        BatchBuilder::new(3)
            .floats_or_null("high", [Some(2.0), Some(9.0), None])
            .floats("low", [1.0, 1.0, 1.0])
            .integers("trades", [1, 2, 3])
            .timestamps_or_null("timestamp", [None, Some(5), Some(6)])
            .booleans("closed", [true, false, true])
            .texts("symbol", ["BTC/USD", "ETH/USD", "BTC/USD"])
            .build()
    }

    #[test]
    fn a_row_rule_decides_and_writes() {
        let mut rule = Instance::<WideRange>::unconfigured();
        assert!(rule.transform(0, &batch()).is_err());
        rule.configure(r#"{"factor": 3, "delay": "1s"}"#).unwrap();
        let outcome = rule.transform(10, &batch()).unwrap();
        outcome.check::<WideRange>(&batch()).unwrap();
        assert_eq!(outcome.verdicts::<Reason>(), ["1 too_wide: high 9 is too far from low 1", "2 dropped"]);
        let column = |name| outcome.column(name).unwrap();
        assert_eq!(column("low").floats().unwrap().get(0), Some(2.0));
        assert_eq!(column("low").floats().unwrap().get(2), Some(1.0), "as it was");
        assert_eq!(column("trades").integers().unwrap().get(1), Some(3));
        assert_eq!(column("seen").timestamps().unwrap().get(0), None);
        assert_eq!(column("seen").timestamps().unwrap().get(1), Some(1_010));
        assert_eq!(column("closed").booleans().unwrap().get(1), Some(false));
        assert_eq!(column("base").texts().unwrap().get(1), Some("ETH"));
    }

    mod repair {
        use crate::{NoReasons, NoSettings, Verdict};

        crate::row_rule! {
            /// Writes every column that it reads, some rows of each.
            pub rule Repair;
            name: "repair";
            summary: "Repairs some rows";
            settings: NoSettings;
            reasons: NoReasons;
            reads: Row { close: float, trades: integer, seen: timestamp, closed: boolean, symbol: text };
            writes: Written {
                close: float, trades: integer, seen: timestamp, closed: boolean, symbol: text, note: text,
            };
            decide: decide;
        }

        fn decide(row: &Row<'_>, _: &NoSettings, written: &mut Written, _now: i64) -> Verdict<NoReasons> {
            let is_wrong = row.close == Some(2.0) && row.trades.is_none() && row.closed == Some(false);
            if is_wrong && row.seen == Some(2) {
                written.close = Some(2.5);
            }
            if row.symbol == Some("?") {
                written.symbol = None;
            }
            Verdict::Keep
        }
    }

    #[test]
    fn what_a_row_rule_does_not_set_stays_as_it_was() {
        let input = BatchBuilder::new(4)
            .floats_or_null("close", [Some(1.0), Some(2.0), None, Some(4.0)])
            .integers_or_null("trades", [Some(1), None, Some(3), Some(4)])
            .timestamps("seen", [1, 2, 3, 4])
            .booleans_or_null("closed", [Some(true), Some(false), None, Some(true)])
            .texts_or_null("symbol", [Some("BTC/USD"), Some("?"), None, Some("BTC/USD")])
            .build();
        let mut rule = Instance::<repair::Repair>::unconfigured();
        rule.configure("{}").unwrap();
        let outcome = rule.transform(0, &input).unwrap();
        outcome.check::<repair::Repair>(&input).unwrap();
        let expected = BatchBuilder::new(4)
            .floats_or_null("close", [Some(1.0), Some(2.5), None, Some(4.0)])
            .integers_or_null("trades", [Some(1), None, Some(3), Some(4)])
            .timestamps("seen", [1, 2, 3, 4])
            .booleans_or_null("closed", [Some(true), Some(false), None, Some(true)])
            .texts_or_null("symbol", [Some("BTC/USD"), None, None, Some("BTC/USD")])
            .texts_or_null("note", [None::<&str>; 4])
            .build();
        assert_eq!(outcome.columns, expected.columns);
    }

    #[test]
    fn a_row_rule_describes_itself() {
        let description = describe::<WideRange>();
        assert_eq!(description.name, "wide_range");
        assert_eq!(description.reads.len(), 6);
        assert_eq!(description.writes[4].kind, Kind::Text);
        assert_eq!(description.reasons, ["too_wide"]);
        assert!(description.settings.contains("factor"));
    }

    #[test]
    fn a_missing_column_is_an_error() {
        let mut rule = Instance::<WideRange>::unconfigured();
        rule.configure(r#"{"factor": 3}"#).unwrap();
        let error = rule.transform(0, &BatchBuilder::new(0).build()).unwrap_err();
        assert_eq!(error, "the batch has no column `high`: name it in `reads`");
    }
}
