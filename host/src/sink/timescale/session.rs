//! A connection with its statements, and the ways of writing a batch in one transaction.
//!
//! Each way begins with the position, so that a process that does not own the partition has written nothing and a
//! second one waits for the first, and then asks whether the table is still what the rows are encoded for: binary COPY
//! does not look at types. What is sent before an answer is needed goes in one round trip.

use std::borrow::Cow;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow_array::RecordBatch;
use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::future::{join, join_all, join3, join4};
use tokio_postgres::{Client, CopyInSink, Error as ServerError, Statement};

use super::connection::{Connected, Server};
use super::encode::{self, Encoder};
use super::failure::{self, Answer, Class};
use super::merge::{Comparing, Rounds};
use super::schema::{self, Comparison, Wanted, quoted, quoted_list};
use crate::batch::{Partition, Position};
use crate::crash;
use crate::dead_letter::DeadLetter;
use crate::sink::Write;
use crate::sink::table::DEAD_LETTER_COLUMNS;

/// How much is handed to the connection at once: the server is busy with one part while the next is encoded.
const CHUNK_BYTES: usize = 128 << 10;

/// The most dead letters of one statement, and of their bytes: the server takes messages of 1 GiB at most, and a row has
/// 64 MiB at most.
const LETTERS: usize = 10_000;
const LETTERS_BYTES: usize = 16 << 20;

/// How long the transaction of another process may hold a position before it is asked who that is: a transaction takes
/// milliseconds.
const HELD: &str = "5s";

/// How a batch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Straight into the table.
    Copy,
    /// Into a temporary table, and from there where the key is new or the row newer.
    Merge,
    /// As the two, but what the server refuses is halved until it is single rows.
    Halve,
}

impl Way {
    /// How long the server may take: a batch takes well under a second, and one that is halved as long as it has rows.
    pub fn limit(self) -> Duration {
        match self {
            Way::Copy | Way::Merge => Duration::from_secs(300),
            Way::Halve => Duration::from_secs(3_600),
        }
    }
}

/// Why a transaction was not committed, or is not known to be.
pub enum Failed {
    /// The position is another one.
    Moved,
    /// The rows.
    Rows(ServerError),
    /// The dead letters.
    Letters(ServerError),
    /// All else.
    Server(ServerError),
}

/// What is the same for all connections.
pub struct Texts {
    position: String,
    take_over: String,
    move_position: String,
    key_taken: String,
    /// By which columns rows are compared.
    pub comparing: Comparing,
    has_key: bool,
}

/// A batch to write.
pub struct Job<'j, 'w> {
    /// The pipeline's name.
    pub pipeline: &'j str,
    /// Rows, position and dead letters.
    pub write: &'j Write<'w>,
    /// The rows that can be written, as far as is known without the server.
    pub rows: &'j [usize],
    /// The dead letters of the others.
    pub refused: &'j [DeadLetter<'w>],
}

/// What has become of the rows of a [`Job`].
#[derive(Default)]
pub struct Done<'w> {
    /// How many the table had already.
    pub duplicates: u64,
    /// Those that the table has refused.
    pub refused: Vec<DeadLetter<'w>>,
}

/// A connection with its statements.
pub struct Session {
    connected: Connected,
    /// What the tables are.
    pub comparison: Comparison,
    position: Statement,
    move_position: Statement,
    guard: Statement,
    copy: Statement,
    letters: Statement,
    staging: Option<Staging>,
    /// Bytes of rows that were sent, in which way ever.
    sent_bytes: AtomicU64,
}

/// The temporary table, with its statements.
struct Staging {
    copy: Statement,
    merge: Statement,
    refused: Statement,
}

/// What a session cannot be opened for.
pub enum Refused {
    /// Sentences about the tables.
    Tables(Vec<String>),
    /// The server's own failure.
    Server(ServerError),
}

