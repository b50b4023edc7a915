//! HTTP to the hosts that an adapter has declared and the pipeline file allows, and to no others.

use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect;
use reqwest::{Method, Url};

use super::bindings::exports::tidegate::exchange::exchange as wire;

/// The largest body, unpacked: Binance's list of markets has 11 MB.
const BODY_BYTES_MAX: usize = 32 << 20;
/// The most redirects of a request.
const REDIRECTS_MAX: usize = 4;
/// How long a connection is kept that nobody uses: longer than the minute between two polls.
const IDLE: Duration = Duration::from_secs(90);
/// How long the TCP and TLS handshakes may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Which hosts may be reached, and how.
#[derive(Debug, Clone)]
pub struct Reach {
    hosts: Vec<String>,
    base: Option<Url>,
}

/// What a scheme is called where a base is given, and where none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `https`, or as the base says.
    Http,
    /// `wss`, or `ws` where the base is `http`.
    WebSocket,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names in lower case; values that are not text are left out.
    pub headers: Vec<(String, String)>,
    /// The body, unpacked; bytes that are not UTF-8 are replaced.
    pub body: String,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The adapter wants what it may not have.
    #[error("the adapter {0}")]
    NotAllowed(String),
    /// There is no connection, or no answer in time.
    #[error("no answer from `{host}`: {why}")]
    Unreachable {
        /// Who was asked.
        host: String,
        /// Why not.
        why: String,
    },
    /// The answer is cut, or not packed as it says.
    #[error("the answer of `{host}` is broken: {why}")]
    Broken {
        /// Who was asked.
        host: String,
        /// How.
        why: String,
    },
    /// The answer is too large.
    #[error("the answer of `{host}` has more than {BODY_BYTES_MAX} bytes")]
    TooLarge {
        /// Who was asked.
        host: String,
    },
}

impl Reach {
    /// The hosts, each with its port where that is not the usual one; all of them behind `base` when it is given.
    pub fn new(hosts: Vec<String>, base: Option<Url>) -> Reach {
        Reach { hosts, base }
    }

    /// Where a request or a feed of the adapter goes.
    ///
    /// # Errors
    /// Why it may not go anywhere, as the end of a sentence.
    pub fn resolve(&self, url: &str, protocol: Protocol) -> Result<Url, String> {
        let wanted = match protocol {
            Protocol::Http => "https",
            Protocol::WebSocket => "wss",
        };
        let shown: String = url.chars().take(200).collect();
        let parsed =
            Url::parse(url).map_err(|error| format!("asks for `{shown}`, which is no URL: {error}"))?;
        if parsed.scheme() != wanted {
            return Err(format!("asks for `{shown}`, but only `{wanted}` is allowed"));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(format!("asks for a URL with a user at `{}`", host_of(&parsed)));
        }
        if !self.hosts.contains(&host_of(&parsed)) {
            return Err(format!(
                "asks for `{shown}`, but it has declared, and the pipeline file allows, only `{}`",
                self.hosts.join("`, `")
            ));
        }
        let Some(base) = &self.base else { return Ok(parsed) };
        let mut there = base.clone();
        there.set_path(&format!("{}{}", base.path().trim_end_matches('/'), parsed.path()));
        there.set_query(parsed.query());
        if protocol == Protocol::WebSocket {
            let scheme = if base.scheme() == "https" { "wss" } else { "ws" };
            there
                .set_scheme(scheme)
                .map_err(|()| format!("asks for `{shown}`, which has no place behind `{base}`"))?;
        }
        Ok(there)
    }

    /// Whether a redirect may be followed.
    fn allows(&self, url: &Url) -> bool {
        match &self.base {
            Some(base) => url.scheme() == base.scheme() && host_of(url) == host_of(base),
            None => url.scheme() == "https" && self.hosts.contains(&host_of(url)),
        }
    }
}

/// The host, with the port where it is not the scheme's own.
fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
    url.port().map_or(host.clone(), |port| format!("{host}:{port}"))
}

/// The certificates that this machine trusts.
pub fn tls() -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    // Some of a system's certificates are always of a kind that cannot be read; the others do.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// A client of one exchange.
pub struct Http {
    client: reqwest::Client,
    reach: Reach,
}

