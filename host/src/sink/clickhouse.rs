//! A table of ClickHouse.
//!
//! ClickHouse has no transactions, but it knows by a token a block that it was given before. So the rows of a source
//! partition are collected in a block, and before the block is inserted its range of offsets is planned: kept where it
//! survives this process, together with an id. Whatever then happens to the insert, the same range is inserted again
//! under the same token until the position after it is kept, and the server takes it once. The position and the plan
//! are in the offset that the consumer group has committed, where a lane that has lost the partition can no longer
//! write them; for a source without a group they are in a table, see `positions`.
//!
//! The steps of a checkpoint are: plans, inserts, positions. A plan that is found at the start is repeated as one block
//! of exactly its range, whatever the limits of a block say now.
//!
//! - `client`: the way to the server, and what its errors mean
//! - `tables`: statements and checks
//! - `types`: which values a column holds
//! - `block`: rows as they are sent
//! - `positions`: positions of sources that have no group
//! - `read_back`: rows as they come back

mod block;
mod client;
mod positions;
mod read_back;
mod tables;
mod types;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMillisecondType;
use arrow_array::{Array, RecordBatch, UInt32Array};
use arrow_schema::{Schema, SchemaRef};
use arrow_select::take::take_record_batch;

use super::values::{Value, has_timestamp, project};
use super::{Stored, Write};
use crate::batch::{Partition, Position};
use crate::crash;
use crate::dead_letter::DeadLetter;
use crate::error::{Error, Result};
use crate::lane::Place;
use crate::pipeline_file::{self, ClickhouseSink as Config, Insert, PartitionBy, Remember};
use crate::source::{Plan, Source, Start};
pub use block::Block;
use client::{Client, Failure, Version};
use positions::Positions;
pub use tables::statements;
use tables::{Partitioning, Target};
pub use types::Type;

/// The longest wait for more rows while the table has too many parts.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

const DAY_MS: i64 = 86_400_000;

/// A table of rows, and the dead letter beside it.
pub struct ClickhouseSink {
    client: Client,
    version: Version,
    pipeline: String,
    schema: SchemaRef,
    limits: Insert,
    /// How long rows wait: `limits.wait`, and more while the table has too many parts.
    wait: Duration,
    rows: Target,
    letters: Target,
    table: String,
    /// Of a source whose group does not keep them.
    positions: Option<Positions>,
    waiting: HashMap<Partition, Waiting>,
}

/// The rows of a partition that are not inserted.
struct Waiting {
    first: Position,
    next: Position,
    /// What was planned before this process or this attempt, and must be inserted as it was.
    repeated: Option<Plan>,
    /// By the part of the table that the rows are for.
    blocks: BTreeMap<Unit, Block>,
    letters: Option<Block>,
    since: Instant,
}

/// The part of a table that a row is for: the first day of it since 1970; nothing where the table has no parts that are
/// known.
type Unit = Option<i64>;

/// Everything that is wrong with the tables of a pipeline, as sentences with what mends it.
///
/// # Errors
/// [`Error::Surroundings`] when the server cannot be reached.
pub fn check(
    config: &Config,
    pipeline: &pipeline_file::Pipeline,
    schema: &Schema,
    place: &Place<'_>,
) -> Result<Vec<String>> {
    let client = Client::new(config, place.folder, &place.patience)?;
    let version = client.reach(&place.patience)?;
    tables::problems(&client, version, config, pipeline, schema)
}

