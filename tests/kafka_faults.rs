//! From Kafka to Kafka while everything breaks: the host, the broker, the connection between them, the group. After
//! each fault the topics have what was sent, row by row; see [`Pipeline::compare`].

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rdkafka::producer::Producer;
use rustix::process::Signal;
use xtask::kafka::Options;

use crate::harness::kafka::{
    Candle, Fate, Kafka, Pipeline, broker_with, candles, own_broker, shared, wait_until,
};
use crate::harness::{Running, start};

/// Kafka's number of the request that ends a transaction, and of the one that brings rows.
/// <https://kafka.apache.org/protocol.html#protocol_api_keys>
const END_TXN: i16 = 26;
const PRODUCE: i16 = 0;

/// Small batches and many checkpoints: many moments at which something is half done.
const OFTEN: &str = "batch: { rows: 500 }";
const OFTEN_SINK: &str = ", commit: { wait: 50ms, rows: 2000 }";

/// What the faults with one partition are tried with.
fn sent_to(pipeline: &Pipeline, rows: u64, partitions: i32) -> Vec<Candle> {
    let sent = candles(0..rows, partitions);
    pipeline.kafka.send_candles(&pipeline.raw, &sent);
    sent
}

#[test]
fn a_host_that_is_killed_at_any_step_loses_and_doubles_nothing() {
    let kafka = shared();
    let pipeline = Pipeline::new(&kafka, 2, OFTEN);
    pipeline.write_file("", OFTEN_SINK, OFTEN);
    let sent = sent_to(&pipeline, 80_000, 2);
    for point in ["after_read", "after_rules", "after_write", "before_commit", "offsets_sent", "after_commit"]
    {
        for times in [1, 3] {
            let crash = format!("{point}:{times}");
            let outcome = start(pipeline.command("a").env("TIDEGATE_CRASH", &crash)).finish();
            assert_eq!(outcome.code, None, "{crash}: {}", outcome.stderr);
        }
    }
    assert!(kafka.end(&pipeline.validated) > 0);
    let rest = pipeline.run_to_end();
    assert!(rest["read"].as_u64().unwrap() > 0, "there was something left to do: {rest}");
    pipeline.compare(&sent);
}

/// `cargo xtask chaos kafka` makes it longer.
#[test]
fn hosts_that_are_killed_at_random_lose_and_double_nothing() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a whole number"))
    };
    let (hosts, partitions) = (3_usize, 12);
    let kills = number("TIDEGATE_CHAOS_KILLS", 8);
    let seed = number("TIDEGATE_CHAOS_SEED", 1);
    let own = own_broker(&[]);
    let pipeline = Pipeline::new(&own.kafka, partitions, "");
    pipeline.write_file("", ", commit: { wait: 200ms }", "batch: { rows: 500 }\nlanes: 2");
    pipeline.set_session("2s");
    let mut numbers = xtask::sample::Numbers::new(seed);
    let name = |host: usize| format!("host-{host}");
    let mut running: Vec<Running> = (0..hosts).map(|host| pipeline.start(&name(host))).collect();
    let mut sent = Vec::new();
    for kill in 1..=kills {
        let first = sent.len() as u64;
        let more = candles(first..first + 20_000, partitions);
        own.kafka.send_candles(&pipeline.raw, &more);
        sent.extend(more);
        thread::sleep(numbers.duration_below(Duration::from_millis(1_500)));
        let host = numbers.below(hosts as i64) as usize;
        running[host].kill();
        // One in four comes back only after others have its partitions.
        if numbers.below(4) == 0 {
            thread::sleep(Duration::from_millis(2_500));
        }
        running[host] = pipeline.start(&name(host));
        eprintln!("chaos: seed {seed}, kill {kill} of {kills}, {} rows sent", sent.len());
    }
    pipeline.wait_until_read(partitions, &mut running[0]);
    for host in running {
        host.interrupt();
        host.finish().summary();
    }
    pipeline.compare(&sent);
    eprintln!("chaos: kills {kills}, lost 0, doubled 0 of {} rows", sent.len());
}

