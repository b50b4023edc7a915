//! Closed candles of exchanges.
//!
//! - `adapter`: the component that knows the exchange and has no network
//! - `adapters`: its versions, which can be replaced; `trial`: a candidate beside it
//! - `http`: the network, to declared hosts only
//! - `budget`: when the exchange may be asked
//! - `fetch`: one task: adapter, requests, answers, candles
//! - `series`, `ledger`: what to ask of a series next, what of an answer is new, and what is missing
//! - `feed`: live candles over WebSocket
//! - `ledgers`: what is known of each series, in a file
//! - `collector`: the thread of an exchange
//! - `backfill`: the past, for `tidegate backfill`
//! - `plan`: from the pipeline file to what the threads need
//!
//! All series are one partition, whose offsets only count rows: where to go on is not the position but the rows that
//! the sink has. The lane reads them back before the first batch, as it does for rules that remember.

pub mod adapter;
pub mod adapters;
pub mod backfill;
mod bindings;
mod budget;
mod collector;
mod feed;
mod fetch;
mod http;
mod ledger;
pub mod ledgers;
mod pause;
pub mod plan;
mod series;
mod trial;

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use arrow_array::builder::{
    Float64Builder, Int64Builder, StringDictionaryBuilder, TimestampMillisecondBuilder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type, TimestampMillisecondType, UInt32Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use tokio::sync::watch;

use self::adapter::Candle;
use self::adapters::Adapters;
use self::collector::{Collector, Delivery, Plan, Status};
use self::ledger::Counts;
use self::series::{Row, Series};
use super::{Limits, Next, Start};
use crate::batch::{Partition, Payload, Position, RawBatch};
use crate::error::{Error, Result};
use crate::lane::Place;
use crate::log::in_span;
use crate::metrics::ExchangeStatus;
use crate::pipeline_file::Pipeline;
use crate::summary::ExchangeRun;

/// The name of the only partition.
pub const TOPIC: &str = "exchange";

/// Deliveries that wait for the lane: each is a page at most, so some 60,000 candles.
const WAITING_MAX: usize = 64;

/// The columns that say which candle a row is, and with which values.
const NAMES: [&str; 3] = ["source", "symbol", "timeframe"];
const VALUES: [&str; 5] = ["open", "high", "low", "close", "volume"];

/// The source.
pub struct ExchangeSource {
    partition: Partition,
    limits: Limits,
    is_assigned: bool,
    until_end: bool,
    next_offset: u64,
    adapters: Arc<Adapters>,
    plans: Vec<Plan>,
    spread_ms: i64,
    /// The series of each exchange, while no thread has them.
    series: Vec<Vec<Series>>,
    /// Which exchange and which series of it a source, a symbol and a timeframe are.
    index: HashMap<[String; 3], (usize, usize)>,
    statuses: Vec<Arc<Mutex<Status>>>,
    running: Option<Running>,
    /// What the threads have delivered and no batch has.
    waiting: VecDeque<Delivery>,
}

/// Threads, one for each exchange.
struct Running {
    deliveries: Receiver<Delivery>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<std::result::Result<Vec<Series>, String>>>,
}

impl ExchangeSource {
    /// Nothing is asked of the exchanges.
    pub fn open(pipeline: &Pipeline, place: &Place<'_>) -> Result<ExchangeSource> {
        let config = pipeline.source.exchange().expect("the source is opened as what it is");
        let adapters = place.adapters.expect("a lane has the adapters of its exchanges");
        let plans = plan::plans(config, &pipeline.name, adapters, place)?;
        let mut index = HashMap::new();
        for (number, (plan, exchange)) in plans.iter().zip(&config.exchanges).enumerate() {
            for (place, symbol) in exchange.symbols.iter().enumerate() {
                let name = [plan.name.to_string(), symbol.clone(), plan.timeframe.clone()];
                index.insert(name, (number, place));
            }
        }
        let mut source = ExchangeSource {
            partition: Partition { topic: TOPIC.into(), number: 0 },
            limits: Limits::new(&pipeline.batch, &pipeline.decode),
            is_assigned: false,
            until_end: place.until_end,
            next_offset: 0,
            adapters: Arc::clone(adapters),
            statuses: plans.iter().map(|_| Arc::default()).collect(),
            series: Vec::new(),
            spread_ms: i64::try_from(config.spread.0.as_millis()).unwrap_or(i64::MAX),
            plans,
            index,
            running: None,
            waiting: VecDeque::new(),
        };
        source.series = (source.plans.iter().zip(&config.exchanges))
            .map(|(plan, exchange)| source.new_series(plan, &exchange.symbols))
            .collect();
        Ok(source)
    }

    /// Series of which nothing is known, each at its place in the time over which polls are spread.
    fn new_series(&self, plan: &Plan, symbols: &[impl AsRef<str>]) -> Vec<Series> {
        let spread_ms = |symbol: &str| {
            let mut hasher = DefaultHasher::new();
            symbol.hash(&mut hasher);
            (hasher.finish() % u64::try_from(self.spread_ms.max(1)).unwrap_or(1)) as i64
        };
        let new = |symbol: &str| Series::new(symbol.into(), &plan.settings, spread_ms(symbol));
        symbols.iter().map(|symbol| new(symbol.as_ref())).collect()
    }

    /// Rows, at least one; `None` at the end, which only `--until-end` has.
    pub fn receive(&mut self) -> Result<Option<Next>> {
        if !std::mem::replace(&mut self.is_assigned, true) {
            return Ok(Some(Next::Assigned(vec![self.partition.clone()])));
        }
        self.start()?;
        let deadline = Instant::now() + self.limits.wait;
        let mut rows: usize = self.waiting.iter().map(|delivery| delivery.rows.len()).sum();
        while rows < self.limits.rows {
            // Looked at before the deliveries: what a thread has sent before it said so is among them.
            let is_at_end = self.is_at_end();
            let Some(running) = &self.running else { break };
            let wait = if is_at_end {
                Default::default()
            } else {
                deadline.saturating_duration_since(Instant::now())
            };
            match running.deliveries.recv_timeout(wait) {
                Ok(delivery) => {
                    rows += delivery.rows.len();
                    self.waiting.push_back(delivery);
                }
                Err(RecvTimeoutError::Timeout) if rows == 0 && is_at_end => return Ok(None),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
            }
        }
        if self.running.as_ref().is_some_and(|running| running.threads.iter().any(JoinHandle::is_finished)) {
            return Err(self.ended());
        }
        Ok(Some(if rows == 0 { Next::Idle } else { Next::Batch(self.batch()) }))
    }

    /// Whether every series has been brought to the present.
    fn is_at_end(&self) -> bool {
        self.until_end
            && self.statuses.iter().all(|status| status.lock().is_ok_and(|status| status.behind == 0))
    }

    /// Starts the threads, once the rows of the sink are known.
    fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let (sender, deliveries) = sync_channel(WAITING_MAX);
        let (stop, stopped) = watch::channel(false);
        let mut threads = Vec::new();
        let all = std::mem::take(&mut self.series);
        for (number, ((plan, mut series), status)) in
            self.plans.iter().zip(all).zip(&self.statuses).enumerate()
        {
            let now_ms = plan.clock.now_ms();
            series.iter_mut().for_each(|series| series.remembered(now_ms, &plan.settings));
            if let Ok(mut status) = status.lock() {
                *status = Status { behind: series.len(), ..Status::default() };
            }
            let collector = Collector::new(
                plan.clone(),
                (&self.adapters, number),
                series,
                sender.clone(),
                Arc::clone(status),
            );
            let stopped = stopped.clone();
            let thread = std::thread::Builder::new()
                .name(format!("exchange-{}", plan.exchange))
                .spawn(in_span(move || collector.run(stopped)))
                .map_err(|error| Error::Surroundings(format!("cannot start a thread: {error}")))?;
            threads.push(thread);
        }
        self.running = Some(Running { deliveries, stop, threads });
        Ok(())
    }

    /// Ends the threads, and takes back what adapters want to have back.
    fn stop(&mut self) -> std::result::Result<(), String> {
        self.waiting.clear();
        let Some(Running { deliveries, stop, threads }) = self.running.take() else { return Ok(()) };
        // A thread that waits for the lane sees that it is gone.
        drop(deliveries);
        stop.send_replace(true);
        let mut result = Ok(());
        for (plan, thread) in self.plans.iter().zip(threads) {
            let known = match thread.join() {
                Ok(Ok(series)) => series,
                Ok(Err(sentence)) => {
                    result = Err(format!("`{}` cannot be asked: {sentence}", plan.name));
                    continue;
                }
                Err(_) => {
                    result = Err(format!("the thread of `{}` ended by a defect of tidegate", plan.name));
                    continue;
                }
            };
            let symbols: Vec<&str> = known.iter().map(|series| &*series.symbol).collect();
            let mut series = self.new_series(plan, &symbols);
            series.iter_mut().zip(known).for_each(|(new, known)| new.memo = known.memo);
            self.series.push(series);
        }
        result
    }

    /// Ends the threads, and says how each exchange was asked and what is known of its candles.
    pub fn finish(&mut self) -> Result<Vec<ExchangeRun>> {
        self.stop().map_err(Error::Running)?;
        let asked = self.asked().into_iter();
        Ok(asked.map(|status| status.run).collect())
    }

    /// How each exchange is asked at the moment, and what is known of its candles.
    pub fn asked(&self) -> Vec<ExchangeStatus> {
        let status = |(plan, status): (&Plan, &Arc<Mutex<Status>>)| {
            let Status { requests, failures, counts, corrected, behind, blocked_until_ms } =
                *status.lock().unwrap_or_else(PoisonError::into_inner);
            let Counts { received, quiet, absent, missing } = counts;
            let exchange = plan.name.to_string();
            ExchangeStatus {
                run: ExchangeRun {
                    exchange,
                    requests,
                    failures,
                    received,
                    quiet,
                    absent,
                    missing,
                    corrected,
                },
                behind: behind as u64,
                blocked_ms: u64::try_from(blocked_until_ms - plan.clock.now_ms()).unwrap_or(0),
            }
        };
        self.plans.iter().zip(&self.statuses).map(status).collect()
    }

    /// A thread has ended by itself.
    fn ended(&mut self) -> Error {
        let why = self.stop().err().unwrap_or_else(|| "the threads of the exchanges have ended".into());
        Error::Running(why)
    }

    /// A batch of what waits.
    fn batch(&mut self) -> RawBatch {
        let mut builder = BatchBuilder::default();
        let mut room = self.limits.rows;
        while room > 0 {
            let Some(mut delivery) = self.waiting.pop_front() else { break };
            if delivery.rows.len() > room {
                let rest = delivery.rows.split_off(room);
                let rest = Delivery { rows: rest, ..delivery.clone_names() };
                self.waiting.push_front(rest);
            }
            room -= delivery.rows.len();
            builder.push(&delivery);
        }
        let columns = builder.finish();
        let first_offset = self.next_offset;
        self.next_offset += columns.num_rows() as u64;
        RawBatch {
            partition: self.partition.clone(),
            payload: Payload::Columns { columns, first_offset },
            next: Position { next_offset: self.next_offset, fingerprint: String::new() },
        }
    }

    /// Counts on from what the sink has.
    pub fn assign(&mut self, starts: &[Start]) {
        if let Some(position) = starts.iter().find_map(|start| start.position.as_ref()) {
            self.next_offset = position.next_offset;
        }
    }

    /// Forgets what is not written. The rows of the sink come again with [`ExchangeSource::remember`].
    pub fn rewind(&mut self, starts: &[Start]) -> Result<()> {
        self.stop().map_err(Error::Running)?;
        self.assign(starts);
        Ok(())
    }

    /// The partition is given to the lane once more.
    pub fn put_back(&mut self) {
        self.is_assigned = false;
    }

    /// The columns of [`ExchangeSource::remember`], of those that the rows of the sink have.
    pub fn remembers<'a>(&self, has: &dyn Fn(&str) -> bool) -> Vec<&'a str> {
        let columns = NAMES.into_iter().chain(["timestamp"]).chain(VALUES).chain(["revision"]);
        columns.filter(|column| has(column)).collect()
    }

    /// Takes rows that the sink has, with the columns of [`ExchangeSource::remembers`].
    pub fn remember(&mut self, batch: &RecordBatch) {
        let Some(rows) = Remembered::of(batch) else { return };
        for row in 0..batch.num_rows() {
            let Some((name, row)) = rows.at(row) else { continue };
            let Some((exchange, place)) = self.index.get(&name).copied() else { continue };
            let settings = &self.plans[exchange].settings;
            if let Some(series) = self.series.get_mut(exchange).and_then(|series| series.get_mut(place)) {
                series.remember(row, settings);
            }
        }
    }
}

