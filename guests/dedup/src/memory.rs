//! Which candles have been seen: bounded, and 16 bytes a candle.
//!
//! A series holds its candles in order of time, in chunks of at most [`CHUNK`]. A new newest candle is
//! appended; any other place is found by binary search, and a full chunk is split. Candles leave at the old
//! end once they are outside the window, and a chunk at a time when the memory holds more than its limit:
//! whatever chunk has gone longest without a change, of whichever series.

use std::collections::VecDeque;

use tidegate_guest::{PerSeries, SeriesColumns};

/// Candles in a chunk. More would make an insertion out of order dearer (it moves half a chunk, 2 KiB),
/// fewer would make each chunk's own 24 bytes count.
const CHUNK: usize = 256;

/// What a series weighs beside its candles, in candles: its own record, its place in the table, and a
/// first chunk that is mostly empty take 100 to 130 bytes.
const SERIES_WEIGHT: usize = 8;

/// The share of the limit that is freed when it is exceeded, so that the search for what is oldest, which
/// visits every chunk, happens once in so many candles and not for each.
const FREED_SHARE: usize = 16;

/// How many candles of a series its window spans at least: one that is still open and the two before it, which
/// sources send again.
const WINDOW_CANDLES: i64 = 3;

/// Bits of an entry that hold its revision; the others hold the hash of its values. A `1M` candle that is
/// updated six times a second for the whole month has fewer revisions.
const REVISION_BITS: u32 = 24;

/// The highest revision that an entry holds.
pub const MAX_REVISION: u32 = (1 << REVISION_BITS) - 1;

/// One remembered candle.
#[derive(Debug, Clone, Copy)]
struct Entry {
    timestamp: i64,
    /// The hash of the values above [`REVISION_BITS`], the revision below.
    state: u64,
}

impl Entry {
    fn new(timestamp: i64, hash: ValuesHash, revision: u32) -> Entry {
        Entry { timestamp, state: hash.0 << REVISION_BITS | u64::from(revision) }
    }

    fn seen(self) -> Seen {
        let revision = self.state as u32 & MAX_REVISION;
        Seen { hash: ValuesHash(self.state >> REVISION_BITS), revision }
    }
}

/// 40 bits that stand for the values of a candle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValuesHash(u64);

impl ValuesHash {
    /// The upper 40 bits, which a multiplication has mixed best.
    pub fn of_mixed(bits: u64) -> ValuesHash {
        ValuesHash(bits >> REVISION_BITS)
    }
}

/// What is remembered of a candle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its values.
    pub hash: ValuesHash,
    /// The newest revision that was passed, at most [`MAX_REVISION`].
    pub revision: u32,
}

/// A place among the candles of a series; good until the memory changes.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    chunk: usize,
    index: usize,
}

/// What the memory knows of a candle.
#[derive(Debug, Clone, Copy)]
pub enum Found {
    /// It is older than the window of its series: nothing is known, nothing will be remembered.
    TooOld,
    /// It has not been seen; it belongs here.
    New(Place),
    /// It has been seen.
    Known(Place, Seen),
}

/// Candles of one series that follow each other.
#[derive(Debug, Default)]
struct Chunk {
    /// In order of time, no time twice.
    entries: Vec<Entry>,
    /// The memory's count of changes when this chunk last changed.
    touched: u64,
}

impl Chunk {
    fn first(&self) -> Option<i64> {
        self.entries.first().map(|entry| entry.timestamp)
    }

    fn newest(&self) -> Option<i64> {
        self.entries.last().map(|entry| entry.timestamp)
    }

    /// Doubles while small, then grows by 32: a chunk is mostly full, whatever number of candles a series
    /// has.
    fn grow(&mut self) {
        let capacity = self.entries.capacity();
        let grown = if capacity < 64 { (capacity * 2).max(2) } else { (capacity + 32).min(CHUNK) };
        self.entries.reserve_exact(grown.saturating_sub(self.entries.len()).max(1));
    }

    /// Gives unused room back when it is more than half, so that a chunk takes what its candles weigh. The
    /// candles that were taken away pay for the moving of the others.
    fn shrink(&mut self) {
        if self.entries.len() < self.entries.capacity() / 2 {
            self.entries.shrink_to_fit();
        }
    }

    /// Takes away the newer half.
    fn split(&mut self) -> Chunk {
        let newer = self.entries.split_off(self.entries.len() / 2);
        self.entries.shrink_to_fit();
        Chunk { entries: newer, touched: self.touched }
    }
}

