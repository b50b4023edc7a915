//! A table of TimescaleDB or PostgreSQL.
//!
//! Rows, dead letters and position are one transaction. Its first statement moves the position from what this process
//! believes it to be: where another process has moved it, nothing is written. An answer that is lost leaves open what
//! the server has done; then the position says it, which is asked for with a lock, so that a transaction that is still
//! about to end is waited for.
//!
//! - `schema`: the tables, and what is wrong with them
//! - `connection`: how to reach the server
//! - `session`: a connection, and the ways of writing a batch
//! - `encode`: rows as binary COPY has them
//! - `merge`: rows of one batch with the same key
//! - `failure`: what a failure of the server means
//! - `read_back`: the newest rows

mod connection;
mod encode;
mod failure;
mod merge;
mod read_back;
mod schema;
mod session;

use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use tokio_postgres::Error as ServerError;

use super::server::Server as Driver;
use super::table::is_revised;
use super::values::project;
use super::{Preparation, Prepared, Reading, Stored, Write};
use crate::batch::{Partition, Position};
use crate::dead_letter::DeadLetter;
use crate::error::{Error, Result};
use crate::lane::{Patience, Place};
use crate::pipeline_file::{self, Pipeline, Remember, TimescaleSink as Config, meaning};
use crate::shutdown::Shutdown;
use crate::source::Source;
use connection::{Connected, Server};
use failure::Class;
use read_back::Asked;
use schema::Wanted;
use session::{Failed, Job, Refused, Session, Texts, Way};

/// How long connecting, and all that is asked then, may take.
const OPEN: Duration = Duration::from_secs(60);

/// How long a position may take: that of a process which holds it is waited for some seconds.
const POSITION: Duration = Duration::from_secs(60);

/// The longest pause between two attempts to connect.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// After how many batches at most COPY is tried again, when it has met keys that were there: what it writes until then
/// is written in vain.
const MERGES_MAX: u32 = 64;

/// Begins a transaction that sees what counts when its first question is asked, which is this one.
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1";

/// The statements that make the tables, on a server with TimescaleDB.
pub fn statements(config: &Config, pipeline: &Pipeline, schema: &SchemaRef) -> Result<Vec<String>> {
    Ok(Wanted::new(config, pipeline, schema)?.statements(true))
}

/// Connects, and says all that is wrong with the tables, a sentence each. Tables that a run would make are not wrong.
/// Nothing is changed.
pub fn check(
    config: &Config,
    pipeline: &Pipeline,
    schema: &SchemaRef,
    place: &Place<'_>,
) -> Result<Vec<String>> {
    let sink = TimescaleSink::new(config, pipeline, schema, place)?;
    let (server, wanted) = (&sink.server, &sink.wanted);
    let asking = async { schema::complaints(&server.connect().await?.client, wanted, &server.address).await };
    match sink.driver.run(None, OPEN, asking)? {
        Ok(complaints) => Ok(complaints),
        Err(error) => Err(Error::Surroundings(sink.failed(&error).to_string())),
    }
}

/// A table of rows, the positions, and the dead letter beside it.
pub struct TimescaleSink {
    driver: Driver,
    shutdown: Shutdown,
    server: Server,
    pipeline: String,
    schema: SchemaRef,
    wanted: Wanted,
    texts: Texts,
    /// Whether a group decides who reads a partition: then another process that has moved the position is its owner.
    has_group: bool,
    /// None after a failure, until the lane has gone back.
    session: Option<Session>,
    /// How often it was connected again.
    reconnects: u64,
    /// How many batches go by way of the temporary table before COPY is tried again, and how many after the next time
    /// that it meets a key.
    merges: u32,
    next_merges: u32,
}

impl TimescaleSink {
    /// Connects, and compares the tables with the rows, or makes them.
    pub fn open(
        config: &Config,
        pipeline: &Pipeline,
        schema: &SchemaRef,
        place: &Place<'_>,
    ) -> Result<TimescaleSink> {
        let mut sink = TimescaleSink::new(config, pipeline, schema, place)?;
        let start = Instant::now();
        let mut waiting = Waiting::default();
        sink.session = loop {
            match sink.connect(None) {
                Ok(session) => break Some(session),
                Err(Unopened::Never(error)) => return Err(error),
                Err(Unopened::Refused(error)) if !place.patience.forever => return Err(error),
                Err(Unopened::Refused(error)) if !place.patience.lasts(start) => return Err(error),
                Err(Unopened::Later(reason)) if !place.patience.lasts(start) => {
                    return Err(Error::Surroundings(format!(
                        "the server of `sink.timescale.url` (`{}`) cannot be used: {reason}; `--wait` keeps trying",
                        sink.server.address
                    )));
                }
                Err(Unopened::Refused(error)) => {
                    waiting.say_while_opening(&error.to_string(), &place.patience)
                }
                Err(Unopened::Later(reason)) => waiting.say_while_opening(&reason, &place.patience),
            }
            sink.pause(&mut waiting, None)?;
        };
        Ok(sink)
    }