impl From<ServerError> for Refused {
    fn from(error: ServerError) -> Refused {
        Refused::Server(error)
    }
}

impl Texts {
    /// The statements for these tables.
    pub fn new(wanted: &Wanted, decoded: &[(&str, crate::batch::Kind)], is_revised: bool) -> Texts {
        let positions = wanted.positions.quoted();
        let place = |names: &dyn Fn(&str) -> bool| -> Vec<usize> {
            let columns = wanted.columns.iter().enumerate();
            columns.filter(|(_, (name, _))| names(name)).map(|(index, _)| index).collect()
        };
        let revision = place(&|name| name == "revision").first().copied().filter(|_| is_revised);
        let newer = if is_revised { ", whose `revision` is not older" } else { "" };
        Texts {
            // It waits for the transaction of a process before, so what it gives is what counts.
            position: format!(
                "INSERT INTO {positions} AS kept (pipeline, topic, partition, next_offset, fingerprint) \
                 VALUES ($1, $2, $3, 0, '') ON CONFLICT (pipeline, topic, partition) \
                 DO UPDATE SET next_offset = kept.next_offset RETURNING next_offset, fingerprint"
            ),
            take_over: format!(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'transactionid' AND granted \
                 AND pid <> pg_backend_pid() AND transactionid = (SELECT xmax FROM {positions} \
                 WHERE pipeline = $1 AND topic = $2 AND partition = $3)"
            ),
            move_position: format!(
                "UPDATE {positions} SET next_offset = $1, fingerprint = $2 \
                 WHERE pipeline = $3 AND topic = $4 AND partition = $5 AND next_offset = $6"
            ),
            key_taken: format!(
                "table `{}` has a row with the same key ({}) and other values{newer}",
                wanted.table,
                wanted.key.join(", ")
            ),
            comparing: Comparing {
                key: place(&|name| wanted.key.iter().any(|key| key == name)),
                decoded: place(&|name| decoded.iter().any(|(decoded, _)| *decoded == name)),
                revision,
            },
            has_key: !wanted.key.is_empty(),
        }
    }
}

/// The columns of the rows within a statement.
fn names(wanted: &Wanted) -> String {
    quoted_list(wanted.columns.iter().map(|(name, _)| name))
}

/// Changes nothing. It fails when a column has gone or is of another type than when it was prepared, or when the unique
/// index of the key has gone; and until the transaction ends nobody else can do any of these.
fn guard(wanted: &Wanted) -> String {
    let (table, names) = (wanted.table.quoted(), names(wanted));
    let conflict = match wanted.key.is_empty() {
        true => String::new(),
        false => format!("ON CONFLICT ({}) DO NOTHING ", quoted_list(&wanted.key)),
    };
    format!(
        "INSERT INTO {table} ({names}) SELECT {names} FROM {table} WHERE false {conflict}RETURNING {names}"
    )
}

fn copy(wanted: &Wanted) -> String {
    format!("COPY {} ({}) FROM STDIN BINARY", wanted.table.quoted(), names(wanted))
}

fn letters(wanted: &Wanted, rejected_at_is_number: bool) -> String {
    let names = DEAD_LETTER_COLUMNS.join(", ");
    let at = match rejected_at_is_number {
        true => "rejected_at",
        false => "timestamptz 'epoch' + rejected_at * interval '1 millisecond'",
    };
    let values: Vec<&str> =
        DEAD_LETTER_COLUMNS.into_iter().map(|name| if name == "rejected_at" { at } else { name }).collect();
    format!(
        "INSERT INTO {} ({names}) SELECT {} FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], \
         $6::text[], $7::int4[], $8::int8[], $9::int8[], $10::bytea[]) AS letters ({names})",
        wanted.dead_letter.quoted(),
        values.join(", ")
    )
}

/// The name of the temporary table; its rows have numbers, by which the rows of one statement are told from those of
/// the ones before in the same transaction.
const STAGING: &str = "pg_temp.tidegate_staging";