/// The candles of one source, symbol and timeframe.
#[derive(Debug)]
struct Series {
    /// What it weighs without candles.
    own_weight: usize,
    /// How far back a candle is recognised.
    window_ms: i64,
    /// The newest timestamp seen; the window counts back from it, or from now when it is in the future.
    newest: i64,
    /// Full chunks, oldest first.
    older: VecDeque<Chunk>,
    /// The newest chunk, which most series have alone: no second allocation for it. It is empty only when
    /// there are no older ones.
    last: Chunk,
}

impl Series {
    fn weight(&self) -> usize {
        self.own_weight + self.chunks().map(|chunk| chunk.entries.len()).sum::<usize>()
    }

    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.older.iter().chain(std::iter::once(&self.last))
    }

    fn chunk_mut(&mut self, chunk: usize) -> &mut Chunk {
        if chunk < self.older.len() { &mut self.older[chunk] } else { &mut self.last }
    }

    /// The oldest moment of the window.
    #[inline]
    fn oldest(&self, now: i64) -> i64 {
        self.newest.min(now).saturating_sub(self.window_ms)
    }

    #[inline]
    fn find(&self, timestamp: i64, oldest: i64) -> Found {
        if timestamp < oldest {
            return Found::TooOld;
        }
        if self.last.newest().is_none_or(|newest| timestamp > newest) {
            return Found::New(Place { chunk: self.older.len(), index: self.last.entries.len() });
        }
        self.search(timestamp)
    }

    fn search(&self, timestamp: i64) -> Found {
        let in_last = self.last.first().is_some_and(|first| timestamp >= first);
        let chunk = if in_last {
            self.older.len()
        } else {
            self.older.partition_point(|chunk| chunk.newest().is_some_and(|newest| newest < timestamp))
        };
        let entries = &self.older.get(chunk).unwrap_or(&self.last).entries;
        match entries.binary_search_by_key(&timestamp, |entry| entry.timestamp) {
            Ok(index) => Found::Known(Place { chunk, index }, entries[index].seen()),
            Err(index) => Found::New(Place { chunk, index }),
        }
    }

    /// Adds a candle at the newest end; says how many were forgotten because they are before `oldest`.
    #[inline]
    fn append(&mut self, entry: Entry, oldest: i64, touched: u64) -> usize {
        let mut expired = 0;
        if self.last.entries.len() == self.last.entries.capacity() {
            expired = self.make_room(oldest);
        }
        self.last.entries.push(entry);
        self.last.touched = touched;
        expired
    }

    /// Makes room in the last chunk: by forgetting where that frees an eighth of it (so that the moving of
    /// its entries is paid by several appends), else by growing it or by starting the next.
    fn make_room(&mut self, oldest: i64) -> usize {
        let expired = self.expire(oldest);
        let capacity = self.last.entries.capacity();
        if self.last.entries.len() + capacity / 8 >= capacity {
            if capacity < CHUNK {
                self.last.grow();
            } else {
                self.older.push_back(std::mem::take(&mut self.last));
                self.last.grow();
            }
        }
        expired
    }

    /// Forgets the candles before `oldest`.
    fn expire(&mut self, oldest: i64) -> usize {
        let mut expired = 0;
        while let Some(chunk) = self.older.pop_front_if(|chunk| chunk.newest() < Some(oldest)) {
            expired += chunk.entries.len();
        }
        self.shrink();
        let front = self.older.front_mut().unwrap_or(&mut self.last);
        let outside = front.entries.partition_point(|entry| entry.timestamp < oldest);
        front.entries.drain(..outside);
        front.shrink();
        expired + outside
    }

    /// Gives room for chunks back when more than half of it is unused.
    fn shrink(&mut self) {
        if self.older.len() < self.older.capacity() / 2 {
            self.older.shrink_to_fit();
        }
    }

    /// Adds a candle before others.
    fn insert(&mut self, place: Place, entry: Entry, touched: u64) {
        let Place { mut chunk, mut index } = place;
        let full = self.chunk_mut(chunk);
        if full.entries.len() == CHUNK {
            let newer = full.split();
            let older_half = full.entries.len();
            self.insert_chunk_after(chunk, newer);
            if index > older_half {
                chunk += 1;
                index -= older_half;
            }
        }
        let chunk = self.chunk_mut(chunk);
        if chunk.entries.len() == chunk.entries.capacity() {
            chunk.grow();
        }
        chunk.entries.insert(index, entry);
        chunk.touched = touched;
    }

    fn insert_chunk_after(&mut self, chunk: usize, newer: Chunk) {
        if chunk < self.older.len() {
            self.older.insert(chunk + 1, newer);
        } else {
            self.older.push_back(std::mem::replace(&mut self.last, newer));
        }
    }

    /// Forgets the chunks that have not changed since `touched`; says whether any is left.
    fn forget_until(&mut self, touched: u64) -> bool {
        self.older.retain(|chunk| chunk.touched > touched);
        self.shrink();
        if self.last.touched > touched {
            return true;
        }
        match self.older.pop_back() {
            Some(chunk) => {
                self.last = chunk;
                true
            }
            None => false,
        }
    }
}

