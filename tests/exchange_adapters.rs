//! Exchange adapters that lie or break: each costs its own series, and the host says why.

use std::collections::BTreeSet;

use exchanges_simulator::{Exchange, Fault, MINUTE_MS, Misbehaviour, Simulator};

use crate::harness::exchanges::{START_MS, command, faults, simulator, source, stored, write_pipeline};
use crate::harness::{Folder, component, start, workspace};

const BINANCE: (Exchange, &[&str]) = (Exchange::Binance, &["BTC/USDT"]);
const KRAKEN: (Exchange, &[&str]) = (Exchange::Kraken, &["BTC/USD"]);

/// Two hours of history: more than a page of the hostile adapter, and the start of the process can be late.
const SETTINGS: &str = "    history: 2h\n    spread: 1s\n";

/// The candles from the first time to before the second are asked for, however soon or late the process begins.
const ASKED_FOR_MS: (i64, i64) = (START_MS - 60 * MINUTE_MS, START_MS - MINUTE_MS);

/// An entry of the hostile adapter with a name of its own; `more` are its other keys. Its requests go where Binance
/// is simulated.
fn hostile(simulator: &Simulator, name: &str, symbols: &str, more: &str) -> String {
    let component = workspace().join("target/guests-test/hostile_adapter.wasm");
    assert!(component.is_file(), "run `cargo xtask guests --tests` first");
    let url = simulator.url(Exchange::Binance);
    format!(
        "      - {{ exchange: hostile, name: {name}, component: {component:?}, symbols: [{symbols}], url: \
         \"{url}\"{more} }}\n"
    )
}

/// Runs the pipeline until every series is there or given up; gives what it has written to standard error.
fn run_to_end(folder: &Folder, simulator: &Simulator) -> String {
    let outcome =
        start(&mut command(folder, simulator, &["run", "p.yaml", "--until-end", "--json"])).finish();
    outcome.summary();
    outcome.stderr
}

/// Whether a line of the log is about the exchange and has these words.
fn has_said(log: &str, exchange: &str, words: &str) -> bool {
    let field = format!("exchange={exchange}");
    log.lines().any(|line| line.contains(words) && line.split(' ').any(|word| word == field))
}

/// How a symbol of the hostile adapter misbehaves, other keys of its entry, and what the host says.
const LIES: [(&str, &str, &str); 33] = [
    ("elsewhere", "", "asks for `https://elsewhere.example/api/v3/time`, but it has declared"),
    ("port", "", "asks for `https://api.hostile.example:8443/api/v3/time`, but it has declared"),
    ("below", "", "allows, only `api.hostile.example`"),
    ("plain", "", "asks for `http://api.hostile.example/api/v3/time`, but only `https` is allowed"),
    ("file", "", "asks for `file:///etc/passwd`, but only `https` is allowed"),
    ("user", "", "asks for a URL with a user at `api.hostile.example`"),
    ("disguised", "", "asks for a URL with a user at `127.0.0.1`"),
    ("local", "", "asks for `https://localhost/api/v3/time`, but it has declared"),
    ("metadata", "", "asks for `https://169.254.169.254/latest/meta-data`, but it has declared"),
    ("relative", "", "asks for `/api/v3/time`, which is no URL"),
    ("long", "", "its answer is wrong: it has a URL of 16412 bytes"),
    ("method", "", "the adapter wants the method `DELETE`"),
    ("header", "", "the adapter makes a request that cannot be sent: failed to parse header value"),
    ("trap", "", "the adapter failed: it trapped: "),
    ("loop", ", limits: { call: 100ms }", "it took more than `limits.call` (100 ms)"),
    ("memory", ", limits: { memory: 8MiB }", "it wanted more memory than `limits.memory` (8388608 bytes)"),
    ("recurse", "", "its stack exceeded 524288 bytes"),
    ("sentence", ", limits: { output: 1MiB }", "its answer exceeded `limits.output` (1048576 bytes)"),
    ("endless", "", "the adapter has no candles after 8 steps"),
    ("none", "", "it has 0 requests, but must have 1 to 16"),
    ("many", "", "it has 17 requests, but must have 1 to 16"),
    ("three", "", "the adapter wants more than 32 requests for one task"),
    ("bad", "", "the symbol is unknown there: it was delisted"),
    ("refused", "", "the exchange refuses: not in your country"),
    ("down", "", "the exchange is not available: maintenance"),
    ("before", "", "its answer is wrong: candle 0 opens at "),
    ("after", "", "its answer is wrong: candle 99 opens at "),
    ("unordered", "", "its answer is wrong: candle 1 opens at "),
    ("twice", "", "its answer is wrong: candle 99 opens at "),
    ("odd", "", "expected a multiple of 60000 from "),
    ("short", "", "its answer is wrong: `close` has 99 values, expected 100"),
    ("lengthy", "", "its answer is wrong: `trades` has 101 values, expected 100"),
    ("memo", "", "its answer is wrong: its memo has 65537 bytes, at most 65536 are allowed"),
];

