//! Where the directories may lie.

use super::super::path::resolve;
use super::{Backend, Config, Reader};

impl Reader<'_> {
    /// Refuses directories that lie in one another: emptying the cache must never touch anything
    /// precious, and the mount must never be served from beneath itself.
    pub(super) fn check_layout(&mut self, config: &Config) {
        let output = match &config.backend {
            Backend::Local { output_dir } => Some(output_dir),
            Backend::R2(_) => config.fallback_dir.as_ref(),
        };
        let mut paths = vec![
            ("CACHE_DIR", &config.cache_dir),
            ("STAGING_DIR", &config.staging_dir),
            ("SAMPLES_DIR", &config.samples_dir),
        ];
        paths.extend(output.map(|path| ("OUTPUT_DIR", path)));
        // A wrong one has been named already.
        paths.retain(|(_, path)| !path.as_os_str().is_empty());
        // Only the first two are ours alone; samples and output are the user's own folders.
        for (index, &(ours, our_path)) in paths.iter().enumerate().take(2) {
            for &(other, other_path) in &paths[index + 1..] {
                if our_path.starts_with(other_path) || other_path.starts_with(our_path) {
                    self.conflict(&format!(
                        "{ours} ({}) and {other} ({}) must not lie in one another",
                        our_path.display(),
                        other_path.display()
                    ));
                }
            }
        }
        let Some(mountpoint) = &self.inputs.mountpoint else {
            return;
        };
        let mountpoint = resolve(mountpoint, &self.inputs.current_dir);
        for &(name, path) in &paths {
            if mountpoint.starts_with(path) && !path.starts_with(&mountpoint) {
                self.conflict(&format!(
                    "the mount point {} lies beneath {name} ({})",
                    mountpoint.display(),
                    path.display()
                ));
            }
        }
        paths.push(("CATALOG_FILE", &config.catalog_file));
        paths.extend(config.log_file.as_ref().map(|path| ("LOG_FILE", path)));
        if let Backend::R2(r2) = &config.backend {
            let file = r2.credentials_file.as_ref();
            paths.extend(file.map(|file| ("R2_CREDENTIALS_FILE", file.path())));
            let authorities = r2.authorities.as_ref();
            paths.extend(authorities.map(|file| ("R2_CA_FILE", &file.path)));
        }
        let metrics_file = config.metrics_file.as_ref();
        paths.extend(metrics_file.map(|path| ("METRICS_FILE", path)));
        for &(name, path) in &paths {
            if path.starts_with(&mountpoint) {
                self.conflict(&format!(
                    "{name} ({}) lies beneath the mount point {}: it would be looked for in the \
                     mount that it serves",
                    path.display(),
                    mountpoint.display()
                ));
            }
        }
    }
}
