//! How values of ours stand in columns.

use crate::chat::delivery::State;
use crate::chat::fan_out::FanOut;
use crate::chat::id::{Recipient, Row, Sid};
use crate::chat::transport::Transport;
use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, Type, ValueRef};

/// The time that never comes.
pub(super) const NEVER: i64 = i64::MAX;

/// A time for SQLite, which knows signed numbers only. Times beyond its range mean "never" anyway.
pub(super) fn sql_ms(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(NEVER)
}

/// A number that was written as a non-negative one.
pub(super) fn from_sql(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// The length of a body that is there, of one that is not: 0.
pub(super) fn bytes_of(length: Option<i64>) -> u64 {
    length.map_or(0, from_sql)
}

pub(super) fn sid(row: &rusqlite::Row<'_>, number: usize, tail: usize) -> rusqlite::Result<Sid> {
    let value: Row = row.get(number)?;
    Sid::from_parts(value, row.get(tail)?).ok_or(rusqlite::Error::IntegralValueOutOfRange(number, value.0))
}

pub(super) fn state(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<State> {
    let code = row.get(column)?;
    State::from_code(code).ok_or(rusqlite::Error::IntegralValueOutOfRange(column, code))
}

pub(super) fn transport(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Transport> {
    let text = row.get_ref(column)?.as_str()?;
    Transport::parse(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

pub(super) fn fan_out(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<FanOut> {
    serde_json::from_str(row.get_ref(column)?.as_str()?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

pub(super) fn fan_out_text(fan_out: &FanOut) -> rusqlite::Result<String> {
    serde_json::to_string(fan_out).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

impl ToSql for Row {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.into())
    }
}

impl FromSql for Row {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        i64::column_result(value).map(Self)
    }
}

impl ToSql for Recipient {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.into())
    }
}

impl FromSql for Recipient {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        i64::column_result(value).map(Self)
    }
}
