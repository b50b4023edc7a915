use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMillisecondType, UInt32Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use proptest::prelude::*;

use super::*;
use crate::batch::{Partition, Position};
use crate::pipeline_file::{ByteSize, ColumnSet, Scalar};

const CANDLE: &str = r#"{"timestamp":1700000000000,"open":37000.1,"high":37001.5,"low":36999.25,"close":37000.75,"volume":12.5,"source":"binance","symbol":"BTC/USDT","timeframe":"1m"}"#;

fn config(format: Format) -> Decode {
    Decode { format, ..Decode::default() }
}

fn list(format: Format, columns: &[(&str, Kind)]) -> Decode {
    let column = |&(name, kind): &(&str, Kind)| Column { name: name.into(), kind, from: Vec::new() };
    Decode { format, columns: Columns::List(columns.iter().map(column).collect()), ..Decode::default() }
}

fn every_kind(format: Format) -> Decode {
    let kinds = [
        ("i", Kind::Integer),
        ("f", Kind::Float),
        ("b", Kind::Boolean),
        ("t", Kind::Timestamp),
        ("s", Kind::Text),
    ];
    list(format, &kinds)
}

fn raw(lines: &[&[u8]], first_offset: u64) -> RawBatch {
    let mut bytes = Vec::new();
    let mut rows = Vec::new();
    for (offset, line) in (first_offset..).zip(lines) {
        let start = bytes.len();
        bytes.extend_from_slice(line);
        rows.push(RawRow { offset, start, end: bytes.len(), cut_from: None });
    }
    of_payload(Payload::Rows { bytes, rows })
}

fn of_payload(payload: Payload) -> RawBatch {
    RawBatch { partition: Partition { topic: "test".into(), number: 0 }, payload, next: Position::default() }
}

fn decode_with(decoder: &mut Decoder, raw: &RawBatch) -> Decoded {
    let decoded = decoder.decode(raw, &"1".into());
    assert_eq!(
        decoded.batch.rows.len() + decoded.rejects.len() + decoded.tombstones as usize,
        raw.len(),
        "each row is kept, rejected or a tombstone"
    );
    assert_eq!(decoded.batch.columns.num_rows(), decoded.batch.rows.len());
    decoded
}

fn decode(config: &Decode, lines: &[&str]) -> Decoded {
    let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
    decode_with(&mut Decoder::new(config).unwrap(), &raw(&lines, 0))
}

/// The reason and the detail of the only row.
fn fault(config: &Decode, line: &str) -> (String, String) {
    let decoded = decode(config, &[line]);
    assert_eq!(decoded.rejects.len(), 1, "{line} is rejected");
    let reject = &decoded.rejects[0];
    assert_eq!((&*reject.rule, &*reject.version), ("decode", "1"));
    assert!(REASONS.contains(&&*reject.reason));
    (reject.reason.to_string(), reject.detail.clone())
}

fn floats(batch: &RecordBatch, name: &str) -> Vec<Option<f64>> {
    batch[name].as_primitive::<Float64Type>().iter().collect()
}

fn integers(batch: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    batch[name].as_primitive::<Int64Type>().iter().collect()
}

fn times(batch: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    batch[name].as_primitive::<TimestampMillisecondType>().iter().collect()
}

fn texts(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    let column = batch[name].as_dictionary::<UInt32Type>();
    let texts = column.downcast_dict::<arrow_array::StringArray>().unwrap();
    texts.into_iter().map(|text| text.map(String::from)).collect()
}

#[test]
fn a_candle_becomes_columns() {
    let decoded = decode(&config(Format::Json), &[CANDLE]);
    let batch = &decoded.batch.columns;
    assert_eq!(times(batch, "timestamp"), [Some(1_700_000_000_000)]);
    assert_eq!(floats(batch, "low"), [Some(36999.25)]);
    assert_eq!(texts(batch, "symbol"), [Some("BTC/USDT".into())]);
    for field in batch.schema().fields() {
        assert_eq!(*field.data_type(), Kind::of(field.data_type()).data_type());
    }
}

