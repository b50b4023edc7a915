//! A pipeline over HTTP. Only this module knows axum.
//!
//! - `api`: what can be asked and changed
//! - `token`: who may change something
//! - `client`: how the commands ask a running host

mod api;
pub mod client;
mod token;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, oneshot};

use crate::error::{Error, Result};
use crate::pipeline_file::{Http, Loaded};
use crate::service::Parts;
pub use api::{Change, document};
pub use token::Token;

/// Connections at once: a person, their tools, and what watches a service have a handful. Others wait to be accepted.
const CONNECTIONS_MAX: usize = 64;

/// How long a client may take to send the head of a request, the wait for the next one on its connection included.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// How long a connection lasts: the longest upload and the longest compilation, twice.
const CONNECTION_TIME: Duration = Duration::from_secs(300);

/// The largest head of a request.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// How often accepting is tried again when the process has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound address.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    pipeline: String,
    token: Token,
}

impl Server {
    /// Binds the address of a pipeline.
    ///
    /// # Errors
    /// [`Error::Surroundings`] when it cannot be had, or when there is no token.
    pub fn bind(http: &Http, loaded: &Loaded, state: &Path) -> Result<Server> {
        let pipeline = &loaded.pipeline.name;
        let cannot = |what: &str| {
            Error::Surroundings(format!(
                "the pipeline `{pipeline}` cannot answer at `{}`: {what}; `http` of the pipeline file names the address",
                http.address()
            ))
        };
        let address: SocketAddr = http.address().parse().map_err(|_| cannot("it is no address"))?;
        let token = Token::open(http, loaded, state)?;
        let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => cannot("another process, or another pipeline, has the port"),
            _ => cannot(&error.to_string()),
        })?;
        listener.set_nonblocking(true).map_err(|error| cannot(&error.to_string()))?;
        Ok(Server { listener, address, pipeline: pipeline.clone(), token })
    }

    /// Answers until `stopped`.
    pub fn run(self, parts: Parts, stopped: oneshot::Receiver<()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!("nothing is answered over HTTP: {error}"),
        };
        tracing::info!("answers at http://{}/api/v1", self.address);
        runtime.block_on(async {
            let Server { listener, pipeline, token, .. } = self;
            let router = api::router(pipeline, parts, token);
            tokio::select! {
                _ = stopped => {}
                result = accept(listener, router) => if let Err(error) = result {
                    tracing::error!("nothing more is answered over HTTP: {error}");
                }
            }
        });
        // What is being compiled is not waited for.
        runtime.shutdown_background();
    }
}

async fn accept(listener: TcpListener, router: Router) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return Ok(()) };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("a connection is not accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            // A client that goes away, or takes too long, is its own trouble.
            drop(tokio::time::timeout(CONNECTION_TIME, connection).await);
            drop(permit);
        });
    }
}