#[test]
fn an_adapter_that_lies_or_breaks_costs_its_own_series() {
    // Until nobody waits for a series that fails, half an hour passes.
    let simulator = simulator(600.0, Misbehaviour::default());
    let folder = Folder::new();
    let honest = source(&simulator, &[KRAKEN], SETTINGS, "");
    let entries: String = LIES
        .iter()
        .map(|(name, more, _)| {
            hostile(&simulator, name, &format!("FINE/USD, {}/USD", name.to_uppercase()), more)
        })
        .collect();
    write_pipeline(&folder, &(honest + &entries), "");
    let stderr = run_to_end(&folder, &simulator);
    for (name, _, words) in LIES {
        assert!(has_said(&stderr, name, words), "{name}: {words:?} is not in {stderr}");
    }
    let candles = stored(&folder);
    let (from_ms, to_ms) = ASKED_FOR_MS;
    assert_eq!(faults(&simulator, &[KRAKEN], &candles, from_ms, to_ms), Vec::<String>::new());
    let there: BTreeSet<(&str, &str)> =
        candles.keys().map(|(source, symbol, _)| (source.as_str(), symbol.as_str())).collect();
    let expected: BTreeSet<(&str, &str)> =
        LIES.iter().map(|(name, ..)| (*name, "FINE/USD")).chain([("kraken", "BTC/USD")]).collect();
    assert_eq!(there, expected, "a series that fails has no candles, and the others have some");
    for (name, ..) in LIES {
        for open_ms in (from_ms..to_ms).step_by(MINUTE_MS as usize) {
            let key = (name.to_owned(), "FINE/USD".to_owned(), open_ms);
            assert_eq!(candles.get(&key).map(|(values, _)| *values), Some([1.0; 5]), "{key:?}");
        }
    }
    let gaps = start(&mut command(&folder, &simulator, &["gaps", "p.yaml"])).finish();
    assert_eq!(gaps.code, Some(0), "{}", gaps.stderr);
    for (name, _, words) in LIES {
        let begin = format!("{name} {}/USD: ", name.to_uppercase());
        let is_it = |line: &str| line.starts_with(&begin) && line.contains(words);
        assert!(gaps.stdout.lines().any(is_it), "{name}: {words:?} is not in {}", gaps.stdout);
    }
}

/// The first few, and not more of each than a person reads.
#[test]
fn sentences_about_rows_are_cut() {
    let simulator = simulator(1.0, Misbehaviour::default());
    let folder = Folder::new();
    let entry = hostile(&simulator, "talks", "UNREADABLE/USD", "");
    write_pipeline(&folder, &format!("source:\n  exchange:\n{SETTINGS}    exchanges:\n{entry}"), "");
    let stderr = run_to_end(&folder, &simulator);
    let sentence = format!("left out: {}… exchange=talks", "x".repeat(1024));
    assert!(stderr.contains(&sentence), "{} bytes", stderr.len());
    // Pages come with eight sentences each at most, of which the first is shown.
    assert_eq!(stderr.matches("left out: ").count(), stderr.matches("more=7").count());
    assert!(stored(&folder).len() >= 119);
}

