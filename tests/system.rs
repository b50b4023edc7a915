//! From three exchanges into both databases, through the shipped pipelines, while everything breaks: each candle is in both
//! tables once, as the exchanges have it, and says which versions of the rules have decided it.

mod latency;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use exchanges_simulator::{Clock, Config, MINUTE_MS, Misbehaviour, Simulator};
use xtask::sample::Numbers;

use crate::harness::clickhouse::Fault;
use crate::harness::deploy::hash;
use crate::harness::exchanges::{SHIPPED, START_MS, faults};
use crate::harness::system::{PARTITIONS, Row, SERVICES, System, doubled, newest};
use crate::harness::{component, guests};

/// How much of the past `pipelines/ingest.yaml` fetches.
const HISTORY_MS: i64 = 6 * 60 * MINUTE_MS;

/// How long it goes on, and how fast. `cargo xtask e2e` makes it longer.
struct Plan {
    /// Rounds of faults begin until this time has passed; there is one in any case.
    faults: Duration,
    /// How many times faster than the machine's the exchanges' time passes.
    rate: f64,
    /// How many minutes of the exchanges have no faults, for the latency.
    calm_minutes: i64,
    seed: u64,
}

impl Plan {
    fn of_variables() -> Plan {
        let number =
            |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a whole number"));
        let seed = number("TIDEGATE_E2E_SEED").unwrap_or(1);
        match number("TIDEGATE_E2E_MINUTES") {
            None => Plan { faults: Duration::ZERO, rate: 120.0, calm_minutes: 8, seed },
            Some(minutes) => {
                // What is not faults is the start, a minute of calm, and the end.
                let faults = Duration::from_secs(60 * minutes.saturating_sub(2));
                Plan { faults, rate: 20.0, calm_minutes: 20, seed }
            }
        }
    }
}

/// What befalls the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    KillService(&'static str),
    EndConnectionsToPostgres,
    KillPostgres,
    LoseAnswersOfClickhouse,
    KillClickhouse,
    KillBroker,
    DeployGoodVersion,
    DeployBrokenVersion,
}

/// Everything once, in an order by chance, with the deploys in the middle.
fn round(numbers: &mut Numbers, is_first: bool) -> Vec<Event> {
    let mut events = SERVICES.map(Event::KillService).to_vec();
    events.extend([Event::LoseAnswersOfClickhouse, Event::KillClickhouse, Event::KillBroker]);
    // The short form has a minute.
    events.push(if is_first { Event::EndConnectionsToPostgres } else { Event::KillPostgres });
    for last in (1..events.len()).rev() {
        events.swap(last, numbers.below(last as i64 + 1) as usize);
    }
    let middle = events.len() / 2;
    events.splice(middle..middle, [Event::DeployGoodVersion, Event::DeployBrokenVersion]);
    events
}

/// The rule `validate` as another version: the same with a section that nobody reads.
fn good_version(number: u64) -> Vec<u8> {
    let mut component = std::fs::read(guests().join("validate.wasm")).unwrap();
    let text = format!("\x07version{number:010}");
    // A custom section: its kind, its length, its name and its content.
    component.extend([0, text.len() as u8]);
    component.extend(text.as_bytes());
    component
}

/// A rule that takes any settings and traps on the first rows.
fn broken_version() -> Vec<u8> {
    let interface = "tidegate:rule/rule@0.1.0";
    // A description at address 0: name, version and summary, no columns and no reasons, and a schema.
    let description: [u32; 14] = [64, 8, 72, 5, 64, 8, 0, 0, 0, 0, 0, 0, 77, 2];
    let description: String = description
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .map(|byte| format!("\\{byte:02x}"))
        .collect();
    let module = format!(
        r#"(module
            (memory (export "memory") 1)
            (global $next (mut i32) (i32.const 1024))
            (data (i32.const 0) "{description}")
            (data (i32.const 64) "validate9.9.9{{}}")
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                (global.set $next (i32.add (local.get $at) (local.get 3)))
                (loop $grow
                    (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
                        (then
                            (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
                            (br $grow))))
                (local.get $at))
            (func (export "{interface}#describe") (result i32) (i32.const 0))
            (func (export "{interface}#configure") (param i32 i32) (result i32) (i32.const 512))
            (func (export "{interface}#transform") (param i64 i32 i32 i32) (result i32) unreachable)
            (func (export "{interface}#remember") (param i32 i32 i32)))"#
    );
    component(&module, "rule.wit")
}

/// A run: the system, and what it was sent and told.
struct Run {
    system: System,
    numbers: Numbers,
    /// Rows that are no candles, by their bytes.
    wrong: BTreeSet<String>,
    /// Components of the rule `validate` that are right.
    versions: Vec<Vec<u8>>,
    kills: usize,
    broken: usize,
}

