//! `voicebeatfs status --watch`: the status on the whole terminal, each second anew.

use std::collections::{HashMap, VecDeque};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Stylize};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Gauge, Paragraph, Row, Table};
use ratatui::{DefaultTerminal, Frame};

use super::Failure;
use super::queue::state_text;
use super::status::{cache, safe_to_shut_down, size_text, time_text, uploads};
use crate::control::StatusDocument;
use crate::control::client::Client;
use crate::control::queue::{Queue, QueueEntry};

/// How often the mount is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Rates are those of the last so many seconds.
const RATE_TIME: Duration = Duration::from_secs(5);
/// The most alerts that have a line.
const MOST_ALERTS: usize = 4;

/// What was seen at one moment, as far as rates are made of it.
struct Sample {
    at: Instant,
    received: u64,
    sent: u64,
    files: HashMap<String, u64>,
}

/// What is shown.
struct View {
    status: StatusDocument,
    queue: Queue,
    /// Why the mount did not answer the last time.
    silence: Option<String>,
    /// The oldest first.
    samples: VecDeque<Sample>,
}

/// Runs until q, Esc or Ctrl-C.
pub(super) fn run(connect: &dyn Fn() -> Result<Client, Failure>) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() {
        let text = "status --watch needs a terminal; programs read status --json";
        return Err(Failure::Usage(text.into()));
    }
    let (status, queue) = ask(connect)?;
    let mut view = View::new(status, queue, Instant::now());
    let failed = |error: std::io::Error| Failure::Failed(format!("the terminal: {error}"));
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let ended = watch(&mut terminal, &mut view, connect);
    ratatui::restore();
    ended.map_err(failed)
}

fn watch(
    terminal: &mut DefaultTerminal,
    view: &mut View,
    connect: &dyn Fn() -> Result<Client, Failure>,
) -> std::io::Result<()> {
    loop {
        terminal.draw(|frame| view.draw(frame))?;
        let next = Instant::now() + ASK_EVERY;
        while event::poll(next.saturating_duration_since(Instant::now()))? {
            match event::read()? {
                Event::Key(key) => {
                    let is_control_c = key.code == KeyCode::Char('c')
                        && key.modifiers.contains(KeyModifiers::CONTROL);
                    if is_control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                        return Ok(());
                    }
                }
                Event::Resize(..) => {
                    terminal.draw(|frame| view.draw(frame))?;
                }
                _ => {}
            }
        }
        view.note(ask(connect), Instant::now());
    }
}

fn ask(connect: &dyn Fn() -> Result<Client, Failure>) -> Result<(StatusDocument, Queue), Failure> {
    let failed = |error: crate::control::client::ClientError| Failure::Failed(error.to_string());
    let status = connect()?.status().map_err(failed)?;
    let queue = connect()?.queue().map_err(failed)?;
    Ok((status, queue))
}

impl View {
    fn new(status: StatusDocument, queue: Queue, now: Instant) -> View {
        let mut view = View {
            samples: VecDeque::new(),
            silence: None,
            status,
            queue,
        };
        view.sample(now);
        view
    }

    /// Takes over an answer; without one the last stays, and it is said why.
    fn note(&mut self, answer: Result<(StatusDocument, Queue), Failure>, now: Instant) {
        match answer {
            Ok((status, queue)) => {
                (self.status, self.queue, self.silence) = (status, queue, None);
                self.sample(now);
            }
            Err(Failure::Failed(text) | Failure::Usage(text)) => self.silence = Some(text),
        }
    }

    fn sample(&mut self, now: Instant) {
        let operations = &self.status.report.operations;
        let files = self.queue.entries.iter();
        self.samples.push_back(Sample {
            at: now,
            received: operations.received_bytes,
            sent: operations.sent_bytes,
            files: files
                .map(|entry| (entry.path.clone(), entry.sent_bytes))
                .collect(),
        });
        while self.samples.len() > 2 && now - self.samples[0].at > RATE_TIME {
            self.samples.pop_front();
        }
    }