    /// What is prepared without the server.
    fn new(
        config: &Config,
        pipeline: &Pipeline,
        schema: &SchemaRef,
        place: &Place<'_>,
    ) -> Result<TimescaleSink> {
        let wanted = Wanted::new(config, pipeline, schema)?;
        let decoded = meaning::columns(&pipeline.decode.columns);
        Ok(TimescaleSink {
            driver: Driver::new(&place.patience.shutdown)?,
            shutdown: place.patience.shutdown.clone(),
            server: Server::new(config, place.folder)?,
            pipeline: pipeline.name.clone(),
            schema: schema.clone(),
            texts: Texts::new(&wanted, &decoded, is_revised(schema)),
            wanted,
            has_group: matches!(pipeline.source, pipeline_file::Source::Kafka(_)),
            session: None,
            reconnects: 0,
            merges: 0,
            next_merges: 1,
        })
    }

    /// The position that the database has.
    pub fn position(&mut self, partition: &Partition) -> Result<Position> {
        let session = self.session.take().ok_or_else(not_connected)?;
        let found = self.driver.run(None, POSITION, session.position(&self.pipeline, partition))?;
        let (next_offset, fingerprint) = match found {
            Ok(found) => found,
            Err(error) if error.code().is_some_and(|state| state.code() == "55P03") => {
                return Err(self.held(&session, partition)?);
            }
            Err(error) => return Err(self.failed(&error)),
        };
        self.session = Some(session);
        let next_offset = u64::try_from(next_offset).map_err(|_| {
            Error::Surroundings(format!(
                "`{}` in `{}` has the offset {next_offset} for partition {} of `{}`, which is below zero: set it \
                 right, or delete that row to read from the start",
                self.wanted.positions, self.server.address, partition.number, partition.topic
            ))
        })?;
        Ok(Position { next_offset, fingerprint })
    }

    /// Another process is in the middle of a transaction for this partition and does not get on: it was stopped, or its
    /// machine is gone. Where a group has given the partition to this one, that transaction is ended.
    fn held(&self, session: &Session, partition: &Partition) -> Result<Error> {
        let (name, number, address) = (&partition.topic, partition.number, &self.server.address);
        let what = format!(
            "a transaction of another process holds the position of `{name}` partition {number} in `{address}`"
        );
        if !self.has_group {
            return Ok(Error::Running(format!(
                "{what}: it runs pipeline `{}` too; stop one of the two",
                self.pipeline
            )));
        }
        let ended =
            self.driver.run(None, POSITION, session.take_over(&self.texts, &self.pipeline, partition))?;
        match ended {
            Ok(true) => Ok(Error::Rewind(format!(
                "{what}, which belongs to this one now; that transaction was ended"
            ))),
            Ok(false) => Ok(Error::Rewind(what)),
            // Another user's transactions are not this one's to end.
            Err(error) => {
                Ok(Error::Rewind(format!("{what}, and cannot be ended: {}", failure::reason(&error))))
            }
        }
    }

    /// One transaction: position, rows, dead letters.
    pub fn write(&mut self, write: &Write<'_>, source: &mut Source) -> Result<Stored> {
        let mut session = self.session.take().ok_or_else(not_connected)?;
        let refusals = encode::refusals(&session.comparison.columns, write.kept);
        let rows = rows_without(write, &refusals);
        let refused: Vec<DeadLetter<'_>> = refusals
            .into_iter()
            .map(|refusal| (write.refuse)(refusal.row, refusal.reason, refusal.detail))
            .collect();
        let job = Job { pipeline: &self.pipeline, write, rows: &rows, refused: &refused };
        let mut way = if self.merges > 0 { Way::Merge } else { Way::Copy };
        let done = loop {
            let attempt = session.attempt(way, &job, &self.wanted, &self.texts);
            match self.driver.run(Some(source), way.limit(), attempt)? {
                Ok(done) => break done,
                Err(failed) => way = self.next_way(&session, way, failed, write)?,
            }
        };
        let bytes = session.take_sent_bytes();
        self.session = Some(session);
        self.note(way);
        let all = refused.into_iter().chain(done.refused);
        Ok(Stored {
            bytes,
            duplicates: done.duplicates,
            refused: all.map(|dead_letter| dead_letter.reject.into_owned()).collect(),
        })
    }

