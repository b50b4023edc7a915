//! The server, and tables for one run each.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow};
use tempfile::TempDir;
use tidegate::pipeline_file::{self, Loaded};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls};
use xtask::postgres::{Options, Server};

use super::number;

/// The columns, as in `pipelines/timescale.yaml`.
const COLUMNS: &str = "    - { name: timestamp, type: timestamp }
    - { name: open, type: float }
    - { name: high, type: float }
    - { name: low, type: float }
    - { name: close, type: float }
    - { name: volume, type: float }
    - { name: source, type: text }
    - { name: symbol, type: text }
    - { name: timeframe, type: text }
    - { name: revision, type: integer }
    - { name: exchange, type: text }
    - { name: exchange_country, type: text }
    - { name: exchange_kind, type: text }
    - { name: base, type: text }
    - { name: quote, type: text }
    - { name: validated_at, type: timestamp }
";

/// The server of `TIDEGATE_POSTGRES_URL`, or one that ends with this value.
pub struct Database {
    url: String,
    server: Option<Server>,
    _folder: TempDir,
}

/// A database of its own, with the pipeline file that is for it; it ends with this value.
pub struct Table<'d> {
    database: &'d Database,
    name: String,
    /// The pipeline, whose sink makes the tables.
    pub loaded: Loaded,
    _folder: TempDir,
}

impl Database {
    /// Starts a server with its own settings, but for memory and checkpoints, unless there is one.
    pub fn start() -> Result<Database> {
        let folder = TempDir::new()?;
        if let Ok(url) = std::env::var("TIDEGATE_POSTGRES_URL") {
            return Ok(Database { url, server: None, _folder: folder });
        }
        let settings = vec![("shared_buffers".into(), "512MB".into())];
        let options = Options { folder: folder.path().into(), settings, ..Options::default() };
        let server = Server::start(options)?;
        let url = server.url("").trim_end_matches('/').to_owned();
        Ok(Database { url, server: Some(server), _folder: folder })
    }

    /// The process that is the server, when it was started here.
    pub fn process_id(&self) -> Option<u32> {
        self.server.as_ref()?.process_id()
    }

    /// A new database.
    pub fn table(&self) -> Result<Table<'_>> {
        self.table_for(
            "file: { path: none.jsonl }",
            &format!("columns:\n{COLUMNS}"),
            1,
            "key: [source, symbol, timeframe, timestamp]",
        )
    }

    /// A new database for this source.
    pub fn table_for(&self, source: &str, decode: &str, lanes: usize, sink: &str) -> Result<Table<'_>> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let (runtime, client) = connect(&format!("{}/postgres", self.url))?;
        // What the run before has left to write would be written during this one.
        runtime.block_on(client.batch_execute("CHECKPOINT"))?;
        runtime.block_on(client.batch_execute(&format!("CREATE DATABASE {name}")))?;
        let folder = TempDir::new()?;
        std::fs::write(folder.path().join("none.jsonl"), "")?;
        let file = folder.path().join("bench.yaml");
        let url = format!("{}/{name}", self.url);
        let text = format!(
            "name: bench\nsource:\n  {source}\ndecode:\n  {decode}\nsink:\n  timescale: {{ url: \"{url}\", create: true, {sink} }}\n\
             lanes: {lanes}\n"
        );
        std::fs::write(&file, text)?;
        let loaded = pipeline_file::read(&file).map_err(|findings| {
            anyhow!(findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        })?;
        Ok(Table { database: self, name, loaded, _folder: folder })
    }
}

impl Table<'_> {
    /// What a pipeline file has as `url`.
    pub fn url(&self) -> String {
        format!("{}/{}", self.database.url, self.name)
    }

    /// The pipeline file.
    pub fn file(&self) -> std::path::PathBuf {
        self.loaded.folder.join("bench.yaml")
    }

    /// How many rows it has.
    pub fn count(&self) -> Result<u64> {
        self.number("SELECT count(*) FROM candles").map(|count| count.unsigned_abs())
    }

    /// The lowest revision.
    pub fn newest(&self) -> Result<i64> {
        self.number("SELECT min(revision) FROM candles")
    }

    fn number(&self, query: &str) -> Result<i64> {
        let (runtime, client) = connect(&self.url())?;
        number(&runtime.block_on(client.query_one(query, &[]))?)
    }
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        // The disk would be full otherwise; the server's folder goes with the program in any case.
        let Ok((runtime, client)) = connect(&format!("{}/postgres", self.database.url)) else { return };
        drop(runtime.block_on(client.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name))));
    }
}

/// A connection that is served while something is asked.
pub fn connect(url: &str) -> Result<(Runtime, Client)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (client, connection) =
        runtime.block_on(tokio_postgres::connect(url, NoTls)).context("the server takes no connection")?;
    runtime.spawn(connection);
    Ok((runtime, client))
}
