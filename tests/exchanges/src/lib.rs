//! Exchanges on this machine: it answers over HTTP/1.1 and WebSocket as Binance, Coinbase (Advanced Trade and
//! Exchange), Kraken and Bybit (as far as CCXT asks for candles) do, from a clock of its own, and wrong on request.
//!
//! What it gives:
//!
//! - **A truth.** [`Truth`] is a function of seed, exchange, symbol and minute. Every answer and every feed follows
//!   from it, so a test can compare a database with it: [`Simulator::truth`], and [`Simulator::expected`] with what
//!   the misbehaviour takes away for ever.
//! - **A clock.** [`Clock`] is three numbers; whoever has the same numbers has the same time. Page limits, budgets,
//!   `Retry-After`, `Date` and everything else that is a time follows it; only what is called `wall_ms` does not.
//! - **Shapes.** Paths, parameters, page limits, rows (with the open candle as the newest where the exchange gives
//!   one), error bodies, `X-MBX-USED-WEIGHT-1M`, gzip, budgets (Binance: weight of 6000 a minute, then 429, then 418;
//!   Coinbase: 10 requests a second; Kraken: 1 a second after a burst of 15; Bybit: 600 in 5 seconds).
//! - **Feeds.** Binance `<symbol>@kline_<interval>` at `/ws` and `/stream`; Kraken `ohlc` at `/v2`; Coinbase Advanced
//!   `market_trades`, `candles` (of five minutes) and `heartbeats`; Coinbase Exchange `matches` and `heartbeat`.
//! - **Misbehaviour.** [`Fault`] is what befalls one answer, on request ([`Simulator::next`]) or by chance;
//!   [`Misbehaviour`] is how an exchange behaves all the time, also in its data and feeds.
//! - **Accounts.** [`Simulator::requests`] counts, and [`Simulator::violations`] tells of requests that came while the
//!   exchange had forbidden them.
//!
//! What it is not: an exchange. There are no orders, no order books, no accounts and no TLS; prices are smooth noise;
//! trades are at most some dozens in a minute; `vwap` is the mean of open, high, low and close, and the quote volume
//! follows from it. Facts that no document tells (what Kraken does in a minute without trades; the wording of
//! Coinbase's errors) are the simulator's choice: a client that depends on them is not tested by it.
//!
//! A request `https://HOST/PATH?QUERY` of an exchange goes to `http://127.0.0.1:PORT/<id>/PATH?QUERY`, a feed
//! `wss://HOST/PATH` to `ws://127.0.0.1:PORT/<id>/PATH`, with the ids of [`Exchange::id`].
//!
//! ```
//! use exchanges_simulator::{Config, Exchange, Fault, Simulator};
//!
//! let simulator = Simulator::start(Config::default())?;
//! simulator.next(Exchange::Binance, Fault::ServerError(503));
//! println!("{}/api/v3/time", simulator.url(Exchange::Binance));
//! # Ok::<(), exchanges_simulator::StartError>(())
//! ```

mod answer;
mod clock;
mod exchanges;
mod feed;
mod hash;
mod market;
mod misbehaviour;
mod server;
mod truth;
mod world;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use tokio::sync::oneshot;

pub use clock::Clock;
pub use market::{Exchange, Market};
pub use misbehaviour::{Fault, Misbehaviour};
pub use truth::{Candle, Decimal, FIRST_MS, MINUTE_MS, Truth};
pub use world::{Counts, FirstAnswers, Requests, Violation, Violations};

use world::World;

/// How a simulator is to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// The port on 127.0.0.1; 0 for a free one.
    pub port: u16,
    /// The simulated time.
    pub clock: Clock,
    /// The chance of everything: of what is traded and of what goes wrong.
    pub seed: u64,
    /// What is traded; each exchange lists those whose quote it knows ([`Exchange::lists`]).
    pub markets: Vec<Market>,
    /// How every exchange misbehaves at first.
    pub misbehaviour: Misbehaviour,
    /// Whether the exchanges refuse what is beyond their budgets.
    pub enforce_limits: bool,
    /// A request that comes so soon after the answer that forbids it was on its way already, and is no violation; by the
    /// wall clock.
    pub on_its_way: Duration,
    /// Whether it is kept when each candle was first given: [`Simulator::first_answers`]. It takes memory for each of them.
    pub notes_first_answers: bool,
}

impl Default for Config {
    /// A free port, the real time, the usual markets, budgets, no misbehaviour.
    fn default() -> Self {
        Self {
            port: 0,
            clock: Clock::real(),
            seed: 1,
            markets: Market::usual(),
            misbehaviour: Misbehaviour::default(),
            enforce_limits: true,
            on_its_way: Duration::from_millis(250),
            notes_first_answers: false,
        }
    }
}