impl Run {
    /// Sends rows to the topic of raw candles that `validate` rejects.
    fn send_wrong_rows(&mut self) {
        let first = self.wrong.len();
        let rows: Vec<String> = (first..first + 5)
            .map(|number| {
                let timestamp = START_MS + number as i64 * MINUTE_MS;
                format!(
                    "{{\"timestamp\":{timestamp},\"open\":1.5,\"high\":2.5,\"low\":0.5,\"close\":-1.5,\"volume\":1,\
                     \"source\":\"binance\",\"symbol\":\"WRONG/USDT\",\"timeframe\":\"1m\",\"revision\":0}}"
                )
            })
            .collect();
        let messages =
            rows.iter().zip(0..).map(|(row, number)| (number % PARTITIONS, None, Some(row.as_bytes())));
        self.system.broker.kafka.send("ohlcv-raw", &[], messages);
        self.wrong.extend(rows);
    }

    fn befall(&mut self, event: Event) {
        let pause = self.numbers.duration_below(Duration::from_millis(800));
        match event {
            Event::KillService(name) => {
                self.send_wrong_rows();
                std::thread::sleep(pause);
                self.system.kill(name);
                self.kills += 1;
            }
            Event::EndConnectionsToPostgres => {
                self.system
                    .wait_until("connections are ended", |system| system.postgres.end_connections() > 0);
            }
            Event::KillPostgres => {
                self.system.postgres_server.server.kill().unwrap();
                std::thread::sleep(pause);
                self.system.postgres_server.server.restart().unwrap();
                self.system.postgres.reconnect();
            }
            Event::LoseAnswersOfClickhouse => {
                self.system.between.set("insert_deduplication_token", 3, Fault::LoseAnswer);
                self.system.wait_until("answers are lost", |system| system.between.times() == 3);
            }
            Event::KillClickhouse => {
                self.system.clickhouse.server.kill().unwrap();
                std::thread::sleep(pause);
                self.system.clickhouse.server.restart().unwrap();
            }
            Event::KillBroker => {
                self.system.broker.broker.kill().unwrap();
                std::thread::sleep(pause);
                self.system.broker.broker.restart().unwrap();
            }
            Event::DeployGoodVersion => {
                let version = good_version(self.versions.len() as u64);
                let outcome = self.system.deploy(&version);
                assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
                self.versions.push(version);
            }
            Event::DeployBrokenVersion => {
                let outcome = self.system.deploy(&broken_version());
                assert!(
                    outcome.code == Some(1) && outcome.stderr.contains("was taken back: it failed"),
                    "{:?} {}",
                    outcome.code,
                    outcome.stderr
                );
                assert_eq!(self.system.rule()["current"], hash(self.versions.last().unwrap()));
                self.broken += 1;
            }
        }
        self.system.wait_for_new_rows();
    }

    /// What `rule_versions` may say: one of the versions that were right, and the two rules that were never replaced.
    fn right_versions(&self) -> BTreeSet<String> {
        let short = |component: &[u8]| hash(component)[..12].to_owned();
        let of_file = |name: &str| short(&std::fs::read(guests().join(name)).unwrap());
        let others = format!("dedup={} enrich={}", of_file("dedup.wasm"), of_file("enrich.wasm"));
        self.versions.iter().map(|version| format!("validate={} {others}", short(version))).collect()
    }

    /// Each wrong row is once in the dead letter of the rules, and nothing else is in any dead letter.
    fn compare_dead_letters(&self) {
        let letters = self.system.broker.kafka.read("ohlcv-rejected");
        let text = |payload: Option<Vec<u8>>| String::from_utf8(payload.unwrap()).unwrap();
        let mut rejected: Vec<String> = letters.into_iter().map(|letter| text(letter.payload)).collect();
        rejected.sort_unstable();
        assert!(rejected.iter().eq(&self.wrong), "{} rows are wrong: {rejected:?}", self.wrong.len());
        let reasons = self.system.postgres.lines("SELECT reason, detail FROM dead_letter");
        assert_eq!(reasons, Vec::<String>::new());
        let reasons = self.system.clickhouse.clickhouse.query("SELECT reason, detail FROM dead_letter");
        assert_eq!(reasons, Vec::<Vec<String>>::new());
    }
}

