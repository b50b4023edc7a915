//! What runs beside the lanes of a pipeline: the thread that watches its rules, and the one that answers over HTTP.

use std::sync::{Arc, mpsc};
use std::thread::Scope;

use crate::error::{Error, Result};
use crate::http::Server;
use crate::lane::RunOptions;
use crate::pipeline_file::Loaded;
use crate::rule::{Rules, watch};

/// What runs beside the lanes, before it runs.
pub struct Service {
    server: Option<Server>,
}

/// What runs beside the lanes; dropping it ends it.
pub struct Running {
    _watch: Option<mpsc::Sender<()>>,
    _server: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Service {
    /// Binds the address that the pipeline file names, so that what is wrong with it is found before the first row.
    ///
    /// # Errors
    /// [`Error::Surroundings`] when the address cannot be had, or there is no token.
    pub fn open(loaded: &Loaded, options: &RunOptions) -> Result<Service> {
        let http = loaded.pipeline.http.as_ref();
        Ok(Service { server: http.map(|http| Server::bind(http, loaded, &options.state)).transpose()? })
    }

    /// Starts both threads.
    ///
    /// # Errors
    /// [`Error::Surroundings`] when a thread cannot be started.
    pub fn start<'scope>(
        self,
        scope: &'scope Scope<'scope, '_>,
        rules: &Arc<Rules>,
        loaded: &'scope Loaded,
    ) -> Result<Running> {
        let cannot =
            |error: std::io::Error| Error::Surroundings(format!("a thread cannot be started: {error}"));
        let mut watch = None;
        if !loaded.pipeline.rules.is_empty() {
            let (stop, stopped) = mpsc::channel();
            let rules = Arc::clone(rules);
            std::thread::Builder::new()
                .name("rule-watch".into())
                .spawn_scoped(scope, move || watch::run(&rules, loaded, &stopped))
                .map_err(cannot)?;
            watch = Some(stop);
        }
        let mut server = None;
        if let Some(bound) = self.server {
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let rules = Arc::clone(rules);
            std::thread::Builder::new()
                .name("http".into())
                .spawn_scoped(scope, move || bound.run(rules, stopped))
                .map_err(cannot)?;
            server = Some(stop);
        }
        Ok(Running { _watch: watch, _server: server })
    }
}