/// What a series weighs without candles: a long name weighs what its bytes take.
fn series_weight(name: [&str; 3]) -> usize {
    let name_bytes: usize = name.into_iter().map(str::len).sum();
    SERIES_WEIGHT + name_bytes / size_of::<Entry>()
}

/// The length of a candle, such as `5m` or `1M` (a month counts 31 days); 0 when the text is no timeframe.
fn candle_ms(timeframe: &str) -> i64 {
    let digits = timeframe.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = timeframe.split_at(digits);
    let unit_ms = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 7 * 86_400_000,
        "M" => 31 * 86_400_000,
        _ => return 0,
    };
    number.parse::<i64>().ok().and_then(|number| number.checked_mul(unit_ms)).unwrap_or(0)
}

/// A series that has not been met: none if it is too heavy.
fn new_series(
    name: [&str; 3],
    window_ms: i64,
    limit: usize,
    weight: &mut usize,
    changes: &mut u64,
) -> Option<Series> {
    let own_weight = series_weight(name);
    if own_weight > limit / FREED_SHARE {
        return None;
    }
    *changes += 1;
    *weight += own_weight;
    Some(Series {
        own_weight,
        window_ms: window_ms.max(candle_ms(name[2]).saturating_mul(WINDOW_CANDLES)),
        newest: i64::MIN,
        older: VecDeque::new(),
        last: Chunk { entries: Vec::new(), touched: *changes },
    })
}

/// The candles that have been seen.
#[derive(Debug)]
pub struct Memory {
    window_ms: i64,
    /// No window counts back from a later time.
    now: i64,
    limit: usize,
    series: PerSeries<Series>,
    /// Candles, and [`series_weight`] for each series.
    weight: usize,
    /// How many changes there have been: the memory's own clock.
    changes: u64,
}

impl Memory {
    /// An empty memory that weighs at most `limit`, for candles not older than `window_ms` before the newest of
    /// their series, or [`WINDOW_CANDLES`] of them where that is longer.
    pub fn new(window_ms: i64, limit: usize) -> Memory {
        Memory { window_ms, now: i64::MIN, limit, series: PerSeries::default(), weight: 0, changes: 0 }
    }

    /// Before the first row of a batch of so many rows.
    pub fn start(&mut self, columns: &SeriesColumns<'_>, rows: usize) {
        self.series.start(columns, rows);
    }

    /// Sets the time. Without one no candle is too old.
    pub fn set_now(&mut self, now: Option<i64>) {
        self.now = now.unwrap_or(i64::MIN);
    }

    /// The number of a row's series, which it has until [`Memory::keep_within_limit`] forgets something. A series
    /// that alone weighs more than what is freed at a time has none: it would push everything else out.
    #[inline]
    pub fn series(&mut self, columns: &SeriesColumns<'_>, row: usize) -> Option<u32> {
        let Memory { window_ms, limit, series, weight, changes, .. } = self;
        series.number(columns, row, |name| new_series(name, *window_ms, *limit, weight, changes))
    }

    /// What is known of a candle.
    #[inline]
    pub fn find(&self, series: u32, timestamp: i64) -> Found {
        let series = &self.series[series];
        series.find(timestamp, series.oldest(self.now))
    }

    /// Remembers a candle that [`Memory::find`] called new.
    #[inline]
    pub fn insert(&mut self, series: u32, place: Place, timestamp: i64, seen: Seen) {
        let series = &mut self.series[series];
        let entry = Entry::new(timestamp, seen.hash, seen.revision);
        self.changes += 1;
        self.weight += 1;
        series.newest = series.newest.max(timestamp);
        if place.chunk == series.older.len() && place.index == series.last.entries.len() {
            self.weight -= series.append(entry, series.oldest(self.now), self.changes);
        } else {
            series.insert(place, entry, self.changes);
        }
    }