/// Why there is no simulator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken, or may not be used.
    #[error("cannot listen on `{address}`: {cause}")]
    Listen {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
    /// The machine gives no thread, or no events.
    #[error("cannot start the simulator's thread: {cause}")]
    Thread {
        /// What the system says.
        #[source]
        cause: io::Error,
    },
}

/// What a complete database has for a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// This candle.
    Candle(Candle),
    /// Nothing was traded and the exchange gives no row for that.
    Quiet,
    /// The exchange has lost the minute for ever.
    Missing,
}

/// A running simulator. It has a thread of its own; dropping it ends the thread and gives the port back.
#[derive(Debug)]
pub struct Simulator {
    address: SocketAddr,
    world: Arc<World>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Simulator {
    /// Starts it; it answers from the moment on at which this returns.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, config.port));
        let thread_error = |cause| StartError::Thread { cause };
        let listen_error = |cause| StartError::Listen { address: wanted, cause };
        let listener = TcpListener::bind(wanted).map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        listener.set_nonblocking(true).map_err(listen_error)?;
        let truth = Truth::new(config.seed, &config.markets);
        let world = World::new(
            config.clock,
            truth,
            config.seed,
            config.misbehaviour,
            config.enforce_limits,
            config.on_its_way,
            config.notes_first_answers,
        );
        let world = Arc::new(world);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(thread_error)?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(listen_error)?
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let router = Router::new().fallback(server::handle).with_state(Arc::clone(&world));
        let thread = std::thread::Builder::new()
            .name("exchanges".to_owned())
            .spawn(move || {
                // Small frames do not wait for more. That a connection may lose this is of no matter.
                let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        // It ends with the listener only, and never by itself.
                        _ = async { axum::serve(listener, router).await } => {}
                    }
                });
            })
            .map_err(thread_error)?;
        Ok(Self { address, world, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base of an exchange's requests, such as `http://127.0.0.1:9400/binance`.
    pub fn url(&self, exchange: Exchange) -> String {
        format!("http://{}/{exchange}", self.address)
    }

    /// The base of an exchange's feeds, such as `ws://127.0.0.1:9400/binance`.
    pub fn feed_url(&self, exchange: Exchange) -> String {
        format!("ws://{}/{exchange}", self.address)
    }

    /// The clock, for whoever is to have the same time.
    pub fn clock(&self) -> Clock {
        self.world.clock
    }

    /// What is traded.
    pub fn truth(&self) -> &Truth {
        &self.world.truth
    }

    /// What a complete database has for a minute, as the exchange misbehaves now.
    pub fn expected(&self, exchange: Exchange, symbol: &str, open_ms: i64) -> Expected {
        let truth = &self.world.truth;
        if self.world.misbehaviour(exchange).maintenance && truth.in_maintenance(exchange, open_ms) {
            return Expected::Missing;
        }
        truth.candle(exchange, symbol, open_ms).map_or(Expected::Quiet, Expected::Candle)
    }

    /// Lets a fault befall the next answer of an exchange; several befall the answers after each other. A fault that
    /// only candles can have waits for a request for candles, and those after it wait too.
    pub fn next(&self, exchange: Exchange, fault: Fault) {
        self.world.next(exchange, fault);
    }

    /// How an exchange misbehaves from now on.
    pub fn set_misbehaviour(&self, exchange: Exchange, misbehaviour: Misbehaviour) {
        self.world.set_misbehaviour(exchange, misbehaviour);
    }

    /// From now on the exchange does not know the symbol (`BTC/USDT`) any more.
    pub fn delist(&self, exchange: Exchange, symbol: &str) {
        self.world.delist(exchange, symbol);
    }

    /// From now on the exchange says a time that is wrong by so many milliseconds; 0 for the right one.
    pub fn set_clock_offset(&self, exchange: Exchange, offset_ms: i64) {
        self.world.set_clock_offset(exchange, offset_ms);
    }

    /// Nothing comes any more over the feeds that are connected now; they stay connected.
    pub fn silence(&self, exchange: Exchange) {
        self.world.silence(exchange);
    }

    /// Ends the feeds that are connected now, without a word.
    pub fn drop_feeds(&self, exchange: Exchange) {
        self.world.drop_feeds(exchange);
    }

    /// What was asked so far.
    pub fn requests(&self) -> Requests {
        self.world.requests()
    }

    /// When the answer with each closed candle was given that was the first with it, by REST and without a fault; nothing
    /// unless [`Config::notes_first_answers`].
    pub fn first_answers(&self, exchange: Exchange) -> FirstAnswers {
        self.world.first_answers(exchange)
    }

    /// Requests that came while a ban or a `Retry-After` of their exchange was in force; not those that came within
    /// [`Config::on_its_way`] after the answer that forbade them.
    pub fn violations(&self) -> Violations {
        self.world.violations()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}
