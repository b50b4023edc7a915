//! What a pipeline file says about TimescaleDB, PostgreSQL and ClickHouse.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ByteSize, Compression, Secret, Span, Tls, default_table};

/// A table of TimescaleDB or PostgreSQL. Rows, dead letters and the position in the source are one transaction.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimescaleSink {
    /// The database: `postgres://user@host:5432/database`.
    pub url: Secret,
    /// The user's password, when it is not in `url`: `${NAME}` or `${file:path}`.
    pub password: Option<Secret>,
    /// The table; a schema can stand before it: `market.candles`.
    #[serde(default = "default_table")]
    pub table: String,
    /// The columns that tell rows apart, of which the table has a unique index; a row with the key of a stored one
    /// replaces it when its `revision` is newer. Otherwise it is dropped when it is equal in the columns of `decode`,
    /// and goes to the dead letter when it is not. For the column set `ohlcv` it is
    /// `[source, symbol, timeframe, timestamp]` unless given; an empty list stores every row.
    pub key: Option<Vec<String>>,
    /// Make the tables that do not exist; the statements are those of `tidegate schema sql`.
    #[serde(default)]
    pub create: bool,
    /// How TimescaleDB keeps the table that `create` makes; on a server without TimescaleDB it is refused. Without it
    /// `create` makes a hypertable where TimescaleDB is, and an ordinary table elsewhere.
    pub hypertable: Option<Hypertable>,
    /// TLS; without it the connection is not encrypted unless `url` has `sslmode=require`.
    pub tls: Option<Tls>,
}

/// How TimescaleDB keeps a table.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hypertable {
    /// How much time is in a chunk.
    pub chunk: Span,
    /// Chunks are compressed once they are older than this.
    pub compress_after: Option<Span>,
    /// Chunks are dropped once they are older than this.
    pub retain: Option<Span>,
}

impl Default for Hypertable {
    fn default() -> Hypertable {
        // TimescaleDB's own; with 700 series of 1-minute candles it is 7 million rows.
        Hypertable { chunk: Span(Duration::from_secs(7 * 86_400)), compress_after: None, retain: None }
    }
}

/// A table of ClickHouse. The rows of a source partition are inserted in blocks that are planned before, so that a
/// block whose fate is unknown is inserted again as it was, and the server knows it by its token.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClickhouseSink {
    /// The server's HTTP interface: `http://host:8123`, `https://host:8443`.
    pub url: String,
    /// The user; `default` unless given.
    pub user: Option<String>,
    /// The user's password: `${NAME}` or `${file:path}`.
    pub password: Option<Secret>,
    /// The database.
    #[serde(default = "default_database")]
    pub database: String,
    /// The table.
    #[serde(default = "default_table")]
    pub table: String,
    /// The columns by which `create` orders the table, and by which rows are the same row: of those with one key the
    /// table keeps the one with the newest `revision`. For the column set `ohlcv` it is
    /// `[source, symbol, timeframe, timestamp]` unless given.
    pub key: Option<Vec<String>>,
    /// Make the tables that do not exist; the statements are those of `tidegate schema sql`.
    #[serde(default)]
    pub create: bool,
    /// By which time `create` parts the table. An insert is of one part, so a block is cut where the time changes.
    #[serde(default)]
    pub partition: PartitionBy,
    /// How blocks are compressed on their way.
    #[serde(default)]
    pub compression: Compression,
    /// When the rows that wait become a block.
    #[serde(default)]
    pub insert: Insert,
    /// TLS with other authorities than the system's, or with a certificate of the client.
    pub tls: Option<Tls>,
}

fn default_database() -> String {
    "default".into()
}

/// By which time a table is parted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PartitionBy {
    /// Not at all.
    None,
    /// By the day of `timestamp`.
    Day,
    /// By the month of `timestamp`.
    #[default]
    Month,
    /// By the year of `timestamp`.
    Year,
}

/// When the rows that wait become a block. Whichever comes first counts.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Insert {
    /// When a source partition has so many of them; 1 to 1,000,000, which is the most that a server inserts as one.
    pub rows: usize,
    /// When all of them have so many bytes; at most 1 GiB.
    pub bytes: ByteSize,
    /// After this time; 10 ms to 10 m.
    pub wait: Span,
}

impl Default for Insert {
    fn default() -> Insert {
        // Each insert makes a part of the table that must be merged: ClickHouse asks for 10,000 rows or more, and for
        // one insert a second. A lane holds two such blocks at most, one of them encoded.
        Insert { rows: 100_000, bytes: ByteSize(32 << 20), wait: Span(Duration::from_secs(1)) }
    }
}
