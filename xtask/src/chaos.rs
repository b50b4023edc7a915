//! `cargo xtask chaos`: kills `tidegate` at random moments and looks for rows that are lost or doubled.
//!
//! One run of a large file is left alone. The others are killed and started again until they are done; then
//! their table and their dead letter must hold the same rows. A run is over before it has been killed very
//! often, so there are several rounds, each with a database of its own.
//!
//! From Kafka it is several hosts that share the partitions, and tests of the workspace are what runs: here longer. Into
//! PostgreSQL, answers to COMMIT are lost beside that. Exchanges are simulated, faster than time passes. Rules are replaced
//! instead of killing.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rusqlite::Connection;

use crate::{bench, cargo, guests, packages, run, sample, target_folder, tidegate_binary};

/// The time that the rules are told: later than all right rows, and the same after each start, so that
/// `validated_at` does not tell the runs apart.
const NOW: &str = "2026-02-01T00:00:00Z";

/// A run makes about this part of its work between two kills: fewer kills a round would make many rounds, more
/// would spend the time on starting.
const WORK_BETWEEN_KILLS: u32 = 12;

/// Arguments of `cargo xtask chaos`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// From where to where the pipelines go that are killed
    #[arg(value_enum, default_value_t = Pipeline::Sqlite)]
    pub pipeline: Pipeline,
    /// How often to kill
    #[arg(long, default_value_t = 20)]
    pub kills: u32,
    /// How many rows the file has, for sqlite
    #[arg(long, default_value_t = 1_000_000)]
    pub rows: usize,
    /// How many minutes the exchanges have, for exchange: a day takes a quarter of an hour
    #[arg(long, default_value_t = 1_440)]
    pub minutes: u32,
    /// Makes the moments of an earlier run [default: taken from the clock]
    #[arg(long)]
    pub seed: Option<u64>,
}

/// A pipeline to kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Pipeline {
    /// From a file into a database, one process
    Sqlite,
    /// From Kafka to Kafka, three processes in a group
    Kafka,
    /// From Kafka into PostgreSQL, two processes in a group
    Timescale,
    /// From Kafka into ClickHouse, two processes in a group
    Clickhouse,
    /// From three simulated exchanges that misbehave into a database, one process
    Exchange,
    /// From Kafka to Kafka, one process, in which a rule is replaced by good and broken versions: `cargo xtask bench deploys`
    Deploy,
}

/// What to do, and with what.
pub struct Chaos {
    /// The program to kill.
    pub tidegate: PathBuf,
    /// The folder of the rules.
    pub guests: PathBuf,
    /// An existing folder for the file and the databases.
    pub folder: PathBuf,
    /// How many rows the file has.
    pub rows: usize,
    /// How often to kill.
    pub kills: u32,
    /// What the moments are made from.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Processes killed.
    pub kills: u32,
    /// Files read to their end under kills.
    pub rounds: u32,
    /// Rows that the run left alone has, and a killed one has not.
    pub lost: u64,
    /// Rows that a killed run has, and the one left alone has not, or less often.
    pub doubled: u64,
}

/// Builds what is needed, kills, and fails when a row is lost or doubled.
pub fn command(arguments: &Arguments) -> Result<()> {
    let clock = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().subsec_nanos();
    let seed = arguments.seed.unwrap_or(u64::from(clock));
    match arguments.pipeline {
        Pipeline::Sqlite => sqlite(arguments, seed),
        Pipeline::Kafka => tests(arguments, seed, &["kafka_faults::hosts_that_are_killed_at_random"]),
        Pipeline::Timescale => tests(
            arguments,
            seed,
            &["hosts_that_write_into_a_database_and_are_killed", "answers_to_commit_that_are_lost"],
        ),
        Pipeline::Clickhouse => tests(
            arguments,
            seed,
            &["clickhouse_faults::hosts_that_are_killed_at_random_lose_and_double_nothing_in_clickhouse"],
        ),
        Pipeline::Exchange => tests(arguments, seed, &["exchange::exchanges_that_misbehave"]),
        // It measures and compares in one run, at the speed of a build for production.
        Pipeline::Deploy => bench::command(&bench::Arguments { rest: vec!["deploys".into()] }),
    }
}

