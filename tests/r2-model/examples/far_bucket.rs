//! Serves a bucket of large objects at the end of a long line, for benchmarks.
//!
//! usage: far_bucket [--big COUNT] [--tracks COUNT] [--takes COUNT] [--delay-ms MS]
//! [--connection-mbps N] [--total-mbps N]
//!
//! The bucket holds `projects/big-N.wav` of 256 MiB, `projects/track-N.wav` of 16 MiB and
//! `projects/take-N.wav` of 64 KiB. The first line it prints is the endpoint, the bucket and the two
//! keys. For each line on its standard input it prints how many GETs there were since the last one,
//! and for how many bytes they asked.

use std::io::BufRead;
use std::time::Duration;

use bytes::Bytes;
use r2_model::{Line, LineOptions, Operation, R2Model, RequestRecord};

const BIG_BYTES: usize = 256 << 20;
const TRACK_BYTES: usize = 16 << 20;
const TAKE_BYTES: usize = 64 << 10;

fn main() {
    let (mut big, mut tracks, mut takes) = (12, 48, 0);
    let mut options = LineOptions::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
        let value = value.expect("a number after each option");
        match name.as_str() {
            "--big" => big = value,
            "--tracks" => tracks = value,
            "--takes" => takes = value,
            "--delay-ms" => options.delay = Duration::from_millis(value),
            "--connection-mbps" => options.connection_rate = value * 1_000_000,
            "--total-mbps" => options.total_rate = value * 1_000_000,
            _ => panic!("unknown option {name}"),
        }
    }
    let model = R2Model::builder().bucket("bench").start();
    // One buffer for all: what is measured is the line, not this machine's memory.
    let bytes: Bytes = r2_model::generated_bytes("bench", 0, BIG_BYTES).into();
    for number in 0..big {
        model.put(&format!("projects/big-{number}.wav"), bytes.clone());
    }
    for (name, count, length) in [("track", tracks, TRACK_BYTES), ("take", takes, TAKE_BYTES)] {
        for number in 0..count {
            let key = format!("projects/{name}-{number}.wav");
            model.put(&key, bytes.slice(..length));
        }
    }
    let line = Line::start(model.port(), options).expect("a line");
    println!(
        "http://127.0.0.1:{} {} {} {}",
        line.port(),
        model.bucket(),
        model.access_key(),
        model.secret_key()
    );
    for _ in std::io::stdin().lock().lines() {
        let gets: Vec<u64> = model
            .requests()
            .iter()
            .filter(|request| request.operation == Operation::GetObject)
            .map(asked)
            .collect();
        model.clear_requests();
        println!("{} {}", gets.len(), gets.iter().sum::<u64>());
    }
}

/// Returns for how many bytes a GET asked.
fn asked(request: &RequestRecord) -> u64 {
    let range = request.range.as_deref().and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some(last.parse::<u64>().ok()? + 1 - first.parse::<u64>().ok()?)
    });
    range.unwrap_or_default()
}