#[test]
fn candles_of_exchanges_are_in_both_databases_once_whatever_fails_on_the_way() {
    let plan = Plan::of_variables();
    let started = Instant::now();
    let simulator = Simulator::start(Config {
        clock: Clock::starting_at(START_MS, plan.rate),
        seed: plan.seed,
        notes_first_answers: true,
        ..Config::default()
    });
    let mut run = Run {
        system: System::start(simulator.unwrap()),
        numbers: Numbers::new(plan.seed),
        wrong: BTreeSet::new(),
        versions: vec![std::fs::read(guests().join("validate.wasm")).unwrap()],
        kills: 0,
        broken: 0,
    };
    run.system.wait_until("there are candles", |system| system.broker.kafka.end("ohlcv-raw") > 0);
    // What was history at the first question is so now, but for the time that has passed since.
    let from_ms = next_minute(run.system.simulator.clock().now_ms()) - HISTORY_MS;
    run.system.wait_until("the topics are there", |system| system.postgres.stored() > 0);
    let told = |what: &str| eprintln!("e2e: {:>5.1} s: {what}", started.elapsed().as_secs_f64());

    let watch = latency::Watch::start(&run.system.broker.kafka);
    let now_ms = run.system.simulator.clock().now_ms();
    run.system.wait_for_all_series(now_ms);
    let calm_ms = next_minute(run.system.simulator.clock().now_ms());
    told("no faults yet");
    let faults_ms = calm_ms + plan.calm_minutes * MINUTE_MS;
    run.system.wait_for_all_series(faults_ms);
    let latencies = latency::table(&run.system, watch, calm_ms, faults_ms);

    // Down times make it take longer and are for `cargo xtask chaos exchange`.
    let misbehaviour = Misbehaviour { maintenance: false, corrected: 0.05, ..Misbehaviour::all_at_random() };
    for (exchange, _) in SHIPPED {
        run.system.simulator.set_misbehaviour(exchange, misbehaviour.clone());
    }
    let faults_from = Instant::now();
    let mut rounds = 0;
    while rounds == 0 || faults_from.elapsed() < plan.faults {
        for event in round(&mut run.numbers, rounds == 0) {
            told(&format!("{event:?}"));
            run.befall(event);
        }
        rounds += 1;
    }
    let end_ms = run.system.simulator.clock().now_ms() / MINUTE_MS * MINUTE_MS;
    told("no faults any more");
    for (exchange, _) in SHIPPED {
        run.system.simulator.set_misbehaviour(exchange, Misbehaviour::default());
    }
    let lost =
        |system: &System, rows: &[Row]| faults(&system.simulator, &SHIPPED, &newest(rows), from_ms, end_ms);
    run.system.wait_for_all_series(end_ms);
    let deadline = Instant::now() + LATE;
    run.system.wait_until("all candles are there", |system| {
        Instant::now() > deadline
            || (lost(system, &system.rows_in_postgres()).is_empty()
                && lost(system, &system.rows_in_clickhouse()).is_empty())
    });
    told("all candles are there");

    // What the rules have written until they end goes into both databases.
    run.system.interrupt("ingest");
    run.system.interrupt("validate");
    let raw = run.system.rows_in_topic("ohlcv-raw");
    let validated = run.system.rows_in_topic("ohlcv-validated");
    let written = newest(&validated);
    run.system.wait_until("both databases have what was validated", |system| {
        newest(&system.rows_in_postgres()) == written && newest(&system.rows_in_clickhouse()) == written
    });
    run.system.interrupt("timescale");
    run.system.interrupt("clickhouse");
    told("all services have ended");

    let in_postgres = run.system.rows_in_postgres();
    let in_clickhouse = run.system.rows_in_clickhouse();
    let right = run.right_versions();
    let mut of_versions: BTreeMap<&str, usize> = BTreeMap::new();
    for row in validated.iter().chain(&in_postgres).chain(&in_clickhouse) {
        assert!(right.contains(&row.versions), "{row:?}");
        *of_versions.entry(&row.versions).or_default() += 1;
    }
    assert_eq!(of_versions.len(), right.len(), "each version has decided rows: {of_versions:?}");
    run.compare_dead_letters();
    let wrong = [lost(&run.system, &in_postgres), lost(&run.system, &in_clickhouse)].concat();
    let doubled = [&raw, &validated, &in_postgres, &in_clickhouse].map(|rows| doubled(rows));
    print!("{latencies}");
    println!(
        "e2e: seed {}, {} minutes of 30 series, rows {}, corrected {}, rejected {}, kills {}, versions {}, broken {}, \
         lost {}, doubled {}, {:.0} s",
        plan.seed,
        (end_ms - from_ms) / MINUTE_MS,
        in_postgres.len(),
        in_postgres.iter().filter(|row| row.revision > 0).count(),
        run.wrong.len(),
        run.kills,
        of_versions.len(),
        run.broken,
        wrong.len(),
        doubled.iter().sum::<usize>(),
        started.elapsed().as_secs_f64(),
    );
    assert!(wrong.is_empty(), "{:?}", &wrong[..wrong.len().min(20)]);
    assert_eq!(doubled, [0; 4], "in the topics and in the databases");
}

/// A candle that does not come so long after the last fault is lost.
const LATE: Duration = Duration::from_secs(240);

fn next_minute(time_ms: i64) -> i64 {
    (time_ms / MINUTE_MS + 1) * MINUTE_MS
}
