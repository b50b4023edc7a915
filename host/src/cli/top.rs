//! `tidegate top`

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::Line;
use ratatui::widgets::{Row, Table, Widget};

use super::report::grouped;
use super::{FILES_ARE_WRONG, Global, list, print};
use crate::error::{Error, Result};
use crate::http::client::Host;
use crate::life::{PartStatus, lock, short};
use crate::metrics::{ExchangeStatus, LaneState, PipelineStatus, Rows};
use crate::pipeline_file;
use crate::shutdown::Shutdown;

/// How often pipelines are asked.
const EVERY: Duration = Duration::from_secs(1);

/// How long one may take to answer before it counts as silent.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// Columns of what is printed where there is no terminal.
const PLAIN_WIDTH: u16 = 130;

/// Reasons that are shown of a version: the most frequent.
const REASONS_MAX: usize = 4;

/// Show what running pipelines do, once a second
///
/// The pipelines with their rates and how far they are behind, their rules with the versions that decide and what these
/// reject, and their exchanges. `q` ends it, the arrow keys scroll. Where there is no terminal it prints once.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate top pipelines/ingest.yaml pipelines/validate.yaml
  tidegate top pipelines/*.yaml --once")]
pub struct Arguments {
    /// Pipeline files of running pipelines
    #[arg(required = true, value_name = "FILE")]
    pipelines: Vec<PathBuf>,
    /// Print once, after a second of looking
    #[arg(long)]
    once: bool,
}

/// What is known of a pipeline.
struct Seen {
    name: String,
    /// What it has said last, and what it does a second.
    said: Option<(Said, Rates)>,
    /// Why it says nothing.
    silent: Option<String>,
}

/// What a pipeline says.
struct Said {
    at: Instant,
    status: PipelineStatus,
    rules: Vec<PartStatus>,
}

/// Rows a second, by what became of them.
#[derive(Default, Clone, Copy)]
struct Rates {
    read: f64,
    written: f64,
    rejected: f64,
    dropped: f64,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let mut all = Vec::new();
    let mut wrong = 0;
    for path in &arguments.pipelines {
        match pipeline_file::read(path) {
            Ok(loaded) if loaded.pipeline.http.is_none() && arguments.pipelines.len() > 1 => {
                tracing::warn!("`{}` has no `http`, so nobody can ask it", path.display());
            }
            Ok(loaded) => {
                let host = Host::of(&loaded, None, None, &global.state_folder())?;
                let name = loaded.pipeline.name.clone();
                all.push((host, Arc::new(Mutex::new(Seen { name, said: None, silent: None }))));
            }
            Err(findings) => {
                list(&findings);
                wrong = FILES_ARE_WRONG;
            }
        }
    }
    if all.is_empty() {
        return Ok(FILES_ARE_WRONG);
    }
    let shutdown = Shutdown::on_signals()?;
    let seen: Vec<_> = all.iter().map(|(_, seen)| Arc::clone(seen)).collect();
    let is_once = arguments.once || !std::io::stdout().is_terminal();
    thread::scope(|scope| {
        for (host, seen) in all {
            let shutdown = &shutdown;
            scope.spawn(move || watch(&host, &seen, shutdown));
        }
        let result = if is_once { once(&seen, &shutdown) } else { draw(&seen, &shutdown) };
        shutdown.request();
        result
    })?;
    let is_silent = seen.iter().all(|seen| lock(seen).said.is_none());
    Ok(if is_once && is_silent { super::SURROUNDINGS_ARE_WRONG } else { wrong })
}

/// Asks a pipeline until the shutdown.
fn watch(host: &Host, seen: &Mutex<Seen>, shutdown: &Shutdown) {
    while !shutdown.is_requested() {
        let asked = Instant::now();
        match ask(host) {
            Ok(said) => lock(seen).note(said),
            Err(error) => {
                let mut seen = lock(seen);
                (seen.said, seen.silent) = (None, Some(error.to_string()));
            }
        }
        while asked.elapsed() < EVERY && !shutdown.is_requested() {
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn ask(host: &Host) -> Result<Said> {
    let status = host.get_within("/pipeline", ANSWER_TIME)?;
    let rules = host.get_within("/rules", ANSWER_TIME)?;
    Ok(Said { at: Instant::now(), status, rules })
}

impl Seen {
    fn note(&mut self, said: Said) {
        let rates = self.said.as_ref().map_or_else(Rates::default, |(before, _)| {
            let seconds = said.at.duration_since(before.at).as_secs_f64();
            Rates::between(before.status.rows, said.status.rows, seconds)
        });
        (self.said, self.silent) = (Some((said, rates)), None);
    }
}

impl Rates {
    /// A process that was started again counts from 0.
    fn between(before: Rows, now: Rows, seconds: f64) -> Rates {
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds.max(0.001);
        Rates {
            read: rate(before.read, now.read),
            written: rate(before.written, now.written),
            rejected: rate(before.rejected, now.rejected),
            dropped: rate(before.dropped, now.dropped),
        }
    }
}

/// Prints once, when there are rates.
fn once(all: &[Arc<Mutex<Seen>>], shutdown: &Shutdown) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < EVERY + ANSWER_TIME / 10 && !shutdown.is_requested() {
        thread::sleep(Duration::from_millis(50));
    }
    let seen: Vec<_> = all.iter().map(|seen| lock(seen)).collect();
    let seen: Vec<&Seen> = seen.iter().map(|seen| &**seen).collect();
    let area = Rect::new(0, 0, PLAIN_WIDTH, height(&seen));
    let mut buffer = Buffer::empty(area);
    render(&seen, 0, area, &mut buffer);
    let width = usize::from(PLAIN_WIDTH);
    let lines = buffer.content().chunks(width).map(|cells| {
        let line: String = cells.iter().map(|cell| cell.symbol()).collect();
        format!("{}\n", line.trim_end())
    });
    print(&lines.collect::<String>())
}

/// Draws until somebody ends it.
fn draw(all: &[Arc<Mutex<Seen>>], shutdown: &Shutdown) -> Result<()> {
    let cannot =
        |error: std::io::Error| Error::Surroundings(format!("cannot draw on this terminal: {error}"));
    let mut terminal = ratatui::try_init().map_err(cannot)?;
    let mut scroll = 0_u16;
    let result = loop {
        let seen: Vec<_> = all.iter().map(|seen| lock(seen)).collect();
        let shown: Vec<&Seen> = seen.iter().map(|seen| &**seen).collect();
        let total = height(&shown);
        let drawn = terminal.draw(|frame| {
            let area = frame.area();
            scroll = scroll.min(total.saturating_sub(area.height));
            render(&shown, scroll, area, frame.buffer_mut());
        });
        if let Err(error) = drawn {
            break Err(cannot(error));
        }
        drop(seen);
        match next_key() {
            Ok(Some(KeyCode::Char('q') | KeyCode::Esc)) => break Ok(()),
            Ok(Some(KeyCode::Down)) => scroll += 1,
            Ok(Some(KeyCode::PageDown)) => scroll += 10,
            Ok(Some(KeyCode::Up)) => scroll = scroll.saturating_sub(1),
            Ok(Some(KeyCode::PageUp)) => scroll = scroll.saturating_sub(10),
            Ok(_) if shutdown.is_requested() => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(cannot(error)),
        }
    };
    ratatui::restore();
    result
}

/// A key that was pressed within a quarter of a second. A terminal in this mode sends Ctrl-C as a key.
fn next_key() -> std::io::Result<Option<KeyCode>> {
    if !event::poll(Duration::from_millis(250))? {
        return Ok(None);
    }
    Ok(match event::read()? {
        Event::Key(key) if key.kind == KeyEventKind::Press => {
            let is_end = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            Some(if is_end { KeyCode::Esc } else { key.code })
        }
        _ => None,
    })
}

/// A part of the screen: a table.
struct Block {
    /// For each column its name, and how wide it is.
    columns: Vec<(Line<'static>, Constraint)>,
    rows: Vec<Row<'static>>,
}

impl Block {
    /// Its lines: the header, the rows, and one that stays empty.
    fn height(&self) -> u16 {
        match u16::try_from(self.rows.len()) {
            Ok(0) => 0,
            Ok(rows) => rows.saturating_add(2),
            Err(_) => u16::MAX,
        }
    }
}

fn blocks(all: &[&Seen]) -> [Block; 4] {
    let text = |name: &'static str, width| (Line::from(name), Constraint::Length(width));
    let rest = |name: &'static str| (Line::from(name), Constraint::Min(16));
    let number = |name: &'static str, width| (right(name), Constraint::Length(width));
    let numbers = |names: &[&'static str]| names.iter().map(|name| number(name, 10)).collect::<Vec<_>>();
    [
        Block {
            columns: [
                vec![text("PIPELINE", 16), rest("STATE")],
                numbers(&["READ/S", "WRITTEN/S", "REJECTED/S", "DROPPED/S", "LAG ROWS", "LAG S", "MEMORY"]),
            ]
            .concat(),
            rows: said(all).map(|(seen, said, rates)| pipeline(seen, said, rates)).collect(),
        },
        Block {
            columns: vec![text("PIPELINE", 16), rest("STATE")],
            rows: all.iter().filter(|seen| seen.said.is_none()).map(|seen| silent(seen)).collect(),
        },
        Block {
            columns: vec![
                text("RULE", 22),
                text("VERSION", 12),
                text("STATE", 10),
                number("ROWS", 12),
                number("REJECTED", 9),
                number("DROPPED", 9),
                number("FAILED", 6),
                number("NS/ROW", 6),
                rest("WHY REJECTED"),
            ],
            rows: said(all).flat_map(|(seen, said, _)| rules(seen, said)).collect(),
        },
        Block {
            columns: [
                vec![text("EXCHANGE", 22)],
                numbers(&["REQUESTS", "FAILURES", "RECEIVED", "QUIET", "ABSENT", "MISSING"]),
                numbers(&["CORRECTED", "BEHIND", "BLOCKED S"]),
            ]
            .concat(),
            rows: said(all)
                .flat_map(|(seen, said, _)| {
                    let exchanges = said.status.lanes.iter().flat_map(|lane| &lane.exchanges);
                    exchanges.map(|status| exchange(seen, status))
                })
                .collect(),
        },
    ]
}

fn said<'s>(all: &'s [&'s Seen]) -> impl Iterator<Item = (&'s Seen, &'s Said, &'s Rates)> {
    all.iter().filter_map(|seen| seen.said.as_ref().map(|(said, rates)| (*seen, said, rates)))
}

fn height(all: &[&Seen]) -> u16 {
    blocks(all).iter().map(Block::height).sum::<u16>().max(1)
}

/// Renders everything and shows `area` of it, `scroll` lines down.
fn render(all: &[&Seen], scroll: u16, area: Rect, out: &mut Buffer) {
    let blocks = blocks(all);
    let heights = blocks.each_ref().map(Block::height);
    let whole = Rect::new(0, 0, area.width, heights.iter().sum::<u16>().max(1));
    let mut buffer = Buffer::empty(whole);
    let areas = Layout::vertical(heights.map(Constraint::Length)).split(whole);
    for (block, area) in blocks.into_iter().zip(areas.iter()) {
        if block.rows.is_empty() {
            continue;
        }
        let (names, widths): (Vec<_>, Vec<_>) = block.columns.into_iter().unzip();
        let header = Row::new(names).style(Style::new().bold().fg(Color::Cyan));
        Table::new(block.rows, widths).header(header).column_spacing(1).render(*area, &mut buffer);
    }
    for line in 0..area.height.min(whole.height.saturating_sub(scroll)) {
        for column in 0..area.width {
            out[(area.x + column, area.y + line)] = buffer[(column, line + scroll)].clone();
        }
    }
}

/// A pipeline of which nothing is known but why.
fn silent(seen: &Seen) -> Row<'static> {
    let why = seen.silent.clone().unwrap_or_else(|| "not asked yet".into());
    let style = if seen.silent.is_some() { Style::new().fg(Color::Red) } else { Style::new() };
    Row::new([seen.name.clone(), why]).style(style)
}

fn pipeline(seen: &Seen, said: &Said, rates: &Rates) -> Row<'static> {
    let status = &said.status;
    let rate = |rate: f64| right(&grouped(rate.round() as u64));
    let is_well = status.lanes.iter().all(|lane| lane.state == LaneState::Ready);
    let style = if is_well { Style::new() } else { Style::new().fg(Color::Yellow) };
    Row::new([
        Line::from(seen.name.clone()),
        Line::from(lanes(status)),
        rate(rates.read),
        rate(rates.written),
        rate(rates.rejected),
        rate(rates.dropped),
        right(&status.lag_rows().map_or("-".into(), grouped)),
        right(&status.lag_rows().map_or("-".into(), |_| format!("{:.1}", status.lag_ms() as f64 / 1_000.0))),
        right(&format!("{} MiB", status.memory_bytes >> 20)),
    ])
    .style(style)
}

/// How many lanes are in which state, and why one is not ready.
fn lanes(status: &PipelineStatus) -> String {
    let states = [LaneState::Ready, LaneState::Opening, LaneState::Failing, LaneState::Ended];
    let count = |state| status.lanes.iter().filter(|lane| lane.state == state).count();
    let counted = states.into_iter().map(|state| (count(state), state)).filter(|(count, _)| *count > 0);
    let text =
        counted.map(|(count, state)| format!("{count} {}", state.name())).collect::<Vec<_>>().join(", ");
    let why =
        status.lanes.iter().filter(|lane| lane.state != LaneState::Ready).find_map(|lane| lane.why.clone());
    why.map_or(text.clone(), |why| format!("{text}: {why}"))
}

/// The versions of a pipeline's rules that are of interest now.
fn rules<'s>(seen: &'s Seen, said: &'s Said) -> impl Iterator<Item = Row<'static>> + 's {
    said.rules.iter().flat_map(move |part| {
        let is_shown = |sha256: &str| part.current == sha256 || part.previous.as_deref() == Some(sha256);
        let versions = part.versions.iter().rev().filter(move |version| is_shown(&version.record.sha256));
        let rows = versions.map(move |version| {
            let (state, style) = match (version.record.sha256 == part.current, part.probation_until_ms) {
                (true, Some(_)) => ("probation", Style::new().fg(Color::Magenta)),
                (true, None) => ("decides", Style::new()),
                (false, _) if version.record.taken_back.is_some() => {
                    ("taken back", Style::new().fg(Color::Red))
                }
                (false, _) => ("before", Style::new().fg(Color::DarkGray)),
            };
            let mut reasons: Vec<_> = version.rejected.iter().collect();
            reasons.sort_by_key(|(_, rows)| std::cmp::Reverse(**rows));
            let reasons = reasons.iter().take(REASONS_MAX);
            let reasons = reasons.map(|(reason, rows)| format!("{reason} {}", grouped(**rows)));
            Row::new([
                Line::from(format!("{}/{}", seen.name, part.name)),
                Line::from(short(&version.record.sha256).to_owned()),
                Line::from(state),
                right(&grouped(version.rows)),
                right(&grouped(version.rejected.values().sum())),
                right(&grouped(version.dropped)),
                right(&grouped(version.failed_rows)),
                right(&format!("{:.0}", version.ns_per_row)),
                Line::from(reasons.collect::<Vec<_>>().join(", ")),
            ])
            .style(style)
        });
        let candidate =
            part.candidate.iter().filter(|candidate| candidate.is_running).map(move |candidate| {
                let comparison = &candidate.comparison;
                Row::new([
                    Line::from(format!("{}/{}", seen.name, part.name)),
                    Line::from(short(&candidate.sha256).to_owned()),
                    Line::from("on trial"),
                    right(&grouped(comparison.rows)),
                    right("-"),
                    right("-"),
                    right("-"),
                    right(&format!("{:.0}", candidate.ns_per_row)),
                    Line::from(format!("{} rows otherwise", grouped(comparison.rows - comparison.same))),
                ])
                .style(Style::new().fg(Color::Magenta))
            });
        rows.chain(candidate)
    })
}

fn exchange(seen: &Seen, status: &ExchangeStatus) -> Row<'static> {
    let ExchangeStatus { run, behind, blocked_ms } = status;
    let style = match *blocked_ms > 0 || run.missing > 0 {
        true => Style::new().fg(Color::Yellow),
        false => Style::new(),
    };
    let candles = [run.received, run.quiet, run.absent, run.missing, run.corrected];
    let numbers =
        [vec![run.requests, run.failures], candles.to_vec(), vec![*behind, blocked_ms.div_ceil(1_000)]];
    let name = Line::from(format!("{}/{}", seen.name, run.exchange));
    let numbers = numbers.concat().into_iter().map(|number| right(&grouped(number)));
    Row::new(std::iter::once(name).chain(numbers)).style(style)
}

fn right(text: &str) -> Line<'static> {
    Line::from(text.to_owned()).right_aligned()
}
