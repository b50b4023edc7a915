//! The summary of a run as text.

use comfy_table::{CellAlignment, Table, presets};

use crate::life::short;
use crate::summary::Summary;

/// A number with commas between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut result = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            result.push(',');
        }
        result.push(digit);
    }
    result
}

/// The summary for people.
pub fn text(summary: &Summary) -> String {
    let mut result = format!(
        "{}: {} rows in {:.2} s ({} rows a second){}\n",
        summary.pipeline,
        grouped(summary.read),
        summary.seconds,
        grouped(summary.rows_per_second() as u64),
        if summary.stopped { "; stopped by a signal, run it again to go on" } else { "" },
    );
    let mut causes: Vec<(&str, &str, &str, u64)> = Vec::new();
    causes.extend(summary.rejected_by.iter().map(|by| ("rejected", &*by.rule, &*by.reason, by.count)));
    causes.extend(summary.dropped_by.iter().map(|by| ("dropped", &*by.rule, "", by.count)));
    causes.sort_by(|a, b| (a.1, b.3).cmp(&(b.1, a.3)));
    if !causes.is_empty() {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["rule", "verdict", "reason", "rows"]);
        for (verdict, rule, reason, count) in causes {
            table.add_row([rule, verdict, reason, &grouped(count)]);
        }
        if let Some(column) = table.column_mut(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        result += &format!("{table}\n");
    }
    for rule in &summary.rules {
        let sha256 = short(&rule.sha256);
        result += &format!("rule {} ({sha256}): {:.0} ns a row\n", rule.rule, rule.ns_per_row);
    }
    for run in &summary.exchanges {
        let [requests, failures, received, quiet, absent, missing, corrected] =
            [run.requests, run.failures, run.received, run.quiet, run.absent, run.missing, run.corrected]
                .map(grouped);
        result += &format!(
            "{}: {requests} requests, {failures} failed; {received} candles received, {quiet} quiet, {absent} asked again, \
             {missing} missing, {corrected} corrected\n",
            run.exchange
        );
    }
    result
        + &format!(
            "{} read {} {} written + {} rejected + {} dropped + {} empty\n",
            grouped(summary.read),
            if summary.is_conserved() { "=" } else { "IS NOT" },
            grouped(summary.written),
            grouped(summary.rejected),
            grouped(summary.dropped),
            grouped(summary.tombstones),
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::{DroppedBy, RejectedBy};

    #[test]
    fn thousands_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn reasons_are_sorted_by_count_within_their_rule_and_every_row_is_accounted_for() {
        let by =
            |rule: &str, reason: &str, count| RejectedBy { rule: rule.into(), reason: reason.into(), count };
        let summary = Summary {
            pipeline: "demo".into(),
            read: 1500,
            written: 1000,
            rejected: 400,
            dropped: 99,
            tombstones: 1,
            rejected_by: vec![by("validate", "few", 100), by("validate", "many", 300)],
            dropped_by: vec![DroppedBy { rule: "dedup".into(), count: 99 }],
            seconds: 0.5,
            ..Summary::default()
        };
        let text = text(&summary);
        assert!(text.starts_with("demo: 1,500 rows in 0.50 s (3,000 rows a second)\n"), "{text}");
        assert!(
            text.ends_with("1,500 read = 1,000 written + 400 rejected + 99 dropped + 1 empty\n"),
            "{text}"
        );
        assert!(text.find("many").unwrap() < text.find("few").unwrap(), "{text}");
        assert!(text.find("dedup").unwrap() < text.find("validate").unwrap(), "{text}");
    }
}
