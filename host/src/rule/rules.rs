//! The rules of a running pipeline, as versions that can be replaced.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow_schema::SchemaRef;

use super::slot::output_schema;
use super::{Component, Slot, Stage, fit, fixture};
use crate::decode::Decoder;
use crate::error::Result;
use crate::lane::{self, RunOptions};
use crate::life::{Code, Kind, Lives, Part, What};
use crate::pipeline_file::{Loaded, component_path};
use crate::wasm;

/// The rules of a running pipeline, which its lanes share.
pub type Rules = Lives<RuleKind>;

/// What is particular to rules.
pub struct RuleKind {
    loaded: Loaded,
    /// The columns before each rule, and after the last.
    schemas: Vec<SchemaRef>,
}

impl Code for Component {
    fn sha256(&self) -> &Arc<str> {
        &self.sha256
    }

    fn version(&self) -> &str {
        &self.description.version
    }
}

impl Rules {
    /// The rules that should run: those of the pipeline file, or what has been deployed since its components changed.
    ///
    /// # Errors
    /// What is wrong with a component, with the state folder, or with how rules fit the columns and each other.
    pub fn open_rules(loaded: &Loaded, options: &RunOptions) -> Result<Rules> {
        let part = |rule: &crate::pipeline_file::Rule| Part {
            name: rule.name.clone(),
            path: component_path(&loaded.folder, &options.guests, &rule.component),
            limits: rule.limits.clone(),
        };
        let parts = loaded.pipeline.rules.iter().map(part).collect();
        let kind = RuleKind { loaded: loaded.clone(), schemas: Vec::new() };
        let mut rules = Lives::open(kind, parts, loaded.pipeline.lanes, loaded, options)?;
        let decoder = Decoder::new(&loaded.pipeline.decode)?;
        let slots = lane::open_rules(loaded, &rules.running(), &decoder)?;
        rules.kind.schemas =
            std::iter::once(decoder.schema()).chain(slots.iter().map(Slot::schema)).cloned().collect();
        Ok(rules)
    }

    /// The columns after all rules.
    pub fn schema(&self) -> &SchemaRef {
        self.kind.schemas.last().expect("there are columns before the first rule")
    }

    /// What a lane runs at first, with its generation.
    pub fn stages(&self, lane: usize) -> (u64, Vec<Stage>) {
        let (generation, wanted) = self.wanted();
        let mut stages = Vec::new();
        for ((rule, wanted), input) in
            self.kind.loaded.pipeline.rules.iter().zip(wanted).zip(&self.kind.schemas)
        {
            let mut stage = Stage::new(rule, Arc::clone(&wanted.version), input);
            stage.follow(&wanted);
            stages.push(stage);
        }
        self.has_followed(lane, generation);
        (generation, stages)
    }
}

impl Kind for RuleKind {
    type Code = Component;
    const WHAT: What = What::Rule;
    const FOLDER: &'static str = "rules";

    fn load(&self, index: usize, path: &Path, file: wasm::File) -> Result<Component> {
        let rule = &self.loaded.pipeline.rules[index];
        let mut component = Component::of(path, file, &rule.limits)?;
        component.configure_for(rule)?;
        Ok(component)
    }

    fn check(
        &self,
        index: usize,
        file: &wasm::File,
        component: &Component,
        running: &[Component],
    ) -> std::result::Result<(), String> {
        self.fits(index, component, running)?;
        fixture::run_embedded(&file.bytes, component, &self.loaded.pipeline.rules[index].limits)?;
        Ok(())
    }

    fn followers(&self, _: usize, all: usize) -> Range<usize> {
        0..all
    }
}

impl RuleKind {
    /// Whether a candidate reads what is there, and writes the columns that the sink was opened with.
    fn fits(
        &self,
        index: usize,
        component: &Component,
        running: &[Component],
    ) -> std::result::Result<(), String> {
        let descriptions: Vec<_> = (running.iter().enumerate())
            .map(|(other, current)| {
                Some(if other == index { &component.description } else { &current.description })
            })
            .collect();
        let findings = fit::rules(&self.loaded, &descriptions);
        if !findings.is_empty() {
            return Err(findings
                .iter()
                .map(|finding| finding.message.as_str())
                .collect::<Vec<_>>()
                .join("; "));
        }
        let names = |schema: &SchemaRef| {
            let mut names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
            names.sort_unstable();
            names
        };
        let (has, would) =
            (names(&self.schemas[index + 1]), names(&output_schema(&self.schemas[index], component)));
        let missing = |of: &[String], other: &[String]| {
            of.iter().filter(|name| !other.contains(name)).map(|name| format!("`{name}`")).collect::<Vec<_>>()
        };
        let (gone, new) = (missing(&has, &would), missing(&would, &has));
        if gone.is_empty() && new.is_empty() {
            return Ok(());
        }
        let list = |what: &str, names: Vec<String>| {
            if names.is_empty() { String::new() } else { format!(" {what} {}", names.join(", ")) }
        };
        Err(format!(
            "the rule would write other columns than the running pipeline has:{}{}; such a version needs a restart of the \
             pipeline",
            list("without", gone),
            list("with", new)
        ))
    }
}