fn create_staging(wanted: &Wanted) -> String {
    format!(
        "CREATE TEMPORARY TABLE tidegate_staging ON COMMIT DELETE ROWS AS SELECT 0 AS tidegate_row, {} FROM {} WHERE false",
        names(wanted),
        wanted.table.quoted()
    )
}

/// Stores the staged rows. A row whose key is stored already replaces that one when its `revision` is newer (none
/// counts as 0); without a `revision` nothing says which is newer, so the stored one stays.
fn merge(wanted: &Wanted, is_revised: bool) -> String {
    let (table, names) = (wanted.table.quoted(), names(wanted));
    let key = quoted_list(&wanted.key);
    let changed: Vec<String> = (wanted.columns.iter())
        .filter(|(name, _)| !wanted.key.contains(name))
        .map(|(name, _)| format!("{0} = excluded.{0}", quoted(name)))
        .collect();
    let action = match is_revised && !changed.is_empty() {
        true => format!(
            "DO UPDATE SET {} WHERE coalesce(excluded.revision, 0) > coalesce(stored.revision, 0)",
            changed.join(", ")
        ),
        false => "DO NOTHING".to_owned(),
    };
    format!(
        "INSERT INTO {table} AS stored ({names}) SELECT {names} FROM {STAGING} WHERE tidegate_row >= $1 \
         ON CONFLICT ({key}) {action}"
    )
}

/// The numbers of the staged rows that differ from the stored ones with their keys, in the columns that came from the
/// source: what rules add, such as a time, differs each time. Each is looked up by the index of the key, also where the
/// server would rather read the whole table.
fn refused(wanted: &Wanted, decoded: &[usize]) -> String {
    let same = |columns: &mut dyn Iterator<Item = &String>, equals: &str| {
        let parts = columns.map(|name| format!("stored.{0} {equals} staged.{0}", quoted(name)));
        parts.collect::<Vec<_>>().join(" AND ")
    };
    let is_key = same(&mut wanted.key.iter(), "=");
    let mut decoded = decoded.iter().map(|&index| &wanted.columns[index].0).peekable();
    let is_equal = match decoded.peek().is_some() {
        true => same(&mut decoded, "IS NOT DISTINCT FROM"),
        false => "true".to_owned(),
    };
    format!(
        "SELECT tidegate_row FROM {STAGING} AS staged CROSS JOIN LATERAL (SELECT {is_equal} AS is_equal FROM {} AS stored \
         WHERE {is_key} LIMIT 1) AS compared WHERE tidegate_row >= $1 AND NOT is_equal ORDER BY 1",
        wanted.table.quoted()
    )
}

impl Session {
    /// Connects, makes what may be made, and compares the tables with what is wanted.
    pub async fn open(server: &Server, wanted: &Wanted, texts: &Texts) -> Result<Session, Refused> {
        let mut connected = server.connect().await?;
        schema::make(&mut connected.client, wanted).await?;
        let client = &connected.client;
        let mut comparison = schema::check(client, wanted, &server.address).await?;
        if !comparison.complaints.is_empty() {
            return Err(Refused::Tables(std::mem::take(&mut comparison.complaints)));
        }
        let letters = letters(wanted, comparison.rejected_at_is_number);
        let (guard, copy) = (guard(wanted), copy(wanted));
        let prepared = join_all(
            [&texts.position, &texts.move_position, &guard, &copy, &letters].map(|text| client.prepare(text)),
        );
        let mut prepared = prepared.await.into_iter();
        let mut next = || prepared.next().expect("there are as many as were asked for");
        let (position, move_position, guard, copy, letters) = (next()?, next()?, next()?, next()?, next()?);
        Ok(Session {
            connected,
            comparison,
            position,
            move_position,
            guard,
            copy,
            letters,
            staging: None,
            sent_bytes: AtomicU64::new(0),
        })
    }

