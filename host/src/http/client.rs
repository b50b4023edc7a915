//! How the commands ask a running host.

use std::path::Path;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;

use super::api::{Problem, Readiness};
use super::token;
use crate::error::{Error, Result};
use crate::pipeline_file::{Http, Loaded};

/// How long a host may take to answer: to compile a Python rule on a busy machine, twice.
const ANSWER_TIME: Duration = Duration::from_secs(180);

/// How long an answer may last that does not end: longer than any host lets it.
const FOLLOW_TIME: Duration = Duration::from_secs(3_600);

/// How long a host may take to accept a connection.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// The host that runs a pipeline.
pub struct Host {
    url: String,
    pipeline: String,
    token: Result<String>,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Host {
    /// The host of a pipeline file; `address` is where it answers, when that is not what the file says.
    ///
    /// # Errors
    /// [`Error::Files`] when the pipeline file names no address.
    pub fn of(
        loaded: &Loaded,
        address: Option<&str>,
        token_file: Option<&Path>,
        state: &Path,
    ) -> Result<Host> {
        let name = &loaded.pipeline.name;
        let http = loaded.pipeline.http.as_ref();
        let Some(address) = address.or(http.map(Http::address)) else {
            return Err(Error::Files(format!(
                "`{}` does not say where the pipeline `{name}` answers: give it `http: 127.0.0.1:9101`, and restart it",
                loaded.path.display()
            )));
        };
        let token = match (token_file, http) {
            (Some(file), _) => token::read(file),
            (None, Some(http)) => token::of_client(http, loaded, state),
            (None, None) => Err(Error::Files("`--token-file` names the file of the token".into())),
        };
        let cannot = |error: &dyn std::fmt::Display| {
            Error::Surroundings(format!("nothing can be asked over HTTP: {error}"))
        };
        // Nothing is encrypted here, but a client cannot be made without a provider. It fails when there is one.
        drop(rustls::crypto::ring::default_provider().install_default());
        Ok(Host {
            url: format!("http://{}/api/v1", reachable(address)),
            pipeline: name.clone(),
            token,
            client: Client::builder()
                .connect_timeout(CONNECT_TIME)
                .timeout(ANSWER_TIME)
                .no_proxy()
                .build()
                .map_err(|error| cannot(&error))?,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| cannot(&error))?,
        })
    }

