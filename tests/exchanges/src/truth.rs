//! What was traded: a function of seed, exchange, symbol and minute, and of nothing else.

use std::collections::HashMap;
use std::fmt;

use crate::hash::{mix, mix_text, share};
use crate::market::{Exchange, Market};

/// Milliseconds of a minute.
pub const MINUTE_MS: i64 = 60_000;

/// Nothing was traded before 2018-01-01T00:00:00Z.
pub const FIRST_MS: i64 = 1_514_764_800_000;

/// An exact decimal number: `units / 10^decimals`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decimal {
    /// The number in its smallest units; never negative.
    pub units: i64,
    /// At most 8.
    pub decimals: u8,
}

const POWERS: [i64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

impl Decimal {
    /// Exactly the number that the decimal text parses to.
    pub fn value(self) -> f64 {
        if self.units < 1 << 53 {
            // The quotient of two numbers that are exact is rounded once, as a parser rounds.
            return self.units as f64 / POWERS[usize::from(self.decimals)] as f64;
        }
        self.to_string().parse().unwrap_or(f64::NAN)
    }

    /// Appends the text with so many decimals; those beyond the number's own are zeros.
    pub(crate) fn push_padded(self, out: &mut String, decimals: u8) {
        const ZEROS: &str = "0000000000";
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(self.units);
        let own = usize::from(self.decimals);
        if own < digits.len() {
            let (whole, part) = digits.split_at(digits.len() - own);
            out.push_str(whole);
            if own > 0 || decimals > 0 {
                out.push('.');
            }
            out.push_str(part);
        } else {
            out.push_str("0.");
            out.push_str(&ZEROS[..own - digits.len()]);
            out.push_str(digits);
        }
        out.push_str(&ZEROS[..usize::from(decimals.saturating_sub(self.decimals))]);
    }

    /// Appends the text without zeros at its end: `64000.5`, `3`.
    pub(crate) fn push_short(self, out: &mut String) {
        let mut short = self;
        while short.decimals > 0 && short.units % 10 == 0 {
            short.units /= 10;
            short.decimals -= 1;
        }
        short.push_padded(out, short.decimals);
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.push_padded(&mut text, self.decimals);
        formatter.write_str(&text)
    }
}

/// What was traded in a span of time. Binance and Bybit give all but `vwap` (Bybit no trades), Kraken all but
/// `quote_volume`, Coinbase only prices and volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candle {
    /// Open time in milliseconds since 1970.
    pub open_ms: i64,
    /// First price.
    pub open: Decimal,
    /// Highest price.
    pub high: Decimal,
    /// Lowest price.
    pub low: Decimal,
    /// Last price.
    pub close: Decimal,
    /// In units of the base.
    pub volume: Decimal,
    /// Number of trades; 0 for a quiet minute of an exchange that gives such rows.
    pub trades: i64,
    /// In units of the quote.
    pub quote_volume: Decimal,
    /// Volume-weighted average price, with the decimals of prices; 0 without trades.
    pub vwap: Decimal,
}

impl Candle {
    /// Takes the candle of the time after this one into it.
    fn join(&mut self, later: &Self) {
        self.high.units = self.high.units.max(later.high.units);
        self.low.units = self.low.units.min(later.low.units);
        self.close = later.close;
        self.volume.units += later.volume.units;
        self.trades += later.trades;
        self.quote_volume.units += later.quote_volume.units;
        let worth = i128::from(self.quote_volume.units)
            * i128::from(POWERS[usize::from(self.volume.decimals)])
            * i128::from(POWERS[usize::from(self.vwap.decimals)]);
        let volume =
            i128::from(self.volume.units) * i128::from(POWERS[usize::from(self.quote_volume.decimals)]);
        self.vwap.units = if volume == 0 { 0 } else { (worth / volume) as i64 };
    }

    /// One candle of several in the order of time: none of none.
    pub(crate) fn joined(open_ms: i64, candles: impl Iterator<Item = Self>) -> Option<Self> {
        candles
            .reduce(|mut all, later| {
                all.join(&later);
                all
            })
            .map(|all| Self { open_ms, ..all })
    }
}

