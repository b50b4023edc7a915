//! What a pipeline file can say wrong about TimescaleDB, PostgreSQL and ClickHouse.

use super::super::{ClickhouseSink, DeadLetter, Pipeline, TimescaleSink, Tls};
use super::{Check, GIB, is_table_name};

impl Check<'_> {
    pub(super) fn timescale(&mut self, sink: &TimescaleSink) {
        let path = |key| ["sink", "timescale", key];
        // The text may hold a password, so it is not shown.
        let url = sink.url.reveal();
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            self.add(&path("url"), "`url` must be `postgres://user@host:5432/database`");
        }
        self.qualified_table(&path("table"), &sink.table);
        if let Some(key) = &sink.key {
            self.key(&path("key"), key);
        }
        if let Some(hypertable) = &sink.hypertable {
            let path = |key| ["sink", "timescale", "hypertable", key];
            const HOUR_MS: u64 = 3_600_000;
            let most_ms = 100 * 366 * 24 * HOUR_MS;
            self.time(&path("chunk"), hypertable.chunk, HOUR_MS, most_ms);
            if let Some(compress_after) = hypertable.compress_after {
                self.time(&path("compress_after"), compress_after, HOUR_MS, most_ms);
            }
            if let Some(retain) = hypertable.retain {
                self.time(&path("retain"), retain, HOUR_MS, most_ms);
            }
            if !sink.create {
                let message =
                    "`hypertable` is for the table that `create: true` makes; leave it out, or create";
                self.add(&["sink", "timescale", "hypertable"], message);
            }
        }
        self.database_tls("timescale", sink.tls.as_ref());
        self.dead_letter_table("timescale", &sink.table);
    }

    pub(super) fn clickhouse(&mut self, sink: &ClickhouseSink) {
        let path = |key| ["sink", "clickhouse", key];
        let is_https = sink.url.starts_with("https://");
        if !is_https && !sink.url.starts_with("http://") {
            self.add(&path("url"), "`url` must be `http://host:8123` or `https://host:8443`");
        } else if sink.url.contains('@') {
            self.add(
                &path("url"),
                "`url` has a user in it; give `user` and `password`, which no message shows",
            );
        }
        if sink.tls.is_some() && !is_https {
            self.add(&path("tls"), "`tls` needs a `url` that starts with `https://`");
        }
        for (key, name) in [("database", &sink.database), ("table", &sink.table)] {
            self.table(&path(key), name);
        }
        if let Some(key) = &sink.key {
            self.key(&path("key"), key);
            if key.is_empty() {
                self.add(&path("key"), "the key is empty; a table of ClickHouse is ordered by its key");
            }
        }
        let insert = &sink.insert;
        self.range(&["sink", "clickhouse", "insert", "rows"], insert.rows as u64, 1, 1_000_000, "");
        self.range(&["sink", "clickhouse", "insert", "bytes"], insert.bytes.0, 1, GIB, " bytes");
        self.time(&["sink", "clickhouse", "insert", "wait"], insert.wait, 10, 600_000);
        self.database_tls("clickhouse", sink.tls.as_ref());
        self.dead_letter_table("clickhouse", &sink.table);
    }

    fn database_tls(&mut self, sink: &str, tls: Option<&Tls>) {
        let Some(tls) = tls else { return self.empty_tls(["sink", sink]) };
        self.tls(["sink", sink], tls);
        if tls.key_password.is_some() {
            let message =
                "a key with a password is for `kafka` only; give one without, readable by this user alone";
            self.add(&["sink", sink, "tls", "key_password"], message);
        }
    }

    /// Rows and dead letters are in one database, so the dead letter is a table beside the sink's.
    fn dead_letter_table(&mut self, sink: &str, table: &str) {
        let dead_letter = match &self.loaded.pipeline.dead_letter {
            None => return,
            Some(DeadLetter::Timescale(dead_letter)) if sink == "timescale" => &dead_letter.table,
            Some(DeadLetter::Clickhouse(dead_letter)) if sink == "clickhouse" => &dead_letter.table,
            Some(_) => {
                let message = format!(
                    "the dead letter of a `{sink}` sink is a table beside its rows; use `{sink}`, or leave it out"
                );
                return self.add(&["dead_letter"], message);
            }
        };
        let path = ["dead_letter", sink, "table"];
        if sink == "timescale" {
            self.qualified_table(&path, dead_letter);
        } else {
            self.table(&path, dead_letter);
        }
        if dead_letter == table {
            self.add(&path, format!("the table `{dead_letter}` is the sink's own"));
        }
    }

    /// A table with or without a schema before it.
    fn qualified_table(&mut self, path: &[&str], name: &str) {
        match name.split_once('.') {
            Some((schema, table)) if is_table_name(schema) => self.table(path, table),
            Some((schema, _)) => self.add(path, format!("`{schema}` cannot be the name of a schema")),
            None => self.table(path, name),
        }
    }
}

impl Pipeline {
    /// The table of rejected rows, for a sink that is a table of a database server.
    pub fn dead_letter_table(&self) -> &str {
        match &self.dead_letter {
            Some(DeadLetter::Timescale(dead_letter) | DeadLetter::Clickhouse(dead_letter)) => {
                &dead_letter.table
            }
            _ => "dead_letter",
        }
    }
}