    /// Asks for something.
    ///
    /// # Errors
    /// As for [`Host::change`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send(self.client.request(Method::GET, format!("{}{path}", self.url)))
    }

    /// Asks for something that must come within this time.
    ///
    /// # Errors
    /// As for [`Host::change`].
    pub fn get_within<T: DeserializeOwned>(&self, path: &str, time: Duration) -> Result<T> {
        self.send(self.client.request(Method::GET, format!("{}{path}", self.url)).timeout(time))
    }

    /// Changes something.
    ///
    /// # Errors
    /// [`Error::Surroundings`] when nobody answers, or the token is wrong; [`Error::Files`] when what was sent is wrong;
    /// [`Error::Running`] when it cannot be done now.
    pub fn change<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> Result<T> {
        let token = self.token.clone()?;
        let request = self.client.request(Method::POST, format!("{}{path}", self.url));
        self.send(request.bearer_auth(token).header("content-type", "application/wasm").body(body))
    }

    /// Gives the lines of an answer that does not end, as they come, until `each` says that it has enough or the host ends
    /// the answer. `each` is called with nothing when none has come for a quarter of a second.
    ///
    /// # Errors
    /// As for [`Host::change`], and what `each` says.
    pub fn follow(
        &self,
        path: &str,
        pairs: &[(&str, String)],
        each: &mut dyn FnMut(&[u8]) -> Result<bool>,
    ) -> Result<bool> {
        let token = self.token.clone()?;
        let request = self.client.request(Method::GET, format!("{}{path}", self.url));
        let request = request.query(pairs).bearer_auth(token).timeout(FOLLOW_TIME);
        self.runtime.block_on(async {
            let mut response = self.answer(request).await?;
            let mut begun = Vec::new();
            loop {
                let chunk = match tokio::time::timeout(Duration::from_millis(250), response.chunk()).await {
                    // The host has ended: whoever asks again is told so.
                    Ok(Ok(None) | Err(_)) => return Ok(true),
                    Ok(Ok(Some(chunk))) => chunk,
                    Err(_) if each(&[])? => continue,
                    Err(_) => return Ok(false),
                };
                begun.extend_from_slice(&chunk);
                while let Some(end) = memchr::memchr(b'\n', &begun) {
                    let line: Vec<u8> = begun.drain(..=end).collect();
                    if !each(&line)? {
                        return Ok(false);
                    }
                }
            }
        })
    }

    fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        self.runtime.block_on(async {
            let response = self.answer(request).await?;
            let status = response.status();
            let bytes = response.bytes().await.map_err(|error| self.nobody(error))?;
            serde_json::from_slice(&bytes).map_err(|_| self.strange(status))
        })
    }

    /// An answer that is none of a failure.
    async fn answer(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| self.nobody(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = response.bytes().await.map_err(|error| self.nobody(error))?;
        let Ok(Problem { error }) = serde_json::from_slice(&bytes) else { return Err(self.strange(status)) };
        Err(match status.as_u16() {
            401 | 507 => Error::Surroundings(error),
            400 | 404 | 413 | 422 => Error::Files(error),
            _ => Error::Running(error),
        })
    }

    fn nobody(&self, error: reqwest::Error) -> Error {
        let what = reason(error);
        let Host { url, pipeline, .. } = self;
        Error::Surroundings(format!(
            "the pipeline `{pipeline}` cannot be asked at {url}: {what}; is it running?"
        ))
    }

    fn strange(&self, status: StatusCode) -> Error {
        let Host { url, pipeline, .. } = self;
        Error::Surroundings(format!(
            "what answers at {url} is not the pipeline `{pipeline}`: status {status}"
        ))
    }
}

/// How long a host may take to say whether it is well: what asks does so every few seconds.
const HEALTH_TIME: Duration = Duration::from_secs(5);

/// Asks a host whether it is ready, or only whether it answers.
///
/// # Errors
/// [`Error::Running`] when it is not ready, with why; [`Error::Surroundings`] when nobody answers.
pub fn health(address: &str, is_live: bool) -> Result<()> {
    drop(rustls::crypto::ring::default_provider().install_default());
    let url = format!("http://{}/{}", reachable(address), if is_live { "livez" } else { "readyz" });
    let nobody =
        |error: &dyn std::fmt::Display| Error::Surroundings(format!("{url} does not answer: {error}"));
    let client = Client::builder().timeout(HEALTH_TIME).no_proxy().build().map_err(|error| nobody(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let asked = async {
        let response = client.get(&url).send().await?;
        Ok::<_, reqwest::Error>((response.status(), response.bytes().await?))
    };
    let answer = runtime.map_err(|error| nobody(&error))?.block_on(asked);
    let (status, bytes) = answer.map_err(|error| nobody(&reason(error)))?;
    match serde_json::from_slice::<Readiness>(&bytes) {
        _ if status.is_success() => Ok(()),
        Ok(readiness) => Err(Error::Running(readiness.why.join("; "))),
        Err(_) => Err(nobody(&format!("what is there is no pipeline, and answers {status}"))),
    }
}

/// Why there is no answer, without the address, which the sentence has already.
fn reason(error: reqwest::Error) -> String {
    match error.is_connect() {
        true => "nobody answers there".into(),
        false => error.without_url().to_string(),
    }
}

/// What listens everywhere is asked here.
fn reachable(address: &str) -> String {
    match address.parse::<std::net::SocketAddr>() {
        Ok(parsed) if parsed.ip().is_unspecified() && parsed.is_ipv4() => {
            format!("127.0.0.1:{}", parsed.port())
        }
        Ok(parsed) if parsed.ip().is_unspecified() => format!("[::1]:{}", parsed.port()),
        _ => address.into(),
    }
}