    /// Takes requests.
    pub fn client(&self) -> &Client {
        &self.connected.client
    }

    /// The position that counts. It waits for a transaction that is about to change it, and then fails with the state
    /// 55P03.
    pub async fn position(&self, pipeline: &str, partition: &Partition) -> Answer<(i64, String)> {
        let client = self.client();
        let begin = format!("BEGIN; SET LOCAL lock_timeout = '{HELD}'");
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&pipeline, &&*partition.topic, &partition.number];
        let (begun, row) =
            join(client.batch_execute(&begin), client.query_one(&self.position, &parameters)).await;
        let found = begun.and(row).map(|row| (row.get(0), row.get(1)));
        let end = if found.is_ok() { "COMMIT" } else { "ROLLBACK" };
        client.batch_execute(end).await?;
        found
    }

    /// Ends the transaction of another process that holds the position; says whether there was one.
    pub async fn take_over(&self, texts: &Texts, pipeline: &str, partition: &Partition) -> Answer<bool> {
        let rows = self
            .client()
            .query(&texts.take_over, &[&pipeline, &&*partition.topic, &partition.number])
            .await?;
        Ok(!rows.is_empty())
    }

    /// Writes a batch in one transaction, which is over afterwards in any case.
    pub async fn attempt<'w>(
        &mut self,
        way: Way,
        job: &Job<'_, 'w>,
        wanted: &Wanted,
        texts: &Texts,
    ) -> Result<Done<'w>, Failed> {
        if way != Way::Copy && texts.has_key {
            self.prepare_staging(wanted, texts).await.map_err(Failed::Server)?;
        }
        let result = match way {
            Way::Copy => self.copy(job).await.map(|()| Done::default()),
            Way::Merge => self.merge(job, texts).await,
            Way::Halve => self.halve(job, texts).await,
        };
        if result.is_err() {
            // What the connection says to this says less than the failure.
            drop(self.client().batch_execute("ROLLBACK").await);
        }
        result
    }

    async fn copy(&self, job: &Job<'_, '_>) -> Result<(), Failed> {
        let client = self.client();
        let begun = join4(
            client.batch_execute("BEGIN"),
            self.move_position(job),
            client.execute(&self.guard, &[]),
            join(self.letters(job, &[]), self.copy_in(&self.copy, job.rows.is_empty())),
        );
        let (begun, moved, guarded, (letters, copying)) = begun.await;
        settle(begun, moved, guarded)?;
        letters.map_err(Failed::Letters)?;
        let copying = copying.map_err(Failed::Rows)?;
        let Some(copying) = copying else {
            crash::point("before_commit");
            return client.batch_execute("COMMIT").await.map_err(Failed::Server);
        };
        let mut copying = pin!(copying);
        let encoder = Encoder::new(&self.comparison.columns, job.write.kept, false);
        self.send(copying.as_mut(), &encoder, job.rows, 0).await.map_err(Failed::Rows)?;
        crash::point("before_commit");
        // When the rows are not stored, this commits nothing: the transaction has failed before.
        let (copied, committed) = join(copying.finish(), client.batch_execute("COMMIT")).await;
        copied.and(committed.map(|()| 0)).map(drop).map_err(Failed::Rows)
    }

    async fn merge<'w>(&self, job: &Job<'_, 'w>, texts: &Texts) -> Result<Done<'w>, Failed> {
        self.begin(job, "BEGIN").await?;
        let encoder = Encoder::new(&self.comparison.columns, job.write.kept, true);
        let sorted = Rounds::new(job.write.kept, job.rows.iter().copied(), &texts.comparing);
        let mut outcomes = Outcomes::new(job.write.kept);
        let mut first = 0;
        for round in &sorted.rounds {
            let stored = self.store_staged(&encoder, round, first).await.map_err(Failed::Rows)?;
            first += round.len() as i32;
            outcomes.note(round, &stored);
        }
        self.commit(job, outcomes.done(&sorted, job, texts)).await
    }

    /// As [`Session::merge`], or as [`Session::copy`] where there is no key; each statement within a savepoint, so that
    /// those before it stay.
    async fn halve<'w>(&self, job: &Job<'_, 'w>, texts: &Texts) -> Result<Done<'w>, Failed> {
        let client = self.client();
        // What would be checked at the end is checked where the row is known.
        self.begin(job, "BEGIN; SET CONSTRAINTS ALL IMMEDIATE").await?;
        let encoder = Encoder::new(&self.comparison.columns, job.write.kept, texts.has_key);
        let sorted = match texts.has_key {
            true => Rounds::new(job.write.kept, job.rows.iter().copied(), &texts.comparing),
            false => Rounds { rounds: vec![job.rows.to_vec()], followers: Vec::new() },
        };
        let mut outcomes = Outcomes::new(job.write.kept);
        let mut first = 0;
        for round in &sorted.rounds {
            let mut waiting: Vec<&[usize]> = vec![round];
            while let Some(rows) = waiting.pop() {
                client.batch_execute("SAVEPOINT tidegate").await.map_err(Failed::Server)?;
                let stored = match texts.has_key {
                    true => self.store_staged(&encoder, rows, first).await,
                    false => self.store_copied(&encoder, rows).await,
                };
                first += rows.len() as i32;
                let error = match stored {
                    Ok(stored) => {
                        outcomes.note(rows, &stored);
                        client.batch_execute("RELEASE SAVEPOINT tidegate").await.map_err(Failed::Server)?;
                        continue;
                    }
                    Err(error) => error,
                };
                let reason = match failure::class(&error) {
                    Class::Row(reason) => reason,
                    Class::Unique => "constraint",
                    _ => return Err(Failed::Rows(error)),
                };
                let undo = "ROLLBACK TO SAVEPOINT tidegate; RELEASE SAVEPOINT tidegate";
                client.batch_execute(undo).await.map_err(Failed::Server)?;
                match rows {
                    [row] => outcomes.refuse(*row, reason, failure::detail(&error)),
                    _ => {
                        let (before, after) = rows.split_at(rows.len() / 2);
                        waiting.extend([after, before]);
                    }
                }
            }
        }
        self.commit(job, outcomes.done(&sorted, job, texts)).await
    }

    /// What comes before the rows.
    async fn begin(&self, job: &Job<'_, '_>, begin: &str) -> Result<(), Failed> {
        let client = self.client();
        let (begun, moved, guarded) =
            join3(client.batch_execute(begin), self.move_position(job), client.execute(&self.guard, &[]))
                .await;
        settle(begun, moved, guarded)
    }

    /// What comes after the rows.
    async fn commit<'w>(&self, job: &Job<'_, 'w>, done: Done<'w>) -> Result<Done<'w>, Failed> {
        crash::point("before_commit");
        // When the dead letters are not stored, this commits nothing.
        let (letters, committed) =
            join(self.letters(job, &done.refused), self.client().batch_execute("COMMIT")).await;
        letters.map_err(Failed::Letters)?;
        committed.map_err(Failed::Rows)?;
        Ok(done)
    }

    async fn move_position(&self, job: &Job<'_, '_>) -> Answer<u64> {
        let Write { partition, expected, next, .. } = job.write;
        let offset = |position: &Position| i64::try_from(position.next_offset).unwrap_or(i64::MAX);
        let (next_offset, expected) = (offset(next), offset(expected));
        self.client()
            .execute(
                &self.move_position,
                &[
                    &next_offset,
                    &next.fingerprint,
                    &job.pipeline,
                    &&*partition.topic,
                    &partition.number,
                    &expected,
                ],
            )
            .await
    }

    async fn copy_in(&self, copy: &Statement, is_empty: bool) -> Answer<Option<CopyInSink<Bytes>>> {
        match is_empty {
            true => Ok(None),
            false => self.client().copy_in(copy).await.map(Some),
        }
    }

    /// Stores the dead letters of the rules, those of the job, and `more`.
    async fn letters(&self, job: &Job<'_, '_>, more: &[DeadLetter<'_>]) -> Answer<()> {
        let all: Vec<&DeadLetter<'_>> = job.write.rejected.iter().chain(job.refused).chain(more).collect();
        let mut chunks = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for (index, letter) in all.iter().enumerate() {
            bytes += letter.payload.len() + letter.reject.detail.len();
            if bytes >= LETTERS_BYTES || index + 1 - start == LETTERS || index + 1 == all.len() {
                chunks.push(self.store_letters(&all[start..=index]));
                (start, bytes) = (index + 1, 0);
            }
        }
        join_all(chunks).await.into_iter().collect()
    }

    async fn store_letters(&self, letters: &[&DeadLetter<'_>]) -> Answer<()> {
        fn texts<'l>(
            letters: &'l [&DeadLetter<'_>],
            text: impl Fn(&'l DeadLetter<'_>) -> &'l str,
        ) -> Vec<Cow<'l, str>> {
            letters.iter().map(|letter| without_nul(text(letter))).collect()
        }
        let offsets: Vec<i64> =
            letters.iter().map(|letter| i64::try_from(letter.offset).unwrap_or(i64::MAX)).collect();
        let payloads: Vec<&[u8]> = letters.iter().map(|letter| &*letter.payload).collect();
        let partitions: Vec<i32> = letters.iter().map(|letter| letter.partition).collect();
        let times: Vec<i64> = letters.iter().map(|letter| letter.rejected_at_ms).collect();
        self.client()
            .execute(
                &self.letters,
                &[
                    &texts(letters, |letter| letter.pipeline),
                    &texts(letters, |letter| &letter.reject.rule),
                    &texts(letters, |letter| &letter.reject.version),
                    &texts(letters, |letter| &letter.reject.reason),
                    &texts(letters, |letter| &letter.reject.detail),
                    &texts(letters, |letter| letter.topic),
                    &partitions,
                    &offsets,
                    &times,
                    &payloads,
                ],
            )
            .await
            .map(drop)
    }

    /// Makes the temporary table, once a connection.
    async fn prepare_staging(&mut self, wanted: &Wanted, texts: &Texts) -> Answer<()> {
        if self.staging.is_some() {
            return Ok(());
        }
        let client = self.client();
        client.batch_execute(&create_staging(wanted)).await?;
        let copy = format!("COPY {STAGING} (tidegate_row, {}) FROM STDIN BINARY", names(wanted));
        let merge = merge(wanted, texts.comparing.revision.is_some());
        let refused = refused(wanted, &texts.comparing.decoded);
        let (copy, merge, refused) =
            join3(client.prepare(&copy), client.prepare(&merge), client.prepare(&refused)).await;
        self.staging = Some(Staging { copy: copy?, merge: merge?, refused: refused? });
        Ok(())
    }

    /// Stores rows of different keys by way of the temporary table, where they are numbered from `first` on.
    async fn store_staged(&self, encoder: &Encoder<'_>, rows: &[usize], first: i32) -> Answer<StoredRows> {
        let client = self.client();
        let staging = self.staging.as_ref().expect("it was prepared before the transaction");
        let mut copying = pin!(client.copy_in::<_, Bytes>(&staging.copy).await?);
        self.send(copying.as_mut(), encoder, rows, first).await?;
        let (copied, written) = join(copying.finish(), client.execute(&staging.merge, &[&first])).await;
        copied?;
        let written = written?;
        if written == rows.len() as u64 {
            return Ok(StoredRows { written, refused: Vec::new() });
        }
        let refused = client.query(&staging.refused, &[&first]).await?;
        let row = |number: i32| rows[(number - first) as usize];
        Ok(StoredRows { written, refused: refused.iter().map(|found| row(found.get(0))).collect() })
    }

    async fn store_copied(&self, encoder: &Encoder<'_>, rows: &[usize]) -> Answer<StoredRows> {
        let mut copying = pin!(self.client().copy_in::<_, Bytes>(&self.copy).await?);
        self.send(copying.as_mut(), encoder, rows, 0).await?;
        copying.finish().await?;
        Ok(StoredRows { written: rows.len() as u64, refused: Vec::new() })
    }

    /// Sends rows to the server; their numbers are counted from `first` on.
    async fn send(
        &self,
        mut copying: Pin<&mut CopyInSink<Bytes>>,
        encoder: &Encoder<'_>,
        rows: &[usize],
        first: i32,
    ) -> Answer<()> {
        let room = || Vec::with_capacity(CHUNK_BYTES + 4_096);
        let mut chunk = room();
        let mut sent_bytes = 0;
        encode::begin(&mut chunk);
        for (&row, number) in rows.iter().zip(first..) {
            encoder.row(row, number, &mut chunk);
            if chunk.len() >= CHUNK_BYTES {
                sent_bytes += chunk.len();
                copying.feed(std::mem::replace(&mut chunk, room()).into()).await?;
            }
        }
        encode::end(&mut chunk);
        self.sent_bytes.fetch_add((sent_bytes + chunk.len()) as u64, Ordering::Relaxed);
        copying.feed(chunk.into()).await
    }

    /// Bytes of rows that were sent since this was last asked.
    pub fn take_sent_bytes(&self) -> u64 {
        self.sent_bytes.swap(0, Ordering::Relaxed)
    }
}

