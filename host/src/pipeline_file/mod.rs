//! The pipeline file: one source, an ordered list of rules, one sink, one dead letter.
//!
//! These types are the file's format; their doc comments become the descriptions of `tidegate schema`.
//! [`read`] goes from the file's text to a tree with places ([`tree`], [`interpolate`]), from the tree to
//! these types ([`build`]), and says what is wrong with their meaning ([`meaning`]).

pub(crate) mod build;
mod database;
mod deploy;
mod exchange;
pub mod finding;
pub(crate) mod interpolate;
mod kafka;
pub mod meaning;
pub(crate) mod tree;

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

use crate::batch::Kind;
use crate::error::Error;
pub use database::{ClickhouseSink, Hypertable, Insert, PartitionBy, TimescaleSink};
pub use deploy::{Deploy, Http, Listen};
pub use exchange::{AdapterLimits, Budget, Exchange, ExchangeSource, TIMEFRAMES, timeframe_ms};
use finding::{Finding, Mark};
pub use kafka::{
    Commit, Compression, Connection, DeadLetterTopic, Deleted, KafkaSink, KafkaSource, Mechanism, OPTIONS,
    Options, Sasl, Secret, Start, Tls, Topics, default_group,
};

/// The largest pipeline file: 32 rules with their settings have a few KiB.
const FILE_LIMIT_BYTES: u64 = 1 << 20;

/// A pipeline file that has been read and has no findings.
#[derive(Clone)]
pub struct Loaded {
    /// What it says.
    pub pipeline: Pipeline,
    /// The folder that its paths are relative to.
    pub folder: PathBuf,
    /// The file, as the user named it.
    pub path: PathBuf,
    root: Arc<tree::Node>,
    secrets: Vec<(String, String)>,
}

/// Without the pipeline, which can hold secrets.
impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Loaded {
    /// A finding about the value at `path`, such as `["rules", "0", "name"]`, without interpolated values.
    pub fn finding(&self, path: &[&str], message: &str) -> Finding {
        Finding::at(&self.path, self.root.mark_of(path), self.redact(message))
    }

    /// The message with the text of the pipeline file in the place of what its variables and secret files
    /// stand for.
    pub fn redact(&self, message: &str) -> String {
        redact(message, &self.secrets)
    }

    /// A failure whose sentence can have values of the file, such as a rule's about its settings, redacted.
    pub fn redacted(&self, error: Error) -> Error {
        match error {
            Error::Files(text) => Error::Files(self.redact(&text)),
            other => other,
        }
    }
}

/// See [`Loaded::redact`].
fn redact(message: &str, secrets: &[(String, String)]) -> String {
    // A shorter value stands in the sentences by chance, and is no secret.
    const SECRET_BYTES: usize = 6;
    let mut message = message.to_owned();
    for (value, raw) in secrets.iter().filter(|(value, _)| !value.is_empty()) {
        message = message.replace(&format!("`{value}`"), &format!("`{raw}`"));
        if value.len() >= SECRET_BYTES {
            message = message.replace(value.as_str(), raw);
        }
    }
    message
}

/// Reads a pipeline file, or says all that is wrong with it.
pub fn read(path: &Path) -> Result<Loaded, Vec<Finding>> {
    read_with(path, &|name| std::env::var(name).ok())
}

/// Reads a pipeline file with the variables that `variable` knows.
pub fn read_with(path: &Path, variable: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Vec<Finding>> {
    let text = read_text(path).map_err(|finding| vec![finding])?;
    let folder = folder_of(path);
    let at = |faults: Vec<tree::Fault>| -> Vec<Finding> {
        faults.into_iter().map(|(mark, sentence)| Finding::at(path, mark, sentence)).collect()
    };
    let values = interpolate::Values { variable, folder: &folder };
    let tree::Tree { root, secrets } = tree::parse(&text, &values).map_err(at)?;
    let pipeline: Pipeline = build::build(&root).map_err(at)?;
    let loaded = Loaded { pipeline, folder, path: path.into(), root, secrets };
    let findings = meaning::check(&loaded);
    if findings.is_empty() { Ok(loaded) } else { Err(findings) }
}

/// The folder of a pipeline file.
fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.into(),
        _ => ".".into(),
    }
}

