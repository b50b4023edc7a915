//! The exchange adapter `PROJECT_NAME`: which requests bring the candles that the host wants, and the candles of their answers.

use tidegate_guest::exchange::{
    self, Adapter, Answer, Budget, Closed, ExchangeDescription, Failure, Integer, Leading, Number,
    Page, Quiet, Row, Step, Task,
};

/// A candle as the exchange writes it, in an array: seconds, open, high, low, close, volume, and more that nobody needs.
type Candle = Leading<(Integer, Number, Number, Number, Number, Number)>;

/// Candles of an exchange that answers `[[seconds, open, high, low, close, volume, …], …]`.
#[derive(Debug, Default)]
pub struct Exchange;

impl Adapter for Exchange {
    const NAME: &'static str = "PROJECT_NAME";
    const SUMMARY: &'static str = "Candles of PROJECT_NAME";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn exchanges() -> Vec<ExchangeDescription> {
        vec![ExchangeDescription {
            id: "PROJECT_ID".to_owned(),
            name: "PROJECT_NAME".to_owned(),
            hosts: vec!["api.example.com".to_owned()],
            timeframes: vec!["1m".to_owned()],
            page_limit: 500,
            depth: None,
            budget: Budget {
                units: 10,
                window_ms: 1_000,
                burst: 1,
                used_header: None,
            },
            quiet: Quiet::Absent,
            has_feed: false,
        }]
    }

    fn next(task: &Task, answers: &[Answer]) -> Result<Step, Failure> {
        let Some(answer) = answers.first() else {
            let (base, quote) = exchange::base_and_quote(&task.symbol)?;
            let market = exchange::url_part(&format!("{base}{quote}"));
            let (since, until) = (task.since / 1_000, task.until / 1_000);
            let url = format!("https://api.example.com/candles/{market}?from={since}&to={until}");
            return Ok(Step::Requests(vec![exchange::get(url, 1)]));
        };
        let mut page = Page::new(task)?;
        for Leading((seconds, open, high, low, close, volume)) in
            exchange::decode::<Vec<Candle>>(answer)?
        {
            page.push(Row {
                timestamp: seconds.0.saturating_mul(1_000),
                open: open.0,
                high: high.0,
                low: low.0,
                close: close.0,
                volume: volume.0,
                ..Row::default()
            });
        }
        Ok(Step::Candles(page.candles(Closed::ByClock)))
    }
}

tidegate_guest::export_adapter!(Exchange);

#[cfg(test)]
mod tests {
    use tidegate_guest::exchange::testing::{answer, ask, candles, task};

    use super::*;

    #[test]
    fn the_open_candle_is_left_out() {
        let mut task = task("PROJECT_ID", "BTC/USD", "1m", 0, 180_000);
        let url = "https://api.example.com/candles/BTCUSD?from=0&to=180";
        assert_eq!(ask::<Exchange>(&task)[0].url, url);
        task.now = 150_000;
        let rows = include_str!("../answers/candles.json");
        let candles = candles::<Exchange>(&task, &[answer(200, rows)]);
        assert_eq!(candles.timestamps, [0, 60_000]);
        assert_eq!(candles.close, [6.0, 7.0]);
    }
}
