//! What a pipeline shows, as Prometheus wants it.

use prometheus::core::Collector;
use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry, TextEncoder};

use super::{
    LaneState, LaneStatus, Metrics, OTHER, PartitionStatus, PipelineStatus, counter, counters, register,
    registry,
};
use crate::life::{PartStatus, What, short};

/// The most partitions that have a position and a lag of their own: a larger topic is read by its sum.
const PARTITIONS_MAX: usize = 32;

/// The most exchanges and rules whose details are shown, for the same bound.
const PARTS_MAX: usize = 8;

impl Metrics {
    /// The text of `/metrics`.
    ///
    /// # Panics
    /// Never: texts can be appended to a text.
    pub fn text(&self, status: &PipelineStatus, parts: &[PartStatus]) -> String {
        let now = registry(&self.pipeline);
        show_build(&now);
        show_lanes(&now, &status.lanes);
        show_partitions(&now, status);
        show_exchanges(&now, &status.lanes);
        show_versions(&now, parts);
        let mut families = self.registry.gather();
        families.extend(now.gather());
        families.extend(of_process());
        let mut text = String::new();
        TextEncoder::new().encode_utf8(&families, &mut text).expect("a text has room");
        text
    }
}

#[cfg(target_os = "linux")]
fn of_process() -> Vec<prometheus::proto::MetricFamily> {
    prometheus::process_collector::ProcessCollector::for_self().collect()
}

#[cfg(not(target_os = "linux"))]
fn of_process() -> Vec<prometheus::proto::MetricFamily> {
    Vec::new()
}

/// Main memory of the process in bytes; 0 where the system does not say.
pub(super) fn memory_bytes() -> u64 {
    let families = of_process();
    let resident = families.iter().find(|family| family.name() == "process_resident_memory_bytes");
    resident
        .and_then(|family| family.get_metric().first().map(|metric| metric.get_gauge().get_value() as u64))
        .unwrap_or(0)
}

fn show_build(registry: &Registry) {
    let version = env!("CARGO_PKG_VERSION");
    gauges(registry, "tidegate_build_info", "The program, in the label.", &["version"])
        .with_label_values(&[version])
        .set(1);
}

fn show_lanes(registry: &Registry, lanes: &[LaneStatus]) {
    let states =
        gauges(registry, "tidegate_lanes", "Lanes, by whether they do what they should.", &["state"]);
    for state in [LaneState::Opening, LaneState::Ready, LaneState::Failing, LaneState::Ended] {
        let count = lanes.iter().filter(|lane| lane.state == state).count();
        states.with_label_values(&[state.name()]).set(count as i64);
    }
    if let Some(newest_ms) = lanes.iter().filter_map(|lane| lane.newest_ms).max() {
        let name = "tidegate_newest_row_timestamp_seconds";
        let help = "The newest value of the column `timestamp` among written rows, in seconds since 1970.";
        seconds(registry, name, help, &[]).with_label_values::<&str>(&[]).set(newest_ms as f64 / 1_000.0);
    }
    let help = "Connections to brokers and databases that were lost or ended, and made again.";
    let reconnects = lanes.iter().map(|lane| lane.reconnects).sum();
    counter(registry, "tidegate_reconnects_total", help).inc_by(reconnects);
}

fn show_partitions(registry: &Registry, status: &PipelineStatus) {
    let labels = ["topic", "partition"];
    let offset = gauges(
        registry,
        "tidegate_position_offset",
        "The offset of the first row that is not written.",
        &labels,
    );
    let rows =
        gauges(registry, "tidegate_lag_rows", "Rows of the source that are not written; estimated.", &labels);
    let mut all: Vec<&PartitionStatus> = status.partitions().collect();
    all.sort();
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    for (index, partition) in all.iter().enumerate() {
        let number = partition.number.to_string();
        let labels = if index < PARTITIONS_MAX { [&*partition.topic, &*number] } else { [OTHER, OTHER] };
        if index < PARTITIONS_MAX {
            offset.with_label_values(&labels).set(signed(partition.next_offset));
        }
        if let Some(lag_rows) = partition.lag_rows {
            rows.with_label_values(&labels).add(signed(lag_rows));
        }
    }
    if status.lag_rows().is_some() {
        let help = "How old the rows are that are read now while others wait, in the partition that is furthest behind.";
        let lag_seconds = status.lag_ms() as f64 / 1_000.0;
        seconds(registry, "tidegate_lag_seconds", help, &[]).with_label_values::<&str>(&[]).set(lag_seconds);
    }
}

