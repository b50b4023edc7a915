//! Rules: loading, limits, calls, checked answers.
//!
//! - `component`: a file that has been checked, compiled and has described itself
//! - `instance`: one instance for a rule and a partition: the calls, under limits
//! - `columns`: Arrow columns to the contract's and back, every answer checked
//! - `fixture`: rows and what a rule must say of them, run through its component
//! - `fit`: whether rules fit the columns and each other
//! - `slot`: a version of a rule in a lane: its instances, its memory, and the search for the row that makes it fail
//! - `stage`: a rule in a lane: the version that decides, and a candidate beside it
//! - `compare`: what two versions say of the same rows
//! - `shadow`: what a candidate would have decided otherwise
//! - `rules`: the versions of a pipeline's rules that can be replaced
//! - `warming`: instances that are shown what the sink has beside the lane

mod bindings;
mod columns;
pub mod compare;
mod component;
pub mod fit;
pub mod fixture;
mod instance;
mod rules;
mod shadow;
mod slot;
mod stage;
mod warming;

pub use crate::wasm::CallError;
pub use component::{CONTRACT, Component, Description, InputColumn};
pub use instance::Instance;
pub use rules::Rules;
pub use slot::{Applied, Slot, warm};
pub use stage::{OfVersion, Stage};
pub use warming::Beside;

/// A version of a rule.
pub type Version = crate::life::Version<Component>;
/// A version of a rule that is tried.
pub type Candidate = crate::life::Candidate<Component>;
/// What a lane should run of a rule.
pub type Wanted = crate::life::Wanted<Component>;
