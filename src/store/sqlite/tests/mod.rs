//! What only this store has: a disk that is full, and plans of statements.

mod cost;
mod faults;
mod plans;