fn show_exchanges(registry: &Registry, lanes: &[LaneStatus]) {
    let exchanges: Vec<_> = lanes.iter().flat_map(|lane| &lane.exchanges).take(PARTS_MAX).collect();
    let label = ["exchange"];
    let requests = counters(registry, "tidegate_exchange_requests_total", "Requests to an exchange.", &label);
    let failures = counters(
        registry,
        "tidegate_exchange_failures_total",
        "Tasks that failed, and were begun again.",
        &label,
    );
    let corrected = counters(
        registry,
        "tidegate_exchange_corrected_candles_total",
        "Candles that came again with other values.",
        &label,
    );
    let candles = gauges(
        registry,
        "tidegate_exchange_candles",
        "Candles of the ledger: `received`, `quiet`, `absent` while they are asked for again, `missing` for good.",
        &["exchange", "state"],
    );
    let behind = gauges(
        registry,
        "tidegate_exchange_series_behind",
        "Series that have not reached the present yet.",
        &label,
    );
    let blocked = seconds(
        registry,
        "tidegate_exchange_blocked_seconds",
        "For how long the exchange wants no requests.",
        &label,
    );
    for exchange in exchanges {
        let run = &exchange.run;
        let name = &*run.exchange;
        requests.with_label_values(&[name]).inc_by(run.requests);
        failures.with_label_values(&[name]).inc_by(run.failures);
        corrected.with_label_values(&[name]).inc_by(run.corrected);
        behind.with_label_values(&[name]).set(exchange.behind as i64);
        blocked.with_label_values(&[name]).set(exchange.blocked_ms as f64 / 1_000.0);
        let states = [
            ("received", run.received),
            ("quiet", run.quiet),
            ("absent", run.absent),
            ("missing", run.missing),
        ];
        for (state, count) in states {
            candles.with_label_values(&[name, state]).set(count as i64);
        }
    }
}

/// Those that a person looks for: what decides, what is tried, and what `rollback` would bring back.
fn show_versions(registry: &Registry, parts: &[PartStatus]) {
    let taken_back =
        counters(registry, "tidegate_versions_taken_back_total", "Versions that were taken back.", &["part"]);
    parts
        .iter()
        .take(PARTS_MAX)
        .for_each(|part| taken_back.with_label_values(&[&part.name]).inc_by(part.taken_back));
    let labels = ["rule", "version"];
    let time = register(
        registry,
        prometheus::CounterVec::new(
            Opts::new(
                "tidegate_rule_seconds_total",
                "Time in the calls of a version of a rule, the border included.",
            ),
            &labels,
        )
        .expect("named here"),
    );
    let rows = counters(registry, "tidegate_rule_rows_total", "Rows of those calls.", &labels);
    let failed = counters(
        registry,
        "tidegate_rule_failed_rows_total",
        "Rows on which a version of a rule failed, also those that were decided again.",
        &labels,
    );
    let info = gauges(
        registry,
        "tidegate_rule_version_info",
        "A version of a rule, by its state: `current`, `probation` while it is taken back when it fails, `candidate`.",
        &["rule", "version", "state"],
    );
    for part in parts.iter().filter(|part| part.what == What::Rule).take(PARTS_MAX) {
        let is_shown = |sha256: &str| part.current == sha256 || part.previous.as_deref() == Some(sha256);
        for version in part.versions.iter().filter(|version| is_shown(&version.record.sha256)) {
            let labels = [&*part.name, short(&version.record.sha256)];
            time.with_label_values(&labels).inc_by(version.calls.seconds);
            rows.with_label_values(&labels).inc_by(version.calls.rows);
            failed.with_label_values(&labels).inc_by(version.failed_rows);
        }
        let state = if part.probation_until_ms.is_some() { "probation" } else { "current" };
        info.with_label_values(&[&*part.name, short(&part.current), state]).set(1);
        if let Some(candidate) = part.candidate.as_ref().filter(|candidate| candidate.is_running) {
            info.with_label_values(&[&*part.name, short(&candidate.sha256), "candidate"]).set(1);
            let labels = [&*part.name, short(&candidate.sha256)];
            if !is_shown(&candidate.sha256) {
                time.with_label_values(&labels).inc_by(candidate.calls.seconds);
                rows.with_label_values(&labels).inc_by(candidate.calls.rows);
            }
        }
    }
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels).expect("named here"))
}