    /// How to write a batch that was not written.
    fn next_way(&self, session: &Session, way: Way, failed: Failed, write: &Write<'_>) -> Result<Way> {
        let address = &self.server.address;
        let error = match failed {
            Failed::Moved => return Err(self.moved(write)),
            Failed::Server(error) | Failed::Rows(error)
                if matches!(failure::class(&error), Class::Passing | Class::Refused | Class::Other) =>
            {
                return Err(self.failed(&error));
            }
            Failed::Letters(error) => {
                return Err(match failure::class(&error) {
                    Class::Row(_) | Class::Unique | Class::Schema => {
                        self.check_again(session)?;
                        Error::Surroundings(format!(
                            "table `{}` in `{address}` refuses dead letters: {}; mend it, or give another in \
                             `dead_letter.timescale.table`",
                            self.wanted.dead_letter,
                            failure::reason(&error)
                        ))
                    }
                    _ => self.failed(&error),
                });
            }
            Failed::Server(error) => {
                self.check_again(session)?;
                return Err(Error::Surroundings(format!("`{address}` refuses: {}", failure::reason(&error))));
            }
            Failed::Rows(error) => error,
        };
        match (way, failure::class(&error)) {
            (Way::Copy, Class::Unique) if !self.wanted.key.is_empty() => Ok(Way::Merge),
            // What all rows of a table that has been changed would fail for is not one row's fault.
            (Way::Copy | Way::Merge, Class::Unique | Class::Row(_)) => {
                self.check_again(session)?;
                Ok(Way::Halve)
            }
            (_, Class::Schema) => {
                self.check_again(session)?;
                Err(Error::Surroundings(format!("`{address}` refuses: {}", failure::reason(&error))))
            }
            _ => Err(Error::Running(format!(
                "`{address}` refuses rows one by one: {}",
                failure::reason(&error)
            ))),
        }
    }

    /// Fails when the tables are no longer what they were when the session began. It asks by a connection of its own: the
    /// driver loses count of the answers when a COPY is refused at its beginning.
    fn check_again(&self, session: &Session) -> Result<()> {
        let (server, wanted) = (&self.server, &self.wanted);
        let asking = async { schema::check(&server.connect().await?.client, wanted, &server.address).await };
        let checked = self.driver.run(None, OPEN, asking)?;
        let comparison = checked.map_err(|error| self.failed(&error))?;
        if !comparison.complaints.is_empty() {
            return Err(Error::Surroundings(comparison.complaints.join("\n")));
        }
        if comparison.columns != session.comparison.columns {
            return Err(Error::Rewind(format!(
                "table `{}` in `{}` has other types than before",
                self.wanted.table, self.server.address
            )));
        }
        Ok(())
    }

    /// Whether the next batches meet keys that are there is likely what it was for the last ones.
    fn note(&mut self, way: Way) {
        match way {
            Way::Copy => self.next_merges = 1,
            Way::Merge if self.merges > 0 => self.merges -= 1,
            Way::Merge => {
                self.merges = self.next_merges;
                self.next_merges = (2 * self.next_merges).min(MERGES_MAX);
            }
            Way::Halve => {}
        }
    }

    fn moved(&self, write: &Write<'_>) -> Error {
        let (topic, number, expected) =
            (&write.partition.topic, write.partition.number, write.expected.next_offset);
        let what = format!(
            "the position of `{topic}` partition {number} in `{}` is no longer {expected}: another process",
            self.server.address
        );
        match self.has_group {
            true => Error::Rewind(format!("{what} had the partition meanwhile")),
            false => Error::Running(format!("{what} runs pipeline `{}`; stop one of the two", self.pipeline)),
        }
    }

    /// How often it was connected again.
    pub fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// After an [`Error::Rewind`]: a new connection, for as long as it takes.
    pub fn recover(&mut self, source: &mut Source) -> Result<()> {
        self.session = None;
        let mut waiting = Waiting::default();
        while !self.shutdown.is_requested() {
            match self.connect(Some(source)) {
                Ok(session) => {
                    self.session = Some(session);
                    self.reconnects += 1;
                    return Ok(());
                }
                Err(Unopened::Never(error) | Unopened::Refused(error)) => return Err(error),
                Err(Unopened::Later(reason)) => waiting.say(&reason),
            }
            self.pause(&mut waiting, Some(source))?;
        }
        Err(not_connected())
    }

