//! Where the demo keeps its files.

use anyhow::Context;
use std::path::PathBuf;

/// A folder that is gone afterwards.
pub(super) struct Folder {
    pub(super) path: PathBuf,
}

impl Folder {
    pub(super) fn make() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("fcm-mqtt-bridge-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("the temporary folder {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // It is in the system's temporary folder: if it cannot be removed now, the system will.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