fn seconds(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    register(registry, GaugeVec::new(Opts::new(name, help), labels).expect("named here"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::metrics::{BATCH, CHECKPOINT, DECODE, ExchangeStatus, Outcome, SINK, SOURCE};
    use crate::summary::ExchangeRun;

    /// Of one pipeline, whatever it is.
    const SERIES_MAX: usize = 500;

    /// A pipeline of more of everything than has series of its own.
    fn busy() -> (Metrics, PipelineStatus, Vec<PartStatus>) {
        let rules: Vec<String> = (0..20).map(|number| format!("rule{number}")).collect();
        let names: Vec<serde_json::Value> =
            rules.iter().map(|rule| serde_json::json!({ "name": rule, "component": "c" })).collect();
        let pipeline = serde_json::json!({
            "name": "p", "source": { "file": { "path": "in" } }, "rules": names,
            "sink": { "stdout": {} }, "lanes": 2,
        });
        let metrics = Metrics::new(&serde_json::from_value(pipeline).unwrap());
        let all = [Outcome::Ok, Outcome::Rejected, Outcome::Dropped, Outcome::Empty];
        let count = |stage: &str, outcomes: &[Outcome]| {
            outcomes.iter().for_each(|outcome| metrics.count(stage, *outcome, 1));
        };
        rules.iter().for_each(|rule| count(rule, &all[..3]));
        count(SOURCE, &all[..1]);
        count(DECODE, &[Outcome::Ok, Outcome::Rejected, Outcome::Empty]);
        count(SINK, &all[..3]);
        let can_fail = || rules.iter().map(String::as_str).chain([SINK, CHECKPOINT]);
        can_fail().for_each(|stage| metrics.note_time(stage, Instant::now(), false));
        can_fail().chain([DECODE, BATCH]).for_each(|stage| metrics.note_time(stage, Instant::now(), true));
        for (rule, number) in
            rules.iter().zip(0..).flat_map(|(rule, _)| (0..64).map(move |number| (rule, number)))
        {
            let reason: Arc<str> = format!("reason{number}").into();
            metrics.count_rejected(&rule.as_str().into(), &reason, 1);
        }
        let partition = |number| PartitionStatus {
            topic: "t".into(),
            number,
            next_offset: 1,
            lag_rows: Some(1),
            lag_ms: 1,
        };
        metrics.show(0, |lane| lane.partitions = (0..1_000).map(partition).collect());
        let exchange = |number| ExchangeStatus {
            run: ExchangeRun {
                exchange: format!("e{number}"),
                requests: 1,
                failures: 1,
                received: 1,
                quiet: 1,
                absent: 1,
                missing: 1,
                corrected: 1,
            },
            behind: 1,
            blocked_ms: 1,
        };
        metrics.show(1, |lane| {
            lane.exchanges = (0..3).map(exchange).collect();
            lane.newest_ms = Some(1);
        });
        let part = |name: &String| {
            let version = |sha256: &str| {
                serde_json::json!({
                    "sha256": sha256.repeat(64), "version": "1", "origin": "api", "since_ms": 0, "taken_back": null,
                    "rows": 1, "rejected": {}, "dropped": 0, "ns_per_row": 1.0,
                    "calls": { "rows": 1, "seconds": 1.0 }, "failed_rows": 0, "pause_us": 0,
                })
            };
            serde_json::from_value(serde_json::json!({
                "what": "rule", "name": name, "current": "a".repeat(64), "previous": "b".repeat(64),
                "is_in_all_lanes": true, "probation_until_ms": null, "candidate": null,
                "versions": [version("b"), version("a")], "taken_back": 1,
            }))
            .unwrap()
        };
        let parts = rules.iter().map(part).collect();
        let status = metrics.status(rules.clone(), Vec::new());
        (metrics, status, parts)
    }

    #[test]
    fn the_number_of_series_has_a_bound() {
        let (metrics, status, parts) = busy();
        let text = metrics.text(&status, &parts);
        let of_pipeline = text.lines().filter(|line| line.contains("pipeline=\"p\"")).count();
        assert!(of_pipeline < SERIES_MAX, "{of_pipeline} series");
        let lag = "tidegate_lag_rows{partition=\"other\",topic=\"other\",pipeline=\"p\"} 968";
        assert!(text.contains(lag), "partitions without a series of their own are together");
        assert!(
            text.contains("tidegate_rejected_rows_total{reason=\"other\",rule=\"other\",pipeline=\"p\"}")
        );
        assert!(text.contains("messages_processed_total{outcome=\"ok\",stage=\"other\",pipeline=\"p\"} 12"));
    }

    /// What docs/metrics.md lists, and what is shown.
    #[test]
    fn the_documentation_has_each_metric() {
        let (metrics, status, parts) = busy();
        let text = metrics.text(&status, &parts);
        let typed = |line: &str| {
            let mut words = line.strip_prefix("# TYPE ")?.split(' ').map(str::to_owned);
            Some((words.next()?, words.next()?))
        };
        let shown: BTreeSet<(String, String)> = text.lines().filter_map(typed).collect();
        let documented = |line: &str| {
            let mut cells =
                line.strip_prefix("| `")?.split(" | ").map(|cell| cell.trim_matches('`').to_owned());
            let (name, kind) = (cells.next()?, cells.next()?);
            ["counter", "gauge", "histogram"].contains(&&*kind).then_some((name, kind))
        };
        let page = include_str!("../../../docs/metrics.md");
        let documented: BTreeSet<(String, String)> = page.lines().filter_map(documented).collect();
        assert_eq!(shown, documented);
    }
}