    fn connect(&self, source: Option<&mut Source>) -> std::result::Result<Session, Unopened> {
        let opening = Session::open(&self.server, &self.wanted, &self.texts);
        match self.driver.run(source, OPEN, opening) {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(Refused::Tables(sentences))) => {
                Err(Unopened::Never(Error::Surroundings(sentences.join("\n"))))
            }
            Ok(Err(Refused::Server(error))) => Err(match (failure::class(&error), self.failed(&error)) {
                (Class::Passing, error) => Unopened::Later(error.to_string()),
                (Class::Refused, error) => Unopened::Refused(error),
                (_, error) => Unopened::Never(error),
            }),
            Err(Error::Rewind(reason)) => Err(Unopened::Later(reason)),
            Err(error) => Err(Unopened::Never(error)),
        }
    }

    /// What a failure of the server means for the lane.
    fn failed(&self, error: &ServerError) -> Error {
        failed(&self.server.address, error)
    }

    /// Ever longer, up to [`PAUSE_MAX`].
    fn pause(&self, waiting: &mut Waiting, source: Option<&mut Source>) -> Result<()> {
        let pause = Duration::from_millis(100 << waiting.pauses.min(6)).min(PAUSE_MAX);
        waiting.pauses += 1;
        let end = Instant::now() + pause;
        let shutdown = &self.shutdown;
        self.driver.run(source, 2 * PAUSE_MAX, async move {
            while Instant::now() < end && !shutdown.is_requested() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
    }

    /// Reads the newest rows back, by their `timestamp`: a table knows no order of writing.
    pub fn read_back(
        &mut self,
        columns: &[String],
        remember: &Remember,
        each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let session = self.session.take().ok_or_else(not_connected)?;
        let rows = self.rows(&session, columns)?;
        rows.read(&self.driver, session.client(), remember, each)?;
        self.session = Some(session);
        Ok(())
    }

    /// Connects once more.
    pub fn preparation(&self) -> Preparation {
        let (server, shutdown) = (self.server.clone(), self.shutdown.clone());
        Box::new(move || {
            let driver = Driver::new(&shutdown)?;
            let connected = driver.run(None, OPEN, server.connect())?;
            let connected = connected.map_err(|error| failed(&server.address, &error))?;
            Ok(Prepared::Timescale(Box::new(Beside { driver, connected })))
        })
    }

    /// What [`TimescaleSink::read_back`] would read now: the other connection stays in a transaction that sees nothing of
    /// what is written after this.
    pub fn reading(&self, beside: Beside, columns: &[String]) -> Result<Reading> {
        let session = self.session.as_ref().ok_or_else(not_connected)?;
        let rows = self.rows(session, columns)?;
        let begun = beside.driver.run(None, POSITION, beside.connected.client.batch_execute(SNAPSHOT))?;
        begun.map_err(|error| self.failed(&error))?;
        Ok(Box::new(move |remember, each| {
            let Beside { driver, connected } = beside;
            rows.read(&driver, &connected.client, remember, &mut |rows| each(None, rows))
        }))
    }

    fn rows(&self, session: &Session, columns: &[String]) -> Result<Asked> {
        let known = &session.comparison.columns;
        let find = |name: &str| known.iter().find(|column| column.name == name).cloned();
        Ok(Asked {
            address: self.server.address.clone(),
            table: self.wanted.table.clone(),
            columns: columns.iter().filter_map(|name| find(name)).collect(),
            timestamp: find("timestamp").filter(|column| column.kind == crate::batch::Kind::Timestamp),
            schema: project(&self.schema, columns)?,
        })
    }
}

/// A connection of its own, with what drives it.
pub struct Beside {
    driver: Driver,
    connected: Connected,
}

/// What a failure of the server at this address means for the lane.
fn failed(address: &str, error: &ServerError) -> Error {
    let reason = failure::reason(error);
    match failure::class(error) {
        Class::Passing => Error::Rewind(format!("`{address}`: {reason}")),
        Class::Refused => Error::Surroundings(format!(
            "`{address}` of `sink.timescale.url` does not let this program do its work: {reason}"
        )),
        Class::Schema => Error::Surroundings(format!("`{address}` refuses: {reason}")),
        Class::Row(_) | Class::Unique | Class::Other => {
            Error::Running(format!("`{address}` failed: {reason}"))
        }
    }
}

/// Why there is no session.
enum Unopened {
    /// What only an operator can mend.
    Never(Error),
    /// The same, where waiting for the operator can be asked for.
    Refused(Error),
    /// What passes.
    Later(String),
}

/// What is waited for.
#[derive(Default)]
struct Waiting {
    pauses: u32,
    said: String,
}

impl Waiting {
    /// Says what the start waits for; in the log only when it will wait for ever.
    fn say_while_opening(&mut self, reason: &str, patience: &Patience) {
        patience.say(reason);
        if patience.forever {
            self.say(reason);
        }
    }

    /// Says each trouble once.
    fn say(&mut self, reason: &str) {
        if self.said != reason {
            tracing::warn!("{reason}; waiting");
            reason.clone_into(&mut self.said);
        }
    }
}

fn not_connected() -> Error {
    Error::Rewind("there is no connection to the database".into())
}

/// The rows to keep without those that are refused already.
fn rows_without(write: &Write<'_>, refusals: &[encode::Refusal]) -> Vec<usize> {
    let mut refused = refusals.iter().map(|refusal| refusal.row).peekable();
    (0..write.kept.num_rows()).filter(|row| refused.next_if_eq(row).is_none()).collect()
}
