//! `tidegate dlq`

use std::collections::BTreeMap;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::report::grouped;
use super::run::deployed_here;
use super::{FILES_ARE_WRONG, Global, list, print};
use crate::dead_letter::letters::{Cut, Filter, Found, Id, Letter, Letters, Newest, Replay};
use crate::dead_letter::replay::{self, Choice, Decision, Tally, Verdict};
use crate::error::{Error, Result};
use crate::kafka::Patience;
use crate::lane::RunOptions;
use crate::pipeline_file::{self, Loaded, Span};
use crate::shutdown::Shutdown;

/// How much of a detail stands in a line of the list.
const DETAIL_CHARS: usize = 80;

/// More pairs of rule and reason than all rules of a pipeline have; what others have written is not counted apart.
const COUNTED_PAIRS: usize = 4096;

/// Look at the rejected rows of a pipeline, and replay them
///
/// The pipeline file says where they are: a topic, a table or a file. Nothing but `replay` changes anything, and
/// `replay` writes rows to Kafka only.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate dlq list validate.yaml --since 2h
  tidegate dlq show validate.yaml 0:17
  tidegate dlq replay validate.yaml --all --reason unknown_source --dry-run")]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(ListArguments),
    Show(ShowArguments),
    Replay(ReplayArguments),
}

/// List rejected rows, the newest last
///
/// A line has the id, the time, the rule, the reason, where the row is from, what became of it since, and the
/// beginning of the detail.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate dlq list validate.yaml
  tidegate dlq list validate.yaml --since 2h --rule validate --reason price_jump
  tidegate dlq list validate.yaml --count
  tidegate dlq list validate.yaml --limit 100000 --json | jq -r .payload")]
struct ListArguments {
    /// The pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    filters: Filters,
    /// At most so many, the newest
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Print each row as one JSON object a line, with its bytes
    #[arg(long)]
    json: bool,
    /// Say how many rows each rule rejected, and for which reason
    #[arg(long, conflicts_with = "limit")]
    count: bool,
}

/// Show a rejected row with its original bytes
///
/// What is no text, or has control characters, is shown in hexadecimal.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate dlq show validate.yaml 0:17
  tidegate dlq show validate.yaml 0:17 --raw | xxd")]
struct ShowArguments {
    /// The pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The row, as `list` calls it
    id: Id,
    /// Write the original bytes and nothing else
    #[arg(long)]
    raw: bool,
}

/// Send rejected rows through the rules again, as the pipeline file has them now
///
/// Rows that pass are written to the pipeline's output in Kafka, in one transaction with a note that they were
/// replayed, so that no row is there twice however often this is run. Rows that are rejected again stay where they
/// are.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate dlq replay validate.yaml 0:17 3:4
  tidegate dlq replay validate.yaml --all --reason unknown_source --dry-run
  tidegate dlq replay validate.yaml --all --since 2026-01-02T03:00:00Z --json")]
struct ReplayArguments {
    /// The pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Rows, as `list` calls them
    #[arg(value_name = "ID", conflicts_with = "all")]
    ids: Vec<Id>,
    /// All rows that fit the filters
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filters: Filters,
    /// At most so many, the first in the order of their source
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Say what would become of each row, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print rows and the summary as one JSON object a line
    #[arg(long)]
    json: bool,
    /// The time that rules see, for tests and reproductions
    #[arg(long, value_name = "RFC3339")]
    now: Option<jiff::Timestamp>,
}

#[derive(Debug, Args)]
struct Filters {
    /// Rows that were rejected for this reason, or one of these
    #[arg(long, value_name = "REASON")]
    reason: Vec<String>,
    /// Rows that this rule rejected, or one of these; `decode` and `sink` are among them
    #[arg(long, value_name = "RULE")]
    rule: Vec<String>,
    /// Rows of this topic, or of one of these; of a file, its path as in the pipeline file
    #[arg(long, value_name = "TOPIC")]
    source_topic: Vec<String>,
    /// Rows that were rejected at this time or later: `2026-01-02T03:04:05Z`, or so long ago: `2h`
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Rows that were rejected before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
}

/// A time, milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment(i64);