#[test]
fn an_exchange_that_says_until_when_is_left_alone_until_then() {
    let simulator = simulator(60.0, Misbehaviour::default());
    let folder = Folder::new();
    let honest = source(&simulator, &[KRAKEN], SETTINGS, "");
    let entry = hostile(&simulator, "throttled", "THROTTLED/USD, FINE/USD", ", concurrency: 1");
    write_pipeline(&folder, &(honest + &entry), "");
    let mut running = start(&mut command(&folder, &simulator, &["run", "p.yaml", "--until-end", "--json"]));
    let until_ms = START_MS + 6 * MINUTE_MS;
    let state = folder.path("state/exchanges");
    running.wait_until(|| {
        state.is_dir()
            && state.read_dir().unwrap().any(|file| {
                let kept = std::fs::read_to_string(file.unwrap().path()).unwrap_or_default();
                kept.contains(&until_ms.to_string())
            })
    });
    let outcome = running.finish();
    outcome.summary();
    assert!(outcome.stderr.contains("too many requests: you ask too often"), "{}", outcome.stderr);
    assert!(simulator.clock().now_ms() >= until_ms);
    let candles = stored(&folder);
    let (from_ms, to_ms) = ASKED_FOR_MS;
    assert_eq!(faults(&simulator, &[KRAKEN], &candles, from_ms, to_ms), Vec::<String>::new());
    for symbol in ["FINE/USD", "THROTTLED/USD"] {
        let has = |open_ms: i64| candles.contains_key(&("throttled".to_owned(), symbol.to_owned(), open_ms));
        assert!((from_ms..until_ms - MINUTE_MS).step_by(MINUTE_MS as usize).all(has), "{symbol}");
    }
}

/// The polls go on, and what they say is what stays.
#[test]
fn a_live_feed_that_lies_or_breaks_is_no_more_than_a_feed_that_is_not_there() {
    let simulator = simulator(30.0, Misbehaviour::default());
    let folder = Folder::new();
    let modes = [
        ("feedhost", "the live feed has ended: asks for `wss://elsewhere.example/ws`, but it has declared"),
        ("feedplain", "the live feed has ended: asks for `ws://api.hostile.example/ws`, but only `wss`"),
        ("feedtrap", "the live feed has ended: the adapter cannot subscribe: it trapped: "),
        ("future", ""),
    ];
    let entries: String = modes
        .iter()
        .map(|(name, _)| {
            hostile(&simulator, name, &format!("{}/USD", name.to_uppercase()), ", live: true, timeout: 2s")
        })
        .collect();
    write_pipeline(&folder, &format!("source:\n  exchange:\n{SETTINGS}    exchanges:\n{entries}"), "");
    let mut running = start(&mut command(&folder, &simulator, &["run", "p.yaml", "--json"]));
    running.wait_until(|| simulator.clock().now_ms() > START_MS + 4 * MINUTE_MS);
    running.interrupt();
    let outcome = running.finish();
    outcome.summary();
    for (name, words) in modes {
        assert!(words.is_empty() || has_said(&outcome.stderr, name, words), "{name}: {}", outcome.stderr);
    }
    let grace_ms = 2_000;
    let now_ms = simulator.clock().now_ms() + grace_ms;
    let candles = stored(&folder);
    assert!(candles.keys().all(|(.., open_ms)| open_ms + MINUTE_MS <= now_ms), "{candles:?}");
    for (name, _) in modes {
        for open_ms in (START_MS - 60 * MINUTE_MS..START_MS + MINUTE_MS).step_by(MINUTE_MS as usize) {
            let key = (name.to_owned(), format!("{}/USD", name.to_uppercase()), open_ms);
            assert_eq!(candles.get(&key).map(|(values, _)| *values), Some([1.0; 5]), "{key:?}");
        }
    }
    let is_corrected = |((name, ..), (_, revision)): (&(String, String, i64), &([f64; 5], i64))| {
        name == "future" && *revision == 1
    };
    assert!(candles.iter().any(is_corrected), "nothing of the feed was heard: {candles:?}");
}

