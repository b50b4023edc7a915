//! The rule `enrich`: adds what is known of a row's source and symbol, and when the row was validated.
//!
//! It rejects nothing. All that it says depends on the source, the symbol and the time alone, so it decides
//! once for each text of a dictionary, and a row costs it a copied index. A malformed symbol has neither base nor
//! quote, and an empty source no exchange.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use tidegate_guest::{
    Batch, Column, InputColumn, Kind, NoReasons, Outcome, OutputColumn, Rule, TextColumn, input, output,
};

/// What a pipeline file may set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What is known of each source, by the source's name. The names of some exchanges are built in; any other
    /// source is its own name.
    pub exchanges: BTreeMap<String, Exchange>,
}

/// What is known of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Exchange {
    /// The name for people, such as `Binance`; written to `exchange`.
    pub name: Option<String>,
    /// Where the exchange is, for example as an ISO 3166 code; written to `exchange_country`.
    pub country: Option<String>,
    /// What it is, for example `spot`, `derivatives` or `broker`; written to `exchange_kind`.
    pub kind: Option<String>,
}

/// The names for people of the exchanges that most pipelines read.
const NAMES: [(&str, &str); 3] = [("binance", "Binance"), ("coinbase", "Coinbase"), ("kraken", "Kraken")];

/// The rule.
#[derive(Debug)]
pub struct Enrich {
    exchanges: BTreeMap<String, Exchange>,
}

impl Rule for Enrich {
    const NAME: &'static str = "enrich";
    const SUMMARY: &'static str = "Adds the exchange's name, base and quote of the symbol, and the time";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    type Settings = Settings;
    type Reason = NoReasons;

    fn reads() -> Vec<InputColumn> {
        vec![input("source", Kind::Text), input("symbol", Kind::Text)]
    }

    fn writes() -> Vec<OutputColumn> {
        vec![
            output("exchange", Kind::Text),
            output("exchange_country", Kind::Text),
            output("exchange_kind", Kind::Text),
            output("base", Kind::Text),
            output("quote", Kind::Text),
            output("validated_at", Kind::Timestamp),
        ]
    }

    fn new(settings: Settings) -> Result<Enrich, String> {
        let empty = |text: &Option<String>| text.as_ref().is_some_and(String::is_empty);
        let wrong = settings
            .exchanges
            .iter()
            .find(|(_, exchange)| empty(&exchange.name) || empty(&exchange.country) || empty(&exchange.kind));
        match wrong {
            Some((source, _)) => {
                Err(format!("`exchanges.{source}` has an empty text: write a text or leave the key out"))
            }
            None => Ok(Enrich { exchanges: settings.exchanges }),
        }
    }

    fn transform(&mut self, now: i64, input: &Batch) -> Result<Outcome, String> {
        let source = input.texts("source")?;
        let symbol = input.texts("symbol")?;
        let mut outcome = Outcome::keep_all();
        outcome.write(derived("exchange", &source, |source| (!source.is_empty()).then(|| self.name(source))));
        if self.exchanges.values().any(|exchange| exchange.country.is_some()) {
            outcome.write(derived("exchange_country", &source, |source| {
                self.exchanges.get(source)?.country.as_deref()
            }));
        }
        if self.exchanges.values().any(|exchange| exchange.kind.is_some()) {
            outcome.write(derived("exchange_kind", &source, |source| {
                self.exchanges.get(source)?.kind.as_deref()
            }));
        }
        outcome.write(derived("base", &symbol, |symbol| Some(base_and_quote(symbol)?.0)));
        outcome.write(derived("quote", &symbol, |symbol| Some(base_and_quote(symbol)?.1)));
        outcome.write(Column::of_timestamps("validated_at", vec![now; input.rows as usize]));
        Ok(outcome)
    }
}

impl Enrich {
    fn name<'a>(&'a self, source: &'a str) -> &'a str {
        let set = self.exchanges.get(source).and_then(|exchange| exchange.name.as_deref());
        let built_in = || NAMES.iter().find(|(known, _)| *known == source).map(|(_, name)| *name);
        set.or_else(built_in).unwrap_or(source)
    }
}

/// A column with what a function says of each text of another column: the same indexes, another dictionary.
fn derived<'a>(name: &str, column: &TextColumn<'a>, derive: impl Fn(&'a str) -> Option<&'a str>) -> Column {
    let texts: Vec<Option<&str>> = column.dictionary().iter().map(|text| derive(text)).collect();
    let present = if texts.iter().all(Option::is_some) {
        column.presence().map(<[u8]>::to_vec)
    } else {
        Some(presence(column, &texts))
    };
    let dictionary = texts.into_iter().map(|text| text.unwrap_or_default().to_owned()).collect();
    Column::of_dictionary(name, dictionary, column.indexes().to_vec(), present)
}

/// A bit for each row whose text has something derived from it.
fn presence(column: &TextColumn<'_>, texts: &[Option<&str>]) -> Vec<u8> {
    let rows = column.indexes().len();
    let mut bits = vec![0; rows.div_ceil(8)];
    for row in 0..rows {
        let is_present = column.index(row).is_some_and(|index| texts[index].is_some());
        bits[row / 8] |= u8::from(is_present) << (row % 8);
    }
    bits
}