impl Drop for ExchangeSource {
    fn drop(&mut self) {
        // There is nobody left to tell.
        drop(self.stop());
    }
}

impl Delivery {
    /// The same series without rows.
    fn clone_names(&self) -> Delivery {
        let Delivery { source, symbol, timeframe, .. } = self;
        Delivery {
            source: source.clone(),
            symbol: symbol.clone(),
            timeframe: timeframe.clone(),
            rows: Vec::new(),
        }
    }
}

/// Rows that are read back, as columns.
struct Remembered<'a> {
    names: [Texts<'a>; 3],
    timestamp: &'a arrow_array::TimestampMillisecondArray,
    values: Vec<Option<&'a arrow_array::Float64Array>>,
    revision: Option<&'a arrow_array::Int64Array>,
}

/// A column of texts.
struct Texts<'a> {
    keys: &'a arrow_array::UInt32Array,
    texts: &'a arrow_array::StringArray,
}

impl<'a> Texts<'a> {
    fn of(column: &'a ArrayRef) -> Option<Texts<'a>> {
        let dictionary = column.as_dictionary_opt::<UInt32Type>()?;
        Some(Texts { keys: dictionary.keys(), texts: dictionary.values().as_string_opt::<i32>()? })
    }

    fn at(&self, row: usize) -> Option<&'a str> {
        self.keys.is_valid(row).then(|| self.texts.value(self.keys.value(row) as usize))
    }
}