impl std::str::FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Moment, String> {
        if let Ok(time) = text.parse::<jiff::Timestamp>() {
            return Ok(Moment(time.as_millisecond()));
        }
        let span: Span = text.parse().map_err(|_| {
            format!("`{text}` is no time such as `2026-01-02T03:04:05Z`, and none before now such as `90s`, `2h` or `7d`")
        })?;
        let before_ms = i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX);
        Ok(Moment(crate::lane::clock_ms().saturating_sub(before_ms)))
    }
}

impl Filters {
    fn is_empty(&self) -> bool {
        self.reason.is_empty()
            && self.rule.is_empty()
            && self.source_topic.is_empty()
            && self.since.is_none()
            && self.until.is_none()
    }

    fn filter(&self, loaded: &Loaded) -> Filter {
        Filter {
            pipeline: loaded.pipeline.name.clone(),
            rules: self.rule.clone(),
            reasons: self.reason.clone(),
            source_topics: self.source_topic.clone(),
            since_ms: self.since.map(|moment| moment.0),
            until_ms: self.until.map(|moment| moment.0),
        }
    }
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let shutdown = Shutdown::on_signals()?;
    let patience = Patience { forever: false, shutdown: shutdown.clone(), lane: None };
    let file = match &arguments.action {
        Action::List(arguments) => &arguments.file,
        Action::Show(arguments) => &arguments.file,
        Action::Replay(arguments) => &arguments.file,
    };
    let Some(loaded) = read(file) else { return Ok(FILES_ARE_WRONG) };
    match &arguments.action {
        Action::List(arguments) => list_letters(global, arguments, &loaded, &patience),
        Action::Show(arguments) => show(arguments, &loaded, &patience),
        Action::Replay(arguments) => replay_letters(global, arguments, &loaded, &shutdown),
    }
    .map(|()| 0)
}

fn read(path: &Path) -> Option<Loaded> {
    pipeline_file::read(path).inspect_err(|findings| list(findings)).ok()
}

fn list_letters(
    global: &Global,
    arguments: &ListArguments,
    loaded: &Loaded,
    patience: &Patience,
) -> Result<()> {
    let letters = Letters::open(loaded, patience)?;
    let filter = arguments.filters.filter(loaded);
    let mut newest = Newest::new(arguments.limit);
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    let (mut foreign, mut others) = (0, 0);
    letters.each(filter.since_ms, &mut |found| {
        match found {
            Found::Letter(letter) if filter.takes(&letter) => {
                if !arguments.count {
                    newest.push(without_unshown(*letter, arguments.json));
                    return Ok(());
                }
                let pair = (letter.rule, letter.reason);
                if counts.len() < COUNTED_PAIRS || counts.contains_key(&pair) {
                    *counts.entry(pair).or_default() += 1;
                } else {
                    *counts.entry(("…".into(), "…".into())).or_default() += 1;
                }
            }
            Found::Letter(letter) => others += u64::from(letter.pipeline != filter.pipeline),
            Found::Replayed(of, replay) => newest.mark(of, replay),
            Found::Foreign => foreign += 1,
        }
        Ok(())
    })?;
    let older = newest.older;
    let is_empty = newest.is_empty() && counts.is_empty();
    match (arguments.count, arguments.json) {
        (_, false) if is_empty => {}
        (true, true) => print(&counts_as_json(&counts))?,
        (true, false) => print(&counts_as_text(&counts))?,
        (false, true) => print_lines(newest.into_letters())?,
        (false, false) => print(&as_table(newest.into_letters()))?,
    }
    if !global.quiet {
        let mut err = std::io::stderr().lock();
        if is_empty {
            drop(writeln!(err, "no rejected rows in {}", letters.name()));
        }
        let mut note = |count: u64, what: &str| {
            if count > 0 {
                drop(writeln!(err, "{} {what}", grouped(count)));
            }
        };
        note(older, "older ones are not shown; `--limit` shows more");
        note(others, &format!("of other pipelines in {} are not shown", letters.name()));
        note(foreign, &format!("in {} are no dead letters", letters.name()));
    }
    Ok(())
}

/// A list keeps what it shows.
fn without_unshown(letter: Letter, with_bytes: bool) -> Letter {
    if with_bytes {
        return letter;
    }
    // One more, so that it is seen to be cut.
    let detail = letter.detail.chars().take(DETAIL_CHARS + 1).collect();
    Letter { payload: Vec::new(), detail, ..letter }
}