/// A path of a pipeline file: relative to the file's folder; `-` stays as it is.
pub fn resolve(folder: &Path, path: &str) -> PathBuf {
    if path == "-" { path.into() } else { folder.join(path) }
}

/// The file of a rule's component: a path relative to the pipeline file's folder, or a bare name in the
/// guests folder.
pub fn component_path(folder: &Path, guests: &Path, component: &str) -> PathBuf {
    if component.contains(['/', '\\']) || component.ends_with(".wasm") {
        folder.join(component)
    } else {
        guests.join(format!("{component}.wasm"))
    }
}

pub(crate) fn read_text(path: &Path) -> Result<String, Finding> {
    let cannot = |error: std::io::Error| {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => "there is no such file".into(),
            std::io::ErrorKind::IsADirectory => "this is a folder, not a pipeline file".into(),
            std::io::ErrorKind::PermissionDenied => "this file may not be read".into(),
            _ => format!("cannot be read: {error}"),
        };
        Finding::of_file(path, reason)
    };
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > FILE_LIMIT_BYTES {
        return Err(Finding::of_file(path, "this has more than 1 MiB, which no pipeline file has"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line_start = valid.iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1);
        let mark = Mark {
            line: valid.iter().filter(|byte| **byte == b'\n').count() + 1,
            column: String::from_utf8_lossy(&valid[line_start..]).chars().count() + 1,
        };
        Finding::at(path, mark, "this is not UTF-8 text; save the file as UTF-8")
    })
}

/// The JSON Schema (2020-12) of pipeline files, for editors.
pub fn json_schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Pipeline);
    schema.insert("$id".into(), "https://tidegate.dev/schema/pipeline.json".into());
    schema.insert("title".into(), "Tidegate pipeline".into());
    schema.to_value()
}

/// A pipeline: rows come from `source`, pass the `rules` in order, and go to `sink`; rejected rows go to
/// `dead_letter`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Name of the pipeline, at most 64 of `a-z 0-9 - _`. Its position in the sink is kept under this name.
    pub name: String,
    /// Where rows come from.
    pub source: Source,
    /// How a row's bytes become columns.
    #[serde(default)]
    pub decode: Decode,
    /// The rules, in the order in which a row meets them; at most 32.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Where rows go that no rule has rejected or dropped.
    pub sink: Sink,
    /// Where rejected rows go, with their original bytes; beside the sink when not given.
    pub dead_letter: Option<DeadLetter>,
    /// How many rows travel together.
    #[serde(default)]
    pub batch: BatchLimits,
    /// How much of what was written is read back for the rules that remember.
    #[serde(default)]
    pub remember: Remember,
    /// What a `kafka` sink promises; the others write rows and position in one step and need no choice.
    #[serde(default)]
    pub delivery: Delivery,
    /// How many loops of this process share the partitions of a `kafka` source; 1 to 64. Each has its own memory
    /// of rules and its own buffers.
    #[serde(default = "default_lanes")]
    pub lanes: usize,
    /// Where the pipeline answers over HTTP: what its rules do, and how they are replaced. Without it, nowhere.
    pub http: Option<Http>,
    /// How a rule is replaced while data flow.
    #[serde(default)]
    pub deploy: Deploy,
    /// A column of this name is added to every row, with the versions of the rules that have decided it: their names and
    /// the first twelve digits of their SHA-256. Messages in Kafka have it in a header, with or without the column.
    pub rule_versions: Option<String>,
}

fn default_lanes() -> usize {
    1
}

impl Pipeline {
    /// The consumer group: the source's, and one of its own for a source that has none.
    pub fn group(&self) -> String {
        match &self.source {
            Source::Kafka(source) => source.group(&self.name),
            Source::File(_) | Source::Exchange(_) => default_group(&self.name),
        }
    }
}

/// What a `kafka` sink promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Rows, dead letters and the position in the source become visible in one transaction.
    #[default]
    ExactlyOnce,
    /// Without transactions: what was written shortly before a crash is written again, unless a rule that
    /// remembers drops it.
    AtLeastOnce,
}

/// Where rows come from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A file, read to its end.
    File(FileSource),
    /// Topics of Kafka or Redpanda.
    Kafka(Box<KafkaSource>),
    /// Closed candles of exchanges.
    Exchange(Box<ExchangeSource>),
}

