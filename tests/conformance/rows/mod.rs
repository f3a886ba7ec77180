//! The table: one file per subject.

pub(crate) mod connect;
pub(crate) mod malformed;
pub(crate) mod properties;
pub(crate) mod publish;
pub(crate) mod resume;
pub(crate) mod retained;
pub(crate) mod sessions;
pub(crate) mod shared;
pub(crate) mod subscriptions;
pub(crate) mod wills;

use crate::target::Row;

pub(crate) fn all() -> Vec<Row> {
    let subjects = [
        connect::rows(),
        malformed::rows(),
        properties::rows(),
        publish::rows(),
        resume::rows(),
        retained::rows(),
        sessions::rows(),
        shared::rows(),
        subscriptions::rows(),
        wills::rows(),
    ];
    subjects.into_iter().flatten().collect()
}
