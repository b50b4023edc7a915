//! The way to a server of ClickHouse, and what its errors mean for a pipeline.

use std::error::Error as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clickhouse::error::Error as ClientError;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::{Error, Result};
use crate::kafka::Patience;
use crate::pipeline_file::{ClickhouseSink as Config, Compression, Tls};
use crate::sink::server::Server;
use crate::source::Source;

/// How long an answer may take. An insert is done in less than a second; one that waits for replicas or for
/// materialized views may need longer, and is inserted again, with the same token, after this.
const ANSWER: Duration = Duration::from_secs(30);

/// Bytes of a block that are compressed and sent at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Servers close connections that are idle for 3 s, the newer ones for 10 s or more.
const IDLE: Duration = Duration::from_secs(2);

/// How much of a server's sentence is shown.
const SHOWN_CHARS: usize = 400;

/// A server's version, the first two numbers of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// The first that knows a token for an insert into a table without replicas.
    pub const TOKENS: Version = Version(22, 2);
    /// The first that has the type `DateTime64`.
    pub const DATE_TIME_64: Version = Version(20, 1);
    /// The first whose `LowCardinality` needs no setting.
    pub const LOW_CARDINALITY: Version = Version(19, 0);
    /// The first that can collect the inserts of several clients, and must be told not to.
    pub const ASYNC_INSERTS: Version = Version(21, 11);
    /// The first whose tables without replicas can know the blocks that were inserted before.
    pub const WINDOW: Version = Version(21, 6);
    /// The first that has the type `Bool`.
    pub const BOOL: Version = Version(22, 1);

    fn parse(text: &str) -> Option<Version> {
        let mut numbers = text.trim().split('.').map(|number| number.parse().ok());
        Some(Version(numbers.next()??, numbers.next()??))
    }
}