/// One trade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trade {
    /// Counts the trades of a symbol without gaps.
    pub id: i64,
    pub at_ms: i64,
    pub price: Decimal,
    pub volume: Decimal,
}

/// A symbol of an exchange.
#[derive(Debug)]
pub(crate) struct Series {
    pub exchange: Exchange,
    pub market: Market,
    pub symbol: String,
    /// What the exchange calls it.
    pub native: String,
    /// The chance of this symbol on this exchange.
    key: u64,
    /// The chance of the base, on all exchanges.
    fair: u64,
}

/// How the price moves: minutes of a wave and its share of the price.
const WAVES: [(i64, f64); 6] =
    [(40_000, 0.2), (3_000, 0.05), (300, 0.012), (40, 0.004), (6, 0.0012), (1, 0.0004)];

/// What the draws of one minute are for.
#[derive(Clone, Copy)]
enum Draw {
    Quiet = 1,
    Open,
    High,
    Low,
    Volume,
    Count,
    Trade,
    Cut,
    Places,
}

impl Series {
    fn new(seed: u64, exchange: Exchange, market: &Market) -> Self {
        let symbol = market.symbol();
        Self {
            exchange,
            native: exchange.native(market),
            key: mix_text(mix_text(mix(seed, 1), exchange.id()), &symbol),
            fair: mix_text(mix(seed, 2), &market.base),
            market: market.clone(),
            symbol,
        }
    }

    /// A draw for a minute that has nothing to do with what was traded.
    pub(crate) fn chance(&self, purpose: u64, minute: i64) -> u64 {
        mix(mix(self.key, 1_000 + purpose), minute as u64)
    }

    fn draw(&self, draw: Draw, minute: i64) -> u64 {
        mix(mix(self.key, draw as u64), minute as u64)
    }

    fn is_quiet(&self, minute: i64) -> bool {
        self.market.quiet > 0.0 && share(self.draw(Draw::Quiet, minute)) < self.market.quiet
    }

    /// The last minute before this one in which something was traded.
    fn traded_before(&self, minute: i64) -> i64 {
        let mut before = minute - 1;
        while self.is_quiet(before) {
            before -= 1;
        }
        before
    }

    /// The last price of a minute in which something was traded, in the smallest units.
    fn price(&self, minute: i64) -> i64 {
        let mut moved = 1.0;
        for (number, (length, part)) in WAVES.into_iter().enumerate() {
            // The fastest wave is the exchange's own; the others are the same everywhere.
            let key = if length == 1 { self.key } else { self.fair };
            let key = mix(key, 100 + number as u64);
            let (from, into) = (minute.div_euclid(length), minute.rem_euclid(length));
            let height = |knot: i64| 2.0 * share(mix(key, knot as u64)) - 1.0;
            let left = height(from);
            let way = into as f64 / length as f64;
            let smooth = way * way * (3.0 - 2.0 * way);
            moved += part * if into == 0 { left } else { left + (height(from + 1) - left) * smooth };
        }
        let units = self.market.price * moved * POWERS[usize::from(self.market.price_decimals)] as f64;
        (units as i64).max(1)
    }

    /// How many trades there were until the end of a minute in which something was traded.
    fn count(&self, minute: i64) -> i64 {
        let usual = i64::from(self.market.minute_trades.max(2));
        minute * usual + (self.draw(Draw::Count, minute) % usual as u64) as i64
    }

    fn decimal(&self, units: i64) -> Decimal {
        Decimal { units, decimals: self.market.price_decimals }
    }

    /// A candle of these numbers, with the values that follow from them.
    fn candle(&self, minute: i64, prices: [i64; 4], volume: i64, trades: i64) -> Candle {
        let [open, high, low, close] = prices;
        let average = if trades == 0 { 0 } else { (open + high + low + close) / 4 };
        let decimals = self.market.price_decimals + self.market.volume_decimals;
        let worth =
            i128::from(average) * i128::from(volume) / 10_i128.pow(u32::from(decimals.saturating_sub(8)));
        Candle {
            open_ms: minute * MINUTE_MS,
            open: self.decimal(open),
            high: self.decimal(high),
            low: self.decimal(low),
            close: self.decimal(close),
            volume: Decimal { units: volume, decimals: self.market.volume_decimals },
            trades,
            quote_volume: Decimal { units: worth as i64, decimals: decimals.min(8) },
            vwap: self.decimal(average),
        }
    }