impl ClickhouseSink {
    /// Connects, and compares the tables with the rows, or makes them.
    pub fn open(
        config: &Config,
        pipeline: &pipeline_file::Pipeline,
        schema: &SchemaRef,
        place: &Place<'_>,
    ) -> Result<ClickhouseSink> {
        let client = Client::new(config, place.folder, &place.patience)?;
        let version = client.reach(&place.patience)?;
        warn_of_old(&client, version);
        let lasting = |what: &str, failure| match client.error(what, failure) {
            Error::Rewind(text) => Error::Surroundings(text),
            other => other,
        };
        let has_group = pipeline.source.kafka().is_some();
        let statements = tables::statements_for(config, pipeline, schema, version)?;
        // What this program keeps for itself is made in any case.
        let made = if config.create { 0 } else { statements.len() - usize::from(!has_group) };
        for statement in &statements[made..] {
            client.execute(None, statement).map_err(|failure| lasting("cannot make a table", failure))?;
        }
        let problems = tables::problems(&client, version, config, pipeline, schema)?;
        if !problems.is_empty() {
            return Err(Error::Surroundings(problems.join("\n")));
        }
        let (rows, letters) = tables::targets(&client, version, config, pipeline, schema)?;
        Ok(ClickhouseSink {
            version,
            pipeline: pipeline.name.clone(),
            schema: schema.clone(),
            limits: config.insert,
            wait: config.insert.wait.0,
            rows,
            letters,
            table: format!("{}.{}", tables::quoted(&config.database), tables::quoted(&config.table)),
            positions: (!has_group).then(|| Positions::new(&config.database, &pipeline.name)),
            waiting: HashMap::new(),
            client,
        })
    }

    /// Where to go on with a partition, and what must be inserted again. What waits of it is thrown away.
    pub fn start(&mut self, partition: &Partition) -> Result<Start> {
        self.waiting.remove(partition);
        match &mut self.positions {
            None => Ok(Start { partition: partition.clone(), position: None, planned: None }),
            Some(positions) => positions
                .start(&self.client, partition)
                .map_err(|failure| self.client.error("cannot ask for the position", failure)),
        }
    }

    /// Adds rows and dead letters to the blocks of their partition. Nothing is inserted, unless rows of a plan that is
    /// repeated are gone at its end.
    pub fn write(&mut self, write: &Write<'_>, source: &mut Source) -> Result<Stored> {
        let repeated = self.waiting.get(write.partition).and_then(|waiting| waiting.repeated);
        if let Some(plan) = repeated.filter(|plan| write.first >= plan.end)
            && let Some(waiting) = self.waiting.get_mut(write.partition)
        {
            waiting.next.next_offset = plan.end;
            self.checkpoint(source)?;
        }
        let waiting = self
            .waiting
            .entry(write.partition.clone())
            .or_insert_with(|| Waiting::new(write, source.plan(write.partition)));
        let before = waiting.bytes();
        let refused = waiting.add(write, &self.rows, &self.letters);
        Ok(Stored { duplicates: 0, refused, bytes: (waiting.bytes() - before) as u64 })
    }

    /// Whether rows wait that are not inserted.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the blocks are to be inserted.
    pub fn is_due(&self) -> bool {
        if self.waiting.values().any(Waiting::is_repeated_whole) {
            return true;
        }
        let mut own = self.waiting.values().filter(|waiting| waiting.repeated.is_none());
        let bytes: usize = self.waiting.values().map(Waiting::bytes).sum();
        own.clone().any(|waiting| waiting.rows() >= self.limits.rows || waiting.since.elapsed() >= self.wait)
            || (bytes as u64 >= self.limits.bytes.0 && own.next().is_some())
    }

    /// Plans the blocks, inserts them, and keeps the positions after them. A plan that is repeated and not yet read to
    /// its end goes on waiting.
    pub fn checkpoint(&mut self, source: &mut Source) -> Result<()> {
        let is_ready = |waiting: &Waiting| waiting.repeated.is_none() || waiting.is_repeated_whole();
        let mut ready: Vec<(Partition, Waiting, Plan)> = self
            .waiting
            .extract_if(|_, waiting| is_ready(waiting))
            .map(|(partition, waiting)| {
                let plan = waiting.plan();
                (partition, waiting, plan)
            })
            .collect();
        if ready.is_empty() {
            return Ok(());
        }
        ready.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        let planned: Vec<Start> = ready
            .iter()
            .filter(|(_, waiting, _)| waiting.repeated.is_none() && !waiting.is_empty())
            .map(|(partition, waiting, plan)| Start {
                partition: partition.clone(),
                position: Some(waiting.first.clone()),
                planned: Some(*plan),
            })
            .collect();
        if !planned.is_empty() {
            crash::point("before_plan");
            self.keep(source, &planned)?;
            crash::point("after_plan");
        }
        let kept: Vec<Start> = ready
            .iter()
            .map(|(partition, waiting, _)| Start {
                partition: partition.clone(),
                position: Some(waiting.next.clone()),
                planned: None,
            })
            .collect();
        for (partition, waiting, plan) in ready {
            self.insert(source, &partition, waiting, plan)?;
        }
        crash::point("before_position");
        self.keep(source, &kept)?;
        self.wait = (self.wait / 2).max(self.limits.wait.0);
        Ok(())
    }

