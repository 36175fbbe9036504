//! Connections that are opened before they are needed.

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use r2_model::{Line, LineOptions, R2Model};
use tokio::runtime::Runtime;
use voicebeatfs::config::R2Settings;
use voicebeatfs::store::r2::{R2Store, R2Timeouts};
use voicebeatfs::store::{GetRequest, Key, ObjectStore, ReadCondition};

use super::subject::settings_of;

const DELAY: Duration = Duration::from_millis(250);
const ROUND_TRIP: Duration = Duration::from_millis(500);
const READERS: u64 = 15;

async fn get(store: &R2Store, number: u64) {
    let request = GetRequest {
        key: Key::new("a.wav").unwrap(),
        range: Some(number * 1000..(number + 1) * 1000),
        condition: ReadCondition::None,
    };
    let answer = store.get(request).await.unwrap();
    let body: Vec<_> = futures::TryStreamExt::try_collect(answer.body)
        .await
        .unwrap();
    assert_eq!(body.iter().map(|bytes| bytes.len()).sum::<usize>(), 1000);
}

/// Returns how long many readers at once take a while after the first one.
async fn time_of_many(store: &R2Store) -> Duration {
    get(store, 0).await;
    let begun = Instant::now();
    try_join_all((1..=READERS).map(async |number| {
        get(store, number).await;
        Ok::<_, ()>(())
    }))
    .await
    .unwrap();
    begun.elapsed()
}

#[test]
fn the_first_parallel_reads_wait_for_no_connection() {
    let model = R2Model::start();
    model.put_generated("a.wav", 1 << 20);
    let options = LineOptions {
        delay: DELAY,
        ..LineOptions::default()
    };
    let line = Line::start(model.port(), options).unwrap();
    let settings = R2Settings {
        endpoint: format!("http://127.0.0.1:{}", line.port()),
        ..settings_of(&model, "")
    };
    let store = || R2Store::new(&settings, R2Timeouts::default());
    // Two round trips for a connection, and one for the answer.
    let runtime = Runtime::new().unwrap();
    let before = runtime.block_on(time_of_many(&store()));
    assert!(before > ROUND_TRIP * 3 - ROUND_TRIP / 4, "{before:?}");
    model.clear_requests();
    let store = store().opening_connections_in_advance(&settings);
    let after = runtime.block_on(time_of_many(&store));
    println!(
        "figures: 15 first readers at once: {before:?}, with connections in advance {after:?}"
    );
    assert!(after < ROUND_TRIP * 2, "{after:?}");
    // No request was made for it.
    assert_eq!(model.requests().len() as u64, 1 + READERS);
}
