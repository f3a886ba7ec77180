//! The folder of the store: whether files can be made there, before any is.

use super::AppError;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::io;
use std::path::Path;

/// Whether the folder of the store is one, or can become one, in which files can be made. Makes nothing.
///
/// # Errors
/// Names the folder in which they cannot.
pub(super) fn check(store: &Path) -> Result<(), AppError> {
    check_with(store, takes_files)
}

fn check_with(store: &Path, takes_files: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), AppError> {
    // A relative path begins here.
    let folders =
        store.ancestors().skip(1).map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    let found = folders.into_iter().find_map(|folder| Some((folder, std::fs::metadata(folder).ok()?)));
    let Some((folder, metadata)) = found else { return Ok(()) };
    let path = folder.to_owned();
    if !metadata.is_dir() {
        return Err(AppError::Folder { path, source: io::ErrorKind::NotADirectory.into() });
    }
    takes_files(folder).map_err(|source| AppError::FolderClosed { path, source })
}

/// Whether this process may make files there, as far as the system knows beforehand.
fn takes_files(folder: &Path) -> io::Result<()> {
    Ok(accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_takes_no_files_is_told_of_before_the_store_is_made_and_nothing_is_made_for_that() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("new/deep/bridge.db");
        let mut asked = None;
        let refused = check_with(&store, |folder| {
            asked = Some(folder.to_owned());
            Err(io::ErrorKind::PermissionDenied.into())
        });
        assert!(matches!(refused, Err(AppError::FolderClosed { path, .. }) if path == folder.path()));
        assert_eq!(asked.as_deref(), Some(folder.path()), "the folder that others would be made in");
        check_with(&store, takes_files).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let in_a_file = folder.path().join("file/bridge.db");
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(matches!(check_with(&in_a_file, takes_files), Err(AppError::Folder { .. })));
        check_with(Path::new("bridge.db"), takes_files).unwrap();
    }
}