    /// Keeps positions and plans so that they survive this process.
    fn keep(&mut self, source: &mut Source, starts: &[Start]) -> Result<()> {
        match &mut self.positions {
            None => source.commit(starts),
            Some(positions) => positions
                .keep(&self.client, source, starts)
                .map_err(|failure| self.client.error("the position is not kept", failure)),
        }
    }

    /// Inserts the blocks of a partition. Each is let go as soon as the server has it.
    fn insert(
        &mut self,
        source: &mut Source,
        partition: &Partition,
        waiting: Waiting,
        plan: Plan,
    ) -> Result<()> {
        let Partition { topic, number } = partition;
        let Plan { first, end, id } = plan;
        let token = format!("{}/{topic}/{number}/{first}-{end}/{id:016x}", self.pipeline);
        for (unit, block) in waiting.blocks {
            let token = unit.map_or_else(|| token.clone(), |unit| format!("{token}/{}", date(unit)));
            let inserted = self.insert_block(source, &self.rows, &block, token);
            inserted.map_err(|failure| self.not_inserted(failure))?;
            crash::point("after_insert");
        }
        if let Some(block) = waiting.letters {
            let inserted = self.insert_block(source, &self.letters, &block, format!("{token}/dead_letter"));
            inserted.map_err(|failure| self.not_inserted(failure))?;
        }
        Ok(())
    }

    fn insert_block(
        &self,
        source: &mut Source,
        target: &Target,
        block: &Block,
        token: String,
    ) -> std::result::Result<(), Failure> {
        let mut settings = vec![
            // A status before all of it is done would be a guess.
            ("wait_end_of_query", "1".to_owned()),
            ("insert_deduplicate", "1".to_owned()),
            // The block is one, and is to stay one.
            ("min_insert_block_size_rows", "0".to_owned()),
            ("min_insert_block_size_bytes", "0".to_owned()),
        ];
        if self.version >= Version::TOKENS {
            settings.push(("insert_deduplication_token", token));
        }
        if self.version >= Version::ASYNC_INSERTS {
            // Else the server would make one block of this and others.
            settings.push(("async_insert", "0".to_owned()));
        }
        if target.partition == Partitioning::Other {
            settings.push(("max_partitions_per_insert_block", "0".to_owned()));
        }
        self.client.insert(source, &target.insert, &settings, block.pieces(&target.columns))
    }

    fn not_inserted(&mut self, failure: Failure) -> Error {
        if failure.is_too_many_parts() {
            self.wait = (self.wait * 2).clamp(Duration::from_secs(1), LONGEST_WAIT);
        }
        self.client.error("a block is not inserted", failure)
    }

    /// After an [`Error::Rewind`]: nothing waits any more, and the server answers.
    pub fn recover(&mut self, source: &mut Source) -> Result<()> {
        self.waiting.clear();
        match self.client.ask(Some(source), "SELECT 1") {
            Ok(_) => Ok(()),
            Err(failure) => Err(self.client.error("does not answer", failure)),
        }
    }

    /// Reads the newest rows back, by `timestamp`.
    pub fn read_back(
        &mut self,
        columns: &[String],
        remember: &Remember,
        each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let schema = project(&self.schema, columns)?;
        if columns.is_empty() {
            return Ok(());
        }
        if !has_timestamp(&self.schema) {
            return Err(Error::Files(
                "a rule remembers, and the rows have no column `timestamp`, by which alone a table of ClickHouse could \
                 say which are the newest: give them one, or leave the rule out"
                    .into(),
            ));
        }
        let query = read_back::query(&self.table, columns, &self.rows.columns, &self.schema, remember);
        let Some(query) = query else { return Ok(()) };
        let mut reader = read_back::Reader::new(&schema, self.client.place());
        self.client.read(&query, "RowBinary", &mut |piece| reader.take(piece, each))?;
        reader.finish(each)
    }
}