/// Runs tests of the workspace, which have so many kills, or lose so many answers.
fn tests(arguments: &Arguments, seed: u64, names: &[&str]) -> Result<()> {
    packages::for_tests()?;
    guests::command(&guests::Arguments::default())?;
    let mut test = cargo();
    test.args(["test", "--quiet", "--workspace", "--test", "end_to_end", "--", "--nocapture"]).args(names);
    test.env("TIDEGATE_CHAOS_KILLS", arguments.kills.to_string());
    test.env("TIDEGATE_CHAOS_MINUTES", arguments.minutes.to_string());
    test.env("TIDEGATE_CHAOS_CUTS", (2 * arguments.kills).to_string());
    run(test.env("TIDEGATE_CHAOS_SEED", seed.to_string()))
}

fn sqlite(arguments: &Arguments, seed: u64) -> Result<()> {
    packages::for_build()?;
    guests::command(&guests::Arguments::default())?;
    run(cargo().args(["build", "--quiet", "--workspace", "--bin", "tidegate"]))?;
    let folder = target_folder().join("chaos");
    std::fs::create_dir_all(&folder)?;
    let chaos = Chaos {
        tidegate: tidegate_binary(),
        guests: target_folder().join("guests"),
        folder,
        rows: arguments.rows,
        kills: arguments.kills,
        seed,
    };
    eprintln!("chaos: seed {}, {} rows, {} kills", chaos.seed, chaos.rows, chaos.kills);
    let verdict = chaos.run()?;
    let Verdict { kills, rounds, lost, doubled } = verdict;
    println!("kills {kills}, lost {lost}, doubled {doubled} (in {rounds} rounds)");
    if lost + doubled > 0 {
        bail!("the databases in `{}` differ", chaos.folder.display());
    }
    Ok(())
}

impl Chaos {
    /// Kills as often as asked and compares.
    pub fn run(&self) -> Result<Verdict> {
        sample::write_rows(&self.folder.join("rows.jsonl"), self.rows)?;
        std::fs::write(self.folder.join("none.jsonl"), "")?;
        let start = self.run_alone("none")?;
        let alone = self.run_alone("rows")?;
        let work = alone.saturating_sub(start);
        eprintln!(
            "chaos: left alone {:.1} s, of which start {:.1} s",
            alone.as_secs_f64(),
            start.as_secs_f64()
        );

        let mut numbers = sample::Numbers::new(self.seed);
        let mut verdict = Verdict::default();
        while verdict.kills < self.kills {
            let database = self.prepare("rows", "killed")?;
            let before = verdict.kills;
            while verdict.kills < self.kills && self.is_killed(moment(&mut numbers, start, work))? {
                verdict.kills += 1;
            }
            if verdict.kills == self.kills {
                finish(self.start("killed")?)?;
            }
            let (lost, doubled) = compare(&self.folder.join("rows.db"), &database)?;
            verdict.rounds += 1;
            verdict.lost += lost;
            verdict.doubled += doubled;
            eprintln!(
                "chaos: round {}: {} kills, lost {lost}, doubled {doubled}",
                verdict.rounds,
                verdict.kills - before
            );
            if lost + doubled > 0 {
                break;
            }
        }
        Ok(verdict)
    }

    /// Runs the file `source` to its end; gives the time that it took.
    fn run_alone(&self, source: &str) -> Result<Duration> {
        self.prepare(source, source)?;
        let started = Instant::now();
        finish(self.start(source)?)?;
        Ok(started.elapsed())
    }

    /// Starts, waits, kills. Says whether the process was alive then; if not, it has come to its end.
    fn is_killed(&self, wait: Duration) -> Result<bool> {
        let mut child = self.start("killed")?;
        let started = Instant::now();
        while started.elapsed() < wait {
            if child.try_wait()?.is_some() {
                finish(child)?;
                return Ok(false);
            }
            let left = wait.saturating_sub(started.elapsed());
            std::thread::sleep(left.min(Duration::from_millis(5)));
        }
        child.kill()?;
        let status = child.wait()?;
        // It can have ended by itself between the last look and the kill.
        Ok(!status.success())
    }

