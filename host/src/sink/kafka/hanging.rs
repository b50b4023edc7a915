//! Transactions that the brokers have left open.
//!
//! A coordinator that ends a transaction writes a marker into each of its partitions. Kafka 4 forgets the marker of a
//! partition that has no leader at that moment (KAFKA-20734), and takes the transaction for ended. Its rows stay open:
//! readers of committed rows see nothing behind them, and the next transaction of the same producer in that partition
//! decides about them too, which would commit rows that were written again since. So after a failure, and before
//! anything else is written, what is still open is aborted by a transaction of its own.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer;

use super::{KafkaSink, NO_ROW, Positions, is_again, record};
use crate::error::Result;
use crate::kafka::{ASK, Asking, OUTCOME, STEP, watermarks};
use crate::source::Source;

/// What was begun since the last transaction that is known to be committed.
#[derive(Default)]
pub struct Begun {
    /// Numbers of the source partitions whose rows or dead letters were sent.
    pub partitions: BTreeSet<i32>,
    /// The offsets of the transaction whose commit was asked for, if it came to that.
    pub asked: Option<TopicPartitionList>,
}

impl KafkaSink {
    /// Aborts what is open in the partitions that were written to, unless it was committed after all.
    pub fn end_hanging(&mut self, source: &mut Source) -> Result<()> {
        if self.begun.partitions.is_empty() {
            return Ok(());
        }
        let reading = self.take_reading()?;
        let open = self.open_partitions(&reading);
        self.reading = Some(reading);
        let open = open?;
        if !open.is_empty() && !self.is_committed(source)? {
            for (topic, partition) in &open {
                tracing::warn!(%topic, partition, "a transaction was left open by the brokers, and is aborted");
            }
            self.abort(&open, source)?;
        }
        self.begun = Begun::default();
        Ok(())
    }

    /// Topics and partitions that were written to and have an open transaction, of whichever producer.
    fn open_partitions(&self, reading: &BaseConsumer<Asking>) -> Result<Vec<(String, i32)>> {
        let numbers = || self.begun.partitions.iter();
        let rows: BTreeSet<i32> = match self.positions {
            Positions::Group => numbers().copied().filter(|number| *number < self.topic.partitions).collect(),
            Positions::Own(_) => (0..self.topic.partitions).collect(),
        };
        let letters: BTreeSet<i32> =
            numbers().map(|number| number.rem_euclid(self.dead_letter.partitions)).collect();
        let all = (rows.into_iter().map(|number| (&self.topic.name, number)))
            .chain(letters.into_iter().map(|number| (&self.dead_letter.name, number)));
        let mut open = Vec::new();
        for (topic, partition) in all {
            let cannot = |error: KafkaError| self.rewind("cannot ask where a partition ends", &error);
            let (_, end) = watermarks(&self.asking, topic, partition, ASK).map_err(cannot)?;
            let (_, settled) = watermarks(reading, topic, partition, ASK).map_err(cannot)?;
            if settled < end {
                open.push((topic.clone(), partition));
            }
        }
        Ok(open)
    }

    /// Whether the transaction that was last asked to be committed has been: its offsets are then the group's, and its
    /// rows become visible with the next transaction.
    fn is_committed(&self, source: &Source) -> Result<bool> {
        let Some(asked) = &self.begun.asked else { return Ok(false) };
        let committed = match (&self.positions, source) {
            (Positions::Own(consumer), _) => consumer
                .committed_offsets(asked.clone(), ASK)
                .map_err(|error| self.rewind("cannot ask for the position", &error))?,
            (Positions::Group, Source::Kafka(source)) => source.committed_of(asked)?,
            (Positions::Group, Source::File { .. } | Source::Exchange(_) | Source::Backfill(_)) => {
                return Ok(false);
            }
        };
        let reached = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
            let found = committed.find_partition(element.topic(), element.partition());
            found.is_some_and(|found| found.offset().to_raw() >= element.offset().to_raw())
        };
        Ok(asked.elements().iter().all(reached))
    }

    /// An aborted transaction with one message, which no reader of committed rows sees, in each of the partitions.
    fn abort(&self, partitions: &[(String, i32)], source: &mut Source) -> Result<()> {
        let cannot = |error: &KafkaError| self.rewind("an open transaction is not ended", error);
        self.producer.begin_transaction().map_err(|error| cannot(&error))?;
        for (topic, partition) in partitions {
            let record = record(topic, NO_ROW).partition(*partition);
            self.producer.send(record).map_err(|(error, _)| cannot(&error))?;
        }
        let start = Instant::now();
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(Duration::from_millis(1));
            self.check_deliveries()?;
            self.wait(source, start)?;
        }
        self.check_deliveries()?;
        loop {
            match self.producer.abort_transaction(STEP) {
                Ok(()) => return Ok(()),
                Err(error) if is_again(&error) && start.elapsed() < OUTCOME => self.wait(source, start)?,
                Err(error) => return Err(cannot(&error)),
            }
        }
    }
}
