//! Positions and plans of a source whose group does not keep them: a table beside the rows.
//!
//! Each change is a row with a higher `version`; the newest counts, and the table's engine throws the others away.
//! ClickHouse compares nothing before it writes, so two processes that run one pipeline from one file are not kept
//! apart.

use super::client::{Client, Failure};
use super::tables::{POSITIONS, literal, quoted};
use crate::batch::{Partition, Position};
use crate::source::{Plan, Source, Start};

/// The table of positions.
pub struct Positions {
    table: String,
    pipeline: String,
    /// The version of the newest row of this pipeline.
    version: u64,
}

impl Positions {
    /// The positions of a pipeline in the table of a database.
    pub fn new(database: &str, pipeline: &str) -> Positions {
        Positions {
            table: format!("{}.{}", quoted(database), quoted(POSITIONS)),
            pipeline: pipeline.into(),
            version: 0,
        }
    }

    /// Where to go on with a partition.
    pub fn start(&mut self, client: &Client, partition: &Partition) -> Result<Start, Failure> {
        let of = "next_offset, planned_end, planned_id, fingerprint";
        let newest: Vec<String> = of.split(", ").map(|column| format!("argMax({column}, version)")).collect();
        let rows = client.ask(
            None,
            &format!(
                "SELECT {}, max(version) FROM {} WHERE pipeline = {} AND topic = {} AND partition = {}",
                newest.join(", "),
                self.table,
                literal(&self.pipeline),
                literal(&partition.topic),
                partition.number
            ),
        )?;
        let row = rows.into_iter().next().unwrap_or_default();
        let number = |index: usize| row.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let (next_offset, end, id) = (number(0), number(1), number(2));
        self.version = self.version.max(number(4));
        let fingerprint = row.get(3).cloned().unwrap_or_default();
        Ok(Start {
            partition: partition.clone(),
            position: Some(Position { next_offset, fingerprint }),
            planned: (end > next_offset).then_some(Plan { first: next_offset, end, id }),
        })
    }

    /// Keeps positions, each with what is planned from there.
    pub fn keep(&mut self, client: &Client, source: &mut Source, starts: &[Start]) -> Result<(), Failure> {
        let mut values = Vec::new();
        for Start { partition, position, planned } in starts {
            let Some(position) = position else { continue };
            self.version += 1;
            let (end, id) = planned.map_or((0, 0), |plan| (plan.end, plan.id));
            values.push(format!(
                "({}, {}, {}, {}, {end}, {id}, {}, {})",
                literal(&self.pipeline),
                literal(&partition.topic),
                partition.number,
                position.next_offset,
                literal(&position.fingerprint),
                self.version
            ));
        }
        let columns =
            "pipeline, topic, partition, next_offset, planned_end, planned_id, fingerprint, version";
        client.execute(
            Some(source),
            &format!("INSERT INTO {} ({columns}) VALUES {}", self.table, values.join(", ")),
        )
    }
}
