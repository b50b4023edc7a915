//! Live feeds: closed candles at once, over WebSocket. A feed is a hurry, not a promise: what it does not say, says
//! wrongly or says too late, the polls say.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{Connector, connect_async_tls_with_config};

use super::adapter::{Candle, Instance};
use super::collector::Plan;
use super::http::{Protocol, tls};
use super::pause::Pauses;

/// Symbols of one connection: below the limits of Binance (1,024) and Kraken, and few enough that a lost connection
/// is no event.
const SYMBOLS_PER_CONNECTION: usize = 200;
/// The longest frame: a snapshot of all symbols has some 100 KB.
const FRAME_BYTES_MAX: usize = 4 << 20;
/// How long nothing at all may come: exchanges ping every 20 to 30 s.
const SILENCE: Duration = Duration::from_secs(60);
/// How many timeframes may pass without a closed candle of any symbol: a feed can stand, and say nothing.
const TIMEFRAMES_WITHOUT: i64 = 3;
/// Candles that wait for the thread of the exchange.
const WAITING_MAX: usize = 1024;
/// The pauses between two connections.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What comes of a feed.
pub enum Heard {
    /// A closed candle of a symbol.
    Candle(String, Candle),
    /// The adapter failed, and how.
    Failed(String),
}

/// Begins to listen, in tasks of the current event loop, until the receiver is gone; gives nothing without a feed.
pub fn start(plan: &Plan, symbols: &[Arc<str>]) -> mpsc::Receiver<Heard> {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    if plan.is_live {
        for part in symbols.chunks(SYMBOLS_PER_CONNECTION) {
            drop(tokio::spawn(listen(plan.clone(), part.to_vec(), sender.clone())));
        }
    }
    receiver
}

/// Connects again and again.
async fn listen(plan: Plan, symbols: Vec<Arc<str>>, sender: mpsc::Sender<Heard>) {
    let mut pauses = Pauses::new(PAUSE);
    while !sender.is_closed() {
        let (heard, why) = hear(&plan, &symbols, &sender).await;
        if sender.is_closed() {
            return;
        }
        if heard > 0 {
            pauses = Pauses::new(PAUSE);
        }
        tracing::warn!(exchange = %plan.name, "the live feed has ended: {why}; polls go on, and it is connected again");
        sleep(plan.clock.real(pauses.next_ms())).await;
    }
}

/// One connection: how many closed candles came, and why it ended.
async fn hear(plan: &Plan, symbols: &[Arc<str>], sender: &mpsc::Sender<Heard>) -> (u64, String) {
    let mut heard = 0;
    let why = converse(plan, symbols, sender, &mut heard).await.err();
    (heard, why.unwrap_or_else(|| "the exchange has closed it".into()))
}

async fn converse(
    plan: &Plan,
    symbols: &[Arc<str>],
    sender: &mpsc::Sender<Heard>,
    heard: &mut u64,
) -> Result<(), String> {
    // Where the collector is gone, nobody wants to know.
    let failed = |sentence: &String| drop(sender.try_send(Heard::Failed(sentence.clone())));
    let mut instance: Instance =
        plan.adapter.instance().map_err(|error| error.to_string()).inspect_err(failed)?;
    let symbols: Vec<&str> = symbols.iter().map(|symbol| &**symbol).collect();
    let subscription = instance
        .subscribe(&plan.exchange, &plan.timeframe, &symbols)
        .map_err(|error| format!("the adapter cannot subscribe: {error}"))
        .inspect_err(failed)?;
    let url = plan.reach.resolve(&subscription.url, Protocol::WebSocket).inspect_err(failed)?;
    let request = url.as_str().into_client_request().map_err(|error| error.to_string())?;
    let limits = WebSocketConfig::default()
        .max_frame_size(Some(FRAME_BYTES_MAX))
        .max_message_size(Some(FRAME_BYTES_MAX));
    let connector = Connector::Rustls(Arc::new(tls().map_err(|error| error.to_string())?));
    let connecting = connect_async_tls_with_config(request, Some(limits), false, Some(connector));
    let (mut socket, _) = timeout(plan.timeout, connecting)
        .await
        .map_err(|_| format!("no connection within {} s", plan.timeout.as_secs_f64()))?
        .map_err(|error| format!("no connection: {error}"))?;
    for frame in &subscription.frames {
        socket.send(Message::text(frame.as_str())).await.map_err(|error| error.to_string())?;
    }
    let silence = plan.clock.real(SILENCE.as_millis() as i64).max(Duration::from_secs(1));
    let without =
        plan.clock.real(plan.settings.timeframe_ms * TIMEFRAMES_WITHOUT).max(Duration::from_secs(1));
    let mut last_candle = Instant::now();
    let mut next_ping = Instant::now();
    loop {
        let mut wake = (Instant::now() + silence).min(last_candle + without);
        if let Some((frame, every_ms)) = &subscription.ping {
            if Instant::now() >= next_ping {
                socket.send(Message::text(frame.as_str())).await.map_err(|error| error.to_string())?;
                next_ping = Instant::now() + Duration::from_millis(u64::from(*every_ms));
            }
            wake = wake.min(next_ping);
        }
        let message = match timeout_at(wake, socket.next()).await {
            Ok(Some(message)) => message.map_err(|error| error.to_string())?,
            Ok(None) => return Ok(()),
            Err(_) if subscription.ping.is_some() && Instant::now() >= next_ping => continue,
            Err(_) if last_candle.elapsed() >= without => {
                return Err(format!("no candle was closed in {TIMEFRAMES_WITHOUT} timeframes"));
            }
            Err(_) => return Err(format!("nothing came for {} s", SILENCE.as_secs())),
        };
        match message {
            Message::Text(frame) => {
                let candles = instance
                    .hear(plan.clock.now_ms(), frame.as_str())
                    .map_err(|error| format!("the adapter does not go on: {error}"))
                    .inspect_err(failed)?;
                for (symbol, candle) in candles {
                    *heard += 1;
                    last_candle = Instant::now();
                    if sender.send(Heard::Candle(symbol, candle)).await.is_err() {
                        return Ok(());
                    }
                }
                if last_candle.elapsed() >= without {
                    return Err(format!("no candle was closed in {TIMEFRAMES_WITHOUT} timeframes"));
                }
            }
            // Pings are answered by the library.
            Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_) => {}
            Message::Close(_) => return Ok(()),
        }
    }
}
