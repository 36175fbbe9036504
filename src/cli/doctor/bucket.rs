//! The bucket: does it answer, how fast, and may this token do what it needs and no more?

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::Finding;
use crate::config::{Backend, Config, R2Settings};
use crate::mount::r2_store;
use crate::store::explain::{check_reachable, check_rights, explain};
use crate::store::r2::{R2Store, describe_route};
use crate::store::{StoreError, StoreResult};

/// How long all questions together may take.
const LIMIT: Duration = Duration::from_secs(30);

/// How many answers are timed.
const ANSWERS: usize = 5;

/// An answer that takes longer makes folders slow.
pub(super) const SLOW: Duration = Duration::from_millis(500);

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let settings = match &config.backend {
        Backend::R2(settings) => settings,
        Backend::Local { output_dir } => {
            let text = format!("none: the folder {} stands in for it", output_dir.display());
            return vec![Finding::good("bucket", text)];
        }
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(finding) => return vec![finding],
    };
    let store = r2_store(settings, config);
    let asked = async { tokio::time::timeout(LIMIT, ask(&store, settings)).await };
    let answer = runtime.block_on(asked).unwrap_or_else(|_| {
        Err(StoreError::Unavailable {
            message: "no answer in time".into(),
            retry_after: None,
        })
    });
    let route = describe_route(settings).map(|route| Finding::good("way", route));
    let answer = answer.unwrap_or_else(|error| {
        let R2Settings {
            bucket, endpoint, ..
        } = settings;
        let advice = "work goes on with what is here, and uploads wait";
        vec![Finding::problem(
            "bucket",
            explain(&error, bucket, endpoint),
            advice,
        )]
    });
    route.into_iter().chain(answer).collect()
}

/// Returns what waits for the bucket's answers.
pub(super) fn runtime() -> Result<Runtime, Finding> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.map_err(|error| {
        let text = format!("it cannot be asked: {error}");
        Finding::problem("bucket", text, "raise the limits of this user")
    })
}

async fn ask(store: &R2Store, settings: &R2Settings) -> StoreResult<Vec<Finding>> {
    check_reachable(store).await?;
    let R2Settings {
        bucket, endpoint, ..
    } = settings;
    // An answer at all means that key, secret and clock are right.
    let mut findings = vec![Finding::good(
        "bucket",
        format!("{bucket} at {endpoint} answers: key, secret and clock are right"),
    )];
    let mut times = Vec::new();
    for _ in 0..ANSWERS {
        let begun = Instant::now();
        check_reachable(store).await?;
        times.push(begun.elapsed());
    }
    times.sort();
    findings.push(latency(times[ANSWERS / 2]));
    let rights = check_rights(store).await?;
    let advice = format!("give the token the permission Object Read & Write for {bucket}");
    findings.push(match (rights.read, rights.write) {
        (true, true) => Finding::good("rights", "list, read, write"),
        (true, false) => Finding::warning(
            "rights",
            "no right to write: only a mount with -o ro makes sense",
            advice,
        ),
        (false, _) => Finding::problem("rights", "no right to read", advice),
    });
    if store.may_list_buckets().await {
        findings.push(Finding::warning(
            "rights",
            "the token may do more than is needed: it lists the buckets of the account",
            format!("make one with Object Read & Write for {bucket} alone, and revoke this one"),
        ));
    }
    Ok(findings)
}

fn latency(median: Duration) -> Finding {
    let text = format!("an answer takes {} ms", median.as_millis());
    match median > SLOW {
        true => Finding::warning("bucket", text, "folders will be slow: look after the line"),
        false => Finding::good("bucket", text),
    }
}
