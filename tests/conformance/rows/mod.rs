//! The table: one file per subject.

mod connect;
mod malformed;
mod properties;
mod publish;
mod resume;
mod retained;
mod sessions;
mod shared;
mod subscriptions;
mod wills;

use crate::stage::Row;

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
