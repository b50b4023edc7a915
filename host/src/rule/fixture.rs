//! Fixtures of a rule, run through its component: `tidegate_guest::fixture` says what a fixture is, and compares.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMillisecondType, UInt32Type};
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{Field, Schema};
use tidegate_guest as guest;
use tidegate_guest::fixture::{Expected, Failure, Fixture, Inputs, check_remembers, refused_settings};
use tidegate_kit::component;

use super::bindings::exports::tidegate::rule::rule as wire;
use super::columns::{self, Outcome};
use super::component::{Component, Description};
use super::instance::Instance;
use crate::batch::Kind;
use crate::pipeline_file::Limits;

/// Runs a fixture and compares.
///
/// # Errors
/// Why it has not passed.
pub fn check(fixture: &Fixture, component: &Component, limits: &Limits) -> Result<(), Failure> {
    fixture.compare(&described(&component.description), &answers(fixture, component, limits)?)
}

/// What comes of a fixture's rows in a component.
///
/// # Errors
/// As [`Fixture::answers`].
pub fn answers(fixture: &Fixture, component: &Component, limits: &Limits) -> Result<Vec<Expected>, Failure> {
    fixture.answers(&described(&component.description), &mut |inputs| decide(inputs, component, limits))
}

/// Runs the fixtures that a component has in itself; says how many there are.
///
/// # Errors
/// The names of those that have not passed, with what is different.
pub fn run_embedded(bytes: &[u8], component: &Component, limits: &Limits) -> Result<usize, String> {
    let fixtures = embedded(bytes)?;
    let mut failed = Vec::new();
    for (name, fixture) in &fixtures {
        if let Err(failure) = check(fixture, component, limits) {
            failed.push(format!("`{name}`:\n{failure}"));
        }
    }
    match failed.is_empty() {
        true => Ok(fixtures.len()),
        false => Err(format!(
            "{} of its {} fixtures do not pass: {}",
            failed.len(),
            fixtures.len(),
            failed.join("\n")
        )),
    }
}

/// The fixtures that a component has in itself, by their names; none when it has no such section.
///
/// # Errors
/// One sentence about the file or the section.
pub fn embedded(bytes: &[u8]) -> Result<BTreeMap<String, Fixture>, String> {
    let fixtures = component::embedded(bytes)?.unwrap_or_default();
    let parse = |(name, fixture)| match serde_json::from_value(fixture) {
        Ok(fixture) => Ok((name, fixture)),
        Err(error) => Err(format!("its fixture `{name}` is wrong: {error}")),
    };
    fixtures.into_iter().map(parse).collect()
}

/// What a rule says about itself, in the words of the crate for rules.
pub fn described(description: &Description) -> guest::Description {
    guest::Description {
        name: description.name.clone(),
        version: description.version.clone(),
        summary: description.summary.clone(),
        reads: (description.reads.iter())
            .map(|column| guest::InputColumn {
                name: column.name.clone(),
                kind: guest_kind(column.kind),
                optional: column.optional,
            })
            .collect(),
        writes: (description.writes.iter())
            .map(|(name, kind)| guest::OutputColumn { name: name.clone(), kind: guest_kind(*kind) })
            .collect(),
        reasons: description.reasons.clone(),
        settings: description.settings.clone(),
    }
}

/// The calls of a fixture, in an instance of its own.
fn decide(inputs: &Inputs, component: &Component, limits: &Limits) -> Result<guest::Outcome, Failure> {
    let failed = |error| Failure::Differs(format!("the rule failed: {error}"));
    let mut instance = Instance::new(component, limits, &inputs.settings).map_err(|error| match error {
        crate::wasm::CallError::Refused(sentence) => refused_settings(sentence),
        error => failed(error),
    })?;
    if let Some(rows) = &inputs.remember {
        check_remembers(instance.remembers())?;
        instance.remember(&lent(rows).map_err(Failure::Wrong)?).map_err(failed)?;
    }
    let rows = lent(&inputs.rows).map_err(Failure::Wrong)?;
    let outcome = instance.transform(component, inputs.now, &rows).map_err(failed)?;
    Ok(taken(outcome))
}

/// A batch as the host has it.
fn lent(batch: &guest::Batch) -> Result<RecordBatch, String> {
    let rows = batch.rows as usize;
    let (mut fields, mut arrays) = (Vec::new(), Vec::new());
    for column in &batch.columns {
        let kind = host_kind(column.kind());
        let values = match column.values.clone() {
            guest::Values::Integers(values) => wire::ValuesResult::Integers(values),
            guest::Values::Floats(values) => wire::ValuesResult::Floats(values),
            guest::Values::Booleans(bits) => wire::ValuesResult::Booleans(bits),
            guest::Values::Timestamps(values) => wire::ValuesResult::Timestamps(values),
            guest::Values::Texts(guest::Texts { dictionary, indexes }) => {
                wire::ValuesResult::Texts(wire::TextsResult { dictionary, indexes })
            }
        };
        let array = columns::array(values, column.present.clone(), kind, rows)
            .map_err(|what| format!("the column `{}` {what}", column.name))?;
        fields.push(Field::new(&column.name, kind.data_type(), true));
        arrays.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Schema::new(fields).into(), arrays, &options)
        .map_err(|error| error.to_string())
}

