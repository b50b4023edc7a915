//! What runs beside the lanes of a pipeline: the threads that watch its rules and adapters, and the one that answers over
//! HTTP.

use std::sync::{Arc, mpsc};
use std::thread::Scope;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::http::Server;
use crate::lane::RunOptions;
use crate::life::{self, Kind, Lives};
use crate::log::in_span;
use crate::metrics::{Metrics, PipelineStatus};
use crate::pipeline_file::Loaded;
use crate::rule::Rules;
use crate::source::exchange::adapters::Adapters;
use crate::tap::Taps;

/// What the lanes of a pipeline share: what can be replaced while they run, and what they show.
#[derive(Clone)]
pub struct Parts {
    /// Its rules.
    pub rules: Arc<Rules>,
    /// The adapters of its exchanges; none where it reads from elsewhere.
    pub adapters: Arc<Adapters>,
    /// What the lanes show.
    pub metrics: Arc<Metrics>,
    /// Who looks at their rows.
    pub taps: Arc<Taps>,
}

impl Parts {
    /// With the versions that should run.
    ///
    /// # Errors
    /// What is wrong with a component, with the state folder, or with how rules fit the columns and each other.
    pub fn open(loaded: &Loaded, options: &RunOptions) -> Result<Parts> {
        Ok(Parts {
            rules: Rules::open_rules(loaded, options)?.into(),
            adapters: Adapters::open_adapters(loaded, options)?.into(),
            metrics: Metrics::new(&loaded.pipeline).into(),
            taps: Arc::default(),
        })
    }

    /// What the pipeline is at the moment.
    pub fn status(&self) -> PipelineStatus {
        self.metrics.status(self.rules.names(), self.adapters.names())
    }
}

/// What runs beside the lanes, before it runs.
pub struct Service {
    server: Option<Server>,
}

/// What runs beside the lanes; dropping it ends it.
pub struct Running {
    _watches: [Option<mpsc::Sender<()>>; 2],
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

    /// Starts the threads.
    ///
    /// # Errors
    /// [`Error::Surroundings`] when a thread cannot be started.
    pub fn start<'scope>(
        self,
        scope: &'scope Scope<'scope, '_>,
        parts: &Parts,
        loaded: &Loaded,
    ) -> Result<Running> {
        let every = loaded.pipeline.deploy.watch.0;
        let watches = [watch(scope, &parts.rules, every)?, watch(scope, &parts.adapters, every)?];
        let mut server = None;
        if let Some(bound) = self.server {
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let parts = parts.clone();
            std::thread::Builder::new()
                .name("http".into())
                .spawn_scoped(scope, in_span(move || bound.run(parts, stopped)))
                .map_err(cannot)?;
            server = Some(stop);
        }
        Ok(Running { _watches: watches, _server: server })
    }
}

/// Starts the thread that looks after what can be replaced, when there is any.
fn watch<'scope, K: Kind>(
    scope: &'scope Scope<'scope, '_>,
    lives: &Arc<Lives<K>>,
    every: Duration,
) -> Result<Option<mpsc::Sender<()>>> {
    if lives.is_empty() {
        return Ok(None);
    }
    let (stop, stopped) = mpsc::channel();
    let lives = Arc::clone(lives);
    std::thread::Builder::new()
        .name(format!("{}-watch", K::WHAT))
        .spawn_scoped(scope, in_span(move || life::watch::run(&lives, every, &stopped)))
        .map_err(cannot)?;
    Ok(Some(stop))
}

fn cannot(error: std::io::Error) -> Error {
    Error::Surroundings(format!("a thread cannot be started: {error}"))
}
