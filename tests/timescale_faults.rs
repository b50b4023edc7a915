//! Into PostgreSQL while everything breaks: the connection, the server, its disk, its tables, the host, the group. After
//! each fault the tables have what was sent, row by row; see [`Postgres::compare`].

use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::kafka::{Candle, candles, own_broker, shared};
use crate::harness::postgres::{FilePipeline, OwnServer, Pipeline, Postgres, candle, database, own_server};
use crate::harness::proxy::Proxy;
use crate::harness::{Running, start};

/// Small batches: many moments at which something is half done.
const OFTEN: &str = "batch: { rows: 500 }";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a whole number"))
}

fn sent_to(pipeline: &Pipeline<'_>, rows: u64, partitions: i32) -> Vec<Candle> {
    let sent = candles(0..rows, partitions);
    pipeline.kafka.send_candles(&pipeline.topic, &sent);
    sent
}

/// Stops the host, which must end well, and compares.
fn end_and_compare(mut host: Running, pipeline: &Pipeline<'_>, sent: &[Candle]) -> String {
    pipeline.wait_until_written(sent, &mut host);
    host.interrupt();
    let outcome = host.finish();
    outcome.summary();
    pipeline.postgres.compare(sent);
    outcome.stderr
}

#[test]
fn connections_that_are_ended_again_and_again_lose_and_double_nothing() {
    let (kafka, postgres) = (shared(), database());
    let pipeline = Pipeline::new(&kafka, &postgres, 4, &format!("{OFTEN}\nlanes: 2"));
    let sent = sent_to(&pipeline, 200_000, 4);
    let mut host = pipeline.start("a");
    host.wait_until(|| postgres.stored() > 0);
    let mut ended = 0;
    while ended < 20 {
        ended += postgres.end_connections();
        thread::sleep(Duration::from_millis(100));
    }
    let said = end_and_compare(host, &pipeline, &sent);
    assert!(said.contains("terminating connection due to administrator command (57P01)"), "{said}");
}

/// `cargo xtask chaos timescale` makes it longer.
#[test]
fn answers_to_commit_that_are_lost_change_nothing() {
    let (kafka, postgres) = (shared(), database());
    let times = number("TIDEGATE_CHAOS_CUTS", 30) as usize;
    let proxy = Proxy::to(postgres.address());
    let pipeline = Pipeline::new(&kafka, &postgres, 1, "batch: { rows: 200 }");
    pipeline.write_file(&postgres.url_by(proxy.address()), "", "batch: { rows: 200 }");
    let sent = sent_to(&pipeline, 5_000 + 1_000 * times as u64, 1);
    let mut host = pipeline.start("a");
    host.wait_until(|| postgres.stored() > 0);
    for cut in 1..=times {
        proxy.cut_answers_to(b"COMMIT", 1);
        host.wait_until(|| proxy.cuts() >= cut);
        // Or the next one would be cut while it still asks for its position.
        let before = postgres.stored();
        host.wait_until(|| postgres.stored() > before);
    }
    end_and_compare(host, &pipeline, &sent);
}

/// A file's position has nobody but the table to say whose it is.
#[test]
fn answers_that_are_lost_do_not_stop_a_file() {
    let postgres = database();
    let proxy = Proxy::to(postgres.address());
    let pipeline = FilePipeline::new(&postgres, "", "");
    pipeline.write_file(&postgres.url_by(proxy.address()), ", create: true", "batch: { rows: 200 }");
    pipeline.rows(&(0..20_000).map(|minute| candle(minute, 1.0, "")).collect::<Vec<_>>());
    let mut host = pipeline.start();
    for cut in 1..=10 {
        proxy.cut_answers_to(b"COMMIT", 1);
        host.wait_until(|| proxy.cuts() >= cut);
    }
    host.finish().summary();
    assert_eq!(postgres.lines("SELECT count(*), count(DISTINCT timestamp) FROM candles"), ["20000|20000"]);
}