impl Http {
    /// A client that waits so long for an answer.
    pub fn new(reach: Reach, timeout: Duration) -> Result<Http, String> {
        let of_redirects = reach.clone();
        let redirects = redirect::Policy::custom(move |attempt| {
            if attempt.previous().len() > REDIRECTS_MAX {
                return attempt.error("it is redirected too often");
            }
            if of_redirects.allows(attempt.url()) {
                return attempt.follow();
            }
            let host = host_of(attempt.url());
            attempt.error(format!("it is redirected to `{host}`, which is not allowed"))
        });
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls().map_err(|error| format!("TLS cannot be set up: {error}"))?)
            .redirect(redirects)
            .timeout(timeout)
            .connect_timeout(CONNECT.min(timeout))
            .pool_idle_timeout(IDLE)
            .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            .gzip(true)
            .build()
            .map_err(|error| format!("no HTTP client: {}", causes(&error)))?;
        Ok(Http { client, reach })
    }

    /// Sends a request of the adapter.
    pub async fn send(&self, request: &wire::Request) -> Result<Response, Trouble> {
        let url = self.reach.resolve(&request.url, Protocol::Http).map_err(Trouble::NotAllowed)?;
        let method = match request.method.as_str() {
            "GET" => Method::GET,
            "POST" => Method::POST,
            other => return Err(Trouble::NotAllowed(format!("wants the method `{}`", other.escape_debug()))),
        };
        let host = host_of(&url);
        let mut builder = self.client.request(method, url);
        for wire::HeaderResult { name, value } in &request.headers {
            // What connections, bodies and packing need is the client's.
            let is_own = [
                "host",
                "content-length",
                "connection",
                "accept-encoding",
                "user-agent",
                "transfer-encoding",
            ];
            if !is_own.contains(&name.to_ascii_lowercase().as_str()) {
                builder = builder.header(name, value);
            }
        }
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        let mut response = builder.send().await.map_err(|error| {
            let (host, why) = (host.clone(), causes(&error));
            if error.is_builder() {
                return Trouble::NotAllowed(format!("makes a request that cannot be sent: {why}"));
            }
            if error.is_redirect() {
                return Trouble::Broken { host, why };
            }
            Trouble::Unreachable { host, why }
        })?;
        let text = |(name, value): (&reqwest::header::HeaderName, &reqwest::header::HeaderValue)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        };
        let headers = response.headers().iter().filter_map(text).collect();
        let status = response.status().as_u16();
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > BODY_BYTES_MAX => {
                    return Err(Trouble::TooLarge { host });
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return Err(Trouble::Broken { host, why: causes(&error) }),
            }
        }
        let body = String::from_utf8(body)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        Ok(Response { status, headers, body })
    }
}

impl Response {
    /// The first header of a name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// An error and what it came from, without the URL, which can be long.
fn causes(error: &dyn std::error::Error) -> String {
    let mut sentence = String::new();
    let mut next = error.source();
    while let Some(cause) = next {
        if !sentence.is_empty() {
            sentence += ": ";
        }
        sentence += &cause.to_string();
        next = cause.source();
    }
    if sentence.is_empty() { error.to_string() } else { sentence }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(base: Option<&str>) -> Reach {
        Reach::new(vec!["api.example.com".into()], base.map(|base| Url::parse(base).unwrap()))
    }

    #[test]
    fn only_declared_hosts_are_reached() {
        let reach = reach(None);
        assert!(reach.resolve("https://api.example.com/a?b=c", Protocol::Http).is_ok());
        assert!(reach.resolve("wss://API.example.com/a", Protocol::WebSocket).is_ok());
        for (url, words) in [
            ("https://api.example.org/a", "only `api.example.com`"),
            ("https://api.example.com:8443/a", "only `api.example.com`"),
            ("https://api.example.com@evil.example/a", "a user"),
            ("http://api.example.com/a", "only `https`"),
            ("file:///etc/passwd", "only `https`"),
            ("/a", "no URL"),
        ] {
            let sentence = reach.resolve(url, Protocol::Http).unwrap_err();
            assert!(sentence.contains(words), "{sentence}");
        }
        assert!(!reach.allows(&Url::parse("http://api.example.com/").unwrap()));
        assert!(!reach.allows(&Url::parse("https://169.254.169.254/").unwrap()));
    }

    #[test]
    fn a_mirror_has_its_own_place_in_front_of_the_path() {
        let reach = reach(Some("http://127.0.0.1:9400/binance/"));
        let url = reach.resolve("https://api.example.com/v3/klines?symbol=A", Protocol::Http).unwrap();
        assert_eq!(url.as_str(), "http://127.0.0.1:9400/binance/v3/klines?symbol=A");
        let url = reach.resolve("wss://api.example.com/ws", Protocol::WebSocket).unwrap();
        assert_eq!(url.as_str(), "ws://127.0.0.1:9400/binance/ws");
        assert!(
            reach.resolve("https://elsewhere.example/", Protocol::Http).is_err(),
            "declared all the same"
        );
        assert!(reach.allows(&Url::parse("http://127.0.0.1:9400/other").unwrap()));
        assert!(!reach.allows(&Url::parse("http://127.0.0.1:9401/binance").unwrap()));
    }
}
