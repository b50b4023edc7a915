//! How the commands ask a running host.

use std::path::Path;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder};
use serde::de::DeserializeOwned;

use super::api::Problem;
use super::token;
use crate::error::{Error, Result};
use crate::pipeline_file::{Http, Loaded};

/// How long a host may take to answer: to compile a Python rule on a busy machine, twice.
const ANSWER_TIME: Duration = Duration::from_secs(180);

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

    fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let Host { url, pipeline, .. } = self;
        self.runtime.block_on(async {
            let nobody = |error: reqwest::Error| {
                let what = if error.is_connect() {
                    "nobody answers there".into()
                } else {
                    error.without_url().to_string()
                };
                Error::Surroundings(format!(
                    "the pipeline `{pipeline}` cannot be asked at {url}: {what}; is it running?"
                ))
            };
            let response = request.send().await.map_err(nobody)?;
            let status = response.status();
            let bytes = response.bytes().await.map_err(nobody)?;
            let strange = || {
                Error::Surroundings(format!(
                    "what answers at {url} is not the pipeline `{pipeline}`: status {status}"
                ))
            };
            if status.is_success() {
                return serde_json::from_slice(&bytes).map_err(|_| strange());
            }
            let Ok(Problem { error }) = serde_json::from_slice(&bytes) else { return Err(strange()) };
            Err(match status.as_u16() {
                401 | 507 => Error::Surroundings(error),
                400 | 404 | 413 | 422 => Error::Files(error),
                _ => Error::Running(error),
            })
        })
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
