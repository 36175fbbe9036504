//! `--verify`: the bytes on this disk, all of them read.

use super::Finding;
use crate::config::Config;
use crate::control::client::Client;
use crate::control::verify::Verified;
use crate::mount::at_rest::AtRest;

/// Has the mount that serves the staging directory read all of it; without a mount the staged files
/// alone are read.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let verified = match Client::connect(&config.staging_dir) {
        Ok(client) => client.verify().map_err(|error| error.to_string()),
        Err(_) => match AtRest::open(config) {
            Ok(at_rest) => Ok(at_rest.map_or_else(Verified::default, |rest| rest.verify())),
            Err(error) => Err(error.to_string()),
        },
    };
    match verified {
        Ok(verified) => told(&verified),
        Err(error) => vec![Finding::problem("bytes", error, "see the log")],
    }
}

fn told(verified: &Verified) -> Vec<Finding> {
    let of = |count: u64, damaged: &[String], where_from, what, advice| match damaged {
        [] => Finding::good("bytes", format!("{count} {where_from} files are {what}")),
        damaged => {
            let paths = damaged.join(", ");
            let text = format!("of {count} {where_from} files these are not {what}: {paths}");
            Finding::problem("bytes", text, advice)
        }
    };
    vec![
        of(
            verified.staged_files,
            &verified.staged_damaged,
            "staged",
            "what was closed",
            "look after the disk; what is damaged is not uploaded as if nothing had happened",
        ),
        of(
            verified.cached_files,
            &verified.cached_damaged,
            "cached",
            "what the bucket has",
            "they were dropped and are fetched again; look after the disk",
        ),
    ]
}
