//! What a component does between the host and a [`Rule`].

use crate::{Batch, Description, Outcome, Reasons, Rule, settings};

/// One instance of a rule, driven as the host drives it: [`Instance::configure`] with the settings as JSON,
/// then batches. Tests use it to try settings as a pipeline file would write them.
#[derive(Debug)]
pub struct Instance<R> {
    rule: Option<R>,
}

impl<R: Rule> Instance<R> {
    /// An instance that has no settings yet.
    pub const fn unconfigured() -> Instance<R> {
        Instance { rule: None }
    }

    /// Gives the rule its settings, a JSON object; says whether it remembers with them.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub fn configure(&mut self, settings: &str) -> Result<bool, String> {
        self.rule = None;
        let rule = R::new(settings::parse(settings)?)?;
        Ok(self.rule.insert(rule).remembers())
    }

    /// Decides a batch.
    ///
    /// # Errors
    /// When the rule has no settings yet, or cannot decide the batch.
    pub fn transform(&mut self, now: i64, input: &Batch) -> Result<Outcome, String> {
        match &mut self.rule {
            Some(rule) => rule.transform(now, input),
            None => Err("`transform` was called before `configure`".to_owned()),
        }
    }

    /// Hands over rows that the pipeline has written. Without settings there is nothing that could remember.
    pub fn remember(&mut self, output: &Batch) {
        if let Some(rule) = &mut self.rule {
            rule.remember(output);
        }
    }
}

/// What the host is told about a rule.
pub fn describe<R: Rule>() -> Description {
    Description {
        name: R::NAME.to_owned(),
        version: R::VERSION.to_owned(),
        summary: R::SUMMARY.to_owned(),
        reads: R::reads(),
        writes: R::writes(),
        reasons: R::Reason::NAMES.iter().map(|name| (*name).to_owned()).collect(),
        settings: schemars::schema_for!(R::Settings).as_value().to_string(),
    }
}
