//! Maps SQLite errors to `StoreError` and `OpenError`.

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

/// The answer of a verb that failed by itself.
pub(super) fn of_verb(error: Error) -> StoreError {
    StoreError::Failed { reason: error.to_string() }
}

/// An error of [`Inspector`](crate::store::Inspector).
pub(super) fn of_inspection(error: Error) -> StoreError {
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

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::ffi;

    fn failure(code: i32) -> Error {
        Error::SqliteFailure(ffi::Error::new(code), None)
    }

    #[test]
    fn a_look_that_fails_tells_what_is_to_be_done() {
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR, ffi::SQLITE_CANTOPEN, ffi::SQLITE_BUSY, ffi::SQLITE_READONLY]
        {
            assert!(matches!(of_inspection(failure(code)), StoreError::Blocked { .. }), "{code}");
        }
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB] {
            assert!(matches!(of_inspection(failure(code)), StoreError::Damaged { .. }), "{code}");
        }
        for error in [failure(ffi::SQLITE_ERROR), failure(ffi::SQLITE_CONSTRAINT), Error::QueryReturnedNoRows] {
            assert!(matches!(of_inspection(error), StoreError::Failed { .. }));
        }
    }

    #[test]
    fn a_store_that_does_not_open_tells_why() {
        let path = Path::new("store.db");
        let told = |code| of_opening(path, failure(code)).to_string();
        assert_eq!(told(ffi::SQLITE_NOTADB), "store.db is not a store of fcm-mqtt-bridge");
        assert!(told(ffi::SQLITE_CORRUPT).starts_with("the store store.db is damaged: "));
        assert!(told(ffi::SQLITE_FULL).starts_with("the store could not be opened: "));
    }
}
