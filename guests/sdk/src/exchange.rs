//! Write an exchange adapter: a function from what is wanted and what has been answered so far to the next HTTP
//! requests, or to the candles.
//!
//! An adapter is a type that implements [`Adapter`] and is named in [`export_adapter!`](crate::export_adapter). It has
//! no network and no clock: the host sends its requests, and time is in the [`Task`].
//!
//! Where to look:
//!
//! | you want | read |
//! |---|---|
//! | a first adapter | the README of this crate |
//! | rows of an answer into closed candles | [`Page`], [`Row`], [`Closed`] |
//! | cells that are numbers or decimal texts | [`Number`], [`Integer`], [`Leading`] |
//! | what an answer is that has no candles | [`decode`], [`by_status`], [`throttled`] |
//! | the exchange's own symbols and times | [`base_and_quote`], [`url_part`], [`timeframe_ms`], [`rfc3339`] |
//! | unit tests | [`testing`] |

mod body;
mod cells;
mod page;
mod symbol;
pub mod testing;
mod time;

/// The types of `wit/exchange.wit`, generated. The ones that an adapter needs are re-exported in this module.
#[allow(missing_docs, unsafe_code, clippy::allow_attributes_without_reason, reason = "generated code")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit/exchange.wit",
        world: "tidegate-exchange",
        pub_export_macro: true,
        default_bindings_module: "tidegate_guest::exchange::bindings",
        additional_derives: [PartialEq],
    });
}

pub use bindings::exports::tidegate::exchange::exchange::{
    Answer, Budget, Candles, Description, ExchangeDescription, Failure, Header, LiveCandle, Quiet, Request,
    Step, Subscription, Task, Throttled,
};
pub use body::{by_status, decode, throttled};
pub use cells::{Integer, Leading, Number};
pub use page::{Closed, Page, Row};
pub use symbol::{base_and_quote, url_part};
pub use time::{parse_rfc3339, rfc3339, timeframe_ms};

/// An exchange adapter.
///
/// The value is the state of one live feed; an adapter without feeds is a unit struct. [`Adapter::next`] has no
/// state, because the host may take any instance for it.
pub trait Adapter: Default + 'static {
    /// Lower-case letters, digits, `-` and `_`; at most 64 bytes.
    const NAME: &'static str;
    /// What the adapter does, in one sentence for people.
    const SUMMARY: &'static str;
    /// The adapter's own version, for people: write `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str;

    /// The exchanges that it speaks to; always the same.
    fn exchanges() -> Vec<ExchangeDescription>;

    /// One step towards the candles of a task: at first without answers, then with all answers so far in the order of
    /// the requests. See [`Page`] for making candles of them.
    ///
    /// # Errors
    /// Why there are no candles.
    fn next(task: &Task, answers: &[Answer]) -> Result<Step, Failure>;

    /// How to listen to the closed candles of these symbols. Called once for each connection.
    ///
    /// # Errors
    /// One sentence for people, when there is no feed of them.
    fn subscribe(
        &mut self,
        exchange: &str,
        timeframe: &str,
        symbols: &[String],
    ) -> Result<Subscription, String> {
        let _ = (timeframe, symbols);
        Err(format!("`{exchange}` has no live feed here"))
    }

    /// Takes a text frame of the feed and gives the candles that it closes. `now` is in milliseconds since 1970; use no
    /// other clock.
    ///
    /// # Errors
    /// One sentence for people, when the feed is of no use any more: the host connects again.
    fn hear(&mut self, now: i64, frame: &str) -> Result<Vec<LiveCandle>, String> {
        let _ = (now, frame);
        Err(format!("`{}` has no live feed", Self::NAME))
    }
}

/// What the host is told about an adapter.
pub fn describe<A: Adapter>() -> Description {
    Description {
        name: A::NAME.to_owned(),
        version: A::VERSION.to_owned(),
        summary: A::SUMMARY.to_owned(),
        exchanges: A::exchanges(),
    }
}

/// A request for an `https` URL, without headers and body, that takes so many units of the budget.
pub fn get(url: String, cost: u32) -> Request {
    Request { method: "GET".to_owned(), url, headers: Vec::new(), body: None, cost }
}

/// Makes the crate a component that exports this exchange adapter. Natively it only checks that the type is an
/// [`Adapter`](crate::exchange::Adapter), so that several adapters can be linked into one program.
#[macro_export]
macro_rules! export_adapter {
    ($adapter:ty) => {
        const _: () = {
            const fn is_an_adapter<A: $crate::exchange::Adapter>() {}
            is_an_adapter::<$adapter>();
        };

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use ::std::string::String;
            use ::std::vec::Vec;
            use $crate::exchange::{Adapter, Answer, Description, LiveCandle, Step, Subscription, Task};

            ::std::thread_local! {
                static FEED: ::std::cell::RefCell<$adapter> =
                    ::std::cell::RefCell::new(::std::default::Default::default());
            }

            struct Component;

            impl $crate::exchange::bindings::exports::tidegate::exchange::exchange::Guest for Component {
                fn describe() -> Description {
                    $crate::exchange::describe::<$adapter>()
                }

                fn next(task: Task, answers: Vec<Answer>) -> Step {
                    <$adapter as Adapter>::next(&task, &answers).unwrap_or_else(Step::Failed)
                }

                fn subscribe(
                    exchange: String,
                    timeframe: String,
                    symbols: Vec<String>,
                ) -> Result<Subscription, String> {
                    FEED.with_borrow_mut(|feed| feed.subscribe(&exchange, &timeframe, &symbols))
                }

                fn hear(now: i64, frame: String) -> Result<Vec<LiveCandle>, String> {
                    FEED.with_borrow_mut(|feed| feed.hear(now, &frame))
                }
            }

    $crate::exchange::bindings::export!(Component with_types_in $crate::exchange::bindings);
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Silent;

    impl Adapter for Silent {
        const NAME: &'static str = "silent";
        const SUMMARY: &'static str = "Knows no exchange";
        const VERSION: &'static str = "1";

        fn exchanges() -> Vec<ExchangeDescription> {
            Vec::new()
        }

        fn next(task: &Task, _: &[Answer]) -> Result<Step, Failure> {
            Err(Failure::BadSymbol(task.symbol.clone()))
        }
    }

    crate::export_adapter!(Silent);

    #[test]
    fn an_adapter_without_feeds_says_so() {
        let mut adapter = Silent;
        assert_eq!(adapter.subscribe("nyse", "1m", &[]), Err("`nyse` has no live feed here".to_owned()));
        assert_eq!(adapter.hear(0, "{}"), Err("`silent` has no live feed".to_owned()));
        assert_eq!(describe::<Silent>().name, "silent");
    }
}