fn print_lines(letters: impl Iterator<Item = Letter>) -> Result<()> {
    write_stdout(letters.map(|letter| {
        let mut line = Vec::new();
        letter.append_line(&mut line);
        line
    }))
}

/// Writes bytes to standard output. A reader that has gone, such as `head`, is no failure.
fn write_stdout(parts: impl Iterator<Item = Vec<u8>>) -> Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let all = || {
        for part in parts {
            out.write_all(&part)?;
        }
        out.flush()
    };
    match all() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Surroundings(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

fn as_table(letters: impl Iterator<Item = Letter>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["id", "rejected at", "rule", "reason", "from", "replayed", "detail"]);
    for letter in letters {
        let from = format!("{}/{}@{}", letter.source_topic, letter.source_partition, letter.source_offset);
        let replayed = letter.replayed.map_or("", |replay| replay.outcome.name());
        let mut detail: String = printable(&letter.detail).chars().take(DETAIL_CHARS).collect();
        if letter.detail.chars().count() > DETAIL_CHARS {
            detail.push('…');
        }
        table.add_row([
            letter.id.to_string(),
            time(letter.rejected_at_ms),
            printable(&letter.rule),
            printable(&letter.reason),
            printable(&from),
            replayed.into(),
            detail,
        ]);
    }
    lines(&table)
}

fn counts_as_text(counts: &BTreeMap<(String, String), u64>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["rule", "reason", "rows"]);
    for ((rule, reason), count) in counts {
        table.add_row([printable(rule), printable(reason), grouped(*count)]);
    }
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    lines(&table)
}

/// The lines of a table, without what it puts at their ends to make them equally long.
fn lines(table: &Table) -> String {
    table.to_string().lines().map(|line| format!("{}\n", line.trim())).collect()
}

fn counts_as_json(counts: &BTreeMap<(String, String), u64>) -> String {
    let line = |((rule, reason), count): (&(String, String), &u64)| {
        format!("{}\n", json!({ "rule": rule, "reason": reason, "count": count }))
    };
    counts.iter().map(line).collect()
}

fn show(arguments: &ShowArguments, loaded: &Loaded, patience: &Patience) -> Result<()> {
    let letter = Letters::open(loaded, patience)?.find(arguments.id)?;
    if arguments.raw {
        return write_stdout(std::iter::once(letter.payload));
    }
    print(&as_text(&letter))
}

fn as_text(letter: &Letter) -> String {
    let mut fields = vec![
        ("id", letter.id.to_string()),
        ("pipeline", letter.pipeline.clone()),
        ("rule", letter.rule.clone()),
        ("rule version", letter.rule_version.clone()),
        ("reason", letter.reason.clone()),
        ("detail", letter.detail.clone()),
        ("source topic", letter.source_topic.clone()),
        ("source partition", letter.source_partition.to_string()),
        ("source offset", letter.source_offset.to_string()),
        ("rejected at", time(letter.rejected_at_ms)),
    ];
    if let Some(Replay { at_ms, outcome }) = letter.replayed {
        fields.push(("replayed", format!("{}, {}", time(at_ms), outcome.name())));
    }
    let shown = match &letter.cut {
        None => format!("{} bytes", letter.payload.len()),
        Some(Cut { bytes, sha256 }) => {
            let sha256 = sha256.as_ref().map_or_else(String::new, |sha256| format!(", SHA-256 {sha256}"));
            format!("the first {} of {bytes} bytes{sha256}", letter.payload.len())
        }
    };
    fields.push(("payload", shown));
    let lines: String =
        fields.iter().map(|(name, value)| format!("{name:<17} {}\n", printable(value).trim_end())).collect();
    format!("{lines}\n{}", readable(&letter.payload))
}

/// Text as it is, and anything else in hexadecimal.
fn readable(payload: &[u8]) -> String {
    let is_plain = |character| matches!(character, '\n' | '\t') || !is_harmful(character);
    match std::str::from_utf8(payload) {
        Ok(text) if text.chars().all(is_plain) => format!("{}\n", text.strip_suffix('\n').unwrap_or(text)),
        _ => hex_dump(payload),
    }
}