/// A connection of a lane.
pub struct Client {
    client: clickhouse::Client,
    /// The same, which compresses what it inserts.
    inserting: clickhouse::Client,
    server: Server,
    /// How messages call it: `host:port/database`.
    place: String,
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// It goes away by itself.
    Passing,
    /// The table has more parts than it may have: inserts must become fewer.
    TooManyParts,
    /// Somebody must mend it; what to do.
    Lasting(&'static str),
}

/// A request that has failed.
#[derive(Debug)]
pub struct Failure {
    class: Class,
    text: String,
}

impl Client {
    /// Makes a client; nothing is asked yet.
    pub fn new(config: &Config, folder: &Path, patience: &Patience) -> Result<Client> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(config.tls.as_ref(), folder)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let http = HttpClient::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).build(connector);
        let mut client = clickhouse::Client::with_http_client(http)
            .with_url(&config.url)
            .with_database(&config.database)
            .with_compression(clickhouse::Compression::None)
            .with_product_info("tidegate", env!("CARGO_PKG_VERSION"));
        if config.user.is_some() || config.password.is_some() {
            client = client.with_user(config.user.as_deref().unwrap_or("default"));
        }
        if let Some(password) = &config.password {
            client = client.with_password(password.reveal());
        }
        let inserting = client.clone().with_compression(match config.compression {
            Compression::None => clickhouse::Compression::None,
            Compression::Lz4 => clickhouse::Compression::Lz4,
            Compression::Zstd => clickhouse::Compression::Zstd(1),
        });
        let server = Server::new(&patience.shutdown)?;
        Ok(Client { client, inserting, server, place: place(config) })
    }

    /// How messages call it: `host:port/database`.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Waits for the server as long as `patience` lasts; gives its version.
    ///
    /// # Errors
    /// [`Error::Surroundings`] when it cannot be reached, or does not let the user in.
    pub fn reach(&self, patience: &Patience) -> Result<Version> {
        let start = Instant::now();
        loop {
            let failure = match self.ask(None, "SELECT version()") {
                Ok(rows) => return self.version(&rows),
                Err(failure) => failure,
            };
            let is_lasting = matches!(failure.class, Class::Lasting(_));
            if (is_lasting && !patience.forever) || !patience.lasts(start) {
                return Err(match self.error("cannot be used", failure) {
                    Error::Rewind(text) => Error::Surroundings(format!(
                        "{text}; check `sink.clickhouse.url`, or give `--wait` to wait for the server"
                    )),
                    other => other,
                });
            }
            patience.say(&self.error("cannot be used", failure).to_string());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn version(&self, rows: &[Vec<String>]) -> Result<Version> {
        let text = rows.first().and_then(|row| row.first()).map_or("", String::as_str);
        Version::parse(text).ok_or_else(|| {
            Error::Surroundings(format!(
                "`{}` says that its version is {text:?}, which ClickHouse does not say: check `sink.clickhouse.url`",
                self.place
            ))
        })
    }

    /// The rows of a query as texts. `source` stays in its group meanwhile.
    pub fn ask(
        &self,
        source: Option<&mut Source>,
        query: &str,
    ) -> std::result::Result<Vec<Vec<String>>, Failure> {
        let request = async { self.client.query_raw(query).fetch_bytes("TabSeparated")?.collect().await };
        let answer = self.server.run(source, ANSWER, request).map_err(Failure::silent)?;
        let answer = answer.map_err(|error| Failure::of(&error))?;
        let text = String::from_utf8_lossy(&answer);
        Ok(text.lines().map(|line| line.split('\t').map(unescaped).collect()).collect())
    }

    /// Runs a statement that has no rows.
    pub fn execute(&self, source: Option<&mut Source>, statement: &str) -> std::result::Result<(), Failure> {
        let request = self.client.query_raw(statement).execute();
        self.server
            .run(source, ANSWER, request)
            .map_err(Failure::silent)?
            .map_err(|error| Failure::of(&error))
    }

    /// Gives the answer to a query to `each`, piece by piece.
    pub fn read(&self, query: &str, format: &str, each: &mut dyn FnMut(&Bytes) -> Result<()>) -> Result<()> {
        let failed = |failure| self.error("rows cannot be read back", failure);
        let mut cursor = self
            .server
            .run(None, ANSWER, async { self.client.query_raw(query).fetch_bytes(format) })?
            .map_err(|error| failed(Failure::of(&error)))?;
        loop {
            let piece = self.server.run(None, ANSWER, cursor.next())?;
            match piece.map_err(|error| failed(Failure::of(&error)))? {
                Some(bytes) => each(&bytes)?,
                None => return Ok(()),
            }
        }
    }

    /// Inserts a block: `statement` with `settings`, and the block's bytes in `pieces`.
    pub fn insert<'p>(
        &self,
        source: &mut Source,
        statement: &str,
        settings: &[(&str, String)],
        pieces: impl Iterator<Item = std::borrow::Cow<'p, [u8]>>,
    ) -> std::result::Result<(), Failure> {
        let request = async {
            let mut insert = self.inserting.insert_formatted_with(statement);
            for (name, value) in settings {
                insert = insert.with_setting(*name, value);
            }
            let mut insert = insert.buffered_with_capacity(PIECE_BYTES);
            for piece in pieces {
                for part in piece.chunks(PIECE_BYTES) {
                    insert.write_buffered(part);
                    if insert.buf_len() >= PIECE_BYTES {
                        insert.flush().await?;
                    }
                }
            }
            insert.end().await
        };
        let answer = self.server.run(Some(source), ANSWER, request).map_err(Failure::silent)?;
        answer.map_err(|error| Failure::of(&error))
    }

    /// The failure as what it means for the pipeline; `what` says what does not go.
    pub fn error(&self, what: &str, failure: Failure) -> Error {
        let Failure { class, text } = failure;
        let place = &self.place;
        match class {
            Class::Passing | Class::TooManyParts => {
                Error::Rewind(format!("ClickHouse at `{place}`: {what}: {text}"))
            }
            Class::Lasting(hint) => {
                Error::Surroundings(format!("ClickHouse at `{place}`: {what}: {text}: {hint}"))
            }
        }
    }
}