    /// A minute in which nothing is traded, or not yet.
    fn quiet(&self, minute: i64) -> Option<Candle> {
        let last = self.price(self.traded_before(minute));
        self.exchange.gives_quiet_minutes().then(|| self.candle(minute, [last; 4], 0, 0))
    }

    /// What was traded in a whole minute; none when the exchange gives no row for it.
    pub(crate) fn minute(&self, minute: i64) -> Option<Candle> {
        if minute * MINUTE_MS < FIRST_MS {
            return None;
        }
        if self.is_quiet(minute) { self.quiet(minute) } else { Some(self.traded(minute)) }
    }

    fn traded(&self, minute: i64) -> Candle {
        let before = self.traded_before(minute);
        let close = self.price(minute);
        let trades = self.count(minute) - self.count(before);
        let open = if trades == 1 {
            close
        } else {
            let step = (self.draw(Draw::Open, minute) % 5) as i64;
            (self.price(before) + [-1, 0, 0, 0, 1][step as usize]).max(1)
        };
        let (mut high, mut low) = (open.max(close), open.min(close));
        if trades >= 4 {
            let reach = close as u64 / 4_000 + 2;
            high += (self.draw(Draw::High, minute) % reach) as i64;
            low = (low - (self.draw(Draw::Low, minute) % reach) as i64).max(1);
        }
        let usual = self.market.minute_volume * POWERS[usize::from(self.market.volume_decimals)] as f64;
        let drawn = share(self.draw(Draw::Volume, minute));
        // Each trade has at least two units, so that half of one is something.
        let volume = ((usual * (0.1 + 2.0 * drawn * drawn)) as i64).max(2 * trades);
        self.candle(minute, [open, high, low, close], volume, trades)
    }

    /// The trades of a minute in their order; together they are its candle.
    pub(crate) fn trades(&self, minute: i64) -> Vec<Trade> {
        if minute * MINUTE_MS < FIRST_MS || self.is_quiet(minute) {
            return Vec::new();
        }
        let candle = self.traded(minute);
        let count = candle.trades;
        let first = self.count(self.traded_before(minute)) + 1;
        let places = self.draw(Draw::Places, minute);
        let (highest, lowest) = if count >= 4 {
            let between = count as u64 - 2;
            let highest = places % between;
            let lowest = (highest + 1 + (places >> 20) % (between - 1)) % between;
            (highest as i64 + 1, lowest as i64 + 1)
        } else {
            (-1, -1)
        };
        let trade_key = self.draw(Draw::Trade, minute);
        let cut_key = self.draw(Draw::Cut, minute);
        let each = candle.volume.units / count;
        let cut = |number: i64| match number {
            0 => 0,
            last if last == count => candle.volume.units,
            number => {
                (i128::from(candle.volume.units) * i128::from(number) / i128::from(count)) as i64
                    + (mix(cut_key, number as u64) % each as u64) as i64
            }
        };
        (0..count)
            .map(|number| {
                let chance = mix(trade_key, number as u64);
                let price = match number {
                    0 => candle.open,
                    last if last == count - 1 => candle.close,
                    number if number == highest => candle.high,
                    number if number == lowest => candle.low,
                    _ => {
                        let (low, high) = (candle.low.units, candle.high.units);
                        self.decimal(low + (chance % (high - low + 1) as u64) as i64)
                    }
                };
                let within = (number as f64 + share(mix(chance, 1))) / count as f64;
                Trade {
                    id: first + number,
                    at_ms: minute * MINUTE_MS + (within * MINUTE_MS as f64) as i64,
                    price,
                    volume: Decimal {
                        units: cut(number + 1) - cut(number),
                        decimals: candle.volume.decimals,
                    },
                }
            })
            .collect()
    }

