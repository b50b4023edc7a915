//! Rules: loading, limits, calls, checked answers.
//!
//! - `component`: a file that has been checked, compiled and has described itself
//! - `instance`: one instance for a rule and a partition: the calls, under limits
//! - `columns`: Arrow columns to the contract's and back, every answer checked
//! - `fixture`: rows and what a rule must say of them, run through its component
//! - `fit`: whether rules fit the columns and each other
//! - `slot`: a version of a rule in a lane: its instances, its memory, and the search for the row that makes it fail
//! - `version`: a version of a rule, and what it has done
//! - `stage`: a rule in a lane: the version that decides, and a candidate beside it
//! - `compare`: what two versions say of the same rows
//! - `shadow`: what a candidate would have decided otherwise
//! - `lifecycle`: which versions should run: deploying, probation, and the way back
//! - `shelf`: versions that outlive the process
//! - `warming`: instances that are shown what the sink has beside the lane
//! - `watch`: components' files that change

mod bindings;
mod columns;
pub mod compare;
mod component;
pub mod fit;
pub mod fixture;
mod instance;
pub mod lifecycle;
mod shadow;
mod shelf;
mod slot;
mod stage;
mod version;
mod warming;
pub mod watch;

pub use crate::wasm::CallError;
pub use component::{CONTRACT, Component, Description, InputColumn};
pub use instance::Instance;
pub use lifecycle::{Refusal, Rules};
pub use shadow::Candidate;
pub use shelf::{Origin, Record};
pub use slot::{Applied, Slot, warm};
pub use stage::{Stage, Wanted};
pub use version::{Decided as DecidedRows, Version};