impl Waiting {
    fn new(write: &Write<'_>, plan: Option<Plan>) -> Waiting {
        let is_expected = write.expected.next_offset == write.first;
        let fingerprint = if is_expected { write.expected.fingerprint.clone() } else { String::new() };
        Waiting {
            first: Position { next_offset: write.first, fingerprint },
            next: write.next.clone(),
            // A plan that is over was kept together with the position after it, or its rows are gone.
            repeated: plan.filter(|plan| (plan.first..plan.end).contains(&write.first)),
            blocks: BTreeMap::new(),
            letters: None,
            since: Instant::now(),
        }
    }

    /// Adds the rows of a batch; gives those that the table cannot hold, which are in the dead letter.
    fn add(&mut self, write: &Write<'_>, rows: &Target, letters: &Target) -> Vec<crate::batch::Reject> {
        self.next.clone_from(write.next);
        let misfits = types::misfits(&rows.columns, write.kept);
        for (unit, selected) in units(write.kept, rows.partition, |row| misfits.contains_key(&row)) {
            let types = || rows.columns.iter().map(|(_, column_type)| column_type);
            let block = self.blocks.entry(unit).or_insert_with(|| Block::new(types()));
            match selected {
                None => block.append(&rows.columns, write.kept),
                Some(selected) => {
                    let batch = take_record_batch(write.kept, &UInt32Array::from(selected));
                    block.append(&rows.columns, &batch.expect("the rows are rows of the batch"));
                }
            }
        }
        let refused: Vec<DeadLetter<'_>> = misfits
            .into_iter()
            .map(|(row, (misfit, detail))| (write.refuse)(row, misfit.reason(), detail))
            .collect();
        for letter in write.rejected.iter().chain(&refused) {
            let types = letters.columns.iter().map(|(_, column_type)| column_type);
            self.letters
                .get_or_insert_with(|| Block::new(types))
                .append_row(&letters.columns, values(letter));
        }
        refused.into_iter().map(|letter| letter.reject.into_owned()).collect()
    }

    /// The range of the block: what was planned, or what is to be.
    fn plan(&self) -> Plan {
        self.repeated.unwrap_or_else(|| Plan {
            first: self.first.next_offset,
            end: self.next.next_offset,
            // Each state has keys of its own, from the system's source of randomness.
            id: RandomState::new().build_hasher().finish(),
        })
    }

    fn is_repeated_whole(&self) -> bool {
        self.repeated.is_some_and(|plan| self.next.next_offset >= plan.end)
    }

    fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.letters.is_none()
    }

    fn rows(&self) -> usize {
        self.blocks.values().map(Block::rows).sum()
    }

    fn bytes(&self) -> usize {
        self.blocks.values().chain(&self.letters).map(Block::bytes).sum()
    }
}

/// The parts of the table that the rows are for, each with its rows in their order; `None` for all rows, in the usual
/// case of one part.
fn units(
    batch: &RecordBatch,
    partition: Partitioning,
    is_refused: impl Fn(usize) -> bool,
) -> BTreeMap<Unit, Option<Vec<u32>>> {
    let by = match partition {
        Partitioning::Known(by) => by,
        Partitioning::Other => PartitionBy::None,
    };
    let times = batch.column_by_name("timestamp").filter(|_| by != PartitionBy::None);
    let times = times.map(|column| column.as_primitive::<TimestampMillisecondType>());
    let mut last = (i64::MIN, 0);
    let mut unit = |row: usize| -> Unit {
        let times = times?;
        if times.is_null(row) {
            return Some(0);
        }
        let day = times.value(row).div_euclid(DAY_MS);
        if day != last.0 {
            last = (day, first_day(day, by));
        }
        Some(last.1)
    };
    let mut found: BTreeMap<Unit, Vec<u32>> = BTreeMap::new();
    for row in (0..batch.num_rows()).filter(|row| !is_refused(*row)) {
        found.entry(unit(row)).or_default().push(row as u32);
    }
    let is_whole = |rows: &Vec<u32>| rows.len() == batch.num_rows();
    found.into_iter().map(|(unit, rows)| (unit, Some(rows).filter(|rows| !is_whole(rows)))).collect()
}

