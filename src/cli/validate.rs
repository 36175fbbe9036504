//! `voicebeatfs validate`: the settings, and that the bucket can be used with them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Failure, load_config, say};
use crate::config::{Backend, Config, R2Settings};
use crate::mount::r2_store;
use crate::store::explain::{check_reachable, check_rights, explain};
use crate::store::r2::describe_route;
use crate::store::{ObjectStore, StoreError, StoreResult};

/// How long all questions together may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs `voicebeatfs validate`.
pub fn run(env_file: Option<PathBuf>) -> Result<(), Failure> {
    let config = load_config(env_file)?;
    say("settings: in order")?;
    match &config.backend {
        Backend::R2(settings) => check_bucket(settings, &config),
        Backend::Local { output_dir } => check_folder(output_dir),
    }
}

fn check_bucket(settings: &R2Settings, config: &Config) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let R2Settings {
        bucket, endpoint, ..
    } = settings;
    let explained = |error: StoreError| Failure::Failed(explain(&error, bucket, endpoint));
    if let Some(route) = describe_route(settings) {
        say(&format!("way:      {route}"))?;
    }
    let store = r2_store(settings, config);
    let rights = runtime.block_on(async {
        let asked = async {
            check_reachable(&store).await?;
            check_rights(&store as &dyn ObjectStore).await
        };
        within_limit(asked).await
    });
    let rights = rights.map_err(explained)?;
    say(&format!("bucket:   {bucket} at {endpoint} answers"))?;
    let lacking = match (rights.read, rights.write) {
        (true, true) => return say("rights:   list, read, write"),
        (true, false) => "write: mount it with -o ro, or",
        (false, true) => "read:",
        (false, false) => "read or write:",
    };
    Err(Failure::Failed(format!(
        "no right to {lacking} give the token \"Object Read & Write\" for \"{bucket}\""
    )))
}

async fn within_limit<T>(asked: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
    let late = |_| StoreError::Unavailable {
        message: "no answer in time".into(),
        retry_after: None,
    };
    tokio::time::timeout(LIMIT, asked)
        .await
        .map_err(late)
        .flatten()
}

/// The local store makes its folder when it is mounted, so its folder may be missing; what lies
/// there must then be a folder that can be written.
fn check_folder(output_dir: &Path) -> Result<(), Failure> {
    let existing = output_dir
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let shown = output_dir.display();
    if !existing.is_dir() {
        let text = format!("OUTPUT_DIR {shown}: {} is not a folder", existing.display());
        return Err(Failure::Failed(text));
    }
    rustix::fs::access(
        existing,
        rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
    )
    .map_err(|error| {
        let text = format!("OUTPUT_DIR {shown}: {}: {error}", existing.display());
        Failure::Failed(text)
    })?;
    say(&format!("store:    local, in {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_folder_may_be_missing_but_not_a_file() {
        let folder = tempfile::tempdir().unwrap();
        check_folder(&folder.path().join("a/b")).unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = check_folder(&file.join("output")).unwrap_err();
        assert!(matches!(error, Failure::Failed(text) if text.contains("is not a folder")));
    }
}