/// As `hexdump -C` has it.
fn hex_dump(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut dump = String::with_capacity(bytes.len().div_ceil(16) * 80);
    for (line, bytes) in bytes.chunks(16).enumerate() {
        let _ = write!(dump, "{:08x} ", line * 16);
        for index in 0..16 {
            if index % 8 == 0 {
                dump.push(' ');
            }
            let _ = match bytes.get(index) {
                Some(byte) => write!(dump, "{byte:02x} "),
                None => write!(dump, "   "),
            };
        }
        dump.push_str(" |");
        dump.extend(bytes.iter().map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '.',
        }));
        dump.push_str("|\n");
    }
    dump
}

/// Control characters, and those that change the order in which a terminal shows the others.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text that changes nothing about the terminal.
fn printable(text: &str) -> String {
    let escaped = |character: char| match is_harmful(character) {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.chars().map(escaped).collect()
}

fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |time| time.to_string())
}

fn replay_letters(
    global: &Global,
    arguments: &ReplayArguments,
    loaded: &Loaded,
    shutdown: &Shutdown,
) -> Result<()> {
    let choice = match (arguments.all, arguments.filters.is_empty() && arguments.limit.is_none()) {
        (true, _) => Choice::All(arguments.filters.filter(loaded), arguments.limit),
        (false, true) if !arguments.ids.is_empty() => Choice::Ids(arguments.ids.clone()),
        (false, true) => {
            return Err(Error::Files("which rows? give their ids, as `list` shows them, or `--all`".into()));
        }
        (false, false) => {
            return Err(Error::Files(
                "filters choose among all rows: give `--all` with them, and no ids".into(),
            ));
        }
    };
    let options = RunOptions {
        guests: global.guests_folder(),
        now_ms: arguments.now.map(jiff::Timestamp::as_millisecond),
        instance: "dlq".into(),
        deployed_in: Some(deployed_here(loaded)),
        until_end: true,
        state: global.state_folder(),
        ..RunOptions::default()
    };
    let mut tell = |decision: &Decision| match decision_line(decision, arguments) {
        Some(line) => print(&line),
        None => Ok(()),
    };
    let tally = replay::run(loaded, &options, &choice, arguments.dry_run, shutdown, &mut tell)?;
    match arguments.json {
        true => print(&format!("{}\n", json!(tally))),
        false if global.quiet => Ok(()),
        false => print(&tally_text(&tally)),
    }
}

/// What is said of a row: of all in a dry run, else of those that have not come through.
fn decision_line(decision: &Decision, arguments: &ReplayArguments) -> Option<String> {
    let Decision { id, verdict } = decision;
    let is_said = match verdict {
        Verdict::Already => false,
        Verdict::Written | Verdict::Dropped(_) => arguments.dry_run,
        Verdict::Rejected(_) | Verdict::Cannot(_) => true,
    };
    if !is_said {
        return None;
    }
    let id = id.to_string();
    if arguments.json {
        let line = match verdict {
            Verdict::Written => json!({ "id": id, "outcome": "kept" }),
            Verdict::Already => json!({ "id": id, "outcome": "already_replayed" }),
            Verdict::Dropped(rule) => json!({ "id": id, "outcome": "dropped", "rule": **rule }),
            Verdict::Rejected(reject) => json!({
                "id": id, "outcome": "rejected_again", "rule": *reject.rule, "reason": *reject.reason,
                "detail": reject.detail
            }),
            Verdict::Cannot(why) => json!({ "id": id, "outcome": "cannot", "detail": why }),
        };
        return Some(format!("{line}\n"));
    }
    let what = match verdict {
        Verdict::Written => "kept".into(),
        Verdict::Already => "replayed before".into(),
        Verdict::Dropped(rule) => format!("dropped by {rule}"),
        Verdict::Rejected(reject) => {
            format!("rejected again by {}: {}: {}", reject.rule, reject.reason, reject.detail)
        }
        Verdict::Cannot(why) => format!("cannot be replayed: {why}"),
    };
    Some(format!("{id}  {}\n", printable(&what)))
}

