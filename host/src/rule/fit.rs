//! Whether the rules of a pipeline fit its columns and each other.

use std::collections::HashMap;

use super::Description;
use crate::batch::Kind;
use crate::pipeline_file::finding::{Finding, hint};
use crate::pipeline_file::{Loaded, Sink, meaning};

/// What does not fit between the columns of a pipeline and its rules, which describe themselves in the
/// pipeline's order; `None` for one that could not be loaded.
pub fn rules(loaded: &Loaded, descriptions: &[Option<&Description>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut columns: HashMap<&str, Kind> =
        meaning::columns(&loaded.pipeline.decode.columns).into_iter().collect();
    // What a rule that could not be loaded writes is unknown, so nothing is missing after it.
    let mut all_known = true;
    for (index, description) in descriptions.iter().enumerate() {
        let Some(description) = description else {
            all_known = false;
            continue;
        };
        let index_text = index.to_string();
        let rule = &loaded.pipeline.rules[index].name;
        let mut add = |message: String| {
            findings.push(loaded.finding(&["rules", &index_text, "name"], &message));
        };
        for column in &description.reads {
            match columns.get(column.name.as_str()) {
                Some(kind) if *kind != column.kind => add(format!(
                    "the rule `{rule}` reads the column `{}` as {}, but it is {}",
                    column.name,
                    column.kind.name(),
                    kind.name()
                )),
                None if !column.optional && all_known => add(format!(
                    "the rule `{rule}` reads the column `{}`, which neither `decode` nor an earlier rule gives; {}",
                    column.name,
                    hint(&column.name, &sorted(&columns))
                )),
                _ => {}
            }
        }
        for (name, kind) in &description.writes {
            if let Some(earlier) = columns.insert(name, *kind).filter(|earlier| earlier != kind) {
                add(format!(
                    "the rule `{rule}` writes the column `{name}` as {}, but it is {}",
                    kind.name(),
                    earlier.name()
                ));
            }
            // A rule that remembers is fed from the sink, where it would find the later content.
            let remembering =
                descriptions[..index].iter().zip(&loaded.pipeline.rules).find(|(earlier, _)| {
                    earlier.as_ref().is_some_and(|earlier| {
                        earlier.remembers && earlier.reads.iter().any(|column| column.name == *name)
                    })
                });
            if let Some((_, earlier)) = remembering {
                add(format!(
                    "the rule `{rule}` writes the column `{name}`, which the rule `{}` before it reads and remembers; put `{rule}` first",
                    earlier.name
                ));
            }
        }
    }
    if all_known {
        findings.extend(key(loaded, &columns));
    }
    findings
}

/// The columns of the sink's key that do not exist.
fn key(loaded: &Loaded, columns: &HashMap<&str, Kind>) -> Vec<Finding> {
    let (sink, key) = match &loaded.pipeline.sink {
        Sink::Sqlite(config) => ("sqlite", &config.key),
        Sink::Timescale(config) => ("timescale", &config.key),
        Sink::Clickhouse(config) => ("clickhouse", &config.key),
        _ => return Vec::new(),
    };
    let missing = |name: &&String| !columns.contains_key(name.as_str());
    let finding = |(index, name): (usize, &String)| {
        let message = format!("the key's column `{name}` does not exist; {}", hint(name, &sorted(columns)));
        loaded.finding(&["sink", sink, "key", &index.to_string()], &message)
    };
    let names = key.iter().flatten().enumerate();
    names.filter(|(_, name)| missing(name)).map(finding).collect()
}

fn sorted<'a>(columns: &HashMap<&'a str, Kind>) -> Vec<&'a str> {
    let mut names: Vec<&str> = columns.keys().copied().collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline_file;
    use crate::rule::InputColumn;

    fn loaded(rules: &[&str], key: &str) -> Loaded {
        let folder = tempfile::tempdir().unwrap();
        let rules: String =
            rules.iter().map(|name| format!("  - {{ name: {name}, component: c }}\n")).collect();
        let text = format!(
            "name: a\nsource: {{ file: {{ path: a }} }}\nsink: {{ sqlite: {{ path: b{key} }} }}\nrules:\n{rules}"
        );
        std::fs::write(folder.path().join("p.yaml"), text).unwrap();
        pipeline_file::read(&folder.path().join("p.yaml")).unwrap()
    }

    fn rule(reads: &[(&str, Kind, bool)], writes: &[(&str, Kind)], remembers: bool) -> Description {
        let reads = reads.iter().map(|(name, kind, optional)| InputColumn {
            name: (*name).into(),
            kind: *kind,
            optional: *optional,
        });
        Description {
            reads: reads.collect(),
            writes: writes.iter().map(|(name, kind)| ((*name).into(), *kind)).collect(),
            remembers,
            ..Description::default()
        }
    }

    fn messages(loaded: &Loaded, descriptions: &[Option<&Description>]) -> Vec<String> {
        rules(loaded, descriptions)
            .into_iter()
            .map(|finding| format!("{}: {}", finding.mark.unwrap().line, finding.message))
            .collect()
    }

    #[test]
    fn columns_that_exist_with_their_kinds_are_silent() {
        let loaded = loaded(&["a", "b"], ", key: [extra]");
        let first = rule(&[("open", Kind::Float, false)], &[("extra", Kind::Text)], true);
        let second = rule(&[("extra", Kind::Text, false), ("none", Kind::Text, true)], &[], false);
        assert_eq!(messages(&loaded, &[Some(&first), Some(&second)]), Vec::<String>::new());
    }

    #[test]
    fn a_missing_column_and_a_wrong_kind_are_found() {
        let loaded = loaded(&["a", "b"], ", key: [exta]");
        let first = rule(&[("opn", Kind::Float, false), ("close", Kind::Text, true)], &[], false);
        let second = rule(&[], &[("volume", Kind::Integer), ("extra", Kind::Text)], false);
        assert_eq!(
            messages(&loaded, &[Some(&first), Some(&second)]),
            [
                "5: the rule `a` reads the column `opn`, which neither `decode` nor an earlier rule gives; \
                 did you mean `open`?",
                "5: the rule `a` reads the column `close` as text, but it is float",
                "6: the rule `b` writes the column `volume` as integer, but it is float",
                "3: the key's column `exta` does not exist; did you mean `extra`?",
            ]
        );
    }

    #[test]
    fn nothing_is_missing_after_a_rule_that_could_not_be_loaded() {
        let loaded = loaded(&["a", "b"], ", key: [other]");
        let second = rule(&[("other", Kind::Text, false)], &[], false);
        assert_eq!(messages(&loaded, &[None, Some(&second)]), Vec::<String>::new());
    }

    #[test]
    fn what_a_remembering_rule_reads_must_not_change_after_it() {
        let loaded = loaded(&["dedup", "fix"], "");
        let first = rule(&[("open", Kind::Float, false)], &[], true);
        let second = rule(&[], &[("open", Kind::Float)], false);
        assert_eq!(
            messages(&loaded, &[Some(&first), Some(&second)]),
            ["6: the rule `fix` writes the column `open`, which the rule `dedup` before it reads and \
              remembers; put `fix` first"]
        );
    }
}