#[test]
fn a_redirect_is_followed_to_the_exchange_and_nowhere_else() {
    let (simulator, elsewhere) =
        (simulator(30.0, Misbehaviour::default()), simulator(30.0, Misbehaviour::default()));
    let run = |redirects: &[Fault]| {
        let folder = Folder::new();
        write_pipeline(&folder, &source(&simulator, &[BINANCE], SETTINGS, ""), "");
        redirects.iter().for_each(|fault| simulator.next(Exchange::Binance, *fault));
        let stderr = run_to_end(&folder, &simulator);
        let (from_ms, to_ms) = ASKED_FOR_MS;
        let wrong = faults(&simulator, &[BINANCE], &stored(&folder), from_ms, to_ms);
        assert_eq!(wrong, Vec::<String>::new(), "{stderr}");
        stderr
    };
    let home = Fault::Redirect { to: simulator.address() };
    let stderr = run(&[home]);
    assert!(!stderr.contains("WARN"), "{stderr}");
    let stderr = run(&[Fault::Redirect { to: elsewhere.address() }]);
    let words = format!("is redirected to `{}`, which is not allowed", elsewhere.address());
    assert!(stderr.contains(&words), "{stderr}");
    assert_eq!(elsewhere.requests().exchanges[&Exchange::Binance].requests, 0);
    // It can be five times before the fault is over.
    let stderr = run(&[home; 5]);
    assert!(stderr.contains("it is redirected too often"), "{stderr}");
    assert_eq!(simulator.requests().exchanges[&Exchange::Binance].statuses[&302], 7);
}

/// What an adapter says of an exchange.
#[derive(Clone)]
struct Said {
    id: &'static str,
    hosts: Vec<&'static str>,
    timeframes: Vec<&'static str>,
    page_limit: u32,
    units: u32,
    window_ms: u32,
    quiet: u8,
}

fn said() -> Said {
    Said {
        id: "some",
        hosts: vec!["api.some.example"],
        timeframes: vec!["1m"],
        page_limit: 100,
        units: 1,
        window_ms: 1,
        quiet: 0,
    }
}

/// The memory of a component that says something of itself, as the canonical ABI lays it out.
#[derive(Default)]
struct Memory(Vec<u8>);

impl Memory {
    /// Address and length of a text or a list of so many items.
    fn place(&mut self, bytes: &[u8], items: usize) -> [u32; 2] {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        let address = self.0.len() as u32;
        self.0.extend_from_slice(bytes);
        [address, items as u32]
    }

    fn texts(&mut self, texts: &[&str]) -> [u32; 2] {
        let items: Vec<u32> = texts.iter().flat_map(|text| self.place(text.as_bytes(), text.len())).collect();
        self.place(&bytes(&items), texts.len())
    }

    /// A `description` at address 0.
    fn description(name: &[u8], exchanges: &[Said]) -> Memory {
        let mut memory = Memory(vec![0; 32]);
        let name = memory.place(name, name.len());
        let mut records = Vec::new();
        for exchange in exchanges {
            let id = memory.place(exchange.id.as_bytes(), exchange.id.len());
            let hosts = memory.texts(&exchange.hosts);
            let timeframes = memory.texts(&exchange.timeframes);
            let Said { page_limit, units, window_ms, quiet, .. } = exchange;
            // id, name, hosts, timeframes, page-limit, no depth, budget without a header, quiet and no feed
            records.extend(bytes(&[id, id, hosts, timeframes].concat()));
            records.extend(bytes(&[*page_limit, 0, 0, *units, *window_ms, 1, 0, 0, 0]));
            records.extend([*quiet, 0, 0, 0]);
        }
        let list = memory.place(&records, exchanges.len());
        // name, version, summary, exchanges
        let description = bytes(&[name, [0, 0], [0, 0], list].concat());
        memory.0[..description.len()].copy_from_slice(&description);
        memory
    }
}

fn bytes(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// An adapter whose `describe` has this body, with this memory, and whose other functions trap.
fn adapter(body: &str, memory: &Memory) -> Vec<u8> {
    let interface = "tidegate:exchange/exchange@0.1.0";
    let pages = memory.0.len().div_ceil(64 << 10).max(1);
    let data: String = memory.0.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let module = format!(
        r#"(module
            (memory (export "memory") {pages})
            (data (i32.const 0) "{data}")
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
            (func (export "{interface}#describe") (result i32) {body})
            (func (export "{interface}#next")
                (param i32 i32 i32 i32 i32 i32 i64 i64 i64 i32 i32 i32 i32) (result i32) unreachable)
            (func (export "{interface}#subscribe") (param i32 i32 i32 i32 i32 i32) (result i32) unreachable)
            (func (export "{interface}#hear") (param i64 i32 i32) (result i32) unreachable))"#
    );
    component(&module, "exchange.wit")
}