/// The first day, since 1970, of the unit of time that a day is in.
fn first_day(day: i64, by: PartitionBy) -> i64 {
    let Some(date) = civil(day) else { return day };
    let first = match by {
        PartitionBy::None | PartitionBy::Day => return day,
        PartitionBy::Month => date.first_of_month(),
        PartitionBy::Year => date.first_of_year(),
    };
    day - i64::from(date.since(first).map_or(0, |span| span.get_days()))
}

fn civil(day: i64) -> Option<jiff::civil::Date> {
    let time = jiff::Timestamp::from_millisecond(day.checked_mul(DAY_MS)?).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).date())
}

fn date(day: i64) -> String {
    civil(day).map_or_else(|| day.to_string(), |date| date.to_string())
}

/// The values of a dead letter, in the order of [`super::table::DEAD_LETTER_COLUMNS`].
fn values<'l>(letter: &'l DeadLetter<'_>) -> [std::result::Result<Value<'l>, &'l [u8]>; 10] {
    let reject = &*letter.reject;
    [
        Ok(Value::Text(letter.pipeline)),
        Ok(Value::Text(&reject.rule)),
        Ok(Value::Text(&reject.version)),
        Ok(Value::Text(&reject.reason)),
        Ok(Value::Text(&reject.detail)),
        Ok(Value::Text(letter.topic)),
        Ok(Value::Integer(i64::from(letter.partition))),
        Ok(Value::Integer(i64::try_from(letter.offset).unwrap_or(i64::MAX))),
        Ok(Value::Timestamp(letter.rejected_at_ms)),
        Err(&letter.payload),
    ]
}

/// Says once a start what an old server cannot promise.
fn warn_of_old(client: &Client, version: Version) {
    let Version(major, minor) = version;
    if version < Version::TOKENS {
        tracing::warn!(
            "ClickHouse at `{}` has the version {major}.{minor}, which knows no tokens: rows that are written shortly \
             before a crash can be in the table twice until it merges them",
            client.place()
        );
    }
    if version < Version::DATE_TIME_64 {
        tracing::warn!(
            "ClickHouse at `{}` has no times with fractions of a second: rows whose `timestamp` has them go to the dead \
             letter",
            client.place()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_in_its_month_and_its_year() {
        let day = |text: &str| {
            let time: jiff::Timestamp = format!("{text}T00:00:00Z").parse().unwrap();
            time.as_millisecond().div_euclid(DAY_MS)
        };
        assert_eq!(first_day(day("2024-02-29"), PartitionBy::Month), day("2024-02-01"));
        assert_eq!(first_day(day("2024-12-31"), PartitionBy::Year), day("2024-01-01"));
        assert_eq!(first_day(day("1969-12-31"), PartitionBy::Month), day("1969-12-01"));
        assert_eq!(first_day(day("2024-02-29"), PartitionBy::Day), day("2024-02-29"));
        assert_eq!(date(day("2024-02-01")), "2024-02-01");
    }

    #[test]
    fn rows_are_cut_where_the_part_changes_and_refused_ones_left_out() {
        let rows = super::super::test_rows::minutes(0..3);
        let whole = units(&rows, Partitioning::Known(PartitionBy::Month), |_| false);
        assert_eq!(whole, BTreeMap::from([(Some(0), None)]));
        let left = units(&rows, Partitioning::Other, |row| row == 1);
        assert_eq!(left, BTreeMap::from([(None, Some(vec![0, 2]))]));
        let days = super::super::test_rows::candles(&[(0, 1.0, None), (1_440, 1.0, None), (1, 1.0, None)]);
        let cut = units(&days, Partitioning::Known(PartitionBy::Day), |_| false);
        assert_eq!(cut, BTreeMap::from([(Some(0), Some(vec![0, 2])), (Some(1), Some(vec![1]))]));
    }
}
