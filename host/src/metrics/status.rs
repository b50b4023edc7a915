//! What a pipeline is at the moment: for `/readyz`, `/metrics` and `tidegate top`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::summary::ExchangeRun;

/// A pipeline that runs.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PipelineStatus {
    /// Its name.
    pub pipeline: String,
    /// The version of the program.
    pub version: String,
    /// Its rules, in the order in which a row meets them.
    pub rules: Vec<String>,
    /// Its exchanges.
    pub exchanges: Vec<String>,
    /// Rows that count since the process began.
    pub rows: Rows,
    /// Its lanes.
    pub lanes: Vec<LaneStatus>,
    /// Main memory of the process, in bytes; 0 where the system does not say.
    pub memory_bytes: u64,
}

/// Rows, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rows {
    /// Rows that the source gave.
    pub read: u64,
    /// Rows that the sink has.
    pub written: u64,
    /// Rows in the dead letter.
    pub rejected: u64,
    /// Rows left out on purpose.
    pub dropped: u64,
    /// Empty rows.
    pub empty: u64,
}

/// A lane.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LaneStatus {
    /// Whether it does what it should.
    pub state: LaneState,
    /// Why it is not ready, where more is known than the state.
    pub why: Option<String>,
    /// Its partitions.
    pub partitions: Vec<PartitionStatus>,
    /// The exchanges that it asks.
    pub exchanges: Vec<ExchangeStatus>,
    /// The newest value of the column `timestamp` among its written rows, milliseconds since 1970.
    pub newest_ms: Option<i64>,
    /// Connections to brokers and databases that were lost or ended, and made again.
    pub reconnects: u64,
}

/// Whether a lane does what it should.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LaneState {
    /// It opens its source and its sink.
    #[default]
    Opening,
    /// It reads and writes.
    Ready,
    /// It has failed, and tries to go on.
    Failing,
    /// It has ended.
    Ended,
}

/// A partition of a lane.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct PartitionStatus {
    /// Topic, or file.
    pub topic: String,
    /// Partition.
    pub number: i32,
    /// The offset of the first row that is not written.
    pub next_offset: u64,
    /// Rows of the source that are not written; `None` where it is not known.
    pub lag_rows: Option<u64>,
    /// How old the rows are that are read now while others wait, in milliseconds; 0 when none wait.
    pub lag_ms: u64,
}

/// An exchange that is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExchangeStatus {
    /// How it was asked, and what is known of its candles.
    #[serde(flatten)]
    pub run: ExchangeRun,
    /// Series that have not reached the present yet.
    pub behind: u64,
    /// For how long the exchange wants no requests, in milliseconds.
    pub blocked_ms: u64,
}

impl LaneState {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            LaneState::Opening => "opening",
            LaneState::Ready => "ready",
            LaneState::Failing => "failing",
            LaneState::Ended => "ended",
        }
    }

    /// What it does, as the rest of a sentence.
    pub fn says(self) -> &'static str {
        match self {
            LaneState::Opening => "opens its source and its sink",
            LaneState::Ready => "is ready",
            LaneState::Failing => "has failed and tries to go on",
            LaneState::Ended => "has ended",
        }
    }
}

impl PipelineStatus {
    /// Why it is not ready, in a sentence for each lane; nothing when it is.
    pub fn obstacles(&self) -> Vec<String> {
        let is_ready = |lane: &LaneStatus| lane.state == LaneState::Ready;
        (self.lanes.iter().enumerate())
            .filter(|(_, lane)| !is_ready(lane))
            .map(|(number, lane)| {
                let says = lane.state.says();
                match &lane.why {
                    Some(why) => format!("lane {number} {says}: {why}"),
                    None => format!("lane {number} {says}"),
                }
            })
            .collect()
    }

    /// Rows of the source that are not written, in all partitions; `None` where it is not known.
    pub fn lag_rows(&self) -> Option<u64> {
        self.partitions().filter_map(|partition| partition.lag_rows).reduce(|sum, rows| sum + rows)
    }

    /// The lag of the partition that is furthest behind, in milliseconds.
    pub fn lag_ms(&self) -> u64 {
        self.partitions().map(|partition| partition.lag_ms).max().unwrap_or(0)
    }

    /// The partitions of all lanes.
    pub fn partitions(&self) -> impl Iterator<Item = &PartitionStatus> {
        self.lanes.iter().flat_map(|lane| &lane.partitions)
    }
}
