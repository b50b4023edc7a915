//! A pipeline that runs and whose rules are replaced: rows come from the test, one batch at a time.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{Folder, NOW, Outcome, Running, start, workspace};

/// The rule `versions` of tests/guests as the version that does `word` and has this number.
pub fn version(word: &str, number: i64) -> Vec<u8> {
    let path = workspace().join("target/guests-test/versions.wasm");
    let component = std::fs::read(path).expect("`cargo xtask guests --tests` builds the rules of the tests");
    tidegate_versions::changed(component, word, number)
}

/// `tidegate` in a folder, with a state folder in it.
pub fn tidegate(folder: &Folder, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.current_dir(folder.path(".")).args(arguments).env("TIDEGATE_STATE", folder.path("state"));
    command.stdin(Stdio::null());
    command
}

/// Starts to deploy a component as the rule `r` of the pipeline file `p.yaml` in a folder.
pub fn start_deploy(folder: &Folder, component: &[u8], more: &[&str]) -> Running {
    folder.write("candidate.wasm", component);
    let arguments = ["deploy", "candidate.wasm", "--pipeline", "p.yaml", "--rule", "r"];
    start(&mut tidegate(folder, &[&arguments, more].concat()))
}

/// What the API at a port says of the rule `r`.
pub fn rule(port: u16) -> Value {
    let (status, body) = request(port, "GET", "/api/v1/rules/r", "", b"");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// A request by hand: status and body.
pub fn request(port: u16, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String) {
    let mut stream = connection(port);
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    )
    .unwrap();
    // A server that has refused by the head may have closed.
    drop(stream.write_all(body));
    answer(&mut stream)
}

fn connection(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    stream
}

/// A port that nobody has.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A pipeline `test` from standard input through the rule `r` into `out.jsonl`.
pub struct Live {
    pub folder: Folder,
    pub port: u16,
    running: Option<Running>,
    stdin: Option<ChildStdin>,
    /// How many rows were sent.
    sent: u64,
    /// Whether the rule remembers.
    remembers: bool,
}

impl Live {
    /// Starts with the version `keep` 0; `more` stands at the end of the pipeline file.
    pub fn start(more: &str) -> Live {
        let mut live = Live::prepare(more);
        live.run();
        live
    }

    /// Writes the files and starts nothing.
    pub fn prepare(more: &str) -> Live {
        let folder = Folder::new();
        let port = free_port();
        folder.write("r.wasm", version("keep", 0));
        folder.write(
            "p.yaml",
            format!(
                "name: test\nsource: {{ file: {{ path: '-' }} }}\nrules:\n  \
                 - {{ name: r, component: ./r.wasm, settings: {{ remembers: false }} }}\n\
                 sink: {{ file: {{ path: out.jsonl }} }}\nrule_versions: decided_by\nhttp: 127.0.0.1:{port}\n{more}"
            ),
        );
        Live { folder, port, running: None, stdin: None, sent: 0, remembers: false }
    }

    /// Puts other texts in the place of some in the pipeline file.
    pub fn change_file(&self, changes: &[(&str, &str)]) {
        let mut file = String::from_utf8(self.folder.read("p.yaml")).unwrap();
        for (text, other) in changes {
            assert!(file.contains(text), "{text:?} is not in {file}");
            file = file.replace(text, other);
        }
        self.folder.write("p.yaml", file);
    }

    /// `tidegate` with the state folder of this pipeline.
    pub fn tidegate(&self, arguments: &[&str]) -> Command {
        tidegate(&self.folder, arguments)
    }

    /// The command that [`Live::run`] runs.
    pub fn command(&self) -> Command {
        self.tidegate(&["run", "p.yaml", "--json", "--now", NOW, "--instance", "a"])
    }

    /// Starts the pipeline and waits until it answers.
    pub fn run(&mut self) {
        let command = self.command();
        self.run_as(command);
    }

    /// The same, by another command.
    pub fn run_as(&mut self, mut command: Command) {
        let mut running = start(command.stdin(Stdio::piped()));
        self.stdin = running.child.stdin.take();
        let port = self.port;
        running.wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        self.running = Some(running);
        self.sent = 0;
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("the pipeline runs")
    }

    /// What it has logged.
    pub fn messages(&mut self) -> String {
        self.running().messages()
    }

    /// Sends rows whose closes count on, and waits until they are decided.
    pub fn send(&mut self, rows: u64) {
        let before = self.decided();
        let first = self.sent;
        let lines: String = (first..first + rows)
            .map(|number| {
                let time = 1_767_571_200_000 + number * 60_000;
                format!(
                    "{{\"timestamp\":{time},\"open\":1,\"high\":1,\"low\":1,\"close\":{number},\"volume\":1,\
                     \"source\":\"binance\",\"symbol\":\"BTC/USDT\",\"timeframe\":\"1m\"}}\n"
                )
            })
            .collect();
        self.sent += rows;
        let stdin = self.stdin.as_mut().expect("the pipeline runs");
        stdin.write_all(lines.as_bytes()).unwrap();
        stdin.flush().unwrap();
        self.wait_until(|live| live.decided() >= before + rows);
    }

    pub fn wait_until(&mut self, done: impl Fn(&Live) -> bool) {
        let mut running = self.running.take().expect("the pipeline runs");
        running.wait_until(|| done(self));
        self.running = Some(running);
    }