    /// Returns how fast a number grows, a second. What was not seen before began at nothing.
    fn rate(&self, number: impl Fn(&Sample) -> u64) -> f64 {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return 0.0;
        };
        let seconds = (last.at - first.at).as_secs_f64();
        match seconds > 0.0 {
            true => number(last).saturating_sub(number(first)) as f64 / seconds,
            false => 0.0,
        }
    }

    fn draw(&self, frame: &mut Frame) {
        let alerts = self.alerts();
        let [head, cache, queue, below] = Layout::vertical([
            Constraint::Length(8),
            Constraint::Length(3),
            Constraint::Min(4),
            Constraint::Length(alerts.lines.len() as u16 + 2),
        ])
        .areas(frame.area());
        self.draw_head(frame, head);
        self.draw_cache(frame, cache);
        self.draw_queue(frame, queue);
        let title = Line::from(" q: quit ").right_aligned();
        let block = Block::bordered().title(" alerts ").title_bottom(title);
        frame.render_widget(Paragraph::new(alerts).block(block), below);
    }

    fn draw_head(&self, frame: &mut Frame, area: Rect) {
        let (identity, report) = (&self.status.identity, &self.status.report);
        let online = if report.online { "online" } else { "offline" };
        let title = format!(
            " {} on {}: {}, {online} ",
            identity.source,
            identity.mountpoint.display(),
            identity.backend
        );
        let line = |name: &str, value: String| Line::from(format!("{name:<17} {value}"));
        let per_second = |rate: f64| format!("{}/s", size_text(rate as u64));
        let safe = line("safe to shut down", safe_to_shut_down(&report.shutdown));
        let safe = match report.safe_to_shut_down {
            true => safe.fg(Color::Green),
            false => safe.fg(Color::Yellow),
        };
        let lines = vec![
            safe,
            line(
                "from the bucket",
                per_second(self.rate(|sample| sample.received)),
            ),
            line("to the bucket", per_second(self.rate(|sample| sample.sent))),
            line("cache", cache(&report.cache)),
            line("uploads", uploads(&report.uploads)),
            line("conflicts", report.conflicts.to_string()),
        ];
        let block = Block::bordered().title(title);
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }

    fn draw_cache(&self, frame: &mut Frame, area: Rect) {
        let cache = &self.status.report.cache;
        let ratio = match cache.max_bytes {
            0 => 0.0,
            max => (cache.bytes as f64 / max as f64).min(1.0),
        };
        let gauge = Gauge::default()
            .block(Block::bordered().title(" cache fill "))
            .ratio(ratio)
            .label(format!("{:.0} %", ratio * 100.0));
        frame.render_widget(gauge, area);
    }

    fn draw_queue(&self, frame: &mut Frame, area: Rect) {
        let rows = self.queue.entries.iter().map(|entry| self.row(entry));
        let widths = [
            Constraint::Length(8),
            Constraint::Length(9),
            Constraint::Length(5),
            Constraint::Length(11),
            Constraint::Length(8),
            Constraint::Fill(1),
        ];
        let count = self.queue.entries.len() as u64 + self.queue.left_out;
        let header = Row::new(["state", "size", "sent", "rate", "left", "path"]).bold();
        let table = Table::new(rows, widths)
            .header(header)
            .block(Block::bordered().title(format!(" queue: {count} ")));
        frame.render_widget(table, area);
    }

    fn row(&self, entry: &QueueEntry) -> Row<'static> {
        let seen = |sample: &Sample| sample.files.get(&entry.path).copied().unwrap_or(0);
        let rate = self.rate(seen);
        let percent = match entry.bytes {
            0 => String::new(),
            bytes => format!("{} %", entry.sent_bytes * 100 / bytes),
        };
        let (speed, left) = match rate >= 1.0 {
            true => {
                let seconds = entry.bytes.saturating_sub(entry.sent_bytes) as f64 / rate;
                let speed = format!("{}/s", size_text(rate as u64));
                (speed, time_text(seconds.ceil() as u64))
            }
            false => (String::new(), String::new()),
        };
        Row::new([
            state_text(entry.state).to_owned(),
            size_text(entry.bytes),
            percent,
            speed,
            left,
            entry.path.clone(),
        ])
    }

    fn alerts(&self) -> Text<'static> {
        let silence = self.silence.iter();
        let silence = silence.map(|reason| format!("the mount does not answer: {reason}"));
        let alerts = silence.chain(self.status.report.alerts.iter().cloned());
        let lines: Vec<Line> = alerts
            .take(MOST_ALERTS)
            .map(|alert| Line::from(alert).fg(Color::Red))
            .collect();
        match lines.is_empty() {
            true => Text::from("none"),
            false => Text::from(lines),
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::control::queue::{Operation, State};
    use crate::control::{
        CacheStatus, MountIdentity, Report, ShutdownReason, ShutdownStatus, UploadStatus,
    };

    fn status() -> StatusDocument {
        StatusDocument {
            identity: MountIdentity {
                version: "1".into(),
                mountpoint: "/mnt/voicebeat".into(),
                backend: "r2".into(),
                source: "voicebeat-audio".into(),
                pid: 7,
            },
            report: Report {
                online: true,
                shutdown: ShutdownStatus {
                    files: 2,
                    bytes: 130_000_000,
                    seconds_left: Some(26),
                    reason: Some(ShutdownReason::Uploading),
                },
                cache: CacheStatus {
                    bytes: 6_000_000_000,
                    max_bytes: 50_000_000_000,
                    files: 210,
                    hits: 90,
                    misses: 10,
                    hit_rate: Some(0.9),
                },
                uploads: UploadStatus {
                    queued: 2,
                    queued_bytes: 130_000_000,
                    active: 1,
                    oldest_seconds: Some(14),
                    done: 31,
                    ..UploadStatus::default()
                },
                alerts: vec!["the cache holds 6.0 GB, more than 5.0 GB".into()],
                ..Report::default()
            },
        }
    }

    fn entry(path: &str, bytes: u64, sent_bytes: u64) -> QueueEntry {
        QueueEntry {
            path: path.into(),
            operation: Operation::Upload,
            state: State::Waiting,
            bytes,
            sent_bytes,
            waiting_seconds: 14,
            protected_seconds: None,
            attempts: 0,
            reason: None,
        }
    }

    /// Returns what a terminal of that size shows.
    fn picture(view: &View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(84, 22)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let rows = buffer.content().chunks(84);
        let rows = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>());
        rows.map(|row| row.trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn the_picture_in_the_documentation_is_what_is_shown() {
        let begin = Instant::now();
        let queue = |sent| Queue {
            entries: vec![
                entry("projects/song/mix.wav", 120_000_000, sent),
                entry("segments/take.wav", 10_000_000, 0),
            ],
            left_out: 0,
        };
        let mut view = View::new(status(), queue(20_000_000), begin);
        let mut later = status();
        later.report.operations.received_bytes = 48_000_000;
        later.report.operations.sent_bytes = 20_000_000;
        view.note(
            Ok((later, queue(40_000_000))),
            begin + Duration::from_secs(4),
        );
        let shown = picture(&view);
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
        let documentation = std::fs::read_to_string(file).unwrap();
        assert!(documentation.contains(&shown), "not in the docs:\n{shown}");
    }

    #[test]
    fn a_mount_that_falls_silent_is_said_to_be() {
        let now = Instant::now();
        let mut view = View::new(status(), Queue::default(), now);
        view.note(Err(Failure::Failed("it is gone".into())), now);
        let shown = picture(&view);
        assert!(
            shown.contains("the mount does not answer: it is gone"),
            "{shown}"
        );
        assert!(shown.contains("queue: 0"), "{shown}");
    }
}