#[test]
fn a_host_that_was_stopped_past_its_session_writes_nothing_twice() {
    let own = own_broker(&[]);
    let pipeline = Pipeline::new(&own.kafka, 4, "");
    // Each checkpoint comes late, so that the host is stopped in the middle of a transaction.
    pipeline.write_file("", ", commit: { wait: 5s }", OFTEN);
    pipeline.set_session("1500ms");
    let sent = sent_to(&pipeline, 200_000, 4);
    let mut zombie = pipeline.start("zombie");
    zombie.wait_until(|| own.kafka.uncommitted_end(&pipeline.validated) > 5_000);
    zombie.signal(Signal::STOP);
    let mut other = pipeline.start("other");
    pipeline.wait_until_read(4, &mut other);
    zombie.signal(Signal::CONT);
    // It finds out that its partitions are gone, and goes on as a member like any other.
    let more = candles(200_000..240_000, 4);
    own.kafka.send_candles(&pipeline.raw, &more);
    pipeline.wait_until_read(4, &mut other);
    thread::sleep(Duration::from_secs(3));
    assert!(zombie.child.try_wait().unwrap().is_none(), "{}", zombie.messages());
    zombie.interrupt();
    zombie.finish().summary();
    other.interrupt();
    other.finish().summary();
    pipeline.compare(&[sent, more].concat());
}

