//! How to reach the server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::failure::Answer;
use crate::error::{Error, Result};
use crate::pipeline_file::{self, Tls};

/// A server that takes no connection within this time is asked again.
const CONNECT: Duration = Duration::from_secs(5);

/// A server that has gone without a word is noticed after a minute: what has been sent stays unacknowledged for so
/// long, or three questions of ten seconds each after half a minute of silence have no answer.
const GONE: Duration = Duration::from_secs(60);
const SILENT: Duration = Duration::from_secs(30);
const QUESTION: Duration = Duration::from_secs(10);
const QUESTIONS: u32 = 3;

/// What holds for the connection, unless the user, the database or `url` says something else: a lock that is not given
/// within ten seconds is asked for again later, so that whoever holds it is named in the log meanwhile; a transaction
/// of a host that has stopped in the middle of it ends after a minute, and with it its locks; a host that has gone is
/// noticed by the server as a server is by the host.
const SETTINGS: &str = "SELECT set_config(name, wanted, false) FROM (VALUES \
    ('lock_timeout', '10s'), ('idle_in_transaction_session_timeout', '60s'), ('tcp_keepalives_idle', '30'), \
    ('tcp_keepalives_interval', '10'), ('tcp_keepalives_count', '3')) AS own (name, wanted) \
    JOIN pg_settings USING (name) WHERE source = 'default'";

/// Where the server is, and how to speak with it.
#[derive(Clone)]
pub struct Server {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    /// For messages: `host:port/database`.
    pub address: String,
}

/// A connection, which lives as long as this value.
pub struct Connected {
    /// Takes requests.
    pub client: Client,
    task: JoinHandle<Answer<()>>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// What the pipeline file says. Paths are relative to `folder`.
    ///
    /// # Errors
    /// [`Error::Files`] when the URL or a file of certificates cannot be read.
    pub fn new(sink: &pipeline_file::TimescaleSink, folder: &Path) -> Result<Server> {
        // Whoever is asked to encrypt also looks at the server's certificate and its name, so these are one.
        let url = sink.url.reveal().replace("sslmode=verify-full", "sslmode=require");
        let mut config: Config = url.parse().map_err(|_| {
            Error::Files(
                "`sink.timescale.url` cannot be read: it must be `postgres://user@host:5432/database`, with `%40` for \
                 an `@` in a name, and with no options but those of the crate `tokio-postgres`"
                    .into(),
            )
        })?;
        if config.get_hosts().is_empty() {
            return Err(Error::Files("`sink.timescale.url` names no host".into()));
        }
        if let Some(password) = &sink.password {
            config.password(password.reveal());
        }
        if config.get_application_name().is_none() {
            config.application_name("tidegate");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        config.tcp_user_timeout(GONE).keepalives_idle(SILENT).keepalives_interval(QUESTION);
        config.keepalives_retries(QUESTIONS);
        let wants_tls = sink.tls.is_some() || config.get_ssl_mode() == SslMode::Require;
        let tls = match wants_tls {
            true => {
                config.ssl_mode(SslMode::Require);
                let settings = tls(sink.tls.as_ref().unwrap_or(&Tls::default()), folder)?;
                Some(MakeRustlsConnect::new(settings))
            }
            false => None,
        };
        Ok(Server { address: address(&config), config, tls })
    }

    /// A new connection with its settings. It is served by the runtime that this is called on.
    pub async fn connect(&self) -> Answer<Connected> {
        let connected = match &self.tls {
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                Connected { client, task: tokio::spawn(connection) }
            }
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                Connected { client, task: tokio::spawn(connection) }
            }
        };
        connected.client.batch_execute(SETTINGS).await?;
        Ok(connected)
    }
}

/// Where the server is, without user and password.
fn address(config: &Config) -> String {
    let ports = config.get_ports();
    let host = |(index, host): (usize, &Host)| {
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(path) => format!("{}:{port}", path.display()),
        }
    };
    let hosts: Vec<String> = config.get_hosts().iter().enumerate().map(host).collect();
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("{}/{database}", hosts.join(","))
}

/// TLS by rustls.
fn tls(tls: &Tls, folder: &Path) -> Result<ClientConfig> {
    let mut authorities = RootCertStore::empty();
    match &tls.ca {
        Some(path) => {
            for certificate in certificates(path, "ca", folder)? {
                authorities.add(certificate).map_err(|error| wrong_file("ca", path, &error))?;
            }
        }
        None => {
            // One that cannot be read is not trusted; without any, the handshake says so.
            authorities.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Surroundings(format!("cannot prepare TLS: {error}")))?
        .with_root_certificates(authorities);
    let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate, "certificate", folder)?;
    let private_key =
        PrivateKeyDer::from_pem_file(folder.join(key)).map_err(|error| wrong_file("key", key, &error))?;
    builder
        .with_client_auth_cert(chain, private_key)
        .map_err(|error| wrong_file("certificate", certificate, &error))
}

fn certificates(path: &str, key: &str, folder: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(folder.join(path))
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    let certificates = certificates.map_err(|error| wrong_file(key, path, &error))?;
    if certificates.is_empty() {
        return Err(wrong_file(key, path, &"there is no certificate in it"));
    }
    Ok(certificates)
}

fn wrong_file(key: &str, path: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Files(format!("`sink.timescale.tls.{key}` (`{path}`) cannot be used: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Result<Server> {
        let sink = serde_json::from_value(serde_json::json!({ "url": url, "password": "other secret" }));
        Server::new(&sink.unwrap(), Path::new("."))
    }

    #[test]
    fn an_address_has_neither_user_nor_password() {
        for (url, address) in [
            ("postgres://user:secret@db.example/market", "db.example:5432/market"),
            ("postgresql://user@[::1]:6000/market", "::1:6000/market"),
            ("postgres://user@one:1,two:2/market?target_session_attrs=read-write", "one:1,two:2/market"),
            ("postgres://user:secret@db.example", "db.example:5432/user"),
            ("postgres://user@/market?host=/run/postgresql", "/run/postgresql:5432/market"),
        ] {
            assert_eq!(server(url).unwrap().address, address);
        }
    }

    #[test]
    fn a_url_that_cannot_be_read_is_not_shown() {
        for url in
            ["postgres://user:secret@host:port/db", "postgres://u:secret@h/db?sslkey=x", "postgres:///db"]
        {
            let error = server(url).err().expect(url);
            assert_eq!(error.code(), 2);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn tls_is_by_the_url_or_by_the_settings() {
        assert!(server("postgres://u@h/d").unwrap().tls.is_none());
        assert!(server("postgres://u@h/d?sslmode=require").unwrap().tls.is_some());
        assert!(server("postgres://u@h/d?sslmode=verify-full").unwrap().tls.is_some());
        let sink = |tls: serde_json::Value| {
            let sink = serde_json::json!({ "url": "postgres://u@h/d", "tls": tls });
            Server::new(&serde_json::from_value(sink).unwrap(), Path::new("/nowhere"))
        };
        assert!(sink(serde_json::json!({})).unwrap().tls.is_some());
        let error = sink(serde_json::json!({ "ca": "ca.pem" })).err().unwrap();
        assert!(
            error.to_string().starts_with("`sink.timescale.tls.ca` (`ca.pem`) cannot be used"),
            "{error}"
        );
    }
}