/// What a statement has made of rows; the others are there already.
struct StoredRows {
    written: u64,
    refused: Vec<usize>,
}

/// What has become of each row of a batch.
struct Outcomes {
    duplicates: u64,
    /// Why a row is refused; the detail of a key that is taken is the same for all.
    refused: Vec<Option<(&'static str, Option<String>)>>,
}

impl Outcomes {
    fn new(batch: &RecordBatch) -> Outcomes {
        Outcomes { duplicates: 0, refused: vec![None; batch.num_rows()] }
    }

    fn note(&mut self, rows: &[usize], stored: &StoredRows) {
        self.duplicates += (rows.len() as u64).saturating_sub(stored.written + stored.refused.len() as u64);
        stored.refused.iter().for_each(|&row| self.refused[row] = Some(("key_taken", None)));
    }

    fn refuse(&mut self, row: usize, reason: &'static str, detail: String) {
        self.refused[row] = Some((reason, Some(detail)));
    }

    fn done<'w>(mut self, sorted: &Rounds, job: &Job<'_, 'w>, texts: &Texts) -> Done<'w> {
        for &(row, leader) in &sorted.followers {
            self.refused[row] = self.refused[leader].clone();
            self.duplicates += u64::from(self.refused[row].is_none());
        }
        let refused = self.refused.into_iter().enumerate().filter_map(|(row, refused)| {
            let (reason, detail) = refused?;
            Some((job.write.refuse)(row, reason, detail.unwrap_or_else(|| texts.key_taken.clone())))
        });
        Done { duplicates: self.duplicates, refused: refused.collect() }
    }
}

/// The first failure of what begins a transaction.
fn settle(begun: Answer<()>, moved: Answer<u64>, guarded: Answer<u64>) -> Result<(), Failed> {
    begun.map_err(Failed::Server)?;
    if moved.map_err(Failed::Server)? == 0 {
        return Err(Failed::Moved);
    }
    guarded.map(drop).map_err(Failed::Server)
}

/// PostgreSQL keeps no NUL in a text; the bytes of the row have it still.
fn without_nul(text: &str) -> Cow<'_, str> {
    match text.contains('\0') {
        true => text.replace('\0', "\u{fffd}").into(),
        false => text.into(),
    }
}
