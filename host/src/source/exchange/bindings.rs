//! The host's side of `wit/exchange.wit`, generated. Answers go out borrowed (`AnswerParam`).

#![allow(missing_docs, reason = "generated from wit/exchange.wit, which documents every item")]

wasmtime::component::bindgen!({
    path: "../wit/exchange.wit",
    world: "tidegate-exchange",
    ownership: Borrowing { duplicate_if_necessary: true },
    additional_derives: [PartialEq],
});