/// A checked answer in the form of the crate for rules.
fn taken(outcome: Outcome) -> guest::Outcome {
    let rejected: Vec<guest::Reject> = (outcome.rejected.into_iter())
        .map(|(row, reason, detail)| guest::Reject { row, reason, detail })
        .collect();
    let is_rejected = |row: u32| rejected.binary_search_by_key(&row, |reject| reject.row).is_ok();
    let rows = u32::try_from(outcome.kept.len()).unwrap_or(u32::MAX);
    let dropped = (0..rows).filter(|row| !outcome.kept.value(*row as usize) && !is_rejected(*row)).collect();
    let columns = outcome.columns.into_iter().map(|(name, array)| column(name, &array)).collect();
    guest::Outcome { rejected, dropped, columns }
}

fn column(name: String, array: &ArrayRef) -> guest::Column {
    let present = array.nulls().map(|nulls| columns::bits(nulls.inner()).into_owned());
    let values = match Kind::of(array.data_type()) {
        Kind::Integer => guest::Values::Integers(array.as_primitive::<Int64Type>().values().to_vec()),
        Kind::Float => guest::Values::Floats(array.as_primitive::<Float64Type>().values().to_vec()),
        Kind::Boolean => guest::Values::Booleans(columns::bits(array.as_boolean().values()).into_owned()),
        Kind::Timestamp => {
            guest::Values::Timestamps(array.as_primitive::<TimestampMillisecondType>().values().to_vec())
        }
        Kind::Text => {
            let texts = array.as_dictionary::<UInt32Type>();
            let dictionary = texts.values().as_string::<i32>();
            guest::Values::Texts(guest::Texts {
                dictionary: dictionary.iter().map(|text| text.unwrap_or_default().to_owned()).collect(),
                indexes: texts.keys().values().to_vec(),
            })
        }
    };
    guest::Column { name, values, present }
}

fn guest_kind(kind: Kind) -> guest::Kind {
    match kind {
        Kind::Integer => guest::Kind::Integer,
        Kind::Float => guest::Kind::Float,
        Kind::Boolean => guest::Kind::Boolean,
        Kind::Timestamp => guest::Kind::Timestamp,
        Kind::Text => guest::Kind::Text,
    }
}

fn host_kind(kind: guest::Kind) -> Kind {
    match kind {
        guest::Kind::Integer => Kind::Integer,
        guest::Kind::Float => Kind::Float,
        guest::Kind::Boolean => Kind::Boolean,
        guest::Kind::Timestamp => Kind::Timestamp,
        guest::Kind::Text => Kind::Text,
    }
}

#[cfg(test)]
mod tests {
    use tidegate_guest::BatchBuilder;

    use super::*;

    #[test]
    fn a_batch_and_an_answer_are_the_same_on_both_sides() {
        let batch = BatchBuilder::new(10)
            .floats_or_null("close", (0..10).map(|row| (row != 9).then_some(f64::from(row))))
            .integers("trades", 0..10)
            .timestamps("timestamp", 100..110)
            .booleans_or_null("closed", (0..10).map(|row| (row != 3).then_some(row % 2 == 0)))
            .texts_or_null("symbol", (0..10).map(|row| (row != 5).then_some(if row < 5 { "A" } else { "B" })))
            .build();
        let lent = lent(&batch).unwrap();
        assert_eq!(lent.num_rows(), 10);
        let columns = lent.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
        let kept = (0..10).map(|row| row != 2 && row != 7).collect();
        let outcome = taken(Outcome {
            rejected: vec![(7, 0, "x".to_owned())],
            kept,
            dropped: 1,
            columns: columns.into_iter().zip(lent.columns().iter().cloned()).collect(),
        });
        assert_eq!((outcome.dropped, outcome.rejected.len()), (vec![2], 1));
        for (actual, expected) in outcome.columns.iter().zip(&batch.columns) {
            for row in 0..10 {
                let cell = |column: &guest::Column| match column.kind() {
                    guest::Kind::Integer => format!("{:?}", column.integers().unwrap().get(row)),
                    guest::Kind::Float => format!("{:?}", column.floats().unwrap().get(row)),
                    guest::Kind::Boolean => format!("{:?}", column.booleans().unwrap().get(row)),
                    guest::Kind::Timestamp => format!("{:?}", column.timestamps().unwrap().get(row)),
                    guest::Kind::Text => format!("{:?}", column.texts().unwrap().get(row)),
                };
                assert_eq!((&actual.name, cell(actual)), (&expected.name, cell(expected)), "{row}");
            }
        }
    }

    #[test]
    fn what_is_no_component_and_a_section_that_is_wrong_are_said() {
        assert!(embedded(b"text").unwrap_err().starts_with("it is no component: "));
        let section = |json: &[u8]| {
            // An empty component and a custom section: its id, its length, the length of its name, its name.
            let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
            bytes.extend([
                0,
                (1 + component::FIXTURES_SECTION.len() + json.len()) as u8,
                component::FIXTURES_SECTION.len() as u8,
            ]);
            bytes.extend_from_slice(component::FIXTURES_SECTION.as_bytes());
            bytes.extend_from_slice(json);
            bytes
        };
        assert_eq!(embedded(&section(b"{}")[..8]).unwrap().len(), 0);
        assert_eq!(embedded(&section(b"{}")).unwrap().len(), 0);
        let one = embedded(&section(br#"{"a": {"rows": []}}"#)).unwrap();
        assert_eq!(one.keys().collect::<Vec<_>>(), ["a"]);
        let two = [section(br#"{"a": 1}"#), section(br#"{"b": {"rows": []}}"#)[8..].to_vec()].concat();
        assert_eq!(embedded(&two).unwrap().keys().collect::<Vec<_>>(), ["b"]);
        let wrong = embedded(&section(br#"{"a": {"row": []}}"#)).unwrap_err();
        assert!(wrong.starts_with("its fixture `a` is wrong: unknown field `row`"), "{wrong}");
    }
}