    /// How many rows are written, rejected or dropped.
    fn decided(&self) -> u64 {
        let status = self.rule();
        status["versions"].as_array().unwrap().iter().map(|version| version["rows"].as_u64().unwrap()).sum()
    }

    /// What the API says of the rule.
    pub fn rule(&self) -> Value {
        rule(self.port)
    }

    /// Deploys a component with the command.
    pub fn deploy(&self, component: &[u8], more: &[&str]) -> Outcome {
        start_deploy(&self.folder, component, more).finish()
    }

    /// Deploys a component, which must be taken, and waits until all lanes have it.
    pub fn deployed(&self, component: &[u8]) {
        let outcome = self.deploy(component, &[]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    }

    /// `promote` or `rollback`.
    pub fn change(&self, action: &str, more: &[&str]) -> Outcome {
        start(&mut self.tidegate(&[&[action, "--pipeline", "p.yaml", "--rule", "r"], more].concat())).finish()
    }

    /// The token that the host has made.
    pub fn token(&self) -> String {
        String::from_utf8(self.folder.read("state/tokens/test")).unwrap()
    }

    /// A request by hand: status and body.
    pub fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String) {
        request(self.port, method, path, headers, body)
    }

    pub fn connection(&self) -> TcpStream {
        connection(self.port)
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let mut running = self.running.take().expect("the pipeline runs");
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        self.stdin = None;
    }

    /// Ends the input and gives what the run says.
    pub fn finish(&mut self) -> Outcome {
        self.stdin = None;
        self.running.take().expect("the pipeline runs").finish()
    }

    /// The rows in the sink: `close`, `mark`, `seen`, and the hash in `decided_by`.
    pub fn rows(&self) -> Vec<(i64, i64, i64, String)> {
        let lines = String::from_utf8(self.folder.read("out.jsonl")).unwrap();
        let row = |line: &str| {
            let row: Value = serde_json::from_str(line).unwrap();
            let decided_by = row["decided_by"].as_str().unwrap().strip_prefix("r=").unwrap().to_owned();
            let integer = |name: &str| row[name].as_i64().unwrap();
            (row["close"].as_f64().unwrap() as i64, integer("mark"), integer("seen"), decided_by)
        };
        lines.lines().map(row).collect()
    }

    /// Ends the run, after which every row in `sink` was shown once to what decided after it.
    pub fn run_ends(&mut self, sink: &str, rows: u64) {
        let summary = self.finish().summary();
        assert_eq!(summary["written"], rows, "{sink}");
        if sink.contains("jsonl") {
            self.remembers = true;
            return self.assert_exact(rows);
        }
        let seen: Vec<i64> = if sink.contains("sqlite") {
            let database = super::Database::open(&self.folder.path("out.db"));
            let rows = database.query("SELECT seen FROM candles ORDER BY rowid");
            rows.iter().map(|row| super::integer(&row[0])).collect()
        } else {
            self.parquet_column("seen")
        };
        assert_eq!(seen, (0..rows as i64).collect::<Vec<i64>>(), "{sink}");
    }

    /// A column of all parts of the folder `out`.
    fn parquet_column(&self, name: &str) -> Vec<i64> {
        use arrow_array::cast::AsArray;
        let mut parts: Vec<_> = std::fs::read_dir(self.folder.path("out"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "parquet"))
            .collect();
        parts.sort();
        let mut values = Vec::new();
        for path in parts {
            let file = std::fs::File::open(path).unwrap();
            let reader =
                parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            for batch in reader.build().unwrap() {
                let batch = batch.unwrap();
                let column =
                    batch.column_by_name(name).unwrap().as_primitive::<arrow_array::types::Int64Type>();
                values.extend(column.values());
            }
        }
        values
    }

    /// The marks of the rows in the sink, each with the number of rows in a row that have it.
    pub fn marks(&self) -> Vec<(i64, usize)> {
        let mut marks: Vec<(i64, usize)> = Vec::new();
        for (_, mark, _, _) in self.rows() {
            match marks.last_mut() {
                Some((last, rows)) if *last == mark => *rows += 1,
                _ => marks.push((mark, 1)),
            }
        }
        marks
    }

    /// Sends rows one by one until all lanes run what they should; says how many.
    pub fn settle(&mut self) -> u64 {
        let mut rows = 0;
        while self.rule()["is_in_all_lanes"] == false {
            self.send(1);
            rows += 1;
        }
        rows
    }

    /// Every row is there once, in order, was shown once to what decided after it and remembers, and names what decided it.
    pub fn assert_exact(&self, rows: u64) {
        let found = self.rows();
        assert_eq!(found.len() as u64, rows);
        for (number, (close, mark, seen, decided_by)) in (0..).zip(&found) {
            assert_eq!(*close, number, "mark {mark}, {decided_by}");
            assert!(!self.remembers || *seen == number, "row {number}: mark {mark}, seen {seen}");
            assert_eq!(*decided_by, hash(&version("keep", *mark))[..12], "row {number}");
        }
    }
}

/// Status and body of an answer.
pub fn answer(stream: &mut TcpStream) -> (u16, String) {
    let mut bytes = Vec::new();
    drop(stream.read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let Some(status) = status else { panic!("no answer: {text:?}") };
    (status, text.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned())
}

/// SHA-256 in hexadecimal.
pub fn hash(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
