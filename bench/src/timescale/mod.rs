//! The `timescale` sink beside the same rows sent by hand.
//!
//! - `database`: the server and its tables
//! - `rows`: candles as columns, and as the bytes of binary COPY
//! - `ceiling`: the client that is written by hand
//! - this file: what is measured

mod ceiling;
mod database;
mod from_kafka;
mod rows;

use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tidegate::batch::{Partition, Position};
use tidegate::dead_letter::DeadLetter;
use tidegate::lane::{Patience, Place};
use tidegate::pipeline_file;
use tidegate::shutdown::Shutdown;
use tidegate::sink::timescale::TimescaleSink;
use tidegate::sink::{Stored, Write};
use tidegate::source::Source;

use crate::kafka::load;
use crate::median;
use ceiling::Ceiling;
use database::{Database, Table};
use rows::Rows;

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many rows each run writes with each connection
    #[arg(long, default_value_t = 500_000)]
    rows: usize,
    /// How many rows the topic has; 0 leaves out what comes from Kafka
    #[arg(long, default_value_t = 2_000_000)]
    topic_rows: u64,
    /// How often each program runs; the medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Rows a batch
    #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
    batches: Vec<usize>,
    /// Numbers of connections, or lanes of the host
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    clients: Vec<usize>,
}

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// Encoded before the time is taken, sent by the same driver.
    Ceiling,
    Sink,
}

/// What is there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// Nothing.
    New,
    /// Every row in an older revision.
    Newer,
}

/// All runs of one kind.
struct Runs {
    load: Load,
    batch: usize,
    clients: usize,
    ceiling: Vec<f64>,
    sink: Vec<f64>,
}

/// Prints the tables.
pub fn run(arguments: &Arguments) -> Result<()> {
    let database = Database::start()?;
    let mut all: Vec<Runs> = Vec::new();
    for load in [Load::New, Load::Newer] {
        for &batch in &arguments.batches {
            all.extend(arguments.clients.iter().map(|&clients| Runs {
                load,
                batch,
                clients,
                ceiling: Vec::new(),
                sink: Vec::new(),
            }));
        }
    }
    for round in 1..=arguments.rounds {
        for runs in &mut all {
            let (ceiling, sink) = (
                runs.measure(&database, arguments, Writer::Ceiling)?,
                runs.measure(&database, arguments, Writer::Sink)?,
            );
            eprintln!(
                "bench: round {round}, {:?}, {} rows a batch, {} connections: ceiling {ceiling:.0}, sink {sink:.0} rows/s, load {}",
                runs.load,
                runs.batch,
                runs.clients,
                load()?
            );
            runs.ceiling.push(ceiling);
            runs.sink.push(sink);
        }
    }
    print(&all, arguments);
    if arguments.topic_rows > 0 {
        from_kafka::run(&database, arguments)?;
    }
    Ok(())
}

impl Runs {
    /// Rows a second, from the first transaction to the last, into a new table with its primary key.
    fn measure(&self, database: &Database, arguments: &Arguments, writer: Writer) -> Result<f64> {
        let table = database.table()?;
        let batches = (arguments.rows / self.batch).max(1);
        let written = batches * self.batch * self.clients;
        if self.load == Load::Newer {
            for client in 0..self.clients {
                write(
                    &table,
                    client,
                    &Rows::new(client, 0, batches, self.batch)?,
                    Writer::Sink,
                    Load::New,
                    0,
                )?;
            }
        }
        let revision = i64::from(self.load == Load::Newer);
        let all: Vec<Rows> = (0..self.clients)
            .map(|client| Rows::new(client, revision, batches, self.batch))
            .collect::<Result<_>>()?;
        let (table, before) = (&table, if self.load == Load::Newer { batches * self.batch } else { 0 });
        let seconds: Vec<f64> = thread::scope(|scope| {
            let writers: Vec<_> = all
                .iter()
                .enumerate()
                .map(|(client, rows)| {
                    scope.spawn(move || write(table, client, rows, writer, self.load, before))
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().expect("no writer panics")).collect::<Result<_>>()
        })?;
        let stored = table.count()?;
        ensure!(stored == written as u64, "{writer:?} stored {stored} of {written} rows");
        let newest = table.newest()?;
        ensure!(newest == revision, "{writer:?} left the revision {newest}");
        let slowest = seconds.into_iter().fold(0.0, f64::max);
        Ok(written as f64 / slowest)
    }
}

/// Writes all rows from one connection; gives the seconds that the transactions took.
fn write(
    table: &Table<'_>,
    client: usize,
    rows: &Rows,
    writer: Writer,
    load: Load,
    before: usize,
) -> Result<f64> {
    match writer {
        Writer::Ceiling => Ceiling::new(table, client, load, before)?.write(rows),
        Writer::Sink => write_by_sink(table, client, rows, before),
    }
}

fn write_by_sink(table: &Table<'_>, client: usize, rows: &Rows, before: usize) -> Result<f64> {
    let pipeline_file::Sink::Timescale(config) = &table.loaded.pipeline.sink else {
        unreachable!("it is one")
    };
    let patience = Patience { forever: false, shutdown: Shutdown::default(), lane: None };
    let place = Place {
        folder: &table.loaded.folder,
        guests: &table.loaded.folder,
        state: &table.loaded.folder,
        instance: "bench",
        lane: client,
        until_end: false,
        backfill: None,
        adapters: None,
        patience,
    };
    let mut sink = TimescaleSink::open(config, &table.loaded.pipeline, &rows.schema, &place)?;
    let mut source = Source::open(&table.loaded.pipeline, &place)?;
    let partition = Partition { topic: "bench".into(), number: client as i32 };
    let mut position = sink.position(&partition)?;
    ensure!(position.next_offset == before as u64, "the position is {}", position.next_offset);
    let start = Instant::now();
    for batch in &rows.batches {
        let refuse = |row: usize, reason: &str, detail: String| -> DeadLetter<'_> {
            panic!("row {row} is refused: {reason}, {detail}")
        };
        let next =
            Position { next_offset: position.next_offset + batch.num_rows() as u64, ..Position::default() };
        let write = Write {
            partition: &partition,
            first: position.next_offset,
            expected: &position,
            next: &next,
            kept: batch,
            versions: "",
            rejected: &[],
            refuse: &refuse,
        };
        let stored = sink.write(&write, &mut source)?;
        ensure!(stored == Stored::default(), "{} rows were there already", stored.duplicates);
        position = next;
    }
    Ok(start.elapsed().as_secs_f64())
}

fn print(all: &[Runs], arguments: &Arguments) {
    println!(
        "\ninto PostgreSQL with a primary key, {} rows a connection, 16 columns, medians of {}",
        arguments.rows, arguments.rounds
    );
    println!("{:<34} {:>11} {:>12} {:>12} {:>7}", "rows", "connections", "by hand", "sink", "ratio");
    for runs in all {
        let (ceiling, sink) = (median(runs.ceiling.clone()), median(runs.sink.clone()));
        let what = match runs.load {
            Load::New => "new rows, binary COPY",
            Load::Newer => "newer revisions, staging merge",
        };
        println!(
            "{what:<30} {:>6} {:>8} {ceiling:>10.0}/s {sink:>10.0}/s {:>7.2}",
            runs.batch,
            runs.clients,
            sink / ceiling
        );
    }
}

/// The number in the only row of a query.
fn number(row: &tokio_postgres::Row) -> Result<i64> {
    row.try_get(0).context("a query gives a number")
}