/// `check` and `run` refuse a pipeline whose exchange `some` has this adapter, with what is wrong with it.
fn is_refused(adapter: &[u8], limits: &str, words: &str) {
    let simulator = simulator(1.0, Misbehaviour::default());
    let folder = Folder::new();
    folder.write("adapter.wasm", adapter);
    let entry = format!(
        "      - exchange: some\n        component: ./adapter.wasm\n        symbols: [BTC/USD]\n{limits}"
    );
    write_pipeline(&folder, &format!("source:\n  exchange:\n    exchanges:\n{entry}"), "");
    let check = start(&mut command(&folder, &simulator, &["check", "p.yaml"])).finish();
    check.refused(2, "p.yaml:6:20: the component `");
    check.refused(2, words);
    let run = start(&mut command(&folder, &simulator, &["run", "p.yaml"])).finish();
    run.refused(2, words);
    assert!(!folder.path("state").exists(), "{words}");
}

#[test]
fn an_adapter_that_describes_itself_wrongly_is_refused() {
    let refused = |name: &[u8], exchanges: &[Said], words: &str| {
        let adapter = adapter("(i32.const 0)", &Memory::description(name, exchanges));
        is_refused(&adapter, "", &format!("describes itself wrongly: {words}"));
    };
    let name = b"good";
    refused(b"", &[said()], "the adapter's name is ``, but it must have 1 to 64");
    refused(b"Bad Name", &[said()], "the adapter's name is `Bad Name`");
    refused(name, &[], "it has no exchanges");
    refused(name, &[said(), said()], "an exchange is named twice: `some`");
    refused(name, &vec![said(); 513], "an exchange is one of 513, at most 512 are allowed");
    for (exchange, words) in [
        (Said { id: "So me", ..said() }, "an exchange is `So me`, but it must have 1 to 64"),
        (Said { hosts: vec![], ..said() }, "`some` has 0 hosts, but must have 1 to 64"),
        (Said { hosts: vec!["a.example"; 65], ..said() }, "`some` has 65 hosts"),
        (Said { hosts: vec!["a.example/path"], ..said() }, "has the host `a.example/path`, which is no host"),
        (Said { hosts: vec!["a@b.example"], ..said() }, "has the host `a@b.example`, which is no host"),
        (Said { hosts: vec!["https://b.example"], ..said() }, "has the host `https://b.example`"),
        (Said { hosts: vec![""], ..said() }, "has the host ``, which is no host"),
        (Said { timeframes: vec![], ..said() }, "`some` has no timeframes"),
        (Said { timeframes: vec!["1m", "7m"], ..said() }, "has the timeframe `7m`, which the contract"),
        (Said { page_limit: 0, ..said() }, "has a page limit of 0, but it must be 1 to 10000"),
        (Said { page_limit: 10_001, ..said() }, "has a page limit of 10001"),
        (Said { units: 0, ..said() }, "`some` has a budget of nothing"),
        (Said { window_ms: 0, ..said() }, "`some` has a budget of nothing"),
    ] {
        let description = [exchange];
        let adapter = adapter("(i32.const 0)", &Memory::description(name, &description));
        is_refused(&adapter, "", words);
    }
}

#[test]
fn an_adapter_that_breaks_down_before_it_is_one_is_refused() {
    let asked = "failed when it was asked what it is: ";
    let good = Memory::description(b"good", &[said()]);
    let impatient = "        limits: { call: 100ms }\n";
    for (body, limits, how) in [
        ("unreachable", "", "it trapped: "),
        ("(i32.const -4)", "", "it trapped: "),
        ("(loop $again (br $again)) unreachable", impatient, "it took more than `limits.call` (100 ms)"),
        (
            "(drop (memory.grow (i32.const 60000))) unreachable",
            "",
            "it wanted more memory than `limits.memory`",
        ),
    ] {
        is_refused(&adapter(body, &good), limits, &format!("{asked}{how}"));
    }
    let no_text = Memory::description(b"\xff\xfe", &[said()]);
    is_refused(&adapter("(i32.const 0)", &no_text), "", &format!("{asked}it trapped: "));
    let no_quiet = Memory::description(b"good", &[Said { quiet: 7, ..said() }]);
    is_refused(&adapter("(i32.const 0)", &no_quiet), "", &format!("{asked}it trapped: "));
    // A list that is longer than the memory.
    let mut endless = Memory::description(b"good", &[said()]);
    endless.0[28..32].copy_from_slice(&u32::MAX.to_le_bytes());
    is_refused(&adapter("(i32.const 0)", &endless), "", &format!("{asked}it trapped: "));
}
