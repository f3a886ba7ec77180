//! What a failure of SQLite's means for whoever asked, and for an operator.

use crate::store::{OpenError, StoreError};
use rusqlite::{Error, ErrorCode};
use std::path::Path;

/// Whether the verb itself is at fault, so that it would fail again on a healthy disk.
pub(super) fn is_of_the_verb(error: &Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::OutOfMemory
                | ErrorCode::PermissionDenied
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::NoLargeFileSupport
        )
    )
}

/// A verb's own failure, as its answer.
pub(super) fn of_verb(error: Error) -> StoreError {
    StoreError::Failed { reason: error.to_string() }
}

/// A failure of a look at the file.
pub(super) fn of_look(error: Error) -> StoreError {
    let reason = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged { reason },
        _ if is_of_the_verb(&error) => StoreError::Failed { reason },
        _ => StoreError::Blocked { reason },
    }
}

/// A failure on the way to an open store.
pub(super) fn of_opening(path: &Path, error: Error) -> OpenError {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::Foreign(path.to_owned()),
        Some(ErrorCode::DatabaseCorrupt) => OpenError::Damaged { path: path.to_owned(), reason: error.to_string() },
        _ => OpenError::Refused { reason: error.to_string() },
    }
}
