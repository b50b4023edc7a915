//! Rules: loading, limits, calls, checked answers.
//!
//! - `component`: a file that has been checked, compiled and has described itself
//! - `instance`: one instance for a rule and a partition: the calls, under limits
//! - `columns`: Arrow columns to the contract's and back, every answer checked
//! - `fixture`: rows and what a rule must say of them, run through its component
//! - `fit`: whether rules fit the columns and each other
//! - `slot`: a rule in a lane: its instances, its memory, and the search for the row that makes it fail

mod bindings;
mod columns;
mod component;
pub mod fit;
pub mod fixture;
mod instance;
mod slot;

pub use crate::wasm::CallError;
pub use component::{CONTRACT, Component, Description, InputColumn};
pub use instance::Instance;
pub use slot::{Applied, Slot, warm};