    /// Writes a pipeline file and removes what an earlier run has left of its database, whose path it gives.
    fn prepare(&self, source: &str, name: &str) -> Result<PathBuf> {
        let database = self.folder.join(format!("{name}.db"));
        for ending in ["db", "db-wal", "db-shm"] {
            match std::fs::remove_file(self.folder.join(format!("{name}.{ending}"))) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        // Small batches make many moments at which something is half done.
        let pipeline = format!(
            "name: chaos\n\
             source: {{ file: {{ path: {source}.jsonl }} }}\n\
             rules:\n\
             \x20 - name: validate\n\
             \x20   component: validate\n\
             \x20   settings: {{ sources: [binance, coinbase, kraken], max_future: 5m, max_jump_factor: 3 }}\n\
             \x20 - {{ name: dedup, component: dedup, settings: {{ window: 24h }} }}\n\
             \x20 - {{ name: enrich, component: enrich }}\n\
             sink: {{ sqlite: {{ path: {name}.db, table: candles }} }}\n\
             batch: {{ rows: 2000 }}\n"
        );
        std::fs::write(self.folder.join(format!("{name}.yaml")), pipeline)?;
        Ok(database)
    }

    fn start(&self, name: &str) -> Result<Child> {
        // Its messages go to a file: a pipe that nobody reads would stop it.
        let messages = std::fs::File::create(self.folder.join(format!("{name}.log")))?;
        Command::new(&self.tidegate)
            .arg("run")
            .arg(self.folder.join(format!("{name}.yaml")))
            .args(["--now", NOW, "--guests"])
            .arg(&self.guests)
            .stdin(Stdio::null())
            .stdout(messages.try_clone()?)
            .stderr(messages)
            .spawn()
            .with_context(|| format!("cannot start `{}`", self.tidegate.display()))
    }
}

/// When to kill a process that needs `start` before its first row and `work` for all rows.
fn moment(numbers: &mut sample::Numbers, start: Duration, work: Duration) -> Duration {
    // One kill in eight is while it starts: there is less to lose than while it writes.
    if numbers.below(8) == 0 {
        numbers.duration_below(start)
    } else {
        start + numbers.duration_below(2 * work / WORK_BETWEEN_KILLS)
    }
}

/// Waits for the end of a process that nobody kills.
fn finish(mut child: Child) -> Result<()> {
    let status = child.wait()?;
    if !status.success() {
        bail!("`tidegate run` ended by itself with {status}; see the `.log` files beside the databases");
    }
    Ok(())
}

/// How many rows the second database lacks and how many it has too many.
fn compare(alone: &Path, killed: &Path) -> Result<(u64, u64)> {
    let connection = Connection::open(alone)?;
    connection.execute("ATTACH ?1 AS killed", [killed.to_str().context("a path is UTF-8")?])?;
    let rows: i64 = connection.query_row("SELECT count(*) FROM main.candles", [], |row| row.get(0))?;
    if rows == 0 {
        bail!("the run that was left alone has written nothing");
    }
    let (mut lost, mut doubled) = (0, 0);
    for table in ["candles", "dead_letter"] {
        lost += without_partner(&connection, table, "main", "killed")?;
        doubled += without_partner(&connection, table, "killed", "main")?;
    }
    Ok((lost, doubled))
}

/// How many rows of a table in one database have no equal in the other. Equal rows are numbered, so that three
/// of them are not the same as two.
fn without_partner(connection: &Connection, table: &str, one: &str, other: &str) -> Result<u64> {
    let columns: Vec<String> = connection
        .prepare("SELECT name FROM pragma_table_info(?1, 'main') ORDER BY name")?
        .query_map([table], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    if columns.is_empty() {
        bail!("the run that was left alone made no table `{table}`");
    }
    let columns = columns.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let numbered = |database: &str| {
        format!("SELECT {columns}, row_number() OVER (PARTITION BY {columns}) FROM {database}.{table}")
    };
    let query = format!("SELECT count(*) FROM ({} EXCEPT {})", numbered(one), numbered(other));
    let count: i64 = connection.query_row(&query, [], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(path: &Path, rows: &[(&str, Option<f64>)]) {
        let connection = Connection::open(path).unwrap();
        for table in ["candles", "dead_letter"] {
            connection.execute(&format!("CREATE TABLE {table} (symbol TEXT, close REAL)"), []).unwrap();
        }
        for row in rows {
            connection.execute("INSERT INTO candles VALUES (?1, ?2)", *row).unwrap();
        }
    }

    #[test]
    fn lost_and_doubled_rows_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let (alone, killed) = (folder.path().join("alone.db"), folder.path().join("killed.db"));
        database(&alone, &[("a", Some(1.0)), ("b", None), ("b", None), ("c", Some(2.0))]);
        database(&killed, &[("a", Some(1.0)), ("a", Some(1.0)), ("b", None), ("c", Some(2.5))]);
        assert_eq!(compare(&alone, &alone).unwrap(), (0, 0));
        // Lost: one `b` and the `c` of 2.0; too many: one `a` and the `c` of 2.5.
        assert_eq!(compare(&alone, &killed).unwrap(), (2, 2));
    }
}