#[test]
fn aliases_any_order_unknown_keys_and_escapes() {
    let config = config(Format::Json);
    let decoded = decode(
        &config,
        &[
            CANDLE,
            r#"{"s":"E\u0054H\/USD","x":{"y":[1,{"z":null}]},"v":"1","t":"2023-11-14T22:13:20Z","o":"1e-8","\u0068":2}"#,
            CANDLE,
        ],
    );
    let batch = &decoded.batch.columns;
    assert_eq!(decoded.batch.rows, [0, 1, 2]);
    assert_eq!(times(batch, "timestamp"), [Some(1_700_000_000_000); 3]);
    assert_eq!(floats(batch, "open"), [Some(37000.1), Some(1e-8), Some(37000.1)]);
    assert_eq!(floats(batch, "high")[1], Some(2.0));
    assert_eq!(floats(batch, "close")[1], None);
    assert_eq!(texts(batch, "symbol")[1], Some("ETH/USD".into()));
}

#[test]
fn missing_values_hold_zero_and_dictionaries_are_in_order_of_appearance() {
    let decoded = decode(
        &every_kind(Format::Json),
        &["{}", r#"{"s":"b","i":7}"#, r#"{"s":null,"i":null}"#, r#"{"s":"a"}"#, r#"{"s":"b"}"#],
    );
    let batch = &decoded.batch.columns;
    let column = batch["s"].as_dictionary::<UInt32Type>();
    assert_eq!(column.keys().values(), &[0, 0, 0, 1, 0]);
    assert_eq!(column.values().as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!(texts(batch, "s"), [None, Some("b".into()), None, Some("a".into()), Some("b".into())]);
    assert_eq!(batch["i"].as_primitive::<Int64Type>().values(), &[0, 7, 0, 0, 0]);
    assert_eq!(integers(batch, "i"), [None, Some(7), None, None, None]);
    // The dictionary of a batch is its own.
    let empty = decode(&every_kind(Format::Json), &["{}"]);
    assert_eq!(empty.batch.columns["s"].as_dictionary::<UInt32Type>().values().len(), 0);
}

#[test]
fn numbers_as_texts_and_whole_floats() {
    let config = every_kind(Format::Json);
    let ok = |line: &str| decode(&config, &[line]).batch.columns;
    for (line, expected) in [
        (r#"{"i":"42"}"#, 42),
        (r#"{"i":-7.0}"#, -7),
        (r#"{"i":1.7e12}"#, 1_700_000_000_000),
        (r#"{"i":"1e3"}"#, 1000),
        (r#"{"i":9223372036854775807}"#, i64::MAX),
        (r#"{"i":-9223372036854775808}"#, i64::MIN),
        (r#"{"i":"-9223372036854775808"}"#, i64::MIN),
    ] {
        assert_eq!(integers(&ok(line), "i"), [Some(expected)], "{line}");
    }
    for (line, expected) in [
        (r#"{"t":1700000000000.0}"#, 1_700_000_000_000),
        (r#"{"t":"1700000000000"}"#, 1_700_000_000_000),
        (r#"{"t":"2023-11-14T23:13:20.5+01:00"}"#, 1_700_000_000_500),
        (r#"{"t":"1969-12-31T23:59:59Z"}"#, -1000),
    ] {
        assert_eq!(times(&ok(line), "t"), [Some(expected)], "{line}");
    }
    for word in ["NaN", "nan", "-NaN"] {
        assert!(floats(&ok(&format!(r#"{{"f":"{word}"}}"#)), "f")[0].unwrap().is_nan());
    }
    for word in ["Infinity", "inf", "+Infinity", "INF"] {
        assert_eq!(floats(&ok(&format!(r#"{{"f":"{word}"}}"#)), "f"), [Some(f64::INFINITY)]);
    }
    assert_eq!(floats(&ok(r#"{"f":"-inf"}"#), "f"), [Some(f64::NEG_INFINITY)]);
}

#[test]
fn what_does_not_fit_its_column() {
    let config = every_kind(Format::Json);
    for line in [
        r#"{"i":1.5}"#,
        r#"{"i":"1.5"}"#,
        r#"{"i":true}"#,
        r#"{"i":""}"#,
        r#"{"i":" 1"}"#,
        r#"{"i":"NaN"}"#,
        r#"{"f":"1 "}"#,
        r#"{"f":""}"#,
        r#"{"f":"0x10"}"#,
        r#"{"f":[1]}"#,
        r#"{"f":{"a":1}}"#,
        r#"{"b":1}"#,
        r#"{"b":"true"}"#,
        r#"{"t":"yesterday"}"#,
        r#"{"t":"2023-11-14"}"#,
        r#"{"t":false}"#,
        r#"{"s":1}"#,
        r#"{"s":false}"#,
    ] {
        assert_eq!(fault(&config, line).0, "wrong_type", "{line}");
    }
    for line in [
        r#"{"i":9223372036854775808}"#,
        r#"{"i":"9223372036854775808"}"#,
        r#"{"i":123456789012345678901234567890}"#,
        r#"{"i":1e300}"#,
        r#"{"i":9007199254740994.0}"#,
        r#"{"f":1e400}"#,
        r#"{"f":-1e400}"#,
        r#"{"f":"1e400"}"#,
        r#"{"t":"99999999999999999999"}"#,
    ] {
        assert_eq!(fault(&config, line).0, "out_of_range", "{line}");
    }
    assert_eq!(fault(&config, r#"{"i":"x"}"#).1, "`i` expects an integer, got the text `x`");
    let long = format!(r#"{{"i":"{}"}}"#, "ä".repeat(100));
    assert_eq!(
        fault(&config, &long).1,
        format!("`i` expects an integer, got the text `{}…`", "ä".repeat(64))
    );
    assert_eq!(fault(&config, r#"{"b":[1,2]}"#).1, "`b` expects a boolean, got an array");
}

#[test]
fn what_is_not_json() {
    let config = config(Format::Json);
    for line in [
        "{",
        "hello",
        "{\"open\":}",
        "{\"open\":1,}",
        "{\"open\":01}",
        "{\"open\":+1}",
        "{\"open\":1.}",
        "{'open':1}",
        "{\"open\":1} x",
        "{\"open\":1}{\"open\":1}",
        "{\"open\" 1}",
        "{\"open\":1 \"high\":2}",
        "{\"source\":\"\\x\"}",
        "{\"source\":\"\\ud800\"}",
        "{\"source\":\"a\tb\"}",
        "{\"source\":\"a",
        "{\"x\":tru}",
        "\u{0}",
    ] {
        assert_eq!(fault(&config, line).0, "malformed", "{line}");
    }
    for word in ["NaN", "Infinity", "-Infinity"] {
        for key in ["open", "other"] {
            let (reason, detail) = fault(&config, &format!("{{\"{key}\":{word},\"close\":1}}"));
            assert_eq!(reason, "malformed");
            assert!(detail.contains("JSON has no NaN"), "{detail}");
        }
    }
    for line in ["[1,2]", "[]", "1", "-1.5", "\"text\"", "null", "true"] {
        assert_eq!(fault(&config, line).0, "not_a_row", "{line}");
    }
    for line in [
        r#"{"open":1,"open":1}"#,
        r#"{"open":null,"o":1}"#,
        r#"{"o":1,"open":null}"#,
        r#"{"open":1,"\u006fpen":1}"#,
    ] {
        assert_eq!(fault(&config, line).0, "duplicate_field", "{line}");
    }
}

#[test]
fn deep_rows_are_rejected_and_the_stack_holds() {
    let config = config(Format::Json);
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for key in ["open", "other"] {
            let row = |depth: usize| {
                let inner = if open == "[" { "" } else { "1" };
                format!("{{\"{key}\":{}{inner}{}}}", open.repeat(depth), close.repeat(depth))
            };
            let reason = |line: &str| {
                let decoded = decode(&config, &[line]);
                decoded.rejects.first().map(|reject| reject.reason.to_string())
            };
            let shallow = if key == "open" { Some("wrong_type".to_string()) } else { None };
            assert_eq!(reason(&row(63)), shallow);
            assert_eq!(reason(&row(64)).as_deref(), Some("too_deep"));
            assert_eq!(reason(&row(100_000)).as_deref(), Some("too_deep"));
            assert_eq!(
                reason(&open.repeat(100_000)).as_deref(),
                Some(if open == "[" { "not_a_row" } else { "too_deep" })
            );
        }
    }
}

#[test]
fn one_bad_row_costs_no_neighbour() {
    let bad: [&[u8]; 6] = [
        b"{\"open\":1,\"source\":\"x\"",
        b"\xff\xfe",
        b"{\"source\":\"\xc3",
        b"\xa9\"}",
        b"[",
        b"{\"symbol\":\"q\",\"open\":{}}",
    ];
    let mut lines: Vec<&[u8]> = Vec::new();
    for line in bad {
        lines.extend([CANDLE.as_bytes(), line]);
    }
    lines.extend([b"".as_slice(), b" \t\r", CANDLE.as_bytes()]);
    let decoded = decode_with(&mut Decoder::new(&config(Format::Json)).unwrap(), &raw(&lines, 5));
    assert_eq!(decoded.batch.rows, [0, 2, 4, 6, 8, 10, 14]);
    assert_eq!(decoded.tombstones, 2);
    assert_eq!(floats(&decoded.batch.columns, "open"), [Some(37000.1); 7]);
    assert_eq!(texts(&decoded.batch.columns, "symbol"), vec![Some("BTC/USDT".to_string()); 7]);
    let reasons: Vec<&str> = decoded.rejects.iter().map(|reject| &*reject.reason).collect();
    assert_eq!(
        reasons,
        ["malformed", "invalid_utf8", "invalid_utf8", "invalid_utf8", "not_a_row", "wrong_type"]
    );
}

#[test]
fn the_byte_order_mark_belongs_to_the_first_row_only() {
    let marked = format!("\u{feff}{CANDLE}");
    let decoded = decode(&config(Format::Json), &[&marked, &marked]);
    assert_eq!(decoded.batch.rows, [0]);
    assert_eq!(&*decoded.rejects[0].reason, "malformed");
}

#[test]
fn a_cut_row_is_too_long() {
    let mut batch = raw(&[b"{\"open\":1", CANDLE.as_bytes()], 0);
    if let Payload::Rows { rows, .. } = &mut batch.payload {
        rows[0].cut_from = Some(5_000_000);
    }
    let decoded = decode_with(&mut Decoder::new(&config(Format::Json)).unwrap(), &batch);
    assert_eq!(&*decoded.rejects[0].reason, "too_long");
    assert_eq!(decoded.batch.rows, [1]);
}

#[test]
fn constants_fill_what_a_row_lacks() {
    let constants = BTreeMap::from([
        ("source".to_string(), Scalar::Text("kraken".into())),
        ("volume".to_string(), Scalar::Integer(3)),
    ]);
    let with = |constants| Decode { constants, ..config(Format::Ccxt) };
    let decoded = decode(
        &with(constants),
        &[
            "[1,2,3,4,5]",
            "[1,2,3,4,5,null]",
            "[1,2,3,4,5,6]",
            r#"{"0":1,"source":"x"}"#,
            r#"{"5":true}"#,
            "[]",
        ],
    );
    let batch = &decoded.batch.columns;
    assert_eq!(decoded.batch.rows, [0, 1, 2, 3, 5]);
    assert_eq!(floats(batch, "volume"), [Some(3.0), Some(3.0), Some(6.0), Some(3.0), Some(3.0)]);
    let kraken = || Some("kraken".to_string());
    assert_eq!(texts(batch, "source"), [kraken(), kraken(), kraken(), Some("x".into()), kraken()]);

    for (name, value) in
        [("volume", Scalar::Text("x".into())), ("source", Scalar::Integer(1)), ("sorce", Scalar::Integer(1))]
    {
        let error = Decoder::new(&with(BTreeMap::from([(name.to_string(), value)]))).err().unwrap();
        assert!(matches!(&error, Error::Files(text) if text.contains("decode.constants")), "{error}");
    }
}

#[test]
fn ccxt_arrays_and_numeric_keys() {
    let config = config(Format::Ccxt);
    let decoded = decode(
        &config,
        &[
            "[1700000000000,1,2,0.5,1.5,10]",
            r#"["1700000000000","1","2","0.5","1.5","10"]"#,
            r#"{"0":1700000000000,"1":1,"2":2,"3":0.5,"4":1.5,"5":10,"symbol":"BTC/USDT"}"#,
            "[1,2,3,4,5,6,7]",
            r#"{"0":1,"timestamp":1}"#,
            "[1,2",
            "7",
        ],
    );
    assert_eq!(decoded.batch.rows, [0, 1, 2]);
    assert_eq!(times(&decoded.batch.columns, "timestamp"), [Some(1_700_000_000_000); 3]);
    assert_eq!(floats(&decoded.batch.columns, "volume"), [Some(10.0); 3]);
    assert_eq!(texts(&decoded.batch.columns, "symbol"), [None, None, Some("BTC/USDT".into())]);
    let reasons: Vec<&str> = decoded.rejects.iter().map(|reject| &*reject.reason).collect();
    assert_eq!(reasons, ["malformed", "duplicate_field", "malformed", "not_a_row"]);
}

#[test]
fn csv_rows_under_their_header() {
    let config = every_kind(Format::Csv);
    let lines = [
        "\u{feff}s,i,other,f,t,b",
        "\"a,\"\"b\"\"\",1,x,1.5,2023-11-14T22:13:20Z,true",
        ",,,,,",
        "a,1,x,NaN,1,false",
        "a,1,x",
        "a,1,x,1,1,true,9",
        "\"a,1,x,1,1,true",
        "a,1,x,1,1,yes",
        "a,b,x,1,1,true",
        "",
        "c,2,x,2,2,true",
    ];
    let decoded = decode(&config, &lines);
    let batch = &decoded.batch.columns;
    assert_eq!(decoded.batch.rows, [1, 2, 3, 10]);
    assert_eq!(decoded.tombstones, 2);
    assert_eq!(texts(batch, "s"), [Some("a,\"b\"".into()), None, Some("a".into()), Some("c".into())]);
    assert_eq!(integers(batch, "i"), [Some(1), None, Some(1), Some(2)]);
    assert_eq!(times(batch, "t")[0], Some(1_700_000_000_000));
    let reasons: Vec<&str> = decoded.rejects.iter().map(|reject| &*reject.reason).collect();
    assert_eq!(reasons, ["malformed", "malformed", "malformed", "wrong_type", "wrong_type"]);
}

#[test]
fn csv_headers_that_mean_nothing_and_headers_of_a_later_part() {
    let config = every_kind(Format::Csv);
    let later = raw(&[b"5,1.5"], 1000);
    let mut decoder = Decoder::new(&config).unwrap();
    assert_eq!(&*decode_with(&mut decoder, &later).rejects[0].reason, "malformed");
    decoder.set_header(b"\xef\xbb\xbfi,f");
    assert_eq!(integers(&decode_with(&mut decoder, &later).batch.columns, "i"), [Some(5)]);
    for (header, reason) in [("i,i", "duplicate_field"), ("x,y", "malformed"), ("\"i,f", "malformed")] {
        let decoded = decode(&config, &[header, "1,2"]);
        assert_eq!((decoded.tombstones, &*decoded.rejects[0].reason), (1, reason), "{header}");
    }
}

fn columns(fields: Vec<(&str, ArrayRef)>) -> RawBatch {
    let columns = RecordBatch::try_from_iter_with_nullable(
        fields.into_iter().map(|(name, column)| (name, column, true)),
    )
    .unwrap();
    of_payload(Payload::Columns { columns, first_offset: 0 })
}

#[test]
fn parquet_columns_of_every_type() {
    use arrow_array as a;
    let mut decoder = Decoder::new(&every_kind(Format::Parquet)).unwrap();
    let raw = columns(vec![
        ("i", Arc::new(a::Float32Array::from(vec![Some(1.0), Some(1.5), None, Some(4.0)]))),
        ("f", Arc::new(a::StringViewArray::from(vec![Some("1.5"), Some("2"), Some("NaN"), Some("x")]))),
        ("b", Arc::new(a::BooleanArray::from(vec![Some(true), Some(false), None, Some(true)]))),
        ("t", Arc::new(a::TimestampMicrosecondArray::from(vec![1_700_000_000_000_000; 4]))),
        ("s", Arc::new(a::LargeStringArray::from(vec![Some("x"), Some("y"), None, Some("x")]))),
        ("other", Arc::new(a::Int8Array::from(vec![1, 2, 3, 4]))),
    ]);
    let decoded = decode_with(&mut decoder, &raw);
    let batch = &decoded.batch.columns;
    assert_eq!(decoded.batch.rows, [0, 2]);
    assert_eq!(integers(batch, "i"), [Some(1), None]);
    assert_eq!(times(batch, "t"), [Some(1_700_000_000_000); 2]);
    assert_eq!(texts(batch, "s"), [Some("x".into()), None]);
    assert!(floats(batch, "f")[1].unwrap().is_nan());
    let rejects: Vec<(u32, &str)> =
        decoded.rejects.iter().map(|reject| (reject.row, &*reject.reason)).collect();
    assert_eq!(rejects, [(1, "wrong_type"), (3, "wrong_type")]);

    let times_of: [(ArrayRef, Option<i64>); 7] = [
        (Arc::new(a::TimestampSecondArray::from(vec![1_700_000_000])), Some(1_700_000_000_000)),
        (Arc::new(a::TimestampSecondArray::from(vec![i64::MAX])), None),
        (
            Arc::new(a::TimestampNanosecondArray::from(vec![1_700_000_000_000_000_000])),
            Some(1_700_000_000_000),
        ),
        (Arc::new(a::TimestampMillisecondArray::from(vec![5]).with_timezone("+02:00")), Some(5)),
        (Arc::new(a::Date32Array::from(vec![1])), Some(86_400_000)),
        (Arc::new(a::Int32Array::from(vec![5])), Some(5)),
        (Arc::new(a::UInt64Array::from(vec![u64::MAX])), None),
    ];
    for (column, expected) in times_of {
        let decoded = decode_with(&mut decoder, &columns(vec![("t", column.clone())]));
        match expected {
            Some(time) => assert_eq!(times(&decoded.batch.columns, "t"), [Some(time)], "{column:?}"),
            None => assert_eq!(&*decoded.rejects[0].reason, "out_of_range", "{column:?}"),
        }
    }
    let list: ArrayRef = Arc::new(a::ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1)])]));
    assert_eq!(&*decode_with(&mut decoder, &columns(vec![("i", list)])).rejects[0].reason, "wrong_type");
    let dictionary: a::DictionaryArray<arrow_array::types::Int8Type> =
        vec!["p", "q", "p"].into_iter().collect();
    let decoded = decode_with(&mut decoder, &columns(vec![("s", Arc::new(dictionary))]));
    assert_eq!(texts(&decoded.batch.columns, "s"), [Some("p".into()), Some("q".into()), Some("p".into())]);
}

#[test]
fn column_lists_that_are_wrong() {
    let column = |name: &str, from: &[&str]| Column {
        name: name.into(),
        kind: Kind::Float,
        from: from.iter().map(|&name| name.into()).collect(),
    };
    for columns in [
        vec![],
        vec![column("a", &[]), column("a", &[])],
        vec![column("a", &["x"]), column("b", &["x"])],
        vec![column("A", &[])],
        vec![column("1a", &[])],
        (0..65).map(|number| column(&format!("c{number}"), &[])).collect(),
    ] {
        let config = Decode { columns: Columns::List(columns), ..Decode::default() };
        assert!(matches!(Decoder::new(&config), Err(Error::Files(_))));
    }
    assert_eq!(Decoder::new(&Decode::default()).unwrap().schema().fields().len(), 9);
    assert!(matches!(Decode::default().columns, Columns::Named(ColumnSet::Ohlcv)));
    assert_eq!(Decode::default().row, ByteSize(1 << 20));
}

fn json_text(value: &serde_json::Value) -> String {
    serde_json::to_string(value).unwrap()
}

/// A candle whose bytes have been changed at random.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let change = (0..CANDLE.len(), any::<u8>(), 0..4_u8);
    proptest::collection::vec(change, 0..4).prop_map(|changes| {
        let mut line = CANDLE.as_bytes().to_vec();
        for (at, byte, what) in changes {
            let at = at.min(line.len().saturating_sub(1));
            match what {
                0 => line[at] = byte,
                1 => line.insert(at, byte),
                2 => line.truncate(at.max(1)),
                _ => line[at] = b"{}[]\",:0-.eE\\"[usize::from(byte) % 13],
            }
        }
        line
    })
}

proptest! {
    #[test]
    fn any_bytes_are_counted_and_never_panic(
        lines in proptest::collection::vec(
            prop_oneof![proptest::collection::vec(any::<u8>(), 0..60), mutated()], 0..8),
        first_offset in 0..2_u64,
    ) {
        let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        for format in [Format::Json, Format::Ccxt, Format::Csv] {
            let mut decoder = Decoder::new(&config(format)).unwrap();
            let together = decode_with(&mut decoder, &raw(&lines, first_offset));
            // Neighbours and earlier rows have no influence.
            let mut alone = 0;
            for (offset, line) in (first_offset..).zip(&lines) {
                alone += decode_with(&mut decoder, &raw(&[line], offset)).rejects.len();
            }
            prop_assert!(format == Format::Csv || alone == together.rejects.len());
        }
    }

    #[test]
    fn the_reader_agrees_with_another_about_what_is_json(line in mutated()) {
        let decoded = decode_with(&mut Decoder::new(&config(Format::Json)).unwrap(), &raw(&[&line], 7));
        let valid = serde_json::from_slice::<serde_json::Value>(&line).is_ok();
        if let Some(reject) = decoded.rejects.first() {
            prop_assert!(!valid || !["malformed", "invalid_utf8"].contains(&&*reject.reason), "{:?}", reject);
        } else {
            prop_assert!(valid || decoded.tombstones == 1);
        }
    }

    #[test]
    fn valid_rows_have_their_values(
        rows in proptest::collection::vec((any::<i64>(), any::<f64>(), any::<bool>(), ".{0,12}", any::<[bool; 4]>()), 1..20),
    ) {
        let values: Vec<serde_json::Value> = rows.iter().map(|(i, f, b, s, present)| {
            let mut row = serde_json::Map::new();
            let pairs = [("i", (*i).into()), ("f", (*f).into()), ("b", (*b).into()), ("s", s.as_str().into())];
            for ((name, value), present) in pairs.into_iter().zip(present) {
                if *present {
                    row.insert(name.into(), value);
                }
            }
            row.into()
        }).collect();
        let lines: Vec<String> = values.iter().map(json_text).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let decoded = decode(&every_kind(Format::Json), &lines);
        prop_assert_eq!(decoded.batch.rows.len(), lines.len());
        let batch = &decoded.batch.columns;
        for (row, value) in values.iter().enumerate() {
            prop_assert_eq!(integers(batch, "i")[row], value.get("i").and_then(serde_json::Value::as_i64));
            let float = value.get("f").and_then(serde_json::Value::as_f64);
            prop_assert_eq!(floats(batch, "f")[row], float);
            let text = value.get("s").and_then(serde_json::Value::as_str);
            let texts = texts(batch, "s");
            prop_assert_eq!(texts[row].as_deref(), text);
        }
    }

    #[test]
    fn floats_are_rounded_as_rust_rounds_them(text in "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,25})?([eE][-+]?[0-9]{1,3})?") {
        let expected: f64 = text.parse().unwrap();
        let row = format!("{{\"f\":{text}}}");
        let decoded = decode(&every_kind(Format::Json), &[&row]);
        if expected.is_finite() {
            prop_assert_eq!(floats(&decoded.batch.columns, "f")[0].unwrap(), expected, "{}", text);
        } else {
            prop_assert_eq!(&*decoded.rejects[0].reason, "out_of_range");
        }
    }
}

#[test]
fn a_csv_row_with_quotes_where_none_belong_is_malformed() {
    let config = list(
        Format::Csv,
        &[("i", Kind::Integer), ("j", Kind::Integer), ("s", Kind::Text), ("b", Kind::Boolean)],
    );
    let lines = [
        "i,j,s,b",
        "1,2,\"a,b\",true",
        "1,2,\"a",
        "4,5,b\",true",
        "1,2,\"a\"b,true",
        "1,2,a\"\"b,true",
        "1,2,\"a\"\"b\",true",
        "1,2,\"\",true",
        "1,2, \"a\",true",
        "1,2,\"a\" ,true",
        "1,2,\"\"\"\",true",
        "1,2,x,\"true\"",
        "1,2,\"a\"\",true",
        "1,2,\"\"\"a\",true",
    ];
    let decoded = decode(&config, &lines);
    assert_eq!(decoded.batch.rows, [1, 6, 7, 10, 11, 13]);
    let expected =
        ["a,b", "a\"b", "", "\"", "x", "\"a"].map(|text| (!text.is_empty()).then(|| text.to_owned()));
    assert_eq!(texts(&decoded.batch.columns, "s"), expected);
    assert!(decoded.rejects.iter().all(|reject| &*reject.reason == "malformed"));
    // A header with such a quote names nothing.
    assert_eq!(decode(&config, &["i,j\"x", "1,2"]).rejects.len(), 1);
}

#[test]
fn a_float_beyond_the_exact_integers_is_no_integer() {
    for format in [Format::Json, Format::Csv] {
        let line = |number: &str| match format {
            Format::Csv => vec!["i".to_owned(), number.to_owned()],
            _ => vec![format!("{{\"i\":{number}}}")],
        };
        let outcome = |number: &str| {
            let lines = line(number);
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let decoded = decode(&every_kind(format), &lines);
            match decoded.rejects.first() {
                Some(reject) => Err(reject.reason.to_string()),
                None => Ok(integers(&decoded.batch.columns, "i")[0].unwrap()),
            }
        };
        let last = 9_007_199_254_740_991_i64;
        for (number, expected) in
            [("9007199254740991.0", last), ("-9007199254740991.0", -last), ("9007199254740993", last + 2)]
        {
            assert_eq!(outcome(number), Ok(expected), "{number}");
        }
        for number in ["9007199254740992.0", "9007199254740993.0", "-9007199254740993.0", "9.1e15"] {
            assert_eq!(outcome(number), Err("out_of_range".into()), "{number}");
        }
    }
}

#[test]
fn a_parquet_row_whose_texts_are_too_long_costs_itself() {
    use arrow_array as a;
    let config =
        Decode { row: ByteSize(8), ..list(Format::Parquet, &[("s", Kind::Text), ("f", Kind::Float)]) };
    let texts_of = |texts: Vec<&str>| -> ArrayRef { Arc::new(a::StringArray::from(texts)) };
    let raw = columns(vec![
        ("s", texts_of(vec!["12345678", "123456789", "1234567", "short"])),
        ("f", texts_of(vec!["", "1", "12", "123"])),
    ]);
    let decoded = decode_with(&mut Decoder::new(&config).unwrap(), &raw);
    let rejects: Vec<(u32, &str)> =
        decoded.rejects.iter().map(|reject| (reject.row, &*reject.reason)).collect();
    assert_eq!(rejects, [(0, "wrong_type"), (1, "too_long"), (2, "too_long")]);
    assert_eq!(texts(&decoded.batch.columns, "s"), [Some("short".into())]);
}