fn tally_text(tally: &Tally) -> String {
    let left = match tally.left {
        0 => String::new(),
        left => format!(" + {} left (stopped by a signal; run it again to go on)", grouped(left)),
    };
    format!(
        "{}{} chosen = {} {} + {} dropped + {} rejected again + {} already replayed + {} cannot be replayed{left}\n",
        if tally.dry_run { "nothing was written: " } else { "" },
        grouped(tally.chosen),
        grouped(tally.written),
        if tally.dry_run { "would be written" } else { "written" },
        grouped(tally.dropped),
        grouped(tally.rejected_again),
        grouped(tally.already_replayed),
        grouped(tally.cannot),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::letters::{At, Outcome};

    fn letter() -> Letter {
        Letter {
            id: Id::Message(At { partition: 0, offset: 17 }),
            pipeline: "p".into(),
            rule: "validate".into(),
            rule_version: "abc".into(),
            reason: "price_jump".into(),
            detail: format!("red \u{1b}[31m {}", "x".repeat(100)),
            source_topic: "in".into(),
            source_partition: 3,
            source_offset: 40,
            rejected_at_ms: 1_767_323_045_006,
            payload: b"{\"a\":1}\n".to_vec(),
            cut: None,
            replayed: Some(Replay { at_ms: 0, outcome: Outcome::Written }),
        }
    }

    #[test]
    fn a_time_is_a_timestamp_or_so_long_ago() {
        let moment = |text: &str| text.parse::<Moment>();
        assert_eq!(moment("2026-01-02T03:04:05Z").unwrap(), Moment(1_767_323_045_000));
        let ago = crate::lane::clock_ms() - moment("2h").unwrap().0;
        assert!((7_200_000..7_260_000).contains(&ago), "{ago}");
        for text in ["yesterday", "", "2", "2h ago", "-2h"] {
            assert!(moment(text).unwrap_err().contains(&format!("`{text}`")), "{text}");
        }
    }

    #[test]
    fn a_row_is_one_line_whatever_it_holds() {
        let text = as_table([letter()].into_iter());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        let words: Vec<&str> = lines[1].split_whitespace().collect();
        let begin =
            ["0:17", "2026-01-02T03:04:05.006Z", "validate", "price_jump", "in/3@40", "written", "red"];
        assert_eq!(words[..7], begin);
        assert!(lines[1].contains("\\u{1b}[31m") && lines[1].ends_with("x…"), "{text}");
    }

    #[test]
    fn bytes_are_shown_as_text_or_in_hexadecimal() {
        let text = as_text(&letter());
        assert!(text.contains("payload           8 bytes\n\n{\"a\":1}\n"), "{text}");
        assert!(text.contains("replayed          1970-01-01T00:00:00Z, written\n"), "{text}");
        assert_eq!(readable("é\tb\nc".as_bytes()), "é\tb\nc\n");
        for harmful in [&b"a\x1b[31m"[..], b"\xff", "\u{9b}1m".as_bytes(), "\u{202e}".as_bytes(), b"a\r"] {
            let dump = readable(harmful);
            assert!(dump.starts_with("00000000  ") && dump.is_ascii(), "{dump}");
            assert!(!dump.trim_end().contains(char::is_control), "{dump}");
        }
        let line = "00000000  61 00 ff 62 63 64 65 66  67 68 69 6a 6b 6c 6d 6e  |a..bcdefghijklmn|\n";
        let next = "00000010  6f                                                |o|\n";
        assert_eq!(hex_dump(b"a\0\xffbcdefghijklmno"), format!("{line}{next}"));
    }

    #[test]
    fn what_was_cut_is_said() {
        let cut = Some(Cut { bytes: 100, sha256: Some("ab".into()) });
        let text = as_text(&Letter { cut, ..letter() });
        assert!(text.contains("the first 8 of 100 bytes, SHA-256 ab\n"), "{text}");
    }

    #[test]
    fn a_summary_adds_up() {
        let tally =
            Tally { chosen: 1500, written: 1000, rejected_again: 500, dry_run: true, ..Tally::default() };
        assert_eq!(
            tally_text(&tally),
            "nothing was written: 1,500 chosen = 1,000 would be written + 0 dropped + 500 rejected again + 0 already \
             replayed + 0 cannot be replayed\n"
        );
    }
}
