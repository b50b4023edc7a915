//! Write a Tidegate rule in Rust.

#![allow(missing_docs, reason = "replaced below")]

wit_bindgen::generate!({
    path: "../../wit/rule.wit",
    world: "tidegate-rule",
    pub_export_macro: true,
    default_bindings_module: "tidegate_guest::bindings",
});