#[test]
fn connections_that_are_cut_and_not_made_are_made_again() {
    let (kafka, postgres) = (shared(), database());
    let proxy = Proxy::to(postgres.address());
    let pipeline = Pipeline::new(&kafka, &postgres, 2, OFTEN);
    pipeline.write_file(&postgres.url_by(proxy.address()), "", &format!("{OFTEN}\nlanes: 2"));
    let sent = sent_to(&pipeline, 100_000, 2);
    let mut host = pipeline.start("a");
    host.wait_until(|| postgres.stored() > 0);
    for _ in 0..10 {
        proxy.cut();
        thread::sleep(Duration::from_millis(100));
    }
    proxy.set_closed(true);
    thread::sleep(Duration::from_secs(1));
    proxy.set_closed(false);
    end_and_compare(host, &pipeline, &sent);
}

#[test]
fn a_connection_that_is_silent_keeps_the_group_together() {
    let (kafka, postgres) = (shared(), database());
    let proxy = Proxy::to(postgres.address());
    let pipeline = Pipeline::new(&kafka, &postgres, 2, OFTEN);
    pipeline.write_file(&postgres.url_by(proxy.address()), "", OFTEN);
    pipeline.set_session("6s");
    let sent = sent_to(&pipeline, 100_000, 2);
    let mut host = pipeline.start("a");
    host.wait_until(|| postgres.stored() > 0);
    proxy.set_silent(true);
    thread::sleep(Duration::from_secs(9));
    proxy.set_silent(false);
    let said = end_and_compare(host, &pipeline, &sent);
    assert!(!said.contains("revoked"), "{said}");
}

#[test]
fn what_passes_is_waited_for() {
    let (kafka, postgres) = (shared(), database());
    // Each of them once by the server's own means, and at a moment of the table's choosing.
    postgres.run(
        "CREATE SEQUENCE failures; CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE \
         states text[] := ARRAY['40P01','40001','55P03','57014','53300','53100','53200','57P03','08006','25006','58030']; \
         number bigint := nextval('failures'); BEGIN \
         IF number % 3 = 0 AND number / 3 <= array_length(states, 1) THEN \
         RAISE EXCEPTION 'trouble' USING ERRCODE = states[number / 3]; END IF; RETURN NULL; END $$",
    );
    let pipeline = Pipeline::new(&kafka, &postgres, 1, OFTEN);
    pipeline.run_to_end();
    postgres.run("CREATE TRIGGER fail BEFORE INSERT ON candles FOR EACH STATEMENT EXECUTE FUNCTION fail()");
    let sent = sent_to(&pipeline, 30_000, 1);
    let said = end_and_compare(pipeline.start("a"), &pipeline, &sent);
    for state in
        ["40P01", "40001", "55P03", "57014", "53300", "53100", "53200", "57P03", "08006", "25006", "58030"]
    {
        assert!(said.contains(&format!("trouble ({state})")), "{state}: {said}");
    }
}

#[test]
fn a_lock_that_is_not_given_is_asked_for_again() {
    let (kafka, postgres) = (shared(), database());
    let pipeline = Pipeline::new(&kafka, &postgres, 1, OFTEN);
    let sent = sent_to(&pipeline, 20_000, 1);
    let url = format!("{}?options=-c%20lock_timeout%3D200", postgres.url());
    pipeline.write_file(&url, "", OFTEN);
    let mut host = pipeline.start("a");
    host.wait_until(|| postgres.stored() > 0);
    let locker = postgres.another();
    locker.run("BEGIN; LOCK TABLE candles IN ACCESS EXCLUSIVE MODE");
    thread::sleep(Duration::from_secs(2));
    locker.run("COMMIT");
    let said = end_and_compare(host, &pipeline, &sent);
    assert!(said.contains("canceling statement due to lock timeout (55P03)"), "{said}");
}

#[test]
fn a_statement_that_takes_too_long_is_tried_again() {
    let (kafka, postgres) = (shared(), database());
    let pipeline = Pipeline::new(&kafka, &postgres, 1, OFTEN);
    let sent = sent_to(&pipeline, 20_000, 1);
    let url = format!("{}?options=-c%20statement_timeout%3D400", postgres.url());
    pipeline.write_file(&url, "", OFTEN);
    let mut host = pipeline.start("a");
    host.wait_until(|| postgres.stored() > 0);
    let locker = postgres.another();
    locker.run("BEGIN; LOCK TABLE candles IN ACCESS EXCLUSIVE MODE");
    thread::sleep(Duration::from_secs(2));
    locker.run("COMMIT");
    let said = end_and_compare(host, &pipeline, &sent);
    assert!(said.contains("canceling statement due to statement timeout (57014)"), "{said}");
}