impl Source {
    /// The Kafka source, if it is one.
    pub fn kafka(&self) -> Option<&KafkaSource> {
        match self {
            Source::Kafka(kafka) => Some(kafka),
            Source::File(_) | Source::Exchange(_) => None,
        }
    }

    /// The exchanges, if they are the source.
    pub fn exchange(&self) -> Option<&ExchangeSource> {
        match self {
            Source::Exchange(exchange) => Some(exchange),
            Source::File(_) | Source::Kafka(_) => None,
        }
    }
}

/// A file, read to its end.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSource {
    /// The file, relative to the pipeline file; `-` is standard input. A name that ends in `.gz` or
    /// `.zst` is decompressed.
    pub path: String,
}

/// How a row's bytes become columns.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Decode {
    /// How rows are written.
    pub format: Format,
    /// The columns of a row: `ohlcv`, or a list.
    pub columns: Columns,
    /// Values for columns that the rows do not have, such as the source and the symbol of a file in the
    /// CCXT array form. A value in the row wins.
    pub constants: std::collections::BTreeMap<String, Scalar>,
    /// The longest row; a longer one goes to the dead letter. At most 64 MiB.
    pub row: ByteSize,
}

impl Default for Decode {
    fn default() -> Decode {
        Decode {
            format: Format::Json,
            columns: Columns::Named(ColumnSet::Ohlcv),
            constants: std::collections::BTreeMap::new(),
            // A candle has 200 bytes; 1 MiB is what Kafka brokers accept as a message unless told otherwise.
            row: ByteSize(1 << 20),
        }
    }
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// CCXT's candles: an array `[timestamp, open, high, low, close, volume]` a line, or an object whose keys
    /// are the numbers `0` to `5` (and names for the other columns).
    Ccxt,
    /// Comma-separated values, one row a line, the first line names the columns.
    Csv,
    /// An Apache Parquet file.
    Parquet,
}

/// The columns of a row.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(untagged)]
pub enum Columns {
    /// A built-in set.
    Named(ColumnSet),
    /// The file's own columns; at most 64.
    List(Vec<Column>),
}

/// A built-in set of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ColumnSet {
    /// `timestamp`, `open`, `high`, `low`, `close`, `volume`, `source`, `symbol`, `timeframe`.
    Ohlcv,
    /// Those of `ohlcv`, and what exchanges say beside them: `trades`, `quote_volume`, `vwap` (the volume-weighted
    /// price), `revision`.
    Candles,
}

/// A column of a row.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Name of the column, at most 64 of `a-z 0-9 _`, not starting with a digit.
    pub name: String,
    /// What its values are.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Other names under which a row may give it; the column's own name is always accepted.
    #[serde(default)]
    pub from: Vec<String>,
}

/// A value of a constant.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(untagged)]
pub enum Scalar {
    /// true or false.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A number.
    Float(f64),
    /// A text.
    Text(String),
}

/// A rule of the pipeline.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Name of the rule in this pipeline: in metrics and in the dead letter.
    pub name: String,
    /// The component: a path to a `.wasm` file relative to the pipeline file, or a bare name that is looked
    /// for as `<name>.wasm` in the guests folder.
    pub component: String,
    /// Settings for the rule; `tidegate inspect` shows which it has.
    #[serde(default)]
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// What the rule may use.
    #[serde(default)]
    pub limits: Limits,
}

/// What a rule may use.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory of one instance, at most 4 GiB.
    pub memory: ByteSize,
    /// Time of one call.
    pub call: Span,
    /// Size of the answer to one call.
    pub output: ByteSize,
    /// Size of the component's file.
    pub file: ByteSize,
    /// Time to compile the component.
    pub compile: Span,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            // A rule that remembers a million candles needs half of it.
            memory: ByteSize(64 << 20),
            // 10,000 rows at 14 ns take 0.14 ms; a busy machine makes that a hundred times longer.
            call: Span(Duration::from_millis(250)),
            // Twelve changed columns of 100,000 rows are 10 MiB.
            output: ByteSize(64 << 20),
            // A Python rule with its interpreter has 18 MiB.
            file: ByteSize(32 << 20),
            // A Python rule takes 7 s.
            compile: Span(Duration::from_secs(60)),
        }
    }
}

