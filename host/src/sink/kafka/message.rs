//! What a message is made of: the key of a row, and what a dead letter has beside its bytes.

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use rdkafka::message::{Header, Headers, OwnedHeaders};
use sha2::{Digest, Sha256};

use super::Config;
use super::topics::AROUND_A_MESSAGE_BYTES;
use crate::batch::hex;
use crate::dead_letter::{DeadLetter, header};
use crate::error::{Error, Result};
use crate::sink::json::append_integer;
use crate::sink::values::{Value, Values};

/// The indexes of the columns that make a key.
pub fn key_columns(config: &Config, schema: &SchemaRef) -> Result<Vec<usize>> {
    const SERIES: [&str; 3] = ["source", "symbol", "timeframe"];
    match &config.key {
        None => Ok(SERIES.iter().filter_map(|name| schema.index_of(name).ok()).collect()),
        Some(names) => {
            let index = |name: &String| {
                schema.index_of(name).map_err(|_| {
                    let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                    Error::Files(format!(
                        "`sink.kafka.key` has `{name}`, which is no column of this pipeline; the columns are `{}`",
                        known.join("`, `")
                    ))
                })
            };
            names.iter().map(index).collect()
        }
    }
}

/// The columns of a message's key.
pub struct Key<'a> {
    columns: Vec<Values<'a>>,
}

impl<'a> Key<'a> {
    /// The columns with these indexes.
    pub fn new(columns: &[usize], batch: &'a RecordBatch) -> Key<'a> {
        Key { columns: columns.iter().map(|&index| Values::of(batch.column(index))).collect() }
    }

    /// The key of a row, in the place of what `key` holds; says `false` when the row lacks a part of it.
    pub fn append(&self, row: usize, key: &mut Vec<u8>) -> bool {
        key.clear();
        for (index, column) in self.columns.iter().enumerate() {
            if index > 0 {
                key.push(b'|');
            }
            match column.at(row) {
                Value::Null => {
                    key.clear();
                    return false;
                }
                Value::Text(text) => key.extend_from_slice(text.as_bytes()),
                Value::Integer(number) | Value::Timestamp(number) => append_integer(number, key),
                Value::Float(number) => key.extend_from_slice(number.to_string().as_bytes()),
                Value::Boolean(value) => key.extend_from_slice(value.to_string().as_bytes()),
            }
        }
        !self.columns.is_empty()
    }
}

/// The header of rows that versions of rules have decided; none without rules.
pub fn versions(text: &str) -> Option<OwnedHeaders> {
    let header = Header { key: header::RULE_VERSIONS, value: Some(text) };
    (!text.is_empty()).then(|| OwnedHeaders::new_with_capacity(1).insert(header))
}

/// Bytes and headers of a dead letter, for a topic whose messages weigh so much at most. Of what does not fit, length
/// and hash are kept.
pub fn dead_letter<'a>(dead_letter: &'a DeadLetter<'_>, limit_bytes: usize) -> (&'a [u8], OwnedHeaders) {
    let payload = &*dead_letter.payload;
    let mut headers = headers(dead_letter);
    let room = limit_bytes.saturating_sub(AROUND_A_MESSAGE_BYTES + header_bytes(&headers));
    let is_whole = dead_letter.whole_bytes == payload.len() as u64;
    let is_cut = payload.len() > room;
    if is_cut || !is_whole {
        let bytes = dead_letter.whole_bytes.to_string();
        headers = headers.insert(Header { key: header::PAYLOAD_BYTES, value: Some(&bytes) });
    }
    if !is_cut {
        return (payload, headers);
    }
    if is_whole {
        let sha256 = hex(&Sha256::digest(payload));
        headers = headers.insert(Header { key: header::PAYLOAD_SHA256, value: Some(&sha256) });
    }
    (&payload[..room.saturating_sub(AROUND_A_MESSAGE_BYTES)], headers)
}

/// What stands beside the bytes of every dead letter.
fn headers(dead_letter: &DeadLetter<'_>) -> OwnedHeaders {
    let reject = &dead_letter.reject;
    let numbers = [
        (header::SOURCE_PARTITION, dead_letter.partition.to_string()),
        (header::SOURCE_OFFSET, dead_letter.offset.to_string()),
        (header::REJECTED_AT, dead_letter.rejected_at_ms.to_string()),
    ];
    let texts = [
        (header::PIPELINE, dead_letter.pipeline),
        (header::RULE, &reject.rule),
        (header::RULE_VERSION, &reject.version),
        (header::REASON, &reject.reason),
        (header::DETAIL, &reject.detail),
        (header::SOURCE_TOPIC, dead_letter.topic),
    ];
    let all = texts.into_iter().chain(numbers.iter().map(|(key, value)| (*key, value.as_str())));
    all.fold(OwnedHeaders::new_with_capacity(12), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(value) })
    })
}

/// What headers weigh.
pub fn header_bytes(headers: &OwnedHeaders) -> usize {
    headers.iter().map(|header| header.key.len() + header.value.map_or(0, <[u8]>::len) + 10).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::test_rows::{candles, schema};

    fn key_of(columns: &[&str], row: usize) -> Option<String> {
        let batch = candles(&[(1, 2.5, Some(7)), (2, 2.5, None)]);
        let index = |name: &&str| schema().index_of(name).unwrap();
        let columns = columns.iter().map(|name| Values::of(batch.column(index(name)))).collect();
        let mut key = b"before".to_vec();
        Key { columns }.append(row, &mut key).then(|| String::from_utf8(key).unwrap())
    }

    #[test]
    fn a_key_has_the_values_of_its_columns_or_there_is_none() {
        assert_eq!(key_of(&["source", "symbol", "timeframe"], 0).unwrap(), "binance|BTC/USDT|1m");
        assert_eq!(key_of(&["timestamp", "close", "closed"], 0).unwrap(), "60000|2.5|true");
        assert_eq!(key_of(&["symbol", "revision"], 0).unwrap(), "BTC/USDT|7");
        assert_eq!(key_of(&["symbol", "revision"], 1), None);
        assert_eq!(key_of(&[], 0), None);
    }

    #[test]
    fn headers_weigh_what_they_hold() {
        let headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: "abc", value: Some("defgh") })
            .insert(Header::<&str> { key: "ij", value: None });
        assert_eq!(header_bytes(&headers), 8 + 10 + 2 + 10);
    }
}
