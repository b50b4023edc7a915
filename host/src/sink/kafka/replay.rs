//! Rows of dead letters, in one transaction with the markers that say that they were replayed.

use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::Producer;

use super::message::{self, Key, header_bytes};
use super::{Config, KafkaSink, NO_ROW, ROW, Record, RowWriter, is_again, reason, record};
use crate::batch::Partition;
use crate::dead_letter::header;
use crate::dead_letter::letters::{At, Outcome};
use crate::error::{Error, Result};
use crate::kafka::{OUTCOME, STEP};
use crate::lane::Place;
use crate::pipeline_file::Pipeline;

/// What has become of the rows of dead letters, all of one source partition.
pub struct Replayed<'a> {
    /// Name of the pipeline.
    pub pipeline: &'a str,
    /// Where the rows are from.
    pub partition: &'a Partition,
    /// The versions of those rules.
    pub versions: &'a str,
    /// The rows that the rules have kept.
    pub kept: &'a RecordBatch,
    /// Their dead letters.
    pub kept_from: &'a [At],
    /// The dead letters of the rows that the rules have dropped.
    pub dropped: &'a [At],
    /// Milliseconds since 1970.
    pub now_ms: i64,
}

impl KafkaSink {
    /// Begins transactions under the one name that all replays of a pipeline have, so that a second replay ends the
    /// first. When nothing is to be written it begins none.
    pub fn open_replay(
        config: &Config,
        pipeline: &Pipeline,
        schema: &SchemaRef,
        writes: bool,
        place: &Place<'_>,
    ) -> Result<KafkaSink> {
        let config = Config { create: false, ..config.clone() };
        let transactional_id = writes.then(|| format!("{}-replay", pipeline.group()));
        KafkaSink::open_as(&config, pipeline, schema, None, transactional_id, place)
    }

    /// Writes rows and markers in one transaction. Says which of the rows no message can hold, and why; they get
    /// no marker.
    pub fn replay(&mut self, batch: &Replayed<'_>) -> Result<Vec<(usize, String)>> {
        let writes = self.is_transactional && !(batch.kept_from.is_empty() && batch.dropped.is_empty());
        if writes {
            self.producer
                .begin_transaction()
                .map_err(|error| self.ended("a transaction does not begin", &error))?;
        }
        let written = self.send_batch(batch, writes).and_then(|too_large| {
            if writes {
                self.commit_replay()?;
            }
            Ok(too_large)
        });
        if writes && written.is_err() {
            // Else readers of committed rows wait until the broker ends it. What was fenced cannot.
            drop(self.producer.abort_transaction(STEP));
        }
        written
    }

    fn send_batch(&self, batch: &Replayed<'_>, writes: bool) -> Result<Vec<(usize, String)>> {
        let partition = self.output_partition(batch.partition)?;
        let writer = RowWriter::new(batch.kept);
        let key = Key::new(&self.key, batch.kept);
        let (mut value, mut key_text) = (Vec::with_capacity(512), Vec::with_capacity(64));
        let mut too_large = Vec::new();
        for (row, from) in batch.kept_from.iter().enumerate() {
            value.clear();
            writer.append(row, &mut value);
            let has_key = key.append(row, &mut key_text);
            let from_text = format!("{}/{}/{}", self.dead_letter.name, from.partition, from.offset);
            let headers = message::versions(batch.versions)
                .unwrap_or_else(|| OwnedHeaders::new_with_capacity(1))
                .insert(Header { key: header::REPLAYED_FROM, value: Some(&from_text) });
            if let Some(detail) = self.topic.too_large(&value, key_text.len() + header_bytes(&headers)) {
                too_large.push((row, detail));
                continue;
            }
            let mut record = record(&self.topic.name, ROW).payload(value.as_slice()).headers(headers);
            record.partition = partition;
            if has_key {
                record = record.key(key_text.as_slice());
            }
            if writes {
                self.hand_over(record)?;
                self.mark(batch, *from, Outcome::Written)?;
            }
        }
        if writes {
            batch.dropped.iter().try_for_each(|from| self.mark(batch, *from, Outcome::Dropped))?;
        }
        Ok(too_large)
    }

    /// Beside the dead letter, so that whoever reads its partition to the end meets the marker.
    fn mark(&self, batch: &Replayed<'_>, of: At, outcome: Outcome) -> Result<()> {
        let texts = [
            (header::REPLAYED, of.to_string()),
            (header::REPLAYED_AT, batch.now_ms.to_string()),
            (header::OUTCOME, outcome.name().into()),
            (header::PIPELINE, batch.pipeline.into()),
        ];
        let headers = texts.iter().fold(OwnedHeaders::new_with_capacity(4), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        let record =
            record(&self.dead_letter.name, NO_ROW).partition(of.partition).payload(&[]).headers(headers);
        self.hand_over(record)
    }

    /// Hands a message to the producer; waits while too many are on the way.
    fn hand_over(&self, mut record: Record<'_>) -> Result<()> {
        let start = Instant::now();
        loop {
            record = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record))
                    if start.elapsed() < OUTCOME =>
                {
                    record
                }
                Err((error, _)) => return Err(self.ended("a row is not taken", &error)),
            };
            self.producer.poll(Duration::from_millis(1));
            self.check_taken()?;
        }
    }

    fn check_taken(&self) -> Result<()> {
        let failure = self.producer.context().take_failure();
        failure.map_or(Ok(()), |error| Err(self.ended("a row is not taken", &error)))
    }

    fn commit_replay(&self) -> Result<()> {
        let start = Instant::now();
        while self.producer.in_flight_count() > 0 && start.elapsed() < OUTCOME {
            self.producer.poll(Duration::from_millis(1));
            self.check_taken()?;
        }
        self.check_taken()?;
        crate::crash::point("before_replay_commit");
        loop {
            match self.producer.commit_transaction(STEP) {
                Ok(()) => break,
                // Asking again for the outcome is not committing again: it is the same transaction.
                Err(error) if is_again(&error) && start.elapsed() < OUTCOME => {}
                Err(error) => return Err(self.ended("the transaction is not committed", &error)),
            }
        }
        crate::crash::point("after_replay_commit");
        Ok(())
    }

    /// What ends a replay. It does not go back by itself: the next one knows what was written.
    fn ended(&self, what: &str, error: &KafkaError) -> Error {
        let is_fenced = |code| {
            use RDKafkaErrorCode::{Fenced, InvalidProducerEpoch, ProducerFenced};
            matches!(code, Fenced | ProducerFenced | InvalidProducerEpoch)
        };
        let fatal = self.producer.client().fatal_error().map(|(code, _)| code);
        if error.rdkafka_error_code().into_iter().chain(fatal).any(is_fenced) {
            return Error::Running(
                "another replay of this pipeline has begun, and this one stops; what it has committed counts, and the \
                 other one skips it"
                    .into(),
            );
        }
        Error::Running(format!(
            "{what} at `{}`: {}; run it again, which skips what was written",
            self.brokers,
            reason(error)
        ))
    }
}