/// What is undone by the last commit of a run is done again, as it would be in the middle.
#[test]
fn a_host_that_loses_its_partitions_before_its_last_commit_does_it_again() {
    let own = own_broker(&[]);
    let pipeline = Pipeline::new(&own.kafka, 2, "");
    pipeline.write_file("", ", commit: { wait: 9s }", "");
    pipeline.set_session("1500ms");
    let sent = sent_to(&pipeline, 20_000, 2);
    let mut command = pipeline.command("a");
    command.arg("--until-end").env("TIDEGATE_CRASH", "before_last_checkpoint:1:stop");
    let mut host = start(&mut command);
    let stat = format!("/proc/{}/stat", host.child.id());
    host.wait_until(|| std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T ")));
    thread::sleep(Duration::from_secs(4));
    host.signal(Signal::CONT);
    let summary = host.finish().summary();
    assert_eq!(summary["read"], 20_000);
    pipeline.compare(&sent);
}

#[test]
fn a_second_host_of_the_same_name_replaces_the_first() {
    let own = own_broker(&[]);
    let pipeline = Pipeline::new(&own.kafka, 2, "");
    let sent = sent_to(&pipeline, 100_000, 2);
    let first = pipeline.start("same");
    own.kafka.wait_for_rows(&pipeline.validated, 1);
    let mut second = pipeline.start("same");
    let fenced = first.finish();
    fenced.refused(1, "another process has joined the group under this one's name");
    pipeline.wait_until_read(2, &mut second);
    second.interrupt();
    second.finish().summary();
    pipeline.compare(&sent);
}

#[test]
fn a_fenced_producer_is_replaced_and_the_work_is_done_again() {
    let kafka = shared();
    let pipeline = Pipeline::new(&kafka, 2, "");
    pipeline.write_file("", OFTEN_SINK, OFTEN);
    let sent = sent_to(&pipeline, 150_000, 2);
    let mut host = pipeline.start("a");
    kafka.wait_for_rows(&pipeline.validated, 1_000);
    for _ in 0..3 {
        let name = format!("{}-a-0", pipeline.group);
        let fencing = kafka.producer(&[("transactional.id", &name)]);
        fencing.init_transactions(Duration::from_secs(20)).unwrap();
        thread::sleep(Duration::from_millis(300));
    }
    pipeline.wait_until_read(2, &mut host);
    assert!(host.messages().contains("is done again"), "it was fenced: {}", host.messages());
    host.interrupt();
    host.finish().summary();
    pipeline.compare(&sent);
}

#[test]
fn rebalances_under_load_lose_and_double_nothing() {
    let own = own_broker(&[]);
    let pipeline = Pipeline::new(&own.kafka, 6, "");
    pipeline.write_file("", OFTEN_SINK, "batch: { rows: 500 }\nlanes: 2");
    pipeline.set_session("1500ms");
    let mut sent = sent_to(&pipeline, 60_000, 6);
    let mut steady = pipeline.start("steady");
    let mut number = 60_000;
    // Every two seconds one host comes, and the one before goes: by Ctrl-C or by kill.
    let mut guest: Option<Running> = None;
    for round in 0..6 {
        let next = pipeline.start(&format!("guest-{round}"));
        if let Some(mut before) = guest.replace(next) {
            if round % 2 == 0 {
                before.kill();
            } else {
                before.interrupt();
                before.finish().summary();
            }
        }
        let more = candles(number..number + 30_000, 6);
        number += 30_000;
        own.kafka.send_candles(&pipeline.raw, &more);
        sent.extend(more);
        thread::sleep(Duration::from_secs(2));
    }
    pipeline.wait_until_read(6, &mut steady);
    for host in [steady, guest.unwrap()] {
        host.interrupt();
        host.finish().summary();
    }
    pipeline.compare(&sent);
}

#[test]
fn a_broker_that_is_killed_and_comes_back_is_waited_for() {
    let mut own = own_broker(&[]);
    let pipeline = Pipeline::new(&own.kafka, 2, "");
    pipeline.write_file("", OFTEN_SINK, "batch: { rows: 500 }\nlanes: 2");
    let sent = sent_to(&pipeline, 300_000, 2);
    let mut host = pipeline.start("a");
    for rows in [5_000, 60_000] {
        own.kafka.wait_for_rows(&pipeline.validated, rows);
        own.broker.kill().unwrap();
        thread::sleep(Duration::from_millis(500));
        own.broker.restart().unwrap();
    }
    pipeline.wait_until_read(2, &mut host);
    host.interrupt();
    host.finish().summary();
    pipeline.compare(&sent);
}

#[test]
fn a_sink_that_stalls_keeps_memory_flat_and_the_group_together() {
    // A broker that stops for longer is put out by its own controller, and when it is let in again it can forget to end
    // a transaction in a partition that has no leader at that moment. Nobody but an operator can then end it.
    let own = own_broker(&[("broker.session.timeout.ms", "60000")]);
    let pipeline = Pipeline::new(&own.kafka, 2, "");
    let sent = sent_to(&pipeline, 400_000, 2);
    let mut host = pipeline.start("a");
    own.kafka.wait_for_rows(&pipeline.validated, 1);
    own.broker.pause().unwrap();
    thread::sleep(Duration::from_secs(10));
    let before = resident_mib(&host);
    thread::sleep(Duration::from_secs(10));
    let after = resident_mib(&host);
    own.broker.resume().unwrap();
    pipeline.wait_until_read(2, &mut host);
    host.interrupt();
    let outcome = host.finish();
    assert!(after <= before + 10, "{before} MiB became {after} MiB");
    assert!(outcome.peak_kib < 400 << 10, "{} KiB", outcome.peak_kib);
    pipeline.compare(&sent);
}

#[test]
fn a_transaction_that_the_brokers_have_left_open_is_ended() {
    // The first broker has groups and transactions, the second the rows. While the second is away its partitions have
    // no leader, and the first forgets to end the transaction there.
    let one = own_broker(&[]);
    one.kafka.create_with("__transaction_state", 4, &[("cleanup.policy", "compact")]);
    one.kafka.create_with("__consumer_offsets", 4, &[("cleanup.policy", "compact")]);
    let pipeline = Pipeline::without_topics(&one.kafka, "", "");
    for topic in [&pipeline.raw, &pipeline.rejected] {
        one.kafka.create(topic, 2);
    }
    let two = broker_with(Options { joins: Some(one.broker.cluster().unwrap()), ..Options::default() });
    one.kafka.create_on(&pipeline.validated, 2, 2);
    // No rule reads back, so nothing would wait for what is open.
    pipeline.write_file("", ", commit: { wait: 9s }", "batch: { rows: 100 }");
    let file = String::from_utf8(pipeline.folder.read("p.yaml")).unwrap();
    let without_dedup: String =
        file.lines().filter(|line| !line.contains("dedup")).map(|line| format!("{line}\n")).collect();
    pipeline.folder.write("p.yaml", without_dedup);
    let only_kept = |range| candles(range, 2).into_iter().filter(|row| row.fate != Fate::Dropped).collect();
    let mut sent: Vec<Candle> = only_kept(0..2_000);
    one.kafka.send_candles(&pipeline.raw, &sent);
    let mut host = pipeline.start("a");
    pipeline.wait_until_read(2, &mut host);
    let more: Vec<Candle> = only_kept(2_000..12_000);
    one.kafka.send_candles(&pipeline.raw, &more);
    sent.extend(more);
    let is_open =
        || one.kafka.uncommitted_end(&pipeline.validated) > one.kafka.end(&pipeline.validated) + 100;
    host.wait_until(is_open);
    two.broker.pause().unwrap();
    // What the second broker does not take makes the transaction fail.
    let more: Vec<Candle> = only_kept(12_000..20_000);
    one.kafka.send_candles(&pipeline.raw, &more);
    sent.extend(more);
    wait_until("the host goes back", || host.messages().contains("is done again"));
    // It asks the first broker again and again, and is told that nothing is open any more.
    thread::sleep(Duration::from_secs(5));
    two.broker.resume().unwrap();
    pipeline.wait_until_read(2, &mut host);
    host.interrupt();
    let outcome = host.finish();
    outcome.summary();
    pipeline.compare(&sent);
}

#[test]
fn a_topic_that_is_deleted_under_a_running_host_stops_it() {
    let kafka = shared();
    let pipeline = Pipeline::new(&kafka, 1, "");
    let sent = sent_to(&pipeline, 1_000, 1);
    let mut host = pipeline.start("a");
    pipeline.wait_until_read(1, &mut host);
    kafka.delete(&pipeline.raw);
    let outcome = host.finish();
    outcome.refused(3, &format!("the topic `{}` does not exist", pipeline.raw));
    pipeline.compare(&sent);
}

#[test]
fn rows_that_are_deleted_under_a_running_host_are_not_jumped_over() {
    let kafka = shared();
    let pipeline = Pipeline::new(&kafka, 1, "");
    let sent = sent_to(&pipeline, 100, 1);
    let mut host = pipeline.start("a");
    pipeline.wait_until_read(1, &mut host);
    host.signal(Signal::STOP);
    kafka.send_candles(&pipeline.raw, &candles(100..400, 1));
    kafka.delete_records(&pipeline.raw, 0, 250);
    host.signal(Signal::CONT);
    host.finish().refused(3, "150 rows from offset 100 on were deleted from the log before they were read");
    pipeline.compare(&sent);
}

#[test]
fn a_wrong_password_and_a_wrong_authority_are_refused_and_the_right_ones_let_in() {
    let folder = tempfile::TempDir::new().unwrap();
    let store = folder.path().join("broker.p12");
    let keytool = |arguments: &[&str]| {
        let output = std::process::Command::new("keytool").args(arguments).output().expect("keytool starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    };
    let store_path = store.to_str().unwrap();
    let certificate = folder.path().join("ca.pem");
    let secret = ["-keystore", store_path, "-storepass", "store-secret", "-alias", "broker"];
    keytool(
        &[
            &["-genkeypair", "-keyalg", "EC", "-storetype", "PKCS12", "-dname", "CN=localhost"],
            &["-ext", "SAN=IP:127.0.0.1", "-ext", "BC=ca:true"][..],
            &secret[..],
        ]
        .concat(),
    );
    keytool(&[&["-exportcert", "-rfc", "-file", certificate.to_str().unwrap()], &secret[..]].concat());
    let jaas = "org.apache.kafka.common.security.plain.PlainLoginModule required user_alice=\"plain-secret-5eT\" user_mallory=\"known\";";
    let own = broker_with(Options {
        listeners: vec![("SECURE".into(), "SASL_SSL".into())],
        properties: [
            ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"),
            ("listener.name.secure.plain.sasl.jaas.config", jaas),
            (
                "listener.name.secure.scram-sha-256.sasl.jaas.config",
                "org.apache.kafka.common.security.scram.ScramLoginModule required;",
            ),
            (
                "listener.name.secure.scram-sha-512.sasl.jaas.config",
                "org.apache.kafka.common.security.scram.ScramLoginModule required;",
            ),
            ("ssl.keystore.location", store_path),
            ("ssl.keystore.password", "store-secret"),
            ("ssl.keystore.type", "PKCS12"),
            ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
            ("super.users", "User:ANONYMOUS;User:alice;User:bob;User:eve"),
        ]
        .map(|(key, value)| (key.into(), value.into()))
        .to_vec(),
        users: [
            "SCRAM-SHA-256=[name=bob,password=scram-secret-9kQ]",
            "SCRAM-SHA-512=[name=eve,password=scram-secret-9kQ]",
        ]
        .map(Into::into)
        .to_vec(),
        ..Options::default()
    });
    let pipeline = Pipeline::new(&own.kafka, 1, "");
    let sent = sent_to(&pipeline, 100, 1);
    let secure = Kafka { address: own.broker.address_of("SECURE").unwrap() };
    let pipeline = Pipeline { kafka: secure, ..pipeline };
    pipeline.folder.write("ca.pem", std::fs::read(&certificate).unwrap());
    let with = |tls: &str, mechanism: &str, user: &str, password: &str| {
        pipeline.write_file(
            &format!(
                ", tls: {tls}, sasl: {{ mechanism: {mechanism}, username: {user}, password: \"{password}\" }}"
            ),
            "",
            "",
        );
        start(pipeline.command("a").arg("--until-end").env("RUST_LOG", "trace")).finish()
    };
    let trusted = "{ ca: ca.pem }";
    for (mechanism, user) in [("PLAIN", "alice"), ("SCRAM-SHA-256", "bob"), ("SCRAM-SHA-512", "eve")] {
        let wrong = with(trusted, mechanism, user, "wr0ng-pAssword");
        wrong.refused(3, &format!("do not let this program in (user `{user}` with {mechanism})"));
        assert!(wrong.stderr.contains("source.kafka"), "{}", wrong.stderr);
        assert!(!wrong.stderr.contains("wr0ng-pAssword"), "{}", wrong.stderr);
    }
    let untrusted = with("{}", "PLAIN", "alice", "plain-secret-5eT");
    untrusted.refused(3, "do not let this program in");
    assert!(untrusted.stderr.contains("certificate verify failed"), "{}", untrusted.stderr);
    // A user whom no access list lets read.
    let stranger = with(trusted, "PLAIN", "mallory", "known");
    stranger.refused(3, &format!("the topic `{}`", pipeline.raw));
    let first = with(trusted, "PLAIN", "alice", "plain-secret-5eT");
    assert_eq!(first.summary()["read"], 100);
    assert!(!first.stderr.contains("plain-secret"), "{}", first.stderr);
    for (mechanism, user) in [("SCRAM-SHA-256", "bob"), ("SCRAM-SHA-512", "eve")] {
        assert_eq!(with(trusted, mechanism, user, "scram-secret-9kQ").summary()["read"], 0);
    }
    let pipeline = Pipeline { kafka: own.kafka.clone(), ..pipeline };
    pipeline.compare(&sent);
}

fn resident_mib(host: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).map_or(0, |kib| kib >> 10)
}

#[test]
fn a_connection_that_is_cut_in_the_middle_of_rows_doubles_nothing() {
    cut(PRODUCE, 6);
}

#[test]
fn a_commit_whose_answer_is_lost_has_one_outcome() {
    cut(END_TXN, 4);
}

/// Runs a pipeline through a proxy that cuts the connection after requests of one kind, before the answer.
fn cut(request: i16, times: u32) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // The broker says that it is reached at the proxy; to itself it goes without.
    let own = broker_with(Options {
        port: Some(port),
        listeners: vec![("PROXIED".into(), "PLAINTEXT".into())],
        properties: vec![(
            "advertised.listeners".into(),
            format!("PLAINTEXT://127.0.0.1:{port},PROXIED://{address}"),
        )],
        ..Options::default()
    });
    let cuts = Arc::new(AtomicU32::new(0));
    let broker = own.broker.address_of("PROXIED").unwrap();
    proxy(listener, broker, request, Arc::clone(&cuts));

    let direct = own.kafka.clone();
    let pipeline = Pipeline::new(&direct, 2, "");
    let sent = sent_to(&pipeline, 100_000, 2);
    let pipeline = Pipeline { kafka: Kafka { address }, ..pipeline };
    pipeline.write_file("", OFTEN_SINK, OFTEN);
    let mut host = pipeline.start("a");
    for round in 1..=times {
        direct.wait_for_rows(&pipeline.validated, i64::from(round) * 2_000);
        cuts.fetch_add(1, Ordering::Relaxed);
        wait_until("a connection was cut", || cuts.load(Ordering::Relaxed) == 0);
    }
    let pipeline = Pipeline { kafka: direct, ..pipeline };
    pipeline.wait_until_read(2, &mut host);
    host.interrupt();
    host.finish().summary();
    pipeline.compare(&sent);
}

/// Forwards connections to `broker`. As often as `cuts` says, it closes one after a request of the kind `request`: in
/// its middle, or before its answer.
fn proxy(listener: TcpListener, broker: String, request: i16, cuts: Arc<AtomicU32>) {
    thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(client), Ok(upstream)) = (client, TcpStream::connect(&broker)) else { continue };
            let (mut back, mut to_client) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || {
                drop(std::io::copy(&mut back, &mut to_client));
                drop(to_client.shutdown(Shutdown::Both));
            });
            let cuts = Arc::clone(&cuts);
            thread::spawn(move || drop(forward(client, upstream, request, &cuts)));
        }
    });
}

fn forward(
    mut client: TcpStream,
    mut upstream: TcpStream,
    request: i16,
    cuts: &AtomicU32,
) -> std::io::Result<()> {
    let mut is_half = false;
    loop {
        let mut length = [0; 4];
        client.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        client.read_exact(&mut frame)?;
        upstream.write_all(&length)?;
        let is_asked = i16::from_be_bytes([frame[0], frame[1]]) == request;
        let take = |left: u32| left.checked_sub(1);
        if is_asked && cuts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            is_half = !is_half && request == PRODUCE;
            upstream.write_all(if is_half { &frame[..frame.len() / 2] } else { &frame })?;
            // The broker does what it was asked, and its answer reaches nobody.
            client.shutdown(Shutdown::Both)?;
            thread::sleep(Duration::from_millis(20));
            return upstream.shutdown(Shutdown::Both);
        }
        upstream.write_all(&frame)?;
    }
}
