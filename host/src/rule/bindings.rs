//! The host's side of `wit/rule.wit`, generated. Columns go out borrowed from Arrow's buffers
//! (`BatchParam`) and come back owned (`Outcome`).

#![allow(missing_docs, reason = "generated from wit/rule.wit, which documents every item")]

wasmtime::component::bindgen!({
    path: "../wit/rule.wit",
    world: "tidegate-rule",
    ownership: Borrowing { duplicate_if_necessary: true },
});
