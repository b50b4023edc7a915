//! The simulator through real clients: what each exchange answers, what goes wrong, what its feeds say.

mod faults;
mod feeds;
mod shapes;

use exchanges_simulator::{Clock, Config, Exchange, MINUTE_MS, Simulator};
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;

/// 2026-01-02T03:04:20Z: twenty seconds into a minute.
const START_MS: i64 = 1_767_323_060_000;

/// The minute that is open at the start.
const OPEN_MS: i64 = START_MS - 20_000;

/// A simulator whose clock starts at `START_MS`.
fn start(rate: f64) -> Simulator {
    simulator(Config { clock: Clock::starting_at(START_MS, rate), ..Config::default() })
}

fn simulator(config: Config) -> Simulator {
    Simulator::start(config).expect("a simulator")
}

/// The crate is built with whatever TLS the workspace has chosen for its clients; none is used here.
fn builder() -> reqwest::ClientBuilder {
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::builder().no_proxy()
}

fn client() -> Client {
    builder().build().expect("a client")
}

async fn get(simulator: &Simulator, exchange: Exchange, path: &str) -> Response {
    client().get(format!("{}{path}", simulator.url(exchange))).send().await.expect("an answer")
}

async fn json_of(simulator: &Simulator, exchange: Exchange, path: &str) -> (StatusCode, Value) {
    let response = get(simulator, exchange, path).await;
    let status = response.status();
    let text = response.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}")))
}

/// The time in a text or number.
fn number(value: &Value) -> f64 {
    match value {
        Value::String(text) => text.parse().expect("a number in a text"),
        other => other.as_f64().expect("a number"),
    }
}

fn minutes_before(count: i64) -> i64 {
    OPEN_MS - count * MINUTE_MS
}
