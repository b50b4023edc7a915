//! What a client that does nothing else can do: bytes that are there already go to the server by the same driver, and
//! the position is moved in the same transaction.

use std::pin::pin;
use std::time::Instant;

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::future::{join, join3};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, Statement};

use super::Load;
use super::database::{Table, connect};
use super::rows::Rows;

/// A connection with its statements.
pub struct Ceiling {
    runtime: Runtime,
    client: Client,
    number: i32,
    before: i64,
    position: Statement,
    copy: Statement,
    /// From the temporary table into the table.
    merge: Option<Statement>,
}

const COLUMNS: &str = "timestamp, open, high, low, close, volume, source, symbol, timeframe, revision, exchange, \
                       exchange_country, exchange_kind, base, quote, validated_at";

impl Ceiling {
    /// Connects, and makes the tables as the sink would.
    pub fn new(table: &Table<'_>, number: usize, load: Load, before: usize) -> Result<Ceiling> {
        let (runtime, client) = connect(&table.url())?;
        let number = number as i32;
        let (position, copy, merge) = runtime.block_on(async {
            client.batch_execute("SELECT pg_advisory_lock(1)").await?;
            for statement in statements(table)? {
                client.batch_execute(&statement).await?;
            }
            client.batch_execute("SELECT pg_advisory_unlock(1)").await?;
            let begin = "INSERT INTO tidegate_positions VALUES ('bench', 'bench', $1, 0, '') ON CONFLICT DO NOTHING";
            client.execute(begin, &[&number]).await?;
            let position = "UPDATE tidegate_positions SET next_offset = $1 WHERE pipeline = 'bench' AND topic = 'bench' \
                            AND partition = $2 AND next_offset = $3";
            let position = client.prepare(position).await?;
            if load == Load::New {
                let copy = client.prepare(&format!("COPY candles ({COLUMNS}) FROM STDIN BINARY")).await?;
                return Ok::<_, anyhow::Error>((position, copy, None));
            }
            client.batch_execute("CREATE TEMP TABLE staging (LIKE candles) ON COMMIT DELETE ROWS").await?;
            let copy = client.prepare(&format!("COPY staging ({COLUMNS}) FROM STDIN BINARY")).await?;
            let set: Vec<String> = COLUMNS
                .split(", ")
                .map(str::trim)
                .filter(|name| !["timestamp", "source", "symbol", "timeframe"].contains(name))
                .map(|name| format!("{name} = excluded.{name}"))
                .collect();
            let merge = format!(
                "INSERT INTO candles ({COLUMNS}) SELECT {COLUMNS} FROM staging \
                 ON CONFLICT (source, symbol, timeframe, timestamp) DO UPDATE SET {} \
                 WHERE excluded.revision > candles.revision",
                set.join(", ")
            );
            Ok((position, copy, Some(client.prepare(&merge).await?)))
        })?;
        Ok(Ceiling { runtime, client, number, before: before as i64, position, copy, merge })
    }

    /// Sends all rows; gives the seconds that the transactions took.
    pub fn write(&mut self, rows: &Rows) -> Result<f64> {
        let start = Instant::now();
        let mut position = self.before;
        for (bytes, batch) in rows.encoded.iter().zip(&rows.batches) {
            let next = position + batch.num_rows() as i64;
            self.runtime.block_on(self.send(bytes.clone(), position, next))?;
            position = next;
        }
        Ok(start.elapsed().as_secs_f64())
    }

    async fn send(&self, bytes: Bytes, position: i64, next: i64) -> Result<()> {
        let client = &self.client;
        let (begun, moved, copying) = join3(
            client.batch_execute("BEGIN"),
            client.execute(&self.position, &[&next, &self.number, &position]),
            client.copy_in::<_, Bytes>(&self.copy),
        )
        .await;
        begun?;
        ensure!(moved? == 1, "the position is another one");
        let mut copying = pin!(copying?);
        copying.feed(bytes).await?;
        let Some(merge) = &self.merge else {
            let (copied, committed) = join(copying.finish(), client.batch_execute("COMMIT")).await;
            copied?;
            return Ok(committed?);
        };
        let (copied, merged, committed) =
            join3(copying.finish(), client.execute(merge, &[]), client.batch_execute("COMMIT")).await;
        copied?;
        merged?;
        Ok(committed?)
    }
}

/// The tables of the sink, for a server without TimescaleDB: both write into the same ones.
fn statements(table: &Table<'_>) -> Result<Vec<String>> {
    let pipeline = &table.loaded.pipeline;
    let tidegate::pipeline_file::Sink::Timescale(config) = &pipeline.sink else { unreachable!("it is one") };
    let decoder = tidegate::decode::Decoder::new(&pipeline.decode)?;
    let statements = tidegate::sink::timescale::statements(config, pipeline, decoder.schema())?;
    Ok(statements.into_iter().filter(|statement| statement.starts_with("CREATE")).collect())
}
