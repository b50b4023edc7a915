//! A candidate of an adapter: it gets the tasks and the answers that the version that decides has got, and asks for nothing.

use std::sync::Arc;
use std::time::Instant;

use super::adapter::{Candle, Instance, Step};
use super::adapters::Candidate;
use super::bindings::exports::tidegate::exchange::exchange::Request;
use super::fetch::{Asking, Fetched, Wanted, answers, headers};
use crate::life::Sample;
use crate::wasm::CallError;

/// A candidate in the thread of an exchange.
pub struct Trial {
    candidate: Arc<Candidate>,
    instance: Option<Instance>,
}

/// What a candidate makes of the answers of a task.
enum Made {
    Candles(Vec<Candle>),
    /// Something else than candles, where the current version asked for something or had them.
    Other(&'static str, String),
}

impl Trial {
    /// One that nothing is known of.
    pub fn new(candidate: Arc<Candidate>) -> Trial {
        Trial { candidate, instance: None }
    }

    /// Whether it is of this candidate.
    pub fn is_of(&self, candidate: &Arc<Candidate>) -> bool {
        Arc::ptr_eq(&self.candidate, candidate)
    }

    /// Shows the candidate a task and its answers, and notes what it makes of them otherwise.
    pub fn compare(&mut self, asking: &Asking, wanted: &Wanted<'_>, fetched: &Fetched) {
        if self.candidate.comparison().failed.is_some() {
            return;
        }
        let start = Instant::now();
        let made = self.make(asking, wanted, fetched);
        let rows = fetched.candles.len() as u64;
        self.candidate.version.tally.add_calls(rows, start.elapsed(), u64::from(made.is_err()));
        match made {
            Ok(made) => self.note(wanted, &fetched.candles, made),
            Err(error) => self.candidate.fail(format!("fails with {}: {error}", wanted.symbol)),
        }
    }

    fn make(&mut self, asking: &Asking, wanted: &Wanted<'_>, fetched: &Fetched) -> Result<Made, CallError> {
        let way = &fetched.way;
        let task = asking.task(wanted, way.now_ms);
        let headers = headers(&way.responses);
        let answers = answers(&way.responses, &headers);
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => self.candidate.version.component.instance()?,
        };
        let mut answered = 0;
        let mut made = None;
        for asked in &way.asked {
            match instance.next(&task, &answers[..answered])? {
                Step::Requests(requests) if requests == *asked => answered += asked.len(),
                step => {
                    made = Some(other(step, asked));
                    break;
                }
            }
        }
        let made = match made {
            Some(made) => made,
            None => match instance.next(&task, &answers)? {
                Step::Candles { candles, .. } => Made::Candles(candles),
                step => other(step, &[]),
            },
        };
        self.instance = Some(instance);
        Ok(made)
    }

    fn note(&self, wanted: &Wanted<'_>, current: &[Candle], made: Made) {
        let sample = |open_ms: i64, current: String, candidate: String| Sample {
            topic: wanted.symbol.to_owned(),
            partition: 0,
            offset: u64::try_from(open_ms).unwrap_or(0),
            current,
            candidate,
        };
        self.candidate.note(|found| {
            found.rows += current.len() as u64;
            let theirs = match made {
                Made::Candles(theirs) => theirs,
                Made::Other(what, sentence) => {
                    let candles = format!("{} candles", current.len());
                    found.differ(format!("candles -> {what}"), || {
                        sample(wanted.range.since_ms, candles, sentence)
                    });
                    return;
                }
            };
            let of = |candles: &[Candle], open_ms: i64| {
                candles
                    .binary_search_by_key(&open_ms, |candle| candle.open_ms)
                    .ok()
                    .map(|index| candles[index])
            };
            for candle in current {
                let (kinds, text) = match of(&theirs, candle.open_ms) {
                    Some(other) if other == *candle => {
                        found.same += 1;
                        continue;
                    }
                    Some(other) => ("candle -> another", format!("{other:?}")),
                    None => ("candle -> none", "none".to_owned()),
                };
                found.differ(kinds.to_owned(), || sample(candle.open_ms, format!("{candle:?}"), text));
            }
            for candle in theirs.iter().filter(|candle| of(current, candle.open_ms).is_none()) {
                let text = format!("{candle:?}");
                found.differ("none -> candle".to_owned(), || sample(candle.open_ms, "none".to_owned(), text));
            }
        });
    }
}

fn other(step: Step, asked: &[Request]) -> Made {
    let urls = |requests: &[Request]| {
        let urls: Vec<&str> = requests.iter().map(|request| request.url.as_str()).collect();
        urls.join(" ")
    };
    match step {
        Step::Requests(requests) if asked.is_empty() => {
            Made::Other("more requests", format!("asks for {}", urls(&requests)))
        }
        Step::Requests(requests) => {
            Made::Other("other requests", format!("asks for {} instead of {}", urls(&requests), urls(asked)))
        }
        Step::Candles { candles, .. } => {
            Made::Other("candles at once", format!("{} candles without {}", candles.len(), urls(asked)))
        }
        Step::Failed(failure) => Made::Other("failure", super::adapter::sentence(&failure)),
    }
}
