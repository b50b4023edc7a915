//! Waits for a database server without leaving the source's group.
//!
//! The clients of both servers are asynchronous. Each sink drives its own on the thread of its lane, so a lane still
//! does one thing after the other.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use crate::error::{Error, Result};
use crate::shutdown::Shutdown;
use crate::source::Source;

/// Between two signs of life to the source's group.
const STEP: Duration = Duration::from_millis(250);

/// How long a stop waits for an answer.
const LAST_ANSWER: Duration = Duration::from_secs(10);

/// Drives the requests to a server.
pub struct Server {
    runtime: Runtime,
    shutdown: Shutdown,
}

impl Server {
    /// One for a lane.
    pub fn new(shutdown: &Shutdown) -> Result<Server> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::Surroundings(format!("cannot wait for connections: {error}")))?;
        Ok(Server { runtime, shutdown: shutdown.clone() })
    }

    /// The answer to a request, for as long as it takes: `limit` is for a server that has gone without a word. `source`
    /// stays in its group meanwhile.
    ///
    /// # Errors
    /// [`Error::Rewind`] when no answer has come within `limit`, or soon after a stop was requested: nobody knows then
    /// what the server has done.
    pub fn run<T>(
        &self,
        mut source: Option<&mut Source>,
        limit: Duration,
        request: impl Future<Output = T>,
    ) -> Result<T> {
        let start = Instant::now();
        let mut stop = None;
        self.runtime.block_on(async {
            tokio::pin!(request);
            loop {
                if let Ok(answer) = tokio::time::timeout(STEP, request.as_mut()).await {
                    return Ok(answer);
                }
                if let Some(source) = source.as_deref_mut() {
                    source.keep_alive()?;
                }
                if self.shutdown.is_requested()
                    && stop.get_or_insert_with(Instant::now).elapsed() > LAST_ANSWER
                {
                    return Err(Error::Rewind(
                        "the server does not answer, and the stop does not wait for it".into(),
                    ));
                }
                if start.elapsed() > limit {
                    let seconds = limit.as_secs();
                    return Err(Error::Rewind(format!("the server has said nothing for {seconds} s")));
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_waited_for_until_its_limit_or_the_stop() {
        let shutdown = Shutdown::default();
        let server = Server::new(&shutdown).unwrap();
        let later = |ms| async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            7
        };
        assert_eq!(server.run(None, Duration::from_secs(60), later(600)).unwrap(), 7);
        let error = server.run(None, Duration::from_millis(300), later(60_000)).unwrap_err();
        assert!(matches!(error, Error::Rewind(_)), "{error}");
    }
}