    /// A minute as it was at a time within it.
    pub(crate) fn partial(&self, minute: i64, at_ms: i64) -> Option<Candle> {
        let trades = self.trades(minute);
        let until = trades.partition_point(|trade| trade.at_ms <= at_ms);
        let Some((first, others)) = trades[..until].split_first() else {
            return if minute * MINUTE_MS < FIRST_MS { None } else { self.quiet(minute) };
        };
        let mut prices = [first.price.units; 4];
        let mut volume = first.volume.units;
        for trade in others {
            prices[1] = prices[1].max(trade.price.units);
            prices[2] = prices[2].min(trade.price.units);
            prices[3] = trade.price.units;
            volume += trade.volume.units;
        }
        Some(self.candle(minute, prices, volume, until as i64))
    }

    /// An older version of a minute: less volume than the truth, usually another close. The same for a quiet minute.
    pub(crate) fn earlier(&self, minute: i64) -> Option<Candle> {
        let truth = self.minute(minute)?;
        if truth.trades == 0 {
            return Some(truth);
        }
        match self.partial(minute, minute * MINUTE_MS + 40_000) {
            Some(partial) if partial.trades > 0 && partial.trades < truth.trades => Some(partial),
            _ => {
                let prices = [truth.open.units, truth.high.units, truth.low.units, truth.close.units];
                Some(self.candle(minute, prices, truth.volume.units / 2, truth.trades))
            }
        }
    }

    /// The ids of the first and the last trade of a minute with trades.
    pub(crate) fn ids(&self, minute: i64, trades: i64) -> (i64, i64) {
        let first = self.count(self.traded_before(minute)) + 1;
        (first, first + trades - 1)
    }
}

/// What was traded on all exchanges. Ask it what a database must hold.
#[derive(Debug)]
pub struct Truth {
    seed: u64,
    /// By exchange in the order of `Exchange::ALL`, then in the order of the markets.
    series: Vec<Vec<Series>>,
    /// From everything that an exchange calls a symbol, and from the unified symbol, to its place.
    names: Vec<HashMap<String, usize>>,
}

impl Truth {
    /// The truth of a seed and some markets.
    pub fn new(seed: u64, markets: &[Market]) -> Self {
        let mut series = Vec::new();
        let mut names = Vec::new();
        for exchange in Exchange::ALL {
            let listed: Vec<Series> = markets
                .iter()
                .filter(|market| exchange.lists(&market.quote))
                .map(|market| Series::new(seed, exchange, market))
                .collect();
            let mut known = HashMap::new();
            for (place, one) in listed.iter().enumerate() {
                known.extend(exchange.aliases(&one.market).into_iter().map(|name| (name, place)));
            }
            names.push(known);
            series.push(listed);
        }
        Self { seed, series, names }
    }

    /// The minute that opens at `open_ms` (a multiple of [`MINUTE_MS`]) as it is once nothing is corrected any more.
    /// `None`: nothing was traded and the exchange gives no row for that, or it does not list the symbol. A quiet
    /// minute of an exchange that gives rows has no trades and the last close as its prices.
    pub fn candle(&self, exchange: Exchange, symbol: &str, open_ms: i64) -> Option<Candle> {
        self.of_symbol(exchange, symbol)?.minute(open_ms.div_euclid(MINUTE_MS))
    }

    /// The same for a longer timeframe, whose minutes it joins.
    pub fn candle_of(
        &self,
        exchange: Exchange,
        symbol: &str,
        open_ms: i64,
        timeframe_ms: i64,
    ) -> Option<Candle> {
        let series = self.of_symbol(exchange, symbol)?;
        let first = open_ms.div_euclid(MINUTE_MS);
        let minutes = first..first + timeframe_ms / MINUTE_MS;
        Candle::joined(open_ms, minutes.filter_map(|minute| series.minute(minute)))
    }

    /// The unified symbols that an exchange lists.
    pub fn symbols(&self, exchange: Exchange) -> Vec<&str> {
        self.all(exchange).iter().map(|series| series.symbol.as_str()).collect()
    }

