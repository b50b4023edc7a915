//! Days, and the grid of times at which the candles of a timeframe open.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};

const DAY_MS: i64 = 86_400_000;

/// 1969-12-29, the last Monday before 1970.
const MONDAY_MS: i64 = -3 * DAY_MS;

/// A day, written `2009-01-03`: its first moment in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    days: i64,
}

impl Date {
    /// The day of Bitcoin's first block, before which nothing was traded: 2009-01-03.
    pub const BITCOIN: Date = Date { days: 14_247 };

    /// In milliseconds since 1970.
    pub fn ms(self) -> i64 {
        self.days * DAY_MS
    }
}

impl std::str::FromStr for Date {
    type Err = String;

    fn from_str(text: &str) -> Result<Date, String> {
        let wrong = || format!("`{text}` is not a day: write it as `2009-01-03`, from 1970 on");
        let digits_fit = text.len() == 10
            && text.bytes().enumerate().all(|(place, byte)| match place {
                4 | 7 => byte == b'-',
                _ => byte.is_ascii_digit(),
            });
        if !digits_fit {
            return Err(wrong());
        }
        let number = |range: std::ops::Range<usize>| text[range].parse::<i64>().map_err(|_| wrong());
        let date = (number(0..4)?, number(5..7)?, number(8..10)?);
        let days = days_of(date);
        // A day that does not exist, such as the 30th of February, comes back as another one.
        if civil(days) == date && days >= 0 { Ok(Date { days }) } else { Err(wrong()) }
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Date, D::Error> {
        deserializer.deserialize_str(DateVisitor)
    }
}

struct DateVisitor;

impl Visitor<'_> for DateVisitor {
    type Value = Date;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a day such as `2009-01-03`")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Date, E> {
        text.parse().map_err(E::custom)
    }
}

impl JsonSchema for Date {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Date".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "date" })
    }
}

/// The grid of a timeframe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grid {
    /// Not a timeframe.
    Malformed,
    /// Every so many milliseconds from 1970 on.
    Fixed(i64),
    /// Every so many weeks, from a Monday or from a Thursday: most exchanges start weeks on Monday, others count
    /// seven days from 1970-01-01, which was a Thursday.
    Weeks(i64),
    /// The first day of every so many months, counted from January 1970.
    Months(i64),
}

impl Grid {
    /// The grid of a timeframe such as `1m`, `4h`, `1w`, `1M`: a number from 1 to 9999 without leading
    /// zeros, and a unit.
    pub fn of(timeframe: &str) -> Grid {
        let digits = timeframe.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = timeframe.split_at(digits);
        if !(1..=4).contains(&digits) || number.starts_with('0') {
            return Grid::Malformed;
        }
        let Ok(number) = number.parse::<i64>() else { return Grid::Malformed };
        let fixed = |unit_ms: i64| Grid::Fixed(number * unit_ms);
        match unit {
            "s" => fixed(1_000),
            "m" => fixed(60_000),
            "h" => fixed(3_600_000),
            "d" => fixed(DAY_MS),
            "w" => Grid::Weeks(number),
            "M" => Grid::Months(number),
            _ => Grid::Malformed,
        }
    }

    /// Whether a candle opens at this time, which is not before 1970.
    pub fn holds(&self, ms: i64) -> bool {
        match *self {
            Grid::Malformed => false,
            Grid::Fixed(step_ms) => ms.rem_euclid(step_ms) == 0,
            Grid::Weeks(weeks) => [MONDAY_MS, 0]
                .into_iter()
                .any(|anchor| ms.wrapping_sub(anchor).rem_euclid(weeks * 7 * DAY_MS) == 0),
            Grid::Months(months) => {
                let (year, month, day) = civil(ms.div_euclid(DAY_MS));
                ms.rem_euclid(DAY_MS) == 0 && day == 1 && ((year - 1970) * 12 + month - 1) % months == 0
            }
        }
    }

    /// The longest that a candle of this grid lasts; `None` for what is not a timeframe.
    pub fn longest_ms(&self) -> Option<i64> {
        match *self {
            Grid::Malformed => None,
            Grid::Fixed(step_ms) => Some(step_ms),
            Grid::Weeks(weeks) => Some(weeks * 7 * DAY_MS),
            Grid::Months(months) => Some(months * 31 * DAY_MS),
        }
    }

    /// The quick test for this grid: a time for which it does not hold may still be on the grid.
    pub fn steps(&self) -> Steps {
        match *self {
            Grid::Fixed(step_ms) => Steps::every(step_ms as u64, 0),
            Grid::Weeks(weeks) => Steps::every((weeks * 7 * DAY_MS) as u64, MONDAY_MS),
            Grid::Malformed | Grid::Months(_) => Steps::NEVER,
        }
    }
}

/// Tests for multiples without a division, which would cost as much as all other checks of a row together:
/// `n` is a multiple of `odd << twos` when `n` times the inverse of `odd`, rotated by `twos`, does not
/// exceed the number of multiples (Granlund and Montgomery, 1994). A minute is 60,000 = 1,875 << 5 ms: 120,000
/// times the inverse of 1,875 is 64, rotated by 5 it is 2, the second minute; 120,001 gives a huge number.
#[derive(Debug, Clone, Copy)]
pub struct Steps {
    anchor: i64,
    inverse: u64,
    twos: u32,
    last: u64,
}