    /// Remembers other values of a candle that [`Memory::find`] knew.
    pub fn replace(&mut self, series: u32, place: Place, seen: Seen) {
        self.changes += 1;
        let chunk = self.series[series].chunk_mut(place.chunk);
        chunk.touched = self.changes;
        let entry = &mut chunk.entries[place.index];
        *entry = Entry::new(entry.timestamp, seen.hash, seen.revision);
    }

    /// Forgets what has gone longest without a change when there is more than the limit; says whether it
    /// did, because the numbers of series and places are then void.
    #[inline]
    pub fn keep_within_limit(&mut self) -> bool {
        let exceeded = self.weight > self.limit;
        if exceeded {
            self.forget_oldest();
        }
        exceeded
    }

    fn forget_oldest(&mut self) {
        let goal = self.limit - self.limit / FREED_SHARE;
        let mut weight = self.weight;
        let mut until = 0;
        for (touched, chunk_weight) in self.chunks_by_age() {
            if weight <= goal {
                break;
            }
            weight = weight.saturating_sub(chunk_weight);
            until = touched;
        }
        self.series.retain(|series| series.forget_until(until));
        self.weight = self.series.values().map(Series::weight).sum();
    }

    /// When each chunk last changed and what it weighs, the longest unchanged first. Only a lone chunk
    /// surely takes the weight of its series with it.
    fn chunks_by_age(&self) -> Vec<(u64, usize)> {
        let mut ages = Vec::new();
        for series in self.series.values() {
            if series.older.is_empty() {
                ages.push((series.last.touched, series.weight()));
            } else {
                ages.extend(series.chunks().map(|chunk| (chunk.touched, chunk.entries.len())));
            }
        }
        ages.sort_unstable();
        ages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    /// Adds nothing to the window.
    const TIMEFRAME: &str = "tick";

    impl Memory {
        fn named(&mut self, name: [&str; 3]) -> Option<u32> {
            let Memory { window_ms, limit, series, weight, changes, .. } = self;
            series.named(name, |name| new_series(name, *window_ms, *limit, weight, changes))
        }

        /// A memory for candles of which none is in the future.
        fn of_past(window_ms: i64, limit: usize) -> Memory {
            let mut memory = Memory::new(window_ms, limit);
            memory.set_now(Some(i64::MAX));
            memory
        }

        /// Remembers a candle as the rule does, whatever is known of it; says what was.
        fn put(&mut self, symbol: &str, timestamp: i64, hash: u64) -> Option<Seen> {
            let seen = Seen { hash: ValuesHash(hash), revision: 0 };
            let series = self.named(["s", symbol, TIMEFRAME]).unwrap();
            let known = match self.find(series, timestamp) {
                Found::TooOld => None,
                Found::New(place) => {
                    self.insert(series, place, timestamp, seen);
                    None
                }
                Found::Known(place, known) => {
                    self.replace(series, place, seen);
                    Some(known)
                }
            };
            self.keep_within_limit();
            known
        }

        fn knows(&mut self, symbol: &str, timestamp: i64) -> bool {
            let series = self.named(["s", symbol, TIMEFRAME]).unwrap();
            matches!(self.find(series, timestamp), Found::Known(..))
        }

        /// What the allocator was asked for.
        fn bytes(&self) -> usize {
            let chunks = self.series.values().map(|series| {
                series.older.capacity() * size_of::<Chunk>()
                    + series.chunks().map(|chunk| chunk.entries.capacity() * 16).sum::<usize>()
            });
            chunks.sum::<usize>() + self.series.bytes()
        }

        fn candles(&self) -> usize {
            self.series.values().flat_map(Series::chunks).map(|chunk| chunk.entries.len()).sum()
        }

        fn check(&self) {
            assert_eq!(self.weight, self.series.values().map(Series::weight).sum::<usize>());
            for series in self.series.values() {
                let times: Vec<i64> = series
                    .chunks()
                    .flat_map(|chunk| chunk.entries.iter().map(|entry| entry.timestamp))
                    .collect();
                assert!(times.is_sorted_by(|a, b| a < b));
                assert!(series.chunks().all(|chunk| chunk.entries.len() <= CHUNK));
                assert!(series.older.iter().all(|chunk| !chunk.entries.is_empty()));
                assert!(series.older.is_empty() || !series.last.entries.is_empty());
            }
        }
    }

    /// Numbers that look random and are the same each time.
    fn shuffle<T>(items: &mut [T]) {
        let mut state = 1_u64;
        for last in (1..items.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            items.swap(last, (state >> 33) as usize % (last + 1));
        }
    }

    #[test]
    fn an_entry_is_16_bytes_and_holds_both_parts() {
        assert_eq!(size_of::<Entry>(), 16);
        let hash = ValuesHash::of_mixed(u64::MAX);
        assert_eq!(Entry::new(-1, hash, 0xab_cdef).seen(), Seen { hash, revision: 0xab_cdef });
        let last = Seen { hash: ValuesHash(0), revision: MAX_REVISION };
        assert_eq!(Entry::new(0, last.hash, last.revision).seen(), last);
    }

    #[test]
    fn the_window_includes_its_oldest_moment() {
        let mut memory = Memory::of_past(10, 1_000);
        memory.put("x", 90, 1);
        memory.put("x", 89, 1);
        memory.put("x", 100, 1);
        assert!(memory.knows("x", 90));
        assert!(!memory.knows("x", 89), "outside since 100 came");
        memory.put("x", 89, 1);
        assert!(!memory.knows("x", 89), "and not remembered again");
        assert_eq!(memory.put("x", 90, 2), Some(Seen { hash: ValuesHash(1), revision: 0 }));
    }

    #[test]
    fn a_timeframe_has_a_length() {
        let day = 86_400_000;
        for (timeframe, expected) in [
            ("1s", 1_000),
            ("15m", 900_000),
            ("4h", day / 6),
            ("3d", 3 * day),
            ("1w", 7 * day),
            ("2M", 62 * day),
            ("9223372036854775807d", 0),
            ("99999999999999999999s", 0),
            ("1y", 0),
            ("m", 0),
            ("-1m", 0),
            ("", 0),
            ("1é", 0),
        ] {
            assert_eq!(candle_ms(timeframe), expected, "{timeframe}");
        }
    }

    #[test]
    fn extreme_timestamps_do_no_harm() {
        let mut memory = Memory::of_past(i64::MAX, 1_000);
        for timestamp in [0, i64::MIN, i64::MAX, -1] {
            memory.put("x", timestamp, 1);
        }
        assert!(memory.knows("x", i64::MAX) && memory.knows("x", 0));
        assert!(!memory.knows("x", i64::MIN), "too old since the last moment of all came");
        memory.check();
    }

    #[test]
    fn any_order_of_arrival_is_remembered() {
        let in_order: Vec<i64> = (0..3_000).collect();
        let mut shuffled = in_order.clone();
        shuffle(&mut shuffled);
        let reversed: Vec<i64> = in_order.iter().rev().copied().collect();
        let interleaved: Vec<i64> =
            (0..3_000).map(|i| if i % 2 == 0 { i / 2 } else { 2_999 - i / 2 }).collect();
        for order in [&in_order, &shuffled, &reversed, &interleaved] {
            let mut memory = Memory::of_past(1_000_000, 1_000_000);
            for timestamp in order {
                assert_eq!(memory.put("x", *timestamp, *timestamp as u64), None);
            }
            memory.check();
            assert_eq!(memory.candles(), 3_000);
            for timestamp in order {
                let known = memory.put("x", *timestamp, 0).unwrap();
                assert_eq!(known.hash, ValuesHash(*timestamp as u64));
            }
        }
    }

    #[test]
    fn old_candles_leave_as_new_ones_come() {
        for window in [0, 5, 100, 230, 255, 256, 1_440] {
            let mut memory = Memory::of_past(window * MINUTE, 1_000_000);
            for minute in 0..20_000 {
                memory.put("x", minute * MINUTE, 1);
                assert!(memory.candles() <= (window + 1) as usize + CHUNK + CHUNK / 8);
            }
            memory.check();
            assert!(memory.knows("x", (19_999 - window) * MINUTE));
            assert!(!memory.knows("x", (19_998 - window) * MINUTE));
        }
    }

    #[test]
    fn beyond_the_limit_what_is_unchanged_longest_goes_first() {
        let mut memory = Memory::of_past(i64::MAX, 2_000);
        for minute in 0..300 {
            memory.put("idle", minute, 1);
        }
        for minute in 0..1_500 {
            memory.put("a", minute, 1);
            memory.put("b", minute, 1);
            assert!(memory.weight <= 2_000);
        }
        memory.check();
        assert_eq!(memory.series.len(), 2, "the idle series went as a whole");
        for symbol in ["a", "b"] {
            assert!(memory.knows(symbol, 1_499) && memory.knows(symbol, 900), "{symbol}");
            assert!(!memory.knows(symbol, 0), "the window of {symbol} shrank");
        }
    }

    #[test]
    fn a_series_that_only_gets_older_candles_stays_within_the_limit() {
        let mut memory = Memory::of_past(i64::MAX, 1_000);
        for minute in (0..5_000).rev() {
            memory.put("x", minute, 1);
            assert!(memory.weight <= 1_000);
        }
        memory.check();
        assert!(memory.knows("x", 0) && memory.knows("x", 500));
        assert!(!memory.knows("x", 4_999), "it was remembered longest ago");
    }

    #[test]
    fn a_flood_of_series_stays_bounded() {
        let mut memory = Memory::of_past(MINUTE, 1_000_000);
        for number in 0..200_000 {
            memory.put(&format!("SYMBOL{number}"), 0, 1);
            assert!(memory.weight <= 1_000_000);
        }
        memory.check();
        assert!(memory.bytes() < 32 << 20, "{}", memory.bytes());
        assert!(memory.knows("SYMBOL199999", 0) && !memory.knows("SYMBOL0", 0));
    }

    #[test]
    fn candles_that_leave_give_their_room_back() {
        for (candles, kept) in [(100, 60), (256, 0), (256, 40), (5_000, 0), (5_000, 60)] {
            let mut memory = Memory::of_past(1_440 * MINUTE, 200_000);
            for number in 0..500 {
                let symbol = number.to_string();
                for minute in 0..candles {
                    memory.put(&symbol, minute * MINUTE, 1);
                }
                for minute in 0..=kept {
                    memory.put(&symbol, (candles + 1_500 + minute) * MINUTE, 1);
                }
            }
            memory.check();
            // Twice what a candle takes, for chunks that are half empty.
            let bytes = memory.bytes() / memory.weight;
            assert!(bytes <= 32, "{candles} candles, then {kept}: {bytes} bytes for a weight of 1");
        }
    }

    #[test]
    fn long_names_weigh_what_they_take() {
        let mut memory = Memory::of_past(MINUTE, 100_000);
        for number in 0..5_000 {
            memory.put(&format!("{number:>10000}"), 0, 1);
        }
        assert!(memory.bytes() < 2 << 20, "{}", memory.bytes());
        memory.check();
    }

    #[test]
    fn a_name_that_weighs_more_than_what_is_freed_at_a_time_is_no_series() {
        let mut memory = Memory::of_past(MINUTE, 1_600);
        let longest = (100 - SERIES_WEIGHT + 1) * 16 - 1 - "s".len() - TIMEFRAME.len();
        assert!(memory.named(["s", &"x".repeat(longest), TIMEFRAME]).is_some());
        assert_eq!(memory.weight, 100);
        assert!(memory.named(["s", &"x".repeat(longest + 1), TIMEFRAME]).is_none());
        memory.check();
    }

    #[test]
    fn a_million_candles_fit() {
        for (series, candles) in [(1, 1_000_000), (700, 1_440), (10_000, 100)] {
            let mut order: Vec<(i64, i64)> =
                (0..candles).flat_map(|minute| (0..series).map(move |symbol| (symbol, minute))).collect();
            for is_shuffled in [false, true] {
                if is_shuffled {
                    shuffle(&mut order);
                }
                let mut memory = Memory::of_past(i64::MAX, 2_000_000);
                let names: Vec<String> = (0..series).map(|number| format!("COIN{number}/USDT")).collect();
                for (symbol, minute) in &order {
                    memory.put(&names[*symbol as usize], minute * MINUTE, 1);
                }
                memory.check();
                assert_eq!(memory.candles(), order.len());
                let bytes = memory.bytes() as f64 / order.len() as f64;
                println!("{series} series of {candles}, shuffled {is_shuffled}: {bytes:.1} bytes a candle");
                assert!(memory.bytes() < 25 << 20, "{series} series: {}", memory.bytes());
            }
        }
    }
}