#[test]
fn a_real_deadlock_is_tried_again() {
    let own = own_server(&[("deadlock_timeout", "500ms")]);
    let (kafka, postgres) = (shared(), own.database());
    let pipeline = Pipeline::new(&kafka, &postgres, 1, OFTEN);
    let sent = sent_to(&pipeline, 40_000, 1);
    let mut host = pipeline.start("a");
    host.wait_until(|| postgres.stored() > 0);
    // First the table, then the position: the other way round than the sink, which has the position by then.
    for _ in 0..5 {
        let rival = postgres.another();
        rival.run("SET deadlock_timeout = '10s'");
        rival.run("BEGIN; LOCK TABLE candles IN ACCESS EXCLUSIVE MODE");
        // The server of the host looks once, after its time: the rival must wait by then.
        thread::sleep(Duration::from_millis(100));
        drop(rival.try_run("UPDATE tidegate_positions SET fingerprint = fingerprint; COMMIT"));
    }
    let said = end_and_compare(host, &pipeline, &sent);
    assert!(said.contains("deadlock detected (40P01)"), "{said}");
}

#[test]
fn serializable_transactions_end_well() {
    let (kafka, postgres) = (shared(), database());
    postgres.run(&format!(
        "ALTER DATABASE {} SET default_transaction_isolation = serializable",
        postgres.database
    ));
    let pipeline = Pipeline::new(&kafka, &postgres, 4, &format!("{OFTEN}\nlanes: 2"));
    let sent = sent_to(&pipeline, 60_000, 4);
    let mut host = pipeline.start("a");
    host.wait_until(|| postgres.stored() > 0);
    // Changes the positions while the host's transactions wait to do it.
    let rival = postgres.another();
    for _ in 0..5 {
        rival.run(
            "BEGIN ISOLATION LEVEL READ COMMITTED; UPDATE tidegate_positions SET fingerprint = fingerprint",
        );
        thread::sleep(Duration::from_millis(100));
        rival.run("COMMIT");
    }
    let said = end_and_compare(host, &pipeline, &sent);
    assert!(said.contains("(40001)"), "{said}");
}

#[test]
fn a_server_that_takes_no_more_connections_is_waited_for() {
    let (kafka, postgres) = (shared(), database());
    let role = format!("limited_{}", postgres.database);
    postgres.run(&format!("CREATE ROLE {role} LOGIN; GRANT ALL ON SCHEMA public TO {role}"));
    let pipeline = Pipeline::new(&kafka, &postgres, 1, OFTEN);
    pipeline.write_file(&postgres.url().replace("postgres@", &format!("{role}@")), "", OFTEN);
    let sent = sent_to(&pipeline, 40_000, 1);
    let mut host = pipeline.start("a");
    host.wait_until(|| postgres.stored() > 0);
    postgres.run(&format!("ALTER ROLE {role} CONNECTION LIMIT 0"));
    postgres.end_connections();
    thread::sleep(Duration::from_secs(1));
    postgres.run(&format!("ALTER ROLE {role} CONNECTION LIMIT -1"));
    let said = end_and_compare(host, &pipeline, &sent);
    assert!(said.contains(&format!("too many connections for role \"{role}\" (53300); waiting")), "{said}");
}

#[test]
fn a_server_that_only_reads_is_waited_for() {
    let (kafka, postgres) = (shared(), database());
    let pipeline = Pipeline::new(&kafka, &postgres, 1, OFTEN);
    let sent = sent_to(&pipeline, 20_000, 1);
    let mut host = pipeline.start("a");
    host.wait_until(|| postgres.stored() > 0);
    let name = &postgres.database;
    let set = |value: &str| {
        postgres.run(&format!(
            "SET default_transaction_read_only = off; ALTER DATABASE {name} SET default_transaction_read_only = {value}"
        ));
    };
    set("on");
    postgres.end_connections();
    host.wait_until(|| {
        thread::sleep(Duration::from_millis(200));
        true
    });
    let before = postgres.stored();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(postgres.stored(), before);
    set("off");
    let said = end_and_compare(host, &pipeline, &sent);
    assert!(said.contains("in a read-only transaction (25006)"), "{said}");
}