impl Steps {
    /// Holds for no time that a candle can have: only for the least of all integers.
    pub const NEVER: Steps = Steps { anchor: i64::MIN, inverse: 1, twos: 0, last: 0 };

    fn every(step: u64, anchor: i64) -> Steps {
        let twos = step.trailing_zeros();
        let odd = step >> twos;
        // Each round doubles the number of right bits, of which `odd` itself has three.
        let inverse =
            (0..5).fold(odd, |inverse, _| inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse))));
        Steps { anchor, inverse, twos, last: u64::MAX / step }
    }

    /// Whether the time is one of the steps; meaningful from the anchor on.
    #[inline]
    pub fn hold(&self, ms: i64) -> bool {
        let distance = ms.wrapping_sub(self.anchor) as u64;
        distance.wrapping_mul(self.inverse).rotate_right(self.twos) <= self.last
    }
}

/// A time for people: `2023-11-14T22:13:20Z`, with milliseconds where there are some.
pub fn utc(ms: i64) -> String {
    let (year, month, day) = civil(ms.div_euclid(DAY_MS));
    let of_day = ms.rem_euclid(DAY_MS);
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1_000 % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if of_day % 1_000 != 0 {
        // Writing to a text cannot fail.
        let _ = write!(text, ".{:03}", of_day % 1_000);
    }
    text.push('Z');
    text
}

/// Year, month and day of a number of days since 1970 (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`].
fn days_of((year, month, day): (i64, i64, i64)) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(day: &str) -> i64 {
        day.parse::<Date>().unwrap().ms()
    }

    #[test]
    fn days_are_read_and_written() {
        assert_eq!("2009-01-03".parse(), Ok(Date::BITCOIN));
        assert_eq!(utc(Date::BITCOIN.ms()), "2009-01-03T00:00:00Z");
        assert_eq!(utc(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(utc(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(utc(ms("2024-02-29")), "2024-02-29T00:00:00Z");
        // The ends of the range are no times of this world, but must not overflow.
        assert!(utc(i64::MAX).ends_with('Z') && utc(i64::MIN).ends_with('Z'));
        for text in [
            "",
            "2009-1-3",
            "2023-02-29",
            "2023-13-01",
            "1969-12-31",
            "2009-01-03T00:00",
            "20090-1-03",
            "2009/01/03",
        ] {
            assert!(text.parse::<Date>().is_err(), "{text}");
        }
        for days in (0..60_000).step_by(7) {
            assert_eq!(days_of(civil(days)), days);
        }
    }

    #[test]
    fn timeframes() {
        for text in "1s 1m 3m 5m 15m 30m 1h 2h 4h 6h 8h 12h 1d 3d 1w 1M 9999d".split(' ') {
            assert_ne!(Grid::of(text), Grid::Malformed, "{text}");
        }
        for text in ["", "m", "1", "0m", "01m", "1 m", "1x", "1min", "-1m", "99999m", "1.5h", "1mm", "١m"] {
            assert_eq!(Grid::of(text), Grid::Malformed, "{text}");
        }
    }

    #[test]
    fn weeks_start_on_monday_or_thursday_and_months_on_the_first() {
        assert!(Grid::of("1w").holds(ms("2023-11-13")));
        assert!(Grid::of("1w").holds(ms("2023-11-16")));
        assert!(!Grid::of("1w").holds(ms("2023-11-15")));
        assert!(!Grid::of("1w").holds(ms("2023-11-13") + 60_000));
        assert!(Grid::of("1M").holds(ms("2023-11-01")));
        assert!(!Grid::of("1M").holds(ms("2023-11-02")));
        assert!(!Grid::of("1M").holds(ms("2023-11-01") + 3_600_000));
        assert!(Grid::of("3M").holds(ms("2023-10-01")));
        assert!(!Grid::of("3M").holds(ms("2023-11-01")));
    }

    #[test]
    fn the_quick_test_agrees_with_the_division() {
        for timeframe in ["1s", "1m", "3m", "7m", "15m", "1h", "1d", "3d", "9999d", "1w", "5w"] {
            let grid = Grid::of(timeframe);
            let (step_ms, anchor) = match grid {
                Grid::Fixed(step_ms) => (step_ms, 0),
                Grid::Weeks(weeks) => (weeks * 7 * DAY_MS, MONDAY_MS),
                other => panic!("{timeframe} is {other:?}"),
            };
            for count in [1, 2, 3, 1_000, 5_000] {
                for shift in [-1_000, -1, 0, 1, 500, 1_000, 60_000] {
                    let time = anchor + count * step_ms + shift;
                    assert_eq!(grid.steps().hold(time), grid.holds(time), "{timeframe} {time}");
                }
            }
        }
        assert!(!Steps::NEVER.hold(0) && !Steps::NEVER.hold(1_700_000_000_000));
    }
}