    /// Whether the exchange was down in the minute that opens at `open_ms`, when there is maintenance at all (see
    /// `Misbehaviour::maintenance`): about every third day of each exchange, for 10 to 69 minutes, all symbols at once.
    pub fn in_maintenance(&self, exchange: Exchange, open_ms: i64) -> bool {
        const DAY: i64 = 1_440;
        let minute = open_ms.div_euclid(MINUTE_MS);
        let drawn = mix(mix_text(mix(self.seed, 3), exchange.id()), minute.div_euclid(DAY) as u64);
        if !drawn.is_multiple_of(3) {
            return false;
        }
        let length = 10 + ((drawn >> 8) % 60) as i64;
        let start = ((drawn >> 24) % (DAY - length) as u64) as i64;
        (start..start + length).contains(&minute.rem_euclid(DAY))
    }

    /// A draw that belongs to an exchange.
    pub(crate) fn chance(&self, exchange: Exchange, purpose: u64, number: i64) -> u64 {
        mix(mix(mix_text(mix(self.seed, 4), exchange.id()), purpose), number as u64)
    }

    pub(crate) fn all(&self, exchange: Exchange) -> &[Series] {
        &self.series[exchange as usize]
    }

    /// The symbol that the exchange calls so.
    pub(crate) fn of_native(&self, exchange: Exchange, native: &str) -> Option<&Series> {
        let place = *self.names[exchange as usize].get(native)?;
        self.all(exchange).get(place)
    }

    pub(crate) fn of_symbol(&self, exchange: Exchange, symbol: &str) -> Option<&Series> {
        let (base, quote) = symbol.split_once('/')?;
        let native = match exchange {
            Exchange::Binance | Exchange::Bybit => format!("{base}{quote}"),
            Exchange::Coinbase | Exchange::CoinbaseExchange => format!("{base}-{quote}"),
            Exchange::Kraken => symbol.to_owned(),
        };
        self.of_native(exchange, &native)
    }
}

#[cfg(test)]
mod tests {
    use super::{Candle, Decimal, MINUTE_MS, Truth};
    use crate::market::{Exchange, Market};

    const START_MINUTE: i64 = 1_760_000_000_000 / MINUTE_MS;

    fn truth() -> Truth {
        let mut markets = Market::usual();
        markets.extend(Market::many(9));
        Truth::new(7, &markets)
    }

    fn all_of(candle: &Candle) -> [Decimal; 7] {
        let Candle { open, high, low, close, volume, quote_volume, vwap, .. } = *candle;
        [open, high, low, close, volume, quote_volume, vwap]
    }

    #[test]
    fn values_are_what_their_texts_parse_to() {
        let truth = truth();
        for exchange in Exchange::ALL {
            for series in truth.all(exchange) {
                for minute in START_MINUTE..START_MINUTE + 200 {
                    let Some(candle) = series.minute(minute) else { continue };
                    for number in all_of(&candle) {
                        assert!(number.units < 1 << 53, "{} of {}", number, series.symbol);
                        for text in [number.to_string(), {
                            let mut text = String::new();
                            number.push_short(&mut text);
                            text
                        }] {
                            let parsed: f64 = text.parse().expect("a number");
                            assert_eq!(parsed.to_bits(), number.value().to_bits(), "{text}");
                        }
                    }
                }
            }
        }
        let large = Decimal { units: i64::MAX, decimals: 8 };
        assert_eq!(large.value(), 92_233_720_368.547_76);
    }

    #[test]
    fn decimals_are_written_padded_and_short() {
        let written = |units, decimals, padded| {
            let mut text = String::new();
            Decimal { units, decimals }.push_padded(&mut text, padded);
            text
        };
        assert_eq!(written(6_400_012, 2, 8), "64000.12000000");
        assert_eq!(written(7, 8, 8), "0.00000007");
        assert_eq!(written(0, 0, 8), "0.00000000");
        assert_eq!(written(1_230, 0, 0), "1230");
        let mut short = String::new();
        Decimal { units: 6_400_010, decimals: 2 }.push_short(&mut short);
        assert_eq!(short, "64000.1");
    }