impl Failure {
    /// Whether the server asks for fewer and larger inserts.
    pub fn is_too_many_parts(&self) -> bool {
        self.class == Class::TooManyParts
    }

    /// No answer has come.
    fn silent(error: Error) -> Failure {
        Failure { class: Class::Passing, text: error.to_string() }
    }

    fn of(error: &ClientError) -> Failure {
        let text = match error {
            ClientError::BadResponse(text) => text.clone(),
            other => chain(other),
        };
        let class = match error {
            ClientError::BadResponse(text) => code(text).map_or(Class::Passing, class),
            ClientError::InvalidParams(_) | ClientError::Unsupported(_) => {
                Class::Lasting("correct `sink.clickhouse.url`")
            }
            _ if is_of_certificates(&text) => {
                Class::Lasting("check `sink.clickhouse.tls`, and the server's certificate")
            }
            // Whatever was garbled on the way, or does not answer, is asked again.
            _ => Class::Passing,
        };
        Failure { class, text: shown(&text) }
    }
}

/// What a code of ClickHouse means. Those that are not named pass by themselves, or look as if they might: a
/// pipeline that waits loses nothing.
fn class(code: u32) -> Class {
    match code {
        252 => Class::TooManyParts,
        516 | 192 | 193 | 194 => Class::Lasting("correct `sink.clickhouse.user` and `password`"),
        497 => Class::Lasting("grant this user what it may not do"),
        60 => Class::Lasting(
            "make the table, or give `create: true`; `tidegate schema sql` shows the statements",
        ),
        81 => Class::Lasting("make the database, or correct `sink.clickhouse.database`"),
        8 | 10 | 16 | 47 => {
            Class::Lasting("the table has other columns than at the start; add what is missing")
        }
        6 | 27 | 33 | 50 | 53 | 70 | 117 => {
            Class::Lasting("the table's columns have other types than at the start; start again to see which")
        }
        62 | 63 | 73 | 115 => {
            Class::Lasting("this server does not understand the statement; is it ClickHouse?")
        }
        469 => Class::Lasting(
            "a row breaks a constraint of the table; drop the constraint, or reject such rows with a rule",
        ),
        36 | 48 | 80 | 344 => Class::Lasting("change the table or the server's settings"),
        _ => Class::Passing,
    }
}

/// Whether one side does not take the other's certificate, in the words of rustls.
fn is_of_certificates(text: &str) -> bool {
    text.contains("invalid peer certificate")
        || text.split_once("fatal alert: ").is_some_and(|(_, alert)| {
            ["BadCertificate", "Certificate", "UnknownCA", "UnsupportedCertificate"]
                .iter()
                .any(|kind| alert.starts_with(kind))
        })
}

/// The number after `Code:`.
fn code(text: &str) -> Option<u32> {
    let after = text.split_once("Code:")?.1.trim_start();
    let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    after[..end].parse().ok()
}

/// The server's sentence on one line, without its version and control characters.
fn shown(text: &str) -> String {
    let text = text.split(" (version ").next().unwrap_or_default();
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None if line.is_empty() => "it says nothing".into(),
        None => line,
    }
}

/// The error and what it comes from: the crate's own sentence rarely says why.
fn chain(error: &ClientError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// `host:port/database` of a URL that may have more.
fn place(config: &Config) -> String {
    let rest = config.url.split_once("://").map_or(config.url.as_str(), |(_, rest)| rest);
    let address = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let address = address.rsplit_once('@').map_or(address, |(_, address)| address);
    format!("{address}/{}", config.database)
}

/// A value of a line in `TabSeparated`.
fn unescaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => text.push('\t'),
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('0') => text.push('\0'),
            Some('b') => text.push('\u{8}'),
            Some('f') => text.push('\u{c}'),
            Some(other) => text.push(other),
            None => {}
        }
    }
    text
}

