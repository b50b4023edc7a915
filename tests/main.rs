//! End to end: the real binary, real components, real files and databases.

#![allow(missing_docs, reason = "tests")]

mod bad_input;
mod cases;
mod clickhouse;
mod clickhouse_faults;
mod deploy;
mod deploy_exchange;
mod deploy_kafka;
mod deployment;
mod diff;
mod dlq;
mod exchange;
mod exchange_adapters;
mod exchange_ccxt;
mod exchange_input;
mod exchange_past;
mod formats;
mod harness;
mod hostile;
mod kafka;
mod kafka_faults;
mod kill;
mod kit;
mod quickstart;
mod show;
mod system;
mod timescale;
mod timescale_faults;
mod tutorial;
