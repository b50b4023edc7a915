//! Timeframes, and times as texts.

/// The timeframes of the contract, and their lengths in milliseconds.
const TIMEFRAMES: [(&str, i64); 12] = [
    ("1m", 60_000),
    ("3m", 180_000),
    ("5m", 300_000),
    ("15m", 900_000),
    ("30m", 1_800_000),
    ("1h", 3_600_000),
    ("2h", 7_200_000),
    ("4h", 14_400_000),
    ("6h", 21_600_000),
    ("8h", 28_800_000),
    ("12h", 43_200_000),
    ("1d", DAY_MS),
];

const DAY_MS: i64 = 86_400_000;

/// The length of a timeframe of the contract; `None` for any other text.
pub fn timeframe_ms(timeframe: &str) -> Option<i64> {
    TIMEFRAMES.iter().find(|(name, _)| *name == timeframe).map(|(_, ms)| *ms)
}

/// A time in milliseconds since 1970 as RFC 3339 has it, in UTC: `2023-11-14T22:13:20Z`, with milliseconds where there
/// are some.
pub fn rfc3339(ms: i64) -> String {
    let (year, month, day) = civil(ms.div_euclid(DAY_MS));
    let of_day = ms.rem_euclid(DAY_MS);
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1_000 % 60);
    let fraction = match of_day % 1_000 {
        0 => String::new(),
        fraction_ms => format!(".{fraction_ms:03}"),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// The milliseconds since 1970 of a time as RFC 3339 has it, in UTC (`Z` or `+00:00`); digits behind the millisecond
/// are cut off. `None` for any other text.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let text = text.strip_suffix(['Z', 'z']).or_else(|| text.strip_suffix("+00:00"))?;
    let bytes = text.as_bytes();
    let signs = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if bytes.len() < 19 || !signs.iter().all(|(place, sign)| bytes[*place] == *sign) {
        return None;
    }
    let (year, month, day) = (digits(&bytes[0..4])?, digits(&bytes[5..7])?, digits(&bytes[8..10])?);
    let (hour, minute, second) = (digits(&bytes[11..13])?, digits(&bytes[14..16])?, digits(&bytes[17..19])?);
    let fraction_ms = match &bytes[19..] {
        [] => 0,
        [b'.', fraction @ ..] if !fraction.is_empty() && fraction.iter().all(u8::is_ascii_digit) => {
            let digit = |place: usize| fraction.get(place).map_or(0, |digit| i64::from(digit - b'0'));
            digit(0) * 100 + digit(1) * 10 + digit(2)
        }
        _ => return None,
    };
    let days = days_of(year, month, day);
    // A day that does not exist, such as the 30th of February, comes back as another one.
    if civil(days) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some(days * DAY_MS + hour * 3_600_000 + minute * 60_000 + second * 1_000 + fraction_ms)
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter()
        .try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
}

/// Year, month and day of a number of days since 1970 (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, of_year - (153 * shifted_month + 2) / 5 + 1)
}

/// Days since 1970 (Howard Hinnant's `days_from_civil`).
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeframes_have_lengths() {
        assert_eq!(timeframe_ms("1m"), Some(60_000));
        assert_eq!(timeframe_ms("1d"), Some(86_400_000));
        for (name, ms) in TIMEFRAMES {
            assert_eq!(DAY_MS % ms, 0, "{name}");
        }
        for text in ["", "1", "2m", "1M", "1w", "01m", "60s"] {
            assert_eq!(timeframe_ms(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_written_and_read() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_700_000_000_000, "2023-11-14T22:13:20Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (4_102_444_800_000, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(ms), text);
            assert_eq!(parse_rfc3339(text), Some(ms));
        }
        let mut ms = -2_000_000_000_000;
        while ms < 5_000_000_000_000 {
            assert_eq!(parse_rfc3339(&rfc3339(ms)), Some(ms));
            ms += 12_345_678_901;
        }
    }

    #[test]
    fn more_or_fewer_digits_of_a_second_are_read() {
        assert_eq!(parse_rfc3339("2023-10-04T15:25:00.000000000Z"), Some(1_696_433_100_000));
        assert_eq!(parse_rfc3339("2023-10-04T15:25:00.0259+00:00"), Some(1_696_433_100_025));
        assert_eq!(parse_rfc3339("2023-10-04T15:25:00.5Z"), Some(1_696_433_100_500));
    }

    #[test]
    fn what_is_no_time_is_not_read() {
        for text in [
            "",
            "Z",
            "2023-10-04T15:25:00",
            "2023-10-04T15:25:00+02:00",
            "2023-02-30T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-10-04T24:00:00Z",
            "2023-10-04 15:25:00Z",
            "2023-10-04T15:25:00.Z",
            "2023-10-04T15:25:00.1eZ",
            "+023-10-04T15:25:00Z",
            "2023-10-0éT15:25:0Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}