/// A partition is not lost when its position cannot be asked for at once.
#[test]
fn a_server_that_only_reads_at_the_start_is_waited_for() {
    let (kafka, postgres) = (shared(), database());
    let pipeline = Pipeline::new(&kafka, &postgres, 2, OFTEN);
    pipeline.run_to_end();
    let name = &postgres.database;
    postgres.run(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"));
    let sent = sent_to(&pipeline, 2_000, 2);
    let mut host = pipeline.start("a");
    host.wait_until(|| {
        postgres
            .count("pg_stat_activity WHERE application_name = 'tidegate' AND datname = current_database()")
            > 0
    });
    thread::sleep(Duration::from_millis(500));
    postgres.run(&format!("ALTER DATABASE {name} SET default_transaction_read_only = off"));
    let said = end_and_compare(host, &pipeline, &sent);
    assert!(said.contains("in a read-only transaction (25006)"), "{said}");
}

/// A small file system of memory, where this user may make one.
struct Full(std::path::PathBuf);

impl Full {
    fn mount(own: &OwnServer, kib: u64) -> Option<Full> {
        let folder = own.folder().join("small");
        std::fs::create_dir(&folder).unwrap();
        let size = format!("size={kib}k,mode=777");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&folder).status();
        mounted.is_ok_and(|status| status.success()).then_some(Full(folder))
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn a_full_disk_is_waited_for() {
    let own = own_server(&[]);
    let (kafka, postgres) = (shared(), own.database());
    let pipeline = Pipeline::new(&kafka, &postgres, 1, OFTEN);
    pipeline.run_to_end();
    let full = Full::mount(&own, 4_096).expect("this test mounts a file system, so it needs root, as in CI");
    let place = full.0.join("space");
    std::fs::create_dir(&place).unwrap();
    let owner = Command::new("chown").arg("postgres").arg(&place).status().unwrap();
    assert!(owner.success());
    postgres.run(&format!("CREATE TABLESPACE small LOCATION '{}'", place.display()));
    postgres.run("ALTER TABLE candles SET TABLESPACE small; ALTER INDEX candles_pkey SET TABLESPACE small");
    let sent = sent_to(&pipeline, 60_000, 1);
    let mut host = pipeline.start("a");
    host.wait_until(|| {
        thread::sleep(Duration::from_millis(100));
        true
    });
    let mut said = String::new();
    while !said.contains("(53100)") {
        thread::sleep(Duration::from_millis(100));
        said = host.messages();
    }
    let grown = Command::new("mount").args(["-o", "remount,size=200m"]).arg(&full.0).status().unwrap();
    assert!(grown.success());
    end_and_compare(host, &pipeline, &sent);
    drop(own);
}

#[test]
fn a_server_that_crashes_and_comes_back_is_waited_for() {
    let mut own = own_server(&[]);
    let kafka = shared();
    let postgres = own.database();
    let pipeline = Pipeline::new(&kafka, &postgres, 2, &format!("{OFTEN}\nlanes: 2"));
    let sent = sent_to(&pipeline, 100_000, 2);
    let mut host = pipeline.start("a");
    host.wait_until(|| postgres.stored() > 0);
    for stopped in [false, true] {
        if stopped {
            own.server.stop().unwrap()
        } else {
            own.server.kill().unwrap()
        }
        thread::sleep(Duration::from_millis(1_500));
        own.server.restart().unwrap();
        postgres.reconnect();
        let before = postgres.stored();
        host.wait_until(|| {
            thread::sleep(Duration::from_millis(20));
            postgres.stored() > before
        });
    }
    let said = end_and_compare(host, &pipeline, &sent);
    assert!(said.contains("waiting"), "{said}");
}

#[test]
fn a_server_that_is_not_there_is_said_or_waited_for() {
    let mut own = own_server(&[]);
    let postgres = own.database();
    let pipeline = FilePipeline::new(&postgres, ", create: true", "");
    pipeline.rows(&[candle(0, 1.0, "")]);
    own.server.kill().unwrap();
    let started = std::time::Instant::now();
    let outcome = pipeline.folder.run();
    outcome
        .refused(3, &format!("the server of `sink.timescale.url` (`{}`) cannot be used", postgres.shown()));
    outcome.refused(3, "Connection refused");
    assert!(started.elapsed() < Duration::from_secs(30));
    let mut waiting = start(pipeline.folder.command().arg("--wait"));
    thread::sleep(Duration::from_secs(1));
    assert!(waiting.child.try_wait().unwrap().is_none(), "{}", waiting.messages());
    own.server.restart().unwrap();
    assert_eq!(waiting.finish().summary()["written"], 1);
    // A stop is not kept waiting.
    own.server.kill().unwrap();
    let waiting = start(pipeline.folder.command().arg("--wait"));
    thread::sleep(Duration::from_millis(500));
    waiting.interrupt();
    assert_eq!(waiting.finish().code, Some(3));
}

/// Stops with a sentence, and goes on when it was done as it says.
fn changed(change: &str, sentence: &str, mend: &str) {
    let (kafka, postgres) = (shared(), database());
    let pipeline = Pipeline::new(&kafka, &postgres, 1, OFTEN);
    let sent = sent_to(&pipeline, 40_000, 1);
    let mut host = pipeline.start("a");
    host.wait_until(|| postgres.stored() > 0);
    postgres.run(change);
    let outcome = host.finish();
    outcome.refused(3, sentence);
    postgres.run(mend);
    end_and_compare(pipeline.start("a"), &pipeline, &sent);
}

#[test]
fn a_table_that_is_changed_under_a_running_host_stops_it() {
    changed(
        "ALTER TABLE candles DROP COLUMN volume",
        "has no column `volume`: run `ALTER TABLE",
        "ALTER TABLE candles ADD COLUMN volume float8",
    );
    changed(
        "ALTER TABLE candles ADD COLUMN more integer; UPDATE candles SET more = 1; ALTER TABLE candles ALTER more SET NOT NULL",
        "column `more` of table `candles`",
        "ALTER TABLE candles DROP COLUMN more",
    );
    changed(
        "ALTER TABLE candles DROP CONSTRAINT candles_pkey",
        "has no unique index of the key (source, symbol, timeframe, timestamp)",
        "CREATE UNIQUE INDEX ON candles (timestamp, source, symbol, timeframe)",
    );
    changed(
        "ALTER TABLE candles ALTER close TYPE real",
        "column `close` of table `candles`",
        "ALTER TABLE candles ALTER close TYPE float8",
    );
    changed(
        "ALTER TABLE candles RENAME TO kept; CREATE VIEW candles AS SELECT * FROM kept",
        "is no table",
        "DROP VIEW candles; ALTER TABLE kept RENAME TO candles",
    );
}

/// Binary COPY does not look at types: eight bytes of a float would be taken for an integer.
#[test]
fn a_column_of_another_type_is_written_as_that_type() {
    let (kafka, postgres) = (shared(), database());
    let pipeline = Pipeline::new(&kafka, &postgres, 1, OFTEN);
    let sent = sent_to(&pipeline, 60_000, 1);
    let mut host = pipeline.start("a");
    for (column, kind) in [("volume", "numeric"), ("close", "numeric(20,8)"), ("close", "double precision")] {
        let before = postgres.stored();
        host.wait_until(|| postgres.stored() > before);
        postgres.run(&format!("ALTER TABLE candles ALTER {column} TYPE {kind}"));
    }
    let said = end_and_compare(host, &pipeline, &sent);
    assert!(said.contains("has other types than before"), "{said}");
    assert_eq!(postgres.lines("SELECT DISTINCT volume FROM candles"), ["12.5"]);
}

#[test]
fn a_table_that_is_dropped_under_a_running_host_stops_it_and_loses_no_position() {
    let (kafka, postgres) = (shared(), database());
    let pipeline = Pipeline::new(&kafka, &postgres, 1, OFTEN);
    pipeline.run_to_end();
    pipeline.write_file(&postgres.url(), "", OFTEN);
    let without_create =
        String::from_utf8(pipeline.folder.read("p.yaml")).unwrap().replace("create: true", "create: false");
    pipeline.folder.write("p.yaml", without_create);
    let sent = sent_to(&pipeline, 40_000, 1);
    let mut host = pipeline.start("a");
    host.wait_until(|| postgres.stored() > 0);
    postgres.run("ALTER TABLE candles RENAME TO kept");
    host.finish().refused(3, "the table `candles` does not exist in `");
    assert_eq!(postgres.lines("SELECT next_offset > 0 FROM tidegate_positions"), ["t"]);
    postgres.run("ALTER TABLE kept RENAME TO candles");
    end_and_compare(pipeline.start("a"), &pipeline, &sent);
}

#[test]
fn a_host_that_is_killed_at_any_step_loses_and_doubles_nothing() {
    let (kafka, postgres) = (shared(), database());
    let pipeline = Pipeline::new(&kafka, &postgres, 2, OFTEN);
    let sent = sent_to(&pipeline, 40_000, 2);
    for point in ["after_read", "after_rules", "before_commit", "after_write"] {
        for times in [1, 4] {
            let crash = format!("{point}:{times}");
            let outcome = start(pipeline.command("a").env("TIDEGATE_CRASH", &crash)).finish();
            assert_eq!(outcome.code, None, "{crash}: {}", outcome.stderr);
        }
    }
    assert!(postgres.stored() > 0);
    let rest = pipeline.run_to_end();
    assert!(rest["read"].as_u64().unwrap() > 0, "there was something left to do: {rest}");
    postgres.compare(&sent);
}

/// `cargo xtask chaos timescale` makes it longer.
#[test]
fn hosts_that_write_into_a_database_and_are_killed_at_random_lose_and_double_nothing() {
    let (hosts, partitions) = (2_usize, 8);
    let (kills, seed) = (number("TIDEGATE_CHAOS_KILLS", 6), number("TIDEGATE_CHAOS_SEED", 1));
    let (own, postgres) = (own_broker(&[]), database());
    let pipeline = Pipeline::new(&own.kafka, &postgres, partitions, &format!("{OFTEN}\nlanes: 2"));
    pipeline.set_session("2s");
    let mut numbers = xtask::sample::Numbers::new(seed);
    let name = |host: usize| format!("host-{host}");
    let mut running: Vec<Running> = (0..hosts).map(|host| pipeline.start(&name(host))).collect();
    let mut sent = Vec::new();
    for kill in 1..=kills {
        let first = sent.len() as u64;
        let more = candles(first..first + 20_000, partitions);
        own.kafka.send_candles(&pipeline.topic, &more);
        sent.extend(more);
        thread::sleep(numbers.duration_below(Duration::from_millis(1_500)));
        let host = numbers.below(hosts as i64) as usize;
        running[host].kill();
        // One in four comes back only after the other has its partitions.
        if numbers.below(4) == 0 {
            thread::sleep(Duration::from_millis(2_500));
        }
        running[host] = pipeline.start(&name(host));
        eprintln!("chaos: seed {seed}, kill {kill} of {kills}, {} rows sent", sent.len());
    }
    pipeline.wait_until_written(&sent, &mut running[0]);
    for host in running {
        host.interrupt();
        host.finish().summary();
    }
    postgres.compare(&sent);
    eprintln!("chaos: kills {kills}, lost 0, doubled 0 of {} rows", sent.len());
}

/// Whether a host has written in a transaction whose next statement it has not sent. A COMMIT that waits
/// for a slow disk is none: it ends without the host.
fn waits_in_a_transaction(postgres: &Postgres) -> bool {
    postgres.count(
        "pg_stat_activity WHERE application_name = 'tidegate' AND datname = current_database() \
         AND backend_xid IS NOT NULL AND wait_event = 'ClientRead'",
    ) > 0
}

#[test]
fn a_host_that_was_stopped_in_the_middle_of_a_transaction_writes_nothing_twice() {
    let (own, postgres) = (own_broker(&[]), database());
    let pipeline = Pipeline::new(&own.kafka, &postgres, 4, "batch: { rows: 2000 }");
    pipeline.set_session("1500ms");
    let sent = sent_to(&pipeline, 200_000, 4);
    let mut zombie = pipeline.start("zombie");
    zombie.wait_until(|| postgres.stored() > 5_000);
    // It is stopped where its transaction has locks.
    loop {
        zombie.signal(Signal::STOP);
        // The server has read by then what was sent.
        thread::sleep(Duration::from_millis(400));
        if waits_in_a_transaction(&postgres) {
            break;
        }
        zombie.signal(Signal::CONT);
        thread::sleep(Duration::from_millis(7));
    }
    let mut other = pipeline.start("other");
    pipeline.wait_until_written(&sent, &mut other);
    assert!(other.messages().contains("that transaction was ended"), "{}", other.messages());
    zombie.signal(Signal::CONT);
    // It finds out that its partitions are gone, and goes on as a member like any other.
    let more = candles(200_000..240_000, 4);
    own.kafka.send_candles(&pipeline.topic, &more);
    let all = [sent, more].concat();
    pipeline.wait_until_written(&all, &mut other);
    thread::sleep(Duration::from_secs(3));
    assert!(zombie.child.try_wait().unwrap().is_none(), "{}", zombie.messages());
    for host in [zombie, other] {
        host.interrupt();
        host.finish().summary();
    }
    postgres.compare(&all);
}

#[test]
fn two_processes_with_one_file_are_told_apart() {
    let postgres = database();
    let pipeline = FilePipeline::new(&postgres, ", create: true", "batch: { rows: 100 }");
    pipeline.rows(&(0..50_000).map(|minute| candle(minute, 1.0, "")).collect::<Vec<_>>());
    let (one, other) = (pipeline.start(), pipeline.start());
    let outcomes = [one.finish(), other.finish()];
    let refused = outcomes.iter().find(|outcome| outcome.code == Some(1)).expect("one of them is told");
    refused.refused(1, "another process runs pipeline `test`; stop one of the two");
    pipeline.folder.summary();
    assert_eq!(postgres.lines("SELECT count(*), count(DISTINCT timestamp) FROM candles"), ["50000|50000"]);
}

#[test]
fn encrypted_connections_trust_the_given_authority_and_the_right_name_only() {
    let keys = tempfile::tempdir().unwrap();
    let path = |name: &str| keys.path().join(name);
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(keys.path())
            .output()
            .expect("openssl starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let request = ["req", "-newkey", "rsa:2048", "-nodes", "-subj"];
    openssl(
        &[&request[..], &["/CN=authority", "-x509", "-days", "30", "-keyout", "ca.key", "-out", "ca.pem"]]
            .concat(),
    );
    openssl(&[&request[..], &["/CN=server", "-keyout", "server.key", "-out", "server.csr"]].concat());
    std::fs::write(path("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let sign = ["x509", "-req", "-days", "30", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
    openssl(&[&sign[..], &["-in", "server.csr", "-out", "server.pem", "-extfile", "names"]].concat());
    // The server reads its key only when nobody else can.
    let folder = own_server(&[]);
    for name in ["server.key", "server.pem"] {
        let to = folder.folder().join("data").join(name);
        std::fs::copy(path(name), &to).unwrap();
        assert!(Command::new("chmod").arg("600").arg(&to).status().unwrap().success());
        if rustix::process::geteuid().is_root() {
            assert!(Command::new("chown").arg("postgres").arg(&to).status().unwrap().success());
        }
    }
    let postgres = folder.database();
    postgres.run("ALTER SYSTEM SET ssl_cert_file = 'server.pem'");
    postgres.run("ALTER SYSTEM SET ssl_key_file = 'server.key'");
    postgres.run("ALTER SYSTEM SET ssl = on");
    postgres.run("SELECT pg_reload_conf()");
    thread::sleep(Duration::from_millis(300));
    let pipeline = FilePipeline::new(&postgres, "", "");
    pipeline.rows(&[candle(0, 1.0, "")]);
    std::fs::copy(path("ca.pem"), pipeline.folder.path("ca.pem")).unwrap();
    let tls = ", create: true, tls: { ca: ca.pem }";
    pipeline.write_file(&postgres.url(), tls, "");
    assert_eq!(pipeline.folder.summary()["written"], 1);
    // An authority that is not the system's, and a name that the certificate has not.
    pipeline.write_file(&format!("{}?sslmode=require", postgres.url()), ", create: true", "");
    pipeline.folder.refused(3, "UnknownIssuer");
    pipeline.write_file(&postgres.url().replace("127.0.0.1", "localhost"), tls, "");
    pipeline.folder.refused(3, "certificate not valid for name");
    postgres.run("ALTER SYSTEM SET ssl = off");
    postgres.run("SELECT pg_reload_conf()");
    thread::sleep(Duration::from_millis(300));
    pipeline.write_file(&postgres.url(), tls, "");
    pipeline.folder.refused(3, "server does not support TLS");
}