    #[test]
    fn candles_are_consistent_and_continue() {
        let truth = truth();
        for exchange in Exchange::ALL {
            for series in truth.all(exchange) {
                let mut last: Option<Candle> = None;
                for minute in START_MINUTE..START_MINUTE + 500 {
                    let Some(candle) = series.minute(minute) else {
                        assert!(!exchange.gives_quiet_minutes());
                        continue;
                    };
                    let [open, high, low, close, volume, ..] = all_of(&candle);
                    assert!(high.units >= open.units.max(close.units));
                    assert!(low.units <= open.units.min(close.units) && low.units > 0);
                    assert_eq!(candle.trades == 0, volume.units == 0);
                    if let Some(last) = last {
                        // A single trade is open and close in one, and takes the whole step of the price.
                        let step = if candle.trades == 1 { close.units / 200 + 1 } else { 1 };
                        assert!((open.units - last.close.units).abs() <= step, "{candle:?} after {last:?}");
                        if candle.trades == 0 {
                            assert_eq!([open, high, low, close], [last.close; 4]);
                        }
                    }
                    last = Some(candle);
                }
            }
        }
    }

    #[test]
    fn the_trades_of_a_minute_are_its_candle_and_count_without_gaps() {
        let truth = truth();
        for (exchange, symbol) in [
            (Exchange::Binance, "BTC/USDT"),
            (Exchange::Kraken, "DOT/USD"),
            (Exchange::CoinbaseExchange, "LTC/USD"),
        ] {
            let series = truth.of_symbol(exchange, symbol).expect("a symbol");
            let mut last_id = None;
            for minute in START_MINUTE..START_MINUTE + 1_000 {
                let end_ms = (minute + 1) * MINUTE_MS - 1;
                assert_eq!(series.partial(minute, end_ms), series.minute(minute));
                let trades = series.trades(minute);
                assert!(trades.iter().all(|trade| trade.volume.units > 0));
                assert!(trades.is_sorted_by_key(|trade| trade.at_ms));
                for trade in trades {
                    assert!(last_id.is_none_or(|last| trade.id == last + 1));
                    last_id = Some(trade.id);
                }
                if let (Some(earlier), Some(truth)) = (series.earlier(minute), series.minute(minute)) {
                    assert!(earlier.volume.units < truth.volume.units || truth.trades == 0);
                }
            }
        }
    }

    #[test]
    fn some_symbols_have_quiet_minutes() {
        let truth = truth();
        let quiet = |exchange, symbol| {
            (START_MINUTE..START_MINUTE + 10_000)
                .filter(|minute| {
                    truth.candle(exchange, symbol, minute * MINUTE_MS).is_none_or(|candle| candle.trades == 0)
                })
                .count()
        };
        assert_eq!(quiet(Exchange::Binance, "BTC/USDT"), 0);
        for exchange in Exchange::ALL {
            assert!((200..400).contains(&quiet(exchange, "LINK/USDT")), "{exchange}");
        }
    }

    #[test]
    fn longer_timeframes_join_minutes() {
        let truth = truth();
        let open_ms = START_MINUTE / 60 * 60 * MINUTE_MS;
        let hour = truth.candle_of(Exchange::Binance, "LTC/USDT", open_ms, 60 * MINUTE_MS).expect("an hour");
        let minutes: Vec<Candle> = (0..60)
            .filter_map(|minute| truth.candle(Exchange::Binance, "LTC/USDT", open_ms + minute * MINUTE_MS))
            .collect();
        assert_eq!(hour.open, minutes[0].open);
        assert_eq!(hour.close, minutes[59].close);
        assert_eq!(hour.trades, minutes.iter().map(|minute| minute.trades).sum::<i64>());
        assert!(hour.low.units <= hour.vwap.units && hour.vwap.units <= hour.high.units);
    }

    #[test]
    fn prices_look_alike_on_all_exchanges_and_are_not_the_same() {
        let truth = truth();
        let close =
            |exchange| truth.candle(exchange, "BTC/USDT", START_MINUTE * MINUTE_MS).expect("a candle").close;
        let binance = close(Exchange::Binance).value();
        let kraken = close(Exchange::Kraken).value();
        assert!((binance / kraken - 1.0).abs() < 0.002);
        assert_ne!(binance, kraken);
    }

    #[test]
    fn an_exchange_is_sometimes_down_for_less_than_two_hours() {
        let truth = truth();
        let down = (0..1_440 * 60)
            .filter(|minute| truth.in_maintenance(Exchange::Binance, (START_MINUTE + minute) * MINUTE_MS))
            .count();
        assert!((200..2_000).contains(&down), "{down}");
    }
}