/// Where rows go.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(transform = allow_bare_stdout)]
pub enum Sink {
    /// A table of an embedded SQLite database, made when it is absent.
    Sqlite(SqliteSink),
    /// A JSON lines file, or a folder of Parquet files.
    File(FileSink),
    /// A topic of Kafka or Redpanda.
    Kafka(Box<KafkaSink>),
    /// A table of TimescaleDB or PostgreSQL.
    Timescale(Box<TimescaleSink>),
    /// A table of ClickHouse.
    Clickhouse(Box<ClickhouseSink>),
    /// JSON lines on standard output. Nothing is checkpointed: each run reads its source from the start.
    Stdout(StdoutSink),
}

impl Sink {
    /// The Kafka sink, if it is one.
    pub fn kafka(&self) -> Option<&KafkaSink> {
        match self {
            Sink::Kafka(kafka) => Some(kafka),
            _ => None,
        }
    }
}

/// A table of an embedded SQLite database.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqliteSink {
    /// The database file, relative to the pipeline file; made when it is absent.
    pub path: String,
    /// The table.
    #[serde(default = "default_table")]
    pub table: String,
    /// The columns that tell rows apart; a row with the key of a stored one replaces it when its `revision` is
    /// newer. Otherwise it is dropped when it is equal in the columns of `decode`, and goes to the dead letter
    /// when it is not. For the column set `ohlcv` it is `[source, symbol, timeframe, timestamp]` unless given; an empty
    /// list stores every row.
    pub key: Option<Vec<String>>,
}

/// `stdout` has nothing to set, so its bare name is enough.
fn allow_bare_stdout(schema: &mut schemars::Schema) {
    if let Some(variants) = schema.get_mut("oneOf").and_then(|variants| variants.as_array_mut()) {
        variants.push(serde_json::json!({ "const": "stdout" }));
    }
}

fn default_table() -> String {
    "candles".into()
}

/// A JSON lines file, or a folder of Parquet files.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSink {
    /// For `jsonl` the file, for `parquet` the folder; relative to the pipeline file.
    pub path: String,
    /// How rows are written.
    #[serde(default)]
    pub format: FileFormat,
}

impl FileSink {
    /// Where rejected rows go unless the pipeline file says it: beside the rows.
    pub fn default_dead_letter(&self) -> String {
        let path = Path::new(&self.path);
        let beside = match self.format {
            FileFormat::Jsonl => path.with_extension("rejected.jsonl"),
            FileFormat::Parquet => path.join("_rejected.jsonl"),
        };
        beside.to_string_lossy().into_owned()
    }

    /// The file that says how much of the rows counts.
    pub fn position_file(&self) -> String {
        match self.format {
            FileFormat::Jsonl => format!("{}.position", self.path),
            FileFormat::Parquet => {
                Path::new(&self.path).join("_position.json").to_string_lossy().into_owned()
            }
        }
    }
}

/// How a file sink writes rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// One JSON object a line, all in one file.
    #[default]
    Jsonl,
    /// One Parquet file a batch, all in one folder: give `batch.rows` a large number.
    Parquet,
}

/// JSON lines on standard output.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StdoutSink {}

/// Where rejected rows go.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(transform = allow_bare_stdout)]
pub enum DeadLetter {
    /// A table of the sink's database, in the same transaction; only with a `sqlite` sink.
    Sqlite(DeadLetterTable),
    /// A table of the sink's database, in the same transaction; only with a `timescale` sink, which has no other. It is
    /// `dead_letter` unless given.
    Timescale(DeadLetterTable),
    /// A table of the sink's database; only with a `clickhouse` sink, which has no other. It is `dead_letter` unless
    /// given.
    Clickhouse(DeadLetterTable),
    /// A JSON lines file.
    File(DeadLetterFile),
    /// A topic on the sink's brokers, in the same transaction; only with a `kafka` sink, which has no other. It is
    /// the sink's topic and `-rejected` unless given.
    Kafka(DeadLetterTopic),
    /// JSON lines on standard output.
    Stdout(StdoutSink),
}

/// A table of the sink's database.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterTable {
    /// The table.
    #[serde(default = "default_dead_letter_table")]
    pub table: String,
}

fn default_dead_letter_table() -> String {
    "dead_letter".into()
}

/// A JSON lines file of rejected rows.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterFile {
    /// The file, relative to the pipeline file.
    pub path: String,
}