/// Base and quote of a unified symbol: `BTC` and `USDT` of `BTC/USDT` and of `BTC/USDT:USDT`.
fn base_and_quote(symbol: &str) -> Option<(&str, &str)> {
    let (base, rest) = symbol.split_once('/')?;
    let (quote, settle) = match rest.split_once(':') {
        Some((quote, settle)) => (quote, Some(settle)),
        None => (rest, None),
    };
    let is_part = |text: &str| !text.is_empty() && !text.contains(['/', ':']);
    (is_part(base) && is_part(quote) && settle.is_none_or(is_part)).then_some((base, quote))
}

tidegate_guest::export!(Enrich);

#[cfg(test)]
mod tests {
    use tidegate_guest::{BatchBuilder, Instance, describe};

    use super::*;

    fn instance(settings: &str) -> Instance<Enrich> {
        let mut instance = Instance::unconfigured();
        instance.configure(settings).unwrap();
        instance
    }

    fn enriched(settings: &str, input: &Batch) -> Outcome {
        let outcome = instance(settings).transform(42, input).unwrap();
        outcome.check::<Enrich>(input).unwrap();
        assert_eq!(outcome.verdicts::<NoReasons>(), [""; 0]);
        outcome
    }

    fn texts(outcome: &Outcome, name: &str) -> Vec<Option<String>> {
        let column = outcome.column(name).unwrap().texts().unwrap();
        (0..column.indexes().len()).map(|row| column.get(row).map(str::to_owned)).collect()
    }

    fn some(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| Some((*text).to_owned())).collect()
    }

    #[test]
    fn names_are_built_in_set_or_the_source_itself() {
        let input = BatchBuilder::new(4)
            .texts("source", ["binance", "kraken", "mine", "other"])
            .texts("symbol", ["BTC/USDT", "ETH/USD", "BTC/USDT:USDT", "BTC/USDT"])
            .build();
        let settings = r#"{"exchanges": {"kraken": {"name": "Payward", "country": "US"},
                                         "mine": {"name": "Mine", "kind": "spot"}}}"#;
        let outcome = enriched(settings, &input);
        assert_eq!(texts(&outcome, "exchange"), some(&["Binance", "Payward", "Mine", "other"]));
        assert_eq!(texts(&outcome, "exchange_country"), [None, Some("US".to_owned()), None, None]);
        assert_eq!(texts(&outcome, "exchange_kind"), [None, None, Some("spot".to_owned()), None]);
        assert_eq!(texts(&outcome, "base"), some(&["BTC", "ETH", "BTC", "BTC"]));
        assert_eq!(texts(&outcome, "quote"), some(&["USDT", "USD", "USDT", "USDT"]));
        assert_eq!(outcome.column("validated_at").unwrap().timestamps().unwrap().values(), [42; 4]);
    }

    #[test]
    fn columns_without_settings_are_not_answered() {
        let input = BatchBuilder::new(1).texts("source", ["kraken"]).texts("symbol", ["A/B"]).build();
        let outcome = enriched("{}", &input);
        assert!(outcome.column("exchange_country").is_none() && outcome.column("exchange_kind").is_none());
        assert_eq!(texts(&outcome, "exchange"), some(&["Kraken"]));
    }

    #[test]
    fn what_is_null_or_malformed_stays_null() {
        let sources = [Some("kraken"), None, Some("")];
        let symbols = [
            None,
            Some("BTCUSDT"),
            Some("/USD"),
            Some("BTC/:X"),
            Some("BTC/USD/EUR"),
            Some("BTC/USD:"),
            Some("BTC/USD:A:B"),
            Some("BTC/USD:A/B"),
            Some("BTC:X/USD"),
            Some(""),
            Some("BTC-2/USD_X:BTC-250328-50000-C"),
        ];
        let input = BatchBuilder::new(symbols.len())
            .texts_or_null("source", sources.into_iter().cycle().take(symbols.len()))
            .texts_or_null("symbol", symbols)
            .build();
        let outcome = enriched("{}", &input);
        assert_eq!(texts(&outcome, "exchange")[..3], [Some("Kraken".to_owned()), None, None]);
        let only_last = |text: &str| [vec![None; symbols.len() - 1], some(&[text])].concat();
        assert_eq!(texts(&outcome, "base"), only_last("BTC-2"));
        assert_eq!(texts(&outcome, "quote"), only_last("USD_X"));
    }

    #[test]
    fn empty_batches_and_empty_dictionaries() {
        let none: [Option<&str>; 0] = [];
        let empty = BatchBuilder::new(0).texts_or_null("source", none).texts_or_null("symbol", none).build();
        assert_eq!(texts(&enriched("{}", &empty), "exchange"), []);
        let nulls = [None::<&str>; 9];
        let all_null =
            BatchBuilder::new(9).texts_or_null("source", nulls).texts_or_null("symbol", nulls).build();
        assert_eq!(texts(&enriched("{}", &all_null), "base"), vec![None; 9]);
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let error = |settings| Instance::<Enrich>::unconfigured().configure(settings).unwrap_err();
        assert!(
            error(r#"{"exchanges": {"a": {"name": ""}}}"#).starts_with("`exchanges.a` has an empty text")
        );
        assert!(error(r#"{"exchanges": {"a": {"nam": "x"}}}"#).contains("unknown field `nam`"));
    }

    #[test]
    fn what_is_written_is_described() {
        let written: Vec<String> =
            describe::<Enrich>().writes.into_iter().map(|column| column.name).collect();
        assert_eq!(
            written,
            ["exchange", "exchange_country", "exchange_kind", "base", "quote", "validated_at"]
        );
    }

    #[test]
    fn the_fixtures_pass() {
        tidegate_guest::fixture::check::<Enrich>("fixtures");
    }
}
