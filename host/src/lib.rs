//! Tidegate moves market data and runs the rules that check it.
//!
//! The modules, in the order in which a record meets them:
//!
//! - [`pipeline_file`]: what the user wrote: one source, rules, one sink, one dead letter
//! - [`lane`]: THE LOOP: read, decode, apply the rules, write, checkpoint
//! - [`source`]: where rows come from, with their positions
//! - [`decode`]: bytes to columns; rows that do not decode
//! - [`batch`]: the shapes that travel: rows as they came, rows as columns, rejected rows
//! - [`wasm`]: components and calls under limits, for rules and adapters
//! - [`rule`]: components: loading, limits, calls, checked answers
//! - [`life`]: versions of rules and adapters: deploying them, probation, and the way back
//! - [`sink`]: where rows go, together with their positions
//! - [`dead_letter`]: rejected rows with their original bytes and the reason
//! - `kafka`: how to reach Kafka or Redpanda, for source and sink
//! - [`error`]: what stops a pipeline, and the exit code it means
//! - `account`: what a lane has done; [`summary`]: what a run has done
//! - [`metrics`]: what a pipeline shows of itself while it runs
//! - [`state`]: files that outlive a process and are no data
//! - `log`: lines to standard error
//! - [`shutdown`]: stopping on signals
//! - `clock`: the time, which tests of a day make faster
//! - `crash`: named points at which tests end the process
//! - `service`: what runs beside the lanes
//! - `http`: a pipeline over HTTP
//! - `tap`: rows as they go by, for whoever looks
//! - `attribution`: which versions of rules have decided a row
//! - [`cli`]: the commands

mod account;
mod attribution;
pub mod batch;
pub mod cli;
mod clock;
mod crash;
pub mod dead_letter;
pub mod decode;
pub mod error;
mod http;
mod kafka;
pub mod lane;
pub mod life;
mod log;
pub mod metrics;
pub mod pipeline_file;
pub mod rule;
mod service;
pub mod shutdown;
pub mod sink;
pub mod source;
pub mod state;
pub mod summary;
mod tap;
pub mod wasm;