/// How many rows travel together.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchLimits {
    /// At most so many rows; 1 to 1,000,000.
    pub rows: usize,
    /// At most so many bytes of encoded rows (one row may be longer); at most 1 GiB.
    pub bytes: ByteSize,
    /// A batch that is not full goes on after this time.
    pub wait: Span,
}

impl Default for BatchLimits {
    fn default() -> BatchLimits {
        // 10,000 candles are 2 MiB: large enough that the cost of a call and of a commit vanishes, small
        // enough that two buffers of it stay in the cache of a processor.
        BatchLimits { rows: 10_000, bytes: ByteSize(4 << 20), wait: Span(Duration::from_millis(50)) }
    }
}

/// How much of what was written is read back for the rules that remember.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Remember {
    /// Only rows whose `timestamp` is within this time before the newest one of all series; when it is not
    /// given, `rows` alone decides. It makes a start faster and costs what lies further back: a series that lags
    /// behind the others, and the last candles of timeframes as long as the window, are then not remembered. In
    /// Kafka it is the time at which a row was written, so what lags is remembered.
    pub window: Option<Span>,
    /// At most so many rows, those written last; at most 100,000,000. In Kafka it is for each partition, and markers
    /// of transactions count as rows.
    pub rows: usize,
}

impl Default for Remember {
    fn default() -> Remember {
        // A day of 1-minute candles of 700 series is a million rows, and as many as a rule's memory holds.
        Remember { window: None, rows: 1_000_000 }
    }
}

/// A number of bytes, written with a unit: `64MiB`, `512KiB`, `10MB`, `1GiB`, `100B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A time, written with a unit: `250ms`, `5s`, `10m`, `24h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// The number in front of a unit, and the unit.
fn split_unit(text: &str) -> Result<(u64, &str), String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number =
        text[..digits].parse().map_err(|_| format!("`{text}` does not start with a whole number"))?;
    Ok((number, text[digits..].trim()))
}

impl std::str::FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteSize, String> {
        let (number, unit) = split_unit(text)?;
        let factor = match unit {
            "B" => 1,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(format!("`{text}` needs a unit: B, KiB, MiB, GiB, kB, MB or GB")),
        };
        number.checked_mul(factor).map(ByteSize).ok_or_else(|| format!("`{text}` is too large"))
    }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let (number, unit) = split_unit(text)?;
        let factor = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(format!("`{text}` needs a unit: ms, s, m, h or d")),
        };
        let ms = number.checked_mul(factor).ok_or_else(|| format!("`{text}` is too long"))?;
        Ok(Span(Duration::from_millis(ms)))
    }
}

/// In the largest unit that leaves no rest.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        let fits = units.into_iter().find(|(factor, _)| ms >= *factor && ms.is_multiple_of(*factor));
        let (factor, unit) = fits.unwrap_or((1, "ms"));
        write!(f, "{}{unit}", ms / factor)
    }
}

/// Serde's own untagged enums say only that nothing fits; this says what is expected.
impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Columns, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Columns;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`ohlcv`, `candles` or a list of columns")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Columns, E> {
                match name {
                    "ohlcv" => Ok(Columns::Named(ColumnSet::Ohlcv)),
                    "candles" => Ok(Columns::Named(ColumnSet::Candles)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(name), &self)),
                }
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, items: A) -> Result<Columns, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(items)).map(Columns::List)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// See [`Columns`].
impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        struct Any;

        impl Visitor<'_> for Any {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number or a boolean")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar::Boolean(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar::Integer(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Scalar, E> {
                i64::try_from(value)
                    .map(Scalar::Integer)
                    .map_err(|_| E::custom(format!("{value} does not fit into 64 bits with a sign")))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar::Float(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(value.into()))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// Deserialize from a text with a unit, and say so in the schema.
macro_rules! written_with_a_unit {
    ($type:ident, $what:literal, $pattern:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                struct WithUnit;

                impl Visitor<'_> for WithUnit {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }

                deserializer.deserialize_any(WithUnit)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $what, "pattern": $pattern })
            }
        }
    };
}

written_with_a_unit!(
    ByteSize,
    "a size with a unit, such as `64MiB`",
    "^[0-9]+ *(B|kB|KB|MB|GB|KiB|MiB|GiB)$"
);
written_with_a_unit!(Span, "a time with a unit, such as `250ms`", "^[0-9]+ *(ms|s|m|h|d)$");

#[cfg(test)]
mod tests;
