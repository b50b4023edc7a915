//! WebAssembly components: what rules and exchange adapters share. Only this module, `rule` and `source/exchange/adapter`
//! know wasmtime.
//!
//! - `engine`: the one engine of the process and its clock
//! - `file`: a component's file: read, checked against its contract, compiled
//! - `call`: instances and calls under limits, and why they fail

mod call;
mod engine;
mod file;

pub use call::{CallError, Guest, call, cut, start};
pub use file::{Contract, File, check_name, check_names, link, of_bytes, open, read, sha256, wrong};