fn tls_config(tls: Option<&Tls>, folder: &Path) -> Result<rustls::ClientConfig> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Surroundings(format!("TLS cannot be set up: {error}")))?;
    let mut roots = rustls::RootCertStore::empty();
    match tls.and_then(|tls| tls.ca.as_deref()) {
        Some(ca) => {
            for certificate in certificates(folder, "ca", ca)? {
                roots.add(certificate).map_err(|error| wrong_file("ca", ca, &error))?;
            }
        }
        None => {
            // Some of a system's certificates are always of a kind that cannot be read; the others do.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let builder = builder.with_root_certificates(roots);
    let Some((certificate, key)) = tls.and_then(|tls| Some((tls.certificate.as_ref()?, tls.key.as_ref()?)))
    else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(folder, "certificate", certificate)?;
    let private =
        PrivateKeyDer::from_pem_file(folder.join(key)).map_err(|error| wrong_file("key", key, &error))?;
    builder.with_client_auth_cert(chain, private).map_err(|error| wrong_file("key", key, &error))
}

fn certificates(folder: &Path, setting: &str, path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(folder.join(path))
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|error| wrong_file(setting, path, &error))?;
    if found.is_empty() {
        return Err(wrong_file(setting, path, &"it has no certificate"));
    }
    Ok(found)
}

fn wrong_file(setting: &str, path: &str, why: &dyn std::fmt::Display) -> Error {
    Error::Surroundings(format!(
        "`sink.clickhouse.tls.{setting}` names `{path}`, which cannot be used: {why}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> Failure {
        Failure::of(&ClientError::BadResponse(text.into()))
    }

    #[test]
    fn what_passes_is_tried_again_and_what_lasts_is_said() {
        let class =
            |code: u32| failure(&format!("Code: {code}. DB::Exception: words. (NAME) (version 26.9)")).class;
        assert_eq!(class(252), Class::TooManyParts);
        for passing in [241, 159, 209, 210, 242, 319, 999, 425, 3, 1000, 243, 164, 202, 394] {
            assert_eq!(class(passing), Class::Passing, "{passing}");
        }
        for lasting in [516, 192, 193, 194, 497, 60, 81, 16, 47, 8, 53, 27, 469] {
            assert!(matches!(class(lasting), Class::Lasting(_)), "{lasting}");
        }
        assert_eq!(failure("503 Service Unavailable").class, Class::Passing);
        assert_eq!(failure("<html>502 Bad Gateway</html>").class, Class::Passing);
        assert_eq!(Failure::of(&ClientError::TimedOut).class, Class::Passing);
    }

    #[test]
    fn a_sentence_of_the_server_is_one_short_line() {
        let text = format!(
            "Code: 241. DB::Exception:\n\u{1b}[31mMemory {} (version 26.9 (official))",
            "x".repeat(900)
        );
        let shown = failure(&text).text;
        assert!(shown.starts_with("Code: 241. DB::Exception: [31mMemory xxx"), "{shown}");
        assert!(shown.chars().count() <= SHOWN_CHARS + 1 && !shown.contains("version"), "{shown}");
    }

    #[test]
    fn versions_are_ordered() {
        assert_eq!(Version::parse("18.16.1\n"), Some(Version(18, 16)));
        assert!(Version::parse("26.9.2.1") > Some(Version::TOKENS));
        assert!(Version::parse("9.1") < Some(Version(18, 16)));
        assert_eq!(Version::parse("OK"), None);
    }

    #[test]
    fn a_value_is_unescaped() {
        assert_eq!(unescaped(r"DateTime64(3, \'UTC\')"), "DateTime64(3, 'UTC')");
        assert_eq!(unescaped(r"a\tb\\c\0"), "a\tb\\c\0");
    }
}