impl<'a> Remembered<'a> {
    /// `None` when a column is not there without which a row is no candle.
    fn of(batch: &'a RecordBatch) -> Option<Remembered<'a>> {
        let texts = |name| batch.column_by_name(name).and_then(Texts::of);
        let [source, symbol, timeframe] = NAMES;
        Some(Remembered {
            names: [texts(source)?, texts(symbol)?, texts(timeframe)?],
            timestamp: batch.column_by_name("timestamp")?.as_primitive_opt::<TimestampMillisecondType>()?,
            values: VALUES
                .iter()
                .map(|name| batch.column_by_name(name)?.as_primitive_opt::<Float64Type>())
                .collect(),
            revision: batch
                .column_by_name("revision")
                .and_then(|column| column.as_primitive_opt::<Int64Type>()),
        })
    }

    fn at(&self, row: usize) -> Option<([String; 3], Row)> {
        let [source, symbol, timeframe] = &self.names;
        let name = [source.at(row)?.to_owned(), symbol.at(row)?.to_owned(), timeframe.at(row)?.to_owned()];
        if self.timestamp.is_null(row) {
            return None;
        }
        let value = |index: usize| {
            self.values[index]
                .filter(|column| column.is_valid(row))
                .map_or(f64::NAN, |column| column.value(row))
        };
        let candle = Candle {
            open_ms: self.timestamp.value(row),
            open: value(0),
            high: value(1),
            low: value(2),
            close: value(3),
            volume: value(4),
            trades: None,
            quote_volume: None,
            vwap: None,
        };
        let revision =
            self.revision.filter(|column| column.is_valid(row)).map_or(0, |column| column.value(row));
        Some((name, Row { candle, revision }))
    }
}

/// Builds the columns of a batch.
#[derive(Default)]
struct BatchBuilder {
    timestamp: TimestampMillisecondBuilder,
    values: [Float64Builder; 5],
    names: [StringDictionaryBuilder<Int32Type>; 3],
    trades: Int64Builder,
    quote_volume: Float64Builder,
    vwap: Float64Builder,
    revision: Int64Builder,
}

impl BatchBuilder {
    fn push(&mut self, delivery: &Delivery) {
        let texts = [&delivery.source, &delivery.symbol, &delivery.timeframe];
        for (builder, text) in self.names.iter_mut().zip(texts) {
            // Looked up once for all rows.
            builder
                .append_n(text, delivery.rows.len())
                .expect("fewer texts than rows, and those have 32-bit numbers");
        }
        for Row { candle, revision } in &delivery.rows {
            self.timestamp.append_value(candle.open_ms);
            let values = [candle.open, candle.high, candle.low, candle.close, candle.volume];
            self.values.iter_mut().zip(values).for_each(|(builder, value)| builder.append_value(value));
            self.trades.append_option(candle.trades);
            self.quote_volume.append_option(candle.quote_volume);
            self.vwap.append_option(candle.vwap);
            self.revision.append_value(*revision);
        }
    }

    fn finish(mut self) -> RecordBatch {
        let mut columns: Vec<(&str, ArrayRef)> =
            vec![("timestamp", Arc::new(self.timestamp.finish().with_timezone("UTC")))];
        for (name, builder) in VALUES.into_iter().zip(&mut self.values) {
            columns.push((name, Arc::new(builder.finish())));
        }
        for (name, builder) in NAMES.into_iter().zip(&mut self.names) {
            columns.push((name, Arc::new(builder.finish())));
        }
        columns.push(("trades", Arc::new(self.trades.finish())));
        columns.push(("quote_volume", Arc::new(self.quote_volume.finish())));
        columns.push(("vwap", Arc::new(self.vwap.finish())));
        columns.push(("revision", Arc::new(self.revision.finish())));
        RecordBatch::try_from_iter(columns).expect("every column has a value or a null for each row")
    }
}
