//! What a pipeline file says about replacing its rules, and about who may ask for it.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

use super::Span;

/// How a rule is replaced while data flow.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Deploy {
    /// How often the files of the components are looked at: one that has changed is deployed. `0s` is never.
    pub watch: Span,
    /// How long a new version is on probation: when it fails on a row, or refuses many more rows than the version before
    /// it, that one comes back by itself. `0s` is no probation.
    pub probation: Span,
    /// How much larger the share of rows may be that a version on probation rejects or drops: with 0.25 and a version
    /// before it that refused 2 rows in 100, it may refuse 27. 0 to 1.
    pub refused: f64,
}

impl Default for Deploy {
    fn default() -> Deploy {
        Deploy {
            // A second is what a person notices, and looking costs microseconds.
            watch: Span(Duration::from_secs(1)),
            // Feeds of one-minute candles show five batches in it.
            probation: Span(Duration::from_secs(300)),
            // A rule that is right seldom refuses one row in four more than before; one that is wrong mostly all.
            refused: 0.25,
        }
    }
}

/// Where a pipeline answers over HTTP: an address, or the address with the file of a token.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum Http {
    /// The address: `127.0.0.1:9101`.
    Address(String),
    /// The address, and who may change something.
    Listen(Listen),
}

/// An address, and who may change something there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// The address: `127.0.0.1:9101`.
    pub address: String,
    /// A file with the token that whoever changes something must show, relative to the pipeline file. An address that
    /// others can reach needs one; elsewhere, and where this is empty, a token is made in the state folder.
    pub token_file: Option<String>,
}

impl Http {
    /// The address.
    pub fn address(&self) -> &str {
        match self {
            Http::Address(address) => address,
            Http::Listen(listen) => &listen.address,
        }
    }

    /// The file of the token, as the pipeline file names it.
    pub fn token_file(&self) -> Option<&str> {
        match self {
            Http::Address(_) => None,
            Http::Listen(listen) => listen.token_file.as_deref().filter(|path| !path.is_empty()),
        }
    }
}

/// Serde's own untagged enums say only that nothing fits; this says what is expected.
impl<'de> Deserialize<'de> for Http {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Http, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Http;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address such as `127.0.0.1:9101`, or `address` and `token_file`")
            }

            fn visit_str<E: de::Error>(self, address: &str) -> Result<Http, E> {
                Ok(Http::Address(address.into()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Http, A::Error> {
                Listen::deserialize(de::value::MapAccessDeserializer::new(map)).map(Http::Listen)
            }
        }

        deserializer.deserialize_any(Either)
    }
}
